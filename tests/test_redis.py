"""One limit for several processes: `RedisTokenBucket` against a real redis-server."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
from each_api import connect, each_api
from limiter_contract import SLACK, LimiterContract, Make, most_in_a_window
from moved_clock import HANG, Clock, turns, until
from redis import Redis as BlockingRedis
from redis import exceptions
from redis.asyncio import Redis
from redis_server import Address, RedisServer, serving

from oca_sms_async import (
    AsyncOcaSms,
    ExpiredError,
    LimiterUnavailableError,
    Priority,
    RateLimitedError,
    RateLimiter,
    TokenBucket,
    Unlimited,
)
from oca_sms_async.redis import RedisTokenBucket, _reason
from oca_sms_async.sandbox import Sandbox


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RedisServer]:
    """A server that no test disturbs; each bucket has a name of its own."""
    with serving() as server:
        yield server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server to be disturbed."""
    with serving() as started:
        yield started


@pytest.fixture
async def watcher(shared_server: RedisServer) -> AsyncIterator[Redis]:
    """A client that looks into the shared server."""
    async with Redis.from_url(shared_server.url, decode_responses=True) as client:
        yield client


class TestTokenBucket(LimiterContract):
    """The bucket of one process keeps the contract."""

    @pytest.fixture(autouse=True)
    def make_buckets(self) -> None:
        """Give the suite its limiters."""

        @asynccontextmanager
        async def make(rate: float, capacity: float) -> AsyncIterator[RateLimiter]:
            yield TokenBucket(rate, capacity)

        self.make: Make = make


class TestRedisTokenBucket(LimiterContract):
    """The bucket of several processes keeps the same contract."""

    @pytest.fixture(autouse=True)
    def make_buckets(self, shared_server: RedisServer, request: pytest.FixtureRequest) -> None:
        """Give the suite its limiters, each on a fresh key."""
        made = 0

        @asynccontextmanager
        async def make(rate: float, capacity: float) -> AsyncIterator[RateLimiter]:
            nonlocal made
            made += 1
            bucket = RedisTokenBucket(
                shared_server.url, name=f"{request.node.name}-{made}", rate=rate, capacity=capacity
            )
            try:
                yield bucket
            finally:
                await bucket.aclose()

        self.make: Make = make


WORKER = """
import asyncio, json, sys, time
from oca_sms_async import LimiterUnavailableError, Priority
from oca_sms_async.redis import RedisTokenBucket, _reason

url, name, rate, waiters, skew = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
real = time.time
time.time = lambda: real() + skew

async def main():
    bucket = RedisTokenBucket(url, name=name, rate=rate)
    print("ready", flush=True)
    until = real() + float(await asyncio.to_thread(sys.stdin.readline))
    times, failures = [], 0

    async def work():
        nonlocal failures
        while real() < until:
            try:
                await bucket.acquire(priority=Priority.BULK)
            except LimiterUnavailableError:
                failures += 1
                if failures == 1:
                    print("failed", flush=True)
                await asyncio.sleep(0.01)
            else:
                times.append(real())

    await asyncio.gather(*(work() for _ in range(waiters)))
    await bucket.aclose()
    print(json.dumps({"times": times, "failures": failures}), flush=True)

asyncio.run(main())
"""


class Workers:
    """Real processes that acquire from one bucket, as many times as they can, for a while."""

    def __init__(self, url: str, name: str, rate: float, *, skews: tuple[float, ...] = (0.0,) * 4) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, url, name, str(rate), "8", str(skew)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for skew in skews
        ]

    async def __aenter__(self) -> Self:
        await self.have_all_said("ready")
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    async def have_all_said(self, word: str) -> None:
        """Wait until each of them has said this word."""
        for process in self._processes:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == f"{word}\n"

    def start(self, seconds: float) -> None:
        """Let them work for so many seconds."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()

    async def results(self) -> list[dict[str, Any]]:
        """Wait for their ends, and return the time of each request that got through, and the number of failures."""
        return [json.loads((await asyncio.to_thread(process.communicate))[0]) for process in self._processes]


async def test_four_processes_keep_one_limit_and_share_it_fairly(shared_server: RedisServer) -> None:
    """The bound holds over all of them, and each gets 25 % ± 10 points, for any clocks."""
    rate, shares = 100.0, list[list[float]]()
    for run in range(3):  # on a busy machine a process may not run, and take no share
        async with Workers(shared_server.url, f"fair {run}", rate, skews=(0.0, 3600.0, -3600.0, 86400.0)) as workers:
            workers.start(2.0)
            results = await workers.results()
        times = sorted(time for result in results for time in result["times"])
        assert len(times) > 100  # the limit was used, even on a busy machine
        for window in (0.1, 0.5, 1.0):
            # These are the times at which the processes went on; each of the four may be late for one reservation.
            assert most_in_a_window(times, window) <= 1.0 + 4 + rate * (window + SLACK)
        shares.append([len(result["times"]) / len(times) for result in results])
        if all(0.15 <= share <= 0.35 for share in shares[-1]):
            return
    pytest.fail(f"unfair in each of three runs: {shares}")


async def test_interactive_passes_the_bulk_of_every_process(shared_server: RedisServer) -> None:
    """Behind four processes full of bulk, an interactive acquire waits for a token of each, not for their queues."""
    rate = 50.0
    bucket = RedisTokenBucket(shared_server.url, name="passing", rate=rate)
    async with Workers(shared_server.url, "passing", rate) as workers:
        workers.start(1.5)
        own = [asyncio.create_task(bucket.acquire(priority=Priority.BULK)) for _ in range(50)]
        await asyncio.gather(*own[:5])
        served_before = sum(task.done() for task in own)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await bucket.acquire(priority=Priority.INTERACTIVE)
        waited = loop.time() - start
        assert sum(task.done() for task in own) <= served_before + 1
        assert waited <= (5 + 1) / rate + 20 * SLACK  # its own process' 45 waiting bulk ones alone would take 4.5 s
        for task in own:
            task.cancel()
        await workers.results()
    await bucket.aclose()


async def test_all_processes_go_on_after_a_server_was_killed(caplog: pytest.LogCaptureFixture) -> None:
    """While Redis is away each acquire fails; when it is back, all processes go on by themselves. The errors tell of
    the failure, so nothing is logged.
    """
    caplog.set_level(logging.INFO, "oca_sms_async")
    with serving() as server:
        async with Workers(server.url, "killed", 100.0) as workers:
            workers.start(4.0)
            bucket = RedisTokenBucket(server.url, name="killed", rate=100.0)
            for _ in range(5):
                await bucket.acquire()
            server.kill()
            # Three, for a reservation that was held already may still be used.
            answers = await asyncio.gather(*(bucket.acquire() for _ in range(3)), return_exceptions=True)
            assert isinstance(answers[-1], LimiterUnavailableError)
            await workers.have_all_said("failed")
            server.start()
            await bucket.acquire()
            await bucket.aclose()
            results = await workers.results()
    assert all(result["failures"] > 0 for result in results)
    assert [record for record in caplog.records if record.name == "oca_sms_async"] == []
    assert all(len(result["times"]) > 10 for result in results)


async def test_flushed_scripts_and_keys_do_no_harm(shared_server: RedisServer, watcher: Redis) -> None:
    """A Redis that has forgotten the script gets it again."""
    bucket = RedisTokenBucket(shared_server.url, name="flushed", rate=1000.0)
    await bucket.acquire()
    await watcher.script_flush()
    await bucket.acquire()
    await watcher.delete("oca-sms:flushed")
    await bucket.acquire()
    assert bucket.statistics().granted == 3
    await bucket.aclose()


async def test_one_key_carries_the_name_and_expires(shared_server: RedisServer, watcher: Redis) -> None:
    """One bucket is one key, which expires soon after the bucket is full again."""
    bucket = RedisTokenBucket(shared_server.url, name="acme", rate=10.0)
    await bucket.acquire()
    assert [key async for key in watcher.scan_iter("*acme*")] == ["oca-sms:acme"]
    assert 0 < await watcher.pttl("oca-sms:acme") <= 1100 + 1000 * SLACK
    bucket.pause(30.0)
    with pytest.raises(TimeoutError):
        await bucket.acquire(deadline=asyncio.get_running_loop().time() + 5.0)
    await bucket.aclose()


on_asyncios_clock = pytest.mark.asyncio(loop_factories=["asyncio"])  # uvloop's timers do not follow a moved clock


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The loop's time, in whole seconds: a reservation stays good for longer than half a second, and than any stall."""
    monkeypatch.setattr("oca_sms_async._reservations._STALE", HANG)
    return Clock(monkeypatch)


@on_asyncios_clock
async def test_a_pause_reaches_the_other_processes(shared_server: RedisServer, clock: Clock) -> None:
    """A pause holds here at once, and elsewhere after the next question of this process, even with a full bucket."""
    here, there = (RedisTokenBucket(shared_server.url, name="paused", rate=10.0, capacity=1e6) for _ in range(2))
    await there.acquire()
    here.pause(100.0)
    waiting = []
    for bucket in (here, there):
        waiting.append(asyncio.create_task(bucket.acquire()))
        await until(lambda bucket=bucket: bucket.statistics().tokens)  # type: ignore[misc] # mypy takes no default here
    await clock.move(waiting[1], at_most=50)
    assert not any(task.done() for task in waiting)
    both = asyncio.gather(*waiting)
    await clock.end(both, once=asyncio.sleep(0), at_most=51)
    await both
    assert here.statistics().paused_for == 0
    await here.aclose()
    await there.aclose()


@on_asyncios_clock
async def test_a_reservation_of_a_cancelled_waiter_goes_to_the_next(
    shared_server: RedisServer, watcher: Redis, clock: Clock
) -> None:
    """Cancelling costs Redis no token: the reservation serves the next waiter of this process."""
    bucket = RedisTokenBucket(shared_server.url, name="inherited", rate=0.01)
    await bucket.acquire()
    first, second = (asyncio.create_task(bucket.acquire()) for _ in range(2))
    await until(lambda: bucket.statistics().tokens)  # its reservation has come
    taken = await watcher.hget("oca-sms:inherited", "tat")
    first.cancel()
    await clock.end(second, once=asyncio.sleep(0), at_most=101)  # a second reservation would be for the 200th second
    await second
    assert await watcher.hget("oca-sms:inherited", "tat") == taken
    assert bucket.statistics().waiting == 0
    await bucket.aclose()


@on_asyncios_clock
async def test_an_old_reservation_is_not_used(shared_server: RedisServer, watcher: Redis, clock: Clock) -> None:
    """A reservation that was not used in its time is dropped: else two requests would start in the time of one."""
    bucket = RedisTokenBucket(shared_server.url, name="old", rate=0.01)
    await bucket.acquire()
    waiting = asyncio.create_task(bucket.acquire())
    await until(lambda: bucket.statistics().tokens)
    waiting.cancel()
    taken = await watcher.hget("oca-sms:old", "tat")
    clock.moved += 101 + HANG  # its time is past
    waiting = asyncio.create_task(bucket.acquire())
    await asyncio.sleep(0)  # it finds the old one
    await clock.end(waiting, once=until(lambda: bucket.statistics().tokens), at_most=201)
    await waiting
    assert await watcher.hget("oca-sms:old", "tat") != taken
    await bucket.aclose()


@on_asyncios_clock
async def test_a_stall_is_not_followed_by_a_burst(shared_server: RedisServer, clock: Clock) -> None:
    """A process that is late for several of its reservations uses them one after the other."""
    bucket = RedisTokenBucket(shared_server.url, name="late", rate=0.5, timeout=100.0)
    waiting = [asyncio.create_task(bucket.acquire()) for _ in range(4)]
    for _ in range(2):  # it asks
        await asyncio.sleep(0)
    clock.moved += 20  # so long a round trip takes several reservations to cover
    await waiting[0]
    await until(lambda: bucket.statistics().tokens > 1)
    clock.moved += 10
    await turns()
    assert [task.done() for task in waiting] == [True, True, False, False]
    all_of_them = asyncio.gather(*waiting)
    await clock.end(all_of_them, once=asyncio.sleep(0), at_most=10)
    await all_of_them
    await bucket.aclose()


@on_asyncios_clock
async def test_a_hopeless_deadline_takes_no_token(shared_server: RedisServer, watcher: Redis, clock: Clock) -> None:
    """A request that is refused for its deadline takes no token from the others."""
    bucket = RedisTokenBucket(shared_server.url, name="hopeless", rate=0.01)
    await bucket.acquire()
    taken = await watcher.hget("oca-sms:hopeless", "tat")
    deadline = asyncio.get_running_loop().time() + 50
    for _ in range(10):
        with pytest.raises(TimeoutError):
            await bucket.acquire(deadline=deadline)
    assert clock.seconds < 50
    assert await watcher.hget("oca-sms:hopeless", "tat") == taken
    waiting = asyncio.create_task(bucket.acquire())
    await clock.end(waiting, once=until(lambda: bucket.statistics().tokens), at_most=101)
    await waiting
    assert (bucket.statistics().granted, bucket.statistics().refused) == (2, 10)
    await bucket.aclose()


@each_api
async def test_it_paces_each_api(shared_server: RedisServer, sandbox: Sandbox, api: str) -> None:
    """A message goes out by each API, and after a 429 with the vendor's headers alone the next one waits."""
    bucket = RedisTokenBucket(shared_server.url, name=f"by {api}", rate=1000.0)
    async with connect(sandbox, api, limiter=bucket) as client:
        assert (await client.send("+6281381475159", "x")).msg_uid == sandbox.inbox[0].msg_uid
        sandbox.when().respond("rate-limited", times=1)
        with pytest.raises(RateLimitedError) as caught:
            await client.send("+6281381475159", "y")
        assert caught.value.retry_after
        assert bucket.statistics().paused_for > 0
        with pytest.raises(ExpiredError) as refused:
            await client.send("+6281381475159", "z", expires_in=0.01)
        assert (refused.value.attempts, refused.value.may_have_been_sent) == (0, False)
    await bucket.aclose()


UNREACHABLE = "redis://127.0.0.1:1/0"


async def test_a_redis_that_is_away_proves_that_nothing_was_sent() -> None:
    """Without a server, each waiter fails at once, with the cause, and a client's send is certainly unsent."""
    bucket = RedisTokenBucket(UNREACHABLE, name="away")
    errors = await asyncio.gather(*(bucket.acquire() for _ in range(20)), return_exceptions=True)
    assert {type(error) for error in errors} == {LimiterUnavailableError}
    assert all(error.__cause__ is not None for error in errors if isinstance(error, Exception))
    async with Sandbox().serve() as sandbox:
        async with AsyncOcaSms(sandbox.username, sandbox.password, base_url=sandbox.base_url, limiter=bucket) as client:
            with pytest.raises(LimiterUnavailableError) as caught:
                await client.send("+6281381475159", "x")
        assert (caught.value.may_have_been_sent, caught.value.attempts, len(sandbox.inbox)) == (False, 0, 0)
    await bucket.aclose()


async def test_a_redis_that_hangs_is_given_up_after_the_time_out() -> None:
    """A server that accepts and says nothing costs `timeout`, and no more."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    hanging = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = hanging.sockets[0].getsockname()[1]
    bucket = RedisTokenBucket(f"redis://127.0.0.1:{port}", name="hangs", timeout=0.1)
    with pytest.raises(LimiterUnavailableError):
        await bucket.acquire()
    await bucket.aclose()
    closed = RedisTokenBucket(f"redis://127.0.0.1:{port}", name="hangs", timeout=60.0)
    waiting = asyncio.create_task(closed.acquire())
    await until(lambda: closed.statistics().waiting)
    await closed.aclose()
    with pytest.raises(LimiterUnavailableError, match="closed"):
        await waiting
    hanging.close()
    await hanging.wait_closed()


async def test_a_wrong_password_is_an_unavailable_limiter() -> None:
    """A refused password is a `LimiterUnavailableError`, and stands in no error."""
    with serving(password="right-password") as server:
        bucket = RedisTokenBucket(server.url.replace("right", "wrong"), name="refused")
        with pytest.raises(LimiterUnavailableError) as caught:
            await bucket.acquire()
        assert "password" not in repr(bucket)
        assert "wrong-password" not in f"{caught.value!r} {caught.value.__cause__!r}"
        await bucket.aclose()
        welcome = RedisTokenBucket(server.url, name="refused")
        await welcome.acquire()
        await welcome.aclose()


async def test_a_fallback_serves_while_redis_is_away(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Requests pass through the fallback until Redis is back, and each outage logs its begin and its end once."""
    caplog.set_level(logging.INFO, "oca_sms_async")
    fallback = TokenBucket(1000.0)
    bucket = RedisTokenBucket(server.url, name="outage", rate=1000.0, fallback=fallback)
    for outage in (1, 2):
        await bucket.acquire()
        before = fallback.statistics().granted
        server.kill()
        for _ in range(20):
            await bucket.acquire()
        assert fallback.statistics().granted - before >= 18  # a reservation or two may have been held already
        assert [vars(record)["event"] for record in caplog.records].count("limiter.fallback") == outage
        server.start()
        granted = bucket.statistics().granted
        async with asyncio.timeout(HANG):
            while bucket.statistics().granted == granted:
                await bucket.acquire()
    await bucket.aclose()
    told = [(record.levelname, vars(record)["event"], vars(record)["limiter"]) for record in caplog.records]
    assert told == [("WARNING", "limiter.fallback", "outage"), ("INFO", "limiter.restored", "outage")] * 2


# --- a server in trouble --------------------------------------------------------------------------------------------


async def run_command(client: Any, *words: str | int) -> Any:
    """Run a command for which redis-py has no typed method."""
    return await client.execute_command(*words)


@pytest.mark.parametrize("lent", [False, True])
async def test_a_fail_over_behind_one_address_goes_unnoticed(
    shared_server: RedisServer, server: RedisServer, watcher: Redis, lent: bool
) -> None:
    """The old primary answers over the old connections as a replica, and fresh ones lead to the new primary."""
    async with Address(server) as address, Redis.from_url(server.url) as old, Redis.from_url(address.url) as client:
        bucket = RedisTokenBucket(client if lent else address.url, name=f"fail-over {lent}", rate=1000.0)
        await bucket.acquire()
        address.server = shared_server
        await run_command(old, "REPLICAOF", "127.0.0.1", shared_server.port)
        for _ in range(3):
            await bucket.acquire()
        assert await watcher.exists(f"oca-sms:fail-over {lent}")
        assert bucket.statistics().granted == 4
        await bucket.aclose()


@pytest.mark.parametrize("lent", [False, True])
async def test_a_connection_that_died_without_a_word_is_replaced(shared_server: RedisServer, lent: bool) -> None:
    """A second try over a fresh connection answers within the time-out."""
    async with Address(shared_server) as address, Redis.from_url(address.url) as client:
        bucket = RedisTokenBucket(client if lent else address.url, name=f"dead {lent}", rate=1000.0, timeout=0.4)
        await bucket.acquire()
        address.mute()
        await bucket.acquire()
        assert bucket.statistics().granted == 2
        await bucket.aclose()


async def test_a_server_in_trouble_is_named_and_comes_back(server: RedisServer) -> None:
    """The error says why Redis refuses, and names no user and no key; when the trouble is over, requests pass."""
    async with Redis.from_url(server.url) as admin:
        bucket = RedisTokenBucket(server.url, name="in trouble", rate=1000.0)
        for trouble, mended, reason in (
            (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "is a read-only replica"),
            (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "is out of memory"),
            (
                ("ACL", "SETUSER", "default", "-evalsha", "-eval"),
                ("ACL", "SETUSER", "default", "+@all"),
                "gives no permission for the limiter's script or key",
            ),
            (
                ("ACL", "SETUSER", "default", "resetkeys", "~other"),
                ("ACL", "SETUSER", "default", "allkeys"),
                "gives no permission for the limiter's script or key",
            ),
        ):
            await bucket.acquire()
            await run_command(admin, *trouble)
            with pytest.raises(LimiterUnavailableError) as caught:
                await bucket.acquire()
            assert str(caught.value) == f"the limiter's Redis {reason}"
            assert caught.value.__cause__ is not None
            await run_command(admin, *mended)
        await bucket.acquire()
        await admin.delete("oca-sms:in trouble")
        await admin.set("oca-sms:in trouble", "a string")
        with pytest.raises(LimiterUnavailableError, match="holds something else under the limiter's key"):
            await bucket.acquire()
        await bucket.aclose()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (exceptions.ReadOnlyError("You can't write against a read only replica."), "is a read-only replica"),
        (
            exceptions.ResponseError(
                "Error running script (call to f_0): @user_script:1: -READONLY You can't write against a read only"
            ),
            "is a read-only replica",
        ),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "is still loading its data"),
        (exceptions.ResponseError("MASTERDOWN Link with MASTER is down"), "is a replica that has lost its primary"),
        (exceptions.ResponseError("Error: -OOM command not allowed when used memory"), "is out of memory"),
        (exceptions.ResponseError("MISCONF Redis is configured to save"), "cannot save its data and takes no writes"),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas"), "has too few replicas to take writes"),
        (exceptions.AuthenticationError("invalid username-password pair"), "refuses the username or the password"),
        (exceptions.ResponseError("BUSY Redis is busy running a script"), "is busy with another script"),
        (exceptions.ResponseError("MOVED 1 127.0.0.1:1"), "is a cluster whose node does not hold the limiter's key"),
        (exceptions.TimeoutError("Timeout reading from socket"), "did not answer in time"),
        (exceptions.ConnectionError("Error 111 connecting to redis:1"), "cannot be reached"),
        (ConnectionResetError(104, "Connection reset by peer"), "cannot be reached"),
        (exceptions.ResponseError("ERR something new"), "answers with an error"),
    ],
    ids=str,
)
def test_each_cause_has_a_sentence(error: Exception, reason: str) -> None:
    """The sentence is ours, and holds nothing of what Redis wrote."""
    assert _reason(error) == reason


async def test_a_clock_that_jumped_blocks_only_as_long_as_it_is_wrong(
    shared_server: RedisServer, watcher: Redis
) -> None:
    """A reservation an hour away is asked for again, and soon served once Redis is right."""
    bucket = RedisTokenBucket(shared_server.url, name="jumped", rate=100.0)
    await bucket.acquire()
    hour_ahead = float(await run_command(watcher, "HGET", "oca-sms:jumped", "tat")) + 3600e6
    await watcher.hset("oca-sms:jumped", "tat", f"{hour_ahead:.3f}")
    waiting = asyncio.create_task(bucket.acquire())
    await until(lambda: bucket.statistics().tokens)
    await watcher.delete("oca-sms:jumped")
    async with asyncio.timeout(HANG):
        await waiting
    await bucket.aclose()


async def test_a_fallback_is_paused_too(shared_server: RedisServer) -> None:
    """A 429 pauses the fallback too."""
    fallback = TokenBucket()
    bucket = RedisTokenBucket(shared_server.url, name="pausing", fallback=fallback)
    bucket.pause(30.0)
    assert fallback.statistics().paused_for == pytest.approx(30.0, abs=1.0)
    await bucket.aclose()


async def test_a_pause_after_the_closing_does_nothing(shared_server: RedisServer) -> None:
    """An answer that comes after the closing may be a 429, and an error of the limiter must not hide it."""
    bucket = RedisTokenBucket(shared_server.url, name="ended")
    await bucket.aclose()
    bucket.pause(30.0)
    assert bucket.statistics().paused_for == 0.0


async def test_a_lent_client_stays_open(shared_server: RedisServer, watcher: Redis) -> None:
    """`aclose` closes only the own connections; afterwards an acquire is a RuntimeError."""
    lent = RedisTokenBucket(watcher, name="lent")
    await lent.acquire()
    await lent.aclose()
    await lent.aclose()
    assert await watcher.ping()
    with pytest.raises(RuntimeError, match="closed"):
        await lent.acquire()
    before = len(await watcher.client_list())
    own = RedisTokenBucket(shared_server.url, name="own")
    await own.acquire()
    assert len(await watcher.client_list()) > before
    await own.aclose()
    async with asyncio.timeout(HANG):
        while len(await watcher.client_list()) > before:
            await asyncio.sleep(0.001)


def test_it_is_used_in_one_loop_after_another(shared_server: RedisServer) -> None:
    """Made without a loop, it serves each loop that uses it, and keeps a pause between them."""
    bucket = RedisTokenBucket(shared_server.url, name="loops", rate=1000.0)

    async def use() -> None:
        await bucket.acquire()
        await bucket._reserver.aclose()

    async def pause() -> None:
        bucket.pause(30.0)

    async def refused() -> None:
        with pytest.raises(TimeoutError):
            await bucket.acquire(deadline=asyncio.get_running_loop().time() + 5.0)
        await bucket.aclose()

    for main in (use, use, pause, refused):
        asyncio.run(main())


FORKED = """
import asyncio, gc, os, sys
from redis.asyncio import Redis
from oca_sms_async.redis import RedisTokenBucket

url, lent = sys.argv[1], sys.argv[2] == "lent"

async def parent():
    client = Redis.from_url(url)
    bucket = RedisTokenBucket(client if lent else url, name=f"forked {lent}", rate=1000.0)

    async def in_child():
        await bucket.acquire()
        gc.collect()
        await bucket.aclose()

    await bucket.acquire()
    if not (child := os.fork()):
        try:
            asyncio.run(in_child())
            print("child", flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    for _ in range(5):
        await bucket.acquire()
    print("parent", bucket.statistics().granted, flush=True)
    await bucket.aclose()
    await client.aclose()

asyncio.run(parent())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(
    ("redis", "child", "connections"),
    [
        ("own", "child", 2),
        ("lent", "LimiterUnavailableError the lent Redis client was used before a fork: lend each process its own", 1),
    ],
)
def test_a_bucket_that_was_used_before_a_fork(
    shared_server: RedisServer, redis: str, child: str, connections: int
) -> None:
    """The child connects anew, or says why it cannot, and the parent's connection is not broken by it."""
    command = [sys.executable, "-c", FORKED, shared_server.url, redis]
    with BlockingRedis.from_url(shared_server.url) as watcher:
        before = watcher.info("stats")["total_connections_received"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert ended.stdout.splitlines() == [child, "parent 6"], ended.stderr
        assert watcher.info("stats")["total_connections_received"] == before + connections


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": ""}, "name"),
        ({"rate": 0.0}, "rate"),
        ({"capacity": 0.5}, "capacity"),
        ({"rate": "22"}, "rate"),
        ({"timeout": 0.0}, "timeout"),
        ({"timeout": None}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], named: str) -> None:
    """Each is a ValueError that names it."""
    with pytest.raises(ValueError, match=named):
        RedisTokenBucket(UNREACHABLE, **({"name": "x"} | options))


def test_without_its_extra_it_says_what_to_install() -> None:
    """Importing it without redis-py names the extra."""
    script = "import sys; sys.modules['redis'] = None\nimport oca_sms_async.redis"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert 'pip install "oca-sms-async[redis]"' in ran.stderr


async def test_statistics_and_repr(shared_server: RedisServer) -> None:
    """Both help to debug, and show no credentials."""
    bucket = RedisTokenBucket(shared_server.url, name="shown", rate=10.0, fallback=Unlimited())
    await bucket.acquire()
    assert repr(bucket) == "<RedisTokenBucket name='shown' rate=10.0 capacity=1.0 waiting=0>"
    assert bucket.statistics().granted == 1
    await bucket.aclose()

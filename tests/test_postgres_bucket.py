"""One limit for several processes: `PostgresTokenBucket` against a real PostgreSQL."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from command import wait_until
from limiter_contract import SLACK, LimiterContract, Make, most_in_a_window
from moved_clock import HANG, Clock, until
from pooler import pooling
from postgres_server import PostgresServer, count_clients, execute, serving

from oca_sms_async import AsyncOcaSms, LimiterUnavailableError, Priority, RateLimiter, TokenBucket, Unlimited
from oca_sms_async._postgres_schema import SCHEMA
from oca_sms_async.postgres import PostgresTokenBucket
from oca_sms_async.sandbox import Sandbox


@pytest.fixture(scope="module")
def shared(postgres: PostgresServer) -> Iterator[str]:
    """A database that no test disturbs; each bucket has a name of its own."""
    created = postgres.create_database("with_tables")
    yield created
    postgres.drop_database(created)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server to be disturbed, with tables in its first database."""
    with serving() as started:
        execute(started.url, SCHEMA)
        yield started


class TestPostgresTokenBucket(LimiterContract):
    """The bucket of several processes keeps the contract."""

    @pytest.fixture(autouse=True)
    def make_buckets(self, shared: str, request: pytest.FixtureRequest) -> None:
        """Give the suite its limiters, each on a fresh row."""
        made = 0

        @asynccontextmanager
        async def make(rate: float, capacity: float) -> AsyncIterator[RateLimiter]:
            nonlocal made
            made += 1
            name = f"{request.node.name}-{made}"
            bucket = PostgresTokenBucket(shared, name=name, rate=rate, capacity=capacity, timeout=HANG)
            try:
                yield bucket
            finally:
                await bucket.aclose()

        self.make: Make = make


WORKER = """
import asyncio, json, sys, time
from oca_sms_async import LimiterUnavailableError, Priority
from oca_sms_async.postgres import PostgresTokenBucket

place, name, rate, waiters, skew = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
real = time.time
time.time = lambda: real() + skew

async def main():
    bucket = PostgresTokenBucket(place, name=name, rate=rate)
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

    def __init__(self, place: str, name: str, rate: float, *, skews: tuple[float, ...] = (0.0,) * 4) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, place, name, str(rate), "8", str(skew)],
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


async def test_four_processes_keep_one_limit_and_share_it_fairly(shared: str) -> None:
    """The bound holds over all of them, and each gets 25 % ± 10 points, for any clocks."""
    rate, shares = 100.0, list[list[float]]()
    for run in range(3):  # on a busy machine a process may not run, and take no share
        async with Workers(shared, f"fair {run}", rate, skews=(0.0, 3600.0, -3600.0, 86400.0)) as workers:
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


async def test_all_processes_go_on_after_a_server_was_killed(server: PostgresServer) -> None:
    """While PostgreSQL is away each acquire fails with the cause; when it is back, all processes go on."""
    async with Workers(server.url, "killed", 100.0) as workers:
        workers.start(4.0)
        bucket = PostgresTokenBucket(server.url, name="killed", rate=100.0)
        for _ in range(5):
            await bucket.acquire()
        await asyncio.to_thread(server.kill)
        # Three, for a reservation that was held already may still be used.
        answers = await asyncio.gather(*(bucket.acquire() for _ in range(3)), return_exceptions=True)
        assert isinstance(answers[-1], LimiterUnavailableError)
        assert str(answers[-1]) == "the limiter cannot be used: PostgreSQL cannot be reached"
        await workers.have_all_said("failed")
        await asyncio.to_thread(server.start)
        await bucket.acquire()
        await bucket.aclose()
        results = await workers.results()
    assert all(result["failures"] > 0 for result in results)
    assert all(len(result["times"]) > 10 for result in results)


def row_of(place: str, name: str) -> tuple[Any, ...]:
    """Return what a bucket's row says of the future."""
    (row,) = execute(place, f"SELECT tat, paused FROM oca_sms_bucket WHERE name = '{name}'")
    return row


async def test_a_reservation_is_one_row_and_no_lock(shared: str) -> None:
    """While a waiter waits for its time, no transaction is open and no lock is held."""
    bucket = PostgresTokenBucket(shared, name="acme", rate=0.01)
    await bucket.acquire()
    waiting = asyncio.create_task(bucket.acquire())
    await until(lambda: bucket.statistics().tokens)
    busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert execute(shared, f"{busy} AND (state <> 'idle' OR backend_xid IS NOT NULL)") == [(0,)]
    assert execute(shared, "SELECT relpersistence FROM pg_class WHERE relname = 'oca_sms_bucket'") == [("u",)]
    assert len(execute(shared, "SELECT 1 FROM oca_sms_bucket WHERE name = 'acme'")) == 1
    waiting.cancel()
    await bucket.aclose()


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The loop's time, in whole seconds: a reservation stays good for longer than half a second, and than any stall."""
    monkeypatch.setattr("oca_sms_async._reservations._STALE", HANG)
    return Clock(monkeypatch)


async def test_a_pause_reaches_the_other_processes(shared: str, clock: Clock) -> None:
    """A pause holds here at once, and elsewhere after the next question of this process, even with a full bucket."""
    here, there = (PostgresTokenBucket(shared, name="paused", rate=10.0, capacity=1e6, timeout=1e6) for _ in range(2))
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


async def test_the_longest_pause_counts(shared: str) -> None:
    """A shorter one of another process does not end it, in a new bucket and in a used one; a look takes nothing."""
    bucket = PostgresTokenBucket(shared, name="two pauses", rate=10.0)
    answers = [await bucket._rows.reserve(pause, 0.0) for pause in (100.0, 1.0, 0.0)]
    assert [taken for taken, _ in answers] == [False] * 3
    assert all(99 - HANG < wait <= 100 for _, wait in answers)
    for pause, patience, taken, seconds, slack in (
        (0.0, 1000.0, True, 100.0, HANG),
        (0.0, -1.0, False, 100.1, HANG),
        (200.0, 1000.0, True, 200.0, 1e-3),
    ):
        got, wait = await bucket._rows.reserve(pause, patience)
        assert got is taken
        assert wait == pytest.approx(seconds, abs=slack)
    await bucket.aclose()


async def test_a_reservation_of_a_cancelled_waiter_goes_to_the_next(shared: str, clock: Clock) -> None:
    """Cancelling costs no token: the reservation serves the next waiter of this process."""
    bucket = PostgresTokenBucket(shared, name="inherited", rate=0.01, timeout=1e6)
    await bucket.acquire()
    first, second = (asyncio.create_task(bucket.acquire()) for _ in range(2))
    await until(lambda: bucket.statistics().tokens)  # its reservation has come
    taken = row_of(shared, "inherited")
    first.cancel()
    await clock.end(second, once=asyncio.sleep(0), at_most=101)  # a second reservation would be for the 200th second
    await second
    assert row_of(shared, "inherited") == taken
    assert bucket.statistics().waiting == 0
    await bucket.aclose()


async def test_a_hopeless_deadline_takes_no_token(shared: str) -> None:
    """A request that is refused for its deadline takes no token from the others."""
    bucket = PostgresTokenBucket(shared, name="hopeless", rate=0.01)
    await bucket.acquire()
    taken = row_of(shared, "hopeless")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await bucket.acquire(deadline=asyncio.get_running_loop().time() + 50)
    assert row_of(shared, "hopeless") == taken
    await bucket.aclose()


async def test_an_idle_bucket_fills_up_to_its_capacity(shared: str, clock: Clock) -> None:
    """Three at once after a long time of rest, and the fourth at its interval."""
    bucket = PostgresTokenBucket(shared, name="full", rate=0.01, capacity=3.0, timeout=1e6)
    for _ in range(3):
        await bucket.acquire()
    execute(shared, "UPDATE oca_sms_bucket SET tat = tat - 1e6 WHERE name = 'full'")
    clock.moved += 1e6
    for _ in range(3):
        await bucket.acquire()
    with pytest.raises(TimeoutError):
        await bucket.acquire(deadline=asyncio.get_running_loop().time() + 90.0)
    await bucket.aclose()


# --- a server in trouble --------------------------------------------------------------------------------------------


async def assert_unavailable(bucket: PostgresTokenBucket, reason: str) -> None:
    """Assert that the bucket fails for this reason, with a cause and without a secret."""
    with pytest.raises(LimiterUnavailableError) as caught:
        await bucket.acquire()
    assert reason in str(caught.value)
    assert caught.value.__cause__ is not None
    assert "marker-password" not in f"{caught.value!r} {caught.value.__cause__!r} {bucket!r}"


async def test_a_server_that_is_away_proves_that_nothing_was_sent() -> None:
    """Without a server, each waiter fails at once, with the cause, and a client's send is certainly unsent."""
    bucket = PostgresTokenBucket("host=/nowhere user=x password=marker-password", name="away", timeout=1e6)
    errors = await asyncio.gather(*(bucket.acquire() for _ in range(20)), return_exceptions=True)
    assert {str(error) for error in errors} == {"the limiter cannot be used: PostgreSQL cannot be reached"}
    await assert_unavailable(bucket, "cannot be reached")
    async with Sandbox().serve() as sandbox:
        async with AsyncOcaSms(sandbox.username, sandbox.password, base_url=sandbox.base_url, limiter=bucket) as client:
            with pytest.raises(LimiterUnavailableError) as caught:
                await client.send("+6281381475159", "x")
        assert (caught.value.may_have_been_sent, caught.value.attempts, len(sandbox.inbox)) == (False, 0, 0)
    await bucket.aclose()


async def test_without_its_tables_the_error_names_setup(postgres: PostgresServer) -> None:
    """`setup` of the bucket or of the journal makes them, however many call it."""
    place = postgres.create_database()
    bucket = PostgresTokenBucket(place, name="acme")
    await assert_unavailable(bucket, "setup()")
    await asyncio.gather(*(bucket.setup() for _ in range(4)))
    await bucket.acquire()
    execute(place, "UPDATE oca_sms_schema SET version = 99")
    with pytest.raises(LimiterUnavailableError, match="version of its tables is 99"):
        await bucket.setup()
    await bucket.aclose()
    postgres.drop_database(place)


async def test_a_server_in_trouble_is_named_and_comes_back(server: PostgresServer) -> None:
    """The error says why PostgreSQL refuses; when the trouble is over, requests pass."""
    bucket = PostgresTokenBucket(server.url, name="in trouble", rate=1000.0)
    writing = f"{server.url} options='-c default_transaction_read_only=off'"
    for trouble, mended, reason in (
        (
            "ALTER DATABASE postgres SET default_transaction_read_only = on",
            "ALTER DATABASE postgres SET default_transaction_read_only = off",
            "read-only",
        ),
        ("ALTER TABLE oca_sms_bucket RENAME tat TO old", "ALTER TABLE oca_sms_bucket RENAME old TO tat", "version"),
    ):
        await bucket.acquire()
        execute(writing, trouble)
        execute(writing, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        await assert_unavailable(bucket, reason)
        execute(writing, mended)
    await bucket.acquire()
    await bucket.aclose()


async def test_a_restart_goes_unnoticed(server: PostgresServer) -> None:
    """The old connection is dead, and the second try makes a new one."""
    bucket = PostgresTokenBucket(server.url, name="restart", rate=1000.0, timeout=HANG)
    await bucket.acquire()
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    await bucket.acquire()
    assert bucket.statistics().granted == 2
    await bucket.aclose()


async def test_a_connection_that_died_without_a_word_is_replaced(server: PostgresServer) -> None:
    """A second try over a fresh connection answers within the time-out."""
    bucket = PostgresTokenBucket(server.url, name="dead", rate=1000.0, timeout=2.0)
    await bucket.acquire()
    server.freeze()
    await bucket.acquire()
    server.thaw()
    assert bucket.statistics().granted == 2
    await bucket.aclose()


async def test_a_fallback_serves_while_the_server_is_away(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests pass through the fallback until PostgreSQL is back, and the outage logs its begin and its end once."""
    caplog.set_level(logging.INFO, "oca_sms_async")
    fallback = TokenBucket(1000.0)
    bucket = PostgresTokenBucket(server.url, name="outage", rate=1000.0, fallback=fallback)
    await bucket.acquire()
    before = fallback.statistics().granted
    await asyncio.to_thread(server.kill)
    for _ in range(20):
        await bucket.acquire()
    assert fallback.statistics().granted - before >= 18  # a reservation or two may have been held already
    await asyncio.to_thread(server.start)
    granted = bucket.statistics().granted
    async with asyncio.timeout(HANG):
        while bucket.statistics().granted == granted:
            await bucket.acquire()
    await bucket.aclose()
    told = [(record.levelname, vars(record)["event"], vars(record)["limiter"]) for record in caplog.records]
    assert told == [("WARNING", "limiter.fallback", "outage"), ("INFO", "limiter.restored", "outage")]


async def test_it_works_through_a_pooler_in_transaction_mode(
    postgres: PostgresServer, shared: str, tmp_path: Path
) -> None:
    """Each reservation may be another session's."""
    database = psycopg.conninfo.conninfo_to_dict(shared)["dbname"]
    async with pooling(postgres.folder, tmp_path, size=2, latest_first=False) as pooler:
        place = f"host={tmp_path} user=postgres dbname={database}"
        bucket = PostgresTokenBucket(place, name="pooled", rate=1000.0, timeout=HANG)
        await asyncio.gather(*(bucket.acquire() for _ in range(20)))
        await bucket.aclose()
        assert pooler.prepared == []


# --- its life -------------------------------------------------------------------------------------------------------


def test_it_is_used_in_one_loop_after_another(shared: str) -> None:
    """Made without a loop, it serves each loop that uses it, and keeps a pause between them."""
    bucket = PostgresTokenBucket(shared, name="loops", rate=1000.0, timeout=HANG)

    async def use() -> None:
        await asyncio.gather(*(bucket.acquire() for _ in range(5)))

    async def pause() -> None:
        bucket.pause(30.0)

    async def refused() -> None:
        with pytest.raises(TimeoutError):
            await bucket.acquire(deadline=asyncio.get_running_loop().time() + 5.0)
        await bucket.aclose()

    for main in (use, use, pause, refused):
        asyncio.run(main())


def test_a_closing_with_a_question_on_its_way_leaves_no_connection(shared: str) -> None:
    """Not even where the event loop ends right behind it, in whatever step the closing comes."""

    async def use(steps: int) -> None:
        bucket = PostgresTokenBucket(shared, name=f"closing {steps}", rate=0.01)
        await bucket.acquire()
        waiting = [asyncio.create_task(bucket.acquire()) for _ in range(2)]
        for _ in range(steps):
            await asyncio.sleep(0)
        await bucket.aclose()
        await asyncio.gather(*waiting, return_exceptions=True)

    for steps in range(12):
        asyncio.run(use(steps))
    wait_until(lambda: count_clients(shared) == 0)


async def test_a_closed_bucket_stays_closed(shared: str) -> None:
    """Closing leaves no connection, and an acquire afterwards is a `RuntimeError`."""
    bucket = PostgresTokenBucket(shared, name="closed", rate=0.01)
    await bucket.acquire()
    waiting = asyncio.create_task(bucket.acquire())
    await until(lambda: bucket.statistics().waiting)
    await bucket.aclose()
    await bucket.aclose()
    with pytest.raises(LimiterUnavailableError, match="closed"):
        await waiting
    with pytest.raises(RuntimeError, match="closed"):
        await bucket.acquire()
    await until(lambda: count_clients(shared) == 0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"conninfo": "marker-password"}, "conninfo"),
        ({"name": ""}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"rate": 0.0}, "rate"),
        ({"capacity": 0.5}, "capacity"),
        ({"timeout": None}, "timeout"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], named: str) -> None:
    """Each is a ValueError that names it."""
    arguments: dict[str, Any] = {"conninfo": "", "name": "x"} | options
    with pytest.raises(ValueError, match=named) as caught:
        PostgresTokenBucket(arguments.pop("conninfo"), **arguments)
    assert "marker-password" not in repr(caught.value)


async def test_statistics_and_repr(shared: str) -> None:
    """Both help to debug, and show no credentials."""
    bucket = PostgresTokenBucket(f"{shared} password=x", name="shown", rate=10.0, fallback=Unlimited())
    await bucket.acquire(priority=Priority.INTERACTIVE)
    assert repr(bucket) == "<PostgresTokenBucket name='shown' rate=10.0 capacity=1.0 waiting=0>"
    assert bucket.statistics().granted == 1
    await bucket.aclose()

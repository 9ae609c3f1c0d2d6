"""Workers of a queue as real processes: killed, ended by SIGTERM, and with a PostgreSQL that restarts under them."""

import asyncio
import contextlib
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest
from command import PATIENCE, account, environment, until
from postgres_server import PostgresServer, execute, serving
from queues import NUMBER, make_keyed, set_up

from oca_sms_async import JournalError
from oca_sms_async.queue import QueueEntry, SmsQueue
from oca_sms_async.sandbox import Sandbox

KILLS: Final = int(os.environ.get("OCA_SMS_TEST_KILLS", "8"))
SEED: Final = int(os.environ.get("OCA_SMS_TEST_SEED", "1"))
KEYS_A_KILL: Final = 25
CONCURRENCY: Final = 6
RATE: Final = 100.0

# A worker, with a pace that finds dead ones within seconds.
PROGRAM: Final = """
import asyncio, sys
from oca_sms_async import AsyncOcaSms, RetryPolicy, _queue
from oca_sms_async._queue_worker import Pace
from oca_sms_async.queue import SmsQueue

DATABASE, CONCURRENCY, RATE = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
_queue.PACE = Pace(heartbeat=0.3, recovery=0.3, silence=2, poll=0.1)

async def main():
    async with SmsQueue(DATABASE) as queue:
        limiter = queue.limiter(RATE)
        options = {"journal": queue.journal, "limiter": limiter, "retry": RetryPolicy(1), "timeout": 1.0}
        async with AsyncOcaSms.from_env(**options) as client:
            print("ready", flush=True)
            await queue.work(client, concurrency=CONCURRENCY)
        await limiter.aclose()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def worker(
    sandbox: Sandbox, database: str, *, concurrency: int = CONCURRENCY, rate: float = RATE
) -> AsyncIterator[Process]:
    """Run a worker, which is killed at the end of the block if it still lives."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        database,
        str(concurrency),
        str(rate),
        stdout=PIPE,
        env=environment(**account(sandbox)),
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == b"ready\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def kill(process: Process) -> None:
    """End a worker as a crash would."""
    process.send_signal(signal.SIGKILL)
    await process.communicate()
    assert process.returncode == -signal.SIGKILL


async def until_empty(queue: SmsQueue) -> None:
    """Wait until each message is done, also while the database is away."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(JournalError):
                if (await queue.statistics()).oldest_age is None:
                    return
            await asyncio.sleep(0.05)


async def entries(queue: SmsQueue, keys: list[str]) -> dict[str, QueueEntry]:
    """Return the entries of keys, each of which must be known."""
    found = {}
    for key in keys:
        entry = await queue.lookup(key)
        assert entry is not None
        found[key] = entry
    return found


def assert_none_is_lost_or_doubled(sandbox: Sandbox, found: dict[str, QueueEntry], *, most_unknown: int) -> None:
    """Assert that each key has its end, and that the queue and the gateway agree. A key's text is its number."""
    accepted = Counter(message.text for message in sandbox.inbox)
    assert set(accepted.values()) <= {1}
    ids = {message.text: message.msg_uid for message in sandbox.inbox}
    unknown = 0
    for key, entry in found.items():
        text = key.removeprefix("key-")
        if entry.status == "sent":
            assert entry.receipt is not None
            assert entry.receipt.msg_uid == ids.pop(text)
        else:
            assert entry.status == "unknown", entry
            ids.pop(text, None)
            unknown += 1
    assert ids == {}
    assert unknown <= most_unknown


def count_most_in_a_second(sandbox: Sandbox) -> int:
    """Return the most messages that arrived in any window of a second."""
    moments = sorted(message.created_at.timestamp() for message in sandbox.inbox)
    first = most = 0
    for last, moment in enumerate(moments):
        while moments[first] < moment - 1:
            first += 1
        most = max(most, last - first + 1)
    return most


async def test_killed_workers_lose_nothing_and_double_nothing(sandbox: Sandbox, queue_database: str) -> None:
    """Kills at random moments: each key is sent or unknown, nobody gets two, and unknown is no more than was on the
    wire. Three workers at a time keep one limit.
    """
    draw = random.Random(SEED)
    messages = make_keyed(KILLS * KEYS_A_KILL + 50)
    async with SmsQueue(queue_database) as queue, contextlib.AsyncExitStack() as stack:
        await queue.put_many(messages)
        workers = [await stack.enter_async_context(worker(sandbox, queue_database)) for _ in range(3)]
        for _ in range(KILLS):
            sandbox.latency = draw.choice([0.0, 0.005, 0.05])
            enough = len(sandbox.inbox) + draw.randrange(1, KEYS_A_KILL)
            await until(lambda enough=enough: len(sandbox.inbox) >= enough or len(sandbox.inbox) >= len(messages) - 40)  # type: ignore[misc] # of this turn
            await kill(workers.pop(draw.randrange(len(workers))))
            workers.append(await stack.enter_async_context(worker(sandbox, queue_database)))
        sandbox.latency = 0.0
        await until_empty(queue)
        found = await entries(queue, [str(message.key) for message in messages])
    assert_none_is_lost_or_doubled(sandbox, found, most_unknown=KILLS * CONCURRENCY)
    assert count_most_in_a_second(sandbox) <= RATE * 1.1 + 2  # the sandbox counts arrivals, which come with jitter


async def test_sigterm_ends_requests_and_gives_the_rest_back(sandbox: Sandbox, queue_database: str) -> None:
    """The process ends with status 0. What was on the wire is sent, and the rest waits for the next worker."""
    sandbox.latency = 0.3
    messages = make_keyed(30)
    async with SmsQueue(queue_database) as queue:
        await queue.put_many(messages)
        async with worker(sandbox, queue_database, concurrency=10, rate=20) as process:
            await until(lambda: len(sandbox.inbox) >= 3)
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.communicate(), PATIENCE)
            assert process.returncode == 0
        counted = await queue.statistics()
        assert counted.working == 0
        assert counted.waiting_bulk == 30 - len(sandbox.inbox) > 0
        sandbox.latency = 0.0
        async with worker(sandbox, queue_database):
            await until_empty(queue)
        found = await entries(queue, [str(message.key) for message in messages])
    assert_none_is_lost_or_doubled(sandbox, found, most_unknown=0)


@pytest.fixture
def restartable() -> Iterator[PostgresServer]:
    """A server of one test, which restarts."""
    with serving() as server:
        yield server


@pytest.mark.parametrize("crash", [False, True])
async def test_a_restart_of_postgresql_costs_only_time(
    sandbox: Sandbox, restartable: PostgresServer, *, crash: bool
) -> None:
    """In mid-run PostgreSQL stops or crashes, and starts again: the same workers end what they were given."""
    await set_up(restartable.url)
    messages = make_keyed(80)
    async with SmsQueue(restartable.url) as queue:
        await queue.put_many(messages)
        async with (
            worker(sandbox, restartable.url, rate=40) as one,
            worker(sandbox, restartable.url, rate=40) as two,
        ):
            at_work = "SELECT count(*) FROM procrastinate_workers"
            await until(lambda: len(sandbox.inbox) >= 20 and execute(restartable.url, at_work) == [(2,)])
            await asyncio.to_thread(restartable.kill if crash else restartable.stop)
            await asyncio.to_thread(restartable.start)
            await until_empty(queue)
            assert (one.returncode, two.returncode) == (None, None)
        found = await entries(queue, [str(message.key) for message in messages])
    assert_none_is_lost_or_doubled(sandbox, found, most_unknown=2 * CONCURRENCY)


async def test_sigterm_ends_a_worker_whose_database_is_away(sandbox: Sandbox, restartable: PostgresServer) -> None:
    """It ends by itself and with status 0. Its messages are the next worker's."""
    await set_up(restartable.url)
    messages = make_keyed(60)
    async with SmsQueue(restartable.url) as queue:
        await queue.put_many(messages)
        async with worker(sandbox, restartable.url, rate=20) as process:
            await until(lambda: len(sandbox.inbox) >= 5)
            await asyncio.to_thread(restartable.stop)
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.communicate(), PATIENCE)
            assert process.returncode == 0
        await asyncio.to_thread(restartable.start)
        async with worker(sandbox, restartable.url):
            await until_empty(queue)
        found = await entries(queue, [str(message.key) for message in messages])
    assert_none_is_lost_or_doubled(sandbox, found, most_unknown=CONCURRENCY)


async def test_a_frozen_worker_that_wakes_up_sends_nothing_twice(sandbox: Sandbox, queue_database: str) -> None:
    """Its messages went to another worker meanwhile, and it goes on working."""
    messages = make_keyed(40)
    async with SmsQueue(queue_database) as queue:
        await queue.put_many(messages)
        async with worker(sandbox, queue_database, rate=20) as frozen:
            await until(lambda: len(sandbox.inbox) >= 5)
            frozen.send_signal(signal.SIGSTOP)
            async with worker(sandbox, queue_database):
                await until_empty(queue)
            frozen.send_signal(signal.SIGCONT)
            await queue.put(NUMBER, "-1", key="key--1")
            await until_empty(queue)
            assert frozen.returncode is None
        found = await entries(queue, [*(str(message.key) for message in messages), "key--1"])
    assert_none_is_lost_or_doubled(sandbox, found, most_unknown=CONCURRENCY)

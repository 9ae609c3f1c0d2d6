"""Queues for the tests: a database with all tables, and workers in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import psycopg
import pytest
from in_memory import Gateway, client_of
from postgres_server import PostgresServer, execute

from oca_sms_async import AsyncOcaSms, Sms
from oca_sms_async.queue import QueueEntry, SmsQueue

PATIENCE: Final = 60  # seconds, after which something hangs
NUMBER: Final = "+6281234567890"
_TEMPLATE: Final = "with_queue"


def make_keyed(count: int) -> list[Sms]:
    """Return so many messages with keys; the text of each is its place in the list."""
    return [Sms(f"+62812345{number:05}", str(number), key=f"key-{number}") for number in range(count)]


async def set_up(conninfo: str) -> None:
    """Make the tables of a queue."""
    async with SmsQueue(conninfo) as queue:
        await queue.setup()


@pytest.fixture(scope="session")
def queue_template(postgres: PostgresServer) -> str:
    """The name of a database with a queue's tables."""
    execute(postgres.url, f"CREATE DATABASE {_TEMPLATE}")
    with ThreadPoolExecutor(1) as thread:  # an asynchronous test may ask for the fixture while its loop runs
        thread.submit(lambda: asyncio.run(set_up(postgres.database(_TEMPLATE)))).result()
    return _TEMPLATE


@pytest.fixture
def queue_database(postgres: PostgresServer, queue_template: str) -> Iterator[str]:
    """The connection string of a fresh database with a queue's tables."""
    created = postgres.create_database(queue_template)
    yield created
    postgres.drop_database(created)


@pytest.fixture
async def queue(queue_database: str) -> AsyncIterator[SmsQueue]:
    """A queue that is ready for use."""
    async with SmsQueue(queue_database) as opened:
        yield opened


@contextlib.asynccontextmanager
async def working(
    queue: SmsQueue, gateway: Gateway, *, concurrency: int = 8, **options: Any
) -> AsyncIterator[AsyncOcaSms]:
    """Let a worker in this process work for the length of a block."""
    async with client_of(gateway, journal=queue.journal, **options) as client:
        work = asyncio.create_task(queue.work(client, concurrency=concurrency))
        try:
            yield client
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait_for(work, PATIENCE)


async def until_done(queue: SmsQueue) -> None:
    """Wait until the queue is empty."""
    async with asyncio.timeout(PATIENCE):
        while (await queue.statistics()).oldest_age is not None:
            await asyncio.sleep(0.01)


async def until_ended(queue: SmsQueue, key: str) -> QueueEntry:
    """Wait until a key waits no longer, and return its entry."""
    async with asyncio.timeout(PATIENCE):
        while (entry := await queue.lookup(key)) is None or entry.status == "waiting":
            await asyncio.sleep(0.01)
    return entry


async def connect(conninfo: str, **options: Any) -> psycopg.AsyncConnection[Any]:
    """Return a connection as a caller of the queue has it."""
    return await psycopg.AsyncConnection.connect(conninfo, **options)

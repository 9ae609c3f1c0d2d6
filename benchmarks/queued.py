"""The queue beside Procrastinate alone and Celery: puts and messages a second, and the time from a put to its send.

The gateway answers at once within each worker, and there is no rate limit. Procrastinate alone runs a task that does
nothing, which is the limit of all that is built on it. Celery's task does nothing either; its jobs are in Redis, in
memory. PostgreSQL is on this machine with fsync on. An OTP is put into an empty queue, and into one in which bulk
messages wait while a worker sends them.

This file is not called `queue.py`: that name would hide Python's own module from all benchmarks of this folder.
"""

import asyncio
import contextlib
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import celery_beside
import psycopg
from procrastinate import App, PsycopgConnector
from table import show
from workload import running

from oca_sms_async import Sms
from oca_sms_async.queue import SmsQueue

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from in_memory import Gateway, client_of
from postgres_server import PostgresServer, execute, serving
from redis_server import serving as serving_redis

PUTS: Final = 20_000
BATCH: Final = 1000
MESSAGES: Final = 3000
WORKERS: Final = (1, 2, 4)
CONCURRENCY: Final = 32
WAITING: Final = (0, 100_000)
OTPS: Final = 100
EDGE: Final = 0.1  # of the messages, at both ends, that are not measured

_OURS: Final = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from in_memory import Gateway, client_of
from oca_sms_async.queue import SmsQueue

async def main():
    async with SmsQueue(sys.argv[1]) as queue, client_of(Gateway(), journal=queue.journal) as client:
        await queue.work(client, concurrency=int(sys.argv[3]))

asyncio.run(main())
"""
_ALONE: Final = """
import asyncio, sys
sys.path.insert(0, sys.argv[4])
from queued import make_empty_app

async def main():
    app = make_empty_app(sys.argv[1])
    async with app.open_async():
        await app.run_worker_async(concurrency=int(sys.argv[3]), delete_jobs="always")

asyncio.run(main())
"""


def make_empty_app(conninfo: str) -> App:
    """Return an App of Procrastinate's with one task that does nothing."""
    logging.disable()
    app = App(connector=PsycopgConnector(conninfo=conninfo))

    @app.task(name="empty")
    async def empty() -> None:
        """Do nothing."""

    return app


def messages(count: int) -> Iterator[Sms]:
    """Yield so many messages with keys."""
    return (Sms(f"+62812{n:08}", f"Acme: {n:06} is your code", key=f"order-{n}") for n in range(count))


async def put_ours(conninfo: str, count: int) -> float:
    """Return the seconds of putting so many messages."""
    async with SmsQueue(conninfo) as queue:
        await queue.setup()
        began = time.perf_counter()
        await queue.put_many(messages(count))
        return time.perf_counter() - began


async def put_alone(conninfo: str, count: int) -> float:
    """Return the seconds of deferring so many jobs, with a message as their arguments."""
    app = make_empty_app(conninfo)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        deferrer = app.configure_task("empty")
        began = time.perf_counter()
        for _ in range(count // BATCH):
            await deferrer.batch_defer_async(*[{} for _ in range(BATCH)])
        return time.perf_counter() - began


def measure_workers(program: str, conninfo: str, count: int) -> float:
    """Return how many jobs a second the workers end, without the first and the last ones."""
    here = Path(__file__).parent
    command = [sys.executable, "-c", program, conninfo, str(here.parent / "tests"), str(CONCURRENCY), str(here)]
    with running(command, count), psycopg.connect(conninfo, autocommit=True) as connection:

        def passed(left: float) -> tuple[float, int]:
            while True:
                row = connection.execute("SELECT count(*) FROM procrastinate_jobs").fetchone()
                if row is not None and row[0] <= left * MESSAGES:
                    return time.perf_counter(), row[0]
                time.sleep(0.05)

        (began, many), (ended, few) = passed(1 - EDGE), passed(EDGE)
    return (many - few) / (ended - began)


async def measure_otps(conninfo: str, waiting: int) -> tuple[float, float]:
    """Return the median and the 99th percentile of the milliseconds from a put to the first byte."""
    took = list[float]()
    async with SmsQueue(conninfo) as queue:
        await queue.setup()
        await queue.put_many(messages(waiting))
        gateway = Gateway()
        async with client_of(gateway, journal=queue.journal) as client:
            work = asyncio.create_task(queue.work(client, concurrency=CONCURRENCY))
            for number in range(OTPS):
                text, began = f"otp {number}", asyncio.get_running_loop().time()
                await queue.put("+6281234567890", text, key=text)
                while text not in gateway.texts[-200:]:
                    await asyncio.sleep(0.001)
                took.append(gateway.moments[gateway.texts.index(text)] - began)
                await asyncio.sleep(0.02)
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
    return statistics.median(took) * 1e3, statistics.quantiles(took, n=100, method="inclusive")[98] * 1e3


def compare(server: PostgresServer, measure: Callable[[str, str, Any], float]) -> list[float]:
    """Return a measurement of the queue and of Procrastinate alone, each over a database of its own."""
    found = []
    for program, put in ((_OURS, put_ours), (_ALONE, put_alone)):
        database = server.create_database()
        found.append(measure(program, database, put))
        server.drop_database(database)
    return found


def main() -> None:
    """Measure all, one after the other."""
    rows: list[list[object]] = []
    logging.disable()
    with serving() as server, serving_redis() as broker:
        for statement in ("ALTER SYSTEM SET fsync = on", "SELECT pg_reload_conf()"):  # the tests do without
            execute(server.url, statement)

        ours, alone = compare(server, lambda _, database, put: PUTS / asyncio.run(put(database, PUTS)))
        rows.append(["puts a second", ours, alone, ours / alone, celery_beside.put(broker.url, PUTS)])
        for count in WORKERS:

            def measure(program: str, database: str, put: Any, count: int = count) -> float:
                asyncio.run(put(database, MESSAGES))
                return measure_workers(program, database, count)

            ours, alone = compare(server, measure)
            beside = celery_beside.work(broker.url, MESSAGES, count)
            rows.append([f"messages a second, {count} workers", ours, alone, ours / alone, beside])
        for waiting in WAITING:
            median, p99 = asyncio.run(measure_otps(server.create_database(), waiting))
            rows.append([f"put to first byte, ms, median, {waiting} waiting", median, None, None, None])
            rows.append([f"put to first byte, ms, p99, {waiting} waiting", p99, None, None, None])
    columns = ["measured", "SmsQueue", "Procrastinate alone", "ratio", "Celery, Redis"]
    show(__doc__.splitlines()[0] if __doc__ else "", columns, rows)


if __name__ == "__main__":
    main()

"""Sends with a key over both journals, beside a plain send: keyed sends a second, CPU of each, and how long one takes.

CPU is this process' own, threads included. The gateway answers at once, and there is no rate limit. PostgreSQL is on
this machine with fsync on, and pgbench shows its own limit: the three statements of a keyed send, not prepared,
over one connection and over the four that a journal takes.
"""

import asyncio
import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from answering import answering
from recipes import ACCOUNT
from table import show

from oca_sms_async import AsyncOcaSms, Journal, SqliteJournal, Unlimited
from oca_sms_async.postgres import PostgresJournal

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from postgres_server import PostgresServer, execute, serving

IN_FLIGHT: Final = (1, 16, 64)
SECONDS: Final = 4.0
CONNECTIONS: Final = 4

# The shape of a keyed send's statements: look up, claim, settle.
STATEMENTS: Final = r"""
\set key random(1, 1000000000)
SELECT claim, content, status, attempts, busy_until, msg_uid, word FROM bench WHERE journal = 1 AND identity = :key;
INSERT INTO bench AS m VALUES (1, :key, '\x00', '\x00', 1, 1, clock_timestamp(), clock_timestamp())
    ON CONFLICT (journal, identity) DO UPDATE SET status = 1 WHERE m.status = 0;
UPDATE bench SET status = 2, msg_uid = int8send(:key), word = '\x00', busy_until = NULL
    WHERE journal = 1 AND identity = :key AND claim = '\x00' AND status = 1;
"""
TABLE: Final = """
CREATE TABLE bench (
    journal bigint, identity bigint, content bytea, claim bytea, status smallint, attempts integer,
    ended timestamptz, busy_until timestamptz, msg_uid bytea, word bytea, PRIMARY KEY (journal, identity)
);
CREATE INDEX ON bench (journal, msg_uid) WHERE msg_uid IS NOT NULL;
CREATE INDEX ON bench (journal, ended) WHERE status = 1;
"""


@contextlib.asynccontextmanager
async def open_sqlite(folder: Path) -> AsyncIterator[Journal]:
    """A journal in a file."""
    async with SqliteJournal(folder / f"journal-{time.monotonic_ns()}") as journal:
        yield journal


@contextlib.asynccontextmanager
async def open_postgres(server: PostgresServer) -> AsyncIterator[Journal]:
    """A journal in a database of its own."""
    async with PostgresJournal(server.create_database(), name="bench") as journal:
        await journal.setup()
        yield journal


@contextlib.asynccontextmanager
async def open_nothing() -> AsyncIterator[None]:
    """No journal: the sends have no key."""
    yield None


async def measure(base_url: str, journal: Journal | None, in_flight: int) -> tuple[float, float, float, float]:
    """Return sends a second, CPU of each in µs, and the median and the 99th percentile of their lengths in ms."""
    took: list[float] = []
    async with AsyncOcaSms(*ACCOUNT, base_url=base_url, limiter=Unlimited(), journal=journal) as client:
        numbers = iter(range(10**9))

        async def work(until: float) -> None:
            while (began := time.perf_counter()) < until:
                key = None if journal is None else f"order-{next(numbers)}"
                await client.send("+6281234567890", "Acme: 482913 is your code", key=key)
                took.append(time.perf_counter() - began)

        for length in (SECONDS / 10, SECONDS):  # the first warms up
            took.clear()
            began, cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*(work(began + length) for _ in range(in_flight)))
            passed, cpu = time.perf_counter() - began, time.process_time() - cpu
    count = len(took)
    p99 = statistics.quantiles(took, n=100, method="inclusive")[98]
    return count / passed, cpu / count * 1e6, statistics.median(took) * 1e3, p99 * 1e3


def run_pgbench(server: PostgresServer, folder: Path) -> dict[int, float] | None:
    """Return transactions of three statements a second, by connections; `None` without pgbench."""
    if not (server.binaries / "pgbench").exists():
        return None
    script, found = folder / "keyed.sql", {}
    script.write_text(STATEMENTS, encoding="utf-8")
    host = str(server.folder)
    options = ["-h", host, "-U", "postgres"]
    subprocess.run(
        [server.binaries / "psql", *options, "-q", "-c", TABLE, "postgres"], check=True, stdout=subprocess.DEVNULL
    )
    for connections in (1, CONNECTIONS):
        command = [str(server.binaries / "pgbench"), *options, "-n", "-M", "extended", "-f", str(script)]
        command += ["-c", str(connections), "-j", "1", "-T", str(round(SECONDS)), "postgres"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[connections] = float(re.findall(r"tps = ([\d.]+)", text)[0])
    return found


async def main() -> None:
    """Measure all, one after the other."""
    rows: list[list[object]] = []
    with answering() as port, serving() as server, tempfile.TemporaryDirectory() as made:
        url, folder = f"http://127.0.0.1:{port}/api/v1", Path(made)
        for statement in ("ALTER SYSTEM SET fsync = on", "SELECT pg_reload_conf()"):  # the tests do without
            execute(server.url, statement)
        limits = run_pgbench(server, folder)
        for name, opening in (
            ("no key", open_nothing),
            ("SqliteJournal", lambda: open_sqlite(folder)),
            ("PostgresJournal", lambda: open_postgres(server)),
        ):
            for in_flight in IN_FLIGHT:
                async with opening() as journal:
                    rows.append([name, in_flight, *await measure(url, journal, in_flight)])
        for connections, tps in (limits or {}).items():
            rows.append(["pgbench, three statements", connections, tps, None, 1e3 * connections / tps, None])
    columns = ["journal", "in flight", "a second", "CPU of each, µs", "p50, ms", "p99, ms"]
    show(__doc__.splitlines()[0] if __doc__ else "", columns, rows)


if __name__ == "__main__":
    asyncio.run(main())

"""The tables of a queue in PostgreSQL: Procrastinate's, the journal's with the limit's, and the messages that wait."""

import re
from typing import Any, Final

from procrastinate import sql
from procrastinate.schema import SchemaManager
from psycopg import AsyncConnection

from oca_sms_async._postgres_schema import check_version as check_journal_version
from oca_sms_async._postgres_schema import set_up as set_up_journal
from oca_sms_async._postgres_troubles import PlainError

VERSION: Final = 1

# Number and text stand here and not in the arguments of a job, because Procrastinate writes those to its log. The row
# goes with its job.
SCHEMA: Final = """
CREATE TABLE oca_sms_queue_schema (version integer PRIMARY KEY);
CREATE TABLE oca_sms_queued (
    journal bigint NOT NULL,
    identity bytea NOT NULL,
    content bytea NOT NULL,
    call bytea NOT NULL,
    job bigint NOT NULL UNIQUE REFERENCES procrastinate_jobs (id) ON DELETE CASCADE,
    priority smallint NOT NULL,
    since timestamptz NOT NULL,
    expires_at timestamptz,
    key text NOT NULL,
    phone text NOT NULL,
    message text NOT NULL,
    PRIMARY KEY (journal, identity)
);
INSERT INTO oca_sms_queue_schema VALUES (1);
"""

# Advisory locks share one space in a database. The journal's setup has a lock of its own.
_SETUP_LOCK: Final = 0x0CA515A6
# Procrastinate keeps no version in its tables. Its statements name the functions of the version that they need.
_FUNCTIONS: Final = sorted({*re.findall(r"\bprocrastinate_\w+_v\d+(?=\()", " ".join(sql.queries.values()))})
_MISSING: Final = (
    "SELECT count(*) FROM unnest(%s::text[]) AS f WHERE NOT EXISTS (SELECT FROM pg_proc WHERE proname = f)"
)


async def set_up(connection: AsyncConnection[Any]) -> None:
    """Create all tables that are missing. Calls at the same time wait for each other."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_SETUP_LOCK,))
        await set_up_journal(connection)
        if not await _exists(connection, "procrastinate_jobs"):
            await connection.execute(SchemaManager.get_schema().encode())
        if not await _exists(connection, "oca_sms_queue_schema"):
            await connection.execute(SCHEMA.encode())
        await check_version(connection)


async def check_version(connection: AsyncConnection[Any]) -> None:
    """Raise `PlainError` unless all tables have the versions that this library and this Procrastinate need."""
    await check_journal_version(connection)
    cursor = await connection.execute("SELECT version FROM oca_sms_queue_schema")
    versions = [version for (version,) in await cursor.fetchall()]
    if versions != [VERSION]:
        found = ", ".join(map(str, versions)) or "unknown"
        raise PlainError(f"the version of its tables is {found}, and this library's is {VERSION}")
    cursor = await connection.execute(_MISSING, (_FUNCTIONS,))
    if await cursor.fetchone() != (0,):
        raise PlainError("Procrastinate's tables are of another version: apply its migrations")


async def _exists(connection: AsyncConnection[Any], table: str) -> bool:
    cursor = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table,))
    return await cursor.fetchone() == (True,)

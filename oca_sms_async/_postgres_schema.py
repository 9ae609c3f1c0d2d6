"""The tables in PostgreSQL that a journal and a token bucket share with all machines."""

from typing import Any, Final

from psycopg import AsyncConnection

from oca_sms_async._postgres_troubles import PlainError

VERSION: Final = 1

SCHEMA: Final = """
CREATE TABLE oca_sms_schema (version integer PRIMARY KEY);
CREATE TABLE oca_sms_journal (
    journal bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    salt bytea NOT NULL
);
CREATE TABLE oca_sms_message (
    journal bigint NOT NULL,
    identity bytea NOT NULL,
    content bytea NOT NULL,
    claim bytea NOT NULL,
    status smallint NOT NULL,
    attempts integer NOT NULL,
    began timestamptz NOT NULL,
    ended timestamptz NOT NULL,
    busy_until timestamptz,
    msg_uid bytea,
    word bytea,
    error text,
    code bigint,
    PRIMARY KEY (journal, identity)
);
CREATE INDEX oca_sms_message_by_uid ON oca_sms_message (journal, msg_uid) WHERE msg_uid IS NOT NULL;
CREATE INDEX oca_sms_message_in_doubt ON oca_sms_message (journal, ended) WHERE status = 1;
CREATE UNLOGGED TABLE oca_sms_bucket (
    name text PRIMARY KEY,
    asked double precision NOT NULL,
    paused double precision NOT NULL,
    at double precision NOT NULL,
    taken boolean NOT NULL,
    tat double precision NOT NULL
) WITH (fillfactor = 50);
INSERT INTO oca_sms_schema VALUES (1);
"""

# The number of the lock under which tables are made. Advisory locks share one space in a database.
_SETUP_LOCK: Final = 0x0CA515A5


async def set_up(connection: AsyncConnection[Any]) -> None:
    """Create the tables, unless they are there. Calls at the same time wait for each other."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_SETUP_LOCK,))
        cursor = await connection.execute("SELECT to_regclass('oca_sms_schema') IS NOT NULL")
        if (await cursor.fetchone()) == (True,):
            await check_version(connection)
        else:
            await connection.execute(SCHEMA.encode())


async def check_version(connection: AsyncConnection[Any]) -> None:
    """Raise `PlainError` unless the tables have this library's version."""
    cursor = await connection.execute("SELECT version FROM oca_sms_schema")
    versions = [version for (version,) in await cursor.fetchall()]
    if versions != [VERSION]:
        found = ", ".join(map(str, versions)) or "unknown"
        raise PlainError(f"the version of its tables is {found}, and this library's is {VERSION}")

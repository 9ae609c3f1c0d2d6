"""A run over a journal in PostgreSQL, on a connection of its own that holds the journal's name."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from typing import Any, Final

import psycopg

from oca_sms_async._errors import JournalError
from oca_sms_async._journal import Lookup
from oca_sms_async._postgres_batch import Call, Find, Intend, Next, make_statements
from oca_sms_async._postgres_connections import Connection, Connections
from oca_sms_async._postgres_messages import Claim, Ending, Names, Row, found
from oca_sms_async._postgres_statements import COUNT_DOUBTFUL, CREATE_SEEN
from oca_sms_async._postgres_troubles import PlainError

_POOLED: Final = "a run needs a session of PostgreSQL, and a pooler such as PgBouncer gives it none: connect directly"
# A machine that is gone without a word gives its journal back after some 25 seconds.
_TAKE: Final = """
SELECT pg_try_advisory_lock(%s), pg_backend_pid(),
    set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false)
"""
# Every write of a run begins with this. It fails if a pooler has given the run to another session.
_STILL_HERE: Final = "SELECT 1 / (pg_backend_pid() = %s)::integer"


class Run:
    """The run that holds a journal's name, until its connection ends.

    Its calls take effect in their order. All calls that wait meanwhile share the next transaction.
    """

    def __init__(
        self,
        connections: Connections,
        connection: Connection,
        names: Names,
        explain: Callable[[psycopg.Error], JournalError],
    ) -> None:
        self.doubtful = 0
        self._connections = connections
        self._connection = connection
        self._names = names
        self._explain = explain
        lock = hashlib.blake2b(names.salt, digest_size=8, person=b"run").digest()
        self._lock = int.from_bytes(lock, "big", signed=True)
        self._session = 0
        self._waiting: list[Call] = []
        self._writing: asyncio.Task[None] | None = None
        self._failed: psycopg.Error | None = None

    async def begin(self) -> bool:
        """Take the journal's name; return False if another run has it."""

        async def take(connection: Connection) -> bool:
            async with connection.transaction():  # through a pooler, all of it is on one session
                row = found(await (await connection.execute(_TAKE, (self._lock,))).fetchone())
                taken, self._session = row[:2]
                if taken:
                    await connection.execute(CREATE_SEEN)
            if taken:
                counted = await (await connection.execute(COUNT_DOUBTFUL, self._names.parameters())).fetchone()
                (self.doubtful,) = found(counted)
            return bool(taken)

        await self._check_session()
        try:
            return await self._connections.answer(self._connection, take)
        except psycopg.errors.DuplicateTable:  # another run's, on the same session
            raise PlainError(_POOLED) from None

    def lookup_next(self, key: str | None, number: str, text: str) -> asyncio.Future[Lookup]:
        """Look up the next message."""
        done: asyncio.Future[Lookup] = asyncio.get_running_loop().create_future()
        identity = None if key is None else self._names.of_key(key)
        self._add(Next(identity, self._names.of_content(number, text), done))
        return done

    def intend(self, claim: Claim) -> asyncio.Future[bool]:
        """Claim a message."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._add(Intend(claim, done))
        return done

    def find(self, ending: Ending) -> asyncio.Future[bool]:
        """Store that a doubtful message was found sent."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._add(Find(ending, done))
        return done

    async def end(self) -> None:
        """Give the name back once all writes have ended."""
        while self._writing is not None:
            await asyncio.wait({self._writing})
        with contextlib.suppress(psycopg.Error):  # the server drops the lock of a connection that is gone

            async def unlock(connection: Connection) -> None:
                await connection.execute("SELECT pg_advisory_unlock(%s)", (self._lock,))

            await self._connections.answer(self._connection, unlock)
        await self._connections.release(self._connection)

    def _add(self, call: Call) -> None:
        self._waiting.append(call)
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._perform_all())

    async def _perform_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    await self._perform(batch)
                except psycopg.Error as error:
                    self._failed = error
                    for call in batch:
                        _fail(call.done, self._explain(error))
        finally:
            self._writing = None

    async def _perform(self, batch: list[Call]) -> None:
        """Run all statements in one transaction.

        A failure undoes the count of equal messages too, so it ends the run.
        """
        if self._failed is not None:
            raise self._failed
        statements = list(make_statements(batch, self._names, self))

        async def perform(connection: Connection) -> list[list[Row]]:
            pipelined = psycopg.Pipeline.is_supported()  # not before libpq 14
            async with connection.pipeline() if pipelined else connection.transaction():
                await connection.execute(_STILL_HERE, (self._session,))
                cursors = [await connection.execute(it.query, it.parameters) for it in statements]
            return [await cursor.fetchall() for cursor in cursors]

        try:
            results = await self._connections.answer(self._connection, perform)
        except psycopg.errors.DivisionByZero:
            raise PlainError(_POOLED) from None
        for statement, rows in zip(statements, results, strict=True):
            statement.finish(rows)

    async def _check_session(self) -> None:
        """Raise `PlainError` if a pooler gives the run's session to others too.

        A pooler tells a connection another number than that of the server's process. In transaction mode it gives a
        second connection the session that the first one does not use just now.
        """
        session = await self._connections.answer(self._connection, _ask_session)
        if session != self._connection.info.backend_pid and session == await self._connections.perform(_ask_session):
            raise PlainError(_POOLED)


async def _ask_session(connection: Connection) -> int:
    (session,) = found(await (await connection.execute("SELECT pg_backend_pid()")).fetchone())
    return int(session)


def _fail(done: asyncio.Future[Any], error: JournalError) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # mark it as retrieved: a cancelled caller never asks for it

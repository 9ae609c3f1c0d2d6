"""The journal in PostgreSQL, which all machines share."""

import asyncio
import os
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Final, Self, TypeVar

import psycopg

from oca_sms_async._errors import JournalClosedError, JournalError
from oca_sms_async._journal import JournalEntry, Lookup, Status
from oca_sms_async._log import log
from oca_sms_async._models import SendReceipt
from oca_sms_async._postgres_connections import Connections
from oca_sms_async._postgres_messages import Claim, Claimable, Ending
from oca_sms_async._postgres_operations import Operations, fail
from oca_sms_async._postgres_run import Run
from oca_sms_async._postgres_store import Store
from oca_sms_async._postgres_troubles import PlainError, StaleError, check_name, explain
from oca_sms_async._scrub import scrub
from oca_sms_async._settings import positive_seconds

_T = TypeVar("_T")

_USED: Final = "another run uses it: wait for the end of that run"


class PostgresJournal:
    """A `Journal` in PostgreSQL that all processes share which give the same `name`.

    `conninfo` is a PostgreSQL URL or connection string. libpq's own ways of giving a password work: PGPASSWORD, a
    password file, a service file. `await setup()` makes the tables once; `SCHEMA` holds them for your own migrations.

    Any number of processes may send with keys at once, and one of them gets each key. They also work through a pooler
    in transaction mode. One run at a time may use a name. It holds the name by an advisory lock on a connection of its
    own, which must be a session of PostgreSQL, and needs the privilege TEMPORARY. If that connection is lost, the run
    stops with a `JournalError`.

    The tables hold digests of numbers, texts and keys, besides statuses, ids and times. Digests hide a number from a
    glance only: anyone with the tables can try all numbers.

    Each trouble with the database is a `JournalError`, within `timeout` seconds. Lost connections and a restart cost
    only time, if they are over by then. Leave the journal by `async with` or `aclose()`. Afterwards each use is a
    `RuntimeError`. Wrong arguments are a `ValueError`.
    """

    def __init__(self, conninfo: str, *, name: str, timeout: float = 5.0) -> None:
        check_name(name)
        self.name: Final = name
        self._connections = Connections(conninfo, timeout=positive_seconds("timeout", timeout))
        self._store = Store(self._connections, name)
        self._run: Run | None = None
        self._in_use: int | None = None  # the process in which a run is on
        self._operations = Operations(
            self._explain, on_closed=f"the journal {name!r} is closed: make another one of this name"
        )
        self._intending: dict[bytes, asyncio.Future[bool]] = {}  # by the token of the claim
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<PostgresJournal {self.name!r} {'closed' if self._operations.closed else 'open'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, once all writes have ended; a second call does nothing."""
        self._operations.closed = True
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)  # close the connections even if this task is cancelled

    async def setup(self) -> None:
        """Make the tables, unless they are there. Many processes may call it at once.

        `JournalError` if the tables are of another version.
        """
        await self._operations.start(self._store.set_up)

    async def lookup(self, key: str) -> JournalEntry | None:
        """Return the journal's entry of a key, or None for a key that it does not know."""
        return await self._operations.start(self._store.lookup, key)

    async def forget(self, before: datetime, *, doubtful: bool = False) -> int:
        """Forget the messages whose last news is older than an aware datetime, and return their number.

        Messages in doubt stay, unless `doubtful`, and so do messages that are being sent now. A forgotten key is new:
        its message would be sent again. `ValueError` for a naive datetime.
        """
        if before.tzinfo is None:
            raise ValueError("before must be aware: give it a time zone")
        return await self._operations.start(self._store.forget, before, doubtful=doubtful)

    def lookup_key(self, key: str, number: str, text: str) -> asyncio.Future[Lookup]:
        """Look up a message with a key outside of any run. Nothing is stored."""
        return self._operations.start(self._store.lookup_key, key, number, text)

    async def begin_run(self) -> None:
        """Take the journal's name for one run; `JournalError` if another run has it."""
        self._operations.check_open()
        if self._in_use == os.getpid():
            raise JournalError(self._sentence(_USED))
        self._in_use, self._run = os.getpid(), None
        beginning = self._operations.spawn(self._begin_run)
        try:
            self._run = await beginning
        except BaseException:
            try:
                if beginning.done() and not beginning.cancelled() and beginning.exception() is None:
                    await self._operations.start(beginning.result().end)  # cancelled in the very step of the answer
            finally:
                self._in_use = None
            raise
        if self._run.doubtful:
            log("journal.doubtful", journal=self.name, doubtful=self._run.doubtful)

    def lookup_next(self, key: str | None, number: str, text: str) -> asyncio.Future[Lookup]:
        """Look up the run's next message; the order of the calls tells equal messages without a key apart."""
        return self._in_run(lambda run: run.lookup_next(key, number, text))

    def intend(self, message: Lookup, *, seconds: float) -> asyncio.Future[bool]:
        """Claim a message durably before its request starts; return whether the caller got it.

        Others wait for the outcome for that many `seconds`.
        """
        claimable = _claimable(message)
        claim = Claim(claimable, seconds)
        if claimable.run is None:
            intending = self._operations.start(self._store.intend, claim)
        elif claimable.run is not self._run:
            return self._operations.start(_refuse)  # a later run has the journal
        else:
            intending = self._in_run(lambda run: run.intend(claim))
        self._intending[claimable.claim] = intending
        intending.add_done_callback(lambda _: self._intending.pop(claimable.claim, None))
        return intending

    def settle(self, message: Lookup, entry: JournalEntry) -> asyncio.Future[None]:
        """Store durably the outcome of an intended message."""
        return self._operations.start(self._settle, _claimable(message), entry)

    def find(self, message: Lookup, receipt: SendReceipt) -> asyncio.Future[bool]:
        """Store durably that a doubtful message was found sent; return False if another message has this id."""
        ending = Ending(_claimable(message), JournalEntry(Status.SENT, receipt, receipt.attempts))
        return self._in_run(lambda run: run.find(ending))

    async def end_run(self) -> None:
        """Give the journal's name back once all writes have ended."""
        if self._in_use != os.getpid():
            return
        run, self._run = self._run, None
        try:
            await self._operations.wait_for_end()
            if run is not None:
                await run.end()
        finally:
            self._in_use = None

    async def _settle(self, message: Claimable, entry: JournalEntry) -> None:
        """Settle a message after its claim: a sender that is cancelled does not wait for the claim to end."""
        if (intending := self._intending.get(message.claim)) is not None:
            await asyncio.wait({intending})
        await self._store.settle(message, entry)

    def _in_run(self, call: Callable[[Run], asyncio.Future[_T]]) -> asyncio.Future[_T]:
        try:
            self._operations.check_open()
        except JournalClosedError as error:
            return fail(error)
        if self._run is None or self._in_use != os.getpid():
            return fail(JournalError(self._sentence("no run has begun, or not in this process")))
        return call(self._run)

    def _explain(self, error: psycopg.Error) -> JournalError:
        if isinstance(error, StaleError | psycopg.errors.UndefinedTable):
            self._store.forget_names()
        failure = JournalError(self._sentence(explain(error)))
        failure.__cause__ = scrub(error)
        return failure

    def _sentence(self, reason: str) -> str:
        return f"the journal {self.name!r} cannot be used: {reason}"

    async def _close(self) -> None:
        await self._operations.wait_for_end()
        try:
            await self._store.wait_for_end()
            await self.end_run()
        finally:
            await self._connections.aclose()

    async def _begin_run(self) -> Run:
        connection = await self._connections.connect()
        begun = False
        try:
            names = await self._connections.answer(connection, self._store.open)
            run = Run(self._connections, connection, names, self._explain)
            begun = await run.begin()
        finally:
            if not begun:
                await self._connections.release(connection)
        if not begun:
            raise PlainError(_USED)
        return run


async def _refuse() -> bool:
    return False


def _claimable(message: Lookup) -> Claimable:
    if not isinstance(message, Claimable):
        raise TypeError("message must be an answer of this journal")
    return message

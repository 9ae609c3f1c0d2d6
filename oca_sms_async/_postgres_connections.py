"""Connections to one PostgreSQL: each statement has an answer or an error in time."""

import asyncio
import contextlib
import math
import os
import socket
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Self, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool

from oca_sms_async._postgres_troubles import PlainError, UnansweredError, UnreachableError, is_passing

_T = TypeVar("_T")

_MOST: Final = 4  # connections of one process: many processes share the hundred that PostgreSQL has by default
_IDLE: Final = 60.0  # seconds, after which a connection that is not needed is closed
_FRESH: Final = 2.0  # seconds after its last answer in which a connection needs no check
_PAUSES: Final = (0.02, 0.5)  # seconds between two attempts: the first pause, and the longest
_CANCEL: Final = 1.0  # seconds that a statement without an answer gets to end, before its connection is cut


class Connection(psycopg.AsyncConnection[Any]):
    """A connection that knows the time of its last answer."""

    answered_at = -math.inf


Work = Callable[[Connection], Awaitable[_T]]
Pool = AsyncConnectionPool[Connection]


class Connections:
    """A pool of connections, and connections of one's own, to the PostgreSQL of a connection string.

    Each trouble is a `psycopg.Error`, and comes within `timeout` seconds. The pool belongs to the event loop and to the
    process that use it: another loop, or a forked child, gets a pool of its own.
    """

    def __init__(self, conninfo: str, *, timeout: float) -> None:
        check_conninfo(conninfo)
        self._timeout = timeout
        self._options = _make_options(conninfo, timeout)
        self._owner: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._open = weakref.WeakSet[Connection]()
        self._ending = weakref.WeakSet[Connection]()
        self._pool: Pool | None = None
        self._trouble: UnreachableError | None = None
        self._abandoned = set[asyncio.Task[None]]()
        self._closing = asyncio.Event()

    async def perform(self, work: Work[_T], *, repeatable: bool = True) -> _T:
        """Do something with a connection of the pool, and return the result.

        If it is `repeatable`, a lost connection or a restart of the server costs only time: the work is done anew.
        """
        pool = await self._enter()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        pause, longest = _PAUSES
        while True:
            connection = await self._take(pool, deadline)
            try:
                return await self._use(connection, work, deadline, pool)
            except psycopg.Error as error:
                passing = repeatable and is_passing(error, lost=connection.closed)
                if not passing or isinstance(error, UnansweredError) or loop.time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def connect(self) -> Connection:
        """Return a connection that belongs to the caller."""
        await self._enter()
        return await self._attempt(Connection.connect)

    async def answer(self, connection: Connection, work: Work[_T]) -> _T:
        """Do something with a connection of one's own. Without an answer in time, the connection is cut."""
        return await self._use(connection, work, asyncio.get_running_loop().time() + self._timeout)

    async def release(self, connection: Connection) -> None:
        """Close a connection of one's own."""
        if connection not in self._ending:  # it is closed after its statement
            await connection.close()

    async def aclose(self) -> None:
        """Close the pool. Connections of one's own stay open."""
        pool = await self._enter()
        self._closing.set()
        while self._abandoned:
            await asyncio.wait(self._abandoned)
        await pool.close()

    async def _enter(self) -> Pool:
        """Return the pool. The connections of another loop or of the parent process are forgotten."""
        owner = asyncio.get_running_loop(), os.getpid()
        if self._pool is None or self._owner != owner:
            if self._owner is not None and self._owner[1] == os.getpid():
                for connection in self._open:
                    connection.pgconn.finish()
            # In a child, psycopg drops the parent's connections without a word to the server.
            self._open.clear()
            self._abandoned.clear()
            self._trouble, self._owner, self._closing = None, owner, asyncio.Event()
            self._pool = AsyncConnectionPool(
                connection_class=self._make_patient(),
                min_size=0,
                max_size=_MOST,
                max_idle=_IDLE,
                open=False,
            )
        if self._pool.closed and not self._closing.is_set():
            await self._pool.open()
        return self._pool

    async def _take(self, pool: Pool, deadline: float) -> Connection:
        """Take a connection that was alive a moment ago out of the pool."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection = await pool.getconn(timeout=deadline - loop.time())
            except psycopg.OperationalError:
                if self._trouble is None:
                    raise
                raise PlainError(str(self._trouble)) from None
            if loop.time() - connection.answered_at < _FRESH:
                return connection
            try:
                # A network may have dropped the connection without a word to this machine.
                await self._use(connection, _ask, min(deadline, loop.time() + self._timeout / 4), pool, keep=True)
            except psycopg.Error:
                await pool.drain()  # the others were as idle
            else:
                return connection

    async def _use(
        self, connection: Connection, work: Work[_T], deadline: float, pool: Pool | None = None, *, keep: bool = False
    ) -> _T:
        """Do the work, and give the connection back to its pool, unless it is to be kept for more."""
        loop = asyncio.get_running_loop()
        # psycopg waits for a cancelled statement, so a task of its own is left alone instead.
        task = asyncio.ensure_future(work(connection))
        try:
            await asyncio.wait({task}, timeout=deadline - loop.time())
        finally:
            if not task.done():  # too late, or this task was cancelled
                self._ending.add(connection)
                ending = loop.create_task(_end(connection, task, pool))
                self._abandoned.add(ending)
                ending.add_done_callback(self._abandoned.discard)
        if not task.done():
            raise UnansweredError
        if (error := task.exception()) is None:
            connection.answered_at = loop.time()
        elif isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            await connection.close()  # after a failover, the same name leads to another server
        if pool is not None and not (keep and error is None):
            await pool.putconn(connection)
        return task.result()

    async def _attempt(self, connect: Callable[..., Coroutine[Any, Any, Connection]]) -> Connection:
        """Connect once."""
        trouble = UnreachableError()
        try:
            async with asyncio.timeout(self._timeout):
                connection = await connect(**self._options, autocommit=True, prepare_threshold=None)
        except TimeoutError:
            pass
        except (psycopg.Error, OSError) as error:
            trouble = UnreachableError(error)
        else:
            self._trouble = None
            self._open.add(connection)
            return connection
        self._trouble = trouble
        raise trouble  # outside of the block: psycopg's error holds the connection's password

    def _make_patient(self) -> type[Connection]:
        """Return a class for the pool whose `connect` goes on until it succeeds.

        The pool has pauses of its own between two attempts, and they grow up to minutes.
        """
        attempt, closing = self._attempt, self._closing

        class Patient(Connection):
            @classmethod
            async def connect(cls, *_: Any, **__: Any) -> Self:  # as the pool calls it, with nothing of use
                pause, longest = _PAUSES
                while True:
                    try:
                        return await attempt(super().connect)  # type: ignore[return-value] # its class is this one
                    except UnreachableError:
                        if closing.is_set():
                            raise
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await closing.wait()
                    pause = min(2 * pause, longest)

        return Patient


def check_conninfo(conninfo: str) -> None:
    """Raise `ValueError` for a connection string that libpq cannot read. The error does not quote it."""
    if isinstance(conninfo, str):
        with contextlib.suppress(psycopg.Error, ValueError):
            conninfo_to_dict(conninfo)
            return
    raise ValueError("conninfo must be a PostgreSQL URL, or a connection string such as 'host=db dbname=sms'")


def _make_options(conninfo: str, timeout: float) -> dict[str, Any]:
    """Return the options of a connection. Those of the connection string come first."""
    return {
        "connect_timeout": max(2, math.ceil(timeout)),
        # The other machine may be gone without a word: its silence ends the connection.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": math.ceil(timeout * 1000),
        "fallback_application_name": "oca-sms-async",
    } | conninfo_to_dict(conninfo)


async def _ask(connection: Connection) -> None:
    await connection.execute("SELECT 1")


async def _end(connection: Connection, task: asyncio.Future[Any], pool: Pool | None) -> None:
    """End a statement that has no answer: ask the server to cancel it, then cut the connection."""
    with contextlib.suppress(psycopg.Error, OSError):
        await connection.cancel_safe(timeout=_CANCEL)
    await asyncio.wait({task}, timeout=_CANCEL)
    with contextlib.suppress(psycopg.Error, OSError), _socket_of(connection) as same:
        same.shutdown(socket.SHUT_RDWR)  # the statement ends in a lost connection
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # nobody waits for it
    await connection.close()
    if pool is not None:
        await pool.putconn(connection)


def _socket_of(connection: Connection) -> socket.socket:
    return socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)

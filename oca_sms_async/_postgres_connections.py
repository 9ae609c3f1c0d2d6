"""Connections to one PostgreSQL: each statement has an answer or an error in time.

psycopg's own pool is not used. Its tasks outlive a cancelling, so that `asyncio.run` never ends if it ends while they
connect. Its pauses between two attempts grow up to minutes, and its time-out does not tell their cause.
"""

import asyncio
import contextlib
import math
import os
import socket
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from oca_sms_async._postgres_troubles import LateError, PlainError, UnansweredError, explain_refusal, is_passing

_T = TypeVar("_T")

_IDLE: Final = 60.0  # seconds, after which a connection that was not needed is closed
_FRESH: Final = 2.0  # seconds after its last answer in which a connection needs no check
_PAUSES: Final = (0.02, 0.5)  # seconds between two attempts: the first pause, and the longest
_CANCEL: Final = 1.0  # seconds that a statement without an answer gets to end, before its connection is cut


class Connection(psycopg.AsyncConnection[Any]):
    """A connection that knows the time of its last answer."""

    answered_at = -math.inf


Work = Callable[[Connection], Awaitable[_T]]


class Connections:
    """Shared connections, and connections of one's own, to the PostgreSQL of a connection string.

    Each trouble is a `psycopg.Error`, and comes within `timeout` seconds. Connections belong to the event loop and to
    the process that made them: another loop, or a forked child, makes its own.
    """

    def __init__(self, conninfo: str, *, timeout: float, most: int = 4) -> None:
        check_conninfo(conninfo)
        self._most: Final = most  # few: many processes share the hundred connections that PostgreSQL has by default
        self.timeout: Final = timeout
        self._options = make_options(conninfo, timeout)
        self._owner: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._inherited: list[Connection] = []
        self._open = weakref.WeakSet[Connection]()
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(self._most)
        self._trouble: str | None = None  # of the last connection that failed
        self._endings: dict[Connection, asyncio.Task[None]] = {}

    async def perform(self, work: Work[_T], *, repeatable: bool = True, patient: bool = True) -> _T:
        """Do something with a shared connection, and return the result.

        A server that is away costs only time, unless `patient` is False. A lost connection does too, if the work is
        `repeatable`: it is done anew.
        """
        self._enter()
        deadline = asyncio.get_running_loop().time() + self.timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
        except TimeoutError:
            raise LateError(self._trouble or "no connection to PostgreSQL was free in time") from None
        try:
            return await self._repeat(work, deadline, repeatable=repeatable, patient=patient)
        finally:
            self._slots.release()

    async def connect(self) -> Connection:
        """Return a connection that belongs to the caller, who releases it."""
        self._enter()
        return await self._connect(asyncio.get_running_loop().time() + self.timeout)

    async def answer(self, connection: Connection, work: Work[_T]) -> _T:
        """Do something with a connection of one's own. Without an answer in time, the connection is lost."""
        return await self._use(connection, work, asyncio.get_running_loop().time() + self.timeout)

    async def release(self, connection: Connection) -> None:
        """Close a connection of one's own."""
        if connection not in self._endings:  # it is closed when its statement has ended
            await connection.close()

    def late(self) -> LateError:
        """Return the error of work that has no answer in time."""
        return LateError(self._trouble or "PostgreSQL did not answer in time")

    async def renew(self) -> None:
        """Close the shared connections that are idle, so that the next work gets a new one."""
        self._enter()
        while self._idle:
            await self._idle.pop().close()

    async def aclose(self) -> None:
        """Close the shared connections, once abandoned statements have ended."""
        await self.renew()
        while self._endings:
            await asyncio.wait(self._endings.values())

    def _enter(self) -> None:
        """Forget the connections of another event loop or of the parent process."""
        owner = asyncio.get_running_loop(), os.getpid()
        if self._owner == owner:
            return
        if self._owner is not None and self._owner[1] != os.getpid():
            self._inherited = list(self._open)  # untouched: a farewell of ours would end the parent's sessions
        else:
            for connection in self._open:
                connection.pgconn.finish()
        self._open.clear()
        self._idle.clear()
        self._endings.clear()
        self._owner, self._slots, self._trouble = owner, asyncio.Semaphore(self._most), None

    async def _repeat(self, work: Work[_T], deadline: float, *, repeatable: bool, patient: bool) -> _T:
        """Do the work on one connection after the other, until it succeeds or there is no hope."""
        loop = asyncio.get_running_loop()
        pause, longest = _PAUSES
        earlier: psycopg.Error | None = None
        while True:
            connection = None
            try:
                connection = await self._take(deadline)
                result = await self._use(connection, work, deadline)
            except LateError as error:
                raise earlier or error from None
            except psycopg.Error as error:
                lost = connection is None or connection.closed
                if connection is not None:
                    await self._give_back(connection, error)
                begun_once = connection is not None and not repeatable
                if begun_once or not patient or not is_passing(error, lost=lost) or loop.time() + pause > deadline:
                    raise
                earlier = error
            else:
                self._idle.append(connection)
                return result
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _take(self, deadline: float) -> Connection:
        """Return a connection that was alive a moment ago."""
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].answered_at < loop.time() - _IDLE and len(self._idle) > 1:
            await self._idle.pop(0).close()
        while self._idle:
            connection = self._idle.pop()
            if connection.closed:
                continue
            if loop.time() - connection.answered_at < _FRESH:
                return connection
            try:
                # A network may have dropped the connection without a word to this machine.
                await self._use(connection, _ask, min(deadline, loop.time() + self.timeout / 4))
            except psycopg.Error:
                await self.release(connection)
                await self.renew()  # the others were as idle
            else:
                return connection
        return await self._connect(deadline)

    async def _give_back(self, connection: Connection, error: psycopg.Error) -> None:
        if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            await connection.close()  # after a failover, the same name leads to another server
        elif not connection.closed:
            self._idle.append(connection)

    async def _use(self, connection: Connection, work: Work[_T], deadline: float) -> _T:
        """Do the work. A connection without an answer in time is lost, even if it answers later."""
        loop = asyncio.get_running_loop()
        # psycopg waits for a cancelled statement, so a task of its own is left alone instead.
        task, answered = asyncio.ensure_future(work(connection)), False
        try:
            await asyncio.wait({task}, timeout=deadline - loop.time())
            answered = task.done()
        finally:
            if not answered:  # too late, or this task was cancelled, perhaps in the very step of the answer
                self._endings[connection] = loop.create_task(self._end(connection, task))
        if not answered:
            raise UnansweredError
        result = task.result()
        connection.answered_at = loop.time()
        return result

    async def _end(self, connection: Connection, task: asyncio.Future[Any]) -> None:
        """End a statement that has no answer: ask the server to cancel it, then cut the connection."""
        try:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.cancel_safe(timeout=_CANCEL)
            await asyncio.wait({task}, timeout=_CANCEL)
            with contextlib.suppress(psycopg.Error, OSError), _socket_of(connection) as same:
                same.shutdown(socket.SHUT_RDWR)  # the statement ends in a lost connection
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # the caller has gone
            await connection.close()
        finally:
            self._endings.pop(connection, None)

    async def _connect(self, deadline: float) -> Connection:
        trouble: PlainError
        try:
            async with asyncio.timeout_at(deadline):
                connection = await Connection.connect(**self._options, autocommit=True, prepare_threshold=None)
        except TimeoutError:
            trouble = LateError(self._trouble or "no connection to PostgreSQL could be made in time")
        except (psycopg.Error, OSError) as error:
            trouble = explain_refusal(error)
            self._trouble = str(trouble)
        else:
            self._trouble = None
            self._open.add(connection)
            return connection
        raise trouble  # outside of the block: psycopg's error would come with it


def check_conninfo(conninfo: str) -> None:
    """Raise `ValueError` for a connection string that libpq cannot read. The error does not quote it."""
    if isinstance(conninfo, str):
        with contextlib.suppress(psycopg.Error, ValueError):
            conninfo_to_dict(conninfo)
            return
    raise ValueError("conninfo must be a PostgreSQL URL, or a connection string such as 'host=db dbname=sms'")


def make_options(conninfo: str, timeout: float) -> dict[str, Any]:
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


def _socket_of(connection: Connection) -> socket.socket:
    return socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)

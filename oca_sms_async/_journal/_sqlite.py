"""The journal in a file, for asyncio: one thread writes, and all calls that come meanwhile share the next commit."""

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from attrs import frozen

from oca_sms_async._errors import JournalClosedError, JournalError
from oca_sms_async._journal._store import Operation, Store
from oca_sms_async._journal._values import JournalEntry, Lookup
from oca_sms_async._log import log
from oca_sms_async._models import SendReceipt
from oca_sms_async._scrub import scrub

_T = TypeVar("_T")


@frozen
class _Waiting:
    operation: Operation
    done: asyncio.Future[Any]


class SqliteJournal:
    """A `Journal` in a file that outlives the process, for `bulk`, `send_many` and `reconcile`.

    A run with the journal of an earlier run goes on where that one ended, even if it was killed. Sent messages are
    skipped. Messages that may have been sent are reported and not sent again. The rest is sent.

    The file is made at the first use. One run at a time may use it, across all processes. The file alone is the
    journal: nothing beside it is needed. It holds digests of numbers, texts and keys, besides statuses, ids and times.
    Digests hide a number from a glance only: anyone with the file can try all numbers. An index of the file is kept in
    a temporary SQLite database while it is open.

    Each trouble with the file is a `JournalError`, and an empty path is a `ValueError`. Leave the journal by
    `async with` or `aclose()`. Each use afterwards is a `RuntimeError`, and so is one in a forked child.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.fspath(path):
            raise ValueError("path must not be empty: give the journal a file")
        self._path = Path(path).absolute()
        self._store: Store | None = None  # the thread's alone
        self._thread: concurrent.futures.Executor = ThreadPoolExecutor(1, "oca-sms-journal")
        self._process: int | None = None  # the thread lives in this process
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._writing = False
        self._in_use = False
        self._closed = False
        self._closing: concurrent.futures.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<SqliteJournal {self._path} {'closed' if self._closed else 'open'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the file and unlock it; a second call does nothing, and neither does one in a forked child.

        `JournalError` if the file's last write fails; the file is unlocked all the same.
        """
        self._closed = True
        if self._process != os.getpid():  # never used, or the parent's
            return
        if self._closing is None:
            self._closing = self._thread.submit(self._close)
            self._thread.shutdown(wait=False)
        await _end_of(self._closing)
        _raise_own(self._closing.exception())

    async def begin_run(self) -> None:
        """Take the journal for one run.

        `JournalError` if another run has it or the file cannot be used, `RuntimeError` after `aclose`.
        """
        if self._in_use and self._process == os.getpid():
            raise JournalError(f"the journal {self._path} cannot be used: another run uses it: wait for its end")
        self._in_use = True
        try:
            await self._perform(Store.begin_run)
        except BaseException:
            self._in_use = False
            raise

    def lookup_next(self, key: str | None, number: str, text: str) -> asyncio.Future[Lookup]:
        """Look up the run's next message; the order of the calls tells equal messages without a key apart."""
        return self._perform(lambda store: store.lookup_next(key, number, text))

    async def lookup(self, key: str) -> JournalEntry | None:
        """Return the entry of a key, or None for a key that the journal does not know."""
        return await self._perform(lambda store: store.lookup(key))

    async def forget(self, before: datetime, *, doubtful: bool = False) -> int:
        """Forget the messages without news since an aware datetime, and return their number.

        Messages in doubt stay, unless `doubtful`. A forgotten key is new: its message would be sent again. The file
        does not get shorter. `ValueError` for a naive datetime.
        """
        if before.utcoffset() is None:
            raise ValueError("before must be an aware datetime: give it a tzinfo")
        moment, forgotten = before.timestamp(), 0
        while page := await self._perform(lambda store: store.forget(moment, doubtful=doubtful)):
            forgotten += page
        return forgotten

    def lookup_key(self, key: str, number: str, text: str) -> asyncio.Future[Lookup]:
        """Look up a message with a key outside of any run. Nothing is stored."""
        return self._perform(lambda store: store.lookup_key(key, number, text))

    def intend(self, message: Lookup, *, seconds: float) -> asyncio.Future[bool]:
        """Note, durably, that a request is about to start; return whether the caller got the message.

        Others wait for the outcome for that many `seconds`.
        """
        return self._perform(lambda store: store.intend(message, seconds))

    def settle(self, message: Lookup, entry: JournalEntry) -> asyncio.Future[None]:
        """Store durably the outcome of an intended message."""
        return self._perform(lambda store: store.settle(message, entry))

    def find(self, message: Lookup, receipt: SendReceipt) -> asyncio.Future[bool]:
        """Store durably that a doubtful message was found sent; return False if another message has this id."""
        return self._perform(lambda store: store.find(message, receipt))

    async def end_run(self) -> None:
        """Give the journal back once all writes have ended."""
        try:
            if self._process == os.getpid():
                await _end_of(self._closing or self._thread.submit(int))  # either comes after all writes
        finally:
            self._in_use = False

    def _perform(self, operation: Callable[[Store], _T]) -> asyncio.Future[_T]:
        """Queue an operation for the thread, and return a future of its result.

        Operations run in the order of these calls. The change of one is on the disk when it is done.
        """
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        try:
            self._queue(_Waiting(operation, done))
        except JournalError as error:  # out of the future, as each other error: callers may await it late
            done.set_exception(error)
            done.exception()  # mark it as retrieved
        return done

    def _queue(self, waiting: _Waiting) -> None:
        if self._closed:
            raise JournalClosedError(f"the journal {self._path} is closed: make another one of the same file")
        if self._process not in {None, os.getpid()}:
            raise JournalClosedError(f"the journal {self._path} is of the parent process: make one after the fork")
        self._process = os.getpid()
        with self._lock:
            self._waiting.append(waiting)
            idle, self._writing = not self._writing, True
        if idle:
            try:
                self._thread.submit(self._write)
            except RuntimeError as error:
                self._waiting, self._writing = [], False
                reason = "no thread can be started: end others, or raise the limit"
                raise JournalError(f"the journal {self._path} cannot be used: {reason}") from error

    def _write(self) -> None:
        """Do all that waits, batch by batch. No task of asyncio takes part, for a task can be cancelled."""
        while True:
            with self._lock:
                batch, self._waiting = self._waiting, []
                self._writing = bool(batch)
            if not batch:
                return
            try:
                results = self._opened(batch).perform([waiting.operation for waiting in batch])
            except Exception as error:  # noqa: BLE001 - it belongs to the callers that wait
                results = [error] * len(batch)
            for loop in {waiting.done.get_loop() for waiting in batch}:
                told = [
                    (waiting.done, result)
                    for waiting, result in zip(batch, results, strict=True)
                    if waiting.done.get_loop() is loop
                ]
                with contextlib.suppress(RuntimeError):  # the loop has ended, and its callers with it
                    loop.call_soon_threadsafe(_tell, told)

    def _opened(self, batch: list[_Waiting]) -> Store:
        """Return the open store. A broken one is opened anew, but not for the run that broke it: it must not go on.

        Outside of a run, only the same file is opened again. In a new one, all keys would be new.
        """
        if self._store is not None and self._store.broken:
            begins = any(waiting.operation is Store.begin_run for waiting in batch)
            if begins or (not self._in_use and self._store.is_in_place()):
                self._close()
        if self._store is None:
            self._store = Store(self._path)
            if self._store.doubtful:
                log("journal.doubtful", journal=str(self._path), doubtful=self._store.doubtful)
        return self._store

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()


def _tell(told: list[tuple[asyncio.Future[Any], Any]]) -> None:
    """End the futures of one loop."""
    for done, result in told:
        if done.done():
            continue
        if isinstance(result, Exception):
            done.set_exception(_own(result))
            done.exception()  # mark it as retrieved: a cancelled caller never asks for it
        else:
            done.set_result(result)


async def _end_of(work: "concurrent.futures.Future[Any]") -> None:
    """Wait for the thread's work, in any loop. Neither a cancelled caller nor the end of its loop cancels the work."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(done.set)

    work.add_done_callback(tell)
    await done.wait()


def _raise_own(error: BaseException | None) -> None:
    if error is not None:
        raise _own(error)


def _own(error: BaseException) -> BaseException:
    """Return an error for one caller alone: several that raise one object would all change it."""
    if not isinstance(error, JournalError):
        return error
    own = JournalError(str(error))
    own.__cause__ = scrub(error)
    return own

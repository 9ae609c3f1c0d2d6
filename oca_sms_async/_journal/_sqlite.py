"""The journal in a file, for asyncio: a thread writes, and all calls that come meanwhile share the next commit."""

import asyncio
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from oca_sms_async._errors import JournalClosedError, JournalError
from oca_sms_async._journal._store import Operation, Store
from oca_sms_async._journal._thread import BatchThread
from oca_sms_async._journal._values import JournalEntry, Lookup
from oca_sms_async._log import log
from oca_sms_async._models import SendReceipt

_T = TypeVar("_T")


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
        self._thread = BatchThread[Operation]("oca-sms-journal", self._commit)
        self._process: int | None = None  # the thread lives in this process
        self._in_use = False
        self._closed = False

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
        if self._process == os.getpid():  # else it was never used, or is the parent's
            await self._thread.close(self._close)

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

        Messages in doubt stay, unless `doubtful`. A forgotten key is new: its message would be sent again.

        At the end, a file of which more than half is old gets shorter. Other calls wait meanwhile. A copy of the file
        that is made just then may be refused as damaged. `JournalError` if it fails; the messages are forgotten all the
        same. `ValueError` for a naive datetime.
        """
        if before.utcoffset() is None:
            raise ValueError("before must be an aware datetime: give it a tzinfo")
        moment, forgotten = before.timestamp(), 0
        while page := await self._perform(lambda store: store.forget(moment, doubtful=doubtful)):
            forgotten += page
        await self._perform(Store.shrink)
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
                await self._thread.finish()
        finally:
            self._in_use = False

    def _perform(self, operation: Callable[[Store], _T]) -> asyncio.Future[_T]:
        """Queue an operation for the thread, and return a future of its result.

        Operations run in the order of these calls. The change of one is on the disk when it is done.
        """
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        try:
            self._submit(operation, done)
        except JournalError as error:  # out of the future, as each other error: callers may await it late
            done.set_exception(error)
            done.exception()  # mark it as retrieved
        return done

    def _submit(self, operation: Operation, done: asyncio.Future[Any]) -> None:
        if self._closed:
            raise JournalClosedError(f"the journal {self._path} is closed: make another one of the same file")
        if self._process not in {None, os.getpid()}:
            raise JournalClosedError(f"the journal {self._path} is of the parent process: make one after the fork")
        self._process = os.getpid()
        try:
            self._thread.submit(operation, done)
        except RuntimeError as error:
            reason = "no thread can be started: end others, or raise the limit"
            raise JournalError(f"the journal {self._path} cannot be used: {reason}") from error

    def _commit(self, operations: list[Operation]) -> list[Any]:
        """Do these operations in one commit. This runs in the thread."""
        return self._open(begins=Store.begin_run in operations).perform(operations)

    def _open(self, *, begins: bool) -> Store:
        """Return the open store. A broken one is opened anew, but not for the run that broke it: it must not go on.

        Outside of a run, only the same file is opened again. In a new one, all keys would be new.
        """
        store = self._store
        if store is not None and store.broken and (begins or (not self._in_use and store.is_in_place())):
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

"""The journal in a file, for asyncio. One thread writes, and all calls that wait meanwhile share the next commit."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from attrs import frozen

from oca_sms_async._errors import JournalError
from oca_sms_async._journal._store import Operation, Store
from oca_sms_async._journal._values import JournalEntry, Lookup
from oca_sms_async._log import log
from oca_sms_async._models import SendReceipt
from oca_sms_async._scrub import scrub

_T = TypeVar("_T")


@frozen
class _Waiting:
    operation: Operation
    durable: bool
    done: asyncio.Future[Any]


class SqliteJournal:
    """A `Journal` in a file that outlives the process, for `bulk`, `send_many` and `reconcile`.

    A run with the journal of an earlier run goes on where that one ended, even if it was killed. Sent messages are
    skipped. Messages that may have been sent are reported and not sent again. The rest is sent.

    The file is made at the first use. One run at a time may use it, across all processes. It holds digests of numbers,
    texts and keys, besides statuses, ids and times. Digests hide a number from a glance only: anyone with the file can
    try all numbers. While the file is open, its log lies beside it (`-wal`) and belongs to it.

    Each trouble with the file is a `JournalError`, and an empty path is a `ValueError`. Leave the journal by
    `async with` or `aclose()`. Afterwards each use is a `RuntimeError`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.fspath(path):
            raise ValueError("path must not be empty: give the journal a file")
        self._path = Path(path).absolute()
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(1, "oca-sms-journal")
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
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
        """Close the file and unlock it; a second call does nothing."""
        self._closed = True
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)  # unlock the file even if this task is cancelled

    async def _close(self) -> None:
        await self._written()
        try:
            if self._store is not None:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        finally:
            self._thread.shutdown(wait=False)

    async def begin_run(self) -> None:
        """Take the journal for one run.

        `JournalError` if another run has it or the file cannot be used, `RuntimeError` after `aclose`.
        """
        if self._in_use:
            raise JournalError(f"the journal {self._path} cannot be used: another run uses it")
        self._in_use = True
        try:
            # This is durable so that no later run gets the same number, even if this run's next write fails.
            await self._perform(Store.begin_run, durable=True)
        except BaseException:
            self._in_use = False
            raise

    def lookup_next(self, key: str | None, number: str, text: str) -> asyncio.Future[Lookup]:
        """Look up the run's next message; the order of the calls tells equal messages without a key apart."""
        return self._perform(lambda store: store.lookup_next(key, number, text), durable=False)

    def intend(self, message: Lookup) -> asyncio.Future[bool]:
        """Note, durably, that a request is about to start; return whether this run got the message."""
        return self._perform(lambda store: store.intend(message), durable=True)

    def settle(self, message: Lookup, entry: JournalEntry) -> asyncio.Future[None]:
        """Store durably the outcome of an intended message."""
        return self._perform(lambda store: store.settle(message, entry), durable=True)

    def find(self, message: Lookup, receipt: SendReceipt) -> asyncio.Future[bool]:
        """Store durably that a doubtful message was found sent; return False if another message has this id."""
        return self._perform(lambda store: store.find(message, receipt), durable=True)

    async def end_run(self) -> None:
        """Give the journal back once all writes have ended."""
        try:
            await self._written()
        finally:
            self._in_use = False

    def _perform(self, operation: Callable[[Store], _T], *, durable: bool) -> asyncio.Future[_T]:
        """Queue an operation for the thread, and return a future of its result.

        Operations run in the order of these calls. A durable one is on the disk when it is done, and so is every
        operation before it.
        """
        if self._closed:
            raise RuntimeError("this journal is closed")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()
        self._waiting.append(_Waiting(operation, durable, done))
        if self._writing is None:
            self._writing = loop.create_task(self._write())
        return done

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    results = await loop.run_in_executor(self._thread, self._perform_batch, batch)
                except Exception as error:  # noqa: BLE001 - each error belongs to the callers that wait
                    for waiting in batch:
                        _fail(waiting.done, error)
                else:
                    for waiting, result in zip(batch, results, strict=True):
                        if not waiting.done.done():
                            waiting.done.set_result(result)
        finally:
            self._writing = None

    def _perform_batch(self, batch: list[_Waiting]) -> list[Any]:
        if self._store is None:
            self._store = Store(self._path)
            if self._store.doubtful:
                log("journal.doubtful", journal=str(self._path), doubtful=self._store.doubtful)
        return self._store.perform(
            [waiting.operation for waiting in batch], durable=any(waiting.durable for waiting in batch)
        )

    async def _written(self) -> None:
        while self._writing is not None:
            await asyncio.wait({self._writing})


def _fail(done: asyncio.Future[Any], error: Exception) -> None:
    """Fail a future with its own copy of the error: several callers that raise one object would all change it."""
    if done.done():
        return
    if isinstance(error, JournalError):
        own = JournalError(str(error))
        own.__cause__ = scrub(error)
        error = own
    done.set_exception(error)
    done.exception()  # mark it as retrieved: a cancelled caller never asks for it

"""The journal as asyncio sees it: one thread writes, and whatever waits meanwhile shares the next commit."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attrs import frozen

from oca_sms_async._errors import JournalError
from oca_sms_async._ledger import Ledger, Operation
from oca_sms_async._log import log
from oca_sms_async._scrub import scrub


@frozen
class _Waiting:
    operation: Operation
    durable: bool
    done: asyncio.Future[Any]


class Journal:
    """What became of each message of a bulk, in a file that outlives the process: to be given to `bulk`, `send_many`
    and `reconcile`.

    A run that is given the journal of an earlier one goes on where that one ended, even if it was killed: what was
    sent is skipped, what may have been sent is named and not sent again, the rest is sent. The file is made where
    there is none, when it is first needed; one run at a time may use it, in whatever process. It holds digests of
    numbers, texts and keys, besides states, ids and times: that hides them from a glance, not from whoever has the
    file and tries all numbers. While it is open there is a log beside it (`-wal`), which belongs to it.

    Every trouble with the file is a `JournalError`, a `ValueError` a path that is empty. Leave it by `async with` or
    `aclose()`; afterwards its use is a `RuntimeError`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.fspath(path):
            raise ValueError("path must not be empty: give the journal a file")
        self._path = Path(path).absolute()
        self._ledger: Ledger | None = None
        self._thread = ThreadPoolExecutor(1, "oca-sms-journal")
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._in_use = False
        self._closed = False
        self.resent = 0
        """How many doubtful messages the latest run sent again, because it was told to."""

    def __repr__(self) -> str:
        return f"<Journal {self._path} {'closed' if self._closed else 'open'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the file and give up its lock; nothing more can be kept in it afterwards."""
        self._closed = True
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)  # a lock must not outlive whoever is cancelled here

    async def _close(self) -> None:
        await self._written()
        try:
            if self._ledger is not None:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.close)
        finally:
            self._thread.shutdown(wait=False)

    async def begin_run(self) -> None:
        """Take the journal for one run, as the library does; `JournalError` if another has it or it cannot be used."""
        if self._in_use:
            raise JournalError(f"the journal {self._path} cannot be used: another run uses it")
        self._in_use = True
        try:
            # Durable, so that no other run can take this one's number, whatever becomes of what this one writes next.
            await self.perform(Ledger.begin_run, durable=True)
        except BaseException:
            self._in_use = False
            raise
        self.resent = 0

    async def end_run(self) -> None:
        """Give the journal back when everything has been written."""
        try:
            await self._written()
        finally:
            self._in_use = False

    def perform(self, operation: Operation, *, durable: bool = False) -> asyncio.Future[Any]:
        """Have the thread do something with the file, as the library does; the future is done when it has happened.

        Operations happen in the order of these calls; a durable one is on the disk when it is done, and so is
        whatever went before it. `RuntimeError` once the journal is closed.
        """
        if self._closed:
            raise RuntimeError("this journal is closed")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(operation, durable, loop.create_future())
        self._waiting.append(waiting)
        if self._writing is None:
            self._writing = loop.create_task(self._write())
        return waiting.done

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    results = await loop.run_in_executor(self._thread, self._perform, batch)
                except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to those who wait
                    for waiting in batch:
                        _fail(waiting.done, error)
                else:
                    for waiting, result in zip(batch, results, strict=True):
                        if not waiting.done.done():
                            waiting.done.set_result(result)
        finally:
            self._writing = None

    def _perform(self, batch: list[_Waiting]) -> list[Any]:
        if self._ledger is None:
            self._ledger = Ledger(self._path)
            if self._ledger.doubtful:
                log("journal.doubtful", journal=str(self._path), doubtful=self._ledger.doubtful)
        return self._ledger.perform(
            [waiting.operation for waiting in batch], durable=any(waiting.durable for waiting in batch)
        )

    async def _written(self) -> None:
        while self._writing is not None:
            await asyncio.wait({self._writing})


def _fail(done: asyncio.Future[Any], error: Exception) -> None:
    """End a future by an error of its own: one that was shared would be changed by everybody who raises it."""
    if done.done():
        return
    if isinstance(error, JournalError):
        own = JournalError(str(error))
        own.__cause__ = scrub(error)
        error = own
    done.set_exception(error)
    done.exception()  # seen: who was cancelled in between does not ask for it

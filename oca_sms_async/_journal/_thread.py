"""A thread that does the blocking calls of any number of loops: all calls that come meanwhile are its next batch."""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from attrs import frozen

from oca_sms_async._errors import JournalError
from oca_sms_async._scrub import scrub

_Call = TypeVar("_Call")


@frozen
class _Waiting(Generic[_Call]):
    call: _Call
    done: asyncio.Future[Any]


class BatchThread(Generic[_Call]):
    """A thread for calls in their order. No task of asyncio takes part in the work, for a task can be cancelled.

    `perform` is run in the thread. It takes a batch of calls and returns their results; the result of a call that fails
    alone is its exception. An exception of `perform` goes to all callers of the batch.
    """

    def __init__(self, name: str, perform: Callable[[list[_Call]], list[Any]]) -> None:
        self._perform = perform
        self._thread = ThreadPoolExecutor(1, name)
        self._lock = threading.Lock()
        self._waiting: list[_Waiting[_Call]] = []
        self._working = False
        self._closing: concurrent.futures.Future[None] | None = None

    def submit(self, call: _Call, done: asyncio.Future[Any]) -> None:
        """Queue a call, and end the future with its result. `RuntimeError` if no thread can be started."""
        with self._lock:
            self._waiting.append(_Waiting(call, done))
            idle, self._working = not self._working, True
        if idle:
            try:
                self._thread.submit(self._work)
            except RuntimeError:
                self._waiting, self._working = [], False
                raise

    async def finish(self) -> None:
        """Wait until all calls so far have ended."""
        await _end_of(self._closing or self._thread.submit(int))  # either comes after all work

    async def close(self, last: Callable[[], None]) -> None:
        """End the thread with a last call in it, and wait for that. A second closing waits for the same call."""
        if self._closing is None:
            self._closing = self._thread.submit(last)
            self._thread.shutdown(wait=False)
        await _end_of(self._closing)
        error = self._closing.exception()
        if error is not None:
            raise _own(error)

    def _work(self) -> None:
        while True:
            with self._lock:
                batch, self._waiting = self._waiting, []
                self._working = bool(batch)
            if not batch:
                return
            try:
                results = self._perform([waiting.call for waiting in batch])
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


def _own(error: BaseException) -> BaseException:
    """Return an error for one caller alone: several that raise one object would all change it."""
    if not isinstance(error, JournalError):
        return error
    own = JournalError(str(error))
    own.__cause__ = scrub(error)
    return own

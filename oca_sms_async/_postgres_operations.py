"""The operations of a journal that are under way, each in a task of its own."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import psycopg

from oca_sms_async._errors import JournalClosedError, JournalError

_T = TypeVar("_T")
_P = ParamSpec("_P")


class Operations:
    """Starts operations, and knows when all of them have ended. `explain` makes a `JournalError` of psycopg's.

    Once `closed` is True, each start fails with the sentence `on_closed`.
    """

    def __init__(self, explain: Callable[[psycopg.Error], JournalError], *, on_closed: str) -> None:
        self.closed = False
        self._explain = explain
        self._on_closed = on_closed
        self._pending = set[asyncio.Task[Any]]()

    def start(
        self, operation: Callable[_P, Coroutine[Any, Any, _T]], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]:
        """Start an operation, which goes on even if its caller is cancelled."""
        try:
            started = asyncio.shield(self.spawn(operation, *args, **kwargs))
        except JournalError as error:
            return fail(error)
        started.add_done_callback(lambda done: done.cancelled() or done.exception())  # a caller may never ask for it
        return started

    def spawn(
        self, operation: Callable[_P, Coroutine[Any, Any, _T]], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Task[_T]:
        """Start an operation, which ends if its caller is cancelled."""
        self.check_open()
        task = asyncio.get_running_loop().create_task(self._perform(operation, *args, **kwargs))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        return task

    def check_open(self) -> None:
        """Raise `JournalClosedError` after the closing."""
        if self.closed:
            raise JournalClosedError(self._on_closed)

    async def wait_for_end(self) -> None:
        """Return once no operation is under way."""
        loop = asyncio.get_running_loop()  # a task of an earlier loop, or of the parent process, never ends
        while pending := {task for task in self._pending if task.get_loop() is loop and not task.done()}:
            await asyncio.wait(pending)

    async def _perform(
        self, operation: Callable[_P, Coroutine[Any, Any, _T]], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        try:
            return await operation(*args, **kwargs)
        except psycopg.Error as error:
            failure = self._explain(error)
        raise failure


def fail(error: JournalError) -> asyncio.Future[Any]:
    """Return a future of this error: a caller may start many calls before it awaits the first one."""
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    failed.set_exception(error)
    failed.exception()  # mark it as retrieved
    return failed

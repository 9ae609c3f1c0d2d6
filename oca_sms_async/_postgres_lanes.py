"""The calls of one kind outside of a run: all that wait share the next statement."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

from attrs import frozen

from oca_sms_async._postgres_messages import Names

_T = TypeVar("_T")
_R = TypeVar("_R")

_AT_ONCE: Final = 2  # statements: PostgreSQL puts the commits of both on the disk together
_MOST: Final = 256  # calls in a statement
_GRACE: Final = 0.05  # seconds: the statement's own error comes first, and it tells more


@frozen(eq=False)
class _Call(Generic[_T]):
    names: Names
    identity: bytes
    value: _T
    done: asyncio.Future[Any]


class Lane(Generic[_T, _R]):
    """The calls of one kind. `perform` answers several calls of different messages, in their order.

    Each call has its result or an error within `timeout` seconds. `late` makes the error of a late call.
    An error of `perform` is that of all its calls. The lane belongs to the event loop and the process that use it:
    another loop, or a forked child, begins anew.
    """

    def __init__(
        self,
        perform: Callable[[Names, list[_T]], Awaitable[list[_R]]],
        *,
        timeout: float,
        late: Callable[[], Exception],
    ) -> None:
        self._perform = perform
        self._timeout = timeout
        self._late = late
        self._waiting: list[_Call[_T]] = []
        self._tasks = set[asyncio.Task[None]]()
        self._starting = False
        self._owner: tuple[asyncio.AbstractEventLoop, int] | None = None

    async def call(self, names: Names, identity: bytes, value: _T) -> _R:
        """Return the answer to a call about the message of this name."""
        loop = self._enter()
        call = _Call(names, identity, value, loop.create_future())
        self._waiting.append(call)
        if not self._starting and len(self._tasks) < _AT_ONCE:
            self._starting = True
            task = loop.create_task(self._answer_all())
            self._tasks.add(task)
        try:
            async with asyncio.timeout(self._timeout + _GRACE):
                result: _R = await call.done
        except TimeoutError:
            if call in self._waiting:
                self._waiting.remove(call)
            raise self._late() from None
        return result

    async def wait_for_end(self) -> None:
        """Return once no statement is under way."""
        self._enter()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _enter(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._owner != (loop, os.getpid()):
            self._owner, self._waiting, self._tasks, self._starting = (loop, os.getpid()), [], set(), False
        return loop

    async def _answer_all(self) -> None:
        """Answer all waiting calls."""
        self._starting = False  # the next call may need another task
        tasks, task = self._tasks, asyncio.current_task()
        try:
            await self._answer_batches()
        finally:  # in the same step in which no call waits: a later one would wait for a task that has ended
            tasks.difference_update({task})

    async def _answer_batches(self) -> None:
        while self._waiting:
            batch = self._take()
            try:
                results = await self._perform(batch[0].names, [call.value for call in batch])
            except Exception as error:  # noqa: BLE001 - it belongs to the callers that wait
                for call in batch:
                    if not call.done.done():
                        call.done.set_exception(error)
            else:
                for call, result in zip(batch, results, strict=True):
                    if not call.done.done():
                        call.done.set_result(result)

    def _take(self) -> list[_Call[_T]]:
        """Take calls from the front, no message twice, and no message under the names of other tables."""
        batch: dict[bytes, _Call[_T]] = {}
        left: list[_Call[_T]] = []
        for call in self._waiting:
            if len(batch) < _MOST and call.names == self._waiting[0].names and call.identity not in batch:
                batch[call.identity] = call
            else:
                left.append(call)
        self._waiting = left
        return [*batch.values()]

"""Waits that can be ended together from outside: those of a client that closes, or for a server that is back."""

import asyncio
from typing import Any


class WaitEndedError(Exception):
    """A wait was ended from outside: it is of no more use."""


class EndableWaits:
    """Waits of any kind that can be ended together, in one event loop at a time.

    A closed client ends the waits of its sends this way. Otherwise they would stand before another client's sends in a
    limiter that both use.
    """

    def __init__(self) -> None:
        self._waits = dict[_EndableWait, None]()  # in the order of arrival
        self._loop: asyncio.AbstractEventLoop | None = None

    def endable(self) -> "_EndableWait":
        """Return a context manager around a wait of this task; it raises `WaitEndedError` when `end` ends the wait."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a wait must run in a task")
        if task.get_loop() is not self._loop:  # the waits of a loop before are dead
            self._loop = task.get_loop()
            self._waits.clear()
        return _EndableWait(self._waits, task)

    def end(self) -> None:
        """End all waits of the running loop, in their order: each is cancelled."""
        if asyncio.get_running_loop() is self._loop:  # the waits of a dead loop are dead
            for wait in self._waits:
                wait.end()


class _EndableWait:
    """One wait: asyncio's own time-out does the same, for a time and at twice the cost."""

    __slots__ = ("_cancelling", "_ended", "_task", "_waits")

    def __init__(self, waits: dict["_EndableWait", None], task: asyncio.Task[Any]) -> None:
        self._waits = waits
        self._task = task
        self._cancelling = task.cancelling()
        self._ended = False

    def end(self) -> None:
        """Cancel the wait, once."""
        if not self._ended:
            self._ended = True
            self._task.cancel()

    def __enter__(self) -> None:
        self._waits[self] = None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._waits.pop(self, None)
        # Others may have cancelled the task too, and their cancellation goes on.
        if self._ended and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise WaitEndedError from None

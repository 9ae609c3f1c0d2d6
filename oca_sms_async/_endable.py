"""Waits that can be ended together from outside: those of a client that closes, or for a server that is back."""

import asyncio


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
        """Return a context manager around a wait; it raises `WaitEndedError` when `end` ends the wait."""
        return _EndableWait(self)

    def end(self) -> None:
        """End all waits of the running loop, in their order: each is cancelled."""
        if asyncio.get_running_loop() is self._loop:  # the waits of a dead loop are dead
            for wait in self._waits:
                wait.end()

    def add(self, wait: "_EndableWait") -> None:
        """Count a wait of the running loop, and forget those of a loop before."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._waits.clear()
        self._waits[wait] = None

    def discard(self, wait: "_EndableWait") -> None:
        """Count a wait no longer."""
        self._waits.pop(wait, None)


class _EndableWait:
    """One wait: asyncio's own time-out does the same, for a time and at twice the cost."""

    __slots__ = ("_cancelling", "_ended", "_task", "_waits")

    def __init__(self, waits: EndableWaits) -> None:
        self._waits = waits
        self._ended = False

    def end(self) -> None:
        """Cancel the wait, once."""
        if not self._ended:
            self._ended = True
            self._task.cancel()

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a wait must run in a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._waits.add(self)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._waits.discard(self)
        # Others may have cancelled the task too, and their cancellation goes on.
        if self._ended and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise WaitEndedError from None

"""Waits that can be ended together from outside: those of a client that closes, or for a server that is back."""

import asyncio
from types import TracebackType


class WaitEndedError(Exception):
    """A wait was ended from outside: it is of no more use."""


class EndableWaits:
    """Waits of any kind that can be ended together, in one event loop at a time.

    A closed client ends the waits of its sends this way. Otherwise they would stand before another client's sends in a
    limiter that both use.
    """

    def __init__(self) -> None:
        self._waits = dict[asyncio.Timeout, None]()  # in the order of arrival
        self._loop: asyncio.AbstractEventLoop | None = None

    def endable(self) -> "_EndableWait":
        """Return a context manager around a wait; it raises `WaitEndedError` when `end` ends the wait."""
        return _EndableWait(self)

    def end(self) -> None:
        """End all waits of the running loop, in their order: each is cancelled."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the waits of a dead loop are dead
            return
        for wait in self._waits:
            if not wait.expired():  # else it has ended, and did not run yet
                wait.reschedule(loop.time())

    def add(self, wait: asyncio.Timeout) -> None:
        """Count a wait of the running loop, and forget those of a loop before."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._waits.clear()
        self._waits[wait] = None

    def discard(self, wait: asyncio.Timeout) -> None:
        """Count a wait no longer."""
        self._waits.pop(wait, None)


class _EndableWait:
    """One wait: a time-out without a time, until `end` sets one."""

    __slots__ = ("_timeout", "_waits")

    def __init__(self, waits: EndableWaits) -> None:
        self._waits = waits
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._waits.add(self._timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waits.discard(self._timeout)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:  # of this wait; a `TimeoutError` from within is not raised here, and passes
            raise WaitEndedError from None

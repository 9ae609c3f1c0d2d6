"""A real event loop whose clock a test moves on, for time-outs beside real sockets and servers."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

HANG: Final = 30.0  # seconds; a guard, never waited for


class Clock:
    """The running loop's time, which a test moves on; it goes on by itself, too."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.moved = 0.0
        self._loop = asyncio.get_running_loop()
        self._real = self._loop.time
        self._begin = self._real()
        patch.setattr(self._loop, "time", lambda: self._real() + self.moved)

    @property
    def seconds(self) -> float:
        """How many have passed, those that went by of themselves included."""
        return self._loop.time() - self._begin

    async def move(self, until: "asyncio.Future[Any]", *, at_most: int) -> None:
        """Let so many seconds pass at the most, one after the other, until this is done."""
        end = self.moved + at_most
        await turns()
        while self.moved < end and not until.done():
            self.moved += 1
            await turns()

    async def end(self, call: "asyncio.Future[Any]", *, once: Coroutine[Any, Any, object], at_most: int) -> None:
        """Wait for the end of a call; once nothing but time can bring it, let time pass."""
        stuck = asyncio.create_task(once)
        await asyncio.wait({call, stuck}, timeout=HANG, return_when=asyncio.FIRST_COMPLETED)
        if stuck.done():
            await self.move(call, at_most=at_most)
        stuck.cancel()
        assert call.done(), "it hangs"


async def turns() -> None:
    """Let everybody do what they can without waiting."""
    for _ in range(200):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(HANG):
        while not condition():
            await asyncio.sleep(0)

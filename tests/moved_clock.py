"""A real event loop with a clock that a test moves on, for time-outs beside real sockets and servers."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

HANG: Final = 30.0  # seconds; a test that takes so long hangs


class Clock:
    """The running loop's clock. It runs as usual, and a test moves it on as well."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.moved = 0.0
        self._loop = asyncio.get_running_loop()
        self._real = self._loop.time
        self._begin = self._real()
        patch.setattr(self._loop, "time", lambda: self._real() + self.moved)

    @property
    def seconds(self) -> float:
        """The seconds since the clock was made, moved or not."""
        return self._loop.time() - self._begin

    async def move(self, until: "asyncio.Future[Any]", *, at_most: int) -> None:
        """Move on second by second until this is done, at most so many seconds."""
        end = self.moved + at_most
        await turns()
        while self.moved < end and not until.done():
            self.moved += 1
            await turns()

    async def end(self, call: "asyncio.Future[Any]", *, once: Coroutine[Any, Any, object], at_most: int) -> None:
        """Wait for the end of a call. When `once` ends, the call waits for time alone: move the clock on."""
        stuck = asyncio.create_task(once)
        await asyncio.wait({call, stuck}, timeout=HANG, return_when=asyncio.FIRST_COMPLETED)
        if stuck.done():
            await self.move(call, at_most=at_most)
        stuck.cancel()
        assert call.done(), "it hangs"


async def turns() -> None:
    """Let every task run as far as it can without waiting."""
    for _ in range(200):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that has no event of its own; `TimeoutError` after `HANG` seconds."""
    async with asyncio.timeout(HANG):
        while not condition():
            await asyncio.sleep(0)

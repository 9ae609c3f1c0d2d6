"""An event loop whose clock jumps to the next timer instead of waiting for it, for tests without sockets."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class _JumpingSelector(selectors.SelectSelector):
    """Moves the clock on by the time that it was asked to wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("every task waits, and no timer is set: this would hang for ever")
            self.now += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop; `time()` begins at 1,000 seconds, so that a clock taken for a duration shows."""

    def __init__(self) -> None:
        self._selector_with_clock = _JumpingSelector()
        self._selector_with_clock.now = 1000.0
        super().__init__(self._selector_with_clock)

    def time(self) -> float:
        return self._selector_with_clock.now


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end in a loop of its own, in no time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)

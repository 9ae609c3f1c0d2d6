"""An event loop whose clock jumps to the next timer instead of waiting for it, for tests without sockets."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_MOST_TURNS: Final = 10_000


class _JumpingSelector(selectors.SelectSelector):
    """Moves the clock on by the time that it was asked to wait."""

    now = 0.0
    turns = 0  # of the loop, since the clock last moved

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; where nothing is, move the clock on instead of waiting."""
        self.turns = 0 if timeout else self.turns + 1
        if self.turns > _MOST_TURNS:
            raise RuntimeError("the loop turns and turns, and its clock stands still: this would spin for ever")
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("every task waits, and no timer is set: this would hang for ever")
            self.now += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop; `time()` begins at `start`, by default 1,000 seconds, so that a clock taken for a duration shows."""

    def __init__(self, start: float = 1000.0) -> None:
        self._selector_with_clock = _JumpingSelector()
        self._selector_with_clock.now = start
        super().__init__(self._selector_with_clock)

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._selector_with_clock.now


def run(main: Coroutine[Any, Any, _T], *, start: float = 1000.0) -> _T:
    """Run a coroutine to its end in a loop of its own, whose clock begins at `start`, in no time."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start)) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Make a plain test of an asynchronous one, run in such a loop."""

    @functools.wraps(test)
    def plain(*args: _P.args, **kwargs: _P.kwargs) -> None:
        run(test(*args, **kwargs))

    return plain

"""An event loop with a clock that jumps to the next timer instead of waiting for it, for tests without sockets."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_MOST_TURNS: Final = 10_000


class _JumpingSelector(selectors.SelectSelector):
    """A selector that moves its clock on instead of waiting."""

    now = 0.0
    turns = 0  # of the loop, since the clock last moved

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the ready files; if no file is ready, move the clock on by the timeout."""
        self.turns = 0 if timeout else self.turns + 1
        if self.turns > _MOST_TURNS:
            raise RuntimeError("the loop keeps turning while its clock stands still: this would spin for ever")
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("every task waits and no timer is set: this would hang for ever")
            self.now += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop. Its clock begins at `start`: at 0, a test could mistake a time for a duration."""

    def __init__(self, start: float = 1000.0) -> None:
        self._selector_with_clock = _JumpingSelector()
        self._selector_with_clock.now = start
        super().__init__(self._selector_with_clock)

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._selector_with_clock.now


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


def run(main: Coroutine[Any, Any, _T], *, start: float = 1000.0) -> _T:
    """Run a coroutine to its end in a new loop with its clock at `start`."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start)) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Turn an asynchronous test into a plain one that runs in such a loop."""

    @functools.wraps(test)
    def plain(*args: _P.args, **kwargs: _P.kwargs) -> None:
        run(test(*args, **kwargs))

    return plain

"""The request to end a command that runs in an event loop."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from signal import Signals
from typing import TypeVar, cast

from oca_sms_async.cli._console import complain
from oca_sms_async.cli._signals import ENDING, SignalError

_T = TypeVar("_T")


class Stop:
    """The request to end the command whose task this is.

    At first a signal cancels the task. Within `gently`, the first signal only sets `requested`, and Ctrl-C after it
    cancels the task. A second SIGTERM does not: some programs send it twice. `signal` is the first one that came.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.signal: Signals | None = None
        self._task = cast("asyncio.Task[object]", asyncio.current_task())
        self._gentle = False

    @contextlib.contextmanager
    def gently(self) -> Iterator[None]:
        """Let the work of the block end by itself after a signal."""
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False

    @contextlib.contextmanager
    def cut_short(self) -> Iterator[None]:
        """End the block, but not the task, if Ctrl-C after the first signal cancels it."""
        try:
            yield
        except asyncio.CancelledError:
            if self.signal is None:
                raise
            self._task.uncancel()

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Take the signals in the event loop, except those that are ignored."""
        loop, before = asyncio.get_running_loop(), {}
        for number in (Signals.SIGINT, *ENDING):
            handler = signal.getsignal(number)
            # In the background of a shell Ctrl-C is for another program, and nohup keeps SIGHUP away.
            if handler is signal.SIG_IGN:
                continue
            # Windows has no handlers for an event loop, and only the main thread takes them.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, self._receive, number)
                before[number] = handler
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    def _receive(self, number: Signals) -> None:
        first = self.signal is None
        self.signal = self.signal or number
        if not self._gentle or (number == Signals.SIGINT and not first):
            self._task.cancel()
        elif first:
            complain("stopping: requests on the wire may finish; press Ctrl-C again to cut them short")
            self.requested.set()


def run_in_loop(main: Callable[[Stop], Awaitable[_T]]) -> _T:
    """Run a coroutine as `asyncio.run` does. `SignalError` if a signal cancelled it."""
    stop: Stop | None = None

    async def run() -> _T:
        nonlocal stop
        stop = Stop()
        with stop.listen():
            return await main(stop)

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if stop is None or stop.signal is None:
            raise
        number = stop.signal
    raise SignalError(number)

"""Ctrl-C during a bulk: the first one stops the run, the next one cuts it short."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import cast

from oca_sms_async.cli._console import complain


@contextlib.contextmanager
def listen_for_ctrl_c(stop: asyncio.Event) -> Iterator[None]:
    """Let the first Ctrl-C within the block set `stop`, and each further one cancel the task of the block."""
    loop, task = asyncio.get_running_loop(), cast("asyncio.Task[None]", asyncio.current_task())

    def press() -> None:
        if stop.is_set():
            task.cancel()
        else:
            complain("stopping: requests on the wire may finish; press Ctrl-C again to cut them short")
            stop.set()

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a shell: Ctrl-C is for another program
        yield
        return
    try:
        loop.add_signal_handler(signal.SIGINT, press)
    except (NotImplementedError, RuntimeError):  # on Windows the first one cancels; other threads get no signals
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextlib.contextmanager
def cut_short(stop: asyncio.Event) -> Iterator[None]:
    """End the block, but not the task, if a further Ctrl-C cancels it."""
    try:
        yield
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        cast("asyncio.Task[None]", asyncio.current_task()).uncancel()

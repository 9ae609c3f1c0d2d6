"""The signals that ask a command to end: Ctrl-C, SIGTERM and SIGHUP."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from signal import Signals
from types import FrameType
from typing import Final

# Not every system has a SIGHUP.
ENDING: Final = tuple(Signals[name] for name in ("SIGTERM", "SIGHUP") if name in Signals.__members__)


class SignalError(KeyboardInterrupt):
    """A signal asked the command to end. It is an interruption, as Ctrl-C is."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = Signals(number)


def find_signal(interruption: KeyboardInterrupt) -> Signals:
    """Return the signal behind an interruption."""
    return interruption.signal if isinstance(interruption, SignalError) else Signals.SIGINT


def describe_signal(number: Signals) -> str:
    """Return the words for a command that a signal ended."""
    return {"SIGTERM": "terminated", "SIGHUP": "hung up"}.get(number.name, "interrupted")


@contextlib.contextmanager
def raise_signals() -> Iterator[None]:
    """Raise `SignalError` in the block at a SIGTERM or SIGHUP.

    The first process of a container does not even see a signal that it does not handle. A signal that the parent
    process set to be ignored, as nohup does, stays ignored.
    """

    def end(number: int, _: FrameType | None) -> None:
        raise SignalError(number)

    on_main_thread = threading.current_thread() is threading.main_thread()  # only there Python takes handlers
    taken = [it for it in ENDING if on_main_thread and signal.getsignal(it) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)

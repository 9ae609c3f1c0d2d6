"""The progress of a bulk: its outcomes are counted, and shown as a bar on a terminal, else as plain lines."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from attrs import define, field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from oca_sms_async import Failed, Outcome, SendReceipt, Sent, Skipped
from oca_sms_async.cli._console import on_terminal, show

_LEAST_STEP: Final = 50  # outcomes from one line to the next
_MOST_LINES: Final = 100


@define
class Tally:
    """The counts of a bulk's outcomes.

    `reasons` counts the failed messages by their error. `unknown` is the part of `failed` that may have been sent.
    `retried` is the part of `sent` that took more than one attempt. `earlier` were sent by an earlier run.
    """

    total: int
    sent: int = 0
    retried: int = 0
    reasons: Counter[str] = field(factory=Counter)
    unknown: int = 0
    earlier: int = 0
    skipped: int = 0
    _started: float = field(factory=time.monotonic, init=False)

    @property
    def failed(self) -> int:
        """The messages that were refused, and those that may have been sent."""
        return self.reasons.total()

    @property
    def done(self) -> int:
        """The messages that have an outcome."""
        return self.sent + self.failed + self.earlier + self.skipped

    @property
    def rate(self) -> float:
        """Messages sent or failed per second."""
        return (self.sent + self.failed) / max(time.monotonic() - self._started, 1e-3)

    def note(self, outcome: Outcome) -> None:
        """Count one more outcome."""
        match outcome:
            case Sent(receipt=receipt):
                self.sent += 1
                self.retried += receipt.attempts > 1
            case Failed(error=error):
                self.reasons[str(error)] += 1
                self.unknown += error.may_have_been_sent
            case Skipped(receipt=SendReceipt()):
                self.earlier += 1
            case _:
                self.skipped += 1

    def __str__(self) -> str:
        earlier = f", {self.earlier} sent earlier" if self.earlier else ""
        counts = f"{self.sent} sent{earlier}, {self.failed} failed, {self.unknown} unknown, {self.retried} retried"
        return f"{counts}, {self.rate:.1f}/s"


@contextlib.contextmanager
def show_progress(tally: Tally) -> Iterator[Callable[[Outcome], None]]:
    """Show the tally while the block runs; yield the function that takes each outcome."""
    console = Console()
    on_screen = on_terminal(sys.stdout) and not console.is_dumb_terminal
    with _show_bar(tally, console) if on_screen else _show_lines(tally) as refresh:

        def note(outcome: Outcome) -> None:
            tally.note(outcome)
            refresh()

        yield note


@contextlib.contextmanager
def _show_bar(tally: Tally, console: Console) -> Iterator[Callable[[], None]]:
    columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, expand=True) as progress:
        task = progress.add_task(str(tally), total=tally.total)
        yield lambda: progress.update(task, completed=tally.done, description=str(tally))


@contextlib.contextmanager
def _show_lines(tally: Tally) -> Iterator[Callable[[], None]]:
    every = max(_LEAST_STEP, tally.total // _MOST_LINES)

    def refresh() -> None:
        if tally.done % every == 0 or tally.done == tally.total:
            show(f"{tally.done}/{tally.total}: {tally}")

    yield refresh

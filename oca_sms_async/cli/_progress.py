"""The progress of a bulk: its outcomes are counted, and shown as a bar on a terminal, else as plain lines."""

import contextlib
import io
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import BinaryIO, Final, TextIO

from attrs import define, field
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from oca_sms_async import Failed, Outcome, SendReceipt, Sent, Skipped
from oca_sms_async.cli._console import on_terminal, show
from oca_sms_async.cli._endings import explain

_LEAST_STEP: Final = 50  # outcomes from one line to the next
_MOST_LINES: Final = 100
# The bar takes no more than 79 columns. A terminal that is made narrower breaks a longer line in two, and the bar would
# clear only the second one.
_BAR_WIDTH: Final = 12
_COUNTS_WIDTH: Final = 42
_CHECK_STEP: Final = 500  # rows


@define
class Tally:
    """The counts of a bulk's outcomes.

    `total` counts the messages. `passed` are those of them that repeat a key or a recipient, and `to_send` the others
    that no earlier run has sent. `reasons` counts the failed messages by their error. `unknown` is the part of `failed`
    that may have been sent. `retried` is the part of `sent` that took more than one attempt. `earlier` were sent by an
    earlier run.
    """

    total: int
    to_send: int
    passed: int = 0
    sent: int = 0
    retried: int = 0
    reasons: Counter[str] = field(factory=Counter)
    unknown: int = 0
    earlier: int = 0
    skipped: int = 0
    _attempted: int = field(default=0, init=False)
    _started: float = field(default=0.0, init=False)

    @property
    def failed(self) -> int:
        """The messages that were refused, and those that may have been sent."""
        return self.reasons.total()

    @property
    def done(self) -> int:
        """The messages with an outcome, without those that the run gave up when it stopped."""
        return self.sent + self.failed + self.earlier + min(self.skipped, self.passed)

    @property
    def unsent(self) -> int:
        """The messages that certainly were not sent, though they are meant to be."""
        return self.total - self.passed - self.sent - self.earlier - self.unknown

    @property
    def rate(self) -> float:
        """Messages sent or failed per second, after the first of them."""
        return max(self._attempted - 1, 0) / max(time.monotonic() - self._started, 1e-3)

    def time_left(self) -> timedelta | None:
        """Return the time for the rest of the messages at the rate so far. Before there is a rate, it is `None`."""
        if self._attempted < 2:
            return None
        return timedelta(seconds=round(max(self.to_send - self._attempted, 0) / self.rate))

    def note(self, outcome: Outcome) -> None:
        """Count one more outcome."""
        match outcome:
            case Sent(receipt=receipt):
                self.sent += 1
                self.retried += receipt.attempts > 1
                self._count_attempt()
            case Failed(error=error):
                self.reasons[explain(error)] += 1
                self.unknown += error.may_have_been_sent
                self._count_attempt()
            case Skipped(receipt=SendReceipt()):
                self.earlier += 1
            case _:
                self.skipped += 1

    def describe_briefly(self) -> str:
        """Return the counts that are not zero, and the rate."""
        counts = {"sent": self.sent, "earlier": self.earlier, "failed": self.failed, "unknown": self.unknown}
        return ", ".join([*(f"{count} {name}" for name, count in counts.items() if count), f"{self.rate:.1f}/s"])

    def _count_attempt(self) -> None:
        # The clock starts here: rows that an earlier run sent take no time, and say nothing about the rate.
        if not self._attempted:
            self._started = time.monotonic()
        self._attempted += 1

    def __str__(self) -> str:
        earlier = f", {self.earlier} sent earlier" if self.earlier else ""
        counts = f"{self.sent} sent{earlier}, {self.failed} failed, {self.unknown} unknown, {self.retried} retried"
        return f"{counts}, {self.rate:.1f}/s"


@contextlib.contextmanager
def show_progress(tally: Tally, file: TextIO | None = None) -> Iterator[Callable[[Outcome], None]]:
    """Show the tally while the block runs; yield the function that takes each outcome."""
    console = Console(file=file)
    on_screen = on_terminal(file or sys.stdout) and not console.is_dumb_terminal
    with _show_bar(tally, console) if on_screen else _show_lines(tally, file) as refresh:

        def note(outcome: Outcome) -> None:
            tally.note(outcome)
            refresh()

        yield note


@contextlib.contextmanager
def show_check(stream: BinaryIO, file: TextIO) -> Iterator[Callable[[], None]]:
    """Show on a terminal how much of a file is read while the block runs; yield the function to call for each row."""
    console = Console(file=file)
    if not on_terminal(file) or console.is_dumb_terminal:
        yield lambda: None
        return
    total, rows = stream.seek(0, io.SEEK_END), itertools.count(1)
    columns = (TextColumn("checking"), BarColumn(bar_width=_BAR_WIDTH), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)

        def refresh() -> None:
            if next(rows) % _CHECK_STEP == 0:
                progress.update(task, completed=stream.tell())

        yield refresh


@contextlib.contextmanager
def _show_bar(tally: Tally, console: Console) -> Iterator[Callable[[], None]]:
    with Progress(
        BarColumn(bar_width=_BAR_WIDTH),
        MofNCompleteColumn(),
        TextColumn("{task.description}", table_column=Column(max_width=_COUNTS_WIDTH, no_wrap=True)),
        TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
        console=console,
    ) as progress:
        task = progress.add_task("", total=tally.total, left="-:--:--")

        def refresh() -> None:
            left = tally.time_left()
            text = "-:--:--" if left is None else str(left)
            progress.update(task, completed=tally.done, description=tally.describe_briefly(), left=text)

        refresh()
        yield refresh


@contextlib.contextmanager
def _show_lines(tally: Tally, file: TextIO | None) -> Iterator[Callable[[], None]]:
    every, last = max(_LEAST_STEP, tally.total // _MOST_LINES), 0

    def refresh() -> None:
        nonlocal last
        if tally.done != last and (tally.done % every == 0 or tally.done == tally.total):
            last = tally.done
            show(f"{tally.done}/{tally.total}: {tally}", file=file)

    yield refresh

"""A file of messages put into the queue: each row is checked before the first one is queued."""

import contextlib
import re
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from typing import BinaryIO, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from oca_sms_async import InvalidMessageError, JournalError
from oca_sms_async._journal import Answer
from oca_sms_async.cli._bulk_input import stamp
from oca_sms_async.cli._bulk_options import Session
from oca_sms_async.cli._bulk_plan import show_plan, survey_rows
from oca_sms_async.cli._campaign import Campaign
from oca_sms_async.cli._console import on_terminal, show
from oca_sms_async.cli._endings import CommandError, ExitStatus, explain, while_asking
from oca_sms_async.cli._memory_journal import MemoryJournal
from oca_sms_async.cli._queue_database import Queue
from oca_sms_async.cli._rows import BadRow, RowSms
from oca_sms_async.cli._survey import Survey

_PLACE: Final = re.compile(r"message (\d+): ")
_NO_KEY: Final = "key is missing: the queue knows each message by its key"


class _KeyedCampaign(Campaign):
    """A file in which a row without a key cannot be sent."""

    def messages(self, bad: Callable[[BadRow], None] = lambda _: None) -> Iterator[RowSms]:
        """Yield the rows that can be queued, and give the others to `bad`."""
        for sms in super().messages(bad):
            if sms.key is None:
                bad(BadRow(sms.row, _NO_KEY, line=sms.line))
            else:
                yield sms


async def put_rows(stream: BinaryIO, queue: "Queue | None", session: Session) -> None:
    """Check all rows, then queue them. Without a queue, show the plan."""
    before = stamp(stream)
    campaign = _KeyedCampaign(stream, session.options.layout, MemoryJournal())
    survey = await survey_rows(campaign, session)
    if survey.unsendable and not session.options.skip_invalid:
        line = f"nothing was queued: {survey.unsendable} of {survey.rows} rows cannot be sent"
        raise CommandError(f"{line}; --skip-invalid goes on without them", ExitStatus.USAGE)
    if queue is None:
        show_plan(survey, session)
        return
    if stamp(stream) != before:
        raise CommandError("the file changed while it was checked: nothing was queued", ExitStatus.USAGE)
    lines = array("Q")
    async with queue:
        with while_asking(), _show_progress(survey, session) as advance:
            try:
                queued = await queue.put_many(_choose(campaign, survey, lines, advance))
            except InvalidMessageError as error:
                raise CommandError(_name_line(str(error), lines), ExitStatus.USAGE) from error
            except JournalError as error:
                line = f"{explain(error)}; the same command again queues the rows that are missing"
                raise CommandError(line, ExitStatus.FAILED) from error
    show(f"{queued} queued, {len(lines) - queued} known already", file=session.screen)


async def _choose(
    campaign: Campaign, survey: Survey, lines: "array[int]", advance: Callable[[], None]
) -> AsyncIterator[RowSms]:
    """Yield the rows to queue, and note their lines."""
    duplicates = survey.duplicates
    async for sms, lookup in campaign.entries():
        is_duplicate = sms.row <= len(duplicates) and duplicates[sms.row - 1]
        if lookup.answer is Answer.STORED and not is_duplicate:
            lines.append(sms.line)
            advance()
            yield sms


def _name_line(sentence: str, lines: "array[int]") -> str:
    """Return an error of the queue's with the line of the file, in place of the place among the messages."""
    if (found := _PLACE.match(sentence)) is None:
        return sentence
    line, rest = lines[int(found[1]) - 1], sentence[found.end() :]
    return f"line {line}: {rest}; the rows before it are queued"


@contextlib.contextmanager
def _show_progress(survey: Survey, session: Session) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal while the block runs; yield the function to call for each row."""
    console = Console(file=session.screen)
    if not on_terminal(session.screen) or console.is_dumb_terminal:
        yield lambda: None
        return
    columns = (TextColumn("queueing"), BarColumn(bar_width=12), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=survey.to_send)
        yield lambda: progress.advance(task)

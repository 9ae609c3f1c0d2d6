"""One run over a file of messages: first the outcomes that the journal knows, then the others as they come."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from signal import Signals
from typing import BinaryIO, cast

from attrs import define, field, frozen

from oca_sms_async import AsyncOcaSms, BulkRun, Journal, JournalError, OcaSmsError, Outcome, SendReceipt, Sent, Skipped
from oca_sms_async._journal import Answer, JournalRun, Lookup, earlier_outcome
from oca_sms_async._messages import check_number
from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._rows import REGION, BadRow, RowSms, read_rows
from oca_sms_async.cli._signals import Stop


@frozen
class Ending:
    """The end of a run: by a signal, by an error, or with neither by itself. `resent` messages had been in doubt."""

    signal: Signals | None
    stopped_by: OcaSmsError | None
    resent: int


@frozen
class Campaign:
    """A file of messages, read once for each pass over it, and the journal of its runs."""

    stream: BinaryIO
    template: str | None
    journal: Journal

    def messages(self, bad: Callable[[BadRow], None] = lambda _: None) -> Iterator[RowSms]:
        """Yield the rows that can be sent, and give the others to `bad`; `InputError` if the file cannot be read."""
        try:
            self.stream.seek(0)
            for row in read_rows(self.stream, template=self.template):
                if isinstance(row, BadRow):
                    bad(row)
                else:
                    yield row
        except OSError as error:
            raise InputError(f"the file cannot be read: {error.strerror}") from error

    async def entries(self, bad: Callable[[BadRow], None] = lambda _: None) -> AsyncIterator[tuple[RowSms, Lookup]]:
        """Yield each row that can be sent with the journal's answer about it, and give the others to `bad`."""
        async with JournalRun(self.journal, lambda phone: check_number(phone, REGION)) as journal_run:
            async for sms, entry in journal_run.lookups(self.messages(bad)):
                yield cast(RowSms, sms), entry

    async def run(
        self,
        client: AsyncOcaSms,
        note: Callable[[Outcome], None],
        *,
        concurrency: int,
        resend_unknown: bool,
        stop: Stop | None = None,
        bad: Callable[[BadRow], None] = lambda _: None,
    ) -> Ending:
        """Send the messages, and `note` one outcome for each row that can be sent, also if the run is cut short.

        The other rows are given to `bad`. A request to stop lets requests on the wire finish. Ctrl-C after it cuts them
        short.
        """
        stop = stop or Stop()
        pulled = _PulledRows(self.messages(bad))
        bulk = client.bulk(pulled, concurrency=concurrency, journal=self.journal, resend_unknown=resend_unknown)

        async def drain(outcomes: AsyncIterator[Outcome]) -> None:
            async for outcome in outcomes:
                pulled.pending.discard(cast(RowSms, outcome.sms).row)
                note(outcome)

        run: BulkRun | None = None
        with stop.gently():
            with stop.cut_short():
                async with bulk as run:
                    draining = asyncio.create_task(drain(run))
                    stopping = asyncio.create_task(stop.requested.wait())
                    await asyncio.wait({draining, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    stopping.cancel()
            with stop.cut_short():
                await draining
            stopped_by, resent = (None, 0) if run is None else (run.stopped_by, run.resent)
            if stop.requested.is_set() or stopped_by is not None:
                with stop.cut_short():
                    await self._note_rest(pulled, stopped_by, note, bad)
        return Ending(stop.signal, stopped_by, resent)

    async def _note_rest(
        self,
        pulled: "_PulledRows",
        stopped_by: OcaSmsError | None,
        note: Callable[[Outcome], None],
        bad: Callable[[BadRow], None],
    ) -> None:
        """Note the rows that were never pulled, and those that a second Ctrl-C left without an outcome."""
        if isinstance(stopped_by, JournalError):
            return  # the journal cannot be asked
        async for sms, entry in self.entries(bad):
            if sms.row in pulled.pending and (receipt := find_receipt(entry)) is not None:
                note(Sent(sms, receipt))
            elif sms.row in pulled.pending or sms.row > pulled.last:
                note(earlier_outcome(sms, entry) or Skipped(sms, stopped_by))


@define
class _PulledRows(Iterator[RowSms]):
    """The messages of a run. `last` is the last row that was pulled; `pending` are the rows without an outcome yet."""

    _messages: Iterator[RowSms]
    last: int = 0
    pending: set[int] = field(factory=set)

    def __next__(self) -> RowSms:
        sms = next(self._messages)
        self.last = sms.row
        self.pending.add(sms.row)
        return sms


def find_receipt(lookup: Lookup) -> SendReceipt | None:
    """Return the receipt of the row's own message; a row that repeats a key has no receipt."""
    return lookup.entry.receipt if lookup.answer is Answer.STORED else None

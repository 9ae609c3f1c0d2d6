"""One run over a file of messages: first the outcomes that the journal knows, then the others as they come."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from signal import Signals
from typing import BinaryIO, Final, cast

from attrs import frozen

from oca_sms_async import (
    AsyncOcaSms,
    BulkRun,
    DeliveryUnknownError,
    Failed,
    Journal,
    JournalError,
    OcaSmsError,
    Outcome,
    SendReceipt,
    Sent,
    Skipped,
)
from oca_sms_async._journal import Answer, Lookup, Status, earlier_outcome
from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._layout import Layout
from oca_sms_async.cli._rows import BadRow, RowSms, read_rows
from oca_sms_async.cli._stop import Stop

_ROWS_AT_ONCE: Final = 1000


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
    layout: Layout | None
    journal: Journal

    def messages(self, bad: Callable[[BadRow], None] = lambda _: None) -> Iterator[RowSms]:
        """Yield the rows that can be sent, and give the others to `bad`; `InputError` if the file cannot be read."""
        try:
            self.stream.seek(0)
            for row in read_rows(self.stream, self.layout or Layout()):
                if isinstance(row, BadRow):
                    bad(row)
                else:
                    yield row
        except OSError as error:
            raise InputError(f"the file cannot be read: {error.strerror}") from error

    async def entries(self, bad: Callable[[BadRow], None] = lambda _: None) -> AsyncIterator[tuple[RowSms, Lookup]]:
        """Yield each row that can be sent with the journal's answer about it, and give the others to `bad`."""
        messages = self.messages(bad)
        await self.journal.begin_run()
        try:
            # Many at once: the journal's thread then has one commit for them, and this one does not wait for it often.
            while rows := [*itertools.islice(messages, _ROWS_AT_ONCE)]:
                lookups = [self.journal.lookup_next(sms.key, sms.phone, sms.message) for sms in rows]
                for sms, lookup in zip(rows, lookups, strict=True):
                    yield sms, await lookup
                await asyncio.sleep(0)  # a signal may have come
        finally:
            await self.journal.end_run()

    async def run(
        self,
        client: AsyncOcaSms,
        note: Callable[[Outcome], None],
        *,
        concurrency: int,
        resend_unknown: bool,
        duplicates: Sequence[int] = (),
        stop: Stop | None = None,
        bad: Callable[[BadRow], None] = lambda _: None,
    ) -> Ending:
        """Send the messages, and `note` one outcome for each row that can be sent, also if the run is cut short.

        The other rows are given to `bad`. `duplicates` has a 1 at the place of each row that is not sent. A request to
        stop lets requests on the wire finish. Ctrl-C after it cuts them short.
        """
        stop = stop or Stop()
        pulled = _PulledRows(self.messages(bad), self.journal, duplicates, note)
        bulk = client.bulk(pulled, concurrency=concurrency, journal=self.journal, resend_unknown=resend_unknown)

        async def drain(outcomes: AsyncIterator[Outcome]) -> None:
            async for outcome in outcomes:
                pulled.note(outcome)

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
                await pulled.wait_for_lookups()
            stopped_by, resent = (None, 0) if run is None else (run.stopped_by, run.resent)
            if stop.requested.is_set() or stopped_by is not None:
                with stop.cut_short():
                    await self._note_rest(pulled, stopped_by, bad)
        return Ending(stop.signal, stopped_by, resent)

    async def _note_rest(
        self, pulled: "_PulledRows", stopped_by: OcaSmsError | None, bad: Callable[[BadRow], None]
    ) -> None:
        """Note the rows that were never pulled, and those that a cut left without an outcome."""
        if isinstance(stopped_by, JournalError):
            return  # the journal cannot be asked
        async for sms, entry in self.entries(bad):
            is_pending = sms.row in pulled.pending
            if is_pending and (receipt := find_receipt(entry)) is not None:
                pulled.note(Sent(sms, receipt))
            elif is_pending and entry.answer is Answer.STORED and entry.entry.status is Status.DOUBTFUL:
                cut = DeliveryUnknownError("the run was cut short before the answer", attempts=entry.entry.attempts)
                pulled.note(Failed(sms, cut))
            elif is_pending or sms.row > pulled.last:
                pulled.note(earlier_outcome(sms, entry) or Skipped(sms, stopped_by))


class _PulledRows(Iterator[RowSms]):
    """The messages of a run. `last` is the last row that was pulled; `pending` are the rows without an outcome yet.

    A duplicate is not handed out. The journal is asked for it all the same, because it counts equal messages.
    """

    def __init__(
        self,
        messages: Iterator[RowSms],
        journal: Journal,
        duplicates: Sequence[int],
        note: Callable[[Outcome], None],
    ) -> None:
        self.last = 0
        self.pending = set[int]()
        self._messages = messages
        self._journal = journal
        self._duplicates = duplicates
        self._note = note
        self._noting = set[asyncio.Future[None]]()

    def __next__(self) -> RowSms:
        while True:
            sms = next(self._messages)
            self.last = sms.row
            self.pending.add(sms.row)
            if sms.row > len(self._duplicates) or not self._duplicates[sms.row - 1]:
                return sms
            self._pass_over(sms)

    def note(self, outcome: Outcome) -> None:
        """Note the outcome of a row."""
        self.pending.discard(cast(RowSms, outcome.sms).row)
        self._note(outcome)

    async def wait_for_lookups(self) -> None:
        """Wait for the outcomes of the duplicates."""
        await asyncio.gather(*self._noting, return_exceptions=True)

    def _pass_over(self, sms: RowSms) -> None:
        # The lookup begins here, because the journal counts equal messages in the order of these calls.
        noting = asyncio.ensure_future(
            self._note_duplicate(sms, self._journal.lookup_next(sms.key, sms.phone, sms.message))
        )
        self._noting.add(noting)
        noting.add_done_callback(self._noting.discard)

    async def _note_duplicate(self, sms: RowSms, answer: Awaitable[Lookup]) -> None:
        with contextlib.suppress(JournalError):  # it stops the run, and the row has no outcome
            self.note(earlier_outcome(sms, await answer) or Skipped(sms, None))


def find_receipt(lookup: Lookup) -> SendReceipt | None:
    """Return the receipt of the row's own message; a row that repeats a key has no receipt."""
    return lookup.entry.receipt if lookup.answer is Answer.STORED else None

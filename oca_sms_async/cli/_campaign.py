"""One run over a file of messages: what the journal knows goes into the outcomes first, the rest as it happens."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import BinaryIO, cast

from attrs import define, field, frozen

from oca_sms_async import AsyncOcaSms, BulkRun, Journal, JournalError, OcaSmsError, Outcome, SendReceipt, Sent, Skipped
from oca_sms_async._journal import Answer, JournalRun, Lookup, earlier_outcome
from oca_sms_async._messages import check_number
from oca_sms_async.cli._console import complain
from oca_sms_async.cli._out import OutcomesFile
from oca_sms_async.cli._rows import REGION, BadRow, InputError, RowSms, rows


@frozen
class Ending:
    """How a run ended: by Ctrl-C, by what stopped it, or, with neither, by itself; `resent` messages were in doubt."""

    interrupted: bool
    stopped_by: OcaSmsError | None
    resent: int


@frozen
class Campaign:
    """A file of messages, which is read once for each pass over it, and the journal of its runs."""

    stream: BinaryIO
    template: str | None
    journal: Journal

    def messages(self, bad: Callable[[BadRow], None] = lambda _: None) -> Iterator[RowSms]:
        """Yield the rows that can be sent, and hand the others to `bad`; `InputError` if the file cannot be read."""
        try:
            self.stream.seek(0)
            for row in rows(self.stream, template=self.template):
                if isinstance(row, BadRow):
                    bad(row)
                else:
                    yield row
        except OSError as error:
            raise InputError(f"the file cannot be read: {error.strerror}") from error

    async def entries(self, bad: Callable[[BadRow], None] = lambda _: None) -> AsyncIterator[tuple[RowSms, Lookup]]:
        """Yield each row that can be sent with what the journal knows of it, and hand the others to `bad`."""
        async with JournalRun(self.journal, lambda phone: check_number(phone, REGION)) as journal_run:
            async for sms, entry in journal_run.lookups(self.messages(bad)):
                yield cast(RowSms, sms), entry

    async def rebuild(self, out: OutcomesFile) -> None:
        """Write what is known already: the rows that an earlier run sent, and those that cannot be sent."""
        async for sms, entry in self.entries(lambda row: out.write(row, "failed", error=row.reason)):
            if (receipt := _receipt(entry)) is not None:
                out.write(sms, "sent", msg_uid=receipt.msg_uid, attempts=receipt.attempts)
        out.keep()

    async def run(
        self,
        client: AsyncOcaSms,
        note: Callable[[Outcome], None],
        *,
        concurrency: int,
        resend_unknown: bool,
    ) -> Ending:
        """Send what is to be sent, and `note` one outcome for every row that can be sent, however the run ends.

        The first Ctrl-C lets what is on the wire end, the second does not.
        """
        pulled = _Pulled(self.messages())
        bulk = client.bulk(pulled, concurrency=concurrency, journal=self.journal, resend_unknown=resend_unknown)
        stop = asyncio.Event()

        async def drain(outcomes: AsyncIterator[Outcome]) -> None:
            async for outcome in outcomes:
                pulled.pending.discard(cast(RowSms, outcome.sms).row)
                note(outcome)

        run: BulkRun | None = None
        with _ctrl_c(stop):
            with _given_up(stop):
                async with bulk as run:
                    drained = asyncio.create_task(drain(run))
                    stopping = asyncio.create_task(stop.wait())
                    await asyncio.wait({drained, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    stopping.cancel()
            with _given_up(stop):
                await drained
            stopped_by, resent = (None, 0) if run is None else (run.stopped_by, run.resent)
            if stop.is_set() or stopped_by is not None:
                with _given_up(stop):
                    await self._note_rest(pulled, stopped_by, note)
        return Ending(stop.is_set(), stopped_by, resent)

    async def _note_rest(
        self, pulled: "_Pulled", stopped_by: OcaSmsError | None, note: Callable[[Outcome], None]
    ) -> None:
        """Note the rows that were never pulled, and those that a second Ctrl-C left without an outcome."""
        if isinstance(stopped_by, JournalError):
            return  # it cannot be asked
        async for sms, entry in self.entries():
            if sms.row in pulled.pending and (receipt := _receipt(entry)) is not None:
                note(Sent(sms, receipt))
            elif sms.row in pulled.pending or sms.row > pulled.last:
                note(earlier_outcome(sms, entry) or Skipped(sms, stopped_by))


@define
class _Pulled(Iterator[RowSms]):
    """The messages of a run: the `last` row that was pulled, and the rows `pending`, whose outcome is not known yet."""

    _messages: Iterator[RowSms]
    last: int = 0
    pending: set[int] = field(factory=set)

    def __next__(self) -> RowSms:
        sms = next(self._messages)
        self.last = sms.row
        self.pending.add(sms.row)
        return sms


def _receipt(lookup: Lookup) -> SendReceipt | None:
    """Return the receipt of the row's own message; a row that repeats a key has none."""
    return lookup.entry.receipt if lookup.answer is Answer.STORED else None


@contextlib.contextmanager
def _given_up(stop: asyncio.Event) -> Iterator[None]:
    """End the block, and no more than that, where another Ctrl-C after the first cancels it."""
    try:
        yield
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        cast("asyncio.Task[None]", asyncio.current_task()).uncancel()


@contextlib.contextmanager
def _ctrl_c(stop: asyncio.Event) -> Iterator[None]:
    """Have the first Ctrl-C within the block set `stop`, and the next ones cancel whoever entered it."""
    loop, task = asyncio.get_running_loop(), cast("asyncio.Task[None]", asyncio.current_task())

    def pressed() -> None:
        if stop.is_set():
            task.cancel()
        else:
            complain("stopping: what is on the wire may end; Ctrl-C once more does not wait for it")
            stop.set()

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background, where Ctrl-C means others
        yield
        return
    try:
        loop.add_signal_handler(signal.SIGINT, pressed)
    except (NotImplementedError, RuntimeError):  # on Windows the first one cancels; other threads hear of none
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)

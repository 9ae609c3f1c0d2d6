"""One run over a journal: its answer before a message is sent, and the notes around its sending."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Final, Self

from attrs import evolve

from oca_sms_async._call import CallState
from oca_sms_async._errors import (
    ApiError,
    DeliveryUnknownError,
    InvalidMessageError,
    JournalError,
    OcaSmsError,
    safe_code,
)
from oca_sms_async._journal._protocol import Journal
from oca_sms_async._journal._values import Answer, JournalEntry, Lookup, Status
from oca_sms_async._messages import check_key, check_text
from oca_sms_async._models import SendReceipt, Sms
from oca_sms_async._outcomes import Failed, Outcome, Sent, Skipped
from oca_sms_async._sources import MessageSource

_CHUNK: Final = 256  # messages looked up at once


class ClaimLostError(Exception):
    """Another run or send got the message. Its caller decides about that; no request was made."""


class JournalRun:
    """A run's use of its journal, while it is entered.

    `number` returns the E.164 number of a phone in any spelling. `seconds` bounds one attempt. With `resend_unknown`,
    the run sends messages again that an earlier run left in doubt; `resent` counts them.
    """

    def __init__(
        self,
        journal: Journal,
        number: Callable[[str], str],
        *,
        seconds: float = 0.0,
        resend_unknown: bool = False,
    ) -> None:
        self.resent = 0
        self._seconds = seconds
        self._journal = journal
        self._number = number
        self._resend_unknown = resend_unknown

    async def __aenter__(self) -> Self:
        await self._journal.begin_run()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._journal.end_run()

    def lookup(self, sms: Sms) -> Awaitable[Lookup]:
        """Look the run's next message up. Equal messages are counted in the order of these calls."""
        try:
            number = self._number(sms.phone)
            check_text(sms.message)
            check_key(sms.key)
        except InvalidMessageError as error:
            refused = asyncio.get_running_loop().create_future()
            refused.set_exception(error.with_traceback(None))
            refused.exception()  # retrieved, even if the worker is cancelled before it asks
            return refused
        return self._journal.lookup_next(sms.key, number, sms.message)

    async def lookups(self, messages: Iterable[Sms] | AsyncIterable[Sms]) -> AsyncIterator[tuple[Sms, Lookup]]:
        """Yield each valid message with the journal's answer about it; nothing is sent."""
        source = MessageSource(messages)
        while chunk := [sms for _ in range(_CHUNK) if (sms := await source.pull()) is not None]:
            for sms, answer in [(sms, self.lookup(sms)) for sms in chunk]:
                try:
                    lookup = await answer
                except InvalidMessageError:
                    continue
                yield sms, lookup

    def earlier_outcome(self, sms: Sms, lookup: Lookup) -> Outcome | None:
        """Return the outcome of a message that this run does not send, or `None` for one that it sends."""
        return None if self._resends(lookup) else earlier_outcome(sms, lookup)

    def intent(self, lookup: Lookup, call: CallState) -> "Intent":
        """Return the intent to send this message, to be entered around its sending."""
        if not self._resends(lookup):
            return Intent(self._journal, lookup, call, seconds=self._seconds)
        call.doubt(_left_in_doubt(lookup.entry))
        return Intent(self._journal, lookup, call, seconds=self._seconds, on_recorded=self._count_resent)

    def find(self, lookup: Lookup, receipt: SendReceipt) -> Awaitable[bool]:
        """Note that a doubtful message was sent, unless another one has its id already; return whether it was noted."""
        return self._journal.find(lookup, receipt)

    def _count_resent(self) -> None:
        self.resent += 1

    def _resends(self, lookup: Lookup) -> bool:
        return self._resend_unknown and lookup.answer is Answer.STORED and lookup.entry.status is Status.DOUBTFUL


class Intent:
    """The journal around the sending of one message: doubt before the first byte, the outcome before it is told.

    Leaving the block waits until the outcome is durable. Leaving it by an error of ours waits too; leaving it by any
    other exception does not. Then the journal holds the message as sent, in doubt or unsent, as its call knows it.
    `JournalError` if that cannot be kept.
    """

    def __init__(
        self,
        journal: Journal,
        lookup: Lookup,
        call: CallState,
        *,
        seconds: float,
        on_recorded: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._lookup = lookup
        self._call = call
        self._seconds = seconds
        self._on_recorded = on_recorded
        self._receipt: SendReceipt | None = None
        self._error: OcaSmsError | None = None
        self._recorded: asyncio.Future[bool] | None = None

    async def record(self) -> None:
        """Make durable that a request is about to start. `ClaimLostError` if another run or send got the message."""
        self._recorded = asyncio.ensure_future(self._journal.intend(self._lookup, seconds=self._seconds))
        # The write finishes even if this task is cancelled; the block's end needs to know how.
        if not await asyncio.shield(self._recorded):
            self._recorded = None  # the message is another's, and so is its outcome
            raise ClaimLostError
        self._on_recorded()

    def conclude(self, outcome: Outcome) -> Outcome:
        """Return the outcome with the attempts of earlier runs added, and remember its receipt."""
        match outcome:
            case Sent(sms=sms, receipt=receipt):
                return Sent(sms, self.keep(receipt))
            case Failed(error=error):
                self._error = error
        return outcome

    def keep(self, receipt: SendReceipt) -> SendReceipt:
        """Return a receipt with the attempts of earlier runs added, and remember it."""
        self._receipt = evolve(receipt, attempts=self._lookup.entry.attempts + receipt.attempts)
        return self._receipt

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._recorded is None:
            return
        if isinstance(error, OcaSmsError):
            self._error = error
        settled = asyncio.ensure_future(self._journal.settle(self._lookup, self._entry()))
        if error is not None and not isinstance(error, OcaSmsError):  # cancelled, or a bug: no caller waits
            return
        try:
            await settled
        except JournalError as lost:
            await asyncio.wait({self._recorded})  # a journal that was closed refuses this while the intent is written
            if not self._recorded.cancelled() and self._recorded.exception() is None:
                self._call.doubt(lost)  # a later run will see it so
            elif error is not None:
                return  # nothing was recorded, and this error says why
            raise

    def _entry(self) -> JournalEntry:
        earlier, call = self._lookup.entry.attempts, self._call
        if self._receipt is not None:
            return JournalEntry(Status.SENT, self._receipt, self._receipt.attempts)
        name = None if self._error is None else type(self._error).__name__
        code = safe_code(self._error.code) if isinstance(self._error, ApiError) else None
        if call.may_have_been_sent:
            return JournalEntry(Status.DOUBTFUL, attempts=earlier + call.attempts, error=name, code=code)
        return JournalEntry(Status.UNSENT, error=name, code=code)


def earlier_outcome(sms: Sms, lookup: Lookup) -> Outcome | None:
    """Return the outcome that the journal answers with, or None for a message that certainly was not sent."""
    match lookup.answer, lookup.entry.status:
        case Answer.REPEATED, _:
            return Skipped(sms, None)
        case Answer.KEY_CONFLICT, _:
            return Failed(sms, InvalidMessageError("key names a message of another number or text already"))
        case _, Status.SENT:
            return Skipped(sms, None, lookup.entry.receipt)
        case _, Status.DOUBTFUL:
            return Failed(sms, _left_in_doubt(lookup.entry))
    return None


def _left_in_doubt(entry: JournalEntry) -> DeliveryUnknownError:
    return DeliveryUnknownError(
        "an earlier run left in doubt whether this message was sent: look it up, or decide to send it again",
        attempts=entry.attempts,
    )

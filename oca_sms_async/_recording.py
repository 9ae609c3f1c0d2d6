"""One run's use of a journal: what is known of a message before it is sent, and what is noted around its sending."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Final, Self

from attrs import evolve

from oca_sms_async._errors import DeliveryUnknownError, InvalidMessageError, JournalError
from oca_sms_async._journal import Journal
from oca_sms_async._ledger import Entry, Standing
from oca_sms_async._messages import check_key, check_text
from oca_sms_async._models import SendReceipt, Sms
from oca_sms_async._outcomes import Failed, Outcome, Sent, Skipped
from oca_sms_async._retry import Call
from oca_sms_async._sources import MessageSource

_CHUNK: Final = 256  # messages looked up at once


class Recording:
    """A run's use of its journal, while it is entered; `number` returns the E.164 number of a phone in any spelling.

    With `resend_unknown`, messages that an earlier run left in doubt are sent again.
    """

    def __init__(self, journal: Journal, number: Callable[[str], str], *, resend_unknown: bool = False) -> None:
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

    def enter(self, sms: Sms) -> Awaitable[Entry]:
        """Look the run's next message up; the order of these calls is the order in which equal messages are counted."""
        try:
            number = self._number(sms.phone)
            check_text(sms.message)
            check_key(sms.key)
        except InvalidMessageError as error:
            refused = asyncio.get_running_loop().create_future()
            refused.set_exception(error.with_traceback(None))
            refused.exception()  # seen, whether or not anybody comes to ask
            return refused
        return self._journal.perform(lambda ledger: ledger.enter(sms.key, number, sms.message))

    async def entries(self, messages: Iterable[Sms] | AsyncIterable[Sms]) -> AsyncIterator[tuple[Sms, Entry]]:
        """Yield each valid message with what is known of it; nothing is sent."""
        pull = MessageSource(messages).pull
        while chunk := [sms for _ in range(_CHUNK) if (sms := await pull()) is not None]:
            for sms, entered in [(sms, self.enter(sms)) for sms in chunk]:
                try:
                    entry = await entered
                except InvalidMessageError:
                    continue
                yield sms, entry

    async def outcome(
        self, sms: Sms, call: Call, entered: Awaitable[Entry], send: Callable[[Sms, Call], Awaitable[Outcome]]
    ) -> Outcome:
        """Return what the journal knows of the message, or send it and note what becomes of it before it is told."""
        call.recording = True
        try:
            entry = await entered
        except InvalidMessageError as error:
            return Failed(sms, error.with_traceback(None))
        finally:
            call.recording = False
        resent = self._resend_unknown and entry.standing is Standing.DOUBTFUL
        if not resent and (outcome := known(sms, entry)) is not None:
            return outcome
        if resent:
            call.doubt, call.last = True, _left_in_doubt(entry)
        admit = call.admit
        intent: asyncio.Future[None] | None = None

        async def intend() -> None:
            nonlocal intent
            await admit()
            intent = self._journal.perform(lambda ledger: ledger.intend(entry), durable=True)
            await asyncio.shield(intent)  # how it ends counts, even for who is cancelled meanwhile
            self._journal.resent += resent

        call.admit = intend
        try:
            outcome = await send(sms, call)
        except BaseException:  # cancelled, or a bug: whoever was not on the wire yet is not in doubt
            if intent is not None:
                self._settle(entry, call, None)
            raise
        return outcome if intent is None else await self._kept(entry, call, outcome, intent)

    async def _kept(self, entry: Entry, call: Call, outcome: Outcome, intent: asyncio.Future[None]) -> Outcome:
        """Return the outcome of an intended message when it is on the disk."""
        call.recording = True
        receipt = None
        if isinstance(outcome, Sent):
            receipt = evolve(outcome.receipt, attempts=entry.attempts + outcome.receipt.attempts)
            outcome = Sent(outcome.sms, receipt)
        try:
            await self._settle(entry, call, receipt)
        except JournalError:
            call.doubt = call.doubt or intent.exception() is None  # so a later run will see it
            raise
        return outcome

    def find(self, entry: Entry, receipt: SendReceipt) -> Awaitable[bool]:
        """Note that a doubtful message was sent, unless another one has its id already; return whether it was noted."""
        return self._journal.perform(lambda ledger: ledger.find(entry, receipt), durable=True)

    def _settle(self, entry: Entry, call: Call, receipt: SendReceipt | None) -> Awaitable[None]:
        """Note, and make durable, what became of an intended message."""
        if receipt is not None:
            standing, attempts = Standing.SENT, receipt.attempts
        elif call.doubt:
            standing, attempts = Standing.DOUBTFUL, entry.attempts + call.attempts
        else:
            standing, attempts = Standing.UNSENT, 0
        return self._journal.perform(lambda ledger: ledger.settle(entry, standing, attempts, receipt), durable=True)


def known(sms: Sms, entry: Entry) -> Outcome | None:
    """Return the outcome of a message that is not to be sent (again), or None for one that is."""
    match entry.standing:
        case Standing.SENT:
            return Skipped(sms, None, entry.receipt)
        case Standing.REPEATED:
            return Skipped(sms, None)
        case Standing.CONTRADICTED:
            return Failed(sms, InvalidMessageError("key names a message of another number or text already"))
        case Standing.DOUBTFUL:
            return Failed(sms, _left_in_doubt(entry))
        case Standing.UNSENT:
            return None


def _left_in_doubt(entry: Entry) -> DeliveryUnknownError:
    return DeliveryUnknownError(
        "an earlier run left in doubt whether this message was sent: reconcile, or resend_unknown=True sends it again",
        attempts=entry.attempts,
    )

"""Sends with a key: of all sends of one key, wherever they share the journal, exactly one makes a request at a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from oca_sms_async._call import CallState
from oca_sms_async._errors import DeliveryUnknownError, ExpiredError, InvalidMessageError, JournalError, OcaSmsError
from oca_sms_async._journal import Answer, ClaimLostError, Intent, Journal, Lookup, Status
from oca_sms_async._models import SendReceipt

_FIRST_LOOK: Final = 0.02  # seconds until the journal is asked again about a message that another process sends
_LONGEST_LOOK: Final = 0.5  # seconds between two looks


class KeyedSends:
    """The sends of one client that have a key.

    `seconds` bounds one attempt: for so long after its start, another process may still be about to hear of it.
    """

    def __init__(self, journal: Journal, *, seconds: float) -> None:
        self._journal = journal
        self._seconds = seconds
        self._under_way = dict[str, asyncio.Future[bool]]()

    async def send(
        self,
        key: str,
        number: str,
        message: str,
        *,
        deadline: float | None,
        send: Callable[[CallState], Awaitable[SendReceipt]],
        call: CallState,
    ) -> SendReceipt:
        """Return the receipt of an earlier send of this key, or send and return the new one.

        `deadline` is in the loop's time. `DeliveryUnknownError` for a message that is in doubt, `InvalidMessageError`
        for a key of another number or text, `ExpiredError` if the deadline comes while another send is under way.
        """
        async with self._alone(key, deadline, call) as sent_meanwhile:
            look, doubted = _FIRST_LOOK, sent_meanwhile
            while True:
                lookup = await self._lookup(key, number, message, call, doubted=doubted)
                if lookup.answer is Answer.KEY_CONFLICT:
                    raise InvalidMessageError("key names a message of another number or text already")
                if lookup.entry.status is Status.SENT and lookup.entry.receipt is not None:
                    call.replay()
                    return lookup.entry.receipt
                if lookup.entry.status is Status.DOUBTFUL:
                    if lookup.busy_for <= 0:
                        raise _doubt(call, _earlier_doubt(lookup))
                    doubted = True
                    await _sleep(min(look, lookup.busy_for), deadline, call)
                    look = min(2 * look, _LONGEST_LOOK)
                else:
                    with contextlib.suppress(ClaimLostError):  # to another process, which may be at work now
                        return await self._attempt(lookup, send, call)

    async def _lookup(self, key: str, number: str, message: str, call: CallState, *, doubted: bool) -> Lookup:
        """Ask the journal; without its answer, a message that another send may have sent stays in doubt."""
        try:
            return await self._journal.lookup_key(key, number, message)
        except JournalError as error:
            if not doubted:
                raise
            line = "the journal cannot tell what became of another send of this key"
            raise _doubt(call, DeliveryUnknownError(line)) from error

    async def _attempt(
        self, lookup: Lookup, send: Callable[[CallState], Awaitable[SendReceipt]], call: CallState
    ) -> SendReceipt:
        """Send the message and return its receipt; `ClaimLostError` if another process got it."""
        intent = Intent(self._journal, lookup, call, seconds=self._seconds)
        call.record_by(intent.record)
        try:
            async with intent:
                return intent.keep(await send(call))
        except JournalError as error:
            if not call.may_have_been_sent:
                raise
            unknown = DeliveryUnknownError("the journal could not keep the message's outcome")
            raise call.conclude(unknown) from error

    @contextlib.asynccontextmanager
    async def _alone(self, key: str, deadline: float | None, call: CallState) -> AsyncIterator[bool]:
        """Let one send of a key at a time into the block; the others wait in this process, and ask the journal then.

        Yield whether one that was waited for may have sent the message.
        """
        loop, sent_meanwhile = asyncio.get_running_loop(), False
        # A send of a dead loop, or of the process before a fork, does not end here any more.
        while (other := self._under_way.get(key)) is not None and other.get_loop() is loop:
            sent_meanwhile = await _until(other, deadline, call) or sent_meanwhile
        mine = self._under_way[key] = loop.create_future()
        try:
            yield sent_meanwhile
        finally:
            if self._under_way.get(key) is mine:
                del self._under_way[key]
            mine.set_result(sent_meanwhile or call.may_have_been_sent or call.is_replay)


async def _until(other: asyncio.Future[bool], deadline: float | None, call: CallState) -> bool:
    loop = asyncio.get_running_loop()
    await asyncio.wait({other}, timeout=None if deadline is None else deadline - loop.time())
    if not other.done():
        raise _doubt(call, _expiry())
    return other.result()


async def _sleep(seconds: float, deadline: float | None, call: CallState) -> None:
    now = asyncio.get_running_loop().time()
    if deadline is not None and now + seconds >= deadline:
        raise _doubt(call, _expiry())
    await asyncio.sleep(seconds)


def _doubt(call: CallState, error: OcaSmsError) -> OcaSmsError:
    """Return an error after the call has noted its doubt, so that counts and observer say the same."""
    call.doubt(error)
    return error


def _expiry() -> ExpiredError:
    line = "the message expired while another send of its key was under way"
    return ExpiredError(line, may_have_been_sent=True)


def _earlier_doubt(lookup: Lookup) -> DeliveryUnknownError:
    return DeliveryUnknownError(
        "an earlier send of this key left in doubt whether the message was sent: look it up, or reconcile",
        attempts=lookup.entry.attempts,
    )

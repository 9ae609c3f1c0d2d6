"""The messages that the sandbox accepted, in the order of their arrival. It sends none of them."""

import asyncio
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final, overload

import attrs

from oca_sms_async._phone import mask_phone, normalize_phone
from oca_sms_async.sandbox._changes import Changes
from oca_sms_async.sandbox._one_time_codes import find_code

_AT_ONCE: Final = ((0.0, "sent"),)
_DEFAULT_API: Final = "regular-v1"
_MOST_FAULTS: Final = 20  # kept of one message


@attrs.frozen
class Message:
    """An accepted message; its repr shows neither the text nor the whole number.

    `phone` is E.164 with its plus, `created_at` is aware, `segments` is the message's cost in quota. `attempts` counts
    the POSTs of this number and text up to the accepted one. The count starts anew after a POST that was accepted and
    answered as it should be. `faults` are the kinds that were played on those POSTs, the oldest first. `status` and
    `updated_at` move on with time. `api` is the API that the message came by, like `premium-v2`, and `sender_id` its
    sender, which only Premium has.
    """

    msg_uid: str
    phone: str = attrs.field(repr=mask_phone)
    text: str = attrs.field(repr=False)
    created_at: datetime
    segments: int
    attempts: int
    faults: tuple[str, ...] = ()
    _stages: Sequence[tuple[float, str]] = attrs.field(default=_AT_ONCE, repr=False, eq=False)  # (age, status)
    api: str = attrs.field(default=_DEFAULT_API, kw_only=True)
    sender_id: str | None = attrs.field(default=None, kw_only=True)
    _accepted_at: float = attrs.field(init=False, repr=False, eq=False)

    _code: str | None = attrs.field(init=False, repr=False, eq=False)  # found once: searches ask every message for it

    @_code.default
    def _find_code(self) -> str | None:
        return find_code(self.text)

    @_accepted_at.default
    def _now(self) -> float:
        return monotonic()

    @property
    def status(self) -> str:
        """`submited` as the vendor spells it, `sent`, `delivered` or `failed`."""
        return self._stage()[1]

    @property
    def updated_at(self) -> datetime:
        """The time of the status's last change; aware."""
        return self.created_at + timedelta(seconds=self._stage()[0])

    @property
    def code(self) -> str | None:
        """The one-time password in the text, or `None`."""
        return self._code

    def _stage(self) -> tuple[float, str]:
        age = monotonic() - self._accepted_at
        return [stage for stage in self._stages if stage[0] <= age][-1]


@attrs.define
class Tally:
    """The POSTs of one number and text: all of them, and the attempts since the last accepted and answered one."""

    posts: int = 0
    attempts: int = 0
    faults: tuple[str, ...] = ()  # the kinds played on the attempts, the newest of them

    def note(self, fault: str) -> None:
        """Count a POST, accepted or not; `fault` is the kind that is played, or ""."""
        self.posts += 1
        self.attempts += 1
        if fault:
            self.faults = (*self.faults, fault)[-_MOST_FAULTS:]

    def end(self) -> None:
        """Start anew: the message has its answer, and the next POST is another message."""
        self.attempts, self.faults = 0, ()


class Inbox(Sequence[Message]):
    """A read-only sequence of the accepted messages, the oldest first. The gateway's history has the same messages.

    It keeps all of them, about 1 kB each, until `clear()`. It may be read and awaited in any thread and event loop, not
    only in the loop that serves the sandbox.
    """

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._by_uid: dict[str, Message] = {}
        self._latest: dict[str, Message] = {}
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._changes = Changes()

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        return self._messages[index]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)}>"

    def clear(self) -> None:
        """Forget every message and every counted attempt, as if nothing had arrived yet."""
        # New collections: another thread may still iterate over the old ones.
        self._messages, self._by_uid, self._latest, self._tallies = [], {}, {}, {}
        self._changes.announce()

    def find(self, msg_uid: str) -> Message | None:
        """Return the message with this id, or `None`."""
        return self._by_uid.get(msg_uid)

    def latest(self, phone: str) -> Message | None:
        """Return the newest message to a number (any spelling), or `None`; `ValueError` for an impossible number."""
        return self._latest.get(normalize_phone(phone))

    async def wait_for(self, phone: str, *, timeout: float = 5.0) -> Message:  # noqa: ASYNC109 - the contract's own
        """Return the newest message to a number (any spelling); wait at most `timeout` seconds for the first one.

        `TimeoutError` if no message arrives by then, `ValueError` for an impossible number.
        """
        number = normalize_phone(phone)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    change = self.change()  # before the look, or a message that comes between the two is missed
                    try:
                        if (message := self._latest.get(number)) is not None:
                            return message
                        await asyncio.wrap_future(change)
                    finally:
                        change.cancel()
        except TimeoutError:
            raise TimeoutError(f"no message to {mask_phone(number)} has arrived within {timeout:g} s") from None

    def code(self, phone: str) -> str:
        """Return the one-time password in the newest message to a number (any spelling).

        `LookupError` if there is no message or no code in it, `ValueError` for an impossible number.
        """
        message = self.latest(phone)
        if message is None:
            raise LookupError(f"no message to {mask_phone(normalize_phone(phone))} has arrived")
        if message.code is None:
            raise LookupError(f"the newest message to {mask_phone(message.phone)} has no code of 4 to 8 digits")
        return message.code

    def change(self) -> Future[None]:
        """Return a future that is done with the next change. Cancel it to stop waiting."""
        return self._changes.next()

    def tally(self, phone: str, text: str) -> Tally:
        """Return the tally of this number (E.164) and text."""
        return self._tallies.setdefault((phone, text), Tally())

    def deliver(
        self,
        phone: str,
        text: str,
        *,
        segments: int,
        stages: Sequence[tuple[float, str]],
        api: str = _DEFAULT_API,
        sender_id: str | None = None,
        msg_uid: str | None = None,
    ) -> Message:
        """Keep an accepted message and return it; its status at ages in seconds is in `stages`. `None`: a fresh id."""
        tally = self.tally(phone, text)
        message = Message(
            msg_uid=uuid.uuid4().hex if msg_uid is None else msg_uid,
            phone=phone,
            text=text,
            created_at=datetime.now(UTC),
            segments=segments,
            attempts=tally.attempts,
            faults=tally.faults,
            stages=stages,
            api=api,
            sender_id=sender_id,
        )
        self._messages.append(message)
        self._by_uid[message.msg_uid] = message
        self._latest[phone] = message
        self._changes.announce()
        return message

"""What the sandbox would have sent: the messages that it accepted, in the order of their arrival."""

import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import overload

import attrs

from oca_sms_async._phone import masked


@attrs.frozen
class Message:
    """An accepted message; its repr shows neither the text nor the whole number.

    `phone` is E.164 with its plus, `created_at` is aware, `segments` is what the message cost of the quota, and
    `attempts` counts the POSTs for this number and text that were seen up to and including the accepted one.
    """

    msg_uid: str
    phone: str = attrs.field(repr=masked)
    text: str = attrs.field(repr=False)
    status: str
    created_at: datetime
    segments: int
    attempts: int


class Inbox(Sequence[Message]):
    """A read-only sequence of the accepted messages, the oldest first; it is also what the gateway's history tells."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._by_uid: dict[str, Message] = {}
        self._attempts: Counter[tuple[str, str]] = Counter()

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
        self._messages.clear()
        self._by_uid.clear()
        self._attempts.clear()

    def find(self, msg_uid: str) -> Message | None:
        """Return the message with this id, or None."""
        return self._by_uid.get(msg_uid)

    def note_attempt(self, phone: str, text: str) -> None:
        """Count a POST for this number (E.164) and text, whatever becomes of it."""
        self._attempts[phone, text] += 1

    def deliver(self, phone: str, text: str, *, segments: int) -> Message:
        """Keep an accepted message under a fresh id and return it."""
        message = Message(
            msg_uid=uuid.uuid4().hex,
            phone=phone,
            text=text,
            status="sent",
            created_at=datetime.now(UTC),
            segments=segments,
            attempts=self._attempts[phone, text],
        )
        self._messages.append(message)
        self._by_uid[message.msg_uid] = message
        return message

"""The values that a journal takes and returns: a message's stored entry, and a run's answer about a message."""

from enum import Enum, StrEnum

from attrs import frozen

from oca_sms_async._models import SendReceipt


class Status(StrEnum):
    """A stored status: `DOUBTFUL` may have been sent, `UNSENT` certainly was not."""

    UNSENT = "unsent"
    DOUBTFUL = "doubtful"
    SENT = "sent"


@frozen
class JournalEntry:
    """The state of one message in a journal.

    `receipt` is there if the message was sent. `attempts` counts the requests that the gateway may have taken.
    `error` and `code` describe the last failure, if the journal keeps it.
    """

    status: Status
    receipt: SendReceipt | None = None
    attempts: int = 0
    error: str | None = None
    code: int | None = None


class Answer(Enum):
    """How a message relates to its run. This is never stored.

    `STORED` is the usual case: the entry says how to go on. `REPEATED` means that this run had the same key before.
    `KEY_CONFLICT` means that the key belongs to another number or text.
    """

    STORED = "stored"
    REPEATED = "repeated"
    KEY_CONFLICT = "key conflict"


@frozen
class Lookup:
    """A run's answer about its next message.

    `identity` names the message in the journal, and `entry` is stored under that name. After a key conflict the entry
    belongs to the other message. `began` is the start of the first request in doubt, and `ended` the last news of it,
    in seconds since the epoch. For `busy_for` seconds more, the sender of a doubtful message may still be at work.
    """

    identity: bytes
    entry: JournalEntry
    answer: Answer = Answer.STORED
    began: float = 0.0
    ended: float = 0.0
    busy_for: float = 0.0

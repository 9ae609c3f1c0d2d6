"""The protocol of a journal: the calls by which a run looks messages up and writes down their outcomes."""

from collections.abc import Awaitable
from datetime import datetime
from typing import Protocol

from oca_sms_async._journal._values import JournalEntry, Lookup
from oca_sms_async._models import SendReceipt


class Journal(Protocol):
    """A record of each message's fate that outlives the process: `bulk`, `send_many` and `reconcile` accept one.

    `SqliteJournal` keeps it in a file. A call takes effect in the order of the calls, even before it is awaited. A
    durable call returns when its change would survive a crash. Each call may raise a `JournalError`, and a
    `RuntimeError` after `aclose`.
    """

    async def begin_run(self) -> None:
        """Take the journal for one run; `JournalError` if another run has it."""
        ...

    async def lookup(self, key: str) -> JournalEntry | None:
        """Return the journal's entry of a key, or None for a key that it does not know."""
        ...

    async def forget(self, before: datetime, *, doubtful: bool = False) -> int:
        """Forget the messages whose last news is older than an aware datetime, and return their number.

        Messages in doubt stay, unless `doubtful`. A forgotten key is new: its message would be sent again.
        """
        ...

    def lookup_key(self, key: str, number: str, text: str) -> Awaitable[Lookup]:
        """Look up a message with a key outside of any run. Nothing is stored."""
        ...

    def lookup_next(self, key: str | None, number: str, text: str) -> Awaitable[Lookup]:
        """Look up the run's next message.

        The key identifies the message. Without a key, number and text identify it, and the order of these calls tells
        equal messages apart.
        """
        ...

    def intend(self, message: Lookup, *, seconds: float) -> Awaitable[bool]:
        """Note that a request is about to start, so that the message is in doubt from now on. Durable.

        This is one conditional write. Return whether the caller got the message: it is False if the message's entry is
        not the one of the lookup any more, because another run or send took it. For `seconds` from now, others may
        expect the outcome.
        """
        ...

    def settle(self, message: Lookup, entry: JournalEntry) -> Awaitable[None]:
        """Store the outcome of an intended message. Durable."""
        ...

    def find(self, message: Lookup, receipt: SendReceipt) -> Awaitable[bool]:
        """Store that a doubtful message was found sent. Durable.

        Return False, and store nothing, if another message has this receipt's id.
        """
        ...

    async def end_run(self) -> None:
        """Give the journal back once all writes have ended."""
        ...

    async def aclose(self) -> None:
        """Close the journal; a second call does nothing."""
        ...

"""Claims in the journal in PostgreSQL: one message, its entries, and the rows that are stored of it."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

from postgres_server import execute

from oca_sms_async import Journal, JournalEntry, SendReceipt
from oca_sms_async._journal import Lookup, Status
from oca_sms_async.postgres import PostgresJournal

NUMBER: Final = "+6281234567890"
RECEIPT: Final = SendReceipt("uid", "sent")
SENT: Final = JournalEntry(Status.SENT, RECEIPT, 1)
UNSENT: Final = JournalEntry(Status.UNSENT)
LATER: Final = datetime(2100, 1, 1, tzinfo=UTC)


async def claim(journal: Journal, key: str = "key", text: str = "text", *, seconds: float = 100.0) -> Lookup:
    """Claim a message that nobody has, and return its lookup."""
    found = await journal.lookup_key(key, NUMBER, text)
    assert await journal.intend(found, seconds=seconds)
    return found


def entries(database: str) -> list[tuple[Any, ...]]:
    """Return the stored rows of all messages."""
    return execute(database, "SELECT status, attempts, error, code FROM oca_sms_message ORDER BY began")


class LastingJournal(PostgresJournal):
    """A journal whose claims last a while, for calls that do not say how long."""

    def intend(self, message: Lookup, *, seconds: float = 100.0) -> asyncio.Future[bool]:
        """Claim a message."""
        return super().intend(message, seconds=seconds)

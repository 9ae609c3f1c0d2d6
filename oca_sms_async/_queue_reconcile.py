"""The doubtful messages of a queue, looked up in the gateway's history by their digests.

The queue has deleted their numbers and texts. So each record of the history is digested as the journal does it, and the
digests are compared.
"""

import asyncio
from collections.abc import Iterable

from oca_sms_async._client import AsyncOcaSms
from oca_sms_async._journal import JournalRun, Lookup, Status
from oca_sms_async._models import Sms, SmsRecord
from oca_sms_async._phone import normalize_phone
from oca_sms_async._postgres_messages import Names
from oca_sms_async._queue_journal import QueueJournal
from oca_sms_async._queue_values import QueueReconcileReport
from oca_sms_async._reconcile import settle_by_history


async def reconcile_queue(journal: QueueJournal, client: AsyncOcaSms) -> QueueReconcileReport:
    """Store as sent all doubtful messages of the journal that the history has. Errors as those of `history`."""
    if not client.has_history:
        await client.history()  # it raises, even if no message is in doubt
    async with JournalRun(journal, normalize_phone) as run:
        listed = await journal.list_doubtful()
        doubtful = {lookup.identity for _, lookup in listed if lookup.entry.status is Status.DOUBTFUL}
        if not doubtful:
            return QueueReconcileReport(0, 0)
        records = await client.history()
        known = await asyncio.to_thread(_name, listed, records, await journal.names())

        async def history() -> list[SmsRecord]:
            return records

        found = await settle_by_history(run, known, normalize_phone, history)
    return QueueReconcileReport(len(found), len(doubtful) - len(found))


def _name(
    listed: Iterable[tuple[bytes, Lookup]], records: Iterable[SmsRecord], names: Names
) -> list[tuple[Sms, Lookup]]:
    """Return the messages whose number and text a record of the history tells."""
    numbers = dict[str, str | None]()
    contents = dict[bytes, Sms]()
    for record in records:
        if record.phone_number not in numbers:
            numbers[record.phone_number] = _normalize(record.phone_number)
        if (number := numbers[record.phone_number]) is not None:
            contents[names.of_content(number, record.message_body)] = Sms(number, record.message_body)
    return [(contents[content], lookup) for content, lookup in listed if content in contents]


def _normalize(phone: str) -> str | None:
    try:
        return normalize_phone(phone)
    except ValueError:
        return None

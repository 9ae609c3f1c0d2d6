"""Messages looked up in the gateway's history: a message in it was sent, and a message not in it may have been too."""

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from oca_sms_async._journal import Answer, JournalRun, Lookup, Status
from oca_sms_async._models import SendReceipt, Sms, SmsRecord
from oca_sms_async._outcomes import ReconcileReport, Sent

_CLOCK_SKEW: Final = timedelta(minutes=2)
_LAG: Final = timedelta(hours=1)  # between the last news of a message and the date of its record

Number = Callable[[str], str]  # E.164 out of any spelling; ValueError for an impossible number


def earliest(records: Iterable[SmsRecord], sms: Sms, number: Number, *, since: datetime) -> SmsRecord | None:
    """Return the first record of this number and text since then, less the clock skew; undated records come last."""
    wanted, start = number(sms.phone), since
    with contextlib.suppress(OverflowError):  # a caller may pass the beginning of the calendar
        start = since - _CLOCK_SKEW
    found = [
        record
        for record in records
        if record.message_body == sms.message
        and (record.created_at is None or record.created_at >= start)
        and _is(number, record.phone_number, wanted)
    ]
    return min(found, key=lambda record: (record.created_at is None, record.created_at or since), default=None)


async def reconcile(
    run: JournalRun,
    messages: Iterable[Sms] | AsyncIterable[Sms],
    number: Number,
    history: Callable[[], Awaitable[list[SmsRecord]]],
) -> ReconcileReport:
    """Look up the doubtful messages among these, and store those that the history has as sent.

    A record settles one message. Number and text must agree, and so must the date, less the clock skew. No other
    message may have the record's id. An undated record settles nothing, for it may be of another day.
    """
    async with run:
        doubtful = [
            (sms, lookup)
            async for sms, lookup in run.lookups(messages)
            if lookup.answer is Answer.STORED and lookup.entry.status is Status.DOUBTFUL
        ]
        found = dict[bytes, Sent]()
        waiting = defaultdict[str, list[tuple[str, Sms, Lookup]]](list)
        for sms, lookup in doubtful:
            waiting[sms.message].append((number(sms.phone), sms, lookup))
        records = [record for record in await history() if record.message_body in waiting] if doubtful else []
        for record in sorted(records, key=lambda record: record.created_at or datetime.max.replace(tzinfo=UTC)):
            fitting = [
                it
                for it in waiting[record.message_body]
                if _fits(record, it[2]) and _is(number, record.phone_number, it[0])
            ]
            if not fitting:
                continue
            settled = min(fitting, key=lambda it: it[2].ended)  # the one whose window closes first
            _, sms, lookup = settled
            receipt = SendReceipt(record.msg_uid, record.status, lookup.entry.attempts)
            if await run.find(lookup, receipt):
                waiting[record.message_body].remove(settled)
                found[lookup.identity] = Sent(sms, receipt)
    return ReconcileReport(
        found=tuple(found[lookup.identity] for _, lookup in doubtful if lookup.identity in found),
        doubtful=tuple(sms for sms, lookup in doubtful if lookup.identity not in found),
    )


def _fits(record: SmsRecord, lookup: Lookup) -> bool:
    """Tell whether a record may be of a request of this message, by its date."""
    if record.created_at is None:
        return False
    began, ended = (datetime.fromtimestamp(at, UTC) for at in (lookup.began, lookup.ended))
    return began - _CLOCK_SKEW <= record.created_at <= ended + _LAG


def _is(number: Number, written: str, wanted: str) -> bool:
    try:
        return number(written) == wanted
    except ValueError:
        return False

"""Messages looked up in the gateway's history: found is sent, and not found proves nothing."""

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from oca_sms_async._ledger import Entry, Standing
from oca_sms_async._models import SendReceipt, Sms, SmsRecord
from oca_sms_async._outcomes import ReconcileReport, Sent
from oca_sms_async._recording import Recording

_CLOCK_SKEW: Final = timedelta(minutes=2)
_LAG: Final = timedelta(hours=1)  # between the last that was heard of a message and the date that its record bears

Number = Callable[[str], str]  # E.164 out of any spelling; ValueError for what is none


def earliest(records: Iterable[SmsRecord], sms: Sms, number: Number, *, since: datetime) -> SmsRecord | None:
    """Return the first record of this number and text made since then, as clocks go; those without a date last."""
    wanted, start = number(sms.phone), since
    with contextlib.suppress(OverflowError):  # the beginning of the calendar, for whoever wants all there ever was
        start = since - _CLOCK_SKEW
    found = [
        record
        for record in records
        if record.message_body == sms.message
        and (record.created_at is None or record.created_at >= start)
        and _is(number, record.phone_number, wanted)
    ]
    return min(found, key=lambda record: (record.created_at is None, record.created_at or since), default=None)


async def reconciled(
    recording: Recording,
    messages: Iterable[Sms] | AsyncIterable[Sms],
    number: Number,
    history: Callable[[], Awaitable[list[SmsRecord]]],
) -> ReconcileReport:
    """Look the doubtful ones of these messages up, and note those that are found as sent.

    A record settles one message: of its number and text, of its time as clocks go, and with an id that no other
    message has. One without a date settles none, for it may be of another day.
    """
    async with recording:
        doubtful = [
            (sms, entry) async for sms, entry in recording.entries(messages) if entry.standing is Standing.DOUBTFUL
        ]
        found = dict[bytes, Sent]()
        waiting = defaultdict[str, list[tuple[str, Sms, Entry]]](list)
        for sms, entry in doubtful:
            waiting[sms.message].append((number(sms.phone), sms, entry))
        records = [record for record in await history() if record.message_body in waiting] if doubtful else []
        for record in sorted(records, key=lambda record: record.created_at or datetime.max.replace(tzinfo=UTC)):
            fitting = [
                it
                for it in waiting[record.message_body]
                if _fits(record, it[2]) and _is(number, record.phone_number, it[0])
            ]
            if not fitting:
                continue
            settled = min(fitting, key=lambda it: it[2].ended)  # whose time runs out first
            _, sms, entry = settled
            receipt = SendReceipt(record.msg_uid, record.status, entry.attempts)
            if await recording.find(entry, receipt):
                waiting[record.message_body].remove(settled)
                found[entry.identity] = Sent(sms, receipt)
    return ReconcileReport(
        found=tuple(found[entry.identity] for _, entry in doubtful if entry.identity in found),
        doubtful=tuple(sms for sms, entry in doubtful if entry.identity not in found),
    )


def _fits(record: SmsRecord, entry: Entry) -> bool:
    """Tell whether a record may be of a request of this message, by its date."""
    if record.created_at is None:
        return False
    began, ended = (datetime.fromtimestamp(at, UTC) for at in (entry.began, entry.ended))
    return began - _CLOCK_SKEW <= record.created_at <= ended + _LAG


def _is(number: Number, written: str, wanted: str) -> bool:
    try:
        return number(written) == wanted
    except ValueError:
        return False

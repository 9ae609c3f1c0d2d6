"""Messages looked up in the gateway's history: a message in it was sent, and a message not in it may have been too."""

import asyncio
import contextlib
import heapq
import itertools
from collections import defaultdict
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from oca_sms_async._journal import Answer, JournalRun, Lookup, Status
from oca_sms_async._models import SendReceipt, Sms, SmsRecord
from oca_sms_async._outcomes import ReconcileReport, Sent

_CLOCK_SKEW: Final = timedelta(minutes=2)
_LAG: Final = timedelta(hours=1)  # between the last news of a message and the date of its record
_LONG: Final = 2_000  # records; a longer history is searched in a thread
_AT_ONCE: Final = 256  # groups of equal messages; their finds share commits
_ENDING: Final = 6  # digits
_NOT_DIGITS: Final = bytes(set(range(128)) - set(b"0123456789"))

Number = Callable[[str], str]  # E.164 out of any spelling; ValueError for an impossible number
History = Callable[[], Awaitable[list[SmsRecord]]]
Content = tuple[str, str]  # number and text


def earliest(records: Iterable[SmsRecord], sms: Sms, number: Number, *, since: datetime) -> SmsRecord | None:
    """Return the first record of this number and text since then, less the clock skew; undated records come last."""
    start = since
    with contextlib.suppress(OverflowError):  # a caller may pass the beginning of the calendar
        start = since - _CLOCK_SKEW
    found = [
        record
        for record, _ in _search(records, {(number(sms.phone), sms.message)}, number)
        if record.created_at is None or record.created_at >= start
    ]
    return min(found, key=lambda record: (record.created_at is None, record.created_at or since), default=None)


async def reconcile(
    run: JournalRun,
    messages: Iterable[Sms] | AsyncIterable[Sms],
    number: Number,
    history: History,
) -> ReconcileReport:
    """Look up the doubtful messages among these, and store those that the history has as sent.

    A record settles one message. Number and text must agree, and so must the date, less the clock skew. No other
    message may have the record's id. An undated record settles nothing, for it may be of another day. A record that may
    be the second copy of another message settles nothing either.
    """
    async with run:
        known = [(sms, lookup) async for sms, lookup in run.lookups(messages) if _may_own_records(lookup)]
        doubtful = [(sms, lookup) for sms, lookup in known if lookup.entry.status is Status.DOUBTFUL]
        found = await settle_by_history(run, known, number, history) if doubtful else {}
    return ReconcileReport(
        found=tuple(found[lookup.identity] for _, lookup in doubtful if lookup.identity in found),
        doubtful=tuple(sms for sms, lookup in doubtful if lookup.identity not in found),
    )


async def settle_by_history(
    run: JournalRun, known: Iterable[tuple[Sms, Lookup]], number: Number, history: History
) -> dict[bytes, Sent]:
    """Store as sent the doubtful messages among `known` that the history has, and return them by their names."""
    found = dict[bytes, Sent]()
    groups = _group(known, number)
    records = await history()
    if len(records) > _LONG:
        sorted_records = await asyncio.to_thread(_sort, records, groups, number)
    else:
        sorted_records = _sort(records, groups, number)
    matches = iter(sorted_records.items())
    while some := [*itertools.islice(matches, _AT_ONCE)]:
        settling = (_settle(run, groups[content], dated, found) for content, dated in some)
        for failure in await asyncio.gather(*settling, return_exceptions=True):
            if failure is not None:
                raise failure
    return found


class _Claim(NamedTuple):
    """A message that may own a record made between `start` and `end`, or several records.

    It may own several if the gateway may have taken several of its requests.
    """

    sms: Sms
    lookup: Lookup
    start: float
    end: float
    several: bool


class _Twins:
    """The messages of one number and one text, asked with records in the order of their dates."""

    def __init__(self, claims: Iterable[_Claim]) -> None:
        self._coming = sorted(claims, key=lambda claim: claim.start, reverse=True)
        self._single = list[tuple[float, int, _Claim]]()  # a heap: the claim that ends first
        self._several = list[tuple[float, int, _Claim]]()  # a heap: the claim that ends last
        self._copies_until = 0.0

    def find_claim(self, at: datetime) -> _Claim | None:
        """Return the message that a record of this moment settles."""
        now = at.timestamp()
        while self._coming and self._coming[-1].start <= now:
            self._open(self._coming.pop())
        if now <= self._copies_until:
            return None  # it may be a second copy
        # Each of these records may be of the one message that may own several and ends last. So it is the first to be
        # settled, and no other message is settled by its copies.
        if self._several and self._several[0][2].end >= now:
            return self._several[0][2]
        while self._single and self._single[0][2].end < now:
            heapq.heappop(self._single)
        return self._single[0][2] if self._single else None

    def settle(self, claim: _Claim) -> None:
        """Take out the claim that was found: a record is its own, and the next ones may be its copies."""
        heapq.heappop(self._several if claim.several else self._single)
        if claim.several:
            self._copies_until = max(self._copies_until, claim.end)

    def _open(self, claim: _Claim) -> None:
        place = len(self._coming)
        if claim.lookup.entry.status is Status.SENT:
            self._copies_until = max(self._copies_until, claim.end)
        elif claim.several:
            heapq.heappush(self._several, (-claim.end, place, claim))
        else:
            heapq.heappush(self._single, (claim.end, place, claim))


def _may_own_records(lookup: Lookup) -> bool:
    """Tell whether a message may own a record with an id that the journal does not hold."""
    if lookup.answer is not Answer.STORED:
        return False
    return lookup.entry.status is Status.DOUBTFUL or (lookup.entry.status is Status.SENT and lookup.entry.attempts > 1)


def _group(known: Iterable[tuple[Sms, Lookup]], number: Number) -> dict[Content, _Twins]:
    """Return the messages by their content, if one of equal content is in doubt."""
    claims = defaultdict[Content, list[_Claim]](list)
    for sms, lookup in known:
        start, end = lookup.began - _CLOCK_SKEW.total_seconds(), lookup.ended + _LAG.total_seconds()
        # A run that was killed has not noted how many requests followed its first one.
        several = lookup.entry.attempts > 1 or lookup.ended <= lookup.began
        claims[number(sms.phone), sms.message].append(_Claim(sms, lookup, start, end, several))
    return {
        content: _Twins(equal)
        for content, equal in claims.items()
        if any(claim.lookup.entry.status is Status.DOUBTFUL for claim in equal)
    }


def _sort(
    records: Iterable[SmsRecord], wanted: Collection[Content], number: Number
) -> dict[Content, list[tuple[datetime, SmsRecord]]]:
    """Return the dated records by their content, the earliest first."""
    found = defaultdict[Content, list[tuple[datetime, SmsRecord]]](list)
    for record, content in _search(records, wanted, number):
        if record.created_at is not None:
            found[content].append((record.created_at, record))
    for dated in found.values():
        dated.sort(key=lambda one: one[0])
    return found


def _search(
    records: Iterable[SmsRecord], wanted: Collection[Content], number: Number
) -> Iterator[tuple[SmsRecord, Content]]:
    """Yield the records of these numbers and texts. To read a number is slow, so its last digits are compared first."""
    texts = {text for _, text in wanted}
    endings = {phone[-_ENDING:].encode() for phone, _ in wanted}
    for record in records:
        text, written = record.message_body, record.phone_number
        if text not in texts:
            continue
        if written.isascii() and written.encode().translate(None, _NOT_DIGITS)[-_ENDING:] not in endings:
            continue
        with contextlib.suppress(ValueError):
            if (content := (number(written), text)) in wanted:
                yield record, content


async def _settle(
    run: JournalRun, twins: _Twins, dated: Iterable[tuple[datetime, SmsRecord]], found: dict[bytes, Sent]
) -> None:
    """Settle messages of one content by its records."""
    for at, record in dated:
        if (claim := twins.find_claim(at)) is None:
            continue
        receipt = SendReceipt(record.msg_uid, record.status, claim.lookup.entry.attempts)
        if await run.find(claim.lookup, receipt):
            twins.settle(claim)
            found[claim.lookup.identity] = Sent(claim.sms, receipt)

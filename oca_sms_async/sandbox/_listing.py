"""The page's list: accepted messages and refused requests together, the newest first, searched and cut into pages."""

import asyncio
import heapq
import itertools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

import attrs

from oca_sms_async.sandbox._gateway import Gateway
from oca_sms_async.sandbox._inbox import Message
from oca_sms_async.sandbox._traffic import Refused

Entry = Message | Refused

_ROUND: Final = 500  # entries that are searched before other tasks of the event loop have their turn
_DIGITS: Final = re.compile("[0-9]+")
_OTHERS: Final = re.compile("[^0-9]+")
_SPACING: Final = re.compile(r"[\s()+./]")
OUTCOMES: Final = ("all", "accepted", "refused")


@attrs.frozen
class Query:
    """The entries that a page wants: with `words` in them, at most as new as `until`, `limit` of them after `skip`."""

    words: str = ""
    outcome: str = "all"
    until: datetime | None = None
    skip: int = 0
    limit: int = 25


@attrs.frozen
class Listing:
    """The entries of a page, the number of all that were found, and the number of those that are newer than `until`."""

    entries: list[Entry]
    total: int
    newer: int


async def list_entries(gateway: Gateway, query: Query) -> Listing:
    """Search all messages and the refused requests that are kept. A long search lets other tasks run meanwhile."""
    messages: Sequence[Entry] = gateway.inbox[:] if query.outcome != "refused" else []
    refused: Sequence[Entry] = gateway.traffic.refused if query.outcome != "accepted" else []
    if not query.words.strip():
        return _list_all(messages, refused, query)
    found = [entry async for entry in _search(_merge(messages, refused), query.words)]
    newer = 0 if query.until is None else sum(entry.created_at > query.until for entry in found)
    found = found[newer:]
    return Listing(found[query.skip : query.skip + query.limit], len(found), newer)


def _list_all(messages: Sequence[Entry], refused: Sequence[Entry], query: Query) -> Listing:
    """Return a page without a search. It need not look at the entries of other pages."""
    count = len(messages) + len(refused)
    if query.until is not None:
        messages, refused = (
            entries[: bisect_right(entries, query.until, key=lambda it: it.created_at)]
            for entries in (messages, refused)
        )
    total = len(messages) + len(refused)
    page = itertools.islice(_merge(messages, refused), query.skip, query.skip + query.limit)
    return Listing(list(page), total, count - total)


def _merge(messages: Sequence[Entry], refused: Sequence[Entry]) -> Iterator[Entry]:
    return heapq.merge(reversed(messages), reversed(refused), key=lambda it: it.created_at, reverse=True)


async def _search(entries: Iterable[Entry], words: str) -> AsyncIterator[Entry]:
    wanted, number = words.strip().lower(), _read_number(words)
    for place, entry in enumerate(entries):
        if place % _ROUND == _ROUND - 1:
            await asyncio.sleep(0)
        if _has_number(entry, number) or any(wanted in text.lower() for text in _texts(entry)):
            yield entry


def _read_number(words: str) -> str:
    """Return the digits of words that are a number or a code in any spelling, else ""."""
    rest = _SPACING.sub("", words)
    others = _DIGITS.sub("", rest)
    return _OTHERS.sub("", rest) if all(unicodedata.category(it) in {"Pd", "Cf"} for it in others) else ""


def _has_number(entry: Entry, number: str) -> bool:
    """Tell whether a number's or a code's digits hold these. A leading 0 is also Indonesia's 62."""
    if not number:
        return False
    phone = _OTHERS.sub("", entry.phone)
    if number in phone or (number[0] == "0" and phone.startswith("62" + number[1:])):
        return True
    return isinstance(entry, Message) and number in (entry.code or "")


def _texts(entry: Entry) -> Iterable[str]:
    api = entry.api.replace("-", " ")  # as the page shows it
    if isinstance(entry, Message):
        return (entry.text, entry.phone, entry.status, api, entry.sender_id or "", *entry.faults)
    return (entry.reason, entry.kind, api, str(entry.code))

"""The table of seen numbers, and the journal in memory that is built on it."""

import asyncio
import io
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from campaign_files import write_campaign
from command import Bulk
from hypothesis import given
from hypothesis import strategies as st

from oca_sms_async import JournalError, SendReceipt
from oca_sms_async._journal import Answer, JournalEntry, Lookup, Status
from oca_sms_async.cli import _seen
from oca_sms_async.cli._campaign import Campaign
from oca_sms_async.cli._memory_journal import MemoryJournal
from oca_sms_async.cli._seen import SeenTable
from oca_sms_async.sandbox import Sandbox

FULL: Final = "the numbers and keys of the file cannot be compared: is there room in the folder for temporary files?"

words = st.integers(-(2**63), 2**63 - 1)
numbers = st.integers(1, 20) | words  # some come again


@given(st.lists(st.tuples(numbers, words), max_size=3000))
def test_a_table_knows_what_a_dict_knows(seen: list[tuple[int, int]]) -> None:
    """A number's first content comes back each time, and each number counts once."""
    with closing(SeenTable()) as table:
        known = dict[int, int]()
        for number, content in seen:
            assert table.see(number, content) == known.get(number)
            known.setdefault(number, content)
    assert len(table) == len(known)  # also after it was closed


def open_small_database() -> sqlite3.Connection:
    """Return a temporary database on a disk that has room for two pages."""
    database = sqlite3.connect("", isolation_level=None)
    database.execute("PRAGMA max_page_count = 2")
    return database


def test_a_full_disk_is_told(bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the folder for temporary files is full, a bulk ends in one line before anything is sent."""
    monkeypatch.setattr(_seen, "open_database", open_small_database)
    ended = bulk(write_campaign(tmp_path / "rows.csv", 500), "--journal", tmp_path / "journal")
    assert (ended.status, len(served.inbox)) == (2, 0)
    assert ended.err == f"oca-sms: {FULL}\n"


async def test_a_full_disk_stops_a_run_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the folder for temporary files is full, the answer about a key is an error, when it is awaited."""
    monkeypatch.setattr(_seen, "open_database", open_small_database)
    journal = MemoryJournal()
    await journal.begin_run()
    answers = [journal.lookup_next(f"key {it}", "1", "x") for it in range(500)]
    with pytest.raises(JournalError, match=re.escape(FULL)):
        await asyncio.gather(*answers)
    await journal.end_run()


async def test_a_key_in_memory_is_known_within_its_run() -> None:
    """A key that comes again is a repetition or a conflict, and each run begins anew."""
    journal = MemoryJournal()
    for _ in range(2):
        await journal.begin_run()
        answers = [
            (await journal.lookup_next(*it)).answer
            for it in [("a", "1", "x"), (None, "1", "x"), ("a", "1", "x"), ("a", "1", "y"), ("a", "2", "x")]
        ]
        await journal.end_run()
        assert answers == [
            Answer.STORED,
            Answer.STORED,
            Answer.REPEATED,
            Answer.KEY_CONFLICT,
            Answer.KEY_CONFLICT,
        ]


async def test_a_message_in_memory_keeps_its_status_for_the_next_pass() -> None:
    """Messages that were intended, sent or refused are known by their place in the next pass over the file."""
    journal, receipt = MemoryJournal(), SendReceipt("uid", "sent")

    async def look_up() -> list[Lookup]:
        await journal.begin_run()
        found = [await journal.lookup_next(None, "1", "x") for _ in range(4)]
        await journal.end_run()
        return found

    doubtful, sent, refused, _ = await look_up()
    for lookup in (doubtful, sent, refused):
        assert await journal.intend(lookup)
    await journal.settle(sent, JournalEntry(Status.SENT, receipt, 1))
    await journal.settle(refused, JournalEntry(Status.UNSENT))
    entries = [lookup.entry for lookup in await look_up()]
    assert [it.status for it in entries] == [Status.DOUBTFUL, Status.SENT, Status.UNSENT, Status.UNSENT]
    assert [it.receipt for it in entries] == [None, receipt, None, None]


async def test_receipts_in_memory_are_bounded() -> None:
    """Old receipts are dropped: a long run must not fill the memory. Such a message is never taken for unsent."""
    journal = MemoryJournal()
    await journal.begin_run()
    lookups = [await journal.lookup_next(None, "1", "x") for _ in range(10_001)]
    await journal.end_run()
    for lookup in lookups:
        await journal.settle(lookup, JournalEntry(Status.SENT, SendReceipt("uid", "sent"), 1))
    await journal.begin_run()
    first, second = [(await journal.lookup_next(None, "1", "x")).entry for _ in range(2)]
    await journal.end_run()
    assert (first.status, second.status) == (Status.DOUBTFUL, Status.SENT)


async def test_the_check_of_a_long_file_lets_a_signal_in() -> None:
    """Answers in memory are there at once. Other tasks get their turn all the same, and one of them takes signals."""
    file, turns = io.BytesIO(b"phone,message\n" + b"081234567890,Halo\n" * 2500), 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(take_turns())
    rows = [sms.row async for sms, _ in Campaign(file, None, MemoryJournal()).entries()]
    other.cancel()
    assert rows == [*range(1, 2501)]
    assert turns >= 2

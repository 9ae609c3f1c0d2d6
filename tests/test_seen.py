"""The table of seen numbers, and the journal in memory that is built on it."""

import asyncio
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oca_sms_async import SendReceipt
from oca_sms_async._journal import Answer, JournalEntry, Lookup, Status
from oca_sms_async.cli._campaign import Campaign
from oca_sms_async.cli._memory_journal import MemoryJournal
from oca_sms_async.cli._seen import SeenTable

words = st.integers(-(2**63), 2**63 - 1)
numbers = st.integers(1, 20) | words.filter(bool)  # some come again


@given(st.lists(st.tuples(numbers, words), max_size=3000))
def test_a_table_knows_what_a_dict_knows(seen: list[tuple[int, int]]) -> None:
    """A number's first content comes back each time, and each number counts once."""
    table, known = SeenTable(), dict[int, int]()
    for number, content in seen:
        assert table.see(number, content) == known.get(number)
        known.setdefault(number, content)
    assert len(table) == len(known)


@pytest.mark.parametrize("step", [1, 31, 1000, 1 << 20])
def test_a_table_grows_over_neighbours(step: int) -> None:
    """Numbers at a regular distance, as in a list of customers, are all found again after the table grew."""
    table = SeenTable()
    for place in range(20_000):
        assert table.see(6281200000000 + step * place, place) is None
    assert all(table.see(6281200000000 + step * place, -1) == place for place in range(20_000))


async def test_a_key_in_memory_is_known_within_its_run() -> None:
    """A key that comes again is a repetition or a conflict, and each run begins anew."""
    journal = MemoryJournal()
    for _ in range(2):
        await journal.begin_run()
        answers = [
            (await journal.lookup_next(*it)).answer
            for it in [("a", "1", "x"), (None, "1", "x"), ("a", "1", "x"), ("a", "1", "y"), ("a", "2", "x")]
        ]
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
        return [await journal.lookup_next(None, "1", "x") for _ in range(4)]

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
    for lookup in lookups:
        await journal.settle(lookup, JournalEntry(Status.SENT, SendReceipt("uid", "sent"), 1))
    await journal.begin_run()
    first, second = [(await journal.lookup_next(None, "1", "x")).entry for _ in range(2)]
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

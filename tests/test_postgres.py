"""The journal in PostgreSQL: claims by many, runs by one, and what a server that fails does to both."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from claims import LATER, NUMBER, SENT, UNSENT, claim, entries
from journals import PATIENCE
from postgres_server import PostgresServer, execute

from oca_sms_async import JournalError, SendReceipt
from oca_sms_async._journal import Answer, JournalEntry, Lookup, Status
from oca_sms_async._postgres_schema import VERSION
from oca_sms_async.postgres import SCHEMA, PostgresJournal


@pytest.fixture
async def journal(database: str) -> AsyncIterator[PostgresJournal]:
    """A journal that is ready for use."""
    async with PostgresJournal(database, name="acme") as opened:
        yield opened


@pytest.fixture
async def other(database: str) -> AsyncIterator[PostgresJournal]:
    """The same journal, as another process has it."""
    async with PostgresJournal(database, name="acme") as opened:
        yield opened


# --- tables ---------------------------------------------------------------------------------------------------------


async def test_setup_makes_the_tables_once_however_many_call_it(postgres: PostgresServer) -> None:
    """Calls at the same time, and later ones, leave one set of tables, and keep their content."""
    database = postgres.create_database()
    journals = [PostgresJournal(database, name="acme") for _ in range(8)]
    await asyncio.gather(*(journal.setup() for journal in journals))
    found = await claim(journals[0])
    await journals[1].setup()
    await journals[0].settle(found, SENT)
    assert await journals[2].lookup("key") == SENT
    assert execute(database, "SELECT version FROM oca_sms_schema") == [(VERSION,)]
    for journal in journals:
        await journal.aclose()


async def test_without_its_tables_the_error_names_setup(postgres: PostgresServer) -> None:
    """Each first use says how to make the tables, and works once they are made."""
    async with PostgresJournal(postgres.create_database(), name="acme") as journal:
        for use in (journal.lookup("key"), journal.lookup_key("key", NUMBER, "text"), journal.begin_run()):
            with pytest.raises(JournalError, match=r"setup\(\)") as caught:
                await use
            assert not caught.value.may_have_been_sent
        await journal.setup()
        assert await journal.lookup("key") is None


@pytest.mark.parametrize(
    ("change", "found"),
    [("UPDATE oca_sms_schema SET version = 99", "99"), ("DELETE FROM oca_sms_schema", "unknown")],
)
async def test_tables_of_another_version_are_refused(database: str, change: str, found: str) -> None:
    """The error names both versions, from `setup` and from the first use alike."""
    execute(database, change)
    async with PostgresJournal(database, name="acme") as journal:
        for use in (journal.setup(), journal.lookup("key"), journal.begin_run()):
            with pytest.raises(
                JournalError, match=f"version of its tables is {found}, and this library's is {VERSION}"
            ):
                await use


async def test_tables_that_were_made_anew_are_noticed(journal: PostgresJournal, database: str) -> None:
    """Another salt makes other digests, so no claim of the old ones succeeds; the next use begins afresh."""
    found = await journal.lookup_key("key", NUMBER, "text")
    await journal.begin_run()
    tables = "oca_sms_schema, oca_sms_journal, oca_sms_message, oca_sms_bucket"
    execute(
        database, f"DROP TABLE {tables}; {SCHEMA}; INSERT INTO oca_sms_journal (name, salt) VALUES ('acme', '12345678')"
    )
    with pytest.raises(JournalError, match="made anew"):
        await journal.intend(found, seconds=1)
    with pytest.raises(JournalError, match="made anew"):
        await journal.lookup_next(None, NUMBER, "text")
    await claim(journal)
    assert len(entries(database)) == 1


async def test_a_lookup_after_tables_were_made_anew(journal: PostgresJournal, database: str) -> None:
    """The first one says so, and the next one has the answer of the new tables."""
    await journal.settle(await claim(journal), SENT)
    execute(database, f"DROP TABLE oca_sms_schema, oca_sms_journal, oca_sms_message, oca_sms_bucket; {SCHEMA}")
    with pytest.raises(JournalError, match="made anew"):
        await journal.lookup("key")
    assert await journal.lookup("key") is None


async def test_names_tell_journals_apart(journal: PostgresJournal, database: str) -> None:
    """The same key under two names is two messages, with two digests, and forgetting one keeps the other."""
    async with PostgresJournal(database, name="other") as another:
        for each in (journal, another):
            await each.settle(await claim(each), SENT)
        digests = execute(database, "SELECT identity, content FROM oca_sms_message")
        assert len({digest for row in digests for digest in row}) == 4
        assert await another.forget(LATER) == 1
        assert await another.lookup("key") is None
    assert await journal.lookup("key") == SENT


async def test_a_name_gets_one_salt_however_many_begin_it(database: str) -> None:
    """Of many processes that use a new name at once, one gets a key."""
    journals = [PostgresJournal(database, name="acme") for _ in range(12)]

    async def use(journal: PostgresJournal) -> bool:
        return await journal.intend(await journal.lookup_key("key", NUMBER, "text"), seconds=100)

    assert sum(await asyncio.gather(*map(use, journals))) == 1
    assert len(entries(database)) == 1
    for journal in journals:
        await journal.aclose()


async def test_the_tables_hold_no_message(journal: PostgresJournal, database: str) -> None:
    """Neither number, text nor key stands in any column, and the salt is a secret that no other journal has."""
    number, text, key = "+6281345678901", "marker-text", "marker-key"
    found = await journal.lookup_key(key, number, text)
    assert await journal.intend(found, seconds=1)
    await journal.begin_run()
    assert await journal.intend(await journal.lookup_next(None, number, text), seconds=1)
    rows = execute(database, "SELECT m.*, j.* FROM oca_sms_message m, oca_sms_journal j")
    content = b"|".join(v if isinstance(v, bytes) else str(v).encode() for row in rows for v in row)
    assert len(rows) == 2
    for marker in (number, number[1:], "8901", text, key):
        assert marker.encode() not in content
    assert number not in repr(found) + repr(journal)


# --- claims ---------------------------------------------------------------------------------------------------------


async def test_one_of_many_gets_a_key(journal: PostgresJournal, other: PostgresJournal, database: str) -> None:
    """Of twenty that looked a new key up, one claims it, and the others see that it is in doubt and for how long."""
    found = [await each.lookup_key("key", NUMBER, "text") for each in (journal, other) * 10]
    claimed = await asyncio.gather(
        *(each.intend(it, seconds=100) for each, it in zip((journal, other) * 10, found, strict=True))
    )
    assert sum(claimed) == 1
    late = await other.lookup_key("key", NUMBER, "text")
    assert (late.entry, late.answer) == (JournalEntry(Status.DOUBTFUL, attempts=1), Answer.STORED)
    assert 90 < late.busy_for <= 100
    assert abs(datetime.fromtimestamp(late.began, UTC) - datetime.now(UTC)) < timedelta(seconds=PATIENCE)
    assert entries(database) == [(1, 1, None, None)]


async def test_a_claim_needs_the_entry_of_its_lookup(journal: PostgresJournal, other: PostgresJournal) -> None:
    """Whatever another sender did since the lookup, a claim fails: sent, unsent again, forgotten and begun anew."""
    early = await other.lookup_key("key", NUMBER, "text")
    found = await claim(journal)
    await journal.settle(found, UNSENT)
    assert not await other.intend(early, seconds=1)
    early = await other.lookup_key("key", NUMBER, "text")
    assert early.entry == UNSENT
    assert await journal.forget(LATER) == 1
    await journal.settle(await claim(journal), UNSENT)
    assert not await other.intend(early, seconds=1)
    early = await other.lookup_key("key", NUMBER, "text")
    await journal.settle(await claim(journal), SENT)
    assert not await other.intend(early, seconds=1)


async def test_a_forgotten_key_is_new(journal: PostgresJournal, other: PostgresJournal) -> None:
    """A lookup from before the forgetting may still claim it, for nobody else has it."""
    await journal.settle(await claim(journal), UNSENT)
    early = await other.lookup_key("key", NUMBER, "text")
    await journal.forget(LATER)
    assert await other.intend(early, seconds=1)


async def test_a_message_in_doubt_is_claimed_once_its_sender_may_be_given_up(journal: PostgresJournal) -> None:
    """While its sender may be at work, no other gets it; afterwards the first one that sends doubt again does."""
    await claim(journal, seconds=100)
    busy = await journal.lookup_key("key", NUMBER, "text")
    assert not await journal.intend(busy, seconds=1)
    await claim(journal, "gone", seconds=0)
    free = [await journal.lookup_key("gone", NUMBER, "text") for _ in range(2)]
    assert (free[0].busy_for, free[0].entry.status) == (0.0, Status.DOUBTFUL)
    assert [await journal.intend(it, seconds=100) for it in free] == [True, False]
    assert await journal.lookup("gone") == JournalEntry(Status.DOUBTFUL, attempts=2)


async def test_only_the_claimer_settles(journal: PostgresJournal, other: PostgresJournal) -> None:
    """A process that was given up cannot overwrite the outcome of the one that sent again; it is told so."""
    late = JournalEntry(Status.SENT, SendReceipt("late", "sent", 1), 1)
    slow = await claim(journal, seconds=0)
    again = await other.lookup_key("key", NUMBER, "text")
    assert await other.intend(again, seconds=100)
    await journal.settle(slow, UNSENT)  # it sent nothing, so nothing is lost
    assert (await other.lookup_key("key", NUMBER, "text")).busy_for > 0

    async def assert_too_late() -> None:
        for lost in (late, JournalEntry(Status.DOUBTFUL, attempts=1)):
            with pytest.raises(JournalError, match="another sender"):
                await journal.settle(slow, lost)

    await assert_too_late()
    assert await journal.lookup("key") == JournalEntry(Status.DOUBTFUL, attempts=2)
    await other.settle(again, SENT)
    await assert_too_late()
    assert await journal.lookup("key") == SENT


async def test_a_claim_that_was_not_made_leaves_nothing_to_settle(journal: PostgresJournal, database: str) -> None:
    """After a claim that failed, the sender stores that it sent nothing; that is no error, and stores no entry."""
    found = await journal.lookup_key("key", NUMBER, "text")
    await journal.settle(found, UNSENT)
    with pytest.raises(JournalError, match="another sender"):
        await journal.settle(found, SENT)
    assert entries(database) == []


async def test_a_claim_that_is_repeated_after_a_lost_answer_succeeds(journal: PostgresJournal, database: str) -> None:
    """The claim's own token stands in the entry, so the repeated statement is no other sender's."""
    found = await claim(journal)
    assert await journal.intend(found, seconds=100)
    assert entries(database) == [(1, 1, None, None)]
    await journal.settle(found, UNSENT)
    await journal.settle(found, UNSENT)
    assert not await journal.intend(found, seconds=100)


@pytest.mark.parametrize("word", ["sent", "", "half a pair \ud83d", "\0"])
async def test_an_outcome_is_kept_as_it_is(journal: PostgresJournal, word: str) -> None:
    """Each word of the gateway, the number of attempts, and the last failure's class and code come back."""
    sent = JournalEntry(Status.SENT, SendReceipt("id " + word, word, 3), 3)
    await journal.settle(await claim(journal, "sent"), sent)
    assert await journal.lookup("sent") == sent
    for entry in (
        JournalEntry(Status.UNSENT, error="QuotaExhaustedError", code=55),
        JournalEntry(Status.DOUBTFUL, attempts=4, error="DeliveryUnknownError"),
    ):
        await journal.settle(await claim(journal, entry.status), entry)
        assert await journal.lookup(entry.status) == entry
        assert (await journal.lookup_key(entry.status, NUMBER, "text")).entry == entry


async def test_a_failure_of_long_ago_is_not_told_of_a_message_in_doubt(journal: PostgresJournal) -> None:
    """A new claim forgets the last failure, and the beginning of an attempt that certainly was not taken."""
    await journal.settle(await claim(journal), JournalEntry(Status.UNSENT, error="ApiError", code=39))
    before = await journal.lookup_key("key", NUMBER, "text")
    await claim(journal)
    after = await journal.lookup_key("key", NUMBER, "text")
    assert after.entry == JournalEntry(Status.DOUBTFUL, attempts=1)
    assert after.began > before.began
    assert 90 < after.busy_for <= 100


async def test_doubt_keeps_its_beginning(journal: PostgresJournal) -> None:
    """A message that is sent again out of doubt may have been sent at the first attempt."""
    await claim(journal, seconds=0)
    first = await journal.lookup_key("key", NUMBER, "text")
    assert await journal.intend(first, seconds=0)
    second = await journal.lookup_key("key", NUMBER, "text")
    assert second.began == first.began
    assert second.ended > first.ended


async def test_a_key_belongs_to_one_message(journal: PostgresJournal) -> None:
    """Another text is a conflict, unless the first one certainly was not sent; then it takes its place."""
    found = await claim(journal)
    assert (await journal.lookup_key("key", NUMBER, "other")).answer is Answer.KEY_CONFLICT
    assert (await journal.lookup_key("key", NUMBER + "1", "text")).answer is Answer.KEY_CONFLICT
    await journal.settle(found, UNSENT)
    corrected = await journal.lookup_key("key", NUMBER, "other")
    assert corrected.answer is Answer.STORED
    assert await journal.intend(corrected, seconds=1)
    assert (await journal.lookup_key("key", NUMBER, "text")).answer is Answer.KEY_CONFLICT


async def test_a_lookup_stores_nothing(journal: PostgresJournal, database: str) -> None:
    """A key that was only looked up is unknown."""
    await journal.lookup_key("key", NUMBER, "text")
    assert await journal.lookup("key") is None
    assert entries(database) == []


async def test_another_journals_lookup_is_refused(journal: PostgresJournal) -> None:
    """A lookup without this journal's token cannot be claimed."""
    with pytest.raises(TypeError, match="message"):
        journal.intend(Lookup(b"", UNSENT), seconds=1)


# --- forgetting -----------------------------------------------------------------------------------------------------


async def test_forgetting(journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old outcomes go, on all pages; doubt stays unless told otherwise, and a message that is being sent stays."""
    monkeypatch.setattr("oca_sms_async._postgres_store._PAGE", 3)
    outcomes = [SENT, UNSENT, JournalEntry(Status.DOUBTFUL, attempts=1), SENT, SENT, SENT, SENT]
    for index, outcome in enumerate(outcomes):
        await journal.settle(await claim(journal, str(index)), outcome)
    await claim(journal, "busy", seconds=100)
    await claim(journal, "given up", seconds=0)
    assert await journal.forget(datetime.now(UTC) - timedelta(days=1), doubtful=True) == 0
    assert await journal.forget(LATER) == 6
    assert await journal.forget(LATER, doubtful=True) == 2
    assert await journal.lookup("busy") == JournalEntry(Status.DOUBTFUL, attempts=1)
    assert [await journal.lookup(key) for key in ("0", "2", "given up")] == [None] * 3


async def test_forgetting_needs_a_time_zone(journal: PostgresJournal) -> None:
    """A naive datetime would mean another moment on another machine."""
    with pytest.raises(ValueError, match=r"^before\b"):
        await journal.forget(datetime(2020, 1, 1))  # noqa: DTZ001 - the wrong one


# --- many processes -------------------------------------------------------------------------------------------------

CLAIMER = """
import asyncio, json, sys
from oca_sms_async.postgres import PostgresJournal

async def main():
    got = []
    async with PostgresJournal(sys.argv[1], name="acme", timeout=60) as journal:
        print("ready", flush=True)
        sys.stdin.readline()

        async def one(key):
            found = await journal.lookup_key(key, "+6281234567890", key)
            if await journal.intend(found, seconds=100):
                got.append(key)

        await asyncio.gather(*(one(str(it)) for it in range(200)))
    print(json.dumps(got), flush=True)

asyncio.run(main())
"""


def test_four_processes_claim_each_key_once(database: str) -> None:
    """Of four processes that want the same 200 keys at once, each key is claimed by one."""
    command = [sys.executable, "-c", CLAIMER, database]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        claimed = [json.loads(process.communicate(timeout=PATIENCE)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert sorted(key for keys in claimed for key in keys) == sorted(map(str, range(200)))
    assert len(entries(database)) == 200

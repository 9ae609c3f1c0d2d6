"""Runs over the journal in PostgreSQL: one at a time, on a connection of its own, as the journal in a file has them."""

import asyncio
import signal
from typing import Any

import pytest
from claims import NUMBER, SENT, UNSENT, LastingJournal, claim, entries
from in_memory import Gateway, client_of, make_messages
from journals import PATIENCE, Source, child, kinds
from moved_clock import until
from postgres_server import execute

from oca_sms_async import AsyncOcaSms, BulkReport, JournalError, SendReceipt, Sent, Skipped, Sms
from oca_sms_async._journal import Answer, JournalEntry, Status
from oca_sms_async.postgres import PostgresJournal
from oca_sms_async.sandbox import Sandbox


@pytest.fixture
def journal(database: str) -> LastingJournal:
    """A journal that is ready for use."""
    return LastingJournal(database, name="acme")


async def sent_with(database: str, gateway: Gateway, messages: list[Sms], **options: Any) -> BulkReport:
    """Return the report of one run."""
    async with LastingJournal(database, name="acme") as journal:
        return await client_of(gateway).send_many(messages, journal=journal, **options)


# --- one run at a time ----------------------------------------------------------------------------------------------


async def assert_refused(journal: PostgresJournal) -> None:
    """Assert that a run is refused before anything is pulled or sent."""
    gateway, source = Gateway(), Source(make_messages(3))
    with pytest.raises(JournalError, match="another run uses it") as caught:
        await client_of(gateway).send_many(source, journal=journal)
    assert "'acme'" in str(caught.value)
    assert not caught.value.may_have_been_sent
    assert (source.pulled, gateway.texts) == ([], [])


async def test_a_second_run_is_refused_until_the_first_has_ended(database: str) -> None:
    """Neither another object nor the same one can be used while a run is on; afterwards both can."""
    gateway = Gateway()
    client = client_of(gateway)
    async with LastingJournal(database, name="acme") as journal, LastingJournal(database, name="acme") as other:
        async with client.bulk(make_messages(3), journal=journal) as outcomes:
            await anext(outcomes)
            await assert_refused(journal)
            await assert_refused(other)
            async with LastingJournal(database, name="another") as another:
                assert kinds(await client.send_many(make_messages(1), journal=another)) == [Sent]
        assert kinds(await client.send_many(make_messages(3), journal=other)) == [Skipped] * 3
        assert kinds(await client.send_many(make_messages(4), journal=journal)) == [Skipped] * 3 + [Sent]
    assert sorted(gateway.texts) == ["0", "0", "1", "2", "3"]


async def test_closing_a_journal_ends_its_run(database: str) -> None:
    """The name is free again at once."""
    async with LastingJournal(database, name="acme") as journal:
        await journal.begin_run()
    assert kinds(await sent_with(database, Gateway(), make_messages(1))) == [Sent]


HOLDER = """
import asyncio, sys
from oca_sms_async.postgres import PostgresJournal

async def main():
    async with PostgresJournal(sys.argv[1], name="acme") as journal:
        await journal.begin_run()
        print("open", flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["closed", "killed"])
async def test_a_run_of_another_process_is_refused_until_the_first_has_ended(database: str, end: str) -> None:
    """The lock holds between processes, and ends with its process, however that one ends."""
    async with child(HOLDER, database) as holder:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"open\n"
        async with LastingJournal(database, name="acme") as journal:
            await assert_refused(journal)
        if end == "killed":
            holder.kill()
        await holder.communicate(b"" if end == "killed" else b"end\n")
        assert holder.returncode == (-signal.SIGKILL if end == "killed" else 0)
    report = None
    async with asyncio.timeout(PATIENCE):
        while report is None:  # the server needs a moment to notice a killed client
            try:
                report = await sent_with(database, Gateway(), make_messages(3))
            except JournalError:
                assert end == "killed"
    assert kinds(report) == [Sent] * 3


async def test_a_begin_that_is_cancelled_gives_the_name_back(database: str, journal: LastingJournal) -> None:
    """No lock stays behind, in whatever step the cancelling comes."""
    for steps in range(60):
        beginning = asyncio.create_task(journal.begin_run())
        for _ in range(steps):
            await asyncio.sleep(0)
        beginning.cancel()
        try:
            await beginning
        except (asyncio.CancelledError, JournalError):  # the server may still be at giving back the name before
            continue
        await journal.end_run()
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    await until(lambda: execute(database, locks) == [(0,)])
    await journal.begin_run()
    await journal.aclose()


async def test_a_begin_that_is_cancelled_as_it_succeeds_gives_the_name_back(
    database: str, journal: LastingJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name was taken, and its caller never hears of it."""
    spawn = journal._operations.spawn

    def spawn_and_cancel(*call: Any) -> asyncio.Task[Any]:
        patch.undo()
        task = spawn(*call)
        task.add_done_callback(lambda _: beginning.cancel())
        return task

    with monkeypatch.context() as patch:
        patch.setattr(journal._operations, "spawn", spawn_and_cancel)
        beginning = asyncio.create_task(journal.begin_run())
        await asyncio.wait({beginning})
    assert beginning.cancelled()
    assert execute(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    await journal.begin_run()
    await journal.aclose()


# --- a run's calls --------------------------------------------------------------------------------------------------


async def test_calls_take_effect_in_their_order(database: str) -> None:
    """Equal messages are counted in the order of the calls, whatever the order in which the answers are awaited."""
    async with LastingJournal(database, name="acme") as journal:
        await journal.begin_run()
        first = [journal.lookup_next(None, NUMBER, "text") for _ in range(3)]
        await asyncio.sleep(0)  # the first three are on their way
        second = [journal.lookup_next(None, NUMBER, text) for text in ("text", "other", "text")]
        identities = [(await it).identity for it in [*reversed(second), *reversed(first)]][::-1]
        assert [int.from_bytes(identity[16:]) for identity in identities] == [1, 2, 3, 4, 1, 5]
        assert len({identity[:16] for identity in identities}) == 2
        await journal.end_run()
        await journal.begin_run()
        assert (await journal.lookup_next(None, NUMBER, "text")).identity == identities[0]


async def test_what_waits_meanwhile_shares_the_next_transaction(
    database: str, journal: LastingJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred lookups and claims that come while a write is on take one transaction."""
    await journal.begin_run()
    found = [await journal.lookup_next(str(it), NUMBER, "text") for it in range(50)]
    committed = "SELECT count(*) FROM (SELECT DISTINCT xmin::text FROM oca_sms_message) AS x"
    calls = [journal.lookup_next(None, NUMBER, "first")]
    await asyncio.sleep(0)
    calls += [journal.lookup_next(None, NUMBER, "text") for _ in range(50)]
    assert all(await asyncio.gather(*(journal.intend(it, seconds=1) for it in found)))
    await asyncio.gather(*calls)
    assert execute(database, committed) == [(1,)]
    assert len(entries(database)) == 50
    await journal.aclose()


async def test_keys_within_one_batch(database: str) -> None:
    """In one statement as in many: the first use counts, the same again is repeated, another text is a conflict."""
    async with LastingJournal(database, name="acme") as journal:
        await journal.settle(await claim(journal, "sent"), SENT)
        await journal.begin_run()
        asked = [("a", "1"), ("a", "1"), ("a", "2"), ("b", "1"), ("sent", "other"), ("sent", "text"), ("sent", "other")]
        found = await asyncio.gather(*(journal.lookup_next(key, NUMBER, text) for key, text in asked))
        stored, repeated, conflict = Answer.STORED, Answer.REPEATED, Answer.KEY_CONFLICT
        assert [it.answer for it in found] == [stored, repeated, conflict, stored, conflict, stored, conflict]
        assert found[5].entry == SENT


async def test_a_keyed_send_and_a_run_share_their_keys(database: str) -> None:
    """Whichever claims first has the message, and the other one sees its outcome."""
    async with LastingJournal(database, name="acme") as journal, LastingJournal(database, name="acme") as other:
        await journal.begin_run()
        of_run = await journal.lookup_next("run", NUMBER, "text")
        of_send = await other.lookup_key("send", NUMBER, "text")
        late_run = await journal.lookup_next("send", NUMBER, "text")
        late_send = await other.lookup_key("run", NUMBER, "text")
        assert await asyncio.gather(journal.intend(of_run, seconds=100), other.intend(of_send, seconds=100))
        assert not await journal.intend(late_run, seconds=100)
        assert not await other.intend(late_send, seconds=100)
        await journal.settle(of_run, SENT)
        assert await other.lookup("run") == SENT
        await journal.end_run()
        assert not await journal.intend(late_run, seconds=100)


async def test_a_message_that_was_found_is_sent(database: str) -> None:
    """A record settles one message in doubt, and no message that another sender took meanwhile or has settled."""
    async with LastingJournal(database, name="acme") as journal, LastingJournal(database, name="acme") as other:
        for key in "abc":
            await claim(journal, key, seconds=0)
        await journal.begin_run()
        a, b, c = [await journal.lookup_next(key, NUMBER, "text") for key in "abc"]
        receipt = SendReceipt("its id", "delivered", 1)
        assert await journal.find(a, receipt)
        assert not await journal.find(b, receipt)
        assert await other.lookup("a") == JournalEntry(Status.SENT, receipt, 1)
        assert await other.intend(await other.lookup_key("c", NUMBER, "text"), seconds=100)
        assert not await journal.find(c, SendReceipt("another", "delivered", 1))
        assert await other.lookup("b") == JournalEntry(Status.DOUBTFUL, attempts=1)


@pytest.mark.parametrize("outcome", [SENT, UNSENT])
async def test_an_outcome_that_came_first_is_not_replaced_by_a_record(database: str, outcome: JournalEntry) -> None:
    """The sender knows best what became of its message."""
    async with PostgresJournal(database, name="acme") as journal:
        slow = await claim(journal, seconds=0)
        await journal.begin_run()
        found = await journal.lookup_next("key", NUMBER, "text")
        await journal.settle(slow, outcome)
        assert not await journal.find(found, SendReceipt("its id", "delivered", 1))
        assert await journal.lookup("key") == outcome


async def test_a_late_outcome_does_not_undo_what_was_found(database: str) -> None:
    """A sender that does not know cannot put a message into doubt again that the history has."""
    async with LastingJournal(database, name="acme") as journal:
        late = await claim(journal, seconds=0)
        await journal.begin_run()
        receipt = SendReceipt("its id", "delivered", 1)
        assert await journal.find(await journal.lookup_next("key", NUMBER, "text"), receipt)
        await journal.settle(late, JournalEntry(Status.DOUBTFUL, attempts=1))
        assert await journal.lookup("key") == JournalEntry(Status.SENT, receipt, 1)


async def test_reconciling_over_the_journal(database: str) -> None:
    """A lost answer is found in the history, and a later run skips the message."""
    sandbox = Sandbox()
    async with sandbox.serve() as served, LastingJournal(database, name="acme") as journal:
        client = AsyncOcaSms(served.username, served.password, base_url=served.base_url)
        sms = Sms(NUMBER, "text")
        await client.send(sms.phone, sms.message)
        await journal.begin_run()
        assert await journal.intend(await journal.lookup_next(None, NUMBER, "text"), seconds=0)
        await journal.end_run()
        assert [found.sms for found in (await client.reconcile(journal, [sms])).found] == [sms]
        assert kinds(await client.send_many([sms], journal=journal)) == [Skipped]
        await client.aclose()


async def test_a_run_needs_a_beginning(journal: LastingJournal) -> None:
    """A lookup outside of a run would be counted by nobody."""
    calls = [journal.lookup_next(None, NUMBER, "text") for _ in range(2)]
    with pytest.raises(JournalError, match="no run has begun"):
        await calls[0]
    await journal.aclose()


async def test_doubt_of_earlier_runs_is_logged(
    database: str, journal: LastingJournal, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that begins tells how many messages are in doubt, without those that are being sent."""
    await claim(journal, "given up", seconds=0)
    await claim(journal, "busy", seconds=100)
    await journal.begin_run()
    (record,) = [record for record in caplog.records if vars(record)["event"] == "journal.doubtful"]
    assert (vars(record)["journal"], vars(record)["doubtful"]) == ("acme", 1)
    await journal.aclose()

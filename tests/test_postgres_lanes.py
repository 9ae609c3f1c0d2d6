"""Calls that share a statement: each has its own answer in time, and no two senders wait for each other."""

import asyncio
import random
from collections.abc import Callable
from typing import Final

import psycopg
import pytest
from claims import NUMBER, SENT, UNSENT, LastingJournal, claim
from moved_clock import until
from postgres_server import execute

from oca_sms_async import JournalError
from oca_sms_async._journal import JournalEntry, Status
from oca_sms_async._postgres_lanes import Lane
from oca_sms_async._postgres_messages import Names
from oca_sms_async._postgres_troubles import LateError

PATIENCE: Final = 60.0  # seconds, after which something hangs
SLACK: Final = 5.0  # seconds by which a busy machine may be late
NAMES: Final = Names(1, b"salt")
WAITING: Final = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


class Statements:
    """Stands for the database: it notes the calls of each statement, and answers when it is released."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.released = asyncio.Event()
        self.error: Exception | None = None

    async def perform(self, names: Names, values: list[int]) -> list[int]:
        """Answer each value with its double."""
        self.batches.append(values)
        await self.released.wait()
        if self.error is not None:
            raise self.error
        return [2 * value for value in values]


def lane_of(statements: Statements, *, timeout: float = PATIENCE) -> Callable[..., asyncio.Task[int]]:
    """Return a function that starts a call in a new lane."""
    lane: Lane[int, int] = Lane(statements.perform, timeout=timeout, late=lambda: LateError("late"))

    def call(value: int, *, names: Names = NAMES, identity: int | None = None) -> asyncio.Task[int]:
        name = str(value if identity is None else identity).encode()
        return asyncio.create_task(lane.call(names, name, value))

    return call


async def turns(count: int = 5) -> None:
    """Let other tasks go on."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- sharing --------------------------------------------------------------------------------------------------------


async def test_calls_that_wait_share_the_next_statement() -> None:
    """Two statements are under way at once, and all that comes meanwhile is in the third one."""
    statements = Statements()
    call = lane_of(statements)
    calls = [call(1), call(2)]
    await turns()
    calls.append(call(3))
    await turns()
    calls += [call(it) for it in range(4, 9)]
    await turns()
    assert statements.batches == [[1, 2], [3]]
    statements.released.set()
    assert await asyncio.gather(*calls) == [2 * it for it in range(1, 9)]
    assert statements.batches[2:] == [[4, 5, 6, 7, 8]]


async def test_no_statement_has_a_message_twice() -> None:
    """Two claims of one message are in two statements, and so are messages of other tables."""
    statements = Statements()
    statements.released.set()
    call = lane_of(statements)
    other = Names(2, b"salt")
    calls = [call(1, identity=7), call(2, identity=7), call(3, identity=8), call(4, names=other), call(5, identity=7)]
    assert await asyncio.gather(*calls) == [2, 4, 6, 8, 10]
    assert statements.batches == [[1, 3], [2], [4], [5]]


async def test_a_statement_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of calls is parted, and each has its answer."""
    monkeypatch.setattr("oca_sms_async._postgres_lanes._MOST", 3)
    statements = Statements()
    statements.released.set()
    call = lane_of(statements)
    assert await asyncio.gather(*map(call, range(7))) == [2 * it for it in range(7)]
    assert statements.batches == [[0, 1, 2], [3, 4, 5], [6]]


async def test_a_call_in_the_step_in_which_all_statements_end_has_its_own() -> None:
    """It does not wait for a task that is over."""
    statements = Statements()
    call = lane_of(statements)
    first = call(1)
    await turns()
    second = call(2)
    await turns()
    statements.released.set()
    async with asyncio.timeout(PATIENCE):
        for value in range(3, 20):
            await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
            first, second = call(value), call(value)
        assert await first == await second == 38


# --- errors and time ------------------------------------------------------------------------------------------------


async def test_an_error_is_that_of_all_calls_of_its_statement() -> None:
    """The next statement is not touched by it."""
    statements = Statements()
    call = lane_of(statements)
    calls = [call(1), call(2)]
    await turns()
    statements.error = psycopg.OperationalError("gone")
    statements.released.set()
    with pytest.raises(psycopg.OperationalError, match="gone"):
        await calls[0]
    with pytest.raises(psycopg.OperationalError, match="gone"):
        await calls[1]
    statements.error = None
    assert await call(3) == 6


async def test_a_call_that_waits_too_long_is_in_no_statement() -> None:
    """Its sender was told that it failed, so the database never hears of it."""
    statements, clock = Statements(), asyncio.get_running_loop().time
    call, began = lane_of(statements, timeout=0.05), clock()
    calls = [call(1)]
    await turns()
    calls.append(call(2))
    await turns()
    calls.append(call(3))
    async with asyncio.timeout(PATIENCE):
        for late in calls:
            with pytest.raises(LateError):
                await late
    assert clock() - began < SLACK
    statements.released.set()
    assert await call(4) == 8
    assert statements.batches == [[1], [2], [4]]


async def test_the_end_of_a_lane_is_that_of_its_statements() -> None:
    """A statement goes on without its callers, and `ended` waits for it."""
    statements = Statements()
    lane: Lane[int, int] = Lane(statements.perform, timeout=0.01, late=lambda: LateError("late"))
    with pytest.raises(LateError):
        await lane.call(NAMES, b"1", 1)
    ending = asyncio.create_task(lane.wait_for_end())
    await turns()
    assert not ending.done()
    statements.released.set()
    await asyncio.wait_for(ending, PATIENCE)


def test_another_event_loop_begins_anew() -> None:
    """Calls of a loop that stands still hold nothing up."""
    statements: list[Statements] = []
    lanes: list[Lane[int, int]] = []

    async def perform(names: Names, values: list[int]) -> list[int]:
        return await statements[-1].perform(names, values)

    async def use(*, cut: bool) -> int:
        statements.append(Statements())
        if not lanes:
            lanes.append(Lane(perform, timeout=PATIENCE, late=lambda: LateError("late")))
        calls = []
        for value in range(3):
            calls.append(asyncio.create_task(lanes[0].call(NAMES, str(value).encode(), value)))
            await turns()
        if not cut:
            statements[-1].released.set()
            return (await asyncio.gather(*calls))[2]
        return 0

    dead = asyncio.new_event_loop()
    dead.run_until_complete(use(cut=True))
    assert asyncio.run(use(cut=False)) == 4
    for task in asyncio.all_tasks(dead):
        task.cancel()
    dead.run_until_complete(asyncio.sleep(0.1))
    dead.close()


# --- in the database ------------------------------------------------------------------------------------------------


async def test_claims_and_outcomes_that_wait_share_a_commit(database: str) -> None:
    """Fifty senders at once cost the database three commits for each step, not fifty."""
    commits = "SELECT count(DISTINCT xmin::text) FROM oca_sms_message"
    async with LastingJournal(database, name="acme", timeout=PATIENCE) as journal:
        found = await asyncio.gather(*(journal.lookup_key(str(it), NUMBER, "text") for it in range(52)))
        for write in (journal.intend, lambda it: journal.settle(it, SENT)):
            with psycopg.connect(database) as holder:
                holder.execute("LOCK TABLE oca_sms_message")
                writes = []
                for part, under_way in ((found[:1], 1), (found[1:2], 2), (found[2:], 2)):
                    writes += [write(it) for it in part]
                    await until(lambda count=under_way: execute(database, WAITING) == [(count,)])  # type: ignore[misc] # mypy takes no default here
            await asyncio.gather(*writes)
            assert execute(database, commits) == [(3,)]


async def test_senders_of_the_same_messages_never_wait_for_each_other(database: str) -> None:
    """Claims and outcomes of many messages at once, in any order: no deadlock, and each message is claimed once."""
    draw = random.Random(1)
    journals = [LastingJournal(database, name="acme", timeout=PATIENCE) for _ in range(3)]
    for number in range(10):
        keys = [f"{number} {it}" for it in range(40)]

        async def send(journal: LastingJournal, keys: list[str]) -> int:
            found = await asyncio.gather(*(journal.lookup_key(key, NUMBER, "text") for key in keys))
            claimed = await asyncio.gather(*map(journal.intend, found))
            mine = [it for it, got in zip(found, claimed, strict=True) if got]
            await asyncio.gather(*(journal.settle(it, SENT) for it in draw.sample(mine, len(mine))))
            return len(mine)

        counts = await asyncio.gather(*(send(it, draw.sample(keys, len(keys))) for it in journals))
        assert sum(counts) == len(keys)
    assert execute(database, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]
    for journal in journals:
        await journal.aclose()


@pytest.mark.parametrize("step", ["claims", "outcomes"])
async def test_each_statement_locks_its_messages_in_one_order(database: str, step: str) -> None:
    """A statement that waits for the last message has the first one, in whatever order its calls came."""
    lock = "SELECT 1 FROM oca_sms_message WHERE identity = %s FOR UPDATE"
    async with LastingJournal(database, name="acme", timeout=PATIENCE) as journal:
        found = [await claim(journal, key) for key in ("a", "b")]
        if step == "claims":
            await asyncio.gather(*(journal.settle(it, UNSENT) for it in found))
            found = [await journal.lookup_key(key, NUMBER, "text") for key in ("a", "b")]
        first, last = sorted(found, key=lambda it: it.identity)
        with psycopg.connect(database) as holder, psycopg.connect(database) as other:
            holder.execute(lock, (last.identity,))
            writes = [journal.intend(it) if step == "claims" else journal.settle(it, SENT) for it in (last, first)]
            await until(lambda: execute(database, WAITING) == [(1,)])
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute(f"{lock} NOWAIT".encode(), (first.identity,))
        await asyncio.gather(*writes)


@pytest.mark.parametrize("outcome", [SENT, JournalEntry(Status.DOUBTFUL, attempts=1)])
async def test_an_outcome_that_meets_the_claim_of_another_sender_is_not_lost_in_silence(
    database: str, outcome: JournalEntry
) -> None:
    """The outcome waits for the claim, finds that the message is another's, and its sender is told so."""
    async with LastingJournal(database, name="acme", timeout=PATIENCE) as journal:
        slow = await claim(journal, seconds=0)
        with psycopg.connect(database) as other:
            other.execute("UPDATE oca_sms_message SET claim = 'another', attempts = 2")
            settling = [journal.settle(slow, outcome)]
            await until(lambda: execute(database, WAITING) == [(1,)])
            other.commit()
        with pytest.raises(JournalError, match="another sender"):
            await settling[0]
        assert await journal.lookup("key") == JournalEntry(Status.DOUBTFUL, attempts=2)


@pytest.mark.parametrize("in_run", [False, True])
async def test_an_outcome_follows_its_claim(database: str, *, in_run: bool) -> None:
    """A sender that is cancelled while its claim is written sends nothing, and leaves no doubt."""
    async with LastingJournal(database, name="acme", timeout=PATIENCE) as journal:
        await journal.begin_run()
        found = await (journal.lookup_next if in_run else journal.lookup_key)("key", NUMBER, "text")
        with psycopg.connect(database) as holder:
            holder.execute("LOCK TABLE oca_sms_message IN EXCLUSIVE MODE")
            intending, settling = journal.intend(found), journal.settle(found, UNSENT)
            await until(lambda: execute(database, WAITING) == [(1,)])
        assert await intending
        await settling
        assert await journal.lookup("key") == UNSENT


async def test_a_statement_without_callers_ends_before_the_journal_is_closed(database: str) -> None:
    """Its connection is closed with the others."""
    async with LastingJournal(database, name="acme", timeout=PATIENCE) as journal:
        found = [await journal.lookup_key(str(it), NUMBER, "text") for it in range(3)]
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE oca_sms_message IN EXCLUSIVE MODE")
        journal = LastingJournal(database, name="acme", timeout=0.5)
        claims = []
        for it in found:
            claims.append(journal.intend(it))
            await asyncio.sleep(0.1)
        assert {type(it) for it in await asyncio.gather(*claims, return_exceptions=True)} == {JournalError}
        await journal.aclose()
        assert all(connection.closed for connection in journal._connections._open)


async def test_one_message_that_another_sender_has_costs_the_others_nothing(database: str) -> None:
    """Each call of a statement has an answer of its own."""
    async with LastingJournal(database, name="acme") as journal:
        await journal.settle(await claim(journal, "sent"), SENT)
        found = await asyncio.gather(*(journal.lookup_key(key, NUMBER, "text") for key in ("a", "sent", "b")))
        assert await asyncio.gather(*map(journal.intend, found)) == [True, False, True]
        ended = await asyncio.gather(*(journal.settle(it, SENT) for it in found), return_exceptions=True)
        assert [type(it) for it in ended] == [type(None), JournalError, type(None)]
        assert await journal.lookup("a") == SENT
        await journal.settle(found[1], UNSENT)

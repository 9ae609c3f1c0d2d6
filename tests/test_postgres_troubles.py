"""A PostgreSQL that fails: each trouble is a `JournalError` in time, and is over when the server's is."""

import asyncio
import contextlib
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest
from claims import LATER, NUMBER, RECEIPT, SENT, UNSENT, LastingJournal, claim, entries
from in_memory import Gateway, accept, ask, client_of, make_messages
from moved_clock import until
from pooler import pooling
from postgres_server import PostgresServer, execute

from oca_sms_async import JournalError, Sent
from oca_sms_async._journal import JournalEntry, Status
from oca_sms_async.postgres import PostgresJournal

PATIENCE: Final = 60.0  # seconds, after which something hangs
SECRET: Final = "marker-password"


@pytest.fixture
async def journal(place: str) -> AsyncIterator[LastingJournal]:
    """A journal on the restless server, with more patience than a restart takes."""
    async with LastingJournal(place, name="acme", timeout=PATIENCE) as opened:
        yield opened


@contextlib.asynccontextmanager
async def hasty(place: str, *, timeout: float = 0.3) -> AsyncIterator[LastingJournal]:
    """Open a journal that gives up soon."""
    async with LastingJournal(place, name="acme", timeout=timeout) as opened:
        yield opened


async def assert_fails(use: Callable[[], Awaitable[object]], reason: str) -> JournalError:
    """Assert that a use fails for a reason in plain words, before anything could be sent."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(JournalError, match=reason) as caught:
            await use()
    told = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert SECRET not in told
    assert str(caught.value).startswith("the journal 'acme' cannot be used: ")
    assert not caught.value.may_have_been_sent
    return caught.value


def uses(journal: PostgresJournal) -> list[Callable[[], Awaitable[object]]]:
    """Return the first uses of a journal."""
    return [
        lambda: journal.lookup("key"),
        lambda: journal.lookup_key("key", NUMBER, "text"),
        journal.begin_run,
        journal.setup,
    ]


# --- no connection --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("host=127.0.0.1 port=1", "cannot be reached"),
        ("host=/nowhere", "cannot be reached"),
        ("postgresql://host.invalid/x", "cannot be reached"),
    ],
)
async def test_a_server_that_is_not_there(place: str, reason: str) -> None:
    """Each use fails in plain words."""
    async with hasty(f"{place}{'&' if '?' in place else ''}") as journal:
        for use in uses(journal):
            await assert_fails(use, reason)


async def test_a_server_that_accepts_and_says_nothing() -> None:
    """A host that hangs costs the time-out, and no more."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/.s.PGSQL.5432")
        listening.listen()
        async with hasty(f"host={folder} user=postgres password={SECRET}") as journal:
            for use in uses(journal):
                await assert_fails(use, "no connection to PostgreSQL could be made in time")
            await asyncio.gather(*(assert_fails(lambda: journal.lookup("key"), "in time") for _ in range(20)))


async def test_a_loop_that_ends_while_a_connection_is_made_ends() -> None:
    """`asyncio.run` returns although a server has not answered, for no task outlives its cancelling."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/.s.PGSQL.5432")
        listening.listen()

        async def leave() -> None:
            journal = PostgresJournal(f"host={folder} user=postgres", name="acme")
            _ = journal.lookup_key("key", NUMBER, "text"), asyncio.create_task(journal.begin_run())
            await asyncio.sleep(0.01)

        thread = threading.Thread(target=asyncio.run, args=(leave(),), daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, PATIENCE)
        assert not thread.is_alive()


async def test_a_refused_role_fails_at_once(server: PostgresServer, place: str) -> None:
    """A wrong password, role or database is not tried again, and the error shows no secret."""
    execute(place, "CREATE ROLE guarded LOGIN PASSWORD 'right'")
    hba = server.folder / "data" / "pg_hba.conf"
    before = hba.read_text(encoding="utf-8")
    hba.write_text("local all guarded scram-sha-256\n" + before, encoding="utf-8")
    execute(place, "SELECT pg_reload_conf()")
    try:
        for options, reason in {
            f"user=guarded password={SECRET}": "refused the role or its password",
            "user=nobody_here": "refused the role or its password",
            "dbname=nowhere": "there is no such database",
        }.items():
            async with LastingJournal(f"{place} {options}", name="acme", timeout=1000) as journal:
                for use in uses(journal):
                    await assert_fails(use, reason)
    finally:
        hba.write_text(before, encoding="utf-8")
        execute(place, "SELECT pg_reload_conf()")
        execute(place, "DROP ROLE guarded")


async def test_a_server_without_a_free_connection(place: str) -> None:
    """The error says so, and a connection that becomes free in time is used."""
    execute(place, "CREATE ROLE limited LOGIN CONNECTION LIMIT 0; GRANT ALL ON ALL TABLES IN SCHEMA public TO limited")
    try:
        async with hasty(f"{place} user=limited") as journal:
            await assert_fails(lambda: journal.lookup("key"), "no connection left")
            await assert_fails(journal.begin_run, "no connection left")
        async with LastingJournal(f"{place} user=limited", name="acme", timeout=PATIENCE) as journal:
            waiting = journal.lookup_key("key", NUMBER, "text")
            await asyncio.sleep(0.05)
            execute(place, "ALTER ROLE limited CONNECTION LIMIT 10")
            assert (await waiting).entry == UNSENT
    finally:
        execute(place, "DROP OWNED BY limited; DROP ROLE limited")


# --- statements that fail -------------------------------------------------------------------------------------------


async def test_a_read_only_server(place: str, journal: LastingJournal) -> None:
    """A standby after a failover: the error names it, and the same journal goes on when the server takes writes."""
    found = await journal.lookup_key("key", NUMBER, "text")
    database = psycopg.conninfo.conninfo_to_dict(place)["dbname"]
    execute(place, f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    async with hasty(place) as other:
        assert await other.lookup("key") is None
        await assert_fails(lambda: other.intend(found), "read-only")
        await assert_fails(other.begin_run, "read-only")
    await journal.aclose()
    async with LastingJournal(place, name="acme", timeout=PATIENCE) as again:
        waiting = again.intend(found)
        await asyncio.sleep(0.05)
        writing = f"{place} options='-c default_transaction_read_only=off'"
        execute(writing, f"ALTER DATABASE {database} SET default_transaction_read_only = off")
        assert await waiting


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ("DROP TABLE oca_sms_message", r"tables are missing: await setup\(\)"),
        ("ALTER TABLE oca_sms_message DROP COLUMN code", "tables are of another version"),
        ("REVOKE ALL ON oca_sms_message FROM limited", "lacks a privilege"),
    ],
)
async def test_tables_that_were_harmed(place: str, harm: str, reason: str) -> None:
    """Each statement tells what is wrong with them."""
    execute(place, "CREATE ROLE limited LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO limited")
    try:
        async with LastingJournal(f"{place} user=limited", name="acme") as journal:
            found = await claim(journal)
            await journal.begin_run()
            execute(place, harm)
            await assert_fails(lambda: journal.lookup("key"), reason)
            await assert_fails(lambda: journal.intend(found), reason)
            await assert_fails(lambda: journal.settle(found, SENT), reason)
            await assert_fails(lambda: journal.lookup_next(None, NUMBER, "text"), reason)
    finally:
        execute(place, "DROP OWNED BY limited; DROP ROLE limited")


async def test_a_statement_time_out(place: str) -> None:
    """The server's own time-out is an error that says so, in a run and outside."""
    async with LastingJournal(f"{place} options='-c statement_timeout=50'", name="acme") as journal:
        found = await journal.lookup_key("key", NUMBER, "text")
        await journal.begin_run()
        of_run = await journal.lookup_next("other", NUMBER, "text")
        with psycopg.connect(place) as holder:
            holder.execute("LOCK TABLE oca_sms_message")
            await assert_fails(lambda: journal.intend(found), "cancelled the statement")
            await assert_fails(lambda: journal.intend(of_run), "cancelled the statement")
        assert await journal.intend(found)
        await assert_fails(lambda: journal.intend(of_run), "cancelled the statement")  # that run is over


async def test_a_locked_table_costs_the_time_out_and_leaves_no_statement_behind(
    place: str, journal: LastingJournal
) -> None:
    """A migration that holds the table: the error comes in time, and the server gives up what nobody waits for."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    found = [await journal.lookup_key(str(it), NUMBER, "text") for it in range(10)]
    async with hasty(place) as other:
        with psycopg.connect(place) as holder:
            holder.execute("LOCK TABLE oca_sms_message")
            failing = [asyncio.create_task(assert_fails(lambda it=it: other.intend(it), ".")) for it in found]  # type: ignore[misc] # mypy takes no default here
            reasons = {str(error).partition(": ")[2] for error in await asyncio.gather(*failing)}
            late = {"was free in time", "could be made in time"}
            assert reasons <= {
                "PostgreSQL did not answer in time",
                *(f"no connection to PostgreSQL {it}" for it in late),
            }
            assert "PostgreSQL did not answer in time" in reasons
            await until(lambda: execute(place, waiting) == [(0,)])
        assert await journal.intend(found[0])


@pytest.mark.parametrize("last", ["claim", "claim of a run", "outcome"])
async def test_a_commit_is_durable_whatever_the_database_prefers(place: str, server: PostgresServer, last: str) -> None:
    """With `synchronous_commit` off, a crash right after a claim or an outcome loses neither."""
    database = psycopg.conninfo.conninfo_to_dict(place)["dbname"]
    execute(place, f"ALTER DATABASE {database} SET synchronous_commit = off")
    async with LastingJournal(place, name="acme", timeout=PATIENCE) as journal:
        await journal.begin_run()
        run = [await journal.lookup_next(f"run {it}", NUMBER, "text") for it in range(2)]
        one, two = await claim(journal, "one"), await journal.lookup_key("two", NUMBER, "text")
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "claim": lambda: journal.intend(two),
            "claim of a run": lambda: asyncio.gather(*(journal.intend(it) for it in run)),
            "outcome": lambda: journal.settle(one, SENT),
        }
        for step in sorted(steps, key=last.__eq__):  # a later commit takes the earlier ones to the disk
            assert await steps[step]() in (True, [True, True], None)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        assert await journal.lookup("one") == SENT
        doubtful = JournalEntry(Status.DOUBTFUL, attempts=1)
        assert [await journal.lookup(key) for key in ("two", "run 0", "run 1")] == [doubtful] * 3


# --- connections that are lost --------------------------------------------------------------------------------------


async def test_a_restart_costs_only_time(place: str, server: PostgresServer, journal: LastingJournal) -> None:
    """Keyed sends go on over a restart: the claims before it are kept, and the statements under way are repeated."""
    before = [await claim(journal, str(it)) for it in range(8)]
    await asyncio.to_thread(server.stop)
    settling = [journal.settle(it, SENT) for it in before]
    claiming = [asyncio.create_task(claim(journal, str(it))) for it in range(8, 16)]
    await asyncio.sleep(0.05)
    await asyncio.to_thread(server.start)
    await asyncio.gather(*settling, *claiming)
    assert entries(place) == [(2, 1, None, None)] * 8 + [(1, 1, None, None)] * 8


async def test_a_server_that_stays_away_is_told_in_time_and_noticed_when_it_is_back(
    place: str, server: PostgresServer
) -> None:
    """Each use fails while it is away, and the same journal works afterwards."""
    async with hasty(place, timeout=2.0) as journal:
        found = await claim(journal)
        await asyncio.to_thread(server.kill)
        for use in (lambda: journal.lookup("key"), lambda: journal.settle(found, SENT)):
            await assert_fails(use, "cannot be reached")
        await asyncio.to_thread(server.start)
        await journal.settle(found, SENT)
        assert await journal.lookup("key") == SENT


async def test_connections_that_an_administrator_ends_are_replaced(place: str, journal: LastingJournal) -> None:
    """A killed backend is no error of a send, even in the middle of its statement."""
    mine = "datname = current_database() AND pid <> pg_backend_pid()"
    await asyncio.gather(*(claim(journal, str(it)) for it in range(8)))
    execute(place, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")
    found = [await journal.lookup_key(f"next {it}", NUMBER, "text") for it in range(4)]
    with psycopg.connect(place) as holder:
        holder.execute("LOCK TABLE oca_sms_message")
        waiting = f"SELECT pid FROM pg_stat_activity WHERE {mine} AND wait_event_type = 'Lock'"
        claiming = [journal.intend(it) for it in found[:2]]
        await until(lambda: len(execute(place, waiting)) == 1)  # both share a statement
        claiming += [journal.intend(it) for it in found[2:]]
        await until(lambda: len(execute(place, waiting)) == 2)
        first = execute(place, waiting)
        for (process,) in first:
            execute(place, f"SELECT pg_terminate_backend({process})")
        await until(lambda: len({*execute(place, waiting)} - {*first}) == 2)  # others, which wait as well
    assert await asyncio.gather(*claiming) == [True] * 4


async def test_connections_that_died_in_silence_are_noticed(
    place: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall that forgets idle connections: the next use checks the first one, and takes a new one in time."""
    async with LastingJournal(place, name="acme", timeout=2.0) as journal:
        await asyncio.gather(*(claim(journal, str(it)) for it in range(8)))

        async def sleep(connection: psycopg.AsyncConnection) -> None:
            await connection.execute("SELECT pg_sleep(0.1)")

        await asyncio.gather(*(journal._connections.perform(sleep) for _ in range(4)))  # all of them are idle then
        server.freeze()
        await assert_fails(lambda: journal.lookup("0"), "did not answer in time")  # it was in use a moment ago
        monkeypatch.setattr("oca_sms_async._postgres_connections._FRESH", 0.0)
        assert (await journal.lookup("1")) == JournalEntry(Status.DOUBTFUL, attempts=1)
        server.thaw()


# --- a run that loses its connection --------------------------------------------------------------------------------


async def test_a_run_without_its_connection_stops_and_its_outcomes_are_kept(
    place: str, server: PostgresServer, journal: LastingJournal
) -> None:
    """The server restarts in mid-run: the run stops by a `JournalError` and claims no more, and messages that are on
    the wire are settled when the server is back.
    """
    wire = asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        await wire.wait()
        return await ask(accept, request)

    gateway = Gateway(slow)
    running = asyncio.create_task(client_of(gateway).send_many(make_messages(100), journal=journal, concurrency=4))
    await until(lambda: len(gateway.texts) == 4)
    await asyncio.to_thread(server.kill)
    wire.set()
    await asyncio.to_thread(server.start)
    report = await running
    assert isinstance(report.stopped_by, JournalError)
    assert "lost" in str(report.stopped_by)
    assert [type(outcome) for outcome in report.outcomes[:4]] == [Sent] * 4
    assert len(gateway.texts) == 4
    again = await client_of(Gateway()).send_many(make_messages(100), journal=journal)
    assert (len(again.skipped), len(again.sent)) == (4, 96)


async def test_a_run_whose_connection_says_nothing_stops_in_time(place: str, server: PostgresServer) -> None:
    """The name may be held by the dead connection; no other claim of this run is made."""
    async with hasty(place, timeout=2.0) as journal:
        await journal.begin_run()
        found = await journal.lookup_next(None, NUMBER, "text")
        server.freeze()
        await assert_fails(lambda: journal.intend(found), "did not answer in time")
        server.thaw()
        await assert_fails(lambda: journal.lookup_next(None, NUMBER, "text"), "did not answer in time")
        await journal.end_run()
        assert await journal.lookup("key") is None


async def test_a_killed_connection_ends_the_run_before_its_next_write(place: str, journal: LastingJournal) -> None:
    """Another run may have the name by then, so nothing of the first one's is written."""
    await journal.begin_run()
    found = await journal.lookup_next(None, NUMBER, "text")
    locked = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
    execute(place, locked)
    async with LastingJournal(place, name="acme") as other:
        await other.begin_run()
        await assert_fails(lambda: journal.intend(found), "lost")
        await assert_fails(lambda: journal.find(found, RECEIPT), "lost")
        assert entries(place) == []


# --- poolers --------------------------------------------------------------------------------------------------------


async def test_keyed_sends_go_through_a_pooler_in_transaction_mode(postgres: PostgresServer, tmp_path: Path) -> None:
    """Sessions change with each statement, so nothing is kept in one: no prepared statement, lock or setting."""
    database = psycopg.conninfo.conninfo_to_dict(postgres.create_database())["dbname"]
    async with pooling(postgres.folder, tmp_path, size=2, latest_first=False) as pooler:
        place = f"host={tmp_path} user=postgres dbname={database}"
        async with LastingJournal(place, name="acme") as journal, LastingJournal(place, name="acme") as other:
            await asyncio.gather(journal.setup(), other.setup())
            for each in (journal, other):
                found = await asyncio.gather(*(each.lookup_key(str(it), NUMBER, "text") for it in range(20)))
                claimed = await asyncio.gather(*(each.intend(it) for it in found))
                assert claimed == [each is journal] * 20
                if each is journal:
                    await asyncio.gather(*(each.settle(it, SENT) for it in found[1:]))
            assert await journal.lookup("0") == JournalEntry(Status.DOUBTFUL, attempts=1)
            assert await other.lookup("1") == SENT
            assert await journal.forget(LATER) == 19
        assert pooler.transactions > 40
        assert pooler.prepared == []


@pytest.mark.parametrize("latest_first", [True, False])
async def test_a_run_through_a_pooler_is_refused(
    postgres: PostgresServer, tmp_path: Path, *, latest_first: bool
) -> None:
    """A run's lock would belong to a session that others use. The error says so, before the run's first claim."""
    database = psycopg.conninfo.conninfo_to_dict(postgres.create_database("with_tables"))["dbname"]
    async with (
        pooling(postgres.folder, tmp_path, size=2, latest_first=latest_first),
        LastingJournal(f"host={tmp_path} user=postgres dbname={database}", name="acme") as journal,
    ):

        async def begin() -> None:
            await journal.begin_run()
            assert not latest_first  # else it is seen at once
            for _ in range(2):  # one of them is given another session
                await journal.lookup_next(None, NUMBER, "text")

        await assert_fails(begin, "pooler such as PgBouncer")

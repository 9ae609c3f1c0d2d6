"""Sends with a key over a PostgreSQL that fails: certainly unsent before the first byte, in doubt after it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest
from command import wait_until
from in_memory import PHONE, Gateway, accept, ask, client_of
from moved_clock import until
from pooler import pooling
from postgres_server import PostgresServer, execute, serving

from oca_sms_async import AsyncOcaSms, DeliveryUnknownError, JournalEntry, JournalError, SendReceipt
from oca_sms_async._journal import Status
from oca_sms_async.postgres import PostgresJournal

PATIENCE: Final = 60.0  # seconds, after which something hangs
BRIEF: Final = 0.6  # seconds that a journal gives the database
SLACK: Final = 5.0  # seconds by which a busy machine may be late
ROLE: Final = "sender"
END_SESSIONS: Final = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'"

WAITING: Final = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

Trouble = Callable[[PostgresServer, str], AbstractContextManager[None]]


@contextlib.contextmanager
def away(server: PostgresServer, place: str) -> Iterator[None]:
    """The server has crashed, and is started again."""
    server.kill()
    yield
    server.start()


@contextlib.contextmanager
def read_only(server: PostgresServer, place: str) -> Iterator[None]:
    """The database takes no writes."""
    writing = f"{place} options='-c default_transaction_read_only=off'"
    execute(place, f"ALTER DATABASE {name_of(place)} SET default_transaction_read_only = on; {END_SESSIONS}")
    yield
    execute(writing, f"ALTER DATABASE {name_of(place)} RESET default_transaction_read_only")


@contextlib.contextmanager
def no_connection(server: PostgresServer, place: str) -> Iterator[None]:
    """Other programs have all connections."""
    execute(place, f"ALTER ROLE {ROLE} CONNECTION LIMIT 0; {END_SESSIONS}")
    yield
    execute(place, f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


@contextlib.contextmanager
def no_tables(server: PostgresServer, place: str) -> Iterator[None]:
    """The tables are gone, and come back."""
    execute(place, "ALTER TABLE oca_sms_message RENAME TO elsewhere")
    yield
    execute(place, "ALTER TABLE elsewhere RENAME TO oca_sms_message")


@contextlib.contextmanager
def locked(server: PostgresServer, place: str) -> Iterator[None]:
    """A migration has the table for itself."""
    with psycopg.connect(place) as holder:
        holder.execute("LOCK TABLE oca_sms_message")
        yield


@contextlib.contextmanager
def locked_for_long(server: PostgresServer, place: str) -> Iterator[None]:
    """As above, and the migration outlasts all statements: each is cancelled once its time is over."""
    with locked(server, place):
        yield
        wait_until(lambda: execute(server.url, WAITING) == [(0,)])


@contextlib.contextmanager
def statement_time_out(server: PostgresServer, place: str) -> Iterator[None]:
    """A migration has the table for itself, and the server gives statements little time."""
    execute(place, f"ALTER ROLE {ROLE} SET statement_timeout = 50; {END_SESSIONS}")
    with locked(server, place):
        yield
    execute(place, f"ALTER ROLE {ROLE} RESET statement_timeout")


@contextlib.contextmanager
def silence(server: PostgresServer, place: str) -> Iterator[None]:
    """All connections died without a word, and new ones work."""
    server.freeze()
    yield
    server.thaw()


LASTING: Final = [
    pytest.param(away, "cannot be reached", id="away"),
    pytest.param(read_only, "read-only: is this a standby", id="read-only"),
    pytest.param(no_connection, "no connection left", id="no connection"),
    pytest.param(no_tables, r"tables are missing: await setup\(\)", id="no tables"),
    pytest.param(locked_for_long, "in time", id="locked"),
    pytest.param(statement_time_out, "cancelled the statement: its time-out", id="statement time-out"),
]
PASSING: Final = [
    pytest.param(away, id="restarted"),
    pytest.param(read_only, id="read-only"),
    pytest.param(no_connection, id="no connection"),
    pytest.param(locked, id="locked"),
]


def name_of(place: str) -> str:
    """Return the name of a database."""
    return str(psycopg.conninfo.conninfo_to_dict(place)["dbname"])


@pytest.fixture
def sender(server: PostgresServer, place: str) -> Iterator[str]:
    """The place, for a role that is no superuser."""
    execute(place, f"CREATE ROLE {ROLE} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")
    yield f"{place} user={ROLE}"
    if server.running:
        execute(place, f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")


class Wire:
    """A gateway whose answers to «wire» wait until `released` is set."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.gateway = Gateway(answers={"wire": self._answer})

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        await self.released.wait()
        return await ask(accept, request)


@contextlib.asynccontextmanager
async def journal_and_client(
    place: str, wire: Wire, *, seconds: float
) -> AsyncIterator[tuple[PostgresJournal, AsyncOcaSms]]:
    """Open a journal that has been used a moment ago, and a client of it."""
    async with PostgresJournal(place, name="acme", timeout=seconds) as journal:
        await journal.lookup("first use")
        yield journal, client_of(wire.gateway, journal=journal)


def send(client: AsyncOcaSms, text: str) -> "asyncio.Task[SendReceipt]":
    """Send a message whose key is its text."""
    return asyncio.create_task(client.send(PHONE, text, key=text))


async def recover(client: AsyncOcaSms, text: str) -> SendReceipt:
    """Send until the journal can be used again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(JournalError):
                return await client.send(PHONE, text, key=text)


@pytest.mark.parametrize(("trouble", "reason"), LASTING)
async def test_a_database_that_fails(
    server: PostgresServer, sender: str, place: str, trouble: Trouble, reason: str
) -> None:
    """A message before its first byte is unsent, one on the wire is in doubt. When the trouble is over, the same client
    sends the first one, and knows of the second one.
    """
    wire = Wire()
    async with journal_and_client(sender, wire, seconds=BRIEF) as (journal, client):
        on_wire = send(client, "wire")
        await until(lambda: wire.gateway.texts == ["wire"])
        with trouble(server, place):
            with pytest.raises(JournalError, match=reason) as unsent:
                await asyncio.wait_for(send(client, "new"), PATIENCE)
            wire.released.set()
            with pytest.raises(DeliveryUnknownError) as doubtful:
                await asyncio.wait_for(on_wire, PATIENCE)
        assert (unsent.value.may_have_been_sent, doubtful.value.may_have_been_sent) == (False, True)
        assert isinstance(doubtful.value.__cause__, JournalError)
        assert wire.gateway.texts == ["wire"]
        assert (await recover(client, "new")).attempts == 1
        assert await journal.lookup("wire") == JournalEntry(Status.DOUBTFUL, attempts=1)
        execute(place, "UPDATE oca_sms_message SET busy_until = now()")
        with pytest.raises(DeliveryUnknownError):
            await send(client, "wire")
        assert wire.gateway.texts == ["wire", "new"]


@pytest.mark.parametrize(("trouble", "reason"), LASTING)
async def test_each_error_comes_in_time(
    server: PostgresServer, sender: str, place: str, trouble: Trouble, reason: str
) -> None:
    """Many sends at once take no longer than one of them, however few connections there are."""
    wire, clock = Wire(), asyncio.get_running_loop().time
    async with journal_and_client(sender, wire, seconds=BRIEF) as (_, client):
        with trouble(server, place):
            began = clock()
            ended = await asyncio.gather(*(send(client, str(it)) for it in range(50)), return_exceptions=True)
            took = clock() - began
    assert {type(it) for it in ended} == {JournalError}
    assert took < BRIEF + SLACK
    assert wire.gateway.texts == []


async def test_a_send_that_waits_behind_others_has_the_reason(server: PostgresServer, sender: str, place: str) -> None:
    """Its time may be over before its own statement begins; the error names the cause all the same."""
    async with journal_and_client(sender, Wire(), seconds=BRIEF) as (_, client):
        with away(server, place):
            sends = []
            for number in range(4):
                sends.append(send(client, str(number)))
                await asyncio.sleep(BRIEF / 8)
            for sending in sends:
                with pytest.raises(JournalError, match="cannot be reached"):
                    await sending


async def test_connections_that_died_in_silence(server: PostgresServer, sender: str, place: str) -> None:
    """They cost the next send its time. Later sends have fresh ones, and so has an outcome."""
    wire = Wire()
    async with journal_and_client(sender, wire, seconds=BRIEF) as (_, client):
        on_wire = send(client, "wire")
        await until(lambda: wire.gateway.texts == ["wire"])
        with silence(server, place):
            with pytest.raises(JournalError, match="did not answer in time"):
                await send(client, "new")
            new = await recover(client, "new")
            wire.released.set()
            assert (await on_wire).attempts == 1
        assert await send(client, "new") == new
        assert await send(client, "wire") == await on_wire
    assert wire.gateway.texts == ["wire", "new"]


@pytest.mark.parametrize("trouble", PASSING)
async def test_a_trouble_that_passes_costs_only_time(
    server: PostgresServer, sender: str, place: str, trouble: Trouble
) -> None:
    """A claim and an outcome that meet it are stored when it is over, and both messages are sent once."""
    wire = Wire()
    async with journal_and_client(sender, wire, seconds=PATIENCE) as (journal, client):
        on_wire = send(client, "wire")
        await until(lambda: wire.gateway.texts == ["wire"])
        with trouble(server, place):
            new = send(client, "new")
            wire.released.set()
            done, _ = await asyncio.wait({new, on_wire}, timeout=0.2)
        assert done == set()
        for sending, text in ((on_wire, "wire"), (new, "new")):
            receipt = await asyncio.wait_for(sending, PATIENCE)
            assert await journal.lookup(text) == JournalEntry(Status.SENT, receipt, 1)
        assert wire.gateway.texts == ["wire", "new"]


async def test_a_failover_to_a_standby(server: PostgresServer, place: str) -> None:
    """The standby knows all outcomes, and refuses claims until it is promoted. Then the same client goes on."""
    with serving(server) as standby:
        name = name_of(place)
        both = f"host={server.folder},{standby.folder} user=postgres dbname={name} target_session_attrs=any"
        wire = Wire()
        async with journal_and_client(both, wire, seconds=BRIEF) as (journal, client):
            receipt = await send(client, "sent")
            on_wire = send(client, "wire")
            await until(lambda: wire.gateway.texts == ["sent", "wire"])
            copied = "SELECT count(*) FROM oca_sms_message"
            await until(lambda: execute(standby.database(name), copied) == [(2,)])
            await asyncio.to_thread(server.kill)
            with pytest.raises(JournalError, match="read-only: is this a standby") as unsent:
                await send(client, "new")
            assert not unsent.value.may_have_been_sent
            assert await send(client, "sent") == receipt
            wire.released.set()
            with pytest.raises(DeliveryUnknownError):
                await on_wire
            await asyncio.to_thread(standby.promote)
            await recover(client, "new")
            assert await journal.lookup("wire") == JournalEntry(Status.DOUBTFUL, attempts=1)
        assert wire.gateway.texts == ["sent", "wire", "new"]


async def test_a_pooler_in_transaction_mode(postgres: PostgresServer, tmp_path: Path) -> None:
    """Four clients of two journals send the same keys at once through it, and each key makes one request."""
    name = name_of(postgres.create_database("with_tables"))
    gateway = Gateway()
    async with pooling(postgres.folder, tmp_path, size=2, latest_first=False) as pooler:
        place = f"host={tmp_path} user=postgres dbname={name}"
        async with (
            PostgresJournal(place, name="acme", timeout=PATIENCE) as journal,
            PostgresJournal(place, name="acme", timeout=PATIENCE) as other,
        ):
            clients = [client_of(gateway, journal=it) for it in (journal, other) * 2]
            receipts = [await asyncio.gather(*(send(it, str(key)) for it in clients)) for key in range(10)]
        assert pooler.prepared == []
    assert all(len({it.msg_uid for it in group}) == 1 for group in receipts)
    assert gateway.texts == [str(key) for key in range(10)]

"""The life of the journal in PostgreSQL: its construction, its event loops and processes, and its end."""

import asyncio
import gc
import subprocess
import sys
from typing import Any

import pytest
from claims import NUMBER, RECEIPT, SENT, claim
from journals import PATIENCE
from moved_clock import until
from postgres_server import count_clients, execute

from oca_sms_async._journal import Status
from oca_sms_async.postgres import PostgresJournal


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"conninfo": "marker-password"}, "conninfo"),
        ({"conninfo": "postgresql://user:marker-password@[host/x"}, "conninfo"),
        ({"conninfo": "dbname=x unknown=marker-password"}, "conninfo"),
        ({"conninfo": None}, "conninfo"),
        ({"name": ""}, "name"),
        ({"name": b"acme"}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "\ud83d"}, "name"),
        ({"timeout": 0.0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": None}, "timeout"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], named: str) -> None:
    """Each is a ValueError that names it, and shows nothing of a connection string."""
    arguments: dict[str, Any] = {"conninfo": "", "name": "acme"} | options
    with pytest.raises(ValueError, match=rf"^{named} must be") as caught:
        PostgresJournal(arguments.pop("conninfo"), **arguments)
    assert "marker-password" not in f"{caught.value!r} {caught.value.__context__!r}"


async def test_a_repr_names_the_journal_and_shows_nothing_of_the_connection() -> None:
    """It also says whether the journal is open."""
    journal = PostgresJournal("postgresql://user:marker-password@host/x", name="acme")
    assert repr(journal) == "<PostgresJournal 'acme' open>"
    await journal.aclose()
    assert repr(journal) == "<PostgresJournal 'acme' closed>"


async def test_a_closed_journal_stays_closed(database: str) -> None:
    """Closing twice is fine, and each use afterwards is a `RuntimeError`."""
    journal = PostgresJournal(database, name="acme")
    found = await claim(journal)
    await journal.begin_run()
    of_run = await journal.lookup_next(None, NUMBER, "text")
    await journal.aclose()
    await journal.aclose()
    for use in (
        lambda: journal.lookup("key"),
        lambda: journal.lookup_key("key", NUMBER, "text"),
        lambda: journal.intend(found, seconds=1),
        lambda: journal.settle(found, SENT),
        lambda: journal.lookup_next(None, NUMBER, "text"),
        lambda: journal.find(of_run, RECEIPT),
        journal.begin_run,
        journal.setup,
    ):
        with pytest.raises(RuntimeError) as caught:
            await use()
        assert str(caught.value) == "the journal 'acme' is closed: make another one of this name"
    await journal.end_run()


async def test_closing_waits_for_the_writes_and_leaves_no_connection(database: str) -> None:
    """An outcome that is on its way is stored, and the server has no connection of ours afterwards."""
    journal = PostgresJournal(database, name="acme")
    found = [await claim(journal, str(it)) for it in range(8)]
    await journal.begin_run()
    writes = [journal.settle(it, SENT) for it in found]
    await journal.aclose()
    assert all(write.done() for write in writes)
    assert execute(database, "SELECT DISTINCT status FROM oca_sms_message") == [(2,)]
    await until(lambda: count_clients(database) == 0)


async def test_an_outcome_is_stored_even_if_its_sender_is_cancelled(database: str) -> None:
    """A claim and an outcome go on without the task that waits for them."""
    async with PostgresJournal(database, name="acme") as journal:
        found = await journal.lookup_key("key", NUMBER, "text")
        for write in (lambda: journal.intend(found, seconds=1), lambda: journal.settle(found, SENT)):
            waiting = asyncio.ensure_future(write())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await journal._operations.wait_for_end()
        assert await journal.lookup("key") == SENT


async def test_an_error_that_nobody_waits_for_is_not_logged(database: str, caplog: pytest.LogCaptureFixture) -> None:
    """Asyncio would complain about each one, with a traceback."""
    async with PostgresJournal(database, name="acme") as journal:
        found = await journal.lookup_key("key", NUMBER, "text")
        journal.settle(found, SENT)
        await journal.begin_run()
        execute(database, "DROP TABLE oca_sms_message")
        journal.lookup_next(None, NUMBER, "text")
        await journal._operations.wait_for_end()
    gc.collect()
    assert caplog.records == []


def test_one_journal_serves_one_event_loop_after_another(database: str) -> None:
    """Made without a loop, it goes on in each next one, and the connections of the last one are closed."""
    journal = PostgresJournal(database, name="acme")

    async def use() -> None:
        found = await journal.lookup_key("key", NUMBER, "text")
        assert (found.entry.status is Status.UNSENT) == (not used)
        await asyncio.gather(*(claim(journal, f"{len(used)} {it}") for it in range(8)))
        used.append(await journal.intend(found, seconds=100))
        await until(lambda: count_clients(database) <= 4)

    used: list[bool] = []
    for _ in range(3):
        asyncio.run(use())
    assert used == [True, False, False]
    asyncio.run(journal.aclose())


FORKING = """
import asyncio, os, sys
from oca_sms_async import JournalError
from oca_sms_async.postgres import PostgresJournal

journal = PostgresJournal(sys.argv[1], name="acme")
NUMBER = "+6281234567890"

async def claim(key):
    return await journal.intend(await journal.lookup_key(key, NUMBER, "text"), seconds=100)

async def in_child():
    try:
        await journal.lookup_next(None, NUMBER, "text")
    except JournalError:
        pass
    else:
        return 1
    await journal.end_run()
    if await claim("parent") or not await claim("child"):
        return 2
    try:
        await journal.begin_run()
    except JournalError as error:
        if "another run uses it" not in str(error):
            return 3
    else:
        return 4
    await journal.aclose()
    return 0

def child():
    try:
        os._exit(asyncio.run(in_child()))
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(9)

async def main():
    await journal.begin_run()
    first = await journal.lookup_next(None, NUMBER, "text")
    assert await claim("parent")
    process = os.fork()
    if not process:
        # The child has no running loop of its own yet; the parent's is not its to use.
        asyncio._set_running_loop(None)
        asyncio.set_event_loop(None)
        child()
    _, status = await asyncio.to_thread(os.waitpid, process, 0)
    assert status == 0, status
    second = await journal.lookup_next(None, NUMBER, "text")
    assert first.identity != second.identity
    assert await journal.intend(second, seconds=1)
    assert not await claim("child") and await claim("after")
    await journal.aclose()
    print("well")

asyncio.run(main())
"""


def test_a_forked_child_has_connections_of_its_own(database: str) -> None:
    """The child sends with keys, and disturbs neither the parent's run nor its connections; the run is not its own."""
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", FORKING, database]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("well\n", "", 0)


def test_without_its_extra_it_says_what_to_install() -> None:
    """Importing it without psycopg, or without libpq, names the extra and libpq."""
    script = "import sys; sys.modules['psycopg'] = None\nimport oca_sms_async.postgres"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    for word in ('pip install "oca-sms-async[postgres]"', "libpq"):
        assert word in ran.stderr

"""The queue: messages put alone, within a transaction and in batches, and the answers about them."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from in_memory import Gateway, client_of
from postgres_server import PostgresServer, execute
from psycopg.rows import dict_row
from queues import NUMBER, connect, make_keyed, set_up, until_done, working

from oca_sms_async import ExpiredError, InvalidMessageError, JournalError, Priority, Sms
from oca_sms_async.queue import QueueEntry, QueueStatistics, SmsQueue

WAITING = QueueEntry("waiting")
PAST = datetime(2020, 1, 1, tzinfo=UTC)


# --- tables -------------------------------------------------------------------------------------------------------


async def test_setup_makes_all_tables_once_however_many_call_it(postgres: PostgresServer) -> None:
    """Calls at the same time, and later ones, leave one set of tables, and keep their content."""
    database = postgres.create_database()
    async with SmsQueue(database) as first, SmsQueue(database) as second:
        await asyncio.gather(*(queue.setup() for queue in (first, second) * 3))
        assert await first.put(NUMBER, "text", key="key")
        await second.setup()
        assert await second.lookup("key") == WAITING
        limiter = second.limiter(rate=1000)
        await limiter.acquire()
        await limiter.aclose()
    assert execute(database, "SELECT name FROM oca_sms_bucket") == [("oca-sms",)]
    postgres.drop_database(database)


async def test_setup_completes_a_database_that_has_procrastinate_and_a_journal(postgres: PostgresServer) -> None:
    """Tables of Procrastinate's and of the journal that are there already stay as they are."""
    database = postgres.create_database("with_tables")
    async with SmsQueue(database) as queue:
        async with queue.app.open_async() as app:
            await app.schema_manager.apply_schema_async()
        await queue.setup()
        assert await queue.put(NUMBER, "text", key="key")
    postgres.drop_database(database)


async def test_without_its_tables_the_error_names_setup(postgres: PostgresServer) -> None:
    """Each first use says how to make the tables."""
    database = postgres.create_database("with_tables")
    async with SmsQueue(database) as queue, client_of(Gateway(), journal=queue.journal) as client:
        for use in (queue.put(NUMBER, "text", key="key"), queue.lookup("key"), queue.statistics(), queue.work(client)):
            with pytest.raises(JournalError, match=r"queue 'oca-sms' cannot be used: .*setup\(\)") as caught:
                await use
            assert not caught.value.may_have_been_sent
    postgres.drop_database(database)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE oca_sms_queue_schema SET version = 0", "version of its tables is 0"),
        ("UPDATE oca_sms_schema SET version = 0", "version of its tables is 0"),
        ("DROP FUNCTION procrastinate_fetch_job_v2", "Procrastinate's tables are of another version"),
    ],
)
async def test_a_worker_of_another_schema_refuses(
    queue: SmsQueue, queue_database: str, change: str, reason: str
) -> None:
    """A worker and a setup refuse tables of another version, the queue's, the journal's or Procrastinate's."""
    await queue.put(NUMBER, "text", key="key")
    execute(queue_database, change)
    gateway = Gateway()
    async with client_of(gateway, journal=queue.journal) as client:
        for use in (queue.work(client), queue.setup()):
            with pytest.raises(JournalError, match=reason):
                await use
    assert gateway.texts == []


# --- put ----------------------------------------------------------------------------------------------------------


async def test_a_key_is_queued_once(queue: SmsQueue, queue_database: str) -> None:
    """A second put of a waiting key returns False, in any spelling of its number, and by any process."""
    assert await queue.put("0812-3456-7890", "text", key="key")
    async with SmsQueue(queue_database) as other:
        assert not await other.put(NUMBER, "text", key="key")
        assert await other.lookup("key") == WAITING
        assert await other.lookup("another") is None


async def test_many_put_one_key_at_once(queue: SmsQueue) -> None:
    """One of them gets True."""
    answers = await asyncio.gather(*(queue.put(NUMBER, "text", key="key") for _ in range(20)))
    assert sorted(answers) == [False] * 19 + [True]


async def test_a_known_key_of_another_message_is_refused(queue: SmsQueue) -> None:
    """Another text, or another number, under a waiting or a sent key is an error, and changes nothing."""
    await queue.put(NUMBER, "text", key="waiting")
    for _ in range(2):
        for phone, text in ((NUMBER, "other"), ("+6281234567891", "text")):
            with pytest.raises(InvalidMessageError, match="another number or text"):
                await queue.put(phone, text, key="waiting")
        async with working(queue, gateway := Gateway()):
            await until_done(queue)
        assert set(gateway.texts) <= {"text"}


async def test_a_sent_key_and_a_doubtful_one_are_known(queue: SmsQueue) -> None:
    """Neither is queued again; this holds for keys that `send` has used too."""
    async with working(queue, Gateway()) as client:
        await client.send(NUMBER, "text", key="sent")
        await queue.put(NUMBER, "text", key="queued")
        await until_done(queue)
    lookup = await queue.journal.lookup_key("doubtful", NUMBER, "text")
    assert await queue.journal.intend(lookup, seconds=0)
    for key in ("sent", "queued", "doubtful"):
        assert not await queue.put(NUMBER, "text", key=key)
    assert await queue.statistics() == QueueStatistics(0, 0, 0, None)


@pytest.mark.parametrize(
    ("phone", "text", "key", "reason"),
    [
        ("021 5551234", "text", "key", "mobile"),
        (NUMBER, " ", "key", "message"),
        (NUMBER, "text", "", "key"),
        (NUMBER, "te\0xt", "key", "NUL"),
        (NUMBER, "text", "k\0", "PostgreSQL cannot keep"),
        (NUMBER, "text", "\ud800", "PostgreSQL cannot keep"),
    ],
)
async def test_an_impossible_message_is_refused(queue: SmsQueue, phone: str, text: str, key: str, reason: str) -> None:
    """It is told at once, and nothing is queued."""
    with pytest.raises(InvalidMessageError, match=reason):
        await queue.put(phone, text, key=key)
    assert await queue.statistics() == QueueStatistics(0, 0, 0, None)


async def test_an_expired_message_is_refused(queue: SmsQueue) -> None:
    """Both kinds of expiry are looked at, and a naive one is a fault."""
    with pytest.raises(ExpiredError):
        await queue.put(NUMBER, "text", key="key", expires_in=0)
    with pytest.raises(ExpiredError):
        await queue.put(NUMBER, "text", key="key", expires_at=PAST, expires_in=timedelta(days=1))
    with pytest.raises(InvalidMessageError, match="aware"):
        await queue.put(NUMBER, "text", key="key", expires_at=datetime(2100, 1, 1))  # noqa: DTZ001 - the fault
    assert await queue.lookup("key") is None


async def test_the_earlier_expiry_counts(queue: SmsQueue, queue_database: str) -> None:
    """The queue keeps the earlier of the two, and no expiry where none is given."""
    far = datetime(2100, 1, 1, tzinfo=UTC)
    await queue.put(NUMBER, "text", key="in", expires_in=60, expires_at=far)
    await queue.put(NUMBER, "text", key="at", expires_in=1e12, expires_at=far)
    await queue.put(NUMBER, "text", key="none")
    rows = dict(execute(queue_database, "SELECT key, expires_at FROM oca_sms_queued"))
    assert timedelta(seconds=50) < rows["in"] - datetime.now(UTC) <= timedelta(seconds=60)
    assert (rows["at"], rows["none"]) == (far, None)


# --- within a transaction -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [True, False])
async def test_a_message_goes_out_if_its_transaction_commits(
    queue: SmsQueue, queue_database: str, *, begun: bool
) -> None:
    """Before the commit no worker sees it; a put may be the transaction's first statement."""
    async with working(queue, gateway := Gateway()):
        async with await connect(queue_database, row_factory=dict_row) as connection:
            if begun:
                await connection.execute("CREATE TABLE orders (id integer)")
            assert await queue.put(NUMBER, "within", key="within", connection=connection)
            assert not await queue.put(NUMBER, "within", key="within", connection=connection)
            assert await queue.put(NUMBER, "beside", key="beside")
            await until_done(queue)
            assert gateway.texts == ["beside"]
            await connection.commit()
        await until_done(queue)
    assert gateway.texts == ["beside", "within"]


async def test_a_message_never_goes_out_if_its_transaction_is_rolled_back(queue: SmsQueue, queue_database: str) -> None:
    """Its key is new afterwards."""
    async with working(queue, gateway := Gateway()):
        async with await connect(queue_database) as connection:
            await queue.put(NUMBER, "text", key="key", connection=connection)
            await connection.rollback()
            async with connection.transaction(force_rollback=True):
                assert await queue.put(NUMBER, "text", key="key", connection=connection)
        assert await queue.lookup("key") is None
        assert gateway.texts == []
        assert await queue.put(NUMBER, "other", key="key")
        await until_done(queue)
    assert gateway.texts == ["other"]


async def test_a_put_waits_for_the_transaction_that_has_its_key(queue: SmsQueue, queue_database: str) -> None:
    """It returns False if that commits, and True if it does not."""
    for number, commits in enumerate((True, False)):
        key = f"key-{number}"
        async with await connect(queue_database) as connection:
            await queue.put(NUMBER, "text", key=key, connection=connection)
            other = asyncio.create_task(queue.put(NUMBER, "text", key=key))
            blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            async with asyncio.timeout(30):
                while execute(queue_database, blocked) == [(0,)]:
                    await asyncio.sleep(0.01)
            await (connection.commit() if commits else connection.rollback())
            assert await other is not commits


async def test_an_autocommit_connection_queues_at_once(queue: SmsQueue, queue_database: str) -> None:
    """It has no transaction of its own, so each put is one."""
    async with await connect(queue_database, autocommit=True) as connection:
        assert await queue.put(NUMBER, "text", key="key", connection=connection)
        assert await queue.lookup("key") == WAITING


async def test_a_connection_that_fails_is_a_journal_error(queue: SmsQueue, queue_database: str) -> None:
    """No exception of psycopg's comes out, and a connection of another kind is a TypeError."""
    async with await connect(queue_database) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.execute("SELECT 1 / 0")
        with pytest.raises(JournalError, match="InFailedSqlTransaction"):
            await queue.put(NUMBER, "text", key="key", connection=connection)
    with psycopg.connect(queue_database) as synchronous, pytest.raises(TypeError, match="AsyncConnection"):
        await queue.put(NUMBER, "text", key="key", connection=synchronous)  # type: ignore[arg-type] # the fault


# --- put_many -----------------------------------------------------------------------------------------------------


async def test_many_messages_are_queued_in_order_and_once(queue: SmsQueue, queue_database: str) -> None:
    """They go into the bulk lane in their order. Known keys and repeated ones are not counted."""
    messages = make_keyed(2500)
    assert await queue.put_many(messages[:1200]) == 1200
    assert await queue.put_many(iter([*messages, *messages[:10]])) == 1300
    assert await queue.statistics() == QueueStatistics(0, 2500, 0, pytest.approx(30, abs=30))  # type: ignore[arg-type] # pytest's own equality
    order = execute(queue_database, "SELECT key FROM oca_sms_queued ORDER BY job")
    assert [key for (key,) in order] == [message.key for message in messages]
    assert execute(queue_database, "SELECT DISTINCT priority FROM procrastinate_jobs") == [(0,)]


async def test_two_that_put_the_same_messages_share_them(queue: SmsQueue, queue_database: str) -> None:
    """Each key is counted by one of them, in whatever order they put."""
    messages = make_keyed(3000)
    async with SmsQueue(queue_database) as other:
        counts = await asyncio.gather(queue.put_many(messages), other.put_many(reversed(messages)))
    assert sum(counts) == 3000
    assert (await queue.statistics()).waiting_bulk == 3000


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (Sms(NUMBER, "text"), "message 1502: key is needed"),
        (Sms("12", "text", key="key"), "message 1502: "),
        (Sms(NUMBER, "other", key="key-7"), "message 1502: key names a message of another"),
    ],
)
async def test_a_fault_among_many_names_its_place(queue: SmsQueue, wrong: Sms, reason: str) -> None:
    """All messages before it are queued, and the same messages can be put again."""
    messages = make_keyed(2000)
    with pytest.raises(InvalidMessageError, match=reason):
        await queue.put_many([*messages[:1501], wrong, *messages[1501:]])
    assert (await queue.statistics()).waiting_bulk >= 1501
    await queue.put_many(messages)
    assert (await queue.statistics()).waiting_bulk == 2000


async def test_messages_are_pulled_lazily(queue: SmsQueue) -> None:
    """The source is never further ahead than a batch or two of what is queued."""
    pulled = 0

    def source() -> Iterator[Sms]:
        nonlocal pulled
        for message in make_keyed(10_000):
            pulled += 1
            yield message
            if pulled == 5000:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await queue.put_many(source())
    assert pulled == 5000
    assert (await queue.statistics()).waiting_bulk >= 4000


async def test_an_asynchronous_source_that_pauses_is_queued_meanwhile(queue: SmsQueue) -> None:
    """Its messages do not wait for a full batch, and its own exception comes out."""
    go_on = asyncio.Event()

    async def source() -> AsyncIterator[Sms]:
        for message in make_keyed(3):
            yield message
        await go_on.wait()
        raise ZeroDivisionError

    putting = asyncio.create_task(queue.put_many(source()))
    async with asyncio.timeout(30):
        while (await queue.statistics()).waiting_bulk < 3:
            await asyncio.sleep(0.01)
    assert not putting.done()
    go_on.set()
    with pytest.raises(ZeroDivisionError):
        await putting


# --- the rest -----------------------------------------------------------------------------------------------------


async def test_statistics_count_by_lane(queue: SmsQueue) -> None:
    """Each lane, the messages that workers have, and the age of the oldest one."""
    assert await queue.statistics() == QueueStatistics(0, 0, 0, None)
    await queue.put(NUMBER, "1", key="1")
    await queue.put(NUMBER, "2", key="2", priority=Priority.BULK)
    await queue.put(NUMBER, "3", key="3", priority=Priority.BULK)
    counted = await queue.statistics()
    assert (counted.waiting_interactive, counted.waiting_bulk, counted.working) == (1, 2, 0)
    assert counted.oldest_age is not None
    assert 0 <= counted.oldest_age < 30


async def test_two_queues_in_one_database_know_nothing_of_each_other(queue_database: str) -> None:
    """Their keys, counts, workers and journals are apart."""
    async with SmsQueue(queue_database, name="one") as one, SmsQueue(queue_database, name="two") as two:
        assert await one.put(NUMBER, "of one", key="key")
        assert await two.put(NUMBER, "of two", key="key")
        async with working(one, gateway := Gateway()):
            await until_done(one)
        assert gateway.texts == ["of one"]
        assert (await two.statistics()).waiting_interactive == 1
        assert (await one.lookup("key"), await two.lookup("key")) != (WAITING, WAITING)
        assert await two.lookup("key") == WAITING


async def test_nothing_of_procrastinate_is_hidden(queue: SmsQueue, queue_database: str) -> None:
    """The App lists, cancels and counts jobs. A cancelled message is gone, its key is new, and its text is not kept."""
    for key in ("one", "two"):
        await queue.put(NUMBER, "text of " + key, key=key)
    async with queue.app.open_async() as app:
        one, _ = await app.job_manager.list_jobs_async(queue="oca-sms")
        assert one.id is not None
        assert NUMBER not in json.dumps(one.log_context())
        assert await app.job_manager.cancel_job_by_id_async(one.id)
    assert await queue.lookup("one") is None
    assert await queue.put(NUMBER, "another text", key="one")
    assert execute(queue_database, "SELECT status FROM procrastinate_jobs ORDER BY id") == [("todo",)] * 2
    async with working(queue, gateway := Gateway()):
        await until_done(queue)
    assert sorted(gateway.texts) == ["another text", "text of two"]


async def test_a_worker_of_procrastinate_itself_sends_nothing_and_loses_nothing(
    queue: SmsQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no client. So it says which command has one, and gives the job back."""
    await queue.put(NUMBER, "a secret text", key="key")
    with caplog.at_level("DEBUG"):
        async with queue.app.open_async() as app:
            await app.run_worker_async(wait=False, install_signal_handlers=False, delete_jobs="always")
    assert "only SmsQueue.work(client)" in caplog.text
    assert "a secret text" not in caplog.text
    assert NUMBER not in caplog.text
    assert await queue.lookup("key") == WAITING


async def test_wrong_arguments_are_value_errors(queue: SmsQueue) -> None:
    """Name, region, concurrency and client are checked before anything is done."""
    for wrong in ("", "a\0", "n" * 41, "é" * 21):
        with pytest.raises(ValueError, match="name"):
            SmsQueue("dbname=sms", name=wrong)
    SmsQueue("dbname=sms", name="n" * 40)
    with pytest.raises(ValueError, match="region"):
        SmsQueue("dbname=sms", region="Indonesia")
    with pytest.raises(ValueError, match="conninfo"):
        SmsQueue("this is none")
    async with client_of(Gateway()) as client:
        with pytest.raises(ValueError, match=r"journal=queue\.journal"):
            await queue.work(client)
    async with client_of(Gateway(), journal=queue.journal) as client:
        with pytest.raises(ValueError, match="concurrency"):
            await queue.work(client, concurrency=0)


async def test_a_closed_queue_says_so(queue_database: str) -> None:
    """Each use after the closing is a RuntimeError, and a second closing does nothing."""
    async with SmsQueue(queue_database) as queue:
        assert repr(queue) == "<SmsQueue 'oca-sms'>"
    await queue.aclose()
    for use in (queue.put(NUMBER, "text", key="key"), queue.lookup("key"), queue.setup()):
        with pytest.raises(RuntimeError, match="closed"):
            await use


async def test_a_full_lookup_after_the_tables_were_made_anew(postgres: PostgresServer, queue_template: str) -> None:
    """The queue notices that its journal has another salt, says so once, and works then."""
    database = postgres.create_database(queue_template)
    async with SmsQueue(database) as queue:
        await queue.put(NUMBER, "text", key="key")
        execute(database, "DROP SCHEMA public CASCADE")
        execute(database, "CREATE SCHEMA public")
        await set_up(database)
        async with SmsQueue(database, name="first") as other:
            await other.put(NUMBER, "text", key="key")
        with pytest.raises(JournalError, match="made anew"):
            await queue.put(NUMBER, "text", key="key")
        assert await queue.put(NUMBER, "text", key="key")
    postgres.drop_database(database)


APP = """
import os
from oca_sms_async.queue import SmsQueue
app = SmsQueue(os.environ["OCA_SMS_DATABASE"]).app
"""
DJANGO = """
import os
import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

place = conninfo_to_dict(os.environ["OCA_SMS_DATABASE"])
names = {"dbname": "NAME", "host": "HOST", "user": "USER", "port": "PORT", "password": "PASSWORD"}
database = {"ENGINE": "django.db.backends.postgresql", **{names[it]: place[it] for it in place}}
settings.configure(INSTALLED_APPS=["procrastinate.contrib.django"], DATABASES={"default": database})
django.setup()
from procrastinate.contrib.django.models import ProcrastinateJob
print([(job.queue_name, job.status) for job in ProcrastinateJob.objects.all()])
"""


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("-m", "procrastinate", "--app", "jobs.app", "healthchecks"), "DB connection: OK"),
        (("-m", "procrastinate", "--app", "jobs.app", "shell", "list_jobs"), "on oca-sms - [todo]"),
        (("-c", DJANGO), "[('oca-sms', 'todo')]"),
    ],
    ids=["command line", "shell", "Django"],
)
async def test_procrastinates_own_tools_work(
    queue: SmsQueue, queue_database: str, tmp_path: Path, arguments: tuple[str, ...], answer: str
) -> None:
    """Its command line, its shell and its Django integration see the queue's jobs."""
    await queue.put(NUMBER, "text", key="key")
    (tmp_path / "jobs.py").write_text(APP)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OCA_SMS_DATABASE": queue_database, "PYTHONPATH": paths}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments), env=environment, cwd=tmp_path, stdout=PIPE, stderr=STDOUT
    )
    output, _ = await process.communicate()
    assert answer in output.decode()
    assert process.returncode == 0

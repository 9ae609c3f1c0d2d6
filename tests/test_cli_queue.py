"""The commands of the queue: their output, their exit statuses, and their way with a database that is away."""

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from campaign_files import SUBSCRIBERS, assert_no_secret, make_row, spell_e164, write_csv, write_text
from command import (
    PATIENCE,
    Command,
    Ended,
    account,
    end_of,
    environment,
    read_line,
    read_pairs,
    run_on_terminal,
    start,
    until,
)
from postgres_server import PostgresServer, execute
from queues import NUMBER, make_keyed

from oca_sms_async.queue import QueueEntry, SmsQueue
from oca_sms_async.sandbox import Sandbox

QueueCommand = Callable[..., Ended]


@pytest.fixture
def queue_command(command: Command, queue_database: str, monkeypatch: pytest.MonkeyPatch) -> QueueCommand:
    """A function that runs `oca-sms queue`, with the database in the environment, and looks for secrets."""
    monkeypatch.setenv("OCA_SMS_DATABASE", queue_database)

    def run(*arguments: object, stdin: bytes = b"") -> Ended:
        ended = command("queue", *arguments, stdin=stdin)
        assert_no_secret(ended.out + ended.err, texts="--dry-run" not in arguments)
        return ended

    return run


def write_keyed(path: Path, count: int) -> Path:
    """Write a CSV of so many rows with keys."""
    return write_csv(path, *(make_row(number, f"order-{number}") for number in range(1, count + 1)))


def test_setup_makes_the_tables(command: Command, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it, the other commands name it; the database may come from libpq's variables too."""
    database = postgres.create_database()
    monkeypatch.setenv("PGHOST", str(postgres.folder))
    monkeypatch.setenv("PGUSER", "postgres")
    monkeypatch.setenv("PGDATABASE", database.rpartition("=")[2])
    ended = command("queue", "status")
    assert ended.status == 2
    assert "its tables are missing: await setup() makes them, or `oca-sms queue setup`" in ended.err
    assert command("queue", "setup") == Ended(0, "the tables are there\n", "")
    assert command("queue", "setup").status == 0
    assert command("queue", "status").status == 0
    postgres.drop_database(database)


def test_a_wrong_database_is_told_without_its_password(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The exit status tells a string that cannot be read from a server that cannot be reached."""
    monkeypatch.setenv("OCA_SMS_DATABASE", "postgresql://user:s3cret-marker@[")
    ended = command("queue", "status")
    assert (ended.status, "OCA_SMS_DATABASE must be" in ended.err) == (2, True)
    assert_no_secret(ended.err)
    monkeypatch.setenv("OCA_SMS_DATABASE", f"host={tmp_path} password=s3cret-marker dbname=x")
    for arguments in (("status",), ("setup",), ("work",), ("reconcile",)):
        ended = command("queue", *arguments)
        assert (ended.status, ended.out) == (2, "")
        assert "PostgreSQL cannot be reached" in ended.err
        assert_no_secret(ended.err)
    ended = command("queue", "put", write_keyed(tmp_path / "rows.csv", 1))
    assert ended.status == 1
    assert "the same command again queues the rows that are missing" in ended.err
    assert command("queue", "status", "--name", "n" * 41).status == 2


def test_a_file_is_put_once(queue_command: QueueCommand, queue_database: str, tmp_path: Path) -> None:
    """The same command again queues no row twice, and a longer file adds its new rows."""
    file = write_keyed(tmp_path / "rows.csv", 3)
    assert queue_command("put", file) == Ended(0, "3 queued, 0 known already\n", "")
    assert queue_command("put", file) == Ended(0, "0 queued, 3 known already\n", "")
    write_keyed(file, 5)
    assert queue_command("put", file).out == "2 queued, 3 known already\n"
    rows = execute(queue_database, "SELECT phone, message, key, priority FROM oca_sms_queued ORDER BY job")
    assert rows == [(spell_e164(n), write_text(n), f"order-{n}", 1) for n in range(1, 6)]
    assert queue_command("put", "-", stdin=file.read_bytes()).out == "0 queued, 5 known already\n"


def test_rows_are_checked_first(queue_command: QueueCommand, queue_database: str, tmp_path: Path) -> None:
    """A bad row, one without a key and one with the key of another are named, and nothing is queued without
    `--skip-invalid`.
    """
    rows = [
        make_row(1, "a"),
        make_row(2),
        f"12,{write_text(3)},c",
        make_row(4, "a"),
        make_row(5, "e"),
        make_row(1, "a"),
    ]
    file = write_csv(tmp_path / "rows.csv", *rows)
    ended = queue_command("put", file)
    assert ended.status == 2
    assert "line 3 (row 2): key is missing" in ended.err
    assert "line 4 (row 3): " in ended.err
    assert "line 5 (row 4): key names a message of another" in ended.err
    assert "nothing was queued: 3 of 6 rows cannot be sent; --skip-invalid" in ended.err
    assert execute(queue_database, "SELECT count(*) FROM oca_sms_queued") == [(0,)]
    ended = queue_command("put", file, "--skip-invalid")
    assert (ended.status, ended.out) == (0, "2 queued, 0 known already\n")


def test_a_key_of_another_message_in_the_queue_names_its_line(queue_command: QueueCommand, tmp_path: Path) -> None:
    """The rows before it are queued."""
    queue_command("put", write_csv(tmp_path / "first.csv", make_row(9, "order-2")))
    ended = queue_command("put", write_keyed(tmp_path / "rows.csv", 3))
    assert ended.status == 2
    assert "line 3: key names a message of another number or text already" in ended.err


def test_duplicates_can_be_left_out(queue_command: QueueCommand, tmp_path: Path) -> None:
    """`--dedupe` skips each row with an earlier recipient."""
    file = write_csv(tmp_path / "rows.csv", make_row(1, "a"), make_row(1, "b"), make_row(2, "c"))
    assert queue_command("put", file, "--dedupe").out == "2 queued, 0 known already\n"


def test_a_dry_run_shows_the_plan(
    queue_command: QueueCommand, queue_database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It needs no database, and queues nothing."""
    file = write_keyed(tmp_path / "rows.csv", 3)
    monkeypatch.setenv("OCA_SMS_DATABASE", "host=/nowhere")
    ended = queue_command("put", file, "--dry-run")
    assert ended.status == 0
    assert read_pairs(ended.out)["to send"] == "3"
    assert execute(queue_database, "SELECT count(*) FROM oca_sms_queued") == [(0,)]


def test_status_is_told_in_lines_and_in_json(queue_command: QueueCommand, queue_database: str, tmp_path: Path) -> None:
    """Both have the same counts, and each queue has its own."""
    queue_command("put", write_keyed(tmp_path / "rows.csv", 3))

    async def put() -> None:
        async with SmsQueue(queue_database) as queue:
            await queue.put(NUMBER, "text", key="otp")

    asyncio.run(put())
    pairs = read_pairs(queue_command("status").out)
    assert {**pairs, "oldest": ""} == {
        "waiting, interactive": "1",
        "waiting, bulk": "3",
        "working": "0",
        "oldest": "",
    }
    assert pairs["oldest"].endswith(" s")
    told = json.loads(queue_command("status", "--json").out)
    assert (told["waiting_interactive"], told["waiting_bulk"], told["working"]) == (1, 3, 0)
    empty = {"waiting_interactive": 0, "waiting_bulk": 0, "working": 0, "oldest_age": None}
    assert json.loads(queue_command("status", "--json", "--name", "other").out) == empty


def test_status_refreshes_on_a_terminal(queue_database: str) -> None:
    """The table is drawn until Ctrl-C, and once with `--once`."""
    env = environment(OCA_SMS_DATABASE=queue_database)
    ended = run_on_terminal(["queue", "status"], env, {"(?s)waiting, bulk.*waiting, bulk": "\x03"})
    assert ended.status == 130
    assert run_on_terminal(["queue", "status", "--once"], env).status == 0


async def test_a_worker_works_until_sigterm(sandbox: Sandbox, queue: SmsQueue, queue_database: str) -> None:
    """It sends what is there and what comes, and ends with 0; after Ctrl-C with 130."""
    env = environment(**account(sandbox), OCA_SMS_DATABASE=queue_database)
    for number, (sent, status) in enumerate([(signal.SIGTERM, 0), (signal.SIGINT, 130)]):
        await queue.put(NUMBER, f"before {number}", key=f"before-{number}")
        async with start("queue", "work", "--rate", "1000", env=env) as process:
            assert await read_line(process.stdout) == "working for the queue oca-sms\n"
            await queue.put(NUMBER, f"after {number}", key=f"after-{number}")
            await until(lambda number=number: len(sandbox.inbox) == 2 * number + 2)  # type: ignore[misc] # of this turn
            process.send_signal(sent)
            ended = await end_of(process)
        assert ended.status == status, ended.err
        assert_no_secret(ended.out + ended.err)
    assert (await queue.lookup("after-0")) is not None
    assert execute(queue_database, "SELECT count(*) FROM procrastinate_jobs") == [(0,)]


async def test_reconcile_settles_the_doubts(sandbox: Sandbox, queue: SmsQueue, queue_database: str) -> None:
    """It says how many were found; the queue has their receipts then."""
    env = environment(**account(sandbox), OCA_SMS_DATABASE=queue_database)
    sandbox.faults = {"accept-then-drop": 1.0}
    await queue.put_many(make_keyed(2))
    async with start("queue", "work", env=env) as process:
        async with asyncio.timeout(PATIENCE):
            while (await queue.statistics()).oldest_age is not None:
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        await end_of(process)
    sandbox.faults = {}
    entry = await queue.lookup("key-0")
    assert entry == QueueEntry("unknown", None, "DeliveryUnknownError")
    async with start("queue", "reconcile", env=env) as process:
        ended = await end_of(process)
    assert ended == Ended(0, "2 found in the gateway's history, 0 still in doubt\n", "")
    assert SUBSCRIBERS not in ended.out
    entry = await queue.lookup("key-0")
    assert entry is not None
    assert entry.status == "sent"

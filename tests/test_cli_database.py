"""`oca-sms bulk` with a journal in PostgreSQL: a campaign that any machine takes up, and no password in its command."""

import asyncio
import signal
from pathlib import Path
from typing import Final

import psycopg
import pytest
from campaign_files import PASSWORD, list_recipients, read_next_command, read_words, spell_e164, write_campaign
from command import PATIENCE, Bulk, account, end_of, environment, read_pairs, start, until
from postgres_server import PostgresServer, execute

from oca_sms_async.postgres import PostgresJournal
from oca_sms_async.sandbox import Sandbox

NAME: Final = ("--journal-name", "spring sale")
SECRET: Final = f"database-{PASSWORD}"
TABLES: Final = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'oca_sms_%'"


def url_of(database: str, **more: str) -> str:
    """Return a connection string as a URL."""
    parts = psycopg.conninfo.conninfo_to_dict(database) | more
    return f"postgresql:///{parts.pop('dbname')}?" + "&".join(f"{name}={value}" for name, value in parts.items())


@pytest.fixture
def empty(postgres: PostgresServer) -> str:
    """A database without tables."""
    return postgres.create_database()


# --- a campaign -----------------------------------------------------------------------------------------------------


async def test_another_machine_takes_a_campaign_up(tmp_path: Path, sandbox: Sandbox, empty: str) -> None:
    """After a kill, the same command elsewhere sends the rest, names the doubt, and sends nothing twice."""
    file, journal = write_campaign(tmp_path / "rows.csv", 60), ("--journal", url_of(empty), *NAME)
    env, pace = environment(**account(sandbox)), ("--rate", "1000", "--concurrency", "4")
    sandbox.latency = 0.02
    async with start("bulk", str(file), *journal, *pace, env=env) as process:
        await until(lambda: len(sandbox.inbox) >= 10)
        process.send_signal(signal.SIGKILL)
        assert (await end_of(process)).status == -signal.SIGKILL
    sandbox.latency = 0.0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copy, out = write_campaign(elsewhere / "copy.csv", 60), elsewhere / "out"
    async with asyncio.timeout(PATIENCE):
        while True:
            async with start("bulk", str(copy), *journal, *pace, "--out", str(out), env=env) as process:
                ended = await end_of(process)
            if "another run uses it" not in ended.err:  # the server needs a moment to notice a killed client
                break
    words = read_words(out)
    assert ended.status == (1 if "unknown" in words else 0)
    assert set(words) <= {"sent", "unknown"}
    assert words.count("unknown") <= 4
    received = list_recipients(sandbox)
    assert len(received) == len({*received})
    assert {spell_e164(row) for row, word in enumerate(words, 1) if word == "sent"} <= {*received}


def test_the_same_command_again_sends_nothing(
    bulk: Bulk, served: Sandbox, tmp_path: Path, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run makes the tables. A stopped run proposes the same command, which goes on under the same name."""
    file, journal = write_campaign(tmp_path / "rows.csv", 3), ("--journal", url_of(empty), *NAME)
    served.faults = {"account-expired": 1.0}
    stopped = bulk(file, *journal, "--concurrency", 1)
    assert stopped.status == 3
    served.faults = {}
    assert bulk(*read_next_command(stopped.err)[1:]).status == 0
    again = bulk(file, *journal)
    assert (again.status, read_pairs(again.out)["sent earlier"]) == (0, "3")
    assert list_recipients(served) == [spell_e164(1), spell_e164(2), spell_e164(3)]
    assert bulk(file, "--journal", url_of(empty), "--journal-name", "summer sale").status == 0
    assert len(list_recipients(served)) == 6


async def test_a_campaign_runs_on_one_machine_at_a_time(tmp_path: Path, sandbox: Sandbox, database: str) -> None:
    """The second one is refused, sends nothing, and says for what it waits."""
    file = write_campaign(tmp_path / "rows.csv", 1)
    async with PostgresJournal(database, name=NAME[1]) as journal:
        await journal.begin_run()
        async with start(
            "bulk", str(file), "--journal", url_of(database), *NAME, env=environment(**account(sandbox))
        ) as process:
            ended = await end_of(process)
    assert ended.status == 2
    assert "'spring sale' cannot be used: another run uses it" in ended.err
    assert list_recipients(sandbox) == []


def test_a_dry_run_makes_no_tables(bulk: Bulk, served: Sandbox, tmp_path: Path, empty: str) -> None:
    """Without tables all messages are new; with them, the plan knows the earlier run."""
    file, journal = write_campaign(tmp_path / "rows.csv", 2), ("--journal", url_of(empty), *NAME)
    assert read_pairs(bulk(file, *journal, "--dry-run").out)["to send"] == "2"
    assert execute(empty, TABLES) == [(0,)]
    assert bulk(file, *journal).status == 0
    assert read_pairs(bulk(file, *journal, "--dry-run").out)["to send"] == "0"
    assert len(list_recipients(served)) == 2


# --- the place and its password -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{SECRET}@host/db",
        f"postgres://host/db?password={SECRET}",
        f"postgresql://host/db?sslpassword={SECRET}",
        f"postgresql://host/db?oauth_client_secret={SECRET}",
    ],
)
def test_a_password_in_the_command_is_refused(
    bulk: Bulk, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the other ways, and does not show it, even if the variable has the same URL."""
    monkeypatch.setenv("OCA_SMS_DATABASE", url)
    ended = bulk(write_campaign(tmp_path / "rows.csv", 1), "--journal", url, *NAME)
    assert (ended.status, ended.out) == (2, "")
    assert SECRET not in ended.err
    for word in ("must hold no password", "PGPASSWORD", "password file", "service file", "OCA_SMS_DATABASE"):
        assert word in ended.err


@pytest.mark.parametrize("way", ["variable", "libpq's variables", "service file", "password file"])
def test_ways_of_naming_the_database(
    bulk: Bulk, served: Sandbox, tmp_path: Path, database: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`OCA_SMS_DATABASE` may hold a password; with a URL, libpq's own ways give all that it lacks."""
    parts = psycopg.conninfo.conninfo_to_dict(database)
    place: tuple[str, ...] = ("--journal", "postgresql://")
    if way == "variable":
        place = ()
        monkeypatch.setenv("OCA_SMS_DATABASE", f"{database} password={SECRET}")
    elif way == "service file":
        place = ("--journal", "postgresql://?service=sms")
        lines = [f"{name}={value}" for name, value in parts.items()]
        (tmp_path / "services").write_text("\n".join(["[sms]", *lines, f"password={SECRET}", ""]))
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    else:
        for name, value in parts.items():
            monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), str(value))
        if way == "password file":
            place = ("--journal", f"postgresql://?passfile={tmp_path / 'passwords'}")
        else:
            monkeypatch.setenv("PGPASSWORD", SECRET)
    ended = bulk(write_campaign(tmp_path / "rows.csv", 2), *place, *NAME)
    assert (ended.status, ended.err) == (0, "")
    assert len(list_recipients(served)) == 2
    assert execute(database, "SELECT name FROM oca_sms_journal") == [(NAME[1],)]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (NAME, "--journal-name needs --journal with a PostgreSQL URL, or OCA_SMS_DATABASE in the environment"),
        (("--journal", "a-file", *NAME), "--journal-name needs --journal with a PostgreSQL URL"),
        (("--journal", "postgresql://host/db"), "needs a --journal-name: it tells this campaign from others"),
        (("--journal", f"postgresql://x:{SECRET}@[host/db", *NAME), "--journal: conninfo must be a PostgreSQL URL"),
        (("--journal", "postgresql://host/db", "--journal-name", ""), "--journal-name: name must be"),
        (("--journal", "postgresql:///db?host=/nowhere", *NAME), "'spring sale' cannot be used: PostgreSQL cannot be"),
    ],
)
def test_a_place_that_cannot_be_right(bulk: Bulk, tmp_path: Path, options: tuple[str, ...], line: str) -> None:
    """One line says what is wrong with it, the exit status proves that nothing was sent, and no file is left."""
    ended = bulk(write_campaign(tmp_path / "rows.csv", 1), *options)
    assert (ended.status, ended.out) == (2, "")
    assert line in ended.err
    assert SECRET not in ended.err
    assert [it.name for it in tmp_path.iterdir()] == ["rows.csv"]


def test_a_variable_that_cannot_be_read_is_named(bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content is not shown."""
    monkeypatch.setenv("OCA_SMS_DATABASE", f"postgresql://x:{SECRET}@[host/db")
    ended = bulk(write_campaign(tmp_path / "rows.csv", 1), *NAME)
    assert ended.status == 2
    assert ended.err.startswith("oca-sms: OCA_SMS_DATABASE: conninfo must be a PostgreSQL URL")
    assert SECRET not in ended.err


async def test_without_its_extra_it_says_what_to_install(tmp_path: Path, sandbox: Sandbox) -> None:
    """A file's journal needs no psycopg."""
    code = "import sys; sys.modules['psycopg'] = None\nfrom oca_sms_async.cli import main; main()"
    file, env = write_campaign(tmp_path / "rows.csv", 1), environment(**account(sandbox))
    for options, status in ((("--journal", "postgresql://", *NAME), 2), (("--journal", str(tmp_path / "journal")), 0)):
        async with start("bulk", str(file), *options, env=env, code=code) as process:
            ended = await end_of(process)
        assert ended.status == status
        assert ('pip install "oca-sms-async[postgres]"' in ended.err) == (status == 2)

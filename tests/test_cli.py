"""The command line: what each command prints, how each failure ends, and that no secret is in any of it."""

import asyncio
import contextlib
import fcntl
import io
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from oca_sms_async import (
    AccountError,
    AsyncOcaSms,
    ConnectionFailedError,
    DeliveryUnknownError,
    Failed,
    FieldError,
    InvalidMessageError,
    InvalidRequestError,
    LimiterUnavailableError,
    RetryPolicy,
    Skipped,
    Sms,
    SmsRecord,
    __version__,
)
from oca_sms_async.cli import _progress, _serve
from oca_sms_async.cli._app import run
from oca_sms_async.cli._endings import CommandError, ExitStatus, while_sending
from oca_sms_async.sandbox import Sandbox

PHONE = "+6281381475159"
SUBSCRIBER = "81381475159"  # what every spelling of the number has in common
TEXT = "Acme: 482913 is your marker-code"
PASSWORD = "s3cret-marker"
PATIENCE = 60  # seconds after which a process that says nothing hangs
CTRL_C = "\x03"
LOOK_IT_UP = "; look it up with `oca-sms history` before you send it again"
MAIN = "from oca_sms_async.cli import main; main()"
# A shell that runs tests in the background lets its children ignore Ctrl-C; these behave as in the foreground.
HEEDS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
# A new session has no terminal yet; the one on standard input becomes it, so that Ctrl-C there is a signal.
HAS_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
# What reads its output has gone before it writes.
CLOSED_PIPE = "import os; ends = os.pipe(); os.close(ends[0]); os.dup2(ends[1], 1)\n"
# Somebody presses Ctrl-C while cyclopts is looked for.
INTERRUPTED_IMPORT = """
import sys
class Finder:
    def find_spec(self, name, *_):
        if name == "cyclopts":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
"""


class Ended(NamedTuple):
    """A process that has ended: its exit status and what it wrote."""

    status: int
    out: str
    err: str


Command = Callable[..., Awaitable[Ended]]


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what would change the command's behaviour, and with some more."""
    ours = {
        "FORCE_COLOR",
        "NO_COLOR",
        "TTY_COMPATIBLE",
        "TTY_INTERACTIVE",
        "COLUMNS",
        "LINES",
        "PYTHONUNBUFFERED",
        "PYTHONWARNINGS",
    }
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith("OCA_SMS_") and not name.lower().endswith("_proxy")
    }
    return kept | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "error"} | more


def account(sandbox: Sandbox) -> dict[str, str]:
    """Return the variables of the sandbox's account."""
    return {
        "OCA_SMS_USERNAME": sandbox.username,
        "OCA_SMS_PASSWORD": sandbox.password,
        "OCA_SMS_BASE_URL": sandbox.base_url,
    }


def sleeps(pid: int) -> bool:
    """Tell whether a child waits for something, or has ended.

    A signal that comes just before Python's call into the system is seen only after that call, which may never return.
    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith(("S", "Z"))


def on_terminal(arguments: list[str], env: dict[str, str], answers: dict[str, str] | None = None) -> Ended:
    """Run a process on a terminal of 80 columns; type each answer once its prompt, a pattern, is there and it waits.

    All that it writes is in `out`.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-c", HEEDS_CTRL_C + HAS_TERMINAL + MAIN, *arguments]
    with (
        subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True) as process,
        os.fdopen(master, "rb", buffering=0) as screen,
    ):
        os.close(slave)
        shown, waiting = b"", list((answers or {}).items())
        while select.select([screen], [], [], PATIENCE)[0]:
            try:
                shown += os.read(master, 65536)
            except OSError:  # nobody holds the other end any more
                break
            if waiting and re.search(waiting[0][0].encode(), shown):
                while not sleeps(process.pid):
                    time.sleep(0)
                os.write(master, waiting.pop(0)[1].encode())
        else:
            process.kill()
            pytest.fail(f"the process neither says anything more nor ends; it said {shown!r}")
    return Ended(process.returncode, shown.decode(), "")


@contextlib.asynccontextmanager
async def started(*arguments: str, env: dict[str, str], code: str = HEEDS_CTRL_C + MAIN) -> AsyncIterator[Process]:
    """Run a process without a terminal, for the length of a block at most."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, env=env, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def end_of(process: Process) -> Ended:
    """Wait for a process, and return what it wrote since it was last read from."""
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    return Ended(await process.wait(), out.decode(), err.decode())


def pairs(text: str) -> dict[str, str]:
    """Return what a command printed as names and values."""
    return {name: value.strip() for name, value in re.findall(r"^([\w-]+) +(.*)$", text, re.MULTILINE)}


@pytest.fixture
def command(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs a command in a thread of this process, with the sandbox's account and without waits.

    It checks what holds for every failure: one line on standard error, and no secret anywhere.
    """
    sandbox.password = PASSWORD
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    for name, value in account(sandbox).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    from_env = AsyncOcaSms.from_env
    eager = RetryPolicy(initial_wait=0, max_wait=0)
    monkeypatch.setattr(AsyncOcaSms, "from_env", lambda environ: from_env(environ, retry=eager))

    async def ran(*arguments: str) -> Ended:
        status = await asyncio.to_thread(run, arguments)
        out, err = capsys.readouterr()
        assert len(err.splitlines()) == (status != 0), err
        assert status == 0 or not any(it in out + err for it in (PASSWORD, "482913", "marker", SUBSCRIBER))
        return Ended(status, out, err)

    return ran


@pytest.fixture(scope="module")
def plain_demo() -> Ended:
    """The demo without a terminal, on a machine that sends everything through a proxy that is not there."""
    dead = "http://127.0.0.1:1"
    proxies = {"HTTP_PROXY": dead, "http_proxy": dead, "ALL_PROXY": dead, "NO_PROXY": "elsewhere"}
    ended = subprocess.run(
        [sys.executable, "-m", "oca_sms_async.cli", "demo"],
        env=environment(**proxies),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_demo_sends_all_and_sums_up(plain_demo: Ended) -> None:
    """The demo ends with 0 and accounts for its 250 messages, whatever proxy the environment names."""
    assert (plain_demo.status, plain_demo.err) == (0, "")
    summary = pairs(plain_demo.out.partition("250/250")[2])
    assert (summary["sent"], summary["failed"]) == ("245", "5")
    assert summary["unknown"].startswith("0 ")
    assert int(summary["retried"].split()[0]) >= 1
    assert "5 × the gateway refused a parameter" in plain_demo.out
    assert re.fullmatch(r"[0-9.]+/s of the 50/s allowed", summary["rate"])
    assert re.fullmatch(r"[0-9.]+ s", summary["time"])


def test_demo_says_that_the_limit_is_lifted(plain_demo: Ended) -> None:
    """Nobody is to take the demo's rate for what the gateway allows."""
    assert "lifted from the default 22/s to 50/s" in plain_demo.out


def test_demo_without_terminal_prints_plain_lines(plain_demo: Ended) -> None:
    """A line for every 50 outcomes, each with all counts, and no control character among them."""
    progress = re.findall(
        r"^(\d+)/250: (\d+) sent, (\d+) failed, 0 unknown, \d+ retried, [0-9.]+/s$", plain_demo.out, re.MULTILINE
    )
    assert [int(done) for done, _, _ in progress] == [50, 100, 150, 200, 250]
    assert all(int(done) == int(sent) + int(failed) for done, sent, failed in progress)
    assert all(line.isprintable() for line in plain_demo.out.split("\n"))


def test_demo_on_a_terminal_draws_a_bar_and_heeds_ctrl_c() -> None:
    """The bar moves while the messages go out; Ctrl-C ends the demo with 130, a line, and the cursor back."""
    ended = on_terminal(["demo"], environment(), {r"[1-9]\d/250": CTRL_C})
    assert ended.status == 130
    assert "━" in ended.out
    assert len(set(re.findall(r"(\d+)/250", ended.out))) > 1
    assert ended.out.endswith("\x1b[?25hoca-sms: interrupted\r\n")
    assert "Traceback" not in ended.out


async def test_send_prints_the_receipt(command: Command, sandbox: Sandbox) -> None:
    """The id, the gateway's word and the attempts, one a line."""
    ended = await command("send", "081381475159", TEXT)
    (message,) = sandbox.inbox
    assert (ended.status, message.phone, message.text) == (0, PHONE, TEXT)
    assert ended.out.splitlines() == [f"msg_uid   {message.msg_uid}", "status    sent", "attempts  1"]


async def test_send_names_a_message_that_may_be_doubled(command: Command, sandbox: Sandbox) -> None:
    """After a repetition the receipt says that the message may have been delivered more than once."""
    sandbox.failing_attempts = 1
    ended = await command("send", PHONE, TEXT)
    assert pairs(ended.out)["attempts"] == "2 (the message may have been delivered more than once)"


async def test_send_takes_a_text_that_begins_with_a_hyphen(command: Command, sandbox: Sandbox) -> None:
    """After `--` nothing is an option, and without it the line says what to do."""
    assert (await command("send", PHONE, "--", "-5% marker")).status == 0
    assert sandbox.inbox[-1].text == "-5% marker"
    advice = "a text that begins with a hyphen needs a -- before it; see oca-sms send --help"
    ended = await command("send", PHONE, "-5% marker")
    assert ended == (2, "", f"oca-sms: not sent: unknown option; {advice}\n")


async def test_send_with_time_left_is_sent(command: Command, sandbox: Sandbox) -> None:
    """`--expires-in` bounds the sending and otherwise changes nothing."""
    assert (await command("send", PHONE, TEXT, "--expires-in", "60")).status == 0
    assert len(sandbox.inbox) == 1


@pytest.mark.parametrize(
    ("knobs", "status", "line"),
    [
        ({"password": "other"}, 3, "not sent: the gateway refused the username or the password (HTTP 401, code 17)"),
        ({"quota": 0}, 3, "not sent: the account's quota is used up (HTTP 401, code 55)"),
        ({"expired": True}, 3, "not sent: the account has expired (HTTP 401, code 51)"),
        (
            {"template": "Other"},
            1,
            "not sent: the gateway refused a parameter: number, text or template (HTTP 406, code 39): message_body",
        ),
        (
            {"faults": {"internal-error": 1.0}},
            1,
            f"may have been sent: the gateway had an internal error (HTTP 500, code 13), after 4 attempts{LOOK_IT_UP}",
        ),
    ],
)
async def test_refused_send_says_what_became_of_the_message(
    command: Command, sandbox: Sandbox, knobs: dict[str, object], status: int, line: str
) -> None:
    """Each refusal is one line with the message's fate and the reason, and the exit status that belongs to it."""
    for name, value in knobs.items():
        setattr(sandbox, name, value)
    assert await command("send", PHONE, TEXT) == (status, "", f"oca-sms: {line}\n")


async def test_account_refused_after_doubt_is_no_proof(command: Command, sandbox: Sandbox) -> None:
    """Status 3 promises that nothing was sent, so a refusal that follows an internal error is a 1."""
    sandbox.failing_attempts = 1
    sandbox.quota = 0
    ended = await command("send", PHONE, TEXT)
    assert ended.status == 1
    assert ended.err.startswith("oca-sms: may have been sent: the account's quota is used up")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("send", "0813 marker", TEXT), "phone may hold digits, a leading '+', spaces and '-', '.', '(', ')'"),
        (("send", SUBSCRIBER[:5], TEXT), "phone is not a possible"),
        (("send", PHONE, " "), "message must be a str that is not blank"),
        (("send", PHONE, "marker \udcff"), "message holds half of a surrogate pair"),
        (("send", PHONE, TEXT, "--expires-in", "0"), "--expires-in must be > 0"),
        (("send", PHONE, TEXT, "--expires-in", "inf"), "expires_in must be a finite number"),
        (("send", PHONE, TEXT, "--expires-in", "soon"), "--expires-in cannot be read"),
        (("send", PHONE, TEXT, "--expires-in"), "--expires-in is missing"),
        (("send", PHONE), "MESSAGE is missing"),
        (("send", PHONE, *TEXT.split()), "too many arguments; a text with spaces needs quotes around it"),
        (("send", PHONE, TEXT, f"--password={PASSWORD}"), "unknown option"),
        (("send", PHONE, TEXT, "--expires-in=1", "--expires-in=2"), "an argument is given more than once"),
    ],
)
async def test_bad_input_is_not_sent(
    command: Command, sandbox: Sandbox, arguments: tuple[str, ...], reason: str
) -> None:
    """What the command line or the library refuses is a 2, and the line quotes nothing of it."""
    ended = await command(*arguments)
    assert ended.status == 2
    assert ended.err.startswith(f"oca-sms: not sent: {reason}")
    assert not sandbox.inbox


async def test_expired_message_is_not_sent(command: Command, sandbox: Sandbox) -> None:
    """A message whose time is over before its turn comes has failed."""
    ended = await command("send", PHONE, TEXT, "--expires-in", "1e-9")
    assert ended.status == 1
    assert ended.err.startswith("oca-sms: not sent: the message")
    assert not sandbox.inbox


@pytest.mark.parametrize("arguments", [("send", PHONE, TEXT), ("history",), ("status", "uid")])
async def test_gateway_out_of_reach(
    command: Command, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int, arguments: tuple[str, ...]
) -> None:
    """Nobody listens there: a 3, and only the command that sends speaks of sending."""
    monkeypatch.setenv("OCA_SMS_BASE_URL", f"http://127.0.0.1:{unused_tcp_port}/api/v1")
    prefix = "not sent: " if arguments[0] == "send" else ""
    line = f"oca-sms: {prefix}no connection to the gateway came about: Connection refused\n"
    assert await command(*arguments) == (3, "", line)


@pytest.mark.parametrize("arguments", [("send", PHONE, TEXT), ("history",), ("status", "uid")])
async def test_gateway_that_hangs_up(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """The fate of a message whose request was read and not answered is unknown; a question has none."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        monkeypatch.setenv("OCA_SMS_BASE_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        ended = await command(*arguments)
    assert ended.status == 1
    assert ended.err.startswith("oca-sms: may have been sent: " if arguments[0] == "send" else "oca-sms: the gateway's")
    assert ("sent" in ended.err) == ("history`" in ended.err) == (arguments[0] == "send")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidMessageError("no"), 2),
        (AccountError(401), 3),
        (ConnectionFailedError("no"), 3),
        (LimiterUnavailableError("no"), 3),
        (LimiterUnavailableError("no", may_have_been_sent=True), 1),
        (DeliveryUnknownError("no"), 1),
        (InvalidRequestError(406), 1),
    ],
)
def test_exit_status_of_each_kind_of_error(error: Exception, status: int) -> None:
    """2 and 3 prove that the message was not sent; the rest of the failures are a 1."""
    with pytest.raises(CommandError) as raised, while_sending():
        raise error
    assert raised.value.status == status


def test_only_names_of_refused_fields_are_shown() -> None:
    """A gateway may put a message where a field's name belongs."""
    fields = tuple(FieldError(param, TEXT, "body") for param in ("phone_number", TEXT, "x" * 100, ""))
    with pytest.raises(CommandError, match=r"code 39\): phone_number$"), while_sending():
        raise InvalidRequestError(406, 39, TEXT, fields)


async def test_receipt_that_cannot_be_written_is_no_failure(
    command: Command, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script that saw a failure would send the message again, so a full disk is told with the id and a 0."""
    del command  # what it has set up is all that is wanted of it
    with Path("/dev/full").open("w", encoding="utf-8") as full:  # noqa: ASYNC230 - nothing that could block
        monkeypatch.setattr(sys, "stdout", full)
        assert await asyncio.to_thread(run, ["send", PHONE, TEXT]) == 0
        assert await asyncio.to_thread(run, ["history"]) == 1
        with contextlib.suppress(OSError):
            full.close()
    sent, asked = capsys.readouterr().err.splitlines()
    uid = sandbox.inbox[0].msg_uid
    assert sent == f"oca-sms: sent, with msg_uid {uid}, but the output could not be written: No space left on device"
    assert asked == "oca-sms: the output could not be written: No space left on device"


async def test_output_that_nobody_reads_ends_in_one_line() -> None:
    """A reader that goes away leaves one line and a status of 1, not Python's own complaint at its end."""
    async with started("check", TEXT, env=environment(), code=CLOSED_PIPE + MAIN) as process:
        assert await end_of(process) == (1, "", "oca-sms: the output could not be written: Broken pipe\n")


async def test_status_prints_the_record_with_its_number_masked(command: Command, sandbox: Sandbox) -> None:
    """The number is starred and the text left out, unless they are asked for."""
    await command("send", PHONE, TEXT)
    (message,) = sandbox.inbox
    shown = pairs((await command("status", message.msg_uid)).out)
    assert shown == {
        "msg_uid": message.msg_uid,
        "created_at": f"{message.created_at:%Y-%m-%d %H:%M:%S}Z",
        "status": "sent",
        "phone_number": "***********159",
        "total_sms": "1",
        "application": "sandbox",
    }
    bare = pairs((await command("status", message.msg_uid, "--show-numbers", "--show-texts")).out)
    assert bare == shown | {"phone_number": PHONE, "message_body": TEXT}


@pytest.mark.parametrize(
    ("msg_uid", "status", "line"),
    [
        ("marker", 1, "the gateway knows no such message (HTTP 404)"),
        (" ", 2, "msg_uid must be a str, not blank, of at most 1000 characters, as a receipt gave it"),
    ],
)
async def test_status_of_no_message(command: Command, msg_uid: str, status: int, line: str) -> None:
    """An id that the gateway does not know is a 1, one that cannot be is a 2."""
    assert await command("status", msg_uid) == (status, "", f"oca-sms: {line}\n")


async def test_history_is_lines_with_tabs(command: Command, sandbox: Sandbox) -> None:
    """Without a terminal: a header, then the newest messages with the newest last, a tab between values."""
    for text in ("first", "a\tb\n", "last"):
        await command("send", PHONE, text)
    header, *rows = (await command("history", "--limit", "2", "--show-texts")).out.splitlines()
    assert header.split("\t") == ["msg_uid", "created_at", "status", "phone_number", "total_sms", "message_body"]
    assert [row.split("\t")[0] for row in rows] == [message.msg_uid for message in sandbox.inbox[1:]]
    assert [row.split("\t")[3:] for row in rows] == [["***********159", "1", text] for text in (r"a\tb\n", "last")]
    hidden = (await command("history", "--show-numbers")).out
    assert PHONE in hidden
    assert "first" not in hidden


async def test_empty_history_is_a_header(command: Command) -> None:
    """An account without messages is no failure."""
    ended = await command("history")
    assert (ended.status, len(ended.out.splitlines())) == (0, 1)


async def test_history_is_sorted_by_date(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest is last whatever the gateway's order; what has no date counts as new."""
    dates = [datetime(2026, 1, 2, tzinfo=UTC), None, datetime(2026, 1, 1, tzinfo=UTC)]

    async def answered(_: AsyncOcaSms) -> list[SmsRecord]:
        return [SmsRecord(f"uid{number}", PHONE, TEXT, "sent", date, 1) for number, date in enumerate(dates)]

    monkeypatch.setattr(AsyncOcaSms, "history", answered)
    rows = (await command("history", "--limit", "2")).out.splitlines()[1:]
    assert [row.split("\t")[:2] for row in rows] == [["uid0", "2026-01-02 00:00:00Z"], ["uid1", "-"]]


async def test_history_on_a_terminal_is_a_table_of_plain_text(sandbox: Sandbox, client: AsyncOcaSms) -> None:
    """What is in a message is neither markup nor a command to the terminal, and no id is cut off."""
    await client.send(PHONE, "[bold red]loud[/] \x1b[31mred")
    env = environment(**account(sandbox))
    ended = await asyncio.to_thread(on_terminal, ["history", "--show-texts"], env)
    assert ended.status == 0
    assert "\x1b[31m" not in ended.out
    header, _, *rows = re.sub(r"\x1b\[[0-9;]*m", "", ended.out).splitlines()[1:]
    starts = [match.start() for match in re.finditer(r"\w+", header)]
    cells = ["".join(row[start:end] for row in rows).replace(" ", "") for start, end in pairwise([*starts, None])]
    assert cells[0].startswith(sandbox.inbox[0].msg_uid)
    assert cells[-1] == r"[boldred]loud[/]\x1b[31mred"
    assert "1 of 1 messages" in ended.out


@pytest.mark.parametrize("arguments", [("history", "--limit", "0"), ("history", "--limit", "x"), ("history", "marker")])
async def test_bad_usage_of_history(command: Command, arguments: tuple[str, ...]) -> None:
    """Bad usage of a command that sends nothing is a 2 that does not speak of sending."""
    ended = await command(*arguments)
    assert ended.status == 2
    assert "sent" not in ended.err


@pytest.mark.parametrize("arguments", [("marker",), ("--marker",), ("--", "send", PHONE, TEXT)])
async def test_unknown_command(command: Command, arguments: tuple[str, ...]) -> None:
    """What is no command is not quoted either, since it may be half of a message."""
    assert await command(*arguments) == (2, "", "oca-sms: unknown command or option; see oca-sms --help\n")


async def test_check_needs_no_account(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a text, each piece of advice by its code, and 0 all the same."""
    monkeypatch.delenv("OCA_SMS_USERNAME", raising=False)
    assert run(["check", "é" * 160 + "{", "--brand", "Acme"]) == 0
    shown = pairs(capsys.readouterr().out)
    assert shown.pop("extension-characters").endswith("LEFT CURLY BRACKET.")
    assert shown.keys() == {"encoding", "length", "segments", "several-segments", "brand-missing"}
    assert (shown["encoding"], shown["length"], shown["segments"]) == ("GSM-7", "162 septets", "2")


def test_check_of_a_good_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is nothing to advise, the command says so."""
    assert run(["check", "--", "-Ω你"]) == 0
    assert pairs(capsys.readouterr().out)["length"] == "3 UTF-16 units"
    assert run(["check", "Acme: hello", "--brand", "acme"]) == 0
    assert pairs(capsys.readouterr().out)["advice"] == "none"


async def test_check_of_a_blank_brand(command: Command) -> None:
    """A brand that every text holds is a mistake in the script."""
    assert await command("check", "hello", "--brand", " ") == (2, "", "oca-sms: brand must not be blank\n")


async def test_help_documents_the_exit_statuses(command: Command) -> None:
    """The help has a row for each exit status, and a line for each command."""
    shown = (await command("--help")).out
    for status in ExitStatus:
        assert re.search(rf"^ +{int(status)} +\w", shown, re.MULTILINE)
    for name in ("demo", "send", "status", "history", "check", "sandbox"):
        assert re.search(rf"^│ {name} +\w", shown, re.MULTILINE)
    assert "before one that begins with a hyphen" in (await command("send", "--help")).out


async def test_version(command: Command) -> None:
    """The version stands alone, for scripts."""
    assert await command("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("missing", ["OCA_SMS_USERNAME", "OCA_SMS_PASSWORD"])
@pytest.mark.parametrize("arguments", [("send", PHONE, TEXT), ("history",), ("status", "uid")])
async def test_missing_credentials_without_a_terminal(
    command: Command, monkeypatch: pytest.MonkeyPatch, missing: str, arguments: tuple[str, ...]
) -> None:
    """Where nobody can be asked, the line names the variable that is missing."""
    monkeypatch.delenv(missing)
    prefix = "not sent: " if arguments[0] == "send" else ""
    line = f"oca-sms: {prefix}no terminal to ask on, and not set in the environment: {missing}\n"
    assert await command(*arguments) == (2, "", line)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("OCA_SMS_BASE_URL", "http://192.0.2.1/", "OCA_SMS_BASE_URL must be https: plain http beyond this machine"),
        ("OCA_SMS_ALLOW_HTTP", "marker", "OCA_SMS_ALLOW_HTTP must be one of 1, true, yes"),
        ("OCA_SMS_USERNAME", "marker:", "username must hold no colon"),
        ("SSL_CERT_FILE", "/nowhere", "the certificates that SSL_CERT_FILE names cannot be read: No such file"),
        ("SSLKEYLOGFILE", "/nowhere/keys", "the file that SSLKEYLOGFILE names cannot be written: No such file"),
    ],
)
async def test_bad_configuration(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    """A setting that cannot be worked with is named, and its value is not."""
    monkeypatch.setenv("OCA_SMS_BASE_URL", "https://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    ended = await command("send", PHONE, TEXT)
    assert ended.status == 2
    assert ended.err.startswith(f"oca-sms: not sent: {reason}")


async def test_credentials_are_prompted_for(sandbox: Sandbox) -> None:
    """On a terminal what is missing is asked for, the password without an echo."""
    sandbox.password = PASSWORD
    env = environment(OCA_SMS_BASE_URL=sandbox.base_url)
    answers = {"OCA username: ": f"{sandbox.username}\n", "OCA password: ": f"{PASSWORD}\n"}
    ended = await asyncio.to_thread(on_terminal, ["send", PHONE, TEXT], env, answers)
    assert ended.status == 0
    assert sandbox.username in ended.out
    assert PASSWORD not in ended.out
    assert sandbox.inbox[0].msg_uid in ended.out


@pytest.mark.parametrize(
    ("typed", "status", "line"),
    [("\n", 2, "no credentials were given"), ("\x04", 2, "no credentials were given"), ("\x03", 130, "interrupted")],
    ids=["nothing", "end of file", "Ctrl-C"],
)
@pytest.mark.parametrize("asked", ["OCA_SMS_USERNAME", "OCA_SMS_PASSWORD"])
def test_prompt_that_is_not_answered(asked: str, typed: str, status: int, line: str) -> None:
    """Without credentials nothing is sent, and the line says so."""
    env = environment(OCA_SMS_USERNAME="somebody", OCA_SMS_PASSWORD="something")
    del env[asked]
    prompt = f"OCA {asked.removeprefix('OCA_SMS_').lower()}: "
    ended = on_terminal(["send", PHONE, TEXT], env, {prompt: typed})
    assert ended.status == status
    assert ended.out.splitlines()[-1].endswith(f"oca-sms: not sent: {line}")
    assert "Traceback" not in ended.out


async def test_ctrl_c_leaves_the_message_in_doubt(sandbox: Sandbox) -> None:
    """Who interrupts a send is told that the message may be on its way: here it even was delivered."""
    sandbox.latency = 3600
    async with started("send", PHONE, TEXT, env=environment(**account(sandbox))) as process:
        while not (sandbox.inbox and sleeps(process.pid)) and process.returncode is None:
            await asyncio.sleep(0)
        process.send_signal(signal.SIGINT)
        ended = await end_of(process)
    assert (ended.status, ended.out) == (130, "")
    doubt = "if a request was under way, the message may have been sent"
    assert ended.err == f"oca-sms: interrupted: {doubt}{LOOK_IT_UP}\n"


@pytest.mark.parametrize(
    ("sent", "status", "line"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
async def test_sandbox_serves_until_a_signal(sent: signal.Signals, status: int, line: str) -> None:
    """What it prints can be pasted into a shell, is all that a client needs, and Ctrl-C or SIGTERM ends it."""
    arguments = ("sandbox", "--port", "0", "--username", "me@example.com", "--password", "it's $HOME")
    async with started(*arguments, env=environment()) as process:
        assert process.stdout is not None
        printed = [(await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode() for _ in range(5)]
        exports = dict(shlex.split(line)[1].split("=", 1) for line in printed if line.startswith("export "))
        assert exports.keys() == {"OCA_SMS_USERNAME", "OCA_SMS_PASSWORD", "OCA_SMS_BASE_URL"}
        assert exports["OCA_SMS_BASE_URL"] in printed[0]
        assert exports["OCA_SMS_BASE_URL"].replace("/api/v1", "/ ") in printed[0]  # the inbox
        async with AsyncOcaSms.from_env(exports) as client:
            assert (await client.send(PHONE, TEXT)).status == "sent"
        while not sleeps(process.pid):
            await asyncio.sleep(0)
        process.send_signal(sent)
        assert await end_of(process) == (status, "", f"oca-sms: {line}\n")


async def test_sandbox_does_what_its_options_say() -> None:
    """Limit, quota and faults come from the command line."""
    options = "--port 0 --rate-limit 7 --quota 9 --fault reset=0.25 --fault html=.5 --fault failing-attempts=2"
    async with started("sandbox", *options.split(), env=environment()) as process:
        assert process.stdout is not None
        printed = [(await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode() for _ in range(5)]
        base_url = shlex.split(printed[-1])[1].split("=", 1)[1]
        async with httpx.AsyncClient(base_url=base_url.removesuffix("/api/v1"), trust_env=False) as control:
            faults = (await control.get("/sandbox/faults")).json()
            statistics = (await control.get("/sandbox/statistics")).json()
            assert "SMS sandbox" in (await control.get("/")).text
    assert {kind: value for kind, value in faults.items() if value} == {
        "reset": 0.25,
        "html": 0.5,
        "failing-attempts": 2,
    }
    assert (statistics["rate_limit"], statistics["quota"]) == (7, 9)


def knobs_of(arguments: str, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Return the sandbox that the command would serve."""
    made: list[Sandbox] = []

    async def serve(gateway: Sandbox, host: str, port: int) -> None:
        made.append(gateway)

    monkeypatch.setattr(_serve, "_serve", serve)
    assert run(["sandbox", *arguments.split()]) == 0
    return made[0]


@pytest.mark.parametrize(
    ("given", "seconds"), [("50ms", 0.05), ("1.5s", 1.5), (".5s", 0.5), ("0", 0.0), ("0s", 0.0), ("3.s", 3.0)]
)
def test_sandbox_reads_a_latency(given: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time is in milliseconds or seconds, whichever it says; no time needs no unit."""
    assert knobs_of(f"--latency {given}", monkeypatch).latency == pytest.approx(seconds)


def test_sandbox_has_the_gateway_s_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without options it takes 25 requests a second and plays nothing; 0 is no limit, and a seed is handed on."""
    gateway = knobs_of("", monkeypatch)
    assert (gateway.rate_limit, gateway.quota, gateway.latency, gateway.seed) == (25, None, 0.0, None)
    assert not any(gateway.played.values())
    assert gateway.submitted_for > 0
    gateway = knobs_of("--rate-limit 0 --seed 7", monkeypatch)
    assert (gateway.rate_limit, gateway.seed) == (None, 7)


async def test_sandbox_on_a_port_that_is_taken(command: Command, sandbox: Sandbox) -> None:
    """A port that somebody else has is named in one line, and a 2."""
    port = sandbox.base_url.split(":")[2].split("/")[0]
    line = f"oca-sms: cannot listen on 127.0.0.1, port {port}: it is taken, choose another --port\n"
    assert await command("sandbox", "--port", port) == (2, "", line)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--port", "65536"), "--port must be <= 65535"),
        (("--username", "a:b"), "username must not be empty nor hold a colon"),
        (("--password", ""), "password must not be empty"),
        (("--host", ""), "--host must be an address or a name"),
        (("--host", "münchen..x"), "--host must be an address or a name"),
        (("--latency", "soon"), "--latency cannot be read"),
        (("--latency", "50"), "--latency cannot be read"),
        (("--latency", "-1s"), "--latency"),
        (("--rate-limit", "1.5"), "--rate-limit cannot be read"),
        (("--rate-limit", "-1"), "rate_limit must be 1 or more"),
        (("--quota", "2.6"), "--quota cannot be read"),
        (("--quota", "-1"), "quota must be 0 or more segments"),
        (("--fault", "reset"), "--fault must be KIND=PROBABILITY"),
        (("--fault", "reset=often"), "--fault must be KIND=PROBABILITY"),
        (("--fault", "reset=2"), "faults: the probability of reset must be"),
        (("--fault", "reset=0.1", "--fault", "reset=0.2"), "--fault must name each kind only once"),
        (("--fault", "unheard-of=1"), "faults has no kind of that name; there are internal-error, "),
        (("--fault", "failing-attempts=1.5"), "failing-attempts must be a whole number"),
    ],
)
async def test_sandbox_with_bad_arguments(command: Command, arguments: tuple[str, ...], reason: str) -> None:
    """What no account and no port can have is a 2."""
    ended = await command("sandbox", *arguments)
    assert ended.status == 2
    assert ended.err.startswith(f"oca-sms: {reason}")


def test_sandbox_beyond_loopback_warns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens the sandbox to the network is told so."""

    def interrupt(*_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_serve, "show", interrupt)
    assert run(["sandbox", "--host", "0.0.0.0", "--port", "0"]) == 130
    warning, _ = capsys.readouterr().err.splitlines()
    assert warning.startswith("oca-sms: warning: others can reach this sandbox")


async def test_sandbox_at_another_machine_s_address(command: Command) -> None:
    """An address that is not this machine's is named in one line, and a 2."""
    ended = await command("sandbox", "--host", "2001:db8::1", "--port", "0")
    assert ended.status == 2
    assert ended.err.startswith("oca-sms: cannot listen on 2001:db8::1, port 0: ")


def test_sandbox_beyond_loopback_needs_its_variable() -> None:
    """Programs elsewhere must allow plain http, so the lines to paste say so; on loopback they do not."""
    gateway = Sandbox()
    gateway._base_url = "http://192.0.2.1:8025/api/v1"
    assert "export OCA_SMS_ALLOW_HTTP=1" in _serve._welcome(gateway)
    gateway._base_url = "http://[::1]:8025/api/v1"
    assert "export OCA_SMS_ALLOW_HTTP=1" not in _serve._welcome(gateway)


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://proxy.example"}, "export NO_PROXY=127.0.0.1"),
        ({"ALL_PROXY": "http://proxy.example", "NO_PROXY": "a.example"}, "export NO_PROXY=a.example,127.0.0.1"),
        ({"HTTP_PROXY": "http://proxy.example", "NO_PROXY": "127.0.0.1"}, None),
        ({"HTTPS_PROXY": "http://proxy.example"}, None),
    ],
)
def test_sandbox_behind_a_proxy(variables: dict[str, str], line: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a proxy would stand between, the lines to paste go past it and keep what went past it before."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    gateway = Sandbox()
    gateway._base_url = "http://127.0.0.1:8025/api/v1"
    assert [it for it in _serve._welcome(gateway) if "NO_PROXY" in it] == ([line] if line else [])


def test_sandbox_on_no_host() -> None:
    """A name that is not found is told in words of our own."""
    assert _serve._explain(OSError(-2, "Name or service not known")) == "no such host"


@pytest.mark.parametrize("package", ["cyclopts", "rich", "starlette", "uvicorn"])
async def test_missing_extra_says_what_to_install(package: str) -> None:
    """Without the extra there is one line with the command that helps, and a 2."""
    code = f"import sys; sys.modules[{package!r}] = None\n{MAIN}"
    async with started("check", "hello", env=environment(), code=code) as process:
        ended = await end_of(process)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f'oca-sms: its extra is missing (no module {package}): pip install "oca-sms-async[cli]"\n'


async def test_ctrl_c_while_it_starts() -> None:
    """Not even an interruption within the imports is a traceback."""
    async with started("check", "hello", env=environment(), code=INTERRUPTED_IMPORT + MAIN) as process:
        assert await end_of(process) == (130, "", "")


def test_tally_counts_every_outcome_once() -> None:
    """Sent, failed and skipped part the outcomes between them; the unknown are among the failed."""
    sms = Sms(PHONE, TEXT)
    tally = _progress.Tally(total=3)
    for outcome in (Failed(sms, DeliveryUnknownError("no answer")), Skipped(sms, None)):
        tally.note(outcome)
    assert (tally.sent, tally.failed, tally.unknown, tally.skipped, tally.done) == (0, 1, 1, 1, 2)

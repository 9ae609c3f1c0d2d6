"""The command line: the output of each command, the end of each failure, and no secret in either."""

import asyncio
import contextlib
import itertools
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from anyio.from_thread import BlockingPortal
from campaign_files import PASSWORD, TOKEN, list_recipients, read_outcomes, spell_e164, write_campaign
from command import (
    CTRL_C,
    MAIN,
    PATIENCE,
    Bulk,
    Command,
    Ended,
    account,
    end_of,
    environment,
    is_waiting,
    read_line,
    read_pairs,
    run_on_terminal,
    start,
    until,
)
from each_api import PREMIUM, REGULAR, V2, each_api, each_api_with_history, over
from misbehaviours import hang_up
from raw_gateway import RawGateway

from oca_sms_async import (
    AccountError,
    ApiError,
    AsyncOcaSms,
    ConnectionFailedError,
    DeliveryUnknownError,
    Failed,
    FieldError,
    InvalidMessageError,
    InvalidRequestError,
    LimiterUnavailableError,
    NotFoundError,
    RetryPolicy,
    Skipped,
    Sms,
    SmsRecord,
    __version__,
)
from oca_sms_async.cli import _progress, _serve
from oca_sms_async.cli._app import run
from oca_sms_async.cli._endings import CommandError, ExitStatus, explain, while_sending
from oca_sms_async.sandbox import Sandbox

PHONE = "+6281381475159"
SUBSCRIBER = "81381475159"  # the part that every spelling of the number has
TEXT = "Acme: 482913 is your marker-code"
LOOK_IT_UP = "; look it up with `oca-sms history` before you send it again"
ASK_THE_VENDOR = "; this API has no history, so ask the vendor before you send it again"
# The reader of the output is gone before the command writes.
CLOSED_PIPE = "import os; ends = os.pipe(); os.close(ends[0]); os.dup2(ends[1], 1)\n"
# Ctrl-C comes while Python looks for cyclopts.
INTERRUPTED_IMPORT = """
import sys
class Finder:
    def find_spec(self, name, *_):
        if name == "cyclopts":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
"""


Oca = Callable[..., Ended]


@pytest.fixture
def oca(command: Command, monkeypatch: pytest.MonkeyPatch) -> Oca:
    """A function that runs `oca-sms` without waits between attempts.

    It checks each failure: one line on standard error, and no secret in it.
    """
    from_env = AsyncOcaSms.from_env
    eager = RetryPolicy(initial_wait=0, max_wait=0)
    monkeypatch.setattr(AsyncOcaSms, "from_env", lambda environ: from_env(environ, retry=eager))

    def run_and_check(*arguments: str) -> Ended:
        ended = command(*arguments)
        assert len(ended.err.splitlines()) == (ended.status != 0), ended.err
        secrets = (PASSWORD, TOKEN, "482913", "marker", SUBSCRIBER)
        assert ended.status == 0 or not any(it in ended.out + ended.err for it in secrets)
        return ended

    return run_and_check


@pytest.fixture(scope="module")
def plain_demo() -> Ended:
    """The demo without a terminal, on a machine whose proxy does not exist."""
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
    """The demo ends with 0 and accounts for its 250 messages, also behind a proxy."""
    assert (plain_demo.status, plain_demo.err) == (0, "")
    summary = read_pairs(plain_demo.out.partition("250/250")[2])
    assert (summary["sent"], summary["failed"]) == ("245", "5")
    assert summary["unknown"].startswith("0 ")
    assert int(summary["retried"].split()[0]) >= 1
    assert "5 × the gateway refused a parameter" in plain_demo.out
    assert re.fullmatch(r"[0-9.]+/s of the 50/s allowed", summary["rate"])
    assert re.fullmatch(r"[0-9.]+ s", summary["time"])


def test_demo_says_that_the_limit_is_lifted(plain_demo: Ended) -> None:
    """The demo says that its rate is above the limit of the gateway."""
    assert "lifted from the default 22/s to 50/s" in plain_demo.out


def test_demo_without_terminal_prints_plain_lines(plain_demo: Ended) -> None:
    """Without a terminal there is a line for every 50 outcomes, each with all counts and no control character."""
    progress = re.findall(
        r"^(\d+)/250: (\d+) sent, (\d+) failed, 0 unknown, \d+ retried, [0-9.]+/s$", plain_demo.out, re.MULTILINE
    )
    assert [int(done) for done, _, _ in progress] == [50, 100, 150, 200, 250]
    assert all(int(done) == int(sent) + int(failed) for done, sent, failed in progress)
    assert all(line.isprintable() for line in plain_demo.out.split("\n"))


def test_demo_on_a_terminal_draws_a_bar_and_heeds_ctrl_c() -> None:
    """The bar moves while messages go out. Ctrl-C ends the demo with 130, one line, and a visible cursor."""
    ended = run_on_terminal(["demo"], environment(), {r"[1-9]\d/250": CTRL_C})
    assert ended.status == 130
    assert "━" in ended.out
    assert len(set(re.findall(r"(\d+)/250", ended.out))) > 1
    assert ended.out.endswith("\x1b[?25hoca-sms: interrupted\r\n")
    assert "Traceback" not in ended.out


@each_api
def test_send_prints_the_receipt(oca: Oca, served: Sandbox, api: str) -> None:
    """The receipt is the id, the status and the attempts, one a line. Premium's receipts have no status."""
    ended = oca("send", "081381475159", TEXT)
    (message,) = served.inbox
    assert (ended.status, message.phone, message.text, message.api) == (0, PHONE, TEXT, api)
    word = "-" if api in PREMIUM else "sent"
    assert ended.out.splitlines() == [f"msg_uid   {message.msg_uid}", f"status    {word}", "attempts  1"]


@each_api
def test_send_names_a_message_that_may_be_doubled(oca: Oca, served: Sandbox) -> None:
    """After a second attempt the receipt says that the message may have been delivered more than once."""
    served.failing_attempts = 1
    ended = oca("send", PHONE, TEXT)
    assert read_pairs(ended.out)["attempts"] == "2 (the message may have been delivered more than once)"


def test_send_takes_a_text_that_begins_with_a_hyphen(oca: Oca, served: Sandbox) -> None:
    """After `--` a text may begin with a hyphen; without it, the error names the `--`."""
    assert (oca("send", PHONE, "--", "-5% marker")).status == 0
    assert served.inbox[-1].text == "-5% marker"
    advice = "a text that begins with a hyphen needs a -- before it; see oca-sms send --help"
    ended = oca("send", PHONE, "-5% marker")
    assert ended == (2, "", f"oca-sms: not sent: unknown option; {advice}\n")


def test_send_with_time_left_is_sent(oca: Oca, served: Sandbox) -> None:
    """A message whose `--expires-in` has not passed is sent."""
    assert (oca("send", PHONE, TEXT, "--expires-in", "60")).status == 0
    assert len(served.inbox) == 1


@pytest.mark.parametrize(
    ("knobs", "status", "line", "ending", "v2"),
    [
        (
            {"password": "other", "token": "other"},
            3,
            "not sent: the gateway refused the credentials",
            " (HTTP 401, code 17)",
            " (HTTP 401, code 45)",
        ),
        ({"quota": 0}, 3, "not sent: the account's quota is used up", " (HTTP 401, code 55)", " (HTTP 401, code 5)"),
        (
            {"template": "Other"},
            1,
            "not sent: the gateway refused a parameter: number, text or template",
            " (HTTP 406, code 39): message_body",
            " (HTTP 406, code 59)",
        ),
        (
            {"faults": {"internal-error": 1.0}},
            1,
            "may have been sent: the gateway had an internal error",
            *[" (HTTP 500, code 13), after 4 attempts"] * 2,
        ),
    ],
)
@each_api
def test_refused_send_says_what_became_of_the_message(
    oca: Oca, served: Sandbox, api: str, knobs: dict[str, object], status: int, line: str, ending: str, v2: str
) -> None:
    """Each refusal is one line: may the message have been sent, why, and the way to find out; and its exit status."""
    line += v2 if api in V2 else ending
    if line.startswith("may"):
        line += ASK_THE_VENDOR if api in PREMIUM else LOOK_IT_UP
    for name, value in knobs.items():
        setattr(served, name, value)
    assert oca("send", PHONE, TEXT) == (status, "", f"oca-sms: {line}\n")


def test_expired_account(oca: Oca, served: Sandbox) -> None:
    """An account that has expired is a 3."""
    served.expired = True
    assert oca("send", PHONE, TEXT) == (3, "", "oca-sms: not sent: the account has expired (HTTP 401, code 51)\n")


@each_api
def test_account_refused_after_doubt_is_no_proof(oca: Oca, served: Sandbox) -> None:
    """Status 3 promises that nothing was sent, so a refusal after an internal error is a 1."""
    served.failing_attempts = 1
    served.quota = 0
    ended = oca("send", PHONE, TEXT)
    assert ended.status == 1
    assert ended.err.startswith("oca-sms: may have been sent: the account's quota is used up")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("send", "0813 marker", TEXT), "phone has a letter in the middle: it may hold digits, a leading '+'"),
        (("send", SUBSCRIBER[:5], TEXT), "phone is not a possible"),
        (("send", PHONE, " "), "message must be a str that is not blank"),
        (("send", PHONE, "marker \udcff"), "message holds half of a surrogate pair"),
        (("send", PHONE, TEXT, "--expires-in", "0"), "--expires-in must be > 0"),
        (("send", PHONE, TEXT, "--expires-in", "inf"), "expires_in must be a finite number"),
        (("send", PHONE, TEXT, "--expires-in", "soon"), "--expires-in cannot be read"),
        (("send", PHONE, TEXT, "--expires-in"), "--expires-in is missing"),
        (("send", PHONE), "MESSAGE is missing"),
        (("send", PHONE, *TEXT.split()), "too many arguments; a text with spaces needs quotes around it"),
        (("send", PHONE, TEXT, f"--password={PASSWORD}"), "unknown option --password; see"),
        (("send", PHONE, TEXT, "--expires-in=1", "--expires-in=2"), "an argument is given more than once"),
    ],
)
def test_bad_input_is_not_sent(oca: Oca, served: Sandbox, arguments: tuple[str, ...], reason: str) -> None:
    """Input that the command line or the library refuses is a 2, and the line does not quote it."""
    ended = oca(*arguments)
    assert ended.status == 2
    assert ended.err.startswith(f"oca-sms: not sent: {reason}")
    assert not served.inbox


def test_expired_message_is_not_sent(oca: Oca, served: Sandbox) -> None:
    """A message that expires before its turn has failed."""
    ended = oca("send", PHONE, TEXT, "--expires-in", "1e-9")
    assert ended.status == 1
    assert ended.err.startswith("oca-sms: not sent: the message")
    assert not served.inbox


@pytest.mark.parametrize("arguments", [("send", PHONE, TEXT), ("history",), ("status", "uid")])
def test_gateway_out_of_reach(
    oca: Oca, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int, arguments: tuple[str, ...]
) -> None:
    """A gateway that does not listen is a 3, and only `send` says «not sent»."""
    monkeypatch.setenv("OCA_SMS_BASE_URL", f"http://127.0.0.1:{unused_tcp_port}/api/v1")
    prefix = "not sent: " if arguments[0] == "send" else ""
    line = f"oca-sms: {prefix}no connection to the gateway came about: Connection refused\n"
    assert oca(*arguments) == (3, "", line)


@pytest.mark.parametrize("arguments", [("send", PHONE, TEXT), ("history",)])
def test_an_incomplete_address_is_told(
    oca: Oca, served: Sandbox, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """After a 404 without a code, the line asks for the path of the address."""
    monkeypatch.setenv("OCA_SMS_BASE_URL", served.base_url.removesuffix("/api/v1"))
    ended = oca(*arguments)
    assert ended.status == 1
    assert ended.err.endswith("(HTTP 404); is base_url complete? It comes from OCA_SMS_BASE_URL\n")


@pytest.mark.parametrize(
    ("api", "arguments"),
    [
        *itertools.product([*REGULAR, *PREMIUM], [("send", PHONE, TEXT), ("status", "uid")]),
        *itertools.product(REGULAR, [("history",)]),
    ],
    indirect=["api"],
)
def test_gateway_that_hangs_up(
    oca: Oca, api: str, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """After a request without an answer, `send` says «may have been sent»; the other commands do not."""
    with portal.wrap_async_context_manager(RawGateway(hang_up).serve()) as gateway:
        monkeypatch.setenv("OCA_SMS_BASE_URL", gateway.base_url)
        ended = oca(*arguments)
    assert ended.status == 1
    assert ended.err.startswith("oca-sms: may have been sent: " if arguments[0] == "send" else "oca-sms: the gateway's")
    advice = ASK_THE_VENDOR if api in PREMIUM else LOOK_IT_UP
    assert ("sent" in ended.err) == (advice in ended.err) == (arguments[0] == "send")


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
    """2 and 3 prove that the message was not sent; all other failures are a 1."""
    with pytest.raises(CommandError) as raised, while_sending():
        raise error
    assert raised.value.status == status


@pytest.mark.parametrize("error", [ApiError(404, 77), ApiError(400), InvalidRequestError(406), NotFoundError(404, 58)])
def test_another_refusal_does_not_ask_for_the_address(error: ApiError) -> None:
    """A code is the gateway's own, so its address is right. So it is after each status but 404."""
    assert explain(error) == str(error)
    assert explain(ApiError(404)).endswith("; is base_url complete? It comes from OCA_SMS_BASE_URL")


def test_only_names_of_refused_fields_are_shown() -> None:
    """A gateway may put a text in the place of a field's name, and then it is not shown."""
    fields = tuple(FieldError(param, TEXT, "body") for param in ("phone_number", TEXT, "x" * 100, ""))
    with pytest.raises(CommandError, match=r"code 39\): phone_number$"), while_sending():
        raise InvalidRequestError(406, 39, TEXT, fields)


def test_receipt_that_cannot_be_written_is_no_failure(
    oca: Oca, served: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script would send the message again after a failure, so a full disk is a 0 with the id in the error."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(["send", PHONE, TEXT]) == 0
        assert run(["history"]) == 1
        with contextlib.suppress(OSError):
            full.close()
    sent, asked = capsys.readouterr().err.splitlines()
    uid = served.inbox[0].msg_uid
    assert sent == f"oca-sms: sent, with msg_uid {uid}, but the output could not be written: No space left on device"
    assert asked == "oca-sms: the output could not be written: No space left on device"


async def test_output_without_a_reader_ends_in_one_line() -> None:
    """If the reader of the output is gone, the command ends with one line and a 1, without Python's own error."""
    async with start("check", TEXT, env=environment(), code=CLOSED_PIPE + MAIN) as process:
        assert await end_of(process) == (1, "", "oca-sms: the output could not be written: Broken pipe\n")


@each_api
def test_status_prints_the_record_with_its_number_masked(oca: Oca, served: Sandbox, api: str) -> None:
    """The number is starred and the text is left out, unless an option asks for them. Premium tells no text."""
    oca("send", PHONE, TEXT)
    (message,) = served.inbox
    shown = read_pairs((oca("status", message.msg_uid)).out)
    assert shown == {
        "msg_uid": message.msg_uid,
        "created_at": f"{message.created_at:%Y-%m-%d %H:%M:%S}Z",
        "status": "send" if api == "regular-v2" else "sent",
        "phone_number": "***********159",
        "total_sms": "1",
        "application": "-" if api in PREMIUM else "sandbox",
    }
    bare = read_pairs((oca("status", message.msg_uid, "--show-numbers", "--show-texts")).out)
    assert bare == shown | {"phone_number": PHONE, "message_body": "" if api in PREMIUM else TEXT}


@pytest.mark.parametrize(
    ("msg_uid", "status", "line"),
    [
        ("marker", 1, "the gateway knows no such message (HTTP 404)"),
        (" ", 2, "msg_uid must be a str, not blank, of at most 1000 characters, as a receipt gave it"),
    ],
)
def test_status_of_no_message(oca: Oca, msg_uid: str, status: int, line: str) -> None:
    """An id that the gateway does not know is a 1, an impossible id is a 2."""
    assert oca("status", msg_uid) == (status, "", f"oca-sms: {line}\n")


@each_api_with_history
def test_history_is_lines_with_tabs(oca: Oca, served: Sandbox) -> None:
    """Without a terminal the history is a header and the newest messages, a tab between values, the newest last."""
    for text in ("first", "a\tb\n", "last"):
        oca("send", PHONE, text)
    header, *rows = (oca("history", "--limit", "2", "--show-texts")).out.splitlines()
    assert header.split("\t") == ["msg_uid", "created_at", "status", "phone_number", "total_sms", "message_body"]
    assert [row.split("\t")[0] for row in rows] == [message.msg_uid for message in served.inbox[1:]]
    assert [row.split("\t")[3:] for row in rows] == [["***********159", "1", text] for text in (r"a\tb\n", "last")]
    hidden = (oca("history", "--show-numbers")).out
    assert PHONE in hidden
    assert "first" not in hidden


@over(PREMIUM)
def test_history_that_the_api_does_not_have(oca: Oca, served: Sandbox, api: str) -> None:
    """`history` by Premium is a 2 and one line with the APIs that have one; the gateway is not asked."""
    name = "SMS Premium V1" if api == "premium-v1" else "SMS Premium V2"
    assert oca("history") == (2, "", f"oca-sms: {name} has no history; SMS Regular has one\n")
    assert served.traffic.last_second == 0


@over(PREMIUM)
def test_reconcile_by_an_api_without_history(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """`bulk --reconcile` by Premium is a 2 and one line. Nothing is sent, and no journal and no file are made."""
    file, files = (
        write_campaign(tmp_path / "rows.csv", 2),
        ("--journal", tmp_path / "journal", "--out", tmp_path / "out"),
    )
    ended = bulk(file, *files, "--reconcile")
    assert (ended.status, ended.out) == (2, "")
    assert re.fullmatch(r"oca-sms: SMS Premium V\d has no history; SMS Regular has one\n", ended.err)
    assert (served.traffic.last_second, [*tmp_path.iterdir()]) == (0, [file])


@each_api
def test_a_bulk_goes_on_by_each_api(bulk: Bulk, served: Sandbox, tmp_path: Path, api: str) -> None:
    """A bulk with a journal leaves lost answers in doubt and says how to settle them. A resend completes it."""
    file, journal = write_campaign(tmp_path / "rows.csv", 3), ("--journal", tmp_path / "journal")
    served.when(spell_e164(2)).respond("accept-then-drop", times=1)
    ended = bulk(file, *journal)
    asks = "this API has no history, so ask the vendor, or send them again with --resend-unknown"
    advice = asks if api in PREMIUM else "--reconcile looks them up"
    assert (ended.status, ended.err) == (1, f"oca-sms: 1 of 3 rows failed, 1 may have been sent: {advice}\n")
    out = tmp_path / "out"
    assert bulk(file, *journal, "--out", out).err == ended.err
    assert "--" not in read_outcomes(out)[1]["error"]  # a line of the file names no option that the API refuses
    assert bulk(file, *journal, "--resend-unknown" if api in PREMIUM else "--reconcile").status == 0
    assert list_recipients(served) == [spell_e164(it) for it in (1, 2, *([2] if api in PREMIUM else []), 3)]
    served.when(spell_e164(1)).respond("accept-then-drop", times=1)
    advice = "this API has no history, so ask the vendor" if api in PREMIUM else "`oca-sms history` shows them"
    assert bulk(file).err == f"oca-sms: 1 of 3 rows failed, 1 may have been sent: {advice}\n"


def test_empty_history_is_a_header(oca: Oca) -> None:
    """The history of an account without messages is a header, and no failure."""
    ended = oca("history")
    assert (ended.status, len(ended.out.splitlines())) == (0, 1)


def test_history_is_sorted_by_date(oca: Oca, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest message is last in any order of the gateway's; a message without a date counts as new."""
    dates = [datetime(2026, 1, 2, tzinfo=UTC), None, datetime(2026, 1, 1, tzinfo=UTC)]

    async def answered(_: AsyncOcaSms) -> list[SmsRecord]:
        return [SmsRecord(f"uid{number}", PHONE, TEXT, "sent", date, 1) for number, date in enumerate(dates)]

    monkeypatch.setattr(AsyncOcaSms, "history", answered)
    rows = (oca("history", "--limit", "2")).out.splitlines()[1:]
    assert [row.split("\t")[:2] for row in rows] == [["uid0", "2026-01-02 00:00:00Z"], ["uid1", "-"]]


async def test_history_on_a_terminal_is_a_table_of_plain_text(sandbox: Sandbox, client: AsyncOcaSms) -> None:
    """A text on a terminal is neither markup nor a terminal command, and no id is cut off."""
    await client.send(PHONE, "[bold red]loud[/] \x1b[31mred")
    env = environment(**account(sandbox))
    ended = await asyncio.to_thread(run_on_terminal, ["history", "--show-texts"], env)
    assert ended.status == 0
    assert "\x1b[31m" not in ended.out
    header, _, *rows = re.sub(r"\x1b\[[0-9;]*m", "", ended.out).splitlines()[1:]
    starts = [match.start() for match in re.finditer(r"\w+", header)]
    cells = ["".join(row[start:end] for row in rows).replace(" ", "") for start, end in pairwise([*starts, None])]
    assert cells[0].startswith(sandbox.inbox[0].msg_uid)
    assert cells[-1] == r"[boldred]loud[/]\x1b[31mred"
    assert "1 of 1 messages" in ended.out


@pytest.mark.parametrize("arguments", [("history", "--limit", "0"), ("history", "--limit", "x"), ("history", "marker")])
def test_bad_usage_of_history(oca: Oca, arguments: tuple[str, ...]) -> None:
    """Bad usage of a command that sends nothing is a 2 without «sent»."""
    ended = oca(*arguments)
    assert ended.status == 2
    assert "sent" not in ended.err


@pytest.mark.parametrize("arguments", [("marker",), ("--", "send", PHONE, TEXT)])
def test_unknown_command(oca: Oca, arguments: tuple[str, ...]) -> None:
    """An unknown command is not quoted, because it may be half of a message."""
    assert oca(*arguments) == (2, "", "oca-sms: unknown command or option; see oca-sms --help\n")


async def test_check_needs_no_account(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` prints the size of a text and each advice by its code, and ends with 0."""
    monkeypatch.delenv("OCA_SMS_USERNAME", raising=False)
    assert run(["check", "é" * 160 + "{", "--brand", "Acme"]) == 0
    shown = read_pairs(capsys.readouterr().out)
    assert shown.pop("extension-characters").endswith("LEFT CURLY BRACKET.")
    assert shown.keys() == {"encoding", "length", "segments", "several-segments", "brand-missing"}
    assert (shown["encoding"], shown["length"], shown["segments"]) == ("GSM-7", "162 septets", "2")


def test_check_of_a_good_text(capsys: pytest.CaptureFixture[str]) -> None:
    """For a good text `check` prints that there is no advice."""
    assert run(["check", "--", "-Ω你"]) == 0
    assert read_pairs(capsys.readouterr().out)["length"] == "3 UTF-16 units"
    assert run(["check", "Acme: hello", "--brand", "acme"]) == 0
    assert read_pairs(capsys.readouterr().out)["advice"] == "none"


def test_check_of_a_blank_brand(oca: Oca) -> None:
    """A blank brand is in every text, so it is a mistake in a script."""
    assert oca("check", "hello", "--brand", " ") == (2, "", "oca-sms: brand must not be blank\n")


def test_help_documents_the_exit_statuses(oca: Oca) -> None:
    """The help has a row for each exit status and a line for each command."""
    shown = (oca("--help")).out
    for status in ExitStatus:
        assert re.search(rf"^ +{int(status)} +\w", shown, re.MULTILINE)
    for name in ("demo", "send", "status", "history", "check", "sandbox"):
        assert re.search(rf"^│ {name} +\w", shown, re.MULTILINE)
    assert "before a text that begins with a hyphen" in (oca("send", "--help")).out


def test_version(oca: Oca) -> None:
    """`--version` prints the version alone, for scripts."""
    assert oca("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("missing", ["OCA_SMS_USERNAME", "OCA_SMS_PASSWORD"])
@pytest.mark.parametrize("arguments", [("send", PHONE, TEXT), ("history",), ("status", "uid")])
def test_missing_credentials_without_a_terminal(
    oca: Oca, monkeypatch: pytest.MonkeyPatch, missing: str, arguments: tuple[str, ...]
) -> None:
    """Without a terminal to ask on, the line names the missing variable."""
    monkeypatch.delenv(missing)
    prefix = "not sent: " if arguments[0] == "send" else ""
    line = f"oca-sms: {prefix}no terminal to ask on, and not set in the environment: {missing}\n"
    assert oca(*arguments) == (2, "", line)


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
def test_bad_configuration(oca: Oca, monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str) -> None:
    """A bad setting is named, and its value is not shown."""
    monkeypatch.setenv("OCA_SMS_BASE_URL", "https://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    ended = oca("send", PHONE, TEXT)
    assert ended.status == 2
    assert ended.err.startswith(f"oca-sms: not sent: {reason}")


async def test_credentials_are_prompted_for(sandbox: Sandbox) -> None:
    """On a terminal the command asks for missing credentials, for the password without an echo."""
    sandbox.password = PASSWORD
    env = environment(OCA_SMS_BASE_URL=sandbox.base_url)
    answers = {"OCA username: ": f"{sandbox.username}\n", "OCA password: ": f"{PASSWORD}\n"}
    ended = await asyncio.to_thread(run_on_terminal, ["send", PHONE, TEXT], env, answers)
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
    """A prompt without an answer ends in a line that says «not sent»."""
    env = environment(OCA_SMS_USERNAME="somebody", OCA_SMS_PASSWORD="something")
    del env[asked]
    prompt = f"OCA {asked.removeprefix('OCA_SMS_').lower()}: "
    ended = run_on_terminal(["send", PHONE, TEXT], env, {prompt: typed})
    assert ended.status == status
    assert ended.out.splitlines()[-1].endswith(f"oca-sms: not sent: {line}")
    assert "Traceback" not in ended.out


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "hung up"),
    ],
)
async def test_a_signal_leaves_the_message_in_doubt(
    sandbox: Sandbox, number: signal.Signals, status: int, words: str
) -> None:
    """An interrupted `send` says that the message may have been sent; here it even was delivered."""
    sandbox.latency = 3600
    async with start("send", PHONE, TEXT, env=environment(**account(sandbox))) as process:
        await until(lambda: len(sandbox.inbox) > 0 and is_waiting(process.pid))
        process.send_signal(number)
        ended = await end_of(process)
    assert (ended.status, ended.out) == (status, "")
    doubt = "if a request was under way, the message may have been sent"
    assert ended.err == f"oca-sms: {words}: {doubt}{LOOK_IT_UP}\n"


@pytest.mark.parametrize(
    ("sent", "status", "line"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
async def test_sandbox_serves_until_a_signal(sent: signal.Signals, status: int, line: str) -> None:
    """The printed lines give a client all that it needs, and Ctrl-C or SIGTERM ends the sandbox."""
    arguments = ("sandbox", "--port", "0", "--username", "me@example.com", "--password", "it's $HOME", "--token", "a$b")
    async with start(*arguments, env=environment()) as process:
        printed = [await read_line(process.stdout) for _ in range(11)]
        exports = dict(shlex.split(line)[1].split("=", 1) for line in printed if line.startswith("export "))
        assert exports.keys() == {"OCA_SMS_USERNAME", "OCA_SMS_PASSWORD", "OCA_SMS_BASE_URL"}
        assert exports["OCA_SMS_BASE_URL"] in printed[0]
        assert exports["OCA_SMS_BASE_URL"].replace("/api/v1", "/ ") in printed[0]  # the inbox
        others = [shlex.split(line.partition("; export ")[2]) for line in printed if "; export " in line]
        assert [dict(it.split("=", 1) for it in words)["OCA_SMS_API"] for words in others] == [
            "regular-v2",
            "premium-v1",
            "premium-v2",
        ]
        assert others[2][1:] == [
            "OCA_SMS_TOKEN=a$b",
            "OCA_SMS_SENDER_ID=Sandbox",
            f"OCA_SMS_BASE_URL={exports['OCA_SMS_BASE_URL'].replace('/api/v1', '/sms/v2')}",
        ]
        async with AsyncOcaSms.from_env(exports) as client:
            assert (await client.send(PHONE, TEXT)).status == "sent"
        await until(lambda: is_waiting(process.pid))
        process.send_signal(sent)
        assert await end_of(process) == (status, "", f"oca-sms: {line}\n")


async def variables_after(script: str) -> dict[str, str]:
    """Return the variables of ours that a shell has after these lines."""
    shell = await asyncio.create_subprocess_exec(
        *("sh", "-eu", "-c", f"{script}\nenv -0"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    printed, _ = await asyncio.wait_for(shell.communicate(), PATIENCE)
    assert shell.returncode == 0, printed
    return {
        name: value
        for name, _, value in (line.partition("=") for line in printed.decode().split("\0"))
        if name.startswith("OCA_SMS_")
    }


async def lines_of_the_command(sandbox: Sandbox) -> dict[str, str]:
    """Return the lines that the command prints for each API, as one text."""
    _, first, (_, *others) = (
        [*lines] for has_text, lines in itertools.groupby(_serve._welcome(sandbox), key=bool) if has_text
    )
    return dict(zip([*REGULAR, *PREMIUM], ["\n".join(first), *others], strict=True))


async def lines_of_the_page(sandbox: Sandbox) -> dict[str, str]:
    """Return the lines that the sandbox's page shows for each API, as one text."""
    async with httpx.AsyncClient(trust_env=False) as browser:
        access = (await browser.get(sandbox.base_url.replace("/api/v1", "/sandbox/access"))).json()
    return {api["name"]: "\n".join(api["lines"]) for api in access["apis"]}


@pytest.mark.parametrize("show", [lines_of_the_command, lines_of_the_page])
@pytest.mark.parametrize("before", [*REGULAR, *PREMIUM])
@each_api
async def test_lines_can_be_pasted_into_a_shell(
    show: Callable[[Sandbox], Awaitable[dict[str, str]]], before: str, api: str, sandbox: Sandbox
) -> None:
    """In a real shell, the lines for an API make a client of it, also after the lines for any other API."""
    sandbox.username, sandbox.password, sandbox.token, sandbox.sender_id = "it's", "$HOME", "a$b'c", 'Acme; "Co"'
    lines = await show(sandbox)
    variables = await variables_after("\n".join([lines["regular-v1"], lines[before], lines[api]]))
    assert variables == sandbox.environment(api)
    async with AsyncOcaSms.from_env(variables) as client:
        await client.send(PHONE, TEXT)
    assert [message.api for message in sandbox.inbox] == [api]


async def test_sandbox_does_what_its_options_say() -> None:
    """Options of `sandbox` set its limit, quota and faults."""
    options = "--port 0 --rate-limit 7 --quota 9 --fault reset=0.25 --fault html=.5 --fault failing-attempts=2"
    async with start("sandbox", *options.split(), env=environment()) as process:
        printed = [await read_line(process.stdout) for _ in range(6)]
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


def make_sandbox(arguments: str, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
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
    """A latency has a unit, milliseconds or seconds; 0 needs no unit."""
    assert make_sandbox(f"--latency {given}", monkeypatch).latency == pytest.approx(seconds)


def test_sandbox_has_the_gateway_s_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the limit is 25 requests a second, without faults. A limit of 0 is no limit. The seed is taken."""
    gateway = make_sandbox("", monkeypatch)
    assert (gateway.rate_limit, gateway.quota, gateway.latency, gateway.seed) == (25, None, 0.0, None)
    assert not any(gateway.played.values())
    assert gateway.submitted_for > 0
    gateway = make_sandbox("--rate-limit 0 --seed 7", monkeypatch)
    assert (gateway.rate_limit, gateway.seed) == (None, 7)


def test_sandbox_on_a_port_that_is_taken(oca: Oca, served: Sandbox) -> None:
    """A port that is taken is named in one line, and a 2."""
    port = served.base_url.split(":")[2].split("/")[0]
    line = f"oca-sms: cannot listen on 127.0.0.1, port {port}: it is taken, choose another --port\n"
    assert oca("sandbox", "--port", port) == (2, "", line)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--port", "65536"), "--port must be <= 65535"),
        (("--username", "a:b"), "username must not be empty nor hold a colon"),
        (("--password", ""), "password must not be empty"),
        (("--token", "a b"), "token must not be empty nor hold white space"),
        (("--sender-id", ""), "sender_id must be a name"),
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
def test_sandbox_with_bad_arguments(oca: Oca, arguments: tuple[str, ...], reason: str) -> None:
    """Arguments that no account and no port can have are a 2."""
    ended = oca("sandbox", *arguments)
    assert ended.status == 2
    assert ended.err.startswith(f"oca-sms: {reason}")


def test_sandbox_beyond_loopback_warns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that is open to the network warns."""

    def interrupt(*_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_serve, "show", interrupt)
    assert run(["sandbox", "--host", "0.0.0.0", "--port", "0"]) == 130
    warning, _ = capsys.readouterr().err.splitlines()
    assert warning.startswith("oca-sms: warning: others can reach this sandbox")


def test_sandbox_at_another_machine_s_address(oca: Oca) -> None:
    """An address of another machine is named in one line, and a 2."""
    ended = oca("sandbox", "--host", "2001:db8::1", "--port", "0")
    assert ended.status == 2
    assert ended.err.startswith("oca-sms: cannot listen on 2001:db8::1, port 0: ")


def test_sandbox_beyond_loopback_needs_its_variable() -> None:
    """Programs on other machines must allow plain http, so the lines to paste allow it; on loopback they do not."""
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
    """Behind a proxy, the lines to paste add the sandbox to `NO_PROXY` and keep its other hosts."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    gateway = Sandbox()
    gateway._base_url = "http://127.0.0.1:8025/api/v1"
    assert [it for it in _serve._welcome(gateway) if "NO_PROXY" in it] == ([line] if line else [])


def test_sandbox_on_no_host() -> None:
    """An unknown host has a sentence of our own."""
    assert _serve._explain(OSError(-2, "Name or service not known")) == "no such host"


@pytest.mark.parametrize(
    ("package", "command"),
    [("cyclopts", "check"), ("rich", "check"), ("starlette", "demo"), ("uvicorn", "sandbox")],
)
async def test_missing_extra_says_what_to_install(package: str, command: str) -> None:
    """Without the extra there is one line with the command that installs it, and a 2."""
    code = f"import sys; sys.modules[{package!r}] = None\n{MAIN}"
    async with start(command, env=environment(), code=code) as process:
        ended = await end_of(process)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f'oca-sms: its extra is missing (no module {package}): pip install "oca-sms-async[cli]"\n'


async def test_ctrl_c_while_it_starts() -> None:
    """Ctrl-C during the imports is no traceback."""
    async with start("check", "hello", env=environment(), code=INTERRUPTED_IMPORT + MAIN) as process:
        assert await end_of(process) == (130, "", "")


def test_tally_counts_every_outcome_once() -> None:
    """Each outcome is sent, failed or skipped, and counts once; the unknown are among the failed."""
    sms = Sms(PHONE, TEXT)
    tally = _progress.Tally(total=3, to_send=3, passed=1)
    for outcome in (Failed(sms, DeliveryUnknownError("no answer")), Skipped(sms, None)):
        tally.note(outcome)
    assert (tally.sent, tally.failed, tally.unknown, tally.skipped, tally.done) == (0, 1, 1, 1, 2)

"""`oca-sms bulk`: what is checked before it sends, what it sends, what it says of each row, and how it is taken up."""

import asyncio
import codecs
import contextlib
import errno
import fcntl
import io
import json
import os
import re
import shlex
import signal
import sys
import termios
import threading
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from raw_gateway import Connection, RawGateway, http, receipt
from test_cli import (
    CTRL_C,
    HEEDS_CTRL_C,
    MAIN,
    PATIENCE,
    Ended,
    account,
    end_of,
    environment,
    on_terminal,
    sleeps,
    started,
)

from oca_sms_async import AsyncOcaSms, RetryPolicy, SendReceipt, Sent, Sms
from oca_sms_async._journal._store import Store
from oca_sms_async.cli import _bulk, _campaign, _out, _rows
from oca_sms_async.cli._app import run
from oca_sms_async.cli._progress import Tally, shown
from oca_sms_async.sandbox import Sandbox

USERNAME = "user-marker@example.com"
PASSWORD = "s3cret-marker"
SUBSCRIBERS = "8138147"  # what all the numbers below have in common
KEYS = ["row", "key", "outcome", "msg_uid", "attempts", "error", "code"]
FAST = ("--rate", "1000")
HEEDS_NO_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"


class Bulk(Protocol):
    """Runs `oca-sms bulk` in this process."""

    def __call__(self, *arguments: object, stdin: bytes = b"") -> Ended:
        """Return how it ended."""
        ...


def phone(number: int) -> str:
    """Return a recipient as files spell it."""
    return f"0{SUBSCRIBERS}{number:04}"


def e164(number: int) -> str:
    """Return the same recipient as the gateway has it."""
    return f"+62{SUBSCRIBERS}{number:04}"


def text(number: int) -> str:
    """Return the message to that recipient."""
    return f"Acme: {number} is your marker"


def written(path: Path, *rows: str, header: str = "phone,message,key") -> Path:
    """Write a CSV of these rows."""
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def row(number: int, key: str = "") -> str:
    """Return one good row."""
    return f"{phone(number)},{text(number)},{key}"


def campaign(path: Path, count: int) -> Path:
    """Write a CSV of so many good rows."""
    return written(path, *(row(number) for number in range(1, count + 1)))


def assert_no_secret(said: str) -> None:
    """Fail if a number, in whatever spelling, a text, or a part of the account is in what was said."""
    plain = re.sub(r"[ .()-]", "", said)
    found = [it for it in (USERNAME, PASSWORD, "marker", SUBSCRIBERS) if it in said or it in plain]
    assert not found, said


def outcomes(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an `--out` in the order of their rows, each of which has exactly one, without a secret."""
    content = path.read_text(encoding="utf-8")
    assert_no_secret(content)
    lines = sorted((json.loads(line) for line in content.splitlines()), key=lambda line: line["row"])
    assert all(list(line) == KEYS for line in lines)
    assert [line["row"] for line in lines] == list(range(1, len(lines) + 1))
    return lines


def words(path: Path) -> list[str]:
    """Return the outcome of each row."""
    return [line["outcome"] for line in outcomes(path)]


def summary(said: str) -> dict[str, str]:
    """Return the names and values that were printed last."""
    return {name: value.strip() for name, value in re.findall(r"^(\S+(?: \S+)*) {2,}(.*)$", said, re.MULTILINE)}


def posts(sandbox: Sandbox) -> int:
    """Return how many messages were POSTed, whatever became of them."""
    return sum(tally.posts for tally in sandbox.inbox._tallies.values())


def received(sandbox: Sandbox) -> list[str]:
    """Return the numbers of the accepted messages, sorted."""
    return sorted(message.phone for message in sandbox.inbox)


def resumed_by(said: str) -> list[str]:
    """Return the arguments of the command that a run told to go on with."""
    [line] = re.findall(r"; go on with: (.*)$", said, re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert program == "oca-sms"
    return arguments


def answer_of(sandbox: Sandbox, connection: Connection) -> bytes:
    """Hand the request that a connection brought to the sandbox, and return its answer."""
    head, _, body = connection.request.partition(b"\r\n\r\n")
    authorization = re.search(rb"^authorization: (.*?)\r?$", head, re.MULTILINE | re.IGNORECASE)
    assert authorization is not None
    answer = sandbox.send(authorization[1].decode(), "application/json", body)
    return http(answer.body, f"{answer.status} Answer")


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    """An event loop in another thread, so that a command can have this one, and with it the signals."""
    with start_blocking_portal() as opened:
        yield opened


@pytest.fixture
def served(portal: BlockingPortal) -> Iterator[Sandbox]:
    """A sandbox in that thread, with an account that must not be shown."""
    with portal.wrap_async_context_manager(Sandbox(username=USERNAME, password=PASSWORD).serve()) as sandbox:
        yield sandbox


@pytest.fixture
def bulk(served: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bulk:
    """A function that runs the command in this process with the sandbox's account, and looks for secrets."""
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    for name, value in account(served).items():
        monkeypatch.setenv(name, value)

    def ran(*arguments: object, stdin: bytes = b"") -> Ended:
        given = ["bulk", *map(str, arguments), *([] if "--rate" in arguments else FAST)]
        monkeypatch.setattr(sys, "argv", ["oca-sms", *given])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        ended = Ended(run(given), *capsys.readouterr())
        assert_no_secret(ended.out + ended.err)
        return ended

    return ran


@pytest.fixture
def in_doubt(bulk: Bulk, served: Sandbox, tmp_path: Path) -> tuple[Path, Path]:
    """A file of two rows and its journal, after a run whose answers were lost."""
    file, journal = campaign(tmp_path / "rows.csv", 2), tmp_path / "journal"
    served.faults = {"accept-then-drop": 1.0}
    assert bulk(file, "--journal", journal).status == 1
    served.faults = {}
    assert received(served) == [e164(1), e164(2)]
    return file, journal


CSV = f'phone,message\n{phone(1)},"Acme: é, ""482913"" marker"\n{phone(2)},second marker\n'.encode()
JSON = (
    json.dumps({"phone": phone(1), "message": 'Acme: é, "482913" marker'}) + "\n"
    f'{{"phone": "{phone(2)}", "message": "second marker"}}\n'
).encode()


@pytest.mark.parametrize("source", ["file", "-", "fifo"])
@pytest.mark.parametrize("content", [CSV, codecs.BOM_UTF8 + CSV, JSON, codecs.BOM_UTF8 + JSON])
def test_every_kind_of_file_is_sent(bulk: Bulk, served: Sandbox, tmp_path: Path, content: bytes, source: str) -> None:
    """CSV or JSON lines, with a BOM or without, from wherever they come: each recipient gets his text."""
    path = tmp_path / "rows"
    if source == "-":
        ended = bulk("-", stdin=content)
    elif source == "fifo":
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_bytes, args=[content])
        writer.start()
        ended = bulk(path)
        writer.join()
    else:
        path.write_bytes(content)
        ended = bulk(path)
    assert (ended.status, ended.err) == (0, "")
    assert {it.phone: it.text for it in served.inbox} == {
        e164(1): 'Acme: é, "482913" marker',
        e164(2): "second marker",
    }
    assert summary(ended.out)["sent"] == "2"


def test_template_is_filled_from_the_columns(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """With `--template` the text is made of the row's columns, and no `message` is needed."""
    file = written(tmp_path / "rows.csv", f"{phone(1)},1234,Acme", header="phone,code,brand")
    assert bulk(file, "--template", "Kode {brand}: {code} {{marker}}").status == 0
    assert [(it.phone, it.text) for it in served.inbox] == [(e164(1), "Kode Acme: 1234 {marker}")]


BAD_ROWS = [
    row(1),
    f"{phone(2)}x,marker,",
    f"{phone(3)}, ,blank",
    f"{phone(4)},Acme, marker, you,",
    row(5),
]
REASONS = {
    2: "phone may hold digits, a leading '+', spaces and '-', '.', '(', ')', nothing else",
    3: "message must be a str that is not blank",
    4: "the row has 5 fields, the first line 3: put a text with commas in quotes",
}


@pytest.mark.parametrize("earlier", [None, "what an earlier run wrote\n"])
def test_whole_file_is_checked_before_anything_is_sent(
    bulk: Bulk, served: Sandbox, tmp_path: Path, earlier: str | None
) -> None:
    """Every bad row is named with its reason, and then nothing is sent and `--out` is as it was."""
    out = tmp_path / "out"
    if earlier is not None:
        out.write_text(earlier)
    ended = bulk(written(tmp_path / "rows.csv", *BAD_ROWS), "--out", out)
    assert ended.status == 2
    assert ended.err.splitlines() == [
        *(f"oca-sms: row {number}: {reason}" for number, reason in REASONS.items()),
        "oca-sms: nothing was sent: 3 of 5 rows cannot be; --skip-invalid goes on without",
    ]
    assert posts(served) == 0
    assert (out.read_text() if out.exists() else None) == earlier
    assert sorted(it.name for it in tmp_path.iterdir()) == ["out", "rows.csv"][earlier is None :]


def test_skip_invalid_goes_on_without_the_bad_rows(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """The good rows are sent; the bad ones have failed for their reason, and so has the command."""
    out = tmp_path / "out"
    ended = bulk(written(tmp_path / "rows.csv", *BAD_ROWS), "--out", out, "--skip-invalid")
    assert (ended.status, received(served)) == (1, [e164(1), e164(5)])
    assert ended.err.splitlines()[-1] == "oca-sms: 3 of 5 rows failed"
    assert summary(ended.out)["invalid"] == "3"
    lines = outcomes(out)
    assert [it["outcome"] for it in lines] == ["sent", "failed", "failed", "failed", "sent"]
    assert {it["row"]: it["error"] for it in lines if it["error"] is not None} == REASONS
    assert [lines[2][name] for name in ("key", "msg_uid", "attempts", "code")] == ["blank", None, 0, None]


CONTRADICTED = "key names a message of another number or text already"


@pytest.mark.parametrize("other", [f"{phone(1)},other marker,one", f"{phone(2)},{text(1)},one"])
def test_key_of_two_messages_is_found_before_anything_is_sent(
    bulk: Bulk, served: Sandbox, tmp_path: Path, other: str
) -> None:
    """A key with another number or text in a later row is a bad row, with a journal or without."""
    file, out = written(tmp_path / "rows.csv", row(1, "one"), row(3, "three"), other), tmp_path / "out"
    ended = bulk(file, "--out", out)
    assert ended.status == 2
    assert ended.err.splitlines()[0] == f"oca-sms: row 3: {CONTRADICTED}"
    assert posts(served) == 0
    assert bulk(file, "--out", out, "--skip-invalid").status == 1
    assert received(served) == [e164(1), e164(3)]
    assert [(it["outcome"], it["error"]) for it in outcomes(out)] == [
        ("sent", None),
        ("sent", None),
        ("failed", CONTRADICTED),
    ]


def test_key_of_an_earlier_run_is_found_before_anything_is_sent(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """What the journal knows as another message under this key is a bad row of this file."""
    journal = tmp_path / "journal"
    assert bulk(written(tmp_path / "old.csv", row(1, "one")), "--journal", journal).status == 0
    ended = bulk(written(tmp_path / "new.csv", row(2, "two"), row(3, "one")), "--journal", journal)
    assert ended.status == 2
    assert ended.err.startswith(f"oca-sms: row 2: {CONTRADICTED}\n")
    assert posts(served) == 1


def test_dry_run_tells_the_plan(bulk: Bulk, tmp_path: Path, in_doubt: tuple[Path, Path], served: Sandbox) -> None:
    """Rows by what is to become of them, recipients, segments, the time at this rate, advice; and nothing is sent."""
    _, journal = in_doubt
    assert bulk(written(tmp_path / "sent.csv", row(3)), "--journal", journal).status == 0
    served.inbox.clear()
    rows = [row(1), row(2), row(3), row(4, "a"), row(4, "a"), f"{e164(4)},{'x' * 161},", f"{phone(5)},,"]
    file, out = written(tmp_path / "rows.csv", *rows), tmp_path / "out"
    out.write_text("untouched")
    plan = bulk(file, "--dry-run", "--journal", journal, "--out", out, "--rate", "0.5", "--brand", "acme")
    assert plan.status == 2  # as the run itself would end
    file = written(tmp_path / "rows.csv", *rows[:-1])
    plan = bulk(file, "--dry-run", "--journal", journal, "--out", out, "--rate", "0.5", "--brand", "acme")
    assert (plan.status, posts(served), out.read_text()) == (0, 0, "untouched")
    told = summary(plan.out)
    assert told.pop("advice").startswith("1 rows: ")
    assert told == {
        "rows": "6",
        "cannot be sent": "0",
        "sent earlier": "1",
        "in doubt": "2",
        "repeated": "1",
        "to send": "2",
        "recipients": "4",
        "segments": "3",
        "time": "4 s at 0.5/s",
    }
    assert re.findall(r"^advice +1 rows: (\S+):", plan.out, re.MULTILINE) == ["several-segments", "brand-missing"]
    resent = bulk(file, "--dry-run", "--journal", journal, "--resend-unknown")
    assert summary(resent.out)["to send"] == "4"


def test_dry_run_counts_the_rows_that_cannot_be_sent(bulk: Bulk, tmp_path: Path) -> None:
    """With `--skip-invalid` the plan is told all the same."""
    plan = bulk(written(tmp_path / "rows.csv", *BAD_ROWS), "--dry-run", "--skip-invalid")
    told = summary(plan.out)
    assert [told[name] for name in ("rows", "cannot be sent", "to send", "advice")] == ["5", "3", "2", "none"]


def test_dry_run_needs_no_account_and_leaves_nothing_behind(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a journal nor an `--out` comes into being, and nobody is asked for credentials."""
    for name in account(served):
        monkeypatch.delenv(name)
    file = campaign(tmp_path / "rows.csv", 3)
    plan = bulk(file, "--dry-run", "--journal", tmp_path / "journal", "--out", tmp_path / "out")
    assert (plan.status, summary(plan.out)["to send"]) == (0, "3")
    assert (posts(served), [*tmp_path.iterdir()]) == (0, [file])


def test_blank_brand_is_bad_usage(bulk: Bulk, tmp_path: Path) -> None:
    """A brand that every text holds is a mistake in the script."""
    ended = bulk(campaign(tmp_path / "rows.csv", 1), "--dry-run", "--brand", " ")
    assert ended == (2, "", "oca-sms: brand must not be blank\n")


def test_out_has_what_the_gateway_said(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """A sent row has the gateway's id, a refused one the error and its code, and each the attempts."""
    served.refused_numbers = [phone(2)]
    out = tmp_path / "out"
    ended = bulk(written(tmp_path / "rows.csv", row(1, "k-1"), row(2)), "--out", out)
    assert ended.status == 1
    assert ended.err == "oca-sms: 1 of 2 rows failed\n"
    error = "the gateway refused a parameter: number, text or template (HTTP 406, code 39)"
    uid = served.inbox[0].msg_uid
    common = {"attempts": 1}
    assert outcomes(out) == [
        {"row": 1, "key": "k-1", "outcome": "sent", "msg_uid": uid, "error": None, "code": None} | common,
        {"row": 2, "key": None, "outcome": "failed", "msg_uid": None, "error": error, "code": 39} | common,
    ]
    assert f"1 × {error}" in ended.out


def test_rows_are_data_rows(bulk: Bulk, tmp_path: Path) -> None:
    """Neither the header nor a blank line nor a line within quotes counts as a row."""
    out = tmp_path / "out"
    file = written(tmp_path / "rows.csv", f'{phone(1)},"Acme\nmarker",a', "", row(2, "b"))
    assert bulk(file, "--out", out).status == 0
    assert [(it["row"], it["key"]) for it in outcomes(out)] == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (phone(1), "*********001"),
        (f"otp-{SUBSCRIBERS[:3]}-{SUBSCRIBERS[3:]}-0001/07", "*****************/07"),
        (f"{SUBSCRIBERS[4:]}0001", "*******"),
        ("order-7", "order-7"),
    ],
)
def test_key_with_the_number_is_masked(bulk: Bulk, tmp_path: Path, key: str, shown: str) -> None:
    """A key that holds the recipient's number, or its last seven digits, shows no more than three of them."""
    out = tmp_path / "out"
    assert bulk(written(tmp_path / "rows.csv", row(1, key)), "--out", out).status == 0
    [line] = outcomes(out)
    assert line["key"] == shown


def test_key_of_a_bad_row_is_masked(bulk: Bulk, tmp_path: Path) -> None:
    """That a row cannot be sent is no reason to show the number in its key."""
    out = tmp_path / "out"
    file = written(tmp_path / "rows.csv", row(1), f"{phone(2)}, ,{phone(2)}", f"{phone(3)}x,marker,{phone(3)}")
    assert bulk(file, "--out", out, "--skip-invalid").status == 1
    assert all(SUBSCRIBERS not in str(it["key"]) for it in outcomes(out))


def test_show_numbers_shows_numbers_and_keys(bulk: Bulk, tmp_path: Path) -> None:
    """With `--show-numbers` each line has the number as E.164 as well, and the key as it is; never the text."""
    out = tmp_path / "out"
    assert bulk(written(tmp_path / "rows.csv", row(1, phone(1))), "--out", out, "--show-numbers").status == 0
    [line] = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert list(line) == [*KEYS, "phone"]
    assert (line["phone"], line["key"]) == (e164(1), phone(1))
    assert "marker" not in out.read_text(encoding="utf-8")


@pytest.mark.parametrize("state", ["whole", "lost", "truncated", "garbage"])
def test_out_is_rebuilt_on_resume(bulk: Bulk, served: Sandbox, tmp_path: Path, state: str) -> None:
    """Whatever has become of the earlier `--out`, the new one has exactly one line a row, with the earlier ids."""
    file, journal, out = campaign(tmp_path / "rows.csv", 4), tmp_path / "journal", tmp_path / "out"
    command = (file, "--journal", journal, "--out", out)
    served.refused_numbers = [phone(3)]
    assert bulk(*command).status == 1
    before = outcomes(out)
    match state:
        case "lost":
            out.unlink()
        case "truncated":
            out.write_bytes(out.read_bytes()[:150])
        case "garbage":
            out.write_bytes(b"\xff\0 no outcome")
    (tmp_path / ".out.oca-sms").write_text("left over")
    served.refused_numbers = []
    assert bulk(*command).status == 0
    lines = outcomes(out)
    assert [it["outcome"] for it in lines] == ["sent"] * 4
    assert {it["msg_uid"] for it in lines} == {it.msg_uid for it in served.inbox}
    assert [before[at] for at in (0, 1, 3)] == [lines[at] for at in (0, 1, 3)]
    assert sorted(it.name for it in tmp_path.iterdir()) == ["journal", "out", "rows.csv"]


def test_same_command_again_sends_nothing_twice(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """What the journal knows as sent is left alone, and the command has done its work."""
    file, journal = campaign(tmp_path / "rows.csv", 5), tmp_path / "journal"
    assert bulk(file, "--journal", journal).status == 0
    again = bulk(file, "--journal", journal)
    assert (again.status, again.err, posts(served)) == (0, "", 5)
    told = summary(again.out)
    assert (told["sent"], told["sent earlier"]) == ("0", "5")
    assert "5/5: 0 sent, 5 sent earlier, " in again.out


def test_unsent_rows_are_sent_by_the_next_run(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """A row that the gateway refused is tried again, and the others are not."""
    file, journal = campaign(tmp_path / "rows.csv", 3), tmp_path / "journal"
    served.refused_numbers = [phone(2)]
    assert bulk(file, "--journal", journal).status == 1
    served.refused_numbers = []
    assert bulk(file, "--journal", journal).status == 0
    assert received(served) == [e164(1), e164(2), e164(3)]


def test_same_message_twice_is_sent_twice(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """Without a key, equal rows are two messages, to a later run as well."""
    file, journal = written(tmp_path / "rows.csv", row(1), row(1)), tmp_path / "journal"
    for _ in range(2):
        assert bulk(file, "--journal", journal).status == 0
        assert received(served) == [e164(1), e164(1)]


def test_same_key_twice_is_sent_once(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """A row that repeats a key with its content is skipped, which is no failure, with a journal or without."""
    file, out = written(tmp_path / "rows.csv", row(1, "a"), row(1, "a")), tmp_path / "out"
    ended = bulk(file, "--out", out)
    assert (ended.status, received(served), words(out)) == (0, [e164(1)], ["sent", "skipped"])
    assert summary(ended.out)["skipped"] == "1"


def test_without_a_journal_everything_is_sent_again(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """Nothing is kept where nobody asked for it."""
    file = campaign(tmp_path / "rows.csv", 2)
    assert bulk(file).status == bulk(file).status == 0
    assert (posts(served), [*tmp_path.iterdir()]) == (4, [file])


def test_doubtful_rows_are_named_and_not_sent_again(
    bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path
) -> None:
    """What an earlier run left in doubt stays unknown until somebody decides, and says what can be done."""
    file, journal = in_doubt
    written(file, row(1), row(2), row(3))
    out = tmp_path / "out"
    again = bulk(file, "--journal", journal, "--out", out)
    assert (again.status, words(out)) == (1, ["unknown", "unknown", "sent"])
    assert received(served) == [e164(1), e164(2), e164(3)]
    assert again.err == "oca-sms: 2 of 3 rows failed, 2 may have been sent: --reconcile looks them up\n"
    assert summary(again.out)["unknown"].startswith("2 ")


def test_lost_answer_leaves_a_row_unknown(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """The run that loses an answer says so itself."""
    served.faults = {"accept-then-drop": 1.0}
    out = tmp_path / "out"
    ended = bulk(campaign(tmp_path / "rows.csv", 1), "--out", out)
    [line] = outcomes(out)
    assert (ended.status, line["outcome"], line["attempts"], line["code"]) == (1, "unknown", 1, None)


def test_no_advice_that_sends_everything_again(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """Without a journal `--reconcile` cannot look anything up, and a new one would know of nothing sent."""
    served.faults = {"accept-then-drop": 1.0}
    ended = bulk(campaign(tmp_path / "rows.csv", 1))
    assert ended.status == 1
    assert "1 may have been sent" in ended.err
    assert "--reconcile" not in ended.err


def test_reconcile_finds_what_was_sent(
    bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path
) -> None:
    """Doubtful rows that are in the gateway's history are sent, under the id that they have there."""
    file, journal = in_doubt
    out = tmp_path / "out"
    ended = bulk(file, "--journal", journal, "--out", out, "--reconcile")
    assert (ended.status, posts(served)) == (0, 2)
    assert "2 found in the gateway's history, 0 still in doubt" in ended.out
    ids = {it.phone: it.msg_uid for it in served.inbox}
    assert [(it["outcome"], it["msg_uid"]) for it in outcomes(out)] == [("sent", ids[e164(1)]), ("sent", ids[e164(2)])]


def test_reconcile_that_finds_nothing_proves_nothing(
    bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path
) -> None:
    """Rows that the history does not have stay in doubt, and are not sent again."""
    file, journal = in_doubt
    served.inbox.clear()
    out = tmp_path / "out"
    ended = bulk(file, "--journal", journal, "--out", out, "--reconcile")
    assert (ended.status, posts(served), words(out)) == (1, 0, ["unknown", "unknown"])
    assert "0 found in the gateway's history, 2 still in doubt" in ended.out


def test_reconcile_without_an_answer_sends_nothing(
    bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path
) -> None:
    """Where the account is refused the history, the command ends before it sends."""
    file, journal = in_doubt
    served.expired = True
    ended = bulk(file, "--journal", journal, "--out", tmp_path / "out", "--reconcile")
    assert ended == (3, "", "oca-sms: the account has expired (HTTP 401, code 51)\n")
    assert not (tmp_path / "out").exists()


def test_resend_unknown_sends_again(bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path) -> None:
    """Told to, the command sends doubtful rows again, counts them, and says that they took two attempts."""
    file, journal = in_doubt
    out = tmp_path / "out"
    ended = bulk(file, "--journal", journal, "--out", out, "--resend-unknown")
    assert (ended.status, posts(served)) == (0, 4)
    told = summary(ended.out)
    assert [told[name].split()[0] for name in ("sent", "resent", "retried")] == ["2", "2", "2"]
    assert [(it["outcome"], it["attempts"]) for it in outcomes(out)] == [("sent", 2), ("sent", 2)]


def test_resent_rows_are_counted_when_the_run_stops(
    bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path
) -> None:
    """That a stopped run sent doubtful rows again is told as well as by one that came to its end."""
    file, journal = in_doubt
    served.quota = 1
    ended = bulk(file, "--journal", journal, "--resend-unknown", "--concurrency", "1")
    assert (ended.status, posts(served)) == (3, 4)
    assert summary(ended.out)["resent"].split()[0] == "2"


@pytest.mark.parametrize("option", ["--reconcile", "--resend-unknown"])
def test_what_is_about_an_earlier_run_needs_its_journal(
    bulk: Bulk, served: Sandbox, tmp_path: Path, option: str
) -> None:
    """Without `--journal` there is no earlier run, so the command was meant otherwise."""
    ended = bulk(campaign(tmp_path / "rows.csv", 1), option)
    line = "oca-sms: --reconcile and --resend-unknown need the --journal of the earlier run\n"
    assert (ended, posts(served)) == ((2, "", line), 0)


def test_journal_in_use_is_one_line(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """While another run has the journal nothing is sent."""
    journal = tmp_path / "journal"
    with contextlib.closing(Store(journal)):
        ended = bulk(campaign(tmp_path / "rows.csv", 1), "--journal", journal)
    assert (ended.status, ended.out, posts(served)) == (2, "", 0)
    reason = "another run uses it: wait for the end of that run"
    assert ended.err == f"oca-sms: the journal {journal} cannot be used: {reason}\n"


def _damaged(journal: Path) -> None:
    content = bytearray(journal.read_bytes())
    content[200:] = b"\xa5" * len(content[200:])
    journal.write_bytes(content)


def _foreign(journal: Path) -> None:
    journal.write_text("what somebody else keeps here " * 50, encoding="utf-8")


def _directory(journal: Path) -> None:
    journal.unlink()
    journal.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_damaged, "it is damaged"),
        (_foreign, "it is no journal"),
        (_directory, "it is a folder"),
    ],
)
def test_journal_that_cannot_be_used_is_one_line(
    bulk: Bulk, served: Sandbox, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    """A file that is no journal, or no longer one, ends the command before it sends or writes anything."""
    file, journal, out = campaign(tmp_path / "rows.csv", 1), tmp_path / "journal", tmp_path / "out"
    assert bulk(file, "--journal", journal).status == 0
    spoil(journal)
    ended = bulk(file, "--journal", journal, "--out", out)
    assert (ended.status, ended.out, posts(served), out.exists()) == (2, "", 1, False)
    assert ended.err.startswith(f"oca-sms: the journal {journal} cannot be used: {reason}")
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("spoil", [_foreign, _directory])
def test_what_is_no_journal_keeps_its_mode(bulk: Bulk, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """A mistyped `--journal` must not shut others out of a file, nor everybody out of a directory."""
    journal = tmp_path / "journal"
    journal.touch()
    spoil(journal)
    journal.chmod(0o755)
    assert bulk(campaign(tmp_path / "rows.csv", 1), "--journal", journal).status == 2
    assert journal.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("file", "arguments"),
    [
        ("rows.csv", ("--journal", "rows.csv")),
        ("rows.csv", ("--out", "./rows.csv")),
        ("rows.csv", ("--journal", "same", "--out", "same")),
        ("rows.csv", ("--out", "sub/../rows.csv")),
        ("link.csv", ("--out", "rows.csv")),
        ("rows.csv", ("--journal", "link.csv")),
    ],
)
def test_files_must_differ(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, arguments: tuple[str, ...]
) -> None:
    """FILE, `--journal` and `--out` are three files, by whatever path they are named; FILE is as it was."""
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("link.csv").symlink_to("rows.csv")
    content = campaign(Path("rows.csv"), 1).read_bytes()
    ended = bulk(file, *arguments)
    assert Path("rows.csv").read_bytes() == content
    assert ended == (2, "", "oca-sms: FILE, --journal and --out must be different files\n")
    assert posts(served) == 0


def test_out_does_not_take_a_file_of_the_users(bulk: Bulk, tmp_path: Path) -> None:
    """FILE outlives the command, even if it has the name under which `--out` begins."""
    file = campaign(tmp_path / ".out.oca-sms", 1)
    content = file.read_bytes()
    bulk(file, "--out", tmp_path / "out")
    assert file.exists()
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--rate", "1000"), (1000.0, False, 32)),
        (("--rate", "500", "--concurrency", "7", "--retry-unsent"), (500.0, True, 7)),
    ],
)
def test_options_reach_the_client(
    bulk: Bulk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: tuple[float, bool, int],
) -> None:
    """Rate, retries and concurrency are those of the client that sends, and the waits are its own."""
    seen = []
    original = AsyncOcaSms.bulk

    def spied(self: AsyncOcaSms, *given: Any, **options: Any) -> Any:
        limiter: Any = self._dispatcher._limiter
        seen.append((limiter.rate, self._dispatcher._policy, options["concurrency"]))
        return original(self, *given, **options)

    monkeypatch.setattr(AsyncOcaSms, "bulk", spied)
    assert bulk(campaign(tmp_path / "rows.csv", 40), *arguments).status == 0
    rate, retry_unsent, concurrency = expected
    assert seen == [(rate, RetryPolicy(retry_unsent=retry_unsent), concurrency)]


def test_rate_is_22_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The default keeps clear of the gateway's limit."""
    assert run(["bulk", str(campaign(tmp_path / "rows.csv", 44)), "--dry-run"]) == 0
    assert summary(capsys.readouterr().out)["time"] == "2 s at 22/s"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--rate", "0"), "--rate must be > 0"),
        (("--rate", "-1"), "--rate must be > 0"),
        (("--rate", "nan"), "--rate must be <= 1000000.0"),
        (("--rate", "many"), "--rate cannot be read"),
        (("--concurrency", "0"), "--concurrency must be >= 1"),
        (("--concurrency", "few"), "--concurrency cannot be read"),
        (("--rate", "5", "--journal"), "--journal is missing"),
        (("--no-skip-invalid",), "unknown option; a text that begins with a hyphen needs a -- before it"),
    ],
)
def test_bad_values_are_bad_usage(
    bulk: Bulk, served: Sandbox, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    """What no run can work with is a 2 before anything is sent."""
    ended = bulk(campaign(tmp_path / "rows.csv", 1), *arguments)
    assert (ended.status, ended.out, posts(served)) == (2, "", 0)
    assert ended.err == f"oca-sms: {reason}; see oca-sms bulk --help\n"


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_rate_without_an_end_is_bad_usage(bulk: Bulk, served: Sandbox, tmp_path: Path, dry: tuple[str, ...]) -> None:
    """Infinity is above 0, and yet no rate."""
    ended = bulk(campaign(tmp_path / "rows.csv", 1), "--rate", "inf", *dry)
    assert (ended.status, posts(served)) == (2, 0)
    assert "rate" in ended.err


def test_progress_without_a_terminal_is_plain_lines(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """A line for every 50 outcomes and one at the end, each with all counts and no control character."""
    served.refused_numbers = [phone(7)]
    ended = bulk(campaign(tmp_path / "rows.csv", 120), "--rate", "5000")
    found = re.findall(
        r"^(\d+)/120: (\d+) sent, (\d) failed, 0 unknown, 0 retried, [0-9.]+/s$", ended.out, re.MULTILINE
    )
    assert [int(done) for done, _, _ in found] == [50, 100, 120]
    assert found[-1] == ("120", "119", "1")
    assert all(line.isprintable() for line in ended.out.split("\n"))


def test_progress_of_a_long_file_is_about_a_hundred_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """However many outcomes there are, the log stays short, and its last line has them all."""
    sms = Sms(e164(1), text(1))
    with shown(Tally(total=12_345)) as note:
        for _ in range(12_345):
            note(Sent(sms, SendReceipt("uid", "sent")))
    lines = capsys.readouterr().out.splitlines()
    assert 90 <= len(lines) <= 102
    assert lines[-1].startswith("12345/12345: 12345 sent, ")


def test_progress_on_a_terminal_is_a_bar(served: Sandbox, tmp_path: Path) -> None:
    """On a terminal there is a bar with the counts, the rate and the time left, and then the summary."""
    served.refused_numbers = [phone(7)]
    file = campaign(tmp_path / "rows.csv", 60)
    ended = on_terminal(["bulk", str(file), "--rate", "100"], environment(COLUMNS="140", **account(served)))
    assert_no_secret(ended.out)
    assert ended.status == 1
    assert "━" in ended.out
    assert len(set(re.findall(r"(\d+)/60", ended.out))) > 1
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", ended.out)
    assert re.search(r"60/60 59 sent, 1 failed, 0 unknown, 0 retried, [0-9.]+/s +0:00:00", plain)
    assert summary(plain)["sent"] == "59"
    assert plain.splitlines()[-1] == "oca-sms: 1 of 60 rows failed"


def test_progress_on_a_dumb_terminal_is_plain_lines(served: Sandbox, tmp_path: Path) -> None:
    """A terminal that cannot move its cursor gets lines, as a file would."""
    env = environment(**account(served)) | {"TERM": "dumb"}
    ended = on_terminal(["bulk", str(campaign(tmp_path / "rows.csv", 1))], env)
    assert ended.status == 0
    assert "━" not in ended.out
    assert re.search(r"^1/1: 1 sent, 0 failed, 0 unknown, 0 retried, [0-9.]+/s\r$", ended.out, re.MULTILINE)


def test_ctrl_c_on_a_terminal_stops_and_gives_the_cursor_back(served: Sandbox, tmp_path: Path) -> None:
    """On a terminal, too, Ctrl-C ends in the summary and the command to go on with, outside the bar."""
    file, journal, out = campaign(tmp_path / "rows.csv", 400), tmp_path / "journal", tmp_path / "out"
    command = ["bulk", str(file), "--journal", str(journal), "--out", str(out), "--rate", "100"]
    ended = on_terminal(command, environment(COLUMNS="140", **account(served)), {r"[1-9]\d?/400": CTRL_C})
    assert_no_secret(ended.out)
    assert ended.status == 130
    counted = Counter(words(out))
    assert counted == {"sent": len(served.inbox), "skipped": 400 - len(served.inbox)}
    assert resumed_by(ended.out.replace("\r", "")) == command
    assert "\x1b[?25h" in ended.out
    assert "Traceback" not in ended.out


def test_respelt_recipient_is_pointed_out_before_sending(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """A recipient in another spelling is named by both rows; in the same spelling, or another one, he is not."""
    spelt = [phone(1), phone(2), phone(1), e164(1), f"62{phone(2)[1:]}", phone(3)]
    file = written(tmp_path / "rows.csv", *(f"{it},{text(at)}," for at, it in enumerate(spelt)), f"{phone(4)},,")
    ended = bulk(file)
    assert (ended.status, posts(served)) == (2, 0)
    assert ended.err.splitlines()[:-1] == [
        "oca-sms: row 7: message must be a str that is not blank",
        "oca-sms: row 4: the same recipient as in row 1, in another spelling",
        "oca-sms: row 5: the same recipient as in row 2, in another spelling",
    ]


@pytest.mark.parametrize("count", [10, 11])
def test_many_respelt_recipients_are_counted(bulk: Bulk, tmp_path: Path, count: int) -> None:
    """Ten rows are pointed out one by one, and where there are more, how many there are."""
    rows = [f"{spelling(number)},{text(number)}," for number in range(count) for spelling in (phone, e164)]
    ended = bulk(written(tmp_path / "rows.csv", *rows))
    lines = ended.err.splitlines()
    assert (ended.status, lines[9]) == (0, "oca-sms: row 20: the same recipient as in row 19, in another spelling")
    rest = ["oca-sms: 11 rows name a recipient of an earlier row in another spelling"]
    assert lines[10:] == rest * (count > 10)


class Held:
    """A way to a sandbox on which every message is delivered, and answered when somebody says so."""

    def __init__(self, sandbox: Sandbox) -> None:
        sandbox.username, sandbox.password = USERNAME, PASSWORD
        self.sandbox = sandbox
        self.released = asyncio.Event()
        self.gateway = RawGateway(self.answer)

    async def answer(self, connection: Connection) -> None:
        """Deliver the message, and answer once that is allowed."""
        answer = answer_of(self.sandbox, connection)
        await self.released.wait()
        await connection.write(answer)

    def environment(self) -> dict[str, str]:
        """Return what a command needs that is to take this way."""
        return environment(**account(self.sandbox) | {"OCA_SMS_BASE_URL": self.gateway.base_url})


async def told(process: Process, word: str) -> str:
    """Return what a process writes to standard error, up to the first line with this word."""
    assert process.stderr is not None
    lines = list[str]()
    while not lines or word not in lines[-1]:
        line = await asyncio.wait_for(process.stderr.readline(), PATIENCE)
        assert line, "".join(lines)
        lines.append(line.decode())
    return "".join(lines)


async def interrupted(held: Held, command: Collection[str], times: int = 1) -> Ended:
    """Start a command, interrupt it so many times once three messages are on the wire, and return how it ended.

    The answers come after the first interruption if it is the only one, and never otherwise.
    """
    async with held.gateway.serve(), started(*command, env=held.environment()) as process:
        await asyncio.wait_for(held.gateway.has_read(3), PATIENCE)
        process.send_signal(signal.SIGINT)
        said = await told(process, "stopping")
        if times == 1:
            held.released.set()
        for _ in range(times - 1):
            process.send_signal(signal.SIGINT)
        ended = await end_of(process)
    assert_no_secret(said + ended.out + ended.err)
    assert said == "oca-sms: stopping: what is on the wire may end; Ctrl-C once more does not wait for it\n"
    assert len(ended.err.splitlines()) == 1
    return ended


async def test_first_ctrl_c_lets_what_is_on_the_wire_end(sandbox: Sandbox, tmp_path: Path) -> None:
    """Nothing more is pulled, what was on the wire is sent, the rest skipped; the line it prints finishes the rest."""
    held, out = Held(sandbox), tmp_path / "my out"
    file = campaign(tmp_path / "it's rows.csv", 12)
    command = ["bulk", str(file), "--journal", str(tmp_path / "journal"), "--out", str(out), "--concurrency", "3"]
    command += FAST
    ended = await interrupted(held, command)
    assert ended.status == 130
    assert words(out) == ["sent"] * 3 + ["skipped"] * 9
    assert posts(sandbox) == 3
    counts = summary(ended.out)
    assert [counts[name].split()[0] for name in ("sent", "failed", "unknown", "skipped")] == ["3", "0", "0", "9"]
    assert ended.err.startswith("oca-sms: interrupted, with 9 of 12 rows not sent; go on with: oca-sms bulk ")
    assert resumed_by(ended.err) == command
    async with started(*resumed_by(ended.err), env=environment(**account(sandbox))) as process:
        again = await end_of(process)
    assert (again.status, again.err, words(out)) == (0, "", ["sent"] * 12)
    assert received(sandbox) == [e164(number) for number in range(1, 13)]


async def test_second_ctrl_c_does_not_wait(sandbox: Sandbox, tmp_path: Path) -> None:
    """What is on the wire is unknown then, every row has its line all the same, and `--reconcile` finishes."""
    held, out = Held(sandbox), tmp_path / "out"
    file = campaign(tmp_path / "rows.csv", 12)
    command = ["bulk", str(file), "--journal", str(tmp_path / "journal"), "--out", str(out), "--concurrency", "3"]
    command += FAST
    ended = await interrupted(held, command, 2)
    assert (ended.status, words(out)) == (130, ["unknown"] * 3 + ["skipped"] * 9)
    assert "interrupted, with 9 of 12 rows not sent" in ended.err
    for arguments, status, outcome in ((command, 1, "unknown"), ([*command, "--reconcile"], 0, "sent")):
        async with started(*arguments, env=environment(**account(sandbox))) as process:
            assert (await end_of(process)).status == status
        assert words(out) == [outcome] * 3 + ["sent"] * 9
        assert received(sandbox) == [e164(number) for number in range(1, 13)]


async def test_rows_of_earlier_runs_have_their_line_after_ctrl_c(sandbox: Sandbox, tmp_path: Path) -> None:
    """Rows that were sent earlier, cannot be sent, or repeat a key have one line each in an interrupted run as well."""
    held, out = Held(sandbox), tmp_path / "out"
    journal = ("--journal", str(tmp_path / "journal"))
    rows = [row(number) for number in range(1, 7)] + [row(7, "seven")] * 2
    before = written(tmp_path / "before.csv", *rows[1::4])
    async with started("bulk", str(before), *journal, *FAST, env=environment(**account(sandbox))) as process:
        assert (await end_of(process)).status == 0
    file = written(tmp_path / "rows.csv", *rows[:2], f"{phone(8)},,", *rows[2:])
    command = ["bulk", str(file), *journal, "--out", str(out), "--concurrency", "3", "--skip-invalid"]
    async with held.gateway.serve(), started(*command, env=held.environment()) as process:
        await asyncio.wait_for(held.gateway.has_read(3), PATIENCE)
        process.send_signal(signal.SIGINT)
        await told(process, "stopping")
        held.released.set()
        ended = await end_of(process)
    assert ended.status == 130
    assert words(out) == ["sent", "sent", "failed", "sent", "sent", "skipped", "sent", "skipped", "skipped"]


async def test_ctrl_c_without_a_journal_is_no_resume(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where nothing was kept, the user is warned of the command that he just typed."""
    ended = await interrupted(
        Held(sandbox), ["bulk", str(campaign(tmp_path / "rows.csv", 9)), "--concurrency", "3", *FAST]
    )
    line = "interrupted, with 6 of 9 rows not sent; without --journal, the same command would send everything again"
    assert (ended.status, ended.err) == (130, f"oca-sms: {line}\n")


async def test_ctrl_c_means_others_where_it_is_ignored(sandbox: Sandbox, tmp_path: Path) -> None:
    """In a shell's background Ctrl-C is for somebody else, and the run goes on to its end."""
    held = Held(sandbox)
    command = ["bulk", str(campaign(tmp_path / "rows.csv", 5)), "--concurrency", "3", *FAST]
    code = HEEDS_NO_CTRL_C + MAIN
    async with held.gateway.serve(), started(*command, env=held.environment(), code=code) as process:
        await asyncio.wait_for(held.gateway.has_read(3), PATIENCE)
        process.send_signal(signal.SIGINT)
        held.released.set()
        ended = await end_of(process)
    assert (ended.status, ended.err, len(sandbox.inbox)) == (0, "", 5)


def waits_for_more(pid: int, pipe: int) -> bool:
    """Tell whether a process has read all that was written, and sleeps."""
    unread = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return unread == bytes(4) and sleeps(pid)


async def test_ctrl_c_before_anything_is_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    """While the file is still being read, Ctrl-C ends the command in its one line."""
    fifo = tmp_path / "rows"
    os.mkfifo(fifo)
    async with started("bulk", str(fifo), env=environment(**account(sandbox))) as process:
        with await asyncio.to_thread(fifo.open, "wb", buffering=0) as writer:
            await asyncio.to_thread(writer.write, b"\n")
            while not waits_for_more(process.pid, writer.fileno()):
                await asyncio.sleep(0)
            process.send_signal(signal.SIGINT)
            assert await end_of(process) == (130, "", "oca-sms: interrupted\n")


def test_ctrl_c_while_the_rest_is_noted_is_no_traceback(
    bulk: Bulk, portal: BlockingPortal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who presses again when everything on the wire has ended gets the exit status of an interruption all the same."""
    presses = list[str]()
    original = _campaign.Campaign._note_rest

    def press(where: str) -> None:
        presses.append(where)
        os.kill(os.getpid(), signal.SIGINT)

    async def pressed_before_the_answer(connection: Connection) -> None:
        press("on the wire")
        await receipt(connection)

    async def pressed_again(*given: Any) -> None:
        press("noting the rest")
        await asyncio.sleep(0)
        await original(*given)

    monkeypatch.setattr(_campaign.Campaign, "_note_rest", pressed_again)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with portal.wrap_async_context_manager(RawGateway(pressed_before_the_answer).serve()) as gateway:
            monkeypatch.setenv("OCA_SMS_BASE_URL", gateway.base_url)
            ended = bulk(campaign(tmp_path / "rows.csv", 400), "--concurrency", "1")
    finally:
        signal.signal(signal.SIGINT, before)
    assert presses[-1] == "noting the rest"
    assert ended.status == 130


async def test_printed_command_keeps_a_template_of_several_lines(sandbox: Sandbox, tmp_path: Path) -> None:
    """The command to go on with has the texts as they were typed, or each message would be another one."""
    held = Held(sandbox)
    file = written(tmp_path / "rows.csv", *(f"{phone(number)},{number}" for number in range(1, 7)), header="phone,code")
    journal = str(tmp_path / "journal")
    command = ["bulk", str(file), "--template", "Acme\u00a0👩\u200d💻:\n{code}", "--journal", journal]
    command += ["--concurrency", "3", *FAST]
    ended = await interrupted(held, command)
    [line] = re.findall(r"; go on with: oca-sms (.*)$", ended.err, re.MULTILINE | re.DOTALL)
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", f'printf "%s\\0" {line}', stdout=asyncio.subprocess.PIPE, env=environment(LC_ALL="C.UTF-8")
    )
    said, _ = await shell.communicate()
    assert said.decode().split("\0")[:-1] == command


def test_stop_by_the_quota(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """A used-up quota ends the run with a 3 that names it; the rest is skipped, and sent when there is quota again."""
    served.quota = 2
    file, out = campaign(tmp_path / "rows.csv", 6), tmp_path / "out"
    command = (file, "--journal", tmp_path / "journal", "--out", out, "--concurrency", "1")
    ended = bulk(*command)
    assert (ended.status, words(out)) == (3, ["sent"] * 2 + ["failed"] + ["skipped"] * 3)
    assert [it["code"] for it in outcomes(out)] == [None, None, 55, 55, 55, 55]
    reason = "stopped: the account's quota is used up (HTTP 401, code 55); 3 of 6 rows not sent"
    assert ended.err.startswith(f"oca-sms: {reason}; go on with: oca-sms bulk ")
    assert resumed_by(ended.err) == ["bulk", *map(str, command), *FAST]
    served.quota = None
    assert bulk(*command).status == 0
    assert (words(out), received(served)) == (["sent"] * 6, [e164(number) for number in range(1, 7)])


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"expired": True}, "the account has expired (HTTP 401, code 51)"),
        ({"password": "another"}, "the gateway refused the username or the password (HTTP 401, code 17)"),
    ],
)
def test_stop_by_the_account(
    bulk: Bulk, served: Sandbox, tmp_path: Path, knobs: dict[str, object], reason: str
) -> None:
    """An account that is refused stops the run at once, whatever the file's length."""
    for name, value in knobs.items():
        setattr(served, name, value)
    out = tmp_path / "out"
    ended = bulk(campaign(tmp_path / "rows.csv", 600), "--out", out, "--concurrency", "1")
    assert (ended.status, words(out)) == (3, ["failed"] + ["skipped"] * 599)
    rest = "599 of 600 rows not sent; without --journal, the same command would send everything again"
    assert ended.err == f"oca-sms: stopped: {reason}; {rest}\n"


def test_stop_by_an_outage(bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    """Where nobody listens, the run stops with a 3 that says so, and every row has its line."""
    monkeypatch.setenv("OCA_SMS_BASE_URL", f"http://127.0.0.1:{unused_tcp_port}/api/v1")
    out = tmp_path / "out"
    ended = bulk(campaign(tmp_path / "rows.csv", 8), "--out", out, "--concurrency", "2")
    assert (ended.status, Counter(words(out))) == (3, {"failed": 2, "skipped": 6})
    assert ended.err.startswith("oca-sms: stopped: no connection to the gateway came about: Connection refused; 6 of 8")


def test_an_outage_of_fewer_rows_than_go_at_once_is_one_too(
    bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    """A short file meets an outage as a long one does: a 3, and not a file of failures."""
    monkeypatch.setenv("OCA_SMS_BASE_URL", f"http://127.0.0.1:{unused_tcp_port}/api/v1")
    ended = bulk(campaign(tmp_path / "rows.csv", 3))
    assert (ended.status, "stopped: no connection to the gateway" in ended.err) == (3, True)


def test_stop_keeps_what_earlier_runs_know(
    bulk: Bulk, served: Sandbox, in_doubt: tuple[Path, Path], tmp_path: Path
) -> None:
    """Rows behind the one that stopped the run are told as the journal knows them, each once."""
    file, journal = in_doubt
    assert bulk(written(tmp_path / "sent.csv", row(5)), "--journal", journal).status == 0
    written(file, row(3), row(1), row(5), row(4), row(2), "x,y,z")
    served.quota = 0
    out = tmp_path / "out"
    ended = bulk(file, "--journal", journal, "--out", out, "--concurrency", "1", "--skip-invalid")
    assert ended.status == 3
    assert words(out) == ["failed", "unknown", "sent", "skipped", "unknown", "failed"]


def test_stop_by_the_journal_is_a_stop(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that fails under way ends the run with a 3 that names it, and nothing more is sent."""
    sync = os.fsync

    def fail_later(descriptor: int) -> None:
        if served.inbox:
            raise OSError(errno.ENOSPC, "")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_later)
    journal = tmp_path / "journal"
    ended = bulk(campaign(tmp_path / "rows.csv", 4), "--journal", journal, "--concurrency", "1")
    assert (ended.status, len(served.inbox)) == (3, 1)
    assert ended.err.startswith(f"oca-sms: stopped: the journal {journal} cannot be used: the disk is full: ")
    assert "; 3 of 4 rows not sent; " in ended.err


def test_help_tells_the_exit_statuses(bulk: Bulk) -> None:
    """Scripts find every exit status of this command in its help."""
    shown_help = " ".join(re.sub(r"[│╭╮╰╯─]", " ", bulk("--help").out).split())
    statuses = "0 all sent, 1 some failed or unknown, 2 bad usage or input, 3 stopped by the account or an outage,"
    assert f"Exit status: {statuses} 130 interrupted." in shown_help


@pytest.mark.parametrize("file", ["-", "rows.csv"])
def test_missing_credentials_are_bad_usage(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Where standard input is the file there is nobody to ask, and the line names what is missing."""
    monkeypatch.chdir(tmp_path)
    campaign(Path("rows.csv"), 1)
    monkeypatch.delenv("OCA_SMS_PASSWORD")
    line = "oca-sms: no terminal to ask on, and not set in the environment: OCA_SMS_PASSWORD\n"
    assert bulk(file, "--journal", "journal", "--out", "out", stdin=CSV) == (2, "", line)
    assert [it.name for it in Path().iterdir()] == ["rows.csv"]
    assert posts(served) == 0


async def test_closed_standard_input_is_bad_usage() -> None:
    """A shell that closed standard input leaves nothing to read, and one line."""
    code = "import sys; sys.stdin = None\n" + HEEDS_CTRL_C + MAIN
    async with started("bulk", "-", "--dry-run", env=environment(), code=code) as process:
        ended = await end_of(process)
    assert (ended.status, len(ended.err.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the file is empty: write one message a row, under a line that names the columns"),
        ("\ufeff\n", "the file is empty: write one message a row, under a line that names the columns"),
        (f"{phone(1)},{text(1)}\n", "the first line has to name the columns, in the same case, and does not name"),
        (f"phone;message\n{phone(1)};{text(1)}\n", "the first line is not separated by commas"),
    ],
)
def test_file_that_cannot_be_used(bulk: Bulk, served: Sandbox, tmp_path: Path, content: str, reason: str) -> None:
    """A file without a usable beginning is named in one line, with what to do."""
    file, out = tmp_path / "rows.csv", tmp_path / "out"
    file.write_text(content, encoding="utf-8")
    ended = bulk(file, "--out", out)
    assert (ended.status, ended.out, posts(served), out.exists()) == (2, "", 0, False)
    assert ended.err.startswith(f"oca-sms: {file}: {reason}")
    assert len(ended.err.splitlines()) == 1


def test_header_without_rows_is_done(bulk: Bulk, tmp_path: Path) -> None:
    """A file that names its columns and has no row has nothing to send, and its `--out` no line."""
    out = tmp_path / "out"
    ended = bulk(written(tmp_path / "rows.csv"), "--out", out)
    assert (ended.status, ended.err, out.read_text(), summary(ended.out)["sent"]) == (0, "", "", "0")


@pytest.mark.parametrize(("name", "reason"), [("nowhere", "No such file or directory"), (".", "Is a directory")])
def test_file_that_cannot_be_read(
    bulk: Bulk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    """A FILE that is not there, or none, is one line."""
    monkeypatch.chdir(tmp_path)
    assert bulk(name, "--journal", "journal") == (2, "", f"oca-sms: {name} cannot be read: {reason}\n")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("out", "reason"),
    [("nowhere/out", "No such file or directory"), ("rows.csv/out", "Not a directory")],
)
def test_out_that_cannot_be_written(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, reason: str
) -> None:
    """An `--out` that cannot be made is found before anything is sent."""
    monkeypatch.chdir(tmp_path)
    ended = bulk(campaign(Path("rows.csv"), 1), "--out", out)
    assert (ended, posts(served)) == ((2, "", f"oca-sms: {out} cannot be written: {reason}\n"), 0)


@pytest.mark.parametrize("out", ["", ".", "sub"])
def test_out_that_is_no_file(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    """A directory, or an empty variable of a script, is bad usage that leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    ended = bulk(campaign(Path("rows.csv"), 1), "--out", out)
    assert (ended.status, len(ended.err.splitlines()), posts(served)) == (2, 1, 0)
    assert sorted(it.name for it in Path().iterdir()) == ["rows.csv", "sub"]


def test_out_on_a_disk_that_fills_up(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When an outcome cannot be written the run stops in one line, and what it sent is not sent again."""
    original = _out.OutcomesFile.write

    def full(self: _out.OutcomesFile, line: _rows.RowSms | _rows.BadRow, *given: Any, **more: Any) -> None:
        if line.row > 2:
            raise OSError(28, "No space left on device")
        original(self, line, *given, **more)

    file, journal, out = campaign(tmp_path / "rows.csv", 50), tmp_path / "journal", tmp_path / "out"
    command = (file, "--journal", journal, "--out", out, "--concurrency", "1")
    with monkeypatch.context() as patch:
        patch.setattr(_out.OutcomesFile, "write", full)
        ended = bulk(*command)
    assert ended.status == 1
    assert ended.err == "oca-sms: the output could not be written: No space left on device\n"
    assert len(served.inbox) < 50
    assert bulk(*command).status == 0
    assert received(served) == [e164(number) for number in range(1, 51)]


def test_file_that_shrinks_between_the_passes(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are gone when their turn comes are not sent and have no line, and the change is told."""
    file, out = campaign(tmp_path / "rows.csv", 4), tmp_path / "out"
    original = _campaign.Campaign.rebuild

    async def meddled(self: _campaign.Campaign, outcomes_file: _out.OutcomesFile) -> None:
        await original(self, outcomes_file)
        campaign(file, 2)

    monkeypatch.setattr(_campaign.Campaign, "rebuild", meddled)
    ended = bulk(file, "--out", out)
    assert (ended.status, received(served), words(out)) == (0, [e164(1), e164(2)], ["sent", "sent"])
    assert "the file changed while it was sent" in ended.err


def test_file_that_changes_before_anything_is_sent(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was checked is not what would be sent, so nothing is."""
    file, original = campaign(tmp_path / "rows.csv", 4), _bulk._surveyed

    async def meddled(*arguments: Any) -> Any:
        survey = await original(*arguments)
        campaign(file, 2)
        return survey

    monkeypatch.setattr(_bulk, "_surveyed", meddled)
    ended = bulk(file)
    assert (ended.status, posts(served)) == (2, 0)
    assert "changed" in ended.err


def test_file_that_breaks_off_after_something_was_sent(
    bulk: Bulk, served: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 2 proves that nothing was sent, so this is another; the journal knows how to go on."""
    original = _campaign._Pulled.__next__

    def broken(pulled: Any) -> Any:
        if pulled.last == 4:
            raise _rows.InputError("the file cannot be read: Input/output error")
        return original(pulled)

    monkeypatch.setattr(_campaign._Pulled, "__next__", broken)
    ended = bulk(campaign(tmp_path / "rows.csv", 9), "--journal", tmp_path / "journal", "--concurrency", 1)
    assert (ended.status, len(served.inbox)) == (1, 4)
    assert "cannot be read" in ended.err
    assert "4 rows were sent" in ended.err
    assert resumed_by(ended.err)


def test_journal_is_given_back(bulk: Bulk, served: Sandbox, tmp_path: Path) -> None:
    """After a command its journal is one private file, without a number or a text in it, and free for the next."""
    journal = tmp_path / "journal"
    assert bulk(written(tmp_path / "rows.csv", row(1, phone(1))), "--journal", journal).status == 0
    content = journal.read_bytes()
    assert not any(it.encode() in content for it in (SUBSCRIBERS, "marker", PASSWORD, USERNAME))
    assert journal.stat().st_mode & 0o777 == 0o600
    assert sorted(it.name for it in tmp_path.iterdir()) == ["journal", "rows.csv"]
    with contextlib.closing(Store(journal)):
        assert len(served.inbox) == 1

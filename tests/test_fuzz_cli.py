"""Random arguments and random files end in a documented exit status, and never in a traceback."""

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from in_memory import Answer, Gateway, refuse, respond, take_turns

from oca_sms_async import TokenBucket, Unlimited, _dispatch
from oca_sms_async.cli import _bulk
from oca_sms_async.cli._app import _parse, run
from oca_sms_async.cli._endings import CommandError, ExitStatus
from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._layout import Layout
from oca_sms_async.cli._rows import BadRow, read_rows

PHONE, SECRET = "081381475159", "Rahasia-482913"
MARKERS = ("Rahasia", "482913", "81381475159")  # no error about an argument or a row may hold one of these
PASSWORD = "s3cret-marker"


# --- arguments -------------------------------------------------------------------------------------------------------

RECORD = {"msg_uid": "d3a925", "phone_number": PHONE, "message_body": SECRET, "status": "s\ud83d\x1b[2J"}


def fail_to_connect(_: httpx.Request) -> httpx.Response:
    """Fail to connect, with a secret in the error."""
    raise httpx.ConnectError(SECRET)


accept = respond(200, {"status": "sent", "msg_uid": "d3a925\x1b[2J"})


def look_up(request: httpx.Request) -> httpx.Response:
    """Answer with one record, alone or in a history."""
    return httpx.Response(200, content=json.dumps([RECORD] if request.url.path.endswith("/sms") else RECORD))


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gateway:
    """A gateway for each command of this process, which runs in a directory of its own."""
    served = Gateway()
    monkeypatch.setattr(_dispatch, "own_client", lambda _: httpx.AsyncClient(transport=served))
    # A rate of one message in an hour is an argument like any other.
    monkeypatch.setattr(_bulk, "TokenBucket", lambda rate: (TokenBucket(rate=rate), Unlimited())[1])
    for name in [name for name in os.environ if name.startswith("OCA_SMS")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OCA_SMS_USERNAME", "a@example.com")
    monkeypatch.setenv("OCA_SMS_PASSWORD", PASSWORD)
    monkeypatch.chdir(tmp_path)
    return served


def lay_out(directory: Path) -> None:
    """Put two files and a directory in the directory, and delete everything else."""
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (directory / "good.csv").write_text(f"phone,message,code\n{PHONE},{SECRET},1\n{PHONE},b,\n")
    (directory / "bad.csv").write_text(f'phone,message\n{PHONE},\n0812ABC,{SECRET}\n"{SECRET}\n')
    (directory / "directory").mkdir()


words = st.sampled_from(
    [PHONE, SECRET, "hello", "", " ", "-", "--", "-5%", "[bold]", "{code}", "nan", "inf", "-1", "0"]
)
words |= st.sampled_from(["1", "1e-9", "1e400", "9" * 30, "true", "good.csv", "bad.csv", "directory", "missing", "."])
# An argument of a shell may hold any byte but zero. A byte that is not UTF-8 is half of a surrogate pair.
words |= st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=6)
words |= st.text(st.sampled_from("\udcff\udce9\x1b\x85\u202e\ufefféa-="), max_size=4)
NAMES = [
    *(
        "--help",
        "-h",
        "--version",
        "--expires-in",
        "--show-numbers",
        "--show-texts",
        "--limit",
        "--brand",
        "--template",
    ),
    *("--journal", "--out", "--rate", "--concurrency", "--retry-unsent", "--skip-invalid", "--reconcile"),
    *("--resend-unknown", "--dry-run", "--no-dry-run", "--port", "--host", "--username", "--options", "--unknown"),
]
options = st.sampled_from(NAMES) | st.builds("{}={}".format, st.sampled_from(NAMES), words)
tails = st.lists(words | options, max_size=6)
SENDING = st.tuples(st.just("send"), st.just(PHONE), words)
BULK = st.tuples(st.just("bulk"), st.sampled_from(["good.csv", "bad.csv", "-"]))
ASKING = st.sampled_from([("status", "a"), ("history",), ("check", SECRET), ("send",), ("bulk",), ("status",), ()])
commands = SENDING | BULK | ASKING
argument_lists = st.builds(lambda head, tail: [*head, *tail], commands, tails) | tails
answers = st.sampled_from(
    [
        None,
        None,
        refuse(406, 39, SECRET),
        refuse(401, 55, SECRET),
        refuse(404, 0, SECRET),
        refuse(502, 1, SECRET),
        fail_to_connect,
    ]
)
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(unhurried, max_examples=400)
@given(
    arguments=argument_lists,
    answer=answers,
    stdin=st.sampled_from([b"", b"\xff", f"phone,message\n{PHONE},{SECRET}".encode()]),
)
@example(arguments=["bulk", "good.csv", "--out", "out", "--journal", "journal"], answer=None, stdin=b"")
@example(arguments=["bulk", "-", "--concurrency", "9" * 30], answer=None, stdin=f"phone,message\n{PHONE},a".encode())
def test_any_arguments_end_in_a_documented_status(
    arguments: list[str],
    answer: Answer | None,
    stdin: bytes,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Any arguments end in a documented status, and errors in lines of our own, without a text, number or password.

    A 2 proves that nothing was sent.
    """
    if {"demo", "sandbox"}.intersection(arguments):
        return
    lay_out(tmp_path)
    gateway.script, gateway.lookup = take_turns(answer or accept), answer or look_up
    gateway.accepted.clear()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        patched.setattr(sys, "argv", ["oca-sms", *arguments])
        status = run(arguments)
    ended = capsys.readouterr()
    assert status in set(ExitStatus)
    assert not (status == ExitStatus.USAGE and gateway.accepted)
    assert all(line.startswith("oca-sms: ") for line in ended.err.splitlines())
    assert PASSWORD not in ended.out + ended.err
    if arguments[:1] != ["bulk"]:  # a file may have any name, and errors show it
        assert not [it for it in MARKERS if it in ended.err]


@unhurried
@given(st.sampled_from(["demo", "sandbox"]), tails)
def test_any_arguments_of_servers_are_taken_or_refused(command: str, tail: list[str]) -> None:
    """Any arguments of `demo` and `sandbox` are taken, or refused in one line with a 2."""
    try:
        asked: Any = _parse([command, *tail])
    except CommandError as error:
        asked = error
    if isinstance(asked, CommandError):
        assert asked.status == ExitStatus.USAGE
        assert not [it for it in MARKERS if it in str(asked)]
    else:
        assert callable(asked)


# --- files -----------------------------------------------------------------------------------------------------------

bits = st.sampled_from([SECRET.encode(), PHONE.encode(), b"phone", b"message", b"code", b"key", b"expires_at", b'{"'])
bits |= st.sampled_from(
    [b",", b'"', b'""', b"\n", b"\r\n", b"\r", b'":', b'"}', b": ", b"[", b"{", b"}", b"\0", b"\xff"]
)
bits |= st.sampled_from([b"\\ud83d", b"1e999", b"NaN", b"9" * 5000, b"[" * 3000, b"\xef\xbb\xbf", b"\xff\xfe", b"null"])
heads = st.sampled_from([b"", b"", b"phone,message,key,expires_at,code\n", b"phone,code\n", b'{"phone": "', b"{}\n"])


@settings(unhurried, max_examples=300)
@given(heads, st.lists(bits | st.binary(max_size=3), max_size=25).map(b"".join), st.sampled_from([None, "{code}"]))
def test_errors_about_any_file_do_not_quote_it(head: bytes, rest: bytes, template: str | None) -> None:
    """Any file becomes rows or errors, and no error about a row or the file quotes it."""
    errors = list[str]()
    try:
        for row in read_rows(io.BytesIO(head + rest), Layout(template=template)):
            errors.append(repr(row) + (row.reason if isinstance(row, BadRow) else ""))
    except InputError as error:
        errors.append(str(error))
    assert not [it for it in MARKERS for line in errors if it in line]

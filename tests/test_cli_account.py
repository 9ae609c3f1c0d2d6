"""The account of a command: its variables, its questions and its warnings, for each API."""

import base64
import getpass
import io
import json
import sys
from typing import Any

import pytest

from oca_sms_async.cli._app import run

NOWHERE = "http://127.0.0.1:1"
PHONE, TEXT = "+6281381475159", "Acme: 482913 is your code"
TOKEN = "opaque-token"
EXPIRED = f"a.{base64.urlsafe_b64encode(json.dumps({'exp': 0}).encode()).decode()}.c"
SEND = ["send", PHONE, TEXT]


class Terminal(io.StringIO):
    """A terminal on which these lines are typed."""

    def isatty(self) -> bool:
        """Be a terminal."""
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without an account, and with an address that no gateway listens on."""
    for name in ("API", "USERNAME", "PASSWORD", "TOKEN", "SENDER_ID", "ALLOW_HTTP"):
        monkeypatch.delenv(f"OCA_SMS_{name}", raising=False)
    monkeypatch.setenv("OCA_SMS_BASE_URL", NOWHERE)
    monkeypatch.setattr(sys, "stdin", io.StringIO())


def set_account(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Set variables, named without their prefix."""
    for name, value in variables.items():
        monkeypatch.setenv(f"OCA_SMS_{name}", value)


@pytest.mark.parametrize(
    ("api", "missing"),
    [
        ("regular-v1", "OCA_SMS_USERNAME, OCA_SMS_PASSWORD"),
        ("regular-v2", "OCA_SMS_TOKEN"),
        ("premium-v1", "OCA_SMS_USERNAME, OCA_SMS_PASSWORD, OCA_SMS_SENDER_ID"),
        ("premium-v2", "OCA_SMS_TOKEN, OCA_SMS_SENDER_ID"),
    ],
)
def test_missing_variables_without_a_terminal(
    api: str, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal to ask on, the line names each variable that the API needs."""
    set_account(monkeypatch, API=api)
    assert run(SEND) == 2
    line = f"oca-sms: not sent: no terminal to ask on, and not set in the environment: {missing}\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("api", "typed", "asked"),
    [
        ("regular-v2", "", ["OCA token: "]),
        ("premium-v1", "ann@acme.test\nAcme\n", ["OCA username: ", "OCA password: ", "OCA sender ID: "]),
        ("premium-v2", "Acme\n", ["OCA token: ", "OCA sender ID: "]),
    ],
)
def test_questions_on_a_terminal(
    api: str, typed: str, asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each missing variable is asked for in order, and a secret without an echo. The answers make a client."""

    def hide(prompt: str, *, stream: Any) -> str:
        print(prompt, end="", file=stream)
        return TOKEN

    monkeypatch.setattr(getpass, "getpass", hide)
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    set_account(monkeypatch, API=api)
    assert run(SEND) == 3
    said = capsys.readouterr().err
    assert said.startswith("".join(asked) + "oca-sms: not sent: ")
    assert TOKEN not in said


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"API": "v3"}, "OCA_SMS_API must be one of regular-v1, regular-v2, premium-v1, premium-v2"),
        ({"TOKEN": TOKEN}, "OCA_SMS_TOKEN is for regular-v2 or premium-v2, but OCA_SMS_API is not set"),
        (
            {"API": "regular-v2", "TOKEN": f"{TOKEN} {TOKEN}"},
            "token must be one word of printable ASCII, such as the dashboard's file holds",
        ),
    ],
)
def test_wrong_account(
    variables: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong variable is one line, before any question, and no secret is in it."""
    monkeypatch.setattr(sys, "stdin", Terminal())
    set_account(monkeypatch, **variables)
    assert run(SEND) == 2
    assert capsys.readouterr() == ("", f"oca-sms: not sent: {line}\n")


def test_expired_token(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An expired token is a warning in one line, and the command goes on."""
    set_account(monkeypatch, API="regular-v2", TOKEN=EXPIRED)
    assert run(SEND) == 3
    warning, failure = capsys.readouterr().err.splitlines()
    assert warning == "oca-sms: warning: the token has expired: the gateway will refuse it"
    assert failure.startswith("oca-sms: not sent: ")


def test_history_of_premium(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Premium has no history: the command says so, and its exit status is that of wrong use."""
    set_account(monkeypatch, API="premium-v2", TOKEN=TOKEN, SENDER_ID="Acme")
    assert run(["history"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "no history" in err
    assert "SMS Regular has one" in err

"""Files of messages for `oca-sms bulk`, their outcomes, and the secrets that no output may hold."""

import json
import re
import shlex
from pathlib import Path
from typing import Any, Final

import httpx

from oca_sms_async.sandbox import Sandbox

USERNAME: Final = "user-marker@example.com"
PASSWORD: Final = "s3cret-marker"
TOKEN: Final = "t0ken-marker"
SUBSCRIBERS: Final = "8138147"  # the digits that all numbers have
KEYS: Final = ["row", "key", "outcome", "msg_uid", "attempts", "error", "code"]


def spell_phone(number: int) -> str:
    """Return a recipient as files spell it."""
    return f"0{SUBSCRIBERS}{number:04}"


def spell_e164(number: int) -> str:
    """Return the same recipient as the gateway has it."""
    return f"+62{SUBSCRIBERS}{number:04}"


def write_text(number: int) -> str:
    """Return the message to that recipient."""
    return f"Acme: {number} is your marker"


def write_csv(path: Path, *rows: str, header: str = "phone,message,key") -> Path:
    """Write a CSV of these rows."""
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def make_row(number: int, key: str = "") -> str:
    """Return one good row."""
    return f"{spell_phone(number)},{write_text(number)},{key}"


def write_campaign(path: Path, count: int) -> Path:
    """Write a CSV of so many good rows."""
    return write_csv(path, *(make_row(number) for number in range(1, count + 1)))


def assert_no_secret(output: str, *, texts: bool = True) -> None:
    """Fail if an output holds a number in any spelling, a part of the account, or, with `texts`, of a text."""
    plain = re.sub(r"[ .()-]", "", output)
    found = [it for it in (USERNAME, PASSWORD, TOKEN, SUBSCRIBERS, *["marker"] * texts) if it in output or it in plain]
    assert not found, output


def read_outcomes(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an `--out`. Each row has exactly one line, in the order of the rows, without a secret."""
    content = path.read_text(encoding="utf-8")
    assert_no_secret(content)
    lines = [json.loads(line) for line in content.splitlines()]
    assert all(list(line) == KEYS for line in lines)
    assert [line["row"] for line in lines] == list(range(1, len(lines) + 1))
    return lines


def read_words(path: Path) -> list[str]:
    """Return the outcome of each row."""
    return [line["outcome"] for line in read_outcomes(path)]


def count_posts(sandbox: Sandbox) -> int:
    """Return how many messages the gateway accepted or refused."""
    address = sandbox.base_url.replace("/api/v1", "/sandbox/statistics")
    statistics = httpx.get(address, trust_env=False).json()
    return int(statistics["accepted"] + sum(statistics["refused"].values()))


def list_recipients(sandbox: Sandbox) -> list[str]:
    """Return the numbers of the accepted messages, sorted."""
    return sorted(message.phone for message in sandbox.inbox)


def read_next_command(output: str) -> list[str]:
    """Return the arguments of the command that a run proposes to go on with."""
    [line] = re.findall(r"; go on with: (.*)$", output, re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert program == "oca-sms"
    return arguments

"""The command that serves a sandbox: the names by which others reach it, and the lines that it prints."""

import asyncio
import os
import shlex
import socket
import sys

import httpx
import pytest

from oca_sms_async import AsyncOcaSms
from oca_sms_async.cli import _serve
from oca_sms_async.sandbox import Sandbox

PATIENCE = 60.0  # seconds; a guard
NAMES = ["regular-v2", "premium-v1", "premium-v2"]


def read_exports(lines: list[str], separator: str) -> list[dict[str, str]]:
    """Return the variables of each line whose export stands right after the separator; "" is the line's begin."""
    found = [line.partition(f"{separator}export ") for line in lines]
    return [
        dict(word.split("=", 1) for word in shlex.split(exported))
        for before, match, exported in found
        if match and (separator or not before)
    ]


async def test_the_printed_lines_open_every_api() -> None:
    """V1's lines can be pasted as they are. Each other API has one line with all its variables."""
    async with Sandbox(token="it$self", sender_id="Acme & Co").serve() as sandbox:
        lines = _serve._welcome(sandbox)
        (one, two, three), others = read_exports(lines, ""), read_exports(lines, "; ")
        assert one | two | three == sandbox.environment()
        assert others == [sandbox.environment(name) for name in NAMES]
        for variables in (one | two | three, *others):
            async with AsyncOcaSms.from_env(variables) as client:
                await client.send("081381475159", "Acme: 482913 is your code")
    assert [message.api for message in sandbox.inbox] == ["regular-v1", *NAMES]


async def test_an_allowed_name_is_printed() -> None:
    """With `--allow-host` all the URLs have that name, and plain http is allowed for it."""
    async with Sandbox(allowed_hosts=["sms.acme.example", "other.example"]).serve() as sandbox:
        lines = _serve._welcome(sandbox)
        port = httpx.URL(sandbox.base_url).port
        assert f"http://sms.acme.example:{port}/ " in lines[0]
        assert f"export OCA_SMS_BASE_URL=http://sms.acme.example:{port}/api/v1" in lines
        assert "export OCA_SMS_ALLOW_HTTP=1" in lines
        urls = [variables["OCA_SMS_BASE_URL"] for variables in read_exports(lines, "; ")]
        paths = ["/sms/v2", "/sms/api/v1", "/sms/v2"]
        assert urls == [f"http://sms.acme.example:{port}{path}" for path in paths]


@pytest.mark.parametrize(("host", "named"), [("0.0.0.0", True), ("127.0.0.1", False)])
async def test_the_machine_s_name_is_printed(host: str, named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every address, a line tells how other machines and containers reach the sandbox."""
    monkeypatch.setattr(socket, "gethostname", lambda: "Box")
    async with Sandbox().serve(host) as sandbox:
        url = f"http://box:{httpx.URL(sandbox.base_url).port}/api/v1"
        expected = ["", f"# From other machines: export OCA_SMS_BASE_URL={url} OCA_SMS_ALLOW_HTTP=1"]
        assert _serve._name_machine(sandbox, host) == (expected if named else [])
        sandbox.allowed_hosts = ["sms.example"]
        assert _serve._name_machine(sandbox, host) == []


async def test_an_allowed_name_is_answered() -> None:
    """The command's options reach the sandbox: name, token and sender."""
    options = "--port 0 --host 0.0.0.0 --allow-host a.example --allow-host b.example --token t --sender-id Acme"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "oca_sms_async.cli", "sandbox", *options.split()),
        env=dict(os.environ) | {"NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            lines = [(await process.stdout.readline()).decode().rstrip() for _ in range(12)]
            premium = read_exports(lines, "; ")[2]
            assert (premium["OCA_SMS_TOKEN"], premium["OCA_SMS_SENDER_ID"]) == ("t", "Acme")
            url = httpx.URL(premium["OCA_SMS_BASE_URL"])
            assert url.host == "a.example"
            async with httpx.AsyncClient(trust_env=False) as client:
                for name, status in [("a.example", 200), ("b.example", 200), ("c.example", 403)]:
                    headers = {"Host": f"{name}:{url.port}"}
                    response = await client.get(f"http://127.0.0.1:{url.port}/sandbox/messages", headers=headers)
                    assert response.status_code == status
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("host", ["", "http://a.example", "a b"])
async def test_an_impossible_name_is_refused(host: str) -> None:
    """A name that no request can have is bad usage."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "oca_sms_async.cli", "sandbox", "--port", "0", "--allow-host", host),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        _, told = await process.communicate()
    assert process.returncode == 2
    assert told.startswith(b"oca-sms: allowed_hosts must hold names")

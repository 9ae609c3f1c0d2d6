"""The page about more than one machine is true: its blocks run against the sandbox and a real PostgreSQL."""

import asyncio
import configparser
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from command import account, environment
from postgres_server import execute
from queues import PATIENCE

from oca_sms_async.cli._app import _parse
from oca_sms_async.queue import SmsQueue
from oca_sms_async.sandbox import Sandbox

PAGE: Final = (Path(__file__).parent.parent / "docs" / "more-than-one-machine.md").read_text(encoding="utf-8")
BLOCKS: Final = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def find_block(*words: str) -> str:
    """Return the one block with all these words."""
    (block,) = [text for _, text in BLOCKS if all(word in text for word in words)]
    return str(block)


def need(package: str) -> None:
    """Skip the test without this package, or fail it on CI."""
    if importlib.util.find_spec(package) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no {package} here")


async def run(program: str, sandbox: Sandbox, database: str) -> Any:
    """Run a program in a process of its own, and return the last line of its output, read as JSON."""
    env = environment(**account(sandbox), OCA_SMS_DATABASE=database) | {"PYTHONWARNINGS": "ignore"}
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_the_blocks_were_found() -> None:
    """The page has the blocks that these tests run, and no others."""
    assert sorted(kind for kind, _ in BLOCKS) == ["ini", "python", "python", "python", "python", "yaml"]


async def test_the_service_puts_within_its_transaction(sandbox: Sandbox, queue: SmsQueue, queue_database: str) -> None:
    """A login that commits has its message in the queue; one that fails has neither row nor message."""
    need("fastapi")
    execute(queue_database, "CREATE TABLE logins (login text, code text CHECK (code <> 'never'))")
    driver = """
import asyncio, json
import httpx

async def main():
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            login = (await http.post("/logins", params={"phone": "081234567890"})).json()["login"]
            try:
                await http.post("/logins", params={"phone": "12"})
                raise AssertionError
            except ValueError:
                pass
    print(json.dumps(login))

asyncio.run(main())
"""
    login = await run(find_block("FastAPI") + driver, sandbox, queue_database)
    assert execute(queue_database, "SELECT login FROM logins") == [(login,)]
    assert [key for (key,) in execute(queue_database, "SELECT key FROM oca_sms_queued")] == [f"login-{login}"]


def test_every_command_of_the_page_can_be_parsed() -> None:
    """Those of the shell, of docker-compose and of systemd are commands of this version."""
    commands = re.findall(r"oca-sms (?:queue|sandbox)(?: [\w./-]+)*", PAGE)
    for command in {command for command in commands if command != "oca-sms queue"}:
        assert callable(_parse(shlex.split(command)[1:]))
    assert len(commands) > 8


def test_the_unit_of_systemd_stops_in_time() -> None:
    """It gives a worker longer than a request may take."""
    unit = configparser.ConfigParser()
    unit.read_string(find_block("[Service]"))
    assert unit["Service"]["ExecStart"].endswith("/oca-sms queue work")
    assert int(unit["Service"]["TimeoutStopSec"]) >= 30

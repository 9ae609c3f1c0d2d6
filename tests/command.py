"""Runs `oca-sms` for the tests: in this process, as a process of its own, or on a terminal.

The fixtures are a plugin of every test module.
"""

import asyncio
import contextlib
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from campaign_files import PASSWORD, TOKEN, USERNAME, assert_no_secret, list_recipients, spell_e164, write_campaign

from oca_sms_async.cli._app import run
from oca_sms_async.sandbox import Sandbox

PATIENCE: Final = 60  # seconds until a process that says nothing is taken for dead
FAST: Final = ("--rate", "1000")
CTRL_C: Final = "\x03"
MAIN: Final = "from oca_sms_async.cli import main; main()"
# A shell that runs tests in the background lets its children ignore Ctrl-C. These behave as in the foreground.
HEEDS_CTRL_C: Final = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
# A new session has no terminal. The one on standard input becomes its own, so that Ctrl-C there is a signal.
HAS_TERMINAL: Final = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"

NO_JOURNAL: Final = "oca-sms: warning: without --journal, the same command would send everything again\n"

# These change the behaviour of the command.
_FOREIGN: Final = {
    "FORCE_COLOR",
    "NO_COLOR",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    "COLUMNS",
    "LINES",
    "PYTHONUNBUFFERED",
    "PYTHONWARNINGS",
}


class Ended(NamedTuple):
    """A command that has ended: its exit status and its output."""

    status: int
    out: str
    err: str


Bulk = Callable[..., Ended]
Answer = str | Callable[[int, int], None]  # text to type, or an act with the process' id and the terminal's descriptor


def environment(**more: str) -> dict[str, str]:
    """Return the environment of this process, without variables that change the command, and with some more."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _FOREIGN and not name.startswith("OCA_SMS_") and not name.lower().endswith("_proxy")
    }
    return kept | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "error"} | more


def account(sandbox: Sandbox, api: str = "regular-v1") -> dict[str, str]:
    """Return the variables of the sandbox's account, for one API."""
    return sandbox.environment(api)


def read_pairs(text: str) -> dict[str, str]:
    """Return the names and values that a command printed; a later value replaces an earlier one."""
    return {name: value.strip() for name, value in re.findall(r"^(\S+(?: \S+)*) {2,}(.*)$", text, re.MULTILINE)}


def is_waiting(pid: int) -> bool:
    """Tell whether a child waits for something, or has ended.

    Python sees a signal that comes just before a system call only after that call, which may never return.
    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith(("S", "Z"))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that has no event, for as long as patience lasts."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.001)


async def until(condition: Callable[[], bool]) -> None:
    """Wait as `wait_until` does, while this event loop goes on."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


def leave_out_warning(ended: Ended) -> Ended:
    """Return the end of a run without the warning about `--journal`."""
    return ended._replace(err=ended.err.replace(NO_JOURNAL, "", 1))


class Command:
    """`oca-sms` in this process, with the account of a sandbox in the environment."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._patch = patch
        self._capsys = capsys

    def __call__(self, *arguments: object, stdin: bytes = b"") -> Ended:
        """Run a command and return its end."""
        given = [*map(str, arguments)]
        self._patch.setattr(sys, "argv", ["oca-sms", *given])
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        return Ended(run(given), *self._capsys.readouterr())


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    """An event loop in another thread. A command has this thread, and with it the signals."""
    with start_blocking_portal() as opened:
        yield opened


@pytest.fixture
def served(portal: BlockingPortal) -> Iterator[Sandbox]:
    """A sandbox in that thread, with an account that no output may show."""
    sandbox = Sandbox(username=USERNAME, password=PASSWORD, token=TOKEN)
    with portal.wrap_async_context_manager(sandbox.serve()):
        yield sandbox


@pytest.fixture
def command(served: Sandbox, api: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs `oca-sms` in this process, with the account of `served` for `api`."""
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    for name, value in account(served, api).items():
        monkeypatch.setenv(name, value)
    return Command(monkeypatch, capsys)


@pytest.fixture
def bulk(command: Command) -> Bulk:
    """A function that runs `oca-sms bulk`, fast unless told otherwise, and looks for secrets in its output.

    It leaves the warning out that each run without a journal begins with.
    """

    def run_and_check(*arguments: object, stdin: bytes = b"") -> Ended:
        ended = command("bulk", *arguments, *([] if "--rate" in arguments else FAST), stdin=stdin)
        # A dry run shows texts, though not their codes.
        assert_no_secret(ended.out + ended.err, texts="--dry-run" not in arguments)
        return leave_out_warning(ended)

    return run_and_check


@pytest.fixture
def in_doubt(bulk: Bulk, served: Sandbox, tmp_path: Path) -> tuple[Path, Path]:
    """A file of two rows and its journal, after a run that lost both answers."""
    file, journal = write_campaign(tmp_path / "rows.csv", 2), tmp_path / "journal"
    served.faults = {"accept-then-drop": 1.0}
    assert bulk(file, "--journal", journal).status == 1
    served.faults = {}
    assert list_recipients(served) == [spell_e164(1), spell_e164(2)]
    return file, journal


def run_on_terminal(
    arguments: Sequence[str], env: dict[str, str], answers: Mapping[str, Answer] | None = None, *, width: int = 80
) -> Ended:
    """Run a process on a terminal. Give each answer once its prompt, a pattern, is there and the process waits.

    All output is in `out`.
    """
    master, slave = pty.openpty()
    resize(master, width)
    code = [sys.executable, "-c", HEEDS_CTRL_C + HAS_TERMINAL + MAIN, *arguments]
    with (
        subprocess.Popen(code, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True) as process,
        os.fdopen(master, "rb", buffering=0) as screen,
    ):
        os.close(slave)
        output, waiting = b"", list((answers or {}).items())
        while select.select([screen], [], [], PATIENCE)[0]:
            try:
                output += os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if waiting and re.search(waiting[0][0].encode(), output):
                wait_until(lambda: is_waiting(process.pid))
                answer = waiting.pop(0)[1]
                if isinstance(answer, str):
                    os.write(master, answer.encode())
                else:
                    answer(process.pid, master)
        else:
            process.kill()
            pytest.fail(f"the process neither ends nor writes; it wrote {output!r}")
    return Ended(process.returncode, output.decode(), "")


def resize(terminal: int, width: int) -> None:
    """Give a terminal so many columns, and 24 lines."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))


@contextlib.asynccontextmanager
async def start(
    *arguments: str,
    env: dict[str, str],
    code: str = HEEDS_CTRL_C + MAIN,
    stdout: int = PIPE,
    terminal: int | None = None,
    launcher: Sequence[str] = (),
) -> AsyncIterator[Process]:
    """Run a process, without a terminal unless one is given; kill it at the end of the block if it still runs.

    `launcher` is a command that starts the process.
    """
    stdin, out, err = (DEVNULL, stdout, PIPE) if terminal is None else (terminal, terminal, terminal)
    process = await asyncio.create_subprocess_exec(
        *(*launcher, sys.executable, "-c", code, *arguments),
        env=env,
        stdin=stdin,
        stdout=out,
        stderr=err,
        start_new_session=terminal is not None,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def end_of(process: Process) -> Ended:
    """Wait for a process, and return its output since the last read."""
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    return Ended(await process.wait(), (out or b"").decode(), err.decode())


async def read_line(stream: asyncio.StreamReader | None) -> str:
    """Return the next line of a process' output."""
    assert stream is not None
    return (await asyncio.wait_for(stream.readline(), PATIENCE)).decode()


async def read_up_to(process: Process, word: str) -> str:
    """Return the output of a process on standard error, up to the first line with this word."""
    lines = list[str]()
    while not lines or word not in lines[-1]:
        line = await read_line(process.stderr)
        assert line, "".join(lines)
        lines.append(line)
    return "".join(lines)

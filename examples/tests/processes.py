"""Servers and workers in processes of their own, for the tests of the examples."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest
from oca_sms_async.sandbox import Sandbox

EXAMPLES: Final = Path(__file__).parent.parent
PATIENCE: Final = 60  # seconds, after which a process hangs
_ADDRESS: Final = re.compile(r"http://[a-z0-9.]+:[0-9]+")

Launch = Callable[[Sequence[str], Mapping[str, str]], str]
Start = Callable[..., str]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """A function that starts a command with some variables, and returns the address that it prints once it listens.

    The processes end with the test.
    """
    with contextlib.ExitStack() as stack:

        def begin(command: Sequence[str], variables: Mapping[str, str]) -> str:
            environ = os.environ | {"PYTHONPATH": str(EXAMPLES), **variables}
            process = stack.enter_context(
                subprocess.Popen(
                    command, env=environ, cwd=EXAMPLES, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            )
            stack.callback(process.terminate)
            return _read_address(process)

        yield begin


@pytest.fixture
def start(launch: Launch, oca_sms_sandbox: Sandbox) -> Start:
    """A function that starts uvicorn on the sandbox, with some arguments and variables, and returns its address."""

    def begin(*arguments: str, **variables: str) -> str:
        command = [sys.executable, "-m", "uvicorn", "--port", "0", "--no-access-log", *arguments]
        return launch(command, oca_sms_sandbox.environment() | variables)

    return begin


def _read_address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    written = ""
    try:
        for line in process.stdout:
            written += line
            if found := _ADDRESS.search(line):
                return found[0]
    finally:
        watchdog.cancel()
    pytest.fail(f"the process gave no address; it wrote {written}")


@contextlib.contextmanager
def run_worker(application: str, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Celery worker with one process, for the length of a block. Its log has all that Celery can tell."""
    options = ["--concurrency", "1", "--pool", "prefork", "--without-gossip", "--without-mingle"]
    options += ["--loglevel", "DEBUG", "--logfile", str(log)]
    command = [sys.executable, "-m", "celery", "--app", application, "worker", *options]
    environ = os.environ | {"PYTHONPATH": str(EXAMPLES)} | variables
    with subprocess.Popen(command, env=environ, cwd=EXAMPLES) as worker:
        try:
            yield worker
        finally:
            worker.terminate()
            try:
                worker.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                worker.kill()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())]

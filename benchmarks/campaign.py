"""A campaign of growing length: `oca-sms bulk FILE --journal J --out O`, whole, with a gateway that answers at once.

Each run has a process of its own. A machine's speed changes from one minute to the next, so the short campaigns run
before, between and after the long ones, and a figure is the median of its length's runs.

The command is the real one: its check of each row, the client with httpx, the journal (each intent and each outcome
durable) and the file of outcomes. Two parts are not the real ones. The transport below httpx answers in this process,
without a socket. The rate is a million a second, so nothing waits for a token.

Rows per second: of the check, of the sending, of the whole command, and of the same command again, which finds each row
sent. CPU is of the whole command, for each row; other work on the machine disturbs it less. Growth is of the process'
peak memory, beyond a command over 1,000 rows.
"""

import contextlib
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from recipes import ACCOUNT
from table import show
from workload import peak

from oca_sms_async import AsyncOcaSms
from oca_sms_async.cli import _bulk
from oca_sms_async.cli._app import run

SHORT, MIDDLE, LONG = 10_000, 100_000, 1_000_000
ORDER = (*[SHORT] * 3, MIDDLE, *[SHORT] * 3, LONG, *[SHORT] * 3, MIDDLE, *[SHORT] * 3)
WARM = 1_000
OPTIONS = ("--rate", "1000000", "--concurrency", "64")


class Instant(httpx.AsyncBaseTransport):
    """A gateway that takes each message at once, under a random id."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer with a receipt."""
        del request
        return httpx.Response(200, json={"status": "sent", "msg_uid": uuid.uuid4().hex[:12]})


def make_client(**options: Any) -> AsyncOcaSms:
    """Return the command's client over the instant gateway."""
    return AsyncOcaSms(*ACCOUNT, http_client=httpx.AsyncClient(transport=Instant(), trust_env=False), **options)


def prepare() -> dict[str, float]:
    """Let the command use the instant gateway, and return the seconds of its steps, which each run writes anew."""
    took = dict[str, float]()

    def timed(step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def time_step(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = await step(*arguments)
            took[step.__name__] = time.perf_counter() - started
            return result

        return time_step

    steps = {name: timed(getattr(_bulk, name)) for name in ("survey_rows", "send_rows")}
    for name, stand_in in {"client_of_account": make_client, **steps}.items():
        setattr(_bulk, name, stand_in)
    return took


def write_rows(path: Path, count: int) -> Path:
    """Write a file of so many messages, and return its path."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["phone", "message"])
        writer.writerows([f"+62812{row:08}", f"Acme: {row:06} is your code"] for row in range(count))
    return path


def send_file(file: Path) -> tuple[float, float]:
    """Run the command over a file, and return its seconds and those of its CPU."""
    journal, out = file.with_suffix(".journal"), file.with_suffix(".jsonl")
    started, cpu = time.perf_counter(), time.process_time()
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        status = run(["bulk", str(file), "--journal", str(journal), "--out", str(out), *OPTIONS])
    assert status == 0, status
    return time.perf_counter() - started, time.process_time() - cpu


def measure(count: int) -> dict[str, float]:
    """Measure a file of one length."""
    took = prepare()
    with tempfile.TemporaryDirectory(prefix="oca-sms-") as made:
        folder = Path(made)
        send_file(write_rows(folder / "warm.csv", WARM))
        file, before = write_rows(folder / "rows.csv", count), peak()
        whole, cpu = send_file(file)
        check, send, grown = took["survey_rows"], took["send_rows"], peak() - before
        again, _ = send_file(file)
        size = file.with_suffix(".journal").stat().st_size
    return {
        "checked/s": count / check,
        "sent/s": count / send,
        "whole, rows/s": count / whole,
        "µs CPU": cpu / count * 1e6,
        "again, rows/s": count / again,
        "bytes a row": size / count,
        "growth, MB": grown,
    }


def main() -> None:
    """Measure each run in a process of its own, and print the lengths side by side."""
    found: dict[int, list[dict[str, float]]] = {SHORT: [], MIDDLE: [], LONG: []}
    for count in ORDER:
        child = [sys.executable, __file__, f"--rows={count}"]
        found[count].append(json.loads(subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True).stdout))
    rows = [
        {"rows": count, **{name: statistics.median(run[name] for run in runs) for name in runs[0]}}
        for count, runs in found.items()
    ]
    for row in rows:
        row |= {f"{name}, to the first": row[name] / rows[0][name] for name in ("whole, rows/s", "µs CPU")}
    show(__doc__.splitlines()[0] if __doc__ else "", [*rows[0]], [[*row.values()] for row in rows])


if __name__ == "__main__":
    lengths = [int(argument.removeprefix("--rows=")) for argument in sys.argv[1:] if argument.startswith("--rows=")]
    if lengths:
        print(json.dumps(measure(lengths[0])))
    else:
        main()

"""The start of a program: imports beyond httpx's own, a client made, and `oca-sms --help`; the best of fresh processes.

All is imported out of compiled files. The last row is the whole process, from its start to its end. A machine's speed
changes within seconds, so the rows take turns.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial

from table import show

ROUNDS = 40
IMPORTS = """
import time
started = time.perf_counter()
import httpx
between = time.perf_counter()
{}
print(between - started, time.perf_counter() - between)
"""
STATEMENTS = {
    "import oca_sms_async": "import oca_sms_async",
    "… import AsyncOcaSms": "from oca_sms_async import AsyncOcaSms",
    "… and a client made": "from oca_sms_async import AsyncOcaSms; AsyncOcaSms('user', 'secret')",
}


def run(folder: str, *arguments: str) -> str:
    """Run Python in a fresh process, with compiled files in a folder, and return its output."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, *arguments]
    environ["PYTHONPYCACHEPREFIX"] = folder
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout


def time_imports(folder: str, statement: str) -> tuple[float, float]:
    """Return how long a fresh process takes to import httpx, and then to run a statement."""
    theirs, added = map(float, run(folder, "-c", IMPORTS.format(statement)).split())
    return theirs, added


def time_help(folder: str) -> tuple[float]:
    """Return how long `oca-sms --help` takes."""
    started = time.perf_counter()
    run(folder, "-m", "oca_sms_async.cli", "--help")
    return (time.perf_counter() - started,)


def find_best(measures: Sequence[Callable[[], tuple[float, ...]]]) -> list[list[float]]:
    """Return the best of each measure's figures, in milliseconds. The first round compiles, and does not count."""
    rounds = [[measure() for measure in measures] for _ in range(1 + ROUNDS)][1:]
    return [[min(column) * 1e3 for column in zip(*runs, strict=True)] for runs in zip(*rounds, strict=True)]


def main() -> None:
    """Measure each statement after httpx, and the command."""
    with tempfile.TemporaryDirectory(prefix="oca-sms-") as folder:
        measures = [partial(time_imports, folder, statement) for statement in STATEMENTS.values()]
        *imports, (whole,) = find_best([*measures, partial(time_help, folder)])
    alone = min(theirs for theirs, _ in imports)
    rows: list[list[object]] = [["import httpx", alone, None, 1.0]]
    for name, (_, added) in zip(STATEMENTS, imports, strict=True):
        rows.append([name, alone + added, added, (alone + added) / alone])
    rows.append(["oca-sms --help", whole, None, None])
    show(__doc__.splitlines()[0] if __doc__ else "", ["start", "ms", "beyond httpx, ms", "to httpx"], rows)


if __name__ == "__main__":
    main()

"""The start of a program: imports beyond httpx's own, a client made, and `oca-sms --help`; the best of fresh processes.

All is imported out of compiled files. The last row is the whole process, from its start to its end.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from table import show

RUNS = 20
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


def find_best(measure: Callable[[], tuple[float, ...]]) -> list[float]:
    """Return the best of each figure, in milliseconds. The first run compiles, and does not count."""
    measure()
    runs = [measure() for _ in range(RUNS)]
    return [min(column) * 1e3 for column in zip(*runs, strict=True)]


def main() -> None:
    """Measure each statement after httpx, and the command."""
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory(prefix="oca-sms-") as folder:
        for name, statement in STATEMENTS.items():
            theirs, added = find_best(lambda statement=statement: time_imports(folder, statement))  # type: ignore[misc] # mypy takes no default here
            rows.append([name, theirs + added, added, (theirs + added) / theirs])
        (whole,) = find_best(lambda: time_help(folder))
    rows.insert(0, ["import httpx", theirs, None, 1.0])
    rows.append(["oca-sms --help", whole, None, None])
    show(__doc__.splitlines()[0] if __doc__ else "", ["start", "ms", "beyond httpx, ms", "to httpx"], rows)


if __name__ == "__main__":
    main()

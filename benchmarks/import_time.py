"""The time that `import oca_sms_async` adds to `import httpx`, in milliseconds: the best of some fresh processes.

Each process imports one after the other, out of compiled files.
"""

import os
import subprocess
import sys
import tempfile

from table import show

RUNS = 20
IMPORTS = """
import time
started = time.perf_counter()
import httpx
between = time.perf_counter()
import oca_sms_async
print(between - started, time.perf_counter() - between)
"""


def seconds(folder: str) -> tuple[float, float]:
    """Return how long a fresh process takes to import httpx, and then this library; compiled files go to a folder."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", IMPORTS]
    ran = subprocess.run(
        command, env={**environ, "PYTHONPYCACHEPREFIX": folder}, capture_output=True, text=True, check=True
    )
    theirs, added = map(float, ran.stdout.split())
    return theirs, added


def main() -> None:
    """Measure both in each process."""
    with tempfile.TemporaryDirectory(prefix="oca-sms-") as folder:
        seconds(folder)  # compiles
        runs = [seconds(folder) for _ in range(RUNS)]
    theirs, added = (min(column) * 1e3 for column in zip(*runs, strict=True))
    rows = [["httpx", theirs, None, 1.0], ["oca_sms_async", theirs + added, added, (theirs + added) / theirs]]
    show(__doc__.splitlines()[0] if __doc__ else "", ["package", "ms", "beyond httpx, ms", "to httpx"], rows)


if __name__ == "__main__":
    main()

"""The machine and the versions of a run of all benchmarks, and the load right before it."""

import os
import platform
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from table import show

from oca_sms_async import __version__

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import postgres_server
import redis_server

PACKAGES = ("httpx", "httpcore", "aiohttp", "httpx-aiohttp", "uvloop", "psycopg", "procrastinate", "celery", "redis")


def processor() -> str:
    """Return the model of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def memory() -> str:
    """Return the size of the memory."""
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"


def version_of(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def say(*command: str | Path) -> str:
    """Return the last word with a digit of a program's sentence about its version."""
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = [word.removeprefix("v=") for word in said.split() if word.removeprefix("v=")[:1].isdigit()]
    return words[0]


def main() -> None:
    """Print them."""
    rows = [
        ("date", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("load, 1 min", f"{os.getloadavg()[0]:.2f}"),
        ("processor", processor()),
        ("cores", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        ("memory", memory()),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("oca-sms-async", __version__),
        *((package, version_of(package)) for package in PACKAGES),
        ("SQLite", sqlite3.sqlite_version),
        ("PostgreSQL", say(postgres_server.find_binaries() / "postgres", "--version")),
        ("redis-server", say(redis_server.executable(), "--version")),
    ]
    show(__doc__.splitlines()[0] if __doc__ else "", ["part", "value"], rows)


if __name__ == "__main__":
    main()

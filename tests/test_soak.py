"""A short run of `nox -s soak`."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

SOAK = Path(__file__).parent.parent / "benchmarks" / "soak.py"
PATIENCE = 120  # seconds; a run that takes longer hangs


async def test_a_load_at_mixed_faults_is_accounted_for() -> None:
    """Each of 3,000 messages ends as the gateway accepted it. Memory, files, connections and tasks do not grow."""
    command = [sys.executable, "-W", "error", str(SOAK), "--messages", "3000"]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
    try:
        async with asyncio.timeout(PATIENCE):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert said.decode().endswith("0 messages unaccounted for; grown: nothing\n"), said.decode()
    assert process.returncode == 0

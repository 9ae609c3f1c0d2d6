"""The long run of `nox -s soak`, in short."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

SOAK = Path(__file__).parent.parent / "benchmarks" / "soak.py"
PATIENCE = 120  # seconds, after which it hangs


async def test_a_load_at_mixed_faults_is_accounted_for_and_leaves_nothing() -> None:
    """Of 3,000 messages each ends as the gateway accepted it, and memory, files, connections and tasks stay flat."""
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

"""Peak growth of memory for a bulk out of a generator, ours beside a gather, with a send that takes no time.

In MB, each figure of a process of its own, from before its first message to its end; a million tasks are left out.
"""

import asyncio
import subprocess
import sys

from table import show
from workload import messages, peak, send

from oca_sms_async import Sms
from oca_sms_async._bulk import BulkRun
from oca_sms_async._call import CallState

LENGTHS = (10_000, 100_000, 1_000_000)
MOST_GATHERED = 100_000
CONCURRENCY = 64


async def ours(count: int) -> None:
    """Workers over one iterator."""
    async with BulkRun(send, messages(count), CONCURRENCY) as outcomes:
        async for _ in outcomes:
            pass


async def gather(count: int) -> None:
    """A task for each message, and a semaphore."""
    room = asyncio.Semaphore(CONCURRENCY)

    async def one(sms: Sms) -> None:
        async with room:
            await send(sms, CallState())

    await asyncio.gather(*map(one, messages(count)))


WAYS = {"ours": ours, "gather": gather}


def grown(way: str, count: int) -> float:
    """Return the MB by which a fresh process grows while it sends so many messages."""
    command = [sys.executable, __file__, "--cell", way, str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def cell(way: str, count: int) -> float:
    """Return the MB by which this process grows while it sends so many messages."""
    before = peak()
    asyncio.run(WAYS[way](count))
    return peak() - before


def main() -> None:
    """Measure each in a process of its own."""
    rows = []
    for count in LENGTHS:
        mine = grown("ours", count)
        theirs = grown("gather", count) if count <= MOST_GATHERED else None
        rows.append([count, mine, theirs, mine / theirs if theirs else None])
    show(__doc__.splitlines()[0] if __doc__ else "", ["messages", "ours, MB", "gather, MB", "ours to gather"], rows)


if __name__ == "__main__":
    if "--cell" in sys.argv[1:]:
        print(cell(sys.argv[-2], int(sys.argv[-1])))
    else:
        main()

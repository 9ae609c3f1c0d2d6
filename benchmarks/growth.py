"""CPU per message as messages, messages at once and waiters at the limiter grow tenfold, each to the row before.

In microseconds, the best of three. The send takes one turn of the loop. The waiters wait for their tokens on a clock
that jumps.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from table import show
from workload import messages, send, virtual_time

from oca_sms_async import TokenBucket
from oca_sms_async._bulk import BulkRun

ROUNDS = 3
ACQUIRES = 10_000

Measure = Callable[[], Coroutine[Any, Any, float]]


async def bulk(count: int, concurrency: int) -> float:
    """Return the CPU of a bulk, in seconds per message."""
    started = time.process_time()
    async with BulkRun(send, messages(count), concurrency) as outcomes:
        async for _ in outcomes:
            pass
    return (time.process_time() - started) / count


async def waiting(count: int) -> float:
    """Return the CPU of so many waiters at one limiter, as often as makes 10,000 acquires, in seconds per acquire."""
    limiter = TokenBucket()
    started = time.process_time()
    for _ in range(ACQUIRES // count):
        await asyncio.gather(*(limiter.acquire() for _ in range(count)))
    return (time.process_time() - started) / ACQUIRES


SERIES: dict[str, dict[int, Measure]] = {
    "messages, 64 at once": {count: partial(bulk, count, 64) for count in (1_000, 10_000, 100_000)},
    "at once, of 20,000 messages": {at_once: partial(bulk, 20_000, at_once) for at_once in (10, 100, 1_000)},
    "waiters at the limiter": {count: partial(waiting, count) for count in (10, 100, 1_000, 10_000)},
}


def main() -> None:
    """Measure each series."""
    rows = []
    for name, points in SERIES.items():
        before = None
        for size, measure in points.items():
            cost = min(virtual_time.run(measure()) for _ in range(ROUNDS)) * 1e6
            rows.append([name, size, cost, before and cost / before])
            before = cost
    show(__doc__.splitlines()[0] if __doc__ else "", ["what grows", "to", "µs CPU", "to the row before"], rows)


if __name__ == "__main__":
    main()

"""Refusals by a gateway that takes 25 in any second, for limiters with and without jitter on the way.

All limiters run at once, for half a minute, each with its own gateway and 50 waiters that never end. The used share is
the requests that the gateway took, divided by 25 a second.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable

import aiolimiter
import pyrate_limiter
from table import show

from oca_sms_async import TokenBucket

ALLOWED = 25
WAITERS = 50
JITTERS = (0.0, 0.05, 0.1)
SECONDS = 30.0

Acquire = Callable[[], Awaitable[object]]
Figures = tuple[int, int, float]


def pyrate() -> Acquire:
    """Return pyrate-limiter's limiter. It keeps a log of the requests that got through."""
    return pyrate_limiter.Limiter(pyrate_limiter.Rate(ALLOWED, pyrate_limiter.Duration.SECOND)).try_acquire_async


LIMITERS: dict[str, Callable[[], Acquire]] = {
    "ours, 22/s": lambda: TokenBucket().acquire,
    "aiolimiter, 25 per 1 s": lambda: aiolimiter.AsyncLimiter(25, 1).acquire,
    "aiolimiter, 1 per 1/25 s": lambda: aiolimiter.AsyncLimiter(1, 1 / 25).acquire,
    "aiolimiter, 1 per 1/24 s": lambda: aiolimiter.AsyncLimiter(1, 1 / 24).acquire,
    "aiolimiter, 1 per 1/22 s": lambda: aiolimiter.AsyncLimiter(1, 1 / 22).acquire,
    "pyrate-limiter, 25 per 1 s": pyrate,
}


class Gateway:
    """Takes so many requests in any second, and counts its refusals."""

    def __init__(self) -> None:
        self.taken = 0
        self.refused = 0
        self._recent = deque[float]()

    def arrive(self) -> None:
        """Take a request, or refuse it."""
        now = asyncio.get_running_loop().time()
        while self._recent and self._recent[0] <= now - 1:
            self._recent.popleft()
        if len(self._recent) >= ALLOWED:
            self.refused += 1
        else:
            self._recent.append(now)
            self.taken += 1


async def measure_pace(make: Callable[[], Acquire], jitter: float) -> Figures:
    """Return the counts of accepted and refused requests, and the used share of the allowance."""
    acquire, gateway, loop, draw = make(), Gateway(), asyncio.get_running_loop(), random.Random(1)

    async def work() -> None:
        while True:
            await acquire()
            loop.call_later(draw.uniform(0, jitter), gateway.arrive)

    workers = [asyncio.create_task(work()) for _ in range(WAITERS)]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*workers)
    await asyncio.sleep(jitter + 0.01)  # the last ones are on their way
    return gateway.taken, gateway.refused, gateway.taken / (ALLOWED * SECONDS)


async def main() -> None:
    """Measure all of them at once."""
    cells = [(name, make, jitter) for name, make in LIMITERS.items() for jitter in JITTERS]
    figures = await asyncio.gather(*(measure_pace(make, jitter) for _, make, jitter in cells))
    rows = []
    for (name, _, jitter), (taken, refused, share) in zip(cells, figures, strict=True):
        rows.append([name, jitter * 1e3, taken + refused, refused, 100 * refused / (taken + refused), share])
    columns = ["limiter", "jitter, ms", "sent", "refused", "refused, %", "share used"]
    show(__doc__.splitlines()[0] if __doc__ else "", columns, rows)


if __name__ == "__main__":
    asyncio.run(main())

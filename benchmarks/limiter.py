"""The cost of an acquire and how well a limit is kept: ours, in one process, Redis or PostgreSQL, beside others.

The cost is CPU of this process in microseconds per acquire: alone, and with 5,000 waiters at once. Then a limit of 25
requests a second is kept with 200 waiters. The table shows the most requests in any one second, and the used share of
the allowance.
"""

import asyncio
import statistics
import sys
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiolimiter
import limits
import limits.aio
import pyrate_limiter
from table import show

from oca_sms_async import TokenBucket
from oca_sms_async.postgres import PostgresTokenBucket
from oca_sms_async.redis import RedisTokenBucket

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import postgres_server
from redis_server import serving

ALLOWED = 25
WAITERS = 200
CROWD = 5000
SECONDS = 4.0

Acquire = Callable[[], Awaitable[object]]
Make = Callable[[float], AbstractAsyncContextManager[Acquire]]


@asynccontextmanager
async def ours(rate: float) -> AsyncIterator[Acquire]:
    """`TokenBucket`: one below the allowance, for a bucket of one adds one to it."""
    yield TokenBucket(rate - 1, 1.0).acquire


@asynccontextmanager
async def theirs_aiolimiter(rate: float) -> AsyncIterator[Acquire]:
    """The library aiolimiter, as its documentation shows it: so many per second."""
    yield aiolimiter.AsyncLimiter(rate, 1).acquire


@asynccontextmanager
async def theirs_pyrate(rate: float) -> AsyncIterator[Acquire]:
    """The library pyrate-limiter. Its limiter keeps a log of the requests that got through."""
    yield pyrate_limiter.Limiter(pyrate_limiter.Rate(int(rate), pyrate_limiter.Duration.SECOND)).try_acquire_async


def ours_redis(url: str) -> Make:
    """`RedisTokenBucket` on a real server."""

    @asynccontextmanager
    async def make(rate: float) -> AsyncIterator[Acquire]:
        bucket = RedisTokenBucket(url, name=f"bench-{rate}-{time.monotonic()}", rate=rate - 1)
        yield bucket.acquire
        await bucket.aclose()

    return make


def ours_postgres(conninfo: str) -> Make:
    """`PostgresTokenBucket` on a real server."""

    @asynccontextmanager
    async def make(rate: float) -> AsyncIterator[Acquire]:
        bucket = PostgresTokenBucket(conninfo, name=f"bench-{rate}-{time.monotonic()}", rate=rate - 1)
        await bucket.setup()
        yield bucket.acquire
        await bucket.aclose()

    return make


def theirs_limits(url: str) -> Make:
    """The library limits, which answers yes or no. A refused request asks again, five times a second."""

    @asynccontextmanager
    async def make(rate: float) -> AsyncIterator[Acquire]:
        storage = limits.storage.storage_from_string(f"async+{url}", implementation="redispy")
        limiter = limits.aio.strategies.MovingWindowRateLimiter(storage)
        item, key = limits.RateLimitItemPerSecond(int(rate)), f"bench-{rate}-{time.monotonic()}"

        async def acquire() -> None:
            while not await limiter.hit(item, key):
                await asyncio.sleep(0.2)

        yield acquire

    return make


async def alone(make: Make, count: int) -> float:
    """Return the CPU of one acquire that never waits, in microseconds: the median of three."""
    rounds = []
    for _ in range(3):
        async with make(1e6) as acquire:
            start = time.process_time()
            for _ in range(count):
                await acquire()
            rounds.append((time.process_time() - start) / count * 1e6)
    return statistics.median(rounds)


async def measure_crowd(make: Make) -> float:
    """Return the CPU of an acquire among 5,000 waiters, at 1,000 a second, in microseconds."""
    async with make(1000.0) as acquire:
        start = time.process_time()
        await asyncio.gather(*(acquire() for _ in range(CROWD)))
        return (time.process_time() - start) / CROWD * 1e6


async def kept(make: Make) -> tuple[int, float]:
    """Return the most in any one second, and the share of the allowance that was used."""
    times: list[float] = []
    async with make(ALLOWED) as acquire:

        async def work() -> None:
            while True:
                await acquire()
                times.append(time.monotonic())

        workers = [asyncio.create_task(work()) for _ in range(WAITERS)]
        await asyncio.sleep(SECONDS)
        pending: Collection[asyncio.Task[None]] = workers
        while pending:  # a cancellation may be lost in another library, as an acquire ends
            for worker in pending:
                worker.cancel()
            _, pending = await asyncio.wait(pending, timeout=1)
    most = max(bisect_right(times, start + 1) - index for index, start in enumerate(times))
    return most, len(times) / (ALLOWED * (times[-1] - times[0]) + 1)


async def main() -> None:
    """Measure all of them in one run."""
    measured: list[tuple[str, str, float, float | None, int, float]] = []
    with serving() as server, postgres_server.serving() as database:
        for name, beside, make, count, polls in (
            ("TokenBucket", "aiolimiter", ours, 5000, False),
            ("aiolimiter", "aiolimiter", theirs_aiolimiter, 5000, False),
            ("pyrate-limiter", "aiolimiter", theirs_pyrate, 5000, False),
            ("RedisTokenBucket", "limits, Redis", ours_redis(server.url), 500, False),
            ("PostgresTokenBucket", "limits, Redis", ours_postgres(database.url), 500, False),
            ("limits, Redis", "limits, Redis", theirs_limits(server.url), 500, True),
        ):
            most, share = await kept(make)
            # 5,000 polling waiters are a load test of Redis, not of a limiter.
            crowd = None if polls else await measure_crowd(make)
            measured.append((name, beside, await alone(make, count), crowd, most, share))
    costs = {name: (single, crowd) for name, _, single, crowd, _, _ in measured}
    rows = []
    for name, beside, single, crowd, most, share in measured:
        their_single, their_crowd = costs[beside]
        ratio = crowd / their_crowd if crowd and their_crowd else None
        rows.append([name, single, single / their_single, crowd, ratio, beside, most, ALLOWED, share])
    columns = [
        "limiter",
        "µs alone",
        "ratio alone",
        "µs of 5,000",
        "ratio of 5,000",
        "to",
        "most in 1 s",
        "allowed",
        "share used",
    ]
    show(__doc__.splitlines()[0] if __doc__ else "", columns, rows)


if __name__ == "__main__":
    asyncio.run(main())

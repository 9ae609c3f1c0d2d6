"""Twenty logins in one second: how long they wait, and how many percent of requests a gateway refuses after jitter.

Three gateways take 25 requests a second: one counts in any second, one in each second of its clock, and one has a
bucket of 25 tokens. Each burst is followed by steady sends, for a burst is worst right before full load. The clock is
virtual. Each jitter has so many rounds, and the gateway's clock has another phase in each of them.
"""

import asyncio
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable

from table import show
from workload import virtual_time

from oca_sms_async import TokenBucket

ALLOWED = 25
LOGINS = 20
STEADY = 60  # requests that wait behind the logins, all there when the last login comes
JITTERS = (0.0, 0.05, 0.1)
ROUNDS = 200
BUCKETS = (
    (22.0, 1.0),
    (20.0, 3.0),
    (18.0, 5.0),
    (15.0, 8.0),
    (5.0, 18.0),
    (22.0, 3.0),
    (20.0, 5.0),
    (15.0, 10.0),
    (22.0, 20.0),
)

Arrivals = Iterable[float]


def in_any_second(arrivals: Arrivals) -> int:
    """Count the refusals of a gateway that takes 25 in any second."""
    recent, refused = deque[float](), 0
    for moment in arrivals:
        while recent and recent[0] <= moment - 1:
            recent.popleft()
        if len(recent) >= ALLOWED:
            refused += 1
        else:
            recent.append(moment)
    return refused


def in_each_second(arrivals: Arrivals) -> int:
    """Count the refusals of a gateway that takes 25 between two full seconds of its clock."""
    seconds = Counter(map(math.floor, arrivals))
    return sum(max(0, count - ALLOWED) for count in seconds.values())


def by_a_bucket(arrivals: Arrivals) -> int:
    """Count the refusals of a gateway with a bucket of 25 tokens that fills at 25 a second."""
    tokens, before, refused = float(ALLOWED), -math.inf, 0
    for moment in arrivals:
        tokens, before = min(ALLOWED, tokens + (moment - before) * ALLOWED), moment
        if tokens >= 1:
            tokens -= 1
        else:
            refused += 1
    return refused


# The keys are column names: a gateway that counts in any second, one that counts in each, and one with a bucket.
GATEWAYS: dict[str, Callable[[Arrivals], int]] = {
    "any second": in_any_second,
    "each second": in_each_second,
    "bucket": by_a_bucket,
}


async def starts(bucket: TokenBucket, draw: random.Random) -> tuple[list[float], float]:
    """Return the moment at which each request starts, and how long the login waited that waited longest."""
    clock = asyncio.get_running_loop().time
    began, moments, waits = clock(), list[float](), list[float]()

    async def login(after: float) -> None:
        await asyncio.sleep(after)
        asked = clock()
        await bucket.acquire()
        waits.append(clock() - asked)
        moments.append(clock() - began)

    async def steady() -> None:
        await asyncio.sleep(1)
        await bucket.acquire()
        moments.append(clock() - began)

    logins = (login(draw.random()) for _ in range(LOGINS))
    await asyncio.gather(*logins, *(steady() for _ in range(STEADY)))
    return moments, max(waits)


def measure(rate: float, capacity: float) -> list[object]:
    """Return the row of one bucket."""
    draw = random.Random(1)
    spread = [virtual_time.run(starts(TokenBucket(rate, capacity), draw)) for _ in range(ROUNDS)]
    at_once = max(0.0, (LOGINS - capacity) / rate)  # by the bucket's arithmetic
    row: list[object] = [
        rate,
        capacity,
        capacity + rate,
        max(wait for _, wait in spread),
        at_once,
    ]
    sent = ROUNDS * (LOGINS + STEADY)
    for jitter in JITTERS:
        refused = Counter[str]()
        for moments, _ in spread:
            phase = draw.random()
            arrivals = sorted(moment + phase + draw.uniform(0, jitter) for moment in moments)
            for name, count in GATEWAYS.items():
                refused[name] += count(arrivals)
        row += [100 * refused[name] / sent for name in GATEWAYS]
    return row


def main() -> None:
    """Measure and print."""
    columns = ["rate", "capacity", "most in 1 s", "longest wait, s", "all at once, s"]
    columns += [f"{name}, {jitter * 1e3:.0f} ms" for jitter in JITTERS for name in GATEWAYS]
    rows = [measure(rate, capacity) for rate, capacity in BUCKETS]
    show(__doc__.splitlines()[0] if __doc__ else "", columns, rows)


if __name__ == "__main__":
    main()

"""How long an interactive send waits behind a running bulk, for a gateway that takes 25 a second.

The time is from the call to the receipt; a token time is one over the limiter's rate. Interactive sends come five a
second. Evenly spread, they do not wait for each other. At random they queue behind each other too, with or without a
bulk. All clients run at once, on warm connections, against a server that answers at once.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable

import aiolimiter
import httpx
from answering import answering
from recipes import ACCOUNT
from table import show
from workload import messages

from oca_sms_async import AsyncOcaSms, Sms, TokenBucket

RATE = 25.0
BULK = 1500
INTERACTIVE = 250  # of fewer, the 99th percentile would be the worst one, and that is the machine's
EVERY = 0.2  # seconds between interactive sends, on average
OTP = Sms("+6281312345678", "Acme: 482913 is your code")


def evenly(draw: random.Random) -> float:
    """Return the seconds to the next send, never much less than the average."""
    return draw.uniform(EVERY / 2, EVERY * 3 / 2)


def at_random(draw: random.Random) -> float:
    """Return the seconds to the next send of a Poisson process."""
    return draw.expovariate(1 / EVERY)


Gap = Callable[[random.Random], float]


async def waits(send: Callable[[Sms], Awaitable[object]], bulk: Awaitable[object], gap: Gap) -> list[float]:
    """Return the seconds that each interactive send took, all of them asked for while the bulk ran."""
    draw = random.Random(1)
    await send(OTP)  # warms a connection up
    running = asyncio.ensure_future(bulk)

    async def one(after: float) -> float:
        await asyncio.sleep(after)
        assert not running.done(), "the bulk ended before the last interactive send"
        started = time.perf_counter()
        await send(OTP)
        return time.perf_counter() - started

    moments = [0.5]
    while len(moments) < INTERACTIVE:
        moments.append(moments[-1] + gap(draw))
    seconds = await asyncio.gather(*map(one, moments))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return seconds


def p99(seconds: list[float]) -> float:
    """Return the 99th percentile."""
    return statistics.quantiles(seconds, n=100, method="inclusive")[98]


async def ours(base_url: str, concurrency: int | None, gap: Gap) -> list[float]:
    """`AsyncOcaSms` with its default limiter, behind a bulk with this concurrency, or without a bulk."""
    async with AsyncOcaSms(*ACCOUNT, base_url=base_url) as client:

        async def bulk() -> None:
            if concurrency is None:
                await asyncio.sleep(3600)
                return
            async with client.bulk(messages(BULK), concurrency=concurrency) as outcomes:
                async for _ in outcomes:
                    pass

        return await waits(lambda sms: client.send(sms.phone, sms.message), bulk(), gap)


async def recipe(base_url: str) -> list[float]:
    """One aiolimiter before httpx: first come, first served."""
    limiter = aiolimiter.AsyncLimiter(RATE, 1)
    async with httpx.AsyncClient(base_url=base_url, auth=ACCOUNT, timeout=10) as client:

        async def send(sms: Sms) -> None:
            async with limiter:
                await client.post("/sms", json={"phone": sms.phone, "message": sms.message})

        return await waits(send, asyncio.gather(*map(send, messages(BULK))), evenly)


async def main() -> None:
    """Measure all at once."""
    ours_rate = TokenBucket().rate
    with answering() as port:
        url = f"http://127.0.0.1:{port}/api/v1"
        runs: list[tuple[str, float, Awaitable[list[float]]]] = []
        for gap, name in ((evenly, "even"), (at_random, "random")):
            for concurrency in (None, 32, 256):
                behind = "no bulk" if concurrency is None else f"bulk of {concurrency} at once"
                runs.append((f"ours, {name}, {behind}", ours_rate, ours(url, concurrency, gap)))
        runs.append(("aiolimiter, even, gather", RATE, recipe(url)))
        figures = await asyncio.gather(*(run for _, _, run in runs))
    theirs, alone = p99(figures[-1]), figures[0]
    rows = []
    for (name, rate, _), seconds in zip(runs, figures, strict=True):
        if name.endswith("no bulk"):
            alone = seconds
        added = (
            None if name.startswith("aio") else p99([one - it for one, it in zip(seconds, alone, strict=True)]) * rate
        )
        median, most = statistics.median(seconds), p99(seconds)
        rows.append([name, median * 1e3, most * 1e3, median * rate, most * rate, added, most / theirs])
    columns = ["client", "median, ms", "p99, ms", "median, tokens", "p99, tokens", "bulk adds, p99, tokens"]
    columns.append("p99 to aiolimiter's")
    show(__doc__.splitlines()[0] if __doc__ else "", columns, rows)


if __name__ == "__main__":
    asyncio.run(main())

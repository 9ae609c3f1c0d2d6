"""CPU and throughput of a bulk, warm, at 1, 16, 64 and 256 in flight: ours beside recipes of other libraries.

CPU is that of this process in microseconds per message, the best of three. The server is another process on another
core. uvloop is measured at 64 in flight only, so that a run ends within a minute.
"""

import asyncio
import gc
import time
from collections.abc import Callable

from answering import answering
from recipes import RECIPES, Recipe
from table import show

from oca_sms_async import Sms

IN_FLIGHT = (1, 16, 64, 256)
UVLOOP_AT = 64
MESSAGES = 600
ROUNDS = 3

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment] # an optional column


async def cost(recipe: Recipe, base_url: str, in_flight: int) -> tuple[float, float]:
    """Return microseconds of CPU per message, and messages per second, the best of some rounds."""
    messages = [Sms(f"+62812{number:08}", f"Acme: {number:06} is your code") for number in range(MESSAGES)]
    best_cpu, best_rate = float("inf"), 0.0
    async with recipe(base_url, in_flight) as send:
        await send(messages[: 2 * in_flight])  # warms the connections up
        gc.collect()
        for _ in range(ROUNDS):
            cpu, wall = time.process_time(), time.perf_counter()
            await send(messages)
            best_cpu = min(best_cpu, (time.process_time() - cpu) / MESSAGES * 1e6)
            best_rate = max(best_rate, MESSAGES / (time.perf_counter() - wall))
    return best_cpu, best_rate


def measure(base_url: str, loops: dict[str, Callable[[], asyncio.AbstractEventLoop]]) -> list[list[object]]:
    """Return a row for each recipe and number in flight."""
    figures = {
        (name, loop, in_flight): asyncio.Runner(loop_factory=factory).run(cost(recipe, base_url, in_flight))
        for in_flight in IN_FLIGHT
        for name, recipe in RECIPES.items()
        for loop, factory in loops.items()
        if loop == "asyncio" or in_flight == UVLOOP_AT
    }
    rows: list[list[object]] = []
    for in_flight in IN_FLIGHT:
        for name in RECIPES:
            cpu, rate = figures[name, "asyncio", in_flight]
            ratios = [cpu / figures[beside, "asyncio", in_flight][0] for beside in ("httpx recipe", "aiohttp recipe")]
            at_16 = cpu / figures[name, "asyncio", 16][0]
            fast = figures.get((name, "uvloop", in_flight), (None, None))[0]
            rows.append([in_flight, name, cpu, *ratios, at_16, rate, fast])
    return rows


def main() -> None:
    """Measure and print."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None:
        loops["uvloop"] = uvloop.new_event_loop
    with answering() as port:
        rows = measure(f"http://127.0.0.1:{port}/api/v1", loops)
    columns = ["in flight", "client", "µs CPU", "to httpx", "to aiohttp", "to its 16", "messages/s", "µs CPU, uvloop"]
    show(__doc__.splitlines()[0] if __doc__ else "", columns, rows)


if __name__ == "__main__":
    main()

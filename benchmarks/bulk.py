"""CPU and throughput of a bulk, warm, at 1, 16, 64 and 256 in flight: ours beside recipes of other libraries.

CPU is in microseconds per message. Each client has a process of its own, and the processes take turns on one core: a
machine's speed changes from one second to the next. It also changes within minutes, so the numbers in flight take turns
too, in several passes with fresh processes. Each round is warmed up, because the rounds of the others have cooled the
caches down. A figure is the mean of all rounds: the collector looks through the whole heap in every second or third of
them, and a median would count that in some runs only. The server has another core. uvloop is measured at 64 in flight
only.
"""

import asyncio
import contextlib
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from answering import answering
from recipes import RECIPES
from table import show

from oca_sms_async import Sms

IN_FLIGHT = (1, 16, 64, 256)
UVLOOP_AT = 64
MESSAGES = 600
PASSES = 3
ROUNDS = 10

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment] # an optional column


async def send_when_asked(name: str, base_url: str, in_flight: int) -> None:
    """Send a round for each line of the input. Print its microseconds of CPU per message, and messages per second."""
    messages = [Sms(f"+62812{number:08}", f"Acme: {number:06} is your code") for number in range(MESSAGES)]
    async with RECIPES[name](base_url, in_flight) as send:
        for _ in sys.stdin:  # this waits in the event loop's place, which has nothing to do between two rounds
            await send(messages[: 2 * in_flight])  # the connections and the caches are warm then
            cpu, wall = time.process_time(), time.perf_counter()
            await send(messages)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            print(cpu / MESSAGES * 1e6, MESSAGES / wall, flush=True)


@contextlib.contextmanager
def client(name: str, base_url: str, in_flight: int, loop: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process that sends a round for each line."""
    command = [sys.executable, __file__, name, base_url, str(in_flight), loop]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str]) -> tuple[float, float]:
    """Return the two figures of one round of a client."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    cpu, rate = process.stdout.readline().split()
    return float(cpu), float(rate)


def take_turns(base_url: str, in_flight: int, loop: str) -> list[dict[str, tuple[float, float]]]:
    """Return the figures of each client in some rounds."""
    with contextlib.ExitStack() as stack:
        clients = {name: stack.enter_context(client(name, base_url, in_flight, loop)) for name in RECIPES}
        return [{name: ask(process) for name, process in clients.items()} for _ in range(1 + ROUNDS)][1:]


def measure(base_url: str) -> list[list[object]]:
    """Return a row for each recipe and number in flight."""
    kinds = [(in_flight, "asyncio") for in_flight in IN_FLIGHT]
    if uvloop is not None:
        kinds.append((UVLOOP_AT, "uvloop"))
    rounds: dict[tuple[int, str], list[dict[str, tuple[float, float]]]] = {kind: [] for kind in kinds}
    for _ in range(PASSES):
        for kind in kinds:
            rounds[kind] += take_turns(base_url, *kind)

    def mean(name: str, in_flight: int, loop: str = "asyncio", *, figure: int = 0) -> float:
        return statistics.fmean(it[name][figure] for it in rounds[in_flight, loop])

    rows: list[list[object]] = []
    for in_flight, name in itertools.product(IN_FLIGHT, RECIPES):
        cpu = mean(name, in_flight)
        ratios = [cpu / mean(beside, in_flight) for beside in ("httpx recipe", "aiohttp recipe")]
        on_uvloop = mean(name, in_flight, "uvloop") if (in_flight, "uvloop") in rounds else None
        rate = mean(name, in_flight, figure=1)
        rows.append([in_flight, name, cpu, *ratios, cpu / mean(name, 16), rate, on_uvloop])
    return rows


def main() -> None:
    """Measure and print."""
    with answering() as port:
        rows = measure(f"http://127.0.0.1:{port}/api/v1")
    columns = ["in flight", "client", "µs CPU", "to httpx", "to aiohttp", "to its 16", "messages/s", "µs CPU, uvloop"]
    show(__doc__.splitlines()[0] if __doc__ else "", columns, rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        recipe, url, at_once, kind = sys.argv[1:]
        factory = asyncio.new_event_loop if kind == "asyncio" else uvloop.new_event_loop
        asyncio.Runner(loop_factory=factory).run(send_when_asked(recipe, url, int(at_once)))
    else:
        main()

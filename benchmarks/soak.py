"""A long run against a gateway that fails in every way: each message is accounted for, and no resource grows.

`--messages N` (100,000) go out, 128 at once, half by `send` and half by `bulk`, to a server in this process that
resets connections, drops them after it accepted, answers 500/13, 429 or 406, cuts bodies short or takes too long. Some
callers give up under way. Each outcome is compared with the server's own record. Exit status 1 if one of them is
untrue, or memory, objects, files, connections or tasks grew.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import random
import socket
import struct
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import define, frozen
from table import show

from oca_sms_async import (
    AsyncOcaSms,
    Failed,
    OcaSmsError,
    Outcome,
    RetryPolicy,
    SendReceipt,
    Sent,
    Skipped,
    Sms,
    TokenBucket,
)

SEED: Final = 1
CONCURRENCY: Final = 64  # of each of the two ways
TIMEOUT: Final = 3.0  # seconds; the slow answers come after it
MOST_SAMPLES: Final = 10
RATE: Final = 100_000.0  # far above the load, but a 429 still pauses the limiter
END: Final = b"\r\n\r\n"
# Faults in a thousand requests. All others are answered as documented.
FAULTS: Final = {
    "reset": 10,  # instead of an answer; half of them were accepted
    "dropped": 10,  # accepted, and hung up on
    "internal": 30,  # 500/13, accepted every other time
    "limited": 2,
    "refused": 20,
    "truncated": 10,  # accepted, and answered by half a receipt
    "slow": 2,  # accepted, and answered after the time-out
}
CANCELLED_EVERY: Final = 50  # of the messages of `send`

# Growth that is allowed between the first sample, after the warm-up, and the last.
MOST_MEMORY: Final = 12.0  # MB of the process: the allocator's own unevenness
MOST_TRACED: Final = 0.5  # MB of Python's objects
MOST_OBJECTS: Final = 1_000

_STATUS: Final = Path("/proc/self/status")
_FILES: Final = Path("/proc/self/fd")


# --- the gateway -----------------------------------------------------------------------------------------------------


def http(status: str, body: bytes, headers: str = "") -> bytes:
    """Return an answer."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


INTERNAL: Final = http("500 Error", b'{"errors": [{"code": 13, "message": "Internal Error"}]}')
LIMITED: Final = http("429 Many", b'{"errors": [{"code": 9, "message": "Too Many Request"}]}', "retry-after: 0.01\r\n")
REFUSED: Final = http("406 No", b'{"errors": [{"code": 39, "message": "refused"}]}')


class Gateway:
    """The server's own record: how often it accepted each message, its faults, and its connections."""

    def __init__(self) -> None:
        self.accepted = bytearray()
        self.faults = Counter[str]()
        self.connections = set[Connection]()
        self.requests = 0
        self._draw = random.Random(SEED)

    def accept(self, number: int) -> None:
        """Accept a message. The id of its receipt is its number."""
        if len(self.accepted) <= number:
            self.accepted.extend(bytes(number + 1 - len(self.accepted)))
        self.accepted[number] += 1

    def fault(self) -> str:
        """Draw the fate of the next request."""
        self.requests += 1
        at = self._draw.randrange(1000)
        for name, often in FAULTS.items():
            at -= often
            if at < 0:
                self.faults[name] += 1
                return name
        return ""

    def coin(self) -> bool:
        """Draw one of two."""
        return self._draw.random() < 0.5


class Connection(asyncio.Protocol):
    """One connection. Its requests have a Content-Length and come one at a time."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._gateway.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Forget it."""
        self._gateway.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Treat each complete request as it was drawn."""
        self._data += data
        while (end := self._data.find(END)) >= 0:
            head = self._data[:end].lower()
            length = int(head[head.find(b"content-length:") + 15 :].split(b"\r\n", 1)[0])
            if len(self._data) < end + 4 + length:
                return
            body, self._data = self._data[end + 4 : end + 4 + length], self._data[end + 4 + length :]
            self._answer(int(json.loads(body)["message"].split()[-1]))

    def _answer(self, number: int) -> None:
        gateway, write = self._gateway, self._transport.write
        receipt = http("200 OK", b'{"status": "sent", "msg_uid": "uid-%d"}' % number)
        fault = gateway.fault()
        if fault in {"", "dropped", "truncated", "slow"} or (fault in {"internal", "reset"} and gateway.coin()):
            gateway.accept(number)
        match fault:
            case "reset":
                raw = self._transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._transport.abort()
            case "dropped":
                self._transport.close()
            case "truncated":
                write(receipt[:-9])
                self._transport.close()
            case "slow":
                asyncio.get_running_loop().call_later(1.1 * TIMEOUT, self._write_late, receipt)
            case "internal":
                write(INTERNAL)
            case "limited":
                write(LIMITED)
            case "refused":
                write(REFUSED)
            case _:
                write(receipt)

    def _write_late(self, receipt: bytes) -> None:
        if not self._transport.is_closing():  # it is closing if the client gave up
            self._transport.write(receipt)


# --- the books -------------------------------------------------------------------------------------------------------


class Books:
    """The client's answer about each message, compared with the gateway's record."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._booked = bytearray()
        self.outcomes = Counter[str]()
        self.errors = list[str]()

    def book_receipt(self, number: int, receipt: SendReceipt) -> None:
        """Book a receipt: the message was accepted, and more than once only if `attempts` says so."""
        times = self._times(number)
        self._book(number, "sent", times == 1 or 1 < times <= receipt.attempts, f"accepted {times} times: {receipt}")
        if receipt.msg_uid != f"uid-{number}":
            self.errors.append(f"message {number}: the receipt of another one")

    def book_error(self, number: int, error: OcaSmsError) -> None:
        """Book an error: if it says that the message was not sent, the gateway did not accept it."""
        unsent = not error.may_have_been_sent
        true = self._times(number) <= (0 if unsent else max(error.attempts, 1))
        self._book(number, "not sent" if unsent else "unknown", true, f"accepted {self._times(number)} times: {error}")

    def book_cancellation(self, number: int) -> None:
        """Book a message that its caller cancelled. It may have been accepted, but no more often than it was tried."""
        self._book(number, "cancelled", self._times(number) <= RetryPolicy().max_attempts, "accepted too often")

    def book(self, outcome: Outcome, number: int) -> None:
        """Book one outcome of a bulk."""
        match outcome:
            case Sent(receipt=receipt):
                self.book_receipt(number, receipt)
            case Failed(error=error):
                self.book_error(number, error)
            case Skipped():
                self._book(number, "skipped", False, f"{outcome.reason}")

    def close(self, messages: int) -> None:
        """Look for messages without an outcome, and for accepted messages that were never sent."""
        missing = messages - sum(self._booked[:messages])
        if missing or len(self._booked) > messages or len(self._gateway.accepted) > messages:
            self.errors.append(f"{missing} messages have no outcome")

    def _times(self, number: int) -> int:
        accepted = self._gateway.accepted
        return accepted[number] if number < len(accepted) else 0

    def _book(self, number: int, name: str, true: bool, why: str) -> None:  # noqa: FBT001 - the columns of a book, in order
        self.outcomes[name] += 1
        if len(self._booked) <= number:
            self._booked.extend(bytes(number + 1 - len(self._booked)))
        self._booked[number] += 1
        if not true or self._booked[number] > 1:
            self.errors.append(f"message {number}, {name}: {why}")


# --- resources -------------------------------------------------------------------------------------------------------


@frozen
class Sample:
    """The resources of this process at one moment of rest, after so many messages."""

    messages: int
    seconds: float
    memory: float  # MB
    traced: float  # MB
    objects: int
    files: int
    connections: int  # at the gateway
    tasks: int


@define
class Run:
    """One run: its gateway, its books, its samples."""

    gateway: Gateway
    books: Books
    samples: list[Sample]
    started: float

    def sample(self, messages: int) -> None:
        """Take a sample, when nothing is under way."""
        gc.collect()
        self.samples.append(
            Sample(
                messages=messages,
                seconds=time.perf_counter() - self.started,
                memory=_resident(),
                traced=tracemalloc.get_traced_memory()[0] / 2**20 if tracemalloc.is_tracing() else 0.0,
                objects=len(gc.get_objects()),
                files=len([*_FILES.iterdir()]) if _FILES.exists() else 0,
                connections=len(self.gateway.connections),
                tasks=len(asyncio.all_tasks()),
            )
        )

    def growth(self) -> list[str]:
        """Return the resources that grew from the first sample to the last by more than is allowed."""
        first, last = self.samples[0], self.samples[-1]
        allowed = {"memory": MOST_MEMORY, "traced": MOST_TRACED, "objects": MOST_OBJECTS}
        return [
            f"{name} grew from {getattr(first, name):.6g} to {getattr(last, name):.6g}"
            for name in ("memory", "traced", "objects", "files", "connections", "tasks")
            if getattr(last, name) > getattr(first, name) + allowed.get(name, 0)
        ]


def _resident() -> float:
    """Return the memory of this process in MB, or 0 if the system does not tell."""
    if not _STATUS.exists():
        return 0.0
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if "VmRSS" in line) / 1024


# --- the load --------------------------------------------------------------------------------------------------------


def sms(number: int) -> Sms:
    """Return one message, its number in its text."""
    return Sms(f"+62812{number % 10**8:08}", f"Acme: {number}")


async def by_send(client: AsyncOcaSms, numbers: Iterator[int], books: Books, draw: random.Random) -> None:
    """Send one message after the other. Cancel one of them now and then."""
    for number in numbers:
        one = sms(number)
        try:
            if number % CANCELLED_EVERY:
                books.book_receipt(number, await client.send(one.phone, one.message))
            else:
                async with asyncio.timeout(draw.random() * 0.02) as bound:
                    books.book_receipt(number, await client.send(one.phone, one.message))
        except OcaSmsError as error:
            books.book_error(number, error)
        except TimeoutError:
            assert bound.expired()
            books.book_cancellation(number)


async def by_bulk(client: AsyncOcaSms, numbers: range, books: Books) -> None:
    """Send all of them in one run."""
    async with client.bulk(map(sms, numbers), concurrency=CONCURRENCY) as outcomes:
        async for outcome in outcomes:
            books.book(outcome, int(outcome.sms.message.split()[-1]))


async def soak(messages: int) -> Run:
    """Send so many messages through one client, take a sample after each part of them, and return the run."""
    samples = max(3, min(messages // 1000, MOST_SAMPLES))
    gateway = Gateway()
    run, draw = Run(gateway, Books(gateway), [], time.perf_counter()), random.Random(SEED)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(gateway), "127.0.0.1", 0, backlog=1024)
    base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/v1"
    retry, limiter = RetryPolicy(initial_wait=0.001, max_wait=0.01), TokenBucket(RATE, CONCURRENCY)
    async with AsyncOcaSms(
        "a@example.com", "secret", base_url=base_url, limiter=limiter, retry=retry, timeout=TIMEOUT
    ) as client:
        begin = 0
        for part in range(1, samples + 1):
            end = messages * part // samples
            middle = (begin + end) // 2
            numbers = iter(range(begin, middle))
            senders = [by_send(client, numbers, run.books, draw) for _ in range(CONCURRENCY)]
            await asyncio.gather(by_bulk(client, range(middle, end), run.books), *senders)
            await _rest(gateway)
            run.sample(end)
            begin = end
    run.books.close(messages)
    server.close()
    await server.wait_closed()
    return run


async def _rest(gateway: Gateway) -> None:
    """Wait until idle connections are closed and slow answers have come. A longer wait would be a leak."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while gateway.connections:
                await asyncio.sleep(0.05)


def main() -> int:
    """Run, and print the result."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--messages", type=int, default=100_000)
    arguments.add_argument("--json", action="store_true")
    messages = arguments.parse_args().messages
    logging.getLogger("oca_sms_async").addHandler(logging.NullHandler())  # each cancelled send logs a warning
    tracemalloc.start()
    run = asyncio.run(soak(messages))
    columns = ["messages", "seconds", "RSS, MB", "traced, MB", "objects", "files", "connections", "tasks"]
    rows = [
        [it.messages, it.seconds, it.memory, it.traced, it.objects, it.files, it.connections, it.tasks]
        for it in run.samples
    ]
    show(__doc__.splitlines()[0] if __doc__ else "", columns, rows)
    show("Outcomes, as the client told them", ["outcome", "messages"], [*run.books.outcomes.items()])
    requests = [["all", run.gateway.requests], *run.gateway.faults.items()]
    show("Requests, as the gateway answered them", ["fault", "requests"], requests)
    wrong = run.books.errors + run.growth()
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    print(f"{len(run.books.errors)} messages unaccounted for; grown: {', '.join(run.growth()) or 'nothing'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

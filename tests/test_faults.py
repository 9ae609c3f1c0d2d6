"""The client is held to the table of faults: each row, both transports, each call, new connections and kept ones."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from documents import read
from faults import BEGIN, END, FAULTS, PAGE, End, Fault, Link, replace_table
from moved_clock import HANG, Clock, turns, until
from troubles import Deafness

from oca_sms_async import AsyncOcaSms, OcaSmsError, RetryPolicy, SendReceipt, SmsRecord, Unlimited

PHONE: Final = "+6281381475159"
MEBIBYTE: Final = 2**20

CALLS: dict[str, Callable[[AsyncOcaSms, str], Awaitable[SendReceipt | SmsRecord | list[SmsRecord]]]] = {
    "send": lambda client, text: client.send(PHONE, text),
    "history": lambda client, _: client.history(),
    "status": lambda client, _: client.status("abc"),
}
UIDS: Final = {"send": "first", "history": "sms", "status": "abc"}
TIMEOUTS: Final = {"send": 10, "history": 60, "status": 10}  # seconds: the defaults of the calls
LONGEST: Final = {
    "send": 1 * MEBIBYTE,
    "history": 64 * MEBIBYTE,
    "status": 1 * MEBIBYTE,
}  # of an answer


def open_files() -> int:
    """Return how many files and sockets this process has open."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


@contextlib.contextmanager
def bound_memory(bound: int) -> Iterator[None]:
    """Fail if the peak of memory is above the bound."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < bound
    finally:
        tracemalloc.stop()


def cases() -> Iterator[Any]:
    """Yield each row with each kind of connection that it can happen to."""
    for fault in FAULTS:
        for link in fault.links:
            yield pytest.param(fault, link, id=f"{fault.during}: {fault.what}-{link.value}")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("fault", "link"), [*cases()])
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's, about Deafness
async def test_a_fault_ends_as_the_table_says(
    fault: Fault, link: Link, call: str, transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error, doubt, requests and time are those of the row. Nothing is left over, and the next send works."""
    files = open_files()
    clock = Clock(monkeypatch)
    trouble = fault.trouble()
    end = fault.end_on(transport)
    text = "x" * 16 * MEBIBYTE if isinstance(trouble, Deafness) else UIDS["send"]
    async with trouble.serve(monkeypatch, tmp_path) as gateway:
        async with AsyncOcaSms(
            "user@example.com",
            "secret",
            base_url=gateway.base_url,
            limiter=Unlimited(),
            retry=RetryPolicy(initial_wait=0),
        ) as client:
            if link is Link.KEPT:
                await client.send(PHONE, "before")
                await turns()
            read, accepted = len(gateway.requests), gateway.accepted
            await trouble.begin()
            timeout = TIMEOUTS[call]
            bounded = bound_memory(2 * LONGEST[call] + 16 * MEBIBYTE) if fault.floods else contextlib.nullcontext()
            with bounded:
                pending = asyncio.ensure_future(CALLS[call](client, text))
                await clock.end(pending, once=gateway.stalled.wait(), at_most=timeout + 1)
            if end.error is None:
                result = pending.result()
                assert (result[0] if isinstance(result, list) else result).msg_uid == UIDS[call]
            else:
                error = pending.exception()
                assert isinstance(error, OcaSmsError)
                assert type(error) is end.error
                assert error.may_have_been_sent is (end.doubt and call == "send")
                assert error.attempts == max(1, fault.requests)
            assert len(gateway.requests) - read == fault.requests
            assert gateway.accepted - accepted <= 1
            assert clock.seconds >= timeout if fault.timed_out else clock.moved == 0 and clock.seconds < timeout
            await trouble.end()
            await until(lambda: gateway.in_flight == 0)
            # A connection is kept only if its answer came to its end.
            kept = 0 if end in {End.UNSENT, End.UNKNOWN} or fault.floods else 1
            await until(lambda: gateway.open <= kept)
            assert (await asyncio.wait_for(client.send(PHONE, "next"), HANG)).msg_uid == "next"
        await until(lambda: gateway.open == 0)
        assert len(gateway.requests) - read - 1 <= max(1, fault.requests)  # not even when it had stalled
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    await until(lambda: open_files() == files)


def test_the_page_has_the_table() -> None:
    """`python tests/faults.py` was run after the table was changed."""
    page = read(PAGE)
    assert page.count(f"{BEGIN}\n") == page.count(f"{END}\n") == 1
    assert page == replace_table(page)

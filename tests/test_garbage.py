"""Nothing of a send waits for the garbage collector, and nothing of it stays in the task that made it."""

import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator

import httpx
import pytest
from on_sockets import PHONE, TEXT, client_of, free_port
from raw_gateway import RawGateway

from oca_sms_async import ConnectionFailedError, Sms
from oca_sms_async.aiohttp import aiohttp_client

PARTS = {"CallState", "CallOptions", "Request", "Trace", "Reply"}  # of a request, in this library's rooms


@pytest.fixture(params=["own", "aiohttp"])
async def lent(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient | None]:
    """No client to lend, and one on aiohttp's connections."""
    if request.param == "own":
        yield None
        return
    async with aiohttp_client() as client:
        yield client


def count_ours(objects: Iterable[object]) -> Counter[str]:
    """Count this library's own objects among these by the names of their types."""
    types = [type(it) for it in objects]
    return Counter(it.__qualname__ for it in types if str(it.__module__).startswith("oca_sms_async._"))


@contextlib.contextmanager
def saved_garbage() -> Iterator[list[object]]:
    """Yield a list that has, after the block, the objects that only the collector frees."""
    found: list[object] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def test_a_bulk_leaves_no_garbage(lent: httpx.AsyncClient | None) -> None:
    """The workers of a bulk that has ended, their last messages and the run itself are freed at once."""
    messages = [Sms(PHONE, f"{TEXT} {number}") for number in range(20)]
    async with RawGateway().serve() as gateway, client_of(gateway.base_url, http_client=lent) as client:
        await client.send_many(messages, concurrency=8)
        with saved_garbage() as found:
            report = await client.send_many(messages, concurrency=8)
    assert len(report.sent) == 20
    assert count_ours(found) == {}


async def test_a_send_stays_in_no_task(lent: httpx.AsyncClient | None) -> None:
    """A task that has sent a message keeps no part of its request, whether a connection came about or not."""
    gc.collect()
    before = count_ours(gc.get_objects())  # another test may have left a task
    async with RawGateway().serve() as gateway, client_of(gateway.base_url, http_client=lent) as client:
        await client.send(PHONE, TEXT)
        assert PARTS.isdisjoint(count_ours(gc.get_objects()) - before)
    async with client_of(f"http://127.0.0.1:{free_port()}", http_client=lent) as client:
        with pytest.raises(ConnectionFailedError):
            await client.send(PHONE, TEXT)
        gc.collect()  # an error and the frames of its traceback hold each other
        assert PARTS.isdisjoint(count_ours(gc.get_objects()) - before)

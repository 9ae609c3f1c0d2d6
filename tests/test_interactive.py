"""Interactive sends beside a bulk: their slots, and how long they wait."""

import asyncio
import itertools
import random

import pytest
from in_memory import PHONE, TEXT, Gateway, client_of, delay, make_messages
from virtual_time import in_virtual_time, now, run

from oca_sms_async import Sms, TokenBucket

RATE = 5.0  # interactive sends a second, on average
SENDS = 400


@in_virtual_time
async def test_a_bulk_leaves_slots_for_interactive_sends() -> None:
    """A bulk of 256 at once has 192 requests in flight and none that waits; 64 interactive sends start at once."""
    gateway = Gateway(delay(5.0))
    client = client_of(gateway)
    bulk = asyncio.ensure_future(client.send_many(make_messages(256), concurrency=256))
    await asyncio.sleep(1)
    assert len(gateway.moments) == 192
    assert client.statistics().waiting == 0
    sends = [asyncio.create_task(client.send(PHONE, TEXT)) for _ in range(64)]
    since = now()
    await asyncio.sleep(1)
    assert gateway.moments[192:] == [since] * 64
    await asyncio.gather(bulk, *sends)


def waits_of_sends(concurrency: int | None) -> list[float]:
    """Return how many token times interactive sends at random moments wait, behind a bulk or without one, sorted."""

    async def main() -> list[float]:
        draw, bucket, gateway = random.Random(1), TokenBucket(), Gateway(delay(0.05))
        client, asked = client_of(gateway, limiter=bucket), dict[str, float]()

        async def send(text: str) -> None:
            asked[text] = now()
            await client.send(PHONE, text)

        async with asyncio.TaskGroup() as tasks:
            bulk = None
            if concurrency is not None:
                endless = itertools.repeat(Sms(PHONE, TEXT))
                bulk = tasks.create_task(client.send_many(endless, concurrency=concurrency))
            for number in range(SENDS):
                await asyncio.sleep(draw.expovariate(RATE))
                tasks.create_task(send(str(number)))
            await asyncio.sleep(60)
            if bulk is not None:
                bulk.cancel()
        starts = zip(gateway.texts, gateway.moments, strict=True)
        return sorted((moment - asked[text]) * bucket.rate for text, moment in starts if text in asked)

    return run(main())


@pytest.fixture(scope="module")
def alone() -> list[float]:
    """Return the waits without a bulk."""
    return waits_of_sends(None)


@pytest.mark.parametrize("concurrency", [32, 256])
def test_a_bulk_adds_little_to_the_wait_of_an_interactive_send(alone: list[float], concurrency: int) -> None:
    """With five sends a second at random moments, the 99th percentile grows by at most 1.2 token times."""
    waits = waits_of_sends(concurrency)
    assert len(waits) == len(alone) == SENDS
    at = SENDS * 99 // 100
    assert waits[at] <= alone[at] + 1.2

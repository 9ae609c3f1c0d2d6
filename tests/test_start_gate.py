"""Requests start within the limit, even where a stall lies between the token and the first byte."""

import asyncio
import contextlib
import math
from collections.abc import Sequence

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import in_virtual_time, run

from oca_sms_async import AsyncOcaSms, ExpiredError, JournalError, Priority, TokenBucket
from oca_sms_async._call import CallOptions, CallState
from oca_sms_async._deadline import Deadline
from oca_sms_async._start_gate import LATE

PHONE, TEXT = "+6281234567890", "Acme: 482913 is your code"
RECEIPT = {"status": "sent", "msg_uid": "d3a925"}


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


def most_within(moments: Sequence[float], seconds: float) -> int:
    """Return the largest number of moments in any window of this length."""
    ordered = sorted(moments)
    return max((sum(start <= it < start + seconds for it in ordered) for start in ordered), default=0)


class Starts:
    """A client whose requests note their starts, and whose messages are held by a stall before their first byte.

    The stall is that of a disk, before the request, or that of a name server, while the request connects.
    """

    def __init__(self, limiter: TokenBucket, *, while_connecting: bool = False) -> None:
        self.moments: list[float] = []
        self.stalled_until = 0.0
        self._while_connecting = while_connecting

        async def answer(request: httpx.Request) -> httpx.Response:
            if while_connecting:
                await self._stall()
                await request.extensions["trace"]("http11.send_request_headers.started", {"request": request})
            self.moments.append(now())
            return httpx.Response(200, json=RECEIPT)

        http_client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        self.client = AsyncOcaSms("user@example.com", "secret", limiter=limiter, http_client=http_client)

    async def send(self, deadline: float = math.inf) -> None:
        """Send one message by way of the stall."""
        options = CallOptions(Priority.BULK, seconds=10.0, deadline=Deadline(deadline, math.inf))
        request = self.client._api.send(PHONE, TEXT)
        call = CallState() if self._while_connecting else CallState(self._stall)
        await self.client._dispatcher.request(request, options, call)

    async def _stall(self) -> None:
        await asyncio.sleep(max(0.0, self.stalled_until - now()))


@pytest.mark.parametrize("while_connecting", [False, True])
@pytest.mark.parametrize(("rate", "capacity"), [(22.0, 1.0), (22.0, 5.0), (1.0, 1.0), (500.0, 1.0)])
def test_a_stall_does_not_end_in_a_burst(rate: float, capacity: float, while_connecting: bool) -> None:
    """All messages that a stall of two seconds has held start within the limit, and none is lost."""

    async def main() -> None:
        starts = Starts(TokenBucket(rate, capacity), while_connecting=while_connecting)
        starts.stalled_until = now() + 2.0
        count = int(4 * rate)
        await asyncio.gather(*(starts.send() for _ in range(count)))
        assert len(starts.moments) == count
        for seconds in (0.1, 0.5, 1.0, 3.0):
            assert most_within(starts.moments, seconds) <= capacity + rate * seconds
        # The stall costs its own length, the backlog in the slots, and no more.
        assert max(starts.moments) - 1000 <= 2.0 + count / rate + 1.5

    run(main())


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([5.0, 22.0, 100.0]),
    capacity=st.sampled_from([1.0, 2.5, 10.0]),
    stalls=st.lists(st.tuples(st.floats(0, 1.5), st.booleans()), min_size=1, max_size=60),
)
def test_starts_keep_every_window(rate: float, capacity: float, stalls: list[tuple[float, bool]]) -> None:
    """Each message is held for a time of its own. Some are lost then, and give their tokens back. Still no window has
    more starts than the limit.
    """

    async def main() -> None:
        starts = Starts(TokenBucket(rate, capacity))

        async def one(stall: float, lost: bool) -> None:
            async def hold() -> None:
                await asyncio.sleep(stall)
                if lost:
                    raise JournalError("another sender has it")

            options = CallOptions(Priority.BULK, seconds=10.0)
            request = starts.client._api.send(PHONE, TEXT)
            with contextlib.suppress(JournalError):
                await starts.client._dispatcher.request(request, options, CallState(hold))

        await asyncio.gather(*(one(*it) for it in stalls))
        assert len(starts.moments) == sum(not lost for _, lost in stalls)
        ordered = sorted(starts.moments)
        for first, start in enumerate(ordered):
            for last in range(first, len(ordered)):
                assert last - first + 1 <= capacity + rate * (ordered[last] - start) + 1e-6

    run(main())


@in_virtual_time
async def test_a_request_in_time_does_not_wait_and_takes_one_token() -> None:
    """Without a stall the gate costs neither time nor tokens."""
    limiter = TokenBucket(10.0)
    starts = Starts(limiter)
    await asyncio.gather(*(starts.send() for _ in range(20)))
    assert [moment - 1000 for moment in starts.moments] == pytest.approx([number / 10 for number in range(20)])
    assert limiter.statistics().granted == 20


@in_virtual_time
async def test_a_late_request_that_would_expire_is_not_started() -> None:
    """A request that a stall has held, and whose next token comes after its deadline, ends as expired."""
    starts = Starts(TokenBucket(1.0))
    starts.stalled_until = now() + 5.0
    sends = [asyncio.create_task(starts.send(deadline=now() + 5.5)) for _ in range(4)]
    ends = await asyncio.gather(*sends, return_exceptions=True)
    assert sum(end is None for end in ends) == 1
    assert sum(isinstance(end, ExpiredError) for end in ends) == 3
    assert len(starts.moments) == 1


@in_virtual_time
async def test_a_gate_waits_for_a_short_time_only() -> None:
    """A start that is due within `LATE` waits for it; a later one is refused at once, and costs nothing."""
    gate = TokenBucket(rate=1 / LATE, capacity=1.0)
    assert await gate.start()
    assert await gate.start()
    assert now() - 1000 == pytest.approx(LATE)
    first, second = asyncio.create_task(gate.start()), asyncio.create_task(gate.start())
    assert await second is False
    assert await first is True
    assert now() - 1000 == pytest.approx(2 * LATE)


def test_a_gate_serves_one_loop_after_another() -> None:
    """Another loop's clock may begin elsewhere, and the gate does not wait for a moment of the first one."""
    gate = TokenBucket(rate=1.0, capacity=1.0)
    run(gate.start(), start=10**6)
    assert run(gate.start(), start=1000.0)

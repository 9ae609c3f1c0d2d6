"""The contract of each `RateLimiter`: inherit from `LimiterContract`, give it a `make`, and pytest tests your own."""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from oca_sms_async import Priority, RateLimiter

Make = Callable[[float, float], AbstractAsyncContextManager[RateLimiter]]
SLACK = 0.02  # seconds by which a busy machine may be late; each bound below leaves more room than that


def most_in_a_window(times: list[float], seconds: float) -> int:
    """Return the most of these moments that any window of so many seconds holds."""
    return max(bisect_right(times, start + seconds) - index for index, start in enumerate(times))


class LimiterContract:
    """The contract; `make(rate, capacity)` opens a fresh limiter of requests per second and burst."""

    make: Make

    @pytest.fixture
    async def slow(self) -> AsyncIterator[RateLimiter]:
        """One request in a hundred seconds, so that waiters go on waiting; the first token is taken."""
        async with self.make(0.01, 1.0) as limiter:
            await limiter.acquire()
            yield limiter

    async def test_the_bound_holds_in_every_window(self) -> None:
        """At most capacity + rate·w requests get through in any window of w seconds."""
        rate, capacity, times = 200.0, 3.0, list[float]()
        loop = asyncio.get_running_loop()
        async with self.make(rate, capacity) as limiter:

            async def one() -> None:
                await limiter.acquire(priority=Priority.BULK)
                times.append(loop.time())

            await asyncio.gather(*(one() for _ in range(60)))
        for seconds in (0.0, 0.01, 0.05, 0.1, 0.2):
            assert most_in_a_window(times, seconds) <= capacity + rate * (seconds + SLACK)

    async def test_a_token_that_is_given_back_goes_to_the_next(self, slow: RateLimiter) -> None:
        """A limiter may have no `give_back`. One that has it lets the next request through at once, and one alone."""
        give_back = getattr(slow, "give_back", None)
        if give_back is None:
            return
        waiting = [asyncio.create_task(slow.acquire()) for _ in range(2)]
        await asyncio.sleep(0)
        give_back()
        done, late = await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert (done, late) == ({waiting[0]}, {waiting[1]})
        waiting[1].cancel()
        give_back()
        await asyncio.wait_for(slow.acquire(), 10)

    async def test_first_come_first_served_and_interactive_first(self) -> None:
        """Each waiting interactive request goes before bulk, and each priority keeps the order of arrival."""
        order = list[tuple[Priority, int]]()
        async with self.make(200.0, 1.0) as limiter:

            async def one(priority: Priority, number: int) -> None:
                await limiter.acquire(priority=priority)
                order.append((priority, number))

            await limiter.acquire()
            limiter.pause(0.25)  # on a busy machine a token may come before all waiters have
            bulk = [asyncio.create_task(one(Priority.BULK, number)) for number in range(5)]
            await asyncio.sleep(0)
            interactive = [asyncio.create_task(one(Priority.INTERACTIVE, number)) for number in range(5)]
            await asyncio.gather(*bulk, *interactive)
        assert order == [(priority, number) for priority in Priority for number in range(5)]

    async def test_a_cancelled_waiter_leaves_its_turn_to_the_next(self) -> None:
        """A cancelled waiter takes no token, and the next one is served."""
        async with self.make(2.0, 1.0) as limiter:
            await limiter.acquire()
            waiters = [asyncio.create_task(limiter.acquire()) for _ in range(100)]
            await asyncio.sleep(0)
            for waiter in waiters[:-1]:
                waiter.cancel()
            start = asyncio.get_running_loop().time()
            await waiters[-1]
            assert asyncio.get_running_loop().time() - start < 5.0  # fifty, if all of them had been served
            assert all(waiter.cancelled() for waiter in waiters[:-1])

    async def test_a_hopeless_deadline_is_refused(self, slow: RateLimiter) -> None:
        """A deadline before the token is a `TimeoutError`, at the deadline or earlier."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        with pytest.raises(TimeoutError):
            await limiter_acquire(slow, start + 50.0)
        assert loop.time() - start < 5.0
        with pytest.raises(TimeoutError):
            await limiter_acquire(slow, start - 1.0)

    async def test_a_pause_lets_no_request_through(self) -> None:
        """Until a pause is over no request passes, full bucket or not; a shorter pause does not end a longer one."""
        loop = asyncio.get_running_loop()
        async with self.make(1000.0, 10.0) as limiter:
            await limiter.acquire()
            start = loop.time()
            limiter.pause(0.1)
            limiter.pause(0.01)
            await limiter.acquire()
            assert loop.time() >= start + 0.1
            limiter.pause(50.0)
            with pytest.raises(TimeoutError):
                await limiter_acquire(limiter, loop.time() + 20.0)

    @pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
    async def test_a_pause_is_a_duration(self, slow: RateLimiter, seconds: float) -> None:
        """Anything else is a ValueError that names it."""
        with pytest.raises(ValueError, match="seconds"):
            slow.pause(seconds)


async def limiter_acquire(limiter: RateLimiter, deadline: float) -> None:
    """Acquire with a deadline."""
    await limiter.acquire(deadline=deadline)

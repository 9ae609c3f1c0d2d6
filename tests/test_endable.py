"""Waits that end together: those of one client, and not those of another one at the same limiter."""

import asyncio
import gc
from collections.abc import Callable

import pytest
from virtual_time import VirtualTimeLoop, in_virtual_time, run

from oca_sms_async import Priority, TokenBucket
from oca_sms_async._endable import EndableWaits, WaitEndedError


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


class Waiters:
    """The sends of one client at a limiter, `ended` in their order."""

    def __init__(self, limiter: TokenBucket) -> None:
        self.waits = EndableWaits()
        self.ended: list[int] = []
        self.served: list[int] = []
        self._limiter = limiter

    async def send(self, number: int) -> None:
        """Wait for a token."""
        try:
            with self.waits.endable():
                await self._limiter.acquire(priority=Priority.BULK)
        except WaitEndedError:
            self.ended.append(number)
        else:
            self.served.append(number)

    def come(self, number: int) -> asyncio.Task[None]:
        """Start a send."""
        return asyncio.create_task(self.send(number))


@in_virtual_time
async def test_ended_waits_do_not_stand_before_those_of_another_client() -> None:
    """One of two clients at a limiter closes, and the other one's first send has the next token."""
    limiter = TokenBucket(rate=1)
    await limiter.acquire()
    closed, other = Waiters(limiter), Waiters(limiter)
    tasks = [*(closed.come(number) for number in range(100)), other.come(0)]
    await asyncio.sleep(2.5)
    closed.waits.end()
    await asyncio.gather(*tasks)
    assert now() == pytest.approx(1003)
    assert (closed.served, closed.ended) == ([0, 1], list(range(2, 100)))
    assert other.served == [0]


@in_virtual_time
async def test_waits_may_be_ended_in_any_cycle_and_again() -> None:
    """A second end of a wait that did not run yet changes nothing, and later waits do wait."""
    waiters = Waiters(TokenBucket(rate=1))
    tasks = [waiters.come(number) for number in range(3)]
    await asyncio.sleep(0)
    for _ in range(4):
        waiters.waits.end()
        waiters.waits.end()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert (waiters.served, waiters.ended) == ([0], [1, 2])
    await waiters.come(3)
    assert waiters.served == [0, 3]


async def wait_too_long(waits: EndableWaits) -> None:
    """Wait beyond a time-out of the waiter's own."""
    async with asyncio.timeout(1):
        with waits.endable():
            await asyncio.sleep(5)


@in_virtual_time
async def test_a_time_out_within_an_endable_wait_stays_one() -> None:
    """A refusal by the limiter, the caller's own time-out and a cancellation are no ends from outside."""
    waits = EndableWaits()
    with pytest.raises(TimeoutError), waits.endable():
        raise TimeoutError
    with pytest.raises(TimeoutError):
        await wait_too_long(waits)
    with pytest.raises(KeyError), waits.endable():
        raise KeyError
    waits.end()
    await asyncio.sleep(1)


@in_virtual_time
async def test_another_error_of_an_ended_wait_passes() -> None:
    """An error that the waiter raises as it is cancelled is not hidden."""
    waits = EndableWaits()

    async def wait() -> None:
        with waits.endable():
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                raise KeyError from None

    task = asyncio.create_task(wait())
    await asyncio.sleep(1)
    waits.end()
    with pytest.raises(KeyError):
        await task


@pytest.mark.parametrize("ended_first", [False, True])
def test_a_cancellation_beside_an_end_stays_a_cancellation(ended_first: bool) -> None:
    """If a task is cancelled and its wait ended in the same moment, the task is cancelled."""

    async def main() -> None:
        waiters = Waiters(TokenBucket(rate=1))
        tasks = [waiters.come(number) for number in range(2)]
        await asyncio.sleep(0.5)
        acts: list[Callable[[], object]] = [waiters.waits.end, tasks[1].cancel]
        for act in acts if ended_first else acts[::-1]:
            act()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert tasks[1].cancelled()
        assert waiters.ended == []

    run(main())


@in_virtual_time
async def test_an_ended_wait_leaves_no_cancellation_behind() -> None:
    """The task goes on, and its later time-outs work."""
    waits = EndableWaits()

    async def work() -> None:
        with pytest.raises(WaitEndedError), waits.endable():
            await asyncio.sleep(1000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.sleep(1000)

    task = asyncio.create_task(work())
    await asyncio.sleep(1)
    waits.end()
    await task
    assert task.cancelling() == 0


def test_the_waits_of_a_dead_loop_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Ending waits in one loop does not touch those that another one was closed over."""
    waiters = Waiters(TokenBucket(rate=0.5))
    loop = VirtualTimeLoop()
    tasks = [loop.create_task(waiters.send(number)) for number in range(3)]
    loop.run_until_complete(asyncio.sleep(1))
    loop.close()

    async def end() -> None:
        waiters.waits.end()
        await asyncio.sleep(1)
        assert caplog.records == []
        await waiters.send(3)
        waiters.waits.end()

    run(end())
    assert (waiters.served, waiters.ended) == ([0, 3], [])
    tasks.clear()
    gc.collect()

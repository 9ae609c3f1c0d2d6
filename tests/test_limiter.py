"""The token bucket on a clock that jumps: its bound in each window, order, deadlines, and that no token is lost."""

import asyncio
import gc
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction

import attrs
import pytest
from attrs import define, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VirtualTimeLoop, in_virtual_time, run

from oca_sms_async import LimiterStatistics, Priority, RateLimiter, TokenBucket, Unlimited

BULK, INTERACTIVE = Priority.BULK, Priority.INTERACTIVE
STARTS = [0.0, 1000.0, 1e6]  # of a loop's clock; a coarse grid of floats must make no difference


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


class WatchedBucket(TokenBucket):
    """A bucket that counts how often its timer fires. When the timer fires for a token, a test can act right before and
    right after the first waiter is woken, and in both cases before the waiter runs.
    """

    fired = 0
    most_firings = 400
    wakes = 0
    asked, asked_at = 0, 0.0
    before_wake: Callable[[], object] = staticmethod(lambda: None)
    after_wake: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, rate: float = 22.0, capacity: float = 1.0) -> None:
        super().__init__(rate, capacity)
        self._on_timer = self._queue._on_timer
        self._queue._on_timer = self._watched_timer  # type: ignore[method-assign] # this is how it is watched
        self._queue._ready_at = self._watched_ready_at

    def _watched_ready_at(self, at: float) -> float:
        self.asked, self.asked_at = (self.asked + 1 if at == self.asked_at else 0), at
        assert self.asked <= 10 * self.most_firings, "a waiter spins"
        return self._state.ready_at(at)

    def _watched_timer(self) -> None:
        self.fired += 1
        assert self.fired <= self.most_firings, "the loop spins"  # the timer is not set again, so the test ends
        # A timer may fire early by the resolution of the loop's clock; then it is set again.
        token = self._state.ready_at(now()) <= now()
        if token:
            self.wakes += 1
            self.before_wake()
        self._on_timer()
        if token:
            self.after_wake()


def assert_empty(bucket: TokenBucket) -> None:
    """Assert that the queue is empty, by the statistics and inside, and that no timer is left."""
    assert bucket.statistics().waiting == 0
    assert not any(bucket._queue._queues)
    assert bucket._queue._bounded == 0
    assert bucket._queue._timer is None


def figures(bucket: TokenBucket) -> tuple[float, ...]:
    """Return the statistics as a tuple, to be compared roughly: granted, refused, waiting, tokens, seconds of pause."""
    return attrs.astuple(bucket.statistics())


async def settle() -> None:
    """Let each task do all that it can do at this moment of virtual time."""
    for _ in range(10):
        await asyncio.sleep(0)


async def refusal_of(bucket: RateLimiter, priority: Priority, deadline: float) -> float:
    """Return how long a request waited that was refused for its deadline."""
    begin = now()
    with pytest.raises(TimeoutError, match=r"^(no token comes before the deadline|the deadline has passed|)$"):
        await bucket.acquire(priority=priority, deadline=deadline)
    return now() - begin


class Queue:
    """Tasks that wait for one bucket; `granted` are the names of those that got through, and the times."""

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self.granted: list[tuple[object, float]] = []

    def join(self, name: object, priority: Priority = INTERACTIVE, deadline: float | None = None) -> asyncio.Task[None]:
        """Start a task that acquires."""

        async def visit() -> None:
            await self.bucket.acquire(priority=priority, deadline=deadline)
            self.granted.append((name, now()))

        return asyncio.create_task(visit())

    @property
    def names(self) -> list[object]:
        """The tasks that got through, in that order."""
        return [name for name, _ in self.granted]


# --- random traffic -----------------------------------------------------------------------------------------------


@define
class Visitor:
    """One call of `acquire`; its times count in the bucket's own intervals of `1/rate` seconds."""

    gap: float  # since the arrival before
    priority: Priority
    patience: float | None  # from its arrival to its deadline
    gives_up: float | None  # from its arrival to its cancellation
    number: int = field(default=-1, init=False)
    arrived: float = field(default=math.nan, init=False)
    ahead: int = field(default=-1, init=False)
    deadline: float | None = field(default=None, init=False)
    cancelled: bool = field(default=False, init=False)
    granted: float | None = field(default=None, init=False)
    refused: float | None = field(default=None, init=False)


@frozen
class Pause:
    """A pause from `at` to `until`, in the loop's time."""

    at: float
    until: float


@frozen
class Scenario:
    """A bucket, its visitors and its pauses (a start and a length, in intervals). At the numbered firings of the timer,
    the first waiter is cancelled right after it was woken.
    """

    rate: float
    capacity: float
    start: float
    visitors: list[Visitor]
    pauses: list[tuple[float, float]]
    cancelled_wakes: set[int]


def intervals(most: float) -> st.SearchStrategy[float]:
    """Return stretches of time in intervals of the bucket, with round ones for coincidences."""
    return st.one_of(st.integers(0, int(most)).map(float), st.floats(0, most))


SCENARIOS = st.builds(
    Scenario,
    rate=st.one_of(st.sampled_from([1.0, 22.0, 25.0, 1 / 3]), st.floats(0.01, 20_000)),
    capacity=st.one_of(st.sampled_from([1.0, 2.0]), st.floats(1, 6)),
    start=st.sampled_from(STARTS),
    visitors=st.lists(
        st.builds(
            Visitor,
            gap=st.one_of(st.just(0.0), intervals(3)),
            priority=st.sampled_from(Priority),
            patience=st.one_of(st.none(), intervals(12)),
            gives_up=st.one_of(st.none(), st.none(), intervals(8)),
        ),
        max_size=30,
    ),
    pauses=st.lists(st.tuples(intervals(20), intervals(6)), max_size=3),
    cancelled_wakes=st.sets(st.integers(1, 20), max_size=6),
)


class Traffic:
    """The course of one scenario: `events` in their order, and the bucket after it."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.bucket = WatchedBucket(scenario.rate, scenario.capacity)
        self.bucket.after_wake = self._cancel_first
        self.unit = 1 / scenario.rate
        self.events: list[Visitor | Pause] = []  # a visitor is in it as it arrives, and again if it gets through
        self.cancellations = 0
        self._waiting: dict[int, tuple[Visitor, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Let all visitors come and wait until the last one is gone."""
        loop = asyncio.get_running_loop()
        for at, seconds in self.scenario.pauses:
            loop.call_later(at * self.unit, self._pause, seconds * self.unit)
        tasks = []
        for number, visitor in enumerate(self.scenario.visitors):
            if visitor.gap:
                await asyncio.sleep(visitor.gap * self.unit)
            visitor.number = number
            task = asyncio.create_task(self._visit(visitor))
            tasks.append(task)
            if visitor.gives_up is not None:
                loop.call_later(visitor.gives_up * self.unit, self._cancel, visitor, task)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _visit(self, visitor: Visitor) -> None:
        visitor.arrived = now()
        visitor.ahead = sum(other.priority <= visitor.priority for other, _ in self._waiting.values())
        if visitor.patience is not None:
            visitor.deadline = visitor.arrived + visitor.patience * self.unit
        task = asyncio.current_task()
        assert task is not None
        self._waiting[visitor.number] = visitor, task
        self.events.append(visitor)
        try:
            await self.bucket.acquire(priority=visitor.priority, deadline=visitor.deadline)
        except TimeoutError:
            visitor.refused = now()
        else:
            visitor.granted = now()
            self.events.append(visitor)
            self._assert_none_overtaken(visitor)
        finally:
            del self._waiting[visitor.number]

    def _assert_none_overtaken(self, visitor: Visitor) -> None:
        for other, _ in self._waiting.values():
            leaving = other.cancelled or (other.deadline is not None and other.deadline <= now() + 1e-9)
            assert leaving or (visitor.priority, visitor.number) <= (other.priority, other.number)

    def _pause(self, seconds: float) -> None:
        self.bucket.pause(seconds)
        self.events.append(Pause(now(), now() + seconds))

    def _cancel(self, visitor: Visitor, task: asyncio.Task[None]) -> None:
        if not task.done() and not visitor.cancelled:
            visitor.cancelled = True
            self.cancellations += 1
            task.cancel()

    def _cancel_first(self) -> None:
        """Cancel the waiter that the timer has just woken, before it runs."""
        if self.bucket.wakes in self.scenario.cancelled_wakes and self._waiting:
            self._cancel(*min(self._waiting.values(), key=lambda entry: (entry[0].priority, entry[0].number)))


def traffic_of(scenario: Scenario) -> Traffic:
    """Run a scenario from its beginning to its end."""
    for visitor in scenario.visitors:
        visitor.cancelled, visitor.granted, visitor.refused = False, None, None

    async def main() -> Traffic:
        traffic = Traffic(scenario)
        await traffic.run()
        assert_empty(traffic.bucket)
        return traffic

    return run(main(), start=scenario.start)


def assert_within_limit(times: list[float], rate: float, capacity: float) -> None:
    """Assert that the window from any grant to any later one holds at most capacity + rate·width grants, exactly."""
    # For i < j: j - i + 1 <= capacity + rate·(t[j] - t[i]), with each grant's own part on its own side.
    excesses = [number - Fraction(rate) * Fraction(time) for number, time in enumerate(times)]
    least = itertools.accumulate(excesses, min)
    assert all(excess - low + 1 <= Fraction(capacity) for excess, low in zip(excesses, least, strict=True))


@settings(max_examples=300, deadline=None)
@given(SCENARIOS)
def test_no_window_holds_more_than_the_limit(scenario: Scenario) -> None:
    """In any window of w seconds at most capacity + rate·w requests get through, in any traffic with cancellations and
    pauses.
    """
    traffic_of(scenario)
    times = sorted(visitor.granted for visitor in scenario.visitors if visitor.granted is not None)
    assert_within_limit(times, scenario.rate, scenario.capacity)


@settings(max_examples=300, deadline=None)
@given(SCENARIOS)
def test_no_token_is_lost_and_no_refusal_is_wrong(scenario: Scenario) -> None:
    """Each waiter gets through as soon as its token is there, or is refused for its deadline, or was cancelled."""
    traffic = traffic_of(scenario)
    rate, unit = scenario.rate, traffic.unit
    # The bucket is a part in a billion slower than asked for, and a clock that has run for long has a coarse grid.
    slack = 1e-6 * unit + 4 * math.ulp(scenario.start + 1)
    tokens, as_of, arrived = scenario.capacity, scenario.start, set[int]()
    pauses: list[Pause] = []
    for event in traffic.events:
        if isinstance(event, Pause):
            pauses.append(event)
        elif event.number not in arrived:
            arrived.add(event.number)
            begin = max([event.arrived, *(pause.until for pause in pauses)])
            at_hand = min(scenario.capacity, tokens + (begin - as_of) * rate)
            expected = begin + max(0.0, event.ahead + 1 - at_hand) * unit
            if event.deadline is not None and expected > event.deadline + slack:
                assert event.refused == event.arrived
            elif event.deadline is not None and event.refused is not None and expected < event.deadline - slack:
                assert event.deadline - 2e-9 <= event.refused <= event.deadline + slack
        else:
            assert event.granted is not None
            assert all(pause.until <= event.granted for pause in pauses)
            latest = max(event.arrived, as_of + max(0.0, 1 - tokens) * unit)
            for pause in pauses:
                if pause.at <= latest + slack:
                    latest = max(latest, pause.until)
            assert event.granted <= latest + slack
            tokens = min(scenario.capacity, tokens + (event.granted - as_of) * rate) - 1
            as_of = event.granted
    for visitor in scenario.visitors:
        assert (visitor.granted is not None) + (visitor.refused is not None) <= 1
        assert visitor.granted is not None or visitor.refused is not None or visitor.cancelled
        if visitor.deadline is not None:
            assert (visitor.granted or visitor.refused or 0.0) <= visitor.deadline + slack


@settings(max_examples=150, deadline=None)
@given(SCENARIOS)
def test_statistics_count_all_outcomes_and_the_timer_does_not_spin(scenario: Scenario) -> None:
    """After any traffic the statistics are those of its outcomes, and the timer fired at most a few times for each."""
    traffic = traffic_of(scenario)
    granted = sum(visitor.granted is not None for visitor in scenario.visitors)
    refused = sum(visitor.refused is not None for visitor in scenario.visitors)
    statistics = traffic.bucket.statistics()
    assert (statistics.granted, statistics.refused, statistics.waiting) == (granted, refused, 0)
    # Mostly once for each, but the timer may fire a rounding too early, several times in a row.
    assert traffic.bucket.fired <= 10 * (granted + refused + traffic.cancellations + len(scenario.pauses))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("rate", "capacity"), [(22.0, 1.0), (25.0, 7.3), (0.7, 1.5), (9_999.9, 1.0)])
def test_a_long_queue_makes_full_use_of_the_rate(rate: float, capacity: float, start: float) -> None:
    """2,000 waiters take as long as the rate demands, within the limit, with a few firings of the timer for each."""
    bucket = WatchedBucket(rate, capacity)
    bucket.most_firings = 10_000
    queue = Queue(bucket)

    async def main() -> None:
        await asyncio.gather(*(queue.join(number, BULK) for number in range(2000)))

    run(main(), start=start)
    times = [time for _, time in queue.granted]
    assert_within_limit(times, rate, capacity)
    assert times[-1] - start == pytest.approx((2000 - capacity) / rate, rel=1e-5)
    assert queue.names == list(range(2000))


# --- order --------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_full_bucket_lets_its_burst_through_at_once() -> None:
    """A bucket begins full: its whole tokens go at once, and a fraction counts for the next one."""
    queue = Queue(TokenBucket(rate=2, capacity=2.5))
    begin = now()
    await asyncio.gather(*(queue.join(number) for number in range(5)))
    assert [time - begin for _, time in queue.granted] == pytest.approx([0, 0, 0.25, 0.75, 1.25])


@in_virtual_time
async def test_a_token_that_is_given_back_counts_as_never_taken() -> None:
    """It is there for the next request, is in no count, and makes no burst above the capacity."""
    bucket = TokenBucket(rate=2, capacity=3)
    await bucket.acquire()
    bucket.give_back()
    assert (bucket.statistics().tokens, bucket.statistics().granted) == (3, 0)
    await bucket.acquire()
    await asyncio.sleep(1000)
    bucket.give_back()
    assert bucket.statistics().tokens == 3
    bucket.pause(10.0)
    bucket.give_back()
    begin = now()
    await bucket.acquire()
    assert now() - begin == 10


@in_virtual_time
async def test_tokens_gather_in_silence_up_to_the_capacity() -> None:
    """After a long silence there is one burst of the capacity, and then the rate again."""
    bucket = TokenBucket(rate=2, capacity=3)
    queue = Queue(bucket)
    await asyncio.gather(*(queue.join(number) for number in range(3)))
    await asyncio.sleep(1000)
    assert bucket.statistics().tokens == 3
    begin = now()
    await asyncio.gather(*(queue.join(number) for number in range(3, 8)))
    assert [time - begin for _, time in queue.granted[3:]] == pytest.approx([0, 0, 0, 0.5, 1.0])


@in_virtual_time
async def test_interactive_goes_before_bulk_and_each_priority_keeps_its_order() -> None:
    """Interactive requests that come last go first, in their own order; then the bulk ones in theirs."""
    queue = Queue(TokenBucket(rate=1))
    tasks = [queue.join(("bulk", number), BULK) for number in range(5)]
    await settle()
    tasks += [queue.join(("interactive", number), INTERACTIVE) for number in range(3)]
    await asyncio.sleep(1.5)
    tasks.append(queue.join(("interactive", 3), INTERACTIVE))
    await asyncio.gather(*tasks)
    first, *others = queue.names
    assert first == ("bulk", 0)  # it found the bucket full
    assert others == [*(("interactive", n) for n in range(4)), *(("bulk", n) for n in range(1, 5))]


@in_virtual_time
async def test_interactive_is_the_default() -> None:
    """A request that does not name its priority is interactive."""
    bucket = TokenBucket(rate=1)
    queue = Queue(bucket)
    tasks = [queue.join("full bucket"), queue.join("bulk", BULK)]
    await settle()
    await bucket.acquire()
    assert queue.names == ["full bucket"]
    await asyncio.gather(*tasks)
    assert queue.names == ["full bucket", "bulk"]


@pytest.mark.parametrize(
    ("newcomer", "expected"),
    [(INTERACTIVE, ["full bucket", "newcomer", "waiter"]), (BULK, ["full bucket", "waiter", "newcomer"])],
)
def test_a_newcomer_in_the_cycle_of_the_wake_stands_where_its_priority_says(
    newcomer: Priority, expected: list[str]
) -> None:
    """Between a bulk waiter's waking and its next step, an interactive newcomer takes the token, and a bulk one does
    not.
    """
    bucket = WatchedBucket(rate=1)
    queue = Queue(bucket)

    async def main() -> None:
        tasks = [queue.join("full bucket"), queue.join("waiter", BULK)]

        def arrive() -> None:
            if bucket.wakes == 1:
                tasks.append(queue.join("newcomer", newcomer))  # its first step comes before the waiter's next one

        bucket.before_wake = arrive
        await asyncio.sleep(5)
        await asyncio.gather(*tasks)

    run(main())
    assert queue.names == expected
    times = [time for _, time in queue.granted]
    assert times == pytest.approx([1000, 1001, 1002])


# --- cancellation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("priorities", [(BULK, BULK), (INTERACTIVE, BULK), (INTERACTIVE, INTERACTIVE)])
@pytest.mark.parametrize("cancelled", [1, 2, 5])
def test_the_token_of_a_waiter_cancelled_as_it_wakes_goes_to_the_next(
    cancelled: int, priorities: tuple[Priority, Priority], start: float
) -> None:
    """A waiter that is cancelled between the timer and its next step loses no token, nor do several in a row."""
    bucket = WatchedBucket(rate=3)
    queue = Queue(bucket)
    woken: list[float] = []

    async def main() -> None:
        await bucket.acquire()
        doomed = [queue.join(("doomed", number), priorities[0]) for number in range(cancelled)]
        heir = queue.join("heir", priorities[1])

        def cancel() -> None:
            woken.append(now())
            for task in doomed:
                task.cancel()

        bucket.after_wake = cancel
        await heir
        assert all(task.cancelled() for task in doomed)
        assert_empty(bucket)
        assert figures(bucket) == pytest.approx((2, 0, 0, 0, 0), abs=1e-5)

    run(main(), start=start)
    assert queue.granted == [("heir", woken[0])]


@pytest.mark.parametrize("start", STARTS)
def test_waiters_cancelled_one_after_the_other_as_each_wakes_lose_nothing(start: float) -> None:
    """The token wanders down the queue at one moment in time, while each waiter that it wakes is cancelled."""
    bucket = WatchedBucket(rate=3)
    queue = Queue(bucket)

    async def main() -> None:
        await bucket.acquire()
        doomed = [queue.join(number) for number in range(5)]
        heir = queue.join("heir")
        wake, left = bucket._queue._wake, list(doomed)

        def wake_and_cancel() -> None:
            wake()
            if left:
                left.pop(0).cancel()

        await settle()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bucket._queue, "_wake", wake_and_cancel)
            await heir
        assert not left
        assert all(task.cancelled() for task in doomed)
        assert_empty(bucket)

    run(main(), start=start)
    (name, time), *others = queue.granted
    assert (name, others) == ("heir", [])
    assert time == pytest.approx(start + 1 / 3, abs=1e-6)


@pytest.mark.parametrize("before_timer", [False, True])
@pytest.mark.parametrize("cycles", range(6))
@pytest.mark.parametrize("victim", range(3))
def test_cancellation_in_any_cycle_around_a_grant_costs_nothing(victim: int, cycles: int, before_timer: bool) -> None:
    """Any one of three waiters is cancelled, in any cycle of the loop around a token: each token is used."""
    bucket = WatchedBucket(rate=2)
    queue = Queue(bucket)

    async def main() -> None:
        await bucket.acquire()
        tasks = [queue.join(number, BULK) for number in range(3)]

        async def cancel_later() -> None:
            for _ in range(cycles):
                await asyncio.sleep(0)
            tasks[victim].cancel()

        def begin() -> None:
            if bucket.wakes == 1:
                tasks.append(asyncio.create_task(cancel_later()))

        if before_timer:
            bucket.before_wake = begin
        else:
            bucket.after_wake = begin
        await asyncio.sleep(10)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert_empty(bucket)
        cancelled = tasks[victim].cancelled()
        assert victim == 0 or cancelled  # the first may have been let through before its cancellation
        assert queue.names == [number for number in range(3) if number != victim or not cancelled]

    run(main())
    assert [time for _, time in queue.granted] == pytest.approx([1000.5 + 0.5 * n for n in range(len(queue.granted))])


@in_virtual_time
async def test_thousands_of_cancelled_waiters_leave_nothing() -> None:
    """5,000 waiters of both priorities, half with deadlines, are cancelled: they leave nothing and cost no token."""
    bucket = TokenBucket(rate=1, capacity=2)
    queue = Queue(bucket)
    await asyncio.gather(queue.join(0), queue.join(1))
    tasks = [queue.join(n, Priority(n % 2), None if n % 4 < 2 else now() + 1e9) for n in range(5000)]
    await settle()
    assert bucket.statistics().waiting == 5000
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)
    assert_empty(bucket)
    await asyncio.sleep(2)
    assert figures(bucket) == pytest.approx((2, 0, 0, 2, 0), abs=1e-5)


@in_virtual_time
async def test_a_callers_own_time_out_costs_nothing() -> None:
    """`asyncio.timeout` and `wait_for` around `acquire` give up a place and no token, and do not count as refusals."""
    bucket = TokenBucket(rate=1)
    await bucket.acquire()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.25):
            await bucket.acquire()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bucket.acquire(), 0.25)
    assert_empty(bucket)
    assert bucket.statistics().refused == 0
    begin = now()
    await bucket.acquire()
    assert now() - begin == pytest.approx(0.5)


# --- deadlines ----------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_deadline_before_the_token_is_refused_at_once() -> None:
    """A request whose token comes after its deadline is refused without waiting, and takes no token."""
    bucket = TokenBucket(rate=1)
    await bucket.acquire()
    assert await refusal_of(bucket, INTERACTIVE, now() + 0.999) == 0
    assert figures(bucket) == pytest.approx((1, 1, 0, 0, 0), abs=1e-5)
    assert_empty(bucket)
    begin = now()
    await bucket.acquire(deadline=now() + 1.001)
    assert now() - begin == pytest.approx(1)


@in_virtual_time
async def test_a_deadline_counts_the_waiters_ahead_and_no_others() -> None:
    """The fourth in the queue needs four intervals; an interactive one does not stand behind the bulk ones."""
    bucket = TokenBucket(rate=1)
    queue = Queue(bucket)
    await bucket.acquire()
    tasks = [queue.join(number, BULK) for number in range(3)]
    await settle()
    assert await refusal_of(bucket, BULK, now() + 3.999) == 0
    assert await refusal_of(bucket, INTERACTIVE, now() + 0.999) == 0
    tasks += [queue.join("bulk", BULK, now() + 5.001), queue.join("interactive", INTERACTIVE, now() + 1.001)]
    await asyncio.gather(*tasks)
    assert queue.names == ["interactive", 0, 1, 2, "bulk"]


@in_virtual_time
async def test_a_deadline_that_has_passed_is_refused_even_with_tokens() -> None:
    """After its deadline a request does not get through, even with tokens there; exactly at the deadline it does."""
    bucket = TokenBucket(rate=1, capacity=5)
    assert await refusal_of(bucket, INTERACTIVE, math.nextafter(now(), 0)) == 0
    assert bucket.statistics().tokens == 5
    await bucket.acquire(deadline=now())
    assert bucket.statistics().tokens == 4


@in_virtual_time
async def test_a_waiter_overtaken_until_its_deadline_is_refused_then() -> None:
    """A bulk waiter that interactive ones overtake until its deadline is refused at the deadline."""
    bucket = TokenBucket(rate=1)
    queue = Queue(bucket)
    await bucket.acquire()
    begin = now()
    overtaken = queue.join("bulk", BULK, begin + 2.5)
    patient = queue.join("patient", BULK)
    await settle()
    others = [queue.join(number) for number in range(4)]
    with pytest.raises(TimeoutError):
        await overtaken
    assert now() - begin <= 2.5 + 1e-9
    assert bucket.statistics().refused == 1
    await asyncio.gather(patient, *others)
    assert queue.names == [0, 1, 2, 3, "patient"]
    assert [time - begin for _, time in queue.granted] == pytest.approx([1, 2, 3, 4, 5])
    assert_empty(bucket)


# --- pauses -------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_pause_lets_no_request_through() -> None:
    """Until a pause is over no request passes, whether it waits already or comes later, even with a full bucket."""
    bucket = WatchedBucket(rate=1, capacity=2)
    queue = Queue(bucket)
    begin = now()
    await asyncio.gather(*(queue.join(number) for number in range(2)))
    waiting = queue.join("waiting", BULK)
    await settle()
    bucket.pause(10)
    await asyncio.sleep(9)
    assert figures(bucket) == pytest.approx((2, 0, 1, 2, 1), abs=1e-5)
    tasks = [queue.join("came", INTERACTIVE), queue.join("last", BULK)]
    await asyncio.gather(waiting, *tasks)
    assert queue.names[2:] == ["came", "waiting", "last"]
    assert [time - begin for _, time in queue.granted[2:]] == pytest.approx([10, 10, 11])
    assert bucket.fired <= 10


@in_virtual_time
async def test_a_pause_holds_a_full_bucket_and_a_waiter_in_the_cycle_of_its_wake() -> None:
    """A pause that begins between a waiter's waking and its next step holds the waiter back too."""
    bucket = WatchedBucket(rate=1)
    queue = Queue(bucket)
    await bucket.acquire()
    begin = now()

    def pause() -> None:
        if bucket.wakes == 1:
            bucket.pause(3)

    bucket.after_wake = pause
    await queue.join("waiter")
    assert now() - begin == pytest.approx(4)


@pytest.mark.parametrize(("first", "second", "longer"), [(5, 2, 5), (2, 5, 5), (5, 0, 5), (0, 0, 0)])
def test_the_longer_of_two_pauses_stays(first: float, second: float, longer: float) -> None:
    """A shorter pause does not shorten the one that is on; a longer one prolongs it."""

    async def main() -> None:
        bucket = TokenBucket()
        begin = now()
        bucket.pause(first)
        bucket.pause(second)
        assert bucket.statistics().paused_for == longer
        await bucket.acquire()
        assert now() - begin == pytest.approx(longer)
        assert bucket.statistics().paused_for == 0

    run(main())


@in_virtual_time
async def test_a_pause_counts_from_the_moment_it_is_asked_for() -> None:
    """One second into a pause of three, a pause of four ends five seconds after the first began."""
    bucket = TokenBucket()
    begin = now()
    bucket.pause(3)
    await asyncio.sleep(1)
    bucket.pause(4)
    await bucket.acquire()
    assert now() - begin == pytest.approx(5)


@in_virtual_time
async def test_a_deadline_within_a_pause_is_refused() -> None:
    """A deadline within a pause is refused at once; if the pause begins during the wait, at the deadline."""
    bucket = TokenBucket(rate=1, capacity=2)
    bucket.pause(10)
    assert await refusal_of(bucket, INTERACTIVE, now() + 9.999) == 0
    await bucket.acquire(deadline=now() + 10.001)
    await bucket.acquire()

    async def pause_soon() -> None:
        await asyncio.sleep(0.5)
        bucket.pause(10)

    pausing = asyncio.create_task(pause_soon())
    assert await refusal_of(bucket, INTERACTIVE, now() + 2) == pytest.approx(2)
    await pausing
    assert_empty(bucket)


# --- one loop after another ---------------------------------------------------------------------------------------


LOOPS = [(1000.0, 1000.0), (1e6, 0.0), (0.0, 1e6), (1000.0, 5.0)]


@pytest.mark.parametrize(("first", "second"), LOOPS)
def test_tokens_carry_over_from_loop_to_loop(first: float, second: float) -> None:
    """Tokens taken in one loop are missing in the next, and tokens left there are there, for any two clocks."""
    bucket = TokenBucket(rate=2, capacity=4)
    queue = Queue(bucket)

    async def take(many: int) -> None:
        await asyncio.gather(*(queue.join(number) for number in range(many)))

    run(take(3), start=first)
    run(take(3), start=second)
    assert [time - second for _, time in queue.granted[3:]] == pytest.approx([0, 0.5, 1.0], abs=1e-6)
    run(take(1), start=first)
    assert queue.granted[-1][1] - first == pytest.approx(0.5, abs=1e-6)
    assert bucket.statistics().granted == 7


@pytest.mark.parametrize(("first", "second"), LOOPS)
def test_a_pause_carries_over_from_loop_to_loop(first: float, second: float) -> None:
    """A pause of five seconds lasts five seconds in the next loop, for any two clocks."""
    bucket = TokenBucket(rate=2)
    queue = Queue(bucket)

    async def pause() -> None:
        bucket.pause(5)

    async def take() -> None:
        await queue.join("after the pause")

    run(pause(), start=first)
    assert bucket.statistics().paused_for == 5
    run(take(), start=second)
    assert queue.granted[0][1] - second == pytest.approx(5)


@pytest.mark.parametrize("collected", ["before", "after"])
@pytest.mark.parametrize("asleep", [True, False])
@pytest.mark.parametrize(("first", "second"), LOOPS)
def test_waiters_of_a_dead_loop_are_dropped(
    first: float, second: float, asleep: bool, collected: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that is closed over its waiters, asleep or just woken, leaves neither waiters nor a timer to the next."""
    bucket = WatchedBucket(rate=2)
    queue = Queue(bucket)
    loop = VirtualTimeLoop(first)
    loop.run_until_complete(bucket.acquire())
    waiters = [loop.create_task(bucket.acquire(priority=priority, deadline=loop.time() + 9)) for priority in Priority]
    loop.run_until_complete(asyncio.sleep(0))
    assert bucket.statistics().waiting == 2
    if not asleep:
        bucket.after_wake = loop.stop
        loop.run_forever()
        assert bucket.statistics().waiting == 2
    loop.close()
    if collected == "before":
        waiters.clear()
        gc.collect()

    async def main() -> None:
        bucket.after_wake = gc.collect
        alive = queue.join("alive", BULK)
        waiters.clear()
        await alive
        assert_empty(bucket)
        await queue.join("next")

    run(main(), start=second)
    alive, following = (time - second for _, time in queue.granted)
    assert alive <= 0.5 + 1e-6
    assert following - alive == pytest.approx(0.5, abs=1e-6)
    assert figures(bucket) == pytest.approx((3, 0, 0, 0, 0), abs=1e-5)
    assert {record.name for record in caplog.records} <= {"asyncio"}  # asyncio complains of its pending tasks


FORKED = """
import asyncio, os, sys
from oca_sms_async import TokenBucket

bucket = TokenBucket(rate=20.0)

async def one(name):
    await bucket.acquire()
    print(name, flush=True)

async def parent():
    await one("parent")
    waiting = asyncio.create_task(one("parent's waiter"))
    await asyncio.sleep(0)
    if not (child := os.fork()):
        try:
            asyncio.run(one("child"))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    await waiting
    await one("parent")

asyncio.run(parent())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_bucket_that_was_used_before_a_fork_works_in_the_child() -> None:
    """The child drops the parent's waiters and loop, which seems to run for ever there, and both go on."""
    ended = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=False, timeout=60)
    assert ended.stdout.splitlines() == ["parent", "child", "parent's waiter", "parent"], ended.stderr


def test_a_runner_that_ends_with_waiters_leaves_none() -> None:
    """`asyncio.run` cancels the remaining waiters at its end, and the bucket is empty."""
    bucket = TokenBucket(rate=2)
    queue = Queue(bucket)
    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        await bucket.acquire()
        tasks.extend(queue.join(number, BULK) for number in range(3))
        await settle()

    run(main())
    assert all(task.cancelled() for task in tasks)
    assert_empty(bucket)


# --- arguments, figures -------------------------------------------------------------------------------------------


def test_the_default_is_22_a_second_one_at_a_time() -> None:
    """The default leaves room for jitter on the way to a gateway that counts 25 in any second."""
    bucket = TokenBucket()
    assert (bucket.rate, bucket.capacity) == (22.0, 1.0)
    explicit = TokenBucket(30, 2)
    assert (explicit.rate, explicit.capacity) == (30, 2)


@pytest.mark.parametrize("rate", [math.nan, math.inf, -math.inf, 0, 0.0, -1, -0.001, 10**400, "22", None, True])
def test_a_rate_must_be_finite_and_above_0(rate: float) -> None:
    """The refusal names the field."""
    with pytest.raises(ValueError, match=r"^rate\b"):
        TokenBucket(rate=rate)


@pytest.mark.parametrize("capacity", [math.nan, math.inf, -math.inf, 0, 0.999, -1, 10**400, "2", None])
def test_a_capacity_must_be_finite_and_at_least_1(capacity: float) -> None:
    """The refusal names the field."""
    with pytest.raises(ValueError, match=r"^capacity\b"):
        TokenBucket(capacity=capacity)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -0.001, 10**400, "1", None])
def test_a_pause_must_be_finite_and_not_negative(seconds: float) -> None:
    """The refusal names the field and pauses nothing: an endless pause would be a hang."""

    async def main() -> None:
        bucket = TokenBucket()
        with pytest.raises(ValueError, match=r"^seconds\b"):
            bucket.pause(seconds)
        begin = now()
        await bucket.acquire()
        assert now() == begin

    run(main())


def test_statistics_of_an_unused_bucket() -> None:
    """Before any loop a bucket is full and has done nothing."""
    assert TokenBucket(5, 3.5).statistics() == LimiterStatistics(
        granted=0, refused=0, waiting=0, tokens=3.5, paused_for=0.0
    )


@in_virtual_time
async def test_statistics_follow_the_clock_and_change_nothing() -> None:
    """Tokens grow and a pause shrinks while time goes by, and reading them changes nothing."""
    bucket = TokenBucket(rate=2, capacity=3)
    await bucket.acquire()
    await bucket.acquire()
    bucket.pause(0.5)
    seen = []
    for _ in range(4):
        seen.append(bucket.statistics())
        assert bucket.statistics() == seen[-1]
        await asyncio.sleep(0.25)
    assert [one.tokens for one in seen] == pytest.approx([1, 1.5, 2, 2.5])
    assert [one.paused_for for one in seen] == pytest.approx([0.5, 0.25, 0, 0])


def test_statistics_are_a_frozen_value() -> None:
    """Statistics do not change after they were returned."""
    statistics = TokenBucket().statistics()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        statistics.granted = 5  # type: ignore[misc]  # that is the point
    assert hash(statistics) == hash(TokenBucket().statistics())


@in_virtual_time
async def test_repr_has_what_debugging_needs() -> None:
    """Rate, capacity, tokens and waiters are in it."""
    bucket = TokenBucket(rate=2, capacity=1.5)
    assert repr(bucket) == "<TokenBucket rate=2 capacity=1.5 tokens=1.50 waiting=0>"
    queue = Queue(bucket)
    tasks = [queue.join(number) for number in range(3)]
    await settle()
    assert repr(bucket) == "<TokenBucket rate=2 capacity=1.5 tokens=0.50 waiting=2>"
    await asyncio.gather(*tasks)


@in_virtual_time
async def test_unlimited_has_no_limit_and_no_pauses() -> None:
    """No limit and no pauses; only a deadline that has passed is refused."""
    limiter: RateLimiter = Unlimited()
    begin = now()
    limiter.pause(1000)
    for priority in Priority:
        for _ in range(100):
            await limiter.acquire(priority=priority, deadline=now())
            await limiter.acquire(priority=priority)
    assert now() == begin
    assert await refusal_of(limiter, BULK, math.nextafter(begin, 0)) == 0


@in_virtual_time
async def test_a_token_bucket_is_a_rate_limiter() -> None:
    """It can be passed as a `RateLimiter`."""
    limiter: RateLimiter = TokenBucket()
    await limiter.acquire(priority=Priority.BULK, deadline=None)
    limiter.pause(1.0)
    assert await refusal_of(limiter, Priority.BULK, now() + 0.5) == 0


def test_between_two_loops_the_bucket_fills_and_a_pause_ends() -> None:
    """The bucket fills and a pause shrinks between the last request in one loop and the first in the next."""
    bucket = TokenBucket(rate=1, capacity=5)

    async def drain() -> None:
        for _ in range(5):
            await bucket.acquire()
        bucket.pause(3)
        await asyncio.sleep(100)

    async def burst() -> float:
        start = now()
        for _ in range(5):
            await bucket.acquire()
        return now() - start

    run(drain())
    assert run(burst()) == 0

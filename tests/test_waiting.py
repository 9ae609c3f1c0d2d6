"""The priority wait queue and the semaphore on it: the bound, the order, and that no permit is lost."""

import asyncio
import gc
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from attrs import define, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VirtualTimeLoop, in_virtual_time, run

from oca_sms_async._waiting import Priority, PrioritySemaphore, PriorityWaitQueue

BULK, INTERACTIVE = Priority.BULK, Priority.INTERACTIVE
TICK = 0.001  # seconds; each event of a scenario happens at a whole number of ticks


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Let each task do all that it can do at this moment of virtual time."""
    for _ in range(10):
        await asyncio.sleep(0)


def assert_unused(semaphore: PrioritySemaphore, limit: int) -> None:
    """Assert that all permits are free and that the queue is empty."""
    assert semaphore._free == limit
    assert not any(semaphore._queue._queues)
    assert semaphore._queue._bounded == 0


class Queue:
    """Tasks that take one permit each and keep it until the test releases it; `served` are their names, in order."""

    def __init__(self, semaphore: PrioritySemaphore) -> None:
        self.semaphore = semaphore
        self.served: list[object] = []

    def join(self, name: object, priority: Priority = BULK, deadline: float | None = None) -> asyncio.Task[None]:
        """Start a task that acquires."""

        async def visit() -> None:
            await self.semaphore.acquire(priority, deadline)
            self.served.append(name)

        return asyncio.create_task(visit())


# --- random traffic -----------------------------------------------------------------------------------------------


@define
class Visitor:
    """One user of a permit; its times are in ticks."""

    gap: int  # since the arrival before
    priority: Priority
    keeps: int  # the permit, for so long
    patience: int | None  # from its arrival to its deadline
    gives_up: int | None  # from its arrival to its cancellation
    cycles: int  # turns of the loop by which its cancellation is late within the tick
    number: int = field(default=-1, init=False)
    deadline: float | None = field(default=None, init=False)
    cancelled: bool = field(default=False, init=False)
    outcome: str = field(default="", init=False)


@frozen
class Scenario:
    """A semaphore's value, how many of its permits are kept, and the tasks that come for them."""

    limit: int
    visitors: list[Visitor]
    kept: int

    def room(self, priority: Priority) -> int:
        """Return how many permits may be out after one of this priority was taken."""
        return self.limit if priority is INTERACTIVE else self.limit - self.kept


SCENARIOS = st.builds(
    lambda limit, visitors, kept: Scenario(limit, visitors, min(kept, limit - 1)),
    limit=st.integers(1, 4),
    kept=st.integers(0, 3),
    visitors=st.lists(
        st.builds(
            Visitor,
            gap=st.integers(0, 3),
            priority=st.sampled_from(Priority),
            keeps=st.integers(0, 6),
            patience=st.one_of(st.none(), st.integers(0, 12)),
            gives_up=st.one_of(st.none(), st.integers(0, 12)),
            cycles=st.integers(0, 4),
        ),
        max_size=30,
    ),
)


class Traffic:
    """One scenario under way, watched at every step."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.semaphore = PrioritySemaphore(scenario.limit, kept=scenario.kept)
        self.waiting: dict[int, Visitor] = {}
        self.in_use = 0

    async def run(self) -> None:
        """Let all visitors come, wait, use a permit and go."""
        begin, tick, tasks = now(), 0, []
        for number, visitor in enumerate(self.scenario.visitors):
            tick += visitor.gap
            await self._until(begin + tick * TICK)
            visitor.number, visitor.cancelled = number, False
            tasks.append(asyncio.create_task(self._visit(visitor)))
            if visitor.gives_up is not None:
                tasks.append(
                    asyncio.create_task(self._cancel(visitor, tasks[-1], begin + (tick + visitor.gives_up) * TICK))
                )
        last = max((tick + (visitor.gives_up or 0) for visitor in self.scenario.visitors), default=0) + 200
        for between in range(
            tick, last
        ):  # no event happens in the middle of a tick, so no waiter may wait there for a free permit
            await self._until(begin + (between + 0.5) * TICK)
            assert all(self.in_use >= self.scenario.room(waiter.priority) for waiter in self.waiting.values())
            if all(task.done() for task in tasks):
                break
        await asyncio.gather(*tasks)

    async def _until(self, moment: float) -> None:
        await asyncio.sleep(moment - now())

    async def _visit(self, visitor: Visitor) -> None:
        if visitor.patience is not None:
            visitor.deadline = now() + visitor.patience * TICK
        self.waiting[visitor.number] = visitor
        try:
            await self.semaphore.acquire(visitor.priority, visitor.deadline)
        except TimeoutError:
            visitor.outcome = "refused"
            assert visitor.deadline == pytest.approx(now(), abs=TICK / 1000)
            return
        except asyncio.CancelledError:
            visitor.outcome = "cancelled"
            return
        finally:
            del self.waiting[visitor.number]
        self.in_use += 1
        assert self.in_use <= self.scenario.room(visitor.priority)
        assert self.semaphore._free == self.scenario.limit - self.in_use
        for other in self.waiting.values():
            leaving = other.cancelled or (other.deadline is not None and other.deadline <= now() + TICK / 1000)
            assert leaving or (visitor.priority, visitor.number) <= (other.priority, other.number)
        try:
            await asyncio.sleep(visitor.keeps * TICK)
            visitor.outcome = "served"
        except asyncio.CancelledError:
            visitor.outcome = "cancelled while it held one"
        finally:
            self.in_use -= 1
            self.semaphore.release()

    async def _cancel(self, visitor: Visitor, task: "asyncio.Task[None]", moment: float) -> None:
        await self._until(moment)
        for _ in range(visitor.cycles):
            await asyncio.sleep(0)
        if not task.done():
            visitor.cancelled = True
            task.cancel()


@settings(max_examples=300, deadline=None)
@given(SCENARIOS)
def test_the_bound_holds_and_no_permit_is_lost(scenario: Scenario) -> None:
    """In any traffic with cancellations, the bound and the order hold, a bulk visitor leaves the kept permits free, no
    waiter waits for a permit that it may take, and at the end all permits are free.
    """

    async def main() -> None:
        traffic = Traffic(scenario)
        await traffic.run()
        assert_unused(traffic.semaphore, scenario.limit)

    run(main())
    for visitor in scenario.visitors:
        assert visitor.outcome
        assert visitor.deadline is not None or visitor.outcome != "refused"
        assert visitor.cancelled or not visitor.outcome.startswith("cancelled")


# --- order --------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_free_permits_are_taken_at_once() -> None:
    """The free permits go without waiting; the next task waits for a release."""
    semaphore = PrioritySemaphore(3)
    queue = Queue(semaphore)
    tasks = [queue.join(number) for number in range(4)]
    await settle()
    assert queue.served == [0, 1, 2]
    semaphore.release()
    await asyncio.gather(*tasks)
    assert queue.served == [0, 1, 2, 3]


@in_virtual_time
async def test_interactive_goes_before_bulk_and_each_priority_keeps_its_order() -> None:
    """A permit goes to the first interactive waiter, and to a bulk one only if there is no interactive one."""
    semaphore = PrioritySemaphore(1)
    queue = Queue(semaphore)
    await semaphore.acquire(BULK, None)
    tasks = [queue.join(("bulk", number), BULK) for number in range(3)]
    await settle()
    tasks += [queue.join(("interactive", number), INTERACTIVE) for number in range(3)]
    for _ in tasks:
        await settle()
        semaphore.release()
    await asyncio.gather(*tasks)
    assert queue.served == [(lane, number) for lane in ("interactive", "bulk") for number in range(3)]


@in_virtual_time
async def test_kept_permits_are_for_interactive_callers() -> None:
    """A bulk caller waits while only kept permits are free, an interactive one takes them, and both pass in the end."""
    semaphore = PrioritySemaphore(3, kept=2)
    queue = Queue(semaphore)
    tasks = [queue.join(("bulk", number), BULK) for number in range(2)]
    await settle()
    tasks += [queue.join(("interactive", number), INTERACTIVE) for number in range(3)]
    await settle()
    assert queue.served == [("bulk", 0), ("interactive", 0), ("interactive", 1)]
    semaphore.release()
    await settle()
    assert queue.served[3:] == [("interactive", 2)]
    for _ in range(2):
        semaphore.release()
        await settle()
        assert queue.served[4:] == []  # both would be kept ones
    semaphore.release()
    await asyncio.gather(*tasks)
    assert queue.served[4:] == [("bulk", 1)]


@in_virtual_time
async def test_several_permits_released_at_once_wake_several_waiters() -> None:
    """Each of three permits that are released in the same step finds its waiter."""
    semaphore = PrioritySemaphore(3)
    queue = Queue(semaphore)
    for _ in range(3):
        await semaphore.acquire(BULK, None)
    tasks = [queue.join(number) for number in range(4)]
    await settle()
    for _ in range(3):
        semaphore.release()
    await settle()
    assert queue.served == [0, 1, 2]
    tasks.pop().cancel()
    await asyncio.gather(*tasks)
    assert semaphore._free == 0


@pytest.mark.parametrize(("newcomer", "first"), [(INTERACTIVE, "newcomer"), (BULK, "waiter")])
def test_a_newcomer_in_the_cycle_of_the_wake_stands_where_its_priority_says(newcomer: Priority, first: str) -> None:
    """Between a bulk waiter's waking and its next step, an interactive newcomer takes the permit, and a bulk one does
    not.
    """

    async def main() -> None:
        semaphore = PrioritySemaphore(1)
        queue = Queue(semaphore)
        await semaphore.acquire(BULK, None)
        tasks = [queue.join("waiter", BULK)]
        await settle()
        tasks.append(queue.join("newcomer", newcomer))  # its first step comes before the waiter's next one
        semaphore.release()
        await settle()
        assert queue.served == [first]
        semaphore.release()
        await asyncio.gather(*tasks)
        assert len(queue.served) == 2

    run(main())


@in_virtual_time
async def test_a_woken_bulk_waiter_does_not_overtake_an_interactive_newcomer() -> None:
    """A bulk waiter whose permit was taken after its waking leaves the next one to the interactive waiter in front."""
    semaphore = PrioritySemaphore(1)
    queue = Queue(semaphore)
    await semaphore.acquire(BULK, None)
    tasks = [queue.join("woken", BULK)]
    await settle()

    async def release() -> None:
        semaphore.release()

    # All of these have their first step in the cycle in which «woken» was woken, before its own.
    tasks += [queue.join("thief", INTERACTIVE), queue.join("interactive", INTERACTIVE), asyncio.create_task(release())]
    semaphore.release()
    await settle()
    assert queue.served == ["thief", "interactive"]
    semaphore.release()
    await asyncio.gather(*tasks)
    assert queue.served == ["thief", "interactive", "woken"]


@in_virtual_time
async def test_a_waiter_woken_for_nothing_keeps_its_place() -> None:
    """A waiter that is woken and finds no permit keeps its place in the queue."""
    semaphore = PrioritySemaphore(1)
    queue = Queue(semaphore)
    await semaphore.acquire(BULK, None)
    tasks = [queue.join(number) for number in range(3)]
    for _ in range(4):  # not 3: after three wakes that each move a waiter to the end, the order would be the same again
        await settle()
        semaphore._queue._wake()
    await settle()
    assert queue.served == []
    for _ in tasks:
        semaphore.release()
        await settle()
    assert queue.served == [0, 1, 2]


# --- cancellation and deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cancelled", [1, 2, 5])
@pytest.mark.parametrize("priorities", [(BULK, BULK), (INTERACTIVE, BULK), (INTERACTIVE, INTERACTIVE)])
def test_the_permit_of_a_waiter_cancelled_as_it_wakes_goes_to_the_next(
    cancelled: int, priorities: tuple[Priority, Priority]
) -> None:
    """A waiter that is cancelled between the release and its next step loses no permit, and neither do several in a
    row.
    """

    async def main() -> None:
        semaphore = PrioritySemaphore(1)
        queue = Queue(semaphore)
        await semaphore.acquire(BULK, None)
        doomed = [queue.join("doomed", priorities[0]) for _ in range(cancelled)]
        heir = queue.join("heir", priorities[1])
        await settle()
        begin = now()
        semaphore.release()
        for task in doomed:
            task.cancel()
        await heir
        assert now() == begin
        assert queue.served == ["heir"]
        assert all(task.cancelled() for task in doomed)
        semaphore.release()
        assert_unused(semaphore, 1)

    run(main())


@in_virtual_time
async def test_thousands_of_cancelled_waiters_leave_nothing() -> None:
    """5,000 waiters of both priorities, half with deadlines, are cancelled and leave nothing behind."""
    semaphore = PrioritySemaphore(2)
    queue = Queue(semaphore)
    for _ in range(2):
        await semaphore.acquire(BULK, None)
    tasks = [queue.join(n, Priority(n % 2), None if n % 4 < 2 else now() + 1e9) for n in range(5000)]
    await settle()
    assert len(semaphore._queue) == 5000
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    semaphore.release()
    semaphore.release()
    assert queue.served == []
    assert_unused(semaphore, 2)


@in_virtual_time
async def test_a_release_wakes_the_waiter_at_once() -> None:
    """A release wakes the waiter in the same step: a timer would cost each request one turn of the loop."""
    semaphore = PrioritySemaphore(1)
    await semaphore.acquire(BULK, None)
    waiter = asyncio.create_task(semaphore.acquire(BULK, None))
    await settle()
    semaphore.release()
    assert semaphore._queue._timer is None
    await waiter
    semaphore.release()
    assert_unused(semaphore, 1)


@in_virtual_time
async def test_a_waiter_is_refused_at_its_deadline() -> None:
    """A waiter without a permit gets `TimeoutError` at its deadline, and leaves nothing behind."""
    semaphore = PrioritySemaphore(1)
    await semaphore.acquire(BULK, None)
    begin = now()
    with pytest.raises(TimeoutError):
        await semaphore.acquire(INTERACTIVE, begin + 2.5)
    assert now() - begin == pytest.approx(2.5)
    semaphore.release()
    assert_unused(semaphore, 1)


@in_virtual_time
async def test_a_deadline_that_has_passed_is_refused_even_if_permits_are_free() -> None:
    """After its deadline a task gets no permit, even a free one; exactly at the deadline it does."""
    semaphore = PrioritySemaphore(1)
    begin = now()
    with pytest.raises(TimeoutError, match=r"^the deadline has passed$"):
        await semaphore.acquire(INTERACTIVE, math.nextafter(begin, 0))
    assert_unused(semaphore, 1)
    await semaphore.acquire(INTERACTIVE, begin)
    with pytest.raises(TimeoutError):
        await semaphore.acquire(INTERACTIVE, begin)
    assert now() == begin


@in_virtual_time
async def test_a_block_releases_its_permit_however_it_ends() -> None:
    """A permit is held inside the block only, whether it ends by itself, by an exception or by a cancellation."""
    semaphore = PrioritySemaphore(1)
    with await semaphore.acquire(BULK, None):
        assert semaphore._free == 0
    with pytest.raises(KeyError), await semaphore.acquire(BULK, None):
        raise KeyError
    assert_unused(semaphore, 1)

    async def hold() -> None:
        with await semaphore.acquire(BULK, None):
            await asyncio.sleep(1000)

    holder = asyncio.create_task(hold())
    await settle()
    assert semaphore._free == 0
    holder.cancel()
    await asyncio.gather(holder, return_exceptions=True)
    assert_unused(semaphore, 1)


@in_virtual_time
async def test_a_permit_is_refused_on_entering_only() -> None:
    """The deadline is for the wait: it is a `TimeoutError` on entering, and does not end the block."""
    semaphore = PrioritySemaphore(1)
    with await semaphore.acquire(BULK, now() + 1):
        await asyncio.sleep(5)
        with pytest.raises(TimeoutError), await semaphore.acquire(INTERACTIVE, now() + 1):
            pytest.fail("two permits of one")
        assert now() == 1006
    assert_unused(semaphore, 1)


# --- one loop after another ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("collected", ["before", "after"])
@pytest.mark.parametrize("woken", [True, False])
def test_waiters_of_a_dead_loop_are_dropped(collected: str, woken: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A loop that is closed over its waiters, asleep or just woken, leaves none of them to the next loop."""
    semaphore = PrioritySemaphore(1)
    loop = VirtualTimeLoop()
    loop.run_until_complete(semaphore.acquire(BULK, None))
    waiters = [loop.create_task(semaphore.acquire(priority, loop.time() + 9)) for priority in [*Priority, *Priority]]
    loop.run_until_complete(asyncio.sleep(0))
    assert len(semaphore._queue) == 4
    if woken:
        semaphore.release()
    loop.close()
    if not woken:
        semaphore._free += 1  # its holder is gone and never releases it
    if collected == "before":
        waiters.clear()
        gc.collect()

    async def main() -> None:
        queue = Queue(semaphore)
        tasks = [queue.join(number) for number in range(3)]
        for _ in tasks:
            await settle()
            waiters.clear()
            gc.collect()
            semaphore.release()
        assert queue.served == [0, 1, 2]

    run(main())
    assert_unused(semaphore, 1)
    assert {record.name for record in caplog.records} <= {"asyncio"}  # asyncio complains of its pending tasks


def test_a_permit_released_in_one_loop_is_free_in_the_next() -> None:
    """A permit that one loop still holds is missing in the next loop; a released one is free there."""
    semaphore = PrioritySemaphore(2)

    async def take_two_and_return_one() -> None:
        await semaphore.acquire(BULK, None)
        await semaphore.acquire(BULK, None)
        semaphore.release()

    async def take_one() -> None:
        await semaphore.acquire(BULK, None)
        with pytest.raises(TimeoutError):
            await semaphore.acquire(BULK, now() + 1)

    run(take_two_and_return_one())
    run(take_one(), start=0.0)


def test_a_permit_whose_holder_died_with_its_loop_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """A loop is closed over the holder of a permit and over a waiter: the permit is free again, and wakes no waiter."""
    semaphore = PrioritySemaphore(1)
    loop = VirtualTimeLoop()

    async def use() -> None:
        await semaphore.acquire(BULK, None)
        try:
            await asyncio.sleep(1000)
        finally:
            semaphore.release()

    tasks = [loop.create_task(use()), loop.create_task(semaphore.acquire(BULK, None))]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del tasks[0]
    gc.collect()  # ends the user's coroutine; an exception in there would fail this test
    assert semaphore._free == 1
    run(semaphore.acquire(BULK, None))
    semaphore.release()
    tasks.clear()
    gc.collect()
    assert_unused(semaphore, 1)
    assert {record.name for record in caplog.records} <= {"asyncio"}  # asyncio complains of its pending tasks


# --- the queue itself ---------------------------------------------------------------------------------------------


@in_virtual_time
async def test_the_waiters_ahead_of_a_newcomer_are_counted() -> None:
    """A bulk newcomer stands behind all waiters, an interactive one only behind the interactive ones."""
    open_ = False
    queue = PriorityWaitQueue(lambda _: open_, lambda now: None)
    queue.enter_loop()
    assert [queue.count_ahead(priority) for priority in Priority] == [0, 0]
    tasks = [
        asyncio.create_task(queue.wait(priority, None))
        for priority, many in ((INTERACTIVE, 2), (BULK, 3))
        for _ in range(many)
    ]
    await settle()
    assert (queue.count_ahead(INTERACTIVE), queue.count_ahead(BULK), len(queue)) == (2, 5, 5)
    open_ = True
    for task in tasks:
        queue._wake()
        await task
    assert len(queue) == 0


def test_a_new_loop_is_new_once() -> None:
    """A loop is new once, until another one comes."""
    queue = PriorityWaitQueue(lambda _: True, lambda now: None)

    async def enter() -> tuple[bool, bool]:
        return queue.enter_loop(), queue.enter_loop()

    assert run(enter()) == (True, False)
    assert run(enter()) == (True, False)


def test_two_threads_at_once_are_refused() -> None:
    """A second thread's loop is refused: its waiters could be neither woken nor dropped, and would wait for ever."""
    semaphore = PrioritySemaphore(1)

    async def hold() -> None:
        await semaphore.acquire(Priority.BULK, None)
        sentence = r"^a client or limiter serves one event loop at a time"
        with ThreadPoolExecutor(1) as thread, pytest.raises(RuntimeError, match=sentence):
            thread.submit(asyncio.run, semaphore.acquire(Priority.BULK, None)).result()
        semaphore.release()

    asyncio.run(hold())
    asyncio.run(semaphore.acquire(Priority.BULK, None))  # one after the other is allowed


def test_waking_an_empty_queue_does_nothing() -> None:
    """An item without a waiter does no harm."""
    PriorityWaitQueue(lambda _: True, lambda now: None)._wake()
    semaphore = PrioritySemaphore(1)
    semaphore.release()
    assert_unused(semaphore, 2)


def waiters_of(
    queue: PriorityWaitQueue, *deadlines: float | None, priority: Priority = BULK
) -> list[asyncio.Task[None]]:
    """Return tasks that wait in the queue until these deadlines."""
    queue.enter_loop()
    return [asyncio.create_task(queue.wait(priority, deadline)) for deadline in deadlines]


@in_virtual_time
async def test_the_first_waiter_wakes_when_its_item_is_ready() -> None:
    """The one timer is set for the item's time, and moved only if a later question names an earlier time."""
    ready = 1010.0
    queue = PriorityWaitQueue(lambda _: now() >= ready, lambda _: ready)
    (first,) = waiters_of(queue, None)
    await asyncio.sleep(1)
    timer = queue._timer
    (second,) = waiters_of(queue, None)
    await settle()
    assert queue._timer is timer
    assert not first.done()
    ready = 1005.0
    queue.wake_next()
    await first
    assert now() == 1005
    await second
    assert now() == 1005
    assert queue._timer is None


async def test_two_waiters_share_a_timer_of_less_than_half_a_millisecond() -> None:
    """For so short a delay uvloop returns a handle that does not know its time, and the second waiter needs none."""
    ready = now() + 0.0004
    queue = PriorityWaitQueue(lambda _: now() >= ready, lambda at: max(at, ready))
    await asyncio.gather(*waiters_of(queue, None, None))
    assert now() >= ready
    assert len(queue) == 0


@in_virtual_time
async def test_an_empty_queue_keeps_no_timer() -> None:
    """The last waiter that gives up takes the timer along."""
    queue = PriorityWaitQueue(lambda _: False, lambda at: at + 1000)
    tasks = waiters_of(queue, None, None)
    await settle()
    timer = queue._timer
    assert timer is not None
    for task in tasks:
        assert not timer.cancelled()
        task.cancel()
        await settle()
    assert timer.cancelled()
    assert queue._timer is None
    queue.wake_next()
    assert queue._timer is None


@in_virtual_time
async def test_the_latest_deadline_is_that_of_the_most_patient_waiter() -> None:
    """The latest deadline is infinity if one waiter has none, or if the queue is empty."""
    queue = PriorityWaitQueue(lambda _: False, lambda _: None)
    assert queue.latest_deadline() == math.inf
    tasks = [*waiters_of(queue, 1005.0, 1009.0), *waiters_of(queue, 1007.0, priority=INTERACTIVE)]
    await settle()
    assert queue.latest_deadline() == 1009.0
    (endless,) = waiters_of(queue, None)
    await settle()
    assert queue.latest_deadline() == math.inf
    endless.cancel()
    await settle()
    assert queue.latest_deadline() == 1009.0
    await asyncio.gather(*tasks, return_exceptions=True)
    assert now() == 1009
    assert queue.latest_deadline() == math.inf


@in_virtual_time
async def test_refusing_raises_the_error_in_every_waiter() -> None:
    """The error is raised at once in waiters of both priorities, with or without a deadline, and the queue is empty."""
    queue = PriorityWaitQueue(lambda _: False, lambda at: at + 5000)
    tasks = [*waiters_of(queue, None, 2000.0), *waiters_of(queue, None, priority=INTERACTIVE)]
    await settle()
    errors = [KeyError(number) for number in range(3)]
    left = iter(errors)
    queue.refuse(lambda: next(left))
    assert len(queue) == 0
    assert queue._timer is None
    assert {id(error) for error in await asyncio.gather(*tasks, return_exceptions=True)} == {id(e) for e in errors}
    assert now() == 1000
    assert len(queue) == 0


@in_virtual_time
async def test_refusing_the_hopeless_leaves_the_others_in_their_order() -> None:
    """Only the waiters whose deadline comes before the given time are refused."""
    open_ = False
    served: list[int] = []

    def take(_: Priority) -> bool:
        return open_

    queue = PriorityWaitQueue(take, lambda at: at if open_ else None)

    async def turn(number: int, deadline: float | None) -> None:
        await queue.wait(BULK, deadline)
        served.append(number)

    queue.enter_loop()
    tasks = [asyncio.create_task(turn(n, d)) for n, d in enumerate([None, 1004.9, 1005.0, 1005.1, 1001.0])]
    await settle()
    queue.refuse(TimeoutError, before=1005.0)
    await settle()
    assert [task.done() for task in tasks] == [False, True, False, False, True]
    assert queue.latest_deadline() == math.inf
    open_ = True
    queue.wake_next()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert served == [0, 2, 3]
    assert now() == 1000


@in_virtual_time
async def test_a_waiter_without_a_deadline_is_never_hopeless() -> None:
    """A waiter without a deadline is never refused for a late item."""
    queue = PriorityWaitQueue(lambda _: now() > 1000, lambda _: 5000.0)
    tasks = waiters_of(queue, None, None)
    await settle()
    queue.refuse(TimeoutError, before=1e9)
    await asyncio.gather(*tasks)
    assert now() == 5000


@in_virtual_time
async def test_a_waiter_that_was_woken_is_not_refused() -> None:
    """A waiter that was just woken keeps its item when the others are refused in the same cycle."""
    open_ = False
    queue = PriorityWaitQueue(lambda _: open_, lambda _: None)
    woken, other = waiters_of(queue, None, None)
    await settle()
    open_ = True
    queue._wake()
    queue.refuse(KeyError)
    await woken
    with pytest.raises(KeyError):
        await other


@in_virtual_time
async def test_a_waiter_refused_and_cancelled_in_one_cycle_is_cancelled() -> None:
    """A waiter that is refused and cancelled in one cycle is cancelled, and leaves nothing behind."""
    queue = PriorityWaitQueue(lambda _: False, lambda _: None)
    tasks = waiters_of(queue, None, None)
    await settle()
    queue.refuse(KeyError)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [task.cancelled() for task in tasks] == [True, True]
    assert len(queue) == 0

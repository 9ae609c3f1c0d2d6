"""The slots, and the two lanes in which one waits for them: the bound, the order, and that no slot is lost."""

import asyncio
import gc
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from attrs import define, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VirtualTimeLoop, in_virtual_time, run

from oca_sms_async._lanes import Lanes, Priority, Slots

BULK, INTERACTIVE = Priority.BULK, Priority.INTERACTIVE
TICK = 0.001  # seconds; whatever happens in a scenario happens at a whole number of them


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Let every task do what it can do at this moment of virtual time."""
    for _ in range(10):
        await asyncio.sleep(0)


def assert_unused(slots: Slots, limit: int) -> None:
    """Assert that every slot is free and nobody waits."""
    assert slots._free == limit
    assert not any(slots._lanes._queues)
    assert slots._lanes._bounded == 0


class Queue:
    """Tasks that wait for one slot each and keep it until the test releases it; `served` are their names, in order."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.served: list[object] = []

    def join(self, name: object, priority: Priority = BULK, deadline: float | None = None) -> asyncio.Task[None]:
        """Start a task that acquires."""

        async def visit() -> None:
            await self.slots.acquire(priority, deadline)
            self.served.append(name)

        return asyncio.create_task(visit())


# --- random traffic -----------------------------------------------------------------------------------------------


@define
class Visitor:
    """One user of a slot; its times are in ticks."""

    gap: int  # since the arrival before
    priority: Priority
    keeps: int  # the slot, for so long
    patience: int | None  # from its arrival to its deadline
    gives_up: int | None  # from its arrival to its cancellation
    cycles: int  # of the loop, that its cancellation is late in that tick
    number: int = field(default=-1, init=False)
    deadline: float | None = field(default=None, init=False)
    cancelled: bool = field(default=False, init=False)
    outcome: str = field(default="", init=False)


@frozen
class Scenario:
    """So many slots, and those who come for them."""

    limit: int
    visitors: list[Visitor]


SCENARIOS = st.builds(
    Scenario,
    limit=st.integers(1, 4),
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
        self.slots = Slots(scenario.limit)
        self.waiting: dict[int, Visitor] = {}
        self.in_use = 0

    async def run(self) -> None:
        """Let everybody come, wait, use a slot and go."""
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
        ):  # in the middle of each tick nothing happens, so nobody may wait for a free slot
            await self._until(begin + (between + 0.5) * TICK)
            assert self.slots._free == 0 or not self.waiting
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
            await self.slots.acquire(visitor.priority, visitor.deadline)
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
        assert self.in_use <= self.scenario.limit
        assert self.slots._free == self.scenario.limit - self.in_use
        for other in self.waiting.values():
            leaving = other.cancelled or (other.deadline is not None and other.deadline <= now() + TICK / 1000)
            assert leaving or (visitor.priority, visitor.number) <= (other.priority, other.number)
        try:
            await asyncio.sleep(visitor.keeps * TICK)
            visitor.outcome = "served"
        except asyncio.CancelledError:
            visitor.outcome = "cancelled in its slot"
        finally:
            self.in_use -= 1
            self.slots.release()

    async def _cancel(self, visitor: Visitor, task: "asyncio.Task[None]", moment: float) -> None:
        await self._until(moment)
        for _ in range(visitor.cycles):
            await asyncio.sleep(0)
        if not task.done():
            visitor.cancelled = True
            task.cancel()


@settings(max_examples=300, deadline=None)
@given(SCENARIOS)
def test_no_more_slots_are_out_than_there_are_and_none_is_lost(scenario: Scenario) -> None:
    """Whoever comes, goes or is cancelled: the bound and the order hold, nobody waits for a slot that is free, and in
    the end all of them are.
    """

    async def main() -> None:
        traffic = Traffic(scenario)
        await traffic.run()
        assert_unused(traffic.slots, scenario.limit)

    run(main())
    for visitor in scenario.visitors:
        assert visitor.outcome
        assert visitor.deadline is not None or visitor.outcome != "refused"
        assert visitor.cancelled or not visitor.outcome.startswith("cancelled")


# --- order --------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_slots_are_had_at_once_until_there_are_none_left() -> None:
    """As many as there are slots go without waiting; the next one waits for a release."""
    slots = Slots(3)
    queue = Queue(slots)
    tasks = [queue.join(number) for number in range(4)]
    await settle()
    assert queue.served == [0, 1, 2]
    slots.release()
    await asyncio.gather(*tasks)
    assert queue.served == [0, 1, 2, 3]


@in_virtual_time
async def test_interactive_goes_before_every_waiting_bulk_and_each_lane_keeps_its_order() -> None:
    """A slot that comes free goes to the first interactive waiter, and to a bulk one only where there is none."""
    slots = Slots(1)
    queue = Queue(slots)
    await slots.acquire(BULK, None)
    tasks = [queue.join(("bulk", number), BULK) for number in range(3)]
    await settle()
    tasks += [queue.join(("interactive", number), INTERACTIVE) for number in range(3)]
    for _ in tasks:
        await settle()
        slots.release()
    await asyncio.gather(*tasks)
    assert queue.served == [(lane, number) for lane in ("interactive", "bulk") for number in range(3)]


@in_virtual_time
async def test_several_slots_released_at_once_wake_several_waiters() -> None:
    """Each of three slots that come free in the same step finds its waiter."""
    slots = Slots(3)
    queue = Queue(slots)
    for _ in range(3):
        await slots.acquire(BULK, None)
    tasks = [queue.join(number) for number in range(4)]
    await settle()
    for _ in range(3):
        slots.release()
    await settle()
    assert queue.served == [0, 1, 2]
    tasks.pop().cancel()
    await asyncio.gather(*tasks)
    assert slots._free == 0


@pytest.mark.parametrize(("newcomer", "first"), [(INTERACTIVE, "newcomer"), (BULK, "waiter")])
def test_a_newcomer_in_the_cycle_of_the_wake_stands_where_its_priority_says(newcomer: Priority, first: str) -> None:
    """Between a bulk waiter's waking and its running, an interactive newcomer takes the slot, a bulk one does not."""

    async def main() -> None:
        slots = Slots(1)
        queue = Queue(slots)
        await slots.acquire(BULK, None)
        tasks = [queue.join("waiter", BULK)]
        await settle()
        tasks.append(queue.join("newcomer", newcomer))  # its first step comes before the waiter's next one
        slots.release()
        await settle()
        assert queue.served == [first]
        slots.release()
        await asyncio.gather(*tasks)
        assert len(queue.served) == 2

    run(main())


@in_virtual_time
async def test_one_that_was_woken_does_not_run_ahead_of_an_interactive_one_that_came_since() -> None:
    """A bulk waiter, woken for a slot that was taken from it, leaves the next slot to the interactive one in front."""
    slots = Slots(1)
    queue = Queue(slots)
    await slots.acquire(BULK, None)
    tasks = [queue.join("woken", BULK)]
    await settle()

    async def release() -> None:
        slots.release()

    # All of these have their first step in the cycle in which «woken» was woken, before its own.
    tasks += [queue.join("thief", INTERACTIVE), queue.join("interactive", INTERACTIVE), asyncio.create_task(release())]
    slots.release()
    await settle()
    assert queue.served == ["thief", "interactive"]
    slots.release()
    await asyncio.gather(*tasks)
    assert queue.served == ["thief", "interactive", "woken"]


@in_virtual_time
async def test_who_is_woken_for_nothing_keeps_its_place() -> None:
    """A waiter that finds nothing to take waits on, still in front of those who came after it."""
    slots = Slots(1)
    queue = Queue(slots)
    await slots.acquire(BULK, None)
    tasks = [queue.join(number) for number in range(3)]
    for _ in range(4):  # not 3, or they would be back where they were even if each went to the end
        await settle()
        slots._lanes._wake()
    await settle()
    assert queue.served == []
    for _ in tasks:
        slots.release()
        await settle()
    assert queue.served == [0, 1, 2]


# --- cancellation and deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cancelled", [1, 2, 5])
@pytest.mark.parametrize("priorities", [(BULK, BULK), (INTERACTIVE, BULK), (INTERACTIVE, INTERACTIVE)])
def test_a_slot_whose_waiter_is_cancelled_as_it_wakes_goes_to_the_next(
    cancelled: int, priorities: tuple[Priority, Priority]
) -> None:
    """Cancelled between the release and its own next step, a waiter loses no slot, and neither do several in a row."""

    async def main() -> None:
        slots = Slots(1)
        queue = Queue(slots)
        await slots.acquire(BULK, None)
        doomed = [queue.join("doomed", priorities[0]) for _ in range(cancelled)]
        heir = queue.join("heir", priorities[1])
        await settle()
        begin = now()
        slots.release()
        for task in doomed:
            task.cancel()
        await heir
        assert now() == begin
        assert queue.served == ["heir"]
        assert all(task.cancelled() for task in doomed)
        slots.release()
        assert_unused(slots, 1)

    run(main())


@in_virtual_time
async def test_thousands_of_cancelled_waiters_leave_nothing() -> None:
    """5,000 waiters in both lanes, half with deadlines, are cancelled, and nothing of them is left."""
    slots = Slots(2)
    queue = Queue(slots)
    for _ in range(2):
        await slots.acquire(BULK, None)
    tasks = [queue.join(n, Priority(n % 2), None if n % 4 < 2 else now() + 1e9) for n in range(5000)]
    await settle()
    assert len(slots._lanes) == 5000
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    slots.release()
    slots.release()
    assert queue.served == []
    assert_unused(slots, 2)


@in_virtual_time
async def test_a_slot_given_back_wakes_its_waiter_at_once() -> None:
    """The waiter is told in that very step, with no timer between, which would cost each request a turn of the loop."""
    slots = Slots(1)
    await slots.acquire(BULK, None)
    waiter = asyncio.create_task(slots.acquire(BULK, None))
    await settle()
    slots.release()
    assert slots._lanes._timer is None
    await waiter
    slots.release()
    assert_unused(slots, 1)


@in_virtual_time
async def test_a_waiter_is_refused_at_its_deadline() -> None:
    """Who has no slot by its deadline gets `TimeoutError` then, and leaves nothing."""
    slots = Slots(1)
    await slots.acquire(BULK, None)
    begin = now()
    with pytest.raises(TimeoutError):
        await slots.acquire(INTERACTIVE, begin + 2.5)
    assert now() - begin == pytest.approx(2.5)
    slots.release()
    assert_unused(slots, 1)


@in_virtual_time
async def test_a_deadline_that_has_passed_is_refused_even_where_slots_are_free() -> None:
    """Nobody gets a slot after its deadline; at the very moment of it, one still does."""
    slots = Slots(1)
    begin = now()
    with pytest.raises(TimeoutError, match=r"^the deadline has passed$"):
        await slots.acquire(INTERACTIVE, math.nextafter(begin, 0))
    assert_unused(slots, 1)
    await slots.acquire(INTERACTIVE, begin)
    with pytest.raises(TimeoutError):
        await slots.acquire(INTERACTIVE, begin)
    assert now() == begin


# --- one loop after another ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("collected", ["before", "after"])
@pytest.mark.parametrize("woken", [True, False])
def test_waiters_of_a_dead_loop_are_dropped(collected: str, woken: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A loop that was closed over its waiters, or right as one woke, leaves none of them to the next."""
    slots = Slots(1)
    loop = VirtualTimeLoop()
    loop.run_until_complete(slots.acquire(BULK, None))
    waiters = [loop.create_task(slots.acquire(priority, loop.time() + 9)) for priority in [*Priority, *Priority]]
    loop.run_until_complete(asyncio.sleep(0))
    assert len(slots._lanes) == 4
    if woken:
        slots.release()
    loop.close()
    if not woken:
        slots._free += 1  # its user is gone without a word
    if collected == "before":
        waiters.clear()
        gc.collect()

    async def main() -> None:
        queue = Queue(slots)
        tasks = [queue.join(number) for number in range(3)]
        for _ in tasks:
            await settle()
            waiters.clear()
            gc.collect()
            slots.release()
        assert queue.served == [0, 1, 2]

    run(main())
    assert_unused(slots, 1)
    assert {record.name for record in caplog.records} <= {"asyncio"}  # which misses its pending tasks


def test_slots_given_back_in_one_loop_are_free_in_the_next() -> None:
    """What one loop still holds is missing in the next one, and what it gave back is there."""
    slots = Slots(2)

    async def take_two_and_return_one() -> None:
        await slots.acquire(BULK, None)
        await slots.acquire(BULK, None)
        slots.release()

    async def take_one() -> None:
        await slots.acquire(BULK, None)
        with pytest.raises(TimeoutError):
            await slots.acquire(BULK, now() + 1)

    run(take_two_and_return_one())
    run(take_one(), start=0.0)


def test_a_slot_whose_user_died_with_its_loop_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """A loop closed over the user of a slot and over one that waits for it: the slot is free again, nobody is woken."""
    slots = Slots(1)
    loop = VirtualTimeLoop()

    async def use() -> None:
        await slots.acquire(BULK, None)
        try:
            await asyncio.sleep(1000)
        finally:
            slots.release()

    tasks = [loop.create_task(use()), loop.create_task(slots.acquire(BULK, None))]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del tasks[0]
    gc.collect()  # ends the user's coroutine; an exception in there would fail this test
    assert slots._free == 1
    run(slots.acquire(BULK, None))
    slots.release()
    tasks.clear()
    gc.collect()
    assert_unused(slots, 1)
    assert {record.name for record in caplog.records} <= {"asyncio"}  # which misses its pending tasks


# --- the lanes themselves -----------------------------------------------------------------------------------------


@in_virtual_time
async def test_lanes_count_who_stands_ahead_of_a_newcomer() -> None:
    """A bulk newcomer stands behind everybody, an interactive one behind the interactive ones alone."""
    open_ = False
    lanes = Lanes(lambda: open_, lambda now: None)
    lanes.enter_loop()
    assert [lanes.ahead(priority) for priority in Priority] == [0, 0]
    tasks = [
        asyncio.create_task(lanes.turn(priority, None))
        for priority, many in ((INTERACTIVE, 2), (BULK, 3))
        for _ in range(many)
    ]
    await settle()
    assert (lanes.ahead(INTERACTIVE), lanes.ahead(BULK), len(lanes)) == (2, 5, 5)
    open_ = True
    for task in tasks:
        lanes._wake()
        await task
    assert len(lanes) == 0


def test_lanes_know_a_new_loop_from_the_one_they_are_in() -> None:
    """A loop is new once, until another one comes."""
    lanes = Lanes(lambda: True, lambda now: None)

    async def enter() -> tuple[bool, bool]:
        return lanes.enter_loop(), lanes.enter_loop()

    assert run(enter()) == (True, False)
    assert run(enter()) == (True, False)


def test_two_threads_at_once_are_told_that_this_cannot_be() -> None:
    """What waits in a loop that runs elsewhere could be neither woken nor dropped: it would wait for ever."""
    slots = Slots(1)

    async def hold() -> None:
        await slots.acquire(Priority.BULK, None)
        sentence = r"^a client or limiter serves one event loop at a time"
        with ThreadPoolExecutor(1) as thread, pytest.raises(RuntimeError, match=sentence):
            thread.submit(asyncio.run, slots.acquire(Priority.BULK, None)).result()
        slots.release()

    asyncio.run(hold())
    asyncio.run(slots.acquire(Priority.BULK, None))  # one after the other is as ever


def test_waking_empty_lanes_does_nothing() -> None:
    """There may be something to take and nobody who wants it."""
    Lanes(lambda: True, lambda now: None)._wake()
    slots = Slots(1)
    slots.release()
    assert_unused(slots, 2)


def waiters_of(lanes: Lanes, *deadlines: float | None, priority: Priority = BULK) -> list[asyncio.Task[None]]:
    """Return tasks that wait for their turn until these deadlines."""
    lanes.enter_loop()
    return [asyncio.create_task(lanes.turn(priority, deadline)) for deadline in deadlines]


@in_virtual_time
async def test_lanes_wake_the_first_waiter_when_something_is_ready() -> None:
    """The one timer is set for the time that is told, and moved only where an earlier one is told later."""
    ready = 1010.0
    lanes = Lanes(lambda: now() >= ready, lambda _: ready)
    (first,) = waiters_of(lanes, None)
    await asyncio.sleep(1)
    timer = lanes._timer
    (second,) = waiters_of(lanes, None)
    await settle()
    assert lanes._timer is timer
    assert not first.done()
    ready = 1005.0
    lanes.rouse()
    await first
    assert now() == 1005
    await second
    assert now() == 1005
    assert lanes._timer is None


@in_virtual_time
async def test_lanes_without_waiters_keep_no_timer() -> None:
    """The last one that gives up takes the timer along."""
    lanes = Lanes(lambda: False, lambda at: at + 1000)
    tasks = waiters_of(lanes, None, None)
    await settle()
    timer = lanes._timer
    assert timer is not None
    for task in tasks:
        assert not timer.cancelled()
        task.cancel()
        await settle()
    assert timer.cancelled()
    assert lanes._timer is None
    lanes.rouse()
    assert lanes._timer is None


@in_virtual_time
async def test_the_latest_deadline_is_the_most_patient_waiters() -> None:
    """Infinity where one of them waits for ever, or nobody waits at all."""
    lanes = Lanes(lambda: False, lambda _: None)
    assert lanes.latest_deadline() == math.inf
    tasks = [*waiters_of(lanes, 1005.0, 1009.0), *waiters_of(lanes, 1007.0, priority=INTERACTIVE)]
    await settle()
    assert lanes.latest_deadline() == 1009.0
    (endless,) = waiters_of(lanes, None)
    await settle()
    assert lanes.latest_deadline() == math.inf
    endless.cancel()
    await settle()
    assert lanes.latest_deadline() == 1009.0
    await asyncio.gather(*tasks, return_exceptions=True)
    assert now() == 1009
    assert lanes.latest_deadline() == math.inf


@in_virtual_time
async def test_refusing_raises_the_error_in_every_waiter() -> None:
    """In both lanes, with or without a deadline, at once; and none of them is left."""
    lanes = Lanes(lambda: False, lambda _: None)
    tasks = [*waiters_of(lanes, None, 2000.0), *waiters_of(lanes, None, priority=INTERACTIVE)]
    await settle()
    errors = [KeyError(number) for number in range(3)]
    left = iter(errors)
    lanes.refuse(lambda: next(left))
    assert {id(error) for error in await asyncio.gather(*tasks, return_exceptions=True)} == {id(e) for e in errors}
    assert now() == 1000
    assert len(lanes) == 0


@in_virtual_time
async def test_refusing_the_hopeless_leaves_the_others_in_their_order() -> None:
    """Only a deadline that comes before the time that is told is hopeless."""
    open_ = False
    served: list[int] = []

    def take() -> bool:
        return open_

    lanes = Lanes(take, lambda at: at if open_ else None)

    async def turn(number: int, deadline: float | None) -> None:
        await lanes.turn(BULK, deadline)
        served.append(number)

    lanes.enter_loop()
    tasks = [asyncio.create_task(turn(n, d)) for n, d in enumerate([None, 1004.9, 1005.0, 1005.1, 1001.0])]
    await settle()
    lanes.refuse(TimeoutError, before=1005.0)
    await settle()
    assert [task.done() for task in tasks] == [False, True, False, False, True]
    open_ = True
    lanes.rouse()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert served == [0, 2, 3]
    assert now() == 1000


@in_virtual_time
async def test_who_waits_for_ever_is_never_hopeless() -> None:
    """However late a turn may come, one without a deadline waits for it."""
    lanes = Lanes(lambda: now() > 1000, lambda _: 5000.0)
    tasks = waiters_of(lanes, None, None)
    await settle()
    lanes.refuse(TimeoutError, before=1e9)
    await asyncio.gather(*tasks)
    assert now() == 5000


@in_virtual_time
async def test_who_was_woken_already_is_not_refused() -> None:
    """What a waiter was woken for is still its own when the others are refused in the same cycle."""
    open_ = False
    lanes = Lanes(lambda: open_, lambda _: None)
    woken, other = waiters_of(lanes, None, None)
    await settle()
    open_ = True
    lanes._wake()
    lanes.refuse(KeyError)
    await woken
    with pytest.raises(KeyError):
        await other


@in_virtual_time
async def test_a_waiter_refused_and_cancelled_in_one_cycle_is_cancelled() -> None:
    """A cancellation is never mistaken for a refusal, and leaves nothing either."""
    lanes = Lanes(lambda: False, lambda _: None)
    tasks = waiters_of(lanes, None, None)
    await settle()
    lanes.refuse(KeyError)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [task.cancelled() for task in tasks] == [True, True]
    assert len(lanes) == 0

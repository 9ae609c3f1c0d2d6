"""A queue of waiting tasks with two priorities, and the semaphore that is built on it."""

import asyncio
import math
import os
from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum

from attrs import frozen


class Priority(IntEnum):
    """The order among waiting requests: each `INTERACTIVE` one goes before each `BULK` one."""

    INTERACTIVE = 0
    BULK = 1


class PriorityWaitQueue:
    """Tasks that wait: interactive before bulk, and first come, first served within a priority.

    `take(priority)` takes one item for the waiter at the front, and returns whether there was one for this priority.
    `ready_at(now)` returns the time of that waiter's item, in the loop's time. That is `now` if the item is there
    already, and None if its time is unknown. In that case, call `wake_next` as soon as there is an item.

    A sleeping waiter is never granted anything. It is woken, and takes in the same step in which `wait` returns. So a
    cancellation has nothing to lose, even between the waking and the taking.
    """

    def __init__(self, take: Callable[[Priority], bool], ready_at: Callable[[float], float | None]) -> None:
        self._take = take
        self._ready_at = ready_at
        self._timer: asyncio.Handle | None = None
        # Kept here, for not each loop's timer knows it: uvloop returns a plain handle for a delay below 0.5 ms.
        self._timer_at = math.inf
        self.loop: asyncio.AbstractEventLoop | None = None
        self._pid: int | None = None  # the process of that loop
        # A waiter that gives up leaves from the middle. In an ordered dictionary that costs no search.
        self._queues = tuple(OrderedDict[object, _Waiter]() for _ in Priority)
        self._bounded = 0  # the number of waiters with a deadline: at 0, no search for a deadline is needed

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def count_ahead(self, priority: Priority) -> int:
        """Count the waiters in front of a newcomer of this priority."""
        return sum(map(len, self._queues[: priority + 1]))

    def enter_loop(self) -> bool:
        """Return whether the running loop is new here; if so, drop the waiters of the loop before, which is dead.

        `RuntimeError` if the loop before runs in another thread: its waiters cannot be woken from here. A loop of the
        process before a fork seems to run for ever here, but is dead too.
        """
        loop = asyncio.get_running_loop()
        if loop is self.loop:
            return False
        pid = os.getpid()
        if self.loop is not None and self.loop.is_running() and pid == self._pid:
            raise RuntimeError("a client or limiter serves one event loop at a time, and another thread's is running")
        self.loop, self._pid, self._timer, self._bounded = loop, pid, None, 0
        for queue in self._queues:
            queue.clear()
        return True

    def take_now(self, priority: Priority, deadline: float | None) -> bool:
        """Take one item if nobody is ahead of this caller and there is one; return whether that was so.

        `deadline` is in the loop's time; `TimeoutError` if it has passed.
        """
        if deadline is not None and asyncio.get_running_loop().time() > deadline:
            raise TimeoutError("the deadline has passed")
        if any(self._queues) and self.count_ahead(priority):
            return False
        return self._take(priority)

    async def wait(self, priority: Priority, deadline: float | None) -> None:
        """Wait until this caller is at the front, and take one item. `take_now` comes first, because it is quicker.

        `deadline` is in the loop's time; `TimeoutError` when it comes first.
        """
        loop = asyncio.get_running_loop()
        queue, ticket = self._queues[priority], object()
        self._bounded += deadline is not None
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    queue[ticket] = waiter = _Waiter(loop.create_future(), deadline)
                    self.wake_next()
                    await waiter.woken
                    if self._first() is ticket and self._take(priority):
                        return
        finally:
            if queue.pop(ticket, None) is not None:  # a refused waiter and one of a dead loop are out already
                self._bounded -= deadline is not None
                self.wake_next()

    def wake_next(self) -> None:
        """Wake the waiter at the front: now if there is an item, else by a timer for the item's time."""
        if not any(self._queues) or self.loop is None or self.loop.is_closed():  # a closed loop's waiters are dead
            self._set_timer(None)
            return
        now = self.loop.time()
        when = self._ready_at(now)
        if when is None:
            return
        if when <= now:
            self._wake()
        elif self._timer is None or when < self._timer_at:  # a timer that fires too early does no harm
            self._set_timer(self.loop.call_at(when, self._on_timer))
            self._timer_at = when

    def latest_deadline(self) -> float:
        """Return the latest deadline of all waiters; infinity if one of them has none, or if there is no waiter."""
        if self._bounded < len(self):
            return math.inf
        waiters = (waiter for queue in self._queues for waiter in queue.values())
        return max((waiter.deadline for waiter in waiters if waiter.deadline is not None), default=math.inf)

    def refuse(self, error: Callable[[], Exception], *, before: float = math.inf) -> None:
        """Raise an error in each waiter whose deadline comes before a time of the loop; by default in all of them."""
        if before < math.inf and not self._bounded:
            return
        for queue in self._queues:
            for ticket, waiter in list(queue.items()):
                hopeless = before == math.inf or (waiter.deadline is not None and waiter.deadline < before)
                if hopeless and not waiter.woken.done():
                    del queue[ticket]  # at once, or `ready_at` would look for items for it
                    self._bounded -= waiter.deadline is not None
                    waiter.woken.set_exception(error())
                    # A waiter that was just cancelled never reads the exception, and asyncio would complain of that.
                    waiter.woken.exception()
        if not self:
            self._set_timer(None)

    def _set_timer(self, timer: asyncio.Handle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _on_timer(self) -> None:
        self._timer = None
        self._wake()

    def _wake(self) -> None:
        ticket = self._first()
        waiter = next((queue[ticket] for queue in self._queues if ticket in queue), None)
        if waiter is not None and not waiter.woken.done():
            waiter.woken.set_result(None)

    def _first(self) -> object | None:
        return next((next(iter(queue)) for queue in self._queues if queue), None)


@frozen
class _Waiter:
    woken: asyncio.Future[None]
    deadline: float | None


class PrioritySemaphore:
    """A bound on how much runs at once, with a `PriorityWaitQueue` in front of it.

    So many permits are `kept` for interactive callers: a bulk one takes a permit only if it leaves those free.
    """

    def __init__(self, value: int, *, kept: int = 0) -> None:
        self._value = self._free = value
        self._kept = kept
        self._pid: int | None = None  # the process of the permits that are out
        self._permit = _Permit(self)
        self._queue = PriorityWaitQueue(self._take, self._ready_at)

    async def acquire(self, priority: Priority, deadline: float | None) -> "_Permit":
        """Take a permit. `release` gives it back, or the end of a `with` block of the answer.

        `deadline` is in the loop's time; `TimeoutError` if it comes first.
        """
        if self._queue.enter_loop() and self._pid != os.getpid():
            # Permits that are out in the parent never return here.
            self._free, self._pid, self._permit = self._value, os.getpid(), _Permit(self)
        if not self._queue.take_now(priority, deadline):
            await self._queue.wait(priority, deadline)
        return self._permit

    def release(self) -> None:
        """Give one permit back."""
        self._free += 1
        self._queue.wake_next()

    def give_back(self, permit: "_Permit") -> None:
        """Release a permit, unless it is the parent's: a forked child may collect a task of its parent."""
        if permit is self._permit:
            self.release()

    def _take(self, priority: Priority) -> bool:
        if not self._is_free(priority):
            return False
        self._free -= 1
        return True

    def _ready_at(self, now: float) -> float | None:
        first = Priority.INTERACTIVE if self._queue.count_ahead(Priority.INTERACTIVE) else Priority.BULK
        return now if self._is_free(first) else None

    def _is_free(self, priority: Priority) -> bool:
        return self._free > (self._kept if priority is Priority.BULK else 0)


class _Permit:
    """One permit of a `PrioritySemaphore`; those of one process are all alike."""

    def __init__(self, semaphore: PrioritySemaphore) -> None:
        self._semaphore = semaphore

    def __enter__(self) -> None:
        """Hold the permit for the length of the block."""

    def __exit__(self, *_: object) -> None:
        self._semaphore.give_back(self)

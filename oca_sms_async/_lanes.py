"""Two lanes of waiters, interactive before bulk; and the slots, a bound on requests in flight that is waited for in
them.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum

from attrs import frozen


class Priority(IntEnum):
    """Which lane a request waits in: every waiting `INTERACTIVE` one goes before any `BULK` one."""

    INTERACTIVE = 0
    BULK = 1


class Lanes:
    """Waiters, first come first served, the interactive ones before the others.

    `take()` takes for the waiter whose turn it is, if there is something to take, and tells whether there was.
    `ready_at(now)` is when there will be something, in the loop's time: `now` only if there is; None where nobody
    knows, and then `rouse` is to be called when there is. Nothing is ever granted to a waiter that sleeps: it is
    woken, looks for itself and takes in the same step in which it returns, so that a cancellation at any moment, the
    one between waking and taking included, has nothing to lose.
    """

    def __init__(self, take: Callable[[], bool], ready_at: Callable[[float], float | None]) -> None:
        self._take = take
        self._ready_at = ready_at
        self._timer: asyncio.TimerHandle | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        # Ordered dictionaries, because a waiter that gives up leaves from the middle, and that must not cost a search.
        self._queues = tuple(OrderedDict[object, _Waiter]() for _ in Priority)
        self._bounded = 0  # the waiters that have a deadline; with none of them, nobody need look for one

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def ahead(self, priority: Priority) -> int:
        """Count the waiters that a newcomer of this priority would stand behind."""
        return sum(map(len, self._queues[: priority + 1]))

    def enter_loop(self) -> bool:
        """Drop the waiters of another loop, which is dead, and tell whether this loop is new here.

        `RuntimeError` if the other one is alive, in another thread: its waiters cannot be woken from here.
        """
        loop = asyncio.get_running_loop()
        if loop is self.loop:
            return False
        if self.loop is not None and self.loop.is_running():
            raise RuntimeError("a client or limiter serves one event loop at a time, and another thread's is running")
        self.loop, self._timer, self._bounded = loop, None, 0
        for queue in self._queues:
            queue.clear()
        return True

    async def turn(self, priority: Priority, deadline: float | None) -> None:
        """Return when it was this caller's turn and it has taken; `TimeoutError` at the deadline, in the loop's
        time.
        """
        loop = asyncio.get_running_loop()
        if deadline is not None and loop.time() > deadline:
            raise TimeoutError("the deadline has passed")
        if not self.ahead(priority) and self._take():
            return
        queue, ticket = self._queues[priority], object()
        self._bounded += deadline is not None
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    queue[ticket] = waiter = _Waiter(loop.create_future(), deadline)
                    self.rouse()
                    await waiter.woken
                    if self._first() is ticket and self._take():
                        return
        finally:
            if queue.pop(ticket, None) is not None:  # else this is a waiter of a dead loop, and nobody is behind it
                self._bounded -= deadline is not None
                self.rouse()

    def rouse(self) -> None:
        """See to it that the first waiter looks again once there is something for it."""
        if not self or self.loop is None or self.loop.is_closed():  # nobody, or the waiters of a dead loop
            self._set_timer(None)
            return
        now = self.loop.time()
        when = self._ready_at(now)
        if when is None:
            return
        if when <= now:
            self._wake()
        elif self._timer is None or when < self._timer.when():  # a timer that fires too early does no harm
            self._set_timer(self.loop.call_at(when, self._on_timer))

    def latest_deadline(self) -> float:
        """Return the time by which the most patient waiter must have had its turn; infinity where one waits for
        ever.
        """
        if self._bounded < len(self):
            return math.inf
        waiters = (waiter for queue in self._queues for waiter in queue.values())
        return max((waiter.deadline for waiter in waiters if waiter.deadline is not None), default=math.inf)

    def refuse(self, error: Callable[[], Exception], *, before: float = math.inf) -> None:
        """Raise an error in every waiter, or in those only whose deadline comes before a time of the loop."""
        if before < math.inf and not self._bounded:
            return
        for queue in self._queues:
            for waiter in queue.values():
                hopeless = before == math.inf or (waiter.deadline is not None and waiter.deadline < before)
                if hopeless and not waiter.woken.done():
                    waiter.woken.set_exception(error())
                    # A waiter that was cancelled just now will not look at it, and asyncio would complain.
                    waiter.woken.exception()

    def _set_timer(self, timer: asyncio.TimerHandle | None) -> None:
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


class Slots:
    """A bound on requests in flight, waited for in the same two lanes."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._lanes = Lanes(self._take, lambda now: now if self._free else None)

    async def acquire(self, priority: Priority, deadline: float | None) -> None:
        """Return with a slot, to be given back with `release`; `TimeoutError` at the deadline, in the loop's time."""
        self._lanes.enter_loop()
        await self._lanes.turn(priority, deadline)

    def release(self) -> None:
        """Give one slot back."""
        self._free += 1
        self._lanes.rouse()

    def _take(self) -> bool:
        if self._free == 0:
            return False
        self._free -= 1
        return True

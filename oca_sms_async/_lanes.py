"""Two lanes of waiters, interactive before bulk; and the slots, a bound on requests in flight that is waited for in
them.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum


class Priority(IntEnum):
    """Which lane a request waits in: every waiting `INTERACTIVE` one goes before any `BULK` one."""

    INTERACTIVE = 0
    BULK = 1


class Lanes:
    """Waiters, first come first served, the interactive ones before the others.

    `take()` takes for the waiter whose turn it is, if there is something to take. Nothing is ever granted to a waiter
    that sleeps: it is woken, looks for itself and takes in the same step in which it returns, so that a cancellation
    at any moment, the one between waking and taking included, has nothing to lose. `rouse()` is called whenever the
    first waiter may have changed; it must see to it that `wake()` is called once there may be something to take.
    """

    def __init__(self, take: Callable[[], bool], rouse: Callable[[], None]) -> None:
        self._take = take
        self._rouse = rouse
        self.loop: asyncio.AbstractEventLoop | None = None
        # Ordered dictionaries, because a waiter that gives up leaves from the middle, and that must not cost a search.
        self._queues = tuple(OrderedDict[object, asyncio.Future[None]]() for _ in Priority)

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def ahead(self, priority: Priority) -> int:
        """Count the waiters that a newcomer of this priority would stand behind."""
        return sum(map(len, self._queues[: priority + 1]))

    def enter_loop(self) -> bool:
        """Drop the waiters of another loop, which is dead, and tell whether this loop is new here."""
        loop = asyncio.get_running_loop()
        if loop is self.loop:
            return False
        self.loop = loop
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
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    queue[ticket] = woken = loop.create_future()
                    self._rouse()
                    await woken
                    if self._first() is ticket and self._take():
                        return
        finally:
            # Gone already, or the loop closed: then this is a waiter of a dead loop, and nobody is behind it.
            if queue.pop(ticket, None) is not None and not loop.is_closed():
                self._rouse()

    def wake(self) -> None:
        """Let the first waiter look again."""
        ticket = self._first()
        if ticket is not None:
            woken = next(queue[ticket] for queue in self._queues if ticket in queue)
            if not woken.done():
                woken.set_result(None)

    def _first(self) -> object | None:
        return next((next(iter(queue)) for queue in self._queues if queue), None)


class Slots:
    """A bound on requests in flight, waited for in the same two lanes."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._lanes = Lanes(self._take, self._rouse)

    async def acquire(self, priority: Priority, deadline: float | None) -> None:
        """Return with a slot, to be given back with `release`; `TimeoutError` at the deadline, in the loop's time."""
        self._lanes.enter_loop()
        await self._lanes.turn(priority, deadline)

    def release(self) -> None:
        """Give one slot back."""
        self._free += 1
        self._rouse()

    def _take(self) -> bool:
        if self._free == 0:
            return False
        self._free -= 1
        return True

    def _rouse(self) -> None:
        if self._free:
            self._lanes.wake()

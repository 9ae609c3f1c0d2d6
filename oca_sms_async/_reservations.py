"""One rate limit for several processes: a store reserves the requests' times, and each process waits for them here."""

import asyncio
import bisect
import math
from typing import Final, Protocol

from oca_sms_async._errors import LimiterUnavailableError
from oca_sms_async._limiter import (
    ROUNDING,
    BucketState,
    LimiterStatistics,
    RateLimiter,
    StartGate,
    check_bucket,
    check_pause,
)
from oca_sms_async._log import log
from oca_sms_async._scrub import scrub
from oca_sms_async._settings import positive_seconds
from oca_sms_async._waiting import Priority, PriorityWaitQueue

_FOR_EVER: Final = 1e9  # seconds
_STALE: Final = 0.5  # seconds for which a reservation may still be used after its time
_PROBE: Final = 1.0  # seconds between two looks at a store that is away, while a fallback serves
_MOST_HELD: Final = 64


class ReservationStore(Protocol):
    """The limit itself, kept on a server that all processes share; `redis` has one."""

    async def reserve(self, pause: float, patience: float) -> tuple[bool, float]:
        """Reserve the time of one request, and return whether that was done, and the seconds until then.

        A time that is more than `patience` seconds away is returned, but not reserved. For `pause` seconds from now,
        the store reserves no time for any process. Any exception means that the store is away.
        """
        ...

    def reconnect(self) -> None:
        """Forget all connections without touching them: they belong to another event loop."""
        ...

    async def aclose(self) -> None:
        """Close the connections, unless they were lent."""
        ...


class ReservedTokenBucket:
    """A token bucket on a `ReservationStore`: waiting, deadlines, pauses and the fallback.

    A process holds no more unused reservations than cover one round trip, normally one. A reservation belongs to no
    waiter: it goes to the waiter that is at the front when its time has come.
    """

    def __init__(
        self,
        store: ReservationStore,
        *,
        name: str,
        rate: float,
        capacity: float,
        timeout: float,
        fallback: RateLimiter | None,
    ) -> None:
        self.name: Final = name
        self.rate: Final = rate
        self.capacity: Final = capacity
        self._store = store
        self._timeout = timeout
        self._fallback = fallback
        # A reservation may be used at its time. After a stall several are late, and go one after the other.
        self._state = BucketState(rate=rate * ROUNDING, capacity=capacity, tokens=capacity)
        self._queue = PriorityWaitQueue(self._take, self._ready_at)
        self._gate = StartGate(rate, capacity)
        self._reserved = list[float]()  # times of the loop, in order
        self._asking = set[asyncio.Task[tuple[bool, float]]]()
        self._away_until: float | None = None
        self._round_trip = 0.0
        self._granted = 0
        self._refused = 0
        self._closed = False

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Return when one request may start.

        `deadline` is in the loop's time. `TimeoutError` comes as soon as it is known that the token would come after
        the deadline, and at the deadline at the latest. `LimiterUnavailableError` if the server does not answer and
        there is no fallback. `RuntimeError` after `aclose`.
        """
        now = self._now()
        if self._fallback is None:
            await self._wait(now, priority, deadline)
        elif self._away_until is not None:
            self._probe(now)
            await self._fallback.acquire(priority=priority, deadline=deadline)
        else:
            try:
                await self._wait(now, priority, deadline)
            except LimiterUnavailableError:
                await self._fallback.acquire(priority=priority, deadline=deadline)

    async def start(self) -> bool:
        """Return True when a request with a token may start; False if it is too late and needs another token."""
        return await self._gate.start()

    def pause(self, seconds: float) -> None:
        """Let no request through for so many seconds.

        The pause holds in this process at once, and in the others from the next `acquire` of this process on.
        `ValueError` unless `seconds` is a finite number of at least 0. After `aclose` it does nothing.
        """
        check_pause(seconds)
        if self._closed:  # the answer to a request from before the closing
            return
        self._state.pause(self._now(), seconds)
        self._reserved = [time for time in self._reserved if time >= self._state.paused_until]
        if self._fallback is not None:
            self._fallback.pause(seconds)

    def statistics(self) -> LimiterStatistics:
        """Return this process' counts and waiters; `tokens` counts its unused reservations."""
        now = self._state.as_of if self._queue.loop is None else self._queue.loop.time()
        return LimiterStatistics(
            granted=self._granted,
            refused=self._refused,
            waiting=len(self._queue),
            tokens=len(self._reserved),
            paused_for=max(0.0, self._state.paused_until - now),
        )

    async def aclose(self) -> None:
        """Stop asking, and close the connections unless they were lent; an `acquire` is a `RuntimeError` then."""
        self._closed = True
        for task in self._asking:
            task.cancel()
        self._queue.refuse(lambda: LimiterUnavailableError("this limiter was closed"))
        await self._store.aclose()

    def __repr__(self) -> str:
        kind, waiting = type(self).__name__, len(self._queue)
        return f"<{kind} name={self.name!r} rate={self.rate} capacity={self.capacity} waiting={waiting}>"

    async def _wait(self, now: float, priority: Priority, deadline: float | None) -> None:
        first = max(self._reserved[0] if self._reserved else now, self._state.paused_until)
        behind = max(0.0, self._queue.count_ahead(priority) + 1 - self.capacity)
        if deadline is not None and first + behind / self.rate > deadline:
            self._refused += 1
            raise TimeoutError("no token comes before the deadline")
        try:
            await self._queue.wait(priority, deadline)
        except TimeoutError:
            self._refused += 1
            raise

    def _now(self) -> float:
        if self._closed:
            raise RuntimeError("this limiter is closed")
        before = self._queue.loop
        fresh = self._queue.enter_loop()
        now = asyncio.get_running_loop().time()
        if fresh:  # connections, questions and clock of the loop before are of no use in this one
            self._asking.clear()
            self._reserved.clear()
            self._state.rebase(now, before=None if before is None else before.time())
            self._store.reconnect()
        return now

    def _take(self) -> bool:
        now = asyncio.get_running_loop().time()
        if not self._reserved or self._ready_at(now) != now:
            return False
        del self._reserved[0]
        self._state.take(now)
        self._granted += 1
        return True

    def _ready_at(self, now: float) -> float | None:
        while self._reserved and self._reserved[0] < now - _STALE:
            del self._reserved[0]
        wanted = min(len(self._queue), max(1, math.ceil(self._round_trip * self.rate)), _MOST_HELD)
        for _ in range(wanted - len(self._reserved) - len(self._asking)):
            self._ask()
        return max(self._state.ready_at(now), self._reserved[0]) if self._reserved else None

    def _probe(self, now: float) -> None:
        """Look from time to time whether the store is back, while requests go through the fallback."""
        if self._away_until is not None and now >= self._away_until and not self._asking:
            self._ask()

    def _ask(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reserve())
        self._asking.add(task)
        task.add_done_callback(self._on_answer)

    async def _reserve(self) -> tuple[bool, float]:
        """Reserve one time, unless it is too late for all waiters; return whether that was done, and the time."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        pause = max(0.0, self._state.paused_until - asked)
        patience = min(max(0.0, self._queue.latest_deadline() - asked), _FOR_EVER)
        async with asyncio.timeout(self._timeout):
            taken, wait = await self._store.reserve(pause, patience)
        now = loop.time()
        self._round_trip += 0.2 * (now - asked - self._round_trip)
        return taken, now + wait

    def _on_answer(self, task: asyncio.Task[tuple[bool, float]]) -> None:
        self._asking.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._fall_back(scrub(error))
            return
        if self._fallback is not None and self._away_until is not None:
            log("limiter.restored", limiter=self.name)
        self._away_until = None
        taken, at = task.result()
        if taken and at >= self._state.paused_until:  # else a pause began after the question
            bisect.insort(self._reserved, at)
        first = min([at, *self._reserved[:1]])
        self._queue.refuse(lambda: TimeoutError("no token comes before the deadline"), before=first)
        self._queue.wake_next()

    def _fall_back(self, cause: BaseException) -> None:
        """Raise `LimiterUnavailableError` in all waiters; those with a fallback go there."""

        def unavailable() -> LimiterUnavailableError:
            error = LimiterUnavailableError("the limiter's Redis does not answer")
            error.__cause__ = cause
            return error

        if self._fallback is not None and self._away_until is None:
            log("limiter.fallback", limiter=self.name)
        self._away_until = asyncio.get_running_loop().time() + _PROBE
        self._queue.refuse(unavailable)


def check_shared_bucket(name: str, rate: float, capacity: float, timeout: float) -> None:
    """Raise `ValueError` that names the argument which no shared bucket can have."""
    check_bucket(rate, capacity)
    if not (isinstance(name, str) and name):
        raise ValueError("name must be a str that is not empty: it tells one account's limit from another's")
    positive_seconds("timeout", timeout)

"""One rate limit for several processes: a store reserves the requests' times, and each process waits for them here."""

import asyncio
import bisect
import math
from typing import Final

from oca_sms_async._errors import LimiterUnavailableError
from oca_sms_async._fallback import Fallback
from oca_sms_async._limiter import ROUNDING, BucketState, LimiterStatistics, RateLimiter, check_pause
from oca_sms_async._reservation_store import Asked, Questions, ReservationStore, Reserver
from oca_sms_async._start_gate import Gated, StartGate
from oca_sms_async._waiting import Priority, PriorityWaitQueue

_FOR_EVER: Final = 1e9  # seconds
_STALE: Final = 0.5  # seconds for which a reservation may still be used after its time
_FAR: Final = 10.0  # seconds: a reservation further away than this is looked at again
_LOOK: Final = 1.0  # seconds between two looks
_MOST_HELD: Final = 64
_CLOSED: Final = "this limiter was closed"


class ReservedTokenBucket(Gated):
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
        self._reserver = Reserver(store, timeout=timeout)
        self._asking = Questions(self._reserver, self._seconds_paused)
        self._looking = Questions(self._reserver, self._seconds_paused)  # at most one
        self._fallback = None if fallback is None else Fallback(fallback, name=name, probe=self._probe, timeout=timeout)
        # A reservation may be used at its time. After a stall several are late, and go one after the other.
        self._state = BucketState(rate=rate * ROUNDING, capacity=capacity, tokens=capacity)
        self._queue = PriorityWaitQueue(self._take, self._ready_at)
        self._gate = StartGate(rate, capacity)
        self._reserved = list[float]()  # times of the loop, in order
        self._look_at = -math.inf
        self._granted = self._refused = 0
        self._closed = False

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Return when one request may start.

        `deadline` is in the loop's time. `TimeoutError` comes as soon as it is known that the token would come after
        the deadline, and at the deadline at the latest. `LimiterUnavailableError` if the server cannot be used and
        there is no fallback, with the cause. `RuntimeError` after `aclose`.
        """
        self._now()
        while True:
            if self._fallback is not None and self._fallback.is_serving:
                granted = await self._fallback.acquire(priority, deadline)
                if granted and self._fallback.is_outage:
                    return
            if self._closed:
                raise LimiterUnavailableError(_CLOSED)
            try:
                await self._wait(priority, deadline)
            except LimiterUnavailableError:
                if self._fallback is None:
                    raise
            else:
                return

    def give_back(self) -> None:
        """Give a token that was not used to the next request of this process. Without one soon, it is lost."""
        if self._closed or (self._fallback is not None and self._fallback.is_serving):
            return  # it may be a token of the fallback
        now = self._now()
        self._state.give_back(now)
        self._granted -= 1
        if now >= self._state.paused_until:
            bisect.insort(self._reserved, now)
        self._queue.wake_next()

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
        loop = asyncio.get_running_loop()
        if self._queue.loop is loop:  # the tasks and waiters of a dead loop are dead already
            asking = {*self._asking, *self._looking}
            for task in asking:
                task.cancel()
            if self._fallback is not None:
                self._fallback.stop()
            self._queue.refuse(lambda: LimiterUnavailableError(_CLOSED))
            if asking:
                await asyncio.wait(asking)  # only then the store knows which connections it has to close
        await self._reserver.aclose()

    def __repr__(self) -> str:
        kind, waiting = type(self).__name__, len(self._queue)
        return f"<{kind} name={self.name!r} rate={self.rate} capacity={self.capacity} waiting={waiting}>"

    async def _wait(self, priority: Priority, deadline: float | None) -> None:
        now = asyncio.get_running_loop().time()
        near = bool(self._reserved) and self._reserved[0] - now <= _FAR  # a far one is looked at again first
        first = max(self._reserved[0] if near else now, self._state.paused_until)
        behind = max(0.0, self._queue.count_ahead(priority) + 1 - self.capacity)
        if deadline is not None and first + behind / self.rate > deadline:
            self._refused += 1
            raise TimeoutError("no token comes before the deadline")
        try:
            if not self._queue.take_now(priority, deadline):
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
        if fresh:
            self._enter_loop(now, before=before)
        return now

    def _enter_loop(self, now: float, *, before: asyncio.AbstractEventLoop | None) -> None:
        """Drop connections, questions and clock of the loop before: they are of no use in this one."""
        self._asking.clear()
        self._looking.clear()
        self._look_at = -math.inf
        self._reserved.clear()
        self._state.rebase(now, before=None if before is None else before.time())
        if before is None:
            return
        self._reserver.suspect()
        if self._fallback is not None:
            self._fallback.enter_loop()

    def _take(self, _: Priority) -> bool:
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
        wanted = min(len(self._queue), max(1, math.ceil(self._asking.round_trip * self.rate)), _MOST_HELD)
        for _ in range(wanted - len(self._reserved) - len(self._asking)):
            patience = min(max(0.0, self._queue.latest_deadline() - now), _FOR_EVER)
            self._asking.ask(patience, self._on_answer)
        if not self._reserved:
            return None
        ready = max(self._state.ready_at(now), self._reserved[0])
        if self._reserved[0] - now <= _FAR:
            return ready
        if now >= self._look_at:
            self._look_at = now + _LOOK
            if not self._looking:
                # There is no earlier time, unless the server's clock jumped meanwhile, or the server has forgotten all.
                self._looking.ask(self._reserved[0] - now - _LOOK, self._on_look)
        return min(ready, self._look_at)

    def _seconds_paused(self) -> float:
        return max(0.0, self._state.paused_until - asyncio.get_running_loop().time())

    def _on_answer(self, task: Asked) -> None:
        self._asking.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or self._closed:
            return
        if error is not None:
            self._fall_back(error)
            return
        if self._fallback is not None:
            self._fallback.end()
        taken, at = task.result()
        if taken and at >= self._state.paused_until:  # else a pause began after the question
            bisect.insort(self._reserved, at)
        self._refuse_hopeless(at)
        self._queue.wake_next()

    def _refuse_hopeless(self, at: float) -> None:
        first = min([at, *self._reserved[:1]])
        self._queue.refuse(lambda: TimeoutError("no token comes before the deadline"), before=first)

    def _on_look(self, task: Asked) -> None:
        self._looking.discard(task)
        if task.cancelled() or task.exception() is not None:
            return  # this changes nothing: the reservation is still there
        taken, at = task.result()
        if taken:
            self._reserved = [at]  # the later ones were of a clock that is no more
            self._queue.wake_next()
        self._refuse_hopeless(at)

    def _fall_back(self, failure: BaseException) -> None:
        """Raise `LimiterUnavailableError` in all waiters; those with a fallback go there."""

        def unavailable() -> LimiterUnavailableError:
            error = LimiterUnavailableError(str(failure))
            error.__cause__ = failure.__cause__
            return error

        if self._fallback is not None:
            self._fallback.begin()
        self._queue.refuse(unavailable)

    def _probe(self) -> None:
        """Look whether the store is back, without a reservation, during an outage."""
        self._asking.ask(-1.0, self._on_answer)

"""The limit on requests per second: the protocol of a limiter, and the token bucket of one process."""

import asyncio
import math
from typing import Final, Protocol, runtime_checkable

from attrs import define, frozen

from oca_sms_async._settings import is_finite
from oca_sms_async._start_gate import Gated, StartGate
from oca_sms_async._waiting import Priority, PriorityWaitQueue

# Requests per second. The gateway counts 25 in any second; 22 leave room for about 100 ms of jitter on the way to it.
DEFAULT_RATE: Final = 22.0

# One part in a billion slower than asked. Without it, a rounding could let one request too many through.
ROUNDING: Final = 1 - 1e-9


class RateLimiter(Protocol):
    """The two methods that the client calls; write your own limiter, or take `TokenBucket` or `Unlimited`.

    Two more are optional. `async def start(self) -> bool` is called right before the first byte. It returns False where
    a stall has made the request so late that it needs another token. A `start` that is no coroutine function is not
    called. `def give_back(self) -> None` is called after an `acquire` whose request does not start, for example because
    another process sends the message of its key. The next request may have the token.
    """

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Return when one request may start.

        `deadline` is in the loop's time; `TimeoutError` if the request may only start after it.
        """
        ...

    def pause(self, seconds: float) -> None:
        """Let no request through for so many seconds: the gateway said 429."""
        ...


@runtime_checkable
class ReturnableLimiter(Protocol):
    """A limiter that takes the tokens of requests back that did not start."""

    def give_back(self) -> None:
        """Give the token to the next request."""
        ...


@frozen
class LimiterStatistics:
    """A limiter at one moment.

    Since the limiter was made, it has `granted` and `refused` so many requests; a refusal is one for a deadline. Now so
    many requests are `waiting`, so many `tokens` are in the bucket, and it is `paused_for` so many seconds.
    """

    granted: int
    refused: int
    waiting: int
    tokens: float
    paused_for: float


def check_bucket(rate: float, capacity: float) -> None:
    """Raise `ValueError` unless the rate is above 0, the capacity at least 1, and both are finite numbers."""
    if not is_finite(rate, least=0) or rate == 0:
        raise ValueError("rate must be a finite number of requests per second above 0")
    if not is_finite(capacity, least=1):
        raise ValueError("capacity must be a finite number of at least 1")


def check_pause(seconds: float) -> None:
    """Raise `ValueError` unless this is a finite number of seconds, 0 or more."""
    if not is_finite(seconds, least=0):
        raise ValueError("seconds must be a finite number of at least 0")


class Unlimited:
    """No limit and no pauses: for tests, and for your own gateway."""

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Return at once; `TimeoutError` if `deadline`, in the loop's time, has passed already."""
        del priority  # without waiting, there is no order
        if deadline is not None and asyncio.get_running_loop().time() > deadline:
            raise TimeoutError("the deadline has passed")

    def pause(self, seconds: float) -> None:
        """Do nothing, for any number of seconds."""


class TokenBucket(Gated):
    """A limit that holds in every window: at most `capacity + rate·w` requests in any `w` seconds.

    `rate` is in requests per second. `capacity`, at least 1, is the burst that a full bucket lets through at once. The
    default rate stays clear of a gateway that counts 25 in any second, with about 100 ms of jitter on the way. A
    request counts from the moment at which `acquire` returns. Within a priority, first come is first served. An event
    loop's timers are no finer than a millisecond: above some hundred requests per second, give a capacity of a few, or
    a part of the rate goes unused.

    The bucket may be made without a running loop and used in one loop after another; its tokens carry over. Using it
    while the loop before still runs in another thread is a `RuntimeError`. Wrong arguments are a `ValueError`.
    """

    def __init__(self, rate: float = DEFAULT_RATE, capacity: float = 1.0) -> None:
        check_bucket(rate, capacity)
        self.rate: Final = rate
        self.capacity: Final = capacity
        self._state = BucketState(rate=rate * ROUNDING, capacity=capacity, tokens=capacity)
        self._queue = PriorityWaitQueue(self._take, self._state.ready_at)
        self._gate = StartGate(rate, capacity)
        self._refused = 0
        self._granted = 0

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Return when one request may start.

        `deadline` is in the loop's time. `TimeoutError` comes at once if the token would come after the deadline. If
        later arrivals of a higher priority push this request behind it, the error comes at the deadline.
        """
        if self._take_now(priority, deadline):
            return
        try:
            await self._queue.wait(priority, deadline)
        except TimeoutError:
            self._refused += 1
            raise

    def give_back(self) -> None:
        """Give a token that was not used to the next request."""
        self._state.give_back(self._now())
        self._granted -= 1
        self._queue.wake_next()

    def pause(self, seconds: float) -> None:
        """Let no request through for so many seconds from now; a longer pause that is on already stays.

        `ValueError` unless `seconds` is a finite number of at least 0.
        """
        check_pause(seconds)
        self._state.pause(self._now(), seconds)

    def statistics(self) -> LimiterStatistics:
        """Return the limiter's counts and its content at this moment."""
        now = self._state.as_of if self._queue.loop is None else self._queue.loop.time()
        return LimiterStatistics(
            granted=self._granted,
            refused=self._refused,
            waiting=len(self._queue),
            tokens=self._state.tokens_at(now),
            paused_for=max(0.0, self._state.paused_until - now),
        )

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<TokenBucket rate={self.rate} capacity={self.capacity} tokens={now.tokens:.2f} waiting={now.waiting}>"

    def _take_now(self, priority: Priority, deadline: float | None) -> bool:
        """Let one request start if a token is there and nobody waits for it; return whether that was so.

        `GuardedLimiter` asks for a token this way first. `TimeoutError` as that of `acquire`.
        """
        now = self._now()
        if deadline is not None and self._state.ready_at(now, self._queue.count_ahead(priority)) > deadline:
            self._refused += 1
            raise TimeoutError("no token comes before the deadline")
        return self._queue.take_now(priority, deadline)

    def _now(self) -> float:
        before = self._queue.loop
        fresh = self._queue.enter_loop()
        now = asyncio.get_running_loop().time()
        if fresh:
            self._state.rebase(now, before=None if before is None else before.time())
        return now

    def _take(self, _: Priority) -> bool:
        taken = self._state.take(asyncio.get_running_loop().time())
        self._granted += taken
        return taken


@define
class BucketState:
    """The arithmetic of a bucket: its tokens as a function of time, without any waiting."""

    rate: float
    capacity: float
    tokens: float
    as_of: float = 0.0
    paused_until: float = -math.inf

    def tokens_at(self, now: float) -> float:
        return min(self.capacity, self.tokens + max(0.0, now - self.as_of) * self.rate)

    def take(self, now: float) -> bool:
        tokens = self.tokens_at(now)
        if now < self.paused_until or tokens < 1:
            return False
        self.tokens, self.as_of = tokens - 1, now
        return True

    def give_back(self, now: float) -> None:
        self.tokens, self.as_of = min(self.capacity, self.tokens_at(now) + 1), now

    def ready_at(self, now: float, ahead: int = 0) -> float:
        """Return when a token is left for a request with so many others ahead of it."""
        start = max(now, self.paused_until)
        missing = max(0.0, ahead + 1 - self.tokens_at(start))
        if start == now and not missing:
            return now
        # At least one step of the clock later than now: else a rounding could make the waiters spin for ever.
        return max(start + missing / self.rate, math.nextafter(now, math.inf))

    def pause(self, now: float, seconds: float) -> None:
        self.tokens, self.as_of = self.tokens_at(now), now
        self.paused_until = max(self.paused_until, now + seconds)

    def rebase(self, now: float, *, before: float | None) -> None:
        """Change to another loop's clock, whose zero may be elsewhere; `before` is the present time of the old one."""
        if before is not None:
            self.tokens, self.as_of = self.tokens_at(before), before
        self.paused_until += now - self.as_of
        self.as_of = now

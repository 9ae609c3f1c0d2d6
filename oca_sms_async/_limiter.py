"""How many requests may start, and when: the token bucket, pure arithmetic apart from the waiting."""

import asyncio
import math
from typing import Final, Protocol

from attrs import define, frozen

from oca_sms_async._lanes import Lanes, Priority
from oca_sms_async._settings import is_finite

# A part in a billion slower than asked, so that rounding can never let through one request too many.
ROUNDING: Final = 1 - 1e-9


class RateLimiter(Protocol):
    """What the client asks of a limiter; write your own, or take `TokenBucket` or `Unlimited`."""

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Return when one request may start; `TimeoutError` if that would be after `deadline`, in the loop's own
        time.
        """
        ...

    def pause(self, seconds: float) -> None:
        """Let nobody through for so many seconds: the gateway said 429."""
        ...


@frozen
class LimiterStatistics:
    """A limiter at one moment: requests `granted` and `refused` (for their deadline) since it was made, requests
    `waiting`, `tokens` in the bucket, and the seconds that it is still `paused_for`.
    """

    granted: int
    refused: int
    waiting: int
    tokens: float
    paused_for: float


def check_bucket(rate: float, capacity: float) -> None:
    """Raise `ValueError` for what is no bucket."""
    if not is_finite(rate, least=0) or rate == 0:
        raise ValueError("rate must be a finite number of requests per second above 0")
    if not is_finite(capacity, least=1):
        raise ValueError("capacity must be a finite number of at least 1")


def check_pause(seconds: float) -> None:
    """Raise `ValueError` for what is no duration."""
    if not is_finite(seconds, least=0):
        raise ValueError("seconds must be a finite number of at least 0")


class Unlimited:
    """No limit and no pauses: for tests, and for a gateway of one's own."""

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Return at once; `TimeoutError` if `deadline`, in the loop's time, has passed already."""
        del priority  # nobody waits, so nobody goes first
        if deadline is not None and asyncio.get_running_loop().time() > deadline:
            raise TimeoutError("the deadline has passed")

    def pause(self, seconds: float) -> None:
        """Do nothing, whatever the seconds."""


class TokenBucket:
    """A limit that holds in every window: at most `capacity + rate·w` requests in any `w` seconds.

    `rate` is in requests per second, `capacity` (≥ 1) the burst that a full bucket lets through at once. The default
    keeps about 100 ms of jitter on the way clear of a gateway that counts 25 in any second. A request is counted when
    `acquire` returns; first come, first served within a priority. An event loop's timers are no finer than a
    millisecond: above some hundred a second, give a capacity of a few to make full use of the rate.

    It may be made without a running loop and be used in one loop after another; the level carries over. To wait in it
    while another thread's loop, in which it was used, still runs is a `RuntimeError`. Wrong arguments are a
    `ValueError`.
    """

    def __init__(self, rate: float = 22.0, capacity: float = 1.0) -> None:
        check_bucket(rate, capacity)
        self.rate: Final = rate
        self.capacity: Final = capacity
        self._level = Level(rate=rate * ROUNDING, capacity=capacity, tokens=capacity)
        self._lanes = Lanes(self._take, self._level.ready_at)
        self._refused = 0
        self._granted = 0

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Return when one request may start.

        `deadline` is in the loop's time; where the token would come after it, `TimeoutError` is raised at once, and
        where later arrivals push this one behind it, by the deadline at the latest.
        """
        now = self._now()
        if deadline is not None and self._level.ready_at(now, self._lanes.ahead(priority)) > deadline:
            self._refused += 1
            raise TimeoutError("no token comes before the deadline")
        try:
            await self._lanes.turn(priority, deadline)
        except TimeoutError:
            self._refused += 1
            raise

    def pause(self, seconds: float) -> None:
        """Let nobody through for so many seconds from now; a longer pause that is on already stays. `ValueError` for
        what is no duration.
        """
        check_pause(seconds)
        self._level.pause(self._now(), seconds)

    def statistics(self) -> LimiterStatistics:
        """Return what the limiter has done and what waits in it, as a frozen value."""
        now = self._level.as_of if self._lanes.loop is None else self._lanes.loop.time()
        return LimiterStatistics(
            granted=self._granted,
            refused=self._refused,
            waiting=len(self._lanes),
            tokens=self._level.tokens_at(now),
            paused_for=max(0.0, self._level.paused_until - now),
        )

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<TokenBucket rate={self.rate} capacity={self.capacity} tokens={now.tokens:.2f} waiting={now.waiting}>"

    def _now(self) -> float:
        before = self._lanes.loop
        fresh = self._lanes.enter_loop()
        now = asyncio.get_running_loop().time()
        if fresh:
            self._level.rebase(now, before=None if before is None else before.time())
        return now

    def _take(self) -> bool:
        taken = self._level.take(asyncio.get_running_loop().time())
        self._granted += taken
        return taken


@define
class Level:
    """The arithmetic of a bucket: tokens as a function of time, without any waiting."""

    rate: float
    capacity: float
    tokens: float
    as_of: float = 0.0
    paused_until: float = -math.inf

    def tokens_at(self, now: float) -> float:
        return min(self.capacity, self.tokens + max(0.0, now - self.as_of) * self.rate)

    def has_token(self, now: float) -> bool:
        return now >= self.paused_until and self.tokens_at(now) >= 1

    def take(self, now: float) -> bool:
        if not self.has_token(now):
            return False
        self.tokens, self.as_of = self.tokens_at(now) - 1, now
        return True

    def ready_at(self, now: float, ahead: int = 0) -> float:
        """Return when the token comes that is left after so many others have taken theirs."""
        start = max(now, self.paused_until)
        missing = max(0.0, ahead + 1 - self.tokens_at(start))
        if start == now and not missing:
            return now
        # Later than now by at least one step of the clock, or a rounding could make waiters spin for ever.
        return max(start + missing / self.rate, math.nextafter(now, math.inf))

    def pause(self, now: float, seconds: float) -> None:
        self.tokens, self.as_of = self.tokens_at(now), now
        self.paused_until = max(self.paused_until, now + seconds)

    def rebase(self, now: float, *, before: float | None) -> None:
        """Go on with another loop's clock, whose zero may be elsewhere; `before` is what the clock so far says now."""
        if before is not None:
            self.tokens, self.as_of = self.tokens_at(before), before
        self.paused_until += now - self.as_of
        self.as_of = now

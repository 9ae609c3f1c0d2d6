"""One rate limit for all processes of an account, kept in Redis: a reservation is taken there, and waited for here."""

import asyncio
import bisect
import math
from typing import Final

from oca_sms_async._errors import LimiterUnavailableError
from oca_sms_async._lanes import Lanes, Priority
from oca_sms_async._limiter import ROUNDING, Level, LimiterStatistics, RateLimiter, check_bucket, check_pause
from oca_sms_async._log import log
from oca_sms_async._scrub import scrub
from oca_sms_async._settings import positive_seconds

try:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ModuleNotFoundError as missing:
    raise ImportError('RedisTokenBucket needs its extra: pip install "oca-sms-async[redis]"') from missing

__all__ = ["RedisTokenBucket"]

# The generic cell rate algorithm, in microseconds of Redis' own clock, so that no client's clock matters. `tat` is when
# the bucket would be full again. Everything is counted from 2020 on: a double then still has a hundredth of a
# microsecond to spare. A reservation further away than the caller can wait for is told, but not taken.
_RESERVE: Final = """
local interval, burst, pause, patience = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = (tonumber(time[1]) - 1577836800) * 1000000 + tonumber(time[2])
local bucket = redis.call('HMGET', KEYS[1], 'tat', 'paused')
local tat = math.max(tonumber(bucket[1] or '0'), now)
local paused = math.max(tonumber(bucket[2] or '0'), pause > 0 and now + pause or 0)
local at = math.max(now, tat - burst, paused)
local taken = at - now <= patience
if taken then
  tat = math.max(tat, at) + interval
end
redis.call('HSET', KEYS[1], 'tat', string.format('%.3f', tat), 'paused', string.format('%.3f', paused))
redis.call('PEXPIRE', KEYS[1], math.ceil((math.max(tat, paused) - now) / 1000) + 1000)
return {taken and 1 or 0, math.ceil(at - now)}
"""
_SECOND: Final = 1_000_000  # microseconds
_FOR_EVER: Final = 1e9  # seconds
_STALE: Final = 0.5  # seconds after its time in which a reservation is still good
_PROBE: Final = 1.0  # seconds between looks at a Redis that is away, while a fallback serves
_MOST_HELD: Final = 64


class RedisTokenBucket:
    """A `TokenBucket` whose limit all processes keep together that give the same `name` to the same Redis.

    In any window of `w` seconds they are granted at most `capacity + rate·w` requests between them, counted at the
    times that Redis reserved for them; and each of them no more than that by its own clock, though a stall made it late
    for several. A process holds no more unused reservations than cover one round trip, normally one, and a reservation
    goes to the first waiter, interactive before bulk, so that an OTP never waits behind another process' bulk. All
    processes must give the same `rate` (requests per second) and `capacity` (the burst, ≥ 1).

    `redis` is a URL, or a client that is lent and never closed. Where Redis does not answer within `timeout` seconds,
    `acquire` raises `LimiterUnavailableError`, or goes through `fallback`, such as `TokenBucket(rate / processes)`,
    until Redis is back. One key holds the bucket, and expires by itself; a Redis that was flushed has forgotten
    pauses and reservations. Wrong arguments are a `ValueError`.
    """

    def __init__(
        self,
        redis: str | Redis,
        *,
        name: str,
        rate: float = 22.0,
        capacity: float = 1.0,
        timeout: float = 2.0,
        fallback: RateLimiter | None = None,
    ) -> None:
        check_bucket(rate, capacity)
        if not (isinstance(name, str) and name):
            raise ValueError("name must be a str that is not empty: it tells one account's limit from another's")
        self.name: Final = name
        self.rate: Final = rate
        self.capacity: Final = capacity
        self._url = redis if isinstance(redis, str) else None
        self._redis = _connected(redis) if isinstance(redis, str) else redis
        self._timeout = positive_seconds("timeout", timeout)
        self._fallback = fallback
        # What Redis has reserved may go at its time; after a stall, when several are late, one after the other.
        self._level = Level(rate=rate * ROUNDING, capacity=capacity, tokens=capacity)
        self._lanes = Lanes(self._take, self._ready_at)
        self._script = self._redis.register_script(_RESERVE)
        self._reserved = list[float]()  # times of the loop, in order
        self._asking = set[asyncio.Task[tuple[bool, float]]]()
        self._away_until: float | None = None
        self._round_trip = 0.0
        self._granted = 0
        self._refused = 0
        self._closed = False

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Return when one request may start.

        `deadline` is in the loop's time; `TimeoutError` as soon as it is known that the token would come after it,
        and by the deadline at the latest. `LimiterUnavailableError` where Redis does not answer and there is no
        fallback.
        """
        now = self._now()
        if self._fallback is None:
            await self._turn(now, priority, deadline)
        elif self._away_until is not None:
            self._probe(now)
            await self._fallback.acquire(priority=priority, deadline=deadline)
        else:
            try:
                await self._turn(now, priority, deadline)
            except LimiterUnavailableError:
                await self._fallback.acquire(priority=priority, deadline=deadline)

    def pause(self, seconds: float) -> None:
        """Let nobody through for so many seconds: here at once, elsewhere from the next `acquire` of this process
        on. `ValueError` for what is no duration. Once closed it does nothing.
        """
        check_pause(seconds)
        if self._closed:  # the answer to a request that it let through before
            return
        self._level.pause(self._now(), seconds)
        self._reserved = [time for time in self._reserved if time >= self._level.paused_until]
        if self._fallback is not None:
            self._fallback.pause(seconds)

    def statistics(self) -> LimiterStatistics:
        """Return what this process was granted and what waits in it; `tokens` counts its unused reservations."""
        now = self._level.as_of if self._lanes.loop is None else self._lanes.loop.time()
        return LimiterStatistics(
            granted=self._granted,
            refused=self._refused,
            waiting=len(self._lanes),
            tokens=len(self._reserved),
            paused_for=max(0.0, self._level.paused_until - now),
        )

    async def aclose(self) -> None:
        """Stop asking, and close the connections unless the client was lent; an `acquire` is a `RuntimeError` then."""
        self._closed = True
        for task in self._asking:
            task.cancel()
        self._lanes.refuse(lambda: LimiterUnavailableError("this limiter was closed"))
        if self._url is not None:
            await self._redis.aclose()

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<RedisTokenBucket name={self.name!r} rate={self.rate} capacity={self.capacity} waiting={now.waiting}>"

    async def _turn(self, now: float, priority: Priority, deadline: float | None) -> None:
        first = max(self._reserved[0] if self._reserved else now, self._level.paused_until)
        behind = max(0.0, self._lanes.ahead(priority) + 1 - self.capacity)
        if deadline is not None and first + behind / self.rate > deadline:
            self._refused += 1
            raise TimeoutError("no token comes before the deadline")
        try:
            await self._lanes.turn(priority, deadline)
        except TimeoutError:
            self._refused += 1
            raise

    def _now(self) -> float:
        if self._closed:
            raise RuntimeError("this limiter is closed")
        before = self._lanes.loop
        fresh = self._lanes.enter_loop()
        now = asyncio.get_running_loop().time()
        if fresh:  # the connections, the questions and the clock of the loop before are of no use in this one
            self._asking.clear()
            self._reserved.clear()
            self._level.rebase(now, before=None if before is None else before.time())
            if self._url is not None:
                self._redis = _connected(self._url)
                self._script = self._redis.register_script(_RESERVE)
        return now

    def _take(self) -> bool:
        now = asyncio.get_running_loop().time()
        if not self._reserved or self._ready_at(now) != now:
            return False
        del self._reserved[0]
        self._level.take(now)
        self._granted += 1
        return True

    def _ready_at(self, now: float) -> float | None:
        while self._reserved and self._reserved[0] < now - _STALE:
            del self._reserved[0]
        wanted = min(len(self._lanes), max(1, math.ceil(self._round_trip * self.rate)), _MOST_HELD)
        for _ in range(wanted - len(self._reserved) - len(self._asking)):
            self._ask()
        return max(self._level.ready_at(now), self._reserved[0]) if self._reserved else None

    def _probe(self, now: float) -> None:
        """Look from time to time whether Redis is back, beside those who go through the fallback."""
        if self._away_until is not None and now >= self._away_until and not self._asking:
            self._ask()

    def _ask(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reserve())
        self._asking.add(task)
        task.add_done_callback(self._answered)

    async def _reserve(self) -> tuple[bool, float]:
        """Take one reservation, unless it is too late for everybody who waits; return whether, and its time."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        pause = max(0.0, self._level.paused_until - asked)
        patience = min(max(0.0, self._lanes.latest_deadline() - asked), _FOR_EVER)
        async with asyncio.timeout(self._timeout):
            taken, wait = await self._script(
                keys=[f"oca-sms:{self.name}"],
                args=[
                    _SECOND / (self.rate * ROUNDING),
                    (self.capacity - 1) * _SECOND / self.rate,
                    math.ceil(pause * _SECOND),
                    math.floor(patience * _SECOND),
                ],
            )
        now = loop.time()
        self._round_trip += 0.2 * (now - asked - self._round_trip)
        return bool(taken), now + wait / _SECOND

    def _answered(self, task: asyncio.Task[tuple[bool, float]]) -> None:
        self._asking.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._gone(scrub(error))
            return
        if self._fallback is not None and self._away_until is not None:
            log("limiter.restored", limiter=self.name)
        self._away_until = None
        taken, at = task.result()
        if taken and at >= self._level.paused_until:  # else somebody paused in the meantime
            bisect.insort(self._reserved, at)
        first = min([at, *self._reserved[:1]])
        self._lanes.refuse(lambda: TimeoutError("no token comes before the deadline"), before=first)
        self._lanes.rouse()

    def _gone(self, cause: BaseException) -> None:
        """Tell every waiter that Redis is away; those that have a fallback go there."""

        def unavailable() -> LimiterUnavailableError:
            error = LimiterUnavailableError("the limiter's Redis does not answer")
            error.__cause__ = cause
            return error

        if self._fallback is not None and self._away_until is None:
            log("limiter.fallback", limiter=self.name)
        self._away_until = asyncio.get_running_loop().time() + _PROBE
        self._lanes.refuse(unavailable)


def _connected(url: str) -> Redis:
    """Return a client that tries a command once more, on a fresh connection: after a restart the old ones are dead.

    A reservation that is taken twice by this costs one token.
    """
    return Redis.from_url(url, retry=Retry(NoBackoff(), 1))

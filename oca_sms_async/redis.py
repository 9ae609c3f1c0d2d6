"""One rate limit for all processes of an account, kept in Redis."""

import math
from typing import Final

from oca_sms_async._limiter import DEFAULT_RATE, ROUNDING, RateLimiter
from oca_sms_async._reservations import ReservedTokenBucket, check_shared_bucket

try:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ModuleNotFoundError as missing:
    raise ImportError('RedisTokenBucket needs its extra: pip install "oca-sms-async[redis]"') from missing

__all__ = ["RedisTokenBucket"]

# The generic cell rate algorithm, in microseconds of Redis' own clock, so that no client's clock matters. `tat` is the
# time at which the bucket is full again. Times count from 2020 on: a double then still holds hundredths of a
# microsecond. A reservation that is further away than `patience` is returned, but not taken.
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


class RedisTokenBucket(ReservedTokenBucket):
    """A `TokenBucket` with one limit for all processes that give the same `name` to the same Redis.

    In any window of `w` seconds, all processes together are granted at most `capacity + rate·w` requests, counted at
    the times that Redis reserved for them. Each single process keeps that bound by its own clock too, even after a
    stall that made it late for several reservations. A process holds no more unused reservations than cover one round
    trip, normally one. A reservation goes to the first waiter, interactive before bulk: an OTP never waits behind
    another process' bulk. All processes must give the same `rate` (requests per second) and `capacity` (the burst, at
    least 1).

    `redis` is a URL, or a client that is lent and never closed. If Redis does not answer within `timeout` seconds,
    `acquire` raises `LimiterUnavailableError`. With a `fallback`, for example `TokenBucket(rate / processes)`, requests
    go through it instead until Redis is back. The bucket is one key, which expires by itself. A flushed Redis has
    forgotten pauses and reservations. Wrong arguments are a `ValueError`.
    """

    def __init__(
        self,
        redis: str | Redis,
        *,
        name: str,
        rate: float = DEFAULT_RATE,
        capacity: float = 1.0,
        timeout: float = 2.0,
        fallback: RateLimiter | None = None,
    ) -> None:
        check_shared_bucket(name, rate, capacity, timeout)
        super().__init__(
            _RedisStore(redis, name=name, rate=rate, capacity=capacity),
            name=name,
            rate=rate,
            capacity=capacity,
            timeout=timeout,
            fallback=fallback,
        )


class _RedisStore:
    """Takes reservations by a Lua script, from one key of a Redis."""

    def __init__(self, redis: str | Redis, *, name: str, rate: float, capacity: float) -> None:
        self._url = redis if isinstance(redis, str) else None
        self._redis = _connected(redis) if isinstance(redis, str) else redis
        self._script = self._redis.register_script(_RESERVE)
        self._key = f"oca-sms:{name}"
        self._bucket = (_SECOND / (rate * ROUNDING), (capacity - 1) * _SECOND / rate)

    async def reserve(self, pause: float, patience: float) -> tuple[bool, float]:
        """Run the script."""
        times = (math.ceil(pause * _SECOND), math.floor(patience * _SECOND))
        taken, wait = await self._script(keys=[self._key], args=[*self._bucket, *times])
        return bool(taken), wait / _SECOND

    def reconnect(self) -> None:
        """Take a new client in place of the own one; a lent one stays, as its owner left it."""
        if self._url is not None:
            self._redis = _connected(self._url)
            self._script = self._redis.register_script(_RESERVE)

    async def aclose(self) -> None:
        """Close the own client; a lent one stays open."""
        if self._url is not None:
            await self._redis.aclose()


def _connected(url: str) -> Redis:
    """Return a client that tries a command once more, on a fresh connection: after a restart the old ones are dead.

    If that takes a reservation twice, one token is lost.
    """
    return Redis.from_url(url, retry=Retry(NoBackoff(), 1))

"""One rate limit for all processes of an account, kept in Redis."""

import asyncio
import contextlib
import math
import os
import re
from typing import Final

from oca_sms_async._errors import LimiterUnavailableError
from oca_sms_async._limiter import DEFAULT_RATE, ROUNDING, RateLimiter
from oca_sms_async._reservation_store import check_shared_bucket
from oca_sms_async._reservations import ReservedTokenBucket
from oca_sms_async._scrub import scrub

try:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
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

# Clients from before a fork. If one were closed here, or collected, its sockets would leave the selector that the
# parent process still waits on.
_of_the_parent: Final = list[Redis]()

# The name of redis-py's exception and its text, and the reason to show. From within a script, Redis 6 answers with a
# plain error that quotes the real one. redis-py takes the first word off those that it knows. The first match counts.
_REASONS: Final = {
    r"READONLY|ReadOnlyError": "is a read-only replica",
    r"LOADING|BusyLoadingError": "is still loading its data",
    r"MASTERDOWN": "is a replica that has lost its primary",
    r"\bOOM\b|OutOfMemoryError": "is out of memory",
    r"MISCONF": "cannot save its data and takes no writes",
    r"NOREPLICAS": "has too few replicas to take writes",
    r"NOPERM|NoPermissionError|The user executing the script": "gives no permission for the limiter's script or key",
    r"NOAUTH|WRONGPASS|AuthenticationError|AuthenticationWrongNumber": "refuses the username or the password",
    r"WRONGTYPE": "holds something else under the limiter's key",
    r"\bBUSY\b": "is busy with another script",
    r"MOVED|\bASK\b|CLUSTERDOWN|CROSSSLOT": "is a cluster whose node does not hold the limiter's key",
    r"^TimeoutError": "did not answer in time",
    r"^\w*ConnectionError|^\w*OSError|^gaierror|Connection": "cannot be reached",
    r"": "answers with an error",
}


class RedisTokenBucket(ReservedTokenBucket):
    """A `TokenBucket` with one limit for all processes that give the same `name` to the same Redis.

    In any window of `w` seconds, all processes together are granted at most `capacity + rate·w` requests, counted at
    the times that Redis reserved for them. Each single process keeps that bound by its own clock too, even after a
    stall that made it late for several reservations. A process holds no more unused reservations than cover one round
    trip, normally one. A reservation goes to the first waiter, interactive before bulk: an OTP never waits behind
    another process' bulk. All processes must give the same `rate` (requests per second) and `capacity` (the burst, at
    least 1).

    `redis` is a URL, or a client that is lent and never closed. If Redis does not answer within `timeout` seconds, or
    answers twice with an error, `acquire` raises `LimiterUnavailableError`, which names the cause. With a `fallback`,
    for example `TokenBucket(rate / processes)`, requests go through it instead. When Redis is back, waiting requests go
    back to it. Until all processes know, some seconds later, a request needs a token of both.

    The bucket is one key, which expires by itself. A flushed Redis has forgotten pauses and reservations. Wrong
    arguments are a `ValueError`.
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

    server = "Redis"

    def __init__(self, redis: str | Redis, *, name: str, rate: float, capacity: float) -> None:
        self._url = redis if isinstance(redis, str) else None
        self._key = f"oca-sms:{name}"
        self._bucket = (_SECOND / (rate * ROUNDING), (capacity - 1) * _SECOND / rate)
        self._use(_make_client(redis) if isinstance(redis, str) else redis)
        self._loop: asyncio.AbstractEventLoop | None = None  # the one of the connections
        self._pid: int | None = None  # and their process
        self._closing = set[asyncio.Task[None]]()

    async def reserve(self, pause: float, patience: float) -> tuple[bool, float]:
        """Run the script."""
        if self._is_forked() and self._url is None:
            raise LimiterUnavailableError("the lent Redis client was used before a fork: lend each process its own")
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        times = (math.ceil(pause * _SECOND), math.floor(patience * _SECOND))
        try:
            taken, wait = await self._script(keys=[self._key], args=[*self._bucket, *times])
        except (RedisError, OSError) as error:
            raise LimiterUnavailableError(f"the limiter's Redis {_reason(error)}") from scrub(error)
        return bool(taken), wait / _SECOND

    async def reconnect(self) -> None:
        """Take a new client in place of the own one, or close the idle connections of a lent one.

        Connections of another loop or process stay as they are, for they cannot be closed from this one.
        """
        loop = asyncio.get_running_loop()
        if self._url is None:
            if self._loop is loop:
                with contextlib.suppress(RedisError, OSError):  # they are dead already
                    await self._redis.connection_pool.disconnect(inuse_connections=False)
            return
        if self._loop is loop:
            # Not awaited: a connection that died without a word may take long to close.
            task = loop.create_task(self._redis.aclose())
            self._closing.add(task)
            task.add_done_callback(self._forget_closing)
        elif self._is_forked():
            _of_the_parent.append(self._redis)
        self._use(_make_client(self._url))

    async def aclose(self) -> None:
        """Close the own client; a lent one stays open."""
        if self._url is not None and self._loop is asyncio.get_running_loop():
            for task in self._closing:
                task.cancel()
            await self._redis.aclose()

    def _forget_closing(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled():
            task.exception()  # of a connection that was broken anyway; asyncio complains of exceptions left unread

    def _is_forked(self) -> bool:
        return self._pid not in {None, os.getpid()}

    def _use(self, redis: Redis) -> None:
        self._redis = redis
        self._script = redis.register_script(_RESERVE)


def _make_client(url: str) -> Redis:
    """Return a client that tries each command once: the room of the reservations knows when to try again."""
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0))


def _reason(error: Exception) -> str:
    """Return the cause of an error in our own words; Redis' may quote a key or a user."""
    text = f"{type(error).__name__}: {error}"
    return next(reason for pattern, reason in _REASONS.items() if re.search(pattern, text))

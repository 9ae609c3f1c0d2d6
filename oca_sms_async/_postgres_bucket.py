"""One rate limit for all processes of an account, kept in PostgreSQL."""

from typing import Final

import psycopg

from oca_sms_async._errors import LimiterUnavailableError
from oca_sms_async._limiter import DEFAULT_RATE, ROUNDING, RateLimiter
from oca_sms_async._postgres_connections import Connection, Connections
from oca_sms_async._postgres_schema import set_up
from oca_sms_async._postgres_troubles import check_name, explain
from oca_sms_async._reservation_store import check_shared_bucket
from oca_sms_async._reservations import ReservedTokenBucket
from oca_sms_async._scrub import scrub

_MOST: Final = 2  # connections: a process seldom asks for more than one reservation at a time

# The generic cell rate algorithm, in seconds of the database's own clock, so that no client's clock matters. `tat` is
# the time at which the bucket is full again. Times count from 2020 on: a double then still holds some 30 nanoseconds. A
# reservation that is further away than the patience is returned, but not taken. The row holds the last answer too, for
# that is all that such a statement can return.
_FULL: Final = "greatest(b.tat, excluded.asked)"
_AT: Final = f"greatest(excluded.asked, {_FULL} - %(burst)s, b.paused, excluded.paused)"
_RESERVE: Final = f"""
WITH clock AS MATERIALIZED (
    SELECT extract(epoch FROM clock_timestamp() - timestamptz '2020-01-01 00:00:00Z')::float8 AS now
),
first AS (
    SELECT now, CASE WHEN %(pause)s > 0 THEN now + %(pause)s ELSE 0 END AS paused, now + %(pause)s AS at FROM clock
)
INSERT INTO oca_sms_bucket AS b (name, asked, paused, at, taken, tat)
SELECT %(name)s, now, paused, at, at - now <= %(patience)s,
    CASE WHEN at - now <= %(patience)s THEN at + %(interval)s ELSE now END
FROM first
ON CONFLICT (name) DO UPDATE SET
    asked = excluded.asked,
    paused = greatest(b.paused, excluded.paused),
    at = {_AT},
    taken = {_AT} - excluded.asked <= %(patience)s,
    tat = CASE
        WHEN {_AT} - excluded.asked <= %(patience)s THEN greatest({_FULL}, {_AT}) + %(interval)s
        ELSE {_FULL}
    END
RETURNING taken, at - asked
"""


class PostgresTokenBucket(ReservedTokenBucket):
    """A `TokenBucket` with one limit for all processes that give the same `name` to the same PostgreSQL.

    In any window of `w` seconds, all processes together are granted at most `capacity + rate·w` requests, counted at
    the times that PostgreSQL reserved for them. Each single process keeps that bound by its own clock too, even after a
    stall that made it late for several reservations. A process holds no more unused reservations than cover one round
    trip, normally one. A reservation goes to the first waiter, interactive before bulk: an OTP never waits behind
    another process' bulk. All processes must give the same `rate` (requests per second) and `capacity` (the burst, at
    least 1).

    `conninfo` is as for `PostgresJournal`, and `await setup()` makes the same tables. If PostgreSQL does not answer
    within `timeout` seconds, or answers twice with an error, `acquire` raises `LimiterUnavailableError`, which names
    the cause. With a `fallback`, for example `TokenBucket(rate / processes)`, requests go through it instead. When
    PostgreSQL is back, waiting requests go back to it. Until all processes know, some seconds later, a request needs a
    token of both.

    The bucket is one row, and each reservation one statement, which holds no lock afterwards and works through a
    pooler in transaction mode. After a crash, PostgreSQL has forgotten pauses and reservations. Wrong arguments are a
    `ValueError`.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        name: str,
        rate: float = DEFAULT_RATE,
        capacity: float = 1.0,
        timeout: float = 2.0,
        fallback: RateLimiter | None = None,
    ) -> None:
        check_shared_bucket(name, rate, capacity, timeout)
        check_name(name)
        store = self._rows = _BucketStore(conninfo, name=name, rate=rate, capacity=capacity, timeout=timeout)
        super().__init__(store, name=name, rate=rate, capacity=capacity, timeout=timeout, fallback=fallback)

    async def setup(self) -> None:
        """Make the tables, unless they are there. Many processes may call it at once.

        `LimiterUnavailableError` if that fails.
        """
        await self._rows.set_up()


class _BucketStore:
    """Takes reservations by one statement each, from one row of a PostgreSQL."""

    server = "PostgreSQL"

    def __init__(self, conninfo: str, *, name: str, rate: float, capacity: float, timeout: float) -> None:
        self._connections = Connections(conninfo, timeout=timeout, most=_MOST)
        self._bucket = {"name": name, "interval": 1 / (rate * ROUNDING), "burst": (capacity - 1) / rate}

    async def set_up(self) -> None:
        """Make the tables, unless they are there."""
        try:
            connection = await self._connections.connect()
            try:
                await self._connections.answer(connection, set_up)
            finally:
                await self._connections.release(connection)
        except psycopg.Error as error:
            raise _unavailable(error) from scrub(error)

    async def reserve(self, pause: float, patience: float) -> tuple[bool, float]:
        """Perform the statement."""
        parameters = {**self._bucket, "pause": pause, "patience": patience}

        async def execute(connection: Connection) -> tuple[bool, float]:
            (row,) = await (await connection.execute(_RESERVE, parameters)).fetchall()
            return bool(row[0]), float(row[1])

        try:
            return await self._connections.perform(execute, patient=False)
        except psycopg.Error as error:
            raise _unavailable(error) from scrub(error)

    async def reconnect(self) -> None:
        """Close the idle connections, so that the next reservation gets a new one."""
        await self._connections.renew()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connections.aclose()


def _unavailable(error: psycopg.Error) -> LimiterUnavailableError:
    return LimiterUnavailableError(f"the limiter cannot be used: {explain(error)}")

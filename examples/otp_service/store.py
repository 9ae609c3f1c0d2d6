"""The statements. Each decision is one conditional statement, so that two requests at once cannot both win it.

A check in Python before a write would be a race: both requests read, both see a free try, and both take it. PostgreSQL
locks the row for an UPDATE, and checks the condition again once it has the lock.

Every function takes a connection. `async with pool.connection()` is a transaction: an exception rolls it back. The
clock is PostgreSQL's, so the clocks of the workers do not matter.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from otp_service.codes import LIFETIME

MOST_TRIES: Final = 5

Connection = AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit of one subject: so many seconds between two sends, and so many sends a day."""

    kind: str
    subject: bytes
    cool_down: float
    a_day: int


class LimitedError(Exception):
    """A limit refuses a send. `seconds` is the time until it may be asked for again."""

    def __init__(self, kind: str, seconds: float) -> None:
        super().__init__(kind, seconds)
        self.kind = kind
        self.seconds = seconds


class Login(NamedTuple):
    """The number of a login, and the number of codes that were made for it."""

    phone: str
    sends: int


class Guess(NamedTuple):
    """A try that was taken: the digest of the right code, and the tries that are left."""

    digest: bytes
    tries_left: int


async def begin(connection: Connection, login: UUID, phone: str, digest: bytes) -> bool:
    """Begin a login; return False if it has begun already. Of two calls at once, the second waits for the first."""
    statement = """
        INSERT INTO otp_login (login, phone, digest, expires_at)
        VALUES (%s, %s, %s, now() + make_interval(mins => %s))
        ON CONFLICT (login) DO NOTHING
    """
    return (await connection.execute(statement, (login, phone, digest, LIFETIME))).rowcount == 1


async def find(connection: Connection, login: UUID) -> Login | None:
    """Return a login that has begun."""
    rows = await connection.execute("SELECT phone, sends FROM otp_login WHERE login = %s", (login,))
    row = await rows.fetchone()
    return None if row is None else Login(*row)


async def renew(connection: Connection, login: UUID, digest: bytes) -> Login | None:
    """Replace the code of a login that is not over.

    The tries stay: otherwise each new code would bring new ones, and a guesser would ask for codes without end.
    """
    statement = """
        UPDATE otp_login SET digest = %s, sends = sends + 1, expires_at = now() + make_interval(mins => %s)
        WHERE login = %s AND used_at IS NULL AND tries < %s
        RETURNING phone, sends
    """
    row = await (await connection.execute(statement, (digest, LIFETIME, login, MOST_TRIES))).fetchone()
    return None if row is None else Login(*row)


async def spend(connection: Connection, limits: Iterable[Limit]) -> None:
    """Count a send against each limit; `LimitedError` if one refuses. The caller's transaction then counts none.

    All callers give the kinds in the same order. Otherwise two transactions could each wait for the other's row.
    """
    statement = """
        INSERT INTO otp_limit AS known (subject, sends, free_at, resets_at)
        VALUES (%(subject)s, 1, now() + make_interval(secs => %(cool_down)s), now() + interval '1 day')
        ON CONFLICT (subject) DO UPDATE SET
            sends = CASE WHEN known.resets_at <= now() THEN 1 ELSE known.sends + 1 END,
            resets_at = CASE WHEN known.resets_at <= now() THEN excluded.resets_at ELSE known.resets_at END,
            free_at = excluded.free_at
        WHERE known.free_at <= now() AND (known.resets_at <= now() OR known.sends < %(a_day)s)
    """
    for limit in limits:
        values = {"subject": limit.subject, "cool_down": limit.cool_down, "a_day": limit.a_day}
        if (await connection.execute(statement, values)).rowcount != 1:
            raise LimitedError(limit.kind, await _seconds_left(connection, limit))


async def _seconds_left(connection: Connection, limit: Limit) -> float:
    statement = """
        SELECT extract(epoch FROM greatest(free_at, CASE WHEN sends >= %s THEN resets_at END) - now())::float8
        FROM otp_limit WHERE subject = %s
    """
    row = await (await connection.execute(statement, (limit.a_day, limit.subject))).fetchone()
    return max(1.0, row[0]) if row else 1.0


async def give_back(connection: Connection, limits: Iterable[Limit]) -> None:
    """Take back the count of a send that certainly did not happen: the user must not pay for our trouble.

    The number may send again at once. The address keeps its cool-down, so that an outage is no invitation to hammer.
    """
    statement = """
        UPDATE otp_limit SET sends = greatest(sends - 1, 0), free_at = CASE WHEN %s THEN now() ELSE free_at END
        WHERE subject = %s
    """
    for limit in limits:
        await connection.execute(statement, (limit.kind == "number", limit.subject))


async def take_try(connection: Connection, login: UUID) -> Guess | None:
    """Take one try of a code, and return it. None for a login that is unknown, used, expired or out of tries."""
    statement = """
        UPDATE otp_login SET tries = tries + 1
        WHERE login = %(login)s AND used_at IS NULL AND expires_at > now() AND tries < %(most)s
        RETURNING digest, %(most)s - tries
    """
    row = await (await connection.execute(statement, {"login": login, "most": MOST_TRIES})).fetchone()
    return None if row is None else Guess(*row)


async def use(connection: Connection, login: UUID, digest: bytes) -> str | None:
    """Use a code up and return its number; None if it was used or replaced meanwhile."""
    statement = """
        UPDATE otp_login SET used_at = now() WHERE login = %s AND digest = %s AND used_at IS NULL RETURNING phone
    """
    row = await (await connection.execute(statement, (login, digest))).fetchone()
    return None if row is None else str(row[0])


async def purge(connection: Connection) -> None:
    """Forget the numbers of old logins, and limits that limit no more."""
    await connection.execute("DELETE FROM otp_login WHERE expires_at < now() - interval '1 day'")
    await connection.execute("DELETE FROM otp_limit WHERE resets_at < now() AND free_at < now()")

"""PostgreSQL's troubles in plain words, without a word of the connection string."""

from typing import Final

import psycopg
from psycopg_pool import PoolTimeout

_LOST: Final = "the connection to PostgreSQL was lost"
# After these, the same statement may succeed on another connection, or a moment later.
_PASSING: Final = {
    "25006": "PostgreSQL is read-only: is this a standby?",
    "40001": "PostgreSQL could not serialize the transaction",
    "40P01": "PostgreSQL found a deadlock",
    "57P01": "PostgreSQL is shutting down",
    "57P02": "PostgreSQL has crashed",
    "57P03": "PostgreSQL is starting up or shutting down",
}
_LASTING: Final = {
    "3D000": "there is no such database",
    "42501": "the role lacks a privilege in the database",
    "42P01": "its tables are missing: await setup() makes them",
    "42703": "its tables are of another version",
    "53100": "PostgreSQL's disk is full",
    "53200": "PostgreSQL is out of memory",
    "53300": "PostgreSQL has no connection left",
    "55P03": "a lock in PostgreSQL was not free in time",
    "57014": "PostgreSQL cancelled the statement: its time-out, or an administrator",
    "57P04": "the database was dropped",
}
_REASONS: Final = _PASSING | _LASTING
# A connection that fails has no SQLSTATE, so its words are all there is. The first hit counts.
_REFUSALS: Final = {
    "password": "PostgreSQL refused the role or its password",
    "pg_hba.conf": "PostgreSQL refused the role or its password",
    "role ": "PostgreSQL refused the role or its password",
    "too many": _LASTING["53300"],
    "connection slots": _LASTING["53300"],
    "starting up": _PASSING["57P03"],
    "shutting down": _PASSING["57P03"],
    "recovery mode": _PASSING["57P03"],
    "session is read-only": _PASSING["25006"],
    "hot standby": _PASSING["25006"],
    "ProactorEventLoop": "psycopg needs asyncio's SelectorEventLoop on Windows",
    "database ": _LASTING["3D000"],
    "SSL": "no secure connection to PostgreSQL could be made",
    "certificate": "no secure connection to PostgreSQL could be made",
}


class PlainError(psycopg.OperationalError):
    """An error of this library, whose text is in plain words."""


class UnreachableError(PlainError):
    """No connection could be made."""

    def __init__(self, cause: BaseException | None = None) -> None:
        words = str(cause)
        found = (reason for part, reason in _REFUSALS.items() if part in words)
        super().__init__(next(found, "PostgreSQL cannot be reached"))


class StaleError(PlainError):
    """The tables were dropped, and made anew with other salts."""

    def __init__(self) -> None:
        super().__init__("its tables were made anew: begin again")


class UnansweredError(PlainError):
    """PostgreSQL took a statement and did not answer in time."""

    def __init__(self) -> None:
        super().__init__("PostgreSQL did not answer in time")


def is_passing(error: psycopg.Error, *, lost: bool) -> bool:
    """Tell whether the same statement may succeed a moment later; `lost` is about its connection."""
    return lost or error.sqlstate in _PASSING


def explain(error: psycopg.Error) -> str:
    """Return the cause of an error in plain words.

    PostgreSQL's own words are left out: they may name roles, hosts and data.
    """
    if isinstance(error, PlainError):
        return str(error)
    if isinstance(error, PoolTimeout):
        return "no connection to PostgreSQL was free in time"
    if error.sqlstate is None:
        return _LOST
    return _REASONS.get(error.sqlstate, f"PostgreSQL reports {type(error).__name__} ({error.sqlstate})")

"""PostgreSQL's troubles in plain words, without a word of the connection string."""

from typing import Final

import psycopg

_LOST: Final = "the connection to PostgreSQL was lost"
_REFUSED: Final = "PostgreSQL refused the role or its password"
_INSECURE: Final = "no secure connection to PostgreSQL could be made"
# After these, the same statement may succeed on another connection, or a moment later.
_PASSING: Final = {
    "25006": "PostgreSQL is read-only: is this a standby?",
    "40001": "PostgreSQL could not serialize the transaction",
    "40P01": "PostgreSQL found a deadlock",
    "53300": "PostgreSQL has no connection left",
    "57P01": "PostgreSQL is shutting down",
    "57P02": "PostgreSQL has crashed",
    "57P03": "PostgreSQL is starting up or shutting down",
}
_LASTING: Final = {
    "42501": "the role lacks a privilege in the database",
    "42P01": "its tables are missing: await setup() makes them, or `oca-sms queue setup`",
    "42703": "its tables are of another version",
    "53100": "PostgreSQL's disk is full",
    "53200": "PostgreSQL is out of memory",
    "55P03": "a lock in PostgreSQL was not free in time",
    "57014": "PostgreSQL cancelled the statement: its time-out, or an administrator",
    "57P04": "the database was dropped",
}
_REASONS: Final = _PASSING | _LASTING
# A connection that fails has no SQLSTATE, so its words are all there is. The first hit counts.
_LASTING_REFUSALS: Final = {
    "password": _REFUSED,
    "pg_hba.conf": _REFUSED,
    "ProactorEventLoop": "psycopg needs asyncio's SelectorEventLoop on Windows",
    "SSL": _INSECURE,
    "certificate": _INSECURE,
}
_PASSING_REFUSALS: Final = {
    "too many": _PASSING["53300"],
    "connection slots": _PASSING["53300"],
    "database system": _PASSING["57P03"],
    "read-only": _PASSING["25006"],
    "hot standby": _PASSING["25006"],
}
_UNKNOWN_REFUSALS: Final = {'database "': "there is no such database", 'role "': _REFUSED}


class PlainError(psycopg.OperationalError):
    """An error of this library, whose text is in plain words."""


class StaleError(PlainError):
    """The tables were dropped, and made anew with other salts."""

    def __init__(self) -> None:
        super().__init__("its tables were made anew: begin again")


class LateError(PlainError):
    """The time was over. An earlier error tells more, if there is one."""


class UnansweredError(LateError):
    """PostgreSQL took a statement and did not answer in time."""

    def __init__(self) -> None:
        super().__init__("PostgreSQL did not answer in time")


class UnreachableError(PlainError):
    """No connection could be made. `passing` tells whether a moment later one may be."""

    def __init__(self, reason: str = "PostgreSQL cannot be reached", *, passing: bool = True) -> None:
        super().__init__(reason)
        self.passing = passing


def explain_refusal(error: BaseException) -> UnreachableError:
    """Return the error of a connection that failed. It holds nothing of psycopg's, which knows the password."""
    words = str(error)
    for refusals in (_LASTING_REFUSALS, _PASSING_REFUSALS, _UNKNOWN_REFUSALS):
        for part, reason in refusals.items():
            if part in words:
                return UnreachableError(reason, passing=refusals is _PASSING_REFUSALS)
    return UnreachableError()


def is_passing(error: psycopg.Error, *, lost: bool) -> bool:
    """Tell whether the same statement may succeed a moment later; `lost` is about its connection."""
    if isinstance(error, UnreachableError):
        return error.passing
    return error.sqlstate in _PASSING or (lost and not isinstance(error, PlainError))


def explain(error: psycopg.Error) -> str:
    """Return the cause of an error in plain words.

    PostgreSQL's own words are left out: they may name roles, hosts and data.
    """
    if isinstance(error, PlainError):
        return str(error)
    if error.sqlstate is None:
        return _LOST
    return _REASONS.get(error.sqlstate, f"PostgreSQL reports {type(error).__name__} ({error.sqlstate})")


def check_name(name: str) -> None:
    """Raise `ValueError` unless PostgreSQL can keep this name."""
    if not (isinstance(name, str) and name and "\0" not in name and name.isprintable()):
        raise ValueError("name must be a str of printable characters: it tells one journal, or one limit, from another")

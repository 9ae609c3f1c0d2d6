"""The journal that the options of a bulk name: a file, a PostgreSQL that many machines share, or none."""

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

from attrs import evolve

from oca_sms_async import Journal, JournalError, SqliteJournal
from oca_sms_async.cli._bulk_options import Options
from oca_sms_async.cli._endings import CommandError, ExitStatus, while_asking
from oca_sms_async.cli._memory_journal import MemoryJournal

if TYPE_CHECKING:
    from oca_sms_async.postgres import PostgresJournal

_VARIABLE: Final = "OCA_SMS_DATABASE"
_NAMELESS: Final = "--journal with a PostgreSQL URL needs a --journal-name: it tells this campaign from others"
_HOMELESS: Final = f"--journal-name needs --journal with a PostgreSQL URL, or {_VARIABLE} in the environment"
_PASSWORD: Final = (
    "--journal must hold no password: all users of this machine can see the command line. "
    f"Give the password by PGPASSWORD, a password file or a service file, or the whole URL by {_VARIABLE}"
)


def take_journal(options: Options) -> tuple[Options, AbstractAsyncContextManager[Journal]]:
    """Return the journal of the options, to be entered, and the options with the database of the environment in them.

    `CommandError` for a database that cannot be right.
    """
    name, place = options.journal_name, options.journal
    source = "--journal"
    if name is not None and place is None:
        source, place = _VARIABLE, os.environ.get(_VARIABLE) or None
    if isinstance(place, str):
        if name is None:
            raise CommandError(_NAMELESS, ExitStatus.USAGE)
        journal = _make_journal(place, name, source=source)
        return evolve(options, journal=place), _open_database(journal, dry_run=options.dry_run)
    if name is not None:
        raise CommandError(_HOMELESS, ExitStatus.USAGE)
    # A dry run leaves no file behind.
    if place is None or (options.dry_run and not place.exists()):
        return options, contextlib.aclosing(MemoryJournal())
    return options, contextlib.aclosing(SqliteJournal(place))


def _make_journal(conninfo: str, name: str, *, source: str) -> "PostgresJournal":
    try:
        from oca_sms_async.postgres import PostgresJournal  # noqa: PLC0415 - the extra may be missing
    except ImportError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from error
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - as above

    try:
        journal = PostgresJournal(conninfo, name=name)
    except ValueError as error:
        named = "--journal-name" if str(error).startswith("name") else source
        raise CommandError(f"{named}: {error}", ExitStatus.USAGE) from error
    if source != _VARIABLE and any("password" in it or "secret" in it for it in conninfo_to_dict(conninfo)):
        raise CommandError(_PASSWORD, ExitStatus.USAGE)
    return journal


@contextlib.asynccontextmanager
async def _open_database(journal: "PostgresJournal", *, dry_run: bool) -> AsyncIterator[Journal]:
    """Open a journal in PostgreSQL, and make its tables. A dry run makes none, for without tables all is new."""
    async with journal:
        with while_asking():
            is_new = dry_run and not await _has_tables(journal)
            if not dry_run:
                await journal.setup()
        yield MemoryJournal() if is_new else journal


async def _has_tables(journal: "PostgresJournal") -> bool:
    from psycopg.errors import UndefinedTable  # noqa: PLC0415 - as above

    try:
        await journal.lookup("")
    except JournalError as error:
        if not isinstance(error.__cause__, UndefinedTable):
            raise
        return False
    return True

"""A table of numbers or keys that were seen. It lies on a disk: a file of any length must not fill the memory."""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Final

from oca_sms_async import JournalError
from oca_sms_async._temporary import open_database

_TABLE: Final = """
PRAGMA journal_mode = OFF;
PRAGMA cache_size = -500;
CREATE TABLE seen (number INTEGER PRIMARY KEY, content INTEGER);
BEGIN;
"""
_PUT: Final = "INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING"
_GET: Final = "SELECT content FROM seen WHERE number = ?"
_FULL: Final = "the numbers and keys of the file cannot be compared: is there room in the folder for temporary files?"


class SeenTable:
    """Remembers for each number the content that it came with first. Its `len` is the count of numbers.

    Both are integers of 64 bits. `JournalError` if the table cannot be kept. Close it; its `len` stays.
    """

    def __init__(self) -> None:
        self._count = 0
        with _explain_errors():
            self._db = open_database()
            self._db.executescript(_TABLE)

    def __len__(self) -> int:
        return self._count

    def see(self, number: int, content: int) -> int | None:
        """Return the content that a number came with first, or None if it comes for the first time."""
        with _explain_errors():
            if not self._db.execute(_PUT, (number, content)).rowcount:
                return int(self._db.execute(_GET, (number,)).fetchone()[0])
        self._count += 1
        return None

    def close(self) -> None:
        """Drop the table."""
        self._db.close()


@contextlib.contextmanager
def _explain_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise JournalError(_FULL) from error

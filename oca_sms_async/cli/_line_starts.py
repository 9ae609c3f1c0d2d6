"""The places of the lines in a file of outcomes. They lie on a disk: a file of any length must not fill the memory."""

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from typing import Final

from oca_sms_async._temporary import open_database

_TABLE: Final = """
PRAGMA journal_mode = OFF;
PRAGMA cache_size = -500;
CREATE TABLE line (row INTEGER PRIMARY KEY, start INTEGER);
BEGIN;
"""


class LineStarts:
    """Where the line of each row begins, in bytes. `OSError` if that cannot be kept."""

    def __init__(self) -> None:
        with _explain_errors():
            self._db = open_database()
            self._db.executescript(_TABLE)

    def add(self, row: int, start: int) -> None:
        """Note the line of a row."""
        with _explain_errors():
            self._db.execute("INSERT OR REPLACE INTO line VALUES (?, ?)", (row, start))

    def __iter__(self) -> Iterator[int]:
        """Yield the places in the order of the rows."""
        with _explain_errors():
            for (start,) in self._db.execute("SELECT start FROM line ORDER BY row"):
                yield start

    def close(self) -> None:
        """Drop them."""
        self._db.close()


@contextlib.contextmanager
def _explain_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        reason = "its lines cannot be brought in order: is there room in the folder for temporary files?"
        raise OSError(errno.ENOSPC, reason) from error

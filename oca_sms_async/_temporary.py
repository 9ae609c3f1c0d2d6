"""Temporary SQLite databases: tables that grow with the input lie on a disk, so memory stays flat."""

import os
import sqlite3


def open_database() -> sqlite3.Connection:
    """Return a new database, which ends with its connection. Its changes are committed one by one, or as asked for.

    SQLite makes its file once the pages do not fit into memory, and removes the file's name at once.
    """
    return sqlite3.connect(_name(), isolation_level=None, check_same_thread=False)


def _name() -> str:
    """Return SQLite's name of a temporary database: on a disk, or in memory if there is no folder to write to."""
    if os.name == "nt":  # the system names a folder
        return ""
    folders = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp", ".")  # noqa: S108 - SQLite's own list
    return "" if any(folder and os.access(folder, os.W_OK | os.X_OK) for folder in folders) else ":memory:"

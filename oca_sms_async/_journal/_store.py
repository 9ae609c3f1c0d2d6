"""The journal's file: a SQLite database with one row a message, for one writer at a time.

Every call here blocks, so it belongs in a thread of its own. `_sqlite` calls it from asyncio.
"""

import contextlib
import hashlib
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from oca_sms_async._errors import JournalError
from oca_sms_async._journal._values import Answer, JournalEntry, Lookup, Status
from oca_sms_async._models import SendReceipt

_APPLICATION: Final = 0x0CA515A5  # SQLite's field for the program that owns a database
_VERSION: Final = 1
_SCHEMA: Final = f"""
CREATE TABLE journal (salt BLOB NOT NULL, run INTEGER NOT NULL);
CREATE TABLE message (
    identity BLOB PRIMARY KEY, content BLOB NOT NULL, run INTEGER NOT NULL, standing INTEGER NOT NULL,
    attempts INTEGER NOT NULL, began REAL NOT NULL, ended REAL NOT NULL, msg_uid BLOB, status BLOB
) WITHOUT ROWID;
CREATE INDEX message_by_uid ON message (msg_uid) WHERE msg_uid IS NOT NULL;
CREATE TABLE occurrence (content BLOB PRIMARY KEY, run INTEGER NOT NULL, seen INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""
_STATUSES: Final = (Status.UNSENT, Status.DOUBTFUL, Status.SENT)  # the column `standing` holds the place in this list
_UNSENT, _DOUBTFUL, _SENT = range(3)
_REASONS: Final = {
    sqlite3.SQLITE_BUSY: "another run uses it: wait for its end, or give this one a journal of its own",
    sqlite3.SQLITE_LOCKED: "another run uses it: wait for its end, or give this one a journal of its own",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is damaged, or is no journal",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: is there such a directory, and may you write to it?",
    sqlite3.SQLITE_READONLY: "it cannot be written to",
    sqlite3.SQLITE_PERM: "it cannot be written to",
}

Operation = Callable[["Store"], Any]


class Store:
    """The open file, locked until `close` or until the process dies. Each trouble with it is a `JournalError`.

    The file holds salted digests of numbers, texts and keys, besides statuses, ids and times. Only its owner may read
    it. `doubtful` counts the messages in doubt at the time of opening.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explained():
            _create(path)
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        # The exclusive mode keeps the lock between transactions. The operating system drops it with the process.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        if self._value("SELECT count(*) FROM sqlite_master"):
            if self._value("PRAGMA application_id") != _APPLICATION:
                raise self._error("it is some other program's database")
            version = self._value("PRAGMA user_version")
            if version != _VERSION:
                raise self._error(f"its version is {version}, and this library's is {_VERSION}")
            if self._value("PRAGMA quick_check(1)") != "ok":
                raise self._error(_REASONS[sqlite3.SQLITE_CORRUPT])
        if stat.S_IMODE(self._path.stat().st_mode) & 0o077:
            self._path.chmod(0o600)
        # A commit is durable after fsync. Each commit makes one fsync, of the write-ahead log beside the file.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA fullfsync = ON")
        self._db.execute("BEGIN EXCLUSIVE")
        if not self._value("SELECT count(*) FROM sqlite_master"):
            for statement in _SCHEMA.split(";\n"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO journal VALUES (?, 0)", (secrets.token_bytes(16),))
        self._salt, self._run = self._db.execute("SELECT salt, run FROM journal").fetchone()
        self._db.execute("COMMIT")
        self.doubtful = int(self._value("SELECT count(*) FROM message WHERE standing = ?", _DOUBTFUL))

    def close(self) -> None:
        """Fold the write-ahead log into the file, and unlock the file."""
        with self._explained():
            try:
                if self._db.in_transaction:
                    self._db.execute("COMMIT")
            finally:
                self._db.close()

    def perform(self, operations: Sequence[Operation], *, durable: bool) -> list[Any]:
        """Run all operations in one transaction, and return their results; an error undoes all of them.

        A change that is not durable yet becomes durable together with the next one that is.
        """
        with self._explained():
            try:
                if not self._db.in_transaction:
                    self._db.execute("BEGIN")
                results = [operation(self) for operation in operations]
                if durable:
                    self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    self._db.execute("ROLLBACK")
                raise
        return results

    def begin_run(self) -> None:
        """Count equal messages from the start again."""
        self._run += 1
        self._db.execute("UPDATE journal SET run = ?", (self._run,))

    def lookup_next(self, key: str | None, number: str, text: str) -> Lookup:
        """Return the entry of the run's next message; counting tells messages without a key from their equals."""
        content = self._digest(b"content", number, text)
        identity = (
            self._digest(b"nth", content.hex(), str(self._count(content))) if key is None else self._digest(b"key", key)
        )
        row = self._db.execute(
            "SELECT content, run, standing, attempts, began, ended, msg_uid, status FROM message WHERE identity = ?",
            (identity,),
        ).fetchone()
        if row is None:
            self._db.execute(
                "INSERT INTO message VALUES (?, ?, ?, ?, 0, 0, 0, NULL, NULL)",
                (identity, content, self._run, _UNSENT),
            )
            return Lookup(identity, JournalEntry(Status.UNSENT))
        known_content, run, standing, attempts, began, ended, msg_uid, status = row
        receipt = SendReceipt(_text(msg_uid), _text(status), attempts) if standing == _SENT else None
        entry = JournalEntry(_STATUSES[standing], receipt, attempts)
        # A message that certainly was not sent may be corrected in a later run, and keeps its key.
        if content != known_content and (run == self._run or standing != _UNSENT):
            return Lookup(identity, entry, Answer.KEY_CONFLICT, began, ended)
        if run == self._run:
            return Lookup(identity, entry, Answer.REPEATED, began, ended)
        self._db.execute("UPDATE message SET run = ?, content = ? WHERE identity = ?", (self._run, content, identity))
        return Lookup(identity, entry, Answer.STORED, began, ended)

    def intend(self, message: Lookup) -> bool:
        """Put the message in doubt unless it was sent, or another run took it; return whether that happened."""
        now = time.time()
        changed = self._db.execute(
            "UPDATE message SET standing = ?, attempts = ?, began = ?, ended = ?"
            " WHERE identity = ? AND run = ? AND standing <> ?",
            (_DOUBTFUL, message.entry.attempts + 1, message.began or now, now, message.identity, self._run, _SENT),
        ).rowcount
        if not changed and not self._value("SELECT count(*) FROM message WHERE identity = ?", message.identity):
            raise self._lost()
        return changed == 1

    def settle(self, message: Lookup, entry: JournalEntry) -> None:
        """Store the outcome of an intended message."""
        uid, status = (
            (None, None) if entry.receipt is None else (_bytes(entry.receipt.msg_uid), _bytes(entry.receipt.status))
        )
        changed = self._db.execute(
            "UPDATE message SET standing = ?, attempts = ?, ended = ?, msg_uid = ?, status = ? WHERE identity = ?",
            (_STATUSES.index(entry.status), entry.attempts, time.time(), uid, status, message.identity),
        ).rowcount
        if changed != 1:
            raise self._lost()

    def find(self, message: Lookup, receipt: SendReceipt) -> bool:
        """Store that a doubtful message was found sent, unless another message has this id; return whether it was."""
        if self._db.execute("SELECT 1 FROM message WHERE msg_uid = ?", (_bytes(receipt.msg_uid),)).fetchone():
            return False
        self.settle(message, JournalEntry(Status.SENT, receipt, receipt.attempts))
        return True

    def _count(self, content: bytes) -> int:
        row = self._db.execute("SELECT run, seen FROM occurrence WHERE content = ?", (content,)).fetchone()
        seen = row[1] + 1 if row is not None and row[0] == self._run else 1
        self._db.execute("INSERT OR REPLACE INTO occurrence VALUES (?, ?, ?)", (content, self._run, seen))
        return int(seen)

    def _digest(self, kind: bytes, *parts: str) -> bytes:
        digest = hashlib.blake2b(key=self._salt, person=kind, digest_size=16)
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.digest()

    def _value(self, query: str, *parameters: Any) -> Any:
        return self._db.execute(query, parameters).fetchone()[0]

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0)
            reason = _REASONS.get(code & 0xFF) or f"SQLite says {getattr(error, 'sqlite_errorname', 'no more')}"
            raise self._error(reason) from error
        except OSError as error:
            raise self._error(error.strerror or type(error).__name__) from error

    def _error(self, reason: str) -> JournalError:
        return JournalError(f"the journal {self._path} cannot be used: {reason}")

    def _lost(self) -> JournalError:
        return self._error("a failed write has undone a message's entry: begin a new run")


def _create(path: Path) -> None:
    """Make sure that the file exists. Only its owner may read a new one, and SQLite's log copies that permission."""
    with contextlib.suppress(FileExistsError):
        # An existing file is not opened here: closing it would drop the lock of a run in this process.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _bytes(text: str) -> bytes:
    """Return a text as bytes: the gateway's words may hold half a surrogate pair, and SQLite's texts may not."""
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")

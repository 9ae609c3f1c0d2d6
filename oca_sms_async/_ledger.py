"""The journal's file: what became of each message, by digest, in SQLite, for one writer at a time.

Everything here blocks and belongs in a thread of its own; `_journal` is what asyncio sees of it.
"""

import contextlib
import hashlib
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from oca_sms_async._errors import JournalError
from oca_sms_async._models import SendReceipt

_APPLICATION: Final = 0x0CA515A5  # SQLite's place for whose file this is
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


class Standing(Enum):
    """What the journal knows of a message when a run comes to it.

    `DOUBTFUL` may have been sent, `UNSENT` certainly was not. The last two are of this run: the same key with the
    same content `REPEATED`, or with other content than before, `CONTRADICTED`.
    """

    UNSENT = 0
    DOUBTFUL = 1
    SENT = 2
    REPEATED = 3
    CONTRADICTED = 4


@frozen
class Entry:
    """One message in the journal.

    `attempts` counts the requests that may have been taken; `began` and `ended` are when the first of them was about
    to start and when the last was heard of, in seconds since the epoch; `receipt` is there if it was sent.
    """

    identity: bytes
    standing: Standing
    attempts: int = 0
    began: float = 0.0
    ended: float = 0.0
    receipt: SendReceipt | None = None


Operation = Callable[["Ledger"], Any]


class Ledger:
    """The file, open and locked until `close`, or until its process dies; every trouble with it is a `JournalError`.

    It holds salted digests of numbers, texts and keys, besides states, ids and times; only its owner may read it.
    `doubtful` is how many messages were in doubt when it was opened.
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
        # Durable is what fsync has seen: each commit is one, of the write-ahead log beside the file.
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
        doubtful = "SELECT count(*) FROM message WHERE standing = ?"
        self.doubtful = int(self._db.execute(doubtful, (Standing.DOUBTFUL.value,)).fetchone()[0])

    def close(self) -> None:
        """Fold the log into the file, and unlock it."""
        with self._explained():
            try:
                if self._db.in_transaction:
                    self._db.execute("COMMIT")
            finally:
                self._db.close()

    def perform(self, operations: Sequence[Operation], *, durable: bool) -> list[Any]:
        """Return what the operations return: all of them happen, or none; and durably so if asked for.

        What is not durable yet becomes so with the next that is.
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
        """Begin to count occurrences anew."""
        self._run += 1
        self._db.execute("UPDATE journal SET run = ?", (self._run,))

    def enter(self, key: str | None, number: str, text: str) -> Entry:
        """Return what is known of this run's next message; one without a key is told from its equals by counting."""
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
                (identity, content, self._run, Standing.UNSENT.value),
            )
            return Entry(identity, Standing.UNSENT)
        known_content, run, standing, attempts, began, ended, msg_uid, status = row
        # What certainly was not sent may be corrected for a later run, and keeps its key.
        if content != known_content and (run == self._run or standing != Standing.UNSENT.value):
            return Entry(identity, Standing.CONTRADICTED)
        if run == self._run:
            return Entry(identity, Standing.REPEATED)
        self._db.execute("UPDATE message SET run = ?, content = ? WHERE identity = ?", (self._run, content, identity))
        receipt = SendReceipt(_text(msg_uid), _text(status), attempts) if standing == Standing.SENT.value else None
        return Entry(identity, Standing(standing), attempts, began, ended, receipt)

    def intend(self, entry: Entry) -> None:
        """Note that a request is about to start: from now on the message is in doubt."""
        self._update(entry, Standing.DOUBTFUL, attempts=entry.attempts + 1, began=entry.began or time.time())

    def settle(self, entry: Entry, standing: Standing, attempts: int, receipt: SendReceipt | None = None) -> None:
        """Note what became of an intended message."""
        self._update(entry, standing, attempts=attempts, receipt=receipt)

    def find(self, entry: Entry, receipt: SendReceipt) -> bool:
        """Note that a doubtful message was found sent, unless another one has this id; return whether it was noted."""
        taken = self._db.execute("SELECT 1 FROM message WHERE msg_uid = ?", (_bytes(receipt.msg_uid),)).fetchone()
        if taken is None:
            self.settle(entry, Standing.SENT, receipt.attempts, receipt)
        return taken is None

    def _update(
        self,
        entry: Entry,
        standing: Standing,
        *,
        attempts: int,
        began: float | None = None,
        receipt: SendReceipt | None = None,
    ) -> None:
        uid, status = (None, None) if receipt is None else (_bytes(receipt.msg_uid), _bytes(receipt.status))
        changed = self._db.execute(
            "UPDATE message SET standing = ?, attempts = ?, began = coalesce(?, began), ended = ?,"
            " msg_uid = ?, status = ? WHERE identity = ?",
            (standing.value, attempts, began, time.time(), uid, status, entry.identity),
        ).rowcount
        if changed != 1:  # an earlier failure has undone the message's entry
            raise self._error("it has lost a message: begin a new run")

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

    def _value(self, query: str) -> Any:
        return self._db.execute(query).fetchone()[0]

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


def _create(path: Path) -> None:
    """Make sure that there is a file; a new one is its owner's alone, and SQLite's log beside it will be as private."""
    with contextlib.suppress(FileExistsError):
        # Not opened where it exists already: to close it would drop the lock of a run in this process.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _bytes(text: str) -> bytes:
    """Return a text as bytes: the gateway's words may hold half a surrogate pair, which SQLite's texts cannot."""
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")

"""The state of every message: each change goes into the journal's file, and an index answers for the file.

The index is a temporary SQLite database. Each opening makes it anew from the file, and it ends with the process, so
nothing in it need be durable. It lies on a disk, so memory stays flat however long the list of messages is.

Every call here blocks, so it belongs in a thread of its own. `_sqlite` calls it from asyncio.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from oca_sms_async._errors import JournalError
from oca_sms_async._journal._file import JournalFile
from oca_sms_async._journal._records import Record, join, split
from oca_sms_async._journal._values import Answer, JournalEntry, Lookup, Status
from oca_sms_async._models import SendReceipt

_TABLES: Final = """
PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
CREATE TABLE message (
    identity TEXT PRIMARY KEY, content TEXT, run INTEGER, status TEXT, uid TEXT, record TEXT
) WITHOUT ROWID;
CREATE TABLE occurrence (content TEXT PRIMARY KEY, run INTEGER, seen INTEGER) WITHOUT ROWID;
"""
_BY_UID: Final = "CREATE INDEX message_by_uid ON message (uid) WHERE uid IS NOT NULL"
_PUT: Final = "INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?, ?)"
# A message that was looked up and not intended has no record, and is not in the file.
_ENTER: Final = "INSERT INTO message (content, run, identity) VALUES (?, ?, ?)"
_ENTER_AGAIN: Final = "UPDATE message SET content = ?, run = ? WHERE identity = ?"

Operation = Callable[["Store"], Any]


class Store:
    """The open journal, for one writer. Each trouble with it is a `JournalError`.

    `doubtful` counts the messages in doubt at the time of opening. A `broken` store refuses everything: its file and
    its index may differ, and only a new opening can tell.
    """

    def __init__(self, path: Path) -> None:
        self._file = JournalFile(path)
        self._changes = list[str]()
        self._run = 0
        self.broken = False
        with contextlib.ExitStack() as undo, self._explained():
            undo.callback(self._file.close)
            self._index = sqlite3.connect(_index_name(), isolation_level=None, check_same_thread=False)
            undo.callback(self._index.close)
            self._fill_index()
            undo.pop_all()

    def _fill_index(self) -> None:
        self._index.executescript(_TABLES)
        self._index.execute("BEGIN")
        rows = (_row(record, text, run=0) for commit in self._file.commits() for record, text in split(commit))
        self._index.executemany(_PUT, rows)
        self._index.execute(_BY_UID)
        self._index.execute("COMMIT")
        count = self._index.execute("SELECT count(*) FROM message WHERE status = ?", (Status.DOUBTFUL,))
        self.doubtful = int(count.fetchone()[0])

    def close(self) -> None:
        """Close the file and unlock it."""
        self._index.close()
        self._file.close()

    def perform(self, operations: Sequence[Operation]) -> list[Any]:
        """Run all operations in one commit, and return their results. Their changes are on the disk when this returns.

        If the commit fails, nothing is changed. The result of an operation that is refused is its `JournalError`.
        """
        if self.broken:
            raise self._file.error("an earlier write has failed: begin a new run")
        with self._explained():
            self._index.execute("BEGIN")
            try:
                results = [self._attempt(operation) for operation in operations]
                if self._changes:
                    self._file.append(join(self._changes))
                    self.broken = True  # the file is ahead of the index
                self._index.execute("COMMIT")
                self.broken = False
            except BaseException:
                self.broken = self.broken or self._file.broken
                with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    self._index.execute("ROLLBACK")
                raise
            finally:
                self._changes.clear()
        return results

    def begin_run(self) -> None:
        """Count equal messages from the start again."""
        self._run += 1

    def lookup_next(self, key: str | None, number: str, text: str) -> Lookup:
        """Return the entry of the run's next message; counting tells messages without a key from their equals."""
        content = self._digest(b"content", number, text)
        identity = (
            self._digest(b"nth", content, str(self._occurrence(content))) if key is None else self._digest(b"key", key)
        )
        known = self._get(identity)
        record, run = known or (Record(identity, content, Status.UNSENT), 0)
        answer = Answer.STORED
        # A message that certainly was not sent may be corrected in a later run, and keeps its key.
        if record.content != content and (run == self._run or record.status != Status.UNSENT):
            answer = Answer.KEY_CONFLICT
        elif run == self._run:
            answer = Answer.REPEATED
        else:
            self._index.execute(_ENTER if known is None else _ENTER_AGAIN, (content, self._run, identity))
        return Lookup(bytes.fromhex(identity), _entry(record), answer, record.began, record.ended)

    def intend(self, message: Lookup) -> bool:
        """Put the message in doubt, unless it was sent or another run took it; return whether that happened."""
        record, run = self._known(message)
        if record.status == Status.SENT or run != self._run:
            return False
        now = time.time()
        attempts, began = message.entry.attempts + 1, message.began or now
        self._change(record._replace(status=Status.DOUBTFUL, attempts=attempts, began=began, ended=now))
        return True

    def settle(self, message: Lookup, entry: JournalEntry) -> None:
        """Store the outcome of an intended message."""
        record, _ = self._known(message)
        receipt = entry.receipt
        self._change(
            record._replace(
                status=entry.status,
                attempts=entry.attempts,
                began=0.0 if entry.status is Status.UNSENT else record.began,  # no request is in doubt any more
                ended=time.time(),
                msg_uid=None if receipt is None else receipt.msg_uid,
                word=None if receipt is None else receipt.status,
                error=entry.error,
                code=entry.code,
            )
        )

    def find(self, message: Lookup, receipt: SendReceipt) -> bool:
        """Store that a doubtful message was found sent, unless another message has this id; return whether it was."""
        if self._index.execute("SELECT 1 FROM message WHERE uid = ?", (_ascii(receipt.msg_uid),)).fetchone():
            return False
        self.settle(message, JournalEntry(Status.SENT, receipt, receipt.attempts))
        return True

    def _attempt(self, operation: Operation) -> Any:
        try:
            return operation(self)
        except JournalError as refusal:  # it has changed nothing, and the other operations are of other callers
            return refusal

    def _get(self, identity: str) -> tuple[Record, int] | None:
        row = self._index.execute("SELECT content, run, record FROM message WHERE identity = ?", (identity,)).fetchone()
        if row is None:
            return None
        content, run, text = row
        record = Record(identity, content, Status.UNSENT) if text is None else Record.decode(text)
        return record if record.content == content else record._replace(content=content), run

    def _known(self, message: Lookup) -> tuple[Record, int]:
        known = self._get(message.identity.hex())
        if known is None:
            raise self._file.error("this message was not looked up in it: begin a new run")
        return known

    def _change(self, record: Record) -> None:
        text = record.encode()
        self._index.execute(_PUT, _row(record, text, run=self._run))
        self._changes.append(text)

    def _occurrence(self, content: str) -> int:
        row = self._index.execute("SELECT run, seen FROM occurrence WHERE content = ?", (content,)).fetchone()
        seen = row[1] + 1 if row is not None and row[0] == self._run else 1
        self._index.execute("INSERT OR REPLACE INTO occurrence VALUES (?, ?, ?)", (content, self._run, seen))
        return int(seen)

    def _digest(self, kind: bytes, *parts: str) -> str:
        digest = hashlib.blake2b(key=self._file.salt, person=kind, digest_size=16)
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "an error")
            reason = f"its temporary index failed with {name}: is there room in the folder for temporary files?"
            raise self._file.error(reason) from error


def _row(record: Record, text: str, *, run: int) -> tuple[str, str, int, str, str | None, str]:
    uid = None if record.msg_uid is None else _ascii(record.msg_uid)
    return record.identity, record.content, run, record.status, uid, text


def _ascii(text: str) -> str:
    """Return a text in ASCII: the gateway's words may hold half a surrogate pair, and SQLite's texts may not."""
    return json.dumps(text)


def _entry(record: Record) -> JournalEntry:
    receipt = None
    if record.msg_uid is not None and record.word is not None:
        receipt = SendReceipt(record.msg_uid, record.word, record.attempts)
    return JournalEntry(Status(record.status), receipt, record.attempts, record.error, record.code)


def _index_name() -> str:
    """Return SQLite's name of a temporary database: on a disk, or in memory if there is no folder to write to."""
    if os.name == "nt":  # the system names a folder
        return ""
    folders = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp", ".")  # noqa: S108 - SQLite's own list
    return "" if any(folder and os.access(folder, os.W_OK | os.X_OK) for folder in folders) else ":memory:"

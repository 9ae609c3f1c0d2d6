"""The index of a journal's file: the last record of each message, in a temporary SQLite database.

Each opening of the file makes it anew, and it ends with the process, so nothing in it need be durable. It lies on a
disk, so memory stays flat however long the list of messages is. Each trouble with it is a `sqlite3.Error`.

The speed must stay flat too. Digests have no order, so in a tree of digests each message lies on a page of its own,
and a long list would read and write a page for each. So the records lie in the order in which they came, which is the
order of the next pass over the list. Only the small index of their digests is out of order. A pass in the same order
does not read it, because it looks for each record behind the one before.
"""

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from oca_sms_async._journal._records import Record, join, split
from oca_sms_async._journal._values import Status
from oca_sms_async._temporary import open_database

# SQLite's own journal stays in its default mode: it goes to the disk once it is long. `MEMORY` would hold each page
# that a transaction changes, and a batch of lookups changes a page or two for each message.
_TABLES: Final = """
CREATE TABLE message (identity BLOB NOT NULL UNIQUE, status TEXT, uid TEXT, run INTEGER, ended REAL, record TEXT);
CREATE TABLE repetition (content BLOB PRIMARY KEY, run INTEGER, seen INTEGER) WITHOUT ROWID;
"""
_BY_UID: Final = "CREATE INDEX IF NOT EXISTS message_by_uid ON message (uid) WHERE uid IS NOT NULL"
_PUT: Final = """
INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (identity) DO UPDATE SET status = excluded.status, uid = excluded.uid, run = excluded.run,
    ended = excluded.ended, record = excluded.record
"""
_UPDATE: Final = """
UPDATE message SET status = ?, uid = ?, run = ?, ended = ?, record = ? WHERE identity = ? AND rowid = ?
"""
_FIND: Final = "SELECT record, run, rowid FROM message WHERE identity = ?"
_OLD: Final = """
SELECT record FROM message WHERE ended > 0 AND ended < ?
AND (status != ? OR ? AND lower(hex(identity)) NOT IN (SELECT value FROM json_each(?))) LIMIT ?
"""
_PAGE: Final = 5000
_RECENT: Final = 1000
_FORGOTTEN: Final = "forgotten"  # the status of a record that removes its message


class Index:
    """The messages of a file by their identity. `run` is the last run that looked a message up, 0 for none of now."""

    def __init__(self) -> None:
        self._db = open_database()
        # Guesses, each checked when it is used: a transaction may have been undone.
        self._places: dict[bytes, int] = {}  # of messages found lately
        self._next = 0  # the place behind the last one of them; 0 if the messages are new

    def fill(self, commits: Iterable[bytes]) -> int:
        """Take in the commits of a file, and return how many messages are in doubt."""
        self._db.executescript(_TABLES)
        with self.transaction():
            rows = (_row(record, text, run=0) for commit in commits for record, text in split(commit))
            self._db.executemany(_PUT, rows)
            self._db.execute("DELETE FROM message WHERE status = ?", (_FORGOTTEN,))
        count = self._db.execute("SELECT count(*) FROM message WHERE status = ?", (Status.DOUBTFUL,))
        return int(count.fetchone()[0])

    def close(self) -> None:
        """Drop the index."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep all changes of the block, or none if it raises."""
        self._db.execute("BEGIN")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                self._db.execute("ROLLBACK")
            raise

    def get(self, identity: str) -> tuple[Record, int] | None:
        """Return a message's record and its run."""
        digest = bytes.fromhex(identity)
        place = self._places.get(digest, self._next)
        found = self._db.execute(f"{_FIND} AND rowid = ?", (digest, place)).fetchone() if place else None
        if found is None and (found := self._db.execute(_FIND, (digest,)).fetchone()) is None:
            self._next = 0
            return None
        if self._places.get(digest) != found[2]:
            if len(self._places) == _RECENT:
                self._places.clear()
            self._places[digest] = found[2]
            self._next = found[2] + 1
        return Record.decode(found[0]), found[1]

    def put(self, record: Record, run: int) -> str:
        """Store a message's record, and return it encoded for the file."""
        text = record.encode()
        row = _row(record, text, run=run)
        place = self._places.get(row[0])
        if place is None or not self._db.execute(_UPDATE, (*row[1:], row[0], place)).rowcount:
            self._db.execute(_PUT, row)
        return text

    def touch(self, identity: str, run: int) -> None:
        """Note the run that looked a message up, right after `get` found it."""
        digest = bytes.fromhex(identity)
        self._db.execute("UPDATE message SET run = ? WHERE rowid = ?", (run, self._places[digest]))

    def forget(self, before: float, *, doubtful: bool, busy: Collection[str]) -> list[str]:
        """Remove at most a page of messages without news since a time, and return the records that say so.

        Messages in doubt stay unless `doubtful`, and of those the `busy` ones stay too.
        """
        parameters = (before, Status.DOUBTFUL, doubtful, json.dumps([*busy]), _PAGE)
        records = [Record.decode(row[0]) for row in self._db.execute(_OLD, parameters).fetchall()]
        for record in records:
            self._db.execute("DELETE FROM message WHERE identity = ?", (bytes.fromhex(record.identity),))
        return [Record(record.identity, "", _FORGOTTEN).encode() for record in records]

    def size(self) -> int:
        """Return the number of bytes that the records of all messages take in the file, each with its separator."""
        row = self._db.execute("SELECT total(length(record) + 1) FROM message WHERE ended > 0").fetchone()
        return int(row[0])

    def commits(self) -> Iterator[bytes]:
        """Yield commits with the records of all messages."""
        rows = self._db.execute("SELECT record FROM message WHERE ended > 0")
        while page := rows.fetchmany(_PAGE):
            yield join(row[0] for row in page)

    def has_uid(self, msg_uid: str) -> bool:
        """Tell whether a message has this id of the gateway's."""
        self._db.execute(_BY_UID)  # at the first question: sending asks none, and would pay for it with each message
        return self._db.execute("SELECT 1 FROM message WHERE uid = ?", (_ascii(msg_uid),)).fetchone() is not None

    def count_repetition(self, content: str, run: int) -> int:
        """Count one more message with the content of an earlier one of a run, and return its place among them."""
        digest = bytes.fromhex(content)
        row = self._db.execute("SELECT run, seen FROM repetition WHERE content = ?", (digest,)).fetchone()
        seen = row[1] + 1 if row is not None and row[0] == run else 2
        self._db.execute("INSERT OR REPLACE INTO repetition VALUES (?, ?, ?)", (digest, run, seen))
        return int(seen)


def _row(record: Record, text: str, *, run: int) -> tuple[bytes, str, str | None, int, float, str]:
    uid = None if record.msg_uid is None else _ascii(record.msg_uid)
    return bytes.fromhex(record.identity), record.status, uid, run, record.ended, text


def _ascii(text: str) -> str:
    """Return a text in ASCII: the gateway's words may hold half a surrogate pair, and SQLite's texts may not."""
    return json.dumps(text)

"""The counts of a file of messages, taken before the first one is sent."""

import hashlib
import secrets
import sqlite3
from collections import Counter
from typing import Self

from oca_sms_async import check_message, segments
from oca_sms_async._journal import Answer, Lookup, Status
from oca_sms_async._messages import check_number
from oca_sms_async.cli._rows import REGION, RowSms


class Survey:
    """The rows of a file, counted: the `bad` ones, and the others by the journal's answer.

    `segments` and `advice` are about the rows that are still to be sent. `respelt` counts rows with a recipient that an
    earlier row spells differently. A temporary file of SQLite's holds a digest of each recipient, so memory stays flat.
    """

    def __init__(self, *, brand: str | None, resend_unknown: bool) -> None:
        self.standings = Counter[Status | Answer]()
        self.bad = 0
        self.recipients = 0
        self.segments = 0
        self.advice = Counter[str]()
        self.respelt = 0
        self._brand = brand
        self._resend_unknown = resend_unknown
        self._salt = secrets.token_bytes(16)
        self._seen = sqlite3.connect("", isolation_level=None)
        self._seen.execute("CREATE TABLE recipient (number BLOB PRIMARY KEY, spelling BLOB, row INTEGER) WITHOUT ROWID")
        self._seen.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.close()

    @property
    def rows(self) -> int:
        """All data rows."""
        return self.standings.total() + self.bad

    @property
    def unsendable(self) -> int:
        """The rows that no run can send: bad rows, and rows with the key of another message."""
        return self.bad + self.standings[Answer.KEY_CONFLICT]

    @property
    def to_send(self) -> int:
        """The rows that a run would send."""
        doubtful = self.standings[Status.DOUBTFUL] if self._resend_unknown else 0
        return self.standings[Status.UNSENT] + doubtful

    def note(self, sms: RowSms, lookup: Lookup) -> int | None:
        """Count a row that can be sent; return the earlier row that spells its recipient differently, or None."""
        standing = lookup.entry.status if lookup.answer is Answer.STORED else lookup.answer
        self.standings[standing] += 1
        if standing is Status.UNSENT or (standing is Status.DOUBTFUL and self._resend_unknown):
            self.segments += segments(sms.message).count
            self.advice.update(f"{it.code}: {it.text}" for it in check_message(sms.message, brand=self._brand))
        number, spelling = (self._digest(it) for it in (check_number(sms.phone, REGION), sms.phone))
        known = self._seen.execute("SELECT spelling, row FROM recipient WHERE number = ?", (number,)).fetchone()
        if known is None:
            self.recipients += 1
            self._seen.execute("INSERT INTO recipient VALUES (?, ?, ?)", (number, spelling, sms.row))
        elif known[0] != spelling:
            self.respelt += 1
            return int(known[1])
        return None

    def _digest(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=self._salt, digest_size=16).digest()

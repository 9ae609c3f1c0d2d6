"""The names of a journal's messages in PostgreSQL, and the values that its rows become."""

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any, Final

from attrs import field, frozen

from oca_sms_async._journal import Answer, JournalEntry, Lookup, Status
from oca_sms_async._models import SendReceipt
from oca_sms_async._postgres_troubles import StaleError

_STATUSES: Final = (Status.UNSENT, Status.DOUBTFUL, Status.SENT)  # the column `status` holds the place in this list

Row = tuple[Any, ...]


@frozen
class Names:
    """The number of a journal in the database, and the names that it keeps in place of keys, numbers and texts.

    The salt belongs to the journal alone. Digests hide a number from a glance only: anyone with the salt can try all
    numbers.
    """

    journal: int
    salt: bytes = field(repr=False)

    def parameters(self, **others: object) -> dict[str, object]:
        """Return the parameters of a statement."""
        return {"journal": self.journal, "salt": self.salt, **others}

    def of_key(self, key: str) -> bytes:
        """Return the name of a message with a key."""
        return self._digest(b"key", key)

    def of_content(self, number: str, text: str) -> bytes:
        """Return the digest of a message. With its place among equal ones behind it, it is a name too."""
        return self._digest(b"content", number, text)

    def _digest(self, kind: bytes, *parts: str) -> bytes:
        digest = hashlib.blake2b(key=self.salt, person=kind, digest_size=16)
        for part in parts:
            data = _bytes(part)
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.digest()


@frozen
class Claimable(Lookup):
    """A lookup that can be claimed.

    `content` is the digest of number and text. `known` is the token of the last claim, and `claim` the token of the
    next one. `run` is the run that looked it up, if one did.
    """

    names: Names = field(kw_only=True, eq=False, repr=False)
    content: bytes = field(kw_only=True)
    known: bytes | None = field(default=None, kw_only=True)
    claim: bytes = field(factory=lambda: secrets.token_bytes(16), kw_only=True, eq=False)
    run: object | None = field(default=None, kw_only=True, eq=False, repr=False)


def found(row: Row | None) -> Row:
    """Return the row. `StaleError` if there is none, for then the journal's own row is gone."""
    if row is None:
        raise StaleError
    return row


@frozen
class Claim:
    """A claim of a message. Others expect its outcome for so many seconds."""

    message: Claimable
    seconds: float


def write_claims(claims: Sequence[Claim]) -> dict[str, object]:
    """Return the parameters of `INTEND`."""
    messages = [claim.message for claim in claims]
    return {
        "identities": [it.identity for it in messages],
        "contents": [it.content for it in messages],
        "claims": [it.claim for it in messages],
        "knowns": [it.known for it in messages],
        "attempts": [it.entry.attempts + 1 for it in messages],
        "seconds": [claim.seconds for claim in claims],
    }


def read_claims(rows: Sequence[Row]) -> list[bool]:
    """Return the answers that the rows of `INTEND` hold: did the caller get the message?"""
    if not all(own for own, _ in rows):
        raise StaleError
    return [bool(claimed) for _, claimed in rows]


def read_entry(row: Row) -> JournalEntry:
    """Return the entry that a row of `LOOK_UP` holds."""
    _, _, status, attempts, _, _, _, msg_uid, word, error, code = row
    receipt = SendReceipt(_text(msg_uid), _text(word), attempts) if _STATUSES[status] is Status.SENT else None
    return JournalEntry(_STATUSES[status], receipt, attempts, error, code)


def read_lookup(row: Row, names: Names, identity: bytes, content: bytes, run: object | None = None) -> Claimable:
    """Return the answer about a message that a row of `LOOK_UP` holds."""
    claim, known_content, _, _, began, ended, busy_for = row[:7]
    if claim is None:
        return Claimable(identity, JournalEntry(Status.UNSENT), names=names, content=content, run=run)
    entry = read_entry(row)
    # A message that certainly was not sent may be corrected, and keeps its key.
    conflict = content != known_content and entry.status is not Status.UNSENT
    answer = Answer.KEY_CONFLICT if conflict else Answer.STORED
    times = (began, ended, busy_for or 0.0)
    return Claimable(identity, entry, answer, *times, names=names, content=content, known=claim, run=run)


@frozen
class Ending:
    """The outcome of a claimed message."""

    message: Claimable
    entry: JournalEntry


def write_endings(endings: Sequence[Ending]) -> dict[str, object]:
    """Return the parameters of `SETTLE`."""
    entries = [write_entry(it.entry) for it in endings]
    return {
        "identities": [it.message.identity for it in endings],
        "claims": [it.message.claim for it in endings],
        "statuses": [it["status"] for it in entries],
        "attempts": [it["attempts"] for it in entries],
        "uids": [it["msg_uid"] for it in entries],
        "words": [it["word"] for it in entries],
        "errors": [it["error"] for it in entries],
        "codes": [it["code"] for it in entries],
    }


def write_entry(entry: JournalEntry) -> dict[str, object]:
    """Return the columns that store an entry."""
    receipt = entry.receipt
    return {
        "status": _STATUSES.index(entry.status),
        "attempts": entry.attempts,
        "msg_uid": None if receipt is None else _bytes(receipt.msg_uid),
        "word": None if receipt is None else _bytes(receipt.status),
        "error": entry.error,
        "code": entry.code,
    }


def _bytes(text: str) -> bytes:
    """Return a text as bytes: the gateway's words may hold half a surrogate pair, and PostgreSQL's texts may not."""
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")

"""The statements over a journal's messages in PostgreSQL, and the values that their rows become."""

import hashlib
import secrets
from typing import Any, Final

from attrs import field, frozen

from oca_sms_async._journal import Answer, JournalEntry, Lookup, Status
from oca_sms_async._models import SendReceipt
from oca_sms_async._postgres_troubles import StaleError

_STATUSES: Final = (Status.UNSENT, Status.DOUBTFUL, Status.SENT)  # the column `status` holds the place in this list

# A database may be told to answer before a commit is on the disk. Then an intent would not outlive a crash.
_DURABLE: Final = (
    "(current_setting('synchronous_commit') <> 'off' OR set_config('synchronous_commit', 'on', true) = 'on')"
)
# Where the tables were dropped and made anew, the same number names a journal with another salt.
_OWN: Final = "SELECT FROM oca_sms_journal WHERE journal = %(journal)s AND salt = %(salt)s"
_COLUMNS: Final = """m.claim, m.content, m.status, m.attempts,
    extract(epoch FROM m.began)::float8, extract(epoch FROM m.ended)::float8,
    extract(epoch FROM greatest(m.busy_until - clock_timestamp(), interval '0'))::float8,
    m.msg_uid, m.word, m.error, m.code"""

LOOK_UP: Final = f"""
SELECT {_COLUMNS}
FROM ({_OWN}) own LEFT JOIN oca_sms_message m ON m.journal = %(journal)s AND m.identity = %(identity)s
"""

# A claim succeeds if the entry is as it was looked up. Each claim has a token of its own, so an entry that another
# sender had meanwhile differs, even if it was forgotten and begun anew. A repeated statement finds its own token.
INTEND: Final = f"""
WITH own AS ({_OWN} AND {_DURABLE}),
claimed AS (
    INSERT INTO oca_sms_message AS m (journal, identity, content, claim, status, attempts, began, ended, busy_until)
    SELECT %(journal)s, %(identity)s, %(content)s, %(claim)s, 1, %(attempts)s,
        clock_timestamp(), clock_timestamp(), clock_timestamp() + %(seconds)s * interval '1 second'
    FROM own
    ON CONFLICT (journal, identity) DO UPDATE SET
        content = excluded.content, claim = excluded.claim, status = 1, attempts = excluded.attempts,
        began = CASE WHEN m.status = 1 THEN m.began ELSE excluded.began END,
        ended = excluded.ended, busy_until = excluded.busy_until, error = NULL, code = NULL
    WHERE (m.claim = %(known)s AND (m.status = 0
            OR m.status = 1 AND (m.busy_until IS NULL OR m.busy_until <= clock_timestamp())))
        OR (m.claim = excluded.claim AND m.status = 1 AND m.busy_until IS NOT NULL)
    RETURNING 1
)
SELECT EXISTS (SELECT FROM own), EXISTS (SELECT FROM claimed)
"""

# Only the claimer settles. A message that was found sent meanwhile stays sent.
SETTLE: Final = f"""
WITH mine AS (
    SELECT FROM oca_sms_message
    WHERE journal = %(journal)s AND identity = %(identity)s AND claim = %(claim)s AND {_DURABLE}
),
settled AS (
    UPDATE oca_sms_message AS m SET
        status = %(status)s, attempts = %(attempts)s, ended = clock_timestamp(), busy_until = NULL,
        msg_uid = %(msg_uid)s, word = %(word)s, error = %(error)s, code = %(code)s
    FROM mine
    WHERE m.journal = %(journal)s AND m.identity = %(identity)s AND m.claim = %(claim)s
        AND (m.status = 1 OR %(status)s = 2)
)
SELECT EXISTS (SELECT FROM mine)
"""

FIND: Final = f"""
UPDATE oca_sms_message AS m SET
    status = 2, attempts = %(attempts)s, ended = clock_timestamp(), busy_until = NULL,
    msg_uid = %(msg_uid)s, word = %(word)s, error = NULL, code = NULL
WHERE m.journal = %(journal)s AND m.identity = %(identity)s AND m.claim = %(known)s AND m.status = 1
    AND NOT EXISTS (SELECT FROM oca_sms_message o WHERE o.journal = %(journal)s AND o.msg_uid = %(msg_uid)s)
    AND {_DURABLE}
RETURNING 1
"""

# A page of the journal. Messages whose senders may be at work stay.
FORGET: Final = """
WITH page AS (
    SELECT identity FROM oca_sms_message
    WHERE journal = %(journal)s AND identity > %(after)s ORDER BY identity LIMIT %(many)s
),
gone AS (
    DELETE FROM oca_sms_message m USING page
    WHERE m.journal = %(journal)s AND m.identity = page.identity AND m.ended < %(before)s
        AND (m.status <> 1 OR %(doubtful)s AND (m.busy_until IS NULL OR m.busy_until <= clock_timestamp()))
    RETURNING 1
)
SELECT (SELECT identity FROM page ORDER BY identity DESC LIMIT 1), (SELECT count(*) FROM gone)
"""

# The names that a run came to, for as long as its connection lives.
CREATE_SEEN: Final = """
CREATE TEMPORARY TABLE oca_sms_seen (identity bytea PRIMARY KEY, content bytea, times bigint NOT NULL)
"""

# Many messages in one statement, each row in its place. No key may stand in it twice.
LOOK_UP_NEXT_KEYS: Final = f"""
WITH input AS (
    SELECT * FROM unnest(%(identities)s::bytea[], %(contents)s::bytea[]) WITH ORDINALITY AS i (identity, content, place)
),
noted AS (
    INSERT INTO pg_temp.oca_sms_seen
    SELECT i.identity, i.content, 1
    FROM input i LEFT JOIN oca_sms_message m ON m.journal = %(journal)s AND m.identity = i.identity
    WHERE m.status IS NULL OR m.status = 0 OR m.content = i.content
    ON CONFLICT DO NOTHING
)
SELECT i.identity, s.content, {_COLUMNS}
FROM ({_OWN}) own CROSS JOIN input i
LEFT JOIN pg_temp.oca_sms_seen s ON s.identity = i.identity
LEFT JOIN oca_sms_message m ON m.journal = %(journal)s AND m.identity = i.identity
ORDER BY i.place
"""

# As above. The name of a message without a key ends in its place among equal ones.
LOOK_UP_NEXT: Final = f"""
WITH input AS (
    SELECT content, place, row_number() OVER (PARTITION BY content ORDER BY place) AS nth
    FROM unnest(%(contents)s::bytea[]) WITH ORDINALITY AS i (content, place)
),
noted AS (
    INSERT INTO pg_temp.oca_sms_seen AS s SELECT content, NULL, count(*) FROM input GROUP BY content
    ON CONFLICT (identity) DO UPDATE SET times = s.times + excluded.times
),
named AS (
    SELECT i.place, i.content || int8send(coalesce(s.times, 0) + i.nth) AS identity
    FROM input i LEFT JOIN pg_temp.oca_sms_seen s ON s.identity = i.content
)
SELECT i.identity, NULL, {_COLUMNS}
FROM ({_OWN}) own CROSS JOIN named i
LEFT JOIN oca_sms_message m ON m.journal = %(journal)s AND m.identity = i.identity
ORDER BY i.place
"""

COUNT_DOUBTFUL: Final = """
SELECT count(*) FROM oca_sms_message
WHERE journal = %(journal)s AND status = 1 AND (busy_until IS NULL OR busy_until <= clock_timestamp())
"""

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

    `content` is the digest of number and text, `known` the token of the last claim, and `claim` the token of the claim
    that this lookup leads to. `run` is the run that looked it up, if one did.
    """

    names: Names = field(kw_only=True, eq=False, repr=False)
    content: bytes = field(kw_only=True)
    known: bytes | None = field(default=None, kw_only=True)
    claim: bytes = field(factory=lambda: secrets.token_bytes(16), kw_only=True, eq=False)
    run: object | None = field(default=None, kw_only=True, eq=False, repr=False)

    def parameters(self, **others: object) -> dict[str, object]:
        """Return the parameters of a statement about this message."""
        return self.names.parameters(identity=self.identity, claim=self.claim, **others)


def found(row: Row | None) -> Row:
    """Return the row. `StaleError` if there is none, for then the journal's own row is gone."""
    if row is None:
        raise StaleError
    return row


def read_claim(row: Row | None) -> bool:
    """Return the answer that a row of `INTEND` holds: did the caller get the message?"""
    own, claimed = found(row)
    if not own:
        raise StaleError
    return bool(claimed)


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


def write_entry(entry: JournalEntry) -> dict[str, object]:
    """Return the parameters that store an entry."""
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

"""One message's state as the journal's file keeps it: an array of JSON, which a person can read."""

import json
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Self

_ENCODE: Final = json.JSONEncoder(separators=(",", ":")).encode
_DECODE: Final = json.JSONDecoder().decode
_SEPARATOR: Final = "\t"  # JSON escapes it in a text


class Record(NamedTuple):
    """A message's state. The last record of an identity counts.

    `identity` and `content` are digests in hexadecimal; the content is number and text. `began` is the start of the
    first request in doubt, and `ended` the last news. `msg_uid` and `word` are the receipt's.
    """

    identity: str
    content: str
    status: str
    attempts: int = 0
    began: float = 0.0
    ended: float = 0.0
    msg_uid: str | None = None
    word: str | None = None
    error: str | None = None
    code: int | None = None

    def encode(self) -> str:
        """Return the record in ASCII: the gateway's words may hold half a surrogate pair, which JSON escapes."""
        known: tuple[object, ...] = self
        while known[-1] is None:
            known = known[:-1]
        return _ENCODE(known)

    @classmethod
    def decode(cls, text: str) -> Self:
        """Return the record of an encoded text."""
        return cls(*_DECODE(text))


def join(records: Iterable[str]) -> bytes:
    """Return the encoded records of one commit as one line."""
    return _SEPARATOR.join(records).encode("ascii")


def split(commit: bytes) -> Iterator[tuple[Record, str]]:
    """Yield the records of a commit, each with its encoded form."""
    texts = commit.decode("ascii").split(_SEPARATOR)
    for fields, text in zip(json.loads(f"[{','.join(texts)}]"), texts, strict=True):
        yield Record(*fields), text

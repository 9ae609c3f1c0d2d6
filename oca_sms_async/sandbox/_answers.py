"""Answers before they go out: status, body, headers, and how the connection treats them."""

import json
from collections.abc import Mapping
from datetime import datetime
from enum import Enum, auto
from typing import Any, Final

import attrs

_JSON: Final = "application/json; charset=utf-8"


class Manner(Enum):
    """How an answer goes out, if it does."""

    WHOLE = auto()
    LATE = auto()  # whole, after `Gateway.lateness`
    DRIPPED = auto()  # a byte a second
    TRUNCATED = auto()  # half of the body, then the connection ends
    NONE = auto()  # the connection ends
    RESET = auto()  # the connection is reset


@attrs.frozen
class Answer:
    """An HTTP status, a body and headers.

    A str body goes out as it is, every other body as JSON. `kind` names the refusal, and is "" for an answer that
    refuses nothing. `reason` is a sentence about it, and `code` is the vendor's, if there is one.
    """

    status: int
    body: Any
    kind: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    manner: Manner = Manner.WHOLE
    reason: str = ""
    code: int | str | None = None

    @property
    def content(self) -> bytes:
        """The body's bytes."""
        # Escaped to ASCII: a refused value is echoed, and half a surrogate pair has no UTF-8.
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()

    @property
    def all_headers(self) -> dict[str, str]:
        """The headers, with the body's type."""
        return {"content-type": "text/html" if isinstance(self.body, str) else _JSON} | {
            name.lower(): value for name, value in self.headers.items()
        }


def error(status: int, message: object, code: int | str | None = None, *, kind: str = "", reason: str = "") -> Answer:
    """Return an error in the envelope that all of the vendor's APIs share; `None`: the vendor lists no code for it."""
    body = {"errors": [{"message": message} | ({} if code is None else {"code": code})]}
    return Answer(status, body, kind, reason=reason, code=code)


def write_timestamp(moment: datetime) -> str:
    """Return a date as all of the vendor's APIs write it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

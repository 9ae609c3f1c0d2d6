"""What the V1 gateway answers: every documented body, in the spelling of the vendor's samples."""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

import attrs

from oca_sms_async.sandbox._inbox import Message

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
    """An HTTP status, a body and headers, and the name of what it refuses, or "" for what it does not.

    A body that is a str goes out as it is, every other one as JSON.
    """

    status: int
    body: Any
    kind: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    manner: Manner = Manner.WHOLE

    @property
    def content(self) -> bytes:
        """The body's bytes."""
        # Escaped to ASCII: the echo of a refused value may hold half a surrogate pair, which UTF-8 cannot carry.
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()

    @property
    def all_headers(self) -> dict[str, str]:
        """The headers, the type of the body among them."""
        return {"content-type": "text/html" if isinstance(self.body, str) else _JSON} | {
            name.lower(): value for name, value in self.headers.items()
        }


@attrs.frozen
class Complaint:
    """What is wrong with one parameter; `param` is its name in errors, which is not its name in requests."""

    value: object
    msg: str
    param: str


def error(status: int, message: str, code: int | None = None, kind: str = "") -> Answer:
    """Return an error; without `code` for what the vendor lists no code for."""
    return Answer(status, {"errors": [{"message": message} | ({} if code is None else {"code": code})]}, kind)


INTERNAL_ERROR: Final = error(500, "Internal Error", 13, "internal-error")
INVALID_CREDENTIALS: Final = error(401, "Invalid Authentication Credentials", 17, "invalid-credentials")
MISSING_AUTHORIZATION: Final = error(406, "Missing Authorization Header", 19, "missing-authorization")
UNKNOWN_USER: Final = error(404, "User Is Not Exist", 41, "unknown-user")
ACCOUNT_EXPIRED: Final = error(401, "Account Expired", 51, "account-expired")
QUOTA_EXHAUSTED: Final = error(401, "Your Quota Is not Enough", 55, "quota-exhausted")
NO_DATA: Final = error(404, "There is no data available")
SUCCESS_WITH_ERRORS: Final = error(200, "Internal Error", 13, "success-with-errors")
HTML: Final = Answer(
    HTTPStatus.BAD_GATEWAY,
    "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>",
    "html",
)


def rate_limited(limit: int, reset: float) -> Answer:
    """Return V2's refusal of what is above `limit` requests a second, with its headers, for `reset` seconds.

    The headers are spelt as the vendor spells them, and the window's end is in whole seconds from now.
    """
    headers = {
        "X-RateLimit-limit": str(limit),
        "X-RateLmit-Remaining": "0",
        "X-RateLimit-Reset": str(math.ceil(reset)),
    }
    return attrs.evolve(error(429, "Too Many Request", 9, "rate-limited"), headers=headers)


def invalid(complaints: Iterable[Complaint]) -> Answer:
    """Return error 39, whose code is a string and whose message is a list in express-validator's shape."""
    message = [
        {
            # Only strings are echoed: not everything that json reads can be written again (infinity, deep nesting).
            "value": complaint.value if isinstance(complaint.value, str) else None,
            "msg": complaint.msg,
            "param": complaint.param,
            "location": "body",
        }
        for complaint in complaints
    ]
    return Answer(406, {"errors": [{"message": message, "code": "39"}]}, "invalid-request")


def sent(message: Message) -> Answer:
    """Return the receipt of an accepted message, whose status is that of the vendor's sample."""
    return Answer(200, {"status": "sent", "msg_uid": message.msg_uid})


def history(messages: Iterable[Message]) -> Answer:
    """Return all records as a bare array."""
    return Answer(200, [_record(message) for message in messages])


def detail(message: Message) -> Answer:
    """Return one record in the detail's envelope, where alone it names an application."""
    return Answer(200, {"status": True, "data": _record(message) | {"application": "sandbox"}})


def timestamp(moment: datetime) -> str:
    """Return a date as the gateway writes it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _record(message: Message) -> dict[str, Any]:
    return {
        "phone_number": message.phone,
        "message_body": message.text,
        "created_at": timestamp(message.created_at),
        "status": message.status,
        "msg_uid": message.msg_uid,
        "total_sms": message.segments,
        "updated_at": timestamp(message.updated_at),
    }

"""What the V1 gateway answers: every documented body, in the spelling of the vendor's samples."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import attrs

from oca_sms_async.sandbox._inbox import Message


@attrs.frozen
class Answer:
    """An HTTP status and a body of JSON values."""

    status: int
    body: Any


@attrs.frozen
class Complaint:
    """What is wrong with one parameter; `param` is its name in errors, which is not its name in requests."""

    value: object
    msg: str
    param: str


def error(status: int, message: str, code: int | None = None) -> Answer:
    """Return an error; without `code` for what the vendor lists no code for."""
    return Answer(status, {"errors": [{"message": message} | ({} if code is None else {"code": code})]})


INTERNAL_ERROR: Final = error(500, "Internal Error", 13)
INVALID_CREDENTIALS: Final = error(401, "Invalid Authentication Credentials", 17)
MISSING_AUTHORIZATION: Final = error(406, "Missing Authorization Header", 19)
UNKNOWN_USER: Final = error(404, "User Is Not Exist", 41)
ACCOUNT_EXPIRED: Final = error(401, "Account Expired", 51)
QUOTA_EXHAUSTED: Final = error(401, "Your Quota Is not Enough", 55)
NO_DATA: Final = error(404, "There is no data available")


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
    return Answer(406, {"errors": [{"message": message, "code": "39"}]})


def sent(message: Message) -> Answer:
    """Return the receipt of an accepted message."""
    return Answer(200, {"status": message.status, "msg_uid": message.msg_uid})


def history(messages: Iterable[Message]) -> Answer:
    """Return all records as a bare array."""
    return Answer(200, [_record(message) for message in messages])


def detail(message: Message) -> Answer:
    """Return one record in the detail's envelope, where alone it names an application."""
    return Answer(200, {"status": True, "data": _record(message) | {"application": "sandbox"}})


def _record(message: Message) -> dict[str, Any]:
    created_at = _timestamp(message.created_at)
    return {
        "phone_number": message.phone,
        "message_body": message.text,
        "created_at": created_at,
        "status": message.status,
        "msg_uid": message.msg_uid,
        "total_sms": message.segments,
        "updated_at": created_at,
    }


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""SMS Regular V1 as the vendor documents it: paths, fields, codes and bodies, in the spelling of the samples."""

import base64
import hmac
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from oca_sms_async.sandbox._answers import Answer, error, write_timestamp
from oca_sms_async.sandbox._api import Complaint, Operation, Parameter, Refusal
from oca_sms_async.sandbox._credentials import Credentials
from oca_sms_async.sandbox._inbox import Message

# HTTP status, message, code. The unknown id alone has no code.
_REFUSALS: Final[Mapping[str, tuple[int, str, int | None]]] = {
    "internal-error": (500, "Internal Error", 13),
    "success-with-errors": (200, "Internal Error", 13),
    "invalid-credentials": (401, "Invalid Authentication Credentials", 17),
    "missing-authorization": (406, "Missing Authorization Header", 19),
    "unknown-user": (404, "User Is Not Exist", 41),
    "account-expired": (401, "Account Expired", 51),
    "quota-exhausted": (401, "Your Quota Is not Enough", 55),
    "rate-limited": (429, "Too Many Request", 9),  # V2's: V1 documents no limit
    "unknown-id": (404, "There is no data available", None),
}
# The names in errors. They are not the names in requests.
_PARAMETERS: Final = {Parameter.PHONE: "phone_number", Parameter.TEXT: "message_body"}


class RegularV1:
    """The API with a username and a password."""

    prefix: Final = "/api/v1"
    paths: Final[Mapping[str, Mapping[str, Operation]]] = {
        "/sms": {"POST": Operation.SEND, "GET": Operation.HISTORY},
        "/sms/status/{id:path}": {"GET": Operation.DETAIL},  # an opaque id may hold an escaped slash
    }

    def is_authorized(self, authorization: str, account: Credentials) -> bool:
        """Tell whether a Basic header carries the account's username and password."""
        expected = f"{account.username}:{account.password}".encode()
        return hmac.compare_digest(_read_basic(authorization), expected)

    def secret(self, account: Credentials) -> str:
        """Return the password."""
        return account.password

    def read_send(self, parameters: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return `phone` and `message`."""
        return parameters.get("phone"), parameters.get("message")

    def refuse(self, refusal: Refusal) -> Answer:
        """Return the documented error."""
        if refusal.complaints:  # the code is a string here, and a number everywhere else
            return error(406, [_write_complaint(it) for it in refusal.complaints], "39", refusal.kind)
        answer = error(*_REFUSALS[refusal.kind], refusal.kind)
        return attrs.evolve(answer, headers=_limit_headers(refusal)) if refusal.limit else answer

    def write_receipt(self, message: Message) -> Answer:
        """Return the receipt. Its status is that of the vendor's sample."""
        return Answer(200, {"status": "sent", "msg_uid": message.msg_uid})

    def write_history(self, messages: Iterable[Message]) -> Answer:
        """Return all records as a bare array."""
        return Answer(200, [_write_record(message) for message in messages])

    def write_detail(self, message: Message) -> Answer:
        """Return one record in the detail's envelope. Only a detail names an application."""
        return Answer(200, {"status": True, "data": _write_record(message) | {"application": "sandbox"}})


def _read_basic(authorization: str) -> bytes:
    """Return the `username:password` of a Basic header, or nothing where the header is malformed."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        return base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else b""
    except ValueError:
        return b""


def _write_complaint(complaint: Complaint) -> dict[str, Any]:
    """Return a complaint in express-validator's shape."""
    return {
        # Only strings are echoed: json reads values that it cannot write again (infinity, deep nesting).
        "value": complaint.value if isinstance(complaint.value, str) else None,
        "msg": complaint.msg,
        "param": _PARAMETERS[complaint.parameter],
        "location": "body",
    }


def _limit_headers(refusal: Refusal) -> dict[str, str]:
    """Return the headers of a 429 in the vendor's spelling. The window ends so many whole seconds from now."""
    return {
        "X-RateLimit-limit": str(refusal.limit),
        "X-RateLmit-Remaining": "0",
        "X-RateLimit-Reset": str(math.ceil(refusal.reset)),
    }


def _write_record(message: Message) -> dict[str, Any]:
    return {
        "phone_number": message.phone,
        "message_body": message.text,
        "created_at": write_timestamp(message.created_at),
        "status": message.status,
        "msg_uid": message.msg_uid,
        "total_sms": message.segments,
        "updated_at": write_timestamp(message.updated_at),
    }

"""The reasons why a request is refused, and the vendor's two tables of codes for them."""

import math
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

import attrs

from oca_sms_async.sandbox._answers import Answer, error


class Parameter(Enum):
    """The parameters of a send that the gateway complains about. The values are words for a person."""

    PHONE = "number"
    TEXT = "text"
    SENDER = "sender"


class Table(Enum):
    """The vendor's tables of codes: one for the two V1 APIs, one for the two V2 APIs."""

    V1 = auto()
    V2 = auto()


@attrs.frozen
class Complaint:
    """A fault in one parameter, with the value that came."""

    value: object = attrs.field(repr=False)
    msg: str
    parameter: Parameter
    is_template: bool = False  # the text matches no template of the account


@attrs.frozen
class Refusal:
    """The reason why a request is refused: its kind, and a sentence for a person. An API makes it an answer."""

    kind: str
    reason: str
    complaints: tuple[Complaint, ...] = ()
    limit: int = 0  # requests a second, where there are too many
    reset: float = 0.0  # seconds until there is room for one again


INTERNAL_ERROR: Final = Refusal("internal-error", "The gateway had an internal error.")
INVALID_CREDENTIALS: Final = Refusal("invalid-credentials", "The credentials are not those of this sandbox.")
MISSING_AUTHORIZATION: Final = Refusal("missing-authorization", "The request has no Authorization header.")
MISSING_TOKEN: Final = Refusal("missing-token", "The Authorization header has no Bearer token.")
UNKNOWN_USER: Final = Refusal("unknown-user", "The sandbox is set to know no such user.")
ACCOUNT_EXPIRED: Final = Refusal("account-expired", "The sandbox is set to an expired account.")
QUOTA_EXHAUSTED: Final = Refusal("quota-exhausted", "The message needs more segments than the quota has left.")
SUCCESS_WITH_ERRORS: Final = Refusal("success-with-errors", "The gateway answered 200 with an error in the body.")
UNKNOWN_ID: Final = Refusal("unknown-id", "No message of this API has this id.")


def refuse_parameters(*complaints: Complaint) -> Refusal:
    """Return the refusal of a send for its parameters."""
    reason = " and ".join(f"the {it.parameter.value} ({it.msg[0].lower()}{it.msg[1:]})" for it in complaints)
    return Refusal("invalid-request", f"The gateway refuses {reason}.", complaints=complaints)


def refuse_rate(limit: int, reset: float) -> Refusal:
    """Return the refusal of a request above `limit` a second; there is room again after `reset` seconds."""
    return Refusal("rate-limited", f"The limit is {limit} requests a second.", limit=limit, reset=reset)


# HTTP status, message, code. An unknown id has no code in V1.
_V1: Final[Mapping[str, tuple[int, str, int | None]]] = {
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
# V2 documents no unknown user and no expired account: V1's codes stand in. The status of code 5 is not documented.
_V2: Final[Mapping[str, tuple[int, str, int | None]]] = {
    **_V1,
    "invalid-credentials": (401, "Auth token is not valid", 45),
    "missing-authorization": (401, "Missing Authorization Header", 19),
    "missing-token": (401, "Auth token is not supplied", 43),
    "quota-exhausted": (401, "low-balance", 5),
    "unknown-id": (404, "Data doesn't exist", 33),
}


def write_refusal(refusal: Refusal, table: Table, names: Mapping[Parameter, str]) -> Answer:
    """Return the documented error; `names` are those of the parameters in errors, not in requests."""
    if table is Table.V2 and any(it.is_template for it in refusal.complaints):
        answer = error(406, "template doesn't exist", 59)
    elif refusal.complaints:  # the code is a string here, and a number everywhere else
        answer = error(406, [_write_complaint(it, names) for it in refusal.complaints], "39")
    else:
        answer = error(*(_V1 if table is Table.V1 else _V2)[refusal.kind])
    headers = _limit_headers(refusal) if refusal.limit else {}
    return attrs.evolve(answer, kind=refusal.kind, reason=refusal.reason, headers=headers)


def _write_complaint(complaint: Complaint, names: Mapping[Parameter, str]) -> dict[str, Any]:
    """Return a complaint in express-validator's shape."""
    return {
        # Only strings are echoed: json reads values that it cannot write again (infinity, deep nesting).
        "value": complaint.value if isinstance(complaint.value, str) else None,
        "msg": complaint.msg,
        "param": names[complaint.parameter],
        "location": "body",
    }


def _limit_headers(refusal: Refusal) -> dict[str, str]:
    """Return the headers of a 429 in the vendor's spelling. The window ends so many whole seconds from now."""
    return {
        "X-RateLimit-limit": str(refusal.limit),
        "X-RateLmit-Remaining": "0",
        "X-RateLimit-Reset": str(math.ceil(refusal.reset)),
    }

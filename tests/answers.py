"""Requests of every API, and functions that turn an answer into a model or an error without any I/O."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from oca_sms_async import ApiError, OcaSmsError, PremiumV1, PremiumV2, RegularV1, RegularV2
from oca_sms_async._wire import Request
from oca_sms_async._wire._account import Account

UID = "d3a9255c1f0e4b7a8d6c3b5e9f102f2d"
PHONE = "+6281381475159"
TEXT = "Acme: 482913 is your code"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJvY2EifQ.c2lnbmF0dXJl"

REGULAR_V1 = RegularV1("ann@acme.test", "tops3cret")
APIS: dict[str, Account] = {
    "regular-v1": REGULAR_V1,
    "regular-v2": RegularV2(TOKEN),
    "premium-v1": PremiumV1("ann@acme.test", "tops3cret", sender_id="Acme"),
    "premium-v2": PremiumV2(TOKEN, sender_id="Acme"),
}
# By API and kind. The keys without an API are V1's, for the tests of its documentation.
REQUESTS: dict[str, Request[Any]] = {
    "send": REGULAR_V1.send(PHONE, TEXT),
    "history": REGULAR_V1.history(),
    "status": REGULAR_V1.status(UID),
}
for _name, _api in APIS.items():
    REQUESTS[f"{_name} send"] = _api.send(PHONE, TEXT)
    REQUESTS[f"{_name} status"] = _api.status(UID)
    if _api.has_history:
        REQUESTS[f"{_name} history"] = _api.history()
EACH_REQUEST = [what for what in REQUESTS if " " in what]

# Whether a message refused with this status may have been taken. Only a 4xx other than 408 and 499 proves that it was
# not.
DOUBT = {
    **dict.fromkeys([200, 201, 204, 299, 300, 302, 307, 399], True),
    **dict.fromkeys([400, 401, 403, 404, 406, 407, 409, 418, 422, 429, 498], False),
    **dict.fromkeys([408, 499, 500, 502, 503, 504, 599], True),
}
RECORD: dict[str, Any] = {
    "phone_number": PHONE,
    "message_body": TEXT,
    "created_at": "2020-05-31T10:00:00.000Z",
    "status": "sent",
    "msg_uid": UID,
    "total_sms": 1,
}


def api_of(what: str) -> Account:
    """Return the API of a request by its key."""
    return APIS.get(what.partition(" ")[0], REGULAR_V1)


def read(what: str, status: int, body: object, headers: Mapping[str, str] | None = None) -> Any:
    """Parse an answer to a request. A body is bytes, None, or a value that is written as JSON."""
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    return REQUESTS[what].parse(status, headers or {}, raw)


def result_of(what: str, status: int, body: object, headers: Mapping[str, str] | None = None) -> Any:
    """Return the model or the error that an answer is."""
    try:
        return read(what, status, body, headers)
    except OcaSmsError as error:
        return error


def error_of(what: str, status: int, body: object, headers: Mapping[str, str] | None = None) -> OcaSmsError:
    """Return the error that an answer is."""
    with pytest.raises(OcaSmsError) as caught:
        read(what, status, body, headers)
    return caught.value


def refusal_of(what: str, status: int, body: object, headers: Mapping[str, str] | None = None) -> ApiError:
    """Return the refusal that an answer is."""
    error = error_of(what, status, body, headers)
    assert isinstance(error, ApiError)
    return error


def errors(code: object, message: object = "Refused") -> dict[str, Any]:
    """Write a refusal as the gateway does."""
    return {"errors": [{"message": message, "code": code}]}


def detail(**fields: object) -> dict[str, Any]:
    """Write a detail as V1's sample does, with some fields of the record changed."""
    return {"status": True, "data": {**RECORD, **fields}}

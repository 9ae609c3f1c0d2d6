"""Refusals: which error an answer is, by the gateway's code first and by the HTTP status second, and its words."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import attrs
import httpx
import pytest
from answers import APIS, DOUBT, EACH_REQUEST, RECORD, UID, detail, error_of, errors, refusal_of

from oca_sms_async import (
    AccountError,
    AccountExpiredError,
    ApiError,
    FieldError,
    InternalError,
    InvalidCredentialsError,
    InvalidRequestError,
    MissingAuthorizationError,
    NotFoundError,
    OcaSmsError,
    QuotaExhaustedError,
    RateLimitedError,
    UnexpectedResponseError,
    UserNotFoundError,
)

NOW = 1_700_000_000.0
MARKER = "Quagga"  # stands for the words that the gateway may echo, and must never show

each_request = pytest.mark.parametrize("what", EACH_REQUEST)
V1: dict[int, type[ApiError]] = {
    9: RateLimitedError,
    17: InvalidCredentialsError,
    19: MissingAuthorizationError,
    39: InvalidRequestError,
    41: UserNotFoundError,
    51: AccountExpiredError,
    55: QuotaExhaustedError,
}
V2: dict[int, type[ApiError]] = {
    5: QuotaExhaustedError,
    9: RateLimitedError,
    17: InvalidCredentialsError,
    19: MissingAuthorizationError,
    39: InvalidRequestError,
    43: MissingAuthorizationError,
    45: InvalidCredentialsError,
    59: InvalidRequestError,
}
# The codes that mean the same under each HTTP status. Codes 13 and 33 do not.
LISTED = {"regular-v1": V1, "premium-v1": V1, "regular-v2": V2, "premium-v2": V2}
ALL_CODES = sorted(V1.keys() | V2.keys() | {13, 33})


def codes_of(what: str) -> dict[int, type[ApiError]]:
    """Return the codes of a request's API."""
    return LISTED[what.partition(" ")[0]]


def is_listed(what: str, code: object) -> bool:
    """Tell whether a request's API documents this code at all."""
    return code in codes_of(what) or code == 13 or (code == 33 and codes_of(what) is V2)


def fallback(what: str, status: int) -> type[OcaSmsError]:
    """Return the error of a refusal without a listed code."""
    kinds = {401: AccountError, 403: AccountError, 404: ApiError if what.endswith("send") else NotFoundError}
    return {**kinds, 429: RateLimitedError}.get(status, ApiError)


def test_each_api_has_its_table() -> None:
    """An API value hands out the codes that are tested here, with 13 and 33 beside them."""
    for name, api in APIS.items():
        more = {33: NotFoundError} if LISTED[name] is V2 else {}
        assert api.codes == {**LISTED[name], 13: InternalError, **more}


@each_request
def test_listed_code_decides(what: str) -> None:
    """A listed code, integer or string, makes the class under any HTTP status. The status decides about the doubt."""
    for code, kind in codes_of(what).items():
        for status, doubt in DOUBT.items():
            for form in (code, str(code), f" {code} "):
                error = refusal_of(what, status, errors(form, "Words"))
                assert (status, form, type(error)) == (status, form, kind)
                assert (error.status_code, error.code, error.text, error.fields) == (status, code, "Words", ())
                assert (status, error.may_have_been_sent) == (status, doubt)


@each_request
@pytest.mark.parametrize("code", [13, "13"])
def test_code_13(what: str, code: object) -> None:
    """Code 13 is the internal error with HTTP 500 alone. Elsewhere the status decides, but never for the account."""
    for status, doubt in DOUBT.items():
        error = refusal_of(what, status, errors(code))
        if status == 500:
            assert type(error) is InternalError
        elif status in {401, 403}:
            assert type(error) is ApiError
        else:
            assert (status, type(error)) == (status, fallback(what, status))
        assert (status, error.code, error.may_have_been_sent) == (status, 13, doubt)


@pytest.mark.parametrize("what", [what for what in EACH_REQUEST if codes_of(what) is V2])
@pytest.mark.parametrize("code", [33, "33"])
def test_code_33(what: str, code: object) -> None:
    """In V2, code 33 is «not found» where something is asked for. On a send, the status decides."""
    for status, doubt in DOUBT.items():
        error = refusal_of(what, status, errors(code))
        if not what.endswith("send"):
            assert type(error) is NotFoundError
        elif status in {401, 403}:
            assert type(error) is ApiError
        else:
            assert (status, type(error)) == (status, fallback(what, status))
        assert (status, error.code, error.may_have_been_sent) == (status, 33, doubt)


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (what, code)
        for what in EACH_REQUEST
        for code in (*ALL_CODES, None, 0, 1, 130, 1000, 482913, "482913", "13a", "²", "", -13)
        if not is_listed(what, code)
    ],
)
def test_unlisted_code_falls_back_to_the_status(what: str, code: object) -> None:
    """Without a listed code the HTTP status makes the class. A 2xx or 3xx with errors in it is unexpected."""
    for status, doubt in DOUBT.items():
        error = error_of(what, status, errors(code))
        kind = UnexpectedResponseError if status < 400 else fallback(what, status)
        assert (status, type(error), error.may_have_been_sent) == (status, kind, doubt)


@each_request
@pytest.mark.parametrize("body", [b"", b"{}", b'{"errors": []}', b'{"errors": null}', b"[]", b"<html>", None])
def test_status_that_says_nothing_else(what: str, body: bytes | None) -> None:
    """A status other than 2xx is a refusal, also without errors in it and as a redirect. It has no code."""
    for status in [status for status in DOUBT if status >= 300]:
        error = refusal_of(what, status, body)
        assert (status, type(error)) == (status, fallback(what, status))
        assert (error.status_code, error.code, error.fields) == (status, None, ())
        assert error.text == (body or b"").decode()
        assert (status, error.may_have_been_sent) == (status, DOUBT[status])


@pytest.mark.parametrize(
    "code", [17.5, True, False, [17], {"code": 17}, "1" * 20, "1_7", "+17", "１７", "0x11", "1" * 10]
)
def test_code_that_is_none(code: object) -> None:
    """A code is an integer or a string of up to nine digits. Any other value is no code."""
    assert refusal_of("send", 406, errors(code)).code is None
    assert refusal_of("send", 406, errors("1" * 9)).code == 111_111_111


@pytest.mark.parametrize("body", [{"status": "sent", "msg_uid": UID}, RECORD, detail()])
@pytest.mark.parametrize("code", [55, 56])
def test_success_with_errors_is_no_success(body: dict[str, Any], code: int) -> None:
    """A 2xx that carries errors is no success, also with a receipt in it, and leaves the message in doubt."""
    for what in ("send", "status"):
        error = error_of(what, 200, {**body, **errors(code)})
        assert type(error) is (QuotaExhaustedError if code == 55 else UnexpectedResponseError)
        assert error.may_have_been_sent
        assert code == 55 or str(error) == "the gateway answered HTTP 200 with errors in it"


@pytest.mark.parametrize("wrong", ["Refused", 17, True, {"a": 1}, ["Refused"], [None], [{}], [[{"code": 17}]]])
def test_errors_of_another_shape(wrong: object) -> None:
    """Errors in another shape than documented still make a 2xx no success. They do not change a refusal's class."""
    assert type(error_of("send", 200, {"status": "sent", "msg_uid": UID, "errors": wrong})) is UnexpectedResponseError
    assert type(refusal_of("send", 406, {"errors": wrong})) is ApiError


def test_single_error_outside_a_list() -> None:
    """A single error that is not in a list is read too."""
    error = refusal_of("send", 401, {"errors": {"message": "Account Expired", "code": "51"}})
    assert type(error) is AccountExpiredError
    assert error.text == "Account Expired"


@pytest.mark.parametrize("listed", [0, 1, 2])
def test_listed_code_among_several_errors(listed: int) -> None:
    """Of several errors the first with a listed code counts, with its own words. Without one, the first counts."""
    entries = [{"message": f"entry {i}", "code": 60 + i} for i in range(3)]
    plain = refusal_of("send", 406, {"errors": entries})
    assert (type(plain), plain.code, plain.text) == (ApiError, 60, "entry 0")
    entries[listed] = {"message": "the listed one", "code": 55}
    error = refusal_of("send", 406, {"errors": [*entries, {"message": "late", "code": 17}]})
    assert (type(error), error.code, error.text) == (QuotaExhaustedError, 55, "the listed one")


@pytest.mark.parametrize(
    ("message", "text", "fields"),
    [
        ("Refused", "Refused", ()),
        ([{"param": "phone", "msg": "Bad", "location": "body"}], "Bad", (FieldError("phone", "Bad", "body"),)),
        ({"param": "phone", "msg": "Bad", "location": "body"}, "Bad", (FieldError("phone", "Bad", "body"),)),
        (
            [{"param": "phone", "msg": "Bad"}, {"msg": "Worse", "nested": [1]}],
            "Bad; Worse",
            (FieldError("phone", "Bad", ""), FieldError("", "Worse", "")),
        ),
        ([{"param": None, "msg": "Bad", "location": ["body"]}], "Bad", (FieldError("", "Bad", ""),)),
        (["Bad", None, 5, {"param": "phone", "msg": "Worse"}], "Worse", (FieldError("phone", "Worse", ""),)),
    ],
)
def test_message_is_words_or_fields(message: object, text: str, fields: tuple[FieldError, ...]) -> None:
    """The message of code 39 is a text or a list of fields. A missing part of a field is empty, never «None»."""
    error = refusal_of("send", 406, errors("39", message))
    assert (type(error), error.text, error.fields) == (InvalidRequestError, text, fields)


def test_the_value_of_a_field_without_words_stays_out_of_the_text() -> None:
    """A field with only its value, the recipient's number, leaves the text empty."""
    error = refusal_of("send", 406, errors("39", [{"value": "081-234-567-890", "param": "phone_number"}]))
    assert (error.text, error.fields) == ("", (FieldError("phone_number", "", ""),))


def test_no_cut_leaves_a_part_of_a_long_run_of_digits() -> None:
    """Digits are starred before the text is cut. Otherwise the last three of a number could stand at its end."""
    error = refusal_of("send", 406, errors(39, "1" * 1500 + " " + "x" * 496 + "123456789"))
    assert not any(char.isdigit() for char in error.text)


@pytest.mark.parametrize("code", [9, 13, 17, 39, 55, None])
def test_every_429_has_a_wait(code: object) -> None:
    """A 429 with any code asks for a wait."""
    assert refusal_of("send", 429, errors(code), {"Retry-After": "7"}).retry_after == 7


@pytest.mark.parametrize("code", [13, 17, 39, 55, None])
def test_no_other_refusal_has_a_wait(code: object) -> None:
    """A refusal for a reason other than the rate limit has no wait, even with a header that asks for one."""
    for status in (406, 500):
        assert refusal_of("send", status, errors(code), {"Retry-After": "7"}).retry_after is None


def test_code_13_in_any_form() -> None:
    """13, "13" and 13.0 are the code that is tried again."""
    assert {type(refusal_of("send", 500, errors(code))) for code in (13, "13", 13.0)} == {InternalError}


@pytest.mark.parametrize("message", [None, "", 5, True, [], [None]])
def test_text_falls_back_to_the_body(message: object) -> None:
    """An error without words keeps the answer itself as its text, long digits starred."""
    assert refusal_of("send", 406, errors(60, message)).text == json.dumps(errors(60, message))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Number 6281381475159 refused", "Number **** refused"),
        ("code 4829 for 081-234-567", "code **** for 081-234-567"),
        ("123 12a34 1234 12345", "123 12a34 **** ****"),
        ("٠٨١٢ and ０８１２", "**** and ****"),
        ("a" * 997 + "1234567", "a" * 997 + "***"),
        ("a" * 2000, "a" * 1000),
    ],
)
def test_text_is_starred_and_bounded(text: str, kept: str) -> None:
    """In the gateway's words, runs of four or more digits are starred. Then the words are cut to a thousand letters."""
    assert refusal_of("send", 406, errors(39, text)).text == kept
    assert refusal_of("send", 406, text.encode()).text == kept
    field = {"param": text, "msg": text, "location": text}
    assert refusal_of("send", 406, errors(39, [field])).fields == (FieldError(kept, kept, kept),)


def test_refused_value_is_dropped() -> None:
    """The value of a refused field is the recipient's number. No part of the error holds it."""
    field = {"value": f"{MARKER} 089", "msg": "Bad", "param": "phone_number", "location": "body"}
    error = refusal_of("send", 406, errors("39", [field]))
    assert MARKER not in repr([error.text, *map(attrs.astuple, error.fields), vars(error)])


# The wait


@pytest.fixture
def jakarta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the time zone seven hours east of Greenwich, and stop the clock."""
    with monkeypatch.context() as patched:
        patched.setattr("time.time", lambda: NOW)
        patched.setenv("TZ", "WIB-7")
        time.tzset()
        yield
    time.tzset()


def http_date(seconds: float) -> str:
    """Write a moment as HTTP does."""
    return format_datetime(datetime.fromtimestamp(NOW + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "retry_after"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "7"}, 7.0),
        ({"RETRY-AFTER": " 2.5 "}, 2.5),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "60"}, 60.0),
        ({"Retry-After": "61"}, 60.0),
        ({"Retry-After": "1e300"}, 60.0),
        ({"Retry-After": http_date(7)}, 7.0),
        ({"Retry-After": http_date(-7)}, 0.0),
        ({"Retry-After": http_date(3600)}, 60.0),
        ({"Retry-After": "Wed, 15 Nov 2023 05:13:27 +0700"}, 7.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:27"}, 7.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:27 -0000"}, 7.0),
        ({"X-RateLimit-Reset": "3"}, 3.0),
        ({"x-ratelimit-reset": "3"}, 3.0),
        ({"X-RateLimit-Reset": "0.5"}, 0.5),
        ({"X-RateLimit-Reset": "-1"}, 0.0),
        ({"X-RateLimit-Reset": "90"}, 60.0),
        ({"X-RateLimit-Reset": f"{NOW + 7:.0f}"}, 7.0),
        ({"X-RateLimit-Reset": f"{NOW - 7:.0f}"}, 0.0),
        ({"X-RateLimit-Reset": f"{NOW + 700:.0f}"}, 60.0),
        ({"X-RateLimit-Reset": f"{(NOW + 7) * 1000:.0f}"}, 7.0),
        ({"X-RateLimit-Reset": f"{(NOW - 7) * 1000:.0f}"}, 0.0),
        ({"X-RateLimit-Reset": f"{(NOW + 700) * 1000:.0f}"}, 60.0),
        ({"X-RateLimit-Reset": "1000000000"}, 60.0),  # not above 1e9: seconds from now
        ({"X-RateLimit-Reset": "1000000001"}, 0.0),  # a moment of 2001
        ({"X-RateLimit-Reset": "1000000000000"}, 60.0),  # not above 1e12: seconds, a moment far ahead
        ({"X-RateLimit-Reset": "1000000000001"}, 0.0),  # milliseconds, a moment of 2001
        ({"Retry-After": "7", "X-RateLimit-Reset": "3"}, 7.0),
        ({"Retry-After": "0", "X-RateLimit-Reset": "3"}, 0.0),
        ({"Retry-After": "soon", "X-RateLimit-Reset": "3"}, 3.0),
        ({"Retry-After": "", "X-RateLimit-Reset": "3"}, 3.0),
        ({"Retry-After": "inf", "X-RateLimit-Reset": "3"}, 3.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "Tue, 99 Nov 2023 22:13:27 GMT"}, None),
        ({"Retry-After": "Tue, 14 Nov 99999999999 22:13:27 GMT"}, None),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:27 +99999999999999"}, None),
        ({"X-RateLimit-Reset": "soon"}, None),
        ({"X-RateLimit-Reset": "nan"}, None),
        ({"X-RateLimit-Reset": "inf"}, None),
        ({"X-RateLimit-Reset": http_date(7)}, None),
        ({"X-RateLimit-limit": "25", "X-RateLmit-Remaining": "0"}, None),
    ],
    ids=str,
)
@pytest.mark.usefixtures("jakarta")
def test_retry_after(headers: dict[str, str], retry_after: float | None) -> None:
    """The wait is Retry-After, else X-RateLimit-Reset in one of three units, from 0 to 60, or None."""
    for given_headers in (headers, httpx.Headers(headers)):
        error = refusal_of("send", 429, errors(9), given_headers)
        assert isinstance(error, RateLimitedError)
        assert error.retry_after == retry_after


@pytest.mark.parametrize("what", EACH_REQUEST)
@pytest.mark.parametrize(("status", "code"), [(429, 9), (429, 60), (429, None), (406, 9), (200, 9), (503, "9")])
def test_every_rate_limit_has_its_wait(what: str, status: int, code: object) -> None:
    """HTTP 429 and code 9 each make the headers count."""
    error = refusal_of(what, status, errors(code), {"Retry-After": "7"})
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == 7.0

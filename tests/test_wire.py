"""The wire: every shape the vendor documents, every contradiction in it, and whatever else an answer may be."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import attrs
import httpx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

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
    RegularV1,
    SendReceipt,
    SmsRecord,
    UnexpectedResponseError,
    UserNotFoundError,
)
from oca_sms_async._scrub import chain
from oca_sms_async._wire import Request, _dialect
from oca_sms_async._wire._converter import Converter, Shape, make_converter

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.json"))
UID = "d3a9255c1f0e4b7a8d6c3b5e9f102f2d"
PHONE = "+6281381475159"
TEXT = "Acme: 482913 is your code"
API = RegularV1("ann@acme.test", "tops3cret")
MARKER = "Quagga"  # stands for what the gateway may echo: it must never show
NOW = 1_700_000_000.0
REQUESTS: dict[str, Request[Any]] = {
    "send": API.send(PHONE, TEXT),
    "history": API.history(),
    "status": API.status(UID),
}
LISTED: dict[int, type[ApiError]] = {
    9: RateLimitedError,
    17: InvalidCredentialsError,
    19: MissingAuthorizationError,
    39: InvalidRequestError,
    41: UserNotFoundError,
    51: AccountExpiredError,
    55: QuotaExhaustedError,
}
# Whether a message refused with this status may have been taken: only 4xx other than 408 and 499 prove the contrary.
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

unhurried = settings(deadline=None)  # a busy machine must not fail a test
each_request = pytest.mark.parametrize("what", REQUESTS)


@pytest.fixture(autouse=True)
def fresh_converter() -> None:
    """Have each test make the converter anew, so that none is about what an earlier one had made."""
    _dialect._converter_of.cache_clear()


def read(what: str, status: int, body: object, headers: Mapping[str, str] | None = None) -> Any:
    """Parse an answer to one of the three requests; a body that is neither bytes nor None is written as JSON."""
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
    """Write a detail as the sample does, with some fields of the record changed."""
    return {"status": True, "data": {**RECORD, **fields}}


# What the vendor documents


@attrs.frozen(kw_only=True)
class Sample:
    """A recorded exchange: what it shows, the request, its answer (JSON, or raw text), and what comes of it."""

    about: str
    request: str
    status: int
    headers: dict[str, str]
    expect: dict[str, Any]
    body: Any = None
    raw: str | None = None


def outcome(sample: Sample) -> dict[str, Any]:
    """Return all that is to be seen of what an answer became, in JSON's types."""
    result = result_of(
        sample.request, sample.status, sample.body if sample.raw is None else sample.raw.encode(), sample.headers
    )
    if isinstance(result, list):
        return {"records": [in_json(record) for record in result]}
    if not isinstance(result, OcaSmsError):
        return {"receipt" if isinstance(result, SendReceipt) else "record": in_json(result)}
    seen = {"class": type(result).__name__, "may_have_been_sent": result.may_have_been_sent}
    if isinstance(result, ApiError):
        seen |= {"status_code": result.status_code, "code": result.code, "text": result.text}
        seen |= {"fields": [attrs.asdict(field) for field in result.fields]}
    if isinstance(result, RateLimitedError):
        seen |= {"retry_after": result.retry_after}
    return {"error": seen}


def in_json(value: SendReceipt | SmsRecord) -> dict[str, Any]:
    """Write a model in JSON's types."""
    return attrs.asdict(
        value, value_serializer=lambda _, __, part: part.isoformat() if isinstance(part, datetime) else part
    )


def test_samples_are_there() -> None:
    """The recorded exchanges are found, and cover all three requests."""
    assert {json.loads(path.read_text("utf-8"))["request"] for path in SAMPLES} == set(REQUESTS)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_sample(path: Path) -> None:
    """A recorded exchange becomes exactly the model or the error that stands beside it."""
    sample = Sample(**json.loads(path.read_text("utf-8")))
    assert outcome(sample) == sample.expect


@pytest.mark.parametrize(
    ("make", "method", "path", "body", "max_body"),
    [
        (lambda: API.send(PHONE, TEXT), "POST", "/sms", {"phone": PHONE, "message": TEXT}, 2**20),
        (lambda: API.send(PHONE, "é 😀\n"), "POST", "/sms", {"phone": PHONE, "message": "é 😀\n"}, 2**20),
        (API.history, "GET", "/sms", None, 64 * 2**20),
        (lambda: API.status(UID), "GET", f"/sms/status/{UID}", None, 2**20),
    ],
)
def test_request(
    make: Callable[[], Request[Any]], method: str, path: str, body: dict[str, str] | None, max_body: int
) -> None:
    """A request has the documented method, path and JSON, and bounds the size of its answer."""
    request = make()
    assert (request.method, request.path, request.max_body) == (method, path, max_body)
    assert (None if request.body is None else json.loads(request.body)) == body


def test_base_url_is_the_published_one() -> None:
    """The gateway of this version is where the vendor says."""
    assert API.base_url == "https://sms.ocatelkom.co.id/api/v1"


@pytest.mark.parametrize(
    ("username", "password", "value"),
    [
        ("test@gmail.com", "test123", "Basic dGVzdEBnbWFpbC5jb206dGVzdDEyMw=="),  # the vendor's own check value
        ("a", "b:c", "Basic YTpiOmM="),
        ("é", "😀", "Basic w6k68J+YgA=="),
    ],
)
def test_authorization(username: str, password: str, value: str) -> None:
    """The credentials go out as HTTP Basic in UTF-8."""
    assert RegularV1(username, password).headers() == {"Authorization": value}


# Ids in a path


@pytest.mark.parametrize(
    ("msg_uid", "segment"),
    [
        (UID, UID),
        ("0b0a4f3e-6d0c-4c0f-9a55-2f7c2b8e71d4", "0b0a4f3e-6d0c-4c0f-9a55-2f7c2b8e71d4"),
        ("a/b", "a%2Fb"),
        ("a/../b", "a%2F..%2Fb"),
        ("../sms", "..%2Fsms"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("a.b", "a.b"),
        ("a?b", "a%3Fb"),
        ("a#b", "a%23b"),
        ("a b+c", "a%20b%2Bc"),
        ("é😀", "%C3%A9%F0%9F%98%80"),
        ("\ud83d", "%ED%A0%BD"),
        ("a\r\nb", "a%0D%0Ab"),
    ],
)
def test_msg_uid_is_quoted(msg_uid: str, segment: str) -> None:
    """An id is one segment of the path, whatever it holds, and httpx leaves it as it is."""
    path = API.status(msg_uid).path
    assert path == f"/sms/status/{segment}"
    assert httpx.Request("GET", API.base_url + path).url.raw_path == f"/api/v1/sms/status/{segment}".encode()


@unhurried
@given(st.text(st.characters(exclude_categories=()), min_size=1, max_size=50).filter(str.strip))
def test_any_msg_uid_comes_back_from_its_path(msg_uid: str) -> None:
    """Any id is the last segment of the URL that goes out, and unquoting it gives the id again."""
    sent = httpx.Request("GET", API.base_url + API.status(msg_uid).path).url.raw_path.decode("ascii")
    *before, segment = sent.split("/")
    assert before == ["", "api", "v1", "sms", "status"]
    assert unquote(segment, errors="surrogatepass") == msg_uid
    assert segment not in {".", ".."}
    assert not set(segment) & set("?#")


@pytest.mark.parametrize("msg_uid", ["", "  ", "\n", None, 482913, ["482913"], b"482913", "482913" * 200])
def test_what_cannot_be_an_id_is_refused(msg_uid: Any) -> None:
    """What is no text, blank or without end is refused before any request, and not shown."""
    with pytest.raises(ValueError, match=r"^msg_uid must be") as caught:
        API.status(msg_uid)
    assert "482913" not in str(caught.value)


def test_longest_msg_uid() -> None:
    """An id may have a thousand characters."""
    assert API.status("é" * 1000).path.endswith("%C3%A9" * 1000)
    with pytest.raises(ValueError, match=r"^msg_uid must be"):
        API.status("é" * 1001)


# Successes


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ({"status": "sent"}, "sent"),
        ({"success": "sent"}, "sent"),
        ({"status": "submited", "success": "sent"}, "submited"),
        ({"status": "menunggu"}, "menunggu"),
        ({"status": "NONE"}, "NONE"),
        ({"status": ""}, ""),
        ({"status": None}, ""),
        ({"success": None}, ""),
        ({"status": True}, ""),
        ({"success": True}, ""),
        ({}, ""),
        ({"status": "sent", "msg_id": 1, "data": {"msg_uid": "other"}, "attempts": 7}, "sent"),
        ({"status": "sent", "errors": []}, "sent"),
        ({"status": "sent", "errors": None}, "sent"),
    ],
)
def test_receipt(word: dict[str, Any], status: str) -> None:
    """A receipt needs its id; the word is taken as it is, from either field, and is empty where there is none."""
    assert read("send", 200, {"msg_uid": UID, **word}) == SendReceipt(UID, status, 1)


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_every_2xx_is_a_success(status: int) -> None:
    """The documentation lists 200 alone, yet any 2xx with a receipt in it is one."""
    assert read("send", status, {"status": "sent", "msg_uid": UID}) == SendReceipt(UID, "sent")


@pytest.mark.parametrize("msg_uid", [None, "", "  ", "\n", 5, 5.0, True, [UID], {"id": UID}])
def test_receipt_without_a_usable_id(msg_uid: object) -> None:
    """A success without an id that could be looked up is unexpected, and the message may have been sent."""
    error = error_of("send", 200, {"status": "sent", "msg_uid": msg_uid})
    assert type(error) is UnexpectedResponseError
    assert error.may_have_been_sent
    assert str(error.__cause__) == ("msg_uid is blank" if isinstance(msg_uid, str) else "not a text")


@pytest.mark.parametrize("word", [False, 1, ["sent"], {"word": "sent"}])
def test_receipt_whose_word_is_none(word: object) -> None:
    """A receipt whose word is no word is unexpected, false above all."""
    assert type(error_of("send", 200, {"status": word, "msg_uid": UID})) is UnexpectedResponseError


@each_request
@pytest.mark.parametrize("status", [200, 201, 204, 299])
@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b" ",
        b"sent",
        b"<html>sent</html>",
        b"{",
        b"\xff\xfe",
        b"[" * 10_000,
        b"9" * 5000,
        b"true",
        b"5",
        b"null",
        b'"sent"',
        b"[5]",
        b"[[]]",
        b"[null]",
        b"{}",
        b'{"status": "sent"}',
        b'{"status": true, "data": null}',
    ],
    ids=lambda body: "none" if body is None else body[:30].decode("latin-1"),
)
def test_success_that_is_not_as_documented(what: str, status: int, body: bytes | None) -> None:
    """A 2xx that is no JSON, empty, too long or of another shape is unexpected, in doubt, and says what was wrong."""
    error = error_of(what, status, body)
    assert type(error) is UnexpectedResponseError
    assert error.may_have_been_sent
    assert error.attempts == 0
    assert error.__cause__ is not None
    assert all(link.__traceback__ is None for link in chain(error.__cause__))


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("send", []),
        ("send", [{"status": "sent", "msg_uid": UID}]),
        ("send", {"data": {"status": "sent", "msg_uid": UID}}),
        ("history", {"status": True, "data": [RECORD]}),
        ("history", RECORD),
        ("history", [RECORD, {}]),
        ("status", [RECORD]),
        ("status", {"status": True, "data": [RECORD]}),
        ("status", {"status": True, "data": {}}),
    ],
)
def test_one_requests_answer_is_not_anothers(what: str, body: object) -> None:
    """A receipt, a history and a detail are each told from what they are not."""
    assert type(error_of(what, 200, body)) is UnexpectedResponseError


@pytest.mark.parametrize("body", [{}, RECORD, "sent", 5, None])
def test_history_that_is_no_array(body: object) -> None:
    """A history is an array, and the cause of its error says that this was none."""
    assert str(error_of("history", 200, json.dumps(body).encode()).__cause__) == "not an array"


def test_byte_order_mark_and_stray_bytes_lose_no_receipt() -> None:
    """A receipt is read past a byte order mark and past bytes that are not UTF-8."""
    assert read("send", 200, b'\xef\xbb\xbf{"msg_uid": "a", "status": "s\xffnt"}') == SendReceipt("a", "s�nt")


@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "flat"])
@pytest.mark.parametrize("word", ["sent", "send", "submited", "SENT", "menunggu operator", ""])
def test_record_in_both_shapes(word: str, *, wrapped: bool) -> None:
    """A record is the same, wrapped or flat, and its word passes through unharmed."""
    record = {**RECORD, "status": word, "application": "Acme"}
    expected = SmsRecord(UID, PHONE, TEXT, word, datetime(2020, 5, 31, 10, tzinfo=UTC), 1, None, "Acme")
    assert read("status", 200, {"status": True, "data": record} if wrapped else record) == expected
    assert read("history", 200, [record, record]) == [expected, expected]


@pytest.mark.parametrize("field", ["msg_uid", "phone_number", "message_body", "status"])
@pytest.mark.parametrize("value", ["missing", None, 5, True, ["a"], {"a": "b"}])
def test_record_without_a_needed_text(field: str, value: object) -> None:
    """A record lacks none of its texts: null or a number never becomes one."""
    record = {name: part for name, part in {**RECORD, field: value}.items() if value != "missing" or name != field}
    for what, body in (("status", {"status": True, "data": record}), ("status", record), ("history", [RECORD, record])):
        assert type(error_of(what, 200, body)) is UnexpectedResponseError


@pytest.mark.parametrize("msg_uid", ["", "  "])
def test_record_without_a_usable_id(msg_uid: str) -> None:
    """A record's id is no blank either."""
    assert type(error_of("status", 200, detail(msg_uid=msg_uid))) is UnexpectedResponseError


@pytest.mark.parametrize("data", [None, True, "Acme", [RECORD]])
def test_flat_record_with_data_beside_it(data: object) -> None:
    """What is called `data` and is no record does not hide the flat one."""
    assert read("status", 200, {**RECORD, "data": data}) == read("status", 200, RECORD)


def test_record_without_optional_fields() -> None:
    """A record may lack dates, count and application; there is nothing in their place, least of all a text."""
    needed = {name: RECORD[name] for name in ("msg_uid", "phone_number", "message_body", "status")}
    expected = SmsRecord(UID, PHONE, TEXT, "sent", None, None, None, None)
    assert read("status", 200, {"status": True, "data": needed}) == expected
    nulls = dict.fromkeys(["created_at", "updated_at", "total_sms", "application"])
    assert read("status", 200, {"status": True, "data": {**needed, **nulls}}) == expected


@pytest.mark.parametrize(
    ("value", "count"),
    [
        *((1, 1), (0, 0), (3.0, 3), ("2", 2), (" 2 ", 2)),
        *dict.fromkeys(["2.0", "two", "", "²", "٢", 2.5, float("inf"), float("nan"), None, True]).items(),
        ([1], None),
    ],
)
def test_total_sms(value: object, count: int | None) -> None:
    """A count is a number, or one written as a text; anything else is none."""
    assert read("status", 200, detail(total_sms=value)).total_sms == count


@pytest.mark.parametrize(("value", "application"), [("Acme", "Acme"), ("", ""), (None, None), (5, None), (["a"], None)])
def test_application(value: object, application: str | None) -> None:
    """An application is a text or nothing."""
    assert read("status", 200, detail(application=value)).application == application


@pytest.mark.parametrize("field", ["created_at", "updated_at"])
@pytest.mark.parametrize(
    ("value", "date"),
    [
        ("2020-05-31T10:00:00.000Z", datetime(2020, 5, 31, 10, tzinfo=UTC)),
        ("2020-06-4T10:00:00.000Z", datetime(2020, 6, 4, 10, tzinfo=UTC)),
        ("2020-6-04T10:00:00.000Z", datetime(2020, 6, 4, 10, tzinfo=UTC)),
        ("2020-6-4T10:00:00.125Z", datetime(2020, 6, 4, 10, microsecond=125_000, tzinfo=UTC)),
        ("2020-12-31T23:59:59Z", datetime(2020, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2020-05-31T17:00:00+07:00", datetime(2020, 5, 31, 17, tzinfo=timezone(timedelta(hours=7)))),
        ("2020-05-31T10:00:00", datetime(2020, 5, 31, 10, tzinfo=UTC)),
        ("2020-05-31 10:00:00", datetime(2020, 5, 31, 10, tzinfo=UTC)),
        ("2020-6-4", datetime(2020, 6, 4, tzinfo=UTC)),
        *dict.fromkeys(
            ["", " ", "yesterday", "2020", "2020-06", "2020-06-31T10:00:00Z", "2020-13-01T10:00:00Z"]
        ).items(),
        *dict.fromkeys(
            ["0000-01-01", "2020-6-4T25:00:00Z", "2020-6-4T10:00:00.000Z!", "2020-006-4", "20200604"]
        ).items(),
        *dict.fromkeys(["２０２０-06-04", "2020-06-04\ud83d", "31/05/2020", "null", 1590919200, True, None]).items(),
        ([], None),
        ({"date": "2020-06-04"}, None),
    ],
)
def test_date(field: str, value: object, date: datetime | None) -> None:
    """A date is aware, UTC where it names no zone, with or without the zeros of day and month; None if unreadable."""
    read_date = getattr(read("status", 200, detail(**{field: value})), field)
    assert read_date == date
    assert read_date is None or read_date.utcoffset() == (date.utcoffset() if date else None)


# Refusals


def fallback(what: str, status: int) -> type[OcaSmsError]:
    """Return the class of a refusal whose code says nothing."""
    kinds = {401: AccountError, 403: AccountError, 404: ApiError if what == "send" else NotFoundError}
    return {**kinds, 429: RateLimitedError}.get(status, ApiError)


@each_request
@pytest.mark.parametrize("code", LISTED)
def test_listed_code_decides(what: str, code: int) -> None:
    """A listed code, integer or string, makes the class under any HTTP status; the status says whether it was sent."""
    for status, doubt in DOUBT.items():
        for form in (code, str(code), f" {code} "):
            error = refusal_of(what, status, errors(form, "Words"))
            assert (status, form, type(error)) == (status, form, LISTED[code])
            assert (error.status_code, error.code, error.text, error.fields) == (status, code, "Words", ())
            assert (status, error.may_have_been_sent) == (status, doubt)


@each_request
@pytest.mark.parametrize("code", [13, "13"])
def test_code_13(what: str, code: object) -> None:
    """Code 13 is the internal error with HTTP 500 alone; else the status decides, though the code is a listed one."""
    for status, doubt in DOUBT.items():
        error = refusal_of(what, status, errors(code))
        if status == 500:
            assert type(error) is InternalError
        elif status in {401, 403}:
            assert type(error) is ApiError
        else:
            assert (status, type(error)) == (status, fallback(what, status))
        assert (status, error.code, error.may_have_been_sent) == (status, 13, doubt)


@each_request
@pytest.mark.parametrize("code", [None, 0, 1, 5, 33, "43", "45", 59, 130, 1000, 482913, "482913", "13a", "²", "", -13])
def test_unlisted_code_falls_back_to_the_status(what: str, code: object) -> None:
    """Without a listed code the HTTP status makes the class; a 2xx or 3xx with errors in it is unexpected."""
    for status, doubt in DOUBT.items():
        error = error_of(what, status, errors(code))
        kind = UnexpectedResponseError if status < 400 else fallback(what, status)
        assert (status, type(error), error.may_have_been_sent) == (status, kind, doubt)


@each_request
@pytest.mark.parametrize("body", [b"", b"{}", b'{"errors": []}', b'{"errors": null}', b"[]", b"<html>", None])
def test_status_that_says_nothing_else(what: str, body: bytes | None) -> None:
    """A status other than 2xx is a refusal without any errors in it too, redirects among them, and has no code."""
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
    """A code is an integer or a string of up to nine digits, and nothing else is guessed at."""
    assert refusal_of("send", 406, errors(code)).code is None
    assert refusal_of("send", 406, errors("1" * 9)).code == 111_111_111


@pytest.mark.parametrize("body", [{"status": "sent", "msg_uid": UID}, RECORD, detail()])
@pytest.mark.parametrize("code", [55, 56])
def test_success_with_errors_is_no_success(body: dict[str, Any], code: int) -> None:
    """A 2xx that carries errors is no success, whatever else it carries, and leaves the message in doubt."""
    for what in ("send", "status"):
        error = error_of(what, 200, {**body, **errors(code)})
        assert type(error) is (QuotaExhaustedError if code == 55 else UnexpectedResponseError)
        assert error.may_have_been_sent
        assert code == 55 or str(error) == "the gateway answered HTTP 200 with errors in it"


@pytest.mark.parametrize("wrong", ["Refused", 17, True, {"a": 1}, ["Refused"], [None], [{}], [[{"code": 17}]]])
def test_errors_of_another_shape(wrong: object) -> None:
    """Errors that are not as documented still make no success of a 2xx, and no other class of a refusal."""
    assert type(error_of("send", 200, {"status": "sent", "msg_uid": UID, "errors": wrong})) is UnexpectedResponseError
    assert type(refusal_of("send", 406, {"errors": wrong})) is ApiError


def test_single_error_outside_a_list() -> None:
    """An error that is not wrapped in its list is read all the same."""
    error = refusal_of("send", 401, {"errors": {"message": "Account Expired", "code": "51"}})
    assert type(error) is AccountExpiredError
    assert error.text == "Account Expired"


@pytest.mark.parametrize("listed", [0, 1, 2])
def test_listed_code_among_several_errors(listed: int) -> None:
    """Of several errors the first with a listed code counts, with its own words; without any, the first."""
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
    """The message of code 39 is a text or a list of fields; what a field lacks is empty, never «None»."""
    error = refusal_of("send", 406, errors("39", message))
    assert (type(error), error.text, error.fields) == (InvalidRequestError, text, fields)


def test_the_value_of_a_field_without_words_stays_out_of_the_text() -> None:
    """Where a field says nothing but its value, the recipient's number, there is nothing to be kept."""
    error = refusal_of("send", 406, errors("39", [{"value": "081-234-567-890", "param": "phone_number"}]))
    assert (error.text, error.fields) == ("", (FieldError("phone_number", "", ""),))


def test_no_cut_leaves_a_part_of_a_long_run_of_digits() -> None:
    """Digits are starred before the text is cut, or the last three of a number would stand at its end."""
    error = refusal_of("send", 406, errors(39, "1" * 1500 + " " + "x" * 496 + "123456789"))
    assert not any(char.isdigit() for char in error.text)


@pytest.mark.parametrize("code", [9, 13, 17, 39, 55, None])
def test_every_429_says_how_long_to_wait(code: object) -> None:
    """Whatever its code, a 429 pauses the limiter, and for as long as it asks."""
    assert refusal_of("send", 429, errors(code), {"Retry-After": "7"}).retry_after == 7


@pytest.mark.parametrize("code", [13, 17, 39, 55, None])
def test_nothing_else_says_how_long_to_wait(code: object) -> None:
    """A refusal that is not by the rate limit has no wait, whatever its headers hold."""
    for status in (406, 500):
        assert refusal_of("send", status, errors(code), {"Retry-After": "7"}).retry_after is None


def test_code_13_in_any_form() -> None:
    """13, "13" and 13.0 are the code that is tried again."""
    assert {type(refusal_of("send", 500, errors(code))) for code in (13, "13", 13.0)} == {InternalError}


def test_a_word_beside_a_null_is_taken() -> None:
    """The word of a receipt is where there is one."""
    receipt = API.send("+6281381475159", "x").parse(200, {}, b'{"status": null, "success": "sent", "msg_uid": "a"}')
    assert receipt == SendReceipt("a", "sent")


@pytest.mark.parametrize("message", [None, "", 5, True, [], [None]])
def test_text_falls_back_to_the_body(message: object) -> None:
    """Where the error has no words, the answer itself is kept to be read, its long digits starred."""
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
    """Runs of four or more digits are starred in the words of the gateway, before these are cut to a thousand."""
    assert refusal_of("send", 406, errors(39, text)).text == kept
    assert refusal_of("send", 406, text.encode()).text == kept
    field = {"param": text, "msg": text, "location": text}
    assert refusal_of("send", 406, errors(39, [field])).fields == (FieldError(kept, kept, kept),)


def test_refused_value_stays_behind() -> None:
    """A refused field's value is the recipient's number, and nothing of the error holds it."""
    field = {"value": f"{MARKER} 089", "msg": "Bad", "param": "phone_number", "location": "body"}
    error = refusal_of("send", 406, errors("39", [field]))
    assert MARKER not in repr([error.text, *map(attrs.astuple, error.fields), vars(error)])


# How long to wait


@pytest.fixture
def jakarta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine seven hours east of Greenwich, at a moment that stands still."""
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
    """The wait is Retry-After, else X-RateLimit-Reset in any of three units, from 0 to 60; None if unreadable."""
    for given_headers in (headers, httpx.Headers(headers)):
        error = refusal_of("send", 429, errors(9), given_headers)
        assert isinstance(error, RateLimitedError)
        assert error.retry_after == retry_after


@pytest.mark.parametrize(("status", "code"), [(429, 9), (429, 60), (429, None), (406, 9), (200, 9), (503, "9")])
def test_every_rate_limit_has_its_wait(status: int, code: object) -> None:
    """HTTP 429 and code 9 each read the headers."""
    error = refusal_of("send", status, errors(code), {"Retry-After": "7"})
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == 7.0


# Whatever comes


FIELDS = ["status", "success", "msg_uid", "data", "errors", "code", "message", "msg", "param", "location", "value"]
FIELDS += list(RECORD)
digits = st.text("0123456789٣７ +-a", max_size=30)
codes = st.sampled_from([9, 13, "13", 17, 19, 39, "39", 41, 51, 55, 5, 43, None, 482913, "482913"]) | st.integers()
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | digits | codes
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | digits, inner, max_size=5),
    max_leaves=15,
)


def shaped(texts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Answers that come close to what is documented, with these texts in every place."""
    field = st.fixed_dictionaries({}, optional=dict.fromkeys(["value", "msg", "param", "location"], texts))
    entry = st.fixed_dictionaries({}, optional={"code": codes | texts, "message": texts | st.lists(field, max_size=2)})
    refusal = st.fixed_dictionaries({"errors": st.lists(entry, max_size=3) | entry | texts})
    names = ["phone_number", "message_body", "created_at", "updated_at", "application", "total_sms", "surplus"]
    word = texts | st.sampled_from(["sent", True, None])
    record = st.fixed_dictionaries({"msg_uid": texts, "status": word}, optional=dict.fromkeys(names, texts))
    receipt = st.fixed_dictionaries({}, optional={"msg_uid": texts, "status": word, "success": word})
    wrapped = st.fixed_dictionaries({"status": word, "data": record | texts})
    return refusal | receipt | record | wrapped | st.lists(record, max_size=3)


def written(document: Any) -> bytes:
    """Write a document as JSON, NaN and the infinities included."""
    return json.dumps(document).encode()


statuses = st.sampled_from([200, 400, 401, 404, 406, 429, 500]) | st.integers(100, 599)
bodies = shaped(documents | digits).map(written) | documents.map(written)
bodies |= st.binary(max_size=60) | digits.map(str.encode) | bodies.map(lambda body: body[:-2])
waits = digits | st.floats().map(str) | st.text(max_size=20) | st.datetimes().map(format_datetime)
answer_headers = st.fixed_dictionaries(
    {}, optional={"Retry-After": waits, "X-RateLimit-Reset": waits, "X-Other": digits}
)


@settings(unhurried, max_examples=500)
@given(st.sampled_from(list(REQUESTS)), statuses, answer_headers, st.none() | bodies)
def test_any_answer_is_a_model_or_an_error(what: str, status: int, headers: dict[str, str], body: bytes | None) -> None:
    """Whatever the gateway answers becomes a sound model out of a 2xx, or one of the library's errors."""
    result = result_of(what, status, body, headers)
    if isinstance(result, OcaSmsError):
        assert result.may_have_been_sent is (not 400 <= status < 500 or status in {408, 499})
        assert isinstance(result, ApiError) or (status < 400 and type(result) is UnexpectedResponseError)
        wait = getattr(result, "retry_after", None)
        assert wait is None or 0 <= wait <= 60
        return
    assert 200 <= status < 300
    assert isinstance(result, list) is (what == "history")
    for model in result if isinstance(result, list) else [result]:
        assert isinstance(model, SendReceipt if what == "send" else SmsRecord)
        assert isinstance(model.status, str)
        assert model.msg_uid.strip()
        if isinstance(model, SmsRecord):
            assert isinstance(model.phone_number, str)
            assert isinstance(model.message_body, str)
            assert isinstance(model.application, str | None)
            assert type(model.total_sms) in {int, type(None)}
            assert all(date is None or date.tzinfo for date in (model.created_at, model.updated_at))


@settings(unhurried, max_examples=500)
@given(st.sampled_from(list(REQUESTS)), statuses, bodies)
def test_long_digits_show_nowhere(what: str, status: int, body: bytes) -> None:
    """No text of an error, the gateway's or ours, holds four digits in a row: a number or a one-time password."""
    error = result_of(what, status, body)
    assume(isinstance(error, OcaSmsError))
    texts = [str(error), repr(error), repr(error.args)]
    if isinstance(error, ApiError):
        texts += [error.text, *(text for field in error.fields for text in attrs.astuple(field))]
    assert not [text for text in texts if re.search(r"\d{4}", text)]


marks = st.sampled_from([MARKER, f"{MARKER} 482913", f"b'{MARKER}'"])
marked = st.recursive(
    marks | scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(marks, inner), max_leaves=6
)
marked_bodies = shaped(marks | marked).map(written) | marked.map(written) | marks.map(str.encode)
marked_bodies |= marked_bodies.map(lambda body: body[:-2])


@settings(unhurried, max_examples=500)
@given(st.sampled_from(list(REQUESTS)), statuses, marks, marked_bodies)
def test_errors_speak_in_our_own_words(what: str, status: int, wait: str, body: bytes) -> None:
    """Nothing that the gateway wrote shows in an error's str, repr or args, or anywhere in what it was caused by."""
    error = result_of(what, status, body, {"Retry-After": wait, "X-RateLimit-Reset": wait})
    assume(isinstance(error, OcaSmsError))
    assert MARKER not in f"{error} {error!r} {error.args}"
    for cause in [*chain(error)][1:]:
        assert MARKER not in f"{cause} {cause!r} {cause.args} {vars(cause)}"
        assert cause.__traceback__ is None


@pytest.mark.parametrize("code", [1000, -1000, 482913, "482913", 10**30])
def test_long_code_is_not_shown(code: object) -> None:
    """A code of four digits or more could be a number or a one-time password, and is not shown."""
    error = refusal_of("send", 406, errors(code))
    assert str(error) == "the gateway refused the request (HTTP 406)"
    assert str(code) not in f"{error!r} {error.args}"


# When the converter is made


READS_ANSWERS = """
import itertools, sys
from oca_sms_async import OcaSmsError, RegularV1

assert "cattrs" not in sys.modules
api = RegularV1("user", "secret")
before = set(sys.modules)
receipt = b'\\xef\\xbb\\xbf{"msg_uid": "a", "status": "s"}'
record = receipt[3:-1] + b', "phone_number": "1", "message_body": "b", "created_at": "2020-06-4T10:00:00Z"}'
bodies = [receipt, record, b"[" + record + b"]", b'{"errors": [{"code": 9}]}', b"\\xff", None]
headers = [{}, {"Retry-After": "Wed, 15 Nov 2023 05:13:27 +0700"}, {"X-RateLimit-Reset": "1"}]
read = 0
for request in (api.send("+6281381475159", "text"), api.history(), api.status("a")):
    for answer in itertools.product((200, 404, 429, 500), headers, bodies):
        try:
            request.parse(*answer)
        except OcaSmsError:
            continue
        read += 1
print(read, *(set(sys.modules) - before))
"""


def test_no_answer_imports_anything() -> None:
    """All modules are there before the first byte: an import fails where no file descriptor is left."""
    run = subprocess.run([sys.executable, "-c", READS_ANSWERS], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["12"]  # a receipt twice, a record, and a history, each with three headers


def test_the_converter_is_made_with_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a request nor an answer makes a converter, and a second value of an API shares the first one's."""
    made = list[Converter]()

    def make(shapes: tuple[Shape, ...]) -> Converter:
        made.append(make_converter(shapes))
        return made[-1]

    monkeypatch.setattr(_dialect, "make_converter", make)
    api = RegularV1("user", "secret")
    assert len(made) == 1
    api.send(PHONE, TEXT).parse(200, {}, b'{"msg_uid": "a"}')
    RegularV1("other", "secret")
    assert len(made) == 1

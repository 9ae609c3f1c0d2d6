"""The wire: the shapes that the vendor documents, the contradictions in them, and any other answer."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import attrs
import httpx
import pytest
from answers import (
    APIS,
    EACH_REQUEST,
    PHONE,
    RECORD,
    REGULAR_V1,
    REQUESTS,
    TEXT,
    TOKEN,
    UID,
    detail,
    error_of,
    errors,
    read,
    refusal_of,
    result_of,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oca_sms_async import (
    ApiError,
    OcaSmsError,
    PremiumV1,
    RateLimitedError,
    RegularV1,
    RegularV2,
    SendReceipt,
    SmsRecord,
    UnexpectedResponseError,
    UnsupportedError,
)
from oca_sms_async._scrub import chain
from oca_sms_async._wire import _dialect
from oca_sms_async._wire._converter import Converter, Shape, make_converter

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*/*.json"))
MARKER = "Quagga"  # stands for words that the gateway may echo, and must never show
unhurried = settings(deadline=None)  # a busy machine must not fail a test
each_request = pytest.mark.parametrize("what", EACH_REQUEST)


@pytest.fixture(autouse=True)
def fresh_converter() -> None:
    """Drop the converters of other tests, so that each test makes its own."""
    _dialect._converter_of.cache_clear()


# The documentation


@attrs.frozen(kw_only=True)
class Sample:
    """A recorded exchange: its point, the request, the answer as JSON or raw text, and the expected outcome."""

    about: str
    request: str
    status: int
    headers: dict[str, str]
    expect: dict[str, Any]
    body: Any = None
    raw: str | None = None


def outcome(api: str, sample: Sample) -> dict[str, Any]:
    """Return the model or the error of an answer, with all its fields, in JSON's types."""
    body = sample.body if sample.raw is None else sample.raw.encode()
    result = result_of(f"{api} {sample.request}", sample.status, body, sample.headers)
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
    """The recorded exchanges are found, one folder an API, and cover all requests of each."""
    assert {f"{path.parent.name} {json.loads(path.read_text('utf-8'))['request']}" for path in SAMPLES} == {
        *EACH_REQUEST
    }


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_sample(path: Path) -> None:
    """A recorded exchange becomes exactly the model or the error that stands beside it."""
    sample = Sample(**json.loads(path.read_text("utf-8")))
    assert outcome(path.parent.name, sample) == sample.expect


HOSTS = {
    "regular-v1": "https://sms.ocatelkom.co.id/api/v1",
    "regular-v2": "https://webapigw.ocatelkom.co.id/sms/v2",
    "premium-v1": "https://mainapi.ocatelkom.co.id/sms/api/v1",
    "premium-v2": "https://webapigw.ocatelkom.co.id/sms/v2",
}
REGULAR_BODY = {"phone": PHONE, "message": TEXT}
PREMIUM_BODY = {"sender_id": "Acme", "receipent_number": PHONE, "message_body": TEXT}
DOCUMENTED = {
    "regular-v1 send": ("POST", "/sms", REGULAR_BODY, 2**20),
    "regular-v1 history": ("GET", "/sms", None, 64 * 2**20),
    "regular-v1 status": ("GET", f"/sms/status/{UID}", None, 2**20),
    "regular-v2 send": ("POST", "/sms", REGULAR_BODY, 2**20),
    "regular-v2 history": ("GET", "/sms/history", None, 64 * 2**20),
    "regular-v2 status": ("GET", f"/sms/status/{UID}", None, 2**20),
    "premium-v1 send": ("POST", "/send-otp", PREMIUM_BODY, 2**20),
    "premium-v1 status": ("GET", f"/otpstatus/{UID}", None, 2**20),
    "premium-v2 send": ("POST", "/send-otp", {**PREMIUM_BODY, "recipient_number": PHONE}, 2**20),
    "premium-v2 status": ("GET", f"/otp-status/{UID}", None, 2**20),
}


@each_request
def test_request(what: str) -> None:
    """A request has the documented method, path and JSON, and bounds the size of its answer."""
    request = REQUESTS[what]
    body = None if request.body is None else json.loads(request.body)
    assert (request.method, request.path, body, request.max_body) == DOCUMENTED[what]


@pytest.mark.parametrize("name", APIS)
def test_any_text_is_sent_as_it_is(name: str) -> None:
    """The body is JSON for any text, in ASCII."""
    written = APIS[name].send(PHONE, "é 😀\n").body or b""
    body = json.loads(written.decode("ascii"))
    assert body[{"regular": "message", "premium": "message_body"}[name.partition("-")[0]]] == "é 😀\n"


@pytest.mark.parametrize("name", APIS)
def test_base_url_is_the_published_one(name: str) -> None:
    """The gateway of each API is at the address that the vendor publishes."""
    assert APIS[name].base_url == HOSTS[name]


@pytest.mark.parametrize("name", APIS)
def test_history_is_regulars_alone(name: str) -> None:
    """Premium has no history, and says that Regular has one. Nothing was sent."""
    assert APIS[name].has_history is name.startswith("regular")
    if not APIS[name].has_history:
        with pytest.raises(UnsupportedError, match=r"^SMS Premium V\d has no history; SMS Regular has one$") as caught:
            APIS[name].history()
        assert not caught.value.may_have_been_sent


@pytest.mark.parametrize(
    ("username", "password", "value"),
    [
        ("test@gmail.com", "test123", "Basic dGVzdEBnbWFpbC5jb206dGVzdDEyMw=="),  # the vendor's own check value
        ("a", "b:c", "Basic YTpiOmM="),
        ("é", "😀", "Basic w6k68J+YgA=="),
    ],
)
def test_authorization(username: str, password: str, value: str) -> None:
    """The credentials of V1 go out as HTTP Basic in UTF-8, and a token as a bearer's."""
    assert RegularV1(username, password).headers() == {"Authorization": value}
    assert PremiumV1(username, password, sender_id="Acme").headers() == {"Authorization": value}
    assert RegularV2(TOKEN).headers() == APIS["premium-v2"].headers() == {"Authorization": f"Bearer {TOKEN}"}


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
    """An id is one segment of the path, with any characters in it, and httpx leaves it as it is."""
    path = REGULAR_V1.status(msg_uid).path
    assert path == f"/sms/status/{segment}"
    assert httpx.Request("GET", REGULAR_V1.base_url + path).url.raw_path == f"/api/v1/sms/status/{segment}".encode()


@unhurried
@given(
    st.sampled_from([*APIS]), st.text(st.characters(exclude_categories=()), min_size=1, max_size=50).filter(str.strip)
)
def test_any_msg_uid_comes_back_from_its_path(name: str, msg_uid: str) -> None:
    """Any id is the last segment of the URL that goes out, and unquoting it gives the id again."""
    api = APIS[name]
    sent = httpx.Request("GET", api.base_url + api.status(msg_uid).path).url.raw_path.decode("ascii")
    before, _, segment = sent.rpartition("/")
    assert (api.base_url + DOCUMENTED[f"{name} status"][1]).endswith(f"{before}/{UID}")
    assert unquote(segment, errors="surrogatepass") == msg_uid
    assert segment not in {".", ".."}
    assert not set(segment) & set("?#")


@pytest.mark.parametrize("msg_uid", ["", "  ", "\n", None, 482913, ["482913"], b"482913", "482913" * 200])
def test_value_that_cannot_be_an_id_is_refused(msg_uid: Any) -> None:
    """An id that is no text, blank or too long is refused before any request, and not shown."""
    for api in APIS.values():
        with pytest.raises(ValueError, match=r"^msg_uid must be") as caught:
            api.status(msg_uid)
        assert "482913" not in str(caught.value)


def test_longest_msg_uid() -> None:
    """An id may have a thousand characters."""
    assert REGULAR_V1.status("é" * 1000).path.endswith("%C3%A9" * 1000)
    with pytest.raises(ValueError, match=r"^msg_uid must be"):
        REGULAR_V1.status("é" * 1001)


# Successes


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ({"status": "sent"}, "sent"),
        ({"success": "sent"}, "sent"),
        ({"status": "submited", "success": "sent"}, "submited"),
        ({"status": None, "success": "sent"}, "sent"),
        ({"status": "menunggu"}, "menunggu"),
        ({"status": "NONE"}, "NONE"),
        ({"status": ""}, ""),
        ({"status": None}, ""),
        ({"success": None}, ""),
        ({"status": True}, ""),
        ({"success": True}, ""),
        ({}, ""),
        ({"status": "sent", "msg_id": 1, "data": {"msg_uid": "other"}, "attempts": 7}, "sent"),
        ({"status": "sent", "": {"msg_uid": "other"}}, "sent"),
        ({"status": "sent", "errors": []}, "sent"),
        ({"status": "sent", "errors": None}, "sent"),
    ],
)
def test_receipt(word: dict[str, Any], status: str) -> None:
    """A receipt needs its id. The word is taken as it is, from either field. Without one it is empty."""
    assert read("send", 200, {"msg_uid": UID, **word}) == SendReceipt(UID, status, 1)


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_every_2xx_is_a_success(status: int) -> None:
    """Any 2xx with a receipt in it is a success, although the documentation lists 200 alone."""
    assert read("send", status, {"status": "sent", "msg_uid": UID}) == SendReceipt(UID, "sent")


@pytest.mark.parametrize("msg_uid", [None, "", "  ", "\n", 5, 5.0, True, [UID], {"id": UID}])
def test_receipt_without_a_usable_id(msg_uid: object) -> None:
    """A success without an id that could be looked up is unexpected, and the message may have been sent."""
    error = error_of("send", 200, {"status": "sent", "msg_uid": msg_uid})
    assert type(error) is UnexpectedResponseError
    assert error.may_have_been_sent
    assert str(error.__cause__) == ("msg_uid is blank" if isinstance(msg_uid, str) else "not a text")


@pytest.mark.parametrize("word", [False, 1, ["sent"], {"word": "sent"}])
def test_receipt_with_a_word_that_is_no_text(word: object) -> None:
    """A receipt with another value for its word is unexpected. The value false may even mean a failure."""
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
    """A 2xx that is no JSON, empty, too long or of another shape is unexpected and in doubt. Its cause says why."""
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
        ("history", [{}]),
        ("status", [RECORD]),
        ("status", {"status": True, "data": [RECORD]}),
        ("status", {"status": True, "data": {}}),
    ],
)
def test_one_requests_answer_is_not_anothers(what: str, body: object) -> None:
    """A receipt, a history and a detail are not taken for each other."""
    assert type(error_of(what, 200, body)) is UnexpectedResponseError


@pytest.mark.parametrize("body", [{}, RECORD, "sent", 5, None])
def test_history_that_is_no_array(body: object) -> None:
    """A history is an array. For another value, the cause of the error says so."""
    assert str(error_of("history", 200, json.dumps(body).encode()).__cause__) == "not an array"


def test_an_answer_that_is_too_long_says_how_to_go_on() -> None:
    """A history that cannot be held names the way to single messages; a lost receipt has no such way."""
    assert "ask for single messages by status(msg_uid)" in str(error_of("history", 200, None))
    assert "status(msg_uid)" not in str(error_of("send", 200, None))


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
    """A record needs each of its texts, and null or a number never becomes one; a history skips the broken row."""
    record = {name: part for name, part in {**RECORD, field: value}.items() if value != "missing" or name != field}
    for what, body in (("status", {"status": True, "data": record}), ("status", record), ("history", [record])):
        assert type(error_of(what, 200, body)) is UnexpectedResponseError
    assert [it.msg_uid for it in read("history", 200, [record, RECORD, record])] == [UID]


def test_broken_rows_of_a_history_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """One event of the log has the number of skipped rows; a history without any has none."""
    caplog.set_level("INFO", "oca_sms_async")
    assert len(read("history", 200, [RECORD, {}, None, RECORD, 5])) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "history.broken broken=3 rows=5: the other rows are used"
    ]
    caplog.clear()
    assert (read("history", 200, []), len(read("history", 200, [RECORD])), caplog.records) == ([], 1, [])


@pytest.mark.parametrize("msg_uid", ["", "  "])
def test_record_without_a_usable_id(msg_uid: str) -> None:
    """The id of a record must not be blank."""
    assert type(error_of("status", 200, detail(msg_uid=msg_uid))) is UnexpectedResponseError


@pytest.mark.parametrize("data", [None, True, "Acme", [RECORD]])
def test_flat_record_with_data_beside_it(data: object) -> None:
    """A field `data` that is no record does not hide the flat one."""
    assert read("status", 200, {**RECORD, "data": data}) == read("status", 200, RECORD)


def test_record_without_optional_fields() -> None:
    """A record may lack dates, count and application. They are None then, and never the text «None»."""
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
    """A count is a number, or a number as a text. Any other value is None."""
    assert read("status", 200, detail(total_sms=value)).total_sms == count


@pytest.mark.parametrize(("value", "application"), [("Acme", "Acme"), ("", ""), (None, None), (5, None), (["a"], None)])
def test_application(value: object, application: str | None) -> None:
    """An application is a text or None."""
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
    """A date is aware, and UTC without a zone. Day and month may lack their zeros. An unreadable date is None."""
    read_date = getattr(read("status", 200, detail(**{field: value})), field)
    assert read_date == date
    assert read_date is None or read_date.utcoffset() == (date.utcoffset() if date else None)


# V2's and Premium's own fields


@pytest.mark.parametrize("name", ["regular-v2", "premium-v1", "premium-v2"])
def test_sender_and_numbers_go_out_by_their_own_names(name: str) -> None:
    """No API's request has a field of another one's."""
    regular, premium = {"phone", "message"}, {"sender_id", "receipent_number", "recipient_number", "message_body"}
    body = json.loads(REQUESTS[f"{name} send"].body or b"")
    assert body.keys() <= (premium if name.startswith("premium") else regular)


def test_first_name_with_a_value_counts() -> None:
    """Of two names for one field, null counts as missing, and the first of two values is read."""
    record = {**RECORD, "msgid": "first", "msg_uid": "second"}
    assert read("regular-v2 status", 200, record).msg_uid == "first"
    assert read("regular-v2 status", 200, {**record, "msgid": None}).msg_uid == "second"


@pytest.mark.parametrize("name", ["premium-v1", "premium-v2"])
@pytest.mark.parametrize("text", [5, True, ["a"], {"a": "b"}])
def test_premium_text_is_a_text_or_missing(name: str, text: object) -> None:
    """A Premium record may lack its text. Another value in its place is unexpected."""
    record = {"msg_id": UID, "receipent_number": PHONE, "status": "send", "message_body": text}
    assert type(error_of(f"{name} status", 200, record)) is UnexpectedResponseError
    assert read(f"{name} status", 200, {**record, "message_body": None}).message_body == ""


@pytest.mark.parametrize("word", [False, 1, ["sent"]])
def test_premium_success_that_is_none(word: object) -> None:
    """A Premium V2 receipt without a plain success is unexpected, and in doubt."""
    error = error_of("premium-v2 send", 200, {"success": word, "msg_id": UID})
    assert type(error) is UnexpectedResponseError
    assert error.may_have_been_sent


# Any answer


FIELDS = ["status", "success", "msg_uid", "data", "errors", "code", "message", "msg", "param", "location", "value"]
FIELDS += [*RECORD, "msg_id", "msgid", "receipent_number", "recipient_number", "sender_id"]
digits = st.text("0123456789٣７ +-a", max_size=30)
codes = (
    st.sampled_from([9, 13, "13", 17, 19, 33, 39, "39", 41, 51, 55, 5, 43, 45, 59, None, 482913, "482913"])
    | st.integers()
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | digits | codes
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | digits, inner, max_size=5),
    max_leaves=15,
)


def shaped(texts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return answers that are close to the documented ones, with these texts in every place."""
    field = st.fixed_dictionaries({}, optional=dict.fromkeys(["value", "msg", "param", "location"], texts))
    entry = st.fixed_dictionaries({}, optional={"code": codes | texts, "message": texts | st.lists(field, max_size=2)})
    refusal = st.fixed_dictionaries({"errors": st.lists(entry, max_size=3) | entry | texts})
    names = ["phone_number", "message_body", "created_at", "updated_at", "application", "total_sms", "surplus"]
    names += ["receipent_number", "recipient_number", "sender_id"]
    ids = {"msg_uid": texts, "msg_id": texts, "msgid": texts}
    word = texts | st.sampled_from(["sent", True, None])
    record = st.fixed_dictionaries({"status": word}, optional=ids | dict.fromkeys(names, texts))
    receipt = st.fixed_dictionaries({}, optional=ids | {"status": word, "success": word})
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
@given(st.sampled_from(EACH_REQUEST), statuses, answer_headers, st.none() | bodies)
def test_any_answer_is_a_model_or_an_error(what: str, status: int, headers: dict[str, str], body: bytes | None) -> None:
    """Any answer of any API becomes a sound model out of a 2xx, or one of the library's errors."""
    result = result_of(what, status, body, headers)
    if isinstance(result, OcaSmsError):
        assert result.may_have_been_sent is (not 400 <= status < 500 or status in {408, 499})
        assert isinstance(result, ApiError) or (status < 400 and type(result) is UnexpectedResponseError)
        wait = getattr(result, "retry_after", None)
        assert wait is None or 0 <= wait <= 60
        return
    assert 200 <= status < 300
    assert isinstance(result, list) is what.endswith("history")
    for model in result if isinstance(result, list) else [result]:
        assert isinstance(model, SendReceipt if what.endswith("send") else SmsRecord)
        assert isinstance(model.status, str)
        assert model.msg_uid.strip()
        if isinstance(model, SmsRecord):
            assert isinstance(model.phone_number, str)
            assert isinstance(model.message_body, str)
            assert isinstance(model.application, str | None)
            assert type(model.total_sms) in {int, type(None)}
            assert all(date is None or date.tzinfo for date in (model.created_at, model.updated_at))


@settings(unhurried, max_examples=500)
@given(st.sampled_from(EACH_REQUEST), statuses, bodies)
def test_long_digits_show_nowhere(what: str, status: int, body: bytes) -> None:
    """No text of an error holds four digits in a row: they could be a number or a one-time password."""
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
@given(st.sampled_from(EACH_REQUEST), statuses, marks, marked_bodies)
def test_errors_speak_in_our_own_words(what: str, status: int, wait: str, body: bytes) -> None:
    """The gateway's words show neither in an error's str, repr or args, nor anywhere in its causes."""
    error = result_of(what, status, body, {"Retry-After": wait, "X-RateLimit-Reset": wait})
    assume(isinstance(error, OcaSmsError))
    assert MARKER not in f"{error} {error!r} {error.args}"
    for cause in [*chain(error)][1:]:
        assert MARKER not in f"{cause} {cause!r} {cause.args} {vars(cause)}"
        assert cause.__traceback__ is None


@pytest.mark.parametrize("code", [1000, -1000, 482913, "482913", 10**30])
def test_long_code_is_not_shown(code: object) -> None:
    """A code of four digits or more is not shown: it could be a number or a one-time password."""
    error = refusal_of("send", 406, errors(code))
    assert str(error) == "the gateway refused the request (HTTP 406)"
    assert str(code) not in f"{error!r} {error.args}"


# The converter


READS_ANSWERS = """
import itertools, sys
from oca_sms_async import OcaSmsError, PremiumV1, PremiumV2, RegularV1, RegularV2

assert "cattrs" not in sys.modules
api = {made}
before = set(sys.modules)
receipt = b'\\xef\\xbb\\xbf{"msg_uid": "a", "msg_id": "a", "receipent_number": "1", "status": "s"}'
record = receipt[3:-1] + b', "phone_number": "1", "message_body": "b", "created_at": "2020-06-4T10:00:00Z"}'
bodies = [receipt, record, b"[" + record + b"]", b'{"errors": [{"code": 9}]}', b"\\xff", None]
headers = [{}, {"Retry-After": "Wed, 15 Nov 2023 05:13:27 +0700"}, {"X-RateLimit-Reset": "1"}]
read = 0
history = [api.history()] if api.has_history else []
for request in (api.send("+6281381475159", "text"), *history, api.status("a")):
    for answer in itertools.product((200, 404, 429, 500), headers, bodies):
        try:
            request.parse(*answer)
        except OcaSmsError:
            continue
        read += 1
print(read, *(set(sys.modules) - before))
"""


@pytest.mark.parametrize(
    ("made", "models"),
    [
        ('RegularV1("user", "secret")', 12),  # a receipt twice, a record, and a history, each with three headers
        ('RegularV2("token")', 12),
        ('PremiumV1("user", "secret", sender_id="Acme")', 12),  # a receipt and a record twice each
        ('PremiumV2("token", sender_id="Acme")', 12),
    ],
)
def test_no_answer_imports_a_module(made: str, models: int) -> None:
    """All modules are imported before the first byte. An import fails in a process without a file descriptor left."""
    script = READS_ANSWERS.replace("{made}", made)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(models)]


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

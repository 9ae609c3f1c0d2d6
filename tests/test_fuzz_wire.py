"""Hostile answers: any bytes on the connection, and megabytes of depth, digits or rows."""

import asyncio
import contextlib
import gzip
import json
import signal
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpcore
import httpx
import pytest
from answers import APIS, EACH_REQUEST, PHONE, REQUESTS, TEXT
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oca_sms_async import ApiError, AsyncOcaSms, OcaSmsError, RetryPolicy, SendReceipt, Unlimited

PATIENCE: Final = 30  # seconds, after which something hangs
MANY: Final = 2**20
# Shared, because loading certificates for each example would take most of the time.
TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
unhurried = settings(deadline=None)  # a busy machine must not fail a test


# --- any bytes on the connection -------------------------------------------------------------------------------------


class Replies(httpcore.AsyncNetworkBackend):
    """A network. Every connection answers with the same chunks, and then hangs up."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Connect at once."""
        return httpcore.AsyncMockStream([chunk for chunk in self._chunks if chunk])


async def sent(api: str, chunks: list[bytes]) -> SendReceipt | OcaSmsError:
    """Return the outcome of a send by an API that gets these chunks, through httpx's own protocol code."""
    transport = httpx.AsyncHTTPTransport(verify=TLS)
    transport._pool = httpcore.AsyncConnectionPool(network_backend=Replies(chunks))
    async with httpx.AsyncClient(transport=transport, verify=TLS) as lent:
        client = AsyncOcaSms(
            api=APIS[api],
            base_url="http://localhost/api/v1",
            limiter=Unlimited(),
            retry=RetryPolicy(max_attempts=1),
            http_client=lent,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                return await client.send(PHONE, TEXT)
        except OcaSmsError as error:
            return error


def answer(status: bytes, headers: list[bytes], body: bytes) -> bytes:
    """Write an answer with the right length."""
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


RECEIPT: Final = b'{"status": "sent", "msg_uid": "d3a925", "msg_id": "d3a925"}'  # of every API
statuses = st.sampled_from(
    [b"200 OK", b"204 No", b"101 S", b"304 N", b"406 No", b"408 T", b"499 C", b"500 E", b"999 X", b"099 X", b"20 X"]
)
headers = st.sampled_from(
    [
        *(b"content-encoding: " + word for word in (b"gzip", b"GZIP ", b"deflate", b"br", b"gzip, gzip", b"", b"\xff")),
        *(b"content-length: " + word for word in (b"3", b"-1", b"9" * 400, b"x")),
        *(b"retry-after: " + word for word in (b"1", b"\xff", b"9" * 5000, b"Wed, 32 Apr 99999 1:2:3 +99999999999")),
        b"transfer-encoding: chunked",
        b"connection: upgrade",
        b"location: //\xff",
        b"set-cookie: \xff=",
    ]
)
bodies = st.sampled_from([RECEIPT, gzip.compress(RECEIPT), gzip.compress(RECEIPT)[:-3], b'{"errors": [{"code": 9}]}'])
bodies |= st.binary(max_size=40)
whole = st.builds(answer, statuses, st.lists(headers, max_size=3), bodies)
pieces = st.sampled_from([b"HTTP/1.1 ", b"200 OK", b"\r\n", b"\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"\0", RECEIPT])
torn = st.lists(pieces | whole | headers | st.binary(max_size=4), max_size=5)


@settings(unhurried, max_examples=300)
@given(st.sampled_from(sorted(APIS)), whole.map(lambda one: [one]) | torn)
@example("regular-v2", [answer(b"200 OK", [], RECEIPT)])
@example("premium-v2", [answer(b"200 OK", [b"content-encoding: gzip"], gzip.compress(RECEIPT))])
def test_any_bytes_are_a_receipt_or_an_error_of_ours(api: str, chunks: list[bytes]) -> None:
    """Any bytes, broken HTTP and broken compression among them, make `send` return a receipt or raise our own error.

    Once the request was written, only a refusal with a 4xx says that it was not taken.
    """
    outcome = asyncio.run(sent(api, chunks))
    if isinstance(outcome, SendReceipt):
        assert (outcome.msg_uid, outcome.status) == ("d3a925", "sent")
        return
    refused = isinstance(outcome, ApiError) and 400 <= outcome.status_code < 500
    proof = refused and isinstance(outcome, ApiError) and outcome.status_code not in {408, 499}
    assert outcome.may_have_been_sent is not proof
    assert outcome.attempts == 1


@pytest.mark.parametrize("name", APIS)
def test_the_examples_reach_both_ends(name: str) -> None:
    """A whole answer is a receipt, packed or not. With its body cut short, it is a doubt."""
    packed = gzip.compress(RECEIPT)
    for headers_, body in (([], RECEIPT), ([b"content-encoding: gzip"], packed)):
        assert asyncio.run(sent(name, [answer(b"200 OK", headers_, body)])) == SendReceipt("d3a925", "sent")
        outcome = asyncio.run(sent(name, [answer(b"200 OK", headers_, body)[:-3]]))
        assert isinstance(outcome, OcaSmsError)
        assert outcome.may_have_been_sent


# --- a megabyte of one thing -----------------------------------------------------------------------------------------

RECORD: Final = '{"msg_uid": "a", "phone_number": "1", "message_body": "x", "status": "s", "created_at": "%s"}'


def filled(before: str, unit: str, after: str) -> bytes:
    """Return a document of a megabyte."""
    return (before + unit * (MANY // len(unit)) + after).encode()


HOSTILE: Final[dict[str, bytes]] = {
    "lists in lists": filled("", "[", ""),
    "objects in objects": filled("", '{"errors":', ""),
    "errors in lists, closed": b'{"errors": ' + b"[" * 900 + b"]" * 900 + b"}",
    "a number of a million digits": filled("", "1", ""),
    "a code of a million digits": filled('{"errors": [{"code": ', "1", "}]}"),
    "a code of just as many digits as Python takes": b'{"errors": [{"code": ' + b"1" * 4300 + b"}]}",
    "a code with a huge exponent": filled('{"errors": [{"code": 1e', "9", "}]}"),
    "a code with a long fraction": filled('{"errors": [{"code": 13.', "0", "}]}"),
    "a code as a long text": filled('{"errors": [{"code": "', "1", '"}]}'),
    "a text of digits": filled('{"errors": [{"code": 39, "message": "', "1", '"}]}'),
    "a text of short runs": filled('{"errors": [{"code": 39, "message": "', "123 ", '"}]}'),
    "a text in quoted bytes": filled('{"errors": [{"code": 39, "message": "', "b'", '"}]}'),
    "many errors": filled('{"errors": [', '{"code": "x"}, ', "null]}"),
    "many fields": filled('{"errors": [{"code": 39, "message": [', '{"msg": "1"}, ', "null]}]}"),
    "many times the same field": filled("{", '"errors": [], "status": 1, ', '"msg_uid": "a"}'),
    "many fields of no account": filled('{"msg_uid": "a"', ', "x": NaN', "}"),
    "white space": filled("", " ", ""),
    "white space for an id": filled('{"status": "sent", "msg_uid": "', " ", '"}'),
    "an open text of escapes": filled('"', "\\\\", ""),
    "halves of surrogate pairs": filled('{"status": "sent", "msg_uid": "', "\\ud83d", '"}'),
    "byte order marks": filled("", "\ufeff", ""),
    "bytes that are not UTF-8": b"\xff" * MANY,
    "zeros": bytes(MANY),
    "a long date": (RECORD % ("2020-1-1" + "1" * MANY)).encode(),
    "a date of colons": (RECORD % ("2020-01-01T" + ":" * MANY)).encode(),
    "many records, the last one none": filled("[", RECORD % "2020-1-1" + ", ", "{}]"),
}
PARSERS: Final[list[Callable[..., Any]]] = [REQUESTS[what].parse for what in EACH_REQUEST]


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Interrupt a block that hangs. It should end far sooner."""

    def give_up(*_: object) -> None:
        raise RuntimeError("this hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome_of(parse: Callable[..., Any], status: int, body: bytes) -> Any:
    """Return the model or the error that an answer is."""
    try:
        return parse(status, {"Retry-After": "9" * 10_000}, body)
    except OcaSmsError as error:
        return error


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("status", [200, 429])
def test_a_megabyte_of_one_thing_is_read_or_refused(body: bytes, status: int) -> None:
    """Depth, digits, repetition and length end in a model, or in an error of ours with few words."""
    for parse in PARSERS:
        with within(PATIENCE):
            result = outcome_of(parse, status, body)
        if isinstance(result, OcaSmsError):
            assert result.may_have_been_sent is (status != 429)
            assert len(f"{result} {result!r}") < 1000
            assert not isinstance(result, ApiError) or len(result.text) <= 1000
        else:
            assert status == 200
            assert result


# --- headers that ask to wait ----------------------------------------------------------------------------------------

DATE_LIKE: Final = (
    "Wed Wed, Sat, 3 03 32 Apr apr 2002 99999 0000 -1 12:34:56 12.34.56 12.34.56.78 24:61 1:2:3:4 +0800 -9999 GMT EST"
    " +99999999999 -0000 + - : . , () (x) T Z 1e5 1e999 nan -inf 1_0 ² ٣ 1-2-2020 1-Apr-2020"
)
words = st.sampled_from(DATE_LIKE.split())
asked = st.lists(words, max_size=7).map(" ".join) | st.lists(words, max_size=7).map("".join) | st.text(max_size=12)
asked |= st.sampled_from(["9" * 5000, "Wed, 3 Apr " + "9" * 5000, ":" * 5000, "(" * 5000])


@settings(unhurried, max_examples=500)
@given(asked, st.sampled_from(["Retry-After", "X-RateLimit-Reset"]))
def test_any_wait_is_some_seconds_or_none(value: str, name: str) -> None:
    """Any value of these headers, parts of dates among them, is a wait of 0 to 60 seconds or None."""
    with pytest.raises(OcaSmsError) as caught:
        REQUESTS["send"].parse(429, {name: value}, json.dumps({"errors": [{"code": 9}]}).encode())
    wait = getattr(caught.value, "retry_after")  # noqa: B009 - the root of the errors has none
    assert wait is None or 0 <= wait <= 60

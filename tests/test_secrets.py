"""Credentials, texts and whole numbers: one marker in each field, looked for everywhere they must not be."""

import asyncio
import json
import logging
import pickle
import traceback
from collections.abc import Iterator

import httpx
import pytest
from raw_gateway import Connection, RawGateway, http

from oca_sms_async import (
    AsyncOcaSms,
    BulkReport,
    Failed,
    FieldError,
    OcaSmsError,
    RetryPolicy,
    Sent,
    Skipped,
    Sms,
    SmsRecord,
    TokenBucket,
    Unlimited,
)
from oca_sms_async._errors import chain
from oca_sms_async._wire import authorization

USERNAME = "marker-username@example.com"
PASSWORD = "marker-password"
PHONE = "+6281381475159"
TEXT = "marker-text 482913"
BASIC = authorization(USERNAME, PASSWORD).removeprefix("Basic ")
MARKERS = ("marker", "482913", PHONE[1:], PHONE[3:], "81475159", BASIC)

ECHO = f"marker-echo {PHONE} {TEXT}"


def refusal(message: object, code: object, status: str) -> bytes:
    """Return a refusal in the documented shape, with a header that echoes."""
    return http({"errors": [{"message": message, "code": code}]}, status, f"x-echo: {ECHO}\r\n")


FIELDS = [{"value": PHONE, "msg": ECHO, "param": "marker-param", "location": "marker-location"}]
ANSWERS = {
    "receipt": http({"status": "sent", "msg_uid": "abc", "echo": ECHO}),
    "39": refusal(FIELDS, "39", "406 Not Acceptable"),
    "17": refusal(ECHO, 17, "401 Unauthorized"),
    "code": refusal(ECHO, 6281381475159, "400 Bad Request"),
    "13": refusal(ECHO, 13, "500 Oops"),
    "429": refusal(ECHO, 9, "429 Too Many Requests"),
    "not json": http(ECHO.encode()),
    "html": http(f"<html>{ECHO}".encode(), "502 Bad Gateway"),
    "no receipt": http({"echo": ECHO}),
    "success with errors": http({"errors": [{"message": ECHO, "code": ECHO}]}),
    "redirect": http(b"", "302 Found", f"location: http://localhost:1/{BASIC}\r\n"),
    "status line": f"HTTP/1.1 {ECHO}\r\n\r\n".encode(),
    "illegal status line": f"{ECHO}\r\n\r\n".encode(),
    "illegal header": f"HTTP/1.1 200 OK\r\n{ECHO}\x00: x\r\n\r\n".encode(),
    "illegal chunk": f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{ECHO}\r\n".encode(),
    "short": http(ECHO.encode())[:-4],
    "hang up": b"",
}


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every logger at DEBUG, httpx's and httpcore's as well."""
    loggers = [logging.getLogger(name) for name in ("", "oca_sms_async", "httpx", "httpcore", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    yield caplog
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def shown(error: BaseException) -> Iterator[str]:
    """Yield all that may be seen of an error: texts, notes, pickle, and what its whole chain and their frames hold."""
    for link in chain(error):
        yield from (str(link), repr(link), repr(link.args), repr(getattr(link, "__notes__", None)))
        if link is not error:  # the frames of the error itself are the caller's
            yield "".join(
                traceback.TracebackException.from_exception(link, capture_locals=True, max_group_depth=100).format()
            )
    # Kept out of what is searched: what the gateway wrote, in the one place that is documented for it.
    kept = {name: value for name, value in vars(error).items() if name not in {"text", "fields", "code"}}
    yield repr(kept)
    if isinstance(error, OcaSmsError):
        copied = pickle.loads(pickle.dumps(error))
        yield repr((copied, copied.args))


def found_in(texts: Iterator[str] | list[str]) -> list[str]:
    """Return the markers in these texts, with what is around them."""
    return [
        text[max(0, text.index(marker) - 60) : text.index(marker) + 60]
        for text in texts
        for marker in MARKERS
        if marker in text
    ]


@pytest.mark.parametrize("answer", ANSWERS)
async def test_no_error_and_no_log_shows_a_secret(answer: str, everything_logged: pytest.LogCaptureFixture) -> None:
    """Whatever the gateway echoes: no log record, and nothing of an error and its causes but `text` and `fields`."""

    async def echo(connection: Connection) -> None:
        await connection.write(ANSWERS[answer])
        connection.writer.close()

    errors: list[OcaSmsError] = []
    async with RawGateway(echo).serve() as gateway:
        client = AsyncOcaSms(
            USERNAME,
            PASSWORD,
            base_url=gateway.base_url,
            limiter=Unlimited(),
            retry=RetryPolicy(max_attempts=2, initial_wait=0),
        )
        async with client:
            sms = Sms(PHONE, TEXT, key="marker-key")
            report = await client.send_many([sms, sms])
            errors += [outcome.error for outcome in report.failed]
            for call in (client.send(PHONE, TEXT), client.status("abc"), client.history()):
                try:
                    await call
                except OcaSmsError as error:
                    errors.append(error)
            assert found_in([repr(client), repr(report), repr(report.outcomes), str(sms)]) == []
    assert errors or answer == "receipt"
    assert found_in([text for error in errors for text in shown(error)]) == []
    records = [record for record in everything_logged.records if record.name.startswith("oca_sms_async")]
    assert found_in([repr(vars(record)) for record in records]) == []
    theirs = [record for record in everything_logged.records if not record.name.startswith("oca_sms_async")]
    # The response's own headers are httpcore's to log, at DEBUG; what was sent must not be there.
    sent = [text.replace(ECHO, "") for text in (record.getMessage() for record in theirs)]
    assert found_in(sent) == [] or answer == "redirect"


async def test_a_hook_of_a_lent_client_leaves_no_request_behind() -> None:
    """`raise_for_status` in a hook raises an error that holds the response, and that the request."""

    async def hook(response: httpx.Response) -> None:
        response.raise_for_status()

    answer = httpx.MockTransport(lambda _: httpx.Response(500, json={}))
    async with httpx.AsyncClient(transport=answer, event_hooks={"response": [hook]}) as lent:
        client = AsyncOcaSms(USERNAME, PASSWORD, http_client=lent, limiter=Unlimited())
        with pytest.raises(OcaSmsError) as caught:
            await client.send(PHONE, TEXT)
    assert [link for link in chain(caught.value) if vars(link).get("response") or vars(link).get("_request")] == []


async def test_what_was_never_sent_is_not_shown_either(everything_logged: pytest.LogCaptureFixture) -> None:
    """Bad numbers, expiry, a refused connection and a cancellation: neither their errors nor their log tell."""
    errors: list[BaseException] = []
    client = AsyncOcaSms(USERNAME, PASSWORD, base_url="http://127.0.0.1:1", limiter=TokenBucket(capacity=100.0))
    calls = [
        client.send("marker-number", TEXT),
        client.send("0" + PHONE[3:] * 3, TEXT),
        client.send(PHONE, TEXT, expires_in=-1),
        client.send(PHONE, TEXT),
        client.send(PHONE, TEXT + " \ud83d"),
    ]
    errors += [error for error in await asyncio.gather(*calls, return_exceptions=True) if isinstance(error, Exception)]
    assert len(errors) == len(calls)
    task = asyncio.create_task(client.send(PHONE, TEXT))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await client.aclose()
    assert found_in([text for error in errors for text in shown(error)]) == []
    assert found_in([record.getMessage() for record in everything_logged.records]) == []


def test_values_do_not_show_what_they_hold() -> None:
    """The repr of every value that holds a number or a text."""
    sms = Sms(PHONE, TEXT, key="marker-key")
    record = SmsRecord("abc", PHONE, TEXT, "sent", None, 1)
    error = OcaSmsError("ours")
    values = [
        sms,
        record,
        FieldError("phone_number", ECHO, "body"),
        Sent(sms, receipt=None),  # type: ignore[arg-type] # only the message is of interest
        Failed(sms, error),
        Skipped(sms, error),
        BulkReport((Failed(sms, error),), error),
    ]
    assert found_in([repr(value) for value in values]) == []
    assert all(PHONE[-3:] in repr(value) for value in (sms, record))


def test_json_is_what_the_markers_are_looked_for_in() -> None:
    """The markers survive what the gateway's answers do to them, or this module would search for nothing."""
    assert all(marker in json.dumps([ECHO, USERNAME, BASIC]) for marker in MARKERS)

"""The client as its users call it, on the sandbox, on raw sockets and in memory."""

import asyncio
import contextlib
import json
import logging
import re
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import APIS
from attrs import evolve
from each_api import PREMIUM, V2, connect, each_api, each_api_with_history, over
from in_memory import PHONE, TEXT, WITHOUT_WAITS, Gate, Gateway, client_of, refuse, respond, take_turns
from misbehaviours import say_nothing
from moved_clock import HANG, turns, until
from raw_gateway import RECEIPT, Connection, RawGateway, http, receipt
from virtual_time import in_virtual_time, now

from oca_sms_async import (
    AccountError,
    AccountExpiredError,
    ApiError,
    AsyncOcaSms,
    ClientClosedError,
    ConnectionFailedError,
    ExpiredError,
    InternalError,
    InvalidCredentialsError,
    InvalidMessageError,
    InvalidRequestError,
    LimiterUnavailableError,
    MissingAuthorizationError,
    NotFoundError,
    OcaSmsError,
    Priority,
    QuotaExhaustedError,
    RateLimitedError,
    RetryPolicy,
    Sms,
    SqliteJournal,
    TokenBucket,
    UnexpectedResponseError,
    Unlimited,
    UnsupportedError,
    UserNotFoundError,
)
from oca_sms_async._wire import _dialect
from oca_sms_async.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("transport")

INTERNAL_ERROR = refuse(500, 13)


@each_api
async def test_a_message_arrives(client: AsyncOcaSms, sandbox: Sandbox, api: str) -> None:
    """A send ends in a receipt, and the gateway has the number as E.164 and the text as it was given.

    Premium's receipts have no word, and its messages have a sender.
    """
    receipt = await client.send("0813-8147-5159", "Kode: 1234 – ñandú 😀")
    (message,) = sandbox.inbox
    word, sender = ("", sandbox.sender_id) if api in PREMIUM else ("sent", None)
    assert (receipt.msg_uid, receipt.status, receipt.attempts) == (message.msg_uid, word, 1)
    assert (message.phone, message.text) == (PHONE, "Kode: 1234 – ñandú 😀")
    assert (message.api, message.sender_id) == (api, sender)


@pytest.mark.parametrize(
    ("knobs", "first", "second"),
    [
        ({"unknown_user": True}, (UserNotFoundError, 41), (ApiError, 41)),  # the V2 pages do not have 41 and 51
        ({"expired": True}, (AccountExpiredError, 51), (AccountError, 51)),
        ({"quota": 0}, (QuotaExhaustedError, 55), (QuotaExhaustedError, 5)),
        ({"template": "Something else .*"}, (InvalidRequestError, 39), (InvalidRequestError, 59)),
        ({"refused_numbers": [PHONE]}, (InvalidRequestError, 39), (InvalidRequestError, 39)),
        ({"faults": {"missing-authorization": 1.0}}, (MissingAuthorizationError, 19), (MissingAuthorizationError, 19)),
        ({"faults": {"rate-limited": 1.0}}, (RateLimitedError, 9), (RateLimitedError, 9)),
    ],
)
@each_api
async def test_each_refusal_of_the_gateway(
    client: AsyncOcaSms,
    sandbox: Sandbox,
    api: str,
    knobs: dict[str, Any],
    first: tuple[type[OcaSmsError], int],
    second: tuple[type[OcaSmsError], int],
) -> None:
    """Each refusal has an error class of its own. The message is tried once, and it is proven unsent."""
    expected, code = second if api in V2 else first
    for name, value in knobs.items():
        setattr(sandbox, name, value)
    with pytest.raises(expected) as caught:
        await client.send(PHONE, TEXT)
    assert type(caught.value) is expected
    assert (vars(caught.value)["code"], caught.value.may_have_been_sent, caught.value.attempts) == (code, False, 1)
    assert len(sandbox.inbox) == 0


@each_api
async def test_wrong_credentials(client: AsyncOcaSms, sandbox: Sandbox, api: str) -> None:
    """A wrong password, or a wrong token, is an error of the account."""
    sandbox.password = sandbox.token = "another"
    with pytest.raises(InvalidCredentialsError) as caught:
        await client.send(PHONE, TEXT)
    assert isinstance(caught.value, AccountError)
    assert caught.value.code == (45 if api in V2 else 17)


@each_api
async def test_internal_errors_are_tried_again(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """500 with code 13 is repeated, and the receipt counts the attempts."""
    sandbox.failing_attempts = 3
    assert (await client.send(PHONE, TEXT)).attempts == 4
    sandbox.failing_attempts = 4
    with pytest.raises(InternalError) as caught:
        await client.send(PHONE, "another " + TEXT)
    assert (caught.value.attempts, caught.value.may_have_been_sent, len(sandbox.inbox)) == (4, True, 1)


INTERNAL = http({"errors": [{"message": "Internal Error", "code": 13}]}, "500 Internal Server Error")
ONCE = {
    "500 without 13": http({"errors": [{"message": "?", "code": 14}]}, "500 Internal Server Error"),
    "500 with nothing": http(b"", "500 Internal Server Error"),
    "503 with 13": http({"errors": [{"message": "Internal Error", "code": 13}]}, "503 Service Unavailable"),
    "400 with 13": http({"errors": [{"message": "Internal Error", "code": "13"}]}, "400 Bad Request"),
    "200 with 13": http({"errors": [{"message": "Internal Error", "code": 13}]}),
    "429": http(b"", "429 Too Many Requests"),
    "408": http(b"", "408 Request Timeout"),
    "502": http(b"<html>", "502 Bad Gateway"),
}


@pytest.mark.parametrize("answer", ONCE.values(), ids=ONCE.keys())
@each_api
async def test_nothing_else_is_tried_again(answer: bytes, api: str) -> None:
    """Every answer but 500 with code 13 is the only request of its message."""

    async def behaviour(connection: Connection) -> None:
        await connection.write(answer)

    async with RawGateway(behaviour).serve() as gateway:
        async with AsyncOcaSms(api=APIS[api], base_url=gateway.base_url, retry=WITHOUT_WAITS) as client:
            with pytest.raises(OcaSmsError) as caught:
                await client.send(PHONE, TEXT)
        assert (len(gateway.requests), caught.value.attempts) == (1, 1)


@pytest.mark.parametrize("code", ["13", 13])
@each_api
async def test_the_code_may_be_written_as_a_string(code: object, api: str) -> None:
    """500 with "13" is repeated as 500 with 13 is."""
    answers = [http({"errors": [{"message": "x", "code": code}]}, "500 Oops"), http(RECEIPT)]

    async def behaviour(connection: Connection) -> None:
        await connection.write(answers.pop(0))

    gateway = RawGateway(behaviour)
    async with gateway.serve(), AsyncOcaSms(api=APIS[api], base_url=gateway.base_url, retry=WITHOUT_WAITS) as client:
        assert (await client.send(PHONE, TEXT)).attempts == 2


THEN: dict[str, tuple[bytes, type[OcaSmsError]]] = {
    "429": (http(b"", "429 Too Many Requests"), RateLimitedError),
    "19": (http({"errors": [{"message": "x", "code": 19}]}, "401 Unauthorized"), MissingAuthorizationError),
    "39": (http({"errors": [{"message": [], "code": "39"}]}, "406 Not Acceptable"), InvalidRequestError),
}


@pytest.mark.parametrize("then", THEN)
@each_api
async def test_doubt_stays_whatever_comes_after_it(then: str, api: str) -> None:
    """After 500 with 13 the message may have been sent, even if the next attempt is proven refused."""
    answer, expected = THEN[then]
    answers = [INTERNAL, answer]

    async def behaviour(connection: Connection) -> None:
        await connection.write(answers.pop(0))

    gateway = RawGateway(behaviour)
    async with gateway.serve(), AsyncOcaSms(api=APIS[api], base_url=gateway.base_url, retry=WITHOUT_WAITS) as client:
        with pytest.raises(expected) as caught:
            await client.send(PHONE, TEXT)
    assert (caught.value.may_have_been_sent, caught.value.attempts) == (True, 2)


async def test_doubt_stays_after_a_refused_connection() -> None:
    """A connection that fails proves its own attempt unsent, and not the attempt before it."""

    async def go_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")  # the end of the body
        server.close()
        writer.write(INTERNAL.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(go_away, "127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with AsyncOcaSms("u", "p", base_url=base_url, retry=WITHOUT_WAITS) as client:
        with pytest.raises(ConnectionFailedError) as caught:
            await client.send(PHONE, TEXT)
    assert (caught.value.may_have_been_sent, caught.value.attempts) == (True, 2)


@in_virtual_time
async def test_doubt_stays_after_expiry() -> None:
    """A back-off that would outlast the message is an `ExpiredError` in doubt. Its cause is the last error."""
    client = client_of(Gateway(INTERNAL_ERROR), retry=RetryPolicy(max_attempts=100, max_wait=60))
    with pytest.raises(ExpiredError) as caught:
        await client.send(PHONE, TEXT, expires_in=5)
    assert caught.value.may_have_been_sent
    assert caught.value.attempts >= 1
    assert isinstance(caught.value.__cause__, InternalError)
    assert now() <= 1005


@in_virtual_time
async def test_a_message_that_would_expire_before_its_token_is_refused_at_once() -> None:
    """No request starts, no time passes, and no waiter stays behind."""
    limiter = TokenBucket(rate=1.0)
    client = client_of(Gateway(), limiter=limiter)
    await client.send(PHONE, TEXT)
    for expires_in in (0.9, timedelta(seconds=0.9)):
        with pytest.raises(ExpiredError) as caught:
            await client.send(PHONE, TEXT, expires_in=expires_in)
        assert (caught.value.may_have_been_sent, caught.value.attempts) == (False, 0)
    assert now() == 1000
    await client.send(PHONE, TEXT, expires_in=1.1)
    assert limiter.statistics().waiting == 0


@in_virtual_time
async def test_a_token_that_comes_too_late_starts_nothing() -> None:
    """An expired message is not sent, even if a user's limiter ignores deadlines."""

    class Late(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            await asyncio.sleep(5)

    gateway = Gateway()
    with pytest.raises(ExpiredError) as caught:
        await client_of(gateway, limiter=Late()).send(PHONE, TEXT, expires_in=1)
    assert (caught.value.may_have_been_sent, caught.value.attempts, gateway.texts) == (False, 0, [])


@in_virtual_time
async def test_an_interactive_message_passes_a_bulk() -> None:
    """Behind 200 waiting bulk messages an interactive one waits for one token, and polling waits with the bulk."""
    client = client_of(Gateway(), limiter=TokenBucket(rate=10.0))
    bulk = [asyncio.create_task(client.send(PHONE, TEXT, priority=Priority.BULK)) for _ in range(200)]
    await asyncio.sleep(0.01)
    start = now()
    await client.send(PHONE, TEXT)
    assert now() - start < 0.11
    assert sum(task.done() for task in bulk) <= 2
    question = asyncio.create_task(client.status("abc"))
    await asyncio.gather(*bulk)
    assert not question.done()
    await asyncio.gather(question, return_exceptions=True)


@each_api
@in_virtual_time
async def test_a_429_pauses_every_request(api: str) -> None:
    """After a refusal by the rate limit no request starts for as long as the gateway asks, or for a second.

    The vendor's own headers ask too, with one of their names misspelt.
    """
    accept = respond(200, RECEIPT)
    vendors = {"X_RateLimit_limit": "25", "X_RateLmit_Remaining": "0", "X_RateLimit_Reset": "3"}
    gateway = Gateway(refuse(429, Retry_After="7"), accept, refuse(400, 9), accept, refuse(429, 9, **vendors), accept)
    client = client_of(gateway, api=APIS[api], limiter=TokenBucket(rate=1000.0))
    for pause in (7.0, 1.0, 3.0):
        with pytest.raises(RateLimitedError):
            await client.send(PHONE, TEXT)
        start = now()
        await client.send(PHONE, TEXT)
        assert now() - start == pytest.approx(pause)


class Unavailable:
    """A limiter without its server."""

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Refuse."""
        raise LimiterUnavailableError("the limiter's server does not answer")

    def pause(self, seconds: float) -> None:
        """Do nothing."""


async def test_a_limiter_that_is_away_proves_that_nothing_was_sent(sandbox: Sandbox) -> None:
    """The limiter's error comes out as it is. No request was started, and the slot is free again."""
    async with connect(sandbox, "regular-v1", limiter=Unavailable()) as client:
        for _ in range(300):  # more than there are slots
            with pytest.raises(LimiterUnavailableError) as caught:
                await client.send(PHONE, TEXT)
        assert (caught.value.attempts, caught.value.may_have_been_sent) == (0, False)
    assert len(sandbox.inbox) == 0


@pytest.mark.parametrize("text", ["\u200b1", "\U0001fae9", "\u2764\ufe0f", "\u0915", "a\u200db\n"])
async def test_a_text_with_a_visible_character_is_sent(client: AsyncOcaSms, sandbox: Sandbox, text: str) -> None:
    """Invisible characters beside a visible one stay, and an emoji that Python's Unicode does not know is visible."""
    await client.send(PHONE, text)
    assert [message.text for message in sandbox.inbox] == [text]


@pytest.mark.parametrize(
    ("phone", "message", "options", "named"),
    [
        ("0812 ABCD EFGH", TEXT, {}, "phone"),
        ("0812", TEXT, {}, "phone"),
        (6281381475159, TEXT, {}, "phone"),
        (PHONE, "", {}, "message"),
        (PHONE, " \n\t", {}, "message"),
        (PHONE, None, {}, "message"),
        (PHONE, "\u200b\u2060\ufeff\u00ad \u202e", {}, "not blank"),
        (PHONE, "\0\x1b", {}, "not blank"),
        (PHONE, "482913\0", {}, "message holds a NUL character"),
        (PHONE, "half \ud83d", {}, "message"),
        (PHONE, TEXT, {"expires_in": float("nan")}, "expires_in"),
        (PHONE, TEXT, {"expires_in": "5"}, "expires_in"),
        (PHONE, TEXT, {"expires_in": True}, "expires_in"),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(
    client: AsyncOcaSms, sandbox: Sandbox, phone: Any, message: Any, options: Any, named: str
) -> None:
    """The error names the field and is a `ValueError` too. No request was made."""
    with pytest.raises(InvalidMessageError, match=named) as caught:
        await client.send(phone, message, **options)
    assert isinstance(caught.value, ValueError)
    assert (caught.value.attempts, caught.value.may_have_been_sent) == (0, False)
    assert len(sandbox.inbox) == 0


@pytest.mark.parametrize("expires_in", [0, -1.0, timedelta(seconds=-5)])
async def test_a_message_that_has_expired_already_is_not_sent(client: AsyncOcaSms, expires_in: float) -> None:
    """A message without time left is an `ExpiredError`, which is a `TimeoutError` too."""
    with pytest.raises(ExpiredError, match="expired already: expires_in or expires_at") as caught:
        await client.send(PHONE, TEXT, expires_in=expires_in)
    assert isinstance(caught.value, TimeoutError)
    assert not caught.value.may_have_been_sent


@each_api
async def test_every_failure_lands_on_its_own_message(sandbox: Sandbox, api: str) -> None:
    """50 tasks share one client. Each gets the error or the receipt of its own message."""
    numbers = [f"+62813814751{index:02}" for index in range(50)]
    sandbox.refused_numbers = numbers[::3]
    sandbox.faults = {"internal-error": 0.2}
    async with connect(sandbox, api, retry=evolve(WITHOUT_WAITS, max_attempts=30)) as client:
        results = await asyncio.gather(*(client.send(n, f"for {n[-2:]}") for n in numbers), return_exceptions=True)
    texts = {message.msg_uid: (message.phone, message.text) for message in sandbox.inbox}
    for index, (number, result) in enumerate(zip(numbers, results, strict=True)):
        if index % 3 == 0:
            assert isinstance(result, InvalidRequestError)
        else:
            assert not isinstance(result, BaseException)
            assert texts[result.msg_uid] == (number, f"for {number[-2:]}")


async def test_a_cancelled_send_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Cancelling a send logs the masked number if its request was on its way, and nothing if it only waited."""
    caplog.set_level(logging.WARNING, "oca_sms_async")

    async with RawGateway(say_nothing).serve() as gateway:
        limiter = TokenBucket(rate=0.01, capacity=2.0)  # on a busy machine a connection takes long, and costs a token
        async with AsyncOcaSms("u", "p", base_url=gateway.base_url, limiter=limiter) as client:
            on_its_way = asyncio.create_task(client.send(PHONE, TEXT))
            await gateway.has_read(1)
            for _ in range(int(limiter.statistics().tokens)):
                await limiter.acquire()
            waiting = asyncio.create_task(client.send(PHONE, TEXT))
            await until(lambda: limiter.statistics().waiting)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert caplog.records == []
            on_its_way.cancel()
            with pytest.raises(asyncio.CancelledError):
                await on_its_way
    (record,) = (record for record in caplog.records if record.name == "oca_sms_async")
    assert re.search(r"\*+159 attempt=1: the message may have been sent", record.getMessage())
    assert PHONE[3:] not in caplog.text


@each_api_with_history
async def test_status_and_history(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """Both return the gateway's record. An unknown id is a `NotFoundError`, and no message was sent."""
    receipts = [await client.send(PHONE, f"{TEXT} {number}") for number in range(3)]
    records = await client.history()
    assert [record.msg_uid for record in records] == [receipt.msg_uid for receipt in receipts]
    record = await client.status(receipts[1].msg_uid)
    assert record == evolve(records[1], application="sandbox")
    assert (record.phone_number, record.message_body, record.total_sms) == (PHONE, f"{TEXT} 1", 1)
    assert record.created_at == sandbox.inbox[1].created_at.replace(
        microsecond=sandbox.inbox[1].created_at.microsecond // 1000 * 1000
    )
    with pytest.raises(NotFoundError) as caught:
        await client.status("../sms")
    assert not caught.value.may_have_been_sent


@over(PREMIUM)
async def test_status_without_history(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """Premium tells a message's record, without its text, and an unknown id is a `NotFoundError`."""
    receipt = await client.send(PHONE, TEXT)
    record = await client.status(receipt.msg_uid)
    assert (record.msg_uid, record.phone_number, record.message_body) == (receipt.msg_uid, PHONE, "")
    assert record.status == (await client.wait_for_status(receipt.msg_uid, {"sent", "send"})).status
    assert (record.total_sms, len(sandbox.inbox)) == (1, 1)
    with pytest.raises(NotFoundError) as caught:
        await client.status("../send-otp")
    assert not caught.value.may_have_been_sent


@over(PREMIUM)
async def test_an_api_without_history_says_so(api: str, tmp_path: Path) -> None:
    """Each question that needs a history is an `UnsupportedError` before anything goes out, and it names the others."""
    gateway = Gateway()
    client = client_of(gateway, api=APIS[api])
    sms = Sms(PHONE, TEXT)
    async with SqliteJournal(tmp_path / "journal") as journal:
        for question in (
            client.history(),
            client.find_in_history(sms, since=NOON),
            client.reconcile(journal, [sms]),
            client.reconcile(journal, []),
        ):
            with pytest.raises(UnsupportedError, match="has no history; SMS Regular has one") as caught:
                await question
            assert (caught.value.may_have_been_sent, caught.value.attempts) == (False, 0)
    assert (gateway.moments, (tmp_path / "journal").exists()) == ([], False)


async def test_questions_are_never_about_a_message() -> None:
    """A lookup sends no message, so that even 500 with 13 leaves no doubt."""
    client = client_of(Gateway(lookup=INTERNAL_ERROR))
    for question in (client.status("abc"), client.history()):
        with pytest.raises(InternalError) as caught:
            await question
        assert (caught.value.may_have_been_sent, caught.value.attempts) == (False, 4)


async def test_a_history_of_many_mebibytes_is_read() -> None:
    """The history may be longer than any other answer."""
    record = {"msg_uid": "a", "phone_number": PHONE, "message_body": "x" * 1000, "status": "sent", "total_sms": 7}
    client = client_of(Gateway(lookup=respond(200, [record] * 3000)))
    records = await client.history(timeout=30.0)
    assert len(records) == 3000
    assert records[0].created_at is None


async def test_a_history_without_end_is_not_read_to_the_last() -> None:
    """The client reads 64 MiB, and no further."""
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield b" " * 2**20

    client = client_of(Gateway(lookup=lambda _: httpx.Response(200, content=endless())))
    with pytest.raises(UnexpectedResponseError):
        await client.history()
    assert given == 65


async def test_a_long_history_is_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No send waits while many mebibytes are parsed."""
    readers: list[threading.Thread] = []

    def read(body: bytes) -> Any:
        readers.append(threading.current_thread())
        return json.loads(body), None

    monkeypatch.setattr(_dialect, "read_json", read)
    bodies = [b"[]", b"[]" + b" " * 2**20]
    client = client_of(Gateway(lookup=lambda _: httpx.Response(200, content=bodies.pop(0))))
    assert [await client.history(), await client.history()] == [[], []]
    short, long = readers
    assert short is threading.main_thread()
    assert long is not short


async def test_a_client_that_is_not_asynchronous_is_refused() -> None:
    """An `httpx.Client` would send the message and only then fail, in doubt. So the constructor refuses it."""
    with httpx.Client() as lent, pytest.raises(TypeError, match="http_client"):
        AsyncOcaSms("u", "p", http_client=lent)  # type: ignore[call-overload] # this is the point


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True])
async def test_a_time_out_is_a_positive_number_of_seconds(client: AsyncOcaSms, timeout: Any) -> None:
    """Any other value is a `ValueError` that names it, before any request."""
    with pytest.raises(ValueError, match="timeout"):
        await client.history(timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        await client.wait_for_status("abc", {"sent"}, timeout=timeout)
    with pytest.raises(ValueError, match="interval"):
        await client.wait_for_status("abc", {"sent"}, interval=timeout)


def poll(statuses: list[str | None]) -> tuple[AsyncOcaSms, list[float]]:
    """Return a client and the times of its questions. Its gateway gives these statuses in turn; None is a 404."""

    def record(status: str) -> dict[str, object]:
        return {"msg_uid": "a", "phone_number": PHONE, "message_body": TEXT, "status": status}

    answers = [
        refuse(404) if status is None else respond(200, {"status": True, "data": record(status)}) for status in statuses
    ]
    gateway = Gateway(lookup=take_turns(*answers))
    return client_of(gateway), gateway.moments


@in_virtual_time
async def test_waiting_for_a_status() -> None:
    """The client asks at every interval until one of the words comes. A 404 is no end."""
    client, asked = poll([None, "submited", None, "sent", "never"])
    record = await client.wait_for_status("a", {"sent", "delivered"}, interval=3.0)
    assert record.status == "sent"
    assert [round(time - asked[0]) for time in asked] == [0, 3, 6, 9]


@pytest.mark.parametrize("status", [None, "submited"])
def test_waiting_for_a_status_ends(status: str | None) -> None:
    """If the word never comes, it is a `TimeoutError` after the time-out."""

    @in_virtual_time
    async def check() -> None:
        client, asked = poll([status])
        with pytest.raises(TimeoutError, match="none of the statuses"):
            await client.wait_for_status("a", ["sent"], timeout=10.0, interval=4.0)
        assert now() == pytest.approx(1010)
        assert len(asked) == 3

    check()


async def test_waiting_for_a_status_takes_a_collection_of_words(client: AsyncOcaSms) -> None:
    """A bare string would match letter by letter, and an empty collection would wait for ever."""
    with pytest.raises(TypeError, match="statuses"):
        await client.wait_for_status("a", "sent")
    with pytest.raises(ValueError, match="statuses"):
        await client.wait_for_status("a", [])


async def test_waiting_for_a_status_does_not_swallow_other_errors(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """An account that expires ends the wait at once."""
    sandbox.expired = True
    with pytest.raises(AccountExpiredError):
        await client.wait_for_status("a", ["sent"])

    class Refusing(Unavailable):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            raise TimeoutError

    async with connect(sandbox, "regular-v1", limiter=Refusing()) as refused:
        with pytest.raises(ExpiredError):  # a TimeoutError too, but not the one of the wait
            await refused.wait_for_status("a", ["sent"])


NOON = datetime(2026, 5, 31, 12, tzinfo=UTC)


def row(msg_uid: str, created_at: object, phone: object = PHONE, text: str = TEXT) -> dict[str, object]:
    """Return a row of the history."""
    return {
        "msg_uid": msg_uid,
        "phone_number": phone,
        "message_body": text,
        "status": "sent",
        "created_at": created_at.isoformat() if isinstance(created_at, datetime) else created_at,
    }


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([], None),
        ([row("a", NOON)], "a"),
        ([row("a", NOON, "081381475159"), row("b", NOON, "6281381475159")], "a"),
        ([row("a", NOON, "+6281381475158"), row("b", NOON, text=TEXT + "!")], None),
        ([row("a", NOON - timedelta(minutes=2))], "a"),
        ([row("a", NOON - timedelta(minutes=2, seconds=1))], None),
        ([row("a", NOON + timedelta(hours=2)), row("b", NOON + timedelta(hours=1)), row("c", NOON)], "c"),
        ([row("a", "yesterday, or so")], "a"),
        ([row("a", None), row("b", NOON + timedelta(days=1))], "b"),
        ([row("a", NOON.astimezone().isoformat())], "a"),
        ([row("a", NOON, "no number"), row("b", NOON, "")], None),
    ],
)
async def test_finding_a_message_in_the_history(rows: list[dict[str, object]], found: str | None) -> None:
    """Number, in any spelling, and text agree. The date may be two minutes earlier, and the earliest record wins."""
    client = client_of(Gateway(lookup=respond(200, rows)))
    record = await client.find_in_history(Sms("0813 8147 5159", TEXT), since=NOON)
    assert (record and record.msg_uid) == found


@pytest.mark.parametrize("hours", [-14, 0, 14])
async def test_finding_a_message_among_all_there_ever_were(hours: int) -> None:
    """`since` may be the beginning of the calendar in any zone, although two minutes earlier there is no time."""
    rows = [row("b", datetime.max.replace(tzinfo=UTC)), row("a", NOON), row("c", None)]
    client = client_of(Gateway(lookup=respond(200, rows)))
    since = datetime.min.replace(tzinfo=timezone(timedelta(hours=hours)))
    record = await client.find_in_history(Sms(PHONE, TEXT), since=since)
    assert record is not None
    assert record.msg_uid == "a"


async def test_finding_a_message_needs_an_aware_moment(client: AsyncOcaSms) -> None:
    """A naive `since` could be hours off. An impossible number is in no history."""
    with pytest.raises(ValueError, match="since"):
        await client.find_in_history(Sms(PHONE, TEXT), since=datetime(2026, 5, 31))  # noqa: DTZ001 - this is the point
    with pytest.raises(InvalidMessageError):
        await client.find_in_history(Sms("0812", TEXT), since=NOON)


async def test_a_closed_client_sends_no_more(sandbox: Sandbox) -> None:
    """After `aclose`, which may be called twice, each call is a `RuntimeError`, and so is entering again."""
    client = connect(sandbox, "regular-v1")
    async with client:
        await client.send(PHONE, TEXT)
    await client.aclose()
    assert repr(client) == f"<AsyncOcaSms {sandbox.base_url} closed>"
    for call in (client.send(PHONE, TEXT), client.history(), client.status("a"), client.__aenter__()):
        with pytest.raises(RuntimeError, match="closed"):
            await call
    with pytest.raises(RuntimeError, match="closed"):
        await client.send_many([Sms(PHONE, TEXT)])


async def test_a_send_that_waits_while_the_client_is_closed_sends_nothing() -> None:
    """A send that waited for its token finds the client closed."""
    async with RawGateway().serve() as gateway:
        limiter = Gate()
        client = AsyncOcaSms("u", "p", base_url=gateway.base_url, limiter=limiter)
        waiting = asyncio.create_task(client.send(PHONE, TEXT))
        await asyncio.wait_for(limiter.reached.wait(), HANG)
        await client.aclose()
        limiter.opened.set()
        with pytest.raises(ClientClosedError) as caught:
            await waiting
        assert (caught.value.attempts, caught.value.may_have_been_sent, gateway.requests) == (0, False, [])


async def test_no_more_than_256_requests_are_in_flight() -> None:
    """The client's own bound holds with any limiter, and the gateway's answers free the slots."""
    gate = asyncio.Event()

    async def wait(connection: Connection) -> None:
        await gate.wait()
        await receipt(connection)

    async with RawGateway(wait).serve() as gateway:
        async with AsyncOcaSms("u", "p", base_url=gateway.base_url, limiter=Unlimited(), timeout=60) as client:
            sends = [asyncio.create_task(client.send(PHONE, TEXT)) for _ in range(300)]
            await gateway.has_read(256)
            await turns()
            assert len(gateway.requests) == 256
            gate.set()
            await asyncio.gather(*sends)
        assert gateway.most_in_flight == 256


async def test_a_cancellation_that_nobody_asked_for_loses_no_message() -> None:
    """A transport that cancels by itself leaves its message in doubt, and the bulk goes on."""

    def cancel(_: httpx.Request) -> httpx.Response:
        raise asyncio.CancelledError

    report = await client_of(Gateway(cancel, respond(200, RECEIPT))).send_many([Sms(PHONE, TEXT)] * 3, concurrency=1)
    assert (len(report.sent), len(report.unknown), report.stopped_by) == (2, 1, None)


async def test_a_limiter_that_cancels_by_itself_leaves_no_doubt() -> None:
    """Its message has not started a request, and the bulk goes on."""

    class Cancelling(Unlimited):
        calls = 0

        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            self.calls += 1
            if self.calls == 1:
                raise asyncio.CancelledError

    report = await client_of(Gateway(), limiter=Cancelling()).send_many([Sms(PHONE, TEXT)] * 3, concurrency=1)
    assert (len(report.sent), len(report.failed), report.unknown, report.stopped_by) == (2, 1, (), None)


@in_virtual_time
async def test_a_stopped_bulk_starts_no_second_attempt() -> None:
    """A limiter that ignores its cancellation may give the second token. The message is not sent again."""

    class Stubborn(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)

    async def messages() -> AsyncIterator[Sms]:
        yield Sms(PHONE, "again")
        await asyncio.sleep(0.5)
        yield Sms(PHONE, "last")

    gateway = Gateway(answers={"again": INTERNAL_ERROR, "last": refuse(401, 55)})
    report = await client_of(gateway, limiter=Stubborn()).send_many(messages(), concurrency=2)
    assert gateway.texts == ["again", "last"]
    assert [type(outcome.error) for outcome in report.failed] == [InternalError, QuotaExhaustedError]
    assert (report.failed[0].error.attempts, report.failed[0].error.__traceback__) == (1, None)

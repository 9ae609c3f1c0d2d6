"""The client as its users call it, against the sandbox on a real socket."""

import asyncio
import contextlib
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
import virtual_time
from attrs import evolve
from misbehaviours import say_nothing
from raw_gateway import RECEIPT, Connection, RawGateway, http, receipt

from oca_sms_async import (
    AccountError,
    AccountExpiredError,
    AsyncOcaSms,
    ConnectionFailedError,
    ExpiredError,
    InternalError,
    InvalidCredentialsError,
    InvalidMessageError,
    InvalidRequestError,
    LimiterUnavailableError,
    NotFoundError,
    OcaSmsError,
    Priority,
    QuotaExhaustedError,
    RateLimitedError,
    RetryPolicy,
    Sms,
    TokenBucket,
    UnexpectedResponseError,
    Unlimited,
    UserNotFoundError,
)
from oca_sms_async.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("transport")

PHONE = "+6281381475159"
TEXT = "Acme: 482913 is your code"
QUICK = RetryPolicy(initial_wait=0, max_wait=0)


def sandbox_client(sandbox: Sandbox, **options: Any) -> AsyncOcaSms:
    """Return a client of a sandbox, without limit and without waits unless told otherwise."""
    defaults: dict[str, Any] = {"base_url": sandbox.base_url, "limiter": Unlimited(), "retry": QUICK}
    return AsyncOcaSms(sandbox.username, sandbox.password, **(defaults | options))


async def test_a_message_arrives(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """A send ends in a receipt, and the gateway has the number as E.164 and the text as it was given."""
    receipt = await client.send("0813-8147-5159", "Kode: 1234 – ñandú 😀")
    (message,) = sandbox.inbox
    assert (receipt.msg_uid, receipt.status, receipt.attempts) == (message.msg_uid, "sent", 1)
    assert (message.phone, message.text) == (PHONE, "Kode: 1234 – ñandú 😀")


@pytest.mark.parametrize(
    ("knobs", "expected", "code"),
    [
        ({"unknown_user": True}, UserNotFoundError, 41),
        ({"expired": True}, AccountExpiredError, 51),
        ({"quota": 0}, QuotaExhaustedError, 55),
        ({"template": "Something else .*"}, InvalidRequestError, 39),
        ({"refused_numbers": [PHONE]}, InvalidRequestError, 39),
    ],
)
async def test_each_refusal_of_the_gateway(
    client: AsyncOcaSms, sandbox: Sandbox, knobs: dict[str, Any], expected: type[OcaSmsError], code: int
) -> None:
    """What the gateway refuses is its own error, proven unsent, tried once, and nothing arrived."""
    for name, value in knobs.items():
        setattr(sandbox, name, value)
    with pytest.raises(expected) as caught:
        await client.send(PHONE, TEXT)
    assert type(caught.value) is expected
    assert (vars(caught.value)["code"], caught.value.may_have_been_sent, caught.value.attempts) == (code, False, 1)
    assert len(sandbox.inbox) == 0


async def test_wrong_credentials(sandbox: Sandbox) -> None:
    """A wrong password is an account's error."""
    async with AsyncOcaSms(sandbox.username, "wrong", base_url=sandbox.base_url) as client:
        with pytest.raises(InvalidCredentialsError) as caught:
            await client.send(PHONE, TEXT)
    assert isinstance(caught.value, AccountError)


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
async def test_nothing_else_is_tried_again(answer: bytes) -> None:
    """One POST on the wire, no more, for whatever is not 500 with code 13."""

    async def behaviour(connection: Connection) -> None:
        await connection.write(answer)

    async with RawGateway(behaviour).serve() as gateway:
        client = AsyncOcaSms("u", "p", base_url=gateway.base_url, retry=QUICK)
        async with client:
            with pytest.raises(OcaSmsError) as caught:
                await client.send(PHONE, TEXT)
        assert (len(gateway.requests), caught.value.attempts) == (1, 1)


@pytest.mark.parametrize("code", ["13", 13])
async def test_the_code_may_be_written_as_a_string(code: object) -> None:
    """500 with "13" is repeated as 500 with 13 is."""
    answers = [http({"errors": [{"message": "x", "code": code}]}, "500 Oops"), http(RECEIPT)]

    async def behaviour(connection: Connection) -> None:
        await connection.write(answers.pop(0))

    gateway = RawGateway(behaviour)
    async with gateway.serve(), AsyncOcaSms("u", "p", base_url=gateway.base_url, retry=QUICK) as client:
        assert (await client.send(PHONE, TEXT)).attempts == 2


THEN: dict[str, tuple[bytes, type[OcaSmsError]]] = {
    "429": (http(b"", "429 Too Many Requests"), RateLimitedError),
    "55": (http({"errors": [{"message": "x", "code": 55}]}, "401 Unauthorized"), QuotaExhaustedError),
    "39": (http({"errors": [{"message": [], "code": "39"}]}, "406 Not Acceptable"), InvalidRequestError),
}


@pytest.mark.parametrize("then", THEN)
async def test_doubt_stays_whatever_comes_after_it(then: str) -> None:
    """After 500 with 13 the message may have been sent, even if the next attempt is proven refused."""
    answer, expected = THEN[then]
    answers = [INTERNAL, answer]

    async def behaviour(connection: Connection) -> None:
        await connection.write(answers.pop(0))

    gateway = RawGateway(behaviour)
    async with gateway.serve(), AsyncOcaSms("u", "p", base_url=gateway.base_url, retry=QUICK) as client:
        with pytest.raises(expected) as caught:
            await client.send(PHONE, TEXT)
    assert (caught.value.may_have_been_sent, caught.value.attempts) == (True, 2)


async def test_doubt_stays_after_a_refused_connection() -> None:
    """500 with 13, then nobody listens any more: in doubt."""
    gateway = RawGateway()

    async with gateway.serve():
        client = AsyncOcaSms("u", "p", base_url=gateway.base_url, limiter=Unlimited(), retry=QUICK)
        port = gateway.port

    async def go_away(connection: Connection) -> None:
        server.close()
        await connection.write(INTERNAL.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        connection.writer.close()

    dying = RawGateway(go_away)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await dying._serve(Connection(reader, writer, dying.stalled))

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    async with client:
        with pytest.raises(ConnectionFailedError) as caught:
            await client.send(PHONE, TEXT)
    assert (caught.value.may_have_been_sent, caught.value.attempts) == (True, 2)


Answer = Callable[[httpx.Request], httpx.Response]


def in_memory(answer: Answer, **options: Any) -> AsyncOcaSms:
    """Return a client over an in-memory transport, for virtual time."""
    lent = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return AsyncOcaSms("u", "p", http_client=lent, **options)


def accept(_: httpx.Request) -> httpx.Response:
    """Answer with a receipt."""
    return httpx.Response(200, json=RECEIPT)


def internal_error(_: httpx.Request) -> httpx.Response:
    """Answer 500 with code 13."""
    return httpx.Response(500, json={"errors": [{"message": "Internal Error", "code": 13}]})


def test_doubt_stays_after_expiry() -> None:
    """500 with 13, then a back-off that would outlast the message: an `ExpiredError` in doubt, with its cause."""

    async def main() -> None:
        start = asyncio.get_running_loop().time()
        client = in_memory(internal_error, limiter=Unlimited(), retry=RetryPolicy(max_attempts=100, max_wait=60))
        with pytest.raises(ExpiredError) as caught:
            await client.send(PHONE, TEXT, expires_in=5)
        assert caught.value.may_have_been_sent
        assert caught.value.attempts >= 1
        assert isinstance(caught.value.__cause__, InternalError)
        assert asyncio.get_running_loop().time() - start <= 5

    virtual_time.run(main())


def test_a_message_that_would_expire_before_its_token_is_refused_at_once() -> None:
    """No waiting for a token that comes too late: nothing was started, no time has passed, nothing is left behind."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        limiter = TokenBucket(rate=1.0)
        client = in_memory(accept, limiter=limiter)
        start = loop.time()
        await client.send(PHONE, TEXT)
        for expires_in in (0.9, timedelta(seconds=0.9)):
            with pytest.raises(ExpiredError) as caught:
                await client.send(PHONE, TEXT, expires_in=expires_in)
            assert (caught.value.may_have_been_sent, caught.value.attempts) == (False, 0)
        assert loop.time() == start
        await client.send(PHONE, TEXT, expires_in=1.1)
        assert limiter.statistics().waiting == 0

    virtual_time.run(main())


def test_a_token_that_comes_too_late_starts_nothing() -> None:
    """A limiter of the user's own that knows nothing of deadlines cannot make an expired message go out."""

    class Late(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            await asyncio.sleep(5)

    async def main() -> None:
        started: list[httpx.Request] = []
        client = in_memory(lambda request: started.append(request) or accept(request), limiter=Late())  # type: ignore[func-returns-value] # None is what is wanted
        with pytest.raises(ExpiredError) as caught:
            await client.send(PHONE, TEXT, expires_in=1)
        assert (caught.value.may_have_been_sent, caught.value.attempts, started) == (False, 0, [])

    virtual_time.run(main())


def test_an_interactive_message_passes_a_bulk() -> None:
    """Behind 200 waiting bulk messages an interactive one waits for one token, and polling waits with the bulk."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        client = in_memory(accept, limiter=TokenBucket(rate=10.0))
        bulk = [asyncio.create_task(client.send(PHONE, TEXT, priority=Priority.BULK)) for _ in range(200)]
        await asyncio.sleep(0.01)
        start = loop.time()
        await client.send(PHONE, TEXT)
        assert loop.time() - start < 0.11
        assert sum(task.done() for task in bulk) <= 2
        question = asyncio.create_task(client.status("abc"))
        await asyncio.gather(*bulk)
        assert not question.done()
        await asyncio.gather(question, return_exceptions=True)

    virtual_time.run(main())


def test_a_429_pauses_everybody() -> None:
    """After 429 nobody is let through for as long as the gateway asks, or for a second."""
    answers = [
        httpx.Response(429, headers={"Retry-After": "7"}),
        httpx.Response(200, json=RECEIPT),
        httpx.Response(400, json={"errors": [{"code": 9, "message": "Too Many Request"}]}),
        httpx.Response(200, json=RECEIPT),
    ]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        client = in_memory(lambda _: answers.pop(0), limiter=TokenBucket(rate=1000.0))
        for pause in (7.0, 1.0):
            with pytest.raises(RateLimitedError):
                await client.send(PHONE, TEXT)
            start = loop.time()
            await client.send(PHONE, TEXT)
            assert loop.time() - start == pytest.approx(pause)

    virtual_time.run(main())


class Unavailable:
    """A limiter whose server is away."""

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Refuse."""
        raise LimiterUnavailableError("the limiter's server does not answer")

    def pause(self, seconds: float) -> None:
        """Do nothing."""


async def test_a_limiter_that_is_away_proves_that_nothing_was_sent(sandbox: Sandbox) -> None:
    """Its error comes out as it is; nothing was started, and the slot is free again."""
    async with sandbox_client(sandbox, limiter=Unavailable()) as client:
        for _ in range(300):  # more than there are slots
            with pytest.raises(LimiterUnavailableError) as caught:
                await client.send(PHONE, TEXT)
        assert (caught.value.attempts, caught.value.may_have_been_sent) == (0, False)
    assert len(sandbox.inbox) == 0


@pytest.mark.parametrize(
    ("phone", "message", "options", "named"),
    [
        ("0812 ABCD EFGH", TEXT, {}, "phone"),
        ("0812", TEXT, {}, "phone"),
        (6281381475159, TEXT, {}, "phone"),
        (PHONE, "", {}, "message"),
        (PHONE, " \n\t", {}, "message"),
        (PHONE, None, {}, "message"),
        (PHONE, "half \ud83d", {}, "message"),
        (PHONE, TEXT, {"expires_in": float("nan")}, "expires_in"),
        (PHONE, TEXT, {"expires_in": "5"}, "expires_in"),
        (PHONE, TEXT, {"expires_in": True}, "expires_in"),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(
    client: AsyncOcaSms, sandbox: Sandbox, phone: Any, message: Any, options: Any, named: str
) -> None:
    """The error names the field, is a ValueError too, and the gateway has seen nothing."""
    with pytest.raises(InvalidMessageError, match=named) as caught:
        await client.send(phone, message, **options)
    assert isinstance(caught.value, ValueError)
    assert (caught.value.attempts, caught.value.may_have_been_sent) == (0, False)
    assert len(sandbox.inbox) == 0


@pytest.mark.parametrize("expires_in", [0, -1.0, timedelta(seconds=-5)])
async def test_a_message_that_has_expired_already_is_not_sent(client: AsyncOcaSms, expires_in: float) -> None:
    """No time left is an `ExpiredError`, which is a `TimeoutError` too."""
    with pytest.raises(ExpiredError) as caught:
        await client.send(PHONE, TEXT, expires_in=expires_in)
    assert isinstance(caught.value, TimeoutError)
    assert not caught.value.may_have_been_sent


async def test_every_failure_lands_on_its_own_message(sandbox: Sandbox) -> None:
    """50 tasks share one client; each gets the fate of its own number, and each receipt is its own message's."""
    numbers = [f"+62813814751{index:02}" for index in range(50)]
    sandbox.refused_numbers = numbers[::3]
    sandbox.faults = {"internal-error": 0.2}
    async with sandbox_client(sandbox, retry=evolve(QUICK, max_attempts=30)) as client:
        results = await asyncio.gather(*(client.send(n, f"for {n[-2:]}") for n in numbers), return_exceptions=True)
    texts = {message.msg_uid: (message.phone, message.text) for message in sandbox.inbox}
    for index, (number, result) in enumerate(zip(numbers, results, strict=True)):
        if index % 3 == 0:
            assert isinstance(result, InvalidRequestError)
        else:
            assert not isinstance(result, BaseException)
            assert texts[result.msg_uid] == (number, f"for {number[-2:]}")


async def test_a_cancelled_send_is_told_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A warning with the masked number, if a request was on its way or had been; none if it only waited."""
    caplog.set_level(logging.WARNING, "oca_sms_async")

    async with RawGateway(say_nothing).serve() as gateway:
        limiter = TokenBucket(rate=0.01)
        async with AsyncOcaSms("u", "p", base_url=gateway.base_url, limiter=limiter) as client:
            on_its_way = asyncio.create_task(client.send(PHONE, TEXT))
            await gateway.has_read(1)
            waiting = asyncio.create_task(client.send(PHONE, TEXT))
            while not limiter.statistics().waiting:
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert caplog.records == []
            on_its_way.cancel()
            with pytest.raises(asyncio.CancelledError):
                await on_its_way
    (record,) = (record for record in caplog.records if record.name == "oca_sms_async")
    assert re.search(r"\*+159 attempt=1: the message may have been sent", record.getMessage())
    assert PHONE[3:] not in caplog.text


async def test_status_and_history(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """Both give the gateway's record; an unknown id is a `NotFoundError` that is about no message."""
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


async def test_questions_are_never_about_a_message() -> None:
    """Even 500 with 13, repeated and given up, leaves no doubt where nothing was to be sent."""
    client = in_memory(internal_error, limiter=Unlimited(), retry=QUICK)
    for question in (client.status("abc"), client.history()):
        with pytest.raises(InternalError) as caught:
            await question
        assert (caught.value.may_have_been_sent, caught.value.attempts) == (False, 4)


async def test_a_history_of_many_mebibytes_is_read() -> None:
    """The history may be longer than any other answer."""
    record = {"msg_uid": "a", "phone_number": PHONE, "message_body": "x" * 1000, "status": "sent", "total_sms": 7}
    client = in_memory(lambda _: httpx.Response(200, json=[record] * 3000), limiter=Unlimited())
    records = await client.history(timeout=30.0)
    assert len(records) == 3000
    assert records[0].created_at is None


async def test_a_history_without_end_is_not_read_to_the_last() -> None:
    """64 MiB are read, and not further."""
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield b" " * 2**20

    client = in_memory(lambda _: httpx.Response(200, content=endless()), limiter=Unlimited())
    with pytest.raises(UnexpectedResponseError):
        await client.history()
    assert given == 65


async def test_a_long_history_is_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading many mebibytes takes its time, and no send should wait for it."""
    readers: list[threading.Thread] = []

    def read(*args: Any, **options: Any) -> Any:
        readers.append(threading.current_thread())
        return json.JSONDecoder(**options).decode(*args)

    monkeypatch.setattr(json, "loads", read)
    bodies = [b"[]", b"[]" + b" " * 2**20]
    client = in_memory(lambda _: httpx.Response(200, content=bodies.pop(0)), limiter=Unlimited())
    assert [await client.history(), await client.history()] == [[], []]
    short, long = readers
    assert short is threading.main_thread()
    assert long is not short


async def test_a_client_that_is_not_asynchronous_is_refused() -> None:
    """An `httpx.Client` would send the message and only then fail, in doubt; so it is refused where it is lent."""
    with httpx.Client() as lent, pytest.raises(TypeError, match="http_client"):
        AsyncOcaSms("u", "p", http_client=lent)  # type: ignore[call-overload] # this is the point


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True])
async def test_a_time_out_is_a_positive_number_of_seconds(client: AsyncOcaSms, timeout: Any) -> None:
    """Whatever else is a ValueError that names it, before anything is asked."""
    with pytest.raises(ValueError, match="timeout"):
        await client.history(timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        await client.wait_for_status("abc", {"sent"}, timeout=timeout)
    with pytest.raises(ValueError, match="interval"):
        await client.wait_for_status("abc", {"sent"}, interval=timeout)


def polling(statuses: list[str | None]) -> tuple[AsyncOcaSms, list[float]]:
    """Return a client whose gateway gives these statuses in turn, None for a 404, and the times of its questions."""
    asked: list[float] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(asyncio.get_running_loop().time())
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        if status is None:
            return httpx.Response(404, json={"errors": [{"message": "There is no data available"}]})
        record = {"msg_uid": "a", "phone_number": PHONE, "message_body": TEXT, "status": status}
        return httpx.Response(200, json={"status": True, "data": record})

    return in_memory(answer, limiter=Unlimited()), asked


def test_waiting_for_a_status() -> None:
    """It asks every interval, through a 404, until one of the words comes."""

    async def main() -> None:
        client, asked = polling([None, "submited", None, "sent", "never"])
        record = await client.wait_for_status("a", {"sent", "delivered"}, interval=3.0)
        assert record.status == "sent"
        assert [round(time - asked[0]) for time in asked] == [0, 3, 6, 9]

    virtual_time.run(main())


@pytest.mark.parametrize("status", [None, "submited"])
def test_waiting_for_a_status_ends(status: str | None) -> None:
    """Where the word never comes, `TimeoutError` after the time-out."""

    async def main() -> None:
        client, asked = polling([status])
        start = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError, match="none of the statuses"):
            await client.wait_for_status("a", ["sent"], timeout=10.0, interval=4.0)
        assert asyncio.get_running_loop().time() - start == pytest.approx(10)
        assert len(asked) == 3

    virtual_time.run(main())


async def test_waiting_for_a_status_takes_a_collection_of_words(client: AsyncOcaSms) -> None:
    """A bare string would match letter by letter, and no word would wait for ever."""
    with pytest.raises(TypeError, match="statuses"):
        await client.wait_for_status("a", "sent")
    with pytest.raises(ValueError, match="statuses"):
        await client.wait_for_status("a", [])


async def test_waiting_for_a_status_does_not_swallow_other_errors(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """An account that expires while one waits is told at once."""
    sandbox.expired = True
    with pytest.raises(AccountExpiredError):
        await client.wait_for_status("a", ["sent"])

    class Refusing(Unavailable):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            raise TimeoutError

    async with sandbox_client(sandbox, limiter=Refusing()) as refused:
        with pytest.raises(ExpiredError):  # a TimeoutError too, but not that of the waiting
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
    """Number in any spelling, text, not before two minutes earlier, unreadable dates last, the earliest of several."""
    client = in_memory(lambda _: httpx.Response(200, json=rows), limiter=Unlimited())
    record = await client.find_in_history(Sms("0813 8147 5159", TEXT), since=NOON)
    assert (record and record.msg_uid) == found


@pytest.mark.parametrize("hours", [-14, 0, 14])
async def test_finding_a_message_among_all_there_ever_were(hours: int) -> None:
    """The beginning of the calendar, in whatever zone, is a moment like any other, though nothing is earlier."""
    rows = [row("b", datetime.max.replace(tzinfo=UTC)), row("a", NOON), row("c", None)]
    client = in_memory(lambda _: httpx.Response(200, json=rows), limiter=Unlimited())
    since = datetime.min.replace(tzinfo=timezone(timedelta(hours=hours)))
    record = await client.find_in_history(Sms(PHONE, TEXT), since=since)
    assert record is not None
    assert record.msg_uid == "a"


async def test_finding_a_message_needs_an_aware_moment(client: AsyncOcaSms) -> None:
    """A naive `since` could be hours off; an impossible number is in no history."""
    with pytest.raises(ValueError, match="since"):
        await client.find_in_history(Sms(PHONE, TEXT), since=datetime(2026, 5, 31))  # noqa: DTZ001 - this is the point
    with pytest.raises(InvalidMessageError):
        await client.find_in_history(Sms("0812", TEXT), since=NOON)


async def test_a_closed_client_sends_no_more(sandbox: Sandbox) -> None:
    """Everything is a RuntimeError after `aclose`, which may be called twice; so is entering again."""
    client = sandbox_client(sandbox)
    async with client:
        await client.send(PHONE, TEXT)
    await client.aclose()
    assert repr(client) == f"<AsyncOcaSms {sandbox.base_url} closed>"
    for call in (client.send(PHONE, TEXT), client.history(), client.status("a"), client.__aenter__()):
        with pytest.raises(RuntimeError, match="closed"):
            await call
    with pytest.raises(RuntimeError, match="closed"):
        await client.send_many([Sms(PHONE, TEXT)])


async def test_who_waits_while_the_client_is_closed_sends_nothing() -> None:
    """A send that waited for its token finds the client closed."""
    async with RawGateway().serve() as gateway:
        limiter = TokenBucket(rate=20.0)
        client = AsyncOcaSms("u", "p", base_url=gateway.base_url, limiter=limiter)
        await client.send(PHONE, TEXT)
        waiting = asyncio.create_task(client.send(PHONE, TEXT))
        while not limiter.statistics().waiting:
            await asyncio.sleep(0)
        await client.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await waiting
        assert len(gateway.requests) == 1


async def test_no_more_than_256_requests_are_in_flight() -> None:
    """The client's own bound holds whatever the limiter lets through, and the gateway's answers free the slots."""
    gate = asyncio.Event()

    async def wait(connection: Connection) -> None:
        await gate.wait()
        await receipt(connection)

    async with RawGateway(wait).serve() as gateway:
        async with AsyncOcaSms("u", "p", base_url=gateway.base_url, limiter=Unlimited(), timeout=60) as client:
            sends = [asyncio.create_task(client.send(PHONE, TEXT)) for _ in range(300)]
            await gateway.has_read(256)
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(gateway.requests) == 256
            gate.set()
            await asyncio.gather(*sends)
        assert gateway.most_in_flight == 256


async def test_a_cancellation_that_nobody_asked_for_loses_no_message() -> None:
    """A transport that raises it by itself leaves its message in doubt, and the bulk goes on."""
    answers = [asyncio.CancelledError(), None, None]

    async def answer(_: httpx.Request) -> httpx.Response:
        if (trouble := answers.pop(0)) is not None:
            raise trouble
        return httpx.Response(200, json=RECEIPT)

    lent = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    client = AsyncOcaSms("u", "p", http_client=lent, limiter=Unlimited())
    report = await client.send_many([Sms(PHONE, TEXT)] * 3, concurrency=1)
    assert (len(report.sent), len(report.unknown), report.stopped_by) == (2, 1, None)


def test_a_stopped_bulk_starts_no_second_attempt() -> None:
    """Not even where the limiter does not let itself be cancelled while a message waits for its second token."""

    class Stubborn(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)

    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        text = json.loads(request.content)["message"]
        asked.append(text)
        if text == "again":
            return internal_error(request)
        return httpx.Response(401, json={"errors": [{"code": 55}]})

    async def main() -> None:
        client = in_memory(answer, limiter=Stubborn(), retry=QUICK)

        async def messages() -> AsyncIterator[Sms]:
            yield Sms(PHONE, "again")
            await asyncio.sleep(0.5)
            yield Sms(PHONE, "last")

        report = await client.send_many(messages(), concurrency=2)
        assert asked == ["again", "last"]
        assert [type(outcome.error) for outcome in report.failed] == [InternalError, QuotaExhaustedError]
        assert (report.failed[0].error.attempts, report.failed[0].error.__traceback__) == (1, None)

    virtual_time.run(main())

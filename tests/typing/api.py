"""Every public name as users write it, for type checkers alone: nothing here is ever run.

An `assert_type` that no longer holds is an error of mypy and pyright. So is an ignore beside a line that they take
for right. ty finds fewer of the mistakes, and no others.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NoReturn, assert_never, assert_type

import httpx
import redis.asyncio
from opentelemetry.metrics import NoOpMeterProvider
from procrastinate import App
from psycopg import AsyncConnection
from starlette.applications import Starlette

import oca_sms_async
from oca_sms_async import (
    AccountError,
    AccountExpiredError,
    Advice,
    ApiError,
    AsyncOcaSms,
    BulkReport,
    BulkRun,
    ClientClosedError,
    ConnectionFailedError,
    DeliveryUnknownError,
    ExpiredError,
    Failed,
    FieldError,
    InternalError,
    InvalidCredentialsError,
    InvalidMessageError,
    InvalidRequestError,
    Journal,
    JournalClosedError,
    JournalEntry,
    JournalError,
    LimiterStatistics,
    LimiterUnavailableError,
    MissingAuthorizationError,
    NotFoundError,
    OcaSmsError,
    Outcome,
    PremiumV1,
    PremiumV2,
    Priority,
    QuotaExhaustedError,
    RateLimitedError,
    RateLimiter,
    ReconcileReport,
    RegularV1,
    RegularV2,
    RetryPolicy,
    Segments,
    SendEvent,
    SendReceipt,
    Sent,
    Skipped,
    Sms,
    SmsRecord,
    SqliteJournal,
    Statistics,
    TokenBucket,
    UnexpectedResponseError,
    Unlimited,
    UnsupportedError,
    UserNotFoundError,
    check_message,
    mask_phone,
    normalize_phone,
    segments,
)
from oca_sms_async.aiohttp import aiohttp_client
from oca_sms_async.blocking import OcaSms
from oca_sms_async.cli import main
from oca_sms_async.opentelemetry import metrics_observer
from oca_sms_async.postgres import SCHEMA, PostgresJournal, PostgresTokenBucket
from oca_sms_async.queue import QueueEntry, QueueReconcileReport, QueueStatistics, SmsQueue
from oca_sms_async.redis import RedisTokenBucket
from oca_sms_async.sandbox import FAULTS, Inbox, Message, Sandbox
from oca_sms_async.testing import oca_sms_client, oca_sms_sandbox

PHONE, TEXT = "+6281381475159", "Acme: 482913 is your code"


class OneAtATime:
    """A limiter of a user's own, which inherits from nothing."""

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Let through."""

    def pause(self, seconds: float) -> None:
        """Let nobody through."""


class Pauseless:
    """What lacks half of a limiter."""

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Let through."""


async def make() -> None:
    """Make clients, and leave them."""
    assert_type(oca_sms_async.__version__.isascii(), bool)
    async with AsyncOcaSms("user", "secret") as client:
        assert_type(client, AsyncOcaSms)
    own = AsyncOcaSms(
        "user",
        "secret",
        base_url="https://sms.example.com/api/v1",
        limiter=OneAtATime(),
        retry=RetryPolicy(max_attempts=2, initial_wait=0, max_wait=0.5, retry_unsent=True),
        timeout=5,
        http_client=httpx.AsyncClient(),
        allow_http=True,
        region="SG",
    )
    assert_type(own.has_history, bool)
    assert_type(await own.aclose(), None)
    assert_type(AsyncOcaSms.from_env(), AsyncOcaSms)
    assert_type(AsyncOcaSms.from_env(os.environ, timeout=5.0), AsyncOcaSms)
    assert_type(AsyncOcaSms.from_env({"OCA_SMS_USERNAME": "user"}, http_client=aiohttp_client()), AsyncOcaSms)
    regular = RegularV1("user", "secret")
    assert_type(AsyncOcaSms(api=regular, timeout=5), AsyncOcaSms)
    assert_type(AsyncOcaSms(api=RegularV2("token")), AsyncOcaSms)
    assert_type(AsyncOcaSms(api=PremiumV1("user", "secret", sender_id="Acme")), AsyncOcaSms)
    assert_type(AsyncOcaSms(api=PremiumV2("token", sender_id="Acme")), AsyncOcaSms)
    assert_type(AsyncOcaSms.from_env(api=regular), AsyncOcaSms)
    assert_type(AsyncOcaSms.from_env({"OCA_SMS_API": "premium-v2"}, token="a", sender_id="Acme"), AsyncOcaSms)
    PremiumV2("token")  # type: ignore[call-arg] # no sender
    PremiumV2("token", "Acme")  # type: ignore[call-arg] # the sender is named
    assert_type((regular.base_url, regular.has_history), tuple[str, bool])
    assert_type(regular.codes, Mapping[int, type[ApiError]])
    assert_type(regular.headers(), Mapping[str, str])
    assert_type(regular.send(PHONE, TEXT).method, str)
    assert_type(regular.history().parse(200, {}, b"[]"), list[SmsRecord])
    assert_type(regular.status("uid").parse(200, {}, b"{}"), SmsRecord)
    AsyncOcaSms("user", "secret", api=regular)  # type: ignore[call-overload] # an API has its own credentials
    AsyncOcaSms.from_env(retries=3)  # type: ignore[call-arg] # as of the constructor
    AsyncOcaSms.from_env(timeout="5")  # type: ignore[arg-type] # as of the constructor
    AsyncOcaSms("user")  # type: ignore[call-overload] # no password
    AsyncOcaSms("user", "secret", "https://sms.example.com")  # type: ignore[call-overload] # options are named
    AsyncOcaSms("user", "secret", timeout="5")  # type: ignore[call-overload] # seconds are numbers
    AsyncOcaSms("user", "secret", timeout=timedelta(seconds=5))  # type: ignore[call-overload] # as above
    AsyncOcaSms("user", "secret", limiter=Pauseless())  # type: ignore[call-overload] # half of a limiter is none
    AsyncOcaSms("user", "secret", http_client=httpx.Client())  # type: ignore[call-overload] # of the other colour
    AsyncOcaSms("user", "secret", retries=3)  # type: ignore[call-overload] # there is no such option


def block(client: OcaSms, journal: Journal) -> None:
    """Use the client for threads."""
    with OcaSms("user", "secret", timeout=5, journal=journal) as own:
        assert_type(own, OcaSms)
    assert_type(OcaSms(api=RegularV2("token"), observer=observe), OcaSms)
    assert_type(OcaSms.from_env(os.environ, timeout=5.0), OcaSms)
    assert_type(OcaSms.from_env({"OCA_SMS_API": "premium-v2"}, token="a", sender_id="Acme"), OcaSms)
    receipt = client.send(PHONE, TEXT, key="login 17", expires_in=timedelta(minutes=5), priority=Priority.BULK)
    assert_type(receipt, SendReceipt)
    assert_type(client.send(phone=PHONE, message=TEXT, expires_at=datetime.now(UTC)), SendReceipt)
    assert_type(client.status("uid"), SmsRecord)
    assert_type(client.history(timeout=5), list[SmsRecord])
    assert_type(client.wait_for_status("uid", {"sent"}, timeout=5, interval=0.5), SmsRecord)
    assert_type(client.send_many(messages(), concurrency=8, journal=journal, resend_unknown=True), BulkReport)
    assert_type(client.statistics(), Statistics)
    assert_type(client.close(), None)
    OcaSms("user")  # type: ignore[call-overload] # no password
    OcaSms("user", "secret", api=RegularV2("token"))  # type: ignore[call-overload] # an API has its own credentials
    OcaSms("user", "secret", retries=3)  # type: ignore[call-overload] # there is no such option
    client.send(PHONE, TEXT, 30)  # type: ignore[arg-type, call-arg] # options are named
    client.send_many([PHONE])  # type: ignore[list-item] # messages, no numbers
    client.send_many(messages_in_time())  # type: ignore[arg-type] # a thread cannot iterate over them


async def send(client: AsyncOcaSms) -> None:
    """Send one message."""
    receipt = await client.send(PHONE, TEXT)
    assert_type(receipt, SendReceipt)
    assert_type((receipt.msg_uid, receipt.status, receipt.attempts), tuple[str, str, int])
    await client.send(phone=PHONE, message=TEXT, expires_in=30, priority=Priority.BULK)
    await client.send(PHONE, TEXT, expires_in=timedelta(minutes=5), priority=Priority.INTERACTIVE)
    await client.send(PHONE, TEXT, expires_in=None)
    await client.send(PHONE)  # type: ignore[call-arg] # no text
    await client.send(6281381475159, TEXT)  # type: ignore[arg-type] # a number is text
    await client.send(PHONE, TEXT, 30)  # type: ignore[arg-type, call-arg] # options are named
    await client.send(PHONE, TEXT, expires_in=datetime.now(UTC))  # type: ignore[arg-type] # a duration, no moment
    await client.send(PHONE, TEXT, priority=1)  # type: ignore[arg-type] # a lane has a name
    receipt.status = "read"  # type: ignore[misc] # frozen
    client.send(PHONE, TEXT)  # type: ignore[unused-coroutine] # not awaited


async def ask(client: AsyncOcaSms) -> None:
    """Ask what became of messages."""
    assert_type(await client.history(), list[SmsRecord])
    assert_type(await client.history(timeout=5), list[SmsRecord])
    record = await client.status("uid")
    assert_type(record, SmsRecord)
    assert_type((record.msg_uid, record.phone_number, record.message_body, record.status), tuple[str, str, str, str])
    assert_type((record.created_at, record.updated_at), tuple[datetime | None, datetime | None])
    assert_type((record.total_sms, record.application), tuple[int | None, str | None])
    assert_type(await client.wait_for_status("uid", {"sent"}, timeout=5, interval=0.5), SmsRecord)
    found = await client.find_in_history(Sms(PHONE, TEXT), since=datetime.now(UTC))
    assert_type(found, SmsRecord | None)
    found.status  # type: ignore[union-attr] # noqa: B018 - it may not be found
    await client.find_in_history(Sms(PHONE, TEXT))  # type: ignore[call-arg] # since when?
    await client.status(7)  # type: ignore[arg-type] # an id is text


def messages() -> Iterator[Sms]:
    """Yield messages."""
    yield Sms(PHONE, TEXT)
    yield Sms(phone=PHONE, message=TEXT, key="7", expires_at=datetime.now(UTC))
    yield Sms(PHONE)  # type: ignore[call-arg] # no text
    yield Sms(PHONE, TEXT, expires_at=30)  # type: ignore[arg-type] # a moment, no duration


async def messages_in_time() -> AsyncIterator[Sms]:
    """Yield messages as they come."""
    yield Sms(PHONE, TEXT)


def observe(event: SendEvent) -> None:
    """Observe a send."""
    assert_type((event.sent, event.error, event.may_have_been_sent), tuple[bool, OcaSmsError | None, bool])
    assert_type((event.attempts, event.priority, event.waited, event.took), tuple[int, Priority, float, float])
    AsyncOcaSms("user", "secret", observer=observe)
    assert_type(metrics_observer(), Callable[[SendEvent], None])
    AsyncOcaSms("user", "secret", observer=metrics_observer(meter_provider=NoOpMeterProvider()))
    OcaSms("user", "secret", observer=metrics_observer(None))
    metrics_observer("global")  # type: ignore[arg-type] # a provider, no name


async def send_them(client: AsyncOcaSms, path: Path) -> None:
    """Send many messages."""
    run = client.bulk(messages())
    assert_type(run, AbstractAsyncContextManager[BulkRun])
    async with client.bulk(messages_in_time(), concurrency=8) as entered:
        async for outcome in entered:
            assert_type(outcome, Sent | Failed | Skipped)
            assert_type(outcome.sms, Sms)
            assert_type(told(outcome), str)
        assert_type((entered.pulled, entered.resent), tuple[int, int])
        assert_type(entered.stopped_by, OcaSmsError | None)
        assert_type(await entered.report(), BulkReport)
    report = await client.send_many([Sms(PHONE, TEXT)], concurrency=8)
    assert_type(report, BulkReport)
    assert_type(report.outcomes, tuple[Outcome, ...])
    assert_type((report.sent, report.retried), tuple[tuple[Sent, ...], tuple[Sent, ...]])
    assert_type((report.failed, report.unknown), tuple[tuple[Failed, ...], tuple[Failed, ...]])
    assert_type((report.skipped, report.stopped_by), tuple[tuple[Skipped, ...], OcaSmsError | None])
    async with SqliteJournal(path) as journal, client.bulk(messages(), journal=journal, resend_unknown=True):
        assert_type(journal, SqliteJournal)
        accepted: Journal = journal
    await SqliteJournal("bulk.journal").aclose()
    await client.send_many(messages_in_time(), journal=accepted, resend_unknown=True)
    settled = await client.reconcile(journal, messages_in_time())
    assert_type(settled, ReconcileReport)
    assert_type((settled.found, settled.doubtful), tuple[tuple[Sent, ...], tuple[Sms, ...]])
    await client.send_many([PHONE])  # type: ignore[list-item] # messages, no numbers
    await client.send_many(Sms(PHONE, TEXT))  # type: ignore[arg-type] # one message is not many
    async with client.bulk(messages(), journal=path):  # type: ignore[arg-type] # a journal, no path
        pass
    for _ in run:  # type: ignore[attr-defined] # it is entered first
        pass


async def send_by_key(journal: Journal) -> None:
    """Send a message with a key, and ask what a journal knows of it."""
    client = AsyncOcaSms("user", "secret", journal=journal)
    assert_type(client.journal, Journal | None)
    assert_type(await client.send(PHONE, TEXT, key="login 17", expires_at=datetime.now(UTC)), SendReceipt)
    assert_type(client.has_history, bool)
    entry = await journal.lookup("login 17")
    assert_type(entry, JournalEntry | None)
    if entry is not None:
        assert_type((entry.receipt, entry.attempts), tuple[SendReceipt | None, int])
        assert_type((entry.error, entry.code), tuple[str | None, int | None])
        status: str = entry.status
        assert status != "unsent"
    assert_type(await journal.forget(datetime.now(UTC), doubtful=True), int)
    await client.send(PHONE, TEXT, key=17)  # type: ignore[arg-type] # a key is text


async def share() -> None:
    """Share a journal between machines."""
    async with PostgresJournal("postgresql://localhost/sms", name="acme", timeout=2) as shared:
        assert_type(await shared.setup(), None)
        await send_by_key(shared)
    bucket = PostgresTokenBucket(
        "postgresql://localhost/sms", name="acme", rate=22, capacity=1, fallback=TokenBucket(5)
    )
    assert_type(await bucket.setup(), None)
    limiter: RateLimiter = bucket
    AsyncOcaSms("user", "secret", limiter=limiter)
    found = shared.lookup_key("login 17", PHONE, TEXT)
    await found
    PostgresJournal("postgresql://localhost/sms")  # type: ignore[call-arg] # a journal has a name
    tables: str = SCHEMA
    assert tables


async def queue_up() -> None:
    """Put messages, and work for the queue."""
    async with SmsQueue("postgresql://localhost/sms", name="acme", region="ID") as queue:
        assert_type(await queue.setup(), None)
        assert_type(queue.name, str)
        assert_type(queue.journal, PostgresJournal)
        assert_type(queue.app, App)
        assert_type(queue.limiter(22, 1), PostgresTokenBucket)
        assert_type(await queue.put(PHONE, TEXT, key="login 17", expires_in=60, priority=Priority.BULK), bool)
        async with await AsyncConnection.connect("postgresql://localhost/sms") as connection:
            await queue.put(PHONE, TEXT, key="login 18", expires_at=datetime.now(UTC), connection=connection)
        assert_type(await queue.put_many([Sms(PHONE, TEXT, key="order 1")]), int)
        entry = await queue.lookup("login 17")
        assert_type(entry, QueueEntry | None)
        if entry is not None:
            assert_type(entry.status, Literal["waiting", "sent", "failed", "unknown"])
            assert_type((entry.receipt, entry.error, entry.code), tuple[SendReceipt | None, str | None, int | None])
        counted = await queue.statistics()
        assert_type(counted, QueueStatistics)
        assert_type((counted.waiting_interactive, counted.waiting_bulk, counted.working), tuple[int, int, int])
        assert_type(counted.oldest_age, float | None)
        async with AsyncOcaSms("user", "secret", journal=queue.journal, limiter=queue.limiter()) as client:
            assert_type(await queue.work(client, concurrency=8), None)
            report = await queue.reconcile(client)
            assert_type(report, QueueReconcileReport)
            assert_type((report.found, report.doubtful), tuple[int, int])
        await queue.put(PHONE, TEXT)  # type: ignore[call-arg] # a message of a queue has a key
        report.found = 7  # type: ignore[misc] # frozen


def told(outcome: Outcome) -> str:
    """Tell the three outcomes apart, so that mypy knows that there is no fourth."""
    match outcome:
        case Sent(receipt=receipt):
            return receipt.msg_uid
        case Failed(error=error):
            return "doubtful" if error.may_have_been_sent else "unsent"
        case Skipped(reason=reason, receipt=receipt):
            assert_type(reason, OcaSmsError | None)
            return "sent before" if receipt else "not tried"
        case _:
            assert_never(outcome)


def go_wrong(error: OcaSmsError) -> NoReturn:
    """Ask an error what it knows."""
    assert_type((error.may_have_been_sent, error.attempts), tuple[bool, int])
    assert_type(type(error)(*error.args), OcaSmsError)  # as task queues do
    error.status_code  # type: ignore[attr-defined] # noqa: B018 - not every error is the gateway's
    if isinstance(error, ApiError):
        assert_type((error.status_code, error.code, error.text), tuple[int, int | None, str])
        assert_type(error.fields, tuple[FieldError, ...])
        assert_type(error.retry_after, float | None)
        assert_type([(field.param, field.msg, field.location) for field in error.fields], list[tuple[str, str, str]])
    raise error


class Kinds:
    """The errors, each as what it descends from."""

    values: type[ValueError] = InvalidMessageError
    times: type[TimeoutError] = ExpiredError
    unsent: type[ConnectionFailedError] = ClientClosedError
    misused: tuple[type[RuntimeError], ...] = (ClientClosedError, JournalClosedError)
    ours: tuple[type[OcaSmsError], ...] = (
        ApiError,
        ConnectionFailedError,
        DeliveryUnknownError,
        ExpiredError,
        InvalidMessageError,
        JournalError,
        LimiterUnavailableError,
        UnexpectedResponseError,
        UnsupportedError,
    )
    refusals: tuple[type[ApiError], ...] = (
        AccountError,
        InternalError,
        InvalidRequestError,
        NotFoundError,
        RateLimitedError,
    )
    accounts: tuple[type[AccountError], ...] = (
        AccountExpiredError,
        InvalidCredentialsError,
        MissingAuthorizationError,
        QuotaExhaustedError,
        UserNotFoundError,
    )
    foreign: type[ApiError] = DeliveryUnknownError  # type: ignore[assignment] # no word of the gateway's


async def limit(client: redis.asyncio.Redis) -> None:
    """Make limiters, and wait for their tokens."""
    limiters: list[RateLimiter] = [
        TokenBucket(),
        TokenBucket(22, capacity=3),
        Unlimited(),
        OneAtATime(),
        RedisTokenBucket("redis://localhost", name="acme"),
        RedisTokenBucket(client, name="acme", rate=22, capacity=1, timeout=2, fallback=TokenBucket(5)),
    ]
    for limiter in limiters:
        await limiter.acquire(priority=Priority.BULK, deadline=asyncio.get_running_loop().time() + 5)
        assert_type(limiter.pause(1), None)
    bucket = TokenBucket()
    assert_type(await bucket.start(), bool)
    bucket.give_back()
    now = bucket.statistics()
    assert_type(now, LimiterStatistics)
    assert_type((now.granted, now.refused, now.waiting), tuple[int, int, int])
    assert_type((now.tokens, now.paused_for, bucket.rate, bucket.capacity), tuple[float, float, float, float])
    shared = RedisTokenBucket("redis://localhost", name="acme")
    assert_type(shared.statistics(), LimiterStatistics)
    assert_type(await shared.aclose(), None)
    RedisTokenBucket("redis://localhost")  # type: ignore[call-arg] # whose limit is it?
    limiters.append(Pauseless())  # type: ignore[arg-type] # half of a limiter is none
    await bucket.acquire(Priority.BULK)  # type: ignore[call-arg] # options are named
    now.granted = 0  # type: ignore[misc] # frozen
    RetryPolicy().max_attempts = 7  # type: ignore[misc] # frozen


def measure() -> None:
    """Measure a text."""
    size = segments(TEXT)
    assert_type(size, Segments)
    assert_type(size.encoding, Literal["GSM-7", "UCS-2"])
    assert_type((size.units, size.count), tuple[int, int])
    advice = check_message(TEXT, brand="Acme")
    assert_type(advice, list[Advice])
    assert_type([(it.code, it.text) for it in advice], list[tuple[str, str]])
    check_message(TEXT, "Acme")  # type: ignore[call-arg] # options are named
    segments(TEXT.encode())  # type: ignore[arg-type] # characters, no bytes
    assert_type(normalize_phone(PHONE), str)
    assert_type(mask_phone(normalize_phone("9123 4567", region="SG")), str)
    normalize_phone(PHONE, "ID")  # type: ignore[call-arg] # options are named


async def practise() -> None:
    """Use the extras that stand in for the gateway, and the command."""
    async with Sandbox(quota=10, rate_limit=25, faults={"reset": 0.1}, seed=7).serve(port=8080) as sandbox:
        assert_type(sandbox, Sandbox)
        assert_type((sandbox.base_url, sandbox.username, sandbox.password), tuple[str, str, str])
        assert_type((sandbox.token, sandbox.sender_id, sandbox.url_of("premium-v2")), tuple[str, str, str])
        assert_type(sandbox.environment("premium-v2"), dict[str, str])
        assert_type((sandbox.inbox[0].api, sandbox.inbox[0].sender_id), tuple[str, str | None])
        assert_type(sandbox.inbox, Inbox)
        assert_type(sandbox.inbox[0], Message)
        assert_type(sandbox.inbox[1:], list[Message])
        assert_type([message.text for message in sandbox.inbox], list[str])
        assert_type((message := sandbox.inbox[0]).code, str | None)
        assert_type((message.status, message.faults), tuple[str, tuple[str, ...]])
        assert_type(await sandbox.inbox.wait_for(PHONE, timeout=5), Message)
        assert_type(sandbox.inbox.code(PHONE), str)
        sandbox.when(PHONE).respond("reset", times=2).respond(status=503, body="away", headers={"Retry-After": "1"})
        sandbox.when().respond(status="503")  # type: ignore[arg-type] # a number
        sandbox.latency = 0.5
        sandbox.allowed_hosts = ["sms.acme.example"]
        sandbox.base_url = "http://localhost"  # type: ignore[misc] # it is where it is served
    assert_type(sandbox.asgi(), Starlette)
    assert_type(aiohttp_client(verify=True, trust_env=False), httpx.AsyncClient)
    assert_type(main(), None)
    assert_type([kind for kind in FAULTS], list[str])  # noqa: C416 - a tuple whose length is nobody's business
    _ = (oca_sms_client, oca_sms_sandbox)  # pytest hands out what they yield


async def count(client: AsyncOcaSms) -> None:
    """Read what a client counts."""
    now = client.statistics()
    assert_type(now, Statistics)
    assert_type((now.sent, now.retried, now.unknown, now.in_flight, now.waiting), tuple[int, int, int, int, int])
    assert_type((now.failed["ApiError"], now.limiter_wait), tuple[int, float])
    now.failed["ApiError"] = 1  # type: ignore[index] # what was counted stays

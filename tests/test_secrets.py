"""Credentials, texts and whole numbers: each field holds a marker, and the tests search for it.

A secret may be seen in these places. They exist for it, or belong to another library:

| place | secret | shown by |
| --- | --- | --- |
| `sms.phone`, `.message`, `.key` | the caller's own value | the caller, by asking; no repr does |
| `record.phone_number`, `.message_body` | the gateway's record | as above |
| `receipt.msg_uid`, `.status` | the gateway's id and word | their repr, the journal, `oca-sms send` |
| `error.text`, `.fields`, `.code` | the gateway's words, digit runs of the first two starred | the caller, by asking |
| httpcore's log at DEBUG | an answer's headers, and bytes of an answer that cannot be read | the one that turns it on |
| `history`, `status`, `--out` with `--show-numbers` or `--show-texts` | as asked for | the operator |
| `--out` | a row's `key`, unless it holds the row's number | its file |
"""

import asyncio
import base64
import copy
import json
import logging
import pickle
import re
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import trustme
from each_api import over
from misbehaviours import say_nothing
from moved_clock import Clock
from raw_gateway import Connection, RawGateway, http

import oca_sms_async
from oca_sms_async import (
    AsyncOcaSms,
    BulkReport,
    Failed,
    FieldError,
    OcaSmsError,
    PremiumV1,
    PremiumV2,
    ReconcileReport,
    RegularV1,
    RegularV2,
    RetryPolicy,
    Sent,
    Skipped,
    Sms,
    SmsRecord,
    SqliteJournal,
    TokenBucket,
    Unlimited,
)
from oca_sms_async._call import CallOptions
from oca_sms_async._scrub import chain
from oca_sms_async._wire._account import Account
from oca_sms_async.aiohttp import aiohttp_client
from oca_sms_async.cli._app import run
from oca_sms_async.redis import RedisTokenBucket

USERNAME = "marker-username@example.com"
PASSWORD = "marker-password"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.marker-token.c2lnbmF0dXJl"
PHONE = "+6281381475159"
CODE = "482913"
TEXT = f"marker-text {CODE}"
KEY = "marker-key"
HEADER = "marker-header"
UID = "uid-of-a-receipt"
BASIC = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
MARKERS = ("marker", CODE, PHONE[1:], PHONE[3:], "81475159", BASIC, TOKEN)
BY_PASSWORD = RegularV1(USERNAME, PASSWORD)
ACCOUNTS: dict[str, Account] = {"password": BY_PASSWORD, "token": RegularV2(TOKEN)}

ECHO = f"marker-echo {PHONE} {TEXT} {BASIC} {TOKEN}"
DIGITS = 6281381475159


def refusal(message: object, code: object, status: str) -> bytes:
    """Return a refusal in the documented shape, with a header that echoes."""
    return http({"errors": [{"message": message, "code": code}]}, status, f"x-echo: {ECHO}\r\n")


FIELDS = [{"value": PHONE, "msg": ECHO, "param": "marker-param", "location": "marker-location"}]
RECORD = {"phone_number": PHONE, "message_body": TEXT, "created_at": ECHO, "status": "sent", "msg_uid": "abc"}
ANSWERS = {
    "receipt": http({"status": "sent", "msg_uid": UID, "msg_id": UID, "echo": ECHO}),
    "39": refusal(FIELDS, "39", "406 Not Acceptable"),
    "17": refusal(ECHO, 17, "401 Unauthorized"),
    "19": refusal(ECHO, 19, "406 Not Acceptable"),
    "41": refusal(ECHO, 41, "404 Not Found"),
    "51": refusal(ECHO, 51, "401 Unauthorized"),
    "55": refusal(ECHO, 55, "401 Unauthorized"),
    "5": refusal(ECHO, 5, "401 Unauthorized"),
    "43": refusal(ECHO, 43, "401 Unauthorized"),
    "45": refusal(ECHO, 45, "401 Unauthorized"),
    "59": refusal(ECHO, 59, "406 Not Acceptable"),
    "403": http(ECHO.encode(), "403 Forbidden"),
    "404": http(ECHO.encode(), "404 Not Found"),
    "code": refusal(ECHO, DIGITS, "400 Bad Request"),
    "13": refusal(ECHO, 13, "500 Oops"),
    "429": refusal(ECHO, 9, "429 Too Many Requests"),
    "429 with a code": refusal(ECHO, DIGITS, "429 Too Many Requests"),
    "not json": http(ECHO.encode()),
    "html": http(f"<html>{ECHO}".encode(), "502 Bad Gateway"),
    "no receipt": http({"echo": ECHO}),
    "odd receipt": http({"status": [ECHO], "msg_uid": ECHO}),
    "success with errors": http({"errors": [{"message": ECHO, "code": ECHO}]}),
    "redirect": http(b"", "302 Found", f"location: http://localhost:1/{BASIC}\r\n"),
    "odd encoding": http(ECHO.encode(), headers="content-encoding: gzip\r\n"),
    "status line": f"HTTP/1.1 {ECHO}\r\n\r\n".encode(),
    "illegal status line": f"{ECHO}\r\n\r\n".encode(),
    "illegal header": f"HTTP/1.1 200 OK\r\n{ECHO}\x00: x\r\n\r\n".encode(),
    "illegal length": f"HTTP/1.1 200 OK\r\ncontent-length: {ECHO}\r\n\r\n".encode(),
    "illegal chunk": f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{ECHO}\r\n".encode(),
    "long header": f"HTTP/1.1 200 OK\r\nx-echo: {ECHO * 2000}\r\n\r\n".encode(),
    "short": http(ECHO.encode())[:-4],
    "hang up": b"",
}


def _shows_the_answer(record: logging.LogRecord) -> bool:
    """Tell whether httpcore logs a part of the answer: headers, or bytes that it could not read."""
    said = ("receive_response_headers.", "receive_response_body.failed")
    return record.name == "httpcore.http11" and record.getMessage().startswith(said)


def lent_client() -> httpx.AsyncClient:
    """Return an ordinary lent client with credentials of its own."""
    return httpx.AsyncClient(headers={"X-Key": HEADER}, auth=("marker-user", "marker"), cookies={"session": "marker"})


LENT: dict[str, Callable[[], httpx.AsyncClient] | None] = {
    "own": None,
    "aiohttp": lambda: aiohttp_client(headers={"X-Key": HEADER}),
    "lent": lent_client,
}


class Listener(logging.Handler):
    """Keeps every record of every logger, formatted and with all its attributes."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[tuple[logging.LogRecord, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        fields = {name: value for name, value in vars(record).items() if not isinstance(value, int | float)}
        # Without fractions: the fraction of a clock holds any six digits sooner or later.
        self.heard.append((record, re.sub(r"\d\.\d+", "0.0", f"{self.format(record)} {fields}")))

    def texts(self) -> list[str]:
        """Return the texts of the records, except those in which httpcore shows the answer."""
        return [text for record, text in self.heard if not _shows_the_answer(record)]


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Listen to every logger at DEBUG, those of other libraries too."""
    root, heard = logging.getLogger(), Listener()
    loggers = [root, *(it for it in logging.Logger.manager.loggerDict.values() if isinstance(it, logging.Logger))]
    before = [(logger, logger.level, logger.propagate, logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.propagate, logger.disabled = True, False
        logger.setLevel(logging.DEBUG)
    root.addHandler(heard)
    yield heard
    root.removeHandler(heard)
    for logger, level, propagate, disabled in before:
        logger.propagate, logger.disabled = propagate, disabled
        logger.setLevel(level)


def texts_of(error: BaseException) -> Iterator[str]:
    """Yield every text of an error: words, notes, attributes, copies, pickle, and those of its causes."""
    for link in chain(error):
        yield from (str(link), repr(link), repr(link.args), repr(getattr(link, "__notes__", None)))
        if link is not error:  # the frames of the error itself are the caller's
            yield "".join(
                traceback.TracebackException.from_exception(link, capture_locals=True, max_group_depth=100).format()
            )
        # Not searched: the gateway's words, in the one place that is documented for them.
        theirs = {"text", "fields", "code"} if isinstance(link, OcaSmsError) else set()
        yield repr({name: value for name, value in vars(link).items() if name not in theirs})
    if isinstance(error, OcaSmsError):
        for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            yield repr((twin, twin.args))
        twin = copy.copy(error)
        vars(twin).update({name: None for name in ("text", "fields", "code") if name in vars(twin)})
        yield repr(pickle.dumps(twin))


def find_markers(texts: Iterable[str]) -> list[str]:
    """Return the markers in these texts, with the characters around them."""
    return [
        text[max(0, text.index(marker) - 60) : text.index(marker) + 60]
        for text in texts
        for marker in MARKERS
        if marker in text
    ]


@asynccontextmanager
async def serve_answer(answer: bytes) -> AsyncIterator[RawGateway]:
    """Serve a gateway that always gives this answer, and hangs up."""

    async def echo(connection: Connection) -> None:
        await connection.write(answer)
        connection.writer.close()

    async with RawGateway(echo).serve() as gateway:
        yield gateway


def client_at(base_url: str, api: Account = BY_PASSWORD, **options: Any) -> AsyncOcaSms:
    """Return a client with the markers, without limit and back-off."""
    defaults: dict[str, Any] = {"limiter": Unlimited(), "retry": RetryPolicy(max_attempts=2, initial_wait=0)}
    return AsyncOcaSms(api=api, base_url=base_url, **(defaults | options))


async def error_of(call: Awaitable[object]) -> list[OcaSmsError]:
    """Return the error in which a call ends, or an empty list."""
    try:
        await call
    except OcaSmsError as error:
        return [error]
    return []


@pytest.mark.parametrize("account", ACCOUNTS)
@pytest.mark.parametrize("lent", LENT)
@pytest.mark.parametrize("answer", ANSWERS)
async def test_no_error_and_no_log_shows_a_secret(answer: str, lent: str, account: str, listener: Listener) -> None:
    """No log record, no error and no cause shows a secret, in every answer and through every client."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0  # asyncio logs each step with its task, as it logs slow ones
    make = LENT[lent]
    http_client = None if make is None else make()
    errors: list[OcaSmsError] = []
    async with serve_answer(ANSWERS[answer]) as gateway:
        async with client_at(gateway.base_url, ACCOUNTS[account], http_client=http_client) as client:
            sms = Sms(PHONE, TEXT, key=KEY)
            report = await client.send_many([sms, sms])
            errors += [outcome.error for outcome in report.failed]
            for call in (client.send(PHONE, TEXT), client.status("abc"), client.history()):
                errors += await error_of(call)
            values = [client, client._dispatcher, client.statistics(), report, report.outcomes, sms, client._api]
            assert find_markers(map(repr, values)) == []
        if http_client is not None:
            await http_client.aclose()
    loop.set_debug(False)
    assert errors or answer == "receipt"
    assert find_markers(text for error in errors for text in texts_of(error)) == []
    assert find_markers(listener.texts()) == []
    assert any(record.name == "asyncio" for record, _ in listener.heard)


# --- every error that there is --------------------------------------------------------------------------------------


async def send_invalid(folder: Path, api: Account) -> list[OcaSmsError]:
    """Send impossible numbers, texts, keys and dates."""
    async with client_at("http://127.0.0.1:1", api) as client, SqliteJournal(folder / "journal") as journal:
        naive = Sms(PHONE, TEXT, KEY, datetime(2030, 1, 1))  # noqa: DTZ001 - a naive date is the fault
        refused = [
            Sms(f"{PHONE} marker", TEXT, KEY),
            Sms("0" + PHONE[3:] * 3, TEXT),
            Sms(PHONE, f"{TEXT} \ud83d"),
            naive,
        ]
        refused += [Sms(PHONE, TEXT, key="")]
        report = await client.send_many(refused, journal=journal)
        errors = [outcome.error for outcome in report.failed]
        for sms in refused[:3]:
            errors += await error_of(client.send(sms.phone, sms.message))
        return errors


async def send_expired(_: Path, api: Account) -> list[OcaSmsError]:
    """Let a message expire at once, while it waits for its token, and on the wire."""
    async with RawGateway(say_nothing).serve() as gateway, client_at(gateway.base_url, api) as client:
        errors = await error_of(client.send(PHONE, TEXT, expires_in=0))
        with pytest.MonkeyPatch.context() as patch:
            call = asyncio.create_task(error_of(client.send(PHONE, TEXT, expires_in=5)))
            await Clock(patch).end(call, once=gateway.stalled.wait(), at_most=6)
        errors += await call
        assert len(gateway.requests) == 1
        limiter = TokenBucket(rate=0.001)
        await limiter.acquire()
        async with client_at(gateway.base_url, api, limiter=limiter) as paced:
            return errors + await error_of(paced.send(PHONE, TEXT, expires_in=0.1))


async def send_without_limiter(_: Path, api: Account) -> list[OcaSmsError]:
    """Send without a Redis; its password is a secret too."""
    limiter = RedisTokenBucket("redis://marker-user:marker-password@127.0.0.1:1/0", name="acme")
    async with client_at("http://127.0.0.1:1", api, limiter=limiter) as client:
        errors = await error_of(client.send(PHONE, TEXT))
        report = await client.send_many([Sms(PHONE, TEXT, KEY)])
    await limiter.aclose()
    return errors + [it.reason for it in report.skipped if it.reason is not None]


async def send_without_journal(folder: Path, api: Account) -> list[OcaSmsError]:
    """Open a file that is no journal and holds the markers."""
    (folder / "broken").write_text(ECHO * 100)
    async with client_at("http://127.0.0.1:1", api) as client, SqliteJournal(folder / "broken") as journal:
        return await error_of(client.send_many([Sms(PHONE, TEXT, KEY)], journal=journal))


async def send_nowhere(_: Path, api: Account) -> list[OcaSmsError]:
    """Find a closed port, and a server with an unknown certificate, through each transport."""
    errors: list[OcaSmsError] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with RawGateway().serve(context) as gateway:
        for base_url in ("http://127.0.0.1:1", gateway.base_url):
            for make in LENT.values():
                http_client = None if make is None else make()
                async with client_at(base_url, api, http_client=http_client) as client:
                    errors += await error_of(client.send(PHONE, TEXT))
                if http_client is not None:
                    await http_client.aclose()
        assert gateway.requests == []
    return errors


async def ask_without_history(_: Path, api: Account) -> list[OcaSmsError]:
    """Ask Premium for a history, which it does not have, with the same credentials."""
    by_password = PremiumV1(USERNAME, PASSWORD, sender_id="Acme")
    premium = by_password if api is BY_PASSWORD else PremiumV2(TOKEN, sender_id="Acme")
    async with client_at("http://127.0.0.1:1", premium) as client:
        since = datetime.now(UTC)
        return [
            *await error_of(client.history()),
            *await error_of(client.find_in_history(Sms(PHONE, TEXT), since=since)),
        ]


def ask_gateway(*answers: str) -> Callable[[Path, Account], Awaitable[list[OcaSmsError]]]:
    """Return a function that sends to a gateway with each of these answers, and asks it for a status."""

    async def ask(_: Path, api: Account) -> list[OcaSmsError]:
        errors: list[OcaSmsError] = []
        for answer in answers:
            async with serve_answer(ANSWERS[answer]) as gateway, client_at(gateway.base_url, api) as client:
                errors += [*await error_of(client.send(PHONE, TEXT)), *await error_of(client.status("abc"))]
        return errors

    return ask


async def send_with_closed_journal(folder: Path, api: Account) -> list[OcaSmsError]:
    """Send with a journal that is closed."""
    journal = SqliteJournal(folder / "closed")
    await journal.aclose()
    async with client_at("http://127.0.0.1:1", api) as client:
        return await error_of(client.send_many([Sms(PHONE, TEXT, KEY)], journal=journal))


async def send_after_close(_: Path, api: Account) -> list[OcaSmsError]:
    """Send through a client that is closed."""
    async with client_at("http://127.0.0.1:1", api) as client:
        pass
    return await error_of(client.send(PHONE, TEXT))


WAYS: dict[str, Callable[[Path, Account], Awaitable[list[OcaSmsError]]]] = {
    "InvalidMessageError": send_invalid,
    "ExpiredError": send_expired,
    "UnsupportedError": ask_without_history,
    "LimiterUnavailableError": send_without_limiter,
    "JournalError": send_without_journal,
    "JournalClosedError": send_with_closed_journal,
    "ConnectionFailedError": send_nowhere,
    "ClientClosedError": send_after_close,
    "DeliveryUnknownError": ask_gateway("hang up"),
    "UnexpectedResponseError": ask_gateway("not json"),
    "ApiError": ask_gateway("html"),
    "InternalError": ask_gateway("13"),
    "InvalidRequestError": ask_gateway("39", "59"),
    "RateLimitedError": ask_gateway("429"),
    "NotFoundError": ask_gateway("404"),
    "AccountError": ask_gateway("403"),
    "InvalidCredentialsError": ask_gateway("17", "45"),
    "MissingAuthorizationError": ask_gateway("19", "43"),
    "UserNotFoundError": ask_gateway("41"),
    "AccountExpiredError": ask_gateway("51"),
    "QuotaExhaustedError": ask_gateway("55", "5"),
}
OF_V1 = {"UserNotFoundError", "AccountExpiredError"}  # V2 has no codes for them


@pytest.mark.parametrize(
    ("name", "account"),
    [(name, account) for name in WAYS for account in ACCOUNTS if account == "password" or name not in OF_V1],
)
async def test_no_real_error_shows_a_secret(name: str, account: str, tmp_path: Path, listener: Listener) -> None:
    """Each error is provoked for real. Neither the error nor the log shows a secret."""
    errors = await WAYS[name](tmp_path, ACCOUNTS[account])
    assert name in {type(error).__name__ for error in errors}
    assert find_markers(text for error in errors for text in texts_of(error)) == []
    assert find_markers(listener.texts()) == []


def test_every_error_has_its_way() -> None:
    """The table above has every exported error except the root, which is never raised."""
    exported = {name: getattr(oca_sms_async, name) for name in oca_sms_async.__all__}  # a lazy one is no attribute yet
    errors = {name for name, it in exported.items() if isinstance(it, type) and issubclass(it, OcaSmsError)}
    assert errors - {"OcaSmsError"} == WAYS.keys()


async def test_a_hook_of_a_lent_client_leaves_no_request_behind() -> None:
    """`raise_for_status` in a hook raises an error that holds response and request; both are removed."""

    async def hook(response: httpx.Response) -> None:
        response.raise_for_status()

    answer = httpx.MockTransport(lambda _: httpx.Response(500, json={}))
    async with httpx.AsyncClient(transport=answer, event_hooks={"response": [hook]}) as lent:
        client = AsyncOcaSms(USERNAME, PASSWORD, http_client=lent, limiter=Unlimited())
        with pytest.raises(OcaSmsError) as caught:
            await client.send(PHONE, TEXT)
    assert [link for link in chain(caught.value) if vars(link).get("response") or vars(link).get("_request")] == []


async def test_a_body_that_breaks_off_keeps_nothing_of_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of aiohttp quotes the unreadable bytes, so it is neither cause nor context of ours."""

    async def fail(_: object) -> bytes:
        raise ValueError(ECHO)

    async with (
        RawGateway().serve() as gateway,
        aiohttp_client() as lent,
        lent.stream("GET", gateway.base_url) as response,
    ):
        monkeypatch.setattr(aiohttp.StreamReader, "readany", fail)
        with pytest.raises(httpx.ReadError) as caught:
            await response.aread()
    assert [*chain(caught.value)] == [caught.value]
    assert find_markers([str(caught.value)]) == []


async def test_a_cancelled_send_is_not_shown_either(listener: Listener) -> None:
    """The log of a cancelled send shows no secret, whether its request had started or not."""
    limiter = TokenBucket(rate=0.001, capacity=2.0)  # on a busy machine a connection takes long, and costs a token
    async with RawGateway(say_nothing).serve() as gateway, client_at(gateway.base_url, limiter=limiter) as client:
        tasks = [asyncio.create_task(client.send(PHONE, TEXT)) for _ in range(3)]
        await gateway.has_read(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert find_markers(map(repr, tasks)) == []
    assert any(record.name == "oca_sms_async" for record, _ in listener.heard)
    assert find_markers(listener.texts()) == []


def test_values_do_not_show_what_they_hold() -> None:
    """No value with a number or a text shows it in its repr."""
    sms = Sms(PHONE, TEXT, key=KEY)
    record = SmsRecord("abc", PHONE, TEXT, "sent", None, 1)
    error = OcaSmsError("ours")
    sent = Sent(sms, receipt=None)  # type: ignore[arg-type] # only the message matters
    values = [
        sms,
        record,
        FieldError("phone_number", ECHO, "body"),
        sent,
        Failed(sms, error),
        Skipped(sms, error),
        BulkReport((Failed(sms, error),), error),
        ReconcileReport((sent,), (sms,)),
        CallOptions(oca_sms_async.Priority.BULK, 10.0, number=PHONE),
        RedisTokenBucket("redis://marker-user:marker-password@127.0.0.1:1/0", name="acme"),
    ]
    assert find_markers(map(repr, values)) == []
    assert all(PHONE[-3:] in repr(value) for value in (sms, record))


# --- files and the command line -------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    """Return the content of each file in a folder, each byte as a character."""
    return {path.name: path.read_bytes().decode("latin-1") for path in folder.iterdir()}


@pytest.mark.parametrize("account", ACCOUNTS)
@pytest.mark.parametrize("answer", ["receipt", "13", "39", "hang up", "not json"])
async def test_the_journal_holds_no_secret(answer: str, account: str, tmp_path: Path) -> None:
    """The journal holds no secret, in use and closed, and it is the only file."""
    async with serve_answer(ANSWERS[answer]) as gateway, client_at(gateway.base_url, ACCOUNTS[account]) as client:
        async with SqliteJournal(tmp_path / "journal") as journal:
            await client.send_many([Sms(PHONE, TEXT, KEY), Sms(PHONE, TEXT)], journal=journal)
            used = contents(tmp_path)
        closed = contents(tmp_path)
    assert used.keys() == closed.keys() == {"journal"}
    assert (UID in used["journal"], UID in closed["journal"]) == (answer == "receipt",) * 2  # the search works
    assert find_markers([*used.values(), *closed.values()]) == []


VARIABLES = {
    "regular-v1": {"OCA_SMS_USERNAME": USERNAME, "OCA_SMS_PASSWORD": PASSWORD},
    "premium-v2": {"OCA_SMS_API": "premium-v2", "OCA_SMS_TOKEN": TOKEN, "OCA_SMS_SENDER_ID": "Acme"},
}


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, api: str) -> Callable[[RawGateway], None]:
    """Return a function that sets the command's account for `api`, with the markers, at a gateway."""

    def put(gateway: RawGateway) -> None:
        for name in {name for variables in VARIABLES.values() for name in variables}:
            monkeypatch.delenv(name, raising=False)
        for name, value in {**VARIABLES[api], "OCA_SMS_BASE_URL": gateway.base_url}.items():
            monkeypatch.setenv(name, value)

    return put


COMMANDS = {
    "send": ["send", PHONE, TEXT],
    "send nonsense": ["send", f"{PHONE}x", TEXT],
    "send with an unknown option": ["send", PHONE, TEXT, f"--{TEXT}"],
    "send too much": ["send", PHONE, TEXT, TEXT],
    "status": ["status", "abc"],
    "history": ["history"],
    "bulk": ["bulk", "FILE", "--journal", "FOLDER/journal", "--out", "FOLDER/out", "--rate", "1000"],
    "bulk with a template": ["bulk", "FILE", "--template", "marker {nonsense}"],
    "bulk of nonsense": ["bulk", "NONSENSE"],
}


@over(VARIABLES)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("answer", ["receipt", "13", "39", "17", "code", "404", "html", "not json", "hang up"])
async def test_a_command_shows_no_secret(
    answer: str,
    command: str,
    tmp_path: Path,
    account: Callable[[RawGateway], None],
    capsys: pytest.CaptureFixture[str],
    listener: Listener,
) -> None:
    """A command shows no secret on its outputs nor in its file, in every answer of the gateway."""
    (tmp_path / "messages.csv").write_text(f"phone,message,key\n{PHONE},{TEXT},{PHONE}\n0{PHONE[3:]},{TEXT} 2,\n")
    (tmp_path / "nonsense.csv").write_text(f"phone,message\n{PHONE}x,{TEXT}\n{PHONE},\n{PHONE}\n")
    names = {"FILE": str(tmp_path / "messages.csv"), "NONSENSE": str(tmp_path / "nonsense.csv")}
    arguments = [names.get(it, it.replace("FOLDER", str(tmp_path))) for it in COMMANDS[command]]
    async with serve_answer(ANSWERS[answer]) as gateway:
        account(gateway)
        status = await asyncio.to_thread(run, arguments)
    said = capsys.readouterr()
    assert said.err or status == 0
    assert find_markers([said.out, said.err]) == []
    assert find_markers(listener.texts()) == []
    if command == "bulk":
        content = contents(tmp_path)["out"]
        assert content.count("\n") == 2
        assert find_markers([content]) == []


async def test_options_show_numbers_and_texts(
    tmp_path: Path, account: Callable[[RawGateway], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Only their options show numbers and texts of the history, and numbers in `--out`."""
    async with serve_answer(http([RECORD])) as gateway:
        account(gateway)
        assert await asyncio.to_thread(run, ["history"]) == 0
        assert find_markers([capsys.readouterr().out]) == []
        assert await asyncio.to_thread(run, ["history", "--show-numbers", "--show-texts"]) == 0
    said = capsys.readouterr().out
    assert PHONE in said
    assert TEXT in said
    (tmp_path / "messages.csv").write_text(f"phone,message,key\n{PHONE},{TEXT},{KEY}\n")
    async with serve_answer(ANSWERS["receipt"]) as gateway:
        account(gateway)
        file, out = str(tmp_path / "messages.csv"), str(tmp_path / "out")
        assert await asyncio.to_thread(run, ["bulk", file, "--out", out, "--show-numbers"]) == 0
    (line,) = map(json.loads, contents(tmp_path)["out"].splitlines())
    assert (line["phone"], line["key"]) == (PHONE, KEY)
    del line["phone"], line["key"]
    assert find_markers([json.dumps(line)]) == []


def test_the_markers_survive_json() -> None:
    """The gateway's answers show the markers unchanged, or this module would search in vain."""
    assert all(marker in json.dumps([ECHO, USERNAME, BASIC]) for marker in MARKERS)

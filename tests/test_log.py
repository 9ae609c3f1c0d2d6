"""What is logged: each event by its name, with its fields and nothing else, and nothing at all where nobody listens."""

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from test_statistics import TEXT, Gateway, client_of, number
from virtual_time import in_virtual_time, run

from oca_sms_async import Journal, OcaSmsError, RateLimitedError, RetryPolicy, Sms, TokenBucket, _log
from oca_sms_async._log import EVENTS, log

OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}  # what every record has
WAIT = RetryPolicy(max_attempts=2, initial_wait=2.0002, max_wait=2.0002)  # of which milliseconds are told
MASKED = "***********001"


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what an event has beside what every record has."""
    return {name: value for name, value in vars(record).items() if name not in OWN}


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records of this library."""
    return [record for record in caplog.records if record.name == "oca_sms_async"]


@pytest.fixture(autouse=True)
def listening(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody listens to everything, and each back-off takes half of what it may."""
    caplog.set_level(logging.DEBUG, "oca_sms_async")
    monkeypatch.setattr("random.uniform", lambda low, high: (low + high) / 2)


async def retry() -> None:
    """Have a message answered 500 with code 13, and then taken."""
    await client_of(Gateway({number(1): ["13"]}), retry=WAIT).send(number(1), TEXT)


async def lookup_retry() -> None:
    """Have a question answered 500 with code 13, and then not as documented."""
    gateway = Gateway()
    gateway.questions = ["13"]
    await client_of(gateway, retry=WAIT).status("abc")


async def unsent_retry() -> None:
    """Have a connection fail, and the next one work."""
    gateway = Gateway({number(1): ["unreachable"]})
    await client_of(gateway, retry=RetryPolicy(2, 2.0, 2.0, retry_unsent=True)).send(number(1), TEXT)


async def cancelled() -> None:
    """Cancel a send in its second attempt."""
    async with asyncio.timeout(1.5):
        await client_of(Gateway({number(1): ["13"]})).send(number(1), TEXT)


async def paused() -> None:
    """Have a message refused by the rate limit."""
    await client_of(Gateway({number(1): ["9"]})).send(number(1), TEXT)


async def paused_by_a_question() -> None:
    """Have a question refused by the rate limit."""
    gateway = Gateway()
    gateway.questions = ["9"]
    await client_of(gateway).history()


async def stopped() -> None:
    """Have the account refused at the second message of a bulk."""
    client = client_of(Gateway({number(1): ["17"]}))
    await client.send_many([Sms(number(index), TEXT) for index in range(9)], concurrency=1)


REFUSED = {"error": "RateLimitedError", "status": 429, "code": 9}
SCENES: dict[str, tuple[Callable[[], Awaitable[None]], list[dict[str, Any]]]] = {
    "retry": (
        retry,
        [
            {
                "event": "send.retry",
                "phone": MASKED,
                "attempt": 2,
                "wait": 1.0,
                "error": "InternalError",
                "status": 500,
                "code": 13,
            }
        ],
    ),
    "lookup": (
        lookup_retry,
        [{"event": "lookup.retry", "attempt": 2, "wait": 1.0, "error": "InternalError", "status": 500, "code": 13}],
    ),
    "unsent": (
        unsent_retry,
        [{"event": "send.retry", "phone": MASKED, "attempt": 2, "wait": 1.0, "error": "ConnectionFailedError"}],
    ),
    "429": (paused, [{"event": "limiter.paused", "wait": 1.0, **REFUSED}]),
    "429 to a question": (paused_by_a_question, [{"event": "limiter.paused", "wait": 1.0, **REFUSED}]),
    "stopped": (
        stopped,
        [{"event": "bulk.stopped", "pulled": 2, "error": "InvalidCredentialsError", "status": 401, "code": 17}],
    ),
}


@pytest.mark.parametrize("scene", SCENES)
def test_each_event_has_its_name_and_its_fields(scene: str, caplog: pytest.LogCaptureFixture) -> None:
    """These and no others, and each of them in the message as well, which begins with the name."""
    act, expected = SCENES[scene]

    async def check() -> None:
        with contextlib.suppress(OcaSmsError):  # it ends as it may
            await act()

    run(check())
    assert [fields_of(record) for record in ours(caplog)] == expected
    for record in ours(caplog):
        fields = fields_of(record)
        event = fields.pop("event")
        said = " ".join(f"{name}={value}" for name, value in fields.items())
        assert record.getMessage().startswith(f"{event} {said}: ")
        assert record.levelno == EVENTS[event][0]


@in_virtual_time
async def test_a_cancelled_send_is_an_event(caplog: pytest.LogCaptureFixture) -> None:
    """With the masked number and the request that was on its way, beside what its first attempt had to say."""
    with pytest.raises(TimeoutError):
        await cancelled()
    record = ours(caplog)[-1]
    assert fields_of(record) == {"event": "send.cancelled", "phone": MASKED, "attempt": 2}


async def test_a_journal_in_doubt_is_an_event(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """When it is opened, once for each time, and not if nothing in it is in doubt."""
    path = tmp_path / "journal"
    messages = [Sms(number(index), TEXT) for index in range(5)]
    client = client_of(Gateway({number(0): ["lost"], number(1): ["39"], number(3): ["500"]}, takes=0))
    for _ in range(2):
        async with Journal(path) as journal:
            for _ in range(2):
                await client.send_many(messages, journal=journal)
    assert [fields_of(record) for record in ours(caplog)] == [
        {"event": "journal.doubtful", "journal": str(path), "doubtful": 2}
    ]


def test_the_table_lists_every_event_with_its_level() -> None:
    """The module's docstring, which users read, and the table that it is made by say the same."""
    rows = re.findall(r"^\| `([a-z._]+)` \| ([A-Z]+) \|", _log.__doc__ or "", re.MULTILINE)
    assert rows == [(event, logging.getLevelName(level)) for event, (level, _) in EVENTS.items()]


@pytest.mark.parametrize("scene", SCENES)
def test_the_table_lists_every_field(scene: str) -> None:
    """What an event carries is in its row."""
    for expected in SCENES[scene][1]:
        row = next(row for row in (_log.__doc__ or "").splitlines() if row.startswith(f"| `{expected['event']}` |"))
        listed = row.split("|")[3].strip().split(", ")
        assert expected.keys() - {"event"} <= set(listed)


def test_the_template_of_an_event_is_always_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Values are arguments, so that what groups records by their template has one group an event."""
    for status, phone in ((429, number(1)), (400, number(2))):
        log("send.retry", phone=phone, attempt=status, wait=status / 7, error=RateLimitedError(status, 9))
    assert len({record.msg for record in ours(caplog)}) == 1
    assert {record.funcName for record in ours(caplog)} == {"test_the_template_of_an_event_is_always_the_same"}


def test_a_code_that_may_be_a_number_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The gateway has echoed a recipient where its code should stand."""
    log("limiter.paused", wait=1.0, error=RateLimitedError(429, 6281381470001))
    (record,) = ours(caplog)
    assert "470001" not in f"{vars(record)} {record.getMessage()}"


def test_where_nobody_listens_nothing_is_made(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below its level an event costs neither a record nor the masking of a number."""
    caplog.set_level(logging.ERROR, "oca_sms_async")
    shown: list[str] = []
    monkeypatch.setattr(_log, "mask_phone", shown.append)
    log("send.cancelled", phone=number(1), attempt=1)
    assert (ours(caplog), shown) == ([], [])


@in_virtual_time
async def test_who_waits_and_gives_up_is_no_event(caplog: pytest.LogCaptureFixture) -> None:
    """A send that is cancelled before its request has sent nothing, and nobody need hear of it."""
    limiter = TokenBucket(rate=1.0)
    await limiter.acquire()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await client_of(Gateway(), limiter).send(number(1), TEXT)
    assert ours(caplog) == []

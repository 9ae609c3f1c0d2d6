"""The log: each event has its name and its fields alone, and costs nothing where no handler listens."""

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from in_memory import Gateway, accept, client_of, delay, fail, lose_answer, make_messages, refuse, respond, take_turns
from virtual_time import in_virtual_time, run

from oca_sms_async import OcaSmsError, RateLimitedError, RetryPolicy, SqliteJournal, TokenBucket, _log
from oca_sms_async._log import EVENTS, log

OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}  # every record has these
WAIT = RetryPolicy(max_attempts=2, initial_wait=2.0002, max_wait=2.0002)  # the log shows milliseconds of it
MESSAGES = make_messages(9)
PHONE, TEXT = MESSAGES[1].phone, MESSAGES[1].message
MASKED = "***********001"
INTERNAL_ERROR = refuse(500, 13)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the attributes that only this event's record has."""
    return {name: value for name, value in vars(record).items() if name not in OWN}


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records of this library."""
    return [record for record in caplog.records if record.name == "oca_sms_async"]


@pytest.fixture(autouse=True)
def listen(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listen at DEBUG, and let each back-off take half of its maximum."""
    caplog.set_level(logging.DEBUG, "oca_sms_async")
    monkeypatch.setattr("random.uniform", lambda low, high: (low + high) / 2)


async def retry_send() -> None:
    """Answer a message with 500 and code 13, then take it."""
    await client_of(Gateway(INTERNAL_ERROR, accept), retry=WAIT).send(PHONE, TEXT)


async def retry_lookup() -> None:
    """Answer a lookup with 500 and code 13, then with an undocumented body."""
    gateway = Gateway(lookup=take_turns(INTERNAL_ERROR, respond(200, {})))
    await client_of(gateway, retry=WAIT).status("abc")


async def retry_unsent() -> None:
    """Let one connection fail, and the next one work."""
    gateway = Gateway(fail(httpx.ConnectError), accept)
    await client_of(gateway, retry=RetryPolicy(2, 2.0, 2.0, retry_unsent=True)).send(PHONE, TEXT)


async def cancel_send() -> None:
    """Cancel a send in its second attempt."""
    async with asyncio.timeout(1.5):
        await client_of(Gateway(delay(1, INTERNAL_ERROR))).send(PHONE, TEXT)


async def pause_by_send() -> None:
    """Refuse a message by the rate limit."""
    await client_of(Gateway(refuse(429, 9))).send(PHONE, TEXT)


async def pause_by_lookup() -> None:
    """Refuse a lookup by the rate limit."""
    await client_of(Gateway(lookup=refuse(429, 9))).history()


async def stop_bulk() -> None:
    """Refuse the account at the second message of a bulk."""
    await client_of(Gateway(accept, refuse(401, 17))).send_many(MESSAGES, concurrency=1)


REFUSED = {"error": "RateLimitedError", "status": 429, "code": 9}
SCENES: dict[str, tuple[Callable[[], Awaitable[None]], list[dict[str, Any]]]] = {
    "retry": (
        retry_send,
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
        retry_lookup,
        [{"event": "lookup.retry", "attempt": 2, "wait": 1.0, "error": "InternalError", "status": 500, "code": 13}],
    ),
    "unsent": (
        retry_unsent,
        [{"event": "send.retry", "phone": MASKED, "attempt": 2, "wait": 1.0, "error": "ConnectionFailedError"}],
    ),
    "429": (pause_by_send, [{"event": "limiter.paused", "wait": 1.0, **REFUSED}]),
    "429 to a lookup": (pause_by_lookup, [{"event": "limiter.paused", "wait": 1.0, **REFUSED}]),
    "stopped": (
        stop_bulk,
        [{"event": "bulk.stopped", "pulled": 2, "error": "InvalidCredentialsError", "status": 401, "code": 17}],
    ),
}


@pytest.mark.parametrize("scene", SCENES)
def test_each_event_has_its_name_and_its_fields(scene: str, caplog: pytest.LogCaptureFixture) -> None:
    """An event has these fields and no others. Its message begins with the name and shows each field."""
    act, expected = SCENES[scene]

    async def check() -> None:
        with contextlib.suppress(OcaSmsError):  # some scenes end in an error
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
    """Cancelling a send logs the masked number and the request that was on its way."""
    with pytest.raises(TimeoutError):
        await cancel_send()
    record = ours(caplog)[-1]
    assert fields_of(record) == {"event": "send.cancelled", "phone": MASKED, "attempt": 2}


async def test_a_journal_in_doubt_is_an_event(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Opening a journal with doubtful messages logs one event, and opening a clean one no event."""
    path = tmp_path / "journal"
    client = client_of(Gateway(answers={"0": lose_answer, "1": refuse(406, 39), "3": refuse(500, 99)}))
    for _ in range(2):
        async with SqliteJournal(path) as journal:
            for _ in range(2):
                await client.send_many(MESSAGES, journal=journal)
    assert [fields_of(record) for record in ours(caplog)] == [
        {"event": "journal.doubtful", "journal": str(path), "doubtful": 2}
    ]


def test_the_table_lists_every_event_with_its_level() -> None:
    """The docstring, which users read, and the table in the code agree."""
    rows = re.findall(r"^\| `([a-z._]+)` \| ([A-Z]+) \|", _log.__doc__ or "", re.MULTILINE)
    assert rows == [(event, logging.getLevelName(level)) for event, (level, _) in EVENTS.items()]


@pytest.mark.parametrize("scene", SCENES)
def test_the_table_lists_every_field(scene: str) -> None:
    """The row of an event lists its fields."""
    for expected in SCENES[scene][1]:
        row = next(row for row in (_log.__doc__ or "").splitlines() if row.startswith(f"| `{expected['event']}` |"))
        listed = row.split("|")[3].strip().split(", ")
        assert expected.keys() - {"event"} <= set(listed)


def test_the_template_of_an_event_is_always_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Values are arguments, so log services that group records by template find one group an event."""
    for status, phone in ((429, MESSAGES[1].phone), (400, MESSAGES[2].phone)):
        log("send.retry", phone=phone, attempt=status, wait=status / 7, error=RateLimitedError(status, 9))
    assert len({record.msg for record in ours(caplog)}) == 1
    assert {record.funcName for record in ours(caplog)} == {"test_the_template_of_an_event_is_always_the_same"}


def test_a_code_that_may_be_a_number_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A gateway may echo the recipient in place of its code, and the log does not show it."""
    log("limiter.paused", wait=1.0, error=RateLimitedError(429, 6281381470001))
    (record,) = ours(caplog)
    assert "470001" not in f"{vars(record)} {record.getMessage()}"


def test_an_event_below_the_level_costs_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event below the logger's level makes no record and masks no number."""
    caplog.set_level(logging.ERROR, "oca_sms_async")
    shown: list[str] = []
    monkeypatch.setattr(_log, "mask_phone", shown.append)
    log("send.cancelled", phone=PHONE, attempt=1)
    assert (ours(caplog), shown) == ([], [])


@in_virtual_time
async def test_a_send_that_gives_up_waiting_is_no_event(caplog: pytest.LogCaptureFixture) -> None:
    """A send that is cancelled before its request has sent nothing, so it is not logged."""
    limiter = TokenBucket(rate=1.0)
    await limiter.acquire()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await client_of(Gateway(), limiter=limiter).send(PHONE, TEXT)
    assert ours(caplog) == []

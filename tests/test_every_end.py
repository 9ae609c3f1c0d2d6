"""Each end of a send after its first byte answers, also one by an exception that is not the library's."""

import asyncio
import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from in_memory import PHONE, TEXT, Gateway, accept, client_of, make_messages, refuse

from oca_sms_async import (
    BulkReport,
    DeliveryUnknownError,
    Failed,
    JournalError,
    LimiterUnavailableError,
    Priority,
    RateLimitedError,
    Sent,
    Skipped,
    Sms,
    SqliteJournal,
    Unlimited,
    _guarded_limiter,
)


class StoreError(Exception):
    """A user's own store is away."""


class BrokenLimiter(Unlimited):
    """A limiter of a user's that raises from one of its methods."""

    def __init__(self, method: str) -> None:
        self.method = method

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Let everything through, or raise."""
        if self.method == "acquire":
            raise StoreError

    def pause(self, seconds: float) -> None:
        """Do nothing, or raise."""
        if self.method == "pause":
            raise StoreError


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interruption_in_a_workers_step_leaves_doubt(kind: type[BaseException], tmp_path: Path) -> None:
    """The message that the gateway took at that moment is not sent again by the next run."""

    def interrupt(_: httpx.Request) -> httpx.Response:
        if not interrupted:
            interrupted.append(kind)
            raise kind
        return accept(_)

    interrupted: list[type[BaseException]] = []
    gateway = Gateway(answers={"1": interrupt})
    client = client_of(gateway)

    async def run() -> BulkReport:
        async with SqliteJournal(tmp_path / "journal") as journal:
            return await client.send_many(make_messages(3), journal=journal, concurrency=1)

    loop = asyncio.new_event_loop()
    first = loop.create_task(run())
    with pytest.raises(kind):
        loop.run_until_complete(first)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(first)
    loop.close()
    earlier, doubtful, sent = asyncio.run(run()).outcomes
    assert isinstance(earlier, Skipped)
    assert isinstance(doubtful, Failed)
    assert doubtful.error.may_have_been_sent
    assert isinstance(sent, Sent)
    assert gateway.texts == ["0", "1", "2"]


async def test_a_limiter_that_cannot_pause_hides_no_refusal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal by the rate limit that proves nothing stays the message's error, and its doubt stays in the journal."""
    gateway = Gateway(refuse(503, 9))
    client = client_of(gateway, limiter=BrokenLimiter("pause"))
    with pytest.raises(RateLimitedError) as caught:
        await client.send(PHONE, TEXT)
    assert caught.value.may_have_been_sent
    for _ in range(2):
        async with SqliteJournal(tmp_path / "journal") as journal:
            (outcome,) = (await client.send_many([Sms(PHONE, "bulk")], journal=journal)).outcomes
        assert isinstance(outcome, Failed)
        assert outcome.error.may_have_been_sent
    assert gateway.texts == [TEXT, "bulk"]
    assert "limiter.failed reason=StoreError" in caplog.text


async def test_a_limiter_that_raises_before_the_first_byte_leaves_no_doubt() -> None:
    """Its exception is named by its class, and nothing was sent."""
    gateway = Gateway()
    with pytest.raises(LimiterUnavailableError, match="StoreError") as caught:
        await client_of(gateway, limiter=BrokenLimiter("acquire")).send(PHONE, TEXT)
    assert not caught.value.may_have_been_sent
    assert isinstance(caught.value.__cause__, StoreError)
    assert gateway.texts == []


class WithoutAnswer(Unlimited):
    """A limiter of a user's whose `start` is about itself."""

    def __init__(self) -> None:
        self.tokens = 0

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Give one token."""
        self.tokens += 1
        assert self.tokens == 1

    async def start(self) -> None:
        """Return None."""


class Startable(Unlimited):
    """A limiter of a user's that starts a thread, say."""

    def start(self) -> None:
        """Return None."""
        raise AssertionError


class BrokenStart(Unlimited):
    """A limiter of a user's that has no store at the first byte."""

    async def start(self) -> bool:
        """Raise."""
        raise StoreError


@pytest.mark.parametrize("limiter", [WithoutAnswer(), Startable()])
async def test_another_method_named_start_is_no_gate(limiter: Unlimited) -> None:
    """Only False sends a request back for another token, and a function that is no coroutine is not called."""
    async with asyncio.timeout(10):
        assert (await client_of(Gateway(), limiter=limiter).send(PHONE, TEXT)).attempts == 1


async def test_a_start_that_raises_leaves_no_doubt() -> None:
    """Its exception is named as that of any other method of a limiter, and nothing was sent."""
    gateway = Gateway()
    with pytest.raises(LimiterUnavailableError, match="StoreError") as caught:
        await client_of(gateway, limiter=BrokenStart()).send(PHONE, TEXT)
    assert (caught.value.may_have_been_sent, gateway.texts) == (False, [])


class BrokenReturn(Unlimited):
    """A limiter of a user's that cannot take a token back."""

    def give_back(self) -> None:
        """Raise."""
        raise StoreError


async def test_a_token_that_cannot_be_given_back_hides_no_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The log has the failure of the limiter, and the caller has the reason why nothing was sent."""
    gateway = Gateway()
    async with SqliteJournal(tmp_path / "journal") as journal:
        client = client_of(gateway, limiter=BrokenReturn(), journal=journal)

        async def refuse_claim(*_: object, **__: object) -> bool:
            raise JournalError("the disk is gone")

        monkeypatch.setattr(journal, "intend", refuse_claim)
        with pytest.raises(JournalError, match="the disk is gone"):
            await client.send(PHONE, TEXT, key="key")
    assert "limiter.failed reason=StoreError" in caplog.text
    assert gateway.texts == []


class BrokenHandler(logging.Handler):
    """A handler of the log that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise."""
        raise StoreError(record.name)


@pytest.fixture
def broken_handler() -> Iterator[None]:
    """The library's logger has a handler that raises."""
    logger, handler = logging.getLogger("oca_sms_async"), BrokenHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.usefixtures("broken_handler")
async def test_a_handler_of_the_log_that_raises_changes_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    """A retry goes on after its event, and logging's own switch shows the handler's exception."""
    client = client_of(Gateway(refuse(500, 13), accept))
    assert (await client.send(PHONE, TEXT)).attempts == 2
    assert "StoreError" in capsys.readouterr().err


async def test_an_exception_from_elsewhere_is_an_error_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first request a foreign exception becomes doubt, named by its class, and is the error's cause."""
    foreign = StoreError()

    def fail(*_: object, **__: object) -> None:
        raise foreign

    monkeypatch.setattr(_guarded_limiter, "log", fail)
    client = client_of(Gateway(refuse(503, 9)))
    with pytest.raises(DeliveryUnknownError, match="StoreError") as caught:
        await client.send(PHONE, TEXT)
    assert (caught.value.may_have_been_sent, caught.value.attempts) == (True, 1)
    assert caught.value.__cause__ is foreign


IMPORTS = """
import asyncio, sys
from raw_gateway import RECEIPT, RawGateway, http
from oca_sms_async import AsyncOcaSms, OcaSmsError, RetryPolicy, Unlimited

ANSWERS = [
    http({"errors": [{"message": "x", "code": 13}]}, "500 Internal"),
    http(RECEIPT),
    http({"errors": [{"message": "x", "code": "39"}]}, "406 Not Acceptable"),
    http({"errors": [{"message": "x", "code": 9}]}, "429 Too Many", "retry-after: 0\\r\\n"),
    http(b"<html>", "502 Bad Gateway"),
    http(b"\\xff{", "200 OK", "content-encoding: gzip\\r\\n"),
    b"nonsense\\r\\n\\r\\n",
]

async def answer(connection):
    if before[0] is None:
        before[0] = set(sys.modules)  # the first byte has left
    await connection.write(ANSWERS[len(gateway.requests) - 1])

async def main():
    async with gateway.serve():
        retry = RetryPolicy(initial_wait=0, max_wait=0)
        async with AsyncOcaSms("u", "p", base_url=gateway.base_url, limiter=Unlimited(), retry=retry) as client:
            for _ in ANSWERS[1:]:
                try:
                    await client.send("+6281381475159", "Acme: 482913 is your code")
                except OcaSmsError as error:
                    repr(error)
        print(len(gateway.requests), sorted(set(sys.modules) - before[0]))

before = [None]
gateway = RawGateway(answer)
asyncio.run(main())
"""


def test_nothing_is_imported_after_the_first_byte() -> None:
    """An import can fail for lack of file descriptors, and then the answer of a message that was taken is lost."""
    command = [sys.executable, "-c", IMPORTS]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=Path(__file__).parent)
    assert ran.stdout == "7 []\n", ran.stderr

"""Every end of a send answers: an interruption, a broken limiter or log handler, a part that is closed meanwhile."""

import asyncio
import gc
import io
import logging
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from in_memory import Gateway, accept, client_of, delay, make_messages, refuse
from moved_clock import until
from virtual_time import in_virtual_time, now

from oca_sms_async import (
    AsyncOcaSms,
    BulkReport,
    ClientClosedError,
    DeliveryUnknownError,
    Failed,
    JournalClosedError,
    JournalError,
    LimiterUnavailableError,
    Outcome,
    Priority,
    RateLimitedError,
    RetryPolicy,
    Sent,
    Skipped,
    Sms,
    SqliteJournal,
    TokenBucket,
    Unlimited,
)
from oca_sms_async.sandbox import Sandbox

INTERRUPTIONS = [KeyboardInterrupt, SystemExit]
ONE, TWO, THREE = make_messages(3)


# --- an interruption in a worker's own step ---------------------------------------------------------------------------


class Interrupting(Unlimited):
    """A limiter in which an interruption arrives with the second request."""

    def __init__(self, interruption: type[BaseException]) -> None:
        self._interruption = interruption
        self._asked = 0

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Let a request through, or raise."""
        self._asked += 1
        if self._asked == 2:
            raise self._interruption


async def send_with_journal(client: AsyncOcaSms, path: Path, messages: list[Sms]) -> BulkReport:
    """Return the report of a run with a journal, one message at a time."""
    async with SqliteJournal(path) as journal:
        return await client.send_many(messages, journal=journal, concurrency=1)


def interrupt_run(interruption: type[BaseException], main: Coroutine[Any, Any, object]) -> None:
    """Run until the interruption, and then end the program: its main task is cancelled, and closes its journal."""
    with asyncio.Runner() as runner:
        task = runner.get_loop().create_task(main)
        with pytest.raises(interruption):
            runner.get_loop().run_until_complete(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            runner.get_loop().run_until_complete(task)


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_an_interruption_after_the_request_leaves_doubt(interruption: type[BaseException], tmp_path: Path) -> None:
    """The next run names the message that was on the wire, sends it no second time, and sends the rest."""

    def interrupt(request: httpx.Request) -> httpx.Response:
        accept(request)
        raise interruption

    gateway = Gateway(answers={"1": interrupt})
    interrupt_run(interruption, send_with_journal(client_of(gateway), tmp_path / "journal", [ONE, TWO, THREE]))
    gateway.answers.clear()
    report = asyncio.run(send_with_journal(client_of(gateway), tmp_path / "journal", [ONE, TWO, THREE]))
    assert [type(outcome) for outcome in report.outcomes] == [Skipped, Failed, Sent]
    assert [outcome.sms for outcome in report.unknown] == [TWO]
    assert gateway.texts == ["0", "1", "2"]


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_an_interruption_before_the_request_leaves_no_doubt(interruption: type[BaseException], tmp_path: Path) -> None:
    """The next run sends the message that waited for its token."""
    gateway = Gateway()
    client = client_of(gateway, limiter=Interrupting(interruption))
    interrupt_run(interruption, send_with_journal(client, tmp_path / "journal", [ONE, TWO]))
    report = asyncio.run(send_with_journal(client_of(gateway), tmp_path / "journal", [ONE, TWO]))
    assert [type(outcome) for outcome in report.outcomes] == [Skipped, Sent]
    assert gateway.texts == ["0", "1"]


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_a_run_ends_after_an_interruption(interruption: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """If the loop goes on, as in a notebook, no message is sent any more, and each pulled one has its outcome."""

    async def interrupt(_: httpx.Request) -> httpx.Response:
        await gateway_is_busy.wait()
        raise interruption

    async def answer_late(request: httpx.Request) -> httpx.Response:
        gateway_is_busy.set()
        await asyncio.sleep(0.01)
        return accept(request)

    gateway_is_busy = asyncio.Event()
    gateway = Gateway(answer_late, interrupt, accept)
    with asyncio.Runner() as runner:
        sending = runner.get_loop().create_task(client_of(gateway).send_many(make_messages(9), concurrency=2))
        with pytest.raises(interruption):
            runner.get_loop().run_until_complete(sending)
        report = runner.get_loop().run_until_complete(sending)
    assert [type(outcome) for outcome in report.outcomes] == [Sent, Failed]
    assert [outcome.sms.message for outcome in report.unknown] == ["1"]
    assert gateway.texts == ["0", "1"]
    gc.collect()
    assert caplog.records == []  # asyncio complains of an exception that no code has looked at


@in_virtual_time
async def test_a_worker_that_is_cancelled_from_outside_ends_the_run() -> None:
    """A program that ends may cancel all of its tasks. Each pulled message has its outcome, and an error says why."""
    outcomes: list[Outcome] = []

    async def consume() -> None:
        async with client_of(Gateway(delay(5))).bulk(make_messages(9), concurrency=3) as run:
            outcomes.extend([outcome async for outcome in run])

    mine = {asyncio.current_task()}
    consumer = asyncio.create_task(consume())
    mine.add(consumer)
    await asyncio.sleep(1)
    for worker in asyncio.all_tasks() - mine:
        worker.cancel()
    with pytest.raises(RuntimeError, match="cancelled from outside"):
        await consumer
    assert now() == 1001
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- a user's own limiter and log handler -----------------------------------------------------------------------------


class Broken(Unlimited):
    """A limiter that lets some requests through and then raises, as one over a server does that is away."""

    def __init__(self, through: int) -> None:
        self._through = through

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Let a request through, or raise."""
        self._through -= 1
        if self._through < 0:
            raise ConnectionError("the server is away")

    def pause(self, seconds: float) -> None:
        """Raise."""
        raise ConnectionError("the server is away")


@pytest.mark.parametrize(("status", "doubtful"), [(503, True), (429, False)])
async def test_a_limiter_that_does_not_pause_does_not_hide_the_refusal(
    status: int, doubtful: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The gateway's refusal comes out and says whether the message may have been sent. The log has the failure."""
    with pytest.raises(RateLimitedError) as caught:
        await client_of(Gateway(refuse(status, 9)), limiter=Broken(1)).send(ONE.phone, ONE.message)
    assert (caught.value.may_have_been_sent, caught.value.attempts) == (doubtful, 1)
    (record,) = [record for record in caplog.records if vars(record).get("event") == "limiter.failed"]
    assert vars(record)["reason"] == "ConnectionError"


async def test_a_limiter_that_raises_is_unavailable() -> None:
    """The message is certainly unsent, and the limiter's own exception is the cause."""
    gateway = Gateway()
    with pytest.raises(LimiterUnavailableError, match="ConnectionError") as caught:
        await client_of(gateway, limiter=Broken(0)).send(ONE.phone, ONE.message)
    assert (caught.value.may_have_been_sent, caught.value.attempts, gateway.texts) == (False, 0, [])
    assert isinstance(caught.value.__cause__, ConnectionError)


async def test_a_limiter_of_another_thread_is_unavailable() -> None:
    """A bucket that serves another thread's loop refuses, and the message is certainly unsent."""
    gateway, bucket = Gateway(), TokenBucket(1000.0, capacity=1000)

    async def send() -> None:
        await client_of(gateway, limiter=bucket).send(ONE.phone, ONE.message)

    await send()
    with ThreadPoolExecutor(1) as thread, pytest.raises(LimiterUnavailableError, match="RuntimeError") as caught:
        thread.submit(asyncio.run, send()).result()
    assert (caught.value.may_have_been_sent, len(gateway.texts)) == (False, 1)


class Counting(TokenBucket):
    """A bucket of a user's, with an `acquire` that does more."""

    acquired = 0

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Count, and acquire."""
        self.acquired += 1
        await super().acquire(priority=priority, deadline=deadline)


async def test_a_bucket_with_an_acquire_of_its_own_is_asked_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is free is taken by the `acquire` of a subclass, or of a test that has replaced it."""
    own = Counting(1000.0, capacity=1000)
    client = client_of(Gateway(), limiter=own)
    await client.send(ONE.phone, ONE.message)
    await client.send_many([ONE, TWO])
    assert own.acquired == 3

    replaced = TokenBucket(1000.0, capacity=1000)
    client = client_of(Gateway(), limiter=replaced)
    monkeypatch.setattr(replaced, "acquire", own.acquire)
    await client.send(ONE.phone, ONE.message)
    monkeypatch.undo()
    monkeypatch.setattr(TokenBucket, "acquire", Unlimited.acquire)
    await client.send(ONE.phone, ONE.message)
    assert (own.acquired, replaced.statistics().granted) == (4, 0)


async def test_a_limiter_that_raises_before_a_second_attempt_leaves_doubt() -> None:
    """After 500 with code 13 the message may have been sent, and in a bulk it is `Failed`."""
    gateway = Gateway(refuse(500, 13))
    with pytest.raises(LimiterUnavailableError) as caught:
        await client_of(gateway, limiter=Broken(1)).send(ONE.phone, ONE.message)
    assert (caught.value.may_have_been_sent, caught.value.attempts) == (True, 1)
    report = await client_of(gateway, limiter=Broken(1)).send_many([ONE, TWO], concurrency=1)
    assert [outcome.sms for outcome in report.unknown] == [ONE]
    assert isinstance(report.stopped_by, LimiterUnavailableError)


async def test_a_limiter_that_raises_stops_a_bulk() -> None:
    """Messages that the limiter did not let through are `Skipped` with its error."""
    report = await client_of(Gateway(), limiter=Broken(2)).send_many(make_messages(9), concurrency=1)
    assert [type(outcome) for outcome in report.outcomes] == [Sent, Sent, Skipped]
    assert isinstance(report.stopped_by, LimiterUnavailableError)


class BrokenHandler(logging.Handler):
    """A log handler that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise."""
        raise OSError("the disk is full")


@pytest.fixture
def broken_handler(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The library's logger with a handler that raises at each event."""
    caplog.set_level(logging.DEBUG, "oca_sms_async")
    handler = BrokenHandler()
    logging.getLogger("oca_sms_async").addHandler(handler)
    yield
    logging.getLogger("oca_sms_async").removeHandler(handler)


@pytest.mark.usefixtures("broken_handler")
@pytest.mark.parametrize("tells", [True, False])
async def test_a_log_handler_that_raises_changes_nothing(
    tells: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message is tried again and sent. The error is printed, unless `logging.raiseExceptions` is off."""
    monkeypatch.setattr(logging, "raiseExceptions", tells)
    receipt = await client_of(Gateway(refuse(500, 13), accept)).send(ONE.phone, ONE.message)
    assert receipt.attempts == 2
    assert ("the disk is full" in capsys.readouterr().err) is tells


@pytest.mark.usefixtures("broken_handler")
async def test_a_log_handler_that_raises_changes_nothing_without_standard_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A service may have closed its standard error, so that the handler's error cannot be printed."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert (await client_of(Gateway(refuse(500, 13), accept)).send(ONE.phone, ONE.message)).attempts == 2


# --- parts that are closed in the middle of a bulk --------------------------------------------------------------------


@pytest.mark.usefixtures("transport")
async def test_a_client_that_is_closed_ends_its_bulk(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """Messages on the wire are in doubt, the others are skipped, and `stopped_by` names the closing."""
    sandbox.latency = 600
    pulled: list[Sms] = []

    async def generate() -> AsyncIterator[Sms]:
        for sms in make_messages(100):
            pulled.append(sms)
            yield sms

    async with client.bulk(generate(), concurrency=4) as run:
        await until(lambda: len(sandbox.inbox) == 4)
        await client.aclose()
        report = await run.report()
    assert isinstance(report.stopped_by, ClientClosedError)
    assert [outcome.sms for outcome in report.outcomes] == pulled
    assert {type(outcome.error) for outcome in report.failed} == {DeliveryUnknownError}
    assert len(report.unknown) == len(report.failed) == 4
    assert report.sent == ()


@in_virtual_time
async def test_a_client_that_is_closed_in_a_back_off_ends_its_bulk() -> None:
    """A message that waits for its second attempt is in doubt, and no other one is started."""
    gateway = Gateway(refuse(500, 13))
    client = client_of(gateway, retry=RetryPolicy(initial_wait=1e6, max_wait=1e6))
    async with client.bulk([ONE, TWO], concurrency=1) as run:
        await asyncio.sleep(1)
        await client.aclose()
        report = await run.report()
    assert len(report.outcomes) == len(report.unknown) == 1
    assert isinstance(report.stopped_by, ClientClosedError)
    assert now() == 1001
    assert gateway.texts == ["0"]


async def test_a_journal_that_fails_after_the_receipt_leaves_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome is the one that a later run will see, and the journal's error is its cause."""

    def fail(*_: object) -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr("oca_sms_async._journal._store.Store.settle", fail)
    report = await send_with_journal(client_of(Gateway()), tmp_path / "journal", [ONE, TWO])
    (failed,) = report.failed
    assert isinstance(failed.error, DeliveryUnknownError)
    assert (failed.error.attempts, failed.error.may_have_been_sent) == (1, True)
    assert isinstance(failed.error.__cause__, JournalError)
    assert isinstance(report.stopped_by, JournalError)


async def test_a_journal_that_is_closed_ends_a_bulk(tmp_path: Path) -> None:
    """Messages on the wire are in doubt, as a later run will see them, and `stopped_by` names the journal."""
    gate = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        await gate.wait()
        return accept(request)

    gateway = Gateway(answer)
    journal = SqliteJournal(tmp_path / "journal")
    async with client_of(gateway).bulk(make_messages(9), concurrency=3, journal=journal) as run:
        await until(lambda: len(gateway.texts) == 3)
        await journal.aclose()
        gate.set()
        report = await run.report()
    assert isinstance(report.stopped_by, JournalClosedError)
    assert len(report.outcomes) == run.pulled
    assert [outcome.sms.message for outcome in report.unknown] == gateway.texts == ["0", "1", "2"]


@in_virtual_time
async def test_a_client_that_is_closed_ends_its_bulk_at_once() -> None:
    """A message that waits for its token is skipped, and no other one is pulled while one is still on the wire."""
    client = client_of(Gateway(delay(5)), limiter=TokenBucket(0.01))
    async with client.bulk(make_messages(9), concurrency=2) as run:
        await asyncio.sleep(1)
        await client.aclose()
        report = await run.report()
    assert [type(outcome) for outcome in report.outcomes] == [Sent, Skipped]
    assert isinstance(report.stopped_by, ClientClosedError)


@in_virtual_time
async def test_a_limiter_that_is_closed_ends_a_bulk() -> None:
    """Messages on the wire have their receipts, and `stopped_by` names the limiter."""

    class Closable(Unlimited):
        closed = False

        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            if self.closed:
                raise RuntimeError("this limiter is closed")

    limiter = Closable()
    gateway = Gateway(delay(5))
    async with client_of(gateway, limiter=limiter).bulk(make_messages(9), concurrency=3) as run:
        await asyncio.sleep(1)
        limiter.closed = True
        report = await run.report()
    assert isinstance(report.stopped_by, LimiterUnavailableError)
    assert [type(outcome) for outcome in report.outcomes] == [Sent] * 3 + [Skipped] * (run.pulled - 3)
    assert gateway.texts == ["0", "1", "2"]

"""The decisions about messages whose send failed, and the pauses of a worker."""

import pytest
from in_memory import Gateway, client_of
from queues import NUMBER

from oca_sms_async import (
    AccountError,
    ApiError,
    ClientClosedError,
    ConnectionFailedError,
    DeliveryUnknownError,
    ExpiredError,
    InternalError,
    InvalidMessageError,
    InvalidRequestError,
    JournalError,
    LimiterUnavailableError,
    OcaSmsError,
    QuotaExhaustedError,
    RateLimitedError,
    UnexpectedResponseError,
)
from oca_sms_async._queue_app import LaterError
from oca_sms_async._queue_decisions import Decision, Pause, decide
from oca_sms_async._queue_delivery import Delivery
from oca_sms_async.queue import SmsQueue


@pytest.mark.parametrize(
    ("error", "decision"),
    [
        (ConnectionFailedError("away"), Decision.LATER),
        (ClientClosedError("closed"), Decision.LATER),
        (RateLimitedError(429), Decision.LATER),
        (LimiterUnavailableError("away"), Decision.LATER),
        (JournalError("away"), Decision.LATER),
        (AccountError(403), Decision.LATER),
        (QuotaExhaustedError(403, 55), Decision.LATER),
        (InvalidRequestError(400, 39), Decision.FAILED),
        (InvalidMessageError("no number"), Decision.FAILED),
        (ExpiredError("late"), Decision.FAILED),
        (ApiError(400, 98), Decision.FAILED),
        (DeliveryUnknownError("lost"), Decision.DOUBT),
        (InternalError(500, 13), Decision.DOUBT),
        (UnexpectedResponseError("odd"), Decision.DOUBT),
        (ExpiredError("late", may_have_been_sent=True), Decision.DOUBT),
        (ConnectionFailedError("away", may_have_been_sent=True), Decision.DOUBT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
def test_each_error_has_its_decision(error: OcaSmsError, decision: Decision) -> None:
    """Doubt comes first. Then the question is if the fault is the message's own."""
    assert decide(error) is decision


def test_a_pause_grows_until_a_message_gets_through() -> None:
    """It doubles up to a minute. Failures of messages that were under way together begin one pause alone."""
    pause, now, lengths = Pause(), 100.0, []
    for _ in range(8):
        assert pause.begin(ConnectionFailedError("away"), now)
        assert not pause.begin(ConnectionFailedError("away"), now)
        lengths.append(pause.left(now))
        now += pause.left(now)
        assert pause.left(now) == 0
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60]
    pause.end()
    assert pause.begin(ConnectionFailedError("away"), now)
    assert pause.left(now) == 1


def test_a_refused_account_pauses_for_longer() -> None:
    """Somebody has to repair it: half a minute at first, and no more than five."""
    pause, now, lengths = Pause(), 100.0, []
    for _ in range(6):
        pause.begin(AccountError(401, 17), now)
        lengths.append(pause.left(now))
        now += pause.left(now)
    assert lengths == [30, 60, 120, 240, 300, 300]


def test_the_gateways_own_pause_counts() -> None:
    """A rate limit that asks for more than the pause gets it."""
    pause = Pause()
    pause.begin(RateLimitedError(429, retry_after=20.0), 0.0)
    assert pause.left(0.0) == 20
    pause = Pause()
    pause.begin(RateLimitedError(429, retry_after=0.2), 0.0)
    assert pause.left(0.0) == 1


async def test_the_journal_has_the_last_word_about_a_doubt(queue: SmsQueue) -> None:
    """An error of doubt ends a job only if the journal has the doubt too. Else the message would be forgotten."""
    await queue.put(NUMBER, "text", key="key")
    async with client_of(Gateway(), journal=queue.journal) as client:
        delivery = Delivery(client, queue._journal, queue._store, queue="oca-sms")
        (job,) = await _jobs(queue)
        queued = await queue._store.read(job)
        assert queued is not None
        with pytest.raises(LaterError):
            await delivery._conclude(queued, DeliveryUnknownError("lost"))
        assert await queue.journal.intend(queued.lookup, seconds=0)
        await delivery._conclude(queued, DeliveryUnknownError("lost"))


async def _jobs(queue: SmsQueue) -> list[int]:
    async with queue.app.open_async() as app:
        return [job.id for job in await app.job_manager.list_jobs_async() if job.id is not None]

"""The observer of a client is told of every send that ended, once, and can change nothing."""

import asyncio
import logging

import pytest
from in_memory import TEXT, Gateway, client_of, delay, hang, make_messages, refuse
from virtual_time import in_virtual_time

from oca_sms_async import (
    ExpiredError,
    InternalError,
    InvalidMessageError,
    Priority,
    QuotaExhaustedError,
    RetryPolicy,
    SendEvent,
    TokenBucket,
    _observing,
    _sending,
)

PHONE = "+6281234567890"


@in_virtual_time
async def test_a_sent_message_is_told_with_its_times() -> None:
    """The event has the wait for the token and the whole time, in seconds, and the lane."""
    events: list[SendEvent] = []
    limiter = TokenBucket(1.0)
    client = client_of(Gateway(delay(0.5)), limiter=limiter, observer=events.append)
    await asyncio.gather(client.send(PHONE, TEXT), client.send(PHONE, TEXT))
    first, second = events
    assert (first.sent, first.error, first.attempts, first.priority) == (True, None, 1, Priority.INTERACTIVE)
    assert (first.waited, first.took) == pytest.approx((0, 0.5))
    assert (second.waited, second.took) == pytest.approx((1, 1.5))
    assert second.may_have_been_sent


@in_virtual_time
async def test_a_failed_message_is_told_with_its_error() -> None:
    """The event's error is the one that the caller gets, and its doubt and attempts are those of the whole send."""
    events: list[SendEvent] = []
    client = client_of(Gateway(refuse(500, 13)), retry=RetryPolicy(2, 0, 0), observer=events.append)
    with pytest.raises(InternalError) as caught:
        await client.send(PHONE, TEXT)
    (event,) = events
    assert event.error is caught.value
    assert (event.sent, event.may_have_been_sent, event.attempts) == (False, True, 2)


@in_virtual_time
async def test_a_refused_argument_and_an_expiry_are_told() -> None:
    """Sends that make no request end too, and are certainly unsent."""
    events: list[SendEvent] = []
    client = client_of(Gateway(), observer=events.append)
    with pytest.raises(InvalidMessageError):
        await client.send("0812", TEXT)
    with pytest.raises(ExpiredError):
        await client.send(PHONE, TEXT, expires_in=-1)
    assert [(type(event.error), event.attempts, event.may_have_been_sent) for event in events] == [
        (InvalidMessageError, 0, False),
        (ExpiredError, 0, False),
    ]


@in_virtual_time
async def test_a_cancelled_send_is_told_without_an_error() -> None:
    """A send that is cancelled on the wire may have been sent."""
    events: list[SendEvent] = []
    client = client_of(Gateway(hang), observer=events.append)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await client.send(PHONE, TEXT)
    (event,) = events
    assert (event.sent, event.error, event.may_have_been_sent, event.attempts) == (False, None, True, 1)


@in_virtual_time
async def test_a_bulk_is_told_message_by_message() -> None:
    """Each message that a bulk tried is one event in its lane; a skipped one is none."""
    events: list[SendEvent] = []
    client = client_of(Gateway(delay(1), delay(1), refuse(401, 55)), observer=events.append)
    report = await client.send_many(make_messages(9), concurrency=1)
    assert isinstance(report.stopped_by, QuotaExhaustedError)
    assert [event.sent for event in events] == [True, True, False]
    assert {event.priority for event in events} == {Priority.BULK}


@in_virtual_time
@pytest.mark.parametrize("kind", [KeyError, asyncio.CancelledError])
async def test_an_observer_that_raises_changes_nothing(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Its exception is logged by the name of its class, and the receipt arrives."""
    caplog.set_level(logging.WARNING, "oca_sms_async")

    def fail(_: SendEvent) -> None:
        raise kind(TEXT)

    receipt = await client_of(Gateway(), observer=fail).send(PHONE, TEXT)
    assert receipt.attempts == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"observer.failed reason={kind.__name__}: the observer is told of the next send again"
    ]


@in_virtual_time
async def test_an_observer_that_raises_changes_no_error_and_no_bulk() -> None:
    """The error of a failed send and the outcomes of a bulk are as without an observer."""

    def fail(_: SendEvent) -> None:
        raise KeyError

    with pytest.raises(QuotaExhaustedError):
        await client_of(Gateway(refuse(401, 55)), observer=fail).send(PHONE, TEXT)
    report = await client_of(Gateway(), observer=fail).send_many(make_messages(5))
    assert (len(report.sent), report.stopped_by) == (5, None)


@in_virtual_time
async def test_without_an_observer_there_is_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """A send without an observer makes no event, and calls nothing that would."""

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(_sending, "tell", fail)
    monkeypatch.setattr(_observing, "SendEvent", fail)
    assert (await client_of(Gateway()).send(PHONE, TEXT)).attempts == 1


def test_an_observer_must_be_a_plain_function() -> None:
    """A value that cannot be called is refused when the client is made, and so is one that must be awaited."""

    async def observe(_: SendEvent) -> None:
        """Be never awaited."""

    class Observer:
        async def __call__(self, _: SendEvent) -> None:
            """Be never awaited."""

    for wrong in ("print", observe, Observer()):
        with pytest.raises(TypeError, match="observer must be"):
            client_of(Gateway(), observer=wrong)

"""A client's counts: every send that ended is in exactly one place, and at rest no request is under way."""

import asyncio
import contextlib
import copy
import pickle
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import httpx
import pytest
from attrs.exceptions import FrozenInstanceError
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import TEXT, Answer, Gateway, accept, client_of, delay, fail, lose_answer, refuse, respond, take_turns
from virtual_time import in_virtual_time, run

from oca_sms_async import (
    AsyncOcaSms,
    JournalError,
    LimiterUnavailableError,
    OcaSmsError,
    Priority,
    RetryPolicy,
    SendReceipt,
    Sms,
    SqliteJournal,
    Statistics,
    TokenBucket,
    Unlimited,
    _dispatch,
)

NOTHING = Statistics(sent=0, retried=0, failed={}, unknown=0, in_flight=0, waiting=0, limiter_wait=0.0)


def number(index: int) -> str:
    """Return a recipient."""
    return f"+6281381470{index:03}"


ANSWERS: Mapping[str, Answer] = {
    "ok": accept,
    "13": refuse(500, 13),
    "17": refuse(401, 17),
    "39": refuse(406, 39),
    "9": refuse(429, 9),
    "500": refuse(500, 99),
    "lost": lose_answer,
    "unreachable": fail(httpx.ConnectError),
    "other": respond(200, {}),
}
KINDS = {
    "17": ("InvalidCredentialsError", False),
    "39": ("InvalidRequestError", False),
    "9": ("RateLimitedError", False),
    "500": ("ApiError", True),
    "lost": ("DeliveryUnknownError", True),
    "unreachable": ("ConnectionFailedError", False),
    "other": ("UnexpectedResponseError", True),
}


def make_gateway(scripts: Mapping[str, list[str]] | None = None, takes: float = 1.0) -> Gateway:
    """Return a gateway that answers each number by its script, a word for each attempt, and then accepts.

    Each answer takes `takes` seconds.
    """
    answers = {
        phone: delay(takes, take_turns(*(ANSWERS[word] for word in words), accept))
        for phone, words in (scripts or {}).items()
    }
    return Gateway(delay(takes), answers=answers, lookup=delay(takes, refuse(404)))


def nonzero_counts(client: AsyncOcaSms) -> dict[str, Any]:
    """Return the counts of a client's sends that are not zero."""
    now = client.statistics()
    found = {"sent": now.sent, "retried": now.retried, "failed": dict(now.failed), "unknown": now.unknown}
    return {name: value for name, value in found.items() if value}


@in_virtual_time
async def test_a_new_client_has_counted_nothing() -> None:
    """All counts of a new client are zero."""
    assert client_of(make_gateway()).statistics() == NOTHING


@pytest.mark.parametrize("answer", KINDS)
@pytest.mark.parametrize("way", ["send", "send_many"])
def test_each_failure_is_counted_by_its_kind(way: str, answer: str) -> None:
    """A failure counts under the name of its class, and as unknown if it may have been sent, in a bulk too."""

    @in_virtual_time
    async def check() -> None:
        client = client_of(make_gateway({number(1): [answer]}))
        if way == "send":
            with pytest.raises(OcaSmsError):
                await client.send(number(1), TEXT)
        else:
            await client.send_many([Sms(number(1), TEXT)], concurrency=2)
        kind, unknown = KINDS[answer]
        assert nonzero_counts(client) == {"failed": {kind: 1}} | ({"unknown": 1} if unknown else {})

    check()


@pytest.mark.parametrize(
    ("phone", "text", "expires_in", "kind"),
    [
        ("nobody", TEXT, None, "InvalidMessageError"),
        (number(1), " ", None, "InvalidMessageError"),
        (number(1), TEXT, float("nan"), "InvalidMessageError"),
        (number(1), TEXT, 0, "ExpiredError"),
        (number(1), TEXT, 0.5, "ExpiredError"),
    ],
)
def test_a_refusal_before_the_request_is_counted_too(
    phone: str, text: str, expires_in: float | None, kind: str
) -> None:
    """A message that is refused or expires before its request counts as failed."""

    @in_virtual_time
    async def check() -> None:
        limiter = TokenBucket(rate=1.0)
        await limiter.acquire()
        client = client_of(make_gateway(), limiter=limiter)
        with pytest.raises(OcaSmsError):
            await client.send(phone, text, expires_in=expires_in)
        assert nonzero_counts(client) == {"failed": {kind: 1}}

    check()


@in_virtual_time
async def test_retries_count_their_message_once() -> None:
    """A message that took three requests counts once as sent and once as retried."""
    client = client_of(make_gateway({number(1): ["13", "13"]}))
    await client.send_many([Sms(number(1), TEXT), Sms(number(2), TEXT)])
    assert nonzero_counts(client) == {"sent": 2, "retried": 1}
    client = client_of(make_gateway({number(1): ["13"] * 4}))
    with pytest.raises(OcaSmsError):
        await client.send(number(1), TEXT)
    assert nonzero_counts(client) == {"failed": {"InternalError": 1}, "unknown": 1}


@in_virtual_time
async def test_doubt_of_an_earlier_attempt_makes_a_failure_unknown() -> None:
    """After HTTP 500 with code 13, even a refusal that proves itself unsent leaves doubt."""
    client = client_of(make_gateway({number(1): ["13", "39"]}))
    with pytest.raises(OcaSmsError):
        await client.send(number(1), TEXT)
    assert nonzero_counts(client) == {"failed": {"InvalidRequestError": 1}, "unknown": 1}


@in_virtual_time
async def test_requests_under_way_and_the_time_they_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests on the wire, those that wait, and each wait for a token are counted, even a wait in vain."""
    monkeypatch.setattr(_dispatch, "MAX_IN_FLIGHT", 3)
    client = client_of(make_gateway(takes=2.5), limiter=TokenBucket(rate=1.0))
    # At 0, 1 and 2 s the first three start; the fourth gets its slot at 2.5 s and its token at 3 s, and so on.
    tasks = [asyncio.create_task(client.send(number(index), TEXT)) for index in range(6)]
    await asyncio.sleep(0.5)
    seen = client.statistics()
    assert (seen.in_flight, seen.waiting, seen.sent) == (1, 5, 0)
    await asyncio.sleep(1.7)
    seen = client.statistics()
    assert (seen.in_flight, seen.waiting, seen.sent) == (3, 3, 0)
    assert seen.limiter_wait == pytest.approx(0 + 1 + 2)
    await asyncio.sleep(0.5)  # it is 2.7 s, and the fourth waits since 2.5 s
    seen = client.statistics()
    assert (seen.in_flight, seen.waiting, seen.sent) == (2, 3, 1)
    tasks[3].cancel()
    await asyncio.sleep(0)
    assert client.statistics().limiter_wait == pytest.approx(0 + 1 + 2 + 0.2)
    await asyncio.gather(*tasks, return_exceptions=True)
    seen = client.statistics()
    assert (seen.in_flight, seen.waiting, seen.sent) == (0, 0, 5)
    assert seen.failed == {"CancelledError": 1}


@pytest.mark.parametrize(("after", "unknown"), [(0.5, {}), (1.5, {"unknown": 1})])
def test_a_cancelled_send_failed(after: float, unknown: dict[str, int]) -> None:
    """A cancelled send fails by `CancelledError`. It is unknown only if a request was on its way."""

    @in_virtual_time
    async def check() -> None:
        limiter = TokenBucket(rate=1.0)
        await limiter.acquire()
        client = client_of(make_gateway(), limiter=limiter)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(after):
                await client.send(number(1), TEXT)
        assert nonzero_counts(client) == {"failed": {"CancelledError": 1}} | unknown
        assert (client.statistics().in_flight, client.statistics().waiting) == (0, 0)

    check()


@in_virtual_time
async def test_a_client_closed_meanwhile_fails_the_send() -> None:
    """The send is counted by the name of the error."""
    limiter = TokenBucket(rate=1.0)
    await limiter.acquire()
    client = client_of(make_gateway(), limiter=limiter)
    task = asyncio.create_task(client.send(number(1), TEXT))
    await asyncio.sleep(0.5)
    await client.aclose()
    with pytest.raises(RuntimeError):
        await task
    assert nonzero_counts(client) == {"failed": {"ClientClosedError": 1}}
    assert (client.statistics().in_flight, client.statistics().waiting) == (0, 0)
    with pytest.raises(RuntimeError):
        await client.send(number(1), TEXT)
    assert nonzero_counts(client) == {"failed": {"ClientClosedError": 1}}  # the second send did not begin


@in_virtual_time
async def test_lookups_are_no_sends() -> None:
    """`history` and `status` count neither as sent nor as failed, but their requests and waits show."""
    client = client_of(make_gateway(), limiter=TokenBucket(rate=1.0))
    tasks = [asyncio.create_task(call) for call in (client.history(), client.status("abc"))]
    await asyncio.sleep(0.5)
    assert (client.statistics().in_flight, client.statistics().waiting) == (1, 1)
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, OcaSmsError) for end in ends)
    assert nonzero_counts(client) == {}
    assert client.statistics().limiter_wait == pytest.approx(1.0)


@in_virtual_time
async def test_statistics_stay_as_they_are() -> None:
    """Statistics are a frozen copy, which can be copied and pickled."""
    client = client_of(make_gateway({number(1): ["39"]}))
    before = client.statistics()
    with pytest.raises(OcaSmsError):
        await client.send(number(1), TEXT)
    assert before == NOTHING
    now = client.statistics()
    with pytest.raises(FrozenInstanceError):
        now.sent = 3  # type: ignore[misc] # the test is that this is impossible
    assert copy.deepcopy(now) == now == pickle.loads(pickle.dumps(now))
    cast(dict[str, int], now.failed).clear()
    assert client.statistics().failed == {"InvalidRequestError": 1}


# --- bulks ----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_messages_that_a_stopped_bulk_skips_are_not_counted() -> None:
    """A message that waits for a token when the bulk stops is skipped. One on the wire is counted."""
    client = client_of(make_gateway({number(0): ["17"]}, takes=1.5), limiter=TokenBucket(rate=1.0))
    report = await client.send_many([Sms(number(index), TEXT) for index in range(9)], concurrency=5)
    assert (len(report.sent), len(report.failed)) == (1, 1)
    assert len(report.skipped) >= 3
    assert nonzero_counts(client) == {"sent": 1, "failed": {"InvalidCredentialsError": 1}}


@in_virtual_time
async def test_a_message_in_back_off_as_the_bulk_stops_is_counted_as_reported() -> None:
    """A bulk that stops during a back-off counts the error of the last attempt, as its report does."""
    gateway = make_gateway({number(0): ["13"], number(1): ["17"]})
    client = client_of(gateway, limiter=TokenBucket(rate=1.0), retry=RetryPolicy(initial_wait=1e6, max_wait=1e6))
    report = await client.send_many([Sms(number(index), TEXT) for index in range(2)], concurrency=2)
    assert [type(it.error).__name__ for it in report.failed] == ["InternalError", "InvalidCredentialsError"]
    assert nonzero_counts(client) == {"failed": {"InternalError": 1, "InvalidCredentialsError": 1}, "unknown": 1}


@pytest.mark.parametrize("halted", [False, True])
def test_an_abandoned_bulk(halted: bool) -> None:
    """A message that is cancelled on the wire is unknown. A message that waited was not sent."""

    @in_virtual_time
    async def check() -> None:
        client = client_of(make_gateway(takes=5.0), limiter=TokenBucket(rate=1.0))

        async def leave() -> None:
            async with client.bulk([Sms(number(index), TEXT) for index in range(3)]):
                await asyncio.sleep(0.5)
                if not halted:
                    raise KeyError  # an exception of the caller's

        task = asyncio.create_task(leave())
        await asyncio.sleep(0.7)
        task.cancel()
        with contextlib.suppress(KeyError, asyncio.CancelledError):
            await task
        # A run that was left without an exception first skips the waiting messages: no failures.
        assert nonzero_counts(client) == {"failed": {"CancelledError": 1 if halted else 3}, "unknown": 1}

    check()


async def test_messages_that_the_journal_answers_for_are_not_counted(tmp_path: Any) -> None:
    """A second run skips the sent messages and names the doubtful ones. It counts no send."""
    messages = [Sms(number(index), TEXT) for index in range(2)]
    for expected in ({"sent": 1, "failed": {"DeliveryUnknownError": 1}, "unknown": 1}, {}):
        client = client_of(make_gateway({number(0): ["lost"]}, takes=0))
        async with SqliteJournal(tmp_path / "journal") as journal:
            report = await client.send_many(messages, journal=journal)
        assert len(report.unknown) == 1
        assert nonzero_counts(client) == expected


async def test_a_journal_that_fails_at_the_intent_fails_the_send(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is skipped, for nothing was sent. The send that failed is counted."""

    def fail(*_: object) -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr("oca_sms_async._journal._store.Store.intend", fail)
    client = client_of(make_gateway(takes=0))
    async with SqliteJournal(tmp_path / "journal") as journal:
        report = await client.send_many([Sms(number(0), TEXT)], journal=journal)
    assert len(report.skipped) == 1
    assert nonzero_counts(client) == {"failed": {"JournalError": 1}}


class _Away(Unlimited):
    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        raise LimiterUnavailableError("away")


@in_virtual_time
async def test_a_limiter_that_is_away_fails_the_send() -> None:
    """A limiter without its server fails the send. A bulk skips the message and stops."""
    client = client_of(make_gateway(), limiter=_Away())
    with pytest.raises(LimiterUnavailableError):
        await client.send(number(0), TEXT)
    report = await client.send_many([Sms(number(0), TEXT)], concurrency=1)
    assert len(report.skipped) == 1
    assert nonzero_counts(client) == {"failed": {"LimiterUnavailableError": 2}}
    assert client.statistics().waiting == 0


# --- every send that begins ends in one place -----------------------------------------------------------------------

SCRIPTS = st.lists(st.sampled_from(sorted(ANSWERS)), max_size=3)
SINGLES = st.lists(st.tuples(SCRIPTS, st.none() | st.floats(0, 8)), max_size=6)
BULK = st.lists(SCRIPTS, max_size=8)


@settings(deadline=None, max_examples=150)
@given(singles=SINGLES, bulk=BULK, concurrency=st.integers(1, 4), limited=st.booleans(), takes=st.floats(0.1, 5))
def test_every_send_that_begins_is_sent_or_failed(
    singles: list[tuple[list[str], float | None]], bulk: list[list[str]], concurrency: int, limited: bool, takes: float
) -> None:
    """Single sends, some of them cancelled, run beside a bulk. The counts agree with their results."""

    async def check() -> None:
        scripts = [*(script for script, _ in singles), *bulk]
        gateway = make_gateway({number(index): [*script] for index, script in enumerate(scripts)}, takes)
        limiter = TokenBucket(rate=2.0) if limited else Unlimited()
        client = client_of(
            gateway, limiter=limiter, retry=RetryPolicy(initial_wait=1.0, retry_unsent=True), timeout=4.0
        )
        began = 0

        async def one(index: int) -> SendReceipt:
            nonlocal began
            began += 1
            return await client.send(number(index), TEXT)

        tasks = [asyncio.create_task(one(index)) for index in range(len(singles))]
        for task, (_, cancelled) in zip(tasks, singles, strict=True):
            if cancelled is not None:
                asyncio.get_running_loop().call_later(cancelled, task.cancel)
        messages = [Sms(number(len(singles) + index), TEXT) for index in range(len(bulk))]
        report = await client.send_many(messages, concurrency=concurrency)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [end for end in ends if isinstance(end, BaseException)]
        failures = Counter(type(error).__name__ for error in [*errors, *(it.error for it in report.failed)])
        seen = client.statistics()
        assert began == len(singles)
        assert seen.sent == len(report.sent) + len(ends) - len(errors)
        assert seen.retried == len(report.retried) + sum(isinstance(e, SendReceipt) and e.attempts > 1 for e in ends)
        assert seen.failed == failures
        assert seen.sent + sum(seen.failed.values()) == began + len(report.outcomes) - len(report.skipped)
        assert (seen.in_flight, seen.waiting) == (0, 0)
        told = sum(isinstance(error, OcaSmsError) and error.may_have_been_sent for error in errors)
        told += len(report.unknown)
        assert told <= seen.unknown <= told + seen.failed.get("CancelledError", 0)

    run(check())

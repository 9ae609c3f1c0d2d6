"""A bulk: the messages that it pulls, their outcomes, its stops, and the ways to leave it."""

import asyncio
import contextlib
import itertools
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import define, evolve, field, frozen
from attrs.exceptions import FrozenInstanceError
from each_api import each_api
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import PHONE, TEXT, WITHOUT_WAITS, Answer, Gateway, client_of, delay, fail, hang, make_messages, refuse
from moved_clock import HANG, until
from virtual_time import in_virtual_time, now, run

from oca_sms_async import (
    AccountError,
    AccountExpiredError,
    ApiError,
    AsyncOcaSms,
    BulkReport,
    ConnectionFailedError,
    DeliveryUnknownError,
    ExpiredError,
    Failed,
    InternalError,
    InvalidCredentialsError,
    InvalidMessageError,
    InvalidRequestError,
    LimiterUnavailableError,
    MissingAuthorizationError,
    OcaSmsError,
    Outcome,
    Priority,
    QuotaExhaustedError,
    RateLimitedError,
    RetryPolicy,
    SendReceipt,
    Sent,
    Skipped,
    Sms,
    SqliteJournal,
    UnexpectedResponseError,
    Unlimited,
    UserNotFoundError,
)
from oca_sms_async._bulk import BulkRun
from oca_sms_async._call import CallOptions, CallState
from oca_sms_async._retry import retry
from oca_sms_async._wire._regular_v1 import RegularV1
from oca_sms_async.sandbox import Sandbox

REQUEST = RegularV1("user@example.com", "secret").send(PHONE, TEXT)
OPTIONS = CallOptions(Priority.BULK, seconds=10.0)
ONE_WAIT = RetryPolicy(max_attempts=4, initial_wait=100, max_wait=100)  # random.uniform decides how much of it
TAKEN = delay(1)


# --- a fake send, and messages for it ---------------------------------------------------------------------------------


@frozen
class Plan:
    """The fate of one message.

    Each attempt waits so many seconds for its slot and token, takes so many on the wire, and ends in an error or, for
    None, in success. `before` is raised in place of the first token, and `refused` at once, as for an invalid message.
    `bug` is raised after the last attempt, in place of its receipt.
    """

    waits: float = 0.0
    takes: float = 1.0
    ends: tuple[Callable[[], Exception] | None, ...] = (None,)
    before: Callable[[], Exception] | None = None
    refused: Callable[[], Exception] | None = None
    bug: Callable[[], Exception] | None = None


@define
class Wire:
    """A fake of the client's `send` that goes the same way: slot and token, hook, wire, and round again.

    `log` holds the events: («pull», n); («start», n) of each attempt on the wire; («end», n, error or None) of each
    attempt or refusal; («cut», n) of an attempt cancelled on the wire; («idle», n) of one cancelled elsewhere.
    """

    plans: Sequence[Plan]
    policy: RetryPolicy = WITHOUT_WAITS
    log: list[tuple[Any, ...]] = field(factory=list)
    calls: dict[int, CallState] = field(factory=dict)
    receipts: dict[int, SendReceipt] = field(factory=dict)
    under_way: int = 0
    most_under_way: int = 0

    def messages(self) -> list[Sms]:
        """Return one message for each plan, all equal but for their numbers."""
        return [Sms(str(number), TEXT) for number in range(len(self.plans))]

    async def send(self, sms: Sms, call: CallState) -> SendReceipt:
        """Send a message as its plan says."""
        number = int(sms.phone)
        plan = self.plans[number]
        self.calls[number] = call
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if plan.refused is not None:
                raise self._end(number, plan.refused())
            receipt = await retry(Attempts(self, number), self.policy, REQUEST, OPTIONS, call)
        except asyncio.CancelledError:
            if self.log[-1:] != [("cut", number)]:
                self.log.append(("idle", number))
            raise
        else:
            if plan.bug is not None:
                raise plan.bug()
            return receipt
        finally:
            self.under_way -= 1

    async def attempt(self, number: int) -> SendReceipt:
        """Make one attempt of a message."""
        plan, call = self.plans[number], self.calls[number]
        await asyncio.sleep(plan.waits)
        if plan.before is not None and not call.attempts:
            raise self._end(number, plan.before())
        if not call.attempts:
            await call.before_first_send()
        call.started()
        self.log.append(("start", number))
        try:
            await asyncio.sleep(plan.takes)
        except asyncio.CancelledError:
            self.log.append(("cut", number))
            raise
        finally:
            call.left_wire()
        end = plan.ends[min(call.attempts, len(plan.ends)) - 1]
        if end is not None:
            raise self._end(number, end())
        self._end(number, None)
        self.receipts[number] = SendReceipt(f"uid {number}", "sent", attempts=call.attempts)
        return self.receipts[number]

    def _end(self, number: int, error: Any) -> Any:
        self.log.append(("end", number, error))
        return error

    def numbers(self, kind: str) -> list[int]:
        """Return the numbers of the messages with this event, in its order."""
        return [entry[1] for entry in self.log if entry[0] == kind]

    def errors(self, number: int) -> list[OcaSmsError]:
        """Return the errors of this message's attempts, up to now."""
        return [entry[2] for entry in self.log if entry[:2] == ("end", number) and entry[2] is not None]


@frozen
class Attempts:
    """The attempts of one message."""

    wire: Wire
    number: int

    async def attempt(self, *_: object) -> Any:
        """Make one."""
        return await self.wire.attempt(self.number)

    async def back_off(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Source(Iterator[Sms]):
    """An iterator that notes the messages that are pulled from it, and how many of them wait for their outcome."""

    def __init__(self, messages: Iterable[Sms], log: list[tuple[Any, ...]]) -> None:
        self.pulled: list[Sms] = []
        self.taken = 0  # outcomes; the consumer counts them
        self.most_waiting = 0
        self._messages = iter(messages)
        self._log = log

    def __next__(self) -> Sms:
        sms = next(self._messages)
        self._log.append(("pull", len(self.pulled)))
        self.pulled.append(sms)
        self.most_waiting = max(self.most_waiting, len(self.pulled) - self.taken)
        return sms


class AsyncSource(AsyncIterator[Sms]):
    """An asynchronous source that takes its time, and must not be asked again in the meantime."""

    def __init__(self, source: Source, seconds: float = 0.0) -> None:
        self._source = source
        self._seconds = seconds
        self._asked = False

    async def __anext__(self) -> Sms:
        assert not self._asked, "two were pulled at once"
        self._asked = True
        try:
            await asyncio.sleep(self._seconds)
            return next(self._source)
        except StopIteration:
            raise StopAsyncIteration from None
        finally:
            self._asked = False


def refuse_account() -> Exception:
    """Return an error that stops a run."""
    return QuotaExhaustedError(401, 55)


def make_internal_error() -> Exception:
    """Return the error that is tried again."""
    return InternalError(500, 13)


def assert_alone() -> None:
    """Assert that no task is left but this one."""
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def report_of(
    wire: Wire, concurrency: int = 32, messages: Iterable[Sms] | AsyncIterator[Sms] | None = None
) -> BulkReport:
    """Return the report, as `send_many` does."""
    async with BulkRun(wire.send, wire.messages() if messages is None else messages, concurrency) as bulk:
        report = await bulk.report()
    assert_alone()
    return report


async def rest_of(bulk: BulkRun) -> list[Outcome]:
    """Return the outcomes that are still to come."""
    return [outcome async for outcome in bulk]


# --- every pulled message has exactly one outcome -------------------------------------------------------------------


class ConsumerError(Exception):
    """The exception by which a consumer leaves its block."""


@frozen
class Scenario:
    """Messages with their plans, and a consumer.

    The consumer pauses for `rests` between outcomes. It leaves after `takes` of them, or is cancelled after `seconds`.
    """

    plans: list[Plan]
    concurrency: int
    pull_seconds: float | None  # None: a synchronous source
    rests: list[float]
    leaves: str  # "at the end", "normally", "by an exception", "cancelled"
    takes: int
    seconds: float


SECONDS = st.sampled_from([0.0, 0.5, 1.0, 1.5, 4.0])
ENDS = st.sampled_from(
    [
        None,
        None,
        None,
        make_internal_error,
        ConnectionFailedError,
        DeliveryUnknownError,
        UnexpectedResponseError,
        lambda: InvalidRequestError(406, 39),
        lambda: RateLimitedError(429, 9),
    ]
)
PLANS = st.builds(
    Plan,
    waits=SECONDS,
    takes=SECONDS,
    ends=st.lists(ENDS, min_size=1, max_size=4).map(tuple),
    before=st.sampled_from([None] * 6 + [ExpiredError]),
    refused=st.sampled_from([None] * 6 + [InvalidMessageError]),
)
STOPPERS = st.sampled_from(
    [
        Plan(ends=(refuse_account,)),
        Plan(ends=(make_internal_error, refuse_account)),
        Plan(before=LimiterUnavailableError),
        Plan(ends=(ConnectionFailedError,)),
    ]
)
SCENARIOS = st.builds(
    Scenario,
    plans=st.lists(st.one_of(PLANS, PLANS, PLANS, PLANS, STOPPERS), max_size=25),
    concurrency=st.integers(1, 5),
    pull_seconds=st.one_of(st.none(), SECONDS),
    rests=st.lists(SECONDS, max_size=5),
    leaves=st.sampled_from(["at the end", "normally", "by an exception", "cancelled"]),
    takes=st.integers(0, 12),
    seconds=st.floats(0, 15),
)


def expected_stop(log: list[tuple[Any, ...]], concurrency: int, leave: int) -> tuple[int, OcaSmsError | None]:
    """Return the place in the log at which the run had to stop by itself, and its error; else the place of leaving."""
    in_a_row = 0
    for place, (kind, number, *rest) in enumerate(log[:leave]):
        following = next((entry[0] for entry in log[place + 1 :] if entry[1] == number), "nothing")
        if kind == "end" and isinstance(rest[0], ApiError | UnexpectedResponseError | None):
            in_a_row = 0
        if kind != "end" or following != "nothing":
            continue  # any answer ends an outage, but only the end of a call can stop the run
        match rest[0]:
            case AccountError() | LimiterUnavailableError():
                return place, rest[0]
            case ConnectionFailedError():
                in_a_row += 1
                if in_a_row == concurrency:
                    return place, rest[0]
    return leave, None


class Run:
    """One run of a scenario, and everything that the test saw of it."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.wire = Wire(scenario.plans, RetryPolicy(max_attempts=3, initial_wait=1))
        self.source = Source(self.wire.messages(), self.wire.log)
        seconds = scenario.pull_seconds
        messages = self.source if seconds is None else AsyncSource(self.source, seconds)
        self.bulk = BulkRun(self.wire.send, messages, scenario.concurrency)
        self.taken: list[Outcome] = []

    async def main(self) -> None:
        """Take outcomes as the scenario says, and then the rest."""
        consumer = asyncio.create_task(self._consume())
        if self.scenario.leaves == "cancelled":
            asyncio.get_running_loop().call_later(self.scenario.seconds, consumer.cancel)
        with contextlib.suppress(asyncio.CancelledError, ConsumerError):
            await consumer
        assert_alone()
        self.taken += await rest_of(self.bulk)

    async def _consume(self) -> None:
        rests = itertools.chain(self.scenario.rests, itertools.repeat(0.0))
        async with self.bulk:
            async for outcome in self.bulk:
                self.source.taken += 1
                self.taken.append(outcome)
                if len(self.taken) > self.scenario.takes and self.scenario.leaves == "normally":
                    break
                if len(self.taken) > self.scenario.takes and self.scenario.leaves == "by an exception":
                    self.wire.log.append(("leave", -1))
                    raise ConsumerError
                await asyncio.sleep(next(rests))
            self.wire.log.append(("leave", -1))

    def by_number(self) -> dict[int, Outcome]:
        """Return each outcome under the number of its message, and assert that no message has a second one."""
        numbers = {id(sms): number for number, sms in enumerate(self.source.pulled)}
        outcomes = {numbers[id(outcome.sms)]: outcome for outcome in self.taken}
        assert len(outcomes) == len(self.taken)
        return outcomes

    def assert_true(self, number: int, outcome: Outcome) -> None:
        """Assert that an outcome says what the wire saw."""
        started, errors = self.wire.numbers("start").count(number), self.wire.errors(number)
        match outcome:
            case Sent(receipt=receipt):
                assert receipt is self.wire.receipts[number]
                assert receipt.attempts == started
            case Failed(error=failure):
                assert failure is errors[-1]
                assert failure.attempts == started
                assert failure.may_have_been_sent == any(error.may_have_been_sent for error in errors)
            case Skipped(reason=reason, receipt=skipped_receipt):
                assert started == 0
                assert reason is self.bulk.stopped_by
                assert skipped_receipt is None


@settings(max_examples=400, deadline=None)
@given(SCENARIOS)
def test_every_pulled_message_has_exactly_one_outcome(scenario: Scenario) -> None:
    """Each pulled message has one outcome, as it was on the wire, however the block is left.

    Only messages that an exception or a cancellation cut off have none.
    """
    seen = Run(scenario)
    run(seen.main())
    outcomes = seen.by_number()
    for number, outcome in outcomes.items():
        seen.assert_true(number, outcome)
    without = set(range(len(seen.source.pulled))) - outcomes.keys()
    if scenario.leaves in {"by an exception", "cancelled"}:
        assert without <= {*seen.wire.numbers("cut"), *seen.wire.numbers("idle")}
    else:
        assert not without
        assert seen.wire.numbers("cut") == []


@settings(max_examples=400, deadline=None)
@given(SCENARIOS)
def test_a_run_keeps_its_bounds_and_stops_where_it_must(scenario: Scenario) -> None:
    """At most `concurrency` messages are under way, and at most twice as many are pulled whose outcome was not taken.

    After leaving, or after an error that stops the run, no message is pulled and no request starts. Other errors do
    not stop it.
    """
    seen = Run(scenario)
    run(seen.main())
    log = seen.wire.log
    assert seen.source.most_waiting <= 2 * scenario.concurrency
    assert seen.wire.most_under_way <= scenario.concurrency
    assert seen.wire.under_way == 0
    leave = next((index for index, entry in enumerate(log) if entry[0] == "leave"), len(log))
    stop, error = expected_stop(log, scenario.concurrency, leave)
    assert seen.bulk.stopped_by is error
    assert not any(entry[0] in {"pull", "start"} for entry in log[stop:])
    if error is None and scenario.leaves == "at the end":
        assert len(seen.source.pulled) == len(scenario.plans)


@settings(max_examples=50, deadline=None)
@given(plans=st.lists(PLANS, max_size=25), concurrency=st.integers(1, 30))
def test_a_report_is_in_input_order(plans: list[Plan], concurrency: int) -> None:
    """`send_many` returns the outcomes in the order of the input, however long each took."""
    wire = Wire(plans)
    messages = wire.messages()
    report = run(report_of(wire, concurrency, messages))
    pulled = len(report.outcomes)
    assert pulled == len(messages) or report.stopped_by is not None
    assert all(outcome.sms is sms for outcome, sms in zip(report.outcomes, messages[:pulled], strict=True))


@in_virtual_time
async def test_outcomes_come_as_they_are_known() -> None:
    """A quick message's outcome does not wait for that of a slow one before it."""
    wire = Wire([Plan(takes=seconds) for seconds in (5, 1, 3)])
    messages = wire.messages()
    seen = []
    async with BulkRun(wire.send, messages, 3) as bulk:
        async for outcome in bulk:
            assert any(outcome.sms is sms for sms in messages)
            seen.append((outcome.sms.phone, now() - 1000))
    assert seen == [("1", 1), ("2", 3), ("0", 5)]


@in_virtual_time
async def test_equal_messages_have_outcomes_of_their_own() -> None:
    """Each outcome has the very object that was passed, as often as it was passed."""
    sms = Sms("0", TEXT)
    report = await report_of(Wire([Plan()]), 2, [sms, sms, Sms("0", TEXT)])
    assert [outcome.sms is sms for outcome in report.outcomes] == [True, True, False]
    assert len(report.sent) == 3


@in_virtual_time
async def test_an_empty_input_is_an_empty_report() -> None:
    """An empty input ends at once, and stays at its end."""
    assert await report_of(Wire([])) == BulkReport((), None)
    async with BulkRun(Wire([]).send, iter(()), 4) as bulk:
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                await anext(bulk)


@in_virtual_time
async def test_as_many_messages_are_under_way_as_asked() -> None:
    """`concurrency` messages are under way at any time, no more and no fewer."""
    wire = Wire([Plan()] * 20)
    await report_of(wire, 4)
    assert wire.most_under_way == 4
    assert now() == 1005


@in_virtual_time
async def test_a_bulk_lets_interactive_messages_pass() -> None:
    """Each message of a bulk asks the limiter with the priority `BULK`."""
    priorities: list[Priority] = []

    class Noting(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            priorities.append(priority)

    await client_of(Gateway(), limiter=Noting()).send_many(make_messages(3))
    assert priorities == [Priority.BULK] * 3


@in_virtual_time
async def test_a_bulk_waits_in_the_lane_that_lets_others_pass() -> None:
    """Each message of a bulk asks the limiter for the bulk lane."""
    lanes: list[Priority] = []

    class Lanes(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            lanes.append(priority)

    await client_of(Gateway(), limiter=Lanes()).send_many(make_messages(3))
    assert lanes == [Priority.BULK] * 3


@in_virtual_time
async def test_a_failed_message_keeps_no_frames_alive() -> None:
    """The errors of a large bulk are kept, and the requests that they came from are not."""
    report = await report_of(Wire([Plan(ends=(lambda: InvalidRequestError(406, 39),))]))
    assert report.failed[0].error.__traceback__ is None


@in_virtual_time
async def test_a_runs_repr_says_how_far_it_is() -> None:
    """It has the stage, the count of pulled messages and the error that stopped the run, and no message."""
    wire = Wire([Plan(takes=0), Plan(ends=(refuse_account,)), Plan()])
    async with BulkRun(wire.send, wire.messages(), 1) as bulk:
        await anext(bulk)
        assert repr(bulk) == "<BulkRun running pulled=2 stopped_by=None>"
        await bulk.report()
    assert repr(bulk) == f"<BulkRun stopping pulled=2 stopped_by={bulk.stopped_by!r}>"


# --- laziness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pull_seconds", [None, 0.0, 0.25])
@pytest.mark.parametrize("concurrency", [1, 3, 8])
def test_no_more_is_pulled_than_twice_the_concurrency(concurrency: int, pull_seconds: float | None) -> None:
    """A run pulls up to twice its concurrency and then waits. Each outcome that is taken lets it pull one more."""

    async def main() -> None:
        wire = Wire([Plan()] * 1000)
        source = Source(wire.messages(), wire.log)
        messages = source if pull_seconds is None else AsyncSource(source, pull_seconds)
        async with BulkRun(wire.send, messages, concurrency) as bulk:
            await asyncio.sleep(1000)
            assert len(source.pulled) == 2 * concurrency
            for taken in range(1, 20):
                await anext(bulk)
                await asyncio.sleep(1000)
                assert len(source.pulled) == 2 * concurrency + taken
        assert len(source.pulled) == 2 * concurrency + 19
        assert_alone()

    run(main())


@in_virtual_time
async def test_an_endless_source_can_be_broken_off() -> None:
    """A consumer can leave a bulk over an input without end."""
    wire = Wire([Plan()])
    pulled = itertools.count()
    async with BulkRun(wire.send, (Sms("0", str(next(pulled))) for _ in itertools.count()), 5) as bulk:
        async for _ in bulk:
            if now() > 1010:
                break
    assert next(pulled) <= 11 * 5 + 10


@in_virtual_time
async def test_an_asynchronous_source_is_asked_for_one_message_at_a_time() -> None:
    """Idle workers do not ask an asynchronous generator twice at once."""
    wire = Wire([Plan(takes=0)] * 50)

    async def generate() -> AsyncIterator[Sms]:
        for sms in wire.messages():
            await asyncio.sleep(0.1)
            yield sms

    assert len((await report_of(wire, 16, generate())).sent) == 50  # a second anext would be a RuntimeError
    source = AsyncSource(Source(wire.messages(), wire.log), 0.1)
    assert len((await report_of(wire, 16, source)).sent) == 50


@pytest.mark.parametrize("make", [asyncio.Queue.get, None], ids=["asynchronous", "synchronous"])
@in_virtual_time
async def test_a_source_is_not_asked_again_after_its_end(make: object) -> None:
    """A source over a queue that ends at a sentinel would wait for ever, or yield once more."""
    asked = 0

    class Once(Iterator[Sms]):
        def __next__(self) -> Sms:
            nonlocal asked
            asked += 1
            assert asked <= 2
            if asked == 2:
                raise StopIteration
            return Sms("0", TEXT)

    class OnceToo(AsyncIterator[Sms]):
        async def __anext__(self) -> Sms:
            try:
                return next(once)
            except StopIteration:
                raise StopAsyncIteration from None

    once = Once()
    report = await report_of(Wire([Plan()]), 4, OnceToo() if make else once)
    assert (len(report.sent), asked) == (1, 2)


@in_virtual_time
async def test_nothing_is_pulled_before_the_block_is_entered() -> None:
    """Making a bulk pulls no message."""
    wire = Wire([Plan()])
    source = Source(wire.messages(), wire.log)
    bulk = BulkRun(wire.send, source, 4)
    await asyncio.sleep(1)
    assert source.pulled == []
    async with bulk:
        assert [type(outcome) for outcome in await rest_of(bulk)] == [Sent]


@in_virtual_time
async def test_a_bulk_is_entered_before_it_is_iterated_and_only_once() -> None:
    """Each mistake is an error that names the cure: one would wait for ever, and the other would mix two runs."""
    bulk = BulkRun(Wire([Plan()]).send, [], 4)
    with pytest.raises(RuntimeError, match="async with"):
        await anext(bulk)
    async with bulk:
        with pytest.raises(RuntimeError, match="another run"):
            await bulk.__aenter__()
        assert [outcome async for outcome in bulk] == []
    with pytest.raises(RuntimeError, match="another run"):
        await bulk.__aenter__()


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, None])
def test_concurrency_must_be_a_whole_number_of_at_least_1(concurrency: int) -> None:
    """The refusal comes before any message is pulled, and it names the field."""
    client = client_of(Gateway())
    with pytest.raises(ValueError, match=r"^concurrency\b"):
        client.bulk([], concurrency=concurrency)
    with pytest.raises(ValueError, match=r"^concurrency\b"):
        run(client.send_many([], concurrency=concurrency))


@pytest.mark.parametrize("messages", [None, 5, Sms("0812", TEXT)])
def test_messages_must_be_iterable(messages: Any) -> None:
    """One message, or no message, is no collection of messages."""
    client = client_of(Gateway())
    with pytest.raises(TypeError):
        client.bulk(messages)
    with pytest.raises(TypeError):
        run(client.send_many(messages))


# --- stopping by itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stop",
    [
        Plan(ends=(lambda: AccountError(403),)),
        Plan(ends=(lambda: InvalidCredentialsError(401, 17),)),
        Plan(ends=(lambda: MissingAuthorizationError(406, 19),)),
        Plan(ends=(lambda: UserNotFoundError(404, 41),)),
        Plan(ends=(lambda: AccountExpiredError(401, 51),)),
        Plan(ends=(refuse_account,)),
        Plan(ends=(make_internal_error, refuse_account)),
        Plan(before=LimiterUnavailableError),
        Plan(ends=(LimiterUnavailableError,)),
    ],
)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_refused_account_or_a_limiter_that_is_gone_stops_the_run(stop: Plan, concurrency: int) -> None:
    """One of these errors is enough, and no more is pulled. The message itself is `Failed` if it was attempted."""
    wire = Wire([Plan()] * 10 + [stop] + [Plan()] * 50)
    source = Source(wire.messages(), wire.log)
    report = run(report_of(wire, concurrency, source))
    error = wire.errors(10)[-1]
    assert report.stopped_by is error
    assert len(source.pulled) == len(report.outcomes) <= 10 + 2 * concurrency
    own = report.outcomes[10]
    assert own == (Skipped(own.sms, error) if stop.before else Failed(own.sms, error))
    assert all(isinstance(outcome, Sent) for outcome in report.outcomes[:10])


@pytest.mark.parametrize(
    "end",
    [
        make_internal_error,
        lambda: InvalidRequestError(406, 39),
        lambda: RateLimitedError(429, 9),
        lambda: ApiError(401, may_have_been_sent=False),
        DeliveryUnknownError,
        UnexpectedResponseError,
        ExpiredError,
        InvalidMessageError,
    ],
)
def test_no_other_error_stops_the_run(end: Callable[[], Exception]) -> None:
    """An error of one message, or one that passes, is no reason to leave the others."""
    report = run(report_of(Wire([Plan(ends=(end,))] * 30), 2))
    assert report.stopped_by is None
    assert len(report.failed) == 30


# The messages of these plans end in the order of the input, so that failures in a row are in a row.
CONNECTION_FAILED, SENT = Plan(ends=(ConnectionFailedError,)), Plan()
ANSWERS = {
    "sent": SENT,
    "refused": Plan(ends=(lambda: InvalidRequestError(406, 39),)),
    "rate limited": Plan(ends=(lambda: RateLimitedError(429, 9),)),
    "internal error": Plan(ends=(make_internal_error,) * 9),
    "unexpected": Plan(ends=(UnexpectedResponseError,)),
}
NO_ANSWERS = {
    "invalid": Plan(refused=InvalidMessageError),
    "expired": Plan(before=ExpiredError),
    "unknown": Plan(ends=(DeliveryUnknownError,)),
}


def stagger(plans: Iterable[Plan]) -> list[Plan]:
    """Return the plans with times on the wire that let the messages end in the order of the input."""
    return [evolve(plan, takes=1 + number / 1000) for number, plan in enumerate(plans)]


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_an_outage_does_not_burn_the_input(concurrency: int) -> None:
    """The run stops when as many connections in a row have failed as there are workers."""
    wire = Wire(stagger([SENT] * 10 + [CONNECTION_FAILED] * 90))
    source = Source(wire.messages(), wire.log)
    report = run(report_of(wire, concurrency, source))
    assert report.stopped_by is wire.errors(10 + concurrency - 1)[0]
    assert (len(report.sent), len(report.failed)) == (10, len(wire.numbers("start")) - 10)
    assert len(source.pulled) < 10 + 2 * concurrency


@pytest.mark.parametrize("between", ANSWERS.values(), ids=ANSWERS)
def test_any_answer_begins_the_row_anew(between: Plan) -> None:
    """Connections that fail now and then are no outage."""
    wire = Wire(stagger(([CONNECTION_FAILED] * 2 + [between]) * 10), RetryPolicy(max_attempts=1))
    report = run(report_of(wire, 3))
    assert report.stopped_by is None
    assert len(report.outcomes) == 30


def test_an_answer_that_is_tried_again_begins_the_row_anew() -> None:
    """An internal error shows that the gateway is there, even while its message waits for the next attempt."""
    doubled = Plan(takes=1.5, ends=(make_internal_error, None))
    failing = [Plan(takes=1, ends=(ConnectionFailedError,))] * 2
    wire = Wire([doubled, *failing], RetryPolicy(initial_wait=1e6, max_wait=1e6))
    report = run(report_of(wire, 2))
    assert report.stopped_by is None
    assert len(report.failed) == 2


@pytest.mark.parametrize("between", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_an_error_without_an_answer_changes_no_row(between: Plan) -> None:
    """An invalid or expired message says nothing about the connection, and a request that got lost is no proof."""
    wire = Wire(stagger([between] * 5 + [CONNECTION_FAILED] * 2 + [between] * 5 + [CONNECTION_FAILED] * 20))
    report = run(report_of(wire, 3))
    assert report.stopped_by is wire.errors(12)[0]


def test_a_stop_skips_fails_and_lets_the_wire_finish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Messages that wait are `Skipped`, those that back off are `Failed`, and those on the wire finish."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    plans = [
        Plan(takes=2, ends=(refuse_account,)),
        Plan(waits=1000),  # waits for its first token
        Plan(takes=1, ends=(make_internal_error, None)),  # is in its back-off
        Plan(takes=0, waits=1.5, ends=(make_internal_error, None)),  # is in its back-off too
        Plan(takes=5),  # is on the wire, and will be taken
        Plan(takes=7, ends=(make_internal_error, None)),  # is on the wire, and will not be taken
        Plan(takes=6, ends=(ConnectionFailedError,)),  # is on the wire, and will fail
    ]

    async def main() -> None:
        wire = Wire([*plans, *[Plan()] * 50], ONE_WAIT)
        source = Source(wire.messages(), wire.log)
        async with BulkRun(wire.send, source, len(plans)) as bulk:
            seen = [(int(outcome.sms.phone), now() - 1000, outcome) async for outcome in bulk]
            assert bulk.stopped_by is wire.errors(0)[0]
        assert_alone()
        sms = source.pulled
        stop = bulk.stopped_by
        assert len(sms) == len(plans)
        assert wire.numbers("start").count(5) == 1
        assert sorted(seen, key=lambda one: one[0]) == [
            (0, 2, Failed(sms[0], stop)),
            (1, 2, Skipped(sms[1], stop)),
            (2, 2, Failed(sms[2], wire.errors(2)[0])),
            (3, 2, Failed(sms[3], wire.errors(3)[0])),
            (4, 5, Sent(sms[4], wire.receipts[4])),
            (5, 7, Failed(sms[5], wire.errors(5)[0])),
            (6, 6, Failed(sms[6], wire.errors(6)[0])),
        ]
        failed = [one.error for _, _, one in seen if isinstance(one, Failed)]
        assert all(error.attempts == 1 for error in failed)
        assert all(error.may_have_been_sent == isinstance(error, InternalError) for error in failed)
        assert all(error.__traceback__ is None for error in failed)  # its frames would keep the request alive

    run(main())


@in_virtual_time
async def test_a_stop_ends_a_wait_for_the_second_token() -> None:
    """A message that waits for the token of its second attempt is `Failed` with the error of its first."""
    wire = Wire([Plan(takes=3, ends=(refuse_account,)), Plan(waits=2, takes=0, ends=(make_internal_error, None))])
    report = await report_of(wire, 2)
    assert isinstance(report.outcomes[1], Failed)
    assert report.outcomes[1].error is wire.errors(1)[0]
    assert report.outcomes[1].error.attempts == 1
    assert now() == 1003


@in_virtual_time
async def test_the_first_reason_to_stop_stays() -> None:
    """Messages on the wire at a stop may meet the same refusal, and `stopped_by` stays the first one."""
    wire = Wire(stagger([Plan(ends=(refuse_account,))] * 6))
    report = await report_of(wire, 3)
    assert report.stopped_by is wire.errors(0)[0]
    assert [outcome.error for outcome in report.failed] == [wire.errors(number)[0] for number in range(3)]
    assert len(report.outcomes) == 3


@in_virtual_time
async def test_a_stop_does_not_wait_for_a_slow_source() -> None:
    """A worker that waits for its next message pulls none after a stop, and does not delay the end."""
    stopper, *_ = messages = Wire([Plan(ends=(refuse_account,)), Plan()]).messages()
    wire = Wire([Plan(ends=(refuse_account,))])

    async def slow() -> AsyncIterator[Sms]:
        yield stopper
        await asyncio.sleep(1000)
        yield messages[1]

    report = await report_of(wire, 4, slow())
    assert len(report.outcomes) == 1
    assert now() == 1001


async def test_a_stop_does_not_wait_for_a_slow_source_after_a_message_with_a_journal(tmp_path: Path) -> None:
    """A worker that waits for its next message has nothing more to write, and ends at once."""

    async def wait_after(sms: Sms) -> AsyncIterator[Sms]:
        yield sms
        await asyncio.Event().wait()

    async with asyncio.timeout(HANG), SqliteJournal(tmp_path / "journal") as journal:
        messages = wait_after(*make_messages(1))
        async with client_of(Gateway()).bulk(messages, concurrency=1, journal=journal) as bulk:
            assert isinstance(await anext(bulk), Sent)
    assert bulk.stopped_by is None


# --- leaving the block ----------------------------------------------------------------------------------------------


def test_leaving_normally_waits_for_the_wire_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests on the wire finish, and messages that wait or back off end at once."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    plans = [
        Plan(takes=1),
        Plan(takes=3),
        Plan(takes=4, ends=(make_internal_error, None)),
        Plan(waits=1000),
        Plan(takes=0.5, ends=(make_internal_error, None)),
    ]

    async def main() -> None:
        wire = Wire([*plans, *[Plan(takes=2)] * 50], ONE_WAIT)
        source = Source(wire.messages(), wire.log)
        async with BulkRun(wire.send, source, len(plans)) as bulk:
            async for outcome in bulk:
                assert outcome.sms is source.pulled[0]
                break
            started = len(wire.numbers("start"))
        assert now() == 1004
        assert_alone()
        assert len(wire.numbers("start")) == started
        assert wire.numbers("cut") == []
        outcomes = {int(outcome.sms.phone): outcome for outcome in await rest_of(bulk)}
        assert {number: type(outcome) for number, outcome in outcomes.items()} == {
            1: Sent,
            2: Failed,
            3: Skipped,
            4: Failed,
            5: Skipped,  # the worker of the outcome that was taken pulled it
        }
        assert {outcome.reason for outcome in outcomes.values() if isinstance(outcome, Skipped)} == {None}
        assert bulk.stopped_by is None
        assert len(source.pulled) == 6

    run(main())


@pytest.mark.parametrize("factory", [None, *filter(None, [getattr(asyncio, "eager_task_factory", None)])])
@in_virtual_time
async def test_leaving_waits_for_the_wire_with_any_task_factory(factory: Any) -> None:
    """Tasks of Python's eager factory begin before `create_task` returns, and the bulk waits for them too."""
    asyncio.get_running_loop().set_task_factory(factory)
    wire = Wire([Plan(takes=1)] * 9)
    async with BulkRun(wire.send, wire.messages(), 3) as bulk:
        await asyncio.sleep(0.5)
    assert [type(it) for it in await rest_of(bulk)] == [Sent] * 3


@in_virtual_time
async def test_leaving_normally_waits_for_a_silent_gateway_no_longer_than_an_attempt() -> None:
    """A request on the wire ends after the client's `timeout`, in doubt."""
    client = client_of(Gateway(TAKEN, hang), timeout=7.5)
    bulk = client.bulk(make_messages(100), concurrency=3)
    async with bulk as outcomes:
        await anext(outcomes)
        assert now() == 1001
    assert now() == 1001 + 7.5  # the worker of the outcome that was taken had started its next message
    assert_alone()
    assert isinstance(bulk, BulkRun)
    rest = await rest_of(bulk)
    assert [type(outcome.error) for outcome in rest if isinstance(outcome, Failed)] == [DeliveryUnknownError] * 3
    assert len(rest) == 3


@in_virtual_time
async def test_leaving_at_once_sends_nothing() -> None:
    """An empty block ends before its workers have begun."""
    wire = Wire([Plan()] * 10)
    source = Source(wire.messages(), wire.log)
    async with BulkRun(wire.send, source, 4) as bulk:
        pass
    assert wire.log == []
    assert await rest_of(bulk) == []
    assert now() == 1000


@in_virtual_time
async def test_leaving_by_an_exception_cancels_the_wire() -> None:
    """The exception itself comes out at once, and no worker outlives it."""
    wire = Wire([Plan(takes=1), *[Plan(takes=100)] * 10])
    error = ConsumerError()

    async def use() -> None:
        async with BulkRun(wire.send, wire.messages(), 4) as bulk:
            await anext(bulk)
            raise error

    with pytest.raises(ConsumerError) as caught:
        await use()
    assert caught.value is error
    assert now() == 1001
    assert_alone()
    assert set(wire.numbers("cut")) == {1, 2, 3}
    assert all(wire.calls[number].may_have_been_sent for number in wire.numbers("cut"))


@pytest.mark.parametrize("leaving", [False, True])
def test_cancelling_the_consumer_cancels_the_wire(leaving: bool) -> None:
    """A cancellation ends every request, while the consumer takes outcomes and at the end of the block."""

    async def main() -> None:
        wire = Wire([Plan(takes=1), *[Plan(takes=100)] * 10])

        async def consume() -> None:
            async with BulkRun(wire.send, wire.messages(), 4) as bulk:
                async for _ in bulk:
                    if leaving:
                        break

        consumer = asyncio.create_task(consume())
        await asyncio.sleep(5)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        assert now() == 1005
        assert_alone()
        assert len(set(wire.numbers("cut"))) == (3 if leaving else 4)

    run(main())


@in_virtual_time
async def test_no_worker_outlives_the_block_however_often_its_owner_is_cancelled() -> None:
    """The block waits for a send that takes time to end, through several cancellations."""
    ended = []

    async def stubborn(sms: Sms, call: CallState) -> SendReceipt:
        try:
            return await asyncio.sleep(1000, SendReceipt("uid", "sent"))
        finally:
            await asyncio.sleep(10)
            ended.append(now())

    async def consume() -> None:
        async with BulkRun(stubborn, [Sms("0", TEXT)], 1) as bulk:
            await anext(bulk)

    consumer = asyncio.create_task(consume())
    for _ in range(3):
        await asyncio.sleep(3)
        consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert len(ended) == 1
    assert_alone()


@in_virtual_time
async def test_cancelling_send_many_cancels_the_wire() -> None:
    """A time-out around `send_many` leaves no task."""
    gateway = Gateway(TAKEN, hang)
    client = client_of(gateway)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await client.send_many(make_messages(9), concurrency=3)
    assert_alone()
    assert len(gateway.texts) == 4
    assert now() == 1005


# --- bugs -----------------------------------------------------------------------------------------------------------


class BugError(Exception):
    """An exception that is not of this library."""


def plant_bug(where: str, error: Exception, wire: Wire) -> Iterable[Sms] | AsyncIterator[Sms]:
    """Return messages for that wire, of which the sixth meets a bug."""
    messages = wire.messages()
    if where == "a send":
        wire.plans = [*wire.plans[:5], Plan(takes=0, bug=lambda: error), *wire.plans[6:]]
        return messages
    if where == "an item":
        return [*messages[:5], "0812", *messages[6:]]  # type: ignore[list-item]  # that is the bug

    def broken() -> Iterator[Sms]:
        yield from messages[:5]
        raise error

    async def broken_too() -> AsyncIterator[Sms]:
        for sms in broken():
            yield sms

    return broken() if where == "an iterator" else broken_too()


BUGS = ["an iterator", "an asynchronous iterator", "an item", "a send"]


def is_bug(where: str, error: Exception, caught: BaseException) -> bool:
    """Tell whether this exception is the bug."""
    return isinstance(caught, TypeError) and "Sms" in str(caught) if where == "an item" else caught is error


@pytest.mark.parametrize("taken_by", ["the iterator", "the report", ""])
@pytest.mark.parametrize("where", BUGS)
def test_a_bug_ends_the_run_and_comes_out_as_itself(where: str, taken_by: str) -> None:
    """An exception that is not ours comes after the outcomes of all pulled messages, and in no group."""

    async def main() -> None:
        error = BugError()
        wire = Wire([Plan(takes=1), Plan(takes=1.5), *[Plan(takes=100)] * 50])
        outcomes: list[Outcome] = []
        bulk = BulkRun(wire.send, plant_bug(where, error, wire), 4)

        async def use() -> None:
            async with bulk:
                if taken_by == "the report":
                    await bulk.report()
                elif not taken_by:
                    await asyncio.sleep(1000)
                else:
                    async for outcome in bulk:
                        outcomes.append(outcome)  # noqa: PERF401 - a comprehension would lose them

        with pytest.raises((BugError, TypeError)) as caught:
            await use()
        assert is_bug(where, error, caught.value)
        assert_alone()
        assert wire.numbers("cut") == []
        assert now() == (1101 if taken_by else 2000)
        assert bulk.stopped_by is None
        if taken_by == "the iterator":
            pulled = [0, 1, 2, 3, 4, *([5] if where == "a send" else [])]
            assert sorted(int(outcome.sms.phone) for outcome in outcomes) == pulled
            doubtful = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
            assert [outcome.error.may_have_been_sent for outcome in doubtful] == [True] * (where == "a send")

    run(main())


@pytest.mark.parametrize("where", BUGS)
def test_a_bug_comes_out_of_send_many(where: str) -> None:
    """`send_many` raises the bug and returns no report."""
    error = BugError()

    async def main() -> None:
        wire = Wire([Plan()] * 20)
        messages = plant_bug(where, error, wire)
        client = client_of(Gateway())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client._sender, "send_sms", wire.send)
            with pytest.raises((BugError, TypeError)) as caught:
                await client.send_many(messages, concurrency=2)
        assert is_bug(where, error, caught.value)
        assert_alone()

    run(main())


@in_virtual_time
async def test_the_first_of_several_bugs_is_raised() -> None:
    """A second bug, of a message that was on the wire, does not replace it."""
    first, second = BugError(), BugError()
    wire = Wire([Plan(takes=2, bug=lambda: second), Plan(takes=1, bug=lambda: first)])
    with pytest.raises(BugError) as caught:
        await report_of(wire, 2)
    assert caught.value is first


@in_virtual_time
async def test_a_bug_that_was_caught_is_not_raised_again() -> None:
    """A consumer that catches the bug within the block leaves the block normally."""
    error = BugError()
    wire = Wire([Plan(bug=lambda: error)] * 9)
    async with BulkRun(wire.send, wire.messages(), 3) as bulk:
        for _ in range(3):
            assert isinstance(await anext(bulk), Failed)
        with pytest.raises(BugError) as caught:
            await anext(bulk)
        assert caught.value is error
        with pytest.raises(StopAsyncIteration):
            await anext(bulk)
    assert_alone()


@in_virtual_time
async def test_an_exception_of_the_consumer_goes_before_a_bug() -> None:
    """A consumer that leaves by an exception of its own gets that one."""
    wire = Wire([Plan(takes=0, bug=BugError)] * 9)

    async def use() -> None:
        async with BulkRun(wire.send, wire.messages(), 3):
            await asyncio.sleep(1)
            raise ConsumerError

    with pytest.raises(ConsumerError):
        await use()
    assert_alone()


@in_virtual_time
async def test_an_iterator_cancelled_from_within_is_a_bug() -> None:
    """A `CancelledError` out of the iterator is a `RuntimeError`, so that it does not pass for a cancellation."""

    async def broken() -> AsyncIterator[Sms]:
        yield Sms("0", TEXT)
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="cancelled from within"):
        await report_of(Wire([Plan()]), 2, broken())


@in_virtual_time
async def test_an_error_of_this_library_out_of_the_callers_iterator_is_a_bug() -> None:
    """An error of this library is an outcome only if a send raised it."""
    error = QuotaExhaustedError(401, 55)

    def broken() -> Iterator[Sms]:
        yield Sms("0", TEXT)
        raise error

    with pytest.raises(QuotaExhaustedError) as caught:
        await report_of(Wire([Plan()]), 2, broken())
    assert caught.value is error


# --- through the client, without sockets ----------------------------------------------------------------------------


@in_virtual_time
async def test_an_invalid_message_is_failed_and_the_others_go_on() -> None:
    """An impossible number, text or date fails its own message, which was not sent."""
    good = make_messages(2)
    bad: list[Any] = [
        Sms("12", TEXT),
        Sms("0812 ABCD EFGH", TEXT),
        Sms(None, TEXT),  # type: ignore[arg-type]  # that is the point
        Sms("+6281234567890", " \n"),
        Sms("+6281234567890", 482913),  # type: ignore[arg-type]  # as well
        Sms("+6281234567890", TEXT, expires_at=datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)),
        Sms("+6281234567890", TEXT, expires_at=5.0),  # type: ignore[arg-type]  # as well
    ]
    gateway = Gateway(TAKEN)
    report = await client_of(gateway).send_many([good[0], *bad, good[1]], concurrency=2)
    assert [type(outcome) for outcome in report.outcomes] == [Sent, *[Failed] * len(bad), Sent]
    assert {type(outcome.error) for outcome in report.failed} == {InvalidMessageError}
    assert not any(outcome.error.may_have_been_sent or outcome.error.attempts for outcome in report.failed)
    assert gateway.texts == ["0", "1"]
    assert report.stopped_by is None


@in_virtual_time
async def test_an_expired_message_is_failed() -> None:
    """A message is sent until its time has passed, and not afterwards."""
    moment = datetime.now(UTC)
    messages = [
        evolve(sms, expires_at=moment + timedelta(seconds=seconds))
        for sms, seconds in zip(make_messages(3), [-1, 3600, -86400 * 365], strict=True)
    ]
    gateway = Gateway(TAKEN)
    report = await client_of(gateway).send_many(messages)
    assert [type(outcome) for outcome in report.outcomes] == [Failed, Sent, Failed]
    for outcome in report.failed:
        assert isinstance(outcome.error, ExpiredError)
        assert (outcome.error.may_have_been_sent, outcome.error.attempts) == (False, 0)
    assert gateway.texts == ["1"]


@in_virtual_time
async def test_expiry_bounds_the_request_too() -> None:
    """A message that expires under way ends then, in doubt. A message without a date has the whole time-out."""
    first, second = make_messages(2)
    report = await client_of(Gateway(hang)).send_many(
        [evolve(first, expires_at=datetime.now(UTC) + timedelta(seconds=5)), second]
    )
    assert [type(outcome.error) for outcome in report.failed] == [ExpiredError, DeliveryUnknownError]
    assert len(report.unknown) == 2
    assert now() == 1010


@in_virtual_time
async def test_repeated_messages_are_named() -> None:
    """A message that took more than one attempt is in `sent` and in `retried`."""
    report = await client_of(Gateway(delay(1, refuse(500, 13)), TAKEN)).send_many(make_messages(3), concurrency=1)
    assert [outcome.receipt.attempts for outcome in report.sent] == [2, 1, 1]
    assert report.retried == report.sent[:1]


@pytest.mark.parametrize(
    ("answer", "error", "requests"),
    [
        (delay(1, refuse(401, 17)), InvalidCredentialsError, 4),
        (delay(1, refuse(401, 55)), QuotaExhaustedError, 4),
        (delay(1, refuse(403)), AccountError, 4),
        (fail(httpx.ConnectError), ConnectionFailedError, 4),
    ],
)
def test_a_run_stops_by_itself(answer: Answer, error: type[OcaSmsError], requests: int) -> None:
    """Each worker meets a refused account or an outage once, and the rest of the input stays unpulled."""

    async def main() -> None:
        gateway = Gateway(answer)
        source = Source(make_messages(100), [])
        report = await client_of(gateway).send_many(source, concurrency=4)
        assert type(report.stopped_by) is error
        assert len(report.outcomes) == len(report.failed) == len(source.pulled) == len(gateway.texts) == requests
        assert_alone()

    run(main())


class Held(Unlimited):
    """A limiter that lets `through` requests through and holds the others.

    A stubborn one lets a request through when it is cancelled.
    """

    def __init__(self, through: int, *, stubborn: bool = False) -> None:
        self.through = through
        self.stubborn = stubborn
        self.let_through_late = 0

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Return at once, or when it is cancelled, as a limiter must not."""
        assert priority is Priority.BULK
        self.through -= 1
        if self.through >= 0:
            return
        with contextlib.suppress(asyncio.CancelledError) if self.stubborn else contextlib.nullcontext():
            await asyncio.sleep(1000)
            raise AssertionError
        self.let_through_late += 1


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("how", ["by itself", "by leaving", "by an exception"])
def test_a_message_that_waits_for_a_token_is_not_sent_once_the_run_is_over(how: str, stubborn: bool) -> None:
    """Even if the limiter swallows the cancellation, the hook before the first byte refuses."""

    async def main() -> None:
        gateway = Gateway(delay(1, refuse(401, 55)) if how == "by itself" else TAKEN)
        limiter = Held(1, stubborn=stubborn)
        client = client_of(gateway, limiter=limiter)
        bulk = client.bulk(make_messages(20), concurrency=4)
        assert isinstance(bulk, BulkRun)
        with contextlib.suppress(ConsumerError):
            async with bulk:
                first = await anext(bulk)
                if how == "by an exception":
                    raise ConsumerError
        assert_alone()
        assert len(gateway.texts) == 1
        assert limiter.let_through_late == (0 if not stubborn else 3 if how == "by itself" else 4)
        rest = await rest_of(bulk)
        if stubborn or how != "by an exception":
            assert len(rest) == (3 if how == "by itself" else 4)
        assert all(outcome == Skipped(outcome.sms, bulk.stopped_by) for outcome in rest)
        assert isinstance(first, Failed if how == "by itself" else Sent)

    run(main())


@in_virtual_time
async def test_a_limiter_without_its_server_stops_the_run_before_anything_was_sent() -> None:
    """Without its limiter no message is attempted, and every pulled one is `Skipped` with the limiter's error."""

    class Unreachable(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            await asyncio.sleep(1)
            raise LimiterUnavailableError("the limiter's server does not answer")

    gateway = Gateway(TAKEN)
    report = await client_of(gateway, limiter=Unreachable()).send_many(make_messages(50), concurrency=4)
    assert isinstance(report.stopped_by, LimiterUnavailableError)
    assert [outcome.reason for outcome in report.skipped] == [report.stopped_by] * 4
    assert report.skipped == report.outcomes
    assert gateway.texts == []


@in_virtual_time
async def test_a_limiter_that_loses_its_server_fails_an_attempted_message() -> None:
    """A message that was answered 500/13, and cannot be repeated without its limiter, may have been sent."""

    class Lost(Unlimited):
        calls = 0

        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            self.calls += 1
            if self.calls > 1:
                raise LimiterUnavailableError("the limiter's server does not answer")

    report = await client_of(Gateway(delay(1, refuse(500, 13))), limiter=Lost()).send_many(
        make_messages(5), concurrency=1
    )
    (failed,) = report.outcomes
    assert isinstance(failed, Failed)
    assert failed.error is report.stopped_by
    assert (failed.error.attempts, failed.error.may_have_been_sent) == (1, True)


@in_virtual_time
async def test_a_gateway_that_hangs_stops_a_bulk() -> None:
    """As many time-outs in a row as messages at once stop the run, and each of them is in doubt."""
    client = client_of(Gateway(*[TAKEN] * 2, *[hang] * 50), timeout=5)
    report = await client.send_many(make_messages(40), concurrency=4)
    assert isinstance(report.stopped_by, DeliveryUnknownError)
    assert len(report.sent) == 2
    assert len(report.unknown) == len(report.failed) <= 2 * 4
    assert len(report.outcomes) < 40


@in_virtual_time
async def test_time_outs_of_a_lent_client_stop_a_bulk_and_lost_connections_do_not() -> None:
    """A lent client may end a request before our time-out does. A broken connection shows that there is a gateway."""
    report = await client_of(Gateway(fail(httpx.ReadTimeout))).send_many(make_messages(20), concurrency=4)
    assert isinstance(report.stopped_by, DeliveryUnknownError)
    assert len(report.outcomes) == 4
    report = await client_of(Gateway(fail(httpx.ReadError))).send_many(make_messages(20), concurrency=4)
    assert (report.stopped_by, len(report.unknown)) == (None, 20)


@in_virtual_time
async def test_an_answer_between_time_outs_is_no_outage() -> None:
    """A gateway that answers now and then is slow, and the run goes on."""
    answers = [hang if number % 3 == 0 else TAKEN for number in range(40)]
    client = client_of(Gateway(*answers), timeout=5)
    report = await client.send_many(make_messages(40), concurrency=4)
    assert report.stopped_by is None
    assert (len(report.sent), len(report.unknown)) == (26, 14)


@in_virtual_time
async def test_a_closed_client_is_no_outcome() -> None:
    """A bulk of a closed client is the caller's bug."""
    client = client_of(Gateway(TAKEN))
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await client.send_many(make_messages(3))
    assert_alone()


# --- through the client, over sockets -------------------------------------------------------------------------------


@pytest.mark.usefixtures("transport")
@each_api
async def test_a_bulk_reaches_the_gateway(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """100 messages, from either kind of iterable, arrive once each and are reported in input order."""

    async def generate() -> AsyncIterator[Sms]:
        for sms in messages:
            yield sms

    messages = make_messages(100)
    for source in (messages, generate()):
        sandbox.inbox.clear()
        report = await client.send_many(source, concurrency=8)
        assert [outcome.sms for outcome in report.sent] == messages
        assert sorted(message.text for message in sandbox.inbox) == sorted(sms.message for sms in messages)
        uids = {message.text: message.msg_uid for message in sandbox.inbox}
        assert [outcome.receipt.msg_uid for outcome in report.sent] == [uids[sms.message] for sms in messages]


@pytest.mark.usefixtures("transport")
@each_api
async def test_a_mixed_bulk_ends_as_the_gateway_decides(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """Refused, repeated and impossible messages keep their places in the report, and the rest arrives."""
    messages = make_messages(20)
    messages[7] = Sms("081", "7")
    sandbox.refused_numbers = [messages[3].phone]
    sandbox.when().respond("internal-error", times=2)
    report = await client.send_many(messages, concurrency=4)
    kinds = [type(outcome.error) if isinstance(outcome, Failed) else Sent for outcome in report.outcomes]
    assert kinds == [InvalidRequestError if n == 3 else InvalidMessageError if n == 7 else Sent for n in range(20)]
    assert sum(outcome.receipt.attempts - 1 for outcome in report.sent) == 2
    assert len(sandbox.inbox) == 18
    assert report.stopped_by is None


@pytest.mark.usefixtures("transport")
@each_api
async def test_an_exhausted_quota_stops_a_bulk(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """Messages within the quota are sent, and the input after them is left alone."""
    sandbox.quota = 10
    source = Source(make_messages(1000), [])
    report = await client.send_many(source, concurrency=4)
    assert isinstance(report.stopped_by, QuotaExhaustedError)
    assert len(report.sent) == len(sandbox.inbox) == 10
    assert len(report.outcomes) == len(source.pulled) <= 14
    assert {type(outcome.error) for outcome in report.failed} == {QuotaExhaustedError}


@pytest.mark.usefixtures("transport")
async def test_a_gateway_that_is_down_stops_a_bulk() -> None:
    """Refused connections prove that no message was sent, and `concurrency` of them stop the bulk."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    source = Source(make_messages(1000), [])
    async with AsyncOcaSms("a", "b", base_url=f"http://127.0.0.1:{port}", limiter=Unlimited()) as client:
        report = await client.send_many(source, concurrency=4)
    assert isinstance(report.stopped_by, ConnectionFailedError)
    assert len(report.failed) >= 4
    assert len(report.outcomes) == len(source.pulled) <= 8
    assert report.unknown == ()


@pytest.mark.usefixtures("transport")
@each_api
async def test_breaking_off_a_bulk_lets_the_wire_finish(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """Each message that arrived has the outcome `Sent`, taken before the end of the block or after it."""
    sandbox.latency = 0.01
    source = Source(make_messages(1000), [])
    outcomes = []
    bulk = client.bulk(source, concurrency=4)
    async with bulk as run_:
        async for outcome in run_:
            outcomes.append(outcome)
            if len(outcomes) == 10:
                break
    assert isinstance(bulk, BulkRun)
    outcomes += await rest_of(bulk)
    assert len(outcomes) == len(source.pulled) <= 10 + 8
    sent = {outcome.sms.message for outcome in outcomes if isinstance(outcome, Sent)}
    assert sent == {message.text for message in sandbox.inbox}


@pytest.mark.usefixtures("transport")
async def test_an_exception_in_the_block_cancels_what_is_on_the_wire(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """A slow gateway does not hold up an exception, and the client works as before."""
    sandbox.latency = 600

    async def use() -> None:
        async with client.bulk(make_messages(100), concurrency=4):
            await until(lambda: len(sandbox.inbox) == 4)
            raise ConsumerError

    with pytest.raises(ConsumerError):
        await use()
    assert len(sandbox.inbox) == 4
    sandbox.latency = 0
    assert (await client.send("+6281234567890", TEXT)).attempts == 1


# --- the report -----------------------------------------------------------------------------------------------------


OUTCOMES: tuple[Outcome, ...] = (
    Sent(Sms("0", TEXT), SendReceipt("a", "sent")),
    Failed(Sms("1", TEXT), DeliveryUnknownError()),
    Skipped(Sms("2", TEXT), QuotaExhaustedError(401, 55)),
    Sent(Sms("3", TEXT), SendReceipt("b", "sent", attempts=2)),
    Failed(Sms("4", TEXT), InvalidMessageError()),
    Failed(Sms("5", TEXT), RateLimitedError(429, 9, may_have_been_sent=True)),
    Skipped(Sms("6", TEXT), None, SendReceipt("c", "sent", attempts=3)),
)


def test_a_report_parts_its_outcomes() -> None:
    """`sent`, `failed` and `skipped` hold each outcome once. `unknown` and `retried` are parts of them."""
    report = BulkReport(OUTCOMES, None)
    assert report.sent == (OUTCOMES[0], OUTCOMES[3])
    assert report.failed == (OUTCOMES[1], OUTCOMES[4], OUTCOMES[5])
    assert report.skipped == (OUTCOMES[2], OUTCOMES[6])
    assert report.unknown == (OUTCOMES[1], OUTCOMES[5])
    assert report.retried == (OUTCOMES[3],)
    assert BulkReport((), None).unknown == ()
    assert BulkReport((), None).retried == ()


def test_a_reports_repr_counts_and_shows_no_message() -> None:
    """The repr counts the outcomes, which may be millions, and has the error that stopped the run."""
    error = QuotaExhaustedError(401, 55)
    report = BulkReport(OUTCOMES, error)
    assert repr(report) == (f"<BulkReport sent=2 failed=3 skipped=2 unknown=2 retried=1 stopped_by={error!r}>")
    assert TEXT not in repr(report)
    assert repr(BulkReport((), None)).endswith("stopped_by=None>")


@pytest.mark.parametrize(
    ("value", "name"),
    [(BulkReport((), None), "stopped_by"), (OUTCOMES[0], "receipt"), (OUTCOMES[1], "error"), (OUTCOMES[2], "reason")],
)
def test_outcomes_and_reports_are_frozen(value: object, name: str) -> None:
    """An outcome does not change afterwards."""
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, None)

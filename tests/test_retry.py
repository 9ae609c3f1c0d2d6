"""Retries: the errors that are tried again, the waits before that, and the answer for all attempts of one call."""

import asyncio
import copy
import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from attrs import define, evolve, field
from attrs.exceptions import FrozenInstanceError
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import (
    PHONE,
    TEXT,
    WITHOUT_WAITS,
    Answer,
    Gateway,
    accept,
    client_of,
    delay,
    fail,
    hang,
    refuse,
    respond,
)
from virtual_time import in_virtual_time, now, run

from oca_sms_async import (
    AccountError,
    AccountExpiredError,
    ApiError,
    ClientClosedError,
    ConnectionFailedError,
    DeliveryUnknownError,
    ExpiredError,
    InternalError,
    InvalidCredentialsError,
    InvalidMessageError,
    InvalidRequestError,
    JournalClosedError,
    JournalError,
    LimiterUnavailableError,
    MissingAuthorizationError,
    NotFoundError,
    OcaSmsError,
    Priority,
    QuotaExhaustedError,
    RateLimitedError,
    RateLimiter,
    RetryPolicy,
    SendReceipt,
    TokenBucket,
    UnexpectedResponseError,
    Unlimited,
    UnsupportedError,
    UserNotFoundError,
    _dispatch,
)
from oca_sms_async._call import CallOptions, CallState
from oca_sms_async._deadline import Deadline
from oca_sms_async._retry import retry
from oca_sms_async._wire._regular_v1 import RegularV1

API = RegularV1("user@example.com", "secret")
OPTIONS = CallOptions(Priority.BULK, seconds=10.0)
REQUEST = API.send(PHONE, TEXT)
INTERNAL_ERROR = refuse(500, 13)


@define
class Attempts:
    """Attempts of one call that end as scripted; `None` is success. One more attempt fails the test."""

    script: list[BaseException | None]
    call: CallState
    options: CallOptions = OPTIONS
    moments: list[float] = field(factory=list)

    async def attempt(self, *_: object) -> Any:
        """Make one attempt."""
        self.moments.append(now())
        self.call.started()
        outcome = self.script[len(self.moments) - 1]
        if outcome is not None:
            raise outcome
        return "a receipt"

    async def back_off(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


def try_call(
    script: Iterable[BaseException | None],
    policy: RetryPolicy,
    call: CallState | None = None,
    *,
    deadline: float = math.inf,
) -> tuple[object, Attempts]:
    """Return the receipt or the very error of a call with these attempts, and its attempts."""
    attempts = Attempts(list(script), call or CallState(), evolve(OPTIONS, deadline=Deadline(deadline, math.inf)))

    async def main() -> object:
        try:
            return await retry(attempts, policy, REQUEST, attempts.options, attempts.call)
        except BaseException as error:  # noqa: BLE001 - the caller asks for any error
            return error

    return run(main()), attempts


# --- the policy ---------------------------------------------------------------------------------------------------


def test_the_default_policy() -> None:
    """A policy makes four attempts, waits half a second at first and eight at most, and repeats 500/13 alone."""
    policy = RetryPolicy()
    assert (policy.max_attempts, policy.initial_wait, policy.max_wait, policy.retry_unsent) == (4, 0.5, 8.0, False)


def test_a_client_that_is_made_has_tenacity() -> None:
    """An import of this library does without, and the first failure of a send finds it loaded."""
    script = (
        "import sys; from oca_sms_async import AsyncOcaSms; print('tenacity' in sys.modules);"
        "AsyncOcaSms('user@example.com', 'secret'); print('tenacity' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("attempts", [0, -1, 1.5, 4.0, math.nan, math.inf, "4", None])
def test_attempts_must_be_a_whole_number_of_at_least_1(attempts: int) -> None:
    """The refusal names the field."""
    with pytest.raises(ValueError, match=r"^max_attempts\b"):
        RetryPolicy(max_attempts=attempts)


@pytest.mark.parametrize("name", ["initial_wait", "max_wait"])
@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -0.001, -1, 10**400, "1", None])
def test_waits_must_be_finite_and_not_negative(name: str, seconds: float) -> None:
    """The refusal names the field. A wait may be 0."""
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        RetryPolicy(**{name: seconds})  # type: ignore[arg-type]  # both are floats
    assert RetryPolicy(initial_wait=0, max_wait=0.0).max_wait == 0


def test_a_policy_is_a_frozen_value() -> None:
    """Clients can share a policy, and code can compare and hash it, but not change it."""
    with pytest.raises(FrozenInstanceError):
        RetryPolicy().max_attempts = 5  # type: ignore[misc]  # that is the point
    assert RetryPolicy(2) == RetryPolicy(max_attempts=2) != RetryPolicy()
    assert hash(RetryPolicy(2)) == hash(RetryPolicy(2))


# --- which errors -------------------------------------------------------------------------------------------------


ALWAYS, IF_UNSENT_IS, NEVER = "always", "with retry_unsent", "never"
TABLE: list[tuple[BaseException, str]] = [
    (ClientClosedError(), NEVER),
    (UnsupportedError(), NEVER),
    (InternalError(500, 13), ALWAYS),
    (ConnectionFailedError(), IF_UNSENT_IS),
    (RateLimitedError(429, 9), IF_UNSENT_IS),
    (RateLimitedError(429), IF_UNSENT_IS),
    (RateLimitedError(406, 9), IF_UNSENT_IS),
    (RateLimitedError(500, 9), NEVER),  # it may have been taken
    (RateLimitedError(408, 9), NEVER),
    (RateLimitedError(200, 9), NEVER),
    (ConnectionFailedError(may_have_been_sent=True), NEVER),
    (ApiError(500), NEVER),
    (ApiError(500, 12), NEVER),
    (ApiError(503, 13), NEVER),
    (ApiError(400, 13), NEVER),
    (ApiError(502), NEVER),
    (DeliveryUnknownError(), NEVER),
    (UnexpectedResponseError(), NEVER),
    (InvalidMessageError(), NEVER),
    (ExpiredError(), NEVER),
    (LimiterUnavailableError(), NEVER),
    (JournalError(), NEVER),
    (JournalClosedError(), NEVER),
    (InvalidRequestError(406, 39), NEVER),
    (NotFoundError(404), NEVER),
    (AccountError(403), NEVER),
    (InvalidCredentialsError(401, 17), NEVER),
    (MissingAuthorizationError(406, 19), NEVER),
    (UserNotFoundError(404, 41), NEVER),
    (AccountExpiredError(401, 51), NEVER),
    (QuotaExhaustedError(401, 55), NEVER),
    (RuntimeError("a bug"), NEVER),
    (TimeoutError(), NEVER),
    (asyncio.CancelledError(), NEVER),
]


def test_the_table_knows_every_error() -> None:
    """Each class of error has its row."""

    def below(kind: type[BaseException]) -> set[type[BaseException]]:
        return set(kind.__subclasses__()).union(*(below(child) for child in kind.__subclasses__()))

    ours = {kind for kind in below(OcaSmsError) if kind.__module__.startswith("oca_sms_async.")}
    assert ours == {type(error) for error, _ in TABLE if isinstance(error, OcaSmsError)}


@pytest.mark.parametrize("retry_unsent", [False, True])
@pytest.mark.parametrize(("error", "repeats"), TABLE, ids=lambda value: getattr(value, "__class__", value).__name__)
def test_only_these_errors_are_tried_again(error: BaseException, repeats: str, retry_unsent: bool) -> None:
    """500/13 is always tried again. With `retry_unsent` so are a failed connection and a 429 that are proven unsent."""
    policy = RetryPolicy(initial_wait=0, max_wait=0, retry_unsent=retry_unsent)
    again = repeats == ALWAYS or (repeats == IF_UNSENT_IS and retry_unsent)
    outcome, attempts = try_call([error, None], policy)
    assert len(attempts.moments) == (2 if again else 1)
    if again:
        assert outcome == "a receipt"
    elif isinstance(error, OcaSmsError) or not isinstance(error, Exception):
        assert outcome is error
    else:  # from elsewhere: the call answers in its place
        assert isinstance(outcome, DeliveryUnknownError)


@pytest.mark.parametrize("most", [1, 2, 4, 9])
def test_there_are_no_more_attempts_than_the_policy_says(most: int) -> None:
    """The first attempt counts. The error is the last attempt's own object, and it has the number of attempts."""
    errors = [InternalError(500, 13) for _ in range(20)]
    outcome, attempts = try_call(errors, RetryPolicy(max_attempts=most, initial_wait=0, max_wait=0))
    assert len(attempts.moments) == most
    assert outcome is errors[most - 1]
    assert errors[most - 1].attempts == most


def test_attempts_of_several_kinds_share_one_allowance() -> None:
    """`max_attempts` counts every attempt of a call, of any kind, with `retry_unsent` too."""
    errors = [ConnectionFailedError(), InternalError(500, 13), RateLimitedError(429, 9), ConnectionFailedError()]
    outcome, attempts = try_call(errors * 2, RetryPolicy(max_attempts=4, initial_wait=0, max_wait=0, retry_unsent=True))
    assert outcome is errors[3]
    assert len(attempts.moments) == 4


def test_success_ends_a_call() -> None:
    """No attempt follows the first one that succeeds."""
    outcome, attempts = try_call([InternalError(500, 13), None], WITHOUT_WAITS)
    assert (outcome, len(attempts.moments)) == ("a receipt", 2)
    outcome, attempts = try_call([None], WITHOUT_WAITS)
    assert (outcome, len(attempts.moments)) == ("a receipt", 1)


# --- waits --------------------------------------------------------------------------------------------------------


def measure_waits(policy: RetryPolicy) -> list[float]:
    """Return the waits between the attempts of a call that fails each time."""
    _, attempts = try_call([InternalError(500, 13)] * policy.max_attempts, policy)
    return [after - before for before, after in itertools.pairwise(attempts.moments)]


@pytest.mark.parametrize(
    ("policy", "most"),
    [
        (RetryPolicy(max_attempts=8), [0.5, 1, 2, 4, 8, 8, 8]),
        (RetryPolicy(max_attempts=4, initial_wait=0.1, max_wait=100), [0.1, 0.2, 0.4]),
        (RetryPolicy(max_attempts=4, initial_wait=5, max_wait=2), [2, 2, 2]),
        (RetryPolicy(max_attempts=4, initial_wait=1, max_wait=0), [0, 0, 0]),
        (RetryPolicy(max_attempts=4, initial_wait=0, max_wait=9), [0, 0, 0]),
    ],
)
def test_waits_double_up_to_the_longest(
    policy: RetryPolicy, most: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the nth repetition the wait is between 0 and `initial_wait`·2ⁿ⁻¹, and never more than `max_wait`."""
    ranges: list[tuple[float, float]] = []

    def longest(low: float, high: float) -> float:
        ranges.append((low, high))
        return high

    monkeypatch.setattr(random, "uniform", longest)
    assert measure_waits(policy) == pytest.approx(most)
    assert ranges[: len(most)] == [(0, high) for high in most]  # tenacity draws once more before it stops
    monkeypatch.setattr(random, "uniform", lambda low, _: low)
    assert measure_waits(policy) == [0] * len(most)


@settings(max_examples=100, deadline=None)
@given(initial=st.floats(0, 100), longest=st.floats(0, 100), attempts=st.integers(2, 12))
def test_no_wait_is_longer_than_its_bound(initial: float, longest: float, attempts: int) -> None:
    """Any wait stays between 0 and both of its bounds."""
    policy = RetryPolicy(max_attempts=attempts, initial_wait=initial, max_wait=longest)
    for number, wait in enumerate(measure_waits(policy)):
        assert 0 <= wait <= min(initial * 2**number, longest) + 1e-9


def test_waits_are_spread_over_their_whole_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jitter is full, so that callers that failed together do not come back together."""
    monkeypatch.setattr(random, "uniform", random.Random(1).uniform)
    first = [measure_waits(RetryPolicy(max_attempts=2, initial_wait=4))[0] for _ in range(200)]
    assert len(set(first)) > 190
    assert min(first) < 0.2
    assert max(first) > 3.8


def test_many_attempts_overflow_nothing() -> None:
    """2ⁿ outgrows every float, and the wait stays at its maximum."""
    policy = RetryPolicy(max_attempts=1500, initial_wait=0.001, max_wait=0.001)
    assert all(wait <= 0.001 for wait in measure_waits(policy))


# --- the answer for all attempts of one call ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RateLimitedError(429, 9),
        QuotaExhaustedError(401, 55),
        ConnectionFailedError(),
        ExpiredError(),
        InvalidRequestError(406, 39),
        LimiterUnavailableError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(("first", "doubtful"), [(InternalError(500, 13), True), (ConnectionFailedError(), False)])
def test_the_last_error_answers_for_the_whole_call(error: OcaSmsError, first: OcaSmsError, doubtful: bool) -> None:
    """An error that proves its own attempt unsent proves nothing about a doubtful attempt before it."""
    last = copy.copy(error)
    policy = RetryPolicy(max_attempts=2, initial_wait=0, max_wait=0, retry_unsent=True)
    outcome, attempts = try_call([copy.copy(first), last], policy)
    assert outcome is last
    assert last.attempts == 2
    assert last.may_have_been_sent is doubtful
    assert attempts.call.may_have_been_sent is doubtful
    assert attempts.call.last_error is last


def test_an_attempt_is_judged_by_itself() -> None:
    """With `retry_unsent` a 429 is repeated, because its own attempt is proven unsent, even after one in doubt."""
    script = [InternalError(500, 13), RateLimitedError(429, 9), ConnectionFailedError(), None]
    outcome, attempts = try_call(script, RetryPolicy(initial_wait=0, max_wait=0, retry_unsent=True))
    assert outcome == "a receipt"
    assert attempts.call.may_have_been_sent


def test_a_call_that_sends_no_message_is_never_in_doubt() -> None:
    """A history that fails with 500 and code 13 has sent no message."""
    call = CallState(sends=False)
    outcome, _ = try_call([InternalError(500, 13)] * 4, WITHOUT_WAITS, call)
    assert isinstance(outcome, InternalError)
    assert outcome.attempts == 4
    assert not outcome.may_have_been_sent


def test_each_repetition_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """`on_error` gets each attempt's own error as it comes, and each repetition has one line in the log."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    caplog.set_level("INFO", "oca_sms_async")
    heard = list[OcaSmsError]()
    script = [InternalError(500, 13), ConnectionFailedError(), RateLimitedError(500, 9)]
    outcome, _ = try_call(script, RetryPolicy(retry_unsent=True), CallState(on_error=heard.append))
    assert heard == script
    assert outcome is script[-1]
    assert [record.getMessage() for record in caplog.records if record.name == "oca_sms_async"] == [
        "send.retry attempt=2 wait=0.5 error=InternalError status=500 code=13: tried again after the wait",
        "send.retry attempt=3 wait=1.0 error=ConnectionFailedError: tried again after the wait",
    ]


def test_no_attempt_follows_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the call is cut, the attempt under way ends it at once, with its own error."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    call = CallState()
    error = InternalError(500, 13)

    class Stopped(Attempts):
        async def attempt(self, *_: object) -> Any:
            if len(self.moments) == 1:
                call.cut()
            return await super().attempt()

    attempts = Stopped([InternalError(500, 13), error], call)

    async def main() -> None:
        begin = now()
        with pytest.raises(InternalError) as caught:
            await retry(attempts, RetryPolicy(), REQUEST, OPTIONS, call)
        assert caught.value is error
        assert now() - begin == pytest.approx(0.5)  # the one wait before the second attempt

    run(main())
    assert len(attempts.moments) == error.attempts == 2


@in_virtual_time
async def test_concurrent_calls_keep_their_errors_apart() -> None:
    """Each of 50 calls at once gets its own receipt or its own last error."""

    async def one(number: int) -> None:
        errors: list[BaseException | None] = [InternalError(500, 13) for _ in range(4)]
        if number % 3:
            errors[number % 3] = None

        class Slow(Attempts):
            async def attempt(self, *_: object) -> Any:
                await asyncio.sleep(number % 7 / 10)
                return number, await super().attempt()

        attempts = Slow(errors, CallState())
        try:
            outcome: Any = await retry(attempts, RetryPolicy(), REQUEST, OPTIONS, attempts.call)
        except InternalError as error:
            outcome = error
        if number % 3:
            assert outcome == (number, "a receipt")
            assert len(attempts.moments) == number % 3 + 1
        else:
            assert outcome is errors[3]

    await asyncio.gather(*(one(number) for number in range(50)))


# --- cancellation, expiry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [RetryPolicy(), RetryPolicy(retry_unsent=True)])
@pytest.mark.parametrize(("moment", "attempts"), [(0.5, 1), (1.1, 1), (1.7, 2)])
def test_a_cancelled_call_is_not_tried_again(
    moment: float, attempts: int, policy: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that is cancelled, within an attempt or between two, ends at once."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    call = CallState()

    class Slow(Attempts):
        async def attempt(self, *_: object) -> Any:
            self.call.started()
            await asyncio.sleep(1)
            raise InternalError(500, 13)

    async def main() -> None:
        begin = now()
        task = asyncio.ensure_future(retry(Slow([], call), policy, REQUEST, OPTIONS, call))
        await asyncio.sleep(moment)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert now() - begin == pytest.approx(moment)

    run(main())
    assert call.attempts == attempts


@pytest.mark.parametrize(("seconds", "attempts"), [(0.4, 1), (0.5, 1), (0.6, 2), (1.4, 2), (1.5, 2), (1.6, 3)])
def test_a_back_off_to_the_deadline_is_not_begun(
    seconds: float, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call ends at once in an `ExpiredError`, chained to the error of the attempt before."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    errors = [InternalError(500, 13) for _ in range(4)]
    outcome, made = try_call(errors, RetryPolicy(), deadline=1000.0 + seconds)
    assert isinstance(outcome, ExpiredError)
    assert str(outcome) == "the message would expire before its next attempt"
    assert outcome.__cause__ is errors[attempts - 1]
    assert outcome.attempts == len(made.moments) == attempts
    assert outcome.may_have_been_sent
    assert made.moments[-1] == pytest.approx(1000 + sum([0.5, 1][: attempts - 1]))


def test_an_expired_back_off_does_not_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A back-off that is not begun takes no time."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)

    async def main() -> None:
        options = evolve(OPTIONS, deadline=Deadline(now() + 0.4, math.inf))
        attempts = Attempts([ConnectionFailedError()], CallState(), options)
        begin = now()
        with pytest.raises(ExpiredError) as caught:
            await retry(attempts, RetryPolicy(retry_unsent=True), REQUEST, options, attempts.call)
        assert now() == begin
        assert isinstance(caught.value.__cause__, ConnectionFailedError)
        assert not caught.value.may_have_been_sent

    run(main())


def test_the_last_attempt_fails_with_its_own_error_though_the_deadline_is_near() -> None:
    """If no repetition would follow anyway, the error is not an `ExpiredError`."""
    error = InternalError(500, 13)
    outcome, _ = try_call([error], RetryPolicy(max_attempts=1), deadline=1000.0)
    assert outcome is error


# --- through the client -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [13, "13"])
@pytest.mark.parametrize("failures", [0, 1, 2, 3])
def test_500_with_code_13_is_sent_again_and_the_receipt_says_so(failures: int, code: int | str) -> None:
    """The code may be an integer or a string. `attempts` names a message that may have been doubled."""

    async def main() -> None:
        taken = respond(200, {"status": "sent", "msg_uid": "0123abcd"})
        gateway = Gateway(*[refuse(500, code)] * failures, taken)
        receipt = await client_of(gateway).send(PHONE, TEXT)
        assert receipt == SendReceipt("0123abcd", "sent", attempts=failures + 1)
        assert len(gateway.moments) == failures + 1

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        refuse(500),
        refuse(500, 12),
        refuse(503, 13),
        refuse(400, 13),
        refuse(502),
        refuse(429, 9),
        refuse(429),
        refuse(401, 55),
        refuse(406, "39"),
        refuse(404),
        fail(httpx.ConnectError),
        fail(httpx.ReadError),
        fail(httpx.ReadTimeout),
        fail(httpx.RemoteProtocolError),
        fail(httpx.WriteError),
        hang,
    ],
)
def test_anything_else_is_one_request(answer: Answer) -> None:
    """500 without 13, 13 without 500 and any trouble with the connection make one request and no more."""

    async def main() -> None:
        gateway = Gateway(answer, accept)
        with pytest.raises(OcaSmsError) as caught:
            await client_of(gateway).send(PHONE, TEXT)
        assert caught.value.attempts == len(gateway.moments) == 1

    run(main())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refuse(429, 9), RateLimitedError),
        (refuse(401, 55), QuotaExhaustedError),
        (fail(httpx.ConnectError), ConnectionFailedError),
        (fail(httpx.ReadError), DeliveryUnknownError),
        (hang, DeliveryUnknownError),
        (INTERNAL_ERROR, InternalError),
    ],
)
def test_a_doubtful_attempt_keeps_the_whole_call_in_doubt(answer: Answer, error: type[OcaSmsError]) -> None:
    """After 500/13 the message may have been sent, even if a refusal proves the next attempt unsent."""

    async def main() -> None:
        gateway = Gateway(INTERNAL_ERROR, answer)
        with pytest.raises(error) as caught:
            await client_of(gateway, retry=RetryPolicy(max_attempts=2, initial_wait=0)).send(PHONE, TEXT)
        assert type(caught.value) is error
        assert caught.value.may_have_been_sent
        assert caught.value.attempts == 2

    run(main())


@pytest.mark.parametrize(
    ("answer", "retry", "limiter"),
    [
        (INTERNAL_ERROR, RetryPolicy(initial_wait=1e9, max_wait=1e9), Unlimited),  # in the back-off
        (INTERNAL_ERROR, WITHOUT_WAITS, lambda: TokenBucket(rate=0.1)),  # before the second token
        (delay(2.5, INTERNAL_ERROR), WITHOUT_WAITS, Unlimited),  # within the second request
    ],
)
def test_expiry_after_a_doubtful_attempt_is_in_doubt(
    answer: Answer, retry: RetryPolicy, limiter: Callable[[], RateLimiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 500/13 a message that expires, at any point, may have been sent."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)

    async def main() -> None:
        gateway = Gateway(answer, hang)
        begin = now()
        with pytest.raises(ExpiredError) as caught:
            await client_of(gateway, limiter=limiter(), retry=retry).send(PHONE, TEXT, expires_in=timedelta(seconds=5))
        assert caught.value.may_have_been_sent
        assert caught.value.attempts == len(gateway.moments)
        assert now() - begin <= 5 + 1e-6

    run(main())


@in_virtual_time
async def test_expiry_before_the_first_request_is_proof() -> None:
    """A message that expires before its turn was not sent, and no request was started."""
    gateway = Gateway()
    limiter = TokenBucket(rate=0.1)
    await limiter.acquire()
    begin = now()
    with pytest.raises(ExpiredError) as caught:
        await client_of(gateway, limiter=limiter).send(PHONE, TEXT, expires_in=9)
    assert (caught.value.may_have_been_sent, caught.value.attempts) == (False, 0)
    assert now() == begin
    assert gateway.moments == []


@in_virtual_time
async def test_a_history_is_tried_again_and_never_in_doubt() -> None:
    """History and status send no message, so they are never in doubt."""
    client = client_of(Gateway(lookup=INTERNAL_ERROR))
    for asked in (client.history(), client.status("0123abcd")):
        with pytest.raises(InternalError) as caught:
            await asked
        assert (caught.value.may_have_been_sent, caught.value.attempts) == (False, 4)


@in_virtual_time
async def test_each_attempt_takes_a_token_of_its_own() -> None:
    """Repetitions count against the rate as first attempts do."""
    limiter = TokenBucket(rate=1)
    gateway = Gateway(INTERNAL_ERROR, INTERNAL_ERROR, accept)
    await client_of(gateway, limiter=limiter).send(PHONE, TEXT)
    assert limiter.statistics().granted == 3
    assert [moment - 1000 for moment in gateway.moments] == pytest.approx([0, 1, 2])


def test_a_back_off_holds_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one call waits for its next attempt, others use the only slot."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)

    async def main() -> None:
        gateway = Gateway(INTERNAL_ERROR, accept)
        monkeypatch.setattr(_dispatch, "MAX_IN_FLIGHT", 1)
        client = client_of(gateway, retry=RetryPolicy(initial_wait=8))
        waiting = asyncio.create_task(client.send(PHONE, TEXT))
        await asyncio.sleep(1)
        assert (await client.send(PHONE, TEXT)).attempts == 1
        assert now() == 1001
        assert (await waiting).attempts == 2
        assert now() == 1008

    run(main())


@in_virtual_time
async def test_waiting_for_tokens_eats_no_time_budget() -> None:
    """The last of 60 messages at a slow limiter is still tried again after a minute."""
    gateway = Gateway(*[INTERNAL_ERROR] * 60, accept)
    client = client_of(gateway, limiter=TokenBucket(rate=1))
    receipts = await asyncio.gather(*(client.send(PHONE, TEXT, priority=Priority.BULK) for _ in range(60)))
    assert {receipt.attempts for receipt in receipts} == {2}


@in_virtual_time
async def test_failures_of_concurrent_sends_land_on_their_own_messages() -> None:
    """50 tasks share one client, and each gets the error or the receipt of its own text."""

    async def answer(request: httpx.Request) -> httpx.Response:
        number = int(json.loads(request.content)["message"])
        await asyncio.sleep(number % 7 / 10)
        if number % 5 == 0:
            return httpx.Response(500, json={"errors": [{"message": f"m{number}", "code": 13}]})
        if number % 5 == 1:
            return httpx.Response(406, json={"errors": [{"message": f"m{number}", "code": "39"}]})
        return httpx.Response(200, json={"status": "sent", "msg_uid": f"u{number}"})

    client = client_of(Gateway(answer), retry=RetryPolicy(initial_wait=0.1))
    outcomes = await asyncio.gather(*(client.send(PHONE, str(n)) for n in range(50)), return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        if number % 5 < 2:
            assert isinstance(outcome, InternalError if number % 5 == 0 else InvalidRequestError)
            assert outcome.text == f"m{number}"
            assert outcome.attempts == (4 if number % 5 == 0 else 1)
        else:
            assert outcome == SendReceipt(f"u{number}", "sent")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, 1.0), ({"Retry_After": "7"}, 7.0), ({"X_RateLimit_Reset": "3"}, 3.0), ({"Retry_After": "0"}, 1.0)],
)
@pytest.mark.parametrize("retry_unsent", [False, True])
def test_a_429_pauses_the_limiter(headers: dict[str, str], seconds: float, retry_unsent: bool) -> None:
    """For as long as the gateway says, or a second, no request starts: no repetition, and no other one."""

    async def main() -> None:
        gateway = Gateway(refuse(429, 9, **headers), accept)
        retry = RetryPolicy(initial_wait=0, retry_unsent=retry_unsent)
        client = client_of(gateway, limiter=TokenBucket(rate=1000), retry=retry)
        if retry_unsent:
            assert (await client.send(PHONE, TEXT)).attempts == 2
        else:
            with pytest.raises(RateLimitedError):
                await client.send(PHONE, TEXT)
            await client.send(PHONE, TEXT)
        assert gateway.moments[1] - gateway.moments[0] == pytest.approx(seconds)

    run(main())


@in_virtual_time
async def test_the_hook_is_awaited_once_after_the_first_token_and_before_the_first_byte() -> None:
    """A call of several attempts awaits its hook before the first of them alone."""
    log: list[str] = []

    class Logged(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            await super().acquire(priority=priority, deadline=deadline)
            log.append("token")

    async def hook() -> None:
        await asyncio.sleep(1)
        log.append("hook")

    def answer(_: httpx.Request) -> httpx.Response:
        log.append("wire")
        return httpx.Response(500, json={"errors": [{"code": 13}]})

    client = client_of(Gateway(answer, answer, accept), limiter=Logged())
    call = CallState(before_first_send=hook)
    await client._dispatcher.request(API.send(PHONE, TEXT), OPTIONS, call)
    assert log == ["token", "hook", "wire", "token", "wire", "token"]


@in_virtual_time
async def test_a_hook_that_refuses_takes_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook's own exception comes out, no request is made, and the slot is free again."""
    monkeypatch.setattr(_dispatch, "MAX_IN_FLIGHT", 1)
    gateway = Gateway()
    client = client_of(gateway)

    class RefusalError(Exception):
        pass

    async def refuse() -> None:
        raise RefusalError

    call = CallState(before_first_send=refuse)
    with pytest.raises(RefusalError):
        await client._dispatcher.request(API.send(PHONE, TEXT), OPTIONS, call)
    assert (call.attempts, call.may_have_been_sent, call.in_flight) == (0, False, False)
    assert gateway.texts == []
    await client.send(PHONE, TEXT)


@in_virtual_time
async def test_a_call_knows_whether_it_is_on_the_wire() -> None:
    """`in_flight` is True from the start of a request to its end, and False while the call waits."""
    seen: list[tuple[str, bool]] = []
    call = CallState()

    class Logged(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            seen.append(("token", call.in_flight))

    def answer(_: httpx.Request) -> httpx.Response:
        seen.append(("wire", call.in_flight))
        return httpx.Response(500, json={"errors": [{"code": 13}]})

    client = client_of(Gateway(answer, answer, accept), limiter=Logged())
    await client._dispatcher.request(API.send(PHONE, TEXT), OPTIONS, call)
    assert seen == [*[("token", False), ("wire", True)] * 2, ("token", False)]
    assert not call.in_flight
    assert call.may_have_been_sent

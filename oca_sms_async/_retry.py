"""What is tried again, and when; and what the attempts of one call add up to."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity
from attrs import Attribute, define, field, frozen

from oca_sms_async._errors import ConnectionFailedError, ExpiredError, InternalError, OcaSmsError, RateLimitedError
from oca_sms_async._log import log
from oca_sms_async._settings import is_finite
from oca_sms_async._waiting import Priority

_T = TypeVar("_T")


def _check_wait(_: object, attribute: "Attribute[float]", value: float) -> None:
    if not is_finite(value, least=0):
        raise ValueError(f"{attribute.name} must be a finite number of seconds of at least 0")


def _check_attempts(_: object, attribute: "Attribute[int]", value: int) -> None:
    if not (isinstance(value, int) and value >= 1):
        raise ValueError(f"{attribute.name} must be a whole number of at least 1")


@frozen
class RetryPolicy:
    """How often, and after what waits, HTTP 500 with code 13 is tried again. Nothing else is, but for `retry_unsent`.

    `max_attempts` counts the first one. Waits are in seconds, exponential with full jitter: before the n-th
    repetition anything between 0 and `initial_wait`·2ⁿ⁻¹, and never more than `max_wait`; both may be 0.
    `retry_unsent=True` also repeats what is proven unsent: a connection that failed, and a refusal by the rate limit.
    Wrong values are a `ValueError`.
    """

    max_attempts: int = field(default=4, validator=_check_attempts)
    initial_wait: float = field(default=0.5, validator=_check_wait)
    max_wait: float = field(default=8.0, validator=_check_wait)
    retry_unsent: bool = False

    def _repeats(self, error: BaseException) -> bool:
        """Decide about one attempt's own error, before it is told what the attempts before it did."""
        unsent = isinstance(error, ConnectionFailedError | RateLimitedError) and not error.may_have_been_sent
        return isinstance(error, InternalError) or (self.retry_unsent and unsent)


async def _admit() -> None:
    """Let the call start."""


def _hear(_: OcaSmsError) -> None:
    """Take no note."""


@define
class Call:
    """One call of the user's: what was asked for, and what its attempts add up to so far.

    `priority` is its lane, `deadline` its end in the loop's time; `sends` is False where it asks and sends no
    message, `number` the recipient's. `admit` is awaited once, after the first token and before the first byte;
    `hear` is told each attempt's error as it comes; once `last_attempt` is set, no further attempt follows. `attempts`
    counts the requests started; `doubt` is True once one of them may have been taken; `on_wire` while one is under
    way, `recording` while the journal is asked or told; `last` is the last one's error. What a journal has in doubt and
    is sent again begins with the doubt and the error of an earlier run.
    """

    priority: Priority
    deadline: float | None = None
    sends: bool = True
    number: str | None = field(default=None, repr=False)
    admit: Callable[[], Awaitable[None]] = _admit
    hear: Callable[[OcaSmsError], None] = _hear
    last_attempt: bool = False
    attempts: int = 0
    doubt: bool = False
    on_wire: bool = False
    recording: bool = False
    last: OcaSmsError | None = None

    def settled(self, error: OcaSmsError) -> OcaSmsError:
        """Return the error with which the whole call ends: it answers for all of its attempts."""
        error.attempts = self.attempts
        error.may_have_been_sent = self.sends and (self.doubt or error.may_have_been_sent)
        return error


async def repeated(attempt: Callable[[], Awaitable[_T]], *, policy: RetryPolicy, call: Call) -> _T:
    """Return what the first attempt that succeeds returns, or raise the original error of the last one.

    A back-off that would reach the call's deadline, at which no attempt starts, is not begun: that ends in an
    `ExpiredError`, chained to the error that it would have followed.
    """

    async def noted() -> _T:
        try:
            return await attempt()
        except OcaSmsError as error:
            call.last = error
            call.doubt = call.doubt or error.may_have_been_sent
            call.hear(error)
            raise

    def repeats(error: BaseException) -> bool:
        return not call.last_attempt and policy._repeats(error)  # noqa: SLF001 - not for the user, and this is its room

    def before_sleep(state: tenacity.RetryCallState) -> None:
        wait = state.upcoming_sleep
        if call.deadline is not None and asyncio.get_running_loop().time() + wait >= call.deadline:
            raise ExpiredError("the message would expire before its next attempt") from call.last
        event = "send.retry" if call.sends else "lookup.retry"
        log(event, phone=call.number, attempt=call.attempts + 1, wait=round(wait, 3), error=call.last)

    first: OcaSmsError | None = None

    async def again() -> _T:
        """Have tenacity, which decides about it, see the first attempt end as it did; then try again."""
        nonlocal first
        if first is not None:
            error, first = first, None
            raise error
        return await noted()

    try:
        try:
            return await noted()  # as nearly always; tenacity would double what the rest of a call costs
        except OcaSmsError as error:
            first = error
        # A fresh object for each call: tasks that share one lose each other's failures.
        retrying = tenacity.AsyncRetrying(
            sleep=asyncio.sleep,
            stop=tenacity.stop_after_attempt(policy.max_attempts),
            wait=tenacity.wait_random_exponential(multiplier=policy.initial_wait, max=policy.max_wait),
            retry=tenacity.retry_if_exception(repeats),
            before_sleep=before_sleep,
            reraise=True,
        )
        return await retrying(again)
    except OcaSmsError as error:
        call.settled(error)
        raise

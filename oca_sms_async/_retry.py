"""The retry policy: tenacity decides what is tried again and how long the back-off lasts."""

import asyncio
import importlib
import sys
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from attrs import Attribute, field, frozen

from oca_sms_async._call import CallOptions, CallState
from oca_sms_async._errors import (
    ClientClosedError,
    ConnectionFailedError,
    DeliveryUnknownError,
    ExpiredError,
    InternalError,
    OcaSmsError,
    RateLimitedError,
)
from oca_sms_async._log import log
from oca_sms_async._scrub import scrub
from oca_sms_async._settings import is_finite
from oca_sms_async._wire import Request

if TYPE_CHECKING:
    import tenacity

_T = TypeVar("_T")


def _check_wait(_: object, attribute: "Attribute[float]", value: float) -> None:
    if not is_finite(value, least=0):
        raise ValueError(f"{attribute.name} must be a finite number of seconds of at least 0")


def _check_attempts(_: object, attribute: "Attribute[int]", value: int) -> None:
    if not (isinstance(value, int) and value >= 1):
        raise ValueError(f"{attribute.name} must be a whole number of at least 1")


@frozen
class RetryPolicy:
    """How often HTTP 500 with code 13 is tried again, and after which waits. Other errors are not tried again.

    `max_attempts` counts the first attempt. Waits are in seconds, exponential with full jitter: before the n-th
    repetition anything between 0 and `initial_wait`·2ⁿ⁻¹, and never more than `max_wait`. Both may be 0.
    `retry_unsent=True` also repeats what is proven unsent: a failed connection, and a refusal by the rate limit.
    Wrong values are a `ValueError`.
    """

    max_attempts: int = field(default=4, validator=_check_attempts)
    initial_wait: float = field(default=0.5, validator=_check_wait)
    max_wait: float = field(default=8.0, validator=_check_wait)
    retry_unsent: bool = False

    def _repeats(self, error: BaseException) -> bool:
        """Decide about the error of one attempt, before the attempts before it change its answer."""
        if isinstance(error, ClientClosedError):  # it stays closed
            return False
        unsent = isinstance(error, ConnectionFailedError | RateLimitedError) and not error.may_have_been_sent
        return isinstance(error, InternalError) or (self.retry_unsent and unsent)

    def _begin(self) -> "tuple[tenacity.AsyncRetrying, tenacity.RetryCallState]":
        """Return tenacity's policy and its state of one call.

        The policy is a fresh one for each call: calls that share one lose each other's errors.
        """
        import tenacity  # noqa: PLC0415 - loaded by `load_tenacity`

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.max_attempts),
            wait=tenacity.wait_random_exponential(multiplier=self.initial_wait, max=self.max_wait),
            retry=tenacity.retry_if_exception(self._repeats),
            reraise=True,
        )
        retrying.begin()
        return retrying, tenacity.RetryCallState(retrying, None, (), {})


def load_tenacity() -> None:
    """Load tenacity when a client is made. An import would be slower, and the first failure too late to miss it."""
    importlib.import_module("tenacity")


class Attempts(Protocol):
    """Makes the attempts of a call, and waits between two of them."""

    async def attempt(self, request: Request[_T], options: CallOptions, call: CallState) -> _T:
        """Make one attempt."""
        ...

    async def back_off(self, seconds: float) -> None:
        """Wait before the next one."""
        ...


async def retry(
    attempts: Attempts,
    policy: RetryPolicy,
    request: Request[_T],
    options: CallOptions,
    call: CallState,
) -> _T:
    """Return the result of the first attempt that succeeds, or raise the original error of the last one.

    Tenacity is asked after an attempt has failed: nearly all calls succeed at once, and its own loop would double the
    cost of the rest of a call. No attempt starts at the call's deadline. A back-off that would reach it is not begun:
    that is an `ExpiredError`, chained to the error before it. An exception from elsewhere, such as a user's log
    handler, becomes an error that answers once a request may be on its way.
    """
    outer = sys.exception()
    retrying: tenacity.AsyncRetrying | None = None
    try:
        while True:
            try:
                return await attempts.attempt(request, options, call)
            except OcaSmsError as error:
                call.failed(error)
                if call.is_cut:
                    raise
                if retrying is None:
                    retrying, state = policy._begin()  # noqa: SLF001 - not for the user, and this is its room
                state.set_exception(sys.exc_info())  # type: ignore[arg-type] # within an except block it is complete
            wait = cast(float, await retrying.iter(state))  # it raises the error that is not tried again
            _check_in_time(wait, options, call)
            event = "send.retry" if call.sends else "lookup.retry"
            number, last = call.attempts + 1, call.last_error
            log(event, phone=options.number, attempt=number, wait=round(wait, 3), error=last)
            await attempts.back_off(wait)
            state.prepare_for_next_attempt()
    except OcaSmsError as error:
        call.conclude(error)
        raise
    except Exception as error:
        if not call.may_have_been_sent:
            raise
        unknown = DeliveryUnknownError(f"the send ended before its answer was known ({type(error).__name__})")
        raise call.conclude(unknown) from scrub(error, outer)


def _check_in_time(wait: float, options: CallOptions, call: CallState) -> None:
    if options.until is not None and asyncio.get_running_loop().time() + wait >= options.until:
        raise ExpiredError("the message would expire before its next attempt") from call.last_error

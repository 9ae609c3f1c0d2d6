"""A limiter of any make, held to the errors of its protocol. A user's own limiter may raise anything."""

import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from oca_sms_async._errors import ApiError, LimiterUnavailableError, OcaSmsError, RateLimitedError
from oca_sms_async._limiter import RateLimiter, ReturnableLimiter, TokenBucket
from oca_sms_async._log import log
from oca_sms_async._scrub import scrub
from oca_sms_async._waiting import Priority

_PAUSE: Final = 1.0  # seconds, where the gateway refuses by its rate limit and does not say for how long
_ACQUIRE: Final = TokenBucket.acquire
_KNOWN: Final = (OcaSmsError, TimeoutError)  # the errors of the protocol


class GuardedLimiter:
    """The limiter of a client. An exception that its protocol does not know means that it is out of order."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        start = getattr(limiter, "start", None)  # it may also be another method of the same name
        self._start: Callable[[], Awaitable[object]] | None = start if inspect.iscoroutinefunction(start) else None
        self.has_start: Final = self._start is not None

    def take_now(self, priority: Priority, deadline: float | None) -> bool:
        """Take a token without a wait, if there is one; return whether that was so. `TimeoutError` as `acquire`.

        Only a `TokenBucket` is asked, because its own `acquire` begins in the same way. That of a subclass, or of a
        test, may do more.
        """
        bucket = self._limiter
        if not isinstance(bucket, TokenBucket) or getattr(bucket.acquire, "__func__", None) is not _ACQUIRE:
            return False
        try:
            return bucket._take_now(priority, deadline)  # noqa: SLF001 - not for the user
        except RuntimeError:  # of another thread's loop: `acquire` raises it too
            return False

    async def acquire(self, priority: Priority, deadline: float | None) -> None:
        """Wait for a token. `TimeoutError` at the deadline, in the loop's time; `LimiterUnavailableError`."""
        outer = sys.exception()
        try:
            await self._limiter.acquire(priority=priority, deadline=deadline)
        except _KNOWN:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            raise _explain(error) from scrub(error, outer)

    async def start(self) -> bool:
        """Return when a request with a token may start; False if it is too late and needs another token."""
        outer = sys.exception()
        try:
            return self._start is None or await self._start() is not False
        except _KNOWN:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            raise _explain(error) from scrub(error, outer)

    def give_back(self) -> None:
        """Give the token of a request that does not start to the next one, if the limiter knows how."""
        if not isinstance(self._limiter, ReturnableLimiter):
            return
        try:
            self._limiter.give_back()
        except Exception as error:  # noqa: BLE001 - see above
            log("limiter.failed", reason=type(error).__name__)

    def pause_after(self, refusal: ApiError) -> None:
        """Let nothing through for a while after a refusal by the rate limit; the refusal counts more than a limiter
        that fails over it.
        """
        if refusal.status_code != 429 and not isinstance(refusal, RateLimitedError):
            return
        seconds = refusal.retry_after or _PAUSE
        log("limiter.paused", wait=seconds, error=refusal)
        try:
            self._limiter.pause(seconds)
        except Exception as error:  # noqa: BLE001 - see above
            log("limiter.failed", reason=type(error).__name__)


def _explain(error: Exception) -> LimiterUnavailableError:
    line = f"the limiter failed ({type(error).__name__}): nobody knows whether a request is within the limit"
    return LimiterUnavailableError(line)

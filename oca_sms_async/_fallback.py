"""The limiter that serves while the server of a shared one is away."""

import asyncio
import math
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from oca_sms_async._endable import EndableWaits, WaitEndedError
from oca_sms_async._limiter import RateLimiter
from oca_sms_async._log import log
from oca_sms_async._waiting import Priority

_PROBE: Final = 0.5  # seconds between two looks at a server that is away


class _Stage(Enum):
    IDLE = auto()
    OUTAGE = auto()
    SETTLING = auto()


class Fallback:
    """A limiter for an outage of a shared limiter's server, and for a short time after it.

    `probe` looks whether the server is back; it is called again and again during an outage. The processes do not notice
    the return at the same moment, but one look and its `timeout` later at the latest. In that time a request needs
    both: a token of the fallback, as in the outage, and a reservation of the server. So if all fallbacks together keep
    the limit, all processes keep it, whether they have noticed the return or not.
    """

    def __init__(self, limiter: RateLimiter, *, name: str, probe: Callable[[], None], timeout: float) -> None:
        self._limiter = limiter
        self._name = name
        self._probe = probe
        self._settling: Final = _PROBE + timeout
        self._stage = _Stage.IDLE
        self._until = math.inf  # the end of the settling, in the loop's time
        self._timer: asyncio.Handle | None = None  # for the next look, or for the end of the settling
        self._waits = EndableWaits()

    @property
    def is_serving(self) -> bool:
        """Whether a request needs a token of the fallback."""
        return self._stage is not _Stage.IDLE

    @property
    def is_outage(self) -> bool:
        """Whether the server is away, as far as this process knows."""
        return self._stage is _Stage.OUTAGE

    def begin(self) -> None:
        """Serve from now on, and look for the server soon: it has failed."""
        if not self.is_outage:
            log("limiter.fallback", limiter=self._name)
        self._stage, self._until = _Stage.OUTAGE, math.inf
        self._set_timer(asyncio.get_running_loop().call_later(_PROBE, self._probe))

    def end(self) -> None:
        """Serve only until the other processes know of the server's return too."""
        if self.is_outage:
            log("limiter.restored", limiter=self._name)
            self._settle()

    def stop(self) -> None:
        """Serve no longer, and end all waits."""
        self._stage = _Stage.IDLE
        self._set_timer(None)
        self._waits.end()

    def enter_loop(self) -> None:
        """Forget the timer and the clock of the loop before, which is dead."""
        self._timer = None
        if self.is_outage:
            self._probe()
        elif self.is_serving:
            self._settle()

    async def acquire(self, priority: Priority, deadline: float | None) -> bool:
        """Return True when the fallback lets a request through, and False as soon as it serves no longer.

        `deadline` is in the loop's time; `TimeoutError` as the fallback raises it.
        """
        if deadline is not None and deadline > self._until:
            deadline = None  # this wait ends earlier, and the server's reservation decides
        try:
            with self._waits.endable():
                await self._limiter.acquire(priority=priority, deadline=deadline)
        except WaitEndedError:
            return False
        return True

    def pause(self, seconds: float) -> None:
        """Let no request through for so many seconds."""
        self._limiter.pause(seconds)

    def _settle(self) -> None:
        loop = asyncio.get_running_loop()
        self._stage, self._until = _Stage.SETTLING, loop.time() + self._settling
        self._set_timer(loop.call_at(self._until, self.stop))

    def _set_timer(self, timer: asyncio.Handle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

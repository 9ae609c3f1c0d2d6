"""The spacing of starts: a limit once more, at the first byte."""

import asyncio
import math
from typing import Final

LATE: Final = 0.05  # seconds for which a request may wait at its start; beyond that it takes another token


class StartGate:
    """The limit once more, at the first byte: a request may start long after its token.

    A slow disk or a slow name server holds requests back, and all of them would start at once when it recovers. So the
    starts are spaced too, by the generic cell rate algorithm. Requests that start in time never wait here.
    """

    def __init__(self, rate: float, capacity: float) -> None:
        self._interval = 1 / rate
        self._burst = (capacity - 1) / rate
        self._full_at = -math.inf  # in the loop's time
        self._loop: asyncio.AbstractEventLoop | None = None

    def reserve(self) -> float | None:
        """Return the seconds after which one request may start; `None` if they are more than `LATE`.

        In that case the request needs another token: its own was for a moment that has passed.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # another loop's clock may have its zero elsewhere
            self._loop, self._full_at = loop, -math.inf
        now = loop.time()
        at = max(now, self._full_at - self._burst)
        if at - now > LATE:
            return None
        self._full_at = max(self._full_at, at) + self._interval
        return at - now


class Gated:
    """A limiter with a gate for starts."""

    _gate: StartGate

    async def start(self) -> bool:
        """Return True when a request with a token may start; False if it is too late and needs another token."""
        seconds = self._gate.reserve()
        if seconds:
            await asyncio.sleep(seconds)
        return seconds is not None

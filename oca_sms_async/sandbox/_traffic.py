"""The requests of the last second, against the limit, and the count of refusals."""

from collections import Counter, deque
from time import monotonic
from typing import Final

WINDOW: Final = 1.0  # seconds, as the vendor's «25 requests per second»


class Traffic:
    """A sliding window over the requests that were let through, and a count of the refusals of each kind."""

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        self._times: deque[float] = deque()  # of the requests within the window; the clock is `time.monotonic`

    @property
    def last_second(self) -> int:
        """The number of requests that were let through in the last second."""
        self._forget(monotonic())
        return len(self._times)

    def wait(self, limit: int | None) -> float | None:
        """Let a request through and return None, or return the seconds until the window has room for one again."""
        now = monotonic()
        self._forget(now)
        if limit is not None and len(self._times) >= limit:
            return self._times[-limit] + WINDOW - now
        self._times.append(now)
        return None

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] <= now - WINDOW:
            self._times.popleft()

"""The requests of the last second, against the limit, and those that were refused."""

from collections import Counter, deque
from concurrent.futures import Future
from datetime import UTC, datetime
from time import monotonic
from typing import Final

import attrs

from oca_sms_async._phone import mask_phone
from oca_sms_async.sandbox._answers import Answer
from oca_sms_async.sandbox._changes import Changes

WINDOW: Final = 1.0  # seconds, as the vendor's «25 requests per second»
_MOST_KEPT: Final = 10_000  # refused requests, some 5 MB


@attrs.frozen
class Refused:
    """A request that was refused: its kind and the reason in a sentence, and the answer's status and code.

    `api` is "" for a path of no API. `phone` is E.164 if it could be read so, as it came otherwise, and "" where the
    request has none. The repr does not show the whole number.
    """

    number: int  # its place among all refused requests
    created_at: datetime
    api: str
    operation: str
    phone: str = attrs.field(repr=mask_phone)
    kind: str
    reason: str
    status: int
    code: int | str | None


class Traffic:
    """A sliding window over the requests that were let through, and the refusals: a count by kind, and the newest."""

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        self._kept: deque[Refused] = deque(maxlen=_MOST_KEPT)
        self._noted = 0
        self._changes = Changes()
        self._times: deque[float] = deque()  # of the requests within the window; the clock is `time.monotonic`

    @property
    def last_second(self) -> int:
        """The number of requests that were let through in the last second."""
        self._forget(monotonic())
        return len(self._times)

    @property
    def refused(self) -> list[Refused]:
        """The newest refused requests, in the order of their arrival."""
        return list(self._kept)

    def wait(self, limit: int | None) -> float | None:
        """Let a request through and return `None`, or return the seconds until the window has room for one again."""
        now = monotonic()
        self._forget(now)
        if limit is not None and len(self._times) >= limit:
            return self._times[-limit] + WINDOW - now
        self._times.append(now)
        return None

    def note(self, answer: Answer, *, api: str, operation: str, phone: str = "") -> None:
        """Count and keep a refusal."""
        self.refusals[answer.kind] += 1
        self._noted += 1
        self._kept.append(
            Refused(
                number=self._noted,
                created_at=datetime.now(UTC),
                api=api,
                operation=operation,
                phone=phone,
                kind=answer.kind,
                reason=answer.reason,
                status=answer.status,
                code=answer.code,
            )
        )
        self._changes.announce()

    def clear(self) -> None:
        """Forget all refusals."""
        self.refusals.clear()
        self._kept.clear()
        self._changes.announce()

    def change(self) -> Future[None]:
        """Return a future that is done with the next refusal. Cancel it to stop waiting."""
        return self._changes.next()

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] <= now - WINDOW:
            self._times.popleft()

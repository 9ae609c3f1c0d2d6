"""What a client has done and is doing: counted as it happens, told as a frozen value."""

from collections import Counter
from collections.abc import Mapping

from attrs import Factory, define, frozen

from oca_sms_async._errors import OcaSmsError
from oca_sms_async._retry import Call


@frozen
class Statistics:
    """A client at one moment; its limiter, which may be shared, has statistics of its own.

    Since the client was made, messages `sent`, `retried` of them by more than one request; `failed` ones, counted by
    the name of their error's class, `unknown` of them perhaps sent all the same. Every send that has ended is in
    exactly one of `sent` and `failed`, be it a single one or a bulk's. One that was cancelled failed by
    `CancelledError`, and is `unknown` if a request of it had started. What a bulk never came to send counts nowhere:
    what it skipped as it stopped, and what its journal answered for.

    Requests `in_flight` are on the wire now, those `waiting` wait for their slot or token; `limiter_wait` is how many
    seconds requests have waited for their tokens, all added up, whether they got them or not. These are about all
    requests; `status` and `history` send nothing and count as no send.
    """

    sent: int
    retried: int
    failed: Mapping[str, int]
    unknown: int
    in_flight: int
    waiting: int
    limiter_wait: float


@define
class Counts:
    """The same, as it grows."""

    sent: int = 0
    retried: int = 0
    failed: Counter[str] = Factory(Counter)
    unknown: int = 0
    in_flight: int = 0
    waiting: int = 0
    limiter_wait: float = 0.0

    def note_sent(self, call: Call) -> None:
        """Count a send that ended in a receipt."""
        self.sent += 1
        self.retried += call.attempts > 1

    def note_failed(self, call: Call, end: BaseException) -> None:
        """Count a send that ended otherwise; one whose run was stopped as the run tells it, if it does."""
        if call.last_attempt and not isinstance(end, OcaSmsError):
            if call.last is not None:
                end = call.last
            elif not call.doubt:
                return  # skipped
        self.failed[type(end).__name__] += 1
        self.unknown += call.doubt

    def statistics(self) -> Statistics:
        """Return a copy that stays as it is."""
        return Statistics(
            sent=self.sent,
            retried=self.retried,
            failed=dict(self.failed),
            unknown=self.unknown,
            in_flight=self.in_flight,
            waiting=self.waiting,
            limiter_wait=self.limiter_wait,
        )

"""Counting the sends of a client. A frozen value shows the counts at one moment."""

from collections import Counter
from collections.abc import Mapping

from attrs import Factory, define, frozen

from oca_sms_async._call import CallState
from oca_sms_async._errors import OcaSmsError


@frozen
class Statistics:
    """The counts of a client at one moment. Its limiter may be shared, and has statistics of its own.

    The first four count messages since the client was made. `sent` were taken by the gateway, `retried` of them by more
    than one request. `failed` counts the others by the name of the error's class; `unknown` of them may have been sent
    all the same. Every send that has ended, single or in a bulk, is in exactly one of `sent` and `failed`. A cancelled
    send failed by `CancelledError`, and is `unknown` if a request had started. Messages that a stopping bulk skips and
    messages that its journal answers for are not counted.

    The others are about requests of every kind. `in_flight` requests are on the wire now. `waiting` requests wait for
    their slot, their token or the journal. `limiter_wait` adds up the seconds that requests waited for tokens, even in
    vain. `status` and `history` send nothing, so they count as requests alone.
    """

    sent: int
    retried: int
    failed: Mapping[str, int]
    unknown: int
    in_flight: int
    waiting: int
    limiter_wait: float


@define(eq=False, repr=False)  # neither is used, and each method costs a part of the import
class Counts:
    """The same counts, as they grow."""

    sent: int = 0
    retried: int = 0
    failed: Counter[str] = Factory(Counter)
    unknown: int = 0
    under_way: int = 0  # from the wait for a slot to the end of the exchange
    in_flight: int = 0
    limiter_wait: float = 0.0

    def note(self, call: CallState, end: BaseException | None) -> bool:
        """Count a send that ended in a receipt or in an exception; return whether it counts.

        A send that a stopping run ended counts as the run reports it. A skipped one, and a receipt out of the journal,
        do not count.
        """
        if call.is_replay:
            return False
        if end is None:
            self.sent += 1
            self.retried += call.attempts > 1
            return True
        if call.is_cut and not isinstance(end, OcaSmsError):
            if call.last_error is not None:
                end = call.last_error
            elif not call.may_have_been_sent:
                return False
        self.failed[type(end).__name__] += 1
        self.unknown += call.may_have_been_sent
        return True

    def statistics(self) -> Statistics:
        """Return a frozen copy."""
        return Statistics(
            sent=self.sent,
            retried=self.retried,
            failed=dict(self.failed),
            unknown=self.unknown,
            in_flight=self.in_flight,
            waiting=self.under_way - self.in_flight,
            limiter_wait=self.limiter_wait,
        )

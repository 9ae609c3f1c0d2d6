"""The outcome of each message of a bulk, and the report of a run."""

from attrs import field, frozen

from oca_sms_async._errors import OcaSmsError
from oca_sms_async._models import SendReceipt, Sms


@frozen
class Sent:
    """The gateway took the message. `sms` is the caller's own object, `receipt` the gateway's answer."""

    sms: Sms
    receipt: SendReceipt


@frozen
class Failed:
    """The message failed. `error.may_have_been_sent` says whether it may have arrived all the same."""

    sms: Sms
    error: OcaSmsError


@frozen
class Skipped:
    """The message was not attempted in this run.

    `reason` is the error that stopped the run, if it was stopped. `receipt` comes from the journal, if an earlier run
    sent the message. With neither, the caller left the run before the message's turn, or its `key` is a repetition.
    """

    sms: Sms
    reason: OcaSmsError | None
    receipt: SendReceipt | None = None


Outcome = Sent | Failed | Skipped


@frozen(repr=False)
class BulkReport:
    """The outcome of every message that was pulled, in input order, and the error that stopped the run, if any.

    Each of `outcomes` is in one of `sent`, `failed` and `skipped`. `unknown` is the part of `failed` that may have been
    sent. `retried` is the part of `sent` that took more than one attempt: these may have been delivered more than once.
    """

    outcomes: tuple[Outcome, ...]
    stopped_by: OcaSmsError | None

    @property
    def sent(self) -> tuple[Sent, ...]:
        """The messages that the gateway took."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Sent))

    @property
    def failed(self) -> tuple[Failed, ...]:
        """The messages that were refused, and those with an unknown outcome."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Failed))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The messages that were not attempted in this run."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Skipped))

    @property
    def unknown(self) -> tuple[Failed, ...]:
        """The failed messages that may have been sent. Look them up before sending them again."""
        return tuple(outcome for outcome in self.failed if outcome.error.may_have_been_sent)

    @property
    def retried(self) -> tuple[Sent, ...]:
        """The sent messages that took more than one attempt."""
        return tuple(outcome for outcome in self.sent if outcome.receipt.attempts > 1)

    def __repr__(self) -> str:
        return (
            f"<BulkReport sent={len(self.sent)} failed={len(self.failed)} skipped={len(self.skipped)}"
            f" unknown={len(self.unknown)} retried={len(self.retried)} stopped_by={self.stopped_by!r}>"
        )


@frozen
class ReconcileReport:
    """The doubtful messages after a look into the gateway's history, both parts in input order.

    `found` are in the history, so they were sent. `doubtful` are not in it, which proves nothing.
    """

    found: tuple[Sent, ...] = field(repr=lambda found: str(len(found)))
    doubtful: tuple[Sms, ...] = field(repr=lambda doubtful: str(len(doubtful)))

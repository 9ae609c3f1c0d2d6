"""What became of each message of a bulk."""

from attrs import field, frozen

from oca_sms_async._errors import OcaSmsError
from oca_sms_async._models import SendReceipt, Sms


@frozen
class Sent:
    """The gateway took the message; `sms` is the caller's own object, `receipt` what the gateway gave for it."""

    sms: Sms
    receipt: SendReceipt


@frozen
class Failed:
    """The message was tried or refused; `error.may_have_been_sent` says whether it may have arrived all the same."""

    sms: Sms
    error: OcaSmsError


@frozen
class Skipped:
    """The message was not attempted in this run.

    `reason` is what stopped the run, if that was it; `receipt` is the earlier run's, if the journal knows that it sent
    the message. With neither, the run was left before the message's turn, or it repeats another one's key.
    """

    sms: Sms
    reason: OcaSmsError | None
    receipt: SendReceipt | None = None


Outcome = Sent | Failed | Skipped


@frozen(repr=False)
class BulkReport:
    """Every message that was pulled, in input order, with what became of it; and the error that stopped the run, if
    one did.

    `sent`, `failed` and `skipped` part `outcomes` between them. `unknown` is the part of `failed` that may have been
    sent; `retried` the part of `sent` that took more than one attempt, and so may have been delivered more than once.
    """

    outcomes: tuple[Outcome, ...]
    stopped_by: OcaSmsError | None

    @property
    def sent(self) -> tuple[Sent, ...]:
        """The messages that the gateway took."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Sent))

    @property
    def failed(self) -> tuple[Failed, ...]:
        """The messages that were refused, or whose fate is unknown."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Failed))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The messages that were not attempted in this run."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Skipped))

    @property
    def unknown(self) -> tuple[Failed, ...]:
        """The failed messages that may have been sent: look them up before sending them again."""
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
    """What a look into the gateway's history settled: `found` are the doubtful messages that are in it, sent after
    all, and `doubtful` those that are not, which proves nothing. Both in input order.
    """

    found: tuple[Sent, ...] = field(repr=lambda found: str(len(found)))
    doubtful: tuple[Sms, ...] = field(repr=lambda doubtful: str(len(doubtful)))

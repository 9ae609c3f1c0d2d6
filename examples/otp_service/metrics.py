"""The metrics for Prometheus. No label holds a number, a login or an address."""

from collections.abc import Mapping
from typing import Final

from oca_sms_async import SendEvent
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector


class Metrics:
    """The counts of one process, or of all workers of a machine if PROMETHEUS_MULTIPROC_DIR names a folder.

    Watch `otp_guesses_total{status="verified"}` beside `otp_answers_total{status="sent"}`. Codes that are sent and
    never typed are the mark of fraud, or of an operator that delivers nothing.
    """

    media_type: Final = CONTENT_TYPE_LATEST

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._shared = bool(environ.get("PROMETHEUS_MULTIPROC_DIR"))
        registry = self._registry = CollectorRegistry()
        self.answers: Final = Counter("otp_answers", "Answers to requests for a code", ["status"], registry=registry)
        self.refusals: Final = Counter("otp_refusals", "Requests that a limit refused", ["limit"], registry=registry)
        self.guesses: Final = Counter("otp_guesses", "Codes that were typed", ["status"], registry=registry)
        self._sends = Counter("otp_sms", "Sends that ended, by their error", ["outcome", "error"], registry=registry)
        self._took = Histogram("otp_sms_seconds", "The length of a send, with its waits", registry=registry)

    def observe(self, event: SendEvent) -> None:
        """Count one send; the client's observer."""
        outcome = "sent" if event.sent else "unknown" if event.may_have_been_sent else "not-sent"
        self._sends.labels(outcome, type(event.error).__name__ if event.error else "").inc()
        self._took.observe(event.took)

    def render(self) -> bytes:
        """Return the counts in Prometheus' format."""
        registry = self._registry
        if self._shared:  # each worker keeps its counts in a file there, and any of them may be asked
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # prometheus_client has no types for it
        return generate_latest(registry)

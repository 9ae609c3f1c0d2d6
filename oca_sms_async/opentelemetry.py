"""Metrics by OpenTelemetry: `AsyncOcaSms(…, observer=metrics_observer())`. It needs opentelemetry-api alone.

The names and attributes are those of OpenTelemetry's conventions for messaging, where they have one; the others begin
with `oca_sms`. No attribute holds a number, a text or an id.
"""

import os
import weakref
from collections.abc import Callable, Iterator
from typing import Final

from oca_sms_async._observing import SendEvent
from oca_sms_async._statistics import Statistics
from oca_sms_async._version import __version__

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
except ModuleNotFoundError as missing:
    raise ImportError('metrics_observer needs its extra: pip install "oca-sms-async[opentelemetry]"') from missing

__all__ = ["metrics_observer"]

_SYSTEM: Final = {"messaging.system": "oca_sms"}
_SEND: Final = _SYSTEM | {"messaging.operation.name": "send", "messaging.operation.type": "send"}
# Seconds. The conventions end at 10, which is one attempt's `timeout`. A message of a bulk waits for longer.
_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)


def metrics_observer(meter_provider: MeterProvider | None = None) -> Callable[[SendEvent], None]:
    """Return an observer for `AsyncOcaSms(…, observer=…)` or `OcaSms` that turns its sends into metrics.

    `meter_provider` defaults to the global one, which may be set later. Each message that ended counts once in
    `messaging.client.sent.messages`, with `error.type` if it failed. Its whole time is in
    `messaging.client.operation.duration`, its wait for slots and tokens in `oca_sms.client.limiter.wait.duration`, both
    in seconds. `oca_sms.client.requests.in_flight` and `oca_sms.client.requests.waiting` are gauges: each is the sum
    over the clients that were made with this observer. Give the observer to the client as it is: the gauges stay empty
    if a function of your own calls it.
    """
    key = 0 if meter_provider is None else id(meter_provider)
    observer = _observers.get(key)
    if observer is None:  # a second gauge of the same name would never be asked
        observer = _observers[key] = _MetricsObserver(meter_provider or get_meter_provider())
    return observer


class _MetricsObserver:
    """Records each event, and the statistics of the clients that it was given to."""

    def __init__(self, provider: MeterProvider) -> None:
        self._clients: list[tuple[int, weakref.WeakMethod[Callable[[], Statistics]]]] = []
        meter = provider.get_meter("oca_sms_async", __version__)
        self._messages = meter.create_counter(
            "messaging.client.sent.messages", unit="{message}", description="Messages whose send ended."
        )
        self._took = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="Time of a send with its waits and repetitions.",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )
        self._waited = meter.create_histogram(
            "oca_sms.client.limiter.wait.duration",
            unit="s",
            description="Time that a send waited for slots and tokens.",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )
        meter.create_observable_gauge(
            "oca_sms.client.requests.in_flight",
            [self._observe_in_flight],
            unit="{request}",
            description="Requests on the wire.",
        )
        meter.create_observable_gauge(
            "oca_sms.client.requests.waiting",
            [self._observe_waiting],
            unit="{request}",
            description="Requests that wait for their slot, their token or the journal.",
        )

    def __call__(self, event: SendEvent) -> None:
        attributes: dict[str, str | bool] = {**_SEND, "oca_sms.priority": event.priority.name.lower()}
        if not event.sent:
            # A send without an error was cancelled.
            attributes["error.type"] = "CancelledError" if event.error is None else type(event.error).__name__
            attributes["oca_sms.may_have_been_sent"] = event.may_have_been_sent
        self._messages.add(1, attributes)
        self._took.record(event.took, attributes)
        self._waited.record(event.waited, attributes)

    def watch_statistics(self, statistics: Callable[[], Statistics]) -> None:
        """Add a client to the gauges for as long as the client lives."""
        self._clients.append((os.getpid(), weakref.WeakMethod(statistics)))

    def _observe_in_flight(self, _: CallbackOptions) -> Iterator[Observation]:
        yield Observation(sum(it.in_flight for it in self._statistics()), _SYSTEM)

    def _observe_waiting(self, _: CallbackOptions) -> Iterator[Observation]:
        yield Observation(sum(it.waiting for it in self._statistics()), _SYSTEM)

    def _statistics(self) -> list[Statistics]:
        """Return the statistics of each client that lives; a forked child forgets the clients of its parent."""
        self._clients = [it for it in self._clients if it[0] == os.getpid() and it[1]() is not None]
        return [statistics() for _, method in self._clients if (statistics := method()) is not None]


# By the id of their provider, 0 for the global one. A provider keeps its observer, and an observer its provider, so an
# entry goes when both go.
_observers: Final = weakref.WeakValueDictionary[int, _MetricsObserver]()

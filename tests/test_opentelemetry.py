"""Sends as metrics and as traces, seen by the SDK of OpenTelemetry as users install it."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from in_memory import PHONE, TEXT, Gateway, client_of, delay, fail, hang, make_messages, refuse
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from virtual_time import in_virtual_time

from oca_sms_async import AsyncOcaSms, DeliveryUnknownError, OcaSmsError, RegularV1, RetryPolicy, TokenBucket, Unlimited
from oca_sms_async._httpx_internals import is_late
from oca_sms_async.aiohttp import aiohttp_client
from oca_sms_async.blocking import OcaSms
from oca_sms_async.opentelemetry import metrics_observer
from oca_sms_async.sandbox import Sandbox

SENT = "messaging.client.sent.messages"
TOOK = "messaging.client.operation.duration"
WAITED = "oca_sms.client.limiter.wait.duration"
IN_FLIGHT = "oca_sms.client.requests.in_flight"
WAITING = "oca_sms.client.requests.waiting"
SEND = {"messaging.system": "oca_sms", "messaging.operation.name": "send", "messaging.operation.type": "send"}

Points = dict[str, list[Any]]


class Metrics:
    """A meter provider, and the points that it has."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def read(self) -> Points:
        """Return the points of each metric."""
        data = self._reader.get_metrics_data()
        resources = [] if data is None else data.resource_metrics
        scopes = [scope for resource in resources for scope in resource.scope_metrics]
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    """Metrics of one test."""
    made = Metrics()
    yield made
    made.provider.shutdown()


# Metrics


@in_virtual_time
async def test_a_sent_message_is_counted_and_timed(metrics: Metrics) -> None:
    """One message is one count, and its time and its wait are in seconds."""
    client = client_of(Gateway(delay(0.5)), limiter=TokenBucket(1.0), observer=metrics_observer(metrics.provider))
    await asyncio.gather(client.send(PHONE, TEXT), client.send(PHONE, TEXT))
    points = metrics.read()
    attributes = SEND | {"oca_sms.priority": "interactive"}
    assert [(point.value, dict(point.attributes)) for point in points[SENT]] == [(2, attributes)]
    for name, seconds in ((TOOK, 0.5 + 1.5), (WAITED, 0 + 1)):
        (point,) = points[name]
        assert (point.count, dict(point.attributes)) == (2, attributes)
        assert point.sum == pytest.approx(seconds)
        assert point.explicit_bounds[-3:] == (10, 30, 60)


@in_virtual_time
@pytest.mark.parametrize(
    ("answer", "kind", "doubt"),
    [
        (refuse(401, 55), "QuotaExhaustedError", False),
        (fail(httpx.ReadError), "DeliveryUnknownError", True),
        (fail(httpx.ConnectError), "ConnectionFailedError", False),
    ],
)
async def test_a_failure_is_counted_by_the_name_of_its_error(
    metrics: Metrics, answer: Callable[[httpx.Request], httpx.Response], kind: str, doubt: bool
) -> None:
    """`error.type` is the class of the error, and an attribute says whether the message may have been sent."""
    client = client_of(Gateway(answer), observer=metrics_observer(metrics.provider))
    with pytest.raises(OcaSmsError):
        await client.send(PHONE, TEXT)
    (point,) = metrics.read()[SENT]
    failed = {"oca_sms.priority": "interactive", "error.type": kind, "oca_sms.may_have_been_sent": doubt}
    assert dict(point.attributes) == SEND | failed


@in_virtual_time
async def test_a_cancelled_send_is_counted(metrics: Metrics) -> None:
    """A cancellation is a failure by `CancelledError`."""
    client = client_of(Gateway(hang), observer=metrics_observer(metrics.provider))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await client.send(PHONE, TEXT)
    (point,) = metrics.read()[SENT]
    assert point.attributes["error.type"] == "CancelledError"
    assert point.attributes["oca_sms.may_have_been_sent"] is True


@in_virtual_time
async def test_a_bulk_is_counted_message_by_message(metrics: Metrics) -> None:
    """Each message of a bulk counts, in its lane, and no attribute holds a number, a text or an id."""
    client = client_of(Gateway(), observer=metrics_observer(metrics.provider))
    report = await client.send_many(make_messages(5))
    points = metrics.read()
    assert [(point.value, point.attributes["oca_sms.priority"]) for point in points[SENT]] == [(5, "bulk")]
    shown = str([dict(point.attributes) for each in points.values() for point in each])
    secrets = [it.receipt.msg_uid for it in report.sent] + [it.sms.phone for it in report.sent]
    assert [it for it in secrets if it in shown] == []
    assert not any(character.isdigit() for character in shown)


@in_virtual_time
async def test_the_gauges_show_requests_of_all_clients(metrics: Metrics) -> None:
    """The gauges add up the clients that were made with the observer, and forget those that are gone."""
    limiter = TokenBucket(0.1)
    first, second = (
        client_of(Gateway(delay(10)), limiter=limiter, observer=metrics_observer(metrics.provider)) for _ in range(2)
    )
    sends = [asyncio.create_task(client.send(PHONE, TEXT)) for client in (first, second, second)]
    await asyncio.sleep(1)
    points = metrics.read()
    assert [(point.value, dict(point.attributes)) for point in points[IN_FLIGHT]] == [
        (1, {"messaging.system": "oca_sms"})
    ]
    assert [point.value for point in points[WAITING]] == [2]
    for send in sends:
        send.cancel()
    await asyncio.gather(*sends, return_exceptions=True)
    del first, second, sends, send
    gc.collect()
    points = metrics.read()
    assert [point.value for name in (IN_FLIGHT, WAITING) for point in points[name]] == [0, 0]


def test_one_provider_has_one_observer(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    """A second observer of one provider is the first one: the SDK asks one gauge of a name alone."""
    assert metrics_observer(metrics.provider) is metrics_observer(metrics.provider)
    other = Metrics()
    assert metrics_observer(other.provider) is not metrics_observer(metrics.provider)
    other.provider.shutdown()
    assert caplog.records == []


def test_threads_are_measured_too(metrics: Metrics) -> None:
    """The client for threads gives its observer the same events and the same gauges."""
    lent = httpx.AsyncClient(transport=Gateway(), trust_env=False)
    observer = metrics_observer(metrics.provider)
    with OcaSms("user", "secret", http_client=lent, limiter=Unlimited(), observer=observer) as client:
        client.send(PHONE, TEXT)
        points = metrics.read()
        assert [point.value for name in (SENT, IN_FLIGHT, WAITING) for point in points[name]] == [1, 0, 0]


def test_the_global_provider_may_be_set_later() -> None:
    """Without a provider, the observer uses the global one, even if the program sets it after the client is made."""
    script = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from in_memory import PHONE, TEXT, Gateway, client_of
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from oca_sms_async.opentelemetry import metrics_observer
client = client_of(Gateway(), observer=metrics_observer())
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
asyncio.run(client.send(PHONE, TEXT))
for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics:
    print(scope.scope.name, *sorted(metric.name for metric in scope.metrics))
"""
    run = [sys.executable, "-c", script, os.path.dirname(__file__)]  # noqa: PTH120 - one path, given away as text
    ran = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["oca_sms_async", *sorted([SENT, TOOK, WAITED, IN_FLIGHT, WAITING])]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_shows_no_request_of_its_parent() -> None:
    """The gauges of a child begin at nothing, although its parent had a request on the wire."""
    script = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
from in_memory import PHONE, TEXT, Gateway, client_of, hang
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from oca_sms_async.opentelemetry import metrics_observer

def show(who):
    metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    points = [it.data.data_points for it in metrics if it.name.endswith("in_flight")]
    print(who, points[0][0].value, flush=True)

async def main():
    client = client_of(Gateway(hang), observer=metrics_observer(MeterProvider([reader], shutdown_on_exit=False)))
    sending = asyncio.create_task(client.send(PHONE, TEXT))
    for _ in range(100):
        await asyncio.sleep(0)
    if not (child := os.fork()):
        show("child")
        os._exit(0)
    os.waitpid(child, 0)
    show("parent")
    os._exit(0)

reader = InMemoryMetricReader()
asyncio.run(main())
"""
    run = [sys.executable, "-c", script, os.path.dirname(__file__)]  # noqa: PTH120 - as above
    ran = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.splitlines() == ["child 0", "parent 1"]


def test_the_metrics_need_the_api_alone() -> None:
    """The module imports nothing of the SDK, and the error without the API names the command that helps."""
    script = "import sys, oca_sms_async.opentelemetry; print([it for it in sys.modules if '.sdk' in it])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "[]\n"
    script = "import sys; sys.modules['opentelemetry'] = None; import oca_sms_async.opentelemetry"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert 'pip install "oca-sms-async[opentelemetry]"' in ran.stderr


# Traces


def need(name: str) -> Any:
    """Import an instrumentation. Where it does not fit the SDK that is there, skip; on CI, fail."""
    if os.environ.get("CI") == "true":
        __import__(name)
    return pytest.importorskip(name)


Traced = tuple[InMemorySpanExporter, httpx.AsyncClient | None]


@pytest.fixture(params=["httpx", "aiohttp"])
async def traced(request: pytest.FixtureRequest) -> AsyncIterator[Traced]:
    """The spans of one of the two transports, and the transport's client to be lent."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    if request.param == "httpx":
        instrumentor, lent = need("opentelemetry.instrumentation.httpx").HTTPXClientInstrumentor(), None
        instrumentor.instrument(tracer_provider=provider)
    else:
        instrumentor = need("opentelemetry.instrumentation.aiohttp_client").AioHttpClientInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        lent = aiohttp_client()
    yield exporter, lent
    if lent is not None:
        await lent.aclose()
    instrumentor.uninstrument()


def connect(sandbox: Sandbox, lent: httpx.AsyncClient | None, **options: Any) -> AsyncOcaSms:
    """Return a client of a sandbox that waits for nothing."""
    retry = RetryPolicy(initial_wait=0, max_wait=0)
    account = RegularV1(sandbox.username, sandbox.password)
    defaults: dict[str, Any] = {"api": account, "limiter": Unlimited(), "retry": retry, "http_client": lent}
    return AsyncOcaSms(base_url=sandbox.base_url, **(defaults | options))


async def test_each_request_is_a_span(traced: Traced, sandbox: Sandbox) -> None:
    """A send that is tried again has a span for each request, and no span holds the number, the text or a secret."""
    exporter, lent = traced
    sandbox.failing_attempts = 1
    async with connect(sandbox, lent) as client:
        await client.send(PHONE, TEXT)
    first, second = exporter.get_finished_spans()
    assert [span.name for span in (first, second)] == ["POST", "POST"]
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    shown = first.to_json() + second.to_json()
    assert [it for it in (PHONE, TEXT, "482913", sandbox.password) if it in shown] == []


@pytest.mark.parametrize("reused", [False, True], ids=["a new connection", "a connection that was used before"])
async def test_a_time_out_is_an_error_in_its_span(traced: Traced, sandbox: Sandbox, reused: bool) -> None:
    """A request without an answer in time is a failed span, on every connection."""
    exporter, lent = traced
    async with connect(sandbox, lent, timeout=0.5) as client:
        if reused:
            await client.send(PHONE, TEXT)
            exporter.clear()
        sandbox.latency = 3600
        with pytest.raises(DeliveryUnknownError):
            await client.send(PHONE, TEXT)
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


async def test_a_cancelled_send_stays_cancelled(traced: Traced, sandbox: Sandbox) -> None:
    """A cancellation from outside is no time-out, although the attempt has one."""
    _, lent = traced
    sandbox.latency = 3600
    async with connect(sandbox, lent) as client:
        sending = asyncio.create_task(client.send(PHONE, TEXT))
        await sandbox.inbox.wait_for(PHONE)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_a_cancellation_beside_a_time_out_is_no_time_out() -> None:
    """A task that is asked to end while its request is late ends as cancelled, and is not tried again."""
    late: list[bool] = []

    async def request() -> None:
        async with asyncio.timeout(0) as bound:
            try:
                await asyncio.sleep(3600)
            finally:
                late.append(is_late(bound, 0))
                requesting.cancel()
                late.append(is_late(bound, 0))

    requesting = asyncio.create_task(request())
    await asyncio.wait({requesting})
    assert requesting.cancelled()
    assert late == [True, False]

"""The proof that a request did not leave: it rests on steps that were heard to fail, whichever transport wraps httpx's.

And the gate, which a late request passes before its first byte.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpcore._trace
import httpx
import pytest
from misbehaviours import say_nothing
from moved_clock import HANG, Clock, turns
from on_sockets import PHONE, TEXT, client_of, free_port, tls
from raw_gateway import Connection, RawGateway, receipt

from oca_sms_async import (
    ConnectionFailedError,
    DeliveryUnknownError,
    ExpiredError,
    LimiterUnavailableError,
    OcaSmsError,
    Priority,
    RetryPolicy,
    Sms,
    _trace,
)
from oca_sms_async._call import CallOptions
from oca_sms_async._connections import ExactConnectErrors, own_client
from oca_sms_async._deadline import Deadline
from oca_sms_async._httpx_internals import report_lost
from oca_sms_async._trace import Trace
from oca_sms_async._transport import Reply, UnderWay, exchange
from oca_sms_async.aiohttp import aiohttp_client

STEPS = (
    *("connect_tcp", "start_tls", "send_request_headers", "send_request_body"),
    *("receive_response_headers", "receive_response_body", "response_closed"),
)


@pytest.fixture(params=[None, *STEPS])
def renamed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Each step of httpcore's trace in turn under another name, as in some later version; and none of them."""
    make: Callable[..., None] = httpcore._trace.Trace.__init__

    def rename(trace: httpcore._trace.Trace, name: str, *arguments: Any) -> None:
        make(trace, f"{name}_moved" if name == request.param else name, *arguments)

    monkeypatch.setattr(httpcore._trace.Trace, "__init__", rename)
    report_lost.cache_clear()
    return None if request.param is None else str(request.param)


class Wrapper(httpx.AsyncBaseTransport):
    """Passes each request on to httpx's transport, as OpenTelemetry's does."""

    def __init__(self) -> None:
        self.inner = httpx.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass it on."""
        return await self.inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the transport within."""
        await self.inner.aclose()


class Translating(Wrapper):
    """Raises an error of its own."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raise it from httpx's."""
        try:
            return await super().handle_async_request(request)
        except httpx.HTTPError as error:
            raise LookupError from error


class Repeating(Wrapper):
    """Tries each request three times, as httpx-retries does."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Try again after a failure."""
        for _ in range(2):
            try:
                return await super().handle_async_request(request)
            except httpx.TransportError:
                pass
        return await super().handle_async_request(request)


class RepeatingItself(httpx.AsyncHTTPTransport):
    """The same, as a subclass of httpx's transport."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Try again after a failure."""
        try:
            return await super().handle_async_request(request)
        except httpx.TransportError:
            return await super().handle_async_request(request)


class Falling(Wrapper):
    """Falls back to a transport of another make, whose connection breaks once the request is out."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Fall back."""
        try:
            return await super().handle_async_request(request)
        except httpx.ConnectError:
            raise httpx.ReadError("after the request") from None


CONNECT = httpcore.Request("CONNECT", "http://proxy")
POST = httpcore.Request("POST", "http://sms.example")
TROUBLE = httpcore.ConnectError("the failure that was heard")
OTHER = httpcore.ReadError("another one")
REFUSED = httpx.ProxyError("403 Forbidden")


def connects(phase: str, step: str = "connection.connect_tcp") -> tuple[str, dict[str, Any]]:
    """Return a step of a connection."""
    infos: dict[str, dict[str, Any]] = {
        "started": {"host": "sms.example"},
        "complete": {"return_value": None},
        "failed": {"exception": TROUBLE},
    }
    return f"{step}.{phase}", infos[phase]


STARTED, COMPLETE, FAILED = (connects(phase) for phase in ("started", "complete", "failed"))
TLS_FAILED = connects("failed", "connection.start_tls")
TUNNEL = [STARTED, COMPLETE, ("http11.send_request_headers.started", {"request": CONNECT})]


def answers(status: object) -> tuple[str, dict[str, Any]]:
    """Return the step of an answer."""
    return "http11.receive_response_headers.complete", {"return_value": (b"HTTP/1.1", status, b"", [])}


@pytest.mark.parametrize(
    ("steps", "error", "proven"),
    [
        ([], TROUBLE, False),
        ([STARTED], TROUBLE, False),
        ([STARTED, FAILED], TROUBLE, True),
        ([STARTED, FAILED], OTHER, False),
        ([STARTED, FAILED, STARTED], TROUBLE, False),
        ([STARTED, FAILED, ("connection.retry.started", {}), STARTED, FAILED], TROUBLE, True),
        ([STARTED, COMPLETE], TROUBLE, False),
        ([STARTED, COMPLETE, TLS_FAILED], TROUBLE, True),
        ([STARTED, COMPLETE, TLS_FAILED, STARTED, FAILED], TROUBLE, True),
        ([STARTED, COMPLETE, STARTED, FAILED], TROUBLE, False),
        ([STARTED, COMPLETE, ("http11.send_request_headers.started", {"request": POST}), FAILED], TROUBLE, False),
        ([STARTED, COMPLETE, ("http11.some_step.started", {}), FAILED], TROUBLE, False),
        ([*TUNNEL, connects("failed", "http11.receive_response_headers")], TROUBLE, True),
        ([*TUNNEL, answers(403)], REFUSED, True),
        ([*TUNNEL, answers(403)], OTHER, False),
        ([*TUNNEL, answers(None)], REFUSED, False),
        ([*TUNNEL, answers(403), STARTED], REFUSED, False),
        ([*TUNNEL, answers(403), STARTED, FAILED], TROUBLE, True),
        ([*TUNNEL, answers(200)], REFUSED, False),
        ([*TUNNEL, answers(200), connects("failed", "proxy.start_tls")], TROUBLE, True),
        ([*TUNNEL, answers(200), connects("failed", "http11.some_step")], TROUBLE, False),
        ([STARTED, COMPLETE, connects("failed", "socks.setup_socks5_connection")], TROUBLE, True),
    ],
)
async def test_the_proof_is_a_step_that_failed_as_the_last_one(
    steps: list[tuple[str, dict[str, Any]]], error: Exception, proven: bool
) -> None:
    """And it is the cause of the error; its context, which a transport may have survived, is not enough."""
    trace = _trace.Trace(0.0)
    for event, info in steps:
        await trace(event, info)
    assert trace.is_cause(error) is proven
    with pytest.raises(LookupError) as caught:
        raise LookupError from error
    assert trace.is_cause(caught.value) is proven
    survivor = LookupError()
    survivor.__context__ = error
    assert not trace.is_cause(survivor)


async def error_of(base_url: str, lent: httpx.AsyncClient | None) -> OcaSmsError:
    """Return the error of a send."""
    client = client_of(base_url, http_client=lent, retry=RetryPolicy(initial_wait=0, retry_unsent=True, max_attempts=2))
    with pytest.raises(OcaSmsError) as caught:
        await client.send(PHONE, TEXT)
    if lent is None:
        await client.aclose()
    return caught.value


async def leave(connection: Connection) -> None:
    """Hang up without an answer."""
    connection.writer.close()


@pytest.mark.parametrize("lends", [False, True])
async def test_a_request_that_was_read_is_in_doubt_whatever_the_steps_are_called(
    renamed: str | None, lends: bool
) -> None:
    """The gateway reads the request and hangs up. On a kept connection, too."""
    lent = httpx.AsyncClient(trust_env=False) if lends else None
    async with RawGateway(leave).serve() as gateway:
        for number in (1, 2):
            error = await error_of(gateway.base_url, lent)
            assert type(error) is DeliveryUnknownError
            assert len(gateway.requests) == number
        gateway.behaviour = receipt
        async with client_of(gateway.base_url, http_client=lent) as client:
            await client.send(PHONE, TEXT)
            gateway.behaviour = leave
            with pytest.raises(DeliveryUnknownError):
                await client.send(PHONE, TEXT)
        assert len(gateway.requests) == 4
    if lent is not None:
        await lent.aclose()


async def test_a_request_through_a_tunnel_is_in_doubt_too(
    renamed: str | None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps before it are those of the proxy's CONNECT."""
    authority, context = tls("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    async def open_tunnel(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await connection.writer.start_tls(context)

    async with RawGateway(leave, on_connect=open_tunnel).serve() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://localhost:{proxy.port}")
        error = await error_of("https://localhost:1", None)
        assert type(error) is DeliveryUnknownError
        assert len(proxy.requests) == 1


async def test_a_refused_connection_proves_only_as_long_as_the_steps_are_known(
    renamed: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """An unknown step may be a request that leaves. It is logged once, for the proof is lost."""
    for _ in range(2):
        error = await error_of(f"http://localhost:{free_port()}", None)
        lost = renamed == "connect_tcp"
        assert type(error) is (DeliveryUnknownError if lost else ConnectionFailedError)
    guards = [vars(it)["guard"] for it in caplog.records if vars(it).get("event") == "transport.guard_lost"]
    assert guards == (["steps of a connection"] if lost else [])


@pytest.mark.parametrize("make", [httpx.AsyncHTTPTransport, Wrapper, Translating, Repeating, RepeatingItself])
async def test_the_proof_reaches_through_a_transport_that_wraps(make: Callable[[], httpx.AsyncBaseTransport]) -> None:
    """A refused connection certainly took nothing, so an outage stops a bulk instead of using up its input."""
    async with httpx.AsyncClient(transport=make()) as lent:
        client = client_of(f"http://localhost:{free_port()}", http_client=lent)
        report = await client.send_many((Sms(PHONE, f"{TEXT} {number}") for number in range(500)), concurrency=4)
    assert isinstance(report.stopped_by, ConnectionFailedError)
    assert len(report.outcomes) <= 8
    assert report.unknown == ()


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("make", [Repeating, RepeatingItself])
async def test_a_transport_that_tries_again_by_itself_proves_nothing(
    make: Callable[[], httpx.AsyncBaseTransport], kept: bool, renamed: str | None
) -> None:
    """Its last attempt is refused, but the gateway has read the first."""
    gateway = RawGateway()

    async def leave_for_good(connection: Connection) -> None:
        gateway._server.close()
        connection.reset()

    async with gateway.serve(), httpx.AsyncClient(transport=make()) as lent:
        if kept:
            await client_of(gateway.base_url, http_client=lent).send(PHONE, TEXT)
        gateway.behaviour = leave_for_good
        error = await error_of(gateway.base_url, lent)
        assert type(error) is DeliveryUnknownError
        assert error.attempts == 1
        assert len(gateway.requests) == 1 + kept


async def test_a_send_that_is_patched_to_try_again_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even with our own transport, whose kept connections are not traced by httpcore."""
    send: Callable[..., Awaitable[httpx.Response]] = httpx.AsyncClient.send
    gateway = RawGateway()

    async def leave_for_good(connection: Connection) -> None:
        gateway._server.close()
        connection.reset()

    async def send_twice(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        try:
            return await send(client, request, **options)
        except httpx.TransportError:
            return await send(client, request, **options)

    async with gateway.serve(), client_of(gateway.base_url) as client:
        await client.send(PHONE, TEXT)
        monkeypatch.setattr(httpx.AsyncClient, "send", send_twice)
        gateway.behaviour = leave_for_good
        with pytest.raises(DeliveryUnknownError):
            await client.send(PHONE, TEXT)


async def test_a_transport_that_falls_back_to_another_make_proves_nothing() -> None:
    """The refused connection is not the cause of the error that came out."""
    async with httpx.AsyncClient(transport=Falling()) as lent:
        error = await error_of(f"http://localhost:{free_port()}", lent)
    assert type(error) is DeliveryUnknownError


class Breaking(httpx.AsyncByteStream):
    """A body that says of its own request that there was no connection."""

    def __init__(self, request: httpx.Request) -> None:
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        raise httpx.ConnectError("none", request=self._request)
        yield b""


class Exact(ExactConnectErrors):
    """Answers, and reports no step."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        return httpx.Response(200, stream=Breaking(request))


class Busy(httpx.AsyncHTTPTransport):
    """A subclass of httpx's transport that has no connection free, or says so."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Say so."""
        raise httpx.PoolTimeout("none free")


async def test_an_exception_of_a_hook_a_body_or_a_subclass_proves_nothing() -> None:
    """A hook's is about another request, a body comes after it, and a subclass may have tried once before."""

    async def hook(_: httpx.Response) -> None:
        raise httpx.ConnectError("log server", request=httpx.Request("POST", "https://log.example"))

    async with httpx.AsyncClient(transport=Exact(), event_hooks={"response": [hook]}) as lent:
        assert type(await error_of("https://sms.example", lent)) is DeliveryUnknownError
    async with httpx.AsyncClient(transport=Exact()) as lent:
        assert type(await error_of("https://sms.example", lent)) is DeliveryUnknownError
    async with httpx.AsyncClient(transport=Busy()) as lent:
        assert type(await error_of("https://sms.example", lent)) is DeliveryUnknownError


async def test_a_full_pool_of_httpx_is_proof() -> None:
    """No step is heard of a request that waits for a connection, but httpx's own transport is believed."""
    async with (
        RawGateway(say_nothing).serve() as gateway,
        httpx.AsyncClient(
            limits=httpx.Limits(max_connections=1), timeout=httpx.Timeout(None, pool=0.01), trust_env=False
        ) as lent,
    ):
        client = client_of(gateway.base_url, http_client=lent)
        first = asyncio.create_task(client.send(PHONE, TEXT))
        await asyncio.wait_for(gateway.has_read(1), HANG)
        with pytest.raises(ConnectionFailedError, match="took too long"):
            await client.send(PHONE, TEXT)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert len(gateway.requests) == 1


@pytest.fixture(params=["own", "aiohttp", "httpx", "wrapped"])
async def http(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """Each of our transports, httpx's own, and one that wraps it."""
    makes: dict[str, Callable[[], httpx.AsyncClient]] = {
        "own": lambda: own_client(httpx.URL("http://localhost")),
        "aiohttp": aiohttp_client,
        "httpx": lambda: httpx.AsyncClient(timeout=None, trust_env=False),
        "wrapped": lambda: httpx.AsyncClient(transport=Wrapper(), timeout=None),
    }
    async with makes[request.param]() as made:
        yield made


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is late."""
    monkeypatch.setattr(_trace, "LATE", 0)


class Gate:
    """A gate that counts, and opens when it is told to."""

    def __init__(self, gateway: RawGateway) -> None:
        self.passed = 0
        self.read = list[int]()
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self._gateway = gateway

    async def __call__(self) -> None:
        """Wait until it opens."""
        await turns()
        self.read.append(len(self._gateway.requests))
        self.reached.set()
        await asyncio.wait_for(self.open.wait(), HANG * 100)
        self.passed += 1


async def post(
    gateway: RawGateway,
    client: httpx.AsyncClient,
    gate: Callable[[], Awaitable[None]] | None,
    *,
    deadline: float | None = None,
    under_way: UnderWay | None = None,
) -> Reply:
    """Return the answer to one request."""
    request = httpx.Request("POST", f"{gateway.base_url}/sms", content=b"{}")
    request.read()
    under_way = UnderWay() if under_way is None else under_way
    end = None if deadline is None else Deadline(deadline, math.inf)
    options, start = CallOptions(Priority.BULK, 10, end), None if gate is None else lambda _: gate()
    return await exchange(client, request, options, max_body=999, under_way=under_way, gate=start)


@asynccontextmanager
async def held(
    gateway: RawGateway, client: httpx.AsyncClient, **options: Any
) -> AsyncIterator[tuple[Gate, "asyncio.Task[Reply]"]]:
    """Have a request wait at a gate."""
    gate = Gate(gateway)
    task = asyncio.create_task(post(gateway, client, gate, **options))
    await asyncio.wait_for(gate.reached.wait(), HANG)
    yield gate, task
    gate.open.set()
    await asyncio.gather(task, return_exceptions=True)


class Unclosable(httpcore.AsyncNetworkStream):
    """A socket whose close fails."""

    closed = False

    async def aclose(self) -> None:
        """Fail."""
        self.closed = True
        raise OTHER


async def test_a_socket_that_cannot_be_closed_hides_no_error() -> None:
    """A request that ends in a TLS handshake closes its socket, and keeps its own error."""
    trace, socket = Trace(0.0), Unclosable()
    await trace("connection.connect_tcp.complete", {"return_value": socket})
    await trace.close_half_open()
    assert socket.closed


@pytest.mark.usefixtures("late")
async def test_a_late_request_passes_the_gate_before_its_first_byte(http: httpx.AsyncClient) -> None:
    """On a new connection and on a kept one, once for each request."""
    async with RawGateway().serve() as gateway:
        for number in (1, 2):
            async with held(gateway, http) as (gate, task):
                await turns()
                gate.open.set()
                assert (await asyncio.wait_for(task, HANG)).status_code == 200
            assert (gate.passed, gate.read, len(gateway.requests)) == (1, [number - 1], number)
        assert gateway.accepted == 1


async def test_a_request_is_late_when_the_name_server_stalls(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time from the start of the exchange to the first byte counts, and a prompt request passes no gate."""
    clock, loop = Clock(monkeypatch), asyncio.get_running_loop()
    look_up = loop.getaddrinfo
    passed = list[int]()

    async def stall(*arguments: Any, **options: Any) -> Any:
        clock.moved += 2
        return await look_up(*arguments, **options)

    async def gate() -> None:
        passed.append(1)

    async with RawGateway().serve() as gateway:
        monkeypatch.setattr(_trace, "LATE", 1.9)  # a busy machine is late too, but not by that much
        monkeypatch.setattr(loop, "getaddrinfo", stall)
        await post(gateway, http, gate)
        assert passed == [1]
        await post(gateway, http, gate)  # on the connection that stands
        assert passed == [1]


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("trouble", [LimiterUnavailableError("away"), TimeoutError(), OSError(24, "no file left")])
async def test_a_gate_that_raises_proves_that_nothing_was_sent(http: httpx.AsyncClient, trouble: Exception) -> None:
    """Its own errors of this library come out as they are. The connection does not stay open."""

    async def gate() -> None:
        raise trouble

    async with RawGateway().serve() as gateway:
        for _ in range(2):
            with pytest.raises(OcaSmsError) as caught:
                await post(gateway, http, gate)
            assert caught.value is trouble or type(caught.value) is ConnectionFailedError
            assert isinstance(trouble, OcaSmsError) is (caught.value is trouble)
        assert gateway.requests == []
        await http.aclose()
        await asyncio.wait_for(gateway.all_closed(), HANG)


@pytest.mark.usefixtures("late")
async def test_the_time_at_the_gate_does_not_count(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request may wait there longer than its time-out, which then goes on from where it was."""
    clock = Clock(monkeypatch)
    async with RawGateway().serve() as gateway:
        async with held(gateway, http) as (gate, task):
            await clock.move(task, at_most=100)
            gate.open.set()
            assert (await asyncio.wait_for(task, HANG)).status_code == 200
        gateway.behaviour = say_nothing
        async with held(gateway, http) as (gate, task):
            await clock.move(task, at_most=100)
            gate.open.set()
            await asyncio.wait_for(gateway.has_read(2), HANG)
            await clock.move(task, at_most=11)
            with pytest.raises(DeliveryUnknownError):
                await task


@pytest.mark.usefixtures("late")
async def test_the_deadline_holds_at_the_gate(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message expires there, and was not sent."""
    clock = Clock(monkeypatch)
    async with RawGateway().serve() as gateway:
        async with held(gateway, http, deadline=asyncio.get_running_loop().time() + 5) as (_, task):
            await clock.move(task, at_most=6)
            with pytest.raises(ExpiredError) as caught:
                await task
            assert not caught.value.may_have_been_sent
        assert gateway.requests == []


@pytest.mark.usefixtures("late")
async def test_the_deadline_holds_after_the_gate(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time at the gate moves the time-out, but never behind the deadline."""
    clock = Clock(monkeypatch)
    async with (
        RawGateway(say_nothing).serve() as gateway,
        held(gateway, http, deadline=asyncio.get_running_loop().time() + 5) as (gate, task),
    ):
        gate.open.set()
        await asyncio.wait_for(gateway.has_read(1), HANG)
        await clock.move(task, at_most=6)
        with pytest.raises(ExpiredError) as caught:
            await task
        assert caught.value.may_have_been_sent


@pytest.mark.usefixtures("late")
async def test_closing_ends_a_request_at_the_gate(http: httpx.AsyncClient) -> None:
    """It was not sent."""
    under_way, loop = UnderWay(), asyncio.get_running_loop()
    async with RawGateway().serve() as gateway:
        async with held(gateway, http, under_way=under_way) as (_, task):
            (bound,) = under_way
            bound.reschedule(loop.time())
            with pytest.raises(ConnectionFailedError):
                await asyncio.wait_for(task, HANG)
        assert gateway.requests == []


@pytest.mark.usefixtures("late")
async def test_the_gate_does_not_undo_closing(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that leaves the gate in the moment of closing gets no new time-out."""
    under_way, clock, loop = UnderWay(), Clock(monkeypatch), asyncio.get_running_loop()

    async def close() -> None:
        (bound,) = under_way
        bound.reschedule(loop.time())

    async with RawGateway(say_nothing).serve() as gateway:
        with pytest.raises(OcaSmsError):
            await asyncio.wait_for(post(gateway, http, close, under_way=under_way), HANG)
        assert clock.seconds < 9

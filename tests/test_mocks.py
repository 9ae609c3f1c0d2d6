"""A tool that patches httpx sees each request of the default client, and a mocked test does not send for real."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import respx
from raw_gateway import RawGateway

from oca_sms_async import AsyncOcaSms, DeliveryUnknownError, OcaSmsError, RetryPolicy, Unlimited
from oca_sms_async.aiohttp import aiohttp_client

PHONE = "+6281381475159"
TEXT = "Acme: 482913 is your code"
MOCKED = {"status": "sent", "msg_uid": "mocked"}


def client_of(base_url: str, **options: Any) -> AsyncOcaSms:
    """Return a default client without limit and without waits."""
    retry = RetryPolicy(initial_wait=0)
    return AsyncOcaSms("user@example.com", "secret", base_url=base_url, limiter=Unlimited(), retry=retry, **options)


class Wrapped:
    """A method of wrapt's, which ddtrace uses."""

    def __init__(self, send: Callable[..., Any], real: Any) -> None:
        self._send = send
        self.__code__ = real.__code__

    def __get__(self, client: httpx.AsyncClient | None, owner: type) -> Any:
        return self if client is None else functools.partial(self._send, client)


@pytest.mark.parametrize("mode", ["httpcore", "httpx"])
async def test_respx_catches_each_request_in_each_of_its_modes(mode: str) -> None:
    """The first request and one on a connection that is open already; afterwards the client sends for real."""
    async with RawGateway().serve() as gateway, client_of(gateway.base_url) as client:
        with respx.mock(using=mode) as router:
            route = router.post(f"{gateway.base_url}/sms").respond(json=MOCKED)
            for _ in range(2):
                assert (await client.send(PHONE, TEXT)).msg_uid == "mocked"
        assert (route.call_count, gateway.accepted) == (2, 0)
        assert (await client.send(PHONE, TEXT)).msg_uid != "mocked"
        with respx.mock(using=mode) as router:
            router.post(f"{gateway.base_url}/sms").respond(json=MOCKED)
            assert (await client.send(PHONE, TEXT)).msg_uid == "mocked"
        assert len(gateway.requests) == 1


async def test_respx_catches_requests_of_aiohttp_in_one_mode() -> None:
    """`using="httpx"` replaces a method of the client, which our fast client then calls."""
    async with (
        RawGateway().serve() as gateway,
        aiohttp_client() as lent,
        client_of(gateway.base_url, http_client=lent) as client,
    ):
        with respx.mock(using="httpx") as router:
            router.post(f"{gateway.base_url}/sms").respond(json=MOCKED)
            assert (await client.send(PHONE, TEXT)).msg_uid == "mocked"
        assert gateway.accepted == 0
        assert (await client.send(PHONE, TEXT)).msg_uid != "mocked"


@pytest.mark.parametrize("mode", ["httpcore", "httpx"])
async def test_a_request_that_a_mock_does_not_know_is_not_sent(mode: str) -> None:
    """Respx fails the request, and so the send fails too."""
    async with RawGateway().serve() as gateway, client_of(gateway.base_url) as client:
        with respx.mock(using=mode, assert_all_called=False), pytest.raises((OcaSmsError, AssertionError)):
            await client.send(PHONE, TEXT)
        assert gateway.accepted == 0


async def test_a_mock_in_the_place_of_the_transport_proves_nothing() -> None:
    """`using="httpx"` leaves our transport out, so «could not connect» is not its word."""
    async with client_of("https://sms.example") as client:
        with respx.mock(using="httpx") as router:
            router.post("https://sms.example/sms").mock(side_effect=httpx.ConnectError("x"))
            with pytest.raises(DeliveryUnknownError):
                await client.send(PHONE, TEXT)


async def test_a_patch_of_httpx_transport_catches_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-httpx and vcrpy replace `httpx.AsyncHTTPTransport.handle_async_request`."""
    seen = list[httpx.URL]()

    async def answer(_: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        seen.append(request.url)
        return httpx.Response(200, json=MOCKED)

    async with RawGateway().serve() as gateway, client_of(gateway.base_url) as client:
        await client.send(PHONE, TEXT)
        with monkeypatch.context() as patch:
            patch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", answer)
            for _ in range(2):
                assert (await client.send(PHONE, TEXT)).msg_uid == "mocked"
        assert seen == [f"{gateway.base_url}/sms"] * 2
        await client.send(PHONE, TEXT)
        assert len(gateway.requests) == 2


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("bound", [False, True])
async def test_a_patch_of_the_clients_send_sees_each_request(bound: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentry and ddtrace wrap `httpx.AsyncClient.send`. A wrapper may add headers, and reads the status.

    The one is a function, the other an object that binds itself and passes for the method.
    """
    real: Callable[..., Awaitable[httpx.Response]] = httpx.AsyncClient.send
    seen = list[tuple[str, int]]()

    async def send(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        request.headers["sentry-trace"] = "771a43a4192642f0b136d5159a501700"
        response = await real(client, request, **options)
        seen.append((request.method, response.status_code))
        return response

    monkeypatch.setattr(httpx.AsyncClient, "send", Wrapped(send, real) if bound else functools.wraps(real)(send))
    async with RawGateway().serve() as gateway, client_of(gateway.base_url) as client:
        for _ in range(2):
            await client.send(PHONE, TEXT)
        assert all(b"\r\nsentry-trace: 771a43" in request for request in gateway.requests)
    assert seen == [("POST", 200)] * 2

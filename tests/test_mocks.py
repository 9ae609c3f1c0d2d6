"""A tool that patches httpx sees each request of the default client, and a mocked test does not send for real."""

import asyncio
import functools
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import respx
import vcr  # type: ignore[import-untyped] # it has no types
from pytest_httpx import HTTPXMock
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


async def test_pytest_httpx_catches_each_request(request: pytest.FixtureRequest) -> None:
    """The first request and one on a connection that is open already are mocked."""
    async with RawGateway().serve() as gateway, client_of(gateway.base_url) as client:
        await client.send(PHONE, TEXT)
        httpx_mock: HTTPXMock = request.getfixturevalue("httpx_mock")
        httpx_mock.add_response(url=f"{gateway.base_url}/sms", method="POST", json=MOCKED, is_reusable=True)
        for _ in range(2):
            assert (await client.send(PHONE, TEXT)).msg_uid == "mocked"
        assert (len(httpx_mock.get_requests()), len(gateway.requests)) == (2, 1)


async def test_vcrpy_replays_each_request(tmp_path: Path) -> None:
    """A cassette records what the default client sends and plays it without the gateway."""
    recorder = vcr.VCR(record_mode="once", filter_headers=["authorization"])
    async with RawGateway().serve() as gateway:
        async with client_of(gateway.base_url) as client:
            with recorder.use_cassette(str(tmp_path / "cassette.yaml")):
                recorded = await client.send(PHONE, TEXT)
        async with client_of(gateway.base_url) as client:
            with recorder.use_cassette(str(tmp_path / "cassette.yaml")) as cassette:
                assert await client.send(PHONE, TEXT) == recorded
                assert cassette.play_count == 1
        assert len(gateway.requests) == 1


SENTRY: Final = """
import asyncio, json, sys
import sentry_sdk
from sentry_sdk.transport import Transport
from oca_sms_async import AsyncOcaSms

seen = []

class Kept(Transport):
    def capture_envelope(self, envelope):
        seen.append(json.dumps([item.payload.json for item in envelope.items]))

sentry_sdk.init(dsn="http://key@sentry.example/1", transport=Kept, traces_sample_rate=1.0)

async def main():
    async with AsyncOcaSms("user@example.com", "secret", base_url=sys.argv[1], allow_http=True) as client:
        with sentry_sdk.start_transaction(name="a send"):
            await client.send("+6281381475159", "Acme: 482913 is your code")

asyncio.run(main())
(event,) = (text for text in seen if "a send" in text)
spans = json.loads(event)[0]["spans"]
print(json.dumps([[span["op"], span["data"].get("http.response.status_code")] for span in spans]))
print(any(secret in text for text in seen for secret in ("482913", "81381475159", '"secret"')))
"""


async def test_sentry_sees_each_request_and_nothing_private() -> None:
    """A trace has a span for the request, the gateway gets the trace's header, and no text or number is reported."""
    async with RawGateway().serve() as gateway:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SENTRY, gateway.base_url, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        (request,) = gateway.requests
    spans, shown = output.decode().splitlines()
    assert [span for span in json.loads(spans) if span[0] == "http.client"] == [["http.client", 200]]
    assert shown == "False"
    assert b"\r\nsentry-trace: " in request


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("bound", [False, True])
async def test_a_patch_of_the_clients_send_sees_each_request(bound: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentry and ddtrace wrap `httpx.AsyncClient.send`. A wrapper may add headers, and reads the status.

    Sentry's is a function. ddtrace's is an object that binds itself and passes for the method; ddtrace itself is too
    large for a test.
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

"""The fast transport: the proof in aiohttp's exceptions, its options and its bounds."""

import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey
from answers import APIS
from each_api import each_api
from raw_gateway import RECEIPT, Connection, RawGateway, http

from oca_sms_async import AsyncOcaSms, ConnectionFailedError, DeliveryUnknownError, OcaSmsError, Unlimited
from oca_sms_async._connections import KEEPALIVE
from oca_sms_async.aiohttp import aiohttp_client

PHONE = "+6281381475159"
TEXT = "Acme: 482913 is your code"
KEY = ConnectionKey("localhost", 1, True, True, None, None, None)
REFUSED = OSError(111, "Connection refused")

# Exceptions of aiohttp, and whether each proves that the request did not leave.
TABLE: list[tuple[Exception, bool]] = [
    (aiohttp.ClientConnectorError(KEY, REFUSED), True),
    (aiohttp.ClientConnectorDNSError(KEY, REFUSED), True),
    (aiohttp.ClientConnectorSSLError(KEY, REFUSED), True),
    (aiohttp.ClientConnectorCertificateError(KEY, ValueError("untrusted")), True),
    (aiohttp.ClientProxyConnectionError(KEY, REFUSED), True),
    (aiohttp.ConnectionTimeoutError("to host"), True),
    (aiohttp.ClientConnectionError("reset"), False),
    (aiohttp.ClientConnectionResetError("reset"), False),
    (aiohttp.ServerDisconnectedError(), False),
    (aiohttp.ServerTimeoutError("read"), False),
    (aiohttp.SocketTimeoutError("read"), False),
    (aiohttp.ClientOSError(104, "reset by peer"), False),
    (aiohttp.ClientPayloadError("short"), False),
    (aiohttp.InvalidURL("x"), False),
    (aiohttp.ClientError("any"), False),
    (TimeoutError(), False),
    (OSError(104, "reset by peer"), False),
    (ValueError("a bug"), False),
]


@asynccontextmanager
async def client_on(base_url: str, lent: httpx.AsyncClient, api: str = "regular-v1") -> AsyncIterator[AsyncOcaSms]:
    """Open a client on this transport."""
    async with (
        lent,
        AsyncOcaSms(api=APIS[api], base_url=base_url, limiter=Unlimited(), http_client=lent) as client,
    ):
        yield client


async def error_of(base_url: str, lent: httpx.AsyncClient) -> OcaSmsError:
    """Return the error of a send."""
    async with client_on(base_url, lent) as client:
        with pytest.raises(OcaSmsError) as caught:
            await client.send(PHONE, TEXT)
    return caught.value


@pytest.mark.parametrize(("trouble", "proof"), TABLE, ids=[type(it).__name__ for it, _ in TABLE])
async def test_only_a_connection_that_did_not_come_about_is_proof(
    trouble: Exception, proof: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connector errors and the time-out for connecting prove that the request did not leave, and no others."""

    async def fail(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setattr(aiohttp.ClientSession, "_request", fail)
    error = await error_of("https://sms.example", aiohttp_client())
    assert type(error) is (ConnectionFailedError if proof else DeliveryUnknownError)
    assert error.may_have_been_sent is not proof
    assert isinstance(error.__cause__, httpx.ConnectError if proof else httpx.TransportError)


@pytest.mark.parametrize("trouble", [trouble for trouble, _ in TABLE], ids=lambda it: type(it).__name__)
async def test_trouble_within_an_answers_body_is_doubt(trouble: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once an answer has begun the request was sent, and the name of the exception does not matter."""

    async def fail(_: object) -> bytes:
        raise trouble

    async with RawGateway().serve() as gateway:
        monkeypatch.setattr(aiohttp.StreamReader, "readany", fail)
        error = await error_of(gateway.base_url, aiohttp_client())
    assert type(error) is DeliveryUnknownError
    assert isinstance(error.__cause__, httpx.ReadError)


async def test_a_connection_that_hangs_while_it_is_made_is_proof() -> None:
    """The time-out for connecting ends a TLS handshake without an answer, and the request did not leave."""

    async def hang(connection: Connection) -> None:
        await connection.until_hung_up()

    async with RawGateway(on_connect=hang).serve() as gateway:
        lent = aiohttp_client(timeout=httpx.Timeout(None, connect=0.1))
        error = await error_of(f"https://localhost:{gateway.port}", lent)
    assert type(error) is ConnectionFailedError
    assert "took too long" in str(error)


@each_api
async def test_a_server_that_closes_after_each_answer_causes_no_doubt(api: str) -> None:
    """A connection that the server closes right after its answer is not used again, even by the very next send."""

    async def once(connection: Connection) -> None:
        await connection.write(http(RECEIPT))
        connection.writer.close()

    async with RawGateway(once).serve() as gateway, client_on(gateway.base_url, aiohttp_client(), api) as client:
        for _ in range(20):
            await client.send(PHONE, TEXT)
        assert len(gateway.requests) == 20


async def test_as_many_connections_as_requests_and_none_kept_long() -> None:
    """No request waits for a connection, and an idle one is closed before a server would close it."""
    lent = aiohttp_client()
    async with RawGateway().serve() as gateway, client_on(gateway.base_url, lent) as client:
        await client.send(PHONE, TEXT)
        session = lent._transport.client  # type: ignore[attr-defined] # aiohttp's
        assert (session.connector.limit, session.connector.limit_per_host) == (0, 0)
        assert session.connector._keepalive_timeout == KEEPALIVE


async def test_options_are_httpx_own() -> None:
    """Headers and time-outs that are given go to the client, and stay there."""
    async with aiohttp_client(headers={"X-Team": "otp"}, timeout=3.0) as lent:
        assert lent.headers["X-Team"] == "otp"
        assert lent.timeout == httpx.Timeout(3.0)


@pytest.mark.parametrize(("written", "arrives"), [("é".encode(), "é"), (b"\xe9", "é"), (b"plain", "plain")])
async def test_a_header_arrives_as_httpx_reads_it(written: bytes, arrives: str) -> None:
    """A header is read as UTF-8, and as Latin-1 if it is none, and written as UTF-8."""
    lent = aiohttp_client(headers=[(b"X-Team", written)])
    async with RawGateway().serve() as gateway, client_on(gateway.base_url, lent) as client:
        await client.send(PHONE, TEXT)
        assert f"X-Team: {arrives}\r\n".encode() in gateway.requests[0]


@pytest.mark.parametrize("name", ["cert", "limits", "http1", "http2"])
def test_options_that_would_be_ignored_are_refused(name: str) -> None:
    """An option without an effect would mislead, for example a certificate that is never presented."""
    with pytest.raises(TypeError, match=f"takes no {name}:"):
        aiohttp_client(**dict[str, Any]({name: None}))


@pytest.mark.parametrize(("options", "proxied"), [({}, True), ({"trust_env": False}, False)])
async def test_the_environments_proxies_serve_unless_told_otherwise(
    options: dict[str, Any], proxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy of the environment is asked, and `trust_env=False` turns that off."""
    async with RawGateway().serve() as gateway, RawGateway().serve() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://localhost:{proxy.port}")
        async with client_on(gateway.base_url, aiohttp_client(**options)) as client:
            await client.send(PHONE, TEXT)
        assert (len(gateway.requests), len(proxy.requests)) == ((0, 1) if proxied else (1, 0))


async def test_a_proxy_that_is_given_serves_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """`proxy=` wins over `HTTP_PROXY`, as with httpx, and needs no request that the environment permits."""
    async with RawGateway().serve() as gateway, RawGateway().serve() as proxy:
        monkeypatch.setenv("HTTP_PROXY", "http://localhost:1")
        monkeypatch.setenv("NO_PROXY", "*")
        async with client_on(gateway.base_url, aiohttp_client(proxy=f"http://localhost:{proxy.port}")) as client:
            await client.send(PHONE, TEXT)
        assert (len(gateway.requests), len(proxy.requests)) == (0, 1)


async def test_mounts_are_honoured() -> None:
    """A client with a mount, or with a transport of the user's own, does not go past it."""
    mock = httpx.MockTransport(lambda _: httpx.Response(200, json={"status": "sent", "msg_uid": "mounted"}))
    async with RawGateway().serve() as gateway:
        for options in ({"mounts": {"http://localhost": mock}}, {"transport": mock}):
            async with client_on(gateway.base_url, aiohttp_client(**options)) as client:
                assert (await client.send(PHONE, TEXT)).msg_uid == "mounted"
        assert gateway.accepted == 0


@each_api
async def test_hooks_are_called(api: str) -> None:
    """Event hooks see each request and answer on this transport, too."""
    seen = list[object]()

    async def see(it: object) -> None:
        seen.append(type(it))

    lent = aiohttp_client(event_hooks={"request": [see], "response": [see]})
    async with RawGateway().serve() as gateway, client_on(gateway.base_url, lent, api) as client:
        await client.send(PHONE, TEXT)
    assert seen == [httpx.Request, httpx.Response]


@pytest.mark.parametrize("password", ["plain", "ä€", "a:b", "%"])
async def test_a_proxys_password_arrives_as_it_is(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transport takes any character out of the environment's URL, and writes it in UTF-8."""
    async with RawGateway().serve() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:{quote(password)}@localhost:{proxy.port}")
        async with client_on("http://localhost:1/api/v1", aiohttp_client()) as client:
            await client.send(PHONE, TEXT)
    (request,) = proxy.requests
    (credentials,) = re.findall(rb"\r\nproxy-authorization: Basic (\S+)\r\n", request, re.IGNORECASE)
    assert b64decode(credentials).decode() == f"user:{password}"


@pytest.mark.parametrize("proxy", ["socks5://user:marker@localhost:1", "ftp://localhost:1"])
def test_a_proxy_that_cannot_be_used_is_told_at_once(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aiohttp takes http and https proxies; the sentence shows no password."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ValueError, match="the environment names") as caught:
        aiohttp_client()
    assert "marker" not in str(caught.value)


def test_without_its_extra_it_says_which() -> None:
    """The error names the command to type."""
    script = "import sys; sys.modules['httpx_aiohttp'] = None; import oca_sms_async.aiohttp"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert 'pip install "oca-sms-async[aiohttp]"' in ended.stderr.splitlines()[-1]

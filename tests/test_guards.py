"""A private name of httpx or aiohttp that moves is logged once, and the safe way is taken.

A rename is played from our side: the room that reads the name asks for another one.
"""

import logging
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from on_sockets import PHONE, TEXT, client_of, free_port, tls
from raw_gateway import RawGateway

import oca_sms_async.aiohttp
from oca_sms_async import (
    ConnectionFailedError,
    DeliveryUnknownError,
    _aiohttp_internals,
    _connections,
    _httpx_internals,
    _network,
)
from oca_sms_async._connections import ExactConnectErrors
from oca_sms_async._httpx_internals import report_lost
from oca_sms_async.aiohttp import aiohttp_client

UNREAD = (
    *("_pool", "connections", "has_expired", "_h11_state", "trailing_data"),
    *("_network_stream", "_stream"),
)
UNREAD_IN_TLS = ("_read_bio", "pending", "_ssl_object", "transport_stream")


@pytest.fixture(autouse=True)
def unreported(caplog: pytest.LogCaptureFixture) -> None:
    """No guard has been reported yet."""
    caplog.set_level(logging.WARNING, "oca_sms_async")
    report_lost.cache_clear()


def without(name: str, room: ModuleType) -> dict[str, Any]:
    """Return the names of a room that reads a private name which its library does not have."""
    source = Path(str(room.__file__)).read_text(encoding="utf-8")
    moved, count = re.subn(rf'(\.|"){name}\b', rf"\1{name}_moved", source)
    assert count
    names: dict[str, Any] = {"__name__": room.__name__}
    exec(compile(moved, str(room.__file__), "exec"), names)  # our own source
    return names


def lost_guards(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the guards that were logged as lost."""
    return [str(vars(it)["guard"]) for it in caplog.records if vars(it).get("event") == "transport.guard_lost"]


@pytest.fixture
def secured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server's TLS context with a certificate that each client of the test trusts."""
    authority, context = tls("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return context


async def connections_of_three_sends(context: Any, **options: Any) -> int:
    """Return how many connections three sends take, one after the other."""
    async with RawGateway().serve(context) as gateway, client_of(gateway.base_url, **options) as client:
        for _ in range(3):
            await client.send(PHONE, TEXT)
        return gateway.accepted


@pytest.mark.parametrize(
    ("name", "secure"),
    [
        *((name, secure) for name in UNREAD for secure in (False, True)),
        *((it, True) for it in UNREAD_IN_TLS),
    ],
)
async def test_without_a_look_at_unread_bytes_no_connection_serves_twice(
    name: str, secure: bool, secured: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each name of httpx, httpcore, h11 and anyio that the look needs."""
    assert await connections_of_three_sends(secured if secure else None) == 1
    assert lost_guards(caplog) == []
    monkeypatch.setattr(_connections, "is_silent", without(name, _httpx_internals)["is_silent"])
    assert await connections_of_three_sends(secured if secure else None) == 3
    assert lost_guards(caplog) == ["unread bytes"]


@pytest.mark.parametrize(
    ("name", "guard"),
    [("should_close", "unread bytes of aiohttp"), ("_retry_connection", "repeated requests of aiohttp")],
)
async def test_without_a_guard_no_connection_of_aiohttp_serves_twice(
    name: str, guard: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A used connection may hold another message's receipt, or have aiohttp repeat a GET."""
    async with aiohttp_client() as lent:
        assert await connections_of_three_sends(None, http_client=lent) == 1
    assert lost_guards(caplog) == []
    room = without(name, _aiohttp_internals)
    for kept in ("open_session", "STEPS", "Steps"):
        monkeypatch.setattr(oca_sms_async.aiohttp, kept, room[kept])
    async with aiohttp_client() as lent:
        assert await connections_of_three_sends(None, http_client=lent) == 3
    assert lost_guards(caplog) == [guard]


@pytest.mark.parametrize("name", ["_transport_for_url", "_send_single_request"])
async def test_without_a_look_at_patches_each_request_goes_through_httpx(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool that replaces a method of the client sees it, at the price of some speed."""
    seen = list[httpx.URL]()

    def see(client: httpx.AsyncClient, url: httpx.URL) -> httpx.AsyncBaseTransport:
        seen.append(url)
        return look_up(client, url)

    look_up = httpx.AsyncClient._transport_for_url
    monkeypatch.setattr(oca_sms_async.aiohttp, "is_patched", without(name, _httpx_internals)["is_patched"])
    monkeypatch.setattr(httpx.AsyncClient, "_transport_for_url", see)
    async with aiohttp_client() as lent:
        await connections_of_three_sends(None, http_client=lent)
    assert len(seen) == 3
    assert lost_guards(caplog) == ["patches of httpx"]


def test_without_the_name_of_a_requests_content_the_request_is_read() -> None:
    """Hooks and mocks look at it either way."""
    for fill in (_httpx_internals.fill, without("_content", _httpx_internals)["fill"]):
        request = httpx.Request("POST", "http://localhost", stream=httpx.ByteStream(b"body"))
        fill(request, b"body")
        assert request.content == b"body"


class Exact(ExactConnectErrors):
    """Raises «no connection was free», for which there is no trace."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raise it."""
        raise httpx.PoolTimeout("x")


async def test_without_the_transports_name_only_the_trace_proves(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception without its transport proves nothing."""
    async with httpx.AsyncClient(transport=Exact()) as lent:
        client = client_of(f"http://localhost:{free_port()}", http_client=lent)
        with pytest.raises(ConnectionFailedError):
            await client.send(PHONE, TEXT)
        assert lost_guards(caplog) == []
        moved = without("_transport_for_url", _httpx_internals)["transport_of"]
        monkeypatch.setattr("oca_sms_async._transport.transport_of", moved)
        for _ in range(2):
            with pytest.raises(DeliveryUnknownError):
                await client.send(PHONE, TEXT)
    assert lost_guards(caplog) == ["transport of a request"]


async def serve_slowly(monkeypatch: pytest.MonkeyPatch, *moved: tuple[ModuleType, str, str]) -> int:
    """Return how many connections three sends take, when a function of a room asks for a name that has moved."""
    for room, reads, name in moved:
        monkeypatch.setattr(room, reads, without(name, _httpx_internals)[reads])
    return await connections_of_three_sends(None)


@pytest.mark.parametrize(
    ("room", "reads", "name"),
    [
        (_connections, "connect_by", "_network_backend"),
        *((_network, "replace_stream", name) for name in ("_stream", "_transport", "_protocol", "read_queue")),
    ],
)
async def test_a_moved_name_costs_the_quick_connections_alone(
    room: ModuleType, reads: str, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the names of httpcore's network, its own is used, and connections serve again as before."""
    assert await serve_slowly(monkeypatch, (room, reads, name)) == 1
    assert lost_guards(caplog) == ["quick connections"]


@pytest.mark.parametrize("name", ["_protocol", "read_queue"])
async def test_without_a_look_at_anyios_own_bytes_no_slow_connection_serves_twice(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream of anyio keeps bytes that nobody has asked for."""
    moved = (_network, "replace_stream", name), (_connections, "is_silent", name)
    assert await serve_slowly(monkeypatch, *moved) == 3
    assert lost_guards(caplog) == ["quick connections", "unread bytes"]


async def test_a_moved_name_costs_the_time_outs_in_traces_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a late request cannot be told from a cancelled one, the guard is logged, and the client sends on."""
    moved = without("_pool", _httpx_internals)
    monkeypatch.setattr(_connections, "end_in_time", moved["end_in_time"])
    async with RawGateway().serve() as gateway, client_of(gateway.base_url) as client:
        assert (await client.send(PHONE, TEXT)).attempts == 1
    assert lost_guards(caplog) == ["time-outs in traces"]

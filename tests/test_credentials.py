"""Where the credentials go, and where they are kept: to the gateway alone, and in one place."""

import asyncio
import base64
import gc
import os
import secrets
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import httpx
import pytest
from raw_gateway import RECEIPT, Connection, RawGateway, http

from oca_sms_async import AsyncOcaSms, ConnectionFailedError, OcaSmsError, RegularV1, RetryPolicy, Unlimited
from oca_sms_async.aiohttp import aiohttp_client

PHONE = "+6281381475159"
TEXT = "Acme: 482913 is your code"
LENT: dict[str, Callable[[], httpx.AsyncClient] | None] = {
    "own": None,
    "lent": lambda: httpx.AsyncClient(follow_redirects=True),
    "aiohttp": lambda: aiohttp_client(follow_redirects=True),
    "lent with a hook": lambda: httpx.AsyncClient(follow_redirects=True, event_hooks={"request": [_hook]}),
    "aiohttp with a hook": lambda: aiohttp_client(follow_redirects=True, event_hooks={"request": [_hook]}),
}


PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


async def _hook(_: httpx.Request) -> None:
    """Do nothing."""


def client_at(base_url: str, **options: Any) -> AsyncOcaSms:
    """Return a client which does not wait."""
    return AsyncOcaSms("user", "password", base_url=base_url, limiter=Unlimited(), retry=RetryPolicy(1), **options)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("lent", LENT)
async def test_no_redirect_is_followed(lent: str, status: int) -> None:
    """Not even by a lent client that follows them: the other host hears of neither credentials nor message."""
    make = LENT[lent]
    http_client = None if make is None else make()
    async with RawGateway().serve() as other:
        answer = http(b"", f"{status} Moved", f"location: http://127.0.0.1:{other.port}/api/v1/sms\r\n")

        async def redirect(connection: Connection) -> None:
            await connection.write(answer)

        async with (
            RawGateway(redirect).serve() as gateway,
            client_at(gateway.base_url, http_client=http_client) as client,
        ):
            for call in (client.send(PHONE, TEXT), client.history(), client.status("abc")):
                with pytest.raises(OcaSmsError):
                    await call
            assert len(gateway.requests) == 3
        assert other.accepted == 0
    if http_client is not None:
        await http_client.aclose()


@pytest.mark.parametrize("make", [httpx.AsyncClient, aiohttp_client], ids=["httpx", "aiohttp"])
@pytest.mark.parametrize("hooks", [{}, {"request": [_hook]}], ids=["plain", "with a hook"])
async def test_a_lent_clients_own_credentials_do_not_go_to_the_gateway(make: Any, hooks: dict[str, Any]) -> None:
    """Neither its `auth` nor its `Authorization` is sent instead of the account's, or beside it; its cookies stay."""
    options: dict[str, Any] = {"headers": {"Authorization": "Bearer marker"}, "cookies": {"session": "marker"}}
    async with RawGateway().serve() as gateway, make(auth=("marker", "marker"), event_hooks=hooks, **options) as lent:
        await client_at(gateway.base_url, http_client=lent).send(PHONE, TEXT)
        (request,) = gateway.requests
        headers = request.partition(b"\r\n\r\n")[0].lower()
    assert headers.count(b"authorization:") == 1
    assert b"authorization: basic " + base64.b64encode(b"user:password").lower() in headers
    assert b"marker" not in headers
    assert base64.b64encode(b"marker:marker").lower() not in headers


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A proxy that the environment names for everything, by a name that is not known to be this machine."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    async def resolved(_: object, port: int, **__: object) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    async with RawGateway().serve() as serving:
        for name in PROXIES:
            monkeypatch.setenv(name, f"http://proxy.example:{serving.port}")
        yield serving


OURS: dict[str, Callable[[], httpx.AsyncClient] | None] = {"own": None, "aiohttp": aiohttp_client}


async def sent_by(make: Callable[[], httpx.AsyncClient] | None, base_url: str) -> None:
    """Send one message by a transport of ours."""
    http_client = None if make is None else make()
    async with client_at(base_url, http_client=http_client, allow_http=True) as client:
        await client.send(PHONE, TEXT)
    if http_client is not None:
        await http_client.aclose()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("transport", OURS)
async def test_plain_http_to_this_machine_leaves_it_by_no_proxy(proxy: RawGateway, transport: str, host: str) -> None:
    """That is why it is allowed: a proxy elsewhere would read the password on its way."""
    async with RawGateway().serve() as gateway:
        await sent_by(OURS[transport], f"http://{host}:{gateway.port}")
        assert len(gateway.requests) == 1
    assert proxy.accepted == 0


@pytest.mark.parametrize("transport", OURS)
async def test_a_proxy_on_this_machine_is_used(
    proxy: RawGateway, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hears nothing that would leave the machine; a tool to look at requests is one."""
    for name in PROXIES:
        monkeypatch.setenv(name, f"http://localhost:{proxy.port}")
    await sent_by(OURS[transport], "http://localhost:1")
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("transport", OURS)
async def test_plain_http_that_is_allowed_goes_by_the_proxy(proxy: RawGateway, transport: str) -> None:
    """Beyond this machine, the environment's proxy is the way out."""
    await sent_by(OURS[transport], "http://gateway.example/api")
    assert len(proxy.requests) == 1


def holders(needle: bytes) -> Iterator[object]:
    """Yield every object of this process that holds a str or bytes with this in it, read backwards.

    Backwards, so that the search does not find itself.
    """
    found, seen = needle[::-1], set[int]()
    waiting: list[tuple[object, object]] = [(gc, it) for it in gc.get_objects()]
    ours = {id(waiting), id(seen)}
    while waiting:
        holder, it = waiting.pop()
        data = it.encode(errors="replace") if isinstance(it, str) else bytes(it) if isinstance(it, bytes) else b""
        if data is not found and found in data:
            yield holder
        if id(it) in seen or id(it) in ours or isinstance(it, str | bytes):
            continue
        seen.add(id(it))
        # A module's own list would have iterators in it that 3.12's asyncio keeps for reuse, which count as freed.
        referents = [vars(it)] if isinstance(it, ModuleType) else gc.get_referents(it)
        waiting += [(it, held) for held in referents if id(held) not in seen]


@pytest.mark.parametrize("lent", ["own", "lent", "aiohttp"])
async def test_the_password_is_kept_in_one_header(lent: str) -> None:
    """After a send, no object of the process holds the password as it is, and one has it encoded: the header."""
    username, password = secrets.token_hex(8), secrets.token_hex(8)
    needles = [password.encode()[::-1], base64.b64encode(f"{username}:{password}".encode())[::-1]]
    make = LENT[lent]
    http_client = None if make is None else make()
    read = list[bool]()

    async def answer(connection: Connection) -> None:
        read.append(needles[1][::-1] in connection.request)
        connection.request = b""
        gateway.requests.clear()
        await connection.write(http(RECEIPT))

    async with RawGateway(answer).serve() as gateway:
        client = AsyncOcaSms(username, password, base_url=gateway.base_url, http_client=http_client)
        await client.send(PHONE, TEXT)
        assert read == [True]
        del username, password
        gc.collect()
        plain, encoded = ([*holders(needle)] for needle in needles)
        assert plain == []
        assert len(encoded) == 1, encoded
        await client.aclose()
    if http_client is not None:
        await http_client.aclose()


async def test_a_refused_connection_keeps_no_credentials() -> None:
    """An error that is kept keeps no header alive."""
    username, password = secrets.token_hex(8), secrets.token_hex(8)
    needle = base64.b64encode(f"{username}:{password}".encode())[::-1]
    client = AsyncOcaSms(username, password, base_url="http://127.0.0.1:1")
    with pytest.raises(ConnectionFailedError) as caught:
        await client.send(PHONE, TEXT)
    error = caught.value.with_traceback(None)
    del username, password, client, caught
    gc.collect()
    assert [*holders(needle)] == []
    assert not error.may_have_been_sent


# What a traceback shows


def serialized(value: object) -> str:
    """Write a local variable as an error tracker does: containers by their items, anything else by its repr."""
    if isinstance(value, Mapping):
        return "".join(f"{serialized(key)}: {serialized(it)}, " for key, it in value.items())
    if isinstance(value, Sequence | set) and not isinstance(value, str | bytes):
        return "".join(map(serialized, value))
    try:
        return repr(value)
    except AttributeError:  # of a client that was not made
        return f"<{type(value).__name__}>"


def shown_locals(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield function and value of each local variable in the package's frames of a traceback."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals["__name__"].startswith("oca_sms_async"):
            yield from ((frame.f_code.co_qualname, serialized(value)) for value in frame.f_locals.values())


MARKER = "Quagga"
WRONG: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "no password": ({"OCA_SMS_USERNAME": MARKER}, {}),
    "no username": ({"OCA_SMS_PASSWORD": MARKER}, {}),
    "username": ({"OCA_SMS_USERNAME": f"{MARKER}:", "OCA_SMS_PASSWORD": MARKER}, {}),
    "password": ({"OCA_SMS_USERNAME": MARKER, "OCA_SMS_PASSWORD": f"{MARKER}\n"}, {}),
    "base URL": ({"OCA_SMS_USERNAME": MARKER, "OCA_SMS_PASSWORD": MARKER}, {"base_url": "http://gateway.test"}),
    "switch": ({"OCA_SMS_USERNAME": MARKER, "OCA_SMS_PASSWORD": MARKER, "OCA_SMS_ALLOW_HTTP": "perhaps"}, {}),
    "time-out": ({"OCA_SMS_USERNAME": MARKER, "OCA_SMS_PASSWORD": MARKER}, {"timeout": 0}),
}


@pytest.mark.parametrize("source", ["process", "mapping"])
@pytest.mark.parametrize("wrong", WRONG)
def test_no_frame_shows_the_environment(wrong: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `from_env` fails, no local variable of ours holds a credential, or another secret of the environment."""
    variables, options = WRONG[wrong]
    for name in ("OCA_SMS_USERNAME", "OCA_SMS_PASSWORD", "OCA_SMS_BASE_URL", "OCA_SMS_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**variables, "DATABASE_URL": MARKER}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"must|is not set") as caught:
        AsyncOcaSms.from_env(*([dict(os.environ)] if source == "mapping" else []), **options)
    found = [*shown_locals(caught.value)]
    assert "AsyncOcaSms.from_env" in {function for function, _ in found}
    assert [(function, value) for function, value in found if MARKER in value] == []


@pytest.mark.parametrize(("username", "password"), [(f"{MARKER}:", MARKER), (MARKER, f"{MARKER}\n")])
def test_no_frame_shows_what_an_api_refuses(username: str, password: str) -> None:
    """Where an API's constructor refuses a credential, no local variable of ours holds one."""
    with pytest.raises(ValueError, match="must") as caught:
        RegularV1(username, password)
    assert [(function, value) for function, value in shown_locals(caught.value) if MARKER in value] == []


def test_an_api_value_shows_no_credentials() -> None:
    """Its repr holds neither a credential nor the header."""
    api = RegularV1(MARKER, MARKER)
    assert repr(api) == "RegularV1()"
    assert api == RegularV1(MARKER, MARKER) != RegularV1(MARKER, "other")
    request = api.send(PHONE, TEXT)
    assert not [secret for secret in (PHONE[3:], TEXT, api.headers()["Authorization"]) if secret in repr(request)]

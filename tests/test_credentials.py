"""Credentials: they go to the gateway alone, are kept in one place, and show nowhere."""

import asyncio
import base64
import copy
import gc
import json
import os
import pickle
import re
import secrets
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import attrs
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_gateway import RECEIPT, Connection, RawGateway, http

from oca_sms_async import (
    AsyncOcaSms,
    ConnectionFailedError,
    OcaSmsError,
    PremiumV1,
    PremiumV2,
    RegularV1,
    RegularV2,
    RetryPolicy,
    Unlimited,
)
from oca_sms_async._wire import Api
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


BY_PASSWORD = RegularV1("user", "password")
ACCOUNTS: dict[str, Api] = {"password": BY_PASSWORD, "token": RegularV2("bearers-token")}


def client_at(base_url: str, api: Api = BY_PASSWORD, **options: Any) -> AsyncOcaSms:
    """Return a client that does not wait."""
    return AsyncOcaSms(api=api, base_url=base_url, limiter=Unlimited(), retry=RetryPolicy(1), **options)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("lent", LENT)
@pytest.mark.parametrize("account", ACCOUNTS)
async def test_no_redirect_is_followed(lent: str, status: int, account: str) -> None:
    """Even a lent client that follows redirects does not: the other host gets neither credentials nor message."""
    make = LENT[lent]
    http_client = None if make is None else make()
    async with RawGateway().serve() as other:
        answer = http(b"", f"{status} Moved", f"location: http://127.0.0.1:{other.port}/api/v1/sms\r\n")

        async def redirect(connection: Connection) -> None:
            await connection.write(answer)

        async with (
            RawGateway(redirect).serve() as gateway,
            client_at(gateway.base_url, ACCOUNTS[account], http_client=http_client) as client,
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
@pytest.mark.parametrize(
    ("account", "value"), [("password", b"Basic dXNlcjpwYXNzd29yZA=="), ("token", b"Bearer bearers-token")]
)
async def test_a_lent_clients_own_credentials_do_not_go_to_the_gateway(
    make: Any, hooks: dict[str, Any], account: str, value: bytes
) -> None:
    """The `auth`, the `Authorization` and the cookies of a lent client are not sent, neither instead nor beside."""
    options: dict[str, Any] = {"headers": {"Authorization": "Bearer marker"}, "cookies": {"session": "marker"}}
    async with RawGateway().serve() as gateway, make(auth=("marker", "marker"), event_hooks=hooks, **options) as lent:
        await client_at(gateway.base_url, ACCOUNTS[account], http_client=lent).send(PHONE, TEXT)
        (request,) = gateway.requests
        headers = request.partition(b"\r\n\r\n")[0].lower()
    assert headers.count(b"authorization:") == 1
    assert b"authorization: " + value.lower() in headers
    assert b"marker" not in headers
    assert base64.b64encode(b"marker:marker").lower() not in headers


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A proxy that the environment names for every URL, by a name that is not known to be this machine."""
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
    """A proxy elsewhere would read the password on its way, so plain http to this machine goes through no proxy."""
    async with RawGateway().serve() as gateway:
        await sent_by(OURS[transport], f"http://{host}:{gateway.port}")
        assert len(gateway.requests) == 1
    assert proxy.accepted == 0


@pytest.mark.parametrize("transport", OURS)
async def test_a_proxy_on_this_machine_is_used(
    proxy: RawGateway, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy on this machine takes no request off it. A tool that shows requests is such a proxy."""
    for name in PROXIES:
        monkeypatch.setenv(name, f"http://localhost:{proxy.port}")
    await sent_by(OURS[transport], "http://localhost:1")
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("transport", OURS)
async def test_plain_http_that_is_allowed_goes_by_the_proxy(proxy: RawGateway, transport: str) -> None:
    """Plain http to another machine goes through the proxy of the environment."""
    await sent_by(OURS[transport], "http://gateway.example/api")
    assert len(proxy.requests) == 1


def holders(needle: bytes) -> Iterator[object]:
    """Yield every object of this process that holds a str or bytes with the needle in it, read backwards.

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
        # The referents of a module hold iterators that the asyncio of 3.12 keeps for reuse, and that count as freed.
        referents = [vars(it)] if isinstance(it, ModuleType) else gc.get_referents(it)
        waiting += [(it, held) for held in referents if id(held) not in seen]


@pytest.mark.parametrize("lent", ["own", "lent", "aiohttp"])
async def test_the_password_is_kept_in_one_header(lent: str) -> None:
    """After a send, no object of the process holds the password. One object holds it encoded: the header's value."""
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


@pytest.mark.parametrize("lent", ["own", "lent", "aiohttp"])
async def test_the_token_is_kept_in_one_header(lent: str) -> None:
    """After a send, one object of the process holds the token: the header's value."""
    token = secrets.token_hex(8)
    needle = token.encode()[::-1]
    make = LENT[lent]
    http_client = None if make is None else make()
    read = list[bool]()

    async def answer(connection: Connection) -> None:
        read.append(needle[::-1] in connection.request)
        connection.request = b""
        gateway.requests.clear()
        await connection.write(http(RECEIPT))

    async with RawGateway(answer).serve() as gateway:
        api = PremiumV2(f"Bearer {token}\n", sender_id="Acme")
        client = AsyncOcaSms(api=api, base_url=gateway.base_url, http_client=http_client)
        await client.send(PHONE, TEXT)
        assert read == [True]
        del token
        gc.collect()
        assert [*holders(needle)] == [api]
        await client.aclose()
    if http_client is not None:
        await http_client.aclose()


async def test_a_refused_connection_keeps_no_credentials() -> None:
    """An error that outlives its client keeps no header alive."""
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


# Tracebacks


def serialized(value: object) -> str:
    """Write a local variable as an error tracker does: containers by their items, other values by their repr."""
    if isinstance(value, Mapping):
        return "".join(f"{serialized(key)}: {serialized(it)}, " for key, it in value.items())
    if isinstance(value, Sequence | set) and not isinstance(value, str | bytes):
        return "".join(map(serialized, value))
    try:
        return repr(value)
    except AttributeError:  # a client whose constructor failed
        return f"<{type(value).__name__}>"


def shown_locals(error: BaseException) -> Iterator[tuple[str, str]]:
    """Yield function and value of each local variable in the package's frames of a traceback."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals["__name__"].startswith("oca_sms_async"):
            yield from ((frame.f_code.co_qualname, serialized(value)) for value in frame.f_locals.values())


MARKER = "Quagga"
VARIABLES = [
    f"OCA_SMS_{name}" for name in ("API", "USERNAME", "PASSWORD", "TOKEN", "SENDER_ID", "BASE_URL", "ALLOW_HTTP")
]
WRONG: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "no password": ({"OCA_SMS_USERNAME": MARKER}, {}),
    "no username": ({"OCA_SMS_PASSWORD": MARKER}, {}),
    "username": ({"OCA_SMS_USERNAME": f"{MARKER}:", "OCA_SMS_PASSWORD": MARKER}, {}),
    "password": ({"OCA_SMS_USERNAME": MARKER, "OCA_SMS_PASSWORD": f"{MARKER}\n"}, {}),
    "base URL": ({"OCA_SMS_USERNAME": MARKER, "OCA_SMS_PASSWORD": MARKER}, {"base_url": "http://gateway.test"}),
    "switch": ({"OCA_SMS_USERNAME": MARKER, "OCA_SMS_PASSWORD": MARKER, "OCA_SMS_ALLOW_HTTP": "perhaps"}, {}),
    "no token": ({"OCA_SMS_API": "premium-v2", "OCA_SMS_SENDER_ID": MARKER}, {}),
    "token": ({"OCA_SMS_API": "regular-v2", "OCA_SMS_TOKEN": f"{MARKER} {MARKER}"}, {}),
    "sender": ({"OCA_SMS_API": "premium-v2", "OCA_SMS_TOKEN": MARKER, "OCA_SMS_SENDER_ID": "Acme\n"}, {}),
    "contradiction": ({"OCA_SMS_API": "regular-v2", "OCA_SMS_TOKEN": MARKER, "OCA_SMS_USERNAME": MARKER}, {}),
    "time-out": ({"OCA_SMS_USERNAME": MARKER, "OCA_SMS_PASSWORD": MARKER}, {"timeout": 0}),
}


@pytest.mark.parametrize("source", ["process", "mapping"])
@pytest.mark.parametrize("wrong", WRONG)
def test_no_frame_shows_the_environment(wrong: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `from_env` fails, no local variable of ours holds a credential, or another secret of the environment."""
    variables, options = WRONG[wrong]
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**variables, "DATABASE_URL": MARKER}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"must|is not set|is for") as caught:
        AsyncOcaSms.from_env(*([dict(os.environ)] if source == "mapping" else []), **options)
    found = [*shown_locals(caught.value)]
    assert "AsyncOcaSms.from_env" in {function for function, _ in found}
    assert [(function, value) for function, value in found if MARKER in value] == []


REFUSED: dict[str, Callable[[], Api]] = {
    "username": lambda: RegularV1(f"{MARKER}:", MARKER),
    "password": lambda: RegularV1(MARKER, f"{MARKER}\n"),
    "token": lambda: RegularV2(f"{MARKER} {MARKER}"),
    "password beside a sender": lambda: PremiumV1(MARKER, f"{MARKER}\n", sender_id="Acme"),
    "sender beside a password": lambda: PremiumV1(MARKER, MARKER, sender_id=""),
    "token beside a sender": lambda: PremiumV2(f"{MARKER}\0", sender_id="Acme"),
    "sender beside a token": lambda: PremiumV2(MARKER, sender_id=" "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_frame_shows_what_an_api_refuses(name: str) -> None:
    """Where an API's constructor refuses an argument, no local variable of ours holds a credential."""
    with pytest.raises(ValueError, match="must") as caught:
        REFUSED[name]()
    assert MARKER not in f"{caught.value} {caught.value!r}"
    assert [(function, value) for function, value in shown_locals(caught.value) if MARKER in value] == []


# API values


VALUES: dict[str, tuple[Api, Api, str]] = {
    "RegularV1": (RegularV1(MARKER, MARKER), RegularV1(MARKER, "other"), "Basic UXVhZ2dhOlF1YWdnYQ=="),
    "RegularV2": (RegularV2(MARKER), RegularV2("other"), f"Bearer {MARKER}"),
    "PremiumV1": (
        PremiumV1(MARKER, MARKER, sender_id=MARKER),
        PremiumV1(MARKER, MARKER, sender_id="other"),
        "Basic UXVhZ2dhOlF1YWdnYQ==",
    ),
    "PremiumV2": (PremiumV2(MARKER, sender_id=MARKER), PremiumV2("other", sender_id=MARKER), f"Bearer {MARKER}"),
}


@pytest.mark.parametrize("name", VALUES)
def test_an_api_value_shows_no_credentials(name: str) -> None:
    """The repr of an API value, and of its requests, holds no credential, no number and no text."""
    api, other, header = VALUES[name]
    assert api.headers() == {"Authorization": header}
    assert repr(api) == f"{name}()"
    assert api != other
    request = api.send(PHONE, TEXT)
    assert not [secret for secret in (PHONE[3:], TEXT, MARKER, header) if secret in repr(request)]


@pytest.mark.parametrize("name", VALUES)
def test_an_api_value_is_frozen(name: str) -> None:
    """An API value cannot be changed. It can be copied, and not pickled: a pickle would hold the credentials."""
    api, _, header = VALUES[name]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        api._authorization = "other"  # type: ignore[attr-defined] # this is the point
    assert copy.copy(api) is copy.deepcopy(api) is api
    with pytest.raises(TypeError, match="not pickled") as caught:
        pickle.dumps(api)
    assert header not in "".join(value for _, value in shown_locals(caught.value))


# Tokens


def jwt(claims: object) -> str:
    """Write a token as the dashboard does."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "HS256"}, claims)
    )
    return f"{head}.{body}.c2lnbmF0dXJl"


TOKEN = jwt({"iss": "oca", "sub": "acme"})


@pytest.mark.parametrize(
    "given",
    [
        TOKEN,
        f"Bearer {TOKEN}",
        f"bearer {TOKEN}",
        f"BEARER\t {TOKEN}",
        f"  {TOKEN}\r\n",
        f"\n Bearer {TOKEN} \n",
        f"\ufeff{TOKEN}\n",
        f"\ufeffBearer {TOKEN}",
    ],
)
def test_token_out_of_a_file(given: str) -> None:
    """A token is taken with or without `Bearer ` and white space round it, and goes out as `Bearer <token>`."""
    assert RegularV2(given).headers() == {"Authorization": f"Bearer {TOKEN}"}
    assert PremiumV2(given, sender_id="Acme").headers() == {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    "given",
    [
        *("", " ", "\n", "Bearer", "Bearer ", " bearer\n", "\ufeff", None, 5, TOKEN.encode(), [TOKEN]),
        *(f"{TOKEN} x", f"{TOKEN}\n{TOKEN}", f"Bearer Bearer {TOKEN}", f"{TOKEN}\0", f"{TOKEN}\x7f", f"{TOKEN}\u00a0x"),
        *(f"Basic {TOKEN}", f"token é {TOKEN}", f"é{TOKEN}", f"\ud800{TOKEN}", f"\u200b{TOKEN}"),
    ],
)
def test_text_that_is_no_token(given: Any) -> None:
    """A text with white space or other strange characters within, and an empty one, is refused and not shown."""
    for make in (RegularV2, lambda token: PremiumV2(token, sender_id="Acme")):
        with pytest.raises(ValueError, match=r"^token must be ") as caught:
            make(given)
        assert TOKEN not in f"{caught.value!r}"


@pytest.mark.parametrize("sender_id", ["", " ", "\t", "Acme\n", "Ac\0me", "\ud800", None, 5, b"Acme", ["Acme"]])
def test_sender_that_cannot_be_one(sender_id: Any) -> None:
    """A sender is a text that is not blank, without control characters."""
    with pytest.raises(ValueError, match=r"^sender_id must "):
        PremiumV1("user", "secret", sender_id=sender_id)
    with pytest.raises(ValueError, match=r"^sender_id must "):
        PremiumV2(TOKEN, sender_id=sender_id)


NOW = 1_700_000_000
NO_CLAIMS: list[object] = [{}, [], "exp", None, 5]


@pytest.mark.parametrize("make", [RegularV2, lambda token: PremiumV2(token, sender_id="Acme")])
@pytest.mark.parametrize("exp", [NOW, NOW - 1, NOW - 0.5, 0])
def test_expired_token_is_a_warning(make: Callable[[str], Api], exp: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token whose `exp` has passed is used all the same. A warning says so, without the token."""
    monkeypatch.setattr("time.time", lambda: float(NOW))
    token = jwt({"iss": "oca", "exp": exp})
    with pytest.warns(UserWarning, match="^the token has expired: the gateway will refuse it$") as caught:
        assert make(f"Bearer {token}\n").headers() == {"Authorization": f"Bearer {token}"}
    assert [warning.filename for warning in caught] == [__file__]


def test_no_frame_shows_an_expired_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where warnings are errors, no local variable of ours holds the token."""
    monkeypatch.setattr("time.time", lambda: float(NOW))
    token = jwt({"exp": NOW})
    for make in (RegularV2, lambda given: PremiumV2(given, sender_id="Acme")):
        with pytest.raises(UserWarning) as caught:
            make(token)
        assert [(function, value) for function, value in shown_locals(caught.value) if token in value] == []


@pytest.mark.parametrize(
    "token",
    [
        *(jwt({"exp": exp}) for exp in (NOW + 1, NOW + 0.5, 10**400, str(NOW), None, True, [NOW], float("nan"))),
        *(jwt(claims) for claims in (*NO_CLAIMS, {"iat": NOW})),
        *("opaque", "a.b", "a.b.c", "a.b.c.d.e", "..", "a.!!.c", "a.e30.c", "a.W10.c", "a." + "W" * 9999 + ".c"),
        "a." + base64.urlsafe_b64encode(b"[" * 100_000).decode() + ".c",
        "a." + base64.urlsafe_b64encode(b"\xff\xfe").decode() + ".c",
    ],
)
def test_other_tokens_are_taken_as_they_are(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token without an `exp` that has passed, or that cannot be read, is used without a warning."""
    monkeypatch.setattr("time.time", lambda: float(NOW))
    assert RegularV2(token).headers() == {"Authorization": f"Bearer {token}"}


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda it: f"a.{base64.urlsafe_b64encode(it).decode()}.c"))
@settings(deadline=None)  # a busy machine must not fail a test
def test_any_text_is_a_token_or_refused(text: str) -> None:
    """Any text makes an API value with a header that can be sent, or a `ValueError` that names the token."""
    try:
        (header,) = RegularV2(text).headers().values()
    except ValueError as error:
        assert str(error).startswith("token must be ")  # noqa: PT017 - either end is right
    else:
        assert httpx.Headers({"Authorization": header}).raw == [(b"Authorization", header.encode("ascii"))]
        assert re.fullmatch(r"Bearer [!-~]+", header)

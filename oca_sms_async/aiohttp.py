"""The fast transport: httpx's interface over aiohttp's connections, with an honest word about what was not sent.

`pip install "oca-sms-async[aiohttp]"`, and then `AsyncOcaSms.from_env(http_client=aiohttp_client())`.
"""

import asyncio
import contextlib
import ssl
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, cast

import httpx
from httpcore._utils import is_socket_readable  # what it asks before it uses a connection again has no public name

from oca_sms_async._connections import KEEPALIVE, Honest, environment_proxies
from oca_sms_async._settings import is_loopback

try:
    import aiohttp
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace
    from httpx_aiohttp import AiohttpTransport
except ModuleNotFoundError as missing:
    raise ImportError('The aiohttp transport needs its extra: pip install "oca-sms-async[aiohttp]"') from missing

__all__ = ["aiohttp_client"]

# Who listens, as to httpcore, for how far the request of this task is.
_TRACE: Final = ContextVar[Callable[[str, dict[str, Any]], Awaitable[None]] | None]("oca_sms_trace", default=None)


def aiohttp_client(
    *,
    verify: ssl.SSLContext | bool = True,
    proxy: httpx.Proxy | str | None = None,
    trust_env: bool = True,
    **options: Any,
) -> httpx.AsyncClient:
    """Return an httpx client on aiohttp's connections, to be lent to `AsyncOcaSms(http_client=…)` and closed by you.

    `verify`, `proxy` (an http or https URL), `trust_env` and the other `options` are those of `httpx.AsyncClient`.
    Certificates and proxies come from the environment as with httpx. Nothing is bounded unless you give a `timeout`,
    for `AsyncOcaSms` bounds each attempt itself, and the connections. `ValueError` for a proxy that aiohttp cannot use,
    `TypeError` for `cert`, `limits`, `http1` and `http2`, which it has no use for.
    """
    if unknown := {"cert", "limits", "http1", "http2"} & options.keys():
        raise TypeError(
            f"aiohttp_client takes no {min(unknown)}: a certificate belongs into the SSLContext given as verify, the "
            "slots of AsyncOcaSms bound the connections, and they speak HTTP/1.1"
        )
    context = httpx.create_ssl_context(verify=verify, trust_env=trust_env)
    mounts = _mounts(context) if trust_env and proxy is None else None
    defaults: dict[str, Any] = {
        "timeout": None,
        "mounts": mounts,
        "transport": _Transport(context, proxy=None if proxy is None else _checked(proxy)),
        "trust_env": trust_env,
    }
    return httpx.AsyncClient(**(defaults | options))


def _mounts(context: ssl.SSLContext) -> dict[str, httpx.AsyncBaseTransport | None]:
    """Return transports over the environment's proxies, by the URLs that they are for."""
    proxies = {pattern: None if proxy is None else _checked(proxy) for pattern, proxy in environment_proxies().items()}
    if not all(proxy is None or is_loopback(proxy.url.host) for proxy in proxies.values()):
        # Plain http is allowed to this machine because it does not leave it: a proxy elsewhere is none for it.
        proxies |= dict.fromkeys(f"http://{host}" for host in ("localhost", "127.0.0.1", "[::1]"))
    return {pattern: None if proxy is None else _Transport(context, proxy=proxy) for pattern, proxy in proxies.items()}


def _checked(proxy: httpx.Proxy | str) -> httpx.Proxy:
    with contextlib.suppress(ValueError, httpx.InvalidURL):  # their texts may quote its password
        checked = httpx.Proxy(proxy) if isinstance(proxy, str) else proxy
        if checked.url.scheme in {"http", "https"}:
            return checked
    raise ValueError("proxy, or the one that the environment names, cannot be used: it must be an http or https URL")


class _Connector(aiohttp.TCPConnector):
    """Tells when a request begins to wait for its connection and when it has it; and hands out none on which something
    came after its last answer: aiohttp would take it for the next one's, which is the receipt of another message.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._used = weakref.WeakSet[ResponseHandler]()  # on a new one, an answer may be early

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Connection:
        await _tell("connection.connect_tcp.started")
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = cast(ResponseHandler, connection.protocol)  # one that is handed out has its own
            if protocol not in self._used or not (protocol.should_close or _is_readable(connection)):
                self._used.add(protocol)
                await _tell("http11.send_request_headers.started", request=req)
                return connection
            connection.close()


async def _tell(event: str, **info: Any) -> None:
    if (trace := _TRACE.get()) is not None:
        await trace(event, info)


def _is_readable(connection: Connection) -> bool:
    """Tell whether the system has something on a connection, its end perhaps, that the loop has not come to yet."""
    return connection.transport is None or is_socket_readable(connection.transport.get_extra_info("socket"))


class _Transport(AiohttpTransport, Honest):
    """httpx-aiohttp's transport, whose own table calls a reset after the request was read «could not connect»."""

    def __init__(self, context: ssl.SSLContext, *, proxy: httpx.Proxy | None = None) -> None:
        super().__init__(verify=context, proxy=proxy)
        self._loop: asyncio.AbstractEventLoop | None = None

    def get_client(self) -> aiohttp.ClientSession:
        # Without a bound: the slots are one, and a request that waited for a connection would do so after its token.
        connector = _Connector(limit=0, keepalive_timeout=KEEPALIVE, ssl=self.ssl_context)
        session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        session._retry_connection = False  # noqa: SLF001 - else a GET goes out twice, the second time without a token
        return session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._loop is not (loop := asyncio.get_running_loop()):  # a session lives and dies with its loop
            self._loop, self.client = loop, None
        _TRACE.set(request.extensions.get("trace"))  # of this task, which sends one request at a time
        try:
            response = await super().handle_async_request(request)
        except Exception as error:  # noqa: BLE001 - nothing of aiohttp's may come out
            told = _told(error, request)
        else:
            response.stream = _Stream(cast(httpx.AsyncByteStream, response.stream), request)
            return response
        raise told  # out here, or aiohttp's own would be its context: it holds the request's headers, and what was read


class _Stream(httpx.AsyncByteStream):
    """An answer's body, whose errors are httpx's."""

    def __init__(self, stream: httpx.AsyncByteStream, request: httpx.Request) -> None:
        self._stream = stream
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        broken: httpx.ReadError | None = None
        try:
            async for chunk in self._stream:
                yield chunk
        except Exception as error:  # noqa: BLE001 - as above
            broken = httpx.ReadError(type(error.__cause__ or error).__name__, request=self._request)
        if broken is not None:
            raise broken  # out here, as above

    async def aclose(self) -> None:
        await self._stream.aclose()


def _told(error: Exception, request: httpx.Request) -> httpx.TransportError:
    """Return httpx's error for one of aiohttp's: «could not connect» where that is proven, and doubt for all else."""
    origin = error.__cause__ or error
    kind: type[httpx.TransportError] = httpx.ReadError
    if isinstance(origin, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        kind = httpx.ConnectError
    elif isinstance(origin, TimeoutError):
        kind = httpx.ReadTimeout
    told = kind(type(origin).__name__, request=request)
    # What the system or the TLS library said is the reason. aiohttp's other errors hold what was sent, or quote what
    # came back.
    system = origin if isinstance(origin, OSError) else None
    told.__cause__ = getattr(origin, "os_error", None) or getattr(origin, "certificate_error", None) or system
    return told

"""The fast transport: httpx's interface over aiohttp's connections, with errors that say exactly what was not sent.

`pip install "oca-sms-async[aiohttp]"`, and then `AsyncOcaSms.from_env(http_client=aiohttp_client())`.
"""

import asyncio
import functools
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Coroutine
from itertools import chain
from typing import Any, cast

import httpx

from oca_sms_async._connections import KEEPALIVE, ExactConnectErrors, leave_to_parent
from oca_sms_async._httpx_internals import is_patched
from oca_sms_async._tls import tls_context

try:
    import aiohttp
    from httpx_aiohttp import AiohttpTransport

    from oca_sms_async._aiohttp_internals import STEPS, Steps, open_session
    from oca_sms_async._aiohttp_proxies import CREDENTIALS, Choose, make_chooser
except ModuleNotFoundError as missing:
    raise ImportError('The aiohttp transport needs its extra: pip install "oca-sms-async[aiohttp]"') from missing

__all__ = ["aiohttp_client"]


def aiohttp_client(
    *,
    verify: ssl.SSLContext | bool = True,
    proxy: httpx.Proxy | str | None = None,
    trust_env: bool = True,
    **options: Any,
) -> httpx.AsyncClient:
    """Return an httpx client on aiohttp's connections, to be lent to `AsyncOcaSms(http_client=…)` and closed by you.

    `verify`, `proxy` (an http or https URL), `trust_env` and the other `options` are those of `httpx.AsyncClient`.
    Certificates and proxies come from the environment as with httpx. There is no time-out unless you give `timeout`,
    and no limit on connections: `AsyncOcaSms` bounds both.

    The requests do not pass through httpx's own transport. So pytest-httpx, vcrpy and respx in its default mode do not
    see them, and a test that uses one of these would send for real. Test against the sandbox instead, or lend
    `httpx.AsyncClient(transport=httpx.MockTransport(…))`. Event hooks, mounts, Sentry, ddtrace and respx with
    `using="httpx"` see each request; without any of them it goes straight to aiohttp.

    `ValueError` for a proxy that aiohttp cannot use. `TypeError` for `cert`, `limits`, `http1` and `http2`, which would
    have no effect. `OSError` for certificates of the environment that cannot be read.
    """
    if unknown := {"cert", "limits", "http1", "http2"} & options.keys():
        raise TypeError(
            f"aiohttp_client takes no {min(unknown)}: a certificate belongs into the SSLContext given as verify, the "
            "slots of AsyncOcaSms bound the connections, and they speak HTTP/1.1"
        )
    context = tls_context(verify, trust_env=trust_env)
    defaults: dict[str, Any] = {
        "timeout": None,
        "transport": _Transport(context, make_chooser(proxy, trust_env=trust_env)),
        "trust_env": trust_env,
    }
    return _Client(**(defaults | options))


class _Client(httpx.AsyncClient):
    """An `httpx.AsyncClient` that sends straight to its transport if nothing else that a client does is asked for.

    That saves a third of the time of a request: cookies, redirects, credentials and time measurement.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        direct = options["transport"]
        self._direct = direct if isinstance(direct, _Transport) and not options.get("mounts") else None

    def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: Any = httpx.USE_CLIENT_DEFAULT,
        follow_redirects: Any = httpx.USE_CLIENT_DEFAULT,
    ) -> Coroutine[Any, Any, httpx.Response]:
        """Return the answer to a request that is sent as it is."""
        plain = stream and auth is None and follow_redirects is False
        if self._direct is None or not plain or self.is_closed or any(self.event_hooks.values()) or is_patched():
            return super().send(request, stream=stream, auth=auth, follow_redirects=follow_redirects)
        request.extensions.setdefault("timeout", self.timeout.as_dict())
        return self._direct.handle_async_request(request)


class _Transport(AiohttpTransport, ExactConnectErrors):
    """httpx-aiohttp's transport with its own way to and from aiohttp.

    httpx-aiohttp's table of errors calls a reset after the request «could not connect». Its conversion of requests and
    answers takes a fifth of the time of a send: it decodes each header several times, and reads the body through three
    generators.
    """

    def __init__(self, context: ssl.SSLContext, choose: Choose) -> None:
        super().__init__(verify=context)
        self._choose = choose
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._loop is not (loop := asyncio.get_running_loop()):  # a session lives and dies with its loop
            self._leave_session_of_parent()
            self._loop, self.client = loop, open_session(self.ssl_context, keepalive=KEEPALIVE)
        steps = Steps(request.extensions.get("trace"))
        STEPS.set(steps)  # this task sends one request at a time
        try:
            response = await self._request(cast(aiohttp.ClientSession, self.client), request)
        except Exception as error:
            if error is steps.interruption:
                raise
            mapped = _map(error, request)  # no exception of aiohttp's may come out
            if steps.failure is not None:  # the trace heard aiohttp's, and would not know this one
                await steps.report_failure(mapped)
        else:
            return httpx.Response(
                response.status,
                headers=list(response.raw_headers),
                stream=_Stream(response, request),
                request=request,
                extensions={"http_version": b"HTTP/1.1", "reason_phrase": (response.reason or "").encode()},
            )
        finally:
            steps.forget()
        # Raised here, so that aiohttp's own is not its context: that one holds the request's headers and the answer.
        raise mapped

    def _request(self, session: aiohttp.ClientSession, request: httpx.Request) -> Awaitable[aiohttp.ClientResponse]:
        headers = _decode(request.headers)
        proxy = self._choose(request.url)
        if proxy is not None and request.url.scheme == "http" and CREDENTIALS in proxy.headers:
            # aiohttp adds them to a CONNECT alone.
            headers = [*headers, (CREDENTIALS, proxy.headers[CREDENTIALS])]
        content: bytes | httpx.AsyncByteStream | None
        try:
            content = request.content or None
        except httpx.RequestNotRead:  # a stream of unknown length: aiohttp itself says that it comes in chunks
            content = cast(httpx.AsyncByteStream, request.stream)
            headers = [pair for pair in headers if pair[0].lower() != "transfer-encoding"]
        return session.request(
            request.method,
            str(request.url),
            headers=headers,
            data=content,
            allow_redirects=False,
            auto_decompress=False,
            timeout=_time_outs(**request.extensions.get("timeout", {})),
            server_hostname=request.extensions.get("sni_hostname"),
            proxy=None if proxy is None else str(proxy.url),
            proxy_headers=None if proxy is None else proxy.headers,
        )

    async def aclose(self) -> None:
        """Close the session, unless it is the one of the process before a fork."""
        self._leave_session_of_parent()
        await super().aclose()

    def _leave_session_of_parent(self) -> None:
        if self._pid != os.getpid():
            leave_to_parent(self.client)
            self._pid, self.client = os.getpid(), None


class _Stream(httpx.AsyncByteStream):
    """An answer's body, whose errors are httpx's. It is its own iterator: a loop keeps a list of all generators."""

    def __init__(self, response: aiohttp.ClientResponse, request: httpx.Request) -> None:
        self._response = response
        self._request = request

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._response.content.at_eof():
            raise StopAsyncIteration
        try:
            chunk = await self._response.content.readany()
        except Exception as error:  # noqa: BLE001 - as above
            broken = httpx.ReadError(type(error).__name__, request=self._request)
        else:
            if chunk:
                return chunk
            raise StopAsyncIteration
        raise broken  # here, for the same reason as above

    async def aclose(self) -> None:
        if not self._response.closed:  # an answer that was read to its end has given its connection back
            self._response.release()  # the connection of any other is closed
            await self._response.wait_for_close()


def _decode(headers: httpx.Headers) -> list[tuple[str, str]]:
    """Return headers as httpx reads them: it tries UTF-8 first, unless told otherwise, and to ask it takes 4 µs."""
    flat = [*chain.from_iterable(headers.raw)]
    try:
        texts = [*map(bytes.decode, flat)]
    except UnicodeDecodeError:
        texts = [part.decode(headers.encoding) for part in flat]
    return [*zip(texts[::2], texts[1::2], strict=True)]


@functools.lru_cache(maxsize=8)
def _time_outs(
    connect: float | None = None, read: float | None = None, write: float | None = None, pool: float | None = None
) -> aiohttp.ClientTimeout:
    """Return httpx's time-outs as aiohttp's, which has none for writing."""
    del write
    return aiohttp.ClientTimeout(sock_connect=connect, sock_read=read, connect=pool)


def _map(error: Exception, request: httpx.Request) -> httpx.TransportError:
    """Return httpx's error for one of aiohttp's: «could not connect» if that is proven, and a read error otherwise."""
    kind: type[httpx.TransportError] = httpx.ReadError
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        kind = httpx.ConnectError
    elif isinstance(error, aiohttp.ClientHttpProxyError):
        kind = httpx.ProxyError
    elif isinstance(error, TimeoutError):
        kind = httpx.ReadTimeout
    mapped = kind(type(error).__name__, request=request)
    # The reason is in the error of the system or of the TLS library. aiohttp's other errors hold the request, or quote
    # the answer.
    system = error if isinstance(error, OSError) else None
    mapped.__cause__ = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or system
    return mapped

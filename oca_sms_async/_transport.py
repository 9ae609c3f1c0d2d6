"""One request over httpx and its answer, bounded in time and in size; or the one error that says whether it left."""

import asyncio
import contextlib
import os
import socket
import ssl
import zlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple, cast

import httpx
from httpx import _utils as httpx_utils  # its rules for proxies and NO_PROXY have no public name

from oca_sms_async._errors import ConnectionFailedError, DeliveryUnknownError, ExpiredError, OcaSmsError, chain, freed

# A server's idle time-out is 5 s at the least (Node's default). A connection reused at that very moment dies under its
# request, and then nobody knows whether the message was taken; so ours ends well before.
KEEPALIVE: Final = 2.5
_PROOF: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Reply(NamedTuple):
    """An answer: HTTP status, headers, and the decompressed body, which is None if it was too long or undecodable."""

    status_code: int
    headers: httpx.Headers
    body: bytes | None


Client = httpx.AsyncClient | httpx.AsyncBaseTransport


async def exchange(
    client: Client, request: httpx.Request, *, seconds: float, deadline: float | None, max_body: int
) -> Reply:
    """Return the answer to a request, first byte to last within `seconds` and before `deadline` (the loop's time)."""
    until = asyncio.get_running_loop().time() + seconds
    expires = deadline is not None and deadline < until
    request.extensions["trace"] = progress = _Progress()
    response = None
    try:
        async with asyncio.timeout_at(deadline if expires else until) as bound:
            try:
                response = await _sent(client, request)
            except BaseException:
                await progress.close_half_open()
                raise
            try:
                body = await _read(response, max_body)
            finally:
                await response.aclose()
    except Exception as error:  # noqa: BLE001 - a lent transport may raise anything, and all of it is mapped by this table
        if bound.expired():
            unsent = progress.connecting
        else:
            unsent = response is None and isinstance(error, _PROOF) and _is_honest(client, request.url)
        raise _error(error, unsent=unsent, expired=expires and bound.expired()) from freed(error)
    return Reply(response.status_code, response.headers, body)


async def _sent(client: Client, request: httpx.Request) -> httpx.Response:
    if isinstance(client, httpx.AsyncClient):
        return await client.send(request, stream=True, auth=None, follow_redirects=False)
    # Cookies, hooks, redirects and the rest that a client does, at 35 µs, are not for this gateway.
    return await client.handle_async_request(request)


def _is_honest(client: Client, url: httpx.URL) -> bool:
    """Tell whether «could not connect» is proof with this client: other transports say it of a reset after the
    request.
    """
    transport = client
    if isinstance(client, httpx.AsyncClient):
        transport = client._transport_for_url(url)  # noqa: SLF001 - which one serves a lent client's URL has no public name
    return isinstance(transport, httpx.AsyncHTTPTransport | Honest)


def _error(error: Exception, *, unsent: bool, expired: bool) -> OcaSmsError:
    if expired:
        return ExpiredError("the message expired while its request was under way", may_have_been_sent=not unsent)
    if unsent:
        return ConnectionFailedError(f"no connection to the gateway came about: {_reason(error)}")
    return DeliveryUnknownError(f"the gateway's answer did not arrive ({type(error).__name__})")


def _reason(error: Exception) -> str:
    for link in chain(error):
        match link:
            case ssl.SSLCertVerificationError():
                return f"the certificate is not trusted ({link.verify_message})"
            case ssl.SSLError():
                return "the TLS handshake failed"
            case socket.gaierror():
                return "the host's name was not found"
            case TimeoutError() | httpx.TimeoutException():
                return "it took too long"
            case OSError(errno=int(number)):
                return os.strerror(number)
    return type(error).__name__


class _Progress:
    """Listens to httpcore for whether a request still waits for its connection; other transports tell it nothing."""

    def __init__(self) -> None:
        self.connecting = False
        self._half_open: Any = None

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event.startswith("connection.connect_"):
            self.connecting = True
            self._half_open = info.get("return_value")
        elif event.endswith(".send_request_headers.started"):
            self.connecting = False
            self._half_open = None

    async def close_half_open(self) -> None:
        """Close the socket that httpcore forgets when it is cancelled within a TLS handshake."""
        if self._half_open is not None:
            await self._half_open.aclose()


async def _read(response: httpx.Response, limit: int) -> bytes | None:
    """Return the body, decompressed, or None where it is longer than `limit` or cannot be decompressed.

    httpx's own decoders would unpack a chunk whole before anybody could look at its length.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32) if encoding in {"gzip", "x-gzip", "deflate"} else None
    if unpack is None and encoding not in {"identity", ""}:
        return None
    body = bytearray()
    async for chunk in response.stream:  # type: ignore[union-attr] # an AsyncClient's responses have an async stream
        try:
            body += unpack.decompress(chunk, limit - len(body) + 1) if unpack else chunk
        except zlib.error:
            return None
        if len(body) > limit:
            return None
    return bytes(body) if unpack is None or unpack.eof else None


class Honest(httpx.AsyncBaseTransport):
    """A transport that says «could not connect» only where no byte of the request left."""


class Connections(Honest):
    """The default transport: for each request in flight a transport of its own that holds one connection.

    httpx's pool scans all of its connections for every request, and a request cancelled at the wrong moment blocks it
    for ever. Here a request that was cancelled or failed takes its connection with it. The most recently used one
    serves next; idle ones are closed after `KEEPALIVE` seconds.
    """

    def __init__(self, url: httpx.URL) -> None:
        self._proxy = _environment_proxy(url)
        # Without TLS nothing reads the context; one that trusts nobody spares the 40 ms of loading certificates.
        tls = url.scheme == "https" or self._proxy is not None
        self._ssl_context = httpx.create_ssl_context() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._idle = deque[tuple[httpx.AsyncHTTPTransport, float]]()
        self._busy = set[httpx.AsyncHTTPTransport]()
        self._closing = set[asyncio.Task[None]]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        usable = False
        with contextlib.suppress(ValueError, ImportError, httpx.InvalidURL):  # their texts may quote its password
            self._new()
            usable = True
        if not usable:
            raise ValueError(
                "the proxy that the environment names cannot be used: it must be an http or https URL, "
                'or a socks5 one with pip install "httpx[socks]"'
            )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve one request on the connection used last, or on a new one."""
        if self._idle:  # it is connected, or else nearly always; to listen for that would cost 20 µs
            request.extensions.pop("trace", None)
        connection = self._take()
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            self.give_back(connection, reusable=False)
            raise
        response.stream = _Lease(self, connection, response.stream)
        return response

    async def aclose(self) -> None:
        """Close every connection, busy ones under their requests, and return when they are closed."""
        for connection in [*self._busy, *(connection for connection, _ in self._idle)]:
            self._close(connection)
        self._busy.clear()
        self._idle.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._closing:
            await asyncio.wait(self._closing)

    def give_back(self, connection: httpx.AsyncHTTPTransport, *, reusable: bool) -> None:
        """Keep the connection of an answer that was read to its end, and close any other."""
        if connection not in self._busy:
            return  # closed in the meantime
        self._busy.discard(connection)
        if not reusable:
            self._close(connection)
            return
        loop = asyncio.get_running_loop()
        self._idle.append((connection, loop.time() + KEEPALIVE))
        if self._timer is None:
            self._timer = loop.call_later(KEEPALIVE, self._close_expired)

    def _take(self) -> httpx.AsyncHTTPTransport:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # what is left of another loop can be neither used nor closed in this one
            self._loop, self._timer = loop, None
            self._busy.clear()
            self._idle.clear()
            self._closing.clear()
        connection = self._idle.pop()[0] if self._idle else self._new()
        self._busy.add(connection)
        return connection

    def _new(self) -> httpx.AsyncHTTPTransport:
        """Return a transport that connects with its first request."""
        return httpx.AsyncHTTPTransport(
            verify=self._ssl_context,
            trust_env=False,
            proxy=self._proxy,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE),
        )

    def _close_expired(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0][1] <= loop.time():
            self._close(self._idle.popleft()[0])
        self._timer = loop.call_at(self._idle[0][1], self._close_expired) if self._idle else None

    def _close(self, connection: httpx.AsyncHTTPTransport) -> None:
        """Close in a task of its own, so that a cancelled request neither waits for it nor cancels it."""
        task = asyncio.get_running_loop().create_task(_closed(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _closed(connection: httpx.AsyncHTTPTransport) -> None:
    # A connection that broke may say so once more when it is closed; its request has been told already.
    with contextlib.suppress(Exception):
        await connection.aclose()


class _Lease(httpx.AsyncByteStream):
    """The body of an answer; gives its connection back when it is closed, for reuse only if it was read to its end."""

    def __init__(self, connections: Connections, connection: httpx.AsyncHTTPTransport, stream: object) -> None:
        self._connections = connections
        self._connection = connection
        self._stream = cast(httpx.AsyncByteStream, stream)  # an asynchronous transport has no other
        self._whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk
        self._whole = True

    async def aclose(self) -> None:
        reusable = False
        try:
            if self._whole:
                await self._stream.aclose()
                reusable = True
        finally:
            self._connections.give_back(self._connection, reusable=reusable)


def environment_proxies() -> dict[str, str | None]:
    """Return the proxies of the environment's *_PROXY and NO_PROXY, None for none, by the URLs that they are for."""
    return httpx_utils.get_environment_proxies()


def _environment_proxy(url: httpx.URL) -> str | None:
    """Return the proxy that httpx itself would use for this URL."""
    mounts = {httpx_utils.URLPattern(key): proxy for key, proxy in environment_proxies().items()}
    return next((proxy for pattern, proxy in sorted(mounts.items()) if pattern.matches(url)), None)

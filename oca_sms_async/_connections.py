"""Connections of our own: one for each request in flight, none that a cancelled request has touched."""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import httpx
from httpx import _utils as httpx_utils  # its rules for proxies and NO_PROXY have no public name

from oca_sms_async._settings import is_loopback

# A server's idle time-out is 5 s at the least (Node's default). A connection reused at that very moment dies under its
# request, and then nobody knows whether the message was taken; so ours ends well before.
KEEPALIVE: Final = 2.5


class Honest(httpx.AsyncBaseTransport):
    """A transport that says «could not connect» only where no byte of the request left."""


class Connections(Honest):
    """The default transport: for each request in flight a transport of its own that holds one connection.

    httpx's pool scans all of its connections for every request, and a request cancelled at the wrong moment blocks it
    for ever. Here a request that was cancelled or failed takes its connection with it. The most recently used one
    serves next; idle ones are closed after `KEEPALIVE` seconds.
    """

    def __init__(self, url: httpx.URL) -> None:
        proxy = _environment_proxy(url)
        # Without TLS nothing reads the context; one that trusts nobody spares the 40 ms of loading certificates.
        tls = url.scheme == "https" or proxy is not None
        self._ssl_context = httpx.create_ssl_context() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._idle = deque[tuple[httpx.AsyncHTTPTransport, float]]()
        self._busy = set[httpx.AsyncHTTPTransport]()
        self._closing = set[asyncio.Task[None]]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        usable = False
        with contextlib.suppress(ValueError, ImportError, httpx.InvalidURL):  # their texts may quote its password
            if proxy is not None and url.scheme == "http" and is_loopback(url.host):
                # Plain http is allowed to this machine because it does not leave it: a proxy elsewhere is none for it.
                proxy = proxy if is_loopback(httpx.URL(proxy).host) else None
            self._proxy = proxy
            self._new()
            usable = True
        if not usable:
            raise ValueError(
                "the proxy that the environment names cannot be used: it must be an http or https URL, "
                'or a socks5 one with pip install "httpx[socks]"'
            )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve one request on the connection used last, or on a new one."""
        connection = self._reusable()
        if connection is None:
            connection = self._new()
        else:  # it is connected; to listen for that would cost 20 µs
            request.extensions.pop("trace", None)
        self._busy.add(connection)
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

    def _reusable(self) -> httpx.AsyncHTTPTransport | None:
        """Return the connection used last of those that can serve again, and close any other on the way to it."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # what is left of another loop can be neither used nor closed in this one
            self._loop, self._timer = loop, None
            self._busy.clear()
            self._idle.clear()
            self._closing.clear()
        while self._idle:
            connection, _ = self._idle.pop()
            if _is_silent(connection):
                return connection
            self._close(connection)
        return None

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


def _is_silent(connection: httpx.AsyncHTTPTransport) -> bool:
    """Tell whether an idle connection still stands and nothing came on it after its last answer.

    What did is no answer to a request of ours. httpcore looks for it in the socket alone, and would take what was read
    from there together with the last answer for the next one: the receipt of another message.
    """
    try:
        link: Any
        (link,) = connection._pool.connections  # noqa: SLF001 - no layer tells in public
        if link.has_expired():
            return False
        while not hasattr(link, "_h11_state"):  # a proxy's wraps the one that speaks
            link = link._connection  # noqa: SLF001 - as above
        unread = len(link._h11_state.trailing_data[0])  # noqa: SLF001 - as above
        stream = link._network_stream._stream  # noqa: SLF001 - as above
        while hasattr(stream, "transport_stream"):  # TLS, and perhaps that of a proxy below it
            unread += stream._read_bio.pending + stream._ssl_object.pending()  # noqa: SLF001 - as above
            stream = stream.transport_stream
        unread += len(stream._protocol.read_queue)  # noqa: SLF001 - as above
    except (AttributeError, ValueError):  # closed, or built otherwise in some version: a new one is never wrong
        return False
    return not unread


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

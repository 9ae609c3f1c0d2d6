"""Our own connections: one for each request in flight, and never one that a cancelled request has used."""

import asyncio
import contextlib
import os
import ssl
import weakref
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import httpx

from oca_sms_async._httpx_internals import connect_by, end_in_time, is_silent
from oca_sms_async._proxies import EnvironmentProxies
from oca_sms_async._tls import tls_context

# Servers close an idle connection after 5 s at the earliest (the default of Node). A connection that is used again at
# that moment dies under its request, and the message is in doubt. Ours end well before.
KEEPALIVE: Final = 2.5

# Connections of before a fork. If one were closed in the child, or collected, its socket would leave the selector that
# the parent process still waits on, and the parent's next request on it would never hear its answer.
_of_the_parent: Final = list[object]()


def own_client(base_url: httpx.URL) -> httpx.AsyncClient:
    """Return the client of an `AsyncOcaSms` without a lent one.

    It is an `httpx.AsyncClient` like any other, so mocks, hooks and tracing tools see its requests. It keeps no
    cookies, follows no redirect, adds no credentials, and reads nothing from the environment but the proxy for this
    URL. `ValueError` if that proxy cannot be used, `OSError` if `SSL_CERT_FILE` or `SSLKEYLOGFILE` cannot.
    """
    return _OwnClient(transport=Connections(base_url), trust_env=False, timeout=None)


def leave_to_parent(*connections: object) -> None:
    """Keep connections that were made before a fork as they are until this process ends."""
    _of_the_parent.extend(connections)


class ExactConnectErrors(httpx.AsyncBaseTransport):
    """A transport that raises `httpx.ConnectError` and its kin only if no byte of the request left."""


class Connections(ExactConnectErrors):
    """The default transport: it gives each request in flight a transport of its own with one connection.

    httpx's pool scans all of its connections for every request, and a request that is cancelled at the wrong moment
    blocks the pool for ever. Here the connection of a cancelled or failed request is closed. The connection used last
    serves next. Idle connections are closed after `KEEPALIVE` seconds.
    """

    def __init__(self, url: httpx.URL) -> None:
        self._proxy = EnvironmentProxies().proxy_for(url)
        # Plain http reads no certificates, so an empty context saves the 40 ms of loading them.
        tls = url.scheme == "https" or self._proxy is not None
        self._ssl_context = tls_context() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Imported with the first client: httpcore would make up a third of the package's import time.
        from oca_sms_async._network import Network  # noqa: PLC0415 - see above

        self._network = Network()
        self._idle = deque[tuple[httpx.AsyncHTTPTransport, float]]()
        self._busy = set[httpx.AsyncHTTPTransport]()
        self._closing = set[asyncio.Task[None]]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._timer: asyncio.TimerHandle | None = None
        usable = False
        with contextlib.suppress(ValueError, ImportError, httpx.InvalidURL):  # their texts may quote the password
            self._new()
            usable = True
        if not usable:
            raise ValueError(
                "the proxy that the environment names cannot be used: it must be an http or https URL, "
                'or a socks5 one with pip install "httpx[socks]"'
            )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve one request on the connection used last, or on a new one."""
        connection, trace = self._reusable(), None
        if connection is None:
            connection = self._new()
        else:  # it is connected already, and a trace of the rest by httpcore costs 20 µs
            trace = request.extensions.pop("trace", None)
        self._busy.add(connection)
        try:
            if trace is not None:
                await trace("connections.send_request_headers.started", {"request": request})
            response = await connection.handle_async_request(request)
        except BaseException:
            self.give_back(connection, reusable=False)
            raise
        response.stream = _Lease(self, connection, response)
        if response.has_redirect_location:
            # No redirect is followed. httpx would still build its request, and fail on a URL that cannot be read.
            del response.headers["location"]
        return response

    async def aclose(self) -> None:
        """Close every connection, also under a request, and return when all of the running loop are closed."""
        self._leave_those_of_parent()
        if self._loop is not asyncio.get_running_loop():
            self._closing.clear()  # tasks of another loop do not end while this one runs
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
        """Return the connection used last that can serve again; close each one that cannot."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # connections of another loop can be neither used nor closed in this one
            self._leave_those_of_parent()
            self._loop, self._timer = loop, None
            self._busy.clear()
            self._idle.clear()
            self._closing.clear()
        while self._idle:
            connection, _ = self._idle.pop()
            if is_silent(connection):
                return connection
            self._close(connection)
        return None

    def _leave_those_of_parent(self) -> None:
        if self._pid != os.getpid():
            leave_to_parent(*self._busy, *self._idle, *self._closing)
            self._pid = os.getpid()
            self._busy.clear()
            self._idle.clear()

    def _new(self) -> httpx.AsyncHTTPTransport:
        """Return a transport that connects with its first request."""
        transport = httpx.AsyncHTTPTransport(
            verify=self._ssl_context,
            trust_env=False,
            proxy=self._proxy,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE),
        )
        connect_by(transport, self._network)
        end_in_time(transport)
        return transport

    def _close_expired(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0][1] <= loop.time():
            self._close(self._idle.popleft()[0])
        self._timer = loop.call_at(self._idle[0][1], self._close_expired) if self._idle else None

    def _close(self, connection: httpx.AsyncHTTPTransport) -> None:
        """Close in a separate task, so that a cancelled request neither waits for it nor cancels it."""
        task = asyncio.get_running_loop().create_task(_close_quietly(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _close_quietly(connection: httpx.AsyncHTTPTransport) -> None:
    # A broken connection may raise again when it is closed. Its request has the error already.
    with contextlib.suppress(Exception):
        await connection.aclose()


class _Lease(httpx.AsyncByteStream):
    """The body of an answer. Closing it gives the connection back, for reuse only if the body was read to its end."""

    def __init__(
        self, connections: Connections, connection: httpx.AsyncHTTPTransport, response: httpx.Response
    ) -> None:
        self._connections = connections
        self._connection = connection
        self._stream = cast(httpx.AsyncByteStream, response.stream)  # an asynchronous transport has no other
        self._response = weakref.ref(response)
        self._whole = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = aiter(self._stream)
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            self._whole = True
            raise

    async def aclose(self) -> None:
        reusable = False
        try:
            if self._whole:
                await self._stream.aclose()
                reusable = True
        finally:
            self._connections.give_back(self._connection, reusable=reusable)
            if (response := self._response()) is not None:
                # The client has put a stream round this one that holds the response. Only the garbage collector would
                # end such a cycle: 38 objects of each request would wait for it.
                response.stream = self


class _NoCookies(httpx.Cookies):
    """A jar that keeps no cookie. httpx's own takes 15 µs for each answer without one, and keeps them all."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Leave the answer's cookies alone."""


class _OwnClient(httpx.AsyncClient):
    """An `httpx.AsyncClient` without cookies."""

    cookies: Any = _NoCookies()

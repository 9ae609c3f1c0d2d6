"""One request over httpx and its answer, bounded in time and size, or the one error that says whether it left."""

import asyncio
import os
import socket
import ssl
import sys
import zlib
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx

from oca_sms_async._connections import ExactConnectErrors
from oca_sms_async._errors import ConnectionFailedError, DeliveryUnknownError, ExpiredError, OcaSmsError
from oca_sms_async._httpx_internals import transport_of
from oca_sms_async._scrub import chain, scrub

_PROOF: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Reply(NamedTuple):
    """An answer: HTTP status, headers and decompressed body, which is None if it was too long or undecodable."""

    status_code: int
    headers: httpx.Headers
    body: bytes | None


UnderWay = dict[
    asyncio.Timeout, asyncio.AbstractEventLoop
]  # the bound of each request, so that it can be ended earlier


async def exchange(
    client: httpx.AsyncClient,
    request: httpx.Request,
    *,
    seconds: float,
    deadline: float | None,
    max_body: int,
    under_way: UnderWay,
) -> Reply:
    """Return the answer to a request, first byte to last within `seconds` and before `deadline` (the loop's time)."""
    now = asyncio.get_running_loop().time()
    until = now + seconds if deadline is None else min(now + seconds, deadline)
    request.extensions["trace"] = trace = _Trace()
    with _Verdict(client, request, trace, deadline) as verdict:
        async with _Bound(until, under_way, trace) as verdict.bound:
            response = await client.send(request, stream=True, auth=None, follow_redirects=False)
            trace.sent = True
            async with aclosing(response):
                body = await _read(response, max_body)
    return Reply(response.status_code, response.headers, body)


class _Trace:
    """The `trace` extension of a request: httpcore calls it with each step, and so does our aiohttp transport.

    `connecting` is True once the request waits for its connection, `sent` once part of it may have left. Other
    transports do not call it.
    """

    def __init__(self) -> None:
        self.connecting = False
        self.sent = False
        self._half_open: Any = None

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event.startswith("connection.connect_"):
            self.connecting = True
            self._half_open = info.get("return_value")
        elif event.endswith(".send_request_headers.started") and info["request"].method != b"CONNECT":
            self.sent = True
            self._half_open = None

    async def close_half_open(self) -> None:
        """Close the socket of a connection that is not ready.

        httpcore forgets it when it is cancelled during a TLS handshake.
        """
        if self._half_open is not None:
            await self._half_open.aclose()


class _Bound:
    """An async context manager: `asyncio.timeout_at`, kept in `under_way` so that closing the client can end it."""

    def __init__(self, until: float, under_way: UnderWay, trace: _Trace) -> None:
        self._timeout = asyncio.timeout_at(until)
        self._under_way = under_way
        self._trace = trace

    async def __aenter__(self) -> asyncio.Timeout:
        await self._timeout.__aenter__()
        self._under_way[self._timeout] = asyncio.get_running_loop()
        return self._timeout

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                await self._trace.close_half_open()
        finally:
            del self._under_way[self._timeout]
            await self._timeout.__aexit__(kind, error, traceback)


class _Verdict:
    """A context manager that turns an exception of a request into the error that says whether it left."""

    bound: asyncio.Timeout

    def __init__(
        self, client: httpx.AsyncClient, request: httpx.Request, trace: _Trace, deadline: float | None
    ) -> None:
        self._client = client
        self._request = request
        self._trace = trace
        self._deadline = deadline
        self._outer = sys.exception()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception):
            return
        unsent = self._is_unsent(error)
        # Closing the client moves the bound nearer, and then it is not the deadline that ended the request.
        if self.bound.expired() and self.bound.when() == self._deadline:
            told: OcaSmsError = ExpiredError(
                "the message expired while its request was under way", may_have_been_sent=not unsent
            )
        elif unsent:
            told = ConnectionFailedError(f"no connection to the gateway came about: {_reason(error)}")
        else:
            told = DeliveryUnknownError(f"the gateway's answer did not arrive ({type(error).__name__})")
        raise told from scrub(error, self._outer)

    def _is_unsent(self, error: Exception) -> bool:
        if self._trace.sent:
            return False
        # Other transports say «could not connect» of a reset after the request, too.
        transport = transport_of(self._client, self._request.url)
        if not isinstance(transport, httpx.AsyncHTTPTransport | ExactConnectErrors):
            return False
        return self._trace.connecting or isinstance(error, _PROOF)


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


async def _read(response: httpx.Response, limit: int) -> bytes | None:
    """Return the body, decompressed.

    Return None for a body that is longer than `limit`, compressed or not, and for one that cannot be decompressed.
    httpx's own decoders would decompress a chunk whole before its length can be checked.
    """
    if response.is_stream_consumed:  # a hook of a lent client has read it, and httpx has kept it
        return response.content if len(response.content) <= limit else None
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32) if encoding in {"gzip", "x-gzip", "deflate"} else None
    if unpack is None and encoding not in {"identity", ""}:
        return None
    body, received = bytearray(), 0
    async for chunk in response.stream:  # type: ignore[union-attr] # an AsyncClient's responses have an async stream
        received += len(chunk)
        try:
            if unpack is None:
                body += chunk
            elif not unpack.eof:  # bytes after the end of the compressed data are dropped
                body += unpack.decompress(chunk, limit - len(body) + 1)
        except zlib.error:
            return None
        if max(len(body), received) > limit:
            return None
    return bytes(body) if unpack is None or unpack.eof else None

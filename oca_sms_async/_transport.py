"""One request over httpx and its answer, bounded in time and size, or the one error that says whether it left."""

import asyncio
import functools
import os
import socket
import ssl
import sys
import zlib
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import httpx

from oca_sms_async._call import CallOptions
from oca_sms_async._connections import ExactConnectErrors
from oca_sms_async._errors import ConnectionFailedError, DeliveryUnknownError, ExpiredError, OcaSmsError
from oca_sms_async._httpx_internals import BOUND, transport_of
from oca_sms_async._scrub import chain, scrub
from oca_sms_async._trace import Trace

_PROOF: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# OpenSSL's words for an answer that is no TLS; the last one is that of OpenSSL 3.2 and later.
_NO_TLS: Final = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}


class Reply(NamedTuple):
    """An answer: HTTP status, headers and decompressed body, which is None if it was too long or undecodable."""

    status_code: int
    headers: httpx.Headers
    body: bytes | None


# The bound of each request, so that it can be ended earlier.
UnderWay = dict[asyncio.Timeout, asyncio.AbstractEventLoop]


async def exchange(
    client: httpx.AsyncClient,
    request: httpx.Request,
    options: CallOptions,
    *,
    max_body: int,
    under_way: UnderWay,
    gate: Callable[[CallOptions], Awaitable[None]] | None = None,
) -> Reply:
    """Return the answer to a request, first byte to last within the `seconds` and before the deadline of `options`.

    `gate` is awaited right before the first byte if the request is late, for example because the name server stalled.
    It needs a transport of ours or of httpx. Its time does not count, but the deadline holds. An `OcaSmsError` of the
    gate comes out as it is.
    """
    outer, loop = sys.exception(), asyncio.get_running_loop()
    now, deadline = loop.time(), options.until
    until = now + options.seconds
    timeout = asyncio.timeout_at(until if deadline is None else min(until, deadline))
    trace = Trace(now, None if gate is None else functools.partial(_pause, timeout, until, options, gate))
    request.extensions["trace"] = trace
    request.extensions[BOUND] = timeout
    under_way[timeout] = loop
    try:
        async with timeout:
            response = await client.send(request, stream=True, auth=None, follow_redirects=False)
            trace.sent = True
            try:
                body = await _read(response, max_body)
            finally:
                if not response.is_closed:
                    # As `response.aclose` does, but for a context manager of httpx that takes 3 µs.
                    response.is_closed = True
                    await response.stream.aclose()  # type: ignore[union-attr] # an AsyncClient's have an async stream
    except BaseException as error:
        del under_way[timeout]
        await trace.close_half_open()
        # Closing the client moves the time-out nearer, and then it is not the deadline that ended the request.
        too_late = timeout.expired() and timeout.when() == deadline
        if isinstance(error, Exception) and (told := _judge(error, client, request, trace, too_late=too_late)):
            raise told from scrub(error, outer)
        raise
    del under_way[timeout]
    return Reply(response.status_code, response.headers, body)


async def _pause(
    bound: asyncio.Timeout, until: float, options: CallOptions, gate: Callable[[CallOptions], Awaitable[None]]
) -> None:
    """Await the gate while only the deadline runs, and then let the time-out go on."""
    loop, deadline = asyncio.get_running_loop(), options.until
    since = loop.time()
    bound.reschedule(deadline)
    await gate(options)
    if bound.when() == deadline:  # else closing the client has moved it, and the request ends at once
        until += loop.time() - since
        bound.reschedule(until if deadline is None else min(until, deadline))


def _judge(
    error: Exception, client: httpx.AsyncClient, request: httpx.Request, trace: Trace, *, too_late: bool
) -> OcaSmsError | None:
    """Return the error that says whether the request left; `None` for an error of the gate, which says so itself."""
    unsent = trace.is_cause(error) or _is_exact(error, client, request, trace)
    if unsent and isinstance(error, OcaSmsError):  # the gate's
        return None
    if too_late:
        return ExpiredError("the message expired while its request was under way", may_have_been_sent=not unsent)
    if unsent:
        return ConnectionFailedError(f"no connection to the gateway came about: {_reason(error)}")
    return DeliveryUnknownError(f"the gateway's answer did not arrive ({type(error).__name__})")


def _is_exact(error: Exception, client: httpx.AsyncClient, request: httpx.Request, trace: Trace) -> bool:
    """Tell whether an exception by itself proves that the request did not leave.

    Only a transport of ours, or httpx's own, may say so, and only of this request: a hook may raise the same
    exception about another connection. Other transports say «could not connect» of a reset after the request.
    """
    if trace.sent or not isinstance(error, _PROOF):
        return False
    try:
        if error.request is not request:
            return False
    except RuntimeError:  # it is about no request
        return False
    transport = transport_of(client, request.url)
    return type(transport) is httpx.AsyncHTTPTransport or isinstance(transport, ExactConnectErrors)


def _reason(error: Exception) -> str:
    """Return why there was no connection, in words of ours or of the system."""
    return next((reason for link in chain(error) if (reason := _describe(link))), type(error).__name__)


def _describe(error: BaseException) -> str | None:
    reason: str | None = None
    match error:
        case ssl.SSLCertVerificationError():
            reason = f"the certificate is not trusted ({error.verify_message})"
        case ssl.SSLError(reason=code) if code in _NO_TLS:
            reason = "the other side does not speak TLS: is it an http port, or an http proxy given as https?"
        case ssl.SSLError():
            reason = "the TLS handshake failed"
        case socket.gaierror(errno=socket.EAI_AGAIN):
            reason = "the name server did not answer"
        case socket.gaierror():
            reason = "the host's name was not found"
        case httpx.ProxyError():
            reason = "the proxy refused"
        case TimeoutError() | httpx.TimeoutException():
            reason = "it took too long"
        case OSError(errno=int(number)):
            reason = os.strerror(number)
    return reason


async def _read(response: httpx.Response, limit: int) -> bytes | None:
    """Return the body, decompressed; None if it is longer than `limit`, or cannot be decompressed."""
    if response.is_stream_consumed:  # a hook of a lent client has read it, and httpx has kept it
        return response.content if len(response.content) <= limit else None
    # Out of the raw headers: to look one up by its name takes httpx 4 µs.
    encodings = [value for name, value in response.headers.raw if name.lower() == b"content-encoding"]
    encoding = b", ".join(encodings).strip().lower()
    if encoding not in {b"identity", b""}:
        return await _decompress(response, limit) if encoding in {b"gzip", b"x-gzip", b"deflate"} else None
    body = bytearray()
    async for chunk in response.stream:  # type: ignore[union-attr] # an AsyncClient's responses have an async stream
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


async def _decompress(response: httpx.Response, limit: int) -> bytes | None:
    """Return a compressed body. Neither form of it may be longer than `limit`.

    httpx's own decoders would decompress a chunk whole before its length can be checked.
    """
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    body, received = bytearray(), 0
    async for chunk in response.stream:  # type: ignore[union-attr] # as above
        received += len(chunk)
        try:
            body += unpack.decompress(chunk, limit - len(body) + 1)  # it drops bytes after the end
        except zlib.error:
            return None
        if max(len(body), received) > limit:
            return None
    return bytes(body) if unpack.eof else None

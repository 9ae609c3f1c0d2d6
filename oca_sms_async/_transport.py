"""One request over httpx and its answer, bounded in time and in size; or the one error that says whether it left."""

import asyncio
import os
import socket
import ssl
import sys
import zlib
from typing import Any, Final, NamedTuple

import httpx

from oca_sms_async._connections import Honest
from oca_sms_async._errors import ConnectionFailedError, DeliveryUnknownError, ExpiredError, OcaSmsError
from oca_sms_async._scrub import chain, scrub

_PROOF: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Reply(NamedTuple):
    """An answer: HTTP status, headers, and the decompressed body, which is None if it was too long or undecodable."""

    status_code: int
    headers: httpx.Headers
    body: bytes | None


Client = httpx.AsyncClient | httpx.AsyncBaseTransport
UnderWay = dict[asyncio.Timeout, asyncio.AbstractEventLoop]  # the bound of each request, for whoever ends it earlier


async def exchange(
    client: Client,
    request: httpx.Request,
    *,
    seconds: float,
    deadline: float | None,
    max_body: int,
    under_way: UnderWay,
) -> Reply:
    """Return the answer to a request, first byte to last within `seconds` and before `deadline` (the loop's time)."""
    loop, outer = asyncio.get_running_loop(), sys.exception()
    until = loop.time() + seconds if deadline is None else min(loop.time() + seconds, deadline)
    request.extensions["trace"] = progress = _Progress()
    transport, response = _transport_of(client, request.url), None
    try:
        async with asyncio.timeout_at(until) as bound:
            under_way[bound] = loop
            try:
                response = await _sent(client, transport, request)
            except BaseException:
                await progress.close_half_open()
                raise
            try:
                body = await _read(response, max_body)
            finally:
                await response.aclose()
    except Exception as error:  # noqa: BLE001 - a lent transport may raise anything, and all of it is mapped by this table
        # Other transports say «could not connect» of a reset after the request, too; and so may a hook, or a second
        # attempt of a transport's own.
        honest = isinstance(transport, httpx.AsyncHTTPTransport | Honest) and response is None and not progress.sent
        unsent = honest and (progress.connecting or isinstance(error, _PROOF))
        expired = bound.expired() and bound.when() == deadline  # and not moved nearer by who closes the client
        raise _error(error, unsent=unsent, expired=expired) from scrub(error, outer)
    finally:
        del under_way[bound]
    return Reply(response.status_code, response.headers, body)


def _transport_of(client: Client, url: httpx.URL) -> httpx.AsyncBaseTransport:
    if isinstance(client, httpx.AsyncClient):
        return client._transport_for_url(url)  # noqa: SLF001 - which one serves a lent client's URL has no public name
    return client


async def _sent(client: Client, transport: httpx.AsyncBaseTransport, request: httpx.Request) -> httpx.Response:
    if isinstance(client, httpx.AsyncClient):
        if not isinstance(transport, Honest) or any(client.event_hooks.values()):
            return await client.send(request, stream=True, auth=None, follow_redirects=False)
        request.extensions["timeout"] = client.timeout.as_dict()
    # Of ours nothing else that a client does is wanted, and looking for cookies in the answer alone costs 30 µs.
    return await transport.handle_async_request(request)


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
    """Listens to httpcore, and to our fast transport, for how far a request is: whether it waits for its connection, or
    has been sent at least in part. Other transports tell it nothing.
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
        """Close the socket that httpcore forgets when it is cancelled within a TLS handshake."""
        if self._half_open is not None:
            await self._half_open.aclose()


async def _read(response: httpx.Response, limit: int) -> bytes | None:
    """Return the body, decompressed, or None where it is longer than `limit`, on the wire or unpacked, or cannot be
    decompressed.

    httpx's own decoders would unpack a chunk whole before anybody could look at its length.
    """
    if response.is_stream_consumed:  # a lent client's hook has read it, and httpx has kept it
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
            elif not unpack.eof:  # what comes after the end is kept nowhere
                body += unpack.decompress(chunk, limit - len(body) + 1)
        except zlib.error:
            return None
        if max(len(body), received) > limit:
            return None
    return bytes(body) if unpack is None or unpack.eof else None

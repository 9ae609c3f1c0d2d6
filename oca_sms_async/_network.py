"""httpcore's network over the event loop's own transports.

anyio makes the connections. It then takes a turn of the event loop for each step, and httpcore a time-out: together
they are a quarter of the time of a send.
"""

import contextlib
from collections.abc import Iterable
from ssl import SSLContext
from typing import Any, Final

import anyio
import httpcore
from anyio.abc import ByteStream

from oca_sms_async._httpx_internals import replace_stream, stream_within
from oca_sms_async._transport_stream import TransportStream

_LOST: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError)


class Network(httpcore.AnyIOBackend):
    """httpcore's backend for asyncio, with quicker connections."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature, here and below
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return a connection to the address of the host that answers first."""
        slow = await super().connect_tcp(host, port, timeout, local_address, socket_options)
        stream = replace_stream(slow, TransportStream)
        return slow if stream is None else _Connection(slow, stream, stream)


class _Connection(httpcore.AsyncNetworkStream):
    """A connection that knows no time-outs: `exchange` bounds each request as a whole.

    It keeps the head of a request until the body comes, so that both leave in one packet. `stream` is that of `slow`,
    and `socket` the one beneath all TLS.
    """

    def __init__(self, slow: httpcore.AsyncNetworkStream, stream: ByteStream, socket: TransportStream) -> None:
        self._slow = slow
        self._stream = stream
        self._socket = socket
        self._head = b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send bytes together with those that were kept, or keep them; `read` sends what is still kept."""
        del timeout
        if buffer and self._head:
            await self._send(buffer)
        elif buffer:
            self._head = buffer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Return the next bytes; none at the end of the connection."""
        del timeout
        if self._head:
            with contextlib.suppress(httpcore.WriteError):  # as httpcore does: an answer may have come all the same
                await self._send(b"")
        try:
            return await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            return b""
        except _LOST as error:
            raise httpcore.ReadError(str(error)) from error

    async def aclose(self) -> None:
        """Close the connection. A head that was kept never leaves."""
        await self._slow.aclose()

    async def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        """Return the connection with TLS on it."""
        slow = await self._slow.start_tls(ssl_context, server_hostname, timeout)
        return _Connection(slow, stream_within(slow), self._socket)

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks about a connection.

        It asks three times a request whether one is readable, and means its end. The guard before a connection serves
        again asks the system too.
        """
        return self._socket.has_news if info == "is_readable" else self._slow.get_extra_info(info)

    async def _send(self, buffer: bytes) -> None:
        data, self._head = self._head + buffer, b""
        try:
            await self._stream.send(data)
        except _LOST as error:
            raise httpcore.WriteError(str(error)) from error

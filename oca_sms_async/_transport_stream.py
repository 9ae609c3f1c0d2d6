"""anyio's byte stream of a socket, without the turns of the event loop that anyio takes for each step."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import ByteStream

from oca_sms_async._sockets import SocketProbe

_FULL: Final = 2**18  # bytes that may wait here for their reader; beyond that the other side has to wait


class TransportStream(asyncio.Protocol, ByteStream):
    """The bytes of a connected transport of the event loop, for one request at a time.

    `early` are the bytes that came already, `attributes` those of the stream before. It reads on while nobody asks, so
    bytes that no request has asked for are here, or still in the socket. To send never waits: a request is small, and
    its answer is waited for anyway.
    """

    def __init__(self, transport: asyncio.Transport, early: bytes, attributes: Mapping[Any, Callable[[], Any]]) -> None:
        self._transport = transport
        self._probe = SocketProbe()
        self._attributes = attributes
        self._received = bytearray(early)
        self._news: asyncio.Future[None] | None = None
        self._ended = transport.is_closing()
        self._closed = False
        self._failure: Exception | None = None
        transport.set_protocol(self)
        transport.resume_reading()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The socket and its addresses."""
        return self._attributes

    @property
    def has_news(self) -> bool:
        """True if the loop has read bytes, or the end, that were not received yet."""
        return bool(self._received) or self._ended

    def has_unread(self) -> bool:
        """Tell whether there are such bytes here, or still in the socket."""
        return self.has_news or self._probe.is_readable(self._transport)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes. `EndOfStream`, `ClosedResourceError` after `aclose`, or `BrokenResourceError`."""
        if not self.has_news:
            self._news = asyncio.get_running_loop().create_future()
            try:
                await self._news
            finally:
                self._news = None
        if self._received:
            was_full = len(self._received) > _FULL
            data = bytes(self._received[:max_bytes])
            del self._received[:max_bytes]
            if was_full and len(self._received) <= _FULL:
                self._transport.resume_reading()
            return data
        if self._closed:
            raise ClosedResourceError
        if self._failure is not None:
            raise BrokenResourceError from self._failure
        raise EndOfStream

    async def send(self, item: bytes) -> None:
        """Send bytes. `ClosedResourceError` after `aclose`, and `BrokenResourceError` on a lost connection."""
        if self._closed:
            raise ClosedResourceError
        if self._transport.is_closing():
            raise BrokenResourceError from self._failure
        self._transport.write(item)

    async def send_eof(self) -> None:
        """Say that no more bytes follow."""
        self._transport.write_eof()

    async def aclose(self) -> None:
        """Close the connection at once."""
        self._closed = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Keep bytes for their reader."""
        self._received += data
        if len(self._received) > _FULL:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """Hear that the other side sends no more: the transport closes itself."""
        self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the connection is over."""
        self._ended, self._failure = True, exc
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

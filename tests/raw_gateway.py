"""A gateway on raw sockets that behaves badly on purpose: each test says how it treats a request."""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self

Behaviour = Callable[["Connection"], Awaitable[None]]

RECEIPT = {"status": "sent", "msg_uid": "d3a925", "msg_id": "d3a925"}  # of every API


def http(body: object, status: str = "200 OK", headers: str = "") -> bytes:
    """Return a well-formed answer, with a body in JSON or of the bytes given."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(content)}\r\n{headers}\r\n".encode() + content


class Connection:
    """One connection from the client, and the request read from it last.

    A behaviour sets `stalled` once it will not end by itself.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stalled: asyncio.Event) -> None:
        self.reader = reader
        self.writer = writer
        self.stalled = stalled
        self.request = b""

    async def write(self, data: bytes) -> None:
        """Send these bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Abort the connection with an RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until_hung_up(self) -> None:
        """Wait until the client hangs up."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


async def receipt(connection: Connection) -> None:
    """Answer as the gateway should."""
    await connection.write(http(RECEIPT))


class RawGateway:
    """Reads whole requests and hands each connection to `behaviour`; `on_connect`, if given, has it first."""

    def __init__(self, behaviour: Behaviour = receipt, *, on_connect: Behaviour | None = None) -> None:
        self.behaviour = behaviour
        self.on_connect = on_connect
        self.requests: list[bytes] = []
        self.accepted = 0
        self.open = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.port = 0
        self.scheme = "http"
        self.stalled = asyncio.Event()
        self.socket: socket.socket
        self._server: asyncio.Server
        self._changed = asyncio.Condition()

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"{self.scheme}://localhost:{self.port}/api/v1"

    @asynccontextmanager
    async def serve(self, context: ssl.SSLContext | None = None, *, listening: bool = True) -> AsyncIterator[Self]:
        """Have a free port of the loopback and listen on it, or refuse connections until `listen` is called."""
        tasks = set[asyncio.Task[None]]()

        async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await self._serve(Connection(reader, writer, self.stalled))

        # asyncio sends small pieces at once only on sockets that say that they are TCP's.
        self.socket = socket.socket(proto=socket.IPPROTO_TCP)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.scheme = "https" if context else "http"
        self._server = await asyncio.start_server(
            on_connection, sock=self.socket, ssl=context, backlog=4096, start_serving=listening
        )
        try:
            yield self
        finally:
            self._server.close()
            for task in [*tasks]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def listen(self) -> None:
        """Begin to listen."""
        await self._server.start_serving()

    async def all_closed(self) -> None:
        """Wait until no connection is open."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.open == 0)

    async def has_read(self, count: int) -> None:
        """Wait until so many requests were read."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= count)

    async def _serve(self, connection: Connection) -> None:
        self.accepted += 1
        self.open += 1
        try:
            if self.on_connect is not None:
                await self.on_connect(connection)
            while await self._read(connection):
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                try:
                    await self.behaviour(connection)
                finally:
                    self.in_flight -= 1
        except ConnectionError:
            pass  # the client hung up, as some behaviours provoke
        finally:
            connection.writer.transport.abort()
            self.open -= 1
            async with self._changed:
                self._changed.notify_all()

    async def _read(self, connection: Connection) -> bool:
        try:
            head = await connection.reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
            )
            connection.request = head + await connection.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        self.requests.append(connection.request)
        async with self._changed:
            self._changed.notify_all()
        return True

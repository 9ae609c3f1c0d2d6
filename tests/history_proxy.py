"""Between a client and its gateway, on real sockets: it changes the history's answer as a test wants it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit


class HistoryProxy:
    """Hands requests on to the gateway at `base_url`, and answers back; `history` may change the answer to the GET of a
    history, which `asked` counts.
    """

    def __init__(self, base_url: str) -> None:
        self.history: Callable[[bytes], bytes] = bytes
        self.asked = 0
        self._gateway = urlsplit(base_url)
        self._port = 0

    @property
    def base_url(self) -> str:
        """Where the client finds it."""
        return f"http://127.0.0.1:{self._port}{self._gateway.path}"

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Self]:
        """Listen on a free port of the loopback."""
        tasks = set[asyncio.Task[None]]()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    while await self._handed_on(reader, writer):
                        pass
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in [*tasks]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _handed_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Hand one request on and its answer back; tell whether the connection still stands."""
        head, body = await _message(reader)
        try:
            answer = await self._answered(head + body)
        except (ConnectionError, asyncio.IncompleteReadError):
            return False  # the gateway has lost it
        changed = answer
        if head.startswith(b"GET "):
            self.asked += 1
            changed = self.history(answer)
        writer.write(changed)
        await writer.drain()
        return changed == answer  # one that is cut short ends with its connection

    async def _answered(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._gateway.hostname, self._gateway.port)
        try:
            writer.write(request)
            await writer.drain()
            return b"".join(await _message(reader))
        finally:
            writer.close()
            await writer.wait_closed()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read one HTTP message that says how long it is: its head and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    length = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
    return head, await reader.readexactly(length)

"""A pooler in transaction mode, as PgBouncer is: each transaction gets whichever session of the server is free."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from attrs import define, field

_CANCEL: Final = 80877102  # the codes of a client's first message
_START: Final = 196608
_READY: Final = b"Z"
_SYNC: Final = b"S\0\0\0\4"


@define(eq=False)
class _Session:
    """A connection to the server, after its start."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes  # the parameters of the server, without the number of its process


@define
class Pooler:
    """Clients that share a few sessions of a server on a Unix socket.

    `free` holds the sessions that no transaction has. `prepared` notes the names of prepared statements: in transaction
    mode, another session does not know them.
    """

    server: Path
    free: asyncio.Queue[_Session]
    sessions: list[_Session] = field(factory=list)
    prepared: list[bytes] = field(factory=list)
    transactions: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> None:
        """Serve one client until it goes."""
        start = await _read_start(reader, writer)
        if start is None:
            writer.close()
            return
        if not self.sessions:
            for _ in range(size):
                self.free.put_nowait(await self._connect(start))
        key = _message(b"K", struct.pack("!II", 4_000_000, 0))
        writer.write(_message(b"R", struct.pack("!I", 0)) + self.sessions[0].greeting + key + _message(_READY, b"I"))
        try:
            while True:
                pending = await _read_request(reader)
                session = await self.free.get()
                self.transactions += 1
                try:
                    await self._pass(pending, session, reader, writer)
                finally:
                    self.free.put_nowait(session)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _pass(
        self, pending: bytes, session: _Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass requests and answers on until the session is in no transaction."""
        while True:
            for kind, body in _split(pending):
                if kind == b"P" and not body.startswith(b"\0"):
                    self.prepared.append(body.partition(b"\0")[0])
            session.writer.write(pending)
            state = b""
            for _ in range(pending.count(_SYNC) or 1):
                while True:
                    kind, body = await _read_message(session.reader)
                    writer.write(_message(kind, body))
                    if kind == _READY:
                        state = body
                        break
            await writer.drain()
            if state == b"I":
                return
            pending = await _read_request(reader)

    async def _connect(self, start: bytes) -> _Session:
        reader, writer = await asyncio.open_unix_connection(self.server)
        writer.write(start)
        greeting = b""
        while True:
            kind, body = await _read_message(reader)
            if kind == b"S":
                greeting += _message(kind, body)
            if kind == _READY:
                break
        self.sessions.append(_Session(reader, writer, greeting))
        return self.sessions[-1]


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


async def _read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind, length = struct.unpack("!cI", await reader.readexactly(5))
    return kind, await reader.readexactly(length - 4)


async def _read_start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
    """Return the client's first message, or None for a cancel request. Encryption is refused."""
    while True:
        head = await reader.readexactly(8)
        length, code = struct.unpack("!II", head)
        body = await reader.readexactly(length - 8)
        if code == _START:
            return head + body
        if code == _CANCEL:
            return None
        writer.write(b"N")


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """Return the client's messages up to the one that asks for an answer."""
    request = b""
    while True:
        kind, body = await _read_message(reader)
        if kind == b"X":
            raise ConnectionResetError
        request += _message(kind, body)
        if kind in {b"S", b"Q"}:
            return request


def _split(request: bytes) -> list[tuple[bytes, bytes]]:
    messages = []
    while request:
        kind, length = struct.unpack("!cI", request[:5])
        messages.append((kind, request[5 : length + 1]))
        request = request[length + 1 :]
    return messages


@contextlib.asynccontextmanager
async def pooling(server: Path, folder: Path, *, size: int, latest_first: bool = True) -> AsyncIterator[Pooler]:
    """Serve a pooler in a folder, over so many sessions of the server.

    The next transaction gets the session that was used last, as PgBouncer's default is, or the one that waits longest.
    """
    pooler = Pooler(server / ".s.PGSQL.5432", asyncio.LifoQueue() if latest_first else asyncio.Queue())
    clients = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        try:
            await pooler.serve(reader, writer, size)
        except asyncio.CancelledError:
            pass  # asyncio's streams would log it
        finally:
            clients.discard(task)
            writer.close()

    listening = await asyncio.start_unix_server(serve, folder / ".s.PGSQL.5432")
    try:
        yield pooler
    finally:
        listening.close()
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        for session in pooler.sessions:
            session.writer.close()
            await session.writer.wait_closed()

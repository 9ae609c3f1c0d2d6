"""A gateway that is well, then in trouble, then well again, and ways in which it cannot be reached."""

import asyncio
import contextlib
import datetime as dt
import select
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from misbehaviours import answer, answer_and_hang_up, say_nothing
from raw_gateway import Behaviour, Connection, RawGateway


class Trouble:
    """Its gateway answers as it should except between `begin` and `end`."""

    def __init__(self) -> None:
        self.gateway = RawGateway(answer)

    def serve(self, patch: pytest.MonkeyPatch, folder: Path) -> AbstractAsyncContextManager[RawGateway]:
        """Serve the gateway; a client may be made from here on."""
        self.patch = patch
        return self._serve(folder)

    async def begin(self) -> None:
        """Make the trouble."""
        await self._begin()

    async def end(self) -> None:
        """Mend it."""
        await self._end()

    def _serve(self, folder: Path) -> AbstractAsyncContextManager[RawGateway]:
        return self.gateway.serve()

    async def _begin(self) -> None: ...

    async def _end(self) -> None: ...


class Misbehaviour(Trouble):
    """Each request meets with `behaviour`; before the trouble, the answers come from `before`."""

    def __init__(self, behaviour: Behaviour, *, before: Behaviour = answer) -> None:
        super().__init__()
        self.gateway.behaviour = before
        self._behaviour = behaviour

    async def _begin(self) -> None:
        self.gateway.behaviour = self._behaviour

    async def _end(self) -> None:
        self.gateway.behaviour = answer


class Greeting(Trouble):
    """Each new connection meets with `behaviour` before anything is read from it."""

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__()
        self._behaviour = behaviour

    async def _begin(self) -> None:
        self.gateway.on_connect = self._behaviour

    async def _end(self) -> None:
        self.gateway.on_connect = None


class Deafness(Trouble):
    """Connections are taken, but for as long as the trouble lasts no byte is read from them."""

    def __init__(self) -> None:
        super().__init__()
        self._over = asyncio.Event()

    async def _begin(self) -> None:
        self.gateway.on_connect = self._ignore

    async def _ignore(self, connection: Connection) -> None:
        transport: Any = connection.writer.transport
        transport.pause_reading()
        connection.stalled.set()
        await self._over.wait()
        transport.resume_reading()

    async def _end(self) -> None:
        self.gateway.on_connect = None
        self._over.set()


class Refusal(Trouble):
    """The port has no listener."""

    def _serve(self, folder: Path) -> AbstractAsyncContextManager[RawGateway]:
        return self.gateway.serve(listening=False)

    async def _end(self) -> None:
        await self.gateway.listen()


class FullBacklog(Refusal):
    """The system's queue of waiting connections is full, and it lets no other one come about."""

    async def _begin(self) -> None:
        self.gateway.socket.listen(1)
        self._waiting = list[socket.socket]()
        for _ in range(100):
            if self._waiting and not select.select([], self._waiting[-1:], [], 0.2)[1]:
                break
            self._waiting.append(socket.socket())
            self._waiting[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                self._waiting[-1].connect(("127.0.0.1", self.gateway.port))
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def note_and_connect(sock: socket.socket, address: Any) -> None:
            if address[:2] == ("127.0.0.1", self.gateway.port):
                self.gateway.stalled.set()
            await connect(sock, address)

        self.patch.setattr(loop, "sock_connect", note_and_connect)

    async def _end(self) -> None:
        for waiting in self._waiting:
            waiting.close()
        await super()._end()


class NamelessHost(Trouble):
    """The name server does not know the host."""

    async def _begin(self) -> None:
        self._real = socket.getaddrinfo
        self.patch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, *args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def _end(self) -> None:
        self.patch.setattr(socket, "getaddrinfo", self._real)


class SilentNameServer(NamelessHost):
    """The name server does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self._over = threading.Event()

    @asynccontextmanager
    async def _serve(self, folder: Path) -> AsyncIterator[RawGateway]:
        try:
            async with super()._serve(folder) as gateway:
                yield gateway
        finally:
            self._over.set()  # else a test that fails would wait for the thread without end

    async def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        await super()._begin()

    def _look_up(self, *args: Any, **kwargs: Any) -> Any:
        self._loop.call_soon_threadsafe(self.gateway.stalled.set)
        self._over.wait()
        return self._real(*args, **kwargs)

    async def _end(self) -> None:
        self._over.set()
        await super()._end()


class Tls(Trouble):
    """The gateway speaks TLS, with a certificate of an authority that the environment names."""

    def _serve(self, folder: Path) -> AbstractAsyncContextManager[RawGateway]:
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        self.patch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._good = self.authority.issue_cert("localhost")
        self._good.configure_cert(self.context)
        return self._serve_tls()

    def _serve_tls(self) -> AbstractAsyncContextManager[RawGateway]:
        return self.gateway.serve(self.context)

    async def _end(self) -> None:
        self._good.configure_cert(self.context)


class AnotherHost(Tls):
    """The certificate is for another host."""

    async def _begin(self) -> None:
        self.authority.issue_cert("elsewhere.example").configure_cert(self.context)


class ExpiredCertificate(Tls):
    """The certificate expired yesterday."""

    async def _begin(self) -> None:
        yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        self.authority.issue_cert("localhost", not_after=yesterday).configure_cert(self.context)


class UnknownAuthority(Tls):
    """The certificate is from an unknown authority."""

    async def _begin(self) -> None:
        trustme.CA().issue_cert("localhost").configure_cert(self.context)


class HandshakeWithoutEnd(Tls):
    """Connections come about, but their TLS handshake gets no answer. Before that, each ends with its first answer."""

    @asynccontextmanager
    async def _serve_tls(self) -> AsyncIterator[RawGateway]:
        self.gateway.on_connect = self._shake_hands
        self.gateway.behaviour = answer_and_hang_up
        async with self.gateway.serve():
            self.gateway.scheme = "https"
            yield self.gateway

    async def _shake_hands(self, connection: Connection) -> None:
        await connection.writer.start_tls(self.context)

    async def _begin(self) -> None:
        self.gateway.on_connect = say_nothing

    async def _end(self) -> None:
        self.gateway.on_connect = self._shake_hands
        self.gateway.behaviour = answer

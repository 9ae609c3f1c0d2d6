"""A uvicorn server within the caller's event loop, which leaves no socket and no task when its block ends."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Generator
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from oca_sms_async._settings import is_loopback
from oca_sms_async.sandbox._knobs import encode_host
from oca_sms_async.sandbox._same_site import SERVED_AS
from oca_sms_async.sandbox._wiring import TRANSPORT

_BACKLOG: Final = 2048  # connections; a cold burst of a whole service fits
_CYCLES: Final = 8  # of the event loop; asyncio needs two or three to make a connection known that it accepted
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


@contextlib.asynccontextmanager
async def listen(app: ASGIApp, host: str, port: int) -> AsyncIterator[str]:
    """Serve `app` until the block ends in any way; yield the origin (`http://host:port`) of its URLs.

    Port 0 is any free one. `OSError` if the address cannot be had, `ValueError` for an impossible host. A client that
    still waits for an answer at the end of the block finds its connection closed.
    """
    host = encode_host(host)
    server = _Server(
        uvicorn.Config(
            app,
            host=host,
            http=_Protocol,  # h11: the same behaviour on every machine, with or without httptools
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=_BACKLOG,
        )
    )
    # It listens before the block is entered: a connection that comes before uvicorn is ready waits in the backlog.
    with _open_listener(host, port) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            reached_at = _LOOPBACK.get(host, host)
            yield f"http://{f'[{reached_at}]' if ':' in reached_at else reached_at}:{listener.getsockname()[1]}"
        finally:
            server.leaving.set()
            await _wait_for_end(serving)


def _open_listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    unspecific = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    # asyncio sets TCP_NODELAY only on sockets that say that they are TCP; without it each answer would take 40 ms.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=unspecific.detach())


def _find_names(host: str) -> frozenset[str]:
    """Return the names that lead here: the host's, and beyond the loopback the machine's or container's own."""
    return frozenset({host} if is_loopback(host) else {host, socket.gethostname().lower()})


class _Protocol(H11Protocol):
    """HTTP by h11. Each request knows its connection, for some answers end it, and the host that it is served at."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.app_state = {**self.app_state, TRANSPORT: transport, SERVED_AS: _find_names(self.config.host)}


class _Server(uvicorn.Server):
    """uvicorn's server without its polling, its graceful end, and its hands on the caller's signal handlers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.leaving = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def main_loop(self) -> None:
        # asyncio.run cancels every task when it ends. A server that obeyed would leave its listener open.
        with contextlib.suppress(asyncio.CancelledError):
            await self.leaving.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # asyncio forgets, and leaves open, a connection that it accepts in the cycle in which its server is closed.
        # So it stops accepting first. The server is closed once all accepted connections are known.
        for listener in sockets or ():
            with contextlib.suppress(NotImplementedError):  # the event loop of Windows has no readers
                asyncio.get_running_loop().remove_reader(listener)
        for _ in range(_CYCLES):
            for connection in list(self.server_state.connections):
                connection.transport.abort()  # only latency keeps a request waiting, perhaps for an hour
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        # Requests that have just learnt that their client is gone. uvicorn has logged their exceptions already.
        await asyncio.gather(*self.server_state.tasks, return_exceptions=True)


async def _wait_for_end(task: asyncio.Task[None]) -> None:
    """Wait for a task that is about to end, even when cancelled meanwhile: the task must not outlive the block."""
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as cancelled:
            interruption = cancelled
    if interruption is not None:
        raise interruption
    task.result()

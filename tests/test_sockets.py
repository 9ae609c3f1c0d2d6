"""The question whether a socket holds bytes that the event loop has not read."""

import fcntl
import resource
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from oca_sms_async._sockets import SocketProbe


class Transport:
    """The part of a transport that is asked for its socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def get_extra_info(self, name: str) -> Any:
        """Return the socket."""
        return {"socket": self.sock}[name]


@pytest.fixture(params=["poll", "select"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, Transport]]:
    """Two connected sockets, the second as a transport, on a system with or without `poll`."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll")
    there, here = socket.socketpair()
    with there, here:
        yield there, Transport(here)


def test_bytes_and_the_end_are_seen(pair: tuple[socket.socket, Transport]) -> None:
    """A silent connection has nothing to read; bytes are there until they are read; the end stays."""
    (there, transport), probe = pair, SocketProbe()
    assert not probe.is_readable(transport)
    there.send(b"x")
    assert probe.is_readable(transport)
    transport.sock.recv(1)
    assert not probe.is_readable(transport)
    there.close()
    assert probe.is_readable(transport)


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_closed_socket_is_no_silent_one(pair: tuple[socket.socket, Transport], asked_before: bool) -> None:
    """Its number may be that of another, silent connection by now."""
    (_, transport), probe = pair, SocketProbe()
    assert not (asked_before and probe.is_readable(transport))
    number = transport.sock.fileno()
    transport.sock.close()
    others = [*socket.socketpair(), *socket.socketpair()]
    try:
        assert number in {other.fileno() for other in others}
        assert probe.is_readable(transport)
    finally:
        for other in others:
            other.close()


def test_a_number_above_1023_is_asked_too() -> None:
    """A server with many connections has such numbers, and `select` takes none of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    there, here = socket.socketpair()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2000, hard), hard))
    try:
        high = socket.socket(fileno=fcntl.fcntl(here, fcntl.F_DUPFD, 1500))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with there, here, high:
        transport, probe = Transport(high), SocketProbe()
        assert not probe.is_readable(transport)
        there.send(b"x")
        assert probe.is_readable(transport)

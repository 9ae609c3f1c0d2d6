"""A question to a socket, asked before each further use of its connection."""

import select
from typing import Any


class SocketProbe:
    """Tells whether the system holds bytes, or the end of a connection, that the event loop has not read yet."""

    def __init__(self) -> None:
        self._socket: Any = None
        self._poll: Any = None

    def is_readable(self, transport: Any) -> bool:
        """Ask the socket of this transport, which is the same one each time, without waiting."""
        if self._socket is None:
            self._socket = transport.get_extra_info("socket")
            if hasattr(select, "poll") and self._socket.fileno() >= 0:
                self._poll = select.poll()  # select() takes no number above 1,023
                self._poll.register(self._socket, select.POLLIN)
        if self._socket.fileno() < 0:  # it is closed, and its number may be another socket's by now
            return True
        if self._poll is None:  # Windows
            return bool(select.select([self._socket], [], [], 0)[0])
        return bool(self._poll.poll(0))

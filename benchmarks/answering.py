"""A server that answers every request with a receipt, as fast as Python can, in a process and on a core of its own."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

BODY = b'{"status": "sent", "msg_uid": "d3a9255c2f2d"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
END = b"\r\n\r\n"


class Answering(asyncio.Protocol):
    """One connection; its requests have a Content-Length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        self._data += data
        while (end := self._data.find(END)) >= 0:
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._data) < end + 4 + length:
                return
            self._data = self._data[end + 4 + length :]
            self._transport.write(ANSWER)  # type: ignore[attr-defined] # a stream's transport


async def main() -> None:
    """Serve on a free port, print the port, and go on until killed."""
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def pin(core: int) -> None:
    """Keep this process on one core, if the system allows that and has several."""
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})


@contextlib.contextmanager
def answering() -> Iterator[int]:
    """Serve in a separate process while the block lasts, and yield the port. This process keeps to another core."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            pin(0)
            yield port
        finally:
            server.kill()


if __name__ == "__main__":
    pin(1)
    asyncio.run(main())

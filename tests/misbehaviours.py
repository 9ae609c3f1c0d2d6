"""Ways in which a gateway may treat a request: wrong ones, and right ones in an odd form."""

import asyncio
import contextlib
import functools
import gzip
import json
import socket
import zlib
from typing import Final

from raw_gateway import Behaviour, Connection, http

MEGABYTE: Final = 10**6


# The receipt of another message, as an answer to no request.
_STRAY: Final = http({"status": "sent", "msg_uid": "somebody-else"})


def uid(request: bytes) -> str:
    """Return the id in the answer to this request: the text of a send, the last part of the path otherwise."""
    head, _, body = request.partition(b"\r\n\r\n")
    return str(json.loads(body)["message"]) if body else head.split()[1].decode().rpartition("/")[2]


def content(request: bytes) -> bytes:
    """Return the body of the answer to this request, as the gateway documents it."""
    line = request.split(b"\r\n", 1)[0]
    record = {
        "msg_uid": uid(request),
        "phone_number": "+6281381475159",
        "message_body": "Acme: 482913 is your code",
        "status": "sent",
        "created_at": "2020-05-31T10:00:00.000Z",
    }
    documents: dict[bool, object] = {
        line.startswith(b"POST"): {"status": "sent", "msg_uid": uid(request)},
        line.startswith(b"GET /api/v1/sms "): [record],
        line.startswith(b"GET /api/v1/sms/status/"): {"status": True, "data": record},
    }
    return json.dumps(documents[True]).encode()


async def answer(connection: Connection) -> None:
    """Answer as the gateway should."""
    await connection.write(http(content(connection.request)))


async def _wait_until_read() -> None:
    """Give the client more turns of the loop than it needs to read the bytes sent to it."""
    for _ in range(100):
        await asyncio.sleep(0)


async def answer_and_hang_up(connection: Connection) -> None:
    """Answer, and close the connection by a FIN that the answer does not announce."""
    await answer(connection)
    await _wait_until_read()
    connection.writer.transport.abort()  # not close(): TLS would wait for the other side's good-bye before its FIN


async def answer_and_reset(connection: Connection) -> None:
    """Answer, and abort the connection by an RST."""
    await answer(connection)
    await _wait_until_read()
    connection.reset()


async def answer_and_leave_at_the_next(connection: Connection) -> None:
    """Answer, and close the connection when the bytes of the next request arrive, without reading them."""
    await answer(connection)
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport has it
    with connection.writer.get_extra_info("socket").dup() as raw:
        for _ in range(10**6):
            if _has_bytes(raw):
                break
            await asyncio.sleep(0)
        raw.shutdown(socket.SHUT_WR)
    connection.writer.transport.abort()


def _has_bytes(raw: socket.socket) -> bool:
    try:
        raw.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


async def say_nothing(connection: Connection) -> None:
    """Never answer."""
    connection.stalled.set()
    await connection.until_hung_up()


async def drip_head(connection: Connection) -> None:
    """Send the head of an answer without end, one byte a second. Each would restart a time-out for reading."""
    await connection.write(b"HTTP/1.1 200 OK\r\nx: ")
    await _drip(connection, b"x")


async def drip_body(connection: Connection) -> None:
    """Send the body of an answer without end, one byte a second."""
    await connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    await _drip(connection, b" ")


async def _drip(connection: Connection, byte: bytes) -> None:
    for _ in range(1000):
        await connection.write(byte)
        connection.stalled.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await connection.until_hung_up()
                return


async def stall_in_the_body(connection: Connection) -> None:
    """Send all of an answer but its last byte, and wait."""
    await connection.write(http(content(connection.request))[:-1])
    await say_nothing(connection)


async def hang_up(connection: Connection) -> None:
    """Close the connection by a FIN."""
    connection.writer.close()


async def reset(connection: Connection) -> None:
    """Abort the connection by an RST."""
    connection.reset()


async def reset_in_the_body(connection: Connection) -> None:
    """Send all of an answer but its last byte, and abort the connection."""
    await connection.write(http(content(connection.request))[:-1])
    connection.reset()


def says(data: bytes) -> Behaviour:
    """Return a behaviour that sends these bytes and hangs up."""

    async def behaviour(connection: Connection) -> None:
        await connection.write(data)
        connection.writer.close()

    return behaviour


async def promise_too_much(connection: Connection) -> None:
    """Send an answer with a Content-Length one byte too long, and hang up."""
    body = content(connection.request)
    await connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body) + 1, body))
    connection.writer.close()


async def promise_too_little(connection: Connection) -> None:
    """Send an answer with a Content-Length one byte too short."""
    body = content(connection.request)
    await connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body) - 1, body))


async def answer_twice(connection: Connection) -> None:
    """Send the answer and, in the same piece, one to no request."""
    await connection.write(http(content(connection.request)) + _STRAY)


async def answer_twice_in_two_pieces(connection: Connection) -> None:
    """Send the answer, and once the client has read it, one to no request."""
    await answer(connection)
    await _wait_until_read()
    await connection.write(_STRAY)


async def answer_after_informing(connection: Connection) -> None:
    """Send a «100 Continue», a «103 Early Hints», and then the answer."""
    await connection.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
    await answer(connection)


async def answer_compressed(connection: Connection) -> None:
    """Send the answer in gzip."""
    await connection.write(_gzip(gzip.compress(content(connection.request))))


async def answer_broken_gzip(connection: Connection) -> None:
    """Send the answer in a gzip with some bytes in the middle overwritten."""
    packed = gzip.compress(content(connection.request))
    await connection.write(_gzip(packed[:15] + b"\xff\xff\xff" + packed[18:]))


async def answer_with_a_bomb(connection: Connection) -> None:
    """Send the answer with so many blanks after it that its gzip becomes a gigabyte."""
    await connection.write(_gzip(_bomb(content(connection.request), 2**10)))


def _gzip(packed: bytes) -> bytes:
    return http(packed, headers="content-encoding: gzip\r\n")


@functools.cache
def _bomb(body: bytes, mebibytes: int) -> bytes:
    """Return the gzip of a body with so many MiB of blanks after it; only one of them is compressed."""
    blanks = b" " * 2**20
    packer = zlib.compressobj(level=9, wbits=-zlib.MAX_WBITS)
    first = packer.compress(body) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(blanks) + packer.flush(zlib.Z_FULL_FLUSH)  # after a full flush, the same bytes each time
    checksum = zlib.crc32(body)
    for _ in range(mebibytes):
        checksum = zlib.crc32(blanks, checksum)
    size = (len(body) + mebibytes * len(blanks)) % 2**32
    head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    tail = packer.flush() + checksum.to_bytes(4, "little") + size.to_bytes(4, "little")
    return head + first + block * mebibytes + tail


async def answer_at_length(connection: Connection) -> None:
    """Send the answer with so many blanks after it that it is 200 MB long."""
    body = content(connection.request)
    await connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (200 * MEGABYTE, body))
    left = 200 * MEGABYTE - len(body)
    blanks = b" " * 2**16
    while left:
        await connection.write(blanks[:left])
        left -= min(left, len(blanks))


async def answer_with_a_long_header(connection: Connection) -> None:
    """Send the answer with a header of one megabyte."""
    await connection.write(http(content(connection.request), headers=f"x: {'x' * MEGABYTE}\r\n"))


async def answer_with_many_headers(connection: Connection) -> None:
    """Send the answer with ten thousand headers, one megabyte in all."""
    headers = "".join(f"x-{number:05}: {'x' * 89}\r\n" for number in range(10_000))
    await connection.write(http(content(connection.request), headers=headers))

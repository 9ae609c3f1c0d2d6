"""The sockets of our own connections: packets, ends and errors, over real ones."""

import asyncio
import gc
from typing import Any

import httpcore
import httpx
import pytest
from on_sockets import PHONE, TEXT, client_of
from raw_gateway import Connection, RawGateway, receipt

from oca_sms_async import DeliveryUnknownError
from oca_sms_async._httpx_internals import replace_stream
from oca_sms_async._network import Network
from oca_sms_async._transport_stream import TransportStream


async def connect(gateway: RawGateway) -> httpcore.AsyncNetworkStream:
    """Return a connection to a gateway."""
    return await Network().connect_tcp("127.0.0.1", gateway.port)


async def test_a_request_leaves_in_one_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head waits for the body, and the socket is written once for each request."""
    written = list[bytes]()

    async with RawGateway().serve() as gateway, client_of(gateway.base_url) as client:
        await client.send(PHONE, TEXT)
        write = asyncio.selector_events._SelectorSocketTransport.write  # type: ignore[attr-defined] # to look at it

        def watch(transport: Any, data: bytes) -> None:
            written.append(data)
            write(transport, data)

        monkeypatch.setattr(asyncio.selector_events._SelectorSocketTransport, "write", watch)  # type: ignore[attr-defined] # as above
        await client.send(PHONE, TEXT)
    requests = [data for data in written if data.startswith(b"POST ")]
    assert [TEXT.encode() in data for data in requests] == [True]
    assert not any(TEXT.encode() in data for data in written if data not in requests)


async def test_a_head_without_a_body_leaves_with_the_first_read() -> None:
    """The history is asked for by a request that has no body."""

    async def history(connection: Connection) -> None:
        await connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

    async with RawGateway(history).serve() as gateway, client_of(gateway.base_url) as client:
        assert await client.history() == []


async def test_bytes_leave_in_their_order() -> None:
    """Pieces that were kept go before later ones, and an empty piece is nothing."""
    read = asyncio.get_running_loop().create_future()

    async def hear(connection: Connection) -> None:
        read.set_result(await connection.reader.readexactly(9))

    async with RawGateway(on_connect=hear).serve() as gateway:
        stream = await connect(gateway)
        for piece in (b"", b"abc", b"", b"def", b"ghi", b""):
            await stream.write(piece)
        reading = asyncio.create_task(stream.read(99))
        assert await read == b"abcdefghi"
        await stream.aclose()
        with pytest.raises(httpcore.ReadError):
            await reading


async def test_the_end_of_a_connection_is_no_error() -> None:
    """A read at the end returns nothing, as httpcore wants it."""

    async def hang_up(connection: Connection) -> None:
        connection.writer.close()

    async with RawGateway(on_connect=hang_up).serve() as gateway:
        stream = await connect(gateway)
        assert await stream.read(99) == b""
        assert stream.get_extra_info("is_readable")
        await stream.aclose()


async def test_bytes_are_read_in_pieces() -> None:
    """A read returns no more than it was asked for, and keeps the rest for the next one."""

    async def talk(connection: Connection) -> None:
        await connection.write(b"abcdefghi")

    async with RawGateway(on_connect=talk).serve() as gateway:
        stream = await connect(gateway)
        assert [await stream.read(4) for _ in range(3)] == [b"abcd", b"efgh", b"i"]
        await stream.aclose()


async def test_bytes_that_came_before_the_stream_are_not_lost() -> None:
    """A server may answer before it is asked, and anyio's own stream may have read that answer."""

    async def talk(connection: Connection) -> None:
        await connection.write(b"abcdefghi")

    async with RawGateway(on_connect=talk).serve() as gateway:
        slow = await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", gateway.port)
        assert await slow.read(4) == b"abcd"
        assert replace_stream(slow, TransportStream) is not None
        assert await slow.read(9) == b"efghi"
        await slow.aclose()


async def test_bytes_that_the_loop_has_not_read_yet_are_unread() -> None:
    """They are in the socket alone, and would be taken for the next answer."""
    connected = asyncio.get_running_loop().create_future()

    async def greet(connection: Connection) -> None:
        connected.set_result(connection)
        await connection.reader.read()

    async with RawGateway(on_connect=greet).serve() as gateway:
        slow = await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", gateway.port)
        stream = replace_stream(slow, TransportStream)
        assert stream is not None
        connection = await connected
        assert not stream.has_unread()
        connection.writer.write(b"x")  # at once, and the loop reads it in its next turn
        assert (stream.has_unread(), stream.has_news) == (True, False)
        await slow.aclose()


async def test_a_flood_waits_outside() -> None:
    """A server that sends on and on fills no memory: its bytes wait in its own process until they are asked for."""
    flood = 2**26
    left = asyncio.get_running_loop().create_future()

    async def pour(connection: Connection) -> None:
        connection.writer.write(bytes(flood))
        for _ in range(2000):
            await asyncio.sleep(0)
        left.set_result(connection.writer.transport.get_write_buffer_size())
        await connection.writer.drain()

    async with RawGateway(on_connect=pour).serve() as gateway:
        stream = await connect(gateway)
        assert await left > flood // 2
        read = 0
        while read < flood:
            read += len(await stream.read(2**16))
        assert read == flood
        await stream.aclose()


async def test_a_closed_connection_says_so() -> None:
    """In a read, a head that cannot leave is no error of its own: httpcore reads on, for an answer may be there."""
    async with RawGateway(receipt).serve() as gateway:
        stream = await connect(gateway)
        await stream.aclose()
        await stream.write(b"head")
        with pytest.raises(httpcore.WriteError):
            await stream.write(b"body")
        await stream.write(b"head")
        with pytest.raises(httpcore.ReadError):
            await stream.read(99)


async def test_a_reset_is_an_error_of_reading() -> None:
    """It leaves the message in doubt."""

    async def reset(connection: Connection) -> None:
        connection.reset()

    async with RawGateway(reset).serve() as gateway, client_of(gateway.base_url) as client:
        with pytest.raises(DeliveryUnknownError) as raised:
            await client.send(PHONE, TEXT)
    assert isinstance(raised.value.__cause__, httpx.ReadError)


async def test_a_send_leaves_nothing_to_the_garbage_collector() -> None:
    """Request, answer and connection are freed as soon as the send is over."""
    async with RawGateway(receipt).serve() as gateway, client_of(gateway.base_url) as client:
        await client.send(PHONE, TEXT)
        gc.collect()
        gc.disable()
        try:
            before = parts_of_requests()
            for _ in range(5):
                await client.send(PHONE, TEXT)
            left = [it for it in parts_of_requests() if not any(it is other for other in before)]
        finally:
            gc.enable()
    assert left == []


def parts_of_requests() -> list[object]:
    """Return all requests and answers in memory; other tests may have left some."""
    kinds = (httpx.Request, httpx.Response, httpcore.Request)
    return [it for it in gc.get_objects() if issubclass(type(it), kinds)]  # isinstance would ask other tests' proxies

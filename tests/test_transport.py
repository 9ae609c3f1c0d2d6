"""Requests over real sockets: each kind of trouble ends in its own error and does not harm the next request."""

import asyncio
import base64
import errno
import functools
import gc
import gzip
import json
import random
import socket
import tracemalloc
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import respx
import virtual_time
from misbehaviours import say_nothing
from moved_clock import HANG, Clock, until
from on_sockets import PHONE, QUICK, TEXT, client_of, free_port, tls
from raw_gateway import RECEIPT, Behaviour, Connection, RawGateway, http, receipt

import oca_sms_async.aiohttp
from oca_sms_async import (
    ApiError,
    AsyncOcaSms,
    ConnectionFailedError,
    DeliveryUnknownError,
    ExpiredError,
    OcaSmsError,
    RetryPolicy,
    TokenBucket,
    UnexpectedResponseError,
    _connections,
)
from oca_sms_async._connections import Connections

pytestmark = pytest.mark.usefixtures("transport")
of_httpx = pytest.mark.parametrize("transport", ["httpx"], indirect=True)


async def drop(connection: Connection) -> None:
    """Hang up."""
    connection.writer.close()


async def reset(connection: Connection) -> None:
    """Hang up with an RST."""
    connection.reset()


def says(data: bytes) -> Behaviour:
    """Return a behaviour that sends these bytes and hangs up."""

    async def behaviour(connection: Connection) -> None:
        await connection.write(data)
        connection.writer.close()

    return behaviour


HTML = http(b"<html>502 Bad Gateway</html>", "502 Bad Gateway", "content-type: text/html\r\n")

TROUBLE_AFTER_READING: dict[str, tuple[Behaviour, type[OcaSmsError]]] = {  # tests/faults.py has many more
    "reset": (reset, DeliveryUnknownError),
    "truncated body": (says(http(RECEIPT)[:-5]), DeliveryUnknownError),
    "html of a proxy": (says(HTML), ApiError),
    "html as success": (says(http(b"<html>Welcome</html>")), UnexpectedResponseError),
    "empty success": (says(http(b"")), UnexpectedResponseError),
    "no content": (says(b"HTTP/1.1 204 No Content\r\n\r\n"), UnexpectedResponseError),
}


@pytest.mark.parametrize("fault", TROUBLE_AFTER_READING)
@pytest.mark.parametrize("retry_unsent", [False, True])
async def test_trouble_after_the_request_was_read_leaves_doubt(fault: str, retry_unsent: bool) -> None:
    """Once the gateway has the request, not even `retry_unsent` repeats it: one POST, one error in doubt."""
    behaviour, expected = TROUBLE_AFTER_READING[fault]
    retry = RetryPolicy(initial_wait=0, retry_unsent=retry_unsent)
    async with (
        RawGateway(behaviour).serve() as gateway,
        client_of(gateway.base_url, timeout=30.0, retry=retry) as client,
    ):
        with pytest.raises(OcaSmsError) as caught:
            await client.send(PHONE, TEXT)
        assert type(caught.value) is expected
        assert caught.value.may_have_been_sent
        assert caught.value.attempts == 1
        assert len(gateway.requests) == 1
        gateway.behaviour = receipt
        assert (await client.send(PHONE, TEXT)).msg_uid == RECEIPT["msg_uid"]


async def test_trouble_with_a_question_is_never_about_a_message() -> None:
    """A lost answer to `status` or `history` is an error that says «not sent», and the question is asked once."""
    async with RawGateway(drop).serve() as gateway, client_of(gateway.base_url) as client:
        for number, question in enumerate((client.status("abc"), client.history()), start=1):
            with pytest.raises(DeliveryUnknownError) as caught:
                await question
            assert not caught.value.may_have_been_sent
            assert len(gateway.requests) == number


async def test_a_reset_before_the_request_was_read_is_doubt_all_the_same() -> None:
    """The client cannot know how much the other side has read, so a reset connection is no proof."""
    async with RawGateway(on_connect=reset).serve() as gateway, client_of(gateway.base_url) as client:
        with pytest.raises(DeliveryUnknownError) as caught:
            await client.send(PHONE, TEXT)
        assert caught.value.may_have_been_sent
        gateway.on_connect = None
        await client.send(PHONE, TEXT)


@pytest.mark.parametrize(
    ("base_url", "reason"),
    [("http://localhost:{port}/", "refused"), ("http://no-such-host.invalid/", "name was not found")],
)
async def test_no_connection_is_proof_that_nothing_was_sent(base_url: str, reason: str) -> None:
    """A refused connection and an unknown host say so, and that no byte left."""
    async with client_of(base_url.format(port=free_port())) as client:
        with pytest.raises(ConnectionFailedError, match=reason) as caught:
            await client.send(PHONE, TEXT)
        assert (caught.value.may_have_been_sent, caught.value.attempts) == (False, 1)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(socket.EAI_AGAIN, "name server did not answer"), (socket.EAI_NONAME, "name was not found")],
)
async def test_a_name_server_in_trouble_is_not_an_unknown_host(
    number: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EAI_AGAIN may pass by itself, a wrong host in the configuration does not."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "the system's words")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    async with client_of("https://sms.example") as client:
        with pytest.raises(ConnectionFailedError, match=reason):
            await client.send(PHONE, TEXT)


async def test_https_to_an_http_port_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is no TLS. The gateway's port or the proxy's scheme is wrong, not a certificate."""
    async with RawGateway(on_connect=says(HTML)).serve() as gateway:
        async with client_of(f"https://localhost:{gateway.port}") as client:
            with pytest.raises(ConnectionFailedError, match="does not speak TLS"):
                await client.send(PHONE, TEXT)
        monkeypatch.setenv("HTTPS_PROXY", f"https://localhost:{gateway.port}")
        async with client_of("https://sms.example") as client:
            with pytest.raises(ConnectionFailedError, match="does not speak TLS"):
                await client.send(PHONE, TEXT)


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        ("SSL_CERT_FILE", "the certificates that SSL_CERT_FILE names cannot be read: No such file"),
        ("SSLKEYLOGFILE", "the file that SSLKEYLOGFILE names cannot be written: No such file"),
    ],
)
def test_a_tls_variable_that_cannot_be_used_is_named(
    variable: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client cannot be made, and the error names the variable that is to blame."""
    monkeypatch.setenv(variable, "/nowhere/marker")
    with pytest.raises(OSError, match=reason) as caught:
        client_of("https://sms.example")
    assert caught.value.errno == errno.ENOENT
    monkeypatch.setattr(httpx, "create_ssl_context", functools.partial(raise_one, OSError(errno.EMFILE, "too many")))
    monkeypatch.delenv(variable)
    with pytest.raises(OSError, match="too many"):
        client_of("https://sms.example")


async def test_only_on_request_is_a_failed_connection_tried_again() -> None:
    """With `retry_unsent` the policy's attempts are made, without it one."""
    url = f"http://localhost:{free_port()}"
    for retry, attempts in ((QUICK, 1), (RetryPolicy(max_attempts=3, initial_wait=0, retry_unsent=True), 3)):
        async with client_of(url, retry=retry) as client:
            with pytest.raises(ConnectionFailedError) as caught:
                await client.send(PHONE, TEXT)
            assert caught.value.attempts == attempts


class CallerError(Exception):
    """An exception of the caller's, with more in it than a text."""

    response = "an answer of 12345678 bytes"


def raise_one(error: Exception, **_: object) -> None:
    """Raise this."""
    raise error


@pytest.mark.parametrize("behaviour", [None, reset, says(http(b"<html>"))], ids=["refused", "reset", "html"])
async def test_the_exception_that_the_caller_handles_stays_as_it_is(behaviour: Behaviour | None) -> None:
    """A send within an `except` block scrubs its own causes, and not the exception that is being handled."""
    own = CallerError("order 12345678")
    async with RawGateway(behaviour or receipt).serve() as gateway:
        url = gateway.base_url if behaviour else f"http://localhost:{free_port()}"
        async with client_of(url) as client:
            try:
                raise_one(own)
            except CallerError:
                own.response = "kept"
                with pytest.raises(OcaSmsError):
                    await client.send(PHONE, TEXT)
    assert (own.args, own.response) == (("order 12345678",), "kept")
    assert own.__traceback__ is not None


def lent_client(transport: str, **options: Any) -> httpx.AsyncClient:
    """Return a client of the user's on this transport."""
    if transport == "aiohttp":
        return oca_sms_async.aiohttp.aiohttp_client(**options)
    return httpx.AsyncClient(timeout=30.0, trust_env=False, **options)


async def test_a_hook_that_fails_after_the_answer_proves_nothing(transport: str) -> None:
    """«Could not connect» out of a hook is about another connection: the message was taken, and goes out once."""

    async def hook(_: httpx.Response) -> None:
        raise httpx.ConnectError("the log server is down")

    retry = RetryPolicy(initial_wait=0, retry_unsent=True)
    async with RawGateway().serve() as gateway, lent_client(transport, event_hooks={"response": [hook]}) as lent:
        with pytest.raises(DeliveryUnknownError) as caught:
            await client_of(gateway.base_url, http_client=lent, retry=retry).send(PHONE, TEXT)
        assert caught.value.may_have_been_sent
        assert len(gateway.requests) == 1


async def test_a_hook_that_reads_the_answer_leaves_it_to_be_read(transport: str) -> None:
    """Httpx' own way to log an answer is to read it in a hook; the receipt comes all the same, compressed or not."""

    async def hook(response: httpx.Response) -> None:
        await response.aread()

    packed = http(gzip.compress(json.dumps(RECEIPT).encode()), headers="content-encoding: gzip\r\n")
    for answer in (http(RECEIPT), packed):
        async with RawGateway(says(answer)).serve() as gateway:
            async with lent_client(transport, event_hooks={"response": [hook]}) as lent:
                sent = await client_of(gateway.base_url, http_client=lent).send(PHONE, TEXT)
            assert sent.msg_uid == RECEIPT["msg_uid"]


@of_httpx
async def test_a_transport_that_tries_again_by_itself_proves_nothing() -> None:
    """Its last attempt finds no listener, but the gateway has read the one before."""

    class Stubborn(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            try:
                return await super().handle_async_request(request)
            except httpx.TransportError:
                return await super().handle_async_request(request)

    async def leave(connection: Connection) -> None:
        gateway._server.close()
        connection.reset()

    gateway = RawGateway(leave)
    async with gateway.serve(), httpx.AsyncClient(transport=Stubborn()) as lent:
        with pytest.raises(DeliveryUnknownError) as caught:
            await client_of(gateway.base_url, http_client=lent).send(PHONE, TEXT)
        assert caught.value.may_have_been_sent
        assert len(gateway.requests) == 1


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "502 Bad Gateway"])
async def test_a_proxy_that_makes_no_tunnel_is_proof(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request would go through the tunnel, so without a tunnel it cannot have left."""
    refusal = f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode()

    async def refuse(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.write(refusal)
        connection.writer.close()

    async with RawGateway(on_connect=refuse).serve() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://localhost:{proxy.port}")
        async with client_of("https://sms.example/api/v1") as client:
            with pytest.raises(ConnectionFailedError, match="the proxy refused") as caught:
                await client.send(PHONE, TEXT)
    assert not caught.value.may_have_been_sent


@pytest.mark.parametrize("expires_in", [None, 500.0])
async def test_closing_ends_a_request_that_still_connects(expires_in: float | None) -> None:
    """It has no connection yet that could be closed, and after closing it must send nothing."""
    gateway = RawGateway(on_connect=say_nothing)
    async with gateway.serve():
        client = client_of(f"https://localhost:{gateway.port}", timeout=600.0)
        stuck = asyncio.create_task(client.send(PHONE, TEXT, expires_in=expires_in))
        await until(lambda: gateway.open)
        await client.aclose()
        with pytest.raises(ConnectionFailedError):
            await asyncio.wait_for(stuck, HANG)
        await asyncio.wait_for(gateway.all_closed(), HANG)


async def test_closing_while_a_requests_time_runs_out_is_no_error() -> None:
    """Its bound cannot be moved any more. The rest is closed as ever."""
    client = client_of("https://sms.example")

    async def request_that_ends_late() -> None:
        async with asyncio.timeout(0) as bound:
            try:
                await asyncio.Event().wait()
            finally:
                client._dispatcher._under_way[bound] = asyncio.get_running_loop()
                await client.aclose()

    with pytest.raises(TimeoutError):
        await request_that_ends_late()


async def test_a_connection_that_hangs_while_it_is_made_is_proof_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TLS handshake that never ends: the attempt's time is up before a byte of the request left."""
    clock, gateway = Clock(monkeypatch), RawGateway(on_connect=say_nothing)
    async with gateway.serve(), client_of(f"https://localhost:{gateway.port}") as client:
        call = asyncio.create_task(client.send(PHONE, TEXT))
        await clock.end(call, once=gateway.stalled.wait(), at_most=11)
        with pytest.raises(ConnectionFailedError, match="took too long") as caught:
            await call
        assert not caught.value.may_have_been_sent
        gateway.stalled.clear()
        call = asyncio.create_task(client.send(PHONE, TEXT, expires_in=5))
        await clock.end(call, once=gateway.stalled.wait(), at_most=6)
        with pytest.raises(ExpiredError) as expired:
            await call
        assert (expired.value.may_have_been_sent, expired.value.attempts) == (False, 1)


async def test_expiry_ends_a_request_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that expires before its answer comes is an `ExpiredError` in doubt."""
    clock = Clock(monkeypatch)
    async with RawGateway(say_nothing).serve() as gateway, client_of(gateway.base_url) as client:
        call = asyncio.create_task(client.send(PHONE, TEXT, expires_in=5))
        await clock.end(call, once=gateway.stalled.wait(), at_most=6)
        with pytest.raises(ExpiredError) as caught:
            await call
        assert (caught.value.may_have_been_sent, caught.value.attempts) == (True, 1)


async def test_tls_with_an_untrusted_certificate_fails_and_says_why() -> None:
    """A certificate of an unknown authority is a failed connection, and the error names the certificate."""
    _, context = tls("localhost")
    async with RawGateway().serve(context) as gateway, client_of(gateway.base_url) as client:
        with pytest.raises(ConnectionFailedError, match="certificate is not trusted") as caught:
            await client.send(PHONE, TEXT)
        assert not caught.value.may_have_been_sent
        assert gateway.requests == []


@pytest.mark.parametrize(("host", "works"), [("localhost", True), ("elsewhere.example", False)])
async def test_tls_trusts_the_authority_that_the_environment_names(
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    works: bool,
) -> None:
    """`SSL_CERT_FILE` with a private authority is enough, and the host's name is still checked."""
    authority, context = tls(host)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with RawGateway().serve(context) as gateway, client_of(gateway.base_url) as client:
        if works:
            await client.send(PHONE, TEXT)
        else:
            with pytest.raises(ConnectionFailedError, match="not trusted"):
                await client.send(PHONE, TEXT)


@pytest.mark.parametrize("way", ["plain", "tls", "proxy"])
async def test_sequential_sends_share_one_connection(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection of an answer that was read to its end serves again."""
    authority, context = tls("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with RawGateway().serve(context if way == "tls" else None) as gateway:
        if way == "proxy":
            monkeypatch.setenv("HTTP_PROXY", f"http://localhost:{gateway.port}")
        client = client_of("http://sms.example" if way == "proxy" else gateway.base_url)
        for _ in range(5):
            await client.send(PHONE, TEXT)
        assert gateway.accepted == 1
        await asyncio.gather(*(client.send(PHONE, TEXT) for _ in range(3)))
        assert gateway.accepted <= 3
        await client.aclose()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("size", [len(json.dumps(RECEIPT)), 2**16 - len(http(b" " * 2**15)) + 2**15])
async def test_bytes_after_an_answer_are_not_the_next_messages_answer(
    size: int, secure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stray receipt is not taken for the next message's. It may wait in the parser, in TLS or in the queue."""
    authority, context = tls("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    async def twice(connection: Connection) -> None:
        connection.writer.write(http(pad(size)))
        await connection.write(http({"status": "sent", "msg_uid": "of another message"}))

    async with RawGateway(twice).serve(context if secure else None) as gateway, client_of(gateway.base_url) as client:
        for _ in range(3):
            assert (await client.send(PHONE, TEXT)).msg_uid == RECEIPT["msg_uid"]
        assert len(gateway.requests) == 3


async def test_bytes_on_an_idle_connection_are_not_the_next_messages_answer() -> None:
    """A receipt that was not asked for is not taken for the next message's, however late it comes."""
    come = asyncio.Event()

    async def later(connection: Connection) -> None:
        await receipt(connection)
        for _ in range(100):  # turns of the loop, in which the client takes the answer
            await asyncio.sleep(0)
        await connection.write(http({"status": "sent", "msg_uid": "of another message"}))
        come.set()

    async with RawGateway(later).serve() as gateway, client_of(gateway.base_url) as client:
        for _ in range(3):
            assert (await client.send(PHONE, TEXT)).msg_uid == RECEIPT["msg_uid"]
            await asyncio.wait_for(come.wait(), HANG)
            come.clear()


async def test_idle_connections_are_closed_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection does not stay open until the client is closed."""
    for room in (_connections, oca_sms_async.aiohttp):
        monkeypatch.setattr(room, "KEEPALIVE", 0.02)
    async with RawGateway().serve() as gateway, client_of(gateway.base_url) as client:
        await asyncio.gather(*(client.send(PHONE, TEXT) for _ in range(10)))
        await asyncio.wait_for(gateway.all_closed(), HANG)
        await client.send(PHONE, TEXT)


async def test_a_server_that_closes_after_each_answer_causes_no_doubt() -> None:
    """A connection that was closed while it was idle is not used again."""
    async with RawGateway(says(http(RECEIPT))).serve() as gateway, client_of(gateway.base_url) as client:
        for _ in range(5):
            await client.send(PHONE, TEXT)
            await asyncio.wait_for(gateway.all_closed(), HANG)
        assert gateway.accepted == 5


async def test_no_connection_is_open_after_aclose() -> None:
    """Idle connections and those under a request are closed, seen from the server; the latter's send is in doubt."""
    async with RawGateway().serve() as gateway:
        client = client_of(gateway.base_url, timeout=600.0)
        await asyncio.gather(*(client.send(PHONE, TEXT) for _ in range(50)))
        gateway.behaviour = say_nothing
        stuck = asyncio.create_task(client.send(PHONE, TEXT))
        await gateway.has_read(51)
        await client.aclose()
        await client.aclose()
        assert "_closed" not in {getattr(task.get_coro(), "__name__", "") for task in asyncio.all_tasks()}
        await asyncio.wait_for(gateway.all_closed(), HANG)
        with pytest.raises(DeliveryUnknownError):
            await stuck
        with pytest.raises(RuntimeError, match="closed"):
            await client.send(PHONE, TEXT)


async def test_a_thousand_cancelled_sends_leave_the_client_healthy() -> None:
    """After 1,000 sends cancelled at random moments every further send works, and nothing is left open."""
    dice = random.Random(7)

    async def moody(connection: Connection) -> None:
        for _ in range(dice.randrange(20)):
            await asyncio.sleep(0)
        await receipt(connection)

    async with RawGateway(moody).serve() as gateway:
        async with client_of(gateway.base_url) as client:

            async def cancelled() -> None:
                task = asyncio.create_task(client.send(PHONE, TEXT))
                for _ in range(dice.randrange(60)):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            for _ in range(10):
                await asyncio.gather(*(cancelled() for _ in range(100)))
            assert gateway.accepted > 100  # else the cancellations came before anything happened
            connections = client._dispatcher._client._transport
            assert not isinstance(connections, Connections) or connections._busy == set()
            gateway.behaviour = receipt
            receipts = await asyncio.gather(*(client.send(PHONE, TEXT) for _ in range(300)))
            assert len(receipts) == 300
        await asyncio.wait_for(gateway.all_closed(), HANG)


async def test_a_cold_gather_of_five_thousand_sends_sees_no_time_out() -> None:
    """The clock of a request does not run while it waits for its slot. At most 256 requests are in flight."""
    async with RawGateway().serve() as gateway, client_of(gateway.base_url) as client:
        receipts = await asyncio.gather(*(client.send(PHONE, TEXT) for _ in range(5000)))
        assert len(receipts) == 5000
        assert gateway.most_in_flight <= 256
        assert gateway.accepted <= 256


def test_a_stall_of_the_gateway_is_not_followed_by_a_burst() -> None:
    """After a stall of 7 s the requests that waited for a slot go out no faster than the limit."""
    starts: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stalled_until = loop.time() + 7

        async def answer(_: httpx.Request) -> httpx.Response:
            starts.append(loop.time())
            await asyncio.sleep(max(0.05, stalled_until - loop.time()))
            return httpx.Response(200, json=RECEIPT)

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as lent:
            limiter = TokenBucket(rate=100.0)
            client = client_of("https://sms.example", http_client=lent, limiter=limiter)
            await asyncio.gather(*(client.send(PHONE, TEXT) for _ in range(1000)))

    virtual_time.run(main())
    assert len(starts) == 1000
    assert any(later - earlier > 3 for earlier, later in pairwise(starts))  # the stall was felt
    assert max(sum(start <= s < start + 1 for s in starts) for start in starts) <= 101


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
)
async def test_redirects_are_not_followed(status: str) -> None:
    """A redirect is an error, and no request follows it: the credentials stay here."""
    async with RawGateway().serve() as other:
        redirect = http(b"", status, f"location: http://localhost:{other.port}/\r\n")
        async with RawGateway(says(redirect)).serve() as gateway, client_of(gateway.base_url) as client:
            with pytest.raises(ApiError) as caught:
                await client.send(PHONE, TEXT)
            assert (caught.value.status_code, caught.value.may_have_been_sent) == (int(status[:3]), True)
            assert len(gateway.requests) == 1
        assert other.accepted == 0


async def test_a_redirect_to_a_url_that_cannot_be_read_is_the_same_error(transport: str) -> None:
    """The status is the error, however odd the Location."""
    for location in ("http://[", "http://\xb2", "x" * 70_000):
        redirect = http(b"", "302 Found", f"location: {location}\r\n")
        async with RawGateway(says(redirect)).serve() as gateway, client_of(gateway.base_url) as client:
            expected = DeliveryUnknownError if transport == "aiohttp" and len(location) > 8190 else ApiError
            with pytest.raises(expected):
                await client.send(PHONE, TEXT)


async def test_no_cookie_is_kept() -> None:
    """A cookie of one answer does not go with the next request: it would tie messages to each other."""
    answer = http(RECEIPT, headers="set-cookie: session=1\r\n")
    async with RawGateway(says(answer)).serve() as gateway, client_of(gateway.base_url) as client:
        for _ in range(2):
            await client.send(PHONE, TEXT)
        assert not any(b"cookie" in request.lower() for request in gateway.requests)


def pad(size: int) -> bytes:
    """Return a receipt of exactly so many bytes."""
    body = json.dumps(RECEIPT).encode()
    return body + b" " * (size - len(body))


async def test_an_answer_is_read_up_to_a_mebibyte_and_not_further() -> None:
    """An answer of 1 MiB is read. One byte more is an unexpected answer, and the connection is closed."""

    async def endless(connection: Connection) -> None:
        await connection.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(10_000):  # until the client hangs up, or 640 MB later
            await connection.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")

    def pack_endlessly(begin: bytes, more: bytes) -> Behaviour:
        async def behaviour(connection: Connection) -> None:
            await connection.write(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n")
            await connection.write(b"%x\r\n%b\r\n" % (len(begin), begin))
            for _ in range(10_000):
                await connection.write(b"%x\r\n%b\r\n" % (len(more), more))

        return behaviour

    pack = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    begin = pack.compress(b" ") + pack.flush(zlib.Z_FULL_FLUSH)
    bodies = [
        pack_endlessly(gzip.compress(json.dumps(RECEIPT).encode()), b" " * 0x10000),
        pack_endlessly(begin, b"\0\0\0\xff\xff" * 9999),
    ]
    async with RawGateway(says(http(pad(2**20)))).serve() as gateway, client_of(gateway.base_url) as client:
        await client.send(PHONE, TEXT)
        for behaviour in (says(http(pad(2**20 + 1))), endless, *bodies):
            gateway.behaviour = behaviour
            with pytest.raises(UnexpectedResponseError) as caught:
                await client.send(PHONE, TEXT)
            assert caught.value.may_have_been_sent
        await asyncio.wait_for(gateway.all_closed(), HANG)
        gateway.behaviour = receipt
        await client.send(PHONE, TEXT)


async def test_a_refusal_too_long_to_read_is_classed_by_its_status() -> None:
    """The HTTP status is known even where the body is not."""
    answer = http(b" " * (2**20 + 1), "406 Not Acceptable")
    async with RawGateway(says(answer)).serve() as gateway, client_of(gateway.base_url) as client:
        with pytest.raises(ApiError) as caught:
            await client.send(PHONE, TEXT)
        assert (caught.value.status_code, caught.value.code, caught.value.may_have_been_sent) == (406, None, False)


@pytest.mark.parametrize(
    ("encoding", "content", "works"),
    [
        ("gzip", gzip.compress(json.dumps(RECEIPT).encode()), True),
        ("deflate", zlib.compress(json.dumps(RECEIPT).encode()), True),
        ("identity", json.dumps(RECEIPT).encode(), True),
        ("gzip", gzip.compress(pad(2**20)), True),
        ("gzip", gzip.compress(pad(2**20 + 1)), False),
        ("gzip", gzip.compress(bytes(100_000_000)), False),
        ("gzip", gzip.compress(json.dumps(RECEIPT).encode())[:-4], False),
        ("gzip", b"no gzip at all", False),
        ("br", json.dumps(RECEIPT).encode(), False),
    ],
    ids=["gzip", "deflate", "identity", "1 MiB", "1 MiB and a byte", "bomb", "truncated", "broken", "unknown"],
)
async def test_compressed_answers(encoding: str, content: bytes, works: bool) -> None:
    """Compressed answers are read within the same bound. An answer that cannot be decompressed is unexpected."""
    answer = http(content, headers=f"content-encoding: {encoding}\r\n")
    async with RawGateway(says(answer)).serve() as gateway, client_of(gateway.base_url) as client:
        if works:
            assert (await client.send(PHONE, TEXT)).msg_uid == RECEIPT["msg_uid"]
        else:
            with pytest.raises(UnexpectedResponseError):
                await client.send(PHONE, TEXT)


async def test_a_bomb_is_not_unpacked() -> None:
    """A few kilobytes that would become many megabytes are read up to the bound only."""
    bomb = http(gzip.compress(bytes(100_000_000)), headers="content-encoding: gzip\r\n")
    async with RawGateway(says(bomb)).serve() as gateway, client_of(gateway.base_url) as client:
        tracemalloc.start()
        try:
            with pytest.raises(UnexpectedResponseError):
                await client.send(PHONE, TEXT)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 16 * 2**20


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """`HTTP_PROXY` is asked for the gateway's address, unless `NO_PROXY` names the host."""
    async with RawGateway().serve() as proxy, RawGateway().serve() as gateway:
        monkeypatch.setenv("HTTP_PROXY", f"http://localhost:{proxy.port}")
        async with client_of(gateway.base_url) as client:
            await client.send(PHONE, TEXT)
        assert (len(proxy.requests), len(gateway.requests)) == (1, 0)
        assert proxy.requests[0].startswith(f"POST http://localhost:{gateway.port}/api/v1/sms ".encode())
        monkeypatch.setenv("NO_PROXY", "localhost")
        async with client_of(gateway.base_url) as client:
            await client.send(PHONE, TEXT)
        assert (len(proxy.requests), len(gateway.requests)) == (1, 1)


@pytest.mark.parametrize("no_proxy", ["127.0.0.0/8", "[::1], fe80::/10, 127.0.0.1", "*"])
@pytest.mark.parametrize("proxied", [True, False])
async def test_no_proxy_may_name_networks(no_proxy: str, proxied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installers of Docker and Kubernetes write such entries, with a proxy or without one."""
    async with RawGateway().serve() as proxy, RawGateway().serve() as gateway:
        if proxied:
            monkeypatch.setenv("HTTP_PROXY", f"http://localhost:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        async with client_of(f"http://127.0.0.1:{gateway.port}") as client:
            await client.send(PHONE, TEXT)
        assert (len(proxy.requests), len(gateway.requests)) == (0, 1)


@pytest.mark.parametrize("password", ["p%40ss", "p:ss", "pä", "%D0%BF%D1%8C"])
async def test_a_proxys_password_may_have_any_letter(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent in UTF-8, and percent escapes are decoded."""
    async with RawGateway().serve() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:{password}@localhost:{proxy.port}")
        async with client_of("http://sms.example") as client:
            await client.send(PHONE, TEXT)
        credentials = base64.b64encode(f"user:{unquote(password)}".encode())
        assert b"\r\nproxy-authorization: basic " + credentials.lower() in proxy.requests[0].lower()
        tunnels = list[bytes]()

        async def refuse(connection: Connection) -> None:
            tunnels.append(await connection.reader.readuntil(b"\r\n\r\n"))
            await connection.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")

        proxy.on_connect = refuse
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{password}@localhost:{proxy.port}")
        async with client_of("https://sms.example") as client:
            with pytest.raises(ConnectionFailedError, match="the proxy refused"):
                await client.send(PHONE, TEXT)
        assert [credentials.lower() in tunnel.lower() for tunnel in tunnels] == [True]
        assert b"dXNlckBleGFtcGxlLmNvbTpzZWNyZXQ=" not in tunnels[0]


@pytest.mark.parametrize("proxy", ["foo://user:marker@localhost:1", "socks5://user:marker@localhost:1"])
def test_a_proxy_that_cannot_be_used_is_told_at_once(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is bad configuration, not a message in doubt. Its password is not shown."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ValueError, match="proxy") as caught:
        client_of("https://sms.example")
    assert "marker" not in repr((caught.value, caught.value.__context__))


PROOF: list[Exception] = [httpx.ConnectError("x"), httpx.ConnectTimeout("x"), httpx.PoolTimeout("x")]
DOUBT: list[Exception] = [
    httpx.ReadError("x"),
    httpx.ReadTimeout("x"),
    httpx.WriteError("x"),
    httpx.WriteTimeout("x"),
    httpx.CloseError("x"),
    httpx.RemoteProtocolError("x"),
    httpx.LocalProtocolError("x"),
    httpx.ProxyError("x"),
    httpx.UnsupportedProtocol("x"),
    httpx.DecodingError("x"),
    httpx.TooManyRedirects("x"),
    OSError("x"),
    KeyError("x"),
]


@of_httpx
@pytest.mark.parametrize("trouble", PROOF + DOUBT, ids=lambda trouble: type(trouble).__name__)
@respx.mock
async def test_httpx_exceptions_by_one_table(trouble: Exception) -> None:
    """Three exceptions of httpx prove that nothing left. The others leave doubt. Each becomes an error of ours."""
    route = respx.post("https://sms.example/api/v1/sms").mock(side_effect=trouble)
    async with client_of("https://sms.example/api/v1") as client:
        with pytest.raises(OcaSmsError) as caught:
            await client.send(PHONE, TEXT)
    assert type(caught.value) is (ConnectionFailedError if trouble in PROOF else DeliveryUnknownError)
    assert caught.value.may_have_been_sent is (trouble not in PROOF)
    assert type(caught.value.__cause__) is type(trouble)
    assert route.call_count == 1


@respx.mock
@of_httpx
async def test_no_time_out_of_httpx_ends_an_attempt_before_its_time() -> None:
    """The client's own time-out counts alone: httpx's default of 5 s would cut a longer one short."""
    route = respx.post("https://sms.example/sms").respond(json=RECEIPT)
    async with client_of("https://sms.example", timeout=60.0) as client:
        await client.send(PHONE, TEXT)
    assert set(route.calls.last.request.extensions.get("timeout", {}).values()) <= {None}


@pytest.mark.parametrize("trouble", PROOF, ids=lambda trouble: type(trouble).__name__)
async def test_a_lent_client_of_another_make_proves_nothing(trouble: Exception) -> None:
    """«Could not connect» is proof only from httpx's own transport: others say it of a reset after the request."""

    async def fail(_: httpx.Request) -> httpx.Response:
        raise trouble

    async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as lent:
        client = client_of("https://sms.example", http_client=lent)
        with pytest.raises(DeliveryUnknownError) as caught:
            await client.send(PHONE, TEXT)
        assert caught.value.may_have_been_sent


async def test_a_lent_client_is_used_as_it_is_and_stays_open() -> None:
    """Its default headers are sent, the proof of httpx's own transport counts, and it is not closed."""
    async with RawGateway().serve() as gateway, httpx.AsyncClient(headers={"X-Team": "otp"}, trust_env=False) as lent:
        async with client_of(gateway.base_url, http_client=lent) as client:
            await client.send(PHONE, TEXT)
        assert b"x-team: otp" in gateway.requests[0].lower()
        assert not lent.is_closed
        assert (await lent.get(f"http://localhost:{gateway.port}/")).status_code == 200
        client = client_of(f"http://localhost:{free_port()}", http_client=lent)
        with pytest.raises(ConnectionFailedError):
            await client.send(PHONE, TEXT)
    with pytest.raises(RuntimeError, match="lent"):
        await client.send(PHONE, TEXT)


async def test_the_request_on_the_wire() -> None:
    """One POST: path, credentials, type and body as documented, and no more headers than needed."""
    async with RawGateway().serve() as gateway:
        async with AsyncOcaSms("test@gmail.com", "test123", base_url=gateway.base_url) as client:
            await client.send("0813 8147 5159", "Kode: 1234")
        head, _, body = gateway.requests[0].partition(b"\r\n\r\n")
        line, *headers = head.decode().split("\r\n")
        named = dict(header.lower().split(": ", 1) for header in headers)
        assert line == "POST /api/v1/sms HTTP/1.1"
        assert named["authorization"] == "basic dGVzdEBnbWFpbC5jb206dGVzdDEyMw==".lower()
        assert named["content-type"] == "application/json"
        assert json.loads(body) == {"phone": "+6281381475159", "message": "Kode: 1234"}
        assert set(named) == {
            *("host", "accept", "accept-encoding", "user-agent"),
            *("authorization", "content-type", "content-length"),
        }


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of the first loop
def test_one_client_serves_one_loop_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of a closed loop are not used in the next one."""
    client = client_of("http://localhost")

    async def use() -> int:
        async with RawGateway().serve() as gateway:
            monkeypatch.setattr(client._dispatcher._requests, "url", lambda path: httpx.URL(gateway.base_url + path))
            await asyncio.gather(*(client.send(PHONE, TEXT) for _ in range(3)))
            return len(gateway.requests)

    assert [asyncio.run(use()), asyncio.run(use())] == [3, 3]
    asyncio.run(client.aclose())
    # The sockets of a closed loop cannot be closed, and asyncio warns of them: here, not in another test.
    gc.collect()


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of the first loop
def test_closing_does_not_wait_for_a_loop_that_stands_still() -> None:
    """A loop that ends right after a time-out is still closing its connection; `aclose` in the next loop returns."""
    loop = asyncio.new_event_loop()
    client = client_of("http://localhost", timeout=0.5)

    async def time_out() -> None:
        async with RawGateway(say_nothing).serve() as gateway:
            client._dispatcher._requests.url = lambda path: httpx.URL(gateway.base_url + path)  # type: ignore[assignment, misc, method-assign, unused-ignore] # as above
            with pytest.raises(DeliveryUnknownError):
                await client.send(PHONE, TEXT)

    try:
        loop.run_until_complete(time_out())
        asyncio.run(asyncio.wait_for(client.aclose(), HANG))
    finally:
        loop.close()
        gc.collect()

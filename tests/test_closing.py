"""Closing a client ends its waits at once, and each send that it ends has an answer."""

import asyncio

import httpx
import pytest
from on_sockets import client_of
from raw_gateway import Connection, RawGateway
from virtual_time import in_virtual_time

from oca_sms_async import AsyncOcaSms, ClientClosedError, Failed, RetryPolicy, SendReceipt, Skipped, Sms, TokenBucket

PHONE, TEXT = "+6281234567890", "Acme: 482913 is your code"


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


def accept(_: httpx.Request) -> httpx.Response:
    """Accept a message."""
    return httpx.Response(200, json={"status": "sent", "msg_uid": "d3a925"})


def fail(_: httpx.Request) -> httpx.Response:
    """Answer with an internal error."""
    return httpx.Response(500, json={"errors": [{"message": "Internal Error", "code": 13}]})


def client_with(limiter: TokenBucket, answer: object = accept, retry: RetryPolicy = RetryPolicy()) -> AsyncOcaSms:  # noqa: B008 - a frozen value
    """Return a client over a transport without sockets."""
    http_client = httpx.AsyncClient(transport=httpx.MockTransport(answer))  # type: ignore[arg-type]  # one of the two above
    return AsyncOcaSms("user@example.com", "secret", limiter=limiter, retry=retry, http_client=http_client)


@in_virtual_time
async def test_a_closed_clients_waiters_leave_a_shared_limiter() -> None:
    """Another client's message takes the next token, although 50 of the closed client waited before it."""
    limiter = TokenBucket(1.0)
    closed, other = client_with(limiter), client_with(limiter)
    await closed.send(PHONE, TEXT)
    waiting = [asyncio.create_task(closed.send(PHONE, TEXT)) for _ in range(50)]
    await asyncio.sleep(0.25)
    await closed.aclose()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert now() == 1000.25
    assert {type(end) for end in ends} == {ClientClosedError}
    assert not any(end.may_have_been_sent for end in ends if isinstance(end, ClientClosedError))
    assert isinstance(await other.send(PHONE, TEXT), SendReceipt)
    assert now() == pytest.approx(1001)


@in_virtual_time
async def test_closing_ends_a_back_off() -> None:
    """A message whose first attempt had an internal error is in doubt, and its send ends at once."""
    client = client_with(TokenBucket(10.0), fail, RetryPolicy(initial_wait=1000, max_wait=1000))
    sending = asyncio.create_task(client.send(PHONE, TEXT))
    await asyncio.sleep(0.01)
    await client.aclose()
    with pytest.raises(ClientClosedError) as caught:
        await sending
    assert now() == pytest.approx(1000.01)
    assert caught.value.may_have_been_sent
    assert caught.value.attempts == 1


@in_virtual_time
async def test_a_wait_for_a_slot_ends_by_closing() -> None:
    """More messages than slots and tokens: those that wait for a slot wait for no token, and nothing more is sent."""
    requests = 0

    async def hang(_: httpx.Request) -> httpx.Response:
        nonlocal requests
        requests += 1
        await asyncio.sleep(5)
        return accept(_)

    client = client_with(TokenBucket(0.001, capacity=256), hang)
    sends = [asyncio.create_task(client.send(PHONE, TEXT)) for _ in range(300)]
    await asyncio.sleep(1)
    await client.aclose()
    ends = await asyncio.gather(*sends, return_exceptions=True)
    assert requests == 256
    assert now() == pytest.approx(1005)
    assert sum(isinstance(end, SendReceipt) for end in ends) == 256  # the http_client was lent, and is not closed
    assert sum(isinstance(end, ClientClosedError) for end in ends) == 44


@in_virtual_time
async def test_closing_in_mid_bulk_leaves_no_message_without_an_outcome() -> None:
    """Requests on the wire end as the gateway says, waiting messages are skipped, and nothing more is pulled."""

    async def answer_late(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(1)
        return accept(request)

    client = client_with(TokenBucket(10.0), answer_late)
    messages = [Sms(f"+62812345{number:05}", TEXT) for number in range(500)]
    async with client.bulk(messages, concurrency=16) as run:
        taking = asyncio.create_task(run.report())
        await asyncio.sleep(1.55)
        pulled = run.pulled
        await client.aclose()
        report = await taking
    assert isinstance(run.stopped_by, ClientClosedError)
    assert run.pulled == pulled == len(report.outcomes)
    assert (len(report.sent), len(report.skipped), len(report.failed)) == (16, pulled - 16, 0)
    assert pulled > 16


async def test_closing_in_mid_bulk_leaves_doubt_about_the_requests_on_the_wire() -> None:
    """The client closes its own connections: a message whose answer it does not hear any more is in doubt."""

    async def say_nothing(connection: Connection) -> None:
        await connection.until_hung_up()

    async with RawGateway(say_nothing).serve() as gateway:
        client = client_of(gateway.base_url, timeout=600.0)
        async with client.bulk([Sms(PHONE, str(number)) for number in range(99)], concurrency=4) as run:
            taking = asyncio.create_task(run.report())
            await gateway.has_read(4)
            await client.aclose()
            report = await taking
    assert isinstance(run.stopped_by, ClientClosedError)
    assert run.pulled == len(report.outcomes)
    assert len(gateway.requests) == 4
    on_the_wire = [outcome for outcome in report.outcomes if isinstance(outcome, Failed)]
    assert [outcome.error.may_have_been_sent for outcome in on_the_wire] == [True] * 4
    assert all(isinstance(outcome, Skipped) for outcome in report.outcomes if outcome not in on_the_wire)

"""Recipes that a user would write without this library, and the library itself. Each sends a list of messages."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import aiolimiter
import cattrs
import httpx
import tenacity
from attrs import frozen

from oca_sms_async import AsyncOcaSms, RateLimiter, Sms, TokenBucket
from oca_sms_async.aiohttp import aiohttp_client

ACCOUNT = ("user@example.com", "secret")
Send = Callable[[list[Sms]], Awaitable[object]]
Recipe = Callable[[str, int], AbstractAsyncContextManager[Send]]


@frozen
class Receipt:
    """The gateway's answer."""

    status: str
    msg_uid: str


class InternalError(Exception):
    """HTTP 500 with code 13."""


retrying = tenacity.retry(
    retry=tenacity.retry_if_exception_type(InternalError),
    stop=tenacity.stop_after_attempt(4),
    wait=tenacity.wait_random_exponential(multiplier=0.5, max=8),
    reraise=True,
)


def receipt(status: int, body: Any) -> Receipt:
    """Return a receipt, or raise the error that the status stands for."""
    if status == 500 and str(body["errors"][0]["code"]) == "13":
        raise InternalError
    if status != 200:
        raise RuntimeError(status)
    return cattrs.structure(body, Receipt)


async def send_all(send: Callable[[Sms], Awaitable[object]], messages: list[Sms], concurrency: int) -> None:
    """Send so many at once, the usual way."""
    room = asyncio.Semaphore(concurrency)

    async def one(sms: Sms) -> None:
        async with room:
            await send(sms)

    await asyncio.gather(*map(one, messages))


@asynccontextmanager
async def with_httpx(base_url: str, concurrency: int) -> AsyncIterator[Send]:
    """httpx, tenacity, aiolimiter and cattrs, by hand."""
    limiter = aiolimiter.AsyncLimiter(1_000_000, 1)
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=base_url, auth=ACCOUNT, limits=limits, timeout=10) as client:

        @retrying
        async def send(sms: Sms) -> Receipt:
            async with limiter:
                response = await client.post("/sms", json={"phone": sms.phone, "message": sms.message})
            return receipt(response.status_code, response.json())

        yield lambda messages: send_all(send, messages, concurrency)


@asynccontextmanager
async def with_aiohttp(base_url: str, concurrency: int) -> AsyncIterator[Send]:
    """aiohttp, tenacity, aiolimiter and cattrs, by hand."""
    limiter = aiolimiter.AsyncLimiter(1_000_000, 1)
    connector = aiohttp.TCPConnector(limit=concurrency)
    auth, timeout = aiohttp.BasicAuth(*ACCOUNT), aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(connector=connector, auth=auth, timeout=timeout) as session:

        @retrying
        async def send(sms: Sms) -> Receipt:
            async with (
                limiter,
                session.post(f"{base_url}/sms", json={"phone": sms.phone, "message": sms.message}) as response,
            ):
                return receipt(response.status, await response.json())

        yield lambda messages: send_all(send, messages, concurrency)


def make_unlimited() -> RateLimiter:
    """Return our limiter with the work of theirs and no waiting."""
    return TokenBucket(rate=1e6, capacity=1e6)


@asynccontextmanager
async def ours(base_url: str, concurrency: int) -> AsyncIterator[Send]:
    """`AsyncOcaSms`, as it is installed."""
    async with AsyncOcaSms(*ACCOUNT, base_url=base_url, limiter=make_unlimited()) as client:
        yield lambda messages: client.send_many(messages, concurrency=concurrency)


@asynccontextmanager
async def ours_fast(base_url: str, concurrency: int) -> AsyncIterator[Send]:
    """`AsyncOcaSms` on aiohttp's connections."""
    async with (
        aiohttp_client() as lent,
        AsyncOcaSms(*ACCOUNT, base_url=base_url, limiter=make_unlimited(), http_client=lent) as client,
    ):
        yield lambda messages: client.send_many(messages, concurrency=concurrency)


class _Bare(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.answered is not None:
            self.answered.set_result(data)


@asynccontextmanager
async def bare(base_url: str, concurrency: int) -> AsyncIterator[Send]:
    """A protocol of asyncio that writes one buffer and reads one: the least that a client can cost."""
    url, loop = httpx.URL(base_url), asyncio.get_running_loop()
    connections = [(await loop.create_connection(_Bare, url.host, url.port or 80))[1] for _ in range(concurrency)]
    head = f"POST {url.path}/sms HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n"

    async def send(messages: list[Sms]) -> None:
        left = iter(messages)

        async def work(connection: _Bare) -> None:
            for sms in left:
                body = json.dumps({"phone": sms.phone, "message": sms.message})
                connection.answered = loop.create_future()
                request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
                connection.transport.write(request)  # type: ignore[attr-defined] # a stream's transport
                await connection.answered

        await asyncio.gather(*map(work, connections))

    yield send
    for connection in connections:
        connection.transport.close()


RECIPES: dict[str, Recipe] = {
    "ours": ours,
    "ours, aiohttp": ours_fast,
    "httpx recipe": with_httpx,
    "aiohttp recipe": with_aiohttp,
    "bare protocol": bare,
}

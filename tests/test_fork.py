"""A client that was used before a fork works in the child or says why it cannot, and the parent's goes on."""

import asyncio
import os
import sys

import pytest
from raw_gateway import RECEIPT, Connection, RawGateway, receipt

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

ANSWER = RECEIPT["msg_uid"]

CLIENT = """
import asyncio, gc, os, sys
import httpx
from oca_sms_async import AsyncOcaSms, Unlimited
from oca_sms_async.aiohttp import aiohttp_client

url, kind, use = sys.argv[1:]

async def send(client):
    try:
        print((await client.send("+6281381475159", "Acme: 482913 is your code")).msg_uid, flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    gc.collect()

async def close(client, lent):
    await client.aclose()
    if lent is not None:
        await lent.aclose()
    gc.collect()

async def parent():
    lent = {"own": lambda: None, "aiohttp": aiohttp_client, "httpx": httpx.AsyncClient}[kind]()
    client = AsyncOcaSms("user@example.com", "secret", base_url=url, limiter=Unlimited(), timeout=5, http_client=lent)
    await send(client)
    sending = asyncio.create_task(send(client)) if use == "close" else None
    for _ in range(50):  # the request is on the wire: its connection stands already
        await asyncio.sleep(0)
    if not (child := os.fork()):
        try:
            asyncio.run(send(client) if use == "send" else close(client, lent))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    print("child ended", flush=True)
    await (sending or send(client))
    await close(client, lent)

asyncio.run(parent())
"""


async def run_client(gateway: RawGateway, kind: str, use: str) -> list[str]:
    """Return what a client printed that sends, forks, has the child send or close, and sends again.

    The gateway answers each request but the second one of a client that closes, which it answers after the child's end.
    """
    ended = asyncio.Event()

    async def answer(connection: Connection) -> None:
        if use == "close" and len(gateway.requests) == 2:
            await ended.wait()
        await receipt(connection)

    gateway.behaviour = answer
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", CLIENT, gateway.base_url, kind, use),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[str] = []
    async with asyncio.timeout(60):
        async for line in process.stdout:
            lines.append(line.decode().rstrip("\n"))
            if lines[-1] == "child ended":
                ended.set()
        errors = await process.stderr.read()
        await process.wait()
    assert errors == b"", errors.decode()
    return lines


@pytest.mark.parametrize("kind", ["own", "aiohttp"])
async def test_a_client_that_was_used_before_a_fork_works_in_the_child(kind: str) -> None:
    """The child makes a connection of its own, and the parent's connection serves the parent again."""
    async with RawGateway().serve() as gateway:
        assert await run_client(gateway, kind, "send") == [ANSWER, ANSWER, "child ended", ANSWER]
        assert gateway.accepted == 2


async def test_a_lent_client_that_was_used_before_a_fork_sends_nothing_in_the_child() -> None:
    """The connections of httpx's own transport are the parent's, which could take the child's answer for its own."""
    async with RawGateway().serve() as gateway:
        refusal = "ClientClosedError the http_client that was lent to this client was used before a fork"
        lines = await run_client(gateway, "httpx", "send")
        assert lines == [ANSWER, f"{refusal}: lend each process its own", "child ended", ANSWER]
        assert gateway.accepted == 1


@pytest.mark.parametrize("kind", ["own", "aiohttp"])
async def test_closing_in_the_child_leaves_the_parents_request_alone(kind: str) -> None:
    """The child closes the client while a request of the parent is on the wire, and the parent hears the answer."""
    async with RawGateway().serve() as gateway:
        assert await run_client(gateway, kind, "close") == [ANSWER, "child ended", ANSWER]
        assert gateway.accepted == 1


PERMITS = """
import asyncio, os
from oca_sms_async._call import CallState
from oca_sms_async._keyed import KeyedSends
from oca_sms_async._waiting import Priority, PrioritySemaphore

semaphore, sends = PrioritySemaphore(1), KeyedSends(None, seconds=10.0)

async def hold():
    async with sends._alone("otp-1", None, CallState()):
        with await semaphore.acquire(Priority.BULK, None):
            print("held", flush=True)
            await asyncio.sleep(0)

async def parent():
    holding = asyncio.create_task(hold())
    await asyncio.sleep(0)
    if not (child := os.fork()):
        try:
            asyncio.run(asyncio.wait_for(hold(), 10))
            asyncio.run(asyncio.wait_for(hold(), 10))
            holding.get_coro().close()
            print("free", semaphore._free, flush=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    await holding
    print("free", semaphore._free, flush=True)

asyncio.run(parent())
"""


async def test_what_the_parent_holds_is_free_in_the_child() -> None:
    """A permit and a key that a send of the parent holds at the fork do not hold up the child."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PERMITS), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert output.decode().splitlines() == ["held", "held", "held", "free 1", "free 1"], errors.decode()

"""What all tests share: a sandbox on a real socket, and a client on it that does not wait."""

from collections.abc import AsyncIterator

import pytest

from oca_sms_async import AsyncOcaSms, RetryPolicy, Unlimited, _dispatch
from oca_sms_async.aiohttp import aiohttp_client
from oca_sms_async.sandbox import Sandbox

pytest_plugins = ["pytester", "postgres_server"]


@pytest.fixture(params=["httpx", "aiohttp"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two transports in turn, for every client without a lent one."""
    if request.param == "aiohttp":
        monkeypatch.setattr(_dispatch, "own_client", lambda _: aiohttp_client())
    return str(request.param)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A sandbox, served on a free port."""
    async with Sandbox().serve() as served:
        yield served


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[AsyncOcaSms]:
    """A client of that sandbox, without a limit and without waits between attempts."""
    async with AsyncOcaSms(
        sandbox.username,
        sandbox.password,
        base_url=sandbox.base_url,
        limiter=Unlimited(),
        retry=RetryPolicy(initial_wait=0, max_wait=0),
    ) as opened:
        yield opened

"""The fixtures of all tests: a sandbox on a real socket, and a client of it that does not wait."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import pytest
from anyio.from_thread import start_blocking_portal
from each_api import connect
from hypothesis import HealthCheck, settings

from oca_sms_async import AsyncOcaSms, _dispatch
from oca_sms_async.aiohttp import aiohttp_client
from oca_sms_async.sandbox import Sandbox

if sys.platform != "win32":  # where uvloop does not run
    import uvloop

# `nohup` and some CI runners ignore SIGHUP, and background jobs of a shell SIGINT. All processes of a test inherit it.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The first text that Hypothesis draws on a fresh machine takes a second, for its table of characters. That says nothing
# about a test's strategies.
settings.register_profile("suite", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

pytest_plugins = ["pytester", "command", "postgres_server", "queues"]

# The limiter, the client and its bulk run on uvloop too: `uvicorn[standard]` installs it, so many users have it.
ON_UVLOOP_TOO: Final = {"test_bulk", "test_client", "test_redis", "test_statistics", "test_waiting"}


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the kinds of event loop that an asynchronous test runs on, one after the other."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if sys.platform != "win32" and item.path.stem in ON_UVLOOP_TOO:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(params=["httpx", "aiohttp"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two transports in turn, for every client without a lent one."""
    if request.param == "aiohttp":
        monkeypatch.setattr(_dispatch, "own_client", lambda _: aiohttp_client())
    return str(request.param)


@pytest.fixture
def api(request: pytest.FixtureRequest) -> str:
    """The name of the API that the clients of a sandbox use: V1, or those with which `each_api` marks a test."""
    return str(getattr(request, "param", "regular-v1"))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A sandbox, served on a free port."""
    async with Sandbox().serve() as served:
        yield served


@pytest.fixture
def sandbox_in_thread() -> Iterator[Sandbox]:
    """A sandbox in a thread of its own, for tests that block theirs."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Sandbox().serve()) as served:
        yield served


@pytest.fixture
async def client(sandbox: Sandbox, api: str) -> AsyncIterator[AsyncOcaSms]:
    """A client of that sandbox, without a limit and without back-off."""
    async with connect(sandbox, api) as opened:
        yield opened

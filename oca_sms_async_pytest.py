"""The pytest plugin's entry: two fixtures, which import the package once a test asks for them.

It stands beside the package `oca_sms_async`, because a module inside would import the package with it, in every run of
pytest on the machine. Its face for users is `oca_sms_async.testing`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from oca_sms_async import AsyncOcaSms
    from oca_sms_async.sandbox import Sandbox


@pytest.fixture
def _oca_sms_portal() -> "Iterator[BlockingPortal]":
    """A thread with an event loop of its own: the sandbox lives on when a test's loop ends."""
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def oca_sms_sandbox(_oca_sms_portal: "BlockingPortal") -> "Iterator[Sandbox]":
    """OCA's SMS gateway on a free port, a fresh one for each test. `inbox` holds the accepted messages; no SMS is sent.

    Its knobs are plain attributes that hold from the next request on: `oca_sms_sandbox.quota = 0`.
    """
    try:
        from oca_sms_async.sandbox import Sandbox
    except ImportError as missing:
        pytest.fail(str(missing), pytrace=False)  # it names the command that helps
    with _oca_sms_portal.wrap_async_context_manager(Sandbox().serve()) as sandbox:
        yield sandbox


@pytest.fixture
def oca_sms_client(_oca_sms_portal: "BlockingPortal", oca_sms_sandbox: "Sandbox") -> "Iterator[AsyncOcaSms]":
    """An AsyncOcaSms on `oca_sms_sandbox` that never waits: it has no rate limit, and repeats at once.

    It is closed after the test. It may be used in one event loop after another: `asyncio.run` twice in a test is fine.
    """
    import ssl

    import httpx

    from oca_sms_async import AsyncOcaSms, RetryPolicy, Unlimited

    # A connection that waited for a next request would outlive the test's loop, and could not be closed then. This
    # client keeps no connection between its requests, so it needs no closing. No proxy could reach a loopback address.
    http_client = httpx.AsyncClient(
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        timeout=None,  # noqa: S113 - the client has its own
        trust_env=False,
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # it trusts no certificate, which spares loading them
    )
    client = AsyncOcaSms(
        oca_sms_sandbox.username,
        oca_sms_sandbox.password,
        base_url=oca_sms_sandbox.base_url,
        limiter=Unlimited(),
        retry=RetryPolicy(initial_wait=0, max_wait=0),
        http_client=http_client,
    )
    yield client
    _oca_sms_portal.call(client.aclose)

"""aiohttp's connections for our transport, and the only room that reads private parts of aiohttp.

Each guard says what is lost when a name moves. It then does the safe thing, a new connection for each request, and
logs `transport.guard_lost` once in a process.
"""

import ssl
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final

import aiohttp

from oca_sms_async._httpx_internals import report_lost
from oca_sms_async._sockets import SocketProbe


class Steps:
    """The steps of one request until its first byte, for its `trace` extension.

    `failure` is the exception that ended the connection before it came about, `interruption` one of the trace itself.
    """

    def __init__(self, trace: Callable[[str, dict[str, Any]], Awaitable[None]] | None) -> None:
        self.failure: BaseException | None = None
        self.interruption: BaseException | None = None
        self.trace = trace

    def forget(self) -> None:
        """Let the request go: this task's context keeps its steps until its next one."""
        self.failure = self.interruption = self.trace = None

    async def report_failure(self, failure: BaseException) -> None:
        """Tell the trace of a connection that did not come about."""
        if self.trace is not None:
            try:
                await self.trace("connection.connect_tcp.failed", {"exception": failure})
            except BaseException as error:
                self.interruption = error
                raise


_PROBE: Final = "oca_sms_probe"  # an attribute of aiohttp's protocol, from its first request on
STEPS: Final = ContextVar[Steps]("oca_sms_steps")  # of the request that this task sends


def open_session(context: ssl.SSLContext, *, keepalive: float) -> aiohttp.ClientSession:
    """Return a session that keeps no cookies and sends each request once.

    aiohttp repeats a GET whose kept connection turns out to be closed, and the second request would go out without a
    token. When the name that turns this off moves, no connection is used twice.
    """
    # The number of connections is not bounded. The client's slots are the bound: a request that waited for a
    # connection here would wait after its token.
    connector = _Connector(limit=0, keepalive_timeout=keepalive, ssl=context)
    session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
    if hasattr(session, "_retry_connection"):
        session._retry_connection = False  # noqa: SLF001 - it has no public name
    else:
        report_lost("repeated requests of aiohttp")
        connector.reuses = False
    return session


class _Connector(aiohttp.TCPConnector):
    """A connector that tells a request's trace what became of its connection, and checks a kept one before it serves.

    Bytes that came after the last answer would be read as the next answer: the receipt of another message.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.reuses = True

    async def connect(self, req: aiohttp.ClientRequest, *arguments: Any, **options: Any) -> Any:
        """Return a connection for this request: a kept one that is silent, or a new one."""
        steps = STEPS.get()
        try:
            connection: Any = await super().connect(req, *arguments, **options)
            while not self._is_usable(connection):
                connection.close()
                connection = await super().connect(req, *arguments, **options)
        except BaseException as error:
            steps.failure = error
            await steps.report_failure(error)
            raise
        if steps.trace is not None:
            try:
                await steps.trace("http11.send_request_headers.started", {"request": req})
            except BaseException as error:
                steps.interruption = error
                connection.close()
                raise
        return connection

    def _is_usable(self, connection: Any) -> bool:
        """Tell whether a connection may serve; on a new one, an early answer is no reason to close it."""
        protocol = connection.protocol
        probe = getattr(protocol, _PROBE, None)
        if probe is not None:
            return self.reuses and _is_silent(protocol, probe)
        setattr(protocol, _PROBE, SocketProbe())
        return True


def _is_silent(protocol: Any, probe: SocketProbe) -> bool:
    """Tell whether a kept connection still stands and has received nothing after its last answer.

    aiohttp itself asks `should_close` when an answer ends, and not again later. When its name moves, no connection is
    used twice.
    """
    try:
        if protocol.should_close or protocol.transport is None:
            return False
        return not probe.is_readable(protocol.transport)
    except AttributeError:
        report_lost("unread bytes of aiohttp")
        return False

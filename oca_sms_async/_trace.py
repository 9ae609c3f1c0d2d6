"""The steps of one request as its transport reports them, and the proof that the request did not leave."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import httpx

from oca_sms_async._httpx_internals import report_lost

Gate = Callable[[], Awaitable[None]]

# Seconds between the token and the first byte from which on a request counts as late: half of the time between two
# tokens at the default rate.
LATE: Final = 0.02

_CONNECTING: Final = {"connect_tcp", "connect_unix_socket", "setup_socks5_connection", "start_tls"}
_HARMLESS: Final = {"retry", "response_closed"}  # a pause before the next connection, and the end of a request


class Trace:
    """The `trace` extension of a request: httpcore calls it with each step.

    Our aiohttp transport calls it with two: a connection that failed, and the start of a request.

    `sent` is True once part of the request may have left. `is_cause(error)` is the proof of the opposite. It rests on
    a step that was heard to fail, never on a step that was not heard, because a name may move. So an unknown step
    counts as a request that left. A new connection after one that came about does too: the transport tries again by
    itself, and its first attempt may have left. The proof reaches through transports that wrap httpx's. Transports of
    another make report nothing, and prove nothing.

    `gate` is awaited right before the first byte of a request that is late: one that leaves more than `LATE` after
    `since`, in the loop's time.
    """

    sent = False
    _failure: BaseException | None = None
    _connected = False
    _tunnelling = False  # a CONNECT to a proxy is under way
    _refused = False
    _half_open: Any = None

    def __init__(self, since: float, gate: Gate | None = None) -> None:
        self._gate = gate
        self._late_from = since + LATE

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        """Hear one step: «layer.step.phase», for example `connection.connect_tcp.started`."""
        if self.sent:
            return
        request = info.get("request")
        if request is None:
            self._hear_step(event, info)
        elif request.method == b"CONNECT":
            self._tunnelling = True
        else:
            if self._gate is not None and asyncio.get_running_loop().time() >= self._late_from:
                await self._wait_at_gate(self._gate)
            self.sent = True

    def is_cause(self, error: BaseException) -> bool:
        """Tell whether this error of a request comes from a failure that was heard before the request left."""
        if self.sent:
            return False
        causes = [*_causes(error)]
        if self._refused and any(isinstance(cause, httpx.ProxyError) for cause in causes):
            return True
        return any(cause is self._failure for cause in causes)

    async def close_half_open(self) -> None:
        """Close the socket of a connection that is not ready.

        httpcore forgets it when it is cancelled during a TLS handshake.
        """
        if self._half_open is not None and not self.sent:
            with contextlib.suppress(Exception):  # the request has its error already
                await self._half_open.aclose()

    def _hear_step(self, event: str, info: dict[str, Any]) -> None:
        """Hear a step that is not about a request."""
        name, _, phase = event.rpartition(".")
        step = name.rpartition(".")[2]
        if step in _CONNECTING:
            self._hear_connection(step, phase, info)
        elif step in _HARMLESS:
            pass
        elif self._tunnelling:
            self._hear_proxy(step, phase, info)
        else:
            report_lost("steps of a connection")
            self.sent = True

    def _hear_connection(self, step: str, phase: str, info: dict[str, Any]) -> None:
        connects = step.startswith("connect_")
        if phase == "started":
            self.sent = self._connected and connects
            self._failure, self._refused = None, False
        elif phase == "failed":
            self._failure, self._connected = info.get("exception"), False
        if connects:
            self._connected = phase == "complete"
            self._half_open = info.get("return_value")

    def _hear_proxy(self, step: str, phase: str, info: dict[str, Any]) -> None:
        """Hear how a proxy answers a CONNECT."""
        if phase == "failed":
            self._failure, self._connected = info.get("exception"), False
        elif (step, phase) == ("receive_response_headers", "complete"):
            match info.get("return_value"):
                case (_, int(status), *_) if 200 <= status < 300:
                    self._tunnelling = False
                case (_, int(), *_):
                    self._refused, self._connected = True, False

    async def _wait_at_gate(self, gate: Gate) -> None:
        try:
            await gate()
        except BaseException as error:
            self._failure = error
            raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and the causes that it names; not its contexts, which it may have survived."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__

"""Answers on the wire, whole or spoilt. Here are the things, done on purpose, that HTTP libraries prevent."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Mapping
from typing import Final

import httpx
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from oca_sms_async.sandbox._answers import Answer, Manner

TRANSPORT: Final = "oca_sms_transport"  # the name in a request's state of its connection, if it came through a socket
_DRIP: Final = 1.0  # seconds between two bytes
_RESET: Final = struct.pack("ii", 1, 0)  # linger for no time: closing the socket then resets the connection


class SandboxResponse(Response):
    """An answer as it goes out, in its manner."""

    def __init__(self, answer: Answer, headers: Mapping[str, str] | None, *, lateness: float) -> None:
        super().__init__(answer.content, answer.status, {**(headers or {}), **answer.all_headers})
        self._content = answer.content
        self._manner = answer.manner
        self._lateness = lateness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match self._manner:
            case Manner.WHOLE:
                await super().__call__(scope, receive, send)
            case Manner.LATE:
                await wait_for_client(receive, self._lateness)
                await super().__call__(scope, receive, send)
            case Manner.DRIPPED:
                await self._drip(receive, send)
            case Manner.TRUNCATED:
                await self._start(send)
                await _send_part(send, self._content[: len(self._content) // 2])
                await _hang_up(scope, receive)
            case Manner.NONE:
                await _hang_up(scope, receive)
            case Manner.RESET:
                await _hang_up(scope, receive, reset=True)

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _drip(self, receive: Receive, send: Send) -> None:
        await self._start(send)
        for place in range(len(self._content)):
            await wait_for_client(receive, _DRIP)
            await _send_part(send, self._content[place : place + 1])
        await send({"type": "http.response.body", "body": b""})


async def wait_for_client(receive: Receive, seconds: float) -> None:
    """Wait, but no longer than the client does: otherwise abandoned requests would pile up as sleeping tasks."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass


async def _send_part(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _hang_up(scope: Scope, receive: Receive, *, reset: bool = False) -> None:
    """End the connection, and return when the server knows it. Earlier, it would log that an answer is missing."""
    transport = scope.get("state", {}).get(TRANSPORT)
    if transport is None:  # in process: the error that a client would raise
        raise httpx.ReadError("the sandbox has ended the connection")
    if reset:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()
    else:
        transport.close()  # bytes that were written still go out
    while (await receive())["type"] != "http.disconnect":
        pass

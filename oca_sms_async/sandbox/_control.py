"""The paths that control a sandbox: what arrived, which faults are played, and all of it as it happens."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any, Final

import attrs
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from oca_sms_async.sandbox._answers import timestamp
from oca_sms_async.sandbox._gateway import Gateway
from oca_sms_async.sandbox._inbox import Message
from oca_sms_async.sandbox._same_site import Endpoint, complaint, same_site
from oca_sms_async.sandbox._wiring import wait_for_client

_LONGEST_WAIT: Final = 60.0  # seconds
_TICK: Final = 1.0  # seconds; statuses and the last second's requests change by themselves
_PAUSE: Final = 0.05  # seconds; what happens within it is told together
_SHOWN: Final = 500  # messages that the page is told of, the newest


def routes(gateway: Gateway) -> list[Route]:
    """Return the routes below `/sandbox`, each of which refuses what comes from another site."""
    control = _Control(gateway)
    table: list[tuple[str, Endpoint, list[str]]] = [
        ("messages", control.messages, ["GET", "DELETE"]),
        ("messages/latest", control.latest, ["GET"]),
        ("faults", control.faults, ["GET", "PUT"]),
        ("statistics", control.statistics, ["GET"]),
        ("events", control.events, ["GET"]),
    ]
    return [Route(f"/sandbox/{path}", same_site(endpoint), methods=methods) for path, endpoint, methods in table]


@attrs.define
class _Control:
    """The endpoints: each from a request to what it asks of the gateway, and back."""

    _gateway: Gateway
    _puts: int = 0

    async def messages(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._gateway.inbox.clear()
            return Response(status_code=204)
        return JSONResponse([described(message) for message in self._gateway.inbox])

    async def latest(self, request: Request) -> Response:
        phone, wait = request.query_params.get("phone"), _seconds(request.query_params.get("wait", "0"))
        if phone is None:
            return complaint(400, "phone is missing: /sandbox/messages/latest?phone=0812…&wait=5")
        if not 0 <= wait <= _LONGEST_WAIT:
            return complaint(400, f"wait must be from 0 to {_LONGEST_WAIT:g} seconds")
        if phone.startswith(" "):  # a plus that was not escaped
            phone = "+" + phone[1:]
        # Not beyond the client's patience, nor the server's end.
        arrival = asyncio.ensure_future(self._gateway.inbox.wait_for(phone, timeout=wait))
        leaving = asyncio.ensure_future(wait_for_client(request.receive, math.inf))
        try:
            await asyncio.wait({arrival, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return JSONResponse(described(arrival.result())) if arrival.done() else Response()
        except TimeoutError as error:
            return complaint(404, str(error))
        except ValueError as error:
            return complaint(400, str(error))
        finally:
            arrival.cancel()
            leaving.cancel()

    async def faults(self, request: Request) -> Response:
        if request.method == "PUT":
            try:
                self._gateway.play(_object(await request.body()))
                self._puts += 1
            except ValueError as error:
                return complaint(400, str(error))
        return JSONResponse(self._gateway.played)

    async def statistics(self, _: Request) -> Response:
        return JSONResponse(_counted(self._gateway))

    async def events(self, _: Request) -> Response:
        return StreamingResponse(self._told(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def _told(self) -> AsyncIterator[str]:
        """Yield server-sent events: `state` when something has changed, at once for a new message.

        Its data has `statistics`, `faults`, the `messages` that are new or whose status has changed, and `cleared`,
        whether those told before are gone.
        """
        gateway = self._gateway
        told: dict[str, str] = {}  # status by id
        last: object = None
        while True:
            change = gateway.inbox.change()
            newest = gateway.inbox[-_SHOWN:]
            statuses = {message.msg_uid: message.status for message in newest}  # once: they move on by themselves
            changed = [it for it in newest if told.get(it.msg_uid) != statuses[it.msg_uid]]
            cleared = bool(told) and not any(gateway.inbox.find(uid) for uid in told)
            state = {"statistics": _counted(gateway), "faults": gateway.played}
            # Who has set faults was answered with them; what has changed them back meanwhile must be told.
            this = (repr(state), self._puts)
            if changed or cleared or last != this:
                told, last = statuses, this
                messages = [described(message) | {"status": statuses[message.msg_uid]} for message in changed]
                data = json.dumps(state | {"cleared": cleared, "messages": messages})
                yield f"event: state\ndata: {data}\n\n"
            try:
                await asyncio.sleep(_PAUSE)
                await asyncio.wait({asyncio.wrap_future(change)}, timeout=_TICK)
            finally:
                change.cancel()


def described(message: Message) -> dict[str, Any]:
    """Return all that is known of a message as JSON values."""
    return {
        "msg_uid": message.msg_uid,
        "created_at": timestamp(message.created_at),
        "phone": message.phone,
        "text": message.text,
        "code": message.code,
        "segments": message.segments,
        "status": message.status,
        "attempts": message.attempts,
        "faults": list(message.faults),
    }


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ValueError('the body must be a JSON object, such as {"reset": 0.05}')  # noqa: TRY004 - bad input is a ValueError
    return values


def _counted(gateway: Gateway) -> dict[str, Any]:
    return {
        "accepted": len(gateway.inbox),
        "refused": dict(gateway.traffic.refusals),
        "last_second": gateway.traffic.last_second,
        "rate_limit": gateway.rate_limit,
        "quota": gateway.quota,
    }

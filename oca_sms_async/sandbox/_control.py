"""The paths that control a sandbox: its messages, its refusals, its faults, its counts, and a stream of them."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final

import attrs
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from oca_sms_async.sandbox._api import Api
from oca_sms_async.sandbox._bodies import read_body
from oca_sms_async.sandbox._descriptions import describe, describe_access, describe_counts, describe_listing
from oca_sms_async.sandbox._gateway import Gateway
from oca_sms_async.sandbox._listing import OUTCOMES, Query, list_entries
from oca_sms_async.sandbox._same_site import Endpoint, complaint, hostname, same_site
from oca_sms_async.sandbox._wiring import wait_for_client

_LONGEST_WAIT: Final = 60.0  # seconds
_LONGEST_PAGE: Final = 100  # entries
_TICK: Final = 1.0  # seconds; statuses and the last second's requests change with time alone
_PAUSE: Final = 0.05  # seconds; changes within it go out together
_SHOWN: Final = 500  # messages in the stream, the newest


def routes(gateway: Gateway, apis: Sequence[Api]) -> list[Route]:
    """Return the routes below `/sandbox`. Each refuses requests from another site."""
    control = _Control(gateway, apis)
    table: list[tuple[str, Endpoint, list[str]]] = [
        ("messages", control.messages, ["GET", "DELETE"]),
        ("messages/latest", control.latest, ["GET"]),
        ("entries", control.entries, ["GET", "DELETE"]),
        ("faults", control.faults, ["GET", "PUT"]),
        ("statistics", control.statistics, ["GET"]),
        ("access", control.access, ["GET"]),
        ("events", control.events, ["GET"]),
    ]
    return [Route(f"/sandbox/{path}", same_site(endpoint), methods=methods) for path, endpoint, methods in table]


@attrs.define
class _Control:
    """The endpoints: each reads its request, asks the gateway, and answers."""

    _gateway: Gateway
    _apis: Sequence[Api]
    _puts: int = 0

    async def messages(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._gateway.inbox.clear()
            return Response(status_code=204)
        return JSONResponse([describe(message) for message in self._gateway.inbox])

    async def latest(self, request: Request) -> Response:
        phone, wait = request.query_params.get("phone"), _read_seconds(request.query_params.get("wait", "0"))
        if phone is None:
            return complaint(400, "phone is missing: /sandbox/messages/latest?phone=0812…&wait=5")
        if not 0 <= wait <= _LONGEST_WAIT:
            return complaint(400, f"wait must be from 0 to {_LONGEST_WAIT:g} seconds")
        if phone.startswith(" "):  # a plus that was not escaped
            phone = "+" + phone[1:]
        # No longer than the client waits, nor beyond the server's end.
        arrival = asyncio.ensure_future(self._gateway.inbox.wait_for(phone, timeout=wait))
        leaving = asyncio.ensure_future(wait_for_client(request.receive, math.inf))
        try:
            await asyncio.wait({arrival, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return JSONResponse(describe(arrival.result())) if arrival.done() else Response()
        except TimeoutError as error:
            return complaint(404, str(error))
        except ValueError as error:
            return complaint(400, str(error))
        finally:
            arrival.cancel()
            leaving.cancel()

    async def entries(self, request: Request) -> Response:
        gateway = self._gateway
        if request.method == "DELETE":
            forgotten = {"accepted": len(gateway.inbox), "refused": gateway.traffic.refusals.total()}
            gateway.inbox.clear()
            gateway.traffic.clear()
            return JSONResponse(forgotten)
        try:
            query = _read_query(request)
        except ValueError as error:
            return complaint(400, str(error))
        return JSONResponse(describe_listing(await list_entries(gateway, query)))

    async def faults(self, request: Request) -> Response:
        if request.method == "PUT":
            try:
                self._gateway.play(_read_object(await read_body(request)))
                self._puts += 1
            except ValueError as error:
                return complaint(400, str(error))
        return JSONResponse(self._gateway.played)

    async def statistics(self, _: Request) -> Response:
        return JSONResponse(describe_counts(self._gateway))

    async def access(self, request: Request) -> Response:
        origin = f"{request.url.scheme}://{request.headers['host']}"
        return JSONResponse(describe_access(self._gateway, self._apis, origin, hostname(request)))

    async def events(self, _: Request) -> Response:
        return StreamingResponse(self._stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def _stream(self) -> AsyncIterator[str]:
        """Yield server-sent events: `state` after each change, at once for a new message or a refusal.

        Its data has `statistics`, `faults`, the `messages` that are new or have a new status, and `cleared`: True if
        all the earlier messages are gone.
        """
        gateway = self._gateway
        known: dict[str, str] = {}  # to the page: status by id
        last: object = None
        while True:
            changes = gateway.inbox.change(), gateway.traffic.change()
            newest = gateway.inbox[-_SHOWN:]
            statuses = {message.msg_uid: message.status for message in newest}  # once: they change with time
            changed = [it for it in newest if known.get(it.msg_uid) != statuses[it.msg_uid]]
            cleared = bool(known) and not any(gateway.inbox.find(uid) for uid in known)
            state = {"statistics": describe_counts(gateway), "faults": gateway.played}
            # A page that set faults got them as its answer. If they were changed back meanwhile, it must hear of that.
            this = (repr(state), self._puts)
            if changed or cleared or last != this:
                known, last = statuses, this
                messages = [describe(message) | {"status": statuses[message.msg_uid]} for message in changed]
                data = json.dumps(state | {"cleared": cleared, "messages": messages})
                yield f"event: state\ndata: {data}\n\n"
            try:
                await asyncio.sleep(_PAUSE)
                waiting = {asyncio.wrap_future(change) for change in changes}
                await asyncio.wait(waiting, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for change in changes:
                    change.cancel()


def _read_query(request: Request) -> Query:
    given = request.query_params
    outcome = given.get("outcome", "all")
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}")
    until = given.get("until")
    try:
        moment = datetime.fromisoformat(until) if until else None
        skip, limit = int(given.get("skip", "0")), int(given.get("limit", "25"))
    except ValueError:
        raise ValueError("until must be a time, and skip and limit whole numbers") from None
    if moment is not None and moment.tzinfo is None:
        raise ValueError("until must have an offset from UTC")
    if skip < 0 or not 1 <= limit <= _LONGEST_PAGE:
        raise ValueError(f"skip must be 0 or more, and limit from 1 to {_LONGEST_PAGE}")
    return Query(words=given.get("search", ""), outcome=outcome, until=moment, skip=skip, limit=limit)


def _read_seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read_object(body: bytes | None) -> dict[str, Any]:
    if body is None:
        raise ValueError("the body is too long")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ValueError('the body must be a JSON object, such as {"reset": 0.05}')  # noqa: TRY004 - bad input is a ValueError
    return values

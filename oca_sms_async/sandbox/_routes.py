"""The gateway's paths: from an HTTP request to the gateway's rules, and its answer back onto the wire."""

from collections.abc import Mapping
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from oca_sms_async.sandbox import _control, _page
from oca_sms_async.sandbox._answers import Answer, error
from oca_sms_async.sandbox._gateway import Gateway
from oca_sms_async.sandbox._wiring import Wired, wait_for_client

PREFIX: Final = "/api/v1"


def application(gateway: Gateway) -> Starlette:
    """Return an ASGI application that answers as `gateway` decides, `gateway.latency` seconds after the decision.

    Beside the gateway's paths it has those that control the sandbox, and the page.
    """

    async def sms(request: Request) -> Response:
        authorization = request.headers.get("authorization")
        if request.method == "POST":
            content_type, body = request.headers.get("content-type"), await request.body()
            return await answered(request, gateway.send(authorization, content_type, body))
        return await answered(request, gateway.history(authorization))

    async def status(request: Request) -> Response:
        authorization, msg_uid = request.headers.get("authorization"), request.path_params["msg_uid"]
        return await answered(request, gateway.detail(authorization, msg_uid))

    async def unrouted(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)  # noqa: S101 - narrows what starlette's signature leaves open
        return await answered(request, error(problem.status_code, problem.detail), problem.headers)

    async def answered(request: Request, answer: Answer, headers: Mapping[str, str] | None = None) -> Response:
        if gateway.latency:
            await wait_for_client(request.receive, gateway.latency)
        return Wired(answer, headers, lateness=gateway.lateness)

    app = Starlette(
        routes=[
            Route(f"{PREFIX}/sms", sms, methods=["GET", "POST"]),
            Route(f"{PREFIX}/sms/status/{{msg_uid:path}}", status),  # an opaque id may hold an escaped slash
            *_control.routes(gateway),
            *_page.routes(),
        ],
        exception_handlers={HTTPException: unrouted, ClientDisconnect: _nobody_listens},
    )
    app.router.redirect_slashes = False  # an unknown path is a 404
    return app


async def _nobody_listens(_: Request, __: Exception) -> Response:
    """End a request whose client hung up within the body; unhandled, each would be logged as a fault of the sandbox."""
    return Response()

"""The sandbox's paths: from an HTTP request to the service of an API, and its answer back onto the wire."""

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from oca_sms_async.sandbox import _control, _page
from oca_sms_async.sandbox._answers import Answer, error
from oca_sms_async.sandbox._api import Operation
from oca_sms_async.sandbox._bodies import read_body
from oca_sms_async.sandbox._gateway import Gateway
from oca_sms_async.sandbox._same_site import FOREIGN_HOST, Endpoint, hostname, is_own_host
from oca_sms_async.sandbox._service import Service
from oca_sms_async.sandbox._wiring import SandboxResponse, wait_for_client

# A site's page can make a browser ask any name that leads here, and it knows the published credentials.
_FOREIGN_HOST: Final = error(
    403,
    f"{FOREIGN_HOST}. Credentials of your own open every name.",
    kind="foreign-host",
    reason="The Host is not a name of this sandbox. Name it with --allow-host, or set credentials of your own.",
)
_UNKNOWN_PATH: Final = "No API has this path for a POST. Is the base URL complete?"
_SHOWN_PATH: Final = 100  # characters
_TOO_LONG: Final = error(413, "Payload Too Large", kind="too-long", reason="The body is longer than any send.")


def build_application(gateway: Gateway, services: Sequence[Service]) -> Starlette:
    """Return an ASGI application that answers as the services decide, `gateway.latency` seconds after the decision.

    Beside the services' paths it has the paths that control the sandbox, and the page.
    """

    def serve(service: Service, operations: Mapping[str, Operation]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            return await respond(request, await _ask(service, operations[method], request))

        return endpoint

    async def refuse_path(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)  # noqa: S101 - narrows what starlette's signature leaves open
        answer = error(problem.status_code, problem.detail, kind="unknown-path", reason=_UNKNOWN_PATH)
        if request.method == "POST":  # a send to a wrong base URL; browsers ask for paths of their own by GET
            gateway.traffic.note(answer, api="", operation=f"POST {request.url.path[:_SHOWN_PATH]}")
        return await respond(request, answer, problem.headers)

    async def respond(request: Request, answer: Answer, headers: Mapping[str, str] | None = None) -> Response:
        if gateway.latency:
            await wait_for_client(request.receive, gateway.latency)
        return SandboxResponse(answer, headers, lateness=gateway.lateness)

    app = Starlette(
        routes=[
            *(
                Route(service.api.prefix + path, serve(service, operations), methods=list(operations))
                for service in services
                for path, operations in service.api.paths.items()
            ),
            *_control.routes(gateway, [service.api for service in services]),
            *_page.routes(),
        ],
        exception_handlers={HTTPException: refuse_path, ClientDisconnect: _answer_nobody},
    )
    app.state.gateway = gateway
    app.router.redirect_slashes = False  # an unknown path is a 404
    return app


async def _ask(service: Service, operation: Operation, request: Request) -> Answer:
    body = await read_body(request)
    if body is None:
        return service.note(_TOO_LONG, operation)
    if service.is_public and not (is_own_host(request) or _is_in_process(request)):
        return service.note(_FOREIGN_HOST, operation)
    authorization = request.headers.get("authorization")
    match operation:
        case Operation.SEND:
            return service.send(authorization, request.headers.get("content-type"), body)
        case Operation.HISTORY:
            return service.history(authorization)
        case Operation.STATUS:
            return service.status(authorization, request.path_params["id"])


def _is_in_process(request: Request) -> bool:
    """Tell whether `Host` is also the server's name: a socket has an address instead, and a browser needs a socket."""
    server, _ = request.scope.get("server") or ("", None)
    return server == hostname(request) != ""


async def _answer_nobody(_: Request, __: Exception) -> Response:
    """End a request whose client hung up within the body. Unhandled, it would be logged as a fault of the sandbox."""
    return Response()

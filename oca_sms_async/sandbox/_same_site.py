"""The guard against other sites, whose pages can make a developer's browser ask whatever listens on the machine."""

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

Endpoint = Callable[[Request], Awaitable[Response]]


def same_site(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that answers 403 to what another site makes a browser ask for.

    `Host` must be an address or this machine's own name, for a name of somebody's domain may lead here (DNS rebinding);
    beyond the loopback it may be a name without a dot too, as in a compose network. `Origin`, if there, must be the
    same.
    """

    async def guarded(request: Request) -> Response:
        host, server = request.headers.get("host", ""), request.scope.get("server") or ("", None)
        name = _hostname(host)
        beyond_loopback = not (_is_address(server[0]) and ipaddress.ip_address(server[0]).is_loopback)
        if not (_is_address(name) or name == "localhost" or (name and "." not in name and beyond_loopback)):
            return complaint(403, "Host must be an address or localhost: this may be another site's request")
        origin = f"{request.url.scheme}://{host}"
        if request.headers.get("origin", origin) != origin:
            return complaint(403, "Origin must be the sandbox's own: this is another site's request")
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return Response()  # unhandled, it would be logged as a fault of the sandbox

    return guarded


def complaint(status: int, line: str) -> Response:
    """Return an answer that says in a line what is wrong with a request to the sandbox's own paths."""
    return JSONResponse({"error": line}, status)


def _hostname(host: str) -> str:
    """Return the name or address in a `Host` header, or "" for what is none."""
    try:
        return "" if set(host) & set("/?#@\\") else urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

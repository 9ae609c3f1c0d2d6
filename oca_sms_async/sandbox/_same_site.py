"""The guard against other sites. Their pages can make a developer's browser ask any server on the machine."""

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from oca_sms_async._settings import is_loopback

Endpoint = Callable[[Request], Awaitable[Response]]

SERVED_AS: Final = "oca_sms_host"  # the name in a request's state of the names that the sandbox is served at
FOREIGN_HOST: Final = (
    "Host must be an address, localhost or the name that the sandbox is served at: this may be another site's request"
)
_UNREGISTRABLE: Final = {"localhost", "internal", "test"}  # top-level names in which no site can have its own


def same_site(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that answers 403 to requests that another site makes a browser send.

    `Host` must be a name of this machine. `Origin`, if there, must be the same.
    """

    async def guard(request: Request) -> Response:
        if not is_own_host(request):
            return complaint(403, FOREIGN_HOST)
        origin = f"{request.url.scheme}://{request.headers['host']}"
        if request.headers.get("origin", origin) != origin:
            return complaint(403, "Origin must be the sandbox's own: this is another site's request")
        return await endpoint(request)

    return guard


def complaint(status: int, line: str) -> Response:
    """Return the refusal of a request to the sandbox's own paths, with its reason in a line."""
    return JSONResponse({"error": line}, status)


def is_own_host(request: Request) -> bool:
    """Tell whether `Host` names this machine. A site's own domain may lead here too (DNS rebinding), and does not.

    Names without a dot and in `.local` are given by the network. They count only beyond the loopback, where the
    machines of that network can reach the sandbox anyway.
    """
    name = hostname(request)
    top = name.rpartition(".")[2]
    if _is_address(name) or top in _UNREGISTRABLE or name in request.app.state.gateway.allowed_hosts:
        return True
    if name in request.scope.get("state", {}).get(SERVED_AS, ()):
        return True
    server, _ = request.scope.get("server") or ("", None)
    return top in {name, "local"} and name != "" and not is_loopback(server)


def hostname(request: Request) -> str:
    """Return the name or address in a request's `Host` header, or "" for a malformed one."""
    host = request.headers.get("host", "")
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

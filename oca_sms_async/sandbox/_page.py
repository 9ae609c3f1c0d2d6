"""The inbox as a page: files that load nothing from another site, and may not."""

from functools import cache
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from oca_sms_async.sandbox._same_site import Endpoint, same_site

_SCRIPTS: Final = ("inbox.js", "access.js", "faults.js", "list.js")
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def routes() -> list[Route]:
    """Return the routes of the page, `/`, and of its style and scripts."""
    return [
        Route("/", _serve("inbox.html", "text/html")),
        Route("/inbox.css", _serve("inbox.css", "text/css")),
        *(Route(f"/{name}", _serve(name, "text/javascript")) for name in _SCRIPTS),
    ]


def _serve(name: str, media_type: str) -> Endpoint:
    async def endpoint(_: Request) -> Response:
        return Response(_read(name), headers=_HEADERS, media_type=media_type)

    return same_site(endpoint)


@cache
def _read(name: str) -> bytes:
    return files(__package__).joinpath("page", name).read_bytes()

"""The requests of an API as httpx's, with complete headers."""

import functools
from typing import Any

import httpx

from oca_sms_async._httpx_internals import fill
from oca_sms_async._version import __version__
from oca_sms_async._wire import Api, Request


class HttpRequests:
    """Makes httpx's requests to one base URL. The headers that a lent client always sends go with ours."""

    def __init__(self, api: Api, base_url: str, *, lent: httpx.AsyncClient | None) -> None:
        self._api = api
        headers = httpx.Headers(None if lent is None else lent.headers)
        for name in api.headers():
            headers.pop(name, None)
        headers.update(
            {
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "User-Agent": f"oca-sms-async/{__version__}",
                "Host": httpx.URL(base_url).netloc.decode("ascii"),
            }
        )
        self._headers = functools.lru_cache(maxsize=64)(functools.partial(_complete, headers.raw))
        self.url = functools.lru_cache(maxsize=8)(lambda path: httpx.URL(base_url + path))

    def make(self, request: Request[Any]) -> httpx.Request:
        """Return a request whose headers are complete already; httpx would put them together anew each time."""
        body = request.body or b""
        headers = self._headers(None if request.body is None else len(body))
        http = httpx.Request(request.method, self.url(request.path), headers=headers, stream=httpx.ByteStream(body))
        for name, value in self._api.headers().items():  # never kept: the API value alone holds the credentials
            http.headers[name] = value
        fill(http, body)
        return http


def _complete(headers: list[tuple[bytes, bytes]], length: int | None) -> httpx.Headers:
    """Return these headers with those of a body of this length, but for the credentials."""
    if length is None:
        return httpx.Headers(headers)
    return httpx.Headers([*headers, (b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % length)])

"""The proxy of a request over aiohttp, with its credentials as a header."""

import contextlib
import functools
from collections.abc import Callable
from typing import Final

import aiohttp
import httpx

from oca_sms_async._proxies import EnvironmentProxies

CREDENTIALS: Final = "Proxy-Authorization"
Choose = Callable[[httpx.URL], httpx.Proxy | None]


def make_chooser(given: httpx.Proxy | str | None, *, trust_env: bool) -> Choose:
    """Return a function from a URL to the proxy for it."""
    if given is not None:
        proxy = _parse(given)
        return lambda _: proxy
    environment = EnvironmentProxies()
    if not (trust_env and environment.urls()):
        return lambda _: None
    proxies = {url: _parse(url) for url in environment.urls()}

    def choose(url: httpx.URL) -> httpx.Proxy | None:
        named = environment.proxy_for(url)
        return None if named is None else proxies[named]

    return functools.lru_cache(maxsize=8)(choose)


def _parse(proxy: httpx.Proxy | str) -> httpx.Proxy:
    with contextlib.suppress(ValueError, httpx.InvalidURL):  # their texts may quote its password
        parsed = httpx.Proxy(proxy) if isinstance(proxy, str) else proxy
        if parsed.url.scheme in {"http", "https"}:
            headers = httpx.Headers(parsed.headers)
            if parsed.auth:  # as a header, because aiohttp's own option takes Latin-1 only, and is deprecated
                headers[CREDENTIALS] = aiohttp.encode_basic_auth(*parsed.auth)
            return httpx.Proxy(parsed.url, ssl_context=parsed.ssl_context, headers=headers)
    raise ValueError("proxy, or the one that the environment names, cannot be used: it must be an http or https URL")

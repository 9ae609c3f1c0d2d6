"""The proxies that the environment names, and the rules of `NO_PROXY`."""

import contextlib
import ipaddress
from urllib.request import getproxies

import httpx

from oca_sms_async._settings import is_loopback

_PORTS = {"http": 80, "https": 443}


class EnvironmentProxies:
    """`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` at the time when this object was made.

    The rules are those of httpx, with two additions. An entry of `NO_PROXY` may be a network like `127.0.0.0/8`
    or `fe80::/10`, and an IPv6 address may stand in brackets. httpx has no public function for this, and refuses to
    make a client when it reads one of these.
    """

    def __init__(self) -> None:
        named = getproxies()  # on Windows and macOS it also reads the settings of the system
        self._proxies = {
            scheme: proxy if "://" in proxy else f"http://{proxy}"
            for scheme in ("http", "https", "all")
            if (proxy := named.get(scheme))
        }
        self._exceptions = [entry.strip().lower() for entry in named.get("no", "").split(",") if entry.strip()]

    def urls(self) -> list[str]:
        """Return the URL of each proxy, which may be malformed."""
        return [*self._proxies.values()]

    def proxy_for(self, url: httpx.URL) -> str | None:
        """Return the URL of the proxy for a request to `url`, or None for a direct connection."""
        proxy = self._proxies.get(url.scheme, self._proxies.get("all"))
        if proxy is None or any(_covers(entry, url) for entry in self._exceptions):
            return None
        if url.scheme == "http" and is_loopback(url.host):
            # Plain http is allowed to this machine because nothing leaves it. A proxy elsewhere would break that.
            with contextlib.suppress(httpx.InvalidURL):
                return proxy if is_loopback(httpx.URL(proxy).host) else None
        return proxy


def _covers(entry: str, url: httpx.URL) -> bool:
    """Tell whether an entry of `NO_PROXY` is about this URL."""
    scheme, _, place = entry.rpartition("://")
    host, port = _host_and_port(place)
    if scheme not in {"", "all", url.scheme}:
        return False
    if port and port != str(url.port or _PORTS.get(url.scheme)):
        return False
    return host == "*" or _is_address_in(url.host, host) or _is_domain_of(url.host, host)


def _host_and_port(place: str) -> tuple[str, str]:
    """Split `host:port`; an IPv6 address has a port only behind its brackets."""
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        return (host + rest, "") if rest.startswith("/") else (host, rest.removeprefix(":"))
    if place.count(":") == 1:
        host, _, port = place.partition(":")
        return host, port
    return place, ""


def _is_address_in(host: str, network: str) -> bool:
    """Tell whether a host is an address in this network; an address alone is a network of one."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _is_domain_of(host: str, entry: str) -> bool:
    """Tell whether a host is this domain or below it; a domain with a dot before it stands for the hosts below it."""
    entry = entry.removeprefix("*") if entry.startswith("*.") else entry
    return host.endswith(entry) if entry.startswith(".") else host == entry or host.endswith(f".{entry}")

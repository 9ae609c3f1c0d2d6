"""A client's settings, checked at its construction. Each `ValueError` names the field and shows no secret."""

import contextlib
import ipaddress
import os
import sys
from collections import ChainMap
from collections.abc import Mapping
from typing import Final, Protocol

import httpx

_ENDLESS: Final = 1e9  # seconds, some thirty years
_SWITCHES: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


class _ProcessEnvironment(ChainMap[str, str]):
    """The process' environment. `help()` shows the default of a parameter by its repr, which must hold no secret."""

    def __repr__(self) -> str:
        return "os.environ"


ENVIRONMENT: Final = _ProcessEnvironment(os.environ)


class Lookup(Protocol):
    """A source of variables: a mapping, or an `Environment`."""

    def get(self, name: str, /) -> str | None:
        """Return the value, or `None`."""


class Environment:
    """The variables of a mapping, one at a time.

    An error tracker serialises each Mapping that a local variable of a frame holds, item by item. This is no Mapping,
    so that it stays closed.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def get(self, name: str, /) -> str | None:
        """Return the value; `None` if it is missing or empty."""
        return self._variables.get(name) or None

    def __repr__(self) -> str:
        return "<Environment>"


def read_switch(name: str, word: str) -> bool:
    """Return the meaning of a variable that is a switch; `ValueError` names the variable."""
    switch = _SWITCHES.get(word.strip().lower())
    if switch is None:
        raise ValueError(f"{name} must be one of {', '.join(_SWITCHES)}")
    return switch


def check_base_url(base_url: str, *, allow_http: bool) -> str:
    """Return the base URL without its last slash. `ValueError` unless it is https, or http where that is allowed."""
    url, host = None, ""
    with contextlib.suppress(httpx.InvalidURL, TypeError, ValueError):  # their texts may quote the URL
        url = httpx.URL(base_url)
        host = url.host  # httpx decodes it only now
    port = 443 if url is None or url.port is None else url.port
    if url is None or not url.scheme or not host or " " in base_url or not 0 < port < 65536:
        raise ValueError("base_url must be a URL such as 'https://sms.example.com/api/v1'")
    if url.userinfo:
        raise ValueError("base_url must hold no credentials: they have parameters of their own")
    if "?" in base_url or "#" in base_url:
        raise ValueError("base_url must hold no query and no fragment")
    if url.scheme == "http" and not (allow_http or is_loopback(host)):
        raise ValueError(
            "base_url must be https: plain http beyond this machine would show the credentials to the network; "
            "allow_http=True permits it all the same"
        )
    if url.scheme not in {"http", "https"}:
        raise ValueError("base_url must begin with https://")
    return base_url.rstrip("/")


def is_finite(value: object, *, least: float) -> bool:
    """Tell whether this is a finite number that is at least `least`."""
    # Not math.isfinite: it raises OverflowError for an integer that is too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= sys.float_info.max


def positive_seconds(name: str, value: float) -> float:
    """Return a duration in seconds. `ValueError` unless it is a number above 0."""
    if not is_finite(value, least=0) or not 0 < value < _ENDLESS:
        raise ValueError(f"{name} must be a number of seconds above 0 and below {_ENDLESS:g}")
    return value


def is_loopback(host: str) -> bool:
    """Tell from the name or address alone whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

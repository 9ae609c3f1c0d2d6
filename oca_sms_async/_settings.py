"""Checks of a client's options. Each `ValueError` names the field and never shows a secret."""

import contextlib
import ipaddress
import os
import re
import sys
from collections import ChainMap
from collections.abc import Mapping
from typing import Any, Final

import httpx

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
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


class _Environment(ChainMap[str, str]):
    """The environment of the process. As a default it does not show its values in `help()` of a function."""

    def __repr__(self) -> str:
        return "os.environ"


ENVIRONMENT: Final = _Environment(os.environ)


def check_credentials(username: str, password: str) -> None:
    """Raise `ValueError` for what HTTP Basic cannot carry."""
    for name, value in (("username", username), ("password", password)):
        if not (isinstance(value, str) and value):
            raise ValueError(f"{name} must be a str that is not empty")
        if _SURROGATE.search(value):
            raise ValueError(f"{name} must hold no lone surrogate, which stands for a byte that is not UTF-8")
    if ":" in username or _CONTROL.search(username):
        raise ValueError("username must hold no colon and no control character")


def check_base_url(base_url: str, *, allow_http: bool) -> str:
    """Return the base URL without its last slash. `ValueError` unless it is https, or http where that is allowed."""
    url, host = None, ""
    with contextlib.suppress(httpx.InvalidURL, TypeError, ValueError):  # their texts may quote the URL
        url = httpx.URL(base_url)
        host = url.host  # which is decoded only now
    port = 443 if url is None or url.port is None else url.port
    if url is None or not url.scheme or not host or " " in base_url or not 0 < port < 65536:
        raise ValueError("base_url must be a URL such as 'https://sms.example.com/api/v1'")
    if url.userinfo:
        raise ValueError("base_url must hold no credentials: give them as username and password")
    if "?" in base_url or "#" in base_url:
        raise ValueError("base_url must hold no query and no fragment")
    if url.scheme == "http" and not (allow_http or is_loopback(host)):
        raise ValueError(
            "base_url must be https: plain http beyond this machine shows the password to every machine on the way; "
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


def options_from(environ: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a client's options out of the environment and those given, which win; `ValueError` names a variable."""
    found: dict[str, Any] = {}
    for name in {"username", "password", "base_url", "allow_http"} - options.keys():
        variable = f"OCA_SMS_{name.upper()}"
        if environ.get(variable):
            found[name] = environ[variable]
        elif name in {"username", "password"}:
            raise ValueError(f"{variable} is not set in the environment")
    if "allow_http" in found:
        switch = _SWITCHES.get(found["allow_http"].strip().lower())
        if switch is None:
            raise ValueError(f"OCA_SMS_ALLOW_HTTP must be one of {', '.join(_SWITCHES)}")
        found["allow_http"] = switch
    return {**found, **options}


def is_loopback(host: str) -> bool:
    """Tell from the name or address alone whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

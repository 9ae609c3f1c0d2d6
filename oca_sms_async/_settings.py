"""What a client is told at its construction, checked: each `ValueError` names the field and shows no secret's value."""

import ipaddress
import math
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
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


def check_credentials(username: str, password: str) -> None:
    """Raise `ValueError` for what HTTP Basic cannot carry."""
    if not (isinstance(username, str) and username):
        raise ValueError("username must be a str that is not empty")
    if ":" in username or _CONTROL.search(username):
        raise ValueError("username must hold no colon and no control character")
    if not (isinstance(password, str) and password):
        raise ValueError("password must be a str that is not empty")


def checked_url(base_url: str, *, allow_http: bool) -> str:
    """Return the base URL without its last slash; `ValueError` unless it is https, or http where that is allowed."""
    try:
        parts = urlsplit(base_url)
        host = parts.hostname or ""
        _ = parts.port  # a ValueError where it is no number
    except (ValueError, AttributeError, TypeError):
        raise ValueError("base_url must be a URL such as 'https://sms.example.com/api/v1'") from None
    if not host or _CONTROL.search(base_url) or " " in base_url:
        raise ValueError("base_url must be a URL such as 'https://sms.example.com/api/v1'")
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url must hold no credentials: give them as username and password")
    if parts.query or parts.fragment:
        raise ValueError("base_url must hold no query and no fragment")
    _check_scheme(parts, host, allow_http=allow_http)
    return base_url.rstrip("/")


def positive_seconds(name: str, value: float) -> float:
    """Return a duration; `ValueError` unless it is a finite number of seconds above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number of seconds above 0")
    return value


def options_from(environ: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a client's options out of the environment and those given, which win; `ValueError` names a variable."""
    found: dict[str, Any] = {}
    for name in ("username", "password", "base_url", "allow_http"):
        variable = f"OCA_SMS_{name.upper()}"
        if environ.get(variable):
            found[name] = environ[variable]
        elif name in {"username", "password"} and name not in options:
            raise ValueError(f"{variable} is not set in the environment")
    if "allow_http" in found:
        switch = _SWITCHES.get(found["allow_http"].strip().lower())
        if switch is None:
            raise ValueError(f"OCA_SMS_ALLOW_HTTP must be one of {', '.join(_SWITCHES)}")
        found["allow_http"] = switch
    return {**found, **options}


def _check_scheme(parts: SplitResult, host: str, *, allow_http: bool) -> None:
    if parts.scheme == "https" or (parts.scheme == "http" and (allow_http or _is_loopback(host))):
        return
    if parts.scheme == "http":
        raise ValueError(
            "base_url must be https: plain http beyond this machine would show the password to everybody; "
            "allow_http=True permits it all the same"
        )
    raise ValueError("base_url must begin with https://")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Validators of a gateway's knobs. Their `ValueError` names the knob and never shows its value."""

import re
from collections.abc import Callable, Collection
from typing import Any, Final

from oca_sms_async._phone import normalize_phone
from oca_sms_async._wire._regular_v1 import RegularV1

_TOKEN: Final = re.compile(r"[!-~]+")

Validator = Callable[[Any, Any, Any], None]


def _require(condition: Callable[[Any], bool], wish: str) -> Validator:
    def validate(_: Any, attribute: Any, value: Any) -> None:
        try:
            satisfied = condition(value)
        except TypeError:  # of another type altogether
            satisfied = False
        if not satisfied:
            raise ValueError(f"{attribute.name} must {wish}")

    return validate


def _is_possible(username: str, password: str) -> bool:
    """Tell whether HTTP Basic can carry them. The client asks the same."""
    try:
        RegularV1(username, password)
    except ValueError:
        return False
    return True


def _is_regular_expression(pattern: Any) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return isinstance(pattern, str)


def at_least(least: int, of: str) -> Validator:
    """Return a validator of whole numbers."""
    return _require(
        lambda it: isinstance(it, int) and not isinstance(it, bool) and it >= least, f"be {least} or more {of}"
    )


USERNAME: Final = _require(lambda it: _is_possible(it, "-"), "not be empty nor hold a colon or a control character")
PASSWORD: Final = _require(
    lambda it: _is_possible("-", it), "not be empty nor hold a control character, and UTF-8 must carry it"
)
TOKEN: Final = _require(lambda it: bool(_TOKEN.fullmatch(it)), "not be empty nor hold white space")
SENDER_ID: Final = _require(
    lambda it: _is_possible("-", it) and it.strip() == it, "be a name without white space round it"
)
PATTERN: Final = _require(_is_regular_expression, "be a regular expression, or None")
DURATION: Final = _require(lambda it: it >= 0, "be 0 or more seconds")
SHARE: Final = _require(lambda it: 0 <= it <= 1, "be a share between 0 and 1")


def read_hosts(allowed_hosts: Collection[str]) -> tuple[str, ...]:
    """Return names as they are in `Host` headers."""
    try:
        return tuple(encode_host(name) for name in allowed_hosts)
    except (AttributeError, TypeError, ValueError):
        raise ValueError("allowed_hosts must hold names such as sandbox.example, without a port") from None


def encode_host(host: str) -> str:
    """Return a host as it is in URLs and `Host` headers; `ValueError` for an impossible one. An empty one is every."""
    try:
        name = host.encode("idna").decode().lower()
    except UnicodeError:
        name = ""
    if not name or set(name) & set("/?#@\\ "):
        raise ValueError("host must be an address or a name to listen at, such as 127.0.0.1")
    return name


def read_numbers(refused_numbers: Collection[str]) -> frozenset[str]:
    """Return numbers in any spelling as E.164."""
    try:
        return frozenset(normalize_phone(number) for number in refused_numbers)
    except ValueError as error:
        raise ValueError(f"refused_numbers must hold possible numbers: {error}") from None

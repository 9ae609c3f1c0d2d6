"""A refusal of SMS Regular V1: which error an answer is, by the gateway's code first and by the HTTP status second."""

import math
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

from oca_sms_async._errors import (
    AccountError,
    AccountExpiredError,
    ApiError,
    FieldError,
    InternalError,
    InvalidCredentialsError,
    InvalidRequestError,
    MissingAuthorizationError,
    NotFoundError,
    OcaSmsError,
    QuotaExhaustedError,
    RateLimitedError,
    UnexpectedResponseError,
    UserNotFoundError,
)
from oca_sms_async._scrub import mask_digits

_INTERNAL: Final = 13  # means what it says with HTTP 500 alone
_BY_CODE: Final[dict[int | None, type[ApiError]]] = {
    9: RateLimitedError,
    17: InvalidCredentialsError,
    19: MissingAuthorizationError,
    39: InvalidRequestError,
    41: UserNotFoundError,
    51: AccountExpiredError,
    55: QuotaExhaustedError,
}
_LISTED: Final = _BY_CODE.keys() | {_INTERNAL}
_MAX_TEXT: Final = 1000
_MAX_PAUSE: Final = 60.0


def refusal(
    status_code: int, headers: Mapping[str, str], body: bytes | None, errors: Any, *, about_sending: bool
) -> OcaSmsError:
    """Return what the answer refuses with; `errors` is the answer's list of them, or whatever stands in its place."""
    code, text, fields = _complaint(errors)
    kind = _BY_CODE.get(code)
    if code == _INTERNAL and status_code == 500:
        kind = InternalError
    elif kind is None and status_code == 429:
        kind = RateLimitedError
    elif kind is None and status_code == 404 and not about_sending:
        kind = NotFoundError
    elif status_code in {401, 403} and code not in _LISTED:
        kind = AccountError
    elif status_code < 400 and errors and code not in _LISTED:
        return UnexpectedResponseError(f"the gateway answered HTTP {status_code} with errors in it")
    if not text and not fields:  # of a field, the rest is the recipient's number
        text = _excerpt((body or b"").decode(errors="replace"))
    wait = _retry_after(headers) if status_code == 429 or kind is RateLimitedError else None
    return (kind or ApiError)(status_code, code, text, fields, retry_after=wait)


def _complaint(errors: Any) -> tuple[int | None, str, tuple[FieldError, ...]]:
    """Return code, text and fields of the first error that has a listed code, else of the first one."""
    entries = [entry for entry in (errors if isinstance(errors, list) else [errors]) if isinstance(entry, dict)]
    if not entries:
        return None, "", ()
    entry = next((entry for entry in entries if code_of(entry.get("code")) in _LISTED), entries[0])
    message = entry.get("message")
    if isinstance(message, str):
        return code_of(entry.get("code")), _excerpt(message), ()
    fields = tuple(
        FieldError(*(_excerpt(field.get(name)) for name in ("param", "msg", "location")))
        for field in (message if isinstance(message, list) else [message])
        if isinstance(field, dict)  # its `value` is the recipient's number, and stays here
    )
    return code_of(entry.get("code")), _excerpt("; ".join(field.msg for field in fields)), fields


def code_of(value: Any) -> int | None:
    """Return a code, which comes as an integer or as a string of digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) < 10 and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    return None


def _excerpt(text: Any) -> str:
    """Return the beginning of a text with digit runs starred; nothing for what is no text."""
    # Starred before it is cut, or the cut could leave three digits of a run that goes on.
    return mask_digits(text)[:_MAX_TEXT] if isinstance(text, str) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how long the gateway asks to wait, from 0 to 60 seconds; None if it does not say so that it can be read.

    `Retry-After` (seconds or a date), else `X-RateLimit-Reset`, whose unit the vendor does not state: above 1e12 it
    is an epoch in milliseconds, above 1e9 one in seconds, else seconds from now.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    seconds = _number(lower.get("retry-after"))
    if seconds is None:
        seconds = _seconds_until(lower.get("retry-after"))
    if seconds is None and (reset := _number(lower.get("x-ratelimit-reset"))) is not None:
        seconds = reset / 1000 - time.time() if reset > 1e12 else reset - time.time() if reset > 1e9 else reset
    return None if seconds is None else min(max(seconds, 0.0), _MAX_PAUSE)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seconds_until(date: str | None) -> float | None:
    try:
        until = parsedate_to_datetime(date or "")
        return (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None

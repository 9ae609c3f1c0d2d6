"""A refusal: the error that an answer is, by the gateway's code first and by the HTTP status second."""

import math
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

from oca_sms_async._errors import (
    AccountError,
    ApiError,
    FieldError,
    InternalError,
    NotFoundError,
    OcaSmsError,
    RateLimitedError,
    UnexpectedResponseError,
)
from oca_sms_async._scrub import mask_digits
from oca_sms_async._wire._json import whole_number

_MAX_TEXT: Final = 1000
_MAX_PAUSE: Final = 60.0


def refusal(
    status_code: int,
    headers: Mapping[str, str],
    body: bytes | None,
    errors: Any,
    *,
    codes: Mapping[int, type[ApiError]],
    about_sending: bool,
) -> OcaSmsError:
    """Return the error that the answer is.

    `errors` is the answer's list of them, or the value in its place. `codes` are those that the API lists. The code of
    an internal error counts with HTTP 500 alone, and «not found» is no refusal of a send.
    """
    code, text, fields = _complaint(errors, codes)
    kind = None if code is None else codes.get(code)
    if (kind is InternalError and status_code != 500) or (kind is NotFoundError and about_sending):
        kind = None
    if kind is None and code not in codes and status_code < 400 and errors:
        return UnexpectedResponseError(f"the gateway answered HTTP {status_code} with errors in it")
    kind = kind or _kind_by_status(status_code, listed=code in codes, about_sending=about_sending)
    if not text and not fields:  # the rest of a field is the recipient's number
        text = _excerpt((body or b"").decode(errors="replace"))
    wait = _retry_after(headers) if status_code == 429 or kind is RateLimitedError else None
    return kind(status_code, code, text, fields, retry_after=wait)


def _kind_by_status(status_code: int, *, listed: bool, about_sending: bool) -> type[ApiError]:
    """Return the error that the HTTP status stands for. A listed code is no word against the account."""
    if status_code == 429:
        return RateLimitedError
    if status_code == 404 and not about_sending:
        return NotFoundError
    return AccountError if status_code in {401, 403} and not listed else ApiError


def _complaint(errors: Any, codes: Mapping[int, type[ApiError]]) -> tuple[int | None, str, tuple[FieldError, ...]]:
    """Return code, text and fields of the first error that has a listed code, else of the first one."""
    entries = [entry for entry in (errors if isinstance(errors, list) else [errors]) if isinstance(entry, dict)]
    if not entries:
        return None, "", ()
    entry = next((entry for entry in entries if whole_number(entry.get("code")) in codes), entries[0])
    code, message = whole_number(entry.get("code")), entry.get("message")
    if isinstance(message, str):
        return code, _excerpt(message), ()
    fields = tuple(
        FieldError(*(_excerpt(field.get(name)) for name in ("param", "msg", "location")))
        for field in (message if isinstance(message, list) else [message])
        if isinstance(field, dict)  # its `value` is left out: it is the recipient's number
    )
    return code, _excerpt("; ".join(field.msg for field in fields)), fields


def _excerpt(text: Any) -> str:
    """Return the beginning of a text with digit runs starred; an empty string for a value that is no text."""
    # Starred before it is cut, or the cut could leave three digits of a longer run.
    return mask_digits(text)[:_MAX_TEXT] if isinstance(text, str) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the wait that the gateway asks for, from 0 to 60 seconds; `None` if no header can be read.

    `Retry-After` holds seconds or a date. Without it, `X-RateLimit-Reset` counts. The vendor does not state its unit:
    above 1e12 it is an epoch in milliseconds, above 1e9 an epoch in seconds, else seconds from now.
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

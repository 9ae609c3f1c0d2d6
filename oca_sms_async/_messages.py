"""Checks of a message before it is sent: number, text, key, expiry. A fault is an `InvalidMessageError`."""

import asyncio
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Final

from oca_sms_async._errors import ExpiredError, InvalidMessageError
from oca_sms_async._phone import normalize_phone

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def check_number(phone: str, region: str) -> str:
    """Return a recipient's number as E.164. `region` is the country of a number without country code."""
    try:
        return normalize_phone(phone, region)
    except ValueError as error:
        reason = str(error)
    raise InvalidMessageError(reason)  # outside the handler: the frames of the ValueError hold the number


def check_text(message: str) -> None:
    """Refuse a blank text, and one that is not valid Unicode."""
    if not isinstance(message, str) or not message.strip():
        raise InvalidMessageError("message must be a str that is not blank")
    if _SURROGATE.search(message):
        raise InvalidMessageError("message holds half of a surrogate pair, which no gateway can take")


def check_key(key: str | None) -> None:
    """Refuse an empty key, which identifies nothing."""
    if key is not None and not (isinstance(key, str) and key):
        raise InvalidMessageError("key must be a str that is not empty, or None")


def deadline_in(expires_in: float | timedelta | None) -> float | None:
    """Return the deadline in loop time, counted from now. `ExpiredError` if it has passed."""
    if expires_in is None:
        return None
    seconds = expires_in.total_seconds() if isinstance(expires_in, timedelta) else expires_in
    # Not math.isfinite: it raises OverflowError for an integer that is too large for a float.
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not abs(seconds) <= sys.float_info.max:
        raise InvalidMessageError("expires_in must be a finite number of seconds, or a timedelta")
    if seconds <= 0:
        raise ExpiredError("expires_in is not above 0: the message has expired already")
    return asyncio.get_running_loop().time() + seconds


def deadline_at(expires_at: datetime | None) -> float | None:
    """Return the deadline in loop time for an aware datetime. `ExpiredError` if it has passed."""
    if expires_at is None:
        return None
    if not isinstance(expires_at, datetime) or expires_at.utcoffset() is None:
        raise InvalidMessageError("expires_at must be an aware datetime: give it a tzinfo")
    return deadline_in(max(expires_at - datetime.now(UTC), timedelta()))

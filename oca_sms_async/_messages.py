"""A message checked before it is sent: number, text, key, expiry; what is wrong is an `InvalidMessageError`."""

import asyncio
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Final

from oca_sms_async._errors import ExpiredError, InvalidMessageError
from oca_sms_async._phone import normalize_phone

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def check_number(phone: str, region: str) -> str:
    """Return a recipient's number as E.164; `region` is how one without country code is read."""
    try:
        return normalize_phone(phone, region)
    except ValueError as error:
        reason = str(error)
    raise InvalidMessageError(reason)  # out here, for the other one's frames hold the number


def check_text(message: str) -> None:
    """Refuse a text that no gateway could take."""
    if not isinstance(message, str) or not message.strip():
        raise InvalidMessageError("message must be a str that is not blank")
    if _SURROGATE.search(message):
        raise InvalidMessageError("message holds half of a surrogate pair, which no gateway can take")


def check_key(key: str | None) -> None:
    """Refuse a key that names nothing."""
    if key is not None and not (isinstance(key, str) and key):
        raise InvalidMessageError("key must be a str that is not empty, or None")


def deadline_in(expires_in: float | timedelta | None) -> float | None:
    """Return a deadline in the loop's time, so many seconds from now; `ExpiredError` for one that has passed."""
    if expires_in is None:
        return None
    seconds = expires_in.total_seconds() if isinstance(expires_in, timedelta) else expires_in
    # Compared, where math.isfinite would raise an OverflowError for an integer that no float can hold.
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not abs(seconds) <= sys.float_info.max:
        raise InvalidMessageError("expires_in must be a finite number of seconds, or a timedelta")
    if seconds <= 0:
        raise ExpiredError("expires_in is not above 0: the message has expired already")
    return asyncio.get_running_loop().time() + seconds


def deadline_at(expires_at: datetime | None) -> float | None:
    """Return a deadline in the loop's time, at an aware datetime; `ExpiredError` for one that has passed."""
    if expires_at is None:
        return None
    if not isinstance(expires_at, datetime) or expires_at.utcoffset() is None:
        raise InvalidMessageError("expires_at must be an aware datetime: give it a tzinfo")
    return deadline_in(max(expires_at - datetime.now(UTC), timedelta()))

"""Checks of a message before it is sent: number, text, key, expiry. A fault is an `InvalidMessageError`."""

import re
from typing import Final

from oca_sms_async._errors import InvalidMessageError
from oca_sms_async._phone import normalize_phone

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def check_number(phone: str, region: str) -> str:
    """Return a recipient's number as E.164. `region` is the country of a number without country code."""
    try:
        return normalize_phone(phone, region=region)
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

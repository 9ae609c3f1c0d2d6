"""Checks of a message before it is sent: number, text, key, expiry. A fault is an `InvalidMessageError`."""

import re
from typing import Final
from unicodedata import category

from oca_sms_async._errors import InvalidMessageError
from oca_sms_async._phone import normalize_in

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_UNSEEN: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})  # categories of Unicode


def check_number(phone: str, region: str) -> str:
    """Return a recipient's number as E.164. `region`, checked already, is that of a number without country code."""
    try:
        return normalize_in(region, phone)
    except ValueError as error:
        reason = str(error)
    raise InvalidMessageError(reason)  # outside the handler: the frames of the ValueError hold the number


def check_text(message: str) -> None:
    """Refuse a text without a visible character, one with a NUL, and one that is not valid Unicode."""
    if not isinstance(message, str) or is_blank(message):
        raise InvalidMessageError("message must be a str that is not blank")
    if message.isprintable():  # nothing of what follows
        return
    if "\0" in message:  # a program in C takes it for the end of the text
        raise InvalidMessageError("message holds a NUL character, behind which a gateway may cut the text off")
    if _SURROGATE.search(message):
        raise InvalidMessageError("message holds half of a surrogate pair, which no gateway can take")


def is_blank(text: str) -> bool:
    """Tell whether a text has nothing to see: white space, control characters, zero-width spaces and their kin."""
    # Not `isprintable` for each character: it is False for an emoji that is newer than Python's Unicode.
    return not text.strip() or (not text.isprintable() and all(category(char) in _UNSEEN for char in text))


def check_key(key: str | None) -> None:
    """Refuse an empty key, which identifies nothing."""
    if key is not None and not (isinstance(key, str) and key):
        raise InvalidMessageError("key must be a str that is not empty, or None")

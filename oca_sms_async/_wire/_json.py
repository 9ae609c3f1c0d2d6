"""JSON as the gateway writes it: loose about bytes, and about numbers."""

import codecs
import json
from typing import Any, Final

# json's own functions look at all of their options for each message.
_ENCODE: Final = json.JSONEncoder().encode
_DECODE: Final = json.JSONDecoder().decode


def write_json(document: Any) -> bytes:
    """Return a document as JSON in ASCII."""
    return _ENCODE(document).encode()


def read_json(body: bytes | None) -> tuple[Any, BaseException | None]:
    """Return the document. If it cannot be read, return `None` and the reason."""
    if body is None:
        return None, ValueError("the body is too long, or cannot be decompressed")
    try:
        # A stray byte or a byte order mark must not lose a receipt. The codec "utf-8-sig" would be imported only here,
        # after the message was sent, and an import fails in a process that has no file descriptor left.
        return _DECODE(body.removeprefix(codecs.BOM_UTF8).decode(errors="replace")), None
    except (ValueError, RecursionError) as error:
        return None, error


def whole_number(value: Any) -> int | None:
    """Return an integer that JSON has as a number or as a string of digits; `None` for any other value."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) < 10 and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    return None

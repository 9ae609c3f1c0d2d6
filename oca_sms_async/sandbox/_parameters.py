"""The parameters of a send: read from its body, and checked as the gateway checks them."""

import json
import re
from typing import Any, Final

from oca_sms_async._phone import normalize_phone
from oca_sms_async.sandbox._refusals import Complaint, Parameter

_NUMBER_LIKE: Final = re.compile(r"[+0-9 .()-]{3,40}")
_PHONE_CHARACTERS: Final = re.compile(r"\+?[0-9]+")


def read_parameters(content_type: str | None, body: bytes) -> dict[str, Any]:
    """Return the members of a JSON object, or nothing where the body is not an object or its type is not JSON."""
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        return {}
    try:
        parameters = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return parameters if isinstance(parameters, dict) else {}


def check_phone(value: object) -> str | Complaint:
    """Return the recipient as E.164. The gateway reads `+62…`, `62…` and `0…`, digits only, in one country."""
    if not isinstance(value, str) or not _PHONE_CHARACTERS.fullmatch(value):
        return Complaint(value, "Invalid value", Parameter.PHONE)
    if not value.startswith(("+62", "62", "0")):
        return Complaint(value, "Invalid country code", Parameter.PHONE)
    try:
        phone = normalize_phone("+" + value if value.startswith("62") else value)
    except ValueError:
        return Complaint(value, "Invalid phone number", Parameter.PHONE)
    # A dialled international prefix («008 65 …») leads abroad although it begins with a zero.
    return phone if phone.startswith("+62") else Complaint(value, "Invalid country code", Parameter.PHONE)


def check_text(value: object) -> str | Complaint:
    """Return the text. Half a surrogate pair is refused, because no SMS can carry it."""
    if not isinstance(value, str) or not value.strip():
        return Complaint(value, "Invalid value", Parameter.TEXT)
    try:
        value.encode()
    except UnicodeEncodeError:
        return Complaint(value, "Invalid value", Parameter.TEXT)
    return value


def guess_phone(value: object) -> str:
    """Return the recipient of a refused send: as E.164 if possible, else as it came, or "" without a number."""
    phone = check_phone(value)
    if isinstance(phone, str):
        return phone
    return value if isinstance(value, str) and _NUMBER_LIKE.fullmatch(value) else ""

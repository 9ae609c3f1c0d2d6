"""Credentials: checked, and written as the value of an Authorization header.

A function here returns its `ValueError` and does not raise it. The caller raises it after it has deleted the
credentials. Error trackers show the local variables of each frame in a traceback.
"""

import base64
import json
import re
import time
from typing import Any, Final

from oca_sms_async._settings import is_finite

_BEARER: Final = re.compile(r"\Abearer(\s+|$)", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ROUND: Final = "\ufeff \t\r\n"  # what a text file has round a token
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_TOKEN: Final = re.compile(r"[!-~]+")  # printable ASCII: all that a header carries without white space


def basic(username: str, password: str) -> str | ValueError:
    """Return the value for HTTP Basic in UTF-8, or the error that names the field which Basic cannot carry."""
    refused = _fault("username", username) or _fault("password", password)
    if not refused and ":" in username:
        refused = "username must hold no colon: HTTP Basic ends the username at the first one"
    if refused:
        return ValueError(refused)
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def bearer(token: str) -> str | ValueError:
    """Return the value for a bearer token, or the error for a text that cannot be one.

    The dashboard gives the token as a text file, so a byte order mark and white space round the token are dropped. So
    is the word «Bearer» before it, in any case.
    """
    if not isinstance(token, str):
        return ValueError("token must be a str")
    bare = _BEARER.sub("", token.strip(_ROUND)).strip(_ROUND)
    if not _TOKEN.fullmatch(bare):
        return ValueError("token must be one word of printable ASCII, such as the dashboard's file holds")
    return f"Bearer {bare}"


def wrong_sender(sender_id: str) -> ValueError | None:
    """Return the error for a name that no message can have as its sender."""
    refused = _fault("sender_id", sender_id)
    if not refused and not sender_id.strip():
        refused = "sender_id must not be blank"
    return ValueError(refused) if refused else None


def has_expired(authorization: str) -> bool:
    """Tell whether this carries a JWT whose `exp` has passed. It is read without verifying it.

    A token that cannot be read counts as valid: only the gateway can tell.
    """
    try:
        _, payload, _ = authorization.partition(" ")[2].split(".")
        claims: Any = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return False
    ends: Any = claims.get("exp") if isinstance(claims, dict) else None
    return is_finite(ends, least=0) and bool(ends <= time.time())


def _fault(name: str, value: object) -> str:
    """Return the reason to refuse a credential, which never shows its value; an empty string if there is no reason."""
    if not (isinstance(value, str) and value):
        return f"{name} must be a str that is not empty"
    if _SURROGATE.search(value):
        return f"{name} must hold no lone surrogate, which stands for a byte that is not UTF-8"
    if _CONTROL.search(value):  # most often the line end of the file that it was read from
        return f"{name} must hold no control character, such as a line end"
    return ""

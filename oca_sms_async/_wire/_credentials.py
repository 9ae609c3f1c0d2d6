"""Credentials: checked, and written as the value of an Authorization header.

A function here returns its `ValueError` and does not raise it. The caller raises it after it has deleted the
credentials, because error trackers show the local variables of each frame in a traceback.
"""

import base64
import re
from typing import Final

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def basic(username: str, password: str) -> str | ValueError:
    """Return the value for HTTP Basic in UTF-8, or the error that names the field which Basic cannot carry."""
    refused = _fault("username", username) or _fault("password", password)
    if not refused and ":" in username:
        refused = "username must hold no colon: HTTP Basic ends the username at the first one"
    if refused:
        return ValueError(refused)
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _fault(name: str, value: object) -> str:
    """Return the reason to refuse a credential, which never shows its value; an empty string if there is no reason."""
    if not (isinstance(value, str) and value):
        return f"{name} must be a str that is not empty"
    if _SURROGATE.search(value):
        return f"{name} must hold no lone surrogate, which stands for a byte that is not UTF-8"
    if _CONTROL.search(value):  # most often the line end of the file that it was read from
        return f"{name} must hold no control character, such as a line end"
    return ""

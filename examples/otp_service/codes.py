"""Codes: their drawing, their digests, and the text that carries them. No input or output."""

import hmac
import secrets
from typing import Final

DIGITS: Final = 6
LIFETIME: Final = 5  # minutes


def draw_code() -> str:
    """Return a new code. `random` would not do: a few of its values betray all later ones."""
    return f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"


def digest(secret: bytes, purpose: str, *parts: str) -> bytes:
    """Return a keyed hash. The purpose is part of it, so a digest of one table means nothing in another.

    A plain hash would be no protection: there are only a million codes, and not many more numbers.
    """
    return hmac.digest(secret, "\0".join([purpose, *parts]).encode(), "sha256")


def write_text(brand: str, domain: str, code: str) -> str:
    """Return the text of an SMS.

    The brand comes first: Telkomsel blocks an OTP without one, and the user sees its sender. The last line binds
    the code to the page's host. Browsers (WebOTP) and iOS fill it in there only, and not on a page that imitates it.
    """
    sentence = f"{brand}: kode Anda {code}, berlaku {LIFETIME} menit. Jangan berikan kepada siapa pun."
    return f"{sentence}\n\n@{domain} #{code}"

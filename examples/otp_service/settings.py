"""The settings of the service, out of the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from oca_sms_async import check_message

from otp_service.codes import write_text

_DOMAIN: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings. Their repr shows neither the secret nor the database's password.

    `secret` is the key of every digest. It is no part of the database, so a stolen copy of the tables cannot be tried
    with all million codes.
    """

    database: str = field(repr=False)
    secret: bytes = field(repr=False)
    brand: str
    domain: str

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read OTP_DATABASE, OTP_SECRET (hexadecimal), OTP_BRAND and OTP_DOMAIN; `ValueError` names a bad one.

        The text is checked here, so that a brand that breaks it stops the start and not the first delivery.
        """
        missing = {"OTP_DATABASE", "OTP_SECRET", "OTP_BRAND", "OTP_DOMAIN"} - {
            name for name in environ if environ[name]
        }
        if missing:
            raise ValueError(f"these variables are missing: {', '.join(sorted(missing))}")
        try:
            secret = bytes.fromhex(environ["OTP_SECRET"])
        except ValueError:
            secret = b""
        if len(secret) < 32:  # from None: the exception's own text and the frames' values may show the secret
            raise ValueError(
                'OTP_SECRET must have 64 hexadecimal digits: python -c "import secrets; print(secrets.token_hex(32))"'
            ) from None
        brand, domain = environ["OTP_BRAND"], environ["OTP_DOMAIN"]
        if not _DOMAIN.fullmatch(domain):
            raise ValueError("OTP_DOMAIN must be the host of the page with the code's field, such as login.example.com")
        if advice := check_message(write_text(brand, domain, "482913"), brand=brand):
            raise ValueError(f"OTP_BRAND or OTP_DOMAIN spoils the text: {advice[0].text}")
        return cls(environ["OTP_DATABASE"], secret, brand, domain)

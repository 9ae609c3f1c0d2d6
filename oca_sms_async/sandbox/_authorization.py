"""The two ways in which requests carry credentials: Basic with a username and a password, Bearer with a token."""

import base64
import hmac
from typing import Final

from oca_sms_async.sandbox._credentials import Credentials
from oca_sms_async.sandbox._refusals import INVALID_CREDENTIALS, MISSING_AUTHORIZATION, MISSING_TOKEN, Refusal


class _Basic:
    def check(self, header: str | None, account: Credentials) -> Refusal | None:
        if header is None:
            return MISSING_AUTHORIZATION
        expected = f"{account.username}:{account.password}".encode()
        return None if hmac.compare_digest(_read_basic(header), expected) else INVALID_CREDENTIALS

    def secret(self, account: Credentials) -> str:
        return account.password

    def variables(self, account: Credentials) -> dict[str, str]:
        return {"OCA_SMS_USERNAME": account.username, "OCA_SMS_PASSWORD": account.password}


class _Bearer:
    def check(self, header: str | None, account: Credentials) -> Refusal | None:
        if header is None:
            return MISSING_AUTHORIZATION
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return MISSING_TOKEN
        matches = hmac.compare_digest(token.strip().encode("utf-8", "replace"), account.token.encode())
        return None if matches else INVALID_CREDENTIALS

    def secret(self, account: Credentials) -> str:
        return account.token

    def variables(self, account: Credentials) -> dict[str, str]:
        return {"OCA_SMS_TOKEN": account.token}


BASIC: Final = _Basic()
BEARER: Final = _Bearer()


def _read_basic(header: str) -> bytes:
    """Return the `username:password` of a Basic header, or nothing where the header is malformed."""
    scheme, _, encoded = header.partition(" ")
    try:
        return base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else b""
    except ValueError:
        return b""

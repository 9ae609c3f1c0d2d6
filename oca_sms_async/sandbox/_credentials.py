"""The credentials of an account, and the published ones: the defaults, known from the documentation."""

from typing import Final, Protocol

import attrs


class Credentials(Protocol):
    """Username and password for the APIs that take Basic, a token for the others, and the sender of a Premium send."""

    username: str
    password: str
    token: str
    sender_id: str


@attrs.define
class _Published:
    username: str = "sandbox@example.com"
    password: str = "sandbox"  # noqa: S105 - published on purpose
    token: str = "sandbox-token"  # noqa: S105 - as above
    sender_id: str = "Sandbox"


PUBLISHED: Final = _Published()

"""The published credentials of a sandbox: its defaults, which every reader of the documentation knows."""

from typing import Final, Protocol

import attrs


class Credentials(Protocol):
    """The credentials that a request must carry."""

    username: str
    password: str


@attrs.define
class _Published:
    username: str = "sandbox@example.com"
    password: str = "sandbox"  # noqa: S105 - published on purpose


PUBLISHED: Final = _Published()

"""The seam between the gateway's rules and the words of one API: each API is a value that fulfils `Api`."""

from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import Any, Final, Protocol

import attrs

from oca_sms_async.sandbox._answers import Answer
from oca_sms_async.sandbox._credentials import Credentials
from oca_sms_async.sandbox._inbox import Message


class Operation(Enum):
    """The things that a client asks of the gateway."""

    SEND = auto()
    HISTORY = auto()
    DETAIL = auto()


class Parameter(Enum):
    """The parameters of a send that the gateway complains about."""

    PHONE = auto()
    TEXT = auto()


@attrs.frozen
class Complaint:
    """A fault in one parameter, with the value that came."""

    value: object
    msg: str
    parameter: Parameter


@attrs.frozen
class Refusal:
    """The reason why a request is refused. An API turns it into an answer of its own."""

    kind: str
    complaints: tuple[Complaint, ...] = ()
    limit: int = 0  # requests a second, where there are too many
    reset: float = 0.0  # seconds until there is room for one again


INTERNAL_ERROR: Final = Refusal("internal-error")
INVALID_CREDENTIALS: Final = Refusal("invalid-credentials")
MISSING_AUTHORIZATION: Final = Refusal("missing-authorization")
UNKNOWN_USER: Final = Refusal("unknown-user")
ACCOUNT_EXPIRED: Final = Refusal("account-expired")
QUOTA_EXHAUSTED: Final = Refusal("quota-exhausted")
SUCCESS_WITH_ERRORS: Final = Refusal("success-with-errors")
UNKNOWN_ID: Final = Refusal("unknown-id")


def refuse_parameters(*complaints: Complaint) -> Refusal:
    """Return the refusal of a send for its parameters."""
    return Refusal("invalid-request", complaints=complaints)


def refuse_rate(limit: int, reset: float) -> Refusal:
    """Return the refusal of a request above `limit` a second; there is room again after `reset` seconds."""
    return Refusal("rate-limited", limit=limit, reset=reset)


class Api(Protocol):
    """One of the vendor's APIs: its paths, its credentials, its fields and its bodies."""

    @property
    def prefix(self) -> str:
        """The path of the base URL."""
        ...

    @property
    def paths(self) -> Mapping[str, Mapping[str, Operation]]:
        """What each path below the prefix does, by HTTP method. A detail's path has the parameter `id`."""
        ...

    def is_authorized(self, authorization: str, account: Credentials) -> bool:
        """Tell whether an Authorization header carries the account's credentials."""
        ...

    def secret(self, account: Credentials) -> str:
        """Return the credential that must be kept secret."""
        ...

    def read_send(self, parameters: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return recipient and text as they came, unchecked; None for one that is missing."""
        ...

    def refuse(self, refusal: Refusal) -> Answer:
        """Return the answer to a request that is refused."""
        ...

    def write_receipt(self, message: Message) -> Answer:
        """Return the answer to a send that is accepted."""
        ...

    def write_history(self, messages: Iterable[Message]) -> Answer:
        """Return all messages."""
        ...

    def write_detail(self, message: Message) -> Answer:
        """Return one message."""
        ...

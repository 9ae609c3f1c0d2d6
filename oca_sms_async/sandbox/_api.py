"""The seam between the gateway's rules and the words of one API: each API is a value of `Api`."""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Protocol

import attrs

from oca_sms_async.sandbox._answers import Answer
from oca_sms_async.sandbox._credentials import Credentials
from oca_sms_async.sandbox._inbox import Message
from oca_sms_async.sandbox._refusals import Refusal


class Operation(StrEnum):
    """The things that a client asks of the gateway."""

    SEND = "send"
    HISTORY = "history"
    STATUS = "status"


@attrs.frozen
class RawSend:
    """The parameters of a send as they came, unchecked. Only a Premium send `has_sender`."""

    phone: Any = attrs.field(repr=False)
    text: Any = attrs.field(repr=False)
    sender_id: Any = None
    has_sender: bool = False


class Authorization(Protocol):
    """The way in which requests carry their credentials."""

    def check(self, header: str | None, account: Credentials) -> Refusal | None:
        """Return the refusal of an Authorization header, or of a request without one."""
        ...

    def secret(self, account: Credentials) -> str:
        """Return the credential that must be kept secret."""
        ...

    def variables(self, account: Credentials) -> dict[str, str]:
        """Return the environment variables that give a client these credentials."""
        ...


@attrs.frozen
class Api:
    """One of the vendor's APIs: its paths, its credentials, its fields and its bodies.

    `paths` are below `prefix`, the base URL's path, with an operation for each HTTP method. A status' path has the
    parameter `id`.
    """

    name: str
    title: str
    prefix: str
    paths: Mapping[str, Mapping[str, Operation]]
    authorization: Authorization
    read_send: Callable[[Mapping[str, Any]], RawSend]
    refuse: Callable[[Refusal], Answer]
    write_receipt: Callable[[Message], Answer]
    write_status: Callable[[Message], Answer]
    make_id: Callable[[], str]
    write_history: Callable[[Iterable[Message]], Answer] | None = None  # `None`: the API has none
    has_sender: bool = False
    is_default: bool = False  # a client that is told no API takes this one

    def variables(self, account: Credentials) -> dict[str, str]:
        """Return the environment variables that name this API to a client and give it the account's credentials."""
        name = {} if self.is_default else {"OCA_SMS_API": self.name}
        sender = {"OCA_SMS_SENDER_ID": account.sender_id} if self.has_sender else {}
        return name | self.authorization.variables(account) | sender

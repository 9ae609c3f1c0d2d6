"""The seam between the client and one of the vendor's APIs: a request without I/O, and the value that makes it."""

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from attrs import define, field

from oca_sms_async._errors import ApiError
from oca_sms_async._models import SendReceipt, SmsRecord

_T = TypeVar("_T")


# Requests are not compared, and each method costs a part of the import. Nothing changes a request, but to freeze it
# would cost each message a microsecond.
@define(eq=False)
class Request(Generic[_T]):
    """One request to the gateway: its method, its path below the base URL, and its JSON body, if it has one.

    `parse(status_code, headers, body)` returns the model or raises the gateway's refusal. Its `body` is `None` if
    the answer was longer than `max_body` bytes or could not be decompressed. The repr shows no text and no number.
    """

    method: str
    path: str
    parse: Callable[[int, Mapping[str, str], bytes | None], _T] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    max_body: int = 2**20


class Api(Protocol):
    """One of the vendor's APIs with the credentials for it. The client knows no more of the wire than this."""

    @property
    def base_url(self) -> str:
        """The URL that the vendor documents."""

    @property
    def codes(self) -> Mapping[int, type[ApiError]]:
        """The error that each of the gateway's codes stands for."""

    @property
    def has_history(self) -> bool:
        """True if the API can list the messages that it took."""

    def headers(self) -> Mapping[str, str]:
        """Return the headers that carry the credentials. The client asks for them with each attempt."""

    def send(self, phone: str, message: str) -> Request[SendReceipt]:
        """Return the request that sends `message` to `phone`, an E.164 number."""

    def history(self) -> Request[list[SmsRecord]]:
        """Return the request for all records; `UnsupportedError` if the API has no history."""

    def status(self, msg_uid: str) -> Request[SmsRecord]:
        """Return the request for one message's record; `ValueError` for a blank id."""

"""An account: credentials for one API, in that API's dialect."""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn, Self

from attrs import field, frozen

from oca_sms_async._errors import ApiError
from oca_sms_async._models import SendReceipt, SmsRecord
from oca_sms_async._wire._api import Request
from oca_sms_async._wire._converter import Submission
from oca_sms_async._wire._credentials import has_expired
from oca_sms_async._wire._dialect import Dialect


def _raise_refused(authorization: str | ValueError) -> str:
    if isinstance(authorization, ValueError):
        raise authorization
    return authorization


@frozen(init=False)
class Account:
    """Credentials for one API, and the sender of its messages if the API has one.

    Of the credentials it keeps only the header's value, which is in no repr and in no pickle. A copy is the value
    itself, because it is frozen.
    """

    _dialect: ClassVar[Dialect]
    _authorization: str = field(repr=False, converter=_raise_refused)
    _sender_id: str | None = field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        self._dialect.prepare()

    def _warn_if_expired(self) -> None:
        """Warn of a token whose time has passed. Call this from the constructor, so that the level is its caller's."""
        if has_expired(self._authorization):
            warnings.warn("the token has expired: the gateway will refuse it", stacklevel=3)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API value holds credentials, and is not pickled: make it where it is used")

    @property
    def base_url(self) -> str:
        """The URL that the vendor documents."""
        return self._dialect.base_url

    @property
    def codes(self) -> Mapping[int, type[ApiError]]:
        """The error that each of the gateway's codes stands for."""
        return self._dialect.codes

    @property
    def has_history(self) -> bool:
        """True if the API can list the messages that it took."""
        return self._dialect.history_path is not None

    def headers(self) -> Mapping[str, str]:
        """Return the headers that carry the credentials."""
        return {"Authorization": self._authorization}

    def send(self, phone: str, message: str) -> Request[SendReceipt]:
        """Return the request that sends `message` to `phone`, an E.164 number."""
        return self._dialect.send(Submission(phone, message, self._sender_id))

    def history(self) -> Request[list[SmsRecord]]:
        """Return the request for all records; `UnsupportedError` if the API has no history."""
        return self._dialect.history()

    def status(self, msg_uid: str) -> Request[SmsRecord]:
        """Return the request for one message's record; `ValueError` for a blank id."""
        return self._dialect.status(msg_uid)

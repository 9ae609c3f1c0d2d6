"""What can go wrong, and for each error the one answer that counts: may this message have been sent?

OcaSmsError                          the root, never raised itself
├── InvalidMessageError              (ValueError) the message cannot be sent as it is; nothing was
├── ExpiredError                     (TimeoutError) its time ran out before it was answered
├── UnsupportedError                 the API has no history; nothing was asked
├── LimiterUnavailableError          a shared limiter's server does not answer
├── JournalError                     the journal cannot be used
├── ConnectionFailedError            proof that no byte left
├── DeliveryUnknownError             trouble once a request may have been on its way
├── UnexpectedResponseError          a success that is not what the gateway documents
└── ApiError                         the gateway refused
    ├── InternalError                HTTP 500 with code 13, the only one that is tried again
    ├── InvalidRequestError          code 39: number, text or template
    ├── RateLimitedError             HTTP 429 or code 9
    ├── NotFoundError                no such message
    └── AccountError                 the account, not the message, is refused
        ├── InvalidCredentialsError    code 17
        ├── MissingAuthorizationError  code 19
        ├── UserNotFoundError          code 41
        ├── AccountExpiredError        code 51
        └── QuotaExhaustedError        code 55

`str`, `repr` and `args` hold only words of this library; what the gateway wrote is in `ApiError.text` and
`FieldError.msg` alone.
"""

from typing import Any, ClassVar

import attrs


class OcaSmsError(Exception):
    """The root of every error of this library.

    `may_have_been_sent` is about the message, not about the last attempt: True as soon as one attempt of the call may
    have been taken by the gateway. `attempts` counts the requests that were started; 0 means that nothing was.
    """

    may_have_been_sent: bool = False
    attempts: int = 0

    def __init__(self, message: str = "", *, may_have_been_sent: bool | None = None, attempts: int = 0) -> None:
        super().__init__(message)
        if may_have_been_sent is not None:
            self.may_have_been_sent = may_have_been_sent
        self.attempts = attempts

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way calls the class with `args` alone, which the richer constructors below would misread.
        return _restored, (type(self), self.args, self.__dict__)


class InvalidMessageError(OcaSmsError, ValueError):
    """The message cannot be sent as it is: empty text, impossible number, naive `expires_at`. Nothing was sent."""


class ExpiredError(OcaSmsError, TimeoutError):
    """The message's `expires_in` or `expires_at` passed, or would pass before its turn or its next attempt comes."""


class UnsupportedError(OcaSmsError):
    """The account's API has no history. The client asked for nothing and sent nothing."""


class LimiterUnavailableError(OcaSmsError):
    """A shared limiter's server does not answer, so nobody knows whether a request would be within the limit."""


class JournalError(OcaSmsError):
    """The journal cannot be used: in use by another run, damaged, of another version, or on a full disk. Nothing is
    sent that it does not record.
    """


class ConnectionFailedError(OcaSmsError):
    """No connection to the gateway came about; it is proven that no byte of the request left."""


class DeliveryUnknownError(OcaSmsError):
    """Trouble came once a request may have been on its way, time-out included: look the message up before sending
    again.
    """

    may_have_been_sent = True


class UnexpectedResponseError(OcaSmsError):
    """The gateway answered with a success whose body is not what it documents, so it may well have taken the
    message.
    """

    may_have_been_sent = True


@attrs.frozen
class FieldError:
    """One field that the gateway refused: its name, the gateway's words (long digit runs starred), and where it
    stood.
    """

    param: str
    msg: str = attrs.field(repr=False)
    location: str


class ApiError(OcaSmsError):
    """The gateway refused the request.

    `status_code` is the HTTP status, `code` the gateway's own (None: none was given), `text` its words with runs of
    four or more digits starred, `fields` the fields it complained of, `retry_after` the seconds it asks to wait,
    where it refuses by its rate limit. Unless told otherwise, only a 4xx other than 408 and 499 proves that the
    message was not taken.
    """

    _meaning: ClassVar[str] = "the gateway refused the request"

    def __init__(
        self,
        status_code: int,
        code: int | None = None,
        text: str = "",
        fields: tuple[FieldError, ...] = (),
        *,
        retry_after: float | None = None,
        may_have_been_sent: bool | None = None,
        attempts: int = 0,
    ) -> None:
        coded = "" if safe_code(code) is None else f", code {code}"
        if may_have_been_sent is None:
            may_have_been_sent = not 400 <= status_code < 500 or status_code in {408, 499}
        super().__init__(
            f"{self._meaning} (HTTP {status_code}{coded})", may_have_been_sent=may_have_been_sent, attempts=attempts
        )
        self.status_code = status_code
        self.code = code
        self.text = text
        self.fields = fields
        self.retry_after = retry_after


class InternalError(ApiError):
    """HTTP 500 with code 13, «usually a temporary error in server»: tried again, and the message may be doubled by
    that.
    """

    _meaning = "the gateway had an internal error"


class InvalidRequestError(ApiError):
    """Code 39: a parameter is missing or wrong, the text does not match the account's template, or the number is
    refused.
    """

    _meaning = "the gateway refused a parameter: number, text or template"


class RateLimitedError(ApiError):
    """HTTP 429 or code 9: too many requests. `retry_after` is in seconds, from 0 to 60; None if the gateway did not
    say.
    """

    _meaning = "the gateway's rate limit was exceeded"


class NotFoundError(ApiError):
    """HTTP 404 on the history or a status: the gateway has no such message, or not yet."""

    _meaning = "the gateway knows no such message"


class AccountError(ApiError):
    """The account is refused, not the message: no other message will fare better until somebody mends that."""

    _meaning = "the gateway refused the account"


class InvalidCredentialsError(AccountError):
    """Code 17: the username or the password is missing or wrong."""

    _meaning = "the gateway refused the username or the password"


class MissingAuthorizationError(AccountError):
    """Code 19: the Authorization header did not arrive as it should."""

    _meaning = "the gateway did not get the Authorization header"


class UserNotFoundError(AccountError):
    """Code 41: the gateway has no settings for this user."""

    _meaning = "the gateway has no settings for this user"


class AccountExpiredError(AccountError):
    """Code 51: the account has expired."""

    _meaning = "the account has expired"


class QuotaExhaustedError(AccountError):
    """Code 55: the account's quota is used up."""

    _meaning = "the account's quota is used up"


def safe_code(code: int | None) -> int | None:
    """Return a code, but for one of four digits and more: it is none of the gateway's, and may be a number or a
    one-time password.
    """
    return code if code is not None and -1000 < code < 1000 else None


def _restored(cls: type[OcaSmsError], args: tuple[Any, ...], state: dict[str, Any]) -> OcaSmsError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error

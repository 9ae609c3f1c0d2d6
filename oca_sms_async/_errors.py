"""The errors. Each answers one question: may this message have been sent?

OcaSmsError                          the root, never raised itself
├── InvalidMessageError              (ValueError) the message cannot be sent as it is; nothing went out
├── ExpiredError                     (TimeoutError) its time ran out before it was answered
├── UnsupportedError                 the API has no history; nothing was asked
├── LimiterUnavailableError          the server of a shared limiter does not answer
├── JournalError                     the journal cannot be used
│   └── JournalClosedError           (RuntimeError) it was closed, or belongs to another process
├── ConnectionFailedError            proof that no byte left
│   └── ClientClosedError            (RuntimeError) the client was closed before the request
├── DeliveryUnknownError             trouble once a request may have been on its way
├── UnexpectedResponseError          a success that the gateway does not document
└── ApiError                         the gateway refused
    ├── InternalError                HTTP 500 with code 13, the only refusal that is tried again
    ├── InvalidRequestError          code 39, and 59 in V2: number, text or template
    ├── RateLimitedError             HTTP 429 or code 9
    ├── NotFoundError                a message that the gateway does not know
    └── AccountError                 the account, not the message, is refused
        ├── InvalidCredentialsError    code 17, and 45 in V2
        ├── MissingAuthorizationError  code 19, and 43 in V2
        ├── UserNotFoundError          code 41
        ├── AccountExpiredError        code 51
        └── QuotaExhaustedError        code 55, and 5 in V2

`str`, `repr` and `args` hold only words of this library. The gateway's own words are in `ApiError.text` and
`FieldError.msg` alone.

Task queues such as Celery and Taskiq keep the `args` of an exception as JSON. They rebuild it by `type(error)(*args)`.
So `args` hold the whole answer, and every constructor takes them in this order.
"""

from typing import Any, ClassVar

import attrs


class OcaSmsError(Exception):
    """The root of every error of this library.

    `may_have_been_sent` is about the message, not about the last attempt. It is True as soon as the gateway may have
    taken one attempt of the call. `attempts` counts the requests that were started; 0 means no request.
    """

    may_have_been_sent: bool = False
    attempts: int = 0

    def __init__(
        self,
        message: str = "",
        may_have_been_sent: bool | None = None,  # noqa: FBT001 - positional for `args`
        attempts: int = 0,
    ) -> None:
        super().__init__(message)
        if may_have_been_sent is None:
            may_have_been_sent = type(self).may_have_been_sent
        self.may_have_been_sent = may_have_been_sent
        self.attempts = attempts

    @property
    def args(self) -> tuple[Any, ...]:  # type: ignore[override] # Exception's can be set, and would not follow the answer
        """The arguments that rebuild the error with its present answer: nothing but JSON's types, and no secret."""
        return str(self), self.may_have_been_sent, self.attempts

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by `args`: they leave the gateway's words out, and a user's subclass may take other arguments.
        return _restore, (type(self), str(self), self.__dict__)


class InvalidMessageError(OcaSmsError, ValueError):
    """The message cannot be sent as it is: empty text, impossible number, naive `expires_at`. Nothing was sent."""


class ExpiredError(OcaSmsError, TimeoutError):
    """The message's `expires_in` or `expires_at` passed, or would pass before its turn or its next attempt."""


class UnsupportedError(OcaSmsError):
    """The account's API has no history. The client asked for nothing and sent nothing."""


class LimiterUnavailableError(OcaSmsError):
    """The server of a shared limiter does not answer. A request might exceed the limit, so it is not made."""


class JournalError(OcaSmsError):
    """The journal cannot be used: in use by another run, damaged, of another version, or on a full disk.

    Nothing is sent without a record in the journal.
    """


class JournalClosedError(JournalError, RuntimeError):
    """The journal was closed, or it belongs to the parent process: open it after the fork."""


class ConnectionFailedError(OcaSmsError):
    """No connection to the gateway was made. This proves that no byte of the request left."""


class ClientClosedError(ConnectionFailedError, RuntimeError):
    """The client, or the `http_client` that was lent to it, was closed before the request started."""


class DeliveryUnknownError(OcaSmsError):
    """A failure, such as a time-out, after a request may have left. Look the message up before sending it again."""

    may_have_been_sent = True


class UnexpectedResponseError(OcaSmsError):
    """The gateway answered with a success in a form that it does not document. It may have taken the message."""

    may_have_been_sent = True


@attrs.frozen
class FieldError:
    """One field that the gateway refused.

    `param` is its name, `location` its place in the request. `msg` is the gateway's words, long digit runs starred.
    """

    param: str
    msg: str = attrs.field(repr=False)
    location: str


class ApiError(OcaSmsError):
    """The gateway refused the request.

    `status_code` is the HTTP status. `code` is the gateway's own, or `None`. `text` is its words, with runs of four or
    more digits starred. `fields` are the fields that it refused. `retry_after` is the seconds that it asks to wait, if
    its rate limit refused. A 4xx proves that the message was not taken, except 408 and 499. Any other status leaves
    doubt, unless `may_have_been_sent` says otherwise.
    """

    _meaning: ClassVar[str] = "the gateway refused the request"

    def __init__(  # noqa: PLR0917 - positional for `args`
        self,
        status_code: int,
        code: int | None = None,
        text: str = "",
        fields: tuple[FieldError, ...] = (),
        retry_after: float | None = None,
        may_have_been_sent: bool | None = None,  # noqa: FBT001 - as above
        attempts: int = 0,
    ) -> None:
        coded = "" if safe_code(code) is None else f", code {code}"
        if may_have_been_sent is None:
            may_have_been_sent = not 400 <= status_code < 500 or status_code in {408, 499}
        super().__init__(f"{self._meaning} (HTTP {status_code}{coded})", may_have_been_sent, attempts)
        self.status_code = status_code
        self.code = code
        self.text = text
        self.fields = tuple(fields)  # JSON makes a list of it
        self.retry_after = retry_after

    @property
    def args(self) -> tuple[Any, ...]:  # type: ignore[override] # as above
        """The arguments that rebuild the error, without the gateway's words and without a code that may be a number."""
        answer = (self.may_have_been_sent, self.attempts)
        return self.status_code, safe_code(self.code), "", (), self.retry_after, *answer


class InternalError(ApiError):
    """HTTP 500 with code 13, «usually a temporary error in server». It is tried again, which may double the message."""

    _meaning = "the gateway had an internal error"


class InvalidRequestError(ApiError):
    """Code 39, and 59 in V2: a parameter is missing or wrong, or the text does not match the account's template."""

    _meaning = "the gateway refused a parameter: number, text or template"


class RateLimitedError(ApiError):
    """HTTP 429 or code 9: too many requests.

    `retry_after` is in seconds, from 0 to 60; `None` if the gateway did not say.
    """

    _meaning = "the gateway's rate limit was exceeded"


class NotFoundError(ApiError):
    """HTTP 404, or code 33 in V2, on the history or a status: the gateway has no such message, or not yet."""

    _meaning = "the gateway knows no such message"


class AccountError(ApiError):
    """The gateway refuses the account, not the message. Every other message fails too until the account is repaired."""

    _meaning = "the gateway refused the account"


class InvalidCredentialsError(AccountError):
    """Code 17, and 45 in V2: the username and the password, or the token, are missing or wrong."""

    _meaning = "the gateway refused the credentials"


class MissingAuthorizationError(AccountError):
    """Code 19, and 43 in V2: the Authorization header is missing or damaged."""

    _meaning = "the gateway did not get the Authorization header"


class UserNotFoundError(AccountError):
    """Code 41: the gateway has no settings for this user."""

    _meaning = "the gateway has no settings for this user"


class AccountExpiredError(AccountError):
    """Code 51: the account has expired."""

    _meaning = "the account has expired"


class QuotaExhaustedError(AccountError):
    """Code 55, and 5 in V2: the account's quota is used up."""

    _meaning = "the account's quota is used up"


def safe_code(code: int | None) -> int | None:
    """Return a code of up to three digits, else None: a longer one may be a number or a one-time password."""
    return code if code is not None and -1000 < code < 1000 else None


def _restore(cls: type[OcaSmsError], sentence: str, state: dict[str, Any]) -> OcaSmsError:
    error = cls.__new__(cls)
    OcaSmsError.__init__(error, sentence)
    vars(error).update(state)
    return error

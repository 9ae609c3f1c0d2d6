"""The gateway's codes, and the error that each stands for.

Two of the errors depend on more than the code: `_refusals` has the conditions. The V2 pages do not list 17, and have
it in a sample. The V1 pages do not list 9.
"""

from collections.abc import Mapping
from typing import Final

from oca_sms_async._errors import (
    AccountExpiredError,
    ApiError,
    InternalError,
    InvalidCredentialsError,
    InvalidRequestError,
    MissingAuthorizationError,
    NotFoundError,
    QuotaExhaustedError,
    RateLimitedError,
    UserNotFoundError,
)

V1: Final[Mapping[int, type[ApiError]]] = {
    9: RateLimitedError,
    13: InternalError,
    17: InvalidCredentialsError,
    19: MissingAuthorizationError,
    39: InvalidRequestError,
    41: UserNotFoundError,
    51: AccountExpiredError,
    55: QuotaExhaustedError,
}

V2: Final[Mapping[int, type[ApiError]]] = {
    5: QuotaExhaustedError,
    9: RateLimitedError,
    13: InternalError,
    17: InvalidCredentialsError,
    19: MissingAuthorizationError,
    33: NotFoundError,
    39: InvalidRequestError,
    43: MissingAuthorizationError,
    45: InvalidCredentialsError,
    59: InvalidRequestError,
}

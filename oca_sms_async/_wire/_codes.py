"""The gateway's codes, and the error that each stands for.

Two of the errors depend on more than the code; `_refusals` has the conditions. Code 9 is documented for V2 alone. A
gateway that limits its rate sends it all the same.
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

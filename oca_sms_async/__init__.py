"""Asynchronous client of OCA, Telkom Indonesia's SMS gateway: every error says whether the message may have been
sent.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from oca_sms_async._bulk import BulkRun
    from oca_sms_async._client import AsyncOcaSms
    from oca_sms_async._errors import (
        AccountError,
        AccountExpiredError,
        ApiError,
        ClientClosedError,
        ConnectionFailedError,
        DeliveryUnknownError,
        ExpiredError,
        FieldError,
        InternalError,
        InvalidCredentialsError,
        InvalidMessageError,
        InvalidRequestError,
        JournalClosedError,
        JournalError,
        LimiterUnavailableError,
        MissingAuthorizationError,
        NotFoundError,
        OcaSmsError,
        QuotaExhaustedError,
        RateLimitedError,
        UnexpectedResponseError,
        UnsupportedError,
        UserNotFoundError,
    )
    from oca_sms_async._journal import Journal, JournalEntry
    from oca_sms_async._journal._sqlite import SqliteJournal
    from oca_sms_async._limiter import LimiterStatistics, RateLimiter, TokenBucket, Unlimited
    from oca_sms_async._models import SendReceipt, Sms, SmsRecord
    from oca_sms_async._observing import SendEvent
    from oca_sms_async._outcomes import BulkReport, Failed, Outcome, ReconcileReport, Sent, Skipped
    from oca_sms_async._phone import mask_phone, normalize_phone
    from oca_sms_async._retry import RetryPolicy
    from oca_sms_async._segments import Advice, Segments, check_message, segments
    from oca_sms_async._statistics import Statistics
    from oca_sms_async._version import __version__
    from oca_sms_async._waiting import Priority
    from oca_sms_async._wire._premium_v1 import PremiumV1
    from oca_sms_async._wire._premium_v2 import PremiumV2
    from oca_sms_async._wire._regular_v1 import RegularV1
    from oca_sms_async._wire._regular_v2 import RegularV2

__all__ = [
    "AccountError",
    "AccountExpiredError",
    "Advice",
    "ApiError",
    "AsyncOcaSms",
    "BulkReport",
    "BulkRun",
    "ClientClosedError",
    "ConnectionFailedError",
    "DeliveryUnknownError",
    "ExpiredError",
    "Failed",
    "FieldError",
    "InternalError",
    "InvalidCredentialsError",
    "InvalidMessageError",
    "InvalidRequestError",
    "Journal",
    "JournalClosedError",
    "JournalEntry",
    "JournalError",
    "LimiterStatistics",
    "LimiterUnavailableError",
    "MissingAuthorizationError",
    "NotFoundError",
    "OcaSmsError",
    "Outcome",
    "PremiumV1",
    "PremiumV2",
    "Priority",
    "QuotaExhaustedError",
    "RateLimitedError",
    "RateLimiter",
    "ReconcileReport",
    "RegularV1",
    "RegularV2",
    "RetryPolicy",
    "Segments",
    "SendEvent",
    "SendReceipt",
    "Sent",
    "Skipped",
    "Sms",
    "SmsRecord",
    "SqliteJournal",
    "Statistics",
    "TokenBucket",
    "UnexpectedResponseError",
    "Unlimited",
    "UnsupportedError",
    "UserNotFoundError",
    "__version__",
    "check_message",
    "mask_phone",
    "normalize_phone",
    "segments",
]

# A name's room is imported at the first use of the name, so that a program pays only for the rooms that it uses. The
# imports above tell type checkers and editors the same. The room of `AsyncOcaSms` imports all that a send needs.
_ROOMS: typing.Final = {
    "_bulk": ("BulkRun",),
    "_client": ("AsyncOcaSms",),
    "_errors": (
        "AccountError",
        "AccountExpiredError",
        "ApiError",
        "ClientClosedError",
        "ConnectionFailedError",
        "DeliveryUnknownError",
        "ExpiredError",
        "FieldError",
        "InternalError",
        "InvalidCredentialsError",
        "InvalidMessageError",
        "InvalidRequestError",
        "JournalClosedError",
        "JournalError",
        "LimiterUnavailableError",
        "MissingAuthorizationError",
        "NotFoundError",
        "OcaSmsError",
        "QuotaExhaustedError",
        "RateLimitedError",
        "UnexpectedResponseError",
        "UnsupportedError",
        "UserNotFoundError",
    ),
    "_journal": ("Journal", "JournalEntry"),
    "_journal._sqlite": ("SqliteJournal",),
    "_limiter": ("LimiterStatistics", "RateLimiter", "TokenBucket", "Unlimited"),
    "_models": ("SendReceipt", "Sms", "SmsRecord"),
    "_observing": ("SendEvent",),
    "_outcomes": ("BulkReport", "Failed", "Outcome", "ReconcileReport", "Sent", "Skipped"),
    "_phone": ("mask_phone", "normalize_phone"),
    "_retry": ("RetryPolicy",),
    "_segments": ("Advice", "Segments", "check_message", "segments"),
    "_statistics": ("Statistics",),
    "_version": ("__version__",),
    "_waiting": ("Priority",),
    "_wire._premium_v1": ("PremiumV1",),
    "_wire._premium_v2": ("PremiumV2",),
    "_wire._regular_v1": ("RegularV1",),
    "_wire._regular_v2": ("RegularV2",),
}
_ROOM_OF: typing.Final = {name: room for room, names in _ROOMS.items() for name in names}


if not typing.TYPE_CHECKING:  # a type checker would take any name for a public one

    def __getattr__(name: str) -> typing.Any:
        """Import a public name at its first use. It is a plain attribute from then on."""
        if name not in _ROOM_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

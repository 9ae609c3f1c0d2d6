"""Asynchronous client of OCA, Telkom Indonesia's SMS gateway: every error says whether the message may have been
sent.
"""

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
from oca_sms_async._journal import Journal, JournalEntry, SqliteJournal
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
from oca_sms_async._wire import PremiumV1, PremiumV2, RegularV1, RegularV2

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

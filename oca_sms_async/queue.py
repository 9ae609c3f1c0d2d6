"""A durable queue of messages on Procrastinate, in the PostgreSQL that holds the journal and the rate limit."""

try:
    import procrastinate  # noqa: F401
    import psycopg  # noqa: F401 - it fails here without libpq too
except ImportError as missing:
    raise ImportError(
        "SmsQueue needs its extra and libpq: "
        'pip install "oca-sms-async[queue]", and apt install libpq5 or pip install "psycopg[binary]"'
    ) from missing

from oca_sms_async._queue import SmsQueue
from oca_sms_async._queue_values import QueueEntry, QueueReconcileReport, QueueStatistics

__all__ = ["QueueEntry", "QueueReconcileReport", "QueueStatistics", "SmsQueue"]

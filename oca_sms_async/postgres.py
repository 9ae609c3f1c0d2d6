"""The journal and the rate limit of all machines, kept in PostgreSQL."""

try:
    import psycopg  # noqa: F401 - it fails here without libpq too
except ImportError as missing:
    raise ImportError(
        "PostgresJournal and PostgresTokenBucket need their extra and libpq: "
        'pip install "oca-sms-async[postgres]", and apt install libpq5 or pip install "psycopg[binary]"'
    ) from missing

from oca_sms_async._postgres_bucket import PostgresTokenBucket
from oca_sms_async._postgres_journal import PostgresJournal
from oca_sms_async._postgres_schema import SCHEMA

__all__ = ["SCHEMA", "PostgresJournal", "PostgresTokenBucket"]

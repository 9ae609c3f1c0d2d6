"""Makes the tables, once before the service starts: `python -m otp_service.create_tables`.

A step of its own, because the service then needs no right to change tables.
"""

import asyncio
import os
from pathlib import Path

from oca_sms_async.postgres import PostgresJournal
from psycopg import AsyncConnection


async def create_tables(database: str) -> None:
    """Make the tables of the library and of this service, unless they are there."""
    async with PostgresJournal(database, name="otp") as journal:
        await journal.setup()
    schema = Path(__file__).with_name("schema.sql").read_bytes()
    async with await AsyncConnection.connect(database) as connection:
        await connection.execute(schema)


if __name__ == "__main__":
    asyncio.run(create_tables(os.environ["OTP_DATABASE"]))

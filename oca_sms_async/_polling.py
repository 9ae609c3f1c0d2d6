"""Asking again and again for a message's status, until it is one of those that the caller waits for."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

from oca_sms_async._errors import NotFoundError
from oca_sms_async._models import SmsRecord
from oca_sms_async._settings import positive_seconds


async def poll(
    ask: Callable[[], Awaitable[SmsRecord]], statuses: Collection[str], *, seconds: float, interval: float
) -> SmsRecord:
    """Ask every `interval` seconds, and return the first record with one of these statuses.

    `TimeoutError` after `seconds`. `ValueError` for no status or a duration that is not above 0, `TypeError` for
    statuses in one str. A message that the gateway does not know yet is asked for again.
    """
    if isinstance(statuses, str):
        raise TypeError("statuses must be a collection of words, such as {'sent'}, not one str")
    if not statuses:
        raise ValueError("statuses must hold at least one word")
    positive_seconds("interval", interval)
    try:
        async with asyncio.timeout(positive_seconds("timeout", seconds)) as bound:
            while True:
                try:
                    record = await ask()
                except NotFoundError:
                    pass  # the gateway may lag behind its own receipt
                else:
                    if record.status in statuses:
                        return record
                await asyncio.sleep(interval)
    except TimeoutError:
        if not bound.expired():
            raise
        raise TimeoutError(f"the message reached none of the statuses within {seconds} seconds") from None

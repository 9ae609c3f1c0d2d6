"""Messages on their way into a queue: checked, and gathered into batches as they come."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from datetime import datetime, timedelta
from typing import Final

from oca_sms_async._deadline import find_deadline
from oca_sms_async._errors import ExpiredError, InvalidMessageError
from oca_sms_async._messages import check_key, check_number, check_text
from oca_sms_async._models import Sms
from oca_sms_async._queue_values import Checked
from oca_sms_async._sources import MessageSource
from oca_sms_async._waiting import Priority

_BATCH: Final = 1000  # messages of one statement
_TURN: Final = 100  # messages between two turns of the event loop
_PATIENCE: Final = 0.2  # seconds without a new message, after which those that have come are queued


def check(
    phone: str, message: str, key: str | None, expires_at: datetime | None, priority: Priority, *, region: str
) -> Checked:
    """Return a message with its number in E.164. `InvalidMessageError` for a fault."""
    number = check_number(phone, region)
    check_text(message)
    check_key(key)
    if key is None:
        raise InvalidMessageError("key is needed: a queue knows each message by its key")
    if "\0" in key or not _is_unicode(key):
        raise InvalidMessageError("key holds a character that PostgreSQL cannot keep")
    find_deadline(expires_at=expires_at)  # it may have passed: then the worker notes the message as failed
    return Checked(number, message, key, expires_at, Priority(priority))


def find_expiry(expires_in: float | timedelta | None, expires_at: datetime | None) -> datetime | None:
    """Return the moment at which a message expires, the earlier of two. `ExpiredError` if it has passed."""
    deadline = find_deadline(expires_in=expires_in, expires_at=expires_at)
    if deadline is not None and deadline.has_passed():
        raise ExpiredError("the message has expired already: expires_in or expires_at has passed")
    if expires_in is None:
        return expires_at
    seconds = expires_in if isinstance(expires_in, timedelta) else timedelta(seconds=expires_in)
    try:
        relative = datetime.now().astimezone() + seconds
    except OverflowError:  # beyond the end of the calendar
        return expires_at
    return relative if expires_at is None else min(relative, expires_at)


async def gather(messages: Iterable[Sms] | AsyncIterable[Sms], *, region: str) -> AsyncGenerator[list[Checked], None]:
    """Yield checked messages in batches, and pull no more than the next batch.

    An asynchronous source that pauses gets its messages queued meanwhile. `InvalidMessageError` names the place of a
    message with a fault; all those before it are yielded first.
    """
    source, batch, place = _Source(messages), list[Checked](), 0
    fault: InvalidMessageError | None = None
    async with contextlib.aclosing(source):
        while True:
            try:
                sms = await source.pull(patient=not batch)
            except TimeoutError:
                yield batch
                batch = []
                continue
            if sms is None:
                break
            place += 1
            try:
                batch.append(check(sms.phone, sms.message, sms.key, sms.expires_at, Priority.BULK, region=region))
            except InvalidMessageError as error:
                fault = name_place(error, place)
                break
            if len(batch) == _BATCH:
                yield batch
                batch = []
            elif place % _TURN == 0:
                await asyncio.sleep(0)
    if batch:
        yield batch
    if fault is not None:
        raise fault


class _Source:
    """Pulls messages. `TimeoutError` if an impatient caller has waited for a while; the next pull goes on with it."""

    def __init__(self, messages: Iterable[Sms] | AsyncIterable[Sms]) -> None:
        self._source = MessageSource(messages)
        self._pulling: asyncio.Task[Sms | None] | None = None

    async def pull(self, *, patient: bool) -> Sms | None:
        """Return the next message, or None after the last one."""
        if not self._source.waits:
            return self._source.pull_now()
        if self._pulling is None:
            self._pulling = asyncio.ensure_future(self._source.pull())
        await asyncio.wait({self._pulling}, timeout=None if patient else _PATIENCE)
        if not self._pulling.done():
            raise TimeoutError
        pulled, self._pulling = self._pulling, None
        return pulled.result()

    async def aclose(self) -> None:
        """End a pull that is under way."""
        if self._pulling is not None:
            self._pulling.cancel()
            await asyncio.wait({self._pulling})


def name_place(error: InvalidMessageError, place: int) -> InvalidMessageError:
    """Return the error of one of many messages, with its place among them, from 1 on."""
    return InvalidMessageError(f"message {place}: {error}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""The source of a bulk: any iterable or asynchronous iterable of `Sms`, pulled one by one."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Final

from oca_sms_async._models import Sms

_END: Final = object()


class MessageSource:
    """Pulls messages out of an iterable. Raises `TypeError` if `messages` is not iterable."""

    def __init__(self, messages: Iterable[Sms] | AsyncIterable[Sms]) -> None:
        self._iterator: Iterator[Sms] = iter(())
        self._asynchronous: AsyncIterator[Sms] | None = None
        if isinstance(messages, AsyncIterable):
            self._asynchronous = aiter(messages)
        else:
            self._iterator = iter(messages)
        self.waits: Final = self._asynchronous is not None
        self._one_at_a_time = asyncio.Lock()  # an asynchronous generator must not be asked twice at once
        self._ended = False

    def pull_now(self) -> Sms | None:
        """Do as `pull` for a source that is not asynchronous: it `waits` for nothing."""
        return self._check(_END if self._ended else next(self._iterator, _END))

    async def pull(self) -> Sms | None:
        """Return the next message, or `None` after the last. Raises `TypeError` for a value that is no `Sms`."""
        if self._asynchronous is None:
            return self.pull_now()
        async with self._one_at_a_time:
            return self._check(_END if self._ended else await anext(self._asynchronous, _END))

    def _check(self, sms: object) -> Sms | None:
        if sms is _END:  # not every iterator repeats its end: one over a queue would wait for ever
            self._ended = True
            return None
        if not isinstance(sms, Sms):
            raise TypeError(f"messages must yield Sms, not {type(sms).__name__}")
        return sms

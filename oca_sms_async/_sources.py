"""Where messages come from: any iterable, or asynchronous iterable, of `Sms`; pulled one by one."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Final

from oca_sms_async._models import Sms

_END: Final = object()


def puller(messages: Iterable[Sms] | AsyncIterable[Sms]) -> Callable[[], Awaitable[Sms | None]]:
    """Return what pulls the next message, or None after the last; it raises `TypeError` for what is no `Sms`."""
    source = aiter(messages) if isinstance(messages, AsyncIterable) else iter(messages)
    ended = False

    async def pull() -> Sms | None:
        nonlocal ended
        if ended:  # not every iterator says so twice: one over a queue would wait for ever
            return None
        sms = await anext(source, _END) if isinstance(source, AsyncIterator) else next(source, _END)
        if sms is _END:
            ended = True
            return None
        if not isinstance(sms, Sms):
            raise TypeError(f"messages must yield Sms, not {type(sms).__name__}")
        return sms

    return pull

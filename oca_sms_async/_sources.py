"""Where messages come from: any iterable, or asynchronous iterable, of `Sms`; pulled one by one."""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Final

from oca_sms_async._models import Sms

_END: Final = object()


def puller(messages: Iterable[Sms] | AsyncIterable[Sms]) -> Callable[[], Awaitable[Sms | None]]:
    """Return what pulls the next message, or None after the last; it raises `TypeError` for what is no `Sms`."""
    if isinstance(messages, AsyncIterable):
        source = aiter(messages)

        async def pull() -> Sms | None:
            return _checked(await anext(source, _END))
    else:
        iterator = iter(messages)

        async def pull() -> Sms | None:
            return _checked(next(iterator, _END))

    return pull


def _checked(sms: object) -> Sms | None:
    if sms is _END:
        return None
    if not isinstance(sms, Sms):
        raise TypeError(f"messages must yield Sms, not {type(sms).__name__}")
    return sms

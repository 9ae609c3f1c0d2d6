"""The messages of a blocking bulk: the thread that called pulls them, and the loop's thread sends them."""

import asyncio
import queue
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Future
from typing import Any, Final

from oca_sms_async._models import Sms

_END: Final = object()


class CallersMessages(AsyncIterator[Sms]):
    """Messages that the calling thread pulls, one at a time, as the loop's thread asks for them.

    Django's ORM refuses to work in a thread with a running event loop, and an iterator that blocks there would hold up
    the sends of all threads.
    """

    def __init__(self, messages: Iterable[Sms]) -> None:
        self._iterator = iter(messages)
        self._demands = queue.SimpleQueue[Future[Any] | None]()
        self._abandoned: Future[Any] | None = None

    async def __anext__(self) -> Sms:
        demand = Future[Any]()
        self._demands.put(demand)
        try:
            sms = await asyncio.wrap_future(demand)
        except asyncio.CancelledError:
            self._abandoned = demand
            raise
        if sms is _END:
            raise StopAsyncIteration
        return sms  # type: ignore[no-any-return] # the bulk checks it

    def serve(self, end: Future[Any]) -> None:
        """Pull a message for each demand, until the call has ended. Runs in the calling thread."""
        end.add_done_callback(lambda _: self._demands.put(None))
        while (demand := self._demands.get()) is not None:
            if demand.set_running_or_notify_cancel():
                try:
                    demand.set_result(next(self._iterator, _END))
                except Exception as error:  # noqa: BLE001 - it ends the run, and comes out of the call
                    demand.set_exception(error)

    def find_late(self) -> Sms | None:
        """Return the message that came after the run had stopped, and raise the exception that did."""
        if self._abandoned is None or self._abandoned.cancelled() or not self._abandoned.done():
            return None
        sms = self._abandoned.result()
        return None if sms is _END else sms

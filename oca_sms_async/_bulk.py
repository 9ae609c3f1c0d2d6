"""One run of a bulk, as its caller sees it."""

import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Self

from oca_sms_async._errors import OcaSmsError
from oca_sms_async._journal import JournalRun
from oca_sms_async._models import Sms
from oca_sms_async._outcomes import BulkReport, Outcome
from oca_sms_async._worker import Send
from oca_sms_async._worker_pool import WorkerPool


class BulkRun(AsyncIterator[Outcome]):
    """One run of a bulk. `AsyncOcaSms.bulk` makes it, `async with` starts and ends it, `async for` yields outcomes.

    Each message that was pulled has exactly one outcome. When the outcomes end, look at `stopped_by`: it is the error
    that stopped the run, or `None`. `ValueError` for a `concurrency` below 1, `TypeError` for messages that are not
    iterable. A bulk has no more workers than its client has `slots` for it: more would only wait for one another.
    """

    def __init__(
        self,
        send: Send,
        messages: Iterable[Sms] | AsyncIterable[Sms],
        concurrency: int,
        journal: JournalRun | None = None,
        *,
        slots: int = sys.maxsize,
    ) -> None:
        if not (isinstance(concurrency, int) and concurrency >= 1):
            raise ValueError("concurrency must be a whole number of at least 1")
        self._pool = WorkerPool(send, messages, min(concurrency, slots), journal)
        self._journal = journal

    def __repr__(self) -> str:
        return f"<BulkRun {self._pool.stage.name.lower()} pulled={self.pulled} stopped_by={self.stopped_by!r}>"

    @property
    def stopped_by(self) -> OcaSmsError | None:
        """The error that stopped the run by itself, or `None`."""
        return self._pool.stopped_by

    @property
    def pulled(self) -> int:
        """How many messages were pulled so far."""
        return self._pool.pulled

    @property
    def resent(self) -> int:
        """How many messages that an earlier run left in doubt were sent again, because this run was told to."""
        return 0 if self._journal is None else self._journal.resent

    async def __aenter__(self) -> Self:
        """Start the run. `RuntimeError` for a second time, `JournalError` if the journal cannot be used."""
        if self._pool.is_started:
            raise RuntimeError("a bulk is entered once: call bulk() again for another run")
        if self._journal is not None:
            await self._journal.__aenter__()
        self._pool.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Start nothing new and wait for the requests on the wire; after an exception, cancel them as well."""
        if kind is None:
            self._pool.stop()
        else:
            self._pool.abort()
        try:
            await self._pool.wait()
        finally:
            if self._journal is not None:
                await self._journal.__aexit__(kind, error, traceback)
        if kind is None:
            self._pool.raise_failure()

    async def __anext__(self) -> Outcome:
        if (numbered := await self._pool.next_outcome()) is None:
            raise StopAsyncIteration
        return numbered[1]

    async def report(self) -> BulkReport:
        """Return all outcomes that are still to come, in the order of their messages."""
        outcomes = dict[int, Outcome]()
        while (numbered := await self._pool.next_outcome()) is not None:
            number, outcome = numbered
            outcomes[number] = outcome
        return BulkReport(tuple(outcomes[number] for number in sorted(outcomes)), self.stopped_by)

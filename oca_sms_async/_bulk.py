"""Many messages through one send: workers over one lazy iterator, one outcome for each message that was pulled."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from operator import itemgetter
from types import TracebackType
from typing import Self, cast

from oca_sms_async._errors import (
    AccountError,
    ApiError,
    ConnectionFailedError,
    DeliveryUnknownError,
    JournalError,
    LimiterUnavailableError,
    OcaSmsError,
    UnexpectedResponseError,
)
from oca_sms_async._lanes import Priority
from oca_sms_async._ledger import Entry
from oca_sms_async._log import log
from oca_sms_async._models import SendReceipt, Sms
from oca_sms_async._outcomes import BulkReport, Failed, Outcome, Sent, Skipped
from oca_sms_async._recording import Recording
from oca_sms_async._retry import Call
from oca_sms_async._sources import MessageSource

Send = Callable[[Sms, Call], Awaitable[SendReceipt]]


class _RefusedError(Exception):
    """The run was stopped before this message's first byte."""


class Bulk(AsyncIterator[Outcome]):
    """One run of a bulk: an asynchronous context manager that hands itself out as the iterator over the outcomes.

    `concurrency` workers pull messages; at most twice as many are pulled whose outcome was not taken yet.
    `ValueError` and `TypeError` for arguments that cannot be worked with.
    """

    def __init__(
        self,
        send: Send,
        messages: Iterable[Sms] | AsyncIterable[Sms],
        concurrency: int,
        recording: Recording | None = None,
    ) -> None:
        if not (isinstance(concurrency, int) and concurrency >= 1):
            raise ValueError("concurrency must be a whole number of at least 1")
        self._next = MessageSource(messages).pull
        self._recording = recording
        self.stopped_by: OcaSmsError | None = None
        self._send = send
        self._concurrency = concurrency
        self._room = asyncio.Semaphore(2 * concurrency)
        self._one_at_a_time = asyncio.Lock()
        self._pulled = 0
        self._halted = False
        self._aborted = False
        self._bug: Exception | None = None
        self._failed_connections = 0
        self._calls = dict[asyncio.Task[None], Call | None]()
        self._working = concurrency
        self._outcomes = asyncio.Queue[tuple[int, Outcome] | None]()

    async def __aenter__(self) -> Self:
        if self._calls:
            raise RuntimeError("a bulk is entered once: call bulk() again for another run")
        if self._recording is not None:
            await self._recording.__aenter__()
        for _ in range(self._concurrency):
            task = asyncio.create_task(self._work())
            self._calls.setdefault(task, None)  # an eager one may be sending already
            task.add_done_callback(self._worker_ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Start nothing new and wait for what is on the wire; after an exception, cancel that as well."""
        if kind is None:
            self._halt()
        else:
            self._abort()
        interruption: asyncio.CancelledError | None = None
        while self._working:  # however often the caller is cancelled, no worker outlives the block
            try:
                await asyncio.wait(self._calls)
            except asyncio.CancelledError as cancelled:
                interruption = cancelled
                self._abort()
        if self._recording is not None:
            await self._recording.__aexit__(kind, error, traceback)
        if interruption is not None:
            raise interruption
        if kind is None:
            self._raise_bug()

    async def __anext__(self) -> Outcome:
        if (numbered := await self._next_numbered()) is None:
            raise StopAsyncIteration
        return numbered[1]

    async def report(self) -> BulkReport:
        """Return all outcomes that are still to come, in the order of their messages."""
        numbered = list[tuple[int, Outcome]]()
        while (one := await self._next_numbered()) is not None:
            numbered.append(one)
        numbered.sort(key=itemgetter(0))
        return BulkReport(tuple(outcome for _, outcome in numbered), self.stopped_by)

    async def _next_numbered(self) -> tuple[int, Outcome] | None:
        """Return the next outcome, as it comes, with its message's place in the input; None after the last one."""
        if not self._calls:
            raise RuntimeError("enter the bulk first: async with client.bulk(...) as outcomes")
        numbered = await self._outcomes.get()
        if numbered is None:
            self._outcomes.put_nowait(None)  # for whoever asks again
            self._raise_bug()
        else:
            self._room.release()
        return numbered

    async def _work(self) -> None:
        worker = cast(asyncio.Task[None], asyncio.current_task())
        try:
            while not self._halted and (pulled := await self._pull()) is not None:
                number, sms, entered = pulled
                call = Call(Priority.BULK, admit=self._admit, hear=self._hear)
                self._calls[worker] = call
                outcome = await self._outcome(sms, call, entered)
                self._calls[worker] = None
                self._outcomes.put_nowait((number, outcome))
        except Exception as bug:  # noqa: BLE001 - whatever it is, it comes out as itself where the outcomes are taken
            self._bug = self._bug or bug
            self._abort()

    async def _pull(self) -> tuple[int, Sms, Awaitable[Entry] | None] | None:
        await self._room.acquire()
        async with self._one_at_a_time:  # an asynchronous generator must not be asked twice at once
            try:
                sms = await self._next()
            except asyncio.CancelledError as cancelled:
                if _this_task_is_cancelled():
                    raise
                raise RuntimeError("the messages' iterator was cancelled from within") from cancelled
            if sms is None:
                self._room.release()
                return None
            self._pulled += 1
            # Looked up in input order, so that equal messages are told apart in the same way by every run.
            entered = None if self._recording is None else self._recording.enter(sms)
            return self._pulled - 1, sms, entered

    async def _outcome(self, sms: Sms, call: Call, entered: Awaitable[Entry] | None) -> Outcome:
        """Return what becomes of one message; what the journal cannot keep is told as a later run will see it."""
        if self._recording is None or entered is None:
            return await self._sent(sms, call)
        try:
            return await self._recording.outcome(sms, call, entered, self._sent)
        except JournalError as error:
            self._halt(error)
            if not call.doubt:
                return Skipped(sms, self.stopped_by)
            unknown = DeliveryUnknownError("the journal could not keep what became of the message")
            unknown.__cause__ = error
            return Failed(sms, call.settled(unknown))

    async def _sent(self, sms: Sms, call: Call) -> Outcome:
        """Send one message, and stop the run where its outcome says so."""
        try:
            await self._admit()  # the run may have been stopped while the journal was asked
            receipt = await self._send(sms, call)
        except OcaSmsError as error:
            self._judge(error)
            if isinstance(error, LimiterUnavailableError | JournalError) and not (error.attempts or call.doubt):
                return Skipped(sms, self.stopped_by)
            error.may_have_been_sent = error.may_have_been_sent or call.doubt  # an earlier run's, perhaps
            return Failed(sms, error.with_traceback(None))  # its frames would keep the request alive
        except _RefusedError:
            return self._stopped(sms, call)
        except asyncio.CancelledError:
            if self._halted and not self._aborted:
                return self._stopped(sms, call)
            if _this_task_is_cancelled():
                raise
            # Nobody cancelled this worker: a transport or a limiter raised it by itself, and this message is not lost.
            cancelled = DeliveryUnknownError("the send was cancelled from within", may_have_been_sent=call.doubt)
            return Failed(sms, call.settled(cancelled))
        self._failed_connections = 0
        return Sent(sms, receipt)

    def _stopped(self, sms: Sms, call: Call) -> Outcome:
        """Return what becomes of a message that waited, for its turn or for its next attempt, when the run stopped."""
        if call.last is None:
            return Skipped(sms, self.stopped_by)
        return Failed(sms, call.settled(call.last).with_traceback(None))

    async def _admit(self) -> None:
        if self._halted:
            raise _RefusedError

    def _judge(self, error: OcaSmsError) -> None:
        match error:
            case AccountError() | LimiterUnavailableError() | JournalError():
                self._halt(error)
            case ConnectionFailedError():
                self._failed_connections += 1
                if self._failed_connections == self._concurrency:
                    self._halt(error)

    def _hear(self, error: OcaSmsError) -> None:
        """Take note of one attempt's error, whatever follows it: an answer, so this is no outage."""
        if isinstance(error, ApiError | UnexpectedResponseError):
            self._failed_connections = 0

    def _halt(self, reason: OcaSmsError | None = None) -> None:
        """Start nothing new: whoever pulls, or waits for its turn or its next attempt, ends now, the others after
        theirs.
        """
        if self._halted:
            return
        self._halted, self.stopped_by = True, reason
        if reason is not None:
            log("bulk.stopped", pulled=self._pulled, error=reason)
        for worker, call in self._calls.items():
            if call is not None:
                call.last_attempt = True
            if worker is not asyncio.current_task() and (call is None or not (call.on_wire or call.recording)):
                worker.cancel()

    def _abort(self) -> None:
        """Cancel everything, what is on the wire included; once, for a second time would cut short how a send ends."""
        if self._aborted:
            return
        self._halted = self._aborted = True
        for worker in self._calls:
            if worker is not asyncio.current_task():
                worker.cancel()

    def _worker_ended(self, _: asyncio.Task[None]) -> None:
        self._working -= 1
        if not self._working:
            self._outcomes.put_nowait(None)

    def _raise_bug(self) -> None:
        if self._bug is not None:
            bug, self._bug = self._bug, None
            raise bug


def _this_task_is_cancelled() -> bool:
    """Tell whether somebody has asked for the end of the task that asks."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

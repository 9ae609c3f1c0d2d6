"""One worker of a bulk: it pulls a message, asks the journal, sends, and hands the outcome over."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from enum import IntEnum
from typing import Any, Final, NamedTuple, Protocol

import httpx

from oca_sms_async._call import CallState
from oca_sms_async._errors import (
    AccountError,
    ApiError,
    ClientClosedError,
    ConnectionFailedError,
    DeliveryUnknownError,
    InvalidMessageError,
    JournalError,
    LimiterUnavailableError,
    OcaSmsError,
    UnexpectedResponseError,
)
from oca_sms_async._journal import ClaimLostError, Intent, JournalRun, Lookup
from oca_sms_async._models import SendReceipt, Sms
from oca_sms_async._outcomes import Failed, Outcome, Sent, Skipped

# These are not about the message: without a first attempt, it was not attempted.
_NOT_ITS_OWN: Final = (ClientClosedError, LimiterUnavailableError, JournalError)

Send = Callable[[Sms, CallState], Awaitable[SendReceipt]]


class Stage(IntEnum):
    """How far a run is: it pulls and sends; it starts nothing new; it cancels the requests on the wire too."""

    RUNNING = 0
    STOPPING = 1
    ABORTED = 2


_RUNNING: Final = Stage.RUNNING  # looking up an enum's member takes 0.15 µs, and each message asks three times


class Outage:
    """Failed connections and time-outs in a row, without an answer of the gateway between them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failed = 0

    def count_answer(self) -> None:
        """The gateway has answered, so this is no outage."""
        self._failed = 0

    def count_failure(self) -> bool:
        """Count one more; return True when that makes an outage."""
        self._failed += 1
        return self._failed == self._limit


class Pulled(NamedTuple):
    """A message with its place in the input, and the journal's answer about it where there is a journal."""

    number: int
    sms: Sms
    lookup: Awaitable[Lookup] | None


class Run(Protocol):
    """A worker's view of its run."""

    stage: Stage
    stopped_by: OcaSmsError | None
    outage: Outage
    journal: JournalRun | None

    async def pull(self) -> Pulled | None:
        """Return the next message, or `None` after the last one."""
        ...

    def hand_over(self, number: int, outcome: Outcome) -> None:
        """Take the outcome of the message at this place of the input."""
        ...

    def stop(self, reason: OcaSmsError | None = None) -> None:
        """Start nothing new."""
        ...


class _StoppedError(Exception):
    """The run was stopped before this message's first byte."""


class Worker:
    """Sends one message after the other, and hands each outcome over with its message's place in the input."""

    def __init__(self, run: Run, send: Send) -> None:
        self._run = run
        self._send = send
        self._task: asyncio.Task[Any] | None = None
        self._call: CallState | None = None
        self._intent: Intent | None = None
        self._with_journal = False

    async def work(self) -> None:
        """Work until the run stops or its messages end."""
        self._task = asyncio.current_task()
        before_first_send, on_error = self._before_first_send, self._on_error  # bound once for all messages
        while self._run.stage is _RUNNING and (pulled := await self._run.pull()) is not None:
            call = self._call = CallState(before_first_send, on_error)
            try:
                if self._run.journal is None or pulled.lookup is None:
                    outcome = await self._deliver(pulled.sms, call)
                else:
                    outcome = await self._deliver_once(self._run.journal, pulled.lookup, pulled.sms, call)
            except BaseException:
                # A bug, a Ctrl-C, or a cancellation from outside. The message has its outcome all the same.
                if self._run.stage < Stage.ABORTED:
                    self._run.hand_over(pulled.number, self._end_without_answer(pulled.sms, call))
                raise
            self._run.hand_over(pulled.number, outcome)
        self._call = None  # it holds this worker: both would wait for the garbage collector

    def stop(self) -> None:
        """Let a request on the wire be the message's last one; end a wait, a pull or a back-off now."""
        if self._call is not None:  # it may have ended already
            self._call.cut()
        if not self._with_journal and (self._call is None or not self._call.in_flight):
            self.cancel()

    def cancel(self) -> None:
        """End now, unless this worker is the one that asks for it. One that has not begun yet looks at the stage."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _deliver_once(self, journal: JournalRun, asked: Awaitable[Lookup], sms: Sms, call: CallState) -> Outcome:
        """Return the outcome of one message by the journal; where that fails, as a later run will see it."""
        try:
            with self._busy_with_journal():
                lookup = await asked
            if (outcome := journal.earlier_outcome(sms, lookup)) is not None:
                return outcome
            async with journal.intent(lookup, call) as self._intent:
                outcome = self._intent.conclude(await self._deliver(sms, call))
                self._with_journal = True  # until the outcome is durable
        except InvalidMessageError as error:
            return Failed(sms, error.with_traceback(None))
        except ClaimLostError:
            line = "the message is under way elsewhere, or was sent meanwhile: its key tells"
            return Failed(sms, DeliveryUnknownError(line))
        except JournalError as error:
            self._run.stop(error)
            return self._end_without_answer(sms, call, "the journal could not keep the message's outcome", error)
        finally:
            self._with_journal = False
        return outcome

    async def _deliver(self, sms: Sms, call: CallState) -> Outcome:
        """Send one message, and stop the run where its outcome says so."""
        try:
            self._check_running()  # the run may have been stopped while the journal was asked
            receipt = await self._send(sms, call)
        except OcaSmsError as error:
            self._judge(error)
            if isinstance(error, _NOT_ITS_OWN) and not (error.attempts or call.may_have_been_sent):
                return Skipped(sms, self._run.stopped_by)
            error.may_have_been_sent = error.may_have_been_sent or call.may_have_been_sent  # of an earlier run, perhaps
            return Failed(sms, error.with_traceback(None))  # its frames would keep the request alive
        except _StoppedError:
            return self._end_stopped(sms, call)
        except asyncio.CancelledError:
            if self._run.stage is Stage.STOPPING:
                return self._end_stopped(sms, call)
            if is_task_cancelled():
                raise
            # This worker was not cancelled: a transport or a limiter raised it by itself, and the message is not lost.
            doubt = call.may_have_been_sent
            cancelled = DeliveryUnknownError("the send was cancelled from within", may_have_been_sent=doubt)
            return Failed(sms, call.conclude(cancelled))
        self._run.outage.count_answer()
        return Sent(sms, receipt)

    def _check_running(self) -> None:
        if self._run.stage is not _RUNNING:
            raise _StoppedError

    async def _before_first_send(self) -> None:
        if self._run.stage is not _RUNNING:  # not by the method above: each message comes through here
            raise _StoppedError
        if self._intent is not None:
            await self._intent.record()

    def _on_error(self, error: OcaSmsError) -> None:
        """An answer of the gateway ends an outage, even if the call goes on to another attempt."""
        if isinstance(error, ApiError | UnexpectedResponseError):
            self._run.outage.count_answer()

    def _judge(self, error: OcaSmsError) -> None:
        match error:
            case AccountError() | ClientClosedError() | LimiterUnavailableError() | JournalError():
                self._run.stop(error)
            case ConnectionFailedError() if self._run.outage.count_failure():
                self._run.stop(error)
            case DeliveryUnknownError() if _is_time_out(error) and self._run.outage.count_failure():
                self._run.stop(error)

    def _end_stopped(self, sms: Sms, call: CallState) -> Outcome:
        """Return the outcome of a message that waited for its turn, or in a back-off, when the run stopped."""
        if call.last_error is None:
            return Skipped(sms, self._run.stopped_by)
        return Failed(sms, call.conclude(call.last_error).with_traceback(None))

    def _end_without_answer(
        self,
        sms: Sms,
        call: CallState,
        reason: str = "the run ended before the message's outcome was known",
        cause: Exception | None = None,
    ) -> Outcome:
        """Return the outcome of a message that may have been sent, or certainly was not, and nothing more is known."""
        if not call.may_have_been_sent:
            return Skipped(sms, self._run.stopped_by)
        error = DeliveryUnknownError(reason)
        error.__cause__ = cause
        return Failed(sms, call.conclude(error))

    @contextlib.contextmanager
    def _busy_with_journal(self) -> Iterator[None]:
        self._with_journal = True
        try:
            yield
        finally:
            self._with_journal = False


def _is_time_out(error: OcaSmsError) -> bool:
    """Tell whether the gateway stayed silent, until our own bound or until that of a lent client."""
    return isinstance(error.__cause__, TimeoutError | httpx.TimeoutException)


def is_task_cancelled() -> bool:
    """Tell whether the running task was asked to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""The workers of one run, and all that they share: the messages, the stage, the outcomes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Iterable

from oca_sms_async._errors import OcaSmsError
from oca_sms_async._journal import JournalRun
from oca_sms_async._log import log
from oca_sms_async._models import Sms
from oca_sms_async._outcomes import Outcome
from oca_sms_async._sources import MessageSource
from oca_sms_async._worker import Outage, Pulled, Send, Stage, Worker, is_task_cancelled


class WorkerPool:
    """`concurrency` workers over one lazy source of messages.

    At most twice as many messages are pulled whose outcome was not taken yet. A failure is the exception of the
    source, or of a bug: it ends the run, and it is raised after the last outcome.
    """

    def __init__(
        self,
        send: Send,
        messages: Iterable[Sms] | AsyncIterable[Sms],
        concurrency: int,
        journal: JournalRun | None,
    ) -> None:
        self.stage = Stage.RUNNING
        self.stopped_by: OcaSmsError | None = None
        self.pulled = 0
        self.outage = Outage(concurrency)
        self.journal = journal
        self._failure: Exception | None = None
        self._send = send
        self._source = MessageSource(messages)
        self._concurrency = concurrency
        self._room = asyncio.Semaphore(2 * concurrency)
        self._workers: list[Worker] = []
        self._tasks = set[asyncio.Task[None]]()
        self._outcomes = deque[tuple[int, Outcome]]()
        self._news = asyncio.Event()  # there is an outcome, or the last worker has ended; a queue takes 3 µs more
        self._ended = False

    @property
    def is_started(self) -> bool:
        """True from `start` on."""
        return self._ended or bool(self._workers)

    def start(self) -> None:
        """Start the workers."""
        self._workers = [Worker(self, self._send) for _ in range(self._concurrency)]
        working = len(self._workers)

        def end(task: asyncio.Task[None]) -> None:
            nonlocal working
            working -= 1
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()  # retrieved: a Ctrl-C has come out of the loop already
            if not working:
                self._ended = True
                self._workers.clear()  # they hold this pool
                self._news.set()

        for worker in self._workers:
            task = asyncio.create_task(self._work(worker))
            self._tasks.add(task)
            task.add_done_callback(end)

    async def next_outcome(self) -> tuple[int, Outcome] | None:
        """Return the next outcome with its message's place in the input; `None`, or the failure, after the last one."""
        while not self._outcomes:
            if self._ended:
                self.raise_failure()
                return None
            if not self._workers:
                raise RuntimeError("enter the bulk first: async with client.bulk(...) as run")
            self._news.clear()
            await self._news.wait()
        self._room.release()
        return self._outcomes.popleft()

    def raise_failure(self) -> None:
        """Raise the run's failure, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def pull(self) -> Pulled | None:
        """Return the next message, or `None` after the last one."""
        await self._room.acquire()
        try:
            sms = await self._source.pull() if self._source.waits else self._source.pull_now()
        except asyncio.CancelledError as cancelled:
            if is_task_cancelled():
                raise
            raise RuntimeError("the messages' iterator was cancelled from within") from cancelled
        if sms is None:
            return None
        self.pulled += 1
        # Looked up in input order, so that every run tells equal messages apart in the same way: no other task has run
        # since the message was pulled.
        return Pulled(self.pulled - 1, sms, None if self.journal is None else self.journal.lookup(sms))

    def hand_over(self, number: int, outcome: Outcome) -> None:
        """Keep an outcome for the caller, with its message's place in the input."""
        self._outcomes.append((number, outcome))
        self._news.set()

    def stop(self, reason: OcaSmsError | None = None) -> None:
        """Start nothing new: cancel workers that pull, wait or back off, and let requests on the wire finish."""
        if self.stage is not Stage.RUNNING:
            return
        self.stage, self.stopped_by = Stage.STOPPING, reason
        if reason is not None:
            log("bulk.stopped", pulled=self.pulled, error=reason)
        for worker in self._workers:
            worker.stop()

    def abort(self) -> None:
        """Cancel everything, requests on the wire included. Once: a second time would cut short how a send ends."""
        if self.stage is Stage.ABORTED:
            return
        self.stage = Stage.ABORTED
        for worker in self._workers:
            worker.cancel()

    async def wait(self) -> None:
        """Wait for the end of all workers; a cancellation meanwhile aborts the run, and is raised after their end."""
        interruption: asyncio.CancelledError | None = None
        while self._tasks:  # however often the caller is cancelled, no worker outlives this
            try:
                await asyncio.wait(self._tasks)
            except asyncio.CancelledError as cancelled:
                interruption = cancelled
                self.abort()
        if interruption is not None:
            raise interruption

    async def _work(self, worker: Worker) -> None:
        try:
            await worker.work()
        except Exception as failure:  # noqa: BLE001 - it comes out as itself after the last outcome
            self._fail(failure)
        except asyncio.CancelledError:
            if self.stage is Stage.RUNNING:  # a program that ends may cancel all of its tasks, this one too
                self._fail(RuntimeError("a worker of the bulk was cancelled from outside"))
            raise
        except BaseException:  # a Ctrl-C stops the loop; if the loop goes on, the run does not
            self.stop()
            raise

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self.stop()

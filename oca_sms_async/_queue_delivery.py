"""A job's way in a worker: read, wait for the end of a pause, send, and leave the outcome in the journal."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Final

import psycopg

from oca_sms_async._client import AsyncOcaSms
from oca_sms_async._errors import ApiError, ClientClosedError, JournalError, OcaSmsError, safe_code
from oca_sms_async._journal import Status
from oca_sms_async._log import log
from oca_sms_async._queue_app import LaterError
from oca_sms_async._queue_decisions import Decision, Pause, decide
from oca_sms_async._queue_journal import QueueJournal
from oca_sms_async._queue_store import QueueStore
from oca_sms_async._queue_values import Queued

_TROUBLE: Final = 2.0  # seconds until a job is tried again whose message could not be read


class Delivery:
    """Sends the messages of one worker's jobs. A job that returns is done, and its outcome is in the journal.

    `closed` is set with the error of a client that was closed meanwhile.
    """

    def __init__(self, client: AsyncOcaSms, journal: QueueJournal, store: QueueStore, *, queue: str) -> None:
        self._client = client
        self._journal = journal
        self._store = store
        self._queue = queue
        self._pause = Pause()
        self._waiting = dict[bytes, asyncio.Task[None]]()
        self._stopped = False
        self._under_way = set[int]()
        self._worker: int | None = None
        self._stray = set[int]()
        self.closed: asyncio.Future[OcaSmsError] = asyncio.get_running_loop().create_future()

    def stop(self) -> None:
        """Give each message back that waits for its turn. A request on the wire goes on to its end."""
        self._stopped = True
        for task in self._waiting.values():
            task.cancel()

    async def deliver(self, job: int, *, worker: int) -> None:
        """Send the message of a job, or raise `LaterError`. `worker` is Procrastinate's number of this worker."""
        self._worker = worker
        self._under_way.add(job)
        try:
            await self._deliver(job)
        finally:
            self._under_way.discard(job)

    async def give_back_strays(self) -> None:
        """Give back the jobs that this worker has taken, and that nobody works at since the last call.

        Procrastinate leaves a job like that behind if the database was away when the job was done.
        """
        if self._worker is None:
            return
        stray = await self._store.list_taken(self._worker) - self._under_way
        if again := stray & self._stray:
            await self._store.give_back(self._worker, again)
        self._stray = stray - again

    async def _deliver(self, job: int) -> None:
        self._check_running()
        try:
            queued = await self._store.read(job)
        except (psycopg.Error, JournalError):
            raise LaterError(_TROUBLE) from None
        if queued is None:  # the job was made by hand
            return
        with self._returnable(queued):
            try:
                await self._wait(queued)
                await self._send(queued)
            except OcaSmsError as error:
                outcome = error.with_traceback(None)
            else:
                self._pause.end()
                return
        await self._conclude(queued, outcome)

    async def _send(self, queued: Queued) -> None:
        message = queued.message
        await self._client.send(
            message.phone,
            message.message,
            key=message.key,
            expires_at=message.expires_at,
            priority=message.priority,
        )

    async def _wait(self, queued: Queued) -> None:
        """Wait for the end of the worker's pause. An expired message needs no longer wait."""
        loop, expires_at = asyncio.get_running_loop(), queued.message.expires_at
        while (left := self._pause.left(loop.time())) > 0:
            if expires_at is not None:
                left = min(left, expires_at.timestamp() - time.time())
            if left <= 0:
                return
            await asyncio.sleep(left)

    async def _conclude(self, queued: Queued, error: OcaSmsError) -> None:
        """Note a failure, or raise `LaterError`. The journal has the last word about a doubt."""
        decision = decide(error)
        try:
            if decision is Decision.DOUBT:
                entry = await self._journal.lookup(queued.message.key)
                if entry is not None and entry.status is not Status.UNSENT:
                    return
            elif decision is Decision.FAILED:
                code = safe_code(error.code) if isinstance(error, ApiError) else None
                await self._store.fail(queued.message, type(error).__name__, code)
                self._pause.end()
                return
        except (psycopg.Error, JournalError):
            raise LaterError(_TROUBLE) from None
        raise LaterError(self._hold(error)) from None

    def _hold(self, error: OcaSmsError) -> float:
        """Begin a pause of the whole worker, and return its length in seconds."""
        now = asyncio.get_running_loop().time()
        if isinstance(error, ClientClosedError):
            if not self.closed.done():
                self.closed.set_result(error)
            return 0.0
        if self._pause.begin(error, now):
            log("queue.paused", queue=self._queue, wait=round(self._pause.left(now), 3), error=error)
        return self._pause.left(now)

    @contextlib.contextmanager
    def _returnable(self, queued: Queued) -> Iterator[None]:
        """Let `stop` give the message back, until the claim before its first byte."""
        task, identity = asyncio.current_task(), queued.lookup.identity
        assert task is not None  # noqa: S101 - each coroutine of a job runs in a task
        self._waiting[identity] = task
        self._journal.bring(queued.message.key, queued.lookup, lambda: self._begin(identity))
        try:
            self._check_running()  # `stop` may have come while the message was read
            yield
        except asyncio.CancelledError:
            if self._stopped and identity in self._waiting and task.uncancel() == 0:
                raise LaterError from None
            raise
        finally:
            self._waiting.pop(identity, None)
            self._journal.take_back(queued.message.key, queued.lookup)

    def _begin(self, identity: bytes) -> None:
        """Keep a message that is claimed: its request is about to start."""
        self._waiting.pop(identity, None)

    def _check_running(self) -> None:
        if self._stopped:
            raise LaterError

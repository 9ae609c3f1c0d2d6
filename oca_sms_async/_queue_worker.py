"""The worker of a queue: Procrastinate's, started anew after a trouble, and beside it the recovery of dead ones."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import psycopg
from attrs import frozen
from procrastinate.worker import Worker

from oca_sms_async._client import AsyncOcaSms
from oca_sms_async._log import log
from oca_sms_async._postgres_troubles import LateError, PlainError, UnreachableError
from oca_sms_async._queue_app import DELIVERY, make_worker_app
from oca_sms_async._queue_delivery import Delivery
from oca_sms_async._queue_journal import QueueJournal
from oca_sms_async._queue_store import QueueStore

_PAUSES: Final = (0.5, 10.0)  # seconds between two tries to reach the database: the first pause, and the longest
_HEARING: Final = 0.5  # seconds in which a task should hear of its cancellation
_CLEANING: Final = 12  # recoveries between two looks for jobs that were cancelled by hand


@frozen
class Pace:
    """The seconds between two heartbeats, between two looks for dead workers, and of silence that makes a worker dead.

    `poll` is the time between two looks for jobs whose moment has come: no notice announces those.
    """

    heartbeat: float = 5.0
    recovery: float = 5.0
    silence: float = 25.0
    poll: float = 1.0


PACE: Final = Pace()  # a dead worker's messages are others' after some 30 seconds


class QueueWorker:
    """Sends what the queue holds until it is stopped. Each trouble at the start is a `psycopg.Error`."""

    def __init__(
        self,
        conninfo: str,
        client: AsyncOcaSms,
        journal: QueueJournal,
        store: QueueStore,
        *,
        queue: str,
        concurrency: int,
        pace: Pace,
    ) -> None:
        self._conninfo = conninfo
        self._client = client
        self._journal = journal
        self._store = store
        self._queue = queue
        self._concurrency = concurrency
        self._pace = pace
        self._stopping = asyncio.Event()
        self._worker: Worker | None = None

    async def run(self) -> None:
        """Work until SIGTERM, or until cancelled. In both cases, requests on the wire end first."""
        with _on_sigterm(self._stopping.set):
            await self._store.check_version()
            while not self._stopping.is_set():
                await self._work()
                await self._reach_database()

    async def _work(self) -> None:
        """Run one worker of Procrastinate's, until it ends by a trouble or is stopped."""
        delivery = Delivery(self._client, self._journal, self._store, queue=self._queue)
        tasks: list[asyncio.Task[None]] = [
            asyncio.create_task(self._run_worker(delivery)),
            asyncio.create_task(self._recover(delivery)),
            asyncio.create_task(self._wait_for_stop()),
        ]
        try:
            awaited: list[asyncio.Future[Any]] = [*tasks, delivery.closed]
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await asyncio.shield(asyncio.ensure_future(self._end(delivery, *tasks)))
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                log("queue.interrupted", queue=self._queue, reason=type(error).__name__)
        if delivery.closed.done():
            raise delivery.closed.result()

    async def _run_worker(self, delivery: Delivery) -> None:
        app = make_worker_app(self._conninfo)
        try:  # no `async with`: a worker that is stopped while its pool opens has to close it too
            await app.open_async()
            self._worker = Worker(
                app,
                queues=[self._queue],
                concurrency=self._concurrency,
                delete_jobs="always",
                additional_context={DELIVERY: delivery},
                install_signal_handlers=False,
                fetch_job_polling_interval=self._pace.poll,
                update_heartbeat_interval=self._pace.heartbeat,
                stalled_worker_timeout=self._pace.silence,
            )
            await self._worker.run()  # type: ignore[no-untyped-call] # it has no types
        finally:
            self._worker = None
            await app.close_async()

    async def _end(self, delivery: Delivery, working: asyncio.Task[None], *others: asyncio.Task[None]) -> None:
        """Let requests on the wire end, and give back all that waits.

        Procrastinate takes no job once it is cancelled. On Python 3.11 `asyncio.wait_for` may lose a cancellation that
        comes together with its result, and psycopg uses it. A second cancellation would cut the requests on the wire,
        so the worker is asked to stop instead.
        """
        pending = {working, *others}
        for task in pending:
            task.cancel()
        await asyncio.sleep(0)
        delivery.stop()
        while pending:
            _, pending = await asyncio.wait(pending, timeout=_HEARING)
            for task in pending - {working}:
                task.cancel()
            if self._worker is not None:
                self._worker.stop()  # type: ignore[no-untyped-call] # as above

    async def _recover(self, delivery: Delivery) -> None:
        """Give back, again and again, the messages of dead workers, and those that this one has left behind."""
        looks = 0
        while True:
            if recovered := await self._store.recover(self._pace.silence):
                log("queue.recovered", queue=self._queue, messages=recovered)
            await delivery.give_back_strays()
            if looks % _CLEANING == 0:
                await self._store.clean()
            looks += 1
            await asyncio.sleep(self._pace.recovery)

    async def _wait_for_stop(self) -> None:
        await self._stopping.wait()

    async def _reach_database(self) -> None:
        """Wait until the database is back. `PlainError` if its tables are of another version then."""
        pause, longest = _PAUSES
        while not self._stopping.is_set():
            try:
                await self._store.check_version()
            except psycopg.Error as error:
                if isinstance(error, PlainError) and not isinstance(error, LateError | UnreachableError):
                    raise
            else:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, longest)


@contextlib.contextmanager
def _on_sigterm(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM, unless the program around handles it, as uvicorn does."""
    free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not free:
        yield
        return
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGTERM, stop)
    except NotImplementedError:  # on Windows
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)

"""The Procrastinate App of a queue: its one task, and the decision that a job is tried again."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
import psycopg_pool
from procrastinate import App, BaseRetryStrategy, JobContext, PsycopgConnector, RetryDecision
from procrastinate.jobs import Job

from oca_sms_async._postgres_connections import make_options
from oca_sms_async._queue_store import TASK

DELIVERY: Final = "oca_sms_delivery"  # in a job's context: the delivery of the worker that runs it
_UNFORESEEN: Final = timedelta(seconds=60)  # until a job is tried again whose task has raised an error of its own
_TIMEOUT: Final = 5.0  # seconds that a connection may take
_POOL: Final = 4  # connections of a worker, besides the one that listens


class LaterError(Exception):
    """The message certainly was not sent. Its job is tried again after so many seconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__("the message goes back to the queue")
        self.seconds = seconds


class _Again(BaseRetryStrategy):
    """Each job is tried again until its task returns. A task that returns has left its outcome in the journal.

    A job that was cancelled from outside goes back too: its process is ending, and the message must not be lost.
    """

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision:
        """Return the moment of the next try."""
        del job
        if isinstance(exception, LaterError):
            return RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=exception.seconds))
        if isinstance(exception, asyncio.CancelledError):
            return RetryDecision(retry_at=datetime.now(UTC))
        return RetryDecision(retry_at=datetime.now(UTC) + _UNFORESEEN)


def make_app(conninfo: str) -> App:
    """Return an App that knows the task of each queue."""
    return _add_task(App(connector=PsycopgConnector(kwargs=make_options(conninfo, _TIMEOUT), timeout=_TIMEOUT)))


def make_worker_app(conninfo: str) -> App:
    """Return an App for a worker, whose commits do not wait for the disk.

    A crash of PostgreSQL may undo that a job was taken or finished. Then the job comes up again, and the journal knows
    what became of its message. The journal's own commits wait for the disk, whatever the database's settings.
    """
    connector = PsycopgConnector(
        pool_factory=_make_pool, kwargs=make_options(conninfo, _TIMEOUT), configure=_do_not_wait_for_disk
    )
    return _add_task(App(connector=connector))


def _add_task(app: App) -> App:

    @app.task(name=TASK, pass_context=True, retry=_Again())
    async def send(context: JobContext) -> None:
        """Send the message of a job. Only a worker of the queue has the client for it."""
        if (delivery := context.additional_context.get(DELIVERY)) is None:
            raise RuntimeError("only SmsQueue.work(client), or the command oca-sms queue work, sends messages")
        await delivery.deliver(context.job.id, worker=context.job.worker_id)

    return app


async def _do_not_wait_for_disk(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.execute("SET synchronous_commit = off")
    await connection.commit()  # the pool wants it idle


def _make_pool(**options: Any) -> psycopg_pool.AsyncConnectionPool[Any]:
    return psycopg_pool.AsyncConnectionPool(min_size=1, max_size=_POOL, timeout=_TIMEOUT, **options)

"""The task: `celery -A celery_worker.tasks worker`.

Celery may deliver a job twice: after a killed worker, after a lost connection to the broker, and with Redis when a job
takes longer than `visibility_timeout`. The key makes all deliveries of one job one SMS.
"""

import contextlib
import functools
import os
from datetime import datetime
from typing import Any, Final

from anyio.from_thread import BlockingPortal, start_blocking_portal
from celery import Celery, Task
from celery.result import AsyncResult
from celery.signals import worker_process_shutdown
from oca_sms_async import (
    AsyncOcaSms,
    ExpiredError,
    InvalidMessageError,
    InvalidRequestError,
    OcaSmsError,
    Priority,
    SendReceipt,
    TokenBucket,
)
from oca_sms_async.postgres import PostgresJournal, PostgresTokenBucket

RATE: Final = 22.0  # requests a second of the whole account
TIMEOUT: Final = 4.0  # seconds for an attempt; as long, a job that comes again waits for the process that had it
PROCESSES: Final = 8  # of all workers; they share the rate out while PostgreSQL is away
HOPELESS: Final = (InvalidMessageError, InvalidRequestError, ExpiredError)  # the next try would end in the same way

app = Celery("celery_worker")
app.conf.update(
    broker_url=os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0"),
    result_backend=os.environ.get("CELERY_RESULT_BACKEND"),
    task_acks_late=True,  # a job is done when it has ended, not when it begins: else a killed worker loses it
    task_reject_on_worker_lost=True,  # without this, a job is done for Celery when its process is killed
    worker_prefetch_multiplier=1,  # an idle worker takes the next job, not one that holds a queue of them
)

_opened: Final = contextlib.ExitStack()


@functools.cache
def connect() -> tuple[BlockingPortal, AsyncOcaSms]:
    """Return the client of this process, and the thread with its event loop.

    One client for a process: with a client for each task, every task would have a rate limit of its own. It is made by
    the first task and not at import, because Celery forks its processes after the import.
    """
    database = os.environ["SMS_DATABASE"]
    portal = _opened.enter_context(start_blocking_portal())

    journal = PostgresJournal(database, name="jobs")
    _opened.enter_context(portal.wrap_async_context_manager(journal))
    limiter = PostgresTokenBucket(database, name="oca", rate=RATE, fallback=TokenBucket(RATE / PROCESSES))
    _opened.callback(portal.call, limiter.aclose)
    client = AsyncOcaSms.from_env(journal=journal, limiter=limiter, timeout=TIMEOUT)
    return portal, _opened.enter_context(portal.wrap_async_context_manager(client))


@worker_process_shutdown.connect
def close(**_: Any) -> None:
    """Close the client, once its requests have ended."""
    _opened.close()


@app.task(bind=True, max_retries=10)
def send_sms(self: Task[Any, Any], key: str, phone: str, text: str, expires_at: datetime) -> str:
    """Send one SMS, and return its id.

    A task that fails with `may_have_been_sent` is left alone: a repetition would get the same answer, because the
    journal sends no doubtful message again. Look at it with `oca-sms status` or `reconcile`.
    """
    portal, client = connect()
    # In one process an OTP goes before every job. Between processes, PostgreSQL gives each its turn.
    send = functools.partial(client.send, phone, text, key=key, expires_at=expires_at, priority=Priority.BULK)
    try:
        receipt: SendReceipt = portal.call(send)
    except OcaSmsError as error:
        if error.may_have_been_sent or isinstance(error, HOPELESS):
            raise
        seconds = min(2**self.request.retries, 300)
        raise self.retry(exc=error, countdown=seconds, **_hide(key)) from error
    return receipt.msg_uid


def enqueue(key: str, phone: str, text: str, expires_at: datetime) -> AsyncResult[str]:
    """Put one SMS into the queue. The key is your name of the message, for example `order-17-shipped`.

    `expires_at` is aware. After it, a queue that was broken for days sends no stale news.
    """
    return send_sms.apply_async((key, phone, text, expires_at), **_hide(key))


def _hide(key: str) -> dict[str, Any]:
    """Return the options that hide a job's number and text from Celery's log, its events and monitors like Flower."""
    return {"argsrepr": f"({key!r}, …)"}

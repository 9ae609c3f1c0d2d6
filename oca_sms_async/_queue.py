"""The queue, as its callers see it."""

import asyncio
import contextlib
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import psycopg
from procrastinate import App

from oca_sms_async._client import AsyncOcaSms
from oca_sms_async._errors import InvalidMessageError, JournalError
from oca_sms_async._limiter import DEFAULT_RATE
from oca_sms_async._models import Sms
from oca_sms_async._phone import check_region
from oca_sms_async._postgres_bucket import PostgresTokenBucket
from oca_sms_async._postgres_journal import PostgresJournal
from oca_sms_async._postgres_troubles import StaleError, check_name, explain
from oca_sms_async._queue_app import make_app
from oca_sms_async._queue_input import check, find_expiry, gather, name_place
from oca_sms_async._queue_journal import QueueJournal
from oca_sms_async._queue_reconcile import reconcile_queue
from oca_sms_async._queue_store import AnyConnection, PutAnswer, QueueStore
from oca_sms_async._queue_values import Checked, QueueEntry, QueueReconcileReport, QueueStatistics
from oca_sms_async._queue_worker import PACE, QueueWorker
from oca_sms_async._scrub import scrub
from oca_sms_async._waiting import Priority

_T = TypeVar("_T")

_LONGEST_NAME: Final = 40  # bytes: PostgreSQL's notices have names of up to 63, and Procrastinate's prefix takes 23
_CONFLICT: Final = "key names a message of another number or text already"


class SmsQueue:
    """A queue of messages in PostgreSQL that outlives processes and machines. Procrastinate runs its jobs.

    `conninfo` is as for `PostgresJournal`, and `await setup()` makes the tables once. Processes that give the same
    `name` share the queue, its `journal` and its `limiter`. A database may hold several queues. `region` is the country
    of a number without country code.

    A message is known by its `key`. It goes out once, however often it is put and whatever process dies. Its number and
    text stand in the queue until it is done. Then its job is deleted, and the journal holds digests alone.

    `app` is Procrastinate's App, for its command line, its shell and its Django integration. It is not open.

    Each trouble with the database is a `JournalError`. Leave the queue by `async with` or `aclose()`. Afterwards each
    use is a `RuntimeError`. Wrong arguments are a `ValueError`.
    """

    def __init__(self, conninfo: str, *, name: str = "oca-sms", region: str = "ID") -> None:
        check_name(name)
        if len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"name must have no more than {_LONGEST_NAME} bytes")
        check_region(region)
        self.name: Final = name
        self._conninfo = conninfo
        self._region = region
        self._journal = QueueJournal(conninfo, name=name)
        self._store = QueueStore(self._journal, name)
        self._app: App | None = None

    @property
    def journal(self) -> PostgresJournal:
        """The journal of the queue. Clients that work for the queue must have it."""
        return self._journal

    @property
    def app(self) -> App:
        """The App of Procrastinate, for its own tools. Open it as Procrastinate's documentation says."""
        if self._app is None:
            self._app = make_app(self._conninfo)
        return self._app

    def limiter(self, rate: float = DEFAULT_RATE, capacity: float = 1.0) -> PostgresTokenBucket:
        """Return a limiter that all workers of the queue share: `rate` requests per second, `capacity` as the burst.

        The caller closes it by `aclose()`. Wrong values are a `ValueError`.
        """
        return PostgresTokenBucket(self._conninfo, name=self.name, rate=rate, capacity=capacity)

    def __repr__(self) -> str:
        return f"<SmsQueue {self.name!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections and the journal, once all writes have ended; a second call does nothing."""
        await self._journal.aclose()

    async def setup(self) -> None:
        """Make the tables that are missing: Procrastinate's, the journal's with the limit's, and the queue's.

        Many processes may call it at once. `JournalError` if tables are of another version.
        """
        await self._perform(self._store.set_up)

    async def put(
        self,
        phone: str,
        message: str,
        *,
        key: str,
        expires_in: float | timedelta | None = None,
        expires_at: datetime | None = None,
        priority: Priority = Priority.INTERACTIVE,
        connection: AnyConnection | None = None,
    ) -> bool:
        """Queue one message durably, and return True. Return False if its key is known: waiting, sent or in doubt.

        A key whose message certainly was not sent is queued again. `expires_in` (seconds, or a timedelta) and
        `expires_at` (an aware datetime) say from when on the message is not sent; the earlier one counts.

        With `connection`, an `AsyncConnection` of psycopg's to the same database, the message is part of the
        transaction there. It goes out if that commits, and never if it does not. Another `put` of the key waits for
        that transaction's end.

        `InvalidMessageError` for an impossible message, and for a key of another number or text. `ExpiredError` if the
        message has expired already. `TypeError` for a connection of another kind.
        """
        moment = find_expiry(expires_in, expires_at)
        checked = check(phone, message, key, moment, priority, region=self._region)
        if connection is None:
            answer = await self._perform(partial(self._store.put, [checked]))
        elif isinstance(connection, psycopg.AsyncConnection):
            answer = await self._put_within(connection, checked)
        else:
            raise TypeError("connection must be a psycopg.AsyncConnection")
        if answer.conflict is not None:
            raise InvalidMessageError(_CONFLICT)
        return bool(answer.queued)

    async def put_many(self, messages: Iterable[Sms] | AsyncIterable[Sms]) -> int:
        """Queue messages in the bulk lane, and return the number of those that are new.

        They are pulled and queued in batches, each one durable. Each needs a `key`. `InvalidMessageError` names the
        place of a message with a fault, counted from 1; all messages before it are queued. An expired message is
        queued, and fails. After an error, put the same messages again: keys that are known are not queued twice.
        """
        queued, begun, pending = 0, 0, None
        try:
            async with contextlib.aclosing(gather(messages, region=self._region)) as batches:
                async for batch in batches:
                    if pending is not None:
                        previous, pending = pending, None
                        queued += await previous
                    pending = asyncio.ensure_future(self._put_batch(batch, begun))
                    begun += len(batch)
        finally:
            if pending is not None:
                queued += await pending
        return queued

    async def lookup(self, key: str) -> QueueEntry | None:
        """Return the state of a key, or None for one that was never put, or was forgotten by the journal."""
        return await self._perform(partial(self._store.lookup, key))

    async def statistics(self) -> QueueStatistics:
        """Return the counts of this moment."""
        return await self._perform(self._store.count)

    async def work(self, client: AsyncOcaSms, *, concurrency: int = 32) -> None:
        """Send messages with `client` until cancelled, `concurrency` at once. Any number of processes may do so.

        On SIGTERM it returns, unless the program has a handler of its own for that signal. In both cases requests on
        the wire end first, and all other messages go back to the queue at once. The messages of a worker that died are
        taken up by others within a minute; those on its wire are in doubt.

        A message that certainly was not sent, by no fault of its own, is tried again with back-off until it expires:
        no connection, the rate limit, the journal or a shared limiter away, the account refused. The worker pauses
        meanwhile. Any other refusal is final. `lookup` tells the outcome.

        `JournalError` if the database cannot be used at the start, or if its tables are of another version. A database
        that goes away later costs only time. `ClientClosedError` if the client is closed. `ValueError` for a client
        with another journal.
        """
        if client.journal is not self._journal:
            raise ValueError("client must have the queue's journal: AsyncOcaSms(…, journal=queue.journal)")
        if not (isinstance(concurrency, int) and concurrency >= 1):
            raise ValueError("concurrency must be a whole number of at least 1")
        worker = QueueWorker(
            self._conninfo,
            client,
            self._journal,
            self._store,
            queue=self.name,
            concurrency=concurrency,
            pace=PACE,
        )
        try:
            await worker.run()
        except psycopg.Error as error:
            failure = self._explain(error)
        else:
            return
        raise failure

    async def reconcile(self, client: AsyncOcaSms) -> QueueReconcileReport:
        """Look all doubtful messages of the journal up in the gateway's history, and note as sent those that it has.

        A record settles one message, as `AsyncOcaSms.reconcile` does it. Messages that are being sent are left alone. A
        message that is not found stays in doubt. Errors of `AsyncOcaSms.history` come out, and `JournalError`.
        `UnsupportedError` comes first, even if no message is in doubt.
        """
        return await reconcile_queue(self._journal, client)

    async def _put_batch(self, batch: list[Checked], before: int) -> int:
        answer = await self._perform(partial(self._store.put, batch))
        if answer.conflict is not None:
            raise name_place(InvalidMessageError(_CONFLICT), before + answer.conflict + 1)
        return answer.queued

    async def _put_within(self, connection: AnyConnection, message: Checked) -> PutAnswer:
        try:
            return await self._store.put_within(connection, message)
        except psycopg.Error as error:
            failure = self._explain(error)
        raise failure

    async def _perform(self, operation: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Perform an operation, which goes on even if its caller is cancelled."""
        return await self._journal.start(partial(self._await, operation))

    async def _await(self, operation: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        try:
            return await operation()
        except psycopg.Error as error:
            failure = self._explain(error)
        raise failure

    def _explain(self, error: psycopg.Error) -> JournalError:
        if isinstance(error, StaleError | psycopg.errors.UndefinedTable):
            self._journal.forget_names()
        failure = JournalError(f"the queue {self.name!r} cannot be used: {explain(error)}")
        failure.__cause__ = scrub(error)
        return failure

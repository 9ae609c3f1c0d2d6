"""The messages of a queue in PostgreSQL. Each trouble is a `psycopg.Error`."""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal, TypeVar

import psycopg
from attrs import frozen
from psycopg.rows import tuple_row

from oca_sms_async._journal import Status
from oca_sms_async._postgres_connections import Connection
from oca_sms_async._postgres_messages import Names, found, read_entry, read_lookup
from oca_sms_async._postgres_troubles import PlainError, StaleError
from oca_sms_async._queue_journal import QueueJournal
from oca_sms_async._queue_schema import check_version, set_up
from oca_sms_async._queue_statements import (
    CLASSIFY,
    CLEAN,
    COUNT,
    FAIL,
    GIVE_BACK,
    LIST_TAKEN,
    LOOK_UP,
    PUT,
    READ,
    RECOVER,
)
from oca_sms_async._queue_values import Checked, Queued, QueueEntry, QueueStatistics
from oca_sms_async._waiting import Priority

_T = TypeVar("_T")

TASK: Final = "oca_sms_async.send"
_PREPARE: Final = 3  # executions of a statement, after which a worker's connection prepares it
_ROUNDS: Final = 5  # in each, another put or an end may change the state of a key between two statements

AnyConnection = psycopg.AsyncConnection[Any]
_KINDS: Final[dict[Status, Literal["sent", "unknown", "failed"]]] = {
    Status.SENT: "sent",
    Status.DOUBTFUL: "unknown",
    Status.UNSENT: "failed",
}


@frozen
class PutAnswer:
    """The number of messages that were queued, and the place of the first key that names another content already."""

    queued: int
    conflict: int | None = None


class QueueStore:
    """The waiting messages of a queue, beside its journal. They share connections."""

    def __init__(self, journal: QueueJournal, queue: str) -> None:
        self._journal = journal
        self._queue = queue

    async def set_up(self) -> None:
        """Make all tables that are missing."""
        await self._alone(set_up)

    async def check_version(self) -> None:
        """Raise `PlainError` unless the tables are there in the right versions."""
        await self._alone(check_version)

    async def put(self, messages: Sequence[Checked]) -> PutAnswer:
        """Queue messages over a connection of the store's own."""
        names, call = await self._journal.names(), secrets.token_bytes(16)

        async def put(connection: Connection) -> PutAnswer:
            return await self._put(connection, names, messages, call)

        return await self._journal.connections.perform(put)

    async def put_within(self, connection: AnyConnection, message: Checked) -> PutAnswer:
        """Queue a message within the transaction of the caller's connection."""
        return await self._put(connection, await self._journal.names(), [message], secrets.token_bytes(16))

    async def read(self, job: int) -> Queued | None:
        """Return the message of a job, or None if it has none any more."""
        names = await self._journal.names()

        async def read(connection: Connection) -> Queued | None:
            # A worker has sessions of its own anyway, since Procrastinate listens. So the server may keep the plans.
            connection.prepare_threshold = _PREPARE
            cursor = await connection.execute(READ, names.parameters(job=job))
            if (row := await cursor.fetchone()) is None:
                return None
            identity, content, phone, message, key, expires_at, priority, *stored = row
            checked = Checked(phone, message, key, expires_at, Priority(priority))
            return Queued(checked, read_lookup(tuple(stored), names, identity, content))

        return await self._journal.connections.perform(read)

    async def fail(self, message: Checked, error: str, code: int | None) -> None:
        """Store durably that a message certainly was not sent, and the reason."""
        names = await self._journal.names()
        parameters = names.parameters(
            identity=names.of_key(message.key),
            content=names.of_content(message.phone, message.message),
            claim=secrets.token_bytes(16),
            error=error,
            code=code,
        )
        await self._execute(FAIL, parameters)

    async def lookup(self, key: str) -> QueueEntry | None:
        """Return the state of a key, or None for a key that neither the queue nor the journal knows."""
        names = await self._journal.names()

        async def look_up(connection: Connection) -> QueueEntry | None:
            cursor = await connection.execute(LOOK_UP, names.parameters(identity=names.of_key(key)))
            waiting, *stored = found(await cursor.fetchone())
            entry = None if stored[0] is None else read_entry(tuple(stored))
            if entry is None:
                return QueueEntry("waiting") if waiting else None
            status: Literal["waiting", "sent", "failed", "unknown"]
            status = "waiting" if waiting else _KINDS[entry.status]
            return QueueEntry(status, entry.receipt, entry.error, entry.code)

        return await self._journal.connections.perform(look_up)

    async def count(self) -> QueueStatistics:
        """Return the counts of this moment."""
        names = await self._journal.names()

        async def count(connection: Connection) -> QueueStatistics:
            row = await (await connection.execute(COUNT, names.parameters())).fetchone()
            return QueueStatistics(*found(row))

        return await self._journal.connections.perform(count)

    async def recover(self, silence: float) -> int:
        """Give the jobs of dead workers back, after so many seconds without a heartbeat. Return their number."""
        return await self._execute(RECOVER, {"queue": self._queue, "task": TASK, "silence": silence})

    async def list_taken(self, worker: int) -> set[int]:
        """Return the jobs that a worker has taken, and has neither finished nor given back."""
        parameters = {"worker": worker, "queue": self._queue, "task": TASK}

        async def read(connection: Connection) -> set[int]:
            return {job for (job,) in await (await connection.execute(LIST_TAKEN, parameters)).fetchall()}

        return await self._journal.connections.perform(read)

    async def give_back(self, worker: int, jobs: set[int]) -> None:
        """Let jobs wait again that a worker has taken."""
        await self._execute(GIVE_BACK, {"worker": worker, "jobs": [*jobs]})

    async def clean(self) -> None:
        """Delete the messages whose jobs were cancelled by hand."""
        names = await self._journal.names()
        await self._execute(CLEAN, names.parameters(identities=None))

    async def _put(
        self, connection: AnyConnection, names: Names, messages: Sequence[Checked], call: bytes
    ) -> PutAnswer:
        """Queue messages in one statement. Only those that it did not queue need another one."""
        parameters = names.parameters(
            queue=self._queue,
            task=TASK,
            call=call,
            identities=[names.of_key(message.key) for message in messages],
            contents=[names.of_content(message.phone, message.message) for message in messages],
            keys=[message.key for message in messages],
            phones=[message.phone for message in messages],
            messages=[message.message for message in messages],
            expiries=[message.expires_at for message in messages],
            priorities=[int(message.priority) for message in messages],
        )
        async with connection.cursor(row_factory=tuple_row) as cursor:
            for _ in range(_ROUNDS):
                await cursor.execute(PUT, parameters)
                if cursor.rowcount == len(messages):
                    return PutAnswer(len(messages))
                await cursor.execute(CLASSIFY, parameters)
                rows = await cursor.fetchall()
                if len(rows) != len(messages):
                    raise StaleError
                undecided = [row for row in rows if not _is_decided(row)]
                if not undecided:
                    return _read_answer(rows, messages)
                if any(kept for _, _, _, kept, _, _ in undecided):
                    await cursor.execute(CLEAN, parameters)
        raise PlainError("other callers put and cancel the same keys all the time")

    async def _execute(self, query: str, parameters: dict[str, object]) -> int:
        async def execute(connection: Connection) -> int:
            return (await connection.execute(query, parameters)).rowcount

        return await self._journal.connections.perform(execute)

    async def _alone(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Do something that is not to be repeated half-way, on a connection of its own."""
        connections = self._journal.connections
        connection = await connections.connect()
        try:
            return await connections.answer(connection, work)
        finally:
            await connections.release(connection)


def _is_decided(row: tuple[Any, ...]) -> bool:
    """Tell whether a message stands in the queue, or is known to the journal."""
    _, _, live, _, known, _ = row
    return bool(live or known)


def _read_answer(rows: Sequence[tuple[Any, ...]], messages: Sequence[Checked]) -> PutAnswer:
    """Return the answer about a batch. A key that stands in it twice is queued once."""
    conflict = next((place - 1 for place, *_, same in rows if not same), None)
    return PutAnswer(len({messages[place - 1].key for place, mine, *_ in rows if mine}), conflict)

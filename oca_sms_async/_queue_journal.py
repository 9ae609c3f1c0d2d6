"""The journal of a queue, which also tells its worker about a send that is about to start."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from oca_sms_async._journal import Lookup
from oca_sms_async._postgres_connections import Connection, Connections
from oca_sms_async._postgres_journal import PostgresJournal
from oca_sms_async._postgres_messages import Names, read_lookup
from oca_sms_async._queue_statements import LIST_DOUBTFUL

_T = TypeVar("_T")


class QueueJournal(PostgresJournal):
    """A `PostgresJournal` whose lookups a worker may bring along.

    A worker reads a message and its entry by one statement. So the first lookup of its send needs no statement. A claim
    compares the entry with the one that was looked up, so an answer that is out of date does no harm.
    """

    def __init__(self, conninfo: str, *, name: str) -> None:
        super().__init__(conninfo, name=name)
        self._brought = dict[str, Lookup]()
        self._on_intend = dict[bytes, Callable[[], None]]()

    @property
    def connections(self) -> Connections:
        """The connections, which the queue shares."""
        return self._connections

    async def names(self) -> Names:
        """Return the journal's number and salt."""
        return await self._store.names()

    def forget_names(self) -> None:
        """Read number and salt anew at the next use: the tables may have been made anew."""
        self._store.forget_names()

    def start(self, operation: Callable[[], Coroutine[Any, Any, _T]]) -> "asyncio.Future[_T]":
        """Start an operation, which goes on even if its caller is cancelled. `aclose` waits for it."""
        return self._operations.start(operation)

    def bring(self, key: str, lookup: Lookup, on_intend: Callable[[], None]) -> None:
        """Answer the next lookup of this key with `lookup`, and call `on_intend` right before its first byte."""
        self._brought[key] = lookup
        self._on_intend[lookup.identity] = on_intend

    def take_back(self, key: str, lookup: Lookup) -> None:
        """Forget what was brought along, once the send has ended."""
        self._brought.pop(key, None)
        self._on_intend.pop(lookup.identity, None)

    def lookup_key(self, key: str, number: str, text: str) -> asyncio.Future[Lookup]:
        """Look up a message with a key outside of any run. Nothing is stored."""
        if (brought := self._brought.pop(key, None)) is None:
            return super().lookup_key(key, number, text)
        answer: asyncio.Future[Lookup] = asyncio.get_running_loop().create_future()
        answer.set_result(brought)
        return answer

    def intend(self, message: Lookup, *, seconds: float) -> asyncio.Future[bool]:
        """Claim a message durably before its request starts; return whether the caller got it."""
        if (on_intend := self._on_intend.get(message.identity)) is not None:
            on_intend()
        return super().intend(message, seconds=seconds)

    async def list_doubtful(self) -> list[tuple[bytes, Lookup]]:
        """Return the messages in doubt, and those that were sent with equal content, each behind its content's digest.

        A run must have begun. Messages that are being sent stay out.
        """
        names = await self.names()

        async def read(connection: Connection) -> list[tuple[bytes, Lookup]]:
            cursor = await connection.execute(LIST_DOUBTFUL, names.parameters())
            return [
                (bytes(row[2]), read_lookup(tuple(row[1:]), names, bytes(row[0]), bytes(row[2]), self._run))
                for row in await cursor.fetchall()
            ]

        return await self.start(lambda: self._connections.perform(read))

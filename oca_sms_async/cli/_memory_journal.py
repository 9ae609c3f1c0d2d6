"""The journal of a run without `--journal`: it is in memory, and gone with the process."""

import asyncio
from datetime import datetime
from typing import Any, Final, TypeVar

from oca_sms_async import JournalError, SendReceipt
from oca_sms_async._journal import Answer, JournalEntry, Lookup, Status
from oca_sms_async.cli._seen import SeenTable

_T = TypeVar("_T")

_STATUSES: Final = (Status.UNSENT, Status.DOUBTFUL, Status.SENT)
_NEW: Final = JournalEntry(Status.UNSENT)
_MOST_RECEIPTS: Final = 10_000  # a receipt is needed until the outcome of its message is taken


class MemoryJournal:
    """A `Journal` that finds repeated keys, and that knows after a cut which messages are in doubt.

    It takes one byte a message; keys lie on a disk. A message is known by its place in the order of the lookups.
    """

    def __init__(self) -> None:
        self._statuses = bytearray()
        self._receipts: dict[bytes, SendReceipt] = {}

    async def begin_run(self) -> None:
        """Count the messages, and know the keys, from the start."""
        self._place, self._keys = 0, SeenTable()

    def lookup_next(self, key: str | None, number: str, text: str) -> asyncio.Future[Lookup]:
        """Look up the run's next message."""
        identity = self._place.to_bytes(8, "big")
        if self._place == len(self._statuses):
            self._statuses.append(0)
        status = _STATUSES[self._statuses[self._place]]
        self._place += 1
        answer = Answer.STORED
        if key is not None:
            content = hash((number, text))
            try:
                first = self._keys.see(hash(key), content)
            except JournalError as error:
                return _fail(error)
            if first is not None:
                answer = Answer.REPEATED if first == content else Answer.KEY_CONFLICT
        if status is Status.UNSENT:
            return _finish(Lookup(identity, _NEW, answer))
        receipt = self._receipts.get(identity) if status is Status.SENT else None
        # A message that was sent, and whose receipt was dropped, is long known as sent.
        known = Status.DOUBTFUL if receipt is None else status
        return _finish(Lookup(identity, JournalEntry(known, receipt), answer))

    def intend(self, message: Lookup, *, seconds: float = 0.0) -> asyncio.Future[bool]:
        """Note that a request is about to start."""
        del seconds  # no other process knows this journal
        self._note(message, Status.DOUBTFUL)
        return _finish(True)

    def settle(self, message: Lookup, entry: JournalEntry) -> asyncio.Future[None]:
        """Store the outcome of an intended message."""
        self._note(message, entry.status)
        if entry.receipt is not None:
            self._receipts[message.identity] = entry.receipt
            if len(self._receipts) > _MOST_RECEIPTS:
                del self._receipts[next(iter(self._receipts))]
        return _finish(None)

    def find(self, message: Lookup, receipt: SendReceipt) -> asyncio.Future[bool]:
        """Store that a doubtful message was found sent."""
        self._note(message, Status.SENT)
        self._receipts[message.identity] = receipt
        return _finish(True)

    async def lookup(self, key: str) -> JournalEntry | None:
        """Return `None`: no message outlives its run."""
        del key
        return None

    def lookup_key(self, key: str, number: str, text: str) -> asyncio.Future[Lookup]:
        """Return a new message: no other one outlives its run."""
        del key, number, text
        return _finish(Lookup(b"", _NEW))

    async def forget(self, before: datetime, *, doubtful: bool = False) -> int:
        """Return 0: there is nothing to forget."""
        del before, doubtful
        return 0

    async def end_run(self) -> None:
        """Drop the keys."""
        self._keys.close()

    async def aclose(self) -> None:
        """Do nothing."""

    def _note(self, message: Lookup, status: Status) -> None:
        self._statuses[int.from_bytes(message.identity, "big")] = _STATUSES.index(status)


def _finish(result: _T) -> asyncio.Future[_T]:
    future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future


def _fail(error: JournalError) -> asyncio.Future[Any]:
    future = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()  # mark it as retrieved: callers may await it late
    return future

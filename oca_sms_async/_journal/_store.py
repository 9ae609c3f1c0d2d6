"""The state of every message: each change goes into the journal's file, and an index answers for the file.

Every call here blocks, so it belongs in a thread of its own. `_sqlite` calls it from asyncio.
"""

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from oca_sms_async._errors import JournalError
from oca_sms_async._journal._claims import Claims
from oca_sms_async._journal._file import JournalFile
from oca_sms_async._journal._index import Index
from oca_sms_async._journal._records import Record, join
from oca_sms_async._journal._values import Answer, JournalEntry, Lookup, Status
from oca_sms_async._models import SendReceipt

Operation = Callable[["Store"], Any]


@frozen
class Claimable(Lookup):
    """A lookup of this store, with what it takes to claim the message. `run` is 0 outside of any run."""

    content: str = field(default="", eq=False)
    run: int = field(default=0, eq=False)


class Store:
    """The open journal, for one writer. Each trouble with it is a `JournalError`.

    `doubtful` counts the messages in doubt at the time of opening. A `broken` store refuses everything: its file and
    its index may differ, and only a new opening can tell.
    """

    def __init__(self, path: Path) -> None:
        self._file = JournalFile(path)
        self._changes = list[str]()
        self._run = 0
        self._claims = Claims()
        self.broken = False
        self._failure = ""  # of the write that broke it
        with contextlib.ExitStack() as undo, self._explain_errors():
            undo.callback(self._file.close)
            self._index = Index()
            undo.callback(self._index.close)
            self.doubtful = self._index.fill(self._file.commits())
            undo.pop_all()

    def close(self) -> None:
        """Close the file and unlock it."""
        self._index.close()
        self._file.close()

    def is_in_place(self) -> bool:
        """Tell whether a new opening would find the same file."""
        with self._file.explain_errors():
            return self._file.is_in_place()

    def perform(self, operations: Sequence[Operation]) -> list[Any]:
        """Run all operations in one commit, and return their results. Their changes are on the disk when this returns.

        If the commit fails, nothing is changed. The result of an operation that is refused is its `JournalError`.
        """
        if self.broken:
            raise JournalError(f"{self._failure}; begin a new run")
        try:
            with self._explain_errors(), self._claims.transaction(), self._index.transaction():
                results = [self._attempt(operation) for operation in operations]
                if self._changes:
                    self._file.append(join(self._changes))
                    self.broken = True  # the file is ahead of the index
            self.broken = False
        except BaseException as error:
            self.broken = self.broken or self._file.broken
            self._failure = str(error) if isinstance(error, JournalError) else type(error).__name__
            raise
        finally:
            self._changes.clear()
        return results

    def begin_run(self) -> None:
        """Count equal messages from the start again."""
        self._run += 1

    def lookup(self, key: str) -> JournalEntry | None:
        """Return the entry of a key, or None for one that was never about to be sent."""
        found = self._index.get(self._digest(b"key", key))
        return None if found is None or not found[0].ended else _entry(found[0])

    def lookup_key(self, key: str, number: str, text: str) -> Lookup:
        """Return the entry of a message with a key, outside of any run."""
        content, identity = self._digest(b"content", number, text), self._digest(b"key", key)
        record, _ = self._index.get(identity) or (Record(identity, content, Status.UNSENT), 0)
        differs = record.content != content and record.status != Status.UNSENT
        return self._answer(record, Answer.KEY_CONFLICT if differs else Answer.STORED, content, run=0)

    def forget(self, before: float, *, doubtful: bool) -> int:
        """Forget at most a page of messages without news since a time, and return how many they are.

        Messages that are being sent stay. In the file the forgotten ones are marked; `shrink` removes their lines.
        """
        forgotten = self._index.forget(before, doubtful=doubtful, busy=self._claims.busy())
        self._changes += forgotten
        return len(forgotten)

    def shrink(self) -> None:
        """Write the file anew, without old lines, if they take more than half of it."""
        if self._file.size > 2 * self._index.size():
            self.broken = True  # the file is ahead of the index, until this commit has ended
            self._file.replace(self._index.commits())

    def lookup_next(self, key: str | None, number: str, text: str) -> Lookup:
        """Return the entry of the run's next message; counting tells messages without a key from their equals."""
        content = self._digest(b"content", number, text)
        identity = self._digest(b"key", key) if key is not None else self._digest(b"nth", content, "1")
        known = self._index.get(identity)
        if key is None and known is not None and known[1] == self._run:  # an equal message came before it
            identity = self._digest(b"nth", content, str(self._index.count_repetition(content, self._run)))
            known = self._index.get(identity)
        record, run = known or (Record(identity, content, Status.UNSENT), 0)
        answer = Answer.STORED
        # A message that certainly was not sent may be corrected in a later run, and keeps its key.
        if record.content != content and (run == self._run or record.status != Status.UNSENT):
            answer = Answer.KEY_CONFLICT
        elif run == self._run:
            answer = Answer.REPEATED
        elif known is not None and record.content == content:  # the usual case of a later run
            self._index.touch(identity, self._run)
        else:
            self._index.put(record._replace(content=content), self._run)
        return self._answer(record, answer, content, run=self._run)

    def intend(self, message: Lookup, seconds: float) -> bool:
        """Put the message in doubt, if its entry is still the one of the lookup; return whether that happened."""
        if not isinstance(message, Claimable):
            raise self._file.error("this message was not looked up in it: begin a new run")
        identity = message.identity.hex()
        record, run = self._index.get(identity) or (Record(identity, message.content, Status.UNSENT), 0)
        is_same = (record.status, record.attempts, record.ended) == (
            message.entry.status,
            message.entry.attempts,
            message.ended,
        )
        if not is_same or record.status == Status.SENT or (message.run and message.run != run):
            return False
        if record.status == Status.DOUBTFUL and self._claims.busy_for(identity):
            return False
        now = time.time()
        attempts, began = message.entry.attempts + 1, message.began or now
        claimed = record._replace(
            content=message.content,
            status=Status.DOUBTFUL,
            attempts=attempts,
            began=began,
            ended=now,
            error=None,
            code=None,
        )
        self._change(claimed, run)
        self._claims.take(identity, message, seconds)
        return True

    def settle(self, message: Lookup, entry: JournalEntry) -> None:
        """Store the outcome of an intended message. One that was found sent meanwhile stays sent."""
        identity = message.identity.hex()
        known = self._index.get(identity)
        if known is None or not self._claims.is_of(identity, message):
            if entry.status is Status.UNSENT:  # a claim that failed leaves nothing to settle
                return
            raise self._file.error("another sender took the message meanwhile, or it was forgotten")
        self._claims.release(identity)
        if known[0].status != Status.SENT or entry.status is Status.SENT:
            self._store_outcome(known, entry)

    def _store_outcome(self, known: tuple[Record, int], entry: JournalEntry) -> None:
        (record, run), receipt = known, entry.receipt
        self._change(
            record._replace(
                status=entry.status,
                attempts=entry.attempts,
                began=0.0 if entry.status is Status.UNSENT else record.began,  # no request is in doubt any more
                ended=time.time(),
                msg_uid=None if receipt is None else receipt.msg_uid,
                word=None if receipt is None else receipt.status,
                error=entry.error,
                code=entry.code,
            ),
            run,
        )

    def find(self, message: Lookup, receipt: SendReceipt) -> bool:
        """Store that a doubtful message was found sent, unless another message has this id; return whether it was."""
        if self._index.has_uid(receipt.msg_uid):
            return False
        self._store_outcome(self._get_known(message), JournalEntry(Status.SENT, receipt, receipt.attempts))
        return True

    def _attempt(self, operation: Operation) -> Any:
        try:
            return operation(self)
        except JournalError as refusal:  # it has changed nothing, and the other operations are of other callers
            if self._file.broken:
                raise
            return refusal

    def _get_known(self, message: Lookup) -> tuple[Record, int]:
        known = self._index.get(message.identity.hex())
        if known is None:
            raise self._file.error("this message was not looked up in it: begin a new run")
        return known

    def _change(self, record: Record, run: int) -> None:
        self._changes.append(self._index.put(record, run))

    def _answer(self, record: Record, answer: Answer, content: str, *, run: int) -> Claimable:
        busy_for, entry = self._claims.busy_for(record.identity), _entry(record)
        identity = bytes.fromhex(record.identity)
        return Claimable(identity, entry, answer, record.began, record.ended, busy_for, content, run)

    def _digest(self, kind: bytes, *parts: str) -> str:
        digest = hashlib.blake2b(key=self._file.salt, person=kind, digest_size=16)
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()

    @contextlib.contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "an error")
            reason = f"its temporary index failed with {name}: is there room in the folder for temporary files?"
            raise self._file.error(reason) from error


def _entry(record: Record) -> JournalEntry:
    receipt = None
    if record.msg_uid is not None and record.word is not None:
        receipt = SendReceipt(record.msg_uid, record.word, record.attempts)
    return JournalEntry(Status(record.status), receipt, record.attempts, record.error, record.code)

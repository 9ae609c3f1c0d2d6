"""Any interleaving of claims, outcomes, crashes, lookups and forgetting, over both stores against one model."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, TypeVar

import pytest
from attrs import define, field, frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from oca_sms_async import Journal, JournalEntry, JournalError, SendReceipt, SqliteJournal
from oca_sms_async._journal import Answer, Lookup, Status
from oca_sms_async.postgres import PostgresJournal

_T = TypeVar("_T")
PATIENCE: Final = 20  # seconds, after which something hangs
NUMBER: Final = "+6281234567890"
KEYS: Final = ["a", "b"]
TEXTS: Final = ["text", "other text"]
LONG_AGO, FUTURE = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
PLACES: Final = st.integers(0, 5)
FAILURES: Final = [
    JournalEntry(Status.UNSENT, error="InvalidRequestError", code=39),
    JournalEntry(Status.UNSENT, error="CancelledError"),
    JournalEntry(Status.DOUBTFUL, error="DeliveryUnknownError"),
]


@define
class Row:
    """A message as the model keeps it. A sender has it, if `busy`. `claims` counts the claims of its life."""

    text: str
    entry: JournalEntry
    claimer: object
    busy: bool
    claims: int = 1

    @property
    def claimable(self) -> bool:
        """Whether somebody may take it."""
        return self.entry.status is Status.UNSENT or (self.entry.status is Status.DOUBTFUL and not self.busy)


@frozen(eq=False)
class Looked:
    """A lookup, with what the model had then."""

    key: str
    text: str
    lookup: Lookup
    row: Row | None
    claims: int
    entry: JournalEntry | None


@define
class Model:
    """What a journal must hold."""

    rows: dict[str, Row] = field(factory=dict)
    sent: int = 0


class Stores(RuleBasedStateMachine):
    """One journal under one process after the other, and the model of both."""

    keeps_claims: ClassVar[bool]  # after a crash, others still wait for the senders of the process

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._folder = Path(tempfile.mkdtemp())
        self._journal = self.open_journal(self._folder)
        self._found = list[Looked]()
        self._claimed = list[Looked]()
        self._model = Model()

    def open_journal(self, folder: Path) -> Journal:
        """Open the journal as a new process does. The folder belongs to one game."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Close all."""
        self._awaited(self._journal.aclose)
        self._runner.close()
        shutil.rmtree(self._folder)

    def _awaited(self, call: Callable[[], Awaitable[_T]]) -> _T:
        async def result() -> _T:
            async with asyncio.timeout(PATIENCE):
                return await call()

        return self._runner.run(result())

    @rule(key=st.sampled_from(KEYS), text=st.sampled_from(TEXTS))
    def look_up_to_send(self, key: str, text: str) -> None:
        """The answer is the model's."""
        row = self._model.rows.get(key)
        lookup = self._awaited(lambda: self._journal.lookup_key(key, NUMBER, text))
        entry = JournalEntry(Status.UNSENT) if row is None else row.entry
        assert lookup.entry == entry
        conflict = row is not None and row.text != text and entry.status is not Status.UNSENT
        assert lookup.answer is (Answer.KEY_CONFLICT if conflict else Answer.STORED)
        assert (lookup.busy_for > 0) == (row is not None and row.entry.status is Status.DOUBTFUL and row.busy)
        known = None if row is None else row.entry
        self._found.append(Looked(key, text, lookup, row, 0 if row is None else row.claims, known))

    @precondition(lambda self: self._found)
    @rule(place=PLACES, seconds=st.sampled_from([0.0, 1000.0]))
    def claim(self, place: int, seconds: float) -> None:
        """A fresh lookup gets a message that is free. A stale one never gets a message that another claim had."""
        looked = self._found.pop(place % len(self._found))
        lookup, row = looked.lookup, self._model.rows.get(looked.key)
        if lookup.answer is Answer.KEY_CONFLICT or lookup.entry.status is Status.SENT:
            return
        got = self._awaited(lambda: self._journal.intend(lookup, seconds=seconds))
        untouched = row is looked.row and (row is None or (row.claims, row.entry) == (looked.claims, looked.entry))
        free = row is None or row.claimable
        if untouched:
            assert got == free
        if got:
            assert free
            assert row is None or (row is looked.row and row.claims == looked.claims)
            entry = JournalEntry(Status.DOUBTFUL, attempts=lookup.entry.attempts + 1)
            if row is None:
                self._model.rows[looked.key] = Row(looked.text, entry, looked, seconds > 0)
            else:
                row.text, row.entry, row.claimer, row.busy = looked.text, entry, looked, seconds > 0
                row.claims += 1
            self._claimed.append(looked)

    @precondition(lambda self: self._claimed)
    @rule(place=PLACES, failure=st.sampled_from([None, *FAILURES]))
    def settle(self, place: int, failure: JournalEntry | None) -> None:
        """Only the claimer settles. Another one's outcome is refused, unless nothing was sent."""
        looked = self._claimed.pop(place % len(self._claimed))
        attempts = looked.lookup.entry.attempts + 1
        if failure is None:
            self._model.sent += 1
            entry = JournalEntry(Status.SENT, SendReceipt(f"uid-{self._model.sent}", "sent", attempts), attempts)
        else:
            attempts = attempts if failure.status is Status.DOUBTFUL else 0
            entry = JournalEntry(failure.status, None, attempts, failure.error, failure.code)
        row = self._model.rows.get(looked.key)
        if row is not None and row.claimer is looked:
            self._awaited(lambda: self._journal.settle(looked.lookup, entry))
            row.entry, row.busy = entry, False
            return
        with contextlib.nullcontext() if entry.status is Status.UNSENT else pytest.raises(JournalError):
            self._awaited(lambda: self._journal.settle(looked.lookup, entry))

    @rule(before=st.sampled_from([LONG_AGO, FUTURE]), doubtful=st.booleans())
    def forget(self, before: datetime, doubtful: bool) -> None:
        """Messages in doubt stay unless they are meant too, and those that are being sent stay in any case."""
        gone = [
            key
            for key, row in self._model.rows.items()
            if before is FUTURE and (row.entry.status is not Status.DOUBTFUL or (doubtful and not row.busy))
        ]
        assert self._awaited(lambda: self._journal.forget(before, doubtful=doubtful)) == len(gone)
        for key in gone:
            del self._model.rows[key]

    @rule(luck=PLACES)
    def crash(self, luck: int) -> None:
        """Now and then the process is gone, and the next one finds what was durable."""
        if luck:
            return
        dead = self._journal
        self._found.clear()
        self._claimed.clear()
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        for file in self._folder.glob("journal"):
            shutil.copy(file, folder)
        self._awaited(dead.aclose)
        for file in folder.glob("journal"):
            shutil.move(file, self._folder / "journal")
        self._journal = self.open_journal(self._folder)
        for row in self._model.rows.values():
            row.busy = row.busy and self.keeps_claims

    @invariant()
    def the_entries_are_the_models(self) -> None:
        """Each key has the entry of the model."""
        for key in KEYS:
            row = self._model.rows.get(key)
            assert self._awaited(partial(self._journal.lookup, key)) == (None if row is None else row.entry)


def check(stores: type[Stores], examples: int) -> None:
    """Play so many games."""
    run_state_machine_as_test(stores, settings=settings(max_examples=examples, stateful_step_count=50, deadline=None))


def test_the_file_is_as_the_model() -> None:
    """Over the journal in a file."""

    class Files(Stores):
        keeps_claims = False

        def open_journal(self, folder: Path) -> Journal:
            return SqliteJournal(folder / "journal")

    check(Files, 60)


def test_the_database_is_as_the_model(database: str) -> None:
    """Over the journal in PostgreSQL."""

    class Databases(Stores):
        keeps_claims = True

        def open_journal(self, folder: Path) -> Journal:
            return PostgresJournal(database, name=folder.name)

    check(Databases, 30)

"""Any interleaving of lookups, claims, outcomes, crashes and forgetting, beside a model of the journal."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from attrs import define, field, frozen
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from postgres_server import PostgresServer, execute

from oca_sms_async import JournalError, SendReceipt
from oca_sms_async._journal import Answer, JournalEntry, Lookup, Status
from oca_sms_async.postgres import PostgresJournal

NUMBER: Final = "+6281234567890"
LATER: Final = datetime(2100, 1, 1, tzinfo=UTC)
UNSENT: Final = JournalEntry(Status.UNSENT)
PROCESSES: Final = st.integers(0, 1)
KEYS: Final = st.sampled_from(["a", "b"])
TEXTS: Final = st.sampled_from(["one", "two"])


@define
class Kept:
    """A message in the model: its entry, its text, the number of its last claim, and whether its sender is at work."""

    entry: JournalEntry
    text: str
    claim: int
    busy: bool


@frozen
class Handle:
    """A lookup, and the model's state at that time. `claim` is 0 where the message was unknown."""

    process: int
    identity: object
    text: str
    lookup: Lookup
    claim: int
    of_run: int | None


@frozen
class Claim:
    """A claim that succeeded."""

    handle: Handle
    number: int


@define
class Run:
    """The run of the first process, in the model: the text of each key that it came to, and its counts of equals."""

    number: int
    seen: dict[str, str] = field(factory=dict)
    times: dict[str, int] = field(factory=dict)


class Machine(RuleBasedStateMachine):
    """Two processes over one journal. `server` is set by the test."""

    server: PostgresServer
    handles: Bundle[Handle] = Bundle("handles")
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.kept: dict[object, Kept] = {}
        self.run_now: Run | None = None
        self.counter = 0

    @initialize()
    def begin(self) -> None:
        """Start with an empty database."""
        self.database = self.server.create_database("with_tables")
        self.journals = [self.open_journal() for _ in range(2)]

    def open_journal(self) -> PostgresJournal:
        """Return the journal as a process has it."""
        return PostgresJournal(self.database, name="acme", timeout=60)

    def wait(self, awaitable: Any) -> Any:
        """Return the result of an awaitable of the journal's."""

        async def main() -> Any:
            return await awaitable()

        return self.runner.run(main())

    def count(self) -> int:
        """Return a number that was never used."""
        self.counter += 1
        return self.counter

    def expected(self, identity: object, text: str) -> tuple[JournalEntry, Answer]:
        """Return the model's answer to a lookup."""
        kept = self.kept.get(identity)
        if kept is None:
            return UNSENT, Answer.STORED
        conflict = kept.text != text and kept.entry.status is not Status.UNSENT
        return kept.entry, Answer.KEY_CONFLICT if conflict else Answer.STORED

    def handle(self, process: int, identity: object, text: str, lookup: Lookup) -> Handle:
        """Return a handle for a lookup."""
        kept = self.kept.get(identity)
        assert (lookup.busy_for > 0) == (kept is not None and kept.busy)
        run = self.run_now.number if self.run_now is not None and process == 0 else None
        return Handle(process, identity, text, lookup, kept.claim if kept else 0, run)

    @rule(target=handles, process=PROCESSES, key=KEYS, text=TEXTS)
    def look_up(self, process: int, key: str, text: str) -> Handle:
        """A keyed send asks."""
        lookup = self.wait(lambda: self.journals[process].lookup_key(key, NUMBER, text))
        assert (lookup.entry, lookup.answer) == self.expected(key, text)
        handle = self.handle(process, key, text, lookup)
        return Handle(process, key, text, lookup, handle.claim, None)

    @rule(process=PROCESSES, key=KEYS)
    def read(self, process: int, key: str) -> None:
        """A user asks."""
        kept = self.kept.get(key)
        assert self.wait(lambda: self.journals[process].lookup(key)) == (kept.entry if kept else None)

    @rule(target=claims, handle=consumes(handles), lasting=st.booleans())
    def intend(self, handle: Handle, *, lasting: bool) -> Any:
        """A sender claims, if its lookup was no conflict."""
        if handle.lookup.answer is not Answer.STORED or handle.lookup.entry.status is Status.SENT:
            return multiple()
        seconds = 1000.0 if lasting else 0.0
        kept = self.kept.get(handle.identity)
        if handle.of_run is not None and (self.run_now is None or self.run_now.number != handle.of_run):
            possible = False
        elif kept is None:
            possible = True
        else:
            free = kept.entry.status is Status.UNSENT or (kept.entry.status is Status.DOUBTFUL and not kept.busy)
            possible = kept.claim == handle.claim and free
        claimed = self.wait(lambda: self.journals[handle.process].intend(handle.lookup, seconds=seconds))
        assert claimed == possible
        if not claimed:
            return multiple()
        entry = JournalEntry(Status.DOUBTFUL, attempts=handle.lookup.entry.attempts + 1)
        number = self.count()
        self.kept[handle.identity] = Kept(entry, handle.text, number, lasting)
        return Claim(handle, number)

    @rule(
        claim=consumes(claims),
        status=st.sampled_from(Status),
        failure=st.sampled_from([(None, None), ("QuotaExhaustedError", 55), ("DeliveryUnknownError", None)]),
    )
    def settle(self, claim: Claim, status: Status, failure: tuple[str | None, int | None]) -> None:
        """A sender stores its outcome. One that crashed instead never comes to this rule."""
        attempts = 0 if status is Status.UNSENT else claim.handle.lookup.entry.attempts + 1
        receipt = SendReceipt(f"uid {self.count()}", "sent", attempts) if status is Status.SENT else None
        error, code = (None, None) if status is Status.SENT else failure
        entry = JournalEntry(status, receipt, attempts, error, code)
        kept = self.kept.get(claim.handle.identity)
        mine = kept is not None and kept.claim == claim.number

        async def settle() -> None:
            await self.journals[claim.handle.process].settle(claim.handle.lookup, entry)

        if mine or status is Status.UNSENT:
            self.wait(settle)
        else:
            with pytest.raises(JournalError, match="another sender"):
                self.wait(settle)
        if kept is not None and mine and (kept.entry.status is not Status.SENT or status is Status.SENT):
            kept.entry, kept.busy = entry, False

    @rule()
    def time_passes(self) -> None:
        """All senders may be given up."""
        execute(self.database, "UPDATE oca_sms_message SET busy_until = now() WHERE busy_until IS NOT NULL")
        for kept in self.kept.values():
            kept.busy = False

    @rule(process=PROCESSES, doubtful=st.booleans())
    def forget(self, process: int, *, doubtful: bool) -> None:
        """A user forgets all that is old."""
        gone = [
            identity
            for identity, kept in self.kept.items()
            if kept.entry.status is not Status.DOUBTFUL or (doubtful and not kept.busy)
        ]
        assert self.wait(lambda: self.journals[process].forget(LATER, doubtful=doubtful)) == len(gone)
        for identity in gone:
            del self.kept[identity]

    @rule(process=PROCESSES)
    def restart(self, process: int) -> None:
        """A process ends and begins anew."""
        self.wait(self.journals[process].aclose)
        self.journals[process] = self.open_journal()
        if process == 0:
            self.run_now = None

    @precondition(lambda self: self.run_now is None)
    @rule()
    def begin_run(self) -> None:
        """The first process begins a run, and the second one cannot."""
        self.wait(self.journals[0].begin_run)
        self.run_now = Run(self.count())
        with pytest.raises(JournalError, match="another run"):
            self.wait(self.journals[1].begin_run)

    @precondition(lambda self: self.run_now is not None)
    @rule()
    def end_run(self) -> None:
        """The run ends."""
        self.wait(self.journals[0].end_run)
        self.run_now = None

    @precondition(lambda self: self.run_now is not None)
    @rule(target=handles, key=st.none() | KEYS, text=TEXTS)
    def look_up_next(self, key: str | None, text: str) -> Handle:
        """The run comes to its next message."""
        assert self.run_now is not None
        run = self.run_now
        lookup = self.wait(lambda: self.journals[0].lookup_next(key, NUMBER, text))
        if key is None:
            nth = run.times[text] = run.times.get(text, 0) + 1
            identity: object = (text, nth)
            expected = self.expected(identity, text)
        else:
            identity = key
            expected = self.expected(identity, text)
            if key in run.seen:
                expected = expected[0], Answer.REPEATED if run.seen[key] == text else Answer.KEY_CONFLICT
            elif expected[1] is Answer.STORED:
                run.seen[key] = text
        assert (lookup.entry, lookup.answer) == expected
        return self.handle(0, identity, text, lookup)

    @precondition(lambda self: self.run_now is not None)
    @rule(handle=handles, known=st.booleans())
    def find(self, handle: Handle, *, known: bool) -> None:
        """The run finds a message in the history, perhaps with the id of another one."""
        if handle.lookup.entry.status is not Status.DOUBTFUL:
            return
        used = [kept.entry.receipt.msg_uid for kept in self.kept.values() if kept.entry.receipt is not None]
        uid = used[0] if known and used else f"found {self.count()}"
        receipt = SendReceipt(uid, "delivered", handle.lookup.entry.attempts)
        kept = self.kept.get(handle.identity)
        possible = kept is not None and kept.claim == handle.claim and kept.entry.status is Status.DOUBTFUL
        found = self.wait(lambda: self.journals[0].find(handle.lookup, receipt))
        assert found == (possible and uid not in used)
        if found and kept is not None:
            kept.entry, kept.busy = JournalEntry(Status.SENT, receipt, receipt.attempts), False

    def teardown(self) -> None:
        """Close the journals."""
        for journal in self.journals:
            self.wait(journal.aclose)
        self.runner.close()
        self.server.drop_database(self.database)


def test_the_journal_is_as_its_model(postgres: PostgresServer) -> None:
    """Each answer of each process is the model's, whatever came before."""
    machine = type("Machine", (Machine,), {"server": postgres})
    some = settings(
        max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    run_state_machine_as_test(machine, settings=some)

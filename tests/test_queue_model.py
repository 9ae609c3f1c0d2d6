"""Any interleaving of put, commit, rollback, work and crashes, beside a model of the queue."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx
import psycopg
from attrs import define, field
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from in_memory import Gateway, accept, client_of, lose_answer, refuse
from postgres_server import PostgresServer, execute
from queues import NUMBER

from oca_sms_async import InvalidMessageError, Priority
from oca_sms_async._queue_app import DELIVERY, make_worker_app
from oca_sms_async._queue_delivery import Delivery
from oca_sms_async.queue import SmsQueue

KEYS: Final = st.sampled_from(["a", "b", "c"])
TEXTS: Final = st.sampled_from(["one", "two"])
CALLERS: Final = st.integers(0, 1)
ANSWERS: Final = {"sent": accept, "unknown": lose_answer, "failed": refuse(400, 39)}


@define
class Kept:
    """A key in the model: its text and its state."""

    text: str
    state: str


@define
class Caller:
    """A caller with a connection of its own, and the keys that its open transaction has put."""

    connection: psycopg.AsyncConnection[Any]
    put: dict[str, Kept] = field(factory=dict)


class Machine(RuleBasedStateMachine):
    """Two callers, and a worker that works when it is told to. `server` and `template` are set by the test."""

    server: PostgresServer
    template: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.kept: dict[str, Kept] = {}

    @initialize()
    def begin(self) -> None:
        """Start with an empty queue."""
        self.database = self.server.create_database(self.template)
        self.queue = SmsQueue(self.database)

        async def connect() -> list[Caller]:
            return [Caller(await psycopg.AsyncConnection.connect(self.database)) for _ in range(2)]

        self.callers: list[Caller] = self.wait(connect)

    def wait(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Return the result of a call."""

        async def main() -> Any:
            return await call()

        return self.runner.run(main())

    def put(self, key: str, text: str, seen: Kept | None, caller: Caller | None, priority: Priority) -> None:
        """Put a message, and compare the answer with that of the model. `seen` is the key as the caller sees it."""
        connection = None if caller is None else caller.connection
        known = seen is not None and seen.state != "failed"
        try:
            queued = self.wait(lambda: self.queue.put(NUMBER, text, key=key, connection=connection, priority=priority))
        except InvalidMessageError:
            assert known
            assert seen is not None
            assert seen.text != text
            return
        assert queued is not known
        assert not known or (seen is not None and seen.text == text)
        if queued:
            (self.kept if caller is None else caller.put)[key] = Kept(text, "waiting")

    @rule(key=KEYS, text=TEXTS, priority=st.sampled_from(Priority))
    def put_alone(self, key: str, text: str, priority: Priority) -> None:
        """Put outside of any transaction. It would wait for one that has the key."""
        if not any(key in caller.put for caller in self.callers):
            self.put(key, text, self.kept.get(key), None, priority)

    @rule(key=KEYS, text=TEXTS, number=CALLERS, priority=st.sampled_from(Priority))
    def put_within(self, key: str, text: str, number: int, priority: Priority) -> None:
        """Put within a caller's transaction. It would wait for the other caller's."""
        caller, other = self.callers[number], self.callers[1 - number]
        if key not in other.put:
            self.put(key, text, caller.put.get(key) or self.kept.get(key), caller, priority)

    @rule(number=CALLERS, commits=st.booleans())
    def end_transaction(self, number: int, *, commits: bool) -> None:
        """Commit or roll back."""
        caller = self.callers[number]
        if commits:
            self.wait(caller.connection.commit)
            self.kept |= caller.put
        else:
            self.wait(caller.connection.rollback)
        caller.put = {}

    @rule(ends=st.lists(st.sampled_from([*ANSWERS]), min_size=1, max_size=3))
    def work(self, ends: list[str]) -> None:
        """A worker sends all that waits. The gateway's answers take turns."""
        order: list[str] = []
        turns = iter(ends * 3)

        def answer(request: httpx.Request) -> httpx.Response | Awaitable[httpx.Response]:
            order.append(next(turns))
            return ANSWERS[order[-1]](request)

        gateway = Gateway(answer)
        waiting = {key for key, kept in self.kept.items() if kept.state == "waiting"}
        for kept in self.kept.values():
            if kept.state == "in doubt":  # nothing is sent for it
                kept.state = "unknown"

        async def run() -> None:
            app = make_worker_app(self.database)
            async with app.open_async(), client_of(gateway, journal=self.queue.journal) as client:
                delivery = Delivery(client, self.queue._journal, self.queue._store, queue="oca-sms")
                await app.run_worker_async(
                    wait=False,
                    queues=["oca-sms"],
                    delete_jobs="always",
                    install_signal_handlers=False,
                    listen_notify=False,
                    additional_context={DELIVERY: delivery},
                )

        self.wait(run)
        assert len(gateway.texts) == len(order) == len(waiting)
        ended = []
        for key in waiting:
            self.kept[key].state = self.wait(lambda key=key: self.queue.lookup(key)).status  # type: ignore[misc] # of this turn
            ended.append((self.kept[key].state, self.kept[key].text))
        assert sorted(ended) == sorted(zip(order, gateway.texts, strict=True))

    @rule(key=KEYS, on_wire=st.booleans())
    def crash(self, key: str, *, on_wire: bool) -> None:
        """A worker dies with a message, before its first byte or after it, and another one notices."""
        kept = self.kept.get(key)
        if kept is None or kept.state != "waiting":
            return
        if any(key in caller.put for caller in self.callers):
            return
        job = f"(SELECT job FROM oca_sms_queued WHERE key = '{key}')"
        execute(self.database, f"UPDATE procrastinate_jobs SET status = 'doing' WHERE id = {job}")

        async def die() -> None:
            if on_wire:
                lookup = await self.queue.journal.lookup_key(key, NUMBER, kept.text)
                assert await self.queue.journal.intend(lookup, seconds=0)
            assert await self.queue._store.recover(silence=1) == 1

        self.wait(die)
        if on_wire:
            kept.state = "in doubt"  # until a worker comes to it

    @invariant()
    def compare(self) -> None:
        """Each key has the state of the model, and the counts are those of the model."""
        if not hasattr(self, "queue"):
            return
        waiting = 0
        for key in ("a", "b", "c"):
            entry = self.wait(lambda key=key: self.queue.lookup(key))  # type: ignore[misc] # of this turn
            kept = self.kept.get(key)
            if kept is None:
                assert entry is None
                continue
            state = "waiting" if kept.state == "in doubt" else kept.state
            waiting += state == "waiting"
            assert entry is not None
            assert entry.status == state
        counted = self.wait(self.queue.statistics)
        assert counted.waiting_interactive + counted.waiting_bulk == waiting
        assert counted.working == 0

    def teardown(self) -> None:
        """Close all connections."""
        for caller in self.callers:
            self.wait(caller.connection.close)
        self.wait(self.queue.aclose)
        self.runner.close()
        self.server.drop_database(self.database)


def test_the_queue_is_as_its_model(postgres: PostgresServer, queue_template: str) -> None:
    """Each answer is the model's, and each message has the one end that its request had."""
    machine = type("Machine", (Machine,), {"server": postgres, "template": queue_template})
    some = settings(
        max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    run_state_machine_as_test(machine, settings=some)

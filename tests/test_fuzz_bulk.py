"""A campaign that crashes at any step, and is taken up again until it is complete, loses and doubles no message.

Time is virtual, and the loop stands still while the journal writes. So a crash can come at each step: before and after
each callback of the event loop, and around each write.
"""

import asyncio
import contextlib
import itertools
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextvars import Context
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from attrs import define, frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from in_memory import Answer, Gateway, ask, client_of, delay, fail, refuse
from virtual_time import VirtualTimeLoop

from oca_sms_async import (
    AsyncOcaSms,
    Failed,
    Journal,
    JournalEntry,
    JournalError,
    Outcome,
    RetryPolicy,
    SendReceipt,
    Sent,
    Skipped,
    Sms,
    SqliteJournal,
    TokenBucket,
)
from oca_sms_async._journal import Lookup

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
TIMEOUT: Final = 10.0

# The ends of a request: those that take the message, and those that prove that it was not taken.
TAKING: Final = {"taken", "taken and lost", "taken and late", "internal, taken"}
UNSENT: Final = {"refused", "limited", "unconnected", "account"}
ENDS: Final = [*sorted(TAKING), *sorted(UNSENT), "lost", "internal, not taken", "taken", "taken"]


@frozen
class Crash:
    """The number of the step at which a run's process dies, if it comes that far."""

    at: int | None


class Process:
    """The life of one process. It counts its steps, and dies at one of them. Its journal stays as it is on the disk."""

    def __init__(self, crash: Crash, path: Path) -> None:
        self.dead = False
        self.path = path
        self.main: asyncio.Task[Any] | None = None
        self._crash = crash
        self._steps = 0

    @property
    def copy(self) -> Path:
        """The journal after the crash. The dead process still runs to its end, and its own file no longer counts."""
        return self.path.with_name(self.path.name + "+")

    def step(self) -> None:
        """Count a step, and die if it is the last one."""
        self._steps += 1
        if self._steps != self._crash.at:
            return
        self.dead = True
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(self.path, self.copy)
        if self.main is not None:
            self.main.cancel()

    def run(self, main: Callable[[Journal], Awaitable[None]]) -> None:
        """Run to the end, or until the process is dead and its tasks have ended."""

        async def whole() -> None:
            self.main = asyncio.current_task()
            if self.main is not None and self.dead:  # in the very first step
                self.main.cancel()
            async with contextlib.aclosing(AtOnce(self, portal)) as journal:
                await main(journal)

        with start_blocking_portal() as portal, asyncio.Runner(loop_factory=lambda: SteppingLoop(self)) as runner:
            if self.dead:
                return
            with contextlib.suppress(asyncio.CancelledError):
                runner.run(whole())


class SteppingLoop(VirtualTimeLoop):
    """A loop in which each callback is a step of a process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        super().__init__()

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Count the callback as a step."""

        def count_step() -> None:
            self._process.step()
            callback(*args)

        return super().call_soon(count_step, context=context)


class AtOnce:
    """A journal in a file whose calls are done at once, in a loop of another thread, between two steps."""

    def __init__(self, process: Process, portal: BlockingPortal) -> None:
        self._process = process
        self._portal = portal
        self._journal = SqliteJournal(process.path)

    async def begin_run(self) -> None:
        """Take the journal for one run."""
        await self._do(lambda journal: journal.begin_run())

    async def lookup(self, key: str) -> JournalEntry | None:
        """Return the entry of a key."""
        return await self._do(lambda journal: journal.lookup(key))

    async def forget(self, before: datetime, *, doubtful: bool = False) -> int:
        """Forget old messages."""
        return await self._do(lambda journal: journal.forget(before, doubtful=doubtful))

    def lookup_key(self, key: str, number: str, text: str) -> Awaitable[Lookup]:
        """Look up a message outside of any run."""
        return self._do(lambda journal: journal.lookup_key(key, number, text))

    def lookup_next(self, key: str | None, number: str, text: str) -> Awaitable[Lookup]:
        """Look up the run's next message."""
        return self._do(lambda journal: journal.lookup_next(key, number, text))

    def intend(self, message: Lookup, *, seconds: float) -> Awaitable[bool]:
        """Put a message in doubt."""
        return self._do(lambda journal: journal.intend(message, seconds=seconds))

    def settle(self, message: Lookup, entry: JournalEntry) -> Awaitable[None]:
        """Store an outcome."""
        return self._do(lambda journal: journal.settle(message, entry))

    def find(self, message: Lookup, receipt: SendReceipt) -> Awaitable[bool]:
        """Store that a message was found."""
        return self._do(lambda journal: journal.find(message, receipt))

    async def end_run(self) -> None:
        """Give the journal back."""
        await self._do(lambda journal: journal.end_run())

    async def aclose(self) -> None:
        """Close the file, as the end of a process does."""
        self._call(lambda journal: journal.aclose())

    def _do(self, call: Callable[[SqliteJournal], Awaitable[_T]]) -> asyncio.Future[_T]:
        """Return a future that is done in a later step."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()

        def conclude(end: Callable[[Any], None], result: Any) -> None:
            if not done.done():
                end(result)

        self._process.step()
        try:
            result = self._call(call)
        except JournalError as error:
            loop.call_soon(conclude, done.set_exception, error)
        else:
            loop.call_soon(conclude, done.set_result, result)
        self._process.step()
        return done

    def _call(self, call: Callable[[SqliteJournal], Awaitable[_T]]) -> _T:
        async def run() -> _T:
            return await call(self._journal)

        return self._portal.call(run)


@define
class Fate:
    """The true history of one message, over all runs."""

    accepted: int = 0
    told_sent: bool = False
    in_doubt: bool = False  # a request of an earlier run may have been taken
    requests: int = 0  # in this run
    doubt_now: bool = False  # a request of this run may have been taken
    last_end: str = ""


def accept(request: httpx.Request) -> httpx.Response:
    """Answer with the id that the history has for this message."""
    return httpx.Response(200, json={"status": "sent", "msg_uid": f"uid {json.loads(request.content)['message']}"})


ANSWERS: Final[dict[str, Answer]] = {
    "taken": accept,
    "taken and lost": fail(httpx.ReadError),
    "taken and late": delay(2 * TIMEOUT, accept),
    "lost": fail(httpx.ReadError),
    "unconnected": fail(httpx.ConnectError),
    "refused": refuse(406, 39),
    "limited": refuse(429, 9),
    "account": refuse(401, 55),
    "internal, taken": refuse(500, 13),
    "internal, not taken": refuse(500, 13),
}


class Judge:
    """Answers the requests of one run, keeps each message's fate, and notes the requests that must not come."""

    def __init__(self, process: Process, fates: dict[str, Fate], ends: Sequence[str], *, resend: bool) -> None:
        self._process = process
        self._fates = fates
        self._ends = iter(ends)
        self._resend = resend
        self.wrong: list[str] = []

    def client(self) -> AsyncOcaSms:
        """Return a client of this gateway, with a limit and with waits, which take no time here."""
        return client_of(
            Gateway(self._answer, lookup=self._list),
            limiter=TokenBucket(50),
            retry=RetryPolicy(max_attempts=3),
            timeout=TIMEOUT,
        )

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        """Answer as the next end says; a message is taken in the very step in which its request arrives."""
        await self._stay_alive()
        text = json.loads(request.content)["message"]
        fate, end = self._fates[text], next(self._ends, "taken")
        self._judge(text, fate)
        fate.requests += 1
        fate.last_end = end
        fate.doubt_now = fate.doubt_now or end not in UNSENT
        if end in TAKING:
            fate.accepted += 1
        await asyncio.sleep(0.05)  # longer than the wait for the next token, so that several are on the wire
        await self._stay_alive()
        return await ask(ANSWERS[end], request)

    async def _list(self, _: httpx.Request) -> httpx.Response:
        """Answer with the accepted messages."""
        await self._stay_alive()
        now = datetime.now(UTC).isoformat()
        rows = [
            {
                "msg_uid": f"uid {text}",
                "phone_number": phone(text),
                "message_body": text,
                "status": "sent",
                "created_at": now,
            }
            for text, fate in self._fates.items()
            if fate.accepted
        ]
        return httpx.Response(200, json=rows)

    async def _stay_alive(self) -> None:
        """Return, or wait for ever if the process that asks is dead."""
        if self._process.dead:
            await asyncio.get_running_loop().create_future()

    def _judge(self, text: str, fate: Fate) -> None:
        if fate.told_sent:
            self.wrong.append(f"{text}: reported as sent, and sent again")
        if fate.in_doubt and not self._resend:
            self.wrong.append(f"{text}: in doubt, and sent again without resend_unknown")
        if fate.requests and not fate.last_end.startswith("internal"):
            self.wrong.append(f"{text}: tried again after {fate.last_end}")


def phone(text: str) -> str:
    """Return the number for a text. There are three, so that messages differ by their texts alone."""
    return f"+6281234500{int(text) % 3:03}"


class Source(Iterator[Sms]):
    """Messages, and the texts of those that were pulled."""

    def __init__(self, messages: list[Sms]) -> None:
        self.pulled: list[str] = []
        self._messages = iter(messages)

    def __next__(self) -> Sms:
        sms = next(self._messages)
        self.pulled.append(sms.message)
        return sms


# A run of a few messages takes some dozen steps.
CRASHES: Final = st.builds(Crash, st.one_of(st.none(), *(st.integers(1, most) for most in (25, 50, 100, 200, 400))))


class Campaign(RuleBasedStateMachine):
    """Runs over a list that grows, in any order, with any faults; each may crash."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "journal"
        self.messages: list[Sms] = []
        self.fates: dict[str, Fate] = {}

    @rule(keys=st.lists(st.booleans(), min_size=3, max_size=8))
    def add(self, keys: list[bool]) -> None:
        """The list grows by messages, with keys and without."""
        for keyed in keys:
            text = str(len(self.messages))
            self.fates[text] = Fate()
            self.messages.append(Sms(phone(text), text, key=f"key {text}" if keyed else None))

    @rule(
        ends=st.lists(st.sampled_from(ENDS), max_size=15),
        crash=CRASHES,
        concurrency=st.integers(1, 5),
        resend=st.booleans(),
        order=st.randoms(use_true_random=False),
        leaves_after=st.none() | st.none() | st.integers(0, 6),
        by_exception=st.booleans(),
    )
    def go(
        self,
        ends: list[str],
        crash: Crash,
        concurrency: int,
        *,
        resend: bool,
        order: Any,
        leaves_after: int | None,
        by_exception: bool,
    ) -> None:
        """One run over a part of the list, in any order, crashes, is left, stops or comes to its end."""
        messages = order.sample(self.messages, order.randint(len(self.messages) // 2, len(self.messages)))
        told = self._run(messages, ends, crash, concurrency, resend=resend, leaving=(leaves_after, by_exception))
        assert len({outcome.sms.message for outcome in told}) == len(told) <= len(messages)

    @rule(crash=CRASHES)
    def reconcile(self, crash: Crash) -> None:
        """A look into the history settles the accepted messages alone, even if it crashes."""
        process = Process(crash, self.path)
        judge = Judge(process, self.fates, (), resend=False)

        async def main(journal: Journal) -> None:
            async with judge.client() as opened:
                report = await opened.reconcile(journal, self.messages)
            if not process.dead:
                for found in report.found:
                    assert self.fates[found.sms.message].accepted
                    self.fates[found.sms.message].told_sent = True
                assert all(not self.fates[sms.message].accepted for sms in report.doubtful)

        self._live(process, main)

    def teardown(self) -> None:
        """Run to the end: no message is lost, and the history and a resend complete the list."""
        told = self._run(self.messages, (), Crash(None), 3)
        self._assert_complete(told)
        unknown = {outcome.sms.message for outcome in told if isinstance(outcome, Failed)}
        self.reconcile(Crash(None))
        told = self._run(self.messages, (), Crash(None), 3, resend=True)
        assert not [outcome for outcome in told if isinstance(outcome, Failed)]
        assert all(fate.accepted for fate in self.fates.values())
        assert all(self.fates[text].accepted == 1 for text in unknown if not self.fates[text].told_sent)
        self.directory.cleanup()

    def _assert_complete(self, told: list[Outcome]) -> None:
        assert Counter(outcome.sms.message for outcome in told) == Counter(sms.message for sms in self.messages)
        for outcome in told:
            match outcome:
                case Failed(error=error):
                    assert error.may_have_been_sent
                case Skipped(receipt=receipt):
                    assert receipt is not None

    def _run(
        self,
        messages: list[Sms],
        ends: Sequence[str],
        crash: Crash,
        concurrency: int,
        *,
        resend: bool = False,
        leaving: tuple[int | None, bool] = (None, False),
    ) -> list[Outcome]:
        """Return the outcomes that the run handed out before it ended."""
        process, told = Process(crash, self.path), list[Outcome]()
        judge = Judge(process, self.fates, ends, resend=resend)
        leaves_after, by_exception = leaving
        complete, source = False, Source(messages)

        async def take(outcomes: AsyncIterator[Outcome]) -> None:
            nonlocal complete
            for taken in itertools.count():
                if taken == leaves_after:
                    if by_exception:
                        raise KeyError
                    return
                outcome = await anext(outcomes, None)
                if outcome is None:
                    complete = not process.dead
                    return
                if not process.dead:
                    told.append(outcome)
                    self._judge(outcome)

        async def main(journal: Journal) -> None:
            async with judge.client() as opened:
                bulk: Any = opened.bulk(source, concurrency=concurrency, journal=journal, resend_unknown=resend)
                with contextlib.suppress(KeyError):
                    async with bulk as outcomes:
                        await take(outcomes)
                stopped_by = bulk.stopped_by
            if complete:
                assert Counter(outcome.sms.message for outcome in told) == Counter(source.pulled)
                assert stopped_by is not None or len(source.pulled) == len(messages)

        self._live(process, main)
        assert not judge.wrong
        for fate in self.fates.values():
            fate.in_doubt = fate.in_doubt or fate.doubt_now
            fate.requests, fate.doubt_now, fate.last_end = 0, False, ""
        return told

    def _judge(self, outcome: Outcome) -> None:
        """Compare an outcome with the true history of its message."""
        fate = self.fates[outcome.sms.message]
        match outcome:
            case Sent():
                assert fate.accepted
                fate.told_sent = True
            case Skipped(receipt=receipt):
                assert not fate.requests
                assert receipt is None or fate.accepted
                assert receipt is not None or not fate.told_sent
                fate.told_sent = receipt is not None
            case Failed(error=error):
                assert not fate.told_sent
                assert error.may_have_been_sent or not (fate.accepted or fate.doubt_now or fate.in_doubt)

    def _live(self, process: Process, main: Callable[[Journal], Awaitable[None]]) -> None:
        process.run(main)
        if process.dead:
            self.path = process.copy


TestCampaign = Campaign.TestCase
TestCampaign.settings = settings(max_examples=50, stateful_step_count=12, deadline=None)


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("ends", [[], ["internal, taken", "taken and lost", "refused"]])
def test_a_crash_at_each_step_of_a_run_loses_and_doubles_no_message(concurrency: int, ends: list[str]) -> None:
    """A small run crashes at each of its steps in turn, and the next runs complete it."""
    for at in range(1, 1_000):
        campaign = Campaign()
        campaign.add([False, True, False])
        before = campaign.path
        campaign._run(campaign.messages, ends, Crash(at), concurrency)
        crashed = campaign.path != before
        campaign.teardown()
        if not crashed:  # it came to its end first
            break
    assert not crashed
    assert at > 20


@pytest.mark.parametrize("by_exception", [False, True])
@pytest.mark.parametrize("leaves_after", range(4))
def test_a_run_that_is_left_after_any_outcome_loses_and_doubles_no_message(
    leaves_after: int, *, by_exception: bool
) -> None:
    """The block is left while messages are on the wire, and the next runs complete the list."""
    campaign = Campaign()
    campaign.add([False, True, False, False])
    told = campaign._run(campaign.messages, (), Crash(None), 3, leaving=(leaves_after, by_exception))
    assert len(told) == leaves_after
    campaign.teardown()


def test_a_crash_at_each_step_of_a_reconcile_loses_and_doubles_no_message() -> None:
    """A look into the history crashes at each of its steps in turn, and the next look and runs complete the list."""
    for at in range(1, 1_000):
        campaign = Campaign()
        campaign.add([False, True, False])
        campaign._run(campaign.messages, ["taken and lost", "lost", "taken"], Crash(None), 3)
        before = campaign.path
        campaign.reconcile(Crash(at))
        crashed = campaign.path != before
        campaign.teardown()
        if not crashed:  # it came to its end first
            break
    assert not crashed
    assert at > 10

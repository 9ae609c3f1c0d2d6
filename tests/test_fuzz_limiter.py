"""The token bucket against a model of it, step by step, in one loop after another."""

import asyncio
import gc
from collections.abc import Callable
from fractions import Fraction
from typing import Final

from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from virtual_time import VirtualTimeLoop

from oca_sms_async import Priority, TokenBucket

# Seconds: loops whose clocks begin at a million have a coarse grid, and the bucket is a part in a billion slow.
SLACK: Final = 1e-5
# Stretches of time, in quarters of the bucket's interval, so that they coincide.
QUARTERS: Final = st.integers(0, 40)
SOON: Final = st.integers(0, 8)


@define(eq=False)
class Visitor:
    """One call of `acquire`: its place in the order of arrival, its deadline in the loop's time, and its end."""

    number: int
    priority: Priority
    deadline: float | None
    task: asyncio.Task[None]
    cancelled: bool = False


class Timeline:
    """Time as it passes outside of the loops: it goes on from one loop to the next."""

    def __init__(self) -> None:
        self.before = 0.0  # seconds that passed in the closed loops
        self.loop = MortalLoop(self, 1000.0)

    def now(self) -> float:
        """Return the seconds since the beginning."""
        return self.before + self.loop.clock() - self.loop.began

    def next_loop(self, start: float) -> None:
        """Change to another loop, whose clock begins at `start`."""
        before = self.now()
        self.loop.close()
        self.loop.died = before
        self.before, self.loop = before, MortalLoop(self, start)


class MortalLoop(VirtualTimeLoop):
    """A loop whose clock goes on after its closing, as the clock of each real loop does."""

    died: float | None = None

    def __init__(self, timeline: Timeline, start: float) -> None:
        self.began = start
        self._timeline = timeline
        super().__init__(start)

    def clock(self) -> float:
        """Return the loop's own time, as far as it came."""
        return super().time()

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self.clock() + (0.0 if self.died is None else self._timeline.now() - self.died)


class Model:
    """The expected content of the bucket: tokens from the grants alone, and the pauses; times are the timeline's."""

    def __init__(self, rate: float, capacity: float) -> None:
        self.rate, self.capacity = rate, capacity
        self.granted: list[float] = []
        self.refused = 0
        self.paused_until = 0.0
        self._tokens, self._as_of = capacity, 0.0

    def tokens(self, now: float) -> float:
        """Return the tokens that are there."""
        return min(self.capacity, self._tokens + (now - self._as_of) * self.rate)

    def grant(self, now: float) -> None:
        """Take a token."""
        self._tokens, self._as_of = self.tokens(now) - 1, now
        assert self._tokens > -SLACK * self.rate, "a grant without a token"
        assert now >= self.paused_until - SLACK, "a grant within a pause"
        self.granted.append(now)

    def ready_at(self, now: float, ahead: int) -> float:
        """Return when the token comes that is left after so many others."""
        start = max(now, self.paused_until)
        return start + max(0.0, ahead + 1 - self.tokens(start)) / self.rate


class Bucket(RuleBasedStateMachine):
    """All that can be done to a bucket, and the conditions that hold at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.timeline = Timeline()
        self.waiting: list[Visitor] = []  # those within `acquire`, in the order in which they entered it
        self.visitors = 0
        self.started: list[asyncio.Task[None]] = []  # in this loop
        self.dead: list[asyncio.Task[None]] = []  # in loops that are closed

    @initialize(rate=st.sampled_from([0.5, 1.0, 22.0]), capacity=st.sampled_from([1.0, 1.5, 4.0]))
    def make(self, rate: float, capacity: float) -> None:
        """Make a full bucket, without a running loop."""
        self.bucket, self.model = TokenBucket(rate, capacity), Model(rate, capacity)

    def _quarters(self, many: int) -> float:
        return many / 4 / self.model.rate

    @rule(
        crowd=st.lists(st.tuples(st.sampled_from(Priority), st.none() | QUARTERS), min_size=1, max_size=6), after=SOON
    )
    def come(self, crowd: list[tuple[Priority, int | None]], after: int) -> None:
        """Some tasks begin to acquire, often at the very moment at which a token comes."""
        loop, started = self.timeline.loop, self.started

        def begin() -> None:
            started.extend(loop.create_task(self._visit(*one)) for one in crowd)

        self._soon(after, begin)

    def _soon(self, after: int, act: Callable[[], object]) -> None:
        """Act in the next turn of the loop, or so many quarters from now."""
        if after:
            self.timeline.loop.call_later(self._quarters(after), act)
        else:
            self.timeline.loop.call_soon(act)

    @rule(seconds=QUARTERS, after=SOON)
    def pause(self, seconds: int, after: int) -> None:
        """The gateway asks for a pause."""

        def begin() -> None:
            self.bucket.pause(self._quarters(seconds))
            self.model.paused_until = max(self.model.paused_until, self.timeline.now() + self._quarters(seconds))

        self._soon(after, begin)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), after=SOON)
    def cancel(self, data: st.DataObject, after: int) -> None:
        """One waiter gives up, just woken or not."""
        visitor = data.draw(st.sampled_from(range(len(self.waiting))).map(self.waiting.__getitem__))

        def give_up() -> None:
            if visitor in self.waiting:
                visitor.cancelled = True
                visitor.task.cancel()

        self._soon(after, give_up)

    @rule(turns=st.integers(1, 4))
    def turn(self, turns: int) -> None:
        """The loop turns, and no time passes."""
        for _ in range(turns):
            self.timeline.loop.call_soon(self.timeline.loop.stop)
            self.timeline.loop.run_forever()

    @rule(quarters=SOON)
    def advance(self, quarters: int) -> None:
        """Time passes; a token that is there by then finds its waiter."""
        self.timeline.loop.run_until_complete(asyncio.sleep(self._quarters(quarters)))
        self.turn(20)
        now = self.timeline.now()
        there = self.model.tokens(now) >= 1 + SLACK and now >= self.model.paused_until + SLACK
        assert not (there and self.waiting), "a token is there, and a waiter waits"
        for visitor in self.waiting:
            assert visitor.deadline is None or visitor.deadline >= self.timeline.loop.time() - SLACK

    @rule(start=st.sampled_from([0.0, 1000.0, 1e6]), abandoned=st.booleans(), collected=st.booleans())
    def switch(self, start: float, *, abandoned: bool, collected: bool) -> None:
        """Another loop takes over; the one before was closed over its waiters, or cancelled them as a runner does."""
        self.turn(2)  # a task that never began is no waiter
        if not abandoned:
            self._give_up()
        self.timeline.loop.set_exception_handler(lambda *_: None)  # it would complain of tasks that never ended
        for visitor in self.waiting:
            visitor.cancelled = True
        self.waiting.clear()
        self.timeline.next_loop(start)
        self.dead += self.started
        self.started.clear()
        if collected:
            self.dead.clear()
            gc.collect(1)  # the young ones; a whole collection each time would take minutes
        # The bucket enters the new loop here, so the next visitor finds it as it was left.
        self.timeline.loop.run_until_complete(self._noop())

    async def _noop(self) -> None:
        self.bucket.pause(0.0)

    async def _visit(self, priority: Priority, patience: int | None) -> None:
        loop, now = self.timeline.loop, self.timeline.now()
        task = asyncio.current_task()
        assert task is not None
        deadline = None if patience is None else loop.time() + self._quarters(patience)
        visitor = Visitor(self.visitors, priority, deadline, task)
        self.visitors += 1
        ahead = sum(other.priority <= priority for other in self.waiting)
        spare = None if patience is None else now + self._quarters(patience) - self.model.ready_at(now, ahead)
        self.waiting.append(visitor)
        try:
            await self.bucket.acquire(priority=priority, deadline=deadline)
        except TimeoutError:
            self.model.refused += 1
            assert spare is not None
            assert deadline is not None
            if self.timeline.now() == now:
                assert spare < SLACK, "a deadline after the token is refused at once"
            else:
                assert spare > -SLACK, "a hopeless one is not refused at once"
                assert loop.time() >= deadline - SLACK, (
                    "a request that could still have a token is refused before its deadline"
                )
        else:
            assert spare is None or spare > -SLACK, "a hopeless request is let in"
            assert deadline is None or loop.time() <= deadline + SLACK
            self.model.grant(self.timeline.now())
            self._assert_none_overtaken(visitor)
        finally:
            if visitor in self.waiting:  # not those of a loop that is gone
                self.waiting.remove(visitor)

    def _assert_none_overtaken(self, visitor: Visitor) -> None:
        for other in self.waiting:
            late = other.deadline is not None and other.deadline <= self.timeline.loop.time() + SLACK
            mine, theirs = (visitor.priority, visitor.number), (other.priority, other.number)
            assert other.cancelled or late or mine <= theirs

    def _give_up(self) -> None:
        tasks = [task for task in self.started if not task.done()]
        for visitor in self.waiting:
            visitor.cancelled = True
        for task in tasks:
            task.cancel()
        if tasks:
            self.timeline.loop.run_until_complete(asyncio.wait(tasks))
        self._raise_what_failed()

    def _raise_what_failed(self) -> None:
        for task in [task for task in self.started if task.done()]:
            self.started.remove(task)
            if not task.cancelled():
                task.result()

    @invariant()
    def no_visitor_failed(self) -> None:
        """The assertions of each visitor hold."""
        self._raise_what_failed()

    @invariant()
    def figures_are_the_models(self) -> None:
        """Grants, refusals, waiters, tokens and the pause are those of the model."""
        now, figures = self.timeline.now(), self.bucket.statistics()
        assert (figures.granted, figures.refused) == (len(self.model.granted), self.model.refused)
        assert figures.waiting <= len(self.waiting)  # a request that is refused at once never stood in the queue
        assert abs(figures.tokens - self.model.tokens(now)) < SLACK * (1 + self.model.rate)
        assert abs(figures.paused_for - max(0.0, self.model.paused_until - now)) < SLACK

    @invariant()
    def no_window_holds_more_than_the_limit(self) -> None:
        """At most capacity + rate·w requests get through in any window of w seconds, across loops too."""
        rate, capacity = Fraction(self.model.rate), Fraction(self.model.capacity) + Fraction(SLACK)
        least = None
        for number, time in enumerate(self.model.granted):
            excess = number - rate * Fraction(time)
            least = excess if least is None else min(least, excess)
            assert excess - least + 1 <= capacity

    def teardown(self) -> None:
        """At the end all visitors give up, and leave nothing behind."""
        self.turn(2)  # tasks that were just started have begun
        self._give_up()
        assert self.bucket.statistics().waiting == 0
        assert self.bucket._queue._timer is None
        assert self.bucket._queue._bounded == 0
        self.timeline.loop.close()


TestBucket = Bucket.TestCase
TestBucket.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

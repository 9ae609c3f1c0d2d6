"""Waiting around a limit that is kept elsewhere, on a clock that jumps and with a server of a few lines."""

import asyncio
import gc

import pytest
from limiter_contract import most_in_a_window
from virtual_time import VirtualTimeLoop, in_virtual_time, run

from oca_sms_async import LimiterUnavailableError, Priority, RateLimiter, TokenBucket
from oca_sms_async._reservation_store import Reserver
from oca_sms_async._reservations import ReservedTokenBucket

RATE, PROCESSES = 20.0, 4
HALF_AN_HOUR = 1800.0


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


class Server:
    """A limit for several processes; `trouble` is its error's text, and `speaks` is cleared for silence."""

    def __init__(self, rate: float = RATE) -> None:
        self.interval = 1 / rate
        self.tat = 0.0  # the time at which the bucket is full again
        self.trouble: str | None = None
        self.speaks = asyncio.Event()
        self.speaks.set()
        self.latency = 0.001
        self.asked: list[float] = []  # the patience of each question

    def reserve(self, patience: float) -> tuple[bool, float]:
        """Reserve one time."""
        self.asked.append(patience)
        if self.trouble is not None:
            raise LimiterUnavailableError(self.trouble) from OSError("the cause")
        at = max(now(), self.tat)
        taken = at - now() <= patience
        if taken:
            self.tat = at + self.interval
        return taken, at - now()


class Store:
    """One process' connections to the server; those from before a reconnection stay as they were."""

    server = "server"

    def __init__(self, shared: Server) -> None:
        self.shared = shared
        self.leads_to = shared
        self.connect_time = 0.0  # seconds that the first question over fresh connections takes longer
        self.reconnected = 0
        self._fresh = True
        self.closed = False

    async def reserve(self, pause: float, patience: float) -> tuple[bool, float]:
        """Ask the server."""
        leads_to = self.leads_to
        await asyncio.sleep(leads_to.latency + (self.connect_time if self._fresh else 0.0))
        self._fresh = False
        await leads_to.speaks.wait()
        return leads_to.reserve(patience)

    def die(self) -> None:
        """Let the present connections lead to silence."""
        self.leads_to = Server()
        self.leads_to.speaks.clear()

    async def reconnect(self) -> None:
        """Take fresh connections, which lead to the right server."""
        self.leads_to = self.shared
        self.reconnected += 1
        self._fresh = True

    async def aclose(self) -> None:
        """Close them."""
        self.closed = True


def bucket_of(
    store: Store, *, rate: float = RATE, timeout: float = 2.0, fallback: RateLimiter | None = None
) -> ReservedTokenBucket:
    """Return one process' bucket."""
    return ReservedTokenBucket(store, name="acme", rate=rate, capacity=1.0, timeout=timeout, fallback=fallback)


# --- the fallback -------------------------------------------------------------------------------------------------


class Fleet:
    """Several processes with many waiters each, and the times at which their requests got through."""

    def __init__(self, server: Server, *, waiters: int = 16) -> None:
        self.fallbacks = [TokenBucket(RATE / PROCESSES) for _ in range(PROCESSES)]
        self.buckets = [bucket_of(Store(server), timeout=1.0, fallback=fallback) for fallback in self.fallbacks]
        self.times: list[float] = []
        self._tasks = [asyncio.create_task(self._work(it)) for it in self.buckets for _ in range(waiters)]

    async def _work(self, bucket: ReservedTokenBucket) -> None:
        while True:
            await bucket.acquire(priority=Priority.BULK)
            self.times.append(now())

    async def aclose(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for bucket in self.buckets:
            await bucket.aclose()


@pytest.mark.parametrize("kind", ["silent", "failing"])
@pytest.mark.parametrize("outage", [0.4, 3.0, 7.3])
def test_all_processes_keep_the_limit_through_an_outage(outage: float, kind: str) -> None:
    """Before, in and after an outage the bound holds over all processes, and after it they use the whole rate."""

    async def main() -> None:
        server = Server()
        fleet = Fleet(server)
        await asyncio.sleep(2)
        if kind == "silent":
            server.speaks.clear()
        else:
            server.trouble = "out of order"
        await asyncio.sleep(outage)
        server.speaks.set()
        server.trouble = None
        back = now()
        await asyncio.sleep(10)
        await fleet.aclose()
        # A full fallback lets one through at once, and a process may hold one reservation from before the outage.
        for seconds in (0.1, 0.5, 1.0, 5.0):
            assert most_in_a_window(fleet.times, seconds) <= 1 + 2 * PROCESSES + RATE * seconds
            settled = [time for time in fleet.times if time > back + 2]
            assert most_in_a_window(settled, seconds) <= 1 + RATE * seconds + 1e-6
        assert len([time for time in fleet.times if time > back + 5]) == pytest.approx(RATE * 5, abs=2)

    run(main())


@in_virtual_time
async def test_waiters_in_the_fallback_go_back() -> None:
    """Requests that began to wait during an outage get the server's rate once it is back, not the fallback's."""
    server = Server()
    bucket = bucket_of(Store(server), timeout=1.0, fallback=TokenBucket(0.1))
    server.trouble = "out of order"
    waiting = [asyncio.create_task(bucket.acquire()) for _ in range(40)]
    await asyncio.sleep(5)
    assert sum(task.done() for task in waiting) == 1
    server.trouble = None
    begin = now()
    await asyncio.gather(*waiting)
    assert now() - begin <= 0.5 + 1.5 + 40 / RATE + 0.1  # the next look, the settling, the server's rate
    await bucket.aclose()


@in_virtual_time
async def test_the_order_of_the_waiters_stays_when_they_go_back() -> None:
    """First come is first served across the return of the server, and interactive still goes before bulk."""
    server = Server()
    bucket = bucket_of(Store(server), fallback=TokenBucket(0.001))
    order: list[tuple[Priority, int]] = []

    async def one(priority: Priority, number: int) -> None:
        await bucket.acquire(priority=priority)
        order.append((priority, number))

    server.trouble = "out of order"
    await asyncio.gather(bucket.acquire())
    tasks = [asyncio.create_task(one(priority, number)) for number in range(5) for priority in reversed(Priority)]
    await asyncio.sleep(5)
    assert order == []
    server.trouble = None
    await asyncio.gather(*tasks)
    bulk = [number for priority, number in order if priority is Priority.BULK]
    interactive = [number for priority, number in order if priority is Priority.INTERACTIVE]
    assert bulk == interactive == list(range(5))
    assert order.index((Priority.INTERACTIVE, 4)) <= 5
    await bucket.aclose()


@in_virtual_time
async def test_an_idle_process_notices_the_return() -> None:
    """A process without traffic looks too: its next request, long after the outage, is the server's again."""
    server, fallback = Server(), TokenBucket(1000.0)
    bucket = bucket_of(Store(server), fallback=fallback)
    server.trouble = "out of order"
    await bucket.acquire()
    assert (fallback.statistics().granted, bucket.statistics().granted) == (1, 0)
    server.trouble = None
    await asyncio.sleep(60)
    await bucket.acquire()
    assert (fallback.statistics().granted, bucket.statistics().granted) == (1, 1)
    await bucket.aclose()


@in_virtual_time
async def test_looking_for_the_server_takes_no_token() -> None:
    """The looks during an outage leave the server's bucket as it is."""
    server = Server()
    bucket = bucket_of(Store(server), fallback=TokenBucket(1000.0))
    server.trouble = "out of order"
    await bucket.acquire()
    server.trouble = None
    await asyncio.sleep(60)
    assert server.tat == 0.0
    assert len(server.asked) < 10  # they end with the outage
    await bucket.aclose()


@in_virtual_time
async def test_a_token_that_is_given_back() -> None:
    """The next request has it without a reservation of its own. It is lost in an outage, where it is the fallback's, in
    a pause, and after a closing.
    """
    server = Server()
    bucket = bucket_of(Store(server), fallback=TokenBucket(1000.0))
    await bucket.acquire()
    bucket.give_back()
    asked = len(server.asked)
    await bucket.acquire()
    assert (len(server.asked), bucket.statistics().granted) == (asked, 1)
    bucket.pause(60.0)
    bucket.give_back()
    assert bucket.statistics().tokens == 0
    await asyncio.sleep(60)
    server.trouble = "out of order"
    await bucket.acquire()
    bucket.give_back()
    assert bucket.statistics().tokens == 0
    await bucket.aclose()
    bucket.give_back()


@in_virtual_time
async def test_right_after_an_outage_a_request_needs_both() -> None:
    """Other processes may not have noticed the return yet, so the fallback still counts for a short time."""
    server, fallback = Server(), TokenBucket(1000.0)
    bucket = bucket_of(Store(server), timeout=2.0, fallback=fallback)
    server.trouble = "out of order"
    await bucket.acquire()
    server.trouble = None
    await asyncio.sleep(0.6)  # it has looked
    await bucket.acquire()
    assert (fallback.statistics().granted, bucket.statistics().granted) == (2, 1)
    await asyncio.sleep(2.5)
    await bucket.acquire()
    assert (fallback.statistics().granted, bucket.statistics().granted) == (2, 2)
    await bucket.aclose()


@in_virtual_time
async def test_a_second_outage_keeps_the_waiters_in_the_fallback() -> None:
    """The server goes away again before the waiters went back: they stay, and go back with its next return."""
    server = Server()
    bucket = bucket_of(Store(server), timeout=2.0, fallback=TokenBucket(0.001))
    server.trouble = "out of order"
    await bucket.acquire()
    waiting = asyncio.create_task(bucket.acquire())
    await asyncio.sleep(1)
    server.trouble = None
    await asyncio.sleep(1)  # it has noticed, and settles
    server.trouble = "out of order"
    other = asyncio.create_task(bucket.acquire())
    await asyncio.sleep(60)
    assert not waiting.done()
    assert not other.done()
    server.trouble = None
    begin = now()
    await asyncio.gather(waiting, other)
    assert now() - begin < 4
    await bucket.aclose()


@in_virtual_time
async def test_a_deadline_after_the_settling_is_the_servers_to_refuse() -> None:
    """Shortly after an outage a slow fallback refuses no request that the server will serve in time."""
    server = Server()
    bucket = bucket_of(Store(server), timeout=1.0, fallback=TokenBucket(0.001))
    server.trouble = "out of order"
    await bucket.acquire()
    with pytest.raises(TimeoutError):  # during the outage it does
        await bucket.acquire(deadline=now() + 30)
    server.trouble = None
    await asyncio.sleep(0.6)
    await bucket.acquire(deadline=now() + 5)
    await bucket.aclose()


@in_virtual_time
async def test_closing_ends_the_waiters_in_the_fallback() -> None:
    """Each waiter gets a `LimiterUnavailableError`, and the looks for the server end."""
    server = Server()
    store = Store(server)
    bucket = bucket_of(store, fallback=TokenBucket(0.001))
    server.trouble = "out of order"
    await bucket.acquire()
    waiting = [asyncio.create_task(bucket.acquire()) for _ in range(3)]
    await asyncio.sleep(1)
    asked = len(server.asked)
    await bucket.aclose()
    for answer in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(answer, LimiterUnavailableError)
        assert str(answer) == "this limiter was closed"
    await asyncio.sleep(60)
    assert len(server.asked) == asked
    assert store.closed
    with pytest.raises(RuntimeError, match="closed"):
        await bucket.acquire()


@in_virtual_time
async def test_closing_before_the_server_answers_starts_nothing() -> None:
    """A question that fails after the closing neither looks again nor complains."""
    server = Server()
    bucket = bucket_of(Store(server), fallback=TokenBucket(0.001))
    waiting = asyncio.create_task(bucket.acquire())
    await asyncio.sleep(0.0005)
    server.trouble = "out of order"
    await bucket.aclose()
    with pytest.raises(LimiterUnavailableError, match="closed"):
        await waiting
    await asyncio.sleep(60)
    assert server.asked == []


@pytest.mark.parametrize("cycles", range(8))
def test_closing_in_any_cycle_around_a_failure_starts_nothing(cycles: int) -> None:
    """A failure that was not yet looked at when the limiter closes begins no look for the server."""

    async def main() -> None:
        server = Server()
        bucket = bucket_of(Store(server), fallback=TokenBucket(0.001))
        server.trouble = "out of order"
        waiting = asyncio.create_task(bucket.acquire())
        await asyncio.sleep(2 * server.latency)  # two tries
        for _ in range(cycles):
            await asyncio.sleep(0)
        asked = len(server.asked)
        await bucket.aclose()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(60)
        assert len(server.asked) == asked

    run(main())


@in_virtual_time
async def test_closing_twice_in_a_row_is_quiet() -> None:
    """The second closing finds waiters that the first one has ended and that did not run yet."""
    server = Server()
    bucket = bucket_of(Store(server), fallback=TokenBucket(0.001))
    server.trouble = "out of order"
    await bucket.acquire()
    waiting = asyncio.create_task(bucket.acquire())
    await asyncio.sleep(1)
    await bucket.aclose()
    await asyncio.sleep(0)
    await bucket.aclose()
    with pytest.raises(LimiterUnavailableError, match="closed"):
        await waiting


def test_waiters_of_a_dead_loop_are_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    """Waiters in the fallback of a closed loop are not sent back when the next loop finds the server."""
    server = Server()
    bucket = bucket_of(Store(server), fallback=TokenBucket(0.001))
    server.trouble = "out of order"
    loop = VirtualTimeLoop()
    loop.run_until_complete(bucket.acquire())
    waiting = [loop.create_task(bucket.acquire())]
    loop.run_until_complete(asyncio.sleep(1))
    loop.close()

    async def back() -> None:
        server.trouble = None
        await bucket.acquire()
        await bucket.aclose()

    run(back())
    assert bucket.statistics().granted == 1
    assert [record for record in caplog.records if record.name == "asyncio"] == []
    waiting.clear()
    gc.collect()  # asyncio complains of the pending task here


def test_the_connections_of_a_dead_loop_are_replaced() -> None:
    """They are of no use in the next loop."""
    store = Store(Server())
    bucket = bucket_of(store)
    run(bucket.acquire())
    assert store.reconnected == 0
    run(bucket.acquire())
    assert store.reconnected == 1


def test_an_outage_goes_on_in_the_next_loop() -> None:
    """A process that found its server away in one loop looks for it in the next one."""
    server, fallback = Server(), TokenBucket(1000.0)
    bucket = bucket_of(Store(server), fallback=fallback)

    async def away() -> None:
        server.trouble = "out of order"
        await bucket.acquire()

    async def back() -> None:
        server.trouble = None
        await bucket.acquire()
        await asyncio.sleep(10)
        await bucket.acquire()
        await bucket.aclose()

    run(away())
    server.latency = 0.2  # so the first request comes before the answer
    run(back(), start=0.0)
    assert (fallback.statistics().granted, bucket.statistics().granted) == (2, 1)


def test_settling_goes_on_in_the_next_loop() -> None:
    """A process that has just noticed the return still needs both in the next loop, for any two clocks."""
    server, fallback = Server(), TokenBucket(1000.0)
    bucket = bucket_of(Store(server), timeout=2.0, fallback=fallback)

    async def back() -> None:
        server.trouble = "out of order"
        await bucket.acquire()
        server.trouble = None
        await asyncio.sleep(0.6)

    async def use() -> None:
        await bucket.acquire()
        await asyncio.sleep(3)
        await bucket.acquire()
        await bucket.aclose()

    run(back(), start=1e6)
    server.tat = 0.0
    run(use(), start=0.0)
    assert (fallback.statistics().granted, bucket.statistics().granted) == (2, 2)


# --- a second try -------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_error_over_old_connections_is_asked_again_over_fresh_ones() -> None:
    """After a fail-over behind one address the old connections answer with errors, and no request notices."""
    server, replica = Server(), Server()
    replica.trouble = "a read-only replica"
    store = Store(server)
    bucket = bucket_of(store)
    await bucket.acquire()
    store.leads_to = replica
    await bucket.acquire()
    assert store.reconnected == 1
    await bucket.acquire()
    assert store.reconnected == 1
    await bucket.aclose()


@in_virtual_time
async def test_the_cause_is_in_each_waiters_error() -> None:
    """Each waiter gets its own error with the store's words and the cause, and the next try uses fresh connections."""
    server = Server()
    store = Store(server)
    bucket = bucket_of(store)
    server.trouble = "the limiter's server is out of memory"
    answers = await asyncio.gather(*(bucket.acquire() for _ in range(3)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["the limiter's server is out of memory"] * 3
    assert len({id(answer) for answer in answers}) == 3
    assert all(isinstance(answer, Exception) and isinstance(answer.__cause__, OSError) for answer in answers)
    assert store.reconnected == 1
    server.trouble = None
    await bucket.acquire()
    assert store.reconnected == 2
    await bucket.aclose()


@in_virtual_time
async def test_a_connection_that_died_without_a_word_is_tried_again() -> None:
    """Half of the time-out goes to a connection that has answered before, and the rest to a fresh one."""
    store = Store(Server())
    bucket = bucket_of(store, timeout=2.0)
    await bucket.acquire()
    store.die()
    begin = now()
    await bucket.acquire()
    assert now() - begin == pytest.approx(1.0, abs=0.1)
    assert store.reconnected == 1
    await bucket.aclose()


@pytest.mark.parametrize(("took", "passes"), [(1.9, True), (2.1, False)])
def test_a_new_connection_has_the_whole_time_out(took: float, passes: bool) -> None:
    """Connecting may take several round trips, so the first try is not cut short."""

    async def main() -> None:
        store = Store(Server())
        store.connect_time = took
        bucket = bucket_of(store, timeout=2.0)
        begin = now()
        if passes:
            await bucket.acquire()
        else:
            with pytest.raises(LimiterUnavailableError, match=r"^the limiter's server did not answer in time$"):
                await bucket.acquire()
            assert now() - begin == pytest.approx(2.0)
        await bucket.aclose()

    run(main())


@in_virtual_time
async def test_a_question_from_before_a_reconnection_does_not_cost_the_next_one() -> None:
    """Two questions fail over the same dead connections: they are replaced once, not once for each."""
    store = Store(Server())
    reserver = Reserver(store, timeout=2.0)
    await reserver.reserve(0.0, 1.0)
    store.die()
    first = asyncio.create_task(reserver.reserve(0.0, 1.0))
    await asyncio.sleep(0.5)
    second = asyncio.create_task(reserver.reserve(0.0, 1.0))
    await asyncio.gather(first, second)
    assert store.reconnected == 1


@in_virtual_time
async def test_after_a_failure_a_new_connection_has_the_whole_time_out() -> None:
    """The connections that answered before the failure are gone, and the new ones have proven nothing yet."""
    server = Server()
    store = Store(server)
    bucket = bucket_of(store, timeout=2.0)
    await bucket.acquire()
    server.trouble = "out of order"
    with pytest.raises(LimiterUnavailableError):
        await bucket.acquire()
    server.trouble, store.connect_time = None, 1.9
    await bucket.acquire()
    await bucket.aclose()


@in_virtual_time
async def test_an_unknown_exception_of_a_store_is_an_unavailable_limiter() -> None:
    """No exception of a store's library leaves the limiter."""

    class Broken(Store):
        async def reserve(self, pause: float, patience: float) -> tuple[bool, float]:
            raise ZeroDivisionError

    bucket = bucket_of(Broken(Server()))
    with pytest.raises(LimiterUnavailableError, match=r"^the limiter's server cannot be used$") as caught:
        await bucket.acquire()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    await bucket.aclose()


# --- a reservation that is far away ---------------------------------------------------------------------------------


async def far_away(
    server: Server, bucket: ReservedTokenBucket | None = None
) -> tuple[ReservedTokenBucket, "asyncio.Task[None]"]:
    """Return a bucket whose server's clock has jumped, and a request that got its time half an hour from now."""
    bucket = bucket or bucket_of(Store(server))
    await bucket.acquire()
    server.tat += HALF_AN_HOUR
    waiting = asyncio.create_task(bucket.acquire())
    await asyncio.sleep(5)
    assert not waiting.done()
    return bucket, waiting


@in_virtual_time
async def test_a_far_reservation_is_looked_at_again() -> None:
    """A server whose clock is right again serves at once, though the process holds a reservation far away."""
    server = Server()
    bucket, waiting = await far_away(server)
    server.tat = 0.0
    begin = now()
    await waiting
    assert now() - begin <= 1.1
    assert bucket.statistics().tokens == 0
    await bucket.acquire()
    assert now() - begin <= 1.3
    await bucket.aclose()


@in_virtual_time
async def test_a_far_reservation_is_kept_where_there_is_no_earlier_one() -> None:
    """Looking again takes no token and loses no place: the reservation is used at its time."""
    server = Server()
    bucket, waiting = await far_away(server)
    tat = server.tat
    begin = now()
    await waiting
    assert now() - begin == pytest.approx(HALF_AN_HOUR, abs=6)
    assert server.tat == tat
    assert len(server.asked) == pytest.approx(HALF_AN_HOUR, rel=0.05)  # one look a second
    await bucket.aclose()


@in_virtual_time
async def test_a_deadline_before_a_far_reservation_is_looked_up_first() -> None:
    """The held reservation may be of a clock that is no more, so the server decides about a deadline."""
    server = Server()
    bucket, waiting = await far_away(server)
    begin = now()
    with pytest.raises(TimeoutError):
        await bucket.acquire(deadline=begin + 60)
    assert now() - begin <= 1.1
    waiting.cancel()
    server.tat = 0.0
    await bucket.acquire(deadline=now() + 60)
    await bucket.aclose()


@in_virtual_time
async def test_a_look_that_fails_changes_nothing() -> None:
    """The reservation is still held, and its waiter waits for it."""
    server = Server()
    bucket, waiting = await far_away(server)
    server.trouble = "out of order"
    await asyncio.sleep(60)
    assert not waiting.done()
    assert bucket.statistics().tokens == 1
    server.trouble, server.tat = None, 0.0
    await waiting
    await bucket.aclose()


@in_virtual_time
async def test_there_is_one_look_at_a_time() -> None:
    """A slow server is not asked again before it has answered."""
    server = Server()
    bucket, waiting = await far_away(server, bucket_of(Store(server), timeout=4.0))
    server.latency, before = 1.7, len(server.asked)
    await asyncio.sleep(20)
    assert len(server.asked) - before == pytest.approx(20 / 2, abs=1)
    waiting.cancel()
    await bucket.aclose()


@pytest.mark.parametrize("looking", [False, True])
def test_far_reservations_are_looked_at_in_the_next_loop_too(looking: bool) -> None:
    """Looks go on after a change of loops, for any two clocks, even if the loop before closed over one."""
    server = Server()
    bucket = bucket_of(Store(server))
    loop = VirtualTimeLoop(1e6)
    waiting = [loop.create_task(far_away(server, bucket))]
    loop.run_until_complete(asyncio.sleep(3))
    if looking:
        server.latency = 60.0
        loop.run_until_complete(asyncio.sleep(1))
    loop.close()
    server.latency = 0.001

    async def main() -> None:
        server.tat = 0.0
        _, task = await far_away(server, bucket)
        server.tat = 0.0
        begin = now()
        await task
        assert now() - begin <= 1.1
        await bucket.aclose()

    run(main(), start=0.0)
    waiting.clear()
    gc.collect()


def test_questions_of_a_dead_loop_are_forgotten() -> None:
    """A loop that closes before the server has answered does not keep the next one from asking."""
    bucket = bucket_of(Store(Server()))
    loop = VirtualTimeLoop()
    waiting = [loop.create_task(bucket.acquire())]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    run(bucket.acquire())
    assert bucket.statistics().granted == 1
    waiting.clear()
    gc.collect()


@in_virtual_time
async def test_a_hopeless_deadline_is_refused_as_soon_as_the_server_has_told() -> None:
    """The waiters whose deadlines come before the next free time are refused, and that time stays free."""
    server = Server()
    server.tat = now() + 5
    tat = server.tat
    bucket = bucket_of(Store(server))
    begin = now()
    with pytest.raises(TimeoutError):
        await bucket.acquire(deadline=now() + 4)
    assert now() - begin < 0.1
    assert server.tat == tat
    assert bucket.statistics().refused == 1
    await bucket.aclose()


@pytest.mark.parametrize("wait", [5.0, 9.9])
def test_a_near_reservation_is_not_looked_at_again(wait: float) -> None:
    """A few seconds are normal for a busy limit, and cost one question."""

    async def main() -> None:
        server = Server()
        server.tat = now() + wait
        bucket = bucket_of(Store(server))
        await bucket.acquire()
        assert server.asked == [pytest.approx(1e9)]
        await bucket.aclose()

    run(main())


# --- closing --------------------------------------------------------------------------------------------------------


def test_closing_in_another_loop_is_quiet() -> None:
    """The waiters and questions of a dead loop are dead, and closing leaves them alone."""
    bucket = bucket_of(Store(Server()), fallback=TokenBucket())
    loop = VirtualTimeLoop()
    waiting = [loop.create_task(bucket.acquire()) for _ in range(2)]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    run(bucket.aclose())
    waiting.clear()
    gc.collect()

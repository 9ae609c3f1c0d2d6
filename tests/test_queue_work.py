"""A worker of the queue: its decision about each end of a send, its lanes, its pauses, and its end."""

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import psycopg
import pytest
from attrs import evolve
from each_api import PREMIUM, connect, each_api, each_api_with_history, over
from in_memory import Answer, Gate, Gateway, accept, client_of, fail, lose_answer, refuse, respond
from postgres_server import count_clients, execute
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job
from procrastinate.manager import JobManager
from psycopg_pool import AsyncConnectionPool
from queues import NUMBER, PATIENCE, make_keyed, until_done, until_ended, working

from oca_sms_async import (
    ClientClosedError,
    JournalError,
    LimiterUnavailableError,
    Priority,
    SendEvent,
    SendReceipt,
    Unlimited,
    UnsupportedError,
    _queue_worker,
)
from oca_sms_async import _queue as queue_room
from oca_sms_async._queue_app import LaterError
from oca_sms_async._queue_decisions import Pause
from oca_sms_async._queue_delivery import Delivery
from oca_sms_async._queue_values import Queued
from oca_sms_async._queue_worker import Pace
from oca_sms_async.queue import QueueEntry, QueueReconcileReport, QueueStatistics, SmsQueue
from oca_sms_async.sandbox import Sandbox

EMPTY: Final = QueueStatistics(0, 0, 0, None)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a moment, so that no test waits for seconds."""
    monkeypatch.setattr(Pause, "_FIRST", (0.02, 0.04))
    monkeypatch.setattr(Pause, "_LONGEST", (0.1, 0.2))
    monkeypatch.setattr(queue_room, "PACE", Pace(heartbeat=1, recovery=0.2, silence=5, poll=0.05))


@contextlib.contextmanager
def events(caplog: pytest.LogCaptureFixture, name: str) -> Iterator[list[dict[str, object]]]:
    """Yield a list that holds, behind the block, the fields of each event of this name."""
    found: list[dict[str, object]] = []
    with caplog.at_level("INFO"):
        yield found
    found += [vars(record) for record in caplog.records if getattr(record, "event", None) == name]


# --- sent ---------------------------------------------------------------------------------------------------------


async def test_a_message_is_sent_and_its_receipt_kept(queue: SmsQueue) -> None:
    """The lookup has the gateway's receipt, and the number that was sent to is in E.164."""
    async with working(queue, gateway := Gateway(respond(200, {"status": "sent", "msg_uid": "uid"}))):
        await queue.put("0812 3456 7890", "text", key="key")
        entry = await until_ended(queue, "key")
    assert entry == QueueEntry("sent", SendReceipt("uid", "sent", 1))
    assert gateway.texts == ["text"]


@each_api
async def test_a_message_goes_over_each_api_and_the_observer_is_told(
    queue: SmsQueue, sandbox: Sandbox, api: str
) -> None:
    """Whatever the API, a refused message fails with its code, another arrives, and each has one event."""
    seen: list[SendEvent] = []
    sandbox.when("+6281234500001").respond("invalid-request")
    async with connect(sandbox, api, journal=queue.journal, observer=seen.append) as client:
        work = asyncio.create_task(queue.work(client))
        await queue.put_many(make_keyed(2))
        sent, refused = [await until_ended(queue, f"key-{number}") for number in range(2)]
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    assert [(message.text, message.msg_uid) for message in sandbox.inbox] == [
        ("0", sent.receipt and sent.receipt.msg_uid)
    ]
    assert (refused.status, refused.error, refused.code) == ("failed", "InvalidRequestError", 39)
    assert sorted((event.sent, event.priority) for event in seen) == [(False, Priority.BULK), (True, Priority.BULK)]


async def test_a_retried_message_names_its_attempts(queue: SmsQueue) -> None:
    """After an internal error the client sends again, and the receipt says so."""
    async with working(queue, Gateway(refuse(500, 13), accept)):
        await queue.put(NUMBER, "text", key="key")
        entry = await until_ended(queue, "key")
    assert entry.receipt is not None
    assert entry.receipt.attempts == 2


async def test_many_workers_send_each_message_once(queue: SmsQueue, queue_database: str) -> None:
    """Two workers share the messages."""
    gateway = Gateway()
    async with SmsQueue(queue_database) as other, working(queue, gateway), working(other, gateway):
        await queue.put_many(make_keyed(200))
        await until_done(queue)
    assert sorted(gateway.texts, key=int) == [str(number) for number in range(200)]


async def test_nothing_of_a_message_is_left(
    queue: SmsQueue, queue_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once it is done, no table holds its number, its text or its key, and no log ever did."""
    with caplog.at_level("DEBUG"):
        async with working(queue, Gateway(accept, lose_answer, refuse(400, 39), accept)):
            for number in range(4):
                await queue.put(NUMBER, "a secret text", key=f"a secret key {number}")
            await until_done(queue)
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    names = [table for (table,) in execute(queue_database, tables)]
    kept = [str(execute(queue_database, f"SELECT t::text FROM {table} t")) for table in names]
    for secret in (NUMBER, "81234567890", "a secret"):
        assert secret not in "".join(kept)
        assert secret not in caplog.text
    assert execute(queue_database, "SELECT count(*) FROM procrastinate_jobs") == [(0,)]


# --- decisions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        (refuse(400, 39), "InvalidRequestError", 39),
        (refuse(400, 98), "ApiError", 98),
    ],
)
async def test_the_messages_own_fault_is_final(queue: SmsQueue, answer: Answer, error: str, code: int | None) -> None:
    """It failed, with class and code, and is not tried again by itself; a put under its key queues it anew."""
    gateway = Gateway(answers={"wrong": answer})
    async with working(queue, gateway):
        await queue.put(NUMBER, "wrong", key="key")
        assert await until_ended(queue, "key") == QueueEntry("failed", None, error, code)
        assert await queue.put(NUMBER, "right", key="key")
        assert (await until_ended(queue, "key")).status == "sent"
    assert gateway.texts == ["wrong", "right"]


@pytest.mark.parametrize(
    "trouble",
    [
        fail(httpx.ConnectError),
        refuse(429, 9, retry_after="0"),
        refuse(401, 17),
        refuse(403, 55),
    ],
    ids=["connection", "rate", "credentials", "quota"],
)
async def test_a_trouble_that_is_not_the_messages_is_waited_out(
    queue: SmsQueue, trouble: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """The message is sent once the trouble is over. Each pause of the worker is one line of the log."""
    with events(caplog, "queue.paused") as paused:
        gateway = Gateway(trouble, trouble, trouble, accept)
        async with working(queue, gateway, concurrency=1):
            await queue.put(NUMBER, "text", key="key")
            entry = await until_ended(queue, "key")
    assert entry.status == "sent"
    assert gateway.texts == ["text"] * 4
    assert len(paused) == 3


async def test_a_refused_account_pauses_the_whole_worker(
    queue: SmsQueue, queue_database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No more messages than were under way meet with the refusal, one line of the log tells, and all wait on."""
    monkeypatch.setattr(Pause, "_FIRST", (3600.0, 3600.0))
    monkeypatch.setattr(Pause, "_LONGEST", (3600.0, 3600.0))
    await queue.put_many(make_keyed(100))
    with events(caplog, "queue.paused") as paused:
        async with working(queue, gateway := Gateway(refuse(401, 17)), concurrency=8):
            async with asyncio.timeout(PATIENCE):
                while (await queue.statistics()).working < 8 or not gateway.texts:
                    await asyncio.sleep(0.01)
            await queue.put(NUMBER, "otp", key="otp")
    assert len(gateway.texts) <= 8
    (event,) = paused
    assert (event["error"], event["code"], event["queue"]) == ("InvalidCredentialsError", 17, "oca-sms")
    counted = await queue.statistics()
    assert (counted.waiting_bulk, counted.waiting_interactive, counted.working) == (100, 1, 0)
    async with working(queue, again := Gateway()):
        execute(queue_database, "UPDATE procrastinate_jobs SET scheduled_at = NULL")
        await until_done(queue)
    assert len(again.accepted) == 101


async def test_a_limiter_that_is_away_costs_only_time(queue: SmsQueue) -> None:
    """The message waits, and is sent once the limiter is back."""

    class Away(Unlimited):
        times = 3

        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            if self.times:
                self.times -= 1
                raise LimiterUnavailableError("it is away")

    async with working(queue, gateway := Gateway(), limiter=(limiter := Away())):
        await queue.put(NUMBER, "text", key="key")
        assert (await until_ended(queue, "key")).status == "sent"
    assert limiter.times == 0
    assert gateway.texts == ["text"]


async def test_an_expired_message_fails(queue: SmsQueue, queue_database: str) -> None:
    """It expired while it waited: nothing is sent, and the lookup names the error."""
    await queue.put(NUMBER, "text", key="key", expires_in=3600)
    execute(queue_database, "UPDATE oca_sms_queued SET expires_at = now() - interval '1 second'")
    async with working(queue, gateway := Gateway()):
        assert await until_ended(queue, "key") == QueueEntry("failed", None, "ExpiredError", None)
    assert gateway.texts == []


async def test_a_message_that_expires_during_a_pause_fails_then(
    queue: SmsQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for the end of the pause, nor is it forgotten."""
    monkeypatch.setattr(Pause, "_FIRST", (3600.0, 3600.0))
    monkeypatch.setattr(Pause, "_LONGEST", (3600.0, 3600.0))
    async with working(queue, gateway := Gateway(refuse(401, 17)), concurrency=2):
        await queue.put(NUMBER, "first", key="first")
        async with asyncio.timeout(PATIENCE):
            while not gateway.texts:
                await asyncio.sleep(0.01)
        await queue.put(NUMBER, "second", key="second", expires_in=0.2)
        assert await until_ended(queue, "second") == QueueEntry("failed", None, "ExpiredError", None)
    assert gateway.texts == ["first"]


async def test_many_put_expired_messages_fail_one_by_one(queue: SmsQueue) -> None:
    """A campaign is not stopped by them."""
    past = datetime.now(UTC) - timedelta(days=1)
    messages = [evolve(sms, expires_at=past if int(sms.message) % 2 else None) for sms in make_keyed(6)]
    assert await queue.put_many(messages) == 6
    async with working(queue, gateway := Gateway()):
        await until_done(queue)
    assert sorted(gateway.texts) == ["0", "2", "4"]
    assert [(await queue.lookup(f"key-{n}")).status for n in range(6)] == ["sent", "failed"] * 3  # type: ignore[union-attr] # each is known


async def test_a_doubtful_message_is_never_sent_again_by_itself(queue: SmsQueue) -> None:
    """It is unknown, with the class of its error, and its key is known."""
    async with working(queue, gateway := Gateway(lose_answer)):
        await queue.put(NUMBER, "text", key="key")
        entry = await until_ended(queue, "key")
        assert not await queue.put(NUMBER, "text", key="key")
    assert entry == QueueEntry("unknown", None, "DeliveryUnknownError", None)
    assert gateway.texts == ["text"]


async def test_a_key_that_was_sent_beside_the_queue_is_not_sent_again(queue: SmsQueue) -> None:
    """The job ends with the receipt that the journal has."""
    await queue.put(NUMBER, "text", key="key")
    async with client_of(Gateway(), journal=queue.journal) as client:
        receipt = await client.send(NUMBER, "text", key="key")
    async with working(queue, gateway := Gateway()):
        assert await until_ended(queue, "key") == QueueEntry("sent", receipt)
        await until_done(queue)
    assert gateway.texts == []


async def test_a_job_that_was_made_by_hand_is_dropped(queue: SmsQueue, queue_database: str) -> None:
    """It has no message, and the worker goes on."""
    async with queue.app.open_async() as app:
        await app.configure_task("oca_sms_async.send", queue="oca-sms").defer_async()
    await queue.put(NUMBER, "text", key="key")
    async with working(queue, gateway := Gateway()):
        await until_ended(queue, "key")
        async with asyncio.timeout(PATIENCE):
            while execute(queue_database, "SELECT count(*) FROM procrastinate_jobs") != [(0,)]:
                await asyncio.sleep(0.01)
    assert gateway.texts == ["text"]


# --- lanes --------------------------------------------------------------------------------------------------------


async def test_an_otp_does_not_wait_for_a_campaign(queue: SmsQueue) -> None:
    """With many bulk messages in the queue, it is among the next ones on the wire."""
    await queue.put_many(make_keyed(3000))

    class Counted(Unlimited):
        """Lets a request through at each step of the test."""

        def __init__(self) -> None:
            self.free = asyncio.Semaphore(0)

        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            if priority is Priority.BULK:
                await self.free.acquire()

    async with working(queue, gateway := Gateway(), limiter=(limiter := Counted()), concurrency=4):
        limiter.free.release()
        async with asyncio.timeout(PATIENCE):
            while not gateway.texts:
                await asyncio.sleep(0.001)
        await queue.put(NUMBER, "otp", key="otp")
        limiter.free.release()  # one bulk message ends, and its place is the OTP's
        await until_ended(queue, "otp")
    assert gateway.texts.index("otp") <= 2


# --- the end of a worker ------------------------------------------------------------------------------------------


async def test_a_cancelled_worker_ends_its_requests_and_gives_the_rest_back(queue: SmsQueue) -> None:
    """The request on the wire gets its answer. Messages that wait for their turn are in the queue at once."""
    answered = asyncio.Event()

    async def slow(_: httpx.Request) -> httpx.Response:
        await answered.wait()
        return httpx.Response(200, json={"status": "sent", "msg_uid": "slow"})

    await queue.put(NUMBER, "on the wire", key="wire")
    gateway, gate = Gateway(slow), Gate()
    gate.opened.set()
    async with client_of(gateway, journal=queue.journal, limiter=gate) as client:
        work = asyncio.create_task(queue.work(client))
        async with asyncio.timeout(PATIENCE):
            while not gateway.texts:
                await asyncio.sleep(0.001)
        gate.opened.clear()
        gate.reached.clear()
        await queue.put(NUMBER, "waiting", key="waiting")
        await asyncio.wait_for(gate.reached.wait(), PATIENCE)
        work.cancel()
        async with asyncio.timeout(PATIENCE):
            while (await queue.statistics()).waiting_interactive != 1:
                await asyncio.sleep(0.001)
        assert not work.done()
        answered.set()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(work, PATIENCE)
    assert (await queue.lookup("wire")) is not None
    assert (await until_ended(queue, "wire")).status == "sent"
    assert await queue.lookup("waiting") == QueueEntry("waiting")
    assert gateway.texts == ["on the wire"]


async def test_a_worker_can_be_stopped_while_it_connects(
    queue: SmsQueue, queue_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves no connection open, and no task that opens more."""
    connecting = asyncio.Event()

    async def wait(_: AsyncConnectionPool[Any], timeout: float = 30.0) -> None:
        connecting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(AsyncConnectionPool, "wait", wait)
    async with client_of(Gateway(), journal=queue.journal) as client:
        work = asyncio.create_task(queue.work(client))
        await asyncio.wait_for(connecting.wait(), PATIENCE)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(work, PATIENCE)
    await queue.aclose()
    async with asyncio.timeout(PATIENCE):
        while count_clients(queue_database):
            await asyncio.sleep(0.01)


async def test_a_closed_client_ends_the_worker(queue: SmsQueue) -> None:
    """The error comes out of `work`, and the messages wait for another worker."""
    async with client_of(Gateway(), journal=queue.journal) as client:
        work = asyncio.create_task(queue.work(client))
        await queue.put(NUMBER, "first", key="first")
        await until_ended(queue, "first")
    await queue.put(NUMBER, "second", key="second")
    with pytest.raises(ClientClosedError):
        await asyncio.wait_for(work, PATIENCE)
    assert await queue.lookup("second") == QueueEntry("waiting")


async def test_the_messages_of_a_dead_worker_go_to_the_others(
    queue: SmsQueue, queue_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker without a heartbeat has died: its messages are sent, and the one on its wire is in doubt."""
    await queue.put_many(make_keyed(3))
    lookup = await queue.journal.lookup_key("key-1", "+6281234500001", "1")
    assert await queue.journal.intend(lookup, seconds=0)
    with psycopg.connect(queue_database) as connection:
        row = connection.execute(
            "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '6 seconds') RETURNING id"
        ).fetchone()
        connection.execute("UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s", row)
        last = "SELECT max(id) FROM procrastinate_jobs"
        connection.execute(f"UPDATE procrastinate_jobs SET worker_id = NULL WHERE id = ({last})")
    with events(caplog, "queue.recovered") as recovered:
        async with working(queue, gateway := Gateway()):
            await until_done(queue)
    assert sorted(gateway.texts) == ["0", "2"]
    assert [(await until_ended(queue, f"key-{n}")).status for n in range(3)] == ["sent", "unknown", "sent"]
    assert [event["messages"] for event in recovered] == [3]


async def test_a_job_whose_end_could_not_be_stored_is_ended_later(
    queue: SmsQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that left it behind lives on. So it notices by itself, and nothing is sent twice."""
    finish, failed = JobManager.finish_job, asyncio.Event()

    async def fail_once(self: JobManager, *arguments: Any, **options: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise ConnectorException
        await finish(self, *arguments, **options)

    monkeypatch.setattr(JobManager, "finish_job", fail_once)
    async with working(queue, gateway := Gateway()):
        await queue.put_many(make_keyed(5))
        await until_done(queue)
    assert failed.is_set()
    assert sorted(gateway.texts) == ["0", "1", "2", "3", "4"]


async def test_a_job_that_is_cancelled_by_hand_is_forgotten(queue: SmsQueue, queue_database: str) -> None:
    """A worker deletes it with number and text, though nobody puts its key again."""
    await queue.put(NUMBER, "text", key="key", expires_in=3600)
    async with queue.app.open_async() as app:
        (job,) = await app.job_manager.list_jobs_async()
        assert job.id is not None
        assert await app.job_manager.cancel_job_by_id_async(job.id)
    async with working(queue, gateway := Gateway()), asyncio.timeout(PATIENCE):
        while execute(queue_database, "SELECT count(*) FROM oca_sms_queued") != [(0,)]:
            await asyncio.sleep(0.01)
    assert await queue.lookup("key") is None
    assert gateway.texts == []


async def test_a_cancellation_that_is_lost_stops_a_worker_all_the_same(
    queue: SmsQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Python 3.11 `asyncio.wait_for` loses a cancellation that comes together with its result."""
    register, registered = JobManager.register_worker, asyncio.Event()

    async def lose_a_cancellation(self: JobManager) -> int:
        worker = await register(self)
        registered.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return worker

    monkeypatch.setattr(JobManager, "register_worker", lose_a_cancellation)
    monkeypatch.setattr(_queue_worker, "_HEARING", 0.01)
    async with client_of(gateway := Gateway(), journal=queue.journal) as client:
        work = asyncio.create_task(queue.work(client))
        await asyncio.wait_for(registered.wait(), PATIENCE)
        work.cancel()
        done, _ = await asyncio.wait({work}, timeout=PATIENCE)
    assert done == {work}
    assert work.cancelled()
    assert gateway.texts == []


async def test_a_message_that_is_read_while_the_worker_stops_goes_back(
    queue: SmsQueue, queue_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for its turn, since the stop has passed already."""
    await queue.put(NUMBER, "text", key="key")
    ((job,),) = execute(queue_database, "SELECT id FROM procrastinate_jobs")
    store, gateway = queue._store, Gateway()
    async with client_of(gateway, journal=queue.journal) as client:
        delivery = Delivery(client, queue._journal, store, queue="oca-sms")
        read = store.read

        async def read_late(number: int) -> Queued | None:
            queued = await read(number)
            delivery.stop()
            return queued

        monkeypatch.setattr(store, "read", read_late)
        with pytest.raises(LaterError):
            await delivery.deliver(job, worker=1)
    assert gateway.texts == []


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [(LaterError(7), 5, 8), (asyncio.CancelledError(), -1, 2), (ZeroDivisionError(), 30, 90)],
)
def test_each_job_that_raises_is_tried_again(queue: SmsQueue, error: BaseException, least: float, most: float) -> None:
    """One that was cancelled from outside goes to another worker at once, for its process is ending."""
    strategy = queue.app.tasks["oca_sms_async.send"].retry_strategy
    assert strategy is not None
    job = Job(queue="oca-sms", lock=None, queueing_lock=None, task_name="oca_sms_async.send")
    decision = strategy.get_retry_decision(exception=error, job=job)
    assert decision is not None
    assert decision.retry_at is not None
    assert least <= (decision.retry_at - datetime.now(UTC)).total_seconds() <= most


async def test_the_messages_of_a_live_worker_stay_its_own(queue: SmsQueue, queue_database: str) -> None:
    """Another worker's recovery does not take them, however long they are under way."""
    answered = asyncio.Event()

    async def slow(_: httpx.Request) -> httpx.Response:
        await answered.wait()
        return httpx.Response(200, json={"status": "sent", "msg_uid": "slow"})

    await queue.put(NUMBER, "text", key="key")
    async with SmsQueue(queue_database) as other, working(queue, gateway := Gateway(slow), concurrency=1):
        async with asyncio.timeout(PATIENCE):
            while not gateway.texts:
                await asyncio.sleep(0.001)
        async with working(other, beside := Gateway()):
            await other.put_many(make_keyed(50))
            async with asyncio.timeout(PATIENCE):
                while len(beside.texts) < 50:
                    await asyncio.sleep(0.01)
        assert await other._store.recover(silence=5) == 0
        assert (await queue.statistics()).working == 1
        answered.set()
        await until_done(queue)
    assert gateway.texts == ["text"]


# --- reconcile ----------------------------------------------------------------------------------------------------


@each_api_with_history
async def test_reconcile_finds_the_doubtful_messages_that_arrived(queue: SmsQueue, sandbox: Sandbox, api: str) -> None:
    """Those in the history are sent then, with its id. The others stay unknown."""
    for number in range(3):
        sandbox.when(f"+628123450000{number}").respond("accept-then-drop" if number < 2 else "reset", times=1)
    async with connect(sandbox, api, journal=queue.journal) as client:
        assert await queue.reconcile(client) == QueueReconcileReport(0, 0)
        work = asyncio.create_task(queue.work(client))
        await queue.put_many(make_keyed(4))
        await until_done(queue)
        assert await queue.reconcile(client) == QueueReconcileReport(found=2, doubtful=1)
        assert await queue.reconcile(client) == QueueReconcileReport(found=0, doubtful=1)
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    entries = [await until_ended(queue, f"key-{number}") for number in range(4)]
    assert [entry.status for entry in entries] == ["sent", "sent", "unknown", "sent"]
    ids = {message.text: message.msg_uid for message in sandbox.inbox}
    assert [entry.receipt and entry.receipt.msg_uid for entry in entries] == [ids["0"], ids["1"], None, ids["3"]]


@over(PREMIUM)
async def test_reconcile_says_that_an_api_has_no_history(queue: SmsQueue, sandbox: Sandbox, api: str) -> None:
    """It says so even if no message is in doubt."""
    async with connect(sandbox, api, journal=queue.journal) as client:
        with pytest.raises(UnsupportedError):
            await queue.reconcile(client)


async def test_one_reconcile_at_a_time(queue: SmsQueue, queue_database: str, sandbox: Sandbox) -> None:
    """A second one, or a bulk with the same journal, is told to wait; the run is given back afterwards."""
    async with SmsQueue(queue_database) as other, connect(sandbox, "regular-v1", journal=queue.journal) as client:
        await other.journal.begin_run()
        with pytest.raises(JournalError, match="another run uses it"):
            await queue.reconcile(client)
        await other.journal.end_run()
        assert await queue.reconcile(client) == QueueReconcileReport(0, 0)

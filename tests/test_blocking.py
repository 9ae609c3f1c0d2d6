"""The client for threads answers as the asynchronous one, from any thread, and each call has an end."""

import asyncio
import contextvars
import functools
import gc
import inspect
import logging
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, cast

import httpx
import pytest
from command import wait_until
from in_memory import PHONE, TEXT, Answer, Gateway, accept, ask, fail, hang, lose_answer, make_messages, refuse, respond
from raw_gateway import Connection, RawGateway, receipt

from oca_sms_async import (
    AsyncOcaSms,
    ClientClosedError,
    ConnectionFailedError,
    DeliveryUnknownError,
    ExpiredError,
    InvalidMessageError,
    NotFoundError,
    OcaSmsError,
    Priority,
    QuotaExhaustedError,
    RetryPolicy,
    SendEvent,
    SendReceipt,
    Sent,
    Skipped,
    Sms,
    SqliteJournal,
    Unlimited,
)
from oca_sms_async._loop_thread import LoopThread
from oca_sms_async.blocking import OcaSms
from oca_sms_async.sandbox import Sandbox

RECORD = {"msg_uid": "uid", "phone_number": PHONE, "message_body": TEXT, "status": "delivered"}
URL = "https://sms.ocatelkom.co.id/api/v1"
ACCOUNT = ("a@example.com", "secret")


def client_of(gateway: Gateway, **options: Any) -> OcaSms:
    """Return a blocking client of this gateway, without a limit and without back-off unless told otherwise."""
    defaults: dict[str, Any] = {"limiter": Unlimited(), "retry": RetryPolicy(initial_wait=0, max_wait=0)}
    lent = httpx.AsyncClient(transport=gateway, trust_env=False)
    return OcaSms(*ACCOUNT, http_client=lent, **(defaults | options))


def in_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """Make a call in a thread, and return a function that waits for its result or its exception."""
    pool = ThreadPoolExecutor(1)
    result = pool.submit(call)
    pool.shutdown(wait=False)
    return functools.partial(result.result, timeout=60)


class Signal:
    """An answer that tells other threads when a request has come, and never answers it."""

    def __init__(self, *and_then: Callable[[], object]) -> None:
        self.came = threading.Event()
        self._and_then = and_then

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """Tell, and hang."""
        self.came.set()
        for call in self._and_then:
            call()
        return await hang(request)


def interrupt(number: signal.Signals = signal.SIGINT) -> None:
    """Send a signal to the main thread, where the tests run."""
    signal.pthread_kill(threading.main_thread().ident or 0, number)


# The same client


def test_each_method_does_as_the_asynchronous_one() -> None:
    """Sends and questions return the same values."""
    with client_of(Gateway(lookup=respond(200, RECORD))) as client:
        sent = client.send(PHONE, TEXT, expires_in=30, priority=Priority.BULK)
        assert isinstance(sent, SendReceipt)
        assert client.status("uid").status == "delivered"
        assert client.wait_for_status("uid", {"delivered"}).msg_uid == "uid"
        report = client.send_many(make_messages(5))
        assert [outcome.sms.message for outcome in report.sent] == ["0", "1", "2", "3", "4"]
        assert (client.statistics().sent, client.statistics().in_flight) == (6, 0)
    with client_of(Gateway(lookup=respond(200, [RECORD]))) as client:
        assert [record.msg_uid for record in client.history()] == ["uid"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refuse(401, 55), QuotaExhaustedError),
        (lose_answer, DeliveryUnknownError),
        (fail(httpx.ConnectError), ConnectionFailedError),
    ],
)
def test_errors_are_those_of_the_asynchronous_client(answer: Answer, error: type[OcaSmsError]) -> None:
    """An error of the loop's thread is raised in the calling one, with its answer."""
    with client_of(Gateway(answer)) as client, pytest.raises(error) as caught:
        client.send(PHONE, TEXT)
    assert caught.value.may_have_been_sent == (error is DeliveryUnknownError)
    assert caught.value.attempts == 1


def test_wrong_arguments_are_refused() -> None:
    """Each wrong argument is the error that it is elsewhere."""
    with client_of(Gateway(lookup=refuse(404))) as client:
        with pytest.raises(InvalidMessageError):
            client.send("0812", TEXT)
        with pytest.raises(ExpiredError):
            client.send(PHONE, TEXT, expires_in=0)
        with pytest.raises(ValueError, match="key needs a journal"):
            client.send(PHONE, TEXT, key="one")
        with pytest.raises(NotFoundError):
            client.status("uid")
        with pytest.raises(TimeoutError):
            client.wait_for_status("uid", {"sent"}, timeout=0.01, interval=0.001)
        with pytest.raises(ValueError, match="timeout"):
            client.history(timeout=0)
        with pytest.raises(TypeError, match="not iterable"):
            client.send_many(7)  # type: ignore[arg-type] # on purpose
    with pytest.raises(ValueError, match="password"):
        OcaSms("user", "")
    with pytest.raises(ValueError, match="api must stand alone"):
        OcaSms("user", "secret", api=client._api)  # type: ignore[call-overload] # on purpose
    with pytest.raises(ValueError, match="OCA_SMS_USERNAME"):
        OcaSms.from_env({})


@pytest.mark.parametrize("name", ["send", "status", "history", "wait_for_status", "send_many", "statistics"])
def test_signatures_are_those_of_the_asynchronous_client(name: str) -> None:
    """Each method has the same parameters with the same defaults."""
    ours, its = (inspect.signature(getattr(kind, name)).parameters for kind in (OcaSms, AsyncOcaSms))
    assert [(it.name, it.kind, it.default) for it in ours.values()] == [
        (it.name, it.kind, it.default) for it in its.values()
    ]


def test_the_environment_is_that_of_the_asynchronous_client() -> None:
    """`from_env` reads the same variables and takes the same options."""
    environ = {"OCA_SMS_API": "regular-v2", "OCA_SMS_TOKEN": "token", "OCA_SMS_BASE_URL": "https://sms.example.com"}
    assert repr(OcaSms.from_env(environ, timeout=5)) == "<OcaSms <AsyncOcaSms https://sms.example.com open>>"


# One loop for all threads


def test_threads_share_one_limit_and_one_loop() -> None:
    """The sends of eight threads ask one limiter, in one event loop."""

    class Limiter(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            seen.append((threading.current_thread().name, asyncio.get_running_loop()))

    seen: list[tuple[str, asyncio.AbstractEventLoop]] = []
    together = threading.Barrier(8)

    def send() -> SendReceipt:
        together.wait(60)
        return client.send(PHONE, TEXT)

    with client_of(Gateway(), limiter=Limiter()) as client:
        receipts = [call() for call in [in_thread(send) for _ in range(8)]]
    assert len({receipt.msg_uid for receipt in receipts}) == len(seen) == 8
    assert {name for name, _ in seen} == {"oca-sms"}
    assert len({loop for _, loop in seen}) == 1


def test_the_context_of_the_calling_thread_goes_along() -> None:
    """A context variable, such as the span of a trace, is seen by the request."""
    span = contextvars.ContextVar("span", default="none")
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response | Awaitable[httpx.Response]:
        seen.append(span.get())
        return accept(request)

    span.set("checkout")
    with client_of(Gateway(answer)) as client:
        client.send(PHONE, TEXT)
    assert seen == ["checkout"]


def test_a_call_from_the_loops_own_thread_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """An observer that sends would wait for itself; it gets an error at once."""
    caplog.set_level(logging.WARNING, "oca_sms_async")
    errors: list[str] = []

    def send_again(_: SendEvent) -> None:
        for call in (lambda: client.send(PHONE, TEXT), client._thread.join):  # type: ignore[union-attr] # it runs
            with pytest.raises(RuntimeError) as caught:
                call()
            errors.append(str(caught.value))

    with client_of(Gateway(), observer=send_again) as client:
        client.send(PHONE, TEXT)
    assert [error.startswith(("a blocking call in", "the event loop's own thread")) for error in errors] == [True] * 2
    assert caplog.records == []


# Interruptions


def test_a_ctrl_c_cancels_the_send_and_answers() -> None:
    """No request is left behind, the interruption goes on, and its note says that the message may have been sent."""
    with client_of(Gateway(Signal(interrupt))) as client:
        with pytest.raises(KeyboardInterrupt) as caught:
            client.send(PHONE, TEXT)
        assert caught.value.__notes__ == ["oca-sms-async: the message may have been sent"]
        now = client.statistics()
        assert (now.in_flight, now.unknown) == (0, 1)


def test_a_ctrl_c_before_the_request_answers_too() -> None:
    """Who waits for the limiter has sent nothing, and the note says so."""

    class Limiter(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            interrupt()
            await asyncio.Event().wait()

    with client_of(Gateway(), limiter=Limiter()) as client:
        with pytest.raises(KeyboardInterrupt) as caught:
            client.send(PHONE, TEXT)
        assert caught.value.__notes__ == ["oca-sms-async: this send made no request"]
        assert client.statistics().unknown == 0


def test_a_signals_exception_leaves_the_key_in_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A soft time limit interrupts the send; the journal knows of the doubt when the exception comes out."""

    class SoftLimitError(Exception):
        pass

    def limit(_: int, __: FrameType | None) -> None:
        raise SoftLimitError

    journal = SqliteJournal(tmp_path / "journal")
    before = signal.signal(signal.SIGUSR1, limit)
    try:
        answer = Signal(lambda: interrupt(signal.SIGUSR1))
        with client_of(Gateway(answer, accept), journal=journal) as client:
            with pytest.raises(SoftLimitError):
                client.send(PHONE, TEXT, key="one")
            with pytest.raises(DeliveryUnknownError):
                client.send(PHONE, TEXT, key="one")
            assert client.send(PHONE, TEXT, key="two").attempts == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
        asyncio.run(journal.aclose())


def test_a_ctrl_c_ends_a_bulk() -> None:
    """The requests of the bulk are cancelled, and each message that was on the wire counts as unknown."""
    with client_of(Gateway(Signal(interrupt), hang)) as client:
        with pytest.raises(KeyboardInterrupt):
            client.send_many(make_messages(3), concurrency=2)
        now = client.statistics()
        assert now.in_flight == now.waiting == 0
        assert now.unknown >= 1


@pytest.mark.parametrize("reached", [False, True])
def test_a_ctrl_c_on_the_way_into_the_loop_hangs_nothing(reached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interruption may come before or right after the loop has heard of the call."""
    with client_of(Gateway(hang)) as client:
        client.wait_for_status  # noqa: B018 - nothing is sent before
        with pytest.raises(InvalidMessageError):
            client.send("1", TEXT)  # the thread runs from here on
        portal = client._thread._portal  # type: ignore[union-attr] # it runs
        start = portal.start_task_soon

        def start_once(*call: Any) -> Any:
            monkeypatch.setattr(portal, "start_task_soon", start)
            if reached:
                start(*call)
            raise KeyboardInterrupt

        monkeypatch.setattr(portal, "start_task_soon", start_once)
        with pytest.raises(KeyboardInterrupt):
            client.send(PHONE, TEXT)
        assert client.statistics().in_flight == 0


# Closing


def test_closing_ends_the_calls_of_other_threads(sandbox_in_thread: Sandbox) -> None:
    """A send on the wire is in doubt, and a wait for a status ends at once, however long its interval."""
    asked = threading.Event()

    class Limiter(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            if priority is Priority.BULK:
                asyncio.get_running_loop().call_later(0.2, asked.set)  # its answer is there by then, or it waits for it

    sandbox_in_thread.latency = 3600
    account = (sandbox_in_thread.username, sandbox_in_thread.password)
    client = OcaSms(*account, base_url=sandbox_in_thread.base_url, limiter=Limiter(), timeout=3600)
    sending = in_thread(lambda: client.send(PHONE, TEXT))
    wait_until(lambda: len(sandbox_in_thread.inbox) == 1)
    sandbox_in_thread.latency = 0
    waiting = in_thread(lambda: client.wait_for_status("uid", {"sent"}, timeout=3600, interval=3600))
    assert asked.wait(60)
    client.close()
    with pytest.raises(DeliveryUnknownError):
        sending()
    with pytest.raises(ClientClosedError):
        waiting()


@pytest.mark.parametrize("used", [False, True])
def test_a_closed_client_refuses(used: bool) -> None:
    """Closing twice is fine, and a closed client sends nothing, whether it was used or not."""
    client = client_of(Gateway())
    if used:
        client.send(PHONE, TEXT)
    client.close()
    client.close()
    for call in (functools.partial(client.send, PHONE, TEXT), client.history, client.__enter__):
        with pytest.raises(ClientClosedError, match="this client is closed"):
            call()
    assert repr(client) == "<OcaSms closed>"
    assert "oca-sms" not in {thread.name for thread in threading.enumerate()}


def test_a_call_that_meets_the_closing_is_refused() -> None:
    """A call that comes while the thread ends is refused, and does not wait for a loop that is gone."""
    client = client_of(Gateway())
    client.send(PHONE, TEXT)
    thread = client._thread
    assert thread is not None
    client.close()
    with pytest.raises(ClientClosedError):
        thread.call(lambda it: it.send(PHONE, TEXT), sends=True)


def test_a_client_that_is_forgotten_warns() -> None:
    """A client that is collected open is a `ResourceWarning`, and one that never started a thread is none."""
    threads: list[LoopThread] = []

    def forget(*, used: bool) -> None:
        client = client_of(Gateway())
        if used:
            client.send(PHONE, TEXT)
            threads.append(cast(LoopThread, client._thread))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forget(used=False)
        gc.collect()
        assert caught == []
        forget(used=True)
        gc.collect()
        assert [str(it.message) for it in caught] == [f"<OcaSms <AsyncOcaSms {URL} open>> was not closed"]
    threads[0].leave()
    threads[0].join()


def test_a_process_without_threads_to_give_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that cannot be started is an error that proves that nothing was sent."""

    def refuse_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client = client_of(Gateway())
    monkeypatch.setattr(threading.Thread, "start", refuse_thread)
    with pytest.raises(ConnectionFailedError, match="no thread"):
        client.send(PHONE, TEXT)


def test_a_loop_that_ends_by_itself_leaves_no_call_without_an_answer() -> None:
    """A limiter that exits ends the loop of a bulk. Every call has an end, and the next one has a new loop."""

    class Limiter(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            if priority is Priority.BULK:
                raise SystemExit

    answer = Signal()
    with client_of(Gateway(answer, accept), limiter=Limiter()) as client:
        sending = in_thread(lambda: client.send(PHONE, TEXT))
        assert answer.came.wait(60)
        with pytest.raises((DeliveryUnknownError, SystemExit)):
            client.send_many(make_messages(1))
        with pytest.raises(DeliveryUnknownError, match="cancelled in the client's event loop"):
            sending()
        client._thread.join()  # type: ignore[union-attr] # it ran
        assert client.send(PHONE, TEXT).attempts == 1


def test_an_exit_in_a_send_comes_out_and_leaves_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """A limiter that exits ends the one send, as in the asynchronous client, and the next send has the same loop."""

    class Limiter(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            if priority is Priority.BULK:
                raise SystemExit(7)

    with client_of(Gateway(), limiter=Limiter()) as client:
        with pytest.raises(SystemExit, match="7"):
            client.send(PHONE, TEXT, priority=Priority.BULK)
        thread = client._thread
        assert client.send(PHONE, TEXT).attempts == 1
        assert client._thread is thread


def test_a_call_that_the_dying_loop_never_began_has_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that ends between the call and its first step leaves doubt, and no thread that waits for ever."""

    def end_loop() -> None:
        raise SystemExit

    with client_of(Gateway()) as client:
        client.send(PHONE, TEXT)
        thread = client._thread
        assert thread is not None
        monkeypatch.setattr(thread._portal, "start_task_soon", lambda *_: thread._loop.call_soon_threadsafe(end_loop))
        with pytest.raises(DeliveryUnknownError):
            client.send(PHONE, TEXT)


# The messages of a bulk


def test_the_calling_thread_pulls_the_messages() -> None:
    """The iterator runs in the calling thread, outside of any event loop; Django's ORM insists on that."""

    def messages() -> Iterator[Sms]:
        for sms in make_messages(20):
            assert threading.current_thread() is threading.main_thread()
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            yield sms

    with client_of(Gateway()) as client:
        assert len(client.send_many(messages(), concurrency=4).sent) == 20


def test_an_exception_of_the_messages_comes_out() -> None:
    """It ends the bulk after the outcomes of all messages before it."""

    def messages() -> Iterator[Sms]:
        yield from make_messages(2)
        raise LookupError("mine")

    gateway = Gateway()
    with client_of(gateway) as client, pytest.raises(LookupError, match="mine"):
        client.send_many(messages())
    assert gateway.accepted == ["0", "1"]


def test_a_message_that_comes_after_the_stop_has_an_outcome() -> None:
    """The account is refused while the iterator waits for its next message; that one is skipped."""
    pulling, refused = threading.Event(), threading.Event()

    def messages() -> Iterator[Sms]:
        first, second = make_messages(2)
        yield first
        pulling.set()
        assert refused.wait(60)
        yield second

    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.to_thread(pulling.wait, 60)
        return await ask(refuse(401, 55), request)

    def observe(_: SendEvent) -> None:
        asyncio.get_running_loop().call_later(0.1, refused.set)

    with client_of(Gateway(answer), observer=observe) as client:
        report = client.send_many(messages(), concurrency=2)
    assert isinstance(report.stopped_by, QuotaExhaustedError)
    assert [type(outcome).__name__ for outcome in report.outcomes] == ["Failed", "Skipped"]
    last = report.outcomes[-1]
    assert isinstance(last, Skipped)
    assert (last.sms.message, last.reason) == ("1", report.stopped_by)


def test_a_journal_skips_what_was_sent(tmp_path: Path) -> None:
    """Two bulks with one journal send each message once."""
    journal, gateway = SqliteJournal(tmp_path / "journal"), Gateway()
    with client_of(gateway) as client:
        for kind in (Sent, Skipped):
            report = client.send_many(make_messages(3), journal=journal)
            assert [type(outcome) for outcome in report.outcomes] == [kind] * 3
    asyncio.run(journal.aclose())
    assert gateway.accepted == ["0", "1", "2"]


# Processes


def test_a_script_may_end_without_closing(sandbox_in_thread: Sandbox) -> None:
    """The process ends at once, in silence, and so do its connections."""
    script = f"""
from oca_sms_async.blocking import OcaSms
client = OcaSms({sandbox_in_thread.username!r}, {sandbox_in_thread.password!r}, base_url={sandbox_in_thread.base_url!r})
print(client.send({PHONE!r}, {TEXT!r}).status)
"""
    run = [sys.executable, "-X", "dev", "-W", "error", "-c", script]
    ended = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("sent\n", "", 0)


FORKING = """
import asyncio, gc, os, sys, threading
import httpx
from oca_sms_async import Unlimited
from oca_sms_async.aiohttp import aiohttp_client
from oca_sms_async._loop_thread import starting
from oca_sms_async.blocking import OcaSms

url, kind, use, end = sys.argv[1:]
lent = {"own": lambda: None, "aiohttp": aiohttp_client, "httpx": httpx.AsyncClient}[kind]()
client = OcaSms("user@example.com", "secret", base_url=url, limiter=Unlimited(), timeout=30, http_client=lent)

def send(who):
    try:
        client.send("+6281381475159", "Acme: 482913 is your code")
        print(who, "sent", client.statistics().sent, client.statistics().in_flight, flush=True)
    except Exception as error:
        print(who, type(error).__name__, flush=True)

if use != "unused":
    send("parent")
if use == "busy":
    sending = threading.Thread(target=send, args=["thread"])
    sending.start()
    sys.stdin.readline()  # its request has arrived
if use == "starting":  # another thread of the parent starts a client at the moment of the fork
    held, over = threading.Event(), threading.Event()

    def hold():
        with starting():
            held.set()
            over.wait()

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
if not (child := os.fork()):
    send("child")
    if end == "close":
        client.close()
    gc.collect()
    os._exit(0) if end == "_exit" else sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
print("child ended", flush=True)
if use == "busy":
    sending.join()
if use == "starting":
    over.set()
send("parent")
client.close()
if kind != "own":
    os._exit(0)  # its connections belonged to the loop that has ended
"""


MANY_THREADS = "ignore:This process:DeprecationWarning"  # Python 3.12 and later warn of a fork beside threads
BUSY = ["parent sent 1 0", "child sent 1 0", "child ended", "thread sent 2 0", "parent sent 3 0"]


@pytest.mark.skipif(sys.platform == "win32", reason="this system cannot fork")
@pytest.mark.parametrize(
    ("kind", "use", "end", "told"),
    [
        ("own", "unused", "exit", ["child sent 1 0", "child ended", "parent sent 1 0"]),
        ("own", "starting", "exit", ["parent sent 1 0", "child sent 1 0", "child ended", "parent sent 2 0"]),
        ("own", "used", "exit", ["parent sent 1 0", "child sent 1 0", "child ended", "parent sent 2 0"]),
        (
            "own",
            "busy",
            "close",
            BUSY,
        ),
        (
            "own",
            "busy",
            "_exit",
            BUSY,
        ),
        ("aiohttp", "used", "exit", ["parent sent 1 0", "child sent 1 0", "child ended", "parent sent 2 0"]),
        ("httpx", "used", "exit", ["parent sent 1 0", "child ClientClosedError", "child ended", "parent sent 2 0"]),
    ],
)
async def test_a_forked_child_makes_its_own(kind: str, use: str, end: str, told: list[str]) -> None:
    """The child has a loop, connections and counts of its own; the parent's request on the wire hears its answer.

    A lent client of httpx that the parent has used is refused: its connections are the parent's.
    """
    arrived, child_ended = asyncio.Event(), asyncio.Event()

    async def answer(connection: Connection) -> None:
        if use == "busy" and len(gateway.requests) == 2:
            arrived.set()
            await child_ended.wait()
        await receipt(connection)

    async with RawGateway().serve() as gateway:
        gateway.behaviour = answer
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-W", MANY_THREADS, "-c", FORKING, gateway.base_url, kind, use, end),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        lines: list[str] = []
        async with asyncio.timeout(60):
            if use == "busy":
                await arrived.wait()
                process.stdin.write(b"\n")
            async for line in process.stdout:
                lines.append(line.decode().strip())
                if lines[-1] == "child ended":
                    child_ended.set()
            errors = (await process.stderr.read()).decode()
            await process.wait()
    assert errors == ""
    assert lines == told

"""The journal: what is on the disk and when, what a later run makes of it, and what no crash may do."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import sys
import tempfile
import threading
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

import httpx
import pytest
from attrs import define, evolve, field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oca_sms_async import (
    AsyncOcaSms,
    BulkReport,
    ConnectionFailedError,
    DeliveryUnknownError,
    ExpiredError,
    Failed,
    InvalidMessageError,
    InvalidRequestError,
    JournalError,
    LimiterUnavailableError,
    Outcome,
    Priority,
    QuotaExhaustedError,
    RetryPolicy,
    SendReceipt,
    Sent,
    Skipped,
    Sms,
    SqliteJournal,
    Unlimited,
)
from oca_sms_async._bulk import BulkRun
from oca_sms_async._call import CallState
from oca_sms_async._journal import JournalEntry, JournalRun, Status
from oca_sms_async._journal import _store as store_module
from oca_sms_async._journal._store import Store
from oca_sms_async._messages import check_number
from oca_sms_async.sandbox import Sandbox

WITHOUT_WAITS = RetryPolicy(initial_wait=0, max_wait=0)
PATIENCE: Final = 20  # seconds, after which something hangs
UNSENT, DOUBTFUL, SENT = STATUSES = Status.UNSENT, Status.DOUBTFUL, Status.SENT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is to be."""
    return tmp_path / "run.journal"


def number(phone: str) -> str:
    """Return a number as the client reads it."""
    return check_number(phone, "ID")


def smses(many: int, start: int = 0) -> list[Sms]:
    """Return so many messages, their texts their numbers."""
    return [Sms(f"+62812345{it:05}", str(it)) for it in range(start, start + many)]


async def until(condition: Callable[[], object]) -> None:
    """Wait until something has happened in another task or thread."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


# --- a gateway in memory, and a client on it ------------------------------------------------------------------------

Answer = Callable[["Gateway", str], Awaitable[httpx.Response]]


def refusal(status: int, code: int) -> httpx.Response:
    """Return a documented refusal."""
    return httpx.Response(status, content=json.dumps({"errors": [{"message": "refused", "code": code}]}))


async def taken(gateway: "Gateway", text: str) -> httpx.Response:
    """Take the message."""
    return httpx.Response(200, content=json.dumps({"status": "sent", "msg_uid": gateway.take(text)}))


async def taken_and_lost(gateway: "Gateway", text: str) -> httpx.Response:
    """Take the message, and lose the answer."""
    gateway.take(text)
    raise httpx.ReadError("")


async def lost(_: "Gateway", __: str) -> httpx.Response:
    """Lose the request, after it left."""
    raise httpx.ReadError("")


async def unconnected(_: "Gateway", __: str) -> httpx.Response:
    """Fail to connect, which proves that nothing was sent."""
    raise httpx.ConnectError("")


async def refused(_: "Gateway", __: str) -> httpx.Response:
    """Refuse the message, which proves that it was not taken."""
    return refusal(406, 39)


async def account_refused(_: "Gateway", __: str) -> httpx.Response:
    """Refuse the account."""
    return refusal(401, 55)


async def internal(_: "Gateway", __: str) -> httpx.Response:
    """Have an internal error, after which nobody knows."""
    return refusal(500, 13)


class Gateway(httpx.AsyncHTTPTransport):
    """A gateway without sockets, by its class httpx's own honest transport: `answers` are by text, `then` is for the
    rest; `requests` and `accepted` hold texts.
    """

    def __init__(self, answers: dict[str, Answer] | None = None, then: Answer = taken) -> None:
        self.answers = answers or {}
        self.then = then
        self.requests: list[str] = []
        self.accepted: list[str] = []

    def take(self, text: str) -> str:
        """Note that a message was taken, and return its id."""
        self.accepted.append(text)
        return f"uid-{text}-{len(self.accepted)}"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Give the answer that the message gets."""
        text = json.loads(request.content)["message"]
        self.requests.append(text)
        return await self.answers.get(text, self.then)(self, text)

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""


def in_memory(gateway: Gateway, **options: Any) -> AsyncOcaSms:
    """Return a client of that gateway, without a limit and without waits unless told otherwise."""
    defaults: dict[str, Any] = {"limiter": Unlimited(), "retry": WITHOUT_WAITS}
    lent = httpx.AsyncClient(transport=gateway)
    return AsyncOcaSms("a@example.com", "secret", http_client=lent, **(defaults | options))


async def sent_with(path: Path, gateway: Gateway, messages: Iterable[Sms], **options: Any) -> BulkReport:
    """Return the report of one run with the journal of this path."""
    client = in_memory(gateway, **{name: options.pop(name) for name in ("limiter", "retry") if name in options})
    async with SqliteJournal(path) as journal:
        return await client.send_many(messages, journal=journal, **options)


async def resend(path: Path, gateway: Gateway, messages: Iterable[Sms], **options: Any) -> tuple[BulkReport, int]:
    """Return the report of a run that sends doubtful messages again, and how many of those it sent."""
    async with SqliteJournal(path) as journal:
        bulk = in_memory(gateway, **options).bulk(messages, journal=journal, resend_unknown=True)
        assert isinstance(bulk, BulkRun)
        async with bulk:
            return await bulk.report(), bulk.resent


def kinds(report: BulkReport) -> list[type[Outcome]]:
    """Return what became of each message."""
    return [type(outcome) for outcome in report.outcomes]


def the_error(report: BulkReport) -> Any:
    """Return the error of a report's only failure."""
    (failed,) = report.failed
    return failed.error


class Source(Iterator[Sms]):
    """An iterator that notes what is pulled from it."""

    def __init__(self, messages: Iterable[Sms]) -> None:
        self.pulled: list[Sms] = []
        self._messages = iter(messages)

    def __next__(self) -> Sms:
        self.pulled.append(next(self._messages))
        return self.pulled[-1]


class Turns(Unlimited):
    """A limiter that lets so many through, and the others once `more` is set."""

    def __init__(self, through: int) -> None:
        self.through = through
        self.asked = 0
        self.more = asyncio.Event()

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Return when it is this one's turn."""
        self.asked += 1
        if self.asked > self.through:
            await self.more.wait()


# --- what is on the disk --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def copied(path: Path) -> Iterator[Path]:
    """Copy a journal that is in use as a crash would leave it; this drops the lock that keeps other processes out."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "copy"
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        yield copy


def on_disk(path: Path) -> list[Status]:
    """Return the standing of every message in the journal, as plain SQLite reads it after a crash at this moment."""
    with copied(path) as copy, contextlib.closing(sqlite3.connect(copy)) as database:
        return [STATUSES[standing] for (standing,) in database.execute("SELECT standing FROM message ORDER BY 1")]


def statuses(path: Path, messages: Iterable[Sms]) -> list[Status]:
    """Return what the next run would know of each of these messages."""
    with copied(path) as copy, contextlib.closing(Store(copy)) as store:
        store.perform([Store.begin_run], durable=False)
        return [store.lookup_next(sms.key, number(sms.phone), sms.message).entry.status for sms in messages]


def content_of(path: Path) -> bytes:
    """Return all bytes of the journal and of what lies beside it."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(path.name + "*")))


class Disk:
    """What the journals of a test write to: it counts, and holds up the next write when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commits = 0
        self.operations = 0  # of the latest write
        self.held = False
        self._free = threading.Event()
        self._free.set()
        perform = Store.perform

        def slow(store: Store, operations: Sequence[store_module.Operation], *, durable: bool) -> list[Any]:
            self.operations = len(operations)
            self.held = not self._free.is_set()
            went_on = self._free.wait(PATIENCE)
            self._free.set()  # a test that fails here does so once
            assert went_on, "nobody let the disk go on: was that the event loop's own thread?"
            self.held = False
            self.commits += durable
            return perform(store, operations, durable=durable)

        monkeypatch.setattr(Store, "perform", slow)

    def hold(self) -> None:
        """Write nothing more for now."""
        self._free.clear()

    def release(self) -> None:
        """Go on."""
        self._free.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk of a test."""
    slow = Disk(monkeypatch)
    yield slow
    slow.release()


# --- the object and its file ----------------------------------------------------------------------------------------


def mode(path: Path) -> int | None:
    """Return a file's permissions; None where there is no file."""
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


async def test_the_file_is_made_when_it_is_needed_and_only_its_owner_may_read_it(path: Path) -> None:
    """Whatever the umask: neither the file nor the log beside it can be read by others, and neither is made early."""
    umask = os.umask(0)
    try:
        async with SqliteJournal(path) as journal:
            assert mode(path) is None
            await in_memory(Gateway()).send_many(smses(3), journal=journal)
            assert mode(path) == mode(path.with_name(path.name + "-wal")) == 0o600
    finally:
        os.umask(umask)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_others_may_read_is_tightened(path: Path) -> None:
    """A journal that was copied about, or a file that was made beforehand, is its owner's alone afterwards."""
    path.touch()
    for _ in range(2):
        path.chmod(0o666)
        asyncio.run(sent_with(path, Gateway(), smses(3)))
        assert mode(path) == 0o600


@pytest.mark.parametrize("empty", ["", cast(Any, type("Empty", (), {"__fspath__": lambda _: ""})())])
def test_a_path_must_not_be_empty(empty: str) -> None:
    """An empty path is refused where it is given."""
    with pytest.raises(ValueError, match=r"^path\b"):
        SqliteJournal(empty)


async def test_a_path_may_be_a_str_and_is_taken_where_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path stays that of the directory in which the journal was made."""
    monkeypatch.chdir(tmp_path)
    journal = SqliteJournal("run.journal")
    monkeypatch.chdir("/")
    async with journal:
        await in_memory(Gateway()).send_many(smses(1), journal=journal)
    assert kinds(await sent_with(tmp_path / "run.journal", Gateway(), smses(1))) == [Skipped]


async def test_a_closed_journal_stays_closed(path: Path) -> None:
    """Closing twice is fine, and what would write afterwards is a `RuntimeError` before anything is sent."""
    gateway = Gateway()
    journal = SqliteJournal(path)
    await in_memory(gateway).send_many(smses(1), journal=journal)
    await journal.aclose()
    await journal.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await in_memory(gateway).send_many(smses(2), journal=journal)
    assert gateway.requests == ["0"]


async def test_a_journal_that_was_never_used_closes_without_a_trace(path: Path) -> None:
    """Who opens a journal and sends nothing has no file."""
    async with SqliteJournal(path):
        pass
    assert mode(path) is None


async def test_a_repr_says_where_and_whether_it_is_open(path: Path) -> None:
    """A repr names the file and shows nothing of what is kept in it."""
    journal = SqliteJournal(path)
    await in_memory(Gateway()).send_many([Sms("081234500000", "marker", key="marker")], journal=journal)
    assert repr(journal) == f"<SqliteJournal {path} open>"
    await journal.aclose()
    assert repr(journal) == f"<SqliteJournal {path} closed>"


def test_one_journal_serves_one_event_loop_after_another(path: Path) -> None:
    """A journal may be made without a running loop, and goes on in the next one."""
    gateway, journal = Gateway(), SqliteJournal(path)

    async def once() -> list[type[Outcome]]:
        return kinds(await in_memory(gateway).send_many(smses(2), journal=journal))

    assert [asyncio.run(once()), asyncio.run(once())] == [[Sent, Sent], [Skipped, Skipped]]
    asyncio.run(journal.aclose())


async def test_the_file_holds_no_message_and_no_credentials(path: Path) -> None:
    """Neither a number in any spelling, nor a text, a key or a credential is in the bytes, open or closed."""
    markers = ["81345678901", "0813-4567-8901", "8901", "marker-text", "marker-key", "marker-user", "marker-password"]
    gateway = Gateway()
    client = AsyncOcaSms(
        "marker-user@example.com",
        "marker-password",
        http_client=httpx.AsyncClient(transport=gateway),
        limiter=Unlimited(),
    )
    messages = [
        Sms("+6281345678901", "marker-text 1", key="marker-key"),
        Sms("0813-4567-8901", "marker-text 2"),
        Sms("081345678901", "marker-text 3"),
    ]
    gateway.take = lambda text: f"its-id-{len(gateway.requests)}"  # type: ignore[method-assign] # ours echo the text
    gateway.answers = {"marker-text 3": lost}
    async with SqliteJournal(path) as journal:
        await client.send_many(messages, journal=journal)
        opened = content_of(path)
    closed = content_of(path)
    for content in (opened, closed):
        assert b"its-id-2" in content
        assert [
            marker for marker in markers if marker.encode() in content or marker.encode().hex().encode() in content
        ] == []


# --- when it is on the disk -----------------------------------------------------------------------------------------


async def test_an_intent_follows_the_token_and_precedes_the_request_and_an_outcome_precedes_its_telling(
    path: Path,
) -> None:
    """A crash at the token finds nothing in doubt, one at the request finds it in doubt, and one at the outcome finds
    that.
    """
    seen = list[tuple[str, list[Status]]]()

    class Limiter(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            seen.append(("token", on_disk(path)))

    async def answer(gateway: Gateway, text: str) -> httpx.Response:
        seen.append(("request", on_disk(path)))
        return await taken(gateway, text)

    messages = [Sms("081234500000", str(it)) for it in range(3)]
    client = in_memory(Gateway(then=answer), limiter=Limiter())
    async with SqliteJournal(path) as journal, client.bulk(messages, concurrency=1, journal=journal) as outcomes:
        await anext(outcomes)
        seen.append(("outcome", on_disk(path)))
    assert [kind for kind, _ in seen[:3]] == ["token", "request", "outcome"]
    assert DOUBTFUL not in seen[0][1]
    assert SENT not in seen[1][1]
    assert seen[1][1].count(DOUBTFUL) == 1
    assert seen[2][1].count(SENT) == 1


async def test_each_outcome_is_on_the_disk_when_it_is_handed_out(path: Path) -> None:
    """Whoever has been told of an outcome finds it in the journal after a crash, be it sent, refused or in doubt."""
    gateway = Gateway({"1": refused, "2": lost, "3": unconnected})
    client = in_memory(gateway)
    expected = {"0": SENT, "1": UNSENT, "2": DOUBTFUL, "3": UNSENT, "4": SENT}
    async with SqliteJournal(path) as journal, client.bulk(smses(5), concurrency=2, journal=journal) as outcomes:
        async for outcome in outcomes:
            known = dict(zip("01234", statuses(path, smses(5)), strict=True))
            assert known[outcome.sms.message] is expected[outcome.sms.message]


async def test_who_waits_for_a_token_is_not_in_doubt(path: Path) -> None:
    """Of four at work, the one that has its token is in doubt; the three that wait for theirs are not."""
    limiter, gate = Turns(1), asyncio.Event()

    async def slow(gateway: Gateway, text: str) -> httpx.Response:
        await gate.wait()
        return await taken(gateway, text)

    gateway = Gateway(then=slow)
    client = in_memory(gateway, limiter=limiter)
    async with SqliteJournal(path) as journal, client.bulk(smses(4), concurrency=4, journal=journal) as outcomes:
        await until(lambda: gateway.requests and limiter.asked == 4)
        assert Counter(on_disk(path))[DOUBTFUL] == 1
        gate.set()
        limiter.more.set()
        assert [type(outcome) async for outcome in outcomes] == [Sent] * 4


async def test_what_waits_meanwhile_shares_the_next_commit(path: Path, disk: Disk) -> None:
    """A hundred intents that come while a write is on take one commit; the outcomes that do take one as well."""
    limiter = Turns(0)
    seen = list[int]()

    async def counting(gateway: Gateway, text: str) -> httpx.Response:
        seen.append(disk.commits)
        disk.hold()
        return await taken(gateway, text)

    client = in_memory(Gateway(then=counting), limiter=limiter)
    async with SqliteJournal(path) as journal:
        run = asyncio.create_task(client.send_many(smses(100), concurrency=100, journal=journal))
        await until(lambda: limiter.asked == 100)
        disk.hold()
        written = journal._perform(lambda _: None, durable=False)
        await until(lambda: disk.held)
        limiter.more.set()
        await until(lambda: len(journal._waiting) == 100)
        assert (seen, disk.commits) == ([], 1)  # of the run's beginning
        disk.release()
        await written
        await until(lambda: disk.held and disk.operations + len(journal._waiting) == 100)
        assert seen == [2] * 100
        disk.release()
        assert kinds(await run) == [Sent] * 100
    assert disk.commits <= 4


async def test_a_slow_disk_does_not_block_the_event_loop(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop goes on while a write takes its time; one that ran in the loop's own thread would wait for ever."""
    turned = threading.Event()
    perform = Store.perform

    def slow(store: Store, operations: Sequence[store_module.Operation], *, durable: bool) -> list[Any]:
        assert turned.wait(PATIENCE), "the event loop stands still"
        turned.clear()
        return perform(store, operations, durable=durable)

    async def turn() -> None:
        while True:
            turned.set()
            await asyncio.sleep(0.001)

    monkeypatch.setattr(Store, "perform", slow)
    turning = asyncio.create_task(turn())
    async with asyncio.timeout(PATIENCE):
        assert kinds(await sent_with(path, Gateway(), smses(3))) == [Sent] * 3
    turning.cancel()


# --- which message is which -----------------------------------------------------------------------------------------


async def test_the_same_list_again_is_skipped_with_its_receipts(path: Path) -> None:
    """What was sent is not sent again, and its receipt is the one of then: id, word and attempts."""
    gateway = Gateway()
    first = await sent_with(path, gateway, smses(300))
    again = await sent_with(path, gateway, smses(300))
    assert again.stopped_by is None
    assert [(one.reason, one.receipt) for one in again.skipped] == [(None, one.receipt) for one in first.sent]
    assert len(gateway.requests) == 300


@pytest.mark.parametrize("word", ["sent", "", "half a pair \ud83d", "\0"])
async def test_a_receipt_is_kept_as_it_is(path: Path, word: str) -> None:
    """Whatever the gateway's words are, and however many attempts it took."""
    answers = iter([internal, internal])

    async def odd(gateway: Gateway, text: str) -> httpx.Response:
        if (answer := next(answers, None)) is not None:
            return await answer(gateway, text)
        return httpx.Response(200, content=json.dumps({"status": word, "msg_uid": "id " + word}))

    gateway = Gateway(then=odd)
    (sent,) = (await sent_with(path, gateway, smses(1))).sent
    assert sent.receipt == SendReceipt("id " + word, word, attempts=3)
    (skipped,) = (await sent_with(path, gateway, smses(1))).skipped
    assert skipped.receipt == sent.receipt


async def test_a_message_that_is_there_twice_is_sent_twice(path: Path) -> None:
    """Equal messages are told apart by counting, also when a later list holds one more of them."""
    gateway = Gateway()
    assert kinds(await sent_with(path, gateway, smses(1) * 2)) == [Sent, Sent]
    assert kinds(await sent_with(path, gateway, smses(1) * 3)) == [Skipped, Skipped, Sent]
    assert len(gateway.accepted) == 3


async def test_another_spelling_of_a_number_is_the_same_message(path: Path) -> None:
    """What counts is whose number it is; another text or another person is another message."""
    gateway = Gateway()
    await sent_with(path, gateway, [Sms("+6281234567890", "text")])
    spellings = ["0812-3456-7890", "6281234567890"]
    report = await sent_with(path, gateway, [Sms(spellings[0], "text"), Sms("081234567891", "text")])
    assert kinds(report) == [Skipped, Sent]
    report = await sent_with(path, gateway, [Sms(spellings[1], "text"), Sms("081234567890", "text ")])
    assert kinds(report) == [Skipped, Sent]


async def test_a_number_and_a_text_are_not_run_together(path: Path) -> None:
    """A digit more in the number and one less in the text is another message."""
    gateway = Gateway()
    await sent_with(path, gateway, [Sms("+62812345678901", " text")])
    assert kinds(await sent_with(path, gateway, [Sms("+6281234567890", "1 text")])) == [Sent]


async def test_a_key_names_its_message_wherever_it_stands(path: Path) -> None:
    """With a key the place among equals is of no account, and equal messages of two keys are two."""
    gateway = Gateway()
    one, two = (Sms("081234567890", "text", key=key) for key in ("one", "two"))
    first = await sent_with(path, gateway, [one])
    report = await sent_with(path, gateway, [two, one])
    assert kinds(report) == [Sent, Skipped]
    assert report.skipped[0].receipt == first.sent[0].receipt
    assert len(gateway.accepted) == 2


async def test_a_key_of_another_message_is_refused_and_the_others_are_sent(path: Path) -> None:
    """The same key with another number or text is a mistake of that message's, within a run and in a later one."""
    gateway = Gateway()
    same = Sms("081234567890", "text", key="key")
    others = [Sms("081234567890", "other text", key="key"), Sms("081234567891", "text", key="key")]
    for expected in ([Sent, Failed, Failed, Sent], [Skipped, Failed, Failed, Sent]):
        report = await sent_with(path, gateway, [same, *others, Sms("081234567892", str(expected))])
        assert kinds(report) == expected
        assert all(isinstance(failed.error, InvalidMessageError) for failed in report.failed)
        assert report.unknown == ()
    assert len(gateway.accepted) == 3


@pytest.mark.parametrize("earlier", [taken, lost])
async def test_a_wrong_use_of_a_key_does_not_hide_its_message(path: Path, earlier: Answer) -> None:
    """In a later run, what became of the key's own message is told although another was refused under it first."""
    same = Sms("081234567890", "text", key="key")
    await sent_with(path, Gateway(then=earlier), [same])
    report = await sent_with(path, Gateway(), [evolve(same, message="other"), same])
    assert kinds(report) == [Failed, Skipped if earlier is taken else Failed]
    assert len(report.unknown) == (earlier is lost)


async def test_a_key_given_twice_is_sent_once(path: Path) -> None:
    """The second one of a run is skipped, whatever becomes of the first."""
    gateway = Gateway()
    same = Sms("081234567890", "text", key="key")
    report = await sent_with(path, gateway, [same, same], concurrency=1)
    assert report.outcomes == (Sent(same, report.sent[0].receipt), Skipped(same, None))
    assert len(gateway.accepted) == 1


async def test_a_key_that_was_certainly_not_sent_may_be_corrected(path: Path) -> None:
    """A refused text can be mended under its key in a later run, and is then known by it."""
    gateway = Gateway({"wrong": refused})
    wrong = Sms("081234567890", "wrong", key="key")
    right = evolve(wrong, message="right")
    assert kinds(await sent_with(path, gateway, [wrong, right], concurrency=1)) == [Failed, Failed]
    assert gateway.accepted == []
    assert kinds(await sent_with(path, gateway, [right, wrong], concurrency=1)) == [Sent, Failed]
    assert gateway.accepted == ["right"]


@pytest.mark.parametrize("key", ["", 5, b"key", True])
async def test_a_key_that_names_nothing_is_refused(path: Path, key: Any) -> None:
    """A wrong key is its message's own failure; nothing is sent for it, and the others are."""
    gateway = Gateway()
    report = await sent_with(path, gateway, [Sms("081234567890", "text", key=key), *smses(2)])
    assert kinds(report) == [Failed, Sent, Sent]
    assert isinstance(the_error(report), InvalidMessageError)


async def test_invalid_messages_disturb_nobody(path: Path) -> None:
    """They fail alone in each run, and do not shift the count of equal ones; an expired one is `Failed` too."""
    gateway = Gateway()
    invalid = [Sms("nobody", "text"), Sms("081234567890", " "), Sms("081234567890", "\ud83d")]
    naive = Sms("081234567890", "text", expires_at=cast(Any, "tomorrow"))
    for kind in (Sent, Skipped):
        report = await sent_with(path, gateway, [*smses(1), *invalid, *smses(1), naive])
        assert kinds(report) == [kind, Failed, Failed, Failed, kind, Failed]
        assert all(isinstance(failed.error, InvalidMessageError) for failed in report.failed)
        assert report.unknown == ()


# --- what a later run does ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [taken_and_lost, lost, internal])
async def test_what_was_left_in_doubt_is_named_and_not_sent(path: Path, ending: Answer) -> None:
    """A later run fails it with `DeliveryUnknownError` without a request, as often as it is asked."""
    first = await sent_with(path, Gateway({"1": ending}), smses(3))
    assert kinds(first) == [Sent, Failed, Sent]
    for _ in range(2):
        gateway = Gateway()
        report = await sent_with(path, gateway, smses(3))
        assert kinds(report) == [Skipped, Failed, Skipped]
        assert isinstance(the_error(report), DeliveryUnknownError)
        assert the_error(report).may_have_been_sent
        assert the_error(report).attempts == the_error(first).attempts
        assert report.unknown == report.failed
        assert gateway.requests == []


@pytest.mark.parametrize("ending", [refused, unconnected])
async def test_what_is_proven_unsent_is_sent_again(path: Path, ending: Answer) -> None:
    """A refusal and a connection that failed leave no doubt, so a later run sends it, as if for the first time."""
    gateway = Gateway({"1": ending})
    assert kinds(await sent_with(path, gateway, smses(3))) == [Sent, Failed, Sent]
    gateway.answers.clear()
    report = await sent_with(path, gateway, smses(3))
    assert kinds(report) == [Skipped, Sent, Skipped]
    assert report.retried == ()


async def test_what_was_refused_after_an_internal_error_is_in_doubt(path: Path) -> None:
    """The last attempt's proof is none for the attempts before it."""
    answers = iter([internal, refused])

    async def both(gateway: Gateway, text: str) -> httpx.Response:
        return await next(answers)(gateway, text)

    first = await sent_with(path, Gateway(then=both), smses(1))
    assert the_error(first).may_have_been_sent
    assert (the_error(await sent_with(path, Gateway(), smses(1)))).attempts == 2


async def test_the_doubtful_are_sent_again_if_told_so(path: Path) -> None:
    """`resend_unknown` sends them and no others; their receipts count the earlier requests, also in later runs."""
    gateway = Gateway({"1": taken_and_lost, "2": internal})
    await sent_with(path, gateway, smses(4))
    gateway.answers.clear()
    report, resent = await resend(path, gateway, smses(4))
    assert resent == 2
    assert kinds(report) == [Skipped, Sent, Sent, Skipped]
    assert [sent.receipt.attempts for sent in report.sent] == [2, 5]
    assert report.retried == report.sent
    later, resent = await resend(path, gateway, smses(4))
    assert resent == 0
    assert [skipped.receipt for skipped in later.skipped][1:3] == [sent.receipt for sent in report.sent]


async def test_each_run_counts_the_messages_that_it_sends_again(path: Path) -> None:
    """A run counts its own messages in doubt, and those alone whose request was about to start."""
    await sent_with(path, Gateway(then=lost), smses(3))
    for _ in range(2):
        assert (await resend(path, Gateway(then=lost), smses(3)))[1] == 3
    assert (await resend(path, Gateway(), smses(3), limiter=Gone()))[1] == 0


@pytest.mark.parametrize("ending", [refused, unconnected, lost])
async def test_a_resend_that_fails_leaves_the_message_in_doubt(path: Path, ending: Answer) -> None:
    """Proof that the second request was not taken says nothing about the first one."""
    await sent_with(path, Gateway(then=lost), smses(1))
    error = the_error(await sent_with(path, Gateway(then=ending), smses(1), resend_unknown=True))
    assert error.may_have_been_sent
    gateway = Gateway()
    report = await sent_with(path, gateway, smses(1))
    assert report.unknown == report.failed
    assert isinstance(the_error(report), DeliveryUnknownError)
    assert gateway.requests == []


@pytest.mark.parametrize("expires_at", [datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1)])  # noqa: DTZ001 - wrong
async def test_a_resend_that_is_refused_here_stays_unknown(path: Path, expires_at: datetime) -> None:
    """A message in doubt that has expired meanwhile, or cannot be sent as it is now, may still have been sent."""
    await sent_with(path, Gateway(then=lost), smses(1))
    late = evolve(smses(1)[0], expires_at=expires_at)
    report = await sent_with(path, Gateway(), [late], resend_unknown=True)
    assert isinstance(the_error(report), ExpiredError | InvalidMessageError)
    assert len(report.unknown) == 1
    assert statuses(path, [late]) == [DOUBTFUL]


class Gone(Unlimited):
    """A limiter whose server does not answer."""

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Tell so."""
        raise LimiterUnavailableError("gone")


@pytest.mark.parametrize("stop", ["account", "limiter"])
async def test_a_resend_that_was_stopped_before_its_turn_stays_unknown(path: Path, stop: str) -> None:
    """It is `Failed` and in doubt, never `Skipped`: that nothing was sent in this run is not all there is to say."""
    await sent_with(path, Gateway(then=lost), smses(4))
    gateway = Gateway(then=account_refused)
    limiter = Gone() if stop == "limiter" else Turns(1)
    report = await sent_with(path, gateway, smses(4), limiter=limiter, concurrency=4, resend_unknown=True)
    assert isinstance(report.stopped_by, LimiterUnavailableError if stop == "limiter" else QuotaExhaustedError)
    assert kinds(report) == [Failed] * 4
    assert len(report.unknown) == 4
    assert len(gateway.requests) == (0 if stop == "limiter" else 1)
    assert statuses(path, smses(4)) == [DOUBTFUL] * 4


async def test_a_run_that_stopped_tells_of_the_doubtful_it_came_to(path: Path) -> None:
    """Without resending, a message in doubt is named, and never skipped with what stopped the run."""
    await sent_with(path, Gateway({"1": lost, "3": lost}, refused), smses(4))
    report = await sent_with(path, Gateway(then=account_refused), smses(4), concurrency=4)
    assert isinstance(report.stopped_by, QuotaExhaustedError)
    assert [failed.sms.message for failed in report.unknown] == ["1", "3"]


async def test_resending_needs_a_journal() -> None:
    """Without one there is nothing that an earlier run could have left, and it is said so at once."""
    client = in_memory(Gateway())
    with pytest.raises(ValueError, match=r"^resend_unknown\b"):
        client.bulk([], resend_unknown=True)
    with pytest.raises(ValueError, match=r"^resend_unknown\b"):
        await client.send_many([], resend_unknown=True)


# --- a run that ends early ------------------------------------------------------------------------------------------


class ConsumerError(Exception):
    """What a consumer leaves its block by."""


@define
class Interrupted:
    """A run of two messages: the first waits for a refusal of the account, the second is brought into a phase."""

    path: Path
    disk: Disk
    limiter: Turns = field(factory=lambda: Turns(1))
    refuse: asyncio.Event = field(factory=asyncio.Event)
    answer: asyncio.Event = field(factory=asyncio.Event)
    backing_off: bool = False

    async def stopper(self, _: Gateway, __: str) -> httpx.Response:
        """Refuse the account when it is time."""
        await self.refuse.wait()
        return refusal(401, 55)

    async def brought_into(self, phase: str, gateway: Gateway) -> None:
        """Bring the second message into a phase."""

        async def slow(gateway: Gateway, text: str) -> httpx.Response:
            await self.answer.wait()
            return await taken(gateway, text)

        async def then_held(gateway: Gateway, text: str) -> httpx.Response:
            self.disk.hold()
            return await taken(gateway, text)

        await until(lambda: gateway.requests == ["0"] and self.limiter.asked == 2)
        gateway.answers["1"] = {"wire": slow, "back-off": internal, "outcome": then_held}.get(phase, taken)
        if phase == "token":
            return
        if phase == "intent":
            self.disk.hold()
        self.limiter.more.set()
        match phase:
            case "intent" | "outcome":
                await until(lambda: self.disk.held)
            case "wire":
                await until(lambda: gateway.requests == ["0", "1"])
            case "back-off":
                await until(lambda: self.backing_off)
                await asyncio.sleep(0)

    def let_go(self) -> None:
        """Let everything that waits go on."""
        self.refuse.set()
        self.answer.set()
        self.limiter.more.set()
        self.disk.release()


EXPECTED: dict[str, tuple[type[Outcome], Status, Status]] = {
    # what the consumer is told and what is on the disk; and what is on the disk after an exception
    "token": (Skipped, UNSENT, UNSENT),
    "intent": (Skipped, UNSENT, UNSENT),
    "wire": (Sent, SENT, DOUBTFUL),
    "back-off": (Failed, DOUBTFUL, DOUBTFUL),
    "outcome": (Sent, SENT, SENT),
}


@pytest.mark.parametrize("phase", EXPECTED)
@pytest.mark.parametrize("how", ["leaving", "by itself", "exception", "cancelled"])
async def test_an_end_in_any_phase_leaves_the_truth(
    how: str, phase: str, path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had not started is not in doubt, what was on the wire is, and an outcome that was being written is told."""
    scene = Interrupted(path, disk)

    def long(_: float, high: float) -> float:
        scene.backing_off = True
        return high

    monkeypatch.setattr(random, "uniform", long)
    gateway = Gateway({"0": scene.stopper})
    client = in_memory(gateway, limiter=scene.limiter, retry=RetryPolicy(initial_wait=1000, max_wait=1000))
    journal = SqliteJournal(path)
    bulk = client.bulk(smses(2), concurrency=2, journal=journal)
    assert isinstance(bulk, BulkRun)
    leave = asyncio.Event()

    async def use() -> None:
        async with bulk:
            await leave.wait()
            if how == "exception":
                raise ConsumerError

    using = asyncio.create_task(use())
    await scene.brought_into(phase, gateway)
    if how == "by itself":
        scene.refuse.set()
        await until(lambda: "running" not in repr(bulk))
    elif how == "cancelled":
        using.cancel()
    leave.set()
    await until(lambda: "running" not in repr(bulk))
    scene.let_go()
    with contextlib.suppress(ConsumerError, asyncio.CancelledError):
        await using
    outcomes = {outcome.sms.message: outcome async for outcome in bulk}
    await journal.aclose()
    told, then, after_an_exception = EXPECTED[phase]
    if how in {"leaving", "by itself"}:
        assert {text: type(outcome) for text, outcome in outcomes.items()} == {"0": Failed, "1": told}
        assert statuses(path, smses(2)) == [UNSENT, then]
    else:
        assert outcomes == {}
        assert statuses(path, smses(2)) == [DOUBTFUL, after_an_exception]
    assert gateway.requests.count("1") == (phase in {"wire", "back-off", "outcome"})


async def test_a_message_that_is_looked_up_when_the_run_ends_does_not_queue_for_a_token(path: Path, disk: Disk) -> None:
    """It is skipped as soon as the journal has answered, however long the limiter would make it wait."""
    limiter = Turns(0)

    def source() -> Iterator[Sms]:
        disk.hold()
        yield from smses(1)

    async with SqliteJournal(path) as journal, asyncio.timeout(PATIENCE):
        bulk = in_memory(Gateway(), limiter=limiter).bulk(source(), journal=journal, concurrency=1)
        async with bulk as outcomes:
            await until(lambda: disk.held)
            asyncio.get_running_loop().call_soon(disk.release)
        assert [outcome async for outcome in outcomes] == [Skipped(smses(1)[0], None)]
    assert limiter.asked == 0


async def test_a_block_is_left_when_everything_is_written(path: Path, disk: Disk) -> None:
    """Whoever leaves by an exception finds on the disk what became of each message that was about to be noted."""

    async def then_held(gateway: Gateway, text: str) -> httpx.Response:
        disk.hold()
        return await taken(gateway, text)

    async with SqliteJournal(path) as journal:
        bulk = in_memory(Gateway(then=then_held)).bulk(smses(1), journal=journal)
        assert isinstance(bulk, BulkRun)

        async def use() -> None:
            async with bulk:
                await until(lambda: disk.held)
                raise ConsumerError

        using = asyncio.create_task(use())
        await until(lambda: "aborted" in repr(bulk))
        for _ in range(200):
            await asyncio.sleep(0)
        assert not using.done()
        disk.release()
        with pytest.raises(ConsumerError):
            await using
        assert statuses(path, smses(1)) == [SENT]


async def test_a_message_that_expires_while_its_intent_is_written_is_not_sent(path: Path, disk: Disk) -> None:
    """A slow disk uses up the time of a message as well; it is certain then that it was not sent."""
    gateway, limiter = Gateway(), Turns(0)
    expires_at = datetime.now(UTC) + timedelta(milliseconds=300)
    sms = evolve(smses(1)[0], expires_at=expires_at)
    run = asyncio.create_task(sent_with(path, gateway, [sms], limiter=limiter))
    await until(lambda: limiter.asked)
    disk.hold()
    limiter.more.set()
    await until(lambda: disk.held and datetime.now(UTC) > expires_at)
    disk.release()
    report = await run
    assert isinstance(the_error(report), ExpiredError)
    assert not the_error(report).may_have_been_sent
    assert gateway.requests == []
    assert statuses(path, [sms]) == [UNSENT]


# --- one user, and a file that cannot be used -----------------------------------------------------------------------


async def assert_refused(path: Path, sentence: str, journal: SqliteJournal | None = None) -> None:
    """Assert that a run is refused in these words, before anything is pulled or sent."""
    gateway, source = Gateway(), Source(smses(3))
    own = journal or SqliteJournal(path)
    with pytest.raises(JournalError, match=sentence) as caught:
        await in_memory(gateway).send_many(source, journal=own)
    assert str(path) in str(caught.value)
    assert not caught.value.may_have_been_sent
    assert (source.pulled, gateway.requests) == ([], [])
    if journal is None:
        await own.aclose()


async def test_a_second_run_in_this_process_is_refused_until_the_first_has_closed(path: Path) -> None:
    """Neither another object nor the same one can be used while a run is on; afterwards both can."""
    gateway = Gateway()
    client = in_memory(gateway)
    journal, other = SqliteJournal(path), SqliteJournal(path)
    async with client.bulk(smses(3), journal=journal) as outcomes:
        await anext(outcomes)
        await assert_refused(path, "another run uses it", journal)
        await assert_refused(path, "another run uses it", other)
    assert (await client.send_many(smses(3), journal=journal)).stopped_by is None
    await assert_refused(path, "another run uses it", other)
    await journal.aclose()
    assert (await client.send_many(smses(3), journal=other)).stopped_by is None
    await other.aclose()
    assert gateway.requests == ["0", "1", "2"]


HOLDER = """
import asyncio, sys
from oca_sms_async import SqliteJournal

async def main():
    async with SqliteJournal(sys.argv[1]) as journal:
        await journal.begin_run()
        print("open", flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def child(script: str, *arguments: str, **environment: str) -> AsyncIterator[Process]:
    """Run a script in a process of its own, which ends with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, *arguments, stdin=PIPE, stdout=PIPE, env=os.environ | environment
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("end", ["closed", "killed"])
async def test_a_run_of_another_process_is_refused_until_the_first_has_ended(path: Path, end: str) -> None:
    """The lock holds between processes, and dies with its process, however that one ends."""
    async with child(HOLDER, str(path)) as holder:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"open\n"
        await assert_refused(path, "another run uses it")
        if end == "killed":
            holder.kill()
        await holder.communicate(b"" if end == "killed" else b"end\n")
        assert holder.returncode == (-signal.SIGKILL if end == "killed" else 0)
    assert kinds(await sent_with(path, Gateway(), smses(3))) == [Sent] * 3


def text_file(path: Path) -> None:
    """Make a file that is no database."""
    path.write_text("not a journal\n" * 100)


def short_text_file(path: Path) -> None:
    """Make one that is shorter than a database's head."""
    path.write_text("x\n")


def foreign(path: Path) -> None:
    """Make another program's database."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript("PRAGMA user_version = 1; CREATE TABLE message (identity, content); VACUUM;")


def foreign_with_a_log(path: Path) -> None:
    """Make another program's database that keeps a log."""
    foreign(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")


def directory(path: Path) -> None:
    """Make a directory."""
    path.mkdir()


def changed(statement: str) -> Callable[[Path], None]:
    """Make a journal in which something was changed."""

    def make(path: Path) -> None:
        asyncio.run(sent_with(path, Gateway(), smses(200)))
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.executescript(statement)

    return make


def truncated(path: Path) -> None:
    """Make a journal of which the end is missing."""
    asyncio.run(sent_with(path, Gateway(), smses(200)))
    os.truncate(path, path.stat().st_size - 8192)


def with_a_page_zeroed(path: Path) -> None:
    """Make a journal of which a page in the middle was lost."""
    asyncio.run(sent_with(path, Gateway(), smses(200)))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = bytes(4096)
    path.write_bytes(content)


UNUSABLE = {
    text_file: "damaged, or is no journal",
    short_text_file: "damaged, or is no journal",
    foreign: "some other program's database",
    foreign_with_a_log: "some other program's database",
    directory: "cannot be opened|directory",
    changed("PRAGMA user_version = 2"): "its version is 2, and this library's is 1",
    changed("PRAGMA user_version = 0"): "its version is 0, and this library's is 1",
    truncated: "damaged",
    with_a_page_zeroed: "damaged",
}


@pytest.mark.parametrize(("make", "sentence"), UNUSABLE.items())
def test_a_file_that_cannot_be_used_is_refused_and_left_as_it_is(
    make: Callable[[Path], None], sentence: str, path: Path
) -> None:
    """The error says which file and what is wrong with it; nothing is sent, and the file has the bytes it had."""
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    asyncio.run(assert_refused(path, sentence))
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("make", [text_file, foreign, directory])
def test_what_is_no_journal_keeps_its_permissions(make: Callable[[Path], None], path: Path) -> None:
    """Other people's files and directories stay as accessible as they were."""
    make(path)
    path.chmod(0o755)
    asyncio.run(assert_refused(path, "."))
    assert mode(path) == 0o755


async def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    """No directory is made for a journal; the error names the path."""
    await assert_refused(tmp_path / "missing" / "run.journal", "No such file or directory")


async def test_a_refused_journal_can_be_used_once_its_trouble_is_over(path: Path) -> None:
    """The same object opens the file that could not be opened before."""
    async with SqliteJournal(path) as journal:
        text_file(path)
        await assert_refused(path, ".", journal)
        os.truncate(path, 0)
        assert kinds(await in_memory(Gateway()).send_many(smses(1), journal=journal)) == [Sent]


# --- a disk that fails while a run is on ----------------------------------------------------------------------------


class FailingCommits:
    """A connection to a database on a disk that is full while `full` is True: its commits fail."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.full = True

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        """Do it, or fail."""
        if self.full and statement == "COMMIT":
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._database.execute(statement, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def without_room(store: Store) -> None:
    """Let the file grow no further."""
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")


def with_failing_commits(store: Store) -> None:
    """Let no commit succeed."""
    store._db = cast(Any, FailingCommits(store._db))


@pytest.mark.parametrize("full", [without_room, with_failing_commits])
@pytest.mark.parametrize("after", [0, 1, 50])
async def test_a_full_disk_stops_the_run_and_costs_no_message(
    full: Callable[[Store], None], after: int, path: Path
) -> None:
    """The run stops by a `JournalError`; each message has its outcome, whoever may have been sent is named, and with
    room again a later run sends the rest, and nobody twice.
    """
    journal, everybody = SqliteJournal(path), smses(1000)
    tokens = itertools.count()

    class Filling(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            if next(tokens) == after:
                await journal._perform(full, durable=False)

    gateway, source = Gateway(), Source(everybody)
    client = in_memory(gateway, limiter=Filling())
    report = await client.send_many(source, journal=journal, concurrency=8)
    assert isinstance(report.stopped_by, JournalError)
    assert "the disk is full" in str(report.stopped_by)
    assert len(source.pulled) == len(report.outcomes) < 1000
    assert len(report.sent) + len(report.failed) + len(report.skipped) == len(report.outcomes)
    assert {skipped.reason for skipped in report.skipped} <= {report.stopped_by}
    assert report.failed == report.unknown
    sent, unknown = ({one.sms.message for one in part} for part in (report.sent, report.unknown))
    assert set(gateway.accepted) <= sent | unknown
    on_the_disk = statuses(path, everybody)
    assert all(on_the_disk[int(text)] in {DOUBTFUL, SENT} for text in gateway.accepted)
    if full is with_failing_commits and journal._store is not None:
        cast(Any, journal._store._db).full = False
    await journal.aclose()
    again = await sent_with(path, gateway, everybody)
    assert again.stopped_by is None
    assert {failed.sms.message for failed in again.unknown} == unknown
    assert {skipped.sms.message for skipped in again.skipped} == sent
    assert len(set(gateway.accepted)) == len(gateway.accepted)
    assert {*gateway.accepted, *unknown} == {sms.message for sms in everybody}


def test_an_intent_needs_its_message(path: Path) -> None:
    """Where a failure has undone that a message was entered, its intent is refused, so it is not sent unrecorded."""

    def failing(_: Store) -> None:
        raise ConsumerError

    with contextlib.closing(Store(path)) as store:
        store.perform([Store.begin_run], durable=True)
        (lookup,) = store.perform([lambda it: it.lookup_next(None, "+6281234500000", "text")], durable=False)
        with pytest.raises(ConsumerError):
            store.perform([failing], durable=False)
        with pytest.raises(JournalError, match="begin a new run"):
            store.perform([lambda it: it.intend(lookup)], durable=True)


async def test_a_run_gets_each_message_once(path: Path) -> None:
    """An intent is refused for a message that was sent, and for one that a later run has looked up."""
    receipt = SendReceipt("id", "sent")
    async with SqliteJournal(path) as journal:
        await journal.begin_run()
        sent, other = [await journal.lookup_next(key, "+6281234500000", "text") for key in ("sent", "other")]
        assert await journal.intend(sent)
        await journal.settle(sent, JournalEntry(Status.SENT, receipt, 1))
        assert not await journal.intend(sent)
        await journal.end_run()
        await journal.begin_run()
        again = await journal.lookup_next("other", "+6281234500000", "text")
        assert (again, await journal.intend(again)) == (other, True)
        await journal.end_run()
        await journal.begin_run()
        assert not await journal.intend(again)
        assert (await journal.lookup_next("sent", "+6281234500000", "text")).entry.receipt == receipt


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("later", ["0", "2"])
async def test_a_run_that_a_full_disk_undid_does_not_confuse_the_next_one(
    path: Path, disk: Disk, later: str, key: str | None
) -> None:
    """A first write that fails undoes the beginning of its run; of the messages that the run came to afterwards, a
    later process still skips the one that was sent long ago, and sends the one that was not.
    """
    gateway = Gateway()
    messages = [evolve(sms, key=key and key + sms.message) for sms in smses(3)]
    await sent_with(path, gateway, messages[:1])
    journal = SqliteJournal(path)
    second = asyncio.Event()

    async def source() -> AsyncIterator[Sms]:
        yield messages[1]
        await second.wait()
        yield messages[int(later)]

    limiter = Turns(0)
    run = asyncio.create_task(in_memory(gateway, limiter=limiter).send_many(source(), journal=journal, concurrency=2))
    await until(lambda: limiter.asked == 1)
    await journal._perform(with_failing_commits, durable=False)
    disk.hold()
    limiter.more.set()
    await until(lambda: disk.held)
    second.set()  # it is looked up when the write that is on has failed
    await until(lambda: journal._waiting)
    disk.release()
    assert isinstance((await run).stopped_by, JournalError)
    assert journal._store is not None
    cast(Any, journal._store._db).full = False
    await journal.aclose()
    assert kinds(await sent_with(path, gateway, messages)) == [Skipped, Sent, Sent]
    assert kinds(await sent_with(path, gateway, messages)) == [Skipped] * 3
    assert sorted(gateway.accepted) == ["0", "1", "2"]


async def test_a_stopped_message_of_which_that_cannot_be_kept_is_told_as_in_doubt(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between its intent and its request a message was not sent; where the journal cannot note that, a later
    run will take it for doubtful, and this one says the same.
    """

    def failing(*_: object) -> None:
        raise JournalError("full")

    monkeypatch.setattr(Store, "settle", failing)
    gateway, limiter = Gateway(), Turns(0)
    async with SqliteJournal(path) as journal:
        bulk = in_memory(gateway, limiter=limiter).bulk(smses(1), journal=journal)
        assert isinstance(bulk, BulkRun)
        async with bulk:
            await until(lambda: limiter.asked)
            disk.hold()
            limiter.more.set()
            await until(lambda: disk.held)
            asyncio.get_running_loop().call_soon(disk.release)
        told = [isinstance(outcome, Failed) and outcome.error.may_have_been_sent async for outcome in bulk]
    assert gateway.requests == []
    assert statuses(path, smses(1)) == [DOUBTFUL if told == [True] else UNSENT]


async def test_closing_that_was_cancelled_gives_up_the_lock(path: Path, disk: Disk) -> None:
    """Whoever is cancelled while a slow disk keeps a journal from closing leaves no file locked."""
    journal = SqliteJournal(path)
    await journal._perform(Store.begin_run, durable=False)
    disk.hold()
    written = journal._perform(Store.begin_run, durable=False)
    closing = asyncio.create_task(journal.aclose())
    await until(lambda: disk.held)
    await asyncio.sleep(0)
    closing.cancel()
    disk.release()
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    await written
    await journal.aclose()
    assert kinds(await sent_with(path, Gateway(), smses(1))) == [Sent]


async def test_a_journal_that_cannot_be_closed_cleanly_gives_up_its_lock(path: Path) -> None:
    """A full disk at the end is an error, and still the next run can begin."""
    journal = SqliteJournal(path)
    await in_memory(Gateway()).send_many(smses(3), journal=journal)
    await journal._perform(Store.begin_run, durable=False)  # which need not be durable, and is left for the end
    await journal._perform(with_failing_commits, durable=False)
    with pytest.raises(JournalError, match="the disk is full") as caught:
        await journal.aclose()
    with pytest.raises(RuntimeError, match="shutdown"):
        journal._thread.submit(print)
    assert kinds(await sent_with(path, Gateway(), smses(4))) == [Skipped] * 3 + [Sent]
    assert caught.value.attempts == 0  # it is still there, and holds no lock


# --- a process that is killed ---------------------------------------------------------------------------------------

# The run of a process that kills itself when the step that it is told comes for the fifth time.
KILLED = """
import asyncio, itertools, os, signal, sys
from oca_sms_async import AsyncOcaSms, SqliteJournal, Sms, Unlimited, _dispatch
from oca_sms_async._journal._store import Store

step, path, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3])
times = itertools.count(1)

def came(here):
    if here == step and next(times) == 5:
        os.kill(os.getpid(), signal.SIGKILL)

class Limiter(Unlimited):
    async def acquire(self, **_):
        came("before the intent")

def noting(method, kind):
    def noted(store, *arguments):
        came(f"before the {kind}'s commit")
        result = method(store, *arguments)
        store.noted.append(kind)
        return result
    return noted

Store.noted = []
Store.intend, Store.settle = noting(Store.intend, "intent"), noting(Store.settle, "outcome")
perform, exchange = Store.perform, _dispatch.exchange

def performed(store, operations, *, durable):
    results = perform(store, operations, durable=durable)
    while store.noted:
        came(f"after the {store.noted.pop()}'s commit")
    return results

async def exchanged(*arguments, **options):
    reply = await exchange(*arguments, **options)
    came("after the request")
    return reply

Store.perform, _dispatch.exchange = performed, exchanged

async def main():
    client = AsyncOcaSms("sandbox@example.com", "sandbox", base_url=os.environ["BASE_URL"], limiter=Limiter())
    messages = [Sms(f"+62812345{it:05}", str(it)) for it in range(12)]
    await client.send_many(messages, concurrency=concurrency, journal=SqliteJournal(path))

asyncio.run(main())
"""
# for each step: of a message that was alone at work, is it in doubt afterwards, and does the gateway have it
STEPS = {
    "before the intent": (0, 0),
    "before the intent's commit": (0, 0),
    "after the intent's commit": (1, 0),
    "after the request": (1, 1),
    "before the outcome's commit": (1, 1),
    "after the outcome's commit": (0, 1),
}


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("step", STEPS)
async def test_a_run_that_was_killed_is_resumed_without_doubling_or_losing(
    step: str, concurrency: int, path: Path, sandbox: Sandbox, client: AsyncOcaSms
) -> None:
    """Whichever step a process dies at, the next one sends what is left, names what was under way and no more, and
    sends nobody twice; a look into the history and a resend of the rest complete it.
    """
    async with child(KILLED, step, str(path), str(concurrency), BASE_URL=sandbox.base_url) as process:
        assert await process.wait() == -signal.SIGKILL
    everybody, before = smses(12), {message.text for message in sandbox.inbox}
    doubtful, accepted = STEPS[step]
    async with SqliteJournal(path) as journal:
        report = await client.send_many(everybody, journal=journal)
        assert (report.stopped_by, len(report.outcomes), report.failed) == (None, 12, report.unknown)
        unknown = {failed.sms.message for failed in report.unknown}
        texts = [message.text for message in sandbox.inbox]
        assert len(set(texts)) == len(texts)
        assert {*texts, *unknown} == {sms.message for sms in everybody}
        assert {skipped.sms.message for skipped in report.skipped} == before - unknown
        assert len(unknown) <= concurrency
        if concurrency == 1:
            assert (len(before), len(unknown)) == (4 + accepted, doubtful)
        reconciled = await client.reconcile(journal, everybody)
        assert {sent.sms.message for sent in reconciled.found} == before & unknown
        assert {sms.message for sms in reconciled.doubtful} == unknown - before
        again = await client.send_many(everybody, journal=journal, resend_unknown=True)
        assert {sent.sms.message for sent in again.sent} == unknown - before
    assert sorted(message.text for message in sandbox.inbox) == sorted(sms.message for sms in everybody)


# --- any run, any crash ---------------------------------------------------------------------------------------------


@frozen
class Part:
    """One run: what its requests end in, one after the other; after which event it crashes, if it does; whether it
    resends.
    """

    ends: list[str]
    crashes_after: int | None
    resend: bool


@frozen
class History:
    """Messages, by number and with or without keys, and the runs that they go through."""

    messages: list[tuple[int, bool]]
    concurrency: int
    parts: list[Part]


ENDS = st.lists(st.sampled_from(["taken", "taken", "taken and lost", "lost", "refused", "no connection"]), max_size=12)
CRASHES = st.one_of(st.none(), st.integers(1, 40))
NUMBERS = st.integers(0, 12)
HISTORIES = st.one_of(
    # Equal messages cannot be told apart at the gateway, so these are never resent.
    st.builds(
        History,
        messages=st.lists(st.tuples(NUMBERS, st.just(value=False)), max_size=10),
        concurrency=st.integers(1, 4),
        parts=st.lists(st.builds(Part, ENDS, CRASHES, st.just(value=False)), max_size=4),
    ),
    st.builds(
        History,
        messages=st.lists(st.tuples(NUMBERS, st.booleans()), max_size=10, unique_by=lambda one: one[0]),
        concurrency=st.integers(1, 4),
        parts=st.lists(st.builds(Part, ENDS, CRASHES, st.booleans()), max_size=4),
    ),
)
ERRORS: dict[str, Callable[[], Exception]] = {
    "taken and lost": DeliveryUnknownError,
    "lost": DeliveryUnknownError,
    "refused": lambda: InvalidRequestError(406, 39),
    "no connection": ConnectionFailedError,
}


class Life:
    """What a bulk's messages go through, run after run: a fake send, and a journal that is copied when it crashes."""

    def __init__(self, history: History, directory: Path) -> None:
        self.history = history
        self.directory = directory
        self.messages = [
            Sms(f"+62812345{it:05}", "text", key=f"key {it}" if keyed else None) for it, keyed in history.messages
        ]
        self.taken = Counter[str]()
        self.uids = itertools.count()
        self.path = directory / "0"
        self.part = Part([], None, resend=False)
        self.ends = iter(self.part.ends)
        self.events = 0
        self.lock = threading.RLock()
        self.crashed = False

    def happened(self) -> None:
        """Count an event, in whatever thread, and crash if it is the last one."""
        with self.lock:
            self.events += 1
            if self.events == self.part.crashes_after:
                self.crashed = True
                for suffix in ("", "-wal"):
                    with contextlib.suppress(FileNotFoundError):
                        shutil.copyfile(f"{self.path}{suffix}", f"{self.next_path}{suffix}")

    @property
    def next_path(self) -> Path:
        """Where the journal goes on after a crash."""
        return self.path.with_name(self.path.name + "+")

    async def send(self, sms: Sms, call: CallState) -> SendReceipt:
        """Do what the next end says, as the client's own send would."""
        await asyncio.sleep(0)
        doubted = call.may_have_been_sent  # by an earlier run
        await call.before_first_send()
        call.started()
        await asyncio.sleep(0)
        call.left_wire()
        with self.lock:
            end = next(self.ends, "taken")
            if end.startswith("taken") and not self.crashed:
                self.taken[sms.phone] += 1
                if self.taken[sms.phone] > [one.phone for one in self.messages].count(sms.phone):
                    assert self.part.resend, "sent twice without being told to"
                    assert doubted, "sent twice without having been in doubt"
            self.happened()
        if end in ERRORS:
            error = cast(Any, ERRORS[end]())
            call.failed(error)
            raise call.conclude(error)
        return SendReceipt(f"uid {next(self.uids)}", "sent", attempts=call.attempts)

    async def go_through(self, part: Part) -> BulkReport | None:
        """Run once; None if it crashed."""
        self.part, self.ends, self.events, self.crashed = part, iter(part.ends), 0, False
        source = Source(self.messages)
        async with SqliteJournal(self.path) as journal:
            recording = JournalRun(journal, number, resend_unknown=part.resend)
            async with BulkRun(self.send, source, self.history.concurrency, recording) as bulk:
                report = await bulk.report()
        if self.crashed:
            self.path = self.next_path
            return None
        assert len(report.sent) + len(report.failed) + len(report.skipped) == len(source.pulled)
        assert isinstance(report.stopped_by, ConnectionFailedError) or len(source.pulled) == len(self.messages)
        return report


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORIES)
def test_no_message_is_lost_or_doubled_whatever_happens(monkeypatch: pytest.MonkeyPatch, history: History) -> None:
    """After any runs and crashes each message is sent or named; it is taken twice only where it was in doubt and sent
    again because that was asked for; and each run's outcomes add up.
    """
    perform = Store.perform
    with tempfile.TemporaryDirectory() as directory, monkeypatch.context() as patched:
        life = Life(history, Path(directory))

        def performed(store: Store, operations: Sequence[store_module.Operation], *, durable: bool) -> list[Any]:
            life.happened()
            results = perform(store, operations, durable=durable)
            life.happened()
            return results

        patched.setattr(Store, "perform", performed)
        for part in history.parts:
            asyncio.run(life.go_through(part))
        report = asyncio.run(life.go_through(Part([], None, resend=False)))
    assert report is not None
    assert report.failed == report.unknown
    named = Counter(failed.sms.phone for failed in report.unknown)
    for phone, count in Counter(sms.phone for sms in life.messages).items():
        assert life.taken[phone] + named[phone] >= count
    assert all(one.receipt is not None for one in report.skipped)

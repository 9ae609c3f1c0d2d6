"""Runs over a journal: the file holds the truth at each moment, and a later run acts on it."""

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import httpx
import pytest
from attrs import define, evolve, field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_memory import Answer, Gateway, accept, ask, client_of, fail, lose_answer, make_messages, refuse, respond
from journal_disk import Disk, FullDisk, TableLock, commits_of, statuses_on_disk
from journals import PATIENCE, Source, child, kinds
from postgres_server import count_clients, execute

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
from oca_sms_async._journal import JournalEntry, JournalRun, Lookup, Status
from oca_sms_async._messages import check_number
from oca_sms_async.postgres import PostgresJournal
from oca_sms_async.sandbox import Sandbox

UNSENT, DOUBTFUL, SENT = Status.UNSENT, Status.DOUBTFUL, Status.SENT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The journal's path."""
    return tmp_path / "run.journal"


Place = Path | str  # a file, or the connection string of a PostgreSQL


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The place of each kind of journal in turn."""
    if request.param == "postgres":
        return str(request.getfixturevalue("database"))
    return tmp_path / "run.journal"


def open_journal(place: Place) -> SqliteJournal | PostgresJournal:
    """Return the journal of a place."""
    return PostgresJournal(place, name="acme") if isinstance(place, str) else SqliteJournal(place)


@pytest.fixture
def disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk | TableLock]:
    """The disk of a test, or the lock that holds its table's writes up."""
    with TableLock(place) if isinstance(place, str) else Disk(monkeypatch) as slow:
        yield slow


def statuses_kept(place: Place) -> list[Status]:
    """Return the statuses of all messages, as a crash at this moment leaves them, in the order of their words."""
    if isinstance(place, Path):
        return statuses_on_disk(place)
    return sorted(
        [UNSENT, DOUBTFUL, SENT][status] for (status,) in execute(place, "SELECT status FROM oca_sms_message")
    )


def number(phone: str) -> str:
    """Return a number as the client reads it."""
    return check_number(phone, "ID")


async def until(condition: Callable[[], object]) -> None:
    """Wait until something has happened in another task or thread."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


async def statuses(place: Place, messages: Iterable[Sms]) -> list[Status]:
    """Return the status of each message as the next run finds it, after a crash at this moment."""
    with tempfile.TemporaryDirectory() as folder:
        seen = place if isinstance(place, str) else Path(shutil.copy(place, folder))
        async with open_journal(seen) as journal, JournalRun(journal, number) as run:
            return [lookup.entry.status async for _, lookup in run.lookups(messages)]


async def status_of(place: Place, key: str) -> Status | None:
    """Return the status of a key, as another process finds it after a crash at this moment."""
    with tempfile.TemporaryDirectory() as folder:
        seen = place if isinstance(place, str) else Path(shutil.copy(place, folder))
        async with open_journal(seen) as journal:
            entry = await journal.lookup(key)
            return None if entry is None else entry.status


# --- runs, and the gateways that they meet --------------------------------------------------------------------------

LOST, UNCONNECTED = fail(httpx.ReadError), fail(httpx.ConnectError)
REFUSED, ACCOUNT_REFUSED, INTERNAL = refuse(406, 39), refuse(401, 55), refuse(500, 13)


async def sent_with(place: Place, gateway: Gateway, messages: Iterable[Sms], **options: Any) -> BulkReport:
    """Return the report of one run with the journal of this place."""
    client = client_of(gateway, **{name: options.pop(name) for name in ("limiter", "retry") if name in options})
    async with open_journal(place) as journal:
        return await client.send_many(messages, journal=journal, **options)


async def resend(place: Place, gateway: Gateway, messages: Iterable[Sms], **options: Any) -> tuple[BulkReport, int]:
    """Return the report of a run that sends doubtful messages again, and how many of those it sent."""
    client = client_of(gateway, **options)
    async with (
        open_journal(place) as journal,
        client.bulk(messages, journal=journal, resend_unknown=True) as run,
    ):
        return await run.report(), run.resent


def the_error(report: BulkReport) -> Any:
    """Return the error of a report's only failure."""
    (failed,) = report.failed
    return failed.error


class Turns(Unlimited):
    """A limiter that lets so many through, and more with each `let`."""

    def __init__(self, through: int) -> None:
        self.asked = 0
        self._turns = asyncio.Semaphore(through)

    def let(self, through: int = 1000) -> None:
        """Let some more through."""
        for _ in range(through):
            self._turns.release()

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Return when it is the caller's turn."""
        self.asked += 1
        await self._turns.acquire()


# --- the file at each moment ----------------------------------------------------------------------------------------


async def test_an_intent_follows_the_token_and_precedes_the_request_and_an_outcome_precedes_its_telling(
    place: Place,
) -> None:
    """A crash at the token leaves no doubt, one at the request leaves doubt, and one at the outcome leaves that."""
    seen = list[tuple[str, list[Status]]]()

    class Limiter(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            seen.append(("token", statuses_kept(place)))

    async def answer(request: httpx.Request) -> httpx.Response:
        seen.append(("request", statuses_kept(place)))
        return accept(request)

    messages = [Sms("081234500000", str(it)) for it in range(3)]
    client = client_of(Gateway(answer), limiter=Limiter())
    async with open_journal(place) as journal, client.bulk(messages, concurrency=1, journal=journal) as outcomes:
        await anext(outcomes)
        seen.append(("outcome", statuses_kept(place)))
    assert seen[:3] == [("token", []), ("request", [DOUBTFUL]), ("outcome", [SENT])]


async def test_each_outcome_is_on_the_disk_when_it_is_handed_out(place: Place) -> None:
    """After a crash the journal knows each outcome that the caller was told, be it sent, refused or in doubt."""
    gateway = Gateway(answers={"1": REFUSED, "2": LOST, "3": UNCONNECTED})
    client = client_of(gateway)
    expected = {"0": SENT, "1": UNSENT, "2": DOUBTFUL, "3": UNSENT, "4": SENT}
    messages = [evolve(sms, key=sms.message) for sms in make_messages(5)]
    async with (
        open_journal(place) as journal,
        client.bulk(messages, concurrency=2, journal=journal) as outcomes,
    ):
        async for outcome in outcomes:
            assert await status_of(place, outcome.sms.message) is expected[outcome.sms.message]


async def test_a_message_that_waits_for_a_token_is_not_in_doubt(place: Place) -> None:
    """Of four messages at work, the one with a token is in doubt; the three that wait for theirs are not."""
    limiter, gate = Turns(1), asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        await gate.wait()
        return accept(request)

    gateway = Gateway(slow)
    client = client_of(gateway, limiter=limiter)
    async with (
        open_journal(place) as journal,
        client.bulk(make_messages(4), concurrency=4, journal=journal) as outcomes,
    ):
        await until(lambda: gateway.texts and limiter.asked == 4)
        assert statuses_kept(place) == [DOUBTFUL]
        gate.set()
        limiter.let()
        assert [type(outcome) async for outcome in outcomes] == [Sent] * 4


@pytest.mark.parametrize("place", ["file"], indirect=True)  # tests of the runs in PostgreSQL have the other one
async def test_all_that_waits_during_a_write_shares_the_next_commit(path: Path, disk: Disk) -> None:
    """A hundred intents that come during a write take one commit, before the first of their requests."""
    gateway, limiter = Gateway(), Turns(0)
    client = client_of(gateway, limiter=limiter)
    async with SqliteJournal(path) as journal:
        run = asyncio.create_task(client.send_many(make_messages(101), concurrency=101, journal=journal))
        await until(lambda: limiter.asked == 101)
        disk.hold()
        limiter.let(1)
        await until(lambda: disk.held)
        limiter.let(100)
        for _ in range(200):
            await asyncio.sleep(0)
        assert gateway.texts == []
        disk.release()
        assert kinds(await run) == [Sent] * 101
    assert [count for count in commits_of(path, DOUBTFUL) if count] == [1, 100]


async def test_a_slow_disk_does_not_block_the_event_loop(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop goes on during a write; a write in the loop's own thread would wait for ever."""
    turned, sync = threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        assert turned.wait(PATIENCE), "the event loop stands still"
        turned.clear()
        sync(descriptor)

    async def turn() -> None:
        while True:
            turned.set()
            await asyncio.sleep(0.001)

    monkeypatch.setattr(os, "fsync", slow)
    turning = asyncio.create_task(turn())
    async with asyncio.timeout(PATIENCE):
        assert kinds(await sent_with(path, Gateway(), make_messages(3))) == [Sent] * 3
    turning.cancel()


# --- which message is which -----------------------------------------------------------------------------------------


async def test_the_same_list_again_is_skipped_with_its_receipts(place: Place) -> None:
    """A sent message is not sent again, and keeps its receipt: id, word and attempts."""
    gateway = Gateway()
    first = await sent_with(place, gateway, make_messages(300))
    again = await sent_with(place, gateway, make_messages(300))
    assert again.stopped_by is None
    assert [(one.reason, one.receipt) for one in again.skipped] == [(None, one.receipt) for one in first.sent]
    assert len(gateway.texts) == 300


@pytest.mark.parametrize("word", ["sent", "", "half a pair \ud83d", "\0", "two\nlines\tand a tab"])
async def test_a_receipt_is_kept_as_it_is(place: Place, word: str) -> None:
    """The journal keeps any word of the gateway's, and the number of attempts."""
    odd = respond(200, {"status": word, "msg_uid": "id " + word})
    gateway = Gateway(INTERNAL, INTERNAL, odd)
    (sent,) = (await sent_with(place, gateway, make_messages(1))).sent
    assert sent.receipt == SendReceipt("id " + word, word, attempts=3)
    (skipped,) = (await sent_with(place, gateway, make_messages(1))).skipped
    assert skipped.receipt == sent.receipt


async def test_a_message_that_is_there_twice_is_sent_twice(place: Place) -> None:
    """Counting tells equal messages apart, and a later list may hold one more of them."""
    gateway = Gateway()
    assert kinds(await sent_with(place, gateway, make_messages(1) * 2)) == [Sent, Sent]
    assert kinds(await sent_with(place, gateway, make_messages(1) * 3)) == [Skipped, Skipped, Sent]
    assert len(gateway.accepted) == 3


async def test_another_spelling_of_a_number_is_the_same_message(place: Place) -> None:
    """The number counts, not its spelling; another text or another number is another message."""
    gateway = Gateway()
    await sent_with(place, gateway, [Sms("+6281234567890", "text")])
    spellings = ["0812-3456-7890", "6281234567890"]
    report = await sent_with(place, gateway, [Sms(spellings[0], "text"), Sms("081234567891", "text")])
    assert kinds(report) == [Skipped, Sent]
    report = await sent_with(place, gateway, [Sms(spellings[1], "text"), Sms("081234567890", "text ")])
    assert kinds(report) == [Skipped, Sent]


async def test_a_number_and_a_text_are_not_run_together(place: Place) -> None:
    """A digit more in the number and one less in the text is another message."""
    gateway = Gateway()
    await sent_with(place, gateway, [Sms("+62812345678901", " text")])
    assert kinds(await sent_with(place, gateway, [Sms("+6281234567890", "1 text")])) == [Sent]


async def test_a_key_names_its_message_wherever_it_stands(place: Place) -> None:
    """With a key the order does not count, and equal messages of two keys are two."""
    gateway = Gateway()
    one, two = (Sms("081234567890", "text", key=key) for key in ("one", "two"))
    first = await sent_with(place, gateway, [one])
    report = await sent_with(place, gateway, [two, one])
    assert kinds(report) == [Sent, Skipped]
    assert report.skipped[0].receipt == first.sent[0].receipt
    assert len(gateway.accepted) == 2


async def test_a_key_of_another_message_is_refused_and_the_others_are_sent(place: Place) -> None:
    """The same key with another number or text is that message's mistake, within a run and in a later one."""
    gateway = Gateway()
    same = Sms("081234567890", "text", key="key")
    others = [Sms("081234567890", "other text", key="key"), Sms("081234567891", "text", key="key")]
    for expected in ([Sent, Failed, Failed, Sent], [Skipped, Failed, Failed, Sent]):
        report = await sent_with(place, gateway, [same, *others, Sms("081234567892", str(expected))])
        assert kinds(report) == expected
        assert all(isinstance(failed.error, InvalidMessageError) for failed in report.failed)
        assert report.unknown == ()
    assert len(gateway.accepted) == 3


@pytest.mark.parametrize("earlier", [accept, LOST])
async def test_a_wrong_use_of_a_key_does_not_hide_its_message(place: Place, earlier: Answer) -> None:
    """A later run refuses another message under the key, and still tells the fate of the key's own message."""
    same = Sms("081234567890", "text", key="key")
    await sent_with(place, Gateway(earlier), [same])
    report = await sent_with(place, Gateway(), [evolve(same, message="other"), same])
    assert kinds(report) == [Failed, Skipped if earlier is accept else Failed]
    assert len(report.unknown) == (earlier is LOST)


async def test_a_key_given_twice_is_sent_once(place: Place) -> None:
    """The second message of a key in a run is skipped, whatever becomes of the first."""
    gateway = Gateway()
    same = Sms("081234567890", "text", key="key")
    report = await sent_with(place, gateway, [same, same], concurrency=1)
    assert report.outcomes == (Sent(same, report.sent[0].receipt), Skipped(same, None))
    assert len(gateway.accepted) == 1


async def test_a_key_that_was_certainly_not_sent_may_be_corrected(place: Place) -> None:
    """A later run can mend a refused text under its key, and the key then belongs to the new text."""
    gateway = Gateway(answers={"wrong": REFUSED})
    wrong = Sms("081234567890", "wrong", key="key")
    right = evolve(wrong, message="right")
    assert kinds(await sent_with(place, gateway, [wrong, right], concurrency=1)) == [Failed, Failed]
    assert gateway.accepted == []
    assert kinds(await sent_with(place, gateway, [right, wrong], concurrency=1)) == [Sent, Failed]
    assert gateway.accepted == ["right"]


@pytest.mark.parametrize("key", ["", 5, b"key", True])
async def test_a_key_that_names_nothing_is_refused(place: Place, key: Any) -> None:
    """A wrong key fails its own message before a request, and the others are sent."""
    gateway = Gateway()
    report = await sent_with(place, gateway, [Sms("081234567890", "text", key=key), *make_messages(2)])
    assert kinds(report) == [Failed, Sent, Sent]
    assert isinstance(the_error(report), InvalidMessageError)


async def test_invalid_messages_do_not_disturb_the_others(place: Place) -> None:
    """They fail alone in each run, and do not shift the count of equal messages."""
    gateway = Gateway()
    invalid = [Sms("no number", "text"), Sms("081234567890", " "), Sms("081234567890", "\ud83d")]
    naive = Sms("081234567890", "text", expires_at=cast(Any, "tomorrow"))
    for kind in (Sent, Skipped):
        report = await sent_with(place, gateway, [*make_messages(1), *invalid, *make_messages(1), naive])
        assert kinds(report) == [kind, Failed, Failed, Failed, kind, Failed]
        assert all(isinstance(failed.error, InvalidMessageError) for failed in report.failed)
        assert report.unknown == ()


# --- a later run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [lose_answer, LOST, INTERNAL])
async def test_a_message_in_doubt_is_named_and_not_sent(place: Place, ending: Answer) -> None:
    """Each later run fails it with a `DeliveryUnknownError`, without a request."""
    first = await sent_with(place, Gateway(answers={"1": ending}), make_messages(3))
    assert kinds(first) == [Sent, Failed, Sent]
    for _ in range(2):
        gateway = Gateway()
        report = await sent_with(place, gateway, make_messages(3))
        assert kinds(report) == [Skipped, Failed, Skipped]
        assert isinstance(the_error(report), DeliveryUnknownError)
        assert the_error(report).may_have_been_sent
        assert the_error(report).attempts == the_error(first).attempts
        assert report.unknown == report.failed
        assert gateway.texts == []


@pytest.mark.parametrize("ending", [REFUSED, UNCONNECTED])
async def test_a_message_that_is_proven_unsent_is_sent_again(place: Place, ending: Answer) -> None:
    """After a refusal or a failed connection, a later run sends the message as if for the first time."""
    gateway = Gateway(answers={"1": ending})
    assert kinds(await sent_with(place, gateway, make_messages(3))) == [Sent, Failed, Sent]
    gateway.answers.clear()
    report = await sent_with(place, gateway, make_messages(3))
    assert kinds(report) == [Skipped, Sent, Skipped]
    assert report.retried == ()


async def test_a_refusal_after_an_internal_error_leaves_doubt(place: Place) -> None:
    """The last attempt's proof says nothing about the attempts before it."""
    first = await sent_with(place, Gateway(INTERNAL, REFUSED), make_messages(1))
    assert the_error(first).may_have_been_sent
    assert (the_error(await sent_with(place, Gateway(), make_messages(1)))).attempts == 2


async def test_doubtful_messages_are_sent_again_on_demand(place: Place) -> None:
    """`resend_unknown` sends these alone; their receipts count the earlier requests, also in later runs."""
    gateway = Gateway(answers={"1": lose_answer, "2": INTERNAL})
    await sent_with(place, gateway, make_messages(4))
    gateway.answers.clear()
    report, resent = await resend(place, gateway, make_messages(4))
    assert resent == 2
    assert kinds(report) == [Skipped, Sent, Sent, Skipped]
    assert [sent.receipt.attempts for sent in report.sent] == [2, 5]
    assert report.retried == report.sent
    later, resent = await resend(place, gateway, make_messages(4))
    assert resent == 0
    assert [skipped.receipt for skipped in later.skipped][1:3] == [sent.receipt for sent in report.sent]


async def test_each_run_counts_the_messages_that_it_sends_again(place: Place) -> None:
    """A run counts its own messages in doubt, and those alone whose request was about to start."""
    await sent_with(place, Gateway(LOST), make_messages(3))
    for _ in range(2):
        assert (await resend(place, Gateway(LOST), make_messages(3)))[1] == 3
    assert (await resend(place, Gateway(), make_messages(3), limiter=Gone()))[1] == 0


@pytest.mark.parametrize("ending", [REFUSED, UNCONNECTED, LOST])
async def test_a_resend_that_fails_leaves_the_message_in_doubt(place: Place, ending: Answer) -> None:
    """Proof that the second request was not taken says nothing about the first one."""
    await sent_with(place, Gateway(LOST), make_messages(1))
    error = the_error(await sent_with(place, Gateway(ending), make_messages(1), resend_unknown=True))
    assert error.may_have_been_sent
    gateway = Gateway()
    report = await sent_with(place, gateway, make_messages(1))
    assert report.unknown == report.failed
    assert isinstance(the_error(report), DeliveryUnknownError)
    assert gateway.texts == []


@pytest.mark.parametrize("expires_at", [datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1)])  # noqa: DTZ001 - wrong
async def test_a_resend_that_is_refused_here_stays_unknown(place: Place, expires_at: datetime) -> None:
    """A message in doubt that has expired, or cannot be sent as it is now, may still have been sent."""
    await sent_with(place, Gateway(LOST), make_messages(1))
    late = evolve(make_messages(1)[0], expires_at=expires_at)
    report = await sent_with(place, Gateway(), [late], resend_unknown=True)
    assert isinstance(the_error(report), ExpiredError | InvalidMessageError)
    assert len(report.unknown) == 1
    assert await statuses(place, [late]) == [DOUBTFUL]


class Gone(Unlimited):
    """A limiter whose server does not answer."""

    async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
        """Refuse."""
        raise LimiterUnavailableError("gone")


@pytest.mark.parametrize("stop", ["account", "limiter"])
async def test_a_resend_that_was_stopped_before_its_turn_stays_unknown(place: Place, stop: str) -> None:
    """It is `Failed` and in doubt, not `Skipped`, for an earlier run may have sent it."""
    await sent_with(place, Gateway(LOST), make_messages(4))
    gateway = Gateway(ACCOUNT_REFUSED)
    limiter = Gone() if stop == "limiter" else Turns(1)
    report = await sent_with(place, gateway, make_messages(4), limiter=limiter, concurrency=4, resend_unknown=True)
    assert isinstance(report.stopped_by, LimiterUnavailableError if stop == "limiter" else QuotaExhaustedError)
    assert kinds(report) == [Failed] * 4
    assert len(report.unknown) == 4
    assert len(gateway.texts) == (0 if stop == "limiter" else 1)
    assert await statuses(place, make_messages(4)) == [DOUBTFUL] * 4


async def test_a_run_that_stopped_names_the_doubtful_messages_that_it_pulled(place: Place) -> None:
    """Without resending, a message in doubt is named, and not skipped with the reason of the stop."""
    await sent_with(place, Gateway(REFUSED, answers={"1": LOST, "3": LOST}), make_messages(4))
    report = await sent_with(place, Gateway(ACCOUNT_REFUSED), make_messages(4), concurrency=4)
    assert isinstance(report.stopped_by, QuotaExhaustedError)
    assert [failed.sms.message for failed in report.unknown] == ["1", "3"]


async def test_resending_needs_a_journal() -> None:
    """Without a journal no earlier run is known, so the option is REFUSED at once."""
    client = client_of(Gateway())
    with pytest.raises(ValueError, match=r"^resend_unknown\b"):
        client.bulk([], resend_unknown=True)
    with pytest.raises(ValueError, match=r"^resend_unknown\b"):
        await client.send_many([], resend_unknown=True)


# --- a run that ends early ------------------------------------------------------------------------------------------


class ConsumerError(Exception):
    """An error of the caller's own."""


@define
class Interrupted:
    """A run of two messages: the first waits for a refusal of the account, the second is brought into a phase."""

    disk: Disk | TableLock
    limiter: Turns = field(factory=lambda: Turns(1))
    refuse: asyncio.Event = field(factory=asyncio.Event)
    answer: asyncio.Event = field(factory=asyncio.Event)
    backing_off: bool = False

    async def stopper(self, request: httpx.Request) -> httpx.Response:
        """Refuse the account when it is time."""
        await self.refuse.wait()
        return await ask(ACCOUNT_REFUSED, request)

    async def brought_into(self, phase: str, gateway: Gateway) -> None:
        """Bring the second message into a phase."""

        async def slow(request: httpx.Request) -> httpx.Response:
            await self.answer.wait()
            return accept(request)

        async def then_held(request: httpx.Request) -> httpx.Response:
            self.disk.hold()
            return accept(request)

        await until(lambda: gateway.texts == ["0"] and self.limiter.asked == 2)
        gateway.answers["1"] = {"wire": slow, "back-off": INTERNAL, "outcome": then_held}.get(phase, accept)
        if phase == "token":
            return
        if phase == "intent":
            self.disk.hold()
        self.limiter.let()
        match phase:
            case "intent" | "outcome":
                await until(lambda: self.disk.held)
            case "wire":
                await until(lambda: gateway.texts == ["0", "1"])
            case "back-off":
                await until(lambda: self.backing_off)
                await asyncio.sleep(0)

    def let_go(self) -> None:
        """Let everything that waits go on."""
        self.refuse.set()
        self.answer.set()
        self.limiter.let()
        self.disk.release()


EXPECTED: dict[str, tuple[type[Outcome], Status, Status]] = {
    # the caller's outcome and the status on the disk; and the status on the disk after an exception
    "token": (Skipped, UNSENT, UNSENT),
    "intent": (Skipped, UNSENT, UNSENT),
    "wire": (Sent, SENT, DOUBTFUL),
    "back-off": (Failed, DOUBTFUL, DOUBTFUL),
    "outcome": (Sent, SENT, SENT),
}


@pytest.mark.parametrize("phase", EXPECTED)
@pytest.mark.parametrize("how", ["leaving", "by itself", "exception", "cancelled"])
async def test_an_end_in_any_phase_leaves_the_truth(
    how: str, phase: str, place: Place, disk: Disk | TableLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that had not started is not in doubt, one on the wire is, and a finished write is told."""
    scene = Interrupted(disk)

    def long(_: float, high: float) -> float:
        scene.backing_off = True
        return high

    monkeypatch.setattr(random, "uniform", long)
    gateway = Gateway(answers={"0": scene.stopper})
    client = client_of(gateway, limiter=scene.limiter, retry=RetryPolicy(initial_wait=1000, max_wait=1000))
    journal = open_journal(place)
    bulk = client.bulk(make_messages(2), concurrency=2, journal=journal)
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
        assert await statuses(place, make_messages(2)) == [UNSENT, then]
    else:
        assert outcomes == {}
        assert await statuses(place, make_messages(2)) == [DOUBTFUL, after_an_exception]
    assert gateway.texts.count("1") == (phase in {"wire", "back-off", "outcome"})


async def test_a_message_that_is_looked_up_when_the_run_ends_does_not_queue_for_a_token(
    place: Place, disk: Disk | TableLock
) -> None:
    """It is skipped as soon as the journal has answered, however long the limiter would make it wait."""
    limiter = Turns(1)

    async def source() -> AsyncIterator[Sms]:
        yield make_messages(1)[0]
        await until(lambda: disk.held)
        yield make_messages(2)[1]

    async with open_journal(place) as journal, asyncio.timeout(PATIENCE):
        await journal.begin_run()  # so that the file is there, and the next write is an intent
        await journal.end_run()
        disk.hold()
        bulk = client_of(Gateway(), limiter=limiter).bulk(source(), journal=journal, concurrency=2)
        async with bulk as run:
            await until(lambda: run.pulled == 2)
            asyncio.get_running_loop().call_soon(disk.release)
        assert [type(outcome) async for outcome in run] == [Skipped, Skipped]
    assert limiter.asked == 1


async def test_a_block_is_left_when_everything_is_written(place: Place, disk: Disk | TableLock) -> None:
    """After an exception the block is left once each outcome that was being written is on the disk."""

    async def then_held(request: httpx.Request) -> httpx.Response:
        disk.hold()
        return accept(request)

    async with open_journal(place) as journal:
        bulk = client_of(Gateway(then_held)).bulk(make_messages(1), journal=journal)
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
        assert await statuses(place, make_messages(1)) == [SENT]


async def test_a_message_that_expires_while_its_intent_is_written_is_not_sent(
    place: Place, disk: Disk | TableLock
) -> None:
    """A slow disk uses up a message's time as well, and then the message certainly was not sent."""
    gateway, limiter = Gateway(), Turns(0)
    expires_at = datetime.now(UTC) + timedelta(milliseconds=300)
    sms = evolve(make_messages(1)[0], expires_at=expires_at)
    run = asyncio.create_task(sent_with(place, gateway, [sms], limiter=limiter))
    await until(lambda: limiter.asked)
    disk.hold()
    limiter.let()
    await until(lambda: disk.held and datetime.now(UTC) > expires_at)
    disk.release()
    report = await run
    assert isinstance(the_error(report), ExpiredError)
    assert not the_error(report).may_have_been_sent
    assert gateway.texts == []
    assert await statuses(place, [sms]) == [UNSENT]


async def test_a_journal_that_is_closed_in_mid_run_stops_the_run(place: Place) -> None:
    """Each message that was pulled has its outcome, and those on the wire are named as unknown."""
    gate = asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        await gate.wait()
        return accept(request)

    gateway, source, journal = Gateway(slow), Source(make_messages(9)), open_journal(place)
    run = asyncio.create_task(client_of(gateway).send_many(source, journal=journal, concurrency=3))
    await until(lambda: len(gateway.texts) == 3)
    await journal.aclose()
    gate.set()
    report = await run
    assert isinstance(report.stopped_by, JournalError)
    assert len(report.outcomes) == len(source.pulled)
    assert [failed.sms.message for failed in report.unknown] == ["0", "1", "2"]
    assert await statuses(place, make_messages(3)) == [DOUBTFUL] * 3


# --- a disk that fails while a run is on ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["no room", "no sync"])
@pytest.mark.parametrize("after", [0, 1, 50])
async def test_a_disk_that_fails_stops_the_run_and_costs_no_message(
    how: str, after: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops by a `JournalError`, and each message that may have been sent is named. With a good disk, a later
    run sends the rest, and no message twice.
    """
    everybody, tokens = make_messages(1000), itertools.count()
    full = FullDisk(monkeypatch, how)

    class Filling(Unlimited):
        async def acquire(self, *, priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> None:
            if next(tokens) == after:
                full.fails = True

    gateway, source = Gateway(), Source(everybody)
    async with SqliteJournal(path) as journal:
        report = await client_of(gateway, limiter=Filling()).send_many(source, journal=journal, concurrency=8)
        full.fails = False
    assert isinstance(report.stopped_by, JournalError)
    assert full.sentence in str(report.stopped_by)
    assert len(source.pulled) == len(report.outcomes) < 1000
    assert len(report.sent) + len(report.failed) + len(report.skipped) == len(report.outcomes)
    assert {skipped.reason for skipped in report.skipped} <= {report.stopped_by}
    assert report.failed == report.unknown
    sent, unknown = ({one.sms.message for one in part} for part in (report.sent, report.unknown))
    assert set(gateway.accepted) <= sent | unknown
    on_the_disk = await statuses(path, everybody)
    assert all(on_the_disk[int(text)] in {DOUBTFUL, SENT} for text in gateway.accepted)
    again = await sent_with(path, gateway, everybody)
    assert again.stopped_by is None
    assert {failed.sms.message for failed in again.unknown} == unknown
    assert {skipped.sms.message for skipped in again.skipped} == sent
    assert len(set(gateway.accepted)) == len(gateway.accepted)
    assert {*gateway.accepted, *unknown} == {sms.message for sms in everybody}


@pytest.mark.parametrize("how", ["no room", "no sync"])
@pytest.mark.parametrize("key", [None, "key"])
async def test_after_a_failed_write_the_same_journal_serves_the_next_run(
    path: Path, how: str, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run skips the message that was sent, and sends those whose intent could not be written."""
    full, gateway = FullDisk(monkeypatch, how), Gateway()
    messages = [evolve(sms, key=key and key + sms.message) for sms in make_messages(3)]
    async with SqliteJournal(path) as journal:
        client = client_of(gateway)
        assert kinds(await client.send_many(messages[:1], journal=journal)) == [Sent]
        full.fails = True
        stopped = await client.send_many(messages, journal=journal, concurrency=1)
        assert kinds(stopped) == [Skipped, Skipped]
        assert gateway.accepted == ["0"]
        full.fails = False
        again = await client.send_many(messages, journal=journal)
        assert kinds(again) == [Skipped, Sent, Sent]
    assert kinds(await sent_with(path, gateway, messages)) == [Skipped] * 3
    assert gateway.accepted == ["0", "1", "2"]


async def test_a_stopped_message_whose_end_cannot_be_kept_is_told_as_in_doubt(
    place: Place, disk: Disk | TableLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that was stopped between its intent and its request was not sent. If the journal cannot note that, a
    later run finds it in doubt, and this run says the same.
    """

    async def fail(*_: object) -> None:
        raise JournalError("full")

    gateway, limiter = Gateway(), Turns(0)
    async with open_journal(place) as journal:
        monkeypatch.setattr(journal, "settle", fail)
        bulk = client_of(gateway, limiter=limiter).bulk(make_messages(1), journal=journal)
        async with bulk as run:
            await until(lambda: limiter.asked)
            disk.hold()
            limiter.let()
            await until(lambda: disk.held)
            asyncio.get_running_loop().call_soon(disk.release)
        told = [isinstance(outcome, Failed) and outcome.error.may_have_been_sent async for outcome in run]
    assert gateway.texts == []
    assert await statuses(place, make_messages(1)) == [DOUBTFUL if told == [True] else UNSENT]


# --- a process that is killed ---------------------------------------------------------------------------------------

# The run of a process that kills itself when the given step comes for the fifth time.
KILLED = """
import asyncio, itertools, os, signal, sys
import httpx
from oca_sms_async import AsyncOcaSms, Sms, SqliteJournal, Unlimited
from oca_sms_async.postgres import PostgresJournal

step, path, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3])
times, kinds = itertools.count(1), []
sync, send = os.fsync, httpx.AsyncClient.send

def came(here):
    if here == step and next(times) == 5:
        os.kill(os.getpid(), signal.SIGKILL)

class Limiter(Unlimited):
    async def acquire(self, **_):
        came("before the intent")

def noting(method, kind):
    def noted(journal, *arguments, **options):
        kinds.append(kind)
        return method(journal, *arguments, **options)
    return noted

def synced(descriptor):
    written, kinds[:] = kinds[:], []
    for kind in written:
        came(f"before the {kind} is synced")
    sync(descriptor)
    for kind in written:
        came(f"after the {kind} is synced")

async def sent(*arguments, **options):
    response = await send(*arguments, **options)
    came("after the request")
    return response

def stored(method, kind):
    async def noted(journal, *arguments, **options):
        came(f"before the {kind} is stored")
        result = await method(journal, *arguments, **options)
        came(f"after the {kind} is stored")
        return result
    return noted

SqliteJournal.intend = noting(SqliteJournal.intend, "intent")
SqliteJournal.settle = noting(SqliteJournal.settle, "outcome")
PostgresJournal.intend = stored(PostgresJournal.intend, "intent")
PostgresJournal.settle = stored(PostgresJournal.settle, "outcome")
os.fsync, httpx.AsyncClient.send = synced, sent

async def main():
    client = AsyncOcaSms.from_env(limiter=Limiter())
    messages = [Sms(f"+62812345{it:05}", str(it)) for it in range(12)]
    journal = PostgresJournal(path, name="acme") if "dbname=" in path else SqliteJournal(path)
    await client.send_many(messages, concurrency=concurrency, journal=journal)

asyncio.run(main())
"""
# For each step of a message alone at work: the kind of journal that has it, whether the message is in doubt afterwards,
# and whether the gateway has it.
STEPS = {
    "before the intent": (("file", "postgres"), 0, 0),
    "before the intent is synced": (("file",), 1, 0),
    "after the intent is synced": (("file",), 1, 0),
    "before the intent is stored": (("postgres",), 0, 0),
    "after the intent is stored": (("postgres",), 1, 0),
    "after the request": (("file", "postgres"), 1, 1),
    "before the outcome is synced": (("file",), 0, 1),
    "after the outcome is synced": (("file",), 0, 1),
    "before the outcome is stored": (("postgres",), 1, 1),
    "after the outcome is stored": (("postgres",), 0, 1),
}


@pytest.mark.parametrize(
    ("concurrency", "api"), [(1, "regular-v1"), (4, "regular-v2"), (4, "premium-v2")], indirect=["api"]
)
@pytest.mark.parametrize(
    ("place", "step"), [(kind, step) for step, (places, *_) in STEPS.items() for kind in places], indirect=["place"]
)
async def test_a_run_that_was_killed_is_resumed_without_doubling_or_losing(
    step: str, concurrency: int, place: Place, sandbox: Sandbox, client: AsyncOcaSms, api: str
) -> None:
    """The next run sends the rest, names the messages that were under way and no more, and sends no message twice. The
    history, where there is one, and a resend complete the list.
    """
    async with child(KILLED, step, str(place), str(concurrency), **sandbox.environment(api)) as process:
        assert await process.wait() == -signal.SIGKILL
    everybody, before = make_messages(12), {message.text for message in sandbox.inbox}
    _, doubtful, accepted = STEPS[step]
    if isinstance(place, str):  # the server still stores an outcome that a killed client has just sent
        await until(lambda: count_clients(place) == 0)
        execute(place, "UPDATE oca_sms_message SET busy_until = now()")  # and others wait for a sender for a while
    async with open_journal(place) as journal:
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
        found = set[str]()
        if client.has_history:
            reconciled = await client.reconcile(journal, everybody)
            found = {sent.sms.message for sent in reconciled.found}
            assert found == before & unknown
            assert {sms.message for sms in reconciled.doubtful} == unknown - before
        again = await client.send_many(everybody, journal=journal, resend_unknown=True)
        assert {sent.sms.message for sent in again.sent} == unknown - found
    twice = (before & unknown) - found
    assert sorted(message.text for message in sandbox.inbox) == sorted([*(sms.message for sms in everybody), *twice])


# --- any run, any crash ---------------------------------------------------------------------------------------------


@frozen
class Part:
    """One run: the ends of its requests in order, the event after which it crashes, and whether it resends.

    A crash may also be a power cut, which tears the line that was being written.
    """

    ends: list[str]
    crashes_after: int | None
    resend: bool
    torn: float


@frozen
class History:
    """Messages, by number and with or without keys, and the runs that they go through."""

    messages: list[tuple[int, bool]]
    concurrency: int
    parts: list[Part]


ENDS = st.lists(st.sampled_from(["taken", "taken", "taken and lost", "lost", "refused", "no connection"]), max_size=12)
CRASHES = st.one_of(st.none(), st.integers(1, 40))
NUMBERS = st.integers(0, 12)
TORN = st.floats(0, 1)
HISTORIES = st.one_of(
    # The gateway cannot tell equal messages apart, so these are never resent.
    st.builds(
        History,
        messages=st.lists(st.tuples(NUMBERS, st.just(value=False)), max_size=10),
        concurrency=st.integers(1, 4),
        parts=st.lists(st.builds(Part, ENDS, CRASHES, st.just(value=False), TORN), max_size=4),
    ),
    st.builds(
        History,
        messages=st.lists(st.tuples(NUMBERS, st.booleans()), max_size=10, unique_by=lambda one: one[0]),
        concurrency=st.integers(1, 4),
        parts=st.lists(st.builds(Part, ENDS, CRASHES, st.booleans(), TORN), max_size=4),
    ),
)
ERRORS: dict[str, Callable[[], Exception]] = {
    "taken and lost": DeliveryUnknownError,
    "lost": DeliveryUnknownError,
    "refused": lambda: InvalidRequestError(406, 39),
    "no connection": ConnectionFailedError,
}


# The first line of a journal: format, version, salt, length, checksum.
HEAD = len("oca-sms-journal 2 ") + 32 + 1 + 20 + 1 + 8 + 1


class Life:
    """The messages of a bulk, run after run: a fake send, and a journal that is copied when it crashes."""

    def __init__(self, history: History, directory: Path) -> None:
        self.history = history
        self.directory = directory
        self.messages = [
            Sms(f"+62812345{it:05}", "text", key=f"key {it}" if keyed else None) for it, keyed in history.messages
        ]
        self.taken = Counter[str]()
        self.uids = itertools.count()
        self.path = directory / "0"
        self.part = Part([], None, resend=False, torn=1)
        self.ends = iter(self.part.ends)
        self.events = 0
        self.synced = 0  # bytes of the file
        self.lock = threading.RLock()
        self.crashed = False

    def happen(self) -> None:
        """Count an event, in whatever thread, and crash if it is the last one."""
        with self.lock:
            self.events += 1
            if self.events == self.part.crashes_after:
                self.crashed = True
                content = self.path.read_bytes() if self.path.exists() else b""
                torn = self.synced + round(self.part.torn * max(len(content) - self.synced, 0))
                # The head is one sector, so it is on the disk whole, or as zeros.
                self.next_path.write_bytes(content[:torn] if torn >= HEAD else bytes(torn))

    def sync(self, descriptor: int) -> None:
        """Note how much of the file is on the disk, with an event before it and one after it."""
        self.happen()
        with self.lock:
            status = os.fstat(descriptor)
            if self.path.exists() and os.path.samestat(status, self.path.stat()):
                self.synced = status.st_size
        self.happen()

    def open_journal(self) -> SqliteJournal | PostgresJournal:
        """Return the journal of the next run."""
        return SqliteJournal(self.path)

    @property
    def next_path(self) -> Path:
        """The path of the journal after a crash."""
        return self.path.with_name(self.path.name + "+")

    async def send(self, sms: Sms, call: CallState) -> SendReceipt:
        """End as the next end says, in the way of the client's own send."""
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
                    assert self.part.resend, "sent twice without a demand"
                    assert doubted, "sent twice without a doubt"
            self.happen()
        if end in ERRORS:
            error = cast(Any, ERRORS[end]())
            call.failed(error)
            raise call.conclude(error)
        return SendReceipt(f"uid {next(self.uids)}", "sent", attempts=call.attempts)

    async def go_through(self, part: Part) -> BulkReport | None:
        """Run once; None if it crashed."""
        self.part, self.ends, self.events, self.crashed = part, iter(part.ends), 0, False
        content = self.path.read_bytes() if self.path.exists() else b""
        self.synced = len(content) if content.strip(b"\0") else 0
        source = Source(self.messages)
        async with self.open_journal() as journal:
            recording = JournalRun(journal, number, resend_unknown=part.resend)
            async with BulkRun(self.send, source, self.history.concurrency, recording) as bulk:
                report = await bulk.report()
        if self.crashed:
            self.path = self.next_path
            return None
        assert len(report.sent) + len(report.failed) + len(report.skipped) == len(source.pulled)
        assert isinstance(report.stopped_by, ConnectionFailedError) or len(source.pulled) == len(self.messages)
        return report


class LifeInDatabase(Life):
    """The same over PostgreSQL. Nothing is stored of what a run does after its crash."""

    names: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, history: History, directory: Path, place: str) -> None:
        super().__init__(history, directory)
        self.place = place
        self.name = f"life {next(self.names)}"

    def happen(self) -> None:
        """Count an event, and crash if it is the last one."""
        self.events += 1
        self.crashed = self.crashed or self.events == self.part.crashes_after

    def open_journal(self) -> PostgresJournal:
        """Return the journal of the next run."""
        return MortalJournal(self)


class MortalJournal(PostgresJournal):
    """A journal with an event before and after each of its writes."""

    def __init__(self, life: LifeInDatabase) -> None:
        super().__init__(life.place, name=life.name)
        self._life = life

    def intend(self, message: Lookup, *, seconds: float) -> asyncio.Future[bool]:
        """Claim a message."""
        return asyncio.ensure_future(self._write(partial(super().intend, message, seconds=seconds), dead=True))

    def settle(self, message: Lookup, entry: JournalEntry) -> asyncio.Future[None]:
        """Store an outcome."""
        return asyncio.ensure_future(self._write(partial(super().settle, message, entry), dead=None))

    async def _write(self, write: Callable[[], asyncio.Future[Any]], *, dead: Any) -> Any:
        self._life.happen()
        if self._life.crashed:
            return dead
        written = await write()
        self._life.happen()
        return written


def live(life: Life) -> None:
    """Go through all runs of a history and a last one, and check what became of its messages."""
    for part in life.history.parts:
        asyncio.run(life.go_through(part))
    report = asyncio.run(life.go_through(Part([], None, resend=False, torn=1)))
    assert report is not None
    assert report.failed == report.unknown
    named = Counter(failed.sms.phone for failed in report.unknown)
    for phone, count in Counter(sms.phone for sms in life.messages).items():
        assert life.taken[phone] + named[phone] >= count
    assert all(one.receipt is not None for one in report.skipped)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORIES)
def test_no_message_in_postgres_is_lost_or_doubled_whatever_happens(database: str, history: History) -> None:
    """As below, over the journal in PostgreSQL."""
    with tempfile.TemporaryDirectory() as directory:
        live(LifeInDatabase(history, Path(directory), database))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORIES)
def test_no_message_is_lost_or_doubled_whatever_happens(monkeypatch: pytest.MonkeyPatch, history: History) -> None:
    """After any runs and crashes each message is sent or named. It is taken twice only if it was in doubt and a run was
    told to send it again. The outcomes of each run add up.
    """
    with tempfile.TemporaryDirectory() as directory, monkeypatch.context() as patched:
        life = Life(history, Path(directory))
        patched.setattr(os, "fsync", life.sync)
        live(life)

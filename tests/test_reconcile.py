"""Reconciling: the gateway's history settles doubtful messages, and leaves the others as they are."""

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen
from each_api import V2, connect, each_api_with_history
from history_proxy import HistoryProxy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from in_memory import make_messages
from raw_gateway import http

from oca_sms_async import (
    ApiError,
    AsyncOcaSms,
    ConnectionFailedError,
    DeliveryUnknownError,
    InternalError,
    InvalidCredentialsError,
    JournalError,
    OcaSmsError,
    ReconcileReport,
    SendReceipt,
    Sent,
    Sms,
    SmsRecord,
    SqliteJournal,
    UnexpectedResponseError,
    Unlimited,
)
from oca_sms_async._journal import JournalEntry, JournalRun, Lookup, Status
from oca_sms_async._messages import check_number
from oca_sms_async._reconcile import earliest, reconcile
from oca_sms_async.sandbox import Sandbox

PHONE, TEXT = "+6281234500000", "Acme: your parcel is here"
MINUTE, HOUR, MOMENT = timedelta(minutes=1), timedelta(hours=1), timedelta(milliseconds=1)
DOUBTFUL, SENT = Status.DOUBTFUL, Status.SENT


def number(phone: str) -> str:
    """Return a number as the client reads it."""
    return check_number(phone, "ID")


def lose(sandbox: Sandbox, *texts: str, answers: bool, times: int = 1) -> None:
    """Let the sandbox lose the next sends of these messages, or its answers to them."""
    for text in texts:
        sandbox.when(make_messages(int(text) + 1)[-1].phone).respond(
            "accept-then-drop" if answers else "reset", times=times
        )


# --- over sockets, with a sandbox that loses messages on demand, and a proxy that changes the history ----------------


@pytest.fixture
async def proxy(sandbox: Sandbox, api: str) -> AsyncIterator[HistoryProxy]:
    """A proxy in front of the sandbox, which changes nothing for now."""
    async with HistoryProxy(sandbox.url_of(api)).serve() as served:
        yield served


@pytest.fixture
async def client(sandbox: Sandbox, proxy: HistoryProxy, api: str) -> AsyncIterator[AsyncOcaSms]:
    """A client of the sandbox, through that proxy."""
    async with connect(sandbox, api, base_url=proxy.base_url) as opened:
        yield opened


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    """A journal."""
    async with SqliteJournal(tmp_path / "run.journal") as opened:
        yield opened


async def known(journal: SqliteJournal, messages: Iterable[Sms]) -> list[JournalEntry]:
    """Return the entries that a run finds of these messages."""
    async with JournalRun(journal, number) as run:
        return [lookup.entry async for _, lookup in run.lookups(messages)]


@each_api_with_history
async def test_what_the_gateway_took_is_found_and_nothing_else(
    client: AsyncOcaSms, sandbox: Sandbox, journal: SqliteJournal, api: str
) -> None:
    """Of five messages in doubt, the three that arrived are found with the gateway's ids, and later skipped. The other
    two stay in doubt, and a resend completes the list, each message once.
    """
    messages = make_messages(12)
    lose(sandbox, "1", "4", "8", answers=True)
    lose(sandbox, "7", "9", answers=False)
    assert len((await client.send_many(messages, journal=journal)).unknown) == 5
    uids = {message.text: message.msg_uid for message in sandbox.inbox}
    report = await client.reconcile(journal, iter(messages))
    assert [found.sms for found in report.found] == [messages[it] for it in (1, 4, 8)]
    word = "send" if api in V2 else "sent"  # of a record; a receipt's is «sent» in both
    assert [found.receipt for found in report.found] == [SendReceipt(uids[it], word, 1) for it in "148"]
    assert all(any(found.sms is sms for sms in messages) for found in report.found)
    assert [any(sms is own for own in messages) for sms in report.doubtful] == [True, True]
    assert [sms.message for sms in report.doubtful] == ["7", "9"]
    later = await client.send_many(messages, journal=journal)
    assert {one.sms.message: one.receipt for one in later.skipped} == {
        text: SendReceipt(uid, word if text in "148" else "sent", 1) for text, uid in uids.items()
    }
    assert [failed.sms.message for failed in later.unknown] == ["7", "9"]
    await client.send_many(messages, journal=journal, resend_unknown=True)
    assert sorted(message.text for message in sandbox.inbox) == sorted(sms.message for sms in messages)


@each_api_with_history
async def test_what_was_found_is_on_the_disk_at_once(
    client: AsyncOcaSms, sandbox: Sandbox, tmp_path: Path, journal: SqliteJournal
) -> None:
    """A crash right after a look into the history forgets none of it."""
    lose(sandbox, "0", answers=True)
    await client.send_many(make_messages(1), journal=journal)
    await client.reconcile(journal, make_messages(1))
    async with SqliteJournal(shutil.copy(tmp_path / "run.journal", tmp_path / "copy")) as copy:
        assert [entry.status for entry in await known(copy, make_messages(1))] == [SENT]


@each_api_with_history
async def test_without_doubt_the_history_is_not_asked(
    client: AsyncOcaSms, proxy: HistoryProxy, sandbox: Sandbox, journal: SqliteJournal
) -> None:
    """Without a message in doubt no history is asked for, and a message that was never sent is not in doubt."""
    sandbox.refused_numbers = [make_messages(2)[1].phone]
    await client.send_many(make_messages(2), journal=journal)
    assert await client.reconcile(journal, make_messages(4)) == ReconcileReport((), ())
    assert await client.reconcile(journal, []) == ReconcileReport((), ())
    assert proxy.asked == 0


def without_records(_: bytes) -> bytes:
    """Return a history that lags behind."""
    return http([])


def without_the_latest(answer: bytes) -> bytes:
    """Return a history that lags by one record."""
    return http(json.loads(answer.partition(b"\r\n\r\n")[2])[:-1])


FAILING: dict[str, tuple[Callable[[bytes], bytes], type[OcaSmsError]]] = {
    "truncated": (lambda answer: answer[:-20], DeliveryUnknownError),
    "shortened": (lambda answer: http(answer.partition(b"\r\n\r\n")[2][:-20]), UnexpectedResponseError),
    "no answer": (lambda _: b"", DeliveryUnknownError),
    "500": (lambda _: http({}, "500 Oops"), ApiError),
    "500 and 13": (lambda _: http({"errors": [{"message": "", "code": 13}]}, "500 Oops"), InternalError),
    "401": (lambda _: http({"errors": [{"message": "", "code": 17}]}, "401 No"), InvalidCredentialsError),
    "no record": (lambda _: http([{"msg_uid": "x"}]), UnexpectedResponseError),
    "no list": (lambda _: http({"data": []}), UnexpectedResponseError),
    "garbage": (lambda _: http(b"\xff<html>"), UnexpectedResponseError),
}


@pytest.mark.parametrize(("change", "error"), FAILING.values(), ids=FAILING)
@each_api_with_history
async def test_a_history_that_fails_changes_nothing(
    change: Callable[[bytes], bytes],
    error: type[OcaSmsError],
    client: AsyncOcaSms,
    proxy: HistoryProxy,
    sandbox: Sandbox,
    journal: SqliteJournal,
) -> None:
    """Its error comes out, does not claim that a message may have been sent, and leaves each message in doubt, so that
    the next look finds it.
    """
    lose(sandbox, "1", answers=True)
    lose(sandbox, "2", answers=False)
    await client.send_many(make_messages(4), journal=journal)
    before = await known(journal, make_messages(4))
    proxy.history = change
    with pytest.raises(error) as caught:
        await client.reconcile(journal, make_messages(4))
    assert type(caught.value) is error
    assert not caught.value.may_have_been_sent
    assert await known(journal, make_messages(4)) == before
    proxy.history = bytes
    report = await client.reconcile(journal, make_messages(4))
    assert ([one.sms.message for one in report.found], [sms.message for sms in report.doubtful]) == (["1"], ["2"])


async def test_a_gateway_that_is_down_changes_nothing(
    sandbox: Sandbox, client: AsyncOcaSms, journal: SqliteJournal
) -> None:
    """«Could not connect» is the error, and the message stays in doubt."""
    lose(sandbox, "0", answers=True)
    await client.send_many(make_messages(1), journal=journal)
    async with HistoryProxy(sandbox.base_url).serve() as gone:
        elsewhere = AsyncOcaSms(sandbox.username, sandbox.password, base_url=gone.base_url, limiter=Unlimited())
    async with elsewhere:
        with pytest.raises(ConnectionFailedError):
            await elsewhere.reconcile(journal, make_messages(1))
    assert [one.sms for one in (await client.reconcile(journal, make_messages(1))).found] == make_messages(1)


@pytest.mark.parametrize("change", [without_records, without_the_latest])
@each_api_with_history
async def test_a_history_that_lags_leaves_the_message_in_doubt(
    change: Callable[[bytes], bytes], client: AsyncOcaSms, proxy: HistoryProxy, sandbox: Sandbox, journal: SqliteJournal
) -> None:
    """Not found proves nothing: the message is not sent, and is found once the history has caught up."""
    lose(sandbox, "2", answers=True)
    await client.send_many(make_messages(3), journal=journal, concurrency=1)
    proxy.history = change
    for _ in range(2):
        assert await client.reconcile(journal, make_messages(3)) == ReconcileReport((), (make_messages(3)[2],))
    assert [
        failed.sms for failed in (await client.send_many(make_messages(3), journal=journal)).unknown
    ] == make_messages(3)[2:]
    proxy.history = bytes
    assert [found.sms for found in (await client.reconcile(journal, make_messages(3))).found] == make_messages(3)[2:]


@each_api_with_history
async def test_of_equal_messages_as_many_are_found_as_there_are_records(
    client: AsyncOcaSms, sandbox: Sandbox, journal: SqliteJournal
) -> None:
    """Of five equal messages two arrived: two are found, each with a record of its own. A second look finds no more."""
    messages = make_messages(1) * 5
    lose(sandbox, "0", answers=True, times=2)
    await client.send_many(messages[:2], journal=journal)
    lose(sandbox, "0", answers=False, times=3)
    await client.send_many(messages, journal=journal)
    report = await client.reconcile(journal, messages)
    assert {found.receipt.msg_uid for found in report.found} == {message.msg_uid for message in sandbox.inbox}
    assert (len(report.found), len(report.doubtful)) == (2, 3)
    assert await client.reconcile(journal, messages) == ReconcileReport((), tuple(messages[:3]))


@each_api_with_history
async def test_a_record_of_a_sent_message_settles_no_equal_one(
    client: AsyncOcaSms, sandbox: Sandbox, journal: SqliteJournal
) -> None:
    """The record of a message with a receipt says nothing about its twin, whose request was lost."""
    await client.send_many(make_messages(1), journal=journal)
    lose(sandbox, "0", answers=False)
    twins = [*make_messages(1), evolve(make_messages(1)[0], key="twin")]
    assert len((await client.send_many(twins, journal=journal)).unknown) == 1
    assert await client.reconcile(journal, twins) == ReconcileReport((), (twins[1],))


async def test_a_journal_is_not_reconciled_while_a_run_uses_it(
    client: AsyncOcaSms, tmp_path: Path, journal: SqliteJournal, proxy: HistoryProxy
) -> None:
    """The same object and another one are refused, and no run begins during a look into the history."""
    async with (
        client.bulk(make_messages(2), journal=journal) as outcomes,
        SqliteJournal(tmp_path / "run.journal") as other,
    ):
        await anext(outcomes)
        for one in (journal, other):
            with pytest.raises(JournalError, match="another run uses it"):
                await client.reconcile(one, make_messages(2))
    assert proxy.asked == 0
    started = asyncio.Event()

    async def messages() -> AsyncIterator[Sms]:
        started.set()
        await asyncio.Event().wait()
        yield make_messages(1)[0]

    looking = asyncio.create_task(client.reconcile(journal, messages()))
    await started.wait()
    with pytest.raises(JournalError, match="another run uses it"):
        await client.send_many(make_messages(2), journal=journal)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert len((await client.send_many(make_messages(2), journal=journal)).skipped) == 2


# --- the record that settles a message ------------------------------------------------------------------------------

START = datetime(2026, 1, 1, tzinfo=UTC)
UNTIL = START + 10 * MINUTE


class KnownJournal:
    """A journal in memory with given answers, in the order of the messages; `held` are the ids that it holds."""

    def __init__(self, lookups: Iterable[Lookup], held: Iterable[str] = ()) -> None:
        self.held = set(held)
        self._lookups = [*lookups]
        self._coming = iter(self._lookups)

    async def begin_run(self) -> None:
        """Begin with the first answer."""
        self._coming = iter(self._lookups)

    async def lookup_next(self, key: str | None, number: str, text: str) -> Lookup:
        """Give the next answer."""
        return next(self._coming)

    async def lookup(self, key: str) -> JournalEntry | None:
        """Refuse: a run does not ask so."""
        raise AssertionError

    async def lookup_key(self, key: str, number: str, text: str) -> Lookup:
        """Refuse: a run does not ask so."""
        raise AssertionError

    async def forget(self, before: datetime, *, doubtful: bool = False) -> int:
        """Refuse: nothing is forgotten."""
        raise AssertionError

    async def intend(self, message: Lookup, *, seconds: float) -> bool:
        """Refuse: nothing is sent."""
        raise AssertionError

    async def settle(self, message: Lookup, entry: JournalEntry) -> None:
        """Refuse: nothing is sent."""
        raise AssertionError

    async def find(self, message: Lookup, receipt: SendReceipt) -> bool:
        """Note an id unless it is held."""
        free = receipt.msg_uid not in self.held
        self.held.add(receipt.msg_uid)
        return free

    async def end_run(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""


def answer(
    identity: object, began: datetime = START, ended: datetime = UNTIL, *, status: Status = DOUBTFUL, attempts: int = 1
) -> Lookup:
    """Return the journal's answer about a message."""
    receipt = SendReceipt(f"own {identity}", "sent", attempts) if status is SENT else None
    entry = JournalEntry(status, receipt, attempts)
    return Lookup(str(identity).encode(), entry, began=began.timestamp(), ended=ended.timestamp())


def record(sms: Sms, created_at: datetime | None, **changes: Any) -> SmsRecord:
    """Return the gateway's record of a message."""
    return evolve(SmsRecord("uid", number(sms.phone), sms.message, "delivered", created_at, 1), **changes)


async def look_up(journal: Any, messages: Iterable[Sms], records: Sequence[SmsRecord]) -> ReconcileReport:
    """Return the report of a look into this history."""

    async def history() -> list[SmsRecord]:
        return [*records]

    return await reconcile(JournalRun(journal, number), messages, number, history)


async def leave_in_doubt(journal: SqliteJournal, messages: Iterable[Sms]) -> datetime:
    """Have a run leave these messages in doubt, and return a moment right after it."""
    async with JournalRun(journal, number) as run:
        for _, lookup in [found async for found in run.lookups(messages)]:
            assert await journal.intend(lookup, seconds=10)
            await journal.settle(lookup, JournalEntry(DOUBTFUL, attempts=1))
    return datetime.now(UTC)


@pytest.mark.parametrize(
    ("at", "found"),
    [
        (START - 2 * MINUTE - MOMENT, False),
        (START - 2 * MINUTE, True),
        (START, True),
        (UNTIL, True),
        (UNTIL + HOUR, True),
        (UNTIL + HOUR + MOMENT, False),
        (START - 24 * HOUR, False),
        (UNTIL + 24 * HOUR, False),
        (None, False),
    ],
)
async def test_a_record_settles_by_its_date(at: datetime | None, *, found: bool) -> None:
    """It may be made from two minutes before the first request to an hour after the last news. Undated, it settles
    nothing.
    """
    sms = Sms(PHONE, TEXT)
    report = await look_up(KnownJournal([answer(0)]), [sms], [record(sms, at)])
    if found:
        assert report == ReconcileReport((Sent(sms, SendReceipt("uid", "delivered", 1)),), ())
    else:
        assert report == ReconcileReport((), (sms,))


@pytest.mark.parametrize(
    "written", [PHONE, PHONE[1:], "0" + PHONE[3:], "0812-3450-0000", "\u202a+62 812 3450 0000\u202c"]
)
@pytest.mark.parametrize("count", [1, 3_000])
async def test_a_records_number_may_be_spelled_in_any_way(written: str, count: int) -> None:
    """The gateway has its own spelling of a number, and the caller another one; a long history changes nothing."""
    sms = Sms("(0812) 345.00000", TEXT)
    others = [record(Sms(f"+62812345{it:05}", TEXT), START) for it in range(1, count)]
    report = await look_up(KnownJournal([answer(0)]), [sms], [*others, record(sms, START, phone_number=written)])
    assert [found.sms for found in report.found] == [sms]


@pytest.mark.parametrize(
    "changes",
    [
        {"phone_number": PHONE[:-1] + "1"},
        {"phone_number": PHONE[:-7] + "1" + PHONE[-6:]},
        {"phone_number": ""},
        {"phone_number": "*" * 10 + "000"},
        {"phone_number": "*" * 4 + PHONE[-6:]},
        {"message_body": TEXT + " "},
        {"message_body": ""},
    ],
)
async def test_another_number_or_text_settles_nothing(changes: dict[str, str]) -> None:
    """The whole number and the whole text must agree, and a number that cannot be read agrees with none."""
    sms = Sms(PHONE, TEXT)
    report = await look_up(KnownJournal([answer(0)]), [sms], [record(sms, START, **changes)])
    assert report == ReconcileReport((), (sms,))


async def test_an_id_that_the_journal_holds_settles_nothing(journal: SqliteJournal) -> None:
    """The id of a receipt settles no message, and neither does one that was found in this look or an earlier one."""
    sms = Sms(PHONE, TEXT)
    async with JournalRun(journal, number) as run:
        lookup = await run.lookup(sms)
        assert await journal.intend(lookup, seconds=10)
        await journal.settle(lookup, JournalEntry(SENT, SendReceipt("held", "sent"), 1))
    doubtful = [evolve(sms, key=key) for key in "abc"]
    after = await leave_in_doubt(journal, doubtful)
    held, free = record(sms, after, msg_uid="held"), record(sms, after, msg_uid="free")
    assert await look_up(journal, doubtful, [held, held]) == ReconcileReport((), tuple(doubtful))
    report = await look_up(journal, doubtful, [held, free, free])
    assert [found.receipt.msg_uid for found in report.found] == ["free"]
    assert len(report.doubtful) == 2
    assert (await look_up(journal, doubtful, [held, free])).found == ()


# Of equal messages: those that may own several records, because the gateway may have taken several requests.
SEVERAL = {
    "sent after an internal error": answer("several", status=SENT, attempts=2),
    "in doubt after several requests": answer("several", attempts=2),
    "left by a killed run": answer("several", ended=START),
}


@pytest.mark.parametrize("several", SEVERAL.values(), ids=SEVERAL)
@pytest.mark.parametrize("order", [1, -1])
async def test_a_second_copy_of_one_message_settles_no_other(several: Lookup, order: int) -> None:
    """A record within the time of a message that may own several is not taken for a record of its twin."""
    messages = [Sms(PHONE, TEXT, key=key) for key in ("several", "one")][::order]
    records = [record(messages[0], START + it * MINUTE, msg_uid=f"uid {it}") for it in range(3)]
    journal = KnownJournal([several, answer("one")][::order])
    report = await look_up(journal, messages, records)
    assert [found.sms.key for found in report.found] == (["several"] if several.entry.status is DOUBTFUL else [])
    assert len(journal.held) == len(report.found)
    assert [sms.key for sms in report.doubtful] == ["one"]


@pytest.mark.parametrize("several", SEVERAL.values(), ids=SEVERAL)
async def test_a_record_outside_the_time_of_all_copies_settles_the_twin(several: Lookup) -> None:
    """The time of a message that may own several records ends an hour after its last news."""
    messages = [Sms(PHONE, TEXT, key=key) for key in ("several", "one")]
    late = UNTIL + 3 * HOUR
    journal = KnownJournal([several, answer("one", ended=late)])
    report = await look_up(journal, messages, [record(messages[0], late)])
    assert [found.sms.key for found in report.found] == ["one"]


async def test_a_second_copy_of_another_text_or_number_is_no_matter() -> None:
    """Copies hinder their equals alone."""
    one, other = Sms(PHONE, TEXT, key="one"), Sms(PHONE[:-1] + "1", TEXT, key="several")
    journal = KnownJournal([SEVERAL["sent after an internal error"], answer("one")])
    report = await look_up(journal, [other, one], [record(one, START)])
    assert [found.sms.key for found in report.found] == ["one"]


async def test_a_repeated_key_is_looked_up_once(journal: SqliteJournal) -> None:
    """A message that repeats a key, or conflicts with one, is in neither part of the report."""
    sms = Sms(PHONE, TEXT, key="key")
    after = await leave_in_doubt(journal, [sms])
    report = await look_up(journal, [sms, sms, evolve(sms, message="other")], [record(sms, after)])
    assert report == ReconcileReport((Sent(sms, SendReceipt("uid", "delivered", 1)),), ())


async def test_a_long_list_is_looked_up_in_its_order_and_past_invalid_messages(journal: SqliteJournal) -> None:
    """Found and doubtful are in input order, whatever the history's order is; invalid messages are in neither."""
    messages = make_messages(600)
    after = await leave_in_doubt(journal, messages)
    records = [record(sms, after, msg_uid=f"uid {sms.message}") for sms in messages if int(sms.message) % 3]

    async def given_slowly() -> AsyncIterator[Sms]:
        for sms in messages:
            yield sms
            yield Sms("no number", sms.message)

    async def history() -> list[SmsRecord]:
        return records[::-1]

    report = await reconcile(JournalRun(journal, number), given_slowly(), number, history)
    assert [found.sms.message for found in report.found] == [str(it) for it in range(600) if it % 3]
    assert [sms.message for sms in report.doubtful] == [str(it) for it in range(0, 600, 3)]
    assert repr(report) == "ReconcileReport(found=400, doubtful=200)"


async def test_a_found_message_keeps_the_records_words(journal: SqliteJournal) -> None:
    """Its receipt has the record's id and word, in any form, and the attempts of the run."""
    sms = Sms(PHONE, TEXT)
    after = await leave_in_doubt(journal, [sms])
    await look_up(journal, [sms], [record(sms, after, msg_uid="\ud83d", status="a word\0")])
    assert await known(journal, [sms]) == [JournalEntry(SENT, SendReceipt("\ud83d", "a word\0", 1), 1)]


async def test_a_disk_that_fails_is_an_error_and_the_journal_stays_true(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the second of three finds cannot be kept, the error comes out, and the next look finds the rest."""
    messages = make_messages(3)
    after = await leave_in_doubt(journal, messages)
    find = SqliteJournal.find

    async def fail(journal: SqliteJournal, lookup: Lookup, receipt: SendReceipt) -> bool:
        if receipt.msg_uid == "uid 1":
            raise JournalError("full")
        return await find(journal, lookup, receipt)

    records = [record(sms, after, msg_uid=f"uid {sms.message}") for sms in messages]
    with monkeypatch.context() as patched:
        patched.setattr(SqliteJournal, "find", fail)
        with pytest.raises(JournalError, match="full"):
            await look_up(journal, messages, records)
    assert [entry.status for entry in await known(journal, messages)] == [SENT, DOUBTFUL, SENT]
    assert [found.sms for found in (await look_up(journal, messages, records)).found] == [messages[1]]


async def test_a_long_history_is_searched_in_a_thread_and_each_number_is_read_once() -> None:
    """The event loop goes on meanwhile, and the work does not grow with the number of doubtful messages."""
    messages, main = [Sms(f"0812345{it:05}", TEXT) for it in range(300)], threading.get_ident()
    records = [record(Sms(f"+62813{it:08}", TEXT), START, msg_uid=str(it)) for it in range(20_000)]
    records += [record(sms, START, msg_uid=f"uid {it}") for it, sms in enumerate(messages)]
    read = list[bool]()

    def reading(phone: str) -> str:
        read.append(threading.get_ident() == main)
        return number(phone)

    async def history() -> list[SmsRecord]:
        read.clear()
        return records

    run = JournalRun(KnownJournal(map(answer, range(300))), number)
    report = await reconcile(run, messages, reading, history)
    assert len(report.found) == 300
    assert 300 <= len(read) < 1_000
    assert not any(read)


def test_the_earliest_record_of_a_message_is_found() -> None:
    """Records of other numbers and texts do not count, a time before `since` does not, and undated ones come last."""
    sms = Sms("0812-3450-0000", TEXT)
    dated = [record(sms, START + it * MINUTE, msg_uid=str(it)) for it in (5, 3, -2, -3)]
    undated = record(sms, None, msg_uid="undated")
    other = record(Sms(PHONE[:-1] + "1", TEXT), START)
    assert earliest([undated, *dated, other], sms, number, since=START) is dated[2]
    assert earliest([undated, dated[3], other], sms, number, since=START) is undated
    assert earliest([other, dated[3]], sms, number, since=START) is None
    assert earliest([undated], sms, number, since=datetime.min.replace(tzinfo=UTC)) is undated


# --- any messages, any history ----------------------------------------------------------------------------------------

# Nearly all are equal, and their times overlap, for there the choice is hard.
PHONES, TEXTS = st.sampled_from([PHONE] * 9 + [PHONE[:-1] + "1"]), st.sampled_from([TEXT] * 9 + [TEXT + "!"])
MINUTES, LASTED = st.integers(0, 20).map(lambda tens: 10 * tens), st.integers(1, 20)


@frozen
class Doubtful:
    """A message in doubt: number, text, the minute in which it began, how many minutes it lasted, and its requests."""

    phone: str
    text: str
    began: int
    lasted: int
    attempts: int = 1


@frozen
class Row:
    """A record: number, text, and its minute, if it has one."""

    phone: str
    text: str
    minute: int | None


def fits(row: Row, message: Doubtful) -> bool:
    """Tell whether a record may be of a message."""
    return (
        (row.phone, row.text) == (message.phone, message.text)
        and row.minute is not None
        and message.began - 2 <= row.minute <= message.began + message.lasted + 60
    )


def most(rows: Sequence[Row], messages: frozenset[Doubtful]) -> int:
    """Return the largest number of messages that can be settled, by trying all ways."""
    if not rows or not messages:
        return 0
    row, *rest = rows
    return max(most(rest, messages), *(1 + most(rest, messages - {it}) for it in messages if fits(row, it)), 0)


def fewest(rows: Sequence[Row], messages: frozenset[Doubtful]) -> int:
    """Return the smallest number of messages that own these records between them, if each record has an owner.

    A message owns as many records as it has requests.
    """
    owned = [row for row in rows if any(fits(row, it) for it in messages)]

    def assign(rest: Sequence[Row], spare: dict[Doubtful, int], owners: frozenset[Doubtful]) -> int:
        if not rest:
            return len(owners)
        row, *others = rest
        counts = [
            assign(others, {**spare, it: spare[it] - 1}, owners | {it})
            for it in messages
            if spare[it] and fits(row, it)
        ]
        return min(counts, default=len(messages))

    return assign(owned, {it: it.attempts for it in messages}, frozenset())


EARLY, LATE = Doubtful(PHONE, TEXT, 0, 1), Doubtful(PHONE, TEXT, 50, 1)


def settle(doubtful: Sequence[Doubtful], rows: Sequence[Row], held: set[int]) -> dict[int, int]:
    """Return the row that settles each message, and assert that the report adds up."""
    lookups = [
        answer(it, START + one.began * MINUTE, START + (one.began + one.lasted) * MINUTE, attempts=one.attempts)
        for it, one in enumerate(doubtful)
    ]
    messages = [Sms(one.phone, one.text) for one in doubtful]
    records = [
        SmsRecord(str(it), row.phone, row.text, "", None if row.minute is None else START + row.minute * MINUTE, 1)
        for it, row in enumerate(rows)
    ]
    report = asyncio.run(look_up(KnownJournal(lookups, map(str, held)), messages, records))
    numbers = {id(sms): it for it, sms in enumerate(messages)}
    settled = {numbers[id(found.sms)]: int(found.receipt.msg_uid) for found in report.found}
    assert len(settled) == len(report.found) == len(set(settled.values()))
    assert not held & set(settled.values())
    assert all(fits(rows[row], doubtful[message]) for message, row in settled.items())
    assert {numbers[id(sms)] for sms in report.doubtful} == set(range(len(messages))) - settled.keys()
    return settled


@settings(max_examples=300, deadline=None)
@example([LATE, EARLY], [Row(PHONE, TEXT, 55), Row(PHONE, TEXT, 10)], set())  # the later record fits both
@example([LATE, EARLY], [Row(PHONE, TEXT, 55), Row(PHONE, TEXT, 100)], set())  # the earlier one does
@given(
    st.lists(st.builds(Doubtful, PHONES, TEXTS, MINUTES, LASTED), max_size=5, unique=True),
    st.lists(st.builds(Row, PHONES, TEXTS, st.none() | MINUTES), max_size=5),
    st.sets(st.integers(0, 4), max_size=2),
)
def test_records_settle_as_many_messages_as_they_can(doubtful: list[Doubtful], rows: list[Row], held: set[int]) -> None:
    """Each record settles one message at the most, by number, text, date and free id; no other choice settles more."""
    settled = settle(doubtful, rows, held)
    usable = [row for it, row in enumerate(rows) if it not in held]
    assert len(settled) == most(usable, frozenset(doubtful))


@settings(max_examples=300, deadline=None)
@example(  # the later message may own both records
    [Doubtful(PHONE, TEXT, 0, 1, 2), Doubtful(PHONE, TEXT, 10, 1, 2)], [Row(PHONE, TEXT, 10), Row(PHONE, TEXT, 70)]
)
@given(
    st.lists(
        st.builds(Doubtful, PHONES, TEXTS, MINUTES, st.integers(1, 20), st.integers(1, 3)), max_size=4, unique=True
    ),
    st.lists(st.builds(Row, PHONES, TEXTS, MINUTES), max_size=4),
)
def test_copies_never_settle_more_messages_than_were_taken(doubtful: list[Doubtful], rows: list[Row]) -> None:
    """However the gateway's records belong to the messages, at least as many were taken as are settled."""
    assert len(settle(doubtful, rows, set())) <= fewest(rows, frozenset(doubtful))

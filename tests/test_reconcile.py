"""Reconciling: which doubtful messages the gateway's history settles, and what it leaves as it is."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from attrs import evolve, frozen
from each_api import V2, connect, each_api_with_history
from history_proxy import HistoryProxy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from raw_gateway import http

from oca_sms_async import (
    ApiError,
    AsyncOcaSms,
    ConnectionFailedError,
    DeliveryUnknownError,
    Failed,
    InternalError,
    InvalidCredentialsError,
    JournalError,
    OcaSmsError,
    ReconcileReport,
    SendReceipt,
    Sent,
    Skipped,
    Sms,
    SmsRecord,
    SqliteJournal,
    UnexpectedResponseError,
    Unlimited,
)
from oca_sms_async._bulk import BulkRun
from oca_sms_async._call import CallState
from oca_sms_async._journal import JournalEntry, JournalRun, Lookup, Status
from oca_sms_async._journal._store import Store
from oca_sms_async._messages import check_number
from oca_sms_async._reconcile import reconcile
from oca_sms_async.sandbox import Sandbox

PHONE, TEXT = "+6281234500000", "Acme: your parcel is here"
MINUTE, HOUR, MOMENT = timedelta(minutes=1), timedelta(hours=1), timedelta(milliseconds=1)
DOUBTFUL, SENT = Status.DOUBTFUL, Status.SENT


def number(phone: str) -> str:
    """Return a number as the client reads it."""
    return check_number(phone, "ID")


def lose(sandbox: Sandbox, *texts: str, answers: bool, times: int = 1) -> None:
    """Let the sandbox lose the next sends of these messages, or only its answers to them."""
    for text in texts:
        sandbox.when(smses(int(text) + 1)[-1].phone).respond("accept-then-drop" if answers else "reset", times=times)


def smses(many: int) -> list[Sms]:
    """Return so many messages, their texts their numbers."""
    return [Sms(f"+62812345{it:05}", str(it)) for it in range(many)]


# --- over sockets, with a sandbox that loses what it is told to, and a proxy that changes the history ----------------


@pytest.fixture
async def proxy(sandbox: Sandbox, api: str) -> AsyncIterator[HistoryProxy]:
    """A proxy in front of the sandbox, which hands everything on as it is."""
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


async def known(journal: SqliteJournal, messages: Iterable[Sms]) -> list[Lookup]:
    """Return what a run is told of these messages."""
    async with JournalRun(journal, number) as recording:
        return [lookup async for _, lookup in recording.lookups(messages)]


@each_api_with_history
async def test_what_the_gateway_took_is_found_and_nothing_else(
    client: AsyncOcaSms, sandbox: Sandbox, journal: SqliteJournal, api: str
) -> None:
    """Of five messages in doubt those whose answers were lost are found, with the gateway's ids, and then skipped;
    those that never arrived stay in doubt, and a resend completes the list, each message once.
    """
    messages = smses(12)
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
    await client.send_many(smses(1), journal=journal)
    await client.reconcile(journal, smses(1))
    (tmp_path / "copy").write_bytes((tmp_path / "run.journal").read_bytes())
    async with SqliteJournal(tmp_path / "copy") as copy:
        assert [lookup.entry.status for lookup in await known(copy, smses(1))] == [SENT]


@each_api_with_history
async def test_without_doubt_the_history_is_not_asked(
    client: AsyncOcaSms, proxy: HistoryProxy, sandbox: Sandbox, journal: SqliteJournal
) -> None:
    """Who has nothing in doubt pays for no history; messages that were never sent are not in doubt either."""
    sandbox.refused_numbers = [smses(2)[1].phone]
    await client.send_many(smses(2), journal=journal)
    assert await client.reconcile(journal, smses(4)) == ReconcileReport((), ())
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
    """Its error comes out as itself, says of no message that it may have been sent, and leaves each in doubt, so that
    the next look finds it.
    """
    lose(sandbox, "1", answers=True)
    lose(sandbox, "2", answers=False)
    await client.send_many(smses(4), journal=journal)
    before = await known(journal, smses(4))
    proxy.history = change
    with pytest.raises(error) as caught:
        await client.reconcile(journal, smses(4))
    assert type(caught.value) is error
    assert not caught.value.may_have_been_sent
    assert await known(journal, smses(4)) == before
    proxy.history = bytes
    report = await client.reconcile(journal, smses(4))
    assert ([one.sms.message for one in report.found], [sms.message for sms in report.doubtful]) == (["1"], ["2"])


async def test_a_gateway_that_is_down_changes_nothing(
    sandbox: Sandbox, client: AsyncOcaSms, journal: SqliteJournal
) -> None:
    """«Could not connect» is the error, and the message stays in doubt."""
    lose(sandbox, "0", answers=True)
    await client.send_many(smses(1), journal=journal)
    async with HistoryProxy(sandbox.base_url).serve() as gone:
        elsewhere = AsyncOcaSms(sandbox.username, sandbox.password, base_url=gone.base_url, limiter=Unlimited())
    async with elsewhere:
        with pytest.raises(ConnectionFailedError):
            await elsewhere.reconcile(journal, smses(1))
    assert [one.sms for one in (await client.reconcile(journal, smses(1))).found] == smses(1)


@pytest.mark.parametrize("change", [without_records, without_the_latest])
@each_api_with_history
async def test_a_history_that_lags_leaves_the_message_in_doubt(
    change: Callable[[bytes], bytes], client: AsyncOcaSms, proxy: HistoryProxy, sandbox: Sandbox, journal: SqliteJournal
) -> None:
    """Not found proves nothing: the message is not sent, and is found once the history has caught up."""
    lose(sandbox, "2", answers=True)
    await client.send_many(smses(3), journal=journal, concurrency=1)
    proxy.history = change
    for _ in range(2):
        assert await client.reconcile(journal, smses(3)) == ReconcileReport((), (smses(3)[2],))
    assert [failed.sms for failed in (await client.send_many(smses(3), journal=journal)).unknown] == smses(3)[2:]
    proxy.history = bytes
    assert [found.sms for found in (await client.reconcile(journal, smses(3))).found] == smses(3)[2:]


@each_api_with_history
async def test_of_equal_messages_as_many_are_found_as_there_are_records(
    client: AsyncOcaSms, sandbox: Sandbox, journal: SqliteJournal
) -> None:
    """Five equal messages of which two arrived: two are found, each with a record of its own; a second look finds no
    more.
    """
    messages = smses(1) * 5
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
    """The record of one message, whose receipt came, says nothing of its twin, whose request was lost."""
    await client.send_many(smses(1), journal=journal)
    lose(sandbox, "0", answers=False)
    twins = [*smses(1), evolve(smses(1)[0], key="twin")]
    assert len((await client.send_many(twins, journal=journal)).unknown) == 1
    assert await client.reconcile(journal, twins) == ReconcileReport((), (twins[1],))


async def test_a_journal_is_not_reconciled_while_a_run_uses_it(
    client: AsyncOcaSms, tmp_path: Path, journal: SqliteJournal, proxy: HistoryProxy
) -> None:
    """Neither with the same object nor with another; and no run begins while the history is being looked into."""
    async with client.bulk(smses(2), journal=journal) as outcomes, SqliteJournal(tmp_path / "run.journal") as other:
        await anext(outcomes)
        for one in (journal, other):
            with pytest.raises(JournalError, match="another run uses it"):
                await client.reconcile(one, smses(2))
    assert proxy.asked == 0
    started = asyncio.Event()

    async def messages() -> AsyncIterator[Sms]:
        started.set()
        await asyncio.Event().wait()
        yield smses(1)[0]

    looking = asyncio.create_task(client.reconcile(journal, messages()))
    await started.wait()
    with pytest.raises(JournalError, match="another run uses it"):
        await client.send_many(smses(2), journal=journal)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert len((await client.send_many(smses(2), journal=journal)).skipped) == 2


# --- which record settles which message -----------------------------------------------------------------------------


async def leave_in_doubt(journal: SqliteJournal, messages: Iterable[Sms]) -> tuple[datetime, datetime]:
    """Have a run leave these messages in doubt; return a moment right before it and one right after it."""

    async def send(sms: Sms, call: CallState) -> SendReceipt:
        await call.before_first_send()
        call.started()
        call.left_wire()
        error = DeliveryUnknownError("lost")
        call.failed(error)
        raise call.conclude(error)

    before = datetime.now(UTC)
    async with BulkRun(send, messages, 1, JournalRun(journal, number)) as bulk:
        assert all(isinstance(outcome, Failed) for outcome in (await bulk.report()).outcomes)
    return before, datetime.now(UTC)


def record(sms: Sms, created_at: datetime | None, **changes: Any) -> SmsRecord:
    """Return the gateway's record of a message."""
    return evolve(SmsRecord("uid", number(sms.phone), sms.message, "delivered", created_at, 1), **changes)


async def looked_up(journal: SqliteJournal, messages: Iterable[Sms], records: Sequence[SmsRecord]) -> ReconcileReport:
    """Return what this history settles."""

    async def history() -> list[SmsRecord]:
        return list(records)

    return await reconcile(JournalRun(journal, number), messages, number, history)


@pytest.mark.parametrize(
    ("earlier", "later", "found"),
    [
        (2 * MINUTE + MOMENT, None, False),
        (None, -2 * MINUTE, True),
        (MINUTE, None, True),
        (None, MINUTE, True),
        (-HOUR, None, True),
        (None, HOUR + MOMENT, False),
        (24 * HOUR, None, False),
        (None, 24 * HOUR, False),
        (None, None, False),
    ],
)
async def test_a_record_settles_by_its_date(
    earlier: timedelta | None, later: timedelta | None, *, found: bool, journal: SqliteJournal
) -> None:
    """From two minutes before the first request to an hour after the last that was heard; without a date, never."""
    sms = Sms(PHONE, TEXT)
    before, after = await leave_in_doubt(journal, [sms])
    at = before - earlier if earlier is not None else None if later is None else after + later
    report = await looked_up(journal, [sms], [record(sms, at)])
    if found:
        assert report == ReconcileReport((Sent(sms, SendReceipt("uid", "delivered", 1)),), ())
    else:
        assert report == ReconcileReport((), (sms,))
    assert [lookup.entry.status for lookup in await known(journal, [sms])] == [SENT if found else DOUBTFUL]


async def test_the_time_of_a_message_reaches_from_its_first_request_to_its_last(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a message was sent again a day later, the record of either request settles it."""
    sms = Sms(PHONE, TEXT)
    first, _ = await leave_in_doubt(journal, [sms])
    a_day_later = (first + 24 * HOUR).timestamp()
    monkeypatch.setattr("oca_sms_async._journal._store.time.time", lambda: a_day_later)
    async with JournalRun(journal, number) as recording:
        (lookup,) = [lookup async for _, lookup in recording.lookups([sms])]
        assert await journal.intend(lookup, seconds=10)
    assert (await looked_up(journal, [sms], [record(sms, first - 3 * MINUTE)])).found == ()
    assert (await looked_up(journal, [sms], [record(sms, first + 26 * HOUR)])).found == ()
    for at in (first + MINUTE, first + 24 * HOUR):
        report = await looked_up(journal, [sms], [record(sms, at)])
        assert [found.receipt.attempts for found in report.found] == [2]
        await journal.settle(lookup, JournalEntry(DOUBTFUL, attempts=2))


@pytest.mark.parametrize("written", [PHONE, PHONE[1:], "0" + PHONE[3:], "0812-3450-0000", "+62 812 3450 0000"])
async def test_a_records_number_may_be_spelled_in_any_way(written: str, journal: SqliteJournal) -> None:
    """The gateway's spelling of a number is its own, and the caller's as well."""
    sms = Sms("(0812) 345.00000", TEXT)
    _, after = await leave_in_doubt(journal, [sms])
    assert len((await looked_up(journal, [sms], [record(sms, after, phone_number=written)])).found) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"phone_number": PHONE[:-1] + "1"},
        {"phone_number": ""},
        {"phone_number": "*" * 10 + "000"},
        {"message_body": TEXT + " "},
        {"message_body": ""},
    ],
)
async def test_another_number_or_text_settles_nothing(changes: dict[str, str], journal: SqliteJournal) -> None:
    """Only the whole number and the whole text will do; a number that cannot be read is nobody's."""
    sms = Sms(PHONE, TEXT)
    _, after = await leave_in_doubt(journal, [sms])
    assert await looked_up(journal, [sms], [record(sms, after, **changes)]) == ReconcileReport((), (sms,))


async def test_an_id_that_the_journal_holds_settles_nothing(journal: SqliteJournal) -> None:
    """Neither one of a receipt nor one that was found, be it in this look or an earlier one."""
    sms = Sms(PHONE, TEXT)

    async def send(_: Sms, call: CallState) -> SendReceipt:
        await call.before_first_send()
        call.started()
        call.left_wire()
        return SendReceipt("held", "sent")

    async with BulkRun(send, [sms], 1, JournalRun(journal, number)) as bulk:
        await bulk.report()
    doubtful = [evolve(sms, key=key) for key in "abc"]
    _, after = await leave_in_doubt(journal, doubtful)
    held, free = record(sms, after, msg_uid="held"), record(sms, after, msg_uid="free")
    assert await looked_up(journal, doubtful, [held, held]) == ReconcileReport((), tuple(doubtful))
    report = await looked_up(journal, doubtful, [held, free, free])
    assert [found.receipt.msg_uid for found in report.found] == ["free"]
    assert len(report.doubtful) == 2
    assert (await looked_up(journal, doubtful, [held, free])).found == ()


async def test_a_long_list_is_looked_up_in_its_order_and_past_what_is_invalid(journal: SqliteJournal) -> None:
    """Found and doubtful are in input order, whatever the history's is; invalid messages are in neither."""
    messages = smses(600)
    _, after = await leave_in_doubt(journal, messages)
    records = [record(sms, after, msg_uid=f"uid {sms.message}") for sms in messages if int(sms.message) % 3]

    async def given_slowly() -> AsyncIterator[Sms]:
        for sms in messages:
            yield sms
            yield Sms("nobody", sms.message)

    async def history() -> list[SmsRecord]:
        return records[::-1]

    report = await reconcile(JournalRun(journal, number), given_slowly(), number, history)
    assert [found.sms.message for found in report.found] == [str(it) for it in range(600) if it % 3]
    assert [sms.message for sms in report.doubtful] == [str(it) for it in range(0, 600, 3)]
    assert repr(report) == "ReconcileReport(found=400, doubtful=200)"


async def test_a_found_message_is_skipped_with_the_records_words(journal: SqliteJournal) -> None:
    """Its receipt has the record's id and word, as any gateway may write them, and the attempts of the run."""
    sms = Sms(PHONE, TEXT)
    _, after = await leave_in_doubt(journal, [sms])
    await looked_up(journal, [sms], [record(sms, after, msg_uid="\ud83d", status="a word\0")])

    async def send(_: Sms, __: CallState) -> SendReceipt:
        raise AssertionError

    async with BulkRun(send, [sms], 1, JournalRun(journal, number)) as bulk:
        assert (await bulk.report()).outcomes == (Skipped(sms, None, SendReceipt("\ud83d", "a word\0", 1)),)


async def test_a_disk_that_fails_is_an_error_and_what_was_kept_is_true(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the second of three finds cannot be kept, the error comes out, and the next look finds the rest."""
    messages = smses(3)
    _, after = await leave_in_doubt(journal, messages)
    find = Store.find

    def failing(store: Store, lookup: Lookup, receipt: SendReceipt) -> bool:
        if receipt.msg_uid == "uid 1":
            raise JournalError("full")
        return find(store, lookup, receipt)

    records = [record(sms, after, msg_uid=f"uid {sms.message}") for sms in messages]
    with monkeypatch.context() as patched:
        patched.setattr(Store, "find", failing)
        with pytest.raises(JournalError, match="full"):
            await looked_up(journal, messages, records)
    assert [lookup.entry.status for lookup in await known(journal, messages)] == [SENT, DOUBTFUL, DOUBTFUL]
    assert [found.sms for found in (await looked_up(journal, messages, records)).found] == messages[1:]


# --- any messages, any history ----------------------------------------------------------------------------------------

START = datetime(2026, 1, 1, tzinfo=UTC)
# Nearly all are equal, and their times overlap, for there the choice is hard.
PHONES, TEXTS = st.sampled_from([PHONE] * 9 + [PHONE[:-1] + "1"]), st.sampled_from([TEXT] * 9 + [TEXT + "!"])
MINUTES = st.integers(0, 20).map(lambda tens: 10 * tens)


@frozen
class Doubtful:
    """A message in doubt: number, text, the minute in which it began, and how many it lasted."""

    phone: str
    text: str
    began: int
    lasted: int


@frozen
class Row:
    """A record: number, text, and its minute, if it has one."""

    phone: str
    text: str
    minute: int | None


class Remembering(JournalRun):
    """A recording without a file."""

    def __init__(self, entries: Sequence[Lookup], held: Iterable[str]) -> None:
        self.all = entries
        self.held = set(held)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def lookups(self, messages: Any) -> AsyncIterator[tuple[Sms, Lookup]]:
        """Yield what is known."""
        for sms, entry in zip(messages, self.all, strict=True):
            yield sms, entry

    def find(self, lookup: Lookup, receipt: SendReceipt) -> Awaitable[bool]:
        """Note an id unless it is held."""

        async def noted() -> bool:
            free = receipt.msg_uid not in self.held
            self.held.add(receipt.msg_uid)
            return free

        return noted()


def fits(row: Row, message: Doubtful) -> bool:
    """Tell whether a record may be of a message."""
    return (
        (row.phone, row.text) == (message.phone, message.text)
        and row.minute is not None
        and message.began - 2 <= row.minute <= message.began + message.lasted + 60
    )


def most(rows: Sequence[Row], messages: frozenset[Doubtful]) -> int:
    """Return how many messages can be settled at most, by trying all ways."""
    if not rows or not messages:
        return 0
    row, *rest = rows
    return max(most(rest, messages), *(1 + most(rest, messages - {it}) for it in messages if fits(row, it)), 0)


EARLY, LATE = Doubtful(PHONE, TEXT, 0, 0), Doubtful(PHONE, TEXT, 50, 0)


@settings(max_examples=300, deadline=None)
@example([LATE, EARLY], [Row(PHONE, TEXT, 55), Row(PHONE, TEXT, 10)], set())  # the later record fits both
@example([LATE, EARLY], [Row(PHONE, TEXT, 55), Row(PHONE, TEXT, 100)], set())  # the earlier one does
@given(
    st.lists(st.builds(Doubtful, PHONES, TEXTS, MINUTES, st.integers(0, 20)), max_size=5, unique=True),
    st.lists(st.builds(Row, PHONES, TEXTS, st.none() | MINUTES), max_size=5),
    st.sets(st.integers(0, 4), max_size=2),
)
def test_records_settle_as_many_messages_as_they_can_and_each_one(
    doubtful: list[Doubtful], rows: list[Row], held: set[int]
) -> None:
    """Each record settles one message at the most, and each message is settled by one that fits; none is by an id that
    is held, and no other choice would settle more.
    """
    start = START.timestamp()
    entries = [
        Lookup(
            bytes([it]),
            JournalEntry(DOUBTFUL, attempts=1),
            began=start + 60 * one.began,
            ended=start + 60 * (one.began + one.lasted),
        )
        for it, one in enumerate(doubtful)
    ]
    messages = [Sms(one.phone, one.text) for one in doubtful]
    records = [
        SmsRecord(str(it), row.phone, row.text, "", None if row.minute is None else START + row.minute * MINUTE, 1)
        for it, row in enumerate(rows)
    ]

    async def history() -> list[SmsRecord]:
        return records

    recording = Remembering(entries, map(str, held))
    report = asyncio.run(reconcile(recording, messages, number, history))
    numbers = {id(sms): it for it, sms in enumerate(messages)}
    settled = {numbers[id(found.sms)]: int(found.receipt.msg_uid) for found in report.found}
    assert len(settled) == len(report.found) == len(set(settled.values()))
    assert not held & set(settled.values())
    assert all(fits(rows[row], doubtful[message]) for message, row in settled.items())
    assert {numbers[id(sms)] for sms in report.doubtful} == set(range(len(messages))) - settled.keys()
    usable = [row for it, row in enumerate(rows) if it not in held]
    assert len(settled) == most(usable, frozenset(doubtful))

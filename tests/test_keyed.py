"""Sends with a key, over both journals: of all sends of one key, exactly one makes a request at a time."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from in_memory import (
    PHONE,
    TEXT,
    Answer,
    Gate,
    Gateway,
    accept,
    ask,
    client_of,
    fail,
    hang,
    lose_answer,
    refuse,
    take_turns,
)
from journal_disk import FullDisk

from oca_sms_async import (
    AsyncOcaSms,
    ConnectionFailedError,
    DeliveryUnknownError,
    ExpiredError,
    Failed,
    InvalidMessageError,
    InvalidRequestError,
    Journal,
    JournalClosedError,
    JournalEntry,
    JournalError,
    OcaSmsError,
    SendEvent,
    SendReceipt,
    Skipped,
    Sms,
    SqliteJournal,
    TokenBucket,
)
from oca_sms_async._journal import Lookup, Status
from oca_sms_async.postgres import PostgresJournal

KEY: Final = "login-4711"
OTHER: Final = "+6281381475160"
SMS: Final = Sms(PHONE, TEXT, key=KEY)
PATIENCE: Final = 20  # seconds, after which something hangs
FUTURE: Final = datetime(2100, 1, 1, tzinfo=UTC)
SOON: Final = 0.2  # seconds until a sender is given up, where a test waits for that
MANY: Final = 100

OpenJournal = Callable[[], Journal]


class Holding:
    """An answer that comes when it is released; `reached` is set once a request waits for it."""

    def __init__(self, answer: Answer = accept) -> None:
        self.reached = asyncio.Event()
        self.released = asyncio.Event()
        self._answer = answer

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """Wait, and answer."""
        self.reached.set()
        await self.released.wait()
        return await ask(self._answer, request)


@pytest.fixture(params=["sqlite", "postgres"])
def open_journal(request: pytest.FixtureRequest, tmp_path: Path) -> OpenJournal:
    """Each store in turn: a function that opens the same journal anew."""
    if request.param == "sqlite":
        return lambda: SqliteJournal(tmp_path / "journal")
    database = request.getfixturevalue("database")
    return lambda: PostgresJournal(database, name="acme")


@pytest.fixture
async def journal(open_journal: OpenJournal) -> AsyncIterator[Journal]:
    """The journal of one process."""
    opened = open_journal()
    yield opened
    await opened.aclose()


@pytest.fixture
async def beside(journal: Journal, open_journal: OpenJournal) -> AsyncIterator[Journal]:
    """The journal as another process has it. A file belongs to one process, so there it is the same object."""
    if isinstance(journal, SqliteJournal):
        yield journal
        return
    opened = open_journal()
    yield opened
    await opened.aclose()


def keyed(gateway: Gateway, journal: Journal, **options: Any) -> AsyncOcaSms:
    """Return a client that remembers sends with a key."""
    return client_of(gateway, journal=journal, **options)


def send(client: AsyncOcaSms, **options: Any) -> Awaitable[SendReceipt]:
    """Send the message of these tests."""
    return client.send(**{"phone": PHONE, "message": TEXT, "key": KEY} | options)


async def fail_to_send(client: AsyncOcaSms, **options: Any) -> OcaSmsError:
    """Send the message, and return the error."""
    with pytest.raises(OcaSmsError) as caught:
        await send(client, **options)
    return caught.value


async def outcome(sending: Awaitable[SendReceipt]) -> SendReceipt | BaseException:
    """Return a receipt, or the error; fail if neither comes."""
    async with asyncio.timeout(PATIENCE):
        (ended,) = await asyncio.gather(sending, return_exceptions=True)
    return ended


async def turn() -> None:
    """Let other tasks go on until they wait for something outside."""
    await asyncio.sleep(0.05)


def refuse_use(*_: object, reason: str = "the disk is gone", **__: object) -> asyncio.Future[Any]:
    """Stand for a journal that cannot be used."""
    refused = asyncio.get_running_loop().create_future()
    refused.set_exception(JournalError(reason))
    return refused


# --- a known key ----------------------------------------------------------------------------------------------------


async def test_a_sent_key_returns_its_receipt(open_journal: OpenJournal) -> None:
    """Neither this process nor a later one sends the message again, and both get the same receipt."""
    gateway = Gateway(refuse(500, 13), accept)
    receipts = []
    for _ in range(2):
        async with open_journal() as journal:  # type: ignore[attr-defined] # both have it
            receipts += [await send(keyed(gateway, journal)) for _ in range(2)]
    assert [receipt.attempts for receipt in receipts] == [2] * 4
    assert len({receipt.msg_uid for receipt in receipts}) == 1
    assert gateway.texts == [TEXT, TEXT]


async def test_a_key_is_the_same_however_its_number_is_spelled(journal: Journal) -> None:
    """The number is compared as it goes out."""
    gateway = Gateway()
    assert await send(keyed(gateway, journal)) == await send(keyed(gateway, journal), phone="0813-8147-5159")
    assert len(gateway.texts) == 1


async def test_a_key_in_doubt_is_not_sent(open_journal: OpenJournal) -> None:
    """Neither this process nor a later one sends a message that may have been sent."""
    gateway = Gateway(lose_answer, accept)
    async with open_journal() as journal:  # type: ignore[attr-defined] # both have it
        await fail_to_send(keyed(gateway, journal))
        errors = [await fail_to_send(keyed(gateway, journal))]
    async with open_journal() as journal:  # type: ignore[attr-defined] # as above
        errors.append(await fail_to_send(keyed(gateway, journal)))
    assert [type(error) for error in errors] == [DeliveryUnknownError] * 2
    assert [(error.may_have_been_sent, error.attempts) for error in errors] == [(True, 1)] * 2
    assert gateway.texts == [TEXT]


@pytest.mark.parametrize("first", [accept, lose_answer], ids=["sent", "doubtful"])
@pytest.mark.parametrize("other", [{"phone": OTHER}, {"message": "another text"}], ids=["number", "text"])
async def test_a_key_belongs_to_one_message(journal: Journal, first: Answer, other: dict[str, str]) -> None:
    """Another number or text under a key that may have been sent is a mistake of the caller."""
    gateway = Gateway(first, accept)
    client = keyed(gateway, journal)
    await outcome(send(client))
    error = await fail_to_send(client, **other)
    assert isinstance(error, InvalidMessageError)
    assert not error.may_have_been_sent
    assert gateway.texts == [TEXT]


@pytest.mark.parametrize(
    ("first", "expected"), [(refuse(406, 39), InvalidRequestError), (fail(httpx.ConnectError), ConnectionFailedError)]
)
async def test_a_key_that_certainly_was_not_sent_is_sent(
    journal: Journal, first: Answer, expected: type[OcaSmsError]
) -> None:
    """The message may be corrected then, and the key belongs to the corrected one."""
    gateway = Gateway(first, accept)
    client = keyed(gateway, journal)
    assert type(await fail_to_send(client)) is expected
    receipt = await send(client, message="corrected", phone=OTHER)
    assert receipt.attempts == 1
    assert await send(client, message="corrected", phone=OTHER) == receipt
    assert isinstance(await fail_to_send(client), InvalidMessageError)
    assert gateway.texts == [TEXT, "corrected"]


async def test_keys_tell_equal_messages_apart(journal: Journal) -> None:
    """The same text to the same number under two keys, or without a key, is sent each time."""
    gateway = Gateway()
    client = keyed(gateway, journal)
    receipts = [await send(client, key=key) for key in ("a", "b", None, None)]
    assert len({receipt.msg_uid for receipt in receipts}) == 4


async def test_a_key_needs_a_journal() -> None:
    """Without a journal a key could promise nothing."""
    gateway = Gateway()
    with pytest.raises(ValueError, match="key needs a journal") as caught:
        await send(client_of(gateway))
    assert type(caught.value) is ValueError
    assert gateway.texts == []


@pytest.mark.parametrize("key", ["", 4711])
async def test_a_key_is_a_text(journal: Journal, key: object) -> None:
    """An empty key identifies nothing, and a number is spelled in more than one way."""
    gateway = Gateway()
    assert isinstance(await fail_to_send(keyed(gateway, journal), key=key), InvalidMessageError)
    assert gateway.texts == []


# --- several sends at once ------------------------------------------------------------------------------------------


async def test_many_sends_at_once_make_one_request(journal: Journal) -> None:
    """All clicks of one user get the receipt of the one message."""
    gateway = Gateway()
    client = keyed(gateway, journal)
    async with asyncio.timeout(PATIENCE):
        receipts = await asyncio.gather(*(send(client) for _ in range(MANY)))
    assert receipts == [receipts[0]] * MANY
    assert gateway.texts == [TEXT]
    assert client.statistics().sent == 1


async def test_many_clients_at_once_make_one_request(journal: Journal, beside: Journal) -> None:
    """Clients that share nothing but the journal get the receipt of the one message."""
    gateway = Gateway()
    clients = [keyed(gateway, it) for it in (journal, beside) * 10]
    async with asyncio.timeout(PATIENCE):
        receipts = await asyncio.gather(*map(send, clients))
    assert receipts == [receipts[0]] * 20
    assert gateway.texts == [TEXT]
    assert [client.statistics().failed for client in clients] == [{}] * 20


@pytest.mark.parametrize("same", [True, False], ids=["client", "journal"])
async def test_a_send_waits_for_the_one_under_way(journal: Journal, beside: Journal, same: bool) -> None:
    """It waits as long as the winner may be under way, and returns the winner's receipt then."""
    holding = Holding()
    gateway = Gateway(holding)
    first = keyed(gateway, journal)
    winner = asyncio.ensure_future(send(first))
    await asyncio.wait_for(holding.reached.wait(), PATIENCE)
    waiter = asyncio.ensure_future(send(first if same else keyed(gateway, beside)))
    await turn()
    assert not waiter.done()
    holding.released.set()
    assert await outcome(waiter) == await winner
    assert gateway.texts == [TEXT]


@pytest.mark.parametrize("same", [True, False], ids=["client", "journal"])
@pytest.mark.parametrize(
    ("first", "texts", "expected"),
    [(refuse(406, 39), 2, SendReceipt), (lose_answer, 1, DeliveryUnknownError)],
    ids=["unsent", "doubtful"],
)
async def test_a_waiter_goes_on_as_the_journal_says(
    journal: Journal, beside: Journal, same: bool, first: Answer, texts: int, expected: type
) -> None:
    """If the winner certainly did not send, the next one sends. If it left doubt, that is the answer."""
    holding = Holding(first)
    gateway = Gateway(holding, accept)
    winner_of = keyed(gateway, journal)
    winner = asyncio.ensure_future(outcome(send(winner_of)))
    await asyncio.wait_for(holding.reached.wait(), PATIENCE)
    waiter = asyncio.ensure_future(outcome(send(winner_of if same else keyed(gateway, beside))))
    await turn()
    holding.released.set()
    assert isinstance(await waiter, expected)
    assert isinstance(await winner, OcaSmsError)
    assert len(gateway.texts) == texts


async def test_a_sender_that_is_gone_is_waited_for_until_its_time_is_up(journal: Journal) -> None:
    """A process that was killed leaves doubt. Others wait for as long as its attempt could have lasted."""
    gateway = Gateway()
    assert await journal.intend(await journal.lookup_key(KEY, PHONE, TEXT), seconds=SOON)
    clock = asyncio.get_running_loop().time
    began = clock()
    error = await fail_to_send(keyed(gateway, journal))
    assert isinstance(error, DeliveryUnknownError)
    assert clock() - began > SOON / 2
    assert gateway.texts == []


@pytest.mark.parametrize("same", [True, False], ids=["client", "journal"])
async def test_a_waiters_own_deadline_ends_its_wait(journal: Journal, beside: Journal, same: bool) -> None:
    """It cannot know what becomes of the message, and says so to the caller, the counts and the observer."""
    events: list[SendEvent] = []
    holding = Holding()
    gateway = Gateway(holding)
    client = keyed(gateway, journal)
    winner = asyncio.ensure_future(send(client))
    await asyncio.wait_for(holding.reached.wait(), PATIENCE)
    other = client if same else keyed(gateway, beside, observer=events.append)
    error = await fail_to_send(other, expires_in=0.05)
    assert isinstance(error, ExpiredError)
    assert (error.may_have_been_sent, error.attempts) == (True, 0)
    assert (other.statistics().failed, other.statistics().unknown) == ({"ExpiredError": 1}, 1)
    assert [(event.error, event.may_have_been_sent) for event in events] == ([] if same else [(error, True)])
    holding.released.set()
    assert isinstance(await outcome(winner), SendReceipt)
    assert gateway.texts == [TEXT]


async def test_the_earlier_expiry_counts(journal: Journal) -> None:
    """Both bound the whole call, and their errors are those of a send without a key."""
    client = keyed(Gateway(hang), journal)
    for key, options in (
        ("a", {"expires_in": 0.05, "expires_at": FUTURE}),
        ("b", {"expires_in": 3600, "expires_at": datetime.now(UTC) + timedelta(seconds=0.1)}),
    ):
        async with asyncio.timeout(PATIENCE):
            assert isinstance(await fail_to_send(client, key=key, **options), ExpiredError)
    past = await fail_to_send(client, key="c", expires_in=3600, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert (type(past), past.may_have_been_sent) == (ExpiredError, False)
    naive = datetime(2100, 1, 1)  # noqa: DTZ001 - the mistake of this test
    assert isinstance(await fail_to_send(client, key="c", expires_at=naive), InvalidMessageError)
    assert await journal.lookup("c") is None


async def test_each_request_costs_one_token(journal: Journal, beside: Journal) -> None:
    """Senders that lose a claim give their tokens back, so no key is slower for the number of its senders."""
    gateway, limiter = Gateway(), TokenBucket(1000.0)
    clients = [keyed(gateway, it, limiter=limiter) for it in (journal, beside) * 2]
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(send(it, key=str(number)) for number in range(20) for it in clients))
    assert (len(gateway.texts), limiter.statistics().granted) == (20, 20)


@pytest.mark.parametrize("how", ["lost", "failed", "cancelled"])
async def test_a_claim_that_is_not_made_costs_no_token(
    journal: Journal, beside: Journal, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit's only token goes to the next message."""
    gateway, claiming = Gateway(), asyncio.Event()
    client = keyed(gateway, beside, limiter=TokenBucket(0.001))
    intend = beside.intend

    async def meet(message: Lookup, *, seconds: float) -> bool:
        claiming.set()
        if how == "cancelled":
            await asyncio.sleep(PATIENCE)
        if how == "failed":
            raise JournalError("the disk is gone")
        monkeypatch.setattr(beside, "intend", intend)
        await send(keyed(gateway, journal))  # another process is faster
        return await intend(message, seconds=seconds)

    with monkeypatch.context() as patch:
        patch.setattr(beside, "intend", meet)
        sending = asyncio.ensure_future(outcome(send(client)))
        await asyncio.wait_for(claiming.wait(), PATIENCE)
        if how == "cancelled":
            sending.cancel()
        ended = await asyncio.wait({sending}, timeout=PATIENCE)
        assert ended == ({sending}, set())
    monkeypatch.setattr(beside, "intend", intend)
    assert isinstance(await outcome(send(client, key="next", expires_in=PATIENCE)), SendReceipt)


async def test_an_expired_send_hears_what_the_journal_knows(journal: Journal) -> None:
    """A queue may deliver a job again after its expiry: the key's receipt, or its doubt, is the answer all the same."""
    gateway = Gateway(accept, lose_answer)
    client = keyed(gateway, journal)
    receipt = await send(client, key="sent")
    await fail_to_send(client, key="doubtful")
    for late in ({"expires_in": -1}, {"expires_at": datetime.now(UTC) - timedelta(hours=1)}):
        assert await send(client, key="sent", **late) == receipt
        doubt = await fail_to_send(client, key="doubtful", **late)
        assert (type(doubt), doubt.may_have_been_sent) == (DeliveryUnknownError, True)
    assert len(gateway.texts) == 2


# --- ends without an answer -----------------------------------------------------------------------------------------


async def test_a_cancelled_winner_leaves_doubt(journal: Journal) -> None:
    """Its request may have arrived, so a waiter and later sends get doubt and send nothing."""
    holding = Holding()
    gateway = Gateway(holding)
    client = keyed(gateway, journal)
    winner = asyncio.ensure_future(send(client))
    await asyncio.wait_for(holding.reached.wait(), PATIENCE)
    waiter = asyncio.ensure_future(send(client))
    await turn()
    winner.cancel()
    assert isinstance(await outcome(winner), asyncio.CancelledError)
    assert isinstance(await outcome(waiter), DeliveryUnknownError)
    assert isinstance(await fail_to_send(client), DeliveryUnknownError)
    assert gateway.texts == [TEXT]
    assert client.statistics().failed == {"CancelledError": 1, "DeliveryUnknownError": 2}


async def test_a_winner_that_is_cancelled_before_its_request_leaves_nothing(journal: Journal) -> None:
    """The next one sends."""
    gateway, gate = Gateway(), Gate()
    client = keyed(gateway, journal, limiter=gate)
    winner = asyncio.ensure_future(send(client))
    await asyncio.wait_for(gate.reached.wait(), PATIENCE)
    waiter = asyncio.ensure_future(send(client))
    winner.cancel()
    gate.opened.set()
    assert isinstance(await outcome(waiter), SendReceipt)
    assert gateway.texts == [TEXT]


@pytest.mark.parametrize("same", [True, False], ids=["client", "journal"])
async def test_a_cancelled_waiter_changes_nothing(journal: Journal, beside: Journal, same: bool) -> None:
    """The winner and later sends are as without it."""
    holding = Holding()
    gateway = Gateway(holding)
    client = keyed(gateway, journal)
    winner = asyncio.ensure_future(send(client))
    await asyncio.wait_for(holding.reached.wait(), PATIENCE)
    waiter = asyncio.ensure_future(send(client if same else keyed(gateway, beside)))
    await turn()
    waiter.cancel()
    assert isinstance(await outcome(waiter), asyncio.CancelledError)
    holding.released.set()
    receipt = await outcome(winner)
    assert receipt == await send(client)
    assert gateway.texts == [TEXT]


def test_a_keyboard_interrupt_leaves_doubt(open_journal: OpenJournal) -> None:
    """A Ctrl-C with the request on the wire proves nothing, so the next process sends nothing."""

    def interrupt(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    async def once(gateway: Gateway) -> SendReceipt:
        async with open_journal() as journal:  # type: ignore[attr-defined] # both have it
            return await send(keyed(gateway, journal))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(once(Gateway(interrupt)))
    gateway = Gateway()
    with pytest.raises(DeliveryUnknownError):
        asyncio.run(once(gateway))
    assert gateway.texts == []


# --- a journal that fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["lookup_key", "intend"])
async def test_a_journal_that_fails_before_the_first_byte(
    journal: Journal, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent, and the next send begins anew once the journal is back."""
    gateway = Gateway()
    client = keyed(gateway, journal)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "settle", lambda *_: refuse_use(reason="and its outcome cannot be kept"))
        patch.setattr(journal, call, refuse_use)
        errors = [await outcome(send(client)) for _ in range(2)]
    for error in errors:
        assert isinstance(error, JournalError)
        assert (str(error), error.may_have_been_sent, error.attempts) == ("the disk is gone", False, 0)
    assert gateway.texts == []
    assert (client.statistics().failed, client.statistics().unknown) == ({"JournalError": 2}, 0)
    assert isinstance(await send(client), SendReceipt)


async def test_waiters_of_a_send_that_sent_nothing_are_certain_too(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the journal is gone, no send of a key leaves doubt."""
    gateway = Gateway()
    client = keyed(gateway, journal)

    async def refuse_late(*_: str) -> Lookup:
        await turn()
        raise JournalError("the disk is gone")

    monkeypatch.setattr(journal, "lookup_key", refuse_late)
    errors = await asyncio.gather(*(fail_to_send(client) for _ in range(3)))
    assert [(type(error), error.may_have_been_sent) for error in errors] == [(JournalError, False)] * 3


@pytest.mark.parametrize("same", [True, False], ids=["client", "journal"])
async def test_a_journal_that_fails_while_another_send_is_under_way(
    journal: Journal, beside: Journal, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one may send the message, so its fate is unknown to the one that waited."""
    holding = Holding()
    gateway = Gateway(holding)
    client = keyed(gateway, journal)
    winner = asyncio.ensure_future(send(client))
    await asyncio.wait_for(holding.reached.wait(), PATIENCE)
    look_up, looked = beside.lookup_key, asyncio.Event()

    async def look_once(*message: str) -> Lookup:
        monkeypatch.setattr(beside, "lookup_key", refuse_use)
        lookup = await look_up(*message)
        looked.set()
        return lookup

    monkeypatch.setattr(beside, "lookup_key", refuse_use if same else look_once)
    waiter = asyncio.ensure_future(fail_to_send(client if same else keyed(gateway, beside)))
    await (turn() if same else asyncio.wait_for(looked.wait(), PATIENCE))
    if same:
        monkeypatch.setattr(journal, "lookup_key", refuse_use)
    holding.released.set()
    assert isinstance(await outcome(winner), SendReceipt)
    error = await asyncio.wait_for(waiter, PATIENCE)
    assert isinstance(error, DeliveryUnknownError)
    assert error.may_have_been_sent
    assert isinstance(error.__cause__, JournalError)


@pytest.mark.parametrize("answer", [accept, refuse(406, 39), lose_answer], ids=["sent", "unsent", "doubtful"])
async def test_a_journal_that_fails_after_the_first_byte(
    journal: Journal, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal keeps the doubt, and so does the error, whatever the gateway answered."""
    gateway = Gateway(answer, accept)
    client = keyed(gateway, journal, timeout=SOON)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "settle", refuse_use)
        error = await fail_to_send(client)
    assert isinstance(error, DeliveryUnknownError)
    assert (error.may_have_been_sent, error.attempts) == (True, 1)
    assert isinstance(await fail_to_send(client), DeliveryUnknownError)
    assert gateway.texts == [TEXT]
    assert (client.statistics().sent, client.statistics().unknown) == (0, 2)


async def test_a_closed_journal_is_refused(journal: Journal) -> None:
    """The error is a `RuntimeError`, as that of each closed object, and nothing was sent."""
    gateway = Gateway()
    await journal.aclose()
    error = await fail_to_send(keyed(gateway, journal))
    assert isinstance(error, JournalClosedError)
    assert isinstance(error, RuntimeError)
    assert not error.may_have_been_sent
    assert gateway.texts == []


async def test_a_journal_that_is_closed_meanwhile_leaves_doubt(journal: Journal, open_journal: OpenJournal) -> None:
    """The request is on the wire, and its outcome cannot be kept."""
    holding = Holding()
    gateway = Gateway(holding)
    winner = asyncio.ensure_future(send(keyed(gateway, journal, timeout=SOON * 5)))
    await asyncio.wait_for(holding.reached.wait(), PATIENCE)
    await journal.aclose()
    holding.released.set()
    assert isinstance(await outcome(winner), DeliveryUnknownError)
    async with open_journal() as later:  # type: ignore[attr-defined] # both have it
        assert isinstance(await fail_to_send(keyed(gateway, later)), DeliveryUnknownError)


@pytest.mark.parametrize("how", ["no room", "no sync"])
async def test_a_disk_that_fails_costs_no_more_than_its_failures(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the disk. Sends with a key go on by themselves once it works again, and know what they sent."""
    disk = FullDisk(monkeypatch, how)
    gateway = Gateway()
    async with SqliteJournal(tmp_path / "journal") as journal:
        client = keyed(gateway, journal)
        receipt = await send(client)
        disk.fails = True
        error = await fail_to_send(client, key="b")
        assert disk.sentence in str(error)
        assert (type(error), error.may_have_been_sent) == (JournalError, False)
        disk.fails = False
        assert await send(client) == receipt
        later = await send(client, key="c")
        assert later == await send(client, key="c")
    assert gateway.texts == [TEXT, TEXT]


async def test_a_write_that_failed_changes_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message whose claim failed is not waited for, and a sender whose outcome failed may store it once more."""
    disk = FullDisk(monkeypatch, "no room")
    sent = JournalEntry(Status.SENT, SendReceipt("uid", "sent", 1), 1)
    async with SqliteJournal(tmp_path / "journal") as journal:
        sending = await journal.lookup_key(KEY, PHONE, TEXT)
        assert await journal.intend(sending, seconds=100)
        assert await journal.intend(await journal.lookup_key("gone", PHONE, TEXT), seconds=0)
        again = await journal.lookup_key("gone", PHONE, TEXT)
        disk.fails = True
        for write in (lambda: journal.settle(sending, sent), lambda: journal.intend(again, seconds=100)):
            with pytest.raises(JournalError, match=disk.sentence):
                await write()
        disk.fails = False
        assert (await journal.lookup_key("gone", PHONE, TEXT)).busy_for == 0
        assert (await journal.lookup_key(KEY, PHONE, TEXT)).busy_for > 0
        await journal.settle(sending, sent)
        assert await journal.lookup(KEY) == sent


async def test_a_journal_that_was_deleted_is_not_begun_anew(tmp_path: Path) -> None:
    """In a new file all keys would be new, and their messages would go out again."""
    path = tmp_path / "journal"
    gateway = Gateway()
    async with SqliteJournal(path) as journal:
        client = keyed(gateway, journal)
        await send(client)
        path.rename(tmp_path / "moved")
        for key in ("b", KEY, KEY):
            assert isinstance(await fail_to_send(client, key=key), JournalError)
        (tmp_path / "moved").rename(path)
        await send(client)
    assert gateway.texts == [TEXT]


# --- bulk's keys ----------------------------------------------------------------------------------------------------


async def test_a_bulk_skips_a_key_that_was_sent_alone(journal: Journal) -> None:
    """A bulk's keys and those of single sends are the same keys."""
    gateway = Gateway()
    client = keyed(gateway, journal)
    receipt = await send(client)
    report = await client.send_many([SMS], journal=journal)
    assert report.outcomes == (Skipped(SMS, None, receipt),)
    assert gateway.texts == [TEXT]


async def test_a_single_send_returns_the_receipt_of_a_bulk(journal: Journal) -> None:
    """And the other way round, also while the bulk is still on."""
    gateway = Gateway()
    client = keyed(gateway, journal)
    messages = asyncio.Queue[Sms | None]()
    messages.put_nowait(SMS)

    async def source() -> AsyncIterator[Sms]:
        while (sms := await messages.get()) is not None:
            yield sms

    async with asyncio.timeout(PATIENCE), client.bulk(source(), journal=journal) as run:
        first = await anext(run)
        during = await send(client)
        fresh = await send(client, key="fresh")
        messages.put_nowait(Sms(PHONE, TEXT, key="fresh"))
        messages.put_nowait(None)
        (second,) = [it async for it in run]
    assert during == first.receipt  # type: ignore[union-attr] # it was sent
    assert isinstance(second, Skipped)
    assert second.receipt == fresh
    assert await send(client) == during
    assert gateway.texts == [TEXT, TEXT]


async def test_a_single_send_waits_for_a_bulk(journal: Journal) -> None:
    """It returns the receipt that the bulk gets."""
    holding = Holding()
    gateway = Gateway(holding)
    client = keyed(gateway, journal)
    bulk = asyncio.ensure_future(client.send_many([SMS], journal=journal))
    await asyncio.wait_for(holding.reached.wait(), PATIENCE)
    waiter = asyncio.ensure_future(send(client))
    await turn()
    assert not waiter.done()
    holding.released.set()
    (sent,) = (await asyncio.wait_for(bulk, PATIENCE)).sent
    assert await outcome(waiter) == sent.receipt
    assert gateway.texts == [TEXT]


@pytest.mark.parametrize("resend_unknown", [False, True])
async def test_a_bulk_leaves_a_message_to_the_send_that_is_under_way(journal: Journal, resend_unknown: bool) -> None:
    """Even a bulk that sends doubtful messages again does not take one that is on the wire."""
    holding = Holding()
    gateway = Gateway(holding, accept)
    client = keyed(gateway, journal)
    winner = asyncio.ensure_future(send(client))
    await asyncio.wait_for(holding.reached.wait(), PATIENCE)
    report = await client.send_many([SMS], journal=journal, resend_unknown=resend_unknown)
    holding.released.set()
    assert isinstance(await outcome(winner), SendReceipt)
    (failed,) = report.outcomes
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, DeliveryUnknownError)
    assert gateway.texts == [TEXT]


async def test_a_claim_that_a_bulk_loses_counts_once(journal: Journal, beside: Journal) -> None:
    """The message is that of the send that got it, and no class of ours is among the failures."""
    events: list[SendEvent] = []
    gateway, gate = Gateway(), Gate()
    client = client_of(gateway, limiter=gate, observer=events.append)
    bulk = asyncio.ensure_future(client.send_many([SMS], journal=journal))
    await asyncio.wait_for(gate.reached.wait(), PATIENCE)
    await send(keyed(gateway, beside))
    gate.opened.set()
    (failed,) = (await asyncio.wait_for(bulk, PATIENCE)).outcomes
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, DeliveryUnknownError)
    assert (client.statistics().sent, client.statistics().failed, events) == (0, {}, [])
    assert gateway.texts == [TEXT]


# --- claims ---------------------------------------------------------------------------------------------------------


async def test_only_the_claimer_settles(journal: Journal) -> None:
    """A sender that was given up for gone changes nothing, once another one has the message."""
    first = await journal.lookup_key(KEY, PHONE, TEXT)
    assert await journal.intend(first, seconds=0)
    second = await journal.lookup_key(KEY, PHONE, TEXT)
    assert await journal.intend(second, seconds=100)
    await journal.settle(first, JournalEntry(Status.UNSENT))
    sent = JournalEntry(Status.SENT, SendReceipt("uid", "sent", 2), 2)
    with pytest.raises(JournalError, match="another sender took the message"):
        await journal.settle(first, sent)
    assert await journal.lookup(KEY) == JournalEntry(Status.DOUBTFUL, attempts=2)
    await journal.settle(second, sent)
    assert await journal.lookup(KEY) == sent


async def test_a_late_failure_does_not_undo_what_was_found(journal: Journal) -> None:
    """A message that the history has was sent, whatever its sender hears later."""
    claimed = await journal.lookup_key(KEY, PHONE, TEXT)
    assert await journal.intend(claimed, seconds=0)
    await journal.begin_run()
    assert await journal.find(await journal.lookup_next(KEY, PHONE, TEXT), SendReceipt("uid", "sent", 1))
    await journal.end_run()
    await journal.settle(claimed, JournalEntry(Status.DOUBTFUL, attempts=1))
    assert await journal.lookup(KEY) == JournalEntry(Status.SENT, SendReceipt("uid", "sent", 1), 1)


# --- lookup and forget ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "entry"),
    [
        (accept, JournalEntry(Status.SENT, SendReceipt("uid", "sent"), 1)),
        (refuse(406, 39), JournalEntry(Status.UNSENT, error="InvalidRequestError", code=39)),
        (refuse(406, 482913), JournalEntry(Status.UNSENT, error="ApiError")),
        (fail(httpx.ConnectError), JournalEntry(Status.UNSENT, error="ConnectionFailedError")),
        (lose_answer, JournalEntry(Status.DOUBTFUL, attempts=1, error="DeliveryUnknownError")),
        (refuse(500, 13), JournalEntry(Status.DOUBTFUL, attempts=4, error="InternalError", code=13)),
    ],
    ids=["sent", "refused", "a code that may be a password", "unconnected", "unknown", "internal error"],
)
async def test_a_key_can_be_looked_up(open_journal: OpenJournal, answer: Answer, entry: JournalEntry) -> None:
    """The entry has the receipt, or the class and the code of the failure, in a later process too."""
    found = []
    async with open_journal() as journal:  # type: ignore[attr-defined] # both have it
        assert await journal.lookup(KEY) is None
        sent = await outcome(send(keyed(Gateway(answer), journal)))
        found.append(await journal.lookup(KEY))
    async with open_journal() as journal:  # type: ignore[attr-defined] # as above
        found.append(await journal.lookup(KEY))
    if isinstance(sent, SendReceipt):
        entry = JournalEntry(Status.SENT, sent, 1)
    assert found == [entry, entry]
    assert found[0].status == entry.status.value


async def test_a_message_under_way_is_in_doubt(journal: Journal) -> None:
    """An earlier failure is not told of it, and neither is one that a lookup of its own made."""
    holding = Holding()
    client = keyed(Gateway(refuse(406, 39), holding), journal)
    await fail_to_send(client)
    winner = asyncio.ensure_future(send(client))
    await asyncio.wait_for(holding.reached.wait(), PATIENCE)
    assert await journal.lookup(KEY) == JournalEntry(Status.DOUBTFUL, attempts=1)
    holding.released.set()
    await outcome(winner)


async def test_a_forgotten_key_is_new(open_journal: OpenJournal) -> None:
    """Old keys go, and stay away in a later process; younger ones and those in doubt stay."""
    gateway = Gateway(answers={"lost": lose_answer, "refused": refuse(406, 39)})
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    async with open_journal() as journal:  # type: ignore[attr-defined] # both have it
        client = keyed(gateway, journal)
        await send(client)
        await fail_to_send(client, key="refused", message="refused")
        await fail_to_send(client, key="lost", message="lost")
        assert await journal.forget(long_ago, doubtful=True) == 0
        assert await journal.forget(FUTURE) == 2
    async with open_journal() as journal:  # type: ignore[attr-defined] # as above
        client = keyed(gateway, journal)
        assert [await journal.lookup(key) for key in (KEY, "refused")] == [None, None]
        assert isinstance(await fail_to_send(client, key="lost", message="lost"), DeliveryUnknownError)
        assert await journal.forget(FUTURE, doubtful=True) == 1
        await send(client)
        await fail_to_send(client, key="lost", message="lost")
    assert gateway.texts == [TEXT, "refused", "lost", TEXT, "lost"]


async def test_a_message_under_way_is_not_forgotten(journal: Journal) -> None:
    """Another send of its key would send it again."""
    holding = Holding()
    gateway = Gateway(holding)
    client = keyed(gateway, journal)
    winner = asyncio.ensure_future(send(client))
    await asyncio.wait_for(holding.reached.wait(), PATIENCE)
    assert await journal.forget(FUTURE, doubtful=True) == 0
    holding.released.set()
    assert await outcome(winner) == await send(client)
    assert await journal.forget(FUTURE) == 1


async def test_forgetting_needs_a_time_zone(journal: Journal) -> None:
    """A naive moment may be hours off."""
    with pytest.raises(ValueError, match="before must be"):
        await journal.forget(datetime(2100, 1, 1))  # noqa: DTZ001 - the mistake of this test


# --- counts, observer, secrets --------------------------------------------------------------------------------------


async def test_a_replay_counts_nowhere(journal: Journal) -> None:
    """The message was counted and told of when it was sent."""
    events: list[SendEvent] = []
    client = keyed(Gateway(), journal, observer=events.append)
    for _ in range(3):
        await send(client)
    counts = client.statistics()
    assert (counts.sent, counts.failed, counts.unknown) == (1, {}, 0)
    assert [event.sent for event in events] == [True]


async def test_an_answer_in_doubt_is_told_as_it_is_raised(journal: Journal) -> None:
    """Counts and observer say of it what the error says."""
    events: list[SendEvent] = []
    client = keyed(Gateway(lose_answer), journal, observer=events.append)
    errors = [await fail_to_send(client) for _ in range(2)]
    counts = client.statistics()
    assert (counts.sent, counts.failed, counts.unknown) == (0, {"DeliveryUnknownError": 2}, 2)
    assert [(event.error, event.may_have_been_sent, event.attempts) for event in events] == [
        (errors[0], True, 1),
        (errors[1], True, 0),
    ]


def spellings(error: BaseException | None) -> Iterable[str]:
    """Yield each text that an error and its causes have."""
    while error is not None:
        yield from (str(error), repr(error), repr(error.args))
        error = error.__cause__ or error.__context__


async def test_nothing_private_is_told(
    journal: Journal, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an error nor a log nor a repr holds a number, a text, a key or a password."""
    caplog.set_level(logging.DEBUG)
    gateway = Gateway(take_turns(lose_answer, accept))
    client = keyed(gateway, journal, timeout=SOON)
    errors = [await fail_to_send(client), await fail_to_send(client), await fail_to_send(client, phone=OTHER)]
    monkeypatch.setattr(journal, "settle", refuse_use)
    errors.append(await fail_to_send(client, key=f"{KEY}-b"))
    monkeypatch.setattr(journal, "lookup_key", refuse_use)
    errors.append(await fail_to_send(client, key=f"{KEY}-c"))
    texts = [text for error in errors for text in spellings(error)]
    texts += [caplog.text, repr(client), repr(journal), repr(await journal.lookup(KEY))]
    for secret in (PHONE[1:], OTHER[1:], TEXT, "482913", KEY, "a@example.com", "secret"):
        assert not [text for text in texts if secret in text]

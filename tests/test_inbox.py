"""The sandbox's inbox: codes in texts, statuses that move on, and waiting for messages in any thread."""

import asyncio
import gc
import threading
from collections import Counter
from time import monotonic

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import given
from hypothesis import strategies as st
from watched_inbox import Watches

from oca_sms_async import AsyncOcaSms, Unlimited
from oca_sms_async.sandbox import Sandbox, _inbox
from oca_sms_async.sandbox._one_time_codes import find_code

PHONE = "+6281381475159"
OTHER = "+6281381475158"
TEXT = "Acme: 482913 is your code"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Acme: 482913 is your code", "482913"),
        ("Kode OTP Anda: 0417.", "0417"),
        ("kode:12345678", "12345678"),
        ("G-482913 is your Acme verification code.", "482913"),
        ("<#> 482-913 adalah kode Anda", "482913"),
        ("your code is 482 913", "482913"),
        ("482913", "482913"),
        ("Berlaku sampai 2027. Kode Anda 482913, jangan berikan", "482913"),
        ("Kode 482913. Hubungi 1500123", "482913"),
        ("Hubungi 1500123 bila bukan Anda. Kode 482913", "482913"),
        ("Rp 1.500.000 dibayar. PIN: 4711", "4711"),
        ("Rp 150,000 telah dibayar", None),
        ("call +628123456789 now", None),
        ("call 0812-3456-7890 now", None),
        ("no digits", None),
        ("123", None),
        ("123456789", None),
        ("Kode: 482913 5 menit", "482913"),
        ("Kode OTP Anda 482913 2 menit berlaku", "482913"),
        ("Shopee24 482913 adalah kode", "482913"),
        ("Promo 2024 kode 4829", "4829"),
        ("call 1500046 kode 482913", "482913"),
        ("10-12-2024", None),
        ("12 10 2024 2025", None),
        ("", None),
    ],
)
def test_the_code_is_found(text: str, code: str | None) -> None:
    """Four to eight digits that stand alone are a code, nearest to a word for one; sums and numbers to call are not."""
    assert find_code(text) == code


@given(before=st.text(st.characters(exclude_categories=["Nd"])), code=st.from_regex(r"[0-9]{4,8}", fullmatch=True))
def test_a_code_in_any_text_is_found(before: str, code: str) -> None:
    """The only code in a text is found, after any words."""
    assert find_code(f"{before} kode {code}") == code


@pytest.mark.parametrize(
    ("part", "code"),
    [("code 1234 ", "1234"), ("kode 4829.\n", "4829"), ("1 ", None), ("1-", None), ("12345678 1.5 ", None)],
)
def test_a_code_in_a_text_of_any_length_is_found(part: str, code: str | None) -> None:
    """The search takes time linear in the text: quadratic time would stop the gateway for good."""
    assert find_code(part * 20_000) == code


async def test_the_newest_code_of_a_number(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """`code` is that of the number's newest message in any spelling; without a message or a code it says which."""
    with pytest.raises(LookupError, match=r"\*159 has arrived") as caught:
        sandbox.inbox.code(PHONE)
    assert "81381475" not in str(caught.value)
    await client.send(PHONE, TEXT)
    await client.send(PHONE, "Acme: 111222 is your code")
    await client.send(OTHER, "Acme: 333444 is your code")
    assert sandbox.inbox.code("0813-8147-5159") == "111222"
    assert sandbox.inbox[0].code == "482913"
    await client.send(PHONE, "thank you")
    with pytest.raises(LookupError, match="no code"):
        sandbox.inbox.code(PHONE)
    with pytest.raises(ValueError, match="phone"):
        sandbox.inbox.code("0812")
    sandbox.inbox.clear()
    with pytest.raises(LookupError, match="has arrived"):
        sandbox.inbox.code(OTHER)


async def test_waiting_for_a_message(client: AsyncOcaSms, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is there comes at once. Otherwise the wait ends when one to the same number arrives."""
    watches = Watches(sandbox.inbox, monkeypatch)
    waiting = asyncio.create_task(sandbox.inbox.wait_for("081381475159", timeout=3600))
    await client.send(OTHER, TEXT)
    assert not waiting.done()
    await client.send(PHONE, TEXT)
    arrived = await waiting
    assert (arrived.phone, arrived.text) == (PHONE, TEXT)
    assert await sandbox.inbox.wait_for(PHONE, timeout=0) is arrived
    await client.send(PHONE, "newer")
    assert (await sandbox.inbox.wait_for(PHONE, timeout=0)).text == "newer"
    assert (watches.given > 0, watches.open) == (True, 0)


async def test_waiting_in_vain(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is up, the error has the masked number, and the wait leaves nothing behind."""
    watches, loop = Watches(sandbox.inbox, monkeypatch), asyncio.get_running_loop()
    clock, later = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: clock() + later)
    waiting = asyncio.create_task(sandbox.inbox.wait_for(PHONE, timeout=3600))
    await asyncio.sleep(0)
    later = 3601.0
    with pytest.raises(TimeoutError, match=r"no message to \*+159 has arrived within 3600 s"):
        await waiting
    assert (watches.given > 0, watches.open) == (True, 0)
    with pytest.raises(ValueError, match="phone"):
        await sandbox.inbox.wait_for("0812", timeout=0)


async def test_a_cancelled_wait_leaves_nothing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled wait leaves nothing behind, and later messages arrive as usual."""
    watches = Watches(sandbox.inbox, monkeypatch)
    waiting = asyncio.create_task(sandbox.inbox.wait_for(PHONE, timeout=3600))
    await asyncio.sleep(0)
    assert watches.open == 1
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert (watches.given > 0, watches.open) == (True, 0)


def test_waiting_in_another_thread_than_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """A sandbox served in one thread wakes a waiter in another thread's loop, one loop after the other."""
    before = {*threading.enumerate()}  # a thread of an earlier test may still end
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Sandbox().serve()) as sandbox:
        for n in range(3):
            text = f"Acme: 48291{n} is your code"

            async def send_and_wait(text: str = text) -> str:
                async with AsyncOcaSms(sandbox.username, sandbox.password, base_url=sandbox.base_url) as client:
                    waiting = asyncio.create_task(sandbox.inbox.wait_for(PHONE, timeout=30))
                    await asyncio.sleep(0)
                    await client.send(PHONE, text)
                    return (await waiting).text

            assert asyncio.run(send_and_wait()) == text
            sandbox.inbox.clear()
    gc.collect()
    assert caplog.records == []
    assert {*threading.enumerate()} <= before


async def test_a_status_moves_on(client: AsyncOcaSms, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record goes through the statuses in their time, and says since when it has its own."""
    started, later = monotonic(), 0.0
    monkeypatch.setattr(_inbox, "monotonic", lambda: started + later)
    sandbox.submitted_for, sandbox.sent_for = 2.0, 3.0
    receipt = await client.send(PHONE, TEXT)
    assert receipt.status == "sent"
    for moment, status, since in [
        (0.0, "submited", 0), (1.9, "submited", 0), (2.0, "sent", 2), (4.9, "sent", 2), (5.1, "delivered", 5),
    ]:  # fmt: skip
        later = moment
        record = await client.status(receipt.msg_uid)
        assert record.status == status == (await client.history())[0].status
        assert record.created_at is not None
        assert record.updated_at is not None
        assert (record.updated_at - record.created_at).total_seconds() == since
    sandbox.submitted_for = sandbox.sent_for = 0.0
    assert (await client.status(receipt.msg_uid)).status == "delivered"
    assert (await client.status((await client.send(PHONE, TEXT)).msg_uid)).status == "delivered"


async def find_ends(share: float) -> list[str]:
    """Return how sixty messages ended of which this share fails."""
    sandbox = Sandbox(seed=5, sent_for=0, failed_share=share)
    async with (
        sandbox.serve(),
        AsyncOcaSms(sandbox.username, sandbox.password, base_url=sandbox.base_url, limiter=Unlimited()) as client,
    ):
        await asyncio.gather(*(client.send(PHONE, f"{n}") for n in range(60)))
    return [message.status for message in sandbox.inbox]


async def test_a_share_fails() -> None:
    """The failing share is drawn from the seed, and may be 0 or 1."""
    first = await find_ends(0.3)
    assert first == await find_ends(0.3)
    assert 6 <= Counter(first)["failed"] <= 30
    assert set(await find_ends(0.0)) == {"delivered"}
    assert set(await find_ends(1.0)) == {"failed"}

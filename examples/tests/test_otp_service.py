"""The OTP service: its answers, its limits, and its promises to requests that come at once."""

import asyncio
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from oca_sms_async import check_message, segments
from oca_sms_async.sandbox import Sandbox
from postgres_server import execute
from psycopg import AsyncConnection

from otp_service import service, store
from otp_service.app import create_app
from otp_service.codes import digest, draw_code, write_text
from otp_service.create_tables import create_tables
from otp_service.service import ALL_A_DAY, COOL_DOWN, NUMBER_A_DAY
from otp_service.settings import Settings
from otp_service.store import MOST_TRIES
from processes import EXAMPLES, PATIENCE, Start

PHONE: Final = "081234567890"
E164: Final = "+6281234567890"

Settled = dict[str, str]


@pytest.fixture
def settings(empty_database: str, oca_sms_sandbox: Sandbox) -> Settled:
    """The variables of a service with fresh tables, on the sandbox."""
    asyncio.run(create_tables(empty_database))
    return oca_sms_sandbox.environment() | {
        "OTP_DATABASE": empty_database,
        "OTP_SECRET": secrets.token_hex(32),
        "OTP_BRAND": "Acme",
        "OTP_DOMAIN": "login.example.com",
    }


class Page:
    """A page of one user: a login and a number, with the requests that it makes."""

    def __init__(self, http: TestClient, phone: str = PHONE) -> None:
        self._http = http
        self.login = str(uuid4())
        self.phone = phone

    def send(self) -> Response:
        """Ask for the first code."""
        return self._http.post("/send", json={"login": self.login, "phone": self.phone})

    def resend(self) -> Response:
        """Ask for a new code."""
        return self._http.post("/resend", json={"login": self.login})

    def verify(self, code: str) -> Response:
        """Type a code."""
        return self._http.post("/verify", json={"login": self.login, "code": code})


@pytest.fixture
def http(settings: Settled) -> Iterator[TestClient]:
    """A browser at an address of its own."""
    with TestClient(create_app(settings), client=("203.0.113.7", 50000)) as client:
        yield client


@pytest.fixture
def page(http: TestClient) -> Page:
    """The page of one user."""
    return Page(http)


@pytest.fixture
def wait(settings: Settled) -> Callable[[str], None]:
    """A function that lets time pass: it moves all that the database knows into the past."""

    def move(length: str) -> None:
        for table, columns in {
            "otp_login": ["expires_at"],
            "otp_limit": ["free_at", "resets_at"],
            "oca_sms_message": ["ended"],
        }.items():
            moves = ", ".join(f"{column} = {column} - interval '{length}'" for column in columns)
            execute(settings["OTP_DATABASE"], f"UPDATE {table} SET {moves}")

    return move


def wrong(code: str) -> str:
    """Return another code."""
    return f"{(int(code) + 1) % 10**6:06}"


def test_a_user_logs_in(page: Page, oca_sms_sandbox: Sandbox) -> None:
    """The code of the SMS proves the number, once."""
    sent = page.send()
    assert (sent.status_code, sent.json()) == (202, {"status": "sent", "retry_after": COOL_DOWN})
    code = oca_sms_sandbox.inbox.code(PHONE)
    verified = page.verify(f" {code[:3]} {code[3:]}")
    assert (verified.status_code, verified.json()) == (200, {"status": "verified", "phone": E164})
    again = page.verify(code)
    assert (again.status_code, again.json()) == (410, {"status": "over"})
    assert page.verify(wrong(code)).json() == {"status": "over"}
    assert page.resend().status_code == 410


def test_the_text_suits_browsers_and_networks(page: Page, oca_sms_sandbox: Sandbox) -> None:
    """The brand is in it, one segment holds it, and its last line binds the code to the page's host."""
    page.send()
    text = oca_sms_sandbox.inbox[0].text
    assert re.fullmatch(r"@login\.example\.com #[0-9]{6}", text.splitlines()[-1])
    assert (check_message(text, brand="Acme"), segments(text).count) == ([], 1)


def test_a_code_belongs_to_its_login(http: TestClient, page: Page, oca_sms_sandbox: Sandbox) -> None:
    """With the right code, a login of another page is over, and costs the first page no try."""
    page.send()
    code = oca_sms_sandbox.inbox.code(PHONE)
    assert Page(http).verify(code).json() == {"status": "over"}
    assert page.verify(wrong(code)).json() == {"status": "wrong", "tries_left": MOST_TRIES - 1}


def test_few_tries(page: Page, oca_sms_sandbox: Sandbox) -> None:
    """After the last try the right code is refused too, and no new code is sent."""
    page.send()
    code = oca_sms_sandbox.inbox.code(PHONE)
    answers = [page.verify(wrong(code)).json() for _ in range(MOST_TRIES)]
    assert [answer.get("tries_left") for answer in answers] == [4, 3, 2, 1, None]
    assert page.verify(code).status_code == 410
    assert page.resend().status_code == 410
    assert len(oca_sms_sandbox.inbox) == 1


def test_no_new_tries_for_a_new_code(page: Page, oca_sms_sandbox: Sandbox, wait: Callable[[str], None]) -> None:
    """A new code replaces the earlier one, and goes on with its tries."""
    page.send()
    first = oca_sms_sandbox.inbox.code(PHONE)
    page.verify(wrong(first))
    wait("61 s")
    assert page.resend().json()["status"] == "sent"
    second = oca_sms_sandbox.inbox.code(PHONE)
    if first != second:  # one time in a million they are equal
        assert page.verify(first).json() == {"status": "wrong", "tries_left": MOST_TRIES - 2}
    assert page.verify(second).status_code == 200


def test_a_code_of_another_form_takes_no_try(page: Page, oca_sms_sandbox: Sandbox) -> None:
    """Letters, digits of other scripts and five digits are refused before the database is asked."""
    page.send()
    for typed in ("12345", "1234567", "abcdef", "١٢٣٤٥٦", ""):
        assert page.verify(typed).status_code == 422
    assert page.verify(wrong(oca_sms_sandbox.inbox.code(PHONE))).json()["tries_left"] == MOST_TRIES - 1


def test_a_code_expires(page: Page, oca_sms_sandbox: Sandbox, wait: Callable[[str], None]) -> None:
    """After five minutes the code is over; a new one may be had."""
    page.send()
    wait("301 s")
    assert page.verify(oca_sms_sandbox.inbox.code(PHONE)).json() == {"status": "over"}
    assert page.resend().json()["status"] == "sent"
    assert page.verify(oca_sms_sandbox.inbox.code(PHONE)).status_code == 200


def test_the_cool_down_of_a_number(http: TestClient, page: Page, wait: Callable[[str], None]) -> None:
    """A number gets one SMS a minute, from all pages and in all spellings; the answer says when the next may come."""
    page.send()
    wait("2 s")
    for refused in (Page(http, "+62 812-3456-7890").send(), page.resend()):
        assert (refused.status_code, refused.json()["status"]) == (429, "wait")
        assert 50 < refused.json()["retry_after"] == int(refused.headers["retry-after"]) <= COOL_DOWN
    wait("60 s")
    assert page.resend().status_code == 202


def test_the_cool_down_of_an_address(http: TestClient, wait: Callable[[str], None]) -> None:
    """An address that asks for many numbers is slowed down. A refusal leaves the other limits and the login alone."""
    assert Page(http).send().status_code == 202
    other = Page(http, "081234567891")
    assert other.send().json() == {"status": "wait", "retry_after": 1}
    wait("1 s")
    assert other.send().json()["status"] == "sent"


def test_a_caller_does_not_choose_its_address(http: TestClient) -> None:
    """A header that every caller can write does not end the cool-down of its address."""
    assert Page(http).send().status_code == 202
    body = {"login": str(uuid4()), "phone": "081234567891"}
    assert http.post("/send", json=body, headers={"X-Forwarded-For": "198.51.100.9"}).status_code == 429


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:3::4", 429),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", 202),
        ("203.0.113.7", "::ffff:203.0.113.7", 429),
        ("203.0.113.7", "203.0.113.8", 202),
    ],
)
def test_the_address_of_a_subscriber(settings: Settled, first: str, second: str, status: int) -> None:
    """A subscriber of IPv6 has 2^64 addresses, and they count as one."""
    app = create_app(settings)
    with TestClient(app, client=(first, 1)) as one, TestClient(app, client=(second, 1)) as other:
        assert Page(one).send().status_code == 202
        assert Page(other, "081234567891").send().status_code == status


def test_the_cap_a_day(page: Page, oca_sms_sandbox: Sandbox, wait: Callable[[str], None]) -> None:
    """A number gets ten SMS in the day that its first one begins, and the refusal says how long that lasts."""
    page.send()
    for _ in range(NUMBER_A_DAY - 1):
        wait("61 s")
        assert page.resend().status_code == 202
    wait("61 s")
    refused = page.resend()
    assert refused.status_code == 429
    assert 86_400 - NUMBER_A_DAY * 61 - 60 < refused.json()["retry_after"] <= 86_400 - NUMBER_A_DAY * 61
    assert len(oca_sms_sandbox.inbox) == NUMBER_A_DAY
    wait("1 day")
    for _ in range(2):
        assert page.resend().status_code == 202
        wait("61 s")


def test_the_cap_of_all_numbers(http: TestClient, page: Page, settings: Settled, oca_sms_sandbox: Sandbox) -> None:
    """When the day's budget is spent, no more SMS are sent, and the metrics say why."""
    page.send()
    execute(
        settings["OTP_DATABASE"],
        f"UPDATE otp_limit SET sends = {ALL_A_DAY} WHERE free_at <= resets_at - interval '1 day'",
    )
    execute(settings["OTP_DATABASE"], "UPDATE otp_limit SET free_at = now()")
    assert Page(http, "081234567891").send().status_code == 429
    assert len(oca_sms_sandbox.inbox) == 1
    assert 'otp_refusals_total{limit="all"} 1.0' in http.get("/metrics").text


def test_a_page_that_lost_the_answer_asks_again(page: Page, oca_sms_sandbox: Sandbox) -> None:
    """The same login gets the same answer without a second SMS, and is not for another number."""
    assert page.send().json() == page.send().json() == {"status": "sent", "retry_after": COOL_DOWN}
    page.phone = "081234567891"
    assert page.send().status_code == 409
    assert len(oca_sms_sandbox.inbox) == 1


def test_an_unknown_end(page: Page, oca_sms_sandbox: Sandbox) -> None:
    """A code that perhaps was sent may be typed, is not sent again, and counts."""
    oca_sms_sandbox.when(PHONE).respond("accept-then-drop", times=1)
    assert (page.send().status_code, page.send().json()["status"]) == (202, "unknown")
    assert page.resend().status_code == 429
    assert page.verify(oca_sms_sandbox.inbox.code(PHONE)).status_code == 200


def test_a_code_that_was_not_sent_costs_nothing(
    page: Page, oca_sms_sandbox: Sandbox, wait: Callable[[str], None]
) -> None:
    """The page may ask again without a cool-down of the number, as often as a day's cap and more."""
    oca_sms_sandbox.quota = 0
    assert (page.send().status_code, page.send().json()) == (503, {"status": "not-sent", "retry_after": 0})
    for _ in range(NUMBER_A_DAY):
        assert page.resend().json() == {"status": "wait", "retry_after": 1}  # of the address
        wait("1 s")
        assert page.resend().status_code == 503
    assert page.send().json()["status"] == "not-sent"  # the journal's word on the newest code
    oca_sms_sandbox.quota = None
    wait("1 s")
    assert page.resend().json()["status"] == "sent"
    assert page.verify(oca_sms_sandbox.inbox.code(PHONE)).status_code == 200


def test_a_code_does_not_leave_late(page: Page, oca_sms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the user's patience is over, the code is not sent, and the page may ask again."""
    monkeypatch.setattr(service, "PATIENCE", 1e-9)
    assert page.send().json()["status"] == "not-sent"
    assert len(oca_sms_sandbox.inbox) == 0


def test_a_number_that_the_gateway_refuses_counts(
    page: Page, oca_sms_sandbox: Sandbox, wait: Callable[[str], None]
) -> None:
    """Otherwise a caller could have the gateway asked about numbers without end."""
    oca_sms_sandbox.refused_numbers = {E164}
    assert page.send().status_code == 503
    wait("2 s")  # the address may go on, and the number may not
    assert page.resend().status_code == 429


@pytest.mark.parametrize("phone", ["0812", "021 5551234", "not a number", "0" * 33])
def test_an_impossible_number(page: Page, phone: str, oca_sms_sandbox: Sandbox) -> None:
    """It is refused before anything is stored or sent."""
    page.phone = phone
    assert page.send().status_code == 422
    assert len(oca_sms_sandbox.inbox) == 0


def test_the_documentations_request(http: TestClient) -> None:
    """The request in docs/otp-service.md is one that the service takes."""
    text = (EXAMPLES.parent / "docs" / "otp-service.md").read_text(encoding="utf-8")
    (body,) = re.findall(r"-d '(\{.*\})'", text)
    assert http.post("/send", content=body, headers={"Content-Type": "application/json"}).json()["status"] == "sent"


def test_metrics(http: TestClient, page: Page, oca_sms_sandbox: Sandbox) -> None:
    """They count answers, sends, guesses and refusals, and show no number and no login."""
    page.send()
    page.resend()
    code = oca_sms_sandbox.inbox.code(PHONE)
    page.verify(wrong(code))
    page.verify(code)
    text = http.get("/metrics").text
    for line in (
        'otp_answers_total{status="sent"} 1.0',
        'otp_sms_total{error="",outcome="sent"} 1.0',
        "otp_sms_seconds_count 1.0",
        'otp_guesses_total{status="wrong"} 1.0',
        'otp_guesses_total{status="verified"} 1.0',
        'otp_refusals_total{limit="number"} 1.0',
    ):
        assert line in text.splitlines()
    assert PHONE[1:] not in text
    assert page.login not in text


def test_old_numbers_are_forgotten(settings: Settled, wait: Callable[[str], None]) -> None:
    """A service that starts or goes on forgets the logins, limits and keys of two days ago, and keeps newer ones."""
    database = settings["OTP_DATABASE"]
    with TestClient(create_app(settings)) as client:
        Page(client).send()
    wait("1 day")
    with TestClient(create_app(settings)) as client:
        recent = Page(client, "081234567891")
        recent.send()
    wait("1441 minutes")
    with TestClient(create_app(settings)):
        give_up = time.monotonic() + PATIENCE
        while execute(database, "SELECT login FROM otp_login") != [(UUID(recent.login),)]:
            assert time.monotonic() < give_up, "the old login is still there"
            time.sleep(0.01)
        while execute(database, "SELECT count(*) FROM oca_sms_message") != [(1,)]:
            assert time.monotonic() < give_up, "the old key is still there"
            time.sleep(0.01)
    assert execute(database, "SELECT count(*) FROM otp_limit") == [(0,)]


def test_while_postgresql_is_away(settings: Settled, oca_sms_sandbox: Sandbox) -> None:
    """Nothing is sent, and the page is told to repeat its request."""
    settings["OTP_DATABASE"] += "_gone"
    with TestClient(create_app(settings)) as client:
        answer = Page(client).send()
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert len(oca_sms_sandbox.inbox) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTP_DATABASE", ""),
        ("OTP_SECRET", "marker"),
        ("OTP_SECRET", "ab" * 31),
        ("OTP_BRAND", "Ácme"),
        ("OTP_DOMAIN", "https://example.com/"),
    ],
)
def test_a_wrong_setting_stops_the_start(name: str, value: str) -> None:
    """The error names the variable, and shows nothing of a secret."""
    fine = {"OTP_DATABASE": "host=x", "OTP_SECRET": "ab" * 32, "OTP_BRAND": "Acme", "OTP_DOMAIN": "login.example.com"}
    assert "ab" not in repr(Settings.from_env(fine)).replace("database", "")
    with pytest.raises(ValueError, match=name) as caught:
        create_app(fine | {name: value})
    assert not value or value not in str(caught.value)


def test_codes_and_digests() -> None:
    """Codes have six digits, and a digest belongs to one key, one purpose and one login."""
    assert all(re.fullmatch("[0-9]{6}", draw_code()) for _ in range(1000))
    assert len({draw_code() for _ in range(100)}) > 90
    digests = {digest(key, *parts) for key in (b"a", b"b") for parts in (("x", "yz"), ("xy", "z"), ("x", "y", "z"))}
    assert len(digests) == 6
    assert write_text("Acme", "a.example", "012345").endswith("\n@a.example #012345")


def test_the_table_does_not_show_equal_codes(
    http: TestClient, page: Page, settings: Settled, wait: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The login is part of the digest, so equal codes of two logins look different."""
    monkeypatch.setattr(service, "draw_code", lambda: "482913")
    page.send()
    wait("2 s")
    Page(http, "081234567891").send()
    assert execute(settings["OTP_DATABASE"], "SELECT count(*), count(DISTINCT digest) FROM otp_login") == [(2, 2)]


async def test_guesses_at_the_same_step(settings: Settled) -> None:
    """Of two right guesses that both took their try, one uses the code up. A new code ends a guess at the old one."""
    login = uuid4()
    async with await AsyncConnection.connect(settings["OTP_DATABASE"], autocommit=True) as connection:
        assert await store.begin(connection, login, E164, b"first")
        guesses = [await store.take_try(connection, login) for _ in range(2)]
        assert guesses == [(b"first", MOST_TRIES - 1), (b"first", MOST_TRIES - 2)]
        assert await store.renew(connection, login, b"second") == (E164, 2)
        assert await store.use(connection, login, b"first") is None
        assert [await store.use(connection, login, b"second") for _ in range(2)] == [E164, None]


async def ask(addresses: list[str], path: str, *bodies: dict[str, Any]) -> list[httpx.Response]:
    """Send all requests at once, in turn to each of the servers."""
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        calls = [
            client.post(f"{addresses[number % len(addresses)]}/{path}", json=body) for number, body in enumerate(bodies)
        ]
        return await asyncio.gather(*calls)


async def test_two_processes_and_requests_at_once(
    settings: Settled, start: Start, oca_sms_sandbox: Sandbox, tmp_path: Path
) -> None:
    """A double click sends one SMS, guesses at once get five tries in all, and a right code is right once."""
    oca_sms_sandbox.latency = 0.1  # the second click comes while the first one's SMS is on its way
    settings["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path)
    servers = [start("--factory", "otp_service.app:create_app", **settings) for _ in range(2)]

    login = str(uuid4())
    clicks = await ask(servers, "send", *[{"login": login, "phone": PHONE}] * 20)
    assert {click.status_code for click in clicks} == {202}
    assert Counter(click.json()["status"] for click in clicks)["sent"] >= 1
    (message,) = oca_sms_sandbox.inbox
    code = message.code or ""

    guesses = await ask(servers, "verify", *[{"login": login, "code": wrong(code)}] * 20)
    assert Counter(guess.json()["status"] for guess in guesses) == {"wrong": MOST_TRIES - 1, "over": 21 - MOST_TRIES}
    assert sorted(guess.json().get("tries_left", 0) for guess in guesses)[-4:] == [1, 2, 3, 4]

    # Twenty pages ask for one number at once; a single one of them gets a code.
    execute(settings["OTP_DATABASE"], "UPDATE otp_limit SET free_at = now()")
    pages = [{"login": str(uuid4()), "phone": "081234567891"} for _ in range(20)]
    asked = await ask(servers, "send", *pages)
    assert Counter(answer.status_code for answer in asked) == {202: 1, 429: 19}
    assert len(oca_sms_sandbox.inbox) == 2

    (login,) = (page["login"] for page, answer in zip(pages, asked, strict=True) if answer.status_code == 202)
    right = {"login": login, "code": oca_sms_sandbox.inbox.code("081234567891")}
    assert Counter(answer.status_code for answer in await ask(servers, "verify", *[right] * 4)) == {200: 1, 410: 3}

    async with httpx.AsyncClient(trust_env=False) as client:
        for server in servers:  # each tells the counts of both
            lines = (await client.get(f"{server}/metrics")).text.splitlines()
            assert 'otp_guesses_total{status="over"} 19.0' in lines
            assert 'otp_sms_total{error="",outcome="sent"} 2.0' in lines

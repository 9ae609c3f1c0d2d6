"""The list behind the page: accepted and refused requests, searched, filtered, cut into pages, and forgotten."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from oca_sms_async import AsyncOcaSms, OcaSmsError, QuotaExhaustedError
from oca_sms_async.sandbox import FAULTS, Sandbox
from oca_sms_async.sandbox._listing import Query, list_entries

PHONE = "+6281381475159"
OTHER = "+6281381475158"
TEXT = "Acme: 482 913 is your code"

List = Callable[..., Any]


@pytest.fixture
async def control(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client of the sandbox's own paths."""
    url = sandbox.base_url.removesuffix("/api/v1")
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=None) as opened:
        yield opened


async def ask(control: httpx.AsyncClient, **query: object) -> dict[str, Any]:
    """Return a page of the list."""
    response = await control.get("/sandbox/entries", params={key: str(value) for key, value in query.items()})
    assert response.status_code == 200
    listing: dict[str, Any] = response.json()
    return listing


def deliver(sandbox: Sandbox, text: str = TEXT, phone: str = PHONE, **other: Any) -> None:
    """Put a message into the inbox."""
    sandbox.inbox.deliver(phone, text, segments=1, stages=[(0.0, "sent")], **other)


async def test_an_empty_list_is_empty(control: httpx.AsyncClient) -> None:
    """A new sandbox has neither messages nor refusals."""
    assert await ask(control) == {"entries": [], "newest": None, "total": 0, "newer": 0}


async def test_accepted_and_refused_stand_in_one_list(
    control: httpx.AsyncClient, client: AsyncOcaSms, sandbox: Sandbox
) -> None:
    """Entries come the newest first, each with its outcome. A refused one has a reason and a masked number."""
    await client.send(PHONE, TEXT)
    sandbox.quota = 0
    with pytest.raises(QuotaExhaustedError):
        await client.send(OTHER, TEXT)
    sandbox.quota = None
    await client.send(PHONE, "later")
    listing = await ask(control)
    assert [entry["outcome"] for entry in listing["entries"]] == ["accepted", "refused", "accepted"]
    assert [entry.get("text") for entry in listing["entries"]] == ["later", None, TEXT]
    refused = listing["entries"][1]
    assert refused.pop("created_at").endswith("Z")
    assert refused == {
        "outcome": "refused",
        "number": 1,
        "api": "regular-v1",
        "operation": "send",
        "phone": "***********158",
        "kind": "quota-exhausted",
        "reason": "The message needs more segments than the quota has left.",
        "status": 401,
        "code": 55,
    }
    for outcome, count in [("all", 3), ("accepted", 2), ("refused", 1)]:
        filtered = await ask(control, outcome=outcome)
        assert filtered["total"] == len(filtered["entries"]) == count


SEND = {"phone": "0813-8147-5159", "message": TEXT}
JSON = {"Content-Type": "application/json"}
REASONS: list[tuple[dict[str, object], dict[str, Any], str, str]] = [
    ({}, {"auth": ("a", "b")}, "159", "The credentials are not those of this sandbox."),
    ({}, {"auth": httpx.Auth()}, "159", "The request has no Authorization header."),
    ({"unknown_user": True}, {}, "159", "The sandbox is set to know no such user."),
    ({"expired": True}, {}, "159", "The sandbox is set to an expired account."),
    ({}, {"json": SEND}, "159", "The gateway refuses the number (invalid value)."),
    ({}, {"json": {"phone": "+6591234567", "message": " "}}, "567", "the number (invalid country code) and the text"),
    ({}, {"content": b"{"}, "", "the number (invalid value) and the text (invalid value)"),
    ({"template": "x"}, {}, "159", "The gateway refuses the text (message does not match the template)."),
    ({"faults": {"html": 1.0}}, {}, "159", "Played on purpose. A proxy answers 502 with an HTML page."),
    ({"failing_attempts": 1}, {}, "159", "Played on purpose. The gateway reports an internal error"),
    ({}, {"content": b" " * (2**20 + 1)}, "", "The body is longer than any send."),
    ({}, {"headers": {"Host": "evil.example"}}, "", "The Host is not a name of this sandbox."),
]


@pytest.mark.parametrize(("knobs", "request_", "digits", "reason"), REASONS)
async def test_every_refusal_has_its_reason(
    control: httpx.AsyncClient,
    sandbox: Sandbox,
    knobs: dict[str, object],
    request_: dict[str, Any],
    digits: str,
    reason: str,
) -> None:
    """«Why did mine not arrive?» has an answer: a sentence, and the number's last digits if it could be read."""
    for knob, value in knobs.items():
        setattr(sandbox, knob, value)
    options: dict[str, Any] = {"auth": (sandbox.username, sandbox.password), **request_}
    if "content" in options:
        options["headers"] = JSON
    else:
        options.setdefault("json", {"phone": PHONE, "message": TEXT})
    await control.post("/api/v1/sms", **options)
    (entry,) = (await ask(control))["entries"]
    assert reason in entry["reason"]
    assert entry["phone"].lstrip("*") == digits
    assert "81381475" not in str(entry)


async def test_a_scripted_refusal_has_its_reason(control: httpx.AsyncClient, client: AsyncOcaSms) -> None:
    """A status of a test's own is told as such, without a code."""
    sandbox = Sandbox()
    async with sandbox.serve(), httpx.AsyncClient(trust_env=False) as plain:
        sandbox.when(PHONE).respond(status=503)
        auth = (sandbox.username, sandbox.password)
        await plain.post(f"{sandbox.base_url}/sms", json={"phone": PHONE, "message": TEXT}, auth=auth)
        refused = sandbox.traffic.refused[0]
    assert (refused.kind, refused.status, refused.code) == ("scripted", 503, None)
    assert refused.reason == "Played on purpose. A script of this number gives this answer."
    assert "81381475" not in repr(refused)


async def test_a_send_to_no_api_is_a_row(control: httpx.AsyncClient, sandbox: Sandbox) -> None:
    """A POST to a base URL without its path is a refusal with a hint. A browser's GETs are not."""
    await control.post("/sms", json={"phone": PHONE, "message": TEXT})
    await control.get("/favicon.ico")
    (entry,) = (await ask(control))["entries"]
    assert (entry["status"], entry["kind"], entry["api"]) == (404, "unknown-path", "")
    assert entry["operation"] == "POST /sms"
    assert "Is the base URL complete?" in entry["reason"]
    assert sandbox.traffic.refusals == {"unknown-path": 1}


async def test_pages_do_not_move(control: httpx.AsyncClient, sandbox: Sandbox) -> None:
    """Pages up to a moment stay the same while messages arrive, and the newer ones are counted."""
    for n in range(60):
        deliver(sandbox, f"text {n}")
    first = await ask(control, limit=25)
    assert [entry["text"] for entry in first["entries"]] == [f"text {n}" for n in range(59, 34, -1)]
    assert (first["total"], first["newer"]) == (60, 0)
    for n in range(60, 63):
        deliver(sandbox, f"text {n}")
    for words in ("", "text"):
        second = await ask(control, limit=25, skip=25, until=first["newest"], search=words)
        assert [entry["text"] for entry in second["entries"]] == [f"text {n}" for n in range(34, 9, -1)]
        assert (second["total"], second["newer"]) == (60, 3)
        last = await ask(control, limit=25, skip=50, until=first["newest"], search=words)
        assert [entry["text"] for entry in last["entries"]] == [f"text {n}" for n in range(9, -1, -1)]
        assert (await ask(control, skip=100, search=words))["entries"] == []


async def test_a_search_goes_through_all(control: httpx.AsyncClient, sandbox: Sandbox) -> None:
    """The oldest of many messages is found, in any case of letters."""
    deliver(sandbox, "the very FIRST", OTHER)
    for n in range(1500):
        deliver(sandbox, f"text {n}")
    found = await ask(control, search="very first ")
    assert [entry["phone"] for entry in found["entries"]] == [OTHER]
    assert found["total"] == 1
    assert (await ask(control, search="text", limit=1))["total"] == 1500


async def test_a_long_search_lets_sends_through(sandbox: Sandbox) -> None:
    """While a search looks at all messages, other tasks of the sandbox's loop have their turns."""
    for n in range(5000):
        deliver(sandbox, f"text {n}")
    searching = asyncio.create_task(list_entries(sandbox, Query(words="nowhere")))
    turns = 0
    for _ in range(1000):
        if searching.done():
            break
        await asyncio.sleep(0)
        turns += 1
    assert (await searching).total == 0
    assert turns >= 10


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ACME", 1),
        ("482913", 1),  # the code's digits, although a space parts them
        ("482-913", 1),
        ("081381475159", 1),
        ("(0813) 8147\u20115159", 1),
        ("62 813 8147 5159", 1),
        ("475 159", 1),
        ("sent", 1),
        ("Premium V2", 1),
        ("brandname", 1),
        ("html", 1),
        ("0138", 0),
        ("-", 0),
        ("nowhere", 0),
        ("482913x", 0),
        ("", 1),
        ("  ", 1),
    ],
)
async def test_everything_shown_is_searched(
    control: httpx.AsyncClient, sandbox: Sandbox, words: str, found: int
) -> None:
    """Text, number, code, status, API, sender and faults are found. Digits are compared with digits."""
    sandbox.inbox.tally(PHONE, TEXT).note("html")
    deliver(sandbox, api="premium-v2", sender_id="BrandName")
    assert (await ask(control, search=words))["total"] == found


@pytest.mark.parametrize(("words", "found"), [("081381475159", 1), ("401", 0), ("quota", 1), ("55", 1), ("159x", 0)])
async def test_refusals_are_searched(
    control: httpx.AsyncClient, client: AsyncOcaSms, sandbox: Sandbox, words: str, found: int
) -> None:
    """A refused request is found by its whole number, although it is shown masked, by its code and by its reason."""
    sandbox.quota = 0
    with pytest.raises(OcaSmsError):
        await client.send(PHONE, TEXT)
    assert (await ask(control, search=words))["total"] == found


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"outcome": "lost"}, "outcome"),
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"skip": "-1"}, "skip"),
        ({"until": "yesterday"}, "until"),
        ({"until": "2026-01-01T00:00:00"}, "until"),
    ],
)
async def test_an_impossible_page_is_400(control: httpx.AsyncClient, query: dict[str, str], named: str) -> None:
    """An impossible parameter is refused by its name."""
    response = await control.get("/sandbox/entries", params=query)
    assert response.status_code == 400
    assert named in response.json()["error"]


async def test_forgetting_says_how_much(control: httpx.AsyncClient, client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """DELETE forgets messages, refusals and their counts, and answers with the numbers."""
    await client.send(PHONE, TEXT)
    await client.send(PHONE, TEXT)
    sandbox.quota = 0
    with pytest.raises(OcaSmsError):
        await client.send(PHONE, TEXT)
    assert (await control.delete("/sandbox/entries")).json() == {"accepted": 2, "refused": 1}
    assert (await ask(control))["total"] == 0
    assert (len(sandbox.inbox), sandbox.traffic.refusals) == (0, {})
    headers = {"Origin": "http://evil.example"}
    assert (await control.delete("/sandbox/entries", headers=headers)).status_code == 403


async def test_old_refusals_are_dropped(control: httpx.AsyncClient, sandbox: Sandbox) -> None:
    """Only the newest refusals are kept, so that a client that fails for days fills no memory."""
    auth = (sandbox.username, "wrong")
    for _ in range(3):
        await control.get("/api/v1/sms", auth=auth)
    for _ in range(10_050):
        sandbox.history(None)
    assert (len(sandbox.traffic.refused), sandbox.traffic.refused[0].number) == (10_000, 54)
    assert sandbox.traffic.refusals.total() == 10_053


async def test_access_is_all_that_a_client_needs(control: httpx.AsyncClient, sandbox: Sandbox) -> None:
    """Each API has its URL as the browser reaches it, variables and lines for a shell. Each fault has a sentence."""
    sandbox.password = "it's"
    access = (await control.get("/sandbox/access")).json()
    assert {api["name"]: api["variables"] for api in access["apis"]} == {
        name: sandbox.environment(name) for name in ("regular-v1", "regular-v2", "premium-v1", "premium-v2")
    }
    first = access["apis"][0]
    assert (first["title"], first["url"]) == ("Regular V1", sandbox.base_url)
    assert first["lines"] == [
        "unset OCA_SMS_API OCA_SMS_TOKEN OCA_SMS_SENDER_ID",
        "export OCA_SMS_USERNAME=sandbox@example.com",
        "export OCA_SMS_PASSWORD='it'\"'\"'s'",
        f"export OCA_SMS_BASE_URL={sandbox.base_url}",
    ]
    assert list(access["faults"]) == list(FAULTS)
    assert all(sentence.endswith(".") for sentence in access["faults"].values())
    beyond = (await control.get("/sandbox/access", headers={"Host": "192.0.2.1:8025"})).json()
    assert beyond["apis"][3]["url"] == "http://192.0.2.1:8025/sms/v2"
    assert "export OCA_SMS_ALLOW_HTTP=1" in beyond["apis"][3]["lines"]


@pytest.mark.parametrize("host", ["sms.acme.example", "SMS.acme.example:8025", "xn--mnchen-3ya.example"])
async def test_allowed_hosts_are_answered(control: httpx.AsyncClient, sandbox: Sandbox, host: str) -> None:
    """A name that was allowed opens the sandbox's own paths and the APIs. It did not before, and no other does."""
    auth = (sandbox.username, sandbox.password)
    for allowed, status in [([], 403), (["sms.acme.example", "münchen.example"], 200)]:
        sandbox.allowed_hosts = allowed
        for path in ("/", "/sandbox/messages", "/api/v1/sms"):
            assert (await control.get(path, headers={"Host": host}, auth=auth)).status_code == status
            evil = {"Host": "evil.acme.example"}
            assert (await control.get(path, headers=evil, auth=auth)).status_code == 403


@pytest.mark.parametrize("hosts", [[""], ["a b"], ["münchen..x"], [5], ["http://a.example"], 5])
def test_impossible_hosts_are_named(hosts: Any) -> None:
    """A name that no request can have is refused by its knob."""
    with pytest.raises(ValueError, match="allowed_hosts must hold names"):
        Sandbox(allowed_hosts=hosts)


async def test_the_machine_s_own_name_is_answered_beyond_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's name leads to it. On the loopback it does not, for a site might have the same."""
    monkeypatch.setattr(socket, "gethostname", lambda: "Box.acme.example")
    for host, status in [("0.0.0.0", 200), ("127.0.0.1", 403)]:
        async with Sandbox().serve(host) as sandbox, httpx.AsyncClient(trust_env=False) as plain:
            url = sandbox.base_url.replace("/api/v1", "/sandbox/messages")
            response = await plain.get(url, headers={"Host": "box.acme.example:8025"})
            assert response.status_code == status

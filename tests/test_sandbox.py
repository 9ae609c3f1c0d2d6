"""The sandbox: the gateway's documented answers, its knobs, its inbox, and that leaving it leaves nothing behind."""

import ast
import asyncio
import base64
import contextlib
import json
import logging
import math
import re
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moved_clock import until

from oca_sms_async import sandbox as package
from oca_sms_async.sandbox import Inbox, Message, Sandbox

PHONE = "+6281381475159"
TEXT = "Acme: 482913 is your code"
LONG = "x" * 161  # two segments
IN_PROCESS = "http://sandbox/api/v1"

Reach = Callable[[Sandbox], Awaitable[httpx.AsyncClient]]


def client_of(sandbox: Sandbox, base_url: str, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """Return a client with the sandbox's credentials, which asks no proxy of the machine."""
    auth = (sandbox.username, sandbox.password)
    return httpx.AsyncClient(base_url=base_url, auth=auth, transport=transport, trust_env=False, timeout=None)


def in_process(sandbox: Sandbox) -> httpx.AsyncClient:
    """Return a client that calls the sandbox without a socket."""
    return client_of(sandbox, IN_PROCESS, httpx.ASGITransport(sandbox.asgi()))


@pytest.fixture(params=["socket", "in process"])
async def reach(request: pytest.FixtureRequest) -> AsyncIterator[Reach]:
    """Return a function that gives a client of a sandbox, on a socket and then in process."""
    async with contextlib.AsyncExitStack() as stack:

        async def give(sandbox: Sandbox) -> httpx.AsyncClient:
            if request.param == "in process":
                return await stack.enter_async_context(in_process(sandbox))
            await stack.enter_async_context(sandbox.serve())
            return await stack.enter_async_context(client_of(sandbox, sandbox.base_url))

        yield give


async def post(client: httpx.AsyncClient, phone: object = PHONE, message: object = TEXT) -> httpx.Response:
    """Send a message as the documentation says."""
    return await client.post("/sms", json={"phone": phone, "message": message})


async def read_refusal(response: httpx.Response) -> tuple[int, Any, Any]:
    """Return the HTTP status, the code and the message of an answer with exactly one documented error."""
    assert response.headers["content-type"].startswith("application/json")
    body = response.json()
    assert list(body) == ["errors"]
    (error,) = body["errors"]
    return response.status_code, error.get("code"), error["message"]


async def read_complaints(response: httpx.Response) -> list[tuple[str, str]]:
    """Return (param, msg) of each field error of a 39, and check their shape."""
    status, code, fields = await read_refusal(response)
    assert (status, code) == (406, "39")
    assert all(set(field) == {"value", "msg", "param", "location"} and field["location"] == "body" for field in fields)
    return [(field["param"], field["msg"]) for field in fields]


async def assert_refused(base_url: str) -> None:
    """Assert that the address refuses connections."""
    url = httpx.URL(base_url)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(url.host, url.port)


async def test_send_is_answered_as_documented(reach: Reach) -> None:
    """An accepted message gets its status and an id of 32 hexadecimal digits, and nothing else."""
    response = await post(await reach(Sandbox()))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    body = response.json()
    assert set(body) == {"status", "msg_uid"}
    assert body["status"] == "sent"
    assert re.fullmatch("[0-9a-f]{32}", body["msg_uid"])


async def test_history_is_a_bare_array_of_records(reach: Reach) -> None:
    """The history is an array of records with the documented fields, the oldest first. It begins empty."""
    client = await reach(Sandbox())
    assert (await client.get("/sms")).json() == []
    uids = [(await post(client, message=text)).json()["msg_uid"] for text in (TEXT, LONG)]
    first, second = (await client.get("/sms")).json()
    assert [first["msg_uid"], second["msg_uid"]] == uids
    moment = first.pop("created_at")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment)
    assert abs(datetime.fromisoformat(moment) - datetime.now(UTC)) < timedelta(days=1)
    assert first == {
        "phone_number": PHONE,
        "message_body": TEXT,
        "status": "sent",
        "msg_uid": uids[0],
        "total_sms": 1,
        "updated_at": moment,
    }
    assert second["total_sms"] == 2


async def test_detail_wraps_the_record_and_names_the_application(reach: Reach) -> None:
    """The detail is an envelope with a boolean status, round the history's record and an application."""
    client = await reach(Sandbox())
    uid = (await post(client)).json()["msg_uid"]
    response = await client.get(f"/sms/status/{uid}")
    (record,) = (await client.get("/sms")).json()
    assert response.status_code == 200
    assert response.json() == {"status": True, "data": record | {"application": "sandbox"}}


@pytest.mark.parametrize("phone", ["+6281381475159", "6281381475159", "081381475159"])
async def test_number_comes_back_as_e164(phone: str) -> None:
    """The three spellings that the gateway takes come back with country code and plus."""
    async with in_process(Sandbox()) as client:
        assert (await post(client, phone)).status_code == 200
        (record,) = (await client.get("/sms")).json()
    assert record["phone_number"] == PHONE


@pytest.mark.parametrize("path", ["/sms", "/sms/status/abc"])
async def test_missing_authorization_is_19(reach: Reach, path: str) -> None:
    """A request without the header is told so with 406."""
    client = await reach(Sandbox())
    assert await read_refusal(await client.get(path, auth=None)) == (406, 19, "Missing Authorization Header")
    if path == "/sms":
        assert (await read_refusal(await client.request("POST", path, json={}, auth=None)))[:2] == (406, 19)


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic " + base64.b64encode(b"sandbox@example.com:wrong").decode(),
        "Basic " + base64.b64encode(b"sandbox@example.com").decode(),
        "Basic " + base64.b64encode("sandbox@example.com:sandbox".encode("utf-16")).decode(),
        "Bearer " + base64.b64encode(b"sandbox@example.com:sandbox").decode(),
        "Basic not*base64",
        "Basic é",
        "Basic",
        "",
    ],
)
async def test_wrong_or_malformed_credentials_are_17(authorization: str) -> None:
    """Any header that does not carry the account's own credentials is 401, with the code as an integer."""
    async with in_process(Sandbox()) as client:
        headers = [(b"Authorization", authorization.encode("latin-1"))]
        response = await client.get("/sms", headers=headers, auth=None)
    assert await read_refusal(response) == (401, 17, "Invalid Authentication Credentials")


async def test_credentials_of_ones_own(reach: Reach) -> None:
    """A sandbox takes its own credentials, even with a colon or another script in the password."""
    sandbox = Sandbox(username="test@gmail.com", password="tést:123")  # secrets of this test alone
    client = await reach(sandbox)
    token = base64.b64encode("test@gmail.com:tést:123".encode()).decode()
    assert (await client.get("/sms", headers={"Authorization": f"basic {token}"}, auth=None)).status_code == 200


async def test_published_check_value_opens_the_account() -> None:
    """The vendor's published pair of credentials and header value belong together."""
    async with in_process(Sandbox(username="test@gmail.com", password="test123")) as client:
        headers = {"Authorization": "Basic dGVzdEBnbWFpbC5jb206dGVzdDEyMw=="}
        assert (await client.get("/sms", headers=headers, auth=None)).status_code == 200


@pytest.mark.parametrize(
    ("knob", "value", "expected"),
    [
        ("unknown_user", True, (404, 41, "User Is Not Exist")),
        ("expired", True, (401, 51, "Account Expired")),
    ],
)
async def test_refused_account_cannot_do_anything(
    reach: Reach, knob: str, value: object, expected: tuple[int, int, str]
) -> None:
    """An account without settings or past its date is refused on every path. Wrong credentials go first."""
    sandbox = Sandbox(**{knob: value})  # type: ignore[arg-type]  # the table knows the types
    client = await reach(sandbox)
    for response in (await post(client), await client.get("/sms"), await client.get("/sms/status/abc")):
        assert await read_refusal(response) == expected
    assert (await read_refusal(await client.get("/sms", auth=("a", "b"))))[1] == 17
    assert len(sandbox.inbox) == 0


async def test_quota_counts_segments(reach: Reach) -> None:
    """A message that needs more segments than are left is 55 and costs nothing; a shorter one still passes."""
    sandbox = Sandbox(quota=3)
    client = await reach(sandbox)
    assert (await post(client, message=LONG)).status_code == 200
    assert sandbox.quota == 1
    assert await read_refusal(await post(client, message=LONG)) == (401, 55, "Your Quota Is not Enough")
    assert (await post(client)).status_code == 200
    assert (await read_refusal(await post(client)))[1] == 55
    assert sandbox.quota == 0
    assert [message.segments for message in sandbox.inbox] == [2, 1]


async def test_foreign_number_gets_the_documented_complaint(reach: Reach) -> None:
    """The vendor's sample of a 39 is met word for word."""
    client = await reach(Sandbox())
    response = await post(client, "89694353628")
    field = {
        "value": "89694353628",
        "msg": "Invalid country code",
        "param": "phone_number",
        "location": "body",
    }
    assert response.json() == {"errors": [{"message": [field], "code": "39"}]}
    assert response.status_code == 406


@pytest.mark.parametrize(
    ("phone", "msg"),
    [
        ("+6591234567", "Invalid country code"),
        ("6591234567", "Invalid country code"),
        ("0086591234567", "Invalid country code"),  # 008 dials abroad
        ("+62812", "Invalid phone number"),
        ("08138147515900000", "Invalid phone number"),
        ("+62 813-8147-5159", "Invalid value"),
        ("+6281381475159x", "Invalid value"),
        ("+62٨1381475159", "Invalid value"),
        ("\ud800", "Invalid value"),
        ("", "Invalid value"),
        (6281381475159, "Invalid value"),
        (None, "Invalid value"),
        ([PHONE], "Invalid value"),
        (math.inf, "Invalid value"),
    ],
)
async def test_impossible_number_is_39(phone: object, msg: str) -> None:
    """An impossible Indonesian number, or one with other characters, is refused and not delivered."""
    sandbox = Sandbox()
    body = json.dumps({"phone": phone, "message": TEXT})
    async with in_process(sandbox) as client:
        response = await client.post("/sms", content=body, headers={"Content-Type": "application/json"})
    assert await read_complaints(response) == [("phone_number", msg)]
    assert len(sandbox.inbox) == 0


@pytest.mark.parametrize("text", ["", " \n", 482913, None, ["a"], "half a pair \ud83d"])
async def test_missing_or_odd_text_is_39(text: object) -> None:
    """A text that no SMS can carry is refused."""
    async with in_process(Sandbox()) as client:
        body = json.dumps({"phone": PHONE, "message": text})
        response = await client.post("/sms", content=body, headers={"Content-Type": "application/json"})
    assert await read_complaints(response) == [("message_body", "Invalid value")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'"text"',
        b"null",
        b"{}",
        b'{"to": "+6281381475159", "text": "hello"}',
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b"1" * 5_000,
    ],
)
async def test_body_without_parameters_is_39(body: bytes) -> None:
    """A body that is no JSON object, or lacks the parameters, gets a complaint about each parameter."""
    async with in_process(Sandbox()) as client:
        response = await client.post("/sms", content=body, headers={"Content-Type": "application/json"})
    assert await read_complaints(response) == [("phone_number", "Invalid value"), ("message_body", "Invalid value")]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("authorized", [False, True])
async def test_a_huge_body_is_refused_and_never_kept(chunked: bool, authorized: bool) -> None:
    """A body above a mebibyte is a 413. The sandbox has not grown by it, and the connection goes on."""
    async with Sandbox().serve() as sandbox, client_of(sandbox, sandbox.base_url) as client:
        part, count = b"x" * 2**20, 64

        async def stream() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield part

        headers = {} if chunked else {"Content-Length": str(count * len(part))}
        tracemalloc.start()
        auth = httpx.BasicAuth(sandbox.username, sandbox.password) if authorized else httpx.Auth()
        response = await client.post("/sms", content=stream(), headers=headers, auth=auth)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert await read_refusal(response) == (413, None, "Payload Too Large")
        assert peak < 20 * 2**20
        assert sandbox.traffic.refusals == {"too-long": 1}
        assert (await post(client)).status_code == 200


async def test_the_longest_body_is_read() -> None:
    """A body of a mebibyte is not too long."""
    async with in_process(Sandbox()) as client:
        sms = json.dumps({"phone": PHONE, "message": TEXT}).encode()
        for length, status in [(2**20, 200), (2**20 + 1, 413)]:
            padded = sms.ljust(length)
            response = await client.post("/sms", content=padded, headers={"Content-Type": "application/json"})
            assert response.status_code == status


@pytest.mark.parametrize(
    ("content_type", "status"),
    [(None, 406), ("text/plain", 406), ("application/json", 200), ("Application/JSON; charset=utf-8", 200)],
)
async def test_body_must_say_that_it_is_json(content_type: str | None, status: int) -> None:
    """Only a request that declares JSON has parameters."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    async with in_process(Sandbox()) as client:
        body = json.dumps({"phone": PHONE, "message": TEXT}).encode()
        assert (await client.post("/sms", content=body, headers=headers)).status_code == status


async def test_refused_numbers_are_39_in_any_spelling(reach: Reach) -> None:
    """A number that the sandbox refuses is refused however either side spells it, and others pass."""
    sandbox = Sandbox(refused_numbers=["0813-8147-5159"])
    client = await reach(sandbox)
    assert await read_complaints(await post(client)) == [("phone_number", "Invalid phone number")]
    assert (await post(client, "+6281381475158")).status_code == 200
    sandbox.refused_numbers = {"62 81381475158"}
    assert await read_complaints(await post(client, "+6281381475158")) == [("phone_number", "Invalid phone number")]
    assert (await post(client)).status_code == 200


async def test_template_must_match_the_whole_text(reach: Reach) -> None:
    """A text that only begins like the template is refused."""
    client = await reach(Sandbox(template=r"Acme: \d{6} is your code"))
    assert (await post(client)).status_code == 200
    for text in (TEXT + "!", "Acme: 12345 is your code"):
        assert await read_complaints(await post(client, message=text)) == [
            ("message_body", "Message does not match the template")
        ]


async def test_first_attempts_fail_as_often_as_asked(reach: Reach) -> None:
    """`failing_attempts` answers so many attempts of each message 500 with code 13, and then delivers it."""
    sandbox = Sandbox(failing_attempts=2)
    client = await reach(sandbox)
    for text in (TEXT, LONG):
        for _ in range(2):
            assert await read_refusal(await post(client, message=text)) == (500, 13, "Internal Error")
        assert (await post(client, message=text)).status_code == 200
    assert [(message.text, message.faults) for message in sandbox.inbox] == [
        (text, ("internal-error", "internal-error")) for text in (TEXT, LONG)
    ]


async def test_injected_error_comes_before_the_quota_and_after_the_parameters() -> None:
    """A 500 may be followed by 55. A send with wrong parameters does not use up an injected error."""
    sandbox = Sandbox(quota=0)
    sandbox.when().respond("internal-error", times=1)
    async with in_process(sandbox) as client:
        assert (await read_refusal(await post(client, "1")))[1] == "39"
        assert (await read_refusal(await post(client)))[1] == 13
        assert (await read_refusal(await post(client)))[1] == 55


async def find_failures(sandbox: Sandbox) -> list[bool]:
    """Return for each of sixty sends whether it was answered 500."""
    async with in_process(sandbox) as client:
        return [(await post(client, message=f"{n}")).status_code == 500 for n in range(60)]


async def test_one_seed_fails_the_same_sends() -> None:
    """Two sandboxes with one seed refuse the same sends, and a seed of its own other ones."""
    first, second, other = [
        await find_failures(Sandbox(faults={"internal-error": 0.3}, seed=seed)) for seed in (7, 7, 8)
    ]
    assert first == second != other
    assert 0 < sum(first) < 60


@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (1.0, 60)])
async def test_rate_of_nothing_and_of_everything(rate: float, count: int) -> None:
    """A rate of 0 fails no send and a rate of 1 each of them."""
    assert sum(await find_failures(Sandbox(faults={"internal-error": rate}))) == count


async def test_knobs_hold_from_the_next_request_on(reach: Reach) -> None:
    """Every knob may be turned while the sandbox runs."""
    sandbox = Sandbox()
    client = await reach(sandbox)
    turns: list[tuple[str, object, object, object]] = [
        ("expired", True, False, 51),
        ("unknown_user", True, False, 41),
        ("quota", 0, None, 55),
        ("template", "x", None, "39"),
        ("refused_numbers", [PHONE], [], "39"),
        ("faults", {"internal-error": 1.0}, {}, 13),
        ("rate_limit", 1, None, 9),
        ("password", "another", "sandbox", 17),
    ]
    for knob, on, off, code in turns:
        setattr(sandbox, knob, on)
        assert (await read_refusal(await post(client)))[1] == code
        setattr(sandbox, knob, off)
        assert (await post(client)).status_code == 200


@pytest.mark.parametrize("uid", ["unknown", "a/b", "a%2Fb", "%00", "..", "é", "a b"])
async def test_unknown_id_has_no_code(reach: Reach, uid: str) -> None:
    """An unknown id, of any characters, is 404 without a code."""
    client = await reach(Sandbox())
    quoted = "".join(f"%{byte:02X}" for byte in uid.encode())
    assert await read_refusal(await client.get(f"/sms/status/{quoted}")) == (404, None, "There is no data available")


@pytest.mark.parametrize("path", ["/", "/sms/", "/sms/status", "/sending"])
async def test_unknown_path_is_404_in_json(reach: Reach, path: str) -> None:
    """A path that the gateway does not have is 404 in its own shape, and redirected nowhere."""
    client = await reach(Sandbox())
    assert await read_refusal(await client.get(path)) == (404, None, "Not Found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("DELETE", "/sms", {"GET", "HEAD", "POST"}), ("POST", "/sms/status/x", {"GET", "HEAD"})],
)
async def test_wrong_method_is_405_in_json(reach: Reach, method: str, path: str, allowed: set[str]) -> None:
    """A method that the path does not have is 405 and says which it has."""
    client = await reach(Sandbox())
    response = await client.request(method, path)
    assert await read_refusal(response) == (405, None, "Method Not Allowed")
    assert set(response.headers["allow"].split(", ")) == allowed


async def test_inbox_is_a_sequence_of_messages() -> None:
    """Accepted messages can be counted, indexed, sliced and walked through in the order of their arrival."""
    sandbox = Sandbox()
    async with in_process(sandbox) as client:
        uids = [(await post(client, message=text)).json()["msg_uid"] for text in ("one", "two", LONG)]
    inbox = sandbox.inbox
    assert [message.msg_uid for message in inbox] == uids
    assert (len(inbox), inbox[0].text, inbox[-1].text) == (3, "one", LONG)
    assert [message.text for message in inbox[:2]] == ["one", "two"]
    first = inbox[0]
    assert first == Message(
        msg_uid=uids[0],
        phone=PHONE,
        text="one",
        created_at=first.created_at,
        segments=1,
        attempts=1,
    )
    assert first.created_at.utcoffset() == timedelta(0)
    assert inbox[2].segments == 2
    with pytest.raises(AttributeError):
        first.text = "other"  # type: ignore[misc]  # the test is about the refusal
    with pytest.raises(IndexError):
        inbox[3]


async def test_attempts_count_every_post_for_number_and_text() -> None:
    """`attempts` counts the failed POSTs, in any spelling of the number. After its receipt a message counts anew."""
    sandbox = Sandbox()
    sandbox.when().respond("internal-error", times=2)
    async with in_process(sandbox) as client:
        await post(client)
        await post(client, "081381475159")
        await post(client, message="other")
        await post(client, "6281381475159")
        await post(client)
    assert [(message.text, message.attempts) for message in sandbox.inbox] == [("other", 1), (TEXT, 3), (TEXT, 1)]


async def test_a_message_whose_answer_was_lost_is_the_same_when_it_comes_again() -> None:
    """Accepted twice, it is seen to be doubled; and however often one comes, no more is kept of it than of another."""
    sandbox = Sandbox(faults={"accept-then-drop": 1.0})
    async with in_process(sandbox) as client:
        for _ in range(50):
            with pytest.raises(httpx.ReadError):
                await post(client)
        assert [message.attempts for message in sandbox.inbox] == list(range(1, 51))
        assert len(sandbox.inbox[-1].faults) == 20
        sandbox.faults = {}
        await post(client)
        await post(client)
    assert [(message.attempts, len(message.faults)) for message in sandbox.inbox[-2:]] == [(51, 20), (1, 0)]


async def test_failing_attempts_are_those_of_each_message() -> None:
    """The same text sent again is another message, and its first attempts fail too."""
    sandbox = Sandbox(failing_attempts=1)
    async with in_process(sandbox) as client:
        assert [(await post(client)).status_code for _ in range(4)] == [500, 200, 500, 200]


async def test_cleared_inbox_is_as_new() -> None:
    """After `clear()` the gateway knows no message, no id and no attempt."""
    sandbox = Sandbox()
    async with in_process(sandbox) as client:
        uid = (await post(client)).json()["msg_uid"]
        sandbox.inbox.clear()
        assert len(sandbox.inbox) == 0
        assert (await client.get("/sms")).json() == []
        assert (await client.get(f"/sms/status/{uid}")).status_code == 404
        await post(client)
    assert sandbox.inbox[0].attempts == 1


async def test_reprs_show_no_message() -> None:
    """No repr of a message, the inbox or the sandbox shows a text, a whole number or the password."""
    sandbox = Sandbox(password="s3cret-marker", refused_numbers=["+6281381475150"], template="Acme.*")
    async with in_process(sandbox) as client:
        await post(client)
    for shown in (repr(sandbox.inbox[0]), repr(sandbox.inbox), repr(sandbox)):
        assert not any(secret in shown for secret in ("482913", "81381475", "s3cret-marker", "Acme"))
    assert repr(sandbox.inbox) == "<Inbox of 1>"
    assert sandbox.inbox[0].msg_uid in repr(sandbox.inbox[0])
    assert isinstance(sandbox.inbox, Inbox)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", ""),
        ("username", "a:b"),
        ("password", ""),
        ("quota", -1),
        ("template", "("),
        ("refused_numbers", ["+62812"]),
        ("refused_numbers", PHONE),
        ("faults", {"reset": -0.1}),
        ("faults", {"reset": 1.1}),
        ("faults", {"reset": math.nan}),
        ("faults", {"reset": "1"}),
        ("faults", {"reset": True}),
        ("faults", {"unheard-of": 1.0}),
        ("faults", ["reset"]),
        ("failing_attempts", -1),
        ("rate_limit", 0),
        ("lateness", -1),
        ("submitted_for", -1),
        ("sent_for", math.nan),
        ("failed_share", 1.1),
        ("latency", -0.1),
        ("latency", math.nan),
        ("latency", "1"),
        ("rate_limit", 1.5),
        ("rate_limit", True),
        ("quota", 2.5),
        ("failing_attempts", "2"),
        ("password", b"x"),
        ("username", "\ud800"),
        ("username", "a\tb"),
        ("template", b"x"),
        ("quota", "1"),
        ("username", None),
        ("token", ""),
        ("token", "a b"),
        ("token", "a\n"),
        ("token", 5),
        ("sender_id", ""),
        ("sender_id", " Acme"),
        ("sender_id", None),
        ("template", 5),
    ],
)
def test_impossible_knobs_are_named(field: str, value: object) -> None:
    """An impossible value of a knob is named, at construction and later."""
    with pytest.raises(ValueError, match=field):
        Sandbox(**{field: value})  # type: ignore[arg-type]  # the wrong values are the point
    with pytest.raises(ValueError, match=field):
        setattr(Sandbox(), field, value)


async def test_latency_delays_the_answer_and_not_the_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is in the inbox at once and its answer comes when the latency has passed."""
    loop, sandbox = asyncio.get_running_loop(), Sandbox(latency=3600)
    clock, later = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: clock() + later)
    async with in_process(sandbox) as client:
        answer = asyncio.create_task(post(client))
        await until(lambda: sandbox.inbox)
        later = 3000.0
        for _ in range(20):
            await asyncio.sleep(0)
        assert not answer.done()
        later = 3601.0
        assert (await answer).status_code == 200


@pytest.mark.parametrize("path", ["/sms", "/sms/status/x", "/nowhere"])
async def test_latency_holds_for_every_answer(path: str) -> None:
    """With an endless latency no path is answered. A client that gives up leaves no task in the server."""
    sandbox = Sandbox(latency=math.inf)
    async with sandbox.serve(), client_of(sandbox, sandbox.base_url) as client:
        before = asyncio.all_tasks()
        answer = asyncio.create_task(client.get(path))
        await until(lambda: len(asyncio.all_tasks()) == len(before) + 2)  # the client's and the server's
        answer.cancel()
        await asyncio.wait({answer})
        await until(lambda: asyncio.all_tasks() == before)


async def test_base_url_is_known_only_while_served() -> None:
    """Outside its block a sandbox has no address and says how to get one."""
    sandbox = Sandbox()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="only while it is served"):
            _ = sandbox.base_url
        async with sandbox.serve() as served:
            assert served is sandbox
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/api/v1", sandbox.base_url)
    with pytest.raises(RuntimeError):
        _ = sandbox.base_url


async def test_serving_twice_at_once_is_refused() -> None:
    """A sandbox that is served already is not served again, and goes on."""
    async with Sandbox().serve() as sandbox:
        with pytest.raises(RuntimeError, match="served already"):
            async with sandbox.serve():
                pytest.fail("the block must not be entered")
        async with client_of(sandbox, sandbox.base_url) as client:
            assert (await client.get("/sms")).status_code == 200


async def test_two_sandboxes_side_by_side() -> None:
    """Two sandboxes have two addresses, two accounts and two inboxes."""
    async with Sandbox().serve() as one, Sandbox(username="two@example.com").serve() as two:
        assert one.base_url != two.base_url
        async with client_of(one, one.base_url) as client:
            await post(client)
            assert (await client.get(f"{two.base_url}/sms")).status_code == 401
        assert (len(one.inbox), len(two.inbox)) == (1, 0)


async def test_occupied_port_is_an_os_error() -> None:
    """A port that somebody has is the caller's to hear of; the sandbox can be served elsewhere afterwards."""
    other = Sandbox()
    async with Sandbox().serve() as sandbox:
        port = httpx.URL(sandbox.base_url).port
        assert port is not None
        with pytest.raises(OSError, match="in use"):
            async with other.serve(port=port):
                pytest.fail("the block must not be entered")
    async with other.serve(port=port):
        assert other.base_url == f"http://127.0.0.1:{port}/api/v1"


def has_ipv6() -> bool:
    """Tell whether this machine has an IPv6 loopback. A container often has none."""
    with contextlib.suppress(OSError):
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        return True
    return False


@pytest.mark.parametrize(("host", "origin"), [("0.0.0.0", "http://127.0.0.1:"), ("::1", "http://[::1]:")])
async def test_base_url_can_be_connected_to(host: str, origin: str) -> None:
    """A wildcard is no address to connect to, and an IPv6 one needs its brackets."""
    if ":" in host and not has_ipv6():
        with pytest.raises(OSError, match=r"(?i)address"):
            await Sandbox().serve(host).__aenter__()
        return
    async with Sandbox().serve(host) as sandbox, client_of(sandbox, sandbox.base_url) as client:
        assert sandbox.base_url.startswith(origin)
        assert (await post(client)).status_code == 200


async def test_leaving_stops_listening_and_leaves_no_task() -> None:
    """After the block the address is closed, so is a kept connection, and the loop has no new task."""
    before = asyncio.all_tasks()
    async with contextlib.AsyncExitStack() as stack:
        async with Sandbox().serve() as sandbox:
            base_url = sandbox.base_url
            client = await stack.enter_async_context(client_of(sandbox, base_url))
            await post(client)
        assert asyncio.all_tasks() == before
        with pytest.raises(httpx.ConnectError):
            await client.get("/sms")
    await assert_refused(base_url)
    assert len(sandbox.inbox) == 1


async def test_leaving_by_an_exception_stops_listening() -> None:
    """An exception comes out of the block as it is, and the address is closed afterwards."""
    addresses = []

    async def fail() -> None:
        async with Sandbox().serve() as sandbox:
            addresses.append(sandbox.base_url)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()
    await assert_refused(*addresses)


@pytest.mark.parametrize("cancellations", [1, 2, 3])
async def test_leaving_by_cancellation_stops_listening(cancellations: int) -> None:
    """A cancelled block has ended when its task has, even if it is cancelled again while it ends."""
    sandbox, before = Sandbox(), asyncio.all_tasks()

    async def serve() -> None:
        async with sandbox.serve():
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await asyncio.sleep(0)
    base_url = sandbox.base_url
    for _ in range(cancellations):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before
    await assert_refused(base_url)


@pytest.mark.parametrize("cycles", range(8))
async def test_leaving_closes_connections_that_were_just_made(cycles: int) -> None:
    """The end of the block closes a connection, even one that the server had hardly seen."""
    before = asyncio.all_tasks()
    async with Sandbox().serve() as sandbox:
        url = httpx.URL(sandbox.base_url)
        connection = socket.create_connection((url.host, url.port or 0), timeout=30)
        for _ in range(cycles):
            await asyncio.sleep(0)
    with connection, contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    assert asyncio.all_tasks() == before


async def test_leaving_drops_who_still_waits() -> None:
    """A request that waits out a latency at the end of the block gets no answer, although its message was accepted."""
    sandbox = Sandbox(latency=math.inf)
    async with contextlib.AsyncExitStack() as stack:
        async with sandbox.serve():
            client = await stack.enter_async_context(client_of(sandbox, sandbox.base_url))
            answer = asyncio.create_task(post(client))
            await until(lambda: sandbox.inbox)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await answer
    assert len(sandbox.inbox) == 1


async def test_half_a_request_is_no_message(caplog: pytest.LogCaptureFixture) -> None:
    """A client that hangs up within the body delivers nothing and causes no complaint in the log."""
    sandbox = Sandbox()
    async with sandbox.serve():
        url = httpx.URL(sandbox.base_url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        token = base64.b64encode(f"{sandbox.username}:{sandbox.password}".encode()).decode()
        head = f"POST /api/v1/sms HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\nContent-Length: 99\r\n\r\n{{"
        writer.write(head.encode())
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert len(sandbox.inbox) == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_end_of_the_loop_ends_the_server() -> None:
    """`asyncio.run` may end while another task serves a sandbox: its address is closed afterwards."""
    sandbox = Sandbox()
    addresses: list[httpx.URL] = []

    async def serve() -> None:
        async with sandbox.serve():
            addresses.append(httpx.URL(sandbox.base_url))
            await asyncio.Event().wait()

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(serve())
        await until(lambda: addresses)
        return task

    for _ in range(2):  # and the sandbox can be served in the next loop
        addresses.clear()
        asyncio.run(main())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((addresses[0].host, addresses[0].port or 0))


async def test_signal_handlers_are_left_alone() -> None:
    """Ctrl-C stays with the program that serves the sandbox."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with Sandbox().serve():
        await asyncio.sleep(0)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


async def test_log_holds_no_text_and_no_number(caplog: pytest.LogCaptureFixture) -> None:
    """Not even a debug log has a text, a recipient or the password."""
    caplog.set_level(logging.DEBUG)
    async with Sandbox(password="s3cret-marker").serve() as sandbox, client_of(sandbox, sandbox.base_url) as client:
        await post(client)
        await post(client, "6281381475")
    for record in caplog.records:
        if record.name.startswith("uvicorn"):
            assert not any(secret in record.getMessage() for secret in ("482913", "81381475", "s3cret-marker"))


ROOMS = {"_regular_v1", "_regular_v2", "_premium_v1", "_premium_v2", "_authorization", "_refusals"}
# Paths, fields, texts and codes of the wire.
WORDS = {
    *("/api/v1", "/sms/v2", "/sms", "/send-otp", "/otpstatus/{id:path}", "basic", "bearer"),
    *("phone_number", "message_body", "total_sms", "updated_at", "application", "receipent_number", "msgid", "success"),
    *("Internal Error", "Too Many Request", "X-RateLimit-limit", "param", "location"),
    *(13, 17, 19, 33, 39, 41, 43, 45, 51, 55, 59, "39"),
}


def test_few_rooms_know_the_wire() -> None:
    """The words of an API stand in its own room and in the two that APIs share. No other room knows one."""
    folder = Path(package.__path__[0])
    found = set()
    for room in folder.glob("*.py"):
        constants = [
            node.value for node in ast.walk(ast.parse(room.read_text("utf-8"))) if isinstance(node, ast.Constant)
        ]
        found |= {(room.stem, value) for value in constants if isinstance(value, int | str) and value in WORDS}
    assert {room for room, _ in found} == ROOMS
    assert {word for _, word in found} >= {"/sms", "phone_number", "39", 13}


@pytest.mark.parametrize("module", ["starlette", "uvicorn"])
def test_missing_extra_says_what_to_install(module: str) -> None:
    """Without the extra the import fails with the command that helps."""
    code = f"import sys; sys.modules[{module!r}] = None; import oca_sms_async.sandbox"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert 'ImportError: The sandbox needs its extra: pip install "oca-sms-async[sandbox]"' in run.stderr


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
bodies = (
    st.binary()
    | anything.map(json.dumps).map(str.encode)
    | st.fixed_dictionaries(
        {}, optional={"phone": st.from_regex(r"\+?(62|0)8?[0-9]*", fullmatch=True) | anything, "message": anything}
    )
    .map(json.dumps)
    .map(str.encode)
)


@settings(deadline=None, database=None)
@given(body=bodies)
async def test_no_body_makes_the_sandbox_fail(body: bytes) -> None:
    """Any body is answered 200 and delivered, or 39 and not delivered."""
    sandbox = Sandbox()
    async with in_process(sandbox) as client:
        response = await client.post("/sms", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code in {200, 406}
        assert len(sandbox.inbox) == (response.status_code == 200) == len((await client.get("/sms")).json())


@settings(deadline=None, database=None)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
    path=st.text(),
    authorization=st.none() | st.binary(),
    content_type=st.none() | st.binary(),
)
async def test_no_request_makes_the_sandbox_fail(
    method: str, path: str, authorization: bytes | None, content_type: bytes | None
) -> None:
    """Any path, method and headers are answered with one of the gateway's own errors."""
    named = [(b"Authorization", authorization), (b"Content-Type", content_type)]
    headers = [(name, value) for name, value in named if value is not None]
    async with in_process(Sandbox()) as client:
        quoted = "".join(f"%{byte:02X}" for byte in path.encode())
        for place in ("/sms", f"/sms/{quoted}", f"/sms/status/{quoted}"):
            response = await client.request(method, place, headers=headers, auth=None)
            assert response.status_code in {401, 404, 405, 406}
            await read_refusal(response)

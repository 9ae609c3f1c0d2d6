"""The paths that control a sandbox: their answers, their guard, and that no request breaks them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from time import monotonic
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moved_clock import until
from watched_inbox import Watches

from oca_sms_async import AsyncOcaSms
from oca_sms_async.sandbox import FAULTS, Sandbox, _control, _inbox

PHONE = "+6281381475159"
OTHER = "+6281381475158"
TEXT = "Acme: 482913 is your code"


def origin(sandbox: Sandbox) -> str:
    """Return where the control paths begin."""
    return sandbox.base_url.removesuffix("/api/v1")


@pytest.fixture
async def control(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client of the sandbox's own paths."""
    async with httpx.AsyncClient(base_url=origin(sandbox), trust_env=False, timeout=None) as opened:
        yield opened


async def test_messages_are_told_whole(control: httpx.AsyncClient, client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """All that the inbox knows of its messages is JSON, the oldest first."""
    assert (await control.get("/sandbox/messages")).json() == []
    sandbox.failing_attempts = 1
    await client.send(PHONE, TEXT)
    await client.send(OTHER, "no code")
    first, second = (await control.get("/sandbox/messages")).json()
    assert first.pop("created_at").endswith("Z")
    assert first == {
        "msg_uid": sandbox.inbox[0].msg_uid,
        "api": "regular-v1",
        "sender_id": None,
        "phone": PHONE,
        "text": TEXT,
        "code": "482913",
        "segments": 1,
        "encoding": "GSM-7",
        "status": "sent",
        "attempts": 2,
        "faults": ["internal-error"],
    }
    assert (second["phone"], second["code"]) == (OTHER, None)


async def test_messages_can_be_forgotten(control: httpx.AsyncClient, client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """DELETE leaves an inbox as it was at the start."""
    await client.send(PHONE, TEXT)
    assert (await control.delete("/sandbox/messages")).status_code == 204
    assert (len(sandbox.inbox), (await control.get("/sandbox/messages")).json()) == (0, [])


@pytest.mark.parametrize("spelling", ["%2B6281381475159", "+6281381475159", "081381475159", "0813-8147-5159"])
async def test_the_latest_is_that_of_a_number(control: httpx.AsyncClient, client: AsyncOcaSms, spelling: str) -> None:
    """In any spelling of the number, even with a plus that is not escaped, its newest message comes at once."""
    for text in ("older", TEXT):
        await client.send(PHONE, text)
    await client.send(OTHER, "another's")
    response = await control.get(f"/sandbox/messages/latest?phone={spelling}&wait=60")
    assert (response.status_code, response.json()["text"], response.json()["code"]) == (200, TEXT, "482913")


async def test_the_latest_is_waited_for(
    control: httpx.AsyncClient, client: AsyncOcaSms, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long poll is answered when the message arrives."""
    watches = Watches(sandbox.inbox, monkeypatch)
    polling = asyncio.create_task(control.get("/sandbox/messages/latest", params={"phone": PHONE, "wait": "60"}))
    await until(lambda: watches.open)
    await client.send(OTHER, TEXT)
    await client.send(PHONE, TEXT)
    assert (await polling).json()["phone"] == PHONE
    assert watches.open == 0


async def test_a_poll_in_vain_is_404(control: httpx.AsyncClient) -> None:
    """Without `wait` a number without a message is a 404 at once, and the answer does not repeat the digits."""
    response = await control.get("/sandbox/messages/latest", params={"phone": PHONE})
    assert response.status_code == 404
    assert "81381475" not in response.text


async def test_a_poll_that_is_given_up_ends(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its client hangs up, or the sandbox ends, the poll stops waiting."""
    watches = Watches(sandbox.inbox, monkeypatch)
    for leave in (True, False):
        url = httpx.URL(sandbox.base_url)
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(
            b"GET /sandbox/messages/latest?phone=081381475159&wait=60 HTTP/1.1\r\n"
            + f"Host: 127.0.0.1:{url.port}\r\n\r\n".encode()
        )
        await until(lambda: watches.open)
        if leave:
            writer.close()
            await until(lambda: not watches.open)
    # The fixture's end would wait a minute for a poll that is left, or fail for its open connection.
    writer.close()


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({}, "phone"),
        ({"phone": "0812"}, "phone"),
        ({"phone": "x"}, "phone"),
        ({"phone": PHONE, "wait": "x"}, "wait"),
        ({"phone": PHONE, "wait": "nan"}, "wait"),
        ({"phone": PHONE, "wait": "-1"}, "wait"),
        ({"phone": PHONE, "wait": "61"}, "wait"),
    ],
)
async def test_an_impossible_question_is_400(control: httpx.AsyncClient, query: dict[str, str], named: str) -> None:
    """An impossible parameter is refused by its name."""
    response = await control.get("/sandbox/messages/latest", params=query)
    assert response.status_code == 400
    assert named in response.json()["error"]


async def test_faults_are_set_and_told(control: httpx.AsyncClient, sandbox: Sandbox) -> None:
    """PUT sets all faults at once, the missing ones to 0, and answers as GET does."""
    assert (await control.get("/sandbox/faults")).json() == dict.fromkeys([*FAULTS, "failing-attempts"], 0)
    response = await control.put("/sandbox/faults", json={"reset": 0.25, "failing-attempts": 2})
    assert response.status_code == 200
    assert response.json() == (await control.get("/sandbox/faults")).json()
    assert (sandbox.faults, sandbox.failing_attempts) == ({"reset": 0.25}, 2)
    await control.put("/sandbox/faults", json={"html": 1})
    assert (sandbox.faults, sandbox.failing_attempts) == ({"html": 1.0}, 0)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "JSON"),
        (b"x", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "JSON"),
        (b" " * (2**20 + 1) + b"{}", "long"),
        (b'{"unheard-of": 1}', "reset"),
        (b'{"reset": 2}', "reset"),
        (b'{"reset": NaN}', "reset"),
        (b'{"reset": "1"}', "reset"),
        (b'{"reset": true}', "reset"),
        (b'{"failing-attempts": 0.5}', "failing-attempts"),
        (b'{"failing-attempts": -1}', "failing-attempts"),
        (b'{"failing-attempts": "1"}', "failing-attempts"),
        (b'{"failing-attempts": []}', "failing-attempts"),
    ],
)
async def test_impossible_faults_change_nothing(
    control: httpx.AsyncClient, sandbox: Sandbox, body: bytes, named: str
) -> None:
    """Faults that cannot be played are a 400 with the reason, and the earlier faults stay."""
    sandbox.faults = {"html": 0.5}
    response = await control.put("/sandbox/faults", content=body)
    assert response.status_code == 400
    assert named in response.json()["error"]
    assert sandbox.faults == {"html": 0.5}


async def test_statistics_count(control: httpx.AsyncClient, client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """The statistics have the limits, and the counts of accepted, refused and recent requests."""
    sandbox.rate_limit, sandbox.quota, sandbox.failing_attempts = 25, 10, 1
    await client.send(PHONE, TEXT)
    statistics = (await control.get("/sandbox/statistics")).json()
    assert 0 <= statistics.pop("last_second") <= 2
    assert statistics == {"accepted": 1, "refused": {"internal-error": 1}, "rate_limit": 25, "quota": 9}


async def events(control: httpx.AsyncClient) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the data of the server-sent events as they come."""
    async with control.stream("GET", "/sandbox/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))
            else:
                assert line in {"event: state", ""}


async def test_events_tell_what_happens(
    control: httpx.AsyncClient, client: AsyncOcaSms, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream begins with the messages so far. It goes on with each new message, status, fault and clearing."""
    monkeypatch.setattr(_control, "_TICK", 0.01)
    await client.send(PHONE, TEXT)
    async with contextlib.aclosing(events(control)) as stream, asyncio.timeout(60):
        first = await anext(stream)
        assert [message["text"] for message in first["messages"]] == [TEXT]
        assert (first["cleared"], first["statistics"]["accepted"], first["faults"]["reset"]) == (False, 1, 0.0)
        await client.send(OTHER, "newer")
        told = [message["text"] async for state in read_until(stream, "messages") for message in state["messages"]]
        assert told == ["newer"]
        sandbox.faults = {"reset": 1.0}
        async for state in read_until(stream, "faults", "reset"):
            assert state["messages"] == []
        sandbox.faults = {}
        sandbox.inbox.clear()
        await client.send(PHONE, "after")
        seen = [state async for state in read_until(stream, "cleared")]
        assert [message["text"] for message in seen[-1]["messages"]] in (["after"], [])


async def test_a_status_that_moves_while_it_is_looked_at_is_told(
    control: httpx.AsyncClient, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status that changes within a round is part of the next round."""
    monkeypatch.setattr(_control, "_TICK", 0.01)
    sandbox.inbox.deliver(PHONE, TEXT, segments=1, stages=[(0.0, "sent"), (60.0, "delivered")])
    async with contextlib.aclosing(events(control)) as stream, asyncio.timeout(60):
        assert [message["status"] for message in (await anext(stream))["messages"]] == ["sent"]
        sandbox.inbox.deliver(OTHER, TEXT, segments=1, stages=[(0.0, "sent"), (60.0, "delivered")])
        looks = iter([monotonic()] * 2)  # one at each message
        monkeypatch.setattr(_inbox, "monotonic", lambda: next(looks, monotonic() + 60))
        told = []
        for quota in (5, 4):  # each is an event of its own
            sandbox.quota = quota
            async for state in stream:
                told += [message["status"] for message in state["messages"]]
                if state["statistics"]["quota"] == quota:
                    break
        assert told == ["sent", "delivered", "delivered"]


async def test_who_sets_faults_is_told_what_is_played(control: httpx.AsyncClient) -> None:
    """Setting faults makes an event even without a change: they may have been set and set back meanwhile."""
    async with contextlib.aclosing(events(control)) as stream, asyncio.timeout(60):
        first = await anext(stream)
        await control.put("/sandbox/faults", json={})
        assert (await anext(stream))["faults"] == first["faults"]


async def read_until(stream: AsyncIterator[dict[str, Any]], *path: str) -> AsyncIterator[dict[str, Any]]:
    """Yield states up to and including the first in which something is there at this path."""
    async for state in stream:
        yield state
        value: Any = state
        for name in path:
            value = value[name]
        if value:
            return


async def test_nothing_new_is_no_event(
    control: httpx.AsyncClient, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as nothing changes the stream is silent, although it looks again and again."""
    monkeypatch.setattr(_control, "_TICK", 0.0)
    monkeypatch.setattr(_control, "_PAUSE", 0.0)
    watches = Watches(sandbox.inbox, monkeypatch)
    async with contextlib.aclosing(events(control)) as stream:
        await anext(stream)
        following = asyncio.ensure_future(anext(stream))
        await until(lambda: watches.given >= 20)  # one a round
        assert not following.done()
        sandbox.quota = 5
        assert (await following)["statistics"]["quota"] == 5


async def test_watchers_do_not_outlive_the_sandbox(caplog: pytest.LogCaptureFixture) -> None:
    """A stream that is open when the sandbox ends is cut. The log stays empty and no task is left."""
    before = asyncio.all_tasks()
    sandbox = Sandbox()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(sandbox.serve())
        control = await stack.enter_async_context(httpx.AsyncClient(base_url=origin(sandbox), trust_env=False))
        stream = events(control)
        await anext(stream)
        await stack.aclose()
        with contextlib.suppress(httpx.HTTPError, RuntimeError, StopAsyncIteration):
            await anext(stream)
    assert asyncio.all_tasks() == before
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


SCRIPTS = ["/inbox.js", "/access.js", "/faults.js", "/list.js"]
PATHS = [
    *("/", "/inbox.css", *SCRIPTS, "/sandbox/messages", "/sandbox/entries", "/sandbox/access"),
    *("/sandbox/faults", "/sandbox/statistics"),
]


@pytest.mark.parametrize("path", [*PATHS, "/sandbox/messages/latest", "/sandbox/events"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8025"},
        {"Host": "evil"},  # only beyond the loopback
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "evil.example@127.0.0.1"},
        {"Host": "127.0.0.1/@evil.example"},
        {"Host": "[evil"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost"},
    ],
)
async def test_another_site_is_refused(control: httpx.AsyncClient, path: str, headers: dict[str, str]) -> None:
    """On each path a foreign host or origin is a 403 without contents."""
    response = await control.get(path, headers=headers)
    assert response.status_code == 403
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/sandbox/messages"), ("PUT", "/sandbox/faults")])
async def test_another_site_changes_nothing(
    control: httpx.AsyncClient, client: AsyncOcaSms, sandbox: Sandbox, method: str, path: str
) -> None:
    """A page elsewhere can neither forget messages nor switch faults on."""
    await client.send(PHONE, TEXT)
    headers = {"Origin": "http://evil.example"}
    response = await control.request(method, path, headers=headers, content=b'{"reset": 1}')
    assert (response.status_code, len(sandbox.inbox), sandbox.faults) == (403, 1, {})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host", ["localhost:8025", "LOCALHOST", "127.0.0.1:8025", "[::1]:8025", "192.168.1.20:8025", "127.0.0.1"]
)
async def test_ones_own_names_are_welcome(control: httpx.AsyncClient, path: str, host: str) -> None:
    """An address or localhost can be no site's name. The origin may be the same, or missing."""
    for headers in ({"Host": host}, {"Host": host, "Origin": f"http://{host}"}):
        assert (await control.get(path, headers=headers)).status_code == 200


async def test_a_plain_name_is_welcome_beyond_the_loopback() -> None:
    """In a network of containers the sandbox has a name without a dot; a name of somebody's domain is refused there."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(Sandbox().asgi())) as client:
        assert (await client.get("http://sandbox:8025/sandbox/messages")).status_code == 200
        assert (await client.get("http://sandbox.example/sandbox/messages")).status_code == 403


async def test_the_page_may_load_nothing_from_elsewhere(control: httpx.AsyncClient) -> None:
    """The page's policy allows its own style and script alone. It forbids frames and inline scripts."""
    response = await control.get("/")
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert response.headers["x-content-type-options"] == "nosniff"
    for path, kind in [("/", "html"), ("/inbox.css", "css"), *((script, "javascript") for script in SCRIPTS)]:
        response = await control.get(path)
        assert kind in response.headers["content-type"]
        assert "http:" not in response.text
        assert "https:" not in response.text
        assert "innerHTML" not in response.text
        if path in SCRIPTS:
            assert f'<script src="{path[1:]}" defer>' in (await control.get("/")).text


@settings(deadline=None, database=None)
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]),
    path=st.sampled_from([*PATHS, "/sandbox/messages/latest"])
    | st.text().map(lambda text: "/sandbox/" + "".join(f"%{byte:02X}" for byte in text.encode())),
    query=st.dictionaries(st.sampled_from(["phone", "wait"]) | st.text(), st.text() | st.just("0"), max_size=3),
    headers=st.dictionaries(st.sampled_from([b"Host", b"Origin", b"Content-Type"]), st.binary(), max_size=3),
    body=st.binary()
    | st.dictionaries(st.sampled_from(FAULTS), st.floats() | st.text()).map(json.dumps).map(str.encode),
)
async def test_no_request_troubles_the_control_paths(
    method: str, path: str, query: dict[str, str], headers: dict[bytes, bytes], body: bytes
) -> None:
    """Any request is done at once, or refused with a 4xx."""
    sandbox = Sandbox()
    if query.get("wait", "0").strip() not in {"", "0"}:  # a digit in any script may be a time to wait for
        query = query | {"wait": "0"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox.asgi())) as client, asyncio.timeout(60):
        url = httpx.URL("http://localhost", raw_path=path.encode()).copy_merge_params(query)
        response = await client.request(method, url, headers=list(headers.items()), content=body)
    assert response.status_code < 500


async def test_a_refusal_is_an_event_at_once(
    control: httpx.AsyncClient, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream does not wait for its tick to tell of a refused request."""
    monkeypatch.setattr(_control, "_TICK", 3600.0)
    async with contextlib.aclosing(events(control)) as stream, asyncio.timeout(60):
        await anext(stream)
        await control.get("/api/v1/sms")
        assert (await anext(stream))["statistics"]["refused"] == {"missing-authorization": 1}

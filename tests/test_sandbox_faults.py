"""The sandbox's faults: each kind as the client sees it, the order of scripts and draws, and the rate limit."""

import asyncio
import json
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moved_clock import HANG, Clock

from oca_sms_async import (
    AccountExpiredError,
    ApiError,
    AsyncOcaSms,
    DeliveryUnknownError,
    InternalError,
    InvalidCredentialsError,
    InvalidRequestError,
    MissingAuthorizationError,
    OcaSmsError,
    QuotaExhaustedError,
    RateLimitedError,
    RetryPolicy,
    Unlimited,
    UserNotFoundError,
)
from oca_sms_async.sandbox import FAULTS, Sandbox, _traffic, _wiring

PHONE = "+6281381475159"
OTHER = "+6281381475158"
TEXT = "Acme: 482913 is your code"

# Error, whether the message may have been sent, and whether it was.
FATES: dict[str, tuple[type[OcaSmsError], bool, bool]] = {
    "internal-error": (InternalError, True, False),
    "invalid-credentials": (InvalidCredentialsError, False, False),
    "missing-authorization": (MissingAuthorizationError, False, False),
    "invalid-request": (InvalidRequestError, False, False),
    "unknown-user": (UserNotFoundError, False, False),
    "account-expired": (AccountExpiredError, False, False),
    "quota-exhausted": (QuotaExhaustedError, False, False),
    "rate-limited": (RateLimitedError, False, False),
    "success-with-errors": (ApiError, True, False),
    "html": (ApiError, True, False),
    "reset": (DeliveryUnknownError, True, False),
    "accept-then-drop": (DeliveryUnknownError, True, True),
    "truncated-body": (DeliveryUnknownError, True, True),
    "late-reply": (DeliveryUnknownError, True, True),
    "slow-drip": (DeliveryUnknownError, True, True),
}


def client_of(sandbox: Sandbox, *, base_url: str, transport: httpx.AsyncBaseTransport | None = None) -> AsyncOcaSms:
    """Return a client that tries once."""
    lent = None if transport is None else httpx.AsyncClient(transport=transport)
    return AsyncOcaSms(
        sandbox.username,
        sandbox.password,
        base_url=base_url,
        limiter=Unlimited(),
        retry=RetryPolicy(max_attempts=1),
        http_client=lent,
    )


@pytest.mark.parametrize("fault", FATES)
async def test_a_fault_on_a_socket_is_what_it_says(
    fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client meets each fault as documented. The next send works, and the server logs no complaint."""
    error, in_doubt, accepted = FATES[fault]
    sandbox, clock = Sandbox(faults={fault: 1.0}), Clock(monkeypatch)
    async with sandbox.serve(), client_of(sandbox, base_url=sandbox.base_url) as client:
        call = asyncio.create_task(client.send(PHONE, TEXT))
        await clock.end(call, once=sandbox.inbox.wait_for(PHONE, timeout=HANG), at_most=11)
        with pytest.raises(error) as caught:
            await call
        assert type(caught.value) is error
        assert caught.value.may_have_been_sent is in_doubt
        assert [message.faults for message in sandbox.inbox] == ([(fault,)] if accepted else [])
        sandbox.faults = {}
        await client.send(PHONE, TEXT)
        assert sandbox.inbox[-1].faults == (fault,)
        assert sandbox.inbox[-1].attempts == 2
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


@pytest.mark.parametrize("fault", FATES)
async def test_a_fault_in_process_is_what_it_says(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a socket the client is told the same."""
    error, in_doubt, accepted = FATES[fault]
    sandbox, clock = Sandbox(faults={fault: 1.0}), Clock(monkeypatch)
    transport = httpx.ASGITransport(sandbox.asgi())
    async with client_of(sandbox, base_url="https://sandbox/api/v1", transport=transport) as client:
        call = asyncio.create_task(client.send(PHONE, TEXT))
        await clock.end(call, once=sandbox.inbox.wait_for(PHONE, timeout=HANG), at_most=11)
        with pytest.raises(error) as caught:
            await call
    assert caught.value.may_have_been_sent is in_doubt
    assert len(sandbox.inbox) == accepted


def test_every_fault_is_tested() -> None:
    """A new kind needs a row in the table above."""
    assert list(FATES) == list(FAULTS)


async def send_raw(sandbox: Sandbox, *, read: Callable[[asyncio.StreamReader], Awaitable[bytes]]) -> bytes:
    """Send on a bare socket and return the reader's part of the answer."""
    url = httpx.URL(sandbox.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    request = httpx.Request("POST", f"{sandbox.base_url}/sms", json={"phone": PHONE, "message": TEXT})
    request = next(httpx.BasicAuth(sandbox.username, sandbox.password).auth_flow(request))
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    writer.write(f"POST {url.path}/sms HTTP/1.1\r\n{head}\r\n".encode() + request.content)
    try:
        async with asyncio.timeout(30):
            return await read(reader)
    finally:
        writer.close()


async def test_a_reset_is_a_reset() -> None:
    """The connection is not closed but reset, before a byte of an answer."""
    async with Sandbox(faults={"reset": 1.0}).serve() as sandbox:
        with pytest.raises(ConnectionResetError):
            await send_raw(sandbox, read=asyncio.StreamReader.read)


async def test_a_dropped_answer_is_an_orderly_end() -> None:
    """The connection is closed without a byte of an answer."""
    async with Sandbox(faults={"accept-then-drop": 1.0}).serve() as sandbox:
        assert await send_raw(sandbox, read=asyncio.StreamReader.read) == b""
        assert len(sandbox.inbox) == 1


async def test_a_truncated_body_is_half_of_what_was_announced() -> None:
    """The head announces all of the receipt, and the connection is closed after half of it."""
    async with Sandbox(faults={"truncated-body": 1.0}).serve() as sandbox:
        head, _, body = (await send_raw(sandbox, read=asyncio.StreamReader.read)).partition(b"\r\n\r\n")
    (announced,) = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length")]
    assert len(body) == announced // 2 > 0


async def test_a_drip_arrives_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte the whole receipt comes to a patient client."""
    monkeypatch.setattr(_wiring, "_DRIP", 0.0)
    sandbox = Sandbox(faults={"slow-drip": 1.0})
    async with sandbox.serve(), client_of(sandbox, base_url=sandbox.base_url) as client:
        receipt = await client.send(PHONE, TEXT)
    assert receipt.msg_uid == sandbox.inbox[0].msg_uid


@pytest.mark.parametrize("fault", ["slow-drip", "late-reply"])
async def test_who_gives_up_is_not_waited_for(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that hangs up leaves no task in the server that drips on, or waits to be late."""
    sandbox, clock = Sandbox(faults={fault: 1.0}, lateness=3600), Clock(monkeypatch)
    async with sandbox.serve():
        before = asyncio.all_tasks()
        async with client_of(sandbox, base_url=sandbox.base_url) as client:
            call = asyncio.create_task(client.send(PHONE, TEXT))
            await clock.end(call, once=sandbox.inbox.wait_for(PHONE, timeout=HANG), at_most=11)
            with pytest.raises(DeliveryUnknownError):
                await call
        for _ in range(20):  # cycles of the event loop; a byte a second would take longer
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == before


async def test_a_late_reply_is_a_receipt(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """A client that waits long enough gets the late reply whole."""
    sandbox.faults, sandbox.lateness = {"late-reply": 1.0}, 0.0
    assert (await client.send(PHONE, TEXT)).msg_uid == sandbox.inbox[0].msg_uid


async def test_the_limit_s_headers_are_the_vendor_s(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """A 429 has the limit, the rest and the window's end, in the vendor's spelling, on the wire too."""
    sandbox.faults = {"rate-limited": 1.0}
    answer = await send_raw(sandbox, read=lambda reader: reader.readuntil(b"\r\n\r\n"))
    lines = answer.decode().lower().splitlines()
    assert lines[0] == "http/1.1 429 too many requests"
    assert {"x-ratelimit-limit: 25", "x-ratelmit-remaining: 0", "x-ratelimit-reset: 1"} <= set(lines)
    with pytest.raises(RateLimitedError) as caught:
        await client.send(PHONE, TEXT)
    assert caught.value.retry_after == 1.0


async def play(sandbox: Sandbox, count: int = 100) -> list[str]:
    """Send so often to a sandbox in process; return each status, or «cut» for a connection that ended."""
    seen = []
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(sandbox.asgi()), auth=(sandbox.username, sandbox.password)
    ) as client:
        for n in range(count):
            try:
                response = await client.post("http://sandbox/api/v1/sms", json={"phone": PHONE, "message": f"{n}"})
                seen.append(str(response.status_code))
            except httpx.ReadError:
                seen.append("cut")
    return seen


async def test_one_seed_is_one_run() -> None:
    """Two sandboxes with one seed play the same faults on the same sends, and another seed others."""
    faults = {"internal-error": 0.2, "quota-exhausted": 0.2, "reset": 0.2}
    first, second, other = [await play(Sandbox(faults=faults, seed=seed)) for seed in (7, 7, 8)]
    assert first == second != other
    counts = Counter(first)
    assert all(8 <= counts[it] <= 34 for it in ("500", "401", "cut"))


async def test_probabilities_above_one_share_all_sends() -> None:
    """Two faults that are both certain are played half the time each, and nothing passes."""
    counts = Counter(await play(Sandbox(faults={"html": 1.0, "quota-exhausted": 1.0}, seed=1)))
    assert set(counts) == {"502", "401"}
    assert min(counts.values()) >= 30


async def test_one_seed_is_one_run_in_whatever_order_messages_arrive() -> None:
    """Concurrent sends overtake each other. Each message has the same faults and the same end in any order."""
    runs = []
    for order in (range(100), reversed(range(100))):
        sandbox = Sandbox(faults={"html": 0.3, "late-reply": 0.3}, failed_share=0.5, sent_for=0, lateness=0, seed=7)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(sandbox.asgi()), auth=(sandbox.username, sandbox.password)
        ) as client:
            for n in order:
                await client.post("http://sandbox/api/v1/sms", json={"phone": PHONE, "message": f"{n % 50}"})
        runs.append(
            sorted((message.text, message.attempts, message.faults, message.status) for message in sandbox.inbox)
        )
    assert runs[0] == runs[1]
    assert len({(faults, status) for _, _, faults, status in runs[0]}) >= 4


async def test_equal_messages_have_fates_of_their_own() -> None:
    """With a seed too, equal texts meet each fault now and then, as a load test needs."""
    sandbox = Sandbox(faults={"html": 0.5}, seed=7)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(sandbox.asgi()), auth=(sandbox.username, sandbox.password)
    ) as client:
        sends = [client.post("http://sandbox/api/v1/sms", json={"phone": PHONE, "message": TEXT}) for _ in range(40)]
        statuses = Counter([(await send).status_code for send in sends])
    assert min(statuses[200], statuses[502]) >= 10


async def test_ends_are_drawn_apart_from_faults() -> None:
    """A message's end does not depend on its faults."""
    sandbox = Sandbox(faults={"late-reply": 0.5}, failed_share=0.5, sent_for=0.0, lateness=0.0, seed=7)
    await play(sandbox)
    assert len({(message.faults, message.status) for message in sandbox.inbox}) == 4


async def test_a_fault_of_another_kind_changes_no_other_send() -> None:
    """A later kind that is switched on does not change the draws of an earlier kind."""
    alone = await play(Sandbox(faults={"internal-error": 0.3}, seed=3))
    beside = await play(Sandbox(faults={"internal-error": 0.3, "reset": 0.3}, seed=3))
    assert [it == "500" for it in alone] == [it == "500" for it in beside]
    assert "cut" in beside


async def test_a_number_can_be_scripted(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """Answers for a number, in any spelling, come in their order. Other numbers do not meet them."""
    sandbox.when("0813-8147-5159").respond("quota-exhausted", times=1).respond("invalid-request", times=1)
    await client.send(OTHER, TEXT)
    for error in (QuotaExhaustedError, InvalidRequestError):
        with pytest.raises(error):
            await client.send(PHONE, TEXT)
    await client.send(PHONE, TEXT)
    assert [(message.phone, message.faults) for message in sandbox.inbox] == [
        (OTHER, ()),
        (PHONE, ("quota-exhausted", "invalid-request")),
    ]


async def test_a_lasting_script_comes_after_limited_ones(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """Without `times` an answer lasts, until another takes its place; limited ones go first, whenever they came."""
    script = sandbox.when(phone=PHONE).respond("quota-exhausted")
    script.respond("invalid-request", times=2)
    for error in (InvalidRequestError, InvalidRequestError, QuotaExhaustedError, QuotaExhaustedError):
        with pytest.raises(error):
            await client.send(PHONE, TEXT)
    script.respond("unknown-user")
    with pytest.raises(UserNotFoundError):
        await client.send(PHONE, TEXT)


async def test_a_script_can_be_taken_back(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """Sends to that number are answered as usual again. Another number's script stays."""
    sandbox.when(PHONE).respond("invalid-request", times=5).respond("unknown-user")
    sandbox.when(OTHER).respond("quota-exhausted")
    sandbox.when(PHONE).forget()
    await client.send(PHONE, TEXT)
    with pytest.raises(QuotaExhaustedError):
        await client.send(OTHER, TEXT)


async def test_a_script_of_a_billion_sends_costs_nothing(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """A script is a counter: its memory does not grow with `times`."""
    tracemalloc.start()
    sandbox.when(PHONE).respond("quota-exhausted", times=10**9).respond("unknown-user", times=10**12)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    for _ in range(3):
        with pytest.raises(QuotaExhaustedError):
            await client.send(PHONE, TEXT)


async def test_a_number_s_script_goes_before_that_for_any(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """`when()` is for every number without a script of its own. Both go before a draw."""
    sandbox.faults = {"html": 1.0}
    sandbox.when().respond("quota-exhausted")
    sandbox.when(PHONE).respond("invalid-request")
    for phone, error in [(PHONE, InvalidRequestError), (OTHER, QuotaExhaustedError)]:
        with pytest.raises(error):
            await client.send(phone, TEXT)


@pytest.mark.parametrize(
    ("response", "content", "content_type", "accepted"),
    [
        ({"status": 200, "body": {"success": "sent"}}, b'{"success": "sent"}', "json", 1),
        ({"status": 201, "body": "<b>"}, b"<b>", "text/html", 1),
        ({"status": 204}, b"", "", 1),
        ({"status": 302, "headers": {"Location": "/elsewhere"}}, b"", "", 0),
        ({"status": 503}, b'{"errors": [{"message": "Scripted"}]}', "json", 0),
        ({"status": 503, "body": "x", "headers": {"Content-Type": "text/plain"}}, b"x", "text/plain", 0),
        ({"status": 420, "body": [1]}, b"[1]", "json", 0),
    ],
)  # fmt: skip
async def test_an_answer_of_one_s_own(
    sandbox: Sandbox, response: dict[str, object], content: bytes, content_type: str, accepted: int
) -> None:
    """Any status, body and headers can be laid down; with a 2xx the message is accepted."""
    sandbox.when(PHONE).respond(**response)  # type: ignore[arg-type]  # the table knows the types
    async with httpx.AsyncClient(auth=(sandbox.username, sandbox.password), trust_env=False) as client:
        got = await client.post(f"{sandbox.base_url}/sms", json={"phone": PHONE, "message": TEXT})
    assert (got.status_code, got.content, len(sandbox.inbox)) == (response["status"], content, accepted)
    assert content_type in got.headers.get("content-type", "")
    if got.status_code == 302:
        assert got.headers["location"] == "/elsewhere"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "fault or a status"),
        ({"fault": "reset", "status": 500}, "fault or a status"),
        ({"fault": "unheard-of"}, "kind"),
        ({"status": 99}, "status"),
        ({"status": 600}, "status"),
        ({"status": "500"}, "status"),
        ({"status": 204, "body": "x"}, "body"),
        ({"status": 500, "body": b"x"}, "body"),
        ({"status": 500, "body": "\ud800"}, "body"),
        ({"status": 500, "body": {1}}, "body"),
        ({"status": 500, "headers": [("a", "b")]}, "headers"),
        ({"status": 500, "headers": {"Retry-After": 5}}, "headers"),
        ({"status": 500, "headers": {"a b": "c"}}, "headers"),
        ({"status": 500, "headers": {"a": "b\r\nc: d"}}, "headers"),
        ({"status": 500, "headers": {"a": "€"}}, "headers"),
        ({"status": 500, "headers": {"Content-Length": "9"}}, "length"),
        ({"status": 500, "headers": {"transfer-encoding": "chunked"}}, "length"),
        ({"fault": "reset", "times": 0}, "times"),
        ({"fault": "reset", "times": 1.5}, "times"),
        ({"fault": "html", "body": "<b>"}, "body"),
        ({"fault": "html", "headers": {"server": "x"}}, "headers"),
    ],
)
def test_impossible_scripts_are_named(arguments: dict[str, object], named: str) -> None:
    """An answer that cannot be given is refused where it is laid down."""
    with pytest.raises(ValueError, match=named):
        Sandbox().when(PHONE).respond(**arguments)  # type: ignore[arg-type]  # the wrong values are the point
    with pytest.raises(ValueError, match="phone"):
        Sandbox().when("0812")


async def test_a_script_shows_no_number() -> None:
    """The repr of a script has no number in it."""
    assert "81381475159" not in repr(Sandbox().when(PHONE).respond("reset", times=1))


async def test_the_limit_is_a_sliding_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any second lets so many requests through, of all kinds. Refused and unauthorised requests do not count."""
    now = 0.0
    monkeypatch.setattr(_traffic, "monotonic", lambda: now)
    sandbox = Sandbox(rate_limit=3)
    transport, auth = httpx.ASGITransport(sandbox.asgi()), (sandbox.username, sandbox.password)
    async with httpx.AsyncClient(transport=transport, auth=auth, base_url="http://sandbox/api/v1") as client:
        statuses = []
        for moment, path in [(0.0, "/sms"), (0.5, "/sms/status/x"), (0.9, "/sms"), (0.95, "/sms"), (0.99, "/sms")]:
            now = moment
            statuses.append((await client.get(path)).status_code)
        assert statuses == [200, 404, 200, 429, 429]
        refused = await client.get("/sms")
        assert (refused.json(), refused.headers["X-RateLimit-Reset"]) == (
            {"errors": [{"message": "Too Many Request", "code": 9}]},
            "1",
        )
        assert (await client.get("/sms", auth=("a", "b"))).status_code == 401
        assert sandbox.traffic.last_second == 3
        now = 1.0  # the first has left the window
        assert (await client.get("/sms")).status_code == 200
        assert (await client.get("/sms")).status_code == 429
        now = 1.5
        sandbox.rate_limit = 1  # two are still in the window
        assert (await client.get("/sms")).status_code == 429
        now = 2.0
        assert (await client.get("/sms")).status_code == 200
    assert sandbox.traffic.refusals == {"rate-limited": 5, "invalid-credentials": 1}


@settings(deadline=None, database=None, max_examples=500)
@given(gaps=st.lists(st.floats(0, 0.6), max_size=60), limit=st.integers(1, 5))
def test_no_second_has_more_than_the_limit(gaps: list[float], limit: int) -> None:
    """At any spacing of requests, no second lets more than the limit through, and a free place is given."""
    traffic, now, passed = _traffic.Traffic(), 0.0, list[float]()
    with pytest.MonkeyPatch.context() as patch:
        for gap in gaps:
            now += gap
            patch.setattr(_traffic, "monotonic", lambda: now)  # noqa: B023 - called within this round
            recent = [moment for moment in passed if moment > now - 1.0]
            wait = traffic.wait(limit)
            assert (wait is None) is (len(recent) < limit)
            assert wait is None or -1e-9 < wait < 1.0 + 1e-9
            if wait is None:
                passed.append(now)
            assert traffic.last_second == len([moment for moment in passed if moment > now - 1.0]) <= limit


async def test_the_refused_are_counted_by_kind(client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """Each refusal counts under its kind's name, from any origin. An unknown id does not count."""
    sandbox.when().respond("html", times=1).respond(status=503, times=1).respond("reset", times=1)
    for _ in range(3):
        with pytest.raises(OcaSmsError):
            await client.send(PHONE, TEXT)
    sandbox.refused_numbers = [OTHER]
    for call in (client.send(OTHER, TEXT), client.status("unknown")):
        with pytest.raises(OcaSmsError):
            await call
    assert sandbox.traffic.refusals == {"html": 1, "scripted": 1, "reset": 1, "invalid-request": 1}


def test_play_sets_all_or_nothing() -> None:
    """`play` sets kinds and failing attempts and clears the missing ones. If it refuses, nothing changes."""
    sandbox = Sandbox(faults={"html": 0.5})
    sandbox.play({"reset": 0.25, "failing-attempts": 2})
    assert (sandbox.faults, sandbox.failing_attempts) == ({"reset": 0.25}, 2)
    assert {kind: value for kind, value in sandbox.played.items() if value} == {"reset": 0.25, "failing-attempts": 2}
    assert json.loads(json.dumps(sandbox.played)) == sandbox.played
    for wrong in ({"reset": 2.0}, {"failing-attempts": 1.5}, {"failing-attempts": -1}, {"failing-attempts": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            sandbox.play(wrong)
        assert (sandbox.faults, sandbox.failing_attempts) == ({"reset": 0.25}, 2)
    sandbox.play({})
    assert not any(sandbox.played.values())


def test_faults_cannot_be_changed_unseen() -> None:
    """The mapping is a copy that cannot be changed past the check."""
    given = {"reset": 0.5}
    sandbox = Sandbox(faults=given)
    given["reset"] = 7.0
    assert sandbox.faults == {"reset": 0.5}
    with pytest.raises(TypeError):
        sandbox.faults["reset"] = 7.0  # type: ignore[index]  # that it is not possible is the point

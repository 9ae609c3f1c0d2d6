"""The vendor's four APIs on one sandbox: each at its documented path, with its credentials, fields and codes."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any
from unicodedata import category

import attrs
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oca_sms_async import AsyncOcaSms, SmsRecord, Unlimited
from oca_sms_async.sandbox import FAULTS, Sandbox

PHONE = "+6281381475159"
TEXT = "Acme: 482913 is your code"
NAMES = ["regular-v1", "regular-v2", "premium-v1", "premium-v2"]
V2 = {"regular-v2", "premium-v2"}
PREMIUM = {"premium-v1", "premium-v2"}
PREFIXES = dict(zip(NAMES, ["/api/v1", "/sms/v2", "/sms/api/v1", "/sms/v2"], strict=True))
SEND_PATHS = dict(zip(NAMES, ["/sms", "/sms", "/send-otp", "/send-otp"], strict=True))
STATUS_PATHS = dict(zip(NAMES, ["/sms/status/", "/sms/status/", "/otpstatus/", "/otp-status/"], strict=True))
HISTORY_PATHS = {"regular-v1": "/sms", "regular-v2": "/sms/history"}
ID_FIELDS = dict(zip(NAMES, ["msg_uid", "msg_uid", "msg_id", "msg_id"], strict=True))


@attrs.frozen
class Wire:
    """One API of a sandbox as its documentation has it, over plain HTTP."""

    name: str
    sandbox: Sandbox
    client: httpx.AsyncClient

    def body(self, phone: object = PHONE, text: object = TEXT, **other: object) -> dict[str, object]:
        """Return the body of a send."""
        if self.name in PREMIUM:
            sender = self.sandbox.sender_id
            return {"sender_id": sender, "receipent_number": phone, "message_body": text} | other
        return {"phone": phone, "message": text} | other

    async def send(self, phone: object = PHONE, text: object = TEXT, **other: object) -> httpx.Response:
        """Send as documented; `other` replaces or adds fields."""
        return await self.client.post(SEND_PATHS[self.name], json=self.body(phone, text, **other))

    async def status(self, msg_uid: str) -> httpx.Response:
        """Ask for one message."""
        return await self.client.get(STATUS_PATHS[self.name] + msg_uid)


def error_of(response: httpx.Response) -> tuple[int, Any, Any]:
    """Return status, code and message of an answer with exactly one documented error."""
    (error,) = response.json()["errors"]
    return response.status_code, error.get("code"), error["message"]


def connect(sandbox: Sandbox, name: str, *, authorization: str | None = None) -> httpx.AsyncClient:
    """Return a client with the credentials of one API, or with another Authorization header."""
    auth: httpx.Auth = httpx.BasicAuth(sandbox.username, sandbox.password)
    headers = {}
    if name in V2 or authorization is not None:
        auth, headers = httpx.Auth(), {"Authorization": authorization or f"Bearer {sandbox.token}"}
    return httpx.AsyncClient(base_url=sandbox.url_of(name), auth=auth, headers=headers, trust_env=False)


@pytest.fixture(params=NAMES)
async def wire(request: pytest.FixtureRequest, sandbox: Sandbox) -> AsyncIterator[Wire]:
    """Each API in turn."""
    async with connect(sandbox, request.param) as client:
        yield Wire(request.param, sandbox, client)


def test_every_api_has_its_documented_path(sandbox: Sandbox) -> None:
    """The four base URLs have one origin, and V1's is `base_url`."""
    origin = sandbox.base_url.removesuffix("/api/v1")
    assert {name: sandbox.url_of(name) for name in NAMES} == {name: origin + PREFIXES[name] for name in NAMES}
    with pytest.raises(ValueError, match="must be one of regular-v1, regular-v2, premium-v1, premium-v2"):
        sandbox.url_of("v3")
    with pytest.raises(ValueError, match="no such API"):
        sandbox.environment("v3")
    with pytest.raises(RuntimeError, match="only while it is served"):
        Sandbox().url_of("premium-v2")


async def test_the_environment_is_all_that_a_client_needs() -> None:
    """Each API has its credentials and its URL in variables. The default API is not named."""
    async with Sandbox(username="u", password="p", token="t", sender_id="Acme").serve() as sandbox:
        basic = {"OCA_SMS_USERNAME": "u", "OCA_SMS_PASSWORD": "p"}
        expected: dict[str, dict[str, str]] = {
            "regular-v1": basic,
            "regular-v2": {"OCA_SMS_API": "regular-v2", "OCA_SMS_TOKEN": "t"},
            "premium-v1": {"OCA_SMS_API": "premium-v1", "OCA_SMS_SENDER_ID": "Acme"} | basic,
            "premium-v2": {"OCA_SMS_API": "premium-v2", "OCA_SMS_TOKEN": "t", "OCA_SMS_SENDER_ID": "Acme"},
        }
        for name, variables in expected.items():
            assert sandbox.environment(name) == variables | {"OCA_SMS_BASE_URL": sandbox.url_of(name)}
        assert sandbox.environment() == sandbox.environment("regular-v1")


RECEIPTS: dict[str, dict[str, object]] = {
    "regular-v1": {"status": "sent"},
    "regular-v2": {"status": "sent"},
    "premium-v1": {"sender_id": True},  # as the vendor documents it
    "premium-v2": {"success": True},
}


async def test_a_send_is_answered_as_documented(wire: Wire) -> None:
    """The receipt has the documented fields, and the inbox knows the API and the sender."""
    response = await wire.send()
    assert response.status_code == 200
    (message,) = wire.sandbox.inbox
    assert response.json() == RECEIPTS[wire.name] | {ID_FIELDS[wire.name]: message.msg_uid}
    assert (message.phone, message.text, message.api) == (PHONE, TEXT, wire.name)
    assert message.sender_id == ("Sandbox" if wire.name in PREMIUM else None)
    if wire.name != "regular-v1":
        assert str(uuid.UUID(message.msg_uid)) == message.msg_uid


REGULAR_V1 = {"phone_number", "message_body", "created_at", "status", "msg_uid", "total_sms", "updated_at"}
REGULAR_V2 = {
    *("phone_number", "message_body", "status", "operator_cell", "status_description", "aditional_data", "country"),
    *("source", "uuid", "total_sms", "created_at", "updated_at", "history_status", "msgid"),
}
PREMIUM_FIELDS = {
    *("total_sms", "sender_id", "receipent_number", "status", "country", "created_at", "updated_at", "msg_id"),
}


async def test_a_message_is_found_as_documented(wire: Wire) -> None:
    """Regular wraps the record and names an application. Premium's record is flat and has no text."""
    uid = (await wire.send()).json()[ID_FIELDS[wire.name]]
    answer = (await wire.status(uid)).json()
    if wire.name in PREMIUM:
        assert answer.keys() == PREMIUM_FIELDS
        assert (answer["receipent_number"], answer["sender_id"], answer["msg_id"]) == (PHONE, "Sandbox", uid)
        assert TEXT not in str(answer)
        return
    assert answer.keys() == {"status", "data"}
    assert answer["status"] is True
    fields = REGULAR_V1 if wire.name == "regular-v1" else REGULAR_V2
    assert answer["data"].keys() == fields | {"application"}
    assert answer["data"]["msgid" if wire.name in V2 else "msg_uid"] == uid
    (record,) = (await wire.client.get(HISTORY_PATHS[wire.name])).json()
    assert record.keys() == fields
    assert record == {key: value for key, value in answer["data"].items() if key != "application"}
    assert record["status"] == ("send" if wire.name in V2 else "sent")


async def test_statuses_are_spelt_as_the_vendor_does(wire: Wire) -> None:
    """A new message is «submited» in every API, and V2's next word is «send»."""
    wire.sandbox.submitted_for = 3600.0
    uid = (await wire.send()).json()[ID_FIELDS[wire.name]]
    answer = (await wire.status(uid)).json()
    assert answer.get("data", answer)["status"] == "submited"


async def test_an_api_knows_its_own_messages_alone(wire: Wire) -> None:
    """Messages of another API are in the inbox, but neither in this one's history nor among its statuses."""
    others = [name for name in NAMES if name != wire.name]
    for name in others:
        async with connect(wire.sandbox, name) as client:
            assert (await Wire(name, wire.sandbox, client).send()).status_code == 200
    assert [message.api for message in wire.sandbox.inbox] == others
    expected = (404, 33, "Data doesn't exist") if wire.name in V2 else (404, None, "There is no data available")
    for uid in [*(message.msg_uid for message in wire.sandbox.inbox), "unknown"]:
        assert error_of(await wire.status(uid)) == expected
    if wire.name in HISTORY_PATHS:
        assert (await wire.client.get(HISTORY_PATHS[wire.name])).json() == []


@pytest.mark.parametrize("name", sorted(PREMIUM))
async def test_premium_has_no_history(sandbox: Sandbox, name: str) -> None:
    """No path of Premium's lists messages."""
    async with connect(sandbox, name) as client:
        for path in ("/send-otp", "/history", "/otp"):
            assert (await client.get(path)).status_code in {404, 405}


@pytest.mark.parametrize(
    ("name", "authorization", "expected"),
    [
        ("regular-v2", "Bearer other", (401, 45, "Auth token is not valid")),
        ("regular-v2", "Bearer sandbox-token2", (401, 45, "Auth token is not valid")),
        ("premium-v2", "Bearer é", (401, 45, "Auth token is not valid")),
        ("regular-v2", "Bearer", (401, 43, "Auth token is not supplied")),
        ("premium-v2", "Basic c2FuZGJveEBleGFtcGxlLmNvbTpzYW5kYm94", (401, 43, "Auth token is not supplied")),
        ("premium-v2", "sandbox-token", (401, 43, "Auth token is not supplied")),
        ("premium-v1", "Bearer sandbox-token", (401, 17, "Invalid Authentication Credentials")),
        ("regular-v1", "Bearer sandbox-token", (401, 17, "Invalid Authentication Credentials")),
    ],
)
async def test_wrong_credentials_are_refused_as_documented(
    sandbox: Sandbox, name: str, authorization: str, expected: tuple[int, int, str]
) -> None:
    """A V1 API takes no token, a V2 API no password, and each refuses a wrong one by its own codes."""
    async with connect(sandbox, name) as client:
        headers = [(b"Authorization", authorization.encode("latin-1"))]
        response = await client.post(SEND_PATHS[name], json={}, headers=headers, auth=httpx.Auth())
    assert error_of(response) == expected


async def test_a_request_without_authorization_is_19(wire: Wire) -> None:
    """The header's absence is 406 in V1 and 401 in V2."""
    async with httpx.AsyncClient(base_url=wire.sandbox.url_of(wire.name), trust_env=False) as client:
        response = await client.post(SEND_PATHS[wire.name], json=wire.body())
    assert error_of(response) == (401 if wire.name in V2 else 406, 19, "Missing Authorization Header")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_scheme_has_no_case(sandbox: Sandbox, scheme: str) -> None:
    """HTTP compares the scheme without its case, and white space round the token does not count."""
    async with connect(sandbox, "regular-v2", authorization=f"{scheme}  {sandbox.token}") as client:
        assert (await client.get("/sms/history")).status_code == 200


async def test_credentials_can_be_changed(wire: Wire) -> None:
    """A token or a password of one's own opens its API from the next request on."""
    wire.sandbox.token, wire.sandbox.password = "another-token", "another"
    assert (await wire.send()).status_code == 401
    async with connect(wire.sandbox, wire.name) as client:
        assert (await Wire(wire.name, wire.sandbox, client).send()).status_code == 200


@pytest.mark.parametrize(
    ("knob", "value", "first", "second"),
    [
        ("quota", 0, (401, 55), (401, 5)),
        ("unknown_user", True, (404, 41), (404, 41)),
        ("expired", True, (401, 51), (401, 51)),
        ("template", "x", (406, "39"), (406, 59)),
        ("refused_numbers", [PHONE], (406, "39"), (406, "39")),
        ("failing_attempts", 1, (500, 13), (500, 13)),
    ],
)
async def test_knobs_hold_for_every_api(
    wire: Wire, knob: str, value: object, first: tuple[int, object], second: tuple[int, object]
) -> None:
    """Each API refuses by the codes of its table."""
    setattr(wire.sandbox, knob, value)
    assert error_of(await wire.send())[:2] == (second if wire.name in V2 else first)
    assert len(wire.sandbox.inbox) == 0


async def test_the_limit_is_the_account_s(wire: Wire) -> None:
    """Requests of all the APIs count together, and the 429 has the vendor's headers."""
    wire.sandbox.rate_limit = 1
    async with connect(wire.sandbox, "regular-v1") as client:
        assert (await client.get("/sms")).status_code == 200
    response = await wire.send()
    assert error_of(response) == (429, 9, "Too Many Request")
    assert response.headers["X-RateLmit-Remaining"] == "0"


async def test_complaints_name_the_api_s_own_fields(wire: Wire) -> None:
    """A 39 has a complaint about each wrong parameter, under the names of this API."""
    status, code, fields = error_of(await wire.client.post(SEND_PATHS[wire.name], json={}))
    assert (status, code) == (406, "39")
    names = ["phone_number", "message_body"]
    if wire.name in PREMIUM:
        names = ["receipent_number", "message_body", "sender_id"]
    assert [(field["param"], field["msg"]) for field in fields] == [(name, "Invalid value") for name in names]


@pytest.mark.parametrize("sender", ["Zenith", "", None, 5, "sandbox"])
@pytest.mark.parametrize("name", sorted(PREMIUM))
async def test_a_foreign_sender_is_refused(sandbox: Sandbox, name: str, sender: object) -> None:
    """A sender that is not the account's is a 39 about it, and the account's sender can be changed."""
    async with connect(sandbox, name) as client:
        wire = Wire(name, sandbox, client)
        _, code, (field,) = error_of(await wire.send(sender_id=sender))
        assert (code, field["param"]) == ("39", "sender_id")
        sandbox.sender_id = "Zenith"
        assert (await wire.send(sender_id="Zenith")).status_code == 200
    assert [message.sender_id for message in sandbox.inbox] == ["Zenith"]


@pytest.mark.parametrize(
    ("name", "status"), [("premium-v1", 406), ("premium-v2", 200)]
)  # the documentation spells it so for V2 alone
async def test_premium_v2_takes_both_spellings(sandbox: Sandbox, name: str, status: int) -> None:
    """`recipient_number` alone, and both names at once, are a recipient in Premium V2."""
    async with connect(sandbox, name) as client:
        body = {"sender_id": "Sandbox", "recipient_number": PHONE, "message_body": TEXT}
        assert (await client.post("/send-otp", json=body)).status_code == status
        assert (await client.post("/send-otp", json=body | {"receipent_number": PHONE})).status_code == 200


REFUSALS = {
    "internal-error": ((500, 13), (500, 13)),
    "invalid-credentials": ((401, 17), (401, 45)),
    "missing-authorization": ((406, 19), (401, 19)),
    "invalid-request": ((406, "39"), (406, "39")),
    "unknown-user": ((404, 41), (404, 41)),
    "account-expired": ((401, 51), (401, 51)),
    "quota-exhausted": ((401, 55), (401, 5)),
    "rate-limited": ((429, 9), (429, 9)),
    "success-with-errors": ((200, 13), (200, 13)),
}


@pytest.mark.parametrize("fault", REFUSALS)
async def test_a_fault_has_the_api_s_own_code(wire: Wire, fault: str) -> None:
    """A refusal that is played or scripted is in the words of the API that is asked."""
    wire.sandbox.faults = {fault: 1.0}
    assert error_of(await wire.send())[:2] == REFUSALS[fault][wire.name in V2]
    wire.sandbox.faults = {}
    wire.sandbox.when(PHONE).respond(fault, times=1)
    assert error_of(await wire.send())[:2] == REFUSALS[fault][wire.name in V2]
    assert (await wire.send()).status_code == 200


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - set(REFUSALS) - {"late-reply", "slow-drip"}))
async def test_a_fault_of_the_connection_is_the_same_everywhere(wire: Wire, fault: str) -> None:
    """A proxy's page, and a connection that ends, come in every API. The message counts as accepted or not."""
    wire.sandbox.faults = {fault: 1.0}
    if fault == "html":
        assert (await wire.send()).status_code == 502
    else:
        with pytest.raises(httpx.TransportError):
            await wire.send()
    assert len(wire.sandbox.inbox) == (fault in {"accept-then-drop", "truncated-body"})


async def test_published_credentials_open_no_api_to_a_site(wire: Wire) -> None:
    """A foreign Host is refused while the API's own secret is the published one."""
    foreign = {"Host": "evil.example"}
    path = STATUS_PATHS[wire.name] + "x"
    assert (await wire.client.get(path, headers=foreign)).status_code == 403
    if wire.name in V2:
        wire.sandbox.token = "another"
    else:
        wire.sandbox.password = "another"
    async with connect(wire.sandbox, wire.name) as client:
        assert (await client.get(path, headers=foreign)).status_code == 404


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200).filter(
    lambda text: not all(category(char)[0] in "CZ" for char in text)
)
numbers = st.integers(10**6, 10**9 - 1).map(lambda digits: f"+628{digits}1")


@settings(deadline=None)  # a busy machine must not fail a test
@given(name=st.sampled_from(NAMES), phone=numbers, text=texts, sender=st.sampled_from(["Acme", "PT Ácme 😀", '"; x']))
def test_a_message_goes_from_send_to_status(name: str, phone: str, text: str, sender: str) -> None:
    """Any text to any number arrives as it is by each API, and its id leads to its record."""
    sandbox = Sandbox(sender_id=sender)
    sandbox._base_url = "http://localhost/api/v1"  # called in process

    async def send() -> SmsRecord:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox.asgi()), trust_env=False) as lent:
            client = AsyncOcaSms.from_env(sandbox.environment(name), http_client=lent, limiter=Unlimited())
            receipt = await client.send(phone, text)
            return await client.status(receipt.msg_uid)

    record = asyncio.run(send())
    (message,) = sandbox.inbox
    assert (message.api, message.phone, message.text) == (name, phone, text)
    assert message.sender_id == (sender if name in PREMIUM else None)
    assert (record.msg_uid, record.phone_number, record.total_sms) == (message.msg_uid, phone, message.segments)
    assert record.message_body == ("" if name in PREMIUM else text)

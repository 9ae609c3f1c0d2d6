"""The seam round the wire: no other room of the client knows an API's particulars."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
from answers import APIS, PHONE, REQUESTS, TEXT, UID

import oca_sms_async
from oca_sms_async import (
    AsyncOcaSms,
    PremiumV1,
    PremiumV2,
    RegularV1,
    RegularV2,
    SendReceipt,
    Sms,
    SmsRecord,
    Unlimited,
    UnsupportedError,
)
from oca_sms_async._settings import Environment
from oca_sms_async._wire._account import Account
from oca_sms_async._wire._environment import needed_variables

PACKAGE = Path(oca_sms_async.__file__).parent
# The sandbox is the other side of the wire. The command that serves it prints the variables for its client.
COUNTERPARTS = {"sandbox", "_serve.py"}
ROOMS = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] != "_wire" and not COUNTERPARTS & {*path.relative_to(PACKAGE).parts}
]
KINDS: list[type[Account]] = [RegularV1, RegularV2, PremiumV1, PremiumV2]
VARIABLES = {"OCA_SMS_API"} | {
    variable.name
    for name in ("regular-v1", "premium-v1", "premium-v2")
    for variable in needed_variables(Environment({"OCA_SMS_API": name}))
}
# Numbers that an HTTP library or a limiter needs for other reasons.
COMMON_NUMBERS = {5, 9, 13}


def of_the_wire(api: type[Account]) -> set[Any]:
    """Return the constants that belong to one API: paths, names of fields, codes, and its URL."""
    dialect = api._dialect
    ours = {field.name for model in (SendReceipt, SmsRecord, Sms) for field in attrs.fields(model)}
    names = {name for shape in dialect.shapes for entry in shape.fields.values() for name in entry.names}
    paths = {dialect.send_path, dialect.history_path, dialect.status_path, dialect.base_url} - {None}
    return (names - ours) | paths | (dialect.codes.keys() - COMMON_NUMBERS)


def constants(path: Path) -> Iterator[str | int]:
    """Yield the strings and integers of a module, but for docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int) and id(node) not in alone:
            yield node.value


def test_there_are_particulars_to_look_for() -> None:
    """The sets of this module hold a path, a field's name, a code and a variable, and the rooms are found."""
    assert of_the_wire(RegularV1) >= {"/sms", "/sms/status/", "success", 17, 55}
    assert of_the_wire(PremiumV2) >= {"/send-otp", "/otp-status/", "receipent_number", "sender_id", 45}
    assert len(VARIABLES) == 5
    assert {path.name for path in ROOMS} >= {"_client.py", "_dispatch.py", "_account.py", "_errors.py"}


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_other_room_knows_the_wire(path: Path) -> None:
    """No room but those of `_wire` holds a path, a field, a code, a variable of one API, or an Authorization."""
    found = [*constants(path)]
    known = set[Any]().union(*map(of_the_wire, KINDS)) | VARIABLES
    assert [it for it in found if type(it) in {str, int} and it in known] == []
    assert [it for it in found if isinstance(it, str) and it.startswith(("Basic ", "Bearer ", "Authorization"))] == []


@pytest.mark.parametrize("name", APIS)
async def test_a_client_works_by_each_api(name: str) -> None:
    """A client sends and asks with the URL, the header and the fields of its API, and knows no more of it."""
    api = APIS[name]
    seen = list[tuple[str, str]]()

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, str(request.url)))
        assert request.headers.get_list("Authorization") == [api.headers()["Authorization"]]
        record = {"receipent_number": PHONE, "phone_number": PHONE, "message_body": TEXT}
        return httpx.Response(200, json={"msg_uid": UID, "msg_id": UID, "msgid": UID, "status": "sent", **record})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as lent:
        client = AsyncOcaSms(api=api, http_client=lent, limiter=Unlimited())
        receipt = await client.send(PHONE, TEXT)
        record = await client.status(receipt.msg_uid)
        assert (receipt.status, record.msg_uid, record.phone_number) == ("sent", UID, PHONE)
        if not api.has_history:
            with pytest.raises(UnsupportedError):
                await client.history()
    requests = [REQUESTS[f"{name} send"], REQUESTS[f"{name} status"]]
    assert seen == [(request.method, api.base_url + request.path) for request in requests]

"""SMS Regular V2 as the vendor documents it: a token, other paths and codes, and a record with other fields."""

import uuid
from collections.abc import Iterable
from typing import Any, Final

from oca_sms_async.sandbox._answers import Answer, write_timestamp
from oca_sms_async.sandbox._api import Api, Operation
from oca_sms_async.sandbox._authorization import BEARER
from oca_sms_async.sandbox._inbox import Message
from oca_sms_async.sandbox._refusals import Refusal, Table, write_refusal
from oca_sms_async.sandbox._regular_v1 import PARAMETERS, read_send, write_receipt


def _refuse(refusal: Refusal) -> Answer:
    return write_refusal(refusal, Table.V2, PARAMETERS)


def _write_record(message: Message) -> dict[str, Any]:
    """Return a record. The misspelt names, and «send» for sent, are the vendor's."""
    return {
        "phone_number": message.phone,
        "message_body": message.text,
        "status": "send" if message.status == "sent" else message.status,
        "operator_cell": "TELKOMSEL",
        "status_description": "",
        "aditional_data": None,
        "country": "ID",
        "source": "sandbox",
        "uuid": message.msg_uid,
        "total_sms": message.segments,
        "created_at": write_timestamp(message.created_at),
        "updated_at": write_timestamp(message.updated_at),
        "history_status": [],
        "msgid": message.msg_uid,
    }


def _write_history(messages: Iterable[Message]) -> Answer:
    """Return all records as a bare array."""
    return Answer(200, [_write_record(message) for message in messages])


def _write_status(message: Message) -> Answer:
    """Return one record in an envelope. Only here does it name an application."""
    return Answer(200, {"status": True, "data": _write_record(message) | {"application": "sandbox"}})


REGULAR_V2: Final = Api(
    name="regular-v2",
    title="Regular V2",
    prefix="/sms/v2",
    paths={
        "/sms": {"POST": Operation.SEND},
        "/sms/history": {"GET": Operation.HISTORY},
        "/sms/status/{id:path}": {"GET": Operation.STATUS},
    },
    authorization=BEARER,
    read_send=read_send,
    refuse=_refuse,
    write_receipt=write_receipt,
    write_status=_write_status,
    write_history=_write_history,
    make_id=lambda: str(uuid.uuid4()),
)

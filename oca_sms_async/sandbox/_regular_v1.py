"""SMS Regular V1 as the vendor documents it: paths, fields and bodies, in the spelling of the samples."""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final

from oca_sms_async.sandbox._answers import Answer, write_timestamp
from oca_sms_async.sandbox._api import Api, Operation, RawSend
from oca_sms_async.sandbox._authorization import BASIC
from oca_sms_async.sandbox._inbox import Message
from oca_sms_async.sandbox._refusals import Parameter, Refusal, Table, write_refusal

PARAMETERS: Final = {Parameter.PHONE: "phone_number", Parameter.TEXT: "message_body"}  # in errors


def read_send(parameters: Mapping[str, Any]) -> RawSend:
    """Return `phone` and `message`."""
    return RawSend(parameters.get("phone"), parameters.get("message"))


def write_receipt(message: Message) -> Answer:
    """Return the receipt. Its status is that of the vendor's sample."""
    return Answer(200, {"status": "sent", "msg_uid": message.msg_uid})


def _refuse(refusal: Refusal) -> Answer:
    return write_refusal(refusal, Table.V1, PARAMETERS)


def _write_record(message: Message) -> dict[str, Any]:
    return {
        "phone_number": message.phone,
        "message_body": message.text,
        "created_at": write_timestamp(message.created_at),
        "status": message.status,
        "msg_uid": message.msg_uid,
        "total_sms": message.segments,
        "updated_at": write_timestamp(message.updated_at),
    }


def _write_history(messages: Iterable[Message]) -> Answer:
    """Return all records as a bare array."""
    return Answer(200, [_write_record(message) for message in messages])


def _write_status(message: Message) -> Answer:
    """Return one record in an envelope. Only here does it name an application."""
    return Answer(200, {"status": True, "data": _write_record(message) | {"application": "sandbox"}})


REGULAR_V1: Final = Api(
    name="regular-v1",
    title="Regular V1",
    prefix="/api/v1",
    paths={
        "/sms": {"POST": Operation.SEND, "GET": Operation.HISTORY},
        "/sms/status/{id:path}": {"GET": Operation.STATUS},  # an opaque id may hold an escaped slash
    },
    authorization=BASIC,
    read_send=read_send,
    refuse=_refuse,
    write_receipt=write_receipt,
    write_status=_write_status,
    write_history=_write_history,
    make_id=lambda: uuid.uuid4().hex,
    is_default=True,
)

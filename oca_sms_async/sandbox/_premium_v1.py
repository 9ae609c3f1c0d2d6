"""SMS Premium V1 as the vendor documents it: a sender's name, a flat record, and no history."""

import uuid
from collections.abc import Mapping
from typing import Any, Final

from oca_sms_async.sandbox._answers import Answer, write_timestamp
from oca_sms_async.sandbox._api import Api, Operation, RawSend
from oca_sms_async.sandbox._authorization import BASIC
from oca_sms_async.sandbox._inbox import Message
from oca_sms_async.sandbox._refusals import Parameter, Refusal, Table, write_refusal

PARAMETERS: Final = {  # in requests and in errors
    Parameter.PHONE: "receipent_number",  # the vendor's spelling
    Parameter.TEXT: "message_body",
    Parameter.SENDER: "sender_id",
}


def write_status(message: Message) -> Answer:
    """Return a record, flat and without the text."""
    return Answer(
        200,
        {
            "total_sms": message.segments,
            "sender_id": message.sender_id,
            "receipent_number": message.phone,
            "status": message.status,
            "country": "ID",
            "created_at": write_timestamp(message.created_at),
            "updated_at": write_timestamp(message.updated_at),
            "msg_id": message.msg_uid,
        },
    )


def make_id() -> str:
    """Return an id like those of the vendor's samples."""
    return str(uuid.uuid4())


def _read_send(parameters: Mapping[str, Any]) -> RawSend:
    recipient, message, sender = (parameters.get(PARAMETERS[it]) for it in Parameter)
    return RawSend(recipient, message, sender, has_sender=True)


def _refuse(refusal: Refusal) -> Answer:
    return write_refusal(refusal, Table.V1, PARAMETERS)


def _write_receipt(message: Message) -> Answer:
    """Return the receipt. Its `sender_id` is True where other APIs have a status."""
    return Answer(200, {"sender_id": True, "msg_id": message.msg_uid})


PREMIUM_V1: Final = Api(
    name="premium-v1",
    title="Premium V1",
    prefix="/sms/api/v1",
    paths={"/send-otp": {"POST": Operation.SEND}, "/otpstatus/{id:path}": {"GET": Operation.STATUS}},
    authorization=BASIC,
    read_send=_read_send,
    refuse=_refuse,
    write_receipt=_write_receipt,
    write_status=write_status,
    make_id=make_id,
    has_sender=True,
)

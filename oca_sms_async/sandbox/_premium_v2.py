"""SMS Premium V2 as the vendor documents it: Premium V1 with a token, other paths and codes, and another receipt."""

from collections.abc import Mapping
from typing import Any, Final

from oca_sms_async.sandbox._answers import Answer
from oca_sms_async.sandbox._api import Api, Operation, RawSend
from oca_sms_async.sandbox._authorization import BEARER
from oca_sms_async.sandbox._inbox import Message
from oca_sms_async.sandbox._premium_v1 import PARAMETERS, make_id, write_status
from oca_sms_async.sandbox._refusals import Refusal, Table, write_refusal


def _read_send(parameters: Mapping[str, Any]) -> RawSend:
    """Return the parameters. The documentation spells the recipient's in two ways, so either is taken."""
    recipient = parameters.get("receipent_number", parameters.get("recipient_number"))
    return RawSend(recipient, parameters.get("message_body"), parameters.get("sender_id"), has_sender=True)


def _refuse(refusal: Refusal) -> Answer:
    return write_refusal(refusal, Table.V2, PARAMETERS)


def _write_receipt(message: Message) -> Answer:
    return Answer(200, {"success": True, "msg_id": message.msg_uid})


PREMIUM_V2: Final = Api(
    name="premium-v2",
    title="Premium V2",
    prefix="/sms/v2",
    paths={"/send-otp": {"POST": Operation.SEND}, "/otp-status/{id:path}": {"GET": Operation.STATUS}},
    authorization=BEARER,
    read_send=_read_send,
    refuse=_refuse,
    write_receipt=_write_receipt,
    write_status=write_status,
    make_id=make_id,
    has_sender=True,
)

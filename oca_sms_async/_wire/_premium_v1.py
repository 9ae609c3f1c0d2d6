"""SMS Premium V1: one-time passwords with a brand's name as their sender."""

from typing import ClassVar, Final

from attrs import frozen

from oca_sms_async._models import SendReceipt, SmsRecord
from oca_sms_async._wire import _codes
from oca_sms_async._wire._account import Account
from oca_sms_async._wire._converter import (
    Shape,
    Submission,
    read_msg_uid,
    read_receipt_status,
    read_text_or_nothing,
    spell,
)
from oca_sms_async._wire._credentials import basic, wrong_sender
from oca_sms_async._wire._dialect import Dialect

_SUBMISSION: Final = Shape(
    Submission,
    {
        "phone": spell("receipent_number"),  # sic
        "message": spell("message_body"),
        "sender_id": spell("sender_id"),
    },
)
_RECEIPT: Final = Shape(
    SendReceipt,
    {
        "msg_uid": spell("msg_id", read=read_msg_uid),
        "status": spell("status", "success", read=read_receipt_status),  # the sample has neither
    },
)
_RECORD: Final = Shape(
    SmsRecord,
    {
        "msg_uid": spell("msg_id", read=read_msg_uid),
        "phone_number": spell("receipent_number", "recipient_number"),
        "message_body": spell("message_body", read=read_text_or_nothing),  # no record has a text so far
        "status": spell("status"),
        "created_at": spell("created_at"),
        "total_sms": spell("total_sms"),
        "updated_at": spell("updated_at"),
        "application": spell("application"),
    },
    inside="data",  # the sample is flat
)


@frozen(init=False)
class PremiumV1(Account):
    """SMS Premium V1 with the credentials of an account, and `sender_id`, the name that its messages come from.

    A `ValueError` names the argument that cannot be sent. Neither credential is kept as it is, nor shown in the repr.
    """

    _dialect: ClassVar[Dialect] = Dialect(
        name="SMS Premium V1",
        base_url="https://mainapi.ocatelkom.co.id/sms/api/v1",
        send_path="/send-otp",
        history_path=None,
        status_path="/otpstatus/",
        codes=_codes.V1,
        shapes=(_SUBMISSION, _RECEIPT, _RECORD),
    )

    def __init__(self, username: str, password: str, *, sender_id: str) -> None:
        authorization = wrong_sender(sender_id) or basic(username, password)
        del username, password  # an error tracker would show them if the next line raises
        self.__attrs_init__(authorization, sender_id)

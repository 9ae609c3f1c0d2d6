"""SMS Premium V2: as Premium V1, with a token."""

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
from oca_sms_async._wire._credentials import bearer, wrong_sender
from oca_sms_async._wire._dialect import Dialect

_SUBMISSION: Final = Shape(
    Submission,
    {
        # The older page and all answers have the first spelling, the newer page has the second. The gateway ignores
        # a field that it does not know.
        "phone": spell("receipent_number", "recipient_number"),
        "message": spell("message_body"),
        "sender_id": spell("sender_id"),
    },
)
_RECEIPT: Final = Shape(
    SendReceipt,
    {
        "msg_uid": spell("msg_id", read=read_msg_uid),
        "status": spell("status", "success", read=read_receipt_status),  # the sample has `success`, which is true
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
class PremiumV2(Account):
    """SMS Premium V2 with the `token` of the dashboard's text file, with or without `Bearer ` before it.

    `sender_id` is the name that its messages come from. A `ValueError` names the argument that cannot be sent. A token
    that says it has expired is a warning. The token is in no repr and in no pickle.
    """

    _dialect: ClassVar[Dialect] = Dialect(
        name="SMS Premium V2",
        base_url="https://webapigw.ocatelkom.co.id/sms/v2",
        send_path="/send-otp",
        history_path=None,
        status_path="/otp-status/",
        codes=_codes.V2,
        shapes=(_SUBMISSION, _RECEIPT, _RECORD),
    )

    def __init__(self, token: str, *, sender_id: str) -> None:
        authorization = wrong_sender(sender_id) or bearer(token)
        del token  # an error tracker would show it if the next line raises
        self.__attrs_init__(authorization, sender_id)
        del authorization  # a warning can be an error
        self._warn_if_expired()

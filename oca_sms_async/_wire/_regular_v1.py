"""SMS Regular V1. Where its documentation disagrees with itself, each form is read."""

from typing import ClassVar, Final

from attrs import frozen

from oca_sms_async._models import SendReceipt, SmsRecord
from oca_sms_async._wire import _codes
from oca_sms_async._wire._account import Account
from oca_sms_async._wire._converter import Shape, Submission, read_msg_uid, read_receipt_status, spell
from oca_sms_async._wire._credentials import basic
from oca_sms_async._wire._dialect import Dialect

_SUBMISSION: Final = Shape(Submission, {"phone": spell("phone"), "message": spell("message")})
_RECEIPT: Final = Shape(
    SendReceipt,
    {
        "msg_uid": spell("msg_uid", read=read_msg_uid),
        "status": spell("status", "success", read=read_receipt_status),  # the sample's name, and the table's
    },
)
_RECORD: Final = Shape(
    SmsRecord,
    {
        "msg_uid": spell("msg_uid", read=read_msg_uid),
        "phone_number": spell("phone_number"),
        "message_body": spell("message_body"),
        "status": spell("status"),
        "created_at": spell("created_at"),
        "total_sms": spell("total_sms"),
        "updated_at": spell("updated_at"),
        "application": spell("application"),
    },
    inside="data",  # as in the sample; the table has the fields flat
)


@frozen(init=False)
class RegularV1(Account):
    """SMS Regular V1 with the credentials of an account: `username`, an e-mail address, and `password`.

    A `ValueError` names the credential that HTTP Basic cannot carry. Neither is kept as it is, nor shown in the repr.
    """

    _dialect: ClassVar[Dialect] = Dialect(
        name="SMS Regular V1",
        base_url="https://sms.ocatelkom.co.id/api/v1",
        send_path="/sms",
        history_path="/sms",
        status_path="/sms/status/",
        codes=_codes.V1,
        shapes=(_SUBMISSION, _RECEIPT, _RECORD),
    )

    def __init__(self, username: str, password: str) -> None:
        authorization = basic(username, password)
        del username, password  # an error tracker would show them if the next line raises
        self.__attrs_init__(authorization)

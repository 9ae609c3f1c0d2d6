"""SMS Regular V2: the API that the vendor sells today."""

from typing import ClassVar, Final

from attrs import frozen

from oca_sms_async._models import SendReceipt, SmsRecord
from oca_sms_async._wire import _codes
from oca_sms_async._wire._account import Account
from oca_sms_async._wire._converter import Shape, Submission, read_msg_uid, read_receipt_status, spell
from oca_sms_async._wire._credentials import bearer
from oca_sms_async._wire._dialect import Dialect

_SUBMISSION: Final = Shape(Submission, {"phone": spell("phone"), "message": spell("message")})
_RECEIPT: Final = Shape(
    SendReceipt,
    {
        "msg_uid": spell("msg_uid", read=read_msg_uid),
        "status": spell("status", read=read_receipt_status),
    },
)
_RECORD: Final = Shape(
    SmsRecord,
    {
        "msg_uid": spell("msgid", "msg_uid", read=read_msg_uid),  # the record's own name, and the receipt's
        "phone_number": spell("phone_number"),
        "message_body": spell("message_body"),
        "status": spell("status"),
        "created_at": spell("created_at"),
        "total_sms": spell("total_sms"),
        "updated_at": spell("updated_at"),
        "application": spell("application"),
    },
    inside="data",
)


@frozen(init=False)
class RegularV2(Account):
    """SMS Regular V2 with the `token` of the dashboard's text file, with or without `Bearer ` before it.

    A text that cannot be a token is a `ValueError`. A token that says it has expired is a warning. The token is in no
    repr and in no pickle.
    """

    _dialect: ClassVar[Dialect] = Dialect(
        name="SMS Regular V2",
        base_url="https://webapigw.ocatelkom.co.id/sms/v2",
        send_path="/sms",
        history_path="/sms/history",
        status_path="/sms/status/",
        codes=_codes.V2,
        shapes=(_SUBMISSION, _RECEIPT, _RECORD),
    )

    def __init__(self, token: str) -> None:
        authorization = bearer(token)
        del token  # an error tracker would show it if the next line raises
        self.__attrs_init__(authorization)
        del authorization  # a warning can be an error
        self._warn_if_expired()

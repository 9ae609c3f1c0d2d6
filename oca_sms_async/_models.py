"""The values that go to the gateway and come back. Their reprs show neither a text nor a whole number."""

from datetime import datetime

from attrs import field, frozen

from oca_sms_async._phone import mask_phone


@frozen
class Sms:
    """One message of a bulk.

    `phone` is the number in any usual spelling. `message` is the text. `key` is the caller's own identifier for this
    message, if it has one. `expires_at` is an aware datetime, after which the message is not sent. Nothing is checked
    here: sending an impossible message raises `InvalidMessageError`.
    """

    phone: str = field(repr=lambda phone: repr(mask_phone(str(phone))))
    message: str = field(repr=False)
    key: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None


@frozen
class SendReceipt:
    """The gateway took the message.

    `msg_uid` is its opaque id. `status` is its word for the state: «sent», or empty if it gave no word. `attempts`
    counts the requests: above 1 the message may have been delivered more than once.
    """

    msg_uid: str
    status: str
    attempts: int = 1


@frozen
class SmsRecord:
    """The gateway's record of a message: a row of the history, or the detail of one message.

    `phone_number` is written as the gateway writes it (`+62…`). `status` is any word; the gateway has no list of them.
    `created_at` and `updated_at` are aware datetimes, or `None` where the gateway gave no readable date. `total_sms`
    counts segments («per 160 characters»). Only the detail has `application`.
    """

    msg_uid: str
    phone_number: str = field(repr=mask_phone)
    message_body: str = field(repr=False)
    status: str
    created_at: datetime | None
    total_sms: int | None
    updated_at: datetime | None = None
    application: str | None = None

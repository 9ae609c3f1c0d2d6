"""The values that go to the gateway and come back from it; their reprs show neither a text nor a whole number."""

from datetime import datetime

from attrs import field, frozen

from oca_sms_async._phone import mask_phone


@frozen
class Sms:
    """One message of a bulk.

    `phone` in any usual spelling; `message`, the text; `key`, the caller's own name for this message, if there is
    one; `expires_at`, an aware datetime after which it is worth nothing any more. Nothing is checked here: a message
    that cannot be sent is refused, with an `InvalidMessageError`, where it would be sent.
    """

    phone: str = field(repr=lambda phone: repr(mask_phone(str(phone))))
    message: str = field(repr=False)
    key: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None


@frozen
class SendReceipt:
    """The gateway took the message: `msg_uid`, its opaque id; `status`, its word for the state («sent»; empty if it
    gave none); `attempts`, the requests that it took: above 1 the message may have been delivered more than once.
    """

    msg_uid: str
    status: str
    attempts: int = 1


@frozen
class SmsRecord:
    """What the gateway keeps of a message: its history's row, or the detail of one.

    `phone_number` as the gateway writes it (`+62…`); `status` any word, there is no list of them; `created_at` and
    `updated_at` aware, None where the gateway gave none that can be read; `total_sms` in segments («per 160
    characters»); `application` in the detail alone.
    """

    msg_uid: str
    phone_number: str = field(repr=mask_phone)
    message_body: str = field(repr=False)
    status: str
    created_at: datetime | None
    total_sms: int | None
    updated_at: datetime | None = None
    application: str | None = None

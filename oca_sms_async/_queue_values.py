"""The values of a queue: a message on its way in, the entry of a key, counts, and the report of a reconcile."""

from datetime import datetime
from typing import Literal

from attrs import field, frozen

from oca_sms_async._journal import Lookup
from oca_sms_async._models import SendReceipt
from oca_sms_async._phone import mask_phone
from oca_sms_async._waiting import Priority


@frozen
class QueueEntry:
    """The state of one key in a queue.

    `waiting` stands in the queue or is being sent. `sent` has its `receipt`. `failed` certainly was not sent: `error`
    is the name of the error's class and `code` the gateway's code, if it gave one. `unknown` may have been sent, and is
    never sent again by itself.
    """

    status: Literal["waiting", "sent", "failed", "unknown"]
    receipt: SendReceipt | None = None
    error: str | None = None
    code: int | None = None


@frozen
class QueueStatistics:
    """The counts of a queue at one moment.

    `waiting_interactive` and `waiting_bulk` count the messages that wait, by lane. `working` counts those that workers
    have taken. `oldest_age` is the age in seconds of the oldest message of all these, `None` for an empty queue.
    """

    waiting_interactive: int
    waiting_bulk: int
    working: int
    oldest_age: float | None


@frozen
class QueueReconcileReport:
    """The doubtful messages of a queue after a look into the gateway's history, counted.

    `found` are in the history, so they were sent. `doubtful` are not in it, which proves nothing. The queue has no
    number and no text of either any more.
    """

    found: int
    doubtful: int


@frozen
class Checked:
    """A message whose parts have passed their checks. `phone` is in E.164."""

    phone: str = field(repr=mask_phone)
    message: str = field(repr=False)
    key: str = field(repr=False)
    expires_at: datetime | None
    priority: Priority


@frozen
class Queued:
    """A message that a worker has taken, and the journal's answer about it at that time."""

    message: Checked
    lookup: Lookup

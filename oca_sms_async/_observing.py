"""The observer of a client: a callable of the user's, told of every send that ended."""

from collections.abc import Callable

from attrs import frozen

from oca_sms_async._call import CallState
from oca_sms_async._errors import OcaSmsError
from oca_sms_async._log import log
from oca_sms_async._waiting import Priority


@frozen
class SendEvent:
    """One send that ended: a single one, or a message of a bulk or a queue. It holds no number, text or credential.

    `sent` is True if the gateway gave a receipt. `error` is the error otherwise, `None` for a cancelled send.
    `may_have_been_sent` and `attempts` are those of the whole send. `waited` is how many
    seconds it waited for slots and tokens. `took` is its whole length in seconds.
    """

    sent: bool
    error: OcaSmsError | None
    may_have_been_sent: bool
    attempts: int
    priority: Priority
    waited: float
    took: float


Observer = Callable[[SendEvent], None]


def tell(observer: Observer, call: CallState, end: BaseException | None, priority: Priority, took: float) -> None:
    """Tell the observer of a send. An exception of its own is logged, and changes nothing."""
    event = SendEvent(
        sent=end is None,
        error=end if isinstance(end, OcaSmsError) else None,
        may_have_been_sent=end is None or call.may_have_been_sent,
        attempts=call.attempts,
        priority=priority,
        waited=call.waited,
        took=took,
    )
    try:
        observer(event)
    except Exception as error:  # noqa: BLE001 - an observer is a user's code, and a send must not end by it
        log("observer.failed", reason=type(error).__name__)

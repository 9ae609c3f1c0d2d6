"""The observer of a client: a callable of the user's, told of every send that ended."""

import asyncio
import inspect
from collections.abc import Callable

from attrs import frozen

from oca_sms_async._call import CallState
from oca_sms_async._errors import OcaSmsError
from oca_sms_async._log import log
from oca_sms_async._statistics import Statistics
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


def attach(observer: Observer | None, statistics: Callable[[], Statistics]) -> None:
    """Check an observer, and show it a client's statistics if it has the method `watch_statistics`.

    The observer of `metrics_observer` has it, for its gauges. `TypeError` for an observer that cannot be called, or
    that would have to be awaited.
    """
    if observer is None:
        return
    if not callable(observer):
        raise TypeError("observer must be a function that takes a SendEvent")
    if any(map(inspect.iscoroutinefunction, (observer, type(observer).__call__))):
        raise TypeError("observer must be a plain function: a send does not await it")
    if (watch := getattr(observer, "watch_statistics", None)) is not None:
        watch(statistics)


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
    # An observer is a user's code, and a send must not end by it. A real cancellation cannot come here, where nothing
    # is awaited.
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
        log("observer.failed", reason=type(error).__name__)

"""One call of the user's: the options that it was made with, and the state that its attempts add up to."""

from collections.abc import Awaitable, Callable

from attrs import define, field

from oca_sms_async._deadline import Deadline
from oca_sms_async._errors import OcaSmsError
from oca_sms_async._waiting import Priority


# Calls are not compared, and each method costs a part of the import. Nothing changes the options, but to freeze them
# would cost each message a microsecond.
@define(eq=False)
class CallOptions:
    """The demands of one call.

    `priority` is its lane. `seconds` bounds one attempt in total. `deadline` is its end, `None` for no end. `number` is
    the recipient's, for the log. `until` is the deadline in the loop's time, to wait by.
    """

    priority: Priority
    seconds: float
    deadline: Deadline | None = None
    number: str | None = field(default=None, repr=False)
    until: float | None = field(init=False)

    @until.default
    def _until(self) -> float | None:
        return None if self.deadline is None else self.deadline.loop_time


async def _go_on() -> None:
    """Let the first request start."""


def _ignore(_: OcaSmsError) -> None:
    """Take no note."""


@define(eq=False)  # as above
class CallState:
    """The attempts of one call so far, and whether one of them may have been taken.

    Doubt begins when a request starts. Only an error that proves the opposite takes it back; a cancellation, a Ctrl-C
    or an exception from elsewhere proves nothing. `before_first_send` is awaited once, after the first token and
    before the first byte. `on_error` hears each attempt's error as it comes. `sends` is False for a call that only
    asks. `attempts` counts the requests that were started, and
    `waited` adds up the seconds that they waited for their slots and tokens.
    """

    before_first_send: Callable[[], Awaitable[None]] = _go_on
    on_error: Callable[[OcaSmsError], None] = _ignore
    sends: bool = True
    attempts: int = 0
    waited: float = 0.0
    in_flight: bool = False
    last_error: OcaSmsError | None = None
    is_cut: bool = False
    is_replay: bool = False
    _doubt: bool = False
    _unproven: bool = False

    @property
    def may_have_been_sent(self) -> bool:
        """True as soon as one attempt may have been taken, whatever came after it."""
        return self.sends and (self._doubt or self._unproven)

    def record_by(self, record: Callable[[], Awaitable[None]]) -> None:
        """Have `record` awaited before the first byte: it writes the intent to a journal."""
        self.before_first_send = record

    def replay(self) -> None:
        """The journal has the receipt of an earlier send; nothing was sent."""
        self.is_replay = True

    def started(self) -> None:
        """A request starts: from now on the message is in doubt."""
        self.attempts += 1
        self.in_flight = self._unproven = True

    def left_wire(self) -> None:
        """The request is over, however it ended."""
        self.in_flight = False

    def failed(self, error: OcaSmsError) -> None:
        """An attempt has failed, and its error says whether it may have been taken."""
        self.doubt(error, because=error.may_have_been_sent)
        self._unproven = False
        self.on_error(error)

    def doubt(self, error: OcaSmsError, *, because: bool = True) -> None:
        """Remember an error; one of an earlier run leaves doubt before this call has started anything."""
        self.last_error = error
        self._doubt = self._doubt or because

    def cut(self) -> None:
        """No further attempt follows the one that is under way."""
        self.is_cut = True

    def conclude(self, error: OcaSmsError) -> OcaSmsError:
        """Return the error with which the call ends, after it was told to answer for all attempts."""
        error.attempts = self.attempts
        error.may_have_been_sent = self.sends and (self.may_have_been_sent or error.may_have_been_sent)
        return error

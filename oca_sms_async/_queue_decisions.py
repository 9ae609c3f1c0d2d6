"""The decision about a message whose send ended in an error: again later, or done."""

from enum import Enum, auto
from typing import Final

from oca_sms_async._errors import (
    AccountError,
    ConnectionFailedError,
    JournalError,
    LimiterUnavailableError,
    OcaSmsError,
    RateLimitedError,
)

# None of these is the message's fault.
_NOT_ITS_OWN: Final = (
    AccountError,
    ConnectionFailedError,
    JournalError,
    LimiterUnavailableError,
    RateLimitedError,
)


class Decision(Enum):
    """`LATER` certainly was not sent, and is tried again. `FAILED` certainly was not sent. `DOUBT` may have been."""

    LATER = auto()
    FAILED = auto()
    DOUBT = auto()


def decide(error: OcaSmsError) -> Decision:
    """Return the decision about a message."""
    if error.may_have_been_sent:
        return Decision.DOUBT
    return Decision.LATER if isinstance(error, _NOT_ITS_OWN) else Decision.FAILED


class Pause:
    """The pause of a whole worker, after a trouble that is not one message's: it grows until a message gets through.

    A refused account pauses for longer than a gateway or a server that is away, for somebody has to repair it.
    """

    _FIRST: Final = (1.0, 30.0)  # seconds: after other troubles, and after a refused account
    _LONGEST: Final = (60.0, 300.0)

    def __init__(self) -> None:
        self._until = 0.0
        self._times = 0

    def left(self, now: float) -> float:
        """Return how many seconds of the pause are left."""
        return max(0.0, self._until - now)

    def begin(self, error: OcaSmsError, now: float) -> bool:
        """Begin a pause, and return whether there was none: messages under way together fail together."""
        if self.left(now):
            return False
        account = isinstance(error, AccountError)
        seconds = min(self._FIRST[account] * 2**self._times, self._LONGEST[account])
        if isinstance(error, RateLimitedError):
            seconds = max(seconds, error.retry_after or 0.0)
        self._times = min(self._times + 1, 30)
        self._until = now + seconds
        return True

    def end(self) -> None:
        """A message got through: the next pause is a short one."""
        self._times = 0

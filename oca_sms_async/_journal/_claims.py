"""The messages of a journal's file that are being sent: which lookup took each one, and for how long others wait."""

import contextlib
import time
from collections.abc import Iterator

from oca_sms_async._journal._values import Lookup


class Claims:
    """The claimed messages by identity. They are this process' alone, for no other one has the file open."""

    def __init__(self) -> None:
        self._claims = dict[str, tuple[Lookup, float]]()  # the end of the time in which the sender may be at work

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep all changes of the block, or none if it raises."""
        before = self._claims.copy()
        try:
            yield
        except BaseException:
            self._claims = before
            raise

    def take(self, identity: str, claimer: Lookup, seconds: float) -> None:
        """Give a message to the sender that looked it up."""
        self._claims[identity] = claimer, time.monotonic() + seconds

    def release(self, identity: str) -> None:
        """Note that a message's sender has ended."""
        del self._claims[identity]

    def is_of(self, identity: str, claimer: Lookup) -> bool:
        """Tell whether a message was given to the sender of this lookup, and to no other one since."""
        return self._claims.get(identity, (None, 0.0))[0] is claimer

    def busy_for(self, identity: str) -> float:
        """Return the seconds for which the sender of a message may still be at work."""
        _, until = self._claims.get(identity, (None, 0.0))
        return max(0.0, until - time.monotonic())

    def busy(self) -> list[str]:
        """Return the messages whose senders may still be at work."""
        return [identity for identity in self._claims if self.busy_for(identity)]

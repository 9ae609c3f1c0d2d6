"""The waiters of an inbox, counted through its public face."""

from concurrent.futures import Future

import pytest

from oca_sms_async.sandbox import Inbox


class Watches:
    """The futures that `inbox.change()` has given since this was made."""

    def __init__(self, inbox: Inbox, patch: pytest.MonkeyPatch) -> None:
        self._given: list[Future[None]] = []
        change = inbox.change

        def give() -> Future[None]:
            self._given.append(change())
            return self._given[-1]

        patch.setattr(inbox, "change", give)

    @property
    def given(self) -> int:
        """Their number."""
        return len(self._given)

    @property
    def open(self) -> int:
        """The number of those that are neither done nor cancelled."""
        return sum(not future.done() for future in self._given)

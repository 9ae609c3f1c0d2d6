"""Announcements between threads: a future for each waiter, done with the next change."""

from concurrent.futures import Future


class Changes:
    """The waiters for the next change, in any thread and event loop."""

    def __init__(self) -> None:
        self._waiting: set[Future[None]] = set()

    def next(self) -> Future[None]:
        """Return a future that is done with the next change. Cancel it to stop waiting."""
        change = Future[None]()
        self._waiting.add(change)
        change.add_done_callback(self._waiting.discard)
        return change

    def announce(self) -> None:
        """End the waiting of all."""
        for change in list(self._waiting):
            if change.set_running_or_notify_cancel():
                change.set_result(None)

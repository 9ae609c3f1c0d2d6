"""A question to a socket."""

import select
from typing import Any


def is_readable(sock: Any) -> bool:
    """Tell whether the system holds bytes or the end of a connection that the loop has not read yet."""
    number = sock.fileno()
    if number < 0:
        return True
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([number], [], [], 0)[0])
    poll = select.poll()  # select() itself takes no number above 1,023
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))

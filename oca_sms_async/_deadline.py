"""The moment from which on a message is not sent, on clocks that go on while the machine is suspended.

The loop's clock is CLOCK_MONOTONIC, which stands still in suspend on Linux. A laptop that slept for an hour would send
an OTP an hour late. So a deadline has two readings: `loop_time` to wait by, and `has_passed` to ask right before the
first byte.
"""

import asyncio
import math
import sys
import time
from datetime import datetime, timedelta
from typing import Final

from attrs import evolve, frozen

from oca_sms_async._errors import InvalidMessageError

_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", None)
_SUSPEND: Final = (
    1.0  # seconds by which the clocks must differ: less is no suspend, but a loop whose clock a test moves
)


@frozen
class Deadline:
    """A moment on each clock. The first that is reached counts.

    `loop_time` is in the loop's time, `boot_time` in that of `read_boot_clock`, `wall_time` in Unix time. A
    duration has no moment on the wall clock, which may be set.
    """

    loop_time: float
    boot_time: float
    wall_time: float = math.inf

    def has_passed(self) -> bool:
        """Tell whether it is too late, also after a suspend that the loop's clock did not notice."""
        return (
            asyncio.get_running_loop().time() >= self.loop_time
            or read_boot_clock() >= self.boot_time + _SUSPEND
            or time.time() >= self.wall_time
        )


def find_deadline(
    *, expires_in: float | timedelta | None = None, expires_at: datetime | None = None
) -> Deadline | None:
    """Return the deadline of a message, the earlier one of two, or `None` without any.

    `expires_in` is in seconds from now, or a timedelta. `expires_at` is an aware datetime. The deadline may have
    passed already: a journal can still know the message. `InvalidMessageError` for a value that is no duration or no
    aware datetime.
    """
    found = [] if expires_in is None else [_after(_check_seconds(expires_in))]
    if expires_at is not None:
        found.append(_at(_check_moment(expires_at)))
    if not found:
        return None
    return Deadline(
        loop_time=min(it.loop_time for it in found),
        boot_time=min(it.boot_time for it in found),
        wall_time=min(it.wall_time for it in found),
    )


def read_boot_clock() -> float:
    """Return the seconds of a clock that goes on in suspend: time since boot, or else the wall clock."""
    return time.time() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)


def _check_seconds(expires_in: float | timedelta) -> float:
    seconds = expires_in.total_seconds() if isinstance(expires_in, timedelta) else expires_in
    # Not math.isfinite: it raises OverflowError for an integer that is too large for a float.
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not abs(seconds) <= sys.float_info.max:
        raise InvalidMessageError("expires_in must be a finite number of seconds, or a timedelta")
    return seconds


def _check_moment(expires_at: datetime) -> datetime:
    if not isinstance(expires_at, datetime) or expires_at.utcoffset() is None:
        raise InvalidMessageError("expires_at must be an aware datetime: give it a tzinfo")
    return expires_at


def _after(seconds: float) -> Deadline:
    return Deadline(asyncio.get_running_loop().time() + seconds, read_boot_clock() + seconds)


def _at(moment: datetime) -> Deadline:
    return evolve(_after(moment.timestamp() - time.time()), wall_time=moment.timestamp())

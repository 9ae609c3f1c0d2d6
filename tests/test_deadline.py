"""Deadlines: when they are reached, on each of their clocks, and the values that make none."""

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError
from virtual_time import in_virtual_time

from oca_sms_async import InvalidMessageError, _deadline
from oca_sms_async._deadline import Deadline, find_deadline, read_boot_clock


class Clocks:
    """The boot clock and the wall clock, which a test moves; the loop's clock is virtual."""

    boot = 5000.0
    wall = 1_750_000_000.0

    def suspend(self, seconds: float) -> None:
        """Let the machine sleep: the loop's clock stands still."""
        self.boot += seconds
        self.wall += seconds

    @property
    def date(self) -> datetime:
        """The date on the wall clock."""
        return datetime.fromtimestamp(self.wall, UTC)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Return clocks in place of the machine's."""
    clocks = Clocks()
    monkeypatch.setattr(_deadline, "read_boot_clock", lambda: clocks.boot)
    monkeypatch.setattr(time, "time", lambda: clocks.wall)
    return clocks


def deadline_of(**expiry: Any) -> Deadline:
    """Return the deadline of a message that has one."""
    deadline = find_deadline(**expiry)
    assert deadline is not None
    return deadline


def test_no_expiry_has_no_deadline() -> None:
    """A message without expiry has no deadline."""
    assert find_deadline() is None


@in_virtual_time
async def test_a_duration_counts_on_the_loops_clock(clocks: Clocks) -> None:
    """A duration, in seconds or as a timedelta, ends after that time of the loop, and not before."""
    for expires_in in (120, 120.0, timedelta(minutes=2)):
        start = asyncio.get_running_loop().time()
        deadline = deadline_of(expires_in=expires_in)
        assert deadline == Deadline(start + 120, clocks.boot + 120)
        await asyncio.sleep(119)
        assert not deadline.has_passed()
        await asyncio.sleep(1)
        assert deadline.has_passed()


@in_virtual_time
async def test_a_date_counts_on_the_loops_clock(clocks: Clocks) -> None:
    """A date in any time zone is so many seconds away."""
    start = asyncio.get_running_loop().time()
    for offset in (0, 7, -11):
        date = (clocks.date + timedelta(seconds=90)).astimezone(timezone(timedelta(hours=offset)))
        assert deadline_of(expires_at=date) == Deadline(start + 90, clocks.boot + 90, clocks.wall + 90)


@pytest.mark.parametrize("kind", ["duration", "date"])
def test_a_deadline_passes_while_the_machine_is_suspended(kind: str, clocks: Clocks) -> None:
    """After a suspend it is too late, although the loop's clock has not moved."""

    @in_virtual_time
    async def check() -> None:
        duration, date = {"expires_in": 120}, {"expires_at": clocks.date + timedelta(seconds=120)}
        deadline = deadline_of(**(duration if kind == "duration" else date))
        clocks.suspend(119)
        assert not deadline.has_passed()
        clocks.suspend(2)
        assert deadline.has_passed()
        assert asyncio.get_running_loop().time() == deadline.loop_time - 120

    check()


@in_virtual_time
async def test_a_date_follows_the_wall_clock_and_a_duration_does_not(clocks: Clocks) -> None:
    """Setting the wall clock brings a date nearer, and leaves a duration as it is."""
    duration, date = deadline_of(expires_in=120), deadline_of(expires_at=clocks.date + timedelta(seconds=120))
    clocks.wall += 120
    assert (duration.has_passed(), date.has_passed()) == (False, True)


@in_virtual_time
async def test_a_clock_that_is_set_back_does_not_extend_a_date(clocks: Clocks) -> None:
    """A date is reached on the first clock that reaches it."""
    deadline = deadline_of(expires_at=clocks.date + timedelta(seconds=120))
    clocks.wall -= 3600
    await asyncio.sleep(120)
    assert deadline.has_passed()


@pytest.mark.parametrize(("seconds", "away"), [(60, 60), (3600, 120)])
def test_the_earlier_of_two_counts(seconds: float, away: float, clocks: Clocks) -> None:
    """With a duration and a date, the earlier one is the deadline on every clock."""

    @in_virtual_time
    async def check() -> None:
        start = asyncio.get_running_loop().time()
        date = clocks.date + timedelta(seconds=120)
        deadline = deadline_of(expires_in=seconds, expires_at=date)
        assert deadline == Deadline(start + away, clocks.boot + away, clocks.wall + 120)

    check()


@pytest.mark.parametrize("expires_in", [0, -1, -1e300, timedelta(), timedelta(seconds=-1), -(10**300)])
async def test_a_past_duration_has_expired(expires_in: Any) -> None:
    """A duration that is not above 0 is a deadline that has passed."""
    deadline = find_deadline(expires_in=expires_in)
    assert deadline is not None
    assert deadline.has_passed()


@in_virtual_time
async def test_a_past_date_has_expired(clocks: Clocks) -> None:
    """A date that is not in the future is a deadline that has passed."""
    for date in (clocks.date, clocks.date - timedelta(days=365), datetime.min.replace(tzinfo=UTC)):
        deadline = find_deadline(expires_at=date)
        assert deadline is not None
        assert deadline.has_passed()


@pytest.mark.parametrize("offset", [-23, 0, 23])
def test_the_last_date_of_all_is_far_away(offset: int) -> None:
    """A date at the end of the calendar is a deadline, in any time zone."""

    @in_virtual_time
    async def check() -> None:
        date = datetime.max.replace(tzinfo=timezone(timedelta(hours=offset)))
        assert not deadline_of(expires_at=date).has_passed()

    check()


@pytest.mark.parametrize(
    "expires_in", [float("nan"), float("inf"), -float("inf"), True, "120", b"1", 10**400, -(10**400), [120]]
)
def test_other_values_are_no_durations(expires_in: Any) -> None:
    """A value that is no finite number of seconds is refused by name."""
    with pytest.raises(InvalidMessageError, match=r"^expires_in must be a finite number of seconds"):
        find_deadline(expires_in=expires_in)


@pytest.mark.parametrize(
    "expires_at",
    [datetime(2120, 1, 1), 5.0, "2120-01-01T00:00Z", datetime(2120, 1, 1, tzinfo=UTC).date(), True],  # noqa: DTZ001 - wrong
)
def test_other_values_are_no_dates(expires_at: Any) -> None:
    """A value that is no aware datetime is refused by name."""
    with pytest.raises(InvalidMessageError, match=r"^expires_at must be an aware datetime"):
        find_deadline(expires_at=expires_at)


def test_a_deadline_is_frozen() -> None:
    """A deadline cannot be moved."""
    with pytest.raises(FrozenInstanceError):
        Deadline(1.0, 1.0).loop_time = 2.0  # type: ignore[misc] # the test is that this is impossible


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts a suspend")
def test_the_boot_clock_goes_on_in_suspend() -> None:
    """The boot clock is the system's own, which counts the time of a suspend."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= read_boot_clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_without_a_boot_clock_the_wall_clock_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without that clock falls back on the wall clock, which goes on in suspend too."""
    monkeypatch.setattr(_deadline, "_BOOT_CLOCK", None)
    monkeypatch.setattr(time, "time", lambda: 1_750_000_000.0)
    assert read_boot_clock() == 1_750_000_000.0

"""The progress of a bulk: the rows that count as done, the time left, and the bar on a terminal."""

import io
import itertools
import os
import re
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
from campaign_files import make_row, spell_e164, write_campaign, write_csv
from command import account, environment, resize, run_on_terminal

from oca_sms_async import AccountError, DeliveryUnknownError, Failed, Outcome, SendReceipt, Sent, Skipped, Sms
from oca_sms_async.cli._console import ForgivingStream
from oca_sms_async.cli._progress import Tally
from oca_sms_async.sandbox import Sandbox

SMS = Sms(spell_e164(1), "Halo")
SENT = Sent(SMS, SendReceipt("uid", "sent"))
REPEATED = Skipped(SMS, None)
EARLIER = Skipped(SMS, None, SendReceipt("uid", "sent"))


def test_a_screen_outlives_the_stream_below_it() -> None:
    """Python flushes a stream that is thrown away, and from 3.13 on it shows the error of a closed one below."""
    below = io.TextIOWrapper(io.BytesIO())
    screen = ForgivingStream(below)
    screen.write("text")
    below.close()
    screen.close()
    assert screen.closed


def test_rows_that_the_run_gave_up_are_not_done() -> None:
    """Skipped rows are done as far as they repeat others, and unsent as far as the run gave them up."""
    tally = Tally(total=10, to_send=7, passed=2)
    given_up = [Skipped(SMS, AccountError(401))] * 5
    outcomes: list[Outcome] = [SENT, EARLIER, Failed(SMS, DeliveryUnknownError("no answer")), REPEATED, REPEATED]
    for outcome in outcomes:
        tally.note(outcome)
    assert (tally.done, tally.unsent) == (5, 5)
    for outcome in given_up:
        tally.note(outcome)
    assert (tally.done, tally.unsent, tally.skipped) == (5, 5, 7)


def test_time_left_is_about_the_rows_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a resume the time left comes from the rows that are sent now, not from those that the journal knows."""
    moments = itertools.count(1000.0, 0.5)
    tally = Tally(total=100, to_send=20)
    for _ in range(80):
        tally.note(EARLIER)
    assert tally.time_left() is None
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: next(moments))
        for _ in range(5):
            tally.note(SENT)
        # The clock was read at the first row, and now; so five rows took half a second.
        assert tally.time_left() == timedelta(seconds=round(15 / (4 / 0.5)))


def read_frames(output: str) -> list[str]:
    """Return the lines of a bar as they were drawn one over the other, without colours."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)
    return [part for part in re.split(r"[\r\n]", plain) if re.search(r"\d/\d+", part)]


def test_a_bar_fits_a_terminal_that_is_made_narrower(served: Sandbox, tmp_path: Path) -> None:
    """The bar takes at most 79 columns, and after a resize no more than there are: it leaves no debris."""

    def narrow(pid: int, terminal: int) -> None:
        resize(terminal, 50)
        os.kill(pid, signal.SIGWINCH)

    command = ["bulk", str(write_campaign(tmp_path / "rows.csv", 150)), "--rate", "100"]
    ended = run_on_terminal(command, environment(**account(served)), {r"[2-4]\d/150": narrow}, width=200)
    assert ended.status == 0
    frames = read_frames(ended.out)
    assert max(map(len, frames)) <= 79
    assert len(frames) > 5
    last = [len(frame) for frame in frames[len(frames) // 2 :]]
    assert max(last) <= 50


def test_a_stopped_bar_is_not_full(served: Sandbox, tmp_path: Path) -> None:
    """A run that stops shows how far it came."""
    served.quota = 3
    command = ["bulk", str(write_campaign(tmp_path / "rows.csv", 40)), "--rate", "1000", "--concurrency", "1"]
    ended = run_on_terminal(command, environment(**account(served)))
    assert ended.status == 3
    assert "4/40 3 sent, 1 failed" in read_frames(ended.out)[-1]


def test_the_check_of_a_file_shows_a_bar(tmp_path: Path) -> None:
    """On a terminal the check of a long file shows how far it is; then the bar is gone."""
    file = write_csv(tmp_path / "rows.csv", *(make_row(number % 10_000) for number in range(30_000)))
    ended = run_on_terminal(["bulk", str(file), "--dry-run"], environment())
    assert ended.status == 0
    shares = [int(share) for share in re.findall(r"checking.*?(\d+)%", ended.out)]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2
    assert "\x1b[2K" in ended.out.rpartition("checking")[2]

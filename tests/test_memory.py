"""The memory of a campaign and of its journal's index does not grow with the input."""

import csv
import gc
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final, cast

import pytest

from oca_sms_async import AsyncOcaSms, Outcome, SendReceipt, Sms, SqliteJournal
from oca_sms_async._bulk import BulkRun
from oca_sms_async._call import CallState
from oca_sms_async._journal import JournalRun
from oca_sms_async.cli._campaign import Campaign
from oca_sms_async.cli._out import OutcomesFile


class Instant:
    """A stand-in for a client: each send of its bulk succeeds at once."""

    def bulk(self, messages: Any, *, concurrency: int, journal: SqliteJournal, resend_unknown: bool) -> BulkRun:
        """Return a bulk with that journal."""
        run = JournalRun(journal, lambda phone: phone, resend_unknown=resend_unknown)
        return BulkRun(self._send, messages, concurrency, run)

    async def _send(self, sms: Sms, call: CallState) -> SendReceipt:
        await call.before_first_send()
        return SendReceipt(sms.phone, "sent")


async def measure_peak(folder: Path, rows: int) -> int:
    """Return the most blocks of memory that a campaign over so many rows added to the process."""
    path = folder / f"{rows}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["phone", "message"])
        writer.writerows([f"+62812{row:08}", f"Acme: {row:06} is your code"] for row in range(rows))
    gc.collect()
    start = most = sys.getallocatedblocks()
    with path.open("rb") as stream, closing(OutcomesFile(folder / f"{rows}.out", show_numbers=False)) as out:
        async with SqliteJournal(folder / f"{rows}.journal") as journal:
            campaign = Campaign(stream, None, journal)

            def note(outcome: Outcome) -> None:
                nonlocal most
                out.note(outcome)
                most = max(most, sys.getallocatedblocks())

            out.keep()
            await campaign.run(cast(AsyncOcaSms, Instant()), note, concurrency=16, resend_unknown=False)
    assert len((folder / f"{rows}.out").read_text().splitlines()) == rows
    return most - start


async def test_a_campaign_over_ten_times_the_rows_takes_no_more_memory(tmp_path: Path) -> None:
    """A campaign over 20,000 rows takes less than one block for every tenth row more than one over 2,000."""
    short, long = await measure_peak(tmp_path, 2_000), await measure_peak(tmp_path, 20_000)
    assert long < short + 1_800


STATUS: Final = Path("/proc/self/status")

TOUCH = """
import pathlib, sys
from oca_sms_async._journal._index import Index
from oca_sms_async._journal._records import Record

def peak():
    lines = pathlib.Path(sys.argv[1]).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

index = Index()
index.fill(Record(f"{at:032x}", "0" * 32, "sent", 1, 1.0, 2.0).encode().encode() for at in range(50_000))
before = peak()
with index.transaction():
    for at in range(0, 50_000, 10):
        index.touch(f"{at:032x}", 1)
print(peak() - before)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells the peak of a process that began as a fork")
def test_a_change_of_many_messages_takes_no_memory_for_their_pages() -> None:
    """A transaction that changes each page of an index of 10 MB takes less than 3 MB."""
    command = [sys.executable, "-c", TOUCH, str(STATUS)]
    child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert int(child.stdout) < 3_000

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

BEGIN: Final = """
import hashlib, pathlib, sys
from oca_sms_async._journal._index import Index
from oca_sms_async._journal._records import Record

def read(file, *names):
    lines = pathlib.Path("/proc/self", file).read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(names))
"""

TOUCH: Final = """
index = Index()
index.fill(Record(f"{at:032x}", "0" * 32, "sent", 1, 1.0, 2.0).encode().encode() for at in range(50_000))
before = read("status", "VmHWM")
with index.transaction():
    for at in range(0, 50_000, 10):
        index.get(f"{at:032x}")
        index.touch(f"{at:032x}", 1)
print(read("status", "VmHWM") - before)
"""

SEND: Final = """
index, sent = Index(), 6_400
identities = [hashlib.blake2b(b"%d" % at, digest_size=16).hexdigest() for at in range(60_000)]
index.fill(Record(identity, "0" * 32, "unsent").encode().encode() for identity in identities)
before = read("io", "rchar", "wchar")
for at in range(0, sent, 64):
    with index.transaction():
        for identity in identities[at : at + 64]:
            record, run = index.get(identity)
            index.put(record._replace(status="sent", msg_uid=identity[:12], word="sent"), run)
print((read("io", "rchar", "wchar") - before) // sent)
"""

TABLES: Final = """
from oca_sms_async.cli._line_starts import LineStarts
from oca_sms_async.cli._seen import SeenTable

seen, starts = SeenTable(), LineStarts()
before = read("status", "VmHWM")
for at in range(200_000):
    seen.see(6281200000000 + at * 7919 % 200_003, at)
    starts.add(at + 1, 100 * at)
print(read("status", "VmHWM") - before)
seen.close()
starts.close()
"""


def run_child(script: str) -> int:
    """Run a script in a process of its own, and return the number that it prints."""
    command = [sys.executable, "-c", BEGIN + script]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


only_linux = pytest.mark.skipif(
    not STATUS.exists(), reason="only Linux tells the peak of a process that began as a fork"
)


@only_linux
def test_a_change_of_many_messages_takes_no_memory_for_their_pages() -> None:
    """A transaction that changes each page of an index of 10 MB takes less than 3 MB."""
    assert run_child(TOUCH) < 3_000


@only_linux
def test_a_message_of_a_long_list_costs_no_page_of_its_own() -> None:
    """Messages that are sent in the order of a long list share the pages of the index: 2 kB are moved for each at most.

    A page has 4 kB. One of each message's own would be read and written several times.
    """
    assert run_child(SEND) < 2_000


@only_linux
def test_the_tables_of_a_long_file_are_on_a_disk() -> None:
    """The numbers of 200,000 rows and the places of their lines take less than 6 MB; in memory it would be 15."""
    assert run_child(TABLES) < 6_000

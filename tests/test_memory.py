"""Memory stays flat, however long the input is."""

import csv
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any, cast

from oca_sms_async import AsyncOcaSms, Outcome, SendReceipt, Sms, SqliteJournal
from oca_sms_async._bulk import BulkRun
from oca_sms_async._call import CallState
from oca_sms_async._journal import JournalRun
from oca_sms_async.cli._campaign import Campaign
from oca_sms_async.cli._out import OutcomesFile


class Instant:
    """Has a client's `bulk`, whose sends succeed at once."""

    def bulk(self, messages: Any, *, concurrency: int, journal: SqliteJournal, resend_unknown: bool) -> Any:
        """Return a bulk with that journal."""
        recording = JournalRun(journal, lambda phone: phone, resend_unknown=resend_unknown)
        return cast(
            AbstractAsyncContextManager[AsyncIterator[Outcome]], BulkRun(self._send, messages, concurrency, recording)
        )

    async def _send(self, sms: Sms, call: CallState) -> SendReceipt:
        await call.before_first_send()
        return SendReceipt(sms.phone, "sent")


async def peak(folder: Path, rows: int) -> int:
    """Return by how many blocks of memory Python grew, at the most, in a campaign over so many rows."""
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

            await campaign.rebuild(out)
            await campaign.run(cast(AsyncOcaSms, Instant()), note, concurrency=16, resend_unknown=False)
    assert len((folder / f"{rows}.out").read_text().splitlines()) == rows
    return most - start


async def test_a_campaign_over_ten_times_the_rows_takes_no_more_memory(tmp_path: Path) -> None:
    """Looking up, sending and recording 20,000 rows takes what 2,000 take: not one block more for every tenth row."""
    short, long = await peak(tmp_path, 2_000), await peak(tmp_path, 20_000)
    assert long < short + 1_800

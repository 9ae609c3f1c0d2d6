"""The cost of a journal: `oca-sms bulk`'s own passes over files of growing length, with a send that takes no time.

Each length has a process of its own. Rows per second: looking every row up, sending with the journal and the file of
outcomes (each intent and each outcome durable), and resuming (but not the longest, to end within a minute). Growth is
of the process' peak memory, from before the first row; the send itself costs nothing here.
"""

import asyncio
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any, cast

from table import show
from workload import peak

from oca_sms_async import AsyncOcaSms, Journal, Outcome, SendReceipt, Sms, SqliteJournal
from oca_sms_async._bulk import BulkRun
from oca_sms_async._call import CallState
from oca_sms_async._journal import JournalRun
from oca_sms_async.cli._campaign import Campaign
from oca_sms_async.cli._out import OutcomesFile

ROWS = (2_000, 20_000, 200_000)
CONCURRENCY = 64


class Instant:
    """A stand-in for a client: each send of its bulk succeeds at once."""

    def bulk(self, messages: Any, *, concurrency: int, journal: Journal, resend_unknown: bool) -> Any:
        """Return a bulk with that journal."""
        recording = JournalRun(journal, lambda phone: phone, resend_unknown=resend_unknown)
        return cast(
            AbstractAsyncContextManager[AsyncIterator[Outcome]], BulkRun(send, messages, concurrency, recording)
        )


async def send(sms: Sms, call: CallState) -> SendReceipt:
    """Go the way of a real send, without a slot, a token or a request."""
    await call.before_first_send()
    call.started()
    call.left_wire()
    return SendReceipt(sms.phone, "sent")


async def measure(count: int) -> dict[str, float | None]:
    """Measure a file of one length."""
    with tempfile.TemporaryDirectory(prefix="oca-sms-") as folder:
        path = Path(folder) / "messages.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["phone", "message"])
            writer.writerows([f"+62812{row:08}", f"Acme: {row:06} is your code"] for row in range(count))
        journal_path, before = Path(folder) / "journal", peak()
        figures: dict[str, float | None] = {"resume": None}
        with path.open("rb") as stream:
            async with SqliteJournal(journal_path) as journal:
                campaign = Campaign(stream, None, journal)
                started = time.perf_counter()
                async for _ in campaign.entries():
                    pass
                figures["look up"] = count / (time.perf_counter() - started)
                for name in ("send", "resume") if count < ROWS[-1] else ("send",):
                    with closing(OutcomesFile(Path(folder) / "out", show_numbers=False)) as out:
                        started = time.perf_counter()
                        out.keep()
                        client = cast(AsyncOcaSms, Instant())
                        await campaign.run(client, out.note, concurrency=CONCURRENCY, resend_unknown=False)
                        figures[name] = count / (time.perf_counter() - started)
            figures["bytes a row"] = journal_path.stat().st_size / count
        figures["growth"] = peak() - before
        return figures


def main() -> None:
    """Measure each length in a process of its own, and print them side by side."""
    figures = {}
    for count in ROWS:
        command = [sys.executable, __file__, f"--rows={count}"]
        figures[count] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    names = ["look up", "send", "resume", "bytes a row", "growth"]
    least = figures[ROWS[0]]["growth"]
    rows = [[count, *(it[name] for name in names), it["growth"] / least] for count, it in figures.items()]
    columns = ["rows", "looked up/s", "sent/s", "resumed/s", "bytes a row", "growth, MB", "to the first"]
    show(__doc__.splitlines()[0] if __doc__ else "", columns, rows)


if __name__ == "__main__":
    lengths = [int(argument.removeprefix("--rows=")) for argument in sys.argv[1:] if argument.startswith("--rows=")]
    if lengths:
        print(json.dumps(asyncio.run(measure(lengths[0]))))
    else:
        main()

"""Sends a text to each customer of a CSV file: `python -m campaign.campaign november customers.csv`.

The same command may be given again after a crash, a power cut or a full quota. It goes on where it was.
"""

import asyncio
import csv
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

from oca_sms_async import AsyncOcaSms, Failed, SendReceipt, Sent, Skipped, Sms, SqliteJournal

TEXT: Final = "Acme: halo {name}, diskon 20 persen sampai Minggu di semua toko. Balas STOP untuk berhenti."
JAKARTA: Final = timezone(timedelta(hours=7), "WIB")
EVENING: Final = 20  # o'clock; an advertisement at night annoys


def read_messages(file: Path, campaign: str, until: datetime) -> Iterator[Sms]:
    """Yield the messages one by one, so that memory does not grow with the list.

    The key is made of campaign and customer, so each customer gets one SMS. A second row of a customer is skipped, or
    refused if it has another number: «key names a message of another number». So is a number that changes later.
    """
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for row in csv.DictReader(lines):
            text = TEXT.format(name=row["name"])
            yield Sms(row["phone"], text, key=f"{campaign}:{row['customer']}", expires_at=until)


async def run_campaign(campaign: str, file: Path, until: datetime) -> Counter[str]:
    """Send all messages that are not sent yet, and return the count of each kind of outcome."""
    counts = Counter[str]()
    # One journal for each campaign, beside the list: lose it, and the next run sends everything again.
    async with SqliteJournal(file.with_suffix(f".{campaign}.journal")) as journal, AsyncOcaSms.from_env() as oca:
        if oca.has_history:  # finds out which of an earlier run's doubtful messages were sent after all
            await oca.reconcile(journal, read_messages(file, campaign, until))
        async with oca.bulk(read_messages(file, campaign, until), journal=journal) as run:
            async for outcome in run:
                match outcome:
                    case Sent():
                        counts["sent"] += 1
                    case Skipped(receipt=SendReceipt()):
                        counts["sent before"] += 1
                    case Skipped():
                        counts["not attempted"] += 1
                    case Failed(sms, error) if error.may_have_been_sent:
                        counts["unknown"] += 1  # not sent again: a second copy would annoy more than a missing one
                        print("unknown", sms.key, error)
                    case Failed(sms, error):
                        counts["failed"] += 1  # the next run tries it again
                        print("failed", sms.key, error)
            if run.stopped_by:
                print("stopped, mend this and start again:", run.stopped_by)
    return counts


if __name__ == "__main__":
    evening = datetime.now(JAKARTA).replace(hour=EVENING, minute=0, second=0, microsecond=0)
    print(dict(asyncio.run(run_campaign(sys.argv[1], Path(sys.argv[2]), evening))))

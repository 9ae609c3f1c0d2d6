"""The journal of a bulk: its values, the protocol of a store, a run over it. `_sqlite` is the store in a file."""

from oca_sms_async._journal._protocol import Journal
from oca_sms_async._journal._run import ClaimLostError, Intent, JournalRun, earlier_outcome
from oca_sms_async._journal._values import Answer, JournalEntry, Lookup, Status

__all__ = [
    "Answer",
    "ClaimLostError",
    "Intent",
    "Journal",
    "JournalEntry",
    "JournalRun",
    "Lookup",
    "Status",
    "earlier_outcome",
]

"""The counts of a file of messages, taken before the first one is sent."""

from collections import Counter
from typing import Final

from oca_sms_async import segments
from oca_sms_async._journal import Answer, Lookup, Status
from oca_sms_async._segments import advise
from oca_sms_async.cli._rows import RowSms
from oca_sms_async.cli._seen import SeenTable

_SAMPLES: Final = 3


class Survey:
    """The rows of a file, counted: the `bad` ones, and the others by the journal's answer.

    A duplicate is a row with the recipient of an earlier one, in any spelling: `same` have its text too, `others` have
    another one. With `dedupe` they are not meant to be sent. With `in_detail`, `segments`, `advice` and `samples` are
    about the rows that are still to be sent. Close it after the last row; its counts stay.
    """

    def __init__(self, *, brand: str | None, resend_unknown: bool, dedupe: bool, in_detail: bool) -> None:
        self.standings = Counter[Status | Answer]()
        self.bad = 0
        self.same = 0
        self.others = 0
        self.segments = 0
        self.advice = Counter[str]()
        self.samples = list[str]()
        self.first_duplicate: RowSms | None = None
        self.duplicates = bytearray()  # 1 at the place of each row that is not sent because it is one
        self._passed = 0
        self._to_send = 0
        self._recipients = SeenTable()
        self._brand = brand
        self._resend_unknown = resend_unknown
        self._dedupe = dedupe
        self._in_detail = in_detail

    @property
    def rows(self) -> int:
        """All data rows."""
        return self.standings.total() + self.bad

    @property
    def recipients(self) -> int:
        """The different numbers."""
        return len(self._recipients)

    @property
    def unsendable(self) -> int:
        """The rows that no run can send: bad rows, and rows with the key of another message."""
        return self.bad + self.standings[Answer.KEY_CONFLICT]

    @property
    def passed(self) -> int:
        """The rows that are not meant to be sent: they repeat a key, or are duplicates."""
        return self.standings[Answer.REPEATED] + self._passed

    @property
    def to_send(self) -> int:
        """The rows that a run would send."""
        return self._to_send

    def close(self) -> None:
        """Drop the numbers of all rows."""
        self._recipients.close()

    def note(self, sms: RowSms, lookup: Lookup) -> None:
        """Count a row that can be sent."""
        standing = lookup.entry.status if lookup.answer is Answer.STORED else lookup.answer
        is_duplicate = lookup.answer is Answer.STORED and self._find_duplicate(sms)
        if is_duplicate and self._dedupe:
            self._passed += standing is Status.UNSENT
            self.duplicates.extend(bytes(sms.row - len(self.duplicates)))
            self.duplicates[sms.row - 1] = 1
        self.standings[standing] += 1
        if is_duplicate and self._dedupe:
            return
        if standing is Status.UNSENT or (standing is Status.DOUBTFUL and self._resend_unknown):
            self._to_send += 1
            if self._in_detail:
                self._look_closely(sms.message)

    def _look_closely(self, text: str) -> None:
        size = segments(text)
        self.segments += size.count
        for it in advise(text, size, self._brand):
            self.advice[f"{it.code}: {it.text}"] += 1
        if len(self.samples) < _SAMPLES:
            self.samples.append(text)

    def _find_duplicate(self, sms: RowSms) -> bool:
        content = hash(sms.message)
        first = self._recipients.see(int(sms.phone), content)
        if first is None:
            return False
        self.same += first == content
        self.others += first != content
        self.first_duplicate = self.first_duplicate or sms
        return True

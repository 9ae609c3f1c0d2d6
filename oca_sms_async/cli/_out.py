"""The file of `oca-sms bulk --out`: exactly one line for each input row, as JSON, or as CSV if its name says so."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any, Final, Literal

from oca_sms_async import ApiError, Failed, Outcome, Sent, Skipped
from oca_sms_async._errors import safe_code
from oca_sms_async._messages import check_number
from oca_sms_async._phone import mask_phone
from oca_sms_async.cli._endings import explain
from oca_sms_async.cli._rows import REGION, BadRow, RowSms
from oca_sms_async.cli._sinks import open_sink

_NAMES: Final = ("row", "key", "outcome", "msg_uid", "attempts", "error", "code")
_SUBSCRIBER: Final = 7  # last digits of a number; they are enough to know the number
_NO_DIGIT: Final = re.compile(r"[^0-9]")
_BEGINNINGS: Final = (b'{"row": ', b"row,key,outcome,")

Word = Literal["sent", "failed", "skipped", "unknown"]


class OutcomesFile:
    """The file of outcomes; without a path, no file. `OSError` if it cannot be opened.

    A failure to write a line is no exception: `error` is the first one.
    """

    def __init__(self, path: Path | None, *, show_numbers: bool) -> None:
        self._is_closed = False
        self._show_numbers = show_numbers
        self._is_csv = path is not None and path.suffix.lower() == ".csv"
        names = [*_NAMES, *(["phone"] if show_numbers else [])]
        self._sink = None if path is None else open_sink(path, _join(names).encode() if self._is_csv else b"")

    @property
    def error(self) -> OSError | None:
        """The first failure to write a line."""
        return None if self._sink is None else self._sink.error

    @property
    def unwritten(self) -> list[str]:
        """The lines that could not be written, by row. They are about messages that may have been sent."""
        return [] if self._sink is None else [line.decode() for _, line in sorted(self._sink.unwritten.items())]

    def keep(self) -> None:
        """Let the lines so far take the place of the lines of an earlier run."""
        if self._sink is not None:
            self._sink.keep()

    def close(self) -> None:
        """Sort the lines by row, and close the file; it is deleted if it was not kept."""
        if self._sink is not None and not self._is_closed:
            self._is_closed = True
            self._sink.close()

    def note(self, outcome: Outcome) -> None:
        """Write the outcome of a row, unless it has its line."""
        match outcome:
            case Sent(sms=RowSms() as row, receipt=receipt) | Skipped(sms=RowSms() as row, receipt=receipt) if receipt:
                self.write(row, "sent", msg_uid=receipt.msg_uid, attempts=receipt.attempts)
            case Failed(sms=RowSms() as row, error=error):
                self.write(
                    row, "unknown" if error.may_have_been_sent else "failed", attempts=error.attempts, error=error
                )
            case Skipped(sms=RowSms() as row, reason=reason):
                self.write(row, "skipped", error=reason)

    def write_known(self, row: RowSms | BadRow, word: Word, **values: Any) -> None:
        """Write an outcome that is known before the run. A stream gets it in the run, when its turn comes."""
        if self._sink is not None and self._sink.knows_early:
            self.write(row, word, **values)

    def write(
        self,
        row: RowSms | BadRow,
        word: Word,
        *,
        msg_uid: str | None = None,
        attempts: int = 0,
        error: Exception | str | None = None,
    ) -> None:
        """Write the line of a row, unless it has one."""
        if self._sink is None or self._sink.has(row.row):
            return
        if self._sink.error is not None and word not in {"sent", "unknown"}:
            return  # the file fails: only lines about messages that may have been sent are worth memory
        line = {
            "row": row.row,
            "key": row.key,
            "outcome": word,
            "msg_uid": msg_uid,
            "attempts": attempts,
            "error": explain(error) if isinstance(error, Exception) else error,
            "code": safe_code(error.code) if isinstance(error, ApiError) else None,
        }
        if self._show_numbers:
            number = check_number(row.phone, REGION) if isinstance(row, RowSms) else None
            line |= {"phone": number} if number or self._is_csv else {}
        elif row.key is not None and _may_show_number(row):
            line["key"] = mask_phone(row.key)
        text = _join(line.values()) if self._is_csv else json.dumps(line) + "\n"
        self._sink.write(row.row, text.encode("utf-8", "backslashreplace"))


def is_outcomes_file(path: Path) -> bool:
    """Tell whether a file may be overwritten: it is empty, or begins as a file of outcomes does."""
    with path.open("rb") as file:
        beginning = file.read(max(map(len, _BEGINNINGS)))
    return not beginning or any(beginning.startswith(it) for it in _BEGINNINGS)


def _join(values: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _may_show_number(row: RowSms | BadRow) -> bool:
    """Tell whether a row's key may hold its recipient's number. In a bad row, each number counts."""
    digits = _NO_DIGIT.sub("", row.key or "")
    if isinstance(row, RowSms):
        return check_number(row.phone, REGION)[-_SUBSCRIBER:] in digits
    return len(digits) >= _SUBSCRIBER

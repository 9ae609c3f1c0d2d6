"""What `oca-sms bulk --out` writes: one JSON object a line, and in the end exactly one line for each row of the
input.
"""

import json
import os
import re
from pathlib import Path
from typing import Final, Literal

from oca_sms_async import ApiError, Failed, Outcome, Sent, Skipped
from oca_sms_async._errors import safe_code
from oca_sms_async._messages import check_number
from oca_sms_async._phone import mask_phone
from oca_sms_async.cli._rows import REGION, BadRow, RowSms

_SUBSCRIBER: Final = 7  # of a number's last digits; whoever has them has the number
_NO_DIGIT: Final = re.compile(r"[^0-9]")

Word = Literal["sent", "failed", "skipped", "unknown"]


class OutcomesFile:
    """One file of outcomes; without a path, none. `OSError` where it cannot be written.

    Lines go to a new file beside the old one until `keep` puts it in its place, so what an earlier run wrote is there
    until this one knows as much. Each line is with the operating system before `write` returns. What is no file, a
    pipe say, is written to as it is.
    """

    def __init__(self, path: Path | None, *, show_numbers: bool) -> None:
        self._path = path
        self._show_numbers = show_numbers
        self._new = None if path is None or (path.exists() and not path.is_file()) else beside(path)
        to = self._new or path
        self._file = None if to is None else to.open("w", encoding="utf-8", buffering=1)

    def keep(self) -> None:
        """Put the new file in the old one's place; what is written from now on goes there."""
        if self._file is not None and self._new is not None and self._path is not None:
            os.fsync(self._file.fileno())
            self._new.replace(self._path)

    def close(self) -> None:
        """Close the file; one that was never kept is gone."""
        if self._file is not None:
            self._file.close()
        if self._new is not None:
            self._new.unlink(missing_ok=True)

    def note(self, outcome: Outcome) -> None:
        """Write what became of a row in this run; what an earlier run sent has been written before."""
        match outcome:
            case Sent(sms=RowSms() as row, receipt=receipt):
                self.write(row, "sent", msg_uid=receipt.msg_uid, attempts=receipt.attempts)
            case Failed(sms=RowSms() as row, error=error):
                self.write(
                    row, "unknown" if error.may_have_been_sent else "failed", attempts=error.attempts, error=error
                )
            case Skipped(sms=RowSms() as row, receipt=None, reason=reason):
                self.write(row, "skipped", error=reason)

    def write(
        self,
        row: RowSms | BadRow,
        word: Word,
        *,
        msg_uid: str | None = None,
        attempts: int = 0,
        error: Exception | str | None = None,
    ) -> None:
        """Write one row's line."""
        if self._file is None:
            return
        line = {
            "row": row.row,
            "key": row.key,
            "outcome": word,
            "msg_uid": msg_uid,
            "attempts": attempts,
            "error": None if error is None else str(error),
            "code": safe_code(error.code) if isinstance(error, ApiError) else None,
        }
        if self._show_numbers:
            line |= {"phone": check_number(row.phone, REGION)} if isinstance(row, RowSms) else {}
        elif row.key is not None and _may_show_number(row):
            line["key"] = mask_phone(row.key)
        self._file.write(json.dumps(line) + "\n")


def beside(path: Path) -> Path:
    """Return where the new file of outcomes is written until it takes the place of the old one."""
    return path.with_name(f".{path.name}.oca-sms")


def _may_show_number(row: RowSms | BadRow) -> bool:
    """Tell whether a row's key holds its recipient's number; of a bad row that is not known, so any number counts."""
    digits = _NO_DIGIT.sub("", row.key or "")
    if isinstance(row, RowSms):
        return check_number(row.phone, REGION)[-_SUBSCRIBER:] in digits
    return len(digits) >= _SUBSCRIBER

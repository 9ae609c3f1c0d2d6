"""The file of `oca-sms bulk --out`: one JSON object a line, and at the end exactly one line for each input row."""

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

_SUBSCRIBER: Final = 7  # last digits of a number; they are enough to know the number
_NO_DIGIT: Final = re.compile(r"[^0-9]")

Word = Literal["sent", "failed", "skipped", "unknown"]


class OutcomesFile:
    """The file of outcomes; without a path, no file. `OSError` if it cannot be written.

    Lines go to a new file until `keep` puts it in the place of the old file. So the lines of an earlier run are there
    until this run knows as much. The operating system has each line before `write` returns. A path that is no regular
    file, such as a pipe, is written to directly.
    """

    def __init__(self, path: Path | None, *, show_numbers: bool) -> None:
        self._path = path
        self._show_numbers = show_numbers
        self._new = None if path is None or (path.exists() and not path.is_file()) else name_new_file(path)
        to = self._new or path
        self._file = None if to is None else to.open("w", encoding="utf-8", buffering=1)

    def keep(self) -> None:
        """Put the new file in the place of the old one; later lines go to it as well."""
        if self._file is not None and self._new is not None and self._path is not None:
            os.fsync(self._file.fileno())
            self._new.replace(self._path)

    def close(self) -> None:
        """Close the file; delete a new file that was not kept."""
        if self._file is not None:
            self._file.close()
        if self._new is not None:
            self._new.unlink(missing_ok=True)

    def note(self, outcome: Outcome) -> None:
        """Write the outcome of a row in this run. The rows that an earlier run sent were written before."""
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


def name_new_file(path: Path) -> Path:
    """Return the path of the new file, until it takes the place of the old one."""
    return path.with_name(f".{path.name}.oca-sms")


def _may_show_number(row: RowSms | BadRow) -> bool:
    """Tell whether a row's key may hold its recipient's number. In a bad row, each number counts."""
    digits = _NO_DIGIT.sub("", row.key or "")
    if isinstance(row, RowSms):
        return check_number(row.phone, REGION)[-_SUBSCRIBER:] in digits
    return len(digits) >= _SUBSCRIBER

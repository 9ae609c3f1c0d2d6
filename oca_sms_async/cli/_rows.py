"""The rows of a file of messages, each checked: a message, or a reason that quotes no value of the row."""

import contextlib
import itertools
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO, Final

from attrs import field, frozen

from oca_sms_async import InvalidMessageError, Sms
from oca_sms_async._messages import check_key, check_number, check_text
from oca_sms_async.cli._formats import read_csv, read_header, read_json, read_lines
from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._template import fill, is_plain, list_columns

REGION: Final = "ID"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@frozen
class RowSms(Sms):
    """One message of a file. `row` counts data rows from 1: no header, no blank lines."""

    row: int = field(kw_only=True)


@frozen
class BadRow:
    """A row that cannot be sent. `row` counts as in `RowSms`. `key` is the row's key, if it can be read."""

    row: int
    reason: str
    key: str | None = field(default=None, repr=False)


def read_rows(stream: BinaryIO, *, template: str | None = None) -> Iterator[RowSms | BadRow]:
    """Yield the messages and the bad rows of a file in its order, and read no further than asked.

    `stream` is seekable, at its start, and stays open. It holds UTF-8: JSON lines if the first character is a `{`, else
    CSV with a header. The columns are `phone` and `message`, and optionally `key` and `expires_at` (ISO 8601 with an
    offset). A `template`, such as «Kode {brand}: {code}», makes the text from a row's columns instead of `message`.

    `InputError`, at once, if the template is wrong or the beginning of the file makes no row readable.
    """
    needed = ["phone", *(["message"] if template is None else list_columns(template))]
    lines = read_lines(stream)
    first = next(filter(str.strip, lines), None)
    if first is None:
        raise InputError("the file is empty: write one message a row, below a line that names the columns")
    lines = itertools.chain([first], lines)
    found = read_json(lines) if first.lstrip().startswith("{") else read_csv(lines, read_header(lines, needed))
    return (_check(row, values, fault, template) for row, (values, fault) in enumerate(found, 1))


def _check(row: int, values: dict[str, Any], fault: str | None, template: str | None) -> RowSms | BadRow:
    phone: Any = values.get("phone")
    message: Any = values.get("message")
    key, expires_at, faults = None, None, list[str]()
    with _collect(faults):
        key = _read_key(values.get("key"))
    if fault is not None:
        return BadRow(row, fault, key)
    with _collect(faults):
        if not isinstance(phone, str):
            raise InvalidMessageError("phone must be there and in quotes: a number loses its leading zero")
        check_number(phone, REGION)
    with _collect(faults):
        expires_at = _read_expiry(values.get("expires_at"))
    with _collect(faults):
        if template is not None:
            message = fill(template, values)
        check_text(message)
    return BadRow(row, "; ".join(faults), key) if faults else RowSms(phone, message, key, expires_at, row=row)


@contextlib.contextmanager
def _collect(faults: list[str]) -> Iterator[None]:
    try:
        yield
    except InvalidMessageError as error:
        faults.append(str(error))


def _read_key(value: Any) -> str | None:
    if value is None or value == "":
        return None
    key = str(value) if is_plain(value) else value
    check_key(key)
    if _SURROGATE.search(key):
        raise InvalidMessageError("key holds half of a surrogate pair, which no file can take")
    return key


def _read_expiry(value: Any) -> datetime | None:
    text = value.strip() if isinstance(value, str) else value
    if text is None or text == "":
        return None
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise InvalidMessageError("expires_at must be ISO 8601, such as '2030-12-31T23:59:00+07:00'") from None
    if moment.utcoffset() is None:
        raise InvalidMessageError("expires_at has no time zone: give it an offset such as +07:00")
    return moment

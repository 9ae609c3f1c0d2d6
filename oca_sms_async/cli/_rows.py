"""The rows of a file of messages, each checked: a message, or a reason that quotes no value of the row."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, BinaryIO, Final, TypeVar

from attrs import field, frozen

from oca_sms_async import InvalidMessageError, Sms
from oca_sms_async._messages import check_key, check_number, check_text
from oca_sms_async.cli._layout import Layout
from oca_sms_async.cli._records import Record, read_file
from oca_sms_async.cli._template import fill, is_plain
from oca_sms_async.cli._workbook import Unreadable

_T = TypeVar("_T")

REGION: Final = "ID"
_DEFAULT: Final = Layout()
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# Most numbers arrive in one of these forms. phonenumbers takes 30 µs to agree, which is minutes in a long file.
_USUAL: Final = re.compile(r"(?:0|(?:\+?62[ -]?)?)(8[0-9]+(?:[ -][0-9]{2,})*)")
_LENGTHS: Final = range(9, 13)  # digits behind the country code


@frozen
class RowSms(Sms):
    """One message of a file, its phone in E.164.

    `row` counts data rows from 1: no header, no blank lines. `line` counts as a spreadsheet does.
    """

    row: int = field(kw_only=True)
    line: int = field(default=0, kw_only=True, eq=False)


@frozen
class BadRow:
    """A row that cannot be sent. `row` and `line` count as in `RowSms`. `key` is its key, if it can be read."""

    row: int
    reason: str
    key: str | None = field(default=None, repr=False)
    line: int = field(default=0, kw_only=True, eq=False)


def name_place(row: RowSms | BadRow) -> str:
    """Return the words for the place of a row."""
    return f"line {row.line} (row {row.row})"


def read_rows(stream: BinaryIO, layout: Layout = _DEFAULT) -> Iterator[RowSms | BadRow]:
    """Yield the messages and the bad rows of a file in its order.

    `stream` is seekable, and stays open. It holds a workbook, JSON lines if the first character is a `{`, else CSV with
    a header. `expires_at` is ISO 8601 with an offset. A template makes the text from the columns of a row.

    `InputError` if the layout is wrong, or if the file cannot be used.
    """
    layout.check()
    return (_check(number, record, layout.template) for number, record in enumerate(read_file(stream, layout), 1))


def _check(row: int, record: Record, template: str | None) -> RowSms | BadRow:
    if record.fault is not None:
        return _refuse(row, record, template)
    try:
        return RowSms(
            _read_number(record.phone),
            _read_text(record, template),
            _read_key(record.key),
            _read_expiry(record.expires_at),
            row=row,
            line=record.line,
        )
    except InvalidMessageError:
        return _refuse(row, record, template)


def _refuse(row: int, record: Record, template: str | None) -> BadRow:
    """Return a bad row with all its faults."""
    faults = list[str]()

    def read(reader: Callable[[Any], _T], value: Any) -> _T | None:
        try:
            return reader(value)
        except InvalidMessageError as error:
            faults.append(str(error))
            return None

    key = read(_read_key, record.key)
    if record.fault is not None:
        return BadRow(row, record.fault, key, line=record.line)
    if read(_read_number, record.phone) is None:
        faults[-1] = re.sub("^phone", lambda _: record.columns.name("phone"), faults[-1])
    read(_read_expiry, record.expires_at)
    read(lambda it: _read_text(it, template), record)
    return BadRow(row, "; ".join(faults), key, line=record.line)


def _read_number(value: Any) -> str:
    if isinstance(value, Unreadable):
        raise InvalidMessageError(value.fault)
    if not isinstance(value, str):
        raise InvalidMessageError("phone must be there and in quotes: a number loses its leading zero")
    if (usual := _USUAL.fullmatch(value)) is not None:
        digits = usual[1].replace(" ", "").replace("-", "")
        if len(digits) in _LENGTHS:
            return "+62" + digits
    return check_number(value, REGION)


def _read_text(record: Record, template: str | None) -> str:
    value = record.message if template is None else fill(template, record.template)
    if isinstance(value, Unreadable):
        raise InvalidMessageError(value.fault)
    check_text(value)
    return str(value)


def _read_key(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, Unreadable):
        raise InvalidMessageError(value.fault)
    key = str(value) if is_plain(value) else value
    check_key(key)
    if _SURROGATE.search(key):
        raise InvalidMessageError("key holds half of a surrogate pair, which no file can take")
    return str(key)


def _read_expiry(value: Any) -> datetime | None:
    if isinstance(value, Unreadable):
        raise InvalidMessageError(value.fault)
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

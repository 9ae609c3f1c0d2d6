"""The records of a file of messages, in any of its formats: each with its line and the values of the needed columns."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

from oca_sms_async.cli._csv import describe_mismatch, read_header, read_records
from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._layout import Columns, Layout, clean_names
from oca_sms_async.cli._text_lines import read_lines
from oca_sms_async.cli._workbook import read_sheet

_ZIP: Final = b"PK\x03\x04"
_REFUSED: Final = {
    b"\xd0\xcf\x11\xe0": "the file is an old or an encrypted workbook: save it as .xlsx without a password, or as CSV",
    b"\x1f\x8b": "the file is compressed: unpack it, as in `zcat FILE | oca-sms bulk -`",
}
_NO_VALUES: Final[dict[str, Any]] = {}
_NO_COLUMNS: Final = Columns({}, {}, [])
_MOST_SHAPES: Final = 100  # of JSON objects


class Record(NamedTuple):
    """One record. `line` is its row in a spreadsheet, or its line of JSON.

    `fault` is the reason why it is no row, or `None`.
    """

    line: int
    columns: Columns = _NO_COLUMNS
    phone: Any = None
    message: Any = None
    key: Any = None
    expires_at: Any = None
    template: dict[str, Any] = _NO_VALUES
    fault: str | None = None


Picker = Callable[[int, list[Any]], Record]


def read_file(stream: BinaryIO, layout: Layout) -> Iterator[Record]:
    """Yield the records of a file. `InputError`, at the first one, if the file cannot be used."""
    stream.seek(0)
    start = stream.read(4)
    for mark, sentence in _REFUSED.items():
        if start.startswith(mark):
            raise InputError(sentence)
    if start == _ZIP:
        yield from _read_workbook(stream, layout)
        return
    if layout.sheet is not None:
        raise InputError("--sheet is for workbooks, and the file is none")
    lines = read_lines(stream, layout.encoding)
    skipped = 0
    for first in lines:
        if first.strip():
            break
        skipped += 1
    else:
        raise InputError("the file is empty: write one message a row, below a line that names the columns")
    match first.lstrip()[0]:
        case "{":
            yield from _read_json(itertools.chain([first], lines), layout, skipped)
        case "[":
            raise InputError("the file is a JSON array: write one object a line, as `jq -c '.[]'` does")
        case _:
            yield from _read_csv(itertools.chain([first], lines), layout, skipped)


def _read_csv(lines: Iterator[str], layout: Layout, skipped: int) -> Iterator[Record]:
    header = read_header(lines, layout)
    columns, pick = header.columns, _make_picker(header.columns)
    for line, (fields, fault) in enumerate(read_records(lines, header.delimiter), skipped + header.rows + 1):
        if fault is not None:
            yield Record(line, fault=fault)
        elif any(fields):
            count = len(fields)
            while len(fields) > len(columns.names) and not fields[-1]:
                del fields[-1]  # spreadsheets write delimiters behind the last column
            if len(fields) == len(columns.names):
                yield pick(line, fields)
            else:
                # No key is told: the field in its place may be a part of the text.
                yield Record(line, fault=describe_mismatch(count, header))


def _read_json(lines: Iterator[str], layout: Layout, skipped: int) -> Iterator[Record]:
    shapes: dict[tuple[str, ...], Picker] = {}
    for number, line in enumerate(lines, skipped + 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # not JSONDecodeError: an integer may be too long for Python
            values = None
        if not isinstance(values, dict):
            yield Record(number, fault="the row is not a JSON object on one line")
            continue
        names = tuple(values)
        if (pick := shapes.get(names)) is None:
            pick = _make_picker(layout.find_columns(names))
            if len(shapes) < _MOST_SHAPES:
                shapes[names] = pick
        yield pick(number, [*values.values()])


def _read_workbook(stream: BinaryIO, layout: Layout) -> Iterator[Record]:
    rows = read_sheet(stream, layout.sheet)
    _, names = next(rows, (0, []))
    if not names:
        raise InputError("the sheet is empty: write one message a row, below a row that names the columns")
    columns = layout.find_columns(clean_names(names))
    columns.check()
    pick = _make_picker(columns)
    for line, values in rows:
        yield pick(line, [*values, *[""] * (len(columns.names) - len(values))])


def _make_picker(columns: Columns) -> Picker:
    """Return a function that makes a record of a line and its values, which are in the order of the columns."""
    if columns.doubled:
        fault = f"the row has column '{columns.doubled[0]}' more than once"
        return lambda line, _: Record(line, fault=fault)
    phone, message, key, expires_at = (columns.roles.get(it, -1) for it in ("phone", "message", "key", "expires_at"))

    def pick(line: int, values: list[Any]) -> Record:
        values.append(None)  # at -1, for the columns that are absent
        template = {name: values[place] for name, place in columns.template.items()}
        return Record(line, columns, values[phone], values[message], values[key], values[expires_at], template)

    return pick

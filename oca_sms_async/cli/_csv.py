"""CSV as spreadsheets and people write it: any usual delimiter, spaces round the fields, and quotes after spaces."""

import itertools
import re
from collections.abc import Iterator
from typing import Any, Final

from attrs import frozen

from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._layout import DELIMITERS, Columns, Layout, clean_names

_LONGEST: Final = 131_072  # characters of a record; a quote that is not closed must not take the rest of a file
_MOST_HEADER_LINES: Final = 20
# Excel's own line: it names the delimiter, and is no row of the sheet.
_SEP_LINE: Final = re.compile(r'"?sep=(.)"?[;,\t]*\s*', re.IGNORECASE)
_NO_NAMES: Final = ' \t\r\n,;|"'
_TYPE_LINE: Final = "#TYPE "  # of PowerShell
_UNCLOSED: Final = "the row is not CSV: a quote is not closed"
_STRAY: Final = "the row is not CSV: text follows a closing quote; a quote within a text must be doubled"
_HUGE: Final = "the row is not CSV: it is longer than any message"

Record = tuple[list[str], str | None]  # the fields, or the fault of the record


@frozen
class CsvHeader:
    """The columns of a CSV and its delimiter. `rows` counts the rows of the sheet up to the header."""

    columns: Columns
    delimiter: str
    rows: int


def read_header(lines: Iterator[str], layout: Layout) -> CsvHeader:
    """Read up to the line that names the columns: it says which delimiter the file has. `InputError` if it cannot."""
    asked, rows = layout.find_delimiter(), 0
    for line in lines:
        if (sep := _SEP_LINE.fullmatch(line)) is not None:
            asked = asked or sep[1]
            continue
        rows += 1
        if line.strip(_NO_NAMES) and not line.startswith(_TYPE_LINE):
            break
    else:
        raise InputError("no line names the columns: write their names above the messages")
    head = [line, *_read_rest(line, lines)]
    choices = [(it, _split_head(head, it)) for it in ([asked] if asked else DELIMITERS)]
    found = [(it, layout.find_columns(clean_names(names))) for it, names in choices if names]
    if not found:
        raise InputError("the first line is not CSV: write the names of the columns, with a comma between them")
    # The delimiter that yields all needed columns, or else the one that yields most.
    delimiter, columns = min(found, key=lambda it: (len(it[1].missing), -len(it[1].names)))
    columns.check()
    return CsvHeader(columns, delimiter, rows)


def _read_rest(line: str, lines: Iterator[str]) -> Iterator[str]:
    """Yield the further lines of a header with line ends within its quotes."""
    quotes = line.count('"')
    for rest in itertools.islice(lines, _MOST_HEADER_LINES * (quotes % 2)):
        yield rest
        quotes += rest.count('"')
        if quotes % 2 == 0:
            return


def _split_head(head: list[str], delimiter: str) -> list[str]:
    """Return the names in the header, or an empty list if it is not one record."""
    records = [*read_records(iter(head), delimiter)]
    return records[0][0] if len(records) == 1 and records[0][1] is None else []


def read_records(lines: Iterator[str], delimiter: str) -> Iterator[Record]:
    """Yield the records. Each is one row of a spreadsheet, also if its texts have several lines."""
    split = _Splitter(delimiter, lines).split
    for line in lines:
        yield split(line)


class _Splitter:
    """Splits records into their fields; `lines` has the rest of a record with a line end within its quotes."""

    def __init__(self, delimiter: str, lines: Iterator[str]) -> None:
        self._delimiter = delimiter
        self._lines = lines
        self._blanks = " " if delimiter == "\t" else " \t"
        escaped = re.escape(delimiter)
        self._opening = re.compile(rf'[{self._blanks}]*"')
        self._plain = re.compile(rf"([^{escaped}\r\n]*)({escaped})?")
        self._inside = re.compile(r'[^"]*+(?:""[^"]*+)*+')
        self._closing = re.compile(rf'"[{self._blanks}]*(?:({escaped})|[\r\n]*\Z)')

    def split(self, line: str) -> Record:
        """Return the fields of the record that begins with this line."""
        if '"' not in line and len(line) <= _LONGEST:
            return [field.strip(self._blanks) for field in line.rstrip("\r\n").split(self._delimiter)], None
        fields: list[str] = []
        position, more, taken, length = 0, True, 1, len(line)
        while more:
            if (opened := self._opening.match(line, position)) is None:
                plain: Any = self._plain.match(line, position)
                fields.append(plain[1].strip(self._blanks))
                position, more = plain.end(), plain[2] is not None
                continue
            body: Any = self._inside.match(line, opened.end())
            text = body[0]
            while body.end() == len(line):  # the text goes on in the next line
                line = next(self._lines, "")
                taken, length = taken + 1, length + len(line)
                if not line or length > _LONGEST:
                    return fields, f"{_UNCLOSED}; lines lost: {taken - (not line)}"
                body = self._inside.match(line)
                text += body[0]
            if (closed := self._closing.match(line, body.end())) is None:
                return fields, f"{_STRAY}; lines lost: {taken}"
            fields.append(text.replace('""', '"'))
            position, more = closed.end(), closed[1] is not None
        return fields, None if length <= _LONGEST else f"{_HUGE}; lines lost: {taken}"


def describe_mismatch(found: int, header: CsvHeader) -> str:
    """Return the fault of a record that has another number of fields than the header."""
    expected = len(header.columns.names)
    name = DELIMITERS.get(header.delimiter, "delimiter")
    return f"the row has {found} fields, the first line {expected}: put a text with a {name} in quotes"

"""The formats of a file of messages: CSV and JSON lines become rows of named values."""

import codecs
import csv
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from oca_sms_async.cli._input_errors import InputError

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NOT_CSV: Final = "the row is not CSV: a quote is not closed or not doubled, or a field is huge"
_NOT_UTF8: Final = "the row is not UTF-8: save the file as UTF-8"

Row = tuple[dict[str, Any], str | None]  # the values that can be read, and the fault of the row, if there is one


def read_lines(stream: BinaryIO) -> Iterator[str]:
    """Yield the lines with their ends; a byte that is not UTF-8 becomes half of a surrogate pair."""
    start = stream.read(len(codecs.BOM_UTF8))
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError("the file is UTF-16: save it as UTF-8")
    if start != codecs.BOM_UTF8:
        stream.seek(0)
    for line in stream:
        # Bytes are split only at the usual ends of lines. A str would be split at others too, which a text may hold.
        for part in line.splitlines(keepends=True):
            yield part.decode("utf-8", "surrogateescape")


def read_header(lines: Iterator[str], needed: list[str]) -> list[str]:
    """Return the columns of a CSV. Errors do not quote them: without a header they are the first message."""
    try:
        header = [name.strip() for name in next(csv.reader(lines, strict=True))]
    except csv.Error:
        raise InputError("the first line is not CSV: write the names of the columns, separated by commas") from None
    if missing := ", ".join(f"'{name}'" for name in dict.fromkeys(needed) if name not in header):
        if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
            raise InputError("the first line is not separated by commas: save the file with commas between the columns")
        raise InputError(f"the first line must name the columns, in the same case, and does not name {missing}")
    if doubled := ", ".join(f"'{it}'" for it in dict.fromkeys([*needed, "key", "expires_at"]) if header.count(it) > 1):
        raise InputError(f"the first line names a column more than once: leave one of each: {doubled}")
    return header


def read_csv(lines: Iterator[str], header: list[str]) -> Iterator[Row]:
    """Yield the rows of a CSV below its header. Blank lines are not rows."""
    reader = csv.reader(lines, strict=True)
    while True:
        before = reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:  # the reader goes on with the next line
            lost = reader.line_num - before
            yield {}, f"{_NOT_CSV}; lines lost: {lost}"
            continue
        if len(row) <= 1 and not "".join(row).strip():
            continue
        if len(row) != len(header):
            # No key is told: the field in its place may be a part of the text.
            yield {}, f"the row has {len(row)} fields, the first line {len(header)}: put a text with commas in quotes"
        else:
            yield dict(zip(header, row, strict=True)), _NOT_UTF8 if _SURROGATE.search("".join(row)) else None


def read_json(lines: Iterator[str]) -> Iterator[Row]:
    """Yield the rows of JSON lines. Blank lines are not rows."""
    for line in filter(str.strip, lines):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # not JSONDecodeError: an integer may be too long for Python
            values = None
        fault = _NOT_UTF8 if _SURROGATE.search(line) else None
        if isinstance(values, dict):
            yield values, fault
        else:
            yield {}, fault or "the row is not a JSON object on one line"

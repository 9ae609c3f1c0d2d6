"""A file of messages, CSV or JSON lines, read row by row; what is said of a bad row shows nothing that stands in it."""

import codecs
import contextlib
import csv
import itertools
import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO, Final

from attrs import field, frozen

from oca_sms_async import InvalidMessageError, Sms
from oca_sms_async._messages import check_key, check_number, check_text

REGION: Final = "ID"
# Two braces for one, a plain field, or a brace that is neither. A name of digits alone would be a position.
_BRACES: Final = re.compile(r"\{\{|\}\}|\{(?!\s*\d*\s*\})([^{}!:.\[\]]+)\}|[{}]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NOT_UTF8: Final = "the row is not UTF-8: save the file as UTF-8"

_Row = tuple[dict[str, Any], str | None]  # the values that could be read, and why the row cannot be used as it stands


@frozen
class RowSms(Sms):
    """One message of a file: `row` counts from 1, and neither a CSV's header nor a blank line counts."""

    row: int = field(kw_only=True)


@frozen
class BadRow:
    """A row that is no message: `row` counts as in `RowSms`, `reason` shows no value of the row, `key` is the row's
    key if it has one that could be read.
    """

    row: int
    reason: str
    key: str | None = field(default=None, repr=False)


class InputError(Exception):
    """The file, or the template for its rows, cannot be used at all; the sentence says what to do about it."""


def rows(stream: BinaryIO, *, template: str | None = None) -> Iterator[RowSms | BadRow]:
    """Return the messages of a file, and in its place every row that is none, reading no more than is asked for.

    `stream` is seekable, at its start, and stays open. It holds UTF-8: JSON lines if the first character is a `{`, else
    CSV with a header. The columns are `phone` and `message`, and if wanted `key` and `expires_at` (ISO 8601 with an
    offset). `template`, such as «Kode {brand}: {code}», makes the text out of a row's columns instead of `message`.

    `InputError`, here and not later, if the template or the file's beginning makes no row readable.
    """
    needed = ["phone", *(["message"] if template is None else _columns(template))]
    lines = _lines(stream)
    first = next(filter(str.strip, lines), None)
    if first is None:
        raise InputError("the file is empty: write one message a row, under a line that names the columns")
    lines = itertools.chain([first], lines)
    found = _json_rows(lines) if first.lstrip().startswith("{") else _csv_rows(lines, _header(lines, needed))
    return (_judged(row, values, fault, template) for row, (values, fault) in enumerate(found, 1))


def _columns(template: str) -> list[str]:
    """Return the columns that a template needs, in its order, each once."""
    found = list(_BRACES.finditer(template))
    if any(it[0] in {"{", "}"} for it in found):
        raise InputError(
            "the template may hold columns as {name}, nothing else in the braces, and {{ or }} for a brace"
        )
    return list(dict.fromkeys(it[1] for it in found if it[1]))


def _lines(stream: BinaryIO) -> Iterator[str]:
    """Return the lines with their ends; a byte that is not UTF-8 becomes half of a surrogate pair."""
    start = stream.read(len(codecs.BOM_UTF8))
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError("the file is UTF-16: save it as UTF-8")
    if start != codecs.BOM_UTF8:
        stream.seek(0)
    for line in stream:
        # Of bytes, unlike a str, no more than the usual ends of lines: a text may hold any other.
        for part in line.splitlines(keepends=True):
            yield part.decode("utf-8", "surrogateescape")


def _header(lines: Iterator[str], needed: list[str]) -> list[str]:
    """Return a CSV's columns. Its own words are not shown: in a file without a header they are the first message."""
    try:
        header = [name.strip() for name in next(csv.reader(lines, strict=True))]
    except csv.Error:
        raise InputError("the first line is not CSV: write the columns' names, separated by commas") from None
    if missing := ", ".join(f"'{name}'" for name in dict.fromkeys(needed) if name not in header):
        if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
            raise InputError("the first line is not separated by commas: save the file with commas between the columns")
        raise InputError(f"the first line has to name the columns, in the same case, and does not name {missing}")
    if doubled := ", ".join(f"'{it}'" for it in dict.fromkeys([*needed, "key", "expires_at"]) if header.count(it) > 1):
        raise InputError(f"the first line names a column more than once: leave one of each: {doubled}")
    return header


def _csv_rows(lines: Iterator[str], header: list[str]) -> Iterator[_Row]:
    reader = csv.reader(lines, strict=True)
    while True:
        before = reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:  # the reader goes on with the next line
            lost = reader.line_num - before
            yield (
                {},
                f"the row is not CSV, for a quote is not closed or not doubled, or a field is huge; lines lost: {lost}",
            )
            continue
        if len(row) <= 1 and not "".join(row).strip():
            continue
        if len(row) != len(header):
            # Whatever now stands in the key's place may be a part of the text.
            yield {}, f"the row has {len(row)} fields, the first line {len(header)}: put a text with commas in quotes"
        else:
            yield dict(zip(header, row, strict=True)), _NOT_UTF8 if _SURROGATE.search("".join(row)) else None


def _json_rows(lines: Iterator[str]) -> Iterator[_Row]:
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


def _judged(row: int, values: dict[str, Any], fault: str | None, template: str | None) -> RowSms | BadRow:
    phone: Any = values.get("phone")
    message: Any = values.get("message")
    key, expires_at, faults = None, None, list[str]()
    with _added_to(faults):
        key = _key(values.get("key"))
    if fault is not None:
        return BadRow(row, fault, key)
    with _added_to(faults):
        if not isinstance(phone, str):
            raise InvalidMessageError("phone must be there and in quotes: a number loses its leading zero")
        check_number(phone, REGION)
    with _added_to(faults):
        expires_at = _expires_at(values.get("expires_at"))
    with _added_to(faults):
        if template is not None:
            message = _filled(template, values)
        check_text(message)
    return BadRow(row, "; ".join(faults), key) if faults else RowSms(phone, message, key, expires_at, row=row)


@contextlib.contextmanager
def _added_to(faults: list[str]) -> Iterator[None]:
    try:
        yield
    except InvalidMessageError as error:
        faults.append(str(error))


def _key(value: Any) -> str | None:
    if value is None or value == "":
        return None
    key = str(value) if _is_plain(value) else value
    check_key(key)
    if _SURROGATE.search(key):
        raise InvalidMessageError("key holds half of a surrogate pair, which no file can take")
    return key


def _expires_at(value: Any) -> datetime | None:
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


def _filled(template: str, values: dict[str, Any]) -> str:
    """Return the template's text for one row. A value with braces stays as it is, and none may be empty: a text that
    lacks its code must not go out.
    """
    faults = []
    for name in _columns(template):
        value = values.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            faults.append(f"the template needs column '{name}', which is empty")
        elif not _is_plain(value):
            faults.append(f"column '{name}' must be a text in quotes, or a whole number")
    if faults:
        raise InvalidMessageError("; ".join(faults))
    return _BRACES.sub(lambda it: str(values[it[1]]) if it[1] else it[0][0], template)


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)

"""Workbooks (`.xlsx`), through openpyxl: the rows of one sheet."""

import importlib
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, Final
from xml.etree.ElementTree import ParseError

from attrs import frozen

from oca_sms_async.cli._input_errors import InputError

_EXACT: Final = 2**53  # a spreadsheet keeps no whole number above it exactly
_BROKEN: Final = (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, ParseError)


@frozen
class Unreadable:
    """A cell that is neither a text nor a whole number."""

    fault: str


def read_sheet(stream: BinaryIO, name: str | None) -> Iterator[tuple[int, list[object]]]:
    """Yield each row of a sheet that is not empty, with its number there. `InputError` if there is no such sheet.

    A text is a str, as are the digits of a whole number. Other cells are `Unreadable`, and empty ones are "".
    """
    stream.seek(0)
    try:
        for number, row in enumerate(_open_sheet(stream, name).iter_rows(), 1):
            values = [_read_cell(cell) for cell in row]
            if any(values):
                yield number, values
    except _BROKEN:
        raise InputError("the file is no workbook that can be read: save it as .xlsx, or as CSV") from None


def _open_sheet(stream: BinaryIO, name: str | None) -> Any:
    try:
        openpyxl = importlib.import_module("openpyxl")
    except ImportError:
        raise InputError('a workbook needs openpyxl: pip install "oca-sms-async[cli]"') from None
    # It warns of styles and validations that it does not know.
    warnings.filterwarnings("ignore", category=UserWarning, module="openpyxl")
    workbook = openpyxl.load_workbook(stream, read_only=True, data_only=True)
    sheets = {sheet.title: sheet for sheet in workbook.worksheets}
    chosen = next(iter(sheets), None) if name is None else name
    if chosen not in sheets:
        raise InputError("--sheet must be one of the workbook's: " + ", ".join(f"'{it}'" for it in sheets))
    sheets[chosen].reset_dimensions()  # some programs write wrong ones, and rows would be missing
    return sheets[chosen]


def _read_cell(cell: Any) -> object:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, str) and cell.data_type != "e":
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and float(value).is_integer() and abs(value) < _EXACT:
        return str(int(value))
    return Unreadable(f"cell {cell.coordinate} is neither a text nor a whole number: format it as text")

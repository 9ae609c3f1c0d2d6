"""Workbooks (`.xlsx`), through openpyxl: the rows of one sheet."""

import importlib
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final
from xml.etree.ElementTree import ParseError

from attrs import frozen

from oca_sms_async.cli._input_errors import InputError

_EXACT: Final = 2**53  # a spreadsheet keeps no whole number above it exactly
# A file that is damaged, encrypted, or compressed in a way that Python does not know.
_BROKEN: Final = (
    *(LookupError, ValueError, TypeError, ArithmeticError, OSError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, ParseError),
)


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
        workbooks = importlib.import_module("oca_sms_async.cli._openpyxl")
    except ImportError:
        raise InputError('a workbook needs openpyxl: pip install "oca-sms-async[cli]"') from None
    # It warns of styles and validations that it does not know.
    warnings.filterwarnings("ignore", category=UserWarning, module="openpyxl")
    try:
        workbook = workbooks.open_workbook(stream)
        sheets = {sheet.title: sheet for sheet in workbook.worksheets}
        chosen = next(iter(sheets), None) if name is None else name
        if chosen not in sheets:
            raise InputError("--sheet must be one of the workbook's: " + ", ".join(f"'{it}'" for it in sheets))
        for number, cells in workbooks.read_rows(sheets[chosen]):
            values = _read_row(number, cells)
            if any(values):
                yield number, values
    except _BROKEN:
        raise InputError("the file is no workbook that can be read: save it as .xlsx, or as CSV") from None


def _read_row(number: int, cells: list[dict[str, Any]]) -> list[object]:
    """Return the values of a row; a cell that the file leaves out is "", up to the last cell there."""
    values: list[object] = []
    for cell in cells:
        values += [""] * (cell["column"] - len(values) - 1)
        values.append(_read_cell(number, cell))
    return values


def _read_cell(number: int, cell: dict[str, Any]) -> object:
    value = cell["value"]
    if value is None:
        return ""
    if isinstance(value, str) and cell["data_type"] != "e":
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and float(value).is_integer() and abs(value) < _EXACT:
        return str(int(value))
    place = f"{_name_column(cell['column'])}{number}"
    return Unreadable(f"cell {place} is neither a text nor a whole number: format it as text")


def _name_column(column: int) -> str:
    """Return the letters of a column, as a spreadsheet writes them."""
    letters = ""
    while column:
        column, letter = divmod(column - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return letters

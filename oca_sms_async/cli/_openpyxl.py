"""openpyxl, and the private parts of it that make it fast enough for a list of 300,000 rows.

It makes an object of six attributes for each text, which is most of the time that it takes. Here a text without formats
within it is read by itself, and openpyxl reads all others. If a name below moves in openpyxl, workbooks cannot be read,
so pyproject.toml caps its version.
"""

from array import array
from collections.abc import Iterator
from typing import Any, BinaryIO, Final
from xml.etree.ElementTree import Element

from openpyxl.cell.text import Text
from openpyxl.reader.excel import ExcelReader
from openpyxl.worksheet._reader import WorkSheetParser
from openpyxl.xml.constants import SHARED_STRINGS, SHEET_MAIN_NS
from openpyxl.xml.functions import iterparse

_SHARED: Final = f"{{{SHEET_MAIN_NS}}}si"
_INLINE: Final = f"{{{SHEET_MAIN_NS}}}is"
_TEXT: Final = f"{{{SHEET_MAIN_NS}}}t"
_ESCAPED: Final = "x005F_"  # an underscore that would begin an escape; openpyxl drops the rest of it


def open_workbook(stream: BinaryIO) -> Any:
    """Return the workbook in a stream, with the values of formulas."""
    reader = _Reader(stream, read_only=True, data_only=True)
    reader.read()
    return reader.wb


def read_rows(sheet: Any) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield the rows that a sheet has, with their numbers.

    A cell has its `column` from 1, its `value`, and a `data_type`, which is "e" for an error. The size that the sheet
    gives for itself is not asked: some programs write a wrong one, and rows would be missing.
    """
    with sheet._get_source() as source:  # noqa: SLF001 - see the module's docstring
        texts, dates = sheet._shared_strings, sheet.parent._date_formats  # noqa: SLF001 - as above
        yield from _Parser(source, texts, data_only=True, date_formats=dates).parse()


class _Texts:
    """The texts that cells share, by their number. A list of str would take four times the memory."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("Q", [0])

    def append(self, text: str) -> None:
        self._text += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._text))

    def __getitem__(self, number: int) -> str:
        return self._text[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogatepass")


class _Reader(ExcelReader):  # type: ignore[misc]  # openpyxl has no types
    """Reads a workbook, and keeps its shared texts small."""

    def read_strings(self) -> None:
        self.shared_strings = _Texts()
        part = self.package.find(SHARED_STRINGS)
        if part is None:
            return
        with self.archive.open(part.PartName[1:]) as source:
            events = iterparse(source, ("start", "end"))
            _, root = next(events)
            for event, node in events:
                if event == "end" and node.tag == _SHARED:
                    self.shared_strings.append(_read_text(node).replace(_ESCAPED, ""))
                    root.clear()  # else it would keep an empty node of each text


class _Parser(WorkSheetParser):  # type: ignore[misc]  # openpyxl has no types
    """Reads the cells of a sheet, and a text within a cell by itself."""

    def parse_cell(self, element: Element) -> dict[str, Any]:
        if element.get("t") != "inlineStr" or (text := element.find(_INLINE)) is None:
            return super().parse_cell(element)  # type: ignore[no-any-return]  # as above
        element.remove(text)  # openpyxl then reads the cell's place alone
        return {**super().parse_cell(element), "value": _read_text(text), "data_type": "s"}


def _read_text(node: Element) -> str:
    if len(node) == 1 and node[0].tag == _TEXT:
        return node[0].text or ""
    return str(Text.from_tree(node).content)

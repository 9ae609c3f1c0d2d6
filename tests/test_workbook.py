"""Workbooks that openpyxl itself writes: their rows are those that openpyxl reads, and damage is one sentence."""

import contextlib
import io
import re
import zipfile
from collections.abc import Iterable
from datetime import date
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl.cell.rich_text import CellRichText, TextBlock
from openpyxl.cell.text import InlineFont

from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._rows import BadRow, RowSms, read_rows
from oca_sms_async.cli._workbook import Unreadable, read_sheet

PHONE = "081234567890"
SHARED = """<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{}</sst>"""
TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"


def write_book(rows: Iterable[Iterable[Any]]) -> bytes:
    """Return a workbook with one sheet of these rows."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append([*row])
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def share_texts(content: bytes) -> bytes:
    """Return a workbook with its texts in a table of their own, as Excel writes them."""
    texts = list[str]()

    def number(found: re.Match[str]) -> str:
        texts.append(f"<si>{found[2]}</si>")
        return f'<c r="{found[1]}" t="s"><v>{len(texts) - 1}</v></c>'

    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        for name in old.namelist():
            text = old.read(name).decode()
            if name == "xl/worksheets/sheet1.xml":
                text = re.sub(r'<c r="([A-Z]+[0-9]+)" t="inlineStr"><is>(.*?)</is></c>', number, text, flags=re.DOTALL)
            if name == "[Content_Types].xml":
                part = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{TYPE}"/></Types>'
                text = text.replace("</Types>", part)
            new.writestr(name, text)
        new.writestr("xl/sharedStrings.xml", SHARED.format("".join(texts)))
    assert texts
    return written.getvalue()


def read_all(content: bytes) -> list[tuple[int, list[object]]]:
    """Return the rows of the first sheet."""
    return [*read_sheet(io.BytesIO(content), None)]


@pytest.mark.parametrize("shared", [False, True])
def test_texts_are_those_of_openpyxl(shared: bool) -> None:
    """Texts in several formats, with line ends, blanks or nothing in them are read as openpyxl reads them."""
    rich = CellRichText("Kode ", TextBlock(InlineFont(b=True), "482913"), " 😀")
    rows = [["a", rich, "two\nlines"], [" b ", "é", "_x0041_"], ["c", "<&>", "_x005F_x0041_"]]
    content = share_texts(write_book(rows)) if shared else write_book(rows)
    expected = [[*row] for row in openpyxl.load_workbook(io.BytesIO(content)).active.values]
    assert [values for _, values in read_all(content)] == expected
    assert expected[0][1] == "Kode 482913 😀"


@pytest.mark.parametrize("shared", [False, True])
def test_an_empty_text_is_an_empty_cell(shared: bool) -> None:
    """A text element without any content is no damage: Excel writes some for cells that were cleared."""
    content = write_book([["phone", "message"], [PHONE, "CLEARED"]])
    written = io.BytesIO()
    whole = share_texts(content) if shared else content
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(written, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"<t>CLEARED</t>", b""))
    assert read_all(written.getvalue())[1] == (2, [PHONE, ""])


def test_empty_cells_and_rows_keep_the_places() -> None:
    """Behind empty cells and rows, a cell has its column, a row its number, and a fault its cell's name."""
    [(first, names), (second, values)] = read_all(
        write_book([[None, "phone"], [], [None, PHONE, *[None] * 25, 1.5, date(2030, 1, 1), True, "=1/0", "#N/A"]])
    )
    assert (first, names, second, values[:2]) == (1, ["", "phone"], 3, ["", PHONE])
    refused = [it.fault.split()[1] for it in values if isinstance(it, Unreadable)]
    assert refused == ["AB3", "AC3", "AD3", "AF3"]


def test_a_sheet_that_gives_no_size_for_itself() -> None:
    """The rows of a sheet without a dimension are all there."""
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in [("phone", "message"), (PHONE, "Halo"), (6281234567891, "Halo")]:
        sheet.append(row)
    content = io.BytesIO()
    book.save(content)
    found = [*read_rows(content)]
    assert [row.phone for row in found if isinstance(row, RowSms)] == ["+6281234567890", "+6281234567891"]


@settings(deadline=None)  # a busy machine must not fail a test
@given(
    st.sampled_from(["xl/worksheets/sheet1.xml", "xl/sharedStrings.xml", "xl/workbook.xml", "[Content_Types].xml"]),
    st.integers(0, 2000),
    st.sampled_from([b"", b"<", b"9", b"-1", b"&", b'"', b"\0", b"<v>99</v>"]),
    st.integers(0, 40),
)
def test_a_damaged_workbook_is_rows_or_one_sentence(part: str, at: int, put: bytes, cut: int) -> None:
    """Any damage to the XML within a workbook ends in rows or in an `InputError`."""
    written = io.BytesIO()
    whole = share_texts(write_book([["phone", "message"], [PHONE, "Halo"]]))
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(written, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            place = at % len(content) if name == part else 0
            new.writestr(name, content[:place] + put + content[place + cut :] if name == part else content)
    with contextlib.suppress(InputError):
        assert all(isinstance(row, RowSms | BadRow) for row in read_rows(written))


@pytest.mark.parametrize("flag", [1, 32, 64])
def test_an_encrypted_archive_is_one_sentence(flag: int) -> None:
    """A workbook in an archive that is encrypted, patched or of a strange encryption is refused."""
    content = bytearray(write_book([["phone", "message"], [PHONE, "Halo"]]))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(re.escape(signature), bytes(content)):
            content[found.start() + offset] |= flag
    with pytest.raises(InputError, match=r"^the file is no workbook that can be read"):
        read_all(bytes(content))

"""Files as spreadsheets, databases and people write them, byte by byte, and their messages.

`files/outcomes.json` has the outcome of each file: its messages (number and text), its bad rows, or the sentence that
refuses it; where it matters, keys and lines too; and the layout that a user names.
"""

import itertools
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from oca_sms_async.cli._input_errors import InputError
from oca_sms_async.cli._layout import DELIMITERS, Layout
from oca_sms_async.cli._rows import BadRow, RowSms, name_place, read_rows

FOLDER: Final = Path(__file__).parent / "files"
OUTCOMES: Final[dict[str, dict[str, Any]]] = json.loads((FOLDER / "outcomes.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_file_has_its_outcome(name: str) -> None:
    """The messages and the bad rows of a file, or the sentence that refuses it, are those of `outcomes.json`."""
    expected = OUTCOMES[name]
    layout = Layout(**expected.get("layout", {}))
    with (FOLDER / name).open("rb") as stream:
        if "refused" in expected:
            with pytest.raises(InputError, match=f"^{re.escape(expected['refused'])}$"):
                list(read_rows(stream, layout))
            return
        rows = list(read_rows(stream, layout))
    good = [row for row in rows if isinstance(row, RowSms)]
    assert [[row.phone, row.message] for row in good] == expected["messages"]
    assert [f"{name_place(row)}: {row.reason}" for row in rows if isinstance(row, BadRow)] == expected.get("bad", [])
    if "keys" in expected:
        assert [row.key for row in good] == expected["keys"]
    if "lines" in expected:
        assert [row.line for row in rows] == expected["lines"]


def test_each_file_has_an_outcome() -> None:
    """A file without an outcome would test nothing."""
    assert {path.name for path in FOLDER.iterdir()} == {*OUTCOMES, "outcomes.json"}


MESSAGES: Final = [
    ("+6281234567890", "Acme: 1"),
    ("+6281234567891", 'Acme, "2"; é | tab\t.'),
    ("+6281234567892", "Acme:\n3"),
]
ENCODINGS: Final = ("utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1")
QUOTINGS: Final = ("all", "needed", "spaced")


def write(delimiter: str, quoting: str, end: str) -> str:
    """Write the messages as a CSV."""
    blank = " " if quoting == "spaced" else ""
    lines = []
    for fields in [("phone", "message"), *MESSAGES]:
        quoted = []
        for field in fields:
            needs_quotes = quoting != "needed" or any(char in field for char in f'{delimiter}"\r\n')
            written = '"' + field.replace('"', '""') + '"' if needs_quotes else field
            quoted.append(f"{blank}{written}{blank}")
        lines.append(delimiter.join(quoted))
    return end.join([*lines, ""])


@pytest.mark.parametrize(
    ("delimiter", "encoding", "quoting", "end"),
    [*itertools.product(DELIMITERS, ENCODINGS, QUOTINGS, ("\n", "\r\n", "\r"))],
)
def test_any_dialect_has_the_same_messages(
    delimiter: str, encoding: str, quoting: str, end: str, tmp_path: Path
) -> None:
    """Every delimiter, encoding, kind of quotes and end of lines gives the same messages."""
    path = tmp_path / "rows.csv"
    path.write_bytes(write(delimiter, quoting, end).encode(encoding))
    layout = Layout(encoding=encoding if encoding in {"cp1252", "latin-1"} else None)
    with path.open("rb") as stream:
        rows = list(read_rows(stream, layout))
    assert [(row.phone, row.message) for row in rows if isinstance(row, RowSms)] == MESSAGES
    assert [row.line for row in rows] == [2, 3, 4]

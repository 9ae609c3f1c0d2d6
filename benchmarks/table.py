"""The output of all benchmarks: one table, or the same as JSON. `rows_of` reads a table back."""

import json
import re
import sys
from collections.abc import Sequence

_NOTHING = "–"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a title, with a dash for None. With the argument `--json`, print a list of objects instead."""
    if "--json" in sys.argv[1:]:
        print(json.dumps({"title": title, "rows": [dict(zip(columns, row, strict=True)) for row in rows]}))
        return
    print(text(title, columns, rows))


def text(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return the table, without a line break after the last row."""
    texts = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (columns, ["-" * width for width in widths], *texts)
    ]
    return "\n".join([title, *lines])


def rows_of(table: str) -> list[dict[str, str]]:
    """Return the cells of each row of a table, by column. A dash, which stands for None, is left out."""
    _, head, rule, *lines = table.splitlines()
    places = [slice(*found.span()) for found in re.finditer("-+", rule)]
    columns = [head[place].strip() for place in places]
    rows = (zip(columns, (line[place].strip() for place in places), strict=True) for line in lines)
    return [{column: cell for column, cell in row if cell != _NOTHING} for row in rows]


def _cell(cell: object) -> str:
    return _NOTHING if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell)

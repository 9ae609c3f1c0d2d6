"""What all benchmarks print: one table, or the same as JSON."""

import json
import sys
from collections.abc import Sequence


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a title, None as a dash; with `--json` among the arguments, a list of objects instead."""
    if "--json" in sys.argv[1:]:
        print(json.dumps({"title": title, "rows": [dict(zip(columns, row, strict=True)) for row in rows]}))
        return
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    print(title)
    for line in (columns, ["-" * width for width in widths], *texts):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _text(cell: object) -> str:
    return "–" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell)

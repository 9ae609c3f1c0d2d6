"""The measured figures that documents quote, and the tables in `benchmarks/results` that they come from.

A quoted figure has a comment right behind its number and its unit. No reader of the page sees it:

    takes 12 ms<!-- figure: latency / ours, even, no bulk / p99, ms --> at most

The comment names the table, the first cells of the row as they stand there, and the column. The number has as many
digits as the sentence likes. The words `about`, `at most`, `at least`, `less than` and `more than` count if they stand
before it. `never` is a figure too.
"""

import operator
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from attrs import frozen
from documents import PAGES, ROOT, leave_out_code, name_of, read

sys.path.append(str(ROOT / "benchmarks"))
from table import rows_of

RESULTS: Final = ROOT / "benchmarks" / "results"
QUOTING: Final = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md"))]
_ROUGH: Final = 0.2  # `about` permits this share of the measured figure

_UNIT: Final = (
    r"(?:µs|ms|s|seconds?|detik|[kMG]i?B|%|times|kali|×|/s|/detik|(?:(?:requests|messages|rows|sends) )?a second)"
)
_MARK: Final = re.compile(r"<!--\s*figure:\s*(.*?)\s*-->", re.DOTALL)
_FIGURE: Final = re.compile(
    rf"(?P<relation>(?:about|at most|at least|less than|more than)\s+)?"
    rf"(?P<number>\d[\d,]*(?:\.\d+)?|never)(?P<unit> ?{_UNIT})?(?=<!--\s*figure:)"
)
# A number with a unit of measurement, a decimal fraction, or a ratio in words.
_MEASURED: Final = re.compile(
    rf"\d[\d.,]*(?:\s?{_UNIT}(?!\w)| of the\b)|(?<!\d\.)\b\d+\.\d+\b(?!\.\d)"
    r"|\b(?:halv\w+|\w+fold|twice as|(?:two|three|four|five|ten|many) times|than half|half (?:of )?the)\b"
    r"|\b(?:a|one) (?:third|quarter|tenth|half) of\b"
)

_RELATIONS: Final[dict[str, Callable[[float, float], bool]]] = {
    "about": lambda measured, told: abs(measured - told) <= _ROUGH * measured,
    "at most": operator.le,
    "at least": operator.ge,
    "less than": operator.lt,
    "more than": operator.gt,
}


@frozen
class Quotation:
    """A figure of a page and its place in a table. `figure` is None if no number stands before the comment."""

    page: str
    line: int
    sentence: str
    relation: str
    figure: str | None
    place: str

    def fault(self) -> str | None:
        """Return the sentence that tells how page and table differ, or None if they agree."""
        where = f"{self.page}:{self.line}: «{self.sentence}»"
        if self.figure is None:
            return f"{where}: the comment «{self.place}» must stand right behind a number or its unit"
        try:
            measured = find_cell(self.place)
        except LookupError as error:
            return f"{where}: {error.args[0]}"
        if agree(self.relation, self.figure, float(measured)):
            return None
        told = f"{self.relation} {self.figure}".strip()
        return (
            f"{where}: it says «{told}», and benchmarks/results has {measured} at «{self.place}»: change the sentence"
        )


def find_cell(place: str) -> str:
    """Return the cell at a place. `LookupError` with a sentence if there is none, or more than one row."""
    name, *first = place.split(" / ")
    column = first.pop() if first else ""
    file = RESULTS / f"{name}.txt"
    if not file.exists():
        raise LookupError(f"there is no table {name}.txt in benchmarks/results")
    rows = rows_of(file.read_text(encoding="utf-8"))
    found = [row for row in rows if list(row.values())[: len(first)] == first]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows of {name}.txt begin with «{' / '.join(first)}»")
    if column not in found[0]:
        raise LookupError(f"{name}.txt has no figure in the column «{column}» of that row; it has {list(found[0])}")
    return found[0][column]


def agree(relation: str, told: str, measured: float) -> bool:
    """Tell whether a figure of a text is true. Without a relation, it is the measured one, rounded as it stands."""
    number = 0.0 if told == "never" else float(told.replace(",", ""))
    if relation:
        return _RELATIONS[relation](measured, number)
    if told == "never":
        return measured == 0
    return round(measured, _digits(told)) == number


def _digits(told: str) -> int:
    """Return the digits behind the point that a figure shows; below 0 for zeros at its end. Two digits always count."""
    whole, _, behind = told.replace(",", "").partition(".")
    zeros = len(whole) - len(whole.rstrip("0"))
    return len(behind) or -min(zeros, max(0, len(whole) - 2))


def quotations_of(page: Path) -> Iterator[Quotation]:
    """Yield the marked figures of a page."""
    yield from find_quotations(read(page), name_of(page))


def find_quotations(text: str, page: str) -> Iterator[Quotation]:
    """Yield the marked figures of a text."""
    before = {found.end(): found for found in _FIGURE.finditer(text)}
    for mark in _MARK.finditer(text):
        figure, line = before.get(mark.start()), text.count("\n", 0, mark.start()) + 1
        relation = "" if figure is None else " ".join((figure["relation"] or "").split())
        place = " ".join(mark[1].split())
        number = None if figure is None else figure["number"]
        yield Quotation(page, line, _sentence_at(text, mark.start()), relation, number, place)


def find_unmarked(text: str) -> Iterator[str]:
    """Yield each figure of a text that looks measured and has no comment. Code is left out."""
    unmarked = re.sub(r"(?s)<!--.*?-->", "", _FIGURE.sub("", text))
    for found in _MEASURED.finditer(re.sub(r"`[^`\n]*`", "`", leave_out_code(unmarked))):
        yield " ".join(found[0].split())


def _sentence_at(text: str, place: int) -> str:
    """Return the sentence round a place, without its comments."""
    shown = re.sub(r"(?s)<!--.*?-->", lambda comment: " " * len(comment[0]), text) + "\n\n"
    start = max(shown.rfind(end, 0, place) + len(end) for end in ("\n\n", ". ", ".\n", ": "))
    end = min(found for mark in ("\n\n", ". ", ".\n") if (found := shown.find(mark, place)) >= 0)
    return " ".join(shown[start:end].split())

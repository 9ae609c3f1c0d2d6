"""Each measured figure of README and documents is the one in `benchmarks/results`, which come from one run."""

import re
from pathlib import Path
from typing import Final

import pytest
from documents import ROOT, name_of, read
from figures import QUOTING, RESULTS, agree, find_cell, find_quotations, find_unmarked, quotations_of
from table import rows_of

ANYWHERE: Final = "any page"
# Figures that no benchmark measures, with the reason.
CONSTANTS: Final = {
    ANYWHERE: {
        "25 requests a second": "the limit of the gateway",
        "22 a second": "the default rate",
        "3.11": "the oldest Python",
    },
    "docs/campaigns.md": {"10 seconds": "the default of `timeout`"},
    "docs/faults.md": {
        "1 MB": "a fault that the tests play",
        "200 MB": "as above",
        "1 GB": "as above",
        "200 times": "the kills of `nox -s kills`",
    },
    "docs/limits.md": {
        "100 ms": "a jitter that the benchmark of bursts plays",
        "10 s": "the default of `timeout`",
        "60 s": "the default of `history`'s `timeout`",
        "0.5 s": "the default of `initial_wait`",
        "8 s": "the default of `max_wait`",
        "1 MiB": "the bound of an answer",
        "64 MiB": "the bound of a history",
    },
    "docs/operations.md": {"10 s": "the default of `timeout`"},
    "docs/otp-service.md": {
        "60 seconds": "a choice of the service",
        "20 seconds": "as above",
    },
    "docs/versions.md": {"1.0": "a part of a version", "0.0": "as above"},
    "SECURITY.md": {
        "1.1": "the version of HTTP",
        "1 MiB": "the bound of an answer",
        "64 MiB": "the bound of a history",
    },
}
TABLE: Final = """A title.
client        in flight  p99, ms  to ours, 1/s
------------  ---------  -------  ------------
ours          16         12.3     –
ours, a long  16         1.2e+03  0.5
"""


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results with one table, in the place of the real ones."""
    (tmp_path / "bulk.txt").write_text(TABLE, encoding="utf-8")
    monkeypatch.setattr("figures.RESULTS", tmp_path)
    return tmp_path


# --- the real documents and tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", QUOTING, ids=name_of)
def test_quoted_figures_are_measured(page: Path) -> None:
    """Each figure with a comment that names its place in a table is the one that stands there."""
    faults = [fault for it in quotations_of(page) if (fault := it.fault()) is not None]
    assert not faults, "\n\n".join(["these sentences and the tables differ:", *faults])


@pytest.mark.parametrize("page", QUOTING, ids=name_of)
def test_no_figure_is_without_its_source(page: Path) -> None:
    """Each figure with a unit has a comment that names its place in a table, or is a constant with a reason."""
    constants = CONSTANTS[ANYWHERE].keys() | CONSTANTS.get(name_of(page), {}).keys()
    bare = [figure for figure in find_unmarked(read(page)) if figure not in constants]
    advice = "write `<!-- figure: TABLE / FIRST CELLS / COLUMN -->` right behind it, or name it among the constants"
    assert not bare, f"{name_of(page)}: {bare}: {advice}"


def test_each_constant_is_somewhere() -> None:
    """The list of constants has no figure that no page has any more."""
    found = {name_of(page): {*find_unmarked(read(page))} for page in QUOTING}
    found[ANYWHERE] = {figure for figures in found.values() for figure in figures}
    assert {page: figures.keys() - found[page] for page, figures in CONSTANTS.items()} == {
        it: set() for it in CONSTANTS
    }


def test_some_figures_are_quoted() -> None:
    """The pages about speed and limits quote figures, so the comments are found at all."""
    assert {"docs/speed.md", "docs/limits.md"} <= {it.page for page in QUOTING for it in quotations_of(page)}


def test_each_benchmark_has_its_table() -> None:
    """All tables come from `nox -s bench`, which runs each script that shows one, but not the soak."""
    folder = RESULTS.parent
    scripts = {file.stem for file in folder.glob("*.py") if re.search(r"^    +show\(", read(file), re.MULTILINE)}
    run = re.search(r"NAMES = \((.*?)\)", read(folder / "run.py"), re.DOTALL)
    assert run is not None
    assert {*re.findall(r'"(\w+)"', run[1])} == scripts - {"soak"} == {file.stem for file in RESULTS.glob("*.txt")}


def test_the_page_about_speed_shows_each_table() -> None:
    """`docs/speed.md` includes all tables but that of bursts, which stands in `docs/limits.md`."""
    shown = {
        page: {*re.findall(r'--8<-- "benchmarks/results/(\w+)\.txt"', read(ROOT / page))}
        for page in ("docs/limits.md", "docs/speed.md")
    }
    assert shown["docs/limits.md"] == {"burst"}
    assert shown["docs/speed.md"] == {file.stem for file in RESULTS.glob("*.txt")} - {"burst"}


# --- the convention -------------------------------------------------------------------------------------------------


def test_a_table_is_read_back() -> None:
    """The cells of a table are found by their columns, and a dash is none."""
    first, second = rows_of(TABLE)
    assert first == {"client": "ours", "in flight": "16", "p99, ms": "12.3"}
    assert second == {"client": "ours, a long", "in flight": "16", "p99, ms": "1.2e+03", "to ours, 1/s": "0.5"}


@pytest.mark.parametrize(
    ("relation", "told", "measured", "expected"),
    [
        ("", "12.3", 12.34, True),
        ("", "12", 12.34, True),
        ("", "13", 12.34, False),
        ("", "0.30", 0.296, True),
        ("", "0.30", 0.31, False),
        ("", "1,200", 1240.0, True),
        ("", "1,200", 1260.0, False),
        ("", "100", 96.0, True),
        ("", "100", 94.0, False),
        ("", "20", 21.0, False),
        ("", "never", 0.0, True),
        ("", "never", 0.01, False),
        ("about", "100", 90.0, True),
        ("about", "100", 80.0, False),
        ("at most", "1.1", 1.1, True),
        ("at most", "1.1", 1.11, False),
        ("at least", "1.1", 1.1, True),
        ("at least", "1.1", 1.09, False),
        ("less than", "1.1", 1.09, True),
        ("less than", "1.1", 1.1, False),
        ("more than", "1.1", 1.11, True),
        ("more than", "1.1", 1.1, False),
    ],
)
def test_a_figure_is_rounded_as_it_stands(relation: str, told: str, measured: float, *, expected: bool) -> None:
    """A figure has the digits that it shows, but two at least; a word before it permits more."""
    assert agree(relation, told, measured) is expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("takes 12 ms<!-- figure: bulk / ours / p99, ms -->", None),
        ("takes\n12 ms<!-- figure: bulk / ours / 16 /\np99, ms --> or so", None),
        ("at\nmost 0.5<!--figure: bulk / ours, a long / to ours, 1/s-->", None),
        ("1,200 rows a second<!-- figure: bulk / ours, a long / p99, ms -->", None),
        ("takes 13 ms<!-- figure: bulk / ours / p99, ms -->", "says «13», and benchmarks/results has 12.3 at «bulk / "),
        ("at least 13<!-- figure: bulk / ours / p99, ms -->", "says «at least 13», and benchmarks/results has 12.3"),
        ("12 of it<!-- figure: bulk / ours / p99, ms -->", "must stand right behind a number"),
        ("12 ms <!-- figure: bulk / ours / p99, ms -->", "must stand right behind a number"),
        ("12<!-- figure: bulky / ours / p99, ms -->", "no table bulky.txt"),
        ("12<!-- figure: bulk / our / p99, ms -->", "0 rows of bulk.txt begin with «our»"),
        ("12<!-- figure: bulk / p99, ms -->", "2 rows of bulk.txt begin with «»"),
        ("12<!-- figure: bulk / ours / p98, ms -->", "no figure in the column «p98, ms»"),
        ("12<!-- figure: bulk / ours / to ours, 1/s -->", "no figure in the column «to ours, 1/s»"),
        ("12<!-- figure: bulk -->", "2 rows of bulk.txt begin with «»"),
    ],
)
def test_a_quotation_is_compared(results: Path, text: str, fault: str | None) -> None:
    """A figure that differs from its table, or that names no place, is told with its sentence."""
    (found,) = find_quotations(f"A title.\n\nThe message {text}. An end.", "page.md")
    told = found.fault()
    if fault is None:
        assert told is None
    else:
        assert told is not None
        assert fault in told
        assert told.startswith("page.md:3: «The message ")


def test_a_cell_is_found(results: Path) -> None:
    """A place names a table, the first cells of a row and a column."""
    assert find_cell("bulk / ours, a long / 16 / p99, ms") == "1.2e+03"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12 ms and 0.5 of the rest", ["12 ms", "0.5 of the"]),
        ("costs 0.11, and 1.5<!-- figure: a / b --> of Python 3.11.", ["0.11", "3.11"]),
        ("costs 0.11<!-- figures: a / b --> in 1.0.1", ["0.11"]),
        ("12 ms<!-- figure: a / 100 ms / b --> and 12 ms", ["12 ms"]),
        ("12<!-- figure: a / b --> ms", []),
        ("12 ms <!-- figure: a / b -->", ["12 ms"]),
        ("90 % of 1,500 rows a second, 3 times", ["90 %", "1,500 rows a second", "3 times"]),
        ("halves it, twice as fast, ten times, less than half", ["halves", "twice as", "ten times", "than half"]),
        ("`timeout=10 s` and\n\n    10 ms\n\n```text\n10 ms\n```\n<!-- 10 ms -->", []),
        ("10 messages, 25 rows, 3 machines, a second", []),
    ],
)
def test_bare_figures_are_found(text: str, found: list[str]) -> None:
    """Figures with a unit, and ratios in words, are found outside of code, unless a comment follows."""
    assert [*find_unmarked(text)] == found

"""Runs all benchmarks and leaves their tables in `benchmarks/results`, and plots of four of them in `docs/figures`.

With names, those only; with `--from`, out of a folder of `NAME.json` that `NAME.py --json` printed, without running.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from table import text

HERE = Path(__file__).parent
RESULTS = HERE / "results"
FIGURES = HERE.parent / "docs" / "figures"
NAMES = ("bulk", "latency", "pace", "burst", "limiter", "keyed", "campaign", "memory", "growth", "import_time")
COLOURS = ("#0b5fa5", "#e08e0b", "#7a8794")
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid.axis": "x",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.color": "#dde2e7",
    "svg.fonttype": "path",  # the reader needs no font
    "svg.hashsalt": "oca-sms-async",
}

Rows = list[dict[str, Any]]


def bars(axes: Axes, names: Sequence[str], series: dict[str, list[float]], title: str) -> None:
    """Draw horizontal bars with their figures, a colour for each series. In a single series our bars stand out."""
    height = 0.8 / len(series)
    for index, (label, values) in enumerate(series.items()):
        places = [place + (index - (len(series) - 1) / 2) * height for place in range(len(names))]
        ours = [COLOURS[0] if name.startswith("ours") else COLOURS[2] for name in names]
        drawn = axes.barh(places, values, height, label=label, color=ours if len(series) == 1 else COLOURS[index])
        axes.bar_label(drawn, [f"{it:.0f}" if it >= 100 else f"{it:.3g}" for it in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)  # the first one on top, on shared axes too
    axes.tick_params(left=False)
    axes.margins(x=0.18)
    axes.set_title(title, loc="left")


def bulk(figure: Figure, rows: Rows) -> None:
    """CPU per message, for two numbers in flight."""
    for axes, in_flight in zip(figure.subplots(1, 2, sharey=True, sharex=True), (64, 256), strict=True):
        some = [row for row in rows if row["in flight"] == in_flight]
        title = f"µs of CPU per message, {in_flight} in flight"
        bars(axes, [row["client"] for row in some], {"": [row["µs CPU"] for row in some]}, title)


def latency(figure: Figure, rows: Rows) -> None:
    """Waits in token times, on a logarithmic scale."""
    axes, columns = figure.subplots(), {"median": "median, tokens", "p99": "p99, tokens"}
    series = {label: [row[column] for row in rows] for label, column in columns.items()}
    bars(axes, [row["client"] for row in rows], series, "Wait of an interactive send behind a bulk, in token times")
    axes.set_xscale("log")
    axes.legend(loc="upper right", frameon=False)


def pace(figure: Figure, rows: Rows) -> None:
    """The refused requests, and the used share of the allowance."""
    names = list(dict.fromkeys(row["limiter"] for row in rows))
    jitters = list(dict.fromkeys(row["jitter, ms"] for row in rows))
    titles = {"refused, %": "Refused, %", "share used": "Share of the allowance used"}
    for axes, (column, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        series = {f"{it:.0f} ms": [row[column] for row in rows if row["jitter, ms"] == it] for it in jitters}
        bars(axes, names, series, title)
    figure.legend(*axes.get_legend_handles_labels(), title="jitter", loc="outside right center", frameon=False)


def memory(figure: Figure, rows: Rows) -> None:
    """Growth over the number of messages, both logarithmic."""
    axes = figure.subplots()
    for label, colour in zip(("ours", "gather"), COLOURS, strict=False):
        points = [(row["messages"], row[f"{label}, MB"]) for row in rows if row[f"{label}, MB"] is not None]
        axes.loglog(*zip(*points, strict=True), "o-", color=colour, label=label)
    axes.grid(axis="y")
    axes.set_title("Peak growth of memory, MB, over messages", loc="left")
    axes.legend(frameon=False)


PLOTS: dict[str, tuple[float, Callable[[Figure, Rows], None]]] = {
    "bulk": (2.6, bulk),
    "latency": (3.0, latency),
    "pace": (4.6, pace),
    "memory": (3.2, memory),
}


def main() -> None:
    """Write a table for each, and the plots that there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--from", dest="folder", type=Path, help="take NAME.json out of this folder")
    parser.add_argument("--plot", action="store_true", help="changes nothing: what nox was given comes along")
    asked = parser.parse_args()
    for folder in (RESULTS, FIGURES):
        folder.mkdir(exist_ok=True)
    mpl.rcParams.update(STYLE)
    for name in asked.names or NAMES:
        command = [sys.executable, str(HERE / f"{name}.py"), "--json"]
        found = (asked.folder / f"{name}.json").read_text() if asked.folder else subprocess.check_output(command)
        measured = json.loads(found)
        rows: Rows = measured["rows"]
        table = text(measured["title"], list(rows[0]), [list(row.values()) for row in rows])
        (RESULTS / f"{name}.txt").write_text(f"{table}\n")
        print(table, end="\n\n", flush=True)
        if name in PLOTS:
            height, draw = PLOTS[name]
            figure = Figure(figsize=(7.5, height), layout="constrained", facecolor="white")  # 720 pixels wide
            draw(figure, rows)
            figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()

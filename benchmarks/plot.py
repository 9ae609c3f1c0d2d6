"""Draws the plots of `docs/speed.md` out of the tables in `benchmarks/results`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from table import rows_of

RESULTS = Path(__file__).parent / "results"
FIGURES = RESULTS.parent.parent / "docs" / "figures"
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


def read(name: str) -> Rows:
    """Return the rows of a table, with numbers as numbers and None for a dash."""
    rows = rows_of((RESULTS / f"{name}.txt").read_text(encoding="utf-8"))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: number_or_text(row.get(column)) for column in columns} for row in rows]


def number_or_text(cell: str | None) -> float | str | None:
    """Return a cell as a number, if it is one."""
    try:
        return None if cell is None else float(cell)
    except ValueError:
        return cell


def main() -> None:
    """Draw them all."""
    mpl.rcParams.update(STYLE)
    for name, (height, draw) in PLOTS.items():
        figure = Figure(figsize=(7.5, height), layout="constrained", facecolor="white")  # 720 pixels wide
        draw(figure, read(name))
        figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()

"""How every figure looks and how it is written: the same bytes from the same rows.

Figures are built on ``matplotlib.figure.Figure``; pyplot is never imported, and settings are changed
only inside ``drawing``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snnconv.runs import write_whole

DPI = 160
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Distinct to the colour-blind. Ref: Okabe and Ito 2008, without the yellow, which is too pale for a line."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PALE = "#C8C8C8"
PUBLISHED = "published"
"""What marks of published values are called; it comes last in legends."""
CHARACTER = 0.075
"""Mean width of a character in a legend [inches]."""

Row = Mapping[str, Any]
"""One line of the CSV: column to value."""

_SETTINGS: dict[str, Any] = {
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "snnconv",
    "savefig.dpi": DPI,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's defaults and the settings above, whatever the user's matplotlibrc says; restored afterwards."""
    with mpl.rc_context(), mpl.style.context(["default", _SETTINGS]):
        yield


def colour(number: int) -> str:
    """Colour of the n-th series; they repeat after seven."""
    return PALETTE[number % len(PALETTE)]


def legend_above(axes: Axes, room: float) -> None:
    """Put the legend over the axes, where no data are, in as many columns as fit into ``room`` [inches]."""
    entries = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] == PUBLISHED)
    handles, texts = zip(*entries, strict=True)
    columns = max(1, int(room / (0.6 + CHARACTER * max(map(len, texts)))))
    axes.legend(
        handles, texts, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.3, columnspacing=1.2
    )


def configurations(axes: Axes, names: Sequence[str]) -> None:
    """Put the names on the x axis, one unit apart."""
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.65, len(names) - 0.35)
    axes.tick_params(axis="x", length=0)


def draw_hollow(axes: Axes, places: Sequence[float], heights: Sequence[float], width: float) -> None:
    """Bars of published values, which were not measured here."""
    axes.bar(places, heights, width, facecolor="none", edgecolor="black", linewidth=1.1, label=PUBLISHED)


def write_above(axes: Axes, x: float, y: float, text: str) -> None:
    """Write a short text over a bar."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.85}
    axes.annotate(
        text, (x, y), (0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=8, bbox=box, zorder=4
    )


def save(figure: Figure, out: Path, rows: Sequence[Row]) -> tuple[Path, Path, Path]:
    """Write a figure as PNG and SVG and its rows as CSV, each whole or not at all; call it within ``drawing``.

    Args:
        figure: What to draw.
        out: Path without suffix.
        rows: What was drawn; all have the same columns.

    Returns:
        Paths of PNG, SVG and CSV.

    Raises:
        RunError: the folder cannot be written.
    """
    png, svg, table = (out.with_name(out.name + suffix) for suffix in (".png", ".svg", ".csv"))
    write_whole(png, lambda path: figure.savefig(path, format="png", metadata={"Software": None}))
    write_whole(svg, lambda path: figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "snnconv"}))
    write_whole(table, lambda path: _write_csv(path, rows))
    return png, svg, table


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

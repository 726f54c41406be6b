"""The figure of synaptic operations (SOPs) by convention, beside what the ANN computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snnconv.errors import RunError
from snnconv.reporting.labels import MILLION, short, title
from snnconv.reporting.rows import Result, groups, without_noise
from snnconv.reporting.style import colour, configurations, drawing, legend_above, save, write_above

BAR = 0.5
"""Width kept for a bar, so that two numbers above neighbours do not touch [inches]."""


def plot_sops(
    results: Sequence[Result],
    out: Path,
    conventions: Sequence[str] = ("synops", "fanout"),
    published: Mapping[str, float] | None = None,
) -> tuple[Path, Path, Path]:
    """Draw the SOPs an image of the spiking layers, and the multiply-accumulates (MACs) of the ANN as a line.

    Args:
        results: One a configuration; those without a noise-free simulation are passed over.
        out: Path without suffix.
        conventions: Names of ``sops_per_image``, a bar each.
        published: SOPs an image by configuration, drawn as hollow bars.

    Returns:
        Paths of PNG, SVG and CSV.

    Raises:
        RunError: there is nothing to draw, a convention was not counted, or the folder cannot be written.
    """
    shown = without_noise(results)
    rows = [_row(configuration, simulation, conventions, published) for configuration, simulation in shown]
    columns = [*conventions, *(["published"] if published else [])]
    with drawing():
        figure = Figure(figsize=(max(5.5, BAR * (len(columns) + 0.5) * len(rows) + 2.0), 4.2))
        axes = figure.subplots()
        for index, name in enumerate(columns):
            _draw_bars(axes, [row[name] for row in rows], name, index, len(columns))
        for macs in sorted({row["ann_macs"] for row in rows}):
            _draw_macs(axes, macs)
        configurations(axes, [configuration for configuration, _ in shown])
        axes.set_ylabel("operations an image [M]")
        axes.margins(y=0.1)
        legend_above(axes, figure.get_figwidth() - 1.5)
        figure.suptitle(title("synaptic operations", groups(results), [simulation for _, simulation in shown]))
        return save(figure, out, rows)


def _row(
    configuration: str,
    simulation: Mapping[str, Any],
    conventions: Sequence[str],
    published: Mapping[str, float] | None,
) -> dict[str, Any]:
    counted = simulation["sops_per_image"]
    for name in conventions:
        if name not in counted:
            raise RunError(f"{configuration} has no SOPs by the convention {name!r}: choose from {', '.join(counted)}")
    row = {"configuration": configuration} | {name: counted[name] for name in conventions}
    row |= {"published": published.get(configuration)} if published else {}
    return row | {"ann_macs": simulation["ann_macs"]}


def _draw_bars(axes: Axes, values: Sequence[float | None], name: str, index: int, columns: int) -> None:
    """One bar a configuration that has a value, in the place of the column's index."""
    slot = 0.84 / columns
    heights = {
        number + (index - (columns - 1) / 2) * slot: value / MILLION
        for number, value in enumerate(values)
        if value is not None
    }
    face, edge = ("none", "black") if name == "published" else (colour(index), colour(index))
    axes.bar(list(heights), list(heights.values()), 0.9 * slot, facecolor=face, edgecolor=edge, label=name)
    for x, height in heights.items():
        write_above(axes, x, height, short(height))


def _draw_macs(axes: Axes, macs: float) -> None:
    """A line across, with its number to the right of the axes."""
    height = macs / MILLION
    axes.axhline(height, color="black", linestyle="--", linewidth=1.2, zorder=3)
    axes.annotate(
        f"ANN:\n{short(height)} M\nMACs",
        (1, height),
        (4, 0),
        axes.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        fontsize=9,
    )

"""The figure of synaptic operations (SOPs) by convention, beside what the ANN computes and what is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snnconv.errors import RunError
from snnconv.reporting.labels import MILLION, short, title
from snnconv.reporting.rows import Result, groups, names_of, without_noise
from snnconv.reporting.style import (
    PUBLISHED,
    colour,
    configurations,
    draw_hollow,
    drawing,
    legend_above,
    save,
    write_above,
)

BAR = 0.5
"""Width kept for a bar, so that two numbers above neighbours do not touch [inches]."""
NARROWEST = 2.7
"""A panel is at least so wide, so that its legend fits [inches]."""
ZOU = "zou2021"
"""The convention that published numbers are counted by."""


def plot_sops(
    results: Sequence[Result], out: Path, conventions: Sequence[str] = ("synops", "fanout")
) -> tuple[Path, Path, Path]:
    """Draw the SOPs an image of the spiking layers, and the multiply-accumulates (MACs) of the ANN as a line.

    Where numbers are published, a panel of its own shows them beside ours by the same convention, a larger count.

    Args:
        results: One a configuration; those without a noise-free simulation are passed over.
        out: Path without suffix.
        conventions: Names of ``sops_per_image``, a bar each.

    Returns:
        Paths of PNG, SVG and CSV.

    Raises:
        RunError: there is nothing to draw, a convention was not counted, or the folder cannot be written.
    """
    shown = without_noise(results)
    rows = [_row(result, simulation, conventions) for result, simulation in shown]
    widths = [max(NARROWEST, BAR * (len(conventions) + 0.5) * len(rows))]
    if any(row["published"] for row in rows):
        widths.append(max(NARROWEST, BAR * 2.5 * len(rows)))
    with drawing():
        figure = Figure(figsize=(max(5.5, sum(widths) + 1.0 * len(widths) + 1.0), 4.2))
        panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        for index, name in enumerate(conventions):
            _draw_bars(panels[0], [row[name] for row in rows], name, index, len(conventions), colour(index))
        for macs in sorted({row["ann_macs"] for row in rows}):
            _draw_macs(panels[0], macs)
        panels[0].set_ylabel("operations an image [M]")
        if len(panels) > 1:
            shade = colour(len(conventions))
            _draw_bars(panels[1], [row[ZOU] for row in rows], ZOU, 0, 2, shade)
            _draw_bars(panels[1], [row["published"] for row in rows], PUBLISHED, 1, 2, None)
            panels[1].set_ylabel("operations, counted as published [M]")
        for axes, width in zip(panels, widths, strict=True):
            configurations(axes, names_of(shown))
            axes.margins(y=0.1)
            legend_above(axes, width)
        figure.suptitle(title("synaptic operations", groups(results), [simulation for _, simulation in shown]))
        return save(figure, out, rows)


def _row(result: Result, simulation: Mapping[str, Any], conventions: Sequence[str]) -> dict[str, Any]:
    counted = simulation["sops_per_image"]
    for name in conventions:
        if name not in counted:
            raise RunError(
                f"{result.configuration} has no SOPs by the convention {name!r}: choose from {', '.join(counted)}"
            )
    row = {"configuration": result.configuration} | {name: counted[name] for name in (*conventions, ZOU)}
    published = None if result.published is None else result.published.sops
    return row | {"published": published, "ann_macs": simulation["ann_macs"]}


def _draw_bars(
    axes: Axes, values: Sequence[float | None], name: str, index: int, columns: int, shade: str | None
) -> None:
    """One bar a configuration that has a value, in the place of the column's index; a hollow one without a shade."""
    slot = 0.84 / columns
    heights = {
        number + (index - (columns - 1) / 2) * slot: value / MILLION
        for number, value in enumerate(values)
        if value is not None
    }
    if shade is None:
        draw_hollow(axes, list(heights), list(heights.values()), 0.9 * slot)
    else:
        axes.bar(list(heights), list(heights.values()), 0.9 * slot, color=shade, label=name)
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

"""The figure of accuracy over configurations, without noise and with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snnconv.errors import RunError
from snnconv.reporting.labels import WILSON, Noise, noise_name, noises, percent, title
from snnconv.reporting.rows import Result, groups, in_order, noise_order, published_accuracy
from snnconv.reporting.style import PUBLISHED, Row, colour, configurations, drawing, legend_above, save, write_above

POINT = 0.46
"""Width kept for a point, so that two numbers above neighbours do not touch [inches]."""

NUMBER, MARK = 0.06, 0.012
"""Height of a number above a point, and half that of a published mark, as shares of the axis."""

Noises = tuple[Noise, ...]
"""What a point's colour stands for."""


def plot_accuracy(results: Sequence[Result], out: Path) -> tuple[Path, Path, Path]:
    """Draw the accuracy of each configuration without noise and with each noise, as a point in its 95 % interval.

    Points and no bars, as the axis does not begin at zero. Published accuracies are hollow marks above or below the
    points they belong to.

    Args:
        results: One a configuration; those without simulations are passed over.
        out: Path without suffix.

    Returns:
        Paths of PNG, SVG and CSV.

    Raises:
        RunError: there is nothing to draw, or the folder cannot be written.
    """
    shown = [result for result in in_order(results) if result.simulations]
    if not shown:
        raise RunError(f"{groups(results)} has no simulation results: run `snnconv simulate` first")
    simulations = [simulation for result in shown for simulation in result.simulations]
    rows = [_row(result, simulation) for result in shown for simulation in result.simulations]
    names = _names([noises(simulation) for simulation in simulations])
    slot = 1 / (len(names) + 0.6)
    marks: list[tuple[float, float]] = []
    with drawing():
        figure = Figure(figsize=(max(5.5, POINT * (len(names) + 0.6) * len(shown) + 1.2), 4.2))
        axes = figure.subplots()
        _zoom(axes, rows)
        for index, (noise, name) in enumerate(names.items()):
            found = [(x, s) for x, result in enumerate(shown) for s in result.simulations if noises(s) == noise]
            places = [x + (index - (len(names) - 1) / 2) * slot for x, _ in found]
            drawn = [_row(shown[x], simulation) for x, simulation in found]
            _draw_points(axes, places, drawn, colour(index), name)
            marks += [(x, row["published"]) for x, row in zip(places, drawn, strict=True) if row["published"]]
        if marks:
            _draw_marks(axes, marks)
        configurations(axes, [result.configuration for result in shown])
        axes.set_ylabel(f"accuracy [%]\n{WILSON}")
        legend_above(axes, figure.get_figwidth() - 1.0)
        figure.suptitle(title("accuracy", groups(shown), simulations))
        return save(figure, out, rows)


def _names(shown: Sequence[Noises]) -> dict[Noises, str]:
    """Name of each, weakest first; the layers are named only where they differ."""
    differ = len({layers for noise in shown for _, _, layers in noise}) > 1
    return {noise: noise_name(noise, where=differ) for noise in sorted(set(shown), key=noise_order)}


def _row(result: Result, simulation: Mapping[str, Any]) -> dict[str, Any]:
    noise = noises(simulation)
    low, high = simulation["accuracy_interval"]
    return {
        "configuration": result.configuration,
        "noise": " ".join(name for name, _, _ in noise),
        "noise_ratio": " ".join(f"{ratio:g}" for _, ratio, _ in noise) or 0.0,
        "noise_layers": " ".join("+".join(layers) for _, _, layers in noise),
        "accuracy": simulation["accuracy"],
        "interval_low": low,
        "interval_high": high,
        "sd": simulation["accuracy_sd"],
        "trials": simulation["trials"],
        "images": simulation["images"],
        "published": published_accuracy(result.published, simulation),
    }


def _draw_points(axes: Axes, places: Sequence[float], rows: Sequence[Row], shade: str, name: str) -> None:
    values = [100 * row["accuracy"] for row in rows]
    below = [max(0.0, 100 * (row["accuracy"] - row["interval_low"])) for row in rows]
    above = [max(0.0, 100 * (row["interval_high"] - row["accuracy"])) for row in rows]
    axes.errorbar(
        places, values, yerr=[below, above], fmt="o", color=shade, markersize=8, elinewidth=1.5, capsize=3, label=name
    )
    low, high = axes.get_ylim()
    for x, row, height in zip(places, rows, above, strict=True):
        top, mark = 100 * row["accuracy"] + height, row["published"]
        if mark is not None and -MARK <= (mark - top) / (high - low) <= NUMBER + MARK:
            top = mark + MARK * (high - low)
        write_above(axes, x, top, percent(row["accuracy"]))


def _draw_marks(axes: Axes, marks: Sequence[tuple[float, float]]) -> None:
    axes.plot(
        [x for x, _ in marks],
        [accuracy for _, accuracy in marks],
        linestyle="none",
        marker="D",
        markersize=6,
        markerfacecolor="white",
        markeredgecolor="black",
        label=PUBLISHED,
        zorder=5,
    )


def _zoom(axes: Axes, rows: Sequence[Row]) -> None:
    """Let the axis begin at a round number below the lowest interval; no ticks above 100 %."""
    marks = [float(row["published"]) for row in rows if row["published"] is not None]
    lowest = min([100 * float(row["interval_low"]) for row in rows] + marks)
    highest = max([100 * float(row["interval_high"]) for row in rows] + marks)
    span = max(highest - lowest, 0.5)
    step = 10.0 ** math.floor(math.log10(span)) / 2
    low = max(0.0, round(math.floor((lowest - 0.15 * span) / step) * step, 6))
    axes.set_ylim(low, highest + 0.12 * (highest - low))
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= 100])

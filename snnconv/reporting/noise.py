"""The figure of sweeps: accuracy against the ratio of a noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from snnconv.reporting.labels import student, title
from snnconv.reporting.style import MARKERS, colour, drawing, legend_above, save
from snnconv.reporting.sweeps import sweep_name

WIDTH, HEIGHT = 6.0, 4.2
"""Of the figure [inches]."""


def plot_noise(sweeps: Sequence[Mapping[str, Any]], out: Path) -> tuple[Path, Path, Path]:
    """Draw the mean accuracy over the trials at each ratio, with its 95 % interval; a band of one sd each side.

    Args:
        sweeps: One a configuration, all of one noise.
        out: Path without suffix.

    Returns:
        Paths of PNG, SVG and CSV.

    Raises:
        RunError: the folder cannot be written.
    """
    tables = [_rows(sweep) for sweep in sweeps]
    with drawing():
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axes = figure.subplots()
        for number, (sweep, rows) in enumerate(zip(sweeps, tables, strict=True)):
            ratios = [row["ratio"] for row in rows]
            means, spreads = ([100 * row[name] for row in rows] for name in ("accuracy", "sd"))
            below = [100 * (row["accuracy"] - row["interval_low"]) for row in rows]
            above = [100 * (row["interval_high"] - row["accuracy"]) for row in rows]
            low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
            axes.fill_between(ratios, low, high, color=colour(number), alpha=0.15, linewidth=0)
            axes.errorbar(
                ratios,
                means,
                yerr=[[max(0.0, b) for b in below], [max(0.0, a) for a in above]],
                color=colour(number),
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                linewidth=1.4,
                capsize=2.5,
                elinewidth=1.0,
                label=str(sweep["quantization"]),
            )
        trials = {int(sweep["trials"]) for sweep in sweeps}
        interval = student(trials.pop() if len(trials) == 1 else None)
        axes.set(xlabel=f"ratio of {sweep_name(sweeps[0])}", ylabel=f"accuracy [%]: mean, sd,\n{interval}")
        legend_above(axes, WIDTH - 1.0)
        group = f"{sweeps[0]['network']}-{sweeps[0]['dataset']}"
        figure.suptitle(title("accuracy under noise", group, sweeps))
        return save(figure, out, [row for rows in tables for row in rows])


def _rows(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a ratio; a single trial has no interval but its own accuracy."""
    rows = []
    for point in sweep["points"]:
        low, high = point["interval"] or (point["accuracy"], point["accuracy"])
        rows.append(
            {
                "configuration": sweep["quantization"],
                "noise": sweep["noise"],
                "layers": "+".join(sweep["layers"]),
                "ratio": point["ratio"],
                "accuracy": point["accuracy"],
                "sd": point["sd"],
                "interval_low": low,
                "interval_high": high,
                "trials": sweep["trials"],
                "images": sweep["images"],
                "spikes_per_image": point["spikes_per_image"],
                "synops_per_image": point["sops_per_image"]["synops"],
            }
        )
    return rows

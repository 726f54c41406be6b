"""The figure of spikes: how many an image beside the neurons, and the firing rate of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from snnconv.reporting.labels import percent, title
from snnconv.reporting.rows import Result, groups, names_of, without_noise
from snnconv.reporting.style import (
    MARKERS,
    PALE,
    Row,
    colour,
    configurations,
    draw_hollow,
    drawing,
    legend_above,
    save,
    write_above,
)

BAR = 0.3
"""Width kept for a bar [inches]."""
NARROWEST = 3.0
"""The panel of bars is at least so wide, so that its legend fits [inches]."""
MANY_LAYERS = 20
"""From here on the lines of rates carry no markers and not every layer a number."""


def plot_sparsity(results: Sequence[Result], out: Path) -> tuple[Path, Path, Path]:
    """Draw spikes an image beside neurons an image (units times L), and the firing rate of every layer.

    Published numbers of spikes stand beside ours.

    Args:
        results: One a configuration; those without a noise-free simulation are passed over.
        out: Path without suffix.

    Returns:
        Paths of PNG, SVG and CSV.

    Raises:
        RunError: there is nothing to draw, or the folder cannot be written.
    """
    shown = without_noise(results)
    tables = [_rows(result, simulation) for result, simulation in shown]
    slots = 3.5 if any(table[0]["published"] for table in tables) else 2.5
    width = max(NARROWEST, BAR * slots * len(shown))
    with drawing():
        figure = Figure(figsize=(width + 6.5, 4.2))
        left, right = figure.subplots(1, 2, width_ratios=(width, 5.0))
        _draw_totals(left, [table[0] for table in tables], names_of(shown))
        _draw_rates(right, [table[1:] for table in tables])
        figure.suptitle(title("spikes and neurons", groups(results), [simulation for _, simulation in shown]))
        return save(figure, out, [row for table in tables for row in table])


def _rows(result: Result, simulation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The whole network, then each layer that fires."""
    neurons, spikes = simulation["neurons"], simulation["spikes_per_image"]
    published = None if result.published is None else result.published.spikes
    whole = {
        "layer": "all",
        "number": None,
        "neurons": neurons,
        "spikes_per_image": spikes,
        "published": published,
        "rate": spikes / neurons,
    }
    firing = [layer for layer in simulation["layers"] if layer["kind"] != "readout"]
    layers = [
        {
            "layer": layer["name"],
            "number": number,
            "neurons": layer["units"] * layer["levels"],
            "spikes_per_image": layer["spikes"],
            "published": None,
            "rate": layer["rate"],
        }
        for number, layer in enumerate(firing, start=1)
    ]
    return [{"configuration": result.configuration} | row for row in (whole, *layers)]


def _draw_totals(axes: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    places = range(len(rows))
    known = {x: row["published"] for x, row in enumerate(rows) if row["published"]}
    slot = 0.84 / (3 if known else 2)
    edge = slot if known else slot / 2
    spikes, neurons = ([row[name] for row in rows] for name in ("spikes_per_image", "neurons"))
    axes.bar([x - edge for x in places], spikes, 0.9 * slot, color=colour(0), label="spikes")
    if known:
        draw_hollow(axes, list(known), list(known.values()), 0.9 * slot)
    axes.bar([x + edge for x in places], neurons, 0.9 * slot, color=PALE, label="neurons (units x L)")
    for x, row in zip(places, rows, strict=True):
        write_above(axes, x + edge, row["neurons"], f"{percent(row['rate'], 1)} %")
    configurations(axes, names)
    axes.set_ylabel("number an image (above: firing rate)")
    axes.margins(y=0.1)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    legend_above(axes, 6.0)


def _draw_rates(axes: Axes, tables: Sequence[Sequence[Row]]) -> None:
    deepest = max(len(rows) for rows in tables)
    for number, rows in enumerate(tables):
        axes.plot(
            [row["number"] for row in rows],
            [100 * row["rate"] for row in rows],
            color=colour(number),
            marker=MARKERS[number % len(MARKERS)] if deepest < MANY_LAYERS else "",
            markersize=5,
            linewidth=1.4,
            linestyle="-" if number < len(MARKERS) else "--",
            label=rows[0]["configuration"],
            clip_on=False,
        )
    axes.set_xticks(_layer_ticks(deepest))
    axes.set(xlabel="layer that fires (1: encoder)", ylabel="firing rate [%]", ylim=(0, None))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3)


def _layer_ticks(deepest: int) -> list[int]:
    """Every layer of a shallow network; the first and every 5th, 10th, ... of a deep one."""
    if deepest < MANY_LAYERS:
        return list(range(1, deepest + 1))
    step = next((step for step in (5, 10, 20, 50) if deepest <= 12 * step), 100)
    return [1, *range(step, deepest + 1, step)]

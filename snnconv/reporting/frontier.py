"""The figure of runs side by side: accuracy against operations and latency, and what is worth its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from snnconv.reporting.labels import MILLION
from snnconv.reporting.observed import svg
from snnconv.reporting.style import MARKERS, PALE, colour, drawing

Row = Mapping[str, Any]
NEAR = 0.04
"""Points so close, as a share of the axes, have one label."""


def draw_frontier(points: Sequence[Row]) -> bytes:
    """Accuracy against synops and, where latencies are known, against these, with the line of what is worth its cost.

    Args:
        points: ``number`` (written beside it), ``accuracy`` and ``interval`` (shares of 1), ``synops`` an image,
            ``latency`` in steps or None, and ``own``: whether the report is about it.
    """
    timed = [point for point in points if point["latency"] is not None]
    costs = [("synops", "synops an image", points)] + ([("latency", "latency [steps]", timed)] if timed else [])
    with drawing():
        figure = Figure(figsize=(5.2 * len(costs), 4.2))
        panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
        for axes, (cost, label, shown) in zip(panels, costs, strict=True):
            _draw_costs(axes, shown, cost)
            axes.set(xlabel=label)
        panels[0].set_ylabel("accuracy [%], 95 % interval")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names))
        return svg(figure)


def _draw_costs(axes: Axes, points: Sequence[Row], cost: str) -> None:
    """One panel of the frontier: a point a simulation, their numbers, and the best accuracy for at most each cost."""
    spots = [(float(point[cost]), 100 * point["accuracy"]) for point in points]
    for own, name, shade in ((True, "this run", colour(0)), (False, "other runs", colour(1))):
        some = [(spot, point) for spot, point in zip(spots, points, strict=True) if point["own"] == own]
        if not some:
            continue
        places, heights = zip(*(spot for spot, _ in some), strict=True)
        spans = [[abs(spot[1] - 100 * point["interval"][side]) for spot, point in some] for side in (0, 1)]
        axes.errorbar(places, heights, yerr=spans, fmt=MARKERS[not own], color=shade, capsize=2.5, elinewidth=1.0,
                      label=name, zorder=3)  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _magnitude(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = min(spot[0] for spot in spots), max(spot[0] for spot in spots)
    axes.set_xlim(low / 1.5, high * 1.5)
    rising = sorted(spots)
    best = list(accumulate((height for _, height in rising), max))
    ends = [*(place for place, _ in rising), high * 1.5], [*best, best[-1]]
    axes.step(*ends, where="post", color=PALE, zorder=1, label="the best for its cost")
    for numbers, place, height in beside_each_other(axes, spots, [int(point["number"]) for point in points]):
        axes.annotate(numbers, (place, height), (6, 4), textcoords="offset points", fontsize=9, zorder=4)


def beside_each_other(
    axes: Axes, spots: Sequence[tuple[float, float]], numbers: Sequence[int]
) -> list[tuple[str, float, float]]:
    """One label for points that nearly coincide: ``4-6, 9``, and the place of the last of them."""
    (left, right), (foot, top) = (math.log(end) for end in axes.get_xlim()), axes.get_ylim()
    groups: list[list[int]] = []
    for index, (place, height) in enumerate(spots):
        near = (
            group
            for group in groups
            if abs(math.log(place / spots[group[-1]][0])) < NEAR * (right - left)
            and abs(height - spots[group[-1]][1]) < NEAR * (top - foot)
        )
        found = next(near, None)
        if found is None:
            groups.append([index])
        else:
            found.append(index)
    return [(ranges([numbers[i] for i in group]), *spots[group[-1]]) for group in groups]


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in short: ``1, 4-6, 9``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _magnitude(value: float) -> str:
    """``20``, ``500 k``, ``1.5 M``."""
    for size, letter in ((1e9, " G"), (MILLION, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"

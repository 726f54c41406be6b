"""The figure of runs side by side: accuracy against operations and latency, and what is worth its cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snnconv.reporting.labels import WILSON, plural
from snnconv.reporting.observed import svg
from snnconv.reporting.scales import by_magnitude
from snnconv.reporting.style import MARKERS, PALE, colour, drawing

Row = Mapping[str, Any]
NEAR = 0.04
"""Points so close, as a share of the axes, have one label."""


def draw_frontier(points: Sequence[Row]) -> bytes:
    """Accuracy against synops and, where latencies are known, against these, with the line of what is worth its cost.

    The line is drawn among the points of ``compared`` images; the others are hollow.

    Args:
        points: ``number`` (written beside it), ``accuracy`` and ``interval`` (shares of 1), ``images``, ``synops`` an
            image, ``latency`` in steps or None, and ``own``: whether the report is about it.
    """
    timed = [point for point in points if point["latency"] is not None]
    costs = [("synops", "synops an image", points)] + ([("latency", "latency [steps]", timed)] if timed else [])
    with drawing():
        figure = Figure(figsize=(5.2 * len(costs), 4.2))
        panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
        for axes, (cost, label, shown) in zip(panels, costs, strict=True):
            _draw_costs(axes, shown, cost, compared(points))
            axes.set(xlabel=label)
        panels[0].set_ylabel(f"accuracy [%]\n{WILSON}")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 2 * len(costs)))
        return svg(figure)


def compared(points: Sequence[Row]) -> int:
    """The number of images that most points were measured on; of several such, the largest."""
    (images, _), *_ = sorted(Counter(point["images"] for point in points).items(), key=lambda own: (-own[1], -own[0]))
    return int(images)


def _draw_costs(axes: Axes, points: Sequence[Row], cost: str, images: int) -> None:
    """One panel: a point a simulation, their numbers, and the best accuracy for at most each cost on so many images."""
    spots = [(float(point[cost]), 100 * point["accuracy"]) for point in points]
    for own, name, shade in ((True, "this run", colour(0)), (False, "other runs", colour(1))):
        for same in (True, False):
            chosen = [
                (spot, point)
                for spot, point in zip(spots, points, strict=True)
                if point["own"] == own and (point["images"] == images) == same
            ]
            if not chosen:
                continue
            places, heights = zip(*(spot for spot, _ in chosen), strict=True)
            spans = [[abs(spot[1] - 100 * point["interval"][side]) for spot, point in chosen] for side in (0, 1)]
            numbers = sorted({point["images"] for _, point in chosen})
            label = name if same else f"{name}, on {' and '.join(f'{number:,}' for number in numbers)} images"
            axes.errorbar(places, heights, yerr=spans, fmt=MARKERS[not own], color=shade, capsize=2.5, elinewidth=1.0,
                          markerfacecolor=shade if same else "white", label=label, zorder=3)  # fmt: skip
    low, high = min(spot[0] for spot in spots), max(spot[0] for spot in spots)
    by_magnitude(axes, low / 1.5, high * 1.5)
    rising = sorted(spot for spot, point in zip(spots, points, strict=True) if point["images"] == images)
    if len(rising) > 1:
        best = list(accumulate((height for _, height in rising), max))
        ends = [*(place for place, _ in rising), high * 1.5], [*best, best[-1]]
        label = f"the best for its cost, on {plural(images, 'image')}"
        axes.step(*ends, where="post", color=PALE, zorder=1, label=label)
    for names, place, height in beside_each_other(axes, spots, [int(point["number"]) for point in points]):
        axes.annotate(names, (place, height), (6, 4), textcoords="offset points", fontsize=9, zorder=4)


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

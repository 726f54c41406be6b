"""Scales of axes: accuracies by the size of their errors, and shares that may become none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

ACCURACIES = (0.0, 20.0, 40.0, 60.0, 70.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 100.0)
"""Ticks of an axis of accuracies [%]."""
FEWEST = 2
"""Fewer of these do not tell what an axis shows; it then has ticks of its own."""
MANTISSAS = (
    (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 2.0, 5.0),
    (1.0,),
)
"""Ticks of an axis of costs, from the one that is to show least to the widest."""
MOST = 6
"""Ticks of an axis of costs, at most; but one a power of ten."""
ALL_RIGHT = 100.02
"""Where on the scale of errors no error lies at infinity [%]: slightly above what can be."""


def below_all(shares: Sequence[float]) -> float:
    """Where on a log axis "none" lies: a power of ten at least ten times below all shares other than 0."""
    least = min((share for share in shares if share), default=1.0)
    return float(10.0 ** (math.floor(math.log10(least)) - 1))


def by_error(axes: Axes) -> None:
    """Show accuracies by the size of their errors, so that 99.5 and 99.6 % are told apart as 50 and 60 % are."""
    low, high = axes.dataLim.y0, axes.dataLim.y1
    top = min(high, ACCURACIES[-1])
    axes.set_yscale("function", functions=(to_errors, from_errors))
    room = 0.05 * (to_errors(top) - to_errors(low)) + 0.01
    axes.set_ylim(from_errors(to_errors(low) - room), from_errors(to_errors(top) + room))
    low, high = axes.get_ylim()
    gap = 0.055 * (to_errors(high) - to_errors(low))
    within = [tick for tick in ACCURACIES if low <= tick <= high]
    if len(within) < FEWEST:
        within = [float(tick) for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= min(high, 100.0)]
    shown: list[float] = []
    for tick in reversed(within):  # where the scale is narrow, ticks are left out
        if not shown or to_errors(shown[-1]) - to_errors(tick) >= gap:
            shown.append(tick)
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])


def to_errors(accuracy: Any) -> Any:
    """Place of an accuracy [%] on the scale of errors."""
    return -np.log10(np.maximum(ALL_RIGHT - accuracy, 1e-3))


def from_errors(place: Any) -> Any:
    """Accuracy [%] at a place on it."""
    return ALL_RIGHT - 10.0**-place


def by_magnitude(axes: Axes, low: float, high: float) -> None:
    """A log axis of costs from ``low`` to ``high``, with as many round numbers as have room."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in MANTISSAS:
        ticks = [mantissa * 10.0**d for d in decades for mantissa in mantissas if low <= mantissa * 10.0**d <= high]
        if len(ticks) <= MOST:
            break
    axes.set_xticks(ticks, [magnitude(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def magnitude(value: float) -> str:
    """``20``, ``500 k``, ``1.5 M``."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def down_to_none(axes: Axes, foot: float) -> None:
    """A log axis of shares whose foot says 0."""
    axes.set_yscale("log")
    axes.set_ylim(foot, None)
    decades = range(round(math.log10(foot)) + 1, math.floor(math.log10(axes.get_ylim()[1])) + 1)
    names = [f"{10.0**d:g}" if decades[0] > -3 else f"$10^{{{d}}}$" for d in decades]
    axes.set_yticks([foot, *(10.0**d for d in decades)], ["0", *names])
    axes.yaxis.set_minor_locator(NullLocator())

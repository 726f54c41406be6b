"""Timing by rounds: the contestants take turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import quantiles

Seconds = dict[str, list[float]]
"""Contestant to its seconds, one a round."""


def alternate(
    calls: Mapping[str, Callable[[], object]], rounds: int, each: Callable[[str], object] | None = None
) -> Seconds:
    """Seconds of each call in every round; each round starts with another one.

    Nothing warms up here: call everything once before.

    Args:
        calls: What to time, by name.
        rounds: How often.
        each: Told which round begins.
    """
    seconds: Seconds = {name: [] for name in calls}
    names = list(calls)
    gc.collect()
    for turn in range(rounds):
        first = turn % len(names)
        if each is not None:
            each(f"round {turn + 1} of {rounds}")
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def quickest(calls: Mapping[str, Callable[[], object]], tries: int = 3) -> tuple[str, dict[str, float]]:
    """The fastest call and the shortest time of each [s], after one call to warm up."""
    for call in calls.values():
        call()
    best = {name: min(times) for name, times in alternate(calls, tries).items()}
    return min(best, key=lambda name: best[name]), best


def quartiles(values: Sequence[float]) -> list[float]:
    """Lower and upper quartile; of one value, the value twice."""
    return [values[0], values[0]] if len(values) == 1 else quantiles(values, n=4, method="inclusive")[::2]


def ratios(seconds: Seconds, of: str, against: str) -> list[float]:
    """How many times as fast ``of`` was as ``against``, round by round."""
    return [other / own for own, other in zip(seconds[of], seconds[against], strict=True)]

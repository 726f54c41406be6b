"""How the cost of an image changes: of ``auto`` with the batch, of single layers with density and L."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

from torch import Tensor

from benchmarks.contestants import Spiking
from benchmarks.layers import BOUNDS, FLOAT, SHAPES, calls, random_counts, representative, ways
from benchmarks.rounds import alternate, quartiles, ratios
from benchmarks.subjects import Subject
from snnconv.engines.layered import Step

BATCHES = (1, 4, 16, 64, 256, 1000)
DENSITIES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
MOST_PASSES = 100
"""Batches of one measurement at most, so that the smallest does not take all the time."""


def over_batches(subject: Subject, rounds: int, say: Callable[[str], object]) -> list[dict[str, Any]]:
    """Cost of an image under ``simulate`` with ``auto``, for each batch size that the images fill, counting and all."""
    runs: dict[int, Spiking] = {}
    for size in BATCHES:
        if size <= len(subject.images):
            number = min(len(subject.images) // size, MOST_PASSES) * size
            runs[size] = Spiking("auto", replace(subject, images=subject.images.take(number)), size)
            runs[size].run()
    seconds = alternate({str(size): run.run for size, run in runs.items()}, rounds, say)
    rows = []
    for size, run in runs.items():
        costs = [1e6 * time / len(run.subject.images) for time in seconds[str(size)]]
        rows.append(
            {
                "network": subject.name,
                "batch_size": size,
                "images": len(run.subject.images),
                "microseconds_per_image": median(costs),
                "quartiles": quartiles(costs),
            }
        )
    return rows


def over_density(batch: int, rounds: int, say: Callable[[str], object]) -> list[dict[str, Any]]:
    """Cost of an image in each way of each representative layer, for each density of counts and L."""
    rows = []
    for channels, side in SHAPES:
        shape = (channels, side, side)
        for levels in BOUNDS:
            engine, name = representative(channels, side, levels)
            say(f"{channels} channels {side}x{side}, L = {levels}")
            steps = ways(engine, name, [random_counts(batch, shape, levels, 0.5)])
            for density in DENSITIES:
                about = {"channels": channels, "side": side, "levels": levels, "density": density}
                counts = random_counts(batch, shape, levels, density)
                rows += [about | row for row in _timed(steps, counts, rounds)]
    return rows


def _timed(steps: dict[str, Step], counts: Tensor, rounds: int) -> list[dict[str, Any]]:
    """Cost of an image in each way."""
    seconds = alternate(calls(steps, [counts]), rounds)
    rows = []
    for way in steps:
        costs = [1e6 * time / len(counts) for time in seconds[way]]
        rows.append(
            {
                "way": way,
                "microseconds_per_image": median(costs),
                "quartiles": quartiles(costs),
                "times_fp32": median(ratios(seconds, way, FLOAT)),
            }
        )
    return rows

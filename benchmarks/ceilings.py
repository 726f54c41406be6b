"""What this machine can do at most, measured beside the networks; every number says how."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.layers import SHAPES, macs, random_counts, representative

GEMM = "fp32 matrix product"
SIDE = 2048
COPIED = 2**26
"""Bytes of the array that is copied, beyond any cache."""
SMALL, LARGE = 2**12, 2**13 + 2**12
"""Bytes of the arrays that are added; two of either lie in the first cache together."""

Ceiling = dict[str, str | float]
"""``name``, ``value``, ``unit`` and ``how``."""


def ceilings(rounds: int, batch: int) -> list[Ceiling]:
    """The best of a few tries each."""
    return [_matrix_product(rounds), _adds(rounds), _copy(rounds), *_table(rounds, batch)]


def _matrix_product(rounds: int) -> Ceiling:
    a, b = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    out = torch.empty(SIDE, SIDE)
    seconds = _best(lambda: torch.mm(a, b, out=out), rounds)
    how = f"torch.mm of two {SIDE} x {SIDE} matrices, all threads"
    return {"name": GEMM, "value": SIDE**3 / seconds / 1e9, "unit": "GMAC/s", "how": how}


def _adds(rounds: int) -> Ceiling:
    """The time of a larger array less that of a smaller one, so that the cost of a call falls out."""
    seconds = []
    for size in (SMALL, LARGE):
        a, b = np.ones(size, np.int8), np.ones(size, np.int8)
        seconds.append(_best(lambda a=a, b=b: [np.add(a, b, a) for _ in range(1000)], 5 * rounds) / 1000)  # type: ignore[misc]
    if seconds[1] <= seconds[0]:
        return _adds(2 * rounds)  # something else ran meanwhile
    rate = (LARGE - SMALL) / (seconds[1] - seconds[0]) / 1e9
    how = f"numpy.add of int8 in place in the first cache, time of {LARGE} less that of {SMALL} elements, one thread"
    return {"name": "int8 adds", "value": rate, "unit": "Gadd/s", "how": how}


def _copy(rounds: int) -> Ceiling:
    source, target = torch.zeros(COPIED, dtype=torch.uint8), torch.empty(COPIED, dtype=torch.uint8)
    seconds = _best(lambda: target.copy_(source), rounds)
    how = f"copy of {COPIED >> 20} MiB, bytes read and written, all threads"
    return {"name": "copy", "value": 2 * COPIED / seconds / 1e9, "unit": "GB/s", "how": how}


def _table(rounds: int, batch: int) -> list[Ceiling]:
    """Nothing where the kernels are not built."""
    rates: dict[str, float] = {}
    for channels, side in SHAPES:
        engine, name = representative(channels, side, levels=1)
        kernels = [way for way in engine.ways(name) if way.engine == "events"]
        if not kernels:
            return []
        counts = random_counts(batch, (channels, side, side), 1, 1.0)
        seconds = _best(partial(kernels[0], counts), rounds)
        rates[f"{channels} channels {side}x{side}"] = macs(engine, name) * batch / seconds / 1e9
    shape = max(rates, key=lambda key: rates[key])
    how = f"the events engine's 3x3 ternary layer of {shape}, every count 1 (no silent unit to skip), all threads"
    return [{"name": "integer MACs by kernels", "value": rates[shape], "unit": "GMAC/s", "how": how}]


def _best(call: Callable[[], object], rounds: int) -> float:
    """Shortest time, after one call to warm up."""
    call()
    times = []
    for _ in range(max(5, rounds)):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)

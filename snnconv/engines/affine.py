"""A whole ladder of thresholds as one affine map, proven for every reachable potential.

For integer potentials U the engine wants a, b in float32 with

    count(U) = floor(clamp(a * (U + b), -negative, positive + 1/2))

The count only steps at the thresholds, so it is enough to look at the two integers around each of
them. b is a multiple of 2^-m, small enough that U + b stays exact inside the convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT32_BITS = 24


@dataclass(frozen=True)
class Affine:
    """The map's factors, float32 (C,) each."""

    slope: Tensor
    shift: Tensor


def fit_affine(thresholds: Tensor, negative: int, slope: Tensor, reach: Tensor) -> Affine | None:
    """Find an affine map that gives the ladder's count at every integer potential of every channel.

    Args:
        thresholds: int64 (L, C).
        negative: Number of codes below zero.
        slope: float64 (C,), codes an integer step of the potential adds; 0 where a channel is constant.
        reach: int64 (C,), largest magnitude of each channel's potential.

    Returns:
        The map, tried out on every potential next to a threshold; None where there is none.
    """
    levels = thresholds.shape[0]
    bits = FLOAT32_BITS - 2 - (int(reach.max()) + levels).bit_length()
    if bits < 1:
        return None
    slope = torch.where(slope > 0, slope, torch.ones_like(slope)).float().double()
    rank = torch.arange(1, levels + 1, dtype=torch.float64)[:, None] - negative
    first = torch.maximum(thresholds, -reach)  # lowest reachable potential at which the level fires
    last = torch.minimum(thresholds - 1, reach)  # highest at which it does not
    infinity = torch.tensor(float("inf"), dtype=torch.float64)
    low = torch.where(thresholds <= reach, rank / slope - first, -infinity).amax(0)
    high = torch.where(thresholds - 1 >= -reach, rank / slope - last, infinity).amin(0)
    low, high = torch.where(low.isinf(), high - 1, low), torch.where(high.isinf(), low + 1, high)
    middle = torch.where(low.isinf(), torch.zeros_like(low), (low + high) / 2)
    shift = torch.round(middle * 2.0**bits) / 2.0**bits
    if bool((shift.abs() > 2.0 ** (FLOAT32_BITS - 1 - bits)).any()):
        return None
    affine = Affine(slope.float(), shift.float())
    for potential in (first, last):
        reachable = (potential >= -reach) & (potential <= reach)
        expected = (potential[None] >= thresholds[:, None]).sum(0) - negative
        got = apply_affine(potential.float() + affine.shift, affine.slope, negative, levels - negative)
        if bool((reachable & (got != expected)).any()):
            return None
    return affine


def apply_affine(shifted: Tensor, slope: Tensor, negative: int, positive: int) -> Tensor:
    """Counts of potentials that carry their shift already; works in place."""
    return shifted.mul_(slope).clamp_(-negative, positive + 0.5).floor_()

"""A whole ladder of thresholds as one affine map, proven for every reachable potential.

For integer potentials U the engines want factors in float32 with

    count(U) = floor(clamp(slope * (U + shift), -negative, positive + 1/2))        torch, ``fit_affine``
    count(U) = clamp(round(slope * U + shift), -negative, positive)                oneDNN, ``fit_rounding``

The count only steps at the thresholds, so it is enough to look at the two integers around each of
them. The first map's shift is a multiple of 2^-m, small enough that U + shift stays exact inside the convolution.
In which order the second is computed, and with how many roundings, is oneDNN's affair and differs between
processors: its values must keep a distance from the halves between codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT32_BITS = 24
ROUNDINGS = 8
"""Half units in the last place that slope * U + shift may be off, relative to |slope * U| + |shift|."""
BEYOND = 2.0**100
"""No slope, its inverse, nor any value of a map may reach this: float32 must neither overflow nor lose bits."""


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
    slope = _positive(slope)
    shift = torch.round(_middle(thresholds, negative, slope, reach) * 2.0**bits) / 2.0**bits
    if bool((shift.abs() > 2.0 ** (FLOAT32_BITS - 1 - bits)).any()):
        return None
    affine = Affine(slope.float(), shift.float())
    for potential in _neighbours(thresholds, reach):
        reachable = (potential >= -reach) & (potential <= reach)
        expected = (potential[None] >= thresholds[:, None]).sum(0) - negative
        got = apply_affine(potential.float() + affine.shift, affine.slope, negative, levels - negative)
        if bool((reachable & (got != expected)).any()):
            return None
    return affine


def fit_rounding(thresholds: Tensor, negative: int, slope: Tensor, reach: Tensor) -> Affine | None:
    """Find an affine map that, rounded and clamped, gives the ladder's count at every integer potential.

    Args:
        thresholds: int64 (L, C).
        negative: Number of codes below zero.
        slope: float64 (C,), codes an integer step of the potential adds; 0 where a channel is constant.
        reach: int64 (C,), largest magnitude of each channel's potential.

    Returns:
        The map, whose values next to a threshold stay clear of the halves by more than their rounding error, whatever
        the order of evaluation; None where there is none.
    """
    levels = thresholds.shape[0]
    slope = _positive(slope)
    shift = slope * _middle(thresholds, negative, slope, reach) - 0.5
    rounding = Affine(slope.float(), shift.float())
    slope, shift = rounding.slope.double(), rounding.shift.double()
    sizes = torch.stack([slope, 1 / slope, slope * reach, shift.abs()])
    if not bool((sizes < BEYOND).all()):
        return None
    for potential in _neighbours(thresholds, reach):
        reachable = (potential >= -reach) & (potential <= reach)
        expected = (potential[None] >= thresholds[:, None]).sum(0) - negative
        value = slope * potential + shift
        error = ROUNDINGS * 2.0**-FLOAT32_BITS * ((slope * potential).abs() + shift.abs())
        above = (expected == -negative) | (value - error > expected - 0.5)
        below = (expected == levels - negative) | (value + error < expected + 0.5)
        if bool((reachable & ~(above & below)).any()):
            return None
    return rounding


def _positive(slope: Tensor) -> Tensor:
    """The slopes as float32 holds them, 1 for constant channels."""
    return torch.where(slope > 0, slope, torch.ones_like(slope)).float().double()


def _neighbours(thresholds: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """For each level the lowest reachable potential at which it fires and the highest at which it does not."""
    return torch.maximum(thresholds, -reach), torch.minimum(thresholds - 1, reach)


def _middle(thresholds: Tensor, negative: int, slope: Tensor, reach: Tensor) -> Tensor:
    """The shift of potentials, float64 (C,), that puts the steps of slope * (U + shift) midway where they belong."""
    first, last = _neighbours(thresholds, reach)
    rank = torch.arange(1, len(thresholds) + 1, dtype=torch.float64)[:, None] - negative
    infinity = torch.tensor(float("inf"), dtype=torch.float64)
    low = torch.where(thresholds <= reach, rank / slope - first, -infinity).amax(0)
    high = torch.where(thresholds - 1 >= -reach, rank / slope - last, infinity).amin(0)
    low, high = torch.where(low.isinf(), high - 1, low), torch.where(high.isinf(), low + 1, high)
    return torch.where(low.isinf(), torch.zeros_like(low), (low + high) / 2)


def apply_affine(shifted: Tensor, slope: Tensor, negative: int, positive: int) -> Tensor:
    """Counts of potentials that carry their shift already; works in place."""
    return shifted.mul_(slope).clamp_(-negative, positive + 0.5).floor_()

"""From a unit's scales, offsets and grid to integer potentials and integer thresholds.

A unit's value is z = sum_b scale_b * U_b / divisor_b + offset, with integer U_b. Its integer potential is

    Z = sum_b M_b * U_b + C ,      count = -negative + #{ i : Z >= T_i }

* One branch: M = sign(scale), C = 0, and T_i is the smallest integer V at which
  |scale| * V / divisor + offset, in float64, reaches boundary i. Nothing is rounded.
* Several branches: M_b = round(scale_b / divisor_b * 2^s), C = round(offset * 2^s), one s a channel, as large as
  53 bits of Z allow; T_i is the smallest integer that reaches boundary_i * 2^s.

A threshold outside the reachable range [-reach, reach] is moved to its edge: -reach always fires,
reach + 1 never does. In a channel whose scale is 0 every threshold of a single branch lies at an edge.

Ref: Zou et al. 2021, Front. Neurosci. 15:694170, generalised to scales of both signs and zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snnconv.grids import Grid

SMALLEST_VALUE = 2.0**-60
"""A unit whose value never exceeds this is computed as if it did."""
FURTHEST = 2**62
"""A threshold that is never reached, or negated, always."""
POTENTIAL_BITS = 52
"""Bits of the integer potential of a unit with several branches, so that float64 holds it exactly."""


@dataclass(frozen=True)
class Ladder:
    """Integer form of a unit.

    Attributes:
        multipliers: M, int64 (branches, C).
        constant: C, int64 (C,).
        thresholds: T, int64 (L, C), ascending along the levels.
        reach: Largest magnitude of Z.
        error: For each channel the largest difference between z and Z as a number [value units];
            0 for a single branch.
        factor: 2^s of several branches, float64 (C,); 1 for a single branch.
    """

    multipliers: Tensor
    constant: Tensor
    thresholds: Tensor
    reach: int
    error: Tensor
    factor: Tensor


def derive_ladder(
    scales: Tensor, offset: Tensor, reaches: Sequence[int | Tensor], grid: Grid, divisors: Sequence[int] | None = None
) -> Ladder:
    """Integer potential and thresholds of a unit.

    Args:
        scales: float64 (branches, C).
        offset: float64 (C,), summed over the branches.
        reaches: For each branch the largest magnitude of U_b, of all channels or of each, int64 (C,).
        grid: The unit's grid.
        divisors: For each branch what its scale is divided by; None divides nothing.
    """
    divisors = [1] * len(scales) if divisors is None else divisors
    if len(scales) == 1:
        return _single(scales[0], divisors[0], offset, int(torch.as_tensor(reaches[0]).max()), grid)
    return _several(scales / torch.tensor(divisors, dtype=scales.dtype)[:, None], offset, reaches, grid)


def value_thresholds(grid: Grid, channels: int) -> Tensor:
    """Thresholds of units that compare their value itself, float64 (L, C): code = -negative + #{ i : z >= T_i }.

    An open boundary b, which belongs to the lower code, becomes the next larger float64.
    """
    rows = [b if shut else math.nextafter(b, math.inf) for b, shut in zip(grid.boundaries, grid.closed, strict=True)]
    return torch.tensor(rows, dtype=torch.float64)[:, None].expand(-1, channels)


def continue_thresholds(
    thresholds: Tensor, reach: int, slope: Tensor, offset: Tensor, grid: Grid, levels: int
) -> Tensor:
    """Thresholds of a unit whose potentials leave the ladder's reach, or whose grid goes on above its top.

    A threshold that lies within reach stays. The others, of which a ladder only says on which side of everything they
    are, become the smallest integer V with slope * V + offset at or above boundary i, as float64 has it.

    Args:
        thresholds: T of the ladder, int64 (L, C).
        reach: Largest magnitude of Z in the ladder.
        slope: Value of Z = 1, float64 (C,), 0 or more.
        offset: Value of Z = 0, float64 (C,).
        grid: The unit's grid, evenly spaced where it goes on.
        levels: Levels in the end, at least L.

    Returns:
        int64 (levels, C), ascending.
    """
    further = grid.continued(levels)
    rows = []
    for number, (boundary, shut) in enumerate(zip(further.boundaries, further.closed, strict=True)):
        distance = boundary - offset
        needed = torch.where(slope > 0, distance / slope, distance * math.inf)
        first = torch.ceil(needed) if shut else torch.floor(needed) + 1
        fires = (slope == 0) & (offset >= boundary if shut else offset > boundary)
        first = torch.where(fires, -math.inf, first.nan_to_num(math.inf, math.inf, -math.inf))
        row = first.clamp(-FURTHEST, FURTHEST).to(torch.int64)
        if number < grid.levels:
            own = thresholds[number]
            row = torch.where((own > -reach) & (own <= reach), own, row)
        rows.append(row)
    return torch.stack(rows).cummax(0).values


def largest_value(largest: Tensor, grid: Grid) -> Tensor:
    """Largest magnitude that a unit's integers must hold: of its value, given for each channel, or of a boundary."""
    finite = [abs(boundary) for boundary in grid.boundaries if math.isfinite(boundary)]
    return largest.clamp(min=max([SMALLEST_VALUE, *finite]))


def _single(scale: Tensor, divisor: int, offset: Tensor, reach: int, grid: Grid) -> Ladder:
    size = scale.abs()
    rows = []
    for boundary, closed in zip(grid.boundaries, grid.closed, strict=True):
        low = torch.full_like(size, -reach)  # the threshold lies in low .. high
        high = torch.full_like(size, reach + 1)
        for _ in range((2 * reach + 1).bit_length()):
            middle = torch.floor((low + high) / 2)
            value = size * middle / divisor + offset
            fires = value >= boundary if closed else value > boundary
            open_ = low < high
            high = torch.where(open_ & fires, middle, high)
            low = torch.where(open_ & ~fires, middle + 1, low)
        rows.append(low)
    sign = torch.sign(scale).to(torch.int64)
    thresholds = torch.stack(rows).to(torch.int64)
    none, one = torch.zeros_like(scale), torch.ones_like(scale)
    return Ladder(sign[None], torch.zeros_like(sign), thresholds, reach, none, one)


def _several(scales: Tensor, offset: Tensor, reaches: Sequence[int | Tensor], grid: Grid) -> Ladder:
    largest = sum(s.abs() * r for s, r in zip(scales, reaches, strict=True)) + offset.abs()
    largest = largest_value(torch.as_tensor(largest), grid)
    room = (POTENTIAL_BITS - 1) - torch.ceil(torch.log2(largest))  # one bit for the roundings
    factor = torch.exp2(room)
    multipliers = torch.round(scales * factor).to(torch.int64)
    constant = torch.round(offset * factor).to(torch.int64)
    reach = int((sum(m.abs() * r for m, r in zip(multipliers, reaches, strict=True)) + constant.abs()).max())
    rows = []
    for boundary, closed in zip(grid.boundaries, grid.closed, strict=True):
        exact = torch.full_like(factor, boundary) * factor
        first = torch.ceil(exact) if closed else torch.floor(exact) + 1
        rows.append(first.clamp(-reach, reach + 1))
    missed = [(s * factor - m).abs() * r for s, m, r in zip(scales, multipliers, reaches, strict=True)]
    error = (torch.stack([*missed, (offset * factor - constant).abs()]).sum(0)) / factor
    return Ladder(multipliers, constant, torch.stack(rows).to(torch.int64), reach, error, factor)

"""From a unit's scales, offsets and grid to integer potentials and integer thresholds.

A unit's value is z = sum_b scale_b * U_b + offset, with integer U_b. Its integer potential is

    Z = sum_b M_b * U_b + C ,      count = -negative + #{ i : Z >= T_i }

* One branch: M = sign(scale), C = 0, and T_i is the smallest integer V at which
  |scale| * V + offset, in float64, reaches boundary i. Nothing is rounded.
* Several branches: M_b = round(scale_b * 2^s), C = round(offset * 2^s), one s a channel, as large as
  53 bits of Z allow; T_i is the smallest integer that reaches boundary_i * 2^s.

A threshold outside the reachable range [-reach, reach] is moved to its edge: -reach always fires,
reach + 1 never does. In a channel whose scale is 0 every threshold lies at one of these edges.

Ref: Zou et al. 2021, Front. Neurosci. 15:694170, generalised to scales of both signs and zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnconv.errors import ConversionError
from snnconv.grids import Grid

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
    """

    multipliers: Tensor
    constant: Tensor
    thresholds: Tensor
    reach: int
    error: Tensor


def derive_ladder(scales: Tensor, offset: Tensor, reaches: list[int], grid: Grid) -> Ladder:
    """Integer potential and thresholds of a unit.

    Args:
        scales: float64 (branches, C).
        offset: float64 (C,), summed over the branches.
        reaches: For each branch the largest magnitude of U_b.
        grid: The unit's grid.

    Raises:
        ConversionError: a scale or offset that is not finite.
    """
    if not (torch.isfinite(scales).all() and torch.isfinite(offset).all()):
        raise ConversionError("a folded scale or offset is not finite: the batch norm's statistics are damaged")
    if len(scales) == 1:
        return _single(scales[0], offset, reaches[0], grid)
    return _several(scales, offset, reaches, grid)


def _single(scale: Tensor, offset: Tensor, reach: int, grid: Grid) -> Ladder:
    size = scale.abs()
    safe = torch.where(size > 0, size, torch.ones_like(size))
    rows = []
    for boundary, closed in zip(grid.boundaries, grid.closed, strict=True):
        guess = torch.ceil(((boundary - offset) / safe).clamp(-reach - 1, reach + 1))
        first = torch.full_like(guess, float("inf"))
        for step in (1, 0, -1):  # the division may round across an integer: ask the unit itself
            value = size * (guess + step) + offset
            fires = value >= boundary if closed else value > boundary
            first = torch.where(fires, guess + step, first)
        constant_fires = torch.where(torch.isfinite(first), -float(reach), float(reach + 1))
        rows.append(torch.where(size > 0, first.clamp(-reach, reach + 1), constant_fires))
    thresholds = torch.stack(rows).to(torch.int64)
    sign = torch.sign(scale).to(torch.int64)
    return Ladder(sign[None], torch.zeros_like(sign), thresholds, reach, torch.zeros_like(scale))


def _several(scales: Tensor, offset: Tensor, reaches: list[int], grid: Grid) -> Ladder:
    largest = sum(s.abs() * r for s, r in zip(scales, reaches, strict=True)) + offset.abs()
    largest = torch.clamp(
        torch.as_tensor(largest), min=max(1e-300, *(abs(b) for b in grid.boundaries if abs(b) < 1e300))
    )
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
    error = 0.5 * (sum(reaches) + 1) / factor
    return Ladder(multipliers, constant, torch.stack(rows).to(torch.int64), reach, error)

"""Activation quantizers: small modules with a ``grid``, trained by straight-through gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snnconv.grids import Grid, k_b_grid


class _RoundClipped(torch.autograd.Function):
    """Forward floor(clip(z, 0, B) / step + 1/2) * step, backward 1 on 0 < z < B, else 0."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, step: float, levels: int, half: float) -> Tensor:
        ctx.save_for_backward((z > 0) & (z < levels * step))
        # floor(s + 1/2) as floor(s - 1/2) + 1: the subtraction is exact, so the float just below a boundary stays there
        return z.div(step).clamp_(0, levels).sub_(half).floor_().add_(1).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


class KBQuantizer(nn.Module):
    """(k, B) activation: ReLU, clip to B, rounding to a multiple of 2^-k.

        a = floor(2^k * clip(z, 0, B) + 1/2 + tie) / 2^k ,    a in {0, 2^-k, 2 * 2^-k, ..., B}

    The straight-through gradient is 1 on 0 < z < B and 0 elsewhere. Any shape; elementwise.

    Args:
        k: Number of fractional bits.
        B: Upper bound of the activation.
        tie: Added before rounding (1e-5 in the source's code; 0 in ours).

    Ref: Zou et al. 2021, Front. Neurosci. 15:694170.
    """

    def __init__(self, k: int, B: int, tie: float = 0.0) -> None:
        super().__init__()
        self.grid: Grid = k_b_grid(k, B, tie)
        self.k, self.B, self.tie = k, B, tie

    def forward(self, z: Tensor) -> Tensor:
        quantized: Tensor = _RoundClipped.apply(z, self.grid.step, self.grid.levels, 0.5 - self.tie)  # type: ignore[no-untyped-call]
        return quantized

    def extra_repr(self) -> str:
        return f"k={self.k}, B={self.B}, levels={self.grid.levels}"

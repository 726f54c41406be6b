"""Activation quantizers: small modules with a ``grid``, trained by straight-through gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.config import Activations, Quantization
from snnconv.grids import Grid, k_b_grid


class Quantizer(nn.Module):
    """An activation quantizer: ``grid`` says which codes it gives and where they change."""

    grid: Grid


class _RoundClipped(torch.autograd.Function):
    """Forward floor(clip(z, 0, B) / step + 1/2) * step, backward 1 on 0 < z < B, else 0."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, step: float, levels: int, half: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.bound = levels * step
        # floor(s + 1/2) as floor(s - 1/2) + 1: the subtraction is exact, so the float just below a boundary stays there
        return z.div(step).clamp_(0, levels).sub_(half).floor_().add_(1).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (z,) = ctx.saved_tensors  # one pass over z; a mask would take four, and its product a copy in bf16
        return torch.ops.aten.hardtanh_backward(gradients[0], z, 0.0, ctx.bound), None, None, None


class KBQuantizer(Quantizer):
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
        self.grid = k_b_grid(k, B, tie)
        self.k, self.B, self.tie = k, B, tie

    def forward(self, z: Tensor) -> Tensor:
        quantized: Tensor = _RoundClipped.apply(z, self.grid.step, self.grid.levels, 0.5 - self.tie)  # type: ignore[no-untyped-call]
        return quantized

    def extra_repr(self) -> str:
        return f"k={self.k}, B={self.B}, levels={self.grid.levels}"


class _Stairs(torch.autograd.Function):
    """Forward step * code by comparing with each boundary; backward ``gain`` inside the window, 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, quantizer: StairQuantizer) -> Tensor:
        size, width = z.abs(), quantizer.window
        ctx.save_for_backward(size <= width if quantizer.inclusive else size < width)
        ctx.gain = quantizer.gain
        grid = quantizer.grid
        code = torch.full_like(z, -grid.negative)
        for boundary, closed in zip(grid.boundaries, grid.closed, strict=True):
            code += (z >= boundary) if closed else (z > boundary)
        return code.mul_(grid.step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside * ctx.gain, None


class StairQuantizer(Quantizer):
    """Quantizer with few boundaries at fixed places; any shape, elementwise.

        a = step * code(z) ,    da/dz := gain where |z| < window (|z| <= window if inclusive), else 0

    Args:
        grid: Codes and boundaries.
        gain: Straight-through gradient inside the window.
        window: Largest |z| that a gradient passes.
        inclusive: Whether the window's two ends belong to it.
    """

    def __init__(self, grid: Grid, gain: float = 1.0, window: float = 1.0, inclusive: bool = True) -> None:
        super().__init__()
        self.grid, self.gain, self.window, self.inclusive = grid, gain, window, inclusive

    def forward(self, z: Tensor) -> Tensor:
        quantized: Tensor = _Stairs.apply(z, self)  # type: ignore[no-untyped-call]
        return quantized

    def extra_repr(self) -> str:
        return f"levels={self.grid.levels}, step={self.grid.step}, boundaries={self.grid.boundaries}"


def ternary_activation() -> StairQuantizer:
    """Activation of TWTA: +1 where z >= 0.5, -1 where z <= -0.5, else 0; gradient 2 on |z| < 1.

    Ref: repository edwardzcl/TWTA, 2021.
    """
    return StairQuantizer(Grid(1.0, 1, 1, (-0.5, 0.5), (False, True)), gain=2.0, inclusive=False)


def binary_activation() -> StairQuantizer:
    """Activation of TWBA and BWBA as published: 1 where z >= 0, else 0.

    The paper names no gradient; 1 on |z| <= 1 is that of Hubara et al. 2016, arXiv:1602.02830, eq. 4.

    Ref: Zou et al. 2019, ASICON.
    """
    return StairQuantizer(Grid(1.0, 1, 0, (0.0,), (True,)))


def shipped_binary_activation() -> StairQuantizer:
    """Activation of the released TWBA code: 0, 1/2, 1 with boundaries -0.4 and 0.4, closed above.

    Which side of the boundaries and which gradient the code takes is not stated; here as in ``binary_activation``.
    """
    return StairQuantizer(Grid(0.5, 2, 0, (-0.4, 0.4), (True, True)))


def sttn_activation() -> StairQuantizer:
    """Activation of STTN: -1 where x < -0.5, +1 where x >= 0.5, else 0; gradient 1 on |x| <= 1.

    Ref: Xu et al. 2020, IJCAI, arXiv:2204.01234.
    """
    return signed_activation(0, 1)


def signed_activation(k: int, B: int) -> StairQuantizer:
    """(k, B) rounding on both sides of 0: floor(2^k * clip(x, -B, B) + 1/2) / 2^k; gradient 1 on |x| <= B.

    STTN's activation is the one with k = 0 and B = 1. Boundaries are (i + 1/2) * 2^-k, each closed above.
    """
    levels = 2**k * B
    boundaries = tuple((i + 0.5) * 2.0**-k for i in range(-levels, levels))
    return StairQuantizer(Grid(2.0**-k, levels, levels, boundaries, (True,) * (2 * levels)), window=float(B))


def _k_b(quantization: Quantization) -> nn.Module:
    assert quantization.k is not None
    assert quantization.B is not None
    return KBQuantizer(quantization.k, quantization.B, quantization.tie)


ACTIVATIONS: dict[Activations, Callable[[Quantization], nn.Module]] = {
    "relu": lambda _: nn.ReLU(),
    "k/B": _k_b,
    "ternary": lambda _: ternary_activation(),
    "binary": lambda _: binary_activation(),
    "three-level": lambda _: shipped_binary_activation(),
    "sttn": lambda _: sttn_activation(),
}
"""Hidden activations by what a quantization calls them."""

"""Quantizers whose step is learned: of activations (QCFS, LSQ) and of weights (LSQ).

A step is held as its logarithm, so that it is positive whatever training does to it, and used as the nearest bfloat16
number: with 8 significant bits, a code times a step and each boundary between codes are exact in float32.

    step = bfloat16(exp(log_step))

Both pass the gradient to what they quantize inside the range of their codes, and to the step, with v = z / step and
code = round(v) for one of n values that share it,

    d(step * code) / d(step) := code - v inside the range, the last code outside

times 1 / sqrt(n * last code), which keeps the updates of steps as large as those of weights.

Ref: Esser et al. 2020, ICLR, arXiv:1902.08153, eqs. 1-3 and section 2.2 (LSQ).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnconv.ann.quantizers import Quantizer
from snnconv.ann.weights import Part, WeightQuantizer
from snnconv.config import WEIGHT_BITS
from snnconv.errors import ConfigError
from snnconv.grids import MAX_LEVELS, Grid

FRACTIONS = tuple(2.0 ** (-i / 8) for i in range(33))
"""Parts of the largest weight that are tried as the one the last code stands for."""


def step_of(log_step: Tensor) -> Tensor:
    """Steps, float64, of their logarithms; a float64 copy of float32 logarithms gives the same."""
    return torch.exp(log_step.detach().float().double()).to(torch.bfloat16).double()


class LearnedQuantizer(Quantizer):
    """ReLU, clip and rounding to 0 .. L times a step that is calibrated or learned; any shape, elementwise.

        a = step * clip(floor(z / step + 1/2), 0, L)

    The gradient with respect to z is 1 on 0 < z < L * step and 0 elsewhere. QCFS calls L * step lambda.

    Args:
        levels: L, 1 .. 127.
        step: To start with.

    Attributes:
        bypassed: Whether it is a plain ReLU for now, for a comparison with the float network.

    Raises:
        ConfigError: L or the step is outside what is allowed.

    Ref: Bu et al. 2022, ICLR, arXiv:2303.04347, eq. 15 (QCFS); Esser et al. 2020 (LSQ).
    """

    def __init__(self, levels: int, step: float = 1.0) -> None:
        super().__init__()
        if not 1 <= levels <= MAX_LEVELS:
            raise ConfigError(f"levels (= {levels}) must lie in 1..{MAX_LEVELS}")
        self.levels = levels
        self.log_step = nn.Parameter(torch.zeros(()))
        self.bypassed = False
        self.set_step(step)

    @property
    def step(self) -> float:
        """The step as a number."""
        parameter = self._parameters["log_step"]  # the attribute is a symbol while a network is traced
        assert parameter is not None
        return float(step_of(parameter))

    @property
    def grid(self) -> Grid:  # type: ignore[override]
        """Boundaries (i + 1/2) * step, closed above; as exact as the step."""
        step = self.step
        boundaries = tuple((i + 0.5) * step for i in range(self.levels))
        return Grid(step, self.levels, 0, boundaries, (True,) * self.levels)

    @torch.no_grad()
    def set_step(self, step: float) -> None:
        """Take a step, rounded to the nearest bfloat16 number.

        Raises:
            ConfigError: it is not above 0.
        """
        if not (step > 0 and math.isfinite(step)):
            raise ConfigError(f"a step (= {step}) must be a number above 0")
        self.log_step.fill_(math.log(step))

    def forward(self, z: Tensor) -> Tensor:
        if self.bypassed:
            return functional.relu(z)
        quantized: Tensor = _Steps.apply(z, self.log_step, self.levels)  # type: ignore[no-untyped-call]
        return quantized

    def extra_repr(self) -> str:
        return f"levels={self.levels}"  # a fingerprint reads this: what is learned does not belong here


class _Steps(torch.autograd.Function):
    """Forward step * code; backward as the module says."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, log_step: Tensor, levels: int) -> Tensor:
        step = step_of(log_step).to(z.dtype)
        ctx.save_for_backward(z, step)
        ctx.levels = levels
        # as in KBQuantizer; a division by a boundary's step is rounded to that boundary by no z below it
        return z.div(step).clamp_(0, levels).sub_(0.5).floor_().add_(1).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        z, step = ctx.saved_tensors
        (gradient,) = gradients
        v = z / step
        inside = (v > 0) & (v < ctx.levels)
        code = v.clamp(0, ctx.levels).sub_(0.5).floor_().add_(1)
        local = torch.where(inside, code - v, code)  # outside, the code is 0 or L
        share = 1 / math.sqrt(max(1, z[0].numel()) * ctx.levels)
        total = (gradient * local).sum(dtype=torch.float64) * step * share
        return gradient * inside, total.float(), None


class KBitWeight(WeightQuantizer):
    """k-bit weights, one learned step an output channel; with k = 2 they are ternary.

        weight = step * code ,    code = sign(W) min(floor(|W| / step + 1/2), 2^(k-1) - 1)

    Registration finds the steps of least squared error. The gradient of W passes where |W| <= step * last code.

    Args:
        bits: k, 2 .. 8.
        shared: Whether the layer has one step for all, as transposed convolutions need.

    Raises:
        ConfigError: another number of bits.

    Ref: Esser et al. 2020 (LSQ), with one step a channel.
    """

    def __init__(self, bits: int, shared: bool = False) -> None:
        super().__init__()
        if bits not in WEIGHT_BITS:
            raise ConfigError(f"weight bits (= {bits}) must lie in {WEIGHT_BITS[0]}..{WEIGHT_BITS[-1]}; 2 is ternary")
        self.bits, self.shared = bits, shared

    @property
    def last(self) -> int:
        """Largest code."""
        return int(2 ** (self.bits - 1) - 1)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The weight itself, and the logarithms of the steps: (C,), or (1,) where one is shared."""
        rows = weight.detach().reshape(1 if self.shared else len(weight), -1)
        return weight, best_steps(rows, self.last).log().to(weight.dtype)

    def parts(self, *latents: Tensor) -> list[Part]:
        latent, log_step = latents
        step = step_of(log_step)
        exact = latent.double() / _column(step, latent)
        codes = exact.abs().add_(0.5).floor_().clamp_(max=self.last).mul_(exact.sign())
        return [Part(codes.to(torch.int8), step.expand(len(latent)).clone())]

    def pass_back(self, gradient: Tensor, *latents: Tensor) -> tuple[Tensor, ...]:
        latent, log_step = latents
        step = step_of(log_step).to(latent.dtype)
        v = latent / _column(step, latent)
        ((codes, _),) = self.parts(*latents)
        inside = v.abs() <= self.last
        local = torch.where(inside, codes - v, codes.to(v.dtype)) * gradient
        rows = local.reshape(len(step), -1)
        share = 1 / math.sqrt(rows.shape[1] * self.last)
        return gradient * inside, rows.sum(1) * step * share

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def best_steps(rows: Tensor, last: int) -> Tensor:
    """Step of least squared error for each row of weights, among parts of its largest; float64 (C,).

    A row of zeros gets a step of 1.
    """
    rows = rows.double()
    largest = rows.abs().amax(1, keepdim=True)
    best = torch.where(largest > 0, largest / last, 1.0)
    least = torch.full_like(best, math.inf)
    for fraction in FRACTIONS:
        step = torch.where(largest > 0, fraction * largest / last, 1.0).to(torch.bfloat16).double()
        codes = (rows / step).round().clamp(-last, last)
        error = (rows - step * codes).square().sum(1, keepdim=True)
        better = error < least
        best, least = torch.where(better, step, best), torch.where(better, error, least)
    return best.squeeze(1)


def _column(step: Tensor, weight: Tensor) -> Tensor:
    """Steps so that they divide the weights of their channels."""
    return step.reshape(-1, *[1] * (weight.ndim - 1))

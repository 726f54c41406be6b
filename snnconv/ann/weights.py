"""Weight quantizers: parametrizations for ``torch.nn.utils.parametrize``.

A parametrization turns the latent float weight into the one the layer computes with,
``codes * scale``, and shows both parts: ``codes`` (int8, the weight's shape) and ``scale`` (one
number an output channel, in the latent weight's dtype). Gradients pass straight through to the latent weight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class _StraightThrough(torch.autograd.Function):
    """Forward the second argument; hand its gradient to the first."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, quantized: Tensor) -> Tensor:
        return quantized.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class WeightQuantizer(nn.Module, ABC):
    """A quantized weight: ``latent -> codes(latent) * scale(latent)``."""

    @abstractmethod
    def codes(self, latent: Tensor) -> Tensor:
        """Integer codes, int8, in the shape of the weight."""

    def scale(self, latent: Tensor) -> Tensor:
        """Value of one code, one an output channel (the first dimension)."""
        return torch.ones(latent.shape[0], dtype=latent.dtype, device=latent.device)

    def forward(self, latent: Tensor) -> Tensor:
        with torch.no_grad():
            scale = self.scale(latent).reshape(-1, *[1] * (latent.ndim - 1))
            quantized = self.codes(latent).to(latent.dtype) * scale
        weight: Tensor = _StraightThrough.apply(latent, quantized)  # type: ignore[no-untyped-call]
        return weight


class TernaryWeight(WeightQuantizer):
    """Ternary weights without a scale, one threshold a layer.

        Delta = 0.7 * mean |W| ;    code = +1 where W >= Delta, -1 where W <= -Delta, else 0

    Ref: Zou et al. 2021, Front. Neurosci. 15:694170; threshold rule of Li et al. 2016, arXiv:1605.04711.
    """

    def codes(self, latent: Tensor) -> Tensor:
        delta = 0.7 * latent.detach().abs().mean(dtype=torch.float64)  # the same on every device
        positive = latent >= delta
        return positive.to(torch.int8) - ((latent <= -delta) & ~positive).to(torch.int8)

"""Weight quantizers: parametrizations for ``torch.nn.utils.parametrize``.

A parametrization turns latent float weights into the one the layer computes with, a sum of parts, each
integer codes times one scale an output channel:

    weight = sum_p codes_p * scale_p

``parts`` shows them; their sum is the float32 weight exactly, so that the spiking network computes with
the very weights of the ANN. Gradients pass to the latent weights as each class says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Part(NamedTuple):
    """Codes (int8, the weight's shape) and scale (float64, one an output channel) of one part of a weight."""

    codes: Tensor
    scale: Tensor


class WeightQuantizer(nn.Module, ABC):
    """A quantized weight, as a function of one or more latent ones.

    Attributes:
        wide: Whether the sum of its parts is exact in float64 only, not in the latents' dtype.
    """

    wide = False

    @abstractmethod
    def parts(self, *latents: Tensor) -> list[Part]:
        """Integer parts of the weight; their sum is exact in the latents' dtype."""

    @abstractmethod
    def pass_back(self, gradient: Tensor, *latents: Tensor) -> tuple[Tensor, ...]:
        """Gradient of each latent weight, given that of the quantized weight."""

    def forward(self, *latents: Tensor) -> Tensor:
        weight: Tensor = _PassBack.apply(self, *latents)  # type: ignore[no-untyped-call]
        return weight


class TernaryWeight(WeightQuantizer):
    """Ternary weights without a scale, one threshold a layer.

        Delta = 0.7 * mean |W| ;    code = +1 where W >= Delta, -1 where W <= -Delta, else 0

    The gradient passes as it is.

    Ref: Zou et al. 2021, Front. Neurosci. 15:694170; threshold rule of Li et al. 2016, arXiv:1605.04711.
    """

    def parts(self, *latents: Tensor) -> list[Part]:
        (latent,) = latents
        delta = 0.7 * latent.abs().mean(dtype=torch.float64)  # the same on every device
        positive = latent >= delta
        return [_unscaled(positive.to(torch.int8) - ((latent <= -delta) & ~positive).to(torch.int8))]

    def pass_back(self, gradient: Tensor, *latents: Tensor) -> tuple[Tensor, ...]:
        return (gradient,)


class BinaryWeight(WeightQuantizer):
    """Binary weights: code = +1 where W >= 0, -1 else; the gradient is clipped to [-1, 1].

    Ref: Zou et al. 2019, ASICON (BWBA).
    """

    def parts(self, *latents: Tensor) -> list[Part]:
        return [_unscaled(_sign(latents[0]))]

    def pass_back(self, gradient: Tensor, *latents: Tensor) -> tuple[Tensor, ...]:
        return (gradient.clamp(-1, 1),)


class ResidualTernaryWeight(WeightQuantizer):
    """Ternary weights with a scale, and residual expansion: one latent weight, several thresholds.

        Delta_b = beta_b * max |W| ;    S_b = mean of |W| over |W| >= Delta_b
        weight = sum_b S_b * (+1 where W >= Delta_b, -1 where W < -Delta_b, else 0)

    One threshold a layer and branch, recomputed from the latent weight each time. Each branch passes the
    gradient where |W| < 1, S and Delta being constants, and they add up.

    Args:
        betas: Thresholds of the branches relative to the largest weight; one makes a plain ternary weight.

    Ref: He, Gong, Fan 2019, WACV, arXiv:1807.07948 (TNN, REL).
    """

    def __init__(self, betas: Sequence[float] = (0.05,)) -> None:
        super().__init__()
        self.betas = tuple(sorted(betas))

    def parts(self, *latents: Tensor) -> list[Part]:
        (latent,) = latents
        size = latent.abs()
        level = torch.zeros((), dtype=latent.dtype, device=latent.device)
        parts = []
        for beta in self.betas:
            delta = beta * size.max()
            over = size >= delta
            mean = (size.double() * over).sum() / over.sum()
            below, level = level, (level.double() + mean).to(latent.dtype)  # the weight's value up to this branch
            scale = (level.double() - below.double()).expand(latent.shape[0])
            parts.append(Part((latent >= delta).to(torch.int8) - (latent < -delta).to(torch.int8), scale))
        return parts

    def pass_back(self, gradient: Tensor, *latents: Tensor) -> tuple[Tensor, ...]:
        return (len(self.betas) * gradient * (latents[0].abs() < 1),)

    def extra_repr(self) -> str:
        return f"betas={self.betas}"


class SignPairWeight(WeightQuantizer):
    """Ternary weight as the sum of two binary ones with latent weights of their own.

        alpha = (||W1||_1 + ||W2||_1) / (2 n) ,   n weights an output filter, one alpha a filter
        weight = alpha sign(W1) + alpha sign(W2)   in {-2 alpha, 0, 2 alpha}

    It is 0 exactly where the signs disagree. With g the gradient of the weight, each latent one takes

        g * [|W| <= 1.96] + sign(W) / n * sum over its filter of sign(W) g

    Registration keeps the layer's weights as W1 and draws W2 anew, as wide as W1: equal ones would never make a
    zero. ``clamp_latents`` keeps both in [-1, 1].

    Ref: Xu et al. 2020, IJCAI, arXiv:2204.01234 (STTN).
    """

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight, torch.randn_like(weight) * weight.std(correction=0)

    def branches(self, *latents: Tensor) -> list[Part]:
        """The two binary weights: codes -1 and 1, and the scale they share; their sum is the weight exactly."""
        alpha = self._alpha(*latents)
        return [Part(_sign(latent), alpha) for latent in latents]

    def parts(self, *latents: Tensor) -> list[Part]:
        first, second = latents
        return [Part((_sign(first) + _sign(second)) // 2, 2 * self._alpha(*latents))]

    def pass_back(self, gradient: Tensor, *latents: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._latent_gradient(gradient, latent) for latent in latents)

    def _alpha(self, *latents: Tensor) -> Tensor:
        sizes = [latent.abs().flatten(1).mean(1, dtype=torch.float64) for latent in latents]
        return ((sizes[0] + sizes[1]) / 2).to(latents[0].dtype).double()

    def _latent_gradient(self, gradient: Tensor, latent: Tensor) -> Tensor:
        sign = _sign(latent).to(gradient.dtype)
        mean = (sign * gradient).flatten(1).mean(1).reshape(-1, *[1] * (latent.ndim - 1))
        return gradient * (latent.abs() <= 1.96) + sign * mean


@torch.no_grad()
def clamp_latents(model: nn.Module) -> None:
    """Clamp the latent weights of every ``SignPairWeight`` to [-1, 1], in place; for after each optimiser step."""
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], SignPairWeight):
            for latent in module.parameters():
                latent.clamp_(-1, 1)


def set_plain_weight(layer: nn.Module, weight: Tensor) -> None:
    """Give a layer a plain weight in place of its quantized one, in place.

    torch's own removal of parametrizations would reach into the class that a copy shares with the original.
    """
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    layer.weight = nn.Parameter(weight)


def _unscaled(codes: Tensor) -> Part:
    return Part(codes, torch.ones(codes.shape[0], dtype=torch.float64, device=codes.device))


def _sign(latent: Tensor) -> Tensor:
    """+1 where the weight is 0 or above, -1 below; int8."""
    return 1 - 2 * (latent < 0).to(torch.int8)


class _PassBack(torch.autograd.Function):
    """Forward the sum of a quantizer's parts; backward what the quantizer passes back."""

    @staticmethod
    def forward(ctx: Any, quantizer: WeightQuantizer, *latents: Tensor) -> Tensor:
        ctx.quantizer = quantizer
        ctx.save_for_backward(*latents)
        shape = (-1, *[1] * (latents[0].ndim - 1))
        dtype = latents[0].dtype
        parts = quantizer.parts(*latents)
        if len(parts) > 1:  # only their sum is a number of the latents' dtype
            return torch.stack([codes * scale.reshape(shape) for codes, scale in parts]).sum(0).to(dtype)
        codes, scale = parts[0]
        return codes.to(dtype) * scale.to(dtype).reshape(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.quantizer.pass_back(gradients[0], *ctx.saved_tensors)

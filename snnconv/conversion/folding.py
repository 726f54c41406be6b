"""Folding: what a layer of the ANN does to scales and offsets, in float64."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnconv.ann.weights import Part, WeightQuantizer
from snnconv.errors import ConversionError


def fold_batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and offset of a batch norm in evaluation mode.

        y = gamma (x - mu) / sqrt(var + eps) + beta = scale * x + offset

    Returns:
        float64 (C,) each.

    Raises:
        ConversionError: it keeps no running statistics, or a variance below 0.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ConversionError("a batch norm without running statistics cannot be folded: set track_running_stats=True")
    if not bool((norm.running_var + norm.eps > 0).all()):
        raise ConversionError("its running variance is below 0: the file of the weights is damaged")
    scale = 1 / torch.sqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    offset = -norm.running_mean.double() * scale
    if norm.bias is not None:
        offset = offset + norm.bias.detach().double()
    return scale.cpu(), offset.cpu()


def weight_parts(layer: nn.Module) -> list[Part]:
    """Weight of a layer as a sum of codes times scales; a float weight is one part with scale 1.

    Raises:
        ConversionError: it carries a parametrization that shows no parts, or holds values that are not finite.
    """
    weight = cast(Tensor, layer.weight).detach().cpu().clone()
    if not bool(torch.isfinite(weight).all()):
        raise ConversionError("its weight holds values that are not finite: train it anew, or load another file")
    if not parametrize.is_parametrized(layer, "weight"):
        return [Part(weight, torch.ones(weight.shape[0], dtype=torch.float64))]
    chain = cast(parametrize.ParametrizationList, cast(nn.ModuleDict, layer.parametrizations)["weight"])
    quantizer = chain[0]
    if len(chain) != 1 or not isinstance(quantizer, WeightQuantizer):
        names = ", ".join(type(step).__name__ for step in chain)
        raise ConversionError(f"its weight is parametrized by {names}; one WeightQuantizer is accepted")
    latents = [chain.original] if chain.is_tensor else [getattr(chain, f"original{i}") for i in range(chain.ntensors)]
    with torch.no_grad():
        return [Part(codes.cpu(), scale.double().cpu().clone()) for codes, scale in quantizer.parts(*latents)]

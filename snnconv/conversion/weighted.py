"""Rules of layers with weights: convolutions, transposed ones, dense layers, and batch norms behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.ann.weights import Part
from snnconv.conversion.builder import Builder
from snnconv.conversion.folding import fold_batch_norm, weight_parts
from snnconv.conversion.values import (
    NO_PADDING,
    Analog,
    Counts,
    Parts,
    Sum,
    Term,
    Value,
    counts_of,
    open_sum,
    parts_of,
    refuse_pending,
)
from snnconv.errors import ConversionError
from snnconv.snn.layers import Branch, Stage
from snnconv.snn.synapses import (
    Conv2dSynapse,
    ConvTranspose2dSynapse,
    IdentitySynapse,
    LinearSynapse,
    Padding,
    Pair,
    Synapse,
)

Layer = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.Linear
MakeSynapse = Callable[[Tensor, tuple[int, ...] | None, Padding], Synapse]
"""From a weight (its outputs first), the order of the channels it reads and the padding in front of it."""


def convolution(builder: Builder, node: fx.Node, module: nn.Conv1d | nn.Conv2d, value: Value) -> Value:
    """Convolution of analog values or counts; pending zero padding joins its own."""
    _require_zeros(module)
    stride, dilation, own = pair(module.stride), pair(module.dilation), _own_padding(module)

    def synapse(weight: Tensor, order: tuple[int, ...] | None, padding: Padding) -> Synapse:
        return Conv2dSynapse(plane(weight), stride, plus(own, padding), dilation, module.groups, order)

    return _connect(node, module, value, synapse)


def transposed_convolution(
    builder: Builder, node: fx.Node, module: nn.ConvTranspose1d | nn.ConvTranspose2d, value: Value
) -> Value:
    """Transposed convolution of analog values or counts."""
    _require_zeros(module)
    stride, dilation = pair(module.stride), pair(module.dilation)
    (top, left), (below, beside) = pair(module.padding, 0), pair(module.output_padding, 0)
    cut = (left, left - beside, top, top - below)

    def synapse(weight: Tensor, order: tuple[int, ...] | None, padding: Padding) -> Synapse:
        if any(padding):
            raise ConversionError("zero padding in front of a transposed convolution is not accepted")
        return ConvTranspose2dSynapse(plane(weight), stride, cut, dilation, module.groups, order)

    return _connect(node, module, value, synapse)


def linear(builder: Builder, node: fx.Node, module: nn.Linear, value: Value) -> Value:
    """Dense map of analog values or counts, flattened before."""
    if len(node.meta["shape"]) != 2:
        raise ConversionError("a Linear layer must follow a flatten: its input has more than two dimensions")
    if isinstance(value, Analog | Counts):
        refuse_pending(value)
    return _connect(node, module, value, lambda weight, order, padding: LinearSynapse(weight))


def batch_norm(builder: Builder, node: fx.Node, module: nn.BatchNorm1d | nn.BatchNorm2d, value: Value) -> Value:
    """Batch norm: folded into the scales and offsets of the sum before it."""
    scale, offset = fold_batch_norm(module)
    if isinstance(value, Analog):
        refuse_pending(value)
        last = value.stages[-1].branch if value.stages else None
        if last is not None:
            folded = Branch(last.synapse, last.scale * scale, last.offset * scale + offset)
            return replace(value, stages=(*value.stages[:-1], Stage(folded)))
        own = Branch(IdentitySynapse(torch.ones(len(scale), 1, dtype=torch.int8)), scale, offset)
        return replace(value, stages=(*value.stages, Stage(own)))
    return open_sum(value, node.name).scaled(scale, offset)


def _connect(node: fx.Node, module: Layer, value: Value, synapse: MakeSynapse) -> Value:
    """A layer with weights: a stage of the encoder, or a branch for each part of its weight and of its input."""
    weights = [Part(_outputs_first(module, codes), scale) for codes, scale in _parts(module)]
    bias = None if module.bias is None else module.bias.detach().double().cpu().clone()
    if isinstance(value, Analog):
        if len(weights) > 1:
            weights = [Part(_outputs_first(module, _weight(module)), torch.ones_like(weights[0].scale))]
        ((codes, scale),) = weights
        offset = torch.zeros_like(scale) if bias is None else bias
        stage = Stage(Branch(synapse(codes, None, value.padding), scale, offset))
        return Analog((*value.stages, stage))
    counts = parts_of(value)
    groups = getattr(module, "groups", 1)
    if len(counts) > 1 and groups > 1:
        counts_of(Parts(counts))  # refuses with the remedy
    terms: list[Term] = []
    for codes, scale in weights:
        first = 0
        for part in counts:
            own = codes if len(counts) == 1 else codes[:, first : first + part.channels]
            offset = torch.zeros_like(scale) if bias is None or terms else bias
            mapped = synapse(own.contiguous(), part.order, part.padding)
            place = (part.magnitude, str(node.target), part.divisor)
            terms.append(Term(part.wire, mapped, scale * part.step, offset, *place))
            first += part.channels
    return Sum(tuple(terms))


def _parts(module: Layer) -> list[Part]:
    """Weight as codes times scales, one scale an output channel."""
    parts = weight_parts(module)
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d):
        if not all(bool((part.scale == part.scale[0]).all()) for part in parts):  # a scale an input channel
            return [Part(_weight(module), torch.ones(module.out_channels, dtype=torch.float64))]
        return [Part(codes, scale[:1].expand(module.out_channels).clone()) for codes, scale in parts]
    return parts


def _weight(module: Layer) -> Tensor:
    return module.weight.detach().cpu().clone()


def _outputs_first(module: Layer, weight: Tensor) -> Tensor:
    """The weight as (C_out, C_in / groups, ...); torch has that of a transposed convolution by its inputs."""
    if not isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d):
        return weight
    by_group = weight.reshape(module.groups, -1, *weight.shape[1:])
    return by_group.transpose(1, 2).flatten(0, 1).contiguous()


def _require_zeros(module: Any) -> None:
    if module.padding_mode != "zeros":
        raise ConversionError(f"padding_mode={module.padding_mode!r} is not accepted; zeros are")


def _own_padding(module: nn.Conv1d | nn.Conv2d) -> Padding:
    """(left, right, top, bottom) of a convolution; "same" puts the odd one after."""
    if module.padding == "valid":
        return NO_PADDING
    if module.padding == "same":
        sides = [d * (k - 1) for d, k in zip(pair(module.dilation), pair(module.kernel_size), strict=True)]
        vertical, horizontal = sides
        return (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2)
    vertical, horizontal = pair(module.padding, 0)
    return (horizontal, horizontal, vertical, vertical)


def plane(weight: Tensor) -> Tensor:
    """The weight of a convolution over sequences as one over images of one row."""
    return weight.unsqueeze(2) if weight.ndim == 3 else weight


def pair(value: Any, row: int = 1) -> Pair:
    """A setting as (vertical, horizontal); of a sequence, which is an image of one row, ``row`` is the vertical one."""
    if isinstance(value, int):
        return (value, value)
    return (row, int(value[0])) if len(value) == 1 else (int(value[0]), int(value[1]))


def plus(left: Padding, right: Padding) -> Padding:
    """Two borders, one around the other."""
    return (left[0] + right[0], left[1] + right[1], left[2] + right[2], left[3] + right[3])

"""Rules of what joins values, changes their shape, or leaves them alone."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from snnconv.ann.layers import ChannelPermutation, Shortcut
from snnconv.conversion.builder import Builder
from snnconv.conversion.functions import Concatenation
from snnconv.conversion.pooling import each
from snnconv.conversion.values import (
    REMEDY,
    Analog,
    Counts,
    Parts,
    Sum,
    Value,
    counts_of,
    lifted,
    open_sum,
    parts_of,
    refuse_pending,
)
from snnconv.errors import ConversionError
from snnconv.snn.layers import Concat, Flatten, Reshape, Stage, ZeroChannelShortcut


def add(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """Sum of counts and unquantized values: their branches side by side."""
    values = [builder.value(argument) for argument in node.args]
    if node.meta["shape"] is None:
        return None
    if len(values) != 2 or node.kwargs or any(v is None or isinstance(v, Analog) for v in values):
        raise ConversionError("only the sum of two converted values is accepted, behind the first quantizer")
    shapes = [argument.meta["shape"] for argument in node.args if isinstance(argument, fx.Node)]
    if shapes[0] != shapes[1]:
        raise ConversionError(f"a sum of {list(shapes[0])} and {list(shapes[1])}: equal shapes are accepted")
    left, right = (open_sum(v, node.name) for v in values)
    return Sum((*left.terms, *right.terms))


def concatenate(builder: Builder, node: fx.Node, module: Concatenation, value: Value) -> Value:
    """Counts side by side, channel by channel: on one wire where their steps agree."""
    sources = node.args[0] if node.args else node.kwargs.get("tensors")
    if not isinstance(sources, list | tuple) or not all(isinstance(source, fx.Node) for source in sources):
        raise ConversionError("only a list of converted values can be concatenated")
    shapes = [source.meta["shape"] for source in sources if isinstance(source, fx.Node)]
    if module.dim not in (1, 1 - len(shapes[0])):
        raise ConversionError(
            f"along dimension {module.dim} of {list(shapes[0])}: only dimension 1 (channels) is accepted"
        )
    parts: list[Counts] = []
    for source in sources:
        own = builder.value(source)
        if isinstance(own, Sum | Analog):
            raise ConversionError(f"its input {source} is not quantized: {REMEDY}")
        parts += parts_of(own)
    for part in parts:
        refuse_pending(part)
    first = parts[0]
    if any((part.step, part.divisor) != (first.step, first.divisor) for part in parts):
        return Parts(tuple(parts))
    wire = builder.add_layer(node, Concat(), tuple(part.wire for part in parts))
    return replace(
        first,
        wire=wire,
        channels=sum(part.channels for part in parts),
        smallest=min(part.smallest for part in parts),
        largest=max(part.largest for part in parts),
    )


def reshape(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """Flatten, view, reshape, squeeze and the like, which keep the images apart."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = source.meta["shape"], node.meta["shape"]
    if before[:1] != after[:1] or len(after) < 2:
        raise ConversionError(f"{list(before)} to {list(after)}: the first dimension, the batch, must stay as it is")
    if len(after) > 4:
        raise ConversionError(f"{list(before)} to {list(after)}: at most (batch, channels, height, width) is accepted")
    own = lifted(tuple(after[1:]))
    if own == lifted(tuple(before[1:])):
        return value
    if isinstance(value, Analog):
        refuse_pending(value)
        return replace(value, stages=(*value.stages, Stage(flatten=True) if len(own) == 1 else Stage(shape=own)))
    if isinstance(value, Parts) and len(own) > 1:
        counts_of(value)  # refuses: channels of its parts would mix

    def change(counts: Counts) -> Counts:
        refuse_pending(counts)
        size = torch.Size(builder.wire_shape(counts.wire)).numel()
        shape = (size,) if len(own) == 1 else own
        layer = Flatten() if len(own) == 1 else Reshape(own)
        return replace(counts, wire=builder.add_layer(node, layer, (counts.wire,), shape=shape), channels=shape[0])

    return each(value, change)


def permute_channels(builder: Builder, node: fx.Node, module: ChannelPermutation, value: Value) -> Value:
    """Another order of the channels: waits for the convolution behind it."""
    counts = value if isinstance(value, Counts) and value.order is None else counts_of(value)
    return replace(counts, order=tuple(module.order(counts.channels)))


def shortcut(builder: Builder, node: fx.Node, module: Shortcut, value: Value) -> Value:
    """Subsampling and zero channels, on counts."""
    counts = counts_of(value)
    layer = ZeroChannelShortcut(module.channels, module.stride)
    return replace(counts, wire=builder.add_layer(node, layer, (counts.wire,)), channels=module.channels)


def keep(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """Dropout, Identity: nothing in evaluation mode."""
    return value


def plain(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """Sizes and arithmetic on them: plain numbers."""
    if node.meta["shape"] is None:
        return None
    raise ConversionError(
        "arithmetic on and indexing of a tensor are not accepted; adding two tensors is: take a constant factor into "
        "the weights beside it, and a mean and sd of the input into the preprocessing (--mean, --sd)"
    )


PLAIN = (
    *(getattr, operator.getitem, operator.mul, operator.sub, operator.floordiv, operator.truediv, operator.mod, int),
    *(operator.isub, operator.imul, operator.itruediv),
    "size",
    "dim",
)
"""Functions of sizes, which give plain numbers."""

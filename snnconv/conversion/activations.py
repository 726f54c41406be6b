"""Rules of activations: monotone maps, which fold into a grid, and quantizers, which end a unit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import fx, nn

from snnconv.conversion.builder import Builder
from snnconv.conversion.graph import place
from snnconv.conversion.values import Analog, Counts, Parts, Value, each_is_within, refuse_pending, sum_of
from snnconv.errors import ConversionError
from snnconv.snn.layers import Stage


def relu(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """ReLU: a clip at 0."""
    return _clip(node, "ReLU", value, 0.0, math.inf)


def hardtanh(builder: Builder, node: fx.Node, module: nn.Hardtanh, value: Value) -> Value:
    """Hardtanh, ReLU6 and clamp: a clip to [min_val, max_val]."""
    return _clip(node, type(module).__name__, value, module.min_val, module.max_val)


def prelu(builder: Builder, node: fx.Node, module: nn.PReLU, value: Value) -> Value:
    """PReLU with one slope above 0."""
    if module.num_parameters != 1:
        raise ConversionError("a PReLU with one slope a channel is not accepted; one for the layer is")
    slope = float(module.weight.detach())
    if not slope > 0:
        raise ConversionError(f"its slope is {slope:g}; a slope above 0 keeps the order of values and is accepted")
    if isinstance(value, Analog):
        return replace(value, stages=(*value.stages, Stage(slope=slope)))
    return sum_of(value, node.name).through(f"PReLU at {place(node)}", lambda grid: grid.before_slope(slope))


def quantize(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """Activation quantizer: the encoder's end, or a spiking layer."""
    if isinstance(value, Analog):
        refuse_pending(value)
        return builder.add_encoder(node, module.grid, value)
    return builder.add_spiking(node, module.grid, sum_of(value, node.name))


def _clip(node: fx.Node, kind: str, value: Value, low: float, high: float) -> Value:
    if isinstance(value, Analog):
        refuse_pending(value)
        return replace(value, stages=(*value.stages, Stage(None, low, high)))
    if isinstance(value, Counts | Parts) and each_is_within(value, low, high):
        return value
    return sum_of(value, node.name).through(f"{kind} at {place(node)}", lambda grid: grid.before_clip(low, high))

"""Rules of pools and borders, on counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx, nn

from snnconv.conversion.builder import Builder
from snnconv.conversion.functions import Border, Mean
from snnconv.conversion.values import (
    NO_PADDING,
    REMEDY,
    Analog,
    Counts,
    Parts,
    Sum,
    Value,
    counts_of,
    lifted,
    parts_of,
    refuse_pending,
)
from snnconv.conversion.weighted import pair, plus
from snnconv.errors import ConversionError
from snnconv.snn.layers import Flatten, MaxPool2d, SumPool2d, ZeroPad2d
from snnconv.snn.synapses import Padding, Pair


def average_pool(builder: Builder, node: fx.Node, module: nn.AvgPool1d | nn.AvgPool2d, value: Value) -> Value:
    """Average pooling of counts: an integer sum-pool; its divisor goes to the consumer."""
    kernel, padding = _sides(module, "kernel_size"), _sides(module, "padding", 0)
    override = getattr(module, "divisor_override", None)
    if module.ceil_mode or (any(padding) and not module.count_include_pad) or override is not None:
        raise ConversionError("ceil_mode, count_include_pad=False with padding and divisor_override are not accepted")
    stride = _sides(module, "stride")
    return each(value, lambda counts: _sum_pool(builder, node, counts, kernel, stride, padding))


def adaptive_average_pool(
    builder: Builder, node: fx.Node, module: nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d, value: Value
) -> Value:
    """Adaptive average pooling to a side that divides the input's."""
    out_height, out_width = (1, *node.meta["shape"][2:])[-2:]

    def pool(counts: Counts) -> Counts:
        refuse_pending(counts)
        height, width = builder.wire_shape(counts.wire)[1:]
        if height % out_height or width % out_width:
            raise ConversionError(
                f"windows of equal size are needed: {out_height}x{out_width} does not divide {height}x{width}"
            )
        kernel = (height // out_height, width // out_width)
        return _sum_pool(builder, node, counts, kernel, kernel, (0, 0))

    return each(value, pool)


def mean(builder: Builder, node: fx.Node, module: Mean, value: Value) -> Value:
    """Mean over all pixels of each channel."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    shape = source.meta["shape"]
    dims = sorted(dim % len(shape) for dim in module.dim)
    if len(shape) < 3 or dims != list(range(2, len(shape))):
        raise ConversionError(
            f"a mean over dimensions {list(module.dim)} of {list(shape)}: one over all pixels is accepted, "
            "x.mean((2, 3))"
        )

    def pool(counts: Counts) -> Counts:
        refuse_pending(counts)
        kernel = builder.wire_shape(counts.wire)[1:]
        pooled = _sum_pool(builder, node, counts, kernel, kernel, (0, 0), keeps_shape=False)  # type: ignore[arg-type]
        if module.keepdim:
            return pooled
        wire = builder.add_layer(node, Flatten(), (pooled.wire,), shape=(pooled.channels,))
        return replace(pooled, wire=wire)

    return each(value, pool)


def max_pool(builder: Builder, node: fx.Node, module: nn.MaxPool1d | nn.MaxPool2d, value: Value) -> Value:
    """Max pooling of counts: their largest."""
    if module.ceil_mode or module.return_indices:
        raise ConversionError("ceil_mode and return_indices are not accepted")
    kernel, padding = _sides(module, "kernel_size"), _sides(module, "padding", 0)
    layer = (kernel, _sides(module, "stride"), padding, _sides(module, "dilation"))

    if isinstance(value, Sum):
        path = value.terms[0].path
        raise ConversionError(
            f"the unquantized value of layer {path} leaves its unit: {REMEDY}; the pool gives the same values behind it"
        )

    def pool(counts: Counts) -> Counts:
        counts = _bordered(builder, node, counts)
        shape = _pooled_shape(builder, node, counts)
        return replace(counts, wire=builder.add_layer(node, MaxPool2d(*layer), (counts.wire,), shape=shape))

    return each(value, pool)


def border(builder: Builder, node: fx.Node, module: Border | nn.Module, value: Value) -> Value:
    """Zero padding: waits for the layer behind it."""
    shape = node.meta["shape"]
    mode = getattr(module, "mode", "constant")
    if mode != "constant" or getattr(module, "value", 0) != 0 or len(shape) not in (3, 4):
        raise ConversionError(f"padding in mode {mode} or with other values than 0 is not accepted: pad with zeros")
    padding: Any = module.padding
    left, right, top, bottom = (int(side) for side in (*padding, 0, 0)[:4])
    if min(left, right, top, bottom) < 0:
        raise ConversionError(f"padding {list(padding)} crops the image; sides of 0 or more are accepted")
    if len(shape) == 3 and (top or bottom):
        raise ConversionError(f"padding {list(padding)} adds channels to {list(shape)}; only positions can be added")
    own = (left, right, top, bottom)
    if isinstance(value, Analog):
        return replace(value, padding=plus(own, value.padding))
    if isinstance(value, Counts | Parts):
        return each(value, lambda counts: replace(counts, padding=plus(own, counts.padding)))
    raise ConversionError(f"zero padding of an unquantized value: {REMEDY}")


def each(value: Value, change: Callable[[Counts], Counts]) -> Counts | Parts:
    """The value with each of its wires changed in the same way."""
    changed = tuple(change(counts) for counts in parts_of(value))
    return changed[0] if len(changed) == 1 else Parts(changed)


def _bordered(builder: Builder, node: fx.Node, counts: Counts) -> Counts:
    """Counts with the zeros around them that were waiting."""
    if any(counts.padding):
        channels, height, width = builder.wire_shape(counts.wire)
        left, right, top, bottom = counts.padding
        shape = (channels, height + top + bottom, width + left + right)
        wire = builder.add_layer(node, ZeroPad2d(counts.padding), (counts.wire,), shape=shape)
        low, high = min(counts.smallest, 0), max(counts.largest, 0)
        counts = replace(counts, wire=wire, padding=NO_PADDING, smallest=low, largest=high)
    return counts_of(counts)


def _sum_pool(
    builder: Builder,
    node: fx.Node,
    counts: Counts,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    keeps_shape: bool = True,
) -> Counts:
    vertical, horizontal = padding
    own: Padding = (horizontal, horizontal, vertical, vertical)
    layer = SumPool2d(kernel, stride, plus(own, counts.padding))
    counts = counts_of(replace(counts, padding=NO_PADDING))
    shape = _pooled_shape(builder, node, counts) if keeps_shape else (counts.channels, 1, 1)
    wire = builder.add_layer(node, layer, (counts.wire,), shape=shape)
    size = kernel[0] * kernel[1]
    return replace(
        counts,
        wire=wire,
        divisor=counts.divisor * size,
        smallest=counts.smallest * size,
        largest=counts.largest * size,
    )


def _pooled_shape(builder: Builder, node: fx.Node, counts: Counts) -> tuple[int, ...]:
    """Shape of one of the wires that a pool of several side by side sends."""
    return builder.wire_shape(counts.wire)[:1] + lifted(tuple(node.meta["shape"][1:]))[1:]


def _sides(module: nn.Module, name: str, row: int = 1) -> Pair:
    """A pool's setting as (vertical, horizontal)."""
    setting = getattr(module, name)
    flat = isinstance(module, nn.AvgPool1d | nn.MaxPool1d)
    return pair((setting,) if flat and isinstance(setting, int) else setting, row)

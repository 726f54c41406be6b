"""Rules: what each module and function of the ANN becomes. Anything that is not here is refused.

A rule takes the builder, the graph node, the module (None for a function) and the value that comes in,
and returns the value that goes out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from snnconv.ann.layers import ChannelPermutation, Shortcut
from snnconv.ann.quantizers import KBQuantizer
from snnconv.ann.weights import Part
from snnconv.conversion.builder import Builder
from snnconv.conversion.folding import fold_batch_norm, weight_parts
from snnconv.conversion.graph import is_quantizer
from snnconv.conversion.values import Analog, Counts, Sum, Term, Value, as_sum
from snnconv.errors import ConversionError
from snnconv.snn.layers import Branch, Flatten, MaxPool2d, Stage, SumPool2d, ZeroChannelShortcut
from snnconv.snn.synapses import Conv2dSynapse, LinearSynapse, Padding, Pair, Synapse

Rule = Callable[[Builder, fx.Node, Any, Value], Value]

NO_PADDING: Padding = (0, 0, 0, 0)
REMEDY = "put an activation quantizer (such as KBQuantizer) between them, so that counts travel on the wire"


def conv2d(builder: Builder, node: fx.Node, module: nn.Conv2d, value: Value) -> Value:
    """Convolution of analog values or counts; pending zero padding joins its own."""
    if module.padding_mode != "zeros":
        raise ConversionError(f"padding_mode={module.padding_mode!r} is not accepted; zeros are")
    padding, order = _conv_padding(module), None
    if isinstance(value, Analog | Counts):
        padding = _plus(padding, value.padding)
        value = replace(value, padding=NO_PADDING)
    if isinstance(value, Counts):
        order = value.order
        value = replace(value, order=None)
    stride, dilation = _pair(module.stride), _pair(module.dilation)
    return _connect(node, module, value, lambda w: Conv2dSynapse(w, stride, padding, dilation, module.groups, order))


def linear(builder: Builder, node: fx.Node, module: nn.Linear, value: Value) -> Value:
    """Dense map of analog values or counts, flattened before."""
    if len(node.meta["shape"]) != 2:
        raise ConversionError("a Linear layer must follow a flatten: its input has more than two dimensions")
    return _connect(node, module, value, LinearSynapse)


def batch_norm(builder: Builder, node: fx.Node, module: nn.BatchNorm2d, value: Value) -> Value:
    """Batch norm: folded into the scales and offsets of the sum before it."""
    scale, offset = fold_batch_norm(module)
    if isinstance(value, Analog):
        _refuse_padding(value)
        if value.stages and value.stages[-1].branch is not None:
            last = value.stages[-1].branch
            folded = Branch(last.synapse, last.scale * scale, last.offset * scale + offset)
            return replace(value, stages=(*value.stages[:-1], Stage(folded)))
        raise ConversionError("a batch norm must follow a convolution or a dense layer")
    total = _open_sum(node, value)
    return total.scaled(scale, offset)


def relu(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """ReLU: a clip at 0."""
    return _clip(builder, node, value, 0.0, float("inf"))


def hardtanh(builder: Builder, node: fx.Node, module: nn.Hardtanh, value: Value) -> Value:
    """Hardtanh and ReLU6: a clip to [min_val, max_val]."""
    return _clip(builder, node, value, module.min_val, module.max_val)


def prelu(builder: Builder, node: fx.Node, module: nn.PReLU, value: Value) -> Value:
    """PReLU with one slope above 0."""
    if module.num_parameters != 1:
        raise ConversionError("a PReLU with one slope a channel is not accepted; one for the layer is")
    slope = float(module.weight.detach())
    if not slope > 0:
        raise ConversionError(f"its slope is {slope:g}; a slope above 0 keeps the order of values and is accepted")
    if isinstance(value, Analog):
        return replace(value, stages=(*value.stages, Stage(slope=slope)))
    total = _as_sum(node, value)
    return replace(total, chain=(*total.chain, lambda grid: grid.before_slope(slope)))


def quantize(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """Activation quantizer: the encoder's end, or a spiking layer."""
    if isinstance(value, Analog):
        _refuse_padding(value)
        return builder.add_encoder(node, module.grid, value)
    total = _as_sum(node, value)
    for term in total.terms:
        if not term.synapse.integer:
            raise ConversionError(
                f"layer {term.path} has float weights; only the encoder (before the first quantizer) and the readout "
                "may: register a WeightQuantizer such as TernaryWeight on it"
            )
    return builder.add_spiking(node, module.grid, total)


def average_pool(builder: Builder, node: fx.Node, module: nn.AvgPool2d, value: Value) -> Value:
    """Average pooling of counts: an integer sum-pool; its divisor goes to the consumer."""
    kernel, padding = _pair(module.kernel_size), _pair(module.padding)
    if module.ceil_mode or (any(padding) and not module.count_include_pad) or module.divisor_override is not None:
        raise ConversionError("ceil_mode, count_include_pad=False with padding and divisor_override are not accepted")
    return _sum_pool(builder, node, value, kernel, _pair(module.stride), padding)


def adaptive_average_pool(builder: Builder, node: fx.Node, module: nn.AdaptiveAvgPool2d, value: Value) -> Value:
    """Adaptive average pooling to a side that divides the input's."""
    counts = _counts(value)
    height, width = builder.wire_shape(counts.wire)[1:]
    out_height, out_width = node.meta["shape"][2:]
    if height % out_height or width % out_width:
        raise ConversionError(
            f"windows of equal size are needed: {out_height}x{out_width} does not divide {height}x{width}"
        )
    kernel = (height // out_height, width // out_width)
    return _sum_pool(builder, node, value, kernel, kernel, (0, 0))


def max_pool(builder: Builder, node: fx.Node, module: nn.MaxPool2d, value: Value) -> Value:
    """Max pooling of counts: their largest."""
    counts = _counts(value)
    if module.ceil_mode or module.return_indices:
        raise ConversionError("ceil_mode and return_indices are not accepted")
    layer = MaxPool2d(_pair(module.kernel_size), _pair(module.stride), _pair(module.padding), _pair(module.dilation))
    return replace(counts, wire=builder.add_layer(node, layer, (counts.wire,)))


def zero_pad(builder: Builder, node: fx.Node, module: nn.ZeroPad2d, value: Value) -> Value:
    """Zero padding: waits for the convolution behind it."""
    left, right, top, bottom = (int(side) for side in module.padding)
    if min(left, right, top, bottom) < 0:
        raise ConversionError(f"padding {list(module.padding)} crops the image; sides of 0 or more are accepted")
    if isinstance(value, Analog | Counts):
        return replace(value, padding=_plus((left, right, top, bottom), value.padding))
    raise ConversionError(f"zero padding of an unquantized value: {REMEDY}")


def permute_channels(builder: Builder, node: fx.Node, module: ChannelPermutation, value: Value) -> Value:
    """Another order of the channels: waits for the convolution behind it."""
    counts = value if isinstance(value, Counts) and value.order is None else _counts(value)
    return replace(counts, order=tuple(module.order(counts.channels)))


def shortcut(builder: Builder, node: fx.Node, module: Shortcut, value: Value) -> Value:
    """Subsampling and zero channels, on counts."""
    counts = _counts(value)
    layer = ZeroChannelShortcut(module.channels, module.stride)
    return replace(counts, wire=builder.add_layer(node, layer, (counts.wire,)), channels=module.channels)


def flatten(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """Flatten, view or reshape that keeps the batch and joins all else."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = source.meta["shape"], node.meta["shape"]
    if before == after:
        return value
    if len(after) != 2 or before[0] != after[0]:
        raise ConversionError(f"{list(before)} to {list(after)}: only a flatten to (batch, features) is accepted")
    if isinstance(value, Analog):
        _refuse_padding(value)
        return replace(value, stages=(*value.stages, Stage(flatten=True)))
    counts = _counts(value)
    return replace(counts, wire=builder.add_layer(node, Flatten(), (counts.wire,)), channels=after[1])


def keep(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """Dropout, Identity: nothing in evaluation mode."""
    return value


def dropout(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """F.dropout: nothing, where it is told that it is not training."""
    training = node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True)
    if training is not False:
        raise ConversionError("it drops values in evaluation mode, too: give it training=self.training")
    return value


def plain(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """Sizes and arithmetic on them: plain numbers."""
    if node.meta["shape"] is None:
        return None
    raise ConversionError("arithmetic on and indexing of a tensor are not accepted; adding two tensors is")


def add(builder: Builder, node: fx.Node, module: Any, value: Value) -> Value:
    """Sum of counts and unquantized values: their branches side by side."""
    values = [builder.value(argument) for argument in node.args]
    if all(v is None for v in values):
        return None
    if len(values) != 2 or node.kwargs or any(v is None or isinstance(v, Analog) for v in values):
        raise ConversionError("only the sum of two converted values is accepted, behind the first quantizer")
    shapes = [argument.meta["shape"] for argument in node.args if isinstance(argument, fx.Node)]
    if shapes[0] != shapes[1]:
        raise ConversionError(f"a sum of {list(shapes[0])} and {list(shapes[1])}: equal shapes are accepted")
    left, right = (_open_sum(node, v) for v in values)
    return Sum((*left.terms, *right.terms))


MODULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: conv2d,
    nn.Linear: linear,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.ReLU: relu,
    nn.ReLU6: hardtanh,
    nn.Hardtanh: hardtanh,
    nn.PReLU: prelu,
    nn.AvgPool2d: average_pool,
    nn.AdaptiveAvgPool2d: adaptive_average_pool,
    nn.MaxPool2d: max_pool,
    nn.ZeroPad2d: zero_pad,
    ChannelPermutation: permute_channels,
    Shortcut: shortcut,
    nn.Flatten: flatten,
    nn.Dropout: keep,
    nn.Dropout2d: keep,
    nn.Identity: keep,
    KBQuantizer: quantize,
}

FUNCTIONS: dict[Callable[..., Any] | str, Rule] = {
    functional.relu: relu,
    torch.relu: relu,
    "relu": relu,
    torch.flatten: flatten,
    "flatten": flatten,
    "view": flatten,
    "reshape": flatten,
    "size": plain,
    getattr: plain,
    operator.getitem: plain,
    operator.mul: plain,
    operator.add: add,
    operator.iadd: add,
    torch.add: add,
    functional.dropout: dropout,
}


def rule_for(traced: fx.GraphModule, node: fx.Node) -> tuple[Rule | None, str]:
    """Rule of a graph node, None where it has none; and what kind of module or function it calls."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        kind = parametrize.type_before_parametrizations(module)
        return MODULES.get(kind, quantize if is_quantizer(module) else None), kind.__name__
    if node.op not in ("call_function", "call_method"):
        return None, "attribute" if node.op == "get_attr" else node.op
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return FUNCTIONS.get(node.target), name


def _connect(
    node: fx.Node, module: nn.Conv2d | nn.Linear, value: Value, synapse: Callable[[torch.Tensor], Synapse]
) -> Value:
    """A layer with weights: a stage of the encoder, or one branch a part of the weight."""
    bias = None if module.bias is None else module.bias.detach().double().cpu().clone()
    if isinstance(value, Analog):
        _refuse_padding(value)
        codes, scale = _joined(module)
        offset = torch.zeros_like(scale) if bias is None else bias
        return Analog((*value.stages, Stage(Branch(synapse(codes), scale, offset))))
    counts = _counts(value)
    terms: list[Term] = []
    for codes, scale in weight_parts(module):
        offset = torch.zeros_like(scale) if bias is None or terms else bias
        largest, path = counts.magnitude, str(node.target)
        terms.append(Term(counts.wire, synapse(codes), scale * counts.step, offset, largest, path, counts.divisor))
    return Sum(tuple(terms))


def _joined(module: nn.Conv2d | nn.Linear) -> Part:
    """The weight as one part; as floats where it is a sum of several."""
    parts = weight_parts(module)
    if len(parts) == 1:
        return parts[0]
    return Part(module.weight.detach().cpu().clone(), torch.ones(module.weight.shape[0], dtype=torch.float64))


def _sum_pool(builder: Builder, node: fx.Node, value: Value, kernel: Pair, stride: Pair, padding: Pair) -> Value:
    counts = _counts(value)
    vertical, horizontal = padding
    layer = SumPool2d(kernel, stride, (horizontal, horizontal, vertical, vertical))
    wire = builder.add_layer(node, layer, (counts.wire,))
    size = kernel[0] * kernel[1]
    return replace(
        counts,
        wire=wire,
        divisor=counts.divisor * size,
        smallest=counts.smallest * size,
        largest=counts.largest * size,
    )


def _clip(builder: Builder, node: fx.Node, value: Value, low: float, high: float) -> Value:
    if isinstance(value, Analog):
        _refuse_padding(value)
        return replace(value, stages=(*value.stages, Stage(None, low, high)))
    if (
        isinstance(value, Counts)
        and low <= value.smallest * value.step / value.divisor
        and high >= value.largest * value.step / value.divisor
    ):
        return value
    total = _as_sum(node, value)
    return replace(total, chain=(*total.chain, lambda grid: grid.before_clip(low, high)))


def _as_sum(node: fx.Node, value: Value) -> Sum:
    """The value as a sum, with whatever activations it has passed."""
    if isinstance(value, Counts):
        _refuse_padding(value)
        return as_sum(value, node.name)
    if isinstance(value, Sum):
        return value
    raise ConversionError("this is accepted behind the first quantizer only")


def _open_sum(node: fx.Node, value: Value) -> Sum:
    """The value as a sum that may still be scaled or grow: it has passed no activation."""
    total = _as_sum(node, value)
    if total.chain:
        raise ConversionError(f"its input has passed an activation but no quantizer: {REMEDY}")
    return total


def _counts(value: Value) -> Counts:
    if isinstance(value, Counts):
        _refuse_padding(value)
        return value
    if isinstance(value, Sum):
        raise ConversionError(f"the unquantized value of layer {value.terms[0].path} leaves its unit: {REMEDY}")
    raise ConversionError("pooling is accepted behind the first quantizer only")


def _refuse_padding(value: Analog | Counts) -> None:
    if any(value.padding):
        raise ConversionError("zero padding is accepted in front of a convolution only")
    if isinstance(value, Counts) and value.order is not None:
        raise ConversionError("a permutation of channels is accepted in front of a convolution only")


def _plus(left: Padding, right: Padding) -> Padding:
    return (left[0] + right[0], left[1] + right[1], left[2] + right[2], left[3] + right[3])


def _conv_padding(module: nn.Conv2d) -> Padding:
    """(left, right, top, bottom) of a convolution; "same" puts the odd one after."""
    if module.padding == "valid":
        return (0, 0, 0, 0)
    if module.padding == "same":
        vertical, horizontal = (d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True))
        return (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2)
    vertical, horizontal = _pair(module.padding)
    return (horizontal, horizontal, vertical, vertical)


def _pair(value: Any) -> Pair:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))

"""Rules: what each module and function of the ANN becomes. Anything that is not here is refused.

A rule takes the builder, the graph node, the module (for a function the module it stands for) and the value that comes
in, and returns the value that goes out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from snnconv.ann.layers import ChannelPermutation, Shortcut
from snnconv.ann.quantizers import KBQuantizer
from snnconv.conversion.activations import hardtanh, prelu, quantize, relu
from snnconv.conversion.builder import Builder
from snnconv.conversion.functions import CALLS, Border, Concatenation, Mean, module_of
from snnconv.conversion.graph import is_quantizer
from snnconv.conversion.joining import PLAIN, add, concatenate, keep, permute_channels, plain, reshape, shortcut
from snnconv.conversion.pooling import adaptive_average_pool, average_pool, border, max_pool, mean
from snnconv.conversion.values import Value
from snnconv.conversion.weighted import batch_norm, convolution, linear, transposed_convolution

Rule = Callable[[Builder, fx.Node, Any, Value], Value]

MODULES: dict[type[nn.Module], Rule] = {
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.ConvTranspose1d: transposed_convolution,
    nn.ConvTranspose2d: transposed_convolution,
    nn.Linear: linear,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.ReLU: relu,
    nn.ReLU6: hardtanh,
    nn.Hardtanh: hardtanh,
    nn.PReLU: prelu,
    nn.AvgPool1d: average_pool,
    nn.AvgPool2d: average_pool,
    nn.AdaptiveAvgPool1d: adaptive_average_pool,
    nn.AdaptiveAvgPool2d: adaptive_average_pool,
    nn.MaxPool1d: max_pool,
    nn.MaxPool2d: max_pool,
    nn.ZeroPad1d: border,
    nn.ZeroPad2d: border,
    nn.ConstantPad1d: border,
    nn.ConstantPad2d: border,
    ChannelPermutation: permute_channels,
    Shortcut: shortcut,
    nn.Flatten: reshape,
    nn.Unflatten: reshape,
    nn.Dropout: keep,
    nn.Dropout1d: keep,
    nn.Dropout2d: keep,
    nn.Identity: keep,
    KBQuantizer: quantize,
}

STAND_INS: dict[type[nn.Module], Rule] = {Mean: mean, Concatenation: concatenate, Border: border}
"""What functions stand for that no module of torch's does."""

FUNCTIONS: dict[Callable[..., Any] | str, Rule] = {
    **{target: (MODULES | STAND_INS)[call.kind] for target, call in CALLS.items()},
    **dict.fromkeys(PLAIN, plain),
    operator.add: add,
    operator.iadd: add,
    torch.add: add,
    "add": add,
    "add_": add,
}

AFFINE = (convolution, transposed_convolution, linear)
"""Rules of linear maps with weights."""

QUANTIZE = (
    "quantize it: put an activation quantizer such as snnconv.KBQuantizer(k, B) in its place (behind a ReLU, ReLU6, "
    "clamp or hardtanh, if you like) and fine-tune"
)
NO_PRODUCTS = (
    "a spiking network adds weighted counts and has no products of activations nor statistics taken from them: use "
    "convolutions and dense layers, with BatchNorm for normalization"
)
REMEDIES: dict[str, str] = {
    **dict.fromkeys(
        (
            *("sigmoid", "tanh", "gelu", "silu", "elu", "selu", "celu", "mish", "softplus", "hardswish", "hardsigmoid"),
            *("leakyrelu", "logsigmoid", "softsign", "tanhshrink", "threshold", "glu", "rrelu"),
        ),
        QUANTIZE,
    ),
    **dict.fromkeys(
        (
            *("multiheadattention", "scaleddotproductattention", "matmul", "bmm", "einsum", "baddbmm", "transformer"),
            *("transformerencoder", "transformerencoderlayer", "layernorm", "groupnorm", "instancenorm2d", "rmsnorm"),
            *("localresponsenorm", "lstm", "gru", "rnn", "softmax", "logsoftmax", "mul", "imul"),
        ),
        NO_PRODUCTS,
    ),
    **dict.fromkeys(
        ("upsample", "upsamplingnearest2d", "upsamplingbilinear2d", "interpolate", "pixelshuffle"),
        "use a ConvTranspose2d to make images larger",
    ),
    **dict.fromkeys(
        ("conv1d", "conv2d", "convtranspose2d", "linear", "batchnorm"),
        "use the module of that name (nn.Conv2d, nn.Linear, nn.BatchNorm2d), whose weights can be read",
    ),
    **dict.fromkeys(("chunk", "split"), "use a layer of its own for each part: two convolutions in the place of one"),
    **dict.fromkeys(
        ("amax", "max", "adaptivemaxpool1d", "adaptivemaxpool2d"), "use nn.MaxPool2d with the kernel that it amounts to"
    ),
    **dict.fromkeys(("permute", "transpose", "movedim"), "keep images as (batch, channels, height, width) throughout"),
    "attribute": "it is a tensor that the forward uses by itself: use nn.Conv2d, nn.Linear or nn.BatchNorm2d for it",
    **dict.fromkeys(("softmax", "logsoftmax"), "leave it out: let the network give logits, and take it in the loss"),
}
"""What to do in the place of layers that users often have, by name in small letters without underscores."""


def rule_for(traced: fx.GraphModule, node: fx.Node) -> tuple[Rule | None, str]:
    """Rule of a graph node, None where it has none; and what kind of module or function it calls."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        kind = parametrize.type_before_parametrizations(module)
        return MODULES.get(kind, quantize if is_quantizer(module) else None), kind.__name__
    if node.op not in ("call_function", "call_method"):
        return None, "attribute" if node.op == "get_attr" else node.op
    return FUNCTIONS.get(node.target), function_name(node.target)


def module_for(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, or that its function stands for; None where there is none.

    Raises:
        ConversionError: a function's arguments are not those of the module.
    """
    if node.op == "call_module":
        return traced.get_submodule(str(node.target))
    call = CALLS.get(node.target)
    return None if call is None or node.meta["shape"] is None else module_of(call, node)


def remedy_for(kind: str) -> str:
    """What to do about a layer of a kind that has no rule; empty where nothing special is known."""
    return REMEDIES.get(kind.lower().replace("_", ""), "")


def function_name(target: Any) -> str:
    """Name of a function or method; some of torch's functions carry a name that says nothing."""
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    if name != "fn":
        return str(name)
    return next((own for own in vars(functional) if getattr(functional, own) is target), "fn")

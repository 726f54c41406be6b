"""A range a channel, folded into the weights on both sides of a ReLU, so that one step does for all channels.

A ReLU passes any factor above 0: with f_c for channel c,

    W2 relu(W1 x + b1) = (W2 diag(f)) relu(diag(1 / f) (W1 x + b1))

With f_c = range_c / max over c, every channel behind the ReLU has the range of the largest: a wire of counts has one
step, and each channel uses all of its codes. The network computes what it did before.

Ref: Nagel et al. 2019, ICCV, arXiv:1906.04721, section 4.1 (cross-layer equalization).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from snnconv.ann.learned import LearnedQuantizer
from snnconv.conversion.joining import keep
from snnconv.conversion.rules import AFFINE, rule_for
from snnconv.conversion.weighted import batch_norm
from snnconv.quantization.inserting import KEEP_CODES, readers


@torch.no_grad()
def fold_channels(traced: fx.GraphModule, ranges: Mapping[str, Tensor]) -> list[str]:
    """Give all channels behind a quantizer one range, in place, where weights alone stand around it.

    In front of it stands one layer with float weights, or a batch norm, that nothing else reads; behind it, through
    pools, borders and flattening, layers with float weights only. The weights and biases of these are read at no other
    place, not by another layer either. Quantizers with a sum, a concat or a clamp beside them are left as they are.

    Args:
        traced: A network with learned quantizers, in evaluation mode or not.
        ranges: Range of each channel by the path of its quantizer, (C,) each, above 0.

    Returns:
        Paths of the quantizers whose channels now have one range.
    """
    folded = []
    uses = _uses(traced)
    for node in traced.graph.nodes:
        path = str(node.target)
        if node.op != "call_module" or not isinstance(traced.get_submodule(path), LearnedQuantizer):
            continue
        before, behind = _before(traced, node, uses), _behind(traced, node, uses)
        if before is None or not behind:
            continue
        factors = ranges[path] / ranges[path].max()
        _scale_outputs(before, 1 / factors)
        for layer in behind:
            _scale_inputs(layer, factors)
        folded.append(path)
    return folded


def _before(traced: fx.GraphModule, node: fx.Node, uses: Counter[int]) -> nn.Module | None:
    """The layer whose outputs the quantizer reads, if that is all they are read by."""
    source = cast(fx.Node, node.args[0])
    while rule_for(traced, source)[0] is keep and len(readers(source)) == 1:
        source = cast(fx.Node, source.args[0])
    if rule_for(traced, source)[0] not in (*AFFINE, batch_norm) or len(readers(source)) != 1:
        return None
    layer = traced.get_submodule(str(source.target))
    if not _alone(layer, uses):
        return None
    affine = getattr(layer, "weight", None) is not None and not parametrize.is_parametrized(layer)
    return layer if affine and len(source.meta["shape"]) in (2, 3, 4) else None


def _behind(traced: fx.GraphModule, node: fx.Node, uses: Counter[int]) -> list[nn.Module]:
    """The layers that read the quantizer's codes; none where anything else does."""
    channels = node.meta["shape"][1]
    found: list[nn.Module] = []
    waiting = readers(node)
    while waiting:
        user = waiting.pop()
        rule, _ = rule_for(traced, user)
        if rule in AFFINE:
            layer = traced.get_submodule(str(user.target))
            if parametrize.is_parametrized(layer) or not _alone(layer, uses):
                return []
            found.append(layer)
        elif rule in KEEP_CODES and _keeps_channels(user, channels):
            waiting += readers(user)
        else:
            return []
    return found


def _uses(traced: fx.GraphModule) -> Counter[int]:
    """How often each tensor is read in a forward, by its identity: layers may share one."""
    called = [traced.get_submodule(str(node.target)) for node in traced.graph.nodes if node.op == "call_module"]
    return Counter(id(own) for layer in called for own in layer.state_dict(keep_vars=True).values())


def _alone(layer: nn.Module, uses: Counter[int]) -> bool:
    """Whether nothing else reads the layer's tensors."""
    return all(uses[id(own)] == 1 for own in layer.state_dict(keep_vars=True).values())


def _keeps_channels(node: fx.Node, channels: int) -> bool:
    """Whether a result has the same channels, or all values of each in a row."""
    shape = node.meta["shape"]
    if shape is None or len(shape) < 2:
        return False
    return bool(shape[1] == channels or (len(shape) == 2 and shape[1] % channels == 0))


def _scale_outputs(layer: nn.Module, factors: Tensor) -> None:
    """Multiply each output channel."""
    weight, bias = cast(Tensor, layer.weight), cast(Tensor | None, layer.bias)
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        rows = factors.reshape(layer.groups, 1, -1).expand(-1, weight.shape[0] // layer.groups, -1)
        weight.mul_(_over(rows.flatten(0, 1).to(weight), weight))
    else:
        weight.mul_(_over(factors.to(weight), weight))
    if bias is not None:
        bias.mul_(factors.to(bias))


def _scale_inputs(layer: nn.Module, factors: Tensor) -> None:
    """Multiply the weights of each input channel; a flattened one has several in a row."""
    weight = cast(Tensor, layer.weight)
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        weight.mul_(_over(factors.to(weight), weight))
        return
    groups = cast(int, getattr(layer, "groups", 1))
    factors = factors.repeat_interleave(weight.shape[1] * groups // len(factors))
    rows = factors.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1)
    weight.mul_(_over(rows.flatten(0, 1).to(weight), weight))


def _over(factors: Tensor, weight: Tensor) -> Tensor:
    """Factors of the first one or two dimensions of a weight, so that they multiply it."""
    return factors.reshape(*factors.shape, *[1] * (weight.ndim - factors.ndim))

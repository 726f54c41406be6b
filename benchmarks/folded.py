"""The ANNs to compare with: batch norms folded, as trained or with ReLU, eager or as a frozen graph."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from snnconv.conversion.graph import is_quantizer
from snnconv.conversion.recording import frozen_copy


def folded(model: nn.Module) -> nn.Module:
    """Copy with plain weights and every batch norm folded into the layer in front of it; channels_last."""
    return channels_last(_folded(frozen_copy(model).eval())).eval().requires_grad_(False)


def rectified(model: nn.Module) -> nn.Module:
    """The same with ReLU in place of every activation quantizer."""
    network = copy.deepcopy(model)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if is_quantizer(child):
                setattr(module, name, nn.ReLU(inplace=True))
    return network


def frozen_graph(network: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """A float network in evaluation mode as torch's frozen graph, traced with a batch as it will be shown."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", DeprecationWarning)  # its successor needs a compiler on the machine
        graph: torch.jit.ScriptModule = torch.jit.freeze(torch.jit.trace(network, example))  # type: ignore[no-untyped-call]
    return graph


def optimised_graph(network: nn.Module, example: Tensor) -> torch.jit.ScriptModule:
    """The same with what torch does for inference: convolutions and their ReLU as one."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.optimize_for_inference(frozen_graph(network, example))


GRAPHS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "eager": lambda network, _: network,
    "frozen graph": frozen_graph,
    "optimised graph": optimised_graph,
}
"""The ways in which torch runs a float network, by name."""


def channels_last(network: nn.Module) -> nn.Module:
    """The network with its convolutions' weights laid out channels last, in place."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _folded(module: nn.Module) -> nn.Module:
    children = OrderedDict((name, _folded(child)) for name, child in module.named_children())
    if not isinstance(module, nn.Sequential):
        for name, child in children.items():
            setattr(module, name, child)
        return module
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in children.items():
        before = next(reversed(layers), None)
        layer = None if before is None else layers[before]
        if before is not None and isinstance(layer, nn.Conv2d) and isinstance(child, nn.BatchNorm2d):
            layers[before] = fuse_conv_bn_eval(layer, child)
        elif before is not None and isinstance(layer, nn.Linear) and isinstance(child, nn.BatchNorm1d):
            layers[before] = fuse_linear_bn_eval(layer, child)
        else:
            layers[name] = child
    return nn.Sequential(layers)

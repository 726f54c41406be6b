"""The ANN as a graph of calls with shapes, traced by torch.fx."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.ann.layers import ChannelPermutation, Shortcut
from snnconv.errors import ConversionError
from snnconv.grids import Grid


def is_quantizer(module: nn.Module) -> bool:
    """Whether a module is an activation quantizer: it has a grid."""
    return isinstance(getattr(module, "grid", None), Grid)


class _Tracer(fx.Tracer):
    """Looks into every module but torch's own and the quantizers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = is_quantizer(m) or isinstance(m, ChannelPermutation | Shortcut)
        return ours or super().is_leaf_module(m, module_qualified_name)


class _Shapes(fx.Interpreter):
    """Runs the graph once and notes each node's result in its meta."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        n.meta["shape"] = tuple(result.shape) if isinstance(result, Tensor) else None
        return result


def trace(model: nn.Module, example_input: Tensor) -> fx.GraphModule:
    """Trace a model in evaluation mode; ``node.meta["shape"]`` holds each tensor's shape, None for plain numbers.

    Raises:
        ConversionError: its forward cannot be traced, or does not take the example.
    """
    with evaluation_mode(model), torch.no_grad():
        try:
            graph = _Tracer().trace(model)
        except Exception as error:  # whatever the user's forward raises when it meets a symbolic value
            raise ConversionError(
                f"the forward of {type(model).__name__} cannot be traced ({_first_line(error)}): take branches and "
                "loops that depend on the data out of it"
            ) from error
        traced = fx.GraphModule(model, graph)
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise ConversionError(f"{type(model).__name__} takes {len(inputs)} inputs; one image tensor is accepted")
        try:
            _Shapes(traced).run(example_input)
        except Exception as error:  # likewise
            raise ConversionError(
                f"{type(model).__name__} does not take an input of shape {list(example_input.shape)} "
                f"({_first_line(error)})"
            ) from error
    return traced


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode and back, module by module."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode

"""The ANN as a graph of calls with shapes, traced by torch.fx."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.ann.brevitas import is_of_brevitas
from snnconv.ann.layers import ChannelPermutation, Shortcut, lazy_weight
from snnconv.errors import ConversionError
from snnconv.grids import Grid


def is_quantizer(module: nn.Module) -> bool:
    """Whether a module is an activation quantizer: it has a grid."""
    return isinstance(getattr(module, "grid", None), Grid)


class _Proxy(fx.Proxy):
    """A value while a forward is traced, which keeps ``a += b`` apart from ``a + b``."""

    def _changed(self, change: Any, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", change, (self, other), {})

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._changed(operator.itruediv, other)


class _Tracer(fx.Tracer):
    """Looks into every module but torch's own and the quantizers."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = is_quantizer(m) or isinstance(m, ChannelPermutation | Shortcut)
        return ours or super().is_leaf_module(m, module_qualified_name)


class _Shapes(fx.Interpreter):
    """Runs the graph once and notes in each node's meta the shape of its result, or the plain value it is."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        n.meta["shape"] = tuple(result.shape) if isinstance(result, Tensor) else None
        n.meta["plain"] = None if isinstance(result, Tensor) else result
        return result


def trace(model: nn.Module, example_input: Tensor) -> fx.GraphModule:
    """Trace a model in evaluation mode.

    ``node.meta["shape"]`` holds each tensor's shape, None for plain values, which are ``node.meta["plain"]``.

    Raises:
        ConversionError: its forward cannot be traced, does not take the example, or hides what it does in hooks or
            in changes in place; or it has weights without values, or of another precision than the example.
    """
    _refuse_brevitas(model)
    _refuse_changed_calls(model)
    _refuse_lazy(model)
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
            _Shapes(traced).run(_images(example_input, 3))
            shapes = {node: node.meta["shape"] for node in graph.nodes}
            _Shapes(traced).run(_images(example_input, 2))
        except Exception as error:  # likewise
            _refuse_other_numbers(model, example_input)
            raise ConversionError(
                f"{type(model).__name__} does not take an input of shape {list(example_input.shape)} "
                f"({_first_line(error)})"
            ) from error
    _refuse_hooks(traced)
    _refuse_other_outputs(traced)
    _refuse_batch_sizes(traced, shapes)
    _refuse_hidden_changes(traced)
    return traced


def _images(example_input: Tensor, number: int) -> Tensor:
    """The example as so many images: never one, whose batch would be taken for a size of the network's own."""
    return example_input[:1].repeat_interleave(number, 0) if example_input.ndim > 1 else example_input


def is_plain(node: fx.Node) -> bool:
    """Whether a node's result is a plain value such as a size, and no tensor nor several."""
    if node.op not in ("call_function", "call_method") or node.meta["shape"] is not None:
        return False
    plain = node.meta["plain"]
    return all(isinstance(part, int | float | str) for part in (plain if isinstance(plain, tuple | list) else (plain,)))


def place(node: fx.Node) -> str:
    """Where a node stands: a module's path; or a call's name in the graph, and the module whose forward makes it."""
    if node.op == "call_module":
        return str(node.target)
    if node.op == "placeholder":
        return f"the input ({node.target})"
    inside = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    return f"{node.name} in {inside[-1]}" if inside else node.name


def fingerprint(traced: fx.GraphModule) -> str:
    """SHA-256, in hexadecimal, of what a network computes but for its weights: calls, settings, grids and shapes."""
    lines = []
    for node in traced.graph.nodes:
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "function")
        lines.append(f"{node.op} {node.name} {target} {node.args} {node.kwargs}")
        if node.op == "call_module":
            module = traced.get_submodule(str(node.target))
            lines.append(f"{module!r} {_grid_text(module)}")
    lines += [f"{name} {list(tensor.shape)}" for name, tensor in traced.state_dict().items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _grid_text(module: nn.Module) -> str:
    """A module's grid; of one that has tensors, such as a learned step, the number of levels only."""
    grid = getattr(module, "grid", None)
    return f"L={grid.levels}" if isinstance(grid, Grid) and module.state_dict() else repr(grid)


def _refuse_brevitas(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if is_of_brevitas(module):
            raise ConversionError(
                f"layer {path} ({type(module).__name__}) is one of Brevitas: snnconv.from_brevitas(model) makes a copy "
                "of torch's layers with the same integers, which converts"
            )


def _refuse_changed_calls(model: nn.Module) -> None:
    """Refuse what a call of the model does and its forward does not: the trace is of the forward of its class."""
    hooks = [*model._forward_hooks.values(), *model._forward_pre_hooks.values()]
    called = type(model).__call__ is not nn.Module.__call__ and not isinstance(model, fx.GraphModule)
    if hooks or called or "forward" in vars(model):
        raise ConversionError(
            f"{type(model).__name__} has forward hooks, a forward put in later, or a __call__ of its own, which would "
            "be lost: write what they do into the forward of its class"
        )


def _refuse_other_outputs(traced: fx.GraphModule) -> None:
    source = next(node.args[0] for node in traced.graph.nodes if node.op == "output")
    if not isinstance(source, fx.Node) or source.meta["shape"] is None:
        raise ConversionError("a network with several outputs cannot be converted; one tensor of logits is accepted")
    if len(source.meta["shape"]) < 2:
        raise ConversionError(
            f"the network gives {list(source.meta['shape'])} for several images; (batch, classes) logits are accepted"
        )


def _refuse_batch_sizes(traced: fx.GraphModule, shapes: dict[fx.Node, tuple[int, ...] | None]) -> None:
    """Refuse shapes that change with the number of images, as computed with another one."""
    for node in traced.graph.nodes:
        shape, other = node.meta["shape"], shapes[node]
        if shape is not None and other is not None and shape[1:] != other[1:]:
            raise ConversionError(
                f"layer {place(node)} makes {list(shape)} of 2 images and {list(other)} of 3: let no size but the "
                "first depend on the number of images"
            )


def _refuse_lazy(model: nn.Module) -> None:
    if name := lazy_weight(model):
        raise ConversionError(
            f"{name} of {type(model).__name__} has no values yet: run one image through the network, and then train it "
            "or load its weights"
        )


def _refuse_other_numbers(model: nn.Module, example_input: Tensor) -> None:
    """Refuse weights of another precision than the images, the likely reason why a network does not take them."""
    for name, own in model.named_parameters():
        if own.is_floating_point() and own.dtype != example_input.dtype:
            raise ConversionError(
                f"{name} of {type(model).__name__} is {own.dtype} and the images are {example_input.dtype}: "
                "model.float() makes all of its weights float32"
            )


def _refuse_hooks(traced: fx.GraphModule) -> None:
    """Refuse forward hooks, which may change what a layer takes or gives without a trace in the graph."""
    for node in traced.graph.nodes:
        if node.op == "call_module":
            module = traced.get_submodule(str(node.target))
            if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
                raise ConversionError(
                    f"layer {node.target} ({type(module).__name__}) has forward hooks or a forward of its own, which "
                    "may change its values unseen: remove them before converting "
                    "(torch.nn.utils.prune.remove, remove_weight_norm)"
                )


ALIASES = ("Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "Flatten", "Unflatten")
"""Modules, and by the names below functions and methods, whose result may share its memory with what they are given."""
ALIASING = ("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten", "contiguous", "detach", "dropout")


def _refuse_hidden_changes(traced: fx.GraphModule) -> None:
    """Refuse a change in place of a value that is read again later: the graph would show its old self there."""
    order = {node: number for number, node in enumerate(traced.graph.nodes)}
    memory: dict[fx.Node, fx.Node] = {}  # each value, and the first one that lies in the same memory
    for node in traced.graph.nodes:
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        shares = source is not None and (_aliases(traced, node) or _in_place(traced, node))
        memory[node] = memory[source] if source is not None and shares else node
        if source is None or not _in_place(traced, node):
            continue
        for other in (n for n, first in memory.items() if first is memory[source] and n is not node):
            for reader in other.users:
                if order[reader] > order[node]:
                    raise ConversionError(
                        f"layer {place(node)} changes in place a value that {place(reader)} reads afterwards: set "
                        "inplace=False there, or write a = a + b in the place of a += b"
                    )


def _aliases(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))).__name__ in ALIASES
    return node.op in ("call_function", "call_method") and _called(node) in ALIASING


def _in_place(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node overwrites its first argument."""
    if node.meta.get("shape") is None or _aliases(traced, node):
        return False
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    operators = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
    return node.kwargs.get("inplace") is True or node.target in operators or _called(node).endswith("_")


def _called(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


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

"""Where the quantizers of a float network go: one in the place of each ReLU, one on each hidden layer's weights.

A network is traced with torch.fx, and comes back as a ``fx.GraphModule`` of its own modules, under their own names, so
that training, saving and conversion take it like any other network. A function (``F.relu``) or a module that is used at
several places gets a quantizer a place.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from snnconv.ann.learned import KBitWeight, LearnedQuantizer
from snnconv.conversion.activations import hardtanh, quantize, relu
from snnconv.conversion.graph import place, trace
from snnconv.conversion.joining import concatenate, keep, reshape
from snnconv.conversion.pooling import adaptive_average_pool, average_pool, border, max_pool, mean
from snnconv.conversion.refusals import FLOAT_ACTIVATIONS
from snnconv.conversion.rules import AFFINE, module_for, rule_for
from snnconv.errors import ConversionError

KEEP_CODES = (max_pool, average_pool, adaptive_average_pool, mean, border, reshape, keep)
"""Rules of what leaves values that are not negative as such: a ReLU behind them does nothing."""
BY_VALUE = "put a ReLU, ReLU6 or clamp from 0 in its place and train the network anew"


def insert_quantizers(model: nn.Module, example_input: Tensor, levels: int) -> fx.GraphModule:
    """Copy of a float network with a ``LearnedQuantizer`` in the place of each ReLU; all steps are 1.

    A ReLU behind a max pool moves in front of it, which changes no value. A ReLU6 or clamp stays, with its quantizer
    behind it. A ReLU of what is quantized already falls out. Quantizers whose codes meet in a concat share their step
    where a batch norm, an activation or groups behind it need one for all channels. Functions that ask for
    ``self.training``, such as ``F.dropout``, stay as they are in evaluation mode; modules know both. A ``view`` becomes
    a ``reshape``, which takes images of any memory format.

    Args:
        model: A float network.
        example_input: Images as it takes them; only the shape matters.
        levels: L of each quantizer.

    Raises:
        ConversionError: it cannot be traced, is quantized already, has no ReLU, or other activations.
        ConfigError: L is outside what is allowed.
    """
    trace(model, example_input)  # says what is in the way of a copy, such as pruning
    traced = trace(copy.deepcopy(model), example_input)
    _refuse_others(traced)
    uses = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    number: Counter[str] = Counter()
    for node in list(traced.graph.nodes):
        if (node.op, node.target) == ("call_method", "view"):
            node.target = "reshape"
        if not _is_activation(traced, node) or _runs_on(traced, node):
            continue
        if _is_relu(traced, node) and _reads_codes(traced, node):
            _drop(node)
            continue
        path = str(node.target)
        number[path] += 1
        if not _is_relu(traced, node):
            _insert(
                traced, node, list(node.users), f"{path if node.op == 'call_module' else node.name}_quantizer", levels
            )
            continue
        if node.op != "call_module":
            path = node.name
        elif uses[path] > 1:
            path = f"{path}_{number[path]}"
        source, reader = _before_pools(traced, node)
        _insert(traced, source, [reader], path, levels, in_place_of=node)
        _drop(node)
    traced.delete_all_unused_submodules()
    traced.graph.lint()
    traced.recompile()
    _tie_steps(traced)
    return traced


def quantizers_of(traced: fx.GraphModule) -> dict[str, LearnedQuantizer]:
    """The learned quantizers of a network by path, in the order of its forward."""
    called = {
        str(node.target): traced.get_submodule(str(node.target))
        for node in traced.graph.nodes
        if node.op == "call_module"
    }
    return {path: module for path, module in called.items() if isinstance(module, LearnedQuantizer)}


def quantize_weights(traced: fx.GraphModule, bits: int) -> list[str]:
    """Give the layers between two quantizers k-bit weights; the encoder and the readout keep theirs.

    Weights that are quantized already are left alone.

    Returns:
        Paths of the layers.

    Raises:
        ConfigError: a number of bits outside what is allowed.
    """
    behind: set[fx.Node] = set()
    ahead: set[fx.Node] = set()
    for nodes, reached in ((list(traced.graph.nodes), behind), (list(reversed(traced.graph.nodes)), ahead)):
        for node in nodes:
            near = node.all_input_nodes if reached is behind else node.users
            if any(other in reached or rule_for(traced, other)[0] is quantize for other in near):
                reached.add(node)
    paths = []
    for node in traced.graph.nodes:
        if rule_for(traced, node)[0] not in AFFINE or node not in behind & ahead:
            continue
        layer = traced.get_submodule(str(node.target))
        if not parametrize.is_parametrized(layer, "weight"):
            shared = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
            parametrize.register_parametrization(layer, "weight", KBitWeight(bits, shared))
            paths.append(str(node.target))
    return paths


def readers(node: fx.Node) -> list[fx.Node]:
    """The nodes that read a node's values, not just its size."""
    return [user for user in node.users if user.op == "output" or user.meta["shape"] is not None]


def _insert(
    traced: fx.GraphModule,
    source: fx.Node,
    behind: list[fx.Node],
    path: str,
    levels: int,
    in_place_of: fx.Node | None = None,
) -> None:
    """Put a quantizer between a node and some that read it; its path may be that of what it stands for."""
    taken = dict(traced.named_modules())
    while path in taken and not (in_place_of is not None and path == in_place_of.target):
        path += "_"
    traced.add_submodule(path, LearnedQuantizer(levels))
    with traced.graph.inserting_after(source):
        quantizer = traced.graph.call_module(path, (source,))
    quantizer.meta = dict(source.meta)
    for reader in behind:
        reader.replace_input_with(source, quantizer)


def _tie_steps(traced: fx.GraphModule) -> None:
    """Let quantizers share a step where a concat's reader takes no wires of different steps."""
    quantizers = quantizers_of(traced)
    for node in traced.graph.nodes:
        if rule_for(traced, node)[0] is not concatenate or not _needs_one_step(traced, node):
            continue
        shared = {id(quantizers[path].log_step): quantizers[path].log_step for path in _sources(traced, node)}
        for quantizer in quantizers.values():
            if id(quantizer.log_step) in shared:
                quantizer.log_step = next(iter(shared.values()))


def _needs_one_step(traced: fx.GraphModule, node: fx.Node) -> bool:
    for reader in readers(node):
        rule, _ = rule_for(traced, reader)
        if rule in (*KEEP_CODES, concatenate):
            if _needs_one_step(traced, reader):
                return True
        elif rule not in AFFINE or getattr(traced.get_submodule(str(reader.target)), "groups", 1) > 1:
            return True
    return False


def _sources(traced: fx.GraphModule, node: fx.Node) -> list[str]:
    """Paths of the quantizers whose codes a value holds, through pools and concats."""
    found = []
    for source in node.all_input_nodes:
        rule, _ = rule_for(traced, source)
        if rule is quantize:
            found.append(str(source.target))
        elif rule in (*KEEP_CODES, concatenate):
            found += _sources(traced, source)
    return found


def _drop(node: fx.Node) -> None:
    """Take an activation out of the graph: what read it reads its input."""
    node.replace_all_uses_with(cast(fx.Node, node.args[0]))
    node.graph.erase_node(node)


def _is_activation(traced: fx.GraphModule, node: fx.Node) -> bool:
    return rule_for(traced, node)[0] in (relu, hardtanh)


def _is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether an activation is a plain ReLU, which a quantizer does by itself."""
    module = module_for(traced, node)
    return isinstance(module, nn.ReLU) or (
        isinstance(module, nn.Hardtanh) and module.min_val == 0 and module.max_val == torch.inf
    )


def _runs_on(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether another activation follows at once, as in ``x.relu().clamp(max=6)``: the quantizer goes behind that."""
    users = readers(node)
    return len(users) == 1 and _is_activation(traced, users[0]) and not _is_relu(traced, users[0])


def _reads_codes(traced: fx.GraphModule, node: fx.Node) -> bool:
    source = node.args[0]
    while isinstance(source, fx.Node):
        rule, _ = rule_for(traced, source)
        if rule is quantize:
            return True
        if rule not in KEEP_CODES:
            return False
        source = source.args[0]
    return False


def _before_pools(traced: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """What the quantizer in an activation's place reads, and which node read that before: the first of the max pools
    that the activation stands behind, or the activation itself."""
    found = source, reader = cast(fx.Node, node.args[0]), node
    while len(readers(source)) == 1 and rule_for(traced, source)[0] in (max_pool, keep):
        pooled = rule_for(traced, source)[0] is max_pool
        source, reader = cast(fx.Node, source.args[0]), source
        found = (source, reader) if pooled else found
    return found


def _refuse_others(traced: fx.GraphModule) -> None:
    """Refuse what no quantizer from 0 upwards can stand for."""
    found = False
    for node in traced.graph.nodes:
        rule, kind = rule_for(traced, node)
        if rule is quantize:
            raise ConversionError(
                f"the network is quantized already (layer {place(node)}): convert it as it is, or quantize its float "
                "twin"
            )
        if rule in (relu, hardtanh):
            module, before = module_for(traced, node), node.args[0]
            after_one = isinstance(before, fx.Node) and _is_activation(traced, before)
            if isinstance(module, nn.Hardtanh) and module.min_val < 0 and not after_one:
                raise ConversionError(
                    f"layer {place(node)} ({kind}) lets values below 0 through, for which there are no codes: "
                    f"{BY_VALUE}"
                )
            found = True
        elif kind.lower().replace("_", "") in FLOAT_ACTIVATIONS:
            raise ConversionError(f"layer {place(node)} ({kind}) cannot be quantized from 0 upwards: {BY_VALUE}")
    if not found:
        raise ConversionError("the network has no ReLU that a quantizer could stand for: put one behind each layer")

"""A converted network as a plain SpikingJelly module: its layers, its ``IFNode``, arithmetic between them.

Two neurons can be said with ``IFNode``, and their counts are equal to the bit:

* ``ladder``: one time step. Each unit becomes L channels whose synapses are copies and whose biases are their
  thresholds: a node fires where w s + 1 - T_i >= 1. The sum over the L channels is the count. Everything is an integer.
* ``if``: T time steps of rates, soft reset, with the start that puts the rounding where the grid's boundaries are.

Everything is float64, in which the integers are exact and the rest is rounded as in snnconv's own neurons.

Ref: Zou et al. 2021, Front. Neurosci. 15:694170 (scatter and gather); Bu et al. 2022 (IF with half-threshold start).
"""

from __future__ import annotations

import json
import logging
import math
import operator
import runpy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from keyword import iskeyword
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from spikingjelly.activation_based import functional, monitor
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, fx, nn

from snnconv.errors import ExportError
from snnconv.formats.kernels import (
    by_inputs,
    concat_order,
    dense_kernel,
    matrix,
    require_known,
    shortcut_kernel,
    wire_levels,
)
from snnconv.runs import write_text, write_whole
from snnconv.snn.layers import (
    Branch,
    Concat,
    Encoder,
    Flatten,
    MaxPool2d,
    Readout,
    Reshape,
    SpikingLayer,
    Stage,
    SumPool2d,
    ZeroChannelShortcut,
    ZeroPad2d,
)
from snnconv.snn.network import INPUT, SpikingNetwork
from snnconv.snn.neurons.rates import rate_parameters
from snnconv.snn.neurons.registry import find_neuron
from snnconv.snn.synapses import ConvTranspose2dSynapse, GroupedSynapse, Synapse
from snnconv.snn.thresholds import value_thresholds

REASONS = {
    "integrate-then-fire": "none of its nodes holds its spikes back until a slot of its own",
    "signed-if": "none of its nodes takes a spike back only while its net count is above zero",
    "st-bif": "its STBIFNode multiplies each spike by the step, so that its wires carry no counts",
    "negative-spike": "its STBIFNode multiplies each spike by the step, so that its wires carry no counts",
}
"""Why a neuron cannot be one of SpikingJelly's nodes."""
FORMAT = "snnconv-spikingjelly"
WEIGHTS = ".weights.safetensors"
"""How the name of the file of weights ends, where that of the source ends in .py."""


def to_spikingjelly(network: SpikingNetwork, neuron: str = "ladder") -> nn.Module:
    """A module of SpikingJelly's layers and nodes that sends the same spikes as the network.

    Nodes are called as their layers (the encoder's, one a level, have the level behind): monitors read their spikes.
    Call ``functional.reset_net`` before each batch. ``ladder`` takes one step, step mode ``s`` or T = 1; of ``if`` the
    mean of the outputs over the steps are the logits.

    Args:
        network: Converted.
        neuron: ``ladder`` or ``if``.

    Returns:
        A ``torch.fx.GraphModule``, from preprocessed images to logits, float64.

    Raises:
        ExportError: a neuron or a layer that SpikingJelly's nodes cannot be.
    """
    return _Builder(network, neuron).module()


def write_spikingjelly(network: SpikingNetwork, path: Path, neuron: str = "ladder") -> list[Path]:
    """Write ``path`` (.py), source that needs SpikingJelly alone, and its weights beside it (.weights.safetensors).

    Raises:
        ExportError: see ``to_spikingjelly``.
        RunError: the folder cannot be written.
    """
    built = _Builder(network, neuron)
    tensors = {name: value.contiguous() for name, value in built.module().state_dict().items()}
    weights = path.with_suffix(WEIGHTS)
    about = {"snnconv": json.dumps({"format": FORMAT, "version": 1, "neuron": neuron})}
    write_whole(weights, lambda temporary: temporary.write_bytes(to_bytes(tensors, about)))
    write_text(path, built.source())
    return [path, weights]


def read_spikingjelly(path: Path) -> nn.Module:
    """The module that a file of ``write_spikingjelly`` makes, with its weights; the file is run."""
    network: nn.Module = runpy.run_path(str(path))["load"]()
    return network


@torch.no_grad()
def run_spikingjelly(
    module: nn.Module, network: SpikingNetwork, x: Tensor, steps: int = 1
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a module on a constant input, watched by SpikingJelly's own monitor.

    Args:
        module: ``to_spikingjelly(network)``; its state is reset.
        network: Whose layers they are.
        x: Preprocessed images.
        steps: T.

    Returns:
        Mean logits (N, classes), and the net counts over all steps of each layer that fires.
    """
    functional.set_step_mode(module, "m")
    functional.reset_net(module)
    watching = monitor.OutputMonitor(module, sj_neuron.IFNode)
    with _no_word_of_triton():
        logits: Tensor = module(x.expand(steps, *x.shape)).mean(0)
    counts = {}
    for name, layer in network.units():
        levels, negative = layer.grid.levels, layer.grid.negative
        if name in watching.monitored_layers:
            spikes = watching[name][0].sum(0)
            if spikes.shape[1:] == network.nodes[name].shape:
                counts[name] = spikes
                continue
            parts = list(spikes.unflatten(1, (-1, levels)).unbind(2))
        else:
            parts = [watching[f"{name}_level{level}"][0].sum(0) for level in range(levels)]
        counts[name] = torch.stack([-part if i < negative else part for i, part in enumerate(parts)]).sum(0)
    watching.remove_hooks()
    functional.reset_net(module)
    functional.set_step_mode(module, "s")
    return logits, counts


@contextmanager
def _no_word_of_triton() -> Iterator[None]:
    """Without torch's remark, as SpikingJelly sets up its kernels in the first call, that Triton is not there."""
    logger = logging.getLogger("torch._library.triton")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Builder:
    """Sub-modules, their constructors as text, and the graph of their calls."""

    def __init__(self, network: SpikingNetwork, neuron: str) -> None:
        find_neuron(neuron)
        if neuron in REASONS:
            raise ExportError(
                f"neuron {neuron!r} cannot be written for SpikingJelly: {REASONS[neuron]}; take ladder or if"
            )
        require_known(network, "SpikingJelly")
        self.network, self.rate, self.neuron = network, neuron == "if", neuron
        self.root = nn.Module()
        self.lines: list[str] = []
        self.graph = fx.Graph()
        self.wires: dict[str, Any] = {}
        x = self.graph.placeholder("x")
        self.wires[INPUT] = self.graph.call_method("double", (x,))
        for name, layer in network.layers.items():
            self.wires[name] = self._layer(name, layer)
        self.graph.output(self.wires[name])

    def module(self) -> nn.Module:
        """The module, in evaluation mode."""
        return fx.GraphModule(self.root, self.graph, "SpikingJellyNetwork").eval()

    def source(self) -> str:
        """A Python file that defines the same module and loads its weights."""
        module = fx.GraphModule(self.root, self.graph, "SpikingJellyNetwork")
        forward = [f"    {line}".rstrip() for line in module.code.strip().splitlines()]
        steps = "the mean of its outputs over the steps are the logits" if self.rate else "it takes one step"
        return "\n".join(
            [
                f'"""A spiking network of {self.neuron} neurons, written by snnconv for SpikingJelly; {steps}.',
                "",
                "Call functional.reset_net before each batch. Weights lie beside this file.",
                '"""',
                "",
                "from math import inf",
                "from pathlib import Path",
                "",
                "import torch",
                "from safetensors.torch import load_file",
                "from spikingjelly.activation_based import layer, neuron",
                "from torch import nn",
                "",
                "",
                "def start(node, v):",
                '    """Let a node begin at a potential after each reset."""',
                '    node.set_reset_value("v", v)',
                "    node.v = v",
                "    return node",
                "",
                "",
                "class SpikingJellyNetwork(nn.Module):",
                "    def __init__(self):",
                "        super().__init__()",
                *(f"        {line}" for line in self.lines),
                "",
                *forward,
                "",
                "",
                "def load():",
                '    """The network with its weights, float64."""',
                "    network = SpikingJellyNetwork().double().eval()",
                f'    network.load_state_dict(load_file(Path(__file__).with_suffix("{WEIGHTS}")))',
                "    return network",
                "",
            ]
        )

    def _layer(self, name: str, layer: nn.Module) -> Any:
        wires = self.network.nodes[name].inputs
        incoming = [self.wires[wire] for wire in wires]
        rank = len(self.network.nodes[name].shape)
        match layer:
            case Encoder():
                return self._encoder(name, layer)
            case SpikingLayer():
                return self._rates(name, layer) if self.rate else self._ladder(name, layer)
            case Readout():
                parts = []
                for number, (branch, wire) in enumerate(zip(layer.branches, wires, strict=True)):
                    levels = wire_levels(self.network, wire) if self.rate else 1
                    parts.append(self._affine(f"{name}_{number}", branch, wire, self.wires[wire], rank, levels))
                return self._total(parts)
            case SumPool2d():
                options = {"kernel_size": layer.kernel, "stride": layer.stride, "divisor_override": 1}
                return self._call(name, "AvgPool2d", (), options, (self._padded(incoming[0], layer.padding),))
            case MaxPool2d() if not self.rate:
                options = {
                    "kernel_size": layer.kernel,
                    "stride": layer.stride,
                    "padding": layer.padding,
                    "dilation": layer.dilation,
                }
                return self._call(name, "MaxPool2d", (), options, (incoming[0],))
            case MaxPool2d():
                raise ExportError(
                    f"layer {name} is a max pool, which SpikingJelly has for single steps only: take the ladder, which "
                    "has one step"
                )
            case ZeroChannelShortcut():
                kernel = shortcut_kernel(layer, self.network.wire_shape(wires[0])[0])
                return self._convolve(name, kernel, None, incoming[0], (layer.stride, layer.stride))
            case Flatten():
                return self._call(name, "Flatten", (), {}, (incoming[0],))
            case Reshape():
                return self._reshaped(incoming[0], len(self.network.wire_shape(wires[0])), layer.shape)
            case ZeroPad2d():
                return self._padded(incoming[0], layer.padding)
            case Concat():
                joined = self.graph.call_function(torch.cat, (incoming, -rank))
                order = concat_order(layer, [self.network.wire_shape(wire)[0] for wire in wires])
                if order is None:
                    return joined
                self.root.register_buffer(f"{name}_order", torch.tensor(order))
                self.lines.append(f'self.register_buffer("{name}_order", torch.empty({len(order)}, dtype=torch.int64))')
                return self.graph.call_method("index_select", (joined, -rank, self.graph.get_attr(f"{name}_order")))
        raise ExportError(f"layer {name} of type {type(layer).__name__} cannot be written for SpikingJelly")

    def _encoder(self, name: str, layer: Encoder) -> Any:
        z, shape = self.wires[INPUT], self.network.header.shape
        for number, stage in enumerate(layer.stages):
            z, shape = self._stage(f"{name}_stage{number}", stage, z, shape)
        if self.rate:
            return self._rate_node(name, layer, z)
        thresholds = value_thresholds(layer.grid, 1)[:, 0].tolist()
        spikes = []
        for level, threshold in enumerate(thresholds):
            if level < layer.grid.negative:  # fires below its threshold, and its spike counts as -1
                limit = math.nextafter(-threshold, math.inf)
                fired = self._node(f"{name}_level{level}", limit, self.graph.call_function(operator.neg, (z,)))
                spikes.append(self.graph.call_function(operator.neg, (fired,)))
            else:
                spikes.append(self._node(f"{name}_level{level}", threshold, z))
        return self._total(spikes)

    def _stage(self, name: str, stage: Stage, z: Any, shape: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
        if stage.branch is not None:
            before, shape = shape, stage.branch.synapse.out_shape(shape)
            return self._affine(name, stage.branch, before, z, len(shape), 1), shape
        if stage.flatten:
            return self._call(name, "Flatten", (), {}, (z,)), (torch.Size(shape).numel(),)
        if stage.shape is not None:
            return self._reshaped(z, len(shape), stage.shape), stage.shape
        if stage.slope is not None:
            return self.graph.call_function(torch.nn.functional.leaky_relu, (z, stage.slope)), shape
        return self.graph.call_function(torch.clamp, (z, stage.low, stage.high)), shape

    def _ladder(self, name: str, layer: SpikingLayer) -> Any:
        """L threshold channels a unit, and their sum."""
        levels, negative = layer.grid.levels, layer.grid.negative
        sign = torch.tensor([-1.0] * negative + [1.0] * layer.grid.positive, dtype=torch.float64)
        own = layer.neuron.thresholds.double().T - layer.constant.double()[:, None]  # (C, L)
        bias = torch.where(sign > 0, 1 - own, own).flatten()
        parts = []
        wires = self.network.nodes[name].inputs
        for number, (branch, multiplier, wire) in enumerate(zip(layer.branches, layer.multipliers, wires, strict=True)):
            factor = (multiplier.double()[:, None] * sign).flatten()  # (C * L,), a unit's levels side by side
            weight = self._weight(branch.synapse, wire).repeat_interleave(levels, 0)
            weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            shift = bias if number == 0 else None
            parts.append(self._synapse(f"{name}_{number}", branch.synapse, weight, shift, self.wires[wire]))
        spikes = self._node(name, 1.0, self._total(parts))
        rank = len(self.network.nodes[name].shape)
        if levels == 1 and not negative:
            return spikes
        apart = self.graph.call_method("unflatten", (spikes, -rank, (-1, levels)))
        if not negative:
            return self.graph.call_method("sum", (apart, -rank))
        above = self.graph.call_method("narrow", (apart, -rank, negative, levels - negative))
        below = self.graph.call_method("narrow", (apart, -rank, 0, negative))
        sums = [self.graph.call_method("sum", (part, -rank)) for part in (above, below)]
        return self.graph.call_function(operator.sub, tuple(sums))

    def _rates(self, name: str, layer: SpikingLayer) -> Any:
        rank, wires = len(self.network.nodes[name].shape), self.network.nodes[name].inputs
        parts = [
            self._affine(f"{name}_{number}", branch, wire, self.wires[wire], rank, wire_levels(self.network, wire))
            for number, (branch, wire) in enumerate(zip(layer.branches, wires, strict=True))
        ]
        return self._rate_node(name, layer, self._total(parts))

    def _rate_node(self, name: str, layer: Encoder | SpikingLayer, current: Any) -> Any:
        if layer.grid.negative or not layer.grid.spacing > 0:
            kind = "codes below zero" if layer.grid.negative else "unevenly spaced boundaries"
            raise ExportError(
                f"layer {name} has {kind}, which the rate of an IFNode cannot say: take --neuron ladder, whose L nodes "
                "a unit have a threshold each"
            )
        threshold, start = rate_parameters(layer.grid)
        return self._node(name, threshold, current, start)

    def _node(self, name: str, threshold: float, current: Any, start: float | None = None) -> Any:
        """An IFNode: hard reset to 0 where one step is all there is, else soft reset from a start of its own."""
        reset = None if start is not None else 0.0
        node = sj_neuron.IFNode(v_threshold=threshold, v_reset=reset)
        text = f"neuron.IFNode(v_threshold={threshold!r}, v_reset={reset!r})"
        if start is not None:
            node.set_reset_value("v", start)
            node.v = start
            text = f"start({text}, {start!r})"
        return self._add(name, node, text, (current,))

    def _affine(self, name: str, branch: Branch, wire: str | tuple[int, ...], x: Any, rank: int, levels: int) -> Any:
        """levels * scale * U / divisor + offset, rounded in this order, as ``rate_current`` and ``Branch`` do."""
        weight = self._weight(branch.synapse, wire)
        U = self._synapse(name, branch.synapse, weight, None, x)
        value = self.graph.call_function(operator.mul, (U, self._buffer(f"{name}_scale", branch.scale * levels, rank)))
        if branch.divisor != 1:
            value = self.graph.call_function(operator.truediv, (value, branch.divisor))
        return self.graph.call_function(operator.add, (value, self._buffer(f"{name}_offset", branch.offset, rank)))

    def _weight(self, synapse: Synapse, wire: str | tuple[int, ...]) -> Tensor:
        """Weight of a layer of SpikingJelly: with groups where the channels are read in order, else of one group."""
        shape = self.network.wire_shape(wire) if isinstance(wire, str) else wire
        if len(shape) == 1:
            return matrix(synapse)
        if isinstance(synapse, GroupedSynapse) and synapse.channels is None:
            return synapse.weight.double()
        return dense_kernel(synapse, shape[0])

    def _synapse(self, name: str, synapse: Synapse, weight: Tensor, bias: Tensor | None, x: Any) -> Any:
        """A layer with the weight of ``_weight``, or with several copies of each of its outputs."""
        name = f"{name}_synapse"
        if weight.ndim == 2:
            features = (weight.shape[1], weight.shape[0])
            return self._call(name, "Linear", features, {"bias": bias is not None}, (x,), weight, bias)
        if not isinstance(synapse, GroupedSynapse):
            return self._convolve(name, weight, bias, x)
        groups = synapse.groups if synapse.channels is None else 1
        left, right, top, bottom = synapse.padding
        if isinstance(synapse, ConvTranspose2dSynapse):
            sizes = (weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]))
            options = {
                "stride": synapse.stride,
                "padding": (top, left),
                "output_padding": (top - bottom, left - right),
                "groups": groups,
                "bias": bias is not None,
                "dilation": synapse.dilation,
            }
            return self._call(name, "ConvTranspose2d", sizes, options, (x,), by_inputs(weight, groups), bias)
        even = (left, top) == (right, bottom)
        x = x if even else self._padded(x, synapse.padding)
        padding = (top, left) if even else (0, 0)
        return self._convolve(name, weight, bias, x, synapse.stride, padding, synapse.dilation, groups)

    def _convolve(
        self,
        name: str,
        weight: Tensor,
        bias: Tensor | None,
        x: Any,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> Any:
        sizes = (weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]))
        options = {
            "stride": tuple(stride),
            "padding": tuple(padding),
            "dilation": tuple(dilation),
            "groups": groups,
            "bias": bias is not None,
        }
        return self._call(name, "Conv2d", sizes, options, (x,), weight, bias)

    def _padded(self, x: Any, padding: Sequence[int]) -> Any:
        if not any(padding):
            return x
        return self.graph.call_function(torch.nn.functional.pad, (x, list(padding)))

    def _reshaped(self, x: Any, rank: int, shape: tuple[int, ...]) -> Any:
        """An image's values in another shape, in both step modes."""
        flat = self.graph.call_method("flatten", (x, -rank))
        return flat if len(shape) == 1 else self.graph.call_method("unflatten", (flat, -1, tuple(shape)))

    def _call(
        self,
        name: str,
        kind: str,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        inputs: tuple[Any, ...],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Any:
        """One of SpikingJelly's layers with its weights, and the line that makes it."""
        module = getattr(sj_layer, kind)(*arguments, **options).double()
        given = {key: values for key, values in (("weight", weight), ("bias", bias)) if values is not None}
        if given:
            module.load_state_dict(given)
        words = [repr(value) for value in arguments] + [f"{key}={value!r}" for key, value in options.items()]
        return self._add(name, module, f"layer.{kind}({', '.join(words)})", inputs)

    def _add(self, name: str, module: nn.Module, text: str, inputs: tuple[Any, ...]) -> Any:
        if hasattr(self.root, name) or not name.isidentifier() or iskeyword(name):
            raise ExportError(f"no module, or no other one, can be called {name} here: give that layer another name")
        self.root.add_module(name, module)
        self.lines.append(f"self.{name} = {text}")
        return self.graph.call_module(name, inputs)

    def _buffer(self, name: str, values: Tensor, rank: int) -> Any:
        shaped = values.double().reshape(-1, *[1] * (rank - 1))
        self.root.register_buffer(name, shaped)
        self.lines.append(f'self.register_buffer("{name}", torch.empty({tuple(shaped.shape)}))')
        return self.graph.get_attr(name)

    def _total(self, parts: list[Any]) -> Any:
        total = parts[0]
        for part in parts[1:]:
            total = self.graph.call_function(operator.add, (total, part))
        return total

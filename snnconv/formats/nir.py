"""A converted network as a graph of the Neuromorphic Intermediate Representation (NIR 1.0.8).

NIR's integrate-and-fire node resets to a fixed potential and fires strictly above its threshold:

    v <- v + R I ,   spike = [v > v_threshold] ,   v <- v_reset where it fired

* ``ladder`` can be said exactly: a unit of L levels becomes L such nodes that share their synapse and have a threshold
  each, T_i - 1/2 on integers; edges that meet add up. It takes one clocked step an image, from v = 0. Nodes of codes
  below zero fire on the negated potential, and their spikes are negated behind them.
* ``if`` subtracts its threshold where it fires, which NIR cannot say. It is refused, or written with the hard reset
  where that is asked for, together with what it changes.

Groups become blocks of a full kernel and uneven padding a larger kernel with zeros, as nir infers shapes from neither.
Concatenations are sums of wires that are put to their places among channels of zeros.

Ref: Pedersen et al. 2024, "Neuromorphic intermediate representation", Nat. Commun. 15:8122.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snnconv.config import to_mapping
from snnconv.errors import ExportError, FormatError
from snnconv.formats.kernels import (
    concat_matrix,
    dense_kernel,
    even_padding,
    matrix,
    require_known,
    shortcut_kernel,
    wire_levels,
)
from snnconv.grids import Grid
from snnconv.runs import write_whole
from snnconv.snn.layers import (
    Branch,
    Concat,
    Encoder,
    Flatten,
    Readout,
    Reshape,
    SpikingLayer,
    SumPool2d,
    ZeroChannelShortcut,
    ZeroPad2d,
)
from snnconv.snn.network import INPUT, SpikingNetwork
from snnconv.snn.neurons.rates import rate_parameters
from snnconv.snn.neurons.registry import find_neuron
from snnconv.snn.synapses import Conv2dSynapse, IdentitySynapse, LinearSynapse, LinesSynapse, Synapse
from snnconv.snn.thresholds import value_thresholds

REASONS = {
    "integrate-then-fire": "a NIR node fires as soon as it can, and not in a slot of its own",
    "signed-if": "a NIR node sends no negative spikes",
    "st-bif": "a NIR node sends no negative spikes and does not count its own",
    "negative-spike": "a NIR node sends no negative spikes and does not count its own",
}
"""Why a neuron cannot be NIR's, not even with a loss that one could name."""

OUTPUT = "output"
WRITER = "snnconv"


@dataclass(frozen=True)
class Written:
    """A graph, and what it says otherwise than the network.

    Attributes:
        graph: The ``nir.NIRGraph``.
        nodes: For each layer that fires the names of its IF nodes, a level after the other; one where it is a rate.
        changes: What was lost, a sentence each; empty where the graph is exact.
    """

    graph: Any
    nodes: dict[str, list[str]]
    changes: list[str]


def to_nir(network: SpikingNetwork, neuron: str = "ladder", lossy: bool = False) -> Written:
    """The graph of a network.

    Args:
        network: Converted.
        neuron: ``ladder`` or ``if``.
        lossy: Write what NIR cannot say as the nearest that it can.

    Raises:
        ExportError: nir is not installed, or something that NIR cannot say.
    """
    find_neuron(neuron)
    if neuron in REASONS:
        raise ExportError(f"neuron {neuron!r} cannot be written as NIR: {REASONS[neuron]}; take the ladder")
    if neuron == "if" and not lossy:
        raise ExportError(
            "neuron 'if' has a soft reset, and NIR's IF a hard one: take the ladder, which NIR says exactly, or "
            "--lossy, which writes the hard reset and reports what it changes"
        )
    return _Builder(network, rate=neuron == "if").written()


def write_nir(network: SpikingNetwork, path: Path, neuron: str = "ladder", lossy: bool = False) -> Written:
    """Write ``to_nir`` whole or not at all, read it back, and compare.

    Raises:
        ExportError: see ``to_nir``, or what nir reads is not what was written.
    """
    written = to_nir(network, neuron, lossy)
    write_whole(path, lambda temporary: _nir().write(str(temporary), written.graph))
    different = difference(written.graph, _nir().read(str(path)))
    if different:
        raise ExportError(f"{path.name} is not read back by nir as it was written: {different}")
    return written


def nir_facts(path: Path) -> dict[str, Any] | None:
    """What a file of ``write_nir`` says of itself; None where something else wrote it.

    Raises:
        ExportError: nir is not installed.
        FormatError: damaged, or no NIR graph.
    """
    nir = _nir()
    try:
        graph = nir.read(str(path))
    except Exception as error:  # nir and h5py raise many kinds; each means the same to the user
        raise FormatError(f"{path} is damaged, or no graph of NIR") from error
    about = graph.metadata
    if about.get("writer") != WRITER:
        return None
    facts = {key: about[key] for key in ("neuron", "steps")}
    facts |= {key: json.loads(about[key]) for key in ("levels", "preprocessing")}
    return facts | {"nodes": len(graph.nodes), "edges": len(graph.edges)}


def difference(one: Any, other: Any) -> str:
    """What differs between two graphs, in a few words; empty where names, types, arrays and edges are the same."""
    if set(one.nodes) != set(other.nodes):
        return f"node {min(set(one.nodes) ^ set(other.nodes))} is in only one of the two"
    if sorted(one.edges) != sorted(other.edges):
        return "other edges"
    for name, node in one.nodes.items():
        twin = other.nodes[name]
        if type(node) is not type(twin):
            return f"node {name} is {type(twin).__name__}, not {type(node).__name__}"
        for key, value in node.to_dict().items():
            if key not in ("type", "metadata") and not np.array_equal(value, twin.to_dict()[key]):
                return f"{key} of node {name}"
        for kind in ("input_type", "output_type"):
            mine, theirs = (next(iter(getattr(own, kind).values())) for own in (node, twin))
            if list(mine) != list(theirs):
                return f"shape of node {name}"
    return ""


class _Builder:
    """Nodes and edges; the wire of a layer is the list of nodes whose outputs add up to it."""

    def __init__(self, network: SpikingNetwork, rate: bool) -> None:
        self.nir, self.network, self.rate = _nir(), network, rate
        require_known(network, "NIR", (Conv2dSynapse, LinearSynapse, IdentitySynapse, LinesSynapse))
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.spiking: dict[str, list[str]] = {}
        self.changes: list[str] = _changes(network) if rate else []
        self.wires: dict[str, list[str]] = {
            INPUT: [self._add(INPUT, self.nir.Input(input_type=np.array(network.header.shape)), [])]
        }
        for name, layer in network.layers.items():
            self.wires[name] = self._layer(name, layer)
        self._add(OUTPUT, self.nir.Output(output_type=np.array([network.classes])), self.wires[name])

    def written(self) -> Written:
        """The graph with its metadata."""
        settings = self.network.header.preprocessing
        about = {
            "writer": WRITER,
            "neuron": "if, hard reset" if self.rate else "ladder",
            "steps": "free" if self.rate else "1, from v = 0",
            "levels": json.dumps(self.network.levels),
            "preprocessing": json.dumps(None if settings is None else to_mapping(settings)),
        }
        graph = self.nir.NIRGraph(self.nodes, self.edges, metadata=about)
        return Written(graph, self.spiking, self.changes)

    def _layer(self, name: str, layer: nn.Module) -> list[str]:
        wires = self.network.nodes[name].inputs
        before = self.wires[wires[0]]
        match layer:
            case Encoder():
                return self._encoder(name, layer)
            case SpikingLayer():
                return self._rates(name, layer) if self.rate else self._ladder(name, layer)
            case Readout():
                return self._readout(name, layer)
            case Flatten() | Reshape() if len(self.network.nodes[name].shape) == 1:
                flat = {"input": np.array(self.network.wire_shape(wires[0]))}
                return [self._add(name, self.nir.Flatten(flat, 0, -1), before)]
            case SumPool2d():
                left, right, top, bottom = layer.padding
                if (left, top) != (right, bottom):
                    raise ExportError(f"sum-pool {name} pads unevenly by {list(layer.padding)}, which NIR cannot say")
                pool = [np.array(values) for values in (layer.kernel, layer.stride, (top, left))]
                return [self._add(name, self.nir.SumPool2d(*pool), before)]
            case ZeroChannelShortcut():
                shape = self.network.wire_shape(wires[0])
                kernel = shortcut_kernel(layer, shape[0])
                node = self._convolution(kernel, shape, (layer.stride, layer.stride), [0, 0], (1, 1), None)
                return [self._add(name, node, before)]
            case ZeroPad2d():
                channels, *_ = shape = self.network.wire_shape(wires[0])
                left, right, top, bottom = layer.padding
                ones = torch.eye(channels, dtype=torch.float64)[:, :, None, None]
                kernel, padding, dilation = even_padding(ones, (left, right, top, bottom), (1, 1), name)
                return [self._add(name, self._convolution(kernel, shape, (1, 1), padding, dilation, None), before)]
            case Concat():
                return self._concat(name, layer, wires)
        raise ExportError(
            f"layer {name} is a {type(layer).__name__}, for which NIR has no node: take an average pool or a strided "
            "convolution in place of a max pool"
        )

    def _concat(self, name: str, layer: Concat, wires: Sequence[str]) -> list[str]:
        """Each wire put to its place among channels of zeros; edges that meet add up."""
        shapes = [self.network.wire_shape(wire) for wire in wires]
        parts = []
        for number, (wire, shape) in enumerate(zip(wires, shapes, strict=True)):
            own = concat_matrix(layer, [channels for channels, *_ in shapes], number)
            node = self.nir.Linear(own.numpy())
            if len(shape) > 1:
                node = self._convolution(own[:, :, None, None], shape, (1, 1), [0, 0], (1, 1), None)
            parts.append(self._add(f"{name}_{number}", node, self.wires[wire]))
        return parts

    def _encoder(self, name: str, layer: Encoder) -> list[str]:
        before, shape, grid = self.wires[INPUT], self.network.header.shape, layer.grid
        linear = list(layer.stages)
        while linear and linear[-1].branch is None and not linear[-1].flatten and linear[-1].shape is None:
            last = linear.pop()  # a monotone step in front of the boundaries moves them
            grid = grid.before_clip(last.low, last.high) if last.slope is None else grid.before_slope(last.slope)
            if self.rate and (last.low > 0 or last.high < rate_parameters(layer.grid)[0]):
                self.changes.append(f"encoder {name} is not clipped to {last.low:g} .. {last.high:g}: NIR has no clip")
        for number, stage in enumerate(linear):
            own = f"{name}_stage{number}"
            if stage.flatten:
                before = [self._add(own, self.nir.Flatten({"input": np.array(shape)}, 0, -1), before)]
                shape = (torch.Size(shape).numel(),)
            elif stage.branch is not None:
                before = [self._affine(own, stage.branch, shape, before)]
                shape = stage.branch.synapse.out_shape(shape)
            else:
                raise ExportError(
                    f"encoder {name} has a ReLU, clip or reshape between its layers, for which NIR has no node: "
                    "quantize the activation behind its first layer"
                )
        if self.rate:
            return self._rate_node(name, layer.grid, before, shape)
        thresholds = value_thresholds(grid, shape[0])
        above = torch.tensor([[_below(value)] for value in thresholds[:, 0].tolist()], dtype=torch.float64)
        return self._fire(name, before, thresholds, above.expand_as(thresholds), grid.negative, shape)

    def _ladder(self, name: str, layer: SpikingLayer) -> list[str]:
        node = self.network.nodes[name]
        several = len(layer.branches) > 1
        factor = layer.factor.double() if several else torch.ones_like(layer.factor)
        sums = []
        for number, (branch, multiplier, wire) in enumerate(
            zip(layer.branches, layer.multipliers, node.inputs, strict=True)
        ):
            own = self._synapse(branch.synapse, self.network.wire_shape(wire), multiplier.double() / factor, None, name)
            sums.append(self._add(f"{name}_{number}_synapse", own, self.wires[wire]))
        thresholds = layer.neuron.thresholds.double() - layer.constant.double()
        middle = (thresholds - 0.5) / factor
        return self._fire(name, sums, middle, middle, layer.grid.negative, node.shape)

    def _fire(
        self, name: str, sums: list[str], below: Tensor, above: Tensor, negative: int, shape: tuple[int, ...]
    ) -> list[str]:
        """L nodes that fire where the sum lies above ``above`` (L, C), those of codes below zero under ``below``."""
        sent, self.spiking[name] = [], []
        negated = []
        if negative:
            negated = [self._add(f"{name}_negated", self.nir.Scale(-np.ones(shape)), sums)]
        for level in range(len(above)):
            inverted = level < negative
            limits = -below[level] if inverted else above[level]
            own = self._node(f"{name}_level{level}", limits, negated if inverted else sums, shape)
            self.spiking[name].append(own)
            if inverted:
                own = self._add(f"{own}_negated", self.nir.Scale(-np.ones(shape)), [own])
            sent.append(own)
        return sent

    def _rates(self, name: str, layer: SpikingLayer) -> list[str]:
        node, currents = self.network.nodes[name], []
        for number, (branch, wire) in enumerate(zip(layer.branches, node.inputs, strict=True)):
            own = f"{name}_{number}_synapse"
            shape = self.network.wire_shape(wire)
            currents.append(self._affine(own, branch, shape, self.wires[wire], wire_levels(self.network, wire)))
        return self._rate_node(name, layer.grid, currents, node.shape)

    def _rate_node(self, name: str, grid: Grid, currents: list[str], shape: tuple[int, ...]) -> list[str]:
        if grid.negative or not grid.spacing > 0:
            raise ExportError(
                f"layer {name} has codes below zero or unevenly spaced boundaries, which a rate cannot say: take the "
                "ladder"
            )
        threshold, _ = rate_parameters(grid)
        self.spiking[name] = [self._node(name, torch.full((shape[0],), threshold).double(), currents, shape)]
        return self.spiking[name]

    def _readout(self, name: str, layer: Readout) -> list[str]:
        parts = []
        for number, (branch, wire) in enumerate(zip(layer.branches, self.network.nodes[name].inputs, strict=True)):
            shape = self.network.wire_shape(wire)
            levels = wire_levels(self.network, wire) if self.rate else 1
            parts.append(self._affine(f"{name}_{number}", branch, shape, self.wires[wire], levels))
        return parts

    def _affine(self, name: str, branch: Branch, shape: tuple[int, ...], before: list[str], levels: int = 1) -> str:
        """levels * scale * U / divisor + offset as one node, its factors worked into the weights."""
        factor = branch.scale * levels / branch.divisor
        return self._add(name, self._synapse(branch.synapse, shape, factor, branch.offset, name), before)

    def _synapse(self, synapse: Synapse, shape: tuple[int, ...], factor: Tensor, bias: Tensor | None, name: str) -> Any:
        if len(shape) == 1:
            weight = (matrix(synapse) * factor[:, None]).numpy()
            return self.nir.Linear(weight) if bias is None else self.nir.Affine(weight, bias.double().numpy())
        kernel = dense_kernel(synapse, shape[0]) * factor[:, None, None, None]
        if not isinstance(synapse, Conv2dSynapse):
            return self._convolution(kernel, shape, (1, 1), [0, 0], (1, 1), bias)
        kernel, padding, dilation = even_padding(kernel, _four(synapse.padding), _two(synapse.dilation), name)
        return self._convolution(kernel, shape, synapse.stride, padding, dilation, bias)

    def _convolution(
        self,
        kernel: Tensor,
        shape: tuple[int, ...],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        bias: Tensor | None,
    ) -> Any:
        offset = np.zeros(len(kernel)) if bias is None else bias.double().numpy()
        pairs = (tuple(stride), tuple(padding), tuple(dilation))
        return self.nir.Conv2d(shape[1:], kernel.contiguous().numpy(), *pairs, 1, offset)

    def _node(self, name: str, limits: Tensor, before: list[str], shape: tuple[int, ...]) -> str:
        """IF nodes of a layer: threshold (C,), resistance 1, reset to 0."""
        spread = limits.reshape(-1, *[1] * (len(shape) - 1)).expand(shape).numpy().copy()
        return self._add(name, self.nir.IF(np.ones(shape), spread, np.zeros(shape)), before)

    def _add(self, name: str, node: Any, before: list[str]) -> str:
        if name in self.nodes:
            raise ExportError(f"two nodes would be called {name}: give the layers of the ANN other names")
        self.nodes[name] = node
        self.edges += [(source, name) for source in before]
        return name


def _changes(network: SpikingNetwork) -> list[str]:
    """What hard reset and the missing initial potential do to rates."""
    starts = sorted({rate_parameters(unit.grid)[1] for _, unit in network.units()})
    where = ", ".join(f"{start:g}" for start in starts)
    return [
        "soft reset became a hard reset to 0: what a potential exceeds its threshold by is lost with each spike",
        f"potentials start at 0 and not at {where}: NIR has no initial potential, so counts are rounded down",
        "a spike needs v > threshold in place of v >= threshold",
    ]


def _below(threshold: float) -> float:
    """The number above which lie exactly the float64 from ``threshold`` on."""
    return math.nextafter(threshold, -math.inf)


def _four(padding: Sequence[int]) -> tuple[int, int, int, int]:
    left, right, top, bottom = padding
    return left, right, top, bottom


def _two(pair: Sequence[int]) -> tuple[int, int]:
    vertical, horizontal = pair
    return vertical, horizontal


def _nir() -> Any:
    try:
        import nir
    except ImportError as error:
        raise ExportError("nir is not installed: `pip install -c constraints.txt -e '.[nir]'`") from error
    return nir

"""Signed units as two neurons each, for hardware whose spikes have no sign.

A unit with counts in -n .. p becomes one neuron on a positive and one on a negative line, which send
max(count, 0) and max(-count, 0). Both lines share a wire, the positive one's channels first, and whoever
reads it has the weights [W, -W]:

    U = W count = W max(count, 0) - W max(-count, 0)

The negative neuron is the positive one of -z: its scale and offset are negated, and so are its boundaries,
in reverse order and with the other side closed. Negation is exact, in float64 and in integers, and what two
lines carry together is no more than before, so bounds, multipliers and thresholds stay the signed unit's: the
difference of the two counts is its count, bit for bit. Only the readout adds its float64 numbers in another
order, so logits agree to rounding.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from snnconv.errors import ConversionError
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
    spiking_layer,
)
from snnconv.snn.network import Node, SpikingNetwork
from snnconv.snn.synapses import GroupedSynapse, IdentitySynapse, LinesSynapse, Synapse

NAMES = {1: "plus", -1: "minus"}
"""What is appended to the name of a layer that is split."""

Lines = tuple[int, ...]
"""Signs of the lines that share a wire, in the order of their channels."""

WHOLE: Lines = (1,)
"""A wire that carries counts as they are."""


def split_signs(network: SpikingNetwork) -> SpikingNetwork:
    """The network with two neurons in the place of each signed unit, all counts being 0 or more.

    A layer ``act`` becomes ``act_plus``, ``act_minus`` and the wiring ``act`` that joins them. Layers
    without negative counts keep their units. The network given is left as it was.

    Raises:
        ConversionError: no layer sends negative counts, or one that reads them cannot be split.
    """
    if not any(unit.grid.negative for _, unit in network.units()):
        raise ConversionError("there is nothing to split: no layer of this network sends negative counts")
    splitter = _Splitter(network)
    for name, layer in network.layers.items():
        try:
            splitter.add(name, layer)
        except ConversionError as error:
            raise ConversionError(f"layer {name} ({type(layer).__name__}) cannot be split: {error}") from error
    header = replace(network.header, about=network.header.about | {"split": True})
    return SpikingNetwork(splitter.layers, splitter.nodes, header)


class _Splitter:
    """The split network so far, and the lines of each of its wires."""

    def __init__(self, network: SpikingNetwork) -> None:
        self.network = network
        self.layers: dict[str, nn.Module] = {}
        self.nodes: dict[str, Node] = {}
        self.lines: dict[str, Lines] = {}

    def add(self, name: str, layer: nn.Module) -> None:
        """Add what becomes of one layer."""
        node = self.network.nodes[name]
        if isinstance(layer, Encoder | SpikingLayer) and layer.grid.negative:
            self._add_sides(name, layer, node)
            return
        lines = self._incoming(node)
        if all(each == WHOLE for each in lines):
            self.layers[name], self.nodes[name] = copy.deepcopy(layer), node
            return
        if isinstance(layer, Concat):
            self._join(name, layer, node, lines)
            return
        self.layers[name], self.nodes[name] = self._reader(layer, node, lines[0]), node
        if not isinstance(layer, SpikingLayer | Readout):
            self._set_lines(name, lines[0])

    def _add_sides(self, name: str, unit: Encoder | SpikingLayer, node: Node) -> None:
        sides = []
        for sign in unit.grid.signs:
            side = self._free(f"{name}_{NAMES[sign]}")
            if isinstance(unit, Encoder):
                self.layers[side] = _encoder_side(unit, sign, node.shape[0])
            else:
                self.layers[side] = spiking_layer(self._branches(unit, node, sign), unit.grid.side(sign), unit.largest)
            origin = None if node.origin is None else replace(node.origin, side=sign)
            self.nodes[side] = replace(node, origin=origin)
            sides.append(side)
        self.layers[name], self.nodes[name] = Concat(), Node(tuple(sides), node.shape)
        self._set_lines(name, unit.grid.signs)

    def _join(self, name: str, layer: Concat, node: Node, lines: list[Lines]) -> None:
        """Join wires line by line; one without negative counts gets a line that carries none."""
        both = tuple(NAMES)
        if layer.lines > 1 or any(each not in (WHOLE, both) for each in lines):
            raise ConversionError("it joins wires that only send negative counts with others")
        inputs = [
            wire if own == both else self._with_silent_line(name, wire)
            for wire, own in zip(node.inputs, lines, strict=True)
        ]
        self.layers[name], self.nodes[name] = Concat(len(both)), replace(node, inputs=tuple(inputs))
        self._set_lines(name, both)

    def _with_silent_line(self, reader: str, wire: str) -> str:
        channels, *pixels = self.network.wire_shape(wire)
        if len(pixels) != 2:
            raise ConversionError(
                f"wire {wire} has no negative counts: join it with signed ones in front of the flatten"
            )
        name = self._free(f"{reader}_{wire}")
        self.layers[name] = ZeroChannelShortcut(2 * channels)
        self.nodes[name] = Node((wire,), (2 * channels, *pixels))
        return name

    def _reader(self, layer: nn.Module, node: Node, lines: Lines) -> nn.Module:
        """What an unsigned layer becomes that reads a wire of several lines."""
        match layer:
            case SpikingLayer():
                return spiking_layer(self._branches(layer, node), layer.grid, layer.largest)
            case Readout():
                return Readout(self._branches(layer, node))
            case SumPool2d() | Flatten() | ZeroPad2d():
                return copy.deepcopy(layer)
            case Reshape():
                return Reshape((len(lines) * layer.shape[0], *layer.shape[1:]))
            case ZeroChannelShortcut():
                return ZeroChannelShortcut(len(lines) * layer.channels, layer.stride, len(lines))
            case MaxPool2d():
                raise ConversionError(
                    "of signed counts, the largest is the smallest on the negative line, which no spike can tell: "
                    "pool with an average or a strided convolution instead"
                )
        raise ConversionError("it reads signed counts in a way that two lines have no counterpart for")

    def _branches(self, layer: SpikingLayer | Readout, node: Node, sign: int = 1) -> list[Branch]:
        channels = (self.network.wire_shape(wire)[0] for wire in node.inputs)
        parts = zip(layer.branches, channels, self._incoming(node), strict=True)
        return [_scaled(b, sign, _reading(b.synapse, lines, count)) for b, count, lines in parts]

    def _incoming(self, node: Node) -> list[Lines]:
        return [self.lines.get(wire, WHOLE) for wire in node.inputs]

    def _set_lines(self, name: str, lines: Lines) -> None:
        """Let a wire carry these lines side by side."""
        node = self.nodes[name]
        self.lines[name] = lines
        self.nodes[name] = replace(node, shape=(len(lines) * node.shape[0], *node.shape[1:]))

    def _free(self, name: str) -> str:
        while name in self.network.layers:
            name += "_"
        return name


def _scaled(branch: Branch, sign: int, synapse: Synapse) -> Branch:
    return Branch(synapse, sign * branch.scale, sign * branch.offset, branch.divisor, branch.rounding)


def _encoder_side(encoder: Encoder, sign: int, channels: int) -> Encoder:
    """The encoder of sign * z; a last stage that is not affine gets a stage behind it that turns the sign."""
    stages, grid = list(copy.deepcopy(encoder.stages)), encoder.grid.side(sign)
    if sign > 0:
        return Encoder(stages, grid)
    last = stages[-1].branch if stages else None
    if last is not None:
        stages[-1] = Stage(_scaled(last, -1, last.synapse))
    else:
        ones = torch.ones(channels, dtype=torch.float64)
        mirror = Branch(IdentitySynapse(torch.ones(channels, 1, dtype=torch.int8)), -ones, 0 * ones)
        stages.append(Stage(mirror))
    return Encoder(stages, grid)


def _reading(synapse: Synapse, lines: Lines, channels: int) -> Synapse:
    """The synapse with a copy of its weight for each line, negated where the line's sign is.

    Args:
        synapse: Reads a wire of ``channels`` channels.
        lines: Signs of the lines it will read.
        channels: Channels of each line.
    """
    if lines == WHOLE:
        return copy.deepcopy(synapse)
    if synapse.weight.dtype == torch.int8 and int(synapse.weight.min()) == -128:
        raise ConversionError("its weight code -128 has no negative in 8 bits; codes of -127 to 127 are accepted")
    weight = torch.cat([sign * synapse.weight for sign in lines], 1)
    if isinstance(synapse, IdentitySynapse):
        return LinesSynapse(weight)
    settings = synapse.settings | {"lines": len(lines)}
    if isinstance(synapse, GroupedSynapse):
        settings["channels"] = _order(synapse, len(lines), channels)
    return type(synapse)(weight, **settings)


def _order(synapse: GroupedSynapse, lines: int, channels: int) -> tuple[int, ...] | None:
    """Channels that a convolution reads, group by group and line by line; None where that is as they come."""
    order = range(channels) if synapse.channels is None else synapse.channels
    size = len(order) // synapse.groups
    groups = [order[first : first + size] for first in range(0, len(order), size)]
    read = [line * channels + channel for group in groups for line in range(lines) for channel in group]
    return None if read == list(range(lines * channels)) else tuple(read)

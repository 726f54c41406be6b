"""The spiking network: named layers, the wires between them, and the plain forward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.config import Preprocessing
from snnconv.errors import ConversionError, DataError
from snnconv.grids import Grid
from snnconv.snn.layers import Encoder, Readout, SpikingLayer, SumPool2d, Unit

INPUT = "input"
"""Name of the wire that carries the analog input."""

Tap = Callable[[str, Tensor, int], Tensor]
"""Called with each layer's name, the counts it sends and the time step; returns the counts that travel on.

Noise changes them, observers return them as they are, verification puts the ANN's codes in their place. What a tap
returns has the shape it was given and stays within ``SpikingNetwork.count_range`` of the wire: engines rely on it.
"""

Instead = Mapping[str, Callable[..., Tensor]]
"""For layers that run otherwise in a batch, what runs in their place: from incoming wires to what the layer sends."""

NOTHING: Instead = MappingProxyType({})
"""Every layer runs as it is."""


Sent = Callable[[Grid], tuple[int, int]]
"""Smallest and largest count that a unit of a grid sends."""


def whole_count(grid: Grid) -> tuple[int, int]:
    """A ladder sends its whole count at once."""
    return -grid.negative, grid.positive


@dataclass(frozen=True)
class Origin:
    """Where a unit comes from: the path of its quantizer in the ANN, and which of its calls.

    Attributes:
        module: Path of the quantizer.
        call: Number of the call.
        side: 0 where the unit's counts are the quantizer's codes; 1 and -1 where they are the sizes of its
            codes of that sign and 0 for the others.
    """

    module: str
    call: int
    side: int = 0


@dataclass(frozen=True)
class Node:
    """One layer's place in the network.

    Attributes:
        inputs: Wires that come in, one a branch; a wire is called after the layer that sends it.
        shape: Shape of one output, without the batch.
        origin: The quantizer a unit was made from; None for pools, flatten and the readout.
    """

    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    origin: Origin | None = None


@dataclass(frozen=True)
class Header:
    """What a network says of itself.

    Attributes:
        shape: Shape of one input image, after preprocessing.
        preprocessing: From pixels to the input; None where the user prepares it.
        about: Free plain values: recipe, quantization, seed.
    """

    shape: tuple[int, ...]
    preprocessing: Preprocessing | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def split(self) -> bool:
        """Whether each signed unit was given two neurons, one a sign."""
        return bool(self.about.get("split", False))


class SpikingNetwork(nn.Module):
    """Layers in the order of computation, with the wiring table.

    The plain forward is the reference that every engine must match bit for bit.

    Args:
        layers: Name to layer, each after those it reads from.
        nodes: Name to its place, for the same names.
        header: What the network says of itself.

    Raises:
        ConversionError: a layer reads a wire that nothing before it sends, or the last is no readout.
    """

    def __init__(self, layers: dict[str, nn.Module], nodes: dict[str, Node], header: Header) -> None:
        super().__init__()
        sent = {INPUT}
        for name, layer in layers.items():
            if name == INPUT:
                raise ConversionError(f"no layer can be called {INPUT!r}: that is the wire of the analog input")
            if isinstance(layer, Readout) and name != next(reversed(layers)):
                raise ConversionError(f"readout {name} stands before the last layer")
            for wire in nodes[name].inputs:
                if wire not in sent:
                    raise ConversionError(f"layer {name} reads wire {wire}, which no layer before it sends")
                if (wire == INPUT) != isinstance(layer, Encoder):
                    raise ConversionError(f"layer {name} reads wire {wire}; encoders read the input, and only they")
            sent.add(name)
        if not layers or not isinstance(layers[next(reversed(layers))], Readout):
            raise ConversionError("a spiking network must end in a readout")
        self.layers = nn.ModuleDict(layers)
        self.nodes = dict(nodes)
        self.header = header

    def forward(self, x: Tensor, taps: Sequence[Tap] = (), instead: Instead = NOTHING) -> Tensor:
        """Logits, float64 (N, classes), of analog inputs (N, C, H, W).

        Args:
            x: Preprocessed images.
            taps: Called in order on what every layer but the readout sends.
            instead: Layers that run otherwise.

        Raises:
            DataError: images of another shape.
        """
        self.require_shape(x)
        wires = {INPUT: x}
        for name, layer in self.layers.items():
            sent = instead.get(name, layer)(*(wires[wire] for wire in self.nodes[name].inputs))
            if isinstance(layer, Readout):
                return sent
            for tap in taps:
                sent = tap(name, sent, 0)
            wires[name] = sent
        raise AssertionError("unreachable: the constructor demands a readout")

    def check_shapes(self) -> None:
        """Send one blank image through and compare every wire with what its node says.

        Raises:
            ConversionError: a layer gives another shape.
        """

        def check(name: str, sent: Tensor, step: int = 0) -> Tensor:
            expected = self.nodes[name].shape
            if tuple(sent.shape[1:]) != expected:
                raise ConversionError(f"layer {name} gives {list(sent.shape[1:])}, its header says {list(expected)}")
            return sent

        with torch.no_grad():
            logits = self(torch.zeros(1, *self.header.shape, device=self.device), [check])
        check(next(reversed(self.nodes)), logits)

    def require_shape(self, x: Tensor) -> None:
        """Refuse inputs of another shape than the network was made for.

        Raises:
            DataError: they have one.
        """
        if tuple(x.shape[1:]) != tuple(self.header.shape):
            raise DataError(f"inputs are of shape {list(x.shape[1:])}; the network takes {list(self.header.shape)}")

    def units(self) -> Iterator[tuple[str, Unit]]:
        """Layers that fire, in order: the encoder and the spiking layers."""
        for name, layer in self.layers.items():
            if isinstance(layer, Encoder | SpikingLayer):
                yield name, layer

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the layers that read the analog input, mostly one."""
        return tuple(name for name, layer in self.layers.items() if isinstance(layer, Encoder))

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.nodes[next(reversed(self.nodes))].shape[0]

    @property
    def levels(self) -> list[int]:
        """L of each unit layer, in order."""
        return [layer.grid.levels for _, layer in self.units()]

    def wire_shape(self, wire: str) -> tuple[int, ...]:
        """Shape of what a wire carries for one image."""
        return self.header.shape if wire == INPUT else self.nodes[wire].shape

    def count_range(self, wire: str, sent: Sent = whole_count) -> tuple[int, int]:
        """Smallest and largest count that a wire may carry, where units send what ``sent`` says."""
        layer = self.layers[wire]
        if isinstance(layer, Encoder | SpikingLayer):
            return sent(layer.grid)
        ranges = [self.count_range(source, sent) for source in self.nodes[wire].inputs]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        window = layer.kernel[0] * layer.kernel[1] if isinstance(layer, SumPool2d) else 1
        return low * window, high * window

    def on(self, device: torch.device) -> SpikingNetwork:
        """This network where it lies on the device already, else a copy there."""
        return self if self.device == device else copy.deepcopy(self).to(device)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.buffers()).device

"""The spiking network under construction: layers, wires, and the value of every graph node."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import fx, nn

from snnconv.conversion.fixed_point import fix_weights
from snnconv.conversion.values import Analog, Counts, Sum, Value, lifted
from snnconv.grids import Grid
from snnconv.snn.layers import Encoder, Readout, spiking_layer
from snnconv.snn.network import INPUT, Header, Node, Origin, SpikingNetwork


class Builder:
    """Collects layers while the rules walk the graph.

    Args:
        header: What the network will say of itself.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self.layers: dict[str, nn.Module] = {}
        self.nodes: dict[str, Node] = {}
        self.values: dict[fx.Node, Value] = {}
        self._calls: Counter[str] = Counter()
        self._reserved = nn.ModuleDict()

    def value(self, argument: Any) -> Value:
        """Value of a graph node's argument; None where it is a plain number."""
        return self.values[argument] if isinstance(argument, fx.Node) else None

    def wire_shape(self, wire: str) -> tuple[int, ...]:
        """Shape of what a wire carries for one image."""
        return self.header.shape if wire == INPUT else self.nodes[wire].shape

    def add_layer(
        self,
        node: fx.Node,
        layer: nn.Module,
        inputs: tuple[str, ...],
        origin: Origin | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> str:
        """Add a layer named after its graph node; returns the wire it sends on.

        Args:
            node: The node; several layers may come of one.
            layer: The layer.
            inputs: Wires it reads.
            origin: The quantizer it was made from.
            shape: Shape of one output where it is not the node's.
        """
        name = node.name
        while hasattr(self._reserved, name) or name in (INPUT, *self.layers):
            name += "_"
        self.layers[name] = layer
        self.nodes[name] = Node(inputs, lifted(tuple(node.meta["shape"][1:])) if shape is None else shape, origin)
        return name

    def add_encoder(self, node: fx.Node, grid: Grid, value: Analog) -> Counts:
        """Close the float sub-graph with its quantizer."""
        wire = self.add_layer(node, Encoder(value.stages, grid), (INPUT,), self._origin(node))
        return self._counts(node, wire, grid)

    def add_spiking(self, node: fx.Node, grid: Grid, total: Sum) -> Counts:
        """Close a sum with its quantizer: a spiking layer, whose float weights become codes."""
        own = total.grid_before(grid)
        total = fix_weights(total, own)
        layer = spiking_layer([term.branch() for term in total.terms], own, [term.largest for term in total.terms])
        wire = self.add_layer(node, layer, tuple(term.wire for term in total.terms), self._origin(node))
        return self._counts(node, wire, grid)

    def add_readout(self, node: fx.Node, total: Sum) -> SpikingNetwork:
        """Close the network with its last sum."""
        self.layers["readout_" if "readout" in self.layers else "readout"] = Readout([t.branch() for t in total.terms])
        name = list(self.layers)[-1]
        self.nodes[name] = Node(tuple(term.wire for term in total.terms), tuple(node.meta["shape"][1:]))
        return SpikingNetwork(self.layers, self.nodes, self.header)

    def _origin(self, node: fx.Node) -> Origin:
        module = str(node.target)
        self._calls[module] += 1
        return Origin(module, self._calls[module] - 1)

    def _counts(self, node: fx.Node, wire: str, grid: Grid) -> Counts:
        return Counts(wire, grid.step, -grid.negative, grid.positive, node.meta["shape"][1])

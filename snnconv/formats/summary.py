"""What a network is, as plain values: a row a layer."""

from __future__ import annotations

from typing import Any

from torch import nn

from snnconv.config import to_mapping
from snnconv.snn.layers import Encoder, Readout, SpikingLayer
from snnconv.snn.network import SpikingNetwork


def summarise(network: SpikingNetwork) -> dict[str, Any]:
    """Plain description of a network: input, preprocessing and layers."""
    settings = network.header.preprocessing
    return {
        "input_shape": list(network.header.shape),
        "preprocessing": None if settings is None else to_mapping(settings),
        "split": network.header.split,
        "levels": network.levels,
        "layers": [_row(network, name, layer) for name, layer in network.layers.items()],
    }


def _row(network: SpikingNetwork, name: str, layer: nn.Module) -> dict[str, Any]:
    node = network.nodes[name]
    row: dict[str, Any] = {
        "name": name,
        "type": type(layer).__name__,
        "inputs": list(node.inputs),
        "shape": list(node.shape),
    }
    if isinstance(layer, Encoder | SpikingLayer | Readout):
        weights = [branch.synapse.weight for branch in layer.branches]
        row["parameters"] = sum(weight.numel() for weight in weights)
        row["weights"] = "float" if any(weight.is_floating_point() for weight in weights) else "integer"
    if isinstance(layer, Encoder | SpikingLayer):
        row["levels"] = layer.grid.levels
    if isinstance(layer, SpikingLayer):
        thresholds = layer.neuron.thresholds
        row["thresholds"] = [int(thresholds.min()), int(thresholds.max())]
        row["largest_potential"] = layer.reach
    return row

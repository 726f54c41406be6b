"""The events engine: compiled kernels on the CPU that skip silent units; see ``cpp/convolve.hpp``.

A layer is one call or a few: ternary convolutions and dense layers with their ladders fused, sums of several
branches in 64-bit integers, the encoder in float32 and once more in float64 where that could be wrong. What has no
kernel (pools, the readout, weights of more than two bits, potentials beyond 16 bits) runs as in ``dense``.
"""

from __future__ import annotations

import torch

from snnconv.engines.dense import dense_step
from snnconv.engines.kernels import Combination, Convolution, EncoderConvolution, Kernels
from snnconv.engines.layered import LayeredEngine, Step
from snnconv.errors import ConfigError
from snnconv.grids import MAX_LEVELS
from snnconv.snn.counting import Tally
from snnconv.snn.layers import Encoder, SpikingLayer
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.noise import Delete
from snnconv.snn.synapses import IdentitySynapse


class EventsEngine(LayeredEngine):
    """Runs what it can by event-driven kernels, the rest as ``dense``; CPU only.

    Args:
        network: The network; its weights are read once.
        device: The CPU, or None.
        kernels: Instruction set to take; None takes, layer by layer, the best of this processor's.

    Raises:
        ConfigError: the kernels are not built here, or another device is asked for.
    """

    name = "events"

    def __init__(self, network: SpikingNetwork, device: torch.device | None = None, kernels: str | None = None) -> None:
        if device is not None and device.type != "cpu":
            raise ConfigError(f"the events engine runs on the CPU, not on {device}: take --engine dense there")
        self.kernels = Kernels(kernels)
        super().__init__(network, torch.device("cpu"))

    def ways(self, name: str) -> list[Step]:
        step = event_step(self.network, name, self.kernels)
        return [dense_step(self.network.layers[name]) if step is None else step]

    @property
    def tally(self) -> Tally:
        return self.kernels.tally

    @property
    def delete(self) -> Delete:
        return self.kernels.delete_spikes


def event_step(network: SpikingNetwork, name: str, kernels: Kernels) -> Step | None:
    """The layer by kernels, where they can run it."""
    layer, node = network.layers[name], network.nodes[name]
    if isinstance(layer, Encoder):
        fits = EncoderConvolution.fits(layer)
        encoder = EncoderConvolution(layer, network.header.shape, node.shape, kernels) if fits else None
        return None if encoder is None else Step("events", encoder, torch.float32)
    if not isinstance(layer, SpikingLayer):
        return None
    ranges = [network.count_range(wire) for wire in node.inputs]
    shapes = [network.wire_shape(wire) for wire in node.inputs]
    synapses = [branch.synapse for branch in layer.branches]
    for synapse, counts, shape in zip(synapses, ranges, shapes, strict=True):
        passes = isinstance(synapse, IdentitySynapse) and max(counts[1], -counts[0]) <= MAX_LEVELS
        if not passes and not Convolution.fits(synapse, counts, shape[0]):
            return None
    if len(synapses) == 1 and not isinstance(synapses[0], IdentitySynapse):
        ladder = layer.neuron.thresholds, layer.grid.negative
        fused = Convolution(synapses[0], layer.multipliers[0], shapes[0], node.shape, ranges[0], kernels, *ladder)
        return Step("events", fused, torch.int8)
    parts = [
        None
        if isinstance(synapse, IdentitySynapse)
        else Convolution(synapse, torch.ones(synapse.out_channels), shape, node.shape, counts, kernels)
        for synapse, shape, counts in zip(synapses, shapes, ranges, strict=True)
    ]
    total = Combination(layer, node.shape, kernels)

    def run(*wires: torch.Tensor) -> torch.Tensor:
        return total(*(wire if part is None else part(wire) for part, wire in zip(parts, wires, strict=True)))

    return Step("events", run, torch.int8)

"""The dense engine: torch convolutions on integer counts, any device.

Weights are laid out once (channels last, the sign of each scale folded in), counts travel as float32,
and where it is proven exact (``affine``) a whole ladder of thresholds is one affine map whose shift
rides on the convolution's bias. Everything else falls back to the layers' own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from snnconv.engines.affine import Affine, apply_affine, fit_affine
from snnconv.engines.encoder import FastEncoder
from snnconv.snn.exact import exact_arithmetic, exact_dtype
from snnconv.snn.layers import Encoder, MaxPool2d, Readout, SpikingLayer, channelwise
from snnconv.snn.network import INPUT, SpikingNetwork, Tap
from snnconv.snn.neurons import ladder_step
from snnconv.snn.synapses import IdentitySynapse

Step = Callable[..., Tensor]


class DenseEngine:
    """Runs a network with torch's dense kernels; equal to its plain forward bit for bit.

    Args:
        network: The network; its weights are read once.
        device: Where to compute; None takes the network's own. The caller's network stays where it is.
    """

    name = "dense"

    def __init__(self, network: SpikingNetwork, device: torch.device | None = None) -> None:
        self.device = network.device if device is None else device
        self.network = network.on(self.device)
        self._steps = {name: self._prepare(layer) for name, layer in self.network.layers.items()}
        last_reader = {wire: name for name, node in network.nodes.items() for wire in node.inputs}
        self._done_after = {name: [w for w, reader in last_reader.items() if reader == name] for name in self._steps}

    @torch.inference_mode()
    def run(self, x: Tensor, taps: tuple[Tap, ...] = ()) -> Tensor:
        """Logits, float64 (N, classes), of preprocessed images; taps as in ``SpikingNetwork.forward``."""
        x = x.to(self.device)
        wires = {INPUT: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x}
        with exact_arithmetic(self.device):
            for name, step in self._steps.items():
                sent = step(*(wires[wire] for wire in self.network.nodes[name].inputs))
                for tap in taps if name != self._last else ():
                    sent = tap(name, sent, 0)
                wires[name] = sent
                for wire in self._done_after[name]:
                    del wires[wire]
        return wires[self._last]

    @property
    def _last(self) -> str:
        return next(reversed(self._steps))

    def _prepare(self, layer: nn.Module) -> Step:
        if isinstance(layer, Encoder):
            return FastEncoder(layer) if FastEncoder.fits(layer) else lambda x: layer(x).float()
        if isinstance(layer, SpikingLayer):
            return _spiking(layer)
        if isinstance(layer, Readout | MaxPool2d):
            return layer
        return lambda counts: layer(counts).float()


def affine_of(layer: SpikingLayer) -> Affine | None:
    """The layer's ladder as one affine map, where it has a single branch with weights and such a map is proven."""
    branch = layer.branches[0]
    if len(layer.branches) > 1 or isinstance(branch.synapse, IdentitySynapse) or layer.reach >= 2**24:
        return None
    slope = branch.scale.abs() / (branch.divisor * layer.grid.step)
    reach = branch.synapse.reaches(layer.largest[0]) * layer.multipliers[0].abs()
    return fit_affine(layer.neuron.thresholds.cpu(), layer.grid.negative, slope.cpu(), reach.cpu())


def _spiking(layer: SpikingLayer) -> Step:
    """The layer as one call on float counts."""
    synapse, grid = layer.branches[0].synapse, layer.grid
    if len(layer.branches) > 1 or isinstance(synapse, IdentitySynapse):
        return lambda *counts: layer(*counts).float()
    dtype = exact_dtype(layer.reach)
    sign = layer.multipliers[0].to(dtype)
    weight = synapse.weight.to(dtype) * sign.reshape(-1, *[1] * (synapse.weight.ndim - 1))
    if weight.ndim == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    affine, thresholds = affine_of(layer), layer.neuron.thresholds
    if affine is None:
        return lambda counts: ladder_step(synapse.connect(counts.to(dtype), weight), thresholds, grid.negative).float()
    factor, shift = affine.slope.to(weight.device), affine.shift.to(weight.device)

    def run(counts: Tensor) -> Tensor:
        potential = synapse.connect(counts, weight, shift)
        return apply_affine(potential, channelwise(factor, potential), grid.negative, grid.positive)

    return run

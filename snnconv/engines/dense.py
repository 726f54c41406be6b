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
from snnconv.engines.layered import LayeredEngine, Step
from snnconv.snn.exact import exact_dtype
from snnconv.snn.layers import Encoder, MaxPool2d, Readout, SpikingLayer, channelwise
from snnconv.snn.neurons.ladder import ladder_step
from snnconv.snn.synapses import IdentitySynapse


class DenseEngine(LayeredEngine):
    """Runs a network with torch's dense kernels; equal to its plain forward bit for bit.

    Args:
        network: The network; its weights are read once.
        device: Where to compute; None takes the network's own. The caller's network stays where it is.
    """

    name = "dense"
    reals = True

    def ways(self, name: str) -> list[Step]:
        return [dense_step(self.network.layers[name])]


def dense_step(layer: nn.Module) -> Step:
    """A layer by torch's kernels; counts travel as float32."""
    if isinstance(layer, Encoder):
        return Step("dense", FastEncoder(layer) if FastEncoder.fits(layer) else lambda x: layer(x).float())
    if isinstance(layer, SpikingLayer):
        return Step("dense", _spiking(layer), torch.float32)
    if isinstance(layer, Readout):
        return Step("dense", layer)
    if isinstance(layer, MaxPool2d):
        return Step("dense", layer, torch.float32)
    return Step("dense", lambda *counts: layer(*counts).float())


def affine_of(layer: SpikingLayer) -> Affine | None:
    """The layer's ladder as one affine map, where it has a single branch with weights and such a map is proven."""
    branch = layer.branches[0]
    if len(layer.branches) > 1 or isinstance(branch.synapse, IdentitySynapse) or layer.reach >= 2**24:
        return None
    return fit_affine(layer.neuron.thresholds.cpu(), layer.grid.negative, *slope_and_reach(layer))


def slope_and_reach(layer: SpikingLayer) -> tuple[Tensor, Tensor]:
    """For each channel of a single branch the codes that a step of its potential adds, and the potential's reach."""
    branch = layer.branches[0]
    slope = branch.scale.abs() / (branch.divisor * layer.grid.step)
    return slope.cpu(), (branch.synapse.reaches(layer.largest[0]) * layer.multipliers[0].abs()).cpu()


def _spiking(layer: SpikingLayer) -> Callable[..., Tensor]:
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

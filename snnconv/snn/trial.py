"""One trial: several noises with their draws, at their places in a network.

    input -> weights (bit flips, then mismatch) -> potential -> thresholds -> spikes (in the order given)

In a disturbed layer the ladder is decided on real numbers instead of integers: with z the unit's value (``value``),
boundary b_i of level i, s the step of the grid and e, m the offsets of threshold and membrane,

    count = -negative + #{ i : z + s m >= b_i + s e_i }

which for e = m = 0 is the count of the undisturbed layer, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from snnconv.errors import ConfigError
from snnconv.grids import Grid
from snnconv.snn.layers import Branch, Encoder, Readout, SpikingLayer, channelwise, spiking_layer
from snnconv.snn.network import SpikingNetwork, Tap
from snnconv.snn.noise import Delete, delete_spikes, stream_key
from snnconv.snn.noise_models import (
    BitFlips,
    InputNoise,
    Jitter,
    MembraneNoise,
    Noise,
    Site,
    SpikeNoise,
    ThresholdMismatch,
    WeightMismatch,
    settled,
)

Kind = TypeVar("Kind", bound=Noise)

SUM_BITS = 52
"""Disturbed weights are rounded so that a potential's bits are no more, and float64 sums are exact in any order."""


def require_time(noises: Sequence[Noise], steps: int) -> None:
    """Refuse noise that moves spikes where there is one step only.

    Raises:
        ConfigError: jitter at T = 1.
    """
    if steps == 1 and any(isinstance(noise, Jitter) and noise.ratio > 0 for noise in noises):
        raise ConfigError(
            "jitter noise moves spikes in time and needs more than one step, but T = 1: take a neuron of several "
            "steps, or another noise"
        )


class Trial:
    """The noises of one trial on a network.

    Args:
        network: The network without noise.
        noises: Models; those on spikes act in this order.
        seed: Seed of the draws.
        number: Number of the trial.
        steps: T, time steps of the run.
        temporal: Whether a unit is one neuron, which sends a spike a step, even where T = 1; else a ladder of L.

    Attributes:
        network: The network to run: the same, or one with flipped weight codes.

    Raises:
        ConfigError: layers that a noise cannot act on, the same noise twice on a layer, or jitter at T = 1.
    """

    def __init__(
        self,
        network: SpikingNetwork,
        noises: Sequence[Noise] = (),
        seed: int = 0,
        number: int = 0,
        steps: int = 1,
        temporal: bool = False,
    ) -> None:
        pairs = settled(network, noises)
        require_time(noises, steps)
        self.seed, self.number, self.steps, self.temporal = seed, number, steps, temporal
        self._active = [(noise, layers) for noise, layers in pairs if noise.ratio > 0]
        self.network = self._flipped(network)
        self._disturbed = {name: self._mismatched(name) for name in self._of(WeightMismatch)}
        self._offsets = {
            name: noise.offsets(self._key(noise, name), self._grid(name).levels, self.network.nodes[name].shape)
            for name, noise in self._of(ThresholdMismatch).items()
        }
        self._membrane = self._of(MembraneNoise)
        self._units = {name for name, _ in self.network.units()} & {
            *self._disturbed,
            *self._offsets,
            *self._membrane,
        }

    @property
    def real(self) -> tuple[str, ...]:
        """Layers that are decided on real numbers, in the network's order."""
        return tuple(name for name in self.network.layers if name in self._units or name in self._disturbed)

    @property
    def changed(self) -> frozenset[str]:
        """Layers whose counts differ from those without noise already before any noise on their spikes."""
        return frozenset((*self.real, *self._of(BitFlips)))

    @property
    def touches_input(self) -> bool:
        """Whether encoders see another input than without noise."""
        return any(isinstance(noise, InputNoise) for noise, _ in self._active)

    @property
    def moves_spikes(self) -> bool:
        """Whether spikes change their step, so that noise needs whole trains, see ``train``."""
        return any(isinstance(noise, Jitter) for noise, _ in self._active)

    def inputs(self, x: Tensor, images: Tensor) -> Tensor:
        """Preprocessed images (N, ...) under the noise; ``images`` are their indices, int64 (N,)."""
        for noise, _ in self._active:
            if isinstance(noise, InputNoise):
                x = noise.disturb(x, self._key(noise, "input"), images)
        return x

    def taps(self, images: Tensor, by: Delete = delete_spikes) -> tuple[Tap, ...]:
        """What disturbs the spikes of a batch in one step; nothing where there is no noise on spikes.

        Args:
            images: int64 (N,), the index of each image of the batch in its data set.
            by: What deletes spikes; engines may bring their own.
        """
        noises = [(noise, layers) for noise, layers in self._active if isinstance(noise, SpikeNoise)]

        def disturb(name: str, counts: Tensor, step: int = 0) -> Tensor:
            for noise, layers in noises:
                if name in layers:
                    site = self._site(noise, name)
                    counts = noise.disturb(counts, site, images.to(counts.device), step, by)
            return counts

        return (disturb,) if noises else ()

    def train(self, name: str, train: Tensor, images: Tensor, by: Delete = delete_spikes) -> Tensor:
        """Train (T, N, ...) of a layer under the noise on its spikes: what ``taps`` do step by step, and jitter."""
        for noise, layers in self._active:
            if name in layers and isinstance(noise, SpikeNoise):
                site, own = self._site(noise, name), images.to(train.device)
                train = torch.stack([noise.disturb(row, site, own, step, by) for step, row in enumerate(train)])
            elif name in layers and isinstance(noise, Jitter):
                train = noise.move(train, self._site(noise, name), images.to(train.device))
        return train

    def thresholds(self, layer: str, thresholds: Tensor, spacing: Tensor) -> Tensor:
        """Thresholds of every unit of a layer, the same throughout the trial.

        Args:
            layer: Its name.
            thresholds: (L, C), not clamped to any range.
            spacing: One step of the grid in units of the thresholds, (C,).

        Returns:
            float64 (L, C, ...), broadcastable over the units.
        """
        rows = thresholds.double()
        rows = rows.reshape(*rows.shape, *[1] * (len(self.network.nodes[layer].shape) - 1))
        if layer not in self._offsets:
            return rows
        return rows + channelwise(spacing.double(), rows) * self._offsets[layer].to(rows.device)

    def potential(self, layer: str, potential: Tensor, spacing: Tensor, images: Tensor, step: int = 0) -> Tensor:
        """Potentials of a batch in one step, float64 (N, C, ...); ``spacing`` (C,) is one step of the grid in their
        units."""
        potential = potential.double()
        if layer not in self._membrane:
            return potential
        noise = self._membrane[layer]
        offsets = noise.offsets(self._key(noise, layer, step), tuple(potential.shape[1:]), images)
        return potential + channelwise(spacing.double(), potential) * offsets.to(potential.device)

    def value(self, layer: str, *wires: Tensor) -> Tensor:
        """z of every unit of a layer, what its boundaries cut, under the noise on its weights; float64 (N, C, ...)."""
        own = self._disturbed.get(layer, self.network.layers[layer])
        if isinstance(own, Encoder):
            return own.value(wires[0])
        if isinstance(own, SpikingLayer):
            return own.value(own.potential(*wires))
        assert isinstance(own, _RealBranches)
        return own(*wires)  # type: ignore[no-any-return]

    def fire(self, layer: str, images: Tensor, step: int, *wires: Tensor) -> Tensor:
        """Counts, int8, of a ladder under the noise on weights, thresholds and potentials."""
        grid, z = self._grid(layer), self.value(layer, *wires)
        spacing = torch.full((z.shape[1],), grid.step, dtype=torch.float64, device=z.device)
        z = self.potential(layer, z, spacing, images, step)
        boundaries = torch.tensor(grid.boundaries, dtype=torch.float64, device=z.device)[:, None].expand(-1, z.shape[1])
        rows = self.thresholds(layer, boundaries, spacing)
        count = torch.full_like(z, -grid.negative, dtype=torch.int8)
        for row, closed in zip(rows, grid.closed, strict=True):
            count += (z >= row) if closed else (z > row)
        return count

    def instead(self, images: Tensor, step: int = 0) -> dict[str, Callable[..., Tensor]]:
        """For each layer decided on real numbers what runs in its place, from incoming wires to what it sends."""

        def unit(name: str) -> Callable[..., Tensor]:
            return lambda *wires: self.fire(name, images, step, *wires)

        return {name: unit(name) if name in self._units else self._disturbed[name] for name in self.real}

    def _of(self, kind: type[Kind]) -> dict[str, Kind]:
        """The noise of a kind that acts on each layer."""
        return {layer: noise for noise, layers in self._active if isinstance(noise, kind) for layer in layers}

    def _key(self, noise: Noise, layer: str, step: int = 0) -> int:
        return stream_key(self.seed, self.number, noise.name, layer, step)

    def _grid(self, layer: str) -> Grid:
        unit = self.network.layers[layer]
        assert isinstance(unit, Encoder | SpikingLayer)
        return unit.grid

    def _site(self, noise: Noise, layer: str) -> Site:
        grid, most = self._grid(layer), 1 if self.temporal else math.inf
        positive, negative = (int(min(codes, most)) for codes in (grid.positive, grid.negative))
        return Site(lambda step: self._key(noise, layer, step), positive, negative, self.temporal)

    def _flipped(self, network: SpikingNetwork) -> SpikingNetwork:
        flips = self._of(BitFlips)
        if not flips:
            return network
        layers = dict(network.layers.items())
        for name, noise in flips.items():
            layers[name] = _with_branches(
                layers[name],
                [
                    _with_weight(branch, noise.disturb(branch.synapse.weight, self._key(noise, f"{name}.{number}")))
                    if noise.holds(branch)
                    else branch
                    for number, branch in enumerate(_branches(layers[name]))
                ],
            )
        return SpikingNetwork(layers, network.nodes, network.header)

    def _mismatched(self, name: str) -> nn.Module:
        """The layer with disturbed weights."""
        layer, noise = self.network.layers[name], self._of(WeightMismatch)[name]
        wires = self.network.nodes[name].inputs
        branches = []
        for number, branch in enumerate(_branches(layer)):
            if noise.holds(branch):
                weight = noise.disturb(branch.synapse.weight, self._key(noise, f"{name}.{number}"))
                if not isinstance(layer, Encoder):
                    weight = _rounded(weight, max(map(abs, self.network.count_range(wires[number]))))
                branch = _with_weight(branch, weight)
            branches.append(branch)
        return _RealBranches(layer, branches) if isinstance(layer, SpikingLayer) else _with_branches(layer, branches)


class _RealBranches(nn.Module):
    """Values of a spiking layer whose weights are no integers."""

    def __init__(self, layer: SpikingLayer, branches: Sequence[Branch]) -> None:
        super().__init__()
        self.layer, self.branches = layer, tuple(branches)

    def forward(self, *counts: Tensor) -> Tensor:
        """z, float64."""
        if len(self.branches) == 1:
            return self.branches[0](counts[0])  # type: ignore[no-any-return]
        parts = [branch.synapse.potential(x.double()) for branch, x in zip(self.branches, counts, strict=True)]
        total = channelwise(self.layer.constant.double(), parts[0])
        for multiplier, part in zip(self.layer.multipliers, parts, strict=True):
            total = total + channelwise(multiplier.double(), part) * part
        return self.layer.value(total)


def _branches(layer: nn.Module) -> tuple[Branch, ...]:
    assert isinstance(layer, Encoder | SpikingLayer | Readout)
    return layer.branches


def _with_branches(layer: nn.Module, branches: Sequence[Branch]) -> nn.Module:
    """The layer with other branches in their places."""
    if isinstance(layer, SpikingLayer):
        return spiking_layer(branches, layer.grid, layer.largest)
    if isinstance(layer, Encoder):
        rest = iter(branches)
        stages = [stage if stage.branch is None else stage._replace(branch=next(rest)) for stage in layer.stages]
        return Encoder(stages, layer.grid)
    return Readout(branches)


def _with_weight(branch: Branch, weight: Tensor) -> Branch:
    """The branch with another weight of the same shape."""
    synapse = type(branch.synapse)(weight, **branch.synapse.settings)
    return Branch(synapse, branch.scale, branch.offset, branch.divisor)


def _rounded(weight: Tensor, largest: int) -> Tensor:
    """Weights to as many binary places as ``SUM_BITS`` leave to the largest potential that counts can make."""
    reach = float(weight.abs().flatten(1).sum(1).max()) * largest
    places = SUM_BITS - 1 - math.ceil(math.log2(max(reach, 1e-30)))
    return torch.round(weight * 2.0**places) * 2.0**-places

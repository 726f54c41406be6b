"""Models of noise, each acting at one place: the input, stored weights, thresholds, potentials or spikes.

A model is a ratio and the layers it acts on; a seed and the number of a trial come with ``trial.Trial``, which applies
several together. Noise of ratio 0 is no noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from snnconv.errors import ConfigError
from snnconv.snn.layers import Branch, Encoder, Readout, SpikingLayer
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.noise import Delete, flip_bits, happens, insert_spikes, jitter_spikes, normal, places, uniform
from snnconv.snn.synapses import IdentitySynapse, LinesSynapse

Place = Literal["input", "weight", "threshold", "potential", "spike"]

STRONGEST = 1_000_000
"""Largest ratio that is no probability; far beyond it values overflow."""

ENCODER, ALL = "encoder", "all"
"""Words for layers: those that read the analog input, and every layer that a noise can act on."""


@dataclass(frozen=True)
class Noise(ABC):
    """A noise of one strength on some layers.

    Args:
        ratio: Strength; for most a probability.
        layers: Names of layers, ``encoder`` or ``all``; empty takes the noise's ``default``.

    Attributes:
        name: What a user calls it.
        place: Where it acts.
        default: Layers it acts on where none are named.
        probability: Whether the ratio is a probability; else it is any number from 0 on.
        integer: Whether counts follow from integers under it.

    Raises:
        ConfigError: a ratio outside its range.
    """

    ratio: float
    layers: tuple[str, ...] = ()

    name: ClassVar[str]
    place: ClassVar[Place]
    default: ClassVar[str] = ALL
    probability: ClassVar[bool] = True
    integer: ClassVar[bool] = True
    acts_on: ClassVar[str] = "the layers that fire"

    def __post_init__(self) -> None:
        if self.probability and not 0 <= self.ratio <= 1:
            raise ConfigError(f"the {self.name} noise ratio (= {self.ratio}) is a probability and must lie in [0, 1]")
        if not 0 <= self.ratio <= STRONGEST:
            raise ConfigError(f"the {self.name} noise ratio (= {self.ratio}) must lie in [0, {STRONGEST:,}]")

    def candidates(self, network: SpikingNetwork) -> tuple[str, ...]:
        """Layers of a network that the noise can act on."""
        return tuple(name for name, _ in network.units())

    def on(self, network: SpikingNetwork) -> tuple[str, ...]:
        """Names of the layers of a network that it acts on, in the network's order.

        Raises:
            ConfigError: a layer that is not there, or that it cannot act on.
        """
        candidates, chosen = self.candidates(network), set[str]()
        for word in self.layers or (self.default,):
            names = {ENCODER: network.encoders, ALL: candidates}.get(word, (word,))
            unknown = [name for name in names if name not in candidates]
            if unknown:
                raise ConfigError(
                    f"{self.name} noise on layer {unknown[0]!r}: {self.acts_on} are {', '.join(candidates) or 'none'}"
                )
            chosen.update(names)
        return tuple(name for name in candidates if name in chosen)


@dataclass(frozen=True)
class Site:
    """The spikes of one layer in one trial.

    Attributes:
        key: Key of the draws of a step.
        positive: Threshold neurons of a unit that fire above zero, in one step.
        negative: Those that fire below zero.
        temporal: Whether a unit is one neuron over time, which has at most one spike a step.
    """

    key: Callable[[int], int]
    positive: int
    negative: int
    temporal: bool = False


class SpikeNoise(Noise):
    """Noise on the spikes that a layer sends in one step."""

    place = "spike"

    @abstractmethod
    def disturb(self, counts: Tensor, site: Site, images: Tensor, step: int, delete: Delete) -> Tensor:
        """Counts (N, ...) under the noise, in the dtype they came in; ``delete`` is the engine's own ``Delete``."""


class Deletion(SpikeNoise):
    """Deletion: each spike of each threshold neuron is lost with probability ``ratio``.

    A count s keeps its sign; its size becomes the sum of the surviving spikes, Binomial(|s|, 1 - ratio).
    Spikes and synaptic operations are counted after the deletion.

    Ref: Zou et al. 2021, Front. Neurosci. 15:694170, which noises the encoding layer only.
    """

    name = "deletion"
    default = ENCODER

    def disturb(self, counts: Tensor, site: Site, images: Tensor, step: int, delete: Delete) -> Tensor:
        return delete(counts, self.ratio, site.key(step), images, site.positive)


class Insertion(SpikeNoise):
    """Insertion: each silent threshold neuron fires with probability ``ratio``, in every step.

    On an unsigned grid a count s becomes s + Binomial(L - s, ratio); neurons of the lower side insert -1. Over several
    steps a unit is one neuron a side, and only a unit that is silent in a step fires for nothing.
    """

    name = "insertion"
    default = ENCODER

    def disturb(self, counts: Tensor, site: Site, images: Tensor, step: int, delete: Delete) -> Tensor:
        noisy = insert_spikes(counts, self.ratio, site.key(step), images, site.positive, site.negative)
        return torch.where(counts == 0, noisy, counts) if site.temporal else noisy


class StuckSilent(SpikeNoise):
    """Dead units: each unit is silent throughout a trial with probability ``ratio``."""

    name = "stuck-silent"

    def disturb(self, counts: Tensor, site: Site, images: Tensor, step: int, delete: Delete) -> Tensor:
        return counts.masked_fill(self._stuck(counts, site), 0)

    def _stuck(self, counts: Tensor, site: Site) -> Tensor:
        units = places(torch.zeros(1, dtype=torch.int64, device=counts.device), counts[0].numel())
        return happens(site.key(0), units, self.ratio).reshape(1, *counts.shape[1:])


class StuckFiring(StuckSilent):
    """Units that always fire: with probability ``ratio`` a unit sends its largest count throughout a trial, the
    smallest where its grid has no codes above zero."""

    name = "stuck-firing"

    def disturb(self, counts: Tensor, site: Site, images: Tensor, step: int, delete: Delete) -> Tensor:
        return counts.masked_fill(self._stuck(counts, site), site.positive or -site.negative)


class Jitter(Noise):
    """Jitter in time: each spike moves by a rounded normal number of steps with standard deviation ``ratio`` [steps].

    Times are clipped to the T steps; spikes of a unit that meet become one, those of opposite signs cancel.
    """

    name = "jitter"
    place = "spike"
    default = ENCODER
    probability = False

    def move(self, train: Tensor, site: Site, images: Tensor) -> Tensor:
        """Train (T, N, ...) under the noise."""
        return jitter_spikes(train, self.ratio, [site.key(step) for step in range(len(train))], images)


class InputNoise(Noise):
    """Noise on the input: x becomes x (1 + ratio (u - 1/2)), u uniform in [0, 1), a value of an image.

    Ref: Zou et al. 2023, Adv. Intell. Syst.; Zou et al. 2024, Front. Neurosci. 1449020 (their programs' noise ratio).
    """

    name = "input"
    place = "input"
    probability = False
    acts_on = "it acts on the input and takes no layers; those it can act on"

    def candidates(self, network: SpikingNetwork) -> tuple[str, ...]:
        return ()

    def disturb(self, x: Tensor, key: int, images: Tensor) -> Tensor:
        """Inputs (N, ...) under the noise, in the dtype they came in."""
        u = uniform(key, places(images.to(x.device), x[0].numel())).reshape(x.shape)
        return (x.double() * (1 + self.ratio * (u - 0.5))).to(x.dtype)


class MembraneNoise(Noise):
    """Noise of the membrane: each potential gets a normal number with standard deviation ``ratio`` [level spacings], in
    every step anew."""

    name = "membrane"
    place = "potential"
    probability = False
    integer = False

    def offsets(self, key: int, shape: tuple[int, ...], images: Tensor) -> Tensor:
        """What is added to the potentials of units of this shape, float64 (N, *shape) [level spacings]."""
        numbers = normal(key, places(images.cpu(), torch.Size(shape).numel()))
        return self.ratio * numbers.reshape(len(images), *shape)


class ThresholdMismatch(Noise):
    """Mismatch of thresholds: each threshold neuron's lies off by a normal number with standard deviation ``ratio``
    [level spacings], throughout a trial."""

    name = "threshold"
    place = "threshold"
    probability = False
    integer = False

    def offsets(self, key: int, levels: int, shape: tuple[int, ...]) -> Tensor:
        """What is added to the thresholds of units of this shape, float64 (L, *shape) [level spacings]."""
        first = places(torch.zeros(1, dtype=torch.int64), torch.Size(shape).numel())
        rows = [normal(key, first + level) for level in range(levels)]
        return self.ratio * torch.cat(rows).reshape(levels, *shape)


class _OnWeights(Noise):
    """Noise on stored weights; a connection of weight 1 that only passes counts on stores none."""

    place = "weight"

    @staticmethod
    def holds(branch: Branch) -> bool:
        """Whether a branch has weights that it can act on."""
        return not isinstance(branch.synapse, IdentitySynapse | LinesSynapse)

    def candidates(self, network: SpikingNetwork) -> tuple[str, ...]:
        return tuple(
            name
            for name, layer in network.layers.items()
            if isinstance(layer, Encoder | SpikingLayer | Readout) and any(map(self.holds, layer.branches))
        )


class WeightMismatch(_OnWeights):
    """Mismatch of weights: each stored weight w becomes w (1 + ratio n), n standard normal, throughout a trial.

    The connections of a convolution that share a weight share its mismatch.
    """

    name = "weight"
    probability = False
    integer = False
    acts_on = "the layers with weights"

    def disturb(self, weight: Tensor, key: int) -> Tensor:
        """Weights under the noise, float64."""
        first = places(torch.zeros(1, dtype=torch.int64), weight.numel())
        factor = 1 + self.ratio * normal(key, first).reshape(weight.shape)
        return weight.double() * factor.to(weight.device)


class BitFlips(_OnWeights):
    """Bit flips: each bit of each stored weight code is flipped with probability ``ratio``, throughout a trial.

    Codes lie as in a network's file: ternary ones in 2 bits, where -1, 0, +1 are 11, 00, 01 and 10 reads as 0; others
    in 8 bits. Float weights have no codes, and rounded ones of more bits would leave the exact potentials.
    """

    name = "bitflip"
    acts_on = "the layers with integer weight codes"

    @staticmethod
    def holds(branch: Branch) -> bool:
        return branch.synapse.weight.dtype == torch.int8 and _OnWeights.holds(branch)

    def disturb(self, codes: Tensor, key: int) -> Tensor:
        """Codes under the noise, int8."""
        return flip_bits(codes, self.ratio, key, stored_bits(codes))


NOISES: dict[str, type[Noise]] = {
    "deletion": Deletion,
    "insertion": Insertion,
    "jitter": Jitter,
    "input": InputNoise,
    "membrane": MembraneNoise,
    "weight": WeightMismatch,
    "threshold": ThresholdMismatch,
    "stuck-silent": StuckSilent,
    "stuck-firing": StuckFiring,
    "bitflip": BitFlips,
}
"""The noises by name."""


def stored_bits(codes: Tensor) -> int:
    """Bits that a network's file takes for a weight code."""
    return 2 if int(codes.to(torch.int16).abs().max()) <= 1 else 8


def parse_noise(text: str) -> Noise:
    """A noise as written on the command line: ``name:ratio`` or ``name:ratio@layers``.

    Layers are ``encoder``, ``all``, or names joined by ``+``.

    Raises:
        ConfigError: another noise, no ratio, or one outside its range.
    """
    head, layers = split_layers(text)
    name, colon, ratio = head.partition(":")
    kind = noise_called(name)
    try:
        return kind(float(ratio), layers)
    except ValueError as error:
        wrong = f"the ratio {ratio!r} is no number" if colon else "the ratio is missing"
        raise ConfigError(f"noise {text!r}: {wrong}; write {name}:0.1, or {name}:0.1@all") from error


def with_deletion(noises: Sequence[Noise], ratio: float, layers: tuple[str, ...] = ()) -> list[Noise]:
    """The noises and a deletion behind them; without one where its ratio is 0 and no layers are named."""
    return [*noises, *([Deletion(ratio, layers)] if ratio != 0 or layers else [])]


def split_layers(text: str) -> tuple[str, tuple[str, ...]]:
    """What stands in front of ``@``, and the layers behind it; none without one.

    Raises:
        ConfigError: an empty name of a layer.
    """
    head, at, layers = text.partition("@")
    names = tuple(layers.split("+")) if at else ()
    if not all(names):
        raise ConfigError(f"noise {text!r} has no layer behind @: write encoder, all, or names joined by +")
    return head, names


def noise_called(name: str) -> type[Noise]:
    """The noise of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in NOISES:
        raise ConfigError(f"unknown noise {name!r}: take {', '.join(NOISES)}, as in deletion:0.1@all")
    return NOISES[name]


def settled(network: SpikingNetwork, noises: Sequence[Noise]) -> list[tuple[Noise, tuple[str, ...]]]:
    """Each noise with the layers of a network that it acts on.

    Raises:
        ConfigError: layers that it cannot act on, or the same noise twice on a layer.
    """
    pairs = [(noise, noise.on(network)) for noise in noises]
    seen: set[tuple[str, str]] = set()
    for noise, layers in pairs:
        for layer in layers or ("input",):
            if (noise.name, layer) in seen:
                raise ConfigError(f"{noise.name} noise is given twice for {layer}: give each noise once a layer")
            seen.add((noise.name, layer))
    return pairs


def describe(network: SpikingNetwork, noises: Sequence[Noise]) -> list[dict[str, Any]]:
    """Plain values of the noises above 0, for JSON."""
    pairs = settled(network, noises)
    return [{"name": n.name, "ratio": n.ratio, "layers": list(layers)} for n, layers in pairs if n.ratio > 0]

"""Noise, drawn so that nothing but its own coordinates decides a draw.

Every draw is a function of (seed, trial, noise, layer, step, image index, unit, threshold neuron): it does
not depend on batch size, order, sharding, engine or device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from snnconv.errors import ConfigError
from snnconv.snn.network import SpikingNetwork, Tap

DRAWS_PER_WORD = 2
"""A 64-bit word of the generator gives two draws of 32 bits."""

Delete = Callable[[Tensor, float, int, Tensor, int], Tensor]
"""What deletes spikes: as ``delete_spikes``."""


@dataclass(frozen=True)
class Deletion:
    """Deletion of spikes: each spike of each threshold neuron is lost with probability ``ratio``.

    A count s keeps its sign; its size becomes the sum of the surviving spikes, Binomial(|s|, 1 - ratio).
    Spikes and synaptic operations are counted after the deletion.

    Args:
        ratio: Probability of losing a spike, 0..1.
        layers: Names of the layers whose spikes are at risk.
        seed: Seed of the draws.

    Ref: Zou et al. 2021, Front. Neurosci. 15:694170, which noises the encoding layer only.
    """

    ratio: float
    layers: tuple[str, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"the noise ratio (= {self.ratio}) is a probability and must lie in [0, 1]")

    def tap(self, network: SpikingNetwork, images: Tensor, trial: int = 0, by: Delete | None = None) -> Tap:
        """Tap that deletes spikes of a batch.

        Args:
            network: Where the layers' grids are read.
            images: int64 (N,), the index of each image of the batch in its data set.
            trial: Number of the repetition.
            by: What deletes; engines may bring their own. None takes ``delete_spikes``.
        """
        deleted = delete_spikes if by is None else by
        positives = {name: unit.grid.positive for name, unit in network.units()}
        unknown = sorted(set(self.layers) - set(positives))
        if unknown:
            raise ConfigError(f"noise on layer {unknown[0]!r}: the layers that fire are {', '.join(positives)}")

        def delete(name: str, counts: Tensor, step: int = 0) -> Tensor:
            if self.ratio == 0 or name not in self.layers:
                return counts
            key = stream_key(self.seed, trial, "deletion", name, step)
            return deleted(counts, self.ratio, key, images.to(counts.device), positives[name])

        return delete


def stream_key(seed: int, trial: int, noise: str, layer: str, step: int = 0) -> int:
    """64-bit key of one stream of draws."""
    text = f"{seed}/{trial}/{noise}/{layer}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def draw(key: int, counter: Tensor) -> Tensor:
    """Random 64-bit words (int64) of a counter-based generator: SplitMix64 at position ``counter``.

    Ref: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    z = counter * _signed(0x9E3779B97F4A7C15) + key
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def delete_spikes(counts: Tensor, ratio: float, key: int, images: Tensor, positive: int) -> Tensor:
    """Counts (N, ...) after each spike was lost with probability ``ratio``, in the dtype they came in.

    Threshold neuron i fired where the size of the count exceeds i; those of the negative side are
    numbered behind the ``positive`` ones. Draws of silent units are not made.
    """
    flat = counts.flatten(1)
    rows, units = flat.nonzero(as_tuple=True)
    fired = flat[rows, units].to(torch.int64)
    size = fired.abs()
    levels = int(size.max()) if len(size) else 0
    side = torch.where(fired < 0, positive, 0)
    kept = torch.zeros_like(size)
    bound = round(ratio * 2**32)
    place = (images[rows] * flat.shape[1] + units) << 8
    for level in range(levels):
        neuron = side + level
        word = draw(key, place + neuron // DRAWS_PER_WORD)
        uniform = torch.where(neuron % DRAWS_PER_WORD == 0, word & 0xFFFFFFFF, _shift(word, 32))
        kept += (size > level) & (uniform >= bound)
    noisy = torch.zeros_like(flat)
    noisy[rows, units] = (kept * fired.sign()).to(flat.dtype)
    return noisy.reshape(counts.shape)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word

"""Draws of noise, and what they do to spikes: pure functions of their own coordinates.

Every draw is a function of (seed, trial, noise, layer, step, image index, unit, threshold neuron): it does
not depend on batch size, order, sharding, engine or device. What stays the same for every image, such as a dead
unit, is drawn as that of image 0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

DRAWS_PER_WORD = 2
"""A 64-bit word of the generator gives two draws of 32 bits."""
NEURON_BITS = 8
"""Words of a unit: 2^8, more than it has threshold neurons."""

Delete = Callable[[Tensor, float, int, Tensor, int], Tensor]
"""What deletes spikes: as ``delete_spikes``."""


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


def places(images: Tensor, units: int) -> Tensor:
    """First word of every unit of every image, int64 (N, units)."""
    unit = torch.arange(units, device=images.device)
    return (images[:, None] * units + unit) << NEURON_BITS


def uniform(key: int, places: Tensor) -> Tensor:
    """Numbers in [0, 1), float64: the upper 53 bits of the word at each place."""
    return _shift(draw(key, places), 11).double() * 2.0**-53


def normal(key: int, places: Tensor) -> Tensor:
    """Standard normal numbers, float64: n = sqrt(-2 ln u) cos(2 pi v) of the halves u > 0 and v of each word.

    Ref: Box, Muller 1958, "A note on the generation of random normal deviates".
    """
    word = draw(key, places)
    u = (_shift(word, 32).double() + 0.5) * 2.0**-32
    v = (word & 0xFFFFFFFF).double() * 2.0**-32
    return (-2 * u.log()).sqrt() * (2 * math.pi * v).cos()


def happens(key: int, places: Tensor, ratio: float) -> Tensor:
    """Whether the event of probability ``ratio`` happens at each place, to 2^-32; what happens at a ratio does so at
    every larger one."""
    return (draw(key, places) & 0xFFFFFFFF) < round(ratio * 2**32)


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
    place = (images[rows] * flat.shape[1] + units) << NEURON_BITS
    for level in range(levels):
        neuron = side + level
        word = draw(key, place + neuron // DRAWS_PER_WORD)
        uniform = torch.where(neuron % DRAWS_PER_WORD == 0, word & 0xFFFFFFFF, _shift(word, 32))
        kept += (size > level) & (uniform >= bound)
    noisy = torch.zeros_like(flat)
    noisy[rows, units] = (kept * fired.sign()).to(flat.dtype)
    return noisy.reshape(counts.shape)


def insert_spikes(counts: Tensor, ratio: float, key: int, images: Tensor, positive: int, negative: int) -> Tensor:
    """Counts (N, ...) after each silent threshold neuron fired with probability ``ratio``, in the dtype they came in.

    Neuron i < ``positive`` is silent where the count does not exceed i and adds 1; neuron positive + j is silent where
    the negated count does not exceed j and takes 1 away. The draws are numbered as those of ``delete_spikes``.
    """
    flat = counts.flatten(1)
    noisy, place, bound = flat.clone(), places(images, flat.shape[1]), round(ratio * 2**32)
    for first in range(0, positive + negative, DRAWS_PER_WORD):
        word = draw(key, place + first // DRAWS_PER_WORD)
        for neuron, half in ((first, word & 0xFFFFFFFF), (first + 1, _shift(word, 32))):
            if neuron < positive:
                noisy += (half < bound) & (flat <= neuron)
            elif neuron < positive + negative:
                noisy -= ((half < bound) & (-flat <= neuron - positive)).to(flat.dtype)
    return noisy.reshape(counts.shape)


def jitter_spikes(train: Tensor, spread: float, keys: Sequence[int], images: Tensor) -> Tensor:
    """Trains (T, N, ...) after each spike moved in time, in the dtype they came in.

    A spike of step t moves to t + floor(spread * n + 1/2), n standard normal, clipped to the T steps. Spikes of a unit
    that meet become one; those of opposite signs cancel.

    Args:
        train: Spikes, -1, 0 or 1.
        spread: Standard deviation [steps].
        keys: Key of the draws of each step.
        images: int64 (N,), index of each image.
    """
    flat = train.flatten(2)
    moved = torch.zeros_like(flat, dtype=torch.int32)
    for step, key in enumerate(keys):
        rows, units = flat[step].nonzero(as_tuple=True)
        place = (images[rows] * flat.shape[2] + units) << NEURON_BITS
        late = torch.floor(spread * normal(key, place) + 0.5)
        to = (step + late).clamp(0, len(keys) - 1).to(torch.int64)
        sign = flat[step, rows, units].to(torch.int32)
        moved.index_put_((to, rows, units), sign, accumulate=True)
    return moved.clamp(-1, 1).to(train.dtype).reshape(train.shape)


def flip_bits(codes: Tensor, ratio: float, key: int, bits: int) -> Tensor:
    """Integer codes after each of their lowest ``bits`` was flipped with probability ``ratio``, as stored in two's
    complement; of 2 bits, the pattern 10 is no ternary code and reads as 0."""
    place = places(torch.zeros(1, dtype=torch.int64, device=codes.device), codes.numel())[0]
    mask = torch.zeros_like(place)
    for bit in range(bits):
        mask |= happens(key, place + bit, ratio).to(torch.int64) << bit
    stored = codes.flatten().to(torch.int64) & (2**bits - 1) ^ mask
    read = torch.where(stored >= 2 ** (bits - 1), stored - 2**bits, stored)
    if bits == 2:
        read = torch.where(read == -2, 0, read)
    return read.to(codes.dtype).reshape(codes.shape)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word

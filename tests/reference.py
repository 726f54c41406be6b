"""Slow and obvious: the equations as loops over Python numbers, importing nothing of snnconv."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np

Padding = tuple[int, int, int, int]
Pair = tuple[int, int]
MASK = 2**64 - 1


def k_b_code(z: float, k: int, B: int) -> int:
    """floor(2^k clip(z, 0, B) + 1/2), as the number of midpoints (i + 1/2) 2^-k at or below z."""
    return sum(z >= (2 * i + 1) / 2 ** (k + 1) for i in range(2**k * B))


def k_b_value(z: float, k: int, B: int) -> float:
    """Activation: code times 2^-k."""
    return k_b_code(z, k, B) / 2**k


def grid_code(z: float, boundaries: Sequence[float], closed: Sequence[bool], negative: int) -> int:
    """Code of z on any grid: the boundaries at (closed) or strictly below z, less the negative codes."""
    code = -negative
    for boundary, shut in zip(boundaries, closed, strict=True):
        code += (z >= boundary) if shut else (z > boundary)
    return int(code)


def k_b_unit(U: int, gamma: float, beta: float, mu: float, sigma: float, k: int, B: int) -> int:
    """Count of a unit at the integer potential U, by the published thresholds (Zou et al. 2021).

    theta_i = [(i + 1/2)/2^k - beta] 2^k sigma/gamma + 2^k mu; a level fires at or above it where
    gamma > 0, at or below it where gamma < 0; where gamma = 0 the unit is the code of beta.
    """
    if gamma == 0:
        return k_b_code(beta, k, B)
    count = 0
    for i in range(2**k * B):
        theta = ((i + 0.5) / 2**k - beta) * 2**k * sigma / gamma + 2**k * mu
        count += (theta <= U) if gamma > 0 else (theta >= U)
    return count


def conv_connections(
    in_shape: tuple[int, int, int],
    weight: np.ndarray,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int], float]]:
    """Every connection of a convolution: (target, source, weight), both as (channel, row, column).

    Padding is (left, right, top, bottom); taps on the border connect to nothing.
    """
    _, height, width = in_shape
    out_channels, in_group, rows, columns = weight.shape
    left, right, top, bottom = padding
    out_height = (height + top + bottom - dilation[0] * (rows - 1) - 1) // stride[0] + 1
    out_width = (width + left + right - dilation[1] * (columns - 1) - 1) // stride[1] + 1
    for o in range(out_channels):
        first = (o // (out_channels // groups)) * in_group
        for y in range(out_height):
            for x in range(out_width):
                for c in range(in_group):
                    for r in range(rows):
                        for q in range(columns):
                            row = y * stride[0] + r * dilation[0] - top
                            column = x * stride[1] + q * dilation[1] - left
                            if 0 <= row < height and 0 <= column < width:
                                yield (o, y, x), (first + c, row, column), float(weight[o, c, r, q])


def conv(
    counts: np.ndarray,
    weight: np.ndarray,
    stride: Pair = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> dict[tuple[int, int, int], float]:
    """Potentials of one image (C, H, W), by target."""
    potentials: dict[tuple[int, int, int], float] = {}
    for target, source, value in conv_connections(counts.shape, weight, stride, padding, dilation, groups):
        potentials[target] = potentials.get(target, 0.0) + value * float(counts[source])
    return potentials


def conv_operations(
    counts: np.ndarray,
    weight: np.ndarray,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    events: bool,
    zeros: bool,
) -> int:
    """Operations one image (C, H, W) of counts causes: one a spike (or event) and connection."""
    total = 0
    for _, source, value in conv_connections(counts.shape, weight, stride, padding, dilation, groups):
        if value != 0 or zeros:
            count = abs(int(counts[source]))
            total += min(count, 1) if events else count
    return total


def linear_operations(counts: np.ndarray, weight: np.ndarray, events: bool, zeros: bool) -> int:
    """Operations one image (C,) of counts causes in a dense map (C_out, C)."""
    total = 0
    for row in weight:
        for value, count in zip(row, counts, strict=True):
            if value != 0 or zeros:
                total += min(abs(int(count)), 1) if events else abs(int(count))
    return total


def splitmix64(key: int, counter: int) -> int:
    """Output of SplitMix64 whose state is key + counter * golden gamma, in 0 .. 2^64 - 1."""
    z = (key + counter * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def stream(seed: int, trial: int, noise: str, layer: str, step: int = 0) -> int:
    """Key of a stream: the first 64 bits of a BLAKE2b digest of its name."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed}/{trial}/{noise}/{layer}/{step}".encode(), digest_size=8).digest(), "little"
    )


def surviving(count: int, ratio: float, key: int, image: int, unit: int, units: int, positive: int) -> int:
    """A unit's count after each of its threshold neurons lost its spike with probability ``ratio``.

    Neuron n (those of the negative side behind the positive ones) draws half n % 2 of word n // 2 of
    the 256 words that belong to (image, unit).
    """
    kept = 0
    for level in range(abs(count)):
        neuron = level + (positive if count < 0 else 0)
        word = splitmix64(key, ((image * units + unit) << 8) + neuron // 2)
        half = word & 0xFFFFFFFF if neuron % 2 == 0 else word >> 32
        kept += half >= round(ratio * 2**32)
    return int(math.copysign(kept, count)) if kept else 0

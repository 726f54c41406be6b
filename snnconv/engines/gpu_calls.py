"""The triton engine's kernels as calls on tensors; importing this module needs the package triton.

Counts are int8, channels last in memory, on the GPU; in Triton's interpreter everything lies on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from snnconv.engines import gpu_kernels
from snnconv.engines.kernels import channels_last
from snnconv.grids import MAX_LEVELS
from snnconv.snn.layers import SpikingLayer
from snnconv.snn.synapses import Conv2dSynapse, LinearSynapse, Synapse

LARGEST = 2**31 - 1
"""Largest number an int32 holds: potentials, thresholds, places of a weight or pixel."""
MOST_GROUPS = 65535
"""Programs a GPU starts along the third axis of a grid."""

TILE = (32, 64)
"""Pixels and channels of a block of the kernels that multiply no matrices."""
TALLY_UNITS = 1024
"""Units of a block of the tally."""
TALLY_PART = 32
"""Images a block of the tally adds up."""


@dataclass(frozen=True)
class Blocks:
    """Sizes of the blocks that one program of ``convolve`` computes."""

    pixels: int
    outputs: int
    inputs: int

    @property
    def warps(self) -> int:
        """Groups of 32 threads that share the work."""
        return 8 if self.pixels * self.outputs >= 128 * 128 else 4


def blocks_for(pixels: int, outputs: int, inputs: int) -> Blocks:
    """Blocks for so many outgoing pixels, and channels of a group; fixed, so that few kernels are compiled.

    Tensor cores take int8 in steps of 32 inputs. Few pixels are cut smaller, so that the GPU has more to do at once.
    """
    return Blocks(
        64 if pixels < 2**14 else 128,
        next((size for size in (16, 32, 64) if outputs <= size), 128),
        32 if inputs <= 32 else 64,
    )


class Convolution:
    """A convolution or dense layer on integers, with its ladder or without.

    Int32 is exact for it: whatever part of the sum is taken, in whatever order, its magnitude is at most
    sum |w| * largest <= reach, and with reach <= 2^31 - 2 neither a sum nor a threshold in -reach .. reach + 1
    leaves the 32 bits, be the sums of the tensor cores wrapped or saturated.

    Args:
        synapse: The linear map; one that ``fits``.
        sign: What its weights are multiplied by, (C_out,), -1, 0 or 1.
        shape: Shape of one input, (C, H, W) or (C,).
        out_shape: Shape of one output.
        thresholds: int64 (L, C_out), the smallest potential at which each level fires; None leaves potentials.
        negative: Codes below zero of the layer's grid.
    """

    def __init__(
        self,
        synapse: Synapse,
        sign: Tensor,
        shape: Sequence[int],
        out_shape: Sequence[int],
        thresholds: Tensor | None = None,
        negative: int = 0,
    ) -> None:
        weight = synapse.weight.reshape(*synapse.weight.shape, *[1] * (4 - synapse.weight.ndim))
        codes = weight * sign.to(torch.int8).reshape(-1, 1, 1, 1)
        stride: tuple[int, ...] = (1, 1)
        dilation: tuple[int, ...] = (1, 1)
        left, top, groups, order = 0, 0, 1, None
        if isinstance(synapse, Conv2dSynapse):
            stride, dilation, groups = synapse.stride, synapse.dilation, synapse.groups
            left, _, top, _ = synapse.padding
            order = synapse.channels
        (channels, height, width), (_, _, columns) = (*shape, 1, 1)[:3], (*out_shape, 1, 1)[:3]
        self.out_shape, self.places, self.negative = tuple(out_shape), math.prod(out_shape[1:]), negative
        self.groups, self.outputs, self.inputs = groups, len(codes) // groups, codes.shape[1]
        self.taps = codes.shape[2] * codes.shape[3]
        self._block_inputs = blocks_for(0, self.outputs, self.inputs).inputs
        surplus = -self.outputs % blocks_for(0, self.outputs, self.inputs).outputs
        codes = codes.reshape(groups, self.outputs, self.inputs, self.taps).transpose(2, 3)
        self._codes = functional.pad(codes, (0, -self.inputs % self._block_inputs, 0, 0, 0, surplus)).contiguous()
        self._order = None if order is None else torch.tensor(order, dtype=torch.int32, device=codes.device)
        self._thresholds = None
        if thresholds is not None:
            rows = thresholds.to(torch.int32).reshape(-1, groups, self.outputs)
            self._thresholds = functional.pad(rows, (0, surplus)).contiguous()
        self._incoming = (height, width, channels)
        self._columns = columns
        self._geometry = (*stride, *dilation, top, left)
        self._kernel_width = synapse.weight.shape[3] if synapse.weight.ndim == 4 else 1

    @staticmethod
    def fits(synapse: Synapse, sign: Tensor, shape: Sequence[int], largest: int) -> bool:
        """Whether the kernel can run a synapse whose incoming counts do not exceed ``largest`` in magnitude."""
        if not isinstance(synapse, Conv2dSynapse | LinearSynapse) or largest > MAX_LEVELS:
            return False
        if synapse.weight.dtype != torch.int8:  # floats, or codes of more bits
            return False
        signed = synapse.weight.to(torch.int16) * sign.to(torch.int16).reshape(-1, *[1] * (synapse.weight.ndim - 1))
        if int(signed.max()) > 127 or synapse.reach(largest) >= LARGEST:
            return False  # -(-128) leaves int8
        groups = synapse.groups if isinstance(synapse, Conv2dSynapse) else 1
        taps = math.prod(synapse.weight.shape[2:])
        blocks = blocks_for(0, synapse.out_channels // groups, synapse.weight.shape[1])
        outputs = -(-synapse.out_channels // groups // blocks.outputs) * blocks.outputs
        inputs = -(-synapse.weight.shape[1] // blocks.inputs) * blocks.inputs
        places = max(groups * outputs * taps * inputs, math.prod(shape))
        return groups <= MOST_GROUPS and places <= LARGEST

    def __call__(self, counts: Tensor) -> Tensor:
        """Counts (int8) or potentials (int32), channels last, of counts (int8)."""
        fires = self._thresholds is not None
        sent = _empty(len(counts), self.out_shape, torch.int8 if fires else torch.int32, counts.device)
        most = (LARGEST - 1024) // self.places
        for some, target in zip(torch.split(channels_last(counts), most), torch.split(sent, most), strict=True):
            self._run(some, target)
        return sent

    def _run(self, counts: Tensor, sent: Tensor) -> None:
        pixels = len(counts) * self.places
        if not pixels:
            return
        blocks = blocks_for(pixels, self.outputs, self.inputs)
        grid = (-(-pixels // blocks.pixels), self._codes.shape[1] // blocks.outputs, self.groups)
        levels = 0 if self._thresholds is None else len(self._thresholds)
        with _on(counts.device):
            gpu_kernels.convolve[grid](
                counts,
                self._codes,
                counts if self._order is None else self._order,
                counts if self._thresholds is None else self._thresholds,
                sent,
                *(pixels, self.places, self._columns, *self._incoming, self.inputs, self.outputs),
                *(self._kernel_width, self.taps, self._codes.shape[3] // self._block_inputs),
                *(*self._geometry, levels, self.negative),
                ORDERED=self._order is not None,
                FIRES=self._thresholds is not None,
                BLOCK_PIXELS=blocks.pixels,
                BLOCK_OUTPUTS=blocks.outputs,
                BLOCK_INPUTS=blocks.inputs,
                num_warps=blocks.warps,
            )


class Combination:
    """The sum of several branches in 64-bit integers, with its ladder.

        Z = sum_b M_b * U_b + C

    No part of the sum exceeds the layer's reach, below 2^53.

    Args:
        layer: The layer whose multipliers, constant and thresholds are taken.
        out_shape: Shape of one output.
    """

    def __init__(self, layer: SpikingLayer, out_shape: Sequence[int]) -> None:
        self.out_shape, self.negative = tuple(out_shape), layer.grid.negative
        self.multipliers, self.constant = layer.multipliers.contiguous(), layer.constant.contiguous()
        self.thresholds = layer.neuron.thresholds.contiguous()

    def __call__(self, *parts: Tensor) -> Tensor:
        """Counts, int8, of the branches' potentials, integers of any type."""
        sent = _empty(len(parts[0]), self.out_shape, torch.int8, parts[0].device)
        outputs = self.out_shape[0]
        most = (LARGEST - 1024) // math.prod(self.out_shape[1:])
        rows = [torch.split(channels_last(part), most) for part in parts]
        for target, *some in zip(torch.split(sent, most), *rows, strict=True):
            pixels = target.numel() // outputs
            if not pixels:
                continue
            with _on(target.device):
                gpu_kernels.combine[_tiles(pixels, outputs)](
                    *(tuple(some), self.multipliers, self.constant, self.thresholds, target),
                    *(pixels, outputs, len(self.thresholds), self.negative, *TILE),
                )
        return sent


def delete_spikes(counts: Tensor, ratio: float, key: int, images: Tensor, positive: int) -> Tensor:
    """As ``noise.delete_spikes``, by a kernel: the same words, the same counts."""
    rows = channels_last(counts if counts.ndim == 4 else counts.flatten(1))
    kept = torch.empty_like(rows)
    channels, bound = rows.shape[1], round(ratio * 2**32)
    places = math.prod(rows.shape[2:])
    most = (LARGEST - 1024) // places
    images = images.to(rows.device, torch.int64).contiguous()
    for some, target, numbers in zip(*(torch.split(each, most) for each in (rows, kept, images)), strict=True):
        pixels = len(some) * places
        if not pixels:
            continue
        with _on(rows.device):
            gpu_kernels.delete[_tiles(pixels, channels)](
                *(some, numbers, target, pixels, places, channels, positive, key, bound, *TILE)
            )
    return kept.reshape(counts.shape)


def tally(counts: Tensor, maps: Tensor, within: tuple[int, int]) -> Tensor:
    """As ``counting.tally_dense``, by a kernel; all three sums whatever the counts.

    In int32: exact for batches of up to 2^24 images.
    """
    last = counts.ndim == 4 and counts.is_contiguous(memory_format=torch.channels_last)
    rows, weights = (x.permute(0, 2, 3, 1) if last else x.contiguous() for x in (counts, maps))
    units = math.prod(rows.shape[1:])
    sums = torch.zeros(3, units, dtype=torch.int32, device=rows.device)
    with _on(rows.device):
        grid = (-(-units // TALLY_UNITS), max(1, -(-len(rows) // TALLY_PART)))
        gpu_kernels.tally[grid](rows, sums, len(rows), units, TALLY_PART, TALLY_UNITS)
    return (sums.double() @ weights.reshape(len(maps), -1).double().T).to("cpu", torch.int64)


def _tiles(pixels: int, channels: int) -> tuple[int, int]:
    """Grid of blocks of the kernels that multiply no matrices."""
    return -(-pixels // TILE[0]), -(-channels // TILE[1])


def _empty(images: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    layout = torch.channels_last if len(shape) == 3 else torch.contiguous_format
    return torch.empty(images, *shape, dtype=dtype, device=device, memory_format=layout)


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton starts kernels on the current GPU: make it that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

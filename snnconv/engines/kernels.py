"""The compiled kernels as calls on tensors.

Counts are int8, channels last in memory; each call spreads its batch over threads.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from snnconv.engines.library import Addend, EncoderShape, Shape, SumShape, Team, find_parallel, kernel_names, library
from snnconv.errors import ConfigError
from snnconv.snn import counting, noise
from snnconv.snn.layers import Encoder, SpikingLayer
from snnconv.snn.synapses import Conv2dSynapse, LinearSynapse, Synapse

NO_MEMORY = "there is no memory left for the kernels' work: close other programs, or take --engine dense"
WIDEST = 2**15 - 2
"""Largest potential whose thresholds fit into 16 bits."""
MOST_VALUES = 63
"""So many values may a count take: a table of 16 bytes for each pair of them, found by 16 bits."""

STRIP = 64
"""Channels that the encoder's kernel takes at a time, at most."""
DOUBLES = 8
"""Channels that the kernel for sums takes at a time."""
MOST_INPUTS = 2 * 65535
"""So many channels may a list have: their pairs are numbered by 16 bits."""


class Kernels:
    """The compiled kernels with the threads that share their work: as many as torch takes.

    Args:
        name: Instruction set; None takes, layer by layer, the best of this processor's.

    Raises:
        ConfigError: the kernels are not built here, or not for this instruction set.
    """

    def __init__(self, name: str | None = None) -> None:
        self.library = library()
        known = kernel_names(self.library)
        if name is not None and name not in known:
            raise ConfigError(f"unknown kernels {name!r}: this processor runs {', '.join(known)}")
        self.names = known if name is None else [name]
        self._team = Team(find_parallel(), 1)

    @property
    def best(self) -> bytes:
        """Name of the best instruction set, as the library takes it."""
        return self.names[0].encode()

    @property
    def team(self) -> Team:
        """The threads, as the library takes them."""
        self._team.threads = torch.get_num_threads()
        return self._team

    def for_channels(self, outputs: int) -> bytes:
        """The instruction set whose blocks of output channels are filled best; the widest of those."""

        def padded(name: str) -> int:
            width = int(self.library.snnconv_width(name.encode()))
            return -(-outputs // width) * width

        vectors = [name for name in self.names if name != "baseline"]
        return min(vectors or self.names, key=padded).encode()

    def tally(self, counts: Tensor, maps: Tensor, within: tuple[int, int]) -> Tensor:
        """As ``counting.tally_dense``, by a kernel where the counts are int8."""
        if counts.dtype != torch.int8:
            return counting.tally_dense(counts, maps, within)
        rows, weights, largest = channels_last(counts), channels_last(maps), max(1, within[1], -within[0])
        totals = torch.zeros(3, len(maps), dtype=torch.int64)
        wanted = (ctypes.c_bool * 3)(True, largest > 1, within[0] < 0)
        self.library.snnconv_tally(
            *(self.team, self.best, rows.data_ptr(), len(rows), counts[0].numel(), largest),
            *(weights.data_ptr(), len(maps), wanted, totals.data_ptr()),
        )
        for kind, own in enumerate(wanted):
            if not own:
                totals[kind] = totals[0]
        return totals

    def delete_spikes(self, counts: Tensor, ratio: float, key: int, images: Tensor, positive: int) -> Tensor:
        """As ``noise.delete_spikes``, by a kernel where the counts are int8: the same words, the same counts."""
        if counts.dtype != torch.int8:
            return noise.delete_spikes(counts, ratio, key, images, positive)
        rows = channels_last(counts)
        out, images = torch.empty_like(rows), images.to(torch.int64).contiguous()
        units, channels = rows[0].numel(), rows.shape[1]
        self.library.snnconv_remove_spikes(
            *(self.team, self.best, rows.data_ptr(), out.data_ptr(), images.data_ptr()),
            *(len(rows), channels, units // channels, key % 2**64, round(ratio * 2**32), positive),
        )
        return out


class Convolution:
    """A ternary convolution or dense layer, with its ladder or without.

    Args:
        synapse: The linear map.
        sign: What its weights are multiplied by, (C_out,), -1, 0 or 1.
        shape: Shape of one input, (C, H, W) or (C,).
        out_shape: Shape of one output.
        counts: Smallest and largest incoming count.
        kernels: The kernels.
        thresholds: int64 (L, C_out), the smallest potential at which each level fires; None leaves potentials.
        negative: Codes below zero of the layer's grid.
    """

    def __init__(
        self,
        synapse: Synapse,
        sign: Tensor,
        shape: Sequence[int],
        out_shape: Sequence[int],
        counts: tuple[int, int],
        kernels: Kernels,
        thresholds: Tensor | None = None,
        negative: int = 0,
    ) -> None:
        weight = synapse.weight.reshape(*synapse.weight.shape, *[1] * (4 - synapse.weight.ndim))
        codes = (weight * sign.to(torch.int8).reshape(-1, 1, 1, 1)).contiguous()
        geometry: dict[str, Any] = {"stride": (1, 1), "dilation": (1, 1), "padding": (0, 0, 0, 0), "groups": 1}
        order = None
        if isinstance(synapse, Conv2dSynapse):
            geometry = {key: getattr(synapse, key) for key in geometry}
            order = None if synapse.channels is None else torch.tensor(synapse.channels, dtype=torch.int32)
        channels, height, width = (*shape, 1, 1)[:3]
        outputs, out_height, out_width = (*out_shape, 1, 1)[:3]
        left, _, top, _ = geometry["padding"]
        record = Shape(
            *(height, width, channels, out_height, out_width, outputs, *codes.shape[2:]),
            *(*geometry["stride"], *geometry["dilation"], top, left, geometry["groups"]),
            *(*counts, 0 if thresholds is None else len(thresholds), negative),
        )
        above = None if thresholds is None else (thresholds - 1).to(torch.int16).contiguous()
        self.kernels, self.out_shape = kernels, tuple(out_shape)
        self.dtype = torch.int16 if above is None else torch.int8
        self._handle = kernels.library.snnconv_prepare(
            kernels.for_channels(outputs // geometry["groups"]),
            ctypes.byref(record),
            codes.data_ptr(),
            _pointer(order),
            _pointer(above),
        )
        if self._handle is None:
            raise ConfigError(NO_MEMORY)
        weakref.finalize(self, kernels.library.snnconv_release, self._handle)

    @staticmethod
    def fits(synapse: Synapse, counts: tuple[int, int], channels: int | None = None) -> bool:
        """Whether the kernels can run a synapse: ternary codes; tables, lists and potentials that fit.

        Of ``channels`` that come in each must be read once; None: there are as many as are read.
        """
        if not isinstance(synapse, Conv2dSynapse | LinearSynapse) or synapse.weight.dtype != torch.int8:
            return False
        few = counts[1] - counts[0] + 1 <= MOST_VALUES and synapse.weight.shape[1] <= MOST_INPUTS
        if isinstance(synapse, Conv2dSynapse):
            order = synapse.channels
            few = few and (order is None or sorted(order) == list(range(channels or len(order))))
        ternary = int(synapse.weight.to(torch.int16).abs().max()) <= 1
        return few and ternary and synapse.reach(max(counts[1], -counts[0])) <= WIDEST

    @property
    def scratch(self) -> int:
        """Working memory of one thread [bytes]."""
        return int(self.kernels.library.snnconv_scratch(self._handle))

    def __call__(self, counts: Tensor) -> Tensor:
        """Counts (int8) or potentials (int16), channels last."""
        rows, out = channels_last(counts), _empty(len(counts), self.out_shape, self.dtype)
        convolve = self.kernels.library.snnconv_convolve
        _check(convolve(self.kernels.team, self._handle, rows.data_ptr(), out.data_ptr(), len(rows)))
        return out


class Combination:
    """The sum of several branches, with its ladder.

        Z = sum_b M_b * U_b + C

    Z has at most ``POTENTIAL_BITS`` bits, and so have its parts: the kernel adds them up exactly in float64.

    Args:
        layer: The layer whose multipliers, constant and thresholds are taken.
        out_shape: Shape of one output.
        kernels: The kernels.
    """

    def __init__(self, layer: SpikingLayer, out_shape: Sequence[int], kernels: Kernels) -> None:
        self.kernels, self.out_shape = kernels, tuple(out_shape)
        surplus = -out_shape[0] % DOUBLES
        self._multipliers, self._constant, self._thresholds = (
            functional.pad(numbers.double(), (0, surplus)).contiguous()
            for numbers in (layer.multipliers, layer.constant, layer.neuron.thresholds)
        )
        self._record = SumShape(
            *(out_shape[0], out_shape[0] + surplus, len(layer.multipliers)),
            *(len(layer.neuron.thresholds), layer.grid.negative),
            *(self._constant.data_ptr(), self._thresholds.data_ptr()),
        )

    def __call__(self, *values: Tensor) -> Tensor:
        """Counts of the units, from each branch's counts (int8) or potentials (int16, or integers in float32)."""
        rows = [channels_last(value) for value in values]
        out = _empty(len(rows[0]), self.out_shape, torch.int8)
        addends = (Addend * len(rows))()
        for addend, row, own in zip(addends, rows, self._multipliers, strict=True):
            addend.values, addend.multipliers, addend.bytes = row.data_ptr(), own.data_ptr(), row.element_size()
        self.kernels.library.snnconv_combine(
            *(self.kernels.team, self.kernels.best, ctypes.byref(self._record), addends),
            *(out.numel() // self.out_shape[0], out.data_ptr()),
        )
        return out


class EncoderConvolution:
    """An encoder of one convolution: in float32, and in float64 wherever float32 might be wrong.

    With n weights a unit, the rounding of z = sum_j w_j x_j + offset in float32 is at most

        2^-23 (n + 4) (sum_j |w_j| max |x| + |offset| + max |boundary|)

    and units nearer to a boundary than that are decided again.

    Args:
        encoder: One for which ``fits`` holds.
        shape: Shape of one input.
        out_shape: Shape of one output.
        kernels: The kernels.
    """

    def __init__(self, encoder: Encoder, shape: Sequence[int], out_shape: Sequence[int], kernels: Kernels) -> None:
        branch = encoder.stages[0].branch
        assert branch is not None
        synapse, grid = branch.synapse, encoder.grid
        assert isinstance(synapse, Conv2dSynapse)
        self.kernels, self.out_shape = kernels, tuple(out_shape)
        self._name = kernels.for_channels(synapse.out_channels)
        surplus = -synapse.out_channels % STRIP
        weight = functional.pad(synapse.weight.double().permute(2, 3, 1, 0), (0, surplus)).contiguous()
        scale, offset = functional.pad(branch.scale, (0, surplus)), functional.pad(branch.offset, (0, surplus))
        boundaries = torch.tensor(grid.boundaries, dtype=torch.float64)
        folded = weight * scale / branch.divisor
        unit = 2.0**-23 * (synapse.fan_in + 4)
        farthest = max((abs(boundary) for boundary in grid.boundaries if math.isfinite(boundary)), default=0.0)
        floats = (
            *(folded, offset, boundaries),
            *(unit * folded.abs().sum((0, 1, 2)), unit * (offset.abs() + farthest)),
        )
        self._parameters = (
            *(weight, scale, offset, boundaries, torch.tensor(grid.closed, dtype=torch.uint8)),
            *(values.float().contiguous() for values in floats),
        )
        left, _, top, _ = synapse.padding
        (channels, height, width), (outputs, out_height, out_width) = shape, out_shape
        self._record = EncoderShape(
            *(height, width, channels, out_height, out_width, outputs, outputs + surplus),
            *(*synapse.weight.shape[2:], *synapse.stride),
            *(top, left, grid.levels, grid.negative, branch.divisor),
            *(parameter.data_ptr() for parameter in self._parameters),
        )

    @staticmethod
    def fits(encoder: Encoder) -> bool:
        """Whether the encoder is one plain convolution."""
        branch = encoder.stages[0].branch if len(encoder.stages) == 1 else None
        if branch is None or not isinstance(branch.synapse, Conv2dSynapse):
            return False
        synapse = branch.synapse
        return synapse.groups == 1 and synapse.dilation == (1, 1) and synapse.channels is None

    def __call__(self, x: Tensor) -> Tensor:
        """Counts of analog inputs."""
        rows, out = channels_last(x), _empty(len(x), self.out_shape, torch.int8)
        record = ctypes.byref(self._record)
        encode = self.kernels.library.snnconv_encode
        _check(encode(self.kernels.team, self._name, record, rows.data_ptr(), out.data_ptr(), len(rows)))
        return out


def channels_last(wire: Tensor) -> Tensor:
    """The wire with its channels last in memory."""
    return wire.contiguous(memory_format=torch.channels_last) if wire.ndim == 4 else wire.contiguous()


def _empty(images: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if len(shape) != 3:
        return torch.empty(images, *shape, dtype=dtype)
    return torch.empty(images, *shape, dtype=dtype, memory_format=torch.channels_last)


def _check(failed: int) -> None:
    if failed:
        raise ConfigError(NO_MEMORY)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()

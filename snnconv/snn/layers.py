"""Layers of a spiking network: the encoder, spiking units, pools and the readout.

Every wire carries integer counts (int8 out of a spiking layer, int32 out of a sum-pool). Only the
encoder sees analog values, and only the readout gives them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnconv.errors import ConversionError
from snnconv.grids import Grid
from snnconv.snn.exact import exact_arithmetic, exact_dtype
from snnconv.snn.neurons.ladder import LadderNeuron
from snnconv.snn.synapses import Conv2dSynapse, LinearSynapse, Padding, Pair, Synapse
from snnconv.snn.thresholds import derive_ladder


class Branch(nn.Module):
    """One synapse of a unit with its scale and offset: ``scale * synapse(counts) / divisor + offset``.

    Args:
        synapse: The linear map.
        scale: float64 (C,): batch norm, weight scale and incoming step in one number.
        offset: float64 (C,): batch norm and bias.
        divisor: Window of the average pools in front; kept apart because 1/9 is no binary fraction.
        rounding: float64 (C,), where the codes are float weights rounded: largest difference that this makes to the
            value of each channel; None where the codes are the very weights.
    """

    scale: Tensor
    offset: Tensor
    rounding: Tensor | None

    def __init__(
        self, synapse: Synapse, scale: Tensor, offset: Tensor, divisor: int = 1, rounding: Tensor | None = None
    ) -> None:
        super().__init__()
        self.synapse = synapse
        self.divisor = divisor
        self.register_buffer("scale", scale.to(torch.float64))
        self.register_buffer("offset", offset.to(torch.float64))
        if not self.scale.shape == self.offset.shape == (synapse.out_channels,):
            raise ConversionError(
                f"scale {tuple(self.scale.shape)} and offset {tuple(self.offset.shape)} must have one entry "
                f"for each of the {synapse.out_channels} channels"
            )
        self.register_buffer("rounding", None if rounding is None else rounding.to(torch.float64))
        bound = torch.zeros_like(self.scale) if self.rounding is None else self.rounding
        if bound.shape != self.scale.shape or not bool((bound >= 0).all()):
            raise ConversionError(f"rounding must hold {len(self.scale)} numbers of 0 or more, one a channel")
        if not (torch.isfinite(self.scale).all() and torch.isfinite(self.offset).all()):
            raise ConversionError("a folded scale or offset is not finite: the batch norm's statistics are damaged")

    def forward(self, x: Tensor) -> Tensor:
        """Value of the branch in float64, x being analog values or counts."""
        potential = self.synapse.potential(x.double())
        return channelwise(self.scale, potential) * potential / self.divisor + channelwise(self.offset, potential)


def channelwise(values: Tensor, like: Tensor) -> Tensor:
    """View (C,) as (1, C, 1, ...) so that it broadcasts over a wire."""
    return values.reshape(1, -1, *[1] * (like.ndim - 2))


class SpikingLayer(nn.Module):
    """A layer of integrate-and-fire units: branches, their sum, and a ladder of thresholds.

        z = sum_b scale_b * synapse_b(counts_b) + offset_b ,      count = code of z on the grid

    computed on integers alone (see ``thresholds``). Multipliers, constant and thresholds are derived
    from the branches and the grid, never stored in a file.

    Args:
        branches: One a wire that comes in, in the order of the wiring.
        grid: Codes and boundaries of the unit.
        largest: For each branch the largest magnitude of the incoming counts.

    Raises:
        ConversionError: weights that are not integers, or potentials that leave 52 bits.
    """

    multipliers: Tensor
    constant: Tensor
    error: Tensor
    factor: Tensor

    def __init__(self, branches: Sequence[Branch], grid: Grid, largest: Sequence[int]) -> None:
        super().__init__()
        if not all(branch.synapse.integer for branch in branches):
            raise ConversionError("a spiking layer needs integer weight codes")
        self.branches = _register(self, branches)
        self.grid = grid
        self.largest = tuple(largest)
        self.reaches = [b.synapse.reach(n) for b, n in zip(branches, largest, strict=True)]
        scales, offsets = (torch.stack([getattr(b, name) for b in branches]) for name in ("scale", "offset"))
        own = [b.synapse.reaches(n) for b, n in zip(branches, largest, strict=True)]
        ladder = derive_ladder(scales, offsets.sum(0), own, grid, [b.divisor for b in branches])
        self.register_buffer("multipliers", ladder.multipliers, persistent=False)
        self.register_buffer("constant", ladder.constant, persistent=False)
        rounded = [branch.rounding for branch in branches if branch.rounding is not None]
        self.register_buffer("error", torch.stack([ladder.error, *rounded]).sum(0), persistent=False)
        self.register_buffer("factor", ladder.factor, persistent=False)
        self.reach = ladder.reach
        self.neuron = LadderNeuron(ladder.thresholds, grid.negative)

    def potential(self, *counts: Tensor) -> Tensor:
        """Integer potential Z of every unit, from the counts on each incoming wire.

        Returns:
            float32 where its 24 bits hold every reachable sum, int64 for several branches, else float64.
        """
        current = self.current(*counts)
        return current if len(self.branches) == 1 else current + channelwise(self.constant, current)

    def current(self, *counts: Tensor) -> Tensor:
        """What counts add to the potential: Z without its constant C, in the same dtype."""
        with exact_arithmetic(counts[0].device):
            parts = [
                branch.synapse.potential(x.to(exact_dtype(reach)))
                for branch, x, reach in zip(self.branches, counts, self.reaches, strict=True)
            ]
        if len(parts) == 1:
            return parts[0] * channelwise(self.multipliers[0], parts[0]).to(parts[0].dtype)
        total = torch.zeros_like(parts[0], dtype=torch.int64)
        for multiplier, part in zip(self.multipliers, parts, strict=True):
            total += channelwise(multiplier, part) * part.to(torch.int64)
        return total

    @property
    def line(self) -> tuple[Tensor, Tensor]:
        """Slope and offset of the value z over the potential Z, float64 (C,) each."""
        if len(self.branches) > 1:
            return 1 / self.factor, torch.zeros_like(self.factor)
        (branch,) = self.branches
        return branch.scale.abs() / branch.divisor, branch.offset

    def value(self, potential: Tensor) -> Tensor:
        """z of every unit, which its grid's boundaries cut, from its integer potential Z; float64 (N, C, ...).

        The code of z on the grid is the count that the integer thresholds give to Z.
        """
        Z = potential.double()
        if len(self.branches) > 1:
            return Z / channelwise(self.factor, Z)
        branch = self.branches[0]
        return channelwise(branch.scale.abs(), Z) * Z / branch.divisor + channelwise(branch.offset, Z)

    def forward(self, *counts: Tensor) -> Tensor:
        """Counts of the units, int8."""
        fired: Tensor = self.neuron(self.potential(*counts))
        return fired


class SpikingConv2d(SpikingLayer):
    """Spiking layer of one convolution."""

    def __init__(self, branches: Sequence[Branch], grid: Grid, largest: Sequence[int]) -> None:
        _expect("SpikingConv2d", branches, Conv2dSynapse)
        super().__init__(branches, grid, largest)


class SpikingLinear(SpikingLayer):
    """Spiking layer of one dense map."""

    def __init__(self, branches: Sequence[Branch], grid: Grid, largest: Sequence[int]) -> None:
        _expect("SpikingLinear", branches, LinearSynapse)
        super().__init__(branches, grid, largest)


class SpikingSum(SpikingLayer):
    """Spiking layer of several branches, or of an identity: residual sums, requantizations."""


def spiking_layer(branches: Sequence[Branch], grid: Grid, largest: Sequence[int]) -> SpikingLayer:
    """Spiking layer of the type its branches ask for."""
    if len(branches) == 1 and isinstance(branches[0].synapse, Conv2dSynapse):
        return SpikingConv2d(branches, grid, largest)
    if len(branches) == 1 and isinstance(branches[0].synapse, LinearSynapse):
        return SpikingLinear(branches, grid, largest)
    return SpikingSum(branches, grid, largest)


class Stage(NamedTuple):
    """One step of the encoder: an affine map, a flatten, a reshape, a PReLU with a slope, or a clip to [low, high]."""

    branch: Branch | None = None
    low: float = float("-inf")
    high: float = float("inf")
    flatten: bool = False
    slope: float | None = None
    shape: tuple[int, ...] | None = None

    def apply(self, z: Tensor) -> Tensor:
        """The step on float64 values."""
        if self.flatten:
            return z.flatten(1)
        if self.shape is not None:
            return z.reshape(len(z), *self.shape)
        if self.slope is not None:
            return torch.where(z > 0, z, self.slope * z)
        return z.clamp(self.low, self.high) if self.branch is None else self.branch(z)


class Encoder(nn.Module):
    """The float sub-graph from the analog input to the first counts, decided in float64.

    Args:
        stages: Affine maps and clips in order.
        grid: Codes and boundaries of the encoder's units.
    """

    def __init__(self, stages: Sequence[Stage], grid: Grid) -> None:
        super().__init__()
        self.branches = _register(self, [stage.branch for stage in stages if stage.branch is not None])
        self.stages = tuple(stages)
        self.grid = grid

    def value(self, x: Tensor) -> Tensor:
        """z, what the encoder's units compare with their boundaries; float64."""
        z = x.double()
        for stage in self.stages:
            z = stage.apply(z)
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Counts, int8, of analog values."""
        return self.decide(self.value(x))

    def decide(self, z: Tensor) -> Tensor:
        """Counts, int8, of values that have passed the stages."""
        count = torch.full_like(z, -self.grid.negative, dtype=torch.int8)
        for boundary, closed in zip(self.grid.boundaries, self.grid.closed, strict=True):
            count += (z >= boundary) if closed else (z > boundary)
        return count


class SumPool2d(nn.Module):
    """Average pooling on counts: the integer sum of each window; the divisor belongs to the consumer."""

    def __init__(self, kernel: Pair, stride: Pair, padding: Padding = (0, 0, 0, 0)) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = tuple(kernel), tuple(stride), tuple(padding)

    def forward(self, counts: Tensor) -> Tensor:
        """Sums, int32; floats stay floats."""
        padded = functional.pad(counts.double(), self.padding)
        summed = functional.avg_pool2d(padded, self.kernel, self.stride, divisor_override=1)
        return summed if counts.is_floating_point() else summed.round().to(torch.int32)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}"


class MaxPool2d(nn.Module):
    """Max pooling on counts, the largest (signed) count of each window; padding never wins."""

    def __init__(self, kernel: Pair, stride: Pair, padding: Pair = (0, 0), dilation: Pair = (1, 1)) -> None:
        super().__init__()
        self.kernel, self.stride = tuple(kernel), tuple(stride)
        self.padding, self.dilation = tuple(padding), tuple(dilation)

    def forward(self, counts: Tensor) -> Tensor:
        """Counts in the dtype they came in."""
        pooled = functional.max_pool2d(counts.float(), self.kernel, self.stride, self.padding, self.dilation)
        return pooled.to(counts.dtype)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}"


class ZeroChannelShortcut(nn.Module):
    """Shortcut without weights: every ``stride``-th row and column, then channels of zeros behind the others.

    Args:
        channels: Channels it sends.
        stride: Step of the subsampling.
        lines: Equal parts that the channels are made of; each gets zeros of its own behind it.
    """

    def __init__(self, channels: int, stride: int = 1, lines: int = 1) -> None:
        super().__init__()
        self.channels, self.stride, self.lines = channels, stride, lines

    def forward(self, counts: Tensor) -> Tensor:
        """Counts in the dtype they came in."""
        kept = counts[:, :, :: self.stride, :: self.stride]
        missing = (self.channels - counts.shape[1]) // self.lines
        return torch.cat([functional.pad(line, (0, 0, 0, 0, 0, missing)) for line in kept.chunk(self.lines, 1)], 1)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, stride={self.stride}, lines={self.lines}"


class Flatten(nn.Module):
    """(N, C, H, W) counts to (N, C * H * W), channels first."""

    def forward(self, counts: Tensor) -> Tensor:
        return counts.flatten(1)


class Reshape(nn.Module):
    """(N, ...) counts to (N, *shape), in the order of channels, rows, columns; a shape of one number is a flatten."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, counts: Tensor) -> Tensor:
        return counts.reshape(len(counts), *self.shape)

    def extra_repr(self) -> str:
        return f"shape={self.shape}"


class ZeroPad2d(nn.Module):
    """A border of zeros around each channel, (left, right, top, bottom) wide."""

    def __init__(self, padding: Padding) -> None:
        super().__init__()
        self.padding = tuple(padding)

    def forward(self, counts: Tensor) -> Tensor:
        return functional.pad(counts, self.padding)

    def extra_repr(self) -> str:
        return f"padding={self.padding}"


class Concat(nn.Module):
    """Several wires (N, C_i, ...) as one, (N, sum of C_i, ...): channels side by side, in the order of the wires.

    Args:
        lines: Equal parts that each wire is made of; the first parts of all wires come first, then the second ones.
    """

    def __init__(self, lines: int = 1) -> None:
        super().__init__()
        self.lines = lines

    def forward(self, *counts: Tensor) -> Tensor:
        """Counts in the widest of the dtypes they came in."""
        parts = [wire.chunk(self.lines, 1) for wire in counts]
        return torch.cat([part[line] for line in range(self.lines) for part in parts], 1)

    def extra_repr(self) -> str:
        return f"lines={self.lines}"


class Readout(nn.Module):
    """The last layer: potentials without spikes, scaled to the ANN's logits in float64.

    Args:
        branches: One a wire that comes in; float weights allowed.
    """

    def __init__(self, branches: Sequence[Branch]) -> None:
        super().__init__()
        self.branches = _register(self, branches)

    def forward(self, *counts: Tensor) -> Tensor:
        """Logits, float64 (N, classes)."""
        return torch.stack([branch(x) for branch, x in zip(self.branches, counts, strict=True)]).sum(0)


Wiring = SumPool2d | ZeroChannelShortcut | Flatten | Reshape | ZeroPad2d | Concat
"""A layer through which each spike passes by itself: linear, without units or weights of its own."""

Unit = Encoder | SpikingLayer
"""A layer that fires."""


def largest_count(layer: nn.Module, incoming: Sequence[int]) -> int:
    """Largest magnitude of what a layer sends, given that of each wire that comes in."""
    if isinstance(layer, Encoder | SpikingLayer):
        return layer.grid.largest
    if isinstance(layer, SumPool2d):
        return incoming[0] * layer.kernel[0] * layer.kernel[1]
    return max(incoming)


def _register(layer: nn.Module, branches: Sequence[Branch]) -> tuple[Branch, ...]:
    """Register the branches as sub-modules and hand them back with their type."""
    layer.add_module("branch_modules", nn.ModuleList(branches))
    return tuple(branches)


def _expect(name: str, branches: Sequence[Branch], kind: type[Synapse]) -> None:
    if len(branches) != 1 or not isinstance(branches[0].synapse, kind):
        raise ConversionError(f"{name} takes one branch with a {kind.__name__}")

"""Synapses: the linear maps from incoming counts to potentials, with their true fan-out.

A synapse holds its weight either as integer codes (int8, or wider ones of rounded floats) or, in the encoder and the
readout, as trained floats. It computes in the dtype of its input (see ``exact``). Padding is (left, right, top, bottom)
everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnconv.errors import ConversionError

Padding = tuple[int, int, int, int]
Pair = tuple[int, int]


class Synapse(nn.Module, ABC):
    """Linear map of a wire: (N, C, ...) counts to (N, C_out, ...) potentials.

    Args:
        weight: (C_out, inputs, ...).
        lines: Equal parts of the inputs, one behind the other, that carry the same counts by their sign: what
            they carry at a place adds up to one count at most. 1 where counts travel as they are.

    Raises:
        ConversionError: the inputs cannot be parted into so many lines.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, lines: int = 1) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.lines = lines
        if lines < 1 or weight.shape[1] % lines:
            raise ConversionError(f"a synapse of {weight.shape[1]} inputs cannot read {lines} lines of equal size")

    @abstractmethod
    def connect(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply the map with another weight of the same shape and of x's dtype, plus a bias (C_out,)."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Geometry as plain values: the constructor's arguments other than the weight."""

    @property
    def _lines(self) -> dict[str, Any]:
        """The setting, where there is something to say."""
        return {"lines": self.lines} if self.lines > 1 else {}

    @property
    def integer(self) -> bool:
        """Whether the weight holds integer codes."""
        return not self.weight.is_floating_point()

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def fan_in(self) -> int:
        """Weights of one output position."""
        return self.weight[0].numel()

    def potential(self, x: Tensor) -> Tensor:
        """Apply the map, in the dtype of x."""
        return self.connect(x, self.weight.to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The same as ``potential``, as a module's call."""
        return self.potential(x)

    def reach(self, largest: int) -> int:
        """Largest magnitude a potential can have when no count exceeds ``largest`` in magnitude.

        max over output channels of sum |w| * largest, w being the larger weight where two lines meet
        """
        return int(self.reaches(largest).max())

    def reaches(self, largest: int) -> Tensor:
        """The same for each output channel, int64 (C_out,)."""
        size = self.weight.to(torch.int64).abs().reshape(len(self.weight), self.lines, -1)
        return size.amax(1).sum(1) * largest

    def fan_out(self, shape: tuple[int, ...], zeros: bool = False) -> Tensor:
        """Number of targets of each input position: border, stride, dilation and groups respected.

        It is the adjoint of the map whose weights are all 1, applied to ones.

        Args:
            shape: Shape of one input, without the batch.
            zeros: Count connections whose weight is zero, too.

        Returns:
            int64, of the input's shape.
        """
        connected = torch.ones_like(self.weight, dtype=torch.bool) if zeros else self.weight != 0
        joined = self._joined(connected).double()
        with torch.enable_grad():
            x = torch.zeros(1, *shape, dtype=torch.float64, device=self.weight.device, requires_grad=True)
            (targets,) = torch.autograd.grad(self.connect(x, joined).sum(), x)
        return targets[0].round().to(torch.int64)

    def _joined(self, connected: Tensor) -> Tensor:
        """Numbers of connections of a weight's shape but with fewer outputs: summed over those of a group."""
        return connected

    def macs(self, shape: tuple[int, ...]) -> int:
        """Multiply-accumulates for one image whose output has this shape, border and zero weights included."""
        return self.out_channels * torch.Size(shape[1:]).numel() * (self.fan_in // self.lines)

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one output for one input of this shape."""
        x = torch.empty(1, *shape, device="meta")
        return tuple(self.connect(x, self.weight.to("meta", x.dtype)).shape[1:])


class GroupedSynapse(Synapse):
    """What convolutions of both directions share: kernels that slide over channel groups of an image.

    Args:
        weight: (C_out, C / groups, kernel height, kernel width).
        stride: (vertical, horizontal).
        padding: (left, right, top, bottom).
        dilation: (vertical, horizontal).
        groups: Number of channel groups.
        channels: Number of the input's channel that is read at each place; None reads them as they come.
        lines: Lines that each group reads.

    Raises:
        ConversionError: a channel for each place of all groups is not named.
    """

    def __init__(
        self,
        weight: Tensor,
        stride: Pair = (1, 1),
        padding: Padding = (0, 0, 0, 0),
        dilation: Pair = (1, 1),
        groups: int = 1,
        channels: tuple[int, ...] | None = None,
        lines: int = 1,
    ) -> None:
        super().__init__(weight, lines)
        self.stride, self.padding, self.dilation = tuple(stride), tuple(padding), tuple(dilation)
        self.groups = groups
        if channels is not None and (len(channels) != groups * weight.shape[1] or min(channels) < 0):
            read = groups * weight.shape[1]
            raise ConversionError(f"channels {list(channels)} must name one from 0 on for each of {read} places")
        self.channels = None if channels is None else tuple(channels)

    def _read(self, x: Tensor) -> Tensor:
        """The channels in the order in which they are read."""
        return x if self.channels is None else x[:, list(self.channels)]

    def _joined(self, connected: Tensor) -> Tensor:
        return connected.reshape(self.groups, -1, *connected.shape[1:]).sum(1)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "stride": list(self.stride),
            "padding": list(self.padding),
            "dilation": list(self.dilation),
            "groups": self.groups,
            "channels": None if self.channels is None else list(self.channels),
            **self._lines,
        }

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}, stride={self.stride}, padding={self.padding}, groups={self.groups}"


class Conv2dSynapse(GroupedSynapse):
    """Convolution: (N, C, H, W) to (N, C_out, H', W'); ``padding`` is the border of zeros around the input."""

    def connect(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x = self._read(x)
        left, right, top, bottom = self.padding
        if (left, top) != (right, bottom):
            x, left, top = functional.pad(x, self.padding), 0, 0
        return functional.conv2d(x, weight, bias, self.stride, (top, left), self.dilation, self.groups)


class ConvTranspose2dSynapse(GroupedSynapse):
    """Transposed convolution: (N, C, H, W) to (N, C_out, H', W').

        y[o, s i + d r - top, s j + d q - left] += w[o, c, r, q] x[c, i, j]

    with H' = (H - 1) s + d (kernel height - 1) + 1 - top - bottom: ``padding`` is what is cut off the output. An output
    padding of torch's makes the right and the lower cut smaller, below 0 if need be. The weight is laid out as that of
    a convolution, by its outputs first, not as torch has it.
    """

    def connect(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        left, right, top, bottom = self.padding
        by_group = weight.reshape(self.groups, -1, *weight.shape[1:])
        by_input = by_group.transpose(1, 2).flatten(0, 1)
        return functional.conv_transpose2d(
            *(self._read(x), by_input, bias, self.stride, (top, left)),
            *((top - bottom, left - right), self.groups, self.dilation),
        )

    def macs(self, shape: tuple[int, ...]) -> int:
        left, right, top, bottom = self.padding
        cuts, kernel = (top + bottom, left + right), self.weight.shape[2:]
        axes = zip(shape[1:], cuts, kernel, self.stride, self.dilation, strict=True)
        places = [(side + cut - apart * (taps - 1) - 1) // step + 1 for side, cut, taps, step, apart in axes]
        return self.weight.numel() // self.lines * places[0] * places[1]


class LinearSynapse(Synapse):
    """Dense map: (N, C) to (N, C_out); weight (C_out, C)."""

    def connect(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(x, weight, bias)

    def _joined(self, connected: Tensor) -> Tensor:
        return connected.sum(0, keepdim=True)

    @property
    def settings(self) -> dict[str, Any]:
        return self._lines

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}"


class IdentitySynapse(Synapse):
    """One connection of weight 1 from each position to the same position: (N, C, ...) to (N, C, ...).

    Args:
        weight: int8 ones, (C, 1).
    """

    def connect(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        return x * weight.reshape(shape) + (0 if bias is None else bias.reshape(shape))

    @property
    def settings(self) -> dict[str, Any]:
        return {}


class LinesSynapse(Synapse):
    """One connection to each position from the same position of every line: (N, lines * C, ...) to (N, C, ...).

    Args:
        weight: int8, (C, lines): 1 for the positive line, -1 for the negative one.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight, weight.shape[1])

    def connect(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        lines = zip(x.chunk(self.lines, 1), weight.T, strict=True)
        total = torch.stack([line * sign.reshape(shape) for line, sign in lines]).sum(0)
        return total if bias is None else total + bias.reshape(shape)

    @property
    def settings(self) -> dict[str, Any]:
        return {}


SYNAPSES: dict[str, type[Synapse]] = {
    "conv2d": Conv2dSynapse,
    "conv-transpose2d": ConvTranspose2dSynapse,
    "linear": LinearSynapse,
    "identity": IdentitySynapse,
    "lines": LinesSynapse,
}


def synapse_kind(synapse: Synapse) -> str:
    """Name of a synapse's type in SYNAPSES."""
    return next(name for name, kind in SYNAPSES.items() if type(synapse) is kind)

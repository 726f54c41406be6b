"""Layers without parameters that the published networks need beside torch's own, and a look at those of others."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy


def lazy_weight(model: nn.Module) -> str | None:
    """Name of a parameter or buffer that a lazy layer has yet to make; None where all are there."""
    named = (*model.named_parameters(), *model.named_buffers())
    return next((name for name, own in named if is_lazy(own)), None)


class ChannelPermutation(nn.Module):
    """Strided channel groups for a grouped convolution behind it.

        y = x[:, order] ,    order = 0, g, 2g, ..., 1, g + 1, 2g + 1, ..., g - 1, 2g - 1, ...

    torch's grouped convolution gives group i the i-th run of neighbouring channels; behind this layer these
    are the channels i, i + g, i + 2g, ... of x. Shape (N, C, ...) with C divisible by g.

    Args:
        groups: g, the groups of the convolution behind.

    Ref: repositories edwardzcl/TWTA and edwardzcl/TWBA_Nets.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def order(self, channels: int) -> list[int]:
        """Channel of the input that each channel of the output is."""
        return [channel for group in range(self.groups) for channel in range(group, channels, self.groups)]

    def forward(self, x: Tensor) -> Tensor:
        rows = x.movedim(1, -1)  # channels last, as convolutions on the CPU want them
        grouped = rows.reshape(*rows.shape[:-1], -1, self.groups)
        return grouped.transpose(-1, -2).reshape(rows.shape).movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class Shortcut(nn.Module):
    """Shortcut without parameters: every ``stride``-th row and column, then channels of zeros.

        y[:, c, i, j] = x[:, c, stride * i, stride * j]   for c < C ,    0 for C <= c < channels

    The zeros stand behind the C channels of x, so that channel c of x meets channel c of what it is added to.
    Shape (N, C, H, W) to (N, channels, ceil(H / stride), ceil(W / stride)).

    Args:
        channels: Channels of the output, C or more.
        stride: Step of the subsampling.

    Ref: He et al. 2016, CVPR, option A.
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        rows = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(rows, (0, 0, 0, 0, 0, self.channels - x.shape[1]))

    def extra_repr(self) -> str:
        return f"channels={self.channels}, stride={self.stride}"

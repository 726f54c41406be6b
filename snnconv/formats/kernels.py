"""Synapses and wiring as the plain weights that other tools take: convolution kernels and matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snnconv.errors import ExportError
from snnconv.snn.layers import Concat, ZeroChannelShortcut
from snnconv.snn.synapses import Conv2dSynapse, IdentitySynapse, LinearSynapse, LinesSynapse, Padding, Synapse

KNOWN = (Conv2dSynapse, LinearSynapse, IdentitySynapse, LinesSynapse)


def require_known(synapse: Synapse, name: str, tool: str) -> None:
    """Refuse synapses that the exporters do not know.

    Raises:
        ExportError: it is one.
    """
    if type(synapse) not in KNOWN:
        kinds = ", ".join(kind.__name__ for kind in KNOWN)
        raise ExportError(
            f"layer {name} has a {type(synapse).__name__}, which cannot be written for {tool}: {kinds} can; "
            "`snnconv export --certificate` and snnconv's own file take every network"
        )


def dense_kernel(synapse: Synapse, channels: int) -> Tensor:
    """Weight (C_out, channels, kernel height, kernel width) of one group that reads all channels, in order.

    Groups become blocks of an otherwise empty kernel, a permutation of the channels is worked in, and synapses without
    a kernel of their own get one of a single pixel.

    Args:
        synapse: Of a wire with rows and columns.
        channels: Channels of the wire.
    """
    weight = synapse.weight.double()
    if isinstance(synapse, IdentitySynapse | LinesSynapse):
        lines = [torch.diag(column) for column in weight.T]
        return torch.cat(lines, 1)[:, :, None, None]
    assert isinstance(synapse, Conv2dSynapse)
    out, per_group, *size = weight.shape
    kernel = torch.zeros(out, channels, *size, dtype=torch.float64)
    read = synapse.channels or tuple(range(channels))
    for row in range(out):
        first = row // (out // synapse.groups) * per_group
        for place in range(per_group):
            kernel[row, read[first + place]] += weight[row, place]
    return kernel


def matrix(synapse: Synapse) -> Tensor:
    """Weight (C_out, C_in) of a wire without rows and columns."""
    if isinstance(synapse, IdentitySynapse | LinesSynapse):
        return torch.cat([torch.diag(column) for column in synapse.weight.double().T], 1)
    return synapse.weight.double()


def shortcut_kernel(layer: ZeroChannelShortcut, channels: int) -> Tensor:
    """Weight (C_out, channels, 1, 1) of ones and zeros: the shortcut as a convolution of its stride."""
    with torch.no_grad():
        sent: Tensor = layer(torch.eye(channels, dtype=torch.float64)[:, :, None, None])
    return sent.transpose(0, 1).contiguous()


def concat_order(layer: Concat, channels: Sequence[int]) -> list[int] | None:
    """Places, in the wires laid side by side, of the channels that a concatenation sends; None where they stay."""
    ids = torch.split(torch.arange(sum(channels)), list(channels))
    order: list[int] = layer(*(own[None] for own in ids))[0].tolist()
    return None if order == sorted(order) else order


def even_padding(
    kernel: Tensor, padding: Padding, dilation: tuple[int, int], name: str
) -> tuple[Tensor, list[int], tuple[int, int]]:
    """A square kernel, (vertical, horizontal) padding and dilation that give the same sums: taps of 0 are put in.

    With p zeros on both sides instead of ``before`` and ``after``, p - before taps of 0 go in front of the kernel and
    p - after behind it; n more of both on each side change nothing. A dilation that is in the way becomes taps of 0.

    Args:
        kernel: (C_out, C_in, height, width).
        padding: (left, right, top, bottom).
        dilation: (vertical, horizontal).
        name: The layer, for messages.

    Raises:
        ExportError: no such kernel exists.
    """
    left, right, top, bottom = padding
    if kernel.shape[2] == kernel.shape[3] and (left, top) == (right, bottom):
        return kernel, [top, left], dilation
    kernel = _spread(kernel, dilation)
    sides = [(top, bottom), (left, right)]
    pads = [max(side) for side in sides]
    sizes = [size + 2 * pad - sum(side) for size, pad, side in zip(kernel.shape[2:], pads, sides, strict=True)]
    if (sizes[0] - sizes[1]) % 2:
        raise ExportError(
            f"layer {name} has a kernel of {kernel.shape[2]}x{kernel.shape[3]} padded by {list(padding)} (left, right, "
            "top, bottom), and no square one of even padding does the same; nir 1.0.8 infers shapes from the height of "
            "a kernel alone: take a square one"
        )
    pads = [pad + (max(sizes) - size) // 2 for pad, size in zip(pads, sizes, strict=True)]
    borders = [(pad - before, pad - after) for pad, (before, after) in zip(pads, sides, strict=True)]
    return torch.nn.functional.pad(kernel, (*borders[1], *borders[0])), pads, (1, 1)


def _spread(kernel: Tensor, dilation: tuple[int, int]) -> Tensor:
    """The kernel without dilation: zeros between its taps."""
    sizes = [(size - 1) * own + 1 for size, own in zip(kernel.shape[2:], dilation, strict=True)]
    wide = torch.zeros(*kernel.shape[:2], *sizes, dtype=kernel.dtype)
    wide[:, :, :: dilation[0], :: dilation[1]] = kernel
    return wide

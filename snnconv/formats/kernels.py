"""Synapses and wiring as the plain weights that other tools take: convolution kernels and matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snnconv.errors import ExportError
from snnconv.snn.layers import Concat, Encoder, Readout, SpikingLayer, ZeroChannelShortcut
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.synapses import (
    Conv2dSynapse,
    ConvTranspose2dSynapse,
    GroupedSynapse,
    IdentitySynapse,
    LinearSynapse,
    LinesSynapse,
    Padding,
    Synapse,
    synapse_kind,
)

KNOWN = (Conv2dSynapse, ConvTranspose2dSynapse, LinearSynapse, IdentitySynapse, LinesSynapse)


def require_known(network: SpikingNetwork, tool: str, kinds: tuple[type[Synapse], ...] = KNOWN) -> None:
    """Refuse networks with synapses that an exporter does not know.

    Raises:
        ExportError: there is one.
    """
    for name, layer in network.layers.items():
        for branch in layer.branches if isinstance(layer, Encoder | SpikingLayer | Readout) else ():
            if type(branch.synapse) not in kinds:
                raise ExportError(
                    f"layer {name} has a synapse of kind {synapse_kind(branch.synapse)}, which cannot be written for "
                    f"{tool}: `snnconv export --to numpy` and `--certificate` take every network"
                )


def wire_levels(network: SpikingNetwork, wire: str) -> int:
    """L of the units whose spikes a wire carries.

    Raises:
        ExportError: they differ.
    """
    layer = network.layers[wire]
    if isinstance(layer, Encoder | SpikingLayer):
        return layer.grid.levels
    levels = {wire_levels(network, source) for source in network.nodes[wire].inputs}
    if len(levels) > 1:
        raise ExportError(
            f"layer {wire} joins units of {' and '.join(map(str, sorted(levels)))} levels, where a rate means nothing: "
            "take --neuron ladder"
        )
    return max(levels)


def dense_kernel(synapse: Synapse, channels: int) -> Tensor:
    """Weight (C_out, channels, kernel height, kernel width) of one group that reads all channels, in order.

    Groups become blocks of an otherwise empty kernel, a permutation of the channels is worked in, and synapses without
    a kernel of their own get one of a single pixel.

    Args:
        synapse: Of a wire with rows and columns; the kernel of a transposed convolution is laid out alike.
        channels: Channels of the wire.
    """
    weight = synapse.weight.double()
    if isinstance(synapse, IdentitySynapse | LinesSynapse):
        lines = [torch.diag(column) for column in weight.T]
        return torch.cat(lines, 1)[:, :, None, None]
    assert isinstance(synapse, GroupedSynapse)
    out, per_group, *size = weight.shape
    kernel = torch.zeros(out, channels, *size, dtype=torch.float64)
    read = synapse.channels or tuple(range(channels))
    for row in range(out):
        first = row // (out // synapse.groups) * per_group
        for place in range(per_group):
            kernel[row, read[first + place]] += weight[row, place]
    return kernel


def by_inputs(weight: Tensor, groups: int) -> Tensor:
    """A transposed convolution's kernel (C_out, C_in / groups, ...) as torch and ONNX have it, inputs first."""
    return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)


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


def concat_matrix(layer: Concat, channels: Sequence[int], place: int) -> Tensor:
    """Ones and zeros (sum of channels, channels[place]): where a concatenation puts the channels of one wire."""
    ones = torch.eye(channels[place], dtype=torch.float64)
    wires = [ones if i == place else torch.zeros(len(ones), count).double() for i, count in enumerate(channels)]
    sent: Tensor = layer(*wires)
    return sent.T.contiguous()


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

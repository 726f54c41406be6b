"""Counters of spikes and synaptic operations: observers that own their tallies.

A counter sums, for every wire, the spikes at each position over all images; a synapse's operations
then are these sums times its fan-out map, exact integers at next to no cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from snnconv.snn.exact import exact_arithmetic
from snnconv.snn.layers import Branch, Encoder, Readout, SpikingLayer, Wiring
from snnconv.snn.network import SpikingNetwork

PART = 2**18
"""Counts tallied at a time."""


@dataclass(frozen=True)
class Convention:
    """A way to count synaptic operations (SOPs) of a layer from the counts that come in.

    Attributes:
        of: What is multiplied by the fan-out: ``spikes`` (sum of |count|) or ``events`` (counts other than 0).
        zeros: Whether connections of weight 0 count.
        factor: What the sum is multiplied by, given the layer's own L.
        readout: Whether the readout has any.
    """

    of: Literal["spikes", "events"]
    zeros: bool
    factor: Callable[[int], int]
    readout: bool


CONVENTIONS: dict[str, Convention] = {
    "synops": Convention("spikes", zeros=False, factor=lambda levels: 1, readout=True),
    "events": Convention("events", zeros=False, factor=lambda levels: 1, readout=True),
    "fanout": Convention("spikes", zeros=True, factor=lambda levels: 1, readout=True),
    "ladder": Convention("spikes", zeros=False, factor=lambda levels: levels, readout=True),
    "zou2021": Convention("spikes", zeros=True, factor=lambda levels: 2 * levels, readout=False),
}
"""The conventions by name.

``synops``: accumulations an event-driven chip makes. ``events``: the same for graded events, one a count.
``fanout``: synops with zero weights counted. ``ladder``: synops where each threshold neuron has its own
synapses. ``zou2021``: as the logs of Zou et al. 2021 count, without the readout.
"""


@dataclass(frozen=True)
class LayerCounts:
    """What one layer did, summed over all images; integers.

    Attributes:
        name: The layer.
        kind: ``encoder``, ``spiking`` or ``readout``.
        units: Units of one image.
        levels: L of the units; 1 in the readout.
        positive: Spikes above zero it sent.
        negative: Spikes below zero it sent.
        events: Counts other than 0 it sent.
        sops: Synaptic operations it received, by convention; 0 in the encoder, whose input is analog.
        macs: Multiply-accumulates of the same layer in the ANN, for one image, border included.
    """

    name: str
    kind: Literal["encoder", "spiking", "readout"]
    units: int
    levels: int
    positive: int
    negative: int
    events: int
    sops: dict[str, int]
    macs: int

    @property
    def spikes(self) -> int:
        """Spikes of both signs, never cancelling."""
        return self.positive + self.negative


class Counter:
    """Tallies of a network's wires; give ``tap`` to an engine, then read ``layers``.

    Args:
        network: The network that will run.
    """

    def __init__(self, network: SpikingNetwork) -> None:
        self.network = network
        self._spikes: dict[str, Tensor] = {}
        self._events: dict[str, Tensor] = {}
        self._positive: dict[str, int] = {}
        self._signed = {name: unit.grid.negative > 0 for name, unit in network.units()}
        self._graded = {name: unit.grid.largest > 1 for name, unit in network.units()}
        self._fan_outs = {
            name: [
                _fan_outs(branch, network.wire_shape(wire)) for branch, wire in zip(layer.branches, wires, strict=True)
            ]
            for name, layer, wires in _targets(network)
        }

    def tap(self, name: str, counts: Tensor, step: int = 0) -> Tensor:
        """Add a batch of counts (N, ...); returns them as they are."""
        if isinstance(self.network.layers[name], Wiring):
            return counts  # wiring: what passes follows from the layer before it
        signed, graded = self._signed.get(name, True), self._graded.get(name, True)
        spikes, events, positive = _tally(counts, signed, graded)
        self._spikes[name] = self._spikes.get(name, 0) + spikes
        self._events[name] = self._events.get(name, 0) + events
        if signed:
            self._positive[name] = self._positive.get(name, 0) + int(positive.sum())
        return counts

    def layers(self) -> list[LayerCounts]:
        """Tallies so far, a row a layer with synapses, in order."""
        rows = []
        for name, layer in self.network.layers.items():
            if isinstance(layer, Encoder | SpikingLayer | Readout):
                rows.append(self._row(name, layer))
        return rows

    def _passed(self, of: Literal["spikes", "events"], wire: str) -> Tensor:
        """Spikes or events at each position of a wire, int64.

        Through wiring, such as a sum-pool, each spike passes by itself: those of opposite sign do not cancel.
        """
        layer = self.network.layers[wire]
        if isinstance(layer, Wiring):
            source = self._passed(of, self.network.nodes[wire].inputs[0])
            return layer(source[None])[0].to(torch.int64)  # type: ignore[no-any-return]
        tally = self._spikes if of == "spikes" else self._events
        return tally[wire] if wire in tally else torch.zeros(self.network.wire_shape(wire), dtype=torch.int64)

    def _row(self, name: str, layer: Encoder | SpikingLayer | Readout) -> LayerCounts:
        node = self.network.nodes[name]
        kind: Literal["encoder", "spiking", "readout"] = "spiking"
        levels = 1 if isinstance(layer, Readout) else layer.grid.levels
        sops = dict.fromkeys(CONVENTIONS, 0)
        if isinstance(layer, Encoder | Readout):
            kind = "encoder" if isinstance(layer, Encoder) else "readout"
        if not isinstance(layer, Encoder):
            for fan_outs, wire in zip(self._fan_outs[name], node.inputs, strict=True):
                for key, convention in CONVENTIONS.items():
                    if kind == "spiking" or convention.readout:
                        total = int((self._passed(convention.of, wire) * fan_outs[convention.zeros]).sum())
                        sops[key] += convention.factor(levels) * total
        spikes = int(self._spikes[name].sum()) if name in self._spikes else 0
        positive = self._positive.get(name, spikes)
        events = int(self._events[name].sum()) if name in self._events else 0
        units = torch.Size(node.shape).numel()
        macs = _encoder_macs(layer, self.network.header.shape) if isinstance(layer, Encoder) else 0
        macs += sum(_macs(branch, node.shape) for branch in layer.branches if kind != "encoder")
        return LayerCounts(name, kind, units, levels, positive, spikes - positive, events, sops, macs)


def _targets(network: SpikingNetwork) -> list[tuple[str, SpikingLayer | Readout, tuple[str, ...]]]:
    return [
        (name, layer, network.nodes[name].inputs)
        for name, layer in network.layers.items()
        if isinstance(layer, SpikingLayer | Readout)
    ]


def _fan_outs(branch: Branch, shape: tuple[int, ...]) -> dict[bool, Tensor]:
    """Fan-out map of a branch, with (True) and without (False) connections of weight 0."""
    return {zeros: branch.synapse.fan_out(shape, zeros).cpu() for zeros in (False, True)}


def _macs(branch: Branch, shape: tuple[int, ...]) -> int:
    positions = torch.Size(shape[1:]).numel()
    return branch.synapse.out_channels * positions * branch.synapse.fan_in


def _encoder_macs(encoder: Encoder, shape: tuple[int, ...]) -> int:
    """MACs of each of the encoder's stages, at the shape it works on."""
    macs = 0
    for stage in encoder.stages:
        if stage.branch is not None:
            shape = stage.branch.synapse.out_shape(shape)
            macs += _macs(stage.branch, shape)
        elif stage.flatten:
            shape = (torch.Size(shape).numel(),)
    return macs


def _tally(counts: Tensor, signed: bool, graded: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the batch at each position: |count|, counts other than 0, and counts above 0; int64 on the CPU.

    The batch is read once, a part at a time that stays in the cache, in the order it lies in memory; sums
    are products with ones. float32 adds integers exactly below 2^24, more than any batch of units can reach.
    """
    last = counts.ndim == 4 and counts.is_contiguous(memory_format=torch.channels_last)
    rows = counts.permute(0, 2, 3, 1) if last else counts
    flat = rows.reshape(len(rows), -1)
    totals = torch.zeros(3, flat.shape[1], device=flat.device)
    part = max(1, PART // flat.shape[1])
    ones = torch.ones(part, device=flat.device)
    with exact_arithmetic(flat.device):
        for first in range(0, len(flat), part):
            some = flat[first : first + part].float()
            one, size = ones[: len(some)], some.abs() if signed else some
            totals[0].addmv_(size.T, one)
            if graded:
                totals[1].addmv_(size.clamp(max=1).T, one)
            if signed:
                totals[2].addmv_(some.clamp(min=0).T, one)
    spikes, events, positive = totals.to("cpu", torch.int64).reshape(3, *rows.shape[1:])
    maps = (spikes, events if graded else spikes, positive)
    return maps if not last else (maps[0].permute(2, 0, 1), maps[1].permute(2, 0, 1), maps[2].permute(2, 0, 1))

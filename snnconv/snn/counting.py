"""Counters of spikes and synaptic operations: observers that own their tallies.

A counter sums, for every wire, the spikes at each position over all images; a synapse's operations
then are these sums times its fan-out map, exact integers at next to no cost.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from snnconv.snn.exact import exact_arithmetic
from snnconv.snn.layers import Branch, Encoder, Readout, SpikingLayer, Wiring
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.synapses import IdentitySynapse

PART = 2**18
"""Counts tallied at a time."""


Tally = Callable[[Tensor, bool, bool], tuple[Tensor, Tensor, Tensor]]
"""Counts (N, ...), whether they may be negative, whether they may exceed 1 -> sums over N at each position:
|count|, counts other than 0 and counts above 0, integers on the CPU. The last is read where counts may be negative."""


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

Where a signed unit is split into two neurons, each accumulates for itself: ``synops``, ``events`` and
``fanout`` count what it receives twice, ``ladder`` and ``zou2021``, which count by L, as often as before.
"""


SPIKE_RULES: dict[str, slice] = {"all": slice(None), "zou2019": slice(None, -1)}
"""Which of the layers that fire a number of spikes is summed over, by name.

``all``: every one, as in Zou et al. 2021. ``zou2019``: all but the last, as the TWBA nets of Zou et al. 2019 (ASICON)
are counted, whose 1x1 layer in front of the readout is left out.
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
        negative: Spikes below zero it sent; all those of a layer on the negative line.
        events: Counts other than 0 it sent.
        sops: Synaptic operations it received, by convention; 0 in the encoder, whose input is analog.
        macs: Multiply-accumulates of the same layer in the ANN, for one image, border included; those of a
            unit split by sign stand in its positive layer.
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
        tally: Sums up one batch of a wire; engines may bring their own.
    """

    def __init__(self, network: SpikingNetwork, tally: Tally | None = None) -> None:
        self.network = network
        self._tally = tally_dense if tally is None else tally
        self._sums: dict[str, Tensor] = {}  # spikes and events at each position: integers below 2^53 in float64
        self._positive: dict[str, int] = {}
        self._signed = {name: unit.grid.negative > 0 for name, unit in network.units()}
        self._graded = {name: unit.grid.largest > 1 for name, unit in network.units()}
        self._fan_outs = {
            name: [
                _fan_outs(branch, network.wire_shape(wire)) for branch, wire in zip(layer.branches, wires, strict=True)
            ]
            for name, layer, wires in _targets(network)
        }
        mirrored = _mirrored(network)
        self._macs = {name: 0 if name in mirrored else _layer_macs(network, name) for name in network.layers}

    def tap(self, name: str, counts: Tensor, step: int = 0) -> Tensor:
        """Add a batch of counts (N, ...); returns them as they are."""
        if isinstance(self.network.layers[name], Wiring):
            return counts  # wiring: what passes follows from the layer before it
        signed, graded = self._signed.get(name, True), self._graded.get(name, True)
        spikes, events, positive = self._tally(counts, signed, graded)
        if name not in self._sums:
            self._sums[name] = torch.zeros(2, *spikes.shape, dtype=torch.float64)
        self._sums[name][0] += spikes
        self._sums[name][1] += events
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

    def _passed(self, wire: str) -> Tensor:
        """Spikes and events at each position of a wire, float64 (2, ...).

        Through wiring, such as a sum-pool, each spike passes by itself: those of opposite sign do not cancel.
        """
        layer = self.network.layers[wire]
        if isinstance(layer, Wiring):
            sources = [self._passed(source).to(torch.int64) for source in self.network.nodes[wire].inputs]
            return layer(*sources).double()  # type: ignore[no-any-return]
        if wire not in self._sums:
            return torch.zeros(2, *self.network.wire_shape(wire), dtype=torch.float64)
        return self._sums[wire]

    def _row(self, name: str, layer: Encoder | SpikingLayer | Readout) -> LayerCounts:
        node = self.network.nodes[name]
        levels = 1 if isinstance(layer, Readout) else layer.grid.levels
        sops = dict.fromkeys(CONVENTIONS, 0)
        if not isinstance(layer, Encoder):
            totals = self._operations(name)
            for key, convention in CONVENTIONS.items():
                if isinstance(layer, SpikingLayer) or convention.readout:
                    sops[key] = convention.factor(levels) * totals[convention.of, convention.zeros]
        spikes, events = (int(total) for total in self._passed(name).reshape(2, -1).sum(1))
        positive = self._positive.get(name, spikes)
        if node.origin is not None and node.origin.side < 0:
            positive = 0
        units = torch.Size(node.shape).numel()
        return LayerCounts(
            name, _kind(layer), units, levels, positive, spikes - positive, events, sops, self._macs[name]
        )

    def _operations(self, name: str) -> dict[tuple[str, bool], int]:
        """Spikes and events times fan-out, connections of weight 0 counted or not."""
        totals = torch.zeros(2, 2, dtype=torch.float64)
        for fan_outs, wire in zip(self._fan_outs[name], self.network.nodes[name].inputs, strict=True):
            totals += self._passed(wire).reshape(2, -1) @ fan_outs
        spikes, events = ([int(number) for number in row] for row in totals)
        return dict(zip(itertools.product(("spikes", "events"), (False, True)), (*spikes, *events), strict=True))


def _kind(layer: Encoder | SpikingLayer | Readout) -> Literal["encoder", "spiking", "readout"]:
    if isinstance(layer, SpikingLayer):
        return "spiking"
    return "encoder" if isinstance(layer, Encoder) else "readout"


def _mirrored(network: SpikingNetwork) -> set[str]:
    """Layers of negative counts whose unit has a layer of positive counts, too."""
    origins = {name: node.origin for name, node in network.nodes.items() if node.origin is not None}
    positive = {(origin.module, origin.call) for origin in origins.values() if origin.side > 0}
    return {n for n, origin in origins.items() if origin.side < 0 and (origin.module, origin.call) in positive}


def _targets(network: SpikingNetwork) -> list[tuple[str, SpikingLayer | Readout, tuple[str, ...]]]:
    return [
        (name, layer, network.nodes[name].inputs)
        for name, layer in network.layers.items()
        if isinstance(layer, SpikingLayer | Readout)
    ]


def _fan_outs(branch: Branch, shape: tuple[int, ...]) -> Tensor:
    """Fan-out of a branch at each position, without and with connections of weight 0; float64 (positions, 2)."""
    maps = [branch.synapse.fan_out(shape, zeros).cpu() for zeros in (False, True)]
    return torch.stack(maps, -1).reshape(-1, 2).double()


def _layer_macs(network: SpikingNetwork, name: str) -> int:
    layer = network.layers[name]
    if isinstance(layer, Encoder):
        return _encoder_macs(layer, network.header.shape)
    if isinstance(layer, SpikingLayer | Readout):
        return sum(_macs(branch, network.nodes[name].shape) for branch in layer.branches)
    return 0


def _macs(branch: Branch, shape: tuple[int, ...]) -> int:
    positions = torch.Size(shape[1:]).numel()
    return branch.synapse.out_channels * positions * (branch.synapse.fan_in // branch.synapse.lines)


def _encoder_macs(encoder: Encoder, shape: tuple[int, ...]) -> int:
    """MACs of each of the encoder's stages, at the shape it works on; a change of sign is none."""
    macs = 0
    for stage in encoder.stages:
        if stage.branch is not None:
            shape = stage.branch.synapse.out_shape(shape)
            macs += 0 if isinstance(stage.branch.synapse, IdentitySynapse) else _macs(stage.branch, shape)
        elif stage.flatten:
            shape = (torch.Size(shape).numel(),)
    return macs


def tally_dense(counts: Tensor, signed: bool, graded: bool) -> tuple[Tensor, Tensor, Tensor]:
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

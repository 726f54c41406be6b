"""Counters of spikes and synaptic operations: observers that own their tallies.

Every wire has a fan-out map for each synapse it reaches, through pools and other wiring: how many targets a spike at
a position has. A batch's operations are its spikes, summed over the images, times that map: exact integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnconv.grids import Grid
from snnconv.processes import Group
from snnconv.snn.exact import exact_arithmetic
from snnconv.snn.layers import Branch, Encoder, Readout, SpikingLayer, Wiring
from snnconv.snn.network import Sent, SpikingNetwork, whole_count
from snnconv.snn.synapses import IdentitySynapse, LinesSynapse

Totals = NDArray[np.int64]

PART = 2**19
"""Counts tallied at a time."""

MOST_IN_BYTES = 127
"""Largest |count| that is added up in bytes."""


Tally = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]
"""Counts (N, ...), maps int32 (K, ...) of their positions, and the smallest and largest count there may be
-> int64 (3, K) on the CPU: for each map the sum over images and positions of |count| * map, [count != 0] * map and
max(count, 0) * map."""


@dataclass(frozen=True)
class Convention:
    """A way to count synaptic operations (SOPs) of a layer from the counts that come in.

    Attributes:
        of: What is multiplied by the fan-out: ``spikes`` (sum of |count|) or ``events`` (counts other than 0).
        zeros: Whether connections of weight 0 count.
        factor: What the sum is multiplied by, given the layer's own L; over time by nothing, see below.
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

Over time a unit is one neuron, not L, and no sum is multiplied: ``ladder`` is then ``synops``, and ``zou2021`` is
``fanout`` without the readout, which is what the programs of Zou et al. 2023, which run over time, count.
"""


SPIKE_RULES: dict[str, slice] = {"all": slice(None), "zou2019": slice(None, -1)}
"""Which of the layers that fire a number of spikes is summed over, by name.

``all``: every one, as in Zou et al. 2021. ``zou2019``: all but the last, as the TWBA nets of Zou et al. 2019 (ASICON)
are counted, whose 1x1 layer in front of the readout is left out.
"""


@dataclass(frozen=True)
class Received:
    """What came in through one branch of a layer, summed over all images; integers.

    Attributes:
        wire: The wire.
        positions: Units or sums that it carries, of one image; the two lines of a unit split by sign are one.
        spikes: Spikes of both signs that arrived; through a sum-pool each one by itself.
        events: Counts other than 0 that arrived; through a sum-pool each one by itself.
        operations: Sum of [count != 0] times the fan-out through non-zero weights.
        macs: Multiply-accumulates of the branch in the ANN, for one image, border included.
        weighted: Whether it has weights; an addition of residuals has none.
        low: Smallest count that the wire may carry; over time the smallest net count there may be in the end.
        high: Largest count that the wire may carry; over time the largest net count there may be in the end.
        graded: Whether a count, over time that of one step, can be other than -1, 0 and 1.
    """

    wire: str
    positions: int
    spikes: int
    events: int
    operations: int
    macs: int
    weighted: bool
    low: int
    high: int
    graded: bool


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
        received: What came in, a branch; none in the encoder.
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
    received: tuple[Received, ...] = ()

    @property
    def spikes(self) -> int:
        """Spikes of both signs, never cancelling."""
        return self.positive + self.negative

    def times(self, number: int) -> LayerCounts:
        """The tallies of that many repetitions."""
        return replace(
            self,
            positive=self.positive * number,
            negative=self.negative * number,
            events=self.events * number,
            sops={name: value * number for name, value in self.sops.items()},
            received=tuple(
                replace(
                    branch,
                    spikes=branch.spikes * number,
                    events=branch.events * number,
                    operations=branch.operations * number,
                )
                for branch in self.received
            ),
        )


@dataclass(frozen=True)
class _Source:
    """A layer whose spikes reach a branch, and the columns of its maps for this branch."""

    sender: str
    arrivals: int
    fan_outs: int


class Counter:
    """Tallies of a network's wires; give ``tap`` to an engine, then read ``layers``.

    Args:
        network: The network that will run.
        tally: Sums up one batch of a wire; engines may bring their own.
        net: Over time, where a unit is one neuron that sends -1, 0 or 1 a step, the net counts that one of a grid may
            have in the end; None where units are ladders.
    """

    def __init__(self, network: SpikingNetwork, tally: Tally | None = None, net: Sent | None = None) -> None:
        self.network, self.temporal = network, net is not None
        self._net, self._sent = (whole_count, whole_count) if net is None else (net, one_spike)
        self._tally = tally_dense if tally is None else tally
        senders = [name for name, layer in network.layers.items() if not isinstance(layer, Wiring | Readout)]
        maps = {name: [torch.ones(network.nodes[name].shape, dtype=torch.int32)] for name in senders}
        self._branches: dict[str, list[tuple[Branch, str, list[_Source]]]] = {name: [] for name in network.layers}
        for name, branch, wire in _synapses(network):
            shape = network.wire_shape(wire)
            both = [branch.synapse.fan_out(shape, zeros) for zeros in (False, True)]
            sources = []
            for sender, spread in _spread(network, wire, torch.stack([*both, torch.ones_like(both[0])]).double()):
                *fan_outs, arrivals = spread.to("cpu", torch.int32)
                own = maps[sender]
                if not torch.equal(arrivals, own[0]):  # only a pool or a subsampling lets spikes arrive otherwise
                    own.append(arrivals)
                sources.append(_Source(sender, 0 if torch.equal(arrivals, own[0]) else len(own) - 1, len(own)))
                own += fan_outs
            self._branches[name].append((branch, wire, sources))
        self._maps = {name: _stacked(own).to(network.device) for name, own in maps.items()}
        self._ranges = {name: network.count_range(name, self._sent) for name in senders}
        self._places = _places(self._maps)
        self._totals: dict[int, Totals] = {}
        self._factors = self._total_factors()
        mirrored = _mirrored(network)
        self._macs = {name: 0 if name in mirrored else _layer_macs(network, name) for name in network.layers}

    def tap(self, name: str, counts: Tensor, step: int = 0) -> Tensor:
        """Add a batch of counts (N, ...); returns them as they are."""
        if name in self._maps:  # through wiring, what passes follows from the layer before it
            if step not in self._totals:
                self._totals[step] = self._none()
            own = self._totals[step][self._places[name]]
            own += self._tally(counts, self._maps[name], self._ranges[name]).numpy().ravel()
        return counts

    def merge(self, group: Group, steps: int = 1) -> None:
        """Add up the tallies of several processes over so many time steps; in every process."""
        merged = group.sum(np.stack([self._chosen(step) for step in range(steps)]))
        self._totals = dict(enumerate(merged))

    def layers(self, step: int | None = None) -> list[LayerCounts]:
        """Tallies so far, a row a layer with synapses, in order; of one time step, or of all."""
        return [
            self._row(name, layer, step)
            for name, layer in self.network.layers.items()
            if isinstance(layer, Encoder | SpikingLayer | Readout)
        ]

    def totals(self, step: int | None = None) -> tuple[int, dict[str, int]]:
        """Spikes of all units and SOPs of the spiking layers, as the sums over ``layers``, without making its rows."""
        spikes, *sops = (self._factors @ self._chosen(step)).tolist()
        return spikes, dict(zip(CONVENTIONS, sops, strict=True))

    def _total_factors(self) -> Totals:
        """How often each sum counts as a spike of a unit, and in each convention's SOPs: (1 + conventions, sums)."""
        factors = np.zeros((1 + len(CONVENTIONS), len(self._none())), dtype=np.int64)
        for name, _ in self.network.units():
            factors[0, self._places[name].start] += 1
        for name, branches in self._branches.items():
            layer = self.network.layers[name]
            for source in (source for *_, sources in branches for source in sources):
                place, number = self._places[source.sender].start, len(self._maps[source.sender])
                for row, convention in enumerate(CONVENTIONS.values(), start=1):
                    if isinstance(layer, SpikingLayer):
                        column = place + number * int(convention.of == "events") + source.fan_outs + convention.zeros
                        factors[row, column] += self._factor(convention, layer.grid.levels)
        return factors

    def _factor(self, convention: Convention, levels: int) -> int:
        """How often a convention counts an operation of a unit."""
        return 1 if self.temporal else convention.factor(levels)

    def _none(self) -> Totals:
        """Sums of nothing: of each wire in turn its spikes, events and positive spikes against each of its maps."""
        return np.zeros(sum(3 * len(maps) for maps in self._maps.values()), dtype=np.int64)

    def _chosen(self, step: int | None) -> Totals:
        """The sums of one time step, or of all."""
        return sum((totals for at, totals in self._totals.items() if step in (None, at)), self._none())

    def _sums(self, name: str, step: int | None) -> Totals:
        """Spikes, events and positive spikes of a wire against each of its maps, int64 (3, K)."""
        return self._chosen(step)[self._places[name]].reshape(3, -1)

    def _row(self, name: str, layer: Encoder | SpikingLayer | Readout, step: int | None) -> LayerCounts:
        node = self.network.nodes[name]
        levels = 1 if isinstance(layer, Readout) else layer.grid.levels
        branches = [
            (branch, wire, self._arrived(sources, step).tolist()) for branch, wire, sources in self._branches[name]
        ]
        received = [[sum(arrived[row][column] for *_, arrived in branches) for column in (0, 1)] for row in (0, 1)]
        sops = {
            key: self._factor(convention, levels) * received[convention.of == "events"][convention.zeros]
            if isinstance(layer, SpikingLayer) or convention.readout
            else 0
            for key, convention in CONVENTIONS.items()
        }
        spikes, events, positive = (0, 0, 0) if isinstance(layer, Readout) else self._sums(name, step)[:, 0].tolist()
        if node.origin is not None and node.origin.side < 0:
            positive = 0
        units = torch.Size(node.shape).numel()
        inputs = tuple(self._received(name, *branch) for branch in branches)
        return LayerCounts(
            name, _kind(layer), units, levels, positive, spikes - positive, events, sops, self._macs[name], inputs
        )

    def _arrived(self, sources: list[_Source], step: int | None) -> Totals:
        """Rows: spikes, events; columns: times the fan-out without and with weights of 0, and as they arrive."""
        total = np.zeros((2, 3), dtype=np.int64)
        for source in sources:
            sums = self._sums(source.sender, step)[:2]
            total += sums[:, [source.fan_outs, source.fan_outs + 1, source.arrivals]]
        return total

    def _received(self, name: str, branch: Branch, wire: str, arrived: list[list[int]]) -> Received:
        low, high = self.network.count_range(wire, self._net)
        return Received(
            wire=wire,
            positions=torch.Size(self.network.wire_shape(wire)).numel() // branch.synapse.lines,
            spikes=arrived[0][2],
            events=arrived[1][2],
            operations=arrived[1][0],
            macs=_macs(branch, self.network.nodes[name].shape) if self._macs[name] else 0,
            weighted=not isinstance(branch.synapse, IdentitySynapse | LinesSynapse),
            low=low,
            high=high,
            graded=max(map(abs, self.network.count_range(wire, self._sent))) > 1,
        )


def one_spike(grid: Grid) -> tuple[int, int]:
    """What a unit sends in one step where it is one neuron over time, which may take a spike back."""
    return -1, 1


def _places(maps: Mapping[str, Tensor]) -> dict[str, slice]:
    """Where each wire's sums stand in a row of all."""
    ends = list(accumulate((3 * len(own) for own in maps.values()), initial=0))
    return {name: slice(first, last) for name, (first, last) in zip(maps, pairwise(ends), strict=True)}


def _kind(layer: Encoder | SpikingLayer | Readout) -> Literal["encoder", "spiking", "readout"]:
    if isinstance(layer, SpikingLayer):
        return "spiking"
    return "encoder" if isinstance(layer, Encoder) else "readout"


def _mirrored(network: SpikingNetwork) -> set[str]:
    """Layers of negative counts whose unit has a layer of positive counts, too."""
    origins = {name: node.origin for name, node in network.nodes.items() if node.origin is not None}
    positive = {(origin.module, origin.call) for origin in origins.values() if origin.side > 0}
    return {n for n, origin in origins.items() if origin.side < 0 and (origin.module, origin.call) in positive}


def _synapses(network: SpikingNetwork) -> Iterator[tuple[str, Branch, str]]:
    """Every layer that receives spikes, each of its branches, and the wire that this reads."""
    for name, layer in network.layers.items():
        if isinstance(layer, SpikingLayer | Readout):
            for branch, wire in zip(layer.branches, network.nodes[name].inputs, strict=True):
                yield name, branch, wire


def _spread(network: SpikingNetwork, wire: str, fan_outs: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Fan-out maps (K, ...) of a wire as those of the layers whose spikes reach it: the adjoint of the wiring between.

    Through wiring, such as a sum-pool, each spike passes by itself: those of opposite sign do not cancel.
    """
    layer = network.layers[wire]
    if not isinstance(layer, Wiring):
        yield wire, fan_outs
        return
    sources = network.nodes[wire].inputs
    with torch.enable_grad():
        inputs = [
            torch.zeros(len(fan_outs), *network.wire_shape(s), dtype=torch.float64, requires_grad=True) for s in sources
        ]
        moved = [x.to(fan_outs.device) for x in inputs]
        spread = torch.autograd.grad(layer(*moved), inputs, fan_outs)
    for source, own in zip(sources, spread, strict=True):
        yield from _spread(network, source, own.round())


def _stacked(maps: list[Tensor]) -> Tensor:
    """Maps side by side, (K, ...), channels last in memory as the counts mostly are."""
    stacked = torch.stack(maps)
    return stacked.contiguous(memory_format=torch.channels_last) if stacked.ndim == 4 else stacked


def _layer_macs(network: SpikingNetwork, name: str) -> int:
    layer = network.layers[name]
    if isinstance(layer, Encoder):
        return _encoder_macs(layer, network.header.shape)
    if isinstance(layer, SpikingLayer | Readout):
        return sum(_macs(branch, network.nodes[name].shape) for branch in layer.branches)
    return 0


def _macs(branch: Branch, shape: tuple[int, ...]) -> int:
    return branch.synapse.macs(shape)


def _encoder_macs(encoder: Encoder, shape: tuple[int, ...]) -> int:
    """MACs of each of the encoder's stages, at the shape it works on; a change of sign is none."""
    macs = 0
    for stage in encoder.stages:
        if stage.branch is not None:
            shape = stage.branch.synapse.out_shape(shape)
            macs += 0 if isinstance(stage.branch.synapse, IdentitySynapse) else _macs(stage.branch, shape)
        elif stage.flatten:
            shape = (torch.Size(shape).numel(),)
        elif stage.shape is not None:
            shape = stage.shape
    return macs


def tally_dense(counts: Tensor, maps: Tensor, within: tuple[int, int]) -> Tensor:
    """As ``Tally`` says, on any device: sums over the images, then products with the maps.

    Both are exact: float32 adds integers below 2^24, more than any batch of units can reach, and float64 below 2^53.
    """
    signed, largest = within[0] < 0, max(1, within[1], -within[0])
    last = counts.ndim == 4 and counts.is_contiguous(memory_format=torch.channels_last)
    flat, weights = ((x.permute(0, 2, 3, 1) if last else x).reshape(len(x), -1) for x in (counts, maps))
    with exact_arithmetic(flat.device):
        if flat.device.type == "cpu" and largest <= MOST_IN_BYTES:
            sums = _byte_sums(flat.to(torch.int8), largest, signed)
        else:
            sums = _float_sums(flat, largest, signed)
        spikes, events, positive = sums
        wanted = torch.stack([spikes, events if largest > 1 else spikes, positive if signed else spikes])
        return (wanted.double() @ weights.double().T).to("cpu", torch.int64)


def _byte_sums(counts: Tensor, largest: int, signed: bool) -> Tensor:
    """Sums over images, (3, units): |count|, [count != 0] where counts exceed 1, max(count, 0) where they have signs.

    Images are added up in bytes, as many at a time as a byte can hold and the cache, too.
    """
    rows = counts.numpy()
    sums = np.zeros((3, rows.shape[1]), dtype=np.int32)
    part = max(1, min(255 // largest, PART // rows.shape[1]))
    for first in range(0, len(rows), part):
        some = rows[first : first + part]
        sums[0] += _added(np.abs(some) if signed else some)
        if largest > 1:
            sums[1] += _added(some != 0)
        if signed:
            sums[2] += _added(np.maximum(some, 0))
    return torch.from_numpy(sums)


def _added(rows: NDArray[np.int8] | NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Sum over the rows, in bytes."""
    added: NDArray[np.uint8] = np.add.reduce(rows.view(np.uint8), axis=0, dtype=np.uint8)
    return added


def _float_sums(counts: Tensor, largest: int, signed: bool) -> Tensor:
    """As ``_byte_sums``, as products with ones, a part at a time that stays in the cache."""
    sums = torch.zeros(3, counts.shape[1], device=counts.device)
    part = max(1, PART // counts.shape[1])
    ones = torch.ones(part, device=counts.device)
    for first in range(0, len(counts), part):
        some = counts[first : first + part].float()
        one, size = ones[: len(some)], some.abs() if signed else some
        sums[0].addmv_(size.T, one)
        if largest > 1:
            sums[1].addmv_(size.clamp(max=1).T, one)
        if signed:
            sums[2].addmv_(some.clamp(min=0).T, one)
    return sums

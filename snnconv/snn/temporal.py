"""A spiking network over time: every unit a neuron with a state, every wire a train of spikes.

A train is int8 (T, N, C, ...), one spike of -1, 0 or +1 a unit and step. Within a step a spike reaches the next layer
at once, so a layer can be run over several steps before the next one: its synapses see them as one batch, its neurons
one after another. How many steps are taken together changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from snnconv.errors import ConfigError
from snnconv.grids import MAX_LEVELS, Grid
from snnconv.snn.exact import exact_arithmetic, exact_dtype
from snnconv.snn.layers import Encoder, MaxPool2d, Readout, SpikingLayer, channelwise
from snnconv.snn.network import INPUT, SpikingNetwork, Tap
from snnconv.snn.neurons.registry import Membrane, find_neuron, steps_of
from snnconv.snn.neurons.running import RunningCount, RunningMax
from snnconv.snn.neurons.slots import SlotNeuron, thermometer
from snnconv.snn.schedule import schedule_of
from snnconv.snn.thresholds import continue_thresholds, value_thresholds

Move = Callable[[str, Tensor], Tensor]
"""Called with a layer's name and its train (T, N, ...) over all steps; returns the train that travels on."""

TOGETHER = 2**22
"""Units of a layer, over images and steps, that are worked on together."""
MEMORY = 2**29
"""Bytes that trains and states may take together."""
STATE = 16
"""Bytes of a unit's state and what an observer keeps of it: potential, counts, code."""
TRAIN = 8
"""Bytes of a unit and step where all steps are run together: currents and spikes."""


class TemporalNetwork(nn.Module):
    """A network whose units are neurons of the registry, over T steps.

    SpikingJelly's ``functional.reset_net`` and its monitors work on it; the shells are in ``neurons``, by layer.

    Args:
        network: Synapses, thresholds and wiring; shared, not copied.
        neuron: Name in ``NEURONS``, other than ``ladder``, which engines run.
        steps: T; None takes what its slots need, or as many as let followers settle.
        together: Steps that are run together; None takes a number that fits into the cache.
        shortcut: Let a layer whose input is complete before it fires read counts in place of trains: one pass of its
            synapses, the same spikes. Its shell is then not called.

    Raises:
        ConfigError: the neuron or the number of steps does not suit the network.
    """

    def __init__(
        self,
        network: SpikingNetwork,
        neuron: str,
        steps: int | None = None,
        together: int | None = None,
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.schedule = find_neuron(neuron), schedule_of(network)
        self._shared = (network,)  # no sub-module: its own shells keep their step mode, and it stays where it is
        self.neuron, self.shortcut = neuron, shortcut
        self.steps = steps_of(neuron, steps, self.schedule.steps, self.schedule.settling_steps)
        self.neurons = nn.ModuleDict()
        for name, layer in network.layers.items():
            if isinstance(layer, Encoder | SpikingLayer):
                self.model.require(neuron, name, layer.grid)
                self.neurons[name] = self._unit(name, layer)
            elif isinstance(layer, MaxPool2d):
                self.neurons[name] = RunningMax(layer)
            elif isinstance(layer, Readout):
                self._counts = nn.ModuleList(RunningCount() for _ in layer.branches)
        wires = [wire for wire, layer in network.layers.items() if not isinstance(layer, Readout)]
        self._levels = {wire: _wire_levels(network, wire) for wire in wires} if self.model.rate else {}
        functional.set_step_mode(self, "m")
        sizes = [torch.Size(node.shape).numel() for node in network.nodes.values()]
        self._widest, self._units, self._together = max(sizes), sum(sizes), together
        # how neurons with integer potentials send a constant; what lies above the grid is no count of the encoder's
        self._thermometer = shortcut and not self.model.rate and self.model.clipped
        last = {wire: name for name, node in network.nodes.items() for wire in node.inputs if wire != INPUT}
        self._done_after = {name: [wire for wire, reader in last.items() if reader == name] for name in network.nodes}

    @property
    def network(self) -> SpikingNetwork:
        """Whose synapses, thresholds and wiring these are."""
        return self._shared[0]

    @property
    def latency_steps(self) -> int:
        """Steps until the result is there on hardware on which a spike takes one step to the next layer.

        T + depth; slots hold that delay already.
        """
        return self.steps + (0 if self.model.schedule == "slots" else self.schedule.depth)

    def net_range(self, grid: Grid) -> tuple[int, int]:
        """Smallest and largest net count that a unit of a grid may have in the end, a spike a step."""
        if self.model.rate:
            return 0, self.steps
        positive = grid.positive if self.model.clipped else max(grid.positive, MAX_LEVELS)
        return -min(grid.negative, self.steps), min(positive, self.steps)

    @property
    def most_images(self) -> int:
        """Images that may be run at a time in bounded memory."""
        return max(1, MEMORY // (STATE * self._units + TRAIN * self.steps * self._widest))

    @torch.no_grad()
    def forward(self, x: Tensor, taps: Sequence[Tap] = (), move: Move | None = None) -> Tensor:
        """Logits after every step, float64 (T, N, classes), of analog inputs (N, C, H, W).

        Args:
            x: Preprocessed images; constant over the steps.
            taps: Called in order on what every layer but the readout sends, step by step.
            move: Called before them on each whole train, so that all steps are run together.
        """
        self.network.require_shape(x)
        functional.reset_net(self)
        analog = {name: self._analog(name, x) for name in self.network.encoders}
        together = self.steps if move is not None else self._together or self._fitting(len(x))
        chunks = [range(first, min(first + together, self.steps)) for first in range(0, self.steps, together)]
        logits = torch.cat([self._advance(analog, chunk, taps, move) for chunk in chunks])
        functional.reset_net(self)
        return logits

    def _fitting(self, images: int) -> int:
        """Steps that are run together: all in slots, else as many as stay in the cache."""
        return self.steps if self.model.schedule == "slots" else max(1, TOGETHER // (images * self._widest))

    def _advance(self, analog: dict[str, Tensor], steps: range, taps: Sequence[Tap], move: Move | None) -> Tensor:
        """Run some steps; logits after each of them."""
        trains: dict[str, Tensor] = {}
        for name, layer in self.network.layers.items():
            incoming = [trains[wire] for wire in self.network.nodes[name].inputs if wire != INPUT]
            if isinstance(layer, Readout):
                return self._read(layer, name, incoming, steps)
            if isinstance(layer, Encoder):
                sent = self._encode(name, analog[name], steps)
            elif isinstance(layer, SpikingLayer):
                sent = self._fire(name, layer, incoming, steps)
            elif isinstance(layer, MaxPool2d):
                sent = self.neurons[name](incoming[0])
            else:
                sent = _as_batch(layer, incoming)
            trains[name] = _tapped(name, sent if move is None else move(name, sent), steps, taps)
            for wire in self._done_after[name]:
                del trains[wire]
        raise AssertionError("unreachable: a network ends in a readout")

    def _analog(self, name: str, x: Tensor) -> Tensor:
        """What an encoder knows from step 0 on: its value, or its count where that is all that matters."""
        encoder = cast(Encoder, self.network.layers[name])
        value = encoder.value(x)
        return encoder.decide(value) if self._thermometer else value

    def _encode(self, name: str, analog: Tensor, steps: range) -> Tensor:
        """Spikes of an encoder, whose value is its current at every step (rates) or arrives at step 0 and stays."""
        if self._thermometer:
            return thermometer(analog, steps)
        neuron = self.neurons[name]
        if self.model.rate:
            return cast(Tensor, neuron(analog.expand(len(steps), *analog.shape)))
        currents = torch.zeros(len(steps), *analog.shape, dtype=analog.dtype, device=analog.device)
        if steps.start == 0:
            currents[0] = analog
        return cast(Tensor, neuron(currents))

    def _fire(self, name: str, layer: SpikingLayer, incoming: list[Tensor], steps: range) -> Tensor:
        """Spikes of a spiking layer."""
        neuron = self.neurons[name]
        if isinstance(neuron, SlotNeuron) and self._complete(neuron, incoming, steps):
            counts = [train.sum(0, dtype=torch.float32) for train in incoming]
            if self._within_grids(name, counts):
                return thermometer(layer(*counts), range(-neuron.first, self.steps - neuron.first))
        if self.model.rate:
            levels = [self._levels[wire] for wire in self.network.nodes[name].inputs]
            return cast(Tensor, neuron(_as_batch(lambda *spikes: rate_current(layer, levels, spikes), incoming)))
        return cast(Tensor, neuron(_as_batch(layer.current, incoming)))

    def _complete(self, neuron: SlotNeuron, incoming: list[Tensor], steps: range) -> bool:
        """Whether everything a layer will ever receive is there before its slot's first spike is decided."""
        complete = self.shortcut and len(steps) == self.steps
        return complete and not any(bool(train[neuron.first + 1 :].any()) for train in incoming)

    def _within_grids(self, name: str, counts: list[Tensor]) -> bool:
        """Whether a layer receives what a ladder could, for which its own thresholds were made; noise may add more."""
        ranges = [self.network.count_range(wire) for wire in self.network.nodes[name].inputs]
        ends = [count.aminmax() for count in counts]
        return all(low <= int(own.min) and int(own.max) <= high for own, (low, high) in zip(ends, ranges, strict=True))

    def _read(self, layer: Readout, name: str, incoming: list[Tensor], steps: range) -> Tensor:
        """Logits after each step, from the net counts up to there."""
        running = [count(train) for count, train in zip(self._counts, incoming, strict=True)]
        levels = [self._levels.get(wire, 1) for wire in self.network.nodes[name].inputs]
        logits = []
        for place, step in enumerate(steps):
            counts = [count[place].double() for count in running]
            if self.model.rate:
                counts = [count * own / (step + 1) for count, own in zip(counts, levels, strict=True)]
            logits.append(layer(*counts))
        return torch.stack(logits)

    def _unit(self, name: str, layer: Encoder | SpikingLayer) -> nn.Module:
        """The shell of one layer's neurons."""
        make, first = self.model.make, self.schedule.first(name)
        assert make is not None
        thresholds = self._thresholds(name, layer)
        if isinstance(layer, Encoder):
            return cast(nn.Module, make(Membrane(layer.grid, thresholds, None, torch.float64, first)))
        several = len(layer.branches) > 1
        constant = layer.constant if several else None
        dtype = _state_dtype(name, layer.reach * self.steps, several)
        return cast(nn.Module, make(Membrane(layer.grid, thresholds, constant, dtype, first)))

    def _thresholds(self, name: str, layer: Encoder | SpikingLayer) -> Tensor:
        """Those that one layer's neurons compare with, (levels, C), beyond the top of the grid if nothing clips.

        They hold beyond the ladder's reach, where noise can lead: spikes too many, or too few of those taken back.
        """
        grid = layer.grid
        levels = grid.levels if self.model.clipped else max(grid.levels, min(self.steps, MAX_LEVELS))
        if isinstance(layer, Encoder):
            channels = self.network.nodes[name].shape[0]
            rows = value_thresholds(grid.continued(levels), channels).to(self.network.device)
        else:
            rows = continue_thresholds(layer.neuron.thresholds, layer.reach, *layer.line, grid, levels)
        follows = self.model.schedule == "free" and not self.model.rate and not grid.negative
        return rows[: self.steps] if follows else rows  # at a spike a step no count goes past T


def rate_current(layer: SpikingLayer, levels: Sequence[int], spikes: Sequence[Tensor]) -> Tensor:
    """What one step's spikes say of a unit's value, float64, where a spike a step means the whole of its sender:

        I = sum_b scale_b * L_b * U_b / divisor_b + offset_b

    Its mean over T steps is the value z that the counts count * L / T stand for.

    Args:
        layer: A spiking layer.
        levels: L of the sender, a branch.
        spikes: (N, C, ...), a branch.
    """
    parts = []
    with exact_arithmetic(spikes[0].device):
        for branch, own, x, reach in zip(layer.branches, levels, spikes, layer.reaches, strict=True):
            U = branch.synapse.potential(x.to(exact_dtype(reach))).double()
            parts.append(channelwise(branch.scale * own, U) * U / branch.divisor + channelwise(branch.offset, U))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _state_dtype(name: str, reach: int, several: bool) -> torch.dtype:
    """In what potentials up to ``reach`` are exact: the narrowest float, else int64, which sums of branches take.

    Raises:
        ConfigError: not even there.
    """
    if reach >= 2**63:
        raise ConfigError(
            f"potentials of layer {name} may take {reach.bit_length()} bits over so many steps, and 63 is the most: "
            "take fewer --steps"
        )
    return torch.int64 if several or reach >= 2**53 else exact_dtype(reach)


def _as_batch(layer: Callable[..., Tensor], trains: Sequence[Tensor]) -> Tensor:
    """Apply a map without a state to every step of trains (T, N, ...) at once."""
    sent = layer(*(train.flatten(0, 1) for train in trains))
    return sent.reshape(*trains[0].shape[:2], *sent.shape[1:])


def _tapped(name: str, train: Tensor, steps: range, taps: Sequence[Tap]) -> Tensor:
    """A train after the taps, each called step by step."""
    sent = list(train)
    for tap in taps:
        sent = [tap(name, counts, step) for counts, step in zip(sent, steps, strict=True)]
    unchanged = all(after is before for after, before in zip(sent, train, strict=True))
    return train if unchanged else torch.stack(sent)


def _wire_levels(network: SpikingNetwork, wire: str) -> int:
    """L of the units whose spikes a wire carries.

    Raises:
        ConfigError: they differ.
    """
    layer = network.layers[wire]
    if isinstance(layer, Encoder | SpikingLayer):
        return layer.grid.levels
    levels = {_wire_levels(network, source) for source in network.nodes[wire].inputs}
    if len(levels) > 1:
        raise ConfigError(
            f"layer {wire} puts spikes of units with {' and '.join(map(str, sorted(levels)))} levels on one wire, "
            "where a rate means nothing: take st-bif or integrate-then-fire"
        )
    return max(levels)

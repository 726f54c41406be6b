"""What hardware must hold of a network: proven ranges and bit widths, fan-in and fan-out, layer by layer.

A count on a wire lies in lo .. hi with lo <= 0 <= hi, whatever the image. A sum of weighted counts therefore lies in

    sum_j min(w_j lo, w_j hi)  ..  sum_j max(w_j lo, w_j hi)

and so does every partial sum on the way there, in any order: an accumulator of that width never overflows. A potential
of several branches starts at its constant. Where all the weights of a kernel meet counts of their own, as inside a
convolution's border, some counts reach each end.

A unit of L levels is L threshold neurons that share synapses and potential; connections are counted between units, each
carrying a count. Where every threshold neuron has an axon and synapses of its own, they are L times as many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from snnconv.errors import ConfigError
from snnconv.snn.layers import Encoder, MaxPool2d, Readout, SpikingLayer, Wiring
from snnconv.snn.network import INPUT, SpikingNetwork
from snnconv.snn.synapses import Synapse

LIMITS = ("fan_in", "fan_out", "neurons", "weight_bits", "potential_bits", "threshold_bits")
"""What a core may limit: inputs and targets of a neuron, neurons a core, bits of what it stores."""


@dataclass(frozen=True)
class Range:
    """Integers low .. high, and the fewest bits that hold them all: two's complement where low is negative.

    Attributes:
        low: Smallest.
        high: Largest.
    """

    low: int
    high: int

    @property
    def bits(self) -> int:
        """Width of a register for them, at least 1."""
        if self.low >= 0:
            return max(1, self.high.bit_length())
        return 1 + max((-self.low - 1).bit_length(), max(self.high, 0).bit_length())

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"low": self.low, "high": self.high, "bits": self.bits, "signed": self.low < 0}


@dataclass(frozen=True)
class Footprint:
    """What one layer takes.

    Attributes:
        name: The layer.
        kind: ``encoder`` and ``readout`` compute with floats, outside the cores; ``spiking`` are the integers.
        units: Units of one image.
        levels: L of the units.
        weights: Stored weights, zeros included.
        nonzero: Those that are not 0.
        fan_in: Connections into one unit, weights of 0 included, each unit of a sum-pool's window by itself; the
            largest. Of an encoder the inputs of its widest layer.
        fan_in_nonzero: The same through weights that are not 0.
        fan_out: Connections out of one unit, weights of 0 included, through pools too; the largest.
        fan_out_nonzero: The same through weights that are not 0.
        counts: What a unit sends.
        weight: Weight codes; None where they are floats.
        sums: Weighted sum of each incoming branch, before it is multiplied.
        multiplier: What the sums of several branches are multiplied by; None for one branch.
        potential: What is compared with the thresholds, and its partial sums from the constant on.
        threshold: The thresholds as they are derived.
        bound: Largest rounding of a potential, in units of the value: of several branches, and of weights that are
            rounded floats; else 0.
    """

    name: str
    kind: Literal["encoder", "spiking", "readout"]
    units: int
    levels: int
    weights: int
    nonzero: int
    fan_in: int
    fan_in_nonzero: int
    fan_out: int
    fan_out_nonzero: int
    counts: Range | None = None
    weight: Range | None = None
    sums: tuple[Range, ...] = ()
    multiplier: Range | None = None
    potential: Range | None = None
    threshold: Range | None = None
    bound: float = 0.0

    @property
    def neurons(self) -> int:
        """Threshold neurons: L a unit."""
        return self.units * self.levels

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; every range with its bits."""
        plain: dict[str, Any] = {"neurons": self.neurons}
        for key in self.__dataclass_fields__:
            value = getattr(self, key)
            if isinstance(value, tuple):
                value = [part.to_dict() for part in value]
            plain[key] = value.to_dict() if isinstance(value, Range) else value
        return plain


@dataclass(frozen=True)
class Core:
    """Limits of one core of a chip; None where it has none.

    Attributes:
        fan_in: Inputs of a neuron.
        fan_out: Targets of a neuron.
        neurons: Neurons a core holds.
        weight_bits: Bits of a weight.
        potential_bits: Bits of a potential.
        threshold_bits: Bits of a threshold.
    """

    fan_in: int | None = None
    fan_out: int | None = None
    neurons: int | None = None
    weight_bits: int | None = None
    potential_bits: int | None = None
    threshold_bits: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if value < 1:
                raise ConfigError(f"core limit {name} (= {value}) must be a whole number above 0")

    @classmethod
    def parse(cls, text: str) -> Core:
        """Read limits such as ``fan_in=256,neurons=1024,weight_bits=2``.

        Raises:
            ConfigError: an unknown limit, one given twice, or no whole number above 0.
        """
        limits: dict[str, int] = {}
        for part in text.split(","):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in LIMITS:
                raise ConfigError(f"core limit {name!r} is unknown: {', '.join(LIMITS)} are known, as in fan_in=256")
            if name in limits:
                raise ConfigError(f"core limit {name} is given twice")
            if not value.isascii() or not value.isdigit():
                raise ConfigError(f"core limit {name} (= {value!r}) must be a whole number above 0")
            limits[name] = int(value)
        return cls(**limits)

    def exceeded(self, layer: Footprint) -> list[str]:
        """One phrase for each limit that a spiking layer exceeds; of ``neurons`` it may take several cores."""
        needs = {
            "fan_in": layer.fan_in,
            "fan_out": layer.fan_out,
            "weight_bits": layer.weight and layer.weight.bits,
            "potential_bits": layer.potential and layer.potential.bits,
            "threshold_bits": layer.threshold and layer.threshold.bits,
        }
        found = []
        for name, need in needs.items():
            limit = getattr(self, name)
            if need is not None and limit is not None and need > limit:
                found.append(f"{name} {need:,} exceeds {limit:,}")
        return found

    def cores(self, layer: Footprint) -> int | None:
        """Cores that the layer's neurons fill, by their number alone; None without that limit."""
        return None if self.neurons is None else -(-layer.neurons // self.neurons)

    def to_dict(self) -> dict[str, int]:
        """Plain values of the limits there are."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Fit:
    """How a network's spiking layers fit onto cores.

    Attributes:
        core: The limits.
        exceeded: For each layer that does not fit, what it exceeds.
        cores: For each layer the cores it fills; empty without a limit of neurons.
    """

    core: Core
    exceeded: dict[str, list[str]] = field(default_factory=dict)
    cores: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "limits": self.core.to_dict(),
            "fits": not self.exceeded,
            "exceeded": self.exceeded,
            "cores": self.cores,
            "total_cores": sum(self.cores.values()) if self.cores else None,
        }


def fit(footprints: list[Footprint], core: Core) -> Fit:
    """Hold the spiking layers against a core's limits; encoder and readout, which are float, stay outside."""
    found = Fit(core)
    for layer in footprints:
        if layer.kind == "spiking":
            if phrases := core.exceeded(layer):
                found.exceeded[layer.name] = phrases
            cores = core.cores(layer)
            if cores is not None:
                found.cores[layer.name] = cores
    return found


def footprints(network: SpikingNetwork) -> list[Footprint]:
    """What each layer with synapses takes, in order."""
    targets, through = fan_outs(network, zeros=True), fan_outs(network, zeros=False)
    sources, hearing = fan_ins(network, zeros=True), fan_ins(network, zeros=False)
    rows = []
    for name, layer in network.layers.items():
        if not isinstance(layer, Encoder | SpikingLayer | Readout):
            continue
        weights = [branch.synapse.weight for branch in layer.branches]
        grid = None if isinstance(layer, Readout) else layer.grid
        facts: dict[str, Any] = {
            "name": name,
            "kind": "encoder",
            "units": torch.Size(network.nodes[name].shape).numel(),
            "levels": 1 if grid is None else grid.levels,
            "weights": sum(weight.numel() for weight in weights),
            "nonzero": sum(int((weight != 0).sum()) for weight in weights),
            "fan_in": sources[name],
            "fan_in_nonzero": hearing[name],
            "fan_out": int(targets[name].max()) if name in targets else 0,
            "fan_out_nonzero": int(through[name].max()) if name in through else 0,
            "counts": None if grid is None else Range(-grid.negative, grid.positive),
        }
        if isinstance(layer, Readout):
            facts["kind"] = "readout"
        if isinstance(layer, SpikingLayer):
            facts |= {"kind": "spiking"} | _integers(network, name, layer)
        rows.append(Footprint(**facts))
    return rows


def sum_range(synapse: Synapse, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Smallest and largest weighted sum of counts in low .. high, with low <= 0 <= high; int64 (C_out,) each.

    Of the lines of a unit split by sign one carries a count at most, so that the worst of them counts.
    """
    weight = synapse.weight.to(torch.int64).reshape(len(synapse.weight), synapse.lines, -1)
    ends = torch.stack([weight * low, weight * high])
    return ends.amin((0, 2)).sum(1), ends.amax((0, 2)).sum(1)


def potential_range(network: SpikingNetwork, name: str, layer: SpikingLayer) -> tuple[Tensor, Tensor]:
    """Smallest and largest potential Z of each channel of a spiking layer, int64 (C,) each."""
    low, high = layer.constant.clone(), layer.constant.clone()
    wires = network.nodes[name].inputs
    for multiplier, branch, wire in zip(layer.multipliers, layer.branches, wires, strict=True):
        ends = [multiplier * end for end in sum_range(branch.synapse, *network.count_range(wire))]
        low, high = low + torch.minimum(*ends), high + torch.maximum(*ends)
    return low, high


def fan_ins(network: SpikingNetwork, zeros: bool) -> Mapping[str, int]:
    """For each layer with synapses the most connections into one of its units.

    A sum-pool passes on each unit of its window; a max pool sends one count of its own. Of an encoder it is the inputs
    of its widest layer.

    Args:
        network: The network.
        zeros: Count connections whose weight is zero, too.
    """
    sums: dict[str, Tensor] = {}  # for each value on a wire the units that it is the sum of
    found: dict[str, int] = {}
    for name, layer in network.layers.items():
        arriving = [sums[wire] for wire in network.nodes[name].inputs if wire != INPUT]
        if isinstance(layer, Wiring):
            sums[name] = layer(*arriving)
            continue
        sums[name] = torch.ones(1, *network.nodes[name].shape, dtype=torch.float64)
        if isinstance(layer, MaxPool2d):
            continue
        assert isinstance(layer, Encoder | SpikingLayer | Readout)
        synapses = [branch.synapse for branch in layer.branches]
        connected = [torch.ones_like(own.weight) if zeros else own.weight != 0 for own in synapses]
        if isinstance(layer, Encoder):
            found[name] = max((int(own.flatten(1).sum(1).max()) for own in connected), default=0)
        else:
            parts = [s.connect(x, c.double()) for s, x, c in zip(synapses, arriving, connected, strict=True)]
            found[name] = round(float(torch.stack(parts).sum(0).max()))
    return found


def fan_outs(network: SpikingNetwork, zeros: bool) -> Mapping[str, Tensor]:
    """For each layer that sends spikes the number of connections out of each of its units, int64 of its shape.

    Those of all its readers add up; through pools and other wiring a spike reaches what is behind them. Each unit in
    front of a max pool reaches all that its window's largest count does, for that may be its own; one in several
    windows reaches what is behind each of them, the sum, as in front of a sum-pool.

    Args:
        network: The network.
        zeros: Count connections whose weight is zero, too.
    """
    found = {name: torch.zeros(node.shape, dtype=torch.int64) for name, node in network.nodes.items()}
    for name, layer in reversed(list(network.layers.items())):
        wires = [wire for wire in network.nodes[name].inputs if wire != INPUT]
        if isinstance(layer, SpikingLayer | Readout):
            for branch, wire in zip(layer.branches, wires, strict=True):
                found[wire] += branch.synapse.fan_out(network.wire_shape(wire), zeros).cpu()
        elif isinstance(layer, Wiring | MaxPool2d):
            inputs = [torch.zeros(1, *network.wire_shape(wire), dtype=torch.float64) for wire in wires]
            with torch.enable_grad():
                for x in inputs:
                    x.requires_grad_()
                passed = _window_sums(layer, inputs[0]) if isinstance(layer, MaxPool2d) else layer(*inputs)
                spread = torch.autograd.grad(passed, inputs, found[name][None].double())
            for wire, own in zip(wires, spread, strict=True):
                found[wire] += own[0].round().to(torch.int64)
    return {name: own for name, own in found.items() if isinstance(network.layers[name], Encoder | SpikingLayer)}


def _integers(network: SpikingNetwork, name: str, layer: SpikingLayer) -> dict[str, Any]:
    """Ranges of a spiking layer's integers."""
    weights = [branch.synapse.weight for branch in layer.branches]
    ranges = [network.count_range(wire) for wire in network.nodes[name].inputs]
    sums = [sum_range(branch.synapse, *own) for branch, own in zip(layer.branches, ranges, strict=True)]
    low, high = potential_range(network, name, layer)
    several = len(layer.branches) > 1
    return {
        "weight": Range(min(int(w.min()) for w in weights), max(int(w.max()) for w in weights)),
        "sums": tuple(Range(int(least.min()), int(most.max())) for least, most in sums),
        "multiplier": Range(int(layer.multipliers.min()), int(layer.multipliers.max())) if several else None,
        "potential": Range(int(low.min()), int(high.max())),
        "threshold": Range(int(layer.neuron.thresholds.min()), int(layer.neuron.thresholds.max())),
        "bound": float(layer.error.max()),
    }


def _window_sums(pool: MaxPool2d, x: Tensor) -> Tensor:
    """Sum over each window of a max pool, so that every unit that the window looks at has a part in it."""
    ones = torch.ones(x.shape[1], 1, *pool.kernel, dtype=x.dtype)
    return functional.conv2d(x, ones, None, pool.stride, pool.padding, pool.dilation, groups=x.shape[1])

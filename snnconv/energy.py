"""Estimates of energy from counts: the spiking network beside ANNs of 32, of 8 and of as many bits as its own counts.

Only arithmetic is estimated, and movement of data if asked for; no chip was measured. Plain numbers in and out.

    spiking     encoder MACs * fp32 MAC + synops of the spiking layers * accumulation + synops of the readout * fp32 add
    matched     encoder MACs * fp32 MAC + MACs of the spiking layers * (multiply of b x w bits + accumulation)
                + MACs of the readout * fp32 MAC
    skipping    as matched, but only for activations and weights other than 0 (the codes', whatever neuron runs)
    int8, fp32  all MACs of the ANN * MAC of 8 bits, of 32 bits

b = ceil(log2(n + 1)) bits hold the n steps between the smallest and the largest count of a wire, w bits a weight. n is
L for a ladder; over time the net counts that there may be after T steps, which no grid that ends them lets grow with T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from snnconv.errors import ConfigError, FormatError

FP32_MAC, FP32_ADD = 4.6, 0.9
"""[pJ] a multiply (3.7) and an add (0.9) of 32-bit floats. Ref: Horowitz 2014."""
INT8_MAC, INT8_MULTIPLY = 0.23, 0.2
"""[pJ] a multiply (0.2) and an add (0.03) of 8-bit integers. Ref: Horowitz 2014."""
SRAM = 10 / 64
"""[pJ/bit] access to an SRAM of 8 KiB: 10 pJ for 64 bits. Ref: Horowitz 2014."""
LINE = (0.057, 0.064)
"""Spikes a unit and time step below which a spiking network beats the ANN of as many bits, data movement included:
5.7 % at T = 5 (version 4 of the paper), 6.4 % at T = 5..10 (versions 2 and 3).
Ref: Yan, Bai, Wong et al. 2024-2026, arXiv:2409.08290."""
HOROWITZ = "Horowitz 2014, Computing's energy problem, ISSCC, 45 nm, 0.9 V"


@dataclass(frozen=True)
class Preset:
    """What an accumulation of the spiking network costs; everything else is common to all.

    Attributes:
        accumulation: One addition to a potential [pJ].
        adder: What adds.
        bits: Potentials of so many bits, sign included, it adds without loss.
        source: Where the number is from.
    """

    accumulation: float
    adder: str
    bits: int
    source: str = HOROWITZ


PRESETS: dict[str, Preset] = {
    "45nm-int8": Preset(0.03, "8-bit integer adder", 8),
    "45nm-int32": Preset(0.1, "32-bit integer adder", 32),
    "45nm-fp32": Preset(0.9, "32-bit float adder", 25),
}
"""By name: integer adders from narrow to wide; then what most papers of the field price integer counts as, floats, in
which integers have 24 bits and sign."""
WIDEST = "45nm-int32"
"""Of the integer adders."""

SYSTEMS: dict[str, str] = {
    "spiking": "SNN",
    "skipping": "bit-matched quantized ANN, zeros skipped",
    "matched": "bit-matched quantized ANN",
    "int8": "int8 ANN",
    "fp32": "FP32 ANN",
}
"""What is compared, and its name in tables and figures."""

PARTS = ("encoder", "hidden", "readout")
"""What an estimate is the sum of."""

LADDER = "ladder"
AT_ONCE = (LADDER, "integrate-then-fire")
"""Neurons that can send L spikes and no more, however many steps the whole network takes."""


def matched_bits(levels: int) -> int:
    """ceil(log2(n + 1)): bits of the ANN whose activations take as many values as a wire has counts."""
    return math.ceil(math.log2(levels + 1))


def multiply(activation_bits: int, weight_bits: int) -> float:
    """Energy of an integer multiply [pJ]: that of 8 x 8 bits, in proportion to the product of the widths."""
    return INT8_MULTIPLY * activation_bits * weight_bits / 64


def estimate(simulation: Mapping[str, Any], preset: str = "45nm-int8", movement: bool = False) -> dict[str, Any]:
    """Energy of one image [nJ], by system and part.

    Movement: every operation fetches its operands from SRAM and nothing is kept near the adder, but that an ANN
    writes each of its sums once. A spike is written and read as an address of ceil(log2(units)) bits; an
    accumulation reads a weight, and reads and writes a potential; a MAC reads a weight and an activation.

    Args:
        simulation: A simulation's result with its ``operations``.
        preset: Name in ``PRESETS``.
        movement: Whether data movement is estimated, too.

    Returns:
        A row a system: its parts, ``total``, ``movement`` (how much of it moves data), and ``ratio``, the spiking
        network's total divided by its own.

    Raises:
        ConfigError: no such preset.
        FormatError: a result of an earlier release.
    """
    if preset not in PRESETS:
        raise ConfigError(f"no energy preset {preset!r}: choose from {', '.join(PRESETS)}")
    layers = _layers(simulation)
    add = PRESETS[preset].accumulation
    systems = {name: dict.fromkeys((*PARTS, "total", "movement"), 0.0) for name in SYSTEMS}
    for layer in layers:
        for name, (part, compute, moved) in _costs(layer, add).items():
            moving = moved * SRAM / 1000 if movement else 0.0
            systems[name][part] += compute / 1000 + moving
            systems[name]["total"] += compute / 1000 + moving
            systems[name]["movement"] += moving
    own = systems["spiking"]["total"]
    return {
        name: parts | {"ratio": own / parts["total"] if parts["total"] else None} for name, parts in systems.items()
    }


def potential_bits(simulation: Mapping[str, Any]) -> int:
    """Bits of the widest potential of the spiking layers, sign included.

    Raises:
        FormatError: a result of an earlier release.
    """
    return max((int(layer["potential_bits"]) for layer in _layers(simulation) if layer["kind"] == "spiking"), default=0)


def fitting(bits: int) -> str:
    """Name of the first preset whose adder holds potentials of so many bits; of the widest where none does."""
    return next((name for name, preset in PRESETS.items() if preset.bits >= bits), WIDEST)


def narrowness(bits: int, preset: str) -> str | None:
    """What is to be said of a preset whose adder does not hold potentials of so many bits; None of others."""
    own = PRESETS[preset]
    return f"potentials of {bits} bits: the {own.adder} priced here is too narrow" if own.bits < bits else None


def spike_rate(simulation: Mapping[str, Any]) -> float:
    """Spikes a unit and time step, over all layers that fire; a ladder's L threshold neurons stand for L steps."""
    firing = [layer for layer in simulation["layers"] if layer["kind"] != "readout"]
    slots = sum(layer["units"] * window(simulation, layer["levels"]) for layer in firing)
    return float(sum(layer["spikes"] for layer in firing)) / slots if slots else 0.0


def estimates(simulation: Mapping[str, Any]) -> dict[str, Any]:
    """All presets, without and with data movement, as plain values with their units and sources, for JSON."""
    bits = potential_bits(simulation)
    return {
        "label": "estimate from counts, not measured",
        "unit": "nJ an image",
        "potential_bits": bits,
        "spike_rate": spike_rate(simulation),
        "line": list(LINE),
        "line_source": "arXiv:2409.08290, spikes a unit and step below which an SNN beats the bit-matched ANN",
        "matched_bits": {
            layer["name"]: matched_bits(layer["incoming_levels"])
            for layer in _layers(simulation)
            if layer["kind"] != "encoder"
        },
        "presets": {
            name: asdict(preset)
            | {
                "unit": "pJ an accumulation",
                "remark": narrowness(bits, name),
                "arithmetic": estimate(simulation, name),
                "with_movement": estimate(simulation, name, movement=True),
            }
            for name, preset in PRESETS.items()
        },
    }


def window(simulation: Mapping[str, Any], levels: int) -> int:
    """Spikes that a unit of so many levels can send for one image: L at once or in its slot; else one a step."""
    return levels if simulation.get("neuron", LADDER) in AT_ONCE else int(simulation["steps"])


def _layers(simulation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a simulation says of each layer, its operations beside its counts; and the ANN's operations on codes.

    A ladder's counts are the codes; what other neurons send is counted apart.
    """
    try:
        operations = {layer["name"]: layer for layer in simulation["operations"]["layers"]}
        ladder = simulation.get("neuron", LADDER) == LADDER
        return [
            dict(layer)
            | operations[layer["name"]]
            | {"code_events": layer["sops"]["events"] if ladder else layer["code_events"]}
            for layer in simulation["layers"]
        ]
    except (KeyError, TypeError) as error:
        raise FormatError(
            f"a simulation result has no {error} to estimate energy from: run `snnconv simulate` again"
        ) from error


def _costs(layer: Mapping[str, Any], add: float) -> dict[str, tuple[str, float, float]]:
    """For each system the layer's part, its arithmetic [pJ] and the bits it moves."""
    macs, units, kind = layer["macs"], layer["units"], layer["kind"]
    synops = layer["sops"]["synops"]
    events = layer["code_events"] if macs else 0  # the other sign's layer of a split unit has the ANN's share
    part = "hidden" if kind == "spiking" else kind
    sent = 2 * layer["spikes"] * max(1, math.ceil(math.log2(units)))
    costs = {
        "int8": (part, macs * INT8_MAC, macs * 16 + units * 8),
        "fp32": (part, macs * FP32_MAC, macs * 64 + units * 32),
    }
    if kind == "encoder":
        analog = (part, macs * FP32_MAC, macs * 64 + units * 32)
        return costs | {"spiking": (part, analog[1], analog[2] + sent), "matched": analog, "skipping": analog}
    bits, weight, potential = matched_bits(layer["incoming_levels"]), layer["weight_bits"], layer["potential_bits"]
    if kind == "readout":
        accumulate, mac = FP32_ADD, FP32_MAC  # its weights are floats
    else:
        accumulate, mac = add, multiply(bits, weight) + add
    per_mac, per_unit = weight + bits, units * bits
    return costs | {
        "spiking": (part, synops * accumulate, synops * (weight + 2 * potential) + sent),
        "matched": (part, macs * mac, macs * per_mac + per_unit),
        "skipping": (part, events * mac, events * per_mac + per_unit),
    }

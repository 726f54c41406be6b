"""What follows from a counter's rows and the network: further conventions, updates, memory, and what was left out.

Nothing here looks at a batch: tallies are ``counting``'s, everything else is a property of the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.snn.counting import LayerCounts
from snnconv.snn.layers import Encoder, MaxPool2d, Readout, SpikingLayer
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.synapses import IdentitySynapse, LinesSynapse

FLOAT_BITS = 32
"""Bits of a float weight as trained; those of the encoder and the readout."""
READOUT_BITS = 64
"""Bits of a readout's potential, which is added up in float64."""


@dataclass(frozen=True)
class Effective:
    """NeuroBench's Effective ACs and MACs; integers.

    Attributes:
        acs: Operations caused by counts of -1 and 1, accumulations.
        macs: Operations caused by wires that carry other counts, too.
    """

    acs: int
    macs: int


def rate_operations(row: LayerCounts) -> float:
    """Community formula: sum over branches of FLOPs * rate * T.

    FLOPs are the branch's multiply-accumulates in the ANN, border and zero weights included, and rate * T its
    mean number of spikes an incoming unit, whatever way these are divided into steps and threshold neurons.
    """
    return float(sum(branch.macs * branch.spikes / branch.positions for branch in row.received))


def effective_operations(row: LayerCounts) -> Effective:
    """Operations as NeuroBench counts them: [count != 0] * fan-out through non-zero weights, no adds of residuals.

    A wire is one of MACs if counts beyond -1..1 may come, which is known of the network: NeuroBench looks at the
    values of each batch. Behind a sum-pool each spike counts by itself: NeuroBench counts a window's sum once.

    Ref: Yik et al. 2025, "The neurobench framework", Nature Communications 16:1545; neurobench 2.3,
    ``SynapticOperations``.
    """
    weighted = [branch for branch in row.received if branch.weighted]
    macs = sum(branch.operations for branch in weighted if branch.graded)
    return Effective(sum(branch.operations for branch in weighted) - macs, macs)


@dataclass(frozen=True)
class LayerMemory:
    """What a layer has to keep [bits], and what one image makes it do.

    Attributes:
        name: The layer.
        weights: Stored weights; connections without weights have none.
        weight_bits: Bits of one weight: ceil(log2(number of different codes)); floats have 32.
        potential_bits: Bits of one potential, sign included; 0 in the encoder, which keeps none.
        weight_memory: Bits of all weights.
        threshold_memory: Bits of all thresholds, L a channel.
        membrane_memory: Bits of all potentials, one a unit, which its L threshold neurons share.
        incoming_levels: Largest number of steps between two counts of a wire that comes in, over time between two net
            counts that there may be in the end; 0 in the encoder.
        potential_updates: Potentials touched, one a unit and step: what a clock-driven chip does.
        analog_macs: Multiply-accumulates of the analog encoder, border included; the input is constant, so that
            they are done once.
    """

    name: str
    weights: int
    weight_bits: int
    potential_bits: int
    weight_memory: int
    threshold_memory: int
    membrane_memory: int
    incoming_levels: int
    potential_updates: int
    analog_macs: int


def layer_memory(network: SpikingNetwork, row: LayerCounts, steps: int = 1) -> LayerMemory:
    """Memory and updates of one layer with T = ``steps``."""
    layer = network.layers[row.name]
    assert isinstance(layer, Encoder | SpikingLayer | Readout)
    stored = [
        branch.synapse.weight
        for branch in layer.branches
        if not isinstance(branch.synapse, IdentitySynapse | LinesSynapse)
    ]
    if isinstance(layer, SpikingLayer):
        potential, thresholds = layer.reach.bit_length() + 1, layer.neuron.thresholds.numel()
    else:
        potential, thresholds = (READOUT_BITS if isinstance(layer, Readout) else 0), 0
    return LayerMemory(
        name=row.name,
        weights=sum(weight.numel() for weight in stored),
        weight_bits=max((_bits(weight) for weight in stored), default=0),
        potential_bits=potential,
        weight_memory=sum(_bits(weight) * weight.numel() for weight in stored),
        threshold_memory=thresholds * potential,
        membrane_memory=row.units * potential,
        incoming_levels=max((branch.high - branch.low for branch in row.received), default=0),
        potential_updates=0 if isinstance(layer, Encoder) else row.units * steps,
        analog_macs=row.macs if isinstance(layer, Encoder) else 0,
    )


def _bits(weight: Tensor) -> int:
    """Bits of one weight of a tensor."""
    if weight.is_floating_point():
        return FLOAT_BITS
    if weight.dtype != torch.int8:  # rounded floats: as many as the largest takes, with its sign
        return int(weight.abs().max()).bit_length() + 1
    codes = int((torch.bincount(weight.flatten().long() - int(weight.min())) > 0).sum())
    return max(1, math.ceil(math.log2(codes)))


def not_counted(network: SpikingNetwork) -> list[str]:
    """What no convention counts, a phrase each; of parts that the network has."""
    layers: list[nn.Module] = list(network.layers.values())
    pools = [name for name, layer in network.layers.items() if isinstance(layer, MaxPool2d)]
    residuals = [
        name
        for name, layer in network.layers.items()
        if isinstance(layer, SpikingLayer) and any(isinstance(b.synapse, IdentitySynapse) for b in layer.branches)
    ]
    prepared = network.header.preprocessing is not None
    return [
        "comparisons with thresholds, and the reset of potentials",
        "routing of spikes: addresses, queues, links between cores",
        *(["preprocessing of the images"] if prepared else []),
        "zero pixels: the encoder's MACs are those of a dense layer",
        *(
            ["clips, scales and offsets between the encoder's layers"]
            if any(isinstance(layer, Encoder) and len(layer.stages) > 1 for layer in layers)
            else []
        ),
        *([f"comparisons of max pools ({', '.join(pools)})"] if pools else []),
        *([f"multipliers of residual sums ({', '.join(residuals)}): a spike is one addition"] if residuals else []),
        "scale, offset and maximum of the readout's potentials",
    ]


def operations(network: SpikingNetwork, rows: Sequence[LayerCounts], shown: int, steps: int = 1) -> dict[str, Any]:
    """Everything above as plain values, for JSON; ``rate`` and ``neurobench`` are an image's.

    Args:
        network: The network that ran.
        rows: A counter's tallies over all images.
        shown: Images times trials.
        steps: T, time steps.

    Returns:
        ``layers``, a row a layer; ``totals`` over the spiking layers as ``sops_per_image`` has them (memory and
        weights over all layers); ``not_counted``.
    """
    layers = []
    for row in rows:
        effective = effective_operations(row)
        counted = {
            "rate": rate_operations(row) / shown,
            "neurobench": {"acs": effective.acs / shown, "macs": effective.macs / shown},
        }
        layers.append(asdict(layer_memory(network, row, steps)) | {"kind": row.kind} | counted)
    spiking = [layer for layer in layers if layer["kind"] == "spiking"]
    totals: dict[str, Any] = {"rate": sum(layer["rate"] for layer in spiking)}
    totals["neurobench"] = {key: sum(layer["neurobench"][key] for layer in spiking) for key in ("acs", "macs")}
    summed = ("weights", "weight_memory", "threshold_memory", "membrane_memory", "potential_updates", "analog_macs")
    totals |= {key: sum(layer[key] for layer in layers) for key in summed}
    return {"layers": layers, "totals": totals, "not_counted": not_counted(network)}

"""What follows from a counter's rows: further conventions by brute force, memory, and what was left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import conv_connections
from samples import TWTA, random_network, ternary, wires
from torch import Tensor, nn

from snnconv.ann.quantizers import KBQuantizer
from snnconv.ann.weights import BinaryWeight
from snnconv.conversion.convert import convert
from snnconv.conversion.splitting import split_signs
from snnconv.grids import Grid
from snnconv.snn.counting import Counter, LayerCounts
from snnconv.snn.layers import Flatten, SpikingLayer, SumPool2d
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.operations import effective_operations, layer_memory, not_counted, operations, rate_operations
from snnconv.snn.synapses import Conv2dSynapse, IdentitySynapse, LinearSynapse, Synapse

SHAPE = (2, 5, 6)


def images(seed: int, count: int = 3) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def counted(network: SpikingNetwork, *batches: Tensor) -> list[LayerCounts]:
    counter = Counter(network)
    with torch.no_grad():
        for batch in batches:
            network(batch, [counter.tap])
    return counter.layers()


def passing(network: SpikingNetwork, sent: dict[str, Tensor], wire: str, events: bool) -> Tensor:
    """Spikes (or events) at each position of a wire; a sum-pool lets each one through by itself."""
    layer = network.layers[wire]
    if isinstance(layer, Flatten | SumPool2d):
        return layer(passing(network, sent, network.nodes[wire].inputs[0], events))
    return (sent[wire] != 0).long() if events else sent[wire].long().abs()


def connections(synapse: Synapse, shape: tuple[int, ...]) -> tuple[int, dict[tuple[int, ...], int]]:
    """MACs of the dense layer, border included; and targets of each position through weights other than 0."""
    weight, targets = synapse.weight.numpy(), dict.fromkeys(np.ndindex(*shape), 0)
    if isinstance(synapse, LinearSynapse):
        return weight.size, {(i,): int(np.count_nonzero(weight[:, i])) for i in range(shape[0])}
    assert isinstance(synapse, Conv2dSynapse)
    geometry = (synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
    for _, source, value in conv_connections(shape, weight, *geometry):
        targets[source] += value != 0
    left, right, top, bottom = synapse.padding
    height, width = shape[1] + top + bottom, shape[2] + left + right
    positions = 0
    for y in range(0, height - synapse.dilation[0] * (weight.shape[2] - 1), synapse.stride[0]):
        for x in range(0, width - synapse.dilation[1] * (weight.shape[3] - 1), synapse.stride[1]):
            positions += y >= 0 and x >= 0
    return positions * weight.size, targets


def exceeds_one(network: SpikingNetwork, wire: str) -> bool:
    """Whether a wire may carry other counts than -1, 0 and 1, from what the grids and windows say."""
    layer = network.layers[wire]
    if hasattr(layer, "grid"):
        codes = {layer.grid.code(z) for z in (-math.inf, math.inf)}
        return not codes <= {-1, 0, 1}
    below = any(exceeds_one(network, source) for source in network.nodes[wire].inputs)
    return below or (isinstance(layer, SumPool2d) and math.prod(layer.kernel) > 1)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from((None, TWTA, Grid(1.0, 2, 1, (-0.3, 0.2, 0.9), (True,) * 3))))
def test_rate_and_neurobench_are_the_brute_force_counts(seed: int, grid: Grid | None) -> None:
    network, x = random_network(seed, grid, SHAPE), images(seed, 2)
    _, sent = wires(network, x)
    for row in counted(network, x):
        branches = zip(network.layers[row.name].branches, network.nodes[row.name].inputs, strict=True)
        rate, acs, macs = 0.0, 0, 0
        for branch, wire in branches if row.kind != "encoder" else ():
            shape = network.wire_shape(wire)
            dense, targets = connections(branch.synapse, shape)
            spikes, events = (passing(network, sent, wire, events).numpy() for events in (False, True))
            rate += dense * spikes.sum() / np.prod(shape)
            own = sum(int(events[(slice(None), *place)].sum()) * number for place, number in targets.items())
            acs, macs = (acs, macs + own) if exceeds_one(network, wire) else (acs + own, macs)
        assert rate_operations(row) == pytest.approx(rate, rel=1e-12)
        effective = effective_operations(row)
        assert (effective.acs, effective.macs) == (acs, macs)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(2, 4, 3, padding=1), ternary(nn.Conv2d(4, 4, 3, padding=1))
        self.act, self.last, self.out = KBQuantizer(0, 1), KBQuantizer(0, 2), nn.Linear(24, 3)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        return self.out(self.pool(self.last(self.conv(x) + x)).flatten(1))


def test_additions_of_residuals_are_no_layer_of_neurobench_but_have_flops() -> None:
    network, x = convert(Residual().eval(), images(0)[:1]), images(0)
    _, sent = wires(network, x)
    _, added, readout = counted(network, x)
    spikes = int(sent["act"].abs().sum())
    weighted, identity = sorted(added.received, key=lambda branch: not branch.weighted)
    assert isinstance(network.layers["last"].branches[added.received.index(identity)].synapse, IdentitySynapse)
    assert (identity.spikes, identity.operations, identity.macs) == (spikes, spikes, 4 * 5 * 6)
    assert effective_operations(added).acs == weighted.operations == added.sops["synops"] - spikes
    assert effective_operations(added).macs == 0
    assert rate_operations(added) == pytest.approx((4 * 5 * 6 * 4 * 9 + 4 * 5 * 6) * spikes / (4 * 5 * 6))
    # the pool sums 2 x 2 of 5 x 6: the last row of each channel is dropped, and a sum may be 8: graded
    arrived = int(sent["last"][:, :, :4].abs().sum())
    (branch,) = readout.received
    assert (branch.spikes, branch.positions, branch.high) == (arrived, 24, 8)
    assert effective_operations(readout).acs == 0
    assert effective_operations(readout).macs == readout.sops["events"] == 3 * int((sent["last"][:, :, :4] != 0).sum())
    assert not_counted(network)[-2].startswith("multipliers of residual sums (last)")


def test_repetitions_multiply_all_tallies() -> None:
    network, x = random_network(3, shape=SHAPE), images(3)
    for row, twice in zip(counted(network, x), counted(network, x, x), strict=True):
        assert row.times(2) == twice
        assert row.times(1) == row


def test_a_split_network_keeps_the_rate_and_its_layers_count_for_themselves() -> None:
    network, x = random_network(4, TWTA, SHAPE), images(4)
    whole, split = counted(network, x), counted(split_signs(network), x)
    assert sum(map(rate_operations, split)) == pytest.approx(sum(map(rate_operations, whole)))
    for row in split:
        effective = effective_operations(row)
        if all(branch.weighted for branch in row.received):
            assert (effective.acs, effective.macs) == (row.sops["events"], 0)


def memory_of(*layers: nn.Module, steps: int = 1) -> list:
    network = convert(nn.Sequential(*layers).eval(), torch.zeros(1, 2, 3, 3))
    return [layer_memory(network, row, steps) for row in Counter(network).layers()]


def test_memory_by_hand() -> None:
    hidden = ternary(nn.Conv2d(4, 5, 3, bias=False))
    with torch.no_grad():
        hidden.parametrizations.weight.original.fill_(1.0)
        hidden.parametrizations.weight.original[:, 0, 0, 0] = 0.0
    encoder, spiking, readout = memory_of(
        nn.Conv2d(2, 4, 1), KBQuantizer(1, 2), hidden, KBQuantizer(0, 3), nn.Flatten(), nn.Linear(5, 2), steps=7
    )
    assert (encoder.weights, encoder.weight_bits, encoder.weight_memory) == (8, 32, 256)
    assert (encoder.membrane_memory, encoder.potential_updates, encoder.analog_macs) == (0, 0, 9 * 8)
    # codes 0 and 1 take one bit; a potential reaches 35 * 4 = 140: 8 bits and a sign; 3 thresholds, 5 channels
    assert (spiking.weights, spiking.weight_bits, spiking.weight_memory) == (180, 1, 180)
    assert (spiking.potential_bits, spiking.membrane_memory, spiking.threshold_memory) == (9, 5 * 9, 3 * 5 * 9)
    assert (spiking.potential_updates, spiking.analog_macs, spiking.incoming_levels) == (5 * 7, 0, 4)
    assert (readout.weight_memory, readout.membrane_memory, readout.potential_updates) == (320, 2 * 64, 2 * 7)
    assert readout.incoming_levels == 3


def test_binary_weights_take_two_levels_and_ternary_ones_three() -> None:
    binary = nn.Conv2d(4, 4, 1, bias=False)
    nn.utils.parametrize.register_parametrization(binary, "weight", BinaryWeight())
    _, first, second, _ = memory_of(
        nn.Conv2d(2, 4, 1), KBQuantizer(0, 1), binary, KBQuantizer(0, 1), ternary(nn.Conv2d(4, 4, 1)),
        KBQuantizer(0, 1), nn.Flatten(), nn.Linear(36, 2),
    )  # fmt: skip
    assert first.weight_bits == 1
    assert second.weight_bits == 2


def test_totals_leave_encoder_and_readout_out_as_sops_do() -> None:
    network, x = random_network(5, shape=SHAPE), images(5, 4)
    rows = counted(network, x)
    values = operations(network, rows, shown=4)
    spiking = [row for row in rows if row.kind == "spiking"]
    assert values["totals"]["rate"] == pytest.approx(sum(map(rate_operations, spiking)) / 4)
    effective = [effective_operations(row) for row in spiking]
    assert values["totals"]["neurobench"] == {
        "acs": sum(own.acs for own in effective) / 4,
        "macs": sum(own.macs for own in effective) / 4,
    }
    assert [layer["name"] for layer in values["layers"]] == [row.name for row in rows]
    weights = [la["weights"] for la in values["layers"]]
    stored = {n: la for n, la in network.layers.items() if isinstance(la, SpikingLayer)}
    assert sum(weights) >= sum(b.synapse.weight.numel() for la in stored.values() for b in la.branches)
    assert any("thresholds" in phrase for phrase in values["not_counted"])

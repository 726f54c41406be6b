"""What is counted over time: a wire carries -1, 0 or 1 a step, a unit is one neuron, and the ANN stays the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samples import PIXELS, TWTA, random_images, random_network, settled, ternary, wires
from test_temporal import Trains
from torch import Tensor, nn

from snnconv.ann.quantizers import KBQuantizer
from snnconv.config import Preprocessing
from snnconv.conversion.convert import convert
from snnconv.conversion.splitting import split_signs
from snnconv.data.preprocessing import preprocess
from snnconv.energy import estimate, estimates
from snnconv.engines.dense import DenseEngine
from snnconv.grids import MAX_LEVELS, Grid
from snnconv.snn.counting import LayerCounts, tally_dense
from snnconv.snn.layers import MaxPool2d, SpikingLayer, SumPool2d
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.operations import effective_operations, operations
from snnconv.snn.overtime import OverTime, Timed
from snnconv.snn.temporal import TemporalNetwork
from snnconv.snn.temporal_simulation import simulate_neuron

PICTURES = random_images(9, (2, 7, 8))
X = preprocess(PICTURES.pixels, Preprocessing(divisor=255.0))
NEURONS = ("st-bif", "integrate-then-fire", "if")


def pooled() -> SpikingNetwork:
    """k1B2 units behind nothing, a max pool, a sum pool, and a max pool behind a sum pool."""
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), KBQuantizer(1, 2),
        ternary(nn.Conv2d(4, 4, 3, padding=1, bias=False)), nn.BatchNorm2d(4), KBQuantizer(1, 2), nn.MaxPool2d(2, 1),
        ternary(nn.Conv2d(4, 4, 2, bias=False)), nn.BatchNorm2d(4), KBQuantizer(1, 2), nn.AvgPool2d(2, 1),
        ternary(nn.Conv2d(4, 4, 2, bias=False)), nn.BatchNorm2d(4), KBQuantizer(1, 2), nn.AvgPool2d(2, 1),
        nn.MaxPool2d((2, 1), 1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip
    return convert(settled(model, X), X[:1], PIXELS)


def rows_of(network: SpikingNetwork, neuron: str, steps: int | None = None) -> tuple[list[LayerCounts], Trains, int]:
    """Tallies over time, and the trains that were tallied."""
    temporal = TemporalNetwork(network, neuron, steps)
    over, trains = OverTime(temporal, tally_dense), Trains()
    codes = {name: counts for name, counts in wires(network, X)[1].items() if hasattr(network.layers[name], "grid")}
    over.run(Timed(X, PICTURES.labels, codes, (trains,)))
    return over.counter.layers(), trains, temporal.steps


def spread(network: SpikingNetwork, wire: str, sent: dict[str, Tensor], events: bool) -> Tensor:
    """Spikes (or counts other than 0) of one step at each position of a wire; those in a sum pool by themselves."""
    layer, (source, *_) = network.layers[wire], network.nodes[wire].inputs
    if hasattr(layer, "grid") or isinstance(layer, MaxPool2d):
        return (sent[wire] != 0).long() if events else sent[wire].long().abs()
    return layer(spread(network, source, sent, events))


def effective(network: SpikingNetwork, trains: Trains) -> dict[str, tuple[int, int]]:
    """(ACs, MACs) of every layer, step by step with the layer's own synapse of ones for its weights other than 0."""
    behind_sums = set()
    for wire, layer in network.layers.items():
        behind = isinstance(layer, SumPool2d) or behind_sums & {*network.nodes[wire].inputs}
        if behind and not hasattr(layer, "grid"):
            behind_sums.add(wire)
    found = {}
    for name, layer in network.layers.items():
        if not hasattr(layer, "branches") or name in network.encoders:
            continue
        ((branch, wire),) = zip(layer.branches, network.nodes[name].inputs, strict=True)
        synapse = type(branch.synapse)((branch.synapse.weight != 0).to(torch.int8), **branch.synapse.settings)
        total = 0
        for step in range(len(trains.steps[wire])):
            now = {key: steps[step] for key, steps in trains.steps.items()}
            total += int(synapse.potential(spread(network, wire, now, events=True).double()).sum())
        found[name] = (0, total) if wire in behind_sums else (total, 0)
    return found


@pytest.mark.parametrize("neuron", NEURONS)
def test_acs_are_those_of_wires_of_ones_and_macs_those_behind_sum_pools(neuron: str) -> None:
    network = pooled()
    rows, trains, _ = rows_of(network, neuron)
    expected = effective(network, trains)
    assert [bool(macs) for _, macs in expected.values()] == [False, False, True, True]
    for row in rows[1:]:
        own = effective_operations(row)
        assert (own.acs, own.macs) == expected[row.name], row.name
    ladder = simulate_neuron(DenseEngine(network), PICTURES).layers
    assert all(effective_operations(row).acs == 0 for row in ladder)  # L = 4: every wire is graded


def test_a_max_pool_behind_a_sum_pool_is_counted_with_its_changes_of_more_than_one() -> None:
    network = pooled()
    rows, trains, _ = rows_of(network, "st-bif")
    last = next(name for name, layer in reversed(network.layers.items()) if isinstance(layer, MaxPool2d))
    sent = trains.all()[last].long()
    assert int(sent.abs().max()) > 1
    (branch,) = rows[-1].received
    assert (branch.spikes, branch.events) == (int(sent.abs().sum()), int((sent != 0).sum()))


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("grid", [None, TWTA])
def test_a_unit_over_time_is_one_neuron_in_every_convention(neuron: str, grid: Grid | None) -> None:
    network = random_network(1, grid)
    if neuron == "if" and grid is not None:
        network = split_signs(network)
    result = simulate_neuron(DenseEngine(network), PICTURES, neuron).to_dict()
    for row in result["layers"]:
        sops = row["sops"]
        assert sops["ladder"] == sops["synops"]
        assert sops["zou2021"] == (0 if row["kind"] == "readout" else sops["fanout"])
    assert result["sops_per_image"]["ladder"] == result["sops_per_image"]["synops"] > 0
    last = result["per_step"][-1]["sops_so_far"]
    assert last == pytest.approx(result["sops_per_image"])


UNEVEN = Grid(1.0, 3, 1, (-0.6, 0.2, 0.9, 1.3), (True,) * 4)


@pytest.mark.parametrize(
    ("grid", "neuron", "steps", "ends"),
    [
        (None, "st-bif", 1, (0, 1)),
        (None, "st-bif", 3, (0, 3)),
        (None, "st-bif", 300, (0, 4)),
        (None, "integrate-then-fire", None, (0, 4)),
        (None, "if", 3, (0, 3)),
        (None, "if", 12, (0, 12)),
        (None, "signed-if", 12, (0, 12)),
        (None, "negative-spike-unclipped", 12, (0, 12)),
        (None, "negative-spike-unclipped", 300, (0, MAX_LEVELS)),
        (TWTA, "st-bif", 1, (-1, 1)),
        (TWTA, "st-bif", 9, (-1, 1)),
        (UNEVEN, "st-bif", 2, (-1, 2)),
        (UNEVEN, "st-bif", 9, (-1, 3)),
    ],
)
def test_net_counts_end_where_grid_or_steps_end_them(
    grid: Grid | None, neuron: str, steps: int | None, ends: tuple[int, int]
) -> None:
    network = pooled() if grid is None else random_network(2, grid)
    rows, trains, _ = rows_of(network, neuron, steps)
    low, high = ends
    first = rows[1].received[0]
    assert (first.low, first.high) == ends
    for name, layer in network.units():
        nets = trains.all()[name].long().cumsum(0)
        assert low <= int(nets.min()) and int(nets.max()) <= high, name
        assert isinstance(layer, SpikingLayer) or name in network.encoders
    if grid is None:  # a window of the sum pool holds four units
        assert [row.received[0].high for row in rows[1:]] == [high, high, 4 * high, 4 * high]


def result_of(network: SpikingNetwork, neuron: str, steps: int | None = None, **options: Any) -> dict[str, Any]:
    measured = simulate_neuron(DenseEngine(network), PICTURES, neuron, steps, **options)
    shown = measured.images * measured.trials
    return measured.to_dict() | {"operations": operations(network, measured.layers, shown, measured.steps)}


@pytest.mark.parametrize("grid", [None, TWTA])
@pytest.mark.parametrize(
    ("neuron", "steps"), [("st-bif", None), ("st-bif", 150), ("integrate-then-fire", None), ("negative-spike", 40)]
)
def test_one_ann_takes_the_same_energy_beside_whatever_neuron(grid: Grid | None, neuron: str, steps: int) -> None:
    if grid is not None and neuron == "negative-spike":
        pytest.skip("has no codes below zero")
    network = pooled() if grid is None else random_network(2, grid)
    ladder, over_time = result_of(network, "ladder"), result_of(network, neuron, steps)
    assert estimates(ladder)["matched_bits"] == estimates(over_time)["matched_bits"]
    for movement in (False, True):
        one, other = (estimate(own, movement=movement) for own in (ladder, over_time))
        for system in ("skipping", "matched", "int8", "fp32"):
            assert {**one[system], "ratio": 0} == {**other[system], "ratio": 0}, system


def test_events_of_codes_are_the_ladder_s_whatever_runs_and_how_often() -> None:
    network = pooled()
    expected = {row["name"]: row["sops"]["events"] for row in result_of(network, "ladder")["layers"]}
    options: dict[str, Any]
    for options in ({}, {"trials": 3}):
        for neuron in ("if", "st-bif"):
            found = result_of(network, neuron, 7, **options)["layers"]
            assert {row["name"]: row["code_events"] for row in found} == expected
            assert any(row["sops"]["events"] != expected[row["name"]] for row in found)

"""Noise over time: one spike a unit and step whatever T, and codes that hold beyond what a ladder can receive."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import grid_code
from samples import TWTA, random_images, random_network
from test_temporal import Trains, X, assert_same, inputs, residual
from torch import Tensor

from snnconv.engines.dense import DenseEngine
from snnconv.grids import Grid
from snnconv.snn.layers import Branch, Encoder, Readout, SpikingLayer, SpikingLinear, Stage
from snnconv.snn.network import Header, Node, SpikingNetwork
from snnconv.snn.noise_models import parse_noise
from snnconv.snn.synapses import LinearSynapse
from snnconv.snn.temporal import TemporalNetwork
from snnconv.snn.temporal_simulation import TemporalSimulation, simulate_over_time
from snnconv.snn.trial import Trial

IMAGES = random_images(19, (2, 7, 8))
UNITS = (("st-bif", 1), ("st-bif", 3), ("if", 1), ("if", 3), ("integrate-then-fire", None))


def simulated(noise: str, neuron: str, steps: int | None, batch_size: int = 19) -> TemporalSimulation:
    engine = DenseEngine(random_network(1))
    return simulate_over_time(engine, IMAGES, neuron, steps, noise=[parse_noise(noise)], batch_size=batch_size)


@pytest.mark.parametrize(("neuron", "steps"), UNITS)
def test_stuck_units_send_one_spike_a_step_and_no_more(neuron: str, steps: int | None) -> None:
    assert max(random_network(1).levels) > 1
    result = simulated("stuck-firing:1@all", neuron, steps)
    units = sum(layer.units for layer in result.layers if layer.kind != "readout")
    assert result.spikes_per_image == units * result.steps


@pytest.mark.parametrize("noise", ["insertion:1@all", "insertion:0.4@all", "stuck-firing:0.5@all"])
@pytest.mark.parametrize(("neuron", "steps"), UNITS[:2])
def test_one_step_of_noise_is_that_of_longer_runs_and_of_any_batch_size(neuron: str, steps: int, noise: str) -> None:
    one, parts = (simulated(noise, neuron, steps, size).to_dict() for size in (19, 4))
    assert one == parts
    first = simulated(noise, neuron, 6).to_dict()["per_step"][0]
    assert (first["spikes"], first["sops"]) == (one["per_step"][0]["spikes"], one["per_step"][0]["sops"])
    assert all(row.spikes <= row.units * 19 * one["steps"] for row in simulated(noise, neuron, steps).layers)


def dense(weight: list[list[int]], scale: float) -> Branch:
    rows = len(weight)
    synapse = LinearSynapse(torch.tensor(weight, dtype=torch.int8))
    return Branch(synapse, torch.full((rows,), scale).double(), torch.zeros(rows).double())


def pair() -> SpikingNetwork:
    """An encoder whose counts are 0..2, and a unit whose value is half of what it receives; its code 4 is at 1.75."""
    grid = Grid(0.5, 4, 0, (0.25, 0.75, 1.25, 1.75), (True,) * 4)
    layers = {
        "in": Encoder([Stage(flatten=True)], Grid(1.0, 2, 0, (0.5, 1.5), (True, True))),
        "unit": SpikingLinear([dense([[1]], 0.5)], grid, [2]),
        "out": Readout([dense([[1], [-1]], 1.0)]),
    }
    nodes = {"in": Node(("input",), (1,)), "unit": Node(("in",), (1,)), "out": Node(("unit",), (2,))}
    return SpikingNetwork(layers, nodes, Header((1,)))


@pytest.mark.parametrize("neuron", ["st-bif", "negative-spike", "integrate-then-fire"])
@pytest.mark.parametrize(("delivered", "code"), [(2, 2), (3, 3), (4, 4), (-3, 0)])
def test_spikes_beyond_the_sender_s_grid_by_hand(neuron: str, delivered: int, code: int) -> None:
    network = pair()
    assert network.layers["unit"].neuron.thresholds.flatten().tolist() == [1, 2, 3, 3]  # 3: never, for a ladder

    def deliver(name: str, counts: Tensor, step: int) -> Tensor:
        now = 0 if step >= abs(delivered) else 1 if delivered > 0 else -1
        return torch.full_like(counts, now) if name == "in" else counts

    steps = None if neuron == "integrate-then-fire" else 12
    for options in ({}, {"shortcut": False, "together": 1}):
        sent = Trains()
        TemporalNetwork(network, neuron, steps, **options)(torch.zeros(1, 1), [deliver, sent])
        assert int(sent.all()["unit"].sum()) == code


class Storm:
    """Tap that sends spikes of both signs at random for a while, and lets those of the network pass afterwards."""

    def __init__(self, seed: int, steps: int) -> None:
        self.seed, self.steps = seed, steps

    def __call__(self, name: str, counts: Tensor, step: int) -> Tensor:
        if step >= self.steps:
            return counts
        draw = torch.Generator().manual_seed(1000 * self.seed + 50 * len(name) + step)
        return torch.randint(-1, 2, counts.shape, generator=draw, dtype=torch.int8)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from((None, TWTA, Grid(1.0, 2, 1, (-0.3, 0.2, 0.9), (True,) * 3))))
def test_followers_settle_at_the_code_of_what_they_received_however_much_it_was(seed: int, grid: Grid | None) -> None:
    for network in (random_network(seed, grid), residual(grid)):
        x = inputs(network)
        sent, arrived = Trains(), Trains()
        TemporalNetwork(network, "st-bif", 60)(x, [sent, Storm(seed, 20), arrived])
        nets = {name: train.sum(0, dtype=torch.int32) for name, train in arrived.all().items()}
        for name, layer in network.units():
            if isinstance(layer, SpikingLayer):
                z = layer.value(layer.potential(*(nets[wire] for wire in network.nodes[name].inputs))).flatten()
                own = layer.grid
                expected = [grid_code(v, own.boundaries, own.closed, own.negative) for v in z.tolist()]
                assert sent.all()[name].sum(0).flatten().tolist() == expected, name


def test_the_storm_goes_beyond_what_a_ladder_can_receive() -> None:
    network = random_network(1)
    arrived = Trains()
    TemporalNetwork(network, "st-bif", 30)(X, [Storm(1, 20), arrived])
    wire = next(w for n, la in network.units() if isinstance(la, SpikingLayer) for w in network.nodes[n].inputs)
    low, high = network.count_range(wire)
    net = arrived.all()[wire].sum(0)
    assert int(net.max()) > high and int(net.min()) < low


@pytest.mark.parametrize("noise", ["insertion:0.6", "stuck-firing:0.3@encoder"])
def test_the_shortcut_steps_back_where_noise_adds_spikes(noise: str) -> None:
    for network in (residual(), random_network(3)):
        x = inputs(network)
        plain = live_under(network, noise, x, shortcut=False, together=1)
        assert_same(live_under(network, noise, x), plain)


def live_under(network: SpikingNetwork, noise: str, x: Tensor, **options: object) -> tuple[Tensor, dict[str, Tensor]]:
    temporal = TemporalNetwork(network, "integrate-then-fire", **options)
    trial, trains = Trial(network, [parse_noise(noise)], 3, 0, temporal.steps, temporal=True), Trains()
    return temporal(x, [*trial.taps(torch.arange(len(x))), trains]), trains.all()


def test_without_noise_the_shortcut_is_taken() -> None:
    network, calls = random_network(3), []
    temporal = TemporalNetwork(network, "integrate-then-fire")
    for name, layer in network.units():
        if isinstance(layer, SpikingLayer):
            temporal.neurons[name].register_forward_hook(lambda *more: calls.append(more))
    temporal(X)
    assert calls == []

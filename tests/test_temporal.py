"""Networks over time: counts against the ladder's, trains against loops over steps, and what is measured of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from samples import PIXELS, TWTA, ann_codes, random_ann, random_images, random_network, settled, ternary, wires
from spikingjelly.activation_based import monitor
from test_conversion import Residual
from torch import Tensor, nn

from snnconv.ann.quantizers import KBQuantizer
from snnconv.config import Preprocessing
from snnconv.conversion.convert import convert
from snnconv.conversion.splitting import split_signs
from snnconv.data.preprocessing import preprocess
from snnconv.engines.dense import DenseEngine
from snnconv.errors import ConfigError
from snnconv.grids import MAX_LEVELS, Grid, k_b_grid
from snnconv.snn import temporal as temporal_module
from snnconv.snn.layers import Encoder, MaxPool2d, Readout, SpikingLayer
from snnconv.snn.network import INPUT, SpikingNetwork
from snnconv.snn.neurons.following import FollowingNeuron
from snnconv.snn.neurons.ladder import ladder_step
from snnconv.snn.neurons.registry import NEURONS
from snnconv.snn.noise_models import parse_noise
from snnconv.snn.overtime import exit_steps, margins
from snnconv.snn.schedule import schedule_of
from snnconv.snn.settling import Settling, rescaled
from snnconv.snn.temporal import TemporalNetwork
from snnconv.snn.temporal_simulation import TemporalSimulation, simulate_neuron, simulate_over_time
from snnconv.snn.thresholds import value_thresholds

X = torch.rand(5, 2, 7, 8, generator=torch.Generator().manual_seed(9))
EXACT = ("integrate-then-fire", "st-bif", "negative-spike")
RATES = ("if", "signed-if")


def residual(grid: Grid | None = None) -> SpikingNetwork:
    """Sums of branches of unequal depth."""
    torch.manual_seed(3)
    x = torch.rand(8, 3, 8, 8)
    return convert(settled(Residual(grid), x), x[:1], PIXELS)


def inputs(network: SpikingNetwork) -> Tensor:
    return torch.rand(4, *network.header.shape, generator=torch.Generator().manual_seed(7))


class Trains:
    """Tap that keeps what every layer sends, a list of steps a layer."""

    def __init__(self) -> None:
        self.steps: dict[str, list[Tensor]] = {}

    def __call__(self, name: str, counts: Tensor, step: int) -> Tensor:
        assert step == len(self.steps.setdefault(name, []))
        self.steps[name].append(counts.clone())
        return counts

    def all(self) -> dict[str, Tensor]:
        return {name: torch.stack(steps) for name, steps in self.steps.items()}


def live(network: SpikingNetwork, neuron: str, x: Tensor, **options: object) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and trains over time."""
    trains = Trains()
    logits = TemporalNetwork(network, neuron, **options)(x, [trains])
    return logits, trains.all()


def assert_same(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert torch.equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][name].long(), other[1][name].long()) for name in one[1])


def assert_exact(network: SpikingNetwork, neuron: str) -> None:
    """After the steps it takes by itself, every net count on every wire is the ladder's, and so are the logits."""
    x = inputs(network)
    logits, trains = live(network, neuron, x)
    expected, counts = wires(network, x)
    assert trains.keys() == counts.keys()
    for name in counts:
        assert torch.equal(trains[name].sum(0).long(), counts[name].long()), name
    assert torch.equal(logits[-1], expected)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, TWTA, Grid(1.0, 2, 3, (-2.0, -1.5, 0.0, 0.4, 3.0), (True,) * 5)]))
def test_exact_neurons_count_as_the_ladder_does(seed: int, grid: Grid | None) -> None:
    network = random_network(seed, grid)  # kernels, pools of both kinds and levels drawn from the seed
    for neuron in EXACT if grid is None else EXACT[:2]:
        assert_exact(network, neuron)


def without_clip(model: nn.Module) -> nn.Module:
    """The same network with as many levels as a grid can have, far above everything that occurs."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, KBQuantizer):
                setattr(module, name, KBQuantizer(child.k, MAX_LEVELS // 2**child.k))
    return model


def assert_unclipped(model: nn.Module, network: SpikingNetwork, x: Tensor, steps: int) -> int:
    """In the end every net count is the code of the network without a clip; returns the units above the clip."""
    expected, codes = ann_codes(without_clip(model), x)
    logits, trains = live(network, "negative-spike-unclipped", x, steps=steps)
    above = 0
    for name, layer in network.units():
        code = codes[network.nodes[name].origin.module, network.nodes[name].origin.call]
        assert torch.equal(trains[name].sum(0).long(), code), name
        above += int((code > layer.grid.levels).sum())
    torch.testing.assert_close(logits[-1], expected, rtol=1e-12, atol=1e-12)
    return above


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6))
def test_the_published_negative_spikes_count_as_a_network_without_a_clip_does(seed: int) -> None:
    model = random_ann(seed)
    _, codes = ann_codes(without_clip(model), X[:3])
    assume(max(int(code.max()) for code in codes.values()) < 60)  # beyond, neither steps nor levels suffice
    network = convert(model, X[:1], PIXELS)
    assert_unclipped(model, network, X[:3], steps=90)


def test_above_the_clip_the_published_form_goes_on_and_the_clipped_one_ends() -> None:
    model = random_ann(4)
    network = convert(model, X[:1], PIXELS)
    assert assert_unclipped(model, network, X, steps=60) > 50
    torch.manual_seed(3)
    x = torch.rand(8, 3, 8, 8)
    sums = settled(Residual(), x)
    assert assert_unclipped(sums, convert(sums, x[:1], PIXELS), x, steps=60) > 50


@pytest.mark.parametrize("neuron", [name for name, model in NEURONS.items() if model.schedule == "free"])
def test_a_shorter_run_is_the_beginning_of_a_longer_one(neuron: str) -> None:
    network = random_network(1)
    logits, trains = live(network, neuron, X, steps=9)
    for steps in (1, 2, 3, 5):
        less = live(network, neuron, X, steps=steps)
        assert_same(less, (logits[:steps], {name: train[:steps] for name, train in trains.items()}))


def test_float_weights_whose_potentials_leave_53_bits_over_time() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, bias=False)
    conv.weight.data[:, 0, 0, 0] = 2.0**-45 * torch.rand(6)
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), KBQuantizer(1, 2), conv, nn.BatchNorm2d(6), KBQuantizer(1, 2)]
    model = settled(nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 4)), X)
    network = convert(model, X[:1], PIXELS)
    reach = max(layer.reach for _, layer in network.units() if isinstance(layer, SpikingLayer))
    assert reach < 2**53 < reach * schedule_of(network).steps
    for neuron in EXACT:
        assert_exact(network, neuron)
    assert_unclipped(model, network, X, steps=40)
    assert len(live(network, "if", X, steps=3)[0]) == 3
    with pytest.raises(ConfigError, match="take fewer --steps"):
        TemporalNetwork(network, "st-bif", steps=10_000)


@pytest.mark.parametrize("grid", [None, TWTA])
def test_residual_sums_are_exact(grid: Grid | None) -> None:
    for neuron in EXACT if grid is None else EXACT[:2]:
        assert_exact(residual(grid), neuron)


@pytest.mark.parametrize("seed", [2, 5])
def test_units_split_by_sign_are_exact(seed: int) -> None:
    for neuron in EXACT:  # each side has an unsigned grid of its own
        assert_exact(split_signs(random_network(seed, TWTA)), neuron)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(list(NEURONS)[1:]), st.sampled_from([1, 2, 5]))
def test_step_by_step_together_and_by_counts_is_the_same(seed: int, neuron: str, together: int) -> None:
    network = random_network(seed)
    whole = live(network, neuron, X)
    steps = len(whole[0])
    assert_same(live(network, neuron, X, together=steps), whole)
    assert_same(live(network, neuron, X, together=together), whole)
    assert_same(live(network, neuron, X, together=1, shortcut=False), whole)
    parts = [live(network, neuron, X[i : i + 2]) for i in (0, 2, 4)]
    assert all(torch.equal(torch.cat([p[1][name] for p in parts], 1), whole[1][name]) for name in whole[1])


@pytest.mark.parametrize("neuron", ["integrate-then-fire", "st-bif"])
def test_the_count_domain_shortcut_changes_nothing_on_residual_and_signed_networks(neuron: str) -> None:
    for network in (residual(), residual(TWTA)):
        x = inputs(network)
        assert_same(live(network, neuron, x), live(network, neuron, x, shortcut=False, together=1))


@pytest.mark.parametrize("neuron", ["st-bif", "integrate-then-fire"])
def test_the_shortcut_changes_nothing_in_runs_longer_than_a_byte_counts(neuron: str) -> None:
    torch.manual_seed(2)
    layers = [nn.Conv2d(2, 4, 3), KBQuantizer(4, 6), ternary(nn.Conv2d(4, 3, 3)), KBQuantizer(3, 12)]
    for grid in (None, TWTA):
        model = settled(nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 4)), X)
        network = convert(model, X[:1], PIXELS) if grid is None else random_network(2, grid)
        steps = 300 if neuron == "st-bif" else None
        whole, plain = (live(network, neuron, X, steps=steps, **own) for own in ({}, {"shortcut": False}))
        assert len(whole[0]) > 128 or grid is not None
        assert_same(whole, plain)
        expected, counts = wires(network, X)
        assert torch.equal(whole[0][-1], expected)
        assert all(torch.equal(whole[1][name].sum(0).long(), counts[name].long()) for name in counts)


def test_the_shortcut_steps_back_where_spikes_come_late() -> None:
    network = random_network(3)
    encoder = network.encoders[0]

    def late(name: str, counts: Tensor, step: int) -> Tensor:
        """The encoder's spikes of step 0 come again when the second slot has begun."""
        if name != encoder:
            return counts
        first[name] = first.get(name, counts)
        return counts + first[name] if step == again else counts

    again = schedule_of(network).length + 1
    kept = []
    for options in ({}, {"shortcut": False, "together": 1}):
        first: dict[str, Tensor] = {}
        trains = Trains()
        logits = TemporalNetwork(network, "integrate-then-fire", **options)(X, [late, trains])
        kept.append((logits, trains.all()))
    assert_same(*kept)


def reference(network: SpikingNetwork, neuron: str, x: Tensor, steps: int) -> dict[str, list[Tensor]]:
    """Net counts of every wire after every step, from running counts alone: no trains, no states but these."""
    nets: dict[str, Tensor] = {}
    history: dict[str, list[Tensor]] = {}
    potentials: dict[str, Tensor] = {}
    for _ in range(steps):
        previous = dict(nets)
        for name, layer in network.layers.items():
            sources = [nets[wire] for wire in network.nodes[name].inputs if wire != INPUT]
            if isinstance(layer, Readout):
                continue
            if not isinstance(layer, Encoder | SpikingLayer):
                nets[name] = layer(*sources)
            elif neuron == "st-bif":
                code = layer(x) if isinstance(layer, Encoder) else layer(*sources)
                count = nets.get(name, torch.zeros_like(code))
                nets[name] = count + (code > count).to(torch.int8) - (code < count).to(torch.int8)
            else:
                now = [previous.get(wire) for wire in network.nodes[name].inputs]
                levels, grid = layer.grid.levels, layer.grid
                if isinstance(layer, Encoder):
                    current = layer.value(x)
                else:
                    current = torch.zeros(())
                    for branch, wire, net, before in zip(
                        layer.branches, network.nodes[name].inputs, sources, now, strict=True
                    ):
                        spikes = net.double() - (0 if before is None else before.double())
                        arrived = branch.synapse.potential(spikes) * own_levels(network, wire)
                        shape = (1, -1, *[1] * (arrived.ndim - 2))
                        scale, offset = branch.scale.reshape(shape), branch.offset.reshape(shape)
                        current = current + scale * arrived / branch.divisor + offset
                threshold = levels * grid.spacing
                v = potentials.get(name, torch.full_like(current, threshold - levels * grid.boundaries[0])) + current
                fired = v >= threshold
                v = torch.where(fired, v - threshold, v)
                count = nets.get(name, torch.zeros_like(v, dtype=torch.int32)) + fired.to(torch.int32)
                if neuron == "signed-if":
                    back = (v <= -1e-3) & (count > 0)
                    v, count = torch.where(back, v + threshold, v), count - back.to(torch.int32)
                potentials[name], nets[name] = v, count
            history.setdefault(name, []).append(nets[name])
    return history


def own_levels(network: SpikingNetwork, wire: str) -> int:
    layer = network.layers[wire]
    return layer.grid.levels if hasattr(layer, "grid") else own_levels(network, network.nodes[wire].inputs[0])


@pytest.mark.parametrize("neuron", ["st-bif", *RATES])
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_trains_are_those_of_running_counts(seed: int, neuron: str) -> None:
    for network in (random_network(seed), residual()):
        x = inputs(network)
        _, trains = live(network, neuron, x, steps=9)
        expected = reference(network, neuron, x, 9)
        assert trains.keys() == expected.keys()
        for name, train in trains.items():
            assert torch.equal(train.long().cumsum(0), torch.stack(expected[name]).long()), name
            if isinstance(network.layers[name], Encoder | SpikingLayer | MaxPool2d):
                assert int(train.abs().max()) <= 1


def test_logits_of_rates_are_read_from_rescaled_counts() -> None:
    network = random_network(1)
    logits, trains = live(network, "if", X, steps=5)
    wire = network.nodes[next(reversed(network.nodes))].inputs[0]
    readout = network.layers[next(reversed(network.nodes))]
    levels = own_levels(network, wire)
    for t in range(1, 6):
        code = trains[wire][:t].sum(0).double() * levels / t
        torch.testing.assert_close(logits[t - 1], readout(code), rtol=1e-12, atol=1e-12)


class Skip(nn.Module):
    """A sum of a branch of one unit and a shortcut of none, read by a further unit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(2, 4, 3, padding=1), KBQuantizer(1, 2)
        self.conv1, self.second = ternary(nn.Conv2d(4, 4, 3, padding=1)), KBQuantizer(1, 2)
        self.conv2, self.third = ternary(nn.Conv2d(4, 4, 3, padding=1)), KBQuantizer(1, 3)
        self.out = nn.Linear(4 * 7 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        return self.out(self.third(self.conv2(self.second(self.conv1(x))) + x).flatten(1))


@pytest.mark.parametrize("neuron", EXACT)
def test_a_shortcut_s_spikes_wait_for_those_of_the_longer_branch(neuron: str) -> None:
    torch.manual_seed(4)
    network = convert(Skip().eval(), X[:1], PIXELS)
    schedule = schedule_of(network)
    assert [schedule.slots[name] for name, _ in network.units()] == [0, 1, 2]
    assert_exact(network, neuron)


def test_slots_follow_the_longest_path() -> None:
    schedule = schedule_of(residual())
    network = residual()
    units = [name for name, _ in network.units()]
    assert [schedule.slots[name] for name in units] == [0, 1, 2, 3]
    assert schedule.length == max(network.levels) and schedule.depth == 3
    assert schedule.steps == 4 * schedule.length and schedule.first(units[2]) == 2 * schedule.length
    signed = schedule_of(residual(TWTA))
    assert (signed.length, signed.steps) == (1, 4)  # a signed unit sends one spike, not two
    assert signed.settling_steps == 8  # but from -1 to +1 it takes two


def test_latency_counts_the_pipeline_once() -> None:
    network = random_network(1)
    depth, steps = schedule_of(network).depth, schedule_of(network).steps
    assert TemporalNetwork(network, "st-bif", 7).latency_steps == 7 + depth
    assert TemporalNetwork(network, "integrate-then-fire").latency_steps == steps


def test_the_caller_s_network_keeps_its_step_mode_and_is_not_moved() -> None:
    network = random_network(1)
    before = wires(network, X)
    temporal = TemporalNetwork(network, "st-bif")
    temporal(X)
    assert_same(wires(network, X), before)
    assert all(layer.neuron.step_mode == "s" for _, layer in network.units() if isinstance(layer, SpikingLayer))
    assert not any(module is network for module in temporal.modules())


def test_monitors_see_every_step_of_a_network() -> None:
    network = random_network(1)
    temporal = TemporalNetwork(network, "st-bif", 6, together=1, shortcut=False)
    trains = Trains()
    with monitor.OutputMonitor(temporal.neurons, FollowingNeuron) as seen:
        temporal(X, [trains])
    for name, _ in network.units():
        assert torch.equal(torch.cat(seen[name]), trains.all()[name])


def test_memory_is_bounded_by_the_images_run_at_a_time() -> None:
    network = random_network(1)
    free, slots = TemporalNetwork(network, "st-bif", 500), TemporalNetwork(network, "integrate-then-fire")
    assert 1 <= free.most_images < TemporalNetwork(network, "st-bif", 5).most_images
    assert slots.most_images >= 1


def test_simulations_run_no_more_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = simulated().to_dict()
    monkeypatch.setattr(temporal_module, "MEMORY", 2**16)
    most = TemporalNetwork(random_network(1), "st-bif").most_images
    assert 1 <= most < 19
    seen, forward = [], TemporalNetwork.forward

    def counted(self: TemporalNetwork, x: Tensor, *more: object) -> Tensor:
        seen.append(len(x))
        return forward(self, x, *more)

    monkeypatch.setattr(TemporalNetwork, "forward", counted)
    assert simulated(batch_size=19).to_dict() == expected
    assert max(seen) == most


@pytest.mark.parametrize("grid", [TWTA, Grid(1.0, 2, 1, (-1.0, 0.25, 0.25), (True, True, False))])
def test_an_encoder_s_thresholds_keep_their_closed_sides(grid: Grid) -> None:
    values = [b + d for b in grid.boundaries for d in (-1e-9, 0.0, 1e-9)]
    z = torch.tensor(values, dtype=torch.float64)[:, None]
    assert ladder_step(z, value_thresholds(grid, 1), grid.negative).flatten().tolist() == [grid.code(v) for v in values]


def test_wires_of_unequal_levels_are_refused_where_rates_are_read() -> None:
    grid = Grid(1.0, 1, 2, (-1.5, -0.5, 0.5), (False, False, True))  # its sides have 1 and 2 levels
    network = split_signs(random_network(2, grid))
    with pytest.raises(ConfigError, match=r"units with 1 and 2 levels on one wire.*st-bif"):
        TemporalNetwork(network, "if")
    TemporalNetwork(network, "st-bif")


@pytest.mark.parametrize(
    ("count", "levels", "t", "code"),
    [(3, 4, 8, 2), (1, 4, 8, 1), (5, 4, 16, 1), (6, 4, 16, 2), (9, 1, 9, 1), (4, 8, 9, 4)],
)
def test_a_count_is_rescaled_by_l_over_t_and_rounded(count: int, levels: int, t: int, code: int) -> None:
    assert code == math.floor(count * levels / t + 0.5)
    assert rescaled(torch.tensor([count], dtype=torch.int16), levels, t).tolist() == [code]


def test_settling_by_hand() -> None:
    network = random_network(1)
    first, second = [name for name, _ in network.units()][:2]
    settling = Settling(network, 4, rate=False)
    shape = network.nodes[first].shape
    one = torch.zeros(2, *shape, dtype=torch.int8)
    one.view(2, -1)[0, 0] = 2  # the code of one unit of image 0
    settling.expect({first: one, second: torch.zeros(2, *network.nodes[second].shape, dtype=torch.int8)})
    spikes = torch.zeros_like(one)
    for step, sent in enumerate((1, 1, 1, -1)):  # net counts 1, 2, 3, 2: right after 2 steps, wrong after 3
        spikes.view(2, -1)[0, 0] = sent
        settling.tap(first, spikes.clone(), step)
        settling.tap(second, torch.zeros(2, *network.nodes[second].shape, dtype=torch.int8), step)
    assert settling.mismatches[first].tolist() == [1, 0, 1, 0]
    assert settling.settled(first).tolist() == [4, 1] and settling.settled(second).tolist() == [1, 1]
    assert (settling.exact_from(first), settling.exact_from(second), settling.exact_from()) == (4, 1, 4)
    assert [settling.exact_images(t, first) for t in (1, 2, 3, 4)] == [0.5, 0.5, 0.5, 1.0]


def test_exits_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]], [[0.1, 0.0]], [[9.0, 0.0]]], dtype=torch.float64)
    sure = 1 / (1 + math.exp(-2)) - 1 / (1 + math.exp(2))
    assert margins(logits)[1, 0] == pytest.approx(sure)
    assert [exit_steps(logits, m).tolist() for m in (0.0, sure - 1e-9, sure + 1e-9, 1.0)] == [[1], [2], [4], [4]]


IMAGES = random_images(19, (2, 7, 8))


def simulated(neuron: str = "st-bif", **options: object) -> TemporalSimulation:
    return simulate_over_time(DenseEngine(random_network(1)), IMAGES, neuron, **options)


def test_rows_of_steps_add_up_to_the_totals_and_are_brute_force() -> None:
    result = simulated(exit_margin=0.3).to_dict()
    network = random_network(1)
    x = preprocess(IMAGES.pixels, Preprocessing(divisor=255.0))
    logits, trains = live(network, "st-bif", x)
    expected = wires(network, x)[1]
    for t, row in enumerate(result["per_step"], start=1):
        units = [name for name, _ in network.units()]
        assert row["t"] == t
        assert row["accuracy"] == float((logits[t - 1].argmax(1) == IMAGES.labels).double().mean())
        assert row["spikes"] == pytest.approx(sum(int(trains[n][t - 1].abs().sum()) for n in units) / 19)
        wrong = [(trains[n][:t].sum(0) != expected[n]).flatten(1) for n in units]
        assert row["mismatches"] == sum(int(w.sum()) for w in wrong)
    last = result["per_step"][-1]
    assert last["spikes_so_far"] == pytest.approx(result["spikes_per_image"])
    assert last["sops_so_far"] == pytest.approx(result["sops_per_image"])
    assert last["accuracy"] == result["accuracy"]
    assert sum(row["sops"]["synops"] for row in result["per_step"]) == pytest.approx(last["sops_so_far"]["synops"])
    assert (result["neuron"], result["steps"]) == ("st-bif", len(result["per_step"]))
    firing = [row for row in result["layers"] if row["kind"] != "readout"]
    assert all(row["exact_from"] and row["exact_images"] == 1.0 and not row["mismatches"] for row in firing)
    assert result["exact_from"] == max(row["exact_from"] for row in firing)
    downs = sum(int((trains[name] < 0).sum()) for name, _ in network.units())
    assert sum(row["negative_spikes"] for row in firing) == pytest.approx(downs / 19) and downs > 0


def test_early_exit_counts_up_to_each_image_s_exit() -> None:
    network = random_network(1)
    logits, trains = live(network, "st-bif", preprocess(IMAGES.pixels, Preprocessing(divisor=255.0)))
    margin = float(margins(logits).median())
    result = simulated(exit_margin=margin).early_exit
    assert result is not None
    t = exit_steps(logits, margin)
    assert len(t.unique()) > 1
    right = sum(int(logits[t[i] - 1, i].argmax() == IMAGES.labels[i]) for i in range(19))
    spikes = sum(int(trains[n][: t[i], i].abs().sum()) for n, _ in network.units() for i in range(19))
    assert result["accuracy"] == right / 19 and result["steps"] == pytest.approx(float(t.double().mean()))
    assert result["spikes_per_image"] == pytest.approx(spikes / 19)
    assert result["margin"] == margin and result["sops_per_image"]["synops"] > 0


@pytest.mark.parametrize(
    "noise", [(), ("deletion:0.2@all",), ("jitter:0.8@all", "deletion:0.1@encoder"), ("input:0.3",), ("bitflip:0.02",)]
)
def test_batch_size_changes_nothing(noise: Sequence[str]) -> None:
    def outcome(batch_size: int) -> object:
        result = simulated(
            noise=[parse_noise(text) for text in noise], trials=2, exit_margin=0.5, batch_size=batch_size
        )
        return result.to_dict()

    assert outcome(4) == outcome(19)


def test_noise_of_ratio_zero_is_none_and_other_noise_is_not() -> None:
    clean = simulated().to_dict()
    assert simulated(noise=[parse_noise("deletion:0"), parse_noise("jitter:0")]).to_dict() == clean
    for text in ("deletion:0.2@all", "jitter:1.5@all", "insertion:0.1"):
        noisy = simulated(noise=[parse_noise(text)]).to_dict()
        assert noisy["exact_from"] is None and noisy["per_step"][-1]["mismatches"] > 0


def test_settings_that_do_not_go_together_are_refused() -> None:
    engine = DenseEngine(random_network(1))
    for arguments, message in (
        ({"neuron": "ladder", "steps": 4}, "'ladder' takes 1 time step"),
        ({"neuron": "ladder", "exit_margin": 0.5}, "after one step"),
        ({"neuron": "st-bif", "exit_margin": 1.5}, r"margin \(= 1.5\)"),
        ({"neuron": "st-bif", "noise": [parse_noise("threshold:0.1")]}, "leaves|'st-bif'"),
        ({"neuron": "ladder", "noise": [parse_noise("jitter:1")]}, "T = 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            simulate_neuron(engine, IMAGES, **arguments)


def test_the_ladder_s_only_step_has_the_same_columns() -> None:
    ladder = simulate_neuron(DenseEngine(random_network(1)), IMAGES).to_dict()
    over_time = simulated().to_dict()
    assert ladder["per_step"][0].keys() == over_time["per_step"][0].keys()
    assert ladder["per_step"][0]["spikes"] == ladder["spikes_per_image"]
    assert (ladder["neuron"], ladder["steps"]) == ("ladder", 1)
    assert ladder["latency_steps"] == 1 + schedule_of(random_network(1)).depth


def test_integrate_then_fire_has_the_ladder_s_spikes_and_operations() -> None:
    ladder = simulate_neuron(DenseEngine(random_network(1)), IMAGES)
    slots = simulated("integrate-then-fire")
    for one, other in zip(ladder.layers, slots.layers, strict=True):
        assert (one.positive, one.negative, one.sops["synops"]) == (
            other.positive,
            other.negative,
            other.sops["synops"],
        )
    assert slots.correct_by_trial == ladder.correct_by_trial and slots.exact_from == slots.steps


def test_a_network_of_uneven_grids_runs_with_st_bif_alone() -> None:
    network = convert(random_ann(3, grid=Grid(1.0, 3, 0, (0.2, 0.4, 2.0), (True,) * 3)), X[:1], PIXELS)
    assert_exact(network, "st-bif")
    with pytest.raises(ConfigError, match="evenly spaced"):
        TemporalNetwork(network, "negative-spike")
    assert k_b_grid(1, 2).spacing == 0.5

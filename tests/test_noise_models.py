"""Every noise against loops over Python numbers, its statistics, and what it must not depend on."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import MASK, splitmix64, stream
from samples import PIXELS, TWTA, random_images, random_network, settled, ternary, wires
from torch import Tensor, nn

from snnconv.ann.quantizers import KBQuantizer
from snnconv.api import simulate as simulate_api
from snnconv.cli.main import main
from snnconv.conversion.convert import convert
from snnconv.engines.dense import DenseEngine
from snnconv.engines.events import EventsEngine
from snnconv.engines.registry import ENGINES, ReferenceEngine, choose_engine
from snnconv.errors import ConfigError
from snnconv.formats.native import _describe_branch
from snnconv.grids import Grid
from snnconv.snn.batches import Batches
from snnconv.snn.layers import Branch, Encoder, Readout, SpikingLayer, spiking_layer
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.noise import flip_bits, happens, insert_spikes, jitter_spikes, normal, places, stream_key, uniform
from snnconv.snn.noise_models import (
    NOISES,
    BitFlips,
    Deletion,
    InputNoise,
    Insertion,
    Jitter,
    MembraneNoise,
    Noise,
    StuckFiring,
    StuckSilent,
    ThresholdMismatch,
    WeightMismatch,
    parse_noise,
    stored_bits,
)
from snnconv.snn.simulation import simulate
from snnconv.snn.synapses import LinearSynapse
from snnconv.snn.trial import Trial

WORDS = st.integers(-(2**63), 2**63 - 1)
RATIOS = {"membrane": 0.7, "weight": 0.3, "threshold": 0.6, "input": 0.8}
HERE = [name for name in NOISES if name != "jitter"]
"""Noises that a single time step can have."""
STATIC = {"weight", "threshold", "stuck-silent", "stuck-firing", "bitflip"}

X = torch.rand(6, 2, 7, 8, generator=torch.Generator().manual_seed(5))
IMAGES = torch.arange(6)


def noise_of(name: str, layers: tuple[str, ...] = ()) -> Noise:
    return NOISES[name](RATIOS.get(name, 0.3), layers or (() if name == "input" else ("all",)))


def residual() -> SpikingNetwork:
    """A network with a layer of two branches, a convolution and an identity."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(2, 4, 3, padding=1), ternary(nn.Conv2d(4, 4, 3, padding=1, bias=False))
            self.norm = nn.BatchNorm2d(4)
            self.first, self.second, self.out = KBQuantizer(1, 2), KBQuantizer(1, 2), nn.Linear(4 * 56, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(self.stem(x))
            return self.out(self.second(self.norm(self.conv(x)) + x).flatten(1))

    torch.manual_seed(3)
    return convert(settled(Net(), X), torch.zeros(1, 2, 7, 8), PIXELS)


def run(network: SpikingNetwork, noises: list[Noise], x: Tensor, images: Tensor, engine: str = "reference", trial: int = 0) -> Tensor:  # fmt: skip
    """Logits of a batch in one trial."""
    own = Trial(network, noises, 4, trial)
    runner = ENGINES[engine](own.network, None)
    return runner.run(own.inputs(x, images), own.taps(images, runner.delete), own.instead(images))


def reference_normal(key: int, counter: int) -> float:
    word = splitmix64(key & MASK, counter)
    return math.sqrt(-2 * math.log(((word >> 32) + 0.5) / 2**32)) * math.cos(2 * math.pi * (word & 0xFFFFFFFF) / 2**32)


# The draws


@given(WORDS, st.integers(0, 2**40))
def test_numbers_are_made_of_the_generator_s_words(key: int, counter: int) -> None:
    word = splitmix64(key & MASK, counter)
    at = torch.tensor([counter])
    assert uniform(key, at).item() == (word >> 11) / 2**53
    assert normal(key, at).item() == pytest.approx(reference_normal(key, counter), rel=1e-12, abs=1e-12)
    assert happens(key, at, 0.25).item() == ((word & 0xFFFFFFFF) < 2**30)


def test_normal_numbers_are_standard_normal() -> None:
    numbers = normal(stream_key(0, 0, "membrane", "x"), places(torch.arange(100), 2000).flatten())
    n = numbers.numel()
    assert abs(float(numbers.mean())) < 5 / math.sqrt(n)
    assert abs(float(numbers.var()) - 1) < 5 * math.sqrt(2 / n)
    assert abs(float((numbers**4).mean()) - 3) < 5 * math.sqrt(96 / n)
    for z, share in ((1.0, 0.15866), (2.0, 0.02275)):
        assert abs(float((numbers > z).double().mean()) - share) < 5 * math.sqrt(share / n)


def test_each_unit_has_words_of_its_own() -> None:
    first = places(torch.tensor([0, 1, 7]), 5)
    assert first.tolist() == [[256 * (image * 5 + unit) for unit in range(5)] for image in (0, 1, 7)]


# Insertion


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-3, 5), min_size=4, max_size=4), min_size=1, max_size=4),
    st.sampled_from((0.0, 0.1, 0.5, 0.97, 1.0)),
    WORDS,
    st.integers(0, 10**6),
)
def test_insertion_is_the_explicit_loop_s(counts: list[list[int]], ratio: float, key: int, first: int) -> None:
    positive, negative = 5, 3

    def fires(image: int, unit: int, neuron: int) -> bool:
        word = splitmix64(key & MASK, ((image * 4 + unit) << 8) + neuron // 2)
        return (word & 0xFFFFFFFF if neuron % 2 == 0 else word >> 32) < round(ratio * 2**32)

    def noisy(count: int, image: int, unit: int) -> int:
        up = sum(count > i or fires(image, unit, i) for i in range(positive))
        down = sum(-count > j or fires(image, unit, positive + j) for j in range(negative))
        return up - down

    expected = [[noisy(c, first + row, unit) for unit, c in enumerate(line)] for row, line in enumerate(counts)]
    images = torch.arange(first, first + len(counts))
    for dtype in (torch.int8, torch.float32):
        got = insert_spikes(torch.tensor(counts, dtype=dtype), ratio, key, images, positive, negative)
        assert got.dtype == dtype and got.tolist() == expected


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_inserted_spikes_are_binomial(ratio: float) -> None:
    n, silent = 40_000, 3
    counts = torch.full((20, n // 20), 1, dtype=torch.int8)
    more = insert_spikes(counts, ratio, 77, torch.arange(20), 4, 0).double() - 1
    variance = silent * ratio * (1 - ratio)
    assert abs(float(more.mean()) - silent * ratio) < 5 * math.sqrt(variance / n)
    assert abs(float(more.var()) - variance) < 0.05 * variance
    assert more.min() == 0 and more.max() == silent


# Jitter


def test_jitter_moves_each_spike_by_its_own_number_of_steps() -> None:
    draws = torch.Generator().manual_seed(1)
    train = torch.randint(-1, 2, (7, 3, 5), generator=draws, dtype=torch.int8)
    keys, images, spread = [stream_key(0, 0, "jitter", "a", t) for t in range(7)], torch.tensor([4, 0, 9]), 1.3
    sums = torch.zeros(7, 3, 5, dtype=torch.int64)
    for t in range(7):
        for row in range(3):
            for unit in range(5):
                number = reference_normal(keys[t], (int(images[row]) * 5 + unit) << 8)
                to = min(6, max(0, t + math.floor(spread * number + 0.5)))
                sums[to, row, unit] += train[t, row, unit]
    assert sums.abs().max() > 1  # some meet
    assert torch.equal(jitter_spikes(train, spread, keys, images), sums.clamp(-1, 1).to(torch.int8))
    assert torch.equal(jitter_spikes(train, 0.0, keys, images), train)


def test_moves_are_normal_and_clipped() -> None:
    train = torch.zeros(101, 1, 20_000, dtype=torch.int8)
    train[50] = 1
    moved = jitter_spikes(train, 3.0, list(range(101)), IMAGES[:1])
    steps = moved[:, 0].double().argmax(0).double() - 50
    assert int(moved.sum()) == 20_000  # none is lost
    assert abs(float(steps.mean())) < 5 * 3 / math.sqrt(20_000)
    assert abs(float(steps.var()) - (9 + 1 / 12)) < 5 * 9 * math.sqrt(2 / 20_000)
    early = jitter_spikes(train[50:], 3.0, list(range(51)), IMAGES[:1])
    assert float(early[0].double().mean()) == pytest.approx(0.566, abs=0.02)  # P(n < 1/6)


def test_a_train_gets_the_taps_noise_step_by_step() -> None:
    network = random_network(2, TWTA)
    name = network.encoders[0]
    shape = network.nodes[name].shape
    train = torch.randint(-1, 2, (5, 6, *shape), generator=torch.Generator().manual_seed(2), dtype=torch.int8)
    trial = Trial(network, [Deletion(0.4), Insertion(0.3), StuckSilent(0.2)], 1, 2, steps=5, temporal=True)
    (tap,) = trial.taps(IMAGES)
    stepped = torch.stack([tap(name, row, t) for t, row in enumerate(train)])
    assert torch.equal(trial.train(name, train, IMAGES), stepped)
    assert stepped.abs().max() == 1 and not torch.equal(stepped[0] - train[0], stepped[1] - train[1])
    inserted = Trial(network, [Insertion(0.5)], 1, 2, steps=5, temporal=True).train(name, train, IMAGES)
    assert torch.equal(inserted[train != 0], train[train != 0])  # a unit sends one spike a step
    moved = Trial(network, [Jitter(1.0)], 1, 2, steps=5).train(name, train, IMAGES)
    keys = [stream_key(1, 2, "jitter", name, t) for t in range(5)]
    assert torch.equal(moved, jitter_spikes(train, 1.0, keys, IMAGES))
    plain = Trial(network, [Jitter(0.0)], steps=5)
    assert plain.train(name, train, IMAGES) is train


# Bit flips


@pytest.mark.parametrize("bits", [2, 8])
def test_flipped_bits_are_the_explicit_loop_s(bits: int) -> None:
    low, high = (-1, 1) if bits == 2 else (-128, 127)
    codes = torch.randint(low, high + 1, (9, 4, 3), generator=torch.Generator().manual_seed(3), dtype=torch.int8)
    expected = []
    for place, code in enumerate(codes.flatten().tolist()):
        pattern = code % 2**bits
        for bit in range(bits):
            pattern ^= ((splitmix64(99, (place << 8) + bit) & 0xFFFFFFFF) < 2**31) << bit
        expected.append({0: 0, 1: 1, 2: 0, 3: -1}[pattern] if bits == 2 else pattern - 256 * (pattern > 127))
    flipped = flip_bits(codes, 0.5, 99, bits)
    assert flipped.dtype == torch.int8 and flipped.flatten().tolist() == expected
    assert torch.equal(flip_bits(codes, 0.0, 99, bits), codes)


def test_all_bits_flipped_by_hand() -> None:
    # 11 -> 00 is 0, 00 -> 11 is -1, 01 -> 10 is no ternary code
    assert flip_bits(torch.tensor([-1, 0, 1], dtype=torch.int8), 1.0, 5, 2).tolist() == [0, -1, 0]
    assert flip_bits(torch.tensor([0, 1, -1, 127, -128], dtype=torch.int8), 1.0, 5, 8).tolist() == [-1, -2, 0, -128, 127]  # fmt: skip


def test_bits_flip_with_their_ratio() -> None:
    flipped = flip_bits(torch.zeros(40_000, dtype=torch.int8), 0.1, 5, 2)
    for code, share in ((1, 0.1 * 0.9), (-1, 0.1 * 0.1)):
        assert abs(float((flipped == code).double().mean()) - share) < 5 * math.sqrt(share / 40_000)


@pytest.mark.parametrize(("largest", "bits"), [(1, 2), (2, 8), (127, 8)])
def test_codes_are_flipped_as_wide_as_the_file_stores_them(largest: int, bits: int) -> None:
    codes = torch.tensor([[0, -largest, 1]], dtype=torch.int8)
    branch = Branch(LinearSynapse(codes), torch.ones(1), torch.zeros(1))
    tensors: dict[str, Tensor] = {}
    described = _describe_branch("x", branch, tensors)
    assert (stored_bits(codes), described.weight) == (bits, "ternary" if bits == 2 else "int8")
    assert tensors["x.weight"].numel() * 8 >= bits * codes.numel()


def test_a_network_s_codes_are_flipped_once_a_trial_and_its_thresholds_follow() -> None:
    network = random_network(1)
    name = next(name for name, layer in network.layers.items() if isinstance(layer, SpikingLayer))
    trial, other = (Trial(network, [BitFlips(0.2)], 4, number) for number in (0, 1))
    old, new, second = (n.layers[name].branches[0].synapse.weight for n in (network, trial.network, other.network))
    assert torch.equal(new, flip_bits(old, 0.2, stream_key(4, 0, "bitflip", f"{name}.0"), 2))
    assert not torch.equal(new, old) and not torch.equal(new, second)
    rebuilt = spiking_layer(
        trial.network.layers[name].branches, network.layers[name].grid, network.layers[name].largest
    )
    assert torch.equal(trial.network.layers[name].neuron.thresholds, rebuilt.neuron.thresholds)
    assert trial.real == () and network.layers[name].branches[0].synapse.weight is old


# Real numbers


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from((None, TWTA, Grid(0.3, 2, 2, (-0.5, -0.2, 0.1, 0.4), (False, True, True, False)))),
)
def test_a_layer_decided_on_real_numbers_is_the_integer_one_without_noise(seed: int, grid: Grid | None) -> None:
    check_undisturbed(random_network(seed, grid))


def test_so_is_one_of_several_branches() -> None:
    network = residual()
    assert any(isinstance(layer, SpikingLayer) and len(layer.branches) > 1 for layer in network.layers.values())
    check_undisturbed(network)


def check_undisturbed(network: SpikingNetwork) -> None:
    _, sent = wires(network, X)
    tiny = [WeightMismatch(1e-300), ThresholdMismatch(1e-300), MembraneNoise(1e-300)]  # switched on, and nothing
    plain, switched = Trial(network), Trial(network, tiny)
    for name, _ in network.units():
        incoming = [X if wire == "input" else sent[wire] for wire in network.nodes[name].inputs]
        for trial in (plain, switched):
            assert torch.equal(trial.fire(name, IMAGES, 0, *incoming), sent[name]), name


@pytest.mark.parametrize("grid", [None, TWTA])
def test_membrane_and_threshold_noise_are_the_explicit_loop_s(grid: Grid | None) -> None:
    network = random_network(3, grid)
    _, sent = wires(network, X)
    trial = Trial(network, [MembraneNoise(0.4), ThresholdMismatch(0.3)], 6, 5)
    images = torch.tensor([3, 0, 8, 2, 9, 1])
    changed = 0
    for name, unit in network.units():
        incoming = [X if wire == "input" else sent[wire] for wire in network.nodes[name].inputs]
        own, levels = unit.grid, unit.grid.levels
        z = trial.value(name, *incoming).flatten(1)
        shaken = [stream(6, 5, noise, name) for noise in ("membrane", "threshold")]
        counts = trial.fire(name, images, 0, *incoming).flatten(1)
        units = z.shape[1]
        for row, image in enumerate(images.tolist()):
            for place in range(0, units, max(1, units // 7)):
                m = 0.4 * own.step * reference_normal(shaken[0], (image * units + place) << 8)
                offsets = [0.3 * own.step * reference_normal(shaken[1], (place << 8) + i) for i in range(levels)]
                fired = [
                    z[row, place] + m >= b + e if shut else z[row, place] + m > b + e
                    for b, shut, e in zip(own.boundaries, own.closed, offsets, strict=True)
                ]
                assert int(counts[row, place]) == sum(fired) - own.negative
                changed += int(counts[row, place]) != int(sent[name].flatten(1)[row, place])
    assert changed > 10


def test_one_unit_by_hand() -> None:
    # z = U / 2 on the grid of step 1/2 with boundaries 1/4, 3/4; one level spacing is 1 in the potential
    layer = spiking_layer(
        [Branch(LinearSynapse(torch.tensor([[1, -1]], dtype=torch.int8)), torch.tensor([0.5]), torch.zeros(1))],
        Grid(0.5, 2, 0, (0.25, 0.75), (True, True)),
        [3],
    )
    network = random_network(1)
    network.layers["act"], network.nodes["act"] = layer, network.nodes["act"].__class__(("flatten",), (1,))
    trial = Trial(network)
    counts = torch.tensor([[2, 1], [1, 2], [3, 1]], dtype=torch.int8)
    assert trial.value("act", counts).tolist() == [[0.5], [-0.5], [1.0]]
    assert trial.fire("act", IMAGES[:3], 0, counts).tolist() == [[1], [0], [2]]
    edges = Grid(0.5, 2, 0, (0.5, 1.0), (False, True))  # z = 1/2 lies on an open boundary, z = 1 on a closed one
    layer.grid = edges
    assert trial.fire("act", IMAGES[:3], 0, counts).tolist() == [[0], [0], [2]]
    # the seam in units of the potential: thresholds 1/2 and 3/2, spacing 1
    rows = trial.thresholds("act", torch.tensor([[0.5], [1.5]]), torch.ones(1))
    assert rows.tolist() == [[0.5], [1.5]]
    noisy = Trial(network, [ThresholdMismatch(0.1, ("act",))], 2)
    offsets = [0.1 * reference_normal(stream(2, 0, "threshold", "act"), i) for i in range(2)]
    moved = noisy.thresholds("act", torch.tensor([[0.5], [1.5]]), torch.full((1,), 4.0))
    assert moved.flatten().tolist() == pytest.approx([0.5 + 4 * offsets[0], 1.5 + 4 * offsets[1]])


def test_thresholds_and_membranes_spread_by_their_ratio_of_a_level() -> None:
    thresholds = ThresholdMismatch(0.05).offsets(3, 4, (10, 30, 30))
    membranes = MembraneNoise(0.2).offsets(3, (10, 30), torch.arange(120))
    for offsets, sd, shape in ((thresholds, 0.05, (4, 10, 30, 30)), (membranes, 0.2, (120, 10, 30))):
        assert offsets.shape == shape
        assert float(offsets.std()) == pytest.approx(sd, rel=5 / math.sqrt(2 * offsets.numel()))
        assert abs(float(offsets.mean())) < 5 * sd / math.sqrt(offsets.numel())


def test_mismatched_weights_are_relative_and_zero_stays_zero() -> None:
    weight = torch.tensor([[0, 1, -1], [2, 0, -3]], dtype=torch.int8)
    noisy, key = WeightMismatch(0.1).disturb(weight, 17), 17
    for place, (before, after) in enumerate(zip(weight.flatten().tolist(), noisy.flatten().tolist(), strict=True)):
        assert after == pytest.approx(before * (1 + 0.1 * reference_normal(key, place << 8)), abs=1e-15)
    assert noisy.dtype == torch.float64
    many = WeightMismatch(0.1).disturb(torch.ones(40_000, dtype=torch.int8), 17)
    assert float(many.std()) == pytest.approx(0.1, rel=5 / math.sqrt(80_000))


@pytest.mark.parametrize("network", [random_network(1), residual()], ids=["plain", "residual"])
def test_a_layer_of_mismatched_weights_has_their_potential(network: SpikingNetwork) -> None:
    _, sent = wires(network, X)
    trial = Trial(network, [WeightMismatch(0.3)], 4, 2)
    for name, layer in network.layers.items():
        if not isinstance(layer, SpikingLayer):
            continue
        incoming = [sent[wire].double() for wire in network.nodes[name].inputs]
        expected = torch.zeros(6, *network.nodes[name].shape, dtype=torch.float64)
        for number, (branch, x) in enumerate(zip(layer.branches, incoming, strict=True)):
            weight = branch.synapse.weight
            if WeightMismatch.holds(branch):
                weight = WeightMismatch(0.3).disturb(weight, stream_key(4, 2, "weight", f"{name}.{number}"))
            shape = (-1, *[1] * (expected.ndim - 2))
            potential = branch.synapse.connect(x, weight.double())
            expected += branch.scale.reshape(shape) * potential / branch.divisor + branch.offset.reshape(shape)
        z = trial.value(name, *incoming)
        torch.testing.assert_close(z, expected, rtol=1e-9, atol=1e-9)
        assert not torch.equal(z, Trial(network).value(name, *incoming))
        rows = [trial.value(name, *(x[i : i + 1] for x in incoming)) for i in range(6)]
        assert torch.equal(torch.cat(rows), z)  # exact sums: the order does not matter


def test_the_encoder_and_the_readout_have_weights_to_mismatch() -> None:
    network = random_network(1)
    encoder, readout = network.encoders[0], list(network.layers)[-1]
    trial = Trial(network, [WeightMismatch(0.3)], 4)
    assert {encoder, readout} < set(trial.real)
    own = trial.instead(IMAGES)[readout]
    assert isinstance(own, Readout) and isinstance(network.layers[encoder], Encoder)
    before, after = network.layers[readout].branches[0].synapse.weight, own.branches[0].synapse.weight
    relative = (after / before.double() - 1) / 0.3
    key = stream_key(4, 0, "weight", f"{readout}.0")
    assert relative.flatten()[5] == pytest.approx(reference_normal(key, 5 << 8), abs=1e-9)


# Input and stuck units


def test_input_noise_is_multiplicative_and_uniform() -> None:
    x = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(1))
    key, images = 31, torch.tensor([5, 0, 2])
    noisy = InputNoise(0.4).disturb(x, key, images)
    for row in range(3):
        for place in range(0, 40, 7):
            u = (splitmix64(key, (int(images[row]) * 40 + place) << 8) >> 11) / 2**53
            expected = float(x[row].flatten()[place]) * (1 + 0.4 * (u - 0.5))
            assert float(noisy[row].flatten()[place]) == pytest.approx(expected, rel=1e-7)
    many = InputNoise(1.0).disturb(torch.ones(10, 4000), key, torch.arange(10))
    assert many.min() >= 0.5 and many.max() < 1.5
    assert abs(float(many.mean()) - 1) < 5 / math.sqrt(12 * 40_000)
    assert float(many.var()) == pytest.approx(1 / 12, rel=0.03)


@pytest.mark.parametrize(("kind", "value"), [(StuckSilent, 0), (StuckFiring, 4)])
def test_stuck_units_are_the_same_on_every_image(kind: type[StuckSilent], value: int) -> None:
    network = random_network(4, Grid(0.5, 4, 0, (0.25, 0.75, 1.25, 1.75), (True,) * 4))
    name = network.encoders[0]
    units = torch.Size(network.nodes[name].shape).numel()
    key = stream(0, 1, kind.name, name)
    stuck = torch.tensor([(splitmix64(key, unit << 8) & 0xFFFFFFFF) < round(0.3 * 2**32) for unit in range(units)])
    counts = torch.randint(1, 4, (6, *network.nodes[name].shape), dtype=torch.int8)
    (tap,) = Trial(network, [kind(0.3)], 0, 1).taps(IMAGES + 50)
    noisy = tap(name, counts, 0).flatten(1)
    assert bool((noisy[:, stuck] == value).all()) and torch.equal(noisy[:, ~stuck], counts.flatten(1)[:, ~stuck])
    wide = happens(key, places(torch.zeros(1, dtype=torch.int64), 40_000), 0.3)
    assert abs(float(wide.double().mean()) - 0.3) < 5 * math.sqrt(0.21 / 40_000)


def test_a_unit_without_codes_above_zero_is_stuck_at_its_lowest() -> None:
    network = random_network(2, Grid(1.0, 0, 2, (-1.5, -0.5), (False, False)))
    name = network.encoders[0]
    (tap,) = Trial(network, [StuckFiring(1.0)]).taps(IMAGES)
    assert set(tap(name, torch.zeros(6, *network.nodes[name].shape, dtype=torch.int8), 0).flatten().tolist()) == {-2}


# All of them


@pytest.mark.parametrize("name", HERE)
def test_noise_of_ratio_0_is_bit_identical_to_none(name: str) -> None:
    network = random_network(1)
    trial = Trial(network, [type(noise_of(name))(0.0)])
    assert trial.network is network and trial.taps(IMAGES) == () and trial.instead(IMAGES) == {}
    assert trial.inputs(X, IMAGES) is X
    images = random_images(9, (2, 7, 8))
    plain = simulate(DenseEngine(network), images).to_dict()
    assert simulate(DenseEngine(network), images, [type(noise_of(name))(0.0)]).to_dict() == plain


@pytest.mark.parametrize("make", [lambda: random_network(1), lambda: random_network(2, TWTA), residual])
@pytest.mark.parametrize("name", HERE)
def test_noise_does_not_depend_on_batch_order_or_engine(name: str, make: object) -> None:
    network = make()  # type: ignore[operator]
    noises = [noise_of(name)]
    logits = run(network, noises, X, IMAGES)
    assert not torch.equal(logits, run(network, [], X, IMAGES))
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    # float logits of one image, of six: their sums may be rounded otherwise
    torch.testing.assert_close(run(network, noises, X[order], IMAGES[order]), logits[order], rtol=1e-12, atol=1e-12)
    rows = [run(network, noises, X[i : i + 1], IMAGES[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(torch.cat(rows), logits, rtol=1e-12, atol=1e-12)
    own = Trial(network, noises)
    for engine in ("dense", "auto", *(() if own.real else ("events",))):
        torch.testing.assert_close(run(network, noises, X, IMAGES, engine), logits, rtol=1e-12, atol=1e-12)
    assert not torch.equal(run(network, noises, X, IMAGES, trial=1), logits)


@pytest.mark.parametrize("name", HERE)
def test_static_noise_is_the_same_for_every_image_and_other_noise_is_not(name: str) -> None:
    network, same = random_network(1), X[:1].expand(6, -1, -1, -1)
    logits = run(network, [noise_of(name)], same, IMAGES)
    alike = all(torch.allclose(row, logits[0], rtol=1e-12, atol=1e-12) for row in logits)
    assert alike == (name in STATIC)


@pytest.mark.parametrize("name", HERE)
def test_a_simulation_under_any_noise_does_not_depend_on_the_batch_size(name: str) -> None:
    engine, images = DenseEngine(random_network(1)), random_images(23, (2, 7, 8))
    one, other = (simulate(engine, images, [noise_of(name)], 2, 7, size).to_dict() for size in (23, 5))
    assert one == other
    assert one["noise"][0]["name"] == name and one["noise"][0]["ratio"] == noise_of(name).ratio
    assert one["correct_by_trial"] != [simulate(engine, images).correct_by_trial[0]] * 2 or one["spikes_per_image"] != (
        simulate(engine, images).spikes_per_image
    )
    real = Trial(engine.network, [noise_of(name)]).real
    assert [layer for layer, way in one["choices"].items() if way == "dense"] == list(one["choices"])
    assert bool(real) == (not noise_of(name).integer)


def test_noises_act_together_each_at_its_place_and_spikes_in_the_order_given() -> None:
    network = random_network(1)
    name = network.encoders[0]
    _, sent = wires(network, X)
    first, second = Deletion(0.5), Insertion(0.5)
    singles = [Trial(network, [own], 3, 1).taps(IMAGES)[0] for own in (first, second)]
    for order in ((0, 1), (1, 0)):
        both = Trial(network, [(first, second)[i] for i in order], 3, 1)
        expected = sent[name]
        for i in order:
            expected = singles[i](name, expected, 0)
        assert torch.equal(both.taps(IMAGES)[0](name, sent[name], 0), expected)
    everything = [noise_of(own) for own in HERE]
    for engine in ("dense", "auto"):
        torch.testing.assert_close(
            run(network, everything, X, IMAGES, engine), run(network, everything, X, IMAGES), rtol=1e-12, atol=1e-12
        )
    trial = Trial(network, everything, 4)
    assert trial.network is not network and trial.real and trial.touches_input
    # mismatch acts on the flipped codes
    layer = next(n for n, own in network.layers.items() if isinstance(own, SpikingLayer))
    flipped = trial.network.layers[layer].branches[0].synapse.weight
    zero = trial._disturbed[layer].branches[0].synapse.weight == 0
    assert torch.equal(zero, flipped == 0) and not torch.equal(
        zero, network.layers[layer].branches[0].synapse.weight == 0
    )


def test_layers_are_named_by_words_and_names() -> None:
    network = random_network(1)
    units = tuple(name for name, _ in network.units())
    readout = list(network.layers)[-1]
    assert Deletion(0.1).on(network) == network.encoders == Deletion(0.1, ("encoder",)).on(network)
    assert Deletion(0.1, ("all",)).on(network) == units == ThresholdMismatch(0.1).on(network)
    assert parse_noise(f"deletion:0.1@{units[2]}+encoder").on(network) == (units[0], units[2])
    assert WeightMismatch(0.1).on(network) == (*units, readout)
    assert BitFlips(0.1).on(network) == units[1:]  # encoder and readout hold float weights
    assert InputNoise(0.1).on(network) == ()
    held = residual()
    assert all(WeightMismatch.holds(b) != (number == 1) for number, b in enumerate(held.layers["second"].branches))


def test_what_is_written_is_what_is_meant() -> None:
    assert parse_noise("deletion:0.1@all") == Deletion(0.1, ("all",))
    assert parse_noise("stuck-firing:1e-3") == StuckFiring(0.001)
    assert parse_noise("jitter:2@a+b") == Jitter(2.0, ("a", "b"))
    assert {kind.name: kind for kind in NOISES.values()} == NOISES
    listed = next(option.help for option in main.commands["simulate"].params if option.name == "noise")
    assert all(name in listed for name in NOISES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("salt:0.1", "unknown noise 'salt': take deletion, insertion, jitter, .*bitflip"),
        ("deletion", "the ratio is missing; write deletion:0.1, or deletion:0.1@all"),
        ("deletion:much", "the ratio 'much' is no number"),
        ("deletion:1.5", r"the deletion noise ratio \(= 1.5\) is a probability and must lie in \[0, 1\]"),
        ("bitflip:-0.1", r"lie in \[0, 1\]"),
        ("threshold:-0.1", r"the threshold noise ratio \(= -0.1\) must lie in \[0, 1,000,000\]"),
        ("membrane:inf", r"must lie in \[0, 1,000,000\]"),
        ("membrane:nan", r"must lie in \[0, 1,000,000\]"),
        ("weight:1e308", r"must lie in \[0, 1,000,000\]"),
        ("weight:1e308@readout", r"must lie in \[0, 1,000,000\]"),
        ("jitter:1000000.1", r"must lie in \[0, 1,000,000\]"),
        ("deletion:0.1@", "has no layer behind @"),
        ("deletion:0.1@a++b", "has no layer behind @"),
    ],
)
def test_what_is_written_wrong_is_refused_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_noise(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["deletion:0.1@nowhere"], "deletion noise on layer 'nowhere': the layers that fire are act0, act1, act"),
        (["deletion:0.1@out"], "'out': the layers that fire"),
        (["bitflip:0.1@encoder"], "the layers with integer weight codes are"),
        (["weight:0.1@flatten"], "the layers with weights are"),
        (["input:0.1@encoder"], "it acts on the input and takes no layers"),
        (["deletion:0.1", "deletion:0.2@all"], "deletion noise is given twice for .*: give each noise once a layer"),
        (["input:0.1", "input:0.2"], "input noise is given twice for input"),
        (["jitter:1"], "jitter noise moves spikes in time and needs more than one step, but T = 1"),
    ],
)
def test_noise_that_a_network_cannot_have_is_refused(texts: list[str], message: str) -> None:
    network = random_network(1)
    with pytest.raises(ConfigError, match=message) as error:
        simulate(ReferenceEngine(network), random_images(2, (2, 7, 8)), [parse_noise(text) for text in texts])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["weight", "threshold", "membrane", "input"])
def test_the_strongest_noise_gives_numbers(name: str) -> None:
    layers = (("all",), ("readout",)) if name == "weight" else ((),)
    for own in layers:
        measured = simulate(ReferenceEngine(random_network(1)), random_images(6, (2, 7, 8)), [NOISES[name](1e6, own)])
        assert 0 <= measured.accuracy <= 1 and math.isfinite(measured.spikes_per_image)


def test_jitter_of_ratio_0_is_no_noise_in_one_step_either() -> None:
    network, images = random_network(1), random_images(6, (2, 7, 8))
    engine = ReferenceEngine(network)
    assert simulate(engine, images, [Jitter(0.0)]).to_dict() == simulate(engine, images).to_dict()
    Trial(network, [Jitter(0.0)], steps=1)
    with pytest.raises(ConfigError, match="T = 1"):
        Trial(network, [Jitter(1e-9)], steps=1, temporal=True)


def ternary_throughout() -> SpikingNetwork:
    """A network whose encoder has ternary codes, too, so that bits of it can flip."""
    torch.manual_seed(1)
    layers = [ternary(nn.Conv2d(2, 6, 3, bias=False)), nn.BatchNorm2d(6), KBQuantizer(1, 2)]
    hidden = [ternary(nn.Conv2d(6, 4, 3, bias=False)), nn.BatchNorm2d(4), KBQuantizer(1, 2)]
    return convert(settled(nn.Sequential(*layers, *hidden, nn.Flatten(), nn.Linear(48, 4)), X), X[:1], PIXELS)


def test_flipped_encoders_neither_take_nor_give_kept_counts() -> None:
    network, images = ternary_throughout(), random_images(23, (2, 7, 8))
    engine = DenseEngine(network)
    flips, clean = BitFlips(0.3, ("encoder",)), Deletion(0.0)
    deletion = Deletion(0.4, ("all",))
    alone = [simulate(engine, images, own).to_dict() for own in ([flips], [clean], [flips, deletion], [deletion])]
    assert alone[0]["spikes_per_image"] != alone[1]["spikes_per_image"]
    for first in (flips, clean):
        kept = Batches(images, network, 10, repeats=True)
        for own in ([first], [flips], [clean], [flips, deletion], [deletion], [clean], [flips]):
            expected = alone[[[flips], [clean], [flips, deletion], [deletion]].index(own)]
            assert simulate(engine, images, own, batches=kept).to_dict() == expected
    assert Trial(network, [flips]).changed == {*network.encoders}
    assert Trial(network, [BitFlips(0.0), WeightMismatch(0.1, ("encoder",))]).changed == {*network.encoders}
    assert Trial(network, [deletion, InputNoise(0.3)]).changed == frozenset()


def test_the_same_noise_may_act_on_other_layers_with_another_ratio() -> None:
    network = random_network(1)
    first, second, *_ = (name for name, _ in network.units())
    trial = Trial(network, [Deletion(1.0, (first,)), Deletion(0.0, (second,))])
    assert trial.taps(IMAGES)[0](second, torch.ones(6, 4, dtype=torch.int8), 0).all()


def test_engines_of_integers_refuse_noise_that_leaves_them() -> None:
    network, images = random_network(1), random_images(4, (2, 7, 8))
    for name in ("weight", "threshold", "membrane"):
        with pytest.raises(
            ConfigError, match="leaves the integers, which the events engine keeps to: take --engine de"
        ):
            simulate(EventsEngine(network), images, [noise_of(name)])
    taken = simulate(choose_engine(network, "auto"), images, [ThresholdMismatch(0.1, ("encoder",))]).to_dict()
    assert taken["choices"][network.encoders[0]] == "dense" and "|" not in str(taken["choices"])
    simulate(EventsEngine(network), images, [noise_of("bitflip"), noise_of("insertion")])


def test_noise_from_python() -> None:
    network, images = random_network(1), random_images(9, (2, 7, 8))
    one = simulate_api(network, images, noise=["deletion:0.3@all", "threshold:0.2"], seed=3)
    assert [own["name"] for own in one.noise] == ["deletion", "threshold"]
    short = simulate_api(network, images, noise_ratio=0.3, noise_layers=("all",), seed=3)
    assert short.correct_by_trial == simulate_api(network, images, noise=["deletion:0.3@all"], seed=3).correct_by_trial
    assert short.noise_ratio == 0.3 and short.noise == [
        {"name": "deletion", "ratio": 0.3, "layers": [name for name, _ in network.units()]}
    ]


def test_more_noise_of_a_kind_reaches_more_units() -> None:
    hit = [happens(9, torch.arange(4000), ratio) for ratio in (0.0, 0.1, 0.4, 1.0)]
    assert not hit[0].any() and hit[-1].all()
    assert all(bool((more | ~less).all()) for less, more in pairwise(hit))

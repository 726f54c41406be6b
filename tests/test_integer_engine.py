"""The int8 way against sums written out in int64, on several instruction sets; its ladders are proven or not taken."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import TWTA, random_network
from test_engines import IntegerEngine, assert_same, images, ladder_counts, residual
from test_kernels import convolutions, draw, numbers, written_out
from torch import Tensor, nn

from snnconv.engines import integer
from snnconv.engines.affine import Affine, fit_rounding
from snnconv.engines.integer import IntegerSynapse, has_operators, integer_step, rounding_of
from snnconv.engines.registry import AutoEngine
from snnconv.errors import ParityError
from snnconv.formats.native import load
from snnconv.grids import Grid, k_b_grid
from snnconv.runs import NETWORK, shipped_run
from snnconv.snn.layers import Branch, Encoder, Flatten, Readout, SpikingLayer, Stage, SumPool2d, spiking_layer
from snnconv.snn.network import Header, Node, SpikingNetwork
from snnconv.snn.synapses import Conv2dSynapse, IdentitySynapse, LinearSynapse, Synapse
from snnconv.snn.thresholds import derive_ladder

there = pytest.mark.skipif(not has_operators(), reason="torch has no int8 operators on this machine")

UNEVEN = Grid(1.0, 3, 1, (-0.6, 0.1, 0.9, 4.0), (True, False, True, True))


def fired(potential: Tensor, layer: SpikingLayer) -> Tensor:
    """Counts of int64 potentials of one branch, by the definition."""
    shape = (1, -1, *[1] * (potential.ndim - 2))
    signed = potential * layer.multipliers[0].reshape(shape)
    return sum((signed >= row.reshape(shape)).long() for row in layer.neuron.thresholds) - layer.grid.negative


def any_layer(synapse: Synapse, grid: Grid, limits: tuple[int, int], generator: torch.Generator) -> SpikingLayer:
    """A layer whose scales take both signs and 0."""
    scale = torch.randn(synapse.out_channels, dtype=torch.float64, generator=generator) * 0.1
    scale[1::4] = 0
    offset = torch.randn(synapse.out_channels, dtype=torch.float64, generator=generator)
    return spiking_layer([Branch(synapse, scale, offset)], grid, [max(limits[1], -limits[0])])


def assert_exact(synapse: Synapse, counts: Tensor, limits: tuple[int, int], layer: SpikingLayer) -> None:
    """Potentials, and where the ladder is proven counts, are those written out."""
    assert IntegerSynapse.fits(synapse, limits)
    expected = (
        written_out(counts, synapse.weight, synapse)
        if isinstance(synapse, Conv2dSynapse)
        else counts.long() @ synapse.weight.long().T
    )
    shape, rounding = tuple(counts.shape[1:]), rounding_of(layer, limits)
    bare = IntegerSynapse(synapse, torch.ones(synapse.out_channels), shape, limits)
    given_counts = [counts]
    if counts.ndim == 4:
        given_counts.append(counts.contiguous(memory_format=torch.channels_last))
    for x in given_counts:
        assert torch.equal(bare(x).long(), expected)
        if rounding is not None:
            codes = -layer.grid.negative, layer.grid.positive
            fused = IntegerSynapse(synapse, layer.multipliers[0], shape, limits, rounding, codes)(x)
            assert fused.dtype == torch.int8
            assert torch.equal(fused.long(), fired(expected, layer))


@there
@settings(max_examples=60, deadline=None)
@given(
    convolutions(), st.integers(0, 10**6), st.booleans(),
    st.sampled_from((k_b_grid(1, 2), k_b_grid(0, 1), k_b_grid(3, 2), TWTA, UNEVEN)),
)  # fmt: skip
def test_convolutions_equal_the_sums_written_out(
    case: tuple[Conv2dSynapse, Tensor, tuple[int, int]], seed: int, wide: bool, grid: Grid
) -> None:
    synapse, counts, limits = case
    if wide and limits[0] == 0:  # weights of eight bits, counts of seven
        synapse.weight = numbers(-127, 127, tuple(synapse.weight.shape), draw(seed))
        counts, limits = (counts * 127).clamp(0, 127).to(torch.int8), (0, 127)
    assert_exact(synapse, counts, limits, any_layer(synapse, grid, limits, draw(seed)))


@there
@pytest.mark.parametrize(
    ("order", "groups"), [((1, 2, 3, 0), 1), ((1, 2, 3, 0), 2), ((3, 1), 1), ((2, 2, 0), 1)], ids=str
)
def test_channels_are_read_in_their_order(order: tuple[int, ...], groups: int) -> None:
    generator = draw(0)
    weight = numbers(-1, 1, (6, len(order) // groups, 3, 2), generator)
    synapse = Conv2dSynapse(weight, (1, 2), (1, 0, 0, 2), groups=groups, channels=order)
    layer = any_layer(synapse, k_b_grid(1, 2), (0, 4), generator)
    assert_exact(synapse, numbers(0, 4, (3, 4, 6, 7), generator), (0, 4), layer)


@there
@pytest.mark.parametrize(
    ("outputs", "inputs", "groups", "kernel", "stride", "padding"),
    [(33, 1, 4, 3, 1, 1), (48, 1, 2, 3, 1, 0), (65, 1, 1, 3, 1, 1), (40, 1, 1, 3, 1, 3), (16, 3, 1, 1, 5, 1)],
)
def test_signed_counts_are_summed_right_where_the_zero_point_is_not(
    outputs: int, inputs: int, groups: int, kernel: int, stride: int, padding: int
) -> None:
    generator = draw(1)
    weight = numbers(-1, 1, (outputs * groups, inputs, kernel, kernel), generator)
    synapse = Conv2dSynapse(weight, (stride, stride), (padding,) * 4, groups=groups)
    counts = numbers(-1, 1, (3, inputs * groups, 7, 8), generator)
    assert_exact(synapse, counts, (-1, 1), any_layer(synapse, TWTA, (-1, 1), generator))


@there
@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 80), st.integers(1, 9),
    st.sampled_from(((0, 1), (0, 127), (-1, 1), (-127, 127), (-3, 100))), st.integers(0, 10**6),
)  # fmt: skip
def test_dense_layers_equal_the_sums_written_out(
    inputs: int, outputs: int, batch: int, limits: tuple[int, int], seed: int
) -> None:
    generator = draw(seed)
    synapse = LinearSynapse(numbers(-1, 1, (outputs, inputs), generator))
    layer = any_layer(synapse, k_b_grid(1, 2), limits, generator)
    assert_exact(synapse, numbers(*limits, (batch, inputs), generator), limits, layer)


# -------------------------------------------------------------------- full scale, every instruction set


def sums_at_full_scale() -> None:
    """All counts at their largest, all weights of one sign, so that 16 bits are as full as ``fits`` allows."""
    taps = torch.tensor([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    for weight, low, high, channels in ((1, 0, 127, 1000), (127, 0, 127, 100), (127, 0, 1, 1000), (1, -127, 127, 700), (63, -127, 127, 90)):  # fmt: skip
        for sign in (1, -1):
            codes = torch.full((33, channels, 3, 3), sign * weight, dtype=torch.int8)
            synapse = Conv2dSynapse(codes, padding=(1, 1, 1, 1))
            linear = LinearSynapse(codes[:, :, 0, 0].contiguous())
            assert IntegerSynapse.fits(synapse, (low, high)) and IntegerSynapse.fits(linear, (low, high))
            image = IntegerSynapse(synapse, torch.ones(33), (channels, 3, 3), (low, high))
            row = IntegerSynapse(linear, torch.ones(33), (channels,), (low, high))
            for count in (low, high):
                one = sign * weight * channels * count
                sums = image(torch.full((2, channels, 3, 3), count, dtype=torch.int8))
                assert torch.equal(sums.long(), (one * taps).expand(2, 33, 3, 3)), (weight, low, high, count)
                sums = row(torch.full((5, channels), count, dtype=torch.int8))
                assert torch.equal(sums.long(), torch.full((5, 33), one)), (weight, low, high, count)


def networks_agree() -> None:
    """Small networks of unsigned and of signed counts, grouped, strided and padded."""
    for seed, grid in ((1, None), (8, TWTA), (11, None)):
        network, x = random_network(seed, grid), images(seed)
        with torch.no_grad():
            assert torch.equal(IntegerEngine(network).run(x), network(x))


@there
def test_full_sums_do_not_saturate() -> None:
    sums_at_full_scale()


@there
@pytest.mark.parametrize(
    "instructions",
    ["AVX2", pytest.param("SSE41", marks=pytest.mark.slow), pytest.param("AVX512_CORE", marks=pytest.mark.slow)],
)
def test_nor_do_they_on_processors_without_vnni(instructions: str) -> None:
    """oneDNN adds two products in 16 bits there; it obeys the variable on any processor that has more."""
    code = "from test_integer_engine import *; sums_at_full_scale(); networks_agree()"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_could_saturate_or_round_is_left_to_other_ways() -> None:
    def synapse(weight: int, fan_in: int = 10) -> LinearSynapse:
        return LinearSynapse(torch.full((2, fan_in), weight, dtype=torch.int8))

    fits = IntegerSynapse.fits
    assert fits(synapse(127), (0, 127))
    assert not fits(synapse(1), (0, 128))
    assert not fits(synapse(-128), (0, 1))  # its opposite is no int8
    assert fits(synapse(64), (-127, 127))  # 2 * 64 * 254 = 32512
    assert not fits(synapse(65), (-127, 127))  # 2 * 65 * 254 = 33020
    assert fits(synapse(1, (2**24 - 1) // 127), (0, 127))
    assert not fits(synapse(1, (2**24 - 1) // 127 + 1), (0, 127))
    assert not fits(LinearSynapse(torch.ones(2, 2)), (0, 1))
    assert not fits(IdentitySynapse(torch.ones(2, 1, dtype=torch.int8)), (0, 1))


# ------------------------------------------------------------------------------------------ the ladder


def rounded(rounding: Affine, U: Tensor, codes: tuple[int, int]) -> list[Tensor]:
    """Counts (potentials, C) in float32 by three orders of evaluation: one rounding, two, and shifted first."""
    slope, shift = rounding.slope.numpy(), rounding.shift.numpy()
    potential = U.numpy().astype(np.float32)[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        once = (potential.astype(np.float64) * slope + shift).astype(np.float32)
        values = [once, potential * slope + shift, (potential + shift / slope) * slope]
    return [torch.from_numpy(np.rint(value.clip(*codes))).long() for value in values]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 6), st.integers(0, 3),
    st.lists(st.tuples(st.floats(1e-4, 20) | st.just(0.0), st.floats(-30, 30)), min_size=1, max_size=4),
    st.integers(0, 120),
)  # fmt: skip
def test_a_proven_map_is_right_at_every_potential(
    levels: int, negative: int, channels: list[tuple[float, float]], reach: int
) -> None:
    negative = min(negative, levels)
    boundaries = tuple(i + 0.5 - negative for i in range(levels))
    grid = Grid(1.0, levels - negative, negative, boundaries, (True,) * levels)
    scale = torch.tensor([s for s, _ in channels], dtype=torch.float64)
    ladder = derive_ladder(scale[None], torch.tensor([o for _, o in channels], dtype=torch.float64), [reach], grid)
    rounding = fit_rounding(ladder.thresholds, negative, scale, torch.full((len(channels),), reach))
    if rounding is not None:
        for got in rounded(rounding, torch.arange(-reach, reach + 1), (-negative, levels - negative)):
            assert torch.equal(got, ladder_counts(ladder.thresholds, negative, reach))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-12, 12), min_size=1, max_size=4), st.integers(0, 2),
    st.floats(0.01, 4) | st.sampled_from((1e-60, 1e-30, 1e30, 1e60)), st.integers(0, 10),
)  # fmt: skip
def test_whatever_the_thresholds_a_map_is_right_or_none(
    thresholds: list[int], negative: int, slope: float, reach: int
) -> None:
    T = torch.tensor(sorted(thresholds)).clamp(-reach, reach + 1)[:, None]
    negative = min(negative, len(T))
    rounding = fit_rounding(T, negative, torch.tensor([slope], dtype=torch.float64), torch.tensor([reach]))
    if rounding is not None:
        for got in rounded(rounding, torch.arange(-reach, reach + 1), (-negative, len(T) - negative)):
            assert torch.equal(got, ladder_counts(T, negative, reach))


def fit(thresholds: list[int], slope: float, reach: int = 200) -> Affine | None:
    """Of one channel, without codes below zero."""
    return fit_rounding(
        torch.tensor(thresholds)[:, None], 0, torch.tensor([slope], dtype=torch.float64), torch.tensor([reach])
    )


def test_a_ladder_by_hand() -> None:
    """Thresholds 10, 20, 30, 40: slope 1/10, and midway between U = 9 and 10 the value is 1/2."""
    rounding = fit([10, 20, 30, 40], 0.1)
    assert rounding is not None
    assert rounding.slope.item() == pytest.approx(0.1)
    assert rounding.shift.item() == pytest.approx(0.5 - 9.5 * 0.1)


@pytest.mark.parametrize(
    ("thresholds", "slope"),
    [
        ([10, 20, 30, 40], 1 / 11),  # steps of 11 where they are 10
        ([10, 20, 30, 40], 1 / 10.5),  # the last step would come a potential late
        ([10, 20, 30, 41], 1 / 10),  # a threshold is off by one
        ([10, 20, 31, 40], 1 / 10),
        ([0, 1, 100], 1.0),  # uneven
        ([5, 5, 6], 0.5),  # two levels at once
    ],
)
def test_the_proof_refuses_a_map_that_is_off_by_one(thresholds: list[int], slope: float) -> None:
    assert fit(thresholds, slope) is None


def test_the_proof_refuses_what_only_rounding_decides() -> None:
    """Next to a threshold T the value is slope / 2 off a half and may be wrong by 2^-21 * 2 slope T: T < 2^19."""
    assert fit([2**18], 1.0, 2**21) is not None
    assert fit([2**20], 1.0, 2**21) is None


def test_every_hidden_layer_of_a_trained_network_is_one_call() -> None:
    network = load(shipped_run().file(NETWORK))
    hidden = [layer for layer in network.layers.values() if isinstance(layer, SpikingLayer)]
    assert len(hidden) == 5
    assert all(rounding_of(layer, (0, 4)) is not None for layer in hidden)


# ----------------------------------------------------------------------------------------- in networks


def chain(units: list[nn.Module], shape: tuple[int, ...]) -> SpikingNetwork:
    """Units behind an encoder of L = 4 that passes the pixels; each has four channels of that shape."""
    encoder = Encoder(
        [Stage(Branch(Conv2dSynapse(torch.ones(4, 1, 1, 1)), torch.ones(4), torch.zeros(4)))], k_b_grid(0, 4)
    )
    names = ["encoder", *(f"unit{i}" for i in range(len(units))), "flatten", "readout"]
    size = torch.Size(shape).numel()
    out = Readout([Branch(LinearSynapse(torch.ones(2, 4 * size)), torch.ones(2), torch.zeros(2))])
    nodes = {name: Node((before,), (4, *shape)) for before, name in zip(["input", *names], names, strict=False)}
    for name, before, unit in zip(names[1:], names, units, strict=False):
        nodes[name] = Node((before,) * len(getattr(unit, "branches", "1")), (4, *shape))  # all branches read one wire
    nodes |= {"flatten": Node((names[-3],), (4 * size,)), "readout": Node(("flatten",), (2,))}
    return SpikingNetwork(dict(zip(names, [encoder, *units, Flatten(), out], strict=True)), nodes, Header((1, *shape)))


def conv_unit(grid: Grid, largest: int, weight: int = 1) -> SpikingLayer:
    generator = draw(0)
    synapse = Conv2dSynapse(numbers(-weight, weight, (4, 4, 3, 3), generator), padding=(1, 1, 1, 1))
    scale = torch.tensor([0.2, -0.3, 0.0, 0.25], dtype=torch.float64)
    return spiking_layer([Branch(synapse, scale, torch.tensor([0.3, 0.9, 1.2, -0.4]))], grid, [largest])


@there
def test_ladders_that_cannot_be_proven_take_the_potentials() -> None:
    unit = conv_unit(UNEVEN, 4)
    network, x = chain([unit], (5, 6)), torch.rand(3, 1, 5, 6, generator=draw(1)) * 4
    assert rounding_of(unit, (0, 4)) is None
    assert integer_step(network, "unit0") is not None
    assert_same(network, x)


@there
def test_only_spiking_layers_take_it() -> None:
    network = chain([conv_unit(k_b_grid(1, 2), 4)], (5, 6))
    assert [name for name in network.layers if integer_step(network, name) is not None] == ["unit0"]


def sum_unit(grid: Grid, largest: int, generator: torch.Generator) -> SpikingLayer:
    """Two convolutions, one of weights beyond int8's limits, and a shortcut."""
    small, large = (numbers(-w, w, (4, 4, 3, 3), generator) for w in (1, 127))
    large[0, 0, 0, 0] = -128
    synapses: list[Synapse] = [Conv2dSynapse(weight, padding=(1, 1, 1, 1)) for weight in (small, large)]
    synapses.append(IdentitySynapse(torch.ones(4, 1, dtype=torch.int8)))
    scales = torch.randn(3, 4, dtype=torch.float64, generator=generator) * torch.tensor([[0.2], [0.002], [0.5]])
    branches = [Branch(synapse, scale, scale + 0.3) for synapse, scale in zip(synapses, scales, strict=True)]
    return spiking_layer(branches, grid, [largest] * 3)


@there
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("grid", [k_b_grid(1, 2), TWTA, UNEVEN], ids=["k1B2", "TWTA", "uneven"])
def test_sums_of_branches_take_it_too(seed: int, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer, "CHUNK", 2 * 4 * 5 * 6)  # two images a time
    generator = draw(seed)
    network = chain([sum_unit(grid, 4, generator), sum_unit(grid, grid.largest, generator)], (5, 6))
    assert all(integer_step(network, name) is not None for name in ("unit0", "unit1"))
    assert_same(network, torch.rand(7, 1, 5, 6, generator=generator) * 4)


@there
def test_wires_that_int8_cannot_carry_are_left_to_other_ways() -> None:
    pool = SumPool2d((7, 7), (1, 1), (3, 3, 3, 3))
    wide = chain([pool, conv_unit(k_b_grid(1, 2), 4 * 49)], (5, 6)), chain([pool, sum_unit(TWTA, 196, draw(0))], (5, 6))
    for network in wide:
        assert integer_step(network, "unit1") is None
        assert_same(network, torch.rand(3, 1, 5, 6, generator=draw(1)) * 4)
    shortcut = wide[1]  # its convolutions read the encoder, its shortcut the pool
    shortcut.nodes["unit1"] = Node(("encoder", "encoder", "unit0"), (4, 5, 6))
    assert integer_step(shortcut, "unit1") is None
    assert_same(shortcut, torch.rand(3, 1, 5, 6, generator=draw(1)) * 4)


@there
def test_a_residual_network_is_the_plain_forward() -> None:
    assert_same(residual(), images(5))


def test_where_the_operators_are_missing_other_ways_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(1)
    units = [name for name, unit in network.units() if isinstance(unit, SpikingLayer)]
    elsewhere = network.on(torch.device("meta"))
    assert all(integer_step(elsewhere, name) is None for name in units)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's flags warn of TF32
        with torch.backends.mkldnn.flags(enabled=False):
            assert all(integer_step(network, name) is None for name in units)
    with monkeypatch.context() as patch:
        patch.setattr(integer, "OPERATORS", ("qconv_prepack", "no_such_operator"))
        assert all(integer_step(network, name) is None for name in units)
        assert "integer" not in "|".join(AutoEngine(network).choices.values())
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SVE256")
        assert all(integer_step(network, name) is None for name in units)


@there
def test_auto_may_take_it() -> None:
    network = random_network(1)
    assert "integer" in "|".join(AutoEngine(network).choices.values())


@there
def test_counts_depend_neither_on_threads_nor_on_the_batch() -> None:
    before = torch.get_num_threads()
    try:
        for seed, grid in ((5, None), (6, TWTA)):
            network, x = random_network(seed, grid), images(seed, 11)
            with torch.no_grad():
                whole = network(x)
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                engine = IntegerEngine(network)
                for size in (11, 1, 3):
                    assert torch.equal(torch.cat([engine.run(part) for part in x.split(size)]), whole)
    finally:
        torch.set_num_threads(before)


@there
def test_a_wrong_map_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one(*arguments: Tensor) -> Affine | None:
        rounding = fit_rounding(*arguments)  # type: ignore[arg-type]
        return None if rounding is None else Affine(rounding.slope, rounding.shift + rounding.slope)

    monkeypatch.setattr(integer, "fit_rounding", off_by_one)
    with pytest.raises(ParityError, match="the integer kernels send other counts than dense"):
        AutoEngine(random_network(0)).run(images(0))

"""Float weights as integer codes: what is rounded, what the bound says of it, what files and engines hold."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from own_networks import IMAGES, SHAPE, Tutorial, act, awake, made
from samples import PIXELS, ternary
from torch import nn

from snnconv.conversion.convert import convert
from snnconv.conversion.fixed_point import fix_weights, narrowed, to_fixed_point
from snnconv.conversion.values import Sum, Term
from snnconv.engines.integer import IntegerSynapse
from snnconv.engines.kernels import Convolution
from snnconv.engines.registry import choose_engine
from snnconv.errors import ConversionError, FormatError
from snnconv.formats.native import load, save
from snnconv.grids import k_b_grid
from snnconv.snn.layers import SpikingLayer, spiking_layer
from snnconv.snn.noise_models import parse_noise
from snnconv.snn.simulation import simulate
from snnconv.snn.synapses import LinearSynapse

WEIGHTS = st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3)


@settings(max_examples=100, deadline=None)
@given(st.lists(WEIGHTS, min_size=1, max_size=4), st.integers(-5, 45))
def test_codes_are_the_rounded_weights_within_what_is_said_to_be_missed(rows: list[list[float]], places: int) -> None:
    weight = torch.tensor(rows, dtype=torch.float64)
    fixed = to_fixed_point(weight, torch.full((len(rows),), float(places), dtype=torch.float64))
    for row, codes, own, missed in zip(rows, fixed.codes.tolist(), fixed.places.tolist(), fixed.missed, strict=True):
        errors = [abs(Fraction(w) - c / Fraction(2) ** int(own)) for w, c in zip(row, codes, strict=True)]
        assert all(error <= Fraction(1, 2) / Fraction(2) ** places for error in errors)
        assert abs(sum(errors) - Fraction(float(missed))) <= Fraction(float(missed)) / 2**40
        assert not any(codes) or any(code % 2 for code in codes) or own == places


def test_trained_float32_weights_are_codes_without_any_rounding() -> None:
    torch.manual_seed(1)
    for layer in (nn.Conv2d(4, 8, 3), nn.Conv2d(4, 4, 3, groups=4)):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), act(), layer, act(), nn.Flatten(), nn.LazyLinear(3)).eval()
        model(torch.rand(1, 3, 8, 8))
        unit = convert(model, torch.rand(1, 3, 8, 8)).layers["_3"]
        branch = unit.branches[0]
        assert float(unit.error.max()) == 0.0
        assert unit.reach < 2**52
        back = branch.synapse.weight.double() * (branch.scale / 0.5).reshape(-1, 1, 1, 1)
        assert torch.equal(back, layer.weight.double())


@pytest.mark.parametrize(
    ("codes", "dtype"),
    [([127, -127], torch.int8), ([128, 0], torch.int16), ([-(2**15), 1], torch.int32), ([2**31, 0], torch.int64), ([0], torch.int8)],
)  # fmt: skip
def test_codes_take_the_narrowest_integers_with_negatives(codes: list[int], dtype: torch.dtype) -> None:
    assert narrowed(torch.tensor(codes)).dtype == dtype


def test_float_weights_on_a_coarse_grid_are_ternary_codes_for_every_engine() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), act(), nn.Conv2d(4, 4, 3), act(), nn.Flatten(), nn.LazyLinear(3)).eval()
    model(torch.rand(1, 3, 8, 8))
    with torch.no_grad():
        model[2].weight.copy_(torch.randint(-1, 2, (4, 4, 3, 3)) * 0.125)
    network = convert(model, torch.rand(1, 3, 8, 8))
    weight = network.layers["_3"].branches[0].synapse.weight
    assert weight.dtype == torch.int8 and int(weight.abs().max()) == 1


@pytest.mark.parametrize("code", [2**16, 2**8, 2**24 + 1])
def test_engines_leave_codes_of_more_than_8_bits_to_dense(code: int) -> None:
    """Cast to fewer bits, these codes look like 0 or 1."""
    wide = LinearSynapse(narrowed(torch.tensor([[code, 0]])))
    assert not IntegerSynapse.fits(wide, (0, 1))
    assert not Convolution.fits(wide, (0, 1))
    as_int64 = LinearSynapse(torch.tensor([[1, 0]]))  # not as conversion makes them
    assert not IntegerSynapse.fits(as_int64, (0, 1)) and not Convolution.fits(as_int64, (0, 1))


def test_bit_flips_leave_codes_of_more_than_8_bits_alone() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), act(), nn.Conv2d(4, 4, 3), act(), ternary(nn.Conv2d(4, 4, 3)), act()),
        *(nn.Flatten(), nn.LazyLinear(4)),
    )
    model(torch.rand(1, *SHAPE))
    network = convert(awake(model), torch.zeros(1, *SHAPE), PIXELS)
    noise = parse_noise("bitflip:0.2@all")
    assert noise.on(network) == ("_5",)
    simulate(choose_engine(network, "dense"), IMAGES, [noise])


@pytest.mark.parametrize("part", ["weight", "rounding"])
def test_files_with_damaged_codes_are_refused(part: str, tmp_path: Path) -> None:
    _, network = made("tutorial")
    branch = network.layers["q_fc1"].branches[0]
    if part == "weight":
        branch.synapse.weight = branch.synapse.weight * 2**20  # potentials beyond 53 bits
    else:
        branch.rounding -= 1.0
    save(network, tmp_path / "network.safetensors")
    with pytest.raises(FormatError, match="is damaged: .*(53 bits|rounding must hold)"):
        load(tmp_path / "network.safetensors")


def test_files_hold_wide_codes_in_integers_that_fit(tmp_path: Path) -> None:
    _, network = made("mobile")
    save(network, tmp_path / "network.safetensors")
    again = load(tmp_path / "network.safetensors")
    for name, layer in network.layers.items():
        if isinstance(layer, SpikingLayer):
            for branch, own in zip(layer.branches, again.layers[name].branches, strict=True):
                assert torch.equal(branch.synapse.weight, own.synapse.weight)
                assert branch.synapse.weight.dtype == own.synapse.weight.dtype
                assert torch.equal(branch.rounding, own.rounding)
            assert torch.equal(layer.error, again.layers[name].error)


def synapses(kind: str, draw: torch.Generator, size: float) -> LinearSynapse:
    if kind == "codes":
        return LinearSynapse(torch.randint(-1, 2, (3, 4), generator=draw).to(torch.int8))
    return LinearSynapse(torch.randn(3, 4, generator=draw) * size)


@settings(max_examples=60, deadline=None)
@example(["codes", "floats"], 295134, 1e-3, 1)  # weights of one channel are all 0, those of another are not
@given(
    st.lists(st.sampled_from(("codes", "floats")), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.sampled_from((1e-12, 1e-3, 1.0, 1e6)),
    st.sampled_from((1, 9)),
)
def test_units_of_rounded_weights_are_right_outside_their_bound(
    kinds: list[str], seed: int, size: float, divisor: int
) -> None:
    """z by fractions; every unit whose value lies further from all boundaries than the bound must have its code."""
    draw = torch.Generator().manual_seed(seed)
    grid = k_b_grid(1, 2)
    terms = tuple(
        Term(
            f"w{i}",
            synapses(kind, draw, size),
            *torch.randn(2, 3, generator=draw, dtype=torch.float64),
            4,
            "x",
            divisor,
        )
        for i, kind in enumerate(kinds)
    )
    fixed = fix_weights(Sum(terms), grid)
    layer = spiking_layer([term.branch() for term in fixed.terms], grid, [4] * len(terms))
    assert layer.reach < 2**53
    assert float((layer.error / (size + 1)).max()) < 1e-10  # the bound is worth something
    counts = [torch.randint(-4, 5, (16, 4), generator=draw) for _ in terms]
    fired = layer(*(c.to(torch.int8) for c in counts))
    for image, channel in itertools.product(range(16), range(3)):
        z = Fraction(0)
        for term, own in zip(terms, counts, strict=True):
            weight = term.synapse.weight[channel].double().tolist()
            U = sum(Fraction(w) * int(c) for w, c in zip(weight, own[image].tolist(), strict=True))
            z += Fraction(float(term.scale[channel])) * U / term.divisor + Fraction(float(term.offset[channel]))
        bound = Fraction(float(layer.error[channel])) + abs(z) / 2**45
        if all(abs(z - Fraction(b)) > bound for b in grid.boundaries):
            assert int(fired[image, channel]) == sum(z >= Fraction(b) for b in grid.boundaries)


def test_weights_that_are_not_finite_are_refused_by_layer() -> None:
    model = awake(Tutorial())
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ConversionError, match=r"layer conv2 \(Conv2d\): its weight holds values that are not finite"):
        convert(model, torch.zeros(1, *SHAPE))

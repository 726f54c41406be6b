"""Integer thresholds: the count is the code at every integer potential a unit can have."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import grid_code, k_b_unit
from samples import TWTA

from snnconv.errors import ConversionError
from snnconv.grids import Grid, k_b_grid
from snnconv.snn.layers import Branch
from snnconv.snn.neurons.ladder import LadderNeuron, ladder_step
from snnconv.snn.synapses import LinearSynapse
from snnconv.snn.thresholds import Ladder, continue_thresholds, derive_ladder

EIGHTHS = st.integers(-40, 40).map(lambda n: n / 8)
SCALES = st.one_of(st.just(0.0), EIGHTHS, st.floats(1e-6, 1e3), st.floats(-1e3, -1e-6))
OFFSETS = st.one_of(EIGHTHS, st.floats(-100, 100))
ANYWHERE = st.one_of(EIGHTHS, st.floats(-50, 50), st.sampled_from((-math.inf, math.inf)))


@st.composite
def grids(draw: st.DrawFn, boundary: st.SearchStrategy[float] = ANYWHERE) -> Grid:
    levels = draw(st.integers(1, 5))
    negative = draw(st.integers(0, levels))
    pairs = draw(st.lists(st.tuples(boundary, st.booleans()), min_size=levels, max_size=levels))
    pairs.sort(key=lambda pair: (pair[0], not pair[1]))
    boundaries, closed = zip(*pairs, strict=True)
    return Grid(1.0, levels - negative, negative, boundaries, closed)


def code(grid: Grid, z: float) -> int:
    return grid_code(z, grid.boundaries, grid.closed, grid.negative)


def single(scales: list[float], offsets: list[float], reach: int, grid: Grid) -> Ladder:
    f64 = torch.float64
    return derive_ladder(torch.tensor([scales], dtype=f64), torch.tensor(offsets, dtype=f64), [reach], grid)


def counts(ladder: Ladder, potentials: torch.Tensor, grid: Grid) -> list[list[int]]:
    """Counts of (N, branches, C) synaptic potentials, by the ladder's equation."""
    Z = (ladder.multipliers * potentials).sum(1) + ladder.constant
    assert int(Z.abs().max()) <= ladder.reach
    return ((Z[None] >= ladder.thresholds[:, None]).sum(0) - grid.negative).tolist()


def every_potential(reach: int, channels: int) -> torch.Tensor:
    return torch.arange(-reach, reach + 1)[:, None, None].expand(-1, 1, channels)


@settings(max_examples=150, deadline=None)
@given(grids(), st.lists(st.tuples(SCALES, OFFSETS), min_size=1, max_size=5), st.integers(0, 30))
def test_the_count_is_the_code_at_every_potential(grid: Grid, channels: list[tuple[float, float]], reach: int) -> None:
    ladder = single([s for s, _ in channels], [o for _, o in channels], reach, grid)
    expected = [[code(grid, s * U + o) for s, o in channels] for U in range(-reach, reach + 1)]
    assert counts(ladder, every_potential(reach, len(channels)), grid) == expected


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([(0, 1), (0, 2), (1, 1), (1, 2), (1, 4)]),
    st.sampled_from([-1.25, -0.5, 0.0, 0.5, 1.0, 3.0]),
    st.floats(-1, 3),
    st.floats(-5, 5),
    st.floats(0.1, 9),
)
def test_the_published_thresholds_give_the_same_count(
    kb: tuple[int, int], gamma: float, beta: float, mu: float, sigma: float
) -> None:
    grid, reach = k_b_grid(*kb), 25
    scale, offset = gamma / sigma, beta - mu * gamma / sigma
    ladder = single([scale * grid.step], [offset], reach, grid)
    got = counts(ladder, every_potential(reach, 1), grid)
    for U, (count,) in zip(range(-reach, reach + 1), got, strict=True):
        z = scale * U * grid.step + offset
        if all(abs(z - b) > 1e-9 for b in grid.boundaries):
            assert count == k_b_unit(U, gamma, beta, mu, sigma, *kb)


@pytest.mark.parametrize(("scale", "expected"), [(0.25, [-1, -1, 0, 0, 0, 1, 1]), (-0.25, [1, 1, 0, 0, 0, -1, -1])])
def test_ternary_activations_keep_both_sides_closed_away_from_zero(scale: float, expected: list[int]) -> None:
    ladder = single([scale], [0.0], 3, TWTA)  # z = -3/4, -2/4 (a tie), -1/4, 0, 1/4, 2/4 (a tie), 3/4
    assert [c for (c,) in counts(ladder, every_potential(3, 1), TWTA)] == expected


def test_an_open_boundary_on_an_integer_fires_one_above_it() -> None:
    for closed, first in ((True, 4), (False, 5)):
        grid = Grid(1.0, 1, 0, (2.0,), (closed,))
        assert single([0.5], [0.0], 10, grid).thresholds.tolist() == [[first]]
        assert single([-0.5], [0.0], 10, grid).thresholds.tolist() == [[first]]


def test_thresholds_out_of_reach_lie_just_outside_it() -> None:
    grid = Grid(1.0, 3, 0, (-math.inf, 1e6, math.inf), (True,) * 3)
    ladder = single([1.0, -1.0, 0.0], [0.0, 0.0, 2e6], 7, grid)
    assert ladder.thresholds.tolist() == [[-7, -7, -7], [8, 8, -7], [8, 8, 8]]
    assert ladder.reach == 7


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(-40, 40)), min_size=1, max_size=4),
    st.sampled_from((k_b_grid(1, 2), k_b_grid(0, 1), Grid(0.5, 2, 0, (0.25, 0.75), (True, False)))),
    st.integers(1, 20),
    st.integers(0, 4),
)
@example([(0, 2), (0, 6), (0, 7)], Grid(0.5, 2, 0, (0.25, 0.75), (True, False)), 3, 2)
def test_continued_thresholds_are_where_the_value_reaches_each_boundary(
    channels: list[tuple[int, int]], grid: Grid, reach: int, more: int
) -> None:
    scale, offset = (torch.tensor([pair[side] / 8 for pair in channels], dtype=torch.float64) for side in (0, 1))
    ladder = derive_ladder(scale[None], offset, [reach], grid)
    levels = grid.levels + more
    own = continue_thresholds(ladder.thresholds, reach, scale, offset, grid, levels)
    further = grid.continued(levels)
    for V in (-(2**40), *range(-400, 401), 2**40):  # far beyond the ladder's reach
        count = (own <= V).sum(0).tolist()
        assert count == [code(further, a / 8 * V + b / 8) for a, b in channels]


def test_a_unit_may_fire_on_silent_input() -> None:
    grid = k_b_grid(0, 2)
    assert counts(single([1.0], [1.5], 0, grid), torch.zeros(1, 1, 1, dtype=torch.int64), grid) == [[2]]


def test_a_large_reach_loses_no_integer() -> None:
    reach = 2**30
    grid = Grid(1.0, 1, 0, (1.0,), (True,))
    scales = [1 / 3**9, 3.0**-18, 2.0**-29]
    ladder = single(scales, [0.0] * 3, reach, grid)
    for channel, scale in enumerate(scales):
        T = int(ladder.thresholds[0, channel])
        assert scale * T >= 1.0 > scale * (T - 1)


@pytest.mark.parametrize("scale", [1e-17, -1e-17, 1e-20, 1e-40, 5e-324])
@pytest.mark.parametrize("closed", [True, False])
def test_a_vanishing_scale_beside_an_offset_on_a_boundary(scale: float, closed: bool) -> None:
    """In float64 scale * U + offset is the offset, or near it, at many potentials U at once."""
    grid = Grid(1.0, 1, 0, (0.5,), (closed,))
    ladder = single([scale], [0.5], 40, grid)
    expected = [[code(grid, scale * U + 0.5)] for U in range(-40, 41)]
    assert counts(ladder, every_potential(40, 1), grid) == expected


@settings(max_examples=120, deadline=None)
@given(
    grids(),
    st.lists(st.tuples(SCALES, SCALES, OFFSETS), min_size=1, max_size=3),
    st.tuples(st.integers(0, 6), st.integers(1, 6)),
)
def test_several_branches_are_exact_within_their_stated_error(
    grid: Grid, channels: list[tuple[float, float, float]], reaches: tuple[int, int]
) -> None:
    scales = torch.tensor([[c[0] for c in channels], [c[1] for c in channels]], dtype=torch.float64)
    ladder = derive_ladder(scales, torch.tensor([c[2] for c in channels], dtype=torch.float64), list(reaches), grid)
    pairs = list(product(*(range(-reach, reach + 1) for reach in reaches)))
    potentials = torch.tensor(pairs)[:, :, None].expand(-1, -1, len(channels))
    got = counts(ladder, potentials, grid)
    for channel, (a, b, c) in enumerate(channels):
        error = Fraction(float(ladder.error[channel]))
        assert error < Fraction(1, 10**9)  # the bound is worth something
        for row, (U, V) in enumerate(pairs):
            z = Fraction(a) * U + Fraction(b) * V + Fraction(c)
            if all(math.isinf(edge) or abs(z - Fraction(edge)) > error for edge in grid.boundaries):
                assert got[row][channel] == code(grid, z)  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(grids(st.one_of(EIGHTHS, st.just(math.inf), st.just(-math.inf))), EIGHTHS, EIGHTHS, EIGHTHS)
def test_several_branches_of_dyadic_scales_are_exact_at_ties_too(grid: Grid, a: float, b: float, c: float) -> None:
    scales = torch.tensor([[a], [b]], dtype=torch.float64)
    ladder = derive_ladder(scales, torch.tensor([c], dtype=torch.float64), [4, 5], grid)
    pairs = list(product(range(-4, 5), range(-5, 6)))
    got = counts(ladder, torch.tensor(pairs)[:, :, None], grid)
    assert [count for (count,) in got] == [code(grid, a * U + b * V + c) for U, V in pairs]


def test_a_sum_that_a_clip_made_constant() -> None:
    """Behind Hardtanh(0, 0.2) a k0B1 unit of two branches never fires: all its boundaries are infinite."""
    grid = k_b_grid(0, 1).before_clip(0.0, 0.2)
    ladder = derive_ladder(torch.ones(2, 1).double(), torch.zeros(1).double(), [3, 3], grid)
    assert counts(ladder, torch.tensor([[[3], [3]], [[-3], [-3]]]), grid) == [[0], [0]]


@pytest.mark.parametrize(("closed", "count"), [(True, 1), (False, 0)])
def test_a_sum_whose_channel_is_dead_and_whose_boundary_is_zero(closed: bool, count: int) -> None:
    grid = Grid(1.0, 1, 0, (0.0,), (closed,))
    ladder = derive_ladder(torch.zeros(2, 1).double(), torch.zeros(1).double(), [3, 3], grid)
    assert counts(ladder, torch.tensor([[[2], [-1]]]), grid) == [[count]]


def test_potentials_of_several_branches_fit_float64() -> None:
    scales = torch.tensor([[1e3, -1e-3], [1e-9, 7.0]], dtype=torch.float64)
    ladder = derive_ladder(scales, torch.tensor([5.0, -2.0]).double(), [1000, 9], k_b_grid(1, 2))
    assert ladder.reach < 2**53


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scales_and_offsets_that_are_not_finite_are_refused(bad: float) -> None:
    for scale, offset in ((bad, 0.0), (1.0, bad)):
        with pytest.raises(ConversionError, match="not finite"):
            Branch(LinearSynapse(torch.ones(1, 1, dtype=torch.int8)), torch.tensor([scale]), torch.tensor([offset]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_a_ladder_step_counts_the_thresholds_reached(dtype: torch.dtype) -> None:
    thresholds = torch.tensor([[-3, 0], [2, 0], [2, 9]])
    potential = torch.tensor([[[-4, -3, 1, 2, 3], [-1, 0, 8, 9, 10]]], dtype=dtype)
    assert ladder_step(potential, thresholds, 1).tolist() == [[[-1, 0, 0, 2, 2], [-1, 1, 1, 2, 2]]]
    assert ladder_step(potential, thresholds, 1).dtype == torch.int8


def test_step_mode_m_is_the_stack_of_step_mode_s() -> None:
    neuron = LadderNeuron(torch.tensor([[0, 1, 2], [3, 4, 5]]), 1)
    potentials = torch.arange(-6, 12).reshape(3, 2, 3)
    single_steps = torch.stack([neuron(p) for p in potentials])
    neuron.step_mode = "m"
    assert torch.equal(neuron(potentials), single_steps)

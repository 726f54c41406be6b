"""Grids: the definition of a code, and what may be folded into boundaries."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import grid_code, k_b_code
from samples import TWTA

from snnconv.errors import ConfigError
from snnconv.grids import MAX_LEVELS, Grid, k_b_grid

KB = [(0, 1), (0, 2), (1, 1), (0, 4), (1, 2), (1, 4), (3, 2)]
QUARTERS = st.integers(-24, 24).map(lambda n: n / 4)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    levels = draw(st.integers(1, 5))
    negative = draw(st.integers(0, levels))
    pairs = draw(st.lists(st.tuples(QUARTERS, st.booleans()), min_size=levels, max_size=levels))
    pairs.sort(key=lambda pair: (pair[0], not pair[1]))  # of two boundaries at one place the closed one fires first
    boundaries, closed = zip(*pairs, strict=True)
    return Grid(draw(st.sampled_from((0.5, 1.0, 0.3))), levels - negative, negative, boundaries, closed)


@pytest.mark.parametrize(("k", "B"), KB)
def test_a_k_b_grid_has_its_published_levels_and_midpoints(k: int, B: int) -> None:
    grid = k_b_grid(k, B)
    assert (grid.levels, grid.positive, grid.negative, grid.largest) == (2**k * B, 2**k * B, 0, 2**k * B)
    assert grid.step == 2.0**-k
    assert grid.boundaries == tuple((i + 0.5) * 2.0**-k for i in range(2**k * B))
    assert all(grid.closed)


@given(st.sampled_from(KB), st.floats(-3, 9))
def test_codes_of_a_k_b_grid_are_the_equation_s(kb: tuple[int, int], z: float) -> None:
    assert k_b_grid(*kb).code(z) == k_b_code(z, *kb)


def test_k_b_ties_go_up_and_the_source_s_constant_moves_them_down() -> None:
    assert [k_b_grid(1, 2).code(z) for z in (0.25, 0.75, 1.25, 1.75)] == [1, 2, 3, 4]
    assert [k_b_grid(1, 2).code(math.nextafter(z, 0)) for z in (0.25, 0.75, 1.25, 1.75)] == [0, 1, 2, 3]
    assert k_b_grid(0, 1, tie=1e-5).code(0.5 - 0.9e-5) == 1
    assert k_b_grid(0, 1, tie=1e-5).code(0.5 - 1.1e-5) == 0


def test_twta_boundaries_are_closed_away_from_zero() -> None:
    assert [TWTA.code(z) for z in (-2, -0.5, math.nextafter(-0.5, 0), 0, math.nextafter(0.5, 0), 0.5)] == [
        -1,
        -1,
        0,
        0,
        0,
        1,
    ]
    assert (TWTA.levels, TWTA.largest) == (2, 1)


@given(grids(), QUARTERS)
def test_code_counts_the_boundaries_reached(grid: Grid, z: float) -> None:
    assert grid.code(z) == grid_code(z, grid.boundaries, grid.closed, grid.negative)
    assert -grid.negative <= grid.code(z) <= grid.positive


@settings(max_examples=200)
@given(grids(), QUARTERS, QUARTERS, QUARTERS)
def test_a_clip_folds_into_the_boundaries(grid: Grid, a: float, b: float, z: float) -> None:
    low, high = min(a, b), max(a, b)
    assert grid.before_clip(low, high).code(z) == grid.code(min(max(z, low), high))


@given(grids(), st.sampled_from((0.125, 0.25, 0.5, 1.0, 2.0)), QUARTERS)
def test_a_slope_folds_into_the_boundaries(grid: Grid, slope: float, z: float) -> None:
    assert grid.before_slope(slope).code(z) == grid.code(z if z > 0 else slope * z)


@given(grids(), QUARTERS)
def test_relu_is_the_clip_at_zero(grid: Grid, z: float) -> None:
    assert grid.before_clip(0.0, math.inf).code(z) == grid.code(max(z, 0.0))


@pytest.mark.parametrize("slope", [0.0, -0.25, math.nan])
def test_a_slope_that_is_not_above_zero_is_refused(slope: float) -> None:
    with pytest.raises(ConfigError, match="slope above 0"):
        TWTA.before_slope(slope)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1, 0, (0.5,), (True,)), "step"),
        ((math.inf, 1, 0, (0.5,), (True,)), "step"),
        ((1.0, 0, 0, (), ()), "levels"),
        ((1.0, -1, 2, (0.5,), (True,)), "levels"),
        ((1.0, 100, 28, (0.5,) * 128, (True,) * 128), "levels"),
        ((1.0, 2, 0, (0.5,), (True, True)), "boundaries"),
        ((1.0, 2, 0, (0.5, 1.5), (True,)), "boundaries"),
        ((1.0, 2, 0, (1.5, 0.5), (True, True)), "ascend"),
        ((1.0, 2, 0, (0.5, math.nan), (True, True)), "ascend"),
    ],
)
def test_an_impossible_grid_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Grid(*arguments)


def test_levels_are_bounded_so_that_a_count_fits_a_byte() -> None:
    assert k_b_grid(0, MAX_LEVELS).levels == 127
    for k, B in ((7, 1), (0, 128), (6, 2)):
        with pytest.raises(ConfigError, match="smaller k or B"):
            k_b_grid(k, B)


@pytest.mark.parametrize(("k", "B", "name"), [(-1, 1, "k"), (0, 0, "B"), (2, -3, "B")])
def test_k_and_b_out_of_range_are_named(k: int, B: int, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} \(= -?\d\)"):
        k_b_grid(k, B)


@given(grids(), QUARTERS)
def test_a_side_is_the_size_of_the_codes_of_one_sign(grid: Grid, z: float) -> None:
    assert set(grid.signs) == {sign for sign, codes in ((1, grid.positive), (-1, grid.negative)) if codes}
    for value in (z, math.nextafter(z, -math.inf), math.nextafter(z, math.inf)):
        for sign in grid.signs:
            side = grid.side(sign)
            assert (side.step, side.negative) == (grid.step, 0)
            assert side.code(sign * value) == max(sign * grid.code(value), 0)


def test_the_sides_of_twta_are_alike_and_those_of_sttn_are_not() -> None:
    assert TWTA.side(1) == TWTA.side(-1) == Grid(1.0, 1, 0, (0.5,), (True,))
    sttn = Grid(1.0, 1, 1, (-0.5, 0.5), (True, True))
    assert (sttn.side(1).closed, sttn.side(-1).closed) == ((True,), (False,))


def test_a_side_keeps_levels_that_always_or_never_fire() -> None:
    grid = Grid(1.0, 1, 2, (-math.inf, 0.5, math.inf), (False, True, True))
    assert [grid.side(-1).code(-z) for z in (0.0, 0.5)] == [1, 0]
    assert [grid.side(1).code(z) for z in (0.0, 9.0)] == [0, 0]


def test_a_sign_without_codes_has_no_side() -> None:
    with pytest.raises(ConfigError, match="1 to 127 levels"):
        k_b_grid(1, 2).side(-1)


def test_a_grid_goes_on_above_its_top_as_it_began() -> None:
    assert k_b_grid(1, 2).continued(8) == k_b_grid(1, 4)
    assert k_b_grid(1, 2).continued(2) == k_b_grid(1, 2)
    binary = Grid(1.0, 1, 0, (0.0,), (False,)).continued(3)
    assert (binary.boundaries, binary.closed, binary.positive) == ((0.0, 1.0, 2.0), (False,) * 3, 3)
    with pytest.raises(ConfigError, match="1 to 127 levels"):
        k_b_grid(1, 2).continued(128)

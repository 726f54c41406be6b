"""Activation quantizers: values, sides of boundaries, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import k_b_value

from snnconv.ann.quantizers import (
    KBQuantizer,
    StairQuantizer,
    binary_activation,
    shipped_binary_activation,
    signed_activation,
    sttn_activation,
    ternary_activation,
)

KB = st.sampled_from([(0, 1), (0, 2), (1, 1), (0, 4), (1, 2), (1, 4), (3, 2), (0, 127)])
VALUES = st.lists(st.floats(-4, 6, width=32), min_size=1, max_size=30)
NEXT = math.nextafter
DTYPES = [torch.float32, torch.float64]


@given(KB, VALUES)
def test_activations_are_the_equation_s(kb: tuple[int, int], values: list[float]) -> None:
    z = torch.tensor(values, dtype=torch.float64)
    assert KBQuantizer(*kb)(z).tolist() == [k_b_value(value, *kb) for value in values]


@given(KB, VALUES)
def test_activations_lie_on_the_grid_and_stay_there(kb: tuple[int, int], values: list[float]) -> None:
    quantizer = KBQuantizer(*kb)
    a = quantizer(torch.tensor(values))
    codes = a / quantizer.grid.step
    assert torch.equal(codes, codes.round())
    assert 0 <= float(codes.min()) <= float(codes.max()) <= quantizer.grid.levels
    assert torch.equal(quantizer(a), a)


@given(KB, VALUES)
def test_activations_are_monotone(kb: tuple[int, int], values: list[float]) -> None:
    a = KBQuantizer(*kb)(torch.tensor(sorted(values)))
    assert bool((a[1:] >= a[:-1]).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "B"), [(0, 1), (0, 4), (1, 2), (3, 2)])
def test_a_tie_goes_up(dtype: torch.dtype, k: int, B: int) -> None:
    quantizer = KBQuantizer(k, B)
    ties = torch.tensor(quantizer.grid.boundaries, dtype=dtype)
    codes = (quantizer(ties) / quantizer.grid.step).tolist()
    assert codes == list(range(1, quantizer.grid.levels + 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "B"), [(0, 1), (0, 4), (1, 2), (3, 2)])
def test_the_largest_number_below_a_tie_goes_down(dtype: torch.dtype, k: int, B: int) -> None:
    quantizer = KBQuantizer(k, B)
    ties = torch.tensor(quantizer.grid.boundaries, dtype=dtype)
    below = torch.nextafter(ties, torch.zeros((), dtype=dtype))
    codes = (quantizer(below) / quantizer.grid.step).tolist()
    assert codes == list(range(quantizer.grid.levels))


def test_infinite_values_saturate() -> None:
    assert KBQuantizer(1, 2)(torch.tensor([-math.inf, math.inf])).tolist() == [0.0, 2.0]


def test_the_source_s_tie_constant_moves_the_decision_down() -> None:
    z = torch.tensor([0.49998, 0.499995, 0.5], dtype=torch.float64)
    assert KBQuantizer(0, 1, tie=1e-5)(z).tolist() == [0.0, 1.0, 1.0]
    assert KBQuantizer(0, 1)(z).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize(("k", "B"), [(0, 1), (0, 4), (1, 2)])
def test_the_gradient_is_one_strictly_between_zero_and_b(dtype: torch.dtype, k: int, B: int) -> None:
    ends = torch.tensor([0.0, B], dtype=dtype)
    up, down = torch.nextafter(ends, ends.flip(0)).tolist()
    z = torch.tensor([-1, -up, 0, up, 0.3, B / 2, down, B, B + 0.1], dtype=dtype, requires_grad=True)
    (3 * KBQuantizer(k, B)(z)).sum().backward()
    assert z.grad.tolist() == [0, 0, 0, 3, 3, 3, 3, 0, 0]


def test_a_quantizer_leaves_its_input_alone() -> None:
    z = torch.tensor([-0.4, 0.3, 0.8, 9.0])
    before = z.clone()
    KBQuantizer(1, 2)(z)
    assert torch.equal(z, before)


# The activations of TWTA, TWBA and STTN, by hand
STAIRS: dict[str, tuple[Callable[[], StairQuantizer], list[tuple[float, float]]]] = {
    "ternary": (
        ternary_activation,
        [(-3, -1), (-0.5, -1), (NEXT(-0.5, 0), 0), (0, 0), (NEXT(0.5, 0), 0), (0.5, 1), (3, 1)],
    ),
    "binary": (binary_activation, [(-2, 0), (-5e-324, 0), (-0.0, 1), (0, 1), (2, 1)]),
    "three-level": (
        shipped_binary_activation,
        [(-1, 0), (NEXT(-0.4, -1), 0), (-0.4, 0.5), (0.39, 0.5), (0.4, 1), (9, 1)],
    ),
    "sttn": (
        sttn_activation,
        [(-3, -1), (NEXT(-0.5, -1), -1), (-0.5, 0), (0, 0), (NEXT(0.5, 0), 0), (0.5, 1), (3, 1)],
    ),
    "signed k1B1": (
        lambda: signed_activation(1, 1),
        [(-9, -1), (NEXT(-0.75, -1), -1), (-0.75, -0.5), (-0.25, 0), (0.25, 0.5), (0.74, 0.5), (0.75, 1), (9, 1)],
    ),
}


@pytest.mark.parametrize("name", STAIRS)
def test_stairs_change_on_the_published_side_of_their_boundaries(name: str) -> None:
    make, pairs = STAIRS[name]
    z = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64)
    assert make()(z).tolist() == [pair[1] for pair in pairs]


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("ternary", {0.0: 2, NEXT(1, 0): 2, NEXT(-1, 0): 2}, (1.0, -1.0, 1.5)),  # 2 * [|z| < 1]
        ("sttn", {0.0: 1, 1.0: 1, -1.0: 1}, (NEXT(1, 2), NEXT(-1, -2))),  # [|x| <= 1]
        ("binary", {0.0: 1, 1.0: 1, -1.0: 1}, (NEXT(1, 2), -1.5)),
        ("three-level", {0.0: 1, 1.0: 1, -1.0: 1}, (NEXT(1, 2), -1.5)),
    ],
)
def test_gradients_are_the_published_windows(name: str, inside: dict[float, float], outside: tuple[float, ...]) -> None:
    z = torch.tensor([*inside, *outside], dtype=torch.float64, requires_grad=True)
    (3 * STAIRS[name][0]()(z)).sum().backward()
    assert z.grad.tolist() == [3 * gain for gain in inside.values()] + [0.0] * len(outside)


def test_sttn_s_activation_is_the_signed_one_of_one_level() -> None:
    assert sttn_activation().grid == signed_activation(0, 1).grid
    assert signed_activation(1, 4).window == 4.0

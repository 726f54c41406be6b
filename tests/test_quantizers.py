"""Activation and weight quantizers: values, sides of boundaries, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import k_b_value
from samples import ternary
from torch import Tensor, nn

from snnconv.ann.quantizers import KBQuantizer
from snnconv.ann.weights import TernaryWeight

KB = st.sampled_from([(0, 1), (0, 2), (1, 1), (0, 4), (1, 2), (1, 4), (3, 2), (0, 127)])
VALUES = st.lists(st.floats(-4, 6, width=32), min_size=1, max_size=30)
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


@pytest.mark.parametrize(("k", "B"), [(0, 1), (0, 4), (1, 2)])
def test_the_gradient_is_one_strictly_between_zero_and_b(k: int, B: int) -> None:
    up, down = math.nextafter(0, 1), math.nextafter(B, 0)
    z = torch.tensor([-1, -up, 0, up, 0.3, B / 2, down, B, B + 0.1], dtype=torch.float64, requires_grad=True)
    (3 * KBQuantizer(k, B)(z)).sum().backward()
    assert z.grad.tolist() == [0, 0, 0, 3, 3, 3, 3, 0, 0]


def test_a_quantizer_leaves_its_input_alone() -> None:
    z = torch.tensor([-0.4, 0.3, 0.8, 9.0])
    before = z.clone()
    KBQuantizer(1, 2)(z)
    assert torch.equal(z, before)


def _ternary_codes(weights: list[float]) -> list[int]:
    """METHODS 1.2, by hand."""
    delta = 0.7 * sum(abs(w) for w in weights) / len(weights)
    return [1 if w >= delta else -1 if w <= -delta else 0 for w in weights]


def test_both_sides_of_the_ternary_threshold_are_closed() -> None:
    # mean |W| = (7 + 7 + 6.5 + 6.5 + 16.5 + 16.5) / 6 = 10, so Delta = 7
    weights = torch.tensor([[7.0, -7.0, 6.5, -6.5, 16.5, -16.5]])
    assert TernaryWeight().parts(weights)[0].codes.tolist() == [[1, -1, 0, 0, 1, -1]]


@settings(max_examples=50)
@given(st.lists(st.integers(-40, 40), min_size=1, max_size=24))
def test_ternary_codes_follow_the_rule(weights: list[int]) -> None:
    latent = torch.tensor(weights, dtype=torch.float64).reshape(1, -1)
    if any(weights) and not any(abs(abs(w) - 0.7 * latent.abs().mean()) < 1e-9 for w in weights):
        assert TernaryWeight().parts(latent)[0].codes.flatten().tolist() == _ternary_codes([float(w) for w in weights])


def test_the_ternary_threshold_is_one_a_layer_not_one_a_channel() -> None:
    latent = torch.tensor([[0.1, -0.1], [1.0, -1.0]])  # Delta = 0.7 * 0.55
    assert TernaryWeight().parts(latent)[0].codes.tolist() == [[0, 0], [1, -1]]


def test_a_layer_of_zeros_has_the_sign_of_zero_which_is_plus_one() -> None:
    assert TernaryWeight().parts(torch.zeros(2, 3))[0].codes.tolist() == [[1] * 3] * 2


def test_codes_and_scale_make_the_weight(generator: torch.Generator) -> None:
    layer = ternary(nn.Conv2d(3, 4, 3))
    chain = layer.parametrizations.weight
    with torch.no_grad():
        chain.original.normal_(generator=generator)
    ((codes, scale),) = chain[0].parts(chain.original)
    assert codes.dtype == torch.int8
    assert scale.shape == (4,)
    assert set(codes.unique().tolist()) == {-1, 0, 1}
    assert torch.equal(layer.weight, codes.float() * scale.reshape(-1, 1, 1, 1))


def test_ternary_codes_are_idempotent_and_odd(generator: torch.Generator) -> None:
    latent = torch.randn(6, 20, generator=generator)
    codes = TernaryWeight().parts(latent)[0].codes
    assert torch.equal(TernaryWeight().parts(-latent)[0].codes, -codes)
    assert torch.equal(TernaryWeight().parts(codes.float())[0].codes, codes)


def test_the_gradient_passes_straight_through_to_the_latent_weight(generator: torch.Generator) -> None:
    layer = ternary(nn.Linear(5, 3, bias=False))
    x: Tensor = torch.randn(7, 5, generator=generator)
    downstream = torch.randn(7, 3, generator=generator)
    (layer(x) * downstream).sum().backward()
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, downstream.T @ x)

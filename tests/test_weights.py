"""Weight quantizers: codes, scales and what they add up to, gradients, starting values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import ternary
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnconv.ann.weights import BinaryWeight, ResidualTernaryWeight, SignPairWeight, TernaryWeight, clamp_latents


def _ternary_codes(weights: list[float]) -> list[int]:
    """Zou et al. 2021, by hand."""
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


def test_binary_weights_have_the_sign_and_a_clipped_gradient() -> None:
    latent = torch.tensor([[-0.3, 0.0, 2.0]], requires_grad=True)
    weight = BinaryWeight()(latent)
    assert weight.tolist() == [[-1.0, 1.0, 1.0]]
    weight.backward(torch.tensor([[-3.0, 0.25, 1.5]]))
    assert latent.grad.tolist() == [[-1.0, 0.25, 1.0]]


def test_scaled_ternary_weights_take_the_largest_weight_s_share_as_threshold() -> None:
    # max |W| = 2, Delta = 0.05 * 2 = 0.1 and S = (2 + 1 + 0.5 + 0.5) / 4 = 1
    latent = torch.tensor([[2.0, -1.0, 0.5], [-0.5, 0.05, -0.05]])
    assert ResidualTernaryWeight()(latent).tolist() == [[1.0, -1.0, 1.0], [-1.0, 0.0, 0.0]]


def test_scaled_ternary_weights_are_closed_above_and_open_below() -> None:
    # beta = 1/4, max = 4, so Delta = 1; both ones count in S = (4 + 1 + 1) / 3 = 2
    latent = torch.tensor([[4.0, 1.0, -1.0, 0.5]])
    assert ResidualTernaryWeight((0.25,))(latent).tolist() == [[2.0, 2.0, 0.0, 0.0]]


def test_residual_expansion_adds_ternary_weights_of_one_latent_weight() -> None:
    # max = 4: Delta 1 and 2; S = (4 + 3 + 1.5 + 1.5) / 4 = 2.5 and (4 + 3) / 2 = 3.5
    latent = torch.tensor([[4.0, -3.0, 1.5, -1.5, 0.5]])
    quantizer = ResidualTernaryWeight((0.5, 0.25))
    assert quantizer(latent).tolist() == [[6.0, -6.0, 2.5, -2.5, 0.0]]
    codes = [part.codes.tolist() for part in quantizer.parts(latent)]
    assert codes == [[[1, -1, 1, -1, 0]], [[1, -1, 0, 0, 0]]]
    assert [float(part.scale) for part in quantizer.parts(latent)] == [2.5, 3.5]


@pytest.mark.parametrize("betas", [(0.05,), (0.05, 0.10), (0.05, 0.10, 0.15, 0.20)])
def test_residual_expansion_follows_the_rule_for_random_weights(
    betas: tuple[float, ...], generator: torch.Generator
) -> None:
    latent = torch.randn(6, 4, 3, 3, generator=generator)
    values = latent.flatten().tolist()
    largest = max(abs(value) for value in values)
    expected = [0.0] * len(values)
    for beta in betas:
        over = [abs(value) for value in values if abs(value) >= beta * largest]
        mean = sum(over) / len(over)
        for place, value in enumerate(values):
            expected[place] += mean if value >= beta * largest else -mean if value < -beta * largest else 0.0
    quantizer = ResidualTernaryWeight(betas)
    torch.testing.assert_close(quantizer(latent).flatten(), torch.tensor(expected), rtol=1e-6, atol=0)
    assert len(quantizer(latent).unique()) == 2 * len(betas) + 1


def test_the_gradients_of_residual_branches_add_within_one() -> None:
    latent = torch.tensor([[0.3, 0.999, 1.0, -1.0, -0.2]], requires_grad=True)
    ResidualTernaryWeight((0.05, 0.10, 0.15, 0.20))(latent).backward(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    assert latent.grad.tolist() == [[4.0, 8.0, 0.0, 0.0, 20.0]]  # 4 branches, [|W| < 1]


def sign_pair(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", SignPairWeight())
    return layer


def test_a_sign_pair_is_zero_where_the_signs_disagree() -> None:
    first = torch.tensor([[1.0, -0.5, 0.0, -0.5], [0.25, 0.25, 0.25, 0.25]])
    second = torch.tensor([[0.5, 0.5, 0.5, -0.5], [-0.75, 0.75, 0.25, -0.25]])
    # alpha = (1 + 0.5 + 0 + 0.5 + 4 * 0.5) / (2 * 4) = 0.5 and (4 * 0.25 + 0.75 + 0.75 + 0.25 + 0.25) / 8 = 0.375
    quantizer = SignPairWeight()
    assert quantizer(first, second).tolist() == [[1.0, 0.0, 1.0, -1.0], [0.0, 0.75, 0.75, 0.0]]
    (part,) = quantizer.parts(first, second)
    assert (part.codes.tolist(), part.scale.tolist()) == ([[1, 0, 1, -1], [0, 1, 1, 0]], [1.0, 0.75])
    branches = quantizer.branches(first, second)
    assert [branch.codes.tolist() for branch in branches] == [
        [[1, -1, 1, -1], [1, 1, 1, 1]],
        [[1, 1, 1, -1], [-1, 1, 1, -1]],
    ]
    assert all(branch.scale.tolist() == [0.5, 0.375] for branch in branches)


def test_the_branches_of_a_sign_pair_add_up_to_the_weight_bit_for_bit(generator: torch.Generator) -> None:
    latents = [torch.randn(5, 3, 3, 3, generator=generator) for _ in range(2)]
    quantizer = SignPairWeight()
    one, two = (
        branch.codes.float() * branch.scale.float().reshape(-1, 1, 1, 1) for branch in quantizer.branches(*latents)
    )
    assert torch.equal(one + two, quantizer(*latents))


def test_a_sign_pair_s_gradient_is_the_published_update() -> None:
    first = torch.tensor([[0.5, -2.0, 1.96]], requires_grad=True)
    second = torch.tensor([[-0.5, -0.5, 0.0]], requires_grad=True)
    SignPairWeight()(first, second).backward(torch.tensor([[3.0, 6.0, 9.0]]))
    # first: signs (1, -1, 1), mean of sign g = (3 - 6 + 9) / 3 = 2; second: (-1, -1, 1), (-3 - 6 + 9) / 3 = 0
    assert first.grad.tolist() == [[3.0 + 2, 0.0 - 2, 9.0 + 2]]
    assert second.grad.tolist() == [[3.0, 6.0, 9.0]]


def test_the_second_latent_weight_is_drawn_anew() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3)
    before = conv.weight.detach().clone()
    latents = sign_pair(conv).parametrizations.weight
    assert torch.equal(latents.original0, before)
    agreement = (latents.original0.sign() == latents.original1.sign()).float().mean()
    assert 0.4 < float(agreement) < 0.6  # independent
    assert float(latents.original1.detach().std() / before.std()) == pytest.approx(1, abs=0.1)
    assert 0.4 < float((conv.weight == 0).float().mean()) < 0.6


def test_latent_weights_are_clamped_in_sign_pairs_only() -> None:
    model = nn.Sequential(sign_pair(nn.Linear(3, 2)), ternary(nn.Linear(2, 2)), nn.Linear(2, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
        model[0].parametrizations.weight.original1.fill_(-3.0)
    clamp_latents(model)
    latents = model[0].parametrizations.weight
    assert bool((latents.original0 == 1).all()) and bool((latents.original1 == -1).all())
    others = [model[0].bias, model[1].parametrizations.weight.original, model[2].weight]
    assert all(bool((parameter == 3).all()) for parameter in others)

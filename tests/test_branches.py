"""Sign-pair layers as two binary branches and merged into one: kernels by hand, and equal for random layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import ternary
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from snnconv.ann.branches import TwoBranch, merge_branches, two_branch
from snnconv.ann.models.networks import build_network
from snnconv.ann.weights import BinaryWeight, SignPairWeight
from snnconv.config import Quantization


def sign_pair(layer: nn.Module) -> Any:
    parametrize.register_parametrization(layer, "weight", SignPairWeight())
    return layer


def latents(layer: Any) -> tuple[Tensor, Tensor]:
    chain = layer.parametrizations.weight
    return chain.original0.detach(), chain.original1.detach()


def hand_worked() -> Any:
    """One 1x2x2 filter with n = 4, a bias of 3, and alpha = (4 + 2) / 8 = 3/4."""
    layer = sign_pair(nn.Conv2d(1, 1, 2))
    with torch.no_grad():
        latents(layer)[0].copy_(torch.tensor([[[[1.0, -1.5], [0.5, -1.0]]]]))
        latents(layer)[1].copy_(torch.tensor([[[[0.5, 1.0], [-0.5, -0.0]]]]))  # sign(-0) = sign(0) = +1
        layer.bias.fill_(3.0)
    return layer


def test_a_filter_by_hand() -> None:
    layer = hand_worked()
    pair = two_branch(layer)
    assert isinstance(pair, TwoBranch)
    assert pair.first.weight.flatten().tolist() == [0.75, -0.75, 0.75, -0.75]
    assert pair.second.weight.flatten().tolist() == [0.75, 0.75, -0.75, 0.75]
    assert (pair.first.bias.item(), pair.second.bias.item()) == (3.0, 0.0)
    merged = merge_branches(pair)
    assert type(merged) is nn.Conv2d
    assert merged.weight.flatten().tolist() == [1.5, 0.0, 0.0, 0.0]
    assert merged.bias.tolist() == [3.0]
    # two branches: 0.75 (1 - 2 + 4 - 8) + 3 = -0.75 and 0.75 (1 + 2 - 4 + 8) = 5.25; merged: 1.5 * 1 + 3
    x = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
    assert [part(x).item() for part in (pair.first, pair.second, pair, merged, layer)] == [-0.75, 5.25, 4.5, 4.5, 4.5]


def published(x: Tensor, w1: Tensor, w2: Tensor, bias: Tensor | None, **how: Any) -> Tensor:
    """conv(x, B1) + conv(x, B2) with B_i = alpha sign(W_i) (Xu et al. 2020), filter by filter."""
    out = 0
    for latent in (w1, w2):
        kernel = torch.empty_like(latent)
        for o in range(len(latent)):
            n = latent[o].numel()
            alpha = (w1[o].abs().sum() + w2[o].abs().sum()) / (2 * n)
            kernel[o] = torch.where(latent[o] >= 0, alpha, -alpha)
        out = out + F.conv2d(x, kernel, None, **how)
    return out if bias is None else out + bias.reshape(-1, 1, 1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 2), st.integers(0, 2), st.integers(1, 2), st.booleans(),
)  # fmt: skip
def test_both_deployed_forms_compute_the_published_sum(
    seed: int,
    groups: int,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    dilation: int,
    bias: bool,
) -> None:
    torch.manual_seed(seed)
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    layer = sign_pair(nn.Conv2d(groups * inputs, groups * outputs, kernel, bias=bias, **how)).double()
    x = torch.randn(2, groups * inputs, 7, 8, dtype=torch.float64)
    expected = published(x, *latents(layer), layer.bias, **how)
    pair = two_branch(layer)
    merged = merge_branches(pair)
    for form in (layer, pair, merged):
        torch.testing.assert_close(form(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(merged.weight, layer.weight)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from((torch.float32, torch.float64, torch.bfloat16)), st.booleans())
def test_merged_weights_are_the_parametrized_ones_bit_for_bit(seed: int, dtype: torch.dtype, dense: bool) -> None:
    torch.manual_seed(seed)
    layer = sign_pair((nn.Linear(11, 5) if dense else nn.Conv2d(3, 4, 3)).to(dtype))
    with torch.no_grad():
        latents(layer)[0].mul_(10.0 ** (seed % 9 - 4))
    merged = merge_branches(two_branch(layer))
    assert merged.weight.dtype == dtype
    assert torch.equal(merged.weight, layer.weight) and torch.equal(merged.bias, layer.bias)
    assert all(len(row.abs().unique()) <= 2 for row in merged.weight.flatten(1))  # 0 and 2 alpha


class Twice(nn.Module):
    """A sign-pair layer used twice under two names, layers of other kinds beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(sign_pair(nn.Linear(6, 6)), nn.ReLU(), ternary(nn.Linear(6, 6)), nn.Linear(6, 6))
        self.again = self.body[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.body(x))


def test_only_sign_pairs_are_split_and_a_shared_one_stays_shared() -> None:
    model = Twice()
    pairs = two_branch(model)
    merged = merge_branches(pairs)
    assert [type(layer).__name__ for layer in pairs.body] == ["TwoBranch", "ReLU", "ParametrizedLinear", "Linear"]
    assert pairs.again is pairs.body[0] and merged.again is merged.body[0]
    assert type(merged.again) is nn.Linear and parametrize.is_parametrized(merged.body[2])
    x = torch.randn(5, 6)
    torch.testing.assert_close(pairs(x), model(x))
    torch.testing.assert_close(merged(x), model(x))


def test_the_originals_are_left_as_they_were() -> None:
    model = Twice().train()
    before = copy.deepcopy(model.state_dict())
    pairs = two_branch(model)
    pairs_before = copy.deepcopy(pairs.state_dict())
    merged = merge_branches(pairs)
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, pairs_before[name]) for name, value in pairs.state_dict().items())
    with torch.no_grad():
        for parameter in pairs.parameters():
            parameter.add_(1.0)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (
        isinstance(model.again.parametrizations.weight[0], SignPairWeight) and model.again.weight.unique().numel() <= 18
    )
    assert all(module.training for network in (model, pairs, merged) for module in network.modules())


@pytest.mark.parametrize("further", [True, False])
def test_layers_whose_weight_is_more_than_a_sign_pair_stay(further: bool) -> None:
    layer = nn.Linear(4, 3)
    for step in (SignPairWeight(), nn.Identity()) if further else (BinaryWeight(),):
        parametrize.register_parametrization(layer, "weight", step)
    assert not isinstance(two_branch(layer), TwoBranch)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_biases_of_both_branches_are_added(first: bool, second: bool) -> None:
    pair = TwoBranch(nn.Linear(3, 2, bias=first), nn.Linear(3, 2, bias=second))
    merged = merge_branches(pair)
    assert (merged.bias is not None) == (first or second)
    x = torch.randn(4, 3)
    torch.testing.assert_close(merged(x), pair(x))


def test_the_published_network_has_sixteen_pairs() -> None:
    with torch.device("meta"):
        model = build_network("resnet18sttn", (3, 224, 224), 10, Quantization.parse("sttn"))
        pairs = two_branch(model)
        merged = merge_branches(pairs)
    found = {path: module for path, module in pairs.named_modules() if isinstance(module, TwoBranch)}
    assert len(found) == 16
    for path, pair in found.items():
        assert pair.first.stride == pair.second.stride == merged.get_submodule(path).stride
    assert not any(parametrize.is_parametrized(module) for module in merged.modules())
    plain = {name.replace("parametrizations.weight.original0", "weight") for name in model.state_dict()}
    assert set(merged.state_dict()) == {name for name in plain if "original1" not in name}

"""Sign-pair layers as they are deployed: two binary layers side by side, and the two merged into one ternary layer.

A layer whose weight is alpha sign(W1) + alpha sign(W2) is linear in it, so with B_i = alpha sign(W_i)

    conv(x, B1) + b1 + conv(x, B2) + b2 = conv(x, B1 + B2) + (b1 + b2)

and B1 + B2 is exact in any float format: -2 alpha, 0 or 2 alpha.

Ref: Xu et al. 2020, IJCAI, arXiv:2204.01234 (STTN).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnconv.ann.weights import SignPairWeight, set_plain_weight

Layer = nn.Conv2d | nn.Linear


class TwoBranch(nn.Module):
    """Two layers side by side: ``first(x) + second(x)``."""

    def __init__(self, first: Layer, second: Layer) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.first(x) + self.second(x)
        return out


def two_branch(model: nn.Module) -> nn.Module:
    """Copy of a network with two plain binary layers, a ``TwoBranch``, in place of each sign-pair layer.

    Their weights are -alpha and alpha; the first one keeps the bias, the second one's is 0. All else stays.
    """
    return _replaced(model, _split)


def merge_branches(model: nn.Module) -> nn.Module:
    """Copy of a network with one plain layer in place of each ``TwoBranch``: kernels and biases are added."""
    return _replaced(model, lambda module: _merged(module) if isinstance(module, TwoBranch) else None)


def _replaced(model: nn.Module, make: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Copy of a network with what ``make`` gives in place of its modules; one used at two places stays one."""
    copied = copy.deepcopy(model)
    made: dict[nn.Module, nn.Module | None] = {}
    for path, module in list(copied.named_modules(remove_duplicate=False)):
        if module not in made:
            made[module] = make(module)
        new = made[module]
        if new is not None and not path:
            return new
        if new is not None:
            copied.set_submodule(path, new)
    return copied


@torch.no_grad()
def _split(module: nn.Module) -> TwoBranch | None:
    """The two branches of a sign-pair layer; None of any other module."""
    if not isinstance(module, nn.Conv2d | nn.Linear) or not parametrize.is_parametrized(module, "weight"):
        return None
    chain = cast(parametrize.ParametrizationList, cast(nn.ModuleDict, module.parametrizations)["weight"])
    quantizer = chain[0]
    if len(chain) != 1 or not isinstance(quantizer, SignPairWeight):
        return None
    branches = []
    for codes, scale in quantizer.branches(cast(Tensor, chain.original0), cast(Tensor, chain.original1)):
        branch = copy.deepcopy(module)
        alpha = scale.to(module.weight.dtype).reshape(-1, *[1] * (codes.ndim - 1))
        set_plain_weight(branch, codes * alpha)
        branches.append(branch)
    first, second = branches
    if second.bias is not None:
        second.bias.zero_()
    return TwoBranch(first, second).train(module.training)


@torch.no_grad()
def _merged(pair: TwoBranch) -> Layer:
    """The first branch with the second added to it, in place: the network around it is a copy already."""
    biases = [layer.bias for layer in (pair.first, pair.second) if layer.bias is not None]
    pair.first.weight.add_(pair.second.weight)
    if biases:
        pair.first.bias = nn.Parameter(torch.stack(biases).sum(0))
    return pair.first

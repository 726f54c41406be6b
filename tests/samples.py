"""Small random networks for the tests, and the ANN's codes by hooks of the tests' own."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnconv.ann.quantizers import KBQuantizer
from snnconv.ann.weights import TernaryWeight
from snnconv.config import Preprocessing
from snnconv.conversion.convert import convert
from snnconv.data.images import Images
from snnconv.grids import Grid
from snnconv.snn.network import SpikingNetwork

TWTA = Grid(1.0, 1, 1, (-0.5, 0.5), (False, True))
"""Ternary activations: both boundaries closed away from zero."""

PIXELS = Preprocessing(divisor=255.0)


class GridQuantizer(nn.Module):
    """Any grid as an activation, by its definition."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, z: Tensor) -> Tensor:
        code = torch.full_like(z, -self.grid.negative)
        for boundary, closed in zip(self.grid.boundaries, self.grid.closed, strict=True):
            code = code + ((z >= boundary) if closed else (z > boundary))
        return code * self.grid.step


def ternary(layer: nn.Module) -> nn.Module:
    """The layer with ternary weights."""
    parametrize.register_parametrization(layer, "weight", TernaryWeight())
    return layer


def any_gamma(norm: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norm whose scales take both signs and 0, and whose statistics are like no other's."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        norm.weight.uniform_(0.4, 1.5, generator=draw)
        norm.weight[1::3] *= -1
        norm.weight[2::3] = 0
        norm.bias.uniform_(-0.2, 1.1, generator=draw)
        norm.running_mean.normal_(0.2, 0.7, generator=draw)
        norm.running_var.uniform_(0.3, 3.0, generator=draw)
    return norm


def settled(model: nn.Module, x: Tensor) -> nn.Module:
    """Batch-norm statistics taken from data, so that no layer is silent or saturated; in evaluation mode."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(x)
    return model.eval()


def random_images(count: int, shape: tuple[int, int, int], classes: int = 4, seed: int = 0) -> Images:
    """Random pixels and labels."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, classes, (count,), generator=draw)
    return Images("random", "test", pixels, labels, classes)


def random_ann(seed: int, shape: tuple[int, int, int] = (2, 7, 8), grid: Grid | None = None) -> nn.Sequential:
    """A plain conv net whose kernels, strides, paddings, dilations, groups, pools and levels are drawn from a seed."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    channels, height, width = shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()

    def quantizer() -> nn.Module:
        return GridQuantizer(grid) if grid is not None else KBQuantizer(rng.choice((0, 1)), rng.choice((1, 2, 3)))

    for number in range(rng.choice((2, 3))):
        kernel = (rng.randint(1, min(3, height)), rng.randint(1, min(3, width)))
        dilation = (rng.choice((1, 2)) if kernel[0] * 2 - 1 <= height else 1, 1)
        stride = (rng.choice((1, 2)), rng.choice((1, 1, 2)))
        groups = 2 if number and rng.random() < 0.5 else 1
        pad = tuple(rng.randint(0, 2) for _ in range(4)) if rng.random() < 0.6 else (0, 0, 0, 0)
        own = rng.randint(0, 1)
        if any(pad):
            layers[f"pad{number}"] = nn.ZeroPad2d(pad)
        out = rng.choice((4, 6))
        conv = nn.Conv2d(channels, out, kernel, stride, own, dilation, groups, bias=rng.random() < 0.5)
        layers[f"conv{number}"] = ternary(conv) if number else conv
        if rng.random() < 0.8:
            layers[f"norm{number}"] = any_gamma(nn.BatchNorm2d(out), seed + number)
        layers[f"act{number}"] = quantizer()
        height = (height + pad[2] + pad[3] + 2 * own - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
        width = (width + pad[0] + pad[1] + 2 * own - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
        channels = out
        if number and min(height, width) >= 2 and rng.random() < 0.5:
            layers[f"pool{number}"] = rng.choice((nn.AvgPool2d, nn.MaxPool2d))(2)
            height, width = height // 2, width // 2
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = ternary(nn.Linear(channels * height * width, 6, bias=False))
    layers["norm"] = any_gamma(nn.BatchNorm1d(6), seed)
    layers["act"] = quantizer()
    layers["out"] = nn.Linear(6, 4)
    x = torch.rand(16, *shape, generator=torch.Generator().manual_seed(seed))
    return settled(nn.Sequential(layers), x)


def random_network(seed: int, grid: Grid | None = None, shape: tuple[int, int, int] = (2, 7, 8)) -> SpikingNetwork:
    """``random_ann`` converted, for pixels/255."""
    return convert(random_ann(seed, shape, grid), torch.zeros(1, *shape), PIXELS)


def ann_codes(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[tuple[str, int], Tensor]]:
    """Logits and codes, by quantizer path and call, of the model's own forward in float64."""
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            weight = module.weight.detach()
            # remove_parametrizations would take ``weight`` from a class that the copy shares with the original
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            module.weight = nn.Parameter(weight)
    model.double()
    codes: dict[tuple[str, int], Tensor] = {}

    def keep(path: str, step: float) -> object:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            call = sum(key[0] == path for key in codes)
            codes[path, call] = (output / step).to(torch.int64)

        return hook

    for path, module in model.named_modules():
        if isinstance(getattr(module, "grid", None), Grid):
            module.register_forward_hook(keep(path, module.grid.step))
    with torch.no_grad():
        return model(x.double()), codes


def wires(network: SpikingNetwork, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the counts every layer but the readout sends."""
    sent: dict[str, Tensor] = {}

    def tap(name: str, counts: Tensor, step: int) -> Tensor:
        sent[name] = counts.clone()
        return counts

    with torch.no_grad():
        return network(x, [tap]), sent


def assert_counts_are_codes(model: nn.Module, network: SpikingNetwork, x: Tensor) -> None:
    """Every unit's count is the ANN's code, none left out, and the logits agree."""
    logits, codes = ann_codes(model, x)
    own, sent = wires(network, x)
    compared = set()
    for name, _ in network.units():
        origin = network.nodes[name].origin
        key = (origin.module, origin.call)
        compared.add(key)
        assert torch.equal(sent[name].long(), codes[key]), f"layer {name} differs from {key}"
    assert compared == set(codes)
    torch.testing.assert_close(own, logits, rtol=1e-12, atol=1e-12)

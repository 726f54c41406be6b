"""One battery over everything registered: activations, weight quantizers, networks and recipes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from snnconv.ann.models.blocks import WEIGHTS
from snnconv.ann.models.networks import NETWORKS, build_network
from snnconv.ann.quantizers import ACTIVATIONS, Quantizer, signed_activation
from snnconv.ann.training import input_facts, network_for
from snnconv.ann.weights import WeightQuantizer
from snnconv.config import SCHEMES, Quantization, change_recipe, load_recipe, recipe_names

SMALL = {"lenet": (1, 28, 28), "vgg": (3, 24, 24), "groupv2": (3, 24, 24), "model2": (3, 24, 24)}
LARGE = ("alexnet", "resnet18tnn", "resnet34tnn", "resnet50tnn", "resnet101tnn", "resnet18sttn")


def native(name: str) -> tuple[int, int, int]:
    """The image a network was made for."""
    if name in LARGE:
        return 3, 224, 224
    return next((image for start, image in SMALL.items() if name.startswith(start)), (3, 32, 32))


def build(name: str, quantization: str, classes: int = 10) -> nn.Module:
    """A small network with weights, a large one with shapes only."""
    with torch.device("meta" if name in LARGE else "cpu"):
        return build_network(name, native(name), classes, Quantization.parse(quantization), seed=2)


QUANTIZERS: dict[str, Quantizer] = {
    name: module
    for name, make in ACTIVATIONS.items()
    for quantization in [Quantization.parse("k1B2", 1e-5 if name == "k/B" else 0.0)]
    if isinstance(module := make(quantization), Quantizer)
} | {f"signed {k} {B}": signed_activation(k, B) for k, B in ((0, 2), (1, 4))}


def test_the_batteries_are_not_empty() -> None:
    assert len(QUANTIZERS) == len(ACTIVATIONS) + 1  # all but ReLU, and two streams
    assert len(NETWORKS) == 22 and len(recipe_names()) > 90


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_lie_on_the_grid_rise_and_stay(name: str, dtype: torch.dtype) -> None:
    quantizer = QUANTIZERS[name]
    grid = quantizer.grid
    z = torch.linspace(-6, 6, 4801, dtype=dtype)
    values = quantizer(z)
    codes = values / grid.step
    assert values.dtype == dtype
    assert torch.equal(codes, codes.round())
    assert sorted(set(codes.tolist())) == list(range(-grid.negative, grid.positive + 1))
    assert bool((values[1:] >= values[:-1]).all())


@pytest.mark.parametrize("name", sorted(set(QUANTIZERS) - {"binary", "three-level"}))
def test_grid_points_are_fixed_points(name: str) -> None:
    quantizer = QUANTIZERS[name]
    points = torch.arange(-quantizer.grid.negative, quantizer.grid.positive + 1) * quantizer.grid.step
    assert torch.equal(quantizer(points), points)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_boundaries_belong_to_the_side_that_the_grid_says(name: str) -> None:
    quantizer = QUANTIZERS[name]
    places = [
        place
        for boundary in quantizer.grid.boundaries
        for place in (math.nextafter(boundary, -9), boundary, math.nextafter(boundary, 9))
    ]
    if name == "k/B":  # with a constant added before rounding, boundaries are no round numbers
        places = [place + shift for place in places[1::3] for shift in (-1e-12, 1e-12)]
    values = quantizer(torch.tensor(places, dtype=torch.float64))
    assert (values / quantizer.grid.step).tolist() == [quantizer.grid.code(place) for place in places]


@pytest.mark.parametrize("name", QUANTIZERS)
def test_gradients_pass_inside_one_window_only_and_the_input_stays(name: str) -> None:
    quantizer = QUANTIZERS[name]
    z = torch.linspace(-12, 12, 4801, dtype=torch.float64).requires_grad_()
    before = z.detach().clone()
    quantizer(z).sum().backward()
    assert torch.equal(z.detach(), before)
    passes = z.grad != 0
    assert not passes[0] and not passes[-1] and passes.any()
    assert int((passes[1:] != passes[:-1]).sum()) == 2
    assert len(z.grad[passes].unique()) == 1
    finite = [b for b in quantizer.grid.boundaries if math.isfinite(b)]
    window = z.detach()[passes]
    assert float(window.min()) <= finite[0] and finite[-1] <= float(window.max())


PARAMETRIZATIONS: dict[str, WeightQuantizer] = {
    f"{name}{suffix}": quantizer
    for name, make in WEIGHTS.items()
    for suffix in (("-t1", "-t2", "-t4") if name == "scaled" else ("",))
    if (quantizer := make(Quantization.parse(f"relu{suffix}"))) is not None
}


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.parametrize(
    "make", [lambda: nn.Conv2d(4, 6, 3, groups=2), lambda: nn.Linear(20, 7)], ids=["conv", "dense"]
)
def test_parts_are_integers_whose_scaled_sum_is_the_weight(name: str, make: type[nn.Module]) -> None:
    torch.manual_seed(4)
    layer = make()
    parametrize.register_parametrization(layer, "weight", PARAMETRIZATIONS[name])
    latents = list(layer.parametrizations.weight.parameters())
    parts = PARAMETRIZATIONS[name].parts(*latents)
    shape = (-1, *[1] * (layer.weight.ndim - 1))
    total = torch.zeros(layer.weight.shape, dtype=torch.float64)
    for codes, scale in parts:
        assert codes.dtype == torch.int8 and codes.shape == layer.weight.shape
        assert set(codes.unique().tolist()) <= {-1, 0, 1}
        assert scale.dtype == torch.float64 and scale.shape == (len(layer.weight),) and bool((scale > 0).all())
        total += codes * scale.reshape(shape)
    assert layer.weight.dtype == torch.float32
    assert torch.equal(layer.weight.detach().double(), total)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_every_latent_weight_gets_a_gradient_of_its_shape(name: str) -> None:
    torch.manual_seed(4)
    layer = nn.Conv2d(4, 6, 3)
    parametrize.register_parametrization(layer, "weight", PARAMETRIZATIONS[name])
    layer(torch.rand(2, 4, 5, 5)).square().sum().backward()
    for latent in layer.parametrizations.weight.parameters():
        assert latent.grad.shape == latent.shape and bool(latent.grad.isfinite().all()) and bool(latent.grad.any())


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_a_layer_of_zeros_has_finite_parts(name: str) -> None:
    count = 2 if name == "sign-pair" else 1
    for codes, scale in PARAMETRIZATIONS[name].parts(*[torch.zeros(3, 5)] * count):
        assert bool((codes == 1).all()) and bool(scale.isfinite().all())  # sign(0) = +1


NAMES = [*SCHEMES, "k1B2", "relu-t2", "k0B1-t4-fqlq", "k1B2-float", "k1B63-float"]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("quantization", NAMES)
def test_every_network_takes_every_quantization(name: str, quantization: str) -> None:
    model = build(name, quantization, classes=7).eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = model(torch.rand(2, *native(name), device=device))
    assert logits.shape == (2, 7)
    assert device.type == "meta" or bool(logits.isfinite().all())
    quantized = any(parametrize.is_parametrized(module) for module in model.modules())
    assert quantized == (quantization != "fp32" and not quantization.endswith("-float"))
    has_grid = any(isinstance(module, Quantizer) for module in model.modules())
    assert has_grid == (quantization != "fp32" and not quantization.startswith("relu"))


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - set(LARGE)))
@pytest.mark.parametrize("quantization", ["fp32", "k1B2", "sttn"])
def test_the_same_seed_draws_the_same_weights(name: str, quantization: str) -> None:
    one, same = build(name, quantization).state_dict(), build(name, quantization).state_dict()
    assert one.keys() == same.keys()
    assert all(torch.equal(one[key], same[key]) for key in one)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - set(LARGE)))
def test_every_parameter_is_trained(name: str) -> None:
    model = build(name, "relu")
    model(torch.rand(4, *native(name))).square().sum().backward()
    silent = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert silent == []


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_its_network(name: str) -> None:
    recipe = load_recipe(name)
    channels, height, width = native(recipe.network)
    side = recipe.preprocessing.crop or (28 if recipe.dataset in ("mnist", "digits") else 32)
    assert (height, width) == (side, side)
    given = recipe if recipe.dataset != "folder" else change_recipe(recipe, {"classes": 7})
    classes = {"cifar100": 100, "imagenet": 1000, "folder": 7}.get(recipe.dataset, 10)
    assert input_facts(given) == ((channels, side, side), classes)
    with torch.device("meta"):
        model = network_for(given).eval()
        assert model(torch.zeros(1, channels, side, side)).shape == (1, classes)

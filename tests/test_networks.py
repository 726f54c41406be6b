"""The published networks: sizes worked out by hand, quantizers in their places, seeds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnconv.ann.models.networks import NETWORKS, build_network
from snnconv.ann.quantizers import KBQuantizer
from snnconv.ann.weights import TernaryWeight
from snnconv.config import Quantization
from snnconv.errors import ConfigError

K1B2 = Quantization.parse("k1B2")
FP32 = Quantization.parse("fp32")
IMAGE = {"vgg": (3, 24, 24), "lenet": (1, 28, 28)}

# METHODS 1.3, channels * height * width of every conv layer's output
VGG_UNITS = (
    3 * (64 * 24 * 24)  # encoder, 64C3, 64C3
    + 64 * 12 * 12  # 64C2 s2
    + 2 * (128 * 12 * 12)
    + 128 * 6 * 6
    + 2 * (256 * 6 * 6)
    + 256 * 3 * 3
    + 512 * 3 * 3  # 512C3, same
    + 512 * 1 * 1  # 512C3, valid
)
VGG_MACS = (
    2 * (64 * 24 * 24) * (64 * 9)
    + (64 * 12 * 12) * (64 * 4)
    + (128 * 12 * 12) * (64 * 9)
    + (128 * 12 * 12) * (128 * 9)
    + (128 * 6 * 6) * (128 * 4)
    + (256 * 6 * 6) * (128 * 9)
    + (256 * 6 * 6) * (256 * 9)
    + (256 * 3 * 3) * (256 * 4)
    + (512 * 3 * 3) * (256 * 9)
    + (512 * 1 * 1) * (512 * 9)
)
LENET_UNITS = 16 * 28 * 28 + 16 * 24 * 24 + 16 * 12 * 12 + 32 * 8 * 8 + 32 * 4 * 4 + 256
LENET_MACS = (
    (16 * 24 * 24) * (16 * 25)
    + (16 * 12 * 12) * (16 * 4)
    + (32 * 8 * 8) * (16 * 25)
    + (32 * 4 * 4) * (32 * 4)
    + 256 * (32 * 16)
)
SIZES = {"vgg": (12, VGG_UNITS, VGG_MACS), "lenet": (6, LENET_UNITS, LENET_MACS)}


def network(name: str, quantization: Quantization = K1B2, seed: int = 0) -> nn.Module:
    return build_network(name, IMAGE[name], 10, quantization, seed).eval()


def weighted(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def test_the_hand_worked_sizes_are_the_published_ones() -> None:
    assert (VGG_UNITS, VGG_MACS) == (187_136, 126_222_336)
    assert (LENET_UNITS, LENET_MACS) == (26_880, 4_849_664)


@pytest.mark.parametrize("name", NETWORKS)
def test_units_and_ternary_macs_are_the_published_ones(name: str) -> None:
    model, units, macs = network(name), [], []

    def count_units(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        units.append(output[0].numel())

    def count_macs(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        macs.append(output[0].numel() * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, KBQuantizer):
            module.register_forward_hook(count_units)
        if parametrize.is_parametrized(module):
            module.register_forward_hook(count_macs)
    with torch.no_grad():
        assert model(torch.zeros(1, *IMAGE[name])).shape == (1, 10)
    assert (len(units), sum(units), sum(macs)) == SIZES[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_and_last_layer_are_float_and_the_rest_ternary(name: str) -> None:
    first, *hidden, last = weighted(network(name))
    assert not parametrize.is_parametrized(first)
    assert not parametrize.is_parametrized(last)
    for layer in hidden:
        assert [type(step) for step in layer.parametrizations.weight] == [TernaryWeight]
        assert set(layer.weight.unique().tolist()) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("quantization", [K1B2, FP32])
def test_no_layer_has_a_bias(name: str, quantization: Quantization) -> None:
    assert all(layer.bias is None for layer in weighted(network(name, quantization)))


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_norms_are_the_published_ones(name: str) -> None:
    norms = [module for module in network(name).modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == SIZES[name][0]
    for norm in norms:
        assert (norm.eps, norm.momentum) == (1e-5, 0.1)
        assert float((norm.weight.detach() - 1).abs().max()) < 0.02  # gamma ~ N(1, 0.002), beta 0
        assert not norm.bias.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_full_precision_twin_has_the_same_latent_weights_and_no_quantizer(name: str) -> None:
    quantized, twin = network(name), network(name, FP32)
    assert not any(isinstance(module, KBQuantizer) or parametrize.is_parametrized(module) for module in twin.modules())
    assert sum(isinstance(module, nn.ReLU) for module in twin.modules()) == SIZES[name][0]
    for layer, other in zip(weighted(quantized), weighted(twin), strict=True):
        latent = layer.parametrizations.weight.original if parametrize.is_parametrized(layer) else layer.weight
        assert torch.equal(latent, other.weight)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_quantization_sets_the_grid_of_every_activation(name: str) -> None:
    quantizers = [module for module in network(name).modules() if isinstance(module, KBQuantizer)]
    assert {(q.k, q.B, q.tie) for q in quantizers} == {(1, 2, 0.0)}


def test_same_seed_same_weights_and_another_seed_others() -> None:
    one, same, other = (network("lenet", seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["conv1.conv.weight"], other["conv1.conv.weight"])
    assert not torch.equal(one["readout.weight"], other["readout.weight"])


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    network("lenet", seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_do_not_depend_on_the_global_generator() -> None:
    torch.manual_seed(1)
    one = network("lenet").state_dict()
    torch.manual_seed(2)
    assert torch.equal(one["conv2.conv.parametrizations.weight.original"], _latent(network("lenet")))


def _latent(model: nn.Module) -> Tensor:
    return model.state_dict()["conv2.conv.parametrizations.weight.original"]


def test_other_images_and_classes_fit() -> None:
    model = build_network("lenet", (3, 32, 32), 7, K1B2).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_an_unknown_network_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'resnet'.*lenet, vgg"):
        build_network("resnet", (3, 24, 24), 10, K1B2)


@pytest.mark.parametrize(
    ("name", "side", "layer"), [("lenet", 12, "conv4"), ("vgg", 8, "conv12"), ("lenet", 4, "conv2")]
)
def test_an_image_too_small_is_refused_with_the_layer(name: str, side: int, layer: str) -> None:
    with pytest.raises(ConfigError, match=f"{side}x{side} is too small for layer {layer}"):
        build_network(name, (1, side, side), 10, K1B2)

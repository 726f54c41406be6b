"""The published networks: sizes worked out by hand, quantizers in their places, padding, groups, seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from snnconv.ann.layers import ChannelPermutation, Shortcut
from snnconv.ann.models.networks import NETWORKS, build_network
from snnconv.ann.models.pretrained import load_torchvision, torchvision_names
from snnconv.ann.models.stack import Conv
from snnconv.ann.quantizers import KBQuantizer, Quantizer, StairQuantizer
from snnconv.ann.weights import BinaryWeight, ResidualTernaryWeight, SignPairWeight, TernaryWeight
from snnconv.config import Quantization
from snnconv.errors import ConfigError, FormatError

K1B2 = Quantization.parse("k1B2")
FP32 = Quantization.parse("fp32")
Layer = tuple[int, int, int]
"""Channels, side of the output, inputs of a unit."""


@dataclass(frozen=True)
class Size:
    """A network as its authors list it, every number worked out by hand.

    ``layers`` has one entry a convolution or hidden dense layer; ``float_layers`` of them keep float weights;
    ``silent`` are the units of those without a quantizer; ``extra`` parameters and units stand beside them.
    """

    image: tuple[int, int, int]
    quantization: str
    layers: list[Layer]
    readout: int
    float_layers: int = 1
    silent: int = 0
    float_readout: bool = True
    readout_bias: bool = False
    logit_norm: bool = False
    branches: list[Layer] = field(default_factory=list)  # ternary convolutions on shortcuts: no units of their own
    extra_units: int = 0
    extra_parameters: int = 0

    @property
    def units(self) -> int:
        return sum(c * s * s for c, s, _ in self.layers) - self.silent + self.extra_units

    @property
    def macs(self) -> int:
        quantized = self.layers[self.float_layers :] + self.branches
        return sum(c * s * s * n for c, s, n in quantized) + (0 if self.float_readout else 10 * self.readout)

    def parameters(self, classes: int = 10) -> int:
        convs = sum(c * n + 2 * c for c, _, n in self.layers + self.branches)
        ends = self.readout + self.readout_bias + 2 * self.logit_norm
        return convs + classes * ends + self.extra_parameters


def tnn(image: int, layers: list[Layer], readout: int, branches: list[Layer] | None = None) -> Size:
    """Everything ternary, the classifier with a bias."""
    return Size((3, image, image), "k1B2", layers, readout, 0, 0, False, True, branches=branches or [])


VGG: list[Layer] = [
    (64, 24, 3 * 9), (64, 24, 64 * 9), (64, 24, 64 * 9), (64, 12, 64 * 4),
    (128, 12, 64 * 9), (128, 12, 128 * 9), (128, 6, 128 * 4),
    (256, 6, 128 * 9), (256, 6, 256 * 9), (256, 3, 256 * 4),
    (512, 3, 256 * 9), (512, 1, 512 * 9),
]  # fmt: skip


def cifar(n: int) -> Size:
    """ResNet of 6 n + 2 layers: 2 n convolutions at each of 32, 16 and 8 pixels."""
    layers = [(16, 32, 3 * 9)] + 2 * n * [(16, 32, 16 * 9)]
    layers += [(32, 16, 16 * 9)] + (2 * n - 1) * [(32, 16, 32 * 9)]
    layers += [(64, 8, 32 * 9)] + (2 * n - 1) * [(64, 8, 64 * 9)]
    return tnn(32, layers, 64)


def imagenet(depths: tuple[int, int, int, int]) -> Size:
    """ResNet of basic blocks: two 3x3 convolutions each, 1x1 ones on the shortcuts that change shape."""
    a, b, c, d = depths
    layers = [(64, 112, 3 * 49)] + 2 * a * [(64, 56, 64 * 9)]
    layers += [(128, 28, 64 * 9)] + (2 * b - 1) * [(128, 28, 128 * 9)]
    layers += [(256, 14, 128 * 9)] + (2 * c - 1) * [(256, 14, 256 * 9)]
    layers += [(512, 7, 256 * 9)] + (2 * d - 1) * [(512, 7, 512 * 9)]
    return tnn(224, layers, 512, [(128, 28, 64), (256, 14, 128), (512, 7, 256)])


def bottleneck(third: int) -> Size:
    """ResNet-50 (third stage of 6 blocks) or ResNet-101 (23): 1x1, 3x3 with the stride, 1x1 four times as wide."""
    layers = [(64, 112, 3 * 49)]
    layers += [(64, 56, 64), (64, 56, 64 * 9), (256, 56, 64)] + 2 * [(64, 56, 256), (64, 56, 64 * 9), (256, 56, 64)]
    layers += [(128, 56, 256), (128, 28, 128 * 9), (512, 28, 128)]
    layers += 3 * [(128, 28, 512), (128, 28, 128 * 9), (512, 28, 128)]
    layers += [(256, 28, 512), (256, 14, 256 * 9), (1024, 14, 256)]
    layers += (third - 1) * [(256, 14, 1024), (256, 14, 256 * 9), (1024, 14, 256)]
    layers += [(512, 14, 1024), (512, 7, 512 * 9), (2048, 7, 512)]
    layers += 2 * [(512, 7, 2048), (512, 7, 512 * 9), (2048, 7, 512)]
    return tnn(224, layers, 2048, [(256, 56, 64), (512, 28, 256), (1024, 14, 512), (2048, 7, 1024)])


def sttn(image: int, stem: Layer, side: int) -> Size:
    """ResNet-18 with a shortcut around every convolution: a unit in front of each, a stream unit behind each."""
    halves = [side, side // 2, side // 4, side // 8]
    layers = [stem] + 4 * [(64, halves[0], 64 * 9)]
    inputs = 4 * [(64, halves[0])]
    for channels, before, after in (
        (128, halves[0], halves[1]),
        (256, halves[1], halves[2]),
        (512, halves[2], halves[3]),
    ):
        layers += [(channels, after, channels // 2 * 9)] + 3 * [(channels, after, channels * 9)]
        inputs += [(channels // 2, before)] + 3 * [(channels, after)]
    biases = 4 * (64 + 128 + 256 + 512)
    norms_in_front = sum(2 * c for c, _ in inputs)
    slopes = 17  # one a convolution, the stem's included
    return Size(
        (3, image, image), "sttn-k1B4", layers, 512, readout_bias=True,
        extra_units=sum(c * s * s for c, s in inputs), extra_parameters=biases + norms_in_front + slopes,
    )  # fmt: skip


SIZES: dict[str, Size] = {
    "lenet": Size(
        (1, 28, 28), "k1B2",
        [(16, 28, 25), (16, 24, 16 * 25), (16, 12, 16 * 4), (32, 8, 16 * 25), (32, 4, 32 * 4), (256, 1, 32 * 16)], 256,
    ),
    "lenet20-50": Size(
        (1, 28, 28), "k1B2",
        [(20, 24, 25), (20, 12, 20 * 4), (50, 8, 20 * 25), (50, 4, 50 * 4), (500, 1, 50 * 16)], 500,
    ),
    "vgg": Size((3, 24, 24), "k1B2", VGG, 512),
    "vgg13-3x3": Size((3, 24, 24), "twta", VGG, 512),
    "vgg13-4x4": Size(
        (3, 24, 24), "twta",
        [(64, 24, 3 * 9), (64, 24, 64 * 16), (64, 24, 64 * 16), (64, 12, 64 * 4), (128, 12, 64 * 16), (128, 12, 128 * 16),
         (128, 6, 128 * 4), (256, 6, 128 * 16), (256, 6, 256 * 16), (256, 2, 256 * 16), (512, 1, 256 * 4), (512, 1, 512)],
        512,
    ),
    "lenet5x5": Size(
        (1, 28, 28), "twta",
        [(32, 24, 25), (32, 12, 32 * 4), (64, 8, 32 * 25), (64, 4, 64 * 4), (512, 1, 64 * 4 * 4)], 512, logit_norm=True,
    ),
    "lenet4x4": Size(
        (1, 28, 28), "twta",
        [(32, 28, 16), (32, 14, 32 * 4), (64, 14, 32 * 16), (64, 7, 64 * 4), (64, 4, 64 * 16), (512, 1, 64 * 4 * 4)],
        512, logit_norm=True,
    ),
    "lenet2x2": Size(
        (1, 28, 28), "twta",
        [(64, 28, 4), (64, 14, 64 * 4), (64, 14, 64 * 4), (64, 7, 64 * 4), (64, 6, 64 * 4), (64, 3, 64 * 4), (64, 2, 64 * 4),
         (512, 1, 64 * 2 * 2)],
        512, logit_norm=True,
    ),
    # groups: inputs of a unit are channels / groups * kernel^2, at most 256 in every grouped layer
    "groupv2-3x3": Size(
        (3, 24, 24), "twta",
        [(32, 24, 3 * 9), (64, 24, 32 * 9), (256, 12, 16 * 16), (512, 12, 16 * 9), (512, 6, 64 * 4), (2048, 4, 16 * 9),
         (1024, 4, 256), (1024, 2, 64 * 4), (1024, 1, 64 * 4), (512, 1, 1024)],
        512, logit_norm=True,
    ),
    "groupv2-4x4": Size(
        (3, 24, 24), "twta",
        [(32, 24, 3 * 9), (64, 24, 32 * 16), (256, 12, 16 * 16), (512, 12, 16 * 16), (512, 6, 64 * 4), (2048, 6, 16 * 16),
         (1024, 6, 256), (1024, 2, 64 * 16), (1024, 1, 64 * 4), (512, 1, 1024)],
        512, logit_norm=True,
    ),
    # at most 512 inputs in every grouped layer
    "model2": Size(
        (3, 24, 24), "twba",
        [(32, 24, 3 * 9), (64, 24, 32 * 9), (256, 12, 32 * 16), (512, 12, 32 * 9), (512, 6, 128 * 4), (2048, 4, 32 * 9),
         (1024, 4, 512), (1024, 2, 128 * 4), (1024, 1, 128 * 4), (512, 1, 1024)],
        512, float_layers=2, silent=32 * 24 * 24, logit_norm=True,
    ),
    "alexnet": tnn(
        224,
        [(96, 55, 3 * 121), (256, 27, 96 * 25), (384, 13, 256 * 9), (384, 13, 384 * 9), (256, 13, 384 * 9),
         (4096, 1, 256 * 6 * 6), (4096, 1, 4096)],
        4096,
    ),
    "resnet20tnn": cifar(3),
    "resnet32tnn": cifar(5),
    "resnet44tnn": cifar(7),
    "resnet56tnn": cifar(9),
    "resnet18tnn": imagenet((2, 2, 2, 2)),
    "resnet34tnn": imagenet((3, 4, 6, 3)),
    "resnet50tnn": bottleneck(6),
    "resnet101tnn": bottleneck(23),
    "resnet18sttn": sttn(224, (64, 112, 3 * 49), 56),
    "resnet18sttn-small": sttn(32, (64, 32, 3 * 9), 32),
}  # fmt: skip
KB = ("lenet", "vgg")


def network(name: str, quantization: Quantization = K1B2, seed: int = 0) -> nn.Module:
    return build_network(name, SIZES[name].image, 10, quantization, seed).eval()


def on_meta(name: str, quantization: str, classes: int = 10) -> nn.Module:
    """The network without memory for its weights: shapes only."""
    with torch.device("meta"):
        return build_network(name, SIZES[name].image, classes, Quantization.parse(quantization)).eval()


def weighted(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_network_has_its_sizes() -> None:
    assert set(SIZES) == set(NETWORKS)


def test_the_hand_worked_sizes_are_the_published_ones() -> None:
    assert (SIZES["vgg"].units, SIZES["vgg"].macs) == (187_136, 126_222_336)
    assert (SIZES["lenet"].units, SIZES["lenet"].macs) == (26_880, 4_849_664)
    # parameters as torchvision's documentation gives them; 0.27 M to 0.85 M in He et al. 2016
    torchvision = {
        "resnet18tnn": 11_689_512,
        "resnet34tnn": 21_797_672,
        "resnet50tnn": 25_557_032,
        "resnet101tnn": 44_549_160,
    }
    for name, number in torchvision.items():
        assert SIZES[name].parameters(classes=1000) == number
    assert [SIZES[f"resnet{depth}tnn"].parameters() // 10_000 for depth in (20, 32, 44, 56)] == [26, 46, 65, 85]


def test_grouped_neurons_stay_within_a_core_s_inputs() -> None:
    assert max(n for _, _, n in SIZES["groupv2-3x3"].layers[2:-1]) == 256
    assert max(n for _, _, n in SIZES["model2"].layers[2:-1]) == 512


@pytest.mark.parametrize("name", NETWORKS)
def test_units_macs_and_parameters_are_the_hand_worked_ones(name: str) -> None:
    size = SIZES[name]
    model, units, macs = on_meta(name, size.quantization), [], []

    def count_units(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        units.append(output[0].numel())

    def count_macs(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        macs.append(output[0].numel() * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, Quantizer):
            module.register_forward_hook(count_units)
        if parametrize.is_parametrized(module):
            module.register_forward_hook(count_macs)
    with torch.no_grad():
        assert model(torch.zeros(2, *size.image, device="meta")).shape == (2, 10)
    assert (sum(units), sum(macs)) == (size.units, size.macs)
    second_latents = sum(c * n for c, _, n in size.layers[1:]) if "sttn" in name else 0
    assert parameters(model) == size.parameters() + second_latents
    if "sttn" not in name:
        assert parameters(on_meta(name, "fp32")) == size.parameters()


@pytest.mark.parametrize("name", KB)
def test_the_first_and_last_layer_are_float_and_the_rest_ternary(name: str) -> None:
    first, *hidden, last = weighted(network(name))
    assert not parametrize.is_parametrized(first)
    assert not parametrize.is_parametrized(last)
    for layer in hidden:
        assert [type(step) for step in layer.parametrizations.weight] == [TernaryWeight]
        assert set(layer.weight.unique().tolist()) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize(
    ("name", "quantization", "kind", "floats"),
    [
        ("groupv2-3x3", "twta", TernaryWeight, {0, -1}),
        ("lenet2x2", "twta", TernaryWeight, {0, -1}),
        ("model2", "twba", TernaryWeight, {0, 1, -1}),
        ("model2", "bwba", BinaryWeight, {0, 1, -1}),
        ("resnet20tnn", "k1B2", ResidualTernaryWeight, set()),
        ("resnet20tnn", "relu", ResidualTernaryWeight, set()),
        ("resnet20tnn", "relu-t4-fflf", ResidualTernaryWeight, {0, -1}),
        ("resnet18tnn", "relu", ResidualTernaryWeight, set()),
        ("resnet18tnn", "k1B2-fflf", ResidualTernaryWeight, {0, -1}),
        ("alexnet", "relu-fflf", ResidualTernaryWeight, {0, -1}),
        ("alexnet", "sttn", SignPairWeight, {0, -1}),
        ("resnet18sttn", "sttn", SignPairWeight, {0, -1}),
        ("lenet", "k1B2-t2-fqlq", ResidualTernaryWeight, set()),
    ],
)
def test_which_layers_are_float_and_how_the_others_are_quantized(
    name: str, quantization: str, kind: type[nn.Module], floats: set[int]
) -> None:
    layers = weighted(on_meta(name, quantization))
    places = {place % len(layers) for place in floats}
    for place, layer in enumerate(layers):
        assert parametrize.is_parametrized(layer) == (place not in places)
        if place not in places:
            assert type(layer.parametrizations.weight[0]) is kind


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"resnet18sttn", "resnet18sttn-small"}))
@pytest.mark.parametrize("quantization", ["k1B2", "fp32"])
def test_no_layer_but_the_tnn_readouts_has_a_bias(name: str, quantization: str) -> None:
    *layers, readout = weighted(on_meta(name, quantization))
    assert all(layer.bias is None for layer in layers)
    assert (readout.bias is not None) == SIZES[name].readout_bias


@pytest.mark.parametrize("name", KB)
def test_batch_norms_are_the_published_ones(name: str) -> None:
    norms = [module for module in network(name).modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == len(SIZES[name].layers)
    for norm in norms:
        assert (norm.eps, norm.momentum) == (1e-5, 0.1)
        assert float((norm.weight.detach() - 1).abs().max()) < 0.02  # gamma ~ N(1, 0.002), beta 0
        assert not norm.bias.any()


@pytest.mark.parametrize("name", [*KB, "groupv2-3x3", "lenet5x5", "resnet20tnn"])
def test_the_full_precision_twin_has_the_same_latent_weights_and_no_quantizer(name: str) -> None:
    quantized, twin = network(name), network(name, FP32)
    assert not any(isinstance(module, Quantizer) or parametrize.is_parametrized(module) for module in twin.modules())
    assert sum(isinstance(module, nn.ReLU) for module in twin.modules()) == len(SIZES[name].layers)
    for layer, other in zip(weighted(quantized), weighted(twin), strict=True):
        latent = layer.parametrizations.weight.original if parametrize.is_parametrized(layer) else layer.weight
        assert torch.equal(latent, other.weight)


@pytest.mark.parametrize("name", [*KB, "resnet20tnn", "groupv2-3x3"])
def test_the_quantization_sets_the_grid_of_every_activation(name: str) -> None:
    quantizers = [module for module in network(name).modules() if isinstance(module, Quantizer)]
    assert {(q.k, q.B, q.tie) for q in quantizers if isinstance(q, KBQuantizer)} == {(1, 2, 0.0)}
    assert all(isinstance(q, KBQuantizer) for q in quantizers)


def test_model2_s_first_convolution_has_a_relu_and_its_second_the_binary_activation() -> None:
    model = network("model2", Quantization.parse("twba3"))
    assert isinstance(model.conv1.act, nn.ReLU)
    assert isinstance(model.conv2.act, StairQuantizer)
    assert model.conv2.act.grid.boundaries == (-0.4, 0.4)


def test_sttn_streams_are_quantized_in_the_twin_only() -> None:
    published, twin = (network("resnet18sttn-small", Quantization.parse(name)) for name in ("sttn", "sttn-k1B4"))
    assert isinstance(published.stage1.block1.act, nn.PReLU)
    assert published.stage2.block1.act.num_parameters == 128
    assert twin.stage2.block1.act.prelu.num_parameters == 1
    grid = twin.stage2.block1.act.quantize.grid
    assert (grid.step, grid.positive, grid.negative) == (0.5, 8, 8)
    for name in ("lenet", "resnet20tnn"):
        with pytest.raises(ConfigError, match=f"{name} has no stream"):
            network(name, Quantization.parse("sttn-k1B4"))


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "border"),
    [
        (24, 4, 1, (1, 2)),
        (24, 2, 1, (0, 1)),
        (24, 4, 2, (1, 1)),
        (24, 2, 2, (0, 0)),
        (24, 3, 1, (1, 1)),
        (7, 2, 2, (0, 1)),
        (5, 1, 2, (0, 0)),
    ],
)
def test_same_padding_is_tensorflow_s(side: int, kernel: int, stride: int, border: tuple[int, int]) -> None:
    assert Conv(1, kernel, stride).border(side) == border


def test_even_kernels_are_padded_behind_and_groups_permuted_in_front() -> None:
    model = network("groupv2-4x4", Quantization.parse("twta"))
    assert tuple(model.conv2.pad.padding) == (1, 2, 1, 2)  # left, right, top, bottom
    assert not hasattr(model.conv3, "pad") and model.conv3.conv.padding == (1, 1)
    assert model.conv3.permute.groups == model.conv3.conv.groups == 4
    assert not hasattr(model.conv2, "permute")


def test_strided_channel_groups_by_the_definition(generator: torch.Generator) -> None:
    groups, channels, out = 3, 12, 6
    x = torch.randn(2, channels, 5, 5, generator=generator)
    weight = torch.randn(out, channels // groups, 3, 3, generator=generator)
    expected = torch.cat(
        [functional.conv2d(x[:, i::groups], weight[i * 2 : (i + 1) * 2]) for i in range(groups)], dim=1
    )  # group i takes the channels i, i + 3, i + 6, i + 9; outputs in order
    permutation = ChannelPermutation(groups)
    torch.testing.assert_close(functional.conv2d(permutation(x), weight, groups=groups), expected)
    assert torch.equal(permutation(x), x[:, permutation.order(channels)])


def test_a_shortcut_subsamples_and_appends_channels_of_zeros() -> None:
    x = torch.arange(2 * 3 * 5 * 4.0).reshape(2, 3, 5, 4) + 1
    y = Shortcut(7, stride=2)(x)
    assert y.shape == (2, 7, 3, 2)
    assert torch.equal(y[:, :3], x[:, :, [0, 2, 4]][:, :, :, [0, 2]])
    assert not y[:, 3:].any()
    assert torch.equal(Shortcut(3)(x), x)


def test_a_block_quantizes_the_sum(generator: torch.Generator) -> None:
    block = network("resnet20tnn").stage2.block1
    x = torch.randint(0, 5, (2, 16, 8, 8), generator=generator) / 2
    inner = block.body.conv1.act(block.body.conv1.norm(functional.conv2d(x, block.body.conv1.conv.weight, None, 2, 1)))
    total = block.body.conv2.norm(functional.conv2d(inner, block.body.conv2.conv.weight, None, 1, 1))
    total = total + torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 16, 4, 4)], 1)
    torch.testing.assert_close(block(x), torch.floor(2 * total.clamp(0, 2) + 0.5) / 2)


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
    with pytest.raises(ConfigError, match=r"'resnet'.*lenet, .*vgg"):
        build_network("resnet", (3, 24, 24), 10, K1B2)


@pytest.mark.parametrize(
    ("name", "side", "layer"),
    [("lenet", 12, "conv4"), ("vgg", 8, "conv12"), ("lenet", 4, "conv2"), ("alexnet", 60, "pool3")],
)
def test_an_image_too_small_is_refused_with_the_layer(name: str, side: int, layer: str) -> None:
    with pytest.raises(ConfigError, match=f"{side}x{side} is too small for layer {layer}"):
        build_network(name, (1, side, side), 10, K1B2)


def test_an_image_too_small_for_a_residual_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="16x16 is too small: sides of 32"):
        build_network("resnet18tnn", (3, 16, 16), 10, K1B2)


BLOCK = {f"{norm}.{part}" for norm in ("bn1", "bn2") for part in ("weight", "bias", "running_mean", "running_var")}


def test_torchvision_s_names_are_all_found() -> None:
    names = torchvision_names(on_meta("resnet18tnn", "relu", 1000).state_dict())
    theirs = {name for name in names.values() if not name.endswith("num_batches_tracked")}
    expected = {"conv1.weight", "fc.weight", "fc.bias"} | {name for name in BLOCK if name.startswith("bn1")}
    for stage in (1, 2, 3, 4):
        for place in (0, 1):
            expected |= {f"layer{stage}.{place}.{name}" for name in {"conv1.weight", "conv2.weight"} | BLOCK}
        if stage > 1:
            expected |= {f"layer{stage}.0.downsample.0.weight"}
            expected |= {f"layer{stage}.0.downsample.1{name[3:]}" for name in BLOCK if name.startswith("bn1")}
    assert theirs == expected
    assert names["stage3.block2.body.conv1.conv.parametrizations.weight.original"] == "layer3.1.conv1.weight"


def _pretrained(path: Path, classes: int = 10) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    ours = on_meta("resnet18tnn", "fp32", classes).state_dict()
    names = torchvision_names(ours)
    theirs = {names[name]: torch.rand(tensor.shape, generator=draw) for name, tensor in ours.items()}
    torch.save(theirs, path)
    return theirs


def test_a_network_starts_from_pretrained_weights(tmp_path: Path) -> None:
    theirs = _pretrained(tmp_path / "weights.pt")
    model = network("resnet18tnn")
    load_torchvision(model, tmp_path / "weights.pt")
    latent = model.stage2.block1.shortcut.conv.parametrizations.weight.original
    assert torch.equal(latent, theirs["layer2.0.downsample.0.weight"])
    assert torch.equal(model.stage4.block2.body.conv2.norm.running_var, theirs["layer4.1.bn2.running_var"])
    assert torch.equal(model.readout.bias, theirs["fc.bias"])


def test_foreign_and_unsafe_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    model = network("resnet18tnn", FP32)
    torch.save({"model": nn.Linear(2, 2)}, file)
    with pytest.raises(FormatError, match="cannot be read as a state_dict of tensors"):
        load_torchvision(model, file)
    torch.save({"epoch": 3}, file)
    with pytest.raises(FormatError, match="something else than a state_dict"):
        load_torchvision(model, file)
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, file)
    with pytest.raises(FormatError, match=r"nothing for conv1\.norm\.weight \(bn1\.weight\)"):
        load_torchvision(model, file)
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, file)
    with pytest.raises(FormatError, match=r"conv1\.weight is \[64, 3, 3, 3\], conv1\.conv\.weight \[64, 3, 7, 7\]"):
        load_torchvision(model, file)
    _pretrained(file, classes=1000)
    before = model.readout.weight.clone()
    load_torchvision(model, file)
    assert torch.equal(model.readout.weight, before)

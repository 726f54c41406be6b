"""Builder of residual networks: a stem, stages of blocks, the mean over the image, the readout."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from snnconv.ann.layers import Shortcut
from snnconv.ann.models.blocks import TNN, Blocks, Family
from snnconv.ann.quantizers import signed_activation
from snnconv.config import Quantization
from snnconv.errors import ConfigError


class ResidualBlock(nn.Module):
    """``act(body(x) + shortcut(x))``: where ``act`` quantizes, so is all that travels between blocks."""

    def __init__(self, body: nn.Sequential, shortcut: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut, act

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.body(x) + self.shortcut(x))
        return out


@dataclass(frozen=True)
class Site:
    """Where a block stands.

    Attributes:
        inputs: Channels that come in.
        width: Channels of its stage.
        stride: Step of its subsampling.
        large: Whether the network is one for ImageNet, so that a 1x1 convolution carries a shortcut that changes shape.
    """

    inputs: int
    width: int
    stride: int
    large: bool


@dataclass(frozen=True)
class Plan:
    """A residual network's shape.

    Attributes:
        block: Makes a block at a site; it gives out ``expansion`` times the stage's width.
        depths: Blocks of each stage; every stage but the first halves the sides.
        widths: Channels of each stage.
        large: A 7x7 stem of stride 2 with max pooling, made for 224x224 images; else a 3x3 stem.
        expansion: See ``block``.
        family: Where the network comes from.
    """

    block: Callable[[Blocks, Site], ResidualBlock]
    depths: Sequence[int]
    widths: Sequence[int]
    large: bool
    expansion: Literal[1, 4] = 1
    family: Family = TNN


def residual_network(
    plan: Plan, image: tuple[int, int, int], classes: int, quantization: Quantization
) -> nn.Sequential:
    """Build the network: ``conv1``, ``stage1.block1`` .., ``mean``, ``flatten`` and ``readout``.

    Args:
        plan: Its shape.
        image: (channels, height, width) of the input.
        classes: Outputs of the readout.
        quantization: What the network computes with.

    Raises:
        ConfigError: the image is smaller than the network's subsampling.
    """
    smallest = (4 if plan.large else 1) * 2 ** (len(plan.depths) - 1)
    if min(image[1:]) < smallest:
        raise ConfigError(f"an image of {image[1]}x{image[2]} is too small: sides of {smallest} at least are needed")
    blocks = Blocks(plan.family, quantization)
    kernel, stride = (7, 2) if plan.large else (3, 1)
    stem = nn.Conv2d(image[0], plan.widths[0], kernel, stride, kernel // 2, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = blocks.block(stem, _stream(blocks, plan.widths[0], plan.family), end=True)
    if plan.large:
        layers["pool1"] = nn.MaxPool2d(3, 2, 1)
    channels = plan.widths[0]
    for number, (depth, width) in enumerate(zip(plan.depths, plan.widths, strict=True), start=1):
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        for place in range(1, depth + 1):
            stride = 2 if number > 1 and place == 1 else 1
            stage[f"block{place}"] = plan.block(blocks, Site(channels, width, stride, plan.large))
            channels = width * plan.expansion
        layers[f"stage{number}"] = nn.Sequential(stage)
    layers["mean"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    layers["readout"] = blocks.readout(channels, classes)
    return nn.Sequential(layers)


def basic_block(blocks: Blocks, site: Site) -> ResidualBlock:
    """Two 3x3 convolutions: conv, BN, act, conv, BN, + shortcut, act."""
    convs = [_conv(site.inputs, site.width, 3, site.stride), _conv(site.width, site.width, 3)]
    return _block(blocks, site, convs)


def bottleneck_block(blocks: Blocks, site: Site) -> ResidualBlock:
    """1x1, 3x3 (with the stride) and 1x1 convolutions, the last four times as wide."""
    width = site.width
    convs = [_conv(site.inputs, width, 1), _conv(width, width, 3, site.stride), _conv(width, 4 * width, 1)]
    return _block(blocks, site, convs)


def single_block(blocks: Blocks, site: Site) -> ResidualBlock:
    """One 3x3 convolution: BN, act, conv with bias, BN, + shortcut, PReLU, and the stream's quantizer if there is one.

    A shortcut that changes shape is a 2x2 max pool and channels of zeros.
    """
    conv = nn.Conv2d(site.inputs, site.width, 3, site.stride, padding=1)
    body = blocks.block(conv, None, pre_norm=blocks.batch_norm(site.inputs), pre_act=blocks.activation())
    shortcut: nn.Module = nn.Identity()
    if site.stride > 1 or site.inputs != site.width:
        pool = [nn.MaxPool2d(site.stride)] if site.stride > 1 else []
        shortcut = nn.Sequential(*pool, Shortcut(site.width))
    return ResidualBlock(body, shortcut, _stream(blocks, site.width, blocks.family))


def _block(blocks: Blocks, site: Site, convs: Sequence[nn.Conv2d]) -> ResidualBlock:
    body: OrderedDict[str, nn.Module] = OrderedDict()
    for number, conv in enumerate(convs, start=1):
        body[f"conv{number}"] = blocks.block(conv, blocks.activation() if number < len(convs) else None)
    outputs = convs[-1].out_channels
    shortcut: nn.Module = nn.Identity()
    if site.stride > 1 or site.inputs != outputs:
        shortcut = Shortcut(outputs, site.stride)
        if site.large:
            shortcut = blocks.block(_conv(site.inputs, outputs, 1, site.stride), None)
    return ResidualBlock(nn.Sequential(body), shortcut, blocks.activation())


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def _stream(blocks: Blocks, channels: int, family: Family) -> nn.Module:
    """What ends a block: the activation, or PReLU (one slope a channel) where the stream has values of both signs.

    A quantized stream takes one slope for all channels, so that it folds into the grid behind it.
    """
    if family.weights != "sign-pair":
        return blocks.activation()
    quantization = blocks.quantization
    if not quantization.quantizes_stream:
        return nn.PReLU(channels)
    assert quantization.k is not None
    assert quantization.B is not None
    return nn.Sequential(OrderedDict(prelu=nn.PReLU(), quantize=signed_activation(quantization.k, quantization.B)))

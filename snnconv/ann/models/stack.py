"""Builder of plain conv stacks: a list of ``Conv`` lines, then one dense readout."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.nn.utils import parametrize

from snnconv.ann.quantizers import KBQuantizer
from snnconv.ann.weights import TernaryWeight
from snnconv.config import Quantization
from snnconv.errors import ConfigError


@dataclass(frozen=True)
class Conv:
    """One line of a conv stack, written 64C3 in the papers: convolution, batch norm, activation.

    Attributes:
        channels: Output channels.
        kernel: Side of the square kernel.
        stride: Step of the kernel.
        padding: ``same`` keeps the side at stride 1; ``valid`` pads nothing.
    """

    channels: int
    kernel: int
    stride: int = 1
    padding: Literal["same", "valid"] = "same"


def conv_stack(
    convs: Sequence[Conv], image: tuple[int, int, int], classes: int, quantization: Quantization
) -> nn.Sequential:
    """Build the network: ``conv1 .. convN`` and ``readout``.

    The first convolution (the encoder) and the readout keep float weights; the convolutions between
    carry ternary ones. No layer has a bias. In full precision every weight is float and the
    activation is ReLU.

    Args:
        convs: The convolutions in order.
        image: (channels, height, width) of the input.
        classes: Outputs of the readout.
        quantization: What the hidden layers compute with.

    Raises:
        ConfigError: the image is too small for the kernels.
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    channels, height, width = image
    for number, line in enumerate(convs, start=1):
        border = line.kernel - 1 if line.padding == "same" and line.stride == 1 else 0
        blocks[f"conv{number}"] = _block(line, channels, quantization, encoder=number == 1)
        height, width = ((side + border - line.kernel) // line.stride + 1 for side in (height, width))
        channels = line.channels
        if min(height, width) < 1:
            raise ConfigError(f"an image of {image[1]}x{image[2]} is too small for layer conv{number}")
    blocks["flatten"] = nn.Flatten()
    blocks["readout"] = readout = nn.Linear(channels * height * width, classes, bias=False)
    nn.init.trunc_normal_(readout.weight, std=0.1, a=-0.2, b=0.2)
    return nn.Sequential(blocks)


def _block(line: Conv, channels: int, quantization: Quantization, encoder: bool) -> nn.Sequential:
    conv = nn.Conv2d(channels, line.channels, line.kernel, line.stride, bias=False)
    nn.init.trunc_normal_(conv.weight, std=0.02, a=-0.04, b=0.04)
    norm = nn.BatchNorm2d(line.channels, eps=1e-5, momentum=0.1)
    nn.init.normal_(norm.weight, mean=1.0, std=0.002)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if line.padding == "same" and line.stride == 1:
        before, after = (line.kernel - 1) // 2, line.kernel // 2
        if before == after:
            conv.padding = (before, before)
        else:
            layers["pad"] = nn.ZeroPad2d((before, after, before, after))
    layers["conv"], layers["norm"] = conv, norm
    if quantization.k is None or quantization.B is None:
        layers["act"] = nn.ReLU()
    else:
        layers["act"] = KBQuantizer(quantization.k, quantization.B, quantization.tie)
        if not encoder:
            parametrize.register_parametrization(conv, "weight", TernaryWeight())
    return nn.Sequential(layers)

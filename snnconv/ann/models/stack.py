"""Builder of plain stacks: a list of lines, each a convolution, a pool or a dense layer, then the readout."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from snnconv.ann.layers import ChannelPermutation
from snnconv.ann.models.blocks import KB, Blocks, Family
from snnconv.config import Quantization
from snnconv.errors import ConfigError

Sides = tuple[int, int]


@dataclass(frozen=True)
class Conv:
    """One line of a conv stack, written 64C3 in the papers: convolution, batch norm, activation.

    Attributes:
        channels: Output channels.
        kernel: Side of the square kernel.
        stride: Step of the kernel.
        padding: ``same`` is TensorFlow's: the side becomes ceil(side / stride), and of an odd number of
            zeros the odd one goes behind; ``valid`` pads nothing; a number pads that much on all sides.
        groups: g strided channel groups: group i takes the channels i, i + g, i + 2g, ...
    """

    channels: int
    kernel: int
    stride: int = 1
    padding: Literal["same", "valid"] | int = "same"
    groups: int = 1

    def border(self, side: int) -> Sides:
        """Zeros before and behind an axis of this length."""
        if isinstance(self.padding, int):
            return self.padding, self.padding
        if self.padding == "valid":
            return 0, 0
        total = max(0, (-(-side // self.stride) - 1) * self.stride + self.kernel - side)
        return total // 2, total - total // 2


@dataclass(frozen=True)
class MaxPool:
    """Max pooling without padding."""

    kernel: int
    stride: int


@dataclass(frozen=True)
class Dense:
    """A hidden dense layer: dense, batch norm, activation."""

    features: int


Line = Conv | MaxPool | Dense


def conv_stack(
    lines: Sequence[Line],
    image: tuple[int, int, int],
    classes: int,
    quantization: Quantization,
    family: Family = KB,
    encoder: int = 1,
    norm_logits: bool = False,
) -> nn.Sequential:
    """Build the network: ``conv1 .. convN``, ``flatten``, ``dense1 .. denseM``, ``readout`` and perhaps ``norm``.

    The encoder (the first convolutions) and the readout are the network's ends: float, unless the family or
    the quantization makes them quantized. No layer but the readout has a bias. In full precision every
    weight is float and the activation is ReLU.

    Args:
        lines: The layers in order; dense ones last.
        image: (channels, height, width) of the input.
        classes: Outputs of the readout.
        quantization: What the network computes with.
        family: Where the network comes from.
        encoder: Convolutions of the encoder; all but the last of them have a ReLU.
        norm_logits: Whether a batch norm follows the readout.

    Raises:
        ConfigError: the image is too small for the kernels.
    """
    stack = _Stack(Blocks(family, quantization), image, encoder)
    for line in lines:
        stack.add(line)
    stack.flatten()
    stack.layers["readout"] = stack.blocks.readout(stack.channels, classes)
    if norm_logits:
        stack.layers["norm"] = norm = nn.BatchNorm1d(classes, eps=1e-5, momentum=0.1)
        family.initialise(norm)
    return nn.Sequential(stack.layers)


class _Stack:
    """The layers so far and the shape of what leaves them."""

    def __init__(self, blocks: Blocks, image: tuple[int, int, int], encoder: int) -> None:
        self.blocks, self.image, self.encoder = blocks, image, encoder
        self.layers: OrderedDict[str, nn.Module] = OrderedDict()
        self.channels = image[0]
        self.sides: Sides | None = image[1:]
        self.numbers = {Conv: 0, MaxPool: 0, Dense: 0}

    def add(self, line: Line) -> None:
        self.numbers[type(line)] += 1
        number = self.numbers[type(line)]
        if isinstance(line, Dense):
            self.flatten()
            dense = nn.Linear(self.channels, line.features, bias=False)
            self.layers[f"dense{number}"] = self.blocks.block(dense, self.blocks.activation())
            self.channels = line.features
        elif isinstance(line, MaxPool):
            self.layers[f"pool{number}"] = nn.MaxPool2d(line.kernel, line.stride)
            self._shrink(f"pool{number}", line.kernel, line.stride, ((0, 0), (0, 0)))
        else:
            self._conv(line, number)

    def flatten(self) -> None:
        """Join channels and sides, where that has not been done."""
        if self.sides is not None:
            self.layers["flatten"] = nn.Flatten()
            self.channels *= self.sides[0] * self.sides[1]
            self.sides = None

    def _conv(self, line: Conv, number: int) -> None:
        assert self.sides is not None, "a convolution stands before the dense layers"
        rows, columns = (line.border(side) for side in self.sides)
        conv = nn.Conv2d(self.channels, line.channels, line.kernel, line.stride, groups=line.groups, bias=False)
        before: dict[str, nn.Module] = {}
        if line.groups > 1:
            before["permute"] = ChannelPermutation(line.groups)
        if rows[0] == rows[1] and columns[0] == columns[1]:
            conv.padding = (rows[0], columns[0])
        else:
            before["pad"] = nn.ZeroPad2d((*columns, *rows))
        activation = nn.ReLU() if number < self.encoder else self.blocks.activation()
        block = self.blocks.block(conv, activation, end=number <= self.encoder, **before)
        self.layers[f"conv{number}"] = block
        self._shrink(f"conv{number}", line.kernel, line.stride, (rows, columns))
        self.channels = line.channels

    def _shrink(self, name: str, kernel: int, stride: int, borders: tuple[Sides, Sides]) -> None:
        assert self.sides is not None, "a pool stands before the dense layers"
        height, width = (
            (side + sum(border) - kernel) // stride + 1 for side, border in zip(self.sides, borders, strict=True)
        )
        if min(height, width) < 1:
            raise ConfigError(f"an image of {self.image[1]}x{self.image[2]} is too small for layer {name}")
        self.sides = height, width

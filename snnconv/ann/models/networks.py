"""The networks by name, each as its authors built it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from snnconv.ann.models.stack import Conv, conv_stack
from snnconv.config import Quantization
from snnconv.errors import ConfigError

Image = tuple[int, int, int]
Builder = Callable[[Image, int, Quantization], nn.Module]


def lenet(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """k/B LeNet: 16C5 | 16C5, 16C2/2 | 32C5, 32C2/2 | 256C4 | dense; made for 28x28 images.

    "/2" is a learned convolution of stride 2, there is no pooling.

    Ref: Zou et al. 2021, Front. Neurosci. 15:694170.
    """
    convs = [
        Conv(16, 5),
        Conv(16, 5, padding="valid"),
        Conv(16, 2, stride=2),
        Conv(32, 5, padding="valid"),
        Conv(32, 2, stride=2),
        Conv(256, 4, padding="valid"),
    ]
    return conv_stack(convs, image, classes, quantization)


def vgg(image: Image, classes: int, quantization: Quantization) -> nn.Module:
    """k/B VGG: 64C3 x3, 64C2/2 | 128C3 x2, 128C2/2 | 256C3 x2, 256C2/2 | 512C3 x2 | dense; for 24x24 images.

    "/2" is a learned convolution of stride 2, there is no pooling; the last 512C3 is unpadded.

    Ref: Zou et al. 2021, Front. Neurosci. 15:694170.
    """
    convs = [Conv(64, 3)]
    for channels in (64, 128, 256):
        convs += [Conv(channels, 3), Conv(channels, 3), Conv(channels, 2, stride=2)]
    convs += [Conv(512, 3), Conv(512, 3, padding="valid")]
    return conv_stack(convs, image, classes, quantization)


NETWORKS: dict[str, Builder] = {"lenet": lenet, "vgg": vgg}


def build_network(name: str, image: Image, classes: int, quantization: Quantization, seed: int = 0) -> nn.Module:
    """Build a network of the registry with weights drawn from ``seed``; torch's own generator is left as it was.

    Args:
        name: Key of NETWORKS.
        image: (channels, height, width) of the input, after preprocessing.
        classes: Outputs of the readout.
        quantization: What the hidden layers compute with.
        seed: Seed of the initial weights.

    Raises:
        ConfigError: no such network, or an image it cannot take.
    """
    if name not in NETWORKS:
        raise ConfigError(f"unknown network {name!r}; known are {', '.join(sorted(NETWORKS))}")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return NETWORKS[name](image, classes, quantization)

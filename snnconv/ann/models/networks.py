"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from snnconv.ann.models import plain
from snnconv.ann.models.blocks import STTN
from snnconv.ann.models.residual import Plan, basic_block, bottleneck_block, residual_network, single_block
from snnconv.config import Quantization
from snnconv.errors import ConfigError

Image = tuple[int, int, int]
Builder = Callable[[Image, int, Quantization], nn.Module]


def _cifar_plan(depth: int) -> Plan:
    """ResNet of 6 n + 2 layers for 32x32 images (He et al. 2016, CVPR), shortcuts without parameters."""
    return Plan(basic_block, ((depth - 2) // 6,) * 3, (16, 32, 64), large=False)


WIDTHS = (64, 128, 256, 512)
PLANS: dict[str, Plan] = {
    "resnet20tnn": _cifar_plan(20),
    "resnet32tnn": _cifar_plan(32),
    "resnet44tnn": _cifar_plan(44),
    "resnet56tnn": _cifar_plan(56),
    "resnet18tnn": Plan(basic_block, (2, 2, 2, 2), WIDTHS, large=True),
    "resnet34tnn": Plan(basic_block, (3, 4, 6, 3), WIDTHS, large=True),
    "resnet50tnn": Plan(bottleneck_block, (3, 4, 6, 3), WIDTHS, large=True, expansion=4),
    "resnet101tnn": Plan(bottleneck_block, (3, 4, 23, 3), WIDTHS, large=True, expansion=4),
    "resnet18sttn": Plan(single_block, (4, 4, 4, 4), WIDTHS, large=True, family=STTN),
    "resnet18sttn-small": Plan(single_block, (4, 4, 4, 4), WIDTHS, large=False, family=STTN),
}
"""Residual networks. TNN: He, Gong, Fan 2019, arXiv:1807.07948. STTN, with a shortcut around every convolution:
Xu et al. 2020, arXiv:2204.01234; ``-small`` is made for 32x32 images."""

NETWORKS: dict[str, Builder] = {
    "lenet": plain.lenet,
    "vgg": plain.vgg,
    "lenet20-50": plain.lenet20_50,
    "lenet5x5": plain.lenet5x5,
    "lenet4x4": plain.lenet4x4,
    "lenet2x2": plain.lenet2x2,
    "vgg13-3x3": plain.vgg,
    "vgg13-4x4": plain.vgg13_4x4,
    "groupv2-3x3": plain.groupv2_3x3,
    "groupv2-4x4": plain.groupv2_4x4,
    "model2": plain.model2,
    "alexnet": plain.alexnet,
    **{name: partial(residual_network, plan) for name, plan in PLANS.items()},
}


def has_sign_pairs(name: str, quantization: Quantization) -> bool:
    """Whether the network's hidden weights are sums of two binary ones (``SignPairWeight``)."""
    own = "sign-pair" if name in PLANS and PLANS[name].family is STTN else None
    return (quantization.weights or own) == "sign-pair"


def build_network(name: str, image: Image, classes: int, quantization: Quantization, seed: int = 0) -> nn.Module:
    """Build a network of the registry with weights drawn from ``seed``; torch's own generator is left as it was.

    Args:
        name: Key of NETWORKS.
        image: (channels, height, width) of the input, after preprocessing.
        classes: Outputs of the readout.
        quantization: What the network computes with.
        seed: Seed of the initial weights.

    Raises:
        ConfigError: no such network, an image it cannot take, or a stream to quantize that it does not have.
    """
    if name not in NETWORKS:
        raise ConfigError(f"unknown network {name!r}; known are {', '.join(sorted(NETWORKS))}")
    if quantization.quantizes_stream and (name not in PLANS or PLANS[name].family is not STTN):
        raise ConfigError(f"{name} has no stream between its blocks that {quantization.name} could quantize")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return NETWORKS[name](image, classes, quantization)

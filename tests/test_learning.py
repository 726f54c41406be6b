"""Every network learns, becomes spiking, and is proven equal with no layer silent or saturated."""

from __future__ import annotations

import pytest
import torch
from test_networks import FP32, SIZES
from torch import Tensor, nn
from torch.nn import functional

from snnconv.ann.models.networks import NETWORKS, build_network
from snnconv.config import Preprocessing, Quantization
from snnconv.conversion.convert import convert
from snnconv.conversion.verification import verify
from snnconv.data.images import Images
from snnconv.data.preprocessing import preprocess
from snnconv.engines.registry import choose_engine

LARGE = sorted(name for name, size in SIZES.items() if size.image[1] >= 224)
SMALL = sorted(set(NETWORKS) - set(LARGE))
DEEP = {"resnet44tnn", "resnet56tnn"}  # in k/B activations they need more than these few steps
HEAVY = {*LARGE, "resnet18sttn-small"}
SIDE = 64
"""Large networks take images of this side here; only their last windows shrink."""
CENTRED = Preprocessing(divisor=255.0)


def sample(name: str, number: int) -> Images:
    """Random images of a network's own shape, with random labels."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = SIZES[name].image if name in SMALL else (3, SIDE, SIDE)
    pixels = torch.randint(0, 256, (number, channels, height, width), generator=generator).to(torch.uint8)
    labels = torch.randint(0, 10, (number,), generator=generator)
    return Images("random", "test", pixels, labels, 10)


def network(name: str, quantized: bool = True) -> nn.Module:
    image = tuple(sample(name, 1).pixels.shape[1:])
    return build_network(name, image, 10, Quantization.parse(convertible(name)) if quantized else FP32)  # type: ignore[arg-type]


def convertible(name: str) -> str:
    """The network's own quantization where that sends counts, else its twin of quantized activations."""
    own = SIZES[name].quantization
    return {"relu": "k1B2", "sttn": "sttn-k1B4"}.get(own, own)


@torch.no_grad()
def settle(model: nn.Module, x: Tensor) -> nn.Module:
    """Let the batch norms see the images until their running means are near.

    They must not be exact: the mean of few integers may be one, and the ANN's own rounding then decides at z = 0.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 0.3
    for _ in range(20):
        model(x)
    return model.eval()


def assert_proven(model: nn.Module, images: Images) -> None:
    example = preprocess(images.pixels[:2], CENTRED)
    spiking = convert(model, example, CENTRED)
    parity = verify(model, spiking, images, choose_engine(spiking))
    assert parity.failures() == []
    assert parity.encoder_ties == 0
    assert len(parity.layers) == len(list(spiking.units())) > 1


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY)) for name in [*SMALL, *LARGE]]
)
def test_every_network_becomes_spiking_with_nothing_lost_and_no_layer_silent(name: str) -> None:
    images = sample(name, 8)
    model = settle(network(name), preprocess(images.pixels, CENTRED))
    assert_proven(model, images.take(4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "quantized"),
    [
        (name, quantized)
        for name in NETWORKS
        for quantized in (True, False)
        if not quantized or name in set(SMALL) - DEEP
    ],
)
def test_every_network_learns_64_images_by_heart(name: str, quantized: bool) -> None:
    images = sample(name, 64)
    x = preprocess(images.pixels, CENTRED)
    torch.manual_seed(0)
    model = network(name, quantized)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3 if name in SMALL else 1e-3)
    correct = 0.0
    for _ in range(200):
        logits = model(x)
        correct = float((logits.argmax(1) == images.labels).float().mean())
        if correct > 0.95:
            break
        optimiser.zero_grad()
        functional.cross_entropy(logits, images.labels).backward()
        optimiser.step()
    assert correct > 0.95
    if quantized:
        assert_proven(settle(model, x), images)

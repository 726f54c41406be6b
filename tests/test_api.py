"""What ``import snnconv`` offers takes what a newcomer hands it, or says what it takes."""

import pytest
import torch
from samples import random_images, random_network
from torch import nn

import snnconv


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ({"noise": "deletion:0.5"}, {"noise": ["deletion:0.5"]}),
        ({"noise_ratio": 0.5, "noise_layers": "all"}, {"noise_ratio": 0.5, "noise_layers": ["all"]}),
        ({"noise_ratio": 0.5, "noise_layers": None}, {"noise_ratio": 0.5, "noise_layers": ("encoder",)}),
    ],
)
def test_one_noise_or_layer_needs_no_list(one: dict[str, object], several: dict[str, object]) -> None:
    network = random_network(0)
    images = random_images(6, network.header.shape, network.classes)
    alone, listed = (snnconv.simulate(network, images, **settings) for settings in (one, several))
    assert alone.spikes_per_image == listed.spikes_per_image != snnconv.simulate(network, images).spikes_per_image


def test_what_is_no_image_set_is_refused_with_how_to_make_one() -> None:
    network, pixels = random_network(0), torch.zeros(2, 1, 28, 28)
    model = nn.Sequential(nn.Flatten(), nn.ReLU())
    for refused in (
        lambda: snnconv.simulate(network, pixels),  # type: ignore[arg-type]
        lambda: snnconv.verify(model, network, pixels),  # type: ignore[arg-type]
        lambda: snnconv.quantize(model, pixels),  # type: ignore[arg-type]
    ):
        with pytest.raises(snnconv.SnnconvError, match=r"must be a snnconv\.Images, not a Tensor: .*snnconv\.Images\("):
            refused()

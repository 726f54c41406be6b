"""The pipeline from Python: what ``import snnconv`` offers, on networks and images in hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from snnconv.conversion import verification
from snnconv.data.sets import ImageSet, require_images
from snnconv.engines.registry import choose_engine
from snnconv.formats import native
from snnconv.snn import simulation
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.noise_models import parse_noise, with_deletion
from snnconv.snn.temporal_simulation import simulate_neuron
from snnconv.zoo import find_model, model_file


def verify(
    model: nn.Module,
    network: SpikingNetwork,
    images: ImageSet,
    *,
    batch_size: int = 100,
    engine: str = "auto",
    device: str | None = None,
    quiet: bool = True,
) -> verification.Parity:
    """Compare a spiking network with its ANN, unit by unit, on images.

    ``failures()`` of the result is empty where the conversion is proven; see ``conversion.verification``.

    Raises:
        DataError: something that is no image set.
    """
    require_images(images)
    runner = choose_engine(network, engine, None if device is None else torch.device(device))
    return verification.verify(model, network, images, runner, batch_size, quiet)


def simulate(
    network: SpikingNetwork,
    images: ImageSet,
    *,
    noise: str | Sequence[str] = (),
    noise_ratio: float = 0.0,
    noise_layers: str | Sequence[str] | None = None,
    neuron: str = "ladder",
    steps: int | None = None,
    exit_margin: float | None = None,
    trials: int = 1,
    seed: int = 0,
    batch_size: int = 100,
    engine: str = "auto",
    device: str | None = None,
    quiet: bool = True,
) -> simulation.Simulation:
    """Run a spiking network over images and count; see ``snn.simulation``.

    ``noise`` is a noise such as ``"threshold:0.05"`` or ``"deletion:0.1@all"``, or several, see ``snn.noise_models``;
    ``noise_ratio`` is that of a deletion, in the encoders unless ``noise_layers`` names others. ``neuron`` and
    ``steps`` choose what the units are and for how long, see ``snn.neurons.registry``; with an ``exit_margin`` images
    are also answered earlier, see ``snn.overtime``.

    Raises:
        DataError: something that is no image set.
        ConfigError: a setting outside what is allowed.
    """
    require_images(images)
    runner = choose_engine(network, engine, None if device is None else torch.device(device))
    noises = with_deletion([parse_noise(text) for text in _several(noise)], noise_ratio, _several(noise_layers or ()))
    return simulate_neuron(runner, images, neuron, steps, exit_margin, noises, trials, seed, batch_size, quiet)


def save(network: SpikingNetwork, path: str | Path) -> None:
    """Write a spiking network to a file; see ``formats.native``."""
    native.save(network, Path(path))


def load(path: str | Path) -> SpikingNetwork:
    """Read a spiking network from a file; see ``formats.native``."""
    return native.load(Path(path))


def load_model(name: str) -> SpikingNetwork:
    """Read a trained network that comes with the package, such as ``lenet-mnist-k1B2``; see ``zoo``."""
    return native.load(model_file(find_model(name)))


def _several(words: str | Sequence[str]) -> tuple[str, ...]:
    """One word, or several, as several."""
    return (words,) if isinstance(words, str) else tuple(words)

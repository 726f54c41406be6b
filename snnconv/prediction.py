"""Classes of image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from snnconv.config import Preprocessing
from snnconv.data.decoding import fitted_image
from snnconv.data.images import image_facts
from snnconv.data.preprocessing import prepare
from snnconv.engines.registry import choose_engine
from snnconv.errors import ConfigError, ConversionError
from snnconv.formats.native import load
from snnconv.pipeline import network_of
from snnconv.runs import Run
from snnconv.snn.network import SpikingNetwork

TOGETHER = 100


def predict(network: SpikingNetwork, files: Sequence[Path], engine: str = "auto") -> list[dict[str, Any]]:
    """The class of each image file, and how sure the network is.

    An image is turned upright as its EXIF orientation says, then resized and cropped as the network's preprocessing
    says; where that leaves the size open, to the size of the images of its data set, else to that of its input.
    Networks of one channel see it in grey.

    Args:
        network: Converted.
        files: Images.
        engine: What runs it.

    Returns:
        For each file its name, ``class``, ``probability`` (softmax of the logits), ``margin`` (that less the
        probability of the second class) and ``second``.

    Raises:
        ConversionError: the network does not take images, or has no classes.
        DataError: a file that is no image, or cannot be read.
    """
    shape = network.header.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ConversionError(
            f"the network takes inputs of shape {list(shape)}; image files give (1, height, width) in grey or "
            "(3, height, width) in colour"
        )
    if network.classes < 2:
        raise ConversionError("the network has one output and tells no classes apart")
    settings = network.header.preprocessing or Preprocessing()
    size = _size(network, settings)
    runner = choose_engine(network, engine, torch.device("cpu"))
    rows: list[dict[str, Any]] = []
    for first in range(0, len(files), TOGETHER):
        some = files[first : first + TOGETHER]
        pixels = torch.stack([fitted_image(file, shape[0], size, settings.resize) for file in some])
        shares = runner.run(prepare(pixels, network.header.preprocessing)).softmax(1)
        best, classes = shares.topk(2, 1)
        for file, (share, second), (own, other) in zip(some, best.tolist(), classes.tolist(), strict=True):
            rows.append(
                {"file": str(file), "class": own, "probability": share, "margin": share - second, "second": other}
            )
    return rows


def predict_run(run: Run, files: Sequence[Path], engine: str = "auto") -> list[dict[str, Any]]:
    """``predict`` with a run's network."""
    return predict(network_of(run), files, engine)


def predict_file(file: Path, files: Sequence[Path], engine: str = "auto") -> list[dict[str, Any]]:
    """``predict`` with a network by itself."""
    return predict(load(file), files, engine)


def _size(network: SpikingNetwork, settings: Preprocessing) -> tuple[int, int]:
    """Height and width that a file is brought to before the preprocessing proper."""
    if settings.resize is not None and settings.crop is not None:
        return settings.crop, settings.crop
    recipe = network.header.about.get("recipe")
    name = recipe.get("dataset") if isinstance(recipe, dict) else None
    try:
        image = image_facts(name)[0] if isinstance(name, str) else None
    except ConfigError:
        image = None
    if image is None:
        _, height, width = network.header.shape
        return height, width
    return image[1], image[2]

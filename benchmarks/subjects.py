"""What is measured: a recipe's network with its weights, and the images it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from snnconv.ann.checkpoints import load_ann
from snnconv.ann.training import input_facts, network_for
from snnconv.config import Recipe, load_recipe
from snnconv.conversion.convert import convert
from snnconv.data.images import Images, image_facts, load_images
from snnconv.data.preprocessing import preprocess
from snnconv.errors import ConfigError, DataError
from snnconv.runs import ANN, list_runs
from snnconv.snn.network import SpikingNetwork

SETTLING = 20
"""Passes in training mode that settle the batch norms of a network without trained weights."""
SHOWN = 50
"""Images of such a pass."""


@dataclass(frozen=True)
class Subject:
    """One network to measure.

    Attributes:
        name: Its recipe.
        recipe: The recipe as it was trained.
        model: The ANN, in evaluation mode.
        weights: Where they come from: ``run NAME`` or ``untrained``.
        images: What every contestant is shown.
        pixels: Where they come from: ``cifar10 test`` or ``random``.
    """

    name: str
    recipe: Recipe
    model: nn.Module
    weights: str
    images: Images
    pixels: str

    @cached_property
    def network(self) -> SpikingNetwork:
        """The spiking network made from the ANN."""
        example = preprocess(self.images.pixels[:2], self.recipe.preprocessing)
        return convert(self.model, example, self.recipe.preprocessing)

    def with_labels(self, labels: torch.Tensor) -> Subject:
        """The same with other labels on its images."""
        return replace(self, images=replace(self.images, labels=labels))


def load_subject(name: str, number: int, runs_dir: Path, data_dirs: Sequence[Path] = ()) -> Subject:
    """The newest trained network of a recipe, or an untrained one with settled batch norms.

    Args:
        name: Recipe.
        number: Images.
        runs_dir: Folder of the run folders.
        data_dirs: Where the data set's files are looked for; without any, pixels are drawn.

    Raises:
        ConfigError: a data set without a fixed image size or number of classes.
        DataError: the data set is in none of the folders.
    """
    run = next((run for run in list_runs(runs_dir) if run.recipe.name == name and run.has(ANN)), None)
    recipe = load_recipe(name) if run is None else run.recipe
    images = _test_images(recipe, data_dirs).take(number) if data_dirs else random_images(recipe, number)
    model = network_for(recipe)
    if run is not None:
        load_ann(run.file(ANN), model)
    else:
        with torch.no_grad():
            for _ in range(SETTLING):
                model(preprocess(images.pixels[:SHOWN], recipe.preprocessing))
    source = f"{recipe.dataset} test" if data_dirs else "random"
    return Subject(name, recipe, model.eval(), "untrained" if run is None else f"run {run.name}", images, source)


def random_images(recipe: Recipe, number: int) -> Images:
    """Pixels drawn uniformly from 0..255, of the data set's shape; every label is 0."""
    shape, _ = image_facts(recipe.dataset)
    if shape is None:
        raise ConfigError(f"images of {recipe.dataset} have no size of their own: measure a set held in memory")
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, *shape), generator=draws, dtype=torch.uint8)
    return Images(recipe.dataset, "test", pixels, torch.zeros(number, dtype=torch.int64), input_facts(recipe)[1])


def _test_images(recipe: Recipe, folders: Sequence[Path]) -> Images:
    for folder in folders:
        try:
            found = load_images(recipe.dataset, "test", folder, download=False)
        except DataError:
            continue
        if isinstance(found, Images):
            return found
    places = ", ".join(str(folder) for folder in folders)
    raise DataError(f"{recipe.dataset} (test) is in none of {places}: name its folder, or leave --data-dir out")

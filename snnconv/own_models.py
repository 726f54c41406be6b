"""The network of a run: that of a recipe, or one of the user's own, as the run's configuration records it.

model_of(run)     the trained network, whatever it is; conversion, verification and all else go through here
bring(...)        a run folder for a network of the user's own
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from snnconv.ann.checkpoints import load_ann, save_ann
from snnconv.ann.factories import build_model, load_weights
from snnconv.ann.training import input_facts, network_for
from snnconv.config import OWN, Preprocessing, Recipe
from snnconv.conversion.convert import convert
from snnconv.conversion.graph import fingerprint, trace
from snnconv.conversion.splitting import split_signs
from snnconv.data.images import class_count
from snnconv.errors import ConfigError, RunError
from snnconv.runs import (
    ANN,
    ENVIRONMENT,
    Ingredient,
    OwnModel,
    Run,
    create_run,
    describe_environment,
    file_hash,
    write_json,
)


def model_of(run: Run) -> nn.Module:
    """The run's network with its trained weights, in evaluation mode where it is the user's own.

    Raises:
        RunError: the factory of a network of the user's own is gone, or makes another one by now.
        FormatError: the weights are missing or damaged.
    """
    model = network_for(run.recipe) if run.model is None else _rebuilt(run, run.model)
    load_ann(run.file(ANN), model)
    return model


def bring(
    factory: str,
    weights: Path,
    dataset: str,
    preprocessing: Preprocessing,
    runs_dir: Path,
    data_dir: Path | None = None,
    split: bool = False,
) -> Run:
    """Make a run of a network of the user's own, once it is known that it converts; nothing is written before.

    Args:
        factory: ``package.module:name``, see ``ann.factories``.
        weights: File of its weights.
        dataset: Data set it was trained on.
        preprocessing: How its images are prepared.
        runs_dir: Folder of the run folders.
        data_dir: Folder of the data sets, which says how many classes a set of the user's own has.
        split: Whether its signed units are to be split, too.

    Raises:
        ConfigError: a factory or data set that is not to be had, or a network of another number of classes.
        FormatError: weights that are damaged, or of another network.
        ConversionError: something in the network has no exact spiking counterpart.
    """
    network = factory.rpartition(":")[2].strip("_") or "model"
    recipe = Recipe(
        name=f"{network}-{dataset}",
        network=network,
        dataset=dataset,
        quantization=OWN,
        description=f"made by {factory}",
        preprocessing=preprocessing,
        classes=class_count(dataset, data_dir),
    )
    image, classes = input_facts(recipe)
    model = build_model(factory)
    load_weights(model, weights)
    example = torch.zeros(2, *image)
    made = convert(model, example, preprocessing)
    if split:
        split_signs(made)
    if made.classes != classes:
        raise ConfigError(f"the network of {factory} tells {made.classes} classes apart; {dataset} has {classes}")
    own = OwnModel(factory, fingerprint(trace(model, example)), Ingredient(str(weights.resolve()), file_hash(weights)))
    run = create_run(runs_dir, recipe, seed=0, model=own)
    save_ann(run.file(ANN), model, recipe)
    write_json(run.file(ENVIRONMENT), describe_environment("cpu", torch.get_num_threads()))
    return run


def _rebuilt(run: Run, own: OwnModel) -> nn.Module:
    """The network that the recorded factory makes, if it is still the same."""
    try:
        model = build_model(own.factory)
    except ConfigError as error:
        raise RunError(f"run {run.name} needs its factory: {error}") from error
    image, _ = input_facts(run.recipe)
    if fingerprint(trace(model, torch.zeros(2, *image))) != own.fingerprint:
        raise RunError(
            f"factory {own.factory} makes another network than when run {run.name} was made: put it back, or convert "
            "the new one into a run of its own"
        )
    return model

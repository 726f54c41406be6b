"""The network of a run: that of a recipe, or one of the user's own, as the run's configuration records it.

model_of(run)     the trained network, whatever it is; conversion, verification and all else go through here
read_own(...)     a network of the user's own, with its weights
bring(...)        a run folder for one that is quantized already
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from snnconv.ann.brevitas import from_brevitas, is_of_brevitas
from snnconv.ann.checkpoints import load_ann, save_ann
from snnconv.ann.factories import build_model, load_weights
from snnconv.ann.training import input_facts, network_for
from snnconv.config import OWN, Preprocessing, Quantization, Recipe, change_recipe
from snnconv.conversion.convert import convert
from snnconv.conversion.graph import fingerprint, trace
from snnconv.conversion.splitting import split_signs
from snnconv.data.images import class_count
from snnconv.errors import ConfigError, RunError
from snnconv.quantization.quantize import skeleton
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


class Own(NamedTuple):
    """A network of the user's own: with its weights, as a recipe says it, and as a run's configuration does."""

    model: nn.Module
    recipe: Recipe
    record: OwnModel


def model_of(run: Run) -> nn.Module:
    """The run's network with its trained weights, in evaluation mode where it is the user's own.

    Raises:
        RunError: the factory of a network of the user's own is gone, or makes another one by now.
        FormatError: the weights are missing or damaged.
    """
    recipe = run.recipe
    quantization = Quantization.parse(recipe.quantization, recipe.tie)
    before = change_recipe(recipe, {"quantization": quantization.before})
    model = network_for(before) if run.model is None else _rebuilt(run, run.model)
    if quantization.inserted:
        image, _ = input_facts(recipe)
        model = skeleton(model, torch.zeros(2, *image), quantization.inserted, quantization.weight_bits)
    load_ann(run.file(ANN), model)
    return model


def quantized_network(run: Run) -> nn.Module | None:
    """The network of a run that `snnconv quantize` made; None of any other, which its recipe builds.

    Raises:
        RunError: as ``model_of``.
        FormatError: likewise.
    """
    return model_of(run) if Quantization.parse(run.recipe.quantization).inserted else None


def read_own(
    factory: str, weights: Path, dataset: str, preprocessing: Preprocessing, data_dir: Path | None = None
) -> Own:
    """Make a network of the user's own and read its weights.

    Args:
        factory: ``package.module:name``, see ``ann.factories``.
        weights: File of its weights.
        dataset: Data set it was trained on.
        preprocessing: How its images are prepared.
        data_dir: Folder of the data sets, which says how many classes a set of the user's own has.

    Raises:
        ConfigError: a factory or data set that is not to be had, or a network of another number of classes.
        FormatError: weights that are damaged, or of another network.
        ConversionError: a network that cannot be traced or does not take such images.
    """
    model = build_model(factory)
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
    load_weights(model, weights)
    model = _of_torch(model)
    traced = trace(model, torch.zeros(2, *image))
    told = next(node.args[0].meta["shape"] for node in traced.graph.nodes if node.op == "output")
    if told is not None and told[-1] != classes:
        raise ConfigError(f"the network of {factory} tells {told[-1]} classes apart; {dataset} has {classes}")
    source = Ingredient(str(weights.resolve()), file_hash(weights))
    return Own(model, recipe, OwnModel(factory, fingerprint(traced), source))


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
        factory: As ``read_own``, like those behind it.
        weights: Likewise.
        dataset: Likewise.
        preprocessing: Likewise.
        runs_dir: Folder of the run folders.
        data_dir: As ``read_own``.
        split: Whether its signed units are to be split, too.

    Raises:
        ConfigError: as ``read_own``.
        FormatError: likewise.
        ConversionError: something in the network has no exact spiking counterpart.
    """
    own = read_own(factory, weights, dataset, preprocessing, data_dir)
    image, _ = input_facts(own.recipe)
    made = convert(own.model, torch.zeros(2, *image), preprocessing)
    if split:
        split_signs(made)
    return new_run(runs_dir, own.recipe, own.model, model=own.record)


def new_run(
    runs_dir: Path,
    recipe: Recipe,
    network: nn.Module,
    seed: int = 0,
    start: Path | None = None,
    model: OwnModel | None = None,
) -> Run:
    """Make a run folder of a network whose weights were not trained in it.

    Args:
        runs_dir: Folder of the run folders.
        recipe: What the network is.
        network: With its weights.
        seed: As ``create_run``, like those behind it.
        start: Likewise.
        model: Likewise.
    """
    run = create_run(runs_dir, recipe, seed, start, model=model)
    save_ann(run.file(ANN), network, recipe)
    write_json(run.file(ENVIRONMENT), describe_environment("cpu", torch.get_num_threads()))
    return run


def _of_torch(model: nn.Module) -> nn.Module:
    """The network itself, or the copy without Brevitas's layers."""
    return from_brevitas(model) if any(is_of_brevitas(module) for module in model.modules()) else model


def _rebuilt(run: Run, own: OwnModel) -> nn.Module:
    """The network that the recorded factory makes, if it is still the same."""
    try:
        model = _of_torch(build_model(own.factory))
    except ConfigError as error:
        raise RunError(f"run {run.name} needs its factory: {error}") from error
    image, _ = input_facts(run.recipe)
    if fingerprint(trace(model, torch.zeros(2, *image))) != own.fingerprint:
        raise RunError(
            f"factory {own.factory} makes another network than when run {run.name} was made: put it back, or convert "
            "the new one into a run of its own"
        )
    return model

"""The steps of the pipeline on run folders: each reads what it needs and writes what it made."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from snnconv.ann.checkpoints import load_ann, save_ann
from snnconv.ann.training import input_facts, network_for
from snnconv.config import Preprocessing, Recipe, to_mapping
from snnconv.conversion.convert import convert
from snnconv.conversion.verification import Parity, verify
from snnconv.data.images import Images, load_images
from snnconv.engines.registry import choose_engine
from snnconv.errors import ConfigError, DataError
from snnconv.formats.authors import load_parameters, read_parameters
from snnconv.formats.native import load, save
from snnconv.runs import (
    ANN,
    ENVIRONMENT,
    NETWORK,
    VERIFICATION,
    Run,
    create_run,
    describe_environment,
    file_hash,
    make_folder,
    write_json,
    write_text,
)
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.simulation import Simulation, simulate


def pick_device(name: str) -> torch.device:
    """Device by name; ``auto`` takes CUDA where there is one.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} is not to be had here: take cpu, or cuda where there is a GPU") from error
    return device


AUTHORS_TIE = 1e-5
"""The source rounds half to even after adding this, so that its ties go up."""
AUTHORS_PREPROCESSING = {
    "mnist": Preprocessing(divisor=256.0),
    "cifar10": Preprocessing(crop=24, standardise=True),
    "cifar100": Preprocessing(crop=24, standardise=True),
}


@dataclass(frozen=True)
class Sample:
    """The images a run is measured on.

    Attributes:
        images: Pixels and labels.
        tag: What sets the results apart in their file names; empty for the run's own whole test split.
    """

    images: Images
    tag: str = ""


def test_sample(
    run: Run, dataset: str | None = None, data_dir: Path | None = None, number: int | None = None
) -> Sample:
    """The test split of the run's data set (or another of the same shape), or its first ``number`` images.

    Raises:
        DataError: data that is missing or damaged, or fewer images than asked for.
    """
    images = load_images(dataset or run.recipe.dataset, "test", data_dir)
    tag = "" if images.name == run.recipe.dataset else f"-{images.name}"
    if number is None or number == len(images):
        return Sample(images, tag)
    if number > len(images):
        raise DataError(f"{images.name} has {len(images)} test images: --images must be at most that, not {number}")
    return Sample(images.take(number), f"{tag}-{number}images")


def convert_run(run: Run) -> SpikingNetwork:
    """Convert a run's trained network and write ``network.safetensors``."""
    recipe = run.recipe
    model = network_for(recipe)
    load_ann(run.file(ANN), model)
    about = {"run": run.name, "recipe": to_mapping(recipe), "seed": run.seed, "ann": file_hash(run.file(ANN))}
    image, _ = input_facts(recipe)
    network = convert(model, torch.zeros(2, *image), recipe.preprocessing, about)
    save(network, run.file(NETWORK))
    return network


def import_run(file: Path, network: str, dataset: str, quantization: str, runs_dir: Path) -> Run:
    """Make a run of a checkpoint published with the k/B networks, with its preprocessing and rounding constant.

    Raises:
        FormatError: the file is damaged, foreign, or of another network.
        ConfigError: no such network or quantization.
    """
    recipe = Recipe(
        name=f"{network}-{dataset}-{quantization}-imported",
        network=network,
        dataset=dataset,
        quantization=quantization,
        tie=AUTHORS_TIE,
        description=f"imported from {file.name}",
        preprocessing=AUTHORS_PREPROCESSING[dataset],
    )
    model = network_for(recipe)
    load_parameters(model, read_parameters(file), file)
    run = create_run(runs_dir, recipe, seed=0)
    save_ann(run.file(ANN), model, recipe)
    write_json(run.file(ENVIRONMENT), describe_environment("cpu", torch.get_num_threads()))
    return run


def open_network(run: Run, images: Images) -> SpikingNetwork:
    """The run's converted network; converts where it is missing or made from other weights than the run's.

    Raises:
        DataError: images of another shape or number of classes.
    """
    network = load(run.file(NETWORK)) if run.has(NETWORK) else convert_run(run)
    if network.header.about.get("ann") != file_hash(run.file(ANN)):
        network = convert_run(run)
    channels, height, width = images.pixels.shape[1:]
    crop = network.header.preprocessing.crop if network.header.preprocessing else None
    shape = (channels, height, width) if crop is None else (channels, crop, crop)
    if (shape, images.classes) != (network.header.shape, network.classes):
        raise DataError(
            f"{images.name} gives images of {list(shape)} in {images.classes} classes; "
            f"run {run.name} takes {list(network.header.shape)} in {network.classes}"
        )
    return network


def verify_run(
    run: Run, sample: Sample, device: torch.device, batch_size: int = 100, engine: str = "auto", quiet: bool = False
) -> Parity:
    """Prove a run's network equal to its ANN on images, and write ``results/verify.json``."""
    images = sample.images
    network = open_network(run, images)
    model = network_for(run.recipe)
    load_ann(run.file(ANN), model)
    runner = choose_engine(network, engine, device)
    parity = verify(model, network, images, runner, batch_size, quiet, run.recipe.preprocessing)
    file = VERIFICATION.replace(".json", f"{sample.tag}.json")
    write_json(run.file(file), parity.to_dict() | {"failures": parity.failures(), "dataset": images.name})
    return parity


def simulate_run(
    run: Run,
    sample: Sample,
    device: torch.device,
    figs_dir: Path,
    noise_ratio: float = 0.0,
    noise_layers: str = "encoder",
    trials: int = 1,
    seed: int = 0,
    batch_size: int = 100,
    engine: str = "auto",
    quiet: bool = False,
) -> tuple[Simulation, dict[str, Any]]:
    """Simulate a run's network, write its results and the logs a batch.

    Args:
        noise_layers: ``encoder``, ``all``, or names of layers with commas between.

    Returns:
        The simulation, and what was written to ``results/simulate-*.json``.
    """
    images = sample.images
    network = open_network(run, images)
    runner = choose_engine(network, engine, device)
    layers = _layers(network, noise_layers)
    logs = make_folder(figs_dir / run.name)
    measured = simulate(runner, images, noise_ratio, layers, trials, seed, batch_size, quiet)
    about = {
        "run": run.name,
        "created": datetime.now(UTC).isoformat(),
        "network": run.recipe.network,
        "dataset": images.name,
        "quantization": run.recipe.quantization,
    }
    result = about | measured.to_dict()
    place = "" if layers == network.encoders else f"-{noise_layers.replace(',', '+')}"
    tag = f"noise{noise_ratio:g}{place}{sample.tag}"
    _write_logs(measured, logs, tag)
    write_json(run.file(f"results/simulate-{tag}.json"), result)
    return measured, result


def _layers(network: SpikingNetwork, names: str) -> tuple[str, ...]:
    if names == "encoder":
        return network.encoders
    if names == "all":
        return tuple(name for name, _ in network.units())
    return tuple(names.split(","))


def _write_logs(measured: Simulation, folder: Path, tag: str) -> None:
    """The three logs of the source system, a line a batch and time step."""
    logs: dict[str, list[list[Any]]] = {
        "accuracy": [["trial", "batch", "step", "images", "correct"]],
        "spikes": [["trial", "batch", "step", "spikes"]],
        "sops": [["trial", "batch", "step", *measured.batches[0].sops]],
    }
    for log in measured.batches:
        place = [log.trial, log.batch, 0]
        logs["accuracy"].append([*place, log.images, log.correct])
        logs["spikes"].append([*place, log.spikes])
        logs["sops"].append([*place, *log.sops.values()])
    for name, rows in logs.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_text(folder / f"{name}-{tag}.csv", text.getvalue())

"""The steps of the pipeline on run folders: each reads what it needs and writes what it made."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from snnconv.ann.branches import merge_branches, two_branch
from snnconv.ann.checkpoints import save_ann, save_merged
from snnconv.ann.merging import Merging, compare_merged
from snnconv.ann.models.pretrained import STATE_DICTS, load_torchvision
from snnconv.ann.training import input_facts, network_for
from snnconv.config import Preprocessing, Recipe, to_mapping
from snnconv.conversion.convert import convert
from snnconv.conversion.observation import observe
from snnconv.conversion.splitting import split_signs
from snnconv.conversion.verification import Parity, verify
from snnconv.data.images import load_images
from snnconv.data.sets import ImageSet
from snnconv.energy import estimates
from snnconv.engines.registry import choose_engine
from snnconv.errors import ConfigError, DataError
from snnconv.formats.authors import load_parameters, read_parameters
from snnconv.formats.native import load, save
from snnconv.own_models import model_of
from snnconv.processes import ALONE, Group
from snnconv.runs import (
    ANN,
    ENVIRONMENT,
    MERGED,
    NETWORK,
    VERIFICATION,
    Run,
    create_run,
    describe_environment,
    file_hash,
    make_folder,
    write_json,
    write_result,
    write_text,
)
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.noise_models import ENCODER, Deletion, Noise, parse_noise, with_deletion
from snnconv.snn.operations import operations
from snnconv.snn.simulation import Simulation
from snnconv.snn.temporal_simulation import simulate_neuron


def pick_device(name: str, engine: str = "auto") -> torch.device:
    """Device by name; ``auto`` takes CUDA where there is one and the engine runs there.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and engine != "events" else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} is not to be had here: take cpu, or cuda where there is a GPU") from error
    return device


LONGEST_TAG = 120
"""So many letters may tell results apart in a file's name."""
AUTHORS_TIE = 1e-5
"""The source rounds half to even after adding this, so that its ties go up."""
AUTHORS_PREPROCESSING = {
    "mnist": Preprocessing(divisor=256.0),
    "cifar10": Preprocessing(crop=24, standardise=True),
    "cifar100": Preprocessing(crop=24, standardise=True),
}
TORCHVISION_PREPROCESSING = {
    "imagenet": Preprocessing(resize=256, crop=224, mean=(0.485, 0.456, 0.406), sd=(0.229, 0.224, 0.225))
}


@dataclass(frozen=True)
class Sample:
    """The images a run is measured on.

    Attributes:
        images: Pixels and labels.
        tag: What sets the results apart in their file names; empty for the run's own whole test split.
    """

    images: ImageSet
    tag: str = ""


def test_sample(
    run: Run,
    dataset: str | None = None,
    data_dir: Path | None = None,
    number: int | None = None,
    workers: int | None = None,
) -> Sample:
    """The test split of the run's data set (or another of the same shape), or its first ``number`` images.

    ``workers`` processes read image files, see ``ImageFolder``.

    Raises:
        DataError: data that is missing or damaged, or fewer images than asked for.
    """
    name = dataset or run.recipe.dataset
    images = load_images(name, "test", data_dir, preprocessing=run.recipe.preprocessing, workers=workers)
    tag = "" if images.name == run.recipe.dataset else f"-{images.name}"
    if number is None or number == len(images):
        return Sample(images, tag)
    if number > len(images):
        raise DataError(f"{images.name} has {len(images)} test images: --images must be at most that, not {number}")
    return Sample(images.take(number), f"{tag}-{number}images")


def convert_run(run: Run, split: bool = False) -> SpikingNetwork:
    """Convert a run's trained network and write ``network.safetensors``.

    Args:
        run: Where the weights are.
        split: Give each signed unit two neurons, see ``conversion.splitting``.

    Raises:
        ConversionError: something has no exact spiking counterpart.
    """
    recipe = run.recipe
    model = model_of(run)
    about = {"run": run.name, "recipe": to_mapping(recipe), "seed": run.seed, "ann": file_hash(run.file(ANN))}
    image, _ = input_facts(recipe)
    network = convert(model, torch.zeros(2, *image), recipe.preprocessing, about)
    if split:
        network = split_signs(network)
    save(network, run.file(NETWORK))
    return network


def import_run(file: Path, network: str, dataset: str, quantization: str, runs_dir: Path) -> Run:
    """Make a run of a checkpoint, with the preprocessing of its source.

    A state_dict with torchvision's names (.pth, .pt) is of ImageNet; other files are read as checkpoints published with
    the k/B networks (.npz), with their rounding constant.

    Raises:
        FormatError: the file is damaged, foreign, or of another network.
        ConfigError: no such network or quantization, or a data set that such files are not of.
    """
    named_by_torchvision = file.suffix in STATE_DICTS
    known = TORCHVISION_PREPROCESSING if named_by_torchvision else AUTHORS_PREPROCESSING
    if dataset not in known:
        raise ConfigError(f"a {file.suffix or 'nameless'} checkpoint is not of {dataset}: take {' or '.join(known)}")
    recipe = Recipe(
        name=f"{network}-{dataset}-{quantization}-imported",
        network=network,
        dataset=dataset,
        quantization=quantization,
        tie=0.0 if named_by_torchvision else AUTHORS_TIE,
        description=f"imported from {file.name}",
        preprocessing=known[dataset],
    )
    model = network_for(recipe)
    if named_by_torchvision:
        load_torchvision(model, file, own_readout=False)
    else:
        load_parameters(model, read_parameters(file), file)
    run = create_run(runs_dir, recipe, seed=0)
    save_ann(run.file(ANN), model, recipe)
    write_json(run.file(ENVIRONMENT), describe_environment("cpu", torch.get_num_threads()))
    return run


def network_of(run: Run) -> SpikingNetwork:
    """The run's converted network; converts where it is missing or made from other weights than the run's.

    What it replaces says whether the new one is split by sign, too. One that came without its ANN is taken as it is.
    """
    network = load(run.file(NETWORK)) if run.has(NETWORK) else convert_run(run)
    if not run.has(ANN):
        return network
    if network.header.about.get("ann") != file_hash(run.file(ANN)):
        network = convert_run(run, split=network.header.split)
    return network


def open_network(run: Run, images: ImageSet) -> SpikingNetwork:
    """The run's network for some images, see ``network_of``.

    Raises:
        DataError: images of another shape or number of classes.
    """
    network = network_of(run)
    require_fit(network, images, f"run {run.name}")
    return network


def require_fit(network: SpikingNetwork, images: ImageSet, owner: str) -> None:
    """Refuse images that a network, named by its owner, does not take.

    Raises:
        DataError: images of another shape or number of classes.
    """
    channels, height, width = images.shape
    crop = network.header.preprocessing.crop if network.header.preprocessing else None
    shape = (channels, height, width) if crop is None else (channels, crop, crop)
    if (shape, images.classes) != (network.header.shape, network.classes):
        raise DataError(
            f"{images.name} gives images of {list(shape)} in {images.classes} classes; "
            f"{owner} takes {list(network.header.shape)} in {network.classes}"
        )


def verify_run(
    run: Run, sample: Sample, device: torch.device, batch_size: int = 100, engine: str = "auto", quiet: bool = False
) -> Parity:
    """Prove a run's network equal to its ANN on images, and write ``results/verify.json``."""
    images = sample.images
    network = open_network(run, images)
    model = model_of(run)
    runner = choose_engine(network, engine, device)
    parity = verify(model, network, images, runner, batch_size, quiet, run.recipe.preprocessing)
    file = VERIFICATION.replace(".json", f"{sample.tag}.json")
    about = {"failures": parity.failures(), "dataset": images.name, "split": network.header.split}
    write_json(run.file(file), parity.to_dict() | about)
    return parity


def observe_run(
    run: Run,
    number: int,
    chosen: int,
    device: torch.device,
    data_dir: Path | None = None,
    batch_size: int = 100,
    engine: str = "auto",
    workers: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Look closely at the first ``number`` test images of a run's data set, or at all where there are fewer.

    Args:
        chosen: Number of the image whose spikes are listed.

    Returns:
        ``conversion.observation.Observation`` as plain values.
    """
    images = test_sample(run, data_dir=data_dir, workers=workers).images
    images = images.take(min(number, len(images)))
    network = open_network(run, images)
    model = model_of(run)
    return observe(model, network, images, choose_engine(network, engine, device), chosen, batch_size, quiet).to_dict()


def merge_run(run: Run, sample: Sample, batch_size: int = 100, quiet: bool = False) -> Merging:
    """Merge a run's pairs of binary layers, prove on images that nothing changes, then write ``merged.safetensors``."""
    model = model_of(run)
    branches = two_branch(model)
    merged = merge_branches(branches)
    merging = compare_merged(branches, merged, sample.images, run.recipe.preprocessing, batch_size, quiet)
    run.file(MERGED).unlink(missing_ok=True)
    if not merging.failures():
        save_merged(run.file(MERGED), merged, run.recipe)
    return merging


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
    noise: Sequence[str] = (),
    neuron: str = "ladder",
    steps: int | None = None,
    exit_margin: float | None = None,
    group: Group = ALONE,
    say: Callable[[str], object] = lambda text: None,
) -> tuple[Simulation, dict[str, Any]]:
    """Simulate a run's network, write its results and the logs a batch.

    A result of the same noise, neuron and images but of other settings is kept, see ``runs.write_result``.

    Args:
        noise_ratio: Ratio of a deletion.
        noise_layers: Its layers: ``encoder``, ``all``, or names with commas between.
        noise: More noises, such as ``threshold:0.05@all``.
        neuron: What the units are, a name in ``NEURONS``.
        steps: T; None takes the neuron's own.
        exit_margin: Confidence at which an image is answered before T; None waits for T.
        group: The processes that share the images; the first one writes.
        say: Takes remarks, such as where an earlier result is kept.

    Returns:
        The simulation, and what was written to ``results/simulate-*.json``.
    """
    images = sample.images
    network = group.in_turn(lambda: open_network(run, images))
    runner = choose_engine(network, engine, device)
    noises = _noises(noise, noise_ratio, noise_layers)
    logs = group.tell(lambda: make_folder(figs_dir / run.name))
    measured = simulate_neuron(
        runner, images, neuron, steps, exit_margin, noises, trials, seed, batch_size, quiet, group
    )
    about = {
        "run": run.name,
        "created": datetime.now(UTC).isoformat(),
        "network": run.recipe.network,
        "dataset": images.name,
        "quantization": run.recipe.quantization,
        "split": network.header.split,
    }
    result = about | measured.to_dict()
    shown = measured.images * measured.trials
    result["operations"] = operations(network, measured.layers, shown, measured.steps)
    result["energy"] = estimates(result)
    time = "" if neuron == "ladder" else f"-{neuron}-T{measured.steps}"
    tag = f"noise{_noise_tag(network, noises)}{time}{sample.tag}"
    if group.first:
        _write_logs(measured, logs, tag)
        write_result(run.file(f"results/simulate-{tag}.json"), result, _settings, say)
    return measured, result


def _settings(result: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a simulation that the name of its file does not tell."""
    split, leaving = bool(result.get("split")), result.get("early_exit")
    margin = leaving["margin"] if leaving else None
    return {"trials": result.get("trials"), "seed": result.get("seed"), "split": split, "exit margin": margin}


def _noises(texts: Sequence[str], ratio: float = 0.0, layers: str = ENCODER) -> list[Noise]:
    """The noises as written, and the deletion where it has a ratio or layers of its own."""
    return with_deletion(
        [parse_noise(text) for text in texts], ratio, tuple(layers.split(",")) if ratio or layers != ENCODER else ()
    )


def _noise_tag(network: SpikingNetwork, noises: Sequence[Noise]) -> str:
    """What tells results under these noises apart in a file's name; ``0.1`` for a deletion in the encoders alone."""
    strong = [own for own in noises if own.ratio > 0] or [own for own in noises if own.layers][:1]
    if not strong:
        return "0"
    tags = []
    for own in strong:
        usual = own.on(network) == type(own)(own.ratio).on(network)
        tags.append(f"{own.name}{own.ratio:g}" + ("" if usual else f"-{'+'.join(own.layers)}"))
    tag = "-".join(tags) if len(tags) > 1 else tags[0].removeprefix(Deletion.name)
    tag = tag if tag[0].isdigit() else f"-{tag}"
    return tag if len(tag) <= LONGEST_TAG else f"-{hashlib.sha256(tag.encode()).hexdigest()[:16]}"


def _write_logs(measured: Simulation, folder: Path, tag: str) -> None:
    """The three logs of the source system, a line a batch and time step."""
    logs: dict[str, list[list[Any]]] = {
        "accuracy": [["trial", "batch", "step", "images", "correct"]],
        "spikes": [["trial", "batch", "step", "spikes"]],
        "sops": [["trial", "batch", "step", *measured.batches[0].sops]],
    }
    for log in measured.batches:
        place = [log.trial, log.batch, log.step]
        logs["accuracy"].append([*place, log.images, log.correct])
        logs["spikes"].append([*place, log.spikes])
        logs["sops"].append([*place, *log.sops.values()])
    for name, rows in logs.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_text(folder / f"{name}-{tag}.csv", text.getvalue())

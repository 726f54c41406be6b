"""The trained networks that come with the package: files packed by their codes, listed in one index.

models()             what there is, with the figures measured when they were put in
model_file(model)    the file of one, its checksum compared
unpack(model, ...)   a run folder of one, without its ANN

The file is a converted network as ``snnconv convert`` writes it, and says its format's version by itself.
"""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from snnconv.config import Recipe, Settings, to_mapping
from snnconv.errors import ConfigError, FormatError, nearest
from snnconv.runs import (
    CONFIG,
    NETWORK,
    TRAINING,
    Run,
    TrainingResult,
    file_hash,
    list_runs,
    place_run,
    read_json,
    write_json,
)

FOLDER = Path(str(files("snnconv.models")))
"""Where the files lie."""
INDEX = "index.json"


class Model(Settings, frozen=True):
    """One trained network, and what was measured on it without noise.

    Attributes:
        name: What it is called; its file has the same name.
        sha256: Checksum of the file.
        bytes: Size of the file.
        recipe: What was trained.
        seed: With which seed.
        created: When the training began, ISO 8601.
        training: What the training measured.
        data: Data set of the figures below, such as ``CIFAR-10 (JPEG copy)``.
        images: Test images shown, all there are.
        correct: How many of them are classified rightly, by the ANN and by the spiking network.
        units: Units whose count was compared with the ANN's code, over all images; none differs.
        levels: L, a list where layers differ.
        spikes: Spikes an image.
        sops: Synaptic operations an image by convention.
    """

    name: str
    sha256: str
    bytes: int
    recipe: Recipe
    seed: int
    created: str
    training: TrainingResult
    data: str
    images: int
    correct: int
    units: int
    levels: int | list[int]
    spikes: float
    sops: dict[str, float]

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.name}.safetensors"

    @property
    def accuracy(self) -> float:
        """Share of the images classified rightly."""
        return self.correct / self.images

    def to_dict(self) -> dict[str, Any]:
        """Plain values for tables and JSON; the recipe is in the file, too."""
        own = ("name", "data", "levels", "images", "correct", "accuracy", "units", "bytes", "sha256", "seed", "created")
        recipe = {name: getattr(self.recipe, name) for name in ("network", "dataset", "quantization")}
        counts = {"spikes_per_image": self.spikes, "sops_per_image": dict(self.sops)}
        epochs = {"steps": 1, "epochs": self.training.epochs}
        return {name: getattr(self, name) for name in own} | recipe | counts | epochs


def models() -> list[Model]:
    """The networks that come with the package, by name.

    Raises:
        FormatError: the index is missing or damaged.
    """
    return read_json(FOLDER / INDEX, list[Model])


def find_model(name: str) -> Model:
    """The network of a name.

    Raises:
        ConfigError: there is none.
    """
    known = {model.name: model for model in models()}
    if name in known:
        return known[name]
    if ":" in name:
        raise ConfigError(
            f"{name!r} looks like a network of your own: make a run of it with `snnconv convert --model {name} ...` "
            "first, and name that with --run"
        )
    meant = nearest(name, known)
    raise ConfigError(f"unknown model {name!r}{meant}: `snnconv models` lists those that come with the package")


def model_file(model: Model) -> Path:
    """The file of a network.

    Raises:
        FormatError: it is missing, or its checksum is not that of the index.
    """
    path = FOLDER / model.file
    if not path.is_file():
        raise FormatError(f"{path} is missing: install snnconv again")
    if file_hash(path) != model.sha256:
        raise FormatError(f"{path} is damaged, its SHA-256 is not {model.sha256}: install snnconv again")
    return path


def unpack(model: Model, runs_dir: Path) -> Run:
    """The run folder of a network, made where there is none yet: the converted network, without its ANN.

    Raises:
        FormatError: the file is missing or damaged.
        RunError: the folder cannot be written.
    """
    file = model_file(model)
    for run in list_runs(runs_dir):
        if run.shipped and run.has(NETWORK) and file_hash(run.file(NETWORK)) == model.sha256:
            return run

    def fill(target: Path) -> None:
        config = {"recipe": to_mapping(model.recipe), "seed": model.seed, "created": model.created, "shipped": True}
        write_json(target / CONFIG, config)
        write_json(target / TRAINING, msgspec.to_builtins(model.training))
        shutil.copyfile(file, target / NETWORK)

    return place_run(runs_dir, f"{model.name}-shipped", fill)

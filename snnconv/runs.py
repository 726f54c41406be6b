"""Run folders: what a training or conversion leaves behind, and which run a command means.

    runs/<name>/
        config.json         recipe, seed, time of creation, the files training started from
        environment.json    versions, commit, device, threads
        history.json        one entry an epoch
        checkpoint.pt       state after the last whole epoch, for resuming
        ann.safetensors     weights of the best epoch
        network.safetensors the converted spiking network
        merged.safetensors  the ANN with each pair of binary layers merged into one ternary layer
        results/*.json      what verify, simulate and sweep measured
        results/earlier/    what results of other settings replaced
        sweeps/*/*.json     the cells of sweeps, so that one that was stopped goes on

Every file is written under a temporary name and renamed, so a killed command leaves whole files only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from snnconv.config import Recipe, check_name, recipe_from_mapping, to_mapping
from snnconv.errors import ConfigError, FormatError, RunError, SnnconvError, nearest

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
HISTORY = "history.json"
CHECKPOINT = "checkpoint.pt"
ANN = "ann.safetensors"
NETWORK = "network.safetensors"
MERGED = "merged.safetensors"
TRAINING = "results/train.json"
QUANTIZATION = "results/quantize.json"
VERIFICATION = "results/verify.json"
TRAINING_SETTINGS = ("augmentation", "training")
"""Settings of a recipe that say how its network is trained."""
EARLIER = "earlier"
"""Folder beside results, of those that others replaced."""
MEASURED = ("results/verify*.json", "results/simulate-*.json", "results/sweep-*.json", f"results/{EARLIER}/*.json")
"""What a run's network was found to do."""
SHIPPED = "lenet-digits-k1B2"
"""The small trained run that comes with the package."""


class Ingredient(msgspec.Struct, frozen=True):
    """A file that a training uses, with its SHA-256, as ``config.json`` records it."""

    file: str
    sha256: str

    def located(self, runs_dir: Path) -> Path:
        """Where the file lies: its recorded place, or the run folder of the same name in ``runs_dir``.

        Raises:
            RunError: it is missing, or no longer the same.
        """
        recorded = Path(self.file)
        beside = runs_dir / recorded.parent.name / recorded.name
        path = next((place for place in (recorded, beside) if place.is_file()), None)
        if path is None:
            raise RunError(f"{recorded} is missing, and the training uses it: put it back, or start a new run")
        if file_hash(path) != self.sha256:
            raise RunError(f"{path} has changed since the training began with it: put it back, or start a new run")
        return path


class OwnModel(msgspec.Struct, frozen=True):
    """A network of the user's own, as ``config.json`` records it.

    Attributes:
        factory: ``package.module:name`` of what makes it.
        fingerprint: SHA-256 of what it computes but for its weights, see ``conversion.graph.fingerprint``.
        weights: File that its weights were read from.
    """

    factory: str
    fingerprint: str
    weights: Ingredient


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        path: The folder; its name is the run's name.
        recipe: What was trained.
        seed: Seed of weights, order, augmentation and validation split.
        created: Time of creation, ISO 8601.
        shipped: Whether it is a copy of a run or a network that comes with the package.
        start: Weights the training started from.
        teacher: Weights of the ANN whose outputs it is trained against.
        model: Where its network comes from, if that is the user's own; None where the recipe says it.
    """

    path: Path
    recipe: Recipe
    seed: int
    created: str
    shipped: bool = False
    start: Ingredient | None = None
    teacher: Ingredient | None = None
    model: OwnModel | None = None

    @property
    def name(self) -> str:
        return self.path.name

    def file(self, name: str) -> Path:
        """Path of one of the run's files, there or not."""
        return self.path / name

    def has(self, name: str) -> bool:
        return self.file(name).is_file()

    def results(self, pattern: str) -> list[dict[str, Any]]:
        """Contents of the result files whose names match, sorted by name."""
        return [read_json(file, dict[str, Any]) for file in sorted((self.path / "results").glob(pattern))]

    @property
    def brought(self) -> bool:
        """Whether its weights came from elsewhere: what its recipe says of training is not true of them."""
        return (self.has(ANN) or self.has(NETWORK)) and not (self.has(HISTORY) or self.has(TRAINING))

    @property
    def resumable(self) -> bool:
        """Whether its training, begun here, can go on; any other would lose the network it has."""
        return not (self.brought or self.shipped)

    def settings(self) -> dict[str, Any]:
        """What its recipe says as plain values; of training only where its weights were trained so."""
        settings = to_mapping(self.recipe)
        return {name: own for name, own in settings.items() if not (self.brought and name in TRAINING_SETTINGS)}

    def training(self) -> TrainingResult | None:
        """What the finished training measured; None where it is not finished."""
        return read_json(self.file(TRAINING), TrainingResult) if self.has(TRAINING) else None

    def forget_results(self) -> None:
        """Remove what was made from weights that training is about to replace."""
        for pattern in (NETWORK, MERGED, TRAINING, *MEASURED, "sweeps/*/*.json"):
            for file in self.path.glob(pattern):
                file.unlink()

    def discard_if_empty(self) -> None:
        """Remove the folder of a training that failed before its first epoch was whole."""
        if not self.has(HISTORY):
            shutil.rmtree(self.path, ignore_errors=True)


class TrainingResult(msgspec.Struct, frozen=True):
    """What a finished training measured; ``results/train.json``. Accuracies lie in 0..1; top-5 is None for up to
    five classes, and in runs of earlier releases. ``best_epoch`` is the one whose weights are kept, the last one where
    no images were held out, and the accuracy on these then None."""

    epochs: int
    best_epoch: int
    validation_accuracy: float | None
    test_accuracy: float
    test_images: int
    seconds: float
    test_top5: float | None = None


def create_run(
    runs_dir: Path,
    recipe: Recipe,
    seed: int,
    start: Path | None = None,
    teacher: Run | None = None,
    model: OwnModel | None = None,
    name: str | None = None,
) -> Run:
    """Make a new run folder.

    Args:
        runs_dir: Folder of the run folders.
        recipe: What will be trained.
        seed: Seed of weights, order, augmentation and split, 0 .. 2^31 - 1.
        start: Weights the training starts from, for the record.
        teacher: Trained run that it is trained against, for the record.
        model: Where its network comes from, if that is the user's own.
        name: Its name; None takes the recipe's, numbered where that is taken.

    Raises:
        ConfigError: a seed outside its range, or a name with other characters than a recipe's.
        RunError: the name is taken, or the folder cannot be written.
    """
    if not 0 <= seed < 2**31:
        raise ConfigError(f"the seed (= {seed}) must lie in 0..{2**31 - 1}")
    if name is not None:
        check_free(runs_dir, name)
    created = datetime.now(UTC).isoformat()
    config: dict[str, Any] = {"recipe": to_mapping(recipe), "seed": seed, "created": created}
    sources = {"start": start, "teacher": None if teacher is None else teacher.file(ANN)}
    used = {
        kind: Ingredient(str(file.resolve()), file_hash(file)) for kind, file in sources.items() if file is not None
    }
    config |= msgspec.to_builtins(used) | ({} if model is None else {"model": msgspec.to_builtins(model)})
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        path = _free_name(runs_dir, recipe.name) if name is None else runs_dir / name
        path.mkdir()
    except OSError as error:
        raise RunError(
            f"cannot make a run folder in {runs_dir}: {error.strerror}; choose another with --runs-dir"
        ) from error
    write_json(path / CONFIG, config)
    return Run(path, recipe, seed, created, start=used.get("start"), teacher=used.get("teacher"), model=model)


def check_free(runs_dir: Path, name: str) -> None:
    """Raise where a new run cannot have this name.

    Raises:
        ConfigError: a name with other characters than a recipe's.
        RunError: the name is taken.
        FormatError: by a run whose configuration is damaged.
    """
    check_name("run", name)
    path = runs_dir / name
    if os.path.lexists(path):  # False, not an error, in a folder that cannot be read
        begun = (path / CONFIG).is_file() and open_run(path).resumable
        resume = f", or go on with that run by `snnconv train --resume --run {name}`" if begun else ""
        raise RunError(f"{path} exists: choose another name{resume}")


def open_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        RunError: it is none.
        FormatError: its configuration is damaged.
    """
    if not (path / CONFIG).is_file():
        raise RunError(f"{path} is not a run folder: it has no {CONFIG}; `snnconv runs` lists the runs")
    config = read_json(path / CONFIG, _Config)
    recipe = recipe_from_mapping(config.recipe, f"{path / CONFIG}")
    sources = (config.start, config.teacher, config.model)
    return Run(path, recipe, config.seed, config.created, config.shipped, *sources)


def list_runs(runs_dir: Path, damaged: list[str] | None = None) -> list[Run]:
    """Run folders, newest first; those without a sound configuration are passed over.

    Args:
        runs_dir: Folder of the run folders.
        damaged: Takes a sentence for each folder whose configuration cannot be read.
    """
    runs = []
    for path in runs_dir.iterdir() if runs_dir.is_dir() else ():
        try:
            if (path / CONFIG).is_file():
                runs.append(open_run(path))
        except SnnconvError as error:
            if damaged is not None:
                damaged.append(str(error))
    return sorted(runs, key=lambda run: run.created, reverse=True)


def shipped_run() -> Run:
    """The run that comes with the package, in its place; to be read only."""
    return open_run(Path(str(files("snnconv.shipped"))) / SHIPPED)


def find_run(runs_dir: Path, name: str | None, needs: str, instead: str | None = None) -> Run | None:
    """The run called ``name`` (or at that path), or the newest one that has the file ``needs``.

    Args:
        runs_dir: Folder of the run folders.
        name: Which one; None takes the newest.
        needs: A file it must have.
        instead: A file that a run with a name may have in its place.

    Returns:
        The run; None where no name is given and no run has the file.

    Raises:
        RunError: no such run, or it lacks the file.
    """
    if name is None:
        return next((run for run in list_runs(runs_dir) if run.has(needs)), None)
    path = runs_dir / name if (runs_dir / name).exists() else Path(name)
    if not path.exists():
        names = (file.parent.name for file in runs_dir.glob(f"*/{CONFIG}"))
        raise RunError(f"no run called {name} in {runs_dir}{nearest(name, names)}: `snnconv runs` lists them")
    run = open_run(path)
    if not run.has(needs) and not (instead is not None and run.has(instead)):
        if needs == ANN and run.has(NETWORK):
            raise RunError(f"run {run.name} is a converted network without its {ANN}: this takes a run with both")
        raise RunError(f"run {run.name} has no {needs}: {_REMEDY.get(needs, 'it is not complete')}")
    return run


def copy_shipped(runs_dir: Path) -> Run:
    """Copy the run that comes with the package into ``runs_dir`` and open it."""
    return place_run(runs_dir, SHIPPED, lambda folder: shutil.copytree(shipped_run().path, folder, dirs_exist_ok=True))


def place_run(runs_dir: Path, name: str, fill: Callable[[Path], object]) -> Run:
    """Make a run folder whole or not at all, numbered where the name is taken, and open it.

    Args:
        runs_dir: Folder of the run folders.
        name: Its name.
        fill: Puts the files into an empty folder.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        target = _free_name(runs_dir, name)
        with tempfile.TemporaryDirectory(dir=runs_dir) as work:
            folder = Path(work) / name
            folder.mkdir()
            fill(folder)
            folder.rename(target)
    except OSError as error:
        raise RunError(
            f"cannot make run {name} in {runs_dir}: {error.strerror}; choose another folder with --runs-dir"
        ) from error
    return open_run(target)


T = TypeVar("T")


def read_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file of a run as a value of a type.

    Raises:
        FormatError: missing, not JSON, or something else than expected.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise FormatError(f"{path} is damaged: {error}") from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_result(
    path: Path,
    result: Mapping[str, Any],
    settings: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    say: Callable[[str], object] = lambda text: None,
) -> None:
    """Write a result whole or not at all; one of other settings is kept in ``earlier`` beside it.

    Args:
        path: Its file, which a result of other settings may have.
        result: What was measured.
        settings: Of a result, by name: what the file's name does not tell.
        say: Takes the sentence on what is kept where.
    """
    try:
        before = settings(read_json(path, dict[str, Any]))
    except FormatError:  # there is none, or nothing that could be read again
        before = settings(result)
    if before != settings(result):
        number = 1
        while (earlier := path.parent / EARLIER / f"{path.stem}-{number}{path.suffix}").exists():
            number += 1
        write_text(earlier, path.read_text(encoding="utf-8"))
        other = " and ".join(name for name, value in settings(result).items() if value != before[name])
        whose = ", which came with snnconv," if _came_with_snnconv(path) else ""
        say(f"{path.name}{whose} was measured with other {other}: it is kept as {earlier}")
    write_json(path, result)


def _came_with_snnconv(path: Path) -> bool:
    """Whether a result is that of the shipped run, as it was copied."""
    original = shipped_run().file(f"results/{path.name}")
    return original.is_file() and original.read_bytes() == path.read_bytes()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path beside ``path``, then rename it into place.

    Raises:
        RunError: the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> Path:
    """Make a folder where it is missing, and see that it can be written.

    Raises:
        RunError: it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise RunError(f"cannot write into {path}: {error.strerror}") from error


def describe_environment(device: str, threads: int) -> dict[str, Any]:
    """Versions, commit and machine, as recorded with a run."""
    packages = ("snnconv", "torch", "spikingjelly", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "commit": _commit(),
        "device": device,
        "threads": threads,
        "machine": platform.machine(),
        "processor": _processor(),
    }


_REMEDY = {
    ANN: "train it first with `snnconv train`",
    NETWORK: "convert it first with `snnconv convert`",
}


class _Config(msgspec.Struct, frozen=True):
    recipe: dict[str, Any]
    seed: int
    created: str
    shipped: bool = False
    start: Ingredient | None = None
    teacher: Ingredient | None = None
    model: OwnModel | None = None


def _free_name(runs_dir: Path, name: str) -> Path:
    number = 1
    while (path := runs_dir / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout this package runs from, marked where files differ from it; None elsewhere."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "snnconv")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()

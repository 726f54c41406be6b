"""Run folders: what a training or conversion leaves behind, and which run a command means.

    runs/<name>/
        config.json         recipe, seed, time of creation
        environment.json    versions, commit, device, threads
        history.json        one entry an epoch
        checkpoint.pt       state after the last whole epoch, for resuming
        ann.safetensors     weights of the best epoch
        network.safetensors the converted spiking network
        results/*.json      what verify and simulate measured

Every file is written under a temporary name and renamed, so a killed command leaves whole files only.
"""

from __future__ import annotations

import contextlib
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
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from snnconv.config import Recipe, recipe_from_mapping, to_mapping
from snnconv.errors import FormatError, RunError

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
HISTORY = "history.json"
CHECKPOINT = "checkpoint.pt"
ANN = "ann.safetensors"
NETWORK = "network.safetensors"
TRAINING = "results/train.json"
VERIFICATION = "results/verify.json"
SHIPPED = "lenet-digits-k1B2"
"""The small trained run that comes with the package."""


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        path: The folder; its name is the run's name.
        recipe: What was trained.
        seed: Seed of weights, order, augmentation and validation split.
        created: Time of creation, ISO 8601.
    """

    path: Path
    recipe: Recipe
    seed: int
    created: str

    @property
    def name(self) -> str:
        return self.path.name

    def file(self, name: str) -> Path:
        """Path of one of the run's files, there or not."""
        return self.path / name

    def has(self, name: str) -> bool:
        return self.file(name).is_file()

    def results(self, pattern: str) -> list[Mapping[str, Any]]:
        """Contents of the result files whose names match, sorted by name."""
        return [read_json(file) for file in sorted((self.path / "results").glob(pattern))]


def create_run(runs_dir: Path, recipe: Recipe, seed: int) -> Run:
    """Make a new run folder named after the recipe, numbered where the name is taken.

    Raises:
        RunError: the folder cannot be written.
    """
    number = 1
    created = datetime.now(UTC).isoformat()
    config = {"recipe": to_mapping(recipe), "seed": seed, "created": created}
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        while True:
            path = runs_dir / (recipe.name if number == 1 else f"{recipe.name}-{number}")
            try:
                path.mkdir()
                break
            except FileExistsError:
                number += 1
    except OSError as error:
        raise RunError(
            f"cannot make a run folder in {runs_dir}: {error.strerror}; choose another with --runs-dir"
        ) from error
    write_json(path / CONFIG, config)
    return Run(path, recipe, seed, created)


def open_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        RunError: it is none.
        FormatError: its configuration is damaged.
    """
    if not (path / CONFIG).is_file():
        raise RunError(f"{path} is not a run folder: it has no {CONFIG}; `snnconv runs` lists the runs")
    config = read_json(path / CONFIG)
    try:
        recipe, seed, created = config["recipe"], int(config["seed"]), str(config["created"])
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{path / CONFIG} is not the configuration of a run: recipe, seed and created are expected"
        ) from error
    return Run(path, recipe_from_mapping(recipe, f"{path / CONFIG}"), seed, created)


def list_runs(runs_dir: Path) -> list[Run]:
    """Run folders, newest first; folders without a configuration are passed over."""
    if not runs_dir.is_dir():
        return []
    runs = [open_run(path) for path in runs_dir.iterdir() if (path / CONFIG).is_file()]
    return sorted(runs, key=lambda run: run.created, reverse=True)


def find_run(runs_dir: Path, name: str | None, needs: str) -> Run | None:
    """The run called ``name`` (or at that path), or the newest one that has the file ``needs``.

    Returns:
        The run; None where no name is given and no run has the file.

    Raises:
        RunError: no such run, or it lacks the file.
    """
    if name is None:
        return next((run for run in list_runs(runs_dir) if run.has(needs)), None)
    path = runs_dir / name if (runs_dir / name).exists() else Path(name)
    if not path.exists():
        raise RunError(f"no run called {name} in {runs_dir}: `snnconv runs` lists them")
    run = open_run(path)
    if not run.has(needs):
        raise RunError(f"run {run.name} has no {needs}: {_REMEDY.get(needs, 'it is not complete')}")
    return run


def copy_shipped(runs_dir: Path) -> Run:
    """Copy the run that comes with the package into ``runs_dir`` (once) and open it."""
    target = runs_dir / SHIPPED
    if not target.exists():
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            with (
                as_file(files("snnconv.shipped") / SHIPPED) as source,
                tempfile.TemporaryDirectory(dir=runs_dir) as work,
            ):
                copy = shutil.copytree(source, Path(work) / SHIPPED)
                copy.rename(target)
        except OSError as error:
            raise RunError(
                f"cannot copy the shipped run to {target}: {error.strerror}; choose another with --runs-dir"
            ) from error
    return open_run(target)


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        FormatError: missing, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FormatError(f"{path} is damaged: it is not valid JSON ({error})") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


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
    CHECKPOINT: "there is nothing to resume",
    VERIFICATION: "verify it first with `snnconv verify`",
}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()

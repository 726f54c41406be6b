"""Certificates: what a network is, proven on data, in a form that another machine can check from beginning to end.

    FILE.json            the certificate
    FILE/                what it speaks of: config.json, ann.safetensors, network.safetensors (a run folder by itself),
                         network.npz and network.txt (the integers and their description)

Everything in the certificate but the record of how it came about is computed anew when it is checked.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch

from snnconv.conversion.verification import Parity, verify
from snnconv.data.sets import ImageSet
from snnconv.engines.registry import choose_engine
from snnconv.errors import CertificateError, ConfigError, ParityError, RunError
from snnconv.formats.arrays import arrays_of, describe, read_arrays, write_arrays
from snnconv.formats.certificate import changed_files, describe_files, differences, read_certificate, write_certificate
from snnconv.formats.native import load
from snnconv.own_models import model_of
from snnconv.pipeline import Sample, convert_run, open_network, test_sample
from snnconv.runs import ANN, CONFIG, NETWORK, Run, describe_environment, file_hash, open_run
from snnconv.snn.footprint import Core, fit, footprints
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.simulation import Simulation, simulate

ARRAYS, DESCRIPTION = "network.npz", "network.txt"
FILES = {"run": CONFIG, "ann": ANN, "network": NETWORK, "arrays": ARRAYS, "description": DESCRIPTION}
HASHED_TOGETHER = 1000


@dataclass(frozen=True)
class Checked:
    """A certificate that was checked.

    Attributes:
        sections: Its contents.
        differences: What does not hold, a sentence each; empty where all of it does.
        threads: Numbers of threads it was computed with.
    """

    sections: dict[str, Any]
    differences: list[str]
    threads: list[int]


def certify(
    run: Run,
    sample: Sample,
    path: Path,
    core: Core | None = None,
    batch_size: int = 100,
    engine: str = "auto",
    quiet: bool = False,
) -> dict[str, Any]:
    """Prove a run's network on images, measure it, and write the certificate with all it speaks of.

    Args:
        run: With a trained ANN; converted where it is not yet.
        sample: Test images of its data set.
        path: The certificate, .json.
        core: Limits of a chip's core to hold it against; None leaves that out.

    Returns:
        The certificate's sections.

    Raises:
        ParityError: the conversion is not proven on these images.
        RunError: the folder cannot be written.
    """
    path = certificate_path(path)
    folder = folder_of(path)
    _require_own(folder)
    network = open_network(run, sample.images)
    try:
        measured = _measure(run, network, sample.images, core, batch_size, engine, quiet)
    except ParityError as error:
        raise ParityError(f"run {run.name} cannot be certified: {error}") from error
    sections = {
        "about": _about(run, sample.images, network),
        "files": {},
        "data": _data(sample.images),
        **measured,
    }
    _fill(folder, run, network)
    sections["files"] = describe_files(folder, FILES)
    write_certificate(path, sections)
    return sections


def check(
    path: Path,
    data_dir: Path | None = None,
    run: Run | None = None,
    batch_size: int = 100,
    workers: int | None = None,
    engine: str = "auto",
    quiet: bool = False,
) -> Checked:
    """Check a certificate: every byte of it and of its files, then everything it says, computed anew.

    Parity and counts are computed with one thread and with several.

    Args:
        path: The certificate.
        data_dir: Folder of the data sets.
        run: A run whose ANN must be the certified one; None asks for none.

    Raises:
        CertificateError: it was changed.
        DataError: the data set is not to be had.
        FormatError: it is no certificate.
        RunError: the ANN is a network of the user's own whose factory is not to be had.
    """
    path = path if path.is_file() else certificate_path(path)
    sections = read_certificate(path)
    folder = folder_of(path)
    found = changed_files(folder, FILES, sections["files"])
    if not found and run is not None and file_hash(run.file(ANN)) != file_hash(folder / ANN):
        found.append(f"{run.file(ANN)} is not the ANN that was certified: its SHA-256 differs")
    if found:
        return Checked(sections, found, [])
    own, network = open_run(folder), load(folder / NETWORK)
    dataset, number, core = _conditions(path, sections)
    images = test_sample(own, dataset, data_dir, number, workers).images
    facts = {key: value for key, value in sections["about"].items() if key != "record"}
    found += _different_files(folder, network)
    found += differences(_data(images), sections["data"], "data")
    found += differences(_facts(own, images, network), facts, "about")
    if found:
        return Checked(sections, found, [])
    threads = sorted({1, max(2, torch.get_num_threads())})
    for count in threads:
        with _threads(count):
            try:
                measured = _measure(own, network, images, core, batch_size, engine, quiet)
            except ParityError as error:
                raise ParityError(f"certificate {path} does not hold: {error}") from error
        found += [
            f"with {count} thread{'s' if count > 1 else ''} {phrase}"
            for key, value in measured.items()
            for phrase in differences(value, sections[key], key)
        ]
    return Checked(sections, found, threads)


def require(path: Path, checked: Checked) -> None:
    """Raise the first thing that does not hold.

    Raises:
        CertificateError: there is one.
    """
    if checked.differences:
        more = len(checked.differences) - 1
        rest = f" (and {more} more)" if more else ""
        raise CertificateError(f"certificate {path} does not hold: {checked.differences[0]}{rest}")


def parse_core(text: str) -> Core:
    """Limits of a core, such as ``fan_in=256,neurons=1024``; see ``Core.parse``."""
    return Core.parse(text)


def certificate_path(path: Path) -> Path:
    """The certificate's file: its name ends in .json.

    Raises:
        ConfigError: it has no name.
    """
    if not path.name:
        raise ConfigError(f"{path} is no name for a certificate: give one, such as chip.json")
    return path if path.suffix == ".json" else path.with_name(path.name + ".json")


def folder_of(path: Path) -> Path:
    """Folder of the files that a certificate speaks of, beside it."""
    return path.with_suffix("")


def _about(run: Run, images: ImageSet, network: SpikingNetwork) -> dict[str, Any]:
    """What was certified, and the record of how; the record alone is not computed anew."""
    environment = describe_environment(str(network.device), torch.get_num_threads())
    record = {"created": datetime.now(UTC).isoformat(), "run": run.name, "environment": environment}
    return _facts(run, images, network) | {"record": record}


def _facts(run: Run, images: ImageSet, network: SpikingNetwork) -> dict[str, Any]:
    return {
        "network": run.recipe.network,
        "quantization": run.recipe.quantization,
        "dataset": images.name,
        "split": network.header.split,
        "levels": network.levels,
        "classes": network.classes,
    }


def _data(images: ImageSet) -> dict[str, Any]:
    """Which images, and the hash of all their pixels and labels."""
    digest = hashlib.sha256(f"{list(images.shape)} {images.classes}".encode())
    for batch in images.batches(HASHED_TOGETHER):
        digest.update(batch.pixels.contiguous().numpy().tobytes())
        digest.update(batch.labels.numpy().astype("<i8").tobytes())
    return {"dataset": images.name, "part": images.split, "images": len(images), "sha256": digest.hexdigest()}


def _measure(
    run: Run, network: SpikingNetwork, images: ImageSet, core: Core | None, batch_size: int, engine: str, quiet: bool
) -> dict[str, Any]:
    """Parity, hardware and activity, as plain values that are the same on every machine.

    Raises:
        ParityError: the conversion is not proven.
    """
    runner = choose_engine(network, engine, torch.device("cpu"))
    parity = verify(model_of(run), network, images, runner, batch_size, quiet, run.recipe.preprocessing)
    failures = parity.failures()
    if failures:
        raise ParityError(failures[0])
    measured = simulate(runner, images, batch_size=batch_size, quiet=quiet)
    rows = footprints(network)
    return {
        "parity": _parity(parity),
        "hardware": {
            "layers": [row.to_dict() for row in rows],
            "neurons": sum(row.neurons for row in rows if row.kind == "spiking"),
            "weights": sum(row.weights for row in rows if row.kind == "spiking"),
            "bound": max((row.bound for row in rows), default=0.0),
            "core": None if core is None else fit(rows, core).to_dict(),
        },
        "activity": _activity(measured),
    }


def _parity(parity: Parity) -> dict[str, Any]:
    return {
        "images": parity.images,
        "predictions_equal": parity.predictions_equal,
        "logits_equal": parity.logits_equal,
        "ann_correct": parity.ann_correct,
        "encoder_ties": parity.encoder_ties,
        "units": sum(layer.units for layer in parity.layers),
        "mismatches": sum(layer.mismatches for layer in parity.layers),
        "layers": [
            {"name": layer.name, "units": layer.units, "mismatches": layer.mismatches, "ties": layer.ties}
            for layer in parity.layers
        ],
    }


def _activity(measured: Simulation) -> dict[str, Any]:
    """Totals over all images, whole numbers, and what that is an image."""
    return {
        "images": measured.images,
        "correct": measured.correct_by_trial[0],
        "steps": measured.steps,
        "spikes_per_image": measured.spikes_per_image,
        "sops_per_image": measured.sops_per_image,
        "layers": [
            {"name": layer.name, "spikes": layer.spikes, "events": layer.events, "sops": layer.sops}
            for layer in measured.layers
        ],
    }


def _require_own(folder: Path) -> None:
    """Refuse a folder that holds anything but the files of a certificate, for it would be replaced."""
    try:
        present = {file.name for file in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error
    if present and not {ARRAYS} <= present <= set(FILES.values()):
        raise RunError(f"{folder} is there already and is no folder of a certificate: choose another name")


def _fill(folder: Path, run: Run, network: SpikingNetwork) -> None:
    """Put the files into the folder: made aside first, so that a stopped command leaves none half."""
    _require_own(folder)  # once more: a proof takes its time
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work:
            made = Path(work) / folder.name
            made.mkdir()
            for name in (CONFIG, ANN, NETWORK):
                shutil.copyfile(run.file(name), made / name)
            write_arrays(network, made / ARRAYS)
            if folder.exists():
                shutil.rmtree(folder)
            made.rename(folder)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error


def _different_files(folder: Path, network: SpikingNetwork) -> Iterator[str]:
    """Whether the network is what the ANN converts to, and arrays and description are the network's."""
    expected = arrays_of(network)
    with tempfile.TemporaryDirectory() as work:
        for name in (CONFIG, ANN):
            shutil.copyfile(folder / name, Path(work) / name)
        anew = arrays_of(convert_run(open_run(Path(work)), network.header.split))
    yield from _different_arrays(f"{folder / NETWORK} and what the ANN converts to", anew, expected)
    yield from _different_arrays(f"{folder / ARRAYS} and {folder / NETWORK}", read_arrays(folder / ARRAYS), expected)
    if (folder / DESCRIPTION).read_bytes() != describe(network, ARRAYS).encode():
        yield f"{folder / DESCRIPTION} does not describe {folder / NETWORK}"


def _different_arrays(what: str, one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for name in sorted(set(one) | set(other)):
        if name not in one or name not in other or not np.array_equal(one[name], other[name]):
            yield f"{what} differ in {name}"


def _conditions(path: Path, sections: dict[str, Any]) -> tuple[str, int, Core | None]:
    """Data set, number of images and core that a certificate was made with.

    Raises:
        CertificateError: it does not say them.
    """
    try:
        data = msgspec.convert(sections["data"], _Data)
        core = msgspec.convert(sections["hardware"], _Hardware).core
    except msgspec.ValidationError as error:
        raise CertificateError(f"{path} was changed: {error}") from error
    return data.dataset, data.images, None if core is None else core.limits


class _Data(msgspec.Struct, frozen=True):
    dataset: str
    images: Annotated[int, msgspec.Meta(ge=1)]


class _Fit(msgspec.Struct, frozen=True):
    limits: Core


class _Hardware(msgspec.Struct, frozen=True):
    core: _Fit | None


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute with so many threads, then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)

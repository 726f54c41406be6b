"""A network written for another tool; what was written is read back and run beside the network itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnconv.data.images import data_folder, load_images
from snnconv.data.preprocessing import prepare
from snnconv.data.sets import ImageSet
from snnconv.errors import ConfigError, DataError, ExportError, RunError
from snnconv.formats.arrays import arrays_of, read_arrays, write_arrays
from snnconv.formats.native import load
from snnconv.formats.nir import write_nir
from snnconv.formats.nir_steps import run_nir
from snnconv.formats.onnx import onnx_runner, read_onnx, write_onnx
from snnconv.formats.spikingjelly import read_spikingjelly, run_spikingjelly, write_spikingjelly
from snnconv.pipeline import network_of, open_network, require_fit, test_sample
from snnconv.runs import Run
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.neurons.registry import find_neuron, steps_of
from snnconv.snn.temporal import TemporalNetwork

TIMED = ("nir", "spikingjelly")
"""Formats that know neurons over time; the others hold the ladder's integers."""
SUFFIXES = {"nir": ".nir", "onnx": ".onnx", "numpy": ".npz", "spikingjelly": ".py"}
READ_BACK = ("numpy",)
"""Formats that are compared by reading them back: they need no images."""
CHECKED_TOGETHER = 10
"""Images that are compared at a time."""
TOLERANCE = 1e-9
"""Of logits, relative to the largest of an image."""

Counts = Mapping[str, Tensor]
Way = Callable[[Tensor], tuple[Tensor, Counts]]
"""From preprocessed images to logits, and the net counts of each layer that fires."""


@dataclass(frozen=True)
class Choices:
    """What may be asked for beside the format.

    Attributes:
        neuron: What the units become: ``ladder``, or ``if`` where the format knows time.
        steps: T of ``if`` in the comparison; None takes its own.
        lossy: Write what the format cannot say as the nearest that it can.
        codes: Give out every unit's codes, too (ONNX).
    """

    neuron: str = "ladder"
    steps: int | None = None
    lossy: bool = False
    codes: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: The files.
        changes: What they say otherwise than the network, a sentence each.
        by: What runs them.
        opened: From the number of steps to how they are run; None where reading them back was comparison enough.
        lacks: Package that is not there to run them.
    """

    files: list[Path]
    changes: list[str] = field(default_factory=list)
    by: str = ""
    opened: Callable[[int], Way] | None = None
    lacks: str = ""


@dataclass
class Check:
    """What was written, run beside the network.

    Attributes:
        by: What ran it.
        images: Images compared.
        units: Units compared, over all images.
        mismatches: Units whose count differs.
        predictions_equal: Images with the same class.
        logits_equal: Images whose logits agree to the rounding of float64.
    """

    by: str
    images: int = 0
    units: int = 0
    mismatches: int = 0
    predictions_equal: int = 0
    logits_equal: int = 0

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.mismatches and self.predictions_equal == self.logits_equal == self.images


def export(
    network: SpikingNetwork, to: str, path: Path, x: Tensor | None = None, choices: Choices | None = None
) -> dict[str, Any]:
    """Write a network, read what was written, and compare the two; what differs is not kept.

    Args:
        network: Converted.
        to: One of ``FORMATS``.
        path: File to write, whose name is made to end as ``SUFFIXES`` says; what belongs beside it takes that name.
        x: Preprocessed images to compare on; None compares on none.
        choices: See there.

    Returns:
        Plain values: format, neuron, files, changes (what was lost, a sentence each) and the comparison.

    Raises:
        ConfigError: an option that the format does not have, or no name.
        ExportError: something that the format cannot say, or files that do not do what the network does.
        RunError: the folder cannot be written.
    """
    choices = choices or Choices()
    _check_choices(to, choices)
    if not path.name:
        raise ConfigError(f"{str(path)!r} is no name for a file: give one, such as net{SUFFIXES[to]}")
    path = path if path.suffix == SUFFIXES[to] else path.with_name(path.name + SUFFIXES[to])
    with _aside(path) as aside:
        written = FORMATS[to](network, aside, choices)
        result: dict[str, Any] = {
            "format": to,
            "neuron": choices.neuron,
            "files": [{"file": str(path.with_name(own.name)), "bytes": own.stat().st_size} for own in written.files],
            "exact": not written.changes,
            "changes": written.changes,
            "check": None,
            "not_checked": None,
        }
        if written.opened is None:
            return result
        if x is None:
            return result | {"not_checked": "no images were asked for"}
        if written.lacks:
            install = f"`pip install -c constraints.txt -e '.[{to}]'`"
            return result | {"not_checked": f"{written.lacks} is not installed: {install}"}
        steps, ours = _own(network, choices)
        check = _compare(network, x, written.by, written.opened(steps), ours)
        if not written.changes and not check.equal:
            raise ExportError(
                f"{path} does not do what the network does and was not kept: {check.mismatches:,} of {check.units:,} "
                f"units differ, logits agree on {check.logits_equal} of {check.images} images when {check.by} runs it"
            )
        return result | {"check": asdict(check) | {"equal": check.equal}}


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """The same name in a folder of its own beside ``path``; what was written there moves beside it if nothing raises.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export.") as work:
            yield Path(work) / path.name
            for file in sorted(Path(work).iterdir()):
                file.replace(path.with_name(file.name))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def export_run(
    run: Run,
    to: str,
    path: Path,
    number: int,
    data_dir: Path | None = None,
    workers: int | None = None,
    choices: Choices | None = None,
) -> dict[str, Any]:
    """``export`` of a run's network, compared on its first ``number`` test images; 0 compares on none."""
    if not number or to in READ_BACK:
        return export(network_of(run), to, path, None, choices) | {"images_of": None}
    images = test_sample(run, None, data_dir, workers=workers).images
    network = open_network(run, images)
    return export(network, to, path, _first(network, images, number), choices) | {"images_of": images.name}


def export_file(
    file: Path,
    to: str,
    path: Path,
    number: int,
    data_dir: Path | None = None,
    workers: int | None = None,
    choices: Choices | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """``export`` of a network by itself, compared on test images of the data set that its file names.

    Where these are not to be had it is compared on random pixels, and ``say`` is told why; 0 images compare on none.
    Nothing is downloaded.
    """
    network = load(file)
    if not number or to in READ_BACK:
        return export(network, to, path, None, choices) | {"images_of": None}
    data_folder(data_dir)  # one that was named and is not there is refused
    try:
        images = _test_images(network, data_dir, workers)
        require_fit(network, images, str(file))
    except (ConfigError, DataError) as error:
        say(f"comparing on random pixels: {error}")
        x, name = _random(network, number), "random pixels"
    else:
        x, name = _first(network, images, number), images.name
    return export(network, to, path, x, choices) | {"images_of": name}


def _test_images(network: SpikingNetwork, data_dir: Path | None, workers: int | None) -> ImageSet:
    """Test images of the data set that a network's file names.

    Raises:
        DataError: it names none, or the images are not there.
        ConfigError: it names one that is not known here.
    """
    recipe = network.header.about.get("recipe")
    if not isinstance(recipe, dict) or "dataset" not in recipe:
        raise DataError("the network's file names no data set, so that --data-dir is not used")
    settings = network.header.preprocessing
    return load_images(str(recipe["dataset"]), "test", data_dir, False, settings, workers)


def _first(network: SpikingNetwork, images: ImageSet, number: int) -> Tensor:
    """The first images, as the network takes them; all where there are fewer."""
    settings, first = network.header.preprocessing, images.take(min(number, len(images)))
    return torch.cat([prepare(batch.pixels, settings) for batch in first.batches(CHECKED_TOGETHER)])


def _random(network: SpikingNetwork, number: int) -> Tensor:
    """Images of random pixels, as the network takes them."""
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, *network.header.shape), dtype=torch.uint8, generator=draws)
    return prepare(pixels, network.header.preprocessing)


def _nir(network: SpikingNetwork, path: Path, choices: Choices) -> Exported:
    written = write_nir(network, path, choices.neuron, choices.lossy)  # reads it back, too

    def opened(steps: int) -> Way:
        def way(x: Tensor) -> tuple[Tensor, Counts]:
            logits, spikes = run_nir(written.graph, x, steps)
            counts = {}
            for name, layer in network.units():
                sent = [spikes[node] for node in written.nodes[name]]
                below = layer.grid.negative if choices.neuron == "ladder" else 0
                counts[name] = torch.stack([-own if i < below else own for i, own in enumerate(sent)]).sum(0)
            return logits.mean(0), counts

        return way

    return Exported([path], written.changes, "the equations of NIR", opened)


def _onnx(network: SpikingNetwork, path: Path, choices: Choices) -> Exported:
    write_onnx(network, path, choices.codes)

    def opened(steps: int) -> Way:
        run = onnx_runner(read_onnx(path, network))

        def way(x: Tensor) -> tuple[Tensor, Counts]:
            outputs = run(x)
            return outputs["logits"], outputs

        return way

    lacks = "" if find_spec("onnxruntime") else "onnxruntime"
    return Exported([path], [], "ONNX Runtime", opened, lacks)


def _numpy(network: SpikingNetwork, path: Path, choices: Choices) -> Exported:
    files, expected = write_arrays(network, path), arrays_of(network)
    read = read_arrays(files[0])
    if set(read) != set(expected) or not all(np.array_equal(read[name], own) for name, own in expected.items()):
        raise ExportError(f"{path.name} does not hold what was written into it and was not kept")
    return Exported(files)


def _spikingjelly(network: SpikingNetwork, path: Path, choices: Choices) -> Exported:
    files = write_spikingjelly(network, path, choices.neuron)

    def opened(steps: int) -> Way:
        module = read_spikingjelly(files[0])
        return lambda x: run_spikingjelly(module, network, x, steps)

    return Exported(files, [], "SpikingJelly", opened)


FORMATS: dict[str, Callable[[SpikingNetwork, Path, Choices], Exported]] = {
    "nir": _nir,
    "onnx": _onnx,
    "numpy": _numpy,
    "spikingjelly": _spikingjelly,
}


def _check_choices(to: str, choices: Choices) -> None:
    if to not in FORMATS:
        raise ConfigError(f"unknown format {to!r}: {', '.join(FORMATS)} are known")
    find_neuron(choices.neuron)
    if to not in TIMED and choices.neuron != "ladder":
        raise ConfigError(f"--to {to} writes integers without time: --neuron is for {' and '.join(TIMED)}")
    if choices.lossy and to != "nir":
        raise ConfigError(f"--to {to} writes nothing with a loss: --lossy is for nir")
    if choices.codes and to != "onnx":
        raise ConfigError(f"--to {to} has no outputs to choose: --codes is for onnx")
    if choices.steps is not None and choices.neuron != "if":
        raise ConfigError("--steps is for --neuron if: the ladder takes one step")
    steps_of(choices.neuron, choices.steps, slots=1, settling=1)


def _own(network: SpikingNetwork, choices: Choices) -> tuple[int, Way]:
    """Number of steps, and how the network itself is run."""
    temporal = None if choices.neuron == "ladder" else TemporalNetwork(network, choices.neuron, choices.steps)

    def way(x: Tensor) -> tuple[Tensor, Counts]:
        counts: dict[str, Tensor] = {}

        def tap(name: str, sent: Tensor, step: int) -> Tensor:
            counts[name] = sent.int() + counts.get(name, 0)
            return sent

        logits: Tensor = network(x, (tap,)) if temporal is None else temporal(x, (tap,))[-1]
        return logits, counts

    return 1 if temporal is None else temporal.steps, way


@torch.no_grad()
def _compare(network: SpikingNetwork, x: Tensor, by: str, theirs: Way, ours: Way) -> Check:
    check = Check(by)
    for first in range(0, len(x), CHECKED_TOGETHER):
        part = x[first : first + CHECKED_TOGETHER]
        expected, counts = ours(part)
        logits, own = theirs(part)
        for name, _ in network.units():
            check.units += counts[name].numel()
            check.mismatches += int((counts[name].double() != own[name].double()).sum())
        scale = torch.maximum(expected.abs().amax(1), logits.abs().amax(1)).clamp(min=1e-300)
        check.images += len(part)
        check.predictions_equal += int((expected.argmax(1) == logits.argmax(1)).sum())
        check.logits_equal += int(((expected - logits).abs().amax(1) <= TOLERANCE * scale).sum())
    return check

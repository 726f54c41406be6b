"""A network written for another tool, and what was written run beside the network itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnconv.data.preprocessing import prepare
from snnconv.errors import ConfigError, ExportError
from snnconv.formats.arrays import arrays_of, write_arrays
from snnconv.formats.native import load
from snnconv.formats.nir import Written, write_nir
from snnconv.formats.nir_steps import run_nir
from snnconv.formats.onnx import run_onnx, to_onnx, write_onnx
from snnconv.formats.spikingjelly import run_spikingjelly, to_spikingjelly, write_spikingjelly
from snnconv.pipeline import convert_run, open_network, test_sample
from snnconv.runs import NETWORK, Run
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.neurons.registry import find_neuron
from snnconv.snn.temporal import TemporalNetwork

FORMATS = ("nir", "onnx", "numpy", "spikingjelly")
NEURONS = {"nir": ("ladder", "if"), "spikingjelly": ("ladder", "if")}
"""What the units of a format may be; the others know no time."""
SUFFIXES = {"nir": ".nir", "onnx": ".onnx"}
CHECKED_TOGETHER = 10
"""Images that are compared at a time."""
TOLERANCE = 1e-9
"""Of logits, relative to the largest of an image."""

Counts = Mapping[str, Tensor]
Way = Callable[[Tensor], tuple[Tensor, Counts]]
"""From preprocessed images to logits, and the net counts of each layer that fires."""


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
    network: SpikingNetwork,
    to: str,
    path: Path,
    x: Tensor | None = None,
    neuron: str = "ladder",
    steps: int | None = None,
    lossy: bool = False,
    codes: bool = False,
) -> dict[str, Any]:
    """Write a network and compare what was written with it.

    Args:
        network: Converted.
        to: One of ``FORMATS``.
        path: File to write; what belongs beside it takes its name.
        x: Preprocessed images to compare on; None compares nothing.
        neuron: What the units become, see ``NEURONS``.
        steps: T of ``if`` in the comparison; None takes its own.
        lossy: Write what the format cannot say as the nearest that it can.
        codes: Give out every unit's codes, too (ONNX).

    Returns:
        Plain values: format, neuron, files, changes (what was lost, a sentence each) and the comparison.

    Raises:
        ConfigError: an option that the format does not have.
        ExportError: something that the format cannot say, or files that do not do what the network does.
        RunError: the folder cannot be written.
    """
    _check_options(to, neuron, steps, lossy, codes)
    written: Written | None = None
    if to in SUFFIXES and not path.suffix:
        path = path.with_suffix(SUFFIXES[to])
    match to:
        case "nir":
            written = write_nir(network, path, neuron, lossy)
            files = [path]
        case "onnx":
            write_onnx(network, path, codes)
            files = [path]
        case "numpy":
            files = write_arrays(network, path)
        case _:
            files = write_spikingjelly(network, path, neuron)
    changes = [] if written is None else written.changes
    result: dict[str, Any] = {
        "format": to,
        "neuron": neuron,
        "files": [{"file": str(file), "bytes": file.stat().st_size} for file in files],
        "exact": not changes,
        "changes": changes,
        "check": None,
        "not_checked": None,
    }
    if to == "numpy":
        _require_same_arrays(network, files[0])
    elif x is None:
        result["not_checked"] = "no images were asked for"
    else:
        try:
            check = _compare(network, x, *_runs(network, to, neuron, steps, written))
            result["check"] = asdict(check) | {"equal": check.equal}
        except ExportError as error:
            if "not installed" not in str(error):
                raise
            result["not_checked"] = str(error)
    if result["check"] and not changes and not result["check"]["equal"]:
        raise ExportError(
            f"{files[0]} does not do what the network does: {result['check']['mismatches']:,} of "
            f"{result['check']['units']:,} units differ when {result['check']['by']} runs it; do not use it"
        )
    return result


def export_run(
    run: Run, to: str, path: Path, number: int, data_dir: Path | None = None, workers: int | None = None, **options: Any
) -> dict[str, Any]:
    """``export`` of a run's network, compared on its first ``number`` test images; 0 compares nothing."""
    if not number:
        network = load(run.file(NETWORK)) if run.has(NETWORK) else convert_run(run)
        return export(network, to, path, **options) | {"images_of": None}
    every = test_sample(run, None, data_dir, workers=workers).images
    images = every.take(min(number, len(every)))
    network = open_network(run, images)
    x = torch.cat([prepare(batch.pixels, network.header.preprocessing) for batch in images.batches(CHECKED_TOGETHER)])
    return export(network, to, path, x, **options) | {"images_of": images.name}


def export_file(file: Path, to: str, path: Path, number: int, **options: Any) -> dict[str, Any]:
    """``export`` of a network by itself, compared on random pixels."""
    network = load(file)
    if not number:
        return export(network, to, path, **options) | {"images_of": None}
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, *network.header.shape), dtype=torch.uint8, generator=draws)
    return export(network, to, path, prepare(pixels, network.header.preprocessing), **options) | {
        "images_of": "random pixels"
    }


def _check_options(to: str, neuron: str, steps: int | None, lossy: bool, codes: bool) -> None:
    if to not in FORMATS:
        raise ConfigError(f"unknown format {to!r}: {', '.join(FORMATS)} are known")
    find_neuron(neuron)
    if to not in NEURONS and neuron != "ladder":
        raise ConfigError(f"--to {to} writes integers without time: --neuron is for {' and '.join(NEURONS)}")
    if lossy and to != "nir":
        raise ConfigError(f"--to {to} writes nothing with a loss: --lossy is for nir")
    if codes and to != "onnx":
        raise ConfigError(f"--to {to} has no outputs to choose: --codes is for onnx")
    if steps is not None and neuron != "if":
        raise ConfigError("--steps is for --neuron if: the ladder takes one step")


def _runs(
    network: SpikingNetwork, to: str, neuron: str, steps: int | None, written: Written | None
) -> tuple[str, Way, Way]:
    """Who runs what was written, how, and what it is compared with."""
    if neuron == "if":
        temporal = TemporalNetwork(network, neuron, steps)
        T = temporal.steps

        def rates(x: Tensor) -> tuple[Tensor, Counts]:
            counts: dict[str, Tensor] = {}

            def tap(name: str, sent: Tensor, step: int) -> Tensor:
                counts[name] = counts.get(name, torch.zeros_like(sent, dtype=torch.int32)) + sent
                return sent

            logits = temporal(x, (tap,))[-1]
            return logits, {name: counts[name] for name, _ in network.units()}

        ours: Way = rates
    else:
        T, ours = 1, lambda x: _ladder(network, x)
    if written is not None:
        graph, nodes = written.graph, written.nodes

        def nir(x: Tensor) -> tuple[Tensor, Counts]:
            logits, spikes = run_nir(graph, x, T)
            return logits.mean(0), {
                name: _net([spikes[node] for node in nodes[name]], 0 if neuron == "if" else layer.grid.negative)
                for name, layer in network.units()
            }

        return "the equations of NIR", nir, ours
    if to == "onnx":
        model = to_onnx(network, codes=True)

        def onnx(x: Tensor) -> tuple[Tensor, Counts]:
            outputs = run_onnx(model, x)
            return outputs["logits"], {name: outputs[name] for name, _ in network.units()}

        return "ONNX Runtime", onnx, ours
    module = to_spikingjelly(network, neuron)
    return "SpikingJelly", lambda x: run_spikingjelly(module, network, x, T), ours


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


def _ladder(network: SpikingNetwork, x: Tensor) -> tuple[Tensor, Counts]:
    counts: dict[str, Tensor] = {}

    def tap(name: str, sent: Tensor, step: int) -> Tensor:
        counts[name] = sent
        return sent

    logits: Tensor = network(x, (tap,))
    return logits, counts


def _net(spikes: list[Tensor], negative: int) -> Tensor:
    """Net count of the spikes of several nodes, the first ``negative`` of which count below zero."""
    signs = [-1 if number < negative else 1 for number in range(len(spikes))]
    return torch.stack([sign * own for sign, own in zip(signs, spikes, strict=True)]).sum(0)


def _require_same_arrays(network: SpikingNetwork, path: Path) -> None:
    expected = arrays_of(network)
    with np.load(path, allow_pickle=False) as file:
        same = set(file.files) == set(expected)
        if not same or not all(np.array_equal(file[name], value) for name, value in expected.items()):
            raise ExportError(f"{path} does not hold what was written into it; do not use it")

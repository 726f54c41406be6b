"""One network, all contestants: warmed up, checked, timed in turns, and each alone for its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.ceilings import GEMM, Ceiling
from benchmarks.contestants import ANN, FORMS, QUANTIZED, SPIKINGJELLY, Baseline, Contestant, Spiking, baseline
from benchmarks.memory import peak_megabytes
from benchmarks.rounds import alternate, quartiles, ratios
from benchmarks.subjects import Subject, load_subject
from snnconv.errors import ConfigError, ParityError
from snnconv.snn.simulation import Simulation

AGAINST = {"times_ann": ANN, "times_quantized_ann": QUANTIZED, "times_spikingjelly": SPIKINGJELLY}
"""Ratios in each row: how many times as fast as that baseline."""


@dataclass(frozen=True)
class Match:
    """What is measured on one network.

    Attributes:
        network: Recipe.
        engines: Engines that take part.
        images: Images a round.
        batch: Images at a time.
        rounds: Times each contestant runs.
        runs_dir: Folder of the run folders.
        data_dirs: Where the data set is looked for; without any, pixels are drawn.
        say: Told what runs.
    """

    network: str
    engines: Sequence[str]
    images: int
    batch: int
    rounds: int
    runs_dir: Path
    data_dirs: tuple[Path, ...]
    say: Callable[[str], object]

    def subject(self) -> Subject:
        """The network and its images."""
        return load_subject(self.network, self.images, self.runs_dir, self.data_dirs)


def play(match: Match, limits: Sequence[Ceiling], memory: bool) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of all contestants, and why an engine took no part.

    The images are labelled with the classes that the quantized ANN gives them, so that a contestant's accuracy is its
    agreement with that network.

    Raises:
        ParityError: two engines counted differently: one of them ran something else.
    """
    match.say(f"{match.network}: {match.images} images, {match.rounds} rounds")
    subject = match.subject()
    subject = subject.with_labels(baseline(QUANTIZED, subject, match.batch, "eager").classes())
    contestants: list[Contestant] = [baseline(name, subject, match.batch) for name in FORMS]
    skipped: dict[str, str] = {}
    for name in match.engines:
        try:
            contestants.append(Spiking(name, subject, match.batch))
        except ConfigError as error:
            skipped[name] = str(error)
            match.say(f"{name} is left out: {error}")
    agreement = {contestant.name: contestant.run() for contestant in contestants}
    engines = [contestant for contestant in contestants if isinstance(contestant, Spiking)]
    check_counts(engines)
    seconds = alternate({c.name: c.run for c in contestants}, match.rounds, match.say)
    counted = next((engine.simulation for engine in engines), None)
    macs = None if counted is None else sum(layer.macs for layer in counted.layers)
    rows = []
    for contestant in contestants:
        speeds = [match.images / time for time in seconds[contestant.name]]
        row: dict[str, Any] = {
            "network": subject.name,
            "engine": contestant.name,
            "variant": contestant.variant,
            "weights": subject.weights,
            "pixels": subject.pixels,
            "levels": max(subject.network.levels),
            "steps": max(subject.network.levels) if contestant.name == SPIKINGJELLY else 1,
            "images_per_second": median(speeds),
            "quartiles": quartiles(speeds),
        }
        for key, name in AGAINST.items():
            compared = ratios(seconds, contestant.name, name)
            row |= {key: median(compared), f"{key}_quartiles": quartiles(compared)}
        row["agreement"] = agreement[contestant.name]
        row["macs_per_image"] = macs
        row["share_of_fp32"] = None if macs is None else macs * row["images_per_second"] / _gemm(limits)
        row["peak_memory_mb"] = _peak(match, contestant) if memory else None
        rows.append(row | _details(contestant, row["images_per_second"]))
    return rows, skipped


def alone(match: Match, name: str, variant: str) -> dict[str, float]:
    """Peak memory of this process after one pass of one contestant: imports, loading and conversion included."""
    subject = match.subject()
    if name in FORMS:
        baseline(name, subject, match.batch, variant).run()
    else:
        Spiking(name, subject, match.batch).run()
    return {"peak_memory_mb": peak_megabytes()}


def _details(contestant: Contestant, images_per_second: float) -> dict[str, Any]:
    """What only engines have, and only baselines: null, empty, in the rows of the others."""
    found: dict[str, Any] = {"synops_per_image": None, "sops_per_second": None, "density": {}, "rate": {}}
    found |= {"choices": {}, "tried": contestant.tried if isinstance(contestant, Baseline) else {}}
    if not isinstance(contestant, Spiking):
        return found
    simulation = _simulated(contestant)
    found["synops_per_image"] = simulation.sops_per_image["synops"]
    found["sops_per_second"] = found["synops_per_image"] * images_per_second
    for layer in simulation.layers:
        if layer.kind != "readout":
            found["density"][layer.name] = layer.events / (simulation.images * layer.units)
            found["rate"][layer.name] = layer.spikes / (simulation.images * layer.units * layer.levels)
    return found | {"choices": contestant.choices}


def check_counts(engines: Sequence[Spiking]) -> None:
    """See that all engines counted the same.

    Raises:
        ParityError: they did not.
    """
    for engine in engines[1:]:
        ours, theirs = _simulated(engine), _simulated(engines[0])
        if ours.layers != theirs.layers or ours.correct_by_trial != theirs.correct_by_trial:
            raise ParityError(f"{engine.name} and {engines[0].name} counted differently on {engine.subject.name}")


def _simulated(engine: Spiking) -> Simulation:
    assert engine.simulation is not None, "an engine is asked for its counts before it has run"
    return engine.simulation


def _gemm(limits: Sequence[Ceiling]) -> float:
    """MACs a second of the fp32 ceiling."""
    return next(1e9 * float(limit["value"]) for limit in limits if limit["name"] == GEMM)


def _peak(match: Match, contestant: Contestant) -> float | None:
    """Peak memory of a contestant in a process of its own [MB]; None where that process fails, which is told."""
    match.say(f"memory of {contestant.name}")
    command = [sys.executable, "-m", "benchmarks.speed", "--alone", contestant.name, contestant.variant]
    command += ["--networks", match.network, "--images", str(match.images), "--batch-size", str(match.batch)]
    command += ["--threads", str(torch.get_num_threads()), "--runs-dir", str(match.runs_dir)]
    if match.data_dirs:
        command += ["--data-dir", *map(str, match.data_dirs)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        match.say(f"memory of {contestant.name} is not known: its process ended with status {done.returncode}")
        return None
    return float(json.loads(done.stdout)["peak_memory_mb"])

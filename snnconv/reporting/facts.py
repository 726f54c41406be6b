"""What a report is made of: the results of a run, and of those beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snnconv.errors import FormatError, RunError
from snnconv.reporting.collect import RESULTS, by_age
from snnconv.reporting.labels import LADDER, neuron_of, noises
from snnconv.reporting.rows import result_from
from snnconv.runs import Run, list_runs

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """What a report is made of.

    Attributes:
        run: The run.
        simulations: Its simulations on its own data set.
        verification: Its proof on its own data set, if there is one; that on most images.
        neighbours: Noise-free simulations of runs of the same network and data set, by run.
        observed: What one pass over some images showed, see ``conversion.observation``.
    """

    run: Run
    simulations: Sequence[Row]
    verification: Row | None
    neighbours: Mapping[str, Row]
    observed: Row | None = None

    @property
    def clean(self) -> Row | None:
        """The noise-free simulation of most images, of a ladder if there is one."""
        found = [s for s in self.simulations if not noises(s)]
        return max(found, key=lambda s: (neuron_of(s) == LADDER, s["images"]), default=None)


def newest_with_results(runs_dir: Path) -> Run | None:
    """The run with the newest simulation on its own data set."""
    return next(iter(by_age(list_runs(runs_dir), simulations_of)), None)


def gather(run: Run, runs_dir: Path, observed: Row | None = None) -> Facts:
    """Facts of a run, and of those beside it.

    Raises:
        RunError: it has no simulation results.
        FormatError: a result is damaged or of another version.
    """
    simulations = simulations_of(run)
    if not simulations:
        raise RunError(f"run {run.name} has no simulation results: run `snnconv simulate --run {run.name}` first")
    result_from(group_of(run), run.recipe.quantization, simulations)
    neighbours: dict[str, Row] = {}
    for other in list_runs(runs_dir):
        if group_of(other) == group_of(run) and other.name != run.name and not other.shipped:
            clean = Facts(other, simulations_of(other), None, {}).clean
            neighbours |= {} if clean is None else {other.name: clean}
    proof = max(_proofs(run), key=lambda own: own.get("images", 0), default=None)
    return Facts(run, simulations, proof, neighbours, observed)


def simulations_of(run: Run) -> list[dict[str, Any]]:
    """A run's simulations on its own data set."""
    return [result for result in run.results(RESULTS) if result.get("dataset") == run.recipe.dataset]


def accuracy_of(run: Run) -> float | None:
    """Accuracy on the test images, 0..1: that of the training, else what verify, quantize or simulate measured on most
    images; None where none did.

    Raises:
        FormatError: a result is damaged or of another version.
    """
    training = run.training()
    if training is not None:
        return training.test_accuracy
    try:
        measured = [(own["images"], own["ann_correct"] / own["images"]) for own in _proofs(run)]
        measured += [(own["images"], own["accuracy"]["calibrated"]) for own in run.results("quantize.json")]
        measured += [
            (own["images"], own["accuracy"])
            for own in simulations_of(run)
            if neuron_of(own) == LADDER and not noises(own)
        ]
        return max(measured, default=(0, None))[1]
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise FormatError(f"a result of run {run.name} is damaged or of another version: measure it again") from error


def _proofs(run: Run) -> list[dict[str, Any]]:
    """What verify found on the run's own data set; those of earlier releases do not name it."""
    here = run.recipe.dataset
    return [proof for proof in run.results("verify*.json") if proof.get("dataset", here) == here]


def group_of(run: Run) -> str:
    """Network and data set."""
    return f"{run.recipe.network}-{run.recipe.dataset}"

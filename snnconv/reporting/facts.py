"""What a report is made of: the results of a run, and of those beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snnconv.errors import RunError
from snnconv.reporting.collect import RESULTS
from snnconv.reporting.labels import LADDER, neuron_of, noises
from snnconv.reporting.rows import result_from
from snnconv.runs import VERIFICATION, Run, list_runs, read_json

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """What a report is made of.

    Attributes:
        run: The run.
        simulations: Its simulations on its own data set.
        verification: Its proof, if there is one.
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
    """The newest run that was simulated on its own data set."""
    return next((run for run in list_runs(runs_dir) if simulations_of(run)), None)


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
    proof = read_json(run.file(VERIFICATION), dict[str, Any]) if run.has(VERIFICATION) else None
    return Facts(run, simulations, proof, neighbours, observed)


def simulations_of(run: Run) -> list[dict[str, Any]]:
    """A run's simulations on its own data set."""
    return [result for result in run.results(RESULTS) if result.get("dataset") == run.recipe.dataset]


def group_of(run: Run) -> str:
    """Network and data set."""
    return f"{run.recipe.network}-{run.recipe.dataset}"

"""Which results a figure shows: the newest run of each configuration, or those named."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from snnconv.config import published_for
from snnconv.errors import RunError
from snnconv.reporting.labels import LADDER, neuron_of
from snnconv.reporting.rows import Result, configuration_order, result_from
from snnconv.runs import Run, find_run, list_runs

RESULTS = "simulate-*.json"


def collect(runs_dir: Path, names: tuple[str, ...] = ()) -> tuple[list[Result], str]:
    """Results to draw, ordered by configuration, and a remark on where they come from.

    Args:
        runs_dir: Folder of the run folders.
        names: Runs to take; empty takes, of the network and data set of the newest run with results,
            the newest run of each configuration, or the shipped results where there is none.

    Raises:
        RunError: a run without results, or runs that do not belong into one figure.
    """
    chosen = (
        [_named(runs_dir, name) for name in names]
        if names
        else _newest([run for run in list_runs(runs_dir) if not run.shipped])
    )
    if chosen:
        return _results(chosen), "runs " + ", ".join(run.name for run in chosen)
    with as_file(files("snnconv.shipped")) as folder:
        shipped = _newest(list_runs(folder))
        return _results(shipped), f"the results that come with snnconv ({', '.join(run.name for run in shipped)})"


def _newest(runs: list[Run]) -> list[Run]:
    with_results = [run for run in runs if _simulations(run)]
    chosen: dict[str, Run] = {}
    for run in with_results:
        if _group(run) == _group(with_results[0]):
            chosen.setdefault(run.recipe.quantization, run)
    return list(chosen.values())


def _named(runs_dir: Path, name: str) -> Run:
    run = find_run(runs_dir, name, "config.json")
    assert run is not None
    if not _simulations(run):
        raise RunError(f"run {run.name} has no simulation results: run `snnconv simulate --run {run.name}` first")
    return run


def _simulations(run: Run) -> list[Mapping[str, Any]]:
    """A run's simulations on its own data set, of the ladder."""
    own = [result for result in run.results(RESULTS) if result.get("dataset") == run.recipe.dataset]
    return [result for result in own if neuron_of(result) == LADDER]


def _results(runs: list[Run]) -> list[Result]:
    groups = sorted({_group(run) for run in runs})
    if len(groups) > 1:
        raise RunError(f"one figure compares runs of one network and data set, not of {' and '.join(groups)}")
    for number, run in enumerate(runs):
        twin = next((other for other in runs[:number] if other.recipe.quantization == run.recipe.quantization), None)
        if twin is not None:
            raise RunError(f"one figure shows one run of a configuration; {twin.name} and {run.name} are of the same")
    results = [
        result_from(_group(run), run.recipe.quantization, _simulations(run), published_for(run.recipe)) for run in runs
    ]
    return sorted(results, key=lambda result: configuration_order(result.configuration))


def _group(run: Run) -> str:
    return f"{run.recipe.network}-{run.recipe.dataset}"

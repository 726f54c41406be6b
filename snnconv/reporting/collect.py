"""Which results a figure shows: the newest that it needs of each configuration, or those of the runs named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import as_file, files
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from snnconv.config import published_for
from snnconv.errors import RunError
from snnconv.reporting.labels import LADDER, neuron_of, noises
from snnconv.reporting.rows import Result, configuration_order, result_from
from snnconv.runs import Run, find_run, list_runs

RESULTS = "simulate-*.json"

Row = Mapping[str, Any]


class Needs(NamedTuple):
    """What a figure needs of a run's simulations with the ladder.

    Attributes:
        results: What it is called.
        met: Whether a simulation is one.
    """

    results: str
    met: Callable[[Row], bool]


ANY = Needs("simulation results of the ladder", lambda simulation: True)
NOISE_FREE = Needs("noise-free simulation results of the ladder", lambda simulation: not noises(simulation))
COUNTED = Needs(
    "noise-free simulation results of the ladder with operations counted",  # earlier releases did not
    lambda simulation: not noises(simulation) and "operations" in simulation,
)


def collect(runs_dir: Path, names: tuple[str, ...] = (), needs: Needs = ANY) -> tuple[list[Result], str]:
    """Results to draw, ordered by configuration, and a remark on where they come from.

    Args:
        runs_dir: Folder of the run folders.
        names: Runs to take; empty takes, of the network and data set of the newest result that the figure needs, the
            run with the newest of each configuration, or the shipped results where no run has any.
        needs: What each run must have.

    Raises:
        RunError: a run without such results, or runs that do not belong into one figure.
    """
    chosen = [_named(runs_dir, name, needs) for name in names] if names else _newest(list_runs(runs_dir), needs)
    if chosen:
        return _results(chosen), "runs " + ", ".join(run.name for run in chosen)
    with as_file(files("snnconv.shipped")) as folder:
        shipped = _newest(list_runs(folder), needs)
        which = ", ".join(run.name for run in shipped)
        return _results(shipped), (
            f"the results that come with snnconv ({which}): no run in {runs_dir} has {needs.results}"
        )


def by_age(runs: Iterable[Run], simulations: Callable[[Run], Sequence[Row]]) -> list[Run]:
    """The runs that have such simulations, that of the newest one first."""
    newest = [(max(str(own.get("created", "")) for own in found), run) for run in runs if (found := simulations(run))]
    return [run for _, run in sorted(newest, key=itemgetter(0), reverse=True)]


def _newest(runs: Sequence[Run], needs: Needs) -> list[Run]:
    """The run with the newest such result of each configuration, of the network and data set of the newest of all."""
    found = by_age(runs, lambda run: _meeting(run, needs))
    chosen: dict[str, Run] = {}
    for run in found:
        if _group(run) == _group(found[0]):
            chosen.setdefault(run.recipe.quantization, run)
    return list(chosen.values())


def _named(runs_dir: Path, name: str, needs: Needs) -> Run:
    run = find_run(runs_dir, name, "config.json")
    assert run is not None
    if not _meeting(run, needs):
        raise RunError(f"run {run.name} has no {needs.results}: run `snnconv simulate --run {run.name}` first")
    return run


def _meeting(run: Run, needs: Needs) -> list[Row]:
    return [simulation for simulation in _simulations(run) if needs.met(simulation)]


def _simulations(run: Run) -> list[Row]:
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

"""Accuracy, spikes and parity of neurons over time: which results there are, their table, and their figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from rich.table import Table

from snnconv.errors import FormatError, RunError
from snnconv.reporting.labels import LADDER, neuron_of, noises, percent, plural, title
from snnconv.reporting.layout import add, new_table
from snnconv.reporting.scales import below_all, by_error, down_to_none
from snnconv.reporting.style import Row, colour, drawing, save
from snnconv.runs import Run, find_run, list_runs

SIMULATIONS = "simulate-*.json"
FIRST = 8
"""A table shows so many steps one by one."""


class _Step(msgspec.Struct):
    """What is read of one step."""

    t: int
    accuracy: float
    spikes: float
    spikes_so_far: float
    sops_so_far: dict[str, float]
    mismatch_rate: float
    exact_images: float


class _OverTime(msgspec.Struct):
    """What is read of a simulation over several steps."""

    neuron: str
    steps: int
    latency_steps: int
    images: int
    accuracy: float
    created: str
    per_step: list[_Step]


def steps_table(simulation: Mapping[str, Any]) -> Table:
    """A row a step: accuracy, spikes and SOPs so far, units that differ, images on which none does any more.

    Args:
        simulation: ``TemporalSimulation.to_dict()``.
    """
    rows: Sequence[Row] = simulation["per_step"]
    headings = ["t", "accuracy|%", "spikes", "spikes|so far", "synops|so far", "units|differ %", "images|exact %"]
    table = new_table([], headings)
    for row in _thinned(rows):
        totals = (f"{row[key]:,.0f}" for key in ("spikes", "spikes_so_far"))
        shares = (percent(row["mismatch_rate"], 3), percent(row["exact_images"]))
        add(table, row["t"], percent(row["accuracy"]), *totals, f"{row['sops_so_far']['synops']:,.0f}", *shares)
    return table


def _thinned(rows: Sequence[Row]) -> list[Row]:
    """The first eight rows, where most happens, some behind them, and the last."""
    stride = 4 * -(-len(rows) // 64)
    return [row for row in rows if row["t"] <= FIRST or row["t"] % stride == 0 or row is rows[-1]]


def time_summary(simulation: Mapping[str, Any]) -> str:
    """When the counts became the codes, how long it takes on hardware, and what early exit gives, in one line.

    Args:
        simulation: ``TemporalSimulation.to_dict()``.
    """
    exact, last = simulation["exact_from"], simulation["per_step"][-1]
    latency, delay = simulation["latency_steps"], simulation["latency_steps"] - simulation["steps"]
    parts = [
        f"{simulation['neuron']}: T = {plural(simulation['steps'], 'step')}, "
        + (f"{latency} with the delay of {plural(delay, 'layer')}" if delay else "the delay of the layers included"),
        f"every unit equals its code from t = {exact} on, on all images"
        if exact is not None
        else f"{percent(last['mismatch_rate'], 3)} % of the units differ from their codes after the last step, "
        f"all units exact on {percent(simulation['exact_images'])} % of the images",
    ]
    leaving = simulation["early_exit"]
    if leaving is not None:
        parts.append(
            f"answering at a margin of {leaving['margin']:g}: {percent(leaving['accuracy'])} % after "
            f"{leaving['steps']:.2f} steps and {leaving['spikes_per_image']:,.0f} spikes an image"
        )
    return "; ".join(parts)


def collect_steps(runs_dir: Path, names: tuple[str, ...] = ()) -> tuple[str, list[Mapping[str, Any]], str]:
    """Simulations over time of one run without noise, one a neuron, on the same images, of one conversion.

    Args:
        runs_dir: Folder of the run folders.
        names: The run to take; empty takes that of the newest such result.

    Returns:
        Network, data set and quantization (of a network of the user's own the run's name), the simulations (the newest
        of each neuron), and a remark on where they come from.

    Raises:
        RunError: there is none, or more than one run is named.
        FormatError: a result is damaged.
    """
    if len(names) > 1:
        raise RunError(f"this figure shows one run, not {len(names)}: name one by --run")
    runs = [_named(runs_dir, names[0])] if names else list_runs(runs_dir)
    found = {run.name: (run, _over_time(run)) for run in runs}
    chosen = max((own for own in found.values() if own[1]), key=lambda own: _age(own[1][-1]), default=None)
    if chosen is None:
        where = f"run {names[0]} has no" if names else f"no run in {runs_dir} has"
        named = f" --run {names[0]}" if names else ""
        raise RunError(
            f"{where} noise-free results of neurons over time: run `snnconv simulate --neuron st-bif{named}` first"
        )
    run, simulations = chosen
    newest = simulations[-1]
    by_neuron = {str(own["neuron"]): own for own in simulations if _shared(own) == _shared(newest)}
    group = f"{run.recipe.network}-{run.recipe.dataset}-{run.recipe.quantization}"
    return group if run.model is None else run.name, list(by_neuron.values()), run.name


def _named(runs_dir: Path, name: str) -> Run:
    run = find_run(runs_dir, name, "config.json")
    assert run is not None
    return run


def _over_time(run: Run) -> list[Mapping[str, Any]]:
    """A run's simulations over time without noise, the oldest first."""
    found = [own for own in run.results(SIMULATIONS) if neuron_of(own) != LADDER and not noises(own)]
    for simulation in found:
        try:
            msgspec.convert(simulation, _OverTime)
        except msgspec.ValidationError as error:
            raise FormatError(
                f"a simulation over time of run {run.name} is damaged or of another version ({error}): "
                "run `snnconv simulate --neuron NAME` again"
            ) from error
    return sorted(found, key=_age)


def _shared(simulation: Mapping[str, Any]) -> tuple[Any, ...]:
    """What simulations of one run must share to be compared: images, and whether signs are split."""
    return simulation.get("dataset"), simulation["images"], bool(simulation.get("split"))


def _age(simulation: Mapping[str, Any]) -> str:
    return str(simulation["created"])


def plot_steps(group: str, simulations: Sequence[Mapping[str, Any]], out: Path) -> tuple[Path, Path, Path]:
    """Draw accuracy, spikes so far and units that differ against t, a line a neuron.

    Args:
        group: What was simulated, for the title, as ``collect_steps`` says it.
        simulations: One a neuron.
        out: Path without suffix.

    Returns:
        Paths of PNG, SVG and CSV.

    Raises:
        RunError: the folder cannot be written.
    """
    with drawing():
        figure = Figure(figsize=(12.0, 4.2))
        panels = figure.subplots(1, 3)
        foot = below_all([100 * row["mismatch_rate"] for own in simulations for row in own["per_step"]])
        for number, simulation in enumerate(simulations):
            _draw(panels, simulation, number, foot)
        labels = ("accuracy [%], scale of errors", "spikes an image, so far", "units that differ [%]")
        for axes, label in zip(panels, labels, strict=True):
            axes.set(xlabel="time step t", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        by_error(panels[0])
        panels[1].yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        panels[1].set_ylim(0, None)
        down_to_none(panels[2], foot)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
        figure.suptitle(title(f"{plural(len(simulations), 'neuron')} over time", group, simulations))
        return save(figure, out, [row for simulation in simulations for row in _rows(simulation)])


def _draw(panels: Sequence[Axes], simulation: Mapping[str, Any], number: int, foot: float) -> None:
    rows: Sequence[Row] = simulation["per_step"]
    t = [row["t"] for row in rows]
    lines = (
        [100 * row["accuracy"] for row in rows],
        [row["spikes_so_far"] for row in rows],
        [100 * row["mismatch_rate"] or foot for row in rows],
    )
    dash = "-" if number % 2 else (0, (4, 2))  # of two neighbours that coincide both are seen
    mark = "o" if len(rows) == 1 else None  # a line needs two points
    for axes, values in zip(panels, lines, strict=True):
        axes.plot(t, values, label=simulation["neuron"], color=colour(number), linestyle=dash, marker=mark)


def _rows(simulation: Mapping[str, Any]) -> list[dict[str, Any]]:
    about = {"neuron": simulation["neuron"], "steps": simulation["steps"], "images": simulation["images"]}
    plain = ("t", "accuracy", "spikes", "spikes_so_far", "mismatches", "mismatch_rate", "exact_images")
    return [
        about | {key: row[key] for key in plain} | {"synops_so_far": row["sops_so_far"]["synops"]}
        for row in simulation["per_step"]
    ]

"""Sweeps as read from a run's ``results/sweep-*.json``: which a figure shows, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from snnconv.errors import FormatError, RunError
from snnconv.reporting.labels import MILLION, NAMED_LAYERS, levels_name, noise_name, percent, plural, short, student
from snnconv.reporting.layout import NOTHING, add, new_table
from snnconv.reporting.rows import configuration_order
from snnconv.runs import Run, find_run, list_runs

RESULTS = "sweep-*.json"
ENOUGH = 5
"""From so many trials on their spread says something."""

Sweep = Mapping[str, Any]


class _Point(msgspec.Struct):
    """What tables and figures read of one ratio."""

    ratio: float
    accuracy: float
    sd: float
    interval: tuple[float, float] | None
    image_interval: tuple[float, float]
    spikes_per_image: float
    sops_per_image: dict[str, float]


class _Sweep(msgspec.Struct):
    """What tables and figures read of a sweep."""

    created: str
    network: str
    dataset: str
    quantization: str
    noise: str
    layers: list[str]
    trials: int
    images: int
    points: list[_Point]


def collect_sweeps(runs_dir: Path, names: tuple[str, ...] = ()) -> tuple[list[Sweep], str]:
    """Sweeps to draw, ordered by configuration, and a remark on where they come from.

    Args:
        runs_dir: Folder of the run folders.
        names: Runs whose newest sweep to take; empty takes the newest sweep of all, and of each other configuration of
            the same network, data set, images and split the newest sweep of the same noise.

    Raises:
        RunError: there is none, or those named do not belong into one figure.
        FormatError: a sweep's file is damaged.
    """
    if names:
        chosen = [_newest(_named(runs_dir, name)) for name in names]
        if len({_shared(sweep) for sweep in chosen}) > 1:
            raise RunError(
                "one figure compares sweeps of one noise, network and data set, of equally many images, and of split "
                "networks or of others (`snnconv convert --split`); these runs' newest differ"
            )
    else:
        found = sorted((s for run in list_runs(runs_dir) for s in _sweeps(run)), key=_created, reverse=True)
        if not found:
            raise RunError(f"no run in {runs_dir} has a sweep: run `snnconv sweep` first")
        same = [sweep for sweep in found if _shared(sweep) == _shared(found[0])]
        chosen = list({sweep["quantization"]: sweep for sweep in reversed(same)}.values())
    ordered = sorted(chosen, key=lambda sweep: configuration_order(sweep["quantization"]))
    return ordered, "the sweeps of " + ", ".join(sweep["run"] for sweep in ordered)


def sweeps_of(run: Run) -> list[Sweep]:
    """A run's sweeps, the newest of each noise, layers and noises beside it; the oldest of these first.

    Raises:
        FormatError: a sweep's file is damaged.
    """
    return list({_kind(sweep): sweep for sweep in sorted(_sweeps(run), key=_created)}.values())


def sweep_table(sweep: Sweep) -> Table:
    """One row a ratio: accuracy with its spread and interval over the trials, spikes and SOPs an image."""
    interval = student(sweep["trials"]).replace(" (", "|(")
    table = new_table(["ratio"], ["accuracy|%", "sd", interval, "spikes", "SOPs|synops"])
    for point in sweep["points"]:
        interval = NOTHING if point["interval"] is None else "-".join(percent(end) for end in point["interval"])
        add(
            table,
            f"{point['ratio']:g}",
            percent(point["accuracy"]),
            NOTHING if point["interval"] is None else percent(point["sd"]),
            interval,
            f"{point['spikes_per_image']:,.0f}",
            f"{point['sops_per_image']['synops']:,.0f}",
        )
    return table


def sweep_summary(sweep: Sweep) -> str:
    """What was swept, in one line."""
    parts = [
        sweep_name(sweep),
        plural(sweep["images"], "image"),
        plural(sweep["trials"], "trial"),
        f"T = {sweep['steps']}",
        f"L = {levels_name(sweep['levels'])}",
    ]
    spikes = [short(point["sops_per_image"]["synops"] / MILLION) for point in (sweep["points"][0], sweep["points"][-1])]
    return ", ".join(parts) + f", {spikes[0]} to {spikes[1]} M synops an image{_warning(sweep['trials'])}"


def _warning(trials: int) -> str:
    """What is to be said of few trials, which may agree by chance."""
    return f"; take {ENOUGH} trials or more for an interval to rely on" if trials < ENOUGH else ""


def sweep_name(sweep: Sweep) -> str:
    """``deletion noise on conv1_act``, with the noises that stay the same."""
    layers = sweep["layers"]
    where = " and ".join(layers) if len(layers) <= NAMED_LAYERS else plural(len(layers), "layer")
    others = [(own["name"], own["ratio"], tuple(own["layers"])) for own in sweep["others"]]
    return (
        f"{sweep['noise']} noise"
        + (f" on {where}" if layers else "")
        + (f" beside {noise_name(others)}" if others else "")
    )


def _named(runs_dir: Path, name: str) -> Run:
    run = find_run(runs_dir, name, "config.json")
    assert run is not None
    return run


def _newest(run: Run) -> Sweep:
    sweeps = _sweeps(run)
    if not sweeps:
        raise RunError(f"run {run.name} has no sweep: run `snnconv sweep --run {run.name}` first")
    return max(sweeps, key=_created)


def _sweeps(run: Run) -> Sequence[Sweep]:
    sweeps = run.results(RESULTS)
    for sweep in sweeps:
        try:
            msgspec.convert(sweep, _Sweep)
        except msgspec.ValidationError as error:
            raise FormatError(
                f"a sweep of run {run.name} is damaged or of another version ({error}): run `snnconv sweep` again"
            ) from error
    return sweeps


def _created(sweep: Sweep) -> str:
    return str(sweep["created"])


def _shared(sweep: Sweep) -> tuple[Any, ...]:
    """What sweeps must share to be compared."""
    return (*_kind(sweep), sweep["images"], bool(sweep.get("split")))


def _kind(sweep: Sweep) -> tuple[Any, ...]:
    """What was swept, and on what."""
    return (sweep["network"], sweep["dataset"], sweep["noise"], tuple(sweep["layers"]), str(sweep["others"]))

"""Sections of a report: what the run was, the proof, accuracy, noise, time, and a look at some images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from snnconv.reporting.embedding import drawn, saved
from snnconv.reporting.facts import Facts, Row
from snnconv.reporting.labels import (
    LADDER,
    WILSON,
    levels_name,
    neuron_of,
    noise_name,
    noises,
    percent,
    plural,
    student,
)
from snnconv.reporting.noise import plot_noise
from snnconv.reporting.observed import draw_codes, draw_confusion, draw_raster, draw_rates
from snnconv.reporting.pages import Block, Heading, Picture, Table, Text, Tiles
from snnconv.reporting.quantization import quantization_summary
from snnconv.reporting.rows import noise_order
from snnconv.reporting.steps import collect_steps, plot_steps, time_summary
from snnconv.reporting.summaries import verification_summary
from snnconv.reporting.sweeps import sweep_name, sweep_summary, sweeps_of
from snnconv.runs import ANN, ENVIRONMENT, QUANTIZATION, Run, read_json

COMMIT = 12
"""Digits of a commit that are enough to find it."""


def tiles(facts: Facts) -> Tiles:
    """The numbers to see first."""
    clean = facts.clean or facts.simulations[0]
    about = f"accuracy of the SNN{_under(clean)}, {WILSON} {_interval(clean)}, {plural(clean['images'], 'image')}"
    synops = clean["sops_per_image"]["synops"]
    items = [
        (f"{percent(clean['accuracy'])} %", about),
        (f"L = {levels_name(clean['levels'])}, T = {clean['steps']}", f"levels and time steps, {neuron_of(clean)}"),
        (f"{clean['spikes_per_image']:,.0f}", "spikes an image"),
        (f"{synops:,.0f}", "synops an image"),
    ]
    if clean["ann_macs"]:
        share = f"synops a MAC of the ANN in the same layers ({clean['ann_macs']:,})"
        items.append((f"{synops / clean['ann_macs']:.2f}", share))
    if facts.verification is not None:
        wrong = sum(layer["mismatches"] for layer in facts.verification["layers"])
        units = sum(layer["units"] for layer in facts.verification["layers"])
        items.insert(1, (f"{wrong:,}", f"of {units:,} units differ from the ANN"))
    return Tiles(items)


def configuration(run: Run) -> Iterator[Block]:
    """What it is, where its weights are from, and with what it was made."""
    yield Heading("Configuration")
    environment = read_json(run.file(ENVIRONMENT), dict[str, Any]) if run.has(ENVIRONMENT) else {}
    settings = run.settings()
    published = settings.pop("published", None)
    seed = "" if run.brought else f", seed {run.seed}"
    rows = [("run", f"{run.name}, {run.created[:16].replace('T', ' ')} UTC{seed}")]
    rows += [(name.replace("_", " "), _setting(value)) for name, value in settings.items() if value != run.name]
    if published is not None:
        rows.append(("published", f"{published['accuracy']:.2f} % ({published['source']})"))
    rows += _origin(run)
    environment["commit"] = (environment.get("commit") or "")[:COMMIT]
    software = {name: environment.pop(name, None) for name in ("python", "packages", "commit")}
    rows += [("software", _setting(software)), ("made on" if run.brought else "trained on", _setting(environment))]
    yield Table(("setting", "value"), [row for row in rows if row[1]], frozenset({0, 1}))


def _origin(run: Run) -> Iterator[tuple[str, str]]:
    """Where the weights come from, and what was done with them."""
    source = run.start if run.model is None else run.model.weights
    if source is not None:
        yield "weights from", f"{source.file}, SHA-256 {source.sha256}"
    if run.has(QUANTIZATION):
        yield "quantized", quantization_summary(read_json(run.file(QUANTIZATION), dict[str, Any]))
    elif run.brought:
        yield "trained", "elsewhere"
    training = run.training()
    if training is not None:
        reached = f"{percent(training.test_accuracy)} % of {plural(training.test_images, 'test image')}"
        why = "the last" if training.validation_accuracy is None else "the best on held-out images"
        kept = f"after epoch {training.best_epoch} of {training.epochs}, {why}"
        yield "fine-tuned" if run.has(QUANTIZATION) else "trained", f"{reached} {kept}"


def parity(facts: Facts) -> Iterator[Block]:
    """The proof, a row a layer."""
    yield Heading("Parity")
    proof = facts.verification
    if proof is None:
        yield Text(_unproven(facts.run))
        return
    training = facts.run.training()
    whole = proof["images"] if training is None else training.test_images
    yield Text(verification_summary(proof, proof.get("failures", ()), whole))
    rows: list[tuple[object, ...]] = [
        (
            layer["name"],
            layer["units"],
            layer["mismatches"],
            layer["max_difference"],
            percent(layer["inside_grid"], 1),
            percent(layer["rate"], 1),
        )
        for layer in proof["layers"]
    ]
    units, wrong = (sum(layer[key] for layer in proof["layers"]) for key in ("units", "mismatches"))
    rows.append(("total", units, wrong, max(layer["max_difference"] for layer in proof["layers"]), "", ""))
    headings = ("layer", "units compared", "mismatches", "largest difference", "inside the grid [%]", "rate [%]")
    caption = (
        "Each layer is given the ANN's codes and its counts are compared, unit by unit, "
        f"on {plural(proof['images'], 'image')}."
    )
    yield Table(headings, rows, caption=caption, totals=1)


def _unproven(run: Run) -> str:
    """Why there is no proof, and what to do."""
    if run.has(ANN):
        return f"Not verified: `snnconv verify --run {run.name}` compares every unit with the ANN."
    if run.shipped:
        return (
            "Not verified here: the ANN is no part of this run. The network was proven equal to it on the test images "
            "before it was put into snnconv."
        )
    return "Not verified: the ANN, which `snnconv verify` compares with, is no longer part of this run."


def accuracy(facts: Facts) -> Iterator[Block]:
    """Every simulation, a row each."""
    yield Heading("Accuracy and noise")
    ordered = sorted(facts.simulations, key=lambda s: (noise_order(noises(s)), neuron_of(s) != LADDER, s["images"]))
    rows = []
    for s in ordered:
        interval = _interval(s)
        sd = percent(s["accuracy_sd"]) if s["trials"] > 1 else None
        what = (noise_name(noises(s)), neuron_of(s), levels_name(s["levels"]), s["steps"], s["images"])
        numbers = (s["trials"], percent(s["accuracy"]), sd, interval)
        rows.append((*what, *numbers, f"{s['spikes_per_image']:,.0f}", f"{s['sops_per_image']['synops']:,.0f}"))
    headings = ("noise", "neuron", "L", "T", "images", "trials", "accuracy [%]", "sd", "95 % interval", "spikes",
                "synops")  # fmt: skip
    caption = "Spikes and synops are an image's. Interval: Wilson, over images; sd: over trials."
    yield Table(headings, rows, frozenset({0, 1}), caption)
    known = [s for s in facts.simulations if neuron_of(s) == LADDER]
    if len(known) > 1:
        yield drawn("accuracy", f"Accuracy without noise and with each noise, {WILSON}.", facts, known)


def sweeps(facts: Facts) -> Iterator[Block]:
    """Accuracy against the ratio of each noise that was swept, the newest first."""
    found = sweeps_of(facts.run)[::-1]
    if found:
        yield Heading("Sweeps of a noise" if len(found) > 1 else "Sweep of a noise")
    for number, own in enumerate(found, start=1):
        yield _swept(own)
        name = "noise" if number == 1 else f"noise-{number}"
        yield saved(name, f"Accuracy under {sweep_name(own)}.", partial(plot_noise, [own]))


def _swept(sweep: Row) -> Table:
    """A row a ratio."""
    rows = []
    for point in sweep["points"]:
        interval = None if point["interval"] is None else " to ".join(percent(end) for end in point["interval"])
        sd = None if point["interval"] is None else percent(point["sd"])
        counted = (f"{point['spikes_per_image']:,.0f}", f"{point['sops_per_image']['synops']:,.0f}")
        rows.append((f"{point['ratio']:g}", percent(point["accuracy"]), sd, interval, *counted))
    headings = ("ratio", "accuracy [%]", "sd", f"{student(sweep['trials'])} of the mean", "spikes", "synops")
    return Table(headings, rows, caption=f"{sweep_summary(sweep)}.")


def time(facts: Facts) -> Iterator[Block]:
    """Accuracy over time steps, if neurons of several were simulated."""
    if not any(neuron_of(s) != LADDER and not noises(s) for s in facts.simulations):
        return
    group, simulations, _ = collect_steps(facts.run.path.parent, (facts.run.name,))
    yield Heading("Accuracy over time")
    yield _settling(simulations)
    for simulation in simulations:
        if simulation["early_exit"] is not None:
            yield Text(f"{time_summary(simulation)}.")
    caption = (
        "Accuracy, spikes so far and units that differ from their codes, against time steps; accuracy on a scale of "
        "errors. A line that falls to the foot of the last panel: no unit differs any more."
    )
    yield saved("steps", caption, lambda out: plot_steps(group, simulations, out))


def _settling(simulations: Sequence[Row]) -> Table:
    """When each neuron's counts are the codes, a row a neuron."""
    rows = []
    for simulation in simulations:
        last = simulation["per_step"][-1]
        differ = percent(last["mismatch_rate"], 3), percent(simulation["exact_images"])
        counted = f"{simulation['spikes_per_image']:,.0f}", f"{simulation['sops_per_image']['synops']:,.0f}"
        rows.append((simulation["neuron"], simulation["steps"], simulation["latency_steps"],
                     percent(simulation["accuracy"]), simulation["exact_from"], *differ, *counted))  # fmt: skip
    headings = ("neuron", "T", "latency [steps]", "accuracy [%]", "exact from t", "units that differ [%]",
                "images all exact [%]", "spikes", "synops")  # fmt: skip
    caption = (
        "After T steps. Latency: with the delay of a step from layer to layer. Exact from t: from there on the net "
        "count of every unit is its code, on every image."
    )
    return Table(headings, rows, caption=caption)


def images(observed: Row) -> Iterator[Block]:
    """What one pass over some images showed."""
    number, layers = plural(observed["images"], "image"), observed["layers"]
    yield Heading("Spikes, codes and confusions")
    units, same = (sum(map(count, layers)) for count in (_units_seen, _units_alike))
    yield Text(
        f"One pass over the first {number} of the test split, ANN and spiking network each by itself, without noise: "
        f"{units - same:,} of {units:,} units differ."
    )
    below = " Orange, to the left: spikes below zero." if any(layer["low"] < 0 for layer in layers) else ""
    chosen = (
        f"Image {observed['chosen']} (class {observed['label']}, taken for {observed['prediction']}) and its spikes: a "
        f"mark a spike; T = 1, the threshold neurons of a unit stand side by side.{below}"
    )
    yield Picture("raster", chosen, draw_raster(observed))
    codes = (
        f"Code of the ANN and count of the spiking network in every unit of {number}: the more units, the larger; "
        "orange where they differ."
    )
    yield Picture("codes", codes, draw_codes(observed))
    rates = f"Firing rate of single units over {number}: the share sent of the spikes that a unit can send."
    yield Picture("rates", rates, draw_rates(observed))
    yield Picture("confusion", f"Classes and predictions, {number}.", draw_confusion(observed))


def _units_seen(layer: Row) -> int:
    return sum(map(sum, layer["joint"]))


def _units_alike(layer: Row) -> int:
    return sum(row[place] for place, row in enumerate(layer["joint"]))


def _interval(simulation: Row) -> str:
    """``99.44 to 99.70``, in percent."""
    return " to ".join(percent(end) for end in simulation["accuracy_interval"])


def _under(simulation: Row) -> str:
    return f" under {noise_name(noises(simulation))}" if noises(simulation) else ""


def _setting(value: object) -> str:
    """A setting on one line; those that are empty have no text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_setting(own)}" for name, own in value.items() if _setting(own))
    if isinstance(value, list | tuple):
        return f"[{', '.join(_setting(own) for own in value)}]" if value else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)

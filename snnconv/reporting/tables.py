"""Tables of the command line, from plain dicts; ``render`` makes text of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from snnconv.reporting.labels import LADDER, MILLION, levels_name, neuron_of, noise_name, noises, percent, plural
from snnconv.reporting.layout import NOTHING, add, new_table, render
from snnconv.reporting.summaries import merging_summary, simulation_summary, verification_summary

__all__ = [
    "demo_table",
    "merging_summary",
    "merging_table",
    "models_table",
    "network_table",
    "recipes_notes",
    "recipes_table",
    "render",
    "runs_table",
    "simulation_summary",
    "simulation_table",
    "verification_summary",
    "verification_table",
]

Row = Mapping[str, Any]

LONG = 10**8
"""From here on, thresholds and potentials are shown as the bits they take; those of float weights are."""


def simulation_table(simulation: Row) -> Table:
    """One row a layer, all numbers an image; totals of the spiking layers alone and with the encoder; the readout.

    Args:
        simulation: ``Simulation.to_dict()``.
    """
    headings = ["units", "L", "spikes", "rate|%", "SOPs|synops", "SOPs|fanout", "MACs of|the ANN"]
    table = new_table(["layer", "kind"], headings, whole=["kind"])
    layers: Sequence[Row] = simulation["layers"]
    firing = [layer for layer in layers if layer["kind"] != "readout"]
    spiking = [layer for layer in firing if layer["kind"] == "spiking"]
    digits = 1 if simulation["spikes_per_image"] < MILLION else 0
    for layer in firing:
        _add_layer(table, layer, digits, end_section=layer is firing[-1])
    steps = None if neuron_of(simulation) == LADDER else int(simulation["steps"])
    if spiking:
        _add_total(table, "spiking", spiking, digits, steps)
    if len(spiking) < len(firing):
        _add_total(table, "+ encoder", firing, digits, steps)
    table.add_section()
    for layer in layers:
        if layer["kind"] == "readout":
            _add_layer(table, layer, digits)
    return table


def verification_table(parity: Row) -> Table:
    """One row a layer that fires: units compared, how many differ, and whether the layer had anything to say.

    Args:
        parity: ``Parity.to_dict()``.
    """
    table = new_table(
        ["layer"], ["units|compared", "mis-|matches", "largest|difference", "inside|grid %", "rate|%"], ["remark"]
    )
    layers: Sequence[Row] = parity["layers"]
    for layer in layers:
        counted = (layer["units"], layer["mismatches"], layer["max_difference"])
        shares = (percent(layer["inside_grid"], 1), percent(layer["rate"], 1))
        add(table, layer["name"], *counted, *shares, _remark(layer), end_section=layer is layers[-1])
    units, wrong = (sum(layer[name] for layer in layers) for name in ("units", "mismatches"))
    add(table, "total", units, wrong, max((layer["max_difference"] for layer in layers), default=0), "", "", "")
    return table


def recipes_table(rows: Iterable[Row]) -> Table:
    """One row a recipe; sources by the numbers that ``recipes_notes`` gives them.

    Args:
        rows: Recipes as ``config.to_mapping`` has them, with ``measured`` [%] or None.
    """
    rows = list(rows)
    numbers = {source: f"[{number}]" for number, source in enumerate(_publications(rows), 1)}
    table = new_table(["recipe"], ["epochs", "published|%", "top-5|%", "measured|%"], ["source"], ["recipe"])
    for row in rows:
        published: Row = row.get("published") or {}
        accuracies = map(_number, (published.get("accuracy"), published.get("top5"), row.get("measured")))
        add(table, row["name"], row["training"]["epochs"], *accuracies, numbers.get(published.get("source", ""), ""))
    return table


def recipes_notes(rows: Iterable[Row]) -> str:
    """Footnotes of ``recipes_table``: the sources, and what names ending in -published are."""
    rows = list(rows)
    lines = [f"[{number}] {source}" for number, source in enumerate(_publications(rows), 1)]
    if any(row["name"].endswith("-published") for row in rows):
        lines.append("-published: trained as its source says; without it: this package's own, mostly shorter training")
    return "\n".join(lines)


def models_table(rows: Iterable[Row]) -> Table:
    """One row a network that comes with the package; counts are an image's.

    Args:
        rows: ``zoo.Model.to_dict()``, with ``sound``: whether the file is as it was.
    """
    numbers = ["L", "epochs", "accuracy|%", "spikes", "synops|M", "size|kB"]
    table = new_table(["model", "data"], numbers, ["file"], ["model"])
    for row in rows:
        synops = f"{row['sops_per_image']['synops'] / 1e6:.2f}"
        counts = (round(row["spikes_per_image"]), synops, round(row["bytes"] / 1000))
        file = "sound" if row["sound"] else "DAMAGED"
        about = (row["name"], row["data"], levels_name(row["levels"]), row["epochs"], percent(row["accuracy"]))
        add(table, *about, *counts, file)
    return table


def runs_table(rows: Iterable[Row]) -> Table:
    """One row a run.

    Args:
        rows: name, recipe, state, epochs_done and epochs (None where the weights came from elsewhere), accuracy (a
            share of 1, or None) and created (ISO 8601).
    """
    table = new_table(["run", "recipe", "state"], ["epochs|done", "of", "accuracy|%"], ["created (UTC)"], ["run"])
    for row in rows:
        accuracy = None if row["accuracy"] is None else percent(row["accuracy"])
        created = str(row["created"])[:16].replace("T", " ")
        add(table, row["name"], row["recipe"], row["state"], row["epochs_done"], row["epochs"], accuracy, created)
    return table


def merging_table(merging: Row) -> Table:
    """One row a merged layer: its weights, how far it is from its two branches, and how far rounding may take it.

    Args:
        merging: ``Merging.to_dict()``.
    """
    table = new_table(["layer"], ["weights", "zeros|%", "largest|difference", "rounding|bound"])
    layers: Sequence[Row] = merging["layers"]
    for layer in layers:
        zeros = percent(layer["zeros"] / layer["weights"], 1)
        shares = [layer[name] / (layer["largest_output"] or 1) for name in ("difference", "bound")]
        sizes = (f"{share:.1e}" if share else "0" for share in shares)
        add(table, layer["name"], layer["weights"], zeros, *sizes, end_section=layer is layers[-1])
    weights, none = (sum(layer[name] for layer in layers) for name in ("weights", "zeros"))
    add(table, "total", weights, percent(none / weights, 1), "", "")
    return table


def network_table(summary: Row) -> Table:
    """One row a layer of a converted network, and the number of its weights; names stay whole on a page wide enough.

    Args:
        summary: ``formats.summary.summarise``.
    """
    texts = ["layer", "type", "from", "shape"]
    table = new_table(texts, ["L", "weights", "kind", "thresholds", "largest|potential"], whole=texts)
    layers: Sequence[Row] = summary["layers"]
    for layer in layers:
        thresholds, potential = layer.get("thresholds"), layer.get("largest_potential")
        add(
            table,
            layer["name"],
            layer["type"],
            _sources(layer),
            "x".join(map(str, layer["shape"])),
            layer.get("levels"),
            layer.get("parameters"),
            layer.get("weights"),
            None if thresholds is None else _bits(*thresholds) or " to ".join(f"{end:,}" for end in thresholds),
            None if potential is None else _bits(-potential, potential) or potential,
            end_section=layer is layers[-1],
        )
    add(table, "total", "", "", "", "", sum(layer.get("parameters", 0) for layer in layers), "", "", "")
    return table


def demo_table(report: Row) -> Table:
    """What the demo did, a row a step.

    Args:
        report: ``demo.run_demo``.
    """
    training = report["training"]
    table = new_table(["step"], [], ["result"], ["step"])
    accuracy = f"{percent(training['test_accuracy'])} % of {plural(training['test_images'], 'test image')}"
    spent = f"best epoch {training['best_epoch']} of {training['epochs']}, {training['seconds']:.0f} s"
    add(table, "train", f"{report['run']}: {accuracy}, {spent}")
    add(
        table,
        "convert, verify",
        verification_summary(report["verification"], report["verification"].get("failures", ())),
    )
    for simulation in report["simulations"]:
        add(table, f"simulate, {noise_name(noises(simulation), where=False)}", simulation_summary(simulation))
    return table


def _publications(rows: Iterable[Row]) -> list[str]:
    """The sources of recipes, each once, in order."""
    return list(dict.fromkeys(row["published"]["source"] for row in rows if row.get("published")))


def _add_layer(table: Table, layer: Row, digits: int, end_section: bool = False) -> None:
    """A layer's row; the readout sends no spikes and has no levels."""
    spikes, rate = f"{layer['spikes']:,.{digits}f}", percent(layer["rate"], 1)
    sent = (layer["levels"], spikes, rate) if layer["kind"] != "readout" else (None, None, None)
    sops = (f"{layer['sops'][name]:,.0f}" for name in ("synops", "fanout"))
    add(table, layer["name"], layer["kind"], layer["units"], *sent, *sops, layer["macs"], end_section=end_section)


def _add_total(table: Table, kind: str, layers: Sequence[Row], digits: int, steps: int | None) -> None:
    """Sums; the rate is spikes a neuron and step, a unit being L neurons of a ladder (None) and one over time."""
    units, spikes, macs = (sum(layer[key] for layer in layers) for key in ("units", "spikes", "macs"))
    rate = spikes / sum(layer["units"] * (layer["levels"] if steps is None else steps) for layer in layers)
    sops = (f"{sum(layer['sops'][key] for layer in layers):,.0f}" for key in ("synops", "fanout"))
    add(table, "total", kind, units, "", f"{spikes:,.{digits}f}", percent(rate, 1), *sops, macs)


def _sources(layer: Row) -> str:
    """The wires a layer reads, one under the other; of its own two lines only what tells them apart."""
    own = {f"{layer['name']}_{sign}": sign for sign in ("plus", "minus")}
    return "\n".join(own.get(wire, wire) for wire in layer["inputs"])


def _remark(layer: Row) -> str:
    remarks = ["silent"] if layer["silent"] else ["saturated"] if layer["saturated"] else []
    if layer["ties"]:
        remarks.append(f"{layer['ties']:,} within float64 rounding")
    if layer["rounding_bound"]:
        remarks.append(f"rounding bound {layer['rounding_bound']:.1e}, {layer['within_bound']:,} units within")
    return ", ".join(remarks)


def _bits(low: int, high: int) -> str:
    """``51 bits`` for whole numbers low .. high of which only the size matters, with one for the sign; else nothing."""
    if max(-low, high) < LONG:
        return ""
    sizes = (~low if low < 0 else low, high)
    return f"{max(size.bit_length() for size in sizes) + (low < 0)} bits"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"

"""The report of a run: what it was, the proof, accuracy and noise, counts, energy, and figures, on one page."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snnconv.config import to_mapping
from snnconv.energy import LINE, PRESETS, SYSTEMS, estimate, spike_rate, window
from snnconv.errors import RunError
from snnconv.reporting.collect import RESULTS
from snnconv.reporting.figures import FIGURES
from snnconv.reporting.labels import levels_name, noise_name, noises, percent, plural
from snnconv.reporting.noise import plot_noise
from snnconv.reporting.observed import (
    draw_codes,
    draw_confusion,
    draw_frontier,
    draw_layers,
    draw_raster,
    draw_rates,
)
from snnconv.reporting.pages import Block, Heading, Picture, Table, Text, Tiles, to_html, to_markdown
from snnconv.reporting.rows import noise_order, result_from
from snnconv.reporting.steps import collect_steps, plot_steps, time_summary
from snnconv.reporting.summaries import verification_summary
from snnconv.reporting.sweeps import RESULTS as SWEEPS
from snnconv.reporting.sweeps import collect_sweeps, sweep_name, sweep_summary
from snnconv.runs import ENVIRONMENT, VERIFICATION, Run, list_runs, read_json, write_text, write_whole

Row = Mapping[str, Any]

LADDER = "ladder"
"""The neuron of results that name none."""

CONVENTIONS = {
    "synops": "sum of |count| x fan-out through weights other than 0",
    "events": "sum of [count not 0] x the same fan-out",
    "fanout": "sum of |count| x fan-out, weights of 0 counted",
    "ladder": "synops x L of the target",
    "zou2021": "2 L x fanout, without the readout",
}
"""SOP conventions as the report explains them."""


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
        return max(found, key=lambda s: (_neuron(s) == LADDER, s["images"]), default=None)


def newest_with_results(runs_dir: Path) -> Run | None:
    """The newest run that was simulated on its own data set."""
    return next((run for run in list_runs(runs_dir) if _simulations(run)), None)


def gather(run: Run, runs_dir: Path, observed: Row | None = None) -> Facts:
    """Facts of a run, and of those beside it.

    Raises:
        RunError: it has no simulation results.
        FormatError: a result is damaged or of another version.
    """
    simulations = _simulations(run)
    if not simulations:
        raise RunError(f"run {run.name} has no simulation results: run `snnconv simulate --run {run.name}` first")
    result_from(_group(run), run.recipe.quantization, simulations)
    neighbours: dict[str, Row] = {}
    for other in list_runs(runs_dir):
        if _group(other) == _group(run) and other.name != run.name and not other.shipped:
            clean = Facts(other, _simulations(other), None, {}).clean
            neighbours |= {} if clean is None else {other.name: clean}
    proof = read_json(run.file(VERIFICATION), dict[str, Any]) if run.has(VERIFICATION) else None
    return Facts(run, simulations, proof, neighbours, observed)


def write_report(facts: Facts, out: Path) -> tuple[Path, Path]:
    """Write the report as HTML and as Markdown with a folder of figures.

    Args:
        facts: What to report.
        out: Path without suffix.

    Returns:
        Paths of the HTML and the Markdown file.

    Raises:
        RunError: the folder cannot be written.
    """
    run = facts.run
    title = f"snnconv report: {run.name}"
    lead = f"{run.recipe.network} on {run.recipe.dataset}, {run.recipe.quantization}; made from the results of the run."
    blocks = list(_blocks(facts))
    page, text = out.with_name(out.name + ".html"), out.with_name(out.name + ".md")
    folder = out.with_name(out.name + "-figures")
    write_text(page, to_html(title, lead, blocks))
    for block in blocks:
        if isinstance(block, Picture):
            _write_picture(folder / f"{block.name}.svg", block.svg)
    write_text(text, to_markdown(title, lead, blocks, folder.name))
    return page, text


def _blocks(facts: Facts) -> Iterator[Block]:
    clean = facts.clean
    yield _tiles(facts)
    yield from _configuration(facts.run)
    yield from _parity(facts)
    yield from _accuracy(facts)
    yield from _sweep(facts)
    yield from _time(facts)
    if clean is not None:
        yield from _counts(clean)
        yield from _energy(facts, clean)
        yield from _frontier(facts, clean)
    if facts.observed is not None:
        yield from _images(facts.observed)


def _tiles(facts: Facts) -> Tiles:
    clean = facts.clean or facts.simulations[0]
    items = [
        (f"{percent(clean['accuracy'])} %", f"accuracy of the SNN{_under(clean)}, {plural(clean['images'], 'image')}"),
        (f"{levels_name(clean['levels'])} and {clean['steps']}", "L and T"),
        (f"{clean['spikes_per_image']:,.0f}", "spikes an image"),
        (f"{clean['sops_per_image']['synops']:,.0f}", "synops an image"),
        (f"{clean['ann_macs']:,}", "MACs of the ANN in the same layers"),
    ]
    if facts.verification is not None:
        wrong = sum(layer["mismatches"] for layer in facts.verification["layers"])
        units = sum(layer["units"] for layer in facts.verification["layers"])
        items.insert(1, (f"{wrong:,}", f"of {units:,} units differ from the ANN"))
    return Tiles(items)


def _configuration(run: Run) -> Iterator[Block]:
    yield Heading("Configuration")
    training = run.training()
    environment = read_json(run.file(ENVIRONMENT), dict[str, Any]) if run.has(ENVIRONMENT) else {}
    rows = [("run", run.name), ("created", f"{run.created[:16].replace('T', ' ')} UTC"), ("seed", str(run.seed))]
    rows += [(name, _setting(value)) for name, value in to_mapping(run.recipe).items()]
    if training is not None:
        accuracy = f"{percent(training.test_accuracy)} % of {plural(training.test_images, 'test image')}"
        rows.append(("trained", f"{accuracy}, best of {training.epochs} epochs: {training.best_epoch}"))
    rows += [(name, _setting(value)) for name, value in environment.items()]
    yield Table(("setting", "value"), [row for row in rows if row[1]], frozenset({0, 1}))


def _parity(facts: Facts) -> Iterator[Block]:
    yield Heading("Parity")
    proof = facts.verification
    if proof is None:
        yield Text(f"Not verified: `snnconv verify --run {facts.run.name}` compares every unit with the ANN.")
        return
    yield Text(verification_summary(proof, proof.get("failures", ())))
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


def _accuracy(facts: Facts) -> Iterator[Block]:
    yield Heading("Accuracy and noise")
    ordered = sorted(facts.simulations, key=lambda s: (noise_order(noises(s)), _neuron(s) != LADDER, s["images"]))
    rows = []
    for s in ordered:
        low, high = s["accuracy_interval"]
        interval = f"{percent(low)} to {percent(high)}"
        sd = percent(s["accuracy_sd"]) if s["trials"] > 1 else None
        what = (noise_name(noises(s)), _neuron(s), levels_name(s["levels"]), s["steps"], s["images"])
        numbers = (s["trials"], percent(s["accuracy"]), sd, interval)
        rows.append((*what, *numbers, f"{s['spikes_per_image']:,.0f}", f"{s['sops_per_image']['synops']:,.0f}"))
    headings = ("noise", "neuron", "L", "T", "images", "trials", "accuracy [%]", "sd", "95 % interval", "spikes",
                "synops")  # fmt: skip
    caption = "Spikes and synops are an image's. Interval: Wilson, over images; sd: over trials."
    yield Table(headings, rows, frozenset({0, 1}), caption)
    known = [s for s in facts.simulations if _neuron(s) == LADDER]
    if len(known) > 1:
        yield _drawn("accuracy", "Accuracy without noise and with each noise, with its 95 % interval.", facts, known)


def _sweep(facts: Facts) -> Iterator[Block]:
    """The newest sweep, if there is one."""
    if not facts.run.results(SWEEPS):
        return
    (sweep,), _ = collect_sweeps(facts.run.path.parent, (facts.run.name,))
    yield Heading("Sweep of a noise")
    rows = []
    for point in sweep["points"]:
        interval = None if point["interval"] is None else " to ".join(percent(end) for end in point["interval"])
        counted = (f"{point['spikes_per_image']:,.0f}", f"{point['sops_per_image']['synops']:,.0f}")
        rows.append((f"{point['ratio']:g}", percent(point["accuracy"]), percent(point["sd"]), interval, *counted))
    headings = ("ratio", "accuracy [%]", "sd", "95 % interval of the mean", "spikes", "synops")
    yield Table(headings, rows, caption=f"{sweep_summary(sweep)}.")
    yield _saved("noise", f"Accuracy under {sweep_name(sweep)}.", lambda out: plot_noise([sweep], out))


def _time(facts: Facts) -> Iterator[Block]:
    """Accuracy over time steps, if neurons of several were simulated."""
    if not any(s["steps"] > 1 and "per_step" in s and not noises(s) for s in facts.simulations):
        return
    group, simulations, _ = collect_steps(facts.run.path.parent, (facts.run.name,))
    yield Heading("Accuracy over time")
    for simulation in simulations:
        yield Text(f"{time_summary(simulation)}.")
    caption = "Accuracy, spikes so far and units that differ from their codes, against time steps."
    yield _saved("steps", caption, lambda out: plot_steps(group, simulations, out))


def _counts(clean: Row) -> Iterator[Block]:
    yield Heading("Layers")
    operations = {layer["name"]: layer for layer in clean.get("operations", {}).get("layers", ())}
    rows: list[tuple[object, ...]] = []
    for layer in clean["layers"]:
        fires = layer["kind"] != "readout"
        own = operations.get(layer["name"], {})
        rows.append(
            (
                layer["name"],
                layer["kind"],
                layer["units"],
                layer["levels"] if fires else None,
                f"{layer['spikes']:,.1f}" if fires else None,
                f"{layer.get('negative_spikes', 0):,.1f}" if fires else None,
                percent(layer["rate"], 1) if fires else None,
                f"{layer['sops']['synops']:,.0f}",
                layer["macs"],
                own.get("weight_memory"),
                own.get("membrane_memory"),
                own.get("potential_updates"),
            )
        )
    summed = [
        sum(row[column] for row in rows) if operations else None  # type: ignore[misc]
        for column in (9, 10, 11)
    ]
    spikes, negative = (sum(layer.get(key, 0) for layer in clean["layers"]) for key in ("spikes", "negative_spikes"))
    sops = sum(layer["sops"]["synops"] for layer in clean["layers"])
    units, macs = (sum(layer[key] for layer in clean["layers"]) for key in ("units", "macs"))
    rows.append(
        ("all layers", "", units, None, f"{spikes:,.1f}", f"{negative:,.1f}", None, f"{sops:,.0f}", macs, *summed)
    )
    headings = ("layer", "kind", "units", "L", "spikes", "below zero", "rate [%]", "synops", "MACs of the ANN",
                "weights [bit]", "membranes [bit]", "updates")  # fmt: skip
    caption = "Spikes, synops, MACs and potential updates are an image's; other totals of synops leave out the readout."
    yield Table(headings, rows, frozenset({0, 1}), caption, totals=1)
    caption = "Firing rate of every layer, and the synops that it receives beside its MACs in the ANN."
    yield Picture("layers", caption, draw_layers(clean))
    yield Heading("Synaptic operations by convention")
    yield _conventions(clean)
    left_out = clean.get("operations", {}).get("not_counted", ())
    if left_out:
        yield Text(f"Not counted: {'; '.join(left_out)}.")


def _conventions(clean: Row) -> Table:
    rows: list[tuple[object, ...]] = [
        (name, f"{value:,.0f}", CONVENTIONS.get(name, "")) for name, value in clean["sops_per_image"].items()
    ]
    if "operations" in clean:
        totals = clean["operations"]["totals"]
        rows.append(("rate", f"{totals['rate']:,.0f}", "MACs of the ANN x mean spikes an incoming unit"))
        for key, name in (("acs", "Effective ACs"), ("macs", "Effective MACs")):
            what = f"NeuroBench's {name}, by what a wire may carry"
            rows.append((f"neurobench, {key[:-1].upper()}s", f"{totals['neurobench'][key]:,.0f}", what))
    caption = (
        "Of the spiking layers, an image; the encoder's input is analog, and the readout has a row of its own above."
    )
    return Table(("convention", "operations", "what is counted"), rows, frozenset({0, 2}), caption)


def _energy(facts: Facts, clean: Row) -> Iterator[Block]:
    yield Heading("Energy (estimates)")
    if "operations" not in clean:
        yield Text(f"Simulated by an earlier release: `snnconv simulate --run {facts.run.name}` gives what this needs.")
        return
    rate = spike_rate(clean)
    low, high = LINE
    place = "below" if rate < low else "above" if rate > high else "within"
    yield Text(
        "Estimated from counts, not measured: energies of single operations in 45 nm (Horowitz 2014) times their "
        "number. The matched ANN holds its activations in ceil(log2(L T + 1)) bits. The network sends "
        f"{percent(rate, 1)} % spikes a unit and step, which is {place} the {percent(low, 1)}-{percent(high, 1)} % "
        "below which arXiv:2409.08290 finds that a spiking network beats the matched ANN, data movement included."
    )
    for movement, what in (
        (False, "Arithmetic alone"),
        (True, "Arithmetic and data movement, every operand from SRAM"),
    ):
        rows = []
        by_preset = {name: estimate(clean, name, movement) for name in PRESETS}
        for system, name in SYSTEMS.items():
            values = [by_preset[preset][system] for preset in PRESETS]
            cells = [cell for v in values for cell in (f"{v['hidden'] / 1000:,.3f}", f"{v['total'] / 1000:,.3f}")]
            rows.append((name, *cells))
        headings = ["", *(f"{preset}, {part}" for preset in PRESETS for part in ("spiking layers", "total"))]
        yield Table(headings, rows, caption=f"{what} [µJ an image], estimate. Presets differ in the adder of the SNN.")
    caption = (
        "Estimated energy an image, arithmetic alone, of the whole network and of its spiking layers; spikes a unit "
        "and step beside the line of break-even."
    )
    yield _drawn("energy", caption, facts, [clean])


def _frontier(facts: Facts, clean: Row) -> Iterator[Block]:
    yield Heading("Accuracy, operations and latency over runs")
    points = [_point(facts.run.name, clean, own=True)]
    points += [_point(facts.run.name, s, own=True) for s in facts.simulations if _other_neuron(s, clean)]
    points += [_point(name, simulation, own=False) for name, simulation in facts.neighbours.items()]
    points = [
        point | {"number": n} for n, point in enumerate(sorted(points, key=lambda p: float(p["synops"])), start=1)
    ]
    headings = ("run", "number", "neuron", "L", "T", "latency [steps]", "images", "accuracy [%]", "spikes", "synops")
    rows = [
        (
            point["name"],
            point["number"],
            point["neuron"],
            point["levels"],
            point["steps"],
            point["latency"],
            point["images"],
            percent(point["accuracy"]),
            f"{point['spikes']:,.0f}",
            f"{point['synops']:,.0f}",
        )
        for point in points
    ]
    caption = (
        "Noise-free simulations of this run, and of others of the same network and data set; mind the number of images"
    )
    yield Table(headings, rows, frozenset({0, 2}), f"{caption}.")
    yield Picture("frontier", "Accuracy against synops: the numbers are those of the table, this run's in bold.",
                  draw_frontier(points))  # fmt: skip


def _images(observed: Row) -> Iterator[Block]:
    number, layers = plural(observed["images"], "image"), observed["layers"]
    yield Heading("Spikes, codes and confusions")
    wrong = sum(sum(sum(row) for row in la["joint"]) - sum(la["joint"][i][i] for i in range(len(la["joint"])))
                for la in layers)  # fmt: skip
    yield Text(
        f"One pass over the first {number} of the test split, ANN and spiking network each by itself, without noise: "
        f"{wrong:,} units differ."
    )
    chosen = (
        f"Spikes of image {observed['chosen']} (class {observed['label']}, taken for {observed['prediction']}): a mark "
        "a spike; T = 1, the threshold neurons of a unit stand side by side. Orange: spikes below zero."
    )
    yield Picture("raster", chosen, draw_raster(observed))
    codes = f"Code of the ANN and count of the spiking network in every unit of {number}; the more units, the larger."
    yield Picture("codes", codes, draw_codes(observed))
    rates = f"Firing rate of single units over {number}: the share sent of the spikes that a unit can send."
    yield Picture("rates", rates, draw_rates(observed))
    yield Picture("confusion", f"Classes and predictions, {number}.", draw_confusion(observed))


def _drawn(name: str, caption: str, facts: Facts, simulations: Sequence[Row]) -> Picture:
    """One of the figures of ``snnconv plot``, of this run alone."""
    result = result_from(_group(facts.run), facts.run.recipe.quantization, simulations)
    return _saved(name, caption, lambda out: FIGURES[name]([result], out))


def _saved(name: str, caption: str, draw: Callable[[Path], tuple[Path, Path, Path]]) -> Picture:
    """A figure that is drawn into files."""
    with tempfile.TemporaryDirectory() as folder:
        _, file, _ = draw(Path(folder) / name)
        return Picture(name, caption, file.read_bytes())


def _point(name: str, simulation: Row, own: bool) -> dict[str, Any]:
    levels, steps = simulation["levels"], simulation["steps"]
    largest = levels if isinstance(levels, int) else max(levels)
    neuron = _neuron(simulation)
    return {
        "name": name,
        "neuron": neuron,
        "levels": levels_name(levels),
        "steps": steps,
        "latency": simulation.get("latency_steps", steps),
        "images": simulation["images"],
        "window": window(simulation, largest),
        "accuracy": simulation["accuracy"],
        "interval": simulation["accuracy_interval"],
        "spikes": simulation["spikes_per_image"],
        "synops": simulation["sops_per_image"]["synops"],
        "own": own,
    }


def _other_neuron(simulation: Row, clean: Row) -> bool:
    same = [(_neuron(s), s["steps"]) for s in (simulation, clean)]
    return not noises(simulation) and same[0] != same[1]


def _neuron(simulation: Row) -> str:
    return str(simulation.get("neuron", LADDER))


def _under(simulation: Row) -> str:
    return f" under {noise_name(noises(simulation))}" if noises(simulation) else ""


def _simulations(run: Run) -> list[dict[str, Any]]:
    """A run's simulations on its own data set."""
    return [result for result in run.results(RESULTS) if result.get("dataset") == run.recipe.dataset]


def _group(run: Run) -> str:
    return f"{run.recipe.network}-{run.recipe.dataset}"


def _setting(value: object) -> str:
    """A setting on one line; those that are empty have no text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_setting(own)}" for name, own in value.items() if _setting(own))
    if isinstance(value, list | tuple):
        return " ".join(_setting(own) for own in value)
    return "" if value is None else str(value)


def _write_picture(path: Path, data: bytes) -> None:
    write_whole(path, lambda temporary: temporary.write_bytes(data))

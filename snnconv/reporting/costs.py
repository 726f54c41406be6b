"""What a network costs, for a report: operations a layer, energy, and what other runs give for how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from snnconv.energy import LINE, PRESETS, SYSTEMS, estimate, narrowness, potential_bits, spike_rate
from snnconv.reporting.embedding import drawn
from snnconv.reporting.facts import Facts, Row
from snnconv.reporting.frontier import compared, draw_frontier
from snnconv.reporting.labels import LADDER, levels_name, neuron_of, noises, percent, plural
from snnconv.reporting.observed import draw_layers
from snnconv.reporting.pages import Block, Heading, Picture, Table, Text

CONVENTIONS = {
    "synops": "sum of |count| x fan-out through weights other than 0",
    "events": "sum of [count not 0] x the same fan-out",
    "fanout": "sum of |count| x fan-out, weights of 0 counted",
    "ladder": "synops x L of the target; over time a unit is one neuron: x 1",
    "zou2021": "2 L x fanout, over time 1 x, without the readout",
}
"""SOP conventions as a report explains them."""


def counts(clean: Row) -> Iterator[Block]:
    """Operations a layer, and by convention."""
    yield Heading("Layers")
    caption = (
        "Spikes, synops, MACs and potential updates are an image's; other totals of synops leave out the readout. "
        f"Rate: spikes a unit and {'level' if neuron_of(clean) == LADDER else 'step'}."
    )
    yield _layers(clean, caption)
    caption = "Firing rate of every layer, and the synops that it receives beside its MACs in the ANN."
    yield Picture("layers", caption, draw_layers(clean))
    yield Heading("Synaptic operations by convention")
    yield _conventions(clean)
    left_out = clean.get("operations", {}).get("not_counted", ())
    if left_out:
        yield Text(f"Not counted: {'; '.join(left_out)}.")


def _layers(clean: Row, caption: str) -> Table:
    """A row a layer, and one of totals; columns that say nothing are left out."""
    operations = {layer["name"]: layer for layer in clean.get("operations", {}).get("layers", ())}
    layers: Sequence[Row] = clean["layers"]
    fires = [layer["kind"] != "readout" for layer in layers]
    synops = [layer["sops"]["synops"] for layer in layers]
    below = [layer.get("negative_spikes", 0.0) for layer in layers]
    columns: list[tuple[str, Sequence[object], object]] = [
        ("layer", [layer["name"] for layer in layers], "all layers"),
        ("kind", [layer["kind"] for layer in layers], ""),
        ("units", [layer["units"] for layer in layers], sum(layer["units"] for layer in layers)),
        ("L", [layer["levels"] if own else None for layer, own in zip(layers, fires, strict=True)], ""),
        ("spikes", *_spikes([layer["spikes"] for layer in layers], fires)),
    ]
    if any(below):
        columns.append(("below zero", *_spikes(below, fires)))
    rates = [percent(layer["rate"], 1) if own else None for layer, own in zip(layers, fires, strict=True)]
    columns += [
        ("rate [%]", rates, ""),
        ("synops", [f"{value:,.0f}" for value in synops], f"{sum(synops):,.0f}"),
        ("MACs of the ANN", [layer["macs"] for layer in layers], sum(layer["macs"] for layer in layers)),
    ]
    if operations:
        for heading, key in (
            ("weights [bit]", "weight_memory"),
            ("membranes [bit]", "membrane_memory"),
            ("updates", "potential_updates"),
        ):
            values = [operations[layer["name"]][key] for layer in layers]
            columns.append((heading, values, sum(values)))
    rows = [*zip(*(cells for _, cells, _ in columns), strict=True), tuple(total for _, _, total in columns)]
    return Table([heading for heading, _, _ in columns], rows, frozenset({0, 1}), caption, totals=1)


def _spikes(values: Sequence[float], fires: Sequence[bool]) -> tuple[list[str | None], str]:
    """Cells of spikes, and their total."""
    cells = [f"{value:,.1f}" if own else None for value, own in zip(values, fires, strict=True)]
    return cells, f"{sum(values):,.1f}"


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


def energy(facts: Facts, clean: Row) -> Iterator[Block]:
    """Estimated energy beside that of ANNs."""
    yield Heading("Energy (estimates)")
    if "operations" not in clean:
        yield Text(f"Simulated by an earlier release: `snnconv simulate --run {facts.run.name}` gives what this needs.")
        return
    rate = spike_rate(clean)
    low, high = LINE
    place = "below" if rate < low else "above" if rate > high else "within"
    yield Text(
        "Estimated from counts, not measured: energies of single operations in 45 nm (Horowitz 2014) times their "
        "number. The bit-matched ANN holds its activations in as many bits as its counts take. The network sends "
        f"{percent(rate, 1)} % spikes a unit and step, which is {place} the {percent(low, 1)}-{percent(high, 1)} % "
        "below which arXiv:2409.08290 finds that a spiking network beats the bit-matched ANN, data movement included."
    )
    bits = potential_bits(clean)
    narrow = ", ".join(f"`{name}`" for name in PRESETS if narrowness(bits, name))
    if narrow:
        yield Text(f"Potentials of {bits} bits: the adder priced in {narrow} is too narrow, and the estimate too low.")
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
    yield drawn("energy", caption, facts, [clean])


def frontier(facts: Facts, clean: Row) -> Iterator[Block]:
    """What this run and others give for how many operations and steps."""
    yield Heading("Accuracy, operations and latency over runs")
    points = [_point(facts.run.name, clean, own=True)]
    points += [_point(facts.run.name, s, own=True) for s in facts.simulations if _other_neuron(s, clean)]
    points += [_point(name, simulation, own=False) for name, simulation in facts.neighbours.items()]
    points = [
        point | {"number": n} for n, point in enumerate(sorted(points, key=lambda p: float(p["synops"])), start=1)
    ]
    headings = ("number", "run", "neuron", "L", "T", "latency [steps]", "images", "accuracy [%]", "95 % interval",
                "spikes", "synops")  # fmt: skip
    rows = [
        (
            point["number"],
            point["name"],
            point["neuron"],
            point["levels"],
            point["steps"],
            point["latency"],
            point["images"],
            percent(point["accuracy"]),
            " to ".join(percent(end) for end in point["interval"]),
            f"{point['spikes']:,.0f}",
            f"{point['synops']:,.0f}",
        )
        for point in points
    ]
    caption = (
        "Noise-free simulations of this run, and of others of the same network and data set; mind the number of "
        "images. Interval: Wilson, over images."
    )
    yield Table(headings, rows, frozenset({1, 2}), caption)
    if len(points) == 1:
        return
    timed = any(point["latency"] is not None for point in points)
    caption = (
        f"Accuracy against synops{' and against latency' if timed else ''}; the numbers are those of the table. The "
        f"line: the best accuracy for at most this cost among results on {plural(compared(points), 'image')}; results "
        "on other numbers of images are hollow."
    )
    yield Picture("frontier", caption, draw_frontier(points))


def _point(name: str, simulation: Row, own: bool) -> dict[str, Any]:
    return {
        "name": name,
        "neuron": neuron_of(simulation),
        "levels": levels_name(simulation["levels"]),
        "steps": simulation["steps"],
        "latency": simulation.get("latency_steps"),
        "images": simulation["images"],
        "accuracy": simulation["accuracy"],
        "interval": simulation["accuracy_interval"],
        "spikes": simulation["spikes_per_image"],
        "synops": simulation["sops_per_image"]["synops"],
        "own": own,
    }


def _other_neuron(simulation: Row, clean: Row) -> bool:
    same = [(neuron_of(s), s["steps"]) for s in (simulation, clean)]
    return not noises(simulation) and same[0] != same[1]

"""What was measured, as text, as a Markdown table and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.contestants import ANN, FORMS, QUANTIZED, SPIKINGJELLY
from benchmarks.layers import FLOAT
from benchmarks.profiling import COUNTING
from snnconv.errors import RunError
from snnconv.reporting.labels import short
from snnconv.reporting.layout import NOTHING, add, new_table, render
from snnconv.reporting.style import colour, configurations, drawing, legend_above, save, write_above
from snnconv.runs import write_text

WIDTH = 150
BEGIN, END = "<!-- speed table -->", "<!-- end of the speed table -->"
"""Marks in a Markdown file, each a line of its own, between which the table goes."""
NAMES = {ANN: "ANN, ReLU", QUANTIZED: "quantized ANN", SPIKINGJELLY: "SpikingJelly"}

Result = Mapping[str, Any]


def text(result: Result) -> str:
    """Tables of everything that was measured."""
    parts = [_conditions(result), render(_ceilings(result), WIDTH)]
    if result["rows"]:
        parts.append(render(_contestants(result), WIDTH))
    parts += [f"{name} took no part: {reason}" for name, reason in result["skipped"].items()]
    if "batches" in result:
        parts.append(render(_batches(result), WIDTH))
    if "layers" in result:
        parts.append(render(_layers(result), WIDTH))
    if "profile" in result:
        parts.append(render(_profile(result["profile"]), WIDTH))
        costs = result["profile"]["parts"].items()
        parts.append("\n".join(f"{name:<29}{cost:>9,.1f} us an image" for name, cost in costs))
    return "\n\n".join(parts)


def markdown(result: Result) -> str:
    """The table of the README: a row a network, then where and how it was measured.

    Raises:
        RunError: no network was measured.
    """
    if not result["rows"]:
        raise RunError("there is no speed to write: name --networks")
    engines = [name for name in dict.fromkeys(row["engine"] for row in result["rows"]) if name not in FORMS]
    head = ["network", "L", "weights", *NAMES.values(), *engines]
    best = engines[0] if engines else None
    if best is not None:
        head += [f"{best} / ANN", f"{best} / SpikingJelly", f"{best} synops/s", f"{best} MB", "ANN MB"]
    head.append("SpikingJelly: same class")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for network, rows in _by_network(result).items():
        first = next(iter(rows.values()))
        cells = [network, str(first["levels"]), first["weights"]]
        cells += [f"{rows[name]['images_per_second']:,.0f}" if name in rows else NOTHING for name in (*NAMES, *engines)]
        if best is not None:
            cells += _of_engine(rows[best], rows[ANN]) if best in rows else [NOTHING] * 5
        cells.append(f"{100 * rows[SPIKINGJELLY]['agreement']:.1f} %")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _caption(result)])


def write_markdown(path: Path, result: Result) -> None:
    """Write the table: between the marks of a file that has them, else as a new file.

    Raises:
        RunError: the file is there without the marks, or cannot be written.
    """
    table = markdown(result)
    if not path.exists():
        write_text(path, table + "\n")
        return
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN + "\n")
    _, end, after = rest.partition(END + "\n")
    if not begin or not end:
        raise RunError(f"{path} has no lines {BEGIN} and {END} to put the table between: name another file")
    write_text(path, f"{before}{begin}{table}\n{end}{after}")


def plot(path: Path, result: Result) -> tuple[Path, Path, Path]:
    """Draw how many times as fast as the ANN each contestant runs each network.

    Args:
        path: PNG to write; SVG and CSV go beside it.
        result: What was measured.

    Returns:
        Paths of PNG, SVG and CSV.

    Raises:
        RunError: there is nothing to draw, or the folder cannot be written.
    """
    networks = _by_network(result)
    if not networks:
        raise RunError("there is no speed to draw: name --networks")
    names = [name for name in dict.fromkeys(row["engine"] for row in result["rows"]) if name != ANN]
    drawn: list[dict[str, Any]] = [
        {"network": network} | {name: rows[name]["times_ann"] if name in rows else None for name in names}
        for network, rows in networks.items()
    ]
    slot = 0.84 / len(names)
    with drawing():
        figure = Figure(figsize=(max(6.0, 0.34 * (len(names) + 0.8) * len(drawn) + 1.5), 4.4))
        axes = figure.subplots()
        for index, name in enumerate(names):
            shift = (index - (len(names) - 1) / 2) * slot
            heights = {place + shift: row[name] for place, row in enumerate(drawn) if row[name] is not None}
            label = NAMES.get(name, f"snnconv, {name}")
            axes.bar(list(heights), list(heights.values()), 0.9 * slot, color=colour(index), label=label)
            for x, height in heights.items():
                write_above(axes, x, height, short(height))
        axes.axhline(1, color="black", linestyle="--", linewidth=1.2, zorder=3)
        configurations(axes, [_wrapped(network) for network in networks])
        axes.set_ylabel("times as fast as the ANN (fp32, ReLU)")
        axes.margins(y=0.1)
        legend_above(axes, figure.get_figwidth() - 1.5)
        environment = result["environment"]
        figure.suptitle(f"speed on {environment['processor']}, threads: {environment['threads']}")
        return save(figure, path.with_suffix(""), drawn)


def _wrapped(network: str) -> str:
    """A recipe's name over three lines at most, for an axis."""
    return "\n".join(network.rsplit("-", 2))


def _by_network(result: Result) -> dict[str, dict[str, Any]]:
    """Network to contestant to its row."""
    networks: dict[str, dict[str, Any]] = {}
    for row in result["rows"]:
        networks.setdefault(row["network"], {})[row["engine"]] = row
    return networks


def _of_engine(row: Result, ann: Result) -> list[str]:
    low, high = row["times_ann_quartiles"]
    return [
        f"**{row['times_ann']:.2f}** ({low:.2f}-{high:.2f})",
        f"{row['times_spikingjelly']:.1f}",
        f"{short(row['sops_per_second'] / 1e9)} G",
        *(NOTHING if r["peak_memory_mb"] is None else f"{r['peak_memory_mb']:,.0f}" for r in (row, ann)),
    ]


def _conditions(result: Result) -> str:
    environment = result["environment"]
    pixels = sorted({row["pixels"] for row in result["rows"]})
    kernels = environment["kernels"][0] if environment["kernels"] else "not built"
    return (
        f"{environment['processor']}, threads: {environment['threads']}, kernels: {kernels}, {environment['date']}, "
        f"torch {environment['packages']['torch']}, batch {result['batch_size']}, {result['images']:,} images"
        f"{' (' + ', '.join(pixels) + ')' if pixels else ''} a round, {result['rounds']} rounds; load of the machine "
        f"before: {environment['load_before']:.1f}"
    )


def _caption(result: Result) -> str:
    return (
        f"Images a second, medians; ratios are medians (quartiles) within a round. {_conditions(result)}. ANNs in "
        "float32, batch norms folded, channels_last, the ANN with ReLU eager or as a graph, whichever is faster. "
        "SpikingJelly: its own modules and neurons, T = L steps of a rate code, in its fastest form; the last column "
        "says how often its class is that of the quantized ANN, whose classes the engines all give. Engines count "
        "spikes and synaptic operations meanwhile. Loading, conversion and one pass to warm up are not timed; "
        "preprocessing is. MB: peak of a process of its own."
    )


def _ceilings(result: Result) -> Table:
    table = new_table(["ceiling"], ["rate"], ["unit", "how"])
    for ceiling in result["ceilings"]:
        add(table, ceiling["name"], short(ceiling["value"]), ceiling["unit"], ceiling["how"])
    return table


def _contestants(result: Result) -> Table:
    numbers = [
        "images/s",
        "quartiles",
        "x ANN",
        "quartiles ",
        "x quant.|ANN",
        "x Spiking-|Jelly",
        "% of|fp32",
        "Gsynops|/s",
    ]
    table = new_table(["network", "contestant"], [*numbers, "peak|MB", "same|class %"], whole=["network"])
    networks = _by_network(result)
    for network, rows in networks.items():
        for name, row in rows.items():
            variant = f" ({row['variant']})" if row["variant"] else ""
            sops, memory, share = row["sops_per_second"], row["peak_memory_mb"], row["share_of_fp32"]
            add(
                table,
                network,
                NAMES.get(name, name) + variant,
                f"{row['images_per_second']:,.0f}",
                _spread(row["quartiles"], 0),
                f"{row['times_ann']:.2f}",
                _spread(row["times_ann_quartiles"], 2),
                f"{row['times_quantized_ann']:.2f}",
                f"{row['times_spikingjelly']:.2f}",
                None if share is None else f"{100 * share:.0f}",
                None if sops is None else short(sops / 1e9),
                None if memory is None else round(memory),
                f"{100 * row['agreement']:.1f}",
                end_section=name == next(reversed(rows)),
            )
    return table


def _batches(result: Result) -> Table:
    table = new_table(["network"], ["batch", "images", "us an image", "quartiles"])
    for row in result["batches"]:
        cost = f"{row['microseconds_per_image']:,.0f}"
        add(table, row["network"], row["batch_size"], row["images"], cost, _spread(row["quartiles"], 0))
    return table


def _layers(result: Result) -> Table:
    """A row a layer, L and density: microseconds an image of each way."""
    found = list(dict.fromkeys(row["way"] for row in result["layers"]))
    rated = [way for way in found if way != FLOAT]
    table = new_table(["layer"], ["L", "density", *(f"{w}|us" for w in found), *(f"{w}|x fp32" for w in rated)])
    cells: dict[tuple[str, int, float], dict[str, Any]] = {}
    for row in result["layers"]:
        key = f"{row['channels']} ch {row['side']}x{row['side']}", row["levels"], row["density"]
        cells.setdefault(key, {})[row["way"]] = row
    for (name, levels, density), rows in cells.items():
        costs = [f"{rows[way]['microseconds_per_image']:,.1f}" for way in found]
        add(table, name, levels, f"{density:g}", *costs, *(f"{rows[way]['times_fp32']:.2f}" for way in rated))
    return table


def _profile(profile: Result) -> Table:
    found = list(dict.fromkeys(way for row in profile["layers"] for way in row["ways"]))
    table = new_table(["layer", "shape"], ["density", *(f"{way}|us" for way in found), f"{COUNTING}|us"], ["choice"])
    for row in profile["layers"]:
        costs = [None if way not in row["ways"] else f"{row['ways'][way]:,.1f}" for way in found]
        density = None if row["density"] is None else f"{row['density']:.3f}"
        counting = None if row[COUNTING] is None else f"{row[COUNTING]:,.1f}"
        add(table, row["layer"], row["shape"], density, *costs, counting, row["choice"])
    return table


def _spread(values: Sequence[float], digits: int) -> str:
    return "-".join(f"{value:,.{digits}f}" for value in values)

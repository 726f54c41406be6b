"""The figure of estimated energy: the spiking network beside ANNs, and its spikes against the line of break-even."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snnconv.energy import LINE, PARTS, SYSTEMS, estimate, fitting, narrowness, potential_bits, spike_rate
from snnconv.errors import RunError
from snnconv.reporting.labels import short, title
from snnconv.reporting.rows import Result, groups, names_of, without_noise
from snnconv.reporting.style import PALE, Row, colour, configurations, drawing, legend_above, save, write_above

BAR = 0.8
"""Width kept for a bar, so that numbers above and names below do not touch [inches]."""
SHORT = {
    "spiking": "SNN",
    "skipping": "bit-matched\nANN, zeros\nskipped",
    "matched": "bit-matched\nANN",
    "int8": "int8\nANN",
    "fp32": "FP32\nANN",
}
"""Names below the bars."""


def plot_energy(
    results: Sequence[Result], out: Path, preset: str | None = None, movement: bool = False
) -> tuple[Path, Path, Path]:
    """Draw the estimated energy of one image, and the spikes a unit and step with the line of break-even.

    Args:
        results: One a configuration; those without a noise-free simulation, or simulated by an earlier release, are
            passed over.
        out: Path without suffix.
        preset: Name in ``energy.PRESETS``; None takes the first whose adder holds all potentials.
        movement: Estimate data movement, too.

    Returns:
        Paths of PNG, SVG and CSV.

    Raises:
        RunError: there is nothing to draw, or the folder cannot be written.
        ConfigError: no such preset.
    """
    found = [(own, clean) for own, clean in without_noise(results) if "operations" in clean]
    if not found:
        raise RunError(f"{groups(results)} was simulated by an earlier release: run `snnconv simulate` again")
    bits = max(potential_bits(simulation) for _, simulation in found)
    preset = fitting(bits) if preset is None else preset
    rows = [row for own, simulation in found for row in _rows(own.configuration, simulation, preset, movement)]
    width = max(4.0, BAR * (len(SYSTEMS) + 0.6) * len(found) + 1.0)
    with drawing():
        figure = Figure(figsize=(width + max(2.6, 0.6 * len(found) + 1.6), 4.6))
        bars, rates = figure.subplots(1, 2, width_ratios=[width, max(2.6, 0.6 * len(found) + 1.6)])
        _draw_bars(bars, names_of(found, ", {:,} images"), rows, width)
        _draw_rates(rates, names_of(found), [spike_rate(simulation) for _, simulation in found])
        what = "arithmetic and data movement" if movement else "arithmetic alone"
        heading = title("energy estimate", groups(results), [simulation for _, simulation in found])
        lines = [heading, f"{preset}, {what}: estimated from counts, not measured", narrowness(bits, preset)]
        figure.suptitle("\n".join(line for line in lines if line), fontsize=11)
        return save(figure, out, rows)


def _rows(configuration: str, simulation: Mapping[str, Any], preset: str, movement: bool) -> list[dict[str, Any]]:
    common = {"configuration": configuration, "preset": preset, "movement": movement}
    rate = {"spikes_a_unit_and_step": spike_rate(simulation), "line_low": LINE[0], "line_high": LINE[1]}
    return [
        common | {"system": system} | {f"{part}_nJ": parts[part] for part in (*PARTS, "total", "movement")} | rate
        for system, parts in estimate(simulation, preset, movement).items()
    ]


def _draw_bars(axes: Axes, names: Sequence[str], rows: Sequence[Row], room: float) -> None:
    """Two bars a system and configuration, one in the other: on a log axis parts cannot be stacked."""
    labels = {}
    for number, row in enumerate(rows):
        group, place = divmod(number, len(SYSTEMS))
        x, system = group * (len(SYSTEMS) + 0.8) + place, row["system"]
        total, hidden = row["total_nJ"] / 1000, row["hidden_nJ"] / 1000
        axes.bar(x, total, 0.8, color=PALE, label="with analog encoder and readout" if number == 0 else None)
        name = {0: "spiking layers alone (SNN)", 1: "the same layers of an ANN"}.get(number)
        axes.bar(x, hidden, 0.5, color=colour(0 if system == "spiking" else 2), label=name)
        write_above(axes, x, total, short(total))
        if hidden:
            axes.annotate(short(hidden), (x, hidden), (0, -3), textcoords="offset points", color="white",
                          ha="center", va="top", fontsize=7.5)  # fmt: skip
        labels[x] = SHORT[system]
    axes.set_xticks(list(labels), list(labels.values()), fontsize=7.5)
    axes.tick_params(axis="x", length=0)
    for group, name in enumerate(names):
        middle = group * (len(SYSTEMS) + 0.8) + (len(SYSTEMS) - 1) / 2
        axes.annotate(name, (middle, 0), (0, -42), axes.get_xaxis_transform(), textcoords="offset points", ha="center")
    axes.set_yscale("log")
    positive = [row[key] / 1000 for row in rows for key in ("hidden_nJ", "total_nJ") if row[key] > 0]
    axes.set_ylim(min(positive) / 5, max(positive) * 3)
    axes.set_ylabel("energy an image [µJ], estimate")
    legend_above(axes, room)


def _draw_rates(axes: Axes, names: Sequence[str], rates: Sequence[float]) -> None:
    """Spikes a unit and step of each configuration, and the band below which a spiking network wins."""
    axes.bar(range(len(names)), [100 * rate for rate in rates], 0.55, color=colour(0))
    for x, rate in enumerate(rates):
        write_above(axes, x, 100 * rate, f"{100 * rate:.1f}")
    low, high = (100 * bound for bound in LINE)
    name = f"break-even with the bit-matched ANN,\n{low:g}-{high:g} % (arXiv:2409.08290)"
    axes.axhspan(low, high, color=colour(1), alpha=0.75, linewidth=0, zorder=3, label=name)
    configurations(axes, names)
    axes.set_ylim(0, max(12.0, 118 * max(rates)))
    axes.set_ylabel("spikes a unit and step [%]")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.15, 1.0), borderaxespad=0.3, fontsize=8)

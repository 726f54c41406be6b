"""Figures of a report: layers side by side, one image's spikes, codes beside counts, rates of units, confusions."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from snnconv.reporting.labels import MILLION, short
from snnconv.reporting.style import MARKERS, PALE, colour, drawing

Row = Mapping[str, Any]
PANELS = 4
"""Panels in a row."""


def svg(figure: Figure) -> bytes:
    """A figure as SVG, the same bytes each time; call it within ``drawing``."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "snnconv"})
    return file.getvalue()


def draw_layers(simulation: Row) -> bytes:
    """Firing rate of every layer, and its synops beside the MACs of the ANN."""
    layers: Sequence[Row] = simulation["layers"]
    names = [layer["name"] for layer in layers]
    places = range(len(layers))
    with drawing():
        figure = Figure(figsize=(11, 1.6 + 0.32 * len(layers)))
        rates, sops = figure.subplots(1, 2, sharey=True)
        firing = [layer["kind"] != "readout" for layer in layers]
        shares = [100 * layer["rate"] if fires else 0.0 for layer, fires in zip(layers, firing, strict=True)]
        rates.barh(places, shares, 0.62, color=colour(0))
        for place, share, fires in zip(places, shares, firing, strict=True):
            _write_beside(rates, share, place, f"{share:.1f}" if fires else "no spikes")
        rates.set(xlabel="firing rate [%]", xlim=(0, 1.18 * max(shares, default=1.0) or 1.0))
        for shift, values, shade, name in (
            (-0.2, [layer["sops"]["synops"] / MILLION for layer in layers], colour(0), "synops of the SNN"),
            (0.2, [layer["macs"] / MILLION for layer in layers], PALE, "MACs of the ANN"),
        ):
            sops.barh([place + shift for place in places], values, 0.36, color=shade, label=name)
            for place, value in zip(places, values, strict=True):
                if value:
                    _write_beside(sops, value, place + shift, short(value))
        largest = max(max(layer["macs"], layer["sops"]["synops"]) for layer in layers) / MILLION
        sops.set(xlabel="operations an image [M]", xlim=(0, 1.18 * largest))
        sops.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.3)
        for axes in (rates, sops):
            axes.grid(visible=True, axis="x")
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
        rates.set_yticks(list(places), names)
        rates.invert_yaxis()
        return svg(figure)


def draw_raster(observed: Row) -> bytes:
    """Spikes of the chosen image: a panel a layer, a point a spike, threshold neurons side by side."""
    layers: Sequence[Row] = observed["layers"]
    with drawing():
        figure, panels = _panels(len(layers), 2.9, 3.0)
        for axes, layer in zip(panels, layers, strict=True):
            spikes = np.array(layer["raster"], dtype=np.int64).reshape(-1, 3)
            for sign, shade in ((1, colour(0)), (-1, colour(1))):
                units, neurons, _ = spikes[spikes[:, 2] == sign].T
                axes.plot(neurons + 1, units, "_", color=shade, markersize=9, markeredgewidth=0.5, rasterized=True)
            most = max(-layer["low"], layer["low"] + layer["levels"], 1)
            axes.set(
                xlim=(0.4, most + 0.6), ylim=(layer["units"], -1), title=f"{layer['name']}: {len(spikes):,} spikes"
            )
            axes.title.set_fontsize(9)
            axes.xaxis.set_major_locator(MaxNLocator(min(most, 8), integer=True, min_n_ticks=1))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.grid(visible=False)
        figure.supxlabel("threshold neuron of the unit", fontsize=10)
        figure.supylabel("unit", fontsize=10)
        return svg(figure)


def draw_codes(observed: Row) -> bytes:
    """Code of the ANN beside count of the spiking network: area of a point grows with the number of units."""
    layers: Sequence[Row] = observed["layers"]
    with drawing():
        figure, panels = _panels(len(layers), 2.7, 2.9)
        for axes, layer in zip(panels, layers, strict=True):
            joint = np.array(layer["joint"], dtype=np.int64)
            codes, counts = np.nonzero(joint)
            number = joint[codes, counts]
            low, high = layer["low"], layer["low"] + layer["levels"]
            axes.plot([low, high], [low, high], color=PALE, linewidth=1, zorder=1)
            size = 12 + 130 * np.log1p(number) / math.log1p(max(1, int(joint.max())))
            same = codes == counts
            for chosen, shade in ((same, colour(0)), (~same, colour(1))):
                axes.scatter(codes[chosen] + low, counts[chosen] + low, size[chosen], color=shade, zorder=2)
            wrong = int(number[~same].sum())
            axes.set_title(f"{layer['name']}: {wrong:,} of {int(joint.sum()):,} differ", fontsize=8.5)
            axes.set(xlim=(low - 0.6, high + 0.6), ylim=(low - 0.6, high + 0.6), aspect="equal")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(min(layer["levels"], 6), integer=True, min_n_ticks=1))
            axes.grid(visible=False)
        figure.supxlabel("code of the ANN", fontsize=10)
        figure.supylabel("count of the spiking network", fontsize=10)
        return svg(figure)


def draw_rates(observed: Row) -> bytes:
    """Histogram of the firing rates of single units, a panel a layer."""
    layers: Sequence[Row] = observed["layers"]
    with drawing():
        figure, panels = _panels(len(layers), 2.7, 2.4)
        for axes, layer in zip(panels, layers, strict=True):
            bins = len(layer["rates"])
            edges = [100 * number / bins for number in range(bins + 1)]
            axes.stairs([100 * n / layer["units"] for n in layer["rates"]], edges, fill=True, color=colour(0))
            axes.set_title(f"{layer['name']}: {100 * layer['silent'] / layer['units']:.1f} % silent", fontsize=9)
            axes.set(xlim=(0, 100))
        figure.supxlabel("firing rate of a unit [%]", fontsize=10)
        figure.supylabel("units [%]", fontsize=10)
        return svg(figure)


def draw_confusion(observed: Row) -> bytes:
    """Images by class and prediction; numbers stand in small matrices."""
    matrix = np.array(observed["confusion"], dtype=np.int64)
    classes = len(matrix)
    side = min(8.0, 2.2 + 0.34 * classes)
    with drawing():
        figure = Figure(figsize=(side + 0.9, side))
        axes = figure.subplots()
        shown = np.ma.masked_equal(matrix, 0)
        image = axes.imshow(shown, cmap="Blues", norm=LogNorm(1, max(2, int(matrix.max()))), interpolation="nearest")
        if classes <= 20:
            for row, column in zip(*np.nonzero(matrix), strict=True):
                dark = matrix[row, column] > math.sqrt(matrix.max())
                text = f"{matrix[row, column]:,}"
                shade = "white" if dark else "black"
                axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=shade)
            axes.set_xticks(range(classes))
            axes.set_yticks(range(classes))
        axes.grid(visible=False)
        axes.set(xlabel="prediction of the spiking network", ylabel="class")
        figure.colorbar(image, ax=axes, label="images", shrink=0.8)
        return svg(figure)


def draw_frontier(points: Sequence[Row]) -> bytes:
    """Accuracy against synops of several runs; the form of a point says how many spikes a unit can send.

    Args:
        points: ``number`` (written beside it), ``accuracy`` and ``interval`` (shares of 1), ``synops`` an image,
            ``window`` (spikes that a unit can send), and ``own``: whether the report is about it.
    """
    windows = sorted({point["window"] for point in points})
    with drawing():
        figure = Figure(figsize=(7.5, 4.2))
        axes = figure.subplots()
        for number, window in enumerate(windows):
            some = [point for point in points if point["window"] == window]
            heights = [100 * point["accuracy"] for point in some]
            spans = [[100 * abs(point["accuracy"] - point["interval"][side]) for point in some] for side in (0, 1)]
            marker = MARKERS[number % len(MARKERS)]
            axes.errorbar([point["synops"] / MILLION for point in some], heights, yerr=spans, fmt=marker, capsize=2.5,
                          color=colour(number), elinewidth=1.0, label=f"up to {window}")  # fmt: skip
        for point in points:
            weight = "bold" if point["own"] else "normal"
            axes.annotate(point["number"], (point["synops"] / MILLION, 100 * point["accuracy"]), (7, 4),
                          textcoords="offset points", fontsize=9, fontweight=weight)  # fmt: skip
        axes.set(xlabel="synops an image [M]", ylabel="accuracy [%], 95 % interval", xlim=(0, None))
        axes.margins(x=0.15, y=0.1)
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=6,
            borderaxespad=0.3,
            title="spikes of a unit",
            fontsize=9,
        )
        return svg(figure)


def _panels(number: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, ``PANELS`` in a row [inches each]."""
    columns = min(number, PANELS)
    rows = math.ceil(number / columns)
    figure = Figure(figsize=(width * columns + 0.4, height * rows + 0.4))
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for empty in axes[number:]:
        empty.remove()
    return figure, axes[:number]


def _write_beside(axes: Axes, x: float, y: float, text: str) -> None:
    """Write a short text to the right of a bar."""
    axes.annotate(text, (x, y), (3, 0), textcoords="offset points", va="center", fontsize=8)

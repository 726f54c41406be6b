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
from matplotlib.ticker import FuncFormatter

from snnconv.reporting.labels import MILLION, short
from snnconv.reporting.style import PALE, colour, drawing

Row = Mapping[str, Any]
PANELS = 4
"""Panels in a row, at most."""
TITLE = 8.5
"""Size of the letters over a panel [points]."""
NUMBERED = 8
"""So many threshold neurons have a tick each, and are shown though none fires."""
WRITTEN = 20
"""A confusion matrix of so many classes has its numbers written into it."""


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
    """The chosen image and its spikes: a panel a layer, a point a spike, threshold neurons side by side."""
    layers: Sequence[Row] = observed["layers"]
    with drawing():
        figure, (first, *panels) = _panels(len(layers) + 1, 2.9, 3.0)
        _draw_image(first, observed["pixels"])
        first.set_title(f"image {observed['chosen']}", fontsize=TITLE)
        for axes, layer in zip(panels, layers, strict=True):
            spikes = np.array(layer["raster"], dtype=np.int64).reshape(-1, 3)
            for sign, shade in ((1, colour(0)), (-1, colour(1))):
                units, neurons, _ = spikes[spikes[:, 2] == sign].T
                places = sign * (neurons + 1)
                axes.plot(places, units, "_", color=shade, markersize=9, markeredgewidth=0.5, rasterized=True)
            low, high = layer["low"], max(_highest(layer), 1)
            axes.set(xlim=((low or 1) - 0.6, high + 0.6), ylim=(layer["units"], -1))
            _name(axes, layer, f"{len(spikes):,} spikes")
            every = math.ceil((high - low) / NUMBERED)
            axes.set_xticks([*range(low, 0, every), *range(1, high + 1, every)])
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
            low, high = layer["low"], _highest(layer)
            axes.plot([low, high], [low, high], color=PALE, linewidth=1, zorder=1)
            size = 8 + 170 * np.sqrt(number / max(1, int(joint.max())))
            same = codes == counts
            for chosen, shade in ((same, colour(0)), (~same, colour(1))):
                axes.scatter(codes[chosen] + low, counts[chosen] + low, size[chosen], color=shade, zorder=2)
            wrong = int(number[~same].sum())
            _name(axes, layer, f"{wrong:,} of {int(joint.sum()):,} differ")
            axes.set(xlim=(low - 0.6, high + 0.6), ylim=(low - 0.6, high + 0.6), aspect="equal")
            ticks = range(low, high + 1, math.ceil((high - low) / 8))
            axes.set(xticks=ticks, yticks=ticks)
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
            _name(axes, layer, f"{100 * layer['silent'] / layer['units']:.1f} % silent")
            axes.set(xlim=(0, 100))
        figure.supxlabel("firing rate of a unit [%]", fontsize=10)
        figure.supylabel("units [%]", fontsize=10)
        return svg(figure)


def draw_confusion(observed: Row) -> bytes:
    """Images by class and prediction, blue where they agree; numbers stand in small matrices."""
    matrix = np.array(observed["confusion"], dtype=np.int64)
    classes = len(matrix)
    side = min(8.0, 2.2 + 0.34 * classes)
    right = np.eye(classes, dtype=bool)
    norm = LogNorm(1, max(2, int(matrix.max())))
    with drawing():
        figure = Figure(figsize=(side + (0.0 if classes <= WRITTEN else 1.4), side))
        axes = figure.subplots()
        for part, shades in ((right, "Blues"), (~right, "Oranges")):
            shown = np.ma.masked_where(~part | (matrix == 0), matrix)
            image = axes.imshow(shown, cmap=shades, norm=norm, interpolation="nearest")
            if classes > WRITTEN:
                figure.colorbar(image, ax=axes, label="images, right" if part is right else "images, wrong", shrink=0.8)
        if classes <= WRITTEN:
            for row, column in zip(*np.nonzero(matrix), strict=True):
                shade = "white" if norm(matrix[row, column]) > 0.55 else "black"
                text = f"{matrix[row, column]:,}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=shade)
            axes.set_xticks(range(classes))
            axes.set_yticks(range(classes))
        axes.grid(visible=False)
        axes.set(xlabel="prediction of the spiking network", ylabel="class")
        return svg(figure)


def _panels(number: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels in rows of equal length, at most ``PANELS`` [inches each]."""
    rows = math.ceil(number / PANELS)
    columns = math.ceil(number / rows)
    figure = Figure(figsize=(width * columns + 0.4, height * rows + 0.4))
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for empty in axes[number:]:
        empty.remove()
    return figure, axes[:number]


def _highest(layer: Row) -> int:
    """Highest code that is shown: the top of a grid of few levels, else the highest that occurs."""
    levels: int = layer["levels"]
    if levels > NUMBERED:
        joint = np.array(layer["joint"])
        levels = max(1, *(int(np.flatnonzero(joint.any(axis)).max(initial=0)) for axis in (0, 1)))
    return int(layer["low"]) + levels


def _name(axes: Axes, layer: Row, fact: str) -> None:
    """Put a layer's name and a fact over its panel; on two lines long names stay apart."""
    axes.set_title(f"{layer['name']}\n{fact}", fontsize=TITLE)


def _draw_image(axes: Axes, pixels: Sequence[Sequence[Sequence[int]]]) -> None:
    """Pixels 0..255 (channels, height, width): grey, or red, green and blue."""
    image = np.array(pixels, dtype=np.uint8)
    axes.imshow(image.transpose(1, 2, 0) if len(image) == 3 else image[0], cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def _write_beside(axes: Axes, x: float, y: float, text: str) -> None:
    """Write a short text to the right of a bar."""
    axes.annotate(text, (x, y), (3, 0), textcoords="offset points", va="center", fontsize=8)

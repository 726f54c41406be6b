"""NumPy arrays of a network's integers, with a description in words, for those who build hardware.

The ``.npz`` holds no pickle. ``<layer>.<branch>.weight`` are the codes, ``<layer>.thresholds`` (L, C),
``<layer>.multipliers`` (branches, C) and ``<layer>.constant`` (C,) the integers a spiking layer is computed with;
``<layer>.<branch>.scale`` and ``.offset`` are float64 and only needed by the encoder and the readout. ``header`` is
JSON: layers, wires, geometry, grids and ranges.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnconv.config import to_mapping
from snnconv.errors import FormatError
from snnconv.runs import write_text, write_whole
from snnconv.snn.footprint import Footprint, Range, footprints
from snnconv.snn.layers import (
    Branch,
    Concat,
    Encoder,
    MaxPool2d,
    Readout,
    SpikingLayer,
    Stage,
    SumPool2d,
    ZeroChannelShortcut,
    ZeroPad2d,
)
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.synapses import synapse_kind

FORMAT = "snnconv-arrays"
VERSION = 1

Array = NDArray[Any]

TITLE = "A spiking network of "
"""How a description begins."""

RULES = """\
How to compute it
-----------------
Every wire between layers carries whole numbers, the counts. For one image, layer after layer:

  spiking layer     U_b = weighted sum of the counts on wire b (weights <layer>.<b>.weight)
                    Z   = sum over b of multipliers[b, c] * U_b + constant[c]           (c: the output channel)
                    count = (number of rows i with Z >= thresholds[i, c]) - negative
  sum-pool          sum of the counts of each window          max-pool   largest count of each window, border left out
  shortcut          every stride-th row and column, then channels of zeros; of several lines behind each
  flatten, reshape  channels first, then rows, then columns   zero-pad   a border of zeros
  concat            channels side by side; of wires with several lines first those of all first lines
  encoder (float64) its stages in order on the image: affine: scale[c] * U / divisor + offset[c]; clip to low..high;
                    slope: z if z > 0 else slope * z; then count = (number of boundaries reached) - negative,
                    a boundary counting as reached at z >= b where it is closed and at z > b where it is open
  readout (float64) logit = sum over b of scale[c] * U_b / divisor + offset[c]; the class is the largest logit

Weighted sums of x by w; s is the stride, d the dilation, padding counts as 0:

  conv2d            y[o, i, j] = sum of w[o, c, r, q] x[first + c, s i + d r - top, s j + d q - left]
  conv-transpose2d  y[o, s i + d r - top, s j + d q - left] = sum of w[o, c, r, q] x[first + c, i, j]
                    first = g * (channels of w), g the group of o: outputs in `groups` equal parts, one after the other.
                    Where `channels` are listed, x is read in that order: x[channels[first + c], ...]
  linear            y[o] = sum of w[o, c] x[c]
  identity          y[c] = w[c, 0] x[c]
  lines             y[c] = sum of w[c, k] x[k * (channels of y) + c]

Padding is (left, right, top, bottom), pairs are (vertical, horizontal). Ranges are proven: they hold for every image,
and for every partial sum in any order; a potential starts at its constant.
"""


def arrays_of(network: SpikingNetwork) -> dict[str, Array]:
    """The arrays by name, with the header."""
    arrays: dict[str, Array] = {}
    for name, layer in network.layers.items():
        if isinstance(layer, Encoder | SpikingLayer | Readout):
            for number, branch in enumerate(layer.branches):
                arrays[f"{name}.{number}.weight"] = branch.synapse.weight.cpu().numpy()
                arrays[f"{name}.{number}.scale"] = branch.scale.cpu().numpy()
                arrays[f"{name}.{number}.offset"] = branch.offset.cpu().numpy()
        if isinstance(layer, SpikingLayer):
            arrays[f"{name}.multipliers"] = layer.multipliers.cpu().numpy()
            arrays[f"{name}.constant"] = layer.constant.cpu().numpy()
            arrays[f"{name}.thresholds"] = layer.neuron.thresholds.cpu().numpy()
    arrays["header"] = np.array(json.dumps(header_of(network)))
    return arrays


def header_of(network: SpikingNetwork) -> dict[str, Any]:
    """Layers, wires and ranges as plain values."""
    settings = network.header.preprocessing
    ranges = {own.name: own.to_dict() for own in footprints(network)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "input_shape": list(network.header.shape),
        "preprocessing": None if settings is None else to_mapping(settings),
        "layers": [_layer(network, name, ranges.get(name)) for name in network.layers],
    }


def to_bytes(arrays: Mapping[str, Array]) -> bytes:
    """The ``.npz`` file of arrays; the same arrays give the same bytes."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def write_arrays(network: SpikingNetwork, path: Path) -> list[Path]:
    """Write ``path`` (.npz) and the description beside it (.txt), each whole or not at all.

    Raises:
        RunError: the folder cannot be written.
    """
    contents, text = to_bytes(arrays_of(network)), path.with_suffix(".txt")
    write_whole(path, lambda temporary: temporary.write_bytes(contents))
    write_text(text, describe(network, path.name))
    return [path, text]


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a written file by name, with the header.

    Raises:
        FormatError: missing, damaged, or no file of this format.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays["header"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise FormatError(f"{path} is damaged, or holds no arrays of snnconv: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise FormatError(f"{path} holds no arrays of snnconv; `snnconv export --to numpy` writes them")
    if header.get("version") != VERSION:
        raise FormatError(f"{path} has format version {header.get('version')}; this release reads version {VERSION}")
    return arrays


def describe(network: SpikingNetwork, file: str = "network.npz") -> str:
    """Layers, wiring, weights, thresholds and bit widths in words."""
    settings = network.header.preprocessing
    shape = _by(network.header.shape)
    lines = [
        f"{TITLE}{len(network.layers)} layers; its arrays are in {file}",
        "",
        f"input     {shape} numbers an image" + ("" if settings is None else f", prepared by {_words(settings)}"),
        f"output    {network.classes} logits of layer {next(reversed(network.nodes))}",
        "",
        RULES,
        "Layers",
        "------",
    ]
    ranges = {own.name: own for own in footprints(network)}
    for name in network.layers:
        lines += [*_describe_layer(network, name, ranges.get(name)), ""]
    return "\n".join(lines)


def _layer(network: SpikingNetwork, name: str, ranges: dict[str, Any] | None) -> dict[str, Any]:
    layer, node = network.layers[name], network.nodes[name]
    plain: dict[str, Any] = {
        "name": name,
        "type": type(layer).__name__,
        "inputs": list(node.inputs),
        "shape": list(node.shape),
    }
    if isinstance(layer, Encoder | SpikingLayer):
        grid = layer.grid
        plain["grid"] = {
            "step": grid.step,
            "positive": grid.positive,
            "negative": grid.negative,
            "boundaries": [str(boundary) for boundary in grid.boundaries],
            "closed": list(grid.closed),
        }
    if isinstance(layer, Encoder):
        plain["stages"] = [_stage(stage) for stage in layer.stages]
    if isinstance(layer, SpikingLayer | Readout):
        plain["branches"] = [_branch(branch) for branch in layer.branches]
    if isinstance(layer, SumPool2d | MaxPool2d):
        plain |= {"kernel": list(layer.kernel), "stride": list(layer.stride), "padding": list(layer.padding)}
    if isinstance(layer, MaxPool2d):
        plain["dilation"] = list(layer.dilation)
    if isinstance(layer, ZeroPad2d):
        plain["padding"] = list(layer.padding)
    if isinstance(layer, Concat):
        plain["lines"] = layer.lines
    if isinstance(layer, ZeroChannelShortcut):
        plain |= {"channels": layer.channels, "stride": layer.stride, "lines": layer.lines}
    return plain | ({} if ranges is None else {"ranges": ranges})


def _branch(branch: Branch) -> dict[str, Any]:
    synapse = branch.synapse
    return {"synapse": synapse_kind(synapse), "divisor": branch.divisor, **synapse.settings}


def _stage(stage: Stage) -> dict[str, Any]:
    if stage.branch is not None:
        return {"affine": _branch(stage.branch)}
    if stage.flatten:
        return {"flatten": True}
    if stage.shape is not None:
        return {"reshape": list(stage.shape)}
    if stage.slope is not None:
        return {"slope": stage.slope}
    return {"clip": [str(stage.low), str(stage.high)]}


def _describe_layer(network: SpikingNetwork, name: str, own: Footprint | None) -> list[str]:
    layer, node = network.layers[name], network.nodes[name]
    wires = ", ".join(f"{wire} ({_by(network.wire_shape(wire))})" for wire in node.inputs)
    if own is None:
        facts = {key: value for key, value in _layer(network, name, None).items() if key not in _SAID}
        words = "".join(f", {key} {_by(value) if isinstance(value, list) else value}" for key, value in facts.items())
        return [f"{name}  {type(layer).__name__}, {_by(node.shape)}{words}", f"  reads       {wires}"]
    sends = "" if own.counts is None else f", L = {own.levels}, counts {_range(own.counts)}"
    lines = [f"{name}  {own.kind}, {own.units:,} units ({_by(node.shape)}){sends}", f"  reads       {wires}"]
    assert isinstance(layer, Encoder | SpikingLayer | Readout)
    for number, branch in enumerate(layer.branches):
        facts = {key: value for key, value in _branch(branch).items() if value not in (None, 1)}
        words = ", ".join(f"{key} {_by(value) if isinstance(value, list) else value}" for key, value in facts.items())
        weight = branch.synapse.weight
        kind = str(weight.dtype).removeprefix("torch.")
        lines.append(f"  weights     {name}.{number}.weight  {kind} {_by(weight.shape)}; {words}")
    lines.append(f"              {own.nonzero:,} of {own.weights:,} are not 0" + _in_range(own.weight))
    if isinstance(layer, SpikingLayer):
        lines += [f"  sum {number}       {_range(sums)}" for number, sums in enumerate(own.sums)]
        if own.multiplier is not None:
            lines.append(f"  multipliers {name}.multipliers  {_range(own.multiplier)}; constant {name}.constant")
        if own.bound:
            lines.append(f"  rounding    moves a value by {own.bound:.3g} at most, its step is {layer.grid.step:g}")
        assert own.potential is not None and own.threshold is not None  # noqa: PT018
        lines.append(f"  potential   {_range(own.potential)}")
        shape = _by(layer.neuron.thresholds.shape)
        lines.append(f"  thresholds  {name}.thresholds  int64 {shape} (L, C), {_range(own.threshold)}")
        lines.append(f"  count       (number of thresholds reached) - {layer.grid.negative}")
    if isinstance(layer, Encoder):
        bounds = ", ".join(
            f"z {'>=' if shut else '>'} {b:g}" for b, shut in zip(layer.grid.boundaries, layer.grid.closed, strict=True)
        )
        lines.append(f"  stages      {json.dumps([_stage(stage) for stage in layer.stages])}")
        lines.append(f"  count       (number of true ones of {bounds}) - {layer.grid.negative}")
    lines.append(f"  fan-in      {own.fan_in:,} ({own.fan_in_nonzero:,} not through 0)")
    if own.fan_out:
        lines.append(f"  fan-out     up to {own.fan_out:,} ({own.fan_out_nonzero:,} not through 0)")
    return lines


_SAID = {"name", "type", "inputs", "shape"}


def _in_range(own: Range | None) -> str:
    return "" if own is None else f"; {_range(own)}"


def _range(own: Range) -> str:
    kind = "signed " if own.low < 0 else ""
    return f"{own.low:,} .. {own.high:,}, {own.bits} {kind}bit{'s' if own.bits > 1 else ''}"


def _by(numbers: Any) -> str:
    return "x".join(str(number) for number in numbers) or "1"


def _words(settings: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in to_mapping(settings).items())

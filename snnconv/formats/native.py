"""snnconv's own file: safetensors with a JSON header, no pickle.

The header (key ``snnconv`` of the safetensors metadata) lists the layers in order with their wires,
geometry and grids; tensors are called ``<layer>.<branch>.weight``, ``.scale`` and ``.offset``, and ``.rounding``
where codes are rounded float weights. Ternary and binary weights take two bits a code, others 8, 16, 32 or 64.
Thresholds are not stored: they follow from scale, offset and grid, so one file serves every neuron model and engine.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from snnconv.config import Preprocessing, Settings
from snnconv.errors import FormatError, SnnconvError
from snnconv.formats.packing import pack_ternary, unpack_ternary
from snnconv.grids import Grid
from snnconv.runs import write_whole
from snnconv.snn.layers import (
    Branch,
    Concat,
    Encoder,
    Flatten,
    MaxPool2d,
    Readout,
    Reshape,
    SpikingLayer,
    Stage,
    SumPool2d,
    ZeroChannelShortcut,
    ZeroPad2d,
    largest_count,
    spiking_layer,
)
from snnconv.snn.network import Header, Node, Origin, SpikingNetwork
from snnconv.snn.synapses import SYNAPSES, synapse_kind

FORMAT = "snnconv-network"
VERSION = 1

Number = float | Literal["inf", "-inf"]
"""JSON has no infinities; they are written as words."""


Packing = Literal["ternary", "int8", "int16", "int32", "int64", "float"]
"""How a weight is stored: two bits a code, whole numbers of so many bits, or floats."""

DTYPES: dict[Packing, tuple[torch.dtype, ...]] = {
    "ternary": (torch.int8,),
    "int8": (torch.int8,),
    "int16": (torch.int16,),
    "int32": (torch.int32,),
    "int64": (torch.int64,),
    "float": (torch.float32, torch.float64),
}


class _Branch(Settings, frozen=True):
    synapse: Literal["conv2d", "conv-transpose2d", "linear", "identity", "lines"]
    settings: dict[str, Any]
    weight: Packing
    weight_shape: tuple[int, ...]
    divisor: int = 1


class _Stage(Settings, frozen=True):
    branch: _Branch | None = None
    low: Number = "-inf"
    high: Number = "inf"
    flatten: bool = False
    slope: float | None = None
    shape: tuple[int, ...] | None = None


class _Grid(Settings, frozen=True):
    step: float
    positive: int
    negative: int
    boundaries: tuple[Number, ...]
    closed: tuple[bool, ...]


class _Origin(Settings, frozen=True, omit_defaults=True):
    module: str
    call: int
    side: Literal[-1, 0, 1] = 0


class _Layer(Settings, frozen=True):
    name: str
    kind: Literal[
        "encoder", "spiking", "sum-pool", "max-pool", "shortcut", "flatten", "reshape", "zero-pad", "concat", "readout"
    ]
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    origin: _Origin | None = None
    grid: _Grid | None = None
    branches: tuple[_Branch, ...] = ()
    stages: tuple[_Stage, ...] = ()
    pool: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)


class _Kind(msgspec.Struct, frozen=True):
    format: str = ""
    version: int = 0


class _Network(Settings, frozen=True):
    format: str
    version: int
    input_shape: tuple[int, ...]
    layers: tuple[_Layer, ...]
    preprocessing: Preprocessing | None = None
    about: dict[str, Any] = msgspec.field(default_factory=dict)


def save(network: SpikingNetwork, path: Path) -> None:
    """Write a network whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    layers = tuple(_describe(name, layer, network.nodes[name], tensors) for name, layer in network.layers.items())
    header = _Network(
        format=FORMAT,
        version=VERSION,
        input_shape=network.header.shape,
        layers=layers,
        preprocessing=network.header.preprocessing,
        about=network.header.about,
    )
    text = {"snnconv": msgspec.json.encode(header).decode()}
    write_whole(path, lambda temporary: temporary.write_bytes(to_bytes(tensors, text)))


def load(path: Path) -> SpikingNetwork:
    """Read a network.

    Raises:
        FormatError: missing, damaged, foreign, of another version, or inconsistent in itself.
    """
    if not path.is_file():
        raise FormatError(f"{path} is not there: `snnconv convert` writes converted networks")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("snnconv", "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{path} is no converted network, or damaged: {error}") from error
    try:
        kind = msgspec.json.decode(text, type=_Kind)
        if kind.format != FORMAT:
            raise FormatError(f"{path} is not a converted network of snnconv; `snnconv convert` writes one")
        if kind.version != VERSION:
            remedy = ": it was written by a newer one, install that" if kind.version > VERSION else ""
            raise FormatError(f"{path} has format version {kind.version}; this release reads version {VERSION}{remedy}")
    except msgspec.DecodeError as error:
        raise FormatError(f"{path} is damaged: {error}") from error
    try:
        network = _build(msgspec.json.decode(text, type=_Network), tensors)
        network.check_shapes()
    except (
        msgspec.DecodeError,
        SnnconvError,
        ArithmeticError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FormatError(f"{path} is damaged: {reason}") from error
    return network


def _describe(name: str, layer: nn.Module, node: Node, tensors: dict[str, Tensor]) -> _Layer:
    origin = None if node.origin is None else _Origin(**asdict(node.origin))
    place: dict[str, Any] = {"name": name, "inputs": node.inputs, "shape": node.shape, "origin": origin}
    match layer:
        case Encoder():
            stages, number = [], 0
            for stage in layer.stages:
                branch = None
                if stage.branch is not None:
                    branch = _describe_branch(f"{name}.{number}", stage.branch, tensors)
                    number += 1
                stages.append(
                    _Stage(
                        branch=branch,
                        low=_word(stage.low),
                        high=_word(stage.high),
                        flatten=stage.flatten,
                        slope=stage.slope,
                        shape=stage.shape,
                    )
                )
            return _Layer(kind="encoder", grid=_describe_grid(layer.grid), stages=tuple(stages), **place)
        case SpikingLayer() | Readout():
            branches = tuple(_describe_branch(f"{name}.{i}", b, tensors) for i, b in enumerate(layer.branches))
            if isinstance(layer, Readout):
                return _Layer(kind="readout", branches=branches, **place)
            return _Layer(kind="spiking", grid=_describe_grid(layer.grid), branches=branches, **place)
        case SumPool2d():
            pool = {"kernel": layer.kernel, "stride": layer.stride, "padding": layer.padding}
            return _Layer(kind="sum-pool", pool=pool, **place)
        case MaxPool2d():
            pool = {
                "kernel": layer.kernel,
                "stride": layer.stride,
                "padding": layer.padding,
                "dilation": layer.dilation,
            }
            return _Layer(kind="max-pool", pool=pool, **place)
        case ZeroChannelShortcut():
            shape = (layer.channels, layer.stride) + ((layer.lines,) if layer.lines > 1 else ())
            return _Layer(kind="shortcut", pool={"shape": shape}, **place)
        case Flatten():
            return _Layer(kind="flatten", **place)
        case Reshape():
            return _Layer(kind="reshape", pool={"shape": layer.shape}, **place)
        case ZeroPad2d():
            return _Layer(kind="zero-pad", pool={"padding": layer.padding}, **place)
        case Concat():
            return _Layer(kind="concat", pool={"lines": (layer.lines,)} if layer.lines > 1 else {}, **place)
    raise FormatError(f"layer {name} of type {type(layer).__name__} has no place in a file")


def _describe_branch(name: str, branch: Branch, tensors: dict[str, Tensor]) -> _Branch:
    synapse = branch.synapse
    weight = synapse.weight.cpu()
    packing: Packing = "float"
    if synapse.integer:
        own = next(name for name, dtypes in DTYPES.items() if name != "ternary" and weight.dtype in dtypes)
        packing = "ternary" if weight.dtype == torch.int8 and bool(((weight >= -1) & (weight <= 1)).all()) else own
    tensors[f"{name}.weight"] = pack_ternary(weight) if packing == "ternary" else weight.contiguous()
    tensors[f"{name}.scale"] = branch.scale.cpu()
    tensors[f"{name}.offset"] = branch.offset.cpu()
    if branch.rounding is not None:
        tensors[f"{name}.rounding"] = branch.rounding.cpu()
    kind: Any = synapse_kind(synapse)
    return _Branch(
        synapse=kind,
        settings=synapse.settings,
        weight=packing,
        weight_shape=tuple(weight.shape),
        divisor=branch.divisor,
    )


def _describe_grid(grid: Grid) -> _Grid:
    return _Grid(
        step=grid.step,
        positive=grid.positive,
        negative=grid.negative,
        boundaries=tuple(_word(b) for b in grid.boundaries),
        closed=grid.closed,
    )


def _build(header: _Network, tensors: dict[str, Tensor]) -> SpikingNetwork:
    layers: dict[str, nn.Module] = {}
    nodes: dict[str, Node] = {}
    largest: dict[str, int] = {}
    unused = set(tensors)
    for entry in header.layers:
        if entry.name in layers:
            raise FormatError(f"two layers are called {entry.name}")
        for wire in entry.inputs:
            if wire != "input" and wire not in largest:
                raise FormatError(f"layer {entry.name} reads wire {wire}, which no layer before it sends")
        incoming = [largest.get(wire, 0) for wire in entry.inputs]
        layer = _build_layer(entry, incoming, tensors, unused)
        layers[entry.name] = layer
        origin = None if entry.origin is None else Origin(entry.origin.module, entry.origin.call, entry.origin.side)
        nodes[entry.name] = Node(entry.inputs, entry.shape, origin)
        largest[entry.name] = largest_count(layer, incoming)
    if unused:
        raise FormatError(f"tensor {min(unused)} belongs to no layer")
    about = Header(header.input_shape, header.preprocessing, header.about)
    return SpikingNetwork(layers, nodes, about)


def _build_layer(entry: _Layer, incoming: list[int], tensors: dict[str, Tensor], unused: set[str]) -> nn.Module:
    branches = [_build_branch(f"{entry.name}.{i}", b, tensors, unused) for i, b in enumerate(entry.branches)]
    if entry.kind in ("encoder", "spiking") and entry.grid is None:
        raise FormatError(f"layer {entry.name} has no grid")
    if len(entry.branches) not in (0, len(entry.inputs)):
        raise FormatError(f"layer {entry.name} has {len(entry.branches)} branches and {len(entry.inputs)} wires")
    match entry.kind:
        case "encoder":
            assert entry.grid is not None
            stages, number = [], 0
            for stage in entry.stages:
                branch = None
                if stage.branch is not None:
                    branch = _build_branch(f"{entry.name}.{number}", stage.branch, tensors, unused)
                    number += 1
                clip = float(stage.low), float(stage.high)
                stages.append(Stage(branch, *clip, stage.flatten, stage.slope, stage.shape))
            return Encoder(stages, _build_grid(entry.grid))
        case "spiking":
            assert entry.grid is not None
            return spiking_layer(branches, _build_grid(entry.grid), incoming)
        case "readout":
            return Readout(branches)
        case "sum-pool":
            return SumPool2d(**entry.pool)  # type: ignore[arg-type]
        case "max-pool":
            return MaxPool2d(**entry.pool)  # type: ignore[arg-type]
        case "shortcut":
            return ZeroChannelShortcut(*entry.pool["shape"])
        case "flatten":
            return Flatten()
        case "reshape":
            return Reshape(entry.pool["shape"])
        case "zero-pad":
            return ZeroPad2d(**entry.pool)  # type: ignore[arg-type]
        case "concat":
            return Concat(*entry.pool.get("lines", ()))


def _build_branch(name: str, entry: _Branch, tensors: dict[str, Tensor], unused: set[str]) -> Branch:
    parts = []
    for part in ("weight", "scale", "offset"):
        key = f"{name}.{part}"
        if key not in tensors:
            raise FormatError(f"tensor {key} is missing")
        unused.discard(key)
        parts.append(tensors[key])
    weight, scale, offset = parts
    if entry.weight == "ternary":
        weight = unpack_ternary(weight, entry.weight_shape)
    if weight.dtype not in DTYPES[entry.weight] or tuple(weight.shape) != entry.weight_shape:
        got = f"{weight.dtype} {list(weight.shape)}"
        raise FormatError(f"tensor {name}.weight is {got}, not {entry.weight} {list(entry.weight_shape)}")
    if scale.dtype != torch.float64 or offset.dtype != torch.float64:
        raise FormatError(f"scale and offset of {name} must be float64")
    if entry.divisor < 1:
        raise FormatError(f"the divisor of {name} is {entry.divisor}, not 1 or more")
    rounding = tensors.get(f"{name}.rounding")
    unused.discard(f"{name}.rounding")
    return Branch(SYNAPSES[entry.synapse](weight, **entry.settings), scale, offset, entry.divisor, rounding)


def _build_grid(entry: _Grid) -> Grid:
    boundaries = tuple(float(b) for b in entry.boundaries)
    return Grid(entry.step, entry.positive, entry.negative, boundaries, entry.closed)


def _word(value: float) -> Number:
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value

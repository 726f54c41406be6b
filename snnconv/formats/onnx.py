"""The quantized ANN as an ONNX graph: integer weights and activations, the codes of the ANN, its logits.

Hidden layers are integers from end to end: codes int8, sums int32 (``ConvInteger``, ``MatMulInteger``), thresholds by
comparison. Sums of wider codes or counts are taken in floats that hold them exactly. Encoder and readout are float64. A
convolution in float64 is a ``Gather`` of patches and a ``MatMul``: runtimes convolve in float32 only. Operator set 17.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnconv.config import to_mapping
from snnconv.errors import ExportError, FormatError
from snnconv.formats.kernels import by_inputs, concat_order, require_known, shortcut_kernel
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
)
from snnconv.snn.network import INPUT, SpikingNetwork
from snnconv.snn.synapses import (
    Conv2dSynapse,
    ConvTranspose2dSynapse,
    GroupedSynapse,
    IdentitySynapse,
    LinearSynapse,
    LinesSynapse,
    Synapse,
    synapse_kind,
)
from snnconv.snn.thresholds import value_thresholds

OPERATORS = 17
"""Version of the operator set; ConvInteger, MatMulInteger and comparisons of int64 are in it."""
FILE_VERSION = 8
LARGEST_WEIGHT = 63
"""Integer kernels of processors without VNNI add pairs of products in 16 bits: 2 * 255 * 63 still fits."""
FLOAT_REACH = 2**24
"""Sums below this are exact in float32, in any order."""
OUTPUT = "logits"
PRODUCER = "snnconv"


def to_onnx(network: SpikingNetwork, codes: bool = False) -> Any:
    """The graph of a network, an ``onnx.ModelProto``: input float32 (N, C, H, W), output ``logits`` float64.

    Args:
        network: Converted.
        codes: Give out the codes of every unit as well, int8, an output a layer of its name.

    Raises:
        ExportError: onnx is not installed, or a layer that has no exact graph.
    """
    onnx = _onnx()
    graph = _Graph(network)
    outputs = [onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.DOUBLE, ["N", network.classes])]
    outputs += _codes(network) if codes else []
    shape = ["N", *network.header.shape]
    inputs = [onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, shape)]
    described = onnx.helper.make_graph(graph.nodes, "snnconv", inputs, outputs, graph.constants)
    operators = [onnx.helper.make_opsetid("", OPERATORS)]
    model = onnx.helper.make_model(described, opset_imports=operators, ir_version=FILE_VERSION, producer_name=PRODUCER)
    settings = network.header.preprocessing
    prepared = None if settings is None else to_mapping(settings)
    onnx.helper.set_model_props(model, {"preprocessing": json.dumps(prepared)})
    onnx.checker.check_model(model, full_check=True)
    return model


def write_onnx(network: SpikingNetwork, path: Path, codes: bool = False) -> None:
    """Write ``to_onnx`` whole or not at all."""
    contents = to_onnx(network, codes).SerializeToString()
    write_whole(path, lambda temporary: temporary.write_bytes(contents))


def read_onnx(path: Path, network: SpikingNetwork) -> Any:
    """A written model with the codes of every unit among its outputs, whether it was to give them out or not."""
    model = _onnx().load(str(path))
    given = {output.name for output in model.graph.output}
    model.graph.output.extend(own for own in _codes(network) if own.name not in given)
    return model


def onnx_facts(path: Path) -> dict[str, Any] | None:
    """What a file of ``write_onnx`` says of itself; None where something else wrote it.

    Raises:
        ExportError: onnx is not installed.
        FormatError: damaged, or no ONNX model.
    """
    onnx = _onnx()
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # onnx raises many kinds; each means the same to the user
        raise FormatError(f"{path} is damaged, or no model of ONNX") from error
    if model.producer_name != PRODUCER:
        return None
    about = {entry.key: entry.value for entry in model.metadata_props}
    return {
        "preprocessing": json.loads(about["preprocessing"]),
        "nodes": len(model.graph.node),
        "outputs": [output.name for output in model.graph.output],
    }


def onnx_runner(model: Any) -> Callable[[Tensor], dict[str, Tensor]]:
    """What ONNX Runtime makes of preprocessed images on the CPU: every output by name.

    Raises:
        ExportError: onnxruntime is not installed, or does not take the model; what comes back raises it, too.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError("onnxruntime is not installed: `pip install -c constraints.txt -e '.[onnx]'`") from error
    with _one_sentence():
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(x: Tensor) -> dict[str, Tensor]:
        with _one_sentence():
            values = session.run(names, {INPUT: x.float().numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return run


@contextmanager
def _one_sentence() -> Iterator[None]:
    """What a runtime raises, as our own error."""
    try:
        yield
    except Exception as error:  # ONNX Runtime's kinds have no base of their own
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"ONNX Runtime does not run the model: {first}") from error


def _codes(network: SpikingNetwork) -> list[Any]:
    """The codes of every unit as outputs of a graph."""
    onnx = _onnx()
    return [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, ["N", *network.nodes[name].shape])
        for name, _ in network.units()
    ]


class _Graph:
    """Nodes and constants, layer by layer; a wire is a value of its layer's name."""

    def __init__(self, network: SpikingNetwork) -> None:
        self.network = network
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._helper = _onnx().helper
        self._types = _onnx().TensorProto
        require_known(network, "ONNX")
        for name, layer in network.layers.items():
            if name == OUTPUT and not isinstance(layer, Readout):
                raise ExportError(f"no layer but the last can be called {name} in ONNX: give it another name")
            self._layer(name, layer, network.nodes[name].inputs)

    def _layer(self, name: str, layer: torch.nn.Module, wires: Sequence[str]) -> None:
        match layer:
            case Encoder():
                self._encoder(name, layer)
            case SpikingLayer():
                self._spiking(name, layer, wires)
            case Readout():
                self._readout(name, layer, wires)
            case SumPool2d():
                channels = self.network.wire_shape(wires[0])[0]
                ones = torch.ones(channels, 1, *layer.kernel, dtype=torch.int8)
                (vertical, horizontal), (left, right, top, bottom) = layer.stride, layer.padding
                synapse = Conv2dSynapse(ones, (vertical, horizontal), (left, right, top, bottom), groups=channels)
                self._node("Identity", [self._sum(f"{name}.sum", synapse, wires[0])], name)
            case MaxPool2d():
                attributes: dict[str, Any] = {"kernel_shape": list(layer.kernel), "strides": list(layer.stride)}
                border = [*layer.padding, *layer.padding]
                narrow = self._narrow(wires[0])  # runtimes pool int8 and floats, and no int32
                counts = wires[0] if narrow else self._cast(wires[0], "FLOAT")
                largest = self._node("MaxPool", [counts], pads=border, dilations=list(layer.dilation), **attributes)
                self._cast(largest, "INT8" if narrow else "INT32", name)
            case ZeroChannelShortcut():
                kernel = shortcut_kernel(layer, self.network.wire_shape(wires[0])[0]).to(torch.int8)
                moved = self._sum(f"{name}.sum", Conv2dSynapse(kernel, (layer.stride, layer.stride)), wires[0])
                self._cast(moved, "INT8" if self._narrow(wires[0]) else "INT32", name)
            case Flatten():
                self._node("Flatten", wires, name, axis=1)
            case Reshape():
                shape = self._constant(f"{name}.shape", torch.tensor([0, *layer.shape]))
                self._node("Reshape", [wires[0], shape], name)
            case ZeroPad2d():
                # not Pad, which runtimes merge into a max pool behind it, as a border of minus infinity
                left, right, top, bottom = layer.padding
                ones = torch.ones(self.network.wire_shape(wires[0])[0], 1, 1, 1, dtype=torch.int8)
                synapse = Conv2dSynapse(ones, padding=(left, right, top, bottom), groups=len(ones))
                moved = self._sum(f"{name}.sum", synapse, wires[0])
                self._cast(moved, "INT8" if self._narrow(wires[0]) else "INT32", name)
            case Concat():
                wide = not all(self._narrow(wire) for wire in wires)
                parts = [self._cast(wire, "INT32", f"{name}.{i}") if wide else wire for i, wire in enumerate(wires)]
                order = concat_order(layer, [self.network.wire_shape(wire)[0] for wire in wires])
                joined = self._node("Concat", parts, "" if order else name, axis=1)
                if order:
                    self._node("Gather", [joined, self._constant(f"{name}.order", torch.tensor(order))], name, axis=1)
            case _:
                raise ExportError(f"layer {name} of type {type(layer).__name__} cannot be written for ONNX")

    def _encoder(self, name: str, layer: Encoder) -> None:
        value = self._cast(INPUT, "DOUBLE", f"{name}.input")
        shape = self.network.header.shape
        for number, stage in enumerate(layer.stages):
            value, shape = self._stage(f"{name}.stage{number}", stage, value, shape)
        self._compare(name, value, value_thresholds(layer.grid, shape[0]), layer.grid.negative, len(shape))

    def _stage(self, name: str, stage: Stage, value: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        if stage.branch is not None:
            shape = stage.branch.synapse.out_shape(shape)
            potential = self._real_sum(name, stage.branch.synapse, value, shape)
            return self._affine(name, stage.branch, potential, len(shape)), shape
        if stage.flatten:
            return self._node("Flatten", [value], f"{name}.flat", axis=1), (torch.Size(shape).numel(),)
        if stage.shape is not None:
            target = self._constant(f"{name}.shape", torch.tensor([0, *stage.shape]))
            return self._node("Reshape", [value, target]), stage.shape
        if stage.slope is not None:
            positive = self._node("Greater", [value, self._constant(f"{name}.zero", torch.tensor(0.0).double())])
            slope = self._constant(f"{name}.slope", torch.tensor(stage.slope, dtype=torch.float64))
            return self._node("Where", [positive, value, self._node("Mul", [value, slope])]), shape
        for operator, bound in (("Max", stage.low), ("Min", stage.high)):
            limit = self._constant(f"{name}.{operator}", torch.tensor(bound, dtype=torch.float64))
            value = self._node(operator, [value, limit], f"{name}.clip.{operator}")
        return value, shape

    def _spiking(self, name: str, layer: SpikingLayer, wires: Sequence[str]) -> None:
        rank = len(self.network.nodes[name].shape)
        sums = []
        for number, (branch, wire) in enumerate(zip(layer.branches, wires, strict=True)):
            sums.append(self._sum(f"{name}.{number}.sum", branch.synapse, wire))
        thresholds = layer.neuron.thresholds
        if len(sums) == 1:
            wide = layer.reach >= FLOAT_REACH
            dtype, own = (torch.int64, self._cast(sums[0], "INT64")) if wide else (torch.int32, sums[0])
            sign = self._channels(f"{name}.sign", layer.multipliers[0].to(dtype), rank)
            potential = self._node("Mul", [own, sign], f"{name}.potential")
            return self._compare(name, potential, thresholds.to(dtype), layer.grid.negative, rank)
        potential = self._channels(f"{name}.constant", layer.constant, rank)
        for number, (own, multiplier) in enumerate(zip(sums, layer.multipliers, strict=True)):
            factor = self._channels(f"{name}.{number}.multiplier", multiplier, rank)
            scaled = self._node("Mul", [self._cast(own, "INT64"), factor])
            potential = self._node("Add", [scaled, potential], f"{name}.{number}.potential")
        return self._compare(name, potential, thresholds, layer.grid.negative, rank)

    def _readout(self, name: str, layer: Readout, wires: Sequence[str]) -> None:
        parts = []
        for number, (branch, wire) in enumerate(zip(layer.branches, wires, strict=True)):
            part, shape = f"{name}.{number}", self.network.nodes[name].shape
            value = self._cast(wire, "DOUBLE", f"{part}.counts")
            potential = self._real_sum(part, branch.synapse, value, shape)
            parts.append(self._affine(part, branch, potential, len(shape)))
        self._node("Sum" if len(parts) > 1 else "Identity", parts, OUTPUT)

    def _compare(self, name: str, value: str, thresholds: Tensor, negative: int, rank: int) -> None:
        """count = number of thresholds (L, C) that the value (N, C, ...) reaches, less those below zero; int8."""
        rows = thresholds.reshape(*thresholds.shape, *[1] * (rank - 1))
        spread = self._node("Unsqueeze", [value, self._constant(f"{name}.level", torch.tensor([1]))])
        reached = self._node("GreaterOrEqual", [spread, self._constant(f"{name}.thresholds", rows)])
        axis = self._constant(f"{name}.axis", torch.tensor([1]))
        count = self._node("ReduceSum", [self._cast(reached, "INT32"), axis], keepdims=0)
        if negative:
            offset = self._constant(f"{name}.negative", torch.tensor(negative, dtype=torch.int32))
            count = self._node("Sub", [count, offset])
        self._cast(count, "INT8", name)

    def _sum(self, name: str, synapse: Synapse, wire: str) -> str:
        """Integer sum of a synapse, int32; int64 where it leaves 24 bits and float64 must add it."""
        low, high = self.network.count_range(wire)
        if isinstance(synapse, GroupedSynapse | LinearSynapse):
            reach, kernel = synapse.reach(max(high, -low)), not isinstance(synapse, ConvTranspose2dSynapse)
            largest = int(synapse.weight.to(torch.int64).abs().max())
            if kernel and self._narrow(wire) and largest <= LARGEST_WEIGHT and reach < 2**31:
                return self._linear(name, synapse, wire, synapse.weight.to(torch.int8), "Integer")
            if reach >= FLOAT_REACH:
                counts, shape = self._cast(wire, "DOUBLE"), self.network.nodes[name.split(".")[0]].shape
                return self._cast(self._real_sum(name, synapse, counts, shape), "INT64")
            counts = self._cast(wire, "FLOAT", f"{name}.counts")
            return self._cast(self._linear(name, synapse, counts, synapse.weight.float(), ""), "INT32")
        wide = self._cast(wire, "INT32", f"{name}.counts")
        if not isinstance(synapse, LinesSynapse):
            return self._node("Mul", [wide, self._weight_column(name, synapse, 0)])
        count = synapse.out_channels
        total = ""
        for number in range(synapse.lines):
            bounds = [
                self._constant(f"{name}.{key}{number}", torch.tensor([value]))
                for key, value in (("from", number * count), ("to", (number + 1) * count), ("axis", 1))
            ]
            own = self._node(
                "Mul", [self._node("Slice", [wide, *bounds]), self._weight_column(f"{name}.{number}", synapse, number)]
            )
            total = own if not total else self._node("Add", [total, own])
        return total

    def _weight_column(self, name: str, synapse: Synapse, column: int) -> str:
        rank = len(self.network.nodes[name.split(".")[0]].shape)
        return self._channels(f"{name}.weight", synapse.weight[:, column].to(torch.int32), rank)

    def _linear(self, name: str, synapse: Synapse, value: str, weight: Tensor, kind: str) -> str:
        if isinstance(synapse, LinearSynapse):
            return self._node(f"MatMul{kind}", [value, self._constant(f"{name}.weight", weight.T)])
        assert isinstance(synapse, GroupedSynapse)
        value = self._read(name, synapse, value)
        left, right, top, bottom = synapse.padding
        geometry: dict[str, Any] = {
            "strides": list(synapse.stride),
            "dilations": list(synapse.dilation),
            "group": synapse.groups,
        }
        if isinstance(synapse, ConvTranspose2dSynapse):
            own = self._constant(f"{name}.weight", by_inputs(weight, synapse.groups))
            geometry |= {"pads": [top, left, top, left], "output_padding": [top - bottom, left - right]}
            return self._node("ConvTranspose", [value, own], **geometry)
        own = self._constant(f"{name}.weight", weight)
        return self._node(f"Conv{kind}", [value, own], pads=[top, left, bottom, right], **geometry)

    def _read(self, name: str, synapse: GroupedSynapse, value: str) -> str:
        """The channels in the order in which a synapse reads them."""
        if synapse.channels is None:
            return value
        return self._node("Gather", [value, self._constant(f"{name}.channels", torch.tensor(synapse.channels))], axis=1)

    def _real_sum(self, name: str, synapse: Synapse, value: str, shape: tuple[int, ...]) -> str:
        """Sum of a synapse in float64: convolutions as patches times a matrix, a group after the other."""
        weight = synapse.weight.double()
        if isinstance(synapse, LinearSynapse):
            return self._node("MatMul", [value, self._constant(f"{name}.weight", weight.T)])
        if isinstance(synapse, IdentitySynapse):
            return self._node("Mul", [value, self._channels(f"{name}.weight", weight[:, 0], len(shape))])
        if not isinstance(synapse, Conv2dSynapse):
            raise ExportError(
                f"layer {name.split('.')[0]} needs a {synapse_kind(synapse)} of more than 24 bits, which runtimes of "
                "ONNX do not have: `snnconv export --to numpy` takes it"
            )
        value = self._read(name, synapse, value)
        left, right, top, bottom = synapse.padding
        pads = self._constant(f"{name}.pads", torch.tensor([0, 0, top, left, 0, 0, bottom, right]))
        padded = self._node("Pad", [value, pads])
        parts = []
        channels, (height, width) = weight.shape[1], shape[1:]
        rows = torch.arange(height)[:, None] * synapse.stride[0] + torch.arange(weight.shape[2]) * synapse.dilation[0]
        columns = torch.arange(width)[:, None] * synapse.stride[1] + torch.arange(weight.shape[3]) * synapse.dilation[1]
        for group, own in enumerate(weight.chunk(synapse.groups)):
            part = f"{name}.{group}"
            read = self._constant(f"{part}.group", torch.arange(group * channels, (group + 1) * channels))
            mine = self._node("Gather", [padded, read], axis=1)
            tall = self._node("Gather", [mine, self._constant(f"{part}.rows", rows)], axis=2)
            patches = self._node("Gather", [tall, self._constant(f"{part}.columns", columns)], axis=4)
            # (N, C, H, kh, W, kw) to (N, H, W, C, kh, kw)
            ordered = self._node("Transpose", [patches], perm=[0, 2, 4, 1, 3, 5])
            flat = self._constant(f"{part}.flat", torch.tensor([0, height, width, own[0].numel()]))
            summed = self._node(
                "MatMul", [self._node("Reshape", [ordered, flat]), self._constant(f"{part}.weight", own.flatten(1).T)]
            )
            parts.append(self._node("Transpose", [summed], perm=[0, 3, 1, 2]))
        return parts[0] if len(parts) == 1 else self._node("Concat", parts, axis=1)

    def _affine(self, name: str, branch: Branch, potential: str, rank: int) -> str:
        """scale * U / divisor + offset, in this order."""
        value = self._node("Mul", [potential, self._channels(f"{name}.scale", branch.scale, rank)])
        if branch.divisor != 1:
            divisor = self._constant(f"{name}.divisor", torch.tensor(float(branch.divisor), dtype=torch.float64))
            value = self._node("Div", [value, divisor])
        return self._node("Add", [value, self._channels(f"{name}.offset", branch.offset, rank)])

    def _narrow(self, wire: str) -> bool:
        """Whether a wire is int8."""
        layer, (low, high) = self.network.layers[wire], self.network.count_range(wire)
        if isinstance(layer, SumPool2d):
            return False
        inputs = [] if isinstance(layer, Encoder | SpikingLayer) else self.network.nodes[wire].inputs
        return low >= -128 and high <= 127 and all(self._narrow(source) for source in inputs)

    def _channels(self, name: str, values: Tensor, rank: int) -> str:
        """A constant (C, 1, ...) for values (N, C, ...)."""
        return self._constant(name, values.reshape(-1, *[1] * (rank - 1)))

    def _constant(self, name: str, values: Tensor) -> str:
        array = values.cpu().contiguous().numpy()
        self.constants.append(_onnx().numpy_helper.from_array(array, name))
        return name

    def _cast(self, value: str, kind: str, output: str = "") -> str:
        return self._node("Cast", [value], output, to=getattr(self._types, kind))

    def _node(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        output = output or f".{operator.lower()}{len(self.nodes)}"  # layers' names have no dots
        self.nodes.append(
            self._helper.make_node(operator, list(inputs), [output], f"node{len(self.nodes)}", **attributes)
        )
        return output


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ExportError("onnx is not installed: `pip install -c constraints.txt -e '.[onnx]'`") from error
    return onnx

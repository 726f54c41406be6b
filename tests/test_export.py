"""What is written for another tool does what the network does; what the tool cannot say is refused in a sentence."""

from __future__ import annotations

import ast
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_networks import NETWORKS, SHAPE, awake
from reference import conv
from samples import PIXELS, TWTA, GridQuantizer, ann_codes, random_ann, random_network, settled, ternary, wires
from spikingjelly.activation_based import functional, monitor
from spikingjelly.activation_based import neuron as sj_neuron
from test_cli import sentence, snnconv
from test_splitting import NEGATIVE, STTN, UNEVEN, joined
from test_splitting import sample as signed_sample
from torch import Tensor, nn

from snnconv.ann.layers import Shortcut
from snnconv.ann.quantizers import KBQuantizer
from snnconv.cli.exporting import export as export_command
from snnconv.conversion.convert import convert
from snnconv.conversion.splitting import split_signs
from snnconv.errors import ConfigError, ExportError
from snnconv.exchange import FORMATS, Choices, export
from snnconv.formats.arrays import write_arrays
from snnconv.formats.native import load, save
from snnconv.formats.nir import to_nir, write_nir
from snnconv.formats.onnx import onnx_runner, to_onnx, write_onnx
from snnconv.formats.spikingjelly import read_spikingjelly, run_spikingjelly, to_spikingjelly, write_spikingjelly
from snnconv.grids import Grid
from snnconv.runs import NETWORK, shipped_run
from snnconv.snn.layers import Concat
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.temporal import TemporalNetwork

Array = np.ndarray[Any, Any]


def drawn(seed: int, split: bool) -> SpikingNetwork:
    """Signed counts, groups, shortcuts, residual sums and all that comes with them, also split by sign."""
    network, _ = signed_sample(seed, (TWTA, STTN, UNEVEN, NEGATIVE)[seed % 4])
    return split_signs(network) if split else network


def images(network: SpikingNetwork, count: int = 3) -> Tensor:
    return torch.rand(count, *network.header.shape, generator=torch.Generator().manual_seed(5))


def own(name: str) -> tuple[nn.Module, SpikingNetwork]:
    """One of the networks as users write them, with float weights in its hidden layers."""
    model = awake(NETWORKS[name]())
    return model, convert(model, torch.zeros(1, *SHAPE), PIXELS)


def square() -> tuple[nn.Module, SpikingNetwork]:
    """Square kernels, sides of padding that differ, a stride, groups, a dilation, a pool: what NIR can say."""
    torch.manual_seed(3)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), KBQuantizer(1, 2)),
        *(nn.ZeroPad2d((2, 1, 2, 1)), ternary(nn.Conv2d(4, 6, 2, groups=2)), nn.BatchNorm2d(6), KBQuantizer(1, 1)),
        *(ternary(nn.Conv2d(6, 6, 3, 2, 2, dilation=2)), nn.BatchNorm2d(6), KBQuantizer(0, 3), nn.AvgPool2d(2)),
        *(nn.Flatten(), ternary(nn.Linear(24, 5)), nn.BatchNorm1d(5), KBQuantizer(1, 2), nn.Linear(5, 3)),
    )
    settled(model, torch.rand(16, 2, 8, 8))
    return model, convert(model, torch.zeros(1, 2, 8, 8), PIXELS)


# NIR


def plain(node: Any, x: Array) -> Array:
    """What a node of NIR without a state makes of one image, by loops."""
    match type(node).__name__:
        case "Linear":
            return node.weight @ x
        case "Affine":
            return node.weight @ x + node.bias
        case "Conv2d":
            top, left = node.padding
            sums = conv(x, node.weight, tuple(node.stride), (left, left, top, top), tuple(node.dilation), node.groups)
            shape = np.array(list(sums)).max(0) + 1
            return (
                np.array([sums[tuple(place)] for place in np.ndindex(*shape)]).reshape(shape) + node.bias[:, None, None]
            )
        case "SumPool2d":
            (high, wide), (down, right) = node.kernel_size, node.stride
            rows, columns = (x.shape[1] - high) // down + 1, (x.shape[2] - wide) // right + 1
            windows = [
                [x[:, i * down : i * down + high, j * right : j * right + wide].sum((1, 2)) for j in range(columns)]
                for i in range(rows)
            ]
            return np.array(windows).transpose(2, 0, 1)
        case "Scale":
            return node.scale * x
        case "Flatten":
            return x.reshape(-1)
    return x


def clocked(graph: Any, image: Array, steps: int) -> tuple[Array, dict[str, Array]]:
    """A graph on one image: its outputs (T, classes) and how often each IF node fired, from NIR's equations."""
    potentials: dict[str, Array] = {}
    fired: dict[str, Array] = {}
    outputs = []
    for _ in range(steps):
        sent: dict[str, Array] = {}
        while len(sent) < len(graph.nodes):
            for name, node in graph.nodes.items():
                sources = [source for source, target in graph.edges if target == name]
                if name in sent or not all(source in sent for source in sources):
                    continue
                x = sum(sent[source] for source in sources) if sources else image
                if type(node).__name__ == "IF":
                    v = potentials.get(name, np.zeros(node.v_threshold.shape)) + node.r * x
                    spike = v > node.v_threshold
                    potentials[name] = np.where(spike, node.v_reset, v)
                    fired[name] = fired.get(name, 0) + spike.astype(int)
                    sent[name] = spike.astype(float)
                else:
                    sent[name] = plain(node, x)
        outputs.append(sent["output"])
    return np.array(outputs), fired


@pytest.mark.parametrize(
    "make", [square, lambda: own("residual"), lambda: own("mobile")], ids=["square", "residual", "mobile"]
)
def test_nir_reads_back_what_was_written(make: Callable[[], tuple[nn.Module, SpikingNetwork]], tmp_path: Path) -> None:
    nir = pytest.importorskip("nir")
    _, network = make()
    written = write_nir(network, tmp_path / "net.nir")
    read = nir.read(str(tmp_path / "net.nir"))
    assert sorted(read.edges) == sorted(written.graph.edges)
    assert set(read.nodes) == set(written.graph.nodes)
    for name, node in written.graph.nodes.items():
        twin = read.nodes[name]
        assert type(twin) is type(node)
        for field in node.__dataclass_fields__:
            if field not in ("input_type", "output_type", "metadata"):
                assert np.array_equal(getattr(twin, field), getattr(node, field)), (name, field)
        for kind in ("input_type", "output_type"):
            mine, theirs = (list(next(iter(getattr(each, kind).values()))) for each in (node, twin))
            assert mine == theirs, (name, kind)
    assert read.metadata["writer"] == "snnconv" and json.loads(read.metadata["levels"]) == network.levels
    for name, unit in network.units():
        assert len(written.nodes[name]) == unit.grid.levels
        for node in written.nodes[name]:
            assert tuple(read.nodes[node].v_threshold.shape) == network.nodes[name].shape


@pytest.mark.parametrize("kind", ["k/B", "ternary"])
def test_a_nir_file_run_by_loops_gives_the_codes_and_logits_of_the_ann(kind: str, tmp_path: Path) -> None:
    nir = pytest.importorskip("nir")
    if kind == "k/B":
        model, network = square()
    else:
        torch.manual_seed(2)
        model = nn.Sequential(
            *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), GridQuantizer(TWTA)),
            *(ternary(nn.Conv2d(3, 4, 2)), nn.BatchNorm2d(4), GridQuantizer(TWTA)),
            *(nn.Flatten(), nn.Linear(16, 3)),
        )
        settled(model, torch.rand(16, 1, 5, 5))
        network = convert(model, torch.zeros(1, 1, 5, 5), PIXELS)
    written = write_nir(network, tmp_path / "net.nir")
    graph, x = nir.read(str(tmp_path / "net.nir")), images(network, 2)
    logits, codes = ann_codes(model, x)
    for row, image in enumerate(x):
        outputs, fired = clocked(graph, image.double().numpy(), 1)
        np.testing.assert_allclose(outputs[0], logits[row].numpy(), rtol=1e-9)
        for name, unit in network.units():
            origin, negative = network.nodes[name].origin, unit.grid.negative
            count = sum((-1 if i < negative else 1) * fired[node] for i, node in enumerate(written.nodes[name]))
            assert np.array_equal(count, codes[origin.module, origin.call][row].numpy()), name


def test_a_ladder_in_nir_has_its_thresholds_half_a_count_lower() -> None:
    pytest.importorskip("nir")
    _, network = square()
    written = to_nir(network)
    name = "_14"
    layer = network.layers[name]
    for level, node in enumerate(written.nodes[name]):
        expected = layer.neuron.thresholds[level].double().numpy() - 0.5
        assert np.array_equal(written.graph.nodes[node].v_threshold, expected)
        assert not written.graph.nodes[node].v_reset.any() and (written.graph.nodes[node].r == 1).all()


def test_soft_reset_is_refused_and_written_only_with_a_report(tmp_path: Path) -> None:
    nir = pytest.importorskip("nir")
    _, network = square()
    with pytest.raises(ExportError, match="soft reset.*--lossy"):
        to_nir(network, "if")
    result = export(network, "nir", tmp_path / "net", images(network), Choices("if", 8, lossy=True))
    assert not result["exact"] and "soft reset became a hard reset" in result["changes"][0]
    assert "potentials start at 0" in result["changes"][1] and "v > threshold" in result["changes"][2]
    check = result["check"]
    assert not check["equal"] and 0 < check["mismatches"] < check["units"]
    assert nir.read(str(tmp_path / "net.nir")).metadata["neuron"] == "if, hard reset"


def test_rates_in_nir_have_a_node_a_unit_and_do_what_hard_reset_does(tmp_path: Path) -> None:
    nir = pytest.importorskip("nir")
    _, network = square()
    written = write_nir(network, tmp_path / "net.nir", "if", lossy=True)
    graph, image = nir.read(str(tmp_path / "net.nir")), images(network, 1)
    _, fired = clocked(graph, image[0].double().numpy(), 6)
    z = network.layers[network.encoders[0]].value(image)[0].numpy()
    (node,) = written.nodes[network.encoders[0]]
    v, spikes = np.zeros(z.shape), np.zeros(z.shape)
    for _ in range(6):
        v = v + z
        spikes += v > 2.0
        v = np.where(v > 2.0, 0.0, v)
    assert spikes.any() and np.array_equal(fired[node], spikes)


@pytest.mark.parametrize("neuron", ["integrate-then-fire", "signed-if", "st-bif", "negative-spike"])
@pytest.mark.parametrize("tool", ["NIR", "SpikingJelly"])
def test_neurons_that_a_tool_does_not_have_are_refused_with_the_reason(neuron: str, tool: str) -> None:
    network = random_network(2)
    make = to_nir if tool == "NIR" else to_spikingjelly
    with pytest.raises(ExportError, match=f"{neuron}.*cannot be written (as|for) {tool}: .* take (the )?ladder"):
        make(network, neuron)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tutorial", "layer pool is a MaxPool2d"),
        ("squeeze", "layer features_6_ is a MaxPool2d"),
        ("unet", "layer act1 has a synapse of kind conv-transpose2d"),
    ],
)
def test_layers_that_nir_does_not_have_are_named(name: str, words: str) -> None:
    pytest.importorskip("nir")
    with pytest.raises(ExportError, match=words):
        to_nir(own(name)[1])


def test_kernels_whose_shapes_nir_infers_wrongly_are_refused() -> None:
    pytest.importorskip("nir")
    model = nn.Sequential(nn.Conv2d(1, 2, (1, 2)), KBQuantizer(0, 1), nn.Flatten(), nn.Linear(24, 2))
    network = convert(model, torch.zeros(1, 1, 4, 4), PIXELS)
    with pytest.raises(ExportError, match=r"layer _1_stage0 has a kernel of 1x2 .* take a square one"):
        to_nir(network)


@pytest.mark.parametrize(
    "make",
    [lambda: own("dense")[1], lambda: bordered(False), lambda: bordered(True)],
    ids=["concat", "signed", "split"],
)
def test_wiring_and_signs_in_nir_are_equal(make: Callable[[], SpikingNetwork], tmp_path: Path) -> None:
    pytest.importorskip("nir")
    network = make()
    assert export(network, "nir", tmp_path / "net", images(network))["check"]["equal"]


class Aside(nn.Module):
    """A quantized head that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.aside = nn.Conv2d(2, 4, 3), KBQuantizer(1, 2), nn.Conv2d(4, 3, 3)
        self.unread, self.fc = KBQuantizer(1, 2), nn.Linear(100, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        self.unread(self.aside(x))
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("to", ["nir", "onnx", "spikingjelly"])
def test_what_nothing_reads_is_compared_too(to: str, tmp_path: Path) -> None:
    pytest.importorskip({"nir": "nir", "onnx": "onnxruntime", "spikingjelly": "torch"}[to])
    network = convert(Aside().eval(), torch.zeros(1, 2, 7, 7), PIXELS)
    check = export(network, to, tmp_path / "net", images(network))["check"]
    assert check["equal"] and check["units"] == 3 * (4 * 25 + 3 * 9)


def bordered(split: bool) -> SpikingNetwork:
    """Signed counts through a border, a shortcut that halves, and a sum-pool."""
    torch.manual_seed(4)

    class Bordered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), GridQuantizer(UNEVEN))
            self.pool = nn.Sequential(nn.ZeroPad2d((1, 1, 2, 2)), nn.AvgPool2d(2))
            self.conv = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), ternary(nn.Conv2d(4, 6, 2, 2)), nn.BatchNorm2d(6))
            self.shortcut, self.act, self.fc = Shortcut(6, 2), GridQuantizer(TWTA), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.pool(self.stem(x))
            return self.fc(self.act(self.conv(x) + self.shortcut(x)).flatten(1))

    model = settled(Bordered(), torch.rand(16, 2, 7, 7))
    network = convert(model, torch.zeros(1, 2, 7, 7), PIXELS)
    return split_signs(network) if split else network


def rising() -> tuple[nn.Module, SpikingNetwork]:
    """Transposed convolutions of ternary weights: strides, cuts, groups, an output padding."""
    torch.manual_seed(6)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), KBQuantizer(1, 2)),
        *(ternary(nn.ConvTranspose2d(4, 6, 3, 2, 1, (1, 0), groups=2)), nn.BatchNorm2d(6), KBQuantizer(1, 2)),
        *(ternary(nn.ConvTranspose2d(6, 3, (2, 3), dilation=2)), nn.BatchNorm2d(3), KBQuantizer(0, 1)),
        *(nn.AvgPool2d(3), nn.Flatten(), nn.Linear(48, 3)),
    )
    settled(model, torch.rand(16, 2, 7, 7))
    return model, convert(model, torch.zeros(1, 2, 7, 7), PIXELS)


def pooled() -> tuple[nn.Module, SpikingNetwork]:
    """Max pools with a border and a dilation, of counts and of their sums."""
    torch.manual_seed(7)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), KBQuantizer(1, 2), nn.MaxPool2d((3, 2), 1, 1, dilation=2)),
        *(ternary(nn.Conv2d(4, 4, 2)), nn.BatchNorm2d(4), KBQuantizer(1, 2), nn.AvgPool2d(2, 1), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(8, 3)),
    )
    settled(model, torch.rand(16, 2, 9, 9))
    return model, convert(model, torch.zeros(1, 2, 9, 9), PIXELS)


def edged() -> tuple[nn.Module, SpikingNetwork]:
    """Max pools of signed counts behind zeros that are larger than most; with their own border wider than a window."""
    torch.manual_seed(8)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), GridQuantizer(TWTA), nn.ZeroPad2d((1, 2, 0, 1)), nn.MaxPool2d(2)),
        *(ternary(nn.Conv2d(4, 4, 2)), nn.BatchNorm2d(4), GridQuantizer(UNEVEN), nn.AvgPool2d(2, 1)),
        *(nn.ZeroPad2d(2), nn.MaxPool2d(2, 1, 1), nn.Flatten(), nn.Linear(168, 3)),
    )
    settled(model, torch.rand(16, 2, 7, 7))
    with torch.no_grad():
        model[1].bias -= 1.0
    return model, convert(model, torch.zeros(1, 2, 7, 7), PIXELS)


def called(name: str) -> SpikingNetwork:
    """A network by a short name: one of those above, or random3, signed1, split2 with their seeds."""
    made = {"square": square, "rising": rising, "pooled": pooled}
    if name in made:
        return made[name]()[1]
    if name == "joined":
        return split_signs(joined(False, TWTA))
    if name[-1].isdigit():
        seed = int(name[-1])
        return random_network(seed) if name.startswith("random") else drawn(seed, name.startswith("split"))
    return own(name)[1]


# ONNX


def onnx_networks() -> dict[str, Callable[[], tuple[nn.Module, SpikingNetwork]]]:
    shape = (1, 2, 7, 8)
    drawn: dict[str, Callable[[], tuple[nn.Module, SpikingNetwork]]] = {
        f"random{seed}": lambda seed=seed: ((ann := random_ann(seed)), convert(ann, torch.zeros(shape), PIXELS))
        for seed in (0, 1, 4, 5)
    }
    signed = lambda: ((ann := random_ann(1, grid=TWTA)), convert(ann, torch.zeros(shape), PIXELS))  # noqa: E731
    mine = {name: lambda name=name: own(name) for name in ("functional", "mobile", "residual", "dense", "squeeze")}
    return drawn | {"square": square, "rising": rising, "pooled": pooled, "edged": edged, "signed": signed} | mine


@pytest.mark.parametrize("name", onnx_networks())
def test_onnx_runtime_gives_the_codes_and_logits_of_the_ann(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, network = onnx_networks()[name]()
    write_onnx(network, tmp_path / "net.onnx", codes=True)
    x = images(network)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = dict(zip(names, session.run(names, {"input": x.numpy()}), strict=True))
    logits, codes = ann_codes(model, x)
    np.testing.assert_allclose(values["logits"], logits.numpy(), rtol=1e-9, atol=1e-9)
    assert values["logits"].dtype == np.float64
    for layer, _ in network.units():
        origin = network.nodes[layer].origin
        expected = codes[origin.module, origin.call].numpy()
        assert values[layer].dtype == np.int8
        assert np.array_equal(values[layer].reshape(expected.shape), expected), layer


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("to", ["onnx", "spikingjelly"])
def test_signed_counts_and_shortcuts_are_equal(to: str, seed: int, split: bool, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    network = drawn(seed, split)
    check = export(network, to, tmp_path / "net", images(network))["check"]
    assert check["equal"] and check["units"] > 500


@pytest.mark.parametrize("closed", [(False, True), (True, False), (True, True), (False, False)], ids=str)
@pytest.mark.parametrize("to", ["nir", "onnx", "spikingjelly"])
def test_values_on_a_boundary_fall_on_its_closed_side(to: str, closed: tuple[bool, bool], tmp_path: Path) -> None:
    pytest.importorskip({"nir": "nir", "onnx": "onnxruntime", "spikingjelly": "torch"}[to])
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(1, 1, bias=False), nn.Hardtanh(-0.8, 0.9)),
        *(GridQuantizer(Grid(1.0, 1, 1, (-0.5, 0.5), closed)), nn.Linear(1, 2)),
    )
    nn.init.ones_(model[1].weight)
    network = convert(model.eval(), torch.zeros(1, 1, 1, 1), PIXELS)
    edge = torch.tensor(0.5)
    near = [torch.nextafter(edge, torch.tensor(0.0)), edge, torch.nextafter(edge, torch.tensor(1.0))]
    x = torch.stack([*near, *(-own for own in near), torch.tensor(0.0), torch.tensor(5.0)]).reshape(-1, 1, 1, 1)
    above, below = (1 if closed[1] else 0), (0 if closed[0] else -1)
    assert wires(network, x)[1][network.encoders[0]].flatten().tolist() == [0, above, 1, 0, below, -1, 0, 1]
    assert export(network, to, tmp_path / "net", x)["check"]["equal"]


@pytest.mark.parametrize("to", ["nir", "onnx", "spikingjelly"])
def test_joined_lines_keep_their_order(to: str, tmp_path: Path) -> None:
    pytest.importorskip({"nir": "nir", "onnx": "onnxruntime", "spikingjelly": "torch"}[to])
    network = called("joined")
    assert any(isinstance(layer, Concat) and layer.lines == 2 for layer in network.layers.values())
    assert export(network, to, tmp_path / "net", images(network))["check"]["equal"]


def test_hidden_layers_are_integers_in_onnx() -> None:
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    ann = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), KBQuantizer(1, 2), ternary(nn.Conv2d(3, 4, 2)), KBQuantizer(1, 2), nn.Flatten()),
        *(ternary(nn.Linear(16, 5)), KBQuantizer(1, 2), nn.Linear(5, 3)),
    )
    model = to_onnx(convert(ann.eval(), torch.zeros(1, 1, 5, 5), PIXELS))
    assert [output.name for output in model.graph.output] == ["logits"]
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("ConvInteger") == kinds.count("MatMulInteger") == 1 and "Conv" not in kinds
    assert kinds.count("MatMul") == 2  # encoder and readout
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "preprocessing": '{"standardise": false, "divisor": 255.0}'
    }


def test_what_onnx_runtime_does_not_take_is_one_sentence() -> None:
    pytest.importorskip("onnxruntime")
    model = to_onnx(random_network(0))
    with pytest.raises(ExportError, match="ONNX Runtime does not run the model"):
        onnx_runner(model)(torch.zeros(1, 9, 1, 1))
    model.graph.node[0].op_type = "Warp"
    with pytest.raises(ExportError, match="ONNX Runtime does not run the model"):
        onnx_runner(model)


def test_a_layer_that_takes_onnx_own_name_is_refused() -> None:
    pytest.importorskip("onnx")

    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.logits, self.fc = nn.Linear(3, 3), KBQuantizer(0, 1), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.logits(self.stem(x.flatten(1))))

    network = convert(Taken().eval(), torch.zeros(1, 3, 1, 1), PIXELS)
    with pytest.raises(ExportError, match="no layer but the last can be called logits"):
        to_onnx(network)


def test_a_transposed_convolution_of_wide_codes_is_refused_for_onnx() -> None:
    pytest.importorskip("onnx")
    with pytest.raises(ExportError, match="layer act1 needs a conv-transpose2d of more than 24 bits"):
        to_onnx(own("unet")[1])


# NumPy


def weighted(kind: str, entry: dict[str, Any], weight: Array, x: Array, shape: list[int]) -> Array:
    """Weighted sum of one image's counts, as the description says it, in int64."""
    weight, x = weight.astype(np.int64), x.astype(np.int64)
    if kind == "linear":
        return np.array([sum(int(w) * int(c) for w, c in zip(row, x, strict=True)) for row in weight])
    if kind == "identity":
        return np.array([own[0] * plane for own, plane in zip(weight, x, strict=True)])
    if kind == "lines":
        count = len(weight)
        return np.array([sum(w * x[k * count + c] for k, w in enumerate(own)) for c, own in enumerate(weight)])
    (down, right), (apart, beside) = entry["stride"], entry["dilation"]
    left, _, top, _ = entry["padding"]
    x = x if entry["channels"] is None else x[entry["channels"]]
    y = np.zeros(shape, dtype=np.int64)
    group = len(weight) // entry["groups"]
    for o, c, r, q in np.ndindex(*weight.shape):
        plane = x[o // group * weight.shape[1] + c]
        for i, j in np.ndindex(*(shape[1:] if kind == "conv2d" else plane.shape)):
            row, column = down * i + apart * r - top, right * j + beside * q - left
            inside = plane.shape if kind == "conv2d" else tuple(shape[1:])
            if not (0 <= row < inside[0] and 0 <= column < inside[1]):
                continue
            if kind == "conv2d":
                y[o, i, j] += weight[o, c, r, q] * plane[row, column]
            else:
                y[o, row, column] += weight[o, c, r, q] * plane[i, j]
    return y


def windows(x: Array, layer: dict[str, Any]) -> list[list[Array]]:
    """What a pool sees at each place, row by row."""
    (high, wide), (down, across), (apart, beside) = layer["kernel"], layer["stride"], layer.get("dilation", [1, 1])
    _, rows, columns = layer["shape"]
    spans = [slice(down * i, down * i + apart * (high - 1) + 1, apart) for i in range(rows)]
    across_spans = [slice(across * j, across * j + beside * (wide - 1) + 1, beside) for j in range(columns)]
    return [[x[:, span, own] for own in across_spans] for span in spans]


def recomputed(path: Path, encoded: dict[str, Array]) -> tuple[dict[str, Array], Array]:
    """Counts and logits of one image from a file of arrays alone, given what the encoders send."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    sent = dict(encoded)
    for layer in json.loads(str(arrays["header"]))["layers"]:
        name, shape = layer["name"], layer["shape"]
        incoming = [sent[wire] for wire in layer["inputs"] if wire != "input"]
        match layer["type"]:
            case "Encoder":
                continue
            case "Readout":
                total = np.zeros(shape)
                for number, (entry, x) in enumerate(zip(layer["branches"], incoming, strict=True)):
                    part = f"{name}.{number}"
                    U = arrays[f"{part}.weight"].astype(float) @ x
                    total = total + arrays[f"{part}.scale"] * U / entry["divisor"] + arrays[f"{part}.offset"]
                return sent, total
            case "SumPool2d":
                x, (left, right, top, bottom) = incoming[0].astype(np.int64), layer["padding"]
                x = np.pad(x, [(0, 0), (top, bottom), (left, right)])
                sent[name] = np.array([[own.sum((1, 2)) for own in row] for row in windows(x, layer)]).transpose(
                    2, 0, 1
                )
            case "MaxPool2d":
                x, (high, wide) = incoming[0].astype(np.int64), layer["padding"]
                x = np.pad(x, [(0, 0), (high, high), (wide, wide)], constant_values=-(2**40))
                sent[name] = np.array([[own.max((1, 2)) for own in row] for row in windows(x, layer)]).transpose(
                    2, 0, 1
                )
            case "Flatten" | "Reshape":
                sent[name] = incoming[0].reshape(shape)
            case "ZeroPad2d":
                left, right, top, bottom = layer["padding"]
                sent[name] = np.pad(incoming[0], [(0, 0), (top, bottom), (left, right)])
            case "Concat":
                lines = [np.split(x, layer["lines"]) for x in incoming]
                sent[name] = np.concatenate([own[line] for line in range(layer["lines"]) for own in lines])
            case "ZeroChannelShortcut":
                kept = incoming[0][:, :: layer["stride"], :: layer["stride"]]
                parts = []
                for line in np.split(kept, layer["lines"]):
                    zeros = np.zeros(
                        (layer["channels"] // layer["lines"] - len(line), *line.shape[1:]), dtype=line.dtype
                    )
                    parts += [line, zeros]
                sent[name] = np.concatenate(parts)
            case _:
                axes = (slice(None), *[None] * (len(shape) - 1))
                Z = arrays[f"{name}.constant"][axes]
                for number, (entry, x) in enumerate(zip(layer["branches"], incoming, strict=True)):
                    U = weighted(entry["synapse"], entry, arrays[f"{name}.{number}.weight"], x, shape)
                    Z = Z + arrays[f"{name}.multipliers"][number][axes] * U
                reached = [row[axes] <= Z for row in arrays[f"{name}.thresholds"]]
                sent[name] = np.sum(reached, 0) - layer["grid"]["negative"]
    raise AssertionError("a network ends in a readout")


@pytest.mark.parametrize(
    "name",
    [
        *("random0", "random3", "random4", "signed0", "signed1", "split2", "split3"),
        *("rising", "pooled", "joined", "residual", "dense", "unet", "sequence", "squeeze"),
    ],
)
def test_arrays_recomputed_by_loops_give_the_same_counts(name: str, tmp_path: Path) -> None:
    network = called(name)
    path, text = write_arrays(network, tmp_path / "net.npz")
    x = images(network, 1)
    logits, sent = wires(network, x)
    encoded = {encoder: sent[encoder][0].numpy() for encoder in network.encoders}
    counts, total = recomputed(path, encoded)
    assert set(counts) == set(sent)
    for layer in sent:
        assert np.array_equal(counts[layer], sent[layer][0].numpy()), layer
    np.testing.assert_allclose(total, logits[0].numpy(), rtol=1e-9, atol=1e-9)
    for layer, _ in network.units():
        assert f"\n{layer}  " in text.read_text()


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    write_arrays(random_network(0), tmp_path / "one.npz")
    write_arrays(random_network(0), tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


# SpikingJelly


@pytest.mark.parametrize(
    "name",
    ["square", "rising", "pooled", "random0", "random4", "signed0", "split2", "residual", "dense", "unet", "reused"],
)
def test_spikingjelly_sends_the_same_counts_in_one_step(name: str) -> None:
    network = called(name)
    module, x = to_spikingjelly(network), images(network)
    expected, sent = wires(network, x)
    watching = monitor.OutputMonitor(module, sj_neuron.IFNode)
    functional.reset_net(module)
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)
    for layer, unit in network.units():
        # SpikingJelly's own monitor: mean over the nodes of a unit is the rate, count / L
        nodes = [watching[own] for own in watching.monitored_layers if own == layer or own.startswith(f"{layer}_level")]
        fired = sum(float(own[0].sum()) for own in nodes)
        below = sent[layer].clamp(max=0).abs().sum() if unit.grid.negative else 0
        above = sent[layer].clamp(min=0).sum()
        assert fired == float(above + below), layer
    functional.reset_net(module)
    functional.set_step_mode(module, "m")
    with torch.no_grad():
        torch.testing.assert_close(module(x[None])[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["square", "residual", "random0"])
def test_spikingjelly_rates_are_those_of_our_own_neurons_at_every_step(name: str) -> None:
    network = called(name)
    steps, x = 7, images(network)
    trains: dict[str, list[Tensor]] = {}

    def tap(layer: str, sent: Tensor, step: int) -> Tensor:
        trains.setdefault(layer, []).append(sent.double())
        return sent

    expected = TemporalNetwork(network, "if", steps)(x, (tap,))[-1]
    module = to_spikingjelly(network, "if")
    watching = monitor.OutputMonitor(module, sj_neuron.IFNode)
    functional.set_step_mode(module, "m")
    functional.reset_net(module)
    with torch.no_grad():
        outputs = module(x.expand(steps, *x.shape))
    torch.testing.assert_close(outputs.mean(0), expected, rtol=1e-12, atol=1e-12)
    assert set(watching.monitored_layers) == {layer for layer, _ in network.units()}
    for layer, _ in network.units():
        theirs, ours = watching[layer][0], torch.stack(trains[layer])
        assert torch.equal(theirs, ours), layer
        assert float(theirs.mean()) == float(ours.mean()) and 0 < float(ours.mean()) < 1
    functional.set_step_mode(module, "s")
    functional.reset_net(module)
    with torch.no_grad():
        one_by_one = torch.stack([module(x) for _ in range(steps)])
    assert torch.equal(one_by_one, outputs)


def test_the_file_for_spikingjelly_needs_nothing_of_ours(tmp_path: Path) -> None:
    network = own("unet")[1]
    files = write_spikingjelly(network, tmp_path / "net.py")
    assert [file.name for file in files] == ["net.py", "net.weights.safetensors"]
    tree = ast.parse(files[0].read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in imported} == {"math", "pathlib", "torch", "safetensors", "spikingjelly"}
    module, x = read_spikingjelly(files[0]), images(network)
    with torch.no_grad():
        assert torch.equal(module(x), to_spikingjelly(network)(x))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.py", "net.weights.safetensors"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: random_network(4), "layer pool1 is a max pool, .* take the ladder"),
        (lambda: random_network(1, TWTA), "layer act0 has codes below zero, .* take --neuron ladder"),
        (lambda: own("dense")[1], "joins units of 2 and 4 levels"),
    ],
    ids=["max pool", "signed", "levels"],
)
def test_rates_that_spikingjelly_cannot_say_are_refused(make: Callable[[], SpikingNetwork], words: str) -> None:
    with pytest.raises(ExportError, match=words):
        to_spikingjelly(make(), "if")


# the command


def test_formats_of_the_command_are_those_there_are() -> None:
    option = next(parameter for parameter in export_command.params if parameter.name == "to")
    assert list(option.type.choices) == list(FORMATS)  # type: ignore[attr-defined]


SUFFIXES = {
    "nir": {".nir"},
    "onnx": {".onnx"},
    "numpy": {".npz", ".txt"},
    "spikingjelly": {".py", ".weights.safetensors"},
}


@pytest.mark.parametrize("to", SUFFIXES)
def test_the_shipped_network_is_written_and_checked(tmp_path: Path, to: str) -> None:
    if to in ("nir", "onnx"):
        pytest.importorskip(to)
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    result = snnconv("export", "--to", to, "--output", "out/lenet.v1", "--images", "20", "--json", cwd=tmp_path)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    written = {tmp_path / file["file"]: file["bytes"] for file in values["files"]}
    assert {file.name for file in written} == {f"lenet.v1{suffix}" for suffix in SUFFIXES[to]}
    assert {file: file.stat().st_size for file in (tmp_path / "out").iterdir()} == written
    assert values["exact"] and values["changes"] == []
    if to == "numpy":
        assert values["check"] is None
    else:
        check = values["check"]
        assert check["equal"] and check["mismatches"] == 0 and check["images"] == check["logits_equal"] == 20
        assert check["units"] == 20 * 26_880 and values["images_of"] == "digits"
    text = snnconv("export", "--to", to, "--output", "out/lenet.v1", "--images", "20", cwd=tmp_path)
    assert ("the same arrays" if to == "numpy" else "EQUAL: run by ") in text.stdout


def test_rates_of_the_shipped_network_are_compared_over_the_steps(tmp_path: Path) -> None:
    common = ("export", "--neuron", "if", "--steps", "6", "--images", "10", "--output", "net")
    equal = snnconv(*common, "--to", "spikingjelly", cwd=tmp_path)
    assert equal.exit_code == 0 and "EQUAL: run by SpikingJelly" in equal.stdout, equal.output
    pytest.importorskip("nir")
    assert "--lossy" in sentence(snnconv(*common, "--to", "nir", cwd=tmp_path))
    assert not (tmp_path / "net.nir").exists()
    lossy = snnconv(*common, "--to", "nir", "--lossy", cwd=tmp_path)
    assert lossy.exit_code == 0, lossy.output
    assert (
        "changed: soft reset became a hard reset" in lossy.stdout and "NOT EQUAL: run by the equations" in lossy.stdout
    )


def test_the_first_call_of_spikingjelly_says_no_word_of_triton() -> None:
    network, heard = random_network(0), []
    logger = logging.getLogger("torch._library.triton")
    module = to_spikingjelly(network)
    module.register_forward_pre_hook(lambda *_: heard.append(logger.isEnabledFor(logging.WARNING)))
    run_spikingjelly(module, network, images(network))
    assert heard == [False] and logger.isEnabledFor(logging.WARNING)


def test_a_network_by_itself_is_compared_on_random_pixels(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    save(random_network(0), tmp_path / "net.safetensors")
    result = snnconv("export", "--to", "onnx", "--output", "net", "--network", "net.safetensors", cwd=tmp_path)
    assert result.exit_code == 0 and "on 100 images of random pixels" in result.stdout, result.output
    assert "comparing on random pixels: the network's file names no data set" in result.stderr
    none = snnconv(
        "export", "--to", "onnx", "--output", "net", "--network", "net.safetensors", "--images", "0", cwd=tmp_path
    )
    assert none.exit_code == 0 and "not compared: no images were asked for" in none.stdout


def test_a_network_by_itself_is_compared_on_the_data_set_its_file_names(tmp_path: Path) -> None:
    file = "net.safetensors"
    write = ("export", "--to", "spikingjelly", "--output", "net", "--network", file, "--images", "3")
    network = load(shipped_run().file(NETWORK))
    save(network, tmp_path / file)
    result = snnconv(*write, cwd=tmp_path)
    assert result.exit_code == 0 and "3 images of digits" in result.stdout and not result.stderr, result.output
    assert "there is no data folder gone" in sentence(snnconv(*write, "--data-dir", "gone", cwd=tmp_path))
    network.header.about["recipe"]["dataset"] = "mnist"
    save(network, tmp_path / file)
    result = snnconv(*write, "--data-dir", ".", cwd=tmp_path)
    assert result.exit_code == 0 and "3 images of random pixels" in result.stdout, result.output
    assert "comparing on random pixels: mnist (test) is not there: put its files into ., mnist or" in result.stderr
    assert not list(tmp_path.glob("MNIST"))


def test_a_file_that_does_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from snnconv import exchange

    network, other = random_network(0), random_network(0)
    other.layers["act1"].neuron.thresholds[:] += 1
    (tmp_path / "net.onnx").write_bytes(b"a good one")
    monkeypatch.setattr(exchange, "write_onnx", lambda _, path, codes: write_onnx(other, path, codes))
    with pytest.raises(ExportError, match=r"net.onnx does not do .* and was not kept: .* units differ"):
        export(network, "onnx", tmp_path / "net", images(network))
    monkeypatch.setattr(exchange, "write_spikingjelly", lambda _, path, neuron: write_spikingjelly(other, path, neuron))
    with pytest.raises(ExportError, match=r"net.py does not do what the network does"):
        export(network, "spikingjelly", tmp_path / "net", images(network))
    monkeypatch.setattr(exchange, "write_arrays", lambda _, path: write_arrays(other, path))
    with pytest.raises(ExportError, match=r"net.npz does not hold what was written"):
        export(network, "numpy", tmp_path / "net")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"a good one"]


@pytest.mark.parametrize(("package", "to"), [("nir", "nir"), ("onnx", "onnx")])
def test_a_missing_package_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, to: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ExportError, match=rf"{package} is not installed: `pip install -c constraints.txt -e '\.\[{to}\]'`"
    ):
        export(random_network(0), to, tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_without_a_runtime_the_file_is_written_and_said_to_be_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    from snnconv import exchange

    monkeypatch.setattr(exchange, "find_spec", lambda name: None)
    network = random_network(0)
    result = export(network, "onnx", tmp_path / "net", images(network))
    assert result["check"] is None and "onnxruntime is not installed" in result["not_checked"]


WRONG = [
    (("--to", "nir"), 2, "--to needs --output"),
    ((), 2, "give --to with --output, or --certificate"),
    (("--to", "numpy", "--output", "n", "--certificate", "c"), 2, "give --to with --output, or --certificate"),
    (("--to", "numpy", "--output", "n", "--neuron", "if"), 1, "--neuron is for nir and spikingjelly"),
    (("--to", "onnx", "--output", "n", "--lossy"), 1, "--lossy is for nir"),
    (("--to", "nir", "--output", "n", "--codes"), 1, "--codes is for onnx"),
    (("--to", "nir", "--output", "n", "--steps", "4"), 1, "--steps is for --neuron if"),
    (("--to", "spikingjelly", "--output", "n", "--neuron", "if", "--steps", "10001"), 1, "steps (= 10001)"),
    (("--to", "nir", "--output", "n", "--neuron", "warp"), 1, "unknown neuron 'warp'"),
    (("--to", "nir", "--output", "n", "--core", "fan_in=3"), 2, "--core goes with --certificate"),
    (("--to", "nir", "--output", "n", "--run", "a", "--network", "b"), 2, "--run or --network"),
    (("--to", "nir", "--output", "."), 2, "is a directory"),
    (("--to", "nir", "--output", "", "--images", "0"), 1, "'.' is no name for a file: give one, such as net.nir"),
    (("--to", "nir", "--output", "n", "--network", "gone.safetensors"), 1, "gone.safetensors is not there"),
    (("--certificate", "c", "--steps", "3"), 2, "--steps goes with --to"),
    (("--certificate", "c", "--output", "n"), 2, "--output goes with --to"),
    (("--certificate", "c", "--lossy"), 2, "go with --to"),
    (("--certificate", "c", "--images", "0"), 2, "--images must be 1 or more"),
    (("--certificate", "c", "--core", "fan_in=x"), 1, "core limit fan_in (= 'x')"),
    (("--certificate", "c", "--core", "fan_in=0"), 1, "core limit fan_in (= 0)"),
    (("--certificate", "c", "--core", "speed=9"), 1, "core limit 'speed' is unknown"),
    (("--certificate", "c", "--core", "neurons=9,neurons=9"), 1, "neurons is given twice"),
]


@pytest.mark.parametrize(("arguments", "status", "part"), WRONG, ids=[" ".join(row[0]) or "nothing" for row in WRONG])
def test_wrong_use_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], status: int, part: str) -> None:
    assert part in sentence(snnconv("export", *arguments, cwd=tmp_path), status)
    assert not [file for file in tmp_path.iterdir() if file.name != "runs"]


def test_unknown_formats_are_refused_from_python_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown format 'wav': nir, onnx, numpy, spikingjelly are known"):
        export(random_network(0), "wav", tmp_path / "out")

"""snnconv's own file: what is written comes back bit for bit, what is damaged is refused in one sentence."""

from __future__ import annotations

import copy
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from samples import PIXELS, TWTA, any_gamma, random_network, settled, ternary, wires
from torch import Tensor, nn

from snnconv.ann.quantizers import KBQuantizer
from snnconv.config import Preprocessing
from snnconv.conversion.convert import convert
from snnconv.errors import FormatError, RunError
from snnconv.formats.native import load, save
from snnconv.formats.packing import pack_ternary, unpack_ternary
from snnconv.grids import Grid
from snnconv.snn.layers import Branch, Encoder, Readout, SpikingLayer
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.synapses import LinearSynapse

SHAPE = (2, 7, 8)
X = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))
Header = dict[str, Any]
Tensors = dict[str, Tensor]
Change = Callable[[Header, Tensors], object]


def branches(layer: nn.Module) -> list[Branch]:
    return list(layer.branches) if isinstance(layer, Encoder | SpikingLayer | Readout) else []


def assert_same_network(one: SpikingNetwork, other: SpikingNetwork, x: Tensor = X) -> None:
    assert other.header == one.header
    assert other.nodes == one.nodes
    assert list(other.layers) == list(one.layers)
    for name, layer in one.layers.items():
        twin = other.layers[name]
        assert type(twin) is type(layer)
        if isinstance(layer, Encoder | SpikingLayer):
            assert twin.grid == layer.grid
        if isinstance(layer, SpikingLayer):
            assert torch.equal(twin.neuron.thresholds, layer.neuron.thresholds)
            assert (twin.reaches, twin.largest) == (layer.reaches, layer.largest)
        for branch, own in zip(branches(layer), branches(twin), strict=True):
            assert type(own.synapse) is type(branch.synapse)
            assert own.synapse.settings == branch.synapse.settings
            assert own.synapse.weight.dtype == branch.synapse.weight.dtype
            assert torch.equal(own.synapse.weight, branch.synapse.weight)
            assert torch.equal(own.scale, branch.scale)
            assert torch.equal(own.offset, branch.offset)
    (logits, sent), (own_logits, own_sent) = wires(one, x), wires(other, x)
    assert torch.equal(logits, own_logits)
    assert list(sent) == list(own_sent)
    assert all(torch.equal(sent[name], own_sent[name]) for name in sent)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "grid", [None, TWTA, Grid(0.1, 2, 1, (float("-inf"), 0.05, float("inf")), (True, False, True))]
)
def test_a_network_comes_back_bit_for_bit(tmp_path: Path, seed: int, grid: Grid | None) -> None:
    network = random_network(seed, grid)
    save(network, tmp_path / "n.safetensors")
    assert_same_network(network, load(tmp_path / "n.safetensors"))


class Everything(nn.Module):
    """Clipped multi-stage encoder, padding, groups, dilation, pools, residual sum, reused quantizer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Hardtanh(-1, 2), nn.Conv2d(4, 4, 1), nn.ReLU())
        self.act = KBQuantizer(1, 2)
        self.pad, self.conv = nn.ZeroPad2d((0, 1, 2, 1)), ternary(nn.Conv2d(4, 4, 3, dilation=(2, 1), groups=2))
        self.norm, self.last = any_gamma(nn.BatchNorm2d(4), 2), KBQuantizer(0, 3)
        self.pool, self.top, self.out = nn.AvgPool2d(2, 1, 1), nn.MaxPool2d(3, 2, 1), nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        y = self.act(self.norm(self.conv(self.pad(x))))
        return self.out(self.top(self.pool(self.last(y + y))).flatten(1))


def everything(about: dict[str, Any] | None = None) -> SpikingNetwork:
    torch.manual_seed(1)
    return convert(settled(Everything(), X), X[:1], Preprocessing(crop=7, standardise=True), about)


def test_every_kind_of_layer_comes_back(tmp_path: Path) -> None:
    network = everything({"recipe": {"name": "x", "epochs": 3}, "note": 'é\n"quoted"', "none": None, "list": [1, 2.5]})
    save(network, tmp_path / "n")
    assert_same_network(network, load(tmp_path / "n"))
    assert {type(layer).__name__ for layer in network.layers.values()} == {
        "Encoder", "SpikingConv2d", "SpikingSum", "SumPool2d", "MaxPool2d", "Flatten", "Readout"
    }  # fmt: skip


def test_no_preprocessing_comes_back_as_none(tmp_path: Path) -> None:
    network = random_network(0)
    network.header = type(network.header)(network.header.shape)
    save(network, tmp_path / "n")
    assert load(tmp_path / "n").header == network.header


def test_a_second_generation_is_the_same_file(tmp_path: Path) -> None:
    save(random_network(2), tmp_path / "a")
    save(load(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_float_layer_used_twice_can_be_saved(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = KBQuantizer(0, 1), KBQuantizer(0, 2), nn.Linear(112, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x.flatten(1))
            return self.out(x) + self.out(self.b(x))

    network = convert(Twice().eval(), X[:1])
    save(network, tmp_path / "n")
    assert_same_network(network, load(tmp_path / "n"))


def test_a_ternary_weight_takes_two_bits() -> None:
    # 10 codes in 3 bytes: 0, 1, -1, -1 is 00 01 11 11 from the lowest bits, 0b11110100
    codes = torch.tensor([0, 1, -1, -1, 1, 1, 1, 1, -1, 0], dtype=torch.int8)
    assert pack_ternary(codes).tolist() == [0b11110100, 0b01010101, 0b00000011]


@settings(max_examples=60)
@given(st.lists(st.integers(-1, 1), min_size=0, max_size=40))
def test_packing_comes_back(codes: list[int]) -> None:
    weight = torch.tensor(codes, dtype=torch.int8)
    packed = pack_ternary(weight)
    assert packed.shape == (-(-len(codes) // 4),)
    back = unpack_ternary(packed, tuple(weight.shape))
    assert back.dtype == torch.int8
    assert torch.equal(back, weight)


@pytest.mark.parametrize(
    ("packed", "shape"),
    [
        (torch.tensor([0b10], dtype=torch.uint8), (1,)),  # the pattern that means nothing
        (torch.tensor([0b0100], dtype=torch.uint8), (1,)),  # a code behind the last
        (torch.tensor([0, 0], dtype=torch.uint8), (4,)),  # too many bytes
        (torch.tensor([0], dtype=torch.uint8), (5,)),  # too few
        (torch.tensor([0], dtype=torch.int8), (4,)),
        (torch.tensor([[0]], dtype=torch.uint8), (4,)),
    ],
)
def test_bytes_that_hold_no_ternary_weight_are_refused(packed: Tensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(FormatError):
        unpack_ternary(packed, shape)


def test_weights_beyond_ternary_are_kept_in_a_byte(tmp_path: Path) -> None:
    network = random_network(0)
    name = next(name for name, layer in network.layers.items() if isinstance(layer, SpikingLayer))
    layer = network.layers[name]
    weight = layer.branches[0].synapse.weight
    weight.flatten()[:3] = torch.tensor([-7, 100, 5], dtype=torch.int8)
    changed = type(layer)(layer.branches, layer.grid, layer.largest)
    network.layers[name] = changed
    save(network, tmp_path / "n")
    assert_same_network(network, load(tmp_path / "n"))


# ------------------------------------------------------------------------------------- refusals


def refused(path: Path, match: str | None = None) -> str:
    with pytest.raises(FormatError, match=match) as error:
        load(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message, "a message is one sentence"
    return message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    save(everything(), path)
    return path


def rewrite(path: Path, change: Change, text: str | None = None) -> None:
    """Change a file's header and tensors, or put another text in the header's place."""
    with safe_open(path, "pt") as opened:
        header = json.loads(opened.metadata()["snnconv"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, path, {"snnconv": json.dumps(header) if text is None else text})


def nothing(header: Header, tensors: Tensors) -> None:
    pass


def test_rewriting_unchanged_loads(file: Path) -> None:
    rewrite(file, nothing)
    load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "is not there")
    refused(tmp_path, "is not there")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    refused(file)


@pytest.mark.parametrize("content", [b"PK\x03\x04" + b"\0" * 100, b"\xff" * 64, b"{}", b"\x80\x04K\x01."])
def test_foreign_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    refused(path)


def test_appended_bytes_are_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")
    refused(file)


def test_somebody_else_s_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "a")
    refused(tmp_path / "a", "not a converted network of snnconv")
    save_file({"weight": torch.zeros(3)}, tmp_path / "b", {"format": "pt"})
    refused(tmp_path / "b", "not a converted network of snnconv")


@pytest.mark.parametrize("name", ["nir", "", "snnconv"])
def test_a_header_of_another_format_is_refused(file: Path, name: str) -> None:
    rewrite(file, lambda h, t: h.update(format=name))
    refused(file, "not a converted network of snnconv")


@pytest.mark.parametrize("version", [0, 2, -1, 10**9])
def test_another_version_is_refused_with_both_numbers(file: Path, version: int) -> None:
    rewrite(file, lambda h, t: h.update(version=version))
    assert "this release reads version 1" in refused(file, f"version {version}")


def test_another_version_is_refused_as_such_whatever_else_has_changed(file: Path) -> None:
    rewrite(file, lambda h, t: h.update(version=2, layers="elsewhere", more=[1]))
    refused(file, "version 2")


HEADER = '"format": "snnconv-network", "version": 1'


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", f"{{{HEADER}}}", f'{{{HEADER}, "input_shape": [1], "layers": [], "more": 1}}',
     '{"format": "snnconv-network", "version": "1"}', f'{{{HEADER}, "input_shape": "x", "layers": []}}'],
)  # fmt: skip
def test_a_damaged_header_is_refused(file: Path, text: str) -> None:
    rewrite(file, nothing, text)
    refused(file)


def layer(header: Header, kind: str, number: int = 0) -> Header:
    return [entry for entry in header["layers"] if entry["kind"] == kind][number]


def key(tensors: Tensors, part: str) -> str:
    return next(name for name in sorted(tensors) if name.endswith(part))


def test_every_missing_tensor_is_refused_by_name(file: Path) -> None:
    whole = file.read_bytes()
    with safe_open(file, "pt") as opened:
        names = list(opened.keys())
    for name in names:
        file.write_bytes(whole)
        rewrite(file, lambda h, t, name=name: t.pop(name))
        refused(file, f"tensor {name} is missing")


def test_an_extra_tensor_is_refused_by_name(file: Path) -> None:
    rewrite(file, lambda h, t: t.update(more=torch.zeros(1)))
    refused(file, "tensor more belongs to no layer")


def _set(path: str, value: Any, kind: str, number: int = 0) -> Change:
    """Change of one entry of a layer, by dotted path."""

    def change(header: Header, tensors: Tensors) -> None:
        target: Any = layer(header, kind, number)
        *outer, last = path.split(".")
        for step in outer:
            target = target[int(step)] if step.isdigit() else target[step]
        assert target[last] != value
        target[last] = value

    return change


def _float_weight(header: Header, tensors: Tensors) -> None:
    """Float weights in a hidden layer, consistent in themselves."""
    entry = layer(header, "spiking")
    entry["branches"][0]["weight"] = "float"
    tensors[entry["name"] + ".0.weight"] = torch.ones(entry["branches"][0]["weight_shape"])


def _rename(name: str) -> Change:
    """Another name for the flatten layer and its wire."""

    def change(header: Header, tensors: Tensors) -> None:
        layer(header, "flatten")["name"] = name
        layer(header, "readout")["inputs"] = [name]

    return change


CHANGES: dict[str, Change] = {
    "kind": _set("kind", "lif", "spiking"),
    "spiking as readout": _set("kind", "readout", "spiking"),
    "encoder as spiking": _set("kind", "spiking", "encoder"),
    "pool as flatten": _set("kind", "flatten", "max-pool"),
    "no wire": _set("inputs", [], "spiking"),
    "no wire into a pool": _set("inputs", [], "sum-pool"),
    "unknown wire": _set("inputs", ["nowhere"], "spiking"),
    "later wire": _set("inputs", ["readout"], "spiking"),
    "wire from itself": lambda h, t: layer(h, "spiking").update(inputs=[layer(h, "spiking")["name"]]),
    "analog input into a spiking layer": _set("inputs", ["input"], "spiking"),
    "too many wires": lambda h, t: layer(h, "spiking").update(inputs=layer(h, "spiking")["inputs"] * 2),
    "two wires into a pool": lambda h, t: layer(h, "sum-pool").update(inputs=layer(h, "sum-pool")["inputs"] * 2),
    "two wires into the encoder": _set("inputs", ["input", "input"], "encoder"),
    "name of a method": _rename("keys"),
    "name with a dot": _rename("a.b"),
    "empty name": _rename(""),
    "name of the input": _rename("input"),
    "layer twice": lambda h, t: h["layers"].insert(1, copy.deepcopy(h["layers"][0])),
    "no layers": lambda h, t: (h.update(layers=[]), t.clear()),
    "no readout": lambda h, t: (h["layers"].pop(), [t.pop(k) for k in list(t) if k.startswith("readout")]),
    "shape": _set("shape", [4, 1, 1], "spiking"),
    "shape of the readout": _set("shape", [99], "readout"),
    "input shape": lambda h, t: h.update(input_shape=[2, 9, 9]),
    "input without channels": lambda h, t: h.update(input_shape=[]),
    "negative input shape": lambda h, t: h.update(input_shape=[2, -7, 8]),
    "no grid": _set("grid", None, "spiking"),
    "encoder without grid": _set("grid", None, "encoder"),
    "grid step": _set("grid.step", 0.0, "spiking"),
    "grid levels": _set("grid.positive", 9, "spiking"),
    "grid boundaries": _set("grid.boundaries", [3.0, 2.0, 1.0, 0.0], "spiking"),
    "grid boundary as another word": _set("grid.boundaries", ["nan", 2.0, 3.0, 4.0], "spiking"),
    "synapse": _set("branches.0.synapse", "linear", "spiking"),
    "unknown synapse": _set("branches.0.synapse", "lstm", "spiking"),
    "packing": _set("branches.0.weight", "int8", "spiking"),
    "float hidden weight": _float_weight,
    "weight shape": _set("branches.0.weight_shape", [4, 3, 2, 2], "spiking"),
    "weight shape of the same size": _set("branches.0.weight_shape", [4, 2, 9, 1], "spiking"),
    "negative weight shape": _set("branches.0.weight_shape", [-4, -2, 3, 3], "spiking"),
    "stride of zero": _set("branches.0.settings.stride", [0, 0], "spiking"),
    "stride of three numbers": _set("branches.0.settings.stride", [1, 1, 1], "spiking"),
    "stride as text": _set("branches.0.settings.stride", "ab", "spiking"),
    "padding of two numbers": _set("branches.0.settings.padding", [0, 0], "spiking"),
    "padding as text": _set("branches.0.settings.padding", "same", "spiking"),
    "negative padding": _set("branches.0.settings.padding", [-9, -9, -9, -9], "spiking"),
    "no groups": _set("branches.0.settings.groups", 0, "spiking"),
    "negative groups": _set("branches.0.settings.groups", -2, "spiking"),
    "half a group": _set("branches.0.settings.groups", 1.5, "spiking"),
    "channels out of range": _set("branches.0.settings.channels", [0, 1, 2, 9], "spiking"),
    "channels as a number": _set("branches.0.settings.channels", 3, "spiking"),
    "unknown setting": lambda h, t: layer(h, "spiking")["branches"][0]["settings"].update(bias=True),
    "setting of another synapse": lambda h, t: layer(h, "readout")["branches"][0]["settings"].update(groups=1),
    "pool without kernel": lambda h, t: layer(h, "sum-pool")["pool"].pop("kernel"),
    "pool with more": lambda h, t: layer(h, "sum-pool")["pool"].update(ceil_mode=[1]),
    "pool kernel": _set("pool.kernel", [3, 3], "sum-pool"),
    "pool kernel of one number": _set("pool.kernel", [2], "sum-pool"),
    "pool kernel of zero": _set("pool.kernel", [0, 0], "max-pool"),
    "stage bound": lambda h, t: layer(h, "encoder")["stages"][1].update(low="minus"),
    "scale in float32": lambda h, t: t.update({key(t, ".scale"): t[key(t, ".scale")].float()}),
    "scale of another length": lambda h, t: t.update({key(t, ".scale"): torch.ones(99, dtype=torch.float64)}),
    "offset that is not finite": lambda h, t: t[layer(h, "spiking")["name"] + ".0.offset"].fill_(float("nan")),
    "encoder scale that is not finite": lambda h, t: t[layer(h, "encoder")["name"] + ".0.scale"].fill_(float("nan")),
    "readout scale that is not finite": lambda h, t: t[layer(h, "readout")["name"] + ".0.scale"].fill_(float("inf")),
    "weights in half precision": lambda h, t: t.update({"readout.0.weight": t["readout.0.weight"].half()}),
    "preprocessing": lambda h, t: h["preprocessing"].update(divisor=0.0),
    "preprocessing that is unknown": lambda h, t: h["preprocessing"].update(gamma=2.0),
    "about that is no table": lambda h, t: h.update(about=[1]),
    "reach beyond 53 bits": _set("pool.kernel", [2**30, 2**30], "sum-pool"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_an_inconsistent_file_is_refused_in_one_sentence(file: Path, name: str) -> None:
    rewrite(file, CHANGES[name])
    refused(file)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(2)}, path)
    refused(path)


# ------------------------------------------------------------------------------------- writing


def test_an_interrupted_write_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "network.safetensors"
    save(random_network(0), path)
    before = path.read_bytes()

    def interrupted(target: Path, content: bytes) -> None:
        with target.open("wb") as half:
            half.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(random_network(1), path)
    with pytest.raises(KeyboardInterrupt):
        save(random_network(1), tmp_path / "new")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_write_leaves_no_file_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "whole.json"
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from snnconv.runs import write_whole\n"
        "def write(target):\n"
        "    target.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_whole(Path(sys.argv[1]), write)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    assert not path.exists()
    assert all(other.name.startswith(".") for other in tmp_path.iterdir())  # a hidden part at most


def test_a_full_disk_is_a_run_error_in_one_sentence(tmp_path: Path) -> None:
    network, path = everything(), tmp_path / "network.safetensors"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(RunError) as error:
            save(network, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_folder_that_cannot_be_made_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(RunError, match="cannot write"):
        save(random_network(0), tmp_path / "a" / "n")


def test_a_folder_in_the_file_s_place_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "n").mkdir()
    with pytest.raises(RunError, match="cannot write"):
        save(random_network(0), tmp_path / "n")
    assert list(tmp_path.iterdir()) == [tmp_path / "n"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    save(random_network(0), tmp_path / "a" / "b" / "n")
    load(tmp_path / "a" / "b" / "n")


def test_float_weights_keep_their_precision(tmp_path: Path) -> None:
    network = random_network(0)
    readout = list(network.layers.values())[-1]
    synapse = LinearSynapse(torch.rand(4, 6, dtype=torch.float64) / 3)
    network.layers["readout"] = Readout([Branch(synapse, torch.rand(4).double(), readout.branches[0].offset)])
    save(network, tmp_path / "n")
    assert_same_network(network, load(tmp_path / "n"))
    assert load(tmp_path / "n").header.preprocessing == PIXELS


def test_a_code_of_minus_128_is_not_taken_for_a_ternary_one(tmp_path: Path) -> None:
    network = random_network(0)
    weight = network.layers["act1"].branches[0].synapse.weight
    weight[0, 0, 0, 0] = -128  # whose magnitude 8 bits do not hold
    save(network, tmp_path / "net.safetensors")
    assert torch.equal(load(tmp_path / "net.safetensors").layers["act1"].branches[0].synapse.weight, weight)

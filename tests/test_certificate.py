"""Certificates: proven widths against brute force, limits of cores, and no changed byte or entry that passes."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from own_networks import NETWORKS, SHAPE, awake
from reference import conv_connections
from samples import PIXELS, TWTA, GridQuantizer, random_network, ternary, wires
from test_cli import sentence, snnconv
from torch import Tensor, nn

from snnconv import certification
from snnconv.ann.layers import Shortcut
from snnconv.ann.quantizers import KBQuantizer
from snnconv.certification import check, require
from snnconv.conversion.convert import convert
from snnconv.conversion.splitting import split_signs
from snnconv.data.images import Images
from snnconv.errors import CertificateError, ConfigError, DataError, FormatError, ParityError, SnnconvError
from snnconv.formats.arrays import write_arrays
from snnconv.formats.certificate import SECTIONS, read_certificate, seal, write_certificate
from snnconv.formats.native import load, save
from snnconv.pipeline import Sample
from snnconv.runs import file_hash, open_run
from snnconv.snn.footprint import Core, Footprint, Range, fan_ins, fan_outs, fit, footprints, sum_range
from snnconv.snn.layers import Encoder, SpikingLayer
from snnconv.snn.synapses import LinearSynapse

# widths


@given(st.integers(-300, 300), st.integers(0, 300))
def test_a_range_has_the_fewest_bits_that_hold_it(low: int, size: int) -> None:
    own = Range(low, low + size)

    def holds(bits: int) -> bool:
        first, last = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if low < 0 else (0, 2**bits - 1)
        return first <= own.low and own.high <= last

    assert holds(own.bits) and (own.bits == 1 or not holds(own.bits - 1))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_partial_sum_in_any_order_leaves_the_range_and_some_counts_reach_each_end(data: st.DataObject) -> None:
    low, high = data.draw(st.sampled_from([(0, 2), (-1, 1), (-2, 1)]))
    weight = data.draw(st.lists(st.integers(-3, 3), min_size=1, max_size=4))
    least, most = (int(end) for end in sum_range(LinearSynapse(torch.tensor([weight], dtype=torch.int8)), low, high))
    found = set()
    for counts in itertools.product(range(low, high + 1), repeat=len(weight)):
        for order in itertools.permutations(range(len(weight))):
            total = 0
            for place in order:
                total += weight[place] * counts[place]
                found.add(total)
    assert (min(found | {0}), max(found | {0})) == (least, most)


def test_of_two_lines_one_carries_a_count() -> None:
    weight = torch.tensor([[2, 1, -2, 3]], dtype=torch.int8)  # two units, positive then negative line
    assert [int(end) for end in sum_range(LinearSynapse(weight, lines=2), 0, 1)] == [-2, 2 + 3]
    reached = {
        2 * a + b - 2 * c + 3 * d for a, b, c, d in itertools.product((0, 1), repeat=4) if not ((a and c) or (b and d))
    }
    assert (min(reached), max(reached)) == (-2, 5)


class Small(nn.Module):
    """Four units in front of a pool, a shortcut and a residual sum: every combination of their counts can be tried."""

    def __init__(self, quantizer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem, self.act0 = nn.Conv2d(1, 2, 2, 2), quantizer()
        self.conv, self.act1 = ternary(nn.Conv2d(2, 3, 1, 2)), quantizer()
        self.shortcut, self.pool = Shortcut(3, 2), nn.AvgPool2d((1, 2))
        self.mixed, self.act2 = ternary(nn.Linear(2, 3)), quantizer()
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act0(self.stem(x))
        y = self.act1(self.conv(x) + self.shortcut(x)).flatten(1)
        return self.fc(torch.cat([self.act2(self.mixed(self.pool(x).flatten(1))), y], 1))


@pytest.mark.parametrize("kind", ["k/B", "signed", "split"])
def test_potentials_of_all_counts_lie_within_the_proven_range_and_fill_it(kind: str) -> None:
    torch.manual_seed(1)
    model = Small(lambda: KBQuantizer(0, 2) if kind == "k/B" else GridQuantizer(TWTA)).eval()
    network = convert(model, torch.zeros(1, 1, 2, 4), PIXELS)
    signed = network
    if kind == "split":
        network = split_signs(network)
    (encoder,) = signed.encoders
    low, high = signed.count_range(encoder)
    shape = signed.nodes[encoder].shape
    every = torch.tensor(list(itertools.product(range(low, high + 1), repeat=4)), dtype=torch.int8).reshape(-1, *shape)
    sent: dict[str, Tensor] = {}

    def put(name: str, counts: Tensor, step: int) -> Tensor:
        if name == encoder and kind != "split":
            counts = every
        elif name == f"{encoder}_plus":
            counts = every.clamp(min=0)
        elif name == f"{encoder}_minus":
            counts = (-every).clamp(min=0)
        sent[name] = counts
        return counts

    network(torch.zeros(len(every), 1, 2, 4), [put])
    rows = {row.name: row for row in footprints(network)}
    tight = 0
    for name, layer in network.layers.items():
        if isinstance(layer, SpikingLayer):
            Z = layer.potential(*(sent[wire] for wire in network.nodes[name].inputs))
            own = rows[name].potential
            assert own is not None and own.low <= int(Z.min()) and int(Z.max()) <= own.high, name
            tight += (own.low, own.high) == (int(Z.min()), int(Z.max()))
            threshold = rows[name].threshold
            assert threshold == Range(int(layer.neuron.thresholds.min()), int(layer.neuron.thresholds.max()))
            assert rows[name].weight == Range(-1, 1)
    assert tight >= 1  # where each unit is read once


@pytest.mark.parametrize("seed", range(6))
def test_fan_in_and_fan_out_are_those_of_a_loop_over_all_connections(seed: int) -> None:
    network = random_network(seed)
    rows = {row.name: row for row in footprints(network)}
    for zeros in (True, False):
        into: dict[str, dict[Any, int]] = {}
        out: dict[str, dict[Any, int]] = {}
        for name, layer in network.layers.items():
            if not isinstance(layer, SpikingLayer):
                continue
            (wire,) = network.nodes[name].inputs
            if not isinstance(network.layers[wire], Encoder | SpikingLayer) or len(network.nodes[name].shape) == 1:
                continue
            synapse = layer.branches[0].synapse
            geometry = (synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
            weight = synapse.weight.numpy()
            for target, source, value in conv_connections(network.wire_shape(wire), weight, *geometry):
                if zeros or value:
                    into.setdefault(name, {})[target] = into.get(name, {}).get(target, 0) + 1
                    out.setdefault(wire, {})[source] = out.get(wire, {}).get(source, 0) + 1
        assert into
        for name, counted in into.items():
            assert max(counted.values()) == fan_ins(network, zeros)[name]
            assert (rows[name].fan_in if zeros else rows[name].fan_in_nonzero) == max(counted.values())
        for wire, counted in out.items():
            assert max(counted.values()) == int(fan_outs(network, zeros)[wire].max())


def test_connections_through_pools_and_shortcuts_are_counted_by_hand() -> None:
    torch.manual_seed(0)
    network = convert(Small(lambda: KBQuantizer(0, 2)).eval(), torch.zeros(1, 1, 2, 4), PIXELS)
    encoder, conv, mixed = (row for row in footprints(network) if row.kind != "readout")
    assert (encoder.units, encoder.fan_in) == (4, 4)  # 2 channels of 1x2; a kernel of 2x2
    assert conv.fan_in == 2 + 1  # both channels by 1x1, and the shortcut's one
    assert mixed.fan_in == 2 * 2  # two channels, each a window of two units
    # the left unit of a channel: 3 outputs of the convolution, 1 of the shortcut, 3 of the pooled layer
    assert fan_outs(network, True)[encoder.name].tolist() == [[[3 + 1 + 3, 3]], [[3 + 1 + 3, 3]]]
    assert encoder.fan_out == 7
    assert footprints(network)[-1].fan_in == 3 + 3 and conv.fan_out == 2  # two classes


@pytest.mark.parametrize("pool", [(2, 2, 0, 1), (3, 2, 1, 1), (2, 1, 0, 2)], ids=["apart", "overlapping", "dilated"])
@pytest.mark.parametrize("zeros", [True, False])
def test_a_unit_in_front_of_a_max_pool_reaches_what_each_of_its_windows_reaches(
    pool: tuple[int, int, int, int], zeros: bool
) -> None:
    torch.manual_seed(2)
    kernel, stride, padding, dilation = pool
    behind = ternary(nn.Conv2d(2, 3, 3, padding=1))
    layers = [nn.Conv2d(1, 2, 1), KBQuantizer(0, 2), nn.MaxPool2d(kernel, stride, padding, dilation), behind]
    model = nn.Sequential(*layers, KBQuantizer(0, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    network = convert(model, torch.zeros(1, 1, 7, 6), PIXELS)
    (encoder,) = network.encoders
    (conv,) = (layer for layer in network.layers.values() if isinstance(layer, SpikingLayer))
    (pooled,) = (network.nodes[name].inputs[0] for name, layer in network.layers.items() if layer is conv)
    reached: dict[Any, int] = {}
    weight = conv.branches[0].synapse.weight.numpy()
    for _, source, value in conv_connections(network.wire_shape(pooled), weight, (1, 1), (1, 1, 1, 1), (1, 1), 1):
        reached[source] = reached.get(source, 0) + int(zeros or value != 0)
    expected = torch.zeros(2, 7, 6, dtype=torch.int64)
    window = np.ones((2, 1, kernel, kernel))
    geometry = ((stride, stride), (padding,) * 4, (dilation, dilation), 2)
    for place, unit, _ in conv_connections((2, 7, 6), window, *geometry):
        expected[unit] += reached.get(place, 0)
    assert torch.equal(fan_outs(network, zeros)[encoder], expected)
    row = footprints(network)[0]
    assert (row.fan_out if zeros else row.fan_out_nonzero) == int(expected.max()) > 1
    if zeros and stride == kernel:
        assert row.fan_out == 3 * 3 * 3  # by hand: one window, behind which are three channels by a 3x3 kernel


@pytest.mark.parametrize("name", ["residual", "dense", "unet", "sequence", "squeeze"])
def test_counts_of_images_stay_within_what_is_proven_of_networks_with_float_weights(name: str) -> None:
    network = convert(awake(NETWORKS[name]()), torch.zeros(1, *SHAPE), PIXELS)
    _, sent = wires(network, torch.rand(4, *SHAPE))
    rows = {row.name: row for row in footprints(network)}
    for own, layer in network.layers.items():
        if isinstance(layer, SpikingLayer):
            Z, potential = layer.potential(*(sent[wire] for wire in network.nodes[own].inputs)), rows[own].potential
            assert potential is not None and potential.low <= int(Z.min()) and int(Z.max()) <= potential.high
            assert rows[own].bound == float(layer.error.max())


# cores


def layer(**facts: Any) -> Footprint:
    usual = {"kind": "spiking", "units": 10, "levels": 4, "weights": 1, "nonzero": 1, "fan_in": 8, "fan_in_nonzero": 5}
    return Footprint(**({"name": "one", "fan_out": 9, "fan_out_nonzero": 2} | usual | facts))


@pytest.mark.parametrize(
    ("limit", "need"),
    [("fan_in", 8), ("fan_out", 9), ("weight_bits", 2), ("potential_bits", 5), ("threshold_bits", 3)],
)
def test_a_limit_is_kept_up_to_its_value(limit: str, need: int) -> None:
    own = layer(weight=Range(-1, 1), potential=Range(-9, 9), threshold=Range(0, 7))
    assert fit([own], Core(**{limit: need})).exceeded == {}
    assert fit([own], Core(**{limit: need - 1})).exceeded == {"one": [f"{limit} {need} exceeds {need - 1}"]}


def test_neurons_fill_cores_and_float_layers_stay_outside() -> None:
    rows = [layer(name="enc", kind="encoder", fan_in=999), layer(), layer(name="two", units=11)]
    found = fit(rows, Core(fan_in=8, neurons=20)).to_dict()
    assert found["fits"] and found["cores"] == {"one": 2, "two": 3} and found["total_cores"] == 5  # 40 and 44 neurons


@pytest.mark.parametrize("text", ["", "fan_in", "fan_in=", "fan_in=-1", "fan_in=1.5", "fan_in=0", "a=1", "neurons=1,,"])
def test_limits_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="core limit"):
        Core.parse(text)
    assert Core.parse(" fan_in = 256 , neurons=1024") == Core(fan_in=256, neurons=1024)


# certificates


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and its certificate on 20 images."""
    folder = tmp_path_factory.mktemp("certified")
    common = ("--images", "20", "--core", "fan_in=256,neurons=1024,weight_bits=2", "--quiet")
    result = snnconv("export", "--certificate", "chip", *common, cwd=folder)
    assert result.exit_code == 0, result.output
    assert "wrote chip.json and, beside it, chip" in result.stdout and "PROVEN: 0 of " in result.stdout
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(made, tmp_path / "work")


def test_a_certificate_says_what_the_network_is(made: Path) -> None:
    sections = read_certificate(made / "chip.json")
    assert list(sections) == list(SECTIONS)
    assert {file.name for file in (made / "chip").iterdir()} == {entry["file"] for entry in sections["files"].values()}
    for entry in sections["files"].values():
        file = made / "chip" / entry["file"]
        assert (file_hash(file), file.stat().st_size) == (entry["sha256"], entry["bytes"])
    assert (sections["data"]["dataset"], sections["data"]["images"]) == ("digits", 20)
    parity, hardware, activity = (sections[key] for key in ("parity", "hardware", "activity"))
    assert parity["mismatches"] == 0 and parity["units"] == 20 * 26_880 and parity["logits_equal"] == 20
    conv2 = hardware["layers"][1]
    assert (conv2["name"], conv2["units"], conv2["levels"]) == ("conv2_act", 16 * 24 * 24, 4)
    assert (conv2["neurons"], conv2["weights"], conv2["fan_in"]) == (4 * 16 * 24 * 24, 16 * 16 * 25, 16 * 25)
    assert conv2["fan_out"] == 16  # of one position each, the 2x2 kernels of stride 2 behind it
    assert conv2["weight"] == {"low": -1, "high": 1, "bits": 2, "signed": True}
    network = load(made / "chip" / "network.safetensors")
    assert conv2["threshold"]["high"] == int(network.layers["conv2_act"].neuron.thresholds.max())
    assert set(hardware["core"]["exceeded"]) == {"conv2_act", "conv4_act", "conv6_act"}
    assert hardware["core"]["exceeded"]["conv2_act"] == ["fan_in 400 exceeds 256"]
    assert hardware["core"]["cores"]["conv3_act"] == 4 * 16 * 12 * 12 // 1024
    assert activity["spikes_per_image"] == sum(row["spikes"] for row in activity["layers"]) / 20
    hidden = {row["name"] for row in hardware["layers"] if row["kind"] == "spiking"}
    total = sum(row["sops"]["synops"] for row in activity["layers"] if row["name"] in hidden)
    assert activity["sops_per_image"]["synops"] == total / 20


def test_the_activity_is_what_simulate_counts(made: Path) -> None:
    result = snnconv("simulate", "--images", "20", "--json", "--quiet", "--run", "chip", "--runs-dir", ".", cwd=made)
    values, activity = json.loads(result.stdout), read_certificate(made / "chip.json")["activity"]
    shutil.rmtree(made / "figs")
    shutil.rmtree(made / "chip" / "results")
    for key in ("correct", "steps", "spikes_per_image", "sops_per_image"):
        assert values[key] == activity[key], key


@pytest.mark.parametrize(
    "options", [(), ("--batch-size", "7"), ("--engine", "reference"), ("--engine", "dense")], ids=" ".join
)
def test_a_certificate_holds_elsewhere(folder: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    moved = tmp_path / "another place"
    moved.mkdir()
    for name in ("chip", "chip.json"):
        shutil.move(folder / name, moved / name)
    result = snnconv("verify", "--certificate", "chip.json", "--quiet", *options, cwd=moved)
    assert result.exit_code == 0 and "HOLDS: everything in chip.json was computed anew" in result.stdout, result.output
    assert sorted(file.name for file in moved.iterdir()) == ["chip", "chip.json"]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_certificate_holds_with_other_numbers_of_threads(made: Path, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        checked = check(made / "chip.json", batch_size=16, quiet=True)
        assert checked.differences == [] and checked.threads == [1, max(2, threads)]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_the_run_must_be_the_certified_one(folder: Path) -> None:
    same = snnconv("verify", "--certificate", "chip", "--run", "lenet-digits-k1B2", "--quiet", cwd=folder)
    assert same.exit_code == 0, same.output
    ann = folder / "runs/lenet-digits-k1B2/ann.safetensors"
    ann.write_bytes(ann.read_bytes()[:-1] + b"\0")
    result = snnconv("verify", "--certificate", "chip", "--run", "lenet-digits-k1B2", "--quiet", cwd=folder)
    assert "is not the ANN that was certified" in sentence(result)


FILES = ("chip.json", *(f"chip/{name}" for name in certification.FILES.values()))


@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("file", FILES)
def test_a_changed_byte_anywhere_makes_it_fail(folder: Path, file: str, place: float) -> None:
    path = folder / file
    contents = bytearray(path.read_bytes())
    contents[int(place * len(contents))] ^= 1
    path.write_bytes(contents)
    result = snnconv("verify", "--certificate", "chip.json", "--quiet", cwd=folder)
    assert Path(file).name in sentence(result) and "HOLDS" not in result.stdout


def test_no_byte_of_a_certificate_can_be_changed_added_or_left_out(folder: Path) -> None:
    path = folder / "chip.json"
    contents = path.read_bytes()
    spoilt = [contents + b"\n", contents[:-1], b" " + contents, contents.replace(b'": ', b'":', 1)]
    for place in range(0, len(contents), 97):
        spoilt += [contents[:place] + bytes([contents[place] ^ 4]) + contents[place + 1 :]]
        spoilt += [contents[:place] + contents[place + 1 :], contents[:place] + b"0" + contents[place:]]
    for changed in spoilt:
        path.write_bytes(changed)
        with pytest.raises((CertificateError, FormatError)):
            read_certificate(path)


@pytest.mark.parametrize("file", FILES[1:])
def test_a_missing_file_makes_it_fail(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert f"{file}" in sentence(snnconv("verify", "--certificate", "chip", "--quiet", cwd=folder))


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all entries that hold no others."""
    if isinstance(value, dict | list) and value:
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(entry, (*place, key))
    else:
        yield place


def other(value: Any) -> Any:
    """A value of the same type that is another one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return value + "x" if isinstance(value, str) else [0] if value is not None else 0


def reforged(path: Path, sections: dict[str, Any], place: tuple[Any, ...], change: Callable[[Any, Any], None]) -> None:
    """Write a certificate with one entry changed and all seals made anew."""
    spoilt = json.loads(json.dumps(sections))
    holder = spoilt
    for key in place[:-1]:
        holder = holder[key]
    change(holder, place[-1])
    write_certificate(path, spoilt)


def test_no_entry_can_be_changed_even_with_seals_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "chip.json"
    sections = read_certificate(path)
    measured = {key: sections[key] for key in ("parity", "hardware", "activity")}

    def measure(*_: Any) -> dict[str, Any]:
        return measured  # once is enough: the rest of a check is what is looked at here

    converted = certification._different_files(folder / "chip", load(folder / "chip/network.safetensors"))
    assert list(converted) == []
    network, read = load(folder / "chip/network.safetensors"), certification.test_sample
    sample = read(open_run(folder / "chip"), "digits", None, 20)

    def again(run: Any, name: str, data_dir: Any, number: int, workers: Any) -> Sample:
        return sample if (name, number) == ("digits", 20) else read(run, name, data_dir, number, workers)

    monkeypatch.setattr(certification, "_different_files", lambda *_: [])
    monkeypatch.setattr(certification, "_measure", measure)
    monkeypatch.setattr(certification, "load", lambda _: network)
    monkeypatch.setattr(certification, "test_sample", again)
    assert check(path, quiet=True).differences == []
    tried = 0
    for place in leaves(sections):
        if place[:2] == ("about", "record") or place[:3] == ("hardware", "core", "limits"):
            continue  # how it came about, and what was asked
        if "layers" in place and place[place.index("layers") + 1] != 2:
            continue  # one layer stands for all
        for change in (
            lambda holder, key: holder.__setitem__(key, other(holder[key])),
            lambda holder, key: holder.pop(key),
        ):
            reforged(path, sections, place, change)
            try:
                found = check(path, quiet=True).differences
            except SnnconvError as error:
                found = [str(error)]
            assert found, place
            tried += 1
    assert tried > 150


def test_a_network_that_the_ann_does_not_convert_to_is_found(folder: Path) -> None:
    network = load(folder / "chip/network.safetensors")
    branch = network.layers["conv4_act"].branches[0]
    branch.offset[3] -= branch.scale[3] / 2  # no integer is nearer to a boundary than that, perhaps
    branch.synapse.weight[0, 0, 0, 0] = 1 - branch.synapse.weight[0, 0, 0, 0].abs()
    save(network, folder / "chip/network.safetensors")
    write_arrays(load(folder / "chip/network.safetensors"), folder / "chip/network.npz")
    reseal(folder)
    error = sentence(snnconv("verify", "--certificate", "chip", "--quiet", cwd=folder))
    assert "and what the ANN converts to differ in conv4_act.0.offset" in error


@pytest.mark.parametrize("name", ["network.npz", "network.txt"])
def test_arrays_of_another_network_are_found(folder: Path, name: str) -> None:
    write_arrays(random_network(0), folder / "network.npz")
    shutil.copy(folder / name, folder / "chip" / name)
    reseal(folder)
    words = "differ in" if name.endswith("npz") else "does not describe"
    assert words in sentence(snnconv("verify", "--certificate", "chip", "--quiet", cwd=folder))


def test_a_foreign_file_of_arrays_is_one_sentence(folder: Path) -> None:
    (folder / "chip/network.npz").write_bytes(b"PK not a zip")
    reseal(folder)
    assert "holds no arrays" in sentence(snnconv("verify", "--certificate", "chip", "--quiet", cwd=folder))


def reseal(folder: Path) -> None:
    """Hash the files anew and seal the certificate."""
    from snnconv.formats.certificate import describe_files

    sections = read_certificate(folder / "chip.json")
    sections["files"] = describe_files(folder / "chip", certification.FILES)
    write_certificate(folder / "chip.json", sections)


def test_other_images_are_found(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = certification.test_sample

    def changed(*arguments: Any) -> Sample:
        images = whole(*arguments).images
        pixels = images.pixels.clone()
        pixels[7, 0, 5, 5] ^= 1
        return Sample(Images(images.name, images.split, pixels, images.labels, images.classes))

    monkeypatch.setattr(certification, "test_sample", changed)
    checked = check(made / "chip.json", quiet=True)
    assert len(checked.differences) == 1 and checked.differences[0].startswith("data.sha256 is ")
    with pytest.raises(CertificateError, match=r"certificate .*chip.json does not hold: data.sha256"):
        require(made / "chip.json", checked)


def test_a_data_set_that_is_gone_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Sample:
        raise DataError("mnist is not there")

    monkeypatch.setattr(certification, "test_sample", gone)
    assert "mnist is not there" in sentence(snnconv("verify", "--certificate", "chip", cwd=folder))


def test_what_is_not_proven_gets_no_certificate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unproven(*_: Any) -> Any:
        raise ParityError("layer conv2_act: 3 of 9 units differ")

    monkeypatch.setattr(certification, "_measure", unproven)
    words = "run lenet-digits-k1B2 cannot be certified: layer conv2_act"
    assert words in sentence(snnconv("export", "--certificate", "new", "--images", "5", "--quiet", cwd=folder))
    assert not (folder / "new.json").exists() and not (folder / "new").exists()
    checked = sentence(snnconv("verify", "--certificate", "chip", "--quiet", cwd=folder))
    assert "certificate chip.json does not hold: layer conv2_act" in checked


def test_a_folder_that_is_none_of_a_certificate_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "network.npz").write_text("arrays of another network")
    (folder / "mine" / "thesis.tex").write_text("years of work")
    (folder / "file").write_text("no folder")
    with monkeypatch.context() as patched:
        patched.setattr(certification, "_measure", lambda *_: pytest.fail("proven before the folder was looked at"))
        result = snnconv("export", "--certificate", "mine", "--images", "5", "--quiet", cwd=folder)
        file = snnconv("export", "--certificate", "file", "--images", "5", "--quiet", cwd=folder)
    assert "mine is there already and is no folder of a certificate" in sentence(result)
    assert "cannot write file: Not a directory" in sentence(file)
    assert (folder / "mine" / "thesis.tex").read_text() == "years of work" and not (folder / "mine.json").exists()
    again = snnconv("export", "--certificate", "chip", "--images", "5", "--quiet", cwd=folder)
    assert again.exit_code == 0 and read_certificate(folder / "chip.json")["data"]["images"] == 5
    run = "runs/lenet-digits-k1B2"
    assert f"{run} is there already" in sentence(snnconv("export", "--certificate", run, "--images", "5", cwd=folder))
    assert open_run(folder / run).has("history.json")


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("gone", None, "gone.json cannot be read"),
        ("other.json", "{}", "is no certificate of snnconv"),
        ("other.json", "[1]", "is no certificate of snnconv"),
        ("other.json", "{", "was changed, or is no certificate"),
        ("other.json", '{"format": "snnconv-certificate", "version": 9}', "has certificate version 9"),
        ("other.json", '{"format": "snnconv-certificate", "version": 1}', "does not have the sections"),
    ],
)
def test_what_is_no_certificate_is_one_sentence(tmp_path: Path, name: str, contents: str | None, words: str) -> None:
    if contents is not None:
        (tmp_path / name).write_text(contents)
    assert words in sentence(snnconv("verify", "--certificate", name, cwd=tmp_path))


def test_sections_that_are_no_objects_are_refused(folder: Path) -> None:
    sections = read_certificate(folder / "chip.json")
    for section in SECTIONS:
        write_certificate(folder / "chip.json", sections | {section: [1]})
        with pytest.raises(CertificateError, match=f"section {section}"):
            read_certificate(folder / "chip.json")
    assert seal({"a": 1, "b": 2}) == seal({"b": 2, "a": 1}) != seal({"a": 1, "b": 3})


def test_a_certificate_says_itself_what_it_was_made_on(folder: Path) -> None:
    result = snnconv("verify", "--certificate", "chip", "--images", "3", cwd=folder)
    assert "a certificate says itself" in sentence(result, 2)


def test_a_check_as_json_lists_what_differs(folder: Path) -> None:
    holds = snnconv("verify", "--certificate", "chip", "--json", "--quiet", cwd=folder)
    assert json.loads(holds.stdout) == {"file": "chip", "differences": [], "threads": [1, 2]}
    (folder / "chip/network.txt").write_text("nothing")
    (folder / "chip/config.json").unlink()
    fails = snnconv("verify", "--certificate", "chip", "--json", "--quiet", cwd=folder)
    assert fails.exit_code == 1 and len(json.loads(fails.stdout)["differences"]) == 2
    assert "(and 1 more)" in sentence(fails)

"""The speed benchmark: the contestants compute what they should, the rounds are fair, the command writes it all down."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.contestants import Spiking
from benchmarks.folded import GRAPHS, folded, rectified
from benchmarks.layers import BOUNDS, FLOAT, FloatLayer, calls, macs, random_counts, representative, ways
from benchmarks.matches import check_counts
from benchmarks.ratecoded import MODES, RateCoded
from benchmarks.report import BEGIN, END, markdown, write_markdown
from benchmarks.rounds import alternate, quartiles, ratios
from benchmarks.speed import main
from benchmarks.subjects import load_subject
from snnconv.ann.models.networks import build_network
from snnconv.config import Quantization
from snnconv.conversion.convert import convert
from snnconv.conversion.graph import is_quantizer
from snnconv.engines.layered import Step
from snnconv.errors import ConfigError, DataError, ParityError, RunError
from snnconv.runs import copy_shipped
from snnconv.snn.layers import SpikingLayer

ROOT = Path(__file__).parent.parent
SHAPES = {"lenet": (1, 28, 28), "groupv2-3x3": (3, 24, 24), "resnet20tnn": (3, 32, 32)}


def settled(name: str, quantization: str) -> tuple[nn.Module, torch.Tensor]:
    """A network of the registry whose batch norms are no identities, and images."""
    model = build_network(name, SHAPES[name], 10, Quantization.parse(quantization))
    x = torch.randn(8, *SHAPES[name])
    with torch.no_grad():
        for _ in range(30):
            model(x)
    return model.eval(), x


@pytest.mark.parametrize("name", SHAPES)
def test_folding_changes_no_output_and_leaves_no_batch_norm(name: str) -> None:
    model, x = settled(name, "relu")
    network = folded(model)
    assert not any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()), "the model itself stays as it was"
    with torch.inference_mode():
        wanted = model(x)
        for make in GRAPHS.values():
            assert torch.allclose(make(network, x)(x), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_the_rectified_ann_has_a_relu_for_every_quantizer() -> None:
    model, _ = settled("resnet20tnn", "k1B2")
    quantized = folded(model)
    number = sum(is_quantizer(module) for module in quantized.modules())
    network = rectified(quantized)
    assert number == 19
    assert sum(isinstance(module, nn.ReLU) for module in network.modules()) == number
    assert not any(is_quantizer(module) for module in network.modules())


@pytest.mark.parametrize("name", ["lenet", "resnet20tnn"])
def test_the_rate_code_tends_to_the_ann_with_clipped_activations(name: str) -> None:
    model, x = settled(name, "k1B2")
    network = folded(model)
    clipped = copy.deepcopy(network)
    for module in list(clipped.modules()):
        for key, child in module.named_children():
            if is_quantizer(child):
                setattr(module, key, nn.Hardtanh(0.0, 2.0))

    def error(steps: int) -> float:
        coded = RateCoded(network, steps, "m").eval()
        return float((2 * coded(x[:1]) - wanted).abs().max() / wanted.abs().max())

    with torch.inference_mode():
        wanted = clipped(x[:1])
        assert error(256) < 0.06 < 0.25 < error(4)


def test_both_step_modes_give_the_same_every_time() -> None:
    model, x = settled("groupv2-3x3", "twta")
    with torch.inference_mode():
        outputs = [RateCoded(folded(model), 2, mode).eval()(x) for mode in MODES.values()]
        again = RateCoded(folded(model), 2, "m").eval()
        outputs += [again(x), again(x)]
    for output in outputs[1:]:
        assert torch.allclose(output, outputs[0], atol=1e-5)
    assert outputs[0].shape == (8, 10)


def test_a_rate_code_needs_quantized_activations() -> None:
    model, _ = settled("lenet", "relu")
    with pytest.raises(ConfigError, match="one largest value"):
        RateCoded(folded(model), 4, "s")


def test_contestants_take_turns_and_another_begins_each_round() -> None:
    order: list[str] = []
    timed: dict[str, Callable[[], object]] = {name: lambda name=name: order.append(name) for name in "abc"}  # type: ignore[misc]
    seconds = alternate(timed, 4)
    assert "".join(order) == "abcbcacababc"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_ratios_are_those_within_a_round() -> None:
    seconds = {"fast": [1.0, 2.0, 4.0], "slow": [3.0, 6.0, 8.0]}
    assert ratios(seconds, "fast", "slow") == [3.0, 3.0, 2.0]
    assert quartiles([5.0]) == [5.0, 5.0]
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == [2.0, 4.0]


@pytest.mark.parametrize("levels", BOUNDS)
def test_random_counts_have_the_density_and_the_levels_they_are_asked_for(levels: int) -> None:
    counts = random_counts(50, (16, 12, 12), levels, 0.3)
    assert float((counts != 0).double().mean()) == pytest.approx(0.3, abs=0.01)
    assert set(counts.unique().tolist()) == set(range(levels + 1))
    assert not random_counts(2, (4, 3, 3), levels, 0.0).any()
    assert random_counts(2, (4, 3, 3), levels, 1.0).all()


def test_each_way_of_a_layer_gives_the_counts_of_the_layer_and_fp32_what_it_rounds() -> None:
    engine, name = representative(16, 6, levels=4)
    layer = engine.network.layers[name]
    assert isinstance(layer, SpikingLayer)
    assert macs(engine, name) == 16 * 36 * 16 * 9
    counts = random_counts(5, (16, 6, 6), 4, 0.4)
    ready = calls(ways(engine, name, [counts]), [counts])
    assert {"dense", FLOAT} <= set(ready)
    wanted = layer(counts)
    assert 0.05 < float((wanted > 0).double().mean()) < 0.95
    for way, call in ready.items():
        if way != FLOAT:
            assert torch.equal(call().to(torch.int8), wanted)
    value = ready[FLOAT]()
    rounded = (value / layer.grid.step + 0.5).floor().clamp(0, 4)
    assert float((rounded == wanted).double().mean()) > 0.999


def test_ways_that_differ_are_refused() -> None:
    counts = random_counts(2, (4, 3, 3), 4, 0.5)
    steps = {"one": Step("one", lambda x: x), "two": Step("two", lambda x: x + 1), FLOAT: Step(FLOAT, lambda x: x - 1)}
    with pytest.raises(ParityError, match="two counts differently from one"):
        calls(steps, [counts])


def test_sums_have_no_fp32_layer_of_their_own() -> None:
    network = convert(*settled("resnet20tnn", "k1B2"))
    assert FloatLayer.of(network, "stage1_block1_act") is None
    assert FloatLayer.of(network, "stage1_block1_body_conv1_act") is not None


def test_engines_that_count_differently_are_refused(tmp_path: Path) -> None:
    subject = load_subject("lenet-digits-k1B2", 4, tmp_path)
    ours, theirs = Spiking("dense", subject, 4), Spiking("reference", subject, 2)
    ours.run()
    theirs.run()
    check_counts([ours, theirs])
    assert theirs.simulation is not None
    changed = replace(theirs.simulation.layers[1], events=theirs.simulation.layers[1].events + 1)
    theirs.simulation.layers[1] = changed
    with pytest.raises(ParityError, match="reference and dense counted differently on lenet-digits-k1B2"):
        check_counts([ours, theirs])


def test_weights_come_from_the_run_of_the_recipe(tmp_path: Path) -> None:
    assert load_subject("lenet-digits-k1B2", 3, tmp_path).weights == "untrained"
    run = copy_shipped(tmp_path)
    subject = load_subject("lenet-digits-k1B2", 3, tmp_path)
    assert (subject.weights, subject.pixels, len(subject.images)) == (f"run {run.name}", "random", 3)
    assert load_subject("lenet-digits-k1B2", 3, tmp_path, [tmp_path]).pixels == "digits test"
    with pytest.raises(DataError, match="mnist \\(test\\) is in none of"):
        load_subject("lenet-mnist-k1B2", 3, tmp_path, [tmp_path])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_that_of_the_process_alone() -> None:
    hoard = bytearray(300 << 20)
    hoard[::4096] = b"1" * len(hoard[::4096])
    code = "from benchmarks.memory import peak_megabytes; a = bytearray(50 << 20); a[::4096] = b'1' * 12800; print(peak_megabytes())"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 50 < float(said) < 200


def test_the_table_goes_between_its_marks(tmp_path: Path) -> None:
    row = {
        "network": "net", "levels": 4, "weights": "run net", "pixels": "random", "images_per_second": 1234.0,
        "times_ann": 2.5, "times_ann_quartiles": [2.25, 2.75], "times_spikingjelly": 9.0, "sops_per_second": 5e9,
        "peak_memory_mb": None, "agreement": 0.5,
    }  # fmt: skip
    rows = [row | {"engine": name} for name in ("ann", "quantized-ann", "spikingjelly", "auto")]
    about = {"processor": "CPU", "threads": 2, "date": "2026-01-01", "packages": {"torch": "2"}, "load_before": 0.1}
    about["kernels"] = ["avx2"]
    result = {"rows": rows, "environment": about, "batch_size": 10, "images": 20, "rounds": 3}
    line = (
        "| net | 4 | run net | 1,234 | 1,234 | 1,234 | 1,234 | **2.50** (2.25-2.75) | 9.0 | 5.00 G | - | - | 50.0 % |"
    )
    assert line in markdown(result).splitlines()
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_markdown(page, result)
    write_markdown(page, result)
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n{markdown(result)}\n{END}\nafter\n"
    page.write_text("something else", encoding="utf-8")
    with pytest.raises(RunError, match="no lines"):
        write_markdown(page, result)
    write_markdown(tmp_path / "new.md", result)
    assert (tmp_path / "new.md").read_text(encoding="utf-8") == markdown(result) + "\n"
    with pytest.raises(RunError, match="name --networks"):
        markdown(result | {"rows": []})


KEYS = {
    "network", "engine", "variant", "weights", "pixels", "levels", "steps", "images_per_second", "quartiles",
    "times_ann", "times_ann_quartiles", "times_quantized_ann", "times_quantized_ann_quartiles", "times_spikingjelly",
    "times_spikingjelly_quartiles", "agreement", "macs_per_image", "share_of_fp32", "peak_memory_mb",
    "synops_per_image", "sops_per_second", "density", "rate", "choices", "tried",
}  # fmt: skip


def test_the_command_measures_prints_and_writes(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed",
        "--networks",
        "lenet-digits-k1B2",
        "--engines",
        "auto",
        "dense",
    ]
    command += ["--images", "20", "--batch-size", "10", "--rounds", "1", "--threads", "1", "--skip-memory"]
    command += ["--runs-dir", str(tmp_path), "--json", str(tmp_path / "speed.json")]
    command += ["--markdown", str(tmp_path / "speed.md"), "--figure", str(tmp_path / "speed.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    rows: dict[str, Any] = {row["engine"]: row for row in result["rows"]}
    assert list(rows) == ["ann", "quantized-ann", "spikingjelly", "auto", "dense"]
    for row in rows.values():
        assert set(row) == KEYS
        assert row["weights"] == "untrained" and row["pixels"] == "random"
        for key, baseline in (("times_ann", "ann"), ("times_spikingjelly", "spikingjelly")):
            assert row[key] == pytest.approx(row["images_per_second"] / rows[baseline]["images_per_second"])
        assert row["macs_per_image"] == rows["auto"]["macs_per_image"] > 1e6
    assert set(rows["ann"]["tried"]) == set(GRAPHS) and rows["ann"]["variant"] in GRAPHS
    assert rows["spikingjelly"]["steps"] == rows["auto"]["levels"] == 4
    assert rows["quantized-ann"]["agreement"] == 1
    for name in ("auto", "dense"):
        row = rows[name]
        assert row["agreement"] >= 0.9
        assert list(row["density"]) == list(row["rate"]) and len(row["density"]) == 6
        assert all(0 <= row["rate"][layer] <= row["density"][layer] <= 1 for layer in row["rate"])
        assert set(row["density"]) < set(row["choices"])
        assert row["sops_per_second"] == pytest.approx(row["synops_per_image"] * row["images_per_second"])
    assert {ceiling["name"] for ceiling in result["ceilings"]} >= {"fp32 matrix product", "int8 adds", "copy"}
    assert all(ceiling["value"] > 0 and ceiling["how"] for ceiling in result["ceilings"])
    assert "lenet-digits-k1B2  dense" in done.stdout
    assert (tmp_path / "speed.md").read_text(encoding="utf-8").startswith("| network | L |")
    assert {file.name for file in tmp_path.glob("speed.*")} >= {"speed.png", "speed.svg", "speed.csv"}


def test_a_known_error_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["speed", "--alone", "dense", "", "--networks", "nothing", "--runs-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="^Error: .*nothing"):
        main()

"""`snnconv quantize`, end to end: a run of a float network, and a network of the user's own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from samples import settled
from test_cli import sentence, snnconv
from test_own_command import NET, Place
from torch import fx, nn

from snnconv import quantizing
from snnconv.ann import training
from snnconv.ann.training import network_for
from snnconv.cli.main import main
from snnconv.config import load_recipe
from snnconv.data.images import load_images
from snnconv.data.preprocessing import prepare
from snnconv.data.sets import ImageSet
from snnconv.own_models import model_of, new_run
from snnconv.quantization.inserting import quantizers_of
from snnconv.reporting.quantization import quantization_summary, quantization_table
from snnconv.reporting.tables import render
from snnconv.runs import open_run

FLOAT = NET.replace("KBQuantizer(1, 2)", "nn.ReLU()").replace("x.flatten(1)", "x.view(x.size(0), -1)")
SMALL = ("--calibration-images", "60", "--layer-images", "20", "--images", "50", "--quiet")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a float run; the weights are drawn, the batch norms have seen images."""
    folder = tmp_path_factory.mktemp("float")
    recipe = load_recipe("lenet-digits-fp32")
    images = load_images("digits", "train").take(100)
    new_run(folder / "runs", recipe, settled(network_for(recipe), prepare(images.pixels, recipe.preprocessing)))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "work")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_float_run_becomes_one_that_the_pipeline_takes(folder: Path) -> None:
    result = snnconv("quantize", "--levels", "6", "--json", *SMALL, cwd=folder)
    assert result.exit_code == 0, (result.output, result.exception)
    printed = json.loads(result.stdout)
    run = folder / "runs/lenet-digits-fp32-L6"
    assert printed == read(run / "results/quantize.json")
    assert {"float", "calibrated"} <= set(printed["accuracy"]) and printed["accuracy"]["fine_tuned"] is None
    layers = printed["layers"]
    assert [layer["layer"] for layer in layers] == [f"conv{number}.act" for number in range(1, 7)]
    assert all(layer["range"] == 6 * layer["step"] and 0 <= layer["accuracy"] <= 1 for layer in layers)
    recipe = read(run / "config.json")["recipe"]
    assert (recipe["name"], recipe["quantization"]) == ("lenet-digits-fp32-L6", "fp32-L6")
    assert "published" not in recipe and recipe["description"] == "quantized from run lenet-digits-fp32"
    assert read(run / "config.json")["start"]["file"].endswith("lenet-digits-fp32/ann.safetensors")
    model = model_of(open_run(run))
    assert isinstance(model, fx.GraphModule)
    assert [q.step for q in quantizers_of(model).values()] == [layer["step"] for layer in layers]

    assert snnconv("convert", "--quiet", cwd=folder).exit_code == 0
    assert snnconv("verify", "--quiet", "--images", "40", cwd=folder).exit_code == 0
    parity = read(run / "results/verify-40images.json")
    assert parity["failures"] == [] and sum(layer["mismatches"] for layer in parity["layers"]) == 0
    simulated = json.loads(snnconv("simulate", "--images", "40", "--json", "--quiet", cwd=folder).stdout)
    assert (simulated["quantization"], simulated["levels"]) == ("fp32-L6", 6)
    listed = json.loads(snnconv("runs", "--json", cwd=folder).stdout)["runs"]
    assert [row["state"] for row in listed] == ["converted", "imported"]
    assert snnconv("info", cwd=folder).exit_code == 0
    assert snnconv("plot", "sparsity", "--quiet", cwd=folder).exit_code == 0


@pytest.fixture
def place(tmp_path: Path) -> Place:
    own = Place(tmp_path)
    own.write(FLOAT)  # its weights are of the same names and shapes
    return own


def own(place: Place) -> tuple[str, ...]:
    return (
        "--model",
        f"{place.module}:make",
        "--weights",
        "net.pth",
        "--data",
        "digits",
        "--mean",
        "0.2",
        "--sd",
        "0.3",
    )


def test_fine_tuning_learns_steps_and_ternary_weights_and_resumes_bit_for_bit(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("quantize", *own(place), "--levels", "2", "--ternary", "--epochs", "2", "--layer-images", "0", "--quiet")
    result = place.run(*options, "--learning-rate", "3e-3", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    run = place.folder / "runs/make-digits-L2-w2"
    values = json.loads(result.stdout)
    accuracy = values["accuracy"]
    assert accuracy["fine_tuned"] == read(run / "results/train.json")["test_accuracy"]
    assert accuracy["fine_tuned"] > accuracy["calibrated"]
    assert len(read(run / "history.json")) == 2
    steps = [q.step for q in quantizers_of(network_of(place, run)).values()]
    assert steps != [layer["step"] for layer in values["layers"]]
    assert place.run("verify", "--quiet", "--images", "50").exit_code == 0

    original, calls = training._epoch, 0

    def stop(*arguments: object) -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", stop)
        assert place.run(*options, "--learning-rate", "3e-3").exit_code != 0
    cut = place.folder / "runs/make-digits-L2-w2-2"
    assert len(read(cut / "history.json")) == 1
    resumed = place.run("train", "--resume", "--run", cut.name, "--quiet")
    assert resumed.exit_code == 0, (resumed.output, resumed.exception)
    assert (run / "ann.safetensors").read_bytes() == (cut / "ann.safetensors").read_bytes()


def network_of(place: Place, run: Path) -> fx.GraphModule:
    here = Path.cwd()
    os.chdir(place.folder)
    try:
        model = model_of(open_run(run))
    finally:
        os.chdir(here)
    assert isinstance(model, fx.GraphModule)
    return model


def test_nothing_is_measured_layer_by_layer_where_that_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def evaluate(model: nn.Module, images: ImageSet, *rest: Any) -> training.Accuracy:
        measured.append(len(images))
        return training.evaluate(model, images, *rest)

    monkeypatch.setattr(quantizing, "evaluate", evaluate)
    options = ("--calibration-images", "60", "--layer-images", "0", "--images", "50", "--quiet")
    assert snnconv("quantize", *options, cwd=folder).exit_code == 0
    assert measured == [50, 50]  # before, and calibrated


def test_a_network_of_ones_own_is_quantized_and_proven(place: Place) -> None:
    result = place.run(
        "quantize", *own(place), "--levels", "5", "--per-channel", "--weight-bits", "4", "--json", *SMALL
    )
    assert result.exit_code == 0, (result.output, result.exception)
    assert place.made == ["make-digits-L5-w4"]
    run = place.folder / "runs/make-digits-L5-w4"
    config = read(run / "config.json")
    assert config["recipe"]["quantization"] == "own-L5-w4"
    assert config["model"]["factory"] == f"{place.module}:make" and "start" not in config
    assert [layer["layer"] for layer in json.loads(result.stdout)["layers"]] == ["relu", "relu_1"]
    shown = place.run("quantize", *own(place), *SMALL).stdout.splitlines()
    assert shown[-1] == "images: pixels / 255, mean 0.2, sd 0.3"
    assert [line for line in shown if " % with no layer quantized, on the first 20 test images" in line]
    shutil.rmtree(place.folder / "runs/make-digits-L8")
    (place.folder / "net.pth").unlink()
    for command in ("convert", "verify", "simulate"):
        more = () if command == "convert" else ("--images", "60")
        done = place.run(command, "--quiet", *more)
        assert done.exit_code == 0, (command, done.output)
    place.write(FLOAT.replace("nn.ReLU()", "nn.ReLU6()"))
    assert "makes another network than when run make-digits-L5-w4 was made" in sentence(place.run("verify", "--quiet"))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--run", "lenet-digits-fp32", "--ternary", "--weight-bits", "4"), 2, "--ternary is --weight-bits 2, not 4"),
        (("--levels", "0"), 2, "0 is not in the range 1<=x<=127"),
        (("--weight-bits", "1"), 2, "1 is not in the range 2<=x<=8"),
        (("--percentile", "0"), 1, "percentile (= 0) must lie above 0"),
        (("--iterations", "0"), 1, "iterations (= 0) must be at least 1"),
        (("--weights", "net.pth"), 2, "--weights goes with --model"),
        (("--crop", "20"), 2, "--crop goes with --model"),
        (("--model", "a:b"), 2, "--model needs --weights FILE and --data SET"),
        (("--run", "missing"), 1, "no run called missing"),
        (("--epochs", "1", "--learning-rate", "0"), 1, "learning_rate (= 0.0) must lie above 0"),
        (("--images", "501"), 1, "501 cannot be taken"),
    ],
)
def test_wrong_use_is_one_sentence_and_nothing_is_written(
    trained: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    assert message in sentence(snnconv("quantize", *arguments, "--quiet", cwd=trained), status)
    assert [path.name for path in (trained / "runs").iterdir()] == ["lenet-digits-fp32"]


def test_quantized_runs_and_folders_without_a_float_run_are_refused(folder: Path, tmp_path: Path) -> None:
    assert snnconv("quantize", "--layer-images", "0", *SMALL[:2], "--quiet", cwd=folder).exit_code == 0
    message = sentence(snnconv("quantize", "--run", "lenet-digits-fp32-L8", "--quiet", cwd=folder))
    assert "run lenet-digits-fp32-L8 (quantization fp32-L8) is quantized already" in message
    assert "has float activations: `snnconv train lenet-digits-fp32`" in sentence(snnconv("quantize", cwd=tmp_path))
    assert "made from a trained one of quantization fp32, by `snnconv quantize`" in sentence(
        snnconv("train", "x.toml", "--quiet", cwd=written(tmp_path))
    )


def written(folder: Path) -> Path:
    (folder / "x.toml").write_text('base = "lenet-digits-fp32"\nquantization = "fp32-L4"\n')
    return folder


def test_a_network_that_does_not_convert_leaves_no_run(place: Place) -> None:
    place.write(FLOAT.replace("self.bn2(self.conv2(x))", "self.bn2(self.conv2(x) + self.conv2(x).abs())"))
    assert "layer abs" in sentence(place.run("quantize", *own(place), *SMALL))
    assert place.made == []


RESULT = {
    "accuracy": {"float": 0.9952, "weights": 0.991, "calibrated": 0.9944, "fine_tuned": 0.9948},
    "calibration": {"method": "percentile", "percentile": 99.9, "per_channel": True, "images": 1000},
    "levels": 8, "weight_bits": 4, "images": 10000, "epochs": 1, "no_layer": 0.99, "layer_images": 1000,
    "layers": [
        {"layer": "conv1.act", "levels": 8, "step": 0.123456, "range": 0.987648, "accuracy": 0.985},
        {"layer": "conv2.act", "levels": 8, "step": 0.25, "range": 2.0},
    ],
}  # fmt: skip


def test_what_is_printed() -> None:
    assert render(quantization_table(RESULT)).splitlines() == [
        "                                accuracy  change",
        "layer      L     step    range   alone %  points",
        "------------------------------------------------",
        "conv1.act  8  0.12346  0.98765     98.50   -0.50",
        "conv2.act  8     0.25        2         -       -",
    ]
    assert quantization_summary(RESULT) == (
        "change: from 99.00 % with no layer quantized, on the first 1,000 test images\n"
        "99.52 % float, 99.10 % with quantized weights alone, 99.44 % calibrated (percentile 99.9 per channel, 1,000 "
        "images), 99.48 % after 1 epoch of fine-tuning; L = 8, 4-bit weights, 10,000 test images"
    )
    assert quantization_summary(RESULT | {"no_layer": None}).startswith("99.52 % float")


def test_help_names_it() -> None:
    assert "quantize" in main.commands

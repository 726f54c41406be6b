"""The networks that come with the package: sound, as listed, and run by the real command line; how they get there."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import snnconv
from benchmarks import zoo as maker
from snnconv import zoo
from snnconv.cli.main import main
from snnconv.config import to_mapping
from snnconv.errors import ConfigError, FormatError, RunError
from snnconv.formats.native import load, save
from snnconv.runs import NETWORK, VERIFICATION, Run, copy_shipped, file_hash, read_json, write_json
from snnconv.zoo import Model, find_model, model_file, models, unpack

DATA = os.environ.get("SNNCONV_TEST_DATA")
NAME = "lenet-digits-k1B2"


def command(*arguments: object) -> Result:
    """A command in the working folder."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def values(*arguments: object) -> dict[str, Any]:
    """What a command prints as JSON."""
    result = command(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


def sentence(result: Result, status: int = 1) -> str:
    """The error of a command that must have failed as it should."""
    assert result.exit_code == status, (result.output, result.exception)
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return error


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return copy_shipped(tmp_path / "trained")


@pytest.fixture
def small(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A zoo of one network, made of the run that comes with the package; its data come with scikit-learn."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    monkeypatch.setattr(zoo, "FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    return maker.add(run)


def test_there_are_models() -> None:
    names = [model.name for model in models()]
    assert names == sorted(set(names)) and len(names) >= 5
    files = {file.name for file in zoo.FOLDER.glob("*.safetensors")}
    assert files == {model.file for model in models()}


@pytest.mark.parametrize("model", models(), ids=lambda model: model.name)
def test_every_model_is_sound_and_what_the_index_says(model: Model) -> None:
    path = model_file(model)
    assert path.stat().st_size == model.bytes < 5e6
    network = load(path)
    levels = network.levels
    assert model.levels == (levels[0] if len(set(levels)) == 1 else levels)
    assert network.header.about["recipe"]["name"] == model.recipe.name
    assert network.header.about["seed"] == model.seed
    assert network.header.preprocessing == model.recipe.preprocessing
    assert 0.5 < model.accuracy <= 1 and model.correct <= model.images == model.training.test_images == 10_000
    assert model.units > 10**8 and model.spikes > 0 and {"synops", "zou2021"} <= set(model.sops)


@pytest.mark.skipif(DATA is None, reason="SNNCONV_TEST_DATA names no folder with MNIST")
@pytest.mark.parametrize("model", [own for own in models() if own.recipe.dataset == "mnist"], ids=lambda own: own.name)
def test_models_of_mnist_give_the_figures_of_the_index(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    measured = values("simulate", "--model", model.name, "--data-dir", DATA, "--quiet")
    assert (measured["correct"], measured["images"]) == (model.correct, model.images)
    assert measured["spikes_per_image"] == model.spikes
    assert measured["sops_per_image"] == model.sops


def test_simulate_runs_a_model_and_keeps_its_results_in_a_run(small: Model, tmp_path: Path) -> None:
    result = command("simulate", "--model", NAME, "--images", 50)
    assert result.exit_code == 0 and f"using model {NAME}, in runs/{NAME}-shipped" in result.stderr
    whole = values("simulate", "--model", NAME, "--quiet")
    assert (whole["correct"], whole["images"]) == (small.correct, small.images)
    assert (whole["spikes_per_image"], whole["sops_per_image"]) == (small.spikes, small.sops)
    folder = tmp_path / "runs" / f"{NAME}-shipped"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == {
        "config.json", NETWORK, "results/train.json", "results/simulate-noise0.json",
        "results/simulate-noise0-50images.json",
    }  # fmt: skip
    named = values("simulate", "--run", folder.name, "--noise-ratio", 0.1, "--trials", 2, "--quiet")
    assert 0.9 < named["accuracy"] <= 1
    (row,) = values("runs")["runs"]
    assert (row["name"], row["state"], row["accuracy"]) == (folder.name, "converted", small.training.test_accuracy)
    assert row["epochs_done"] == row["epochs"]
    for arguments in (("plot", "accuracy"), ("report",)):
        assert command(*arguments, "--run", folder.name, "--quiet").exit_code == 0


def test_the_other_commands_take_a_model(small: Model, tmp_path: Path) -> None:
    swept = values("sweep", "--model", NAME, "--ratios", "0,0.2", "--trials", 2, "--images", 40, "--quiet")
    assert [point["ratio"] for point in swept["points"]] == [0, 0.2]
    Image.new("L", (28, 28), 200).save(tmp_path / "grey.png")
    for how in (("--model", NAME), ("--run", f"{NAME}-shipped")):
        predicted = values("predict", "grey.png", *how, "--quiet")
        (row,) = predicted["predictions"]
        assert 0 <= row["class"] < 10 and predicted[how[0].removeprefix("--")] == how[1]
        written = values("export", *how, "--to", "numpy", "--output", "arrays.npz", "--quiet")
        assert Path(written["files"][0]["file"]).is_file()
    written = values("export", "--model", NAME, "--to", "spikingjelly", "--output", "sj.py", "--images", 5, "--quiet")
    assert written["check"]["equal"] and written["images_of"] == "digits"
    described = values("info", "--model", NAME)
    assert described["kind"] == "converted network" and described["model"] == small.to_dict()
    assert NAME in command("info", "--model", NAME).stdout


def test_models_are_listed(small: Model) -> None:
    (row,) = values("models")["models"]
    assert row == small.to_dict() | {"sound": True}
    assert (row["name"], row["dataset"], row["levels"], row["steps"]) == (NAME, "digits", 4, 1)
    assert row["accuracy"] == small.correct / small.images and row["bytes"] == small.bytes
    table = command("models").stdout
    for text in (
        NAME,
        "digits",
        f"{100 * small.accuracy:.2f}",
        f"{small.spikes:,.0f}",
        f"{small.bytes / 1000:,.0f}",
        "sound",
    ):
        assert text in table


def test_a_model_from_python(small: Model) -> None:
    network = snnconv.load_model(NAME)
    images = snnconv.load_images("digits", "test")
    assert snnconv.simulate(network, images).accuracy == small.accuracy
    with pytest.raises(ConfigError, match="unknown model 'nothing'"):
        snnconv.load_model("nothing")


@pytest.mark.parametrize("change", ["other", "short", "missing"])
def test_a_damaged_file_is_refused_and_listed_as_such(small: Model, change: str) -> None:
    path = model_file(small)
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(contents if change == "other" else contents[:-100])
    words = "is missing" if change == "missing" else "is damaged, its SHA-256 is not"
    for arguments in (("simulate",), ("sweep",), ("predict", "x.png"), ("export", "--to", "numpy", "--output", "x")):
        assert f"{path} {words}" in sentence(command(*arguments, "--model", NAME))
    assert not Path("runs").exists()
    listed = command("models")
    assert "DAMAGED" in listed.stdout and f"{path} {words}" in sentence(listed)
    assert command("models", "--json").exit_code == 1


def test_a_newer_format_is_refused_in_a_sentence(small: Model) -> None:
    path = model_file(small)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["snnconv"]) | {"version": 2}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {"snnconv": json.dumps(header)})
    write_json(zoo.FOLDER / "index.json", [to_mapping(small) | {"sha256": file_hash(path)}])
    error = sentence(command("simulate", "--model", NAME))
    assert "format version 2; this release reads version 1: it was written by a newer one, install that" in error


@pytest.mark.parametrize("text", [None, "[", '[{"name": "x"}]', '{"models": []}'])
def test_a_damaged_index_is_refused_in_a_sentence(small: Model, text: str | None) -> None:
    index = zoo.FOLDER / "index.json"
    index.unlink() if text is None else index.write_text(text)
    for arguments in (("models",), ("simulate", "--model", NAME)):
        assert f"{index} {'cannot be read' if text is None else 'is damaged'}" in sentence(command(*arguments))


def test_an_unpacked_model_is_used_again_while_it_is_the_same(small: Model, tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    first = unpack(small, runs_dir)
    assert first.shipped and first.recipe == small.recipe and first.seed == small.seed
    assert unpack(small, runs_dir).path == first.path
    first.file(NETWORK).write_bytes(b"something else")
    assert unpack(small, runs_dir).name == f"{NAME}-shipped-2"
    shutil.copytree(first.path, runs_dir / "mine")
    assert unpack(small, runs_dir).name == f"{NAME}-shipped-2"


WRONG = [
    (("simulate", "--model", "nothing"), 1, "unknown model 'nothing': `snnconv models` lists"),
    (("simulate", "--model", "nets.small:make_net"), 1, "run of it with `snnconv convert --model nets.small:make_net"),
    (("simulate", "--model", NAME, "--run", "x"), 2, "give --run or --model, not both"),
    (("sweep", "--model", NAME, "--run", "x"), 2, "give --run or --model, not both"),
    (("predict", "x.png", "--model", NAME, "--run", "x"), 2, "give --run or --model, not both"),
    (("predict", "x.png", "--model", NAME, "--network", "x"), 2, "give --network or --model, not both"),
    (("export", "--to", "onnx", "--output", "x", "--model", NAME, "--run", "x"), 2, "--run or --model, not both"),
    (("export", "--certificate", "x.json", "--model", NAME), 2, "--model goes with --to"),
    (("info", "x.json", "--model", NAME), 2, "give a FILE or --model, not both"),
    (("info", "--model", NAME, "--run", "x"), 2, "give --run or --model, not both"),
    (("simulate", "--model", NAME.lower()), 1, f"unknown model '{NAME.lower()}' (did you mean {NAME}?): `snnconv"),
    (("verify", "--model", NAME), 2, f"`snnconv train {NAME}` makes a run of your own, which verify takes"),
    (("verify", "--model", "nets:make"), 2, "verify takes runs: `snnconv convert --model nets:make --weights FILE"),
    (("verify", "--run", f"{NAME}-shipped"), 1, "is a converted network without its ann.safetensors"),
    (("convert", "--run", f"{NAME}-shipped"), 1, "is a converted network without its ann.safetensors"),
]


@pytest.mark.parametrize(("arguments", "status", "words"), WRONG)
def test_wrong_use_is_refused_in_a_sentence(
    small: Model, tmp_path: Path, arguments: tuple[str, ...], status: int, words: str
) -> None:
    unpack(small, tmp_path / "runs")
    assert words in sentence(command(*arguments), status)


def test_a_model_is_put_in_and_replaced_and_removed(small: Model, run: Run) -> None:
    assert [model.name for model in models()] == [NAME] and find_model(NAME) == small
    assert small.sha256 == file_hash(run.file(NETWORK)) == file_hash(model_file(small))
    assert maker.add(run, "another").name == "another"
    assert maker.add(run) == small
    assert [model.name for model in models()] == ["another", NAME]
    assert {file.name for file in zoo.FOLDER.iterdir()} == {
        "index.json", "another.safetensors", f"{NAME}.safetensors"
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"^model name '../another': letters, digits"):
        maker.add(run, "../another")
    maker.remove("another")
    assert [model.name for model in models()] == [NAME] and not (zoo.FOLDER / "another.safetensors").exists()
    with pytest.raises(ConfigError, match="unknown model 'another'"):
        maker.remove("another")


def spoil(run: Run, how: str) -> None:
    proof = read_json(run.file(VERIFICATION), dict[str, Any])
    clean = run.file("results/simulate-noise0.json")
    match how:
        case "unconverted":
            run.file(NETWORK).unlink()
        case "stale":
            shutil.copyfile(run.file(NETWORK), run.file("ann.safetensors"))
        case "split by sign":
            network = load(run.file(NETWORK))
            network.header.about["split"] = True
            save(network, run.file(NETWORK))
        case "unproven":
            run.file(VERIFICATION).unlink()
        case "partly proven":
            write_json(run.file(VERIFICATION), proof | {"images": 100})
        case "different":
            write_json(run.file(VERIFICATION), proof | {"layers": [proof["layers"][0] | {"mismatches": 1}]})
        case "not simulated":
            clean.unlink()
        case "of another network":
            write_json(clean, read_json(clean, dict[str, Any]) | {"correct_by_trial": [3]})


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("unconverted", "no unsplit network of its present weights: `snnconv convert"),
        ("split by sign", "no unsplit network of its present weights: `snnconv convert"),
        ("stale", "no unsplit network of its present weights: `snnconv convert"),
        ("unproven", "is not proven on its test images: `snnconv verify"),
        ("partly proven", "is not proven on its test images: `snnconv verify"),
        ("different", "is not proven on its test images: `snnconv verify"),
        ("not simulated", "no noise-free result of all test images: `snnconv simulate"),
        ("of another network", "no noise-free result of all test images: `snnconv simulate"),
    ],
)
def test_only_what_is_proven_and_measured_is_taken(small: Model, run: Run, how: str, words: str) -> None:
    before = (zoo.FOLDER / "index.json").read_bytes()
    spoil(run, how)
    with pytest.raises(RunError, match=words):
        maker.add(run, "spoiled")
    assert (zoo.FOLDER / "index.json").read_bytes() == before
    assert not (zoo.FOLDER / "spoiled.safetensors").exists()


def test_the_maker_s_command(
    small: Model, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def maker_command(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["zoo", *map(str, arguments)])
        maker.main()
        return capsys.readouterr().out

    assert "mine" in maker_command("--add", run.path, "--name", "mine")
    assert "mine" not in maker_command("--remove", "mine")
    model_file(small).write_bytes(b"")
    assert "DAMAGED" in maker_command()
    with pytest.raises(SystemExit, match=r"^Error: .* is not a run folder"):
        maker_command("--add", "nowhere")
    with pytest.raises(SystemExit, match="2"):
        maker_command("--name", "x")


def test_checksums_are_compared(small: Model) -> None:
    model_file(small).write_bytes(b"foreign")
    with pytest.raises(FormatError, match=r"is damaged, its SHA-256 is not [0-9a-f]{64}: install snnconv again$"):
        model_file(small)

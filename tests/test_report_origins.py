"""What the report and the list of runs say of weights that were not trained here, and of what was proven."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from test_cli import snnconv
from test_own_command import Place
from test_quantize_command import FLOAT

from snnconv.reporting.facts import accuracy_of
from snnconv.reporting.steps import collect_steps
from snnconv.runs import NETWORK, TRAINING, VERIFICATION, copy_shipped, file_hash, open_run, read_json, write_json

QUIET = ("--quiet", "--images", "40")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run of a network of the user's own, proven and simulated on 40 images."""
    own = Place(tmp_path_factory.mktemp("own"))
    assert own.convert().exit_code == 0
    for command in ("verify", "simulate"):
        assert own.run(command, *QUIET).exit_code == 0
    return own


def page(folder: Path, run: str) -> str:
    """A report's text, without tags."""
    result = snnconv("report", "--run", run, "--images", "0", "--out", "page", "--quiet", cwd=folder)
    assert result.exit_code == 0, (result.output, result.exception)
    return unescape(re.sub(r"<[^>]+>", " ", (folder / "page.html").read_text()))


def listed(folder: Path, run: str) -> dict[str, Any]:
    rows = json.loads(snnconv("runs", "--json", cwd=folder).stdout)["runs"]
    return next(row for row in rows if row["name"] == run)


def test_no_training_is_claimed_of_a_network_of_ones_own(place: Place) -> None:
    text = page(place.folder, "make-digits")
    weights = place.folder / "net.safetensors"
    assert f"{weights}, SHA-256 {file_hash(weights)}" in text and "elsewhere" in text
    assert not [words for words in ("epochs", "adam", "learning rate", "trained on", "seed") if words in text]
    described = json.loads(place.run("info", "--json", "--run", "make-digits").stdout)
    assert not {"training", "augmentation"} & set(described["recipe"])


def test_figures_over_time_call_it_by_its_run(place: Place) -> None:
    assert place.run("simulate", "--neuron", "st-bif", "--run", "make-digits", *QUIET).exit_code == 0
    assert collect_steps(place.folder / "runs")[0] == "make-digits"


def test_runs_of_weights_from_elsewhere_have_no_epochs_and_the_accuracy_that_was_measured(place: Place) -> None:
    row = listed(place.folder, "make-digits")
    proof = read_json(place.folder / "runs/make-digits/results/verify-40images.json", dict[str, Any])
    assert (row["epochs_done"], row["epochs"], row["accuracy"]) == (None, None, proof["ann_correct"] / 40)
    line = next(line for line in place.run("runs").stdout.splitlines() if line.startswith("make-digits"))
    assert line.split()[3:6] == ["-", "-", f"{100 * row['accuracy']:.2f}"]


def test_the_accuracy_is_that_on_most_images(tmp_path: Path) -> None:
    run = copy_shipped(tmp_path)
    for file in (TRAINING, "history.json"):
        run.file(file).unlink()
    assert run.brought and accuracy_of(run) == read_json(run.file(VERIFICATION), dict)["ann_correct"] / 500
    write_json(run.file("results/quantize.json"), {"images": 600, "accuracy": {"calibrated": 0.5}})
    assert accuracy_of(run) == 0.5
    clean = read_json(run.file("results/simulate-noise0.json"), dict)
    write_json(run.file("results/simulate-noise0.json"), clean | {"images": 700, "accuracy": 0.25})
    write_json(run.file("results/simulate-other.json"), clean | {"images": 800, "dataset": "mnist"})
    write_json(run.file("results/simulate-if.json"), clean | {"images": 900, "neuron": "if"})
    assert accuracy_of(run) == 0.25
    for file in run.path.glob("results/*.json"):
        file.unlink()
    assert accuracy_of(run) is None
    run.file(NETWORK).unlink()
    run.file("ann.safetensors").unlink()
    assert not run.brought  # a training that has not saved its first weights


def test_a_quantized_run_says_how_it_was_calibrated_and_not_how_it_was_trained(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(FLOAT)  # its weights are of the same names and shapes
    weights = place.folder / "net.safetensors"
    options = ("--model", f"{place.module}:make", "--weights", "net.safetensors", "--data", "digits")
    small = ("--calibration-images", "40", "--layer-images", "0", "--images", "40", "--quiet")
    for epochs in ("0", "1"):
        result = place.run("quantize", *options, "--levels", "3", "--epochs", epochs, *small)
        assert result.exit_code == 0, (result.output, result.exception)
    for run in ("make-digits-L3", "make-digits-L3-2"):
        assert place.run("simulate", "--run", run, *QUIET).exit_code == 0
    plain, tuned = (page(place.folder, run) for run in ("make-digits-L3", "make-digits-L3-2"))
    for text in (plain, tuned):
        assert re.search(r"quantized\s+[\d.]+ % float, [\d.]+ % calibrated \(mse, 40 images\)", text)
        assert file_hash(weights) in text
    assert "learning rate" not in plain and "fine-tuned" not in plain and "trained on" not in plain
    assert "learning rate 0.0003" in tuned and re.search(r"fine-tuned\s+[\d.]+ % of 40 test images", tuned)
    row = listed(place.folder, "make-digits-L3")
    calibrated = read_json(place.folder / "runs/make-digits-L3/results/quantize.json", dict)["accuracy"]["calibrated"]
    assert (row["epochs"], row["accuracy"]) == (None, calibrated)
    assert listed(place.folder, "make-digits-L3-2")["epochs"] == 1


def test_a_proof_on_some_images_counts(tmp_path: Path) -> None:
    run = copy_shipped(tmp_path / "runs")
    proof = read_json(run.file(VERIFICATION), dict)
    assert "PROVEN: 0 of" in page(tmp_path, run.name)
    run.file(VERIFICATION).unlink()
    write_json(run.file("results/verify-40images.json"), proof | {"images": 40})
    write_json(run.file("results/verify-20images.json"), proof | {"images": 20})
    write_json(run.file("results/verify-mnist.json"), proof | {"images": 60, "dataset": "mnist"})
    assert "PROVEN on 40 of 500 images: 0 of" in page(tmp_path, run.name)


def test_without_an_ann_no_command_is_advised_that_would_fail(tmp_path: Path) -> None:
    run = copy_shipped(tmp_path / "runs")
    run.file(VERIFICATION).unlink()
    assert f"snnconv verify --run {run.name}" in page(tmp_path, run.name)
    run.file("ann.safetensors").unlink()
    text = page(tmp_path, run.name)
    assert "the ANN is no part of this run" in text and "verify --run" not in text
    config = read_json(run.file("config.json"), dict) | {"shipped": False}
    write_json(run.file("config.json"), config)
    assert not open_run(run.path).shipped
    assert "no longer part of this run" in page(tmp_path, run.name)

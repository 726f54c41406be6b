"""The pipeline on MNIST, where the folder `SNNCONV_TEST_DATA` holds it."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from snnconv.cli.main import main

DATA = os.environ.get("SNNCONV_TEST_DATA")


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="SNNCONV_TEST_DATA names no folder with MNIST")
def test_lenet_learns_mnist_and_is_proven_on_all_test_images(tmp_path: Path) -> None:
    def run(*arguments: str) -> dict[str, object]:
        common = ["--runs-dir", str(tmp_path / "runs"), "--data-dir", str(DATA), "--json", "--quiet"]
        result = CliRunner().invoke(main, [*arguments, *common])
        assert result.exit_code == 0, result.output
        values: dict[str, object] = json.loads(result.stdout)
        return values

    trained = run("train", "lenet-mnist-k1B2", "--epochs", "2")
    assert float(str(trained["test_accuracy"])) > 0.98
    parity = run("verify")
    assert parity["images"] == parity["predictions_equal"] == parity["logits_equal"] == 10_000
    assert parity["failures"] == []
    noisy = run("simulate", "--noise-ratio", "0.1", "--figs-dir", str(tmp_path / "figs"))
    assert abs(float(str(noisy["accuracy"])) - float(str(trained["test_accuracy"]))) < 0.01


@pytest.mark.slow
def test_the_demo_runs_from_end_to_end(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["demo", "--runs-dir", str(tmp_path / "runs"), "--figs-dir", str(tmp_path / "figs"), "--json", "--quiet"]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [s["noise_ratio"] for s in report["simulations"]] == [0.0, 0.1, 0.2]
    assert report["simulations"][0]["accuracy"] > 0.97
    assert all(Path(file).is_file() for file in report["figures"])


@pytest.mark.skipif(DATA is None, reason="SNNCONV_TEST_DATA names no folder with the published checkpoint")
def test_the_published_checkpoint_gives_what_the_documents_say_on_mnist(tmp_path: Path) -> None:
    """The README and docs/results.md: 99.35 %, 16,844 spikes, 3.240 M `fanout` and 25.9 M `zou2021` SOPs an image."""
    common = ["--runs-dir", str(tmp_path / "runs"), "--json", "--quiet"]
    file = str(Path(str(DATA)) / "authors-lenet-mnist-k1B2.npz")
    assert CliRunner().invoke(main, ["import", file, "--k", "1", "--B", "2", *common]).exit_code == 0
    parity = json.loads(CliRunner().invoke(main, ["verify", "--data-dir", str(DATA), *common]).stdout)
    assert parity["failures"] == [] and parity["logits_equal"] == 10_000
    assert sum(layer["units"] for layer in parity["layers"]) == 268_800_000
    figures = ["--data-dir", str(DATA), "--figs-dir", str(tmp_path / "figs")]
    values = json.loads(CliRunner().invoke(main, ["simulate", *figures, *common]).stdout)
    assert values["accuracy"] == 0.9935
    assert round(values["spikes_per_image"]) == 16_844
    assert round(values["sops_per_image"]["fanout"] / 1e6, 3) == 3.24
    assert round(values["sops_per_image"]["zou2021"] / 1e6, 1) == 25.9

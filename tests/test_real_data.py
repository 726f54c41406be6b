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
def test_the_published_checkpoint_gives_its_published_counts_on_mnist(tmp_path: Path) -> None:
    """The first 1,000 test images; all 10,000 give 99.35 %, 16,844 spikes and 3.240 M fanout SOPs an image."""
    common = ["--runs-dir", str(tmp_path / "runs"), "--json", "--quiet"]
    file = str(Path(str(DATA)) / "authors-lenet-mnist-k1B2.npz")
    assert CliRunner().invoke(main, ["import", file, "--k", "1", "--B", "2", *common]).exit_code == 0
    data = ["--data-dir", str(DATA), "--images", "1000"]
    parity = json.loads(CliRunner().invoke(main, ["verify", *data, *common]).stdout)
    assert parity["failures"] == [] and parity["logits_equal"] == 1000
    figures = ["--figs-dir", str(tmp_path / "figs")]
    values = json.loads(CliRunner().invoke(main, ["simulate", *data, *figures, *common]).stdout)
    assert values["accuracy"] > 0.985
    assert values["spikes_per_image"] == pytest.approx(16_844, rel=0.05)
    assert values["sops_per_image"]["fanout"] == pytest.approx(3.240e6, rel=0.05)

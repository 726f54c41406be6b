"""Which results a figure takes: the newest that it needs, whatever run has them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from test_cli import sentence, snnconv

from snnconv.config import load_recipe, to_mapping
from snnconv.errors import RunError
from snnconv.reporting.collect import ANY, COUNTED, NOISE_FREE, Needs, collect
from snnconv.reporting.facts import newest_with_results
from snnconv.runs import copy_shipped, read_json, shipped_run, write_json

CLEAN = read_json(shipped_run().file("results/simulate-noise0.json"), dict[str, Any])
NOISY = CLEAN | {"noise_ratio": 0.1}
OVER_TIME = CLEAN | {"neuron": "st-bif"}
OLD = {name: value for name, value in CLEAN.items() if name not in ("operations", "created")}


def run(runs_dir: Path, name: str, recipe: str, created: int, *results: dict[str, Any], shipped: bool = False) -> None:
    """A run made, and simulated, in the years given."""
    config = {"recipe": to_mapping(load_recipe(recipe)), "seed": 0, "created": f"{created}", "shipped": shipped}
    write_json(runs_dir / name / "config.json", config)
    for number, result in enumerate(results):
        about = {"dataset": config["recipe"]["dataset"]}
        write_json(runs_dir / name / f"results/simulate-{number}.json", result | about)


def at(year: int, result: dict[str, Any]) -> dict[str, Any]:
    return result | {"created": f"{year}"}


@pytest.mark.parametrize(
    ("needs", "taken"), [(ANY, "noisy, k0B1"), (NOISE_FREE, "older, k0B1"), (COUNTED, "oldest, k0B1")]
)
def test_a_figure_takes_the_newest_run_that_has_what_it_needs(tmp_path: Path, needs: Needs, taken: str) -> None:
    run(tmp_path, "oldest", "lenet-mnist-k1B2", 2001, at(2011, CLEAN))
    run(tmp_path, "older", "lenet-mnist-k1B2", 2002, at(2012, OLD))
    run(tmp_path, "noisy", "lenet-mnist-k1B2", 2003, at(2013, NOISY))
    run(tmp_path, "temporal", "lenet-mnist-k1B2", 2004, at(2014, OVER_TIME))
    run(tmp_path, "k0B1", "lenet-mnist-k0B1", 2001, at(2001, CLEAN))
    run(tmp_path, "elsewhere", "vgg-cifar10-k1B2", 2005, at(2000, CLEAN))
    run(tmp_path, "nothing", "lenet-mnist-k0B2", 2006)
    results, source = collect(tmp_path, needs=needs)
    assert source == f"runs {taken}"
    assert [result.configuration for result in results] == ["k0B1", "k1B2"]


def test_what_was_measured_last_comes_first_also_of_networks_that_come_with_snnconv(tmp_path: Path) -> None:
    run(tmp_path, "mine", "lenet-mnist-k1B2", 2020, at(2021, CLEAN))
    run(tmp_path, "model-shipped", "lenet-mnist-k1B2", 2001, at(2022, CLEAN), shipped=True)
    assert collect(tmp_path)[1] == "runs model-shipped"
    newest = newest_with_results(tmp_path)
    assert newest is not None and newest.name == "model-shipped"
    run(tmp_path, "undated", "vgg-cifar10-k1B2", 2030, OLD)  # of an earlier release
    assert collect(tmp_path)[1] == "runs model-shipped"


def test_results_that_come_with_snnconv_are_the_last_resort(tmp_path: Path) -> None:
    run(tmp_path, "noisy", "lenet-mnist-k1B2", 2003, NOISY)
    _, source = collect(tmp_path, needs=NOISE_FREE)
    assert source.startswith("the results that come with snnconv (lenet-digits-k")
    assert source.endswith(f"): no run in {tmp_path} has noise-free simulation results of the ladder")
    assert collect(tmp_path, needs=COUNTED)[1].startswith("the results that come with snnconv (lenet-digits-k1B2): ")


@pytest.mark.parametrize(
    ("needs", "results", "words"),
    [
        (ANY, [OVER_TIME], "has no simulation results of the ladder"),
        (NOISE_FREE, [OVER_TIME, NOISY], "has no noise-free simulation results of the ladder"),
        (COUNTED, [OLD, NOISY], "has no noise-free simulation results of the ladder with operations counted"),
    ],
)
def test_a_run_that_is_named_is_told_what_it_lacks(
    tmp_path: Path, needs: Needs, results: list[dict[str, Any]], words: str
) -> None:
    run(tmp_path, "mine", "lenet-mnist-k1B2", 2001, *results)
    with pytest.raises(RunError, match=f"^run mine {words}: run `snnconv simulate --run mine` first$"):
        collect(tmp_path, ("mine",), needs)


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A folder with the run that comes with snnconv."""
    copy_shipped(tmp_path / "runs")
    return tmp_path


def test_the_commands_say_it(measured: Path) -> None:
    folder = measured / "runs/lenet-digits-k1B2"
    assert "drawing runs lenet-digits-k1B2\n" in snnconv("plot", "sparsity", cwd=measured).stderr
    shutil.rmtree(folder / "results")
    write_json(folder / "results/simulate-noise0-if-T9.json", OVER_TIME)
    for figure in ("sparsity", "sops", "energy", "accuracy"):
        error = sentence(snnconv("plot", figure, "--run", folder.name, cwd=measured))
        assert "results of the ladder" in error and error.endswith(
            f": run `snnconv simulate --run {folder.name}` first"
        )
    named = sentence(snnconv("plot", "steps", "--run", copy_shipped(measured / "runs").name, cwd=measured))
    assert named.endswith("run `snnconv simulate --neuron st-bif --run lenet-digits-k1B2-2` first")


def test_options_of_a_figure_stand_in_its_name(measured: Path) -> None:
    for options in ((), ("--movement",), ("--preset", "45nm-int8"), ("--preset", "45nm-int8", "--movement")):
        assert snnconv("plot", "energy", *options, cwd=measured).exit_code == 0
    files = sorted(file.name for file in (measured / "figs/lenet-digits").glob("*.png"))
    assert files == ["energy-45nm-int8.png", "energy-movement-45nm-int8.png", "energy-movement.png", "energy.png"]

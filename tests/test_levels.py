"""The benchmark of accuracy against L: what it measures once, prints and draws."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import pytest
from samples import settled

from benchmarks import levels
from snnconv.ann.training import network_for
from snnconv.config import load_recipe
from snnconv.data.images import load_images
from snnconv.data.preprocessing import prepare
from snnconv.own_models import new_run

MEASURED = {
    "network": "lenet",
    "dataset": "mnist",
    "float": 0.9952,
    "rows": [
        {"levels": 2, "method": "mse", "accuracy": 0.9866},
        {"levels": 1, "method": "mse", "accuracy": 0.3305},
        {"levels": 2, "method": "fine-tuned", "accuracy": 0.991},
    ],
}


def test_a_number_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("lenet-digits-fp32")
    x = prepare(load_images("digits", "train").take(100).pixels, recipe.preprocessing)  # type: ignore[attr-defined]
    run = new_run(tmp_path, recipe, settled(network_for(recipe), x))
    monkeypatch.setattr(levels, "FOLDER", tmp_path)
    monkeypatch.setattr(levels, "IMAGES", 50)
    args = argparse.Namespace(
        run=run.name, runs_dir=tmp_path, data_dir=None, levels=[4], methods=["max"], epochs=1, learning_rate=1e-3
    )
    levels.measure(args)
    file = tmp_path / "levels-lenet-digits.json"
    first = json.loads(file.read_text())
    assert [(row["levels"], row["method"]) for row in first["rows"]] == [(4, "max")]
    assert 0 <= first["rows"][0]["accuracy"] <= 1 and first["images"] == 500 and first["calibration_images"] == 50
    monkeypatch.setattr(levels, "quantize", None)
    levels.measure(args)
    assert json.loads(file.read_text()) == first


def test_the_table_has_a_row_an_l() -> None:
    assert levels.table(MEASURED).splitlines() == [
        "lenet on mnist, float 99.52 %:",
        "",
        "| L | mse | fine-tuned |",
        "|---|---|---|",
        "| 1 | 33.05 | - |",
        "| 2 | 98.66 | 99.10 |",
    ]


def test_the_figure_comes_with_its_rows(tmp_path: Path) -> None:
    png, svg, table = levels.draw([MEASURED, MEASURED | {"dataset": "cifar10"}], tmp_path / "levels")
    assert png.stat().st_size > 10_000 and svg.stat().st_size > 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["dataset"], row["levels"], row["method"]) for row in rows[:3]] == [
        ("mnist", "1", "mse"), ("mnist", "2", "mse"), ("mnist", "2", "fine-tuned"),
    ]  # fmt: skip
    assert len(rows) == 6


def test_levels_are_a_range_or_a_list() -> None:
    assert levels._levels("1-4") == [1, 2, 3, 4]
    assert levels._levels("1,8,16") == [1, 8, 16]

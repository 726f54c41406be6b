"""The results table: what is kept of a run, which runs a row averages, and how it is printed."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import results
from benchmarks.results import CAPTION, HEADER, Collected, collect, draw, markdown, table
from snnconv.config import change_recipe, load_recipe, recipe_from_mapping, to_mapping
from snnconv.errors import FormatError, RunError
from snnconv.runs import TRAINING, VERIFICATION, Run, TrainingResult, copy_shipped, read_json, write_json

IMAGES = 500
"""Test images of the shipped run."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return copy_shipped(tmp_path / "runs")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    return collect(copy_shipped(tmp_path_factory.mktemp("runs")))


def simulation_file(run: Run, name: str, **changes: Any) -> None:
    """The noise-free simulation with some entries changed, as another result."""
    clean = read_json(run.file("results/simulate-noise0.json"), dict[str, Any])
    write_json(run.file(f"results/simulate-{name}.json"), clean | changes)


def of_mnist(shipped: Collected, seed: int, correct: int, spikes: float = 100.0, **changes: Any) -> Collected:
    """A run of lenet-mnist-k1B2 that never was: 1,000 images, two trials at noise 0.1 a little below and above."""
    recipe = change_recipe(load_recipe("lenet-mnist-k1B2"), changes)
    clean = shipped.simulations[0] | {"images": 1000, "correct_by_trial": [correct], "spikes_per_image": spikes}
    clean |= {"sops_per_image": dict.fromkeys(clean["sops_per_image"], 10 * spikes)}
    noisy = clean | {"noise_ratio": 0.1, "trials": 2, "correct_by_trial": [correct - 2, correct + 2]}
    proof = {"images": 1000, "predictions_equal": 1000, "logits_equal": 1000, "units": 5000, "mismatches": 0}
    return msgspec.structs.replace(
        shipped,
        run=f"lenet-mnist-k1B2-s{seed}",
        recipe=to_mapping(recipe),
        seed=seed,
        verification=results.Verified(ann_correct=correct, **proof),
        simulations=[clean, noisy],
    )


def test_what_is_kept_is_what_table_and_figures_need(shipped: Collected, run: Run) -> None:
    assert [own["noise_ratio"] for own in shipped.simulations] == [0.0, 0.1, 0.2]
    for own in shipped.simulations:
        assert not {"energy", "operations", "per_step", "choices"} & set(own)
        assert set(own["layers"][0]) == {"name", "kind", "units", "levels", "spikes", "rate", "sops", "macs"}
        original = read_json(run.file(f"results/simulate-noise{own['noise_ratio']:g}.json"), dict[str, Any])
        assert all(original[name] == value for name, value in own.items() if name != "layers")
    parity = read_json(run.file(VERIFICATION), dict[str, Any])
    assert shipped.verification is not None
    assert shipped.verification.units == sum(layer["units"] for layer in parity["layers"]) > 10**6
    assert shipped.verification.predictions_equal == shipped.verification.images == IMAGES
    text = json.dumps(msgspec.to_builtins(shipped), indent=1)
    assert len(text) < 16_000
    assert json.dumps(msgspec.to_builtins(msgspec.json.decode(text, type=Collected)), indent=1) == text


def test_only_the_ladder_on_whole_test_sets_with_noise_in_the_encoder_counts(run: Run) -> None:
    before = collect(run)
    layers = [layer["name"] for layer in before.simulations[0]["layers"]]
    deletion = {"name": "deletion", "ratio": 0.1, "layers": layers[:1]}
    simulation_file(run, "noise0-if-T32", neuron="if", steps=32, accuracy=0.5)
    simulation_file(run, "noise0-100images", images=100, accuracy=0.5)
    simulation_file(run, "noise0-mnist", dataset="mnist", accuracy=0.5)
    simulation_file(run, "noise0-split", split=True, accuracy=0.5)
    simulation_file(run, "noise0.1-all", noise_ratio=0.1, noise_layers=layers, accuracy=0.5)
    simulation_file(run, "noise-threshold0.1", noise=[deletion | {"name": "threshold"}], accuracy=0.5)
    simulation_file(run, "noise-two", noise=[deletion, deletion | {"name": "membrane"}], accuracy=0.5)
    assert collect(run) == before
    simulation_file(run, "noise0.3", noise=[deletion | {"ratio": 0.3}], noise_ratio=0.3, neuron="ladder", accuracy=0.5)
    assert [own["noise_ratio"] for own in collect(run).simulations] == [0.0, 0.1, 0.2, 0.3]


def test_a_proof_on_some_images_is_none(run: Run) -> None:
    parity = read_json(run.file(VERIFICATION), dict[str, Any])
    write_json(run.file(VERIFICATION), parity | {"images": 100})
    kept = collect(run)
    assert kept.verification is None
    assert kept.accuracy == 100 * kept.training.test_accuracy
    (row,) = table([kept])
    assert "| - | 9" in markdown([row])


def test_a_proof_of_a_network_split_by_sign_is_none(run: Run) -> None:
    parity = read_json(run.file(VERIFICATION), dict[str, Any])
    write_json(run.file(VERIFICATION), parity | {"split": True})
    assert collect(run).verification is None


def test_a_run_that_is_not_trained_or_damaged_is_refused(run: Run) -> None:
    good = run.file("results/simulate-noise0.json").read_bytes()
    simulation_file(run, "noise0", sops_per_image=3)
    with pytest.raises(FormatError, match=rf"^a simulation result of {run.name}-k1B2 is damaged"):
        collect(run)
    run.file("results/simulate-noise0.json").write_bytes(good)
    run.file(VERIFICATION).write_text("{}")
    with pytest.raises(FormatError, match="verify.json is damaged"):
        collect(run)
    run.file(TRAINING).unlink()
    with pytest.raises(RunError, match=rf"^run {run.name} has no results/train.json: train it to its end first"):
        collect(run)


def test_a_row_is_over_all_seeds(shipped: Collected) -> None:
    runs = [
        of_mnist(shipped, seed, correct, spikes)
        for seed, correct, spikes in ((1, 990, 100), (0, 994, 104), (2, 995, 99))
    ]
    (row,) = table(runs)
    assert (row["recipe"], row["changed"], row["seeds"], row["epochs"]) == ("lenet-mnist-k1B2", False, [0, 1, 2], 40)
    assert row["ann"] == pytest.approx(99.3)
    assert row["ann_sd"] == pytest.approx(((0.3**2 + 0.1**2 + 0.2**2) / 2) ** 0.5)
    assert row["verified"] == {
        "images": 3000, "predictions_equal": 3000, "logits_equal": 3000, "units": 15_000, "mismatches": 0
    }  # fmt: skip
    weak, strong = row["noise"]
    assert weak == {
        "ratio": 0.1,
        "accuracy": pytest.approx(99.3),
        "sd": pytest.approx(statistics.stdev([98.8, 99.2, 99.2, 99.6, 99.3, 99.7])),
        "draws": 6,
        "published": 99.39,
    }
    assert strong == {"ratio": 0.2, "accuracy": None, "sd": None, "draws": 0, "published": 99.22}
    assert (row["spikes"], row["synops"], row["zou2021"]) == (101, 1010, 1010)


def test_a_row_as_printed(shipped: Collected) -> None:
    lines = markdown(table([of_mnist(shipped, 0, 990), of_mnist(shipped, 1, 994)])).splitlines()
    assert lines[0] == "| " + " | ".join(HEADER) + " |"
    assert lines[1:] == [
        "|" + "---|" * 14,
        "| lenet-mnist-k1B2 | MNIST | 2 | 40 | 99.37 | - | 99.20 +- 0.28 | 2,000 of 2,000, 0 units differ "
        "| 99.20 +- 0.33 (99.39) | - (99.22) | 4 | 100 (18,587) | 1,000 | 1,000 (27,879,201) |",
        "",
        CAPTION,
    ]
    (single,) = table([of_mnist(shipped, 0, 990)])
    assert "| 1 | 40 | 99.37 | - | 99.00 | 1,000 of 1,000" in markdown([single])


def test_runs_that_were_trained_otherwise_are_rows_of_their_own(shipped: Collected) -> None:
    same = [of_mnist(shipped, 0, 990), of_mnist(shipped, 1, 991, description="other words")]
    older = of_mnist(shipped, 2, 992, published={"accuracy": 99.37, "source": "x"})
    few = of_mnist(shipped, 0, 980, **{"training.epochs": 12})
    plain = of_mnist(shipped, 0, 985, **{"augmentation.pad": 0})
    published = of_mnist(shipped, 0, 970)
    published = msgspec.structs.replace(published, recipe=to_mapping(load_recipe("lenet-mnist-k1B2-published")))
    rows = table([few, published, *same, plain, older])
    assert [(row["recipe"], row["epochs"], row["seeds"], row["changed"]) for row in rows] == [
        ("lenet-mnist-k1B2", 12, [0], True),
        ("lenet-mnist-k1B2", 40, [0, 1, 2], False),
        ("lenet-mnist-k1B2", 40, [0], True),
        ("lenet-mnist-k1B2-published", 200, [0], False),
    ]
    assert all(row["published"]["spikes"] == 18_587 for row in rows)
    assert [row["published_recipe"] for row in rows] == [97.0, 97.0, 97.0, None]
    assert "| lenet-mnist-k1B2 | MNIST | 3 | 40 | 99.37 | 97.00 | 99.10 +- 0.10 |" in markdown(rows)
    assert "| lenet-mnist-k1B2 (changed) | MNIST | 1 | 12 |" in markdown(rows)


def test_of_the_runs_of_one_seed_the_newest_counts(shipped: Collected) -> None:
    old, new = of_mnist(shipped, 0, 900), of_mnist(shipped, 0, 990)
    old, new = (msgspec.structs.replace(own, created=day) for own, day in ((old, "2026-01-01"), (new, "2026-01-02")))
    for order in ([old, new], [new, old]):
        (row,) = table(order)
        assert (row["seeds"], row["ann"], row["ann_sd"]) == ([0], 99.0, None)


def test_a_float_network_has_a_row_without_counts(shipped: Collected) -> None:
    training = TrainingResult(40, 39, 0.99, 0.9952, 1000, 1.0)
    fp32 = msgspec.structs.replace(
        shipped,
        recipe=to_mapping(load_recipe("lenet-mnist-fp32")),
        training=training,
        verification=None,
        simulations=[],
    )
    rows = table([of_mnist(shipped, 0, 990), fp32, shipped])
    assert [row["recipe"] for row in rows] == ["lenet-mnist-fp32", "lenet-mnist-k1B2", "lenet-digits-k1B2"]
    assert "| lenet-mnist-fp32 | MNIST | 1 | 40 | 99.52 | - | 99.52 | - | - | - | - | - | - | - |" in markdown(rows)


def test_a_figure_shows_the_mean_over_the_seeds_of_the_present_recipe_of_ours(
    shipped: Collected, tmp_path: Path
) -> None:
    ours = [of_mnist(shipped, seed, correct, spikes) for seed, correct, spikes in ((0, 990, 100), (1, 994, 104))]
    ours = [msgspec.structs.replace(own, created="2026-01-01") for own in ours]
    accuracies = {0: 0.990, 1: 0.994}
    for own in ours:
        own.simulations[0]["accuracy"] = accuracies[own.seed]
    few = of_mnist(shipped, 0, 980, 50, **{"training.epochs": 12})
    published = of_mnist(shipped, 0, 970, 60)
    published = msgspec.structs.replace(published, recipe=to_mapping(load_recipe("lenet-mnist-k1B2-published")))

    def drawn(found: list[Collected]) -> tuple[float, float]:
        draw(found, tmp_path)
        with (tmp_path / "lenet-mnist/accuracy.csv").open() as accuracy:
            clean = next(row for row in csv.DictReader(accuracy) if float(row["noise_ratio"]) == 0)
        with (tmp_path / "lenet-mnist/sparsity.csv").open() as sparsity:
            return float(clean["accuracy"]), float(next(csv.DictReader(sparsity))["spikes_per_image"])

    for found in ([few, published, *ours], [*ours, published, few]):
        assert drawn(found) == (pytest.approx(0.992), 102)
    assert drawn([few, published])[1] == 50
    assert drawn([published])[1] == 60


def test_figures_are_drawn_from_the_newest_of_each_configuration(shipped: Collected, tmp_path: Path) -> None:
    recipe = to_mapping(change_recipe(recipe_from_mapping(shipped.recipe, "x"), {"quantization": "k0B1"}))
    other = msgspec.structs.replace(shipped, recipe=recipe)
    newer = msgspec.structs.replace(other, created="2999", simulations=[shipped.simulations[0] | {"accuracy": 0.5}])
    files = draw([newer, shipped, other, of_mnist(shipped, 0, 990)], tmp_path)
    groups, names = ("lenet-digits", "lenet-mnist"), ("sparsity", "sops", "accuracy")
    suffixes = (".png", ".svg", ".csv")
    assert {str(file.relative_to(tmp_path)) for file in files} == {
        f"{group}/{name}{suffix}" for group in groups for name in names for suffix in suffixes
    }
    rows = (tmp_path / "lenet-digits/accuracy.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["k0B1", "k1B2", "k1B2", "k1B2"]
    assert "0.5" in rows[1]
    assert "18587" in (tmp_path / "lenet-mnist/sparsity.csv").read_text()


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["results", *map(str, arguments)])
    results.main()


def test_the_command_collects_prints_and_writes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    second = shutil.copytree(run.path, run.path.with_name("again"))
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps(config | {"seed": 7}))
    folder = tmp_path / "results"
    command(monkeypatch, "--folder", folder, "--collect", run.path, second, "--json", tmp_path / "rows.json")
    first = capsys.readouterr().out
    assert sorted(file.name for file in folder.iterdir()) == ["run-again.json", f"run-{run.name}.json"]
    assert f"| lenet-digits-k1B2 | digits | 2 | {config['recipe']['training']['epochs']} | - | " in first
    assert f"| {2 * IMAGES:,} of {2 * IMAGES:,}, 0 units differ |" in first
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["seeds"] == [run.seed, 7]
    kept = (folder / "run-again.json").read_bytes()
    (second / "config.json").write_text(json.dumps(config | {"created": "2999-01-01"}))
    with pytest.raises(SystemExit, match=r"run-again.json is of another run of this name"):
        command(monkeypatch, "--folder", folder, "--collect", second)
    assert (folder / "run-again.json").read_bytes() == kept
    command(monkeypatch, "--folder", folder)
    assert capsys.readouterr().out == first


def test_a_known_error_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"^Error: .*nowhere is not a run folder"):
        command(monkeypatch, "--folder", tmp_path / "results", "--collect", tmp_path / "nowhere")
    assert not (tmp_path / "results").exists()
    with pytest.raises(SystemExit, match=r"^Error: .*results has no results, run-\*\.json: add runs with --collect$"):
        command(monkeypatch, "--folder", tmp_path / "results")


@pytest.fixture(scope="module")
def measured() -> list[dict[str, Any]]:
    """The rows of the repository."""
    return table([read_json(file, Collected) for file in results.FOLDER.glob("run-*.json")])


def test_every_network_in_the_repository_but_the_float_one_is_proven(measured: list[dict[str, Any]]) -> None:
    assert len(measured) >= 14
    for row in measured:
        proof = row["verified"]
        assert row["verified_seeds"] == (0 if row["quantization"] == "fp32" else len(row["seeds"])), row["recipe"]
        assert proof["mismatches"] == 0 and proof["predictions_equal"] == proof["images"]


def test_the_readme_has_the_table(measured: list[dict[str, Any]]) -> None:
    assert markdown(measured) in (results.FOLDER.parents[1] / "README.md").read_text()


def test_the_document_says_what_the_table_says(measured: list[dict[str, Any]]) -> None:
    rows = {row["recipe"]: row for row in sorted(measured, key=lambda row: not row["changed"])}
    lines = (results.FOLDER.parents[1] / "docs" / "results.md").read_text().splitlines()
    compared = {line.split(",")[0].split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    text = " ".join(lines)
    for name, recipe in (
        ("LeNet k0B1", "lenet-mnist-k0B1"),
        ("LeNet k0B2", "lenet-mnist-k0B2"),
        ("LeNet k1B2", "lenet-mnist-k1B2"),
        ("LeNet k1B2 by the published recipe", "lenet-mnist-k1B2-published"),
        ("VGG k0B1", "vgg-cifar10-k0B1"),
        ("VGG k1B2", "vgg-cifar10-k1B2"),
    ):
        row = rows[recipe]
        spikes, operations = row["published"]["spikes"], row["published"]["sops"]
        cells = [cell.strip() for cell in compared[name].strip("|").split("|")]
        assert cells[1:4] == [f"{row['spikes']:,.0f}", f"{spikes:,}", f"{row['spikes'] / spikes:.2f}"]
        millions = [f"{number / 1e6:.3g} M" for number in (row["zou2021"], operations)]
        assert cells[4:] == [*millions, f"{row['zou2021'] / operations:.2f}"]
    vgg = {name: rows[f"vgg-cifar10-{name}"] for name in ("fp32", "k0B1", "k1B2")}
    short = {name: f"{row['published']['accuracy'] - row['ann']:.1f}" for name, row in vgg.items()}
    assert f"{vgg['fp32']['ann']:.2f} % after 30 epochs where 92.85 % is published ({short['fp32']} points)" in text
    assert f"k0B1 of as many epochs is {short['k0B1']} points below its published figure" in text
    assert f"k1B2 of 60 is {short['k1B2']} below" in text
    assert [row["epochs"] for row in vgg.values()] == [30, 30, 60]
    control = rows["lenet-mnist-k1B2-published"]
    weak, strong = (own["accuracy"] for own in control["noise"])
    assert f"gives {control['ann']:.2f} % where 99.37 % is published, with noise {weak:.2f} and {strong:.2f} %" in text

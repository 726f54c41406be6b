"""The real command line, end to end on scikit-learn's digits, and every wrong use in one sentence."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import save_file

from snnconv.cli.main import main
from snnconv.formats.packing import pack_ternary, unpack_ternary
from snnconv.runs import open_run


def snnconv(*arguments: str, cwd: Path | None = None) -> Result:
    """Run a command in a folder of its own."""
    here = Path.cwd()
    try:
        if cwd is not None:
            os.chdir(cwd)
        return CliRunner().invoke(main, arguments)
    finally:
        os.chdir(here)


def sentence(result: Result, status: int = 1) -> str:
    """The error of a command that must have failed as it should: one line on stderr, no traceback."""
    assert result.exit_code == status, (result.exit_code, result.output, result.exception)
    assert isinstance(result.exception, SystemExit), result.exception
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.stderr
    return errors[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with one trained, converted, verified and simulated run."""
    folder = tmp_path_factory.mktemp("trained")
    steps = [
        ("train", "lenet-digits-k1B2", "--epochs", "8", "--quiet"),
        ("convert", "--quiet"),
        ("verify", "--quiet"),
        ("simulate", "--quiet"),
        ("simulate", "--noise-ratio", "0.1", "--trials", "2", "--quiet"),
    ]
    for step in steps:
        result = snnconv(*step, cwd=folder)
        assert result.exit_code == 0, (step, result.output, result.exception)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(trained, tmp_path / "work")


RUN = Path("runs/lenet-digits-k1B2")


def test_a_run_folder_holds_everything(trained: Path) -> None:
    names = {str(file.relative_to(trained / RUN)) for file in (trained / RUN).rglob("*") if file.is_file()}
    assert names == {
        "config.json", "environment.json", "history.json", "checkpoint.pt", "ann.safetensors", "network.safetensors",
        "results/train.json", "results/verify.json", "results/simulate-noise0.json", "results/simulate-noise0.1.json",
    }  # fmt: skip
    environment = json.loads((trained / RUN / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["threads"] >= 1 and environment["device"]


def test_simulate_prints_one_object_with_what_scripts_need(trained: Path) -> None:
    result = snnconv("simulate", "--json", "--images", "100", "--trials", "3", "--noise-ratio", "0.2", cwd=trained)
    assert result.exit_code == 0
    values = json.loads(result.stdout)
    assert {"accuracy", "accuracy_interval", "correct", "images", "levels", "steps", "noise_ratio", "trials"} <= set(
        values
    )
    assert {"spikes_per_image", "sops_per_image", "layers"} <= set(values)
    assert (values["images"], values["trials"], values["levels"], values["steps"]) == (100, 3, 4, 1)
    assert values["accuracy"] == pytest.approx(values["correct"] / 300)
    low, high = values["accuracy_interval"]
    assert low <= values["accuracy"] <= high
    assert set(values["sops_per_image"]) == {"synops", "events", "fanout", "ladder", "zou2021"}
    assert "using run" in result.stderr
    partial = trained / RUN / "results" / "simulate-noise0.2-100images.json"
    assert json.loads(partial.read_text()) == values
    partial.unlink()


def test_results_do_not_depend_on_batch_size_or_engine(trained: Path) -> None:
    def counts(*options: str) -> tuple[object, ...]:
        common = ("--noise-ratio", "0.3", "--images", "60", "--json", "--figs-dir", "other", "--quiet")
        result = snnconv("simulate", *common, *options, cwd=trained)
        values = json.loads(result.stdout)
        return values["correct"], values["spikes_per_image"], values["sops_per_image"], values["layers"]

    assert counts("--batch-size", "7") == counts("--batch-size", "60") == counts("--engine", "reference")
    assert counts() != counts("--seed", "1")


def test_a_first_result_of_ones_own_says_that_the_one_before_came_with_snnconv(tmp_path: Path) -> None:
    first = snnconv("simulate", "--noise-ratio", "0.1", cwd=tmp_path)
    assert "simulate-noise0.1.json, which came with snnconv, was measured with other trials: it is kept" in first.stderr
    second = snnconv("simulate", "--noise-ratio", "0.1", "--seed", "1", cwd=tmp_path)
    assert "simulate-noise0.1.json was measured with other seed: it is kept" in second.stderr


def test_a_result_of_other_settings_is_kept_and_that_is_said(folder: Path) -> None:
    file = folder / RUN / "results/simulate-noise0.3-70images.json"
    earlier = file.parent / "earlier"

    def measured(*options: str) -> tuple[str, dict[str, Any]]:
        result = snnconv("simulate", "--noise-ratio", "0.3", "--images", "70", "--json", *options, cwd=folder)
        assert result.exit_code == 0, (result.output, result.exception)
        values: dict[str, Any] = json.loads(result.stdout)
        assert json.loads(file.read_text()) == values
        return result.stderr, values

    said, ten = measured("--trials", "10")
    assert "is kept" not in said
    said, again = measured("--trials", "10", "--batch-size", "7")
    assert "is kept" not in said and not list(earlier.glob("*70images*"))
    said, one = measured()
    kept = earlier / "simulate-noise0.3-70images-1.json"
    assert f"{file.name} was measured with other trials: it is kept as {kept.relative_to(folder)}" in said
    assert json.loads(kept.read_text()) == again and again["correct_by_trial"] == ten["correct_by_trial"]
    said, _ = measured("--seed", "1", "--trials", "2", "--quiet")
    assert said == "" and json.loads((earlier / "simulate-noise0.3-70images-2.json").read_text()) == one
    file.write_text("{")  # what is damaged is no result
    measured()
    assert len(list(earlier.glob("*70images*"))) == 2
    assert not list(file.parent.glob("simulate-*-1.json"))


def test_results_of_other_margins_and_splits_are_kept(folder: Path) -> None:
    over = ("simulate", "--neuron", "st-bif", "--steps", "3", "--images", "20", "--exit-margin")
    for margin, said in (("0.5", ""), ("0.9", "other exit margin"), ("0.9", "")):
        result = snnconv(*over, margin, cwd=folder)
        assert result.exit_code == 0 and ("is kept" in result.stderr) == bool(said) and said in result.stderr
    file = folder / RUN / "results/simulate-noise0.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"split": True}))
    assert "other split: it is kept" in snnconv("simulate", cwd=folder).stderr
    open_run(folder / RUN).forget_results()
    assert not list(folder.glob(f"{RUN}/results/earlier/*"))


def test_the_logs_a_batch_add_up_to_the_totals(trained: Path) -> None:
    values = json.loads((trained / RUN / "results/simulate-noise0.1.json").read_text())
    logs = trained / "figs/lenet-digits-k1B2"
    rows = {
        name: list(csv.DictReader((logs / f"{name}-noise0.1.csv").read_text().splitlines()))
        for name in ("accuracy", "spikes", "sops")
    }
    shown = values["images"] * values["trials"]
    assert sum(int(row["correct"]) for row in rows["accuracy"]) == values["correct"]
    assert sum(int(row["images"]) for row in rows["accuracy"]) == shown
    assert sum(int(row["spikes"]) for row in rows["spikes"]) / shown == values["spikes_per_image"]
    for convention, total in values["sops_per_image"].items():
        assert sum(int(row[convention]) for row in rows["sops"]) / shown == pytest.approx(total)


def test_verify_proves_the_run(trained: Path) -> None:
    values = json.loads(snnconv("verify", "--json", "--quiet", cwd=trained).stdout)
    assert values["images"] == values["predictions_equal"] == values["logits_equal"] == 500
    assert values["encoder_ties"] == 0
    assert values["failures"] == []
    assert len(values["layers"]) == 6
    for layer in values["layers"]:
        assert layer["mismatches"] == layer["max_difference"] == 0
        assert layer["units"] > 0 and 0.01 < layer["inside_grid"] < 1


def change_tensor(file: Path, name: str, change: object) -> None:
    """Apply a function to one tensor of a safetensors file and write it back."""
    with safe_open(file, "pt") as source:
        header, tensors = source.metadata(), {key: source.get_tensor(key) for key in source.keys()}  # noqa: SIM118
    tensors[name] = change(tensors[name])  # type: ignore[operator]
    save_file(tensors, file, header)


def test_one_weight_code_changed_by_one_is_caught_and_the_layer_named(folder: Path) -> None:
    def change(packed: object) -> object:
        codes = unpack_ternary(packed, (16, 16, 5, 5))  # type: ignore[arg-type]
        codes[3, 2, 1, 1] = 0 if codes[3, 2, 1, 1] else 1
        return pack_ternary(codes)

    change_tensor(folder / RUN / "network.safetensors", "conv2_act.0.weight", change)
    result = snnconv("verify", "--quiet", cwd=folder)
    assert "NOT PROVEN" in result.stdout
    assert "layer conv2_act" in sentence(result) and "conv3_act" not in sentence(result)


def test_one_threshold_changed_by_one_is_caught_and_the_layer_named(folder: Path) -> None:
    file = folder / RUN / "network.safetensors"
    with safe_open(file, "pt") as source:
        scale = source.get_tensor("conv4_act.0.scale")

    def change(offset: object) -> object:
        offset[5] -= scale[5]  # type: ignore[index]
        return offset

    change_tensor(file, "conv4_act.0.offset", change)
    assert "layer conv4_act" in sentence(snnconv("verify", "--quiet", cwd=folder))


def test_a_silent_network_is_called_silent(folder: Path) -> None:
    for file in ("network.safetensors", "ann.safetensors"):
        with safe_open(folder / RUN / file, "pt") as source:
            names = [name for name in source.keys() if name in ("conv3_act.0.offset", "conv3.norm.bias")]  # noqa: SIM118
        change_tensor(folder / RUN / file, names[0], lambda tensor: tensor - 1000)
    assert "layer conv3_act is silent" in sentence(snnconv("verify", "--quiet", cwd=folder))


@pytest.mark.parametrize("figure", ["sparsity", "sops", "accuracy", "energy"])
def test_plots_are_drawn_from_results_alone(folder: Path, figure: str) -> None:
    for file in ("ann.safetensors", "network.safetensors", "checkpoint.pt"):
        (folder / RUN / file).unlink()
    result = snnconv("plot", figure, cwd=folder)
    assert result.exit_code == 0, result.output
    files = {Path(line).suffix: folder / line for line in result.stdout.splitlines()}
    assert set(files) == {".png", ".svg", ".csv"}
    assert all(file.stat().st_size > 50 for file in files.values())
    assert "k1B2" in files[".csv"].read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert",), ("verify",), ("simulate", "--noise-ratio", "0.1"), ("simulate",),
        ("plot", "sparsity"), ("plot", "sops"), ("plot", "accuracy"), ("plot", "energy"), ("report",), ("recipes",), ("runs",), ("info",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_command_works_as_typed_right_after_install(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = snnconv(*arguments, cwd=tmp_path)
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stdout.strip()


def test_the_list_of_commands_cuts_no_description() -> None:
    assert "..." not in snnconv("--help").stdout.partition("Commands:")[2]


def test_lists_show_the_runs_and_the_recipes(trained: Path) -> None:
    rows = json.loads(snnconv("runs", "--json", cwd=trained).stdout)["runs"]
    assert [(row["name"], row["state"], row["epochs_done"]) for row in rows] == [("lenet-digits-k1B2", "verified", 8)]
    recipes = {row["name"]: row for row in json.loads(snnconv("recipes", "--json", cwd=trained).stdout)["recipes"]}
    assert recipes["lenet-mnist-k1B2"]["published"]["accuracy"] == 99.37
    assert recipes["lenet-digits-k1B2"]["measured"] is None  # eight epochs are another recipe
    some = snnconv("recipes", "Digits-k1", cwd=trained).stdout
    assert [line.split()[0] for line in some.splitlines()[3:]] == ["lenet-digits-k1B2"]
    for command in ("runs", "recipes", "info"):
        result = snnconv(command, cwd=trained)
        assert result.exit_code == 0 and "lenet-digits-k1B2" in result.stdout


def test_resume_goes_on_and_a_second_run_takes_another_name(tmp_path: Path) -> None:
    start = ("train", "lenet-digits-k0B1", "--epochs", "1", "--quiet", "--json")
    assert json.loads(snnconv(*start, cwd=tmp_path).stdout)["run"] == "lenet-digits-k0B1"
    assert json.loads(snnconv(*start, cwd=tmp_path).stdout)["run"] == "lenet-digits-k0B1-2"
    result = snnconv("train", "--resume", "--run", "lenet-digits-k0B1", "--quiet", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["epochs"] == 1


def test_a_run_takes_the_name_it_is_given(tmp_path: Path) -> None:
    start = ("train", "lenet-digits-k0B1", "--seed", "1", "--run", "second-seed", "--epochs", "1", "--quiet", "--json")
    assert json.loads(snnconv(*start, cwd=tmp_path).stdout)["run"] == "second-seed"
    assert json.loads(snnconv("convert", "--run", "second-seed", "--json", cwd=tmp_path).stdout)["run"] == "second-seed"
    assert "--resume --run second-seed" in sentence(snnconv(*start, cwd=tmp_path))
    before_the_data = ("train", "lenet-mnist-k1B2", "--run", "second-seed", "--data-dir", "nowhere")
    assert "--resume --run second-seed" in sentence(snnconv(*before_the_data, cwd=tmp_path))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["second-seed"]


@pytest.mark.parametrize("files", [("network.safetensors", "results/train.json"), ("ann.safetensors",)])
def test_a_network_that_was_not_trained_here_is_no_training_to_resume(
    trained: Path, tmp_path: Path, files: tuple[str, ...]
) -> None:
    source, run = trained / "runs" / "lenet-digits-k1B2", tmp_path / "runs" / "mine"
    (run / "results").mkdir(parents=True)
    config = json.loads((source / "config.json").read_text()) | {"shipped": "network.safetensors" in files}
    (run / "config.json").write_text(json.dumps(config))
    for name in files:
        shutil.copyfile(source / name, run / name)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert "run mine was not trained here" in sentence(snnconv("train", "--resume", "--run", "mine", cwd=tmp_path))
    again = sentence(snnconv("train", "lenet-digits-k1B2", "--run", "mine", cwd=tmp_path))
    assert again.endswith("mine exists: choose another name")
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_overrides_make_another_configuration(tmp_path: Path) -> None:
    result = snnconv("train", "lenet-digits-k1B2", "--k", "2", "--epochs", "1", "--quiet", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["run"] == "lenet-digits-k2B2"


WRONG = [
    (("train", "lenet-digits-k1B2", "--k", "-1"), 1, "k (= -1)"),
    (("train", "lenet-digits-k1B9"), 1, "unknown recipe 'lenet-digits-k1B9'"),
    (("train", "lenet-mnist-k1b2"), 1, "'lenet-mnist-k1b2' (did you mean lenet-mnist-k1B2?): `snnconv recipes`"),
    (("recipes", "nothing"), 1, "no recipe has 'nothing' in its name"),
    (("simulate", "--run", "lenet-digit-k1B2"), 1, "in runs (did you mean lenet-digits-k1B2?): `snnconv runs`"),
    (("train", "lenet-digits-k1B2", "--epochs", "0"), 1, "epochs (= 0)"),
    (("train",), 2, "either a recipe"),
    (("train", "--resume"), 1, "is unfinished"),
    (("train", "lenet-mnist-k1B2", "--data-dir", "empty.gz"), 1, "no data folder empty.gz"),
    (("simulate", "--noise-ratio", "1.5"), 2, "1.5"),
    (("simulate", "--noise-ratio", "-0.1"), 2, "-0.1"),
    (("simulate", "--noise-layers", "conv9"), 1, "'conv9'"),
    (("simulate", "--trials", "0"), 2, "0 is not in the range"),
    (("simulate", "--batch-size", "0"), 2, "0 is not in the range"),
    (("simulate", "--images", "501"), 1, "500 test images"),
    (("simulate", "--engine", "warp"), 1, "unknown engine 'warp'"),
    (("simulate", "--engine", "integer"), 1, "one of the ways that engine auto times for a layer, no engine by itself"),
    (("simulate", "--device", "abacus"), 1, "device 'abacus'"),
    (("simulate", "--run", "nobody"), 1, "no run called nobody"),
    (("simulate", "--data", "imagenets"), 1, "unknown data set 'imagenets'"),
    (("simulate", "--data", "imagenet", "--data-dir", "."), 1, "imagenet have sizes of their own"),
    (("simulate", "--workers", "-1"), 2, "-1 is not in the range"),
    (("train", "lenet-digits-k1B2", "--teacher", "nobody"), 1, "no run called nobody"),
    (("train", "resnet18tnn-folder-k1B2", "--data-dir", "."), 1, "train/<class>"),
    (("train", "lenet-digits-k1B2", "--run", "mine/first"), 1, "run name 'mine/first': letters, digits"),
    (("train", "--resume", "--epochs", "3"), 2, "keeps its recipe"),
    (("simulate", "--data", "mnist", "--data-dir", "nowhere"), 1, "no data folder nowhere: make it, or name another"),
    (("plot", "sparsity", "--run", "nobody"), 1, "no run called nobody"),
    (("plot", "colours"), 2, "No such command"),
]


@pytest.mark.parametrize(("arguments", "status", "part"), WRONG, ids=[" ".join(row[0]) for row in WRONG])
def test_wrong_use_is_one_sentence(
    trained: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, part: str
) -> None:
    where = tmp_path if arguments[0] == "train" else trained
    if arguments[0] == "train":
        (tmp_path / "empty.gz").write_bytes(b"")
    before = sorted(where.rglob("*"))
    assert part in sentence(snnconv(*arguments, cwd=where), status)
    assert sorted(where.rglob("*")) == before


def test_damaged_files_are_one_sentence(folder: Path) -> None:
    run = folder / RUN
    network = run / "network.safetensors"
    network.write_bytes(network.read_bytes()[:20_000])
    assert "network.safetensors" in sentence(snnconv("simulate", cwd=folder))
    network.write_bytes(b"GIF89a")
    assert "network.safetensors" in sentence(snnconv("verify", cwd=folder))
    shutil.copy(run / "ann.safetensors", network)
    assert "not a converted network" in sentence(snnconv("info", cwd=folder))
    (run / "config.json").write_text('{"recipe": ')
    passed_over = snnconv("runs", cwd=folder)
    assert passed_over.exit_code == 0 and "config.json is damaged" in passed_over.stderr
    assert "config.json is damaged" in sentence(snnconv("info", "--run", "lenet-digits-k1B2", cwd=folder))


@pytest.mark.parametrize(
    ("file", "content", "command"),
    [
        ("results/train.json", "{}", "runs"),
        ("results/train.json", '{"test_accuracy": "x"}', "info"),
        ("history.json", "5", "runs"),
        ("results/simulate-noise0.json", "[]", "plot sops"),
        ("results/simulate-noise0.json", '{"dataset": "digits"}', "plot sops"),
        ("results/simulate-noise0.json", None, "plot accuracy"),
    ],
)
def test_results_of_another_shape_are_one_sentence(folder: Path, file: str, content: str | None, command: str) -> None:
    path = folder / RUN / file
    if content is None:
        content = json.dumps(json.loads(path.read_text()) | {"accuracy": "x", "layers": [3]})
    path.write_text(content)
    assert path.name in sentence(snnconv(*command.split(), cwd=folder)) or "simulation result" in sentence(
        snnconv(*command.split(), cwd=folder)
    )


def test_a_network_of_other_weights_is_converted_anew(folder: Path) -> None:
    assert json.loads(snnconv("simulate", "--json", "--quiet", cwd=folder).stdout)["accuracy"] > 0.9
    change_tensor(folder / RUN / "ann.safetensors", "readout.weight", lambda tensor: -tensor)
    assert json.loads(snnconv("simulate", "--json", "--quiet", cwd=folder).stdout)["accuracy"] < 0.1


def test_a_network_that_prepares_its_images_otherwise_is_not_proven(folder: Path) -> None:
    file = folder / RUN / "network.safetensors"
    with safe_open(file, "pt") as source:
        header, tensors = source.metadata(), {key: source.get_tensor(key) for key in source.keys()}  # noqa: SIM118
    changed = header["snnconv"].replace('"divisor":255.0', '"divisor":400.0')
    assert changed != header["snnconv"]
    save_file(tensors, file, {"snnconv": changed})
    assert "prepares its images in another way" in sentence(snnconv("verify", "--quiet", cwd=folder))


def test_training_on_forgets_what_the_old_weights_gave(tmp_path: Path) -> None:
    assert snnconv("train", "lenet-digits-k0B1", "--epochs", "2", "--quiet", cwd=tmp_path).exit_code == 0
    assert snnconv("simulate", "--quiet", cwd=tmp_path).exit_code == 0
    run = tmp_path / "runs/lenet-digits-k0B1"
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["training"]["epochs"] = 3
    (run / "config.json").write_text(json.dumps(config))
    assert snnconv("train", "--resume", "--run", run.name, "--quiet", cwd=tmp_path).exit_code == 0
    assert not (run / "network.safetensors").exists()
    assert [file.name for file in (run / "results").iterdir()] == ["train.json"]


def test_a_failed_start_leaves_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"no weights")
    wrong = [("--start", "weights.safetensors"), ("--start", "none"), ("--seed", "99999999999"), ("--batch-size", "-3")]
    for option in wrong:
        result = snnconv("train", "lenet-digits-k1B2", *option, "--quiet", cwd=tmp_path)
        assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit), option
    assert not (tmp_path / "runs").exists()


def test_a_run_stopped_in_its_first_epoch_neither_blocks_commands_nor_resuming(folder: Path) -> None:
    run = folder / RUN
    for file in run.rglob("*.*"):
        if file.name not in ("config.json", "environment.json"):
            file.unlink()
    result = snnconv("simulate", cwd=folder)
    assert result.exit_code == 0 and "copied to runs/lenet-digits-k1B2-2" in result.stderr
    resumed = snnconv("train", "--resume", "--quiet", "--json", cwd=folder)
    assert json.loads(resumed.stdout)["run"] == "lenet-digits-k1B2"


def test_a_run_without_results_is_one_sentence(folder: Path) -> None:
    shutil.rmtree(folder / RUN / "results")
    assert "no noise-free simulation results" in sentence(
        snnconv("plot", "sops", "--run", "lenet-digits-k1B2", cwd=folder)
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_run_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o500)
    assert "runs" in sentence(snnconv("train", "lenet-digits-k1B2", cwd=tmp_path))


def test_a_run_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    assert "cannot make a run folder" in sentence(snnconv("train", "lenet-digits-k1B2", cwd=tmp_path))


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_training_leaves_whole_files_and_can_be_resumed(tmp_path: Path, blow: signal.Signals) -> None:
    command = [sys.executable, "-m", "snnconv", "train", "lenet-digits-k0B1", "--epochs", "4"]
    # where the tests run as a job in the background, they and their children ignore Ctrl-C
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heeded)
    run = tmp_path / "runs/lenet-digits-k0B1"
    deadline = time.monotonic() + 120
    while not (run / "history.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(blow)
    _, errors = process.communicate(timeout=60)
    if blow == signal.SIGINT:
        assert process.returncode == 1
        assert "Error: stopped; `snnconv train --resume --run lenet-digits-k0B1`" in errors
        assert not list(run.glob(".*.part"))
    assert 1 <= len(json.loads((run / "history.json").read_text())) < 4
    result = snnconv("train", "--resume", "--quiet", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["epochs"] == 4


def test_a_full_disk_is_one_sentence_and_leaves_no_half_run(tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
        "from snnconv.cli.main import main; main(prog_name='snnconv')"
    )
    command = [sys.executable, "-c", code, "train", "lenet-digits-k0B1", "--epochs", "1"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "Error: cannot write runs/lenet-digits-k0B1/ann.safetensors: File too large" in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "runs/lenet-digits-k0B1").exists()


@pytest.mark.parametrize("command", ["simulate", "verify"])
def test_an_interrupted_measurement_writes_nothing(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from snnconv.engines.layered import LayeredEngine

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    monkeypatch.setattr(LayeredEngine, "run", stop)
    result = snnconv(command, "--quiet", cwd=folder)
    assert result.exit_code == 1 and "Aborted!" in result.output
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before

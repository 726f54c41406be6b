"""Sweeps: what is written is what simulate measures; stopped, sharded and damaged ones; the figure."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from samples import random_images, random_network
from test_cli import sentence, snnconv
from test_data_folders import open_photos, write_set
from torch import Tensor

from snnconv import sweeping
from snnconv.engines.dense import DenseEngine
from snnconv.errors import ConfigError
from snnconv.reporting.sweeps import collect_sweeps
from snnconv.runs import copy_shipped
from snnconv.snn import batches as batching
from snnconv.snn.batches import Batches
from snnconv.snn.noise_models import Deletion, InputNoise, ThresholdMismatch
from snnconv.snn.simulation import Simulation, simulate
from snnconv.sweeping import Cell, parse_ratios, parse_shard, parse_swept

RUN = Path("runs/lenet-digits-k1B2")
SMALL = ("--images", "40", "--ratios", "0,0.3,0.6", "--trials", "3", "--quiet")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with one sweep of the shipped network."""
    folder = tmp_path_factory.mktemp("swept")
    copy_shipped(folder / "runs")
    result = snnconv("sweep", *SMALL, "--noise", "deletion@all", cwd=folder)
    assert result.exit_code == 0, (result.output, result.exception)
    return folder


@pytest.fixture
def folder(swept: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(swept, tmp_path / "work")


def sweep_json(folder: Path, *options: str) -> dict[str, Any]:
    result = snnconv("sweep", *SMALL, "--noise", "deletion@all", "--json", *options, cwd=folder)
    assert result.exit_code == 0, (result.output, result.exception)
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def cells_of(folder: Path) -> list[Path]:
    return sorted(f for f in (folder / RUN / "sweeps").glob("*/*.json") if f.name != "about.json")


def without_time(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "created"}


def test_a_sweep_is_what_simulate_measures_trial_by_trial(folder: Path) -> None:
    values = sweep_json(folder)
    assert [point["ratio"] for point in values["points"]] == [0.0, 0.3, 0.6]
    for point in values["points"]:
        noise = ("--noise", f"deletion:{point['ratio']}@all", "--trials", "3", "--images", "40", "--json", "--quiet")
        single = json.loads(snnconv("simulate", *noise, cwd=folder).stdout)
        assert point["correct_by_trial"] == single["correct_by_trial"]
        assert point["accuracy"] == pytest.approx(single["accuracy"], abs=1e-15)
        assert point["sd"] == pytest.approx(single["accuracy_sd"], abs=1e-15)
        assert point["image_interval"] == pytest.approx(single["accuracy_interval"])
        assert point["spikes_per_image"] == single["spikes_per_image"]
        assert point["sops_per_image"] == single["sops_per_image"]
        assert point["top5_accuracy"] == single["top5_accuracy"]


def test_mean_sd_and_interval_by_hand() -> None:
    cells = [Cell("", 0.1, trial, 100, right, 100, 7, {"synops": 9}) for trial, right in enumerate((90, 92, 97))]
    point = sweeping._point(0.1, cells)
    sd = math.sqrt((9 + 1 + 16) / 2) / 100
    half = 4.302652729911275 * sd / math.sqrt(3)  # Student's t, 2 degrees of freedom, 97.5 %
    assert point["accuracy"] == pytest.approx(0.93) and point["sd"] == pytest.approx(sd)
    assert point["interval"] == pytest.approx([0.93 - half, min(1.0, 0.93 + half)])
    alone = sweeping._point(0.1, cells[:1])
    assert (alone["interval"], alone["sd"]) == (None, 0.0)


def test_a_stopped_sweep_goes_on_and_gives_the_same_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sweep_json(folder)
    assert len(cells_of(folder)) == 9
    shutil.rmtree(folder / RUN / "sweeps")
    measured: list[tuple[float, int]] = []
    original = sweeping._simulate

    def stop(job: Any, engine: Any, batches: Any, noises: Any, trial: int) -> Any:
        if len(measured) == 4:
            raise KeyboardInterrupt
        measured.append((noises[0].ratio, trial))
        return original(job, engine, batches, noises, trial)

    monkeypatch.setattr(sweeping, "_simulate", stop)
    assert snnconv("sweep", *SMALL, "--noise", "deletion@all", cwd=folder).exit_code != 0
    done = cells_of(folder)
    assert len(done) == 5  # the trials of ratio 0 are one
    stamps = [file.stat().st_mtime_ns for file in done]
    monkeypatch.setattr(sweeping, "_simulate", original)
    assert without_time(sweep_json(folder)) == without_time(before)
    assert [file.stat().st_mtime_ns for file in done] == stamps and len(cells_of(folder)) == 9
    monkeypatch.setattr(sweeping, "_simulate", None)  # nothing is left to do
    assert without_time(sweep_json(folder)) == without_time(before)


def test_shards_together_give_the_same_numbers(folder: Path) -> None:
    before = sweep_json(folder)
    shutil.rmtree(folder / RUN / "sweeps")
    result = snnconv("sweep", *SMALL[:-1], "--noise", "deletion@all", "--shard", "1/2", cwd=folder)
    assert result.exit_code == 0 and result.stdout == ""
    assert "4 cells are left" in result.stderr
    assert len(cells_of(folder)) == 5
    assert without_time(sweep_json(folder, "--shard", "2/2")) == without_time(before)


def test_batches_and_engines_give_the_same_numbers(folder: Path) -> None:
    before = sweep_json(folder)
    for options in (("--batch-size", "7"), ("--engine", "reference")):
        shutil.rmtree(folder / RUN / "sweeps")
        assert without_time(sweep_json(folder, *options)) == without_time(before)


def test_other_settings_have_cells_of_their_own(folder: Path) -> None:
    before = sweep_json(folder)
    keys = {file.parent.name for file in cells_of(folder)}
    for options in (("--seed", "1"), ("--images", "30"), ("--noise", "deletion"), ("--with", "threshold:0.2")):
        values = sweep_json(folder, *options)
        assert values["points"][1]["spikes_per_image"] != before["points"][1]["spikes_per_image"]
        now = {file.parent.name for file in cells_of(folder)}
        assert len(now) == len(keys) + 1
        keys = now
    assert len(list((folder / RUN / "results").glob("sweep-*.json"))) == 5
    more = sweep_json(folder, "--trials", "4", "--ratios", "0.3")  # the cells that are there serve a longer sweep
    assert more["points"][0]["correct_by_trial"][:3] == before["points"][1]["correct_by_trial"]
    assert {file.parent.name for file in cells_of(folder)} == keys


def test_a_sweep_of_other_ratios_or_trials_is_kept_and_that_is_said(folder: Path) -> None:
    (file,) = (folder / RUN / "results").glob("sweep-*.json")
    whole = json.loads(file.read_text())
    again = snnconv("sweep", *SMALL[:-1], "--noise", "deletion@all", cwd=folder)
    assert again.exit_code == 0 and "is kept" not in again.stderr
    whole = json.loads(file.read_text())
    few = ("sweep", "--images", "40", "--ratios", "0,0.6", "--noise", "deletion@all", "--trials")
    for number, (trials, other) in enumerate((("2", "trials and ratios"), ("3", "trials")), 1):
        result = snnconv(*few, trials, cwd=folder)
        kept = file.parent / f"earlier/{file.stem}-{number}.json"
        assert f"{file.name} was measured with other {other}: it is kept as" in result.stderr
        assert json.loads(kept.read_text()) == whole
        whole = json.loads(file.read_text())
        assert (whole["trials"], len(whole["points"])) == (int(trials), 2)


def test_another_network_has_cells_of_its_own(folder: Path) -> None:
    network = folder / RUN / "network.safetensors"
    from snnconv.formats.native import load, save

    changed = load(network)
    name = list(changed.layers)[1]
    changed.layers[name].branches[0].offset += 0.3
    save(changed, network)
    before = len({file.parent for file in cells_of(folder)})
    sweep_json(folder)
    assert len({file.parent for file in cells_of(folder)}) == before + 1


def test_image_files_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    photos = open_photos(write_set(tmp_path / "photos"))
    copied = open_photos(shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere"))
    digest = sweeping._digest(photos)
    assert sweeping._digest(copied) == digest
    last = list(copied.paths())[-1]
    stamp, data = last.stat(), bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    os.utime(last, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert sweeping._digest(copied) != digest == sweeping._digest(photos)
    assert sweeping._digest(photos.take(3)) != digest


def test_a_damaged_or_foreign_cell_is_refused(folder: Path) -> None:
    file = next(f for f in cells_of(folder) if f.name == "0.3-1.json")
    whole = file.read_text()
    for text, message in (("{", "is damaged"), (whole.replace('"trial": 1', '"trial": 2'), "is of another sweep")):
        file.write_text(text)
        assert message in sentence(snnconv("sweep", *SMALL, "--noise", "deletion@all", cwd=folder))


def test_the_table_shows_every_ratio(folder: Path) -> None:
    out = snnconv("sweep", *SMALL, "--noise", "deletion@all", cwd=folder).stdout
    values = sweep_json(folder)
    for point in values["points"]:
        assert f"{100 * point['accuracy']:.2f}" in out
    assert "deletion noise on 6 layers, 40 images, 3 trials, T = 1, L = 4" in out


def test_the_figure_of_the_newest_sweep(folder: Path) -> None:
    values = sweep_json(folder)
    result = snnconv("plot", "noise", "--json", cwd=folder)
    files = [Path(file) for file in json.loads(result.stdout)["files"]]
    assert [file.suffix for file in files] == [".png", ".svg", ".csv"]
    assert files[0] == Path("figs/lenet-digits/noise.png")
    rows = list(csv.DictReader((folder / files[2]).read_text().splitlines()))
    for row, point in zip(rows, values["points"], strict=True):
        assert [float(row[name]) for name in ("ratio", "accuracy", "sd")] == [point[n] for n in ("ratio", "accuracy", "sd")]  # fmt: skip
        assert [float(row["interval_low"]), float(row["interval_high"])] == point["interval"]
        assert (row["configuration"], row["noise"], row["trials"]) == ("k1B2", "deletion", "3")
    sweep_json(folder, "--noise", "insertion", "--trials", "1")
    again = snnconv("plot", "noise", "--run", "lenet-digits-k1B2", "--out", "elsewhere", cwd=folder)
    assert again.exit_code == 0 and "insertion" in (folder / "elsewhere.csv").read_text()


def test_one_figure_is_of_sweeps_on_the_same_images_of_one_conversion(folder: Path) -> None:
    (file,) = (folder / RUN / "results").glob("sweep-*.json")
    values = json.loads(file.read_text())
    for number, other in enumerate(({}, {"images": 41}, {"split": True}), 1):
        own = shutil.copytree(folder / RUN, folder / f"runs/other{number}") / "results" / file.name
        created = f"{1990 + number}{values['created'][4:]}"
        own.write_text(json.dumps(values | {"quantization": f"k0B{number}", "created": created} | other))
    drawn, _ = collect_sweeps(folder / "runs")
    assert {sweep["quantization"] for sweep in drawn} == {"k1B2", "k0B1"}
    for number in (2, 3):
        names = ("--run", RUN.name, "--run", f"other{number}")
        assert "equally many images, and of split networks" in sentence(snnconv("plot", "noise", *names, cwd=folder))


def test_nothing_to_draw_is_one_sentence(tmp_path: Path) -> None:
    assert "has a sweep: run `snnconv sweep` first" in sentence(snnconv("plot", "noise", cwd=tmp_path))
    copy_shipped(tmp_path / "runs")
    named = sentence(snnconv("plot", "noise", "--run", "lenet-digits-k1B2", cwd=tmp_path))
    assert "run lenet-digits-k1B2 has no sweep: run `snnconv sweep --run lenet-digits-k1B2` first" in named


def test_a_damaged_sweep_is_refused_by_the_figure(folder: Path) -> None:
    next((folder / RUN / "results").glob("sweep-*.json")).write_text('{"noise": "deletion"}')
    assert "is damaged or of another version" in sentence(snnconv("plot", "noise", cwd=folder))


def test_retraining_forgets_sweeps(folder: Path) -> None:
    from snnconv.runs import open_run

    open_run(folder / RUN).forget_results()
    assert not list((folder / RUN).glob("sweeps/*/*")) and not list((folder / RUN).glob("results/sweep*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--noise", "salt"), "unknown noise 'salt': take deletion"),
        (("--noise", "deletion:0.1"), "write deletion, or deletion@all"),
        (("--noise", "deletion@conv9"), "the layers that fire are"),
        (("--noise", "jitter"), "T = 1"),
        (("--noise", "input@encoder"), "takes no layers"),
        (("--noise", "threshold", "--engine", "events"), "leaves the integers"),
        (("--ratios", "0:2:1"), r"ratio (= 2.0) is a probability"),
        (("--ratios", "0:1"), "write first:last:step"),
        (("--ratios", "0:1:0"), "a step above 0"),
        (("--ratios", "1:0:0.1"), "a step above 0"),
        (("--ratios", "0:1:0.000001"), "more than 1000"),
        (("--ratios", "0:1e999999:1e-999999"), "more than 1000"),
        (("--ratios", "0:1e400:1e399"), "a probability"),
        (("--ratios", "1e999999"), "a probability"),
        (("--ratios", "0:0.5:0.3"), "steps of 0.3 lead from 0 to 0.3 and not to 0.5; end at 0.3 or at 0.6"),
        (("--ratios", "0.3:0.35:0.1"), "steps of 0.1 lead from 0.3 to 0.3 and not to 0.35"),
        (("--ratios", "some"), "write first:last:step"),
        (("--ratios", "0,nan"), "write first:last:step"),
        (("--shard", "3/2"), "write i/n with i in 1..n"),
        (("--shard", "half"), "write i/n"),
        (("--with", "deletion:0.1"), "given twice"),
        (("--with", "threshold"), "the ratio is missing"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_a_sentence(swept: Path, options: tuple[str, ...], message: str) -> None:
    before = len(cells_of(swept))
    assert message in sentence(snnconv("sweep", "--images", "4", "--quiet", *options, cwd=swept))
    assert len(cells_of(swept)) == before


def test_ratios_shards_and_noises_as_written() -> None:
    assert parse_ratios("0:0.5:0.05") == tuple(n / 20 for n in range(11))
    assert parse_ratios("0:1:0.1")[3] == 0.3  # not 3 * 0.1
    assert parse_ratios("0.2, 0,0.2") == (0.0, 0.2)
    assert parse_ratios("0.3") == (0.3,) == parse_ratios("0.3:0.3:0.1")
    assert parse_shard("2/3") == (2, 3)
    assert parse_swept("weight@a+b") == ("weight", ("a", "b"))
    with pytest.raises(ConfigError):
        parse_shard("0/2")


# What is kept from one cell to the next


class Counting(DenseEngine):
    """Counts how often the encoder runs."""

    runs = 0

    def _step(self, name: str, incoming: list[Tensor]) -> Any:
        self.runs += name in self.network.encoders
        return super()._step(name, incoming)


def test_the_encoder_runs_once_a_batch_and_nothing_changes() -> None:
    network, images = random_network(1), random_images(23, (2, 7, 8))
    engine, plain = Counting(network), DenseEngine(network)
    kept = Batches(images, network, 10, repeats=True)
    for number, noise in enumerate((Deletion(0.3), Deletion(0.0), Deletion(0.6, ("all",)))):
        one = simulate(engine, images, [noise], seed=2, first_trial=number, batches=kept).to_dict()
        assert one == simulate(plain, images, [noise], seed=2, first_trial=number, batch_size=7).to_dict()
    assert engine.runs == 3
    for noise in (InputNoise(0.5), ThresholdMismatch(0.5, ("encoder",))):  # theirs are other counts
        own, other = (simulate(e, images, [noise], batches=b) for e, b in ((engine, kept), (plain, None)))
        assert own.to_dict() == other.to_dict()
    assert engine.runs == 3 + 3
    assert simulate(engine, images, [Deletion(0.3)], batches=kept).correct_by_trial == (
        simulate(plain, images, [Deletion(0.3)]).correct_by_trial
    )


def test_batches_without_room_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "ROOM", 100)
    network, images = random_network(1), random_images(23, (2, 7, 8))
    engine, batches = Counting(network), Batches(images, network, 10, repeats=True)
    first, second = (simulate(engine, images, [Deletion(0.3)], batches=batches).to_dict() for _ in range(2))
    assert first == second and engine.runs == 6


def test_first_trial_is_the_number_of_the_first() -> None:
    engine, images = DenseEngine(random_network(1)), random_images(23, (2, 7, 8))
    three = simulate(engine, images, [Deletion(0.5)], trials=3)
    last = simulate(engine, images, [Deletion(0.5)], first_trial=2)
    assert [batch.spikes for batch in three.batches][-1:] == [batch.spikes for batch in last.batches]
    assert three.correct_by_trial[2] == last.correct_by_trial[0]


# Processes


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "snnconv", "sweep", *SMALL, "--noise", "deletion@all", "--json", *options]


def test_where_one_process_fails_the_others_stop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(folder / RUN / "sweeps")
    measured: list[int] = []
    failed = threading.Event()

    def fail(job: Any, engine: Any, batches: Any, noises: Any, trial: int) -> Simulation:
        if noises[0].ratio == 0.3 and trial == 0:
            failed.set()
            raise ConfigError("this one fails")
        assert failed.wait(20)
        measured.append(trial)
        time.sleep(0.2)
        return done

    done = simulate(DenseEngine(random_network(1)), random_images(23, (2, 7, 8)), [Deletion(0.3)])
    monkeypatch.setattr(sweeping, "_simulate", fail)
    monkeypatch.setattr(sweeping, "ProcessPoolExecutor", lambda number, *_: ThreadPoolExecutor(number))
    ratios = ",".join(f"{0.3 + n / 100:g}" for n in range(60))
    options = ("--ratios", ratios, "--trials", "1", "--processes", "2", "--images", "23", "--noise", "deletion@all")
    assert "this one fails" in sentence(snnconv("sweep", *options, "--quiet", cwd=folder))
    assert 1 <= len(measured) < 10


@pytest.mark.slow
@pytest.mark.parametrize("when", ["they start", "they measure"])
def test_an_interrupt_ends_all_processes_without_a_traceback(folder: Path, when: str) -> None:
    before = len(cells_of(folder))
    options = ("--images", "500", "--trials", "500", "--processes", "2")
    process = subprocess.Popen(command(*options), cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 3:  # two, and what looks after semaphores
        assert process.poll() is None
        time.sleep(0.02)
    while when == "they measure" and len(cells_of(folder)) < before + 4:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and "Aborted!" in said and "Traceback" not in said, said


@pytest.mark.slow
def test_processes_share_the_cells(folder: Path) -> None:
    before = sweep_json(folder)
    shutil.rmtree(folder / RUN / "sweeps")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command("--processes", "2"), cwd=folder, capture_output=True, check=True, env=environment)
    assert without_time(json.loads(done.stdout)) == without_time(before)


@pytest.mark.slow
def test_a_killed_sweep_goes_on(folder: Path) -> None:
    before = sweep_json(folder, "--images", "500")
    for options in ((), ("--processes", "2")):
        shutil.rmtree(folder / RUN / "sweeps")
        process = subprocess.Popen(command("--images", "500", *options), cwd=folder, stdout=subprocess.DEVNULL)
        while not cells_of(folder):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert without_time(sweep_json(folder, "--images", "500")) == without_time(before)

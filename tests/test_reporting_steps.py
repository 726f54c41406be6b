"""Results over time: the real command line on the shipped network, the table, the sentence, and the figure."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_cli import sentence, snnconv

from snnconv.errors import FormatError, RunError
from snnconv.reporting import steps
from snnconv.reporting.layout import render
from snnconv.reporting.steps import collect_steps, plot_steps, steps_table, time_summary
from snnconv.reporting.style import drawing
from snnconv.runs import list_runs
from snnconv.snn.neurons.registry import NEURONS

OPTIONS = ("--images", "40", "--json", "--quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the shipped network simulated over time by two neurons, and by the ladder."""
    folder = tmp_path_factory.mktemp("time")
    for more in (("--neuron", "st-bif", "--exit-margin", "0.8"), ("--neuron", "if", "--steps", "5"), ()):
        result = snnconv("simulate", *OPTIONS, *more, cwd=folder)
        assert result.exit_code == 0, (result.output, result.exception)
    return folder


def results(folder: Path) -> dict[str, dict[str, Any]]:
    (run,) = list_runs(folder / "runs")
    return {own["neuron"]: own for own in run.results("simulate-*-40images.json")}


def test_simulate_with_a_neuron_prints_steps_and_writes_a_result_of_its_own(folder: Path) -> None:
    found = results(folder)
    assert set(found) == {"ladder", "st-bif", "if"}
    exact, rate, ladder = found["st-bif"], found["if"], found["ladder"]
    assert exact["accuracy"] == ladder["accuracy"] and exact["exact_images"] == 1.0
    assert 1 < exact["exact_from"] <= exact["steps"] < exact["latency_steps"]
    assert rate["steps"] == 5 and rate["exact_from"] is None and rate["per_step"][-1]["mismatches"] > 0
    for row in exact["per_step"]:
        assert {"t", "accuracy", "spikes", "sops", "spikes_so_far", "sops_so_far", "mismatches"} <= set(row)
    assert exact["early_exit"]["steps"] < exact["steps"] and rate["early_exit"] is None
    again = snnconv("simulate", *OPTIONS, "--neuron", "if", "--steps", "5", "--batch-size", "7", cwd=folder)
    volatile = {"created": None, "choices": None}
    assert json.loads(again.stdout) | volatile == rate | volatile


def test_a_line_a_batch_and_step_is_logged(folder: Path) -> None:
    (log,) = (folder / "figs").glob("*/spikes-noise0-st-bif-*.csv")
    rows = list(csv.DictReader(log.read_text().splitlines()))
    exact = results(folder)["st-bif"]
    assert [int(row["step"]) for row in rows] == list(range(exact["steps"]))
    assert sum(int(row["spikes"]) for row in rows) / 40 == pytest.approx(exact["spikes_per_image"])


def test_tables_show_steps_and_when_counts_became_codes(folder: Path) -> None:
    shown = snnconv("simulate", "--images", "40", "--quiet", "--neuron", "st-bif", "--exit-margin", "0.8", cwd=folder)
    exact = results(folder)["st-bif"]
    assert render(steps_table(exact)) in shown.stdout
    assert time_summary(exact) in shown.stdout
    assert f"every unit equals its code from t = {exact['exact_from']} on, on all images" in shown.stdout
    assert "answering at a margin of 0.8" in shown.stdout
    assert f"T = {exact['steps']}" in shown.stdout
    rate = time_summary(results(folder)["if"])
    assert rate.startswith("if: T = 5 steps, 10 with the delay of 5 layers; ")
    assert "% of the units differ from their codes after the last step, all units exact on 0.00 % of the images" in rate
    slots = time_summary(exact | {"neuron": "integrate-then-fire", "latency_steps": exact["steps"]})
    assert slots.startswith(f"integrate-then-fire: T = {exact['steps']} steps, the delay of the layers included; ")


def test_long_tables_keep_the_first_steps_and_the_last(folder: Path) -> None:
    exact = results(folder)["st-bif"]
    row = exact["per_step"][0]
    table = render(steps_table({"per_step": [row | {"t": t} for t in range(1, 131)]}))
    shown = [int(line.split()[0]) for line in table.splitlines()[3:]]
    assert shown == [1, 2, 3, 4, 5, 6, 7, 8, *range(12, 130, 12), 130]


def test_plot_steps_works_as_typed(folder: Path) -> None:
    result = snnconv("plot", "steps", cwd=folder)
    assert result.exit_code == 0, result.output
    png, svg, table = (folder / line for line in result.stdout.split())
    assert png.read_bytes().startswith(b"\x89PNG") and svg.exists()
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for neuron, simulation in results(folder).items():
        if neuron != "ladder":
            own = [row for row in rows if row["neuron"] == neuron]
            assert [float(row["accuracy"]) for row in own] == [row["accuracy"] for row in simulation["per_step"]]
            assert [int(row["mismatches"]) for row in own] == [row["mismatches"] for row in simulation["per_step"]]
    assert {row["neuron"] for row in rows} == {"st-bif", "if"}
    printed = json.loads(snnconv("plot", "steps", "--json", "--quiet", "--out", "own", cwd=folder).stdout)
    assert printed["files"] == ["own.png", "own.svg", "own.csv"]


def test_panels_are_of_one_size_beside_a_legend_of_many_neurons(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, figures = steps.save, []
    monkeypatch.setattr(steps, "save", lambda figure, *rest: (figures.append(figure), write(figure, *rest))[1])
    many = [results(folder)["st-bif"] | {"neuron": name} for name in NEURONS if name != "ladder"]
    steps.plot_steps("lenet-digits-k1B2", many, tmp_path / "many")
    figure = figures[0]
    with drawing():
        figure.draw_without_rendering()
        boxes = [axes.get_window_extent() for axes in figure.axes]
        assert len({round(box.height) for box in boxes}) == 1
        assert max(box.width for box in boxes) < 1.1 * min(box.width for box in boxes)
        legend = figure.legends[0].get_window_extent()
        assert not any(legend.overlaps(axes.get_tightbbox()) for axes in figure.axes)
        assert not legend.overlaps(figure._suptitle.get_window_extent())
        assert figure.bbox.x0 <= legend.x0 < legend.x1 <= figure.bbox.x1


def test_other_figures_are_of_one_step_only(folder: Path, tmp_path: Path) -> None:
    work = shutil.copytree(folder, tmp_path / "work")
    (run,) = list_runs(work / "runs")
    for file in run.path.glob("results/simulate-*.json"):
        if "40images" not in file.name:  # those of all images that came with the network
            file.unlink()
    result = snnconv("plot", "sparsity", "--run", run.name, "--out", "sparsity", cwd=work)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((work / "sparsity.csv").read_text().splitlines()))
    assert float(rows[0]["spikes_per_image"]) == results(folder)["ladder"]["spikes_per_image"]


@pytest.fixture(scope="module")
def one_step(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with a result of a neuron over time after one step, newer than the ladder's."""
    work = shutil.copytree(folder, tmp_path_factory.mktemp("one") / "work")
    for file in (work / "runs").glob("*/results/simulate-*.json"):
        if "40images" not in file.name or "-if-" in file.name:
            file.unlink()
    done = snnconv("simulate", *OPTIONS, "--neuron", "st-bif", "--steps", "1", cwd=work)
    assert done.exit_code == 0, (done.output, done.exception)
    return work


@pytest.mark.parametrize("figure", ["sparsity", "sops", "energy"])
def test_a_neuron_after_one_step_is_no_ladder(one_step: Path, figure: str) -> None:
    done = snnconv("plot", figure, "--out", figure, "--run", "lenet-digits-k1B2", cwd=one_step)
    assert done.exit_code == 0, done.output
    before = (one_step / f"{figure}.csv").read_bytes()
    (file,) = one_step.glob("runs/*/results/simulate-*-st-bif-T1-*.json")
    text = file.read_text()
    file.unlink()
    snnconv("plot", figure, "--out", figure, "--run", "lenet-digits-k1B2", cwd=one_step)
    file.write_text(text)
    assert (one_step / f"{figure}.csv").read_bytes() == before


def test_one_step_is_drawn_and_printed_as_time(one_step: Path) -> None:
    _, chosen, _ = collect_steps(one_step / "runs")
    assert [(own["neuron"], own["steps"]) for own in chosen] == [("st-bif", 1)]
    assert snnconv("plot", "steps", "--out", "steps", cwd=one_step).exit_code == 0
    assert len((one_step / "steps.csv").read_text().splitlines()) == 2
    shown = snnconv("simulate", "--images", "40", "--quiet", "--neuron", "st-bif", "--steps", "1", cwd=one_step).stdout
    assert render(steps_table(chosen[0])) in shown and time_summary(chosen[0]) in shown
    assert "of 40 images, st-bif, T = 1, L = 4" in shown
    ladder = snnconv("simulate", "--images", "40", "--quiet", cwd=one_step).stdout
    assert "of 40 images, T = 1, L = 4" in ladder and "st-bif" not in ladder


def test_one_point_is_seen(one_step: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, figures = steps.save, []
    monkeypatch.setattr(steps, "save", lambda figure, *rest: (figures.append(figure), write(figure, *rest))[1])
    plot_steps(*collect_steps(one_step / "runs")[:2], tmp_path / "one")
    assert all(line.get_marker() == "o" for axes in figures[0].axes for line in axes.get_lines())


@pytest.mark.parametrize("other", [{"split": True}, {"images": 41}, {"dataset": "mnist"}])
def test_one_figure_is_of_one_conversion_and_the_same_images(
    folder: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    work = shutil.copytree(folder, tmp_path / "work")
    (file,) = work.glob("runs/*/results/simulate-*-st-bif-*.json")
    assert {own["neuron"] for own in collect_steps(work / "runs")[1]} == {"st-bif", "if"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"created": "1999"} | other))
    assert {own["neuron"] for own in collect_steps(work / "runs")[1]} == {"if"}


def test_without_results_over_time_one_sentence_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    error = sentence(snnconv("plot", "steps", cwd=tmp_path))
    assert (
        "no run in runs has noise-free results of neurons over time" in error and "simulate --neuron st-bif`" in error
    )
    with pytest.raises(RunError, match="shows one run, not 2"):
        collect_steps(folder / "runs", ("a", "b"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--neuron", "lif"), "unknown neuron 'lif'; known are ladder, integrate-then-fire"),
        (("--steps", "4"), "'ladder' takes 1 time step"),
        (("--neuron", "st-bif", "--steps", "0"), r"steps (= 0) must lie in 1.."),
        (("--neuron", "st-bif", "--exit-margin", "2"), "exit margin (= 2)"),
        (("--exit-margin", "0.5"), "--exit-margin needs a neuron of several"),
        (("--neuron", "if", "--noise", "membrane:0.1"), "noise"),
    ],
)
def test_wrong_use_is_one_sentence(folder: Path, options: tuple[str, ...], words: str) -> None:
    assert words in sentence(snnconv("simulate", "--images", "5", "--quiet", *options, cwd=folder))


def test_the_figure_is_the_same_twice_and_a_damaged_result_is_refused(folder: Path, tmp_path: Path) -> None:
    group, simulations, _ = collect_steps(folder / "runs")
    files = [plot_steps(group, simulations, tmp_path / name) for name in ("one", "two")]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()
    (run,) = list_runs(folder / "runs")
    (file,) = run.path.glob("results/simulate-*-if-T5-*.json")
    text = file.read_text()
    file.write_text(json.dumps(json.loads(text) | {"per_step": [{}]}))
    with pytest.raises(FormatError, match=r"over time of run .* is damaged"):
        collect_steps(folder / "runs")
    file.write_text(text)

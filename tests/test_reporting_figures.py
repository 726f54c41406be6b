"""Figures: their files, the rows beside them, the same bytes every time, and nothing on top of anything else."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from test_reporting_rows import result, simulated

from snnconv.config import Published
from snnconv.errors import RunError
from snnconv.reporting import accuracy, energy, sops, sparsity
from snnconv.reporting.collect import collect
from snnconv.reporting.figures import FIGURES, plot_accuracy, plot_sops, plot_sparsity
from snnconv.reporting.rows import Result, result_from
from snnconv.reporting.style import drawing
from snnconv.runs import copy_shipped

LEVELS = {"k1B4": 8, "k0B1": 1, "k1B2": 4, "k0B2": 2, "k1B1": 2, "k0B4": 4, "k2B4": 16}
ORDER = ["k0B1", "k0B2", "k1B1", "k0B4", "k1B2", "k1B4", "k2B4"]


def seven() -> list[Result]:
    return [result(name, levels, 480 + levels) for name, levels in LEVELS.items()]


PUBLISHED = {
    "k0B1": Published(accuracy=97.0, source="x", spikes=6_346, sops=2_141_156),
    "k1B1": Published(accuracy=95.5, source="x"),
    "k1B2": Published(accuracy=98.0, source="x", spikes=50_000, sops=27_879_201, noise={0.1: 96.0, 0.2: 93.0}),
}


def beside_published() -> list[Result]:
    return [replace(own, published=PUBLISHED.get(own.configuration)) for own in seven()]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


CASES: dict[str, Callable[[], Sequence[Result]]] = {
    "one": lambda: [result()],
    "seven": seven,
    "published": beside_published,
    "one published": lambda: [result(published=PUBLISHED["k1B2"])],
    "deep": lambda: [result(units=[20_000 - 300 * i for i in range(55)])],
    "silent": lambda: [result(units=[1] * 12)],
    "other images": lambda: [result("k0B1"), result_from("lenet-mnist", "k1B2", [simulated(images=10_000)])],
    "all right": lambda: [result(correct=500)],
    "noise on several layers": lambda: [
        result_from(
            "lenet-mnist",
            "k1B2",
            [simulated(noise_ratio=0.2, noise_layers=("conv1_act", "conv2_act", "conv3_act")), *result().simulations],
        )
    ],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FIGURES)
def test_files_are_written_and_nothing_overlaps(
    name: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"sparsity": sparsity, "sops": sops, "accuracy": accuracy, "energy": energy}[name]
    write, figures = module.save, []

    def save(figure: Figure, *args: Any) -> Any:
        figures.append(figure)
        return write(figure, *args)

    monkeypatch.setattr(module, "save", save)
    files = FIGURES[name](CASES[case](), tmp_path / "figs" / "v1.5")
    assert [file.name for file in files] == ["v1.5.png", "v1.5.svg", "v1.5.csv"]
    assert sorted(file.name for file in (tmp_path / "figs").iterdir()) == sorted(file.name for file in files)
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert_legible(figures[0])


def assert_legible(figure: Figure) -> None:
    """All texts lie on the page and do not touch, ticks and legends included; legends lie outside the axes."""
    with drawing():
        figure.draw_without_rendering()
        page = figure.bbox
        for axes in figure.axes:
            legend = axes.get_legend()
            boxes = text_boxes(axes) + ([legend.get_window_extent()] if legend else [])
            for box in boxes:
                assert page.x0 <= box.x0 < box.x1 <= page.x1 + 1
                assert page.y0 <= box.y0 < box.y1 <= page.y1 + 1
            for first, second in itertools.combinations(boxes, 2):
                assert not inner(first).overlaps(inner(second))
            if legend:
                assert not inner(legend.get_window_extent()).overlaps(inner(axes.get_window_extent()))


def inner(box: Bbox) -> Bbox:
    """A box without the outermost pixel."""
    return box.padded(-1)


def text_boxes(axes: Axes) -> list[Bbox]:
    texts = [child for child in axes.get_children() if isinstance(child, Annotation)]
    labels = [axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()]
    low, high = axes.get_ylim()
    inside = [
        text for text in labels if text.get_text() and not (text in axes.get_yticklabels() and off(text, low, high))
    ]
    return [text.get_window_extent() for text in [*texts, *inside]]


def off(text: Any, low: float, high: float) -> bool:
    """Whether a tick label belongs to a tick outside the axis, which is not drawn."""
    return not low <= text.get_position()[1] <= high


@pytest.mark.parametrize("name", FIGURES)
def test_bytes_are_the_same_whatever_the_settings(name: str, tmp_path: Path) -> None:
    first = FIGURES[name]([result()], tmp_path / "first")
    with mpl.rc_context({"font.size": 20.0, "svg.hashsalt": "other", "axes.facecolor": "red"}):
        second = FIGURES[name]([result()], tmp_path / "second")
        assert mpl.rcParams["font.size"] == 20.0
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"<dc:date>" not in first[1].read_bytes()


def test_sparsity_rows_equal_the_simulations(tmp_path: Path) -> None:
    results = beside_published()
    rows = rows_of(plot_sparsity(results, tmp_path / "sparsity")[2])
    assert [row["configuration"] for row in rows if row["layer"] == "all"] == ORDER
    clean = next(r.clean for r in results if r.configuration == "k1B2")
    assert clean is not None
    assert [row["published"] for row in rows if row["published"]] == ["6346", "50000"]
    own = [row for row in rows if row["configuration"] == "k1B2"]
    assert float(own[0]["spikes_per_image"]) == clean["spikes_per_image"]
    assert int(own[0]["neurons"]) == clean["neurons"] == 26_880 * 4
    firing = [layer for layer in clean["layers"] if layer["kind"] != "readout"]
    assert [(row["layer"], float(row["rate"])) for row in own[1:]] == [(x["name"], x["rate"]) for x in firing]
    assert [int(row["number"]) for row in own[1:]] == [1, 2, 3, 4, 5, 6]
    assert sum(float(row["spikes_per_image"]) for row in own[1:]) == float(own[0]["spikes_per_image"])


def test_sops_rows_equal_the_simulations(tmp_path: Path) -> None:
    results = beside_published()
    out = plot_sops(results, tmp_path / "sops", ("fanout", "synops"))[2]
    rows = rows_of(out)
    assert list(rows[0]) == ["configuration", "fanout", "synops", "zou2021", "published", "ann_macs"]
    assert [row["configuration"] for row in rows] == ORDER
    assert [row["published"] for row in rows] == ["2141156", "", "", "", "27879201", "", ""]
    clean = {r.configuration: r.clean for r in results}
    for row in rows:
        simulation = clean[row["configuration"]]
        assert simulation is not None
        assert float(row["synops"]) == simulation["sops_per_image"]["synops"]
        assert float(row["zou2021"]) == simulation["sops_per_image"]["zou2021"]
        assert int(row["ann_macs"]) == simulation["ann_macs"] == 250 * (26_880 - 12_544)


def test_accuracy_rows_equal_the_simulations(tmp_path: Path) -> None:
    results = beside_published()
    rows = rows_of(plot_accuracy(results, tmp_path / "accuracy")[2])
    published = [(row["configuration"], row["noise_ratio"], row["published"]) for row in rows if row["published"]]
    assert published == [
        ("k0B1", "0.0", "97.0"), ("k1B1", "0.0", "95.5"),
        ("k1B2", "0.0", "98.0"), ("k1B2", "0.1", "96.0"), ("k1B2", "0.2", "93.0"),
    ]  # fmt: skip
    given = {r.configuration: r.simulations for r in results}
    expected = [(name, simulation) for name in ORDER for simulation in given[name]]
    for row, (name, simulation) in zip(rows, expected, strict=True):
        assert row["configuration"] == name
        for column, key in (("noise_ratio", "noise_ratio"), ("accuracy", "accuracy"), ("sd", "accuracy_sd")):
            assert float(row[column]) == simulation[key]
        assert [float(row["interval_low"]), float(row["interval_high"])] == simulation["accuracy_interval"]
        assert (int(row["trials"]), int(row["images"])) == (simulation["trials"], 500)


def drawn(name: str, results: Sequence[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    module = {"sparsity": sparsity, "sops": sops, "accuracy": accuracy}[name]
    figures: list[Figure] = []
    monkeypatch.setattr(module, "save", lambda figure, *args: figures.append(figure))
    FIGURES[name](results, tmp_path / name)
    return figures[0]


def hollow(axes: Axes) -> list[float]:
    """Heights of the bars that are published, from left to right."""
    bars = [patch for patch in axes.patches if patch.get_facecolor()[3] == 0]
    return [bar.get_height() for bar in sorted(bars, key=lambda bar: bar.get_x())]


def test_published_values_stand_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = beside_published()
    assert hollow(drawn("sparsity", results, tmp_path, monkeypatch).axes[0]) == [6_346, 50_000]
    left, right = drawn("sops", results, tmp_path, monkeypatch).axes
    assert hollow(left) == [] and hollow(right) == [2.141156, 27.879201]
    solid = [patch.get_height() for patch in right.patches if patch.get_facecolor()[3] == 1]
    clean = {own.configuration: own.clean for own in results}
    assert solid == [clean[name]["sops_per_image"]["zou2021"] / 1e6 for name in ORDER]  # type: ignore[index]
    (axes,) = drawn("accuracy", results, tmp_path, monkeypatch).axes
    (marks,) = [line for line in axes.lines if line.get_label() == "published"]
    assert sorted(zip(marks.get_xdata(), marks.get_ydata(), strict=True)) == [
        (pytest.approx(place), height)
        for place, height in (
            (0 - 1 / 3.6, 97.0),
            (2 - 1 / 3.6, 95.5),
            (4 - 1 / 3.6, 98.0),
            (4, 96.0),
            (4 + 1 / 3.6, 93.0),
        )
    ]
    for name in ("sparsity", "sops", "accuracy"):
        legends = [axes.get_legend() for axes in drawn(name, results, tmp_path, monkeypatch).axes]
        texts = [[text.get_text() for text in legend.get_texts()] for legend in legends if legend]
        assert [own[-1] for own in texts].count("published") == 1
        unpublished = drawn(name, seven(), tmp_path, monkeypatch)
        assert all("published" not in axes.get_legend_handles_labels()[1] for axes in unpublished.axes)


def test_published_values_come_from_the_recipe_of_the_run(tmp_path: Path) -> None:
    run = copy_shipped(tmp_path)
    published = {"accuracy": 90.0, "source": "x", "spikes": 5, "noise": {"0.1": 80.0}}
    config = json.loads(run.file("config.json").read_text())
    config["recipe"] |= {"name": "mine", "published": published}
    run.file("config.json").write_text(json.dumps(config))
    (shown,), _ = collect(tmp_path, (run.name,))
    assert shown.published == Published(accuracy=90.0, source="x", spikes=5, noise={0.1: 80.0})


@pytest.mark.parametrize("height", [98.6, 99.25, 99.3, 99.35, 99.4, 99.45, 99.5, 99.55, 99.6])
def test_no_number_lies_under_a_published_mark(height: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn("accuracy", [result(published=Published(accuracy=height, source="x"))], tmp_path, monkeypatch)
    with drawing():
        figure.draw_without_rendering()
        (axes,) = figure.axes
        x, y = next(line for line in axes.lines if line.get_label() == "published").get_xydata()[0]
        place, radius = axes.transData.transform((x, y)), 3 * figure.dpi / 72
        mark = Bbox([place - radius, place + radius])
        texts = [child for child in axes.get_children() if isinstance(child, Annotation)]
        assert len(texts) == 3
        assert not any(inner(text.get_window_extent()).overlaps(inner(mark)) for text in texts)


def test_accuracy_is_drawn_of_noisy_simulations_alone(tmp_path: Path) -> None:
    rows = rows_of(plot_accuracy([replace(result(), clean=None)], tmp_path / "accuracy")[2])
    assert [row["noise_ratio"] for row in rows] == ["0.1", "0.2"]


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("results", [[], [result_from("lenet-mnist", "fp32", [])]], ids=["no results", "an empty one"])
def test_nothing_to_draw_is_an_error(name: str, results: list[Result], tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"^(lenet-mnist|the figure) has no simulation results: run `snnconv simulate` first$"
    ):
        FIGURES[name](results, tmp_path / "figure")
    assert not list(tmp_path.iterdir())


def test_an_unknown_convention_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^k1B2 has no SOPs by the convention 'flops': choose from synops, events, "):
        plot_sops([result()], tmp_path / "sops", ("flops",))


@pytest.mark.parametrize("name", FIGURES)
def test_a_folder_that_cannot_be_written_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"^cannot write .*file/figure\.png: "):
        FIGURES[name]([result()], tmp_path / "file" / "figure")

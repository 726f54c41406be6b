"""The report of a run: the page itself, and the command on the run that comes with the package."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_cli import sentence, snnconv

from snnconv.reporting.facts import gather, newest_with_results
from snnconv.reporting.pages import Heading, Picture, Table, Text, Tiles, to_html, to_markdown
from snnconv.runs import copy_shipped, list_runs, read_json, write_json

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects attributes and table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: list[tuple[str, str]] = []
        self.rows: list[int] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1
            self.cells.append((dict(attrs).get("class") or "", ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            kind, text = self.cells[-1]
            self.cells[-1] = (kind, text + data)


def requests(page: Page) -> list[str]:
    """Whatever a browser would fetch or run."""
    tags = {tag for tag, _, _ in page.attributes}
    assert not tags & {"script", "iframe", "object", "embed", "video", "audio"}
    links = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    return [link for link in links if not link.startswith(("data:", "#"))]


BLOCKS = [
    Tiles([("99 %", "a <share>")]),
    Heading("Layers & more"),
    Text("Run `a < b`."),
    Table(("layer", "kind", "units"), [("x|y", "<b>", 12_000), ("total", "", None)], frozenset({0, 1}), "Caption", 1),
    Picture("dots", "A [figure].", b"<svg/>"),
]


def test_a_page_of_every_block() -> None:
    text = to_html("T & T", "lead", BLOCKS)
    page = Page(text)
    assert requests(page) == []
    assert "<title>T &amp; T</title>" in text and "<code>a &lt; b</code>" in text and "a &lt;share&gt;" in text
    assert page.cells == [
        ("", "layer"), ("", "kind"), ("number", "units"), ("", "x|y"), ("", "<b>"), ("number", "12,000"), ("", "total"),
        ("", ""), ("number", "-"),
    ]  # fmt: skip
    assert page.rows == [3, 3, 3]
    assert ("a", "href", "#layers-more") in page.attributes and ("h2", "id", "layers-more") in page.attributes
    (image,) = (value for tag, name, value in page.attributes if (tag, name) == ("img", "src"))
    assert base64.b64decode(image.split(",")[1]) == b"<svg/>"
    assert "prefers-color-scheme: dark" in text and "overflow-x: auto" in text


def test_the_same_as_markdown() -> None:
    lines = to_markdown("T", "lead", BLOCKS, "files").splitlines()
    assert lines[0] == "# T" and "## Layers & more" in lines
    table = lines[lines.index("| layer | kind | units |") :]
    assert table[1:4] == ["|---|---|---:|", r"| x\|y | <b> | 12,000 |", "| total |  | - |"]
    assert "![A (figure).](files/dots.svg)" in lines


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command ran as typed."""
    folder = tmp_path_factory.mktemp("report")
    result = snnconv("report", "--images", "120", "--image", "7", cwd=folder)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "using the one that comes with snnconv" in result.stderr
    return folder


REPORT = Path("figs/lenet-digits/lenet-digits-k1B2/report")


def test_the_page_asks_for_nothing_and_has_every_section(reported: Path) -> None:
    text = (reported / REPORT).with_suffix(".html").read_text()
    page = Page(text)
    assert requests(page) == []
    assert "default-src 'none'" in text
    policy_breakers = re.findall(r"url\(|@import|https?://(?!www\.w3\.org)", text)
    assert not policy_breakers
    assert re.findall(r"<h2 [^>]*>([^<]*)</h2>", text) == [
        "Configuration", "Parity", "Accuracy and noise", "Layers", "Synaptic operations by convention",
        "Energy (estimates)", "Accuracy, operations and latency over runs", "Spikes, codes and confusions",
    ]  # fmt: skip
    figures = [value for tag, name, value in page.attributes if (tag, name) == ("figure", "id")]
    assert figures == [
        "accuracy",
        "layers",
        "energy",
        "raster",
        "codes",
        "rates",
        "confusion",
    ]  # one point: no frontier
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    for image in images:
        inside = base64.b64decode(image.split(",")[1]).decode()
        assert inside.startswith("<?xml") and not re.findall(r'href="(?!#|data:)[^"]*"', inside)
    assert all(value for tag, name, value in page.attributes if (tag, name) == ("img", "alt"))
    assert "Image 7 (class" in text and re.search(r"without noise: 0 of [\d,]+ units differ", text)


def test_the_numbers_are_those_of_the_results(reported: Path) -> None:
    run = reported / "runs/lenet-digits-k1B2"
    clean = read_json(run / "results/simulate-noise0.json", dict)
    proof = read_json(run / "results/verify.json", dict)
    text = (reported / REPORT).with_suffix(".html").read_text()
    markdown = (reported / REPORT).with_suffix(".md").read_text()
    for page in (text, markdown):
        assert f"{clean['spikes_per_image']:,.0f}" in page
        assert f"{proof['layers'][0]['units']:,}" in page
        for value in (*clean["sops_per_image"].values(), clean["operations"]["totals"]["rate"]):
            assert f"{value:,.0f}" in page
        for energy in ("spiking", "matched", "fp32"):
            total = clean["energy"]["presets"]["45nm-int8"]["with_movement"][energy]["total"]
            assert f"{total / 1000:,.3f}" in page
        assert "estimate" in page and "Potentials of 12 bits: the adder priced in" in page
    for file in re.findall(r"\]\(([^)]*\.svg)\)", markdown):
        assert (reported / REPORT).parent.joinpath(file).read_bytes().startswith(b"<?xml")


def test_the_same_run_gives_the_same_bytes(reported: Path) -> None:
    before = (reported / REPORT).with_suffix(".html").read_bytes()
    arguments = (
        "report",
        "--images",
        "120",
        "--image",
        "7",
        "--json",
        "--quiet",
        "--batch-size",
        "50",
        "--out",
        "again",
    )
    result = snnconv(*arguments, cwd=reported)
    values = json.loads(result.stdout)
    assert values == {"run": "lenet-digits-k1B2", "files": ["again.html", "again.md"]}
    assert (reported / "again.html").read_bytes() == before


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with the run that comes with the package, to spoil."""
    copy_shipped(tmp_path / "runs")
    return tmp_path


def test_without_images_no_data_and_no_weights_are_needed(bare: Path) -> None:
    run = bare / "runs/lenet-digits-k1B2"
    for name in ("ann.safetensors", "network.safetensors"):
        (run / name).unlink()
    result = snnconv("report", "--run", "lenet-digits-k1B2", "--images", "0", cwd=bare)
    assert result.exit_code == 0, (result.output, result.exception)
    text = (bare / REPORT).with_suffix(".html").read_text()
    assert "raster" not in text and "Energy (estimates)" in text


def test_results_of_an_earlier_release_lack_energy_and_say_so(bare: Path) -> None:
    file = bare / "runs/lenet-digits-k1B2/results/simulate-noise0.json"
    values = read_json(file, dict)
    for name in ("operations", "energy"):
        del values[name]
    write_json(file, values)
    (bare / "runs/lenet-digits-k1B2/results/verify.json").unlink()
    assert snnconv("report", "--run", "lenet-digits-k1B2", "--images", "0", cwd=bare).exit_code == 0
    text = (bare / REPORT).with_suffix(".html").read_text()
    assert "Simulated by an earlier release" in text and "Not verified" in text


def test_the_newest_run_with_results_and_its_neighbours(bare: Path) -> None:
    runs = bare / "runs"
    for name, created, simulated in (("newer", "2999-01-01T00:00:00+00:00", True), ("newest", "2999-02-01", False)):
        shutil.copytree(runs / "lenet-digits-k1B2", runs / name)
        config = read_json(runs / name / "config.json", dict) | {"created": created, "shipped": False}
        write_json(runs / name / "config.json", config)
        if not simulated:
            for file in (runs / name / "results").glob("simulate-*"):
                file.unlink()
    run = newest_with_results(runs)
    assert run is not None and run.name == "newer"
    assert list(gather(run, runs).neighbours) == []  # a shipped run is no neighbour
    shipped = next(other for other in list_runs(runs) if other.shipped)
    assert list(gather(shipped, runs).neighbours) == ["newer"]


def test_runs_side_by_side_make_a_frontier(bare: Path) -> None:
    runs = bare / "runs"
    for name, accuracy in (("one", 0.98), ("two", 0.91)):
        shutil.copytree(runs / "lenet-digits-k1B2", runs / name)
        write_json(runs / name / "config.json", read_json(runs / name / "config.json", dict) | {"shipped": False})
        file = runs / name / "results/simulate-noise0.json"
        write_json(file, read_json(file, dict) | {"accuracy": accuracy})
    shutil.rmtree(runs / "two/results")
    (runs / "two/results").mkdir()
    values = read_json(runs / "one/results/simulate-noise0.json", dict) | {"accuracy": 0.91}
    del values["latency_steps"]
    values["sops_per_image"]["synops"] *= 3
    write_json(runs / "two/results/simulate-noise0.json", values)
    result = snnconv("report", "--run", "one", "--images", "0", "--out", "one", cwd=bare)
    assert result.exit_code == 0, (result.output, result.exception)
    page = Page((bare / "one.html").read_text())
    cells = [text for _, text in page.cells]
    assert cells[cells.index("one", cells.index("number")) - 1] == "1"
    other = cells.index("two")
    assert cells[other - 1 : other + 5] == ["2", "two", "ladder", "4", "1", "-"] and cells[other + 6] == "91.00"
    assert ("figure", "id", "frontier") in page.attributes


def test_columns_that_say_nothing_are_left_out(bare: Path) -> None:
    file = bare / "runs/lenet-digits-k1B2/results/simulate-noise0.json"
    values = read_json(file, dict)
    for taken_back, headings in ((0.0, 0), (2.5, 1)):
        values["layers"][0]["negative_spikes"] = taken_back
        write_json(file, values)
        assert snnconv("report", "--run", "lenet-digits-k1B2", "--images", "0", cwd=bare).exit_code == 0
        cells = [text for _, text in Page((bare / REPORT).with_suffix(".html").read_text()).cells]
        assert cells.count("below zero") == headings and cells.count("2.5") == 2 * headings


def test_noise_sweeps_and_time_get_their_sections(bare: Path) -> None:
    common = ("--run", "lenet-digits-k1B2", "--images", "40", "--quiet")
    for command in (
        ("simulate", "--neuron", "st-bif", *common),
        ("sweep", "--ratios", "0,0.5", "--trials", "2", *common),
        ("sweep", "--ratios", "0,0.3", "--trials", "1", "--noise", "threshold", *common),
        ("simulate", "--noise", "threshold:0.3", *common),
        ("report", "--run", "lenet-digits-k1B2", "--images", "0", "--quiet"),
    ):
        result = snnconv(*command, cwd=bare)
        assert result.exit_code == 0, (command, result.output, result.exception)
    text = (bare / REPORT).with_suffix(".html").read_text()
    assert "95 % interval (Student, over 2 trials) of the mean" in text and "no interval (1 trial)" in text
    assert "take 5 trials or more for an interval to rely on" in text and "95 % interval (Wilson, over images)" in text
    assert "Sweeps of a noise" in text and "deletion noise on conv1_act, 40 images, 2 trials" in text
    page, at = Page(text), text.index
    assert at("threshold noise on 6 layers, 40 images, 1 trial") < at("deletion noise on conv1_act")  # the newest first
    assert {("figure", "id", "noise"), ("figure", "id", "noise-2")} <= set(page.attributes)
    assert "Accuracy over time" in text and "<td>st-bif</td>" in text
    assert "threshold noise 0.3" in text


def test_known_errors_are_one_sentence(bare: Path) -> None:
    report = ("report", "--run", "lenet-digits-k1B2", "--quiet")
    assert "image 40 is not among the 40" in sentence(snnconv(*report, "--images", "40", "--image", "40", cwd=bare))
    assert "no run called nothing" in sentence(snnconv("report", "--run", "nothing", cwd=bare))
    (bare / "file").write_text("")
    assert "cannot write" in sentence(snnconv(*report, "--images", "0", "--out", "file/report", cwd=bare))
    for file in (bare / "runs/lenet-digits-k1B2/results").glob("simulate-*"):
        file.write_text("{}")
    assert "has no simulation results" in sentence(snnconv(*report, cwd=bare))

"""Printed tables, locked as text in tests/golden (SNNCONV_REGENERATE=1 writes them anew); totals are added again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from test_reporting_rows import simulated

from snnconv.config import load_recipe, to_mapping
from snnconv.conversion.verification import LayerParity, Parity
from snnconv.reporting.labels import levels_name, noise_name, short
from snnconv.reporting.layout import WIDTH, add, new_table, render
from snnconv.reporting.summaries import choices_summary
from snnconv.reporting.sweeps import sweep_summary, sweep_table
from snnconv.reporting.tables import (
    demo_table,
    network_table,
    recipes_notes,
    recipes_table,
    runs_table,
    simulation_summary,
    simulation_table,
    verification_summary,
    verification_table,
)
from snnconv.snn.footprint import Range

GOLDEN = Path(__file__).parent / "golden"


def check(name: str, text: str) -> None:
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("SNNCONV_REGENERATE"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    assert text.isascii()
    assert text + "\n" == file.read_text(encoding="utf-8")


def numbers(text: str, first: str, kind: str) -> list[float]:
    """The numbers of a table's row, which begins with these two words."""
    line = next(line for line in text.splitlines() if line.split()[:2] == [first, kind])
    return [float(word.replace(",", "")) for word in line.removeprefix(first).split()[1:] if word != "encoder"]


def proven() -> Parity:
    layers = [
        LayerParity("conv1_act", 6_272_000, 0, 0, 0.412, 0.197, False, False),
        LayerParity("conv2_act", 4_608_000, 0, 0, 0.385, 0.146, False, False, 1.25e-9, 3),
        LayerParity("conv3_act", 1_152_000, 0, 0, 0.521, 0.199, False, False),
    ]
    return Parity(500, layers, 0, 500, 500, 493)


def refuted() -> Parity:
    parity = proven()
    parity.layers[1] = LayerParity("conv2_act", 4_608_000, 1_204, 2, 0.385, 0.146, False, False)
    parity.layers.append(LayerParity("conv4_act", 1_024_000, 0, 0, 0.0, 0.0, True, False))
    parity.layers.append(LayerParity("conv5_act", 256_000, 0, 0, 0.0, 1.0, False, True))
    return parity


def noisy() -> dict[str, Any]:
    return simulated(noise_ratio=0.1, trials=10)


def test_simulation_table() -> None:
    text = render(simulation_table(noisy()))
    check("simulation", text)
    layers = [numbers(text, f"conv{i}_act", "encoder" if i == 1 else "spiking") for i in range(1, 7)]
    spiking, total = numbers(text, "total", "spiking"), numbers(text, "total", "+")
    for printed, rows in ((spiking, layers[1:]), (total, layers)):
        units, spikes, rate, synops, fanout, macs = printed
        columns = list(zip(*rows, strict=True))  # units, L, spikes, rate, synops, fanout, MACs
        assert [units, spikes, synops, fanout, macs] == [sum(columns[i]) for i in (0, 2, 4, 5, 6)]
        assert rate == round(100 * spikes / sum(n * levels for n, levels in zip(*columns[:2], strict=True)), 1)
    simulation = noisy()
    assert total[0] == simulation["units"]
    assert total[1] == simulation["spikes_per_image"]
    assert spiking[3:] == [
        simulation["sops_per_image"]["synops"],
        simulation["sops_per_image"]["fanout"],
        simulation["ann_macs"],
    ]


@pytest.mark.parametrize("steps", [1, 3])
def test_over_time_a_unit_is_one_neuron(steps: int) -> None:
    text = render(simulation_table(noisy() | {"neuron": "st-bif", "steps": steps}))
    units, spikes, rate = numbers(text, "total", "spiking")[:3]
    assert rate == round(100 * spikes / (units * steps), 1)


def test_deep_simulation_table_fits() -> None:
    text = render(simulation_table(simulated([65_536] * 55, 15, 10, 10)))
    check("simulation_deep", text)
    assert max(map(len, text.splitlines())) <= WIDTH


def test_verification_table() -> None:
    for name, parity in (("verification", proven()), ("verification_refuted", refuted())):
        text = render(verification_table(parity.to_dict()))
        check(name, text + "\n" + verification_summary(parity.to_dict(), parity.failures()))
        total = next(line for line in text.splitlines() if line.startswith("total")).replace(",", "").split()[1:]
        units, wrong = sum(x.units for x in parity.layers), sum(x.mismatches for x in parity.layers)
        assert list(map(int, total)) == [units, wrong, max(x.max_difference for x in parity.layers)]


def test_verification_summary_begins_with_the_verdict() -> None:
    assert verification_summary(proven().to_dict(), proven().failures()).startswith("PROVEN: 0 of 12,032,000 units")
    assert verification_summary(refuted().to_dict(), refuted().failures()).startswith("NOT PROVEN: layer conv2_act")
    tied = proven()
    tied.encoder_ties, tied.tied_images, tied.layers[0].units = 1, [7], 10_000_000
    assert "1 encoder tie on 1 image" in verification_summary(tied.to_dict(), tied.failures())


@pytest.mark.parametrize(
    ("simulation", "text"),
    [
        (
            noisy(),
            "98.60 % (95 % interval over images, Wilson: 97.1-99.3) of 500 images, T = 1, L = 4, noise 0.1 on conv1_act, "
            "10 trials (sd 0.00), 41,800 spikes and 1.67 M synops an image",
        ),
        (
            simulated([100], 1, 1, 1) | {"neuron": "st-bif"},
            "100.00 % (95 % interval over images, Wilson: 20.7-100.0) of 1 image, st-bif, T = 1, L = 1, no noise, "
            "50 spikes and 0.00 M synops an image",
        ),
        (
            simulated([100], 1, 1, 1) | {"levels": [1, 8]},
            "100.00 % (95 % interval over images, Wilson: 20.7-100.0) of 1 image, T = 1, L = 1 to 8, no noise, "
            "50 spikes and 0.00 M synops an image",
        ),
        (
            simulated([100], 1, 1, 1) | {"classes": 1000, "top5_accuracy": 0.8678},
            "100.00 % (95 % interval over images, Wilson: 20.7-100.0) of 1 image, top-5 86.78 %, T = 1, L = 1, no noise, "
            "50 spikes and 0.00 M synops an image",
        ),
    ],
)
def test_simulation_summary(simulation: dict[str, Any], text: str) -> None:
    assert simulation_summary(simulation) == text


@pytest.mark.parametrize(
    ("trials", "heading", "warning"),
    [
        (1, "(1 trial)", "; take 5 trials or more for an interval to rely on"),
        (4, "(Student, over 4 trials)", "; take 5 trials or more for an interval to rely on"),
        (5, "(Student, over 5 trials)", ""),
    ],
)
def test_a_sweep_names_its_interval_and_warns_of_few_trials(trials: int, heading: str, warning: str) -> None:
    counts = {"spikes_per_image": 10.0, "sops_per_image": {"synops": 2e6}}
    point = {"ratio": 0.1, "accuracy": 0.9, "sd": 0.01, "interval": None if trials == 1 else [0.89, 0.91]} | counts
    swept = {"noise": "deletion", "layers": ["conv1_act"], "others": [], "images": 40, "steps": 1, "levels": 4}
    swept |= {"trials": trials, "points": [point]}
    assert heading in " ".join(render(sweep_table(swept)).split())
    assert sweep_summary(swept).endswith(f"M synops an image{warning}")


def test_recipes_table() -> None:
    plain = to_mapping(load_recipe("lenet-mnist-k1B2"))
    unpublished = {key: value for key, value in plain.items() if key != "published"} | {"name": "mine"}
    plain["training"] = unpublished["training"] = {"epochs": 12}
    large = to_mapping(load_recipe("resnet18tnn-imagenet-relu-published"))
    rows = [plain | {"measured": 99.4}, unpublished | {"measured": None}, large | {"measured": None}]
    check("recipes", render(recipes_table(rows)) + "\n" + recipes_notes(rows))
    assert recipes_notes(rows[1:2]) == ""


def test_runs_table() -> None:
    first = {"name": "lenet-mnist-k1B2-2", "recipe": "lenet-mnist-k1B2", "state": "verified", "epochs_done": 12}
    first |= {"epochs": 12, "accuracy": 0.9937, "created": "2026-01-02T03:04:05.678+00:00"}
    second = first | {"name": "lenet-mnist-k1B2", "state": "in training", "epochs_done": 3, "accuracy": None}
    check("runs", render(runs_table([first, second])))


def network() -> dict[str, Any]:
    encoder = {"name": "conv1_act", "type": "Encoder", "inputs": ["input"], "shape": [16, 28, 28], "parameters": 400}
    spiking = {"name": "conv2_act", "type": "SpikingLayer", "inputs": ["conv1_act"], "shape": [16, 24, 24]}
    spiking |= {
        "parameters": 6400,
        "weights": "integer",
        "levels": 4,
        "thresholds": [-401, 1601],
        "largest_potential": 1600,
    }
    flat = {"name": "flatten", "type": "Flatten", "inputs": ["conv2_act"], "shape": [9216]}
    readout = {"name": "fc", "type": "Readout", "inputs": ["flatten"], "shape": [10], "parameters": 92160}
    return {"layers": [encoder | {"weights": "float", "levels": 4}, spiking, flat, readout | {"weights": "integer"}]}


def test_network_table() -> None:
    text = render(network_table(network()))
    check("network", text)
    assert text.splitlines()[-1].split() == ["total", f"{400 + 6400 + 92160:,}"]


def test_names_of_a_network_s_table_stay_whole_and_wide_integers_are_bits() -> None:
    wide = network()
    layer = wide["layers"][1]
    layer |= {"name": "features_" * 6 + "act", "inputs": ["features_" * 6 + "add", "features_" * 5 + "norm"]}
    layer |= {"thresholds": [-(2**36), 2**38 - 1], "largest_potential": 2**50 - 1}
    lines = render(network_table(wide), 1000).splitlines()
    places = [[place for place, line in enumerate(lines) if name in line] for name in [layer["name"], *layer["inputs"]]]
    assert [[place - places[0][0] for place in own] for own in places] == [[0], [0], [1]]  # inputs one under the other
    row = next(line for line in lines if line.startswith(layer["name"])).split()
    assert row[-4:] == ["39", "bits", "51", "bits"]  # 38 and 50, and the sign


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(0, 2**40 - 1, 40), (0, 2**40, 41), (-(2**40), 5, 41), (-(2**40) - 1, 5, 42), (2**30, 2**31, 32)],
)
def test_wide_thresholds_have_the_bits_of_a_certificate(low: int, high: int, bits: int) -> None:
    layer = network()["layers"][1] | {"thresholds": [low, high]}
    assert f" {bits} bits" in render(network_table({"layers": [layer]})) and Range(low, high).bits == bits


def test_demo_table() -> None:
    training = {"best_epoch": 9, "epochs": 10, "test_accuracy": 0.986, "test_images": 360, "seconds": 61.24}
    report = {"run": "lenet-digits-k1B2", "training": training, "verification": proven().to_dict()}
    check("demo", render(demo_table(report | {"simulations": [simulated(), noisy()]})))


def test_text_is_taken_literally_and_folded_not_cut() -> None:
    table = new_table(["name"], ["number"])
    add(table, "[bold]odd[/bold] :smile:", 1_234_567)
    add(table, "x" * 30, None)
    assert render(table) == (
        "name                               number\n"
        "-----------------------------------------\n"
        "[bold]odd[/bold] :smile:        1,234,567\n"
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx          -"
    )
    narrow = render(table, width=24)
    assert narrow.count("x") == 30
    assert max(map(len, narrow.splitlines())) <= 24


def test_names_of_noise_levels_and_numbers() -> None:
    assert noise_name(()) == "no noise"
    assert noise_name([("deletion", 0.25, ("a", "b"))]) == "noise 0.25 on a and b"
    assert noise_name([("deletion", 0.1, ("a", "b", "c"))]) == "noise 0.1 on 3 layers"
    assert noise_name([("deletion", 0.1, ("a",))], where=False) == "noise 0.1"
    several = [("deletion", 0.1, ("a",)), ("threshold", 0.05, ("b",)), ("input", 0.2, ())]
    assert noise_name(several) == "noise 0.1 on a and threshold noise 0.05 on b and input noise 0.2"
    assert levels_name(2) == levels_name([2, 2]) == "2"
    assert levels_name([4, 1]) == "1 to 4"
    assert [short(x) for x in (0.0, 0.0321, 0.8, 3.236, 56.62, 1140.4)] == [
        "0.00",
        "0.032",
        "0.80",
        "3.24",
        "56.6",
        "1,140",
    ]


def test_the_choices_of_an_engine_in_one_line() -> None:
    choices = {"a": "events", "b": "dense", "c": "events"}
    assert choices_summary({"engine": "auto", "choices": choices}) == "engine auto: events ran 2 layers, dense 1"
    assert choices_summary({"engine": "dense", "choices": {"a": "dense"}}) == "engine dense: dense ran 1 layer"

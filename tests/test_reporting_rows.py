"""Results of a configuration, made from what ``Simulation.to_dict`` really gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from snnconv.config import Published
from snnconv.errors import ConfigError, FormatError, RunError
from snnconv.reporting.rows import Result, configuration_order, names_of, published_accuracy, result_from, without_noise
from snnconv.snn.counting import CONVENTIONS, LayerCounts
from snnconv.snn.simulation import Simulation

LENET = (12_544, 9_216, 2_304, 2_048, 512, 256)
"""Units a layer of the k/B LeNet; 26,880 together."""


def simulated(
    units: Sequence[int] = LENET,
    levels: int = 4,
    correct: int = 493,
    images: int = 500,
    noise_ratio: float = 0.0,
    noise_layers: tuple[str, ...] = ("conv1_act",),
    trials: int = 1,
) -> dict[str, Any]:
    """Numbers that are whole for one image: layer i of u units sends u // (i + 2) spikes a level, 100 targets each."""
    shown = images * trials
    layers = []
    for i, count in enumerate(units):
        spikes, fan_out = shown * levels * (count // (i + 2)), 0 if i == 0 else 100
        sops = {name: spikes * fan_out * (1 + j) for j, name in enumerate(CONVENTIONS)}
        kind = "encoder" if i == 0 else "spiking"
        layers.append(LayerCounts(f"conv{i + 1}_act", kind, count, levels, spikes, 0, spikes, sops, 250 * count))
    idle = dict.fromkeys(CONVENTIONS, 2560 * shown)
    layers.append(LayerCounts("fc", "readout", 10, 1, 0, 0, 0, idle, 2560))
    simulation = Simulation(
        images, trials, noise_ratio, noise_layers, [levels] * len(units), 1, "dense", 0, [correct] * trials, layers
    )
    operations = [
        {
            "name": layer.name,
            "weight_bits": 2,
            "potential_bits": 11,
            "incoming_levels": levels * (layer.kind != "encoder"),
        }
        for layer in layers
    ]
    return simulation.to_dict() | {"operations": {"layers": operations}}


def result(
    configuration: str = "k1B2",
    levels: int = 4,
    correct: int = 493,
    units: Sequence[int] = LENET,
    published: Published | None = None,
) -> Result:
    """Without noise and with two ratios."""
    clean = simulated(units, levels, correct)
    noisy = [simulated(units, levels, correct - n, noise_ratio=n / 10, trials=3) for n in (1, 2)]
    return result_from("lenet-mnist", configuration, [noisy[1], clean, noisy[0]], published)


def test_configurations_are_ordered_by_levels_then_name() -> None:
    names = ["k1B4", "k1B2", "k0B4", "fp32", "k1B1", "k0B2", "k0B1"]
    assert sorted(names, key=configuration_order) == ["fp32", "k0B1", "k0B2", "k1B1", "k0B4", "k1B2", "k1B4"]
    assert sorted(["twta", "relu", "twba", "sttn-k1B4"], key=configuration_order) == [
        "relu",
        "twba",
        "sttn-k1B4",
        "twta",
    ]
    with pytest.raises(ConfigError, match="unknown quantization 'ternary'"):
        configuration_order("ternary")


def test_simulations_are_sorted_by_noise() -> None:
    made = result()
    assert made.clean is not None
    assert [s["noise_ratio"] for s in made.simulations] == [0.0, 0.1, 0.2]
    assert [s["noise_ratio"] for s in made.noisy] == [0.1, 0.2]


def test_of_several_the_one_of_most_images_counts_and_the_last_of_these() -> None:
    few, many, later = simulated(images=500), simulated(images=10_000), simulated(images=10_000, correct=9_000)
    assert result_from("g", "k1B2", [many, few]).clean is many
    assert result_from("g", "k1B2", [many, later, few]).clean is later


def test_noise_on_other_layers_is_kept_apart_but_no_noise_is_not() -> None:
    everywhere = ("conv1_act", "conv2_act")
    kinds = [simulated(noise_ratio=r, noise_layers=n) for r in (0.1, 0.0) for n in (everywhere, ("conv1_act",))]
    made = result_from("g", "k1B2", kinds)
    assert [s["noise_layers"] for s in made.noisy] == [["conv1_act"], list(everywhere)]
    assert made.clean is kinds[3]


@pytest.mark.parametrize(
    "change", [{"layers": None}, {"accuracy": "x"}, {"layers": [3]}, {"sops_per_image": {"synops": "x"}}]
)
def test_a_foreign_result_is_refused(change: dict[str, object]) -> None:
    foreign = {key: value for key, value in (simulated() | change).items() if value is not None}
    with pytest.raises(FormatError, match=r"^a simulation result of lenet-mnist-k1B2 is damaged .*: run `snnconv .*$"):
        result_from("lenet-mnist", "k1B2", [foreign])


def test_without_noise_says_what_to_do() -> None:
    nothing = result_from("lenet-mnist", "k1B2", [])
    with pytest.raises(RunError, match=r"^lenet-mnist has no simulation results: run `snnconv simulate` first$"):
        without_noise([nothing])
    with pytest.raises(RunError, match="has no noise-free simulation results"):
        without_noise([replace(result(), clean=None)])
    found = without_noise([result(), nothing, result("k0B1", 1)])
    assert [own.configuration for own, _ in found] == ["k0B1", "k1B2"]
    assert all(simulation is own.clean for own, simulation in found)


def test_names_tell_the_number_of_images_where_it_differs() -> None:
    some, all_ = result(), result_from("lenet-mnist", "k0B1", [simulated(images=10_000)])
    assert names_of(without_noise([some])) == ["k1B2"]
    assert names_of(without_noise([some, all_])) == ["k0B1\n10,000\nimages", "k1B2\n500\nimages"]
    assert names_of(without_noise([some, all_]), ", {:,} images") == ["k0B1, 10,000 images", "k1B2, 500 images"]


def test_a_published_accuracy_belongs_to_its_conditions() -> None:
    published = Published(accuracy=99.37, source="x", noise={0.1: 99.39, 0.2: 99.22})
    made = result(published=published)
    assert made.published is published
    assert [published_accuracy(published, own) for own in made.simulations] == [99.37, 99.39, 99.22]
    assert published_accuracy(published, simulated(noise_ratio=0.3)) is None
    assert published_accuracy(published, simulated(noise_ratio=0.1, noise_layers=("conv1_act", "conv2_act"))) is None
    encoder = {"name": "deletion", "ratio": 0.1, "layers": ["conv1_act"]}
    membrane = encoder | {"name": "membrane"}
    assert published_accuracy(published, simulated() | {"noise": [encoder]}) == 99.39
    for noise in ([membrane], [encoder, membrane]):
        assert published_accuracy(published, simulated() | {"noise": noise}) is None
    assert published_accuracy(None, simulated()) is None


def test_reporting_imports_neither_torch_nor_pyplot() -> None:
    code = (
        "import sys, snnconv.reporting.figures, snnconv.reporting.tables\n"
        "print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_tables_do_not_import_matplotlib() -> None:
    code = "import sys, snnconv.reporting.tables\nassert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

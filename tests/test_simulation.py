"""Simulation: accuracy, trials, seeds, totals, and plain values."""

from __future__ import annotations

import json
import math

import pytest
import torch
from samples import TWTA, random_images, random_network, wires

from snnconv.config import Preprocessing
from snnconv.data.images import Images
from snnconv.data.preprocessing import preprocess
from snnconv.engines.dense import DenseEngine
from snnconv.errors import ConfigError
from snnconv.snn.counting import CONVENTIONS
from snnconv.snn.network import NOTHING, Instead
from snnconv.snn.noise_models import Deletion
from snnconv.snn.simulation import MAX_BATCH, Simulation, simulate

SHAPE = (2, 7, 8)
IMAGES = random_images(23, SHAPE)


@pytest.fixture(scope="module")
def engine() -> DenseEngine:
    return DenseEngine(random_network(1))


def outcome(result: Simulation) -> dict:
    """Everything but the list of batches."""
    return result.to_dict() | {"rows": result.layers}


def test_accuracy_is_the_share_of_right_predictions(engine: DenseEngine) -> None:
    result = simulate(engine, IMAGES)
    logits, sent = wires(engine.network, preprocess(IMAGES.pixels, Preprocessing(divisor=255.0)))
    right = int((logits.argmax(1) == IMAGES.labels).sum())
    assert result.correct_by_trial == [right]
    assert result.accuracy == right / 23
    spikes = sum(int(sent[name].abs().sum()) for name, _ in engine.network.units())
    assert result.spikes_per_image == spikes / 23


def test_the_network_s_own_preprocessing_is_used() -> None:
    network = random_network(1)
    network.header = type(network.header)(network.header.shape, None)
    result = simulate(DenseEngine(network), IMAGES)
    logits, _ = wires(network, IMAGES.pixels.float())
    assert result.correct_by_trial == [int((logits.argmax(1) == IMAGES.labels).sum())]


def test_the_right_class_among_the_first_five_is_counted() -> None:
    network = random_network(1)
    draws = torch.Generator().manual_seed(3)
    many = torch.randn(len(IMAGES), 7, generator=draws, dtype=torch.float64)

    class Fixed(DenseEngine):
        """An engine with logits of its own, by the places of the images."""

        place = 0

        def run(self, x: torch.Tensor, taps: tuple = (), instead: Instead = NOTHING) -> torch.Tensor:
            self.place += len(x)
            return many[self.place - len(x) : self.place]

    images = Images("seven", "test", IMAGES.pixels, IMAGES.labels, 7)
    result = simulate(Fixed(network), images, batch_size=4, trials=2)
    among = sum(int(label) in row.argsort(descending=True)[:5] for label, row in zip(IMAGES.labels, many, strict=True))
    assert result.top5_by_trial == [among, among]
    assert 0 < among < 23 and result.top5_accuracy == among / 23
    assert result.to_dict()["top5_accuracy"] == among / 23 and result.to_dict()["classes"] == 7
    assert simulate(DenseEngine(network), IMAGES).to_dict()["top5_accuracy"] is None  # of four classes


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_the_outcome_does_not_depend_on_the_batch_size(engine: DenseEngine, ratio: float) -> None:
    whole = simulate(engine, IMAGES, [Deletion(ratio)], trials=2, batch_size=100)
    for size in (1, 5, 23, MAX_BATCH):
        assert outcome(simulate(engine, IMAGES, [Deletion(ratio)], trials=2, batch_size=size)) == outcome(whole)


def test_trials_draw_other_noise_and_the_first_is_a_single_one_s(engine: DenseEngine) -> None:
    names = tuple(name for name, _ in engine.network.units())
    one = simulate(engine, IMAGES, [Deletion(0.5, names)], trials=1)
    three = simulate(engine, IMAGES, [Deletion(0.5, names)], trials=3)
    assert three.correct_by_trial[0] == one.correct_by_trial[0]
    spikes = [sum(b.spikes for b in three.batches if b.trial == trial) for trial in range(3)]
    assert spikes[0] == sum(b.spikes for b in one.batches)
    assert len(set(spikes)) == 3
    assert three.accuracy == sum(three.correct_by_trial) / (3 * 23)


def test_same_seed_same_result_and_another_seed_another(engine: DenseEngine) -> None:
    one, same, other = (outcome(simulate(engine, IMAGES, [Deletion(0.4)], seed=seed)) for seed in (5, 5, 6))
    assert one == same
    assert one["spikes_per_image"] != other["spikes_per_image"]


def test_trials_without_noise_are_equal_and_averages_stay(engine: DenseEngine) -> None:
    one, three = simulate(engine, IMAGES), simulate(engine, IMAGES, trials=3)
    assert three.correct_by_trial == one.correct_by_trial * 3
    assert three.accuracy_sd == 0.0
    for name in ("accuracy", "spikes_per_image", "sops_per_image", "layers", "accuracy_interval"):
        assert three.to_dict()[name] == one.to_dict()[name]


def test_noise_acts_on_the_encoder_unless_told_otherwise(engine: DenseEngine) -> None:
    silent = simulate(engine, IMAGES, [Deletion(1.0)])
    assert silent.noise_layers == (engine.network.encoders[0],)
    assert silent.layers[0].spikes == 0
    assert silent.layers[1].sops["synops"] == 0
    last = [name for name, _ in engine.network.units()][-1]
    later = simulate(engine, IMAGES, [Deletion(1.0, (last,))])
    assert later.layers[0].spikes == simulate(engine, IMAGES).layers[0].spikes > 0
    assert next(row for row in later.layers if row.name == last).spikes == 0


def test_noise_deletes_its_share_of_the_encoder_s_spikes(engine: DenseEngine) -> None:
    clean = simulate(engine, IMAGES).layers[0].spikes
    noisy = simulate(engine, IMAGES, [Deletion(0.3)], trials=20).layers[0].spikes
    assert abs(noisy / 20 - 0.7 * clean) < 5 * math.sqrt(0.3 * 0.7 * clean / 20)


def test_batches_add_up_to_the_totals(engine: DenseEngine) -> None:
    result = simulate(engine, IMAGES, [Deletion(0.2)], trials=2, batch_size=10)
    assert [(b.trial, b.batch, b.images) for b in result.batches] == [
        (trial, batch, images) for trial in (0, 1) for batch, images in enumerate((10, 10, 3))
    ]
    assert sum(b.correct for b in result.batches) == sum(result.correct_by_trial)
    assert sum(b.spikes for b in result.batches) == sum(row.spikes for row in result.layers)
    for name in CONVENTIONS:
        spiking = sum(row.sops[name] for row in result.layers if row.kind == "spiking")
        assert sum(b.sops[name] for b in result.batches) == spiking
        assert result.sops_per_image[name] == spiking / (2 * 23)


def test_the_result_is_plain_json(engine: DenseEngine) -> None:
    values = simulate(engine, IMAGES, [Deletion(0.1)], trials=2, seed=3).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert (values["images"], values["trials"], values["seed"], values["noise_ratio"]) == (23, 2, 3, 0.1)
    assert (values["engine"], values["steps"]) == ("dense", 1)


def test_levels_and_sizes_are_reported(engine: DenseEngine) -> None:
    result, network = simulate(engine, IMAGES), engine.network
    values = result.to_dict()
    assert result.levels == [unit.grid.levels for _, unit in network.units()]
    assert values["levels"] in (result.levels, result.levels[0])
    units = [torch.Size(network.nodes[name].shape).numel() for name, _ in network.units()]
    assert values["units"] == sum(units)
    assert values["neurons"] == sum(u * L for u, L in zip(units, network.levels, strict=True))
    assert values["ann_macs"] == sum(row.macs for row in result.layers if row.kind == "spiking")
    assert all(0 <= row["rate"] <= 1 for row in values["layers"])
    assert values["layers"][-1]["rate"] == 0.0


def test_the_rule_of_twba_leaves_out_the_last_layer_that_fires(engine: DenseEngine) -> None:
    result = simulate(engine, IMAGES)
    *firing, last = (layer.spikes for layer in result.layers if layer.kind != "readout")
    assert last > 0
    assert result.to_dict()["spikes_by_rule"] == {
        "all": result.spikes_per_image,
        "zou2019": pytest.approx(sum(firing) / len(IMAGES)),
    }
    assert result.spikes_by_rule["all"] == pytest.approx((sum(firing) + last) / len(IMAGES))


def test_levels_are_a_list_only_where_layers_differ() -> None:
    assert Simulation(1, 1, 0.0, (), [4, 4], 1, "dense", 0, [1]).to_dict()["levels"] == 4
    assert Simulation(1, 1, 0.0, (), [4, 2], 1, "dense", 0, [1]).to_dict()["levels"] == [4, 2]


def test_signed_spikes_of_both_sides_are_counted() -> None:
    result = simulate(DenseEngine(random_network(2, TWTA)), IMAGES)
    encoder, row = result.to_dict()["layers"][0], result.layers[0]
    assert row.negative > 0
    assert row.positive > 0
    assert encoder["negative_spikes"] * 23 == pytest.approx(row.negative)
    assert 0 < encoder["rate"] <= 1


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % score interval, Wilson 1927."""
    z, p = 1.959963984540054, right / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


@pytest.mark.parametrize(("right", "n"), [(0, 23), (23, 23), (7, 23), (9935, 10_000)])
def test_the_interval_is_wilson_s(right: int, n: int) -> None:
    result = Simulation(n, 1, 0.0, (), [1], 1, "dense", 0, [right])
    assert result.interval == pytest.approx(wilson(right, n), abs=1e-9)


def test_the_spread_over_trials_is_the_sample_standard_deviation() -> None:
    result = Simulation(100, 3, 0.1, (), [1], 1, "dense", 0, [90, 92, 97])
    assert result.accuracy == pytest.approx(0.93)
    assert result.accuracy_sd == pytest.approx(math.sqrt((9 + 1 + 16) / 2) / 100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": 0}, r"trials \(= 0\)"),
        ({"batch_size": 0}, r"batch size \(= 0\)"),
        ({"batch_size": MAX_BATCH + 1}, "batch size"),
        ({"noise": [Deletion(0.1, ("nowhere",))]}, "'nowhere'"),
        ({"noise": [Deletion(0.0, ("nowhere",))]}, "'nowhere'"),
    ],
)
def test_settings_out_of_range_are_refused(engine: DenseEngine, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(engine, IMAGES, **arguments)

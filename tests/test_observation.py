"""A closer look at images, against the ANN's codes by hooks of the tests' own."""

from __future__ import annotations

import copy

import pytest
import torch
from samples import PIXELS, TWTA, ann_codes, random_ann, random_images, wires

from snnconv.conversion.convert import convert
from snnconv.conversion.observation import RATE_BINS, Observation, observe
from snnconv.conversion.splitting import split_signs
from snnconv.data.images import Images
from snnconv.data.preprocessing import prepare
from snnconv.engines.dense import DenseEngine
from snnconv.errors import ConfigError
from snnconv.grids import Grid
from snnconv.snn.network import SpikingNetwork

SHAPE = (2, 7, 8)


def look(
    seed: int, grid: Grid | None = None, chosen: int = 5, batch_size: int = 4
) -> tuple[SpikingNetwork, Images, Observation]:
    model, images = random_ann(seed, SHAPE, grid), random_images(10, SHAPE, seed=seed)
    network = convert(model, torch.zeros(1, *SHAPE), PIXELS)
    return network, images, observe(model, network, images, DenseEngine(network), chosen, batch_size)


@pytest.mark.parametrize("grid", [None, TWTA, Grid(1.0, 2, 1, (-0.3, 0.2, 0.9), (True,) * 3)])
def test_what_is_seen_is_what_travels(grid: Grid | None) -> None:
    network, images, seen = look(1, grid)
    x = prepare(images.pixels, PIXELS)
    logits, sent = wires(network, x)
    _, codes = ann_codes(random_ann(1, SHAPE, grid), x)
    assert [layer.name for layer in seen.layers] == [name for name, _ in network.units()]
    for layer in seen.layers:
        counts = sent[layer.name].long().flatten(1)
        low, high = network.count_range(layer.name)
        assert (layer.low, layer.levels, layer.units) == (low, high - low, counts.shape[1])
        origin = network.nodes[layer.name].origin
        theirs = codes[origin.module, origin.call].flatten(1)
        for row, code in enumerate(range(low, high + 1)):
            for column, count in enumerate(range(low, high + 1)):
                assert layer.joint[row][column] == int(((theirs == code) & (counts == count)).sum())
        rates = counts.abs().double().sum(0) / (10 * max(high, -low))
        expected = [0] * RATE_BINS
        for rate in rates.tolist():
            expected[min(int(rate * RATE_BINS + 1e-9), RATE_BINS - 1)] += 1
        assert layer.rates == expected
        assert layer.silent == int((counts.abs().sum(0) == 0).sum())
        own = counts[5]
        assert len(layer.raster) == int(own.abs().sum())
        for unit, level, sign in layer.raster:
            assert own[unit] * sign > level >= 0
    predicted = logits.argmax(1)
    assert (seen.label, seen.prediction) == (int(images.labels[5]), int(predicted[5]))
    assert seen.pixels == images.pixels[5].tolist()
    for true in range(4):
        for taken in range(4):
            number = int(((images.labels == true) & (predicted == taken)).sum())
            assert seen.confusion[true][taken] == number


def test_batches_change_nothing() -> None:
    assert look(2, batch_size=3)[2] == look(2, batch_size=10)[2]


def test_a_split_network_is_compared_side_by_side() -> None:
    model, images = random_ann(3, SHAPE, TWTA), random_images(6, SHAPE)
    network = split_signs(convert(model, torch.zeros(1, *SHAPE), PIXELS))
    seen = observe(model, network, images, DenseEngine(network))
    for layer in seen.layers:
        assert all(layer.joint[i][j] == 0 for i in range(2) for j in range(2) if i != j)
        assert sum(map(sum, layer.joint)) == 6 * layer.units


def test_a_changed_threshold_shows_beside_the_diagonal() -> None:
    model, images = random_ann(1, SHAPE), random_images(10, SHAPE, seed=1)
    network = copy.deepcopy(convert(model, torch.zeros(1, *SHAPE), PIXELS))
    name, layer = list(network.units())[1]
    layer.neuron.thresholds += 1
    seen = observe(model, network, images, DenseEngine(network))
    changed = next(own for own in seen.layers if own.name == name)
    assert sum(sum(row) for row in changed.joint) > sum(changed.joint[i][i] for i in range(len(changed.joint)))
    assert all(own.joint[i][j] == 0 for own in seen.layers[:1] for i in range(own.levels + 1) for j in range(i))


@pytest.mark.parametrize("chosen", [-1, 10])
def test_an_image_that_is_not_there(chosen: int) -> None:
    with pytest.raises(ConfigError, match=rf"image {chosen} is not among the 10 .*: 0..9"):
        look(1, chosen=chosen)

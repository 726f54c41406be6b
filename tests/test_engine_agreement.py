"""Engines against the plain forward at the sizes of the published networks; `pytest -m slow tests/test_engine_agreement.py`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import TWTA, random_network
from test_engines import assert_same, images
from test_learning import CENTRED, LARGE, network, sample, settle

from snnconv.ann.models.networks import NETWORKS
from snnconv.conversion.convert import convert
from snnconv.data.preprocessing import preprocess
from snnconv.grids import Grid
from snnconv.snn.network import SpikingNetwork, Tap
from snnconv.snn.noise_models import Deletion
from snnconv.snn.trial import Trial

pytestmark = pytest.mark.slow


def deletion(network: SpikingNetwork, number: int, seed: int = 0, ratio: float = 0.2) -> tuple[Tap, ...]:
    """Spikes lost in every layer, of so many images."""
    return Trial(network, [Deletion(ratio, ("all",))], seed, 3).taps(torch.arange(7, 7 + number))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_runs_alike_on_every_engine(name: str) -> None:
    number = 2 if name in LARGE else 6
    x = preprocess(sample(name, 16).pixels, CENTRED)
    spiking = convert(settle(network(name), x), x[:1], CENTRED)
    assert_same(spiking, x[:number])
    assert_same(spiking, x[:number], deletion(spiking, number))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0, 1),
    st.sampled_from((None, TWTA, Grid(0.3, 2, 2, (-0.5, -0.2, 0.1, 0.4), (False, True, True, False)))),
)
def test_two_hundred_random_networks_run_alike_with_and_without_noise(
    seed: int, ratio: float, grid: Grid | None
) -> None:
    spiking, x = random_network(seed, grid), images(seed)
    assert_same(spiking, x)
    assert_same(spiking, x, deletion(spiking, len(x), seed, ratio))

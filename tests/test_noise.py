"""Spike deletion against an explicit loop over threshold neurons in Python integers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import MASK, splitmix64, stream, surviving
from samples import TWTA, random_network, wires
from torch import Tensor

from snnconv.errors import ConfigError
from snnconv.snn.noise import delete_spikes, draw, stream_key
from snnconv.snn.noise_models import Deletion
from snnconv.snn.trial import Trial

WORDS = st.integers(-(2**63), 2**63 - 1)


@given(WORDS, st.lists(st.integers(0, 2**62), min_size=1, max_size=8))
def test_draws_are_splitmix64(key: int, counters: list[int]) -> None:
    got = [word & MASK for word in draw(key, torch.tensor(counters)).tolist()]
    assert got == [splitmix64(key & MASK, counter) for counter in counters]


def test_the_published_first_words_of_splitmix64() -> None:
    # seed 1234567, Steele, Lea, Flood 2014 as tabulated by Rosetta Code
    words = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [word & MASK for word in draw(1234567, torch.arange(1, 6)).tolist()] == words


@given(st.integers(0, 2**40), st.integers(0, 99), st.sampled_from(("conv1_act", "act", "é")))
def test_streams_are_named_by_seed_trial_noise_and_layer(seed: int, trial: int, layer: str) -> None:
    assert stream_key(seed, trial, "deletion", layer) & MASK == stream(seed, trial, "deletion", layer)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-5, 9), min_size=4, max_size=4), min_size=1, max_size=4),
    st.sampled_from((0.0, 0.1, 0.5, 0.97, 1.0)),
    WORDS,
    st.integers(0, 10**6),
)
def test_deletion_is_the_explicit_loop_s(counts: list[list[int]], ratio: float, key: int, first: int) -> None:
    images = torch.arange(first, first + len(counts))
    expected = [
        [surviving(count, ratio, key & MASK, first + row, unit, 4, 9) for unit, count in enumerate(line)]
        for row, line in enumerate(counts)
    ]
    for dtype in (torch.int8, torch.float32):
        got = delete_spikes(torch.tensor(counts, dtype=dtype), ratio, key, images, 9)
        assert got.dtype == dtype
        assert got.tolist() == expected


def test_units_are_numbered_channels_first_whatever_the_memory_layout() -> None:
    counts = torch.randint(0, 5, (3, 4, 5, 6), dtype=torch.int8)
    images = torch.tensor([7, 1, 4])
    plain = delete_spikes(counts, 0.4, 99, images, 4)
    assert torch.equal(plain, delete_spikes(counts.contiguous(memory_format=torch.channels_last), 0.4, 99, images, 4))
    flat = delete_spikes(counts.flatten(1), 0.4, 99, images, 4)
    assert torch.equal(plain.flatten(1), flat)
    assert not torch.equal(plain, counts)


def test_a_draw_belongs_to_its_image_not_to_its_row() -> None:
    counts = torch.full((6, 40), 4, dtype=torch.int8)
    images = torch.arange(10, 16)
    whole = delete_spikes(counts, 0.3, 5, images, 4)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(delete_spikes(counts[order], 0.3, 5, images[order], 4), whole[order])
    for row in range(6):
        assert torch.equal(delete_spikes(counts[row : row + 1], 0.3, 5, images[row : row + 1], 4)[0], whole[row])
    assert len({tuple(row) for row in whole.tolist()}) == 6  # each image has draws of its own


def test_a_count_keeps_its_sign_and_never_grows() -> None:
    counts = torch.arange(-4, 5, dtype=torch.int8).repeat(50, 20)
    noisy = delete_spikes(counts, 0.5, 3, torch.arange(50), 4)
    assert bool((noisy.abs() <= counts.abs()).all())
    assert bool((noisy * counts.sign() >= 0).all())
    assert not torch.equal(noisy, counts)


def test_the_two_sides_have_draws_of_their_own() -> None:
    images = torch.zeros(1, dtype=torch.int64)
    up = delete_spikes(torch.full((1, 200), 3, dtype=torch.int8), 0.5, 11, images, 3)
    down = delete_spikes(torch.full((1, 200), -3, dtype=torch.int8), 0.5, 11, images, 3)
    assert not torch.equal(up, -down)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("count", [1, 4, -4, 9])
def test_survivors_are_binomial(ratio: float, count: int) -> None:
    n, size = 40_000, abs(count)
    counts = torch.full((20, n // 20), count, dtype=torch.int8)
    kept = delete_spikes(counts, ratio, stream_key(1, 0, "deletion", "x"), torch.arange(20), 9).abs().double()
    variance = size * ratio * (1 - ratio)
    assert abs(float(kept.mean()) - size * (1 - ratio)) < 5 * math.sqrt(variance / n)
    fourth = (
        variance * (1 + 3 * (size - 2) * ratio * (1 - ratio)) if size > 1 else variance * (1 - 3 * ratio * (1 - ratio))
    )
    assert abs(float(kept.var()) - variance) < 5 * math.sqrt((fourth - variance**2) / n) + 5 * variance / n


def test_nearby_seeds_trials_layers_and_units_are_uncorrelated() -> None:
    counts, images = torch.ones(30, 400, dtype=torch.int8), torch.arange(30)
    keys = [stream_key(s, t, "deletion", name) for s, t, name in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))]
    fields = [delete_spikes(counts, 0.5, key, images, 1).double() for key in keys]
    samples = torch.stack(
        [field.flatten() for field in fields] + [fields[0].roll(1, 1).flatten(), fields[0].roll(1, 0).flatten()]
    )
    correlation = torch.corrcoef(samples) - torch.eye(len(samples))
    assert float(correlation.abs().max()) < 5 / math.sqrt(counts.numel())


def _run(noise: Deletion, x: Tensor, images: Tensor, trial: int = 0, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    network = random_network(1)
    sent: dict[str, Tensor] = {}

    def keep(name: str, counts: Tensor, step: int) -> Tensor:
        sent[name] = counts
        return counts

    with torch.no_grad():
        return network(x, [*Trial(network, [noise], seed, trial).taps(images), keep]), sent


X = torch.rand(6, 2, 7, 8, generator=torch.Generator().manual_seed(5))
IMAGES = torch.arange(6)


def test_zero_noise_is_bit_identical_to_none() -> None:
    network = random_network(1)
    names = tuple(name for name, _ in network.units())
    logits, sent = _run(Deletion(0.0, names), X, IMAGES)
    plain, wire = wires(network, X)
    assert torch.equal(logits, plain)
    assert all(torch.equal(sent[name], wire[name]) for name in wire)


def test_full_noise_silences_its_layers_only() -> None:
    network = random_network(1)
    _, sent = _run(Deletion(1.0, network.encoders), X, IMAGES)
    _, plain = wires(network, X)
    assert not sent[network.encoders[0]].any()
    assert plain[network.encoders[0]].any()
    later = [name for name, _ in network.units()][1]
    assert bool((sent[later] == sent[later][:1]).all())  # it hears nothing, so every image is the same to it
    assert not bool((plain[later] == plain[later][:1]).all())


def test_noise_on_the_network_does_not_depend_on_batch_size_or_order() -> None:
    network = random_network(1)
    noise = Deletion(0.3, tuple(name for name, _ in network.units()))
    logits, _ = _run(noise, X, IMAGES, trial=2)
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    assert torch.equal(_run(noise, X[order], IMAGES[order], trial=2)[0], logits[order])
    rows = [_run(noise, X[i : i + 1], IMAGES[i : i + 1], trial=2)[0] for i in range(6)]
    assert torch.equal(torch.cat(rows), logits)
    assert not torch.equal(_run(noise, X, IMAGES, trial=3)[0], logits)
    assert not torch.equal(_run(noise, X, IMAGES + 6, trial=2)[0], logits)


def test_signed_counts_of_a_network_are_deleted_by_the_loop_s_rule() -> None:
    network = random_network(2, grid=TWTA)
    encoder = network.encoders[0]
    _, plain = wires(network, X)
    assert plain[encoder].min() == -1
    sent: dict[str, Tensor] = {}

    def keep(name: str, counts: Tensor, step: int) -> Tensor:
        sent[name] = counts
        return counts

    network(X, [*Trial(network, [Deletion(0.5, (encoder,))], 8, 1).taps(IMAGES), keep])
    flat = plain[encoder].flatten(1)
    key = stream(8, 1, "deletion", encoder)
    expected = [
        [surviving(int(count), 0.5, key, row, unit, flat.shape[1], 1) for unit, count in enumerate(line)]
        for row, line in enumerate(flat)
    ]
    assert sent[encoder].flatten(1).tolist() == expected


@pytest.mark.parametrize("ratio", [-0.1, 1.0001, math.nan])
def test_a_ratio_that_is_no_probability_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match=r"lie in \[0, 1\]"):
        Deletion(ratio, ("a",))


def test_noise_on_an_unknown_layer_is_refused_with_the_known_ones() -> None:
    network = random_network(1)
    with pytest.raises(ConfigError, match=rf"'nowhere'.*{network.encoders[0]}"):
        Trial(network, [Deletion(0.1, (network.encoders[0], "nowhere"))])

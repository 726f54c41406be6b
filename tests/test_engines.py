"""Engines give the plain forward's bits; the affine ladder is right at every potential."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import TWTA, random_network, ternary, wires
from torch import Tensor, nn

from snnconv.ann.quantizers import KBQuantizer
from snnconv.conversion.convert import convert
from snnconv.engines import dense
from snnconv.engines.affine import apply_affine, fit_affine
from snnconv.engines.dense import DenseEngine, affine_of, dense_step
from snnconv.engines.events import EventsEngine
from snnconv.engines.integer import integer_step
from snnconv.engines.layered import LayeredEngine, Step
from snnconv.engines.library import find_library, kernel_names
from snnconv.engines.registry import AutoEngine
from snnconv.formats.native import load
from snnconv.grids import Grid, k_b_grid
from snnconv.runs import NETWORK, shipped_run
from snnconv.snn.layers import Branch, Readout, SpikingLayer, SpikingLinear
from snnconv.snn.network import SpikingNetwork, Tap
from snnconv.snn.noise_models import Deletion
from snnconv.snn.simulation import Runner
from snnconv.snn.synapses import LinearSynapse
from snnconv.snn.thresholds import derive_ladder
from snnconv.snn.trial import Trial


def images(seed: int, count: int = 6) -> Tensor:
    return torch.rand(count, 2, 7, 8, generator=torch.Generator().manual_seed(seed))


KERNELS = kernel_names(handle) if (handle := find_library()) is not None else []
"""Instruction sets the kernels are built for; none without a compiler."""


class IntegerEngine(LayeredEngine):
    """Takes the integer way wherever there is one."""

    name = "integer"

    def ways(self, name: str) -> list[Step]:
        step = integer_step(self.network, name)
        return [dense_step(self.network.layers[name]) if step is None else step]


def engines(network: SpikingNetwork) -> dict[str, Runner]:
    """Every engine there is on this machine, the events engine once for each instruction set."""
    found: dict[str, Runner] = {"dense": DenseEngine(network), "auto": AutoEngine(network)}
    found["integer"] = IntegerEngine(network)
    return found | {f"events, {name}": EventsEngine(network, kernels=name) for name in KERNELS}


def outcome(run: Callable[..., Tensor], x: Tensor, taps: tuple[Tap, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and what every layer sent."""
    sent: dict[str, Tensor] = {}

    def keep(name: str, counts: Tensor, step: int) -> Tensor:
        sent[name] = counts.clone()
        return counts

    with torch.no_grad():
        return run(x, (*taps, keep)), sent


def assert_same(network: SpikingNetwork, x: Tensor, taps: tuple[Tap, ...] = ()) -> None:
    """Every engine gives the bits of the plain forward, twice: ``auto`` decides on the first batch."""
    logits, sent = outcome(network, x, taps)
    for which, engine in engines(network).items():
        for _ in range(2 if which == "auto" else 1):
            own, wires = outcome(engine.run, x, taps)
            assert list(sent) == list(wires)
            for name in sent:
                assert torch.equal(sent[name].double(), wires[name].double()), f"{which}: {name}"
            assert own.dtype == torch.float64
            assert torch.equal(logits, own), which


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from((None, TWTA, Grid(0.3, 2, 2, (-0.5, -0.2, 0.1, 0.4), (False, True, True, False)))),
)
def test_engines_are_the_plain_forward_bit_for_bit(seed: int, grid: Grid | None) -> None:
    assert_same(random_network(seed, grid), images(seed))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from((None, TWTA)))
def test_engines_are_the_plain_forward_under_noise_too(seed: int, ratio: float, grid: Grid | None) -> None:
    network = random_network(seed, grid)
    trial = Trial(network, [Deletion(ratio, ("all",))], seed, 3)
    assert_same(network, images(seed), trial.taps(torch.arange(50, 56)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_results_do_not_depend_on_the_batch_size(seed: int) -> None:
    network, x = random_network(seed), images(seed, 7)
    engine = DenseEngine(network)
    whole = engine.run(x)
    for size in (1, 3):
        assert torch.equal(torch.cat([engine.run(part) for part in x.split(size)]), whole)
    with torch.no_grad():
        assert torch.equal(torch.cat([network(part) for part in x.split(2)]), whole)


def test_channels_last_input_gives_the_same_bits() -> None:
    network, x = random_network(3), images(3)
    engine = DenseEngine(network)
    assert torch.equal(engine.run(x.contiguous(memory_format=torch.channels_last)), engine.run(x))


def residual() -> SpikingNetwork:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.act = nn.Conv2d(2, 4, 3, padding=1), KBQuantizer(1, 2)
            self.conv, self.pool = ternary(nn.Conv2d(4, 4, 3, padding=1)), nn.AvgPool2d(2)
            self.last, self.out = KBQuantizer(0, 3), nn.Linear(48, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.stem(x))
            return self.out(self.last(self.pool(self.act(self.conv(x) + x))).flatten(1))

    return convert(Net().eval(), images(0)[:1])


def test_sums_pools_and_requantizations_agree() -> None:
    assert_same(residual(), images(1))


def test_an_engine_leaves_the_network_as_it_was() -> None:
    network, x = random_network(4), images(4)
    before, state = wires(network, x)[0], {key: value.clone() for key, value in network.state_dict().items()}
    DenseEngine(network).run(x)
    assert torch.equal(wires(network, x)[0], before)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_a_broken_affine_map_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    real = dense.fit_affine

    def off_by_one(*arguments: Tensor) -> object:
        affine = real(*arguments)
        return None if affine is None else type(affine)(affine.slope, affine.shift + 1)

    monkeypatch.setattr(dense, "fit_affine", off_by_one)
    with pytest.raises(AssertionError):
        assert_same(random_network(0), images(0))


def test_the_affine_map_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[bool] = []
    real = dense.fit_affine
    monkeypatch.setattr(dense, "fit_affine", lambda *a: fits.append((found := real(*a)) is not None) or found)
    DenseEngine(random_network(0))
    assert any(fits)


def big_conv() -> tuple[SpikingNetwork, Tensor]:
    """A 3x3 convolution with enough channels for every fast algorithm to be tempted."""
    torch.manual_seed(0)
    layers = [
        KBQuantizer(1, 2),
        ternary(nn.Conv2d(32, 32, 3, padding=1, bias=False)),
        nn.BatchNorm2d(32),
        KBQuantizer(1, 2),
    ]
    network = convert(nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 3)).eval(), torch.zeros(1, 32, 8, 8))
    return network, torch.rand(20, 32, 8, 8) * 3


@pytest.mark.parametrize("engine", ["plain", "dense"])
def test_integer_convolutions_stay_exact_where_onednn_is_not_there(engine: str) -> None:
    """Without oneDNN (as on many machines) torch may take NNPACK's Winograd, which is not exact on integers."""
    network, x = big_conv()
    expected, sent = wires(network, x)
    name = [name for name, _ in network.units()][1]
    unit = network.layers[name]
    exact = unit.branches[0].synapse.potential(sent[network.encoders[0]].double())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False):
            if engine == "plain":
                assert torch.equal(unit.potential(sent[network.encoders[0]]).double(), exact)
            else:
                assert_same(network, x)
                assert torch.equal(DenseEngine(network).run(x), expected)


@pytest.mark.parametrize("scale", [0.03, -0.03])
def test_the_most_negative_weight_code_is_not_lost(scale: float) -> None:
    weight = torch.tensor([[-128, 127, 3], [-128, -128, 1]], dtype=torch.int8)
    branch = Branch(LinearSynapse(weight), torch.full((2,), scale), torch.zeros(2))
    layer = SpikingLinear([branch], k_b_grid(0, 100), [2])
    assert layer.reaches == [2 * max(128 + 127 + 3, 128 + 128 + 1)]
    counts = torch.tensor([[2, 0, 1], [1, 2, 0], [0, 2, 2], [2, 2, 2]], dtype=torch.int8)
    z = counts.double() @ weight.double().T * scale
    expected = (z + 0.5).floor().clamp(0, 100)
    assert torch.equal(layer(counts).double(), expected)
    run = dense._spiking(layer)
    assert torch.equal(run(counts.float()).double(), expected)


def test_potentials_beyond_24_bits_agree() -> None:
    weight = torch.randint(-127, 128, (3, 4000), dtype=torch.int8)
    branch = Branch(LinearSynapse(weight), torch.tensor([1e-5, -1e-5, 0.0]), torch.tensor([3.0, 3.0, 2.0]))
    layer = SpikingLinear([branch], k_b_grid(0, 9), [127])
    counts = torch.randint(0, 128, (5, 4000), dtype=torch.int8)
    assert layer.reach >= 2**24
    U = (counts.long() @ weight.long().T).double()
    expected = (
        torch.stack([(U[:, 0] * 1e-5 + 3.5), (-U[:, 1] * 1e-5 + 3.5), torch.full((5,), 2.5)], 1).floor().clamp(0, 9)
    )
    assert torch.equal(layer(counts).double(), expected.double())
    assert torch.equal(dense._spiking(layer)(counts.float()).double(), expected.double())


# ------------------------------------------------------------------------------- the affine ladder


def ladder_counts(thresholds: Tensor, negative: int, reach: int) -> Tensor:
    """Counts (2 reach + 1, C) at every potential, by the definition."""
    U = torch.arange(-reach, reach + 1)
    return (U[:, None, None] >= thresholds[None]).sum(1) - negative


def affine_counts(affine: object, negative: int, levels: int, reach: int, channels: int) -> Tensor:
    U = torch.arange(-reach, reach + 1).float()[:, None].repeat(1, channels)
    return apply_affine(U + affine.shift, affine.slope, negative, levels - negative)  # type: ignore[attr-defined]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 6), st.integers(0, 3),
    st.lists(st.tuples(st.floats(1e-4, 20) | st.just(0.0), st.floats(-30, 30)), min_size=1, max_size=4),
    st.integers(0, 120),
)  # fmt: skip
def test_a_fitted_map_is_right_at_every_potential(
    levels: int, negative: int, channels: list[tuple[float, float]], reach: int
) -> None:
    negative = min(negative, levels)
    boundaries = tuple(i + 0.5 - negative for i in range(levels))
    grid = Grid(1.0, levels - negative, negative, boundaries, (True,) * levels)
    scale = torch.tensor([s for s, _ in channels], dtype=torch.float64)
    ladder = derive_ladder(scale[None], torch.tensor([o for _, o in channels], dtype=torch.float64), [reach], grid)
    affine = fit_affine(ladder.thresholds, negative, scale, torch.full((len(channels),), reach))
    if affine is not None:
        got = affine_counts(affine, negative, levels, reach, len(channels))
        assert torch.equal(got.long(), ladder_counts(ladder.thresholds, negative, reach))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(-12, 12), min_size=1, max_size=4), st.integers(0, 2), st.floats(0.01, 4), st.integers(0, 10)
)
def test_whatever_the_thresholds_a_map_is_right_or_none(
    thresholds: list[int], negative: int, slope: float, reach: int
) -> None:
    T = torch.tensor(sorted(thresholds)).clamp(-reach, reach + 1)[:, None]
    affine = fit_affine(T, min(negative, len(T)), torch.tensor([slope], dtype=torch.float64), torch.tensor([reach]))
    if affine is not None:
        got = affine_counts(affine, min(negative, len(T)), len(T), reach, 1)
        assert torch.equal(got.long(), ladder_counts(T, min(negative, len(T)), reach))


def test_the_map_is_found_where_the_ladder_is_even() -> None:
    T = torch.tensor([[-3, 2], [1, 4], [5, 6]])
    assert fit_affine(T, 0, torch.tensor([0.25, 0.5], dtype=torch.float64), torch.tensor([50, 50])) is not None


@pytest.mark.parametrize(
    ("thresholds", "slope", "reach"),
    [
        ([[0], [1], [100]], 1.0, 200),  # uneven
        ([[0], [50]], 1.0, 200),  # the slope does not fit
        ([[5], [5], [6]], 0.5, 10),  # two levels at once
        ([[0], [1]], 1.0, 2**21),  # too few bits are left for a shift
    ],
)
def test_no_map_is_given_where_there_is_none(thresholds: list[list[int]], slope: float, reach: int) -> None:
    assert (
        fit_affine(torch.tensor(thresholds), 0, torch.tensor([slope], dtype=torch.float64), torch.tensor([reach]))
        is None
    )


@pytest.mark.parametrize("slope", [1e-60, 1e-30, 1e30, 1e60])
def test_slopes_outside_float32_give_a_right_map_or_none(slope: float) -> None:
    T, reach = torch.tensor([[0], [1]]), 4
    affine = fit_affine(T, 0, torch.tensor([slope], dtype=torch.float64), torch.tensor([reach]))
    if affine is not None:
        assert torch.equal(affine_counts(affine, 0, 2, reach, 1).long(), ladder_counts(T, 0, reach))


def test_constant_channels_are_mapped() -> None:
    T = torch.tensor([[-4, 5, -4], [-4, 5, 5]])  # always both, never any, always one
    affine = fit_affine(T, 0, torch.zeros(3, dtype=torch.float64), torch.tensor([0, 0, 0]))
    assert affine is not None
    assert affine_counts(affine, 0, 2, 0, 3).tolist() == [[2.0, 0.0, 1.0]]


def test_every_hidden_layer_of_a_trained_network_takes_the_affine_path() -> None:
    network = load(shipped_run().file(NETWORK))
    hidden = [layer for layer in network.layers.values() if isinstance(layer, SpikingLayer)]
    assert len(hidden) == 5
    assert all(affine_of(layer) is not None for layer in hidden)


@pytest.mark.parametrize("engine", ["dense", "reference"])
def test_counts_do_not_depend_on_the_number_of_threads(engine: str) -> None:
    code = (
        "import sys, torch; torch.set_num_threads(int(sys.argv[1])); "
        "from snnconv.runs import *; from snnconv.formats.native import load; from snnconv.api import simulate; "
        "from snnconv.data.images import load_images; "
        "m = simulate(load(shipped_run().file(NETWORK)), load_images('digits', 'test').take(60), noise_ratio=0.2, "
        "engine=sys.argv[2]); print(m.correct_by_trial, [(r.positive, r.events, r.sops) for r in m.layers])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, threads, engine], capture_output=True, text=True, check=True).stdout
        for threads in ("1", "2")
    ]
    assert runs[0] == runs[1] and "synops" in runs[0]


def test_the_readout_of_an_engine_is_the_network_s() -> None:
    network = random_network(6)
    readout = list(network.layers.values())[-1]
    assert isinstance(readout, Readout)
    assert DenseEngine(network).run(images(6)).shape == (6, readout.branches[0].synapse.out_channels)

"""The compiled kernels against sums written out in int64, for every instruction set this processor has."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import random_network
from torch import Tensor
from torch.nn import functional

from snnconv.cli.main import main
from snnconv.engines import library, registry
from snnconv.engines.events import EventsEngine
from snnconv.engines.kernels import MOST_INPUTS, WIDEST, Combination, Convolution, EncoderConvolution, Kernels
from snnconv.engines.library import find_library, kernel_names
from snnconv.engines.registry import AutoEngine, choose_engine
from snnconv.errors import ConfigError, ConversionError, DataError
from snnconv.grids import Grid, k_b_grid
from snnconv.snn.counting import tally_dense
from snnconv.snn.layers import Branch, Encoder, SpikingSum, Stage
from snnconv.snn.noise import delete_spikes
from snnconv.snn.synapses import Conv2dSynapse, IdentitySynapse, LinearSynapse

NAMES = kernel_names(handle) if (handle := find_library()) is not None else []
built = pytest.mark.skipif(not NAMES, reason="the kernels are not built: no C++ compiler at installation")
every_kernel = pytest.mark.parametrize("name", NAMES)


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=generator).to(torch.int8)


def written_out(counts: Tensor, weight: Tensor, synapse: Conv2dSynapse) -> Tensor:
    """Potentials by loops over taps and groups, in int64."""
    if synapse.channels is not None:
        counts = counts[:, list(synapse.channels)]
    left, right, top, bottom = synapse.padding
    padded = functional.pad(counts.long(), (left, right, top, bottom))
    outputs, inputs, high, wide = weight.shape
    (down, across), (dy, dx) = synapse.stride, synapse.dilation
    rows = (padded.shape[2] - dy * (high - 1) - 1) // down + 1
    columns = (padded.shape[3] - dx * (wide - 1) - 1) // across + 1
    total = torch.zeros(len(counts), outputs, rows, columns, dtype=torch.int64)
    share = outputs // synapse.groups
    for output in range(outputs):
        group = output // share
        for c in range(inputs):
            for ky in range(high):
                for kx in range(wide):
                    seen = padded[:, group * inputs + c, ky * dy :: down, kx * dx :: across][:, :rows, :columns]
                    total[:, output] += int(weight[output, c, ky, kx]) * seen
    return total


@st.composite
def convolutions(pick: st.DrawFn) -> tuple[Conv2dSynapse, Tensor, tuple[int, int]]:
    """A synapse, counts for it, and the range they come from."""
    generator = draw(pick(st.integers(0, 10**6)))
    groups = pick(st.sampled_from((1, 1, 2, 3)))
    inputs, outputs = pick(st.integers(1, 9)), pick(st.integers(1, 70 if groups == 1 else 9))
    high, wide = pick(st.integers(1, 4)), pick(st.integers(1, 4))
    low, top = pick(st.sampled_from(((0, 1), (0, 4), (-1, 1), (-2, 3), (0, 62), (-31, 31))))
    order = tuple(torch.randperm(inputs * groups, generator=generator).tolist()) if pick(st.booleans()) else None
    synapse = Conv2dSynapse(
        numbers(-1, 1, (outputs * groups, inputs, high, wide), generator),
        (pick(st.integers(1, 3)), pick(st.integers(1, 3))),
        tuple(pick(st.integers(0, 2)) for _ in range(4)),  # type: ignore[arg-type]
        (pick(st.integers(1, 2)), pick(st.integers(1, 2))),
        groups,
        order,
    )
    counts = numbers(low, top, (pick(st.integers(1, 5)), inputs * groups, 7 + high, 6 + wide), generator)
    silent = torch.rand(counts.shape, generator=generator) < pick(st.sampled_from((0.0, 0.6, 1.0)))
    return synapse, counts.masked_fill(silent, 0), (low, top)


@built
@settings(max_examples=60, deadline=None)
@given(convolutions(), st.integers(0, 10**6))
def test_convolutions_equal_the_sums_written_out(
    case: tuple[Conv2dSynapse, Tensor, tuple[int, int]], seed: int
) -> None:
    synapse, counts, limits = case
    assert Convolution.fits(synapse, limits)
    generator = draw(seed)
    sign = torch.randint(-1, 2, (synapse.out_channels,), generator=generator)
    expected = written_out(counts, synapse.weight * sign.to(torch.int8).reshape(-1, 1, 1, 1), synapse)
    shape, out_shape = tuple(counts.shape[1:]), tuple(expected.shape[1:])
    thresholds = torch.randint(-9, 10, (3, synapse.out_channels), generator=generator).sort(0).values
    fired = sum((expected >= row.reshape(1, -1, 1, 1)).long() for row in thresholds) - 1
    for name in NAMES:
        kernels = Kernels(name)
        bare = Convolution(synapse, sign, shape, out_shape, limits, kernels)
        fused = Convolution(synapse, sign, shape, out_shape, limits, kernels, thresholds, 1)
        for given_counts in (counts, counts.contiguous(memory_format=torch.channels_last)):
            assert torch.equal(bare(given_counts).long(), expected), name
            assert torch.equal(fused(given_counts).long(), fired), name
        assert bare(counts).dtype == torch.int16
        assert fused(counts).dtype == torch.int8


@built
@every_kernel
@pytest.mark.parametrize("largest", [1, 4, 7, 62])
def test_sums_that_fill_bytes_many_times_over_do_not_overflow(name: str, largest: int) -> None:
    """All counts at their largest, all weights of one sign: the sums are channels * taps * largest."""
    channels = min(300, WIDEST // (9 * largest))
    for sign in (1, -1):
        synapse = Conv2dSynapse(torch.full((33, channels, 3, 3), sign, dtype=torch.int8), padding=(1, 1, 1, 1))
        ready = Convolution(synapse, torch.ones(33), (channels, 3, 3), (33, 3, 3), (0, largest), Kernels(name))
        sums = ready(torch.full((2, channels, 3, 3), largest, dtype=torch.int8))
        taps = torch.tensor([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
        assert torch.equal(sums.long(), (sign * channels * largest * taps).expand(2, 33, 3, 3))


@built
@every_kernel
def test_dense_layers_of_many_and_odd_features(name: str) -> None:
    generator = draw(0)
    synapse = LinearSynapse(numbers(-1, 1, (130, 1001), generator))
    counts = numbers(-3, 3, (70, 1001), generator)
    ready = Convolution(synapse, torch.ones(130), (1001,), (130,), (-3, 3), Kernels(name))
    assert torch.equal(ready(counts).long(), counts.long() @ synapse.weight.long().T)


@built
def test_what_does_not_fit_is_left_to_other_engines() -> None:
    def synapse(weight: int, fan_in: int = 10) -> LinearSynapse:
        return LinearSynapse(torch.full((2, fan_in), weight, dtype=torch.int8))

    assert Convolution.fits(synapse(1), (0, 62))
    assert not Convolution.fits(synapse(1), (0, 63))
    assert not Convolution.fits(synapse(2), (0, 1))
    assert Convolution.fits(synapse(1, WIDEST), (0, 1))
    assert not Convolution.fits(synapse(1, WIDEST + 1), (0, 1))
    assert not Convolution.fits(LinearSynapse(torch.ones(2, 2)), (0, 1))
    assert not Convolution.fits(IdentitySynapse(torch.ones(2, 1, dtype=torch.int8)), (0, 1))


@built
@every_kernel
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 70))
def test_sums_of_branches_equal_64_bit_arithmetic(name: str, seed: int, channels: int) -> None:
    generator = draw(seed)
    ones = IdentitySynapse(torch.ones(channels, 1, dtype=torch.int8))
    scales = torch.randn(2, channels, dtype=torch.float64, generator=generator)
    branches = [Branch(ones, scale, scale * 0.1) for scale in scales]
    layer = SpikingSum(branches, Grid(0.5, 2, 1, (-0.4, 0.3, 1.1), (False, True, True)), [3, 3])
    left, right = (numbers(-3, 3, (5, channels, 2, 3), generator) for _ in range(2))
    total = Combination(layer, (channels, 2, 3), Kernels(name))
    assert torch.equal(total(left, right), layer(left, right))
    assert torch.equal(total(left.to(torch.int16), right), layer(left, right))


@built
@every_kernel
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_sums_of_wide_potentials_use_all_their_bits(name: str, seed: int, channels: int) -> None:
    generator, most = draw(seed), 2**23
    ones = IdentitySynapse(torch.ones(channels, 1, dtype=torch.int8))
    sizes = 1 + torch.rand(2, channels, dtype=torch.float64, generator=generator)
    scales = sizes * numbers(0, 1, (2, channels), generator).double().mul(2).sub(1) / torch.tensor([[most], [1]])
    branches = [Branch(ones, scale, torch.zeros(channels)) for scale in scales]
    layer = SpikingSum(branches, Grid(0.5, 2, 1, (-0.4, 0.3, 1.1), (False, True, True)), [most, 3])
    right = numbers(-3, 3, (4, channels, 3, 2), generator)
    edge = (layer.neuron.thresholds[1] - layer.constant - layer.multipliers[1] * 2).double() / layer.multipliers[0]
    left = edge.round().clamp(-most, most).reshape(1, -1, 1, 1) + numbers(-2, 2, (4, channels, 3, 2), generator)
    left = left.clamp(-most, most)
    sums = sum(m.reshape(-1, 1, 1) * x.to(torch.int64) for m, x in zip(layer.multipliers, (left, right), strict=True))
    sums += layer.constant.reshape(-1, 1, 1)
    layer.neuron.thresholds[1], layer.neuron.thresholds[2] = sums[0, :, 0, 0], sums[0, :, 0, 1] + 1  # reached, and not
    expected = sum((sums >= row.reshape(-1, 1, 1)).to(torch.int8) for row in layer.neuron.thresholds) - 1
    assert layer.reach > 2**49
    assert torch.equal(Combination(layer, (channels, 3, 2), Kernels(name))(left.float(), right), expected)


@built
@every_kernel
@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 70),
    st.sampled_from((k_b_grid(1, 2), k_b_grid(0, 1), Grid(1, 1, 1, (-0.5, 0.5), (False, True)))),
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
    st.tuples(*[st.integers(0, 3)] * 4),
)
def test_encoders_decide_as_the_plain_forward(
    name: str, seed: int, outputs: int, grid: Grid, stride: tuple[int, int], padding: tuple[int, int, int, int]
) -> None:
    generator = draw(seed)
    synapse = Conv2dSynapse(torch.randn(outputs, 3, 2, 3, generator=generator), stride, padding)
    scale, offset = torch.randn(2, outputs, dtype=torch.float64, generator=generator)
    encoder = Encoder([Stage(Branch(synapse, scale, offset, 3))], grid)
    x = torch.randn(3, 3, 6, 5, generator=generator)
    expected = encoder(x)
    assert EncoderConvolution.fits(encoder)
    ready = EncoderConvolution(encoder, (3, 6, 5), tuple(expected.shape[1:]), Kernels(name))
    assert torch.equal(ready(x), expected)


@built
@every_kernel
def test_an_encoder_s_value_on_a_boundary_goes_to_its_closed_side(name: str) -> None:
    synapse = Conv2dSynapse(torch.ones(1, 1, 1, 1))
    for closed, codes in (((True, True), [-1, 0, 0, 1]), ((False, False), [-1, -1, 0, 0])):
        grid = Grid(1.0, 1, 1, (-0.5, 0.5), closed)
        encoder = Encoder([Stage(Branch(synapse, torch.ones(1), torch.zeros(1)))], grid)
        ready = EncoderConvolution(encoder, (1, 1, 4), (1, 1, 4), Kernels(name))
        assert ready(torch.tensor([[[[-0.6, -0.5, 0.4, 0.5]]]])).flatten().tolist() == codes


@built
@every_kernel
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 600), st.booleans())
def test_tallies_equal_those_of_torch(name: str, seed: int, images: int, last: bool) -> None:
    counts = numbers(-127, 127, (images, 5, 3, 5), draw(seed))
    counts = counts.contiguous(memory_format=torch.channels_last) if last else counts
    maps = torch.randint(0, 5000, (4, 5, 3, 5), generator=draw(seed), dtype=torch.int32)
    for signed, graded in itertools.product((False, True), repeat=2):
        wire = (counts if signed else counts.abs()).clamp(*(-127, 127) if graded else (-1, 1))
        wide = wire.long()
        kinds = (wide.abs(), (wide != 0).long(), wide.clamp(min=0))
        expected = torch.stack([(kind[:, None] * maps).flatten(2).sum((0, 2)) for kind in kinds])
        counted = -127 * signed if graded else -signed, 127 if graded else 1
        assert torch.equal(Kernels(name).tally(wire, maps, counted), expected)
        assert torch.equal(tally_dense(wire, maps, counted), expected)


@built
@pytest.mark.parametrize("units", [1, 100, 256, 300, 512, 1000])
def test_tallies_do_not_depend_on_threads(units: int) -> None:
    counts, maps = numbers(-3, 4, (7, units), draw(units)), torch.ones(1, units, dtype=torch.int32)
    expected = tally_dense(counts, maps, (-3, 4))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            assert torch.equal(Kernels().tally(counts, maps, (-3, 4)), expected), threads
    finally:
        torch.set_num_threads(before)


@built
@every_kernel
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from(((5, 3, 4), (11,))), st.booleans())
def test_deletions_draw_the_words_of_torch(
    name: str, seed: int, ratio: float, shape: tuple[int, ...], signed: bool
) -> None:
    generator = draw(seed)
    counts = numbers(-7 if signed else 0, 9, (6, *shape), generator)
    images = torch.randperm(10**4, generator=generator)[:6] * 997
    key = int(torch.randint(-(2**62), 2**62, (1,), generator=generator))
    expected = delete_spikes(counts, ratio, key, images, 9)
    for wire in (counts, counts.contiguous(memory_format=torch.channels_last) if len(shape) == 3 else counts):
        assert torch.equal(Kernels(name).delete_spikes(wire, ratio, key, images, 9), expected)


@built
def test_counts_depend_neither_on_threads_nor_on_the_batch() -> None:
    network = random_network(5)
    x = torch.rand(11, 2, 7, 8, generator=draw(1))
    engine = EventsEngine(network)
    whole = engine.run(x)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert torch.equal(engine.run(x), whole)
            assert torch.equal(torch.cat([engine.run(part) for part in x.split(3)]), whole)
    finally:
        torch.set_num_threads(before)


@built
def test_a_wider_range_of_counts_is_another_table_of_the_same_sums() -> None:
    synapse = LinearSynapse(numbers(-1, 1, (20, 30), draw(3)))
    counts = numbers(0, 4, (4, 30), draw(4))
    for within in ((0, 4), (-1, 4), (0, 9), (-20, 30)):
        ready = Convolution(synapse, torch.ones(20), (30,), (20,), within, Kernels())
        assert torch.equal(ready(counts).long(), counts.long() @ synapse.weight.long().T)


@built
def test_inputs_of_another_shape_are_refused_before_any_kernel_reads_them() -> None:
    network = random_network(1)
    _, height, width = network.header.shape
    for engine in ("reference", "dense", "events", "auto"):
        with pytest.raises(DataError, match="the network takes"):
            choose_engine(network, engine).run(torch.rand(2, 2, height - 1, width))
        assert choose_engine(network, engine).run(torch.zeros(0, *network.header.shape)).shape == (0, network.classes)


@built
def test_only_whole_orders_of_channels_are_taken() -> None:
    def fits(*order: int) -> bool:
        synapse = Conv2dSynapse(numbers(-1, 1, (8, len(order), 1, 1), draw(0)), channels=order)
        return Convolution.fits(synapse, (0, 1), 4)

    assert fits(3, 1, 0, 2)
    assert not fits(0, 1)
    assert not fits(2, 2, 0, 1)
    for order in ((-1, 0, 1, 2), (0, 1, 2)):
        with pytest.raises(ConversionError, match="must name one from 0 on for each of 4"):
            Conv2dSynapse(numbers(-1, 1, (8, 4, 1, 1), draw(0)), channels=order)


@built
def test_the_longest_list_is_summed_right_and_no_longer_one_is_taken() -> None:
    synapse = LinearSynapse(numbers(-1, 1, (4, MOST_INPUTS), draw(0)) * 0)
    synapse.weight[:, -9:] = 1
    assert Convolution.fits(synapse, (0, 1))
    ready = Convolution(synapse, torch.ones(4), (MOST_INPUTS,), (4,), (0, 1), Kernels())
    assert ready(torch.ones(2, MOST_INPUTS, dtype=torch.int8)).tolist() == [[9] * 4] * 2
    longer = LinearSynapse(torch.zeros(4, MOST_INPUTS + 1, dtype=torch.int8))
    assert not Convolution.fits(longer, (0, 1))


@pytest.mark.parametrize("content", [None, b"", b"no library"])
def test_another_build_that_is_none_is_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "kernels.so"
    if content is not None:
        other.write_bytes(content)
    monkeypatch.setenv("SNNCONV_KERNELS", str(other))
    with pytest.raises(ConfigError, match="where no file is" if content is None else "damaged or no build"):
        find_library()


@built
def test_working_memory_is_bounded_and_known() -> None:
    synapse = Conv2dSynapse(numbers(-1, 1, (64, 64, 3, 3), draw(0)), padding=(1, 1, 1, 1))
    ready = Convolution(synapse, torch.ones(64), (64, 24, 24), (64, 24, 24), (0, 4), Kernels())
    assert 2 * 64 * 24 * 24 < ready.scratch < 2**20
    whole = Conv2dSynapse(numbers(-1, 1, (32, 32, 112, 112), draw(0)))
    assert Convolution(whole, torch.ones(32), (32, 112, 112), (32, 1, 1), (0, 1), Kernels()).scratch < 2**22
    depthwise = Conv2dSynapse(numbers(-1, 1, (64, 1, 3, 3), draw(0)), padding=(1, 1, 1, 1), groups=64)
    assert Convolution(depthwise, torch.ones(64), (64, 112, 112), (64, 112, 112), (0, 1), Kernels()).scratch < 2**26


@built
def test_ranges_of_counts_pass_pools_and_shortcuts() -> None:
    network = random_network(0)
    encoder = network.encoders[0]
    assert network.count_range(encoder) == (0, network.layers[encoder].grid.positive)


def test_without_kernels_auto_takes_dense_and_events_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "find_library", lambda: None)
    monkeypatch.setattr(registry, "find_library", lambda: None)
    network = random_network(1)
    engine = AutoEngine(network)
    assert not any("events" in choice for choice in engine.choices.values())
    with pytest.raises(ConfigError, match="not built here: install snnconv where there is a C"):
        EventsEngine(network)
    result = CliRunner().invoke(main, ["simulate", "--engine", "events", "--quiet", "--runs-dir", str(tmp_path / "r")])
    assert result.exit_code == 1
    assert "not built here" in result.output
    assert "Traceback" not in result.output


@built
def test_kernels_and_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown kernels 'sse9': this processor runs"):
        Kernels("sse9")
    with pytest.raises(ConfigError, match="runs on the CPU, not on meta"):
        choose_engine(random_network(0), "events", torch.device("meta"))


@built
def test_auto_says_what_it_picked() -> None:
    network = random_network(2)
    engine = AutoEngine(network)
    assert any("|" in choice for choice in engine.choices.values())
    engine.run(torch.rand(4, 2, 7, 8))
    assert set(engine.choices.values()) <= {"events", "integer", "dense"}
    assert set(engine.choices) == set(network.layers)
    assert "events" in EventsEngine(network).choices.values()

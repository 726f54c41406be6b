"""The triton engine's kernels against sums written out in int64.

The kernels run in two places: in Triton's interpreter, which has to be chosen before triton is imported, so that one test
runs this file again in a process of its own (by hand: TRITON_INTERPRET=1 pytest tests/test_triton_engine.py); and on a
GPU (pytest -m gpu), with larger shapes. Without the package triton only the refusals are tested.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import TWTA, random_images, random_network, ternary, wires
from torch import Tensor, nn
from torch.nn import functional

from snnconv.ann.quantizers import KBQuantizer
from snnconv.cli.main import main
from snnconv.conversion.convert import convert
from snnconv.conversion.splitting import split_signs
from snnconv.engines import gpu_check, registry
from snnconv.engines.dense import DenseEngine, dense_step
from snnconv.engines.gpu import TritonEngine
from snnconv.engines.layered import Step
from snnconv.engines.registry import AutoEngine, choose_engine
from snnconv.errors import ConfigError, ParityError
from snnconv.grids import Grid, k_b_grid
from snnconv.snn.counting import tally_dense
from snnconv.snn.layers import Branch, SpikingLayer, SpikingLinear, SpikingSum
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.noise import delete_spikes
from snnconv.snn.noise_models import Deletion
from snnconv.snn.simulation import simulate
from snnconv.snn.synapses import Conv2dSynapse, IdentitySynapse, LinearSynapse, LinesSynapse
from snnconv.snn.trial import Trial

FOUND = importlib.util.find_spec("triton") is not None
INTERPRETED = gpu_check.interpreted()
CAN_INTERPRET = FOUND and tuple(map(int, importlib.metadata.version("triton").split(".")[:2])) >= (3, 7)
"""Older interpreters do not take numpy 2.4."""

inside = pytest.mark.skipif(not (CAN_INTERPRET and INTERPRETED), reason="run by another test, in the interpreter")
outside = pytest.mark.skipif(INTERPRETED, reason="the interpreter is on")
on_gpu = pytest.mark.skipif(not (FOUND and torch.cuda.is_available()), reason="no GPU, or no triton")
places = pytest.mark.parametrize(
    "place", [pytest.param("cpu", marks=inside), pytest.param("cuda", marks=[on_gpu, pytest.mark.gpu])]
)
SIGNED = Grid(0.3, 2, 2, (-0.5, -0.2, 0.1, 0.4), (False, True, True, False))


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=generator).to(torch.int8)


def written_out(counts: Tensor, weight: Tensor, synapse: Conv2dSynapse) -> Tensor:
    """Potentials tap by tap and group by group, in int64."""
    left, right, top, bottom = synapse.padding
    ordered = counts if synapse.channels is None else counts[:, list(synapse.channels)]
    padded = functional.pad(ordered.long(), (left, right, top, bottom))
    (down, across), (dy, dx) = synapse.stride, synapse.dilation
    rows = (padded.shape[2] - dy * (weight.shape[2] - 1) - 1) // down + 1
    columns = (padded.shape[3] - dx * (weight.shape[3] - 1) - 1) // across + 1
    groups = []
    for codes, seen in zip(weight.long().chunk(synapse.groups), padded.chunk(synapse.groups, 1), strict=True):
        total = torch.zeros(len(counts), len(codes), rows, columns, dtype=torch.int64)
        for y in range(weight.shape[2]):
            for x in range(weight.shape[3]):
                part = seen[:, :, y * dy :: down, x * dx :: across][:, :, :rows, :columns]
                total += (part[:, None] * codes[None, :, :, y, x, None, None]).sum(2)
        groups.append(total)
    return torch.cat(groups, 1)


@st.composite
def convolutions(pick: st.DrawFn, place: str) -> tuple[Conv2dSynapse, Tensor]:
    """A synapse of any int8 codes, and counts for it; larger on a GPU."""
    generator, large = draw(pick(st.integers(0, 10**6))), place == "cuda"
    groups = pick(st.sampled_from((1, 1, 2, 3)))
    inputs, outputs = (
        pick(st.integers(1, 150 if large else 40)),
        pick(st.integers(1, 150 if large else 40) | st.just(16)),
    )
    high, wide = pick(st.integers(1, 4)), pick(st.integers(1, 3))
    order = tuple(torch.randperm(inputs * groups, generator=generator).tolist()) if pick(st.booleans()) else None
    codes = pick(st.sampled_from((1, 7, 127)))
    synapse = Conv2dSynapse(
        numbers(-codes, codes, (outputs * groups, inputs, high, wide), generator),
        (pick(st.integers(1, 3)), pick(st.integers(1, 3))),
        tuple(pick(st.integers(0, 2)) for _ in range(4)),  # type: ignore[arg-type]
        (pick(st.integers(1, 2)), pick(st.integers(1, 2))),
        groups,
        order,
    )
    low, top = pick(st.sampled_from(((0, 1), (0, 4), (-1, 1), (-2, 3), (-127, 127))))
    size = (
        (pick(st.integers(1, 9)), inputs * groups, 19 + high, 26 + wide)
        if large
        else (2, inputs * groups, 3 + high, 4 + wide)
    )
    return synapse, numbers(low, top, size, generator)


@places
@settings(max_examples=12, deadline=None)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_convolutions_equal_the_sums_written_out(place: str, data: st.DataObject, seed: int) -> None:
    from snnconv.engines.gpu_calls import Convolution

    synapse, counts = data.draw(convolutions(place))
    generator = draw(seed)
    sign = torch.randint(-1, 2, (synapse.out_channels,), generator=generator)
    expected = written_out(counts, synapse.weight.long() * sign.reshape(-1, 1, 1, 1), synapse)
    shape, out_shape, edge = tuple(counts.shape[1:]), tuple(expected.shape[1:]), int(expected.abs().max()) + 1
    assert synapse.out_shape(shape) == out_shape
    assert Convolution.fits(synapse, sign, shape, 127)
    thresholds = torch.randint(-edge, edge + 1, (5, synapse.out_channels), generator=generator).sort(0).values
    fired = (expected[None] >= thresholds[:, None, :, None, None]).sum(0) - 2
    synapse = synapse.to(place)
    bare = Convolution(synapse, sign.to(place), shape, out_shape)
    fused = Convolution(synapse, sign.to(place), shape, out_shape, thresholds.to(place), 2)
    moved = counts.to(place)
    potentials = bare(moved)
    assert potentials.dtype == torch.int32 and torch.equal(potentials.cpu().long(), expected)
    sent = fused(moved.contiguous(memory_format=torch.channels_last))
    assert sent.dtype == torch.int8 and torch.equal(sent.cpu().long(), fired)


@places
@pytest.mark.parametrize("features", [1, 33, 200])
def test_dense_layers_of_many_and_odd_features(place: str, features: int) -> None:
    from snnconv.engines.gpu_calls import Convolution

    generator = draw(features)
    weight = numbers(-3, 3, (70, features), generator)
    counts = numbers(-3, 3, (5, features), generator)
    synapse = LinearSynapse(weight.to(place))
    ready = Convolution(synapse, torch.ones(70, device=place), (features,), (70,))
    assert torch.equal(ready(counts.to(place)).cpu().long(), counts.long() @ weight.long().T)


@places
def test_sums_up_to_the_last_of_32_bits_are_exact(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from snnconv.engines import gpu_calls
    from snnconv.engines.gpu_calls import Convolution

    if place == "cpu":  # the interpreter takes blocks of any size, and its time is that of their number
        monkeypatch.setattr(gpu_calls, "blocks_for", lambda *_: gpu_calls.Blocks(2, 4, 8192))
    fan_in = (2**31 - 2) // 127**2
    codes = torch.tensor([[127], [-127], [127], [127]], dtype=torch.int8).expand(4, fan_in).contiguous()
    codes[2, ::2] = -127  # up and down
    codes[3, fan_in // 2 :] = -127  # up half the way, then down
    synapse, sign = LinearSynapse(codes), torch.tensor([1, 1, -1, 1])
    reach = synapse.reach(127)
    assert reach == fan_in * 127**2 > 2**31 - 2 - 127**2
    assert Convolution.fits(synapse, sign, (fan_in,), 127)
    counts = torch.full((2, fan_in), 127, dtype=torch.int8)
    counts[1] = -127
    expected = (counts.long() @ codes.long().T) * sign
    assert int(expected.max()) == reach
    edges = torch.tensor([-reach, -reach + 1, 0, reach, reach + 1])[:, None].expand(5, 4).contiguous()
    fired = (expected[None] >= edges[:, None]).sum(0)
    assert fired[:, 0].tolist() == [4, 1]
    moved, shapes = counts.to(place), ((fan_in,), (4,))
    synapse = synapse.to(place)
    assert torch.equal(Convolution(synapse, sign.to(place), *shapes)(moved).cpu().long(), expected)
    assert torch.equal(Convolution(synapse, sign.to(place), *shapes, edges.to(place))(moved).cpu().long(), fired)


@places
@pytest.mark.parametrize("scale", [0.03, -0.03])
def test_the_most_negative_code_leaves_int8_where_its_sign_turns(place: str, scale: float) -> None:
    weight = torch.tensor([[-128, 127, 3], [-128, -128, 1]], dtype=torch.int8)
    layer = SpikingLinear(
        [Branch(LinearSynapse(weight), torch.full((2,), scale), torch.zeros(2))], k_b_grid(0, 100), [2]
    )
    counts = torch.tensor([[2, 0, 1], [1, 2, 0], [0, 2, 2], [2, 2, 2]], dtype=torch.int8)
    from snnconv.engines.gpu_calls import Convolution

    synapse, sign = layer.branches[0].synapse, layer.multipliers[0]
    assert Convolution.fits(synapse, sign, (3,), 2) == (scale > 0)
    if scale > 0:
        expected = layer(counts)
        layer = layer.to(place)
        ready = Convolution(synapse, layer.multipliers[0], (3,), (2,), layer.neuron.thresholds)
        assert torch.equal(ready(counts.to(place)).cpu(), expected)


@inside
def test_what_does_not_fit_is_left_to_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    from snnconv.engines import gpu_calls

    def fits(synapse: Any, largest: int = 1) -> bool:
        return gpu_calls.Convolution.fits(synapse, torch.ones(synapse.out_channels), (9, 1, 1), largest)

    ones = LinearSynapse(torch.ones(2, 9, dtype=torch.int8))
    assert fits(ones, 127)
    assert not fits(ones, 128)
    assert not fits(LinearSynapse(torch.ones(2, 9)))
    assert not fits(IdentitySynapse(torch.ones(2, 1, dtype=torch.int8)))
    many = torch.full((1, (2**31 - 2) // 127**2 + 1), 127, dtype=torch.int8)
    assert not fits(LinearSynapse(many), 127)
    assert not fits(Conv2dSynapse(torch.ones(70_000, 1, 1, 1, dtype=torch.int8), groups=70_000))
    monkeypatch.setattr(gpu_calls, "LARGEST", 16 * 32 - 1)
    assert not fits(ones)


@places
def test_batches_beyond_31_bits_of_places_are_cut(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from snnconv.engines import gpu_calls

    synapse = Conv2dSynapse(numbers(-1, 1, (3, 2, 2, 2), draw(0)))
    counts = numbers(-2, 2, (7, 2, 3, 4), draw(1))
    ready = gpu_calls.Convolution(synapse.to(place), torch.ones(3, device=place), (2, 3, 4), (3, 2, 3))
    moved, noise = counts.to(place), (0.5, 77, torch.arange(7), 2)
    layer = SpikingSum(
        [Branch(IdentitySynapse(torch.ones(2, 1, dtype=torch.int8)), torch.ones(2), torch.zeros(2))], SIGNED, [2]
    )
    expected = layer(counts)
    total = gpu_calls.Combination(layer.to(place), (2, 3, 4))
    parts: list[int] = []
    real = gpu_calls._on
    monkeypatch.setattr(gpu_calls, "_on", lambda device: parts.append(1) or real(device))
    monkeypatch.setattr(gpu_calls, "LARGEST", 1024 + 13)
    assert torch.equal(ready(moved).cpu().long(), written_out(counts, synapse.weight.cpu(), synapse))
    assert len(parts) == 4  # two images of six places each
    assert torch.equal(total(moved).cpu(), expected)
    assert torch.equal(gpu_calls.delete_spikes(moved, *noise).cpu(), delete_spikes(counts, *noise))
    assert len(parts) == 4 + 7 + 7
    assert len(gpu_calls.delete_spikes(moved[:0], 0.5, 77, torch.arange(0), 2)) == len(ready(moved[:0])) == 0


@places
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), channels=st.integers(1, 70), branches=st.integers(1, 3), flat=st.booleans())
def test_sums_of_branches_equal_64_bit_arithmetic(
    place: str, seed: int, channels: int, branches: int, flat: bool
) -> None:
    from snnconv.engines.gpu_calls import Combination

    generator = draw(seed)
    ones = IdentitySynapse(torch.ones(channels, 1, dtype=torch.int8))
    scales = torch.randn(branches, channels, dtype=torch.float64, generator=generator)
    layer = SpikingSum([Branch(ones, scale, scale * 0.1) for scale in scales], SIGNED, [10**6, 3, 127][:branches])
    shape = (channels,) if flat else (channels, 2, 3)
    parts = [torch.randint(-n, n + 1, (3, *shape), generator=generator) for n in layer.largest]
    kinds = (torch.int32, torch.int8, torch.float32)
    expected = layer(*parts)
    total = Combination(layer.to(place), shape)
    sent = total(*(part.to(place, kind) for part, kind in zip(parts, kinds, strict=False)))
    assert sent.dtype == torch.int8 and torch.equal(sent.cpu(), expected)


@places
@settings(max_examples=14, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ratio=st.sampled_from((0.0, 0.1, 0.5, 0.97, 1.0)) | st.floats(0, 1),
    key=st.integers(-(2**63), 2**63 - 1),
    first=st.integers(0, 2**40),
    limits=st.sampled_from(((0, 1, 1), (0, 4, 4), (-1, 1, 1), (-3, 9, 9), (-40, 0, 0), (0, 40, 40))),
    shape=st.sampled_from(((5,), (3, 4, 5), (70, 1, 2), (1, 3, 3), (2, 3))),
    kind=st.sampled_from((torch.int8, torch.float32)),
    last=st.booleans(),
)
def test_deletion_draws_the_words_of_torch(
    place: str,
    seed: int,
    ratio: float,
    key: int,
    first: int,
    limits: tuple[int, int, int],
    shape: tuple[int, ...],
    kind: torch.dtype,
    last: bool,
) -> None:
    from snnconv.engines import gpu_calls

    low, top, positive = limits
    counts = numbers(low, top, (200 if place == "cuda" else 3, *shape), draw(seed)).to(kind)
    if last and counts.ndim == 4:
        counts = counts.contiguous(memory_format=torch.channels_last)
    indices = torch.arange(first, first + len(counts)).flip(0)
    kept = gpu_calls.delete_spikes(counts.to(place), ratio, key, indices.to(place), positive)
    assert kept.dtype == kind and kept.shape == counts.shape
    assert torch.equal(kept.cpu(), delete_spikes(counts, ratio, key, indices, positive))


@places
@pytest.mark.parametrize("last", [False, True])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(1, 70), kind=st.sampled_from((torch.int8, torch.float32)))
def test_tallies_equal_those_of_torch(place: str, last: bool, seed: int, number: int, kind: torch.dtype) -> None:
    from snnconv.engines import gpu_calls

    counts = numbers(-127, 127, (number * 20 if place == "cuda" else number, 50, 3, 8), draw(seed)).to(kind)
    counts = counts.contiguous(memory_format=torch.channels_last) if last else counts
    maps = numbers(0, 100, (3, 50, 3, 8), draw(seed)).to(torch.int32)
    own = gpu_calls.tally(counts.to(place), maps.to(place), (-127, 127))
    assert own.dtype == torch.int64 and own.device.type == "cpu"
    assert torch.equal(own, tally_dense(counts, maps, (-127, 127)))


# ------------------------------------------------------------------------------------ whole networks


def residual() -> SpikingNetwork:
    """A sum of a convolution and what went around it, and counts pooled and quantized again."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.act = nn.Conv2d(2, 4, 3, padding=1), KBQuantizer(1, 2)
            self.conv, self.pool = ternary(nn.Conv2d(4, 4, 3, padding=1)), nn.AvgPool2d(2)
            self.last, self.out = KBQuantizer(0, 3), nn.Linear(48, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.stem(x))
            return self.out(self.last(self.pool(self.act(self.conv(x) + x))).flatten(1))

    return convert(Net().eval(), torch.zeros(1, 2, 7, 8))


def assert_same(network: SpikingNetwork, x: Tensor, place: str, noise: float = 0.0) -> TritonEngine:
    """The triton engine sends what the plain forward sends, layer by layer."""
    engine = TritonEngine(network, torch.device(place))
    deletion = Trial(network, [Deletion(noise, ("all",))], 5, 3)
    indices = torch.arange(40, 40 + len(x))
    expected: dict[str, Tensor] = {}
    sent: dict[str, Tensor] = {}

    def keep(into: dict[str, Tensor]) -> Any:
        def tap(name: str, counts: Tensor, step: int) -> Tensor:
            into[name] = counts.clone().cpu().double()
            return counts

        return tap

    with torch.no_grad():
        logits = network(x, [*deletion.taps(indices), keep(expected)])
    own = engine.run(x, (*deletion.taps(indices, engine.delete), keep(sent)))
    assert list(sent) == list(expected)
    for name in sent:
        assert torch.equal(sent[name], expected[name]), name
    assert torch.equal(logits, own.cpu())
    return engine


@places
@pytest.mark.parametrize("grid", [None, TWTA, SIGNED], ids=["k/B", "TWTA", "uneven"])
@pytest.mark.parametrize("seed", [0, 3])
def test_networks_are_the_plain_forward_bit_for_bit_with_noise_and_without(
    place: str, seed: int, grid: Grid | None
) -> None:
    x = torch.rand(3, 2, 7, 8, generator=draw(seed))
    network = random_network(seed, grid)
    engine = assert_same(network, x, place, noise=0.3 * seed / 3)
    spiking = [name for name, layer in network.layers.items() if isinstance(layer, SpikingLayer)]
    assert spiking and all(engine.choices[name] == "triton" for name in spiking)


@places
def test_sums_pools_and_requantizations_agree(place: str) -> None:
    network = residual()
    engine = assert_same(network, torch.rand(2, 2, 7, 8, generator=draw(1)), place)
    assert sum(choice == "triton" for choice in engine.choices.values()) == 2


@places
def test_signed_units_split_by_sign_agree(place: str) -> None:
    network = split_signs(random_network(1, TWTA))
    assert_same(network, torch.rand(2, 2, 7, 8, generator=draw(1)), place)


@places
def test_lines_meet_in_a_sum(place: str) -> None:
    lines = LinesSynapse(torch.tensor([[1, -1]] * 3, dtype=torch.int8))
    identity = IdentitySynapse(torch.ones(3, 1, dtype=torch.int8))
    scale = torch.tensor([0.4, -0.7, 0.0], dtype=torch.float64)
    layer = SpikingSum([Branch(lines, scale, scale), Branch(identity, scale.flip(0), scale)], SIGNED, [5, 5])
    left, right = numbers(0, 5, (4, 6, 2, 2), draw(0)), numbers(-5, 5, (4, 3, 2, 2), draw(1))
    from snnconv.engines.gpu_calls import Combination

    expected = layer(left, right)
    total = Combination(layer.to(place), (3, 2, 2))
    assert torch.equal(total(lines.potential(left.to(place)), right.to(place)).cpu(), expected)


@places
def test_simulations_measure_the_same(place: str) -> None:
    network, images = random_network(2, TWTA), random_images(5, (2, 7, 8))
    own, plain = (
        simulate(engine, images, [Deletion(0.2, ("all",))], trials=2, batch_size=3).to_dict()
        for engine in (TritonEngine(network, torch.device(place)), DenseEngine(network))
    )
    assert own.pop("engine") == "triton" and plain.pop("engine") == "dense"
    assert all(own[key] == plain[key] for key in plain if key != "choices")


@inside
def test_a_wrong_kernel_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    from snnconv.engines import gpu_calls

    network, real = random_network(0), gpu_calls.Convolution.__call__

    def one_more(self: Any, counts: Tensor) -> Tensor:
        sent = real(self, counts)
        sent[0, 0] += 1
        return sent

    monkeypatch.setattr(gpu_calls.Convolution, "__call__", one_more)
    with pytest.raises(ConfigError, match=r"kernels are wrong on cpu \(convolve, combine\): take --engine dense"):
        TritonEngine(network)
    monkeypatch.setattr(registry, "available", lambda device: True)
    engine = AutoEngine(network)
    with pytest.raises(ParityError, match="the triton kernels send other counts than dense on cpu"):
        engine.run(torch.rand(2, 2, 7, 8))


@inside
def test_auto_times_the_kernels_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter stands in for a GPU; nothing is said of speed."""
    network, x = random_network(2), torch.rand(2, 2, 7, 8)
    assert "triton" not in "".join(AutoEngine(network).choices.values())
    monkeypatch.setattr(registry, "available", lambda device: True)
    monkeypatch.setattr(registry, "find_library", lambda: None)
    monkeypatch.setattr(registry, "integer_step", lambda *_: None)
    engine = AutoEngine(network)
    assert "triton|dense" in engine.choices.values()
    assert torch.equal(engine.run(x), wires(network, x)[0])
    assert set(engine.choices.values()) <= {"triton", "dense"}


@inside
def test_the_command_line_takes_the_interpreter(tmp_path: Path) -> None:
    options = [
        "simulate",
        "--images",
        "1",
        "--quiet",
        "--json",
        "--noise-ratio",
        "0.2",
        "--runs-dir",
        str(tmp_path / "r"),
    ]
    results = [CliRunner().invoke(main, [*options, "--engine", engine]) for engine in ("triton", "dense")]
    assert [result.exit_code for result in results] == [0, 0]
    own, plain = (json.loads(result.stdout) for result in results)
    assert (own["engine"], own["images"], plain["engine"]) == ("triton", 1, "dense")
    assert all(own[key] == plain[key] for key in ("correct", "layers", "noise_ratio"))


# ------------------------------------------------------------------------------------ refusals, and the way here


@outside
@pytest.mark.skipif(not CAN_INTERPRET, reason="no triton, or an old one")
def test_the_kernels_are_right_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    process = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", process.stdout)[-1]) > 20


@outside
@pytest.mark.skipif(not FOUND, reason="no triton")
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus_that_are_not_here(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down to machine code, with the tensor cores' int8 instructions; nothing is run."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert "s32.s8.s8" in compiled(
        "convolve",
        capability,
        {"counts": "*i8", "codes": "*i8", "order": "*i32", "thresholds": "*i32", "sent": "*i8"},
        {"ORDERED": True, "FIRES": True, "BLOCK_PIXELS": 64, "BLOCK_OUTPUTS": 16, "BLOCK_INPUTS": 32},
    )
    tile = {"BLOCK_PIXELS": 32, "BLOCK_OUTPUTS": 64}
    pointers: dict[str, Any] = dict.fromkeys(("multipliers", "constant", "thresholds"), "*i64")
    assert compiled("combine", capability, pointers | {"parts": ("*i32", "*i8"), "sent": "*i8"}, tile)
    words = {"counts": "*fp32", "images": "*i64", "kept": "*fp32", "key": "i64", "bound": "i64"}
    assert compiled("delete", capability, words, {"BLOCK_PIXELS": 32, "BLOCK_CHANNELS": 64})
    assert compiled("tally", capability, {"counts": "*i8", "totals": "*i32"}, {"BLOCK_UNITS": 1024})


def compiled(name: str, capability: int, types: dict[str, Any], constants: dict[str, Any]) -> str:
    """Assembly of a kernel; integers not named are int32."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from snnconv.engines import gpu_kernels

    kernel = getattr(gpu_kernels, name)
    signature = {each: "constexpr" if each in constants else types.get(each, "i32") for each in kernel.arg_names}
    values = {(kernel.arg_names.index(each),): value for each, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs=values)
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert done.asm["cubin"]
    return str(done.asm["ptx"])


@outside
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_in_one_sentence(tmp_path: Path) -> None:
    network = random_network(0)
    with pytest.raises(ConfigError, match="runs on CUDA GPUs, not on cpu: take --engine auto, dense or events there"):
        choose_engine(network, "triton")
    result = CliRunner().invoke(main, ["simulate", "--engine", "triton", "--quiet", "--runs-dir", str(tmp_path / "r")])
    assert result.exit_code == 1
    assert result.output.count("\n") == 1 and "the triton engine runs on CUDA GPUs, not on cpu" in result.output
    assert not gpu_check.available(torch.device("cpu"))
    assert "triton" not in "".join(AutoEngine(network).choices.values())


def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package triton: pip install triton, or take --engine dense"):
        gpu_check.require(gpu)
    assert not gpu_check.available(gpu)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ConfigError, match="needs the package triton"):
        gpu_check.require(torch.device("cpu"))
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ConfigError, match=r"compute capability 8.0 or newer, not T4 \(7.5\): take --engine dense"):
        gpu_check.require(gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(gpu_check, "_trial", lambda device: [("convolve", True), ("tally", False)])
    with pytest.raises(ConfigError, match=r"kernels are wrong on cuda \(tally\)"):
        gpu_check.require(gpu)

    def fail(device: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(gpu_check, "_trial", fail)
    with pytest.raises(ConfigError, match=r"do not run on cuda \(Failed to find C compiler.\): take --engine dense"):
        gpu_check.require(gpu)
    assert not gpu_check.available(gpu)
    monkeypatch.setattr(gpu_check, "_trial", lambda device: [("convolve", True)])
    assert gpu_check.available(gpu)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not gpu_check.available(gpu)  # the interpreter is for tests


def test_ways_that_agree_pass_and_others_are_named() -> None:
    right, wrong = Step("a", lambda x: x + 1), Step("b", lambda x: x + 2)
    x = torch.zeros(2)
    gpu_check.require_agreement("conv", [right, Step("c", lambda x: (x + 1).to(torch.int8))], [x])
    with pytest.raises(ParityError, match="layer conv: the b kernels send other counts than a on cpu: take --engine a"):
        gpu_check.require_agreement("conv", [wrong, right], [x])


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(
    ("channels", "outputs", "size", "stride", "groups"),
    [(64, 64, 56, 1, 1), (128, 256, 28, 2, 1), (512, 512, 7, 1, 1), (256, 256, 14, 1, 32), (24, 40, 30, 2, 4)],
)
def test_large_layers_equal_dense_on_cuda(channels: int, outputs: int, size: int, stride: int, groups: int) -> None:
    from snnconv.engines.gpu_calls import Convolution

    generator = draw(channels)
    synapse = Conv2dSynapse(
        numbers(-1, 1, (outputs, channels // groups, 3, 3), generator), (stride, stride), (1, 1, 1, 1), groups=groups
    )
    scale = torch.randn(outputs, dtype=torch.float64, generator=generator) / 20
    layer = SpikingLayer([Branch(synapse, scale, scale)], k_b_grid(1, 2), [4]).to("cuda")
    counts = numbers(0, 4, (32, channels, size, size), generator).to("cuda")
    expected = dense_step(layer)(counts)
    ladder = layer.neuron.thresholds, layer.grid.negative
    fused = Convolution(synapse, layer.multipliers[0], (channels, size, size), tuple(expected.shape[1:]), *ladder)
    assert torch.equal(fused(counts).float(), expected)

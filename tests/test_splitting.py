"""Signed units as two neurons: equal counts, equal spikes, and a proof that knows both lines."""

from __future__ import annotations

import copy
import json
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from samples import PIXELS, TWTA, GridQuantizer, any_gamma, random_images, random_network, settled, ternary, wires
from torch import Tensor, nn

from snnconv.ann.checkpoints import save_ann
from snnconv.ann.layers import ChannelPermutation, Shortcut
from snnconv.ann.models.networks import build_network
from snnconv.ann.quantizers import KBQuantizer
from snnconv.ann.training import network_for
from snnconv.cli.main import main
from snnconv.config import Quantization, Recipe
from snnconv.conversion.convert import convert
from snnconv.conversion.splitting import split_signs
from snnconv.conversion.verification import verify
from snnconv.data.images import load_images
from snnconv.engines.encoder import FastEncoder
from snnconv.engines.registry import ENGINES, choose_engine
from snnconv.errors import ConfigError, ConversionError, FormatError
from snnconv.formats.native import load, save
from snnconv.grids import Grid
from snnconv.runs import ANN, create_run
from snnconv.snn.counting import Counter, LayerCounts
from snnconv.snn.layers import (
    Branch,
    Concat,
    Encoder,
    Flatten,
    Readout,
    SpikingLayer,
    Stage,
    SumPool2d,
    spiking_layer,
)
from snnconv.snn.network import Header, Node, Origin, SpikingNetwork
from snnconv.snn.synapses import Conv2dSynapse, IdentitySynapse, LinearSynapse

STTN = Grid(1.0, 1, 1, (-0.5, 0.5), (True, True))
UNEVEN = Grid(0.25, 3, 2, (-1.0, -0.5, 0.1, 0.5, 0.9), (True, False, True, False, True))
NEGATIVE = Grid(0.5, 0, 2, (-0.75, -0.25), (False, True))
SHAPE = (2, 8, 7)


def counted(network: SpikingNetwork, x: Tensor) -> dict[str, LayerCounts]:
    counter = Counter(network)
    with torch.no_grad():
        network(x, [counter.tap])
    return {row.name: row for row in counter.layers()}


def parted(network: SpikingNetwork, split: SpikingNetwork, name: str, sent: Tensor) -> Tensor:
    """The signed counts that a wire of the split network stands for."""
    lines = split.nodes[name].shape[0] // network.nodes[name].shape[0]
    if lines == 2:
        plus, minus = sent.chunk(2, 1)
        return plus - minus
    while not isinstance(network.layers[name], Encoder | SpikingLayer):
        name = network.nodes[name].inputs[0]
    return sent if network.layers[name].grid.positive else -sent


# ------------------------------------------------------------------------------- worked by hand

VALUES = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)


def by_hand(grid: Grid) -> SpikingNetwork:
    """Two channels a, b with values on and off the boundaries; z = (a - b) / 2 and -(a + b) / 2; their sum is read."""
    weight = torch.tensor([[1, -1], [1, 1]], dtype=torch.int8).reshape(2, 2, 1, 1)
    branch = Branch(Conv2dSynapse(weight), torch.tensor([0.5, -0.5]), torch.zeros(2))
    width = len(VALUES) ** 2
    readout = Branch(LinearSynapse(torch.ones(1, 2, dtype=torch.float64)), torch.ones(1), torch.zeros(1))
    layers = {"in": Encoder([], grid), "act": spiking_layer([branch], grid, [1])}
    nodes = {
        "in": Node(("input",), (2, 1, width), Origin("in", 0)),
        "act": Node(("in",), (2, 1, width), Origin("act", 0)),
    }
    layers |= {"pool": SumPool2d((1, width), (1, width)), "flatten": Flatten(), "out": Readout([readout])}
    nodes |= {"pool": Node(("act",), (2, 1, 1)), "flatten": Node(("pool",), (2,)), "out": Node(("flatten",), (1,))}
    return SpikingNetwork(layers, nodes, Header((2, 1, width)))


@pytest.mark.parametrize(
    ("grid", "codes"),
    [
        (TWTA, {-1.0: -1, -0.5: -1, -0.25: 0, 0.0: 0, 0.25: 0, 0.5: 1, 1.0: 1}),
        (STTN, {-1.0: -1, -0.5: 0, -0.25: 0, 0.0: 0, 0.25: 0, 0.5: 1, 1.0: 1}),
    ],
)
def test_two_channels_by_hand(grid: Grid, codes: dict[float, int]) -> None:
    pairs = [(a, b) for a in VALUES for b in VALUES]
    x = torch.tensor(pairs, dtype=torch.float64).T.reshape(1, 2, 1, -1)
    split = split_signs(by_hand(grid))
    assert list(split.layers) == ["in_plus", "in_minus", "in", "act_plus", "act_minus", "act", "pool", "flatten", "out"]
    logits, sent = wires(split, x)
    first = [(codes[a], codes[b]) for a, b in pairs]
    # both sums lie on a boundary where exactly one of a and b fired
    second = [(codes[(a - b) / 2], codes[-(a + b) / 2]) for a, b in first]
    for name, counts in (("in", first), ("act", second)):
        for channel in range(2):
            plus, minus = (sent[f"{name}_{sign}"][0, channel, 0].tolist() for sign in ("plus", "minus"))
            assert plus == [max(count[channel], 0) for count in counts]
            assert minus == [max(-count[channel], 0) for count in counts]
    total = sum(a + b for a, b in second)
    assert float(logits) == total
    assert sent["pool"].flatten().tolist() == [
        sum(max(sign * count[channel], 0) for count in second) for sign in (1, -1) for channel in range(2)
    ]
    rows = counted(split, x)
    spikes = sum(abs(a) + abs(b) for a, b in first)
    for sign in ("plus", "minus"):  # each spike meets two weights other than 0, in each of the two layers
        assert rows[f"act_{sign}"].sops == {
            "synops": 2 * spikes, "events": 2 * spikes, "fanout": 2 * spikes, "ladder": 2 * spikes, "zou2021": 4 * spikes
        }  # fmt: skip
    assert rows["out"].sops["synops"] == sum(abs(a) + abs(b) for a, b in second)


def test_weights_and_thresholds_by_hand() -> None:
    split = split_signs(by_hand(STTN))
    plus, minus = split.layers["act_plus"], split.layers["act_minus"]
    for unit in (plus, minus):
        assert unit.branches[0].synapse.weight.flatten(1).tolist() == [[1, -1, -1, 1], [1, 1, -1, -1]]
        assert unit.reach == 2
    assert plus.branches[0].scale.tolist() == [0.5, -0.5] and minus.branches[0].scale.tolist() == [-0.5, 0.5]
    assert plus.neuron.thresholds.tolist() == [[1, 1]]  # fires where U / 2 >= 0.5
    assert minus.neuron.thresholds.tolist() == [[2, 2]]  # fires where -U / 2 > 0.5


# ------------------------------------------------------------------------- random small networks


class Signed(nn.Module):
    """Everything signed counts may meet; kernels, activations, groups and shortcuts are drawn from a seed."""

    def __init__(self, seed: int, grid: Grid) -> None:
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)

        def act() -> nn.Module:
            if rng.random() < 0.2:
                return KBQuantizer(rng.choice((0, 1)), rng.choice((1, 2)))
            return GridQuantizer(grid)

        def block(*layers: nn.Module, channels: int) -> nn.Sequential:
            return nn.Sequential(*layers, any_gamma(nn.BatchNorm2d(channels), rng.randint(0, 99)))

        sides = tuple(rng.randint(0, 2) for _ in range(4))
        ends = ([], [nn.Hardtanh(-0.7, 0.8)], [nn.PReLU(init=0.5)], [nn.ReLU(), nn.Conv2d(4, 4, 1)])
        stem = (nn.Identity(),) if rng.random() < 0.1 else (nn.Conv2d(2, 4, (3, 2), padding=1),)
        channels = 4 if len(list(stem[0].parameters())) else 2
        end = rng.choice(ends[: 4 if channels == 4 else 1])
        norm = [any_gamma(nn.BatchNorm2d(4), seed)] if channels == 4 and rng.random() < 0.8 else []
        self.stem = nn.Sequential(*stem, *norm, *end, GridQuantizer(grid))
        order = [ChannelPermutation(2)] if rng.random() < 0.7 else []
        grouped = ternary(nn.Conv2d(channels, 4, (2, 3), groups=2, dilation=(1, rng.choice((1, 2))), bias=True))
        self.grouped = block(*order, nn.ZeroPad2d((1, 3, *sides[:2])), grouped, channels=4)
        self.act = act()
        self.pool = nn.AvgPool2d(2, 1) if rng.random() < 0.5 else nn.Identity()
        self.conv = block(ternary(nn.Conv2d(4, 4, 3, padding=1, bias=False)), channels=4)
        self.summed = act()
        self.down = block(ternary(nn.Conv2d(4, 6, 3, stride=2, padding=1)), channels=6)
        self.shortcut = Shortcut(6, 2)
        self.last = act()
        self.requantized = act() if rng.random() < 0.5 else None
        self.flatten = nn.Flatten()
        features = self.features(torch.zeros(2, *SHAPE)).shape[1]
        self.hidden = nn.Sequential(ternary(nn.Linear(features, 5)), any_gamma(nn.BatchNorm1d(5), 1), act())
        self.out = nn.Linear(5, 3)

    def features(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.grouped(self.stem(x))))
        x = self.summed(self.conv(x) + x)
        x = self.last(self.down(x) + self.shortcut(x))
        if self.requantized is not None:
            x = self.requantized(x)
        return self.flatten(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(self.features(x)))


def random_ann(seed: int, grid: Grid) -> tuple[nn.Module, Tensor]:
    x = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 3 - 1.5
    return settled(Signed(seed, grid), x), x


def sample(seed: int, grid: Grid = TWTA) -> tuple[SpikingNetwork, Tensor]:
    model, x = random_ann(seed, grid)
    return convert(model, x[:1], PIXELS, {"recipe": "none"}), x


SEEDS = st.integers(0, 10**6)
GRIDS = st.sampled_from((TWTA, STTN, UNEVEN, NEGATIVE))


@settings(max_examples=40, deadline=None)
@given(SEEDS, GRIDS)
def test_the_difference_of_the_lines_is_the_signed_count(seed: int, grid: Grid) -> None:
    network, x = sample(seed, grid)
    split = split_signs(network)
    (logits, sent), (own, parts) = wires(network, x), wires(split, x)
    torch.testing.assert_close(own, logits, rtol=1e-12, atol=1e-12)
    assert all(bool((counts >= 0).all()) for counts in parts.values())
    for name in sent:
        assert torch.equal(parted(network, split, name, parts[name]), sent[name]), name
    for name, unit in network.units():
        assert set(unit.grid.signs) == {1} or isinstance(split.layers[name], Concat)


@settings(max_examples=15, deadline=None)
@given(SEEDS, GRIDS)
def test_integers_and_bounds_stay_those_of_the_signed_unit(seed: int, grid: Grid) -> None:
    network, _ = sample(seed, grid)
    split = split_signs(network)
    for name, unit in network.units():
        if not isinstance(unit, SpikingLayer):
            continue
        below = unit.grid.negative
        for sign, suffix, rows in ((1, "_plus", slice(below, None)), (-1, "_minus", slice(below))):
            if sign not in unit.grid.signs:
                assert name + suffix not in split.layers
                continue
            side = split.layers[name + suffix if below else name]
            assert torch.equal(side.multipliers, sign * unit.multipliers)
            assert torch.equal(side.constant, sign * unit.constant)
            assert torch.equal(side.error, unit.error)
            assert (side.reach, side.reaches, side.largest) == (unit.reach, unit.reaches, unit.largest)
            thresholds = unit.neuron.thresholds[rows]
            assert torch.equal(side.neuron.thresholds, thresholds if sign > 0 else 1 - thresholds.flip(0))


@settings(max_examples=10, deadline=None)
@given(SEEDS, GRIDS)
def test_every_engine_agrees_on_the_lines(seed: int, grid: Grid) -> None:
    network, x = sample(seed, grid)
    split = split_signs(network)
    logits, sent = wires(split, x)
    for name in ENGINES:
        try:
            engine = choose_engine(split, name)
        except ConfigError:
            assert name in ("events", "triton")  # no compiler, or no GPU
            continue
        taken: dict[str, Tensor] = {}

        def keep(layer: str, counts: Tensor, step: int, taken: dict[str, Tensor] = taken) -> Tensor:
            taken[layer] = counts.clone()
            return counts

        assert torch.equal(engine.run(x, (keep,)), logits), name
        for layer in taken:
            assert torch.equal(taken[layer].double(), sent[layer].double()), (name, layer)


def without_ranges(row: LayerCounts) -> LayerCounts:
    """Lines carry 0 and 1 where the wire they split carries -1 as well."""
    return replace(row, received=tuple(replace(received, low=0, high=0) for received in row.received))


@settings(max_examples=15, deadline=None)
@given(SEEDS, GRIDS)
def test_spikes_and_operations_add_up_to_those_of_the_signed_network(seed: int, grid: Grid) -> None:
    network, x = sample(seed, grid)
    own = counted(split_signs(network), x)
    for name, row in counted(network, x).items():
        if name in own:
            assert without_ranges(own[name]) == without_ranges(row)  # units without a sign, and the readout
            continue
        sides = {sign: own[f"{name}_{word}"] for sign, word in ((1, "plus"), (-1, "minus")) if f"{name}_{word}" in own}
        assert sum(side.positive for side in sides.values()) == row.positive
        assert sum(side.negative for side in sides.values()) == row.negative
        assert all((side.negative if sign > 0 else side.positive) == 0 for sign, side in sides.items())
        assert sum(side.events for side in sides.values()) == row.events
        assert sum(side.macs for side in sides.values()) == row.macs
        assert sum(side.levels for side in sides.values()) == row.levels
        assert {side.units for side in sides.values()} == {row.units}
        for convention, operations in row.sops.items():
            received = [side.sops[convention] for side in sides.values()]
            if convention in ("ladder", "zou2021"):
                assert sum(received) == operations
            else:  # each neuron accumulates for itself
                assert set(received) == {operations}


@settings(max_examples=10, deadline=None)
@given(SEEDS, GRIDS)
def test_a_split_network_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, seed: int, grid: Grid
) -> None:
    network, x = sample(seed, grid)
    split, file = split_signs(network), tmp_path_factory.mktemp("split") / "n"
    save(split, file)
    back = load(file)
    assert (back.nodes, back.header, list(back.layers)) == (split.nodes, split.header, list(split.layers))
    assert back.header.split and back.header.about["recipe"] == "none" and not network.header.split
    (logits, sent), (own, taken) = wires(split, x), wires(back, x)
    assert torch.equal(logits, own) and all(torch.equal(sent[name], taken[name]) for name in sent)
    for name, unit in split.units():
        if isinstance(unit, SpikingLayer):
            assert back.layers[name].reaches == unit.reaches


def test_files_of_whole_networks_have_no_word_of_lines(tmp_path: Path) -> None:
    """So that files written before and after are the same."""
    save(sample(0)[0], tmp_path / "n")
    with safe_open(tmp_path / "n", "pt") as file:
        text = file.metadata()["snnconv"]
    assert "side" not in text and "lines" not in text
    assert {node.origin.side for node in load(tmp_path / "n").nodes.values() if node.origin} == {0}


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "side": lambda layers: layers["in_minus"]["origin"].update(side=2),
    "lines": lambda layers: layers["act_plus"]["branches"][0]["settings"].update(lines=3),
    "no lines": lambda layers: layers["act_plus"]["branches"][0]["settings"].update(lines=0),
    "lines as text": lambda layers: layers["act_plus"]["branches"][0]["settings"].update(lines="2"),
    "a line lost": lambda layers: layers["in"].update(inputs=["in_plus"]),
    "no line": lambda layers: layers["in"].update(inputs=[]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_of_lines_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    file = tmp_path / "n"
    save(split_signs(by_hand(TWTA)), file)
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["snnconv"])
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    DAMAGES[name]({layer["name"]: layer for layer in header["layers"]})
    save_file(tensors, file, {"snnconv": json.dumps(header)})
    with pytest.raises(FormatError) as error:
        load(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("encoder", [KBQuantizer(0, 1), GridQuantizer(TWTA)])
def test_the_network_given_is_left_as_it_was(encoder: nn.Module) -> None:
    network, x = stack(encoder, ternary(nn.Conv2d(4, 4, 3)), GridQuantizer(TWTA)), torch.rand(3, *SHAPE)
    before, state = wires(network, x)[0], {key: value.clone() for key, value in network.state_dict().items()}
    split = split_signs(network)
    for value in split.state_dict().values():
        value.zero_()
    assert torch.equal(wires(network, x)[0], before)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_names_that_are_taken_are_avoided() -> None:
    layers = OrderedDict(
        act=GridQuantizer(TWTA), act_plus=KBQuantizer(0, 1), flatten=nn.Flatten(), out=nn.Linear(112, 2)
    )
    x = torch.rand(3, *SHAPE) * 3 - 1.5
    network = convert(nn.Sequential(layers).eval(), x[:1])
    split = split_signs(network)
    assert list(split.layers)[:4] == ["act_plus_", "act_minus", "act", "act_plus"]
    torch.testing.assert_close(wires(split, x)[0], wires(network, x)[0])


def test_channel_groups_of_a_published_network_read_both_lines() -> None:
    model = build_network("groupv2-3x3", (3, 24, 24), 10, Quantization.parse("twta"), seed=1).eval()
    x = torch.rand(1, 3, 24, 24)
    network = convert(model, x)
    split = split_signs(network)
    sent, parts = wires(network, x)[1], wires(split, x)[1]
    assert all(torch.equal(parted(network, split, name, parts[name]), sent[name]) for name in sent)
    synapse = split.layers["conv3_act_minus"].branches[0].synapse
    assert synapse.groups == 4 and synapse.weight.shape[1] == 2 * 16
    # group 0 reads channels 0, 4, 8, ... of the 64 on the positive line, then the same on the negative one
    assert synapse.channels[:32] == (*range(0, 64, 4), *range(64, 128, 4))


# ------------------------------------------------------------------------------------ the encoder


@pytest.mark.parametrize(("grid", "fast"), [(TWTA, [True] * 3), (STTN, [True] * 3), (UNEVEN, [False, True, True])])
def test_values_on_a_boundary_are_decided_alike_in_float32(grid: Grid, fast: list[bool]) -> None:
    """Codes of the fast encoder at and beside every boundary, whichever side is closed."""
    weight = torch.tensor([0.25, -0.25, 0.0]).reshape(3, 1, 1, 1)
    offset = torch.tensor([0.0, 0.0, float(grid.boundaries[0])], dtype=torch.float64)
    whole = Encoder([Stage(Branch(Conv2dSynapse(weight), torch.ones(3), offset))], grid)
    sums = torch.arange(-8, 9) * 0.5
    beside = [torch.nextafter(sums, torch.full_like(sums, end)) for end in (-9.0, 9.0)]
    x = torch.stack([sums, *beside])[:, None, :, None]
    network = SpikingNetwork(
        {"in": whole, "out": Readout([Branch(IdentitySynapse(torch.ones(3, 1)), torch.ones(3), torch.zeros(3))])},
        {"in": Node(("input",), (3, 17, 1), Origin("in", 0)), "out": Node(("in",), (3,))},
        Header((1, 17, 1)),
    )
    split = split_signs(network)
    encoders = [whole, split.layers["in_plus"], split.layers["in_minus"]]
    assert [FastEncoder.fits(encoder) for encoder in encoders] == fast
    for encoder in encoders:
        if FastEncoder.fits(encoder):
            assert torch.equal(FastEncoder(encoder)(x).double(), encoder(x).double())


def test_both_halves_of_a_trained_kind_of_encoder_are_fast() -> None:
    model = build_network("lenet5x5", (1, 28, 28), 10, Quantization.parse("twta"), seed=0).eval()
    split = split_signs(convert(model, torch.zeros(1, 1, 28, 28)))
    assert split.encoders == ("conv1_act_plus", "conv1_act_minus")
    assert all(FastEncoder.fits(split.layers[name]) for name in split.encoders)


# -------------------------------------------------------------------------------------- the proof

IMAGES = random_images(40, SHAPE, 3)
PIXEL_X = IMAGES.pixels / 255.0


def proven(seed: int = 4) -> tuple[nn.Module, SpikingNetwork]:
    model = Signed(seed, TWTA)
    for module in list(model.modules()):  # signed throughout
        for name, child in list(module.named_children()):
            if isinstance(child, KBQuantizer):
                setattr(module, name, GridQuantizer(TWTA))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            with torch.no_grad():
                module.weight[module.weight == 0] = 0.7
                module.bias.mul_(0.3)
    return settled(model, PIXEL_X), convert(model.eval(), PIXEL_X[:1], PIXELS)


def test_the_lines_are_compared_with_the_codes_of_their_sign() -> None:
    model, network = proven()
    split = split_signs(network)
    whole, parity = verify(model, network, IMAGES), verify(model, split, IMAGES, choose_engine(split))
    assert whole.failures() == parity.failures() == []
    assert [layer.name for layer in parity.layers] == [name for name, _ in split.units()]
    halves = {layer.name: layer for layer in parity.layers}
    for layer in whole.layers:
        plus, minus = halves[f"{layer.name}_plus"], halves[f"{layer.name}_minus"]
        assert plus.mismatches == minus.mismatches == 0
        assert plus.units == minus.units == layer.units
        assert (plus.rate + minus.rate) / 2 == pytest.approx(layer.rate) and min(plus.rate, minus.rate) > 0
        assert (plus.partner, minus.partner) == (minus.name, plus.name)
        assert plus.inside_grid + minus.inside_grid == pytest.approx(layer.inside_grid, abs=0.02)


def test_one_weight_of_any_line_changed_by_one_is_caught_and_the_layer_named() -> None:
    model, network = proven()
    split = split_signs(network)
    hidden = [name for name, unit in split.units() if isinstance(unit, SpikingLayer)]
    assert any(name.endswith("_minus") for name in hidden)
    for name in hidden:
        caught = 0
        for place in (split.layers[name].branches[0].synapse.weight == 0).nonzero()[::7][:6]:
            damaged = copy.deepcopy(split)
            damaged.layers[name].branches[0].synapse.weight[tuple(place)] += 1
            parity = verify(model, damaged, IMAGES)
            wrong = [layer.name for layer in parity.layers if layer.mismatches]
            assert wrong in ([], [name])
            assert any(sentence.startswith(f"layer {name}: ") for sentence in parity.failures()) == bool(wrong)
            caught += bool(wrong)
        assert caught  # a weight from an input that never fires cannot show


@pytest.mark.parametrize(("side", "word"), [(1, "negative"), (-1, "positive")])
def test_a_line_that_no_layer_sends_is_missed(side: int, word: str) -> None:
    model, network = proven()
    split = split_signs(network)
    lost = next(name for name, node in split.nodes.items() if node.origin and node.origin.side == -side)
    twin = next(name for name, node in split.nodes.items() if node.origin and node.origin.side == side)
    split.nodes[lost] = split.nodes[twin]
    split.layers[lost] = split.layers[twin]
    failures = verify(model, split, IMAGES).failures()
    assert f"quantizer stem.{len(model.stem) - 1} of the ANN (call 1) has no layer for its {word} codes" in failures


def test_a_layer_may_be_silent_on_one_line_but_not_on_both() -> None:
    layers = [nn.Conv2d(2, 3, 3), nn.ReLU(), GridQuantizer(TWTA), nn.Flatten(), nn.LazyLinear(3)]
    model = nn.Sequential(*layers)
    model(PIXEL_X)
    model.eval()
    for bias, silent in ((0.5, False), (-9.0, True)):
        with torch.no_grad():
            model[0].bias.fill_(bias)
        parity = verify(model, split_signs(convert(model, PIXEL_X[:1], PIXELS)), IMAGES)
        assert [layer.silent for layer in parity.layers] == [silent, True]
        assert [" is silent: " in sentence for sentence in parity.failures()] == [True, True] * silent


def test_codes_below_zero_alone_need_one_layer_alone() -> None:
    layers = [nn.Conv2d(2, 3, 3), GridQuantizer(NEGATIVE), nn.Flatten(), nn.LazyLinear(3)]
    model = nn.Sequential(*layers)
    model(PIXEL_X)
    network = convert(model.eval(), PIXEL_X[:1], PIXELS)
    split = split_signs(network)
    assert split.encoders == ("_1_minus",)
    assert verify(model, split, IMAGES).failures() == []
    rows, own = counted(network, PIXEL_X), counted(split, PIXEL_X)
    assert own["_1_minus"].macs == rows["_1"].macs


# --------------------------------------------------------------------------------------- refusals


def refused(network: SpikingNetwork, match: str) -> str:
    with pytest.raises(ConversionError, match=match) as error:
        split_signs(network)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_network_without_signed_layers_is_refused() -> None:
    refused(random_network(0), "there is nothing to split: no layer of this network sends negative counts")
    refused(split_signs(sample(0)[0]), "nothing to split")


def stack(*layers: nn.Module) -> SpikingNetwork:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *layers, nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(2, *SHAPE))
    return convert(model.eval(), torch.zeros(1, *SHAPE))


def test_max_pooling_of_signed_counts_is_refused_with_name_reason_and_remedy() -> None:
    message = refused(stack(GridQuantizer(TWTA), nn.MaxPool2d(2)), r"layer _2 \(MaxPool2d\) cannot be split: ")
    assert "negative line" in message and "pool with an average or a strided convolution instead" in message


def test_max_pooling_of_other_counts_of_the_same_network_is_not() -> None:
    hidden = ternary(nn.Conv2d(4, 4, 3))
    split_signs(stack(KBQuantizer(0, 2), nn.MaxPool2d(2), hidden, GridQuantizer(TWTA)))


def test_a_weight_code_without_a_negative_is_refused() -> None:
    network, _ = sample(0)
    name = next(name for name, layer in network.layers.items() if isinstance(layer, SpikingLayer))
    network.layers[name].branches[0].synapse.weight.flatten()[0] = -128
    refused(network, f"layer {name} .*-128 has no negative in 8 bits")


class Joined(nn.Module):
    """Signed and unsigned counts side by side."""

    def __init__(self, flat: bool, right: Grid) -> None:
        super().__init__()
        self.stem, self.act, self.other = nn.Conv2d(2, 4, 3), GridQuantizer(TWTA), GridQuantizer(right)
        self.conv, self.last = ternary(nn.Conv2d(8, 4, 1)), GridQuantizer(TWTA)
        self.readout, self.flat = nn.LazyLinear(3), flat

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = self.act(x), self.other(x)
        if self.flat:
            return self.readout(torch.cat([left.flatten(1), right.flatten(1)], 1))
        return self.readout(self.last(self.conv(torch.cat([right, left], 1))).flatten(1))


def joined(flat: bool, right: Grid) -> SpikingNetwork:
    model = Joined(flat, right).eval()
    model(PIXEL_X)
    return convert(model, PIXEL_X[:1], PIXELS)


UNSIGNED = Grid(1.0, 2, 0, (0.2, 0.9), (True, True))


@pytest.mark.parametrize("right", [TWTA, STTN, UNSIGNED])
def test_joined_wires_are_joined_line_by_line(right: Grid) -> None:
    network = joined(False, right)
    split = split_signs(network)
    (logits, sent), (own, parts) = wires(network, PIXEL_X), wires(split, PIXEL_X)
    for name in network.layers:
        if name in parts and sent[name].shape != parts[name].shape:
            plus, minus = parts[name].chunk(2, 1)
            assert torch.equal(plus - minus, sent[name])
    torch.testing.assert_close(own, logits, rtol=1e-12, atol=1e-12)
    assert any(isinstance(layer, Concat) and layer.lines == 2 for layer in split.layers.values())


def test_wires_that_cannot_be_joined_line_by_line_are_refused() -> None:
    refused(
        joined(True, UNSIGNED),
        r"layer cat \(Concat\) cannot be split: .* join it with signed ones in front of the flatten",
    )
    refused(joined(False, Grid(1.0, 0, 1, (-0.5,), (True,))), r"layer cat \(Concat\) cannot be split: it joins wires")


@pytest.mark.parametrize("lines", [0, 2, -1])
def test_inputs_that_make_no_equal_lines_are_refused(lines: int) -> None:
    with pytest.raises(ConversionError, match=f"a synapse of 3 inputs cannot read {lines} lines"):
        LinearSynapse(torch.ones(2, 3, dtype=torch.int8), lines)


# -------------------------------------------------------------------------------- the command line


def snnconv(folder: Path, command: str, *options: str) -> Result:
    return CliRunner().invoke(main, [command, "--runs-dir", str(folder / "runs"), "--quiet", *options])


def measured(folder: Path, command: str) -> dict[str, object]:
    options = ["--images", "20", "--json"] + (["--figs-dir", str(folder / "figs")] if command == "simulate" else [])
    result = snnconv(folder, command, *options)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


RECIPE = Recipe(name="lenet5x5-digits-twta", network="lenet5x5", dataset="digits", quantization="twta")


@pytest.fixture(scope="module")
def weights() -> nn.Module:
    """Random weights, batch norms settled on a few digits."""
    torch.manual_seed(0)
    return settled(network_for(RECIPE), load_images("digits", "test").pixels[:40] / 255.0)


@pytest.fixture
def folder(tmp_path: Path, weights: nn.Module) -> Path:
    run = create_run(tmp_path / "runs", RECIPE, seed=0)
    save_ann(run.file(ANN), weights, RECIPE)
    return tmp_path


def test_split_verify_simulate_and_back(folder: Path) -> None:
    whole = json.loads(snnconv(folder, "convert", "--json").stdout)
    before = measured(folder, "simulate")
    assert (whole["split"], whole["levels"], before["split"]) == (False, [2] * 5, False)

    result = snnconv(folder, "convert", "--split")
    assert result.exit_code == 0 and "conv1_act_minus" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("bytes), signed counts on a positive and a negative line")
    split = json.loads(snnconv(folder, "convert", "--split", "--json").stdout)
    assert (split["split"], split["levels"]) == (True, [1] * 10)
    assert [row["name"] for row in split["layers"]][:3] == ["conv1_act_plus", "conv1_act_minus", "conv1_act"]

    parity = measured(folder, "verify")
    assert parity["failures"] == [] and parity["predictions_equal"] == parity["logits_equal"] == 20
    assert [layer["name"] for layer in parity["layers"]] == [row["name"] for row in split["layers"] if "levels" in row]
    assert all(layer["units"] > 0 and layer["mismatches"] == 0 < layer["rate"] for layer in parity["layers"])
    after = measured(folder, "simulate")
    assert after["split"]
    for name in ("correct", "spikes_per_image", "neurons", "ann_macs"):
        assert after[name] == before[name], name
    for name, factor in {"synops": 2, "events": 2, "fanout": 2, "ladder": 1, "zou2021": 1}.items():
        assert after["sops_per_image"][name] == pytest.approx(factor * before["sops_per_image"][name]), name

    assert json.loads(snnconv(folder, "convert", "--json").stdout)["split"] is False
    assert measured(folder, "simulate")["split"] is False


def test_a_split_network_of_other_weights_is_split_again(folder: Path) -> None:
    assert snnconv(folder, "convert", "--split").exit_code == 0
    file = folder / "runs" / RECIPE.name / ANN
    with safe_open(file, "pt") as source:
        header, tensors = source.metadata(), {key: source.get_tensor(key) for key in source.keys()}  # noqa: SIM118
    tensors["readout.weight"] = -tensors["readout.weight"]
    save_file(tensors, file, header)
    assert measured(folder, "simulate")["split"] is True
    assert measured(folder, "verify")["failures"] == []


def test_a_planted_fault_is_named_on_the_command_line(folder: Path) -> None:
    assert snnconv(folder, "convert", "--split").exit_code == 0
    file = folder / "runs" / RECIPE.name / "network.safetensors"
    network = load(file)
    weight = network.layers["conv3_act_minus"].branches[0].synapse.weight
    weight[tuple((weight == 0).nonzero()[0])] = 1
    save(network, file)
    result = snnconv(folder, "verify", "--images", "20")
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and "layer conv3_act_minus: " in errors[0]


def test_splitting_a_network_of_unsigned_counts_is_one_sentence(tmp_path: Path) -> None:
    result = snnconv(tmp_path, "convert", "--split")  # the shipped k/B network
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert [line for line in result.stderr.splitlines() if line.startswith("Error: ")] == [
        "Error: there is nothing to split: no layer of this network sends negative counts"
    ]

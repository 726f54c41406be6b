"""Networks as users write them: converted with equal counts in every unit, or refused by layer, reason and remedy."""

from __future__ import annotations

import copy
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from hypothesis import example, given, settings
from hypothesis import strategies as st
from own_networks import NETWORKS, SHAPE, Tutorial, UNet, awake
from safetensors.torch import save_file
from samples import PIXELS, TWTA, GridQuantizer, ann_codes, any_gamma, random_images, settled, ternary, wires
from test_cli import sentence, snnconv
from test_counting import assert_counted, counted, operations
from torch import Tensor, nn
from torch.nn import functional as F

import snnconv as api
from snnconv.ann.quantizers import KBQuantizer
from snnconv.conversion.convert import convert
from snnconv.conversion.fixed_point import fix_weights, narrowed, to_fixed_point
from snnconv.conversion.graph import fingerprint, trace
from snnconv.conversion.splitting import split_signs
from snnconv.conversion.values import Sum, Term
from snnconv.conversion.verification import verify
from snnconv.data.preprocessing import prepare
from snnconv.engines.integer import IntegerSynapse
from snnconv.engines.kernels import Convolution
from snnconv.engines.registry import choose_engine
from snnconv.errors import ConversionError, FormatError
from snnconv.formats.native import load, save
from snnconv.grids import Grid, k_b_grid
from snnconv.snn.layers import Concat, MaxPool2d, Readout, SpikingLayer, Stage, ZeroPad2d, spiking_layer
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.noise_models import parse_noise
from snnconv.snn.simulation import simulate
from snnconv.snn.synapses import Conv2dSynapse, ConvTranspose2dSynapse, LinearSynapse

IMAGES = random_images(24, SHAPE)


def act(k: int = 1, B: int = 2) -> KBQuantizer:
    return KBQuantizer(k, B)


def made(name: str) -> tuple[nn.Module, SpikingNetwork]:
    model = awake(NETWORKS[name]())
    return model, convert(model, torch.zeros(1, *SHAPE), PIXELS)


# ------------------------------------------------------------------------------------ ten networks


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_users_are_proven_and_run_alike_on_every_engine_and_from_a_file(name: str, tmp_path: Path) -> None:
    model, network = made(name)
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    parity = verify(model, network, IMAGES)
    assert parity.failures() == []
    assert sum(layer.mismatches + layer.ties for layer in parity.layers) == 0
    assert {layer.rounding_bound < 1e-9 for layer in parity.layers} == {True}
    assert len(parity.layers) == sum(len(calls) for calls in ann_calls(model).values())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes

    x = prepare(IMAGES.pixels, PIXELS)
    logits, sent = wires(network, x)
    save(network, tmp_path / "network.safetensors")
    for other in (load(tmp_path / "network.safetensors"), *(choose_engine(network, e) for e in ("dense", "auto"))):
        own: dict[str, Tensor] = {}

        def tap(wire: str, counts: Tensor, step: int, own: dict[str, Tensor] = own) -> Tensor:
            own[wire] = counts.clone()
            return counts

        with torch.no_grad():
            result = other(x, [tap]) if isinstance(other, SpikingNetwork) else other.run(x, (tap,))
        assert torch.equal(result, logits)
        assert own.keys() == sent.keys()
        assert all(torch.equal(own[wire].long(), counts.long()) for wire, counts in sent.items())


def ann_calls(model: nn.Module) -> dict[str, list[int]]:
    """Calls of each quantizer in one forward."""
    _, codes = ann_codes(model, torch.rand(2, *SHAPE))
    return {path: [call for other, call in codes if other == path] for path, _ in codes}


def test_a_changed_weight_is_found() -> None:
    model, network = made("unet")
    network.layers["act1"].branches[0].synapse.weight.flatten()[0] *= -1
    failures = verify(model, network, IMAGES).failures()
    assert "layer act1: " in failures[0] and "units differ" in failures[0]


def test_bounds_and_units_inside_them_are_reported_where_branches_are_added() -> None:
    model, network = made("residual")
    bounds = {layer.name: layer.rounding_bound for layer in verify(model, network, IMAGES).layers}
    assert {name for name, bound in bounds.items() if bound} == {name for name in bounds if name.endswith("quant2")}
    layer = network.layers["layer1_0_quant2"]
    shifted = layer.branches[0].rounding + 1.0
    layer.branches[0].rounding.copy_(shifted)
    wider = spiking_layer(layer.branches, layer.grid, layer.largest)
    torch.testing.assert_close(wider.error, layer.error + 1.0)
    network.layers["layer1_0_quant2"] = wider
    found = next(layer for layer in verify(model, network, IMAGES).layers if layer.name == "layer1_0_quant2")
    assert found.rounding_bound > 1.0 and found.within_bound > 0 and found.mismatches == 0


def test_wires_of_equal_steps_are_joined_and_others_keep_their_own() -> None:
    _, joined = made("unet")
    assert sum(isinstance(layer, Concat) for layer in joined.layers.values()) == 1
    _, dense = made("dense")
    (transition,) = (layer for name, layer in dense.layers.items() if name == "act1")
    assert len(transition.branches) == 4
    assert [branch.divisor for branch in transition.branches] == [1] * 4  # in the codes


def test_borders_in_front_of_a_max_pool_become_a_layer() -> None:
    _, network = made("squeeze")
    assert [type(layer) for layer in network.layers.values()].count(ZeroPad2d) == 1


# --------------------------------------------------------------------------- noise, split, counters


@pytest.mark.parametrize("name", ["unet", "residual", "sequence"])
def test_noise_acts_on_them_and_none_changes_nothing(name: str) -> None:
    _, network = made(name)
    engine = choose_engine(network, "dense")
    clean = simulate(engine, IMAGES)
    assert simulate(engine, IMAGES, [parse_noise("deletion:0@all")]).to_dict()["layers"] == clean.to_dict()["layers"]
    for noise in ("deletion:0.2@all", "weight:0.1@all", "threshold:0.1@all", "insertion:0.1@all"):
        noisy = simulate(engine, IMAGES, [parse_noise(noise)], batch_size=7)
        assert noisy.spikes_per_image != clean.spikes_per_image
        again = simulate(engine, IMAGES, [parse_noise(noise)], batch_size=24)
        assert noisy.spikes_per_image == again.spikes_per_image


def signed(model: nn.Module) -> nn.Module:
    """The network with ternary activations in the place of its quantizers; ReLUs in front of them are left out."""
    for path, module in list(model.named_modules()):
        if isinstance(module, KBQuantizer):
            model.set_submodule(path, GridQuantizer(TWTA))
        elif isinstance(module, nn.ReLU):
            model.set_submodule(path, nn.Identity())
        elif isinstance(module, nn.MaxPool2d):
            model.set_submodule(path, nn.AvgPool2d(2))
    return model


@pytest.mark.parametrize("name", ["unet", "residual", "mobile", "dense"])
def test_signed_units_are_split(name: str) -> None:
    model = awake(signed(NETWORKS[name]()))
    network = convert(model, torch.zeros(1, *SHAPE), PIXELS)
    split = split_signs(network)
    assert verify(model, network, IMAGES).failures() == []
    assert verify(model, split, IMAGES).failures() == []
    bounds = {row.name: row.rounding_bound for row in verify(model, split, IMAGES).layers}
    assert all(bounds[f"{row.name}_plus"] == row.rounding_bound for row in verify(model, network, IMAGES).layers)


def transposed_connections(
    shape: tuple[int, int, int], weight: np.ndarray, synapse: ConvTranspose2dSynapse
) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int], float]]:
    """Every connection of a transposed convolution: (target, source, weight), as torch's documentation has it."""
    outputs, per_group, rows, columns = weight.shape
    left, right, top, bottom = synapse.padding
    (down, along), (apart, beside) = synapse.stride, synapse.dilation
    height = (shape[1] - 1) * down - top - bottom + apart * (rows - 1) + 1
    width = (shape[2] - 1) * along - left - right + beside * (columns - 1) + 1
    for o, c, r, q in np.ndindex(outputs, per_group, rows, columns):
        source = o // (outputs // synapse.groups) * per_group + c
        for i, j in np.ndindex(*shape[1:]):
            y, x = i * down + r * apart - top, j * along + q * beside - left
            if 0 <= y < height and 0 <= x < width:
                yield (o, y, x), (source, i, j), float(weight[o, c, r, q])


SIDES = st.tuples(st.integers(1, 3), st.integers(1, 3))
TRANSPOSED = st.fixed_dictionaries(
    {
        "kernel_size": SIDES,
        "stride": SIDES,
        "padding": st.tuples(st.integers(0, 1), st.integers(0, 1)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "output_padding": st.tuples(st.integers(0, 1), st.integers(0, 1)),
        "groups": st.sampled_from((1, 2)),
        "bias": st.booleans(),
    }
)


def fits(geometry: dict, height: int, width: int) -> bool:
    pairs = zip(*(geometry[key] for key in ("stride", "dilation", "output_padding")), strict=True)
    allowed = all(extra < max(step, apart) for step, apart, extra in pairs)
    sizes = [
        (side - 1) * s - 2 * p + d * (k - 1) + o + 1
        for side, s, p, d, k, o in zip(
            (height, width),
            *(geometry[key] for key in ("stride", "padding", "dilation", "kernel_size", "output_padding")),
            strict=True,
        )
    ]
    return allowed and min(sizes) >= 1


@settings(max_examples=60, deadline=None)
@given(TRANSPOSED, st.integers(0, 10**6))
def test_a_transposed_convolution_connects_what_the_loop_connects(geometry: dict, seed: int) -> None:
    if not fits(geometry, 3, 4):
        return
    draw = torch.Generator().manual_seed(seed)
    layer = nn.ConvTranspose2d(4, 6, **(geometry | {"bias": False}))
    codes = torch.randint(-1, 2, layer.weight.shape, generator=draw)
    layer.weight.data = codes.float()
    model = nn.Sequential(act(0, 3), layer, act(0, 3), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 4, 3, 4))
    network = convert(model, torch.zeros(1, 4, 3, 4))
    synapse = network.layers["_2"].branches[0].synapse
    assert isinstance(synapse, ConvTranspose2dSynapse) and synapse.weight.dtype == torch.int8
    counts = torch.randint(-3, 4, (4, 3, 4), generator=draw)
    connections = list(transposed_connections((4, 3, 4), synapse.weight.numpy(), synapse))
    potential = synapse.potential(counts[None].double())[0]
    assert torch.equal(potential, layer(counts[None].float())[0].double())
    assert synapse.out_shape((4, 3, 4)) == tuple(potential.shape)
    expected = np.zeros(potential.shape)
    for target, source, weight in connections:
        expected[target] += weight * float(counts[source])
    assert np.array_equal(potential.numpy(), expected)
    for zeros in (False, True):
        fan_out = np.zeros((4, 3, 4), dtype=np.int64)
        for _, source, weight in connections:
            fan_out[source] += bool(weight != 0 or zeros)
        assert synapse.fan_out((4, 3, 4), zeros).tolist() == fan_out.tolist()
    assert synapse.macs(tuple(potential.shape)) >= len(connections)
    if not any(geometry["padding"]) and not any(geometry["output_padding"]):
        assert synapse.macs(tuple(potential.shape)) == len(connections)


def test_a_transposed_convolution_by_hand() -> None:
    synapse = ConvTranspose2dSynapse(torch.tensor([[[[1, 2]]]], dtype=torch.int8), stride=(1, 2))
    assert synapse.potential(torch.tensor([[[[1.0, 0.0, 3.0]]]])).tolist() == [[[[1, 2, 0, 0, 3, 6]]]]
    assert (synapse.fan_out((1, 1, 3)).tolist(), synapse.macs((1, 1, 6))) == ([[[2, 2, 2]]], 6)
    cut = ConvTranspose2dSynapse(synapse.weight, stride=(1, 2), padding=(1, 0, 0, 0))
    assert cut.potential(torch.tensor([[[[1.0, 0.0, 3.0]]]])).tolist() == [[[[2, 0, 0, 3, 6]]]]
    assert (cut.fan_out((1, 1, 3)).tolist(), cut.macs((1, 1, 5))) == ([[[1, 2, 2]]], 6)


@pytest.mark.parametrize("name", ["unet", "sequence"])
def test_operations_of_new_layers_are_the_brute_force_count(name: str) -> None:
    _, network = made(name)
    x = prepare(IMAGES.pixels[:1], PIXELS)
    _, sent = wires(network, x)
    checked = 0
    for row in counted(network, x):
        layer = network.layers[row.name]
        if not isinstance(layer, SpikingLayer):
            continue
        (wire,), (branch,) = network.nodes[row.name].inputs, layer.branches
        if any(not isinstance(network.layers[w], SpikingLayer | Concat | MaxPool2d) for w in [wire]):
            continue
        counts, weight = sent[wire][0].long(), branch.synapse.weight.numpy()
        if isinstance(branch.synapse, ConvTranspose2dSynapse):
            pairs = transposed_connections(tuple(counts.shape), weight, branch.synapse)
            total = sum(int(counts[source]) for _, source, value in pairs if value)
        else:
            total = operations(branch.synapse, sent[wire], False, False)
        assert row.sops["synops"] == total
        checked += 1
    assert checked


def test_rounded_weights_and_concats_are_counted_by_every_convention() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), act(), nn.Conv2d(4, 4, 3, groups=2), act(), nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(3)
    )
    x = torch.rand(2, 2, 7, 8)
    model(x)
    assert_counted(convert(model.eval(), x[:1]), x)


# --------------------------------------------------------------------- count = code, by new synapses


def check(model: nn.Module, x: Tensor) -> SpikingNetwork:
    settled(model, x)
    network = convert(model, x[:1])
    logits, codes = ann_codes(model, x)
    own, sent = wires(network, x)
    for name, _ in network.units():
        origin = network.nodes[name].origin
        assert torch.equal(sent[name].long().flatten(1), codes[origin.module, origin.call].flatten(1)), name
    torch.testing.assert_close(own, logits, rtol=1e-12, atol=1e-12)
    return network


@settings(max_examples=40, deadline=None)
@given(TRANSPOSED, st.booleans(), st.sampled_from((None, TWTA)), st.integers(0, 10**6))
def test_counts_of_transposed_convolutions_are_codes(
    geometry: dict, quantized: bool, grid: Grid | None, seed: int
) -> None:
    if not fits(geometry, 4, 5):
        return
    torch.manual_seed(seed)
    layer = nn.ConvTranspose2d(4, 6, **geometry)
    quantizers = [act() if grid is None else GridQuantizer(grid) for _ in range(2)]
    model = nn.Sequential(
        *(nn.ConvTranspose2d(2, 4, 2), any_gamma(nn.BatchNorm2d(4), seed), quantizers[0]),
        *(ternary(layer) if quantized else layer, any_gamma(nn.BatchNorm2d(6), seed + 1), quantizers[1]),
        *(nn.Flatten(), nn.LazyLinear(3)),
    )
    check(model, torch.rand(5, 2, 3, 4) * 2 - 0.5)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3), st.sampled_from((1, 2, 4))),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_counts_of_convolutions_over_sequences_are_codes(
    geometry: tuple, border: tuple, quantized: bool, seed: int
) -> None:
    kernel, stride, padding, dilation, groups = geometry
    if 9 + sum(border) + 2 * padding <= dilation * (kernel - 1):
        return
    torch.manual_seed(seed)
    layer = nn.Conv1d(4, 8, kernel, stride, padding, dilation, groups)
    model = nn.Sequential(
        *(nn.Conv1d(3, 4, 3, padding=1), any_gamma(nn.BatchNorm1d(4), seed), act(), nn.ZeroPad1d(border)),
        *(ternary(layer) if quantized else layer, any_gamma(nn.BatchNorm1d(8), seed + 1), nn.ReLU(), act()),
        *(nn.Flatten(), nn.LazyLinear(3)),
    )
    check(model, torch.rand(5, 3, 9) * 2 - 0.5)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(SIDES, SIDES, st.tuples(*[st.integers(0, 2)] * 4), SIDES, st.sampled_from((1, 2, 4))),
    st.sampled_from((None, TWTA, Grid(0.25, 3, 2, (-1.0, -0.5, 0.1, 0.5, 0.9), (True, False) * 2 + (True,)))),
    st.integers(0, 10**6),
)
def test_counts_of_float_weights_are_codes(geometry: tuple, grid: Grid | None, seed: int) -> None:
    kernel, stride, border, dilation, groups = geometry
    if min(6, 6) + min(border) * 2 <= max(d * (k - 1) for d, k in zip(dilation, kernel, strict=True)):
        return
    torch.manual_seed(seed)
    quantizers = [act() if grid is None else GridQuantizer(grid) for _ in range(3)]
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 1), any_gamma(nn.BatchNorm2d(4), seed), quantizers[0], nn.ZeroPad2d(border)),
        *(nn.Conv2d(4, 8, kernel, stride, 0, dilation, groups), any_gamma(nn.BatchNorm2d(8), seed + 1)),
        *(quantizers[1], nn.Flatten(), nn.LazyLinear(6), any_gamma(nn.BatchNorm1d(6), seed + 2), quantizers[2]),
        nn.Linear(6, 3),
    )
    check(model, torch.rand(6, 2, 6, 6) * 2 - 0.5)


class Shapes(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.act, self.function, self.readout = (
            nn.Conv2d(3, 4, 3, padding=1),
            act(),
            function,
            nn.LazyLinear(3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.function(self.act(self.stem(x))).flatten(1))


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "merged rows": lambda x: x.flatten(2),
    "other channels": lambda x: F.max_pool2d(x.view(x.size(0), 2, 8, 16), 2),
    "rows and back": lambda x: F.avg_pool1d(x.reshape(x.shape[0], 4, -1), 4).unflatten(2, (4, 4)),
    "window of all": lambda x: F.avg_pool2d(x, x.size()[2:]).squeeze(-1).squeeze(-1),
    "half": lambda x: F.adaptive_avg_pool2d(x, x.shape[-1] // 2),
    "mean": lambda x: torch.mean(x, dim=(-2, -1)),
    "mean, kept": lambda x: x.mean([2, 3], keepdim=True),
    "mean over unequal steps": lambda x: torch.cat([x, F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)], 1).mean((2, 3)),
    "border and pool": lambda x: F.max_pool2d(F.pad(x, (1, 0, 2, 1)), 3, 2),
    "border and mean": lambda x: F.avg_pool2d(F.pad(x, (0, 1)), 3, 2),
    "clamp of counts": lambda x: x.clamp(min=0).relu().contiguous(),
    "concat along -3": lambda x: torch.concat((x, F.relu(x), x), axis=-3),
    "concat of pools": lambda x: torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(x, 2)], 1),
    "concat of lists": lambda x: torch.cat([torch.flatten(x, 1), F.adaptive_avg_pool2d(x, 1).flatten(1)], dim=1),
    "dropouts": lambda x: F.dropout2d(F.dropout(x, training=False), training=False),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_functions_that_users_write_are_known(name: str) -> None:
    x = torch.rand(5, 3, 8, 8)
    model = Shapes(FORMS[name])
    model(x)
    check(model, x)


# -------------------------------------------------------------------------------------- fixed point


WEIGHTS = st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3)


@settings(max_examples=100, deadline=None)
@given(st.lists(WEIGHTS, min_size=1, max_size=4), st.integers(-5, 45))
def test_codes_are_the_rounded_weights_within_what_is_said_to_be_missed(rows: list[list[float]], places: int) -> None:
    weight = torch.tensor(rows, dtype=torch.float64)
    fixed = to_fixed_point(weight, torch.full((len(rows),), float(places), dtype=torch.float64))
    for row, codes, own, missed in zip(rows, fixed.codes.tolist(), fixed.places.tolist(), fixed.missed, strict=True):
        errors = [abs(Fraction(w) - c / Fraction(2) ** int(own)) for w, c in zip(row, codes, strict=True)]
        assert all(error <= Fraction(1, 2) / Fraction(2) ** places for error in errors)
        assert abs(sum(errors) - Fraction(float(missed))) <= Fraction(float(missed)) / 2**40
        assert not any(codes) or any(code % 2 for code in codes) or own == places


def test_trained_float32_weights_are_codes_without_any_rounding() -> None:
    torch.manual_seed(1)
    for layer in (nn.Conv2d(4, 8, 3), nn.Conv2d(4, 4, 3, groups=4)):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), act(), layer, act(), nn.Flatten(), nn.LazyLinear(3)).eval()
        model(torch.rand(1, 3, 8, 8))
        unit = convert(model, torch.rand(1, 3, 8, 8)).layers["_3"]
        branch = unit.branches[0]
        assert float(unit.error.max()) == 0.0
        assert unit.reach < 2**52
        back = branch.synapse.weight.double() * (branch.scale / 0.5).reshape(-1, 1, 1, 1)
        assert torch.equal(back, layer.weight.double())


@pytest.mark.parametrize(
    ("codes", "dtype"),
    [([127, -127], torch.int8), ([128, 0], torch.int16), ([-(2**15), 1], torch.int32), ([2**31, 0], torch.int64), ([0], torch.int8)],
)  # fmt: skip
def test_codes_take_the_narrowest_integers_with_negatives(codes: list[int], dtype: torch.dtype) -> None:
    assert narrowed(torch.tensor(codes)).dtype == dtype


def test_float_weights_on_a_coarse_grid_are_ternary_codes_for_every_engine() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), act(), nn.Conv2d(4, 4, 3), act(), nn.Flatten(), nn.LazyLinear(3)).eval()
    model(torch.rand(1, 3, 8, 8))
    with torch.no_grad():
        model[2].weight.copy_(torch.randint(-1, 2, (4, 4, 3, 3)) * 0.125)
    network = convert(model, torch.rand(1, 3, 8, 8))
    weight = network.layers["_3"].branches[0].synapse.weight
    assert weight.dtype == torch.int8 and int(weight.abs().max()) == 1


@pytest.mark.parametrize("code", [2**16, 2**8, 2**24 + 1])
def test_engines_leave_codes_of_more_than_8_bits_to_dense(code: int) -> None:
    """Cast to fewer bits, these codes look like 0 or 1."""
    wide = LinearSynapse(narrowed(torch.tensor([[code, 0]])))
    assert not IntegerSynapse.fits(wide, (0, 1))
    assert not Convolution.fits(wide, (0, 1))
    as_int64 = LinearSynapse(torch.tensor([[1, 0]]))  # not as conversion makes them
    assert not IntegerSynapse.fits(as_int64, (0, 1)) and not Convolution.fits(as_int64, (0, 1))


def test_bit_flips_leave_codes_of_more_than_8_bits_alone() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), act(), nn.Conv2d(4, 4, 3), act(), ternary(nn.Conv2d(4, 4, 3)), act()),
        *(nn.Flatten(), nn.LazyLinear(4)),
    )
    model(torch.rand(1, *SHAPE))
    network = convert(awake(model), torch.zeros(1, *SHAPE), PIXELS)
    noise = parse_noise("bitflip:0.2@all")
    assert noise.on(network) == ("_5",)
    simulate(choose_engine(network, "dense"), IMAGES, [noise])


@pytest.mark.parametrize("part", ["weight", "rounding"])
def test_files_with_damaged_codes_are_refused(part: str, tmp_path: Path) -> None:
    _, network = made("tutorial")
    branch = network.layers["q_fc1"].branches[0]
    if part == "weight":
        branch.synapse.weight = branch.synapse.weight * 2**20  # potentials beyond 53 bits
    else:
        branch.rounding -= 1.0
    save(network, tmp_path / "network.safetensors")
    with pytest.raises(FormatError, match="is damaged: .*(53 bits|rounding must hold)"):
        load(tmp_path / "network.safetensors")


def test_files_hold_wide_codes_in_integers_that_fit(tmp_path: Path) -> None:
    _, network = made("mobile")
    save(network, tmp_path / "network.safetensors")
    again = load(tmp_path / "network.safetensors")
    for name, layer in network.layers.items():
        if isinstance(layer, SpikingLayer):
            for branch, own in zip(layer.branches, again.layers[name].branches, strict=True):
                assert torch.equal(branch.synapse.weight, own.synapse.weight)
                assert branch.synapse.weight.dtype == own.synapse.weight.dtype
                assert torch.equal(branch.rounding, own.rounding)
            assert torch.equal(layer.error, again.layers[name].error)


def synapses(kind: str, draw: torch.Generator, size: float) -> LinearSynapse:
    if kind == "codes":
        return LinearSynapse(torch.randint(-1, 2, (3, 4), generator=draw).to(torch.int8))
    return LinearSynapse(torch.randn(3, 4, generator=draw) * size)


@settings(max_examples=60, deadline=None)
@example(["codes", "floats"], 295134, 1e-3, 1)  # weights of one channel are all 0, those of another are not
@given(
    st.lists(st.sampled_from(("codes", "floats")), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.sampled_from((1e-12, 1e-3, 1.0, 1e6)),
    st.sampled_from((1, 9)),
)
def test_units_of_rounded_weights_are_right_outside_their_bound(
    kinds: list[str], seed: int, size: float, divisor: int
) -> None:
    """z by fractions; every unit whose value lies further from all boundaries than the bound must have its code."""
    draw = torch.Generator().manual_seed(seed)
    grid = k_b_grid(1, 2)
    terms = tuple(
        Term(
            f"w{i}",
            synapses(kind, draw, size),
            *torch.randn(2, 3, generator=draw, dtype=torch.float64),
            4,
            "x",
            divisor,
        )
        for i, kind in enumerate(kinds)
    )
    fixed = fix_weights(Sum(terms), grid)
    layer = spiking_layer([term.branch() for term in fixed.terms], grid, [4] * len(terms))
    assert layer.reach < 2**53
    assert float((layer.error / (size + 1)).max()) < 1e-10  # the bound is worth something
    counts = [torch.randint(-4, 5, (16, 4), generator=draw) for _ in terms]
    fired = layer(*(c.to(torch.int8) for c in counts))
    for image, channel in itertools.product(range(16), range(3)):
        z = Fraction(0)
        for term, own in zip(terms, counts, strict=True):
            weight = term.synapse.weight[channel].double().tolist()
            U = sum(Fraction(w) * int(c) for w, c in zip(weight, own[image].tolist(), strict=True))
            z += Fraction(float(term.scale[channel])) * U / term.divisor + Fraction(float(term.offset[channel]))
        bound = Fraction(float(layer.error[channel])) + abs(z) / 2**45
        if all(abs(z - Fraction(b)) > bound for b in grid.boundaries):
            assert int(fired[image, channel]) == sum(z >= Fraction(b) for b in grid.boundaries)


def test_weights_that_are_not_finite_are_refused_by_layer() -> None:
    model = awake(Tutorial())
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ConversionError, match=r"layer conv2 \(Conv2d\): its weight holds values that are not finite"):
        convert(model, torch.zeros(1, *SHAPE))


# ----------------------------------------------------------------------------------------- refusals


class Body(nn.Module):
    """A stem with its quantizer, something between, a readout."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.stem, self.act, self.between = nn.Conv2d(3, 4, 3, padding=1), act(), between
        self.conv, self.last, self.readout = nn.Conv2d(4, 4, 3, padding=1), act(), nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.act(self.stem(x)))
        return self.readout(self.last(self.conv(x)).flatten(1))


class By(nn.Module):
    """A function as a module, with a layer of its own."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.conv, self.norm = function, nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.quant, self.other = nn.ReLU(inplace=True), act(), act(2, 1)
        self.grouped, self.attention = nn.Conv2d(8, 4, 1, groups=2), nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def attend(self: nn.Module, x: Tensor) -> Tensor:
    rows = x.flatten(2).transpose(1, 2)
    return torch.matmul(rows, rows.transpose(1, 2)).flatten(1)


def overwrite(self: nn.Module, x: Tensor) -> Tensor:
    x = self.norm(x)
    return self.quant(self.relu(x)) + self.quant(x)


def lost(self: nn.Module, x: Tensor) -> Tensor:
    y = self.conv(x)
    F.relu_(y.view(y.size(0), 4, 8, 8))
    return self.quant(y)


def added(self: nn.Module, x: Tensor) -> Tensor:
    y = x
    y += self.quant(self.conv(x))
    return self.quant(x)


QUANTIZE = "quantize it: put an activation quantizer such as snnconv.KBQuantizer"
BETWEEN = "put an activation quantizer (such as KBQuantizer) between them"
REFUSED: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
    "sigmoid": (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid()), ("layer between.1 (Sigmoid)", QUANTIZE)),
    "gelu, a function": (By(lambda s, x: F.gelu(s.conv(x))), ("layer gelu in between (gelu)", QUANTIZE)),
    "silu": (nn.SiLU(inplace=True), ("layer between (SiLU)", QUANTIZE)),
    "relu without a quantizer": (
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()),
        ("layer conv (Conv2d)", "value of layer between.0, through ReLU at between.1, leaves its unit", BETWEEN),
    ),
    "relu6 in front of a norm": (
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU6(), nn.BatchNorm2d(4), act()),
        ("layer between.2 (BatchNorm2d)", "passed an activation but no quantizer (ReLU6 at between.1)", BETWEEN),
    ),
    "attention": (By(attend), ("layer transpose in between (transpose) cannot be converted",)),
    "attention, a module": (
        By(lambda s, x: s.attention(x.flatten(2), x.flatten(2), x.flatten(2))[0]),
        ("does not take an input",),
    ),
    "layer norm": (nn.LayerNorm([4, 8, 8]), ("layer between (LayerNorm)", "BatchNorm for normalization")),
    "product": (By(lambda s, x: x * s.quant(s.conv(x))), ("layer mul in between (mul)", "arithmetic on")),
    "matmul": (By(lambda s, x: torch.matmul(x, x)), ("layer matmul in between (matmul)", "no products of activations")),
    "upsampling": (nn.Upsample(scale_factor=2), ("layer between (Upsample)", "use a ConvTranspose2d")),
    "a convolution without a module": (
        By(lambda s, x: F.conv2d(x, s.conv.weight, padding=1)),
        ("layer between_conv_weight in between (attribute)", "use nn.Conv2d, nn.Linear or nn.BatchNorm2d for it"),
    ),
    "max pool in front of the quantizer": (
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(1), act()),
        ("layer between.1 (MaxPool2d)", BETWEEN, "the pool gives the same values behind it"),
    ),
    "concat of unquantized": (
        By(lambda s, x: s.grouped(s.quant(torch.cat([x, s.conv(x)], 1)))),
        ("layer cat in between (cat): its input between_conv is not quantized", BETWEEN),
    ),
    "concat along rows": (By(lambda s, x: torch.cat([x, x], 2)), ("layer cat in between (cat)", "only dimension 1")),
    "groups across different steps": (
        By(lambda s, x: s.quant(s.grouped(torch.cat([x, s.other(x)], 1)))),
        ("layer between.grouped (Conv2d)", "different steps: use quantizers with equal steps"),
    ),
    "a norm across different steps": (
        By(lambda s, x: s.grouped(s.quant(torch.cat([x, s.other(x)], 1)))),
        ("layer between.quant (KBQuantizer)", "different steps"),
    ),
    "reflected border": (By(lambda s, x: F.pad(x, (1, 1, 1, 1), mode="reflect")), ("layer pad in between", "with zeros")),
    "border of ones": (nn.ConstantPad2d(1, 1.0), ("layer between (ConstantPad2d)", "pad with zeros")),
    "border of channels": (
        By(lambda s, x: F.max_pool1d(F.pad(x.flatten(2), (1, 1, 1, 1)), 2)[:, 1:5, None]),
        ("layer pad in between", "adds channels"),
    ),
    "mean of channels": (By(lambda s, x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1)), ("layer mean in between",)),
    "chunks": (By(lambda s, x: torch.cat(x.chunk(2, 1), 1)), ("layer chunk in between (chunk) cannot be converted",)),
    "clamp to a tensor": (By(lambda s, x: x.clamp(max=s.norm.bias.max())), ("layer between_norm_bias in between (attribute)",)),
    "overwritten in place": (By(overwrite), ("layer between.relu changes in place a value that between.quant reads",)),
    "overwritten through a view": (By(lost), ("layer relu_ in between changes in place", "set inplace=False")),
    "added in place": (By(added), ("layer iadd in between changes in place", "write a = a + b")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_by_layer_reason_and_remedy(name: str) -> None:
    between, expected = REFUSED[name]
    model = Body(between).eval()
    if name not in ("attention", "attention, a module", "upsampling", "matmul"):
        model(torch.rand(2, 3, 8, 8))
    else:
        model.readout, model.conv = nn.Identity(), nn.Identity()
    with pytest.raises(ConversionError) as error:
        convert(model, torch.rand(2, 3, 8, 8))
    message = str(error.value)
    assert "\n" not in message
    for part in expected:
        assert part in message, message


def test_a_module_of_attention_is_refused_by_type() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.attend, self.fc = act(), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(x)
            return self.fc(self.attend(x, x, x)[0].flatten(1))

    with pytest.raises(
        ConversionError, match=r"layer attend \(MultiheadAttention\) cannot be converted: .*no products"
    ):
        convert(Attention().eval(), torch.rand(2, 8, 8))


def test_hooks_that_may_change_values_are_refused() -> None:
    model = Body(nn.Identity()).eval()
    model(torch.rand(2, 3, 8, 8))
    handle = model.conv.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(ConversionError, match=r"layer conv \(Conv2d\) has forward hooks.*remove them"):
        convert(model, torch.rand(2, 3, 8, 8))
    handle.remove()
    convert(model, torch.rand(2, 3, 8, 8))
    model.conv.forward = lambda x: F.conv2d(x, 2 * model.conv.weight, padding=1)
    with pytest.raises(ConversionError, match=r"layer conv \(Conv2d\) has .* a forward of its own.*remove them"):
        convert(model, torch.rand(2, 3, 8, 8))


class Root(Body):
    """A network that is called otherwise than by the forward of its class."""

    def __call__(self, x: Tensor) -> Tensor:
        return -super().__call__(x)


@pytest.mark.parametrize("way", ["hook", "pre-hook", "forward", "call"])
def test_a_network_that_is_called_otherwise_than_by_its_forward_is_refused(way: str) -> None:
    model = (Root if way == "call" else Body)(nn.Identity()).eval()
    model(torch.rand(2, 3, 8, 8))
    if way == "hook":
        model.register_forward_hook(lambda module, inputs, output: -output)
    elif way == "pre-hook":
        model.register_forward_pre_hook(lambda module, inputs: (-inputs[0],))
    elif way == "forward":
        model.forward = model.stem.forward
    with pytest.raises(ConversionError, match=r"has forward hooks, a forward put in later, or a __call__ of its own"):
        convert(model, torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda y, x: (y, x), "several outputs"),
        (lambda y, x: {"logits": y}, "several outputs"),
        (lambda y, x: None, "several outputs"),
        (lambda y, x: y.sum(), r"gives \[\] for several images"),
    ],
)
def test_networks_that_give_anything_but_logits_are_refused(output: Callable, message: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.fc = act(), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> object:
            return output(self.fc(self.act(x).flatten(1)), x)

    with pytest.raises(ConversionError, match=message):
        convert(Net().eval(), torch.rand(2, 1, 8, 8))


def test_sizes_that_depend_on_the_number_of_images_are_refused() -> None:
    model = Body(By(lambda s, x: F.adaptive_avg_pool2d(F.pad(x, (x.size(0) % 3, 0, 0, 0)), 4))).eval()
    model(torch.rand(2, 3, 8, 8))
    with pytest.raises(ConversionError, match=r"layer pad in between makes \[2, 4, 8, 10\] of 2 images and .* of 3"):
        convert(model, torch.rand(3, 3, 8, 8))


def test_a_batch_size_in_the_forward_is_refused_even_where_the_example_has_it() -> None:
    model = Body(By(lambda s, x: x.view(1, 4, 8, 8))).eval()
    model(torch.rand(1, 3, 8, 8))
    with pytest.raises(ConversionError, match="does not take an input of shape"):
        convert(model, torch.rand(1, 3, 8, 8))


def test_layers_that_no_image_has_gone_through_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), KBQuantizer(1, 2), nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(ConversionError, match="3.weight of Sequential has no values yet"):
        convert(model.eval(), torch.zeros(1, 1, 5, 5))
    model(torch.zeros(1, 1, 5, 5))
    assert convert(model, torch.zeros(1, 1, 5, 5)).classes == 4


@pytest.mark.parametrize("change", [nn.Module.double, nn.Module.half])
def test_weights_of_another_precision_are_named(change: Callable[[nn.Module], nn.Module]) -> None:
    model = change(nn.Sequential(nn.Conv2d(1, 2, 3), KBQuantizer(1, 2), nn.Flatten(), nn.Linear(18, 4)))
    with pytest.raises(ConversionError, match=r"0.weight of Sequential is torch.float.*: model.float\(\)"):
        convert(model.eval(), torch.zeros(1, 1, 5, 5))


def test_in_place_relus_of_which_nothing_else_is_read_convert() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), act(), nn.Flatten(), nn.LazyLinear(3)).eval()
    model(torch.rand(2, 3, 8, 8))
    convert(model, torch.rand(2, 3, 8, 8))


def test_an_image_of_one_row_and_a_sequence_are_told_apart_by_a_stage() -> None:
    _, network = made("sequence")
    encoder = network.layers["acts_0"]
    assert encoder.stages[0] == Stage(shape=(3, 1, 256))
    assert isinstance(encoder.stages[1].branch.synapse, Conv2dSynapse)
    assert isinstance(list(network.layers.values())[-1], Readout)


# ------------------------------------------------------------------------------------- fingerprints


def test_fingerprints_tell_networks_apart_but_not_their_weights() -> None:
    x = torch.zeros(1, *SHAPE)

    def of(model: nn.Module) -> str:
        return fingerprint(trace(model, x))

    first, second = of(awake(UNet())), of(awake(UNet(), seed=1))
    assert first == second and len({of(make()) for make in NETWORKS.values()}) == len(NETWORKS)
    for change in (
        lambda model: setattr(model, "act1", KBQuantizer(1, 3)),
        lambda model: setattr(model.bn, "eps", 1e-3),
        lambda model: setattr(model, "pool", nn.AvgPool2d(2)),
        lambda model: setattr(model.up2, "output_padding", (1, 1)) or setattr(model.down1[2], "inplace", True),
        lambda model: setattr(model, "head", nn.Linear(4, 5)),
    ):
        changed = UNet()
        change(changed)
        assert of(changed) != first


# ----------------------------------------------------------------------------------- the command line

NET = """
import torch
from torch import nn
from torch.nn import functional as F

from snnconv import KBQuantizer


class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 5, stride=2), nn.Conv2d(4, 8, 3)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(8)
        self.quant = KBQuantizer(1, 2)
        self.fc = nn.Linear(8 * 5 * 5, classes)

    def forward(self, x):
        x = self.quant(F.relu(self.bn1(self.conv1(x))))
        x = F.max_pool2d(self.quant(F.relu(self.bn2(self.conv2(x)))), 2)
        return self.fc(x.flatten(1))


def make():
    return Net()


def few():
    return Net(4)


def floats():
    net = Net()
    net.quant = nn.ReLU()
    return net


def colours():
    net = Net()
    net.conv1 = nn.Conv2d(3, 4, 5, stride=2)
    return net


def other():
    net = Net()
    net.extra = nn.Linear(2, 2)
    return net


def fails():
    raise RuntimeError("no luck\\nat all")


def needs(argument):
    return Net()


def nothing():
    return None


def leaves():
    raise SystemExit(3)


def lazy():
    net = Net()
    net.fc = nn.LazyLinear(10)
    return net


def double():
    return Net().double()


constant = 3
"""
numbers = itertools.count()


class Place:
    """A folder with a module of nets that no other test has imported, and the weights of one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.module = folder, f"users_net_{next(numbers)}"
        self.write(NET)
        net = self.model("make")
        save_file(net.state_dict(), folder / "net.safetensors")
        torch.save(net.state_dict(), folder / "net.pth")

    def write(self, text: str) -> None:
        sys.modules.pop(self.module, None)
        (self.folder / f"{self.module}.py").write_text(text)

    def model(self, name: str) -> nn.Module:
        space: dict = {}
        exec(NET, space)
        torch.manual_seed(3)
        return settled(space[name](), torch.rand(16, 1, 28, 28))

    def run(self, *arguments: str) -> Result:
        return snnconv(*arguments, cwd=self.folder)

    def convert(
        self, factory: str = "make", weights: str = "net.safetensors", *more: str, data: str = "digits"
    ) -> Result:
        options = ("--model", f"{self.module}:{factory}", "--weights", weights, "--data", data)
        return self.run("convert", *options, "--quiet", *more)

    @property
    def made(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "runs").glob("*")) if (self.folder / "runs").exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    own = Place(tmp_path)
    path = list(sys.path)
    yield own
    assert sys.path == path
    sys.modules.pop(own.module, None)


@pytest.mark.parametrize("weights", ["net.safetensors", "net.pth"])
def test_a_network_of_ones_own_becomes_a_run_like_any_other(place: Place, weights: str) -> None:
    result = place.convert("make", weights, "--json", "--mean", "0.2", "--sd", "0.3")
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads(result.stdout)["preprocessing"] == {
        "standardise": False, "divisor": 255.0, "mean": [0.2], "sd": [0.3]
    }  # fmt: skip
    assert place.made == ["make-digits"]
    config = json.loads((place.folder / "runs/make-digits/config.json").read_text())
    assert config["model"]["factory"] == f"{place.module}:make"
    assert config["model"]["weights"]["file"] == str(place.folder / weights)
    assert len(config["model"]["weights"]["sha256"]) == len(config["model"]["fingerprint"]) == 64
    assert (config["recipe"]["dataset"], config["recipe"]["quantization"]) == ("digits", "own")
    (place.folder / weights).unlink()  # the run has weights of its own
    proven = place.run("verify", "--quiet", "--json", "--images", "60")
    assert proven.exit_code == 0, proven.output
    parity = json.loads(proven.stdout)
    assert [layer["mismatches"] for layer in parity["layers"]] == [0, 0] and parity["failures"] == []
    simulated = json.loads(place.run("simulate", "--quiet", "--json", "--images", "60", "--noise-ratio", "0.1").stdout)
    assert simulated["quantization"] == "own" and simulated["spikes_per_image"] > 0
    described = json.loads(place.run("info", "--json").stdout)
    assert described["model"]["factory"] == f"{place.module}:make" and described["state"] == "converted"
    assert f"factory: {place.module}:make" in place.run("info").stdout
    assert place.run("runs").exit_code == 0
    assert place.run("convert", "--run", "make-digits", "--quiet").exit_code == 0
    assert place.made == ["make-digits"]


def test_the_last_line_says_which_preprocessing_was_taken(place: Place) -> None:
    last = [
        place.convert("make", "net.pth", *more).stdout.splitlines()[-1]
        for more in ((), ("--mean", "0.2", "--sd", "0.3"))
    ]
    assert last == ["images: pixels / 255, no mean and sd (--mean, --sd)", "images: pixels / 255, mean 0.2, sd 0.3"]
    assert "images: " not in place.run("convert", "--quiet").stdout  # a run has it from its recipe


def test_a_signed_network_of_ones_own_is_split_at_once(place: Place) -> None:
    message = sentence(place.convert("make", "net.pth", "--split"))
    assert "nothing to split" in message and place.made == []


BAD: dict[str, tuple[Callable[[Place], Result], int, str]] = {
    "not written so": (lambda p: p.run("convert", "--model", "net", "--weights", "net.pth", "--data", "digits"), 1, "package.module:name"),
    "a file": (lambda p: p.run("convert", "--model", "nets/small.py:make", "--weights", "net.pth", "--data", "digits"), 1, "names a file: name its module, nets.small:make"),
    "no module": (lambda p: p.run("convert", "--model", "no.such:net", "--weights", "net.pth", "--data", "digits"), 1, "module no.such of factory no.such:net cannot be imported"),
    "no factory": (lambda p: p.convert("missing"), 1, "has no missing"),
    "not callable": (lambda p: p.convert("constant"), 1, "constant is a int, which cannot be called"),
    "fails": (lambda p: p.convert("fails"), 1, "fails when it is called without arguments (RuntimeError: no luck)"),
    "needs arguments": (lambda p: p.convert("needs"), 1, "give all of its arguments a default"),
    "gives nothing": (lambda p: p.convert("nothing"), 1, "gives a NoneType; a torch.nn.Module is needed"),
    "leaves": (lambda p: p.convert("leaves"), 1, "fails when it is called without arguments (SystemExit: 3)"),
    "lazy layers": (lambda p: p.convert("lazy"), 1, "gives a network whose fc.weight has no shape: run one image through it"),
    "float64": (lambda p: p.convert("double"), 1, "conv1.weight of Net is torch.float64 and the images are torch.float32: model.float()"),
    "called in the option": (lambda p: p.convert("make()"), 1, "make()' is not written as package.module:name"),
    "complex weights": (lambda p: p.convert("make", "complex.pth"), 1, "complex.pth holds fc.weight as torch.complex64, the network as torch.float32"),
    "integer weights": (lambda p: p.convert("make", "int8.pth"), 1, "int8.pth holds fc.weight as torch.int8, the network as torch.float32"),
    "float activations": (lambda p: p.convert("floats", "net.pth"), 1, "the network has no activation quantizer"),
    "other weights": (lambda p: p.convert("other"), 1, "net.safetensors is of another network: it lacks extra.bias, extra.weight"),
    "other shapes": (lambda p: p.convert("few", "net.pth"), 1, "fc.weight is [10, 200], expected [4, 200]"),
    "no weights": (lambda p: p.convert("make", "none.pth"), 1, "none.pth cannot be read: No such file"),
    "no safetensors": (lambda p: p.convert("make", "none.safetensors"), 1, "cannot be read as a safetensors file"),
    "damaged": (lambda p: p.convert("make", "damaged.pth"), 1, "cannot be read as a state_dict of tensors"),
    "damaged safetensors": (lambda p: p.convert("make", "damaged.safetensors"), 1, "cannot be read as a safetensors file"),
    "a whole model": (lambda p: p.convert("make", "model.pth"), 1, "cannot be read as a state_dict of tensors"),
    "a checkpoint": (lambda p: p.convert("make", "checkpoint.pth"), 1, "holds no plain state_dict, but epoch, state_dict"),
    "another image": (lambda p: p.convert("make", "net.pth", data="cifar10"), 1, "does not take an input of shape [2, 3, 32, 32]"),
    "colours": (lambda p: p.convert("colours", "colours.pth"), 1, "does not take an input of shape [2, 1, 28, 28]"),
    "classes": (lambda p: p.convert("few", "few.pth"), 1, "tells 4 classes apart; digits has 10"),
    "no data set": (lambda p: p.convert("make", "net.pth", data="pictures"), 1, "pictures"),
    "a crop too large": (lambda p: p.convert("make", "net.pth", "--crop", "40"), 1, "crop (= 40) is larger"),
    "an infinite divisor": (lambda p: p.convert("make", "net.pth", "--divisor", "inf"), 1, "must be a finite number above 0"),
    "no number as a mean": (lambda p: p.convert("make", "net.pth", "--mean", "nan", "--sd", "1"), 1, "must be finite numbers"),
    "a mean of three": (lambda p: p.convert("make", "net.pth", "--mean", "0,0,0", "--sd", "1,1,1"), 1, "of 3 channels, images of digits have 1"),
    "no divisor": (lambda p: p.convert("make", "net.pth", "--divisor", "0"), 1, "divisor (= 0.0) must be a finite number above 0"),
    "half of mean and sd": (lambda p: p.convert("make", "net.pth", "--mean", "0.5"), 1, "mean and sd go together"),
    "no numbers": (lambda p: p.convert("make", "net.pth", "--mean", "a,b"), 2, "no list of numbers"),
    "no --weights": (lambda p: p.run("convert", "--model", "a:b", "--data", "digits"), 2, "--model needs --weights FILE and --data SET"),
    "no --data": (lambda p: p.run("convert", "--model", "a:b", "--weights", "net.pth"), 2, "--model needs --weights FILE and --data SET"),
    "no --model": (lambda p: p.run("convert", "--weights", "net.pth"), 2, "--weights goes with --model"),
    "a crop without --model": (lambda p: p.run("convert", "--crop", "24"), 2, "--crop goes with --model"),
    "--run too": (lambda p: p.convert("make", "net.pth", "--run", "x"), 2, "give --model for a new run, or --run"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_nothing_is_written(place: Place, name: str) -> None:
    net = place.model("make")
    (place.folder / "damaged.pth").write_bytes((place.folder / "net.pth").read_bytes()[:500])
    (place.folder / "damaged.safetensors").write_bytes((place.folder / "net.safetensors").read_bytes()[:500])
    torch.save(nn.Linear(2, 2), place.folder / "model.pth")
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, place.folder / "checkpoint.pth")
    torch.save(place.model("few").state_dict(), place.folder / "few.pth")
    weights = net.state_dict() | {"conv1.weight": torch.rand(4, 3, 5, 5)}
    torch.save(weights, place.folder / "colours.pth")
    for dtype in (torch.complex64, torch.int8):
        changed = net.state_dict() | {"fc.weight": net.fc.weight.to(dtype)}
        torch.save(changed, place.folder / f"{str(dtype)[6:].removesuffix('64')}.pth")
    command, status, expected = BAD[name]
    assert expected in sentence(command(place), status)
    assert place.made == []


@pytest.mark.parametrize("command", ["verify", "convert"])
def test_a_factory_that_is_gone_or_makes_another_network_is_refused(place: Place, command: str) -> None:
    assert place.convert().exit_code == 0
    quiet = (command, "--run", "make-digits", "--quiet")
    place.write("# a remark\n" + NET)
    assert place.run(*quiet).exit_code == 0
    for old, new in (("KBQuantizer(1, 2)", "KBQuantizer(2, 1)"), ("F.relu(self.bn2", "F.relu6(self.bn2")):
        place.write(NET.replace(old, new))
        message = sentence(place.run(*quiet))
        assert f"factory {place.module}:make makes another network than when run make-digits was made" in message
    place.write(NET.replace("def make", "def renamed"))
    assert f"run make-digits needs its factory: factory {place.module}:make: " in sentence(place.run(*quiet))
    (place.folder / f"{place.module}.py").unlink()
    sys.modules.pop(place.module)
    assert f"module {place.module} of factory {place.module}:make cannot be imported" in sentence(place.run(*quiet))


def test_python_names_are_those_of_the_documentation() -> None:
    model, _ = made("tutorial")
    network = api.convert(model, torch.zeros(1, *SHAPE), api.Preprocessing())
    assert not api.verify(model, network, IMAGES).failures()

"""Networks as users write them: converted with equal counts in every unit, on every engine and from a file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from own_networks import IMAGES, NETWORKS, SHAPE, UNet, act, awake, made
from samples import PIXELS, TWTA, GridQuantizer, ann_codes, any_gamma, settled, ternary, wires
from test_counting import assert_counted, counted, operations
from torch import Tensor, nn
from torch.nn import functional as F

import snnconv as api
from snnconv.ann.quantizers import KBQuantizer
from snnconv.conversion.convert import convert
from snnconv.conversion.graph import fingerprint, trace
from snnconv.conversion.splitting import split_signs
from snnconv.conversion.verification import verify
from snnconv.data.preprocessing import prepare
from snnconv.engines.registry import choose_engine
from snnconv.formats.native import load, save
from snnconv.grids import Grid
from snnconv.snn.layers import Concat, MaxPool2d, Readout, SpikingLayer, Stage, ZeroPad2d, spiking_layer
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.noise_models import parse_noise
from snnconv.snn.simulation import simulate
from snnconv.snn.synapses import Conv2dSynapse, ConvTranspose2dSynapse

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


def test_an_image_of_one_row_and_a_sequence_are_told_apart_by_a_stage() -> None:
    _, network = made("sequence")
    encoder = network.layers["acts_0"]
    assert encoder.stages[0] == Stage(shape=(3, 1, 256))
    assert isinstance(encoder.stages[1].branch.synapse, Conv2dSynapse)
    assert isinstance(list(network.layers.values())[-1], Readout)


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


def test_python_names_are_those_of_the_documentation() -> None:
    model, _ = made("tutorial")
    network = api.convert(model, torch.zeros(1, *SHAPE), api.Preprocessing())
    assert not api.verify(model, network, IMAGES).failures()


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

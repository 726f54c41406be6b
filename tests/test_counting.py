"""Every convention of counting operations against loops over single connections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import conv, conv_connections, conv_operations, linear_operations
from samples import TWTA, random_network, ternary, wires
from torch import Tensor, nn

from snnconv.ann.models.networks import build_network
from snnconv.ann.quantizers import KBQuantizer, StairQuantizer
from snnconv.config import Quantization
from snnconv.conversion.convert import convert
from snnconv.engines.dense import DenseEngine
from snnconv.grids import Grid
from snnconv.snn.counting import CONVENTIONS, Counter, LayerCounts
from snnconv.snn.layers import Encoder, Flatten, Readout, SpikingLayer, SumPool2d
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.synapses import Conv2dSynapse, IdentitySynapse, LinearSynapse, Synapse

SHAPE = (2, 5, 6)

GEOMETRIES = st.tuples(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),  # kernel
    st.tuples(st.integers(1, 3), st.integers(1, 3)),  # stride
    st.tuples(*[st.integers(0, 2)] * 4),  # left, right, top, bottom
    st.tuples(st.integers(1, 2), st.integers(1, 2)),  # dilation
    st.sampled_from((1, 2)),  # groups
    st.integers(0, 10**6),
)


def images(seed: int, count: int = 3) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def counted(network: SpikingNetwork, *batches: Tensor) -> list[LayerCounts]:
    counter = Counter(network)
    with torch.no_grad():
        for batch in batches:
            network(batch, [counter.tap])
    rows = counter.layers()
    sops = {name: sum(row.sops[name] for row in rows if row.kind == "spiking") for name in CONVENTIONS}
    assert counter.totals() == (sum(row.spikes for row in rows), sops)
    return rows


def conv_synapse(geometry: tuple) -> Conv2dSynapse:
    kernel, stride, padding, dilation, groups, seed = geometry
    weight = torch.randint(-1, 2, (4, 4 // groups, *kernel), generator=torch.Generator().manual_seed(seed))
    return Conv2dSynapse(weight.to(torch.int8), stride, padding, dilation, groups)


def fits(geometry: tuple, height: int = 4, width: int = 5) -> bool:
    kernel, _, (left, right, top, bottom), dilation, _, _ = geometry
    return height + top + bottom > dilation[0] * (kernel[0] - 1) and width + left + right > dilation[1] * (
        kernel[1] - 1
    )


@settings(max_examples=80, deadline=None)
@given(GEOMETRIES)
def test_a_convolution_connects_what_the_loop_connects(geometry: tuple) -> None:
    if not fits(geometry):
        return
    synapse = conv_synapse(geometry)
    counts = torch.randint(-3, 4, (4, 4, 5), generator=torch.Generator().manual_seed(geometry[-1]))
    connections = (synapse.weight.numpy(), synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
    expected = conv(counts.numpy(), *connections)
    potential = synapse.potential(counts[None].double())[0]
    assert synapse.out_shape((4, 4, 5)) == tuple(potential.shape)
    for target in np.ndindex(*potential.shape):
        assert float(potential[target]) == expected.get(target, 0.0)
    for zeros in (False, True):
        fan_out = np.zeros((4, 4, 5), dtype=np.int64)
        for _, source, weight in conv_connections((4, 4, 5), *connections):
            fan_out[source] += bool(weight != 0 or zeros)
        assert synapse.fan_out((4, 4, 5), zeros).tolist() == fan_out.tolist()


def test_channels_read_in_another_order_keep_their_fan_out() -> None:
    weight = torch.tensor([1, 0, 1, 1], dtype=torch.int8).reshape(2, 2, 1, 1)
    synapse = Conv2dSynapse(weight, groups=2, channels=(2, 0, 3, 1))  # groups read channels (2, 0) and (3, 1)
    assert synapse.fan_out((4, 1, 1)).flatten().tolist() == [0, 1, 1, 1]
    assert synapse.potential(torch.tensor([1.0, 10, 100, 1000]).reshape(1, 4, 1, 1)).flatten().tolist() == [100, 1010]


def operations(synapse: Synapse, wire: Tensor, events: bool, zeros: bool) -> int:
    """Operations of a synapse over a batch of counts, by brute force."""
    weight, total = synapse.weight.numpy(), 0
    for image in wire.to(torch.int64).numpy():
        if isinstance(synapse, Conv2dSynapse):
            geometry = (synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
            total += conv_operations(image, weight, *geometry, events, zeros)
        elif isinstance(synapse, LinearSynapse):
            total += linear_operations(image, weight, events, zeros)
        else:
            assert isinstance(synapse, IdentitySynapse)
            total += int(np.minimum(np.abs(image), 1).sum() if events else np.abs(image).sum())
    return total


def passing(network: SpikingNetwork, sent: dict[str, Tensor], wire: str, events: bool) -> Tensor:
    """Spikes (or events) that pass each position of a wire, (N, ...); a sum-pool lets each one through by itself."""
    layer = network.layers[wire]
    if isinstance(layer, Flatten):
        return passing(network, sent, network.nodes[wire].inputs[0], events).flatten(1)
    if not isinstance(layer, SumPool2d):
        return (sent[wire] != 0).long() if events else sent[wire].long().abs()
    source = passing(network, sent, network.nodes[wire].inputs[0], events)
    (high, wide), (down, right) = layer.kernel, layer.stride
    left, end, top, bottom = layer.padding
    padded = torch.nn.functional.pad(source, (left, end, top, bottom))
    pooled = torch.zeros(sent[wire].shape, dtype=torch.int64)
    for row in range(pooled.shape[2]):
        for column in range(pooled.shape[3]):
            window = padded[:, :, row * down : row * down + high, column * right : column * right + wide]
            pooled[:, :, row, column] = window.sum((2, 3))
    return pooled


def test_spikes_of_opposite_sign_do_not_cancel_in_a_pool() -> None:
    model = nn.Sequential(StairQuantizer(TWTA), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(1, 3, bias=False)).eval()
    network = convert(model, torch.zeros(1, 1, 2, 2))
    counter = Counter(network)
    network(torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]), (counter.tap,))
    rows = counter.layers()
    assert (rows[0].positive, rows[0].negative, rows[0].events) == (2, 2, 4)
    assert rows[-1].sops["synops"] == rows[-1].sops["events"] == 4 * 3


def assert_counted(network: SpikingNetwork, x: Tensor) -> None:
    _, sent = wires(network, x)
    for row in counted(network, x):
        layer, inputs = network.layers[row.name], network.nodes[row.name].inputs
        if isinstance(layer, Encoder):
            assert row.kind == "encoder"
            assert set(row.sops.values()) == {0}
        else:
            pairs = list(zip((branch.synapse for branch in layer.branches), inputs, strict=True))
            spikes, graded = ({w: passing(network, sent, w, e) for w in inputs} for e in (False, True))
            synops, events = (sum(operations(s, of[w], False, False) for s, w in pairs) for of in (spikes, graded))
            fanout = sum(operations(s, spikes[w], False, True) for s, w in pairs)
            L = layer.grid.levels if isinstance(layer, SpikingLayer) else 1
            hidden = isinstance(layer, SpikingLayer)
            assert row.levels == L
            assert row.sops == {
                "synops": synops,
                "events": events,
                "fanout": fanout,
                "ladder": L * synops,
                "zou2021": 2 * L * fanout if hidden else 0,
            }
        if isinstance(layer, Readout):
            assert (row.kind, row.spikes, row.events) == ("readout", 0, 0)
        else:
            counts = sent[row.name].long()
            assert row.positive == int(counts[counts > 0].sum())
            assert row.negative == -int(counts[counts < 0].sum())
            assert row.spikes == int(counts.abs().sum())
            assert row.events == int((counts != 0).sum())
            assert row.units == counts[0].numel()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from((None, TWTA, Grid(1.0, 2, 1, (-0.3, 0.2, 0.9), (True,) * 3))))
def test_every_convention_is_the_brute_force_count(seed: int, grid: Grid | None) -> None:
    assert_counted(random_network(seed, grid, SHAPE), images(seed, 2))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(2, 4, 3, padding=1), ternary(nn.Conv2d(4, 4, 3, padding=1))
        self.act, self.last, self.out = KBQuantizer(1, 2), KBQuantizer(0, 2), nn.Linear(24, 3)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        return self.out(self.pool(self.last(self.conv(x) + x)).flatten(1))


def test_residual_sums_and_pools_are_counted_branch_by_branch() -> None:
    assert_counted(convert(Residual().eval(), images(0)[:1]), images(0))


@settings(max_examples=40, deadline=None)
@given(GEOMETRIES)
def test_an_all_ones_input_counts_the_taps_inside_the_border(geometry: tuple) -> None:
    if not fits(geometry):
        return
    synapse = conv_synapse(geometry)
    connections = (synapse.weight.numpy(), synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
    taps = sum(1 for _ in conv_connections((4, 4, 5), *connections))
    assert int(synapse.fan_out((4, 4, 5), zeros=True).sum()) == taps


def one_layer(readout: int = 2) -> SpikingNetwork:
    """Input codes -> 1C3, padding 1, weights all +1 but the centre 0 -> dense of ones and zeros."""
    model = nn.Sequential(
        KBQuantizer(0, 3), ternary(nn.Conv2d(1, 1, 3, padding=1, bias=False)), KBQuantizer(0, 20), nn.Flatten(),
        nn.Linear(9, readout, bias=False),
    )  # fmt: skip
    with torch.no_grad():
        model[1].parametrizations.weight.original.copy_(torch.tensor([[1.0, 1, 1], [1, 0, 1], [1, 1, 1]]))
        model[4].weight.copy_(torch.tensor([[1.0] * 9, [1.0] + [0.0] * 8]))
    return convert(model.eval(), torch.zeros(1, 1, 3, 3))


def test_a_case_that_can_be_checked_by_hand() -> None:
    # counts 2 . .   a corner reaches 2*2 outputs, an edge 2*3, the centre 3*3; the kernel's own centre is 0,
    #        . 3 .   so each loses one where zero weights do not count
    #        . . 1
    x = torch.tensor([[2.0, 0, 0], [0, 3, 0], [0, 0, 1]]).reshape(1, 1, 3, 3)
    encoder, conv_row, readout = counted(one_layer(), x)
    assert (encoder.spikes, encoder.events, encoder.units, encoder.levels) == (2 + 3 + 1, 3, 9, 3)
    assert conv_row.sops == {
        "synops": 2 * 3 + 3 * 8 + 1 * 3,
        "events": 3 + 8 + 3,
        "fanout": 2 * 4 + 3 * 9 + 1 * 4,
        "ladder": 20 * (2 * 3 + 3 * 8 + 1 * 3),
        "zou2021": 2 * 20 * (2 * 4 + 3 * 9 + 1 * 4),
    }
    # every output sums its neighbours: 3 5 3 / 5 3 4 / 3 4 3 without itself
    #   corners: 3, 3, 3 (+0), 3; edges beside the 2: 2+3 = 5, beside the 1: 1+3 = 4; centre: 2+1 = 3
    spikes = [3, 5, 3, 5, 3, 4, 3, 4, 3]
    assert conv_row.spikes == sum(spikes)
    assert conv_row.macs == 9 * 9
    # the first class hears all nine, the second the first alone
    assert readout.sops == {
        "synops": sum(spikes) + spikes[0],
        "events": 9 + 1,
        "fanout": 2 * sum(spikes),
        "ladder": sum(spikes) + spikes[0],
        "zou2021": 0,
    }


def test_no_spikes_in_no_operations() -> None:
    rows = counted(one_layer(), torch.zeros(4, 1, 3, 3))
    assert all(value == 0 for row in rows for value in row.sops.values())
    assert all(row.spikes == row.events == 0 for row in rows)


def test_tallies_add_up_over_batches_and_do_not_depend_on_them() -> None:
    network, x = random_network(7, shape=SHAPE), images(7, 6)
    whole = counted(network, x)
    assert counted(network, *x.split(1)) == whole
    assert counted(network, *x.split(4)) == whole
    twice = counted(network, x, x)
    for row, double in zip(whole, twice, strict=True):
        assert (double.positive, double.events) == (2 * row.positive, 2 * row.events)
        assert double.sops == {name: 2 * value for name, value in row.sops.items()}
        assert (double.units, double.macs) == (row.units, row.macs)


@pytest.mark.parametrize("grid", [None, TWTA])
def test_tallies_do_not_depend_on_the_engine(grid: Grid | None) -> None:
    network, x = random_network(8, grid, SHAPE), images(8, 5)
    counter = Counter(network)
    DenseEngine(network).run(x, (counter.tap,))
    assert counter.layers() == counted(network, x)


def test_a_counter_changes_nothing_and_leaves_nothing_on_the_network() -> None:
    network, x = random_network(9, shape=SHAPE), images(9)
    before, attributes = network(x), set(vars(network))
    counter = Counter(network)
    assert torch.equal(network(x, [counter.tap]), before)
    assert set(vars(network)) == attributes


def test_multiply_accumulates_of_the_published_lenet() -> None:
    network = convert(
        build_network("lenet", (1, 28, 28), 10, Quantization.parse("k0B1")).eval(), torch.zeros(1, 1, 28, 28)
    )
    rows = Counter(network).layers()
    assert [row.kind for row in rows] == ["encoder"] + ["spiking"] * 5 + ["readout"]
    assert sum(row.macs for row in rows if row.kind == "spiking") == 4_849_664
    assert sum(row.units for row in rows if row.kind != "readout") == 26_880
    assert rows[0].macs == 28 * 28 * 16 * 25  # border included
    assert rows[-1].macs == 256 * 10


def test_each_layer_of_an_encoder_has_the_macs_of_its_own_size() -> None:
    layers = [nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2, stride=2), nn.Flatten(), nn.Linear(16, 7)]
    model = nn.Sequential(*layers, KBQuantizer(1, 1), nn.Linear(7, 2)).eval()
    rows = Counter(convert(model, torch.zeros(1, 2, 4, 4))).layers()
    assert rows[0].macs == (3 * 4 * 4) * (2 * 9) + (4 * 2 * 2) * (3 * 4) + 7 * 16


def test_conventions_are_the_documented_ones() -> None:
    assert list(CONVENTIONS) == ["synops", "events", "fanout", "ladder", "zou2021"]

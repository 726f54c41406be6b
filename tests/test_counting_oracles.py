"""Our counts beside those of NeuroBench 2.3 (extra ``counters``) and SpikingJelly 2.0: where they agree, and why not.

A padded 3x3 convolution and one of stride 2 in 2 groups, 8 to 16 channels, on 4 images of 12 x 12: of binary spikes at
rate 0.2, of the same spikes scaled, with signs, and graded.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import conv_operations
from samples import GridQuantizer, any_gamma, settled, ternary, wires
from torch import Tensor, nn

from snnconv.ann.quantizers import KBQuantizer
from snnconv.conversion.convert import convert
from snnconv.grids import Grid
from snnconv.snn.counting import Counter, LayerCounts
from snnconv.snn.layers import Branch, Encoder, Readout, SpikingConv2d, Stage
from snnconv.snn.network import Header, Node, SpikingNetwork
from snnconv.snn.operations import Effective, effective_operations, rate_operations
from snnconv.snn.synapses import Conv2dSynapse, IdentitySynapse, LinearSynapse

GEOMETRIES = {"padded": {"padding": 1}, "strided": {"padding": 1, "stride": 2, "groups": 2}}
SEEDS = {"padded": 238, "strided": 288}
FIGURES = {"padded": 116_384, "strided": 14_464}
"""Accumulations of each, as counted by hand and by the tools that are right on binary spikes."""


def spikes(kind: str) -> Tensor:
    """Binary spikes (4, 8, 12, 12) at rate 0.2."""
    draw = torch.Generator().manual_seed(SEEDS[kind])
    return (torch.rand(4, 8, 12, 12, generator=draw) < 0.2).float()


def signed(x: Tensor) -> Tensor:
    """The same spikes, half of them below zero."""
    return x * torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5, -1.0, 1.0)


def graded(x: Tensor) -> Tensor:
    """The same spikes as counts of 1 to 3."""
    return x * torch.randint(1, 4, x.shape, generator=torch.Generator().manual_seed(2))


def layer(kind: str, zeros: bool = False) -> nn.Conv2d:
    """The convolution, weights of -1 and 1; with ``zeros`` a third of them 0."""
    conv = nn.Conv2d(8, 16, 3, bias=False, **GEOMETRIES[kind])
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        signs = torch.randint(0, 2, conv.weight.shape, generator=draw) * 2 - 1.0
        kept = torch.rand(conv.weight.shape, generator=draw) > 1 / 3 if zeros else 1
        conv.weight.copy_(signs * kept)
    return conv


def ours(conv: nn.Conv2d, values: Tensor, low: int, high: int, step: float = 1.0) -> LayerCounts:
    """Our row of the layer, whose encoder sends its input divided by the step."""
    boundaries = tuple((level + 0.5) * step for level in range(low, high))
    grid = Grid(step, high, -low, boundaries, (True,) * (high - low))
    ones = IdentitySynapse(torch.ones(8, 1, dtype=torch.int8))
    encoder = Encoder([Stage(Branch(ones, torch.ones(8), torch.zeros(8)))], grid)
    (top, left), stride, groups = conv.padding, conv.stride, conv.groups
    synapse = Conv2dSynapse(conv.weight.detach().to(torch.int8), stride, (left, left, top, top), groups=groups)
    unit = Grid(1.0, 1, 0, (0.5,), (True,))
    spiking = SpikingConv2d([Branch(synapse, torch.full((16,), step), torch.zeros(16))], unit, [max(high, -low)])
    shape = tuple(conv(values).shape[1:])
    flat = Readout([Branch(Conv2dSynapse(torch.ones(1, 16, *shape[1:])), torch.ones(1), torch.zeros(1))])
    nodes = {"in": Node(("input",), (8, 12, 12)), "conv": Node(("in",), shape), "out": Node(("conv",), (1, 1, 1))}
    network = SpikingNetwork({"in": encoder, "conv": spiking, "out": flat}, nodes, Header((8, 12, 12)))
    counter = Counter(network)
    with torch.no_grad():
        network(values, [counter.tap])
    assert torch.equal(wires(network, values)[1]["in"].float(), (values / step).round())
    return counter.layers()[1]


def brute(conv: nn.Conv2d, counts: Tensor, events: bool = False, zeros: bool = False) -> int:
    left = conv.padding[0]
    geometry = (conv.stride, (left,) * 4, conv.dilation, conv.groups)
    weight = conv.weight.detach().numpy()
    return sum(conv_operations(image, weight, *geometry, events, zeros) for image in counts.numpy().astype(np.int64))


def spikingjelly(module: nn.Module, x: Tensor) -> int:
    op_counter = pytest.importorskip("spikingjelly.activation_based.op_counter")
    counter = op_counter.SynOpCounter()
    with torch.no_grad(), op_counter.DispatchCounterMode([counter]):
        module(x)
    return int(counter.get_total())


def neurobench(module: nn.Module, x: Tensor) -> Effective:
    """Effective ACs and MACs of a batch, of all layers."""
    workload = pytest.importorskip("neurobench.metrics.workload", reason="the extra `counters` is not installed")
    models = pytest.importorskip("neurobench.models")
    model = models.TorchModel(nn.Sequential(module))
    model.register_hooks()
    metric = workload.SynapticOperations()
    with torch.no_grad():
        counted = metric(model, model(x), (x, None))
    model.cleanup_hooks()
    return Effective(round(counted["Effective_ACs"] * len(x)), round(counted["Effective_MACs"] * len(x)))


@pytest.mark.parametrize("kind", list(GEOMETRIES))
def test_the_exact_figures_of_binary_spikes(kind: str) -> None:
    conv, x = layer(kind), spikes(kind)
    row = ours(conv, x, 0, 1)
    assert brute(conv, x) == FIGURES[kind]
    for convention in ("synops", "events", "fanout", "ladder"):  # one level, no weight of 0: all the same
        assert row.sops[convention] == FIGURES[kind]
    assert row.sops["zou2021"] == 2 * FIGURES[kind]
    assert effective_operations(row) == Effective(FIGURES[kind], 0)


@pytest.mark.parametrize("kind", list(GEOMETRIES))
def test_the_formula_of_rates_ignores_the_border(kind: str) -> None:
    conv, x = layer(kind), spikes(kind)
    dense = conv(x)[0].numel() * conv.weight[0].numel()
    assert rate_operations(ours(conv, x, 0, 1)) == pytest.approx(dense * float(x.mean()) * len(x))
    excess = rate_operations(ours(conv, x, 0, 1)) / FIGURES[kind]
    assert excess == pytest.approx(1.12, abs=0.02)  # 9 taps everywhere, where the border leaves 8.03 and 2.25 2.01


@pytest.mark.parametrize("kind", list(GEOMETRIES))
def test_both_tools_agree_on_binary_spikes(kind: str) -> None:
    conv, x = layer(kind), spikes(kind)
    assert spikingjelly(conv, x) == FIGURES[kind]
    assert neurobench(conv, x) == Effective(FIGURES[kind], 0)


@pytest.mark.parametrize("kind", list(GEOMETRIES))
def test_weights_of_zero_are_counted_by_spikingjelly_and_not_by_neurobench(kind: str) -> None:
    conv, x = layer(kind, zeros=True), spikes(kind)
    row = ours(conv, x, 0, 1)
    assert row.sops["synops"] == brute(conv, x) < FIGURES[kind]
    assert row.sops["fanout"] == spikingjelly(conv, x) == FIGURES[kind]
    assert effective_operations(row) == neurobench(conv, x) == Effective(row.sops["synops"], 0)


@pytest.mark.parametrize("kind", list(GEOMETRIES))
def test_scaled_spikes_are_no_spikes_to_either_tool(kind: str) -> None:
    conv, x = layer(kind), spikes(kind)
    assert spikingjelly(conv, 0.37 * x) == 0  # an output scaler of 0.37 makes a tensor non-binary
    assert neurobench(conv, 0.37 * x) == Effective(0, FIGURES[kind])
    row = ours(conv, 0.37 * x, 0, 1, step=0.37)  # our wires carry counts, the scale lies in the layer
    assert row.sops["synops"] == brute(conv, x) == FIGURES[kind]


@pytest.mark.parametrize("kind", list(GEOMETRIES))
def test_signed_spikes(kind: str) -> None:
    conv, x = layer(kind), signed(spikes(kind))
    row = ours(conv, x, -1, 1)
    assert row.sops["synops"] == brute(conv, x) == FIGURES[kind]
    assert effective_operations(row) == neurobench(conv, x) == Effective(FIGURES[kind], 0)
    assert spikingjelly(conv, x) == 0


@pytest.mark.parametrize("kind", list(GEOMETRIES))
def test_graded_counts(kind: str) -> None:
    conv, x = layer(kind), graded(spikes(kind))
    row = ours(conv, x, 0, 3)
    assert row.sops["synops"] == brute(conv, x) > FIGURES[kind]
    assert row.sops["events"] == brute(conv, x, events=True) == FIGURES[kind]
    assert effective_operations(row) == neurobench(conv, x) == Effective(0, FIGURES[kind])
    assert spikingjelly(conv, x) == 0


def test_neurobench_looks_at_values_where_we_know_the_wire() -> None:
    conv, x = layer("padded"), spikes("padded")  # counts of up to 3 are possible, none is there
    assert neurobench(conv, x) == Effective(FIGURES["padded"], 0)
    assert effective_operations(ours(conv, x, 0, 3)) == Effective(0, FIGURES["padded"])


@pytest.mark.parametrize("grid", [None, Grid(1.0, 1, 1, (-0.5, 0.5), (False, True))], ids=["binary", "ternary"])
def test_a_whole_network_layer_by_layer(grid: Grid | None) -> None:
    """The quantized ANN whose codes are the counts, under both tools; encoder and readout aside."""
    torch.manual_seed(0)

    def act() -> nn.Module:
        return KBQuantizer(0, 1) if grid is None else GridQuantizer(grid)

    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), any_gamma(nn.BatchNorm2d(4)), act(),
        ternary(nn.Conv2d(4, 6, 3, 2, (1, 0), bias=False)), any_gamma(nn.BatchNorm2d(6), 1), act(),
        ternary(nn.Conv2d(6, 6, 2, groups=2, bias=False)), any_gamma(nn.BatchNorm2d(6), 2), act(),
        nn.Flatten(), nn.Linear(6 * 4 * 2, 3),
    )  # fmt: skip
    x = torch.rand(3, 1, 12, 10, generator=torch.Generator().manual_seed(0))
    network = convert(settled(model, x), x[:1])
    _, sent = wires(network, x)
    counter = Counter(network)
    network(x, [counter.tap])
    rows = [row for row in counter.layers() if row.kind != "encoder"]
    for row in rows:
        (branch,) = network.layers[row.name].branches
        plain = _plain(branch.synapse)
        (wire,) = network.nodes[row.name].inputs
        counts = sent[wire].float()
        assert effective_operations(row) == neurobench(plain, counts)
        assert row.sops["synops"] == row.sops["events"] == effective_operations(row).acs > 0
        assert spikingjelly(plain, counts) == (row.sops["fanout"] if grid is None else 0)


def _plain(synapse: nn.Module) -> nn.Module:
    """A synapse as torch's own layer."""
    plain: nn.Module
    if isinstance(synapse, LinearSynapse):
        plain = nn.Linear(synapse.weight.shape[1], synapse.out_channels, bias=False)
    else:
        assert isinstance(synapse, Conv2dSynapse)
        left, right, top, bottom = synapse.padding
        assert (left, top) == (right, bottom)
        plain = nn.Conv2d(
            synapse.weight.shape[1] * synapse.groups, synapse.out_channels, synapse.weight.shape[2:],
            synapse.stride, (top, left), synapse.dilation, synapse.groups, bias=False,
        )  # fmt: skip
    plain.weight = nn.Parameter(synapse.weight.float())
    return plain

"""Single layers: representative ones on counts of a set density, and each way to run a layer as a call."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from benchmarks.folded import GRAPHS
from benchmarks.rounds import quickest
from snnconv.ann.quantizers import KBQuantizer
from snnconv.ann.weights import TernaryWeight
from snnconv.conversion.convert import convert
from snnconv.engines.layered import Step
from snnconv.engines.registry import AutoEngine
from snnconv.errors import ParityError
from snnconv.snn.layers import Encoder, Readout, SpikingLayer
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.synapses import Conv2dSynapse, LinearSynapse, Synapse

SHAPES = ((64, 24), (128, 12), (256, 6), (512, 3))
"""Channels and side of the representative 3x3 convolutions, those of VGG; they keep the side."""
BOUNDS = {1: (0, 1), 2: (0, 2), 4: (1, 2), 8: (1, 4)}
"""L to the (k, B) of its grid."""
FLOAT = "fp32"
"""The layer of the ANN: convolution with folded batch norm, and ReLU."""

Call = Callable[[], Tensor]


def representative(channels: int, side: int, levels: int) -> tuple[AutoEngine, str]:
    """A 3x3 ternary layer in a small network, as an engine with its ways, and its name; weights drawn.

    Args:
        channels: Channels that come in and go out.
        side: Side of its images.
        levels: L of the counts that come in and go out, a key of ``BOUNDS``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        parametrize.register_parametrization(conv, "weight", TernaryWeight())
        hidden = nn.Sequential(conv, nn.BatchNorm2d(channels, momentum=None))
        k, bound = BOUNDS[levels]
        with torch.no_grad():
            hidden(random_counts(16, (channels, side, side), levels, 0.3).float() * 2.0**-k)
        layers: OrderedDict[str, nn.Module] = OrderedDict(encode=nn.Conv2d(1, channels, 1), first=KBQuantizer(k, bound))
        layers |= {"hidden": hidden, "act": KBQuantizer(k, bound), "flatten": nn.Flatten()}
        layers["readout"] = nn.Linear(channels * side * side, 2)
        network = convert(nn.Sequential(layers).eval(), torch.zeros(1, 1, side, side))
    name = next(name for name, layer in network.layers.items() if isinstance(layer, SpikingLayer))
    return AutoEngine(network), name


def random_counts(images: int, shape: tuple[int, ...], levels: int, density: float) -> Tensor:
    """Counts of which a share ``density`` are drawn from 1..levels and the others are 0; int8, channels last."""
    draws = torch.Generator().manual_seed(1)
    counts = torch.randint(1, levels + 1, (images, *shape), generator=draws, dtype=torch.int8)
    counts *= torch.rand(images, *shape, generator=draws) < density
    return counts.contiguous(memory_format=torch.channels_last)


def ways(engine: AutoEngine, name: str, example: Sequence[Tensor]) -> dict[str, Step]:
    """Each way to run a layer, by its engine, and ``fp32`` where one layer of the ANN does the same.

    Args:
        engine: Has the layer's network.
        name: The layer.
        example: What its wires carry; on it the fastest form of the ANN's layer is found.
    """
    found = {way.engine: way for way in engine.ways(name)}
    layer = FloatLayer.of(engine.network, name)
    if layer is not None:
        found[FLOAT] = Step(FLOAT, _fastest(layer, example[0].float()), torch.float32)
    return found


@torch.inference_mode()
def calls(steps: Mapping[str, Step], wires: Sequence[Tensor]) -> dict[str, Call]:
    """Each way as a call on what the wires carry, once called already.

    Counts are of the type that a way takes beforehand, as a network of that way alone would send them.

    Raises:
        ParityError: two ways give different counts.
    """
    ready: dict[str, Call] = {}
    first: Tensor | None = None
    for name, step in steps.items():
        taken = [wire if step.accepts is None else wire.to(step.accepts) for wire in wires]
        ready[name] = torch.inference_mode()(partial(step.run, *taken))
        sent = ready[name]()
        if name != FLOAT:
            first = sent if first is None else first
            if not torch.equal(sent.double(), first.double()):
                raise ParityError(f"{name} counts differently from {next(iter(steps))} in a single layer")
    return ready


class FloatLayer(nn.Module):
    """What the ANN computes in place of a layer with one branch, in float32.

    Args:
        synapse: The linear map.
        scale: What each output channel is multiplied by.
        offset: What is added to it.
        rectifies: Whether a ReLU follows.
    """

    def __init__(self, synapse: Synapse, scale: Tensor, offset: Tensor, rectifies: bool) -> None:
        super().__init__()
        weight = synapse.weight.double() * scale.reshape(-1, *[1] * (synapse.weight.ndim - 1))
        layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
        self.weight = nn.Parameter(weight.float().contiguous(memory_format=layout), requires_grad=False)
        self.bias = nn.Parameter(offset.float(), requires_grad=False)
        self.synapse, self.rectifies = synapse, rectifies

    @classmethod
    def of(cls, network: SpikingNetwork, name: str) -> FloatLayer | None:
        """Of a layer of a network; None where it is a sum of several, or has no weights."""
        layer = network.layers[name]
        if not isinstance(layer, Encoder | SpikingLayer | Readout) or len(layer.branches) != 1:
            return None
        branch = layer.branches[0]
        if not isinstance(branch.synapse, Conv2dSynapse | LinearSynapse):
            return None
        rectifies = not isinstance(layer, Readout)
        return cls(branch.synapse, branch.scale / branch.divisor, branch.offset, rectifies).eval()

    def forward(self, x: Tensor) -> Tensor:
        value = self.synapse.connect(x, self.weight, self.bias)
        return functional.relu_(value) if self.rectifies else value


def macs(engine: AutoEngine, name: str) -> int:
    """Multiply-accumulates of a layer with one branch, for one image."""
    node, layer = engine.network.nodes[name], engine.network.layers[name]
    assert isinstance(layer, SpikingLayer)
    return math.prod(node.shape) * layer.branches[0].synapse.fan_in


@torch.inference_mode()
def _fastest(layer: FloatLayer, x: Tensor) -> nn.Module:
    forms = {name: make(layer, x) for name, make in GRAPHS.items()}
    name, _ = quickest({name: partial(form, x) for name, form in forms.items()})
    return forms[name]

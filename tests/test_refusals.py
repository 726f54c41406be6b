"""Networks whose values are no counts are refused with where, why and what to do; and none that converts is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import any_gamma, assert_counts_are_codes, settled, ternary
from test_cli import sentence, snnconv
from torch import Tensor, nn
from torch.nn import functional as F

from snnconv.ann.checkpoints import save_ann
from snnconv.ann.models.networks import build_network
from snnconv.ann.quantizers import KBQuantizer
from snnconv.ann.training import network_for
from snnconv.config import SCHEMES, Quantization, change_recipe, load_recipe
from snnconv.conversion import convert as conversion
from snnconv.conversion.convert import convert
from snnconv.errors import ConversionError
from snnconv.runs import ANN, create_run

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 0.5
SMALL = {"resnet20tnn": 19, "resnet18sttn-small": 33}
"""Activations of a network whose activations are all float."""


def refused(model: nn.Module, x: Tensor = X) -> str:
    with pytest.raises(ConversionError) as error:
        convert(model.eval(), x)
    assert "\n" not in str(error.value), "a message is one sentence"
    return str(error.value)


def registered(name: str, quantization: str) -> nn.Module:
    return build_network(name, (3, 32, 32), 10, Quantization.parse(quantization))


# ------------------------------------------------------------------------------- float activations


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("quantization", ["fp32", "relu", "relu-t2"])
def test_float_activations_are_refused_with_their_places_and_the_remedy(name: str, quantization: str) -> None:
    message = refused(registered(name, quantization), torch.zeros(1, 3, 32, 32))
    first = "ReLU at conv1.act, ReLU at stage1.block1.body.conv1.act"
    if "sttn" in name:
        first = "PReLU at conv1.act, ReLU at stage1.block1.body.pre_act"
    assert f"its activations are float ({first} and {SMALL[name] - 2} more)" in message
    assert "a float is no count of spikes" in message
    assert "quantization k1B2" in message and "snnconv train RECIPE --k 1 --B 2" in message and "KBQuantizer" in message


class Squashed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.readout = Squashed(), nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(F.leaky_relu(self.block(x)).flatten(1))


def test_float_activations_that_are_functions_are_named_by_their_node_and_the_module_that_calls_them() -> None:
    message = refused(Functions())
    assert "float (sigmoid at sigmoid in block, leaky_relu at leaky_relu)" in message


def test_a_network_without_activations_has_no_quantizer_either() -> None:
    message = refused(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
    assert "no activation quantizer: it has no activations at all" in message


def test_a_quantizer_that_the_forward_never_calls_is_none() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))
    model[1].unused = KBQuantizer(1, 2)
    assert "ReLU at 2" in refused(model)


# ------------------------------------------------------------------------ streams around quantizers


@pytest.mark.parametrize("quantization", ["sttn", "k1B2", "twta"])
def test_sttn_as_published_is_refused_with_fork_quantizer_sum_and_remedy(quantization: str) -> None:
    message = refused(registered("resnet18sttn-small", quantization), torch.zeros(1, 3, 32, 32))
    assert "the stream forks at conv1.act: one way leads through quantizer stage1.block1.body.pre_act" in message
    assert "carries unquantized values around it to the sum add in stage1.block1" in message
    assert "a spiking network sends counts only" in message
    assert "quantize the stream in front of the fork, so after every sum" in message
    assert "sttn-k1B4" in message and "KBQuantizer" in message


def conv(inputs: int = 4) -> nn.Module:
    return ternary(nn.Conv2d(inputs, 4, 3, padding=1))


class Stream(nn.Module):
    """A stem, then ``between``, then a block whose shortcut passes a quantizer."""

    def __init__(self, stem: list[nn.Module], shortcut: nn.Module) -> None:
        super().__init__()
        self.stem, self.shortcut = nn.Sequential(*stem), shortcut
        self.norm, self.inner, self.conv = any_gamma(nn.BatchNorm2d(4)), KBQuantizer(1, 2), conv()
        self.last, self.readout = KBQuantizer(1, 2), nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(self.inner(self.norm(x))) + self.shortcut(x)
        return self.readout(self.last(y).flatten(1))


def analog() -> list[nn.Module]:
    return [nn.Conv2d(3, 4, 3, padding=1), any_gamma(nn.BatchNorm2d(4), 1)]


def quantized() -> list[nn.Module]:
    return [*analog(), KBQuantizer(1, 2)]


ROUND: dict[str, tuple[Callable[[], list[nn.Module]], Callable[[], nn.Module], str]] = {
    "analog values of the encoder": (analog, nn.Identity, "stem.1"),
    "an activation of the encoder": (lambda: [*analog(), nn.ReLU()], nn.Identity, "stem.2"),
    "an activation of a unit": (lambda: [*quantized(), conv(), nn.Hardtanh(-1, 1)], nn.Identity, "stem.4"),
    "a slope of counts": (lambda: [*quantized(), nn.PReLU()], nn.Identity, "stem.3"),
    "an activation on the shortcut": (lambda: [*quantized(), conv()], nn.ReLU, "stem.3"),
    "a convolution of a unit's value": (lambda: [*quantized(), conv()], conv, "stem.3"),
    "a pool of an activation": (
        lambda: [*quantized(), conv(), nn.ReLU()],
        lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1)),
        "stem.4",
    ),
}


@pytest.mark.parametrize("name", ROUND)
def test_an_unquantized_stream_around_a_quantizer_is_refused_at_its_fork(name: str) -> None:
    stem, shortcut, fork = ROUND[name]
    message = refused(Stream(stem(), shortcut()))
    assert f"forks at {fork}: one way leads through quantizer inner, " in message
    assert "to the sum add, and" in message


def test_a_fork_at_the_input_is_called_the_input() -> None:
    class FromInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.conv, self.readout = KBQuantizer(1, 2), conv(3), nn.Linear(256, 3)
            self.pixels = nn.Conv2d(3, 4, 1)

        def forward(self, image: Tensor) -> Tensor:
            return self.readout((self.conv(self.act(image)) + self.pixels(image)).flatten(1))

    assert "forks at the input (image): one way leads through quantizer act" in refused(FromInput())


CONVERTS: dict[str, tuple[Callable[[], list[nn.Module]], Callable[[], nn.Module]]] = {
    "counts": (quantized, nn.Identity),
    "a unit's value": (lambda: [*quantized(), conv()], nn.Identity),
    "a normed unit's value": (lambda: [*quantized(), conv()], lambda: any_gamma(nn.BatchNorm2d(4), 2)),
    "a convolution of counts": (quantized, conv),
    "a pool of counts": (quantized, lambda: nn.MaxPool2d(3, 1, 1)),
    "a relu of counts": (quantized, nn.ReLU),
}


@pytest.mark.parametrize("name", CONVERTS)
def test_counts_and_linear_maps_of_them_may_pass_a_quantizer(name: str) -> None:
    stem, shortcut = CONVERTS[name]
    model = settled(Stream(stem(), shortcut()), X)
    assert_counts_are_codes(model, convert(model, X[:1]), X)


def test_a_layer_without_a_rule_is_named_before_the_stream() -> None:
    assert "layer stem.2 (Softplus) cannot be converted" in refused(Stream([*analog(), nn.Softplus()], nn.Identity()))


class Block(nn.Module):
    """A pre-activation block."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.conv = KBQuantizer(1, 2), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(x)) + x


class Tangle(nn.Module):
    """A random graph of sums, convolutions, norms, activations and quantizers on images of one shape."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.stem = KBQuantizer(1, 2) if rng.random() < 0.8 else nn.Conv2d(4, 4, 3, padding=1)
        self.layers, self.reads = nn.ModuleList(), []
        for values in range(1, rng.randint(4, 10)):
            layer = rng.choice(STEPS)()
            self.layers.append(layer)
            recent = [rng.randrange(max(0, values - 3), values) for _ in range(2)]
            self.reads.append(recent if isinstance(layer, nn.Identity) else recent[:1])
        self.last, self.readout = KBQuantizer(1, 2), nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.stem(x)]
        for layer, reads in zip(self.layers, self.reads, strict=True):
            read = [values[place] for place in reads]
            values.append(layer(read[0]) if len(read) == 1 else read[0] + read[1])
        return self.readout(self.last(values[-1]).flatten(1))


STEPS: list[Callable[[], nn.Module]] = [
    *[nn.Identity] * 4,  # a sum
    *[lambda: KBQuantizer(1, 2)] * 3,
    *[conv] * 3,
    *[Block] * 3,
    *(nn.ReLU, nn.PReLU, lambda: nn.Hardtanh(-1, 1), lambda: nn.MaxPool2d(3, 1, 1), lambda: nn.BatchNorm2d(4)),
]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9))
def test_what_the_rules_convert_is_never_refused_for_its_stream(seed: int) -> None:
    model = Tangle(seed).eval()
    x = torch.zeros(1, 4, 8, 8)
    with mock.patch.object(conversion, "refuse_stream_around_quantizer"):
        try:
            convert(model, x)
        except ConversionError:
            return
    convert(model, x)


def test_the_tangles_convert_and_are_refused_for_their_stream_often_enough() -> None:
    outcomes = {"converted": 0, "stream": 0}
    for seed in range(200):
        try:
            convert(Tangle(seed).eval(), torch.zeros(1, 4, 8, 8))
            outcomes["converted"] += 1
        except ConversionError as error:
            outcomes["stream"] += "the stream forks" in str(error)
    assert min(outcomes.values()) > 10, outcomes


# --------------------------------------------------------------------------------- the command line


def untrained(runs_dir: Path, recipe: str, quantization: str) -> str:
    """A run with the weights a training would start from."""
    changed = change_recipe(load_recipe(recipe), {"quantization": quantization, "name": f"run-{quantization}"})
    run = create_run(runs_dir, changed, seed=0)
    save_ann(run.file(ANN), network_for(changed), changed)
    return run.name


REFUSED = {
    "fp32": "its activations are float",
    "relu": "its activations are float",
    "sttn": "the stream forks at conv1.act",
}


@pytest.mark.parametrize("quantization", [*SCHEMES, "sttn-k1B4"])
def test_every_scheme_converts_from_the_command_line_or_says_in_a_sentence_why_not(
    tmp_path: Path, quantization: str
) -> None:
    stream = quantization.startswith("sttn")
    recipe = "resnet18sttn-small-cifar10-sttn" if stream else "lenet-digits-k1B2"
    result = snnconv(
        "convert", "--quiet", "--json", "--run", untrained(tmp_path / "runs", recipe, quantization), cwd=tmp_path
    )
    if quantization in REFUSED:
        assert REFUSED[quantization] in sentence(result)
        assert not list(tmp_path.rglob("network.safetensors"))
    else:
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["layers"]

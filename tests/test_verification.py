"""The proof: it holds on a good network, and the smallest damage anywhere makes it fail by name."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from samples import PIXELS, ann_codes, any_gamma, random_ann, random_images, settled, ternary
from torch import Tensor, nn

from snnconv.ann.quantizers import KBQuantizer
from snnconv.conversion.convert import convert
from snnconv.conversion.verification import LayerParity, Parity, verify
from snnconv.data.images import Images
from snnconv.engines.dense import DenseEngine
from snnconv.errors import ConversionError
from snnconv.snn.layers import Encoder, Readout, SpikingLayer
from snnconv.snn.network import SpikingNetwork

SHAPE = (2, 6, 6)
IMAGES = random_images(40, SHAPE)
X = IMAGES.pixels / 255.0


def act() -> KBQuantizer:
    return KBQuantizer(1, 2)


class Ann(nn.Module):
    """Encoder, conv, pool, residual sum, dense, readout: every kind of unit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), act())
        self.conv = nn.Sequential(ternary(nn.Conv2d(4, 4, 3, padding=1)), any_gamma(nn.BatchNorm2d(4), 1), act())
        self.pool = nn.AvgPool2d(2)
        self.branch = nn.Sequential(ternary(nn.Conv2d(4, 4, 3, padding=1)), any_gamma(nn.BatchNorm2d(4), 2))
        self.sum_act = act()
        self.dense = nn.Sequential(ternary(nn.Linear(36, 8)), any_gamma(nn.BatchNorm1d(8), 3), act())
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv(self.stem(x)))
        x = self.sum_act(self.branch(x) + x)
        return self.out(self.dense(x.flatten(1)))


@pytest.fixture
def ann() -> nn.Module:
    torch.manual_seed(0)
    model = settled(Ann(), X)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.weight[layer.weight == 0] = 0.7  # every channel counts
    return model


@pytest.fixture
def network(ann: nn.Module) -> SpikingNetwork:
    return convert(ann, X[:1], PIXELS)


def layers_with(network: SpikingNetwork, kind: type) -> list[str]:
    return [name for name, layer in network.layers.items() if isinstance(layer, kind)]


def test_a_good_network_passes(ann: nn.Module, network: SpikingNetwork) -> None:
    parity = verify(ann, network, IMAGES)
    assert parity.failures() == []
    assert (parity.images, parity.predictions_equal, parity.logits_equal) == (40, 40, 40)
    assert [layer.name for layer in parity.layers] == [name for name, _ in network.units()]
    assert [layer.units for layer in parity.layers] == [40 * 4 * 36, 40 * 4 * 36, 40 * 4 * 9, 40 * 8]
    assert all(layer.mismatches == 0 and 0 < layer.inside_grid < 1 and 0 < layer.rate < 1 for layer in parity.layers)
    logits, _ = ann_codes(ann, (IMAGES.pixels.double() / 255).float())
    assert parity.ann_correct == int((logits.argmax(1) == IMAGES.labels).sum())


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_pass(seed: int) -> None:
    model = random_ann(seed, SHAPE)
    parity = verify(model, convert(model, X[:1], PIXELS), IMAGES)
    assert [
        sentence for sentence in parity.failures() if "silent" not in sentence and "saturated" not in sentence
    ] == []


def test_the_engine_is_verified_end_to_end(ann: nn.Module, network: SpikingNetwork) -> None:
    assert verify(ann, network, IMAGES, DenseEngine(network)).failures() == []

    class Broken(DenseEngine):
        def run(self, x: Tensor, taps: tuple = ()) -> Tensor:
            return super().run(x, taps).flip(1)

    assert any("predictions" in sentence for sentence in verify(ann, network, IMAGES, Broken(network)).failures())


def test_the_outcome_does_not_depend_on_the_batch_size(ann: nn.Module, network: SpikingNetwork) -> None:
    whole = verify(ann, network, IMAGES, batch_size=40).to_dict()
    for size in (1, 7, 1000):
        assert verify(ann, network, IMAGES, batch_size=size).to_dict() == whole


def test_a_network_without_preprocessing_is_given_the_pixels(ann: nn.Module) -> None:
    assert verify(ann, convert(ann, X[:1]), IMAGES).images == 40


def test_the_outcome_is_plain_json(ann: nn.Module, network: SpikingNetwork) -> None:
    values = json.loads(json.dumps(verify(ann, network, IMAGES).to_dict()))
    assert values["layers"][0]["name"] == network.encoders[0]


def test_the_model_still_works_and_is_left_as_it_was(ann: nn.Module, network: SpikingNetwork) -> None:
    ann.train()
    state, before = copy.deepcopy(ann.state_dict()), copy.deepcopy(ann).eval()(X)
    verify(ann, network, IMAGES)
    assert all(module.training for module in ann.modules())
    assert all(torch.equal(value, state[key]) for key, value in ann.state_dict().items())
    assert torch.equal(ann.eval()(X), before)
    assert not any(module._forward_hooks for module in ann.modules())


def test_a_model_can_be_verified_twice(ann: nn.Module, network: SpikingNetwork) -> None:
    first = verify(ann, network, IMAGES).to_dict()
    assert verify(ann, network, IMAGES).to_dict() == first
    assert convert(ann, X[:1], PIXELS).levels == network.levels


# ------------------------------------------------------------------------------ the smallest damage


def assert_only_named(parity: Parity, name: str) -> None:
    failures = parity.failures()
    assert any(sentence.startswith(f"layer {name}: ") for sentence in failures), failures
    assert [layer.name for layer in parity.layers if layer.mismatches] == [name]


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("by", [-1, 1])
def test_a_threshold_moved_by_one_is_caught_and_the_layer_named(
    ann: nn.Module, network: SpikingNetwork, index: int, by: int
) -> None:
    name = layers_with(network, SpikingLayer)[index]
    unit = network.layers[name]
    if len(unit.branches) == 1:
        unit.neuron.thresholds[1] += by  # one level of every channel
    else:  # one integer of U is many of Z
        unit.neuron.thresholds[1] += by * unit.multipliers[0]
    assert_only_named(verify(ann, network, IMAGES), name)


def test_one_threshold_of_one_channel_moved_by_one_is_caught(ann: nn.Module, network: SpikingNetwork) -> None:
    name = layers_with(network, SpikingLayer)[0]
    caught = 0
    for level in range(4):
        damaged = copy.deepcopy(network)
        damaged.layers[name].neuron.thresholds[level, 1] += 1
        caught += bool(verify(ann, damaged, IMAGES).failures())
    assert caught >= 2  # a level that no potential of the images touches cannot show


@pytest.mark.parametrize("index", range(3))
def test_a_weight_code_changed_by_one_is_caught_and_the_layer_named(
    ann: nn.Module, network: SpikingNetwork, index: int
) -> None:
    name = layers_with(network, SpikingLayer)[index]
    weight = network.layers[name].branches[0].synapse.weight
    place = (weight == 0).nonzero()[0]
    weight[tuple(place)] += 1
    assert_only_named(verify(ann, network, IMAGES), name)


def test_an_encoder_weight_changed_slightly_is_caught(ann: nn.Module, network: SpikingNetwork) -> None:
    unit = network.layers[network.encoders[0]]
    assert isinstance(unit, Encoder)
    unit.branches[0].synapse.weight[0, 0, 1, 1] += 1e-2
    assert_only_named(verify(ann, network, IMAGES), network.encoders[0])


def test_a_readout_weight_changed_slightly_is_caught(ann: nn.Module, network: SpikingNetwork) -> None:
    readout = network.layers[layers_with(network, Readout)[0]]
    readout.branches[0].synapse.weight[0, :] += 1e-5
    failures = verify(ann, network, IMAGES).failures()
    assert len(failures) == 1
    assert failures[0].startswith("predictions are equal on 40, logits on 0 of 40 images")


def test_swapped_wires_are_caught(ann: nn.Module, network: SpikingNetwork) -> None:
    branches = network.layers[layers_with(network, SpikingLayer)[1]].branches
    branches[0].synapse.weight.copy_(branches[0].synapse.weight.flip(3))
    assert verify(ann, network, IMAGES).failures()


def test_trained_on_weights_are_caught(ann: nn.Module, network: SpikingNetwork) -> None:
    with torch.no_grad():
        ann.conv[1].bias.add_(0.1)
    assert_only_named(verify(ann, network, IMAGES), layers_with(network, SpikingLayer)[0])


# --------------------------------------------------------------------- nets that prove nothing


@pytest.mark.parametrize(("beta", "word"), [(-50.0, "silent"), (50.0, "saturated")])
def test_a_net_that_proves_nothing_is_called_so(ann: nn.Module, beta: float, word: str) -> None:
    with torch.no_grad():
        ann.conv[1].bias.fill_(beta)
    network = convert(ann, X[:1], PIXELS)
    parity = verify(ann, network, IMAGES)
    name = layers_with(network, SpikingLayer)[0]
    assert any(sentence.startswith(f"layer {name} is {word}:") for sentence in parity.failures())
    entry = next(layer for layer in parity.layers if layer.name == name)
    assert (entry.mismatches, entry.inside_grid, entry.rate) == (0, 0.0, float(word == "saturated"))


def test_no_failure_is_more_than_one_sentence(ann: nn.Module, network: SpikingNetwork) -> None:
    for name in layers_with(network, SpikingLayer):
        network.layers[name].neuron.thresholds.fill_(-(10**6))
    assert all("\n" not in sentence for sentence in verify(ann, network, IMAGES).failures())


# ---------------------------------------------------------------------------------- other ANNs


def test_an_ann_of_other_layers_is_refused(network: SpikingNetwork) -> None:
    other = nn.Sequential(nn.Conv2d(2, 4, 3), act(), nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(ConversionError, match="which this ANN does not have"):
        verify(other, network, IMAGES)


def test_an_ann_of_other_widths_is_refused(network: SpikingNetwork) -> None:
    other = Ann()
    other.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=(1, 1), stride=1, dilation=1), nn.Identity(), nn.Identity())
    with pytest.raises(ConversionError, match=r"layer stem_2 .*stem\.2"):
        verify(other, network, IMAGES)


def test_an_ann_that_cannot_take_the_images_is_refused(network: SpikingNetwork) -> None:
    other = Ann()
    other.stem[0] = nn.Conv2d(5, 4, 3, padding=1)
    with pytest.raises(ConversionError):
        verify(other, network, IMAGES)


def test_an_ann_of_other_weights_is_caught(network: SpikingNetwork) -> None:
    torch.manual_seed(9)
    assert verify(settled(Ann(), X), network, IMAGES).failures()


# --------------------------------------------------------------------------------------- ties


class Encoded(nn.Module):
    """Batch norm in another order of operations than the folded encoder's, on values made to tie."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0), KBQuantizer(0, 3)
        self.flatten, self.out = nn.Flatten(), nn.Linear(36, 2)
        with torch.no_grad():
            self.stem.weight.fill_(1.0)
            self.norm.weight.fill_(1 / 3)
            self.norm.running_mean.fill_(0.1)
            self.norm.running_var.fill_(0.7)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.flatten(self.act(self.norm(self.stem(x)))))


def test_a_flipped_encoder_unit_is_excused_only_at_a_tie() -> None:
    model = Encoded().eval()
    images = Images("tie", "test", torch.full((8, 1, 6, 6), 3, dtype=torch.uint8), torch.zeros(8).long(), 2)
    network = convert(model, torch.zeros(1, 1, 6, 6))
    branch = network.layers[network.encoders[0]].branches[0]
    model.norm.double()
    with torch.no_grad():
        z = float(branch.scale * 3 + branch.offset)
        for by, excused in ((1e-13, True), (1e-6, False)):
            model.norm.bias.fill_(0.5 + by - z)  # the ANN just above its boundary, the network just below it
            branch.offset.fill_(0.5 - by - 3 * float(branch.scale))
            parity = verify(model, network, images)
            assert (parity.encoder_ties > 0) == excused
            assert (parity.layers[0].mismatches == 0) == excused
            assert parity.tied_images == (list(range(8)) if excused else [])
            assert any("encoder ties are more than" in sentence for sentence in parity.failures()) == excused


def test_the_rounding_of_a_mean_on_a_boundary_is_no_mismatch() -> None:
    """A hidden unit whose ANN value lies within float64 rounding of its boundary proves nothing wrong."""
    torch.manual_seed(2)
    layers = [nn.AvgPool2d((2, 3)), ternary(nn.Conv2d(3, 8, 1, bias=False)), KBQuantizer(0, 3)]
    model = nn.Sequential(KBQuantizer(0, 3), *layers, nn.Flatten(), nn.Linear(32, 3)).eval()
    pixels = torch.randint(0, 4, (60, 3, 4, 6), dtype=torch.uint8)
    parity = verify(model, convert(model, pixels[:1].float()), Images("x", "test", pixels, torch.zeros(60).long(), 3))
    assert parity.layers[1].mismatches == 0


def test_ties_of_float_weights_are_few_or_no_proof() -> None:
    def failures(ties: int, rounding_bound: float) -> list[str]:
        layer = LayerParity("conv", 1000, rounding_bound=rounding_bound, silent=False, saturated=False, ties=ties)
        return Parity(10, [layer], predictions_equal=10, logits_equal=10).failures()

    assert failures(1, 1e-12) == [] and failures(5, 0.0) == []
    assert failures(2, 1e-12) == ["layer conv: 2 ties are more than 1e-07 of 1000 units"]

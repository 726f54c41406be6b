"""Networks trained with Brevitas: the same integers as its own, and proven."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from samples import PIXELS, wires
from test_cli import sentence, snnconv
from torch import Tensor, nn

import snnconv as api
from snnconv.ann.brevitas import FixedQuantizer, from_brevitas
from snnconv.conversion.convert import convert
from snnconv.conversion.folding import weight_parts
from snnconv.conversion.graph import fingerprint, trace
from snnconv.conversion.verification import verify
from snnconv.data.images import Images, load_images
from snnconv.data.preprocessing import prepare
from snnconv.errors import ConversionError
from snnconv.formats.native import load, save

qnn = pytest.importorskip("brevitas.nn")
quant = pytest.importorskip("brevitas.quant")

CODE = """
import brevitas.nn as qnn
from torch import nn


class Net(nn.Module):
    def __init__(self, bits=3):
        super().__init__()
        self.conv1 = qnn.QuantConv2d(1, 6, 5, stride=2, weight_bit_width=bits, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(6), qnn.QuantReLU(bit_width=bits)
        self.conv2 = qnn.QuantConv2d(6, 10, 3, stride=2, weight_bit_width=bits)
        self.bn2, self.relu2 = nn.BatchNorm2d(10), qnn.QuantReLU(bit_width=bits, return_quant_tensor=True)
        self.fc1, self.relu3 = qnn.QuantLinear(250, 24, bias=True, weight_bit_width=bits), qnn.QuantReLU(bit_width=bits)
        self.fc2 = qnn.QuantLinear(24, 10, bias=True, weight_bit_width=bits)

    def forward(self, x):
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.relu3(self.fc1(x.flatten(1)))
        return self.fc2(x)


def make():
    return Net()
"""


def new_net() -> nn.Module:
    space: dict = {}
    exec(CODE, space)
    return space["make"]()


@pytest.fixture(scope="module")
def images() -> Images:
    found = load_images("digits", "train")
    assert isinstance(found, Images)
    return found.take(1000)


@pytest.fixture(scope="module")
def trained(images: Images) -> nn.Module:
    """A 3-bit net, trained with Brevitas."""
    torch.manual_seed(0)
    model = new_net().train()
    x = prepare(images.pixels, PIXELS)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(4):
        for rows in torch.randperm(len(x)).split(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), images.labels[rows]).backward()
            optimiser.step()
    return model.eval()


def own_integers(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What the network's own activations give as integers, in float64, and its logits."""
    model = copy.deepcopy(model).double()
    found: dict[str, Tensor] = {}

    def keep(path: str, module: nn.Module) -> None:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            value = getattr(output, "value", output)
            found[path] = (value / module.act_quant.scale() + module.act_quant.zero_point()).round().to(torch.int64)

        module.register_forward_hook(hook)

    for path, module in model.named_modules():
        if type(module).__name__ == "QuantReLU":
            keep(path, module)
    with torch.no_grad():
        return found, model(x.double())


def test_counts_are_brevitas_s_own_integers_on_a_thousand_images(
    trained: nn.Module, images: Images, tmp_path: Path
) -> None:
    x = prepare(images.pixels, PIXELS)
    integers, logits = own_integers(trained, x)
    assert set(integers) == {"relu1", "relu2", "relu3"}
    assert [int(codes.max()) for codes in integers.values()] == [7, 7, 7]
    plain = from_brevitas(trained)
    network = convert(plain, x[:1], PIXELS)
    parity = verify(plain, network, images)
    assert parity.failures() == [] and sum(layer.mismatches + layer.ties for layer in parity.layers) == 0
    own, sent = wires(network, x)
    for name, codes in integers.items():
        assert torch.equal(sent[name].long(), codes), name
    torch.testing.assert_close(own, logits, rtol=1e-6, atol=1e-6)
    assert float((own.argmax(1) == images.labels).float().mean()) > 0.8
    weights = [unit.branches[0].synapse.weight for name, unit in network.units() if name != "relu1"]
    assert [weight.dtype for weight in weights] == [torch.int8] * 2
    assert [sorted(set(weight.flatten().tolist())) for weight in weights] == [list(range(-3, 4))] * 2
    save(network, tmp_path / "network.safetensors")
    assert torch.equal(wires(load(tmp_path / "network.safetensors"), x[:50])[0], own[:50])


def test_weights_and_biases_are_those_of_the_layers(trained: nn.Module) -> None:
    before = copy.deepcopy(trained.state_dict())
    plain = from_brevitas(trained)
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())
    for name in ("conv1", "conv2", "fc1", "fc2"):
        weight = getattr(trained, name).quant_weight()
        ((codes, scale),) = weight_parts(getattr(plain, name))
        assert torch.equal(codes, weight.int().to(torch.int8))
        assert set(scale.tolist()) == {float(weight.scale.detach())}
        assert torch.equal(getattr(plain, name).weight, weight.value)  # in float32, as Brevitas has it
    assert torch.equal(plain.fc1.bias, trained.fc1.bias)


ACTS = {
    "unsigned": (qnn.QuantReLU, {"bit_width": 3}),
    "fixed point": (qnn.QuantReLU, {"bit_width": 4, "act_quant": quant.Uint8ActPerTensorFixedPoint}),
    "signed": (qnn.QuantIdentity, {"bit_width": 3, "act_quant": quant.Int8ActPerTensorFloat}),
    "shifted": (qnn.QuantIdentity, {"bit_width": 3, "act_quant": quant.ShiftedUint8ActPerTensorFloat}),
    "narrow": (qnn.QuantIdentity, {"bit_width": 3, "narrow_range": True}),
    "narrow, unsigned": (qnn.QuantReLU, {"bit_width": 3, "narrow_range": True}),
    "clipped": (qnn.QuantHardTanh, {"bit_width": 3, "min_val": -1.0, "max_val": 1.0}),
    "down": (qnn.QuantReLU, {"bit_width": 3, "float_to_int_impl_type": "FLOOR"}),
    "up": (qnn.QuantReLU, {"bit_width": 3, "float_to_int_impl_type": "CEIL"}),
    "two levels": (qnn.QuantReLU, {"bit_width": 1}),
}


@pytest.mark.parametrize("name", ACTS)
def test_activations_give_brevitas_s_values_between_and_on_boundaries(name: str) -> None:
    kind, settings = ACTS[name]
    torch.manual_seed(2)
    act = kind(**settings)
    act.train()
    for _ in range(3):
        act(torch.randn(500) * 3 + 1)
    act.eval()
    ours = from_brevitas(nn.Sequential(act))[0]
    assert isinstance(ours, FixedQuantizer)
    with torch.no_grad():
        act.double()
        steps = torch.arange(-40, 41, dtype=torch.float64) / 4
        scale = float(act.act_quant.scale())
        # boundaries lie at odd quarters of Brevitas's own scale in float64, ours at its float32: stay beside them
        z = (steps[:, None] + torch.tensor([-1e-3, 1e-3])) * scale
        given = act(z.flatten())
        torch.testing.assert_close(ours(z.flatten()), getattr(given, "value", given), rtol=1e-6, atol=1e-9)
    if name == "fixed point":  # a power of two: the boundaries themselves are exact
        with torch.no_grad():
            assert torch.equal(ours(steps * scale), act(steps * scale))


@pytest.mark.parametrize(("low", "high", "zero", "rounding"), [(0, 7, 0, "ROUND"), (-4, 3, 0, "ROUND"), (0, 7, 3, "ROUND"), (0, 3, 0, "FLOOR"), (-3, 3, 0, "CEIL")])  # fmt: skip
def test_boundaries_follow_the_rounding(low: int, high: int, zero: int, rounding: str) -> None:
    quantizer = FixedQuantizer(0.5, low, high, zero, rounding)
    to_integer = {"ROUND": torch.round, "FLOOR": torch.floor, "CEIL": torch.ceil}[rounding]
    z = torch.arange(-60, 61, dtype=torch.float64) / 16
    expected = 0.5 * (to_integer(z / 0.5 + zero).clamp(low, high) - zero)
    assert torch.equal(quantizer(z), expected)
    assert [quantizer.grid.code(float(value)) * 0.5 for value in z] == expected.tolist()


def model_of(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), *layers).eval()


def with_sigmoid(act: nn.Module) -> nn.Module:
    act.act_quant.fused_activation_quant_proxy.activation_impl = nn.Sigmoid()
    return act


REFUSED = {
    "too many levels": (lambda: qnn.QuantReLU(bit_width=8), r"layer 1 \(QuantReLU of Brevitas\): .*0..255.*take fewer bits"),
    "another activation": (lambda: qnn.QuantTanh(bit_width=3), r"layer 1 \(QuantTanh of Brevitas\): it is not accepted"),
    "binary": (
        lambda: qnn.QuantIdentity(act_quant=quant.SignedBinaryActPerTensorConst),
        "it is binary",
    ),
    "another function in it": (lambda: with_sigmoid(qnn.QuantReLU(bit_width=3)), "does not round to 8 integers"),
    "float": (lambda: qnn.QuantReLU(act_quant=None), "switched off"),
    "a scale a channel": (
        lambda: qnn.QuantReLU(
            bit_width=3,
            scaling_per_output_channel=True,
            per_channel_broadcastable_shape=(1, 4, 1, 1),
            scaling_stats_permute_dims=(1, 0, 2, 3),
        ),
        "it has 4 scale; one a layer",
    ),
    "a bias by the input's scale": (
        lambda: qnn.QuantConv2d(4, 4, 3, bias=True, bias_quant=quant.Int32Bias, weight_bit_width=3),
        "its bias is quantized by the scale of its input",
    ),
    "wide weights": (
        lambda: qnn.QuantConv2d(4, 4, 3, weight_bit_width=9),
        "the integers of its weight exceed -127..127",
    ),
    "a sum": (lambda: qnn.QuantEltwiseAdd(), "it is not accepted; QuantConv1d"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_by_its_path(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ConversionError, match=message):
        from_brevitas(model_of(make()))


def test_scales_a_channel_zero_points_and_quantized_biases_of_weights() -> None:
    torch.manual_seed(1)
    bias = {"bias": True, "bias_quant": quant.Int8BiasPerTensorFloatInternalScaling}
    layers = [
        qnn.QuantConv2d(2, 4, 3, weight_bit_width=4, weight_quant=quant.Int8WeightPerChannelFloat, **bias),
        qnn.QuantConv2d(4, 4, 3, weight_bit_width=4, weight_quant=quant.ShiftedUint8WeightPerTensorFloat),
        qnn.QuantConv2d(4, 4, 3, weight_quant=quant.SignedTernaryWeightPerTensorConst, groups=2),
    ]
    model = nn.Sequential(*layers).eval()
    plain = from_brevitas(model)
    for own, layer in zip(plain, layers, strict=True):
        assert torch.equal(own.weight, layer.quant_weight().value)
    assert torch.equal(plain[0].bias, layers[0].quant_bias().value)
    x = torch.rand(3, 2, 9, 9)
    torch.testing.assert_close(plain(x), model(x))
    assert len({float(s) for s in weight_parts(plain[0])[0].scale}) == 4


def test_quantizers_of_inputs_and_outputs_stand_beside_their_layer() -> None:
    torch.manual_seed(1)
    sides = {"input_quant": quant.Int8ActPerTensorFloat, "output_quant": quant.Uint8ActPerTensorFloat}
    layer = qnn.QuantConv2d(2, 4, 3, weight_bit_width=3, input_bit_width=4, output_bit_width=3, **sides)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(4 * 25, 3))
    model.train()
    x = torch.rand(8, 2, 7, 7)
    model(x)
    plain = from_brevitas(model.eval())
    assert [type(part).__name__ for part in plain[0]] == ["FixedQuantizer", "ParametrizedConv2d", "FixedQuantizer"]
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-5)
    network = convert(plain, x[:1])
    assert [name for name, _ in network.units()] == ["_0_0", "_0_2"]


def test_a_layer_used_twice_stays_one() -> None:
    act = qnn.QuantReLU(bit_width=3)
    plain = from_brevitas(nn.ModuleDict({"a": act, "b": nn.Sequential(act)}))
    assert plain["a"] is plain["b"][0]


def test_brevitas_s_own_modules_are_refused_with_the_way_out(trained: nn.Module) -> None:
    with pytest.raises(ConversionError, match=r"layer conv1 \(QuantConv2d\) is one of Brevitas: snnconv.from_brevitas"):
        convert(trained, torch.zeros(1, 1, 28, 28))
    assert api.from_brevitas is from_brevitas


def test_fingerprints_do_not_depend_on_what_is_learned(trained: nn.Module) -> None:
    x = torch.zeros(1, 1, 28, 28)
    assert fingerprint(trace(from_brevitas(trained), x)) == fingerprint(trace(from_brevitas(new_net()), x))


def test_the_command_line_takes_a_network_of_brevitas(trained: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "brevitas_net.py").write_text(CODE)
    torch.save(trained.state_dict(), tmp_path / "net.pth")
    options = ("--model", "brevitas_net:make", "--weights", "net.pth", "--data", "digits", "--quiet")
    result = snnconv("convert", *options, cwd=tmp_path)
    assert result.exit_code == 0, (result.output, result.exception)
    (tmp_path / "net.pth").unlink()
    proven = snnconv("verify", "--quiet", "--images", "60", cwd=tmp_path)
    assert proven.exit_code == 0, proven.output
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "net.pth")
    assert "net.pth is of another network: " in sentence(snnconv("convert", *options, cwd=tmp_path))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["make-digits"]
    sys.modules.pop("brevitas_net")

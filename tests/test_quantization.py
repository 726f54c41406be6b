"""From float networks to codes: where quantizers go, how steps are found, and what becomes of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable

import pytest
import torch
from own_networks import NETWORKS, SHAPE, awake
from samples import PIXELS, random_images
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune

import snnconv
from snnconv.ann.learned import LearnedQuantizer
from snnconv.ann.quantizers import KBQuantizer
from snnconv.config import Calibration, Quantization
from snnconv.conversion.convert import convert
from snnconv.conversion.verification import verify
from snnconv.data.images import Images
from snnconv.data.preprocessing import prepare
from snnconv.errors import ConfigError, ConversionError
from snnconv.quantization.calibration import balanced, bypassed, calibrate, measured, ranges, squared_error
from snnconv.quantization.channels import fold_channels
from snnconv.quantization.inserting import insert_quantizers, quantize_weights, quantizers_of
from snnconv.quantization.quantize import quantize, sensitivity, skeleton

IMAGES = random_images(40, SHAPE)
X = prepare(IMAGES.pixels, PIXELS)


def batches() -> Iterable[Tensor]:
    return X.split(10)


def floating(name: str) -> nn.Module:
    """One of the ten networks as it was before its user quantized it."""
    model = NETWORKS[name]()
    for path, module in list(model.named_modules()):
        if isinstance(module, KBQuantizer):
            model.set_submodule(path, nn.ReLU())
    return awake(model)


class Basic(nn.Module):
    """As the first example of many a tutorial: pools in front of ReLUs, dropout as a function, a ReLU that is reused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3)
        self.drop, self.relu = nn.Dropout2d(), nn.ReLU(inplace=True)
        self.fc1, self.fc2, self.fc3 = nn.Linear(8 * 2 * 2, 20), nn.Linear(20, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.drop(self.conv2(x)), 2))
        x = self.relu(self.fc1(x.view(-1, 32)))
        x = F.dropout(x, training=self.training)
        return self.fc3(self.relu(self.fc2(x)))


def names(traced: fx.GraphModule) -> list[str]:
    return list(quantizers_of(traced))


# --------------------------------------------------------------------------------- where they go


@pytest.mark.parametrize("name", NETWORKS)
def test_float_networks_of_users_are_quantized_folded_and_proven(name: str) -> None:
    model = floating(name)
    before = copy.deepcopy(model.state_dict())
    quantized = quantize(model, IMAGES, 5, PIXELS, Calibration(per_channel=True))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad(), bypassed(quantized):
        exact = copy.deepcopy(quantized).double()(X.double())  # folding changes nothing but roundings of weights
        torch.testing.assert_close(exact, model.double()(X.double()), rtol=1e-4, atol=1e-4)
    network = convert(quantized, X[:1], PIXELS)
    parity = verify(quantized, network, IMAGES)
    assert parity.failures() == [] and sum(layer.mismatches for layer in parity.layers) == 0
    assert len(parity.layers) >= len(quantizers_of(quantized)) > 1
    assert {grid.levels for grid in (layer.grid for _, layer in network.units())} == {5}


@pytest.mark.parametrize("name", NETWORKS)
def test_bypassed_quantizers_leave_the_float_network(name: str) -> None:
    model = floating(name)
    traced = insert_quantizers(model, X[:1], 3)
    with torch.no_grad(), bypassed(traced):
        assert torch.equal(traced(X), model(X))
    assert not any(isinstance(module, nn.ReLU) for module in traced.modules())


def test_pools_in_front_and_reused_relus_get_a_quantizer_each() -> None:
    model = awake(Basic())
    traced = insert_quantizers(model, X[:1], 4)
    assert names(traced) == ["relu_", "relu_1", "relu_1_", "relu_2"]  # two of F.relu, two of one module
    with torch.no_grad(), bypassed(traced):
        assert torch.equal(traced(X), model(X))
    quantized = quantize(model, IMAGES, 4, PIXELS)
    network = convert(quantized, X[:1], PIXELS)
    assert verify(quantized, network, IMAGES).failures() == []


def test_a_module_used_once_keeps_its_place_and_others_are_numbered() -> None:
    model = nn.Sequential()
    relu = nn.ReLU()
    for number in range(3):
        model.add_module(f"fc{number}", nn.Linear(4, 4))
        model.add_module(f"act{number}", relu if number else nn.ReLU())
    model.add_module("readout", nn.Linear(4, 3))
    traced = insert_quantizers(model.eval(), torch.rand(1, 4), 2)
    assert names(traced) == ["act0", "act1_1", "act1_2"]
    assert set(dict(traced.named_parameters())) >= {"act0.log_step", "fc0.weight", "readout.bias"}


@pytest.mark.parametrize(
    ("activation", "largest"),
    [
        (nn.ReLU6(), 6.0),
        (nn.Hardtanh(0.0, 2.0), 2.0),
        (nn.Sequential(nn.ReLU(), nn.Hardtanh(-1.0, 2.0)), 2.0),
    ],
)
def test_clips_stay_in_front_of_their_quantizer(activation: nn.Module, largest: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    model(X[:1])
    with torch.no_grad():
        model[0].weight *= 40
    traced = insert_quantizers(model.eval(), X[:1], 4)
    assert len(names(traced)) == 2 and names(traced)[0].endswith("_quantizer")
    calibrate(traced, batches, Calibration(method="max"))
    assert quantizers_of(traced)[names(traced)[0]].step == largest / 4
    assert verify(traced, convert(traced, X[:1], PIXELS), IMAGES).failures() == []


class By(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function, self.fc = nn.Conv2d(3, 4, 3), function, nn.Linear(4 * 14 * 14, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.function(self.conv(x)).flatten(1))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (nn.GELU(), r"layer function \(GELU\) cannot be quantized from 0 upwards: put a ReLU"),
        (F.leaky_relu, r"layer leaky_relu \(leaky_relu\) cannot be quantized"),
        (nn.PReLU(), r"layer function \(PReLU\) cannot be quantized"),
        (nn.Hardtanh(), r"layer function \(Hardtanh\) lets values below 0 through"),
        (lambda x: x.clamp(max=3), r"layer clamp \(clamp\) lets values below 0 through"),
        (lambda x: x, "has no ReLU that a quantizer could stand for"),
        (KBQuantizer(1, 2), r"quantized already \(layer function\)"),
        (lambda x: x.relu() if x.sum() > 0 else x, "cannot be traced"),
    ],
)
def test_what_no_quantizer_can_stand_for_is_refused(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        insert_quantizers(By(function).eval(), X[:1], 4)


def test_other_levels_and_weight_bits_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"levels \(= 0\)"):
        quantize(By(F.relu), IMAGES, 0, PIXELS)
    with pytest.raises(ConfigError, match=r"weight bits \(= 9\)"):
        quantize(floating("tutorial"), IMAGES, 2, PIXELS, weight_bits=9)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("name", ["unet", "residual", "tutorial"])
def test_hidden_weights_become_codes_and_ends_stay_float(name: str, bits: int) -> None:
    model = floating(name)
    quantized = quantize(model, IMAGES, 4, PIXELS, weight_bits=bits)
    layers = {p: m for p, m in quantized.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)}
    float_ones = {path for path, layer in layers.items() if not parametrize.is_parametrized(layer)}
    expected = {"unet": {"down1.0", "head"}, "residual": {"conv1", "fc"}, "tutorial": {"conv1", "fc3"}}
    assert float_ones == expected[name]
    network = convert(quantized, X[:1], PIXELS)
    assert verify(quantized, network, IMAGES).failures() == []
    codes = [b.synapse.weight for _, unit in network.units() for b in getattr(unit, "branches", ())]
    narrow = [weight for weight in codes if weight.dtype == torch.int8]
    assert narrow and max(int(weight.abs().max()) for weight in narrow) == 2 ** (bits - 1) - 1


def test_weights_that_are_quantized_already_are_left_alone() -> None:
    traced = skeleton(floating("tutorial"), X[:1], 3, 2)
    assert quantize_weights(traced, 4) == []


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LSTM(8, 8, batch_first=True), r"layer between \(LSTM\) cannot be converted"),
        (prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5), "prune.remove"),
    ],
)
def test_what_does_not_convert_is_refused_before_it_is_calibrated(layer: nn.Module, message: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.between, self.readout = nn.Linear(768, 8), layer, nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.between(F.relu(self.stem(x.flatten(1))))
            return self.readout(F.relu(x if isinstance(layer, nn.Linear) else x[0]))

    with pytest.raises(ConversionError, match=message):
        quantize(Net().eval(), IMAGES.take(4), 4, PIXELS)


def test_views_take_images_of_any_memory_format() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Viewed(), nn.Linear(4 * 6 * 6, 5))
    placed = insert_quantizers(model, torch.zeros(1, 3, 8, 8), 4)
    x = torch.rand(2, 3, 8, 8)
    assert torch.allclose(placed(x.contiguous(memory_format=torch.channels_last)), placed(x), atol=1e-5)


class Viewed(nn.Module):
    """Flattens as many a tutorial does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


class Joined(nn.Module):
    """Two quantized values side by side, then what ``behind`` makes of them."""

    def __init__(self, behind: nn.Module) -> None:
        super().__init__()
        self.left, self.right, self.behind, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), behind, nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([F.relu(self.left(x)), F.max_pool2d(F.relu(self.right(x)), 1)], 1)
        return self.fc(F.relu(self.behind(F.max_pool2d(both, 2))).flatten(1))


@pytest.mark.parametrize(
    ("behind", "tied"),
    [(nn.BatchNorm2d(8), True), (nn.Conv2d(8, 4, 3, groups=2), True), (nn.Conv2d(8, 4, 3), False)],
)
def test_quantizers_share_a_step_where_a_concat_needs_one(behind: nn.Module, tied: bool) -> None:
    model = Joined(behind)
    model(X[:1])
    with torch.no_grad():
        model.right.weight *= 3
    quantized = quantize(model.eval(), IMAGES, 3, PIXELS)
    left, right, _ = quantizers_of(quantized).values()
    assert (left.log_step is right.log_step) == tied
    assert (left.step == right.step) == tied
    again = skeleton(model, X[:1], 3)
    again.load_state_dict(quantized.state_dict())
    assert [q.step for q in quantizers_of(again).values()] == [q.step for q in quantizers_of(quantized).values()]
    assert verify(quantized, convert(quantized, X[:1], PIXELS), IMAGES).failures() == []


# ------------------------------------------------------------------------------- how steps are found


def values_of(model: nn.Module, path: str) -> Tensor:
    """What a quantizer is given in the float network, (C, all values)."""
    seen = []
    traced = insert_quantizers(model, X[:1], 1)
    with torch.no_grad(), bypassed(traced):
        handle = quantizers_of(traced)[path].register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
        traced(X)
        handle.remove()
    return seen[0].transpose(0, 1).flatten(1).double()


@pytest.mark.parametrize("per_channel", [False, True])
def test_ranges_are_those_of_the_definitions(per_channel: bool) -> None:
    model, path = floating("tutorial"), "relu"
    values = values_of(model, path)
    rows = [sorted(v for v in row if v > 0) for row in (values if per_channel else values.reshape(1, -1)).tolist()]
    assert all(rows)
    traced = insert_quantizers(model, X[:1], 4)

    def found(settings: Calibration) -> list[float]:
        return ranges(traced, batches, settings, per_channel)[path].reshape(-1).tolist()

    assert found(Calibration(method="max")) == pytest.approx([row[-1] for row in rows])
    for percentile in (50.0, 99.0, 100.0):
        expected = [row[math.ceil(percentile / 100 * len(row)) - 1] for row in rows]
        assert found(Calibration(method="percentile", percentile=percentile)) == pytest.approx(expected)
    for row, value in zip(rows, found(Calibration(method="mse")), strict=True):
        own = torch.tensor(row, dtype=torch.float64)
        tried = [row[-1] * part / 400 for part in range(40, 440)]
        best = min(float(squared_error(own.clone(), r, 4)) for r in tried)
        assert float(squared_error(own.clone(), value, 4)) <= 1.02 * best


def test_squared_error_by_hand() -> None:
    # step 1/2: 0.2 -> 0, 0.3 -> 0.5, 0.9 -> 1, 1.4 -> 1 (clipped)
    values = torch.tensor([0.2, 0.3, 0.9, 1.4], dtype=torch.float64)
    assert float(squared_error(values, 1.0, 2)) == pytest.approx((0.04 + 0.04 + 0.01 + 0.16) / 4)


def test_threshold_balancing_is_the_loop_of_the_paper() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    x = torch.randn(12, 5, dtype=torch.float64)
    traced = insert_quantizers(model, x[:1], 4)
    for per_channel in (False, True):
        settings = Calibration(method="balance", iterations=7)
        found = balanced(traced, lambda: x.split(4), settings, per_channel)
        first, second = torch.zeros(4 if per_channel else 1), torch.zeros(6 if per_channel else 1)
        r = [first.double(), second.double()]
        for batch in [x[0:4], x[4:8], x[8:12], x[0:4], x[4:8], x[8:12], x[0:4]]:
            value = batch
            for number, layer in enumerate((model[0], model[2])):
                z = layer(value).detach()
                beyond = (z - r[number]).clamp(min=0)
                r[number] = r[number] + 2 * (beyond.mean(0) if per_channel else beyond.mean())
                value = torch.minimum(z.clamp(min=0), r[number])
        assert found["1"].reshape(-1).tolist() == pytest.approx(r[0].tolist())
        assert found["3"].reshape(-1).tolist() == pytest.approx(r[1].tolist())


def test_a_layer_that_never_fires_gets_some_step_and_silent_channels_the_largest() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([1.0, -9.0, 3.0]))
        model[2].bias.fill_(-99.0)
    x = torch.rand(8, 4) * 0.1
    traced = insert_quantizers(model, x[:1], 2)
    for method in ("max", "percentile", "mse", "balance"):
        settings = Calibration(method=method, iterations=3)
        own = ranges(traced, lambda: [x], settings, per_channel=True)
        assert float(own["1"][1]) == float(own["1"].max()) > 0
        assert own["3"].tolist() == [1.0, 1.0]
        assert float(ranges(traced, lambda: [x], settings)["3"]) == 1.0


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
def test_steps_do_not_depend_on_the_batch_size(method: str) -> None:
    model = floating("residual")
    first, second = (
        quantize(model, IMAGES, 4, PIXELS, Calibration(method=method), batch_size=size) for size in (7, 40)
    )
    for one, other in zip(quantizers_of(first).values(), quantizers_of(second).values(), strict=True):
        assert one.step == pytest.approx(other.step, rel=2**-7)


@pytest.mark.parametrize(
    "settings", [{"method": "median"}, {"percentile": 0.0}, {"percentile": 101.0}, {"iterations": 0}]
)
def test_wrong_calibrations_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings)) if "method" not in settings else "median"):
        Calibration(**settings)


# ---------------------------------------------------------------------------------------- channels


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_get_one_range_and_the_network_computes_the_same(name: str) -> None:
    traced = insert_quantizers(floating(name), X[:1], 4).double()
    x = X.double()

    def shown() -> Iterable[Tensor]:
        return [x]

    settings = Calibration(method="max")
    with torch.no_grad(), bypassed(traced):
        before = traced(x)
    own = ranges(traced, shown, settings, per_channel=True)
    folded = fold_channels(traced, own)
    with torch.no_grad(), bypassed(traced):
        torch.testing.assert_close(traced(x), before, rtol=1e-9, atol=1e-9)
    after = measured(traced, shown, settings, per_channel=True)
    for path in folded:
        fires = measured(traced, shown, settings, per_channel=True)[path] > 0
        torch.testing.assert_close(after[path][fires], own[path].max().expand(int(fires.sum())))
    expected = {
        "functional": 3, "mobile": 0, "residual": 3, "dense": 4, "unet": 2, "perceptron": 1, "sequence": 3, "reused": 0,
        "tutorial": 4, "squeeze": 4,
    }  # fmt: skip
    assert len(folded) == expected[name], folded


class Fork(nn.Module):
    """A layer that is read by more than its ReLU, or a ReLU that is read by more than layers with weights."""

    def __init__(self, behind: bool) -> None:
        super().__init__()
        self.conv, self.fc, self.behind = nn.Conv2d(3, 4, 3), nn.LazyLinear(4), behind
        self.other = None if behind else nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        y = F.relu(z)
        return self.fc(y.flatten(1)) + (y.mean((1, 2, 3))[:, None] if self.behind else self.other(z.flatten(1)))


@pytest.mark.parametrize("behind", [False, True])
def test_channels_are_not_folded_where_something_else_reads_them(behind: bool) -> None:
    model = Fork(behind).eval()
    model(X[:1])
    traced = insert_quantizers(model, X[:1], 4)
    own = ranges(traced, batches, Calibration(method="max"), per_channel=True)
    assert fold_channels(traced, own) == []
    with torch.no_grad(), bypassed(traced):
        assert torch.equal(traced(X), model(X))


class Tied(nn.Module):
    """A weight, or a bias alone, that two layers share."""

    def __init__(self, shared: str) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(400, 4)
        setattr(self.c, shared, getattr(self.b, shared))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))).flatten(1))


@pytest.mark.parametrize("shared", ["weight", "bias"])
def test_channels_of_layers_that_share_a_tensor_are_not_folded(shared: str) -> None:
    torch.manual_seed(0)
    model = Tied(shared).eval()
    with torch.no_grad():
        model.a.weight.mul_(torch.tensor([0.1, 1.0, 3.0, 9.0])[:, None, None, None])
    traced = insert_quantizers(model, X[:1], 4)
    own = ranges(traced, batches, Calibration(method="max"), per_channel=True)
    assert fold_channels(traced, own) == []
    with torch.no_grad(), bypassed(traced):
        torch.testing.assert_close(traced(X), model(X), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------ the rest


def test_sensitivity_quantizes_one_layer_at_a_time() -> None:
    quantized = quantize(floating("tutorial"), IMAGES, 1, PIXELS)
    active: list[list[str]] = []

    def accuracy(model: nn.Module) -> float:
        active.append([path for path, layer in quantizers_of(quantized).items() if not layer.bypassed])
        return float(len(active))

    assert sensitivity(quantized, accuracy) == [1.0, 2.0, 3.0, 4.0]
    assert active == [[path] for path in quantizers_of(quantized)]
    assert not any(layer.bypassed for layer in quantizers_of(quantized).values())


def test_a_bypassed_network_is_not_taken_for_a_quantized_one() -> None:
    quantized = quantize(floating("tutorial"), IMAGES, 4, PIXELS)
    network = convert(quantized, X[:1], PIXELS)
    with bypassed(quantized), pytest.raises(ConversionError, match="no multiples of its step"):
        verify(quantized, network, IMAGES)


def test_the_copy_trains_steps_included_and_converts_again() -> None:
    quantized = quantize(floating("tutorial"), IMAGES, 2, PIXELS, weight_bits=3)
    before = {name: value.detach().clone() for name, value in quantized.named_parameters()}
    optimiser = torch.optim.SGD(quantized.parameters(), 0.05)
    quantized.train()
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(quantized(X), IMAGES.labels).backward()
        optimiser.step()
    unchanged = [name for name, value in quantized.named_parameters() if torch.equal(value, before[name])]
    assert unchanged == []
    quantized.eval()
    assert verify(quantized, convert(quantized, X[:1], PIXELS), IMAGES).failures() == []


def test_python_names_are_public() -> None:
    model = floating("perceptron")
    quantized = snnconv.quantize(model, IMAGES, 8, PIXELS, snnconv.Calibration(method="percentile", percentile=99.5))
    assert isinstance(next(iter(quantizers_of(quantized).values())), LearnedQuantizer)


@pytest.mark.parametrize(
    ("name", "levels", "bits", "before"),
    [("fp32-L8", 8, None, "fp32"), ("relu-t2-L1-w2", 1, 2, "relu-t2"), ("own-L127", 127, None, "own")],
)
def test_names_of_inserted_quantizations(name: str, levels: int, bits: int | None, before: str) -> None:
    own = Quantization.parse(name)
    assert (own.name, own.levels, own.weight_bits, own.before) == (name, levels, bits, before)
    assert Quantization.parse(before).before == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("k1B2-L4", "k1B2 has quantized activations of its own"),
        ("fp32-L4-L2", "fp32-L4 has quantized activations of its own"),
        ("fp32-L0", r"levels \(= 0\) must lie in 1..127"),
        ("fp32-L128", r"levels \(= 128\)"),
        ("fp32-L4-w1", r"weight bits \(= 1\) must lie in 2..8"),
        ("nothing-L4", "unknown quantization 'nothing'"),
    ],
)
def test_wrong_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Quantization.parse(name)


def test_bits_do_not_apply_to_inserted_quantizers() -> None:
    with pytest.raises(ConfigError, match="k and B do not apply"):
        Quantization.parse("fp32-L4").with_bits(1, 2)


def test_images_of_the_wrong_kind_are_refused() -> None:
    images = Images("random", "train", IMAGES.pixels[:, :1], IMAGES.labels, 4)
    with pytest.raises(ConversionError, match="does not take an input of shape"):
        quantize(floating("tutorial"), images, 4, PIXELS)

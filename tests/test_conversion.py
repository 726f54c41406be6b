"""Conversion: the ANN's codes are the spiking network's counts in every unit; all else is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import (
    TWTA,
    GridQuantizer,
    any_gamma,
    assert_counts_are_codes,
    random_ann,
    settled,
    ternary,
    wires,
)
from torch import Tensor, nn
from torch.nn import functional as F

from snnconv.ann.models.networks import build_network
from snnconv.ann.quantizers import KBQuantizer
from snnconv.config import Quantization
from snnconv.conversion.convert import convert
from snnconv.errors import ConversionError
from snnconv.grids import Grid
from snnconv.snn.layers import SpikingConv2d, SpikingLayer, SpikingLinear, SumPool2d

X = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 0.5


def act(k: int = 1, B: int = 2) -> KBQuantizer:
    return KBQuantizer(k, B)


def encoder(out: int = 4) -> list[nn.Module]:
    return [nn.Conv2d(3, out, 3, padding=1), any_gamma(nn.BatchNorm2d(out)), act()]


def conv(*arguments: object, **settings_: object) -> nn.Module:
    return ternary(nn.Conv2d(*arguments, **settings_))  # type: ignore[arg-type]


def check(model: nn.Module, x: Tensor = X) -> None:
    settled(model, x)
    assert_counts_are_codes(model, convert(model, x[:1]), x)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_random_networks_convert_exactly(seed: int) -> None:
    model = random_ann(seed)
    x = torch.rand(4, 2, 7, 8, generator=torch.Generator().manual_seed(seed + 1))
    assert_counts_are_codes(model, convert(model, x[:1]), x)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from((TWTA, Grid(0.25, 3, 2, (-1.0, -0.5, 0.1, 0.5, 0.9), (True, False) * 2 + (True,)))),
)
def test_random_networks_on_signed_grids_convert_exactly(seed: int, grid: Grid) -> None:
    model = random_ann(seed, grid=grid)
    x = torch.rand(4, 2, 7, 8, generator=torch.Generator().manual_seed(seed + 1))
    assert_counts_are_codes(model, convert(model, x[:1]), x)


HIDDEN: dict[str, Callable[[], list[nn.Module]]] = {
    "plain": lambda: [conv(4, 6, 3)],
    "stride": lambda: [conv(4, 6, (3, 2), stride=(2, 3), padding=(1, 0))],
    "same": lambda: [conv(4, 6, 3, padding="same")],
    "even kernel": lambda: [nn.ZeroPad2d((0, 1, 1, 2)), conv(4, 6, (4, 2))],
    "asymmetric padding": lambda: [nn.ZeroPad2d((0, 2, 1, 3)), conv(4, 6, 3)],
    "two paddings and its own": lambda: [nn.ZeroPad2d((1, 0, 0, 2)), nn.ZeroPad2d(1), conv(4, 6, 3, padding=1)],
    "groups": lambda: [conv(4, 6, 3, groups=2)],
    "depthwise": lambda: [conv(4, 8, 3, groups=4)],
    "dilation": lambda: [conv(4, 6, (3, 2), dilation=(2, 3))],
    "bias": lambda: [conv(4, 6, 3, bias=True)],
    "identity and dropout": lambda: [nn.Dropout(), nn.Identity(), nn.Dropout2d(), conv(4, 6, 3)],
    "average pool": lambda: [nn.AvgPool2d(2), conv(4, 6, 3)],
    "average pool, overlapping and padded": lambda: [nn.AvgPool2d(3, 2, 1), conv(4, 6, 3)],
    "adaptive pool": lambda: [nn.AdaptiveAvgPool2d((4, 2)), conv(4, 6, 2)],
    "max pool": lambda: [nn.MaxPool2d(2), conv(4, 6, 3)],
    "max pool, overlapping, padded, dilated": lambda: [nn.MaxPool2d(3, 2, 1, dilation=1), conv(4, 6, 3)],
    "max of sums": lambda: [nn.AvgPool2d(2), nn.MaxPool2d(2, 1), conv(4, 6, 3)],
    "sum of sums": lambda: [nn.AvgPool2d(2), nn.AvgPool2d(2, 1), conv(4, 6, 3)],
    "relu of counts": lambda: [nn.ReLU(), nn.ReLU6(), conv(4, 6, 3)],
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("normed", [True, False])
def test_hidden_layers_convert_exactly(name: str, normed: bool) -> None:
    layers = HIDDEN[name]()
    channels = layers[-1].out_channels  # type: ignore[union-attr]
    norm = [any_gamma(nn.BatchNorm2d(channels), 1)] if normed else []
    check(nn.Sequential(*encoder(), *layers, *norm, act(), nn.Flatten(), nn.LazyLinear(3)))


def test_even_kernels_with_same_padding_convert_exactly() -> None:
    with pytest.warns(UserWarning, match="even kernel"):  # torch copies the input; the result is what counts
        check(nn.Sequential(*encoder(), conv(4, 6, (4, 2), padding="same"), act(), nn.Flatten(), nn.LazyLinear(3)))


CHAINS: dict[str, list[nn.Module]] = {
    "relu": [nn.ReLU()],
    "relu6": [nn.ReLU6()],
    "hardtanh": [nn.Hardtanh(-0.3, 0.8)],
    "two clips": [nn.Hardtanh(-0.5, 1.1), nn.ReLU(), nn.Hardtanh(0.25, 0.75)],
    "prelu": [nn.PReLU(init=0.25)],
    "prelu behind a clip": [nn.Hardtanh(-0.5, 0.9), nn.PReLU(init=2.0)],
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("grid", [None, TWTA])
def test_activations_in_front_of_a_quantizer_convert_exactly(name: str, grid: Grid | None) -> None:
    chain = [copy.deepcopy(module) for module in CHAINS[name]]
    quantizer = act() if grid is None else GridQuantizer(grid)
    check(
        nn.Sequential(*encoder(), conv(4, 6, 3), nn.BatchNorm2d(6), *chain, quantizer, nn.Flatten(), nn.LazyLinear(3))
    )


def test_an_encoder_of_several_layers_converts_exactly() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(4, 5, 2, 2)]
    check(nn.Sequential(*layers, nn.Hardtanh(0, 1), act(), conv(5, 4, 2), act(), nn.Flatten(), nn.LazyLinear(3)))


def test_an_mlp_that_flattens_first_converts_exactly() -> None:
    hidden = ternary(nn.Linear(20, 12, bias=False))
    check(
        nn.Sequential(
            nn.Flatten(), nn.Linear(192, 20), any_gamma(nn.BatchNorm1d(20)), act(), hidden,
            any_gamma(nn.BatchNorm1d(12), 2), act(0, 3), nn.Linear(12, 4, bias=False),
        )
    )  # fmt: skip


def test_the_network_may_take_flat_input() -> None:
    x = torch.rand(6, 10)
    check(nn.Sequential(nn.Linear(10, 8), act(), ternary(nn.Linear(8, 6)), act(), nn.Linear(6, 3)), x)


def test_a_quantizer_directly_on_the_input_converts_exactly() -> None:
    check(nn.Sequential(act(), conv(3, 4, 3), act(), nn.Flatten(), nn.LazyLinear(3)))


def test_a_network_may_end_in_counts() -> None:
    check(nn.Sequential(*encoder(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    check(nn.Sequential(*encoder(), nn.Flatten(), ternary(nn.Linear(256, 3)), any_gamma(nn.BatchNorm1d(3)), act()))


def test_a_batch_norm_behind_a_quantizer_is_requantized_exactly() -> None:
    check(nn.Sequential(*encoder(), any_gamma(nn.BatchNorm2d(4), 5), act(0, 3), nn.Flatten(), nn.LazyLinear(3)))


class Residual(nn.Module):
    """Identity and projected shortcuts, a quantizer used three times, functions instead of modules."""

    def __init__(self, grid: Grid | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.act = act() if grid is None else GridQuantizer(grid)
        self.conv1 = conv(4, 4, 3, padding=1, bias=False)
        self.norm1 = any_gamma(nn.BatchNorm2d(4), 1)
        self.conv2 = conv(4, 6, 3, stride=2, padding=1, bias=False)
        self.norm2 = any_gamma(nn.BatchNorm2d(6), 2)
        self.shortcut = conv(4, 6, 1, stride=2)
        self.norm3 = any_gamma(nn.BatchNorm2d(6), 3)
        self.last = act(0, 2) if grid is None else GridQuantizer(grid)
        self.readout = nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = self.act(F.relu(self.norm1(self.conv1(x)) + x))
        y = self.norm2(self.conv2(x))
        y += self.norm3(self.shortcut(x))
        y = F.dropout(self.last(y), 0.5, self.training)
        y = self.act(torch.add(y, y))
        return self.readout(y.view(y.size(0), -1))


@pytest.mark.parametrize("grid", [None, TWTA])
def test_residual_sums_and_a_reused_quantizer_convert_exactly(grid: Grid | None) -> None:
    model = Residual(grid)
    check(model)
    network = convert(model, X)
    calls = [(node.origin.module, node.origin.call) for node in network.nodes.values() if node.origin]
    assert calls == [("act", 0), ("act", 1), ("last", 0), ("act", 2)]
    sums = [layer for layer in network.layers.values() if isinstance(layer, SpikingLayer) and len(layer.branches) > 1]
    assert len(sums) == 3


def test_a_whole_block_used_twice_converts_exactly() -> None:
    block = nn.Sequential(conv(4, 4, 3, padding=1), any_gamma(nn.BatchNorm2d(4), 3), act())
    check(nn.Sequential(*encoder(), block, block, nn.Flatten(), nn.LazyLinear(3)))


FLATTENS: dict[str, Callable[[Tensor], Tensor]] = {
    "view, size": lambda x: x.view(x.size(0), -1),
    "view, shape": lambda x: x.view(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]),
    "view, -1": lambda x: x.view(-1, 256),
    "reshape": lambda x: x.reshape(x.shape[0], -1),
    "flatten": lambda x: x.flatten(1),
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "torch.flatten by keyword": lambda x: torch.flatten(x, start_dim=1),
}


class Flattened(nn.Module):
    def __init__(self, flatten: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.flatten, self.readout = nn.Sequential(*encoder()), flatten, nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.flatten(torch.relu(self.body(x)).relu()))


@pytest.mark.parametrize("name", FLATTENS)
def test_every_way_to_flatten_is_known(name: str) -> None:
    check(Flattened(FLATTENS[name]))


@pytest.mark.parametrize("quantization", ["k0B1", "k1B2"])
def test_the_published_lenet_converts_exactly(quantization: str) -> None:
    model = build_network("lenet", (1, 28, 28), 10, Quantization.parse(quantization), seed=1)
    x = torch.rand(2, 1, 28, 28)
    check(model, x)
    network = convert(model, x[:1])
    assert sum(torch.Size(network.nodes[name].shape).numel() for name, _ in network.units()) == 26_880
    assert network.levels == [{"k0B1": 1, "k1B2": 4}[quantization]] * 6


def pooled(window: tuple[int, int]) -> tuple[nn.Sequential, Tensor]:
    """A net whose potentials are n / (window's size): for even sizes some lie on a boundary exactly."""
    torch.manual_seed(2)
    layers = [act(0, 3), nn.AvgPool2d(window), conv(3, 8, 1, bias=False), act(0, 3), nn.Flatten(), nn.LazyLinear(3)]
    model = nn.Sequential(*layers).eval()
    x = torch.randint(0, 4, (60, 3, 2 * window[0], 2 * window[1])).float()
    model(x)
    return model, x


@pytest.mark.parametrize("window", [(2, 2), (3, 3), (2, 3), (6, 6), (7, 14)])
def test_a_mean_on_a_boundary_is_decided_in_exact_numbers(window: tuple[int, int]) -> None:
    model, x = pooled(window)
    _, sent = wires(convert(model, x[:1]), x)
    summed, count = (value.numpy() for value in list(sent.values())[1:3])
    weight = model[2].weight.detach().long().numpy()[:, :, 0, 0]
    U, size = np.einsum("oc,nchw->nohw", weight, summed), window[0] * window[1]
    assert np.array_equal(count, sum(((2 * i + 1) * size <= 2 * U).astype(int) for i in range(3)))


@pytest.mark.parametrize("window", [(2, 2), (3, 3), (5, 3)])
def test_a_mean_that_is_never_near_a_boundary_or_exact_converts_exactly(window: tuple[int, int]) -> None:
    model, x = pooled(window)
    assert_counts_are_codes(model, convert(model, x[:1]), x)


def test_layers_have_types_and_names_that_tell() -> None:
    hidden = [nn.AvgPool2d(2), conv(4, 5, 3), act(), nn.Flatten(), ternary(nn.Linear(20, 4)), act()]
    model = settled(nn.Sequential(*encoder(), *hidden, nn.Linear(4, 3)), X)
    network = convert(model, X)
    kinds = [type(layer) for layer in network.layers.values()]
    assert [kinds.count(kind) for kind in (SpikingConv2d, SpikingLinear, SumPool2d)] == [1, 1, 1]
    assert list(network.layers)[-1] == "readout"
    assert network.header.shape == (3, 8, 8)


# ---------------------------------------------------------------------------------------- refusals


def refused(model: nn.Module, match: str, x: Tensor = X) -> str:
    with pytest.raises(ConversionError, match=match) as error:
        convert(model.eval(), x)
    assert "\n" not in str(error.value), "a message is one sentence"
    return str(error.value)


def body(*layers: nn.Module, features: int = 256) -> nn.Sequential:
    return nn.Sequential(*encoder(), *layers, nn.Flatten(), nn.Linear(features, 3))


@pytest.mark.parametrize(
    ("layer", "words"), [(nn.Softplus(), "KBQuantizer"), (nn.ReflectionPad2d(0), "accepted are convolutions and dense")]
)
def test_an_unknown_layer_is_refused_with_path_type_and_what_to_do(layer: nn.Module, words: str) -> None:
    model = nn.Sequential(*encoder(), nn.Sequential(nn.Identity(), layer), nn.Flatten(), nn.Linear(256, 3))
    assert words in refused(model, rf"layer 3\.1 \({type(layer).__name__}\) cannot be converted: ")


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.function, self.readout = nn.Sequential(*encoder()), function, nn.Linear(256, 3)
        self.extra = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.function(self.body(x)).flatten(1))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "times a number": lambda x: x * 0.5,
    "plus a number": lambda x: x + 1,
    "minus": lambda x: x - x,
    "scaled sum": lambda x: torch.add(x, x, alpha=2),
    "index": lambda x: x[:, :, ::1],
    "permuted": lambda x: x.permute(0, 1, 3, 2),
    "padded": lambda x: F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1],
    "mean": lambda x: x - x.mean(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_unknown_function_is_refused(name: str) -> None:
    refused(Function(FUNCTIONS[name]), "layer .*(accepted|cannot)")


def test_dropout_that_stays_active_in_evaluation_is_refused() -> None:
    refused(Function(lambda x: F.dropout(x, 0.5)), "dropout")


def test_a_parameter_in_the_forward_is_refused() -> None:
    model = Function(lambda x: x)
    model.function = lambda x: x + model.extra
    refused(model, "layer")


LEAVING: dict[str, Callable[[], list[nn.Module]]] = {
    "conv": lambda: [conv(4, 4, 3, padding=1), conv(4, 4, 3, padding=1), act()],
    "relu": lambda: [conv(4, 4, 3, padding=1), nn.ReLU(), conv(4, 4, 3, padding=1), act()],
    "batch norm behind an activation": lambda: [conv(4, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4), act()],
    "pool": lambda: [conv(4, 4, 3, padding=1), nn.AvgPool2d(1), act()],
    "max pool": lambda: [conv(4, 4, 3, padding=1), nn.MaxPool2d(1), act()],
    "padding": lambda: [conv(4, 4, 3), nn.ZeroPad2d(1), act()],
    "flatten": lambda: [conv(4, 4, 3, padding=1), nn.Flatten(), ternary(nn.Linear(256, 256)), act()],
}


@pytest.mark.parametrize("name", LEAVING)
def test_an_unquantized_value_that_leaves_its_unit_is_refused_with_the_remedy(name: str) -> None:
    message = refused(body(*LEAVING[name]()), r"layer \d")
    assert "put an activation quantizer (such as KBQuantizer) between them" in message


def test_a_network_without_quantizer_is_refused_with_the_remedy() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)]
    refused(nn.Sequential(*layers), "no activation quantizer.*KBQuantizer")
    lenet = build_network("lenet", (1, 28, 28), 10, Quantization.parse("fp32"))
    refused(lenet, "no activation quantizer", torch.zeros(1, 1, 28, 28))


def test_a_foreign_parametrization_is_refused_by_name() -> None:
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(256, 8))
    refused(nn.Sequential(*encoder(), nn.Flatten(), layer, act(), nn.Linear(8, 3)), "layer 4.*_Orthogonal")


def branching(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def looping(x: Tensor) -> Tensor:
    return torch.stack([row for row in x])  # noqa: C416


def measuring(x: Tensor) -> Tensor:
    return x + x if len(x) > 3 else x


def ranging(x: Tensor) -> Tensor:
    return sum((x for _ in range(x.shape[0])), x)


@pytest.mark.parametrize("function", [branching, looping, measuring, ranging])
def test_a_data_dependent_forward_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    refused(Function(function), "cannot be traced")


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (1, 3, 9, 9), (3, 8, 8), (1, 3, 2, 2, 2), (1, 192)])
def test_an_example_that_does_not_fit_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(*encoder(), nn.Flatten(), nn.Linear(256, 3))
    refused(model, r"does not take an input of shape \[", torch.zeros(shape))


def test_several_outputs_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.body(x), x

    refused(Two(), "several outputs")


def test_several_inputs_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body()

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.body(x)

    refused(Two(), "takes 2 inputs")


def test_a_readout_that_ends_in_an_activation_is_refused() -> None:
    refused(nn.Sequential(*body(), nn.ReLU()), "ends in an activation")


BAD_SETTINGS: dict[str, Callable[[], list[nn.Module]]] = {
    "circular padding": lambda: [conv(4, 4, 3, padding=1, padding_mode="circular"), act()],
    "no running statistics": lambda: [conv(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), act()],
    "a slope a channel": lambda: [conv(4, 4, 1), nn.PReLU(4), act()],
    "a slope of zero": lambda: [conv(4, 4, 1), nn.PReLU(init=0.0), act()],
    "a slope below zero": lambda: [conv(4, 4, 1), nn.PReLU(init=-0.5), act()],
    "ceil mode": lambda: [nn.AvgPool2d(1, ceil_mode=True)],
    "padding not counted": lambda: [nn.AvgPool2d(3, 1, 1, count_include_pad=False)],
    "another divisor": lambda: [nn.AvgPool2d(1, divisor_override=3)],
    "max pool with ceil mode": lambda: [nn.MaxPool2d(1, ceil_mode=True)],
    "padding that crops": lambda: [nn.ZeroPad2d((-1, 1, 0, 0)), conv(4, 4, 1), act()],
    "padding in front of a quantizer": lambda: [nn.ZeroPad2d((1, -1, 0, 0)), act()],
    "adaptive windows of unequal size": lambda: [nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(8)],
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_settings_without_an_exact_counterpart_are_refused_with_the_layer(name: str) -> None:
    refused(body(*BAD_SETTINGS[name]()), r"layer \d")


def test_a_batch_norm_whose_variance_is_below_0_is_refused() -> None:
    model = body(conv(4, 4, 1), nn.BatchNorm2d(4), act())
    next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).running_var[2] = -0.1
    refused(model, r"layer \d.*running variance is below 0")


def test_padding_between_the_encoder_and_its_quantizer_is_refused() -> None:
    refused(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ZeroPad2d(1), act(), nn.Flatten(), nn.Linear(256, 3)), "padding")


def test_padding_in_front_of_a_batch_norm_in_the_encoder_is_refused() -> None:
    """Its zeros pass the batch norm in the ANN, so they must not wait for the next convolution."""
    layers = [nn.Conv2d(3, 4, 3), nn.ZeroPad2d(1), any_gamma(nn.BatchNorm2d(4)), nn.Conv2d(4, 4, 3, padding=1), act()]
    refused(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 3)), "padding")


def test_padding_in_front_of_a_clip_that_lifts_zeros_is_refused() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.ZeroPad2d(1), nn.Hardtanh(0.5, 1.0), nn.Conv2d(4, 4, 3, padding=1), act()]
    refused(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 3)), "padding")


class Broadcast(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*encoder())
        self.gate = nn.Sequential(nn.MaxPool2d(8)) if channels == 4 else nn.Sequential(conv(4, 1, 1), act())
        self.act, self.readout = act(), nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.readout(self.act(x + self.gate(x)).flatten(1))


@pytest.mark.parametrize("channels", [4, 1])
def test_a_sum_that_broadcasts_is_refused(channels: int) -> None:
    """Its fan-out is not 1 a position, so it would be counted wrongly."""
    refused(Broadcast(channels), "layer add")


# ------------------------------------------------------------------------------ the model stays its own


def test_the_model_is_left_as_it_was() -> None:
    model = Residual().train()
    model.norm1.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    convert(model, X)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_refused_model_is_left_in_training_mode_too() -> None:
    model = nn.Sequential(*encoder(), nn.Softplus(), nn.Flatten(), nn.Linear(256, 3)).train()
    with pytest.raises(ConversionError):
        convert(model, X)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_on_does_not_change_the_converted_network(dtype: torch.dtype) -> None:
    model = settled(nn.Sequential(*encoder(), conv(4, 4, 3, bias=True), act(), nn.Flatten(), nn.Linear(144, 3)), X).to(
        dtype
    )
    network = convert(model, X.to(dtype))
    before, _ = wires(network, X)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
        for buffer in model.buffers():
            buffer.add_(1)
    assert torch.equal(wires(network, X)[0], before)


def test_conversion_in_training_mode_gives_the_same_network() -> None:
    model = settled(Residual(), X)
    before = wires(convert(model, X), X)[0]
    assert torch.equal(wires(convert(model.train(), X), X)[0], before)

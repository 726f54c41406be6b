"""What users write that has no counts is refused by layer, reason and remedy; what is close to it converts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from own_networks import act
from torch import Tensor, nn
from torch.nn import functional as F

from snnconv.ann.quantizers import KBQuantizer
from snnconv.conversion.convert import convert
from snnconv.errors import ConversionError


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

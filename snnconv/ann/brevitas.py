"""Networks trained with Brevitas: their layers as torch's own, with the same integers.

``QuantReLU``, ``QuantIdentity`` and ``QuantHardTanh`` become quantizers whose grid has their scale, bit width, zero
point and rounding; ``QuantConv1d``, ``QuantConv2d`` and ``QuantLinear`` become layers of torch's whose weights are
their integers times their scales. With n the integer of a value, in low .. high,

    value = (n - zero_point) * scale ,    code = n - zero_point

Brevitas itself is not imported: whoever has such a network has it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnconv.ann.quantizers import Quantizer
from snnconv.ann.weights import Part, WeightQuantizer
from snnconv.errors import ConversionError
from snnconv.grids import MAX_LEVELS, Grid

ROUNDINGS = ("ROUND", "FLOOR", "CEIL")
"""Those of Brevitas that are known: to the nearest with halves to even, down, up."""
ACTIVATIONS = ("QuantReLU", "QuantIdentity", "QuantHardTanh")
LAYERS: dict[str, type[nn.Conv1d | nn.Conv2d | nn.Linear]] = {
    "QuantConv1d": nn.Conv1d,
    "QuantConv2d": nn.Conv2d,
    "QuantLinear": nn.Linear,
}
LARGEST_CODE = 127
"""Of a weight."""
REACH = 3
"""So many steps beyond the last code a quantizer is tried."""


class FixedQuantizer(Quantizer):
    """Any scale, integers low .. high around a zero point, and a rounding of Brevitas; any shape, elementwise.

        a = scale * (clip(round(z / scale + zero_point), low, high) - zero_point)

    It is decided by comparison with the boundaries. No gradient passes: such a network was trained where it was made.

    Args:
        scale: Value of one code.
        low: Smallest integer.
        high: Largest integer.
        zero_point: Integer that stands for 0, low .. high.
        rounding: One of ``ROUNDINGS``.

    Raises:
        ConversionError: a rounding, or numbers of which no grid can be made.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: float, low: int, high: int, zero_point: int = 0, rounding: str = "ROUND") -> None:
        super().__init__()
        if rounding not in ROUNDINGS:
            raise ConversionError(f"it rounds by {rounding}; {', '.join(ROUNDINGS)} are accepted")
        if low >= high:
            raise ConversionError("it is binary; quantizers that round to integers are accepted: take 2 bits")
        if not low <= zero_point <= high or high - low > MAX_LEVELS:
            raise ConversionError(
                f"it has the integers {low}..{high} around zero point {zero_point}; at most {MAX_LEVELS + 1} are "
                "accepted, with the zero point among them: take fewer bits"
            )
        self.low, self.high, self.rounding = low, high, rounding
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        self.register_buffer("zero_point", torch.tensor(zero_point))

    @property
    def grid(self) -> Grid:  # type: ignore[override]
        """Between the integers n and n + 1 lies n + 1/2, n + 1 (rounded down) or n (rounded up); a half is even."""
        scale, zero = float(self.scale), int(self.zero_point)
        below = range(self.low, self.high)
        place = {"ROUND": 0.5, "FLOOR": 1.0, "CEIL": 0.0}[self.rounding]
        boundaries = tuple((n + place - zero) * scale for n in below)
        closed = tuple(self.rounding == "FLOOR" or (self.rounding == "ROUND" and n % 2 == 1) for n in below)
        return Grid(scale, self.high - zero, zero - self.low, boundaries, closed)

    def forward(self, z: Tensor) -> Tensor:
        grid = self.grid
        code = torch.full_like(z, -grid.negative)
        for boundary, closed in zip(grid.boundaries, grid.closed, strict=True):
            code += (z >= boundary) if closed else (z > boundary)
        return code * grid.step

    def extra_repr(self) -> str:
        return f"integers={self.low}..{self.high}, rounding={self.rounding}"


class CodedWeight(WeightQuantizer):
    """A weight that was quantized elsewhere: codes times a scale of any float, one an output channel.

    Its latents are codes and scales; no gradient passes. Codes times scales are exact in float64 only.

    Args:
        scale: (C,) or (1,).
    """

    wide = True

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self._scale = scale

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        column = self._scale.double().reshape(-1, *[1] * (weight.ndim - 1))
        return (weight.double() / column).round().to(weight.dtype), self._scale.to(weight.dtype)

    def parts(self, *latents: Tensor) -> list[Part]:
        codes, scale = latents
        return [Part(codes.to(torch.int8), scale.double().expand(len(codes)).clone())]

    def pass_back(self, gradient: Tensor, *latents: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(latent) for latent in latents)


def is_of_brevitas(module: nn.Module) -> bool:
    """Whether a module is one of Brevitas's own."""
    return type(module).__module__.startswith("brevitas.")


def from_brevitas(model: nn.Module) -> nn.Module:
    """Copy of a network trained with Brevitas in which its layers are torch's, with the same integers; for evaluation.

    Raises:
        ConversionError: a layer of Brevitas that is not known, or one whose integers are not to be had, by its path.
    """
    copied = copy.deepcopy(model).eval()
    return _replaced(copied, "", {})


def _replaced(module: nn.Module, path: str, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """The module with Brevitas's own inside it replaced, or what replaces it; one used at two places stays one."""
    if module in made:
        return made[module]
    made[module] = module
    if is_of_brevitas(module):
        kind = type(module).__name__
        try:
            with torch.no_grad():
                made[module] = _activation(module) if kind in ACTIVATIONS else _layer(module)
        except ConversionError as error:
            raise ConversionError(f"layer {path} ({kind} of Brevitas): {error}") from error
        return made[module]
    for name, child in list(module._modules.items()):  # named_children leaves out second names
        if child is not None:
            setattr(module, name, _replaced(child, f"{path}.{name}" if path else name, made))
    return module


def _activation(module: Any) -> nn.Module:
    quantizer = _quantizer(module.act_quant)
    if quantizer is None:
        raise ConversionError("its quantization is switched off: a float activation is no count")
    _try_out(module, quantizer)
    before = _quantizer(module.input_quant)
    return quantizer if before is None else nn.Sequential(before, quantizer)


def _layer(module: Any) -> nn.Module:
    kind = LAYERS.get(type(module).__name__)
    if kind is None:
        raise ConversionError(f"it is not accepted; {', '.join((*LAYERS, *ACTIVATIONS))} are")
    if getattr(module, "is_same_padded_strided", False):
        raise ConversionError("padding_type='same' is not accepted: give the padding as numbers")
    bias = _bias(module)
    if kind is nn.Linear:
        plain: Any = nn.Linear(module.in_features, module.out_features, bias is not None)
    else:
        size = (module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding)
        rest = (module.dilation, module.groups, bias is not None, module.padding_mode)
        plain = cast(Callable[..., nn.Module], kind)(*size, *rest)
    plain.weight = nn.Parameter(module.weight.detach().clone(), requires_grad=False)
    plain.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    if module.weight_quant.is_quant_enabled:
        weight = module.quant_weight()
        scale = weight.scale.detach().reshape(-1)
        if len(scale) not in (1, len(plain.weight)):
            raise ConversionError(f"its weight has {len(scale)} scales; one, or one an output channel, is accepted")
        plain.weight.copy_(weight.value.detach())
        codes = weight.value.double() / scale.double().reshape(-1, *[1] * (weight.value.ndim - 1))
        if float((codes - codes.round()).abs().max()) > 1e-3 or float(codes.abs().max()) > LARGEST_CODE:
            raise ConversionError(f"the integers of its weight exceed -{LARGEST_CODE}..{LARGEST_CODE}: take fewer bits")
        parametrize.register_parametrization(plain, "weight", CodedWeight(scale))
        for latent in cast(nn.ModuleDict, plain.parametrizations)["weight"].parameters():
            latent.requires_grad_(False)
    around = [_quantizer(module.input_quant), plain, _quantizer(module.output_quant)]
    kept = [own for own in around if own is not None]
    return plain if len(kept) == 1 else nn.Sequential(*kept)


def _bias(module: Any) -> Tensor | None:
    """The bias as it is added; a quantized one with its rounding."""
    if module.bias is None:
        return None
    if not module.bias_quant.is_quant_enabled:
        return cast(Tensor, module.bias)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            quantized = module.quant_bias()
        except RuntimeError:
            quantized = None
    if quantized is None:
        raise ConversionError(
            "its bias is quantized by the scale of its input: set cache_inference_quant_bias=True in the layer and "
            "show it a batch in evaluation mode, or train with bias_quant=None"
        )
    return cast(Tensor, quantized.value)


def _quantizer(proxy: Any) -> FixedQuantizer | None:
    """The quantizer that a proxy of Brevitas holds; None where it holds none."""
    if not proxy.is_quant_enabled:
        return None
    scale, zero_point, bits = (float(t) for t in _single(proxy.scale(), proxy.zero_point(), proxy.bit_width()))
    signed, narrow = bool(proxy.is_signed), bool(proxy.is_narrow_range)
    low = -(2 ** (int(bits) - 1)) + narrow if signed else 0
    high = 2 ** (int(bits) - 1) - 1 if signed else 2 ** int(bits) - 1 - narrow
    return FixedQuantizer(scale, low, high, round(zero_point), str(proxy.rounding_mode))


def _single(*values: Any) -> list[Tensor]:
    for name, value in zip(("scale", "zero point", "bit width"), values, strict=True):
        if value is None or value.numel() != 1:
            raise ConversionError(f"it has {'no' if value is None else value.numel()} {name}; one a layer is accepted")
    return [value.detach().reshape(()) for value in values]


def _try_out(module: Any, quantizer: FixedQuantizer) -> None:
    """See that an activation does what its settings say: at each integer and well inside its half on both sides."""
    grid = quantizer.grid
    wanted = torch.arange(quantizer.low - REACH, quantizer.high + REACH + 1) - int(quantizer.zero_point)
    middle = {"ROUND": 0.0, "FLOOR": 0.5, "CEIL": -0.5}[quantizer.rounding]
    z = torch.cat([(wanted + middle + aside) * grid.step for aside in (-0.4, 0.0, 0.4)]).float()
    given = module.act_quant(z)
    given = getattr(given, "value", given)
    if not torch.allclose(given.double(), quantizer(z.double()), atol=1e-3 * grid.step, rtol=1e-5):
        raise ConversionError(
            f"it does not round to {grid.levels + 1} integers as its settings say; quantizers of integers by rounding "
            "are accepted"
        )

"""Functions and methods as the modules they stand for: one rule serves ``nn.MaxPool2d`` and ``F.max_pool2d``.

Each entry takes the arguments of a call other than the tensor, under their names and in the order of torch's, and gives
the module that does the same. Arguments are plain values by then: sizes are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional

from snnconv.errors import ConversionError

Size = int | Sequence[int]


class Call(NamedTuple):
    """A kind of call: the type of module it stands for, and how its arguments make one."""

    kind: type[nn.Module]
    make: Callable[..., nn.Module]


class Mean(nn.Module):
    """Stands for a mean over the pixels of each channel: ``x.mean((2, 3))``."""

    def __init__(self, dim: Size, keepdim: bool) -> None:
        super().__init__()
        self.dim, self.keepdim = (dim,) if isinstance(dim, int) else tuple(dim), keepdim


class Concatenation(nn.Module):
    """Stands for ``torch.cat`` along one dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim


class Border(nn.Module):
    """Stands for a border of one value around each channel, (left, right, top, bottom) wide."""

    def __init__(self, padding: Sequence[int], value: float, mode: str = "constant") -> None:
        super().__init__()
        self.padding, self.value, self.mode = tuple(padding), value, mode


def _relu(inplace: bool = False) -> nn.Module:
    return nn.ReLU()


def _clip(min: float | None = None, max: float | None = None) -> nn.Module:
    low, high = (-math.inf if min is None else min), (math.inf if max is None else max)
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        raise ConversionError("its bounds are tensors; plain numbers are accepted")
    if not low < high:
        raise ConversionError(f"its bounds {low} and {high} leave one value only")
    return nn.Hardtanh(low, high)


def _at_least(min: float) -> nn.Module:
    return _clip(min)


def _at_most(max: float) -> nn.Module:
    return _clip(None, max)


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> nn.Module:
    return nn.Hardtanh(min_val, max_val)


def _relu6(inplace: bool = False) -> nn.Module:
    return nn.ReLU6()


def _max_pool(kind: type[nn.MaxPool1d | nn.MaxPool2d]) -> Callable[..., nn.Module]:
    def make(
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> nn.Module:
        return kind(kernel_size, stride or None, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]

    return make


def _average_pool_1d(
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> nn.Module:
    return nn.AvgPool1d(kernel_size, stride or None, padding, ceil_mode, count_include_pad)  # type: ignore[arg-type]


def _average_pool_2d(
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> nn.Module:
    settings = (kernel_size, stride or None, padding, ceil_mode, count_include_pad, divisor_override)
    return nn.AvgPool2d(*settings)  # type: ignore[arg-type]


def _border(pad: Sequence[int], mode: str = "constant", value: float | None = None) -> nn.Module:
    if len(pad) not in (2, 4):
        raise ConversionError(f"padding {list(pad)} is accepted for one or two sides of an image only")
    return Border([*pad, *(0,) * (4 - len(pad))], 0.0 if value is None else value, mode)


def _dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module:
    if training is not False:
        raise ConversionError("it drops values in evaluation mode, too: give it training=self.training")
    return nn.Dropout(p)


def _mean(dim: Size | None = None, keepdim: bool = False, axis: Size | None = None) -> nn.Module:
    over = axis if dim is None else dim
    if over is None:
        raise ConversionError("a mean over the whole batch is not accepted; one over the pixels, dim=(2, 3), is")
    return Mean(over, keepdim)


def _concatenation(dim: int = 0, axis: int | None = None) -> nn.Module:
    return Concatenation(dim if axis is None else axis)


def _reshape(*shape: Any, **named: Any) -> nn.Module:
    return nn.Flatten()  # the graph knows the shape that comes out


RELU, CLIP, RESHAPE = Call(nn.ReLU, _relu), Call(nn.Hardtanh, _clip), Call(nn.Flatten, _reshape)
AT_LEAST, AT_MOST = Call(nn.Hardtanh, _at_least), Call(nn.Hardtanh, _at_most)
HARDTANH, RELU6 = Call(nn.Hardtanh, _hardtanh), Call(nn.ReLU6, _relu6)
MEAN, CAT = Call(Mean, _mean), Call(Concatenation, _concatenation)
DROPOUT, KEEP = Call(nn.Dropout, _dropout), Call(nn.Identity, lambda: nn.Identity())
MAX1, MAX2 = Call(nn.MaxPool1d, _max_pool(nn.MaxPool1d)), Call(nn.MaxPool2d, _max_pool(nn.MaxPool2d))
AVERAGE1, AVERAGE2 = Call(nn.AvgPool1d, _average_pool_1d), Call(nn.AvgPool2d, _average_pool_2d)
ADAPTIVE1 = Call(nn.AdaptiveAvgPool1d, lambda output_size: nn.AdaptiveAvgPool1d(output_size))
ADAPTIVE2 = Call(nn.AdaptiveAvgPool2d, lambda output_size: nn.AdaptiveAvgPool2d(output_size))

CALLS: dict[Callable[..., Any] | str, Call] = {
    functional.relu: RELU,
    torch.relu: RELU,
    torch.relu_: RELU,
    "relu": RELU,
    "relu_": RELU,
    functional.relu6: RELU6,
    functional.hardtanh: HARDTANH,
    functional.hardtanh_: HARDTANH,
    torch.clamp: CLIP,
    torch.clip: CLIP,
    "clamp": CLIP,
    "clamp_": CLIP,
    "clip": CLIP,
    "clip_": CLIP,
    torch.clamp_min: AT_LEAST,
    "clamp_min": AT_LEAST,
    torch.clamp_max: AT_MOST,
    "clamp_max": AT_MOST,
    functional.max_pool1d: MAX1,
    torch.max_pool1d: MAX1,
    functional.max_pool2d: MAX2,
    torch.max_pool2d: MAX2,
    functional.avg_pool1d: AVERAGE1,
    functional.avg_pool2d: AVERAGE2,
    functional.adaptive_avg_pool1d: ADAPTIVE1,
    functional.adaptive_avg_pool2d: ADAPTIVE2,
    torch.mean: MEAN,
    "mean": MEAN,
    torch.cat: CAT,
    torch.concat: CAT,
    torch.concatenate: CAT,
    functional.pad: Call(Border, _border),
    functional.dropout: DROPOUT,
    functional.dropout1d: DROPOUT,
    functional.dropout2d: DROPOUT,
    torch.flatten: RESHAPE,
    torch.reshape: RESHAPE,
    torch.squeeze: RESHAPE,
    torch.unsqueeze: RESHAPE,
    torch.unflatten: RESHAPE,
    "flatten": RESHAPE,
    "view": RESHAPE,
    "reshape": RESHAPE,
    "squeeze": RESHAPE,
    "unsqueeze": RESHAPE,
    "unflatten": RESHAPE,
    "contiguous": KEEP,
    "detach": KEEP,
    "clone": KEEP,
}


def module_of(call: Call, node: fx.Node) -> nn.Module:
    """The module that a call stands for.

    Raises:
        ConversionError: arguments that no such module has.
    """
    rest, named = fx.node.map_arg((node.args[1:], node.kwargs), lambda source: source.meta["plain"])
    named = {name: value for name, value in named.items() if name not in ("input", "tensors")}
    try:
        return call.make(*rest, **named)
    except (TypeError, ValueError) as error:
        raise ConversionError(f"its arguments are not understood ({error}): give it those of torch's own") from error

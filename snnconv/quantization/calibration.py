"""Ranges of a float network's activations, found on images: how large the value of the last code should be.

``max`` takes the largest value of a layer; ``percentile`` one that a given part of the values above 0 stays below;
``mse`` the range r of least squared error of the quantized values,

    sum over values z > 0 of (z - (r / L) min(floor(z L / r + 1/2), L))^2

and ``balance`` is local threshold balancing: from r = 0, batch by batch, with all layers at once and each clipped to
its range,

    r <- r + 2 mean over all values of max(z - r, 0)

whose fixed point is the largest value; it is stopped long before, so that rare large values count little.

Ref: Diehl et al. 2015, IJCNN (max); Rueckauer et al. 2017, Front. Neurosci. 11:682 (percentile); Bu, Li, Yu 2025, CVPR,
arXiv:2409.03368 (local threshold balancing).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from snnconv.ann.learned import LearnedQuantizer
from snnconv.config import Calibration
from snnconv.conversion.graph import evaluation_mode
from snnconv.quantization.inserting import quantizers_of

KEPT = 2**20
"""About so many values of a layer are kept, of units drawn once."""
TRIED = 2**17
"""So many of them are looked at by ``mse``."""
OCTAVES, PER_OCTAVE = 8, 24
"""Ranges that ``mse`` tries: from the largest value down, on a logarithmic scale."""


def calibrate(model: fx.GraphModule, batches: Callable[[], Iterable[Tensor]], settings: Calibration) -> None:
    """Set the step of each learned quantizer: its range, or the largest of those that share it, divided by L.

    Args:
        model: A network with learned quantizers; it is seen in evaluation mode.
        batches: Gives images as the network takes them, the same ones each time it is called.
        settings: How.
    """
    found = ranges(model, batches, settings)
    quantizers = quantizers_of(model)
    for quantizer in quantizers.values():
        alike = [path for path, other in quantizers.items() if other.log_step is quantizer.log_step]
        quantizer.set_step(max(float(found[path]) for path in alike) / quantizer.levels)


def ranges(
    model: fx.GraphModule, batches: Callable[[], Iterable[Tensor]], settings: Calibration, per_channel: bool = False
) -> dict[str, Tensor]:
    """Range of each learned quantizer by path, float64: one number, or one a channel.

    A layer that never fires gets a range of 1, a silent channel that of the largest.
    """
    own = balanced if settings.method == "balance" else measured
    found = own(model, batches, settings, per_channel)
    return {path: _filled(value) for path, value in found.items()}


def measured(
    model: fx.GraphModule, batches: Callable[[], Iterable[Tensor]], settings: Calibration, per_channel: bool
) -> dict[str, Tensor]:
    """Ranges by ``max``, ``percentile`` or ``mse``, from the values of the float network."""
    seen: dict[str, _Seen] = {}
    images = sum(len(x) for x in batches())

    def look(path: str, quantizer: LearnedQuantizer, z: Tensor) -> None:
        seen.setdefault(path, _Seen(images)).add(z)

    with bypassed(model), watched(model, look):
        _show(model, batches())
    found = {}
    for path, quantizer in quantizers_of(model).items():
        rows = seen[path].rows(per_channel)
        if settings.method == "max":
            found[path] = seen[path].largest if per_channel else seen[path].largest.max()
        elif settings.method == "percentile":
            found[path] = torch.stack([_percentile(row, settings.percentile) for row in rows])
        else:
            found[path] = torch.stack([_least_error(row, quantizer.levels) for row in rows])
        found[path] = found[path] if per_channel else found[path].reshape(())
    return found


def balanced(
    model: fx.GraphModule, batches: Callable[[], Iterable[Tensor]], settings: Calibration, per_channel: bool
) -> dict[str, Tensor]:
    """Ranges by local threshold balancing."""
    found: dict[str, Tensor] = {}

    def clip(path: str, quantizer: LearnedQuantizer, z: Tensor) -> Tensor:
        over = [dim for dim in range(z.ndim) if not (per_channel and dim == 1)]
        shape = [-1 if per_channel and dim == 1 else 1 for dim in range(z.ndim)]
        before = found.get(path, torch.zeros((), dtype=torch.float64, device=z.device))
        beyond = (z.double() - before.reshape(shape if before.ndim else ())).clamp(min=0)
        found[path] = before + 2 * beyond.mean(over)
        return torch.minimum(z.clamp(min=0), found[path].to(z.dtype).reshape(shape if per_channel else ()))

    with bypassed(model), watched(model, clip):
        _show(model, itertools.islice(_again(batches), settings.iterations))
    return found


@contextmanager
def bypassed(model: fx.GraphModule, but: str | None = None) -> Iterator[None]:
    """Make all learned quantizers plain ReLUs, but one, and back."""
    quantizers = quantizers_of(model)
    for path, quantizer in quantizers.items():
        quantizer.bypassed = path != but
    try:
        yield
    finally:
        for quantizer in quantizers.values():
            quantizer.bypassed = False


@contextmanager
def watched(model: fx.GraphModule, look: Callable[[str, LearnedQuantizer, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``look`` with what each learned quantizer is given; what it returns, if anything, is passed on instead."""
    handles: list[RemovableHandle] = []
    for path, quantizer in quantizers_of(model).items():

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, path: str = path) -> Tensor | None:
            assert isinstance(module, LearnedQuantizer)
            return look(path, module, inputs[0])

        handles.append(quantizer.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Seen:
    """Values of one layer: the largest of each channel, and those of some units."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._maxima: list[Tensor] = []
        self._values: list[Tensor] = []
        self._places: Tensor | None = None

    def add(self, z: Tensor) -> None:
        rows = z.detach().flatten(2) if z.ndim > 2 else z.detach().unsqueeze(2)  # (n, C, places)
        if self._places is None:
            draw = torch.Generator().manual_seed(0)
            number = min(rows.shape[2], max(1, KEPT // (rows.shape[1] * self._images)))
            self._places = torch.randperm(rows.shape[2], generator=draw)[:number].to(z.device)
        self._maxima.append(rows.amax((0, 2)).double())
        self._values.append(rows[:, :, self._places].transpose(0, 1).flatten(1).cpu())

    @property
    def largest(self) -> Tensor:
        """Of each channel, float64 (C,)."""
        return torch.stack(self._maxima).amax(0).clamp(min=0).cpu()

    def rows(self, per_channel: bool) -> list[Tensor]:
        """Values above 0: of each channel, or of all together."""
        values = torch.cat(self._values, 1)
        return [row[row > 0].double() for row in (values if per_channel else values.reshape(1, -1))]


def _percentile(values: Tensor, percentile: float) -> Tensor:
    """Smallest value that so many percent of all do not exceed; 0 of none."""
    if not len(values):
        return torch.zeros((), dtype=torch.float64)
    return values.sort().values[max(0, math.ceil(percentile / 100 * len(values)) - 1)]


def _least_error(values: Tensor, levels: int) -> Tensor:
    """Range of least squared error; 0 of no values."""
    if not len(values):
        return torch.zeros((), dtype=torch.float64)
    values = values[:: max(1, len(values) // TRIED)]
    largest = values.max()
    tried = largest * 2.0 ** (-torch.arange(OCTAVES * PER_OCTAVE, dtype=torch.float64) / PER_OCTAVE)
    return tried[torch.stack([squared_error(values, float(r), levels) for r in tried]).argmin()]


def squared_error(values: Tensor, largest: float, levels: int) -> Tensor:
    """Mean squared error of values above 0 on L codes up to a range."""
    step = largest / levels
    return (values - step * (values / step + 0.5).floor_().clamp_(max=levels)).square_().mean()


def _filled(value: Tensor) -> Tensor:
    """Ranges of what never fires, which any number would do for."""
    most = value.max()
    return torch.where(value > 0, value, torch.where(most > 0, most, 1.0)).cpu()


@torch.no_grad()
def _show(model: nn.Module, batches: Iterable[Tensor]) -> None:
    with evaluation_mode(model):
        for x in batches:
            model(x)


def _again(batches: Callable[[], Iterable[Tensor]]) -> Iterator[Tensor]:
    while True:
        yield from batches()

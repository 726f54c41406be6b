"""The integer way on the CPU: oneDNN's int8 convolutions, which torch ships; no compiler is needed for them.

Counts travel as int8, channels last. A layer is one call: products of counts and weight codes are summed in 32 bits,
and the ladder rides on the call as a requantization,

    count(U) = clamp(round(slope * U + shift), -negative, positive)

where this is proven for every channel (``affine.fit_rounding``). Elsewhere the call gives potentials, which meet their
thresholds one by one; so do sums of several branches, by a compiled kernel where there is one.

oneDNN takes unsigned bytes. Where counts start at low < 0 they are stored as count - low, border included; every sum is
then too large by -low * sum w, which thresholds and potentials take back. (oneDNN's own zero point gives wrong sums for
some shapes.) Two limits keep every sum exact on every x86 processor:

* Without VNNI two products are added in 16 bits and saturate: 2 max|w| (high - low) <= 2^15 - 1. Unsigned counts pass
  with any weight, 2 * 127 * 127 = 32258, signed ones with ternary weights at least, 2 * 1 * 254.
* Sums leave as float32: sum |w| (high - low) < 2^24.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from snnconv.engines.affine import Affine, fit_rounding
from snnconv.engines.dense import slope_and_reach
from snnconv.engines.encoder import CHUNK
from snnconv.engines.kernels import Combination, Kernels
from snnconv.engines.layered import Step
from snnconv.grids import MAX_LEVELS
from snnconv.snn.exact import exact_dtype
from snnconv.snn.layers import SpikingLayer, channelwise
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.neurons.ladder import ladder_step
from snnconv.snn.synapses import Conv2dSynapse, IdentitySynapse, LinearSynapse, Synapse

OPERATORS = ("qconv_prepack", "qconv2d_pointwise", "qlinear_prepack", "qlinear_pointwise")
LARGEST_PAIR = 2**15 - 1
"""Largest sum of two products where they are added in 16 bits."""
LARGEST_SUM = 2**24 - 1
"""Integers up to this are exact in float32."""


class IntegerSynapse:
    """A convolution or dense layer on int8 counts, with its ladder or without.

    Args:
        synapse: The linear map, one for which ``fits`` holds.
        sign: What its weights are multiplied by, (C_out,), -1, 0 or 1.
        shape: Shape of one input, (C, H, W) or (C,).
        counts: Smallest and largest incoming count.
        rounding: The ladder as ``rounding_of`` gives it for these counts; None leaves potentials.
        codes: Smallest and largest count of the ladder.
    """

    def __init__(
        self,
        synapse: Synapse,
        sign: Tensor,
        shape: Sequence[int],
        counts: tuple[int, int],
        rounding: Affine | None = None,
        codes: tuple[int, int] = (0, 0),
    ) -> None:
        weight = synapse.weight * sign.to(torch.int8).reshape(-1, *[1] * (synapse.weight.ndim - 1))
        ones, zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int32)
        self._surplus = max(0, -counts[0])
        self._lift: Tensor | None = None
        if self._surplus and rounding is None:
            self._lift = lift(synapse, sign, counts).float().reshape(1, -1, *[1] * (weight.ndim - 2))
        self._order: tuple[int, ...] | None = None
        self._border: tuple[int, ...] = (0, 0, 0, 0)
        self._geometry: tuple[object, ...] = ()
        if isinstance(synapse, Conv2dSynapse):
            self._order = synapse.channels
            if synapse.groups == 1 and self._order is not None and sorted(self._order) == list(range(shape[0])):
                weight, self._order = weight[:, torch.tensor(self._order).argsort()], None
            left, right, top, bottom = synapse.padding
            if (left, top) != (right, bottom) or self._surplus:
                self._border, left, top = synapse.padding, 0, 0
            high, wide = shape[1] + sum(self._border[2:]), shape[2] + sum(self._border[:2])
            self._geometry = list(synapse.stride), [top, left], list(synapse.dilation), synapse.groups
            size = [1, weight.shape[1] * synapse.groups, high, wide]
            packed = torch.ops.onednn.qconv_prepack(weight, ones, 1.0, 0, *self._geometry, size)
            self._operator = torch.ops.onednn.qconv2d_pointwise
        else:
            packed = torch.ops.onednn.qlinear_prepack(weight, None)
            self._operator = torch.ops.onednn.qlinear_pointwise
        self._weight: tuple[Tensor | None, ...] = (packed, ones, zeros, None)
        self._out: tuple[object, ...] = (torch.float32, "none", [], "")
        if rounding is not None:
            self._weight = (packed, rounding.slope, zeros, rounding.shift)
            self._out = (torch.int8, "hardtanh", list(codes), "")

    @staticmethod
    def fits(synapse: Synapse, counts: tuple[int, int]) -> bool:
        """Whether sums of such counts are exact, and counts and weights are int8 in either sign."""
        if not isinstance(synapse, Conv2dSynapse | LinearSynapse) or synapse.weight.dtype != torch.int8:
            return False
        low, high = min(counts[0], 0), counts[1]
        weight = synapse.weight.to(torch.int16).abs().max()
        small = max(-low, high, int(weight)) <= MAX_LEVELS
        return small and 2 * int(weight) * (high - low) <= LARGEST_PAIR and synapse.reach(high - low) <= LARGEST_SUM

    def __call__(self, counts: Tensor) -> Tensor:
        """Counts (int8) or potentials (float32), channels last."""
        if self._order is not None:
            counts = counts[:, list(self._order)]
        if any(self._border):
            counts = functional.pad(counts, self._border)
        stored = counts.view(torch.uint8)
        if self._surplus:
            stored = stored + self._surplus  # bytes of negative counts wrap to where they belong
        sent: Tensor = self._operator(stored, 1.0, 0, *self._weight, *self._geometry, 1.0, 0, *self._out)
        return sent if self._lift is None else sent - self._lift


def has_operators() -> bool:
    """Whether torch has the operators here and may use them, on a processor (x86) that the limits are made for."""
    onednn: Any = torch.backends.mkldnn
    usable = torch.backends.cpu.get_cpu_capability().startswith("AVX") and onednn.is_available() and onednn.enabled
    return bool(usable) and all(hasattr(torch.ops.onednn, name) for name in OPERATORS)


def lift(synapse: Synapse, sign: Tensor, counts: tuple[int, int]) -> Tensor:
    """What storing counts as count - low adds to each channel's sum, int64 (C_out,)."""
    return max(0, -counts[0]) * synapse.weight.to(torch.int64).flatten(1).sum(1) * sign.to(torch.int64)


def rounding_of(layer: SpikingLayer, counts: tuple[int, int]) -> Affine | None:
    """The ladder of a layer of one branch as a requantization of its lifted sums, where it is proven."""
    synapse, sign = layer.branches[0].synapse, layer.multipliers[0]
    slope, _ = slope_and_reach(layer)
    reach = synapse.reaches(counts[1] - min(counts[0], 0)) * sign.abs()
    return fit_rounding(layer.neuron.thresholds + lift(synapse, sign, counts), layer.grid.negative, slope, reach)


def integer_step(network: SpikingNetwork, name: str, kernels: Kernels | None = None) -> Step | None:
    """The layer by int8 convolutions, where they can run it; sums of branches by a kernel, where there are kernels."""
    layer, wires = network.layers[name], network.nodes[name].inputs
    if not isinstance(layer, SpikingLayer) or network.device.type != "cpu" or not has_operators():
        return None
    ranges, shapes = [network.count_range(wire) for wire in wires], [network.wire_shape(wire) for wire in wires]
    synapses = [branch.synapse for branch in layer.branches]
    fit = [IntegerSynapse.fits(synapse, counts) for synapse, counts in zip(synapses, ranges, strict=True)]
    if not any(fit) or any(max(high, -low) > MAX_LEVELS for low, high in ranges):
        return None
    if len(synapses) == 1:
        rounding, codes = rounding_of(layer, ranges[0]), (-layer.grid.negative, layer.grid.positive)
        only = IntegerSynapse(synapses[0], layer.multipliers[0], shapes[0], ranges[0], rounding, codes)
        if rounding is not None:
            return Step("integer", only, torch.int8)
        ladder = layer.neuron.thresholds, layer.grid.negative
        return Step("integer", lambda counts: ladder_step(only(counts), *ladder), torch.int8)
    parts = [
        IntegerSynapse(synapse, torch.ones(synapse.out_channels), shape, counts) if exact else _plain(synapse, reach)
        for synapse, shape, counts, exact, reach in zip(synapses, shapes, ranges, fit, layer.reaches, strict=True)
    ]
    counted = all(own or isinstance(synapse, IdentitySynapse) for own, synapse in zip(fit, synapses, strict=True))
    total = _sum(layer)
    if kernels is not None and counted:
        total = Combination(layer, network.nodes[name].shape, kernels)
    return Step("integer", lambda *sent: total(*(part(x) for part, x in zip(parts, sent, strict=True))), torch.int8)


def _plain(synapse: Synapse, reach: int) -> Callable[[Tensor], Tensor]:
    """Potentials of a synapse that has no int8 operator; a shortcut's are its counts."""
    if isinstance(synapse, IdentitySynapse):
        return lambda counts: counts
    return lambda counts: synapse.potential(counts.to(exact_dtype(reach)))


def _sum(layer: SpikingLayer) -> Callable[..., Tensor]:
    """Counts of several branches from the potentials of each, a few images at a time.

    Z = sum_b M_b * U_b + C is an integer that float64 holds (``thresholds.POTENTIAL_BITS``).
    """
    multipliers, constant = layer.multipliers.double(), layer.constant.double()

    def fire(*potentials: Tensor) -> Tensor:
        Z = channelwise(constant, potentials[0])
        for multiplier, potential in zip(multipliers, potentials, strict=True):
            Z = torch.addcmul(Z, channelwise(multiplier, potential), potential.double())
        return ladder_step(Z, layer.neuron.thresholds, layer.grid.negative)

    def run(*potentials: Tensor) -> Tensor:
        images = max(1, CHUNK // potentials[0][0].numel())
        chunks = zip(*(torch.split(part, images) for part in potentials), strict=True)
        return torch.cat([fire(*chunk) for chunk in chunks])

    return run

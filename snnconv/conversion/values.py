"""What travels along the edges of the graph while it is converted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snnconv.errors import ConversionError
from snnconv.grids import Grid
from snnconv.snn.layers import Branch, Stage
from snnconv.snn.synapses import IdentitySynapse, Padding, Synapse

REMEDY = (
    "put an activation quantizer (such as KBQuantizer) between them, so that counts travel on the wire (in a float "
    "network a ReLU), and train it anew"
)
NO_PADDING: Padding = (0, 0, 0, 0)


@dataclass(frozen=True)
class Analog:
    """A float value on the way from the input to the first quantizer."""

    stages: tuple[Stage, ...] = ()
    padding: Padding = NO_PADDING


@dataclass(frozen=True)
class Counts:
    """Integer counts on a wire, ``smallest .. largest``; the ANN's value is ``count * step / divisor``.

    ``padding`` and ``order`` (of the channels) wait for the layer that reads the wire.
    """

    wire: str
    step: float
    smallest: int
    largest: int
    channels: int
    padding: Padding = NO_PADDING
    divisor: int = 1
    order: tuple[int, ...] | None = None

    @property
    def magnitude(self) -> int:
        """Largest magnitude of a count."""
        return max(self.largest, -self.smallest)

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value of the ANN."""
        return self.smallest * self.step / self.divisor, self.largest * self.step / self.divisor


@dataclass(frozen=True)
class Parts:
    """Channels side by side whose counts stand for values of different steps, so that they keep wires of their own."""

    parts: tuple[Counts, ...]


@dataclass(frozen=True)
class Term:
    """One branch of an unquantized sum: ``scale * synapse(wire) / divisor + offset``.

    ``path`` is the ANN layer it comes from, for messages; ``rounding`` as in ``Branch``.
    """

    wire: str
    synapse: Synapse
    scale: Tensor
    offset: Tensor
    largest: int
    path: str
    divisor: int = 1
    rounding: Tensor | None = None

    def branch(self) -> Branch:
        """The branch of a spiking layer."""
        return Branch(self.synapse, self.scale, self.offset, self.divisor, self.rounding)


@dataclass(frozen=True)
class Sum:
    """An unquantized value inside a unit: terms, their sum, then monotone maps folded into the grid.

    ``chain`` holds, for each monotone map in the order of the ANN, what it does to the grid behind it; ``passed`` names
    them, for messages.
    """

    terms: tuple[Term, ...]
    chain: tuple[Callable[[Grid], Grid], ...] = ()
    passed: tuple[str, ...] = ()

    def scaled(self, scale: Tensor, offset: Tensor) -> Sum:
        """The sum after ``scale * z + offset``, one of each a channel."""
        terms = [replace(term, scale=term.scale * scale, offset=term.offset * scale) for term in self.terms]
        terms[0] = replace(terms[0], offset=terms[0].offset + offset)
        return replace(self, terms=tuple(terms))

    def through(self, name: str, fold: Callable[[Grid], Grid]) -> Sum:
        """The sum behind a monotone map."""
        return replace(self, chain=(*self.chain, fold), passed=(*self.passed, name))

    def grid_before(self, grid: Grid) -> Grid:
        """Grid on the bare sum that gives the codes of ``grid`` behind the chain."""
        for fold in reversed(self.chain):
            grid = fold(grid)
        return grid


Value = Analog | Counts | Parts | Sum | None
"""None stands for plain numbers, such as sizes."""


def lifted(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape, without the batch, of a value in the network: a sequence (C, L) is an image (C, 1, L) of one row."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def as_sum(value: Counts, path: str) -> Sum:
    """Counts as an unquantized sum of one identity branch."""
    ones = torch.ones(value.channels, dtype=torch.float64)
    synapse = IdentitySynapse(torch.ones(value.channels, 1, dtype=torch.int8))
    zeros = torch.zeros_like(ones)
    return Sum((Term(value.wire, synapse, ones * value.step, zeros, value.magnitude, path, value.divisor),))


def sum_of(value: Value, path: str) -> Sum:
    """The value as a sum, with whatever activations it has passed.

    Raises:
        ConversionError: it has none.
    """
    if isinstance(value, Counts):
        refuse_pending(value)
        return as_sum(value, path)
    if isinstance(value, Sum):
        return value
    if isinstance(value, Parts):
        raise ConversionError(f"{_MIXED}; only convolutions without groups, dense layers, pools and flatten take it")
    raise ConversionError("this is accepted behind the first quantizer only")


def open_sum(value: Value, path: str) -> Sum:
    """The value as a sum that may still be scaled or grow: it has passed no activation.

    Raises:
        ConversionError: it has, or it is no sum.
    """
    total = sum_of(value, path)
    if total.chain:
        raise ConversionError(f"its input has passed an activation but no quantizer ({total.passed[-1]}): {REMEDY}")
    return total


def counts_of(value: Value) -> Counts:
    """The value as counts on a wire.

    Raises:
        ConversionError: it is none, or something waits to be done to it.
    """
    if isinstance(value, Counts):
        refuse_pending(value)
        return value
    if isinstance(value, Parts):
        raise ConversionError(f"{_MIXED}; only convolutions without groups, dense layers, pools and flatten take it")
    if isinstance(value, Sum):
        path = value.terms[0].path + (f", through {value.passed[-1]}," if value.passed else "")
        raise ConversionError(f"the unquantized value of layer {path} leaves its unit: {REMEDY}")
    raise ConversionError(
        "this is accepted behind the first quantizer only: put the quantizer in front of it (behind one, a max pool "
        "gives the same values)"
    )


def parts_of(value: Value) -> tuple[Counts, ...]:
    """The value as counts on one or more wires, channels side by side; paddings may wait.

    Raises:
        ConversionError: it is none.
    """
    if isinstance(value, Parts):
        return value.parts
    return (value,) if isinstance(value, Counts) else (counts_of(value),)


def each_is_within(value: Counts | Parts, low: float, high: float) -> bool:
    """Whether no count can stand for a value outside low .. high, the zeros of a waiting border included."""
    bounds = [counts.bounds for counts in parts_of(value)]
    return low <= min(0.0, *(b for b, _ in bounds)) and high >= max(0.0, *(b for _, b in bounds))


def refuse_pending(value: Analog | Counts) -> None:
    """Refuse what waits for a convolution in front of anything else.

    Raises:
        ConversionError: padding or an order of channels waits.
    """
    if any(value.padding):
        raise ConversionError(
            "zero padding is accepted in front of a convolution or a pool only: give it to the layer that needs it"
        )
    if isinstance(value, Counts) and value.order is not None:
        raise ConversionError("a permutation of channels is accepted in front of a convolution only")


_MIXED = (
    "it reads a concatenation of values with different steps: use quantizers with equal steps in front of it, and "
    "equal average pools"
)

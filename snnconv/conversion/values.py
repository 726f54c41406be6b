"""What travels along the edges of the graph while it is converted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snnconv.grids import Grid
from snnconv.snn.layers import Branch, Stage
from snnconv.snn.synapses import IdentitySynapse, Padding, Synapse


@dataclass(frozen=True)
class Analog:
    """A float value on the way from the input to the first quantizer."""

    stages: tuple[Stage, ...] = ()
    padding: Padding = (0, 0, 0, 0)


@dataclass(frozen=True)
class Counts:
    """Integer counts on a wire, ``smallest .. largest``; the ANN's value is ``count * step / divisor``.

    ``padding`` and ``order`` (of the channels) wait for the convolution that reads the wire.
    """

    wire: str
    step: float
    smallest: int
    largest: int
    channels: int
    padding: Padding = (0, 0, 0, 0)
    divisor: int = 1
    order: tuple[int, ...] | None = None

    @property
    def magnitude(self) -> int:
        """Largest magnitude of a count."""
        return max(self.largest, -self.smallest)


@dataclass(frozen=True)
class Term:
    """One branch of an unquantized sum: ``scale * synapse(wire) / divisor + offset``.

    ``path`` is the ANN layer it comes from, for messages.
    """

    wire: str
    synapse: Synapse
    scale: Tensor
    offset: Tensor
    largest: int
    path: str
    divisor: int = 1

    def branch(self) -> Branch:
        """The branch of a spiking layer."""
        return Branch(self.synapse, self.scale, self.offset, self.divisor)


@dataclass(frozen=True)
class Sum:
    """An unquantized value inside a unit: terms, their sum, then monotone maps folded into the grid.

    ``chain`` holds, for each monotone map in the order of the ANN, what it does to the grid behind it.
    """

    terms: tuple[Term, ...]
    chain: tuple[Callable[[Grid], Grid], ...] = ()

    def scaled(self, scale: Tensor, offset: Tensor) -> Sum:
        """The sum after ``scale * z + offset``, one of each a channel."""
        terms = [replace(term, scale=term.scale * scale, offset=term.offset * scale) for term in self.terms]
        terms[0] = replace(terms[0], offset=terms[0].offset + offset)
        return replace(self, terms=tuple(terms))

    def grid_before(self, grid: Grid) -> Grid:
        """Grid on the bare sum that gives the codes of ``grid`` behind the chain."""
        for fold in reversed(self.chain):
            grid = fold(grid)
        return grid


Value = Analog | Counts | Sum | None
"""None stands for plain numbers, such as sizes."""


def as_sum(value: Counts, path: str) -> Sum:
    """Counts as an unquantized sum of one identity branch."""
    ones = torch.ones(value.channels, dtype=torch.float64)
    synapse = IdentitySynapse(torch.ones(value.channels, 1, dtype=torch.int8))
    zeros = torch.zeros_like(ones)
    return Sum((Term(value.wire, synapse, ones * value.step, zeros, value.magnitude, path, value.divisor),))

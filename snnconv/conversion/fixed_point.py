"""Float weights of hidden layers as integer codes: fixed point, one binary point a channel, with a proven bound.

    w = c 2^-s + e ,   c = round(w 2^s) ,   |potential's part of e| <= sum |e| * largest count

s is as large as the bits of an exact potential allow (float64 adds integers up to 2^53), so that most float32 weights
come out without any rounding. Zeros behind the last binary place that is used are dropped again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from snnconv.conversion.values import Sum, Term
from snnconv.grids import Grid
from snnconv.snn.synapses import Synapse
from snnconv.snn.thresholds import POTENTIAL_BITS, largest_value

SINGLE_BITS = POTENTIAL_BITS - 1
"""Bits of the potential of a unit with one branch; one more is left to the roundings of the weights."""
SUM_BITS = POTENTIAL_BITS - 2
"""Bits of the sum of several branches; less those of their number, so that multipliers are exact powers of two."""
MOST_PLACES = 900
"""Binary places, at most: 2^s must be a float64."""
PRODUCT_ROUNDING = 2.0**-52
"""Relative error of a weight times a scale, in float64."""


class FixedPoint(NamedTuple):
    """Codes c, places s and what was rounded away, sum |w - c 2^-s|; int64 (C, ...), float64 (C,) each."""

    codes: Tensor
    places: Tensor
    missed: Tensor


def fix_weights(total: Sum, grid: Grid) -> Sum:
    """The sum with integer codes in the place of float weights.

    A unit of one branch keeps its scale beside the codes; with several branches the scales go into the codes, so that
    all have one binary point a channel, as their sum has.

    Args:
        total: All terms of a unit.
        grid: The unit's grid on the sum.
    """
    if all(term.synapse.integer for term in total.terms):
        return total
    if len(total.terms) == 1:
        return replace(total, terms=(_alone(total.terms[0]),))
    places = SUM_BITS - len(total.terms).bit_length() - torch.ceil(torch.log2(_largest(total.terms, grid)))
    return replace(total, terms=tuple(t if t.synapse.integer else _beside(t, places) for t in total.terms))


def to_fixed_point(weight: Tensor, places: Tensor, alike: bool = False) -> FixedPoint:
    """Round float64 weights (C, ...) to so many binary places a channel, and drop zeros behind the last one.

    Args:
        weight: The weights.
        places: s, float64 (C,).
        alike: Drop equally many in all channels, so that their codes stay of one size.
    """
    shape = (-1, *[1] * (weight.ndim - 1))
    exact = torch.ldexp(weight, places.reshape(shape))
    codes = exact.round()
    missed = torch.ldexp((exact - codes).abs().flatten(1).sum(1), -places)
    codes = codes.to(torch.int64)
    last = torch.where(codes == 0, torch.iinfo(torch.int64).max, codes & -codes).flatten(1).amin(1)
    if alike:
        last = last.amin().expand_as(last)
    spare = torch.where(last == torch.iinfo(torch.int64).max, 0, last.double().log2().round().to(torch.int64))
    return FixedPoint(codes >> spare.reshape(shape), places - spare, missed)


def narrowed(codes: Tensor) -> Tensor:
    """Codes in the narrowest integers that hold them and their negatives."""
    largest = int(codes.abs().max()) if codes.numel() else 0
    kinds = (torch.int8, torch.int16, torch.int32, torch.int64)
    return codes.to(next(kind for kind in kinds if largest <= torch.iinfo(kind).max))


def _alone(term: Term) -> Term:
    weight = term.synapse.weight.double()
    reach = weight.abs().flatten(1).sum(1) * term.largest
    places = torch.where(reach > 0, SINGLE_BITS - torch.ceil(torch.log2(reach)), 0.0).clamp(max=MOST_PLACES)
    fixed = to_fixed_point(weight, places)
    return replace(
        term,
        synapse=_with_weight(term.synapse, narrowed(fixed.codes)),
        scale=torch.ldexp(term.scale, -fixed.places),
        rounding=fixed.missed * term.largest * term.scale.abs() / term.divisor,
    )


def _beside(term: Term, places: Tensor) -> Term:
    weight = term.synapse.weight.double()
    folded = weight * (term.scale / term.divisor).reshape(-1, *[1] * (weight.ndim - 1))
    fixed = to_fixed_point(folded, places, alike=True)
    missed = fixed.missed + PRODUCT_ROUNDING * folded.abs().flatten(1).sum(1)
    return replace(
        term,
        synapse=_with_weight(term.synapse, narrowed(fixed.codes)),
        scale=torch.ldexp(torch.ones_like(term.scale), -fixed.places),
        divisor=1,
        rounding=missed * term.largest,
    )


def _largest(terms: Sequence[Term], grid: Grid) -> Tensor:
    """Largest magnitude of the sum of all terms, or of a boundary, a channel."""
    total = torch.stack([term.offset for term in terms]).sum(0).abs()
    for term in terms:
        size = term.synapse.weight.double().abs().flatten(1).sum(1)
        total = total + term.scale.abs() * size * term.largest / term.divisor
    return largest_value(total, grid)


def _with_weight(synapse: Synapse, codes: Tensor) -> Synapse:
    return type(synapse)(codes, **synapse.settings)

"""The grid of a quantized activation, as plain numbers shared by the ANN and the SNN.

A quantizer maps a value z to an integer code in ``-negative .. positive``; the value passed on is
``code * step``. The code rises by one at each of ``levels = negative + positive`` boundaries:

    code(z) = -negative + #{ i : z lies at or above boundary i }

where a boundary that is ``closed`` belongs to the upper code (z >= b) and an open one to the lower
code (z > b).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from snnconv.errors import ConfigError

MAX_LEVELS = 127
"""Most codes on either side together, so that a count fits into int8."""


@dataclass(frozen=True)
class Grid:
    """Codes, step and boundaries of a quantized activation.

    Attributes:
        step: Value of one code.
        positive: Number of codes above zero.
        negative: Number of codes below zero.
        boundaries: Ascending, one between each two neighbouring codes, in units of the value;
            -inf where a level always fires, +inf where it never does.
        closed: For each boundary, whether it belongs to the upper code.
    """

    step: float
    positive: int
    negative: int
    boundaries: tuple[float, ...]
    closed: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step) and self.step > 0):
            raise ConfigError(f"a grid's step must be a positive number, not {self.step}")
        if self.positive < 0 or self.negative < 0 or not 1 <= self.levels <= MAX_LEVELS:
            raise ConfigError(
                f"a grid needs 1 to {MAX_LEVELS} levels, not {self.positive} positive and {self.negative} negative"
            )
        if len(self.boundaries) != self.levels or len(self.closed) != self.levels:
            raise ConfigError(
                f"a grid of {self.levels} levels needs {self.levels} boundaries and closed sides, "
                f"not {len(self.boundaries)} and {len(self.closed)}"
            )
        pairs = zip(self.boundaries, self.closed, strict=True)
        sides = [(boundary, math.isfinite(boundary) and not shut) for boundary, shut in pairs]
        if any(math.isnan(b) for b in self.boundaries) or sides != sorted(sides):
            raise ConfigError(f"a grid's boundaries must ascend, closed before open, not {self.boundaries}")

    @property
    def levels(self) -> int:
        """L: number of threshold neurons of a unit."""
        return self.positive + self.negative

    @property
    def largest(self) -> int:
        """Largest magnitude of a code."""
        return max(self.positive, self.negative)

    @property
    def spacing(self) -> float:
        """Distance of neighbouring boundaries, or the step where there is one boundary; 0 where they are uneven."""
        if not all(math.isfinite(boundary) for boundary in self.boundaries):
            return 0.0
        if self.levels == 1:
            return self.step
        gaps = [b - a for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)]
        return gaps[0] if max(gaps) - min(gaps) <= 1e-12 * max(gaps) else 0.0

    def code(self, z: float) -> int:
        """Code of one value, by the definition above."""
        fired = sum(z >= b if shut else z > b for b, shut in zip(self.boundaries, self.closed, strict=True))
        return fired - self.negative

    @property
    def signs(self) -> tuple[int, ...]:
        """Signs of the codes: (1,), (1, -1) or (-1,)."""
        return tuple(sign for sign, codes in ((1, self.positive), (-1, self.negative)) if codes)

    def continued(self, levels: int) -> Grid:
        """Grid that goes on above its top as it began, up to so many levels; for evenly spaced grids.

        Raises:
            ConfigError: more levels than a grid can have.
        """
        more = range(self.levels, levels)
        boundaries = self.boundaries + tuple(self.boundaries[0] + number * self.spacing for number in more)
        return Grid(
            self.step, self.positive + len(more), self.negative, boundaries, self.closed + self.closed[-1:] * len(more)
        )

    def side(self, sign: int) -> Grid:
        """Grid of the codes of one sign alone, those below zero on the negated value:

            side(1).code(z) = max(code(z), 0) ,    side(-1).code(-z) = max(-code(z), 0)

        ``-z`` reaches ``-b`` exactly where z does not lie above b, so a closed boundary becomes an open one.

        Raises:
            ConfigError: there is no code of this sign.
        """
        if sign > 0:
            upper = slice(self.negative, None)
            return Grid(self.step, self.positive, 0, self.boundaries[upper], self.closed[upper])
        lower = range(self.negative - 1, -1, -1)
        boundaries, closed = tuple(-self.boundaries[i] for i in lower), tuple(not self.closed[i] for i in lower)
        return Grid(self.step, self.negative, 0, boundaries, closed)

    def before_clip(self, low: float, high: float) -> Grid:
        """Grid that gives the same code to z as this one gives to ``min(max(z, low), high)``."""

        def moved(b: float, shut: bool) -> float:
            if b < low or (shut and b == low):
                return -math.inf
            if b > high or (not shut and b == high):
                return math.inf
            return b

        pairs = zip(self.boundaries, self.closed, strict=True)
        return replace(self, boundaries=tuple(moved(b, shut) for b, shut in pairs))

    def before_slope(self, slope: float) -> Grid:
        """Grid that gives the same code to z as this one gives to ``z if z > 0 else slope * z``."""
        if not slope > 0:
            raise ConfigError(f"a PReLU folds into boundaries only with a slope above 0, not {slope}")
        return replace(self, boundaries=tuple(b / slope if b < 0 else b for b in self.boundaries))


def k_b_grid(k: int, B: int, tie: float = 0.0) -> Grid:
    """Grid of the (k, B) activations: codes 0 .. L with L = 2^k * B and step 2^-k.

    Boundaries are (i + 1/2 - tie) * 2^-k, closed above: ``code = floor(2^k clip(z, 0, B) + 1/2 + tie)``.

    Args:
        k: Number of fractional bits, 0 or more.
        B: Upper bound of the activation, 1 or more.
        tie: Shift of every decision point in units of the step (the source's code adds 1e-5).

    Ref: Zou et al. 2021, Front. Neurosci. 15:694170.
    """
    if k < 0:
        raise ConfigError(f"k (= {k}) is the number of fractional bits of an activation and must be 0 or more")
    if B < 1:
        raise ConfigError(f"B (= {B}) is the upper bound of an activation and must be 1 or more")
    levels = 2**k * B
    if levels > MAX_LEVELS:
        raise ConfigError(f"k{k}B{B} has {levels} levels; at most {MAX_LEVELS} are allowed: take a smaller k or B")
    step = 2.0**-k
    boundaries = tuple((i + 0.5 - tie) * step for i in range(levels))
    return Grid(step, levels, 0, boundaries, (True,) * levels)

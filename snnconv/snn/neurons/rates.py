"""Rate neurons: soft reset, half-threshold start; their count over T steps stands for count * L / T."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import base
from torch import Tensor

from snnconv.grids import Grid

RETRACTION = -1e-3
"""Potential at which a signed neuron takes a spike back [units of the value]; as published, Hu et al. 2023."""


def rate_step(v: Tensor, current: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Integrate, fire at the threshold, subtract it.

        v <- v + current ,   spike = [v >= threshold] ,   v <- v - threshold * spike

    Returns:
        The potential, and the spikes, int8 in 0, 1.

    Ref: Bu et al. 2022, "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency SNNs".
    """
    v = v + current
    spikes = v >= threshold
    return v - threshold * spikes, spikes.to(torch.int8)


def signed_rate_step(v: Tensor, count: Tensor, current: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """As ``rate_step``, and take a spike back where the potential has fallen below zero.

        spike = -1 where v <= -1e-3 and the net count, this step's spike included, is above 0; v <- v + threshold

    Returns:
        The potential, the new net count, and the spikes, int8 in -1, 0, +1.

    Ref: Hu et al. 2023, "Fast-SNN: fast spiking neural network by converting quantized ANN", signed IF.
    """
    v, spikes = rate_step(v, current, threshold)
    count = count + spikes
    back = (v <= RETRACTION) & (count > 0)
    taken = back.to(torch.int8)
    return v + threshold * back, count - taken, spikes - taken


def rate_parameters(grid: Grid) -> tuple[float, float]:
    """Threshold and initial potential of a unit whose grid is unsigned and evenly spaced.

        threshold = L * spacing ,   start = threshold - L * b_0

    With a constant current z over T = L steps the count is then floor((z - b_0) / spacing + 1), the code of z, so that
    rounding happens where the boundaries are; at boundaries half a spacing up, start = threshold / 2.
    """
    threshold = grid.levels * grid.spacing
    return threshold, threshold - grid.levels * grid.boundaries[0]


class RateNeuron(base.MemoryModule):  # type: ignore[misc]
    """Integrate-and-fire with soft reset; memories ``v`` and, where it is signed, ``n``, the net count.

    Step mode ``s`` takes currents float64 (N, C, ...), ``m`` takes (T, N, C, ...) and is the stack of ``s``.

    Args:
        threshold: What a spike subtracts [units of the value].
        start: Potential before the first step.
        signed: Whether spikes are taken back.
    """

    def __init__(self, threshold: float, start: float, signed: bool) -> None:
        super().__init__()
        self.threshold, self.start, self.signed = threshold, start, signed
        self.register_memory("v", None)
        self.register_memory("n", None)

    def materialize_states(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor | None, ...], step_mode: str
    ) -> tuple[Tensor, Tensor | None]:
        """Potential at ``start`` and count 0 before the first step."""
        v, n = states
        if v is None:
            v = torch.full_like(inputs[0] if step_mode == "s" else inputs[0][0], self.start)
        if n is None and self.signed:
            n = torch.zeros_like(v, dtype=torch.int32)
        return v, n

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor, Tensor | None], **kwargs: object
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor | None]]:
        """One step: currents in, spikes out."""
        v, n = states
        if n is None:
            v, spikes = rate_step(v, inputs[0], self.threshold)
        else:
            v, n, spikes = signed_rate_step(v, n, inputs[0], self.threshold)
        return (spikes,), (v, n)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold:g}, start={self.start:g}, signed={self.signed}, step_mode={self.step_mode}"

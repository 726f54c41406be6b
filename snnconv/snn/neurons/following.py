"""Neurons that follow the code of their potential, a spike a step, and take back what was too much."""

from __future__ import annotations

import torch
from torch import Tensor

from snnconv.snn.neurons.integrating import IntegratingNeuron
from snnconv.snn.neurons.ladder import ladder_step


def follow_step(count: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """Move the net count one spike towards the code of the present potential.

        spike = +1 where Z >= T[count + negative] and count < positive
                -1 where Z < T[count - 1 + negative] and count > -negative, else 0

    Thresholds ascend, so the first line says code > count and the second code < count: spike = sign(code - count).

    Args:
        count: Net count so far, int8.
        code: Code of the present potential (``ladder_step``), int8 of the same shape.

    Returns:
        The new net count, and the spikes, int8 in -1, 0, +1.

    Ref: You et al. 2024, "SpikeZIP-TF" (ST-BIF). Zou et al. 2023, Adv. Intell. Syst. (negative spikes), clipped to
    the grid: with q = b + count * D, the shadow of the potential, +1 where clip(m) - q >= D and -1 where
    clip(m) - q < 0 say the same wherever the boundaries are D apart. As published, max(m, b) stands for clip(m): the
    same with as many thresholds as there are steps.
    """
    spikes = torch.sign(code - count)
    return count + spikes, spikes


class FollowingNeuron(IntegratingNeuron):
    """Fires towards the code of its potential; memories ``v``, the potential, and ``n``, the net count.

    Exact from the step on at which its potential no longer changes code and the count has caught up.
    """

    def __init__(self, thresholds: Tensor, negative: int, constant: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(thresholds, negative, constant, dtype)
        self.register_memory("n", None)

    def materialize_states(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor | None, ...], step_mode: str
    ) -> tuple[Tensor | None, ...]:
        """Potential at its constant and count 0 before the first step."""
        v, n = states
        v = self.rest(inputs[0], step_mode) if v is None else v
        return v, torch.zeros_like(v, dtype=torch.int8) if n is None else n

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor, ...], **kwargs: object
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """One step: currents in, spikes out."""
        v, n = states
        v = self.integrate(v, inputs[0])
        n, spikes = follow_step(n, ladder_step(v, self.thresholds, self.negative))
        return (spikes,), (v, n)

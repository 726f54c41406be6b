"""The ladder: L threshold neurons a unit, one time step."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import base
from torch import Tensor


def ladder_step(potential: Tensor, thresholds: Tensor, negative: int) -> Tensor:
    """Fire every threshold neuron of a unit at once.

        count = -negative + #{ i : potential >= thresholds[i] }

    The L neurons of a unit share their fan-in and differ in their threshold; the target receives the
    sum of their spikes. Those of the lower side are mirrored, so a silent unit has count 0.

    Args:
        potential: (N, C, ...), integers in any dtype that holds them exactly.
        thresholds: (L, C), integers.
        negative: Number of codes below zero.

    Returns:
        Counts, int8, of the potential's shape.

    Ref: Zou et al. 2021, Front. Neurosci. 15:694170 ("scatter-and-gather").
    """
    shape = (1, -1, *[1] * (potential.ndim - 2))
    count = torch.full_like(potential, -negative, dtype=torch.int8)
    for row in thresholds.to(potential.dtype):
        count += potential >= row.reshape(shape)
    return count


class LadderNeuron(base.MemoryModule):  # type: ignore[misc]
    """Stateless integrate-and-fire ladder: L threshold neurons a unit, one time step.

    Step mode ``s`` takes (N, C, ...), ``m`` takes (T, N, C, ...); steps are independent.
    """

    def __init__(self, thresholds: Tensor, negative: int) -> None:
        super().__init__()
        self.register_buffer("thresholds", thresholds, persistent=False)
        self.negative = negative

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[object, ...], **kwargs: object
    ) -> tuple[tuple[Tensor, ...], tuple[object, ...]]:
        """One step: potentials in, counts out, no state."""
        return (ladder_step(inputs[0], self.thresholds, self.negative),), states

    def extra_repr(self) -> str:
        return f"levels={len(self.thresholds)}, negative={self.negative}"

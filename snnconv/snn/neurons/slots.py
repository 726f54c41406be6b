"""Integrate, then fire: a unit that sends its count in a slot of its own, when its potential is complete."""

from __future__ import annotations

import torch
from torch import Tensor

from snnconv.snn.neurons.integrating import IntegratingNeuron


def emit_step(potential: Tensor, thresholds: Tensor, negative: int, place: int) -> Tensor:
    """The ``place``-th spike of each unit's count, from the complete potential.

        spike = +1 where Z >= T[negative + place] ,   -1 where Z < T[negative - 1 - place]

    Over the places 0, 1, ... the spikes are a thermometer of the count: |count| of its sign, then none.

    Args:
        potential: (N, C, ...).
        thresholds: (L, C), ascending.
        negative: Number of codes below zero.
        place: Step within the slot, from 0; negative outside the slot, where nothing fires.
    """
    shape = (1, -1, *[1] * (potential.ndim - 2))
    spikes = torch.zeros_like(potential, dtype=torch.int8)
    if 0 <= place < len(thresholds) - negative:
        spikes += potential >= thresholds[negative + place].reshape(shape)
    if 0 <= place < negative:
        spikes -= (potential < thresholds[negative - 1 - place].reshape(shape)).to(torch.int8)
    return spikes


def thermometer(counts: Tensor, places: range) -> Tensor:
    """Counts (N, ...) as the train int8 (places, N, ...) that ``emit_step`` makes of them.

    spike at a place = sign(count) where 0 <= place < |count|, else 0
    """
    counts = counts.to(torch.int16)  # a place beyond 127 would wrap in int8
    train = torch.zeros(len(places), *counts.shape, dtype=torch.int8, device=counts.device)
    for spikes, place in zip(train, places, strict=True):
        if place >= 0:
            torch.sub((counts > place).to(torch.int8), (counts < -place).to(torch.int8), out=spikes)
    return train


class SlotNeuron(IntegratingNeuron):
    """Integrates always and fires in its slot; memories ``v``, the potential, and ``t``, the steps so far.

    Args:
        first: First step of its slot.

    For the others see ``IntegratingNeuron``.
    """

    def __init__(
        self, thresholds: Tensor, negative: int, constant: Tensor | None, dtype: torch.dtype, first: int
    ) -> None:
        super().__init__(thresholds, negative, constant, dtype)
        self.first = first
        self.register_memory("t", 0)

    def materialize_states(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor | None, int], step_mode: str
    ) -> tuple[Tensor, int]:
        """Potential at its constant before the first step."""
        v, t = states
        return self.rest(inputs[0], step_mode) if v is None else v, t

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor, int], **kwargs: object
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, int]]:
        """One step: currents in, spikes out."""
        v, t = states
        v = self.integrate(v, inputs[0])
        return (emit_step(v, self.thresholds, self.negative, t - self.first),), (v, t + 1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, first={self.first}"

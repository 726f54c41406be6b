"""The neurons by name: what each needs, how many steps it takes, and whether its counts are the codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from spikingjelly.activation_based import base
from torch import Tensor

from snnconv.errors import ConfigError
from snnconv.grids import Grid
from snnconv.snn.neurons.following import FollowingNeuron
from snnconv.snn.neurons.rates import RateNeuron, rate_parameters
from snnconv.snn.neurons.slots import SlotNeuron


@dataclass(frozen=True)
class Membrane:
    """What a neuron is made from.

    Attributes:
        grid: Of its unit.
        thresholds: (L, C), ascending, in units of the potential.
        constant: Potential before any spike, (C,); None where it is 0.
        dtype: In which potentials are exact.
        first: First step of the unit's slot.
    """

    grid: Grid
    thresholds: Tensor
    constant: Tensor | None
    dtype: torch.dtype
    first: int


@dataclass(frozen=True)
class NeuronModel:
    """One kind of neuron.

    Attributes:
        schedule: ``one`` step; ``slots``: layer by layer, as many steps as these take; ``free``: any number.
        exact: When every net count is the ladder's.
        rate: Whether a count over t steps stands for count * L / t; else it is the code itself.
        even: Whether it needs a grid without codes below zero whose boundaries are evenly spaced.
        make: The shell; None where an engine runs the network as it is.
        source: Who published it.
        clipped: Whether a net count ends at the top of the grid; else the grid goes on there as it began.
    """

    schedule: Literal["one", "slots", "free"]
    exact: Literal["always", "at the end", "once settled", "once settled, below the clip", "no"]
    rate: bool
    even: bool
    make: Callable[[Membrane], base.MemoryModule] | None
    source: str
    clipped: bool = True

    def require(self, neuron: str, layer: str, grid: Grid) -> None:
        """Refuse a grid that the neuron cannot have.

        Raises:
            ConfigError: with the remedy.
        """
        if self.even and grid.negative:
            raise ConfigError(
                f"neuron {neuron!r} has no codes below zero, and layer {layer} has {grid.negative}: "
                "take st-bif or integrate-then-fire, or give each sign a neuron of its own by `snnconv convert --split`"
            )
        if self.even and not grid.spacing > 0:
            raise ConfigError(
                f"neuron {neuron!r} needs evenly spaced boundaries, and those of layer {layer} are "
                f"{', '.join(f'{b:g}' for b in grid.boundaries)}: take st-bif or integrate-then-fire"
            )


def _following(membrane: Membrane) -> FollowingNeuron:
    return FollowingNeuron(membrane.thresholds, membrane.grid.negative, membrane.constant, membrane.dtype)


def _slot(membrane: Membrane) -> SlotNeuron:
    return SlotNeuron(membrane.thresholds, membrane.grid.negative, membrane.constant, membrane.dtype, membrane.first)


def _rate(membrane: Membrane) -> RateNeuron:
    return RateNeuron(*rate_parameters(membrane.grid), signed=False)


def _signed_rate(membrane: Membrane) -> RateNeuron:
    return RateNeuron(*rate_parameters(membrane.grid), signed=True)


NEURONS: dict[str, NeuronModel] = {
    "ladder": NeuronModel("one", "always", False, False, None, "Zou et al. 2021"),
    "integrate-then-fire": NeuronModel("slots", "at the end", False, False, _slot, "layer-synchronous schedules"),
    "if": NeuronModel("free", "no", True, True, _rate, "Bu et al. 2022"),
    "signed-if": NeuronModel("free", "no", True, True, _signed_rate, "Hu et al. 2023"),
    "st-bif": NeuronModel("free", "once settled", False, False, _following, "You et al. 2024"),
    "negative-spike": NeuronModel("free", "once settled", False, True, _following, "Zou et al. 2023"),
    "negative-spike-unclipped": NeuronModel(
        "free", "once settled, below the clip", False, True, _following, "Zou et al. 2023", clipped=False
    ),
}
"""``negative-spike-unclipped`` is the published dynamics, whose ANNs clip no activation; ``negative-spike`` is the same
clipped to the grid, and there it is st-bif's, see ``following``."""


MOST_STEPS = 10_000


def find_neuron(name: str) -> NeuronModel:
    """The neuron of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in NEURONS:
        raise ConfigError(f"unknown neuron {name!r}; known are {', '.join(NEURONS)}")
    return NEURONS[name]


def steps_of(neuron: str, steps: int | None, slots: int, settling: int) -> int:
    """T: as asked for, or what the neuron takes.

    Args:
        neuron: Name.
        steps: Asked for; None takes the neuron's own.
        slots: Steps of the layer-synchronous schedule.
        settling: Steps after which followers have settled, the default of the free neurons.

    Raises:
        ConfigError: a number that the schedule does not allow.
    """
    model = find_neuron(neuron)
    if model.schedule == "free":
        if steps is not None and not 1 <= steps <= MOST_STEPS:
            raise ConfigError(f"steps (= {steps}) must lie in 1..{MOST_STEPS}")
        return settling if steps is None else steps
    own = 1 if model.schedule == "one" else slots
    if steps not in (None, own):
        free = [name for name, other in NEURONS.items() if other.schedule == "free"]
        raise ConfigError(
            f"neuron {neuron!r} takes {own} time step{'s' if own > 1 else ''} on this network, not {steps}: "
            f"leave --steps away, or take {', '.join(free[:-1])} or {free[-1]}"
        )
    return own

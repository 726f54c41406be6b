"""When layers fire: slots of equal length along the longest path from the input."""

from __future__ import annotations

from dataclasses import dataclass

from snnconv.snn.layers import Encoder, SpikingLayer
from snnconv.snn.network import SpikingNetwork


@dataclass(frozen=True)
class Schedule:
    """Slots of a layer-synchronous run.

    Attributes:
        slots: For each layer the number of its slot: 0 for encoders, one more than the latest of its sources for
            spiking layers, that of the latest for wiring. What comes along a shorter branch waits in the membrane.
        length: Steps of a slot: the largest size of a count, so that every unit can send its whole count.
        levels: The largest L: steps from any count to any other, a spike a step.
    """

    slots: dict[str, int]
    length: int
    levels: int

    @property
    def depth(self) -> int:
        """Slot of the last layer: spiking layers on the longest path behind the encoder."""
        return max(self.slots.values())

    @property
    def steps(self) -> int:
        """Steps until the last layer has sent its count."""
        return self.length * (self.depth + 1)

    @property
    def settling_steps(self) -> int:
        """Steps after which every unit that follows its code has it: each layer needs L more than those it reads."""
        return self.levels * (self.depth + 1)

    def first(self, name: str) -> int:
        """First step of a layer's slot."""
        return self.slots[name] * self.length


def schedule_of(network: SpikingNetwork) -> Schedule:
    """The slots of a network's layers."""
    slots: dict[str, int] = {}
    for name, layer in network.layers.items():
        before = [] if isinstance(layer, Encoder) else [slots[wire] for wire in network.nodes[name].inputs]
        slots[name] = max(before, default=0) + isinstance(layer, SpikingLayer)
    return Schedule(slots, max(layer.grid.largest for _, layer in network.units()), max(network.levels))

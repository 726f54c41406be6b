"""Engines that run a network layer by layer: each layer made ready once, in one way or in several to choose from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from snnconv.snn.counting import Tally, tally_dense
from snnconv.snn.exact import exact_arithmetic
from snnconv.snn.network import INPUT, NOTHING, Instead, SpikingNetwork, Tap
from snnconv.snn.noise import Delete, delete_spikes

TRIALS = 3
"""Times each way to run a layer is tried on the first batch."""


@dataclass(frozen=True)
class Step:
    """One way to run a layer.

    Attributes:
        engine: Whose it is.
        run: From the counts on the incoming wires to those the layer sends; the readout's gives logits.
        accepts: Type in which it takes counts; None takes any.
    """

    engine: str
    run: Callable[..., Tensor]
    accepts: torch.dtype | None = None

    def __call__(self, *wires: Tensor) -> Tensor:
        if self.accepts is None:
            return self.run(*wires)
        return self.run(*(wire.to(self.accepts) for wire in wires))


class LayeredEngine:
    """Runs a network step by step; equal to its plain forward bit for bit from the first counts on.

    An encoder's value that lies on a boundary to within the rounding of float64 may be decided either way, since the
    order of its sum is the engine's affair.

    Where a layer can be run in several ways, all give the same counts; on the first batch each is timed on the counts
    at hand, and the fastest stays.

    Args:
        network: The network; its weights are read once.
        device: Where to compute; None takes the network's own. The caller's network stays where it is.

    Attributes:
        name: What a user calls it.
        reals: Whether it lets layers be decided on real numbers, as some noise asks for.
    """

    name: str
    reals = False

    def __init__(self, network: SpikingNetwork, device: torch.device | None = None) -> None:
        self.device = network.device if device is None else device
        self.network = network.on(self.device)
        self._ways = {name: self.ways(name) for name in self.network.layers}
        self._steps = {name: ways[0] for name, ways in self._ways.items() if len(ways) == 1}
        last_reader = {wire: name for name, node in network.nodes.items() for wire in node.inputs}
        self._done_after = {name: [w for w, reader in last_reader.items() if reader == name] for name in self._ways}

    def ways(self, name: str) -> list[Step]:
        """The ways to run a layer, at least one."""
        raise NotImplementedError

    @property
    def tally(self) -> Tally:
        """How counters sum up a batch of this engine's counts."""
        return tally_dense

    @property
    def delete(self) -> Delete:
        """How noise deletes spikes of a batch of this engine's counts."""
        return delete_spikes

    @property
    def choices(self) -> dict[str, str]:
        """Whose way each layer takes; a layer still to be timed has several, with bars between."""
        return {
            name: self._steps[name].engine if name in self._steps else "|".join(way.engine for way in ways)
            for name, ways in self._ways.items()
        }

    def remade(self, network: SpikingNetwork) -> Self:
        """This engine for another network."""
        return type(self)(network, self.device)

    @torch.inference_mode()
    def run(self, x: Tensor, taps: tuple[Tap, ...] = (), instead: Instead = NOTHING) -> Tensor:
        """Logits, float64 (N, classes), of preprocessed images; the rest as in ``SpikingNetwork.forward``."""
        self.network.require_shape(x)
        if not len(x):
            return torch.zeros(0, self.network.classes, dtype=torch.float64, device=self.device)
        x = x.to(self.device)
        wires = {INPUT: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x}
        last = next(reversed(self._ways))
        with exact_arithmetic(self.device):
            for name in self._ways:
                incoming = [wires[wire] for wire in self.network.nodes[name].inputs]
                sent = (instead[name] if name in instead else self._step(name, incoming))(*incoming)
                for tap in taps if name != last else ():
                    sent = tap(name, sent, 0)
                wires[name] = sent
                for wire in self._done_after[name]:
                    del wires[wire]
        return wires[last]

    def _step(self, name: str, incoming: list[Tensor]) -> Step:
        if name not in self._steps:
            self._steps[name] = min(self._ways[name], key=lambda way: _seconds(way, incoming))
        return self._steps[name]


def _seconds(step: Step, incoming: list[Tensor]) -> float:
    """Shortest time of a few tries, after one to warm up."""
    times = []
    for _ in range(TRIALS + 1):
        began = time.perf_counter()
        step(*incoming)
        if incoming[0].is_cuda:
            torch.cuda.synchronize(incoming[0].device)
        times.append(time.perf_counter() - began)
    return min(times[1:])

"""The engines by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from snnconv.engines.dense import DenseEngine, dense_step
from snnconv.engines.events import EventsEngine, event_step
from snnconv.engines.gpu import TritonEngine, triton_step
from snnconv.engines.gpu_check import available, require_agreement
from snnconv.engines.integer import integer_step
from snnconv.engines.kernels import Kernels
from snnconv.engines.layered import LayeredEngine, Step
from snnconv.engines.library import find_library
from snnconv.errors import ConfigError
from snnconv.snn.counting import Tally, tally_dense
from snnconv.snn.layers import Encoder
from snnconv.snn.network import NOTHING, Instead, SpikingNetwork, Tap
from snnconv.snn.noise import Delete, delete_spikes
from snnconv.snn.simulation import Runner


class ReferenceEngine:
    """The network's plain forward, dressed as an engine."""

    name = "reference"
    reals = True
    tally = staticmethod(tally_dense)
    delete = staticmethod(delete_spikes)

    def __init__(self, network: SpikingNetwork, device: torch.device | None = None) -> None:
        self.network = network.on(network.device if device is None else device)

    @property
    def choices(self) -> dict[str, str]:
        """Each layer is its own."""
        return dict.fromkeys(self.network.layers, self.name)

    def remade(self, network: SpikingNetwork) -> ReferenceEngine:
        """This engine for another network."""
        return ReferenceEngine(network)

    @torch.inference_mode()
    def run(self, x: Tensor, taps: tuple[Tap, ...] = (), instead: Instead = NOTHING) -> Tensor:
        """Logits, float64 (N, classes), of preprocessed images."""
        logits: Tensor = self.network(x.to(self.network.device), taps, instead)
        return logits


class AutoEngine(LayeredEngine):
    """Takes, layer by layer, the fastest way there is on the device: on the first batch all are compared and timed.

    Args:
        network: The network; its weights are read once.
        device: Where to compute; None takes the network's own.
    """

    name = "auto"
    reals = True

    def __init__(self, network: SpikingNetwork, device: torch.device | None = None) -> None:
        device = network.device if device is None else device
        self.kernels = Kernels() if device.type == "cpu" and find_library() is not None else None
        self.on_gpu = available(device)
        super().__init__(network, device)

    def ways(self, name: str) -> list[Step]:
        dense = dense_step(self.network.layers[name])
        event = None if self.kernels is None else event_step(self.network, name, self.kernels)
        kernel = triton_step(self.network, name) if self.on_gpu else None
        integer = integer_step(self.network, name, self.kernels)
        return [step for step in (event, kernel, integer, dense) if step is not None]

    def _step(self, name: str, incoming: list[Tensor]) -> Step:
        float_sums = isinstance(self.network.layers[name], Encoder)  # which may be rounded differently
        if name not in self._steps and not float_sums:
            require_agreement(name, self._ways[name], incoming)
        return super()._step(name, incoming)

    @property
    def tally(self) -> Tally:
        if self.on_gpu:
            from snnconv.engines.gpu_calls import tally

            return tally
        return tally_dense if self.kernels is None else self.kernels.tally

    @property
    def delete(self) -> Delete:
        if not self.on_gpu:
            return delete_spikes if self.kernels is None else self.kernels.delete_spikes
        from snnconv.engines import gpu_calls

        return gpu_calls.delete_spikes


ENGINES: dict[str, Callable[[SpikingNetwork, torch.device | None], Runner]] = {
    "auto": AutoEngine,
    "dense": DenseEngine,
    "events": EventsEngine,
    "reference": ReferenceEngine,
    "triton": TritonEngine,
}


def choose_engine(network: SpikingNetwork, name: str = "auto", device: torch.device | None = None) -> Runner:
    """Make the engine of that name for a network. Without a device it stays on the network's own.

    Raises:
        ConfigError: no such engine, or not on this device or machine.
    """
    if name == "integer":
        raise ConfigError(
            "integer is one of the ways that engine auto times for a layer, no engine by itself: take auto"
        )
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}; known are {', '.join(ENGINES)}")
    return ENGINES[name](network, device)

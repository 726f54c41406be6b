"""The engines by name."""

from __future__ import annotations

import torch
from torch import Tensor

from snnconv.engines.dense import DenseEngine
from snnconv.errors import ConfigError
from snnconv.snn.network import SpikingNetwork, Tap


class ReferenceEngine:
    """The network's plain forward, dressed as an engine."""

    name = "reference"

    def __init__(self, network: SpikingNetwork, device: torch.device | None = None) -> None:
        self.network = network.on(network.device if device is None else device)

    @torch.inference_mode()
    def run(self, x: Tensor, taps: tuple[Tap, ...] = ()) -> Tensor:
        """Logits, float64 (N, classes), of preprocessed images."""
        logits: Tensor = self.network(x.to(self.network.device), taps)
        return logits


ENGINES: dict[str, type[DenseEngine] | type[ReferenceEngine]] = {"dense": DenseEngine, "reference": ReferenceEngine}


def choose_engine(
    network: SpikingNetwork, name: str = "auto", device: torch.device | None = None
) -> DenseEngine | ReferenceEngine:
    """Make the engine of that name for a network; ``auto`` takes the fastest that fits the device.

    Without a device it stays on the network's own.

    Raises:
        ConfigError: no such engine.
    """
    if name == "auto":
        name = "dense"
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}; known are auto, {', '.join(ENGINES)}")
    return ENGINES[name](network, device)

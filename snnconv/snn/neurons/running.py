"""What pools and the readout keep over time: running net counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from spikingjelly.activation_based import base
from torch import Tensor


class RunningCount(base.MemoryModule):  # type: ignore[misc]
    """Net count of everything that has arrived, after each step; memory ``n``."""

    def __init__(self) -> None:
        super().__init__()
        self.register_memory("n", None)

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor | None, ...], **kwargs: object
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """One step: spikes in, counts int32 out."""
        (n,) = states
        n = inputs[0].to(torch.int32) if n is None else n + inputs[0]
        return (n,), (n,)


class RunningMax(base.MemoryModule):  # type: ignore[misc]
    """Max pool over time: sends the change of the largest net count of each window.

        sent_t = pool(n_t) - pool(n_{t-1}) ,   n_t = sum of the spikes up to t

    The sum of what it sent is thus the maximum of the net counts at every step: exact wherever they are. On trains
    that only rise by one, such as a thermometer, it is an OR over the window's spikes of equal rank.

    Args:
        pool: The pool on counts.
    """

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        self.register_memory("n", None)
        self.register_memory("largest", None)

    def single_step_functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[Tensor | None, ...], **kwargs: object
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """One step: spikes in, spikes out, int8."""
        n, before = states
        n = inputs[0].to(torch.int32) if n is None else n + inputs[0]
        largest = self.pool(n)
        sent = largest if before is None else largest - before
        return (sent.to(torch.int8),), (n, largest)

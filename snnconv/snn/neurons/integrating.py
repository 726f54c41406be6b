"""What neurons with an integer potential share: thresholds, and the potential at rest."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import base
from torch import Tensor


class IntegratingNeuron(base.MemoryModule):  # type: ignore[misc]
    """A neuron that adds up its currents without leak; memory ``v`` is the potential.

    Step mode ``s`` takes currents (N, C, ...), ``m`` takes (T, N, C, ...) and is the stack of ``s``.

    Args:
        thresholds: (L, C), ascending.
        negative: Number of codes below zero.
        constant: Potential before any spike, (C,); None where it is 0.
        dtype: In which potentials are exact.
    """

    def __init__(self, thresholds: Tensor, negative: int, constant: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("thresholds", thresholds.to(dtype), persistent=False)
        self.register_buffer("constant", None if constant is None else constant.to(dtype), persistent=False)
        self.negative, self.dtype = negative, dtype
        self.register_memory("v", None)

    def rest(self, currents: Tensor, step_mode: str) -> Tensor:
        """Potentials before the first step."""
        one = currents if step_mode == "s" else currents[0]
        v = torch.zeros_like(one, dtype=self.dtype)
        return v if self.constant is None else v + self.constant.reshape(1, -1, *[1] * (v.ndim - 2))

    def integrate(self, v: Tensor, current: Tensor) -> Tensor:
        """Potentials after a step; integers where floats would not be exact."""
        return v + (current if v.is_floating_point() else current.to(v.dtype))

    def extra_repr(self) -> str:
        return f"levels={len(self.thresholds)}, negative={self.negative}, step_mode={self.step_mode}"

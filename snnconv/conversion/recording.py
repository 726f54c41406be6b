"""The ANN's side of the proof: its own forward in float64, with hooks on its quantizers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnconv.ann.weights import WeightQuantizer, set_plain_weight
from snnconv.errors import ConversionError
from snnconv.grids import Grid


@dataclass(frozen=True)
class Record:
    """What one call of a quantizer saw and gave.

    Attributes:
        z: Its input, float64.
        codes: Its output divided by the step, int8.
        grid: Its grid.
    """

    z: Tensor
    codes: Tensor
    grid: Grid

    def as_image(self) -> Record:
        """The same, where it is a sequence (N, C, L) as an image of one row, (N, C, 1, L)."""
        return Record(self.z.unsqueeze(2), self.codes.unsqueeze(2), self.grid) if self.codes.ndim == 3 else self

    def side(self, sign: int) -> Record:
        """The codes of one sign alone: max(sign * codes, 0) of sign * z."""
        return Record(sign * self.z, (sign * self.codes).clamp(min=0), self.grid.side(sign))


class Recorder:
    """A float64 copy of a trained network that records its quantizers' codes.

    Weight quantizers are evaluated once, in the precision they were trained in, so that the copy
    computes with exactly the trained weights.

    Args:
        model: The trained network; it is left as it was.
        device: Where to compute.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = frozen_copy(model).double().to(device).eval()
        self.records: dict[tuple[str, int], Record] = {}
        self._calls: dict[str, int] = {}
        for path, module in self.model.named_modules():
            grid = getattr(module, "grid", None)
            if isinstance(grid, Grid):
                module.register_forward_hook(self._hook(path, grid))

    @torch.no_grad()
    def run(self, x: Tensor) -> Tensor:
        """Logits, float64, of a batch; ``records`` then holds its codes by (path, call).

        Raises:
            ConversionError: the network does not take such images, or a quantizer leaves its grid.
        """
        self.records.clear()
        self._calls.clear()
        try:
            logits: Tensor = self.model(x.double())
        except RuntimeError as error:
            raise ConversionError(
                f"the ANN does not take images of shape {list(x.shape[1:])}: {str(error).splitlines()[0]}"
            ) from error
        return logits

    def _hook(self, path: str, grid: Grid) -> Any:
        def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            exact = output / grid.step
            codes = exact.round()
            if not torch.allclose(exact, codes, rtol=0, atol=1e-6):
                raise ConversionError(f"quantizer {path} gives values that are no multiples of its step {grid.step}")
            if bool(((codes < -grid.negative) | (codes > grid.positive)).any()):
                raise ConversionError(
                    f"quantizer {path} gives codes outside {-grid.negative}..{grid.positive}, the ends of its grid"
                )
            call = self._calls.get(path, 0)
            self._calls[path] = call + 1
            self.records[path, call] = Record(inputs[0], codes.to(torch.int8), grid)

        return record


def frozen_copy(model: nn.Module) -> nn.Module:
    """Copy of a network whose quantized weights are plain ones, of the values they have now.

    Weights that are exact in float64 only are of this type.
    """
    frozen = copy.deepcopy(model)
    for module in frozen.modules():
        if parametrize.is_parametrized(module, "weight"):
            chain = cast(parametrize.ParametrizationList, cast(nn.ModuleDict, module.parametrizations)["weight"])
            if isinstance(chain[0], WeightQuantizer) and chain[0].wide:
                chain.double()
            set_plain_weight(module, cast(Tensor, module.weight).detach().clone())
    return frozen

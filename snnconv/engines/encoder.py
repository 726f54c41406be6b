"""The encoder in float32, decided again in float64 wherever float32 might be wrong.

For an encoder of one convolution on an evenly spaced grid the code is

    floor(clamp(y, 1/2, L + 1/2)) - negative ,     y = (z - first boundary) / spacing + 1

y is one float32 convolution with folded weights w and bias b. Its rounding is at most

    E = 2^-23 (fan_in + 4) (max sum |w| * max |x| + max |b|)

so units whose y lies nearer than E to an integer, a few in ten thousand, are computed again in float64:
there the closed side of a boundary counts, nowhere else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snnconv.snn.layers import Branch, Encoder
from snnconv.snn.synapses import Conv2dSynapse

CHUNK = 2**18
"""Units computed at a time, so that the passes over them stay in the cache."""


class FastEncoder:
    """Counts of an encoder, equal to its plain forward.

    Args:
        encoder: One for which ``fits`` holds.
    """

    def __init__(self, encoder: Encoder) -> None:
        branch, grid = _only_branch(encoder), encoder.grid
        assert branch is not None
        synapse = branch.synapse
        assert isinstance(synapse, Conv2dSynapse)
        self.encoder, self.branch, self.grid, self.synapse = encoder, branch, grid, synapse
        spacing = grid.spacing
        factor = branch.scale / (branch.divisor * spacing)
        weight = self.synapse.weight.double() * factor.reshape(-1, 1, 1, 1)
        bias = (branch.offset - grid.boundaries[0]) / spacing + 1
        self.weight = weight.float().contiguous(memory_format=torch.channels_last)
        self.bias = bias.float()
        unit = 2.0**-23 * (self.synapse.fan_in + 4)
        self._relative = unit * float(weight.abs().flatten(1).sum(1).max())
        self._absolute = unit * float(bias.abs().max())

    @staticmethod
    def fits(encoder: Encoder) -> bool:
        """Whether the encoder is one plain convolution on an evenly spaced grid."""
        branch = _only_branch(encoder)
        if branch is None or not isinstance(branch.synapse, Conv2dSynapse):
            return False
        left, right, top, bottom = branch.synapse.padding
        plain = branch.synapse.groups == 1 and branch.synapse.dilation == (1, 1) and branch.synapse.channels is None
        return plain and (left, top) == (right, bottom) and encoder.grid.spacing > 0

    def __call__(self, x: Tensor) -> Tensor:
        """Counts, float32 (N, C, H, W), of analog inputs."""
        error = self._relative * float(x.abs().max()) + self._absolute
        if not error < 0.25:
            counts: Tensor = self.encoder(x)
            return counts.float()
        units = math.prod(self.synapse.out_shape(tuple(x.shape[1:])))
        chunks = torch.split(x.float(), max(1, CHUNK // units))
        return torch.cat([self._chunk(chunk, error) for chunk in chunks])

    def _chunk(self, x: Tensor, error: float) -> Tensor:
        y = self.synapse.connect(x, self.weight, self.bias).clamp_(0.5, self.grid.levels + 0.5)
        counts = y.floor()
        near = (y.sub_(0.5).sub_(counts).abs_() > 0.5 - error).nonzero()
        if len(near):
            counts[tuple(near.T)] = self._decide(x, near) + self.grid.negative
        return counts.sub_(self.grid.negative) if self.grid.negative else counts

    def _decide(self, x: Tensor, places: Tensor) -> Tensor:
        """Counts of single units, decided in float64; places are rows of (image, channel, row, column)."""
        image, channel, row, column = places.T
        left, _, top, _ = self.synapse.padding
        down, right = self.synapse.stride
        high, wide = self.synapse.weight.shape[2:]
        padded = torch.nn.functional.pad(x, (left, left, top, top))
        patches = padded.unfold(2, high, down).unfold(3, wide, right)[image, :, row, column].double()
        potential = (patches * self.synapse.weight[channel].double()).sum((1, 2, 3))
        z = self.branch.scale[channel] * potential / self.branch.divisor + self.branch.offset[channel]
        return self.encoder.decide(z).float()


def _only_branch(encoder: Encoder) -> Branch | None:
    """The encoder's branch, where that is all it has."""
    branch = encoder.stages[0].branch if len(encoder.stages) == 1 else None
    return branch if branch is not None and branch.synapse.weight.ndim == 4 else None

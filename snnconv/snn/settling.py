"""When net counts become the codes: an observer of trains beside the ladder's counts of the same images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnconv.processes import Group
from snnconv.snn.network import SpikingNetwork


def rescaled(count: Tensor, levels: int, t: int) -> Tensor:
    """Code that a count of spikes over t steps stands for: round(count * L / t), halves up; int32.

    Args:
        count: Integers, 0 or more.
        levels: L.
        t: Steps.
    """
    return (2 * levels * count.to(torch.int32) + t) // (2 * t)


class Settling:
    """Compares, unit by unit and step by step, net counts with codes; give ``tap`` to a temporal network.

    Args:
        network: The network.
        steps: T.
        rate: Whether counts are compared ``rescaled``, else as they are.
    """

    def __init__(self, network: SpikingNetwork, steps: int, rate: bool) -> None:
        self.steps, self.rate = steps, rate
        self.grids = {name: layer.grid for name, layer in network.units()}
        self.units = {name: torch.Size(network.nodes[name].shape).numel() for name in self.grids}
        self.images = 0
        self.mismatches: dict[str, NDArray[np.int64]] = {name: np.zeros(steps, np.int64) for name in self.grids}
        """Units that differ after each step, over all images, by layer."""
        self._settled: dict[str, list[Tensor]] = {name: [] for name in self.grids}
        self._codes: Mapping[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def expect(self, codes: Mapping[str, Tensor]) -> None:
        """Begin a batch whose codes these are, by layer."""
        self._codes, self._counts = codes, {}
        images = len(next(iter(codes.values())))
        self.images += images
        for settled in self._settled.values():
            settled.append(torch.ones(images, dtype=torch.int64))

    def tap(self, name: str, counts: Tensor, step: int) -> Tensor:
        """Add what a layer sends in one step; returns it as it is."""
        if name in self._codes:
            before = self._counts.get(name)
            net = counts.to(torch.int16) if before is None else before + counts
            self._counts[name] = net
            said = rescaled(net, self.grids[name].levels, step + 1) if self.rate else net
            wrong = (said != self._codes[name]).flatten(1).sum(1).cpu()
            self.mismatches[name][step] += int(wrong.sum())
            self._settled[name][-1][wrong > 0] = step + 2
        return counts

    def merge(self, group: Group) -> None:
        """Put together what several processes have compared; in every process."""
        parts = group.gather((self.images, self.mismatches, self._settled))
        self.images = sum(images for images, _, _ in parts)
        for name in self.grids:
            self.mismatches[name] = np.sum([mismatches[name] for _, mismatches, _ in parts], axis=0)
            self._settled[name] = [batch for _, _, settled in parts for batch in settled[name]]

    def settled(self, name: str | None = None) -> Tensor:
        """For each image the t from which all units of a layer, or of all layers, are right for good, int64 (images,);
        T + 1 where they are not after T steps."""
        if name is not None:
            return torch.cat(self._settled[name])
        return torch.stack([self.settled(own) for own in self._settled]).amax(0)

    def exact_from(self, name: str | None = None) -> int | None:
        """The t from which every unit of a layer, or of all, is right on every image; None where some never are."""
        last = int(self.settled(name).max())
        return last if last <= self.steps else None

    def exact_images(self, t: int, name: str | None = None) -> float:
        """Share of images on which they are right for good from t on."""
        return float((self.settled(name) <= t).double().mean())

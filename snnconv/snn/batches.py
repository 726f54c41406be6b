"""Batches of images as a network takes them; kept in memory, with what the encoders send, where a run repeats them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from snnconv.data.preprocessing import prepare
from snnconv.data.sets import ImageSet
from snnconv.processes import ALONE, Group
from snnconv.snn.network import SpikingNetwork

ROOM = 2**30
"""Memory that kept batches may take [bytes]."""


@dataclass
class Prepared:
    """One batch.

    Attributes:
        indices: int64 (n,), the place of each image in its split.
        x: Preprocessed images (n, ...).
        labels: int64 (n,).
        encoded: By encoder the counts, int8, that it sends without noise, once known.
        kept: Whether the batch comes again.
    """

    indices: Tensor
    x: Tensor
    labels: Tensor
    encoded: dict[str, Tensor] = field(default_factory=dict)
    kept: bool = False


class Batches:
    """An image set's batches, in order, as often as one iterates; of several processes each has some of them, whole.

    Args:
        images: Pixels and labels, of all processes.
        network: Whose preprocessing and device they are made for.
        size: Images a batch.
        repeats: Whether to keep the batches, where ``ROOM`` holds them, so that preprocessing and encoders run once.
        group: The processes that share them.

    Attributes:
        numbers: Which of all batches are this process's.
    """

    def __init__(
        self, images: ImageSet, network: SpikingNetwork, size: int, repeats: bool = False, group: Group = ALONE
    ) -> None:
        self.images, self.network, self.size = images, network, size
        self.numbers = group.share(-(-len(images) // size))
        units = sum(torch.Size(network.nodes[name].shape).numel() for name in network.encoders)
        an_image = units + 4 * torch.Size(network.header.shape).numel()
        self._keeps = repeats and an_image * len(images) <= ROOM
        self._kept: list[Prepared] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Prepared]:
        if self._kept is not None:
            yield from self._kept
            return
        if not self.numbers:
            return
        batches = []
        for pixels, labels, indices in self._own().batches(self.size):
            x = prepare(pixels.to(self.network.device), self.network.header.preprocessing)
            batch = Prepared(indices, x, labels, kept=self._keeps)
            yield batch
            if self._keeps:
                batches.append(batch)
        if self._keeps:
            self._kept = batches

    def _own(self) -> ImageSet:
        """The images of this process's batches."""
        first, last = self.numbers.start * self.size, min(self.numbers.stop * self.size, len(self.images))
        return self.images if last - first == len(self.images) else self.images.take(torch.arange(first, last))

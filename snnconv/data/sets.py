"""What every image set offers: its facts, its images in order, and shuffled ones to train on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from snnconv.config import Augmentation
from snnconv.errors import ConfigError, DataError
from snnconv.processes import ALONE, Group


class Batch(NamedTuple):
    """Some images in order: pixels uint8 (n, C, H, W), labels int64 (n,), and indices int64 (n,), their places in
    the split, by which noise and augmentation are drawn."""

    pixels: Tensor
    labels: Tensor
    indices: Tensor


class ImageSet(ABC):
    """Labelled images of one split, in memory or in files.

    Attributes:
        name: Data set, such as ``mnist``.
        split: ``train``, ``test`` or ``validation``.
        classes: Number of classes.
    """

    name: str
    split: str
    classes: int

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images that ``batches`` gives."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, which: int | Sequence[int] | Tensor, split: str | None = None) -> Self:
        """Images at the rows given, or the first so many; as a split of that name, or of the same.

        Raises:
            ConfigError: fewer than 1 or more than there are.
        """

    @abstractmethod
    def batches(self, size: int) -> Iterator[Batch]:
        """All images in order, ``size`` at a time."""

    @abstractmethod
    def shuffled(
        self,
        seed: int,
        epoch: int,
        size: int,
        settings: Augmentation,
        device: torch.device,
        group: Group = ALONE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """``steps(size)`` batches to train on: pixels (n, C, H, W), changed as ``settings`` say, and labels.

        Order and changes are functions of (seed, epoch), so that a resumed training sees the same. Of each batch a
        process of several gets its share; the shares put together are the batch that one process gets.
        """

    def steps(self, size: int) -> int:
        """Batches an epoch: whole ones only, but one at least."""
        return max(1, len(self) // size)

    def rows(self, which: int | Sequence[int] | Tensor) -> Tensor:
        """Row numbers of what ``take`` is asked for."""
        if not isinstance(which, int):
            return torch.as_tensor(which)
        if not 1 <= which <= len(self):
            raise ConfigError(f"{self.name} ({self.split}) has {len(self)} images: {which} cannot be taken")
        return torch.arange(which)


def require_images(images: object) -> None:
    """Refuse what is no image set, such as a tensor.

    Raises:
        DataError: with how to make one.
    """
    if not isinstance(images, ImageSet):
        raise DataError(
            f"images must be a snnconv.Images, not a {type(images).__name__}: open a data set with "
            "snnconv.load_images('mnist', 'test'), or make one of tensors, pixels uint8 (N, C, H, W) and labels int64 "
            "(N,), with snnconv.Images('mine', 'test', pixels, labels, classes)"
        )

"""Image sets by name: where their files lie, and what comes out of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnconv.config import Augmentation, Preprocessing
from snnconv.data.augmentation import augment
from snnconv.data.cifar import CIFAR10_FILES, CIFAR100_FILES, read_cifar
from snnconv.data.digits import make_digits
from snnconv.data.download import DATA_OPTIONS, fetch
from snnconv.data.folders import FOLDERS, class_names, open_folder
from snnconv.data.idx import read_idx_pair
from snnconv.data.sets import Batch, ImageSet
from snnconv.errors import ConfigError, DataError
from snnconv.processes import ALONE, Group

Split = Literal["train", "test"]
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
Set = TypeVar("Set", bound=ImageSet)


@dataclass(frozen=True, eq=False)
class Images(ImageSet):
    """Labelled images of one split, in memory.

    Attributes:
        name: Data set, such as ``mnist``.
        split: ``train``, ``test`` or ``validation``.
        pixels: uint8, (N, C, H, W), 0..255.
        labels: int64, (N,), 0 .. classes - 1.
        classes: Number of classes.
        indices: int64, (N,), the place of each image in its split; noise is drawn by it.
    """

    name: str
    split: str
    pixels: Tensor
    labels: Tensor
    classes: int
    indices: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def __post_init__(self) -> None:
        if not len(self.indices):
            object.__setattr__(self, "indices", torch.arange(len(self.pixels)))
        where = f"{self.name} ({self.split})"
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            got = f"{self.pixels.dtype} {tuple(self.pixels.shape)}"
            raise DataError(f"{where}: pixels must be uint8 of shape (N, C, H, W), not {got}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.pixels.shape[:1] or not len(self.labels):
            got = f"{self.labels.dtype} {tuple(self.labels.shape)} for {len(self.pixels)} images"
            raise DataError(f"{where}: labels must be int64, one an image and at least one, not {got}")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.classes:
            raise DataError(f"{where}: labels must lie in 0..{self.classes - 1}, not {low}..{high}")

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: int | Sequence[int] | Tensor, split: str | None = None) -> Images:
        rows = self.rows(which).to(self.labels.device)
        part = replace(self, pixels=self.pixels[rows], labels=self.labels[rows], indices=self.indices[rows.cpu()])
        return part if split is None else replace(part, split=split)

    def batches(self, size: int) -> Iterator[Batch]:
        for first in range(0, len(self), size):
            which = slice(first, first + size)
            yield Batch(self.pixels[which], self.labels[which], self.indices[which])

    def shuffled(
        self,
        seed: int,
        epoch: int,
        size: int,
        settings: Augmentation,
        device: torch.device,
        group: Group = ALONE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        pixels, labels = self.pixels.to(device), self.labels.to(device)
        draws = torch.Generator(device).manual_seed((seed << 20) + epoch)
        order = torch.randperm(len(self), generator=draws, device=device)
        for step in range(self.steps(size)):
            rows = order[step * size : (step + 1) * size]
            changed = augment(pixels[rows], settings, draws)  # all of them: the draws are those of the whole batch
            yield group.part(changed), labels[group.part(rows)]


@dataclass(frozen=True)
class _Files:
    """How a set's files are looked for.

    Attributes:
        classes: Number of classes.
        image: (channels, height, width) of every image.
        folder: torchvision's folder for it; the set's own name and the data folder itself are looked at too.
        read: Reads a split from a folder, or returns None where its files are not all there.
        fashion: Whether the data folder must (True) or must not (False) say fashion in its name to be looked at itself.
    """

    classes: int
    image: tuple[int, int, int]
    folder: str
    read: Callable[[Path, Split], Arrays | None]
    fashion: bool | None = None


DATASETS: dict[str, _Files] = {
    "digits": _Files(10, (1, 28, 28), "", lambda _, split: make_digits(split)),
    "mnist": _Files(10, (1, 28, 28), "MNIST/raw", read_idx_pair, fashion=False),
    "fashion-mnist": _Files(10, (1, 28, 28), "FashionMNIST/raw", read_idx_pair, fashion=True),
    "cifar10": _Files(
        10, (3, 32, 32), "cifar-10-batches-py", lambda folder, split: read_cifar(folder, CIFAR10_FILES, split)
    ),
    "cifar100": _Files(
        100, (3, 32, 32), "cifar-100-python", lambda folder, split: read_cifar(folder, CIFAR100_FILES, split)
    ),
}


def load_images(
    dataset: str,
    split: Split,
    data_dir: str | Path | None = None,
    download: bool = True,
    preprocessing: Preprocessing | None = None,
    workers: int | None = None,
) -> ImageSet:
    """Open a split of a data set, downloading it first where no file of it is found.

    Args:
        dataset: ``digits`` (made from scikit-learn's), ``mnist``, ``fashion-mnist``, ``cifar10`` or ``cifar100``, held
            in memory; ``imagenet``, or ``folder`` for images of one's own, read from files that are never downloaded.
        split: ``train`` or ``test``.
        data_dir: Folder to look in; None takes ``$SNNCONV_DATA``, or ``data`` in the working directory. The files lie
            in it, in a folder of the set's name, or in torchvision's layout; see ``open_folder`` for image files.
        download: False raises instead of downloading.
        preprocessing: How image files are resized and cropped; sets in memory are left as they are.
        workers: Processes that read image files, see ``ImageFolder``.

    Raises:
        ConfigError: an unknown data set or split, or image files without a crop.
        DataError: a data folder that is not there, or files that are damaged, or missing and not to be had.
    """
    if split not in ("train", "test"):
        raise ConfigError(f"unknown split {split!r}: train and test are known")
    image_facts(dataset)
    folder = data_folder(data_dir)
    if dataset in FOLDERS:
        return open_folder(dataset, split, folder, preprocessing or Preprocessing(), workers)
    files = DATASETS[dataset]
    arrays = _find(dataset, split, files, folder)
    if arrays is None and download:
        fetch(dataset, folder)
        arrays = _find(dataset, split, files, folder)
    if arrays is None:
        places = f"{folder}, {folder / dataset} or {folder / files.folder}"
        raise DataError(
            f"{dataset} ({split}) is not there: put its files into {places}, or name another folder with {DATA_OPTIONS}"
        )
    pixels, labels = arrays
    return Images(dataset, split, torch.from_numpy(pixels), torch.from_numpy(labels), files.classes)


def data_folder(data_dir: str | Path | None) -> Path:
    """Folder of the data sets: the one given, ``$SNNCONV_DATA``, or ``data`` in the working directory.

    Raises:
        DataError: a folder that was named and is not there; ``data`` is made where a set is downloaded.
    """
    named = os.environ.get("SNNCONV_DATA") if data_dir is None else data_dir
    if named and not Path(named).is_dir():
        raise DataError(f"there is no data folder {named}: make it, or name another with {DATA_OPTIONS}")
    return Path(named or "data")


def image_facts(dataset: str) -> tuple[tuple[int, int, int] | None, int | None]:
    """Shape (channels, height, width) of a data set's images, and its number of classes; reads no file.

    The shape is None where the preprocessing makes it, the number of classes where the files do.

    Raises:
        ConfigError: an unknown data set.
    """
    if dataset in FOLDERS:
        return None, FOLDERS[dataset].classes
    if dataset not in DATASETS:
        raise ConfigError(f"unknown data set {dataset!r}: {', '.join([*DATASETS, *FOLDERS])} are known")
    return DATASETS[dataset].image, DATASETS[dataset].classes


def class_count(dataset: str, data_dir: str | Path | None = None) -> int | None:
    """Number of classes that the folders of a set show; None where the set fixes it itself.

    Raises:
        ConfigError: an unknown data set.
        DataError: folders that are missing or do not belong together.
    """
    fixed = image_facts(dataset)[1]
    return len(class_names(dataset, "train", data_folder(data_dir))) if fixed is None else None


def hold_out(images: Set, number: int, seed: int) -> tuple[Set, Set]:
    """Split off a validation set: ``(the rest, number images drawn without replacement)``, both in file order.

    Raises:
        ConfigError: a number below 1, or one that leaves nothing to train on.
    """
    if not 1 <= number < len(images):
        raise ConfigError(
            f"{images.name} has {len(images)} images to train on: validation (= {number}) must be 1..{len(images) - 1}"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held = images.take(order[:number].sort().values, split="validation")
    return images.take(order[number:].sort().values), held


def _find(dataset: str, split: Split, files: _Files, folder: Path) -> Arrays | None:
    bare = folder.resolve()
    says_fashion = "fashion" in (bare.parent.name if bare.name == "raw" else bare.name).lower()
    takes_bare = files.fashion is None or files.fashion == says_fashion
    for place in [*([folder] if takes_bare else []), folder / dataset, folder / files.folder]:
        arrays = files.read(place, split)
        if arrays is not None:
            return arrays
    return None

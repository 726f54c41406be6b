"""Image sets in folders: a sub-folder a class, files read when they are needed, by several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from snnconv.config import Augmentation, Preprocessing
from snnconv.data.decoding import central_image, drawn_image, draws_of
from snnconv.data.download import DATA_OPTIONS
from snnconv.data.sets import Batch, ImageSet
from snnconv.errors import ConfigError, DataError
from snnconv.processes import ALONE, Group

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
MOST_WORKERS = 16
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """How the folders of a set are called.

    Attributes:
        classes: Number of classes; None takes what the folders show.
        places: Where ``train`` and the test folder are looked for, below the data folder.
        test: Names of the test folder, the first that is there.
    """

    classes: int | None
    places: tuple[str, ...]
    test: tuple[str, ...]


FOLDERS: dict[str, Layout] = {
    "imagenet": Layout(1000, ("imagenet", "."), ("val",)),
    "folder": Layout(None, (".",), ("test", "val")),
}
"""Sets of image files. ImageNet's own ``test`` has no labels; papers report on the 50,000 images of ``val``."""


@dataclass(frozen=True, eq=False)
class ImageFolder(ImageSet):
    """Labelled image files of one split. Only their names are held in memory.

    Attributes:
        name: Data set.
        split: ``train``, ``test`` or ``validation``.
        classes: Number of classes.
        root: Folder of the split.
        files: Names below it, (N,), as bytes of one width: an array that processes share.
        labels: int64, (N,), the place of each file's folder among the class folders.
        indices: int64, (N,), the place of each file in its split.
        settings: Resize and crop of every image.
        workers: Processes that read files; 0 reads them in this one.
    """

    name: str
    split: str
    classes: int
    root: Path
    files: NDArray[np.bytes_]
    labels: Tensor
    indices: Tensor
    settings: Preprocessing
    workers: int

    @property
    def shape(self) -> tuple[int, int, int]:
        assert self.settings.crop is not None
        return 3, self.settings.crop, self.settings.crop

    def __len__(self) -> int:
        return len(self.files)

    def take(self, which: int | Sequence[int] | Tensor, split: str | None = None) -> ImageFolder:
        rows = self.rows(which)
        part = {"files": self.files[rows.numpy()], "labels": self.labels[rows], "indices": self.indices[rows]}
        return replace(self, split=split or self.split, **part)

    def paths(self) -> Iterator[Path]:
        """The files, in order."""
        return (self.root / os.fsdecode(name) for name in self.files)

    def batches(self, size: int) -> Iterator[Batch]:
        rows = np.arange(len(self))
        yield from self._read(_Reader(self), [rows[first : first + size] for first in range(0, len(self), size)])

    def shuffled(
        self,
        seed: int,
        epoch: int,
        size: int,
        settings: Augmentation,
        device: torch.device,
        group: Group = ALONE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed((seed << 20) + epoch))
        reader, pin = _Reader(self, settings, seed, epoch), device.type == "cuda"
        batches = [group.part(order[step * size : (step + 1) * size]) for step in range(self.steps(size))]
        for batch in self._read(reader, [rows.numpy() for rows in batches], pin):
            yield batch.pixels.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)

    def _read(self, reader: _Reader, batches: list[Rows], pin: bool = False) -> Iterator[Batch]:
        """Batches of rows, read ahead by the workers."""
        loader: DataLoader[Batch | str] = DataLoader(
            reader,
            batch_size=None,
            sampler=batches,
            num_workers=min(self.workers, len(batches)),
            collate_fn=_as_it_is,
            pin_memory=pin,
            generator=torch.Generator(),  # torch's own is left as it was
        )
        try:
            for batch in loader:
                if isinstance(batch, str):
                    raise DataError(batch)
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a process that reads {self.root} ended ({str(error).splitlines()[0]}): take fewer with --workers"
            ) from error


@dataclass
class _Reader(Dataset["Batch | str"]):
    """Reads the files of some rows, in whatever process it finds itself; a refusal comes back as its sentence."""

    images: ImageFolder
    changes: Augmentation | None = None
    seed: int = 0
    epoch: int = 0

    def __getitem__(self, rows: Rows) -> Batch | str:
        images = self.images
        try:
            pixels = torch.stack([self._image(int(row)) for row in rows])
        except DataError as error:
            return str(error)
        return Batch(pixels, images.labels[rows], images.indices[rows])

    def _image(self, row: int) -> Tensor:
        images = self.images
        path = images.root / os.fsdecode(images.files[row])
        if self.changes is None:
            return central_image(path, images.settings)
        draws = draws_of(self.seed, self.epoch, int(images.indices[row]))
        return drawn_image(path, images.settings, self.changes, draws)


def open_folder(
    dataset: str, split: Literal["train", "test"], folder: Path, settings: Preprocessing, workers: int | None = None
) -> ImageFolder:
    """Find the files of a split: ``<folder>/train/<class>/*.JPEG``, and ``val`` (or ``test``) beside ``train``.

    ImageNet may lie in ``<folder>/imagenet`` as well. Files and classes are sorted by name, so that labels and
    indices are the same everywhere; hidden files and those that are no images by their suffix are passed over.

    Args:
        dataset: ``imagenet`` or ``folder``.
        split: ``train`` or ``test``.
        folder: Folder of the data sets.
        settings: Resize and crop, which make images of one size.
        workers: Processes that read files; 0 reads them in this one, None takes one a core but one, at most 16.

    Raises:
        ConfigError: no crop, or a negative number of workers.
        DataError: a missing or empty folder, other classes in the other split, or another number of them.
    """
    if settings.crop is None:
        raise ConfigError(
            f"the images of {dataset} have sizes of their own: set preprocessing.crop, and resize where they are to "
            "be brought to a size before"
        )
    if workers is not None and workers < 0:
        raise ConfigError(f"workers (= {workers}) must be 0 or more")
    root = _split_folder(dataset, split, folder)
    names = class_names(dataset, split, folder)
    files = [_image_names(root / name) for name in names]
    labels = torch.arange(len(names)).repeat_interleave(torch.tensor([len(part) for part in files]))
    count = _cores() - 1 if workers is None else workers
    return ImageFolder(
        name=dataset,
        split=split,
        classes=len(names),
        root=root,
        files=np.concatenate(files),
        labels=labels,
        indices=torch.arange(len(labels)),
        settings=settings,
        workers=min(count, MOST_WORKERS) if workers is None else count,
    )


def class_names(dataset: str, split: Literal["train", "test"], folder: Path) -> list[str]:
    """The classes of a set: names of the sub-folders of a split, sorted.

    Raises:
        DataError: see ``open_folder``.
    """
    root = _split_folder(dataset, split, folder)
    names = _subfolders(root)
    expected = FOLDERS[dataset].classes
    if expected is not None and len(names) != expected:
        raise DataError(f"{root} has {len(names)} class folders; {dataset} has {expected}")
    if len(names) < 2:
        found = "one class folder" if names else "no class folders"
        raise DataError(f"{root} has {found}: put the images of each class into a folder of its own")
    for other in _candidates(dataset, "test" if split == "train" else "train", folder):
        if other.parent == root.parent and other.is_dir():
            if odd := sorted(set(names) ^ set(_subfolders(other))):
                raise DataError(f"{root} and {other} have different classes: {odd[0]} is in only one of the two")
            break
    return names


def _candidates(dataset: str, split: Literal["train", "test"], folder: Path) -> list[Path]:
    layout = FOLDERS[dataset]
    parts = ("train",) if split == "train" else layout.test
    return [folder / place / part for place in layout.places for part in parts]


def _split_folder(dataset: str, split: Literal["train", "test"], folder: Path) -> Path:
    places = _candidates(dataset, split, folder)
    for place in places:
        if place.is_dir():
            return place
    raise DataError(
        f"{dataset} ({split}) is not there: put the images of each class into {places[0]}/<class> (nothing is "
        f"downloaded for it), or name another folder with {DATA_OPTIONS}"
    )


def _subfolders(root: Path) -> list[str]:
    return sorted(entry.name for entry in _shown(root) if entry.is_dir())


def _shown(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder, but for hidden files."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def _image_names(folder: Path) -> NDArray[np.bytes_]:
    """Names of the images of a class, below the split's folder, sorted."""
    entries = (entry for entry in _shown(folder) if entry.is_file())
    names = sorted(entry.name for entry in entries if Path(entry.name).suffix.lower() in SUFFIXES)
    if not names:
        raise DataError(f"{folder} has no images ({', '.join(sorted(SUFFIXES))}): a class needs one at least")
    return np.array([os.fsencode(f"{folder.name}/{name}") for name in names])


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _as_it_is(batch: Any) -> Any:
    return batch

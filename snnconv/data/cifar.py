"""The Python batches of CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from snnconv.data.pickles import load_restricted
from snnconv.errors import DataError

_VALUES = 3 * 32 * 32
_CURE = "put a whole copy in its place, or delete it to have it downloaded again"


@dataclass(frozen=True)
class CifarFiles:
    """Files of a set.

    Attributes:
        train: Batches of the training split.
        test: Batches of the test split.
        labels: Entry of a batch that holds the labels.
        classes: Number of classes.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str
    classes: int


CIFAR10_FILES = CifarFiles(tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",), "labels", 10)
CIFAR100_FILES = CifarFiles(("train",), ("test",), "fine_labels", 100)


def read_cifar(
    folder: Path, files: CifarFiles, split: Literal["train", "test"]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Read images (N, 3, 32, 32) and labels (N,), or None where a batch is missing.

    Raises:
        DataError: a batch that is damaged, or a pickle that asks for anything but arrays.
    """
    batches = [folder / name for name in (files.train if split == "train" else files.test)]
    if not all(batch.is_file() for batch in batches):
        return None
    pixels, labels = zip(*(_read_batch(batch, files) for batch in batches), strict=True)
    return np.concatenate(pixels).reshape(-1, 3, 32, 32), np.concatenate(labels)


def _read_batch(file: Path, files: CifarFiles) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        with file.open("rb") as stream:
            batch = load_restricted(stream)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): {_CURE}") from error
    except DataError as error:
        raise DataError(f"{file} is not a CIFAR batch: {error}; {_CURE}") from error
    entries = {_text(key): value for key, value in batch.items()} if isinstance(batch, dict) else {}
    pixels, labels = entries.get("data"), entries.get(files.labels)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_VALUES,):
        raise DataError(f"{file} is not a CIFAR batch: its data is not a uint8 array of shape (N, {_VALUES}); {_CURE}")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{file} is not a CIFAR batch: its {files.labels} are not a list of integers; {_CURE}")
    if len(labels) != len(pixels):
        raise DataError(f"{file} holds {len(labels)} labels for {len(pixels)} images: {_CURE}")
    if not all(0 <= label < files.classes for label in labels):
        raise DataError(f"{file} holds a label outside 0..{files.classes - 1}: {_CURE}")
    return np.asarray(pixels), np.array(labels, dtype=np.int64)


def _text(key: object) -> object:
    return key.decode("latin1") if isinstance(key, bytes) else key

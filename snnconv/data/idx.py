"""The idx format of MNIST and of the sets that copy it."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from snnconv.errors import DataError

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_UINT8 = 0x08
_GZIP = b"\x1f\x8b"
_CURE = "put a whole copy in its place, or delete it to have it downloaded again"


def read_idx_pair(folder: Path, split: Literal["train", "test"]) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Read images (N, 1, 28, 28) and labels (N,) of 10 classes, or None where one of the two files is missing.

    Raises:
        DataError: a file that is damaged, or two that do not belong together.
    """
    images_file, labels_file = (_existing(folder, name) for name in _FILES[split])
    if images_file is None or labels_file is None:
        return None
    images = read_idx(images_file, dimensions=3)
    labels = read_idx(labels_file, dimensions=1)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{images_file} holds images of {images.shape[1]}x{images.shape[2]} pixels, not 28x28: {_CURE}")
    if len(images) != len(labels):
        raise DataError(f"{labels_file} holds {len(labels)} labels for {len(images)} images: {_CURE}")
    if len(labels) and labels.max() > 9:
        raise DataError(f"{labels_file} holds the label {labels.max()}, above 9: {_CURE}")
    return images[:, None], labels.astype(np.int64)


def read_idx(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read one idx file of bytes, gzipped or not.

    The layout is 0, 0, 8 (uint8), the number of dimensions, each dimension as a big-endian uint32, then the values.

    Raises:
        DataError: another magic number, or more or fewer bytes than the header says.
    """
    content = _content(file)
    magic = bytes((0, 0, _UINT8, dimensions))
    start = 4 + 4 * dimensions
    if content[:4] != magic:
        raise DataError(
            f"{file} begins with {content[:4].hex() or 'nothing'}, not the idx magic {magic.hex()}: {_CURE}"
        )
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise DataError(f"{file} holds {len(content)} bytes instead of {expected}: {_CURE}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _content(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read ({error}): {_CURE}") from error


def _existing(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)

"""idx files, whole and damaged in every way that is looked for."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from snnconv.data.idx import read_idx, read_idx_pair
from snnconv.errors import DataError

IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(values: np.ndarray) -> bytes:
    """Header and values as the format's description has them."""
    return b"\x00\x00\x08" + bytes([values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()


def write_pair(folder: Path, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    (folder / IMAGES).write_bytes(idx(images))
    (folder / f"{LABELS}.gz").write_bytes(gzip.compress(idx(labels)))
    return images, labels


def test_a_pair_is_read_gzipped_or_not(tmp_path: Path) -> None:
    images, labels = write_pair(tmp_path)
    pair = read_idx_pair(tmp_path, "test")
    assert pair is not None
    assert pair[0].shape == (3, 1, 28, 28)
    assert np.array_equal(pair[0][:, 0], images)
    assert pair[1].dtype == np.int64
    assert pair[1].tolist() == labels.tolist()
    assert read_idx_pair(tmp_path, "train") is None


@pytest.mark.parametrize("missing", [IMAGES, f"{LABELS}.gz"])
def test_half_a_pair_is_none(tmp_path: Path, missing: str) -> None:
    write_pair(tmp_path)
    (tmp_path / missing).unlink()
    assert read_idx_pair(tmp_path, "test") is None


@given(values=arrays(np.uint8, array_shapes(max_dims=3)), packed=st.booleans())
def test_any_array_comes_back(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, packed: bool) -> None:
    file = tmp_path_factory.mktemp("idx") / "values"
    file.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    assert np.array_equal(read_idx(file, values.ndim), values)


@given(cut=st.integers(0, 39))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    content = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    assert len(content) == 40
    for cut_content in (content[:cut], gzip.compress(content, mtime=0)[:cut]):
        file = tmp_path_factory.mktemp("idx") / "cut"
        file.write_bytes(cut_content)
        with pytest.raises(DataError, match=r"cut (begins with|holds|cannot be read).*whole copy"):
            read_idx(file, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (idx(np.zeros(4, np.uint8)), "begins with 00000801, not the idx magic 00000803"),
        (b"\x00\x00\x0d\x03" + bytes(12), "begins with 00000d03"),  # floats
        (b"<!DOCTYPE html>", "begins with 3c21444f"),
        (b"", "begins with nothing"),
        (idx(np.zeros((1, 2, 2), np.uint8)) + b"\x00", "holds 21 bytes instead of 20"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "holds 16 bytes instead of"),
        (gzip.compress(b"12345", mtime=0)[:-6] + b"\x00" * 6, "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "values"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(file, 3)
    assert str(caught.value).startswith(f"{file} {reason}")
    assert "\n" not in str(caught.value)
    assert "whole copy" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "values", "reason"),
    [
        (f"{LABELS}.gz", np.zeros(2, np.uint8), "holds 2 labels for 3 images"),
        (f"{LABELS}.gz", np.array([0, 26, 1], np.uint8), "holds the label 26, above 9"),
        (IMAGES, np.zeros((3, 32, 28), np.uint8), "holds images of 32x28 pixels, not 28x28"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path: Path, file: str, values: np.ndarray, reason: str) -> None:
    write_pair(tmp_path)
    (tmp_path / file).write_bytes(idx(values))
    with pytest.raises(DataError) as caught:
        read_idx_pair(tmp_path, "test")
    assert str(caught.value).startswith(f"{tmp_path / file} {reason}")
